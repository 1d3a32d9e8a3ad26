//! What the guest has said it holds beyond the cumulative ACK (RFC 2018 §5, RFC 6675).
//!
//! Sorted ranges that neither overlap nor touch, all above `una`. The number of ranges is bounded;
//! one that finds no place is forgotten, which costs a needless retransmission at worst.

use super::seq::SequenceNumber as Seq;

/// Ranges kept; more holes than this in one window are not told apart.
const RANGES_MAX: usize = 32;
/// DupThresh of RFC 6675 §2.
const DUPLICATES: u32 = 3;

/// The ranges.
#[derive(Clone, Debug)]
pub(super) struct Scoreboard {
    ranges: [(Seq, Seq); RANGES_MAX],
    len: usize,
}

impl Scoreboard {
    pub(super) const fn new() -> Self {
        Self {
            ranges: [(Seq(0), Seq(0)); RANGES_MAX],
            len: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the first range begins at `una`, which an honest receiver's never does: it reneged
    /// (RFC 2018 §8).
    pub(super) fn begins_at(&self, una: Seq) -> bool {
        self.ranges()
            .first()
            .is_some_and(|&(left, _)| left.at_or_before(una))
    }

    /// Adds `[left, right)`, which must be below the highest sequence number sent. Returns the
    /// bytes that were not known before.
    pub(super) fn insert(&mut self, left: Seq, right: Seq) -> u32 {
        if !left.before(right) {
            return 0;
        }
        // Ranges first..last overlap or touch the new one.
        let first = self
            .ranges()
            .iter()
            .take_while(|&&(_, r)| r.before(left))
            .count();
        let touched = self.ranges()[first..]
            .iter()
            .take_while(|&&(l, _)| l.at_or_before(right))
            .count();
        if touched == 0 {
            if self.len == RANGES_MAX {
                return 0;
            }
            self.ranges.copy_within(first..self.len, first + 1);
            self.ranges[first] = (left, right);
            self.len += 1;
            return right.since(left);
        }
        let last = first + touched;
        let known: u32 = self.ranges[first..last]
            .iter()
            .map(|&(l, r)| r.since(l))
            .sum();
        let merged = (
            left.min(self.ranges[first].0),
            right.max(self.ranges[last - 1].1),
        );
        self.ranges[first] = merged;
        self.ranges.copy_within(last..self.len, first + 1);
        self.len -= touched - 1;
        merged.1.since(merged.0) - known
    }

    /// Forgets what the cumulative ACK covers.
    pub(super) fn advance(&mut self, una: Seq) {
        let covered = self
            .ranges()
            .iter()
            .take_while(|&&(_, r)| r.at_or_before(una))
            .count();
        self.ranges.copy_within(covered..self.len, 0);
        self.len -= covered;
        if let Some((left, _)) = self.ranges[..self.len].first_mut() {
            *left = left.max(una);
        }
    }

    /// Bytes held by the guest in `[from, to)`.
    pub(super) fn held_between(&self, from: Seq, to: Seq) -> u32 {
        self.ranges()
            .iter()
            .map(|&(left, right)| (left.max(from), right.min(to)))
            .filter(|&(left, right)| left.before(right))
            .map(|(left, right)| right.since(left))
            .sum()
    }

    /// The first byte at or after `from` that the guest does not hold, and where the next range
    /// begins, if one does.
    pub(super) fn hole(&self, from: Seq) -> (Seq, Option<Seq>) {
        let mut start = from;
        for &(left, right) in self.ranges() {
            if start.before(left) {
                return (start, Some(left));
            }
            start = start.max(right);
        }
        (start, None)
    }

    /// IsLost of RFC 6675 §4: enough above `seq` was received that it must be taken for lost.
    pub(super) fn is_lost(&self, seq: Seq, mss: u32) -> bool {
        let above = self.ranges().iter().filter(|&&(left, _)| seq.before(left));
        let (count, bytes) = above.fold((0, 0u32), |(count, bytes), &(left, right)| {
            (count + 1, bytes.saturating_add(right.since(left)))
        });
        count >= DUPLICATES || bytes > (DUPLICATES - 1) * mss
    }

    /// SetPipe of RFC 6675 §4: an estimate of the bytes in the network between `una` and `max`,
    /// where everything below `high_retransmitted` that was a hole has been sent again.
    pub(super) fn pipe(&self, una: Seq, max: Seq, high_retransmitted: Seq, mss: u32) -> u32 {
        let mut bytes_above: u32 = self
            .ranges()
            .iter()
            .fold(0, |sum, &(l, r)| sum.saturating_add(r.since(l)));
        let mut count_above = self.len as u32;
        let mut pipe = 0u32;
        let mut start = una;
        for &(left, right) in self.ranges() {
            if start.before(left) {
                let lost = count_above >= DUPLICATES || bytes_above > (DUPLICATES - 1) * mss;
                if !lost {
                    pipe += left.since(start);
                }
                let again = high_retransmitted.min(left);
                if start.before(again) {
                    pipe += again.since(start);
                }
            }
            bytes_above = bytes_above.saturating_sub(right.since(left));
            count_above -= 1;
            start = right;
        }
        if start.before(max) {
            pipe + max.since(start)
        } else {
            pipe
        }
    }

    fn ranges(&self) -> &[(Seq, Seq)] {
        &self.ranges[..self.len]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    fn board(ranges: &[(u32, u32)]) -> Scoreboard {
        let mut board = Scoreboard::new();
        for &(left, right) in ranges {
            board.insert(Seq(left), Seq(right));
        }
        board
    }

    fn listed(board: &Scoreboard) -> Vec<(u32, u32)> {
        board.ranges().iter().map(|&(l, r)| (l.0, r.0)).collect()
    }

    #[test]
    fn ranges_merge_where_they_touch() {
        let mut board = board(&[(10, 20), (30, 40), (50, 60)]);
        assert_eq!(board.insert(Seq(20), Seq(30)), 10);
        assert_eq!(listed(&board), [(10, 40), (50, 60)]);
        assert_eq!(board.insert(Seq(5), Seq(100)), 95 - 40);
        assert_eq!(listed(&board), [(5, 100)]);
        assert_eq!(board.insert(Seq(7), Seq(8)), 0);
        assert_eq!(board.insert(Seq(8), Seq(7)), 0);
    }

    #[test]
    fn a_full_board_forgets_new_ranges_but_still_merges() {
        let mut board = Scoreboard::new();
        for i in 0..RANGES_MAX as u32 {
            assert_eq!(board.insert(Seq(i * 10), Seq(i * 10 + 5)), 5);
        }
        assert_eq!(board.insert(Seq(5000), Seq(5001)), 0);
        assert_eq!(board.insert(Seq(5), Seq(10)), 5);
        assert_eq!(board.insert(Seq(5000), Seq(5001)), 1);
    }

    #[test]
    fn advance_cuts_and_holes_are_found() {
        let mut board = board(&[(10, 20), (30, 40)]);
        assert_eq!(board.hole(Seq(0)), (Seq(0), Some(Seq(10))));
        assert_eq!(board.hole(Seq(10)), (Seq(20), Some(Seq(30))));
        assert_eq!(board.hole(Seq(35)), (Seq(40), None));
        assert_eq!(board.held_between(Seq(15), Seq(32)), 7);
        board.advance(Seq(20));
        assert_eq!(listed(&board), [(30, 40)]);
        assert!(!board.begins_at(Seq(20)));
        assert!(board.begins_at(Seq(30)));
    }

    #[test]
    fn lost_by_three_ranges_or_by_more_than_two_segments() {
        // RFC 6675 §4, IsLost.
        assert!(!board(&[(10, 20), (30, 40)]).is_lost(Seq(0), 10));
        assert!(board(&[(10, 20), (30, 41)]).is_lost(Seq(0), 10));
        assert!(board(&[(10, 11), (12, 13), (14, 15)]).is_lost(Seq(0), 10));
        assert!(!board(&[(10, 11), (12, 13), (14, 15)]).is_lost(Seq(11), 10));
    }

    #[test]
    fn pipe_counts_what_is_neither_held_nor_lost() {
        let board = board(&[(10, 20), (30, 60)]);
        // Hole 0..10 is lost (40 above), hole 20..30 is lost (30 above), the tail is not.
        assert_eq!(board.pipe(Seq(0), Seq(70), Seq(0), 10), 10);
        // Retransmitted bytes count again.
        assert_eq!(board.pipe(Seq(0), Seq(70), Seq(10), 10), 20);
        // With a larger segment nothing is lost.
        assert_eq!(board.pipe(Seq(0), Seq(70), Seq(0), 1000), 30);
    }

    proptest! {
        /// Against a set of bytes: same content, sorted, apart, and the counts agree.
        #[test]
        fn behaves_like_a_set_of_bytes(
            base in any::<u32>(),
            ranges in prop::collection::vec((0u32..200, 0u32..40), 0..60),
            una in 0u32..200,
        ) {
            let mut board = Scoreboard::new();
            let mut set = [false; 300];
            for (left, len) in ranges {
                let new = (left..left + len).filter(|&i| !set[i as usize]).count() as u32;
                let added = board.insert(Seq(base) + left, Seq(base) + (left + len));
                prop_assert_eq!(added, new);
                set[left as usize..(left + len) as usize].fill(true);
            }
            board.advance(Seq(base) + una);
            set[..una as usize].fill(false);
            prop_assert_eq!(
                board.held_between(Seq(base), Seq(base) + 300),
                set.iter().filter(|&&held| held).count() as u32
            );
            for pair in board.ranges().windows(2) {
                prop_assert!(pair[0].1.before(pair[1].0));
            }
            let (hole, _) = board.hole(Seq(base) + una);
            let expected = (una..).find(|&i| i >= 300 || !set[i as usize]).unwrap();
            prop_assert_eq!(hole.since(Seq(base)), expected);
        }
    }
}

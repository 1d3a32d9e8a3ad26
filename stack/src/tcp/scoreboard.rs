//! What became of each piece in flight, once something is missing: the scoreboard of RFC 6675 §2
//! with the times of RFC 8985 §5.2.
//!
//! Runs without gaps cover everything from SND.UNA on that was sent. Each is *flying*, *held*
//! by the guest out of order (RFC 2018), or taken for *lost*; it was sent at one time, once or again:
//!
//! ```text
//!   una                                                          nxt
//!    │ lost │     held     │ flying, again │ held │   flying       │
//! ```
//!
//! Neighbours that are alike are one run. There are so many runs at most; a SACK block that would
//! need one more is not taken, and costs a needless retransmission at worst.

use alloc::vec::Vec;

use super::sent::SentTimes;
use super::seq::SequenceNumber as Seq;
use crate::time::Instant;

/// Runs kept: 4 KiB.
const RUNS_MAX: usize = 256;
/// DupThresh of RFC 6675 §2.
const DUPLICATES: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Flying,
    Held,
    Lost,
}

/// A piece that ends here, and begins where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// When it was sent last.
    at: Instant,
    end: Seq,
    status: Status,
    /// It was sent more than once.
    again: bool,
}

/// The one of the delivered pieces that was sent last (RFC 8985 §5.2, RACK.xmit_ts and
/// RACK.end_seq).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) at: Instant,
    pub(super) end: Seq,
}

/// What happens to a run that can't be cut, since there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uncut {
    /// It is changed as a whole: a run is thought to be sent again, or lost, of which only a part was.
    /// That costs time or bytes, but all of it arrives.
    Whole,
    /// It stays as it was: what is held of it must not be forgotten.
    Leave,
}

/// What an ACK or its SACK blocks brought that was not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) bytes: u32,
    /// Of what was sent once.
    pub(super) newest: Option<Newest>,
    /// Of what was sent more than once: which of the attempts arrived is not known.
    pub(super) newest_again: Option<Newest>,
    /// Something arrived that was sent once, and before something that had arrived already.
    pub(super) reordered: bool,
    /// Bytes arrived that were taken for lost and not sent again yet.
    pub(super) not_lost: u32,
}

impl Delivered {
    fn note(&mut self, run: &Run, bytes: u32, highest: Seq) {
        if run.status == Status::Held {
            return;
        }
        self.bytes += bytes;
        let slot = if run.again {
            &mut self.newest_again
        } else {
            self.reordered |= run.end.before(highest);
            &mut self.newest
        };
        let later = Newest {
            at: run.at,
            end: run.end,
        };
        if slot.is_none_or(|before| later.is_after(before)) {
            *slot = Some(later);
        }
        if run.status == Status::Lost && !run.again {
            self.not_lost += bytes;
        }
    }
}

impl Newest {
    /// Whether this was sent after `other` (RFC 8985 §6.2, RACK_sent_after).
    pub(super) fn is_after(self, other: Self) -> bool {
        self.at > other.at || (self.at == other.at && self.end.after(other.end))
    }
}

/// The runs.
#[derive(Clone, Debug)]
pub(super) struct Scoreboard {
    start: Seq,
    runs: Vec<Run>,
    flying: u32,
    lost: u32,
    /// The end of the highest that arrived (RACK.fack of RFC 8985 §5.3).
    highest: Seq,
}

impl Scoreboard {
    /// Everything from `start` on is in flight since `sent`.
    pub(super) fn new(start: Seq, sent: &SentTimes) -> Self {
        let mut board = Self {
            start,
            runs: Vec::new(),
            flying: 0,
            lost: 0,
            highest: start,
        };
        for (at, end) in sent.records() {
            board.push(at, end);
        }
        board
    }

    /// Bytes that are in the network, as far as is known.
    pub(super) fn flying(&self) -> u32 {
        self.flying
    }

    /// Bytes that are to be sent again.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// Whether nothing is lost, held or sent again, so that [`SentTimes`] can say it all.
    pub(super) fn is_plain(&self) -> bool {
        let plain = |run: &Run| run.status == Status::Flying && !run.again;
        self.runs.iter().all(plain)
    }

    /// Whether something above a hole arrived.
    pub(super) fn has_held(&self) -> bool {
        self.runs.iter().any(|run| run.status == Status::Held)
    }

    /// The times of what is in flight, if the board [is plain](Self::is_plain).
    pub(super) fn sent_times(&self) -> SentTimes {
        let mut sent = SentTimes::NONE;
        for run in &self.runs {
            sent.push(run.at, run.end);
        }
        sent
    }

    /// Whether the first byte that the guest misses is one that it said it holds: it reneged
    /// (RFC 2018 §8).
    pub(super) fn is_reneged(&self) -> bool {
        self.runs
            .first()
            .is_some_and(|run| run.status == Status::Held)
    }

    /// The first piece that is lost.
    pub(super) fn first_lost(&self) -> Option<(Seq, Seq)> {
        let lost = |run: &Run| run.status == Status::Lost;
        let first = self.runs.iter().position(lost)?;
        let start = match first {
            0 => self.start,
            _ => self.runs[first - 1].end,
        };
        let last = self.runs[first..]
            .iter()
            .take_while(|run| lost(run))
            .last()?;
        Some((start, last.end))
    }

    /// Whether what arrived above a hole is enough by its amount to take the hole for lost:
    /// DupThresh segments, as in RFC 6675 §4.
    pub(super) fn is_enough_held(&self, mss: u32) -> bool {
        let (mut count, mut bytes, mut start) = (0, 0u32, self.start);
        for run in &self.runs {
            if run.status == Status::Held {
                count += 1;
                bytes = bytes.saturating_add(run.end.since(start));
            }
            start = run.end;
        }
        count >= DUPLICATES || bytes > (DUPLICATES - 1) * mss
    }

    // What arrives

    /// The guest holds everything before `una`.
    pub(super) fn advance(&mut self, una: Seq) -> Delivered {
        let mut delivered = Delivered::default();
        let mut gone = 0;
        while let Some(run) = self.runs.get(gone).copied()
            && self.start.before(una)
        {
            let end = run.end.min(una);
            let bytes = end.since(self.start);
            delivered.note(&Run { end, ..run }, bytes, self.highest);
            match run.status {
                Status::Flying => self.flying -= bytes,
                Status::Lost => self.lost -= bytes,
                Status::Held => {}
            }
            self.start = end;
            gone += usize::from(end == run.end);
        }
        self.runs.drain(..gone);
        if self.runs.is_empty() {
            // A connection that rests gives the memory back.
            self.runs = Vec::new();
        }
        self.start = self.start.max(una);
        self.highest = self.highest.max(una);
        delivered
    }

    /// The guest holds these ranges, which are above SND.UNA and were sent.
    pub(super) fn hold(&mut self, ranges: &[(Seq, Seq)], delivered: &mut Delivered) {
        let highest = self.highest;
        for &(left, right) in ranges {
            self.hold_one(left, right, highest, delivered);
        }
    }

    fn hold_one(&mut self, left: Seq, right: Seq, highest: Seq, delivered: &mut Delivered) {
        let mut taken = 0;
        self.change(left, right, Uncut::Leave, |run, bytes| {
            if run.status != Status::Held {
                delivered.note(run, bytes, highest);
                *run = Run {
                    status: Status::Held,
                    at: Instant::ZERO,
                    again: false,
                    end: run.end,
                };
                taken += bytes;
            }
        });
        if taken > 0 {
            self.highest = self.highest.max(right);
        }
    }

    // What is sent

    /// What follows the last run, up to `end`, leaves at `at`.
    pub(super) fn push(&mut self, at: Instant, end: Seq) {
        let from = self.runs.last().map_or(self.start, |run| run.end);
        self.flying += end.since(from);
        let full = self.runs.len() >= RUNS_MAX;
        match self.runs.last_mut() {
            Some(last)
                if last.status == Status::Flying && !last.again && (last.at == at || full) =>
            {
                last.end = end;
                last.at = at;
            }
            _ => self.runs.push(Run {
                at,
                end,
                status: Status::Flying,
                again: false,
            }),
        }
    }

    /// `[left, right)` is sent again.
    pub(super) fn send_again(&mut self, now: Instant, left: Seq, right: Seq) {
        self.change(left, right, Uncut::Whole, |run, _| {
            if run.status != Status::Held {
                (run.status, run.at, run.again) = (Status::Flying, now, true);
            }
        });
    }

    // What is lost

    /// Takes everything for lost that was sent before `newest` by more than what is left of
    /// `patience_ns` (RFC 8985 §6.2, RACK_detect_loss): a piece is given that time since it
    /// was sent. Returns the bytes, and for how long the most patient of the others still waits.
    pub(super) fn detect(
        &mut self,
        now: Instant,
        newest: Newest,
        patience_ns: u64,
    ) -> (u32, Option<u64>) {
        let (mut lost, mut wait_ns) = (0, None);
        let mut start = self.start;
        for run in &mut self.runs {
            let sent = Newest {
                at: run.at,
                end: run.end,
            };
            if run.status == Status::Flying && newest.is_after(sent) {
                let age_ns = now.since(run.at).as_nanos() as u64;
                if age_ns >= patience_ns {
                    run.status = Status::Lost;
                    lost += run.end.since(start);
                } else {
                    wait_ns = wait_ns.max(Some(patience_ns - age_ns));
                }
            }
            start = run.end;
        }
        if lost > 0 {
            self.settle();
        }
        (lost, wait_ns)
    }

    /// Takes `[left, right)` for lost where it flies.
    pub(super) fn lose(&mut self, left: Seq, right: Seq) {
        self.change(left, right, Uncut::Whole, |run, _| {
            if run.status == Status::Flying {
                run.status = Status::Lost;
            }
        });
    }

    /// Believes nothing of what the guest said it holds.
    pub(super) fn forget_held(&mut self) {
        for run in &mut self.runs {
            if run.status == Status::Held {
                (run.status, run.again) = (Status::Lost, true);
            }
        }
        self.settle();
    }

    /// What was taken for lost and not sent again yet was not lost.
    pub(super) fn trust(&mut self) {
        for run in &mut self.runs {
            if run.status == Status::Lost {
                run.status = Status::Flying;
            }
        }
        self.settle();
    }

    // Runs

    /// Changes the runs in `[left, right)`, which are cut at its ends. Where that needs more runs
    /// than there may be, they are changed as a whole or left as they are.
    fn change(
        &mut self,
        left: Seq,
        right: Seq,
        otherwise: Uncut,
        mut with: impl FnMut(&mut Run, u32),
    ) {
        let (mut start, mut i) = (self.start, 0);
        let mut news = false;
        while let Some(run) = self.runs.get(i).copied()
            && start.before(right)
        {
            let (mut from, mut to) = (start.max(left), run.end.min(right));
            if !from.before(to) {
                start = run.end;
                i += 1;
                continue;
            }
            let cuts = usize::from(start.before(from)) + usize::from(to.before(run.end));
            if cuts > 0 && self.runs.len() + cuts > RUNS_MAX {
                match otherwise {
                    Uncut::Whole => (from, to) = (start, run.end),
                    Uncut::Leave => (from, to) = (run.end, run.end),
                }
            }
            let (before, after) = (start.before(from), to.before(run.end));
            start = run.end;
            i += 1;
            if from == to {
                continue;
            }
            let mut changed = Run { end: to, ..run };
            with(&mut changed, to.since(from));
            if changed == (Run { end: to, ..run }) {
                continue;
            }
            news = true;
            self.runs[i - 1] = changed;
            if after {
                self.runs.insert(i, run);
                i += 1;
            }
            if before {
                self.runs
                    .insert(i - 1 - usize::from(after), Run { end: from, ..run });
                i += 1;
            }
        }
        if news {
            self.settle();
        }
    }

    /// Puts neighbours that are alike together, and counts.
    fn settle(&mut self) {
        self.runs.dedup_by(|run, before| {
            let alike = Run {
                end: run.end,
                ..*before
            } == *run;
            if alike {
                before.end = run.end;
            }
            alike
        });
        (self.flying, self.lost) = (0, 0);
        let mut start = self.start;
        for run in &self.runs {
            let bytes = run.end.since(start);
            match run.status {
                Status::Flying => self.flying += bytes,
                Status::Lost => self.lost += bytes,
                Status::Held => {}
            }
            start = run.end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    /// A board of `[0, end)`, of which each piece ends and was sent at the time given.
    fn board(sent: &[(u64, u32)]) -> Scoreboard {
        let mut times = SentTimes::NONE;
        for &(time, end) in sent {
            times.push(at(time), Seq(end));
        }
        Scoreboard::new(Seq(0), &times)
    }

    fn hold(board: &mut Scoreboard, left: u32, right: u32) -> Delivered {
        let mut delivered = Delivered::default();
        board.hold(&[(Seq(left), Seq(right))], &mut delivered);
        delivered
    }

    fn newest(time: u64, end: u32) -> Newest {
        Newest {
            at: at(time),
            end: Seq(end),
        }
    }

    #[test]
    fn what_is_held_is_told_once() {
        let mut board = board(&[(1, 100), (2, 200)]);
        let delivered = hold(&mut board, 50, 150);
        assert_eq!(
            (delivered.bytes, delivered.newest),
            (100, Some(newest(2, 150)))
        );
        assert!(!delivered.reordered);
        assert_eq!(hold(&mut board, 60, 150), Delivered::default());
        assert_eq!(hold(&mut board, 50, 160).bytes, 10);
        assert_eq!((board.flying(), board.lost()), (90, 0));
        // Something below what is held already, sent once: it was overtaken.
        assert!(hold(&mut board, 0, 10).reordered);
        let delivered = board.advance(Seq(200));
        assert_eq!(delivered.bytes, 80);
        assert!(board.is_plain());
        assert_eq!(board.flying(), 0);
    }

    #[test]
    fn the_newest_that_arrived_tells_what_is_lost() {
        // RFC 8985 §6.2: sent before it, or in the same turn and in front of it.
        let mut board = board(&[(10, 100), (20, 200), (30, 300)]);
        hold(&mut board, 150, 160);
        // The newest arrived after 40; what flies for less is given 5 more.
        let (lost, wait) = board.detect(at(60), newest(20, 160), 45);
        assert_eq!((lost, wait), (100, Some(5)));
        assert_eq!(board.first_lost(), Some((Seq(0), Seq(100))));
        let (lost, wait) = board.detect(at(65), newest(20, 160), 45);
        assert_eq!((lost, wait), (50, None));
        // Behind it nothing is lost.
        assert_eq!((board.flying(), board.lost()), (140, 150));
    }

    #[test]
    fn what_was_sent_again_can_be_lost_again() {
        let mut board = board(&[(10, 100), (20, 200)]);
        hold(&mut board, 100, 200);
        assert_eq!(board.detect(at(30), newest(20, 200), 10).0, 100);
        board.send_again(at(40), Seq(0), Seq(60));
        assert_eq!((board.flying(), board.lost()), (60, 40));
        board.push(at(50), Seq(300));
        let delivered = hold(&mut board, 250, 300);
        assert_eq!(delivered.newest, Some(newest(50, 300)));
        assert_eq!(board.detect(at(60), newest(50, 300), 10).0, 60 + 50);
        assert_eq!(board.first_lost(), Some((Seq(0), Seq(100))));
    }

    #[test]
    fn of_what_was_sent_twice_it_is_not_known_which_arrived() {
        let mut board = board(&[(10, 100)]);
        board.lose(Seq(0), Seq(100));
        board.send_again(at(20), Seq(0), Seq(50));
        let delivered = board.advance(Seq(100));
        assert_eq!(delivered.newest_again, Some(newest(20, 50)));
        assert_eq!(delivered.newest, Some(newest(10, 100)));
        // The second half was not lost.
        assert_eq!(delivered.not_lost, 50);
    }

    #[test]
    fn a_guest_that_reneges_is_seen_and_not_believed() {
        // RFC 2018 §8.
        let mut board = board(&[(10, 100)]);
        hold(&mut board, 40, 60);
        assert!(!board.is_reneged());
        board.advance(Seq(40));
        assert!(board.is_reneged());
        board.forget_held();
        assert_eq!((board.flying(), board.lost()), (40, 20));
    }

    #[test]
    fn three_pieces_or_more_than_two_segments_are_enough() {
        // RFC 6675 §4, IsLost.
        let mut board = board(&[(10, 100)]);
        hold(&mut board, 10, 20);
        hold(&mut board, 30, 40);
        assert!(!board.is_enough_held(10));
        assert!(board.is_enough_held(9));
        hold(&mut board, 50, 51);
        assert!(board.is_enough_held(1_000));
    }

    #[test]
    fn a_full_board_takes_what_needs_no_more_runs() {
        let mut board = board(&[(10, 100_000)]);
        for i in 0..1_000 {
            hold(&mut board, i * 20 + 10, i * 20 + 20);
        }
        assert!(board.runs.len() <= RUNS_MAX);
        let held = board
            .runs
            .iter()
            .filter(|run| run.status == Status::Held)
            .count() as u32;
        assert_eq!(board.flying(), 100_000 - held * 10);
        assert!(hold(&mut board, 0, 20).bytes == 10);
    }

    #[test]
    fn a_full_board_is_not_sent_again_for_ever() {
        let mut board = board(&[(10, 100_000)]);
        board.lose(Seq(0), Seq(100_000));
        for i in 0..1_000 {
            hold(&mut board, i * 20 + 10, i * 20 + 20);
        }
        let mut sends = 0;
        while let Some((left, right)) = board.first_lost() {
            board.send_again(at(20), left, right.min(left + 7));
            sends += 1;
            assert!(sends < 20_000, "{left:?}");
        }
        assert!(board.runs.len() <= RUNS_MAX);
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Push(u32),
        Hold(u32, u32),
        Advance(u32),
        Lose(u32, u32),
        Again(u32, u32),
        Trust,
        Forget,
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = || (0u32..300, 0u32..60);
        prop_oneof![
            3 => (1u32..60).prop_map(Op::Push),
            4 => range().prop_map(|(left, len)| Op::Hold(left, left + len)),
            2 => (0u32..40).prop_map(Op::Advance),
            2 => range().prop_map(|(left, len)| Op::Lose(left, left + len)),
            2 => range().prop_map(|(left, len)| Op::Again(left, left + len)),
            1 => Just(Op::Trust),
            1 => Just(Op::Forget),
        ]
    }

    proptest! {
        /// Against a byte by byte model.
        #[test]
        fn behaves_like_a_list_of_bytes(
            base in any::<u32>(),
            ops in prop::collection::vec(op(), 0..80),
        ) {
            let seq = |i: u32| Seq(base) + i;
            let mut board = Scoreboard::new(Seq(base), &SentTimes::NONE);
            let (mut una, mut model) = (0u32, Vec::<Status>::new());
            for (time, op) in ops.into_iter().enumerate() {
                let end = una + model.len() as u32;
                let clip = |left: u32, right: u32| {
                    (left.clamp(una, end) - una) as usize..(right.clamp(una, end) - una) as usize
                };
                match op {
                    Op::Push(len) => {
                        board.push(at(time as u64), seq(end + len));
                        model.extend((0..len).map(|_| Status::Flying));
                    }
                    Op::Hold(left, right) => {
                        let mut delivered = Delivered::default();
                        let range = (seq(left.max(una)), seq(right.min(end).max(una)));
                        board.hold(&[range], &mut delivered);
                        let range = &mut model[clip(left, right)];
                        let new = range.iter().filter(|&&s| s != Status::Held).count();
                        prop_assert_eq!(delivered.bytes as usize, new);
                        range.fill(Status::Held);
                    }
                    Op::Advance(len) => {
                        let len = len.min(model.len() as u32);
                        let delivered = board.advance(seq(una + len));
                        let gone: Vec<_> = model.drain(..len as usize).collect();
                        let new = gone.iter().filter(|&&s| s != Status::Held).count();
                        prop_assert_eq!(delivered.bytes as usize, new);
                        una += len;
                    }
                    Op::Lose(left, right) => {
                        board.lose(seq(left.max(una)), seq(right.max(una)));
                        for status in &mut model[clip(left, right)] {
                            if *status == Status::Flying {
                                *status = Status::Lost;
                            }
                        }
                    }
                    Op::Again(left, right) => {
                        let (left, right) = (left.max(una), right.max(una));
                        board.send_again(at(time as u64), seq(left), seq(right));
                        for status in &mut model[clip(left, right)] {
                            if *status == Status::Lost {
                                *status = Status::Flying;
                            }
                        }
                    }
                    Op::Trust => {
                        board.trust();
                        for status in &mut model {
                            if *status == Status::Lost {
                                *status = Status::Flying;
                            }
                        }
                    }
                    Op::Forget => {
                        board.forget_held();
                        for status in &mut model {
                            if *status == Status::Held {
                                *status = Status::Lost;
                            }
                        }
                    }
                }
                let count = |status| model.iter().filter(|&&s| s == status).count() as u32;
                prop_assert_eq!(board.flying(), count(Status::Flying));
                prop_assert_eq!(board.lost(), count(Status::Lost));
                let first = model.iter().position(|&s| s == Status::Lost);
                prop_assert_eq!(
                    board.first_lost().map(|(left, _)| left),
                    first.map(|i| seq(una + i as u32))
                );
                let mut start = board.start;
                for run in &board.runs {
                    prop_assert!(start.before(run.end));
                    start = run.end;
                }
            }
        }
    }
}

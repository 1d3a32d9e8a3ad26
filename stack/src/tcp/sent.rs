//! When what is in flight was sent, while nothing is missing.
//!
//! One record for all that left in the same turn of the engine, super-frames or not, since they have
//! the same time: `[previous end, end)` at `at`. In a round trip there are few turns, so that a
//! handful of records says it exactly. When there are more, neighbours are put together and keep the
//! later of their times: by that much loss is noticed late, never early.
//!
//! As soon as a guest says that something is missing the scoreboard takes over (`scoreboard.rs`),
//! which knows each piece by itself.

use super::seq::SequenceNumber as Seq;
use crate::time::Instant;

/// Records kept.
const RECORDS_MAX: usize = 8;

/// The records, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentTimes {
    at: [Instant; RECORDS_MAX],
    end: [Seq; RECORDS_MAX],
    len: u8,
}

impl SentTimes {
    pub(super) const NONE: Self = Self {
        at: [Instant::ZERO; RECORDS_MAX],
        end: [Seq(0); RECORDS_MAX],
        len: 0,
    };

    /// What follows the last record, up to `end`, leaves `now`.
    pub(super) fn push(&mut self, now: Instant, end: Seq) {
        let mut len = usize::from(self.len);
        if len > 0 && self.at[len - 1] == now {
            self.end[len - 1] = end;
            return;
        }
        if len == RECORDS_MAX {
            // Every second takes the one before it along.
            for i in 0..RECORDS_MAX / 2 {
                self.at[i] = self.at[2 * i + 1];
                self.end[i] = self.end[2 * i + 1];
            }
            len = RECORDS_MAX / 2;
        }
        self.at[len] = now;
        self.end[len] = end;
        self.len = len as u8 + 1;
    }

    /// Everything before `ack` arrived. Returns when the last of it was sent.
    pub(super) fn advance(&mut self, ack: Seq) -> Option<Instant> {
        let len = usize::from(self.len);
        let gone = self.end[..len]
            .iter()
            .take_while(|end| end.at_or_before(ack))
            .count();
        // The next record is the one that `ack` lies in, unless it lies on the border.
        let partly = gone < len && (gone == 0 || self.end[gone - 1].before(ack));
        let newest = if partly { gone } else { gone.checked_sub(1)? };
        let at = self.at[newest];
        if gone == len {
            self.len = 0;
        } else if gone > 0 {
            self.at.copy_within(gone..len, 0);
            self.end.copy_within(gone..len, 0);
            self.len = (len - gone) as u8;
        }
        Some(at)
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// When and up to where, oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = (Instant, Seq)> {
        let len = usize::from(self.len);
        let Self { at, end, .. } = self;
        at[..len].iter().copied().zip(end[..len].iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn listed(sent: &SentTimes) -> Vec<(u64, u32)> {
        sent.records()
            .map(|(at, end)| (at.as_nanos(), end.0))
            .collect()
    }

    #[test]
    fn one_turn_is_one_record() {
        let mut sent = SentTimes::NONE;
        for (time, end) in [(1, 10), (1, 20), (2, 25)] {
            sent.push(at(time), Seq(end));
        }
        assert_eq!(listed(&sent), [(1, 20), (2, 25)]);
    }

    #[test]
    fn an_ack_tells_when_its_last_byte_was_sent() {
        let mut sent = SentTimes::NONE;
        for (time, end) in [(1, 10), (2, 20), (3, 30)] {
            sent.push(at(time), Seq(end));
        }
        assert_eq!(sent.advance(Seq(5)), Some(at(1)));
        assert_eq!(sent.advance(Seq(10)), Some(at(1)));
        assert_eq!(listed(&sent), [(2, 20), (3, 30)]);
        assert_eq!(sent.advance(Seq(21)), Some(at(3)));
        assert_eq!(sent.advance(Seq(30)), Some(at(3)));
        assert_eq!(sent.advance(Seq(30)), None);
    }

    #[test]
    fn many_turns_are_told_apart_less_finely() {
        let mut sent = SentTimes::NONE;
        for i in 1..=1_000u32 {
            sent.push(at(u64::from(i)), Seq(i * 10));
        }
        let records = listed(&sent);
        assert!(records.len() >= RECORDS_MAX / 2);
        // Never earlier than the truth.
        assert!(records.iter().all(|&(at, end)| at == u64::from(end / 10)));
        assert_eq!(records.last(), Some(&(1_000, 10_000)));
    }
}

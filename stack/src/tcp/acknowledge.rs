//! What an ACK says to the sending side: what arrived, how long it took, what is missing, and what
//! that means for recovery and the congestion window.

use core::time::Duration;

use super::config::Config;
use super::scoreboard::{Delivered, Newest};
use super::segment::{SackBlocks, Segment};
use super::send::{Recovery, Sender};
use super::seq::SequenceNumber as Seq;
use crate::time::Instant;

/// What an ACK acknowledged for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acked {
    pub(super) bytes: u32,
    pub(super) fin: bool,
}

/// What is known of an ACK besides its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct AckContext {
    /// Payload bytes of a full segment of ours.
    pub(super) mss: u32,
    /// The guest's window in bytes.
    pub(super) window: u32,
    /// TSecr, if timestamps were agreed.
    pub(super) echo: Option<u32>,
    /// It carries neither payload nor FIN.
    pub(super) bare: bool,
}

impl Sender {
    /// Whether an ACK is in the range that may be looked at (RFC 5961 §5.2).
    pub(super) fn is_ack_plausible(&self, ack: Seq) -> bool {
        ack.at_or_before(self.max) && !ack.before(self.una - self.window_max)
    }

    /// Whether an ACK tells the sending side anything, its window apart.
    pub(super) fn is_news(&self, segment: &Segment, bare: bool) -> bool {
        let counts = bare && (!self.sack || self.tail.is_out());
        self.una.before(segment.acknowledgment) || !segment.options.sack.is_empty() || counts
    }

    /// Takes a plausible ACK, but for its window.
    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        config: &Config,
        segment: &Segment,
        context: &AckContext,
    ) -> Acked {
        let ack = segment.acknowledgment;
        let duplicate = context.bare && self.is_duplicate_ack(ack, context.window);
        let (before, flight) = (self.una, self.max.since(self.una));
        let covered = if before.before(ack) {
            ack.since(before)
        } else {
            0
        };
        if self.sack && (self.repair.is_some() || !segment.options.sack.is_empty()) {
            self.on_ack_amid_loss(now, config, segment, context, duplicate);
        } else {
            let newest = self.advance(ack, covered);
            let echo = context.echo.filter(|_| covered > 0);
            self.take_sample(now, newest, echo);
            self.congestion.earn(config, covered);
            if self.settle_tail(ack, false, duplicate) {
                self.on_tail_repaired(context.mss);
            }
            if covered > 0 {
                self.recover_on_ack(now, covered, flight, context.mss);
            } else if duplicate && !self.sack {
                self.on_duplicate_ack(context.mss);
            }
        }
        let fin = self.fin_sent && covered > 0 && ack == self.max;
        Acked {
            bytes: covered - u32::from(fin),
            fin,
        }
    }

    /// As [`on_ack`](Self::on_ack), where something is missing or was.
    fn on_ack_amid_loss(
        &mut self,
        now: Instant,
        config: &Config,
        segment: &Segment,
        context: &AckContext,
        duplicate: bool,
    ) {
        let (ack, mss) = (segment.acknowledgment, context.mss);
        let (before, flight) = (self.una, self.max.since(self.una));
        let covered = ack.max(before).since(before);
        self.repair();
        self.advance(ack, covered);
        let blocks = &segment.options.sack;
        let mut delivered = self.take_sack(ack, blocks);
        // An ACK that what was sent again made possible may be late for all that it covers.
        let prompt = delivered
            .newest
            .filter(|_| delivered.newest_again.is_none());
        self.take_sample(now, prompt, context.echo.filter(|_| covered > 0));
        self.congestion.earn(config, delivered.bytes);
        let reported = self.take_duplicate(ack, blocks);
        let bare = duplicate && covered == 0 && blocks.is_empty();
        if self.settle_tail(ack, reported, bare) {
            self.on_tail_repaired(mss);
        }
        if delivered.bytes > 0 {
            // The guest was heard just before a probe would have asked.
            self.tail.is_due = false;
        }
        if covered > 0 {
            self.recover_on_ack(now, covered, flight, mss);
        } else {
            delivered.not_lost = 0;
        }
        self.mend(now, ack, &mut delivered, covered > 0, mss);
        self.end_repair();
    }

    /// Everything before `ack` arrived, `covered` bytes more than before. Returns what the
    /// round trip can be taken from.
    fn advance(&mut self, ack: Seq, covered: u32) -> Option<Newest> {
        if covered == 0 {
            return None;
        }
        self.una = ack;
        self.nxt = self.nxt.max(ack);
        self.reduced = self.reduced.max(ack);
        self.sampled_to = self.sampled_to.max(ack - 1);
        self.attempts = 0;
        self.tail.is_due = false;
        let at = self.sent.advance(ack)?;
        Some(Newest { at, end: ack })
    }

    /// Takes the ACK and the SACK blocks that tell of what is held above it. Returns what arrived.
    fn take_sack(&mut self, ack: Seq, blocks: &SackBlocks) -> Delivered {
        let (una, nxt) = (self.una, self.nxt);
        let mut valid = SackBlocks::NONE;
        for &(left, right) in blocks.as_slice() {
            // What is not above `una` is a duplicate told; what was never sent is nonsense.
            if una.before(left) && left.before(right) && right.at_or_before(nxt) {
                valid.push(left, right);
            }
        }
        let board = &mut self.repair().board;
        let mut delivered = board.advance(ack);
        board.hold(valid.as_slice(), &mut delivered);
        delivered
    }

    /// Takes a D-SACK (RFC 2883 §4): the first block, when it is below the ACK or part of the
    /// second. Returns whether it tells that a tail loss probe was needless.
    fn take_duplicate(&mut self, ack: Seq, blocks: &SackBlocks) -> bool {
        let blocks = blocks.as_slice();
        let Some(&(left, right)) = blocks.first() else {
            return false;
        };
        let below = right.at_or_before(ack) && !left.before(ack - self.window_max);
        let within = blocks
            .get(1)
            .is_some_and(|&(l, r)| l.at_or_before(left) && right.at_or_before(r));
        if !left.before(right) || !(below || within) || self.max.before(right) {
            return false;
        }
        if self.tail.is_reported(right) {
            return true;
        }
        self.on_duplicate_told(right.since(left));
        false
    }

    fn take_sample(&mut self, now: Instant, newest: Option<Newest>, echo: Option<u32>) {
        if let Some(newest) = newest
            && self.sampled_to.before(newest.end)
        {
            self.rtt.sample(now.since(newest.at));
            self.sampled_to = self.max;
            self.ambiguous = false;
        } else if self.ambiguous
            && let Some(echo) = echo
        {
            // RFC 7323 §4.1. An echo from the future is nonsense.
            let (echo, now) = (Seq(echo), Seq(now.as_millis_wrapping()));
            if Seq(self.retransmitted_at_ms).at_or_before(echo) && echo.at_or_before(now) {
                self.rtt
                    .sample(Duration::from_millis(u64::from(now.since(echo))));
            }
        }
    }

    /// What new data acknowledged means to recovery and to the congestion window.
    fn recover_on_ack(&mut self, now: Instant, covered: u32, flight: u32, mss: u32) {
        let done = self.recover.at_or_before(self.una);
        // With SACK the window is held back only while it is being reduced.
        let reducing = match &self.repair {
            Some(repair) => repair.prr.is_some(),
            None => self.recovery == Recovery::Fast,
        };
        if !reducing {
            let rtt_ns = self.rtt.smoothed_ns();
            self.congestion.on_ack(now, rtt_ns, covered, mss, flight);
        }
        match self.recovery {
            Recovery::Open => {
                self.duplicates = 0;
                // Keeps it within reach of comparison, and before `una` unless it is there now.
                self.recover = self.recover.max(self.una - 1);
            }
            Recovery::Fast | Recovery::Loss if done => self.end_recovery(),
            Recovery::Fast if self.repair.is_none() => self.on_partial_ack(covered, mss),
            Recovery::Fast | Recovery::Loss => {}
        }
    }

    /// What an ACK means while something is missing.
    fn mend(
        &mut self,
        now: Instant,
        ack: Seq,
        delivered: &mut Delivered,
        advanced: bool,
        mss: u32,
    ) {
        if self.doubt_timeout(ack, delivered.not_lost) {
            // It was the first attempt that arrived.
            delivered.newest_again = None;
        }
        let shortest_ns = self.rtt.shortest_ns();
        if delivered.reordered {
            self.reordering.on_reordering();
        }
        if let Some(repair) = &mut self.repair {
            repair.note_newest(now, delivered, shortest_ns);
            if delivered.bytes > 0 {
                repair.nudges = 0;
            }
        }
        let lost = self.detect_overtaken(now, mss);
        self.respond_to_loss(delivered.bytes, mss);
        if delivered.bytes > 0 || lost {
            self.pace(delivered.bytes, advanced && !lost, mss);
        }
    }

    /// A tail loss probe filled the hole at the end: something was lost (RFC 8985 §7.4.2).
    fn on_tail_repaired(&mut self, mss: u32) {
        self.congestion.spend(mss);
        if self.recovery == Recovery::Open
            && self.congestion.is_congested()
            && !self.una.before(self.reduced)
        {
            self.congestion.reduce(self.max.since(self.una), mss);
            self.reduced = self.max;
        }
    }
}

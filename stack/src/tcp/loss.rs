//! What is taken for lost without SACK, or by time.

use super::send::{DUPLICATES, Recovery, Sender};
use super::seq::SequenceNumber as Seq;
use crate::time::Instant;

impl Sender {
    // Without SACK

    /// Whether a segment is a duplicate ACK in the sense of RFC 5681 §2, but for its payload. To be
    /// asked before the window is updated.
    pub(super) fn is_duplicate_ack(&self, ack: Seq, window: u32) -> bool {
        ack == self.una && self.nxt != self.una && ack + window == self.window_end
    }

    /// A duplicate ACK came (RFC 5681 §3.2).
    pub(super) fn on_duplicate_ack(&mut self, mss: u32) {
        self.duplicates = self.duplicates.saturating_add(1);
        if self.recovery == Recovery::Fast {
            // Step 4: a segment left the network.
            let window = self.congestion.window().saturating_add(mss);
            self.congestion.set_window(window);
        }
        // RFC 6582 §3.2 step 1: duplicates of what was sent before the last recovery prove nothing.
        let counted = self.duplicates >= DUPLICATES && self.recover.before(self.una);
        if self.recovery != Recovery::Open || self.nxt == self.una || !counted {
            return;
        }
        self.recovery = Recovery::Fast;
        self.recover = self.max;
        self.nxt = self.max;
        self.retransmit_first = true;
        self.congestion.spend(mss);
        self.congestion.on_recovery();
        if self.congestion.is_congested() && !self.una.before(self.reduced) {
            self.reduced = self.max;
            self.congestion.reduce(self.max.since(self.una), mss);
        }
        let window = self.congestion.window() + u32::from(DUPLICATES) * mss;
        self.congestion.set_window(window);
    }

    /// A partial ACK in fast recovery (RFC 6582 §3.2 step 3): the next hole begins here, and what it
    /// covers is taken back from the window, less one segment.
    pub(super) fn on_partial_ack(&mut self, covered: u32, mss: u32) {
        let credit = if covered >= mss { mss } else { 0 };
        let window = self.congestion.window().saturating_sub(covered) + credit;
        self.congestion.set_window(window.max(mss));
        self.congestion.spend(mss);
        self.retransmit_first = true;
    }

    // By time

    /// The retransmission timer expired (RFC 6298 §5.4–5.6, RFC 5681 §3.1).
    pub(super) fn on_timeout(&mut self, now: Instant, mss: u32) {
        let first = self.attempts == 0 && self.recovery != Recovery::Loss;
        let open = self.recovery == Recovery::Open;
        let before = self.congestion;
        let flight = self.max.since(self.una);
        self.congestion.on_timeout(flight, mss, first);
        if self.sack {
            self.lose_overdue(now, mss);
            let repeated = self.attempts > 0;
            let repair = self.repair();
            if open {
                (repair.before, repair.unproven) = (Some(before), 0);
            }
            repair.before.get_or_insert(before);
            repair.prr = None;
            repair.reorder_until = None;
            repair.doubt_timeout = !repeated;
        }
        self.restart_from_una();
        self.reduced = self.max;
        self.attempts = self.attempts.saturating_add(1);
    }

    /// Marks what is lost by a timeout (RFC 8985 §6.3): the first segment, and what was sent as
    /// long ago as it.
    fn lose_overdue(&mut self, now: Instant, mss: u32) {
        let (una, nxt, repeated) = (self.una, self.nxt, self.attempts > 0);
        let smoothed_ns = self.rtt.smoothed_ns();
        let patience_ns = self.reordering.ns(&self.rtt, true);
        let repair = self.repair();
        // RFC 2018 §8: a guest may drop what it said it holds. Once the timer has to repeat, or the
        // guest's word contradicts itself, nothing of it is believed.
        if repeated || repair.board.is_reneged() {
            repair.board.forget_held();
        }
        let rtt_ns = repair.rtt_ns.max(smoothed_ns);
        let newest = super::scoreboard::Newest { at: now, end: nxt };
        repair.board.detect(now, newest, rtt_ns + patience_ns);
        repair.board.lose(una, nxt.min(una + mss));
    }

    /// Everything in flight was too large for the path, and goes out again in smaller segments. No
    /// congestion is to be read from that.
    pub(super) fn send_again(&mut self) {
        if self.sack {
            let (una, nxt) = (self.una, self.nxt);
            let repair = self.repair();
            repair.board.lose(una, nxt);
            repair.prr = None;
            repair.before = None;
        }
        self.restart_from_una();
    }

    /// Slow start over what is lost; without SACK that is everything.
    fn restart_from_una(&mut self) {
        self.recovery = Recovery::Loss;
        self.recover = self.max;
        self.retransmit_first = false;
        self.duplicates = 0;
        self.tail = super::tail::TailProbe::NONE;
        if !self.sack {
            self.withdraw();
        }
    }

    /// Nothing is in flight any more: all of it is sent again when it may.
    pub(super) fn withdraw(&mut self) {
        self.repair = None;
        self.sent.clear();
        self.nxt = self.una;
        self.sampled_to = self.max;
        self.ambiguous = true;
    }

    /// The guest closed its window over what is in flight (RFC 9293 §3.8.6 calls it shrinking, and
    /// wants us to bear it): probes go on as long as it answers, and the rest is sent again when the
    /// window opens.
    pub(super) fn on_window_shrunk(&mut self) {
        self.withdraw();
        self.recovery = Recovery::Open;
        self.recover = self.max;
        self.retransmit_first = false;
        self.duplicates = 0;
        self.tail = super::tail::TailProbe::NONE;
    }

    // By other signs

    /// An ACK, which was taken already, echoes congestion that the path marked (ECE). Counts once
    /// for all that is in flight (RFC 3168 §6.1.2). Returns whether the congestion window was reduced
    /// now, which CWR tells the guest.
    pub(super) fn on_congestion_echo(&mut self, _now: Instant, mss: u32) -> bool {
        if self.recovery != Recovery::Open || self.una.before(self.reduced) {
            return false;
        }
        self.congestion.reduce(self.max.since(self.una), mss);
        self.reduced = self.max;
        true
    }

    /// Whether `sequence` was sent and is not acknowledged: what an ICMP error must quote to be
    /// believed (RFC 5927 §4.1).
    pub(super) fn is_outstanding(&self, sequence: Seq) -> bool {
        self.una.at_or_before(sequence) && sequence.before(self.max)
    }
}

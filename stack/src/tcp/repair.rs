//! What is remembered while something is missing, of guests that know SACK; made when the first sign
//! of it comes, so that a connection that loses nothing does not carry it.
//!
//! It outlives the recovery by one round trip, to hear from the guest that what was sent again had
//! come already (D-SACK). If all of it had, nothing was lost, and the reduction of the congestion
//! window is taken back (RFC 3708 §2.1, RFC 4015 §3.2). A false timeout is also seen
//! earlier: when something arrives that it took for lost and that was not sent again
//! (RFC 5682 §3.1).
//!
//! One thing is not in the RFCs: a retransmission that is overdue while nothing can be sent after it
//! is sent again after some round trips, instead of 200 ms (`nudge_at`).

use alloc::boxed::Box;

use super::congestion::Congestion;
use super::prr::Prr;
use super::scoreboard::{Delivered, Newest, Scoreboard};
use super::send::{Recovery, Sender};
use super::seq::SequenceNumber as Seq;
use crate::time::Instant;

/// The state.
#[derive(Debug)]
pub(super) struct Repair {
    pub(super) board: Scoreboard,
    /// What arrived and was sent last (RACK.xmit_ts, RACK.end_seq), and how long it took (RACK.rtt).
    pub(super) newest: Option<Newest>,
    pub(super) rtt_ns: u64,
    /// When the next piece is taken for lost, if nothing arrives before.
    pub(super) reorder_until: Option<Instant>,
    /// Times in a row that the first hole was sent again because nothing came.
    pub(super) nudges: u8,
    /// The congestion window is being reduced.
    pub(super) prr: Option<Prr>,
    /// Congestion control before it was reduced, while that may be undone.
    pub(super) before: Option<Congestion>,
    /// Bytes that were sent again in this recovery and that the guest has not reported twice.
    pub(super) unproven: u32,
    /// The timer expired, and nothing contradicted it yet.
    pub(super) doubt_timeout: bool,
    /// Kept until this is acknowledged and more.
    pub(super) until: Seq,
}

impl Repair {
    fn new(board: Scoreboard, until: Seq) -> Self {
        Self {
            board,
            newest: None,
            rtt_ns: 0,
            reorder_until: None,
            nudges: 0,
            prr: None,
            before: None,
            unproven: 0,
            doubt_timeout: false,
            until,
        }
    }

    /// `[start, end)` is sent, of which nothing from `nxt` on was sent before.
    pub(super) fn on_sent(&mut self, now: Instant, start: Seq, end: Seq, nxt: Seq) {
        if start.before(nxt) {
            let again = end.min(nxt);
            self.board.send_again(now, start, again);
            self.unproven = self.unproven.saturating_add(again.since(start));
        }
        if nxt.before(end) {
            self.board.push(now, end);
        }
        if let Some(prr) = &mut self.prr {
            prr.on_sent(end.since(start));
        }
    }

    /// Takes the newest of what arrived (RFC 8985 §6.2, step 2). What was sent again and seems to
    /// have come faster than anything before was the first attempt, and tells nothing.
    pub(super) fn note_newest(&mut self, now: Instant, delivered: &Delivered, shortest_ns: u64) {
        let again = delivered
            .newest_again
            .filter(|newest| now.since(newest.at).as_nanos() as u64 >= shortest_ns);
        for newest in [delivered.newest, again].into_iter().flatten() {
            if self.newest.is_none_or(|before| newest.is_after(before)) {
                self.newest = Some(newest);
                self.rtt_ns = now.since(newest.at).as_nanos() as u64;
            }
        }
    }
}

impl Sender {
    /// The repair state, made if there is none.
    pub(super) fn repair(&mut self) -> &mut Repair {
        let (una, max) = (self.una, self.max);
        let sent = &self.sent;
        self.repair
            .get_or_insert_with(|| Box::new(Repair::new(Scoreboard::new(una, sent), max)))
    }

    /// RACK (RFC 8985 §6.2, steps 4 and 5): what was overtaken by so much is lost. Returns whether
    /// anything is that was not before.
    pub(super) fn detect_overtaken(&mut self, now: Instant, mss: u32) -> bool {
        let Some(repair) = &mut self.repair else {
            return false;
        };
        let Some(newest) = repair.newest else {
            return false;
        };
        let certain = self.recovery != Recovery::Open || repair.board.is_enough_held(mss);
        let patience_ns = repair.rtt_ns + self.reordering.ns(&self.rtt, certain);
        let (lost, wait_ns) = repair.board.detect(now, newest, patience_ns);
        repair.reorder_until = wait_ns.map(|ns| now + core::time::Duration::from_nanos(ns));
        self.congestion.spend(lost);
        lost > 0
    }

    /// Answers to what is lost by now: recovery begins, and the congestion window is reduced
    /// once for what is in flight, if the loss is congestion. `delivered` is what the same ACK
    /// brought.
    pub(super) fn respond_to_loss(&mut self, delivered: u32, mss: u32) {
        let (una, reduced, max) = (self.una, self.reduced, self.max);
        let Some(repair) = &mut self.repair else {
            return;
        };
        if self.recovery == Recovery::Open {
            if repair.board.lost() == 0 {
                return;
            }
            self.recovery = Recovery::Fast;
            self.recover = max;
            self.retransmit_first = true;
            self.congestion.on_recovery();
            (repair.before, repair.unproven) = (None, 0);
        }
        let heeded = una.before(reduced);
        if self.recovery == Recovery::Fast && self.congestion.is_congested() && !heeded {
            let flight = repair.board.flying() + repair.board.lost() + delivered;
            repair.before = Some(self.congestion);
            repair.prr = Some(Prr::new(flight));
            self.reduced = max;
            self.congestion.reduce(max.since(una), mss);
        }
    }

    /// Proportional rate reduction after an ACK, or after the reordering timer.
    pub(super) fn pace(&mut self, delivered: u32, safe: bool, mss: u32) {
        if let Some(repair) = &mut self.repair
            && let Some(prr) = &mut repair.prr
        {
            let target = self.congestion.target();
            let flying = repair.board.flying();
            let window = prr.on_delivered(delivered, safe, flying, target, mss);
            self.congestion.set_window(window);
        }
    }

    /// The reordering timer expired (RFC 8985 §6.3).
    pub(super) fn on_reorder_timer(&mut self, now: Instant, mss: u32) {
        if self.detect_overtaken(now, mss) {
            self.respond_to_loss(0, mss);
            // What was thought to be in flight is not: that much may go.
            self.pace(mss, false, mss);
        }
    }

    /// When the first hole is sent again if nothing comes. A retransmission that is lost is found by
    /// what was sent after it; but a guest whose window is full lets nothing go after it, and
    /// then only the retransmission timer is left. While there is a hole the guest delays no ACK
    /// (RFC 5681 §4.2), so that what is overdue by round trips is lost. Each time it waits twice as
    /// long, until the timer comes.
    pub(super) fn nudge_at(&self, now: Instant) -> Option<Instant> {
        let repair = self.repair.as_ref()?;
        let timeout_ns = self.rtt.probe_timeout_ns();
        let board = &repair.board;
        let waits = self.recovery == Recovery::Fast && board.lost() == 0 && board.has_held();
        let wait_ns = timeout_ns.saturating_mul(1 << repair.nudges.min(30));
        (waits && timeout_ns > 0).then(|| now.after_nanos(wait_ns))
    }

    /// Nothing came: the first segment of the hole is lost again.
    pub(super) fn nudge(&mut self, mss: u32) {
        let una = self.una;
        if let Some(repair) = &mut self.repair {
            repair.nudges = repair.nudges.saturating_add(1);
            repair.board.lose(una, una + mss);
            self.retransmit_first = repair.board.lost() > 0;
            self.congestion.spend(mss);
        }
    }

    /// The guest got `bytes` twice (RFC 2883).
    pub(super) fn on_duplicate_told(&mut self, bytes: u32) {
        self.reordering.on_duplicate(self.una, self.nxt);
        let Some(repair) = &mut self.repair else {
            return;
        };
        let all = repair.unproven > 0 && repair.unproven <= bytes;
        repair.unproven = repair.unproven.saturating_sub(bytes);
        if all {
            // What was taken for lost had only been overtaken.
            self.reordering.on_reordering();
            self.undo();
        }
    }

    /// Something arrived that a timeout took for lost and that was not sent again: the timeout
    /// was false (RFC 5682 §3.1, step 3 b). Returns whether it was.
    pub(super) fn doubt_timeout(&mut self, ack: Seq, not_lost: u32) -> bool {
        let doubted = self.repair.as_ref().is_some_and(|r| r.doubt_timeout);
        let was_false = doubted && not_lost > 0 && ack.before(self.recover);
        if was_false {
            self.undo();
        }
        was_false
    }

    /// Nothing was lost.
    fn undo(&mut self) {
        let Some(repair) = &mut self.repair else {
            return;
        };
        if let Some(before) = repair.before.take() {
            self.congestion.undo(&before);
        }
        repair.prr = None;
        repair.doubt_timeout = false;
        repair.board.trust();
        if self.recovery != Recovery::Open {
            self.end_recovery();
        }
    }

    /// Everything up to `recover` arrived, or nothing was missing.
    pub(super) fn end_recovery(&mut self) {
        let reducing = match &mut self.repair {
            Some(repair) => {
                repair.until = self.max;
                repair.doubt_timeout = false;
                self.reordering.on_recovered();
                repair.prr.take().is_some()
            }
            // RFC 6582 §3.2 step 3, full acknowledgment.
            None => self.recovery == Recovery::Fast,
        };
        if reducing {
            self.congestion.on_recovered();
        }
        self.recovery = Recovery::Open;
        self.retransmit_first = false;
        self.duplicates = 0;
    }

    /// Forgets the repair when nothing is missing and nothing can be undone any more.
    pub(super) fn end_repair(&mut self) {
        let over = self.recovery == Recovery::Open
            && self.repair.as_ref().is_some_and(|repair| {
                let heard = repair.before.is_none() || repair.until.before(self.una);
                repair.board.is_plain() && heard
            });
        if over && let Some(repair) = self.repair.take() {
            self.sent = repair.board.sent_times();
        }
    }
}

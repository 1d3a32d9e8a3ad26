//! The tail loss probe (RFC 8985 §7): when the last of what was sent is lost, nothing arrives after it
//! that would tell. So when an ACK is overdue by little, something is sent more: new data if there is
//! more than one segment of it, else the last segment again. Its ACK tells RACK what is missing, a few
//! round trips after the loss, where the retransmission timer takes 200 ms.
//!
//! An ACK of less than two full segments may be delayed by the guest (RFC 9293 §3.8.6.3), and is
//! waited for that much longer. So a probe is what is acknowledged at once: more than one segment, or
//! one that the guest may have. (RFC 8985 §7.3 sends one new segment. Where only an ACK was lost, that
//! one waited 40 ms: on a TAP with 3 % of loss most of the time.)
//!
//! A probe that is not answered is followed by another, after twice the time, up to
//! [`PROBES_MAX`]: the RFC sends one, but its round trips are not 50 µs.

use super::repair::Repair;
use super::send::{Chunk, Recovery, Sender, queue_bytes};
use super::seq::SequenceNumber as Seq;
use super::verdict::SendQueue;
use crate::time::Instant;

/// How long guests delay an ACK: 40 ms is the least that Linux and Windows use, and a guest that
/// is slower gets a needless segment (RFC 8985 §7.2 would wait for 200 ms, no less than for
/// the retransmission timer).
const GUEST_DELAYS_ACK_NS: u64 = 40_000_000;
/// Probes in a row without an answer, before it is left to the retransmission timer.
const PROBES_MAX: u8 = 4;
/// Before there is a sample of the round trip (RFC 8985 §7.2).
const WITHOUT_SAMPLE_NS: u64 = 1_000_000_000;

/// The probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct TailProbe {
    /// It is due to be sent.
    pub(super) is_due: bool,
    /// It is out, and ends here (TLP.end_seq).
    end: Option<Seq>,
    /// It was old data (TLP.is_retrans).
    again: bool,
    /// How many were sent since the guest was last heard of one.
    sent: u8,
}

impl TailProbe {
    pub(super) const NONE: Self = Self {
        is_due: false,
        end: None,
        again: false,
        sent: 0,
    };

    /// `chunk` is sent, up to `end`; `first`: nothing was in flight. Returns whether it is the probe.
    pub(super) fn on_sent(&mut self, chunk: &Chunk, end: Seq, first: bool) -> bool {
        if self.is_due {
            *self = Self {
                is_due: false,
                end: Some(end),
                again: chunk.retransmission,
                sent: self.sent + 1,
            };
            return true;
        }
        if first {
            *self = Self::NONE;
        }
        false
    }

    /// Whether the guest has not answered it.
    pub(super) fn is_out(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the probe is what the guest got twice.
    pub(super) fn is_reported(&self, right: Seq) -> bool {
        self.again && self.end == Some(right)
    }
}

impl Sender {
    /// When a probe is due, if nothing is heard and nothing sent; `None`: none will be
    /// (RFC 8985 §7.2).
    pub(super) fn tail_probe_at(&self, now: Instant, mss: u32) -> Option<Instant> {
        let flight = self.nxt.since(self.una);
        let wanted = self.sack && flight > 0 && self.recovery == Recovery::Open;
        // Over what the window was closed, no probe may go.
        let shrunk = self.window_end.before(self.nxt);
        if !wanted || shrunk || self.tail.is_due || self.tail.sent >= PROBES_MAX {
            return None;
        }
        let missing = |repair: &Repair| repair.board.flying() != flight;
        if self.repair.as_deref().is_some_and(missing) {
            return None;
        }
        let timeout_ns = match self.rtt.probe_timeout_ns() {
            0 => WITHOUT_SAMPLE_NS,
            ns => ns.saturating_mul(1 << self.tail.sent),
        };
        let delay_ns = if flight < 2 * mss {
            GUEST_DELAYS_ACK_NS
        } else {
            0
        };
        Some(now.after_nanos(timeout_ns.saturating_add(delay_ns)))
    }

    /// The probe (RFC 8985 §7.3), which congestion control does not hold back.
    pub(super) fn tail_probe(&mut self, queue: &SendQueue, size: u32) -> Option<Chunk> {
        let data_end = self.una + queue_bytes(queue);
        let fresh = if self.nxt.before(data_end) {
            data_end
                .since(self.nxt)
                .min(2 * size)
                .min(queue.segment_max)
        } else {
            0
        };
        let (start, len) = if fresh > size && self.window_from(self.nxt) >= fresh {
            (self.nxt, fresh)
        } else {
            let end = self.nxt.min(data_end);
            let len = end.since(self.una).min(size);
            (end - len, len)
        };
        let last = start + len == data_end;
        let fin = queue.finished && last && (self.fin_sent || len < self.window_from(start));
        let open = self.window_from(start) >= len + u32::from(fin);
        if self.nxt == self.una || !open || (len == 0 && !fin) {
            self.tail = TailProbe::NONE;
            return None;
        }
        if start.before(self.nxt) {
            // What is sent twice is the scoreboard's.
            self.repair();
        }
        Some(Chunk {
            start,
            len,
            fin,
            last,
            retransmission: start.before(self.max),
            probe: false,
        })
    }

    /// What an ACK says of the probe (RFC 8985 §7.4.2). `reported`: the guest got it twice. `bare`:
    /// nothing but a duplicate ACK. Returns whether the probe repaired a loss.
    pub(super) fn settle_tail(&mut self, ack: Seq, reported: bool, bare: bool) -> bool {
        let Some(end) = self.tail.end else {
            return false;
        };
        if ack.before(end) {
            return false;
        }
        let repaired = self.tail.again && !reported && end.before(ack);
        if !self.tail.again || reported || bare || repaired {
            self.tail.end = None;
            self.tail.sent = 0;
        }
        repaired
    }
}

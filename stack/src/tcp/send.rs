//! The sending side: what of the engine's queue may leave now.
//!
//! Sequence numbers, `una ≤ nxt ≤ max`:
//!
//! ```text
//!        una            nxt                max        una + queue.bytes
//!   acked │  in flight   │  to send again   │  never sent      │ (FIN)
//! ```
//!
//! `nxt` and `max` differ only after a window probe, which moves `max` alone, when the window was
//! closed over what was in flight, and, with guests that do not know SACK, after a timeout, when `nxt`
//! goes back to `una`. Nothing is in flight when `nxt == una`; what then waits in the queue waits for
//! the guest's window.
//!
//! When a piece was sent is in `sent` (`sent.rs`); once something is missing and the guest knows
//! SACK, `repair` holds what became of each (`repair.rs`, `scoreboard.rs`) and says what is sent
//! again. What ACKs and time mean is in `acknowledge.rs` and `loss.rs`.
//!
//! Recovery is in one of three modes:
//!
//! - **Open**: new data as the windows allow; without SACK one more segment for each of the first two
//!   duplicate ACKs (RFC 3042; with SACK by itself, since what the guest holds is not in flight).
//! - **Fast** (RFC 8985 with SACK, RFC 6582 without): something is lost; left when everything up to
//!   `recover` is acknowledged.
//! - **Loss** (RFC 5681 §3.1): entered by the timer; sends again in slow start; no fast
//!   retransmission before `recover` (RFC 6582 §3.2).

use alloc::boxed::Box;

use super::config::Config;
use super::congestion::Congestion;
use super::options::Agreed;
use super::rack::ReorderWindow;
use super::repair::Repair;
use super::rtt::Rtt;
use super::segment::Segment;
use super::sent::SentTimes;
use super::seq::SequenceNumber as Seq;
use super::tail::TailProbe;
use super::verdict::SendQueue;
use crate::time::Instant;

/// Duplicate ACKs that start fast recovery (RFC 5681 §3.2).
pub(super) const DUPLICATES: u8 = 3;
/// Half of the sequence space is the limit; no queue comes near this.
const QUEUE_BYTES_MAX: u32 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    Open,
    Fast,
    Loss,
}

/// A piece of the queue to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) start: Seq,
    /// Payload bytes.
    pub(super) len: u32,
    /// A FIN follows the payload.
    pub(super) fin: bool,
    /// Whether these are the last bytes of the queue.
    pub(super) last: bool,
    pub(super) retransmission: bool,
    /// Sent into a window that has no room for it: not in flight.
    pub(super) probe: bool,
}

impl Chunk {
    /// Less of it: the first `len` bytes.
    pub(super) fn truncate(&mut self, len: u32) {
        self.len = len;
        self.fin = false;
        self.last = false;
    }

    pub(super) fn end(&self) -> Seq {
        self.start + self.len + u32::from(self.fin)
    }
}

/// Where the next chunk may start.
struct Place {
    start: Seq,
    /// Where the hole ends that it fills, if it fills one.
    hole_end: Option<Seq>,
    /// Bytes that congestion control allows.
    room: u32,
}

/// The sending side of one connection.
#[derive(Debug)]
pub(super) struct Sender {
    /// SND.UNA.
    pub(super) una: Seq,
    /// The next to send.
    pub(super) nxt: Seq,
    /// One after the highest ever sent: SND.NXT as the guest sees it.
    pub(super) max: Seq,
    /// Right edge of the guest's window.
    pub(super) window_end: Seq,
    /// SND.WL1, SND.WL2.
    window_seq: Seq,
    window_ack: Seq,
    /// The largest window that the guest ever offered.
    pub(super) window_max: u32,
    /// `max` when recovery began.
    pub(super) recover: Seq,
    /// `max` when the congestion window was last reduced: until that is acknowledged, further signs
    /// are of the same congestion.
    pub(super) reduced: Seq,
    /// An ACK beyond this gives a sample of the round trip: one for each flight, and none of what
    /// was sent twice.
    pub(super) sampled_to: Seq,
    /// Our timestamp clock when something was last sent again. An echo of an earlier time may be
    /// of the first attempt, and tells no round trip.
    pub(super) retransmitted_at_ms: u32,
    pub(super) rtt: Rtt,
    pub(super) congestion: Congestion,
    /// Of everything in flight, unless there is a `repair`.
    pub(super) sent: SentTimes,
    pub(super) repair: Option<Box<Repair>>,
    pub(super) reordering: ReorderWindow,
    pub(super) tail: TailProbe,
    pub(super) recovery: Recovery,
    /// The guest knows SACK.
    pub(super) sack: bool,
    /// Only timestamps tell the round trip now, for something was sent again (Karn).
    pub(super) ambiguous: bool,
    pub(super) fin_sent: bool,
    /// The first hole goes out whatever the congestion window says.
    pub(super) retransmit_first: bool,
    pub(super) duplicates: u8,
    /// Timer expiries in a row; the exponent of backoff.
    pub(super) attempts: u8,
    /// Window probes since the guest was heard.
    pub(super) unanswered_probes: u8,
}

impl Sender {
    /// Before the SYN is sent.
    pub(super) fn new(iss: Seq) -> Self {
        Self {
            una: iss,
            nxt: iss,
            max: iss,
            window_end: iss,
            window_seq: Seq(0),
            window_ack: iss,
            window_max: 0,
            recover: iss,
            reduced: iss,
            sampled_to: iss,
            retransmitted_at_ms: 0,
            rtt: Rtt::default(),
            congestion: Congestion::new(),
            sent: SentTimes::NONE,
            repair: None,
            reordering: ReorderWindow::NEW,
            tail: TailProbe::NONE,
            recovery: Recovery::Open,
            sack: false,
            ambiguous: false,
            fin_sent: false,
            retransmit_first: false,
            duplicates: 0,
            attempts: 0,
            unanswered_probes: 0,
        }
    }

    // Handshake

    /// The SYN or SYN-ACK is being sent.
    pub(super) fn on_syn_sent(&mut self, now: Instant) {
        let again = self.max != self.una;
        self.max = self.una + 1;
        self.nxt = self.max;
        self.retransmitted_at_ms = now.as_millis_wrapping();
        self.sent.clear();
        self.sent.push(now, self.max);
        if again {
            // Karn: a SYN that was sent twice gives no sample (RFC 6298 §3).
            self.sampled_to = self.max;
        }
    }

    /// The guest acknowledged our SYN.
    pub(super) fn on_syn_acked(&mut self, now: Instant, config: &Config, agreed: &Agreed) {
        let at = self.sent.advance(self.max);
        if let Some(at) = at
            && self.sampled_to.before(self.max)
        {
            self.rtt.sample(now.since(at));
        }
        self.una = self.max;
        self.nxt = self.max;
        self.recover = self.max - 1;
        self.reduced = self.max;
        self.sampled_to = self.max;
        self.sack = agreed.sack;
        let mss = u32::from(agreed.payload_max());
        self.congestion.start(config, mss, self.attempts > 0);
        self.attempts = 0;
    }

    // The guest's window

    /// Takes the window of a segment without looking at its age: the first one.
    pub(super) fn start_window(&mut self, sequence: Seq, acknowledgment: Seq, window: u32) {
        self.window_seq = sequence;
        self.window_ack = acknowledgment;
        self.window_end = acknowledgment + window;
        self.window_max = self.window_max.max(window);
    }

    /// Takes the window of a segment unless it is older than the last (RFC 9293 §3.10.7.4, SND.WL1
    /// and SND.WL2). Returns whether its right edge moved to the right.
    pub(super) fn update_window(&mut self, segment: &Segment, window: u32) -> bool {
        let before = self.window_end;
        let (sequence, ack) = (segment.sequence, segment.acknowledgment);
        let newer = self.window_seq.before(sequence)
            || (self.window_seq == sequence && self.window_ack.at_or_before(ack));
        if newer {
            self.start_window(sequence, ack, window);
        }
        before.before(self.window_end)
    }

    /// Bytes that the guest takes from `start` on.
    pub(super) fn window_from(&self, start: Seq) -> u32 {
        if start.before(self.window_end) {
            self.window_end.since(start)
        } else {
            0
        }
    }

    /// Bytes that the guest takes from the first unacknowledged on.
    pub(super) fn guest_window(&self) -> u32 {
        self.window_from(self.una)
    }

    /// Whether the guest takes nothing at all.
    pub(super) fn is_window_closed(&self) -> bool {
        self.window_from(self.una) == 0
    }

    // Sending

    /// Whether everything in the queue, and the FIN, was sent and is in flight or acknowledged.
    pub(super) fn is_all_sent(&self, queue: &SendQueue) -> bool {
        !self
            .nxt
            .before(self.una + queue_bytes(queue) + u32::from(queue.finished))
    }

    /// The next piece to send, if the windows allow one. `size` is the payload of one wire segment.
    pub(super) fn next(&mut self, queue: &SendQueue, size: u32) -> Option<Chunk> {
        let segment_max = queue.segment_max.max(1);
        let size = size.min(segment_max);
        if self.tail.is_due
            && let Some(chunk) = self.tail_probe(queue, size)
        {
            return Some(chunk);
        }
        let place = self.place(queue, size)?;
        let data_end = self.una + queue_bytes(queue);
        let limit = place.hole_end.map_or(data_end, |end| end.min(data_end));
        self.fill(queue, size, &place, limit)
    }

    /// As much of the queue as goes to `place`, up to `limit`.
    fn fill(&self, queue: &SendQueue, size: u32, place: &Place, limit: Seq) -> Option<Chunk> {
        let &Place { start, room, .. } = place;
        let data = if start.before(limit) {
            limit.since(start)
        } else {
            0
        };
        let retransmission = start.before(self.max);
        let window = self.window_from(start);
        let mut len = data.min(window).min(room).min(queue.segment_max.max(1));
        if len < data {
            if len >= size {
                // Whole segments; the rest waits for company.
                len -= len % size;
            } else if room <= window || len == 0 || (!retransmission && len < self.window_max / 2) {
                // RFC 9293 §3.8.6.2.1: no silly segments. The window will open, or the persist
                // timer overrides. What was sent before into a window that shrank since goes
                // into what is left of it (RFC 9293 §3.8.6).
                return None;
            }
        }
        let last = start + len == self.una + queue_bytes(queue);
        let fin = queue.finished && last && len < window;
        if len == 0 && !fin {
            return None;
        }
        Some(Chunk {
            start,
            len,
            fin,
            last,
            retransmission,
            probe: false,
        })
    }

    /// Where the next piece starts, and how much congestion control allows there.
    fn place(&self, queue: &SendQueue, size: u32) -> Option<Place> {
        if let Some(repair) = &self.repair
            && let Some((start, end)) = repair.board.first_lost()
        {
            let room = self.room(size, repair.board.flying());
            return Some(Place {
                start,
                hole_end: Some(end),
                room,
            });
        }
        if self.repair.is_none() && self.recovery == Recovery::Fast && self.retransmit_first {
            return Some(Place {
                start: self.una,
                hole_end: None,
                room: size,
            });
        }
        if self.is_all_sent(queue) {
            return None;
        }
        let flying = match &self.repair {
            Some(repair) => repair.board.flying(),
            None => self.nxt.since(self.una),
        };
        Some(Place {
            start: self.nxt,
            hole_end: None,
            room: self.room(size, flying),
        })
    }

    /// Bytes that may be added to those that are flying.
    fn room(&self, size: u32, flying: u32) -> u32 {
        let mut window = self.congestion.window();
        if self.recovery == Recovery::Open && !self.sack {
            // Limited transmit (RFC 3042).
            let more = u32::from(self.duplicates.min(DUPLICATES - 1)) * size;
            window = window.saturating_add(more);
        }
        let least = if self.retransmit_first { size } else { 0 };
        window.saturating_sub(flying).max(least)
    }

    /// What to send into a window that is closed, or too small for a sensible segment
    /// (RFC 9293 §3.8.6.1).
    pub(super) fn probe(&mut self, queue: &SendQueue, size: u32) -> Option<Chunk> {
        let data = queue_bytes(queue);
        let window = self.window_from(self.una);
        let len = data
            .min(window.max(1))
            .min(size)
            .min(queue.segment_max.max(1));
        let last = len == data;
        let fin = queue.finished && last && (len < window || len == 0);
        if len == 0 && !fin {
            return None;
        }
        let retransmission = self.una.before(self.max);
        let start = self.una;
        Some(Chunk {
            start,
            len,
            fin,
            last,
            retransmission,
            probe: window == 0,
        })
    }

    /// `chunk` is being sent. Returns whether the retransmission timer starts anew.
    pub(super) fn on_sent(&mut self, now: Instant, chunk: &Chunk) -> bool {
        let end = chunk.end();
        let first = self.nxt == self.una;
        let probes_tail = self.tail.on_sent(chunk, end, first);
        let restart = first || self.retransmit_first || probes_tail;
        if chunk.retransmission {
            self.retransmitted_at_ms = now.as_millis_wrapping();
        }
        self.max = self.max.max(end);
        self.fin_sent |= chunk.fin;
        if chunk.probe {
            return restart;
        }
        if let Some(repair) = &mut self.repair {
            repair.on_sent(now, chunk.start, end, self.nxt);
        } else {
            if chunk.retransmission {
                // Karn: no sample from what was sent twice (RFC 6298 §3).
                self.sampled_to = self.max;
                self.ambiguous = true;
            }
            if self.nxt.before(end) {
                self.sent.push(now, end);
            }
        }
        self.retransmit_first = false;
        self.nxt = self.nxt.max(end);
        restart
    }

    /// Whether anything was sent that is neither acknowledged nor about to be sent again.
    pub(super) fn is_in_flight(&self) -> bool {
        self.nxt != self.una
    }

    pub(super) fn cwnd(&self) -> u32 {
        self.congestion.window()
    }

    /// The sequence number of a RST that the guest takes: the next, unless that is outside its
    /// window.
    pub(super) fn reset_sequence(&self) -> Seq {
        self.max.min(self.window_end).max(self.una)
    }
}

pub(super) fn queue_bytes(queue: &SendQueue) -> u32 {
    queue.bytes.min(QUEUE_BYTES_MAX)
}

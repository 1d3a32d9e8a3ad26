//! The sending side: what of the engine's queue may leave now, and what an ACK says about it.
//!
//! Sequence numbers, `una ≤ nxt ≤ max`:
//!
//! ```text
//!        una            nxt                max        una + queue.bytes
//!   acked │  in flight   │  to send again   │  never sent      │ (FIN)
//! ```
//!
//! `nxt` and `max` differ only after a retransmission timeout, when `nxt` goes back to `una`
//! and what the scoreboard holds is stepped over, and after a window probe, which moves `max` alone.
//! Nothing is in flight when `nxt == una`; what then waits in the queue waits for the guest's window.
//!
//! Recovery is in one of three modes:
//!
//! - **Open**: new data as the windows allow; one more segment for each of the first two duplicate
//!   ACKs (RFC 3042; with SACK by itself, since what the guest holds is not in flight).
//! - **Fast** (RFC 6675 with SACK, RFC 6582 without): entered by the third duplicate ACK or when
//!   the scoreboard says so; left when everything up to `recover` is acknowledged.
//! - **Loss** (RFC 5681 §3.1): entered by the timer; sends again from `una` in slow start; no fast
//!   retransmission before `recover` (RFC 6582 §3.2).

use alloc::boxed::Box;
use core::time::Duration;

use super::config::Config;
use super::congestion::Congestion;
use super::rtt::Rtt;
use super::scoreboard::Scoreboard;
use super::segment::Segment;
use super::seq::SequenceNumber as Seq;
use super::verdict::SendQueue;
use crate::time::Instant;

/// Duplicate ACKs that start fast recovery (RFC 5681 §3.2).
const DUPLICATES: u8 = 3;
/// Half of the sequence space is the limit; no queue comes near this.
const QUEUE_BYTES_MAX: u32 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
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
    fn end(&self) -> Seq {
        self.start + self.len + u32::from(self.fin)
    }
}

/// What an ACK acknowledged for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acked {
    pub(super) bytes: u32,
    pub(super) fin: bool,
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
    window_end: Seq,
    /// SND.WL1, SND.WL2.
    window_seq: Seq,
    window_ack: Seq,
    /// The largest window that the guest ever offered.
    window_max: u32,
    /// `max` when recovery began.
    recover: Seq,
    /// `max` when the congestion window was last reduced: until that is acknowledged, an echo tells
    /// of the same congestion.
    reduced: Seq,
    /// Holes below this were filled again in fast recovery (HighRxt of RFC 6675 §2).
    high_retransmitted: Seq,
    /// The segment being timed ends here, when `timing`.
    timed_end: Seq,
    timed_at: Instant,
    /// Our timestamp clock when something was last sent again. An echo of an earlier time may be
    /// of the first attempt, and tells no round trip.
    retransmitted_at_ms: u32,
    pub(super) rtt: Rtt,
    congestion: Congestion,
    scoreboard: Option<Box<Scoreboard>>,
    recovery: Recovery,
    timing: bool,
    pub(super) fin_sent: bool,
    /// Fast recovery: the first hole goes out whatever the window says.
    retransmit_first: bool,
    duplicates: u8,
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
            high_retransmitted: iss,
            timed_end: iss,
            timed_at: Instant::ZERO,
            retransmitted_at_ms: 0,
            rtt: Rtt::default(),
            congestion: Congestion::new(),
            scoreboard: None,
            recovery: Recovery::Open,
            timing: false,
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
        // Karn: a SYN that was sent twice gives no sample (RFC 6298 §3).
        self.timing = self.max == self.una;
        self.timed_at = now;
        self.retransmitted_at_ms = now.as_millis_wrapping();
        self.max = self.una + 1;
        self.nxt = self.max;
        self.timed_end = self.max;
    }

    /// The guest acknowledged our SYN.
    pub(super) fn on_syn_acked(&mut self, now: Instant, config: &Config, mss: u16) {
        if self.timing {
            self.rtt.sample(now.since(self.timed_at));
            self.timing = false;
        }
        self.una = self.max;
        self.nxt = self.max;
        self.recover = self.max - 1;
        self.reduced = self.max;
        self.high_retransmitted = self.max;
        self.congestion
            .start(u32::from(mss), config.initial_window, self.attempts > 0);
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
    fn window_from(&self, start: Seq) -> u32 {
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

    // ACKs

    /// Whether an ACK is in the range that may be looked at (RFC 5961 §5.2).
    pub(super) fn is_ack_plausible(&self, ack: Seq) -> bool {
        ack.at_or_before(self.max) && !ack.before(self.una - self.window_max)
    }

    /// Whether a segment is a duplicate ACK in the sense of RFC 5681 §2, but for its payload. To be
    /// asked before the window is updated.
    pub(super) fn is_duplicate_ack(&self, ack: Seq, window: u32) -> bool {
        ack == self.una && self.nxt != self.una && ack + window == self.window_end
    }

    /// `ack` acknowledges something new, and is plausible. `echo` is TSecr, if timestamps were agreed.
    pub(super) fn on_new_ack(
        &mut self,
        now: Instant,
        ack: Seq,
        mss: u32,
        echo: Option<u32>,
    ) -> Acked {
        let covered = ack.since(self.una);
        let flight = self.max.since(self.una);
        self.take_sample(now, ack, echo);
        self.una = ack;
        self.nxt = self.nxt.max(ack);
        self.high_retransmitted = self.high_retransmitted.max(ack);
        self.reduced = self.reduced.max(ack);
        self.attempts = 0;
        if let Some(scoreboard) = &mut self.scoreboard {
            scoreboard.advance(ack);
            if scoreboard.is_empty() {
                self.scoreboard = None;
            }
        }
        self.recover_on_ack(ack, covered, flight, mss);
        let fin = self.fin_sent && ack == self.max;
        Acked {
            bytes: covered - u32::from(fin),
            fin,
        }
    }

    /// What new data acknowledged means to recovery and to the congestion window.
    fn recover_on_ack(&mut self, ack: Seq, covered: u32, flight: u32, mss: u32) {
        match self.recovery {
            Recovery::Open => {
                self.duplicates = 0;
                // Keeps it within reach of comparison, and before `una` unless it is there now.
                self.recover = self.recover.max(ack - 1);
                self.congestion.on_ack(covered, mss, flight);
            }
            Recovery::Fast if self.recover.at_or_before(ack) => {
                // RFC 6582 §3.2 step 3, full acknowledgment; RFC 6675 §5 step A.
                self.congestion.on_recovered();
                self.recovery = Recovery::Open;
                self.retransmit_first = false;
                self.duplicates = 0;
            }
            Recovery::Fast => {
                if self.scoreboard.is_none() {
                    // RFC 6582 §3.2 step 3, partial acknowledgment: the next hole begins here.
                    self.congestion.deflate(covered, mss);
                    self.retransmit_first = true;
                }
            }
            Recovery::Loss => {
                self.congestion.on_ack(covered, mss, flight);
                if self.recover.at_or_before(ack) {
                    self.recovery = Recovery::Open;
                    self.duplicates = 0;
                }
            }
        }
    }

    fn take_sample(&mut self, now: Instant, ack: Seq, echo: Option<u32>) {
        if self.timing {
            if self.timed_end.at_or_before(ack) {
                self.rtt.sample(now.since(self.timed_at));
                self.timing = false;
            }
        } else if let Some(echo) = echo {
            // RFC 7323 §4.1. An echo from the future is nonsense.
            let (echo, now) = (Seq(echo), Seq(now.as_millis_wrapping()));
            if Seq(self.retransmitted_at_ms).at_or_before(echo) && echo.at_or_before(now) {
                self.rtt
                    .sample(Duration::from_millis(u64::from(now.since(echo))));
            }
        }
    }

    /// Takes the SACK blocks of a segment. Returns whether they told anything new.
    pub(super) fn on_sack(&mut self, segment: &Segment) -> bool {
        let mut news = false;
        for &(left, right) in segment.options.sack.as_slice() {
            // What is below `una` is a duplicate told (RFC 2883); what was never sent is nonsense.
            let valid = self.una.before(left) && left.before(right) && right.at_or_before(self.max);
            if valid {
                let scoreboard = self
                    .scoreboard
                    .get_or_insert_with(|| Box::new(Scoreboard::new()));
                news |= scoreboard.insert(left, right) > 0;
            }
        }
        news
    }

    /// A duplicate ACK came, or one that told of new bytes above a hole.
    pub(super) fn on_duplicate_ack(&mut self, mss: u32) {
        self.duplicates = self.duplicates.saturating_add(1);
        if self.recovery == Recovery::Fast && self.scoreboard.is_none() {
            // RFC 5681 §3.2 step 4: a segment left the network.
            self.congestion.inflate(mss);
        }
    }

    /// Starts fast recovery when enough says that the first segment is lost (RFC 6675 §5,
    /// RFC 5681 §3.2 step 2).
    pub(super) fn detect_loss(&mut self, mss: u32) {
        if self.recovery != Recovery::Open || self.nxt == self.una {
            return;
        }
        let told = self
            .scoreboard
            .as_ref()
            .is_some_and(|board| board.is_lost(self.una, mss));
        // RFC 6582 §3.2 step 1: duplicates of what was sent before the last recovery prove nothing.
        let counted = self.duplicates >= DUPLICATES && self.recover.before(self.una);
        if !counted && !told {
            return;
        }
        self.congestion.on_loss(self.max.since(self.una), mss);
        if self.scoreboard.is_none() {
            self.congestion.inflate(u32::from(DUPLICATES) * mss);
        }
        self.recovery = Recovery::Fast;
        self.recover = self.max;
        self.reduced = self.max;
        self.nxt = self.max;
        self.high_retransmitted = self.una;
        self.retransmit_first = true;
    }

    /// The retransmission timer expired (RFC 6298 §5.4–5.6, RFC 5681 §3.1).
    pub(super) fn on_timeout(&mut self, mss: u32) {
        let flight = self.max.since(self.una);
        let first = self.attempts == 0 && self.recovery != Recovery::Loss;
        self.congestion.on_timeout(flight, mss, first);
        // RFC 2018 §8: a guest may drop what it said it holds. Once the timer has to repeat, or the
        // guest's word contradicts itself, nothing of it is believed.
        let una = self.una;
        if self.attempts > 0 || self.scoreboard.as_ref().is_some_and(|b| b.begins_at(una)) {
            self.scoreboard = None;
        }
        self.recovery = Recovery::Loss;
        self.recover = self.max;
        self.reduced = self.max;
        self.nxt = self.una;
        self.retransmit_first = false;
        self.duplicates = 0;
        self.timing = false;
        self.attempts = self.attempts.saturating_add(1);
    }

    /// An ACK, which was taken already, echoes congestion that the path marked (ECE). Counts once
    /// for all that is in flight (RFC 3168 §6.1.2). Returns whether the congestion window was reduced
    /// now, which CWR tells the guest.
    pub(super) fn on_congestion_echo(&mut self, _now: Instant, mss: u32) -> bool {
        if self.recovery != Recovery::Open || self.una.before(self.reduced) {
            return false;
        }
        self.congestion.on_loss(self.max.since(self.una), mss);
        self.reduced = self.max;
        true
    }

    /// Whether `sequence` was sent and is not acknowledged: what an ICMP error must quote to be
    /// believed (RFC 5927 §4.1).
    pub(super) fn is_outstanding(&self, sequence: Seq) -> bool {
        self.una.at_or_before(sequence) && sequence.before(self.max)
    }

    /// Everything in flight was too large for the path, and goes out again in smaller segments. No
    /// congestion is to be read from that.
    pub(super) fn send_again(&mut self) {
        self.recovery = Recovery::Loss;
        self.recover = self.max;
        self.nxt = self.una;
        self.retransmit_first = false;
        self.duplicates = 0;
        self.timing = false;
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
        if self.recovery != Recovery::Fast && self.is_all_sent(queue) {
            return None;
        }
        let segment_max = queue.segment_max.max(1);
        let size = size.min(segment_max);
        let data_end = self.una + queue_bytes(queue);
        let place = self.place(data_end + u32::from(queue.finished), size)?;
        let Place {
            start,
            hole_end,
            room,
        } = place;

        let limit = hole_end.map_or(data_end, |end| end.min(data_end));
        let data = if start.before(limit) {
            limit.since(start)
        } else {
            0
        };
        let window = self.window_from(start);
        let mut len = data.min(window).min(room).min(segment_max);
        if len < data {
            if len >= size {
                // Whole segments; the rest waits for company.
                len -= len % size;
            } else if room <= window || len == 0 || len < self.window_max / 2 {
                // RFC 9293 §3.8.6.2.1: no silly segments. The window will open, or the persist
                // timer overrides.
                return None;
            }
        }
        let last = start + len == data_end;
        let fin = queue.finished && last && len < window;
        if len == 0 && !fin {
            return None;
        }
        let retransmission = start.before(self.max);
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
    fn place(&self, end: Seq, size: u32) -> Option<Place> {
        let window = self.congestion.window();
        let Some(board) = &self.scoreboard else {
            return Some(match self.recovery {
                Recovery::Fast if self.retransmit_first => Place {
                    start: self.una,
                    hole_end: None,
                    room: size,
                },
                Recovery::Fast => {
                    let room = window.saturating_sub(self.max.since(self.una));
                    Place {
                        start: self.max,
                        hole_end: None,
                        room,
                    }
                }
                Recovery::Loss => {
                    let room = window.saturating_sub(self.nxt.since(self.una));
                    Place {
                        start: self.nxt,
                        hole_end: None,
                        room,
                    }
                }
                Recovery::Open => {
                    // Limited transmit (RFC 3042).
                    let more = u32::from(self.duplicates.min(DUPLICATES - 1)) * size;
                    let window = window.saturating_add(more);
                    let room = window.saturating_sub(self.nxt.since(self.una));
                    Place {
                        start: self.nxt,
                        hole_end: None,
                        room,
                    }
                }
            });
        };
        if self.recovery != Recovery::Fast {
            let held = board.held_between(self.una, self.nxt);
            let room = window.saturating_sub(self.nxt.since(self.una) - held);
            let (start, hole_end) = board.hole(self.nxt);
            return Some(Place {
                start,
                hole_end,
                room,
            });
        }
        if self.retransmit_first {
            // RFC 6675 §5 step 4.3: the first segment goes out at once.
            let (start, hole_end) = board.hole(self.una);
            return Some(Place {
                start,
                hole_end,
                room: size,
            });
        }
        let pipe = board.pipe(self.una, self.max, self.high_retransmitted, size);
        let room = window.saturating_sub(pipe);
        if room < size {
            return None;
        }
        // NextSeg of RFC 6675 §4.
        let (hole, hole_end) = board.hole(self.high_retransmitted.max(self.una));
        let new_data = self.max.before(end) && self.window_from(self.max) > 0;
        let refill = hole_end.is_some() && (board.is_lost(hole, size) || !new_data);
        Some(if refill {
            Place {
                start: hole,
                hole_end,
                room,
            }
        } else {
            Place {
                start: self.max,
                hole_end: None,
                room,
            }
        })
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
        let fresh_start = self.nxt == self.una || self.retransmit_first;
        if chunk.retransmission {
            // Karn: no sample from what was sent twice (RFC 6298 §3).
            self.timing &= self.timed_end.at_or_before(chunk.start);
            self.retransmitted_at_ms = now.as_millis_wrapping();
        } else if !self.timing && !chunk.probe {
            self.timing = true;
            self.timed_end = end;
            self.timed_at = now;
        }
        if self.recovery == Recovery::Fast && chunk.retransmission {
            self.retransmit_first = false;
            self.high_retransmitted = self.high_retransmitted.max(end);
        }
        self.max = self.max.max(end);
        if !chunk.probe {
            self.nxt = match self.recovery {
                Recovery::Fast => self.max,
                Recovery::Open | Recovery::Loss => end,
            };
        }
        self.fin_sent |= chunk.fin;
        fresh_start
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

fn queue_bytes(queue: &SendQueue) -> u32 {
    queue.bytes.min(QUEUE_BYTES_MAX)
}

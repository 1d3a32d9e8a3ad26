//! A segment may leave: which one, and its header.

use core::mem;
use core::time::Duration;

use super::config::Config;
use super::connection::Connection;
use super::options::sack_len;
use super::reset;
use super::segment::{Ecn, Flags, Options, SackBlocks, Segment, Timestamps};
use super::send::Chunk;
use super::seq::SequenceNumber as Seq;
use super::timers::Deadline;
use super::verdict::{SendQueue, State, Transmit};
use crate::time::Instant;

/// An ACK that tells of a gap, or of its end, or that answers a run of segments, is sent again once when
/// nothing comes for so long. If it is lost, the guest that repairs a loss stands still until its timer
/// expires, 200 ms later, and another until its tail loss probe, which may be lost as well.
const ACK_REPEAT: Duration = Duration::from_millis(4);

impl Connection {
    /// The next segment to emit; call until `None`. Data goes first, retransmissions before new
    /// bytes, and takes a due ACK along; a pure ACK is sent only where no data is.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        config: &Config,
        queue: &SendQueue,
    ) -> Option<Transmit> {
        if let Some(sequence) = self.reset_due.take() {
            return Some(self.with_ports(reset::bare(sequence)));
        }
        match self.state {
            State::Closed | State::Held => return None,
            State::SynSent | State::SynReceived => {
                if self.syn_due {
                    return Some(self.transmit_syn(now, config));
                }
                if self.state == State::SynSent {
                    return None;
                }
            }
            State::Established
            | State::CloseWait
            | State::FinWait1
            | State::Closing
            | State::LastAck => {
                if let Some(transmit) = self.transmit_data(now, config, queue) {
                    return Some(transmit);
                }
            }
            State::FinWait2 | State::TimeWait => {}
        }
        if self.keepalive_due {
            self.keepalive_due = false;
            if !self.send.is_in_flight() {
                // RFC 1122 §4.2.3.6: a segment from before the window makes the guest answer.
                return Some(self.transmit_bare(now, config, self.send.una - 1));
            }
        }
        self.transmit_ack(now, config)
    }

    fn transmit_syn(&mut self, now: Instant, config: &Config) -> Transmit {
        self.syn_due = false;
        let retransmission = self.send_unacknowledged() > 0;
        self.send.on_syn_sent(now);
        let sequence = self.send.una;
        let window = self.receive.syn_window(config);
        let value = now.as_millis_wrapping();
        let (flags, acknowledgment, echo) = if self.state == State::SynSent {
            (Flags::SYN, Seq(0), 0)
        } else {
            self.receive.note_ack_sent(false, self.agreed.sack);
            (
                Flags::SYN | Flags::ACK | self.ecn.syn_ack_flags(),
                self.receive.nxt,
                self.receive.ts_recent(),
            )
        };
        let segment = Segment {
            sequence,
            acknowledgment,
            flags,
            window,
            options: self.agreed.syn_options(config, Timestamps { value, echo }),
            ..Segment::default()
        };
        Transmit {
            retransmission,
            ..self.with_ports(segment)
        }
    }

    fn transmit_data(
        &mut self,
        now: Instant,
        config: &Config,
        queue: &SendQueue,
    ) -> Option<Transmit> {
        let payload_max = u32::from(self.agreed.payload_max());
        let sack = self.receive.sack_blocks(self.agreed.sack_blocks_max());
        let size = payload_max - u32::from(sack_len(sack.as_slice().len()));
        // A link that takes no super-frames can't cut them.
        let alone = SendQueue {
            segment_max: queue.segment_max.min(size),
            ..*queue
        };
        let cuts = queue.segment_max > u32::from(config.mss);
        let queue = if cuts { queue } else { &alone };
        let mut chunk = self.send.next(queue, size);
        if chunk.is_none() && self.probe_due && !self.send.is_in_flight() {
            chunk = self.send.probe(queue, size);
        }
        self.probe_due = false;
        let Some(mut chunk) = chunk else {
            if mem::take(&mut self.loss_timer_stale) {
                // Once for all that happened in this turn.
                self.arm_loss_timer(now);
            }
            let waits = !self.send.is_in_flight() && !self.send.is_all_sent(queue);
            if waits && !self.timers.retransmit.is_on() {
                // RFC 9293 §3.8.6.1: only the guest's window holds it back.
                self.start_retransmit(now, config);
            }
            return None;
        };
        if self.ecn.reduced && !chunk.retransmission && chunk.len > size {
            // What says CWR is not cut by a link.
            chunk.truncate(size);
        }
        Some(self.transmit_chunk(now, config, &chunk, sack, size))
    }

    fn transmit_chunk(
        &mut self,
        now: Instant,
        config: &Config,
        chunk: &Chunk,
        sack: SackBlocks,
        size: u32,
    ) -> Transmit {
        let front = self.send.una;
        if self.send.on_sent(now, chunk) || !self.timers.retransmit.is_on() {
            self.start_retransmit(now, config);
        }
        self.loss_timer_stale = true;
        let mut flags = Flags::ACK;
        if chunk.last && chunk.len > 0 {
            flags = flags | Flags::PSH;
        }
        if chunk.fin {
            flags = flags | Flags::FIN;
            self.state = match self.state {
                State::Established => State::FinWait1,
                State::CloseWait => State::LastAck,
                other => other,
            };
        }
        let fresh = chunk.len > 0 && !chunk.retransmission && !chunk.probe;
        let may_be_marked = self.ecn.agreed && fresh;
        if may_be_marked {
            flags = flags | self.ecn.data_flags(chunk.start + chunk.len);
        }
        self.note_ack_sent(now, true);
        let ecn = if may_be_marked {
            Ecn::Capable
        } else {
            Ecn::NotCapable
        };
        let segment = self.header(now, config, chunk.start, flags, sack, ecn);
        let first = chunk.start.since(front);
        Transmit {
            payload: first..first + chunk.len,
            gso_size: (chunk.len > size).then_some(size as u16),
            retransmission: chunk.retransmission,
            ..self.with_ports(segment)
        }
    }

    fn transmit_ack(&mut self, now: Instant, config: &Config) -> Option<Transmit> {
        let may_receive = matches!(
            self.state,
            State::Established | State::FinWait1 | State::FinWait2
        );
        let due = self.receive.is_ack_due()
            || (may_receive && self.receive.is_update_due(config, self.agreed.our_scale));
        if due {
            return Some(self.transmit_bare(now, config, self.send.max));
        }
        if self.receive.is_ack_delayed() && !self.timers.ack.is_on() {
            self.timers.ack = Deadline::at(now + config.delayed_ack);
        }
        None
    }

    /// A segment without payload.
    fn transmit_bare(&mut self, now: Instant, config: &Config, sequence: Seq) -> Transmit {
        let sack = self.receive.sack_blocks(self.agreed.sack_blocks_max());
        self.note_ack_sent(now, false);
        let segment = self.header(now, config, sequence, Flags::ACK, sack, Ecn::NotCapable);
        self.with_ports(segment)
    }

    fn note_ack_sent(&mut self, now: Instant, with_data: bool) {
        let disturbed = self.receive.note_ack_sent(with_data, self.agreed.sack);
        self.timers.ack = if disturbed {
            Deadline::at(now + ACK_REPEAT)
        } else {
            Deadline::OFF
        };
    }

    /// The header of a segment of a synchronised connection. It carries the window, whose edge moves
    /// with it.
    fn header(
        &mut self,
        now: Instant,
        config: &Config,
        sequence: Seq,
        flags: Flags,
        sack: SackBlocks,
        ecn: Ecn,
    ) -> Segment {
        let timestamps = self.agreed.timestamps.then(|| Timestamps {
            value: now.as_millis_wrapping(),
            echo: self.receive.ts_recent(),
        });
        Segment {
            sequence,
            acknowledgment: self.receive.nxt,
            flags: flags | self.ecn.ack_flags(),
            window: self.receive.window(config, self.agreed.our_scale),
            options: Options {
                timestamps,
                sack,
                ..Options::default()
            },
            ecn,
            ..Segment::default()
        }
    }

    fn with_ports(&self, segment: Segment) -> Transmit {
        Transmit {
            segment: Segment {
                source_port: self.our_port,
                target_port: self.guest_port,
                ..segment
            },
            payload: 0..0,
            gso_size: None,
            retransmission: false,
        }
    }
}

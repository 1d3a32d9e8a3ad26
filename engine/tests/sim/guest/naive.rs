//! A TCP that has nothing of ours: stop-and-wait, no options, header bytes written and read by hand.
//!
//! It sends one segment, waits until all of it is acknowledged, and sends it again every second until
//! then. It takes only what comes in order. It is here so that our TCP does not agree with itself
//! alone.

use std::collections::VecDeque;

use towpath_ring::driver::Errno;
use towpath_ring::driver::sim::{Got, Random};

use crate::app::Socket;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

const SECOND: u64 = 1_000_000_000;
/// It sends again after so long, and gives up after so many times.
const PATIENCE: u64 = SECOND;
const TRIES: u32 = 60;
/// When nothing happened for so long, it asks whether the other is still there.
const QUIET: u64 = 60 * SECOND;
/// What it lets a segment carry, and what it says of that: nothing (RFC 9293 §3.7.1).
const SEGMENT: usize = 536;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Opening,
    Open,
    /// Both directions are through; the last FIN may come again.
    Lingering,
    Gone,
}

#[derive(Debug)]
pub(crate) struct Naive {
    ports: (u16, u16),
    phase: Phase,
    sequence: u32,
    expected: u32,
    window: usize,
    buffer: usize,
    sending: VecDeque<u8>,
    /// Whether the front of `sending` is under way, and how much of it ever was, a FIN included.
    flying: bool,
    sent: usize,
    fin_acknowledged: bool,
    finished: bool,
    received: VecDeque<u8>,
    peer_finished: bool,
    failed: Option<Errno>,
    /// The next time that it sends again, asks or goes.
    alarm: u64,
    tries: u32,
    answers: bool,
    resets: bool,
    closed: bool,
}

impl Naive {
    pub(crate) fn open(now: u64, port: u16, target: u16, first: u32, buffer: usize) -> Naive {
        Naive {
            ports: (port, target),
            phase: Phase::Opening,
            sequence: first,
            expected: 0,
            window: 0,
            buffer: buffer.min(65_535),
            sending: VecDeque::new(),
            flying: false,
            sent: 0,
            fin_acknowledged: false,
            finished: false,
            received: VecDeque::new(),
            peer_finished: false,
            failed: None,
            alarm: now,
            tries: 0,
            answers: false,
            resets: false,
            closed: false,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.phase != Phase::Opening
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone && !self.resets
    }

    pub(crate) fn next_at(&self) -> Option<u64> {
        (self.phase != Phase::Gone).then_some(self.alarm)
    }

    /// A TCP packet, from its header on.
    pub(crate) fn on_packet(&mut self, now: u64, packet: &[u8]) {
        let long = |at: usize| {
            let bytes = packet[at..at + 4].try_into().expect("four bytes");
            u32::from_be_bytes(bytes)
        };
        let (sequence, acknowledged, flags) = (long(4), long(8), packet[13]);
        let payload = &packet[usize::from(packet[12] >> 4) * 4..];
        if self.phase == Phase::Gone {
            return;
        }
        if self.phase == Phase::Opening {
            return self.on_answer(now, sequence, acknowledged, flags, packet);
        }
        if flags & RST != 0 {
            if self.phase == Phase::Lingering {
                // All was said: an old acknowledgment met nobody.
                self.phase = Phase::Gone;
            } else if sequence == self.expected {
                self.fail(Errno::CONNRESET);
            } else {
                self.answers = true;
            }
            return;
        }
        if flags & ACK != 0 {
            self.take_ack(now, acknowledged, packet);
        }
        self.take_payload(sequence, payload, flags);
        let through = self.peer_finished && self.fin_acknowledged;
        if through && self.phase == Phase::Open {
            self.phase = Phase::Lingering;
            self.alarm = now + 2 * SECOND;
        }
    }

    fn on_answer(&mut self, now: u64, sequence: u32, acknowledged: u32, flags: u8, packet: &[u8]) {
        if acknowledged != self.sequence.wrapping_add(1) || flags & ACK == 0 {
            return;
        }
        if flags & RST != 0 {
            return self.fail(Errno::CONNREFUSED);
        }
        if flags & SYN != 0 {
            self.phase = Phase::Open;
            self.sequence = acknowledged;
            self.expected = sequence.wrapping_add(1);
            self.window = window_of(packet);
            self.answers = true;
            self.tries = 0;
            self.alarm = now + QUIET;
        }
    }

    fn take_ack(&mut self, now: u64, acknowledged: u32, packet: &[u8]) {
        let ahead = acknowledged.wrapping_sub(self.sequence) as usize;
        if ahead > self.sent {
            // Old, or of what was never sent.
            return;
        }
        self.window = window_of(packet);
        self.tries = 0;
        if ahead == 0 {
            return;
        }
        let bytes = ahead.min(self.sending.len());
        self.sending.drain(..bytes);
        self.fin_acknowledged |= ahead > bytes;
        self.sequence = acknowledged;
        // What is left of the segment goes with the next.
        self.flying = false;
        self.sent -= ahead;
        self.alarm = now + QUIET;
    }

    fn take_payload(&mut self, sequence: u32, payload: &[u8], flags: u8) {
        let length = payload.len() + usize::from(flags & FIN != 0);
        if length == 0 {
            // What is asked with an old number wants an answer.
            self.answers |= sequence != self.expected;
            return;
        }
        self.answers = true;
        let known = self.expected.wrapping_sub(sequence) as usize;
        if known > payload.len() || self.peer_finished {
            return;
        }
        let fresh = &payload[known..];
        let room = self.buffer.saturating_sub(self.received.len());
        let taken = if self.closed {
            fresh.len()
        } else {
            fresh.len().min(room)
        };
        if !self.closed {
            self.received.extend(&fresh[..taken]);
        }
        self.expected = self.expected.wrapping_add(taken as u32);
        if taken == fresh.len() && flags & FIN != 0 {
            self.peer_finished = true;
            self.expected = self.expected.wrapping_add(1);
        }
    }

    fn fail(&mut self, errno: Errno) {
        self.failed = Some(errno);
        self.phase = Phase::Gone;
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: u64) {
        if now < self.alarm || self.phase == Phase::Gone {
            return;
        }
        if self.phase == Phase::Lingering {
            self.phase = Phase::Gone;
        } else if self.tries > TRIES {
            self.fail(Errno::TIMEDOUT);
        }
    }

    /// Everything that is to leave now: TCP packets, checksums left open.
    pub(crate) fn transmit(&mut self, now: u64, mut send: impl FnMut(Vec<u8>)) {
        if std::mem::take(&mut self.resets) {
            return send(self.packet(self.sequence, RST | ACK, &[]));
        }
        let due = now >= self.alarm;
        match self.phase {
            Phase::Gone => return,
            Phase::Opening => {
                if due {
                    self.again(now, PATIENCE);
                    send(self.packet(self.sequence, SYN, &[]));
                }
                return;
            }
            Phase::Open => {
                if (!self.flying || due) && self.has_to_send() && (self.window > 0 || due) {
                    self.again(now, PATIENCE);
                    return send(self.next_segment());
                }
                if self.has_to_send() && self.alarm > now + PATIENCE {
                    self.alarm = now + PATIENCE;
                }
                if due && !self.has_to_send() {
                    self.again(now, QUIET / 6);
                    send(self.packet(self.sequence.wrapping_sub(1), ACK, &[]));
                }
            }
            Phase::Lingering => {}
        }
        if std::mem::take(&mut self.answers) {
            send(self.packet(self.sequence, ACK, &[]));
        }
    }

    fn has_to_send(&self) -> bool {
        !self.sending.is_empty() || (self.finished && !self.fin_acknowledged)
    }

    fn again(&mut self, now: u64, after: u64) {
        self.tries += 1;
        self.alarm = now + after;
    }

    fn next_segment(&mut self) -> Vec<u8> {
        let most = self.sending.len().min(SEGMENT);
        // One byte finds out whether a closed window has opened.
        let length = most.min(self.window.max(1));
        let ends = self.finished && length == self.sending.len();
        let payload: Vec<u8> = self.sending.range(..length).copied().collect();
        self.answers = false;
        self.flying = true;
        self.sent = self.sent.max(length + usize::from(ends));
        let fin = if ends { FIN } else { 0 };
        self.packet(self.sequence, ACK | PSH | fin, &payload)
    }

    fn packet(&self, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let window = self.buffer.saturating_sub(self.received.len()) as u16;
        let acknowledged = if flags & ACK == 0 { 0 } else { self.expected };
        let mut packet = Vec::with_capacity(20 + payload.len());
        packet.extend(self.ports.0.to_be_bytes());
        packet.extend(self.ports.1.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend(acknowledged.to_be_bytes());
        packet.extend([5 << 4, flags]);
        packet.extend(window.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(payload);
        packet
    }
}

fn window_of(packet: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([packet[14], packet[15]]))
}

impl Socket for Naive {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if let Some(errno) = self.failed {
            return Err(errno);
        }
        let room = self.buffer.saturating_sub(self.sending.len());
        let n = bytes.len().min(room);
        self.sending.extend(&bytes[..n]);
        Ok(n)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<Got, Errno> {
        let n = into.len().min(self.received.len());
        // A window that was shut is said to be open, if anything can come any more.
        self.answers |= !self.peer_finished && n > 0 && self.buffer - self.received.len() < SEGMENT;
        for (place, byte) in into.iter_mut().zip(self.received.drain(..n)) {
            *place = byte;
        }
        match self.failed {
            _ if n > 0 => Ok(Got::Bytes(n)),
            Some(errno) => Err(errno),
            None if self.peer_finished => Ok(Got::Eof),
            None => Ok(Got::Nothing),
        }
    }

    fn shutdown_write(&mut self) {
        self.finished = true;
    }

    fn reset(&mut self, _: &mut Random) {
        self.resets = matches!(self.phase, Phase::Open);
        self.phase = Phase::Gone;
    }

    fn close(&mut self) {
        self.closed = true;
        self.received.clear();
    }
}

//! The connection.

use alloc::vec::Vec;
use core::time::Duration;

use super::config::Config;
use super::segment::Segment;
use super::verdict::{Received, SendQueue, State, TimerOutcome, Transmit};
use crate::time::Instant;

/// One TCP connection.
#[derive(Debug)]
pub struct Connection {
    state: State,
}

impl Connection {
    /// A SYN came from the guest. Nothing is sent until [`accept`](Self::accept).
    pub fn from_syn(_now: Instant, _config: &Config, _syn: &Segment, _iss: u32) -> Self {
        Self { state: State::Held }
    }
    /// The host side is connected: a SYN-ACK becomes due.
    pub fn accept(&mut self, _now: Instant, _config: &Config) {}
    /// Active open towards the guest: a SYN becomes due.
    pub fn open(
        _now: Instant,
        _config: &Config,
        _target_port: u16,
        _source_port: u16,
        _iss: u32,
    ) -> Self {
        Self {
            state: State::SynSent,
        }
    }
    /// A segment of this connection came from the guest.
    pub fn on_segment(
        &mut self,
        _now: Instant,
        _config: &Config,
        _segment: &Segment,
        _payload: &[u8],
    ) -> Received {
        Received::default()
    }
    /// The next bytes that had been kept.
    pub fn take_reassembled(&mut self) -> Option<Vec<u8>> {
        None
    }
    /// The next segment to emit; call until `None`.
    pub fn poll_transmit(
        &mut self,
        _now: Instant,
        _config: &Config,
        _queue: &SendQueue,
    ) -> Option<Transmit> {
        None
    }
    /// When [`on_timer`](Self::on_timer) wants to be called next.
    pub fn poll_at(&self) -> Option<Instant> {
        None
    }
    /// Time has passed.
    pub fn on_timer(&mut self, _now: Instant, _config: &Config) -> TimerOutcome {
        TimerOutcome::Idle
    }
    /// How many bytes beyond the last received one the engine takes now.
    pub fn set_receive_room(&mut self, _bytes: u32) {}
    /// Ends the connection with a RST, if one is due.
    pub fn abort(&mut self) -> Option<Segment> {
        self.state = State::Closed;
        None
    }
    /// The state.
    pub fn state(&self) -> State {
        self.state
    }
    /// Whether nothing is left.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
    /// Whether it only waits for late segments to die.
    pub fn is_time_wait(&self) -> bool {
        self.state == State::TimeWait
    }
    /// Payload bytes sent and not acknowledged.
    pub fn send_unacknowledged(&self) -> u32 {
        0
    }
    /// Smoothed round-trip time; `None` before the first sample.
    pub fn smoothed_rtt(&self) -> Option<Duration> {
        None
    }
    /// Congestion window in bytes.
    pub fn cwnd(&self) -> u32 {
        0
    }
    /// Payload bytes per wire segment that we send.
    pub fn effective_mss(&self) -> u16 {
        0
    }
}

/// The answer for a segment without connection (RFC 9293 §3.10.7.1); `None` for a RST.
pub fn reset_for(_segment: &Segment, _payload_len: u32) -> Option<Segment> {
    None
}

//! A guest's connection made of our own stack in the guest's role.

use std::collections::VecDeque;
use std::time::Duration;

use towpath_ring::driver::Errno;
use towpath_ring::driver::sim::{Got, Random};
use towpath_stack::Instant;
use towpath_stack::tcp::segment::{Flags, Segment};
use towpath_stack::tcp::{Config, Connection, SendQueue, State, TimerOutcome};

use crate::app::Socket;

/// What a guest's TCP is like.
#[derive(Clone, Debug)]
pub(crate) struct GuestTcp {
    pub(crate) mss: u16,
    pub(crate) receive_buffer: u32,
    pub(crate) send_buffer: usize,
    pub(crate) sack: bool,
    pub(crate) timestamps: bool,
    pub(crate) window_scale: bool,
    /// The largest payload of a frame: more than the MSS makes super-frames.
    pub(crate) segment_max: u32,
    /// Silence before keepalive probes; zero: none.
    pub(crate) keepalive: Duration,
}

/// A segment that leaves: header, payload, and the size of its pieces if it is a super-frame.
pub(crate) type Outgoing = (Segment, Vec<u8>, Option<u16>);

#[derive(Debug)]
pub(crate) struct Ours {
    connection: Connection,
    config: Config,
    kind: GuestTcp,
    /// Written and not acknowledged.
    sending: VecDeque<u8>,
    finished: bool,
    received: VecDeque<u8>,
    peer_finished: bool,
    failed: Option<Errno>,
    /// A reset of our own that has to leave.
    reset: Option<Segment>,
    closed: bool,
    pub(crate) retransmissions: u64,
}

impl Ours {
    pub(crate) fn open(now: u64, kind: GuestTcp, port: u16, target: u16, iss: u32) -> Ours {
        let config = Config {
            mss: kind.mss,
            window_max: kind.receive_buffer,
            window_scale: 7,
            out_of_order_max: kind.receive_buffer,
            syn_retries: 12,
            keepalive_idle: kind.keepalive,
            // A guest that is left alone with a half-open connection shall find out.
            keepalive_interval: Duration::from_secs(5),
            time_wait: Duration::from_secs(2),
            ..Config::default()
        };
        let connection = Connection::open(Instant::from_nanos(now), &config, target, port, iss);
        Ours {
            connection,
            config,
            kind,
            sending: VecDeque::new(),
            finished: false,
            received: VecDeque::new(),
            peer_finished: false,
            failed: None,
            reset: None,
            closed: false,
            retransmissions: 0,
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.connection.is_closed() && self.reset.is_none()
    }

    /// Bytes that were written and of which it is not known that they arrived.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.sending.len() as u64
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.state() > State::SynReceived
    }

    pub(crate) fn next_at(&self) -> Option<u64> {
        self.connection.poll_at().map(Instant::as_nanos)
    }

    pub(crate) fn on_segment(&mut self, now: u64, segment: &Segment, payload: &[u8]) {
        let now = Instant::from_nanos(now);
        let result = self
            .connection
            .on_segment(now, &self.config, segment, payload);
        self.sending.drain(..result.acked as usize);
        let (start, end) = (result.deliver.start as usize, result.deliver.end as usize);
        self.received.extend(&payload[start..end]);
        if result.reassembled {
            while let Some(bytes) = self.connection.take_reassembled() {
                self.received.extend(bytes);
            }
        }
        self.peer_finished |= result.finished;
        if result.reset {
            self.failed = Some(Errno::CONNRESET);
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: u64) {
        let now = Instant::from_nanos(now);
        if let TimerOutcome::Gone(reason) = self.connection.on_timer(now, &self.config)
            && reason != towpath_stack::tcp::Reason::TimeWaitOver
        {
            self.failed = Some(Errno::TIMEDOUT);
        }
    }

    pub(crate) fn transmit(&mut self, now: u64, mut send: impl FnMut(Outgoing)) {
        let now = Instant::from_nanos(now);
        if let Some(reset) = self.reset.take() {
            return send((reset, Vec::new(), None));
        }
        // A closed socket has no reader: what comes is thrown away.
        if self.closed {
            self.received.clear();
        }
        let room = (self.kind.receive_buffer as usize).saturating_sub(self.received.len());
        self.connection.set_receive_room(room as u32);
        let queue = SendQueue {
            bytes: self.sending.len() as u32,
            finished: self.finished,
            segment_max: self.kind.segment_max,
        };
        while let Some(transmit) = self.connection.poll_transmit(now, &self.config, &queue) {
            let range = transmit.payload.start as usize..transmit.payload.end as usize;
            let payload = self.sending.range(range).copied().collect();
            self.retransmissions += u64::from(transmit.retransmission);
            send((self.as_kind(transmit.segment), payload, transmit.gso_size));
        }
    }

    /// Leaves out the options that a guest of this kind does not know.
    fn as_kind(&self, mut segment: Segment) -> Segment {
        if segment.flags.contains(Flags::SYN) {
            let options = &mut segment.options;
            options.sack_permitted &= self.kind.sack;
            options.timestamps = options.timestamps.filter(|_| self.kind.timestamps);
            options.window_scale = options.window_scale.filter(|_| self.kind.window_scale);
        }
        segment
    }
}

impl Socket for Ours {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if let Some(errno) = self.failed {
            return Err(errno);
        }
        let room = self.kind.send_buffer.saturating_sub(self.sending.len());
        let n = bytes.len().min(room);
        self.sending.extend(&bytes[..n]);
        Ok(n)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<Got, Errno> {
        let n = into.len().min(self.received.len());
        if n > 0 {
            for (place, byte) in into.iter_mut().zip(self.received.drain(..n)) {
                *place = byte;
            }
            return Ok(Got::Bytes(n));
        }
        match self.failed {
            Some(errno) => Err(errno),
            None if self.peer_finished => Ok(Got::Eof),
            None => Ok(Got::Nothing),
        }
    }

    fn shutdown_write(&mut self) {
        self.finished = true;
    }

    fn reset(&mut self, _: &mut Random) {
        self.reset = self.connection.abort();
    }

    fn close(&mut self) {
        self.closed = true;
    }
}

//! One TCP connection: segments, time and the engine's calls, in any order.
//!
//! The guest's bytes go by their sequence number and the host's by their place in the stream, so
//! whatever overlaps, comes twice or is sent again can be told right from wrong where it arrives.
//! The target sees the connection from outside, as the guest and the engine do.

use std::ops::Range;
use std::time::Duration;

use towpath_stack::Instant;
use towpath_stack::tcp::segment::{Ecn, Flags, Options, SackBlocks, Segment, Timestamps};
use towpath_stack::tcp::seq::SequenceNumber as Seq;
use towpath_stack::tcp::{
    Config, Connection, Invariants, SendQueue, State, TimerOutcome, Transmit,
};

use crate::input::Input;

const STEPS_MAX: usize = 300;
/// Segments that leave at one time: all of the queue, byte by byte, and a few more.
const BURST_MAX: u32 = QUEUE_MAX + 100;
const QUEUE_MAX: u32 = 40_000;
const OUT_OF_ORDER_MAX: u32 = 20_000;
const PAYLOAD_MAX: usize = 20_000;

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(&mut input);
    for _ in 0..STEPS_MAX {
        if input.is_empty() || world.connection.is_closed() {
            break;
        }
        world.step(&mut input);
    }
}

/// The connection, and what guest and engine know of it.
struct World {
    connection: Connection,
    invariants: Invariants,
    config: Config,
    now: Instant,
    queue: SendQueue,
    /// Our initial sequence number.
    iss: Seq,
    /// The guest's first byte.
    start: Seq,
    /// Bytes handed to the host.
    delivered: u32,
    /// The guest's FIN was handed to the host.
    finished: bool,
    /// Bytes that the guest acknowledged.
    acked: u32,
    /// Behind all that was sent.
    sent: Seq,
    /// The right edges of the windows: ours that the guest saw, and the guest's that we may use.
    offered: Option<Seq>,
    granted: Seq,
    our_scale: u8,
    guest_scale: u8,
    /// The guest's SYNs: the first byte behind each, and its window scale.
    syns: Vec<(Seq, Option<u8>)>,
    /// The guest's segments that no pure ACK answered.
    unanswered: u32,
    /// The guest's clock as we last echoed it.
    guest_clock: u32,
}

impl World {
    /// A handshake, or the beginning of one.
    fn new(input: &mut Input<'_>) -> Self {
        let shape = input.u8();
        let config = Config {
            mss: if shape & 1 == 0 { 1460 } else { 100 },
            window_max: 100_000,
            window_scale: shape >> 1 & 3,
            out_of_order_max: OUT_OF_ORDER_MAX,
            ..Config::default()
        };
        // Streams that begin just before the numbers wrap.
        let (iss, irs) = (Seq(0u32.wrapping_sub(input.u16().into())), input.u16());
        let irs = Seq(0u32.wrapping_sub(irs.into()));
        let options = syn_options(input);
        let now = Instant::from_nanos(5_000_000_000);
        let syn = Segment {
            source_port: 1000,
            target_port: 80,
            sequence: irs,
            flags: Flags::SYN,
            window: input.u16(),
            options,
            ..Segment::default()
        };
        let active = shape & 8 == 8;
        let connection = if active {
            Connection::open(now, &config, 1000, 80, iss.0)
        } else {
            Connection::from_syn(now, &config, &syn, iss.0)
        };
        let segment_max = if shape & 16 == 0 {
            65_000
        } else {
            config.mss.into()
        };
        let mut world = Self {
            connection,
            invariants: Invariants::default(),
            our_scale: 0,
            config,
            now,
            queue: SendQueue {
                bytes: 0,
                finished: false,
                segment_max,
            },
            iss,
            start: irs + 1,
            delivered: 0,
            finished: false,
            acked: 0,
            sent: iss,
            offered: None,
            granted: iss + 1 + u32::from(syn.window),
            syns: vec![(irs + 1, options.window_scale)],
            guest_scale: options.window_scale.unwrap_or(0).min(14),
            unanswered: 0,
            guest_clock: options.timestamps.map_or(0, |timestamps| timestamps.value),
        };
        if active {
            world.transmit();
        } else if shape & 32 == 0 {
            world.connection.accept(now, &world.config);
            world.transmit();
        }
        if shape & 64 == 0 {
            let flags = if active {
                Flags::SYN | Flags::ACK
            } else {
                Flags::ACK
            };
            let sequence = if active { irs } else { irs + 1 };
            let options = if active {
                options
            } else {
                Options {
                    timestamps: options.timestamps,
                    ..Options::default()
                }
            };
            let acknowledgment = world.iss + 1;
            world.segment(
                &Segment {
                    sequence,
                    acknowledgment,
                    flags,
                    options,
                    ..syn
                },
                &[],
            );
        }
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() {
            0..=159 => {
                let (segment, len) = self.any_segment(input);
                let payload: Vec<u8> = (0..len as u32)
                    .map(|n| guest_byte(segment.sequence + n))
                    .collect();
                self.segment(&segment, &payload);
            }
            160..=183 if !self.queue.finished => {
                self.queue.bytes = (self.queue.bytes + u32::from(input.u16())).min(QUEUE_MAX);
                self.transmit();
            }
            184..=187 => {
                self.queue.finished = true;
                self.transmit();
            }
            188..=211 => {
                self.connection.set_receive_room(u32::from(input.u16()) * 2);
                self.transmit();
            }
            212..=251 => {
                let shift = input.u8() % 24;
                self.wait(Duration::from_millis(u64::from(input.u8()) << (shift / 2)));
            }
            252 => {
                self.connection.accept(self.now, &self.config);
                self.transmit();
            }
            253 => {
                self.connection.abort();
                assert!(self.connection.is_closed());
            }
            _ => self.wait_for_deadline(),
        }
        if let Err(what) = self
            .invariants
            .check(&self.connection, self.now, self.queue.bytes)
        {
            panic!("{what}: {:?}", self.connection);
        }
    }

    fn wait_for_deadline(&mut self) {
        if let Some(at) = self.connection.poll_at() {
            self.wait(at.since(self.now));
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        let outcome = self.connection.on_timer(self.now, &self.config);
        if let TimerOutcome::Gone(_) = outcome {
            assert!(self.connection.is_closed());
        }
        self.transmit();
        let due = self.connection.poll_at().is_some_and(|at| at < self.now);
        assert!(
            !due,
            "a deadline that is over and stays: {:?}",
            self.connection
        );
    }

    /// A segment near what the connection expects.
    fn any_segment(&self, input: &mut Input<'_>) -> (Segment, usize) {
        let next = self.start + self.delivered + u32::from(self.finished);
        let sequence = shift(next, input.distance());
        let acknowledgment = shift(self.sent, input.distance());
        let flags = match input.u8() {
            0..=199 => Flags::ACK,
            200..=215 => Flags::ACK | Flags::PSH,
            216..=231 => Flags::ACK | Flags::FIN,
            232..=235 => Flags::SYN,
            236..=239 => Flags::SYN | Flags::ACK,
            240..=243 => Flags::RST,
            _ => Flags(input.u8()),
        };
        let window = match input.u8() {
            0..=127 => u16::MAX,
            128..=159 => 0,
            _ => input.u16(),
        };
        let len = if flags.syn() {
            0
        } else {
            input.len(PAYLOAD_MAX)
        };
        let shape = input.u8();
        let mut options = Options::default();
        if shape & 3 != 3 {
            options.timestamps = Some(Timestamps {
                value: self.guest_clock.wrapping_add(input.distance() as u32),
                echo: self
                    .now
                    .as_millis_wrapping()
                    .wrapping_sub((shape >> 4).into()),
            });
        }
        if shape & 4 == 4 {
            let una = self.iss + 1 + self.acked;
            for _ in 0..=(shape >> 3 & 3) {
                let left = una + u32::from(input.u16());
                options
                    .sack
                    .push(left, shift(left, input.u16() as i16 as i32));
            }
        }
        let segment = Segment {
            source_port: 1000,
            target_port: 80,
            sequence,
            acknowledgment,
            flags,
            window,
            urgent: 0,
            options,
            ecn: Ecn::of(shape >> 6),
        };
        (segment, len)
    }

    fn segment(&mut self, segment: &Segment, payload: &[u8]) {
        let before = self.connection.state();
        if segment.flags.syn() {
            let scale = segment.options.window_scale;
            self.syns.push((segment.sequence + 1, scale));
        }
        let received = self
            .connection
            .on_segment(self.now, &self.config, segment, payload);
        let state = self.connection.state();
        if before == State::SynSent && state != State::SynSent && state != State::Closed {
            self.synchronize(segment.sequence + 1);
        }
        let behind = self.sent.since(segment.acknowledgment);
        if segment.flags.ack() && behind <= self.sent.since(self.iss) {
            let scale = if segment.flags.syn() {
                0
            } else {
                self.guest_scale
            };
            let edge = segment.acknowledgment + (u32::from(segment.window) << scale);
            self.granted = self.granted.max(edge);
        }
        assert!(received.acked <= self.queue.bytes);
        self.queue.bytes -= received.acked;
        self.acked += received.acked;
        let Range { start, end } = received.deliver;
        if start < end {
            let at = segment.sequence + start + u32::from(segment.flags.syn());
            assert_eq!(at, self.start + self.delivered, "bytes in order, each once");
            self.delivered += end - start;
        }
        let mut kept = 0;
        while let Some(bytes) = self.connection.take_reassembled() {
            self.deliver(&bytes);
            kept += bytes.len();
        }
        assert!(kept <= OUT_OF_ORDER_MAX as usize);
        assert_eq!(kept > 0, received.reassembled);
        assert!(!(received.finished && self.finished), "a stream ends once");
        self.finished |= received.finished;
        assert_eq!(received.closed, self.connection.is_closed());
        if received.reopen {
            assert_eq!(before, State::TimeWait);
        }
        self.unanswered += 1;
        let acks = self.transmit();
        assert!(
            acks <= self.unanswered,
            "{acks} pure ACKs answer {} segments",
            self.unanswered
        );
        self.unanswered -= acks;
    }

    /// The connection took the SYN before this sequence number; the latest one counts until it is
    /// established.
    fn synchronize(&mut self, start: Seq) {
        assert_eq!(self.delivered, 0);
        let syn = self.syns.iter().rfind(|(of, _)| *of == start);
        let (_, scale) = syn.expect("a SYN that the guest sent");
        self.guest_scale = scale.unwrap_or(0).min(14);
        if scale.is_none() {
            self.our_scale = 0;
        }
        if start != self.start {
            (self.start, self.offered) = (start, None);
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        assert!(!self.finished, "bytes behind the end");
        for (n, byte) in (0u32..).zip(bytes) {
            assert_eq!(*byte, guest_byte(self.start + self.delivered + n));
        }
        self.delivered += bytes.len() as u32;
    }

    /// Takes all that is to be sent; answers how many pure ACKs there were.
    fn transmit(&mut self) -> u32 {
        let mut acks = 0;
        for _ in 0..BURST_MAX {
            let next = self
                .connection
                .poll_transmit(self.now, &self.config, &self.queue);
            let Some(transmit) = next else {
                return acks;
            };
            let flags = transmit.segment.flags;
            let bare = !(flags.syn() || flags.fin() || flags.rst());
            acks += u32::from(bare && transmit.payload.is_empty());
            self.check(&transmit);
        }
        panic!("poll_transmit never ends");
    }

    fn check(&mut self, transmit: &Transmit) {
        let Transmit {
            segment,
            payload,
            gso_size,
            retransmission: _,
        } = transmit;
        let len = payload.end - payload.start;
        assert!(payload.start <= payload.end && payload.end <= self.queue.bytes);
        assert!(len <= self.queue.segment_max);
        assert!(gso_size.is_none_or(|size| size > 0 && u32::from(size) < len));
        let takes_super_frames = self.queue.segment_max > u32::from(self.config.mss);
        assert!(gso_size.is_none() || takes_super_frames);
        assert_eq!((segment.source_port, segment.target_port), (80, 1000));
        let flags = segment.flags;
        if flags.rst() {
            return;
        }
        let end = segment.sequence + len + u32::from(flags.syn()) + u32::from(flags.fin());
        if len > 0 {
            let place = self.iss + 1 + self.acked + payload.start;
            assert_eq!(segment.sequence, place, "bytes at the place of others");
            // RFC 9293 §3.8.6.1: a probe goes one byte beyond.
            let beyond = end.before(self.granted + 1) || end == self.granted + 1;
            assert!(beyond, "{end:?} is beyond the window's {:?}", self.granted);
        }
        self.sent = self.sent.max(end);
        if flags.syn() {
            if flags.ack() {
                self.synchronize(segment.acknowledgment);
            }
            // What we answer says whether windows are scaled, also to a guest whose SYNs contradict
            // each other.
            self.our_scale = segment.options.window_scale.unwrap_or(0);
        }
        if flags.ack() {
            let next = self.start + self.delivered + u32::from(self.finished);
            assert_eq!(segment.acknowledgment, next, "what came is acknowledged");
            self.check_window(segment);
        }
    }

    /// RFC 9293 §3.8.6: the right edge does not move left. A scaled window field rounds it.
    fn check_window(&mut self, segment: &Segment) {
        let syn = segment.flags.syn();
        // What an unscaled field can't say.
        if syn && segment.window == u16::MAX {
            return;
        }
        let scale = if syn { 0 } else { self.our_scale };
        let edge = segment.acknowledgment + (u32::from(segment.window) << scale);
        let slack = (1 << self.our_scale) - 1;
        if let Some(before) = self.offered {
            assert!(before.at_or_before(edge + slack), "{before:?} → {edge:?}");
        }
        self.offered = Some(self.offered.map_or(edge, |before| before.max(edge)));
    }
}

fn syn_options(input: &mut Input<'_>) -> Options {
    let shape = input.u8();
    Options {
        mss: (shape & 1 == 0).then(|| input.u16()),
        window_scale: (shape & 2 == 0).then(|| input.u8() & 15),
        sack_permitted: shape & 4 == 0,
        timestamps: (shape & 8 == 0).then_some(Timestamps { value: 77, echo: 0 }),
        sack: SackBlocks::NONE,
    }
}

/// The guest's byte with this sequence number.
fn guest_byte(at: Seq) -> u8 {
    (at.0 ^ at.0 >> 8 ^ at.0 >> 16) as u8
}

fn shift(seq: Seq, by: i32) -> Seq {
    seq + by as u32
}

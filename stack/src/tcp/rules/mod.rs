//! The rules of the RFCs, one test each, on a whole connection: segments in, segments out.
//!
//! The guest's initial sequence number is 1000 and ours 5000, so that its first byte is 1001 and our
//! first is 5001. Its MSS and ours are 1000 bytes, and windows are not scaled unless said.

mod congestion_marks;
mod ending;
mod handshake;
mod musts;
mod receiving;
mod sending;
mod table;
mod window;

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::segment::{Flags, Options, SackBlocks, Segment, Timestamps};
use super::seq::SequenceNumber as Seq;
use super::*;
use crate::time::Instant;

const ACK: Flags = Flags::ACK;
const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A connection, the engine's queue, and the clock.
struct Bench {
    connection: Connection,
    config: Config,
    now: Instant,
    queue: SendQueue,
    /// The next byte of the guest and what it acknowledges.
    guest: (u32, u32),
    window: u16,
}

impl Bench {
    fn config() -> Config {
        Config {
            mss: 1000,
            window_max: 10_000,
            window_scale: 0,
            ..Config::default()
        }
    }

    fn plain() -> Options {
        Options {
            mss: Some(1000),
            ..Options::default()
        }
    }

    fn with_sack() -> Options {
        Options {
            sack_permitted: true,
            ..Self::plain()
        }
    }

    fn with(connection: Connection, now: Instant) -> Self {
        Self {
            connection,
            config: Self::config(),
            now,
            queue: SendQueue {
                bytes: 0,
                finished: false,
                segment_max: 64_000,
            },
            guest: (1001, 5001),
            window: 20_000,
        }
    }

    /// A SYN came.
    fn held(options: Options) -> Self {
        let now = Instant::from_nanos(7_000_000_000);
        let syn = Self::syn(1000, options);
        Self::with(Connection::from_syn(now, &Self::config(), &syn, 5000), now)
    }

    fn syn(sequence: u32, options: Options) -> Segment {
        Segment {
            source_port: 40_000,
            target_port: 80,
            sequence: Seq(sequence),
            flags: Flags::SYN,
            window: 20_000,
            options,
            ..Segment::default()
        }
    }

    fn established(options: Options) -> Self {
        let mut bench = Self::held(options);
        bench.accept();
        assert_eq!(bench.flags_out(), [SYN_ACK]);
        assert!(bench.ack().established);
        assert_eq!(bench.state(), State::Established);
        assert_eq!(bench.flags_out(), []);
        bench
    }

    /// As `established`, with 16,000 bytes received and acknowledged.
    fn seasoned(options: Options) -> Self {
        let mut bench = Self::established(options);
        for _ in 0..8 {
            bench.data(1000);
            assert_eq!(bench.flags_out(), []);
            bench.data(1000);
            bench.connection.set_receive_room(10_000);
            assert_eq!(bench.flags_out(), [ACK]);
        }
        bench
    }

    /// We opened.
    fn opened() -> Self {
        let now = Instant::from_nanos(7_000_000_000);
        let connection = Connection::open(now, &Self::config(), 40_000, 80, 5000);
        let mut bench = Self::with(connection, now);
        assert_eq!(bench.flags_out(), [Flags::SYN]);
        bench
    }

    fn accept(&mut self) {
        self.connection.accept(self.now, &self.config);
    }

    fn state(&self) -> State {
        self.connection.state()
    }

    fn header(&self, flags: Flags) -> Segment {
        Segment {
            sequence: Seq(self.guest.0),
            acknowledgment: Seq(self.guest.1),
            flags,
            window: self.window,
            ..Self::syn(0, Options::default())
        }
    }

    fn on(&mut self, segment: &Segment, len: usize) -> Received {
        let received = self
            .connection
            .on_segment(self.now, &self.config, segment, &vec![7; len]);
        self.queue.bytes -= received.acked;
        received
    }

    /// The guest sends `flags` where it stands.
    fn send(&mut self, flags: Flags) -> Received {
        self.on(&self.header(flags), 0)
    }

    fn ack(&mut self) -> Received {
        self.send(ACK)
    }

    /// The guest acknowledges up to `ack`.
    fn ack_to(&mut self, ack: u32) -> Received {
        self.guest.1 = ack;
        self.ack()
    }

    fn sack(&mut self, blocks: &[(u32, u32)]) -> Received {
        let mut segment = self.header(ACK);
        segment.options.sack = SackBlocks::NONE;
        for &(left, right) in blocks {
            assert!(segment.options.sack.push(Seq(left), Seq(right)));
        }
        self.on(&segment, 0)
    }

    /// The guest sends `len` bytes in order.
    fn data(&mut self, len: u32) -> Received {
        let received = self.on(&self.header(ACK), len as usize);
        self.guest.0 += len;
        received
    }

    /// The guest sends `len` bytes at `sequence`.
    fn data_at(&mut self, sequence: u32, len: usize) -> Received {
        let segment = Segment {
            sequence: Seq(sequence),
            ..self.header(ACK)
        };
        self.on(&segment, len)
    }

    fn fin(&mut self) -> Received {
        let received = self.send(FIN_ACK);
        self.guest.0 += 1;
        received
    }

    fn out(&mut self) -> Vec<Transmit> {
        let mut out = Vec::new();
        while let Some(transmit) =
            self.connection
                .poll_transmit(self.now, &self.config, &self.queue)
        {
            out.push(transmit);
            assert!(out.len() < 1000);
        }
        out
    }

    fn flags_out(&mut self) -> Vec<Flags> {
        self.out()
            .iter()
            .map(|transmit| transmit.segment.flags)
            .collect()
    }

    /// Sequence number and length of all that leaves.
    fn ranges_out(&mut self) -> Vec<(u32, u32)> {
        let out = self.out();
        out.iter()
            .map(|t| (t.segment.sequence.0, t.payload.end - t.payload.start))
            .collect()
    }

    fn one_out(&mut self) -> Transmit {
        let mut out = self.out();
        assert_eq!(out.len(), 1, "{out:?}");
        out.remove(0)
    }

    fn wait(&mut self, time: Duration) -> TimerOutcome {
        self.now = self.now + time;
        self.connection.on_timer(self.now, &self.config)
    }

    /// Waits for the next deadline and returns how long that was.
    fn wait_next(&mut self) -> (Duration, TimerOutcome) {
        let at = self.connection.poll_at().expect("a timer");
        let time = at.since(self.now);
        (time, self.wait(time))
    }
}

#[test]
fn a_connection_is_small() {
    assert!(
        size_of::<Connection>() <= 512,
        "{}",
        size_of::<Connection>()
    );
}

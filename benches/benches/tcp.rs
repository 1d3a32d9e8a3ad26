//! The TCP state machine: a segment in, in its various ways, and a segment out.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use towpath_benches::frames::{SEGMENT, SUPER_FRAME};
use towpath_stack::Instant;
use towpath_stack::tcp::segment::{Flags, Options, SackBlocks, Segment, Timestamps};
use towpath_stack::tcp::seq::SequenceNumber;
use towpath_stack::tcp::{Config, Connection, SendQueue, Transmit};

/// Segments between two rounds of sending: what a batch has of one flow.
const TURN: usize = 8;
/// Segments in flight when one is lost.
const FLIGHT: usize = 32;
const WINDOW: u32 = 1 << 20;

pub(crate) fn all(criterion: &mut Criterion) {
    segments_in(criterion);
    segments_out(criterion);
}

fn segments_in(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tcp in");
    for (name, len) in [
        ("in order, 1448 B", SEGMENT),
        ("in order, super-frame", SUPER_FRAME),
    ] {
        let mut flow = Flow::established();
        let payload = vec![0; len];
        group.throughput(super::each(TURN, TURN * len));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..TURN {
                    let segment = flow.data(len);
                    flow.receive(&segment, &payload);
                }
                flow.acknowledge();
            });
        });
    }
    let mut flow = Flow::established();
    let payload = vec![0; SEGMENT];
    group.throughput(super::each(2, 2 * SEGMENT));
    group.bench_function("out of order: two the wrong way round", |bencher| {
        bencher.iter(|| {
            let (first, second) = (flow.data(SEGMENT), flow.data(SEGMENT));
            flow.receive(&second, &payload);
            flow.receive(&first, &payload);
            flow.acknowledge();
        });
    });
    group.throughput(super::each(FLIGHT - 1, 0));
    group.bench_function("duplicate ACK", |bencher| {
        bencher.iter_batched_ref(
            Flow::in_flight,
            |flow| {
                let duplicate = flow.segment(Flags::ACK);
                for _ in 1..FLIGHT {
                    flow.receive(&duplicate, &[]);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("duplicate ACK with SACK", |bencher| {
        bencher.iter_batched_ref(
            Flow::in_flight,
            |flow| {
                let mut duplicate = flow.segment(Flags::ACK);
                let left = flow.theirs + SEGMENT as u32;
                for n in 1..FLIGHT as u32 {
                    let mut sack = SackBlocks::NONE;
                    sack.push(left, left + n * SEGMENT as u32);
                    duplicate.options.sack = sack;
                    flow.receive(&duplicate, &[]);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn segments_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tcp out");
    for (name, len) in [("1448 B", SEGMENT), ("super-frame", SUPER_FRAME)] {
        let mut flow = Flow::established();
        let queue = SendQueue {
            bytes: (TURN * len) as u32,
            finished: false,
            segment_max: len as u32,
        };
        // Slow start, until the congestion window takes a turn.
        for _ in 0..64 {
            flow.send_all(&queue);
            flow.acknowledge_all();
        }
        assert_eq!(flow.send_all(&queue), TURN);
        flow.acknowledge_all();
        group.throughput(super::each(TURN, TURN * len));
        group.bench_function(format!("{name}, an ACK for each {TURN}"), |bencher| {
            bencher.iter(|| {
                flow.send_all(&queue);
                flow.acknowledge_all();
            });
        });
    }
    group.finish();
}

/// A connection, and the guest at its other end as far as it matters.
struct Flow {
    connection: Connection,
    config: Config,
    now: Instant,
    /// The guest's next sequence number, and the next of ours that it wants.
    ours: SequenceNumber,
    theirs: SequenceNumber,
    /// Behind all that we sent.
    sent: SequenceNumber,
}

impl Flow {
    fn established() -> Self {
        let config = Config {
            window_max: WINDOW,
            window_scale: 7,
            ..Config::default()
        };
        let now = Instant::from_nanos(1_000_000_000);
        let iss = SequenceNumber(5000);
        let mut flow = Self {
            connection: Connection::from_syn(now, &config, &syn(), iss.0),
            config,
            now,
            ours: syn().sequence + 1,
            theirs: iss + 1,
            sent: iss + 1,
        };
        flow.connection.set_receive_room(WINDOW);
        flow.connection.accept(now, &flow.config);
        assert!(flow.transmit(&SendQueue::default()).is_some(), "a SYN-ACK");
        let ack = flow.segment(Flags::ACK);
        flow.receive(&ack, &[]);
        flow.acknowledge();
        flow
    }

    /// With [`FLIGHT`] segments that are not acknowledged.
    fn in_flight() -> Self {
        let mut flow = Self::established();
        let queue = SendQueue {
            bytes: (FLIGHT * SEGMENT) as u32,
            finished: false,
            segment_max: SEGMENT as u32,
        };
        while flow.send_all(&queue) < FLIGHT {
            flow.acknowledge_all();
        }
        flow
    }

    /// A segment of the guest without payload.
    fn segment(&self, flags: Flags) -> Segment {
        Segment {
            sequence: self.ours,
            acknowledgment: self.theirs,
            flags,
            window: 1024,
            options: Options {
                timestamps: Some(Timestamps {
                    value: self.now.as_millis_wrapping(),
                    echo: self.now.as_millis_wrapping(),
                }),
                ..Options::default()
            },
            ..syn()
        }
    }

    /// The next data segment of the guest.
    fn data(&mut self, len: usize) -> Segment {
        let segment = self.segment(Flags::ACK);
        self.ours += len as u32;
        segment
    }

    fn receive(&mut self, segment: &Segment, payload: &[u8]) {
        let (now, config) = (self.now, &self.config);
        let received = self.connection.on_segment(now, config, segment, payload);
        debug_assert_eq!(received.dropped, None);
        if black_box(&received).reassembled {
            while let Some(bytes) = self.connection.take_reassembled() {
                black_box(bytes);
            }
        }
    }

    /// The host took everything, and what is due to be sent is sent.
    fn acknowledge(&mut self) {
        self.connection.set_receive_room(WINDOW);
        while self.transmit(&SendQueue::default()).is_some() {}
    }

    fn transmit(&mut self, queue: &SendQueue) -> Option<Transmit> {
        self.connection.poll_transmit(self.now, &self.config, queue)
    }

    /// Sends what may be sent, and says how many segments that were.
    fn send_all(&mut self, queue: &SendQueue) -> usize {
        self.now = self.now + Duration::from_micros(100);
        let mut count = 0;
        while let Some(transmit) = self.transmit(queue) {
            self.sent += transmit.payload.end - transmit.payload.start;
            count += 1;
            black_box(transmit);
        }
        count
    }

    fn acknowledge_all(&mut self) {
        self.theirs = self.sent;
        let ack = self.segment(Flags::ACK);
        self.receive(&ack, &[]);
    }
}

fn syn() -> Segment {
    Segment {
        source_port: 40_000,
        target_port: 443,
        sequence: SequenceNumber(1000),
        flags: Flags::SYN,
        window: 65_535,
        options: Options {
            mss: Some(1460),
            window_scale: Some(10),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: 1, echo: 0 }),
            ..Options::default()
        },
        ..Segment::default()
    }
}

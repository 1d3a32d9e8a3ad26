//! How much of a stream arrives in what time over a link that loses, in virtual time: a bulk
//! transfer between two connections, and the loss of its last bytes. Nothing here depends on the
//! machine, so the figures may be asserted.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::segment::Segment;
use super::*;
use crate::time::Instant;

/// 40 Gbit/s.
const NS_PER_100_BYTES: u64 = 20;
const STEPS_MAX: u32 = 2_000_000;
/// The longest time without anything acknowledged: some retransmission timeouts in a row.
const STALL_MAX: Duration = Duration::from_millis(2_000);
static ZEROS: [u8; 65_536] = [0; 65_536];

/// What a link is like.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The receiver's window in bytes.
    window: u32,
    rtt_us: u64,
    /// Frames lost of a thousand, each way.
    loss: u64,
    /// Whether super-frames are cut before they are lost, as a TAP without offloads does.
    cut: bool,
    /// Whether frames may be overtaken by a round trip's third.
    reorders: bool,
}

struct Frame {
    at: Instant,
    segment: Segment,
    len: usize,
}

struct World {
    plan: Plan,
    now: Instant,
    random: u64,
    /// The sender's end, then the receiver's.
    ends: [Option<Connection>; 2],
    configs: [Config; 2],
    /// Frames under way to each end, sorted by time, and when the link is free.
    frames: [VecDeque<Frame>; 2],
    free: [Instant; 2],
    /// Bytes that the sender has yet to be acknowledged, and those that it was.
    queue: u32,
    acked_at: Option<Instant>,
    longest_stall: Duration,
    /// Bytes that the receiver has yet to get.
    missing: u32,
    /// Frames with payload that were sent, and which of them are lost.
    launched: u32,
    dropped: Range<u32>,
}

impl World {
    fn new(plan: Plan, bytes: u32) -> Self {
        let now = Instant::from_nanos(1 << 40);
        let config = Config {
            window_max: plan.window,
            window_scale: 7,
            out_of_order_max: plan.window,
            ..Config::default()
        };
        let configs = [config.clone(), config];
        let connection = Connection::open(now, &configs[0], 80, 40_000, 1_000);
        Self {
            plan,
            now,
            random: 0x9e37_79b9_7f4a_7c15,
            ends: [Some(connection), None],
            configs,
            frames: [VecDeque::new(), VecDeque::new()],
            free: [now, now],
            queue: bytes,
            acked_at: None,
            longest_stall: Duration::ZERO,
            missing: bytes,
            launched: 0,
            dropped: 0..0,
        }
    }

    /// xorshift64*, in `0..below`.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    /// Runs until all has arrived. Returns for how long. (The last ACK may be delayed.)
    fn run(&mut self) -> Result<Duration, String> {
        let start = self.now;
        for _ in 0..STEPS_MAX {
            self.arrive()?;
            self.turn()?;
            if self.missing == 0 {
                return Ok(self.now.since(start));
            }
            let frames = self.frames.iter().filter_map(|q| q.front().map(|f| f.at));
            let ends = self.ends.iter().flatten();
            let next = frames.chain(ends.filter_map(Connection::poll_at)).min();
            self.now = next.ok_or("nothing will ever happen again")?.max(self.now);
        }
        Err(format!("too many steps, {} bytes left", self.missing))
    }

    fn arrive(&mut self) -> Result<(), String> {
        for index in 0..2 {
            while let Some(frame) = self.frames[index].pop_front_if(|f| f.at <= self.now) {
                self.receive(index, &frame)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, frame: &Frame) -> Result<(), String> {
        let (now, config) = (self.now, &self.configs[index]);
        let Some(connection) = &mut self.ends[index] else {
            if frame.segment.flags.syn() {
                let mut connection = Connection::from_syn(now, config, &frame.segment, 9_000);
                connection.accept(now, config);
                self.ends[index] = Some(connection);
            }
            return Ok(());
        };
        let received = connection.on_segment(now, config, &frame.segment, &ZEROS[..frame.len]);
        if received.reset {
            return Err("reset".into());
        }
        let mut delivered = received.deliver.end - received.deliver.start;
        while let Some(bytes) = connection.take_reassembled() {
            delivered += bytes.len() as u32;
        }
        connection.set_receive_room(self.plan.window);
        self.missing -= delivered;
        if received.acked > 0 {
            if let Some(before) = self.acked_at.replace(now) {
                self.longest_stall = self.longest_stall.max(now.since(before));
            }
            self.queue -= received.acked;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), String> {
        for index in 0..2 {
            let Some(mut connection) = self.ends[index].take() else {
                continue;
            };
            if let TimerOutcome::Gone(why) = connection.on_timer(self.now, &self.configs[index]) {
                return Err(format!("gone: {why:?}"));
            }
            let queue = SendQueue {
                bytes: if index == 0 { self.queue } else { 0 },
                finished: false,
                segment_max: 65_000,
            };
            while let Some(transmit) =
                connection.poll_transmit(self.now, &self.configs[index], &queue)
            {
                self.send(1 - index, &transmit);
            }
            self.ends[index] = Some(connection);
        }
        Ok(())
    }

    fn send(&mut self, target: usize, transmit: &Transmit) {
        let len = (transmit.payload.end - transmit.payload.start) as usize;
        let piece = match transmit.gso_size {
            Some(size) if self.plan.cut => usize::from(size),
            _ => len.max(1),
        };
        let mut segment = transmit.segment;
        let mut left = len;
        loop {
            let len = left.min(piece);
            self.launch(target, segment, len);
            segment.sequence += len as u32;
            left -= len;
            if left == 0 {
                return;
            }
        }
    }

    fn launch(&mut self, target: usize, segment: Segment, len: usize) {
        let wire_ns = (len as u64 + 66) * NS_PER_100_BYTES / 100;
        let start = self.free[target].max(self.now);
        self.free[target] = start + Duration::from_nanos(wire_ns);
        let lost = self.random(1_000) < self.plan.loss && !segment.flags.syn();
        self.launched += u32::from(len > 0);
        if lost || (len > 0 && self.dropped.contains(&(self.launched - 1))) {
            return;
        }
        let mut delay_us = self.plan.rtt_us / 2;
        if self.plan.reorders && self.random(10) == 0 {
            delay_us += self.random(self.plan.rtt_us / 3 + 1);
        }
        let at = self.free[target] + Duration::from_micros(delay_us);
        let queue = &mut self.frames[target];
        let place = queue.partition_point(|frame| frame.at <= at);
        queue.insert(place, Frame { at, segment, len });
    }
}

/// Bytes a second.
fn goodput(plan: Plan) -> u64 {
    const BYTES: u32 = 16 << 20;
    let mut world = World::new(plan, BYTES);
    let time = world.run().unwrap_or_else(|why| panic!("{plan:?}: {why}"));
    let stall = world.longest_stall;
    assert!(stall < STALL_MAX, "{plan:?}: {stall:?} without an ACK");
    (u128::from(BYTES) * 1_000_000_000 / time.as_nanos()) as u64
}

#[test]
fn one_percent_loss_leaves_a_third() {
    let mut poor = Vec::new();
    for rtt_us in [50, 200, 1_000] {
        for window in [64 << 10, 256 << 10, 1 << 20] {
            for cut in [true, false] {
                let plan = Plan {
                    window,
                    rtt_us,
                    loss: 0,
                    cut,
                    reorders: false,
                };
                let all = goodput(plan);
                let lossy = goodput(Plan { loss: 10, ..plan });
                if lossy * 10 < all * 3 {
                    poor.push(format!("{lossy} of {all} B/s: {plan:?}"));
                }
            }
        }
    }
    assert!(poor.is_empty(), "{}", poor.join("\n"));
}

#[test]
fn a_link_that_reorders_and_loses_does_not_stall() {
    for rtt_us in [50, 1_000] {
        for loss in [0, 10, 30] {
            let plan = Plan {
                window: 256 << 10,
                rtt_us,
                loss,
                cut: true,
                reorders: true,
            };
            goodput(plan);
        }
    }
}

#[test]
fn a_lost_tail_is_repaired_within_a_few_round_trips() {
    // RFC 8985 §7: ten segments, of which the last two are lost.
    let plan = Plan {
        window: 64 << 10,
        rtt_us: 1_000,
        loss: 0,
        cut: true,
        reorders: false,
    };
    let mut world = World::new(plan, 14_480);
    world.dropped = 8..10;
    let time = world.run().expect("all arrives");
    assert!(time < Duration::from_millis(10), "{time:?}");
}

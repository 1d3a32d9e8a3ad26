//! Two connections against each other over a link that loses, doubles, reorders and delays, in
//! virtual time and from a seed: what one end's application writes, the other's reads, whole and
//! once. A seed that finds a bug goes into `SEEDS_THAT_FAILED_ONCE`.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::*;
use crate::time::Instant;
use segment::Segment;
use seq::SequenceNumber as Seq;

const SEEDS: u64 = 300;
const SEEDS_THAT_FAILED_ONCE: [u64; 0] = [];
/// Virtual time that a run may take. At 20 % loss some segments need many backed-off timeouts.
const TIME_MAX: Duration = Duration::from_secs(1800);
const STEPS_MAX: u32 = 2_000_000;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `0..below`.
    fn below(&mut self, below: u64) -> u64 {
        (self.next() >> 16) % below
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What a run is like.
#[derive(Debug)]
struct Plan {
    loss_percent: u64,
    double_percent: u64,
    delay_us: u64,
    jitter_us: u64,
    /// A middlebox removes these from SYN segments.
    strip_sack: bool,
    strip_timestamps: bool,
    strip_scale: bool,
    /// Whether super-frames are cut on the way, as a TAP without offloads does.
    cut: bool,
    segment_max: u32,
    sizes: [usize; 2],
    windows: [u32; 2],
    mss: [u16; 2],
    /// The second writes nothing before the first's FIN arrived.
    answer_after_fin: bool,
    /// The second's reader stops for this long once it has read half.
    pause: Duration,
}

impl Plan {
    fn new(random: &mut Random) -> Self {
        let sizes = [0, 1, 700, 5_000, 60_000, 400_000];
        let windows = [300, 1_000, 5_000, 30_000, 65_535, 1_000_000];
        let mss = [88, 536, 1220, 1460, 8960];
        Self {
            loss_percent: random.pick(&[0, 0, 1, 5, 10, 20]),
            double_percent: random.pick(&[0, 0, 5]),
            delay_us: random.pick(&[0, 50, 1_000, 20_000]),
            jitter_us: random.pick(&[0, 0, 500, 30_000]),
            strip_sack: random.percent(30),
            strip_timestamps: random.percent(30),
            strip_scale: random.percent(30),
            cut: random.percent(70),
            segment_max: random.pick(&[1_000, 1_448, 65_000]),
            sizes: [random.pick(&sizes), random.pick(&sizes)],
            windows: [random.pick(&windows), random.pick(&windows)],
            mss: [random.pick(&mss), random.pick(&mss)],
            answer_after_fin: random.percent(30),
            pause: random.pick(&[
                Duration::ZERO,
                Duration::from_secs(5),
                Duration::from_secs(90),
            ]),
        }
    }
}

/// A connection with the engine's and the application's part around it.
struct End {
    connection: Connection,
    config: Config,
    stream: Vec<u8>,
    /// Bytes of `stream` acknowledged, and written into the queue.
    acked: usize,
    written: usize,
    may_write: bool,
    received: Vec<u8>,
    read: usize,
    paused_until: Option<Instant>,
    has_paused: bool,
    finished: bool,
    edge: Option<Seq>,
    wire_segments: usize,
    retransmissions: usize,
}

impl End {
    fn queue(&self, segment_max: u32) -> SendQueue {
        SendQueue {
            bytes: (self.written - self.acked) as u32,
            finished: self.may_write && self.written == self.stream.len(),
            segment_max,
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.connection.state(), State::Closed | State::TimeWait)
    }

    fn receive(&mut self, now: Instant, segment: &Segment, payload: &[u8]) -> Result<(), String> {
        let received = self
            .connection
            .on_segment(now, &self.config, segment, payload);
        let Received {
            deliver,
            reassembled,
            acked,
            finished,
            reset,
            reopen,
            ..
        } = received;
        if reset || reopen {
            return Err(format!("reset {reset}, reopen {reopen} by {segment:?}"));
        }
        if self.finished && (finished || !deliver.is_empty() || reassembled) {
            return Err("something came after the end".into());
        }
        self.acked += acked as usize;
        if self.acked > self.written {
            return Err("more acknowledged than written".into());
        }
        self.received
            .extend_from_slice(&payload[deliver.start as usize..deliver.end as usize]);
        if reassembled {
            let before = self.received.len();
            while let Some(bytes) = self.connection.take_reassembled() {
                self.received.extend(bytes);
            }
            if before == self.received.len() {
                return Err("reassembled, but nothing to take".into());
            }
        }
        self.finished |= finished;
        Ok(())
    }

    /// The application writes and reads.
    fn act(&mut self, now: Instant, random: &mut Random, plan: &Plan, pauses: bool) {
        if self.may_write {
            let more = 1 + random.below(100_000) as usize;
            self.written = self.stream.len().min(self.written.max(self.acked) + more);
        }
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
        }
        let unread = self.received.len() - self.read;
        if self.paused_until.is_none() {
            self.read += unread;
            if pauses && !self.has_paused && self.read > 0 && !plan.pause.is_zero() {
                self.has_paused = true;
                self.paused_until = Some(now + plan.pause);
            }
        }
        let unread = (self.received.len() - self.read) as u32;
        self.connection
            .set_receive_room(self.config.window_max.saturating_sub(unread));
    }

    fn check(&mut self, name: &str) -> Result<(), String> {
        let send = &self.connection.send;
        if !(send.una.at_or_before(send.nxt) && send.nxt.at_or_before(send.max)) {
            return Err(format!("{name}: una, nxt, max out of order: {send:?}"));
        }
        if self.connection.state() > State::SynSent {
            let edge = self.connection.receive.nxt + self.connection.receive.offered();
            if self.edge.is_some_and(|before| edge.before(before)) {
                return Err(format!(
                    "{name}: right edge went from {:?} to {edge:?}",
                    self.edge
                ));
            }
            self.edge = Some(edge);
        }
        Ok(())
    }
}

struct Flight {
    at: Instant,
    order: u64,
    target: usize,
    segment: Segment,
    payload: Vec<u8>,
}

struct World {
    now: Instant,
    plan: Plan,
    random: Random,
    ends: [Option<End>; 2],
    flights: Vec<Flight>,
    order: u64,
    iss: u32,
    configs: [Config; 2],
    streams: [Vec<u8>; 2],
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random);
        let config = |i: usize| Config {
            mss: plan.mss[i],
            window_max: plan.windows[i],
            window_scale: 3,
            out_of_order_max: plan.windows[i] + 20_000,
            syn_retries: 30,
            retries: 40,
            ..Config::default()
        };
        let stream = |size: usize, salt: usize| -> Vec<u8> {
            (0..size).map(|i| (i * 31 + i / 251 + salt) as u8).collect()
        };
        let configs = [config(0), config(1)];
        let streams = [stream(plan.sizes[0], 1), stream(plan.sizes[1], 2)];
        // Close to the wrap as often as not.
        let iss = (random.next() as u32) | if random.percent(50) { 0xffff_0000 } else { 0 };
        let now = Instant::from_nanos(random.below(1 << 50));
        let mut world = Self {
            now,
            plan,
            random,
            ends: [None, None],
            flights: Vec::new(),
            order: 0,
            iss,
            configs,
            streams,
        };
        let connection = Connection::open(now, &world.configs[0], 80, 40_000, iss);
        world.ends[0] = Some(world.end(0, connection));
        world
    }

    fn end(&self, index: usize, connection: Connection) -> End {
        End {
            edge: None,
            connection,
            config: self.configs[index].clone(),
            stream: self.streams[index].clone(),
            acked: 0,
            written: 0,
            may_write: index == 0 || !self.plan.answer_after_fin,
            received: Vec::new(),
            read: 0,
            paused_until: None,
            has_paused: false,
            finished: false,
            wire_segments: 0,
            retransmissions: 0,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let deadline = self.now + TIME_MAX;
        for _ in 0..STEPS_MAX {
            self.step()?;
            if self
                .ends
                .iter()
                .all(|end| end.as_ref().is_some_and(End::is_done))
            {
                return self.verify();
            }
            let flights = self.flights.iter().map(|flight| flight.at);
            let ends = self.ends.iter().flatten();
            let timers = ends
                .flat_map(|e| [e.connection.poll_at(), e.paused_until])
                .flatten();
            let Some(next) = flights.chain(timers).min() else {
                return Err("nothing will ever happen again".into());
            };
            self.now = self.now.max(next);
            if self.now > deadline {
                return Err("takes too long".into());
            }
        }
        Err("too many steps".into())
    }

    fn step(&mut self) -> Result<(), String> {
        let now = self.now;
        let (mut due, later): (Vec<_>, Vec<_>) = core::mem::take(&mut self.flights)
            .into_iter()
            .partition(|f| f.at <= now);
        self.flights = later;
        due.sort_by_key(|flight| (flight.at, flight.order));
        for flight in due {
            self.arrive(&flight)?;
        }
        for index in 0..2 {
            let Some(mut end) = self.ends[index].take() else {
                continue;
            };
            if end.finished {
                end.may_write = true;
            }
            match end.connection.on_timer(now, &end.config) {
                TimerOutcome::Gone(Reason::TimeWaitOver) => {}
                TimerOutcome::Gone(reason) => {
                    return Err(format!("end {index} is gone: {reason:?}"));
                }
                TimerOutcome::Idle | TimerOutcome::Transmit => {}
            }
            end.act(now, &mut self.random, &self.plan, index == 1);
            self.transmit(index, &mut end)?;
            end.check(if index == 0 { "first" } else { "second" })?;
            self.ends[index] = Some(end);
        }
        Ok(())
    }

    fn arrive(&mut self, flight: &Flight) -> Result<(), String> {
        let (now, index) = (self.now, flight.target);
        let Some(mut end) = self.ends[index].take() else {
            let config = &self.configs[index];
            let iss = self.iss ^ 0x5555;
            if flight.segment.flags != segment::Flags::SYN {
                return Ok(());
            }
            let mut connection = Connection::from_syn(now, config, &flight.segment, iss);
            connection.accept(now, config);
            self.ends[index] = Some(self.end(index, connection));
            return Ok(());
        };
        let edge = end.connection.receive.nxt + end.connection.receive.offered();
        let last = flight.segment.sequence + flight.payload.len() as u32;
        if last.after(edge + 1) && end.connection.state() > State::SynReceived {
            return Err(format!("sent beyond the window: {last:?} after {edge:?}"));
        }
        end.receive(now, &flight.segment, &flight.payload)?;
        self.ends[index] = Some(end);
        Ok(())
    }

    fn transmit(&mut self, index: usize, end: &mut End) -> Result<(), String> {
        let queue = end.queue(self.plan.segment_max);
        let mut bare = 0;
        for _ in 0..10_000 {
            let Some(transmit) = end.connection.poll_transmit(self.now, &end.config, &queue) else {
                return Ok(());
            };
            let Transmit {
                segment,
                payload,
                gso_size,
                retransmission,
            } = transmit;
            let range = end.acked + payload.start as usize..end.acked + payload.end as usize;
            if range.end > end.written || payload.len() > self.plan.segment_max as usize {
                return Err(format!("payload {payload:?} of a queue of {queue:?}"));
            }
            bare += u32::from(payload.is_empty() && segment.flags == segment::Flags::ACK);
            // With SACK one says it all; without, duplicates are counted by the other end.
            if bare > if end.connection.agreed.sack { 1 } else { 4 } {
                return Err("too many bare ACKs at once".into());
            }
            end.wire_segments += 1;
            end.retransmissions += usize::from(retransmission);
            let bytes = end.stream[range].to_vec();
            self.send(1 - index, segment, &bytes, gso_size);
        }
        Err("poll_transmit never ends".into())
    }

    /// What a TAP does with a super-frame, then the link.
    fn send(&mut self, target: usize, segment: Segment, bytes: &[u8], gso_size: Option<u16>) {
        let size = match gso_size {
            Some(size) if self.plan.cut => usize::from(size),
            _ => bytes.len().max(1),
        };
        let pieces = bytes.chunks(size).collect::<Vec<_>>();
        let pieces = if pieces.is_empty() {
            vec![bytes]
        } else {
            pieces
        };
        let count = pieces.len();
        let mut sequence = segment.sequence;
        for (i, piece) in pieces.into_iter().enumerate() {
            let mut header = Segment {
                sequence,
                ..segment
            };
            if i + 1 < count {
                let ending = segment::Flags::FIN.0 | segment::Flags::PSH.0;
                header.flags.0 &= !ending;
            }
            sequence += piece.len() as u32;
            self.launch(target, header, piece);
        }
    }

    fn launch(&mut self, target: usize, mut segment: Segment, payload: &[u8]) {
        if segment.flags.syn() {
            segment.options.sack_permitted &= !self.plan.strip_sack;
            if self.plan.strip_timestamps {
                segment.options.timestamps = None;
            }
            if self.plan.strip_scale {
                segment.options.window_scale = None;
            }
        }
        if self.random.percent(self.plan.loss_percent) {
            return;
        }
        let copies = 1 + u32::from(self.random.percent(self.plan.double_percent));
        for _ in 0..copies {
            let jitter_us = self.random.below(self.plan.jitter_us + 1);
            let delay = Duration::from_micros(self.plan.delay_us + jitter_us);
            self.order += 1;
            self.flights.push(Flight {
                at: self.now + delay,
                order: self.order,
                target,
                segment,
                payload: payload.to_vec(),
            });
        }
    }

    fn verify(&self) -> Result<(), String> {
        for index in 0..2 {
            let (Some(from), Some(to)) = (&self.ends[index], &self.ends[1 - index]) else {
                return Err("no connection".into());
            };
            if from.stream != to.received {
                return Err(format!(
                    "stream {index} arrived changed: {} bytes of {}",
                    to.received.len(),
                    from.stream.len()
                ));
            }
            if !to.finished || from.acked != from.stream.len() {
                return Err(format!(
                    "stream {index} was not finished or not acknowledged"
                ));
            }
        }
        Ok(())
    }
}

#[test]
fn all_bytes_arrive_whole_in_order_and_once() {
    let mut failures = Vec::new();
    for seed in SEEDS_THAT_FAILED_ONCE.into_iter().chain(0..SEEDS) {
        let mut world = World::new(seed);
        if let Err(why) = world.run() {
            failures.push(format!("seed {seed}: {why}\n    {:?}", world.plan));
        }
    }
    assert!(
        failures.is_empty(),
        "{} runs failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

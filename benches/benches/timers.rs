//! The deadlines of a million flows.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use towpath::internals::{Armed, Timers};
use towpath_stack::Instant;

const FLOWS: u32 = 1_000_000;
/// Deadlines are up to so many nanoseconds away.
const SPAN: u64 = 200_000_000;

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers, 1 M");
    group.throughput(super::each(1, size_of::<Armed>()));
    let mut world = World::new();

    // What nearly every segment does: the retransmission timer starts anew.
    group.bench_function("moved later", |bencher| {
        bencher.iter(|| {
            let (flow, _) = world.random();
            let later = world.now + Duration::from_nanos(2 * SPAN);
            let armed = &mut world.armed[flow as usize];
            world.timers.arm(black_box(flow), armed, later);
        });
    });
    // An entry comes due and its flow has a new deadline: the heap keeps its size.
    group.bench_function("fired and armed anew", |bencher| {
        bencher.iter(|| {
            let flow = world.fire();
            let (_, after) = world.random();
            let deadline = world.now + Duration::from_nanos(after);
            let armed = &mut world.armed[flow as usize];
            world.timers.arm(flow, armed, deadline);
        });
    });
    // A delayed ACK in front of a retransmission timer, and its firing.
    group.bench_function("moved earlier, and fired", |bencher| {
        bencher.iter(|| {
            let (flow, _) = world.random();
            let armed = &mut world.armed[flow as usize];
            world.timers.arm(flow, armed, world.now);
            let fired = world.fire();
            let (_, after) = world.random();
            let deadline = world.now + Duration::from_nanos(after);
            let armed = &mut world.armed[fired as usize];
            world.timers.arm(fired, armed, deadline);
        });
    });
    group.finish();
}

struct World {
    timers: Timers,
    armed: Vec<Armed>,
    now: Instant,
    random: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            timers: Timers::default(),
            armed: vec![Armed::default(); FLOWS as usize],
            now: Instant::from_nanos(1),
            random: 1,
        };
        for flow in 0..FLOWS {
            let (_, after) = world.random();
            let deadline = world.now + Duration::from_nanos(after);
            let armed = &mut world.armed[flow as usize];
            world.timers.arm(flow, armed, deadline);
        }
        world
    }

    /// Time goes on to the next live entry. Entries that were overtaken are skipped, as a core does.
    fn fire(&mut self) -> u32 {
        loop {
            let due = self.timers.pop_due(Instant::from_nanos(u64::MAX));
            let (at, flow) = due.expect("every flow has an entry");
            if self.armed[flow as usize].fired(at) {
                self.now = self.now.max(at);
                return flow;
            }
        }
    }

    /// A flow and a delay, by a linear congruence (Knuth's MMIX).
    fn random(&mut self) -> (u32, u64) {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let high = self.random >> 32;
        ((high as u32) % FLOWS, (high * SPAN) >> 32)
    }
}

//! Looking up, missing and replacing flows among 1 K, 100 K and 1 M, in no order.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use towpath::internals::FlowTable;
use towpath_stack::Address;
use towpath_stack::flow::{self, FlowKey, Protocol};

/// About what a TCP flow keeps in the table.
type Flow = [u64; 64];

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow table");
    for flows in [1_000, 100_000, 1_000_000] {
        let mut table = FlowTable::<Flow>::default();
        let entries: Vec<_> = (0..flows)
            .map(|n| {
                let (key, hash) = named(n);
                (key, hash, table.insert(key, hash, [n as u64; 64]))
            })
            .collect();
        let mut shuffled = Shuffled::new(&entries);
        group.throughput(super::each(1, size_of::<FlowKey>()));
        group.bench_function(BenchmarkId::new("hit", flows), |bencher| {
            bencher.iter(|| {
                let (key, hash, index) = shuffled.next();
                let found = table.find(black_box(key), *hash);
                debug_assert_eq!(found, Some(*index));
                found
            });
        });
        group.bench_function(BenchmarkId::new("miss", flows), |bencher| {
            bencher.iter(|| {
                let (mut key, hash, _) = *shuffled.next();
                key.remote_port += 1;
                table.find(black_box(&key), hash.wrapping_add(0x1234_5678))
            });
        });
        group.bench_function(BenchmarkId::new("replace", flows), |bencher| {
            bencher.iter(|| {
                let (key, hash, index) = shuffled.next();
                table.free(*index);
                *index = table.insert(*key, *hash, [0; 64]);
            });
        });
    }
    group.finish();
}

/// The `n`th flow: many guests' ports to many remotes.
fn named(n: usize) -> (FlowKey, u32) {
    let [a, b, c, d] = (n as u32 / 50_000).to_be_bytes();
    let key = FlowKey {
        guest: 0,
        protocol: Protocol::Tcp,
        guest_address: Address::v4([10, 0, 0, 3]),
        remote_address: Address::v4([198 ^ a, 18 ^ b, c, d]),
        guest_port: 10_000 + (n % 50_000) as u16,
        remote_port: 443,
    };
    (key, flow::hash(&key))
}

/// Entries, each a long way in the table from the one before: no cache line is met again soon. They
/// lie in the order of their use, so that looking at them costs nothing that counts.
struct Shuffled {
    entries: Vec<(FlowKey, u32, u32)>,
    at: usize,
}

impl Shuffled {
    fn new(ordered: &[(FlowKey, u32, u32)]) -> Self {
        // A prime that divides no power of ten, so that every entry has its turn.
        let place = |n: usize| n * 618_033_989 % ordered.len();
        Self {
            entries: (0..ordered.len()).map(|n| ordered[place(n)]).collect(),
            at: 0,
        }
    }

    fn next(&mut self) -> &mut (FlowKey, u32, u32) {
        self.at = (self.at + 1) % self.entries.len();
        &mut self.entries[self.at]
    }
}

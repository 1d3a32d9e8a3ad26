//! The symmetric Toeplitz hash of a flow.

use std::hint::black_box;

use criterion::Criterion;
use towpath_benches::frames;
use towpath_stack::flow::{self, FlowKey, Protocol};

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow hash");
    for (name, v6, hashed) in [("v4", false, 12), ("v6", true, 36)] {
        let envelope = frames::envelope(v6);
        let key = FlowKey {
            guest: 0,
            protocol: Protocol::Tcp,
            guest_address: envelope.source,
            remote_address: envelope.target,
            guest_port: 40_000,
            remote_port: 443,
        };
        group.throughput(super::each(1, hashed));
        group.bench_function(name, |bencher| {
            bencher.iter(|| flow::hash(black_box(&key)));
        });
    }
    group.finish();
}

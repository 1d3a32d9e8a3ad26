//! The Internet checksum, ours beside etherparse's.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use etherparse::checksum::Sum16BitWords;
use towpath_stack::wire::checksum::Sum;

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [64, 1500, 65_536] {
        let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let theirs = Sum16BitWords::new().add_slice(&bytes);
        assert_eq!(
            Sum::new().add(&bytes).checksum(),
            theirs.ones_complement().to_be()
        );
        group.throughput(super::each(1, len));
        group.bench_function(BenchmarkId::new("towpath", len), |bencher| {
            bencher.iter(|| Sum::new().add(black_box(&bytes)).checksum());
        });
        group.bench_function(BenchmarkId::new("etherparse", len), |bencher| {
            bencher.iter(|| {
                Sum16BitWords::new()
                    .add_slice(black_box(&bytes))
                    .ones_complement()
            });
        });
    }
    group.finish();
}

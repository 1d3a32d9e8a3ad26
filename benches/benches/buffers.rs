//! Pooled buffers and their slices.

use std::hint::black_box;

use criterion::Criterion;
use towpath_ring::buffer::{FilledPool, Slice};

/// Bytes of the frame that is held.
const FRAME: usize = 65_226;

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("buffer");
    let mut pool = FilledPool::new(64, 65_792).expect("memory");
    group.throughput(super::each(1, FRAME));
    group.bench_function("take and return", |bencher| {
        bencher.iter(|| black_box(pool.lend(FRAME, |_| {})));
    });
    group.bench_function("take and return by way of a parcel", |bencher| {
        bencher.iter(|| {
            let frame = pool.lend(FRAME, |_| {}).expect("a free buffer");
            black_box(Slice::from(frame.into_parcel()));
        });
    });
    let frame = pool.lend(FRAME, |_| {}).expect("a free buffer");
    group.bench_function("part of a slice", |bencher| {
        bencher.iter(|| black_box(frame.sub(black_box(66..FRAME))));
    });
    group.bench_function("split off the front", |bencher| {
        bencher.iter(|| {
            let mut rest = frame.clone();
            black_box(rest.split_to(black_box(1448)));
            rest
        });
    });
    group.throughput(super::each(1, 64));
    let small = [7; 64];
    group.bench_function("append 64 B", |bencher| {
        bencher.iter(|| {
            let mut slice = pool.lend(0, |_| {}).expect("a free buffer");
            black_box(slice.try_append(&small));
            slice
        });
    });
    group.finish();
}

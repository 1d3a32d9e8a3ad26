//! Headers of frames to the guest, as egress has them built.

use std::hint::black_box;

use criterion::Criterion;
use towpath_benches::frames::{self, SEGMENT, SUPER_FRAME};
use towpath_stack::build::{self, Checksum, EchoHeader, Fragments, HEADER_MAX};
use towpath_stack::tcp::segment::Flags;
use towpath_stack::wire::checksum::Sum;

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header");
    let segment = frames::segment(Flags::ACK, frames::timestamps());
    let payload = vec![0; SEGMENT];
    let sum = Sum::new().add(&payload);
    for (name, v6, len, gso) in [
        ("tcp4 ack", false, 0, None),
        ("tcp4 super-frame", false, SUPER_FRAME, Some(SEGMENT as u16)),
        ("tcp6 super-frame", true, SUPER_FRAME, Some(SEGMENT as u16)),
    ] {
        let envelope = frames::envelope(v6);
        group.throughput(super::each(1, len + if v6 { 86 } else { 66 }));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut out = [0; HEADER_MAX];
                let partial = Checksum::Partial;
                let (len, offload) =
                    build::tcp(&mut out, &envelope, black_box(&segment), len, gso, partial);
                black_box((out, len, offload.emit()));
            });
        });
    }
    let envelope = frames::envelope(false);
    group.throughput(super::each(1, SEGMENT + 66));
    group.bench_function("tcp4 data, full checksum", |bencher| {
        bencher.iter(|| {
            let mut out = [0; HEADER_MAX];
            let full = Checksum::Full(Sum::new().add(black_box(&payload)));
            let built = build::tcp(&mut out, &envelope, &segment, SEGMENT, None, full);
            black_box((out, built));
        });
    });
    group.throughput(super::each(1, 64 + 42));
    group.bench_function("udp4", |bencher| {
        bencher.iter(|| {
            let mut out = [0; HEADER_MAX];
            let partial = Checksum::Partial;
            let built = build::udp(&mut out, &envelope, black_box(53), 4000, 64, None, partial);
            black_box((out, built));
        });
    });
    let echo = EchoHeader {
        reply: true,
        identifier: 1,
        sequence: 1,
    };
    group.bench_function("icmp4 echo", |bencher| {
        bencher.iter(|| {
            let mut out = [0; HEADER_MAX];
            let len = build::icmp_echo(&mut out, &envelope, black_box(&echo), 64, sum);
            black_box((out, len));
        });
    });
    let datagram = 4 * SEGMENT;
    group.throughput(super::each(4, datagram));
    group.bench_function("udp4 in 4 fragments", |bencher| {
        bencher.iter(|| {
            let mut out = [0; HEADER_MAX];
            let mut fragments = Fragments::udp(&envelope, 1, 53, 4000, datagram, sum, 1500);
            while let Some(fragment) = fragments.next(&mut out) {
                black_box((&out, fragment));
            }
        });
    });
    group.finish();
}

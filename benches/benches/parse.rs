//! A frame of each kind through the parser, offload header included, and a batch of 64.

use std::hint::black_box;

use criterion::Criterion;
use towpath_benches::frames::{self, Frame};
use towpath_stack::parse;
use towpath_stack::wire::offload::Offload;

/// Frames of a batch: as many as there are buffers for frames.
const BATCH: usize = 64;

pub(crate) fn all(criterion: &mut Criterion) {
    let frames = frames::of_each_kind();
    let mut group = criterion.benchmark_group("parse");
    for frame in &frames {
        group.throughput(super::each(1, frame.bytes.len()));
        group.bench_function(frame.name, |bencher| {
            bencher.iter(|| read(black_box(&frame.bytes)));
        });
    }
    // An upload, an ACK for each of a download's frames, and a few of the others; each in a buffer of
    // its own, as they come from a link.
    let named = |name: &str| -> &Frame {
        let found = frames.iter().find(|frame| frame.name == name);
        found.expect("a frame of that name")
    };
    let kinds = ["tcp4 super-frame", "tcp4 ack", "tcp4 data", "udp4"].map(named);
    let batch: Vec<Vec<u8>> = (0..BATCH)
        .map(|at| kinds[at % kinds.len()].bytes.clone())
        .collect();
    group.throughput(super::each(BATCH, batch.iter().map(Vec::len).sum()));
    group.bench_function("batch of 64", |bencher| {
        bencher.iter(|| {
            for frame in &batch {
                read(black_box(frame));
            }
        });
    });
    group.finish();
}

fn read(bytes: &[u8]) {
    let (offload, frame) = Offload::parse(bytes).expect("a whole offload header");
    let packet = parse::parse(frame, &offload);
    debug_assert!(packet.is_ok());
    let _ = black_box(packet);
}

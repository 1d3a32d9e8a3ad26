//! The micro-benchmarks, a file for each subject. See `../README.md` for how to run them and for
//! what they should reach.

mod buffers;
mod checksum;
mod flow_hash;
mod flow_table;
mod headers;
mod lanes;
mod parse;
mod tcp;
mod timers;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Short enough for all to take two minutes; `--measurement-time` and the like override it.
fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20)
        .nresamples(5_000)
        .without_plots()
}

/// What one iteration does: so many things, so many bytes.
fn each(elements: usize, bytes: usize) -> Throughput {
    Throughput::ElementsAndBytes {
        elements: elements as u64,
        bytes: bytes as u64,
    }
}

criterion_group! {
    name = parts;
    config = short();
    targets = parse::all, checksum::all, flow_hash::all, flow_table::all, tcp::all, timers::all,
        lanes::all, buffers::all, headers::all
}
criterion_main!(parts);

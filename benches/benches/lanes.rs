//! Hand-over between cores: on one thread, and from one thread to another that waits for it.

use std::hint::black_box;
use std::time::Instant;

use criterion::Criterion;
use towpath_ring::buffer::{FilledPool, Parcel, Slice};
use towpath_ring::lane::Lanes;

/// Items that a lane holds (what the engine takes).
const LANE: usize = 256;
/// Bytes of a frame that travels.
const FRAME: usize = 1514;

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lane");
    group.throughput(super::each(1, FRAME));
    group.bench_function("same thread, a frame", |bencher| {
        let mut ends = Lanes::mesh::<Parcel>(2, LANE).into_iter();
        let (here, there) = (ends.next().expect("core 0"), ends.next().expect("core 1"));
        let mut pool = FilledPool::new(64, 65_792).expect("memory");
        bencher.iter(|| {
            let frame = pool.lend(FRAME, |_| {}).expect("a free buffer");
            here.send(1, frame.into_parcel()).expect("a free place");
            black_box(there.receive().map(|(_, parcel)| Slice::from(parcel)));
        });
    });
    group.bench_function("to another thread, a number", |bencher| {
        bencher.iter_custom(|items| {
            let mut ends = Lanes::mesh::<u64>(2, LANE).into_iter();
            let (here, there) = (ends.next().expect("core 0"), ends.next().expect("core 1"));
            let receiver = std::thread::spawn(move || {
                let mut sum = 0;
                for _ in 0..items {
                    sum += until_some(|| there.receive()).1;
                }
                sum
            });
            let started = Instant::now();
            for item in 0..items {
                let mut item = Some(item);
                until_some(|| match here.send(1, item.take()?) {
                    Ok(()) => Some(()),
                    Err(back) => {
                        item = Some(back);
                        None
                    }
                });
            }
            black_box(receiver.join().expect("the receiver ends"));
            started.elapsed()
        });
    });
    group.bench_function("to another thread, a frame", |bencher| {
        bencher.iter_custom(|items| {
            let mut ends = Lanes::mesh::<Parcel>(2, LANE).into_iter();
            let (here, there) = (ends.next().expect("core 0"), ends.next().expect("core 1"));
            let receiver = std::thread::spawn(move || {
                for _ in 0..items {
                    let (_, parcel) = until_some(|| there.receive());
                    // The drop sends the buffer home.
                    black_box(Slice::from(parcel).bytes()[0]);
                }
            });
            let mut pool = FilledPool::new(64, 65_792).expect("memory");
            let started = Instant::now();
            for _ in 0..items {
                let frame = until_some(|| pool.lend(FRAME, |_| {}));
                let sent = here.send(1, frame.into_parcel());
                sent.expect("a lane has more places than the pool buffers");
            }
            receiver.join().expect("the receiver ends");
            started.elapsed()
        });
    });
    group.finish();
}

/// Spins as long as the other side is awake, which it always is here.
fn until_some<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        match attempt() {
            Some(value) => return value,
            None => std::hint::spin_loop(),
        }
    }
}

//! Runs seeds: one, or many on all processors.

use std::num::NonZero;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::oracle;
use crate::plan::Plan;
use crate::world::World;

/// One world, from its beginning to its end. Answers a hash of all that happened.
pub(crate) fn seed(seed: u64, prints: bool) -> Result<u64, String> {
    world(seed, Plan::new(seed), prints)
}

/// The world of a plan.
pub(crate) fn world(seed: u64, plan: Plan, prints: bool) -> Result<u64, String> {
    if prints {
        println!("{plan:#?}");
    }
    let mut world = World::new(seed, plan, prints);
    let ends_at = oracle::ends_at(&world);
    world.run(ends_at)?;
    match oracle::check(&mut world) {
        Ok(()) => Ok(world.trace.hash()),
        Err(why) => Err(format!("{why}; {}", world.state())),
    }
}

/// Runs seeds until there are no more, or until a time; answers how many failed.
pub(crate) fn all(seeds: impl Iterator<Item = u64> + Send, until: Option<Instant>) -> u64 {
    let seeds = Mutex::new(seeds);
    let (ran, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let next = || {
        let over = until.is_some_and(|until| Instant::now() >= until);
        let mut seeds = seeds.lock().expect("nobody panics in here");
        seeds.next().filter(|_| !over)
    };
    let work = || {
        while let Some(seed) = next() {
            ran.fetch_add(1, Ordering::Relaxed);
            let result = catch_unwind(|| self::seed(seed, false));
            let result = result.unwrap_or_else(|_| Err("a panic".to_owned()));
            if let Err(why) = result {
                failed.fetch_add(1, Ordering::Relaxed);
                println!(
                    "seed {seed} failed: {why}\n    \
                     cargo test --release -p towpath --test sim -- --seed {seed} --trace"
                );
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    println!("{} seeds, {failed} failed", ran.into_inner());
    failed
}

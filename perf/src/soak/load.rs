//! The mix of a soak: four workers, each with its loads in turn, all through one engine.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::world::World;

/// What a client may take beyond the length of its load.
const PATIENCE: Duration = Duration::from_secs(30);
/// A load that would be shorter is not begun.
const SHORTEST: Duration = Duration::from_millis(500);
/// After a failed load a worker waits.
const PAUSE: Duration = Duration::from_secs(1);

/// The loads of each worker: the client's mode and arguments, without the length.
const WORKERS: [&[&str]; 4] = [
    &["bulk-up --streams 2", "bulk-down --streams 2"],
    &["rr --transport tcp", "rr --transport udp"],
    &[
        "connect --concurrency 16",
        "idle --connections 200",
        "objects --direction down --size 1M --streams 4",
    ],
    &[
        "udp --direction up --rate 100M --size 1200",
        "udp --direction down --rate 100M --size 1200",
    ],
];

/// How often each load ran, by its client arguments.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<BTreeMap<&'static str, Count>>);

/// How often one load ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    pub(super) runs: u64,
    pub(super) failed: u64,
    /// The first failure, in words.
    pub(super) failure: Option<String>,
}

impl Tally {
    /// What there is so far.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, Count> {
        self.0
            .lock()
            .expect("no thread panics with the lock")
            .clone()
    }

    fn add(&self, load: &'static str, failure: Option<String>) {
        let mut counts = self.0.lock().expect("no thread panics with the lock");
        let count = counts.entry(load).or_default();
        count.runs += 1;
        count.failed += u64::from(failure.is_some());
        count.failure = count.failure.take().or(failure);
    }
}

/// Runs the mix for `length`, each load for `each`, and calls `meanwhile` all along. Ends early
/// once `stop` is set, with the loads that are under way cut off.
pub(super) fn run(
    world: &World,
    length: Duration,
    each: Duration,
    tally: &Tally,
    stop: &AtomicBool,
    mut meanwhile: impl FnMut(),
) {
    let end = Instant::now() + length;
    let stopped = || stop.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let workers: Vec<_> = WORKERS
            .into_iter()
            .map(|loads| {
                scope.spawn(move || {
                    for load in loads.iter().copied().cycle() {
                        let left = end.saturating_duration_since(Instant::now());
                        if left < SHORTEST || stopped() {
                            break;
                        }
                        one(world, load, each.min(left), tally, stop);
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            meanwhile();
            thread::sleep(Duration::from_millis(50));
        }
    });
}

fn one(world: &World, load: &'static str, length: Duration, tally: &Tally, stop: &AtomicBool) {
    let seconds = length.as_secs_f64().to_string();
    let args: Vec<String> = load
        .split_whitespace()
        .chain(["--seconds", &seconds])
        .map(str::to_owned)
        .collect();
    let ended = world.client(&args).and_then(|mut client| {
        client.finish_unless(length + PATIENCE, || stop.load(Ordering::Relaxed))
    });
    match ended {
        Ok(Some(_)) => tally.add(load, None),
        // Cut off by the user: neither a success nor a failure.
        Ok(None) => {}
        Err(failure) => {
            tally.add(load, Some(failure.to_string()));
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_kept() {
        let tally = Tally::default();
        tally.add("a", None);
        tally.add("a", Some("one".to_owned()));
        tally.add("a", Some("two".to_owned()));
        let wanted = Count {
            runs: 3,
            failed: 2,
            failure: Some("one".to_owned()),
        };
        assert_eq!(tally.counts()["a"], wanted);
    }
}

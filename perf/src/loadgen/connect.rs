//! Short connections: connect, one byte each way, close; K at a time. Each is timed from before the
//! connect to the answer's byte. The client closes first, so that its side holds the TIME-WAIT, as
//! with most real clients.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::bulk::join;
use super::client::Target;
use super::latency::{Latencies, Summary};
use crate::failure::{Failure, Outcome};

/// After a failed connection a worker waits, so that a network in trouble is not hammered by
/// refusals.
const PAUSE: Duration = Duration::from_millis(1);

/// What the connections came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Connects {
    /// Connections under way at a time.
    pub(crate) concurrency: u32,
    pub(crate) count: u64,
    /// Connections that were refused, broken or timed out.
    pub(crate) failed: u64,
    /// One of the failures, in words.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) per_s: f64,
    pub(crate) latency: Summary,
}

/// What one worker did.
struct Worker {
    latencies: Latencies,
    failed: u64,
    failure: Option<io::Error>,
}

/// Makes connections for `duration` with `concurrency` workers.
///
/// # Errors
/// Not one connection succeeded.
pub(crate) fn run(target: &Target, concurrency: u32, duration: Duration) -> Outcome<Connects> {
    let start = Instant::now();
    let workers: Vec<Worker> = thread::scope(|scope| {
        let threads: Vec<_> = (0..concurrency)
            .map(|_| scope.spawn(|| work(target, start + duration)))
            .collect();
        threads.into_iter().map(join).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let mut latencies = Latencies::new();
    let mut failed = 0;
    let mut failure = None;
    for worker in workers {
        latencies.merge(&worker.latencies);
        failed += worker.failed;
        failure = failure.or(worker.failure);
    }
    let failure = failure.map(|error| error.to_string());
    let Some(latency) = latencies.summary() else {
        let why = failure.unwrap_or_else(|| "no time for one".to_owned());
        return Err(Failure::new(format!("not one connection succeeded: {why}")));
    };
    let count = latencies.count();
    let per_s = count as f64 / seconds;
    Ok(Connects {
        concurrency,
        count,
        failed,
        failure,
        seconds,
        per_s,
        latency,
    })
}

fn work(target: &Target, end: Instant) -> Worker {
    let mut worker = Worker {
        latencies: Latencies::new(),
        failed: 0,
        failure: None,
    };
    let mut before = Instant::now();
    while before < end {
        match once(target) {
            Ok(()) => worker.latencies.record(before.elapsed()),
            Err(error) => {
                worker.failed += 1;
                worker.failure = Some(error);
                thread::sleep(PAUSE);
            }
        }
        before = Instant::now();
    }
    worker
}

fn once(target: &Target) -> io::Result<()> {
    let mut connection = target.connect()?;
    connection.write_all(b"c")?;
    connection.read_exact(&mut [0])
}

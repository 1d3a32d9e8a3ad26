//! Where cores run: the one file that knows the executor.
//!
//! With io_uring, glommio makes the threads, pins them and gives each its executor; the loop of a core is
//! the one task on it and waits in its own ring, also when idle, because nothing else runs there. (Waiting
//! through the executor was measured to double the cost of a lone request.)
//!
//! Without io_uring there is no executor: a core is then a plain thread that runs the same loop.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use glommio::{LocalExecutorPoolBuilder, PoolPlacement, PoolThreadHandles};
use rustix::thread::CpuSet;

use crate::driver::DriverKind;

/// Memory that an executor registers for its own I/O, of which a core does none: the smallest that
/// it takes (its default of 10 MiB does not fit the usual locked-memory limit of 8 MiB).
const EXECUTOR_IO_BYTES: usize = 64 << 10;

const THREAD_NAME: &str = "towpath-core";

/// The threads of the cores.
pub(crate) enum Threads {
    Executors(PoolThreadHandles<()>),
    Plain(Vec<JoinHandle<()>>),
}

/// Runs `body` once per core, on a thread of its own, with the core's number.
pub(crate) fn spawn(
    driver: DriverKind,
    cores: usize,
    pin: bool,
    body: impl Fn(usize) + Send + Sync + 'static,
) -> io::Result<Threads> {
    match driver {
        DriverKind::Uring => spawn_executors(cores, pin, body),
        _ => spawn_plain(cores, pin, body),
    }
}

fn spawn_executors(
    cores: usize,
    pin: bool,
    body: impl Fn(usize) + Send + Sync + 'static,
) -> io::Result<Threads> {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let body = Arc::new(body);
    LocalExecutorPoolBuilder::new(placement(cores, pin)?)
        .name(THREAD_NAME)
        .io_memory(EXECUTOR_IO_BYTES)
        .on_all_shards(move || {
            let core = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let body = Arc::clone(&body);
            async move { body(core) }
        })
        .map(Threads::Executors)
        .map_err(|error| io::Error::other(error.to_string()))
}

fn spawn_plain(
    cores: usize,
    pin: bool,
    body: impl Fn(usize) + Send + Sync + 'static,
) -> io::Result<Threads> {
    let body = Arc::new(body);
    let processors = if pin { processors(cores)? } else { Vec::new() };
    // If a later one can't be made, those that were end by themselves: nobody waits for what they do.
    (0..cores)
        .map(|core| {
            let body = Arc::clone(&body);
            let processor = processors.get(core).copied();
            thread::Builder::new()
                .name(THREAD_NAME.to_owned())
                .spawn(move || {
                    if let Some(processor) = processor {
                        pin_to(processor);
                    }
                    body(core);
                })
        })
        .collect::<io::Result<_>>()
        .map(Threads::Plain)
}

impl Threads {
    /// Waits for all cores to end.
    pub(crate) fn join(self) {
        match self {
            Threads::Executors(threads) => {
                for result in threads.join_all() {
                    if let Err(error) = result {
                        tracing::error!(%error, "a core ended abnormally");
                    }
                }
            }
            Threads::Plain(threads) => {
                for thread in threads {
                    if thread.join().is_err() {
                        tracing::error!("a core ended abnormally");
                    }
                }
            }
        }
    }
}

/// Pinned cores take processors of this process's affinity mask, beginning at one that depends on
/// the process id: several engines on one host (a CI machine runs many) do not all sit on the
/// first processor.
fn processors(cores: usize) -> io::Result<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect();
    let first = std::process::id() as usize;
    Ok((0..cores)
        .map(|core| allowed[(first + core) % allowed.len()])
        .collect())
}

fn placement(cores: usize, pin: bool) -> io::Result<PoolPlacement> {
    if !pin {
        return Ok(PoolPlacement::Unbound(cores));
    }
    let online = glommio::CpuSet::online().map_err(|error| io::Error::other(error.to_string()))?;
    let on = |processor| online.clone().filter(|location| location.cpu == processor);
    let sets: Vec<_> = processors(cores)?.into_iter().map(on).collect();
    if sets.iter().any(glommio::CpuSet::is_empty) {
        // The affinity mask and the topology disagree (an odd container): don't pin.
        return Ok(PoolPlacement::Unbound(cores));
    }
    Ok(PoolPlacement::Custom(sets))
}

/// Pins the calling thread.
fn pin_to(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::info!("a core can't be pinned to processor {processor}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn each_core_has_a_thread_and_a_pinned_one_its_processor() {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap().count();
        for driver in [DriverKind::Uring, DriverKind::Epoll] {
            for pin in [false, true] {
                let seen = Arc::new(Mutex::new(Vec::new()));
                let threads = spawn(driver, 2, pin, {
                    let seen = Arc::clone(&seen);
                    move |core| {
                        let name = thread::current().name().map(str::to_owned);
                        assert!(name.is_some_and(|name| name.starts_with(THREAD_NAME)));
                        let mine = rustix::thread::sched_getaffinity(None).unwrap().count();
                        seen.lock().unwrap().push((core, mine));
                    }
                })
                .unwrap();
                threads.join();
                let mut seen = seen.lock().unwrap().clone();
                seen.sort_unstable();
                let expected = if pin { 1 } else { allowed };
                assert_eq!(seen, [(0, expected), (1, expected)], "{driver}, {pin}");
            }
        }
    }
}

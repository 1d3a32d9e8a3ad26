//! Where cores run: the one file that knows the executor.
//!
//! Glommio makes the threads, pins them and gives each its executor; the loop of a core is the one
//! task on it and waits in its own ring, also when idle, because nothing else runs there. (Waiting
//! through the executor was measured to double the cost of a lone request.)

use std::io;
use std::sync::Arc;

use glommio::{CpuSet, LocalExecutorPoolBuilder, PoolPlacement, PoolThreadHandles};

/// Memory that an executor registers for its own I/O, of which a core does none: the smallest that
/// it takes (its default of 10 MiB does not fit the usual locked-memory limit of 8 MiB).
const EXECUTOR_IO_BYTES: usize = 64 << 10;

/// The threads of the cores.
pub(crate) struct Threads(PoolThreadHandles<()>);

/// Runs `body` once per core, on a thread of its own, with the core's number.
pub(crate) fn spawn(
    cores: usize,
    pin: bool,
    body: impl Fn(usize) + Send + Sync + 'static,
) -> io::Result<Threads> {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let body = Arc::new(body);
    LocalExecutorPoolBuilder::new(placement(cores, pin)?)
        .name("towpath-core")
        .io_memory(EXECUTOR_IO_BYTES)
        .on_all_shards(move || {
            let core = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let body = Arc::clone(&body);
            async move { body(core) }
        })
        .map(Threads)
        .map_err(|error| io::Error::other(error.to_string()))
}

impl Threads {
    /// Waits for all cores to end.
    pub(crate) fn join(self) {
        for result in self.0.join_all() {
            if let Err(error) = result {
                tracing::error!(%error, "a core ended abnormally");
            }
        }
    }
}

/// Pinned cores take processors of this process's affinity mask, beginning at one that depends on
/// the process id: several engines on one host (a CI machine runs many) do not all sit on the
/// first processor.
fn placement(cores: usize, pin: bool) -> io::Result<PoolPlacement> {
    if !pin {
        return Ok(PoolPlacement::Unbound(cores));
    }
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let processors: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect();
    let online = CpuSet::online().map_err(|error| io::Error::other(error.to_string()))?;
    let first = std::process::id() as usize;
    let sets = (0..cores)
        .map(|core| {
            let processor = processors[(first + core) % processors.len()];
            online.clone().filter(|location| location.cpu == processor)
        })
        .collect::<Vec<_>>();
    if sets.iter().any(CpuSet::is_empty) {
        // The affinity mask and the topology disagree (an odd container): don't pin.
        return Ok(PoolPlacement::Unbound(cores));
    }
    Ok(PoolPlacement::Custom(sets))
}

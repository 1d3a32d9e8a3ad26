//! What the load generator reaches by itself: short runs over a veth pair with both ends on one core.
//!
//! A network that comes near to these numbers while it has a core of its own may be held back by
//! the generator. What the generator reaches with all cores is in the rows of `veth` and `loopback`.

use std::path::Path;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cases::Case;
use crate::failure::{Context, Failure, Outcome};
use crate::measure::Settings;
use crate::metrics::Metric;
use crate::peers::Peer;
use crate::results::End;

/// One load of each kind.
const CASES: [&str; 4] = ["tcp-up", "udp-up", "udp-up-64b", "tcp-connect"];
const DURATION: Duration = Duration::from_millis(500);
const MTU: u32 = 1500;

/// What the generator reached in one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reached {
    /// The case's name.
    pub(crate) case: String,
    /// The number to compare by.
    pub(crate) metric: Metric,
}

/// Runs the cases.
///
/// # Errors
/// This process cannot be pinned to one core, or a run failed.
pub(crate) fn measure(settings: &Settings) -> Outcome<Vec<Reached>> {
    let settings = Settings {
        duration: DURATION,
        attempts_max: 1,
        ..settings.clone()
    };
    let veth = Peer::known("veth", Path::new("")).expect("veth is a known peer");
    let cores = sched_getaffinity(Pid::from_raw(0)).doing("ask for our cores")?;
    let first = (0..CpuSet::count()).find(|&core| cores.is_set(core) == Ok(true));
    let mut one = CpuSet::new();
    one.set(first.unwrap_or(0)).doing("name a core")?;
    // Threads and programs that are started from here inherit it.
    sched_setaffinity(Pid::from_raw(0), &one).doing("keep to one core")?;
    let reached = CASES.iter().map(|name| {
        let case = Case::named(name).expect("the cases are known");
        let run = settings.run(&veth, MTU, case, 1);
        match run.end {
            End::Measured(sample) => {
                let metric = sample.metrics.into_iter().next();
                let metric = metric.ok_or_else(|| Failure::new(format!("{name}: no number")))?;
                Ok(Reached {
                    case: run.case,
                    metric,
                })
            }
            End::Failed(why) => Err(Failure::new(format!("the generator alone: {name}: {why}"))),
        }
    });
    let reached = reached.collect();
    sched_setaffinity(Pid::from_raw(0), &cores).doing("use all cores again")?;
    reached
}

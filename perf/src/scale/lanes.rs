//! How much of an engine's work passes from one of its cores to another.
//!
//! From outside two things can be seen: the counters that the engine prints at its end with `-v`,
//! and samples of its stacks. Functions that the compiler has put into their callers do not show
//! up in samples, so that share is at least the one given.

use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// How the engine's table names what we look for.
const FRAMES_IN: &str = "frames from the guest";
const HANDED_OVER: &str = "frames handed to the core that owns their flow";
const LANE_FULL: &str = "dropped: the lane to the owning core was full";

/// Parts of the names of functions that hand frames over, take them or wake for it.
const FUNCTIONS: [&str; 5] = ["lane::", "_lanes", "hand_over", "wake_peers", "ArrayQueue"];

/// What the engine counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Lanes {
    pub(super) frames_in: u64,
    pub(super) handed_over: u64,
    pub(super) dropped: u64,
}

impl Lanes {
    /// Reads the table that the engine prints at its end: `COUNT  WHAT` a line.
    ///
    /// # Errors
    /// There is no such table.
    pub(super) fn parse(text: &str) -> Outcome<Lanes> {
        let count = |name: &str| {
            text.lines().find_map(|line| {
                let line = line.trim().trim_start_matches("towpath: ").trim();
                let (count, what) = line.split_once(' ')?;
                (what.trim() == name).then(|| count.parse().ok())?
            })
        };
        let frames_in = count(FRAMES_IN).ok_or_else(|| {
            Failure::new(format!(
                "the engine did not say how many {FRAMES_IN} it saw"
            ))
        })?;
        // What is zero is not in the table.
        Ok(Lanes {
            frames_in,
            handed_over: count(HANDED_OVER).unwrap_or(0),
            dropped: count(LANE_FULL).unwrap_or(0),
        })
    }

    /// Both together.
    pub(super) fn plus(self, other: Lanes) -> Lanes {
        Lanes {
            frames_in: self.frames_in + other.frames_in,
            handed_over: self.handed_over + other.handed_over,
            dropped: self.dropped + other.dropped,
        }
    }

    /// Share of the guest's frames that came to another core than the one of their flow, 0 to 1.
    pub(super) fn share(self) -> f64 {
        self.handed_over as f64 / self.frames_in.max(1) as f64
    }
}

/// Share of the samples that hit a function of the lanes itself, 0 to 1. `script` holds a sample's
/// functions a line each, innermost first, with an empty line behind each sample.
pub(super) fn share_of_samples(script: &str) -> Option<f64> {
    let (mut all, mut lanes) = (0u64, 0u64);
    for sample in script.split("\n\n") {
        let Some(innermost) = sample.lines().find(|line| !line.trim().is_empty()) else {
            continue;
        };
        all += 1;
        lanes += u64::from(FUNCTIONS.iter().any(|part| innermost.contains(part)));
    }
    (all > 0).then(|| lanes as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_s_table_is_read() {
        let text = "INFO something\ntowpath:         200  frames from the guest\n              50  \
                    frames handed to the core that owns their flow\n             7  batches\n";
        let lanes = Lanes::parse(text).unwrap();
        assert_eq!(
            (lanes.frames_in, lanes.handed_over, lanes.dropped),
            (200, 50, 0)
        );
        assert_eq!(lanes.plus(lanes).share(), 0.25);
        assert!(Lanes::parse("towpath: it ended\n").is_err());
    }

    #[test]
    fn only_the_innermost_function_of_a_sample_counts() {
        let script = " 1 <crossbeam_queue::ArrayQueue<T>>::push\n 2 run_core\n\n \
                      3 schedule\n 4 towpath_ring::lane::send\n\n";
        assert_eq!(share_of_samples(script), Some(0.5));
        assert_eq!(share_of_samples(""), None);
    }
}

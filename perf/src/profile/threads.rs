//! What the kernel counts for each thread and interface: context switches and frames.

use std::fs;

use serde::Serialize;

use crate::failure::{Context, Outcome};
use crate::netns::NetNs;

/// Context switches of all threads of some processes since these started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Switches {
    /// The thread waited for something.
    pub(crate) voluntary: u64,
    /// The thread had to make room for another.
    pub(crate) involuntary: u64,
}

/// Frames on the guest's interfaces, except its loopback; with offloads each may be worth many of
/// an MTU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Frames {
    /// From the guest.
    pub(crate) up: u64,
    pub(crate) up_bytes: u64,
    /// To the guest.
    pub(crate) down: u64,
    pub(crate) down_bytes: u64,
}

impl Switches {
    /// Of all threads that these processes have now.
    pub(crate) fn of(pids: &[u32]) -> Switches {
        let mut switches = Switches::default();
        for pid in pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten();
            for task in tasks.flatten() {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                switches.add(&status);
            }
        }
        switches
    }

    /// Since `earlier`.
    pub(crate) fn since(self, earlier: Switches) -> Switches {
        Switches {
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }

    fn add(&mut self, status: &str) {
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        self.voluntary += number("voluntary_ctxt_switches:");
        self.involuntary += number("nonvoluntary_ctxt_switches:");
    }
}

impl Frames {
    /// Of the interfaces in `netns` so far.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn of(netns: &NetNs) -> Outcome<Frames> {
        let text = netns
            .enter(|| fs::read_to_string("/proc/thread-self/net/dev").doing("count frames"))?;
        Ok(Frames::parse(&text))
    }

    /// Since `earlier`.
    pub(crate) fn since(self, earlier: Frames) -> Frames {
        Frames {
            up: self.up.saturating_sub(earlier.up),
            up_bytes: self.up_bytes.saturating_sub(earlier.up_bytes),
            down: self.down.saturating_sub(earlier.down),
            down_bytes: self.down_bytes.saturating_sub(earlier.down_bytes),
        }
    }

    /// Both ways.
    pub(crate) fn count(self) -> u64 {
        self.up + self.down
    }

    /// Lines `NAME: BYTES PACKETS …`, eight columns received and eight sent.
    fn parse(text: &str) -> Frames {
        let mut frames = Frames::default();
        for line in text.lines() {
            let Some((name, rest)) = line.split_once(':') else {
                continue;
            };
            let columns: Vec<u64> = rest
                .split_whitespace()
                .map(|word| word.parse().unwrap_or(0))
                .collect();
            if name.trim() == "lo" || columns.len() < 16 {
                continue;
            }
            frames.down_bytes += columns[0];
            frames.down += columns[1];
            frames.up_bytes += columns[8];
            frames.up += columns[9];
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_all_interfaces_but_the_loopback() {
        let text = "Inter-|   Receive                 |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes\n    \
             lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n  \
             tap0: 100 2 0 0 0 0 0 0 3000 4 0 0 0 0 0 0\n";
        let frames = Frames::parse(text);
        let wanted = Frames {
            up: 4,
            up_bytes: 3000,
            down: 2,
            down_bytes: 100,
        };
        assert_eq!(frames, wanted);
        assert_eq!((frames.count(), frames.since(frames).count()), (6, 0));
    }

    #[test]
    fn switches_of_both_kinds_are_read() {
        let mut switches = Switches::default();
        switches.add("Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n");
        switches.add("voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t1\n");
        assert_eq!(
            switches,
            Switches {
                voluntary: 8,
                involuntary: 3
            }
        );
    }

    #[test]
    fn this_process_has_threads_that_switch() {
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(Switches::of(&[std::process::id()]).voluntary > 0);
    }
}

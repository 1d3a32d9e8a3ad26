//! CPU time and memory, from `/proc`.
//!
//! A network's CPU time is that of its process and all processes below it, threads included. Work
//! that the kernel does elsewhere on its behalf (softirqs, kernel threads) is not in it; the whole
//! machine's CPU time has that, and the load generator's as well.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

/// CPU time of the whole machine since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Ticks in user, nice, system, irq and softirq.
    busy: u64,
    /// Ticks that a hypervisor gave to others.
    stolen: u64,
    /// All ticks, idle ones too.
    total: u64,
}

impl Machine {
    /// Now; zeros where `/proc/stat` cannot be read.
    pub(crate) fn now() -> Machine {
        fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| parse_machine(&text))
            .unwrap_or_default()
    }

    /// Busy CPU time since `earlier`.
    pub(crate) fn busy_since(self, earlier: Machine) -> Duration {
        from_ticks(self.busy.saturating_sub(earlier.busy))
    }

    /// Share of the machine that was busy or stolen since `earlier`, 0 to 1.
    pub(crate) fn load_since(self, earlier: Machine) -> f64 {
        let taken = (self.busy + self.stolen).saturating_sub(earlier.busy + earlier.stolen);
        let total = self.total.saturating_sub(earlier.total);
        if total == 0 {
            0.0
        } else {
            taken as f64 / total as f64
        }
    }
}

/// What a process and its descendants use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time, with that of children that have ended.
    pub(crate) cpu: Duration,
    /// Memory of their own: anonymous and shared pages in RAM, without files (the program's text).
    pub(crate) memory_bytes: u64,
}

/// One process in `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    ticks: u64,
}

/// Usage of the process `root` and all below it.
pub(crate) fn usage_of_tree(root: u32) -> Usage {
    let mut all: Vec<Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter_map(|text| parse_stat(&text))
        .collect();
    keep_tree(&mut all, root);
    let mut usage = Usage::default();
    for process in all {
        usage.cpu += from_ticks(process.ticks);
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid));
        usage.memory_bytes += status.map_or(0, |text| parse_memory(&text));
    }
    usage
}

/// Keeps `root` and its descendants.
fn keep_tree(all: &mut Vec<Stat>, root: u32) {
    let mut tree = HashSet::from([root]);
    loop {
        let before = tree.len();
        tree.extend(
            all.iter()
                .filter(|one| tree.contains(&one.parent))
                .map(|one| one.pid)
                .collect::<Vec<_>>(),
        );
        if tree.len() == before {
            break;
        }
    }
    all.retain(|one| tree.contains(&one.pid));
}

/// The line `cpu user nice system idle iowait irq softirq steal …` of `/proc/stat`, in ticks.
fn parse_machine(text: &str) -> Option<Machine> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let &[user, nice, system, idle, iowait, irq, softirq, stolen] = ticks.as_slice() else {
        return None;
    };
    let busy = [user, nice, system, irq, softirq]
        .into_iter()
        .try_fold(0u64, u64::checked_add)?;
    let total = [busy, idle, iowait, stolen]
        .into_iter()
        .try_fold(0u64, u64::checked_add)?;
    Some(Machine {
        busy,
        stolen,
        total,
    })
}

/// `PID (NAME) STATE PPID …` with utime, stime, cutime and cstime as fields 14 to 17; NAME may hold
/// anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields
        .get(11..15)?
        .iter()
        .try_fold(0u64, |sum, field| sum.checked_add(field.parse().ok()?))?;
    Some(Stat {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks,
    })
}

/// `RssAnon` and `RssShmem` of `/proc/PID/status`, in bytes.
fn parse_memory(text: &str) -> u64 {
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    text.lines()
        .filter(|line| line.starts_with("RssAnon:") || line.starts_with("RssShmem:"))
        .filter_map(kib)
        .fold(0, |sum, kib| sum.saturating_add(kib.saturating_mul(1024)))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_machine_s_line_is_read() {
        let text = "cpu  100 10 50 800 20 5 15 7 3 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let machine = parse_machine(text).unwrap();
        assert_eq!(
            machine,
            Machine {
                busy: 180,
                stolen: 7,
                total: 1007
            }
        );
        let later = Machine {
            busy: 230,
            stolen: 7,
            total: 1107,
        };
        assert_eq!(later.load_since(machine), 0.5);
        assert_eq!(machine.load_since(machine), 0.0);
    }

    #[test]
    fn a_name_with_spaces_and_brackets_is_no_trap() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 11 22 33 44 20 0 1 0 99";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                pid: 42,
                parent: 7,
                ticks: 110
            })
        );
    }

    #[test]
    fn memory_is_the_process_s_own() {
        let text =
            "Name:\tx\nVmRSS:\t  900 kB\nRssAnon:\t 100 kB\nRssFile:\t 750 kB\nRssShmem:\t 50 kB\n";
        assert_eq!(parse_memory(text), 150 * 1024);
    }

    #[test]
    fn a_tree_is_kept_and_its_neighbours_are_not() {
        let one = |pid, parent| Stat {
            pid,
            parent,
            ticks: 0,
        };
        let mut all = vec![one(9, 8), one(8, 5), one(5, 1), one(6, 1), one(10, 6)];
        keep_tree(&mut all, 5);
        let mut pids: Vec<u32> = all.iter().map(|one| one.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [5, 8, 9]);
    }

    #[test]
    fn this_process_has_used_memory() {
        assert!(usage_of_tree(std::process::id()).memory_bytes > 0);
        assert!(Machine::now().total > 0);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".*") {
            let _ = parse_machine(&format!("cpu {text}"));
            let _ = parse_stat(&text);
            let _ = parse_stat(&format!("1 (x) {text}"));
            let _ = parse_memory(&format!("RssAnon: {text}"));
        }

        #[test]
        fn any_numbers_are_parsed_without_a_panic(
            ticks in proptest::collection::vec(any::<u64>(), 0..20),
        ) {
            let text: Vec<String> = ticks.iter().map(u64::to_string).collect();
            let text = text.join(" ");
            let _ = parse_machine(&format!("cpu {text}"));
            let _ = parse_stat(&format!("1 (x) S {text}"));
            let _ = parse_memory(&format!("RssAnon: {text}\nRssShmem: {text}"));
        }
    }
}

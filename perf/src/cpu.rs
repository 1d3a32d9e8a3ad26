//! CPU time and memory, from `/proc`.
//!
//! A network's CPU time is that of its process and all processes below it, threads included. Work
//! that the kernel does elsewhere on its behalf (softirqs, kernel threads) is not in it; the whole
//! machine's CPU time has that, and the load generator's as well.
//!
//! What others used is what is left when all that is known is taken away from the machine's busy
//! time: our processes, the interrupts and softirqs, which are nearly all for the packets of the
//! run, and the kernel threads, where they can be seen. The kernel counts what the machine is busy
//! with by looking at each timer tick, which finds less than there is, and a process's time by the
//! clock. So the rest is an estimate from below; another program that takes half a core shows.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sandbox;

/// CPU time of the whole machine since it started, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Machine {
    cores: u64,
    /// In user, nice and system.
    running: u64,
    /// In irq and softirq.
    interrupts: u64,
    /// Given to others by a hypervisor.
    stolen: u64,
    /// Idle, or idle and waiting for a disk; counted by the clock where the timer rests meanwhile.
    idle: u64,
    /// All ticks, idle ones too.
    total: u64,
}

impl Machine {
    /// Now; zeros where `/proc/stat` cannot be read.
    fn now() -> Machine {
        fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| parse_machine(&text))
            .unwrap_or_default()
    }

    fn since(self, earlier: Machine) -> Machine {
        Machine {
            cores: self.cores,
            running: self.running.saturating_sub(earlier.running),
            interrupts: self.interrupts.saturating_sub(earlier.interrupts),
            stolen: self.stolen.saturating_sub(earlier.stolen),
            idle: self.idle.saturating_sub(earlier.idle),
            total: self.total.saturating_sub(earlier.total),
        }
    }

    fn share(self, ticks: u64) -> f64 {
        if self.total == 0 {
            0.0
        } else {
            ticks as f64 / self.total as f64
        }
    }
}

/// All processes at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    at: Instant,
    machine: Machine,
    /// Those of the harness and what it started.
    ours: Vec<Stat>,
    /// Ticks of the kernel's threads that can be seen.
    kernel_threads: u64,
}

/// What was used between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spent {
    /// By the whole machine: all time of all cores but the idle time.
    pub(crate) machine: Duration,
    /// By the processes of ours that are in no tree that was asked for, the harness left out.
    pub(crate) generator: Duration,
    /// Share of the machine that others used, 0 to 1.
    pub(crate) others: f64,
}

impl Snapshot {
    /// Now.
    pub(crate) fn now() -> Snapshot {
        let outside = processes(Path::new(sandbox::OUTSIDE_PROC));
        let kernel_threads = outside.iter().filter(|one| one.is_kernel_thread);
        Snapshot {
            at: Instant::now(),
            machine: Machine::now(),
            kernel_threads: kernel_threads.map(|one| one.own).sum(),
            ours: processes(Path::new("/proc")),
        }
    }

    /// CPU time of the process `root` and all below it.
    pub(crate) fn tree(&self, root: u32) -> Duration {
        from_ticks(tree_ticks(&self.ours, root))
    }

    /// What was used since `earlier`, when the processes below `trees` are no load generators.
    pub(crate) fn since(&self, earlier: &Snapshot, trees: &[u32]) -> Spent {
        let machine = self.machine.since(earlier.machine);
        let all = |snapshot: &Snapshot| snapshot.ours.iter().map(Stat::ticks).sum::<u64>();
        let ours = all(self).saturating_sub(all(earlier));
        let harness = std::process::id();
        let named = |snapshot: &Snapshot| {
            let own = snapshot.ours.iter().find(|one| one.pid == harness);
            let trees = trees.iter().map(|&root| tree_ticks(&snapshot.ours, root));
            own.map_or(0, |own| own.own) + trees.sum::<u64>()
        };
        let named = named(self).saturating_sub(named(earlier));
        let kernel = self.kernel_threads.saturating_sub(earlier.kernel_threads);
        let others = machine.running.saturating_sub(ours + kernel) + machine.stolen;
        Spent {
            machine: ((self.at - earlier.at) * machine.cores as u32)
                .saturating_sub(from_ticks(machine.idle)),
            generator: from_ticks(ours.saturating_sub(named)),
            others: machine.share(others),
        }
    }
}

/// One process in `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    is_kernel_thread: bool,
    /// Ticks of its threads.
    own: u64,
    /// Ticks of its children that have ended and been waited for.
    children: u64,
}

impl Stat {
    fn ticks(&self) -> u64 {
        self.own.saturating_add(self.children)
    }
}

/// Memory of the process `root` and all below it that is their own: anonymous and shared pages in
/// RAM, without files (the program's text), in bytes.
pub(crate) fn memory_of_tree(root: u32) -> u64 {
    let status = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status"));
    processes_of_tree(root)
        .iter()
        .filter_map(|pid| status(pid).ok())
        .map(|text| parse_memory(&text))
        .sum()
}

/// The ids of the process `root` and of all below it.
pub(crate) fn processes_of_tree(root: u32) -> Vec<u32> {
    let mut all = processes(Path::new("/proc"));
    keep_tree(&mut all, root);
    all.iter().map(|process| process.pid).collect()
}

/// All processes that a `/proc` shows.
fn processes(proc: &Path) -> Vec<Stat> {
    fs::read_dir(proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter_map(|text| parse_stat(&text))
        .collect()
}

/// Ticks of `root` and its descendants.
fn tree_ticks(all: &[Stat], root: u32) -> u64 {
    let mut tree = all.to_vec();
    keep_tree(&mut tree, root);
    tree.iter().map(Stat::ticks).sum()
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
    let lines = text.lines().filter(|line| line.starts_with("cpu"));
    let ticks: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let &[user, nice, system, idle, iowait, irq, softirq, stolen] = ticks.as_slice() else {
        return None;
    };
    let sum = |parts: &[u64]| parts.iter().copied().try_fold(0u64, u64::checked_add);
    let (running, interrupts) = (sum(&[user, nice, system])?, sum(&[irq, softirq])?);
    Some(Machine {
        cores: lines.count() as u64 - 1,
        running,
        interrupts,
        stolen,
        idle: sum(&[idle, iowait])?,
        total: sum(&[running, interrupts, idle, iowait, stolen])?,
    })
}

/// Set in the flags of a kernel thread (`PF_KTHREAD` of the kernel's `sched.h`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// `PID (NAME) STATE PPID …` with the flags as field 9 and utime, stime, cutime and cstime as
/// fields 14 to 17; NAME may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        is_kernel_thread: number(6)? & KERNEL_THREAD != 0,
        own: number(11)?.checked_add(number(12)?)?,
        children: number(13)?.checked_add(number(14)?)?,
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
                cores: 1,
                running: 160,
                interrupts: 20,
                stolen: 7,
                idle: 820,
                total: 1007
            }
        );
        let later = Machine {
            running: 200,
            interrupts: 30,
            total: 1107,
            ..machine
        };
        let spent = later.since(machine);
        assert_eq!((spent.running, spent.interrupts), (40, 10));
        assert_eq!(spent.share(25), 0.25);
        assert_eq!(machine.since(machine).share(0), 0.0);
    }

    #[test]
    fn a_name_with_spaces_and_brackets_is_no_trap() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 11 22 33 44 20 0 1 0 99";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                pid: 42,
                parent: 7,
                is_kernel_thread: false,
                own: 33,
                children: 77,
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
        let one = |pid, parent| stat(pid, parent, 0);
        let mut all = vec![one(9, 8), one(8, 5), one(5, 1), one(6, 1), one(10, 6)];
        keep_tree(&mut all, 5);
        let mut pids: Vec<u32> = all.iter().map(|one| one.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [5, 8, 9]);
    }

    #[test]
    fn a_kernel_thread_is_told_apart() {
        let text = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 5 0 0 20 0 1 0 9";
        assert!(parse_stat(text).unwrap().is_kernel_thread);
    }

    #[test]
    fn what_is_known_is_taken_from_what_was_busy() {
        let harness = std::process::id();
        let start = Instant::now();
        let snapshot = |running, ours: Vec<Stat>, kernel_threads| Snapshot {
            at: start + from_ticks(running),
            machine: Machine {
                cores: 2,
                running,
                interrupts: running / 10,
                stolen: 0,
                idle: running / 2,
                total: running * 2,
            },
            ours,
            kernel_threads,
        };
        let engine = |own| stat(7, harness, own);
        let server = |own| stat(8, harness, own);
        // The client had ended and been waited for at the second snapshot.
        let client = Stat {
            children: 30,
            ..stat(harness, 0, 12)
        };
        let before = snapshot(0, vec![stat(harness, 0, 10), engine(5), server(1)], 3);
        let after = snapshot(100, vec![client, engine(25), server(11)], 8);
        let spent = after.since(&before, &[7]);
        // 100 ticks on two cores, of which 50 were idle.
        assert_eq!(spent.machine, from_ticks(150));
        assert_eq!(spent.generator, from_ticks(40));
        // 100 less 2 of the harness, 20 of the engine, 40 of the generator and 5 of the kernel.
        assert_eq!(spent.others, 33.0 / 200.0);
        assert_eq!(after.tree(7), from_ticks(25));
    }

    fn stat(pid: u32, parent: u32, own: u64) -> Stat {
        Stat {
            pid,
            parent,
            is_kernel_thread: false,
            own,
            children: 0,
        }
    }

    #[test]
    fn this_process_has_used_memory() {
        assert!(memory_of_tree(std::process::id()) > 0);
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

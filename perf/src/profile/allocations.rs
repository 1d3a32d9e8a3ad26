//! Allocations of a running engine, without a word in its code: probes on the entry of the C
//! library's allocation functions, counted in the kernel by `perf stat`.
//!
//! The probes are definitions in the machine's trace file system and need its root. They trap in
//! the engine only, and are removed at the end; should we be killed before that, the next run
//! removes them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::perf::Perf;
use crate::failure::{Context, Failure, Outcome};
use crate::sandbox;

/// The functions through which Rust's and C's programs get memory.
const FUNCTIONS: [&str; 4] = ["malloc", "calloc", "realloc", "posix_memalign"];
/// What the names of our probes begin with.
const PREFIX: &str = "towpath_perf_";

/// Our probes; dropped, they are gone.
struct Probes;

/// Runs `load` while the allocations of these processes are counted.
///
/// # Errors
/// The engine has no C library of its own to look at, probes are not permitted, or the load fails.
pub(crate) fn count<T>(pids: &[u32], load: impl FnOnce() -> Outcome<T>) -> Outcome<(T, u64)> {
    let library = pids
        .first()
        .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/maps")).ok())
        .and_then(|maps| c_library(&maps).map(str::to_owned))
        .ok_or_else(|| Failure::new("the engine maps no shared C library to count in"))?;
    let probes = Probes::define(&library)?;
    let output = Path::new(sandbox::DIRECTORY).join("allocations.csv");
    let path = output.to_string_lossy().into_owned();
    let events = format!("probe_libc:{PREFIX}*");
    let mut perf = Perf::start("stat", pids, &["-x,", "-e", &events, "-o", &path])?;
    perf.enable()?;
    let result = load()?;
    perf.disable()?;
    perf.finish()?;
    drop(probes);
    let text = fs::read_to_string(&output).doing("read what perf stat counted")?;
    Ok((result, sum(&text)?))
}

impl Probes {
    fn define(library: &str) -> Outcome<Probes> {
        Probes::remove();
        let output = probe(|command| {
            command.args(["-q", "-x", library]);
            for function in FUNCTIONS {
                command.arg(format!("--add={PREFIX}{function}={function}"));
            }
        })?;
        // Made before the check, so that what was defined of several is removed.
        let probes = Probes;
        if output.status.success() {
            return Ok(probes);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let line = words.lines().find(|line| !line.trim().is_empty());
        Err(Failure::new(format!(
            "probes on {library} are not permitted here: {} (run as root)",
            line.unwrap_or("perf probe failed without a word").trim()
        )))
    }

    fn remove() {
        // Fails where there is none, which is as well.
        let _ = probe(|command| {
            command.arg("-q").arg(format!("--del=probe_libc:{PREFIX}*"));
        });
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        Probes::remove();
    }
}

fn probe(arguments: impl FnOnce(&mut Command)) -> Outcome<Output> {
    let mut command = Command::new("perf");
    command.arg("probe").stdin(Stdio::null());
    arguments(&mut command);
    command.output().doing("start perf probe")
}

/// The path of the C library in a process's memory map.
fn c_library(maps: &str) -> Option<&str> {
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.starts_with("libc.so") || name.starts_with("libc-")
        })
}

/// The sum of the counts in the lines `COUNT,UNIT,EVENT,…`.
fn sum(csv: &str) -> Outcome<u64> {
    let counts = csv.lines().filter(|line| line.contains(PREFIX));
    let counts: Vec<u64> = counts
        .filter_map(|line| line.split(',').next()?.parse().ok())
        .collect();
    if counts.len() == FUNCTIONS.len() {
        return Ok(counts.iter().sum());
    }
    let (got, wanted) = (counts.len(), FUNCTIONS.len());
    Err(Failure::new(format!(
        "perf counted {got} of {wanted} allocation functions"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_is_found_in_a_map() {
        let maps =
            "1-2 r--p 0 0:1 7 /bin/towpath\n3-4 r-xp 0 0:1 8 /usr/lib/libc.so.6\n5-6 rw-p 0\n";
        assert_eq!(c_library(maps), Some("/usr/lib/libc.so.6"));
        assert_eq!(c_library("1-2 r--p 0 0:1 7 /bin/static\n"), None);
    }

    #[test]
    fn counts_are_added_and_a_missing_one_is_an_error() {
        let line = |name: &str, count: &str| format!("{count},,probe_libc:{PREFIX}{name},1,100\n");
        let all: String = FUNCTIONS.iter().map(|name| line(name, "7")).collect();
        assert_eq!(sum(&format!("# started on a day\n\n{all}")), Ok(28));
        assert!(sum(&line("malloc", "7")).is_err());
        let broken = all.replacen('7', "<not counted>", 1);
        assert!(sum(&broken).is_err());
    }
}

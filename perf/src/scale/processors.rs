//! Which processors the engine and the load generator get.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::failure::{Context, Failure, Outcome};
use crate::sandbox;

/// The name of the hidden command that starts a program on some processors.
pub(super) const COMMAND: &str = "on-processors";

/// The processors of the two sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) engine: Vec<usize>,
    pub(super) generator: Vec<usize>,
}

impl Parts {
    /// For an engine of `cores` cores. They are kept apart where the generator gets at least as
    /// many processors as the engine, and two, one for each end of a stream; else both run on all.
    pub(super) fn of(all: &[usize], cores: usize) -> Parts {
        match all.split_at_checked(cores) {
            Some((engine, generator)) if generator.len() >= cores.max(2) => Parts {
                engine: engine.to_vec(),
                generator: generator.to_vec(),
            },
            _ => Parts {
                engine: all.to_vec(),
                generator: all.to_vec(),
            },
        }
    }

    /// Whether neither side runs on the other's processors.
    pub(super) fn are_apart(&self) -> bool {
        self.engine != self.generator
    }
}

/// The processors that this process may run on.
pub(super) fn allowed() -> Outcome<Vec<usize>> {
    let set = sched_getaffinity(None).doing("look on which processors we may run")?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Keeps this thread, and what it starts from now on, on these processors.
pub(super) fn stay_on(processors: &[usize]) -> Outcome<()> {
    let mut set = CpuSet::new();
    processors.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set).doing(format_args!("run on the processors {processors:?}"))
}

/// A command line that starts `command` on these processors.
pub(super) fn on(processors: &[usize], command: Vec<String>) -> Vec<String> {
    let list: Vec<String> = processors.iter().map(usize::to_string).collect();
    let start = [sandbox::THIS_PROGRAM, COMMAND, &list.join(","), "--"];
    start
        .map(str::to_owned)
        .into_iter()
        .chain(command)
        .collect()
}

/// Arguments of the hidden command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_delimiter = ',', required = true)]
    processors: Vec<usize>,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Becomes the program, on these processors.
///
/// # Errors
/// Always: it returns only when that did not work.
pub(crate) fn become_program(args: &Args) -> Outcome<()> {
    stay_on(&args.processors)?;
    let [program, rest @ ..] = &args.command[..] else {
        return Err(Failure::new("no program to start"));
    };
    let error = Command::new(program).args(rest).exec();
    Err(error).doing(format_args!("start {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_apart_only_where_the_generator_has_enough() {
        let apart = |all: usize, cores| {
            let all: Vec<usize> = (0..all).collect();
            let parts = Parts::of(&all, cores);
            parts
                .are_apart()
                .then_some((parts.engine.len(), parts.generator.len()))
        };
        assert_eq!(apart(2, 1), None);
        assert_eq!(apart(3, 1), Some((1, 2)));
        assert_eq!(apart(8, 4), Some((4, 4)));
        assert_eq!(apart(8, 5), None);
        assert_eq!(apart(4, 9), None);
    }

    #[test]
    fn a_thread_stays_where_it_is_put() {
        let first = allowed().unwrap()[0];
        std::thread::spawn(move || {
            stay_on(&[first]).unwrap();
            assert_eq!(allowed().unwrap(), [first]);
        })
        .join()
        .unwrap();
    }
}

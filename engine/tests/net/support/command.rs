//! Commands under `towpath run`, from start to end.

use super::process::Process;
use super::world::{SUBNETS, World};

/// How a run ended.
pub(crate) struct Ended {
    /// Its exit status.
    pub(crate) code: i32,
    /// What the command wrote to stdout.
    pub(crate) stdout: String,
    /// What the command and towpath wrote to stderr.
    pub(crate) stderr: String,
}

/// `towpath run OPTIONS -- COMMAND`.
pub(crate) fn start(world: &World, options: &[&str], command: &[&str]) -> Process {
    let mut run = world.towpath();
    run.arg("run")
        .args(SUBNETS)
        .args(options)
        .arg("--")
        .args(command);
    world.spawn(run)
}

/// Waits for an end that is no signal.
#[track_caller]
pub(crate) fn end(mut process: Process) -> Ended {
    let status = process.wait();
    let code = status
        .code()
        .unwrap_or_else(|| panic!("run itself ended with {status}"));
    let stdout = String::from_utf8(process.stdout()).expect("text");
    Ended {
        code,
        stdout,
        stderr: process.stderr(),
    }
}

/// `towpath run OPTIONS -- COMMAND`, from start to end.
#[track_caller]
pub(crate) fn run(world: &World, options: &[&str], command: &[&str]) -> Ended {
    end(start(world, options, command))
}

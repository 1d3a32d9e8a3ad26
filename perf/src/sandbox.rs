//! A place of our own for the whole comparison.
//!
//! `compare` runs as two processes. The outer one makes a user, mount, PID and network namespace
//! and starts the same program in it, which becomes process 1 there and does all the work. So
//! nothing of a run touches the machine's network, and nothing stays behind however a run ends: the
//! inner process is killed when the outer one goes (also by Ctrl-C, also by SIGKILL), the kernel
//! then kills every process in the PID namespace, and with the processes go mounts, network
//! namespaces and interfaces.
//!
//! A user namespace is used for root as well: the networks then run as their users run them,
//! without privilege on the machine, and one that refuses to run as root (pasta) does not notice.
//! The exception is what must keep the machine's privileges to work at all ([`Users::Machine`]):
//! the kernel lets nobody inside a user namespace look at its own part of a profile.
//!
//! Network namespaces need a path that programs can open. They are bind-mounted in a tmpfs over
//! `/dev/shm`, where a tmpfs belongs anyway; the mount is seen by nobody else.

use std::fs;
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use rustix::process::{getegid, geteuid};

use crate::failure::{Context, Outcome};

/// The directory that belongs to this run alone.
pub(crate) const DIRECTORY: &str = "/dev/shm";
/// The `/proc` of the place where we were started; it shows what else runs there.
pub(crate) const OUTSIDE_PROC: &str = "/dev/shm/proc-outside";
/// This program, also when its file has been replaced since it started.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// Whose privileges the inside has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    /// Those of a user namespace of its own: all of them over what is inside, none outside.
    Own,
    /// The machine's where we are root; else as [`Users::Own`].
    Machine,
}

/// Starts this program again inside, with the same arguments and `mark` after the first, and waits
/// for it.
///
/// # Errors
/// The namespaces cannot be made: user namespaces may be forbidden here.
pub(crate) fn run_inside(mark: &str, users: Users) -> Outcome<ExitCode> {
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET;
    if users == Users::Own || !geteuid().is_root() || unshare(flags).is_err() {
        unshare_with_users(flags)?;
    }
    let mut inner = Command::new(THIS_PROGRAM)
        .args(std::env::args_os().skip(1).take(1))
        .arg(mark)
        .args(std::env::args_os().skip(2))
        .spawn()
        .doing("start the inner process")?;
    let status = inner.wait().doing("wait for the inner process")?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1)
        .into())
}

fn unshare_with_users(flags: CloneFlags) -> Outcome<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    unshare(flags | CloneFlags::CLONE_NEWUSER).doing(
        "make namespaces (are user namespaces allowed here? see kernel.unprivileged_userns_clone \
         and user.max_user_namespaces)",
    )?;
    // An unprivileged process may map one group only after it has given up setgroups.
    fs::write("/proc/self/setgroups", "deny").doing("give up setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).doing("map the user id")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).doing("map the group id")
}

/// Makes the inside ready; called once, by the inner process, before it starts any thread.
///
/// # Errors
/// A mount was refused.
pub(crate) fn enter() -> Outcome<()> {
    set_pdeathsig(Signal::SIGKILL).doing("ask to be ended with the outer process")?;
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .doing("keep our mounts to ourselves")?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        DIRECTORY,
        Some("tmpfs"),
        safe,
        Some("mode=0755"),
    )
    .doing(format_args!("mount a tmpfs over {DIRECTORY}"))?;
    fs::create_dir(OUTSIDE_PROC).doing("make a directory")?;
    mount(
        Some("/proc"),
        OUTSIDE_PROC,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .doing("keep the outer /proc in sight")?;
    mount(Some("proc"), "/proc", Some("proc"), safe, NONE).doing("mount /proc")
}

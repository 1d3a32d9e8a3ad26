//! The first stage of `run`: makes the namespaces, starts init in them, waits for it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Fault, INIT, die_with_parent, end, signals, stage_channel, stage_command};
use crate::doctor;

/// What a command line says to this stage, before the command.
pub(super) struct Arguments {
    /// Pid of the engine's process.
    pub(super) parent: i32,
    /// Whether the caller becomes uid 0 in the user namespace.
    pub(super) map_root: bool,
}

impl Arguments {
    /// As they stand on the command line.
    pub(super) fn to_words(&self) -> [String; 2] {
        [self.parent.to_string(), u8::from(self.map_root).to_string()]
    }

    fn take(words: &mut impl Iterator<Item = OsString>) -> Option<Self> {
        let mut word = || words.next()?.into_string().ok();
        Some(Self {
            parent: word()?.parse().ok()?,
            map_root: word()? == "1",
        })
    }
}

pub(super) fn main(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let channel = match stage_channel() {
        Ok(channel) => channel,
        Err(status) => return status,
    };
    let outcome = Arguments::take(&mut words)
        .ok_or_else(|| Fault::setup("this is a part of 'towpath run', not a command of its own"))
        .and_then(|arguments| run(&arguments, words));
    end(&channel, outcome)
}

fn run(arguments: &Arguments, command: impl Iterator<Item = OsString>) -> Result<u8, Fault> {
    signals::deaf().map_err(|error| Fault::setup(format!("can't block signals: {error}")))?;
    let own_user_namespace = enter(arguments.map_root)?;
    // After the change of credentials, which takes the request back.
    die_with_parent(Some(arguments.parent))?;

    let mut init = stage_command(INIT)
        .arg(u8::from(own_user_namespace && !arguments.map_root).to_string())
        .args(command)
        .spawn()
        .map_err(|error| Fault::setup(format!("no process can be started: {error}")))?;
    let status = init
        .wait()
        .map_err(|error| Fault::setup(format!("init is lost: {error}")))?;
    // Init says more over its own channel; this is for the case that it could not.
    let signal = status.signal().unwrap_or(0);
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(128 + signal as u8))
}

/// Moves this process into new namespaces (its next child is pid 1). Says whether a user namespace was
/// needed: with CAP_SYS_ADMIN it is not.
pub(super) fn enter(map_root: bool) -> Result<bool, Fault> {
    let own_user_namespace = !privileged();
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    flags.set(CloneFlags::CLONE_NEWUSER, own_user_namespace);
    unshare(flags)?;
    if own_user_namespace {
        map_ids(uid, gid, map_root).map_err(|error| {
            let advice = doctor::advise_user_namespace(error.raw_os_error());
            Fault::setup(format!(
                "ids can't be mapped in a user namespace: {error}; {advice}"
            ))
        })?;
        if !map_root {
            keep_capabilities().map_err(|error| {
                Fault::setup(format!("capabilities can't be kept for init: {error}"))
            })?;
        }
    }
    Ok(own_user_namespace)
}

/// Whether namespaces can be made without a user namespace.
pub(crate) fn privileged() -> bool {
    rustix::process::geteuid().is_root()
        && rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn unshare(flags: CloneFlags) -> Result<(), Fault> {
    nix::sched::unshare(flags).map_err(|errno| {
        let advice = if errno == Errno::ENOMEM {
            "free some memory".to_owned()
        } else {
            doctor::advise_user_namespace(Some(errno as i32))
        };
        Fault::setup(format!("namespaces can't be made: {errno}; {advice}"))
    })
}

/// Maps one user and one group: without privileges nothing more is allowed, and only after
/// `setgroups` has been given up (user_namespaces(7)).
fn map_ids(uid: u32, gid: u32, map_root: bool) -> io::Result<()> {
    match fs::write("/proc/self/setgroups", "deny") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write("/proc/self/uid_map", id_map(uid, map_root))?;
    fs::write("/proc/self/gid_map", id_map(gid, map_root))
}

/// A line of `uid_map`: id inside, id outside, how many.
fn id_map(outside: u32, map_root: bool) -> String {
    let inside = if map_root { 0 } else { outside };
    format!("{inside} {outside} 1\n")
}

/// An `exec` by a user other than 0 loses all capabilities except ambient ones. Init needs several (for the
/// interface, for mounts), all of them over its own namespaces only, and gives them up before it starts
/// the command.
fn keep_capabilities() -> rustix::io::Result<()> {
    let sets = rustix::thread::capabilities(None)?;
    let inheritable = sets.inheritable | sets.permitted;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            inheritable,
            ..sets
        },
    )?;
    for capability in sets.permitted.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// The reverse, in init: a command that is not uid 0 starts with no capabilities.
pub(super) fn give_up_capabilities() -> rustix::io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let sets = rustix::thread::capabilities(None)?;
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            inheritable,
            ..sets
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_is_mapped() {
        assert_eq!(id_map(1000, false), "1000 1000 1\n");
        assert_eq!(id_map(1000, true), "0 1000 1\n");
        assert_eq!(id_map(0, false), "0 0 1\n");
    }

    #[test]
    fn arguments_survive_the_command_line() {
        for map_root in [false, true] {
            let words = Arguments {
                parent: 4711,
                map_root,
            }
            .to_words();
            let mut words = words.into_iter().map(OsString::from);
            let taken = Arguments::take(&mut words).unwrap();
            assert_eq!((taken.parent, taken.map_root), (4711, map_root));
        }
        assert!(Arguments::take(&mut ["x".into(), "1".into()].into_iter()).is_none());
        assert!(Arguments::take(&mut [OsString::from("1")].into_iter()).is_none());
    }
}

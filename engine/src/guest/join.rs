//! The stage of `attach`: enters namespaces that exist, makes the TAP there, ends.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use super::message::{Channel, ToStage};
use super::{Fault, die_with_parent, end, hand_over, make_interface, stage_channel};

pub(super) fn main(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let channel = match stage_channel() {
        Ok(channel) => channel,
        Err(status) => return status,
    };
    let parent = words.next().and_then(|word| word.to_str()?.parse().ok());
    let outcome = run(&channel, parent, &words.next().unwrap_or_default());
    end(&channel, outcome.map(|()| 0))
}

/// What the descriptors beside the order are, as a word of the command line.
pub(super) const USER_FIRST: &str = "user-first";
/// The user namespace is the process's own: enter it only if the other can't be entered without.
pub(super) const USER_IF_NEEDED: &str = "user-if-needed";

fn run(channel: &Channel, parent: Option<i32>, how: &OsString) -> Result<(), Fault> {
    die_with_parent(parent)?;
    let Some((ToStage::Order(order), descriptors)) = channel.receive().map_err(Fault::parent)?
    else {
        return Err(Fault::setup("the engine's process sent no order"));
    };
    let mut descriptors = descriptors.into_iter();
    let net = descriptors
        .next()
        .ok_or_else(|| Fault::setup("no namespace to join was given"))?;
    enter(&net, descriptors.next().as_ref(), how == USER_FIRST)?;
    let (tap, notes) = make_interface(&order, false)?;
    hand_over(channel, tap, notes)
}

/// Enters the network namespace, and the user namespace where that is asked for or what gives the right
/// to. (A process's network namespace may belong to an outer user namespace, in which case entering
/// its own would take the right away: so that comes second.)
fn enter(net: &OwnedFd, user: Option<&OwnedFd>, user_first: bool) -> Result<(), Fault> {
    let join_user = || match user {
        Some(user) => setns(user, CloneFlags::CLONE_NEWUSER).map_err(|errno| {
            Fault::setup(format!(
                "the user namespace can't be joined: {errno}; {}",
                advise(errno)
            ))
        }),
        None => Ok(()),
    };
    if user_first {
        join_user()?;
    }
    match setns(net, CloneFlags::CLONE_NEWNET) {
        Err(Errno::EPERM) if !user_first && user.is_some() => {
            join_user()?;
            setns(net, CloneFlags::CLONE_NEWNET)
        }
        outcome => outcome,
    }
    .map_err(|errno| {
        // The name under which the caller opened it.
        let path = std::fs::read_link(format!("/proc/self/fd/{}", net.as_raw_fd()));
        let path = path.map_or_else(|_| String::new(), |path| format!(" {}", path.display()));
        Fault::setup(format!(
            "the network namespace{path} can't be joined: {errno}; {}",
            advise(errno)
        ))
    })
}

fn advise(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => {
            "that takes the rights of its owner: run as the user who made it and name its user \
             namespace (--userns), or run as root"
        }
        Errno::EINVAL => "the file is not a namespace of that kind",
        _ => "check that the namespace still exists",
    }
}

//! File descriptors that the caller left open for this process.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Whether the number is open. Asked before anything else opens descriptors: a number that is not open
/// then was not given by the caller.
pub(crate) fn is_open(number: i32) -> bool {
    fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok()
}

/// A descriptor of ours for the number that the caller gave, closed on exec. The caller's own stays open:
/// [`close`] it.
///
/// # Errors
///
/// The number is not open, or pidfds are forbidden.
pub(crate) fn duplicate(number: i32) -> io::Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(&this, number, PidfdGetfdFlags::empty())?)
}

/// Closes the caller's number, but for standard input, output and error, whose numbers stay taken.
pub(crate) fn close(number: i32) {
    if number > 2 {
        let _ = nix::unistd::close(number);
    }
}

//! Which driver carries the I/O of the cores, and why.

use std::fmt;

use rustix::process::Resource;
use towpath_ring::driver::uring;

/// Locked memory that executors of io_uring want, in bytes.
pub(crate) const MEMLOCK_MIN: u64 = 512 << 10;

/// Which driver is asked for.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DriverChoice {
    /// io_uring where it works, else epoll
    #[default]
    Auto,
    /// io_uring (Linux 6.7)
    Uring,
    /// epoll: where io_uring is forbidden, as in Docker's default profile
    Epoll,
    /// kqueue
    #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
    Kqueue,
}

/// A driver that this build has.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// Completions of io_uring.
    Uring,
    /// Completions imitated over epoll.
    Epoll,
    /// Completions imitated over kqueue.
    #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
    Kqueue,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DriverKind::Uring => "io_uring",
            DriverKind::Epoll => "epoll",
            #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
            DriverKind::Kqueue => "kqueue",
        })
    }
}

impl DriverChoice {
    /// The driver to take. Says so if it is not the best one because of this machine.
    pub(crate) fn take(self) -> DriverKind {
        match self {
            DriverChoice::Uring => DriverKind::Uring,
            DriverChoice::Epoll => DriverKind::Epoll,
            #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
            DriverChoice::Kqueue => DriverKind::Kqueue,
            DriverChoice::Auto => match why_not_uring() {
                None => DriverKind::Uring,
                Some(reason) => {
                    tracing::info!(
                        "the cores run on epoll, which is slower, as io_uring can't be used: {reason}"
                    );
                    DriverKind::Epoll
                }
            },
        }
    }
}

/// Why io_uring can't be used here, if it can't.
pub(crate) fn why_not_uring() -> Option<String> {
    let features = uring::features();
    if let Some(errno) = features.unusable {
        return Some(errno.to_string());
    }
    if !features.usable(true) {
        return Some("this kernel's lacks what is needed (Linux 6.7 has all)".to_owned());
    }
    (!may_lock_enough()).then(|| "the limit of locked memory is below 512 KiB".to_owned())
}

/// Whether executors of io_uring get the locked memory that they want.
pub(crate) fn may_lock_enough() -> bool {
    let limit = rustix::process::getrlimit(Resource::Memlock);
    limit.maximum.is_none_or(|hard| hard >= MEMLOCK_MIN)
}

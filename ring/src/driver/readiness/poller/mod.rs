//! Who tells which descriptors are ready.

mod epoll;
#[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
pub(in crate::driver) mod kqueue;
#[cfg(feature = "kqueue-shim")]
mod shim;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::driver::{Errno, Waker};

pub use epoll::Epoll;
#[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
pub use kqueue::Kqueue;

/// Watches descriptors, edge by edge: each change to "ready" is told once, and a descriptor that is ready
/// when it begins to be watched is told of, too.
pub trait Poller: Sized {
    /// What it is called.
    const NAME: &'static str;

    /// Watches nothing yet but its own waker.
    ///
    /// # Errors
    ///
    /// What making its descriptors says.
    fn new() -> io::Result<Self>;

    /// What ends its waits, from any thread.
    fn waker(&self) -> Waker;

    /// Begins to watch a descriptor, or changes for what, which tells of it anew. `before`: for what it was
    /// watched. It ends when the descriptor is closed, unless that has duplicates.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        key: u64,
        before: Option<Interest>,
        now: Interest,
    ) -> Result<(), Errno>;

    /// Stops to watch a descriptor, which is about to be closed. `duplicated`: there may be others of the same
    /// file, so that this does not end the watch.
    fn forget(&mut self, fd: BorrowedFd<'_>, before: Interest, duplicated: bool);

    /// Waits until something is ready or the time is up (`None`: for ever), and appends what is. May end
    /// early with nothing.
    ///
    /// # Errors
    ///
    /// Only when the poller itself is broken.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;
}

/// What a descriptor is watched for. Some sockets tell of room for writing with every packet that their
/// peer takes, so that is asked only while somebody waits for room.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Interest {
    /// Bytes that can be read.
    Read,
    /// And room for writing.
    ReadWrite,
}

/// What became ready.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Event {
    /// Which descriptor; [`WAKE`] is not one.
    pub key: u64,
    /// There is something to read, or the end, or an error.
    pub readable: bool,
    /// There is room for writing.
    pub writable: bool,
    /// No more events will tell of what can be read: the other end is closed, or there is an error.
    pub ended: bool,
}

/// The key of an event that a waker made.
pub const WAKE: u64 = u64::MAX;

/// How many events one wait tells of.
const EVENTS_MAX: usize = 256;

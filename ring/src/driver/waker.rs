//! Waking a driver from another thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Makes a driver's `wait` return [`Completion::Woken`](super::Completion::Woken).
///
/// Wakes are merged: many before the driver looks are one `Woken`, and cost one system call in all.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    /// The driver's ring, for `IORING_OP_MSG_RING`. An own descriptor: it names this ring as long as
    /// a waker exists, whatever becomes of the driver.
    ring: Option<OwnedFd>,
    /// A wake is under way that the driver has not seen.
    pending: AtomicBool,
}

impl Waker {
    /// A waker that writes to an `eventfd`, or to a ring if the waking driver has one too.
    #[must_use]
    pub fn new(event: OwnedFd, ring: Option<OwnedFd>) -> Waker {
        Waker {
            shared: Arc::new(Shared {
                event,
                ring,
                pending: AtomicBool::new(false),
            }),
        }
    }

    /// Wakes the driver.
    pub fn wake(&self) {
        if self.claim() {
            self.signal();
        }
    }

    /// Whether the caller must make the wake happen, because none is under way.
    pub(crate) fn claim(&self) -> bool {
        // What the caller queued before is visible to whoever clears the mark.
        !self.shared.pending.swap(true, Ordering::AcqRel)
    }

    /// Whether a wake is under way that the driver has not seen.
    pub(crate) fn is_pending(&self) -> bool {
        self.shared.pending.load(Ordering::Acquire)
    }

    /// Signals through the event descriptor, without looking at the mark.
    pub(crate) fn signal(&self) {
        // The counter would have to reach 2^64 - 2 for this to fail.
        let _ = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes());
    }

    /// The driver saw the wake. Called before it tells its caller.
    pub(crate) fn clear(&self) {
        self.shared.pending.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    pub(crate) fn ring(&self) -> Option<BorrowedFd<'_>> {
        self.shared.ring.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn is_same(&self, other: &Waker) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

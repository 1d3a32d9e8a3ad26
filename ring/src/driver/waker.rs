//! Waking a driver from another thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
use super::readiness::poller::kqueue::Queue;

#[cfg(loom)]
use loom::sync::atomic::AtomicBool;
#[cfg(not(loom))]
use std::sync::atomic::AtomicBool;

/// Makes a driver's `wait` return [`Completion::Woken`](super::Completion::Woken).
///
/// Wakes are merged: many before the driver looks are one `Woken`, and cost one system call in all.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    signal: Signal,
    pending: Pending,
}

/// What a driver sleeps on.
#[derive(Debug)]
enum Signal {
    Event {
        event: OwnedFd,
        /// The driver's ring, for `IORING_OP_MSG_RING`. An own descriptor: it names this ring as long as
        /// a waker exists, whatever becomes of the driver.
        ring: Option<OwnedFd>,
    },
    #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
    Queue(Arc<Queue>),
}

/// Whether a wake is under way that the driver has not seen.
///
/// Who queues something and then finds a wake under way leaves it at that. That is safe because each
/// side's swap orders it against the other's: the driver clears the mark before it looks at its
/// lanes, so either it sees what was queued, or the mark was clear and there is a new wake.
#[derive(Debug)]
struct Pending(AtomicBool);

impl Pending {
    /// Whether none was under way; now one is.
    fn claim(&self) -> bool {
        // What the caller queued before is visible to whoever clears the mark.
        !self.0.swap(true, Ordering::AcqRel)
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn clear(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}

impl Waker {
    /// A waker that writes to an `eventfd`, or to a ring if the waking driver has one too.
    #[must_use]
    pub fn new(event: OwnedFd, ring: Option<OwnedFd>) -> Waker {
        Waker {
            shared: Arc::new(Shared {
                signal: Signal::Event { event, ring },
                pending: Pending(AtomicBool::new(false)),
            }),
        }
    }

    /// A waker that triggers a filter of a queue.
    #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
    pub(in crate::driver) fn of_queue(queue: Arc<Queue>) -> Waker {
        Waker {
            shared: Arc::new(Shared {
                signal: Signal::Queue(queue),
                pending: Pending(AtomicBool::new(false)),
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
        self.shared.pending.claim()
    }

    /// Whether a wake is under way that the driver has not seen.
    pub(crate) fn is_pending(&self) -> bool {
        self.shared.pending.is_set()
    }

    /// Signals through the event descriptor, without looking at the mark.
    pub(crate) fn signal(&self) {
        match &self.shared.signal {
            Signal::Event { event, .. } => {
                // The counter would have to reach 2^64 - 2 for this to fail.
                let _ = rustix::io::write(event, &1u64.to_ne_bytes());
            }
            #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
            Signal::Queue(queue) => queue.trigger(),
        }
    }

    /// The driver saw the wake. Called before it tells its caller.
    pub(crate) fn clear(&self) {
        self.shared.pending.clear();
    }

    /// What is written to, if that is a descriptor.
    pub(crate) fn event(&self) -> Option<BorrowedFd<'_>> {
        match &self.shared.signal {
            Signal::Event { event, .. } => Some(event.as_fd()),
            #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
            Signal::Queue(_) => None,
        }
    }

    /// The driver's ring, if it has one.
    pub(crate) fn ring(&self) -> Option<BorrowedFd<'_>> {
        match &self.shared.signal {
            Signal::Event { ring, .. } => ring.as_ref().map(AsFd::as_fd),
            #[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
            Signal::Queue(_) => None,
        }
    }

    pub(crate) fn is_same(&self, other: &Waker) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

/// All interleavings of two senders and a driver; `RUSTFLAGS="--cfg loom" cargo test -p towpath-ring
/// --lib loom`. The lanes are `crossbeam`'s, so here a lane is a cell that is written once.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    use super::*;

    const SENDERS: usize = 2;

    #[derive(Default)]
    struct Model {
        lanes: [AtomicUsize; SENDERS],
        pending: Option<Pending>,
        /// The event: how many signals the driver has not taken.
        signals: AtomicUsize,
    }

    impl Model {
        fn pending(&self) -> &Pending {
            self.pending.as_ref().unwrap()
        }

        /// Queues, then wakes, as a core does at the end of its batch.
        fn send(&self, from: usize) {
            self.lanes[from].store(1, Ordering::Relaxed);
            if self.pending().claim() {
                self.signals.fetch_add(1, Ordering::Relaxed);
            }
        }

        /// What one wake of the driver finds.
        fn take(&self, seen: &mut [bool; SENDERS]) {
            self.pending().clear();
            for (lane, seen) in self.lanes.iter().zip(seen) {
                *seen |= lane.load(Ordering::Relaxed) == 1;
            }
        }
    }

    #[test]
    fn no_wake_is_lost() {
        loom::model(|| {
            let model = Arc::new(Model {
                pending: Some(Pending(AtomicBool::new(false))),
                ..Model::default()
            });
            let senders: Vec<_> = (0..SENDERS)
                .map(|from| {
                    let model = Arc::clone(&model);
                    thread::spawn(move || model.send(from))
                })
                .collect();
            // The driver may look while they are at it, once for each signal that it sees.
            let mut seen = [false; SENDERS];
            if model.signals.swap(0, Ordering::Relaxed) > 0 {
                model.take(&mut seen);
            }
            for sender in senders {
                sender.join().unwrap();
            }
            // Asleep: only a signal wakes it.
            while model.signals.swap(0, Ordering::Relaxed) > 0 {
                model.take(&mut seen);
            }
            assert_eq!(seen, [true; SENDERS], "queued, and nobody wakes the driver");
        });
    }
}

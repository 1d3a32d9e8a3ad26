//! Hands links to cores, from any thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Attachment, Departure, PortId};
use crate::core::Peers;

/// Ports of one engine, at most.
pub const PORTS_MAX: usize = 4096;

/// What a core is told about its ports.
pub(crate) enum PortCommand {
    /// A guest is here.
    Attach {
        port: PortId,
        attachment: Attachment,
        on_end: OnEnd,
    },
    /// Let it go.
    Detach(PortId),
}

/// Called once, on the core's thread: it must not wait.
pub(crate) type OnEnd = Box<dyn FnOnce(Departure) + Send>;

/// To be called once a port's end was heard of: its number is free then, and not before, so that nobody
/// gets what belongs to who had it.
pub(crate) type Heard = Box<dyn FnOnce() + Send>;

/// Gives links to an engine's cores. Cheap to clone.
#[derive(Clone)]
pub struct Attacher {
    shared: Arc<Shared>,
}

struct Shared {
    peers: Arc<Peers>,
    /// What each core has not taken yet.
    queues: Vec<Mutex<Vec<PortCommand>>>,
    directory: Mutex<Directory>,
    /// Who hears of each port's end.
    listener: OnceLock<Box<dyn Fn(PortId, Heard) + Send + Sync>>,
    closed: AtomicBool,
    /// The engine began with a guest.
    taken: bool,
}

/// Which port is where.
struct Directory {
    /// The home of each port that is taken; the index is the port's number.
    homes: Vec<Option<usize>>,
    next: usize,
    guests: Vec<usize>,
}

/// Why a link was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AttachError {
    /// There are [`PORTS_MAX`] ports.
    Full,
    /// The engine is ending.
    Ending,
    /// It began with the TAP of one guest, whose flows are spread over all cores.
    Taken,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "there are {PORTS_MAX} guests already"),
            Self::Ending => write!(f, "the engine is ending"),
            Self::Taken => write!(
                f,
                "the engine began with a guest of its own and takes no others"
            ),
        }
    }
}

impl std::error::Error for AttachError {}

impl Attacher {
    /// For the cores of `peers`. The ports below `first` belong to links that the cores began with.
    pub(crate) fn new(peers: Arc<Peers>, first: usize) -> Self {
        let cores = peers.wakers.len();
        let mut homes = vec![None; PORTS_MAX];
        homes[..first].fill(Some(0));
        Self {
            shared: Arc::new(Shared {
                peers,
                queues: (0..cores).map(|_| Mutex::default()).collect(),
                directory: Mutex::new(Directory {
                    homes,
                    next: first,
                    guests: vec![0; cores],
                }),
                listener: OnceLock::new(),
                closed: AtomicBool::new(false),
                taken: first > 0,
            }),
        }
    }

    /// Has `listener` called with each port that is closed, on a core's thread, where it must not wait.
    /// There is one such listener: a second is not taken.
    pub(crate) fn listen(&self, listener: impl Fn(PortId, Heard) + Send + Sync + 'static) {
        let _ = self.shared.listener.set(Box::new(listener));
    }

    /// Gives a link to the core that has the fewest. `on_end` is called once when its port is closed, on
    /// a core's thread, where it must not wait; not when the engine ends.
    ///
    /// # Errors
    ///
    /// There are too many ports, or the engine is ending or began with a guest's TAP. The link is closed then.
    pub fn attach(
        &self,
        attachment: Attachment,
        on_end: impl FnOnce(Departure) + Send + 'static,
    ) -> Result<PortId, AttachError> {
        if self.shared.closed.load(Ordering::Relaxed) {
            return Err(AttachError::Ending);
        }
        if self.shared.taken {
            return Err(AttachError::Taken);
        }
        let (port, home) = lock(&self.shared.directory)
            .take()
            .ok_or(AttachError::Full)?;
        let shared = Arc::clone(&self.shared);
        let on_end: OnEnd = Box::new(move |departure| {
            let owner = Arc::clone(&shared);
            let heard = move || lock(&owner.directory).free(port);
            match shared.listener.get() {
                Some(listener) => listener(port, Box::new(heard)),
                None => heard(),
            }
            on_end(departure);
        });
        self.tell(
            home,
            PortCommand::Attach {
                port,
                attachment,
                on_end,
            },
        );
        Ok(port)
    }

    /// Closes a port; nothing happens if it is closed already.
    pub fn detach(&self, port: PortId) {
        let home = lock(&self.shared.directory).home(port);
        if let Some(home) = home {
            self.tell(home, PortCommand::Detach(port));
        }
    }

    /// Takes no more.
    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }

    /// What there is for this core.
    pub(crate) fn take(&self, core: usize) -> Vec<PortCommand> {
        std::mem::take(&mut lock(&self.shared.queues[core]))
    }

    fn tell(&self, core: usize, command: PortCommand) {
        lock(&self.shared.queues[core]).push(command);
        if let Some(waker) = self.shared.peers.wakers[core].get() {
            waker.wake();
        }
    }
}

impl Directory {
    /// A port that was not used for the longest time, and the core with the fewest.
    fn take(&mut self) -> Option<(PortId, usize)> {
        let count = self.homes.len();
        let free = (self.next..self.next + count)
            .map(|n| n % count)
            .find(|&n| self.homes[n].is_none())?;
        let home = (0..self.guests.len()).min_by_key(|&core| self.guests[core])?;
        self.homes[free] = Some(home);
        self.guests[home] += 1;
        self.next = free + 1;
        Some((PortId(free as u16), home))
    }

    fn free(&mut self, port: PortId) {
        if let Some(home) = self.homes[usize::from(port.0)].take() {
            self.guests[home] -= 1;
        }
    }

    fn home(&self, port: PortId) -> Option<usize> {
        self.homes.get(usize::from(port.0)).copied().flatten()
    }
}

/// Whoever panicked, what is in there is whole: each change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(cores: usize) -> Directory {
        Directory {
            homes: vec![None; 4],
            next: 0,
            guests: vec![0; cores],
        }
    }

    #[test]
    fn guests_are_spread_and_numbers_rest_before_they_are_used_again() {
        let mut directory = directory(2);
        assert_eq!(directory.take(), Some((PortId(0), 0)));
        assert_eq!(directory.take(), Some((PortId(1), 1)));
        directory.free(PortId(0));
        assert_eq!(directory.take(), Some((PortId(2), 0)), "not 0, just left");
        assert_eq!(directory.take(), Some((PortId(3), 0)));
        assert_eq!(directory.take(), Some((PortId(0), 1)));
        assert_eq!(directory.take(), None);
        directory.free(PortId(1));
        directory.free(PortId(1));
        assert_eq!(directory.home(PortId(1)), None);
        assert_eq!(directory.take(), Some((PortId(1), 1)));
    }
}

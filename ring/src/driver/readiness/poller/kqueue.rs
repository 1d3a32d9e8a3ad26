//! The poller over `kqueue(2)`, of macOS and the BSDs.
//!
//! What shall be watched is only listed; all changes go with the next wait, in the one call that also brings the
//! events. A queue's filters belong to a descriptor and go when it is closed, so that changes which are still
//! listed then must go as well: the next file may get its number.
//!
//! Reading and writing are filters of their own, cleared when they are told (`EV_CLEAR`), so that each event is
//! an edge. What can't be watched comes as an event too (`EV_ERROR`), and is told as ready, so that whoever
//! tries it finds out why. The waker is a filter that any thread triggers (`EVFILT_USER`).

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

#[cfg(not(feature = "kqueue-shim"))]
use kqueue_sys as sys;

#[cfg(feature = "kqueue-shim")]
use super::shim as sys;

use sys::{EventFilter, EventFlag, FilterFlag, kevent};

use super::{EVENTS_MAX, Event, Interest, Poller, WAKE};
use crate::driver::{Errno, Waker};

/// See the module.
pub struct Kqueue {
    queue: Arc<Queue>,
    waker: Waker,
    changes: Vec<kevent>,
    events: Vec<kevent>,
}

/// A queue, shared by a poller and its wakers.
#[derive(Debug)]
pub(in crate::driver) struct Queue(OwnedFd);

impl Poller for Kqueue {
    const NAME: &'static str = "kqueue";

    fn new() -> io::Result<Kqueue> {
        let queue = Arc::new(Queue::new()?);
        // Not with the first wait: it may be triggered before.
        let waker = change(0, EventFilter::EVFILT_USER, EventFlag::EV_ADD, WAKE);
        queue.exchange(&[waker], &mut Vec::new(), Some(Duration::ZERO))?;
        Ok(Kqueue {
            waker: Waker::of_queue(Arc::clone(&queue)),
            queue,
            changes: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        key: u64,
        before: Option<Interest>,
        now: Interest,
    ) -> Result<(), Errno> {
        let ident = fd.as_raw_fd() as usize;
        let mut list = |filter, flag| self.changes.push(change(ident, filter, flag, key));
        if before.is_none() {
            list(EventFilter::EVFILT_READ, EventFlag::EV_ADD);
        }
        match (before, now) {
            (Some(Interest::ReadWrite), Interest::ReadWrite) => {}
            (_, Interest::ReadWrite) => list(EventFilter::EVFILT_WRITE, EventFlag::EV_ADD),
            (Some(Interest::ReadWrite), Interest::Read) => {
                list(EventFilter::EVFILT_WRITE, EventFlag::EV_DELETE);
            }
            (_, Interest::Read) => {}
        }
        Ok(())
    }

    fn forget(&mut self, fd: BorrowedFd<'_>, _: Interest, _: bool) {
        let ident = fd.as_raw_fd() as usize;
        let user = EventFilter::EVFILT_USER;
        self.changes
            .retain(|change| change.ident != ident || change.filter == user);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.events.clear();
        let outcome = self
            .queue
            .exchange(&self.changes, &mut self.events, timeout);
        match outcome {
            // Also if a signal came, all changes were made.
            Ok(()) | Err(Errno::INTR) => self.changes.clear(),
            Err(errno) => return Err(errno.into()),
        }
        events.extend(self.events.iter().filter_map(told));
        Ok(())
    }
}

impl fmt::Debug for Kqueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kqueue")
            .field("queue", &self.queue)
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}

/// What a kernel's event tells.
fn told(event: &kevent) -> Option<Event> {
    let key = event.udata as usize as u64;
    if event.flags.contains(EventFlag::EV_ERROR) {
        // Of a change that was not needed any more: the descriptor or its filter is gone.
        let errno = Errno::from_raw_os_error(event.data as i32);
        let gone = event.data == 0 || errno == Errno::NOENT || errno == Errno::BADF;
        return (!gone).then_some(Event {
            key,
            readable: true,
            writable: true,
            ended: true,
        });
    }
    let writing = event.filter == EventFilter::EVFILT_WRITE;
    Some(Event {
        key,
        readable: !writing,
        writable: writing,
        ended: event.flags.contains(EventFlag::EV_EOF),
    })
}

fn change(ident: usize, filter: EventFilter, flag: EventFlag, key: u64) -> kevent {
    let mut change = kevent::new(
        ident,
        filter,
        flag | EventFlag::EV_CLEAR,
        FilterFlag::empty(),
    );
    change.udata = key as usize as _;
    change
}

impl Queue {
    fn new() -> io::Result<Queue> {
        // SAFETY: the call has no arguments.
        let fd = unsafe { sys::kqueue() };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now, for this value alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Queue(fd))
    }

    /// Ends a wait on the queue, now or the next one.
    pub(in crate::driver) fn trigger(&self) {
        let mut trigger = change(0, EventFilter::EVFILT_USER, EventFlag::empty(), WAKE);
        trigger.fflags = FilterFlag::NOTE_TRIGGER;
        let none = &mut Vec::new();
        // The filter is there as long as the queue, which is open.
        let _ = self.exchange(&[trigger], none, Some(Duration::ZERO));
    }

    /// Makes changes, then waits for events, as many as there is room for.
    fn exchange(
        &self,
        changes: &[kevent],
        events: &mut Vec<kevent>,
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        let time = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let room = events.capacity();
        // SAFETY: the changes are read; at most `room` events are written where there is room for as many;
        // the time is null or lives through the call.
        let count = unsafe {
            sys::kevent(
                self.0.as_raw_fd(),
                changes.as_ptr(),
                changes.len() as _,
                events.as_mut_ptr(),
                room as _,
                time,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        };
        // SAFETY: the call has written `count` events.
        unsafe { events.set_len(count.min(room)) };
        Ok(())
    }
}

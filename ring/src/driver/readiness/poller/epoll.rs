//! The poller over `epoll`.
//!
//! Descriptors are added once, edge-triggered, so that reading and writing need no further calls. The waker
//! is an `eventfd`, edge-triggered as well: every write to it is an event, and nobody has to read it.
//!
//! Deadlines are finer than the milliseconds of `epoll_wait`, so it is `epoll_pwait2` (Linux 5.11) that waits.
//! Where that is not there, or a seccomp profile does not know it, waits are rounded up to whole milliseconds.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use super::{EVENTS_MAX, Event, Interest, Poller, WAKE};
use crate::driver::{Errno, Waker};

/// See the module.
pub struct Epoll {
    epoll: OwnedFd,
    waker: Waker,
    events: Vec<epoll::Event>,
    /// `epoll_pwait2` is there.
    fine: bool,
}

impl Poller for Epoll {
    const NAME: &'static str = "epoll";

    fn new() -> io::Result<Epoll> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &event, EventData::new_u64(WAKE), flags)?;
        Ok(Epoll {
            epoll,
            waker: Waker::new(event, None),
            events: Vec::with_capacity(EVENTS_MAX),
            fine: true,
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
        let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if now == Interest::ReadWrite {
            flags |= EventFlags::OUT;
        }
        let data = EventData::new_u64(key);
        match before {
            None => epoll::add(&self.epoll, fd, data, flags),
            Some(_) => epoll::modify(&self.epoll, fd, data, flags),
        }
    }

    fn forget(&mut self, fd: BorrowedFd<'_>, _: Interest, duplicated: bool) {
        if duplicated {
            // It is there: whoever calls has added it.
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.events.clear();
        let outcome = match timeout {
            Some(timeout) if self.fine && !timeout.is_zero() => match self.wait_finely(timeout) {
                Err(Errno::NOSYS | Errno::PERM) => {
                    self.fine = false;
                    return Ok(());
                }
                outcome => outcome,
            },
            _ => self.wait_coarsely(timeout),
        };
        match outcome {
            Ok(()) => {}
            // A signal came.
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        events.extend(self.events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            Event {
                key: data.u64(),
                readable: flags.intersects(EventFlags::IN | ended),
                writable: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
                ended: flags.intersects(ended),
            }
        }));
        Ok(())
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoll")
            .field("fine", &self.fine)
            .finish_non_exhaustive()
    }
}

impl Epoll {
    fn wait_finely(&mut self, timeout: Duration) -> Result<(), Errno> {
        let time = libc::timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let room = self.events.capacity();
        let no_mask: *const libc::sigset_t = std::ptr::null();
        // SAFETY: the system call writes at most `room` events where there is room for as many, reads the
        // time, which lives through the call, and no signal mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                room as libc::c_int,
                &raw const time,
                no_mask,
                0_usize,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        };
        // SAFETY: the kernel has written `count` events, which `epoll::Event` is laid out as.
        unsafe { self.events.set_len(count.min(room)) };
        Ok(())
    }

    fn wait_coarsely(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        // Rounded up: a wait that ends before its time would be repeated at once.
        let time = timeout.map(|timeout| {
            let ms = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
            rustix::event::Timespec {
                tv_sec: ms / 1000,
                tv_nsec: ms % 1000 * 1_000_000,
            }
        });
        let room = rustix::buffer::spare_capacity(&mut self.events);
        epoll::wait(&self.epoll, room, time.as_ref()).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    fn events(epoll: &mut Epoll, ms: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let timeout = Some(Duration::from_millis(ms));
        epoll.wait(timeout, &mut events).unwrap();
        events
    }

    #[test]
    fn each_edge_is_told_once() {
        let mut epoll = Epoll::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let read = Interest::Read;
        epoll.watch(ours.as_fd(), 5, None, read).unwrap();
        assert_eq!(events(&mut epoll, 0), []);
        rustix::io::write(&theirs, b"x").unwrap();
        let expected = Event {
            key: 5,
            readable: true,
            writable: false,
            ended: false,
        };
        assert_eq!(events(&mut epoll, 1000), [expected]);
        assert_eq!(events(&mut epoll, 0), []);
        // Asked anew, it tells anew.
        let both = Interest::ReadWrite;
        epoll.watch(ours.as_fd(), 5, Some(read), both).unwrap();
        let writable = Event {
            writable: true,
            ..expected
        };
        assert_eq!(events(&mut epoll, 1000), [writable]);
        drop(theirs);
        let ended = Event {
            ended: true,
            ..writable
        };
        assert_eq!(events(&mut epoll, 1000), [ended]);
        epoll.forget(ours.as_fd(), both, true);
        assert_eq!(events(&mut epoll, 0), []);
    }

    #[test]
    fn wakes_and_time_end_a_wait_also_without_the_newer_call() {
        for fine in [true, false] {
            let mut epoll = Epoll::new().unwrap();
            epoll.fine = fine;
            let waker = epoll.waker();
            for _ in 0..3 {
                waker.wake();
                assert_eq!(events(&mut epoll, 1000)[0].key, WAKE);
                waker.clear();
                assert_eq!(events(&mut epoll, 0), []);
            }
            let (started, time) = (Instant::now(), Duration::from_micros(1500));
            let mut none = Vec::new();
            epoll.wait(Some(time), &mut none).unwrap();
            assert!(none.is_empty() && started.elapsed() >= time);
        }
    }
}

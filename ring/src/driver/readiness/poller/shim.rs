//! `kqueue(2)` and `kevent(2)` on Linux, made of `epoll` and `eventfd`, so that the poller for other systems
//! can be run here. For tests: it is small, not fast.
//!
//! A queue is an `epoll` that watches two more, one for each of the filters of descriptors, so that reading
//! and writing are told and cleared apart; and an `eventfd`, which stands for all that users trigger.
//!
//! Limits:
//! - Of the filters there are `EVFILT_READ`, `EVFILT_WRITE` and `EVFILT_USER`; others give `EINVAL`.
//! - `data` of a write filter is 0, not the room there is; `NOTE_LOWAT` and the other notes are not known.
//! - When a descriptor is closed that has duplicates, its filters stay silent, but a level-triggered one (without
//!   `EV_CLEAR`) may keep waits from sleeping.
//! - What belongs to a queue that is closed is freed when the next queue gets its number.

#![expect(
    non_camel_case_types,
    reason = "the names are those of the crate `kqueue-sys`"
)]

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::driver::Errno;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
#[cfg_attr(not(test), expect(dead_code, reason = "not all are asked for"))]
pub(super) enum EventFilter {
    EVFILT_READ = -1,
    EVFILT_WRITE = -2,
    EVFILT_TIMER = -7,
    EVFILT_USER = -10,
}

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(transparent)]
    pub(super) struct EventFlag: u16 {
        const EV_ADD = 0x0001;
        const EV_DELETE = 0x0002;
        const EV_ENABLE = 0x0004;
        const EV_DISABLE = 0x0008;
        const EV_ONESHOT = 0x0010;
        const EV_CLEAR = 0x0020;
        const EV_RECEIPT = 0x0040;
        const EV_DISPATCH = 0x0080;
        const EV_ERROR = 0x4000;
        const EV_EOF = 0x8000;
    }

    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(transparent)]
    pub(super) struct FilterFlag: u32 {
        const NOTE_TRIGGER = 0x0100_0000;
    }
}

/// A change or an event.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct kevent {
    pub(super) ident: usize,
    pub(super) filter: EventFilter,
    pub(super) flags: EventFlag,
    pub(super) fflags: FilterFlag,
    pub(super) data: i64,
    pub(super) udata: *mut c_void,
}

impl kevent {
    pub(super) fn new(
        ident: usize,
        filter: EventFilter,
        flags: EventFlag,
        fflags: FilterFlag,
    ) -> kevent {
        kevent {
            ident,
            filter,
            flags,
            fflags,
            data: 0,
            udata: std::ptr::null_mut(),
        }
    }
}

/// Makes a queue.
///
/// # Safety
///
/// None is needed; it is so declared elsewhere.
pub(super) unsafe extern "C" fn kqueue() -> c_int {
    returned(State::new().map(|(fd, state)| {
        let fd = fd.into_raw_fd();
        lock(&QUEUES)
            .get_or_insert_default()
            .insert(fd, Arc::new(Mutex::new(state)));
        fd
    }))
}

/// Makes changes to a queue, then waits for events.
///
/// # Safety
///
/// `changes` and `events` are null or have as many entries as is said, and `timeout` is null or valid.
pub(super) unsafe extern "C" fn kevent(
    kq: c_int,
    changes: *const kevent,
    changes_len: c_int,
    events: *mut kevent,
    events_len: c_int,
    timeout: *const libc::timespec,
) -> c_int {
    let changes = match usize::try_from(changes_len) {
        // SAFETY: the caller vouches for the changes.
        Ok(len) if len > 0 => unsafe { std::slice::from_raw_parts(changes, len) },
        _ => &[],
    };
    // SAFETY: the caller vouches for the time.
    let timeout = unsafe { timeout.as_ref() };
    let timeout = timeout.map(|time| Duration::new(time.tv_sec as u64, time.tv_nsec as u32));
    let room = usize::try_from(events_len).unwrap_or(0);
    let outcome = exchange(kq, changes, room, timeout).map(|told| {
        for (at, event) in told.iter().enumerate() {
            // SAFETY: no more than `room` events are told, for which the caller vouches.
            unsafe { events.add(at).write(*event) };
        }
        told.len() as c_int
    });
    returned(outcome)
}

/// As a system call returns it.
fn returned(outcome: Result<c_int, Errno>) -> c_int {
    outcome.unwrap_or_else(|errno| {
        // SAFETY: the C library's errno of this thread is always there.
        unsafe { *libc::__errno_location() = errno.raw_os_error() };
        -1
    })
}

type Queues = HashMap<c_int, Arc<Mutex<State>>>;

static QUEUES: Mutex<Option<Queues>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exchange(
    kq: c_int,
    changes: &[kevent],
    room: usize,
    timeout: Option<Duration>,
) -> Result<Vec<kevent>, Errno> {
    let state = lock(&QUEUES)
        .as_ref()
        .and_then(|queues| queues.get(&kq).cloned());
    let state = state.ok_or(Errno::BADF)?;
    let mut told = Vec::new();
    for change in changes {
        let outcome = lock(&state).change(change);
        if outcome.is_ok() && !change.flags.contains(EventFlag::EV_RECEIPT) {
            continue;
        }
        if told.len() >= room {
            outcome?;
            continue;
        }
        told.push(kevent {
            flags: EventFlag::EV_ERROR,
            data: outcome.map_or_else(|errno| errno.raw_os_error().into(), |()| 0),
            ..*change
        });
    }
    if !told.is_empty() || room == 0 {
        return Ok(told);
    }
    let until = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        lock(&state).collect(room, &mut told)?;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if !told.is_empty() || left.is_some_and(|left| left.is_zero()) {
            return Ok(told);
        }
        sleep(kq, left)?;
    }
}

/// Waits until there is something to collect, for about so long.
fn sleep(kq: c_int, time: Option<Duration>) -> Result<(), Errno> {
    // SAFETY: the caller of `kevent` keeps the queue open during the call.
    let queue = unsafe { BorrowedFd::borrow_raw(kq) };
    let time = time.map(|time| Timespec {
        tv_sec: 0,
        // Whole milliseconds; the last is waited for awake, so that it is not overslept.
        tv_nsec: (time.as_millis().min(900) as i64) * 1_000_000,
    });
    let mut ready = Vec::with_capacity(3);
    epoll::wait(queue, spare_capacity(&mut ready), time.as_ref()).map(|_| ())
}

/// A queue.
#[derive(Debug)]
struct State {
    readers: OwnedFd,
    writers: OwnedFd,
    /// Readable while something that a user triggered was not told.
    triggered: OwnedFd,
    notes: HashMap<(usize, EventFilter), Note>,
}

/// A filter.
#[derive(Clone, Copy, Debug)]
struct Note {
    flags: EventFlag,
    udata: usize,
    enabled: bool,
    triggered: bool,
    /// Which file it was made for.
    file: (u64, u64),
}

impl State {
    fn new() -> Result<(OwnedFd, State), Errno> {
        let queue = epoll::create(CreateFlags::empty())?;
        let state = State {
            readers: epoll::create(CreateFlags::CLOEXEC)?,
            writers: epoll::create(CreateFlags::CLOEXEC)?,
            triggered: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            notes: HashMap::new(),
        };
        for part in [&state.readers, &state.writers, &state.triggered] {
            epoll::add(&queue, part, EventData::new_u64(0), EventFlags::IN)?;
        }
        Ok((queue, state))
    }

    fn change(&mut self, change: &kevent) -> Result<(), Errno> {
        let key = (change.ident, change.filter);
        let file = match change.filter {
            EventFilter::EVFILT_USER => (0, 0),
            EventFilter::EVFILT_TIMER => return Err(Errno::INVAL),
            _ => file(change.ident)?,
        };
        // One of a file that was closed is gone.
        if self.notes.get(&key).is_some_and(|note| note.file != file) {
            self.notes.remove(&key);
        }
        let settings = EventFlag::EV_ONESHOT | EventFlag::EV_CLEAR | EventFlag::EV_DISPATCH;
        let mut note = match self.notes.get(&key) {
            Some(note) => *note,
            None if change.flags.contains(EventFlag::EV_ADD) => Note {
                flags: EventFlag::empty(),
                udata: 0,
                enabled: true,
                triggered: false,
                file,
            },
            None => return Err(Errno::NOENT),
        };
        if change.flags.contains(EventFlag::EV_DELETE) {
            self.notes.remove(&key);
            self.disarm(key);
            return Ok(());
        }
        let adds = change.flags.contains(EventFlag::EV_ADD);
        if adds {
            note.flags = change.flags & settings;
            note.udata = change.udata as usize;
        }
        note.triggered |= change.fflags.contains(FilterFlag::NOTE_TRIGGER);
        note.enabled |= adds || change.flags.contains(EventFlag::EV_ENABLE);
        note.enabled &= !change.flags.contains(EventFlag::EV_DISABLE);
        if note.enabled {
            self.arm(key, &note)?;
        } else {
            self.disarm(key);
        }
        self.notes.insert(key, note);
        Ok(())
    }

    /// Has events told of a filter.
    fn arm(&self, (ident, filter): (usize, EventFilter), note: &Note) -> Result<(), Errno> {
        let (part, interest) = match filter {
            EventFilter::EVFILT_READ => (&self.readers, EventFlags::IN | EventFlags::RDHUP),
            EventFilter::EVFILT_WRITE => (&self.writers, EventFlags::OUT),
            _ if note.triggered => {
                return rustix::io::write(&self.triggered, &1_u64.to_ne_bytes()).map(|_| ());
            }
            _ => return Ok(()),
        };
        let edge = match note.flags.contains(EventFlag::EV_CLEAR) {
            true => EventFlags::ET,
            false => EventFlags::empty(),
        };
        // SAFETY: the descriptor is open: `file` was asked about it just now.
        let fd = unsafe { BorrowedFd::borrow_raw(ident as c_int) };
        let data = EventData::new_u64(ident as u64);
        match epoll::add(part, fd, data, interest | edge) {
            Err(Errno::EXIST) => epoll::modify(part, fd, data, interest | edge),
            outcome => outcome,
        }
    }

    fn disarm(&self, (ident, filter): (usize, EventFilter)) {
        let part = match filter {
            EventFilter::EVFILT_READ => &self.readers,
            EventFilter::EVFILT_WRITE => &self.writers,
            _ => return,
        };
        if file(ident).is_ok() {
            // SAFETY: the descriptor is open.
            let fd = unsafe { BorrowedFd::borrow_raw(ident as c_int) };
            let _ = epoll::delete(part, fd);
        }
    }

    /// Takes what is there.
    fn collect(&mut self, room: usize, told: &mut Vec<kevent>) -> Result<(), Errno> {
        self.collect_triggered(room, told);
        for filter in [EventFilter::EVFILT_READ, EventFilter::EVFILT_WRITE] {
            let part = match filter {
                EventFilter::EVFILT_READ => &self.readers,
                _ => &self.writers,
            };
            let left = room - told.len();
            if left == 0 {
                break;
            }
            let mut ready = Vec::with_capacity(left);
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            epoll::wait(part, spare_capacity(&mut ready), Some(&now))?;
            for event in ready.iter().take(left) {
                let (data, flags) = (event.data, event.flags);
                self.tell((data.u64() as usize, filter), flags, told);
            }
        }
        Ok(())
    }

    fn collect_triggered(&mut self, room: usize, told: &mut Vec<kevent>) {
        if rustix::io::read(&self.triggered, &mut [0; 8]).is_err() {
            return;
        }
        let user = |(key, note): (&(usize, EventFilter), &Note)| {
            (key.1 == EventFilter::EVFILT_USER && note.triggered && note.enabled).then_some(*key)
        };
        let keys: Vec<_> = self.notes.iter().filter_map(user).collect();
        for &key in keys.iter().take(room) {
            self.tell(key, EventFlags::empty(), told);
        }
        let left = self.notes.iter().filter_map(user).next();
        if left.is_some() {
            // Not cleared, or not told for lack of room: it is there again.
            let _ = rustix::io::write(&self.triggered, &1_u64.to_ne_bytes());
        }
    }

    /// Makes the event of a filter that is ready.
    fn tell(&mut self, key: (usize, EventFilter), ready: EventFlags, told: &mut Vec<kevent>) {
        let (ident, filter) = key;
        let Some(note) = self.notes.get_mut(&key) else {
            return;
        };
        let of_user = filter == EventFilter::EVFILT_USER;
        if !of_user && file(ident) != Ok(note.file) {
            self.notes.remove(&key);
            return;
        }
        let ends = match filter {
            EventFilter::EVFILT_READ => EventFlags::RDHUP | EventFlags::HUP,
            _ => EventFlags::HUP | EventFlags::ERR,
        };
        let mut flags = note.flags;
        flags.set(EventFlag::EV_EOF, ready.intersects(ends));
        told.push(kevent {
            ident,
            filter,
            flags,
            fflags: FilterFlag::empty(),
            data: if filter == EventFilter::EVFILT_READ {
                bytes_there(ident)
            } else {
                0
            },
            udata: note.udata as *mut c_void,
        });
        if note.flags.contains(EventFlag::EV_CLEAR) {
            note.triggered = false;
        }
        if note.flags.contains(EventFlag::EV_DISPATCH) {
            note.enabled = false;
            self.disarm(key);
        } else if note.flags.contains(EventFlag::EV_ONESHOT) {
            self.notes.remove(&key);
            self.disarm(key);
        }
    }
}

/// Which file a descriptor is of.
fn file(ident: usize) -> Result<(u64, u64), Errno> {
    let raw = c_int::try_from(ident).map_err(|_| Errno::BADF)?;
    if raw < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the kernel says if it is not open.
    let stat = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(raw) })?;
    Ok((stat.st_dev, stat.st_ino))
}

/// How many bytes can be read.
fn bytes_there(ident: usize) -> i64 {
    // SAFETY: `file` has found it open just now.
    let fd = unsafe { BorrowedFd::borrow_raw(ident as c_int) };
    rustix::io::ioctl_fionread(fd).map_or(0, |bytes| bytes as i64)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    struct Queue(c_int);

    impl Queue {
        fn new() -> Queue {
            // SAFETY: it has no arguments.
            Queue(unsafe { kqueue() })
        }

        fn call(&self, changes: &[kevent], room: usize, ms: i64) -> Result<Vec<kevent>, Errno> {
            let unused = kevent::new(0, READ, EventFlag::empty(), FilterFlag::empty());
            let mut events = vec![unused; room];
            let time = libc::timespec {
                tv_sec: 0,
                tv_nsec: ms * 1_000_000,
            };
            // SAFETY: lists and their lengths belong together.
            let count = unsafe {
                kevent(
                    self.0,
                    changes.as_ptr(),
                    changes.len() as c_int,
                    events.as_mut_ptr(),
                    room as c_int,
                    &raw const time,
                )
            };
            if count < 0 {
                let error = std::io::Error::last_os_error();
                return Err(Errno::from_io_error(&error).unwrap());
            }
            events.truncate(count as usize);
            Ok(events)
        }

        fn change(&self, fd: usize, filter: EventFilter, flags: EventFlag) -> Result<(), Errno> {
            let mut change = kevent::new(fd, filter, flags, FilterFlag::empty());
            change.udata = 77 as *mut c_void;
            self.call(&[change], 0, 0).map(|_| ())
        }

        /// Identifier, filter and flags of what is there.
        fn events(&self) -> Vec<(usize, EventFilter, EventFlag)> {
            let events = self.call(&[], 8, 20).unwrap();
            assert!(events.iter().all(|event| event.udata as usize == 77));
            events
                .iter()
                .map(|event| (event.ident, event.filter, event.flags))
                .collect()
        }
    }

    impl Drop for Queue {
        fn drop(&mut self) {
            // SAFETY: the descriptor is this value's own.
            drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(self.0) });
        }
    }

    const READ: EventFilter = EventFilter::EVFILT_READ;
    const WRITE: EventFilter = EventFilter::EVFILT_WRITE;
    const USER: EventFilter = EventFilter::EVFILT_USER;
    const ADD: EventFlag = EventFlag::EV_ADD;
    const NONE: EventFlag = EventFlag::empty();

    fn pair() -> (UnixStream, UnixStream, usize) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd() as usize;
        (ours, theirs, fd)
    }

    fn write(stream: &UnixStream) {
        rustix::io::write(stream, b"abc").unwrap();
    }

    fn read(stream: &UnixStream) {
        rustix::io::read(stream, &mut [0; 100]).unwrap();
    }

    #[test]
    fn without_clear_an_event_is_told_as_long_as_it_is_so() {
        let (queue, (ours, theirs, fd)) = (Queue::new(), pair());
        queue.change(fd, READ, ADD).unwrap();
        assert_eq!(queue.events(), []);
        write(&theirs);
        assert_eq!(queue.events(), [(fd, READ, NONE)]);
        assert_eq!(queue.call(&[], 1, 0).unwrap()[0].data, 3, "bytes to read");
        read(&ours);
        assert_eq!(queue.events(), []);
    }

    #[test]
    fn with_clear_it_is_told_once_for_each_filter() {
        let (queue, (ours, theirs, fd)) = (Queue::new(), pair());
        let clear = EventFlag::EV_CLEAR;
        queue.change(fd, READ, ADD | clear).unwrap();
        queue.change(fd, WRITE, ADD | clear).unwrap();
        assert_eq!(queue.events(), [(fd, WRITE, clear)], "there at the start");
        assert_eq!(queue.events(), []);
        write(&theirs);
        assert_eq!(queue.events(), [(fd, READ, clear)], "and not the other");
        assert_eq!(queue.events(), []);
        write(&theirs);
        assert_eq!(queue.events(), [(fd, READ, clear)], "more came");
        read(&ours);
        // Added anew, it tells of what is there.
        write(&theirs);
        queue.change(fd, READ, ADD | clear).unwrap();
        assert_eq!(queue.events(), [(fd, READ, clear)]);
    }

    #[test]
    fn oneshot_deletes_and_dispatch_disables() {
        let (queue, (_ours, theirs, fd)) = (Queue::new(), pair());
        write(&theirs);
        queue.change(fd, READ, ADD | EventFlag::EV_ONESHOT).unwrap();
        assert_eq!(queue.events(), [(fd, READ, EventFlag::EV_ONESHOT)]);
        assert_eq!(queue.events(), []);
        assert_eq!(
            queue.change(fd, READ, EventFlag::EV_DELETE),
            Err(Errno::NOENT)
        );
        let dispatch = EventFlag::EV_DISPATCH;
        queue.change(fd, READ, ADD | dispatch).unwrap();
        assert_eq!(queue.events(), [(fd, READ, dispatch)]);
        assert_eq!(queue.events(), []);
        queue.change(fd, READ, EventFlag::EV_ENABLE).unwrap();
        assert_eq!(queue.events(), [(fd, READ, dispatch)]);
    }

    #[test]
    fn what_is_disabled_is_silent_until_it_is_enabled() {
        let (queue, (_ours, theirs, fd)) = (Queue::new(), pair());
        queue.change(fd, READ, ADD | EventFlag::EV_DISABLE).unwrap();
        write(&theirs);
        assert_eq!(queue.events(), []);
        queue.change(fd, READ, EventFlag::EV_ENABLE).unwrap();
        assert_eq!(queue.events(), [(fd, READ, NONE)]);
    }

    #[test]
    fn the_end_is_told_with_bytes_still_there() {
        let (queue, (ours, theirs, fd)) = (Queue::new(), pair());
        queue.change(fd, READ, ADD).unwrap();
        write(&theirs);
        drop(theirs);
        let event = queue.call(&[], 8, 20).unwrap()[0];
        assert_eq!((event.flags, event.data), (EventFlag::EV_EOF, 3));
        read(&ours);
        let event = queue.call(&[], 8, 20).unwrap()[0];
        assert_eq!((event.flags, event.data), (EventFlag::EV_EOF, 0));
    }

    #[test]
    fn errors_of_changes_are_events_if_there_is_room() {
        let (queue, (ours, _theirs, fd)) = (Queue::new(), pair());
        let change = |fd, flags| kevent::new(fd, READ, flags, FilterFlag::empty());
        let changes = [
            change(fd, EventFlag::EV_DELETE),
            change(fd, ADD),
            change(9999, ADD),
        ];
        let events = queue.call(&changes, 8, 0).unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|e| (e.ident, e.flags, e.data as i32))
            .collect();
        let error = EventFlag::EV_ERROR;
        let [noent, badf] = [Errno::NOENT, Errno::BADF].map(Errno::raw_os_error);
        assert_eq!(told, [(fd, error, noent), (9999, error, badf)]);
        // Without room the first ends the call.
        assert_eq!(queue.call(&changes[2..], 0, 0).unwrap_err(), Errno::BADF);
        // A receipt is asked for: told, though it is none.
        let events = queue
            .call(&[change(fd, ADD | EventFlag::EV_RECEIPT)], 8, 0)
            .unwrap();
        assert_eq!(
            (events.len(), events[0].flags, events[0].data),
            (1, error, 0)
        );
        let timer = kevent::new(1, EventFilter::EVFILT_TIMER, ADD, FilterFlag::empty());
        assert_eq!(queue.call(&[timer], 0, 0).unwrap_err(), Errno::INVAL);
        drop(ours);
    }

    #[test]
    fn filters_go_with_their_descriptor() {
        let (queue, (ours, theirs, fd)) = (Queue::new(), pair());
        queue.change(fd, READ, ADD | EventFlag::EV_CLEAR).unwrap();
        let copy = ours.try_clone().unwrap();
        drop(ours);
        write(&theirs);
        assert_eq!(queue.events(), [], "also if the file is still open");
        drop(copy);
    }

    #[test]
    fn a_trigger_wakes_a_wait_from_another_thread() {
        let queue = Queue::new();
        queue.change(5, USER, ADD | EventFlag::EV_CLEAR).unwrap();
        let mut trigger = kevent::new(5, USER, NONE, FilterFlag::NOTE_TRIGGER);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(10));
                let trigger = kevent::new(5, USER, NONE, FilterFlag::NOTE_TRIGGER);
                queue.call(&[trigger], 0, 0).unwrap();
            });
            let events = queue.call(&[], 8, 900).unwrap();
            assert_eq!((events.len(), events[0].udata as usize), (1, 77));
        });
        assert_eq!(queue.events(), [], "cleared");
        trigger.ident = 6;
        assert_eq!(queue.call(&[trigger], 0, 0).unwrap_err(), Errno::NOENT);
        // One that is not cleared stays.
        queue.change(6, USER, ADD).unwrap();
        queue.call(&[trigger], 0, 0).unwrap();
        for _ in 0..2 {
            assert_eq!(queue.events(), [(6, USER, NONE)]);
        }
    }

    #[test]
    fn no_more_is_told_than_there_is_room_for_and_nothing_is_lost() {
        let queue = Queue::new();
        let pairs: Vec<_> = (0..10).map(|_| pair()).collect();
        for (_, theirs, fd) in &pairs {
            queue.change(*fd, READ, ADD | EventFlag::EV_CLEAR).unwrap();
            write(theirs);
        }
        let mut told: Vec<_> = (0..4)
            .flat_map(|_| queue.call(&[], 3, 0).unwrap())
            .map(|event| event.ident)
            .collect();
        told.sort_unstable();
        let mut expected: Vec<_> = pairs.iter().map(|(.., fd)| *fd).collect();
        expected.sort_unstable();
        assert_eq!(told, expected);
    }
}

//! Making the ring, and the one system call.

use std::io;
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode};
use rustix::io::Errno;

use super::config::{Features, UringConfig};
use super::operation::Family;
use super::{GROUP_DATAGRAM, GROUP_LINK, GROUP_STREAM, GROUP_TAP, Uring};
use crate::driver::kernel::clock;

/// How long a ring that is dropped waits for the kernel to be done.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Makes a ring with the flags that the kernel knows.
pub(super) fn build(config: &UringConfig, features: &Features) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_clamp()
        .setup_cqsize(config.cq_entries);
    if features.defer_taskrun {
        // SUBMIT_ALL is older than these two.
        builder
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            // The queue shows whether there is deferred work (`busy_poll`).
            .setup_taskrun_flag();
    } else if features.single_issuer {
        builder.setup_submit_all().setup_single_issuer();
    }
    builder.build(config.sq_entries)
}

fn timespec(ns: u64) -> Timespec {
    Timespec::new()
        .sec(ns / 1_000_000_000)
        .nsec((ns % 1_000_000_000) as u32)
}

impl Uring {
    /// Queues an entry, submitting early if the queue is full.
    ///
    /// # Safety
    ///
    /// Whatever memory the entry refers to must stay valid and untouched until its last completion.
    pub(super) unsafe fn push(&mut self, entry: Entry) {
        self.counters.submissions += 1;
        // SAFETY: the caller vouches for the entry.
        if self.backlog.is_empty() && unsafe { self.ring.submission().push(&entry) }.is_ok() {
            return;
        }
        self.backlog.push_back(entry);
        self.counters.submission_queue_full += 1;
        // An error here (the completion queue is full, no memory) comes again in `wait`.
        let _ = self.ring.submit();
        self.counters.enters += 1;
        self.push_backlog();
    }

    fn push_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever queued the entry vouched for it until its completion.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Submits what is queued and waits for `want` completions, at most until the deadline.
    pub(super) fn enter(&mut self, want: usize, deadline: Option<u64>) -> io::Result<()> {
        self.push_backlog();
        let (queued, overflowed) = {
            let queue = self.ring.submission();
            (queue.len(), queue.cq_overflow())
        };
        self.counters.completion_queue_overflowed += u64::from(overflowed);
        // What did not fit the submission queue needs another round soon.
        let want = if self.backlog.is_empty() { want } else { 0 };
        // GETEVENTS even without waiting: deferred work runs only then.
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        let mut time = Timespec::new();
        let mut args = SubmitArgs::new();
        if let Some(deadline) = deadline
            && want > 0
        {
            if self.features.absolute_deadline {
                flags |= EnterFlags::ABS_TIMER;
                time = timespec(deadline);
            } else {
                time = timespec(deadline.saturating_sub(clock()));
            }
        }
        if deadline.is_some() && want > 0 {
            args = args.timespec(&time);
        }
        self.counters.enters += 1;
        // SAFETY: the argument is the structure that EXT_ARG names and lives through the call; the
        // queued entries were vouched for when they were pushed.
        let outcome = unsafe {
            self.ring
                .submitter()
                .enter(queued as u32, want as u32, flags.bits(), Some(&args))
        };
        let Err(error) = outcome else { return Ok(()) };
        match Errno::from_io_error(&error) {
            // Time is up, a signal came, or the kernel wants its completions reaped first.
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    /// Ends everything in flight, so that no memory is in the kernel's hands. Whether that worked.
    pub(super) fn settle(&mut self) -> bool {
        self.closing = true;
        self.disarm_completion_event();
        // What waits for buffers is not in the kernel.
        for link in std::mem::take(&mut self.starved.links) {
            self.links.stop_reading(link);
        }
        for slot in std::mem::take(&mut self.starved.datagrams) {
            self.end_receive_from(slot);
        }
        let started = Instant::now();
        let mut reading = self.links.reading();
        loop {
            let live = self.frames.live() + self.sends.live() + self.waits.live() + reading;
            if live == 0 && self.backlog.is_empty() {
                break;
            }
            if started.elapsed() > SETTLE_MAX {
                return false;
            }
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any())
                .build()
                .user_data(Family::Ignored.data(0));
            // SAFETY: a cancel refers to no memory.
            unsafe { self.push(entry) };
            let until = clock() + 10_000_000;
            if self.enter(1, Some(until)).is_err() {
                return false;
            }
            self.reap();
            self.resolve_quiet(&mut Vec::new());
            self.ready.clear();
            reading = self.links.reading();
        }
        // Closes that are still queued.
        let _ = self.ring.submit();
        let submitter = self.ring.submitter();
        // A ring is taken down some time after its descriptor is closed. The links must not wait
        // for that: a TAP is gone for good with its last reference.
        let _ = submitter.unregister_files();
        let groups = [GROUP_STREAM, GROUP_DATAGRAM].into_iter();
        let groups = groups.chain(self.tap.as_ref().map(|_| GROUP_TAP));
        let groups = groups.chain(self.link_stream.as_ref().map(|_| GROUP_LINK));
        groups
            .map(|group| submitter.unregister_buf_ring(group).is_ok())
            .fold(true, |a, b| a & b)
    }
}

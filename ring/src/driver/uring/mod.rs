//! The driver over io_uring.
//!
//! # Theory of operation
//!
//! One ring per core, used by the thread that made it (`SINGLE_ISSUER`), whose completions are worked
//! out when we ask for them (`DEFER_TASKRUN`). Everything that the caller asks for becomes submission
//! entries; [`Driver::wait`] hands them over, waits and reaps in one `io_uring_enter`. If the queue is
//! full in between it is submitted early. Frame writes and datagram sends never wait and have nothing
//! to say on success; they are counted, and a wait asks for one completion more than their number,
//! so that they do not end it.
//!
//! **Who owns memory.** Each operation sits in a slot with a stable address (`slots`) that owns whatever the
//! kernel may look at: the frame header, `iovec`s, `msghdr`, address, and a holder of each slice. The
//! slot is released by the operation's last completion and by nothing else; its index is in the
//! `user_data`. So a caller may mix up tokens and socket ids, but never make the kernel use freed memory.
//! What the kernel writes goes into provided buffers (`group`), which are nobody's else meanwhile. On drop
//! everything is cancelled and waited for; what does not come back in time is kept for ever.
//!
//! **Receiving.** Four groups of buffers: for frames (multishot reads, one frame a buffer), streams (one
//! single-shot receive fills a *bundle* of buffers; it may be shorter than asked: what counts is the
//! byte count), streams of links (one receive fills one large buffer, so that hardly a frame is cut), and
//! datagrams (multishot `recvmsg`; in front of the payload are a header, the sender's
//! address and control messages). Buffers that came home are listed again at the start of `wait`. A
//! multishot that ended for lack of buffers is armed again when some are back. Few of the large buffers are
//! listed at a time; a receive that found none of them is armed again as long as others are free.
//!
//! **Bundles and the length limit.** When a bundle fills completely and more bytes are there, the kernel
//! goes on once and appends as much again as is queued, past what was asked. It does not if the last
//! buffer was cut. So we ask for one byte more than whole buffers: the kernel leaves a cut buffer out
//! unless it is the first. `probe` tries whether this works; where it does not, a receive may yield
//! more than `max`.
//!
//! **Errors of datagram sockets.** With `IP_RECVERR` an ICMP error becomes an entry in the error queue and
//! an error that hits the next call, send or receive, whoever it concerns. So: any failure drains the
//! queue at once (a socket with a queued error looks ready for ever) into the socket's own bounded list
//! for [`Driver::take_error`]; a send that met somebody else's error is done again once; receiving goes on.
//!
//! **Closing.** What is in flight is cancelled one by one (`user_data` is a hash lookup in the kernel, while
//! cancelling all of a descriptor walks all operations of the ring). Each ends in its completion; with
//! the last the descriptor is closed, in the ring too.
//!
//! **Staying awake.** Before a lone request's answer is waited for in the kernel, it is looked for (`busy_poll`).
//!
//! **Waking.** Another ring sends us a message; other threads write to an event descriptor, which is polled.
//! Both are merged by a mark in the [`Waker`].

mod busy_poll;
mod complete;
mod config;
mod enter;
mod group;
mod links;
mod operation;
mod packets;
mod probe;
mod slots;
mod sockets;
mod submit;
#[cfg(test)]
mod synthetic;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use rustix::event::{EventfdFlags, eventfd};

use self::busy_poll::BusyPoll;
use self::group::BufferGroup;
use self::links::Links;
use self::operation::{Family, FrameOp, SendOp, WaitForm, WaitOp};
use self::slots::Slots;
use self::sockets::{NONE, Socket, Sockets};
use super::kernel::clock;
use super::kernel::options::{self, UdpTuning};
use super::kernel::table::NO_SOCKET;
use super::{
    Adopted, BufferLevels, Completion, Driver, DriverCounters, Errno, Keepalive, LinkFeatures,
    LinkId, ReceiveEnd, Remote, SendMode, SocketError, SocketId, SocketKind, Token, Waker,
    WriteStats,
};
use crate::buffer::Slice;
use crate::frames::tap::TapQueue;

pub use config::{Features, UringConfig};
pub use probe::{features, probe};

/// The size of a frame or datagram buffer: 64 KiB and room for headers.
const LARGE_BUFFER_BYTES: u32 = 65_536 + 256;

/// More frame buffers let a multishot read go on for so long that the guest starves.
const TAP_BUFFERS_MAX: u16 = 64;

/// Links of one ring, at most: places in its table of fixed files.
const LINKS_MAX: u32 = 64;

/// What the buffers that are listed for frames (or datagrams) and streams hold together, see `group`.
const HOT_FRAME_BYTES: usize = 256 << 10;
const HOT_STREAM_BYTES: usize = 1 << 20;
const HOT_LINK_BYTES: usize = 1 << 20;

/// The size of a buffer for streams of links.
const LINK_BUFFER_BYTES: u32 = 256 << 10;

const GROUP_TAP: u16 = 1;
const GROUP_STREAM: u16 = 2;
const GROUP_DATAGRAM: u16 = 3;
const GROUP_LINK: u16 = 4;

/// The driver over io_uring. Make it on the thread that uses it; it cannot move to another.
pub struct Uring {
    /// First, so that it is closed before the memory below goes.
    ring: IoUring,
    features: Features,
    config: UringConfig,
    /// `CLOCK_MONOTONIC` in ns.
    now: u64,
    links: Links,
    sockets: Sockets,
    frames: Slots<FrameOp>,
    sends: Slots<SendOp>,
    waits: Slots<WaitOp>,
    tap: Option<BufferGroup>,
    stream: BufferGroup,
    link_stream: Option<BufferGroup>,
    datagram: BufferGroup,
    /// Entries that found the submission queue full although it was submitted.
    backlog: VecDeque<Entry>,
    /// Operations in flight that say nothing on success and never wait.
    silent: usize,
    /// Slots of quiet sends that have not completed.
    quiet: Vec<u32>,
    /// Links and `receive_from`s that stopped for lack of buffers.
    starved: Starved,
    /// Completions that did not need the kernel, and those being reaped.
    ready: Vec<Completion>,
    reaped: Vec<complete::Reaped>,
    waker: Waker,
    /// Room for the parts of packets.
    packet_parts: Vec<libc::iovec>,
    /// Rings that we sent messages to.
    peers: Vec<Waker>,
    /// Readable when `wait` would find something; see [`Uring::completion_event`].
    completion_event: Option<OwnedFd>,
    completion_event_armed: bool,
    /// A datagram is being sent again, which shall not wait for the next `wait`.
    retrying: bool,
    /// Being dropped: nothing is armed again.
    closing: bool,
    busy_poll: BusyPoll,
    counters: DriverCounters,
}

#[derive(Debug, Default)]
struct Starved {
    links: Vec<u8>,
    datagrams: Vec<u32>,
}

impl Starved {
    fn any(&self) -> bool {
        !self.links.is_empty() || !self.datagrams.is_empty()
    }
}

impl Uring {
    /// Makes a ring for the calling thread, with `links` as links 0, 1, ….
    ///
    /// # Errors
    ///
    /// `Unsupported` if the kernel lacks something that cannot be done without ([`probe`] says
    /// what), else the error of the step that failed.
    pub fn new(config: &UringConfig, links: Vec<TapQueue>) -> io::Result<Uring> {
        let features = probe::features();
        if let Some(errno) = features.unusable {
            return Err(errno.into());
        }
        if !features.usable(!links.is_empty()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ring = enter::build(config, &features)?;
        let submitter = ring.submitter();
        submitter.register_files_sparse(LINKS_MAX)?;
        let stream = BufferGroup::new(
            &submitter,
            GROUP_STREAM,
            config.stream_buffers,
            config.stream_buffer_bytes.clamp(512, 1 << 20),
            HOT_STREAM_BYTES,
        )?;
        let link_stream = match config.link_buffers {
            0 => None,
            count => Some(BufferGroup::new(
                &submitter,
                GROUP_LINK,
                count,
                LINK_BUFFER_BYTES,
                HOT_LINK_BYTES,
            )?),
        };
        let datagram = BufferGroup::new(
            &submitter,
            GROUP_DATAGRAM,
            config.datagram_buffers,
            LARGE_BUFFER_BYTES,
            HOT_FRAME_BYTES,
        )?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // SAFETY: the ring's descriptor is open as long as `ring` lives, which is this function.
        let ring_fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        let waker = Waker::new(event, Some(rustix::io::fcntl_dupfd_cloexec(ring_fd, 0)?));
        let mut uring = Uring {
            ring,
            features,
            config: config.clone(),
            now: clock(),
            links: Links::default(),
            sockets: Sockets::default(),
            frames: Slots::new(),
            sends: Slots::new(),
            waits: Slots::new(),
            tap: None,
            stream,
            link_stream,
            datagram,
            backlog: VecDeque::new(),
            silent: 0,
            quiet: Vec::new(),
            starved: Starved::default(),
            ready: Vec::new(),
            reaped: Vec::with_capacity(config.cq_entries as usize),
            waker,
            packet_parts: Vec::new(),
            peers: Vec::new(),
            completion_event: None,
            completion_event_armed: false,
            retrying: false,
            closing: false,
            // Without deferred task work there is no mark to look for.
            busy_poll: BusyPoll::new(if features.defer_taskrun {
                config.busy_poll_ns
            } else {
                0
            }),
            counters: DriverCounters::default(),
        };
        uring.poll_event();
        for queue in links {
            uring.admit_link(queue)?;
        }
        Ok(uring)
    }

    /// What this ring uses of the kernel.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// A descriptor that becomes readable as soon as [`Driver::wait`] would find something: to await
    /// it in an executor while idle. Submits what is queued. Call it each time before awaiting; the
    /// next `wait` makes it unreadable again and stops signalling, which costs time while hot.
    ///
    /// # Errors
    ///
    /// What making or registering the descriptor says.
    pub fn completion_event(&mut self) -> io::Result<BorrowedFd<'_>> {
        let event = match self.completion_event.take() {
            Some(event) => event,
            None => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                self.ring.submitter().register_eventfd(event.as_raw_fd())?;
                event
            }
        };
        let event = self.completion_event.insert(event).as_raw_fd();
        self.completion_event_armed = true;
        self.ring.completion().enable_eventfd();
        self.relist();
        self.enter(0, None)?;
        // SAFETY: the descriptor is owned by `self.completion_event`, which this borrow of self keeps.
        let event = unsafe { BorrowedFd::borrow_raw(event) };
        if !self.ring.completion().is_empty() || !self.ready.is_empty() {
            rustix::io::write(event, &1u64.to_ne_bytes())?;
        }
        Ok(event)
    }

    fn disarm_completion_event(&mut self) {
        if !std::mem::take(&mut self.completion_event_armed) {
            return;
        }
        self.ring.completion().disable_eventfd();
        if let Some(event) = &self.completion_event {
            // It is empty if nothing happened.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
    }

    /// Watches our own event descriptor.
    fn poll_event(&mut self) {
        let Some(event) = self.waker.event() else {
            return;
        };
        let poll = opcode::PollAdd::new(types::Fd(event.as_raw_fd()), libc::POLLIN as u32);
        let entry = poll.multi(true).build().user_data(Family::Event.data(0));
        // SAFETY: a poll refers to no memory; the descriptor lives as long as the ring.
        unsafe { self.push(entry) };
    }

    /// One system call, and what it brought.
    fn round(
        &mut self,
        want: usize,
        deadline: Option<u64>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        self.enter(want, deadline)?;
        self.reap();
        self.resolve_quiet(completions);
        while std::mem::take(&mut self.retrying) {
            self.enter(0, None)?;
            self.reap();
        }
        Ok(())
    }

    /// Lists the buffers that came home and arms what waited for them.
    fn relist(&mut self) {
        if let Some(tap) = &mut self.tap {
            tap.replenish();
            if tap.listed() > 0 {
                while let Some(link) = self.starved.links.pop() {
                    self.arm_link(link);
                }
            }
        }
        self.stream.replenish();
        if let Some(link_stream) = &mut self.link_stream {
            link_stream.replenish();
        }
        self.datagram.replenish();
        if self.datagram.listed() > 0 {
            while let Some(index) = self.starved.datagrams.pop() {
                self.arm_receive_from(index);
            }
        }
    }
}

impl Driver for Uring {
    fn now(&self) -> u64 {
        self.now
    }

    fn wait(&mut self, deadline: Option<u64>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.disarm_completion_event();
        let before = completions.len();
        loop {
            self.relist();
            // The slices of a quiet send may be what starved readers wait for.
            let wanted = !self.quiet.is_empty() && self.starved.any();
            let immediate = wanted
                || !self.ready.is_empty()
                || deadline.is_some_and(|deadline| deadline <= self.now);
            let awake = !immediate && self.busy_poll.pays(self.now);
            if awake {
                self.round(0, None, completions)?;
            }
            if !awake || self.ready.is_empty() {
                let there = immediate || awake && self.look(deadline);
                let want = if there { 0 } else { self.silent + 1 };
                self.round(want, deadline, completions)?;
            }
            self.now = clock();
            let wanted = completions.len() > before && self.starved.any();
            let found = wanted || !self.ready.is_empty();
            self.busy_poll.saw(&self.ready);
            completions.append(&mut self.ready);
            if found || immediate || deadline.is_some_and(|deadline| deadline <= self.now) {
                return Ok(());
            }
        }
    }

    fn link_features(&self, link: LinkId) -> LinkFeatures {
        let link = self.links.get(link.0);
        link.map(|link| link.queue.features()).unwrap_or_default()
    }

    fn add_link(&mut self, queue: TapQueue) -> io::Result<LinkId> {
        self.admit_link(queue)
    }

    fn remove_link(&mut self, link: LinkId) {
        self.dismiss_link(link);
    }

    fn read_link(&mut self, link: LinkId) {
        match self.links.get_mut(link.0) {
            Some(state) if !state.reading => {
                state.reading = true;
                self.arm_link(link.0);
            }
            Some(_) => {}
            None => self.ready.push(Completion::LinkEnd {
                link,
                error: Errno::BADF,
            }),
        }
    }

    fn write_frame(&mut self, link: LinkId, header: &[u8], payload: &[Slice]) {
        self.submit_frame(link, header, payload);
    }

    fn open(&mut self, kind: SocketKind) -> io::Result<SocketId> {
        // It blocks: the ring takes care of waiting, and `O_NONBLOCK` would make it give up instead.
        let fd = options::make(
            kind,
            UdpTuning {
                receive_buffer_bytes: self.config.udp_receive_buffer_bytes,
                receive_offload: self.config.udp_receive_offload,
            },
        )?;
        self.sockets.add(Socket::new(fd, Some(kind)))
    }

    fn adopt(&mut self, fd: OwnedFd, purpose: Adopted) -> SocketId {
        options::set_blocking(&fd, true);
        if purpose != Adopted::Service {
            options::enlarge(&fd);
        }
        let mut socket = Socket::new(fd, None);
        socket.large = purpose == Adopted::StreamLink && self.link_stream.is_some();
        self.sockets.add(socket).unwrap_or(NO_SOCKET)
    }

    fn connect(&mut self, socket: SocketId, to: &Remote, token: Token) {
        if let Err(errno) = self.submit_connect(socket, to, token) {
            self.ready.push(Completion::Connected {
                token,
                result: Err(errno),
            });
        }
    }

    fn send(&mut self, socket: SocketId, payload: &[Slice], mode: SendMode, token: Token) {
        if let Err(errno) = self.submit_stream_send(socket, payload, mode, token) {
            self.ready.push(Completion::Sent {
                token,
                result: Err(errno),
            });
        }
    }

    fn receive(&mut self, socket: SocketId, max: u32, wait_first: bool, token: Token) {
        if let Err(errno) = self.submit_receive(socket, max, wait_first, token) {
            self.ready.push(Completion::ReceiveEnd {
                token,
                end: ReceiveEnd::Failed(errno),
            });
        }
    }

    fn send_to(
        &mut self,
        socket: SocketId,
        to: &SocketAddr,
        payload: &[Slice],
        gso_size: u16,
        token: Token,
    ) {
        if let Err(errno) = self.submit_datagram(socket, Some(to), payload, gso_size, token) {
            let payload = payload.first().cloned().unwrap_or_else(Slice::empty);
            self.ready.push(Completion::SendFailed {
                token,
                errno,
                to: Some(*to),
                payload,
            });
        }
    }

    fn send_packet(&mut self, socket: SocketId, payload: &[Slice], token: Token) {
        if let Err(errno) = self.submit_datagram(socket, None, payload, 0, token) {
            let payload = payload.first().cloned().unwrap_or_else(Slice::empty);
            self.ready.push(Completion::SendFailed {
                token,
                errno,
                to: None,
                payload,
            });
        }
    }

    fn send_packets(&mut self, socket: SocketId, packets: &[&[Slice]], token: Token) {
        let result = self.submit_packets(socket, packets, token);
        if let Some(result) = result.transpose() {
            self.ready.push(Completion::Sent { token, result });
        }
    }

    fn receive_from(&mut self, socket: SocketId, token: Token) {
        if let Err(errno) = self.submit_receive_from(socket, token) {
            self.ready.push(Completion::DatagramError { token, errno });
            self.ready.push(Completion::DatagramEnd { token });
        }
    }

    fn take_error(&mut self, socket: SocketId) -> Option<SocketError> {
        let socket = self.sockets.open_mut(socket)?;
        socket.errors.take(socket.fd.as_fd())
    }

    fn shutdown_write(&mut self, socket: SocketId) {
        let Some(socket) = self
            .sockets
            .index(socket)
            .and_then(|index| self.sockets.at(index))
        else {
            return;
        };
        if socket.send != NONE {
            socket.shutdown = true;
            return;
        }
        // Not through the ring, which would give it to a worker thread.
        let _ = rustix::net::shutdown(&socket.fd, rustix::net::Shutdown::Write);
    }

    fn close(&mut self, socket: SocketId, reset: bool) {
        let Some(index) = self.sockets.index(socket) else {
            return;
        };
        let Some(socket) = self.sockets.at(index) else {
            return;
        };
        socket.closing = Some(reset);
        let in_flight = [
            (Family::Send, socket.send),
            (Family::Wait, socket.connect),
            (Family::Wait, socket.receive),
            (Family::Wait, socket.receive_from),
        ];
        for (family, operation) in in_flight {
            if operation != NONE {
                self.cancel(family, operation);
            }
        }
        self.close_if_idle(index);
    }

    fn set_hop_limit(&mut self, socket: SocketId, hops: u8) -> io::Result<()> {
        let socket = self.sockets.open(socket).ok_or(Errno::BADF)?;
        options::set_hop_limit(&socket.fd, hops)
    }

    fn set_report_errors(&mut self, socket: SocketId) -> io::Result<()> {
        let socket = self.sockets.open(socket).ok_or(Errno::BADF)?;
        options::report_errors(&socket.fd)
    }

    fn set_keepalive(&mut self, socket: SocketId, keepalive: &Keepalive) -> io::Result<()> {
        let socket = self.sockets.open(socket).ok_or(Errno::BADF)?;
        options::set_keepalive(&socket.fd, keepalive)
    }

    fn unacknowledged_bytes(&self, socket: SocketId) -> io::Result<u32> {
        let socket = self.sockets.open(socket).ok_or(Errno::BADF)?;
        options::unacknowledged_bytes(&socket.fd)
    }

    fn local_address(&self, socket: SocketId) -> io::Result<SocketAddr> {
        let socket = self.sockets.open(socket).ok_or(Errno::BADF)?;
        options::local_address(&socket.fd)
    }

    fn levels(&self) -> BufferLevels {
        BufferLevels {
            tap_free: self.tap.as_ref().map_or(0, BufferGroup::free),
            tap_total: self.tap.as_ref().map_or(0, BufferGroup::count),
            stream_free: self.stream.free(),
            stream_total: self.stream.count(),
            stream_buffer_bytes: self.stream.buffer_bytes() as usize,
            link_free: self.link_stream.as_ref().map_or(0, BufferGroup::free),
            link_total: self.link_stream.as_ref().map_or(0, BufferGroup::count),
            datagram_free: self.datagram.free(),
            datagram_total: self.datagram.count(),
        }
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }

    fn write_stats(&self, link: LinkId) -> WriteStats {
        self.links
            .get(link.0)
            .map(|link| link.writes)
            .unwrap_or_default()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, peer: &Waker) {
        self.submit_wake(peer);
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.settle() {
            return;
        }
        // The kernel may still use some of it, so it stays for the life of the process.
        std::mem::forget(std::mem::replace(&mut self.frames, Slots::new()));
        std::mem::forget(std::mem::replace(&mut self.sends, Slots::new()));
        std::mem::forget(std::mem::replace(&mut self.waits, Slots::new()));
        self.stream.keep();
        self.datagram.keep();
        for group in [&mut self.tap, &mut self.link_stream].into_iter().flatten() {
            group.keep();
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("features", &self.features)
            .field("links", &self.links)
            .field("levels", &self.levels())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// Which of a socket's operations a wait operation is.
fn wait_field(socket: &mut sockets::Socket, form: WaitForm) -> &mut u32 {
    match form {
        WaitForm::Connect => &mut socket.connect,
        WaitForm::Receive => &mut socket.receive,
        WaitForm::ReceiveFrom => &mut socket.receive_from,
    }
}

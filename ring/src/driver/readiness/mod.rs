//! The driver over readiness: completions imitated where the kernel only tells who is ready.
//!
//! # Theory of operation
//!
//! **Sending** is tried at once, in the call: frames, datagrams and bytes of streams go, or there is no room.
//! So nothing is held for the kernel, except what a [`SendMode::WhenWritable`] found no room for: that is kept
//! with its socket until an event tells of room. Completions stay in `ready` until the next
//! [`Driver::wait`], and with them the mark that the socket has such an operation (`Busy`).
//!
//! **Receiving** is tried in `wait`. A socket is watched edge by edge, from its first receive on and until it
//! is closed, and the driver keeps in mind what is ready (`Ready`): an event sets the mark, a try that finds
//! nothing, or less than it asked for, clears it. So in bulk a receive is one system call, and a lone
//! request's is one more, to wait. What came with the end or an error is tried until it is told, because no
//! event will come again.
//!
//! **Fairness.** Sockets that are ready and wanted stand in a line, `runnable`. Each wait polls (without sleeping if
//! somebody is in the line), reads some frames of each link and then goes once through the line: one receive
//! each, at most `BATCH_BYTES` in all; who has more stands behind the others.
//!
//! **Buffers** are blank until a read has filled them, then lent as slices ([`FilledPool`]). A link or a
//! `receive_from` that finds none is starved until some are back, which is looked for at each wait.
//!
//! **Who is told of what.** An event names its descriptor by the socket's id, in which there is a generation:
//! what is told of a socket that is closed finds none. (Closing ends the watch, but a process that was
//! forked meanwhile holds all descriptors until it runs its program.)

mod config;
mod links;
mod message;
mod packets;
pub mod poller;
mod socket;
mod streams;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::Shutdown;

use self::links::{Links, Reading};
use self::message::{Inbox, Outbox};
use self::poller::{Event, Interest, Poller, WAKE};
use self::socket::{Operation, Socket};
use super::kernel::clock;
use super::kernel::options::{self, UdpTuning};
use super::kernel::table::{NO_SOCKET, SocketTable};
use super::{
    Adopted, BufferLevels, Completion, Driver, DriverCounters, Errno, Keepalive, LinkFeatures,
    LinkId, ReceiveEnd, Remote, SendMode, SocketError, SocketId, SocketKind, Token, Waker,
    WriteStats,
};
use crate::buffer::{Blank, FilledPool, Slice};
use crate::frames::tap::TapQueue;

pub use config::ReadinessConfig;

/// The size of a frame or datagram buffer: 64 KiB and room for headers.
const LARGE_BUFFER_BYTES: u32 = 65_536 + 256;

/// The size of a buffer for streams of links.
const LINK_BUFFER_BYTES: u32 = 256 << 10;

/// Buffers that one receive of a stream fills, at most.
const STREAM_PARTS_MAX: usize = 64;

/// When so many bytes have come in one wait, it ends. More would not be in the processor's cache any more
/// when the caller looks at them.
const BATCH_BYTES: usize = 1 << 20;

/// How soon a connect is tried again that found a full queue.
const CONNECT_AGAIN: Duration = Duration::from_millis(1);

/// The driver over readiness, with a [`Poller`] that tells of it. Not `Send`: make it on the thread that uses it.
pub struct Readiness<P> {
    poller: P,
    config: ReadinessConfig,
    /// `CLOCK_MONOTONIC` in ns.
    now: u64,
    links: Links,
    sockets: SocketTable<Socket>,
    tap: Option<FilledPool>,
    stream: FilledPool,
    link_stream: Option<FilledPool>,
    datagram: FilledPool,
    /// Sockets to be tried at the next wait.
    runnable: VecDeque<SocketId>,
    connecting_again: Vec<SocketId>,
    starved: Starved,
    /// What is told at the next wait, and what does not end it.
    ready: Vec<Completion>,
    quiet: Vec<Completion>,
    /// Operations whose completion is in these lists.
    unheard: Vec<(SocketId, Operation)>,
    waker: Waker,
    counters: DriverCounters,
    /// Used again and again.
    events: Vec<Event>,
    blanks: Vec<Blank>,
    inbox: Box<Inbox>,
    outbox: Outbox,
}

#[derive(Debug, Default)]
struct Starved {
    datagrams: Vec<SocketId>,
}

/// What an event is about.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Key {
    Socket(SocketId),
    Link(LinkId),
}

impl Key {
    const LINKS: u64 = 1 << 32;

    fn pack(self) -> u64 {
        match self {
            Key::Socket(id) => id.0.into(),
            Key::Link(id) => Key::LINKS | u64::from(id.0),
        }
    }

    fn unpack(key: u64) -> Key {
        match key & Key::LINKS {
            0 => Key::Socket(SocketId(key as u32)),
            _ => Key::Link(LinkId(key as u8)),
        }
    }
}

impl<P: Poller> Readiness<P> {
    /// Makes a driver for the calling thread, with `links` as links 0, 1, ….
    ///
    /// # Errors
    ///
    /// What making the poller or the buffers says.
    pub fn new(config: &ReadinessConfig, links: Vec<TapQueue>) -> io::Result<Readiness<P>> {
        let poller = P::new()?;
        let pool = |count: u16, bytes: u32, hot: u32| {
            let ready = u16::try_from(hot.div_ceil(bytes)).unwrap_or(u16::MAX);
            FilledPool::with_ready(count, bytes, ready)
        };
        let stream_bytes = config.stream_buffer_bytes.clamp(512, 1 << 20);
        let link_stream = match config.link_buffers {
            0 => None,
            count => Some(pool(count, LINK_BUFFER_BYTES, 1 << 20)?),
        };
        let mut driver = Readiness {
            waker: poller.waker(),
            poller,
            config: config.clone(),
            now: clock(),
            links: Links::default(),
            sockets: SocketTable::default(),
            tap: None,
            stream: pool(config.stream_buffers.max(1), stream_bytes, 1 << 20)?,
            link_stream,
            datagram: pool(
                config.datagram_buffers.max(1),
                LARGE_BUFFER_BYTES,
                256 << 10,
            )?,
            runnable: VecDeque::new(),
            connecting_again: Vec::new(),
            starved: Starved::default(),
            ready: Vec::new(),
            quiet: Vec::new(),
            unheard: Vec::new(),
            counters: DriverCounters::default(),
            events: Vec::new(),
            blanks: Vec::with_capacity(STREAM_PARTS_MAX),
            inbox: Inbox::new(),
            outbox: Outbox::new(),
        };
        for queue in links {
            driver.admit_link(queue)?;
        }
        Ok(driver)
    }

    /// Has the poller watch a socket, for no less than it is watched now.
    fn watch(&mut self, id: SocketId, interest: Interest) -> Result<(), Errno> {
        let socket = self.sockets.open_mut(id).ok_or(Errno::BADF)?;
        if socket
            .watched
            .is_some_and(|watched| watched == interest || watched == Interest::ReadWrite)
        {
            return Ok(());
        }
        self.counters.enters += 1;
        let key = Key::Socket(id).pack();
        self.poller
            .watch(socket.fd.as_fd(), key, socket.watched, interest)?;
        socket.watched = Some(interest);
        Ok(())
    }

    /// Has a socket tried at the next wait, if that may help.
    fn queue(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.open_mut(id)
            && !socket.queued
            && socket.can_be_tried()
        {
            socket.queued = true;
            self.runnable.push_back(id);
        }
    }

    /// An operation is over, which the caller hears of at the next wait.
    fn complete(&mut self, id: SocketId, operation: Operation, completion: Completion) {
        self.unheard.push((id, operation));
        self.ready.push(completion);
    }

    /// Buffers that came home go to who waits for them.
    fn feed_starved(&mut self) {
        if let Some(tap) = &mut self.tap {
            tap.collect();
            if tap.free() > 0 {
                self.links.turn(Reading::Starved, Reading::Ready);
            }
        }
        self.stream.collect();
        self.datagram.collect();
        if let Some(pool) = &mut self.link_stream {
            pool.collect();
        }
        if self.datagram.free() > 0 {
            while let Some(id) = self.starved.datagrams.pop() {
                if let Some(socket) = self.sockets.open_mut(id)
                    && let Some(receive_from) = &mut socket.receive_from
                {
                    receive_from.starved = false;
                }
                self.queue(id);
            }
        }
    }

    fn anybody_starves(&self) -> bool {
        !self.starved.datagrams.is_empty() || self.links.any(Reading::Starved)
    }

    /// Asks the poller who is ready.
    fn poll(&mut self, deadline: Option<u64>) -> io::Result<()> {
        let mut timeout =
            deadline.map(|deadline| Duration::from_nanos(deadline.saturating_sub(clock())));
        if !self.connecting_again.is_empty() {
            timeout = Some(timeout.map_or(CONNECT_AGAIN, |timeout| timeout.min(CONNECT_AGAIN)));
        }
        self.counters.enters += 1;
        let mut events = std::mem::take(&mut self.events);
        let outcome = self.poller.wait(timeout, &mut events);
        self.counters.completions += events.len() as u64;
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        outcome
    }

    fn on_event(&mut self, event: Event) {
        if event.key == WAKE {
            self.waker.clear();
            self.ready.push(Completion::Woken);
            return;
        }
        match Key::unpack(event.key) {
            Key::Link(id) => {
                if let Some(link) = self.links.get_mut(id)
                    && link.state == Reading::Waits
                {
                    link.state = Reading::Ready;
                }
            }
            Key::Socket(id) => self.on_socket_event(id, event),
        }
    }

    fn on_socket_event(&mut self, id: SocketId, event: Event) {
        let Some(socket) = self.sockets.open_mut(id) else {
            return;
        };
        socket.ready.read |= event.readable;
        socket.ready.ended |= event.ended;
        socket.ready.write |= event.writable;
        if event.writable && !event.readable && !socket.wants_room() && !socket.is_tcp() {
            // Nobody waits for room any more.
            let (before, now) = (socket.watched, Interest::Read);
            self.counters.enters += 1;
            if self
                .poller
                .watch(socket.fd.as_fd(), event.key, before, now)
                .is_ok()
            {
                socket.watched = Some(now);
            }
        }
        self.queue(id);
    }

    /// Tries once what stands in the line.
    fn run(&mut self) {
        let mut bytes = 0;
        for _ in 0..self.runnable.len() {
            let Some(id) = self.runnable.pop_front() else {
                break;
            };
            bytes += self.run_socket(id);
            if bytes >= BATCH_BYTES {
                break;
            }
        }
    }

    fn run_socket(&mut self, id: SocketId) -> usize {
        let Some(socket) = self.sockets.open_mut(id) else {
            return 0;
        };
        socket.queued = false;
        if socket.ready.write && socket.connect.is_some() {
            self.finish_connect(id);
        } else if socket.ready.write && socket.wants_room() {
            self.try_send(id);
        }
        let Some(socket) = self.sockets.open(id).filter(|socket| socket.ready.read) else {
            return 0;
        };
        let (stream, datagrams) = (socket.receive.is_some(), socket.receive_from.is_some());
        let mut bytes = 0;
        if stream {
            bytes += self.try_receive(id);
        }
        if datagrams {
            bytes += self.try_receive_from(id);
        }
        self.queue(id);
        bytes
    }

    /// Hands over what is ready.
    fn deliver(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.quiet);
        completions.append(&mut self.ready);
        for (id, operation) in self.unheard.drain(..) {
            if let Some(socket) = self.sockets.open_mut(id) {
                socket.busy.end(operation);
            }
        }
    }

    /// Ends what is outstanding on a socket.
    fn cancel_all(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.open_mut(id) else {
            return;
        };
        if let Some(connect) = socket.connect.take() {
            self.ready.push(Completion::Connected {
                token: connect.token,
                result: Err(Errno::CANCELED),
            });
        }
        if socket.send.waits {
            socket.send.release();
            self.ready.push(Completion::Sent {
                token: socket.send.token,
                result: Err(Errno::CANCELED),
            });
        }
        if let Some(token) = socket.room.take() {
            let result = Err(Errno::CANCELED);
            self.ready.push(Completion::Sent { token, result });
        }
        if let Some(receive) = socket.receive.take() {
            self.ready.push(Completion::ReceiveEnd {
                token: receive.token,
                end: ReceiveEnd::Canceled,
            });
        }
        self.end_receive_from(id);
    }
}

impl<P: Poller> Driver for Readiness<P> {
    fn now(&self) -> u64 {
        self.now
    }

    fn wait(&mut self, deadline: Option<u64>, completions: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            self.feed_starved();
            // The slices of a quiet send may be what starved readers wait for.
            let wanted = !self.quiet.is_empty() && self.anybody_starves();
            let immediate = wanted
                || !self.ready.is_empty()
                || !self.runnable.is_empty()
                || self.links.any(Reading::Ready);
            self.poll(if immediate { Some(0) } else { deadline })?;
            if !self.connecting_again.is_empty() {
                self.connect_again();
            }
            self.read_links();
            self.run();
            self.now = clock();
            let wanted = !self.quiet.is_empty() && self.anybody_starves();
            let found = wanted || !self.ready.is_empty();
            if found || deadline.is_some_and(|deadline| deadline <= self.now) {
                self.deliver(completions);
                return Ok(());
            }
        }
    }

    fn add_link(&mut self, queue: TapQueue) -> io::Result<LinkId> {
        self.admit_link(queue)
    }

    fn remove_link(&mut self, link: LinkId) {
        self.dismiss_link(link);
    }

    fn link_features(&self, link: LinkId) -> LinkFeatures {
        let link = self.links.get(link);
        link.map(|link| link.queue.features()).unwrap_or_default()
    }

    fn read_link(&mut self, link: LinkId) {
        if let Err(error) = self.begin_read_link(link) {
            self.ready.push(Completion::LinkEnd { link, error });
        }
    }

    fn write_frame(&mut self, link: LinkId, header: &[u8], payload: &[Slice]) {
        self.write_to_link(link, header, payload);
    }

    fn open(&mut self, kind: SocketKind) -> io::Result<SocketId> {
        let udp = UdpTuning {
            receive_buffer_bytes: self.config.udp_receive_buffer_bytes,
            receive_offload: self.config.udp_receive_offload,
        };
        let fd = options::make(kind, udp)?;
        options::set_blocking(&fd, false);
        self.sockets.add(Socket::new(fd, Some(kind)))
    }

    fn adopt(&mut self, fd: OwnedFd, purpose: Adopted) -> SocketId {
        if purpose != Adopted::Service {
            options::enlarge(&fd);
        }
        options::set_blocking(&fd, false);
        let mut socket = Socket::new(fd, None);
        socket.large = purpose == Adopted::StreamLink;
        self.sockets.add(socket).unwrap_or(NO_SOCKET)
    }

    fn connect(&mut self, socket: SocketId, to: &Remote, token: Token) {
        self.counters.submissions += 1;
        if let Err(errno) = self.begin_connect(socket, to, token) {
            let result = Err(errno);
            self.ready.push(Completion::Connected { token, result });
        }
    }

    fn send(&mut self, socket: SocketId, payload: &[Slice], mode: SendMode, token: Token) {
        self.counters.submissions += 1;
        if let Err(errno) = self.begin_send(socket, payload, mode, token) {
            let result = Err(errno);
            self.ready.push(Completion::Sent { token, result });
        }
    }

    fn receive(&mut self, socket: SocketId, max: u32, _wait_first: bool, token: Token) {
        self.counters.submissions += 1;
        if let Err(errno) = self.begin_receive(socket, max, token) {
            let end = ReceiveEnd::Failed(errno);
            self.ready.push(Completion::ReceiveEnd { token, end });
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
        self.counters.submissions += 1;
        if let Err(errno) = self.send_datagram(socket, Some(to), payload, gso_size) {
            self.ready.push(Completion::SendFailed {
                token,
                errno,
                to: Some(*to),
                payload: payload.first().cloned().unwrap_or_default(),
            });
        }
    }

    fn send_packet(&mut self, socket: SocketId, payload: &[Slice], token: Token) {
        self.counters.submissions += 1;
        if let Err(errno) = self.send_datagram(socket, None, payload, 0) {
            self.ready.push(Completion::SendFailed {
                token,
                errno,
                to: None,
                payload: payload.first().cloned().unwrap_or_default(),
            });
        }
    }

    fn send_packets(&mut self, socket: SocketId, packets: &[&[Slice]], token: Token) {
        self.counters.submissions += 1;
        if let Err(errno) = self.begin_send_packets(socket, packets, token) {
            let result = Err(errno);
            self.ready.push(Completion::Sent { token, result });
        }
    }

    fn receive_from(&mut self, socket: SocketId, token: Token) {
        self.counters.submissions += 1;
        if let Err(errno) = self.begin_receive_from(socket, token) {
            self.ready.push(Completion::DatagramError { token, errno });
            self.ready.push(Completion::DatagramEnd { token });
        }
    }

    fn take_error(&mut self, socket: SocketId) -> Option<SocketError> {
        let socket = self.sockets.open_mut(socket)?;
        socket.errors.take(socket.fd.as_fd())
    }

    fn shutdown_write(&mut self, socket: SocketId) {
        let Some(socket) = self.sockets.open_mut(socket) else {
            return;
        };
        if socket.send.waits {
            socket.shutdown = true;
            return;
        }
        // The peer may be gone: then there is nothing to tell it.
        let _ = rustix::net::shutdown(&socket.fd, Shutdown::Write);
    }

    fn close(&mut self, id: SocketId, reset: bool) {
        let Some(index) = self.sockets.index(id) else {
            return;
        };
        self.cancel_all(id);
        let Some(socket) = self.sockets.remove(index) else {
            return;
        };
        if reset {
            options::set_reset(&socket.fd);
        }
        if let Some(watched) = socket.watched {
            // Of one that was made elsewhere there may be duplicates.
            let duplicated = socket.kind.is_none();
            self.poller.forget(socket.fd.as_fd(), watched, duplicated);
        }
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
            tap_free: self.tap.as_ref().map_or(0, FilledPool::free),
            tap_total: self.tap.as_ref().map_or(0, FilledPool::count),
            stream_free: self.stream.free(),
            stream_total: self.stream.count(),
            stream_buffer_bytes: self.stream.buffer_bytes() as usize,
            link_free: self.link_stream.as_ref().map_or(0, FilledPool::free),
            link_total: self.link_stream.as_ref().map_or(0, FilledPool::count),
            datagram_free: self.datagram.free(),
            datagram_total: self.datagram.count(),
        }
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }

    fn write_stats(&self, link: LinkId) -> WriteStats {
        let link = self.links.get(link);
        link.map(|link| link.writes).unwrap_or_default()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, peer: &Waker) {
        peer.wake();
    }
}

impl<P: Poller> fmt::Debug for Readiness<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("poller", &P::NAME)
            .field("links", &self.links)
            .field("levels", &self.levels())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

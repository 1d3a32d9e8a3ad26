//! A simulated kernel as a [`Driver`]: everything that happens is decided by a seed.
//!
//! # Theory of operation
//!
//! [`SimDriver`] keeps the contract of [`Driver`] with no kernel below: time is virtual, sockets end
//! in [`SimStream`]s and datagram boxes that the caller plays the other end of, and the link is a box
//! of frames. An operation is carried out by the simulated kernel when it can be (at once, or when its
//! socket becomes ready), and *heard of* by the core when its completion is due, which with
//! [`HostFaults::late`] is later, and in any order that the contract allows. So an operation can be
//! through and unheard when its socket is closed, as with io_uring.
//!
//! `wait` runs the clock on to the next thing that happens, at most to the deadline. Where several
//! drivers share a world, who runs the world lets them wait in turn: it asks each for
//! [`next_at`](SimDriver::next_at), puts the clock of the first on with
//! [`set_now`](SimDriver::set_now), and then lets that core wait.
//!
//! Everything is on one thread, and nothing depends on addresses of memory or on the order of hashed
//! collections: a seed and the same calls give the same completions.
//!
//! | file | holds |
//! |---|---|
//! | `socket.rs` | one socket: what is outstanding, what came |
//! | `stream.rs` | a connection between a core's socket and its peer |
//! | `host.rs` | who answers a connect; datagrams that left |
//! | `link.rs` | a link that loses, doubles, reorders, delays, damages and cuts |
//! | `random.rs` | numbers from a seed |

mod host;
mod link;
mod random;
mod socket;
mod stream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

pub use host::{Answer, SimDatagram, SimHost};
pub use link::{LinkCounts, LinkFaults, SimLink};
pub use random::Random;
pub use stream::{Got, SimStream};

use super::{
    BufferLevels, Completion, Driver, DriverCounters, Errno, FRAME_HEADER_MAX, FRAME_SLICES_MAX,
    Keepalive, LinkFeatures, LinkId, ReceiveEnd, Remote, SEND_SLICES_MAX, SendMode, SocketError,
    SocketId, SocketKind, Token, Waker, WriteStats,
};
use crate::buffer::{FilledPool, Slice};
use socket::{Arrival, Connect, Receive, Send, Socket, reaches};
use stream::Stream;

/// The only link of a driver.
const LINK: LinkId = LinkId(0);
/// The largest datagram payload (UDP over IPv4).
const DATAGRAM_MAX: usize = 65_507;
/// Error-queue entries that a socket keeps.
const ERRORS_MAX: usize = 64;

/// How to make a [`SimDriver`].
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// What the link can do; `None`: there is no link.
    pub link: Option<LinkFeatures>,
    /// Buffers for frames.
    pub tap_buffers: u16,
    /// Buffers for streams.
    pub stream_buffers: u16,
    /// The size of a stream buffer in bytes.
    pub stream_buffer_bytes: u32,
    /// Buffers for datagrams.
    pub datagram_buffers: u16,
    /// Sockets that can be open at a time.
    pub sockets_max: usize,
    /// What goes wrong.
    pub faults: HostFaults,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig {
            link: None,
            tap_buffers: 64,
            stream_buffers: 256,
            stream_buffer_bytes: 16 << 10,
            datagram_buffers: 64,
            sockets_max: usize::MAX,
            faults: HostFaults::default(),
        }
    }
}

/// What goes wrong in a simulated kernel. Chances are parts of 10,000.
#[derive(Clone, Debug, Default)]
pub struct HostFaults {
    /// Completions that come up to `late_ns` late.
    pub late: u32,
    /// By how much at most.
    pub late_ns: u64,
    /// Sends that take only a part.
    pub short_send: u32,
    /// Receives that leave something, or that cut it into more buffers than needed.
    pub short_receive: u32,
    /// Receives that find no buffer though there are some.
    pub starved: u32,
    /// Sockets that can't be made (`EMFILE`).
    pub no_socket: u32,
    /// Frames that the link does not take (`ENOBUFS`).
    pub frame_refused: u32,
    /// Frames behind which reading the link stops for up to `link_stall_ns`.
    pub link_stall: u32,
    /// For how long at most.
    pub link_stall_ns: u64,
    /// Datagrams that the host does not take (`ENOBUFS`).
    pub datagram_refused: u32,
}

/// Completions that belong together, and whose they are.
#[derive(Debug)]
struct Due {
    of: Option<(u32, Operation)>,
    completions: Vec<Completion>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operation {
    Connect,
    Send,
    Receive,
}

/// See the module.
#[derive(Debug)]
pub struct SimDriver {
    now: u64,
    random: Random,
    config: SimConfig,
    host: SimHost,
    sockets: BTreeMap<u32, Socket>,
    /// Sockets to which something may happen by itself.
    waiting: BTreeSet<u32>,
    next_socket: u32,
    due: BTreeMap<(u64, u64), Due>,
    /// Of quiet sends, which end no wait.
    quiet: Vec<Due>,
    order: u64,
    /// What the kernel holds until the next wait.
    held: Vec<Slice>,
    frames: FilledPool,
    streams: FilledPool,
    datagrams: FilledPool,
    reading: bool,
    stalled_until: u64,
    inbox: VecDeque<(u64, Vec<u8>)>,
    outbox: VecDeque<Vec<u8>>,
    writes: WriteStats,
    waker: Waker,
    counters: DriverCounters,
}

impl SimDriver {
    /// A driver at time `now` in ns.
    ///
    /// # Errors
    ///
    /// What `mmap(2)` says to the memory for buffers, `eventfd(2)` to the waker.
    pub fn new(config: SimConfig, host: SimHost, random: Random, now: u64) -> io::Result<Self> {
        // Wakes are seen by their mark; the descriptor is what the trait's type wants.
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(SimDriver {
            now,
            random,
            host,
            sockets: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next_socket: 0,
            due: BTreeMap::new(),
            quiet: Vec::new(),
            order: 0,
            held: Vec::new(),
            frames: FilledPool::new(config.tap_buffers, 65_792)?,
            streams: FilledPool::new(config.stream_buffers, config.stream_buffer_bytes)?,
            datagrams: FilledPool::new(config.datagram_buffers, 65_792)?,
            reading: false,
            stalled_until: 0,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            writes: WriteStats::default(),
            waker: Waker::new(event, None),
            counters: DriverCounters::default(),
            config,
        })
    }

    // For who plays the world

    /// Puts the clock on; it never goes back.
    pub fn set_now(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// When a wait would end by itself; `None`: never.
    pub fn next_at(&mut self) -> Option<u64> {
        self.progress();
        let due = self.due.first_key_value().map(|(&(at, _), _)| at);
        let woken = self.waker.is_pending() || self.quiet_is_wanted();
        let woken = woken.then_some(self.now);
        [due, woken, self.frame_at(), self.socket_at()]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(self.now))
    }

    /// A frame arrives on the link, behind all others.
    pub fn deliver_frame(&mut self, frame: Vec<u8>) {
        self.inbox.push_back((self.now, frame));
    }

    /// The next frame that was written to the link.
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    /// A datagram comes to the socket with this address after `after_ns`; with `gso_size`, several.
    /// Returns false if there is no such socket.
    pub fn deliver_datagram(
        &mut self,
        to: SocketAddr,
        from: SocketAddr,
        payload: Vec<u8>,
        gso_size: u16,
        after_ns: u64,
    ) -> bool {
        let arrival = Arrival::Datagram {
            from,
            payload,
            gso_size,
        };
        self.arrive(to, arrival, after_ns)
    }

    /// An ICMP error comes to the socket with this address after `after_ns`. Returns false if there
    /// is no such socket.
    pub fn deliver_error(&mut self, to: SocketAddr, error: SocketError, after_ns: u64) -> bool {
        self.arrive(to, Arrival::Error(error), after_ns)
    }

    /// A socket that somebody made, behind which nobody is.
    pub fn adopt_mute(&mut self) -> SocketId {
        self.add(SocketKind::UnixStream)
    }

    /// How many sockets are open.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Takes back the buffers that were let go on other cores.
    pub fn collect_buffers(&mut self) {
        for pool in [&mut self.frames, &mut self.streams, &mut self.datagrams] {
            pool.collect();
        }
    }

    /// Whether no operation is outstanding or unheard of, other than `receive_from`.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.due.is_empty() && self.quiet.is_empty()
    }

    fn arrive(&mut self, to: SocketAddr, arrival: Arrival, after_ns: u64) -> bool {
        self.order += 1;
        let key = (self.now + after_ns, self.order);
        let found = self
            .sockets
            .iter_mut()
            .find(|(_, socket)| socket.local == to);
        let Some((&raw, socket)) = found else {
            return false;
        };
        socket.inbox.insert(key, arrival);
        self.waiting.insert(raw);
        true
    }

    // Time and order

    fn frame_at(&self) -> Option<u64> {
        let &(at, _) = self.inbox.front()?;
        let readable = self.reading && self.frames.free() > 0;
        readable.then(|| at.max(self.stalled_until))
    }

    fn socket_at(&self) -> Option<u64> {
        let times = self.waiting.iter().filter_map(|raw| {
            let socket = self.sockets.get(raw)?;
            let connect = socket.connect.as_ref().and_then(|connect| connect.at);
            let armed = socket.receive_from.is_some() && self.datagrams.free() > 0;
            let arrival = socket.inbox.first_key_value().map(|(&(at, _), _)| at);
            [connect, arrival.filter(|_| armed)]
                .into_iter()
                .flatten()
                .min()
        });
        times.min()
    }

    /// Whether what quiet sends hold is what a reader waits for.
    fn quiet_is_wanted(&self) -> bool {
        let arrived = self.inbox.front().is_some_and(|&(at, _)| at <= self.now);
        let no_frames = self.reading && arrived && self.frames.free() == 0;
        let no_datagrams = self.datagrams.free() == 0;
        !self.quiet.is_empty() && (no_frames || no_datagrams)
    }

    /// Where a completion goes that the kernel has just made.
    fn place(&mut self) -> (u64, u64) {
        let faults = &self.config.faults;
        let late = if self.random.chance(faults.late) {
            self.random.below(faults.late_ns + 1)
        } else {
            0
        };
        self.order += 1;
        // Those of one moment come in any order.
        let shuffled = (self.random.below(1 << 24) << 40) | self.order;
        (self.now + late, shuffled)
    }

    /// Completes what belongs to no socket that is there.
    fn complete(&mut self, completions: Vec<Completion>) {
        self.complete_behind((0, 0), None, completions);
    }

    /// Completes for a socket, whose completions never overtake each other.
    fn complete_in_order(
        &mut self,
        raw: u32,
        operation: Option<Operation>,
        completions: Vec<Completion>,
    ) {
        let last = self.sockets.get(&raw).map_or((0, 0), |socket| socket.last);
        let of = operation.map(|operation| (raw, operation));
        let place = self.complete_behind(last, of, completions);
        if let Some(socket) = self.sockets.get_mut(&raw) {
            socket.last = place;
        }
    }

    /// Completes somewhere behind `last`; answers where.
    fn complete_behind(
        &mut self,
        last: (u64, u64),
        of: Option<(u32, Operation)>,
        completions: Vec<Completion>,
    ) -> (u64, u64) {
        let mut place = self.place().max((last.0, last.1 + 1));
        while self.due.contains_key(&place) {
            place.1 += 1;
        }
        self.due.insert(place, Due { of, completions });
        place
    }

    /// Completes an operation of a socket.
    fn complete_of(&mut self, raw: u32, operation: Operation, completions: Vec<Completion>) {
        if let Some(socket) = self.sockets.get_mut(&raw) {
            *socket.unheard.of(operation) = true;
        }
        self.complete_in_order(raw, Some(operation), completions);
    }

    fn tell(&mut self, due: Due, completions: &mut Vec<Completion>) {
        if let Some((raw, operation)) = due.of
            && let Some(socket) = self.sockets.get_mut(&raw)
        {
            *socket.unheard.of(operation) = false;
        }
        self.counters.completions += due.completions.len() as u64;
        completions.extend(due.completions);
    }

    // What the kernel does by itself

    /// Carries out what can be by now.
    fn progress(&mut self) {
        let waiting: Vec<u32> = self.waiting.iter().copied().collect();
        for raw in waiting {
            self.progress_connect(raw);
            self.progress_send(raw);
            self.progress_receive(raw);
            self.progress_datagrams(raw);
            if !self.sockets.get(&raw).is_some_and(Socket::is_waiting) {
                self.waiting.remove(&raw);
            }
        }
    }

    fn progress_connect(&mut self, raw: u32) {
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(connect) = socket
            .connect
            .take_if(|connect| connect.at.is_some_and(|at| at <= now))
        else {
            return;
        };
        let result = match connect.answer {
            Answer::Accept {
                up_buffer,
                down_buffer,
                ..
            } => {
                let stream = Stream::new(up_buffer, down_buffer);
                socket.stream = Some(Rc::clone(&stream));
                self.host.connected(connect.to, SimStream(stream));
                Ok(())
            }
            Answer::Refuse { errno, .. } => Err(errno),
            Answer::Never => return,
        };
        let token = connect.token;
        let done = vec![Completion::Connected { token, result }];
        self.complete_of(raw, Operation::Connect, done);
    }

    fn progress_send(&mut self, raw: u32) {
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(stream) = socket.stream.clone() else {
            return;
        };
        let Some(send) = socket.send.take_if(|_| stream.core_writable() > 0) else {
            return;
        };
        let result = self.write_stream(&stream, &send.payload);
        self.held.extend(send.payload);
        let token = send.token;
        let done = vec![Completion::Sent { token, result }];
        self.complete_of(raw, Operation::Send, done);
        if let Some(socket) = self.sockets.get_mut(&raw) {
            socket.shut_down_if_wanted();
        }
    }

    fn write_stream(&mut self, stream: &Stream, payload: &[Slice]) -> Result<u32, Errno> {
        let mut left: usize = payload.iter().map(Slice::len).sum();
        if left > 1 && self.random.chance(self.config.faults.short_send) {
            left = self.random.between(1, left as u64 - 1) as usize;
        }
        let mut sent = 0;
        for slice in payload {
            let n = slice.len().min(left - sent);
            if n == 0 {
                break;
            }
            match stream.core_write(&slice[..n]) {
                Ok(taken) => {
                    sent += taken;
                    if taken < n {
                        break;
                    }
                }
                // A part that went is told; the error stays for the next.
                Err(_) if sent > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        if sent == 0 {
            stream.core_write(&[])?;
        }
        Ok(sent as u32)
    }

    fn progress_receive(&mut self, raw: u32) {
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(stream) = socket.stream.clone() else {
            return;
        };
        let Some(receive) = socket.receive.take_if(|_| stream.core_readable()) else {
            return;
        };
        let (token, mut done) = (receive.token, Vec::new());
        let end = self.read_stream(&stream, receive, &mut done);
        self.counters.stream_starved += u64::from(end == ReceiveEnd::Starved);
        done.push(Completion::ReceiveEnd { token, end });
        self.complete_of(raw, Operation::Receive, done);
    }

    fn read_stream(
        &mut self,
        stream: &Stream,
        receive: Receive,
        done: &mut Vec<Completion>,
    ) -> ReceiveEnd {
        let Receive { token, max } = receive;
        let faults = &self.config.faults;
        if stream.core_available() > 0 && self.random.chance(faults.starved) {
            return ReceiveEnd::Starved;
        }
        let short = self.random.chance(faults.short_receive);
        let mut left = max as usize;
        if short {
            left = self.random.between(1, u64::from(max)) as usize;
        }
        while left > 0 {
            let mut want = left.min(self.config.stream_buffer_bytes as usize);
            want = want.min(stream.core_available());
            if want == 0 {
                break;
            }
            if short && self.random.chance(5_000) {
                want = self.random.between(1, want as u64) as usize;
            }
            let read = self.streams.lend(want, |bytes| {
                let got = stream.core_read(bytes);
                debug_assert_eq!(got, Ok(Got::Bytes(want)));
            });
            let Some(data) = read else {
                if done.is_empty() {
                    return ReceiveEnd::Starved;
                }
                break;
            };
            left -= want;
            done.push(Completion::Received { token, data });
        }
        if !done.is_empty() {
            return ReceiveEnd::Partial;
        }
        match stream.core_read(&mut []) {
            Err(errno) => ReceiveEnd::Failed(errno),
            Ok(_) => ReceiveEnd::Eof,
        }
    }

    fn progress_datagrams(&mut self, raw: u32) {
        loop {
            let now = self.now;
            let Some(socket) = self.sockets.get_mut(&raw) else {
                return;
            };
            let Some(token) = socket.receive_from else {
                return;
            };
            let Some(first) = socket
                .inbox
                .first_entry()
                .filter(|first| first.key().0 <= now)
            else {
                return;
            };
            let completion = match first.get() {
                Arrival::Error(error) => {
                    let errno = error.errno;
                    if socket.errors.len() < ERRORS_MAX {
                        socket.errors.push_back(error.clone());
                    } else {
                        self.counters.errors_dropped += 1;
                    }
                    Completion::DatagramError { token, errno }
                }
                Arrival::Datagram {
                    from,
                    payload,
                    gso_size,
                } => {
                    let filled = self
                        .datagrams
                        .lend(payload.len(), |bytes| bytes.copy_from_slice(payload));
                    let Some(filled) = filled else {
                        self.counters.datagram_starved += 1;
                        return;
                    };
                    let ping = matches!(socket.kind, SocketKind::PingV4 | SocketKind::PingV6);
                    Completion::Datagram {
                        token,
                        from: Some(*from),
                        payload: filled,
                        gso_size: *gso_size,
                        hop_limit: ping.then_some(64),
                    }
                }
            };
            first.remove();
            self.complete_in_order(raw, None, vec![completion]);
        }
    }

    // The end of a wait

    /// Hands out what is due by now.
    fn collect(&mut self, completions: &mut Vec<Completion>) {
        self.progress();
        let (now, before) = (self.now, completions.len());
        while let Some(first) = self.due.first_entry()
            && first.key().0 <= now
        {
            let due = first.remove();
            self.tell(due, completions);
            // Frames come between the rest, in their own order.
            if self.random.chance(3_000) {
                self.read_frames(1, completions);
            }
        }
        self.read_frames(usize::MAX, completions);
        if self.waker.is_pending() {
            self.waker.clear();
            completions.push(Completion::Woken);
        }
        if completions.len() > before || self.quiet_is_wanted() {
            for due in std::mem::take(&mut self.quiet) {
                self.tell(due, completions);
            }
        }
    }

    fn read_frames(&mut self, at_most: usize, completions: &mut Vec<Completion>) {
        let link = LINK;
        for _ in 0..at_most {
            let arrived = self.inbox.front().is_some_and(|&(at, _)| at <= self.now);
            if !self.reading || !arrived || self.stalled_until > self.now {
                return;
            }
            let Some((_, bytes)) = self.inbox.front() else {
                return;
            };
            let lent = self
                .frames
                .lend(bytes.len(), |buffer| buffer.copy_from_slice(bytes));
            let Some(frame) = lent else {
                self.counters.tap_starved += 1;
                return;
            };
            self.inbox.pop_front();
            completions.push(Completion::Frame { link, frame });
            if self.random.chance(self.config.faults.link_stall) {
                let stall = self.random.below(self.config.faults.link_stall_ns + 1);
                self.stalled_until = self.now + stall;
            }
        }
    }

    // Sockets

    fn add(&mut self, kind: SocketKind) -> SocketId {
        let raw = self.next_socket;
        self.next_socket += 1;
        let port = self.host.new_port();
        self.sockets.insert(raw, Socket::new(kind, port));
        SocketId::from_raw(raw)
    }

    /// Splits a send into datagrams, all of which leave.
    fn send_datagrams(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[Slice],
        gso_size: u16,
    ) {
        let whole: Vec<u8> = payload.iter().flat_map(|s| s.bytes()).copied().collect();
        let size = match usize::from(gso_size) {
            0 => whole.len().max(1),
            size => size,
        };
        if whole.is_empty() {
            let payload = Vec::new();
            return self.host.sent(SimDatagram { from, to, payload });
        }
        for piece in whole.chunks(size) {
            let payload = piece.to_vec();
            self.host.sent(SimDatagram { from, to, payload });
        }
    }
}

impl socket::Unheard {
    fn of(&mut self, operation: Operation) -> &mut bool {
        match operation {
            Operation::Connect => &mut self.connect,
            Operation::Send => &mut self.send,
            Operation::Receive => &mut self.receive,
        }
    }
}

impl Driver for SimDriver {
    fn now(&self) -> u64 {
        self.now
    }

    fn wait(&mut self, deadline: Option<u64>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.counters.enters += 1;
        self.held.clear();
        self.collect_buffers();
        let before = completions.len();
        loop {
            self.collect(completions);
            if completions.len() > before {
                return Ok(());
            }
            let next = [self.next_at(), deadline].into_iter().flatten().min();
            let Some(next) = next else {
                return Err(io::Error::other("a wait that nothing will ever end"));
            };
            let over = deadline.is_some_and(|deadline| deadline <= next);
            self.set_now(next);
            if over {
                self.collect(completions);
                return Ok(());
            }
        }
    }

    fn link_features(&self, link: LinkId) -> LinkFeatures {
        self.config
            .link
            .filter(|_| link == LINK)
            .unwrap_or_default()
    }

    fn read_link(&mut self, link: LinkId) {
        if link == LINK && self.config.link.is_some() {
            self.reading = true;
        } else {
            let error = Errno::BADF;
            self.complete(vec![Completion::LinkEnd { link, error }]);
        }
    }

    fn write_frame(&mut self, link: LinkId, header: &[u8], payload: &[Slice]) {
        let fits = header.len() <= FRAME_HEADER_MAX && payload.len() <= FRAME_SLICES_MAX;
        if !fits || link != LINK || self.config.link.is_none() {
            self.writes.refused += 1;
            return;
        }
        if self.random.chance(self.config.faults.frame_refused) {
            return self.writes.count(Err(Errno::NOBUFS));
        }
        let mut frame = header.to_vec();
        payload
            .iter()
            .for_each(|slice| frame.extend_from_slice(slice));
        self.held.extend_from_slice(payload);
        self.writes.count(Ok(frame.len() as u32));
        self.outbox.push_back(frame);
    }

    fn open(&mut self, kind: SocketKind) -> io::Result<SocketId> {
        let full = self.sockets.len() >= self.config.sockets_max;
        if full || self.random.chance(self.config.faults.no_socket) {
            return Err(Errno::MFILE.into());
        }
        Ok(self.add(kind))
    }

    fn adopt(&mut self, _: OwnedFd) -> SocketId {
        self.adopt_mute()
    }

    fn connect(&mut self, id: SocketId, to: &Remote, token: Token) {
        let raw = id.raw();
        let refused = match self.sockets.get(&raw) {
            None => Some(Errno::BADF),
            Some(socket) if socket.connect.is_some() || socket.unheard.connect => {
                Some(Errno::ALREADY)
            }
            Some(socket) if !reaches(socket.kind, to) => Some(Errno::AFNOSUPPORT),
            Some(_) => None,
        };
        if let Some(errno) = refused {
            let result = Err(errno);
            return self.complete(vec![Completion::Connected { token, result }]);
        }
        let answer = self.host.judge(to);
        let at = match answer {
            Answer::Accept { after_ns, .. } | Answer::Refuse { after_ns, .. } => {
                Some(self.now + after_ns)
            }
            Answer::Never => None,
        };
        if let Some(socket) = self.sockets.get_mut(&raw) {
            let to = to.clone();
            socket.connect = Some(Connect {
                token,
                to,
                at,
                answer,
            });
            self.waiting.insert(raw);
        }
    }

    fn send(&mut self, id: SocketId, payload: &[Slice], mode: SendMode, token: Token) {
        let raw = id.raw();
        let payload = &payload[..payload.len().min(SEND_SLICES_MAX)];
        let refused = match self.sockets.get(&raw) {
            None => Some(Errno::BADF),
            Some(socket) if socket.send.is_some() || socket.unheard.send => Some(Errno::ALREADY),
            Some(socket) if socket.stream.is_none() => Some(Errno::PIPE),
            Some(_) => None,
        };
        if let Some(errno) = refused {
            let result = Err(errno);
            return self.complete(vec![Completion::Sent { token, result }]);
        }
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(stream) = socket.stream.clone() else {
            return;
        };
        let len: usize = payload.iter().map(Slice::len).sum();
        if mode == SendMode::WhenWritable && len > 0 {
            let payload = payload.to_vec();
            socket.send = Some(Send { token, payload });
            self.waiting.insert(raw);
            return self.progress_send(raw);
        }
        let result = self.write_stream(&stream, payload);
        self.held.extend_from_slice(payload);
        let done = vec![Completion::Sent { token, result }];
        if mode == SendMode::Quiet && result == Ok(len as u32) {
            if let Some(socket) = self.sockets.get_mut(&raw) {
                socket.unheard.send = true;
            }
            let of = Some((raw, Operation::Send));
            self.quiet.push(Due {
                of,
                completions: done,
            });
        } else {
            self.complete_of(raw, Operation::Send, done);
        }
    }

    fn receive(&mut self, id: SocketId, max: u32, _: bool, token: Token) {
        let raw = id.raw();
        let refused = match self.sockets.get(&raw) {
            None => Some(Errno::BADF),
            Some(socket) if socket.receive.is_some() || socket.unheard.receive => {
                Some(Errno::ALREADY)
            }
            Some(socket) if socket.stream.is_none() => Some(Errno::NOTCONN),
            Some(_) if max == 0 => Some(Errno::INVAL),
            Some(_) => None,
        };
        if let Some(errno) = refused {
            let end = ReceiveEnd::Failed(errno);
            return self.complete(vec![Completion::ReceiveEnd { token, end }]);
        }
        if let Some(socket) = self.sockets.get_mut(&raw) {
            socket.receive = Some(Receive { token, max });
            self.waiting.insert(raw);
        }
    }

    fn send_to(
        &mut self,
        id: SocketId,
        to: &SocketAddr,
        payload: &[Slice],
        gso_size: u16,
        token: Token,
    ) {
        let len: usize = payload.iter().map(Slice::len).sum();
        let longest = if gso_size == 0 { DATAGRAM_MAX } else { 65_535 };
        let faults = self.config.faults.datagram_refused;
        let outcome = match self.sockets.get(&id.raw()) {
            None => Err(Errno::BADF),
            Some(_) if payload.len() > SEND_SLICES_MAX || len > longest => Err(Errno::MSGSIZE),
            Some(socket) if !reaches(socket.kind, &Remote::Inet(*to)) => Err(Errno::AFNOSUPPORT),
            Some(_) if self.random.chance(faults) => Err(Errno::NOBUFS),
            Some(socket) => Ok(socket.local),
        };
        match outcome {
            Ok(from) => {
                self.held.extend_from_slice(payload);
                self.send_datagrams(from, *to, payload, gso_size);
            }
            Err(errno) => {
                let payload = payload.first().cloned().unwrap_or_default();
                let to = Some(*to);
                let failed = Completion::SendFailed {
                    token,
                    errno,
                    to,
                    payload,
                };
                self.complete(vec![failed]);
            }
        }
    }

    fn send_packet(&mut self, id: SocketId, payload: &[Slice], token: Token) {
        self.held.extend_from_slice(payload);
        if !self.sockets.contains_key(&id.raw()) {
            let failed = Completion::SendFailed {
                token,
                errno: Errno::BADF,
                to: None,
                payload: payload.first().cloned().unwrap_or_default(),
            };
            self.complete(vec![failed]);
        }
    }

    fn receive_from(&mut self, id: SocketId, token: Token) {
        let raw = id.raw();
        let errno = match self.sockets.get_mut(&raw) {
            None => Errno::BADF,
            Some(socket) if socket.receive_from.is_some() => Errno::ALREADY,
            Some(socket) => {
                socket.receive_from = Some(token);
                return;
            }
        };
        let refused = vec![
            Completion::DatagramError { token, errno },
            Completion::DatagramEnd { token },
        ];
        self.complete(refused);
    }

    fn take_error(&mut self, id: SocketId) -> Option<SocketError> {
        self.sockets.get_mut(&id.raw())?.errors.pop_front()
    }

    fn shutdown_write(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(&id.raw()) {
            socket.shutdown_wanted = true;
            socket.shut_down_if_wanted();
        }
    }

    fn close(&mut self, id: SocketId, reset: bool) {
        let raw = id.raw();
        let Some(socket) = self.sockets.remove(&raw) else {
            return;
        };
        self.waiting.remove(&raw);
        let mut ended = Vec::new();
        if let Some(Connect { token, .. }) = socket.connect {
            let result = Err(Errno::CANCELED);
            ended.push(Completion::Connected { token, result });
        }
        if let Some(Send { token, payload }) = socket.send {
            self.held.extend(payload);
            let result = Err(Errno::CANCELED);
            ended.push(Completion::Sent { token, result });
        }
        if let Some(Receive { token, .. }) = socket.receive {
            let end = ReceiveEnd::Canceled;
            ended.push(Completion::ReceiveEnd { token, end });
        }
        if let Some(token) = socket.receive_from {
            ended.push(Completion::DatagramEnd { token });
        }
        let mut last = socket.last;
        for completion in ended {
            last = self.complete_behind(last, None, vec![completion]);
        }
        if let Some(stream) = socket.stream {
            stream.core_close(reset);
        }
    }

    fn set_hop_limit(&mut self, id: SocketId, _: u8) -> io::Result<()> {
        let socket = self.sockets.get(&id.raw());
        socket.map(|_| ()).ok_or(Errno::BADF.into())
    }

    fn set_report_errors(&mut self, id: SocketId) -> io::Result<()> {
        self.set_hop_limit(id, 0)
    }

    fn set_keepalive(&mut self, id: SocketId, _: &Keepalive) -> io::Result<()> {
        self.set_hop_limit(id, 0)
    }

    fn local_address(&self, id: SocketId) -> io::Result<SocketAddr> {
        match self.sockets.get(&id.raw()) {
            None => Err(Errno::BADF.into()),
            Some(socket) if socket.kind == SocketKind::UnixStream => Err(Errno::AFNOSUPPORT.into()),
            Some(socket) => Ok(socket.local),
        }
    }

    fn levels(&self) -> BufferLevels {
        BufferLevels {
            tap_free: self.frames.free(),
            tap_total: self.frames.count(),
            stream_free: self.streams.free(),
            stream_total: self.streams.count(),
            stream_buffer_bytes: self.config.stream_buffer_bytes as usize,
            datagram_free: self.datagrams.free(),
            datagram_total: self.datagrams.count(),
        }
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }

    fn write_stats(&self, _: LinkId) -> WriteStats {
        self.writes
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, peer: &Waker) {
        peer.claim();
    }
}

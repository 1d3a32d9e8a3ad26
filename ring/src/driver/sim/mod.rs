//! A simulated kernel as a [`Driver`](super::Driver): everything that happens is decided by a seed.
//!
//! # Theory of operation
//!
//! [`SimDriver`] keeps the contract of [`Driver`](super::Driver) with no kernel below: time is virtual, sockets end
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
//! | `contract.rs` | what a core asks for |
//! | `progress.rs` | what happens by itself, and how a wait ends |
//! | `socket.rs` | one socket: what is outstanding, what came |
//! | `stream.rs` | a connection between a core's socket and its peer |
//! | `packets.rs` | packets between a core's socket and its peer |
//! | `host.rs` | who answers a connect; datagrams that left |
//! | `link.rs` | a link that loses, doubles, reorders, delays, damages and cuts |
//! | `random.rs` | numbers from a seed |

mod contract;
mod host;
mod link;
mod packets;
mod progress;
mod random;
mod socket;
mod stream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

pub use host::{Answer, SimDatagram, SimHost};
pub use link::{LinkCounts, LinkFaults, SimLink};
pub use packets::SimPackets;
pub use random::Random;
pub use stream::{Got, SimStream};

use super::{
    Adopted, Completion, DriverCounters, LinkFeatures, LinkId, SocketError, SocketId, SocketKind,
    Waker, WriteStats,
};
use crate::buffer::{FilledPool, Slice};
use packets::Packets;
use socket::{Arrival, Socket};
use stream::Stream;

/// The only link of a driver.
const LINK: LinkId = LinkId(0);
/// The largest datagram payload (UDP over IPv4).
const DATAGRAM_MAX: usize = 65_507;
/// The largest packet that fits a buffer of the ring's, with what stands in front of it there.
const PACKET_BYTES_MAX: usize = 65_648;
/// The size of a buffer for streams of links.
const LINK_BUFFER_BYTES: u32 = 256 << 10;
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
    /// Buffers of 256 KiB for streams of links; 0: those for streams are used.
    pub link_buffers: u16,
    /// Buffers for datagrams.
    pub datagram_buffers: u16,
    /// Sockets that can be open at a time.
    pub sockets_max: usize,
    /// Whether a wait that its deadline ends tells of quiet sends, as io_uring does; else only one
    /// that something else ends.
    pub deadlines_tell: bool,
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
            link_buffers: 0,
            datagram_buffers: 64,
            sockets_max: usize::MAX,
            deadlines_tell: false,
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
    /// Sockets of packets.
    packet_sockets: BTreeSet<u32>,
    next_socket: u32,
    due: BTreeMap<(u64, u64), Due>,
    /// Of quiet sends, which end no wait.
    quiet: Vec<Due>,
    order: u64,
    /// What the kernel holds until the next wait.
    held: Vec<Slice>,
    frames: FilledPool,
    streams: FilledPool,
    links: FilledPool,
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
            packet_sockets: BTreeSet::new(),
            next_socket: 0,
            due: BTreeMap::new(),
            quiet: Vec::new(),
            order: 0,
            held: Vec::new(),
            frames: FilledPool::new(config.tap_buffers, 65_792)?,
            streams: FilledPool::new(config.stream_buffers, config.stream_buffer_bytes)?,
            links: FilledPool::new(config.link_buffers, LINK_BUFFER_BYTES)?,
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

    /// One end of a stream that somebody made, and the other end. So many bytes wait in it on the way
    /// from the core and to it.
    pub fn adopt_stream(
        &mut self,
        purpose: Adopted,
        up_buffer: usize,
        down_buffer: usize,
    ) -> (SocketId, SimStream) {
        let stream = Stream::new(up_buffer, down_buffer);
        let id = self.add_stream(purpose, Rc::clone(&stream));
        (id, SimStream(stream))
    }

    fn add_stream(&mut self, purpose: Adopted, stream: Rc<Stream>) -> SocketId {
        let id = self.add(SocketKind::UnixStream);
        if let Some(socket) = self.sockets.get_mut(&id.raw()) {
            socket.stream = Some(stream);
            socket.is_link = purpose == Adopted::StreamLink && self.links.count() > 0;
        }
        id
    }

    /// One end of a connected socket of packets that somebody made, and the other end. So many packets of
    /// the core wait in it at most.
    pub fn adopt_packets(&mut self, room: usize) -> (SocketId, SimPackets) {
        let id = self.add(SocketKind::UnixStream);
        let packets = Packets::new(room);
        if let Some(socket) = self.sockets.get_mut(&id.raw()) {
            socket.packets = Some(Rc::clone(&packets));
            self.packet_sockets.insert(id.raw());
        }
        (id, SimPackets(packets))
    }

    /// How many sockets are open.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Takes back the buffers that were let go on other cores.
    pub fn collect_buffers(&mut self) {
        let Self {
            frames,
            streams,
            links,
            datagrams,
            ..
        } = self;
        for pool in [frames, streams, links, datagrams] {
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

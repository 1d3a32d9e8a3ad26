//! One core: the loop that moves frames and bytes, and everything that it owns.
//!
//! # Theory of operation
//!
//! A core takes completions a batch at a time. Frames are parsed in place and sorted to their
//! flows; what a flow takes from a frame stays in the frame's pooled buffer as a slice. Flows that
//! something happened to are *dirty*; when the batch is through, each dirty flow is flushed once:
//! one vectored send to its host socket, one round of segments (with at most one pure ACK) to the
//! guest, one receive armed. All of that is carried out by the one system call with which the next
//! batch is awaited.
//!
//! A core shares nothing with others but lanes: a frame whose flow belongs to another core goes
//! there as it is. Every bound is a counter ([`crate::counters`]).
//!
//! The core runs on any [`Driver`]; time and randomness come in from outside, so a simulated
//! world can run it unchanged.

pub(crate) mod egress;
mod guests;
pub(crate) mod ingress;
pub(crate) mod port;
mod reports;
mod switching;
pub(crate) mod table;
pub(crate) mod timers;
pub(crate) mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use towpath_ring::buffer::{Parcel, Slice};
use towpath_ring::driver::{Completion, Driver, LinkId, SocketId, Waker};
use towpath_ring::lane::LaneEnd;
use towpath_stack::Instant;
use towpath_stack::flow::IndirectionTable;
use towpath_stack::fragment::Reassembler;
use towpath_stack::neighbor::Neighbors;

use crate::config::Limits;
use crate::counters::{CoreCounters, Counter};
use crate::host::echo::EchoMapping;
use crate::host::pool::SocketPool;
use crate::host::sequence::SequenceSecret;
use crate::host::tcp::{TcpConfigs, TcpFlow};
use crate::host::udp::{UdpMapping, UdpRuns};
use crate::link::{Attacher, PortId};
use crate::policy::admission::Admission;
use crate::service::message::Reply;
use crate::switch::stations::{Heard, Stations};
use egress::Egress;
use ingress::Reassembled;
use port::{Carrier, Port, Quota};
use switching::Switched;
use table::FlowTable;
use timers::Timers;
use token::{FlowId, FlowKind};

/// What one core starts with.
pub(crate) struct CoreSeed {
    pub(crate) id: usize,
    /// Whether the driver came with a link to a guest whose flows are spread over all cores.
    pub(crate) has_link: bool,
    /// Whether this core reads it (a link with one queue has one reader).
    pub(crate) reads_link: bool,
    pub(crate) admission: Admission,
    pub(crate) neighbors: Neighbors,
    pub(crate) limits: Limits,
    pub(crate) mtu: u16,
    pub(crate) dns_stream: towpath_ring::driver::Remote,
    pub(crate) lanes: LaneEnd<LaneMessage>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) counters: Arc<CoreCounters>,
    pub(crate) initial_sequences: SequenceSecret,
    /// Where links come from while the core runs.
    pub(crate) attacher: Attacher,
    /// How long a guest may take nothing, or leave a frame unfinished, before it is dismissed.
    pub(crate) stall_timeout: Duration,
    /// Whether guests are kept from each other.
    pub(crate) isolate: bool,
}

/// How the cores of one engine reach each other and are told to stop.
pub(crate) struct Peers {
    pub(crate) wakers: Vec<std::sync::OnceLock<Waker>>,
    pub(crate) stop: AtomicBool,
}

/// What travels between cores.
pub(crate) enum LaneMessage {
    /// A frame as the link of a port gave it.
    Frame { port: PortId, frame: Parcel },
    /// A datagram put together from fragments by the core that read them.
    Reassembled(Box<Reassembled>),
    /// A frame for guests of that core.
    Switched(Switched),
    /// A station was heard.
    Heard(Heard),
    /// A port was closed.
    Closed(PortId),
}

/// One core.
pub(crate) struct Core<D: Driver> {
    pub(crate) driver: D,
    pub(crate) now: Instant,
    pub(crate) counters: Arc<CoreCounters>,
    pub(crate) admission: Admission,
    pub(crate) limits: Limits,
    pub(crate) egress: Egress,
    pub(crate) tcp_configs: TcpConfigs,
    pub(crate) tcp: FlowTable<TcpFlow>,
    pub(crate) udp: FlowTable<UdpMapping>,
    pub(crate) udp_runs: UdpRuns,
    pub(crate) echo: FlowTable<EchoMapping>,
    pub(crate) timers: Timers,
    /// TCP flows to flush at the end of the batch.
    pub(crate) dirty: Vec<u32>,
    /// Until then, flows that exchange small messages shall not wait for long receives of others.
    pub(crate) small_until: Instant,
    /// TCP flows whose host socket is full, and some that were.
    pub(crate) blocked: Vec<u32>,
    /// TCP flows whose receive found no free buffer.
    pub(crate) starved: Vec<u32>,
    /// Bytes copied out of pooled buffers, or kept because they came out of order.
    pub(crate) held_bytes: usize,
    /// Sum of the receive windows of all TCP flows: what their guests may have sent before they know better.
    pub(crate) windows: usize,
    /// Connections of guests that are gone.
    pub(crate) abandoned: usize,
    /// When flows were last looked through for buffers to free.
    pub(crate) relieved_at: Instant,
    pub(crate) sockets: SocketPool,
    pub(crate) service: SocketId,
    pub(crate) dns_stream: towpath_ring::driver::Remote,
    pub(crate) initial_sequences: SequenceSecret,
    /// Who is at which port, of all cores.
    stations: Stations,
    /// Guests are kept from each other.
    isolate: bool,
    attacher: Attacher,
    /// The ports of the driver's links.
    links: HashMap<LinkId, PortId>,
    stall_timeout: Duration,
    /// Guests whose receive found no free buffer.
    starved_ports: Vec<PortId>,
    neighbors: Neighbors,
    reassembler: Reassembler,
    shards: IndirectionTable,
    id: usize,
    reads_link: bool,
    lanes: LaneEnd<LaneMessage>,
    /// Counts the batches.
    batch: u64,
    /// Cores that got something over a lane in this batch.
    to_wake: Vec<bool>,
    peers: Arc<Peers>,
    /// Set when the core only carries out what it owes to host sockets.
    draining: Option<Draining>,
}

/// The last thing that a core does: hand over what it acknowledged.
#[derive(Clone, Copy)]
struct Draining {
    /// What was still owed when something last moved, and when that was.
    owed: u64,
    moved_at: Instant,
}

/// The link that a driver may come with, and its port, which all cores have.
const LINK: LinkId = LinkId(0);
const WIDE: PortId = PortId(0);

/// How long the last bytes may stand still before they are given up.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// What a core tells the engine.
pub(crate) trait Report {
    /// The link is gone, e.g. because the guest's namespace is.
    fn link_gone(&self, error: std::io::Error);
}

impl<D: Driver> Core<D> {
    pub(crate) fn new(driver: D, service: SocketId, seed: CoreSeed) -> Self {
        let cores = seed.peers.wakers.len();
        let now = Instant::from_nanos(driver.now());
        let mut egress = Egress::new(seed.neighbors.gateway_mac, seed.mtu);
        if seed.has_link {
            let quota = Quota::of(&seed.limits, cores);
            let features = driver.link_features(LINK);
            let mut port = Port::new(Carrier::Tap(LINK), features, quota);
            port.wide = true;
            egress.ports.add(WIDE, port);
        }
        let limits = Limits {
            buffer_bytes: seed.limits.buffer_bytes.div_ceil(cores),
            ..seed.limits
        };
        Self {
            egress,
            now,
            counters: seed.counters,
            admission: seed.admission,
            limits,
            tcp_configs: TcpConfigs::new(seed.mtu, limits.tcp_idle),
            tcp: FlowTable::new(),
            udp: FlowTable::new(),
            udp_runs: UdpRuns::default(),
            echo: FlowTable::new(),
            timers: Timers::default(),
            dirty: Vec::with_capacity(256),
            small_until: now,
            blocked: Vec::new(),
            starved: Vec::new(),
            held_bytes: 0,
            windows: 0,
            abandoned: 0,
            relieved_at: now,
            draining: None,
            sockets: SocketPool::default(),
            service,
            dns_stream: seed.dns_stream,
            initial_sequences: seed.initial_sequences,
            stations: Stations::new(seed.neighbors.gateway_mac),
            isolate: seed.isolate,
            attacher: seed.attacher,
            links: if seed.has_link {
                HashMap::from([(LINK, WIDE)])
            } else {
                HashMap::new()
            },
            stall_timeout: seed.stall_timeout,
            starved_ports: Vec::new(),
            neighbors: seed.neighbors,
            reassembler: Reassembler::new(Default::default()),
            shards: IndirectionTable::even(cores),
            id: seed.id,
            reads_link: seed.reads_link,
            lanes: seed.lanes,
            batch: 0,
            to_wake: vec![false; cores],
            peers: seed.peers,
            driver,
        }
    }

    /// Runs until told to stop, or until the driver fails. Bytes that were acknowledged to the guest
    /// are handed to their host sockets before it ends, unless those stop taking them.
    pub(crate) fn run(&mut self, report: &impl Report) -> std::io::Result<()> {
        self.start();
        let mut completions = Vec::with_capacity(1024);
        while self.turn(&mut completions, report)? {}
        // What the last flush queued is submitted, not waited for.
        self.driver.wait(Some(0), &mut completions)
    }

    /// Begins to read.
    pub(crate) fn start(&mut self) {
        if self.reads_link {
            self.driver.read_link(LINK);
        }
        self.driver
            .receive_from(self.service, FlowId::SERVICE.token());
        self.sockets.refill(&mut self.driver, usize::MAX);
    }

    /// Waits for a batch and carries it out. Returns whether another shall follow.
    pub(crate) fn turn(
        &mut self,
        completions: &mut Vec<Completion>,
        report: &impl Report,
    ) -> std::io::Result<bool> {
        let deadline = self.next_deadline();
        self.driver.wait(deadline, completions)?;
        self.now = Instant::from_nanos(self.driver.now());
        let few = completions.len() < 16;
        if !self.starved_ports.is_empty() {
            self.retry_starved_ports();
        }
        for completion in completions.drain(..) {
            self.on_completion(completion, report);
        }
        self.drain_lanes();
        self.flush_udp_runs();
        self.run_timers();
        self.relieve_pools();
        self.batch += 1;
        self.flush_dirty();
        self.flush_ports();
        self.wake_peers();
        self.counters.bump(Counter::Batches);
        if few {
            self.sockets.refill(&mut self.driver, 4);
        }
        Ok(!self.peers.stop.load(Ordering::Relaxed) || !self.is_drained())
    }

    /// Whether the core only carries out what it owes.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Whether nothing is owed to host sockets any more, or they take no more.
    fn is_drained(&mut self) -> bool {
        let owed = self.tcp.iter_mut().map(|(_, flow)| flow.owed_bytes()).sum();
        let now = self.now;
        let draining = self.draining.get_or_insert(Draining {
            owed,
            moved_at: now,
        });
        if draining.owed != owed {
            *draining = Draining {
                owed,
                moved_at: now,
            };
        }
        if owed > 0 && now.since(draining.moved_at) < DRAIN_PATIENCE {
            return false;
        }
        if owed > 0 {
            self.counters.add(Counter::LostAtEnd, owed);
            tracing::warn!(
                bytes = owed,
                "host sockets did not take the guest's last bytes in time"
            );
        }
        true
    }

    /// When the core wants to go on though nothing completes, in ns.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let timers = self.timers.next();
        let fragments = self.reassembler.poll_at();
        let next = [timers, fragments].into_iter().flatten().min();
        // Starved flows wait for buffers that come back without a completion of their own.
        let retry = (!self.starved.is_empty()).then(|| self.now + Duration::from_millis(1));
        // The same for a link whose buffers are with other cores.
        let levels = self.driver.levels();
        let starved = self.has_peers() && levels.tap_total > 0 && levels.tap_free == 0;
        let link = starved.then(|| self.now + Duration::from_millis(1));
        let ports = self.starved_ports_at();
        let drain = self.draining.map(|_| self.now + Duration::from_millis(100));
        [next, retry, link, ports, drain]
            .into_iter()
            .flatten()
            .min()
            .map(Instant::as_nanos)
    }

    fn on_completion(&mut self, completion: Completion, report: &impl Report) {
        match completion {
            Completion::Frame { link, frame } => {
                if let Some(port) = self.port_of(link) {
                    self.on_frame(port, frame, true);
                }
            }
            Completion::LinkEnd { link, error } => {
                let Some(port) = self.port_of(link) else {
                    return;
                };
                if self.egress.ports.get(port).is_some_and(|port| port.wide) {
                    report.link_gone(error.into());
                } else {
                    self.on_tap_gone(port, error);
                }
            }
            Completion::Connected { token, result } => {
                self.on_connected(FlowId::from_token(token).index, result);
            }
            Completion::Sent { token, result } => {
                let id = FlowId::from_token(token);
                match id.kind {
                    FlowKind::Port => self.on_port_sent(id.port_id(), result),
                    _ => self.on_sent(id.index, result),
                }
            }
            Completion::Received { token, data } => {
                let id = FlowId::from_token(token);
                match id.kind {
                    FlowKind::Port => self.on_port_bytes(id.port_id(), data),
                    _ => self.on_received(id.index, data),
                }
            }
            Completion::ReceiveEnd { token, end } => {
                let id = FlowId::from_token(token);
                match id.kind {
                    FlowKind::Port => self.on_port_receive_end(id.port_id(), end),
                    _ => self.on_receive_end(id.index, end),
                }
            }
            Completion::Datagram {
                token,
                from,
                payload,
                gso_size,
                ..
            } => {
                let id = FlowId::from_token(token);
                match (id.kind, from) {
                    (FlowKind::Udp, Some(from)) => {
                        self.on_host_datagram(id.index, from, payload, gso_size);
                    }
                    (FlowKind::Echo, Some(from)) => self.on_host_echo(id.index, from, payload),
                    (FlowKind::Service, _) => self.on_service_reply(&payload),
                    (FlowKind::Port, _) => self.on_frame(id.port_id(), payload, true),
                    _ => {}
                }
            }
            Completion::DatagramError { token, .. } => {
                let _ = self.on_datagram_error(FlowId::from_token(token));
            }
            Completion::DatagramEnd { token } => {
                let id = FlowId::from_token(token);
                match id.kind {
                    FlowKind::Udp => self.udp.free(id.index),
                    FlowKind::Echo => self.echo.free(id.index),
                    FlowKind::Port => self.on_port_datagram_end(id.port_id()),
                    FlowKind::Service | FlowKind::Tcp => {}
                }
            }
            Completion::SendFailed {
                token,
                errno,
                to,
                payload,
            } => {
                self.on_send_failed(FlowId::from_token(token), errno, to, &payload);
            }
            Completion::Woken => self.carry_out_port_commands(),
        }
    }

    /// TCP connections that are not open yet, of all guests.
    pub(crate) fn half_open(&self) -> usize {
        let ports = self.egress.ports.iter();
        ports.map(|(_, port)| port.half_open.len()).sum()
    }

    /// Where the frames of a link come from; `None` when its guest was let go.
    fn port_of(&self, link: LinkId) -> Option<PortId> {
        self.links.get(&link).copied()
    }

    /// Whether other cores hand frames over to this one.
    pub(crate) fn has_peers(&self) -> bool {
        self.to_wake.len() > 1
    }

    /// The core that owns a flow of this guest with this hash, if it is another one.
    pub(crate) fn other_owner(&self, port: PortId, hash: u32) -> Option<usize> {
        let wide = self.egress.ports.get(port).is_some_and(|port| port.wide);
        wide.then(|| self.shards.owner(hash))
            .filter(|&owner| owner != self.id)
    }

    /// How many messages another core's lane takes now.
    pub(crate) fn lane_room(&self, core: usize) -> usize {
        self.lanes.room(core)
    }

    pub(crate) fn hand_over(&mut self, owner: usize, message: LaneMessage) {
        match self.lanes.send(owner, message) {
            Ok(()) => {
                self.to_wake[owner] = true;
                self.counters.bump(Counter::LaneOut);
            }
            Err(_) => self.counters.bump(Counter::DroppedLane),
        }
    }

    fn drain_lanes(&mut self) {
        while let Some((_, message)) = self.lanes.receive() {
            match message {
                LaneMessage::Frame { port, frame } => {
                    self.on_frame(port, Slice::from(frame), false);
                }
                LaneMessage::Reassembled(datagram) => self.on_reassembled(*datagram, false),
                LaneMessage::Switched(switched) => self.on_switched(switched),
                LaneMessage::Heard(heard) => self.stations.hear_of(self.now, heard),
                LaneMessage::Closed(port) => self.stations.forget_port(port),
            }
        }
    }

    fn wake_peers(&mut self) {
        for (core, wake) in self.to_wake.iter_mut().enumerate() {
            if std::mem::take(wake)
                && let Some(waker) = self.peers.wakers[core].get()
            {
                self.driver.wake(waker);
            }
        }
    }

    fn run_timers(&mut self) {
        while let Some((at, flow)) = self.timers.pop_due(self.now) {
            match flow.kind {
                FlowKind::Tcp => self.on_tcp_timer(at, flow.index),
                FlowKind::Udp => self.on_udp_timer(at, flow.index),
                FlowKind::Echo => self.on_echo_timer(at, flow.index),
                FlowKind::Port => self.on_port_timer(at, flow.port_id()),
                FlowKind::Service => {}
            }
        }
        if self.reassembler.poll_at().is_some_and(|at| at <= self.now) {
            self.expire_fragments();
        }
    }

    fn on_service_reply(&mut self, packet: &Slice) {
        match Reply::decode(packet.bytes()) {
            Some(Reply::Dns { asker, answer }) => self.dns_answer(&asker, answer),
            Some(Reply::Dhcp {
                port,
                mac,
                to,
                message,
            }) => self.dhcp_answer(PortId(port), mac, to, message),
            None => debug_assert!(false, "the control thread speaks our format"),
        }
    }
}

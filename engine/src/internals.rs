//! What benchmarks measure, fuzzers feed and the simulated world runs: cores over any driver; the flow
//! table and timers of one; DHCP and DNS without the control thread.
//!
//! No part of the engine's interface, and hidden from its documentation. The parts stay
//! `pub(crate)`, each wrapped in what is done with it from outside: so nothing can come to lean on
//! more, and the parts can change without a thought to visibility. What is measured is inlined.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use towpath_ring::driver::{Completion, Driver, Remote, SocketId, UnixAddress};
use towpath_ring::lane::{LaneEnd, Lanes};
use towpath_stack::Instant;
use towpath_stack::flow::FlowKey;

use crate::config::{FixedLease, HostLoopback, Limits, Network, STALL_TIMEOUT};
use crate::core::{Core, CoreSeed, LaneMessage, Peers, Report, table, timers, token};
use crate::counters::{CoreCounters, Totals};
use crate::engine::neighbors;
use crate::host::sequence::SequenceSecret;
use crate::link::Attacher;
use crate::policy::admission::Admission;
use crate::ports::PortSet;
use crate::service::counters::Counters;
use crate::service::dhcp;
use crate::service::dns::{Query, Rejected};
use crate::service::names::Names;

/// A core without an engine around it, on the caller's thread. There is no DNS and no DHCP behind it.
pub struct BareCore<D: Driver> {
    core: Core<D>,
    batch: Vec<Completion>,
}

/// Tells [`BareCore`]s to end.
#[derive(Clone)]
pub struct Stop(Arc<Peers>);

/// What cores of one [`mesh`](BareCore::mesh) have in common.
pub struct Setup<'a> {
    /// The guest's segment.
    pub network: &'a Network,
    /// Bounds, for all cores together.
    pub limits: Limits,
    /// Frames that may wait in the lane from one core to another.
    pub lane_frames: usize,
    /// The secret of initial sequence numbers.
    pub sequence_key: u64,
    /// Whether the drivers come with a link, to a guest whose flows they share.
    pub has_link: bool,
}

/// What two ways to make cores differ in, the same for all cores of one.
struct Common<'a> {
    network: &'a Network,
    limits: Limits,
    initial_sequences: SequenceSecret,
    has_link: bool,
    stop: &'a Stop,
    attacher: &'a Attacher,
}

/// What a core holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// TCP connections, ended ones that wait for their socket included.
    pub tcp: usize,
    /// Those of them that one side has not accepted yet.
    pub tcp_half_open: usize,
    /// UDP mappings.
    pub udp: usize,
    /// ICMP echo ids.
    pub echo: usize,
    /// Bytes copied out of pooled buffers.
    pub held_bytes: usize,
    /// Deadlines, outdated ones included.
    pub timers: usize,
}

/// The link's end is for the driver to know.
struct NoReport;

impl Report for NoReport {
    fn link_gone(&self, _: io::Error) {}
}

impl Default for Stop {
    fn default() -> Self {
        Self::of(1)
    }
}

impl Stop {
    fn of(cores: usize) -> Self {
        Self(Arc::new(Peers {
            wakers: (0..cores).map(|_| OnceLock::new()).collect(),
            stop: AtomicBool::new(false),
        }))
    }

    /// The cores end when their present batch is through and their host sockets have what they are
    /// owed.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl<D: Driver> BareCore<D> {
    /// A core that reads link 0 of `driver`, to whose guest all of the host's loopback is open;
    /// `service` is the socket for DNS and DHCP messages.
    pub fn new(driver: D, service: SocketId, network: &Network, stop: &Stop) -> Self {
        let lanes = Lanes::mesh(1, 1).into_iter().next();
        let lanes = lanes.expect("a mesh of one has one end");
        let common = Common {
            network,
            limits: Limits::default(),
            initial_sequences: SequenceSecret::random(),
            has_link: true,
            stop,
            attacher: &Attacher::new(Arc::clone(&stop.0), 1),
        };
        Self::with(driver, service, (0, true), lanes, &common)
    }

    /// Cores of one engine, and who gives links to them. Each has its driver, the socket for services, and
    /// whether it reads the link that the drivers came with.
    pub fn mesh(drivers: Vec<(D, SocketId, bool)>, setup: &Setup<'_>) -> (Vec<Self>, Attacher) {
        let stop = Stop::of(drivers.len());
        let lanes = Lanes::mesh(drivers.len(), setup.lane_frames);
        let common = Common {
            network: setup.network,
            limits: setup.limits,
            initial_sequences: SequenceSecret::known(setup.sequence_key),
            has_link: setup.has_link,
            stop: &stop,
            attacher: &Attacher::new(Arc::clone(&stop.0), usize::from(setup.has_link)),
        };
        let cores = drivers.into_iter().zip(lanes).enumerate();
        let cores = cores.map(|(id, ((driver, service, reads), lanes))| {
            // The cell is new, so nothing is in it.
            let _ = stop.0.wakers[id].set(driver.waker());
            Self::with(driver, service, (id, reads), lanes, &common)
        });
        (cores.collect(), common.attacher.clone())
    }

    fn with(
        driver: D,
        service: SocketId,
        (id, reads_link): (usize, bool),
        lanes: LaneEnd<LaneMessage>,
        common: &Common<'_>,
    ) -> Self {
        let &Common { network, .. } = common;
        let seed = CoreSeed {
            id,
            has_link: common.has_link,
            reads_link,
            admission: Admission::new(network.clone(), HostLoopback::Open(PortSet::all())),
            neighbors: neighbors(network),
            limits: common.limits,
            mtu: network.mtu,
            dns_stream: Remote::Unix(UnixAddress::Abstract(Vec::new())),
            lanes,
            peers: Arc::clone(&common.stop.0),
            counters: Arc::new(CoreCounters::new()),
            initial_sequences: common.initial_sequences,
            attacher: common.attacher.clone(),
            stall_timeout: STALL_TIMEOUT,
            isolate: false,
        };
        Self {
            core: Core::new(driver, service, seed),
            batch: Vec::with_capacity(1024),
        }
    }

    /// Runs until stopped, or until the driver fails.
    pub fn run(&mut self) -> io::Result<()> {
        self.core.run(&NoReport)
    }

    /// Begins to read. For those who call [`turn`](Self::turn) instead of [`run`](Self::run).
    pub fn start(&mut self) {
        self.core.start();
    }

    /// When it wants its next turn though nothing completes, in ns.
    pub fn deadline(&self) -> Option<u64> {
        self.core.next_deadline()
    }

    /// Waits for one batch and carries it out. Returns whether it wants another: not when stopped.
    pub fn turn(&mut self) -> io::Result<bool> {
        self.core.turn(&mut self.batch, &NoReport)
    }

    /// What it counted.
    pub fn totals(&self) -> Totals {
        Totals::of([self.core.counters.as_ref()])
    }

    /// What it holds.
    pub fn usage(&self) -> Usage {
        Usage {
            tcp: self.core.tcp.len(),
            tcp_half_open: self.core.half_open(),
            udp: self.core.udp.len(),
            echo: self.core.echo.len(),
            held_bytes: self.core.held_bytes,
            timers: self.core.timers.len(),
        }
    }

    /// Its driver.
    pub fn driver(&self) -> &D {
        &self.core.driver
    }

    /// Its driver, for a world that puts things into it.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.core.driver
    }
}

/// The flow table.
pub struct FlowTable<T>(table::FlowTable<T>);

impl<T> Default for FlowTable<T> {
    fn default() -> Self {
        Self(table::FlowTable::new())
    }
}

impl<T> FlowTable<T> {
    /// The flow with this key.
    #[inline]
    pub fn find(&self, key: &FlowKey, hash: u32) -> Option<u32> {
        self.0.find(key, hash)
    }

    /// Adds a flow under a key that is not there.
    #[inline]
    pub fn insert(&mut self, key: FlowKey, hash: u32, flow: T) -> u32 {
        self.0.insert(key, hash, flow)
    }

    /// Forgets a flow.
    #[inline]
    pub fn free(&mut self, index: u32) {
        self.0.free(index);
    }
}

/// The deadlines of one core.
#[derive(Default)]
pub struct Timers(timers::Timers);

/// What a flow remembers of its deadline.
#[derive(Clone, Copy, Default)]
pub struct Armed(timers::Armed);

impl Timers {
    /// Makes sure that `flow` hears at `deadline` or before.
    #[inline]
    pub fn arm(&mut self, flow: u32, armed: &mut Armed, deadline: Instant) {
        let flow = token::FlowId::tcp(flow);
        self.0.arm(flow, &mut armed.0, Some(deadline));
    }

    /// Takes the next entry that is due: when it fires, and whose it is.
    #[inline]
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, u32)> {
        let (at, flow) = self.0.pop_due(now)?;
        Some((at, flow.index))
    }
}

impl Armed {
    /// Whether the entry for `at` is the live one; it is spent by this call.
    #[inline]
    pub fn fired(&mut self, at: Instant) -> bool {
        self.0.fired(at)
    }
}

/// The DHCP server.
pub struct DhcpServer(dhcp::Server);

impl DhcpServer {
    /// A server of a segment, without leases.
    pub fn new(network: &Network) -> Self {
        let fixed = [FixedLease::of_guest(network, Network::GUEST_MAC)];
        let names = Names::new(network, &fixed, std::time::Instant::now());
        Self(dhcp::Server::new(
            network,
            &fixed,
            Arc::new(names),
            Arc::new(Counters::default()),
        ))
    }

    /// Takes a message that came in a frame from `mac`; the answer and the address that it goes to,
    /// `None` for a broadcast.
    pub fn on_message(
        &mut self,
        now: Instant,
        mac: [u8; 6],
        message: &[u8],
    ) -> Option<(Option<Ipv4Addr>, Vec<u8>)> {
        let answer = self.0.on_message(now, 0, mac, message)?;
        Some((answer.to, answer.message))
    }
}

/// What a guest gets over UDP for its DNS message when the only server sends `answer`, which has the
/// id that the server was asked with.
pub fn dns_reply(message: &[u8], answer: &[u8]) -> Option<Vec<u8>> {
    let query = match Query::parse(message) {
        Ok(query) => query,
        Err(Rejected::FormErr(reply)) => return Some(reply),
        Err(Rejected::Unanswerable) => return None,
    };
    let id = answer.first_chunk().copied().unwrap_or_default();
    let mut reply = match query.judge(id, answer) {
        Some(_) => answer.to_vec(),
        None => query.servfail(),
    };
    query.restore_id(&mut reply);
    if reply.len() > query.udp_limit() {
        reply = query.truncate(&reply);
    }
    Some(reply)
}

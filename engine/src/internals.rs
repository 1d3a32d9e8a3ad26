//! What the benchmarks measure and fuzzers feed: a core over any driver, its flow table and its
//! timers, DHCP and DNS without the control thread.
//!
//! No part of the engine's interface, and hidden from its documentation. The parts stay
//! `pub(crate)`, each wrapped in what is done with it from outside: so nothing can come to lean on
//! more, and the parts can change without a thought to visibility. What is measured is inlined.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use towpath_ring::driver::{Driver, LinkId, Remote, SocketId, UnixAddress};
use towpath_ring::lane::Lanes;
use towpath_stack::Instant;
use towpath_stack::flow::FlowKey;

use crate::config::{HostLoopback, Limits, Network};
use crate::core::{Core, CoreSeed, Peers, Report, table, timers, token};
use crate::counters::{CoreCounters, Totals};
use crate::engine::neighbors;
use crate::policy::admission::Admission;
use crate::ports::PortSet;
use crate::service::counters::Counters;
use crate::service::dhcp;
use crate::service::dns::{Query, Rejected};

/// A core without others, on the caller's thread. There is no DNS and no DHCP behind it.
pub struct LoneCore<D: Driver>(Core<D>);

/// Tells a [`LoneCore`] to end.
#[derive(Clone)]
pub struct Stop(Arc<Peers>);

/// The link's end is for the driver to know.
struct NoReport;

impl Report for NoReport {
    fn link_gone(&self, _: io::Error) {}
}

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(Peers {
            wakers: vec![OnceLock::new()],
            stop: AtomicBool::new(false),
        }))
    }
}

impl Stop {
    /// The core ends when its present batch is through and its host sockets have what they are owed.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl<D: Driver> LoneCore<D> {
    /// A core that reads link 0 of `driver`, to whose guest all of the host's loopback is open;
    /// `service` is the socket for DNS and DHCP messages.
    pub fn new(driver: D, service: SocketId, network: &Network, stop: &Stop) -> Self {
        let lanes = Lanes::mesh(1, 1).into_iter().next();
        let seed = CoreSeed {
            id: 0,
            link: LinkId(0),
            reads_link: true,
            admission: Admission::new(network.clone(), HostLoopback::Open(PortSet::all())),
            neighbors: neighbors(network),
            limits: Limits::default(),
            mtu: network.mtu,
            dns_stream: Remote::Unix(UnixAddress::Abstract(Vec::new())),
            lanes: lanes.expect("a mesh of one has one end"),
            peers: Arc::clone(&stop.0),
            counters: Arc::new(CoreCounters::new()),
            initial_sequences: std::hash::RandomState::new(),
        };
        Self(Core::new(driver, service, seed))
    }

    /// Runs until stopped, or until the driver fails.
    pub fn run(&mut self) -> io::Result<()> {
        self.0.run(&NoReport)
    }

    /// What it counted.
    pub fn totals(&self) -> Totals {
        Totals::of([self.0.counters.as_ref()])
    }

    /// Its driver.
    pub fn driver(&self) -> &D {
        &self.0.driver
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
        Self(dhcp::Server::new(network, Arc::new(Counters::default())))
    }

    /// Takes a message that came in a frame from `mac`; the answer and the address that it goes to,
    /// `None` for a broadcast.
    pub fn on_message(
        &mut self,
        now: Instant,
        mac: [u8; 6],
        message: &[u8],
    ) -> Option<(Option<Ipv4Addr>, Vec<u8>)> {
        let answer = self.0.on_message(now, mac, message)?;
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

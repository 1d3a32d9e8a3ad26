//! The ports of one core: where guests are, and what each of them may use.
//!
//! A port is *wide* when each core has a queue of its own to the guest (a TAP of `run` and `attach`): then
//! flows are spread over the cores by their hash, and each core has a port of the same number. All
//! others have one *home*, the core that owns their link, and all their flows live there.

mod carrier;

use std::collections::HashMap;
use std::time::Duration;

use towpath_ring::driver::LinkFeatures;
use towpath_stack::wire::ethernet::MacAddress;
use towpath_stack::{Address, Instant};

use crate::config::Limits;
use crate::host::half_open::HalfOpen;
use crate::link::{OnEnd, PortId};
use crate::switch::flood::FloodLimit;

pub(crate) use carrier::Carrier;

use super::timers::Armed;

/// ICMP errors per second and guest, and how many may come at once (RFC 4443 §2.4 f).
const ICMP_RATE: u64 = 1_000;
const ICMP_BURST: u64 = 100;
/// Addresses of a guest whose MAC address is remembered, for the few frames that belong to no flow.
const MACS_MAX: usize = 1024;

/// How many flows one guest may have on this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) tcp: usize,
    pub(crate) tcp_pending: usize,
    pub(crate) udp: usize,
    pub(crate) echo: usize,
}

impl Quota {
    /// A guest's part on one of the `cores` that its flows are spread over.
    pub(crate) fn of(limits: &Limits, cores: usize) -> Self {
        let part = |n: usize| n.div_ceil(cores.max(1));
        Self {
            tcp: part(limits.tcp_flows),
            tcp_pending: part(limits.tcp_pending),
            udp: part(limits.udp_flows),
            echo: part(limits.icmp_flows),
        }
    }
}

/// One guest, as this core knows it.
pub(crate) struct Port {
    /// What logs call it.
    pub(crate) name: String,
    pub(crate) carrier: Carrier,
    pub(crate) features: LinkFeatures,
    /// Flows are spread over all cores.
    pub(crate) wide: bool,
    pub(crate) quota: Quota,
    pub(crate) half_open: HalfOpen,
    /// TCP flows that have more to send than there is room for.
    pub(crate) parked: Vec<u32>,
    /// What it sends to all ports.
    pub(crate) flood: FloodLimit,
    /// What it asks of DHCP and DNS.
    pub(crate) asked: FloodLimit,
    /// A batch, and how many of its frames went to other cores in it.
    pub(crate) crossed: (u64, u32),
    /// It was said that another guest has its MAC address.
    pub(crate) told_of_double: bool,
    /// Frames that found no room since the last flush.
    pub(crate) refused: u64,
    /// It is in the list of ports to flush.
    pub(crate) listed: bool,
    /// Since when frames wait of which the guest took nothing; `None`: none wait.
    pub(crate) waiting_since: Option<Instant>,
    /// When something last came from the guest.
    pub(crate) heard_at: Instant,
    pub(crate) armed: Armed,
    /// Called when it is closed; none for links that the engine began with.
    pub(crate) on_end: Option<OnEnd>,
    macs: HashMap<Address, MacAddress>,
    icmp_tokens: u64,
    icmp_refilled: Instant,
}

impl Port {
    pub(crate) fn new(carrier: Carrier, features: LinkFeatures, quota: Quota) -> Self {
        Self {
            name: String::new(),
            carrier,
            features,
            wide: false,
            quota,
            half_open: HalfOpen::new(quota.tcp_pending),
            parked: Vec::new(),
            flood: FloodLimit::default(),
            asked: FloodLimit::default(),
            crossed: (0, 0),
            told_of_double: false,
            refused: 0,
            listed: false,
            waiting_since: None,
            heard_at: Instant::ZERO,
            armed: Armed::default(),
            on_end: None,
            macs: HashMap::new(),
            icmp_tokens: ICMP_BURST,
            icmp_refilled: Instant::ZERO,
        }
    }

    /// Notes whether frames wait, after some were given to the link, or after it `took` some.
    pub(crate) fn note_waiting(&mut self, now: Instant, took: bool) {
        if !self.carrier.is_waiting() {
            self.waiting_since = None;
        } else if took || self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
    }

    /// When the guest has stalled, unless it moves before: frames wait for it, or it owes the rest of one.
    pub(crate) fn stalls_at(&self, timeout: Duration) -> Option<Instant> {
        let taking = self.waiting_since.map(|since| since + timeout);
        let sending = self.carrier.is_partial().then(|| self.heard_at + timeout);
        [taking, sending].into_iter().flatten().min()
    }

    /// Whether one more ICMP error may go to the guest now.
    pub(crate) fn icmp_allowed(&mut self, now: Instant) -> bool {
        let refill = now.since(self.icmp_refilled).as_nanos() as u64 * ICMP_RATE / 1_000_000_000;
        if refill > 0 {
            self.icmp_tokens = ICMP_BURST.min(self.icmp_tokens + refill);
            self.icmp_refilled = now;
        }
        let allowed = self.icmp_tokens > 0;
        self.icmp_tokens -= u64::from(allowed);
        allowed
    }

    /// Notes where an address of the guest's is, for frames that no flow remembers it for.
    pub(crate) fn remember_mac(&mut self, address: Address, mac: MacAddress) {
        if self.macs.len() >= MACS_MAX && !self.macs.contains_key(&address) {
            self.macs.clear();
        }
        self.macs.insert(address, mac);
    }

    /// Where an address of the guest's is.
    pub(crate) fn mac_of(&self, address: &Address) -> Option<MacAddress> {
        self.macs.get(address).copied()
    }
}

/// All ports of a core, by number.
#[derive(Default)]
pub(crate) struct Ports {
    ports: Vec<Option<Box<Port>>>,
}

impl Ports {
    /// The number must be free.
    pub(crate) fn add(&mut self, id: PortId, port: Port) {
        let at = usize::from(id.0);
        if self.ports.len() <= at {
            self.ports.resize_with(at + 1, || None);
        }
        debug_assert!(self.ports[at].is_none());
        self.ports[at] = Some(Box::new(port));
    }

    pub(crate) fn remove(&mut self, id: PortId) -> Option<Box<Port>> {
        self.ports.get_mut(usize::from(id.0))?.take()
    }

    pub(crate) fn get(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(usize::from(id.0))?.as_deref_mut()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Port> {
        self.ports.iter_mut().filter_map(Option::as_deref_mut)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        let numbered = self.ports.iter().enumerate();
        numbered.filter_map(|(n, port)| Some((PortId(n as u16), port.as_deref()?)))
    }
}

//! A DHCPv4 server for the guests of one segment (RFC 2131, options of RFC 2132).
//!
//! It is sans-IO: a message and the time come in, an answer goes out. It owns its segment: no
//! other server can be there, because every frame passes the engine. So it is authoritative, and
//! where RFC 2131 §4.3.2 tells a server that knows nothing of a client to keep silent for the sake
//! of others, this one decides: a client that comes with an address which is free gets it (after a
//! restart of the engine guests keep theirs), and with any other it gets a NAK and starts afresh
//! without waiting for a timeout.
//!
//! [`message`] takes what clients send apart, [`leases`] knows who has which address, [`reply`]
//! writes what clients get; this file has the states of RFC 2131 §4.3.

mod leases;
mod message;
mod reply;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use towpath_stack::Instant;
use towpath_stack::wire::ethernet::MacAddress;

use self::leases::{Client, Leases, Place, Pool};
use self::message::{ClientMessage, Kind};
use self::reply::{Offer, Writer};
use super::counters::{Counter, Counters};
use super::names::Names;
use crate::config::{FixedLease, Holder, Network};

/// How long an offered address is kept for the client.
const OFFER_TIME: Duration = Duration::from_secs(60);
/// How long an address is put aside that a client found in use.
const DECLINE_TIME: Duration = Duration::from_secs(600);
/// The shortest lease that a client gets when it asks for less.
const LEASE_MIN: Duration = Duration::from_secs(60);

/// The server's state: its settings, and who has which address.
#[derive(Debug)]
pub(crate) struct Server {
    gateway: Ipv4Addr,
    lease: Duration,
    pool: Pool,
    leases: Leases,
    writer: Writer,
    names: Arc<Names>,
    counters: Arc<Counters>,
}

/// An answer and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Hardware address that it goes to, unless it is a broadcast.
    pub(crate) mac: [u8; 6],
    /// Address that it goes to; `None` is a broadcast.
    pub(crate) to: Option<Ipv4Addr>,
    /// The UDP payload.
    pub(crate) message: Vec<u8>,
}

impl Server {
    /// A server that keeps the addresses of `fixed` for their guests, and tells `names` who calls itself
    /// what.
    pub(crate) fn new(
        network: &Network,
        fixed: &[FixedLease],
        names: Arc<Names>,
        counters: Arc<Counters>,
    ) -> Self {
        let pool = Pool::of(network);
        let mut leases = Leases::new(pool);
        for lease in fixed {
            let place = match lease.holder {
                Holder::Mac(_) => Place::Any,
                Holder::Uuid(_) => Place::Nowhere,
            };
            if !leases.hold(Instant::ZERO, lease.mac().0, lease.address, place) {
                tracing::warn!("{} can't be kept for a guest", lease.address);
            }
        }
        Self {
            gateway: network.gateway4(),
            lease: network.lease,
            pool,
            leases,
            writer: Writer::new(network),
            names,
            counters,
        }
    }

    /// The ports below `unshared` are of links that the engine began with: their clients may have all
    /// addresses, while those behind any other port have a share.
    pub(crate) fn spare(&mut self, unshared: u16) {
        self.leases.spare(unshared);
    }

    /// Whether `address` is one that guests may have.
    pub(crate) fn is_for_guests(&self, address: Ipv4Addr) -> bool {
        self.pool.contains(address)
    }

    /// Keeps `address` for `mac`, which has none yet; whether it was free. It is given by DHCP once the
    /// guest has a port ([`Self::settle`]).
    pub(crate) fn hold(&mut self, now: Instant, mac: MacAddress, address: Ipv4Addr) -> bool {
        self.leases.hold(now, mac.0, address, Place::Nowhere)
    }

    /// The guest that an address is kept for, with `mac`, is behind `port`: it gets it there, and nobody
    /// gets it behind another, until the port is gone.
    pub(crate) fn settle(&mut self, mac: MacAddress, port: u16) {
        self.leases.settle(mac.0, port);
    }

    /// Gives back what is kept for `mac`.
    pub(crate) fn let_go(&mut self, mac: MacAddress) {
        if let Some(address) = self.leases.let_go(mac.0) {
            self.names.release(address);
        }
    }

    /// The guest with `mac` has gone: what is kept for it is given to others if there is nothing else.
    pub(crate) fn rest(&mut self, now: Instant, mac: MacAddress) {
        self.leases.rest(now, mac.0);
    }

    /// It has come again; whether its address is kept still.
    pub(crate) fn wake(&mut self, mac: MacAddress) -> bool {
        self.leases.wake(mac.0)
    }

    /// Whether an address is kept for `mac`.
    pub(crate) fn holds(&self, mac: MacAddress) -> bool {
        self.leases.holds(mac.0)
    }

    /// An address that may be held.
    pub(crate) fn find_free(&mut self, now: Instant) -> Option<Ipv4Addr> {
        loop {
            let found = self.leases.find_free(now);
            if found.is_some() || !self.give_up_resting() {
                return found;
            }
        }
    }

    fn give_up_resting(&mut self) -> bool {
        let address = self.leases.give_up_resting();
        if let Some(address) = address {
            self.names.release(address);
        }
        address.is_some()
    }

    /// A port is gone, and with it who was behind: their addresses are free, but remembered for them, and
    /// their names are free. So guests that come and go all day don't use all addresses up.
    pub(crate) fn on_departure(&mut self, now: Instant, port: u16) {
        for address in self.leases.end_port(now, port) {
            self.names.release(address);
        }
    }

    /// Takes one message that came at `now` by `port` in a frame from `mac`; the answer, if it gets one.
    pub(crate) fn on_message(
        &mut self,
        now: Instant,
        port: u16,
        mac: [u8; 6],
        bytes: &[u8],
    ) -> Option<Answer> {
        let Some(message) = ClientMessage::parse(bytes) else {
            self.counters.add(Counter::DhcpMalformed);
            return None;
        };
        // A relay must be on the segment: no other subnet has addresses here.
        if !message.relay.is_unspecified() && !self.pool.subnet_contains(message.relay) {
            self.counters.add(Counter::DhcpMalformed);
            return None;
        }
        let client = Client::of(&message, port);
        let (counter, reply) = match message.kind {
            Kind::Discover => (
                Counter::DhcpDiscover,
                self.on_discover(now, &client, &message),
            ),
            Kind::Request => (
                Counter::DhcpRequest,
                self.on_request(now, &client, &message),
            ),
            Kind::Inform => (Counter::DhcpInform, self.on_inform(&message)),
            Kind::Decline => (
                Counter::DhcpDecline,
                self.on_decline(now, &client, &message),
            ),
            Kind::Release => (
                Counter::DhcpRelease,
                self.on_release(now, &client, &message),
            ),
        };
        self.counters.add(counter);
        let reply = reply?;
        self.counters.add(reply.counter());
        let (to, is_client) = target(&message, &reply);
        let mac = if is_client { message.hardware } else { mac };
        Some(Answer {
            mac,
            to,
            message: self.writer.write(&message, &reply)?,
        })
    }

    /// RFC 2131 §4.3.1; with rapid commit the offer is the lease (RFC 4039 §3.1).
    fn on_discover(
        &mut self,
        now: Instant,
        client: &Client,
        message: &ClientMessage,
    ) -> Option<Reply> {
        if !self.leases.make_room(now, client) {
            self.counters.add(Counter::DhcpOverShare);
            return None;
        }
        let address = loop {
            let found = self.leases.choose(now, client, message.requested);
            if let Some(address) = found {
                break address;
            }
            if !self.give_up_resting() {
                self.counters.add(Counter::DhcpExhausted);
                return None;
            }
        };
        let lease = self.lease_for(message);
        if message.rapid_commit {
            self.bind(now, client, message, address, lease);
            return Some(Reply::Ack(Offer {
                address,
                lease,
                rapid_commit: true,
            }));
        }
        self.leases.offer(now, client, address, OFFER_TIME);
        Some(Reply::Offer(Offer {
            address,
            lease,
            rapid_commit: false,
        }))
    }

    /// RFC 2131 §4.3.2: which state the client is in shows in what it has filled in.
    fn on_request(
        &mut self,
        now: Instant,
        client: &Client,
        message: &ClientMessage,
    ) -> Option<Reply> {
        let address = match (message.server, message.requested) {
            // SELECTING, and another server was chosen: its offer stands, ours is void.
            (Some(server), _) if server != self.gateway => {
                self.leases.withdraw(now, client);
                return None;
            }
            // SELECTING ours, or INIT-REBOOT.
            (_, Some(requested)) if message.address.is_unspecified() => requested,
            // RENEWING or REBINDING. Some clients repeat the address as option 50, which they
            // must not, but it means the same.
            (_, None) if !message.address.is_unspecified() => message.address,
            (_, Some(requested)) if requested == message.address => requested,
            _ => return self.malformed(),
        };
        if !self.leases.may_have(now, client, address) {
            self.count_if_foreign(now, client, address);
            return Some(Reply::Nak);
        }
        if !self.leases.make_room(now, client) {
            self.counters.add(Counter::DhcpOverShare);
            return Some(Reply::Nak);
        }
        let lease = self.lease_for(message);
        self.bind(now, client, message, address, lease);
        Some(Reply::Ack(Offer {
            address,
            lease,
            rapid_commit: false,
        }))
    }

    /// RFC 2131 §4.3.5: settings alone, for a client that has its address from elsewhere.
    fn on_inform(&mut self, message: &ClientMessage) -> Option<Reply> {
        if self.pool.subnet_contains(message.address) {
            Some(Reply::Settings)
        } else {
            self.malformed()
        }
    }

    /// RFC 2131 §4.3.3: someone else has the address, who did not get it from here.
    fn on_decline(
        &mut self,
        now: Instant,
        client: &Client,
        message: &ClientMessage,
    ) -> Option<Reply> {
        if message.server.is_some_and(|server| server != self.gateway) {
            return None;
        }
        let Some(address) = message.requested else {
            return self.malformed();
        };
        if self.leases.decline(now, client, address, DECLINE_TIME) {
            self.names.release(address);
            tracing::info!("a guest declined {address}: another host uses it");
        } else {
            self.count_if_foreign(now, client, address);
        }
        None
    }

    /// RFC 2131 §4.3.4: the address is free, but remembered for this client.
    fn on_release(
        &mut self,
        now: Instant,
        client: &Client,
        message: &ClientMessage,
    ) -> Option<Reply> {
        if message.server.is_some_and(|server| server != self.gateway) {
            return None;
        }
        if self.leases.release(now, client, message.address) {
            self.names.release(message.address);
        } else {
            self.count_if_foreign(now, client, message.address);
        }
        None
    }

    /// Counts what a client was refused because the address is a guest's behind another port.
    fn count_if_foreign(&self, now: Instant, client: &Client, address: Ipv4Addr) {
        if self.leases.is_elsewhere(now, client.port(), address) {
            self.counters.add(Counter::DhcpForeign);
        }
    }

    /// Leases an address, and with it the name that the client gives itself.
    fn bind(
        &mut self,
        now: Instant,
        client: &Client,
        message: &ClientMessage,
        address: Ipv4Addr,
        lease: Duration,
    ) {
        self.leases.bind(now, client, address, lease);
        if let Some(name) = &message.host_name {
            self.names.claim(now, name.clone(), address, now + lease);
        }
    }

    fn malformed(&self) -> Option<Reply> {
        self.counters.add(Counter::DhcpMalformed);
        None
    }

    /// What the client asks for, but not more than configured.
    fn lease_for(&self, message: &ClientMessage) -> Duration {
        match message.lease_secs {
            Some(wanted) => {
                let wanted = Duration::from_secs(u64::from(wanted));
                wanted.max(LEASE_MIN).min(self.lease)
            }
            None => self.lease,
        }
    }
}

/// What the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Offer(Offer),
    Ack(Offer),
    /// An ACK to INFORM: no address, no lease.
    Settings,
    Nak,
}

impl Reply {
    fn counter(&self) -> Counter {
        match self {
            Self::Offer(_) => Counter::DhcpOffer,
            Self::Ack(_) | Self::Settings => Counter::DhcpAck,
            Self::Nak => Counter::DhcpNak,
        }
    }

    fn address(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Offer(offer) | Self::Ack(offer) => Some(offer.address),
            Self::Settings | Self::Nak => None,
        }
    }
}

/// Where a reply goes (RFC 2131 §4.1), and whether that is the client itself, which has no
/// address yet, rather than who sent the frame.
fn target(message: &ClientMessage, reply: &Reply) -> (Option<Ipv4Addr>, bool) {
    if !message.relay.is_unspecified() {
        (Some(message.relay), false)
    } else if *reply == Reply::Nak {
        (None, false)
    } else if !message.address.is_unspecified() {
        (Some(message.address), false)
    } else if message.broadcast {
        (None, false)
    } else {
        (reply.address(), true)
    }
}

#[cfg(test)]
mod tests;

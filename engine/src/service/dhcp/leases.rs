//! Who has which address.
//!
//! An address that was ever given out has an entry; its lease ends by time, never by a timer. Its
//! client stays in the entry after that, so that it gets the same address again for as long as no
//! one else needs it. New clients get addresses that no one had, then the one that is free for the
//! longest. The table is bounded: when all of its entries are in use, new clients get nothing.
//!
//! Guests behind different ports need not trust each other, and see each other's identifiers in broadcasts.
//! So a client is who it says it is *behind its port*: the same identifier behind another port is another
//! client, with an address of its own, and has no say in this one's lease. Once a port is gone the identifier
//! alone is remembered, and the guest may come again behind any port.
//!
//! Behind one port there may be a bridge with many machines, or one that makes clients up. So a port has
//! [`PORT_SHARE`] addresses at most: offered, leased and declined. Its oldest offer makes room for its next
//! client; leases don't. Only ports below `unshared` may have all: those of links that the engine began with.
//!
//! An address may be *held* for a hardware address: then that hardware gets it, whatever it calls itself,
//! and nobody else does. Fixed leases are held, and the addresses that guests were told by other means; those
//! are given behind the guest's own port only ([`Place`]). When such a guest has gone its address *rests*: it
//! is still held, until there is no other for a new client.
//!
//! Invariant: a client has one entry at most, and `clients` leads from each entry's client to it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use towpath_stack::Instant;

use super::message::ClientMessage;
use crate::config::Network;

/// Addresses that the table remembers, at most.
const LEASES_MAX: usize = 4096;
/// Addresses that a port's clients may have at a time, those that are held included.
const PORT_SHARE: usize = 64;

/// What a client calls itself: the identifier that it gives itself, else its hardware address (RFC 2131
/// §4.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Identity {
    Identifier(Box<[u8]>),
    Hardware([u8; 6]),
}

/// Who sent a message, and where it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    identity: Identity,
    hardware: [u8; 6],
    port: u16,
}

impl Client {
    pub(super) fn of(message: &ClientMessage, port: u16) -> Self {
        let identity = match &message.client_id {
            Some(id) => Identity::Identifier(id.clone()),
            None => Identity::Hardware(message.hardware),
        };
        Self {
            identity,
            hardware: message.hardware,
            port,
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    fn key(&self) -> Key {
        (self.identity.clone(), Some(self.port))
    }
}

/// A client in the table: what it calls itself, and its port until that is gone.
type Key = (Identity, Option<u16>);

/// Behind which port a held address is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Any: wherever the hardware is.
    Any,
    /// That of the guest that was told the address.
    Port(u16),
    /// None now: the guest must first be told the address again.
    Nowhere,
}

/// The addresses that may be given out, all from the third of the subnet to the last but the
/// broadcast address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    subnet: u32,
    mask: u32,
}

impl Pool {
    pub(super) fn of(network: &Network) -> Self {
        let mask = u32::MAX
            .checked_shl(32 - u32::from(network.subnet4.1))
            .unwrap_or(0);
        let subnet = u32::from(network.subnet4.0) & mask;
        Self { subnet, mask }
    }

    pub(super) fn mask(&self) -> Ipv4Addr {
        self.mask.into()
    }

    pub(super) fn broadcast(&self) -> Ipv4Addr {
        (self.subnet | !self.mask).into()
    }

    /// Whether a host of the subnet can have `address`.
    pub(super) fn subnet_contains(&self, address: Ipv4Addr) -> bool {
        let host = u32::from(address) & !self.mask;
        u32::from(address) & self.mask == self.subnet && host != 0 && host != !self.mask
    }

    /// Whether a guest can have `address`.
    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        self.range().contains(&address.into())
    }

    fn range(&self) -> RangeInclusive<u32> {
        self.subnet + 3..=(self.subnet | !self.mask).saturating_sub(1)
    }
}

/// All addresses that were given out.
#[derive(Debug)]
pub(super) struct Leases {
    pool: Pool,
    /// The ports below may have more than a share.
    unshared: u16,
    entries: HashMap<u32, Entry>,
    clients: HashMap<Key, u32>,
    /// Held addresses; `holders` is the same from the other side.
    held: HashMap<u32, Hold>,
    holders: HashMap<[u8; 6], u32>,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    hardware: [u8; 6],
    place: Place,
    resting_since: Option<Instant>,
}

impl Hold {
    fn is_given_at(&self, port: u16) -> bool {
        match self.place {
            Place::Any => true,
            Place::Port(own) => own == port,
            Place::Nowhere => false,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    /// Who has it, or had it last; no one when it was declined.
    identity: Option<Identity>,
    /// Behind which port that is; `None`: the port is gone, and the lease over.
    port: Option<u16>,
    /// Whether the client has only been offered it.
    is_offer: bool,
    /// When it becomes free.
    until: Instant,
}

impl Entry {
    fn key(self) -> Option<Key> {
        Some((self.identity?, self.port))
    }

    /// Whether this very client has it or had it, and its port is still there.
    fn is_of(&self, client: &Client) -> bool {
        self.identity.as_ref() == Some(&client.identity) && self.port == Some(client.port)
    }
}

impl Leases {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool,
            unshared: 0,
            entries: HashMap::new(),
            clients: HashMap::new(),
            held: HashMap::new(),
            holders: HashMap::new(),
        }
    }

    /// The ports below `unshared` may have more than a share.
    pub(super) fn spare(&mut self, unshared: u16) {
        self.unshared = unshared;
    }

    /// Holds `address` for `hardware`, which must hold none; whether it could: it is an address for
    /// guests, and free.
    pub(super) fn hold(
        &mut self,
        now: Instant,
        hardware: [u8; 6],
        address: Ipv4Addr,
        place: Place,
    ) -> bool {
        let can = self.is_free(now, address.into()) && !self.holders.contains_key(&hardware);
        if can {
            let hold = Hold {
                hardware,
                place,
                resting_since: None,
            };
            self.held.insert(address.into(), hold);
            self.holders.insert(hardware, address.into());
        }
        can
    }

    /// Ends what `hardware` holds, and the lease of that address with it; which that was.
    pub(super) fn let_go(&mut self, hardware: [u8; 6]) -> Option<Ipv4Addr> {
        let address = self.holders.remove(&hardware)?;
        self.held.remove(&address);
        self.remove(address);
        Some(address.into())
    }

    /// Who was told the address that is held for `hardware` is behind `port` now, until that is gone.
    pub(super) fn settle(&mut self, hardware: [u8; 6], port: u16) {
        if let Some(hold) = self.hold_of(hardware) {
            hold.place = Place::Port(port);
        }
    }

    /// The holder of an address has gone, and may come again.
    pub(super) fn rest(&mut self, now: Instant, hardware: [u8; 6]) {
        if let Some(hold) = self.hold_of(hardware) {
            hold.resting_since = Some(now);
        }
    }

    /// The holder has come again; whether it holds an address still.
    pub(super) fn wake(&mut self, hardware: [u8; 6]) -> bool {
        let hold = self.hold_of(hardware);
        hold.map(|hold| hold.resting_since = None).is_some()
    }

    pub(super) fn holds(&self, hardware: [u8; 6]) -> bool {
        self.holders.contains_key(&hardware)
    }

    /// Gives up the address that rests for the longest, because another needs it; which it was.
    pub(super) fn give_up_resting(&mut self) -> Option<Ipv4Addr> {
        let resting = self.held.iter().filter_map(|(&address, hold)| {
            hold.resting_since
                .map(|since| (since, address, hold.hardware))
        });
        let (_, _, hardware) = resting.min()?;
        self.let_go(hardware)
    }

    fn hold_of(&mut self, hardware: [u8; 6]) -> Option<&mut Hold> {
        self.held.get_mut(self.holders.get(&hardware)?)
    }

    /// An address that may be held: one that no one had, else the one that is free for the longest.
    /// `None` too where no more can be held.
    pub(super) fn find_free(&self, now: Instant) -> Option<Ipv4Addr> {
        self.never_used()
            .or_else(|| self.longest_free(|address| self.is_free(now, address)))
            .map(Ipv4Addr::from)
    }

    /// An address for a client that asks for any, best the one that it had, else the one that it
    /// `wanted` (RFC 2131 §4.3.1).
    pub(super) fn choose(
        &self,
        now: Instant,
        client: &Client,
        wanted: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let usable = |address: &u32| self.is_usable(now, client, *address);
        let had = || self.address_of(client).filter(usable);
        let wanted = || wanted.map(u32::from).filter(usable);
        self.due(now, client)
            .or_else(had)
            .or_else(wanted)
            .or_else(|| self.never_used())
            .or_else(|| self.longest_free(|address| usable(&address)))
            .map(Ipv4Addr::from)
    }

    /// Whether a client may have the very address that it asks for.
    pub(super) fn may_have(&self, now: Instant, client: &Client, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        if let Some(due) = self.due(now, client) {
            return due == address;
        }
        // It has another, or has been offered another.
        let has_other = self.address_of(client).is_some_and(|had| {
            had != address
                && self
                    .entries
                    .get(&had)
                    .is_some_and(|entry| entry.until > now)
        });
        !has_other && self.is_usable(now, client, address)
    }

    /// Whether `address` is in use behind another port than `port`, or kept for who is there.
    pub(super) fn is_elsewhere(&self, now: Instant, port: u16, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        let is_used = |entry: &Entry| entry.until > now && entry.port != Some(port);
        let is_kept = |hold: &Hold| !matches!(hold.place, Place::Any) && !hold.is_given_at(port);
        self.entries.get(&address).is_some_and(is_used)
            || self.held.get(&address).is_some_and(is_kept)
    }

    /// Makes room for a client in its port's share, if there must be; whether there is.
    pub(super) fn make_room(&mut self, now: Instant, client: &Client) -> bool {
        let is_in_use = |entry: &&Entry| entry.port == Some(client.port) && entry.until > now;
        let own = self.clients.get(&client.key());
        let has_one = own.and_then(|address| self.entries.get(address));
        if client.port < self.unshared
            || has_one.filter(is_in_use).is_some()
            || self.entries.values().filter(is_in_use).count() < PORT_SHARE
        {
            return true;
        }
        let offers = self.entries.iter();
        let oldest = offers
            .filter(|(_, entry)| is_in_use(entry) && entry.is_offer)
            .min_by_key(|(address, entry)| (entry.until, **address))
            .map(|(&address, _)| address);
        // Forgotten, not only ended: the next client gets the same address, not one more.
        oldest.and_then(|address| self.remove(address)).is_some()
    }

    /// Keeps an address for a client that has been offered it. A lease that it has stays.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        client: &Client,
        address: Ipv4Addr,
        time: Duration,
    ) {
        let address = u32::from(address);
        let has_it = self
            .entries
            .get(&address)
            .is_some_and(|entry| entry.is_of(client) && !entry.is_offer && entry.until > now);
        if !has_it {
            self.put(client, address, true, now + time);
        }
    }

    /// Leases an address to a client.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        client: &Client,
        address: Ipv4Addr,
        time: Duration,
    ) {
        self.put(client, address.into(), false, now + time);
    }

    /// Ends what all clients behind `port` have, which is gone; the addresses that they had leased. What
    /// they declined is free too: whether somebody else has that is for the next client to find out.
    pub(super) fn end_port(&mut self, now: Instant, port: u16) -> Vec<Ipv4Addr> {
        for hold in self.held.values_mut() {
            if hold.place == Place::Port(port) {
                hold.place = Place::Nowhere;
            }
        }
        let behind = |entry: &Entry| entry.port == Some(port);
        let addresses = self.entries.iter().filter(|(_, entry)| behind(entry));
        let addresses: Vec<u32> = addresses.map(|(&address, _)| address).collect();
        let leased = addresses.iter().filter(|address| {
            self.entries
                .get(address)
                .is_some_and(|entry| entry.identity.is_some() && entry.until > now)
        });
        let leased = leased.copied().map(Ipv4Addr::from).collect();
        for address in addresses {
            self.end(now, address);
        }
        leased
    }

    /// The port of who has `address` is gone: the client is remembered by its identity alone.
    fn end(&mut self, now: Instant, address: u32) {
        let Some(mut entry) = self.remove(address) else {
            return;
        };
        entry.port = None;
        entry.until = entry.until.min(now);
        if let Some(key) = entry.clone().key()
            && let Some(other) = self.clients.insert(key, address)
        {
            // Of two that called themselves the same, the last.
            self.entries.remove(&other);
        }
        self.entries.insert(address, entry);
    }

    /// Takes an offer back: the client has chosen another server.
    pub(super) fn withdraw(&mut self, now: Instant, client: &Client) {
        if let Some(entry) = self
            .clients
            .get(&client.key())
            .and_then(|had| self.entries.get_mut(had))
            && entry.is_offer
        {
            entry.until = entry.until.min(now);
        }
    }

    /// Ends a client's lease of `address`; whether it had it.
    pub(super) fn release(&mut self, now: Instant, client: &Client, address: Ipv4Addr) -> bool {
        match self.entries.get_mut(&u32::from(address)) {
            Some(entry) if entry.is_of(client) => {
                entry.until = entry.until.min(now);
                true
            }
            _ => false,
        }
    }

    /// Puts `address` aside for `time` if it was this client's; whether it was.
    pub(super) fn decline(
        &mut self,
        now: Instant,
        client: &Client,
        address: Ipv4Addr,
        time: Duration,
    ) -> bool {
        match self.entries.get_mut(&u32::from(address)) {
            Some(entry) if entry.is_of(client) => {
                *entry = Entry {
                    identity: None,
                    port: entry.port,
                    is_offer: false,
                    until: now + time,
                };
                self.clients.remove(&client.key());
                true
            }
            _ => false,
        }
    }

    fn put(&mut self, client: &Client, address: u32, is_offer: bool, until: Instant) {
        if let Some(had) = self.address_of(client) {
            self.remove(had);
        }
        self.remove(address);
        let entry = Entry {
            identity: Some(client.identity.clone()),
            port: Some(client.port),
            is_offer,
            until,
        };
        self.entries.insert(address, entry);
        self.clients.insert(client.key(), address);
        debug_assert!(self.entries.len() <= LEASES_MAX && self.clients.len() <= LEASES_MAX);
    }

    fn remove(&mut self, address: u32) -> Option<Entry> {
        let entry = self.entries.remove(&address)?;
        if let Some(key) = entry.clone().key() {
            self.clients.remove(&key);
        }
        Some(entry)
    }

    /// What the client has or had here, else what was its before its port was gone.
    fn address_of(&self, client: &Client) -> Option<u32> {
        let here = self.clients.get(&client.key());
        here.or_else(|| self.clients.get(&(client.identity.clone(), None)))
            .copied()
    }

    /// The address that is held for the client's hardware, unless it was declined.
    fn due(&self, now: Instant, client: &Client) -> Option<u32> {
        let held = self.holders.get(&client.hardware).copied();
        held.filter(|&address| self.is_usable(now, client, address))
    }

    /// Whether the client could be given `address` now.
    fn is_usable(&self, now: Instant, client: &Client, address: u32) -> bool {
        if !self.is_open_to(client, address) {
            return false;
        }
        // What is held is its hardware's, whatever identifier is in use there by now.
        let is_held = self.held.contains_key(&address);
        match self.entries.get(&address) {
            Some(entry) if entry.until <= now => true,
            Some(entry) if is_held => entry.identity.is_some() && entry.port == Some(client.port),
            Some(entry) => entry.is_of(client),
            // A client that has an entry gives it up for the new one.
            None => self.entries.len() < LEASES_MAX || self.address_of(client).is_some(),
        }
    }

    fn is_open_to(&self, client: &Client, address: u32) -> bool {
        self.pool.range().contains(&address)
            && self.held.get(&address).is_none_or(|hold| {
                hold.hardware == client.hardware && hold.is_given_at(client.port)
            })
    }

    /// Whether no one holds `address` and no one has it.
    fn is_free(&self, now: Instant, address: u32) -> bool {
        self.pool.range().contains(&address)
            && self.held.len() < LEASES_MAX
            && !self.held.contains_key(&address)
            && self
                .entries
                .get(&address)
                .is_none_or(|entry| entry.until <= now)
    }

    /// The lowest address that no one had or holds; at most twice the table's length is walked.
    fn never_used(&self) -> Option<u32> {
        if self.entries.len() >= LEASES_MAX || self.held.len() >= LEASES_MAX {
            return None;
        }
        self.pool
            .range()
            .find(|address| !self.held.contains_key(address) && !self.entries.contains_key(address))
    }

    fn longest_free(&self, is_free: impl Fn(u32) -> bool) -> Option<u32> {
        self.entries
            .iter()
            .filter(|(address, _)| is_free(**address))
            .min_by_key(|(address, entry)| (entry.until, **address))
            .map(|(&address, _)| address)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;
    use towpath_stack::Instant;

    use super::{Client, Identity, LEASES_MAX, Leases, PORT_SHARE, Place, Pool};
    use crate::config::Network;

    const HOUR: Duration = Duration::from_secs(3600);

    fn leases(subnet: [u8; 4], prefix: u8) -> Leases {
        let subnet = u32::from_be_bytes(subnet);
        let mask = u32::MAX << (32 - prefix);
        let mut leases = Leases::new(Pool { subnet, mask });
        let first = Ipv4Addr::from(subnet + 3);
        assert!(leases.hold(at(0), Network::GUEST_MAC.0, first, Place::Any));
        leases
    }

    fn hardware(n: u16) -> [u8; 6] {
        let [a, b] = n.to_be_bytes();
        [2, 0, 0, 0, a, b]
    }

    /// Each behind a port of its own.
    fn client(n: u16) -> Client {
        client_at(n, n)
    }

    fn client_at(n: u16, port: u16) -> Client {
        Client {
            identity: Identity::Hardware(hardware(n)),
            hardware: hardware(n),
            port,
        }
    }

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    fn lease(leases: &mut Leases, now: Instant, n: u16) -> Option<Ipv4Addr> {
        let address = leases.choose(now, &client(n), None)?;
        leases.bind(now, &client(n), address, HOUR);
        Some(address)
    }

    #[test]
    fn expired_leases_are_reused_oldest_first() {
        // .3 is held, .4 to .6 are open.
        let mut table = leases([10, 0, 2, 0], 29);
        for n in 0..3 {
            let address = lease(&mut table, at(u64::from(n)), n);
            assert_eq!(address, Some(Ipv4Addr::new(10, 0, 2, 4 + n as u8)));
        }
        assert_eq!(lease(&mut table, at(3599), 9), None, "all in use");
        assert_eq!(
            lease(&mut table, at(3600), 1),
            Some(Ipv4Addr::new(10, 0, 2, 5)),
            "renewed"
        );
        assert_eq!(
            lease(&mut table, at(3602), 9),
            Some(Ipv4Addr::new(10, 0, 2, 4)),
            "oldest"
        );
        assert_eq!(
            lease(&mut table, at(3603), 0),
            Some(Ipv4Addr::new(10, 0, 2, 6)),
            "the next"
        );
        assert_eq!(lease(&mut table, at(3604), 2), None);
    }

    #[test]
    fn a_full_table_gives_nothing_to_new_clients_and_keeps_the_old() {
        let mut table = leases([10, 0, 0, 0], 8);
        for n in 0..LEASES_MAX as u16 {
            assert!(lease(&mut table, at(1), n).is_some());
        }
        let n = LEASES_MAX as u16;
        assert_eq!(lease(&mut table, at(2), n), None);
        let free = Ipv4Addr::new(10, 200, 0, 1);
        assert!(!table.may_have(at(2), &client(n), free));
        assert_eq!(
            lease(&mut table, at(2), 7),
            Some(Ipv4Addr::new(10, 0, 0, 11))
        );
        let late = Instant::ZERO + 2 * HOUR;
        assert!(lease(&mut table, late, n).is_some());
        assert_eq!(table.entries.len(), LEASES_MAX);
        assert_eq!(table.clients.len(), LEASES_MAX);
    }

    #[test]
    fn a_port_has_a_share_and_its_oldest_offer_makes_room() {
        const SHARE: u16 = PORT_SHARE as u16;
        let mut table = leases([10, 0, 0, 0], 16);
        let offer = |table: &mut Leases, secs, n, port| {
            let client = client_at(n, port);
            table.make_room(at(secs), &client).then(|| {
                let address = table.choose(at(secs), &client, None).unwrap();
                table.offer(at(secs), &client, address, HOUR);
                address
            })
        };
        for n in 0..1000 {
            assert!(offer(&mut table, u64::from(n), n, 1).is_some());
        }
        assert_eq!(table.entries.len(), PORT_SHARE, "and no more were used");
        let last = offer(&mut table, 1000, 999, 1).unwrap();
        assert_eq!(table.address_of(&client_at(999, 1)), Some(last.into()));
        assert!(
            table.may_have(at(1000), &client_at(999, 1), last),
            "the newest stays"
        );

        for n in 0..SHARE {
            let client = client_at(n, 1);
            let address = offer(&mut table, 1001, n, 1).unwrap();
            table.bind(at(1001), &client, address, HOUR);
        }
        assert_eq!(offer(&mut table, 1002, SHARE, 1), None, "leases stay");
        assert!(offer(&mut table, 1002, 0, 1).is_some(), "it has one");
        assert!(offer(&mut table, 1002, 0, 2).is_some(), "another's share");
        // What is declined is not used up beside the share.
        let declined = table.address_of(&client_at(0, 1)).unwrap().into();
        assert!(table.decline(at(1003), &client_at(0, 1), declined, HOUR));
        assert_eq!(offer(&mut table, 1003, 0, 1), None);
        table.end_port(at(1004), 1);
        assert!(table.may_have(at(1004), &client(9), declined));
        assert!(offer(&mut table, 1004, 0, 1).is_some());

        table.spare(1);
        for n in 0..2 * SHARE {
            assert!(offer(&mut table, 1004, n, 0).is_some(), "no share here");
        }
    }

    proptest! {
        /// Any order of what clients do, some behind several ports and some that call themselves the same:
        /// no address has two, none has one that it may not have.
        #[test]
        fn no_address_is_leased_twice(
            steps in proptest::collection::vec((0..6_u8, 0..12_u16, 0..9_u8, 0..4000_u64), 0..80),
        ) {
            let mut table = leases([10, 0, 2, 0], 29);
            let mut now = at(0);
            let mut bound: Vec<(Client, Ipv4Addr, Instant)> = Vec::new();
            for (step, n, host, secs) in steps {
                now = now + Duration::from_secs(secs);
                let client = client_at(n / 3, n % 3);
                let address = Ipv4Addr::new(10, 0, 2, host);
                match step {
                    0 => {
                        if let Some(address) = table.choose(now, &client, Some(address)) {
                            table.offer(now, &client, address, HOUR);
                        }
                    }
                    1 | 2 => {
                        if table.may_have(now, &client, address) {
                            let taken = bound.iter().any(|(who, what, until)| {
                                *what == address && *who != client && *until > now
                            });
                            prop_assert!(!taken, "{address} is leased already");
                            prop_assert!((4..=6).contains(&host));
                            table.bind(now, &client, address, HOUR);
                            bound.retain(|(who, what, _)| *who != client && *what != address);
                            bound.push((client, address, now + HOUR));
                        }
                    }
                    3 => {
                        table.release(now, &client, address);
                        bound.retain(|(who, what, _)| *who != client || *what != address);
                    }
                    4 => {
                        table.end_port(now, client.port);
                        bound.retain(|(who, _, _)| who.port != client.port);
                    }
                    _ => {
                        table.decline(now, &client, address, HOUR);
                        bound.retain(|(who, what, _)| *who != client || *what != address);
                    }
                }
                prop_assert!(table.entries.len() <= 4);
                let entries = table.entries.iter();
                let mut owned: Vec<_> = entries
                    .filter_map(|(&address, entry)| Some((entry.clone().key()?, address)))
                    .collect();
                for (key, address) in &table.clients {
                    let place = owned.iter().position(|(k, a)| (k, a) == (key, address));
                    owned.swap_remove(place.expect("a client's entry is its own"));
                }
                prop_assert!(owned.is_empty(), "an entry that no client leads to");
            }
        }
    }
}

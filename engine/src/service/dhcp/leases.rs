//! Who has which address.
//!
//! An address that was ever given out has an entry; its lease ends by time, never by a timer. Its
//! client stays in the entry after that, so that it gets the same address again for as long as no
//! one else needs it. New clients get addresses that no one had, then the one that is free for the
//! longest. The table is bounded: when all of its entries are in use, new clients get nothing.
//!
//! An address may be *held* for a hardware address: then that hardware gets it, whatever it calls itself,
//! and nobody else does. Fixed leases are held, and the addresses that guests were told by other means. When
//! such a guest has gone its address *rests*: it is still held, until there is no other for a new client.
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

/// Who a client is: the identifier that it gives itself, else its hardware address (RFC 2131
/// §4.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    Identifier(Box<[u8]>),
    Hardware([u8; 6]),
}

impl Client {
    pub(super) fn of(message: &ClientMessage) -> Self {
        match &message.client_id {
            Some(id) => Self::Identifier(id.clone()),
            None => Self::Hardware(message.hardware),
        }
    }
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
    entries: HashMap<u32, Entry>,
    clients: HashMap<Client, u32>,
    /// Held addresses; `holders` is the same from the other side.
    held: HashMap<u32, Hold>,
    holders: HashMap<[u8; 6], u32>,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    hardware: [u8; 6],
    resting_since: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Who has it, or had it last; no one when it was declined.
    client: Option<Client>,
    /// Behind which port it is.
    port: u16,
    /// Whether the client has only been offered it.
    is_offer: bool,
    /// When it becomes free.
    until: Instant,
}

impl Leases {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool,
            entries: HashMap::new(),
            clients: HashMap::new(),
            held: HashMap::new(),
            holders: HashMap::new(),
        }
    }

    /// Holds `address` for `hardware`, which must hold none; whether it could: it is an address for
    /// guests, and free.
    pub(super) fn hold(&mut self, now: Instant, hardware: [u8; 6], address: Ipv4Addr) -> bool {
        let can = self.is_free(now, address.into()) && !self.holders.contains_key(&hardware);
        if can {
            let hold = Hold {
                hardware,
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
        if let Some(client) = self.entries.remove(&address).and_then(|entry| entry.client) {
            self.clients.remove(&client);
        }
        Some(address.into())
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
        hardware: [u8; 6],
        wanted: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let usable = |address: &u32| self.is_usable(now, client, hardware, *address);
        let had = || self.clients.get(client).copied().filter(usable);
        let wanted = || wanted.map(u32::from).filter(usable);
        self.due(now, client, hardware)
            .or_else(had)
            .or_else(wanted)
            .or_else(|| self.never_used())
            .or_else(|| self.longest_free(|address| usable(&address)))
            .map(Ipv4Addr::from)
    }

    /// Whether a client may have the very address that it asks for.
    pub(super) fn may_have(
        &self,
        now: Instant,
        client: &Client,
        hardware: [u8; 6],
        address: Ipv4Addr,
    ) -> bool {
        let address = u32::from(address);
        if let Some(due) = self.due(now, client, hardware) {
            return due == address;
        }
        // It has another, or has been offered another.
        let has_other = self.clients.get(client).is_some_and(|&had| {
            had != address
                && self
                    .entries
                    .get(&had)
                    .is_some_and(|entry| entry.until > now)
        });
        !has_other && self.is_usable(now, client, hardware, address)
    }

    /// Keeps an address for a client that has been offered it. A lease that it has stays.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        client: Client,
        port: u16,
        address: Ipv4Addr,
        time: Duration,
    ) {
        let address = u32::from(address);
        let has_it = self.entries.get(&address).is_some_and(|entry| {
            entry.client.as_ref() == Some(&client) && !entry.is_offer && entry.until > now
        });
        if !has_it {
            self.put(client, port, address, true, now + time);
        }
    }

    /// Leases an address to a client.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        client: Client,
        port: u16,
        address: Ipv4Addr,
        time: Duration,
    ) {
        self.put(client, port, address.into(), false, now + time);
    }

    /// Ends the leases of all clients behind `port`, which is gone; their addresses.
    pub(super) fn end_port(&mut self, now: Instant, port: u16) -> Vec<Ipv4Addr> {
        let behind = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.port == port && entry.client.is_some() && entry.until > now);
        behind
            .map(|(&address, entry)| {
                entry.until = now;
                address.into()
            })
            .collect()
    }

    /// Takes an offer back: the client has chosen another server.
    pub(super) fn withdraw(&mut self, now: Instant, client: &Client) {
        if let Some(entry) = self
            .clients
            .get(client)
            .and_then(|had| self.entries.get_mut(had))
            && entry.is_offer
        {
            entry.until = entry.until.min(now);
        }
    }

    /// Ends a client's lease of `address`; whether it had it.
    pub(super) fn release(&mut self, now: Instant, client: &Client, address: Ipv4Addr) -> bool {
        match self.entries.get_mut(&u32::from(address)) {
            Some(entry) if entry.client.as_ref() == Some(client) => {
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
            Some(entry) if entry.client.as_ref() == Some(client) => {
                *entry = Entry {
                    client: None,
                    port: entry.port,
                    is_offer: false,
                    until: now + time,
                };
                self.clients.remove(client);
                true
            }
            _ => false,
        }
    }

    fn put(&mut self, client: Client, port: u16, address: u32, is_offer: bool, until: Instant) {
        if let Some(had) = self.clients.insert(client.clone(), address)
            && had != address
        {
            self.entries.remove(&had);
        }
        let entry = Entry {
            client: Some(client),
            port,
            is_offer,
            until,
        };
        if let Some(Entry {
            client: Some(last), ..
        }) = self.entries.insert(address, entry)
            && self
                .entries
                .get(&address)
                .is_some_and(|entry| entry.client.as_ref() != Some(&last))
        {
            self.clients.remove(&last);
        }
        debug_assert!(self.entries.len() <= LEASES_MAX && self.clients.len() <= LEASES_MAX);
    }

    /// The address that is held for `hardware`, unless it was declined.
    fn due(&self, now: Instant, client: &Client, hardware: [u8; 6]) -> Option<u32> {
        let held = self.holders.get(&hardware).copied();
        held.filter(|&address| self.is_usable(now, client, hardware, address))
    }

    /// Whether the client could be given `address` now.
    fn is_usable(&self, now: Instant, client: &Client, hardware: [u8; 6], address: u32) -> bool {
        if !self.is_open_to(hardware, address) {
            return false;
        }
        // What is held is its hardware's, whatever identifier is in use there by now.
        let is_held = self.held.contains_key(&address);
        match self.entries.get(&address) {
            Some(Entry {
                client: Some(_), ..
            }) if is_held => true,
            Some(entry) => entry.client.as_ref() == Some(client) || entry.until <= now,
            // A client that has an entry gives it up for the new one.
            None => self.entries.len() < LEASES_MAX || self.clients.contains_key(client),
        }
    }

    fn is_open_to(&self, hardware: [u8; 6], address: u32) -> bool {
        self.pool.range().contains(&address)
            && self
                .held
                .get(&address)
                .is_none_or(|hold| hold.hardware == hardware)
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

    use super::{Client, LEASES_MAX, Leases, Pool};
    use crate::config::Network;

    const HOUR: Duration = Duration::from_secs(3600);

    fn leases(subnet: [u8; 4], prefix: u8) -> Leases {
        let subnet = u32::from_be_bytes(subnet);
        let mask = u32::MAX << (32 - prefix);
        let mut leases = Leases::new(Pool { subnet, mask });
        assert!(leases.hold(at(0), Network::GUEST_MAC.0, Ipv4Addr::from(subnet + 3)));
        leases
    }

    fn hardware(n: u16) -> [u8; 6] {
        let [a, b] = n.to_be_bytes();
        [2, 0, 0, 0, a, b]
    }

    fn client(n: u16) -> Client {
        Client::Hardware(hardware(n))
    }

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    fn lease(leases: &mut Leases, now: Instant, n: u16) -> Option<Ipv4Addr> {
        let address = leases.choose(now, &client(n), hardware(n), None)?;
        leases.bind(now, client(n), n, address, HOUR);
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
        assert!(!table.may_have(at(2), &client(n), hardware(n), free));
        assert_eq!(
            lease(&mut table, at(2), 7),
            Some(Ipv4Addr::new(10, 0, 0, 11))
        );
        let late = Instant::ZERO + 2 * HOUR;
        assert!(lease(&mut table, late, n).is_some());
        assert_eq!(table.entries.len(), LEASES_MAX);
        assert_eq!(table.clients.len(), LEASES_MAX);
    }

    proptest! {
        /// Any order of what clients do: no address has two, none has one that it may not have.
        #[test]
        fn no_address_is_leased_twice(
            steps in proptest::collection::vec((0..6_u8, 0..12_u16, 0..9_u8, 0..4000_u64), 0..80),
        ) {
            let mut table = leases([10, 0, 2, 0], 29);
            let mut now = at(0);
            let mut bound: Vec<(Client, Ipv4Addr, Instant)> = Vec::new();
            for (step, n, host, secs) in steps {
                now = now + Duration::from_secs(secs);
                let (client, hardware) = (client(n), hardware(n));
                let address = Ipv4Addr::new(10, 0, 2, host);
                match step {
                    0 => {
                        if let Some(address) = table.choose(now, &client, hardware, Some(address)) {
                            table.offer(now, client, n, address, HOUR);
                        }
                    }
                    1 | 2 => {
                        if table.may_have(now, &client, hardware, address) {
                            let taken = bound.iter().any(|(who, what, until)| {
                                *what == address && *who != client && *until > now
                            });
                            prop_assert!(!taken, "{address} is leased already");
                            prop_assert!((4..=6).contains(&host));
                            table.bind(now, client.clone(), n, address, HOUR);
                            bound.retain(|(who, what, _)| *who != client && *what != address);
                            bound.push((client, address, now + HOUR));
                        }
                    }
                    3 => {
                        table.release(now, &client, address);
                        bound.retain(|(who, what, _)| *who != client || *what != address);
                    }
                    4 => {
                        // Each client has a port of its own.
                        table.end_port(now, n);
                        bound.retain(|(who, _, _)| *who != client);
                    }
                    _ => {
                        table.decline(now, &client, address, HOUR);
                        bound.retain(|(who, what, _)| *who != client || *what != address);
                    }
                }
                prop_assert!(table.entries.len() <= 4);
                for (client, address) in &table.clients {
                    prop_assert_eq!(table.entries[address].client.as_ref(), Some(client));
                }
            }
        }
    }
}

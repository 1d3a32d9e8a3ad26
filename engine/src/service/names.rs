//! Names on the segment: `host.internal`, `gateway.internal`, and those of guests.
//!
//! A guest's name comes with a fixed lease, or from the guest itself, in its DHCP requests. It is good for
//! as long as the lease, and until then nobody else's: who comes first has it. Others look it up alone or in
//! `internal`, which exists nowhere else; IPv4 addresses lead back to it. The name of a fixed lease is found
//! in the segment's domain too, for it is the operator who gave it. What guests call themselves is not: the
//! domain may have real hosts, and any guest could take the place of one. These names are ours, so what
//! they have no record of is answered with nothing, not passed on. All other names are: also those in the
//! same domains, which may exist elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant as Clock;

use towpath_stack::Instant;

use crate::config::{FixedLease, Network};

/// Names that are remembered, at most.
const NAMES_MAX: usize = 4096;
/// The domain that every name is in.
const INTERNAL: &str = "internal";
const REVERSE: &str = "in-addr.arpa";

// RFC 1035 §3.2.2 to §3.2.5
const A: u16 = 1;
const PTR: u16 = 12;
const ANY: u16 = 255;

/// Who has which name.
#[derive(Debug)]
pub(crate) struct Names {
    domain: Option<String>,
    gateway: Ipv4Addr,
    host: Ipv4Addr,
    /// Where the DHCP server's time begins.
    origin: Clock,
    table: Mutex<Table>,
}

/// Invariant: each is the other from the other side.
#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<HostName, Named>,
    names: HashMap<Ipv4Addr, HostName>,
}

#[derive(Clone, Copy, Debug)]
struct Named {
    address: Ipv4Addr,
    /// `None`: for ever, by a fixed lease.
    until: Option<Instant>,
}

impl Named {
    fn is_fixed(&self) -> bool {
        self.until.is_none()
    }
}

/// What a name was looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    /// Alone.
    None,
    /// `internal`.
    Internal,
    /// The segment's own.
    Own,
}

/// What there is of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    A(Ipv4Addr),
    /// A domain name with dots, without the last.
    Ptr(String),
    /// The name exists, and has none of that kind.
    None,
}

impl Names {
    /// Names of `network`, with those of `fixed` leases. `origin` is where the DHCP server's time begins.
    pub(crate) fn new(network: &Network, fixed: &[FixedLease], origin: Clock) -> Self {
        let mut table = Table::default();
        for lease in fixed {
            if let Some(name) = &lease.name {
                table.put(name.clone(), lease.address, None);
            }
        }
        let domain = network.domain.as_ref();
        Self {
            domain: domain.map(|domain| domain.trim_end_matches('.').to_ascii_lowercase()),
            gateway: network.gateway4(),
            host: network.host4(),
            origin,
            table: Mutex::new(table),
        }
    }

    /// The guest at `address` calls itself `name`; a name that another has is not taken from it.
    pub(crate) fn claim(&self, now: Instant, name: HostName, address: Ipv4Addr, until: Instant) {
        let mut table = self.lock();
        let is_free = |named: &Named| {
            named.address == address && named.until.is_some()
                || named.until.is_some_and(|until| until <= now)
        };
        if !table.addresses.get(&name).is_none_or(is_free) || table.is_fixed(address) {
            return;
        }
        if table.names.len() >= NAMES_MAX {
            table.forget_old(now);
        }
        if table.names.len() < NAMES_MAX {
            table.put(name, address, Some(until));
        }
    }

    /// The guest at `address` has gone.
    pub(crate) fn release(&self, address: Ipv4Addr) {
        let mut table = self.lock();
        if !table.is_fixed(address) {
            table.remove(address);
        }
    }

    /// What is known of `name`, which has dots between its labels and any case; `None`: not our name.
    pub(crate) fn find(&self, name: &str, kind: u16) -> Option<Record> {
        let name = name.to_ascii_lowercase();
        let now = Instant::ZERO + self.origin.elapsed();
        let (record, own_kind) = match name.strip_suffix(REVERSE) {
            Some(reversed) => (Record::Ptr(self.name_at(now, reversed)?), PTR),
            None => (Record::A(self.address_of(now, &name)?), A),
        };
        Some(if kind == own_kind || kind == ANY {
            record
        } else {
            Record::None
        })
    }

    fn address_of(&self, now: Instant, name: &str) -> Option<Ipv4Addr> {
        let (host, domain) = match name.split_once('.') {
            Some((host, INTERNAL)) => (host, Domain::Internal),
            Some((host, domain)) if self.domain.as_deref() == Some(domain) => (host, Domain::Own),
            _ => (name, Domain::None),
        };
        match host {
            "gateway" if domain == Domain::Internal => return Some(self.gateway),
            "host" if domain == Domain::Internal => return Some(self.host),
            _ => {}
        }
        let named = self.lock().find(now, &host.parse().ok()?)?;
        (domain != Domain::Own || named.is_fixed()).then_some(named.address)
    }

    /// `reversed` is an address from its last byte to its first, each with a dot behind.
    fn name_at(&self, now: Instant, reversed: &str) -> Option<String> {
        let backwards: Ipv4Addr = reversed.strip_suffix('.')?.parse().ok()?;
        let [d, c, b, a] = backwards.octets();
        let address = Ipv4Addr::new(a, b, c, d);
        if address == self.gateway {
            return Some(format!("gateway.{INTERNAL}"));
        }
        if address == self.host {
            return Some(format!("host.{INTERNAL}"));
        }
        let table = self.lock();
        let name = table.names.get(&address)?;
        let is_fixed = table.find(now, name)?.is_fixed();
        let domain = self.domain.as_deref().filter(|_| is_fixed);
        let domain = domain.unwrap_or(INTERNAL);
        Some(format!("{name}.{domain}"))
    }

    /// Whoever panicked, a name too many or too few is no harm.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn find(&self, now: Instant, name: &HostName) -> Option<Named> {
        let named = self.addresses.get(name).copied();
        named.filter(|named| named.until.is_none_or(|until| until > now))
    }

    fn is_fixed(&self, address: Ipv4Addr) -> bool {
        let named = self
            .names
            .get(&address)
            .and_then(|name| self.addresses.get(name));
        named.is_some_and(Named::is_fixed)
    }

    fn put(&mut self, name: HostName, address: Ipv4Addr, until: Option<Instant>) {
        self.remove(address);
        let named = Named { address, until };
        if let Some(last) = self.addresses.insert(name.clone(), named) {
            self.names.remove(&last.address);
        }
        self.names.insert(address, name);
    }

    fn remove(&mut self, address: Ipv4Addr) {
        if let Some(name) = self.names.remove(&address) {
            self.addresses.remove(&name);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        self.addresses
            .retain(|_, named| named.until.is_none_or(|until| until > now));
        let addresses = &self.addresses;
        self.names.retain(|_, name| addresses.contains_key(name));
    }
}

/// Bytes of a label (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;
/// Names that mean something else to every guest. `wpad` and `isatap` would give whoever takes them the
/// others' traffic; `host` and `gateway` are the engine's own.
const TAKEN: [&str; 5] = ["localhost", "host", "gateway", "wpad", "isatap"];

/// The name of one host, without a domain: letters, digits and hyphens (RFC 1123 §2.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = String;

    /// Takes any case. A name of digits alone is none: resolvers take it for an address.
    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let is_label = (1..=LABEL_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|&b| b.is_ascii_alphanumeric() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
            && !bytes.iter().all(u8::is_ascii_digit);
        if !is_label {
            return Err(
                "a host's name has 1 to 63 letters, digits and hyphens, no hyphen at an end, and is no \
                 number"
                    .to_owned(),
            );
        }
        let name = text.to_ascii_lowercase();
        if TAKEN.contains(&name.as_str()) {
            return Err(format!("'{name}' is no guest's name"));
        }
        Ok(Self(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use towpath_stack::wire::ethernet::MacAddress;

    use super::*;
    use crate::config::Holder;

    fn ip(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 2, host)
    }

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    /// Seconds from now on: the time of the table has just begun.
    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    fn names(domain: Option<&str>) -> Names {
        let network = Network {
            subnet4: (ip(0), 24),
            subnet6: "fd00::".parse().unwrap(),
            mtu: 1500,
            gateway_mac: Network::GATEWAY_MAC,
            domain: domain.map(str::to_owned),
            search: Vec::new(),
            lease: Duration::from_secs(3600),
        };
        let fixed = FixedLease {
            holder: Holder::Mac(MacAddress([2, 0, 0, 0, 0, 9])),
            address: ip(9),
            name: Some(name("db")),
        };
        Names::new(&network, &[fixed], Clock::now())
    }

    #[test]
    fn a_name_is_found_alone_and_in_domains_of_ours() {
        let names = names(Some("Tow.Example."));
        names.claim(at(0), name("Web-1"), ip(5), at(3600));
        for text in ["web-1", "WEB-1", "web-1.internal", "Web-1.INTERNAL"] {
            assert_eq!(names.find(text, A), Some(Record::A(ip(5))), "{text}");
            assert_eq!(names.find(text, ANY), Some(Record::A(ip(5))));
            assert_eq!(names.find(text, 28), Some(Record::None), "AAAA of {text}");
        }
        for text in ["db", "db.internal", "db.tow.example"] {
            assert_eq!(names.find(text, A), Some(Record::A(ip(9))), "{text}");
        }
        assert_eq!(names.find("gateway.internal", A), Some(Record::A(ip(1))));
        assert_eq!(names.find("host.internal", 28), Some(Record::None));
        for text in [
            "",
            "web-2",
            "host",
            "gateway.tow.example",
            "web-1.tow.example",
            "web-1.example",
            "x.web-1.internal",
            "web-1.internal.internal",
            ".internal",
        ] {
            assert_eq!(names.find(text, A), None, "{text}");
        }
        let reverse = |host: u8| names.find(&format!("{host}.2.0.10.IN-ADDR.arpa"), PTR);
        assert_eq!(reverse(5), Some(Record::Ptr("web-1.internal".into())));
        assert_eq!(reverse(9), Some(Record::Ptr("db.tow.example".into())));
        assert_eq!(reverse(2), Some(Record::Ptr("host.internal".into())));
        assert_eq!(reverse(6), None);
        assert_eq!(names.find("5.2.0.10.in-addr.arpa", A), Some(Record::None));
        assert_eq!(names.find("2.0.10.in-addr.arpa", PTR), None);
        assert_eq!(names.find("in-addr.arpa", PTR), None);
    }

    #[test]
    fn who_comes_first_has_the_name_for_as_long_as_the_lease() {
        let names = names(None);
        names.claim(at(0), name("a"), ip(5), at(100_000));
        names.claim(at(1), name("a"), ip(6), at(100_000));
        assert_eq!(names.find("a", A), Some(Record::A(ip(5))));
        names.claim(at(100_000), name("a"), ip(6), at(200_000));
        assert_eq!(names.find("a", A), Some(Record::A(ip(6))));
        assert_eq!(names.find("5.2.0.10.in-addr.arpa", PTR), None);
        // A guest has one name, and may take another.
        names.claim(at(100_000), name("b"), ip(6), at(200_000));
        assert_eq!(names.find("a", A), None);
        names.release(ip(6));
        assert_eq!(names.find("b", A), None);
        names.claim(at(0), name("c"), ip(7), at(0));
        assert_eq!(names.find("c", A), None, "over at once");
    }

    #[test]
    fn a_fixed_name_stays() {
        let names = names(None);
        names.claim(at(0), name("db"), ip(5), at(3600));
        names.claim(at(0), name("other"), ip(9), at(3600));
        names.claim(at(0), name("db"), ip(9), at(0));
        names.release(ip(9));
        assert_eq!(names.find("db", A), Some(Record::A(ip(9))));
        assert_eq!(names.find("other", A), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let names = names(None);
        let address = |n: usize| Ipv4Addr::from(u32::from(ip(0)) + 20 + n as u32);
        for n in 0..NAMES_MAX + 10 {
            names.claim(at(0), name(&format!("n{n}")), address(n), at(3600));
        }
        assert_eq!(names.lock().names.len(), NAMES_MAX);
        names.claim(at(3600), name("late"), ip(5), at(7200));
        assert_eq!(names.find("late", A), Some(Record::A(ip(5))));
        assert_eq!(names.find("db", A), Some(Record::A(ip(9))));
        assert_eq!(names.lock().names.len(), 2);
        assert_eq!(names.lock().addresses.len(), 2);
    }

    #[test]
    fn host_names() {
        for text in ["a", "A-1", "3com", "xn--abc", &"x".repeat(63)] {
            assert_eq!(name(text).as_str(), text.to_ascii_lowercase());
        }
        let long = "x".repeat(64);
        for text in [
            "",
            "-a",
            "a-",
            "a.b",
            "a_b",
            "10",
            "ä",
            "a b",
            &long,
            "WPAD",
            "localhost",
            "host",
        ] {
            assert!(text.parse::<HostName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_looked_up(text in "\\PC{0,40}", kind: u16) {
            let _ = names(Some("a.b")).find(&text, kind);
            let _ = text.parse::<HostName>();
        }
    }
}

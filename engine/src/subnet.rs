//! Which subnets a guest gets: chosen so that it can still reach what the host can reach.
//!
//! A subnet that overlaps a route or an address of the host would hide that part of the host's network
//! from the guest. So the first of a short list of uncommon private subnets is taken that overlaps
//! none. Default routes don't count, nor do those that stand for one in halves (`0.0.0.0/1` and
//! `128.0.0.0/1`, as VPN clients set them, or `2000::/3`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::guest::configure::with_netlink;

/// Tried in this order (RFC 1918, and RFC 2544 for the last).
const CANDIDATES4: [(Ipv4Addr, u8); 6] = [
    (Ipv4Addr::new(10, 144, 97, 0), 24),
    (Ipv4Addr::new(172, 29, 144, 0), 24),
    (Ipv4Addr::new(192, 168, 227, 0), 24),
    (Ipv4Addr::new(10, 211, 163, 0), 24),
    (Ipv4Addr::new(172, 18, 203, 0), 24),
    (Ipv4Addr::new(198, 18, 77, 0), 24),
];

/// Tried in this order (unique local addresses, RFC 4193).
const CANDIDATES6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd74, 0x6f77, 0x7061, 0x7468, 0, 0, 0, 0),
    Ipv6Addr::new(0xfdc3, 0x1b5e, 0x90d2, 0x0001, 0, 0, 0, 0),
    Ipv6Addr::new(0xfd2a, 0xe47f, 0x36b8, 0x0001, 0, 0, 0, 0),
];

/// Prefixes shorter than these stand for "everything".
const SHORTEST4: u8 = 4;
const SHORTEST6: u8 = 7;

/// What the host's routes and addresses cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    /// IPv4 prefixes.
    pub v4: Vec<(Ipv4Addr, u8)>,
    /// IPv6 prefixes.
    pub v6: Vec<(Ipv6Addr, u8)>,
}

impl Occupied {
    /// Asks the kernel, in all routing tables of this network namespace.
    pub fn read() -> Result<Self, String> {
        with_netlink(dump)?.map_err(|error| format!("the host's routes can't be read: {error}"))
    }

    /// The prefix of the host that an IPv4 subnet overlaps, if any.
    pub fn collision4(&self, subnet: (Ipv4Addr, u8)) -> Option<(Ipv4Addr, u8)> {
        let (address, prefix) = subnet;
        self.v4.iter().copied().find(|&(taken, length)| {
            length >= SHORTEST4 && same(u32::from(taken), u32::from(address), length.min(prefix))
        })
    }

    /// The prefix of the host that an IPv6 /64 overlaps, if any.
    pub fn collision6(&self, subnet: Ipv6Addr) -> Option<(Ipv6Addr, u8)> {
        self.v6.iter().copied().find(|&(taken, length)| {
            length >= SHORTEST6 && same6(u128::from(taken), u128::from(subnet), length.min(64))
        })
    }

    /// The first IPv4 subnet of the list that is free.
    pub fn choose4(&self) -> Result<(Ipv4Addr, u8), String> {
        CANDIDATES4.into_iter().find(|&subnet| self.collision4(subnet).is_none()).ok_or_else(|| {
            "every IPv4 subnet that is tried collides with a route of the host: name a free one with \
             --subnet, for example --subnet 10.77.0.0/24"
                .to_owned()
        })
    }

    /// The first IPv6 prefix of the list that is free.
    pub fn choose6(&self) -> Result<Ipv6Addr, String> {
        CANDIDATES6.into_iter().find(|&subnet| self.collision6(subnet).is_none()).ok_or_else(|| {
            "every IPv6 prefix that is tried collides with a route of the host: name a free one with \
             --subnet6, for example --subnet6 fd12:3456:789a:1::/64"
                .to_owned()
        })
    }
}

/// Reads an IPv4 subnet as people write it: `10.0.2.0/24`, prefix length 8 to 29.
pub fn parse4(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let (address, prefix) = text
        .split_once('/')
        .ok_or_else(|| format!("'{text}' has no prefix length: write it as 10.0.2.0/24"))?;
    let address: Ipv4Addr = address
        .parse()
        .map_err(|_| format!("'{address}' is no IPv4 address: write it as 10.0.2.0/24"))?;
    let prefix = match prefix.parse::<u8>() {
        Ok(prefix @ 8..=29) => prefix,
        _ => return Err(format!("the prefix length '{prefix}' must be 8 to 29")),
    };
    let network = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - prefix)));
    if network != address {
        return Err(format!(
            "{text} names a host, not a subnet: did you mean {network}/{prefix}?"
        ));
    }
    if address.is_loopback()
        || address.is_multicast()
        || address.is_link_local()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240
    {
        return Err(format!(
            "{text} can't be a guest's subnet: take a private one, as 10.0.2.0/24"
        ));
    }
    Ok((address, prefix))
}

/// Reads an IPv6 prefix as people write it: `fd00:1:2:3::/64`, always a /64.
pub fn parse6(text: &str) -> Result<Ipv6Addr, String> {
    let (address, prefix) = text
        .split_once('/')
        .ok_or_else(|| format!("'{text}' has no prefix length: write it as fd00:1:2:3::/64"))?;
    let address: Ipv6Addr = address
        .parse()
        .map_err(|_| format!("'{address}' is no IPv6 address: write it as fd00:1:2:3::/64"))?;
    if prefix != "64" {
        return Err(format!(
            "the prefix length '{prefix}' must be 64 (SLAAC needs a /64)"
        ));
    }
    let network = Ipv6Addr::from(u128::from(address) & (u128::MAX << 64));
    if network != address {
        return Err(format!(
            "{text} names a host, not a prefix: did you mean {network}/64?"
        ));
    }
    // IPv4-mapped and other special addresses live in ::/64.
    if address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local() {
        return Err(format!(
            "{text} can't be a guest's prefix: take a unique local one, as fd00:1:2:3::/64"
        ));
    }
    Ok(address)
}

/// Whether the first `prefix` bits are equal.
fn same(a: u32, b: u32, prefix: u8) -> bool {
    (a ^ b)
        .checked_shr(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
        == 0
}

/// Whether the first `prefix` bits are equal.
fn same6(a: u128, b: u128, prefix: u8) -> bool {
    (a ^ b)
        .checked_shr(128 - u32::from(prefix.min(128)))
        .unwrap_or(0)
        == 0
}

async fn dump(netlink: Handle) -> Result<Occupied, rtnetlink::Error> {
    let mut occupied = Occupied::default();
    let mut addresses = netlink.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        for attribute in &message.attributes {
            if let AddressAttribute::Address(address) = attribute {
                occupied.add(*address, message.header.prefix_len);
            }
        }
    }
    for request in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let mut routes = netlink.route().get(request).execute();
        while let Some(route) = routes.try_next().await? {
            if let Some(destination) = destination(&route) {
                occupied.add(destination, route.header.destination_prefix_length);
            }
        }
    }
    Ok(occupied)
}

impl Occupied {
    fn add(&mut self, address: IpAddr, prefix: u8) {
        match address {
            IpAddr::V4(address) => self.v4.push((address, prefix)),
            IpAddr::V6(address) => self.v6.push((address, prefix)),
        }
    }
}

/// Where a route leads; `None` for default routes.
fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn occupied(v4: &[&str], v6: &[&str]) -> Occupied {
        let split = |text: &str| {
            let (address, prefix) = text.split_once('/').unwrap();
            (
                address.parse::<IpAddr>().unwrap(),
                prefix.parse::<u8>().unwrap(),
            )
        };
        let mut occupied = Occupied::default();
        for text in v4.iter().chain(v6) {
            let (address, prefix) = split(text);
            occupied.add(address, prefix);
        }
        occupied
    }

    #[test]
    fn the_first_that_is_free() {
        assert_eq!(occupied(&[], &[]).choose4().unwrap(), CANDIDATES4[0]);
        let ten = occupied(&["10.0.0.0/8"], &[]);
        assert_eq!(ten.choose4().unwrap(), CANDIDATES4[1]);
        let both = occupied(&["10.0.0.0/8", "172.29.144.77/32"], &[]);
        assert_eq!(both.choose4().unwrap(), CANDIDATES4[2]);
        let six = occupied(&[], &["fd74:6f77::/32"]);
        assert_eq!(six.choose6().unwrap(), CANDIDATES6[1]);
    }

    #[test]
    fn overlap_counts_both_ways() {
        let subnet = ("10.0.0.0".parse().unwrap(), 16);
        for (taken, collides) in [
            ("10.0.5.0/24", true),
            ("10.0.0.0/8", true),
            ("10.0.255.255/32", true),
            ("10.1.0.0/16", false),
            ("11.0.0.0/8", false),
        ] {
            assert_eq!(
                occupied(&[taken], &[]).collision4(subnet).is_some(),
                collides,
                "{taken}"
            );
        }
    }

    #[test]
    fn default_routes_and_their_halves_do_not_count() {
        let host = occupied(
            &["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"],
            &["::/0", "2000::/3", "::/1", "8000::/1"],
        );
        assert_eq!(host.choose4().unwrap(), CANDIDATES4[0]);
        assert_eq!(host.choose6().unwrap(), CANDIDATES6[0]);
    }

    #[test]
    fn nothing_free_names_the_option() {
        let full = occupied(
            &[
                "10.0.0.0/8",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "198.18.0.0/15",
            ],
            &["fc00::/7"],
        );
        assert!(full.choose4().unwrap_err().contains("--subnet "));
        assert!(full.choose6().unwrap_err().contains("--subnet6 "));
    }

    #[test]
    fn candidates_are_valid_themselves() {
        for (address, prefix) in CANDIDATES4 {
            assert_eq!(
                parse4(&format!("{address}/{prefix}")),
                Ok((address, prefix))
            );
        }
        for address in CANDIDATES6 {
            assert_eq!(parse6(&format!("{address}/64")), Ok(address));
        }
    }

    #[test]
    fn errors_name_what_is_wrong_and_the_corrected_form() {
        for (text, part) in [
            ("10.0.2.5/24", "10.0.2.0/24"),
            ("10.0.2.0", "no prefix length"),
            ("10.0.2.0/30", "'30' must be 8 to 29"),
            ("10.0.0.0/x", "'x' must be"),
            ("10.0.2/24", "'10.0.2'"),
            ("127.0.0.0/8", "can't be"),
            ("169.254.0.0/16", "can't be"),
            ("224.0.0.0/8", "can't be"),
            ("fd00::/64", "no IPv4"),
        ] {
            let error = parse4(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        for (text, part) in [
            ("fd00::5/64", "fd00::/64"),
            ("fd00::", "no prefix length"),
            ("fd00::/48", "'48' must be 64"),
            ("10.0.0.0/64", "no IPv6"),
            ("fe80::/64", "can't be"),
            ("::/64", "can't be"),
        ] {
            let error = parse6(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_host_of_this_test_has_a_loopback() {
        let Ok(host) = Occupied::read() else { return };
        assert!(
            host.collision4((Ipv4Addr::new(127, 0, 0, 0), 8)).is_some(),
            "{host:?}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,24}") {
            let _ = parse4(&text);
            let _ = parse6(&text);
        }

        #[test]
        fn any_prefix_is_compared(a: u32, b: u128, prefix: u8) {
            let host = Occupied { v4: vec![(a.into(), prefix)], v6: vec![(b.into(), prefix)] };
            let _ = (host.choose4(), host.choose6());
        }
    }
}

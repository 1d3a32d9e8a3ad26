//! What an engine is started with: addresses, limits and what the guest may reach.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use towpath_ring::driver::faulty::FaultPlan;
use towpath_stack::wire::ethernet::MacAddress;

use crate::driver::DriverChoice;
use crate::ports::PortSet;

pub use crate::service::names::HostName;
pub use uuid::Uuid;

/// Everything that the engine needs to know, apart from its links.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Number of engine cores (threads), at least 1.
    pub cores: usize,
    /// Whether each core's thread is pinned to a processor of its own.
    pub pin: bool,
    /// What carries the cores' I/O.
    pub driver: DriverChoice,
    /// For how long at most a core looks for what comes next before it goes to sleep; zero: not at all.
    pub busy_poll: Duration,
    /// Addresses on the guest's segment.
    pub network: Network,
    /// What of the host's own loopback the guest may reach through the host alias.
    pub host_loopback: HostLoopback,
    /// Where DNS queries go.
    pub dns: DnsUpstream,
    /// Bounds on what a guest may use.
    pub limits: Limits,
    /// What is done to frames both ways, to see what guest and engine make of it.
    pub faults: Option<FaultPlan>,
    /// Whether guests are kept from each other: then each sees the gateway and the host alone.
    pub isolate: bool,
    /// How long a guest may take none of the frames that wait for it, or may leave one half sent, before
    /// its link is closed.
    pub stall_timeout: Duration,
    /// Addresses that are kept for certain guests.
    pub leases: Vec<FixedLease>,
}

/// An address that one guest gets and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedLease {
    /// Whose it is.
    pub holder: Holder,
    /// The address, one of those for guests.
    pub address: Ipv4Addr,
    /// What other guests may call it by.
    pub name: Option<HostName>,
}

/// Who an address is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An interface.
    Mac(MacAddress),
    /// A guest that says its UUID, as those of vpnkit's protocol do.
    Uuid(Uuid),
}

impl FixedLease {
    /// The third address for the guest of `run` and `attach`, which has this MAC address.
    pub fn of_guest(network: &Network, mac: MacAddress) -> Self {
        Self {
            holder: Holder::Mac(mac),
            address: network.guest4(),
            name: None,
        }
    }

    /// The MAC address that the guest has.
    pub fn mac(&self) -> MacAddress {
        match self.holder {
            Holder::Mac(mac) => mac,
            Holder::Uuid(_) => Network::mac_of(self.address),
        }
    }
}

/// How long a guest's link may stand still unless told otherwise.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The guest's segment: one IPv4 and one IPv6 subnet with the gateway at `.1`/`::1`, the host's
/// alias at `.2`/`::2` and guests from `.3`/`::3`.
#[derive(Clone, Debug)]
pub struct Network {
    /// The IPv4 subnet's address and prefix length (8..=29).
    pub subnet4: (Ipv4Addr, u8),
    /// The IPv6 prefix; always a /64 (SLAAC, RFC 4862 §5.5.3).
    pub subnet6: Ipv6Addr,
    /// Link MTU in bytes, IP header included: 1280..=65520.
    pub mtu: u16,
    /// MAC address of the gateway and the host alias.
    pub gateway_mac: MacAddress,
    /// Domain name told by DHCP.
    pub domain: Option<String>,
    /// Search list told by DHCP and written to the guest's `resolv.conf`.
    pub search: Vec<String>,
    /// DHCP lease time.
    pub lease: Duration,
}

impl Network {
    /// MAC address of the gateway unless told otherwise: locally administered, "tow".
    pub const GATEWAY_MAC: MacAddress = MacAddress([0x02, 0x74, 0x6f, 0x77, 0x00, 0x01]);
    /// MAC address that `run` and `attach` give to the guest's interface.
    pub const GUEST_MAC: MacAddress = MacAddress([0x02, 0x74, 0x6f, 0x77, 0x00, 0x03]);

    /// MAC address of a guest that is told which to take: locally administered, and as unique on the
    /// segment as the guest's IPv4 address, which is in it.
    pub fn mac_of(address: Ipv4Addr) -> MacAddress {
        let [a, b, c, d] = address.octets();
        MacAddress([0x02, 0x50, a, b, c, d])
    }

    /// The `n`th address of the IPv4 subnet.
    pub fn nth4(&self, n: u32) -> Ipv4Addr {
        let (address, prefix) = self.subnet4;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Ipv4Addr::from((u32::from(address) & mask) + n)
    }

    /// The `n`th address of the IPv6 subnet.
    pub fn nth6(&self, n: u64) -> Ipv6Addr {
        Ipv6Addr::from((u128::from(self.subnet6) & (u128::MAX << 64)) + u128::from(n))
    }

    /// The gateway: answers ARP, ping, DNS and DHCP.
    pub fn gateway4(&self) -> Ipv4Addr {
        self.nth4(1)
    }

    /// The gateway's IPv6 address.
    pub fn gateway6(&self) -> Ipv6Addr {
        self.nth6(1)
    }

    /// The host's alias: leads to the host's 127.0.0.1 where that is open.
    pub fn host4(&self) -> Ipv4Addr {
        self.nth4(2)
    }

    /// The host's IPv6 alias: leads to the host's ::1 where that is open.
    pub fn host6(&self) -> Ipv6Addr {
        self.nth6(2)
    }

    /// The first guest's address.
    pub fn guest4(&self) -> Ipv4Addr {
        self.nth4(3)
    }

    /// The first guest's IPv6 address.
    pub fn guest6(&self) -> Ipv6Addr {
        self.nth6(3)
    }

    /// The gateway's link-local address, made from its MAC (RFC 4291 appendix A).
    pub fn link_local6(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.gateway_mac.0;
        let eui = [a ^ 0x02, b, c, 0xff, 0xfe, d, e, f];
        Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(u64::from_be_bytes(eui)))
    }
}

/// What of the host's loopback is open to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostLoopback {
    /// Nothing: the default.
    Closed,
    /// These ports, TCP and UDP.
    Open(PortSet),
}

/// Where DNS queries of guests are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsUpstream {
    /// The host's `/etc/resolv.conf`, read again when it changes.
    System,
    /// These servers, in this order.
    Servers(Vec<SocketAddr>),
}

/// Bounds; reached means: refuse the new, keep the old, count it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// TCP connections per guest.
    pub tcp_flows: usize,
    /// TCP connections that one side has not accepted yet, per guest, and half of it for one address
    /// of the guest; reached, the oldest makes room for the new one.
    pub tcp_pending: usize,
    /// UDP mappings per guest.
    pub udp_flows: usize,
    /// ICMP echo ids per guest.
    pub icmp_flows: usize,
    /// Bytes of payload that may wait in memory for slow readers, all flows together.
    pub buffer_bytes: usize,
    /// How long a UDP mapping lives without traffic (RFC 4787 REQ-5: at least 2 minutes).
    pub udp_timeout: Duration,
    /// How long an ICMP echo id lives without traffic (RFC 5508 REQ-1: at least 60 s).
    pub icmp_timeout: Duration,
    /// How long either side of a TCP connection may be silent before it is asked whether it is still there
    /// (RFC 5382 REQ-5: at least 2 hours 4 minutes; no connection whose sides answer ends).
    pub tcp_idle: Duration,
    /// How long a TCP connect may take before the guest is told that it failed.
    pub connect_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp_flows: 65_536,
            tcp_pending: 8_192,
            udp_flows: 8_192,
            icmp_flows: 1_024,
            buffer_bytes: 512 << 20,
            tcp_idle: Duration::from_secs(2 * 3600 + 4 * 60),
            udp_timeout: Duration::from_secs(180),
            icmp_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(130),
        }
    }
}

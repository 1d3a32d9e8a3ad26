//! The one step that every new flow passes before any host resource is spent on it: where does it
//! lead, and may it?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use towpath_stack::Address;

use crate::config::{HostLoopback, Network};

/// Where a flow leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// To an ordinary socket of the host.
    Host(SocketAddr),
    /// To the DNS forwarder at the gateway.
    Dns,
    /// To the DHCP server.
    Dhcp,
    /// Nowhere: the gateway itself says that no one listens.
    Refuse(Refusal),
    /// Nowhere, and without a word: multicast and broadcast.
    Ignore,
}

/// Why a flow is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The gateway has no such service, or the host's loopback is closed on that port.
    Closed,
    /// An address that a guest must not reach through the host: loopback, link-local, unspecified.
    Forbidden,
    /// An address of the guest's own segment where no one is.
    NoSuchGuest,
}

const DNS: u16 = 53;
const DHCP_SERVER: u16 = 67;

/// The policy of one engine: small, copied to each core.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    network: Network,
    loopback: HostLoopback,
}

impl Admission {
    pub(crate) fn new(network: Network, loopback: HostLoopback) -> Self {
        Self { network, loopback }
    }

    /// Judges a TCP or UDP flow from the guest to `target`.
    pub(crate) fn judge(&self, target: Address, port: u16) -> Verdict {
        match target.ip() {
            IpAddr::V4(ip) => self.judge4(ip, port),
            IpAddr::V6(ip) => self.judge6(ip, port),
        }
    }

    fn judge4(&self, ip: Ipv4Addr, port: u16) -> Verdict {
        let network = &self.network;
        if port == DHCP_SERVER && (ip == network.gateway4() || ip.is_broadcast()) {
            return Verdict::Dhcp;
        }
        if ip == network.gateway4() {
            return gateway(port);
        }
        if ip == network.host4() {
            return self.host_alias(Ipv4Addr::LOCALHOST.into(), port);
        }
        if ip.is_multicast() || ip.is_broadcast() || ip == self.broadcast4() {
            return Verdict::Ignore;
        }
        // 0.0.0.0/8 is "this host": Linux connects it to the loopback.
        if ip.is_loopback() || ip.is_link_local() || ip.octets()[0] == 0 {
            return Verdict::Refuse(Refusal::Forbidden);
        }
        if self.in_subnet4(ip) {
            return Verdict::Refuse(Refusal::NoSuchGuest);
        }
        Verdict::Host(SocketAddr::new(ip.into(), port))
    }

    fn judge6(&self, ip: Ipv6Addr, port: u16) -> Verdict {
        let network = &self.network;
        if ip == network.gateway6() || ip == network.link_local6() {
            return gateway(port);
        }
        if ip == network.host6() {
            return self.host_alias(Ipv6Addr::LOCALHOST.into(), port);
        }
        if ip.is_multicast() {
            return Verdict::Ignore;
        }
        // ::/96 holds ::, ::1 and the long gone IPv4-compatible addresses; mapped ones were
        // refused by the parser.
        if u128::from(ip) >> 32 == 0 || ip.is_unicast_link_local() {
            return Verdict::Refuse(Refusal::Forbidden);
        }
        if in_prefix6(network.subnet6, ip) {
            return Verdict::Refuse(Refusal::NoSuchGuest);
        }
        Verdict::Host(SocketAddr::new(ip.into(), port))
    }

    fn host_alias(&self, loopback: IpAddr, port: u16) -> Verdict {
        match &self.loopback {
            HostLoopback::Open(ports) if ports.contains(port) => {
                Verdict::Host(SocketAddr::new(loopback, port))
            }
            _ => Verdict::Refuse(Refusal::Closed),
        }
    }

    /// Whether a guest may speak from this address: one of its segment that is not ours, or a
    /// link-local IPv6 address that is not ours.
    pub(crate) fn may_speak(&self, source: Address) -> bool {
        let network = &self.network;
        match source.ip() {
            IpAddr::V4(ip) => {
                self.in_subnet4(ip)
                    && ip != network.gateway4()
                    && ip != network.host4()
                    && ip != self.broadcast4()
                    && ip != network.nth4(0)
            }
            IpAddr::V6(ip) => {
                (in_prefix6(network.subnet6, ip) || ip.is_unicast_link_local())
                    && ip != network.gateway6()
                    && ip != network.host6()
                    && ip != network.link_local6()
            }
        }
    }

    /// Whether the gateway itself answers pings to this address.
    pub(crate) fn is_ours(&self, target: Address) -> bool {
        let network = &self.network;
        match target.ip() {
            IpAddr::V4(ip) => ip == network.gateway4() || ip == network.host4(),
            IpAddr::V6(ip) => {
                ip == network.gateway6() || ip == network.host6() || ip == network.link_local6()
            }
        }
    }

    /// The gateway's IPv4 address, from which the DHCP server speaks.
    pub(crate) fn gateway4(&self) -> Address {
        self.network.gateway4().into()
    }

    /// The gateway's address of the same IP version as `address`.
    pub(crate) fn gateway_like(&self, address: Address) -> Address {
        if address.is_v4() {
            self.gateway4()
        } else {
            self.network.gateway6().into()
        }
    }

    /// How the guest sees a host address: the loopback as the host's alias, others as they are.
    pub(crate) fn as_seen_by_guest(&self, ip: IpAddr) -> Address {
        match ip {
            IpAddr::V4(ip) if ip.is_loopback() => self.network.host4().into(),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => self.network.host6().into(),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => self.as_seen_by_guest(ip.into()),
                None => ip.into(),
            },
            IpAddr::V4(ip) => ip.into(),
        }
    }

    fn in_subnet4(&self, ip: Ipv4Addr) -> bool {
        let shift = 32 - u32::from(self.network.subnet4.1);
        let head = |ip: Ipv4Addr| u32::from(ip).checked_shr(shift).unwrap_or(0);
        head(ip) == head(self.network.subnet4.0)
    }

    fn broadcast4(&self) -> Ipv4Addr {
        let hosts = u32::MAX
            .checked_shr(u32::from(self.network.subnet4.1))
            .unwrap_or(0);
        Ipv4Addr::from(u32::from(self.network.nth4(0)) | hosts)
    }
}

fn gateway(port: u16) -> Verdict {
    if port == DNS {
        Verdict::Dns
    } else {
        Verdict::Refuse(Refusal::Closed)
    }
}

fn in_prefix6(prefix: Ipv6Addr, ip: Ipv6Addr) -> bool {
    u128::from(prefix) >> 64 == u128::from(ip) >> 64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn admission(loopback: HostLoopback) -> Admission {
        let network = Network {
            subnet4: (Ipv4Addr::new(10, 1, 2, 0), 24),
            subnet6: "fd00:1::".parse().unwrap(),
            mtu: 1500,
            gateway_mac: Network::GATEWAY_MAC,
            domain: None,
            search: Vec::new(),
            lease: Duration::from_secs(60),
        };
        Admission::new(network, loopback)
    }

    fn judge(admission: &Admission, target: &str, port: u16) -> Verdict {
        admission.judge(target.parse::<IpAddr>().unwrap().into(), port)
    }

    #[test]
    fn the_hosts_own_side_is_closed() {
        let closed = admission(HostLoopback::Closed);
        for target in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
        ] {
            assert_eq!(
                judge(&closed, target, 80),
                Verdict::Refuse(Refusal::Forbidden),
                "{target}"
            );
        }
        for target in ["::", "::1", "::127.0.0.1", "fe80::5"] {
            assert_eq!(
                judge(&closed, target, 80),
                Verdict::Refuse(Refusal::Forbidden),
                "{target}"
            );
        }
        for target in ["10.1.2.2", "fd00:1::2", "10.1.2.1", "fd00:1::1"] {
            assert_eq!(
                judge(&closed, target, 80),
                Verdict::Refuse(Refusal::Closed),
                "{target}"
            );
        }
        for target in ["10.1.2.77", "fd00:1::77"] {
            assert_eq!(
                judge(&closed, target, 80),
                Verdict::Refuse(Refusal::NoSuchGuest)
            );
        }
    }

    #[test]
    fn loopback_opens_by_port() {
        let open = admission(HostLoopback::Open("8000-8010".parse().unwrap()));
        let to = |ip: &str| Verdict::Host(SocketAddr::new(ip.parse().unwrap(), 8001));
        assert_eq!(judge(&open, "10.1.2.2", 8001), to("127.0.0.1"));
        assert_eq!(judge(&open, "fd00:1::2", 8001), to("::1"));
        assert_eq!(
            judge(&open, "10.1.2.2", 8011),
            Verdict::Refuse(Refusal::Closed)
        );
        assert_eq!(
            judge(&open, "127.0.0.1", 8001),
            Verdict::Refuse(Refusal::Forbidden)
        );
    }

    #[test]
    fn services_and_the_world() {
        let closed = admission(HostLoopback::Closed);
        assert_eq!(judge(&closed, "10.1.2.1", 53), Verdict::Dns);
        assert_eq!(judge(&closed, "fd00:1::1", 53), Verdict::Dns);
        assert_eq!(judge(&closed, "255.255.255.255", 67), Verdict::Dhcp);
        assert_eq!(judge(&closed, "10.1.2.1", 67), Verdict::Dhcp);
        assert_eq!(judge(&closed, "255.255.255.255", 68), Verdict::Ignore);
        assert_eq!(judge(&closed, "10.1.2.255", 9), Verdict::Ignore);
        assert_eq!(judge(&closed, "224.0.0.251", 5353), Verdict::Ignore);
        assert_eq!(judge(&closed, "ff02::fb", 5353), Verdict::Ignore);
        assert_eq!(
            judge(&closed, "198.51.100.7", 443),
            Verdict::Host("198.51.100.7:443".parse().unwrap())
        );
        assert_eq!(
            judge(&closed, "2001:db8::1", 443),
            Verdict::Host("[2001:db8::1]:443".parse().unwrap())
        );
    }

    #[test]
    fn guests_speak_only_from_their_own_addresses() {
        let admission = admission(HostLoopback::Closed);
        let speaks = |ip: &str| admission.may_speak(ip.parse::<IpAddr>().unwrap().into());
        assert!(speaks("10.1.2.3") && speaks("10.1.2.254"));
        assert!(speaks("fd00:1::3") && speaks("fe80::1234"));
        for ip in [
            "10.1.2.0",
            "10.1.2.1",
            "10.1.2.2",
            "10.1.2.255",
            "10.1.3.3",
            "127.0.0.1",
        ] {
            assert!(!speaks(ip), "{ip}");
        }
        for ip in [
            "fd00:1::1",
            "fd00:1::2",
            "fd00:2::3",
            "::1",
            "fe80::74:6fff:fe77:1",
        ] {
            assert!(!speaks(ip), "{ip}");
        }
    }

    #[test]
    fn loopback_answers_come_from_the_alias() {
        let admission = admission(HostLoopback::Closed);
        let seen = |ip: &str| admission.as_seen_by_guest(ip.parse().unwrap()).to_string();
        assert_eq!(seen("127.0.0.1"), "10.1.2.2");
        assert_eq!(seen("::1"), "fd00:1::2");
        assert_eq!(seen("192.0.2.9"), "192.0.2.9");
    }
}

//! What a guest must not say to other guests.
//!
//! Whoever is gateway, router or DHCP server of a segment sees its traffic; here that is us, and
//! guests need not trust each other with that. (That one guest claims another's address is not looked for:
//! guests that must not know of each other are kept apart by `--isolate`.) These are the checks that switches call RA guard (RFC 6105,
//! RFC 7113), DHCP snooping and DHCPv6 shield (RFC 7610), and the inspection of ARP. They look at
//! what a frame was parsed into, behind all extension headers; of a fragmented packet the first
//! fragment must show enough to be judged (RFC 7112 §5), and the others mean nothing without it.

use towpath_stack::Address;
use towpath_stack::parse::{Body, Content, Fragment, IpPacket, Packet, Transport};
use towpath_stack::wire::ethernet::EtherType;
use towpath_stack::wire::icmpv6::Message;
use towpath_stack::wire::{ipv6, ndp, protocol};

use crate::policy::admission::Admission;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DHCP6_CLIENT: u16 = 546;
const DHCP6_SERVER: u16 = 547;

/// IEEE 802.3 §3.2.6: from here on it is a type, below it is the length of an LLC packet.
const LENGTHS_END: u16 = 0x0600;
/// VLAN tags (IEEE 802.1Q table 9-1), and what was used before there was one for providers.
const TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;
const OLD_SERVICE_TAG: u16 = 0x9100;

const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// Why a frame must not reach other guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trespass {
    /// It plays router: a router advertisement or a redirect.
    Router,
    /// It plays DHCP server.
    DhcpServer,
    /// It claims an address of ours.
    OurAddress,
    /// It is a first fragment that does not say what it begins, or is wrapped in a tag.
    Hidden,
}

/// Judges a frame that is about to go to other guests.
pub(crate) fn judge(packet: &Packet<'_>, admission: &Admission) -> Result<(), Trespass> {
    let ip = match &packet.body {
        // The sender of a request is believed just as that of a reply (RFC 826).
        Body::Arp(arp) => return claim(Address::v4(arp.sender), admission),
        Body::Ip(ip) => ip,
    };
    claim(ip.source, admission)?;
    match &ip.content {
        Content::Fragment(fragment) if fragment.offset == 0 => judge_first(ip, fragment),
        Content::Fragment(_) => Ok(()),
        Content::Transport(Transport::Udp {
            source_port,
            target_port,
            ..
        }) => judge_udp(ip, *source_port, *target_port),
        Content::Transport(Transport::IcmpV6(message)) => match message {
            Message::Ndp(ndp::Message::NeighborAdvertisement(advertisement)) => {
                claim(Address::v6(advertisement.target), admission)
            }
            Message::Ndp(ndp::Message::RouterAdvertisement(_))
            | Message::Other { kind: REDIRECT, .. } => Err(Trespass::Router),
            _ => Ok(()),
        },
        Content::Transport(_) => Ok(()),
    }
}

/// Judges a frame of a protocol that is not read here. Some stations take what is behind a priority
/// tag, or behind LLC and SNAP, like a frame without (RFC 1042, IEEE 802.1Q §6.9.1), so that none
/// of the above would hold for it.
pub(crate) fn judge_unread(ether_type: EtherType) -> Result<(), Trespass> {
    match ether_type.0 {
        ..LENGTHS_END | TAG | SERVICE_TAG | OLD_SERVICE_TAG => Err(Trespass::Hidden),
        _ => Ok(()),
    }
}

fn claim(address: Address, admission: &Admission) -> Result<(), Trespass> {
    if admission.is_ours(address) {
        Err(Trespass::OurAddress)
    } else {
        Ok(())
    }
}

/// Servers speak from their port, and clients listen at theirs to whatever port it is from.
fn judge_udp(ip: &IpPacket<'_>, source_port: u16, target_port: u16) -> Result<(), Trespass> {
    let (server, client) = if ip.source.is_v4() {
        (DHCP_SERVER, DHCP_CLIENT)
    } else {
        (DHCP6_SERVER, DHCP6_CLIENT)
    };
    if source_port == server || target_port == client {
        Err(Trespass::DhcpServer)
    } else {
        Ok(())
    }
}

/// Judges the first fragment of a packet by the start of its transport header.
fn judge_first(ip: &IpPacket<'_>, fragment: &Fragment<'_>) -> Result<(), Trespass> {
    let (mut protocol, mut at) = (fragment.protocol, 0);
    if !ip.source.is_v4() {
        let walk = ipv6::walk_extensions(protocol, fragment.payload, false)
            .map_err(|_| Trespass::Hidden)?;
        (protocol, at) = (walk.protocol, walk.offset);
    }
    let header = fragment.payload.get(at..).unwrap_or(&[]);
    match protocol {
        protocol::UDP => match *header {
            [a, b, c, d, ..] => {
                judge_udp(ip, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            }
            _ => Err(Trespass::Hidden),
        },
        // RFC 6980 §5: neighbour discovery is never fragmented, and what is must be ignored; not
        // every guest does.
        protocol::ICMPV6 => match *header {
            [ROUTER_ADVERTISEMENT | REDIRECT, ..] => Err(Trespass::Router),
            [kind, ..] if ndp::is_ndp(kind) => Err(Trespass::Hidden),
            [_, ..] => Ok(()),
            [] => Err(Trespass::Hidden),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;
    use crate::config::{HostLoopback, Network};
    use towpath_stack::build::{self, Checksum, EchoHeader, Envelope, Fragments, HEADER_MAX};
    use towpath_stack::parse::parse;
    use towpath_stack::wire::arp::{ArpPacket, Operation};
    use towpath_stack::wire::checksum::Sum;
    use towpath_stack::wire::ethernet::MacAddress;
    use towpath_stack::wire::ndp::{NeighborAdvertisement, RouterAdvertisement};
    use towpath_stack::wire::offload::Offload;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);

    fn network() -> Network {
        Network {
            subnet4: (Ipv4Addr::new(10, 1, 2, 0), 24),
            subnet6: "fd00:1::".parse().unwrap(),
            mtu: 1500,
            gateway_mac: Network::GATEWAY_MAC,
            domain: None,
            search: Vec::new(),
            lease: Duration::from_secs(60),
        }
    }

    fn verdict(frame: &[u8]) -> Result<(), Trespass> {
        let packet = parse(frame, &Offload::NONE).expect("a frame that can be read");
        judge(&packet, &Admission::new(network(), HostLoopback::Closed))
    }

    fn envelope(source: Address, target: Address) -> Envelope {
        Envelope {
            source_mac: MAC,
            target_mac: MacAddress::BROADCAST,
            source,
            target,
            hop_limit: 255,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        }
    }

    fn from4(source: Ipv4Addr) -> Envelope {
        envelope(source.into(), Ipv4Addr::new(10, 1, 2, 9).into())
    }

    fn from6(source: Ipv6Addr) -> Envelope {
        envelope(source.into(), network().nth6(9).into())
    }

    fn guest4() -> Envelope {
        from4(network().guest4())
    }

    fn guest6() -> Envelope {
        from6(network().guest6())
    }

    fn udp(e: &Envelope, source_port: u16, target_port: u16) -> Vec<u8> {
        let mut out = [0; HEADER_MAX];
        let sum = Checksum::Full(Sum::new());
        let (len, _) = build::udp(&mut out, e, source_port, target_port, 0, None, sum);
        out[..len].to_vec()
    }

    /// An ICMPv6 message, made from an echo of the same length.
    fn icmp6(e: &Envelope, message: &[u8]) -> Vec<u8> {
        let mut out = [0; HEADER_MAX];
        let echo = EchoHeader {
            reply: false,
            identifier: 0,
            sequence: 0,
        };
        let len = build::icmp_echo(&mut out, e, &echo, message.len() - 8, Sum::new());
        let mut frame = out[..len - 8].to_vec();
        let sum = Sum::new()
            .add_pseudo(e.source, e.target, protocol::ICMPV6, message.len() as u32)
            .add(message);
        frame.extend(message);
        frame[len - 6..len - 4].copy_from_slice(&sum.checksum().to_be_bytes());
        frame
    }

    #[test]
    fn a_guest_is_not_the_router() {
        let e = guest6();
        let advertisement = RouterAdvertisement::default();
        let frame = build::router_advertisement(&e, &advertisement);
        assert_eq!(verdict(frame.as_slice()), Err(Trespass::Router));
        let mut redirect = [0; 40];
        redirect[0] = REDIRECT;
        assert_eq!(verdict(&icmp6(&e, &redirect)), Err(Trespass::Router));
        let solicitation = [133, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(verdict(&icmp6(&e, &solicitation)), Ok(()));
    }

    #[test]
    fn a_guest_is_not_the_dhcp_server() {
        let (four, six) = (guest4(), guest6());
        let dhcp = Err(Trespass::DhcpServer);
        for (source, target, expected) in [
            (67, 68, dhcp),
            (67, 67, dhcp),
            (5_000, 68, dhcp),
            (68, 67, Ok(())),
            (547, 546, Ok(())),
            (53, 5_353, Ok(())),
        ] {
            let frame = udp(&four, source, target);
            assert_eq!(verdict(&frame), expected, "{source} to {target}");
        }
        for (source, target, expected) in [
            (547, 546, dhcp),
            (547, 547, dhcp),
            (5_000, 546, dhcp),
            (546, 547, Ok(())),
            (67, 68, Ok(())),
        ] {
            let frame = udp(&six, source, target);
            assert_eq!(verdict(&frame), expected, "{source} to {target}");
        }
    }

    #[test]
    fn a_guest_does_not_claim_our_addresses() {
        let network = network();
        let ours = Err(Trespass::OurAddress);
        let cases4 = [
            (network.gateway4(), ours),
            (network.host4(), ours),
            (network.guest4(), Ok(())),
            (Ipv4Addr::UNSPECIFIED, Ok(())),
        ];
        for (address, expected) in cases4 {
            for operation in [Operation::Request, Operation::Reply] {
                let packet = ArpPacket {
                    operation,
                    sender_mac: MAC,
                    sender: address.octets(),
                    target_mac: MacAddress([0; 6]),
                    target: network.gateway4().octets(),
                };
                let frame = build::arp(MAC, MacAddress::BROADCAST, &packet);
                assert_eq!(verdict(frame.as_slice()), expected, "{packet:?}");
            }
            assert_eq!(verdict(&udp(&from4(address), 1, 2)), expected, "{address}");
        }
        let cases6 = [
            (network.gateway6(), ours),
            (network.host6(), ours),
            (network.link_local6(), ours),
            (network.guest6(), Ok(())),
        ];
        for (address, expected) in cases6 {
            let advertisement = NeighborAdvertisement {
                target: address.octets(),
                router: false,
                solicited: false,
                overrides: true,
                target_mac: Some(MAC),
            };
            let frame = build::neighbor_advertisement(&guest6(), &advertisement);
            assert_eq!(verdict(frame.as_slice()), expected, "{address}");
            assert_eq!(verdict(&udp(&from6(address), 1, 2)), expected, "{address}");
        }
    }

    #[test]
    fn other_protocols_pass_but_for_what_wraps_these() {
        for ether_type in [0x0600, 0x8035, 0x88b5, 0xffff] {
            assert_eq!(judge_unread(EtherType(ether_type)), Ok(()));
        }
        for ether_type in [0, 46, 1500, 0x05ff, 0x8100, 0x88a8, 0x9100] {
            let verdict = judge_unread(EtherType(ether_type));
            assert_eq!(verdict, Err(Trespass::Hidden), "{ether_type:#x}");
        }
    }

    #[test]
    fn fragments_hide_nothing() {
        for (e, server, client) in [(guest4(), 67, 68), (guest6(), 547, 546)] {
            for (source, expected) in [(server, Err(Trespass::DhcpServer)), (9, Ok(()))] {
                let target = if source == server { client } else { 9 };
                let payload = [0; 3_000];
                let sum = Sum::new().add(&payload);
                let mut fragments = Fragments::udp(&e, 1, source, target, 3_000, sum, 1_500);
                let mut out = [0; HEADER_MAX];
                let mut verdicts = Vec::new();
                while let Some((len, range)) = fragments.next(&mut out) {
                    verdicts.push(verdict(&[&out[..len], &payload[range]].concat()));
                }
                assert_eq!(verdicts, [expected, Ok(()), Ok(())]);
            }
        }
    }

    #[test]
    fn a_first_fragment_shows_what_it_begins() {
        let first = |protocol, payload: &[u8]| {
            let ip = IpPacket {
                source: network().guest6().into(),
                target: network().nth6(9).into(),
                hop_limit: 255,
                traffic_class: 0,
                dont_fragment: true,
                protocol,
                bytes: &[],
                header_len: 48,
                content: Content::Transport(Transport::Other {
                    protocol,
                    payload: 0..0,
                }),
            };
            let fragment = Fragment {
                identification: 1,
                offset: 0,
                more: true,
                protocol,
                payload,
            };
            judge_first(&ip, &fragment)
        };
        let options = protocol::DESTINATION_OPTIONS;
        let hidden = Err(Trespass::Hidden);
        assert_eq!(first(protocol::ICMPV6, &[134, 0]), Err(Trespass::Router));
        assert_eq!(first(protocol::ICMPV6, &[137, 0]), Err(Trespass::Router));
        assert_eq!(first(protocol::ICMPV6, &[136, 0]), hidden);
        assert_eq!(first(protocol::ICMPV6, &[128, 0]), Ok(()));
        assert_eq!(first(protocol::UDP, &[0, 9, 0]), hidden);
        let behind_options = [58, 0, 1, 4, 0, 0, 0, 0, 134, 0];
        assert_eq!(first(options, &behind_options), Err(Trespass::Router));
        assert_eq!(first(options, &behind_options[..8]), hidden);
        assert_eq!(first(options, &[58, 1, 1, 4, 0, 0, 0, 0]), hidden);
        assert_eq!(first(protocol::TCP, &[0, 9]), Ok(()));
    }
}

//! What the gateway answers on its link: ARP and neighbour discovery.
//!
//! The gateway and the host's alias have one MAC address; requests for any other address are left
//! alone, as guests on one link ask each other. What a packet taught about its sender is handed
//! back, and the table of neighbours is the caller's.

use crate::Address;
use crate::build::{self, Envelope, Frame};
use crate::parse::{Ethernet, IpPacket};
use crate::wire::MacAddress;
use crate::wire::arp::{ArpPacket, Operation};
use crate::wire::ndp::{
    ALL_NODES, DnsServer, Message, NeighborAdvertisement, PrefixInformation, RouterAdvertisement,
};

/// Hop limit of neighbour discovery, which no router passes on (RFC 4861 §3.1).
pub const NDP_HOP_LIMIT: u8 = 255;
/// Seconds that addresses made from the advertised prefix are valid: a day.
const VALID_LIFETIME_S: u32 = 86_400;
/// Seconds that they are preferred: four hours.
const PREFERRED_LIFETIME_S: u32 = 14_400;

/// Who we are on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbors {
    /// MAC address of the gateway and of the host's alias.
    pub gateway_mac: MacAddress,
    /// IPv4 address of the gateway.
    pub gateway4: [u8; 4],
    /// IPv4 address of the host's alias.
    pub host4: [u8; 4],
    /// IPv6 address of the gateway.
    pub gateway6: Address,
    /// IPv6 address of the host's alias.
    pub host6: Address,
    /// Link-local IPv6 address of the gateway.
    pub link_local6: Address,
    /// The prefix that guests make addresses from, and its length in bits.
    pub prefix6: ([u8; 16], u8),
    /// MTU of the link in bytes.
    pub mtu: u16,
    /// DNS server to advertise.
    pub dns6: Option<Address>,
    /// Seconds that the gateway is the default router after an advertisement, at most 9000
    /// (RFC 4861 §6.2.1); 0 is not at all.
    pub router_lifetime_s: u16,
}

/// What becomes of a neighbour message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// A frame to send back.
    pub reply: Option<Frame>,
    /// What was learnt: this address is at this MAC address.
    pub learned: Option<(Address, MacAddress)>,
}

impl Neighbors {
    /// Answers an ARP packet: requests for the gateway and the host's alias get a reply.
    pub fn on_arp(&self, packet: &ArpPacket) -> Answer {
        let ArpPacket {
            operation,
            sender_mac,
            sender,
            target_mac: _,
            target,
        } = *packet;
        if !is_station(sender_mac) || self.is_ours4(sender) {
            return Answer::default();
        }
        // RFC 5227 §1.1: a probe comes from 0.0.0.0, and teaches nothing.
        let learned = (sender != [0; 4]).then(|| (Address::v4(sender), sender_mac));
        let asked = operation == Operation::Request && self.is_ours4(target);
        let reply = asked.then(|| {
            let reply = ArpPacket {
                operation: Operation::Reply,
                sender_mac: self.gateway_mac,
                sender: target,
                target_mac: sender_mac,
                target: sender,
            };
            build::arp(self.gateway_mac, sender_mac, &reply)
        });
        Answer { reply, learned }
    }

    /// Answers a neighbour discovery message: solicitations for the gateway's addresses and the
    /// host's alias get an advertisement, router solicitations the router's.
    pub fn on_ndp(&self, ethernet: &Ethernet, packet: &IpPacket<'_>, message: &Message) -> Answer {
        // RFC 4861 §6.1.1, §7.1.1, §7.1.2: one that a router passed on is not valid.
        let local = packet.hop_limit == NDP_HOP_LIMIT && is_station(ethernet.source);
        if !local || self.is_ours6(packet.source) {
            return Answer::default();
        }
        let unspecified = packet.source == Address::UNSPECIFIED_V6;
        let learn = |address: Address, mac: Option<MacAddress>| {
            mac.filter(|mac| is_station(*mac) && !self.is_ours6(address))
                .map(|mac| (address, mac))
        };
        match *message {
            Message::RouterSolicitation { source_mac } => {
                // RFC 4861 §6.1.1: no link-layer address where there is no address.
                if unspecified && source_mac.is_some() {
                    return Answer::default();
                }
                let learned = learn(packet.source, source_mac);
                let reply = if unspecified {
                    self.unsolicited_ra()
                } else {
                    let mac = source_mac
                        .filter(|&mac| is_station(mac))
                        .unwrap_or(ethernet.source);
                    self.router_advertisement(packet.source, mac)
                };
                Answer {
                    reply: Some(reply),
                    learned,
                }
            }
            Message::NeighborSolicitation { target, source_mac } => {
                // RFC 4861 §7.1.1: a probe for duplicates goes to the solicited-node group and
                // has no link-layer address.
                if unspecified && (source_mac.is_some() || !is_solicited_node(packet.target)) {
                    return Answer::default();
                }
                let learned = if unspecified {
                    None
                } else {
                    learn(packet.source, source_mac)
                };
                let target = Address::v6(target);
                let reply = self.is_ours6(target).then(|| {
                    let mac = source_mac
                        .filter(|&mac| is_station(mac))
                        .unwrap_or(ethernet.source);
                    self.neighbor_advertisement(
                        target,
                        (!unspecified).then_some(packet.source),
                        mac,
                    )
                });
                Answer { reply, learned }
            }
            Message::NeighborAdvertisement(advertisement) => {
                let NeighborAdvertisement {
                    target,
                    solicited,
                    target_mac,
                    ..
                } = advertisement;
                // RFC 4861 §7.1.2: what goes to many answers nobody.
                if solicited && packet.target.octets()[0] == 0xff {
                    return Answer::default();
                }
                Answer {
                    reply: None,
                    learned: learn(Address::v6(target), target_mac),
                }
            }
            // We are the router.
            Message::RouterAdvertisement(_) => Answer::default(),
        }
    }

    /// The router advertisement for all nodes, to be sent at times (RFC 4861 §6.2.4).
    pub fn unsolicited_ra(&self) -> Frame {
        self.router_advertisement(
            Address::v6(ALL_NODES),
            MacAddress::of_multicast6(&ALL_NODES),
        )
    }

    fn router_advertisement(&self, target: Address, target_mac: MacAddress) -> Frame {
        let (prefix, prefix_len) = self.prefix6;
        let advertisement = RouterAdvertisement {
            hop_limit: build::HOP_LIMIT,
            managed: false,
            other: false,
            router_lifetime_s: self.router_lifetime_s,
            source_mac: Some(self.gateway_mac),
            mtu: Some(self.mtu.into()),
            prefix: Some(PrefixInformation {
                prefix,
                prefix_len,
                on_link: true,
                autonomous: true,
                valid_lifetime_s: VALID_LIFETIME_S,
                preferred_lifetime_s: PREFERRED_LIFETIME_S,
            }),
            dns: self.dns6.map(|address| DnsServer {
                address: *address.octets(),
                lifetime_s: self.router_lifetime_s.into(),
            }),
        };
        // RFC 4861 §4.2: the source is the router's link-local address.
        let envelope = self.envelope(self.link_local6, target, target_mac);
        build::router_advertisement(&envelope, &advertisement)
    }

    /// Says where `target` is to `asker`, or to all nodes when it has no address yet
    /// (RFC 4861 §7.2.4).
    fn neighbor_advertisement(
        &self,
        target: Address,
        asker: Option<Address>,
        asker_mac: MacAddress,
    ) -> Frame {
        let advertisement = NeighborAdvertisement {
            target: *target.octets(),
            router: target != self.host6,
            solicited: asker.is_some(),
            overrides: true,
            target_mac: Some(self.gateway_mac),
        };
        let (to, mac) = match asker {
            Some(asker) => (asker, asker_mac),
            None => (
                Address::v6(ALL_NODES),
                MacAddress::of_multicast6(&ALL_NODES),
            ),
        };
        build::neighbor_advertisement(&self.envelope(target, to, mac), &advertisement)
    }

    fn envelope(&self, source: Address, target: Address, target_mac: MacAddress) -> Envelope {
        Envelope {
            source_mac: self.gateway_mac,
            target_mac,
            source,
            target,
            hop_limit: NDP_HOP_LIMIT,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        }
    }

    fn is_ours4(&self, address: [u8; 4]) -> bool {
        address == self.gateway4 || address == self.host4
    }

    fn is_ours6(&self, address: Address) -> bool {
        address == self.gateway6 || address == self.host6 || address == self.link_local6
    }
}

/// Whether a MAC address can be that of one station.
fn is_station(mac: MacAddress) -> bool {
    !mac.is_multicast() && !mac.is_zero()
}

/// Whether an address is in `ff02::1:ff00:0/104` (RFC 4291 §2.7.1).
fn is_solicited_node(address: Address) -> bool {
    address.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Body, Content, Packet, Transport, parse};
    use crate::wire::checksum::Sum;
    use crate::wire::icmpv6;
    use crate::wire::offload::Offload;
    use std::vec::Vec;

    const GATEWAY: MacAddress = MacAddress([2, 0x74, 0x6f, 0x77, 0, 1]);
    const GUEST: MacAddress = MacAddress([2, 0x74, 0x6f, 0x77, 0, 3]);

    /// `fd00::` with these last bytes.
    fn ula(last: u16) -> Address {
        let [a, b] = last.to_be_bytes();
        Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b])
    }

    fn link_local(last: u8) -> Address {
        Address::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }

    fn solicited_node(of: Address) -> Address {
        let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
        group[13..].copy_from_slice(&of.octets()[13..]);
        Address::v6(group)
    }

    fn neighbors() -> Neighbors {
        Neighbors {
            gateway_mac: GATEWAY,
            gateway4: [10, 0, 2, 1],
            host4: [10, 0, 2, 2],
            gateway6: ula(1),
            host6: ula(2),
            link_local6: link_local(1),
            prefix6: (*ula(0).octets(), 64),
            mtu: 1500,
            dns6: Some(ula(1)),
            router_lifetime_s: 1800,
        }
    }

    fn arp_request(sender: [u8; 4], target: [u8; 4]) -> ArpPacket {
        ArpPacket {
            operation: Operation::Request,
            sender_mac: GUEST,
            sender,
            target_mac: MacAddress([0; 6]),
            target,
        }
    }

    /// What a message of ours is, after the parser's checks.
    fn read(frame: &Frame) -> (Packet<'_>, Message) {
        let packet = parse(frame.as_slice(), &Offload::NONE).unwrap();
        let Body::Ip(ip) = &packet.body else {
            panic!("IP")
        };
        assert_eq!(ip.hop_limit, 255);
        let Content::Transport(Transport::IcmpV6(icmpv6::Message::Ndp(message))) = &ip.content
        else {
            panic!("NDP")
        };
        let message = *message;
        (packet, message)
    }

    /// A frame with an ICMPv6 message from the guest.
    fn guest_frame(source: Address, target: Address, hops: u8, body: &[u8]) -> Vec<u8> {
        let mut body = Vec::from(body);
        let sum = Sum::new()
            .add_pseudo(source, target, 58, body.len() as u32)
            .add(&body);
        body[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
        let mut frame = Vec::from(GATEWAY.0);
        frame.extend(GUEST.0);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, body.len() as u8, 58, hops]);
        frame.extend(source.octets());
        frame.extend(target.octets());
        frame.extend(body);
        frame
    }

    fn answer(frame: &[u8]) -> Answer {
        let packet = parse(frame, &Offload::NONE).unwrap();
        let Body::Ip(ip) = &packet.body else {
            panic!("IP")
        };
        let Content::Transport(Transport::IcmpV6(icmpv6::Message::Ndp(message))) = &ip.content
        else {
            panic!("NDP")
        };
        neighbors().on_ndp(&packet.ethernet, ip, message)
    }

    fn solicitation(target: Address, mac: Option<MacAddress>) -> Vec<u8> {
        let mut body = Vec::from([135, 0, 0, 0, 0, 0, 0, 0]);
        body.extend(target.octets());
        if let Some(mac) = mac {
            body.extend([1, 1]);
            body.extend(mac.0);
        }
        body
    }

    #[test]
    fn arp_requests_for_ours_are_answered() {
        for target in [[10, 0, 2, 1], [10, 0, 2, 2]] {
            let answer = neighbors().on_arp(&arp_request([10, 0, 2, 3], target));
            assert_eq!(answer.learned, Some((Address::v4([10, 0, 2, 3]), GUEST)));
            let reply = answer.reply.unwrap();
            let packet = parse(reply.as_slice(), &Offload::NONE).unwrap();
            assert_eq!(
                (packet.ethernet.source, packet.ethernet.target),
                (GATEWAY, GUEST)
            );
            let Body::Arp(arp) = packet.body else {
                panic!("ARP")
            };
            assert_eq!(arp.operation, Operation::Reply);
            assert_eq!((arp.sender_mac, arp.sender), (GATEWAY, target));
            assert_eq!((arp.target_mac, arp.target), (GUEST, [10, 0, 2, 3]));
        }
    }

    #[test]
    fn other_arp_is_left_alone() {
        let other = neighbors().on_arp(&arp_request([10, 0, 2, 3], [10, 0, 2, 9]));
        assert_eq!(other.reply, None);
        assert!(other.learned.is_some());

        let reply = ArpPacket {
            operation: Operation::Reply,
            ..arp_request([10, 0, 2, 3], [10, 0, 2, 1])
        };
        assert_eq!(neighbors().on_arp(&reply).reply, None);

        // A probe (RFC 5227) for our address is defended, and teaches nothing.
        let probe = neighbors().on_arp(&arp_request([0; 4], [10, 0, 2, 1]));
        assert!(probe.reply.is_some());
        assert_eq!(probe.learned, None);

        let spoofed = neighbors().on_arp(&arp_request([10, 0, 2, 1], [10, 0, 2, 1]));
        assert_eq!(spoofed, Answer::default());
        let group = ArpPacket {
            sender_mac: MacAddress::BROADCAST,
            ..arp_request([10, 0, 2, 3], [10, 0, 2, 1])
        };
        assert_eq!(neighbors().on_arp(&group), Answer::default());
    }

    #[test]
    fn neighbor_solicitations_for_ours_are_answered() {
        for (target, router) in [(ula(1), true), (ula(2), false), (link_local(1), true)] {
            let body = solicitation(target, Some(GUEST));
            let frame = guest_frame(ula(3), solicited_node(target), 255, &body);
            let answer = answer(&frame);
            assert_eq!(answer.learned, Some((ula(3), GUEST)));
            let reply = answer.reply.unwrap();
            let (packet, message) = read(&reply);
            assert_eq!(
                (packet.ethernet.source, packet.ethernet.target),
                (GATEWAY, GUEST)
            );
            let Body::Ip(ip) = packet.body else {
                panic!("IP")
            };
            assert_eq!((ip.source, ip.target), (target, ula(3)));
            let advertisement = NeighborAdvertisement {
                target: *target.octets(),
                router,
                solicited: true,
                overrides: true,
                target_mac: Some(GATEWAY),
            };
            assert_eq!(message, Message::NeighborAdvertisement(advertisement));
        }
    }

    #[test]
    fn probes_for_duplicates_are_answered_to_all_nodes() {
        let unspecified = Address::UNSPECIFIED_V6;
        let body = solicitation(ula(1), None);
        let answer_ = answer(&guest_frame(
            unspecified,
            solicited_node(ula(1)),
            255,
            &body,
        ));
        assert_eq!(answer_.learned, None);
        let reply = answer_.reply.unwrap();
        let (packet, message) = read(&reply);
        assert_eq!(packet.ethernet.target.0, [0x33, 0x33, 0, 0, 0, 1]);
        let Body::Ip(ip) = packet.body else {
            panic!("IP")
        };
        assert_eq!(ip.target, Address::v6(ALL_NODES));
        let Message::NeighborAdvertisement(advertisement) = message else {
            panic!("NA")
        };
        assert!(!advertisement.solicited);

        let for_guest = solicitation(ula(3), None);
        let frame = guest_frame(unspecified, solicited_node(ula(3)), 255, &for_guest);
        assert_eq!(answer(&frame), Answer::default());
        let unicast = guest_frame(unspecified, ula(1), 255, &body);
        assert_eq!(answer(&unicast), Answer::default());
        let with_mac = solicitation(ula(1), Some(GUEST));
        let frame = guest_frame(unspecified, solicited_node(ula(1)), 255, &with_mac);
        assert_eq!(answer(&frame), Answer::default());
    }

    #[test]
    fn messages_that_crossed_a_router_or_pretend_to_be_ours_count_for_nothing() {
        let body = solicitation(ula(1), Some(GUEST));
        let frame = guest_frame(ula(3), solicited_node(ula(1)), 254, &body);
        assert_eq!(answer(&frame), Answer::default());
        let frame = guest_frame(ula(1), solicited_node(ula(1)), 255, &body);
        assert_eq!(answer(&frame), Answer::default());
        let mut frame = guest_frame(ula(3), solicited_node(ula(1)), 255, &body);
        frame[6] |= 1;
        assert_eq!(
            answer(&frame),
            Answer::default(),
            "from a group of stations"
        );
    }

    #[test]
    fn a_group_of_stations_is_neither_learned_nor_answered() {
        let body = solicitation(ula(1), Some(MacAddress::BROADCAST));
        let answer = answer(&guest_frame(ula(3), solicited_node(ula(1)), 255, &body));
        assert_eq!(answer.learned, None);
        let reply = answer.reply.unwrap();
        assert_eq!(read(&reply).0.ethernet.target, GUEST);
    }

    #[test]
    fn router_solicitations_are_answered() {
        let all_routers = Address::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        let mut body = Vec::from([133, 0, 0, 0, 0, 0, 0, 0]);
        let nameless = answer(&guest_frame(
            Address::UNSPECIFIED_V6,
            all_routers,
            255,
            &body,
        ));
        assert_eq!(nameless.reply, Some(neighbors().unsolicited_ra()));
        assert_eq!(nameless.learned, None);

        body.extend([1, 1]);
        body.extend(GUEST.0);
        let named = answer(&guest_frame(link_local(3), all_routers, 255, &body));
        assert_eq!(named.learned, Some((link_local(3), GUEST)));
        let reply = named.reply.unwrap();
        let (packet, message) = read(&reply);
        assert_eq!(packet.ethernet.target, GUEST);
        let Body::Ip(ip) = packet.body else {
            panic!("IP")
        };
        assert_eq!((ip.source, ip.target), (link_local(1), link_local(3)));
        let Message::RouterAdvertisement(advertisement) = message else {
            panic!("RA")
        };
        assert_eq!(advertisement.router_lifetime_s, 1800);
        assert_eq!(advertisement.source_mac, Some(GATEWAY));
        assert_eq!(advertisement.mtu, Some(1500));
        let prefix = advertisement.prefix.unwrap();
        assert_eq!((prefix.prefix, prefix.prefix_len), (*ula(0).octets(), 64));
        assert!(prefix.on_link && prefix.autonomous);
        let dns = advertisement.dns.unwrap();
        assert_eq!((dns.address, dns.lifetime_s), (*ula(1).octets(), 1800));

        let frame = guest_frame(Address::UNSPECIFIED_V6, all_routers, 255, &body);
        assert_eq!(
            answer(&frame),
            Answer::default(),
            "a link-layer address of nobody"
        );
    }

    #[test]
    fn advertisements_of_guests_teach() {
        let mut body = Vec::from([136, 0, 0, 0, 0x60, 0, 0, 0]);
        body.extend(ula(3).octets());
        body.extend([2, 1]);
        body.extend(GUEST.0);
        let learned = Some((ula(3), GUEST));
        let heard = answer(&guest_frame(ula(3), ula(1), 255, &body));
        assert_eq!(
            heard,
            Answer {
                reply: None,
                learned
            }
        );
        let all_nodes = Address::v6(ALL_NODES);
        let solicited_by_all = answer(&guest_frame(ula(3), all_nodes, 255, &body));
        assert_eq!(solicited_by_all, Answer::default());
        body[8..24].copy_from_slice(ula(1).octets());
        assert_eq!(
            answer(&guest_frame(ula(3), ula(1), 255, &body)).learned,
            None,
            "ours"
        );
    }
}

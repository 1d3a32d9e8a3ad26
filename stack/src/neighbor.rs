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
        if packet.hop_limit != NDP_HOP_LIMIT || self.is_ours6(packet.source) {
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
                    let mac = source_mac.unwrap_or(ethernet.source);
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
                    let mac = source_mac.unwrap_or(ethernet.source);
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

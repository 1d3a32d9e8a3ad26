//! A guest without a kernel: it makes and reads its frames by hand.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};

use super::super::attacker::arp;
use super::super::frames::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ICMP_CHECKSUM_AT, PROTOCOL_ICMPV4, PROTOCOL_UDP,
    UDP_CHECKSUM_AT, ethernet, packet, udp,
};
use super::Link;

/// To everyone on the segment.
const BROADCAST: [u8; 6] = [0xff; 6];

/// A guest with a MAC address on a link.
pub(crate) struct RawGuest {
    pub(crate) link: Link,
    pub(crate) mac: [u8; 6],
}

/// What a DHCP server gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) router: Ipv4Addr,
    /// Bytes, where it says so.
    pub(crate) mtu: Option<u16>,
}

impl RawGuest {
    /// On that link, with an address of no maker's that differs for each number.
    pub(crate) fn new(link: Link, number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let mac = [0x02, 0x99, 0, 0, high, low];
        Self { link, mac }
    }

    /// Asks for an address (RFC 2131 §3.1), and gets one.
    #[track_caller]
    pub(crate) fn lease(&self) -> Lease {
        let offer = self.ask(MessageType::Discover, None);
        let offered = offer.yiaddr();
        let given = self.ask(MessageType::Request, Some(offered));
        assert_eq!(given.yiaddr(), offered);
        let router = match given.opts().get(OptionCode::Router) {
            Some(DhcpOption::Router(routers)) => routers[0],
            other => panic!("a lease without a router: {other:?}"),
        };
        let mtu = match given.opts().get(OptionCode::InterfaceMtu) {
            Some(DhcpOption::InterfaceMtu(mtu)) => Some(*mtu),
            _ => None,
        };
        Lease {
            address: offered,
            router,
            mtu,
        }
    }

    /// One message to the DHCP server, and its answer of the kind that is wished for.
    #[track_caller]
    fn ask(&self, kind: MessageType, requested: Option<Ipv4Addr>) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let number = u32::from_be_bytes([self.mac[2], self.mac[3], self.mac[4], self.mac[5]]);
        let mut question = Message::new_with_id(number, none, none, none, none, &self.mac);
        question.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(address) = requested {
            let wish = DhcpOption::RequestedIpAddress(address);
            question.opts_mut().insert(wish);
        }
        let mut bytes = Vec::new();
        let encoded = question.encode(&mut Encoder::new(&mut bytes));
        encoded.expect("a message can be written");
        self.send_ipv4(
            BROADCAST,
            (none, Ipv4Addr::BROADCAST),
            PROTOCOL_UDP,
            udp(68, 67, &bytes),
            UDP_CHECKSUM_AT,
        );
        let wanted = match kind {
            MessageType::Discover => MessageType::Offer,
            _ => MessageType::Ack,
        };
        self.link.find("the DHCP server's answer", |frame| {
            let datagram = ipv4_payload(frame, PROTOCOL_UDP)?;
            let ports = [0, 67, 0, 68];
            let body = datagram.strip_prefix(&ports)?.get(4..)?;
            let answer = Message::decode(&mut Decoder::new(body)).ok()?;
            let is_wanted = answer.opts().has_msg_type(wanted) && answer.xid() == number;
            is_wanted.then_some(answer)
        })
    }

    /// The MAC address of a neighbour (RFC 826).
    #[track_caller]
    pub(crate) fn resolve(&self, own: Ipv4Addr, neighbour: Ipv4Addr) -> [u8; 6] {
        self.resolve_seeing(own, neighbour).0
    }

    /// The same, and all frames that came before the answer.
    #[track_caller]
    pub(crate) fn resolve_seeing(
        &self,
        own: Ipv4Addr,
        neighbour: Ipv4Addr,
    ) -> ([u8; 6], Vec<Vec<u8>>) {
        let question = arp(1, self.mac, own, [0; 6], neighbour);
        let frame = ethernet(BROADCAST, self.mac, ETHERTYPE_ARP, &question);
        self.link.send(&frame).expect("the link is open");
        let mut others = Vec::new();
        let mac = self.link.find("an ARP reply", |frame| {
            let mac = arp_reply(frame, neighbour);
            if mac.is_none() {
                others.push(frame.to_vec());
            }
            mac
        });
        (mac, others)
    }

    /// Sends a ping with this payload and waits for the same back.
    #[track_caller]
    pub(crate) fn ping(&self, own: Ipv4Addr, mac: [u8; 6], other: Ipv4Addr, payload: &[u8]) {
        let message = [&[8, 0, 0, 0, 0, 7, 0, 1], payload].concat();
        let ends = (own, other);
        self.send_ipv4(mac, ends, PROTOCOL_ICMPV4, message, ICMP_CHECKSUM_AT);
        self.link.find("an echo reply", |frame| {
            let reply = ipv4_payload(frame, PROTOCOL_ICMPV4)?;
            (reply[0] == 0 && &reply[8..] == payload).then_some(())
        });
    }

    /// Gets an address and pings the gateway.
    #[track_caller]
    pub(crate) fn prove_link(&self) -> Lease {
        let lease = self.lease();
        let gateway = self.resolve(lease.address, lease.router);
        self.ping(lease.address, gateway, lease.router, b"are you there");
        lease
    }

    fn send_ipv4(
        &self,
        mac: [u8; 6],
        (from, to): (Ipv4Addr, Ipv4Addr),
        protocol: u8,
        payload: Vec<u8>,
        checksum_at: usize,
    ) {
        let packet = packet((from.into(), to.into()), protocol, payload, checksum_at);
        let frame = ethernet(mac, self.mac, ETHERTYPE_IPV4, &packet);
        self.link.send(&frame).expect("the link is open");
    }
}

/// Whose MAC address an ARP reply tells, if it is about that address.
fn arp_reply(frame: &[u8], about: Ipv4Addr) -> Option<[u8; 6]> {
    let message = frame.get(14..42)?;
    let is_reply = frame[12..14] == ETHERTYPE_ARP.to_be_bytes() && message[7] == 2;
    let is_about = message[14..18] == about.octets();
    (is_reply && is_about).then(|| message[8..14].try_into().expect("six bytes"))
}

/// What an IPv4 packet of that protocol carries; its header has no options.
fn ipv4_payload(frame: &[u8], protocol: u8) -> Option<&[u8]> {
    let packet = frame.get(14..)?;
    let is_it = frame[12..14] == ETHERTYPE_IPV4.to_be_bytes()
        && packet.len() >= 28
        && packet[0] == 0x45
        && packet[9] == protocol;
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    is_it.then(|| packet.get(20..length))?
}

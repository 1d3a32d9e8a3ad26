//! A guest that sends frames made by hand, and the honest frames that it starts from.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::Duration;

use super::frames::*;
use super::guest::{Guest, GuestSockets};
use super::payload::{self, next_random};
use super::servers::{listen, round_trip, spawn_tcp_echo, spawn_udp_echo, udp as bind_udp};
use super::world::{GATEWAY4, GATEWAY6, GATEWAYS, GUEST4, GUEST6, HOST4, HOST6, HOSTS, World};

/// A guest with a packet socket, and a connection that must outlive whatever is sent.
pub(crate) struct Attacker {
    /// The guest that it is.
    pub(crate) guest: Guest,
    /// Its interface.
    pub(crate) link: RawLink,
    /// The gateway's MAC address.
    pub(crate) gateway: [u8; 6],
    /// The generator's state.
    pub(crate) random: u64,
    /// A connection that was there before.
    pub(crate) bystander: TcpStream,
    sent: Cell<usize>,
}

impl Attacker {
    /// A guest of `run` with these options, and a seed for what it sends.
    pub(crate) fn new(world: &World, seed: u64, options: &[&str]) -> Self {
        let guest = world.guest(&[&["-v"], options].concat());
        let gateway = neighbour_mac(&guest.net, GATEWAYS[0]);
        let link = RawLink::open(&guest.net, "tap0");
        let bystander = guest.connect(spawn_tcp_echo(listen(HOST4)));
        Self {
            guest,
            link,
            gateway,
            random: seed,
            bystander,
            sent: Cell::new(0),
        }
    }

    /// A random number below a bound.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (next_random(&mut self.random) % bound as u64) as usize
    }

    /// Random bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length)
            .map(|_| (next_random(&mut self.random) >> 24) as u8)
            .collect()
    }

    /// Sends a whole frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        // A full queue of the interface drops frames as on any network.
        self.sent
            .set(self.sent.get() + usize::from(self.link.send(frame)));
    }

    /// Sends a packet to the gateway, as all that leaves the segment goes.
    pub(crate) fn send_packet(&self, ethertype: u16, packet: &[u8]) {
        self.send(&ethernet(self.gateway, self.link.mac(), ethertype, packet));
    }

    /// Sends a packet whose transport checksum is made right.
    pub(crate) fn send_between(
        &self,
        ends: (IpAddr, IpAddr),
        protocol: u8,
        payload: Vec<u8>,
        sum_at: usize,
    ) {
        self.send_packet(ethertype(ends.1), &packet(ends, protocol, payload, sum_at));
    }

    /// Old and new flows of every kind work; the summary of the engine's end.
    #[track_caller]
    pub(crate) fn end(self) -> String {
        round_trip(&self.bystander, payload::slice(1, 10_000));
        for host in HOSTS {
            round_trip(
                &self.guest.connect(spawn_tcp_echo(listen(host))),
                payload::slice(2, 10_000),
            );
            let server = spawn_udp_echo(bind_udp(host));
            let socket = self.guest.udp(host);
            socket
                .set_read_timeout(Some(Duration::from_secs(30)))
                .unwrap();
            socket.send_to(b"hello", server).unwrap();
            assert_eq!(socket.recv(&mut [0; 10]).expect("the echo"), 5);
        }
        drop(self.bystander);
        let summary = self.guest.end();
        assert!(!summary.contains("panicked"), "{summary}");
        let seen = summary
            .lines()
            .find(|line| line.contains("frames from the guest"));
        let seen = seen.and_then(|line| line.split_whitespace().next()?.parse().ok());
        // Should the interface's queue have been full at times, most frames still got through.
        assert!(
            seen.unwrap_or(0) > self.sent.get() / 2,
            "of {} frames: {summary}",
            self.sent.get()
        );
        summary
    }
}

/// The addresses of honest frames, by version.
pub(crate) const ENDS: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(GUEST4), IpAddr::V4(HOST4)),
    (IpAddr::V6(GUEST6), IpAddr::V6(HOST6)),
];

/// Honest frames of every kind.
pub(crate) fn honest(attacker: &mut Attacker) -> Vec<Vec<u8>> {
    let mac = attacker.link.mac();
    let mut frames = Vec::new();
    for (ends, icmp) in ENDS.into_iter().zip([PROTOCOL_ICMPV4, PROTOCOL_ICMPV6]) {
        let port = 20_000 + attacker.below(100) as u16;
        let data = attacker.bytes(100);
        let options = [
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let syn = tcp((port, 9), (77, 0), TCP_SYN, &options, &[]);
        let segment = tcp((port, 9), (78, 99), TCP_ACK, &[], &data);
        let echo = if icmp == PROTOCOL_ICMPV4 { 8 } else { 128 };
        let ping = [&[echo, 0, 0, 0, 0, 7, 0, 1], &data[..]].concat();
        let packets = [
            packet(ends, PROTOCOL_TCP, syn, TCP_CHECKSUM_AT),
            packet(ends, PROTOCOL_TCP, segment, TCP_CHECKSUM_AT),
            packet(ends, PROTOCOL_UDP, udp(port, 9, &data), UDP_CHECKSUM_AT),
            packet(ends, icmp, ping, ICMP_CHECKSUM_AT),
        ];
        let kind = ethertype(ends.0);
        frames.extend(packets.map(|packet| ethernet(attacker.gateway, mac, kind, &packet)));
    }
    let arp = arp(1, mac, GUEST4, [0; 6], GATEWAY4);
    frames.push(ethernet([0xff; 6], mac, ETHERTYPE_ARP, &arp));
    let solicit = neighbour_message(135, GATEWAY6, 1, mac);
    let solicit = packet(
        (GUEST6.into(), GATEWAY6.into()),
        PROTOCOL_ICMPV6,
        solicit,
        2,
    );
    frames.push(ethernet(attacker.gateway, mac, ETHERTYPE_IPV6, &solicit));
    frames
}

/// An ARP message for IPv4 over ethernet (RFC 826).
pub(crate) fn arp(
    operation: u8,
    mac: [u8; 6],
    sender: Ipv4Addr,
    target_mac: [u8; 6],
    target: Ipv4Addr,
) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [
        &head[..],
        &mac,
        &sender.octets(),
        &target_mac,
        &target.octets(),
    ]
    .concat()
}

/// A neighbour solicitation or advertisement with one link-layer address option (RFC 4861 §4.3).
pub(crate) fn neighbour_message(kind: u8, about: Ipv6Addr, option: u8, mac: [u8; 6]) -> Vec<u8> {
    [
        &[kind, 0, 0, 0, 0x20, 0, 0, 0][..],
        &about.octets(),
        &[option, 1],
        &mac,
    ]
    .concat()
}

/// Recomputes the checksums of a packet whose headers stand where [`honest`] put them.
pub(crate) fn repair_checksums(frame: &mut [u8]) {
    let (header, addresses, protocol) = match frame[12..14] {
        [0x08, 0x00] => (20, 26..34, frame[23]),
        [0x86, 0xdd] => (40, 22..54, frame[20]),
        _ => return,
    };
    if header == 20 {
        frame[24..26].fill(0);
        let sum = checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let at = 14
        + header
        + match protocol {
            PROTOCOL_TCP => TCP_CHECKSUM_AT,
            PROTOCOL_UDP => UDP_CHECKSUM_AT,
            PROTOCOL_ICMPV4 | PROTOCOL_ICMPV6 => ICMP_CHECKSUM_AT,
            _ => return,
        };
    frame[at..at + 2].fill(0);
    let payload = &frame[14 + header..];
    let length = u32::try_from(payload.len())
        .expect("a packet's length")
        .to_be_bytes();
    let pseudo = [&frame[addresses], &length, &[0, 0, 0, protocol]].concat();
    let pseudo = if protocol == PROTOCOL_ICMPV4 {
        &[][..]
    } else {
        &pseudo
    };
    let sum = checksum(&[pseudo, payload]);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

//! Frames that no honest guest sends. The engine must drop them, count them, and serve on.
//!
//! The frames come from a generator with a fixed seed per test, so that a failure happens again.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::support::frames::*;
use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::payload::{self, next_random};
use crate::support::servers::{
    listen, round_trip, spawn_tcp_echo, spawn_udp_echo, udp as bind_udp,
};
use crate::support::world::{
    GATEWAY4, GATEWAY6, GATEWAYS, GUEST4, GUEST6, HOST4, HOST6, HOSTS, World,
};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        random_frames,
        truncated_frames,
        mutated_frames,
        mutated_frames_on_two_cores,
        bad_checksums,
        spoofed_sources,
        fragments,
        tcp_options,
        stray_segments,
        blind_resets,
        neighbour_lies,
        junk_for_the_services,
    ]
}

/// Enough for a rare order to be met, few enough to take a second.
const FRAMES: usize = 10_000;

/// A guest with a packet socket, and a connection that must outlive whatever is sent.
struct Attacker {
    guest: Guest,
    link: RawLink,
    gateway: [u8; 6],
    random: u64,
    bystander: TcpStream,
    sent: Cell<usize>,
}

impl Attacker {
    fn new(world: &World, seed: u64, options: &[&str]) -> Self {
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

    fn below(&mut self, bound: usize) -> usize {
        (next_random(&mut self.random) % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length)
            .map(|_| (next_random(&mut self.random) >> 24) as u8)
            .collect()
    }

    fn send(&self, frame: &[u8]) {
        // A full queue of the interface drops frames as on any network.
        self.sent
            .set(self.sent.get() + usize::from(self.link.send(frame)));
    }

    fn send_packet(&self, ethertype: u16, packet: &[u8]) {
        self.send(&ethernet(self.gateway, self.link.mac(), ethertype, packet));
    }

    fn send_between(&self, ends: (IpAddr, IpAddr), protocol: u8, payload: Vec<u8>, sum_at: usize) {
        self.send_packet(ethertype(ends.1), &packet(ends, protocol, payload, sum_at));
    }

    /// Old and new flows of every kind work; the summary of the engine's end.
    #[track_caller]
    fn end(self) -> String {
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
const ENDS: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(GUEST4), IpAddr::V4(HOST4)),
    (IpAddr::V6(GUEST6), IpAddr::V6(HOST6)),
];

/// The summary names a reason for drops, with a number.
#[track_caller]
fn assert_dropped(summary: &str, reason: &str) {
    let found = summary
        .lines()
        .any(|line| line.contains("dropped") && line.contains(reason));
    assert!(found, "no line about dropped … {reason}: {summary}");
}

fn random_frames(world: &World) {
    let mut attacker = Attacker::new(world, 1, &[]);
    for _ in 0..FRAMES {
        let length = 14 + attacker.below(1500);
        let mut frame = attacker.bytes(length);
        // Half of them look like something at first.
        if attacker.below(2) == 0 {
            frame[..6].copy_from_slice(&attacker.gateway);
            let types = [ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP];
            frame[12..14].copy_from_slice(&types[attacker.below(3)].to_be_bytes());
            if let Some(first) = frame.get_mut(14) {
                *first = [0x45, 0x60, 0x4f, 0x00][attacker.below(4)];
            }
        }
        attacker.send(&frame);
    }
    assert_dropped(&attacker.end(), "");
}

/// Honest frames of every kind.
fn honest(attacker: &mut Attacker) -> Vec<Vec<u8>> {
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

fn arp(
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
fn neighbour_message(kind: u8, about: Ipv6Addr, option: u8, mac: [u8; 6]) -> Vec<u8> {
    [
        &[kind, 0, 0, 0, 0x20, 0, 0, 0][..],
        &about.octets(),
        &[option, 1],
        &mac,
    ]
    .concat()
}

/// Every honest frame, cut at every length.
fn truncated_frames(world: &World) {
    let mut attacker = Attacker::new(world, 2, &[]);
    for frame in honest(&mut attacker) {
        for length in 14..frame.len() {
            attacker.send(&frame[..length]);
        }
    }
    assert_dropped(&attacker.end(), "");
}

fn mutated_frames(world: &World) {
    mutate(Attacker::new(world, 3, &[]));
}

fn mutated_frames_on_two_cores(world: &World) {
    mutate(Attacker::new(world, 4, &["--cores", "2"]));
}

/// Honest frames with a few bytes changed, most with their checksums made right again, so that
/// the change is met by more than the check of those.
fn mutate(mut attacker: Attacker) {
    for _ in 0..FRAMES / 10 {
        for mut frame in honest(&mut attacker) {
            for _ in 0..=attacker.below(3) {
                // The ethernet header is of little interest, but for the type.
                let at = 12 + attacker.below(frame.len().min(90) - 12);
                frame[at] = attacker.bytes(1)[0];
            }
            if attacker.below(8) == 0 {
                let more = attacker.below(200);
                frame.extend(attacker.bytes(more));
            }
            if attacker.below(4) > 0 {
                repair_checksums(&mut frame);
            }
            attacker.send(&frame);
        }
    }
    assert_dropped(&attacker.end(), "");
}

/// Recomputes the checksums of a packet whose headers stand where [`honest`] put them.
fn repair_checksums(frame: &mut [u8]) {
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

fn bad_checksums(world: &World) {
    let mut attacker = Attacker::new(world, 5, &[]);
    let servers = HOSTS.map(bind_udp);
    for (i, (ends, server)) in ENDS
        .into_iter()
        .zip(&servers)
        .cycle()
        .take(1000)
        .enumerate()
    {
        let port = server.local_addr().unwrap().port();
        let datagram = udp(30_000, port, b"damaged");
        let mut packet = packet(ends, PROTOCOL_UDP, datagram, UDP_CHECKSUM_AT);
        let last = packet.len() - 1 - i % 5;
        packet[last] ^= 1 << (i % 8);
        attacker.send_packet(ethertype(ends.0), &packet);
        // The IPv4 header's own checksum.
        let mut packet = ipv4(
            GUEST4,
            HOST4,
            PROTOCOL_UDP,
            0,
            &udp(30_000, port, b"damaged"),
        );
        packet[10] ^= attacker.bytes(1)[0] | 1;
        attacker.send_packet(ETHERTYPE_IPV4, &packet);
    }
    for server in servers {
        nothing_came(&attacker.guest, &server);
    }
    assert_dropped(&attacker.end(), "checksum");
}

/// The next datagram is an honest one, sent now.
#[track_caller]
fn nothing_came(guest: &Guest, server: &UdpSocket) {
    let address = server.local_addr().unwrap();
    guest.udp(address.ip()).send_to(b"honest", address).unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut buffer = [0; 2000];
    let n = server.recv(&mut buffer).expect("the honest datagram");
    assert_eq!(String::from_utf8_lossy(&buffer[..n]), "honest");
}

/// A guest speaks for itself only.
fn spoofed_sources(world: &World) {
    let attacker = Attacker::new(world, 6, &[]);
    let servers = HOSTS.map(bind_udp);
    let sources = [
        "10.77.0.1",
        "10.77.0.2",
        "10.77.0.0",
        "10.77.0.255",
        "198.18.0.1",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.2.1",
        "fd77::1",
        "fd77::2",
        "::1",
        "::",
        "2001:db8:1::1",
        "ff02::1",
        "fd78::3",
        "::ffff:10.77.0.3",
    ];
    for source in sources {
        let source: IpAddr = source.parse().unwrap();
        let server = &servers[usize::from(source.is_ipv6())];
        let target = server.local_addr().unwrap();
        let ends = (source, target.ip());
        for port in 30_000..30_010 {
            let datagram = udp(port, target.port(), b"spoofed");
            attacker.send_between(ends, PROTOCOL_UDP, datagram, UDP_CHECKSUM_AT);
            let syn = tcp((port, target.port()), (1, 0), TCP_SYN, &[], &[]);
            attacker.send_between(ends, PROTOCOL_TCP, syn, TCP_CHECKSUM_AT);
        }
    }
    for server in servers {
        nothing_came(&attacker.guest, &server);
    }
    assert_dropped(&attacker.end(), "source");
}

/// Overlaps, gaps, too long, too many (RFC 791, RFC 5722, RFC 1858).
fn fragments(world: &World) {
    const MORE: u16 = 0x2000;
    let mut attacker = Attacker::new(world, 7, &[]);
    let server = bind_udp(HOST4);
    let port = server.local_addr().unwrap().port();
    let whole = udp(30_000, port, &[b'f'; 1192]);
    let first = ipv4(GUEST4, HOST4, PROTOCOL_UDP, MORE, &whole[..600]);
    for i in 0..FRAMES as u16 {
        let with_id = |mut packet: Vec<u8>| {
            packet[4..6].copy_from_slice(&i.to_be_bytes());
            packet[10..12].fill(0);
            let sum = checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        };
        attacker.send_packet(ETHERTYPE_IPV4, &with_id(first.clone()));
        let second = match i % 5 {
            // Overlaps the first with other bytes.
            0 => ipv4(
                GUEST4,
                HOST4,
                PROTOCOL_UDP,
                600 / 8 - 10,
                &attacker.bytes(680),
            ),
            // Ends beyond the longest packet.
            1 => ipv4(GUEST4, HOST4, PROTOCOL_UDP, 0x1fff, &attacker.bytes(1400)),
            // Not a multiple of eight, yet not the last.
            2 => ipv4(
                GUEST4,
                HOST4,
                PROTOCOL_UDP,
                MORE | (600 / 8),
                &attacker.bytes(13),
            ),
            // Empty.
            3 => ipv4(GUEST4, HOST4, PROTOCOL_UDP, MORE | (600 / 8), &[]),
            // Never comes: the first is left waiting.
            _ => continue,
        };
        attacker.send_packet(ETHERTYPE_IPV4, &with_id(second));
        // IPv6: a fragment header (RFC 8200 §4.5) with the same tricks.
        let offset = [1_u16, 601, 0xfff8, 0, 75 << 3][attacker.below(5)];
        let mut payload = vec![PROTOCOL_UDP, 0];
        payload.extend(offset.to_be_bytes());
        payload.extend([0, 0, 0, i as u8]);
        let length = attacker.below(700);
        payload.extend(attacker.bytes(length));
        attacker.send_packet(ETHERTYPE_IPV6, &ipv6(GUEST6, HOST6, 44, &payload));
    }
    nothing_came(&attacker.guest, &server);
    // What waits for its rest holds up no honest fragments.
    let socket = attacker.guest.udp(HOST4.into());
    let long = payload::slice(5, 60_000);
    socket.send_to(long, server.local_addr().unwrap()).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let n = server
        .recv(&mut buffer)
        .expect("an honest datagram in fragments");
    assert!(buffer[..n] == *long, "as it was sent");
    assert_dropped(&attacker.end(), "");
}

/// Options with wrong lengths, unknown ones, none that end.
fn tcp_options(world: &World) {
    let mut attacker = Attacker::new(world, 8, &[]);
    for i in 0..FRAMES {
        let length = 4 * attacker.below(11);
        let mut options = attacker.bytes(length);
        if let Some(first) = options.first_mut() {
            *first = [0, 1, 2, 3, 4, 5, 8, 30, 34, 254][i % 10];
        }
        let ends = ENDS[i % 2];
        let flags = [
            TCP_SYN,
            TCP_ACK,
            TCP_SYN | TCP_FIN,
            TCP_SYN | TCP_RST,
            0,
            0xff,
        ][i % 6];
        let numbers = (next_random(&mut attacker.random) as u32, 0);
        let segment = tcp(
            (31_000 + (i % 50) as u16, 9),
            numbers,
            flags,
            &options,
            b"x",
        );
        attacker.send_between(ends, PROTOCOL_TCP, segment, TCP_CHECKSUM_AT);
    }
    attacker.end();
}

/// Segments of connections that do not exist are answered by RST (RFC 9293 §3.10.7.1).
fn stray_segments(world: &World) {
    let attacker = Attacker::new(world, 9, &[]);
    for ends in ENDS {
        let segment = tcp((32_000, 9), (1000, 2000), TCP_ACK, &[], b"lost");
        attacker.send_between(ends, PROTOCOL_TCP, segment, TCP_CHECKSUM_AT);
        let number = attacker
            .link
            .find("a RST with the number that was acknowledged", |frame| {
                let header = frame.get(14 + if ends.0.is_ipv4() { 20 } else { 40 }..)?;
                let is_answer =
                    header.get(..4)? == [0, 9, 0x7d, 0] && header.get(13)? & TCP_RST != 0;
                is_answer.then(|| header[4..8].to_vec())
            });
        assert_eq!(number, 2000_u32.to_be_bytes());
    }
    attacker.end();
}

/// RFC 5961 §3: a reset whose number was guessed ends no connection.
fn blind_resets(world: &World) {
    let mut attacker = Attacker::new(world, 10, &[]);
    let near = attacker.bystander.local_addr().unwrap();
    let far = attacker.bystander.peer_addr().unwrap();
    for i in 0..FRAMES {
        let numbers = (next_random(&mut attacker.random) as u32, 0);
        let flags = [TCP_RST, TCP_SYN, TCP_FIN | TCP_ACK][i % 3];
        let segment = tcp((near.port(), far.port()), numbers, flags, &[], &[]);
        attacker.send_between(
            (near.ip(), far.ip()),
            PROTOCOL_TCP,
            segment,
            TCP_CHECKSUM_AT,
        );
    }
    attacker.end();
}

/// Claims to be the gateway; to be everyone; to be at an impossible address.
fn neighbour_lies(world: &World) {
    let mut attacker = Attacker::new(world, 11, &[]);
    let own = attacker.link.mac();
    for i in 0..FRAMES {
        let mac: [u8; 6] = match i % 4 {
            0 => own,
            1 => [0xff; 6],
            2 => attacker.gateway,
            _ => attacker.bytes(6).try_into().expect("six bytes"),
        };
        let address = [
            GATEWAY4,
            Ipv4Addr::new(10, 77, 0, 77),
            Ipv4Addr::BROADCAST,
            HOST4,
        ][i / 4 % 4];
        let claim = arp(2 - (i % 2) as u8, mac, address, mac, address);
        attacker.send(&ethernet([0xff; 6], own, ETHERTYPE_ARP, &claim));
        let claim = neighbour_message(136 - (i % 2) as u8, GATEWAY6, 2 - (i % 2) as u8, mac);
        attacker.send_between(
            (GUEST6.into(), GATEWAY6.into()),
            PROTOCOL_ICMPV6,
            claim,
            ICMP_CHECKSUM_AT,
        );
        // An advertisement of a router that the guest is not.
        let mut claim = vec![134, 0, 0, 0, 64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        let length = attacker.below(64);
        claim.extend(attacker.bytes(length));
        attacker.send_between(
            (GUEST6.into(), GATEWAY6.into()),
            PROTOCOL_ICMPV6,
            claim,
            ICMP_CHECKSUM_AT,
        );
    }
    attacker.end();
}

fn junk_for_the_services(world: &World) {
    let mut attacker = Attacker::new(world, 12, &[]);
    let sockets = GATEWAYS.map(|gateway| (gateway, attacker.guest.udp(gateway)));
    for i in 0..FRAMES {
        let length = attacker.below(600);
        let mut junk = attacker.bytes(length);
        if let Some(flags) = junk.get_mut(2..12).filter(|_| i % 2 == 0) {
            flags.copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        let (gateway, socket) = &sockets[i % 2];
        // Errors of earlier ones may come back here.
        let _ = socket.send_to(&junk, (*gateway, 53));
        if let Some(head) = junk.get_mut(..4).filter(|_| i % 3 == 0) {
            head.copy_from_slice(&[1, 1, 6, 0]);
        }
        let message = udp(68, 67, &junk);
        let ends = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into());
        attacker.send_between(ends, PROTOCOL_UDP, message, UDP_CHECKSUM_AT);
    }
    attacker.end();
}

//! Frames that no honest guest sends. The engine must drop them, count them, and serve on.
//!
//! The frames come from a generator with a fixed seed per test, so that a failure happens again.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::support::attacker::{Attacker, ENDS, arp, honest, neighbour_message, repair_checksums};
use crate::support::frames::*;
use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::payload::{self, next_random};
use crate::support::servers::{round_trip, udp as bind_udp};
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
        source_routes,
        frames_for_other_stations,
        no_errors_where_none_may_be,
    ]
}

/// Enough for a rare order to be met, few enough to take a second.
const FRAMES: usize = 10_000;

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
        nothing_came(&attacker, &server);
    }
    assert_dropped(&attacker.end(), "checksum");
}

/// The next datagram is an honest one, sent now.
#[track_caller]
fn nothing_came(attacker: &Attacker, server: &UdpSocket) {
    // TCP gets through a queue that is full; what comes after its answer finds room.
    round_trip(&attacker.bystander, b"drained");
    let address = server.local_addr().unwrap();
    attacker
        .guest
        .udp(address.ip())
        .send_to(b"honest", address)
        .unwrap();
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
        nothing_came(&attacker, &server);
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
    nothing_came(&attacker, &server);
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

/// A packet that wants to go on elsewhere goes nowhere: IPv4 options (RFC 791 §3.1), a routing header of
/// IPv6 (RFC 8200 §4.4); and one with an option that demands to be understood.
fn source_routes(world: &World) {
    let attacker = Attacker::new(world, 13, &[]);
    let servers = HOSTS.map(bind_udp);
    for (ends, server) in ENDS.into_iter().zip(&servers) {
        let target = server.local_addr().unwrap();
        let datagram = udp(30_000, target.port(), b"routed");
        let whole = packet(ends, PROTOCOL_UDP, datagram, UDP_CHECKSUM_AT);
        let routes: &[(&[u8], u8)] = match ends.0 {
            IpAddr::V4(_) => &[
                (&[131, 7, 4, 198, 18, 0, 9, 0], 0),
                (&[137, 7, 8, 198, 18, 0, 9, 0], 0),
                (&[1, 1, 1, 131], 0),
                (&[148, 9, 0, 0], 0),
            ],
            IpAddr::V6(_) => &[
                (&[PROTOCOL_UDP, 0, 0, 1, 0, 0, 0, 0], 43),
                (&[PROTOCOL_UDP, 0, 2, 1, 0, 0, 0, 0], 43),
                (&[PROTOCOL_UDP, 0, 0xc9, 4, 0, 0, 0, 0], 60),
                (&[PROTOCOL_UDP, 0, 1, 9, 0, 0, 0, 0], 0),
            ],
        };
        for (options, protocol) in routes {
            let packet = with_options(&whole, options, *protocol);
            attacker.send_packet(ethertype(ends.0), &packet);
        }
    }
    for server in servers {
        nothing_came(&attacker, &server);
    }
    let summary = attacker.end();
    for reason in [
        "source_route",
        "bad_ipv4_options",
        "routing_header",
        "bad_ipv6_option",
    ] {
        assert_dropped(&summary, reason);
    }
}

/// Puts IPv4 options, or an extension header of this type, behind the header of a packet.
fn with_options(whole: &[u8], options: &[u8], kind: u8) -> Vec<u8> {
    let mut packet = whole.to_vec();
    let at = if whole[0] >> 4 == 4 { 20 } else { 40 };
    packet.splice(at..at, options.iter().copied());
    if at == 20 {
        packet[0] += (options.len() / 4) as u8;
        let length = packet.len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum(&[&packet[..at + options.len()]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[6] = kind;
        let length = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
    }
    packet
}

/// A bridge in the guest sends what it has no place for everywhere. It is not for us.
fn frames_for_other_stations(world: &World) {
    let attacker = Attacker::new(world, 14, &[]);
    let servers = HOSTS.map(bind_udp);
    for (ends, server) in ENDS.into_iter().zip(&servers) {
        let datagram = udp(30_000, server.local_addr().unwrap().port(), b"not for us");
        let packet = packet(ends, PROTOCOL_UDP, datagram, UDP_CHECKSUM_AT);
        let other = [2, 0x74, 0x6f, 0x77, 0, 0x99];
        let frame = ethernet(other, attacker.link.mac(), ethertype(ends.0), &packet);
        attacker.send(&frame);
    }
    for server in servers {
        nothing_came(&attacker, &server);
    }
    assert_dropped(&attacker.end(), "another station");
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4e: no ICMP error about an ICMP error, about what went to many, about a
/// fragment but the first. The frames are of a protocol that nobody speaks, about which one is due else.
fn no_errors_where_none_may_be(world: &World) {
    const NOBODY_S: u8 = 253;
    let attacker = Attacker::new(world, 15, &[]);
    let own = attacker.link.mac();
    let groups: [IpAddr; 2] = ["224.0.0.5".parse().unwrap(), "ff02::5".parse().unwrap()];
    for (ends, group) in ENDS.into_iter().zip(groups) {
        let kind = ethertype(ends.0);
        let plain = |target: IpAddr| match (ends.0, target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => ipv4(source, target, NOBODY_S, 0, b"?"),
            (IpAddr::V6(source), IpAddr::V6(target)) => ipv6(source, target, NOBODY_S, b"?"),
            _ => unreachable!("one version"),
        };
        // To a group, and to all stations.
        attacker.send_packet(kind, &plain(group));
        attacker.send(&ethernet([0xff; 6], own, kind, &plain(ends.1)));
        // An error about something, whatever it quotes.
        let (icmp, error) = match ends.0 {
            IpAddr::V4(_) => (PROTOCOL_ICMPV4, [3, 1, 0, 0, 0, 0, 0, 0]),
            IpAddr::V6(_) => (PROTOCOL_ICMPV6, [1, 3, 0, 0, 0, 0, 0, 0]),
        };
        let error = [&error[..], &plain(ends.1)].concat();
        attacker.send_between(ends, icmp, error, ICMP_CHECKSUM_AT);
    }
    // A later fragment alone.
    let later = ipv4(GUEST4, HOST4, NOBODY_S, 100, b"?");
    attacker.send_packet(ETHERTYPE_IPV4, &later);
    round_trip(&attacker.bystander, b"all of these were seen");
    let summary = attacker.end();
    assert_eq!(errors_told(&summary), 0, "{summary}");

    // The same, where one is due.
    let attacker = Attacker::new(world, 16, &[]);
    attacker.send_packet(ETHERTYPE_IPV4, &ipv4(GUEST4, HOST4, NOBODY_S, 0, b"?"));
    attacker.send_packet(ETHERTYPE_IPV6, &ipv6(GUEST6, HOST6, NOBODY_S, b"?"));
    let summary = attacker.end();
    assert_eq!(errors_told(&summary), 2, "{summary}");
}

/// How many ICMP errors the guest was told, but for those that finding the gateway takes (a refused port).
fn errors_told(summary: &str) -> u64 {
    let count = |text| {
        let line = summary.lines().find(|line| line.contains(text));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
    };
    let refused = count("is not open to guests").unwrap_or(0);
    count("ICMP errors told").unwrap_or(0) - refused
}

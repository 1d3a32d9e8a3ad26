//! Pings, the guest's TTL, and the ICMP errors that traceroute lives on.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::support::frames::{PROTOCOL_ICMPV4, PROTOCOL_ICMPV6, PROTOCOL_UDP, RawLink};
use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::{Namespace, ip};
use crate::support::payload;
use crate::support::servers::udp;
use crate::support::world::{ALIAS4, ALIAS6, GATEWAYS, HOSTS, Router, UNREACHABLE, World, any};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        ping_the_gateway,
        ping_the_hosts_alias,
        ping_a_host,
        ping_with_5000_bytes,
        pings_from_many_at_once,
        ttl_of_udp_is_copied,
        ttl_of_pings_is_copied,
        time_exceeded_for_udp,
        time_exceeded_for_pings,
        port_unreachable_from_afar,
        too_big_from_afar,
        unreachable_for_pings,
    ]
}

/// A ping socket of the guest. That an ordinary user may open one there is part of each test.
fn ping_socket(guest: &Guest, target: IpAddr) -> Socket {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = guest.enter(|| Socket::new(domain, Type::DGRAM, Some(protocol)));
    let socket = socket.expect("the guest's net.ipv4.ping_group_range is open");
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.connect(&SocketAddr::new(target, 0).into()).unwrap();
    socket
}

fn echo_request(target: IpAddr, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let kind = if target.is_ipv4() { 8 } else { 128 };
    // The kernel fills in the checksum and the identifier.
    let mut message = vec![kind, 0, 0, 0, 0, 0];
    message.extend(sequence.to_be_bytes());
    message.extend(payload);
    message
}

#[track_caller]
fn expect_reply(mut socket: &Socket, target: IpAddr, sequence: u16, payload: &[u8]) {
    let mut reply = vec![0; 1 << 16];
    let n = socket
        .read(&mut reply)
        .unwrap_or_else(|error| panic!("ping {target}: {error}"));
    assert_eq!(n, 8 + payload.len(), "length of the reply from {target}");
    assert_eq!(
        reply[0],
        if target.is_ipv4() { 0 } else { 129 },
        "an echo reply"
    );
    assert_eq!(reply[6..8], sequence.to_be_bytes());
    assert!(reply[8..n] == *payload, "the payload comes back as it was");
}

#[track_caller]
fn ping(guest: &Guest, target: IpAddr, length: usize) {
    let mut socket = ping_socket(guest, target);
    for sequence in 1..=3 {
        let payload = payload::slice(u64::from(sequence), length);
        socket
            .write_all(&echo_request(target, sequence, payload))
            .unwrap();
        expect_reply(&socket, target, sequence, payload);
    }
}

fn ping_the_gateway(world: &World) {
    let guest = world.guest(&[]);
    for gateway in GATEWAYS {
        ping(&guest, gateway, 56);
    }
}

fn ping_the_hosts_alias(world: &World) {
    let guest = world.guest(&[]);
    ping(&guest, ALIAS4.into(), 56);
    ping(&guest, ALIAS6.into(), 56);
}

fn ping_a_host(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        ping(&guest, host, 56);
        ping(&guest, host, 0);
    }
}

/// Four fragments each way at MTU 1500.
fn ping_with_5000_bytes(world: &World) {
    let guest = world.guest(&[]);
    for target in HOSTS.into_iter().chain(GATEWAYS) {
        ping(&guest, target, 5000);
    }
}

fn pings_from_many_at_once(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let sockets: Vec<_> = (0..50).map(|_| ping_socket(&guest, host)).collect();
        for (i, mut socket) in (0..).zip(&sockets) {
            let payload = payload::slice(u64::from(i) * 100, 100);
            socket.write_all(&echo_request(host, i, payload)).unwrap();
        }
        for (i, socket) in (0..).zip(&sockets) {
            expect_reply(socket, host, i, payload::slice(u64::from(i) * 100, 100));
        }
    }
}

/// An unusual number of hops, to be recognised.
const TTL: u32 = 37;

fn set_ttl(socket: &Socket, target: IpAddr, hops: u32) {
    match target {
        IpAddr::V4(_) => socket.set_ttl_v4(hops).unwrap(),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(hops).unwrap(),
    }
}

/// The TTL or hop limit of the next packet that `link` sees go to `target` with this protocol and
/// these last bytes.
fn ttl_seen(link: &RawLink, target: IpAddr, protocol: u8, last: &[u8]) -> u32 {
    link.find("with the guest's payload", |frame| {
        let packet = frame.get(14..)?;
        let (protocol_seen, ttl, to) = match target {
            IpAddr::V4(_) => (
                *packet.get(9)?,
                packet[8],
                IpAddr::from(octets(packet, 16)?),
            ),
            IpAddr::V6(_) => (
                *packet.get(6)?,
                packet[7],
                IpAddr::from(octets16(packet, 24)?),
            ),
        };
        let found = to == target && protocol_seen == protocol && packet.ends_with(last);
        found.then_some(u32::from(ttl))
    })
}

fn octets(packet: &[u8], at: usize) -> Option<[u8; 4]> {
    packet.get(at..at + 4)?.try_into().ok()
}

fn octets16(packet: &[u8], at: usize) -> Option<[u8; 16]> {
    packet.get(at..at + 16)?.try_into().ok()
}

fn ttl_of_udp_is_copied(world: &World) {
    let guest = world.guest(&[]);
    let link = RawLink::open(&Namespace::current(), "lo");
    for host in HOSTS {
        let server = udp(host);
        let socket = Socket::from(guest.udp(host));
        set_ttl(&socket, host, TTL);
        socket
            .send_to(b"how far?", &server.local_addr().unwrap().into())
            .unwrap();
        assert_eq!(
            ttl_seen(&link, host, PROTOCOL_UDP, b"how far?"),
            TTL,
            "{host}"
        );
    }
}

fn ttl_of_pings_is_copied(world: &World) {
    let guest = world.guest(&[]);
    let link = RawLink::open(&Namespace::current(), "lo");
    for (host, protocol) in HOSTS.into_iter().zip([PROTOCOL_ICMPV4, PROTOCOL_ICMPV6]) {
        let mut socket = ping_socket(&guest, host);
        set_ttl(&socket, host, TTL);
        socket
            .write_all(&echo_request(host, 1, b"how far?"))
            .unwrap();
        assert_eq!(ttl_seen(&link, host, protocol, b"how far?"), TTL, "{host}");
        expect_reply(&socket, host, 1, b"how far?");
    }
}

/// What a guest sees of ICMP errors; the kernel has checked their checksums.
struct Errors {
    socket: Socket,
    is_v4: bool,
}

impl Errors {
    fn open(guest: &Guest, target: IpAddr) -> Self {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = guest.enter(|| Socket::new(domain, Type::RAW, Some(protocol)));
        let socket = socket.expect("root of a namespace may open raw sockets");
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        socket.bind(&any(target).into()).unwrap();
        Self {
            socket,
            is_v4: target.is_ipv4(),
        }
    }

    /// Waits for the next error about a packet to `target`: who sent it, its type and code.
    #[track_caller]
    fn next(&self, target: IpAddr) -> (IpAddr, u8, u8) {
        let socket: &std::net::UdpSocket = &self.socket.try_clone().unwrap().into();
        loop {
            let mut buffer = [0; 2048];
            let (n, from) = socket
                .recv_from(&mut buffer)
                .unwrap_or_else(|error| panic!("no ICMP error about {target}: {error}"));
            let message = &buffer[..n];
            // A raw IPv4 socket shows the IP header, a raw IPv6 socket does not.
            let message = if self.is_v4 { &message[20..] } else { message };
            let quoted = match self.is_v4 {
                true => octets(message, 8 + 16).map(IpAddr::from),
                false => octets16(message, 8 + 24).map(IpAddr::from),
            };
            let is_error = if self.is_v4 {
                matches!(message[0], 3 | 11)
            } else {
                message[0] < 128
            };
            if is_error && quoted == Some(target) {
                return (from.ip(), message[0], message[1]);
            }
        }
    }
}

fn time_exceeded(of: IpAddr) -> (u8, u8) {
    if of.is_ipv4() { (11, 0) } else { (3, 0) }
}

fn time_exceeded_for_udp(world: &World) {
    let _router = world.router();
    let guest = world.guest(&[]);
    for (target, router) in Router::BEYOND.into_iter().zip(Router::ADDRESSES) {
        let errors = Errors::open(&guest, target);
        let socket = Socket::from(guest.udp(target));
        set_ttl(&socket, target, 1);
        socket
            .send_to(b"probe", &SocketAddr::new(target, 33434).into())
            .unwrap();
        let (kind, code) = time_exceeded(target);
        assert_eq!(errors.next(target), (router, kind, code));
    }
}

fn time_exceeded_for_pings(world: &World) {
    let _router = world.router();
    let guest = world.guest(&[]);
    for (target, router) in Router::BEYOND.into_iter().zip(Router::ADDRESSES) {
        let errors = Errors::open(&guest, target);
        let mut socket = ping_socket(&guest, target);
        set_ttl(&socket, target, 1);
        socket
            .write_all(&echo_request(target, 1, b"probe"))
            .unwrap();
        let (kind, code) = time_exceeded(target);
        assert_eq!(errors.next(target), (router, kind, code));
    }
    for target in Router::BEHIND {
        ping(&guest, target, 56);
    }
}

/// The last line of a traceroute: the target itself has no such port.
fn port_unreachable_from_afar(world: &World) {
    let _router = world.router();
    let guest = world.guest(&[]);
    for target in Router::BEHIND {
        let errors = Errors::open(&guest, target);
        guest
            .udp(target)
            .send_to(b"probe", (target, 33435))
            .unwrap();
        let (kind, code) = if target.is_ipv4() { (3, 3) } else { (1, 4) };
        assert_eq!(errors.next(target), (target, kind, code));
    }
}

/// A router of the host's side has a link that takes less: the guest hears of it, as from its own router.
fn too_big_from_afar(world: &World) {
    let router = world.router();
    router.narrow(1300);
    let guest = world.guest(&[]);
    for (target, router) in Router::BEYOND.into_iter().zip(Router::ADDRESSES) {
        let errors = Errors::open(&guest, target);
        let socket = guest.udp(target);
        socket
            .send_to(payload::slice(0, 1400), (target, 33436))
            .unwrap();
        let (kind, code) = if target.is_ipv4() { (3, 4) } else { (2, 0) };
        assert_eq!(errors.next(target), (router, kind, code));
        let route = guest.enter(|| ip(&format!("route get {target}")));
        assert!(route.contains("mtu 1300"), "what the guest learnt: {route}");
    }
}

fn unreachable_for_pings(world: &World) {
    let guest = world.guest(&[]);
    for target in UNREACHABLE.into_iter().cycle().take(12) {
        let errors = Errors::open(&guest, target);
        let mut socket = ping_socket(&guest, target);
        socket
            .write_all(&echo_request(target, 1, b"anyone?"))
            .unwrap();
        let (_, kind, _) = errors.next(target);
        assert_eq!(
            kind,
            if target.is_ipv4() { 3 } else { 1 },
            "destination unreachable"
        );
    }
}

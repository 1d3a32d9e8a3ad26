//! What a guest may reach of the host itself.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use crate::support::frames::{
    PROTOCOL_TCP, PROTOCOL_UDP, RawLink, TCP_CHECKSUM_AT, TCP_RST, TCP_SYN, UDP_CHECKSUM_AT,
    ethernet, ethertype, neighbour_mac, packet, tcp, udp,
};
use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::ip;
use crate::support::servers::{listen_at, round_trip, spawn_tcp_echo, spawn_udp_echo};
use crate::support::world::{ALIAS4, ALIAS6, GATEWAYS, GUEST4, GUEST6, HOST4, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        loopback_is_closed,
        loopback_opens_for_the_ports_that_are_named,
        loopback_opens_for_all_ports,
        loopback_by_its_own_addresses_is_refused,
        loopback_by_its_own_addresses_is_refused_even_if_open,
        gateway_has_no_other_services,
        no_one_else_is_on_the_segment,
    ]
}

const PORT: u16 = 8080;
const OTHER: u16 = 8081;
const ALIASES: [IpAddr; 2] = [IpAddr::V4(ALIAS4), IpAddr::V6(ALIAS6)];
const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Echo servers on the host's loopback, TCP and UDP, on both ports.
fn start_servers() {
    for loopback in LOOPBACKS {
        for port in [PORT, OTHER] {
            spawn_tcp_echo(listen_at((loopback, port).into()));
            spawn_udp_echo(UdpSocket::bind((loopback, port)).unwrap());
        }
    }
}

#[track_caller]
fn assert_refused(guest: &Guest, target: IpAddr, port: u16) {
    let error = guest.try_connect((target, port)).expect_err("closed");
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionRefused,
        "{target} TCP {port}: {error}"
    );
    let socket = guest.udp(target);
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.connect((target, port)).unwrap();
    socket.send(b"anyone?").unwrap();
    let error = socket.recv(&mut [0; 10]).expect_err("closed");
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionRefused,
        "{target} UDP {port}: {error}"
    );
}

#[track_caller]
fn assert_open(guest: &Guest, target: IpAddr, port: u16) {
    round_trip(&guest.connect((target, port)), b"hello");
    let socket = guest.udp(target);
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.send_to(b"hello", (target, port)).unwrap();
    let (n, from) = socket.recv_from(&mut [0; 10]).expect("the echo");
    assert_eq!(
        (n, from),
        (5, SocketAddr::new(target, port)),
        "the alias itself answers"
    );
}

fn loopback_is_closed(world: &World) {
    start_servers();
    let guest = world.guest(&[]);
    for alias in ALIASES {
        assert_refused(&guest, alias, PORT);
    }
}

fn loopback_opens_for_the_ports_that_are_named(world: &World) {
    start_servers();
    let guest = world.guest(&["--host-loopback", "5201,8079-8080"]);
    for alias in ALIASES {
        assert_open(&guest, alias, PORT);
        assert_refused(&guest, alias, OTHER);
    }
}

fn loopback_opens_for_all_ports(world: &World) {
    start_servers();
    let guest = world.guest(&["--host-loopback"]);
    for alias in ALIASES {
        assert_open(&guest, alias, PORT);
        assert_open(&guest, alias, OTHER);
    }
}

fn loopback_by_its_own_addresses_is_refused(world: &World) {
    own_addresses_are_refused(&world.guest(&[]));
}

fn loopback_by_its_own_addresses_is_refused_even_if_open(world: &World) {
    own_addresses_are_refused(&world.guest(&["--host-loopback", "all"]));
}

/// The guest's kernel would never send these to us, so frames made by hand do.
fn own_addresses_are_refused(guest: &Guest) {
    // A listener that every one of these addresses would lead to, were it dialled.
    ip("addr add 169.254.1.1/32 dev lo");
    let everywhere: [SocketAddr; 2] = [
        (Ipv4Addr::UNSPECIFIED, PORT).into(),
        (Ipv6Addr::UNSPECIFIED, PORT).into(),
    ];
    let listeners = everywhere.map(listen_at);
    let datagrams = UdpSocket::bind(everywhere[0]).unwrap();
    datagrams
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();

    let link = RawLink::open(&guest.net, "tap0");
    let gateway = neighbour_mac(&guest.net, GATEWAYS[0]);
    let compatible: IpAddr = "::127.0.0.1".parse().unwrap();
    let targets = [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.1.1",
        "169.254.169.254",
        "::1",
        "::",
        "::127.0.0.1",
        "fe80::1234",
    ];
    for (target, port) in targets.into_iter().zip(40_000..) {
        let target: IpAddr = target.parse().unwrap();
        let guest: IpAddr = if target.is_ipv4() {
            GUEST4.into()
        } else {
            GUEST6.into()
        };
        let frame = |protocol, payload, checksum_at| {
            let packet = packet((guest, target), protocol, payload, checksum_at);
            ethernet(gateway, link.mac(), ethertype(target), &packet)
        };
        let probe = udp(port, PORT, b"never");
        assert!(link.send(&frame(PROTOCOL_UDP, probe, UDP_CHECKSUM_AT)));
        let syn = tcp((port, PORT), (1, 0), TCP_SYN, &[], &[]);
        assert!(link.send(&frame(PROTOCOL_TCP, syn, TCP_CHECKSUM_AT)));
        if target.is_unspecified() || target == compatible {
            // No packet may be addressed to the first (RFC 1122 §3.2.1.3, RFC 4291 §2.5.2), and
            // the second is of a kind that was given up (§2.5.5.1): dropped without a word.
            continue;
        }
        link.find(&format!("a RST from {target}"), |frame| {
            let header = frame.get(14 + if target.is_ipv4() { 20 } else { 40 }..)?;
            let source = if target.is_ipv4() { 26..30 } else { 22..38 };
            let expected = match target {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let is_answer = frame.get(source)? == expected
                && header.get(2..4)? == port.to_be_bytes()
                && header.get(13)? & TCP_RST != 0;
            is_answer.then_some(())
        });
    }

    // What is let through comes first and alone.
    let open = guest.connect((HOST4, PORT));
    let (stream, _) = listeners[0].accept().unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), HOST4);
    drop((open, stream));
    assert!(listeners.iter().all(no_one_waits));
    guest
        .udp(HOST4.into())
        .send_to(b"allowed", (HOST4, PORT))
        .unwrap();
    let mut buffer = [0; 100];
    let n = datagrams
        .recv(&mut buffer)
        .expect("the datagram that is allowed");
    assert_eq!(buffer[..n], *b"allowed");
}

fn no_one_waits(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener
        .accept()
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn gateway_has_no_other_services(world: &World) {
    let guest = world.guest(&["--host-loopback"]);
    start_servers();
    for gateway in GATEWAYS {
        assert_refused(&guest, gateway, PORT);
    }
}

/// An address of the segment that no one has is not looked for on the host's networks.
fn no_one_else_is_on_the_segment(world: &World) {
    ip("addr add 10.77.0.9/32 dev lo");
    ip("addr add fd77::9/128 dev lo nodad");
    let listener = listen_at((Ipv4Addr::UNSPECIFIED, PORT).into());
    let guest = world.guest(&[]);
    for target in ["10.77.0.9", "fd77::9"] {
        let target: IpAddr = target.parse().unwrap();
        guest
            .try_connect((target, PORT))
            .expect_err("no one is there");
    }
    assert!(no_one_waits(&listener));
}

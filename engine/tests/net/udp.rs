//! UDP from the guest: sizes, mappings, errors.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::payload;
use crate::support::servers::{spawn_udp_echo, udp};
use crate::support::world::{HOSTS, UNREACHABLE, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests![
        segmented_by_the_guests_kernel,
        mapping_and_filtering_are_endpoint_independent,
        each_socket_has_its_own_mapping,
        many_sockets,
        mappings_expire,
        refused,
        unreachable,
    ];
    for host in HOSTS {
        for mtu in ["1500", "65520"] {
            let version = if host.is_ipv4() { "v4" } else { "v6" };
            let name = format!("udp::echo_of_every_size_{version}_mtu_{mtu}");
            tests.push(Test::new(name, move |world| echo(world, host, mtu)));
        }
    }
    tests
}

/// Nothing, one byte, around one frame at MTU 1500 for both versions, several, the most there is.
const SIZES: [usize; 11] = [0, 1, 2, 1451, 1452, 1453, 1471, 1472, 1473, 8000, 65_507];

fn echo(world: &World, host: IpAddr, mtu: &str) {
    let guest = world.guest(&["--mtu", mtu]);
    let server = spawn_udp_echo(udp(host));
    let socket = guest.udp(host);
    for size in SIZES {
        socket
            .send_to(payload::slice(size as u64, size), server)
            .unwrap();
        expect(&socket, server, payload::slice(size as u64, size));
    }
}

/// The next datagram is this one, and it comes from there.
#[track_caller]
fn expect(socket: &UdpSocket, from: SocketAddr, payload: &[u8]) {
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut buffer = vec![0; 1 << 16];
    let (n, source) = socket
        .recv_from(&mut buffer)
        .unwrap_or_else(|error| panic!("{} bytes from {from}: {error}", payload.len()));
    assert_eq!((n, source), (payload.len(), from));
    assert!(
        buffer[..n] == *payload,
        "{n} bytes came, but not those that were sent"
    );
}

/// `UDP_SEGMENT`: the guest's kernel hands down one large frame of many datagrams, which the host
/// must see as those many.
fn segmented_by_the_guests_kernel(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let server = udp(host);
        let socket = guest.udp(host);
        setsockopt(&socket, sockopt::UdpGsoSegment, &1000).expect("this kernel segments UDP");
        let target = server.local_addr().unwrap();
        // The last datagram is shorter than the others.
        assert_eq!(
            socket.send_to(payload::slice(0, 49_500), target).unwrap(),
            49_500
        );
        server
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        for i in 0..50 {
            let mut buffer = [0; 2000];
            let n = server.recv(&mut buffer).expect("each datagram comes");
            let length = if i < 49 { 1000 } else { 500 };
            assert_eq!(n, length, "datagram {i}");
            assert!(
                buffer[..n] == *payload::slice(i * 1000, length),
                "datagram {i}"
            );
        }
    }
}

/// RFC 4787 REQ-1 and REQ-8: one source towards all, and anyone may answer it.
fn mapping_and_filtering_are_endpoint_independent(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let servers = [udp(host), udp(host)];
        let socket = guest.udp(host);
        let sources = servers.each_ref().map(|server| {
            socket
                .send_to(b"who am I?", server.local_addr().unwrap())
                .unwrap();
            server
                .set_read_timeout(Some(Duration::from_secs(30)))
                .unwrap();
            server
                .recv_from(&mut [0; 100])
                .expect("the question comes")
                .1
        });
        assert_eq!(sources[0], sources[1], "both servers see one source");
        assert_eq!(sources[0].ip(), host);
        let third = udp(host);
        third.send_to(b"unasked", sources[0]).unwrap();
        expect(&socket, third.local_addr().unwrap(), b"unasked");
        // The second server may be answered by the first's mapping, too.
        servers[0].send_to(b"asked", sources[1]).unwrap();
        expect(&socket, servers[0].local_addr().unwrap(), b"asked");
    }
}

fn each_socket_has_its_own_mapping(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let server = udp(host);
        server
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let sockets = [guest.udp(host), guest.udp(host)];
        let sources = sockets.each_ref().map(|socket| {
            socket
                .send_to(b"who am I?", server.local_addr().unwrap())
                .unwrap();
            server
                .recv_from(&mut [0; 100])
                .expect("the question comes")
                .1
        });
        assert_ne!(sources[0], sources[1]);
        for (socket, source) in sockets.iter().zip(sources) {
            server
                .send_to(source.to_string().as_bytes(), source)
                .unwrap();
            expect(
                socket,
                server.local_addr().unwrap(),
                source.to_string().as_bytes(),
            );
        }
    }
}

fn many_sockets(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let server = spawn_udp_echo(udp(host));
        let sockets: Vec<_> = (0..200).map(|_| guest.udp(host)).collect();
        for (i, socket) in (0..).zip(&sockets) {
            socket.send_to(payload::slice(i * 99, 99), server).unwrap();
        }
        for (i, socket) in (0..).zip(&sockets) {
            expect(socket, server, payload::slice(i * 99, 99));
        }
    }
}

/// A mapping that is not used gives its socket back; the next datagram makes another.
fn mappings_expire(world: &World) {
    let guest = world.guest(&["--udp-timeout", "1s"]);
    for host in HOSTS {
        let server = spawn_udp_echo(udp(host));
        let socket = guest.udp(host);
        let before = sockets_of_the_host(host);
        socket.send_to(b"first", server).unwrap();
        expect(&socket, server, b"first");
        // Watched from aside: a datagram would keep the mapping alive.
        eventually("the host's socket is closed", || {
            sockets_of_the_host(host) == before
        });
        socket.send_to(b"second", server).unwrap();
        expect(&socket, server, b"second");
    }
}

fn sockets_of_the_host(like: IpAddr) -> usize {
    let table = if like.is_ipv4() { "udp" } else { "udp6" };
    let table = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    table.lines().count()
}

/// The host's ICMP port unreachable reaches the guest's socket.
fn refused(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let closed = udp(host).local_addr().unwrap();
        let socket = guest.udp(host);
        socket.connect(closed).unwrap();
        // The error quotes what it is about, so that of a long datagram is long.
        for datagram in [&b"anyone?"[..], &[7; 1200]] {
            assert_eq!(
                error_after_sending(&socket, datagram),
                ErrorKind::ConnectionRefused,
                "{closed}, {} bytes",
                datagram.len()
            );
        }
    }
}

/// Again and again, since other frames of the guest could hide that an error alone wakes no one.
fn unreachable(world: &World) {
    let guest = world.guest(&[]);
    for target in UNREACHABLE.into_iter().cycle().take(12) {
        let socket = guest.udp(target);
        // Without these, Linux keeps such errors from UDP sockets: they may pass.
        match target {
            IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap(),
            IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap(),
        }
        socket.connect((target, 7)).unwrap();
        let error = error_after_sending(&socket, b"anyone?");
        let kinds = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
        assert!(kinds.contains(&error), "{target}: {error:?}");
    }
}

#[track_caller]
fn error_after_sending(socket: &UdpSocket, datagram: &[u8]) -> ErrorKind {
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.send(datagram).unwrap();
    socket
        .recv(&mut [0; 100])
        .expect_err("no one is there")
        .kind()
}

//! A machine behind the guest, on a link that takes less than the guest's own: the guest's kernel says so,
//! and what is sent becomes small enough.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::support::attacker::{Attacker, ENDS};
use crate::support::frames::*;
use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::{Namespace, ip, sysctl};
use crate::support::payload::{self, MIB, next_random};
use crate::support::servers::{listen, udp};
use crate::support::world::{HOSTS, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![tcp_becomes_smaller, udp_comes_in_fragments, forged_errors]
}

const INNER4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
const INNER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x50);

/// A namespace behind the guest, whose router it is. On the way there the link takes `mtu` bytes; the
/// machine itself does not know that, so that it asks for full segments. Below 1280 there is no IPv6.
fn machine_behind(guest: &Guest, mtu: u16) -> Namespace {
    let inner = Namespace::new();
    let path = inner.path();
    guest.enter(|| {
        ip("link add outer0 type veth peer name inner0");
        ip(&format!("link set inner0 netns {}", path.display()));
        ip(&format!("link set outer0 mtu {mtu} up"));
        sysctl("net.ipv4.ip_forward", "1");
        sysctl("net.ipv6.conf.all.forwarding", "1");
        ip(&format!("route add {INNER4} dev outer0"));
        if mtu >= 1280 {
            ip(&format!("route add {INNER6} dev outer0"));
            ip("addr add fe80::1/64 dev outer0 nodad");
        }
    });
    inner.enter(|| {
        ip(&format!("addr add {INNER4}/32 dev inner0"));
        ip(&format!("addr add {INNER6}/128 dev inner0 nodad"));
        ip("link set inner0 up");
        ip("route add 10.77.0.3 dev inner0");
        ip("route add default via 10.77.0.3");
        ip("route add default via fe80::1 dev inner0");
    });
    inner
}

fn tcp_becomes_smaller(world: &World) {
    for (host, mtu) in HOSTS.into_iter().zip([600, 1280]) {
        let guest = world.guest(&["-v"]);
        let inner = machine_behind(&guest, mtu);
        let (near, far) = inner.pair(&listen(host));
        thread::scope(|scope| {
            scope.spawn(|| payload::send(&far, 16 * MIB).expect("all is sent"));
            payload::receive(&near, 16 * MIB).expect("all arrives");
        });
        drop((near, far));
        let summary = guest.end();
        assert!(summary.contains("took less"), "{summary}");
    }
}

fn udp_comes_in_fragments(world: &World) {
    for (host, mtu) in HOSTS.into_iter().zip([600, 1280]) {
        let guest = world.guest(&["-v"]);
        let inner = machine_behind(&guest, mtu);
        let (server, socket) = (udp(host), inner.udp(host));
        socket.send_to(b"?", server.local_addr().unwrap()).unwrap();
        let (_, client) = server.recv_from(&mut [0; 10]).unwrap();
        for size in [1400, 4000, 1472 - 20, 65_000] {
            until_it_arrives(&server, &socket, client, payload::slice(size as u64, size));
        }
        // From now on each arrives at once.
        for i in 0..100 {
            let datagram = payload::slice(i * 1000, 1400);
            server.send_to(datagram, client).unwrap();
            let mut buffer = [0; 2000];
            let n = socket
                .recv(&mut buffer)
                .expect("no datagram is lost any more");
            assert!(buffer[..n] == *datagram, "datagram {i}");
        }
        let summary = guest.end();
        assert!(summary.contains("took less"), "{summary}");
    }
}

/// The first is lost to the guest's knowledge of the path.
#[track_caller]
fn until_it_arrives(
    server: &UdpSocket,
    socket: &UdpSocket,
    client: std::net::SocketAddr,
    datagram: &[u8],
) {
    let mut buffer = vec![0; 1 << 16];
    for wait in [500, 30_000] {
        socket
            .set_read_timeout(Some(Duration::from_millis(wait)))
            .unwrap();
        server.send_to(datagram, client).unwrap();
        if let Ok(n) = socket.recv(&mut buffer) {
            assert!(buffer[..n] == *datagram, "{} bytes", datagram.len());
            return;
        }
    }
    panic!("{} bytes never arrive", datagram.len());
}

/// Errors that quote what was never sent change nothing.
fn forged_errors(world: &World) {
    let mut attacker = Attacker::new(world, 31, &[]);
    let near = attacker.bystander.local_addr().unwrap();
    let far = attacker.bystander.peer_addr().unwrap();
    for i in 0..5_000 {
        let (guest, _) = ENDS[i % 2];
        let host = HOSTS[i % 2];
        // Of no connection, or of one, with a number that is not in flight.
        let (ports, remote) = match i % 4 {
            0 => ((far.port(), near.port()), far.ip()),
            _ => ((9, attacker.below(60_000) as u16), host),
        };
        let sequence = next_random(&mut attacker.random) as u32;
        let quoted = tcp(ports, (sequence, 0), TCP_ACK, &[], &[0; 1000]);
        let quoted = packet((remote, guest), PROTOCOL_TCP, quoted, TCP_CHECKSUM_AT);
        let (protocol, mut error) = match guest {
            IpAddr::V4(_) => (PROTOCOL_ICMPV4, vec![3, 4, 0, 0, 0, 0, 2, 88]),
            IpAddr::V6(_) => (PROTOCOL_ICMPV6, vec![2, 0, 0, 0, 0, 0, 5, 0]),
        };
        let length = attacker.below(quoted.len());
        error.write_all(&quoted[..length]).unwrap();
        attacker.send_between((guest, host), protocol, error, ICMP_CHECKSUM_AT);
    }
    let summary = attacker.end();
    assert!(!summary.contains("took less"), "{summary}");
    assert!(summary.contains("an ICMP message"), "{summary}");
}

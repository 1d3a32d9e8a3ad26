//! A guest that configures IPv6 itself, from our router advertisements (RFC 4861, 4862, 8106).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::namespace::{Namespace, ip};
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{GATEWAY6, HOST6, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![a_kernel_configures_itself, what_the_advertisement_says]
}

fn attach(world: &World, net: &Namespace) -> crate::support::guest::Attached {
    let path = net.path();
    let path = path.to_str().unwrap();
    world.attach(&[
        "--netns",
        path,
        "--no-configure",
        "--mtu",
        "4000",
        "--search",
        "lan.test",
    ])
}

fn a_kernel_configures_itself(world: &World) {
    let net = Namespace::new();
    let engine = attach(world, &net);
    net.enter(|| ip("link set tap0 up"));
    eventually(
        "the kernel has an address of our prefix and a default route",
        || {
            net.enter(|| {
                let addresses = ip("-6 addr show dev tap0 scope global");
                let ready = addresses.contains("fd77::") && !addresses.contains("tentative");
                ready && ip("-6 route show default").contains("dev tap0")
            })
        },
    );
    let route = net.enter(|| ip("-6 route show default"));
    assert!(
        route.contains("via fe80::"),
        "the router is known by its link-local address: {route}"
    );
    let mtu = net.enter(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/tap0/mtu").unwrap());
    assert_eq!(mtu.trim(), "4000", "the advertised MTU is taken");
    let echo = spawn_tcp_echo(listen(HOST6));
    round_trip(&net.connect(echo), b"hello over IPv6");
    engine.end();
}

fn what_the_advertisement_says(world: &World) {
    const ROUTER_SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
    let net = Namespace::new();
    let engine = attach(world, &net);
    net.enter(|| ip("link set tap0 up"));
    let link_local = || net.enter(|| ip("-6 addr show dev tap0 scope link -tentative"));
    eventually("the interface may speak", || {
        link_local().contains("fe80::")
    });

    let socket = net.enter(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)));
    let socket: std::net::UdpSocket = socket.unwrap().into();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket2::SockRef::from(&socket)
        .set_multicast_hops_v6(255)
        .unwrap();
    let index = net.enter(|| {
        let list = nix::net::if_::if_nametoindex("tap0");
        list.expect("the interface is there")
    });
    let all_routers: Ipv6Addr = "ff02::2".parse().unwrap();
    let target = std::net::SocketAddrV6::new(all_routers, 0, 0, index);
    socket
        .send_to(&ROUTER_SOLICITATION, SocketAddr::V6(target))
        .unwrap();

    let (message, from) = loop {
        let mut buffer = [0; 2048];
        let (n, from) = socket.recv_from(&mut buffer).expect("an advertisement");
        if buffer[0] == 134 {
            break (buffer[..n].to_vec(), from.ip());
        }
    };
    assert!(
        matches!(from, IpAddr::V6(ip) if ip.is_unicast_link_local()),
        "sent by {from}"
    );
    assert!(
        u16::from_be_bytes([message[6], message[7]]) > 0,
        "a default router"
    );
    let options = options(&message[16..]);
    let option = |kind| options.iter().find(|o| o[0] == kind).map(|o| o.to_vec());

    let prefix = option(3).expect("a prefix");
    assert_eq!(
        (prefix[2], prefix[3]),
        (64, 0xc0),
        "a /64, on link and for addresses"
    );
    assert_eq!(
        prefix[16..32],
        "fd77::".parse::<Ipv6Addr>().unwrap().octets()
    );
    assert_eq!(option(5).expect("an MTU")[4..8], 4000_u32.to_be_bytes());
    let source = option(1).expect("the router's MAC");
    assert_eq!(source.len(), 8);
    let servers = option(25).expect("name servers (RFC 8106 §5.1)");
    assert_eq!(servers[8..24], GATEWAY6.octets());
    engine.end();
}

/// The options of an advertisement: type, length in units of 8 bytes, value (RFC 4861 §4.6).
fn options(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut options = Vec::new();
    while bytes.len() >= 8 {
        let length = usize::from(bytes[1]) * 8;
        assert!((8..=bytes.len()).contains(&length), "whole options");
        let (option, rest) = bytes.split_at(length);
        options.push(option);
        bytes = rest;
    }
    assert!(bytes.is_empty(), "options fill the message");
    options
}

//! Connections on which nothing is said: who is there is left alone, who is gone is found out.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::support::frames::{RawLink, TCP_ACK};
use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::namespace::ip;
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{HOSTS, OtherMachine, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        who_answers_is_left_alone,
        a_guest_that_is_gone,
        a_far_machine_that_is_gone,
    ]
}

/// Asked every second, given up after nine questions.
const QUICK: [&str; 2] = ["--tcp-idle", "1s"];

fn who_answers_is_left_alone(world: &World) {
    let guest = world.guest(&QUICK);
    for host in HOSTS {
        let link = RawLink::open(&guest.net, "tap0");
        let server = spawn_tcp_echo(listen(host));
        let near = guest.connect(server);
        round_trip(&near, b"hello");
        let mut asked = 0;
        link.find("the fourth question", |frame| {
            asked += usize::from(is_bare_ack(frame, server));
            (asked == 4).then_some(())
        });
        round_trip(&near, b"still here");
    }
}

/// An ACK from there with nothing in it.
fn is_bare_ack(frame: &[u8], from: SocketAddr) -> bool {
    let (source, header, length) = match from.ip() {
        IpAddr::V4(ip) => (ip.octets().to_vec(), 20, 26),
        IpAddr::V6(ip) => (ip.octets().to_vec(), 40, 22),
    };
    let tcp = frame.get(14 + header..).unwrap_or(&[]);
    let Some(&[high, low, ..]) = tcp.first_chunk::<20>() else {
        return false;
    };
    let port = u16::from_be_bytes([high, low]);
    let bare = tcp.len() == usize::from(tcp[12] >> 4) * 4 && tcp[13] == TCP_ACK;
    frame[length..].starts_with(&source) && port == from.port() && bare
}

fn a_guest_that_is_gone(world: &World) {
    let guest = world.guest(&QUICK);
    let pairs = HOSTS.map(|host| guest.pair(&listen(host)));
    guest.enter(|| ip("link set tap0 down"));
    for (_, far) in &pairs {
        is_reset(far);
    }
}

/// Also when the guest asks, which only we answer.
fn a_far_machine_that_is_gone(world: &World) {
    let machine = world.other_machine();
    let guest = world.guest(&QUICK);
    let pairs = OtherMachine::ADDRESSES.map(|address| {
        let listener = machine.enter(|| listen(address));
        guest.pair(&listener)
    });
    for (near, _) in &pairs {
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(1));
        SockRef::from(near).set_tcp_keepalive(&keepalive).unwrap();
    }
    machine.fall_silent();
    for (near, _) in &pairs {
        is_reset(near);
    }
}

#[track_caller]
fn is_reset(mut stream: &std::net::TcpStream) {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let error = stream.read(&mut [0]).expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

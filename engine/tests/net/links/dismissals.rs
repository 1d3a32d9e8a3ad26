//! Guests that break the rules: each is closed with a line in the log, and no other notices.

use std::io::{Read, Write};

use socket2::Socket;

use crate::support::frames::*;
use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::links::kernel::KernelGuest;
use crate::support::links::raw::RawGuest;
use crate::support::links::served::Served;
use crate::support::links::vpnkit;
use crate::support::payload;
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{HOST4, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        hellos_that_are_none,
        a_hello_that_never_ends,
        lengths_that_cannot_be,
        half_a_frame_for_ever,
        guests_that_take_nothing,
        a_stopped_guest_holds_up_nobody,
    ]
}

/// An engine, and a guest whose connection outlives all the others.
struct Scene {
    served: Served,
    bystander: KernelGuest,
    stream: std::net::TcpStream,
}

impl Scene {
    fn new(world: &World, options: &[&str]) -> Self {
        let served = world.serve(&[&["-v"], options].concat());
        let bystander = KernelGuest::new(served.join("qemu", 1000), 1500);
        let stream = bystander.connect(spawn_tcp_echo(listen(HOST4)));
        round_trip(&stream, b"before");
        Self {
            served,
            bystander,
            stream,
        }
    }

    /// Waits for a line about a guest that has all these words.
    #[track_caller]
    fn says(&self, words: &[&str]) {
        eventually(&format!("a line with {words:?}"), || {
            let said = self.served.said();
            said.lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        });
    }

    /// Old and new connections work, and new guests may come.
    #[track_caller]
    fn end(self) {
        round_trip(&self.stream, payload::slice(3, 100_000));
        super::transfer(&self.bystander, HOST4.into());
        for (protocol, number) in [("vpnkit", 2001), ("qemu", 2002), ("bess", 2003)] {
            self.served.join(protocol, number).prove_link();
        }
        drop(self.stream);
        drop(self.bystander);
        let said = self.served.end();
        assert!(!said.contains("panicked"), "{said}");
    }
}

fn hellos_that_are_none(world: &World) {
    let scene = Scene::new(world, &[]);
    let path = scene.served.path("vpnkit");

    let socket = vpnkit::dial(&path);
    (&socket).write_all(&[b'x'; 49]).unwrap();
    assert_ended(&socket);
    scene.says(&["vpnkit#1: closed"]);

    // The server introduces itself to all versions.
    let socket = vpnkit::dial(&path);
    vpnkit::greet(&socket, 21);
    assert_ended(&socket);
    scene.says(&["vpnkit#2: closed", "version 21"]);

    let commands: [(&[u8], &str); 3] = [
        (&[9; 41], "unknown command 9"),
        (&[b'z'; 41], "unknown command 122"),
        (&vpnkit::ethernet([b'z'; 36]), "UUID"),
    ];
    for (number, (command, word)) in commands.into_iter().enumerate() {
        let refusal = vpnkit::try_join(&path, command).err();
        assert_eq!(refusal, Some(vpnkit::Refusal::Closed));
        scene.says(&[&format!("vpnkit#{}: closed", number + 3), word]);
    }

    // A socket of the host, which is asked for like a link.
    let bind = [&[6][..], &[127, 0, 0, 1], &[80, 0], &[0]].concat();
    let refusal = vpnkit::try_join(&path, &bind).err();
    let text = "Unsupported command Bind_ipv4".to_owned();
    assert_eq!(refusal, Some(vpnkit::Refusal::Disconnect(text)));
    scene.end();
}

fn a_hello_that_never_ends(world: &World) {
    let scene = Scene::new(world, &[]);
    let path = scene.served.path("vpnkit");
    let silent = vpnkit::dial(&path);
    let half = vpnkit::dial(&path);
    (&half).write_all(b"VMN3T\x16\0").unwrap();
    let without_command = vpnkit::dial(&path);
    vpnkit::greet(&without_command, vpnkit::VERSION);
    (&without_command).write_all(&[1; 40]).unwrap();
    for socket in [silent, half, without_command] {
        assert_ended(&socket);
    }
    for number in 1..=3 {
        scene.says(&[&format!("vpnkit#{number}: closed")]);
    }
    scene.end();
}

fn lengths_that_cannot_be(world: &World) {
    let scene = Scene::new(world, &[]);
    let mut count = 1;
    for length in [0, 65_535 + 19, u32::MAX] {
        let guest = scene.served.join("qemu", 1);
        guest.prove_link();
        let bytes = [&length.to_be_bytes()[..], &[0; 100]].concat();
        guest.link.send_bytes(&bytes).unwrap();
        guest.link.assert_closed();
        count += 1;
        scene.says(&[&format!("qemu#{count}: "), "dismissed"]);
    }
    // The MTU, an Ethernet header and a VLAN tag.
    for (number, length) in [0_u16, 1500 + 19, u16::MAX].into_iter().enumerate() {
        let guest = scene.served.join("vpnkit", 1);
        guest.prove_link();
        let bytes = [&length.to_le_bytes()[..], &[0; 100]].concat();
        guest.link.send_bytes(&bytes).unwrap();
        guest.link.assert_closed();
        scene.says(&[&format!("vpnkit#{}: ", number + 1), "dismissed"]);
    }
    scene.end();
}

fn half_a_frame_for_ever(world: &World) {
    let scene = Scene::new(world, &["--stall-timeout", "1s"]);
    let starts: [(&str, &[u8]); 4] = [
        ("qemu", &[0]),
        ("qemu", &[0, 0, 0, 60, 1, 2, 3]),
        ("vpnkit", &[60]),
        ("vpnkit", &[60, 0, 1, 2, 3]),
    ];
    for (protocol, start) in starts {
        let guest = scene.served.join(protocol, 1);
        guest.prove_link();
        guest.link.send_bytes(start).unwrap();
        guest.link.assert_closed();
    }
    for guest in ["qemu#2", "qemu#3", "vpnkit#1", "vpnkit#2"] {
        scene.says(&[&format!("{guest}: "), "dismissed"]);
    }
    scene.end();
}

/// Each asks for more and more pings and reads no reply.
fn guests_that_take_nothing(world: &World) {
    let scene = Scene::new(world, &["--stall-timeout", "1s"]);
    for protocol in ["qemu", "vpnkit", "bess", "vfkit"] {
        let number = 1 + u16::from(protocol == "qemu");
        let guest = scene.served.join(protocol, 2);
        let lease = guest.prove_link();
        let ping = ping(&guest, lease.address, lease.router);
        eventually("the engine closes its end", || {
            (0..1000).any(|_| guest.link.send(&ping).is_err())
        });
        scene.says(&[&format!("{protocol}#{number}: "), "dismissed"]);
    }
    scene.end();
}

/// While one does not read, the others' frames go on; it is not closed yet.
fn a_stopped_guest_holds_up_nobody(world: &World) {
    let scene = Scene::new(world, &["--stall-timeout", "1h"]);
    let stopped = scene.served.join("qemu", 2);
    let lease = stopped.prove_link();
    let ping = ping(&stopped, lease.address, lease.router);
    stopped.link.set_nonblocking();
    // Until all buffers on the way are full, or the engine takes and drops.
    for _ in 0..20_000 {
        if stopped.link.send(&ping).is_err() {
            break;
        }
    }
    let other = KernelGuest::new(scene.served.join("vpnkit", 3), 1500);
    super::transfer(&other, HOST4.into());
    other.ping(scene.bystander.address());
    drop(other);
    assert!(!scene.served.said().contains("dismissed"));
    scene.end();
}

/// A frame that asks the gateway to send as much back.
fn ping(guest: &RawGuest, own: std::net::Ipv4Addr, router: std::net::Ipv4Addr) -> Vec<u8> {
    let gateway = guest.resolve(own, router);
    let message = [&[8, 0, 0, 0, 0, 7, 0, 1][..], &[0x55; 1400]].concat();
    let ends = (own.into(), router.into());
    let packet = packet(ends, PROTOCOL_ICMPV4, message, ICMP_CHECKSUM_AT);
    ethernet(gateway, guest.mac, ETHERTYPE_IPV4, &packet)
}

/// Fails unless the engine closes the connection.
#[track_caller]
fn assert_ended(mut socket: &Socket) {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => {}
        // It did not read all that was sent.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection is not closed: {error}"),
    }
}

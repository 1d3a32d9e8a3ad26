//! Each protocol from its hello to the end of the link.

use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

use super::prove;
use crate::support::attacker::ENDS;
use crate::support::frames::*;
use crate::support::harness::{Test, tests};
use crate::support::links::kernel::KernelGuest;
use crate::support::links::raw::RawGuest;
use crate::support::links::{Framing, Link, vpnkit};
use crate::support::namespace::ip;
use crate::support::payload;
use crate::support::process::Process;
use crate::support::servers::listen;
use crate::support::world::{GATEWAY4, HOST4, SUBNETS, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        by_vpnkits_protocol,
        by_qemus_stream,
        by_vfkits_datagrams,
        by_bess_packets,
        frames_of_65520_bytes,
        by_an_inherited_socket,
        by_standard_input_and_output,
        by_vsock,
        by_a_tap,
        what_vpnkit_says_of_the_link,
        frames_in_pieces,
        long_frames_with_half_a_checksum,
    ]
}

/// A guest of that protocol does all that guests do, twice, and its link ends with it.
fn by(world: &World, protocol: &str) {
    let served = world.serve(&["-v"]);
    for number in [1, 2] {
        let guest = served.join(protocol, number);
        guest.prove_link();
        prove(&KernelGuest::new(guest, 1500));
        if protocol != "vfkit" {
            // Its sockets do not tell that the other side is gone.
            let left = format!("{protocol}#{number}: it left");
            eventually("the engine notices", || served.said().contains(&left));
        }
    }
    served.end();
}

fn by_vpnkits_protocol(world: &World) {
    by(world, "vpnkit");
}

fn by_qemus_stream(world: &World) {
    by(world, "qemu");
}

fn by_vfkits_datagrams(world: &World) {
    by(world, "vfkit");
}

fn by_bess_packets(world: &World) {
    by(world, "bess");
}

fn frames_of_65520_bytes(world: &World) {
    let served = world.serve(&["--mtu", "65520"]);
    for protocol in ["qemu", "vpnkit"] {
        let guest = served.join(protocol, 1);
        assert_eq!(guest.lease().mtu, Some(65_520));
        prove(&KernelGuest::new(guest, 65_520));
    }
    served.end();
}

/// `towpath serve` with one guest, whose socket it is given.
fn serve_one(world: &World, url: &str, socket: Socket, stdout: Option<Socket>) -> Process {
    let mut command = world.towpath();
    command.arg("serve").args(SUBNETS).args(["--listen", url]);
    let stdout = stdout.map(|socket| OwnedFd::from(socket).into());
    world.spawn_with(command, OwnedFd::from(socket), stdout)
}

/// The engine ends when the last guest has left and no other can come.
fn by_an_inherited_socket(world: &World) {
    let sockets = [
        ("qemu", Type::STREAM, Framing::Qemu),
        ("vfkit", Type::DGRAM, Framing::Packets),
        ("bess", Type::SEQPACKET, Framing::Packets),
    ];
    for (protocol, kind, framing) in sockets {
        let (ours, theirs) = Socket::pair(Domain::UNIX, kind, None).unwrap();
        let mut engine = serve_one(world, &format!("fd:@in,proto={protocol}"), theirs, None);
        let guest = RawGuest::new(Link::over(ours, framing), 1);
        prove(&KernelGuest::new(guest, 1500));
        // That a pair of datagram sockets has lost one shows only to who sends.
        if kind != Type::DGRAM {
            let status = engine.wait();
            assert!(
                status.success(),
                "{protocol}, {status}: {}",
                engine.stderr()
            );
        }
    }
}

fn by_standard_input_and_output(world: &World) {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    let copy = theirs.try_clone().unwrap();
    let mut engine = serve_one(world, "stdio:proto=qemu", theirs, Some(copy));
    let guest = RawGuest::new(Link::over(ours, Framing::Qemu), 1);
    prove(&KernelGuest::new(guest, 1500));
    let status = engine.wait();
    assert!(status.success(), "{status}: {}", engine.stderr());
}

/// Where the kernel lets a program of this machine reach another by vsock.
fn by_vsock(world: &World) {
    const LOCAL: u32 = 1;
    const PORT: u32 = 51_001;
    let reach = || -> std::io::Result<()> {
        let probe = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        probe.bind(&socket2::SockAddr::vsock(u32::MAX, PORT + 1))?;
        probe.listen(1)?;
        let near = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        let address = socket2::SockAddr::vsock(LOCAL, PORT + 1);
        near.connect_timeout(&address, std::time::Duration::from_secs(2))
    };
    if let Err(error) = reach() {
        eprintln!("NOT TRIED: vsock within this machine: {error}");
        return;
    }
    let engine = world.supervised("serve", &["--listen", &format!("vsock://any:{PORT}")]);
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None).unwrap();
    socket
        .connect(&socket2::SockAddr::vsock(LOCAL, PORT))
        .expect("the engine listens");
    let (link, interface) =
        vpnkit::try_join_over(socket, &vpnkit::ethernet(vpnkit::uuid(1))).expect("it is let in");
    let mac = interface.mac;
    prove(&KernelGuest::new(RawGuest { link, mac }, 1500));
    engine.end();
}

/// The engine has the TAP's other side, so its guest is the world's own kernel.
fn by_a_tap(world: &World) {
    ip("tuntap add dev bridge0 mode tap");
    let engine = world.supervised("serve", &["--listen", "tap:bridge0"]);
    ip("link set bridge0 up");
    ip("addr add 10.77.0.50/24 dev bridge0");
    let mut reply = world.command("ping");
    reply.args(["-c", "3", "-i", "0.2", "-W", "20", &GATEWAY4.to_string()]);
    let mut ping = world.spawn(reply);
    assert!(
        ping.wait().success(),
        "{}",
        String::from_utf8_lossy(&ping.stdout())
    );
    engine.end();
}

fn what_vpnkit_says_of_the_link(world: &World) {
    for mtu in [1500, 4000] {
        let served = world.serve(&["--mtu", &mtu.to_string()]);
        let (_link, interface) = vpnkit::join(&served.path("vpnkit"), vpnkit::uuid(1));
        assert_eq!((interface.mtu, interface.packet_max), (mtu, mtu + 50));
        assert_eq!(interface.mac[0] & 3, 2, "one guest's, of no maker");
        served.end();
    }
}

/// A stream has no bounds: lengths and frames come in any pieces.
fn frames_in_pieces(world: &World) {
    let served = world.serve(&[]);
    for protocol in ["qemu", "vpnkit"] {
        let guest = served.join(protocol, 7);
        let lease = guest.prove_link();
        let gateway = guest.resolve(lease.address, lease.router);
        let framing = if protocol == "qemu" {
            Framing::Qemu
        } else {
            Framing::Vpnkit
        };
        let ping = |payload: &[u8]| {
            let message = [&[8, 0, 0, 0, 0, 7, 0, 1], payload].concat();
            let ends = (lease.address.into(), lease.router.into());
            let packet = packet(ends, PROTOCOL_ICMPV4, message, ICMP_CHECKSUM_AT);
            framing.wrap(&ethernet(gateway, guest.mac, ETHERTYPE_IPV4, &packet))
        };
        let both = [ping(b"first"), ping(b"second")].concat();
        for size in [1, 2, 3, 7, both.len()] {
            for piece in both.chunks(size) {
                guest.link.send_bytes(piece).unwrap();
            }
            for wanted in [&b"first"[..], b"second"] {
                guest.link.find("an echo reply", |frame| {
                    let reply = frame.get(34..)?;
                    (reply[0] == 0 && reply.ends_with(wanted)).then_some(())
                });
            }
        }
    }
    served.end();
}

/// A monitor that strips the header of virtio passes on segments as its guest's kernel makes them: as
/// long as an IP packet can be, and with a checksum over the pseudo-header alone.
fn long_frames_with_half_a_checksum(world: &World) {
    const DATA: usize = 20_000;
    let served = world.serve(&[]);
    let guest = served.join("qemu", 9);
    let lease = guest.prove_link();
    let gateway = guest.resolve(lease.address, lease.router);
    let listener = listen(HOST4);
    let port = listener.local_addr().unwrap().port();
    let ends = (lease.address.into(), ENDS[0].1);
    let send = |numbers, flags, data: &[u8]| {
        let segment = tcp((4000, port), numbers, flags, &[], data);
        let length = (segment.len() as u16).to_be_bytes();
        let mut packet = packet(ends, PROTOCOL_TCP, segment, TCP_CHECKSUM_AT);
        if !data.is_empty() {
            let pseudo = [
                &lease.address.octets()[..],
                &HOST4.octets(),
                &[0, 6],
                &length,
            ]
            .concat();
            let half = !checksum(&[&pseudo]);
            packet[20 + TCP_CHECKSUM_AT..][..2].copy_from_slice(&half.to_be_bytes());
        }
        let frame = ethernet(gateway, guest.mac, ETHERTYPE_IPV4, &packet);
        guest.link.send(&frame).unwrap();
    };
    send((99, 0), TCP_SYN, &[]);
    let number = guest.link.find("the SYN-ACK", |frame| {
        let header = frame.get(34..)?;
        let is_it = header.get(..2)? == port.to_be_bytes() && header.get(13)? & TCP_SYN != 0;
        is_it.then(|| u32::from_be_bytes([header[4], header[5], header[6], header[7]]))
    });
    for part in 0..3 {
        let offset = part * DATA as u32;
        let data = payload::slice(offset.into(), DATA);
        send((100 + offset, number + 1), TCP_ACK, data);
    }
    let (far, _) = listener.accept().unwrap();
    payload::receive(&far, 3 * DATA as u64).expect("all of it arrives");
    served.end();
}

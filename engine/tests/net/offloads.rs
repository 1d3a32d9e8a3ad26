//! Links with offloads and without: what is too long for one is cut, what is longer than it should be is
//! taken.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::support::attacker::Attacker;
use crate::support::frames::*;
use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::ip;
use crate::support::payload::{self, MIB};
use crate::support::servers::{listen, spawn_udp_echo, udp as bind_udp};
use crate::support::world::{HOSTS, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_plain_link_gets_frames_that_fit,
        a_link_with_offloads_gets_super_frames,
        a_plain_link_on_two_cores,
        datagrams_longer_than_the_link,
        segments_longer_than_the_link,
    ]
}

/// The longest frame at MTU 1500.
const FRAME: usize = 14 + 1500;
/// The MTU of a guest that does not care for ours.
const LARGE_MTU: &str = "link set tap0 mtu 9000";

/// The guest's kernel verifies each checksum, as nobody vouches for it.
fn a_plain_link_gets_frames_that_fit(world: &World) {
    let guest = world.guest(&["--plain-tap"]);
    assert!(longest_frame(&guest) <= FRAME);
    for host in HOSTS {
        let server = spawn_udp_echo(bind_udp(host));
        let socket = guest.udp(host);
        for size in [0, 1, 1452, 1453, 1472, 1473, 8000, 65_507] {
            echo(&socket, server, payload::slice(size as u64, size));
        }
    }
}

fn a_link_with_offloads_gets_super_frames(world: &World) {
    assert!(longest_frame(&world.guest(&[])) > FRAME);
}

fn a_plain_link_on_two_cores(world: &World) {
    assert!(longest_frame(&world.guest(&["--plain-tap", "--cores", "2"])) <= FRAME);
}

/// Moves bytes both ways and says how long the longest frame on the link was.
fn longest_frame(guest: &Guest) -> usize {
    const LENGTH: u64 = 32 * MIB;
    let mut longest = 0;
    for host in HOSTS {
        let (near, far) = guest.pair(&listen(host));
        let link = RawLink::open(&guest.net, "tap0");
        thread::scope(|scope| {
            for (mut from, to) in [(&near, &far), (&far, &near)] {
                scope.spawn(move || payload::send(&mut from, LENGTH).expect("all is sent"));
                scope.spawn(move || payload::receive(to, LENGTH).expect("all arrives"));
            }
            let mut frames = 0;
            link.find("so many frames", |frame| {
                longest = longest.max(frame.len());
                frames += 1;
                (frames == 200).then_some(())
            });
        });
    }
    longest
}

#[track_caller]
fn echo(socket: &UdpSocket, server: SocketAddr, datagram: &[u8]) {
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.send_to(datagram, server).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let n = socket.recv(&mut buffer);
    let n = n.unwrap_or_else(|error| panic!("{} bytes: {error}", datagram.len()));
    assert!(buffer[..n] == *datagram, "{} bytes", datagram.len());
}

/// A guest that leaves the checksum to the link may think that the link takes more than it says.
fn datagrams_longer_than_the_link(world: &World) {
    for options in [&[][..], &["--plain-tap"]] {
        let guest = world.guest(options);
        guest.enter(|| ip(LARGE_MTU));
        for host in HOSTS {
            let server = spawn_udp_echo(bind_udp(host));
            let link = RawLink::open(&guest.net, "tap0");
            let socket = guest.udp(host);
            echo(&socket, server, payload::slice(7, 8000));
            let headers = if host.is_ipv4() { 42 } else { 62 };
            let whole = link.find("a frame beyond the MTU", |frame| {
                (frame.len() > FRAME).then_some(frame.len())
            });
            assert_eq!(whole, 8000 + headers, "it left whole");
        }
    }
}

fn segments_longer_than_the_link(world: &World) {
    for options in [&[][..], &["--plain-tap"]] {
        let attacker = Attacker::new(world, 41, options);
        attacker.guest.enter(|| ip(LARGE_MTU));
        // Of nobody, so that the guest's kernel keeps out of it.
        let sources: [IpAddr; 2] = ["10.77.0.99".parse().unwrap(), "fd77::99".parse().unwrap()];
        for (source, host) in sources.into_iter().zip(HOSTS) {
            let listener = listen(host);
            let port = listener.local_addr().unwrap().port();
            let send = |numbers, flags, payload: &[u8]| {
                let segment = tcp((4000, port), numbers, flags, &[], payload);
                attacker.send_between((source, host), PROTOCOL_TCP, segment, TCP_CHECKSUM_AT);
            };
            send((99, 0), TCP_SYN, &[]);
            let number = attacker.link.find("the SYN-ACK", |frame| {
                let header = frame.get(14 + if host.is_ipv4() { 20 } else { 40 }..)?;
                let ports = [&port.to_be_bytes()[..], &4000_u16.to_be_bytes()].concat();
                let answer = header.get(..4)? == ports && header.get(13)? & TCP_SYN != 0;
                answer.then(|| u32::from_be_bytes([header[4], header[5], header[6], header[7]]))
            });
            for i in 0..5 {
                let data = payload::slice(i * 8000, 8000);
                send((100 + i as u32 * 8000, number + 1), TCP_ACK, data);
            }
            let (far, _) = listener.accept().unwrap();
            far.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            payload::receive(&far, 40_000).expect("all of it arrives");
            send((40_100, number + 1), TCP_FIN | TCP_ACK, &[]);
            is_over(far);
        }
        attacker.end();
    }
}

#[track_caller]
fn is_over(mut stream: TcpStream) {
    assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
}

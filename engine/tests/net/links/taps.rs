//! Guests on links of different abilities: TAPs with super-frames and unfinished checksums, and
//! sockets with neither.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use super::exchange;
use crate::support::frames::RawLink;
use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::links::kernel::KernelGuest;
use crate::support::namespace::{Namespace, ip};
use crate::support::payload;
use crate::support::servers::{listen, spawn_udp_echo, udp};
use crate::support::world::World;

pub(crate) fn tests() -> Vec<Test> {
    tests![
        taps_and_sockets_reach_each_other,
        taps_and_sockets_on_two_cores,
        super_frames_stay_whole_between_taps,
    ]
}

/// The longest frame at MTU 1500.
const FRAME: usize = 14 + 1500;

/// Makes a TAP for the engine to open; its other side is the world's own kernel as yet.
fn make_tap(number: usize) -> String {
    ip(&format!("tuntap add dev wire{number} mode tap"));
    format!("tap:wire{number}")
}

/// Gives a TAP that the engine has opened to a kernel of its own, with addresses.
fn give_away(number: usize) -> (Namespace, [IpAddr; 2]) {
    let net = Namespace::new();
    ip(&format!(
        "link set wire{number} netns {}",
        net.path().display()
    ));
    let addresses = [
        format!("10.77.0.{}", 50 + number),
        format!("fd77::{}", 50 + number),
    ];
    net.enter(|| {
        ip(&format!("addr add {}/24 dev wire{number}", addresses[0]));
        ip(&format!(
            "addr add {}/64 dev wire{number} nodad",
            addresses[1]
        ));
        ip(&format!("link set wire{number} up"));
    });
    (
        net,
        addresses.map(|address| address.parse().expect("an address")),
    )
}

/// The kernel's addresses, of which the second is made to be known.
fn addresses(guest: &KernelGuest, number: usize) -> [IpAddr; 2] {
    let address = format!("fd77::{number}");
    guest
        .net
        .enter(|| ip(&format!("addr add {address}/64 dev tap0 nodad")));
    [guest.address().into(), address.parse().expect("an address")]
}

fn taps_and_sockets_reach_each_other(world: &World) {
    between(world, &[]);
}

fn taps_and_sockets_on_two_cores(world: &World) {
    between(world, &["--cores", "2"]);
}

/// The kernels behind sockets verify each checksum and take no frame beyond their MTU.
fn between(world: &World, options: &[&str]) {
    let taps = [0, 1].map(make_tap);
    let listen_on = ["--listen", &taps[0], "--listen", &taps[1]];
    let served = world.serve(&[&listen_on[..], options].concat());
    let [one, two] = [0, 1].map(give_away);
    let sockets = [("qemu", 70), ("vpnkit", 71)]
        .map(|(protocol, number)| KernelGuest::new(served.join(protocol, number), 1500));
    let [qemu, vpnkit] = &sockets;
    let (qemu, vpnkit) = (
        (&qemu.net, addresses(qemu, 70)),
        (&vpnkit.net, addresses(vpnkit, 71)),
    );
    let (one, two) = ((&one.0, one.1), (&two.0, two.1));
    for (from, to) in [(one, two), (one, qemu), (vpnkit, two), (qemu, vpnkit)] {
        for address in to.1 {
            let listener = to.0.enter(|| listen(address));
            let (near, far) = from.0.pair(&listener);
            exchange(&near, &far);
            let server = to.0.enter(|| spawn_udp_echo(udp(address)));
            let socket = from.0.udp(address);
            socket
                .set_read_timeout(Some(Duration::from_secs(30)))
                .unwrap();
            for length in [1, 1400, 8000] {
                let datagram = payload::slice(length as u64, length);
                socket.send_to(datagram, server).expect("a route is there");
                let mut buffer = [0; 9000];
                let n = socket.recv(&mut buffer);
                let n = n.unwrap_or_else(|error| panic!("{address}, {length}: {error}"));
                assert_eq!(&buffer[..n], datagram);
            }
        }
    }
    drop(sockets);
    served.end();
}

fn super_frames_stay_whole_between_taps(world: &World) {
    let taps = [0, 1].map(make_tap);
    let served = world.serve(&["--listen", &taps[0], "--listen", &taps[1]]);
    let [(one, _), (two, addresses)] = [0, 1].map(give_away);
    for address in addresses {
        let listener = two.enter(|| listen(address));
        let (near, far) = one.pair(&listener);
        let source = RawLink::open(&one, "wire0").mac();
        let link = RawLink::open(&two, "wire1");
        thread::scope(|scope| {
            scope.spawn(|| exchange(&near, &far));
            link.find("a super-frame from the other", |frame| {
                let from_one = frame[6..12] == source;
                (from_one && frame.len() > FRAME).then_some(())
            });
        });
    }
    served.end();
}

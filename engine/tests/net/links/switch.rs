//! What guests see of each other.

use std::net::Ipv4Addr;

use super::{exchange, ping_each_other, transfer};
use crate::support::frames::{
    ETHERTYPE_IPV4, PROTOCOL_UDP, UDP_CHECKSUM_AT, ethernet, packet, udp,
};
use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::links::kernel::KernelGuest;
use crate::support::links::raw::RawGuest;
use crate::support::links::served::Served;
use crate::support::servers::listen;
use crate::support::world::{GATEWAY4, HOST4, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        guests_reach_each_other,
        guests_on_two_cores_reach_each_other,
        guests_are_kept_from_each_other,
        the_gateway_s_address_cannot_be_taken,
        broadcasts_reach_all,
    ]
}

/// A datagram in a frame.
fn frame(from: [u8; 6], to: [u8; 6], ends: (Ipv4Addr, Ipv4Addr), text: &[u8]) -> Vec<u8> {
    let datagram = udp(5353, 5353, text);
    let ends = (ends.0.into(), ends.1.into());
    let packet = packet(ends, PROTOCOL_UDP, datagram, UDP_CHECKSUM_AT);
    ethernet(to, from, ETHERTYPE_IPV4, &packet)
}

fn guests_reach_each_other(world: &World) {
    between(world, &[]);
}

fn guests_on_two_cores_reach_each_other(world: &World) {
    between(world, &["--cores", "2"]);
}

/// A connection between the two of each pair, with real kernels on both sides.
fn between(world: &World, options: &[&str]) {
    let served = world.serve(options);
    let protocols = ["qemu", "vpnkit", "bess", "vfkit"];
    let guests: Vec<KernelGuest> = (1..)
        .zip(protocols)
        .map(|(number, protocol)| KernelGuest::new(served.join(protocol, number), 1500))
        .collect();
    ping_each_other(&guests);
    for (from, to) in [(0, 1), (2, 3), (1, 2), (3, 0)] {
        let listener = guests[to].net.enter(|| listen(guests[to].address()));
        let (near, far) = guests[from].pair(&listener);
        exchange(&near, &far);
    }
    drop(guests);
    served.end();
}

/// Two guests, of which the second sees what the first sends it.
fn two(served: &Served) -> [(RawGuest, Ipv4Addr); 2] {
    [1, 2].map(|number| {
        let guest = served.join("qemu", number);
        let address = guest.prove_link().address;
        (guest, address)
    })
}

/// What the second guest gets until its ping of the gateway is back, when the first has sent a
/// frame before and knows that the engine has read it.
fn seen_by_the_second([first, second]: &[(RawGuest, Ipv4Addr); 2], frame: &[u8]) -> bool {
    first.0.link.send(frame).unwrap();
    first.0.prove_link();
    let (_, others) = second.0.resolve_seeing(second.1, GATEWAY4);
    others.iter().any(|seen| seen == frame)
}

fn guests_are_kept_from_each_other(world: &World) {
    for (options, kept) in [(&[][..], false), (&["--isolate"], true)] {
        let served = world.serve(options);
        let guests = two(&served);
        let [(first, from), (second, to)] = &guests;
        let unicast = frame(first.mac, second.mac, (*from, *to), b"to you");
        let broadcast = (*from, Ipv4Addr::BROADCAST);
        let broadcast = frame(first.mac, [0xff; 6], broadcast, b"to all");
        assert_eq!(seen_by_the_second(&guests, &unicast), !kept, "{options:?}");
        assert_eq!(
            seen_by_the_second(&guests, &broadcast),
            !kept,
            "{options:?}"
        );
        let kernel = KernelGuest::new(served.join("vpnkit", 3), 1500);
        transfer(&kernel, HOST4.into());
        drop(kernel);
        served.end();
    }
}

/// Frames that say that they come from the gateway go nowhere, and the gateway stays where it is.
fn the_gateway_s_address_cannot_be_taken(world: &World) {
    let served = world.serve(&[]);
    let guests = two(&served);
    let [(_, other), (second, address)] = &guests;
    let gateway = second.resolve(*address, GATEWAY4);
    let spoofed = frame(gateway, second.mac, (*other, *address), b"as the gateway");
    assert!(!seen_by_the_second(&guests, &spoofed));
    second.ping(*address, gateway, GATEWAY4, b"still there");
    served.end();
}

fn broadcasts_reach_all(world: &World) {
    let served = world.serve(&["--cores", "2"]);
    let guests: Vec<RawGuest> = ["qemu", "vpnkit", "bess", "vfkit"]
        .into_iter()
        .zip(1..)
        .map(|(protocol, number)| served.join(protocol, number))
        .collect();
    let addresses: Vec<Ipv4Addr> = guests
        .iter()
        .map(|guest| guest.prove_link().address)
        .collect();
    // By multicast DNS, and to all.
    let targets = [
        ([0x01, 0, 0x5e, 0, 0, 0xfb], Ipv4Addr::new(224, 0, 0, 251)),
        ([0xff; 6], Ipv4Addr::BROADCAST),
    ];
    for (mac, target) in targets {
        for (from, address) in guests.iter().zip(&addresses) {
            let sent = frame(from.mac, mac, (*address, target), b"hello all");
            from.link.send(&sent).unwrap();
            for other in guests.iter().filter(|other| other.mac != from.mac) {
                let what = format!("from {:02x?} to {:02x?}", from.mac, other.mac);
                other.link.find(&what, |seen| (seen == sent).then_some(()));
            }
        }
    }
    served.end();
}

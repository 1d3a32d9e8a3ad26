//! What the switch does with frames that are not simply for one guest or for all.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::attacker::{arp, neighbour_message};
use crate::support::frames::*;
use crate::support::harness::{Test, tests};
use crate::support::links::raw::RawGuest;
use crate::support::links::served::Served;
use crate::support::world::{ALIAS4, ALIAS6, GATEWAY4, GATEWAY6, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        unicast_is_for_one,
        unicast_is_for_one_on_two_cores,
        other_protocols_pass,
        what_a_loop_brings_back_goes_nowhere,
        a_guest_that_comes_back_is_found_again,
        who_floods_is_bounded,
        guests_do_not_play_gateway,
        a_guest_that_stops_reading_parks_itself_alone,
    ]
}

const ALL: [u8; 6] = [0xff; 6];
/// The gateway's MAC address where no option names another.
const GATEWAY: [u8; 6] = [0x02, 0x74, 0x6f, 0x77, 0, 1];

/// A guest without a lease, and the address that it uses.
struct Station {
    guest: RawGuest,
    address: Ipv4Addr,
}

impl Station {
    /// Joins, and has been heard when this returns.
    #[track_caller]
    fn join(served: &Served, protocol: &str, number: u8) -> Self {
        let guest = served.join(protocol, number.into());
        let address = Ipv4Addr::new(10, 77, 0, 100 + number);
        guest.resolve(address, GATEWAY4);
        Self { guest, address }
    }

    /// A datagram in a frame to some station.
    fn frame(&self, to: [u8; 6], payload: &[u8]) -> Vec<u8> {
        let ends = (self.address.into(), Ipv4Addr::new(10, 77, 0, 200).into());
        let datagram = udp(4000, 4001, payload);
        let packet = packet(ends, PROTOCOL_UDP, datagram, UDP_CHECKSUM_AT);
        ethernet(to, self.guest.mac, ETHERTYPE_IPV4, &packet)
    }

    fn send(&self, frame: &[u8]) {
        self.guest.link.send(frame).expect("the link is open");
    }

    /// Sends a datagram to a station.
    fn say(&self, to: [u8; 6], payload: &[u8]) {
        self.send(&self.frame(to, payload));
    }

    /// What has come before a last datagram from `from`: frames between two ports stay in order.
    #[track_caller]
    fn seen(&self, from: &Station) -> Vec<Vec<u8>> {
        let last = from.frame(self.guest.mac, b"this is the last");
        from.send(&last);
        let mut seen = Vec::new();
        self.guest.link.find("the last frame", |frame| {
            if frame == last {
                return Some(());
            }
            seen.push(frame.to_vec());
            None
        });
        seen
    }
}

/// Three guests on links of different kinds.
fn three(served: &Served) -> [Station; 3] {
    let protocols = [("qemu", 1), ("vpnkit", 2), ("bess", 3)];
    protocols.map(|(protocol, number)| Station::join(served, protocol, number))
}

/// Does one thing again and again while another is done.
fn repeatedly(mut again: impl FnMut() + Send, once: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Bounded, for when the other panics.
        scope.spawn(|| {
            (0..10_000)
                .take_while(|_| !done.load(Ordering::Relaxed))
                .for_each(|_| {
                    again();
                    thread::sleep(Duration::from_millis(5));
                });
        });
        once();
        done.store(true, Ordering::Relaxed);
    });
}

/// The number before a line of the summary.
#[track_caller]
fn counted(summary: &str, text: &str) -> u64 {
    let line = summary.lines().find(|line| line.ends_with(text));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no line '{text}': {summary}"))
}

fn unicast_is_for_one(world: &World) {
    unicast(world, &[]);
}

fn unicast_is_for_one_on_two_cores(world: &World) {
    unicast(world, &["--cores", "2"]);
}

fn unicast(world: &World, options: &[&str]) {
    const UNHEARD: [u8; 6] = [2, 0x99, 1, 1, 1, 1];
    // IEEE 802.1Q table 8-1: for the nearest bridge, which does not pass them on.
    const BRIDGES: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0x0e];
    let served = world.serve(options);
    let [one, two, three] = three(&served);
    let others = [&two, &three];
    let got = |payload: &[u8], to| {
        let frame = one.frame(to, payload);
        one.send(&frame);
        others.map(|other| other.seen(&one).contains(&frame))
    };
    assert_eq!(got(b"known", two.guest.mac), [true, false]);
    assert_eq!(got(b"known", three.guest.mac), [false, true]);
    assert_eq!(got(b"unheard", UNHEARD), [true, true]);
    assert_eq!(got(b"broadcast", ALL), [true, true]);
    assert_eq!(got(b"bridges", BRIDGES), [false, false]);
    assert_eq!(got(b"oneself", one.guest.mac), [false, false]);
    // A machine behind the third guest, which bridges it.
    let mut frame = three.frame(ALL, b"here");
    frame[6..12].copy_from_slice(&UNHEARD);
    three.send(&frame);
    one.guest
        .link
        .find("the machine", |seen| (seen == frame).then_some(()));
    assert_eq!(got(b"heard", UNHEARD), [false, true]);
    served.end();
}

/// What nobody here reads, but for what may hold anything.
fn other_protocols_pass(world: &World) {
    let served = world.serve(&["--cores", "2"]);
    let [one, two, three] = three(&served);
    for (ethertype, passes) in [(0x88b5, true), (0x8035, true), (0x8100, false), (60, false)] {
        for (to, third) in [(two.guest.mac, false), (ALL, true)] {
            let frame = ethernet(to, one.guest.mac, ethertype, &[0x11; 60]);
            one.send(&frame);
            let got = [&two, &three].map(|other| other.seen(&one).contains(&frame));
            assert_eq!(got, [passes, passes && third], "{ethertype:#x}");
        }
    }
    served.end();
}

/// The second guest sends back what it gets, as a cable from one port of a switch to another would.
fn what_a_loop_brings_back_goes_nowhere(world: &World) {
    for options in [&["-v"][..], &["-v", "--cores", "2"]] {
        let served = world.serve(options);
        let [one, two, three] = three(&served);
        // The first is heard all the time, so that the others can't be taken for its new place.
        let heard = || one.say(GATEWAY, b"to the gateway");
        repeatedly(heard, || {
            for round in 0..10_u8 {
                let frame = one.frame(ALL, &[round; 40]);
                one.send(&frame);
                two.guest
                    .link
                    .find("the frame", |seen| (seen == frame).then_some(()));
                two.send(&frame);
                let seen = [three.seen(&two), three.seen(&one)].concat();
                let times = seen.iter().filter(|seen| **seen == frame).count();
                assert_eq!(times, 1, "round {round}");
                let answer = three.frame(one.guest.mac, &[round; 50]);
                three.send(&answer);
                one.guest
                    .link
                    .find("the answer", |seen| (seen == answer).then_some(()));
            }
        });
        let summary = served.end();
        assert_eq!(
            counted(&summary, "just heard at another port"),
            10,
            "{summary}"
        );
    }
}

/// It has another port then, and its old one had it until a moment ago.
fn a_guest_that_comes_back_is_found_again(world: &World) {
    let served = world.serve(&["-v"]);
    let [one, two, three] = three(&served);
    drop(one);
    eventually("the engine notices", || {
        served.said().contains("qemu#1: it left")
    });
    let one = Station::join(&served, "qemu", 1);
    let frame = two.frame(one.guest.mac, b"welcome back");
    two.send(&frame);
    assert!(one.seen(&two).contains(&frame));
    assert!(!three.seen(&two).contains(&frame));
    served.end();
}

fn who_floods_is_bounded(world: &World) {
    const COUNT: u64 = 4_000;
    /// What may come at once.
    const BURST: u64 = 256;
    let served = world.serve(&["-v"]);
    let [one, two, three] = three(&served);
    let frame = one.frame(ALL, b"hear, hear");
    let got = thread::scope(|scope| {
        let count = |seen: Vec<Vec<u8>>| seen.iter().filter(|seen| **seen == frame).count() as u64;
        let (one, two) = (&one, &two);
        let frame = &frame;
        scope
            .spawn(move || (0..COUNT).for_each(|_| one.send(frame)))
            .join()
            .unwrap();
        count(two.seen(one))
    });
    assert!(got >= BURST, "{got}");
    // What is for one is not bounded, and others have limits of their own.
    let unicast = one.frame(three.guest.mac, b"a word with you");
    one.send(&unicast);
    assert!(three.seen(&one).contains(&unicast));
    let other = two.frame(ALL, b"order");
    two.send(&other);
    assert!(three.seen(&two).contains(&other));
    let summary = served.end();
    let dropped = counted(&summary, "than one guest may send to all");
    assert_eq!(got + dropped, COUNT, "{summary}");
    assert!(dropped > 0, "{summary}");
}

fn guests_do_not_play_gateway(world: &World) {
    let served = world.serve(&["-v"]);
    let [one, two, three] = three(&served);
    let mac = one.guest.mac;
    let own4 = one.address;
    let own6: IpAddr = "fd77::99".parse().unwrap();
    let nodes: IpAddr = "ff02::1".parse().unwrap();
    let arp_frame = |operation, sender| {
        let message = arp(operation, mac, sender, two.guest.mac, two.address);
        ethernet(ALL, mac, ETHERTYPE_ARP, &message)
    };
    let ip_frame = |ends: (IpAddr, IpAddr), protocol, payload, at| {
        let mut packet = packet(ends, protocol, payload, at);
        if ends.0.is_ipv6() {
            // Neighbour discovery says no more than a link away (RFC 4861 §6.1.2, §7.1.2).
            packet[7] = 255;
        }
        ethernet(ALL, mac, ethertype(ends.0), &packet)
    };
    let icmp6 =
        |source, message| ip_frame((source, nodes), PROTOCOL_ICMPV6, message, ICMP_CHECKSUM_AT);
    let advertisement = |about| neighbour_message(136, about, 2, mac);
    let datagram =
        |ends, (from, to)| ip_frame(ends, PROTOCOL_UDP, udp(from, to, b"!"), UDP_CHECKSUM_AT);
    let to_all = (own4.into(), Ipv4Addr::BROADCAST.into());
    let router = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &[0xfd; 32]].concat();
    let bad = [
        arp_frame(2, GATEWAY4),
        arp_frame(1, GATEWAY4),
        arp_frame(2, ALIAS4),
        icmp6(own6, advertisement(GATEWAY6)),
        icmp6(own6, advertisement(ALIAS6)),
        icmp6(own6, router),
        icmp6(own6, redirect),
        icmp6(
            GATEWAY6.into(),
            neighbour_message(135, "fd77::9".parse().unwrap(), 1, mac),
        ),
        datagram(to_all, (67, 68)),
        datagram(to_all, (5000, 68)),
        datagram((own6, nodes), (547, 546)),
        datagram((GATEWAY4.into(), Ipv4Addr::BROADCAST.into()), (53, 5000)),
    ];
    let good = [
        arp_frame(2, own4),
        icmp6(own6, advertisement("fd77::99".parse().unwrap())),
        datagram(to_all, (68, 67)),
        datagram((own6, nodes), (546, 547)),
    ];
    for frame in bad.iter().chain(&good) {
        one.send(frame);
    }
    for other in [&two, &three] {
        let seen = other.seen(&one);
        for (number, frame) in bad.iter().enumerate() {
            assert!(!seen.contains(frame), "the {number}th: {frame:02x?}");
        }
        for (number, frame) in good.iter().enumerate() {
            assert!(seen.contains(frame), "the {number}th: {frame:02x?}");
        }
    }
    let summary = served.end();
    let dropped = counted(&summary, "router or DHCP server for others");
    assert_eq!(dropped, bad.len() as u64, "{summary}");
}

/// What is for it is dropped when too much waits, and its sender and the others go on.
fn a_guest_that_stops_reading_parks_itself_alone(world: &World) {
    for options in [&["-v"][..], &["-v", "--cores", "2"]] {
        let served = world.serve(&[options, &["--stall-timeout", "1h"]].concat());
        let [one, two, three] = three(&served);
        // Far more than all buffers on the way hold.
        let frame = one.frame(two.guest.mac, &[0x5a; 1400]);
        for _ in 0..30_000 {
            one.send(&frame);
        }
        let other = one.frame(three.guest.mac, b"it does not listen");
        one.send(&other);
        assert!(three.seen(&one).contains(&other));
        one.guest.ping(one.address, GATEWAY, GATEWAY4, b"and you");
        // It goes on where it stopped.
        let link = &two.guest.link;
        link.find("what waited", |seen| (seen == frame).then_some(()));
        let probe = three.frame(two.guest.mac, b"do you read");
        repeatedly(
            || three.send(&probe),
            || {
                two.guest
                    .link
                    .find("a frame of another", |seen| (seen == probe).then_some(()));
            },
        );
        let summary = served.end();
        assert!(counted(&summary, "too much waits for the guest to take it") > 0);
    }
}

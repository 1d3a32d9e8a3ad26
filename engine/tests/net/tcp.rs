//! TCP from the guest to servers of the host.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::payload::{self, GIB, MIB};
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{GUEST4, HOLES, HOST4, HOST6, HOSTS, UNREACHABLE, World};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests![
        both_ways_at_once,
        sixteen_transfers_at_once,
        half_close_by_the_guest,
        half_close_by_the_host,
        refused,
        unreachable,
        without_a_route,
        black_holed_connects_hold_up_no_one,
        reset_by_the_guest,
        reset_by_the_host,
        two_thousand_at_once,
        guest_that_stops_reading,
        host_that_stops_reading,
        small_pieces_to_hosts_that_stop_reading,
        first_writes_beyond_the_window,
        many_small_writes,
        connections_come_from_the_host,
        short_lived_by_the_hundred,
        congestion_marks_when_the_guest_asks,
    ];
    for host in HOSTS {
        for mtu in ["1500", "65520"] {
            for direction in [Direction::Up, Direction::Down] {
                let version = if host.is_ipv4() { "v4" } else { "v6" };
                let way = format!("{direction:?}").to_lowercase();
                let name = format!("tcp::gibibyte_{way}_{version}_mtu_{mtu}");
                tests.push(Test::new(name, move |world| {
                    bulk(world, &["--mtu", mtu], host, direction, GIB);
                }));
            }
        }
    }
    tests
}

/// Which way a bulk transfer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    /// Guest to host.
    Up,
    /// Host to guest.
    Down,
}

/// Moves `length` bytes one way and checks them all.
pub(crate) fn bulk(
    world: &World,
    options: &[&str],
    host: IpAddr,
    direction: Direction,
    length: u64,
) {
    let guest = world.guest(options);
    let (near, far) = guest.pair(&listen(host));
    match direction {
        Direction::Up => transfer(&near, &far, length),
        Direction::Down => transfer(&far, &near, length),
    }
    drop((near, far));
    guest.end();
}

/// Sends a stream and its end from one socket to the other.
pub(crate) fn transfer(mut from: &TcpStream, to: &TcpStream, length: u64) {
    thread::scope(|scope| {
        scope.spawn(move || {
            payload::send(&mut from, length).expect("everything can be sent");
            from.shutdown(Shutdown::Write)
                .expect("the connection is open");
        });
        payload::receive_all(to, length).expect("everything arrives");
    });
}

fn both_ways_at_once(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let (near, far) = guest.pair(&listen(host));
        thread::scope(|scope| {
            scope.spawn(|| transfer(&near, &far, 128 * MIB));
            scope.spawn(|| transfer(&far, &near, 128 * MIB));
        });
    }
}

/// More at once than there are buffers for.
fn sixteen_transfers_at_once(world: &World) {
    let guest = world.guest(&[]);
    let listeners = HOSTS.map(listen);
    let pairs: Vec<_> = (0..16).map(|i| guest.pair(&listeners[i % 2])).collect();
    thread::scope(|scope| {
        for (i, (near, far)) in pairs.iter().enumerate() {
            let (from, to) = if i % 4 < 2 { (near, far) } else { (far, near) };
            scope.spawn(move || transfer(from, to, 32 * MIB));
        }
    });
}

fn half_close_by_the_guest(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        half_close(guest.pair(&listen(host)));
    }
}

fn half_close_by_the_host(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let (near, far) = guest.pair(&listen(host));
        half_close((far, near));
    }
}

/// The first end sends, closes its half, and only then does the other begin (RFC 9293 §3.6).
pub(crate) fn half_close((first, other): (TcpStream, TcpStream)) {
    payload::send(&first, 10_000).unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    payload::receive_all(&other, 10_000).expect("the half that is closed is whole");
    let sender = thread::spawn(move || payload::send(&other, 4 * MIB));
    payload::receive_all(&first, 4 * MIB).expect("the other half stays open");
    sender.join().unwrap().unwrap();
}

fn refused(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let closed = listen(host).local_addr().unwrap();
        let error = guest.try_connect(closed).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "{closed}: {error}"
        );
    }
}

fn unreachable(world: &World) {
    let guest = world.guest(&[]);
    for target in UNREACHABLE {
        fails_as_unreachable(&guest, target);
    }
}

/// The host has no default route, and says so without sending anything.
fn without_a_route(world: &World) {
    let guest = world.guest(&[]);
    for target in ["203.0.113.9", "2001:db8:ffff::9"] {
        fails_as_unreachable(&guest, target.parse().unwrap());
    }
}

fn fails_as_unreachable(guest: &impl GuestSockets, target: IpAddr) {
    let error = guest.try_connect((target, 80)).unwrap_err();
    let kinds = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
    assert!(kinds.contains(&error.kind()), "{target}: {error}");
}

fn black_holed_connects_hold_up_no_one(world: &World) {
    let guest = world.guest(&[]);
    let echo = spawn_tcp_echo(listen(HOST4));
    let open = guest.connect(echo);
    for hole in HOLES {
        let pending: Vec<_> = guest.enter(|| {
            (0..20)
                .map(|i| {
                    let target = SocketAddr::new(hole, 8000 + i);
                    thread::spawn(move || {
                        TcpStream::connect_timeout(&target, Duration::from_secs(3))
                    })
                })
                .collect()
        });
        // Flows that are open go on and new ones open while those wait.
        while pending.iter().any(|connect| !connect.is_finished()) {
            round_trip(&open, b"still here");
            round_trip(&guest.connect(echo), b"new here");
        }
        for connect in pending {
            let error = connect.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{hole}: {error}");
        }
    }
}

fn reset_by_the_guest(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        reset(guest.pair(&listen(host)));
    }
}

fn reset_by_the_host(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let (near, far) = guest.pair(&listen(host));
        reset((far, near));
    }
}

/// The first end resets; the other sees that and not an ordinary end.
fn reset((first, mut other): (TcpStream, TcpStream)) {
    round_trip_over(&first, &other);
    SockRef::from(&first)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(first);
    let error = other.read(&mut [0]).expect_err("a reset is not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

fn round_trip_over(mut first: &TcpStream, mut other: &TcpStream) {
    let mut byte = [0];
    first.write_all(b"x").unwrap();
    other.read_exact(&mut byte).unwrap();
    other.write_all(&byte).unwrap();
    first.read_exact(&mut byte).unwrap();
}

fn two_thousand_at_once(world: &World) {
    many_at_once(&world.guest(&[]), 2_000);
}

/// Opens `count` connections of both versions, keeps them all, and has each say something of its
/// own in both directions.
pub(crate) fn many_at_once(guest: &impl GuestSockets, count: u64) {
    let listeners = HOSTS.map(listen);
    let pairs: Vec<_> = (0..count)
        .map(|i| guest.pair(&listeners[(i % 2) as usize]))
        .collect();
    for (i, pair) in (0..).zip(&pairs) {
        (&pair.0).write_all(payload::slice(i * 1000, 100)).unwrap();
    }
    for (i, pair) in (0..).zip(&pairs) {
        payload::receive_from(&pair.1, i * 1000, 100).expect("each gets its own bytes");
        (&pair.1)
            .write_all(payload::slice(i * 1000 + 500, 100))
            .unwrap();
    }
    for (i, pair) in (0..).zip(&pairs) {
        payload::receive_from(&pair.0, i * 1000 + 500, 100).expect("each gets its own answer");
    }
}

fn guest_that_stops_reading(world: &World) {
    let guest = world.guest(&[]);
    let (near, far) = guest.pair(&listen(HOST4));
    reader_that_stops(&guest, far, &near);
}

fn host_that_stops_reading(world: &World) {
    let guest = world.guest(&[]);
    let (near, far) = guest.pair(&listen(HOST6));
    reader_that_stops(&guest, near, &far);
}

/// One end sends more than all buffers hold while the other reads nothing for five seconds. Other
/// flows go on meanwhile, and nothing is lost.
fn reader_that_stops(guest: &impl GuestSockets, sender: TcpStream, reader: &TcpStream) {
    const LENGTH: u64 = 256 * MIB;
    let other = guest.connect(spawn_tcp_echo(listen(HOST4)));
    let sending = thread::spawn(move || payload::send(&sender, LENGTH));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        round_trip(&other, payload::slice(77, 10_000));
    }
    assert!(
        !sending.is_finished(),
        "the sender must wait: buffers have bounds"
    );
    payload::receive_all(reader, LENGTH).expect("everything arrives after the pause");
    sending.join().unwrap().expect("everything was sent");
}

/// Each frame of a small piece takes a whole buffer of the engine's: those of flows that stand still
/// must not use up what the others need, on one core nor across cores.
fn small_pieces_to_hosts_that_stop_reading(world: &World) {
    for cores in ["1", "2"] {
        let guest = world.guest(&["--cores", cores]);
        let other = guest.connect(spawn_tcp_echo(listen(HOST4)));
        let stalled: Vec<_> = (0..16)
            .map(|_| {
                let (mut near, far) = guest.pair(&listen(HOST4));
                near.set_nodelay(true).unwrap();
                near.set_write_timeout(Some(Duration::from_millis(200)))
                    .unwrap();
                let mut sent = 0;
                while let Ok(n) = near.write(payload::slice(sent, 1_000)) {
                    sent += n as u64;
                }
                (near, far, sent)
            })
            .collect();
        for i in 0..100 {
            round_trip(&other, payload::slice(i, 10_000));
        }
        for (near, far, sent) in stalled {
            near.shutdown(Shutdown::Write).unwrap();
            payload::receive_all(&far, sent).expect("all pieces arrive after the pause");
        }
        drop(other);
        guest.end();
    }
}

/// A sender that fills the first window to within a few bytes gets the rest of it opened, also where
/// a segment is nearly as large as a window.
fn first_writes_beyond_the_window(world: &World) {
    for mtu in ["1500", "9000", "65520"] {
        let guest = world.guest(&["--mtu", mtu]);
        for host in HOSTS {
            for length in [65_439, 65_536, 100_000, MIB] {
                let (near, far) = guest.pair(&listen(host));
                thread::scope(|scope| {
                    scope.spawn(|| {
                        (&near)
                            .write_all(payload::slice(0, length as usize))
                            .unwrap();
                        near.shutdown(Shutdown::Write).unwrap();
                    });
                    payload::receive_all(&far, length).expect("the window opens");
                });
            }
        }
        guest.end();
    }
}

fn many_small_writes(world: &World) {
    const WRITES: u64 = 20_000;
    let guest = world.guest(&[]);
    let (near, far) = guest.pair(&listen(HOST4));
    let size = |i: u64| 1 + (i * 7 % 61) as usize;
    let length: u64 = (0..WRITES).map(|i| size(i) as u64).sum();
    let write_all = |mut to: TcpStream| {
        to.set_nodelay(true).unwrap();
        let mut offset = 0;
        for i in 0..WRITES {
            to.write_all(payload::slice(offset, size(i)))
                .expect("each write is taken");
            offset += size(i) as u64;
        }
        to.shutdown(Shutdown::Write).unwrap();
    };
    for (from, to) in [(&near, &far), (&far, &near)] {
        let from = from.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| write_all(from));
            payload::receive_all(to, length).expect("all small writes arrive, in order");
        });
    }
}

/// The host's firewalls and servers see a process of the host, not an address of the guest.
fn connections_come_from_the_host(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let (near, far) = guest.pair(&listen(host));
        assert_eq!(far.peer_addr().unwrap().ip(), host);
        if host.is_ipv4() {
            assert_eq!(near.local_addr().unwrap().ip(), GUEST4);
        }
    }
}

fn short_lived_by_the_hundred(world: &World) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let echo = spawn_tcp_echo(listen(host));
        for i in 0..300 {
            round_trip(&guest.connect(echo), payload::slice(i, 100));
        }
    }
}

/// The guest's kernel asks for ECN in its SYN when it is told to; then what it receives may be marked.
fn congestion_marks_when_the_guest_asks(world: &World) {
    let guest = world.guest(&[]);
    for (asks, sysctl) in [(false, "2"), (true, "1")] {
        guest.enter(|| {
            fs::write("/proc/sys/net/ipv4/tcp_ecn", sysctl).expect("a sysctl of its own")
        });
        let before = guest.enter(packets_that_may_be_marked);
        let (near, far) = guest.pair(&listen(HOST4));
        transfer(&far, &near, MIB);
        let count = guest.enter(packets_that_may_be_marked) - before;
        assert_eq!(count > 0, asks, "{count} packets with ECT(0)");
        drop((near, far));
    }
}

/// Packets with ECT(0) that this thread's network received.
fn packets_that_may_be_marked() -> u64 {
    let counters = fs::read_to_string("/proc/thread-self/net/netstat").expect("/proc is mounted");
    let mut lines = counters.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let column = names.split(' ').position(|name| name == "InECT0Pkts");
    let value = values
        .split(' ')
        .nth(column.expect("the kernel counts them"));
    value
        .and_then(|value| value.parse().ok())
        .expect("a number")
}

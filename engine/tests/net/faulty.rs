//! The guest kernel's TCP, and ours, over a link that misbehaves (`--fault`): what arrives is right and
//! whole, whatever was lost, doubled, reordered, late or damaged on the way.

use std::io::Read;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::sysctl;
use crate::support::payload::{self, MIB};
use crate::support::resolver::{Resolver, addresses, question};
use crate::support::servers::{listen, round_trip, spawn_tcp_echo, spawn_udp_echo, udp};
use crate::support::world::{GATEWAYS, HOST4, HOSTS, World};
use crate::tcp::{half_close, transfer};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests![
        segments_one_by_one,
        small_receive_buffers,
        guest_that_stops_reading,
        host_that_stops_reading,
        half_closes,
        two_hundred_connections,
        two_cores,
        hardly_any_memory_for_what_waits,
        doubled_datagrams,
        doubled_questions,
    ];
    for (name, plan, done) in FAULTS {
        for mtu in ["1500", "65520"] {
            let name = format!("faulty::{name}_mtu_{mtu}");
            tests.push(Test::new(name, move |world| {
                let summary = both_ways(world, plan, &["--mtu", mtu], 16 * MIB, |_| ());
                for done in done {
                    assert_done(&summary, done);
                }
            }));
        }
    }
    for setting in ["tcp_sack", "tcp_timestamps", "tcp_window_scaling"] {
        let name = format!("faulty::guest_without_{setting}");
        tests.push(Test::new(name, move |world| {
            both_ways(world, "loss=1%,reorder=1%,seed=3", &[], 4 * MIB, |guest| {
                guest.enter(|| sysctl(&format!("net.ipv4.{setting}"), "0"));
            });
        }));
    }
    tests
}

/// Names of tests, what the link does, and what it must say that it did.
const FAULTS: [(&str, &str, &[&str]); 7] = [
    ("loss", "loss=2%,seed=1", &["lost"]),
    ("duplicates", "duplicate=5%,seed=1", &["duplicated"]),
    ("reordering", "reorder=5%,gap=8,seed=1", &["reordered"]),
    ("flipped_bits", "corrupt=2%,seed=1", &["corrupted"]),
    ("cut_frames", "truncate=2%,seed=1", &["truncated"]),
    ("delay", "delay=2ms,jitter=1ms,loss=2%,seed=1", &["lost"]),
    (
        "everything_at_once",
        "loss=1%,duplicate=2%,reorder=2%,corrupt=1%,truncate=1%,jitter=200us,seed=1",
        &["lost", "duplicated", "reordered", "corrupted", "truncated"],
    ),
];

/// Two connections, one of each version, each with `length` bytes both ways at the same time. Returns
/// the summary of the engine's end.
#[track_caller]
fn both_ways(
    world: &World,
    plan: &str,
    options: &[&str],
    length: u64,
    prepare: impl FnOnce(&Guest),
) -> String {
    let guest = world.guest(&[&["-v", "--fault", plan], options].concat());
    prepare(&guest);
    let pairs = HOSTS.map(|host| guest.pair(&listen(host)));
    thread::scope(|scope| {
        for (near, far) in &pairs {
            scope.spawn(move || transfer(near, far, length));
            scope.spawn(move || transfer(far, near, length));
        }
    });
    drop(pairs);
    let summary = guest.end();
    assert!(!summary.contains("panicked"), "{summary}");
    summary
}

/// The summary says that the link did this, both ways: else the test would prove nothing.
#[track_caller]
fn assert_done(summary: &str, what: &str) {
    for way in ["faults from the guest: ", "faults to the guest: "] {
        let line = summary.lines().find_map(|line| line.strip_prefix(way));
        let parts = line
            .unwrap_or_default()
            .split([',', ' '])
            .collect::<Vec<_>>();
        let count = parts.windows(2).find(|pair| pair[1] == what);
        let count: Option<u64> = count.and_then(|pair| pair[0].parse().ok());
        assert!(count > Some(0), "nothing was {what}: {summary}");
    }
}

/// A guest without segmentation offload: each segment is a frame and has its own fate.
fn segments_one_by_one(world: &World) {
    let plan = "loss=0.5%,duplicate=0.5%,reorder=0.5%,corrupt=0.2%,seed=5";
    let summary = both_ways(world, plan, &[], 16 * MIB, |guest| {
        let mut ethtool = world.command_in(&guest.net, "ethtool");
        ethtool.args("-K tap0 tso off gso off tx-udp-segmentation off".split(' '));
        let status = world.spawn(ethtool).wait();
        assert!(status.success(), "ethtool: {status}");
    });
    for done in ["lost", "duplicated", "reordered", "corrupted"] {
        assert_done(&summary, done);
    }
}

/// A window of less than two segments, whose openings may be lost.
fn small_receive_buffers(world: &World) {
    let guest = world.guest(&["--fault", "loss=1%,reorder=1%,seed=2"]);
    for host in HOSTS {
        let listener = listen(host);
        let near = connect_with_buffer(&guest, listener.local_addr().unwrap(), 4096);
        let (far, _) = listener.accept().unwrap();
        transfer(&far, &near, MIB / 2);
    }
}

/// Connects from the guest with so small a receive buffer.
fn connect_with_buffer(guest: &Guest, target: SocketAddr, bytes: usize) -> TcpStream {
    guest.enter(|| {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        socket.connect(&target.into()).expect("the host listens");
        socket.into()
    })
}

fn guest_that_stops_reading(world: &World) {
    let guest = world.guest(&["--fault", "loss=2%,seed=4"]);
    let (near, far) = guest.pair(&listen(HOST4));
    reader_that_stops(far, &near);
}

fn host_that_stops_reading(world: &World) {
    let guest = world.guest(&["--fault", "loss=2%,seed=4"]);
    let (near, far) = guest.pair(&listen(HOST4));
    reader_that_stops(near, &far);
}

/// The windows are shut while the reader pauses, and what opens them again may be lost.
fn reader_that_stops(sender: TcpStream, reader: &TcpStream) {
    const LENGTH: u64 = 18 * MIB;
    let sending = thread::spawn(move || payload::send(&sender, LENGTH));
    for part in 0..3 {
        thread::sleep(Duration::from_secs(1));
        let offset = part * LENGTH / 3;
        payload::receive_from(reader, offset, LENGTH / 3).expect("everything arrives");
    }
    sending.join().unwrap().expect("everything was sent");
    let end = (&mut { reader }).read(&mut [0]);
    assert_eq!(end.expect("an orderly end"), 0);
}

fn half_closes(world: &World) {
    let guest = world.guest(&["--fault", "loss=5%,duplicate=5%,reorder=5%,seed=6"]);
    thread::scope(|scope| {
        for host in HOSTS.into_iter().cycle().take(8) {
            let guest = &guest;
            scope.spawn(move || half_close(guest.pair(&listen(host))));
            scope.spawn(move || {
                let (near, far) = guest.pair(&listen(host));
                half_close((far, near));
            });
        }
    });
}

fn two_hundred_connections(world: &World) {
    many(world, &["--fault", "loss=3%,seed=8"], 200);
}

/// Frames of one flow come to both cores, each with faults of its own.
fn two_cores(world: &World) {
    let plan = "loss=2%,duplicate=2%,reorder=2%,corrupt=1%,seed=9";
    let summary = both_ways(world, plan, &["--cores", "2"], 16 * MIB, |_| ());
    assert_done(&summary, "lost");
    many(world, &["--cores", "2", "--fault", "loss=3%,seed=8"], 50);
}

/// So many connections at once, each with its own bytes there and back.
fn many(world: &World, options: &[&str], count: u64) {
    let guest = world.guest(options);
    let servers = HOSTS.map(|host| spawn_tcp_echo(listen(host)));
    thread::scope(|scope| {
        for (n, server) in (0..count).zip(servers.into_iter().cycle()) {
            let guest = &guest;
            scope.spawn(move || {
                let stream = guest.connect(server);
                for part in 0..3 {
                    round_trip(&stream, payload::slice(n * 7919 + part, 30_000));
                }
                stream.shutdown(Shutdown::Write).unwrap();
                let end = (&mut &stream).read(&mut [0]);
                assert_eq!(end.expect("an orderly end"), 0);
            });
        }
    });
}

/// Less memory than one window, with slow readers and holes in what came: segments are refused, and
/// sent again.
fn hardly_any_memory_for_what_waits(world: &World) {
    let options = [
        "--buffer-memory",
        "16k",
        "--fault",
        "loss=2%,reorder=5%,seed=10",
    ];
    let guest = world.guest(&options);
    let listener = listen(HOST4);
    let pairs: Vec<_> = (0..8).map(|_| guest.pair(&listener)).collect();
    thread::scope(|scope| {
        for (near, far) in &pairs {
            scope.spawn(move || {
                payload::send(near, 2 * MIB).expect("everything can be sent");
                near.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(500));
                payload::receive_all(far, 2 * MIB).expect("everything arrives");
            });
        }
    });
}

/// Each datagram arrives, maybe more than once: UDP promises no less, and no more.
fn doubled_datagrams(world: &World) {
    let guest = world.guest(&["-v", "--fault", "duplicate=50%,seed=11"]);
    for host in HOSTS {
        let server = spawn_udp_echo(udp(host));
        let socket = guest.udp(host);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for n in 0..100 {
            // The first byte is its number; the size differs, so that fragments are among them.
            let sent = [&[n], payload::slice(n.into(), usize::from(n) * 40)].concat();
            socket.send_to(&sent, server).unwrap();
            let mut buffer = [0; 1 << 13];
            loop {
                let length = socket.recv(&mut buffer).expect("the datagram comes back");
                if buffer[0] == n {
                    assert_eq!(buffer[..length], sent);
                    break;
                }
                // One more of an earlier one.
                let earlier = payload::slice(buffer[0].into(), usize::from(buffer[0]) * 40);
                assert_eq!(buffer[1..length], *earlier);
            }
        }
    }
    assert_done(&guest.end(), "duplicated");
}

const PATIENCE: Duration = Duration::from_secs(30);

fn doubled_questions(world: &World) {
    let upstream = SocketAddr::new(HOST4.into(), 5353);
    let answer = [192, 0, 2, 80].into();
    let _resolver = Resolver::start(upstream, answer);
    let options = ["--dns", &upstream.to_string(), "--fault", "duplicate=100%"];
    let guest = world.guest(&options);
    for gateway in GATEWAYS {
        for id in 0..50 {
            assert_eq!(ask(&guest, gateway, id), [answer]);
        }
    }
}

/// Asks the gateway by UDP.
fn ask(guest: &Guest, gateway: IpAddr, id: u16) -> Vec<std::net::Ipv4Addr> {
    let socket = guest.udp(gateway);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((gateway, 53)).unwrap();
    socket.send(&question(id, "name.test")).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    addresses(&buffer[..length], id, 0)
}

//! Fifty thousand connections at once through one engine.
//!
//! Each takes a descriptor of the engine. Where a process may have fewer, there are as many connections
//! as it may, and the test says so. Both ends of a connection are the test's: its threads have
//! descriptor tables of their own, so that a limit counts for each of them.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::process::{Resource, getrlimit};

use crate::support::guest::Guest;
use crate::support::harness::{Test, tests};
use crate::support::payload;
use crate::support::servers::listen;
use crate::support::world::{HOSTS, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![fifty_thousand_at_once]
}

const CONNECTIONS: u64 = 50_000;
/// Threads, each with a part of the connections. Both ends of a part fit below a limit of 20,000.
const PARTS: u64 = 8;
/// Descriptors of the engine that are no connections.
const RESERVE: u64 = 500;
/// What each end says at a time, in bytes.
const MESSAGE: usize = 100;

fn fifty_thousand_at_once(world: &World) {
    let guest = world.guest(&["-v"]);
    let idle = descriptors(&guest);
    let each = connections() / PARTS;
    // All parts and the one that watches.
    let open = Barrier::new(PARTS as usize + 1);
    let watched = Barrier::new(PARTS as usize + 1);
    thread::scope(|scope| {
        for part in 0..PARTS {
            let (guest, open, watched) = (&guest, &open, &watched);
            scope.spawn(move || {
                let listeners = HOSTS.map(listen);
                guest.net.enter(|| {
                    unshare(CloneFlags::CLONE_FILES).expect("a thread may have its own");
                    let pairs = connect(&listeners, part * each..(part + 1) * each);
                    open.wait();
                    watched.wait();
                    talk(&pairs);
                    close(pairs);
                });
            });
        }
        open.wait();
        let all = descriptors(&guest);
        assert!(
            all >= idle + (each * PARTS) as usize,
            "{all} are open, {idle} were"
        );
        watched.wait();
    });
    eventually("the engine has as many descriptors as before", || {
        // The pool of fresh sockets may be fuller than it was.
        descriptors(&guest) <= idle + 64
    });
    let summary = guest.end();
    for counted in [
        "TCP connections asked for by the guest",
        "TCP connections that the host side accepted",
    ] {
        let line = format!("{}  {counted}", each * PARTS);
        assert!(summary.contains(&line), "{line}: {summary}");
    }
    assert!(!summary.contains("reset by"), "{summary}");
}

/// How many connections a process may have here, at most as many as the test is about.
fn connections() -> u64 {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let count = CONNECTIONS.min(limit.saturating_sub(RESERVE));
    if count < CONNECTIONS {
        eprintln!(
            "ONLY {count} of {CONNECTIONS} connections at once: the hard limit of descriptors \
             (ulimit -Hn) is {limit}"
        );
    }
    count / PARTS * PARTS
}

/// Descriptors that the engine has open.
fn descriptors(guest: &Guest) -> usize {
    let path = format!("/proc/{}/fd", guest.engine.id());
    fs::read_dir(path).expect("the engine runs").count()
}

/// One connection: its number and both its ends.
struct Pair {
    number: u64,
    near: TcpStream,
    far: TcpStream,
}

/// Opens connections with these numbers, each of which says something of its own both ways.
fn connect(listeners: &[TcpListener; 2], numbers: std::ops::Range<u64>) -> Vec<Pair> {
    let pairs = numbers.map(|number| {
        let listener = &listeners[(number % 2) as usize];
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let near = near.unwrap_or_else(|error| panic!("connection {number}: {error}"));
        let (far, peer) = listener.accept().expect("the guest has connected");
        assert_eq!(
            peer.ip(),
            listener.local_addr().map(|address| address.ip()).unwrap()
        );
        let pair = Pair { number, near, far };
        exchange(&pair, 0);
        pair
    });
    pairs.collect()
}

/// Both ends of each say something new.
fn talk(pairs: &[Pair]) {
    for round in 1..3 {
        for pair in pairs {
            exchange(pair, round);
        }
    }
}

/// A message up, which differs for each connection and round, and another one down.
fn exchange(pair: &Pair, round: u64) {
    let offset = pair.number * 7919 + round * 1000;
    let ways = [
        (&pair.near, &pair.far, offset),
        (&pair.far, &pair.near, offset + 500),
    ];
    for (mut from, to, offset) in ways {
        from.write_all(payload::slice(offset, MESSAGE)).unwrap();
        payload::receive_from(to, offset, MESSAGE as u64)
            .unwrap_or_else(|error| panic!("connection {}: {error}", pair.number));
    }
}

/// Half of them end at the guest first, half at the host; all end in order.
fn close(pairs: Vec<Pair>) {
    for Pair { number, near, far } in pairs {
        let (mut first, mut other) = if number % 4 < 2 {
            (near, far)
        } else {
            (far, near)
        };
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(other.read(&mut [0]).expect("an end in order"), 0);
        other.shutdown(Shutdown::Write).unwrap();
        assert_eq!(first.read(&mut [0]).expect("an end in order"), 0);
    }
}

//! A limit that is reached refuses the new and keeps the old.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::payload::{self, MIB};
use crate::support::servers::{listen, round_trip, spawn_tcp_echo, spawn_udp_echo, udp};
use crate::support::world::{HOLES, HOST4, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        tcp_connections,
        tcp_connects_that_wait,
        udp_mappings,
        memory_for_slow_readers
    ]
}

fn tcp_connections(world: &World) {
    let guest = world.guest(&["-v", "--max-tcp", "10"]);
    let listener = listen(HOST4);
    let target = listener.local_addr().unwrap();
    let mut pairs: Vec<_> = (0..10).map(|_| guest.pair(&listener)).collect();
    let error = guest
        .try_connect(target)
        .expect_err("the eleventh is too many");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    for (near, far) in &pairs {
        let echo = far.try_clone().unwrap();
        let echoing = thread::spawn(move || std::io::copy(&mut (&echo).take(5), &mut &echo));
        round_trip(near, b"hello");
        echoing.join().unwrap().unwrap();
    }
    // The guest closes first, so that nothing stays behind in TIME-WAIT on the engine's side.
    let (near, far) = pairs.pop().expect("ten pairs");
    drop(near);
    drop(far);
    eventually("there is room for one more", || {
        match guest.try_connect(target) {
            Ok(near) => {
                pairs.push((near, listener.accept().unwrap().0));
                true
            }
            Err(_) => false,
        }
    });
    drop(pairs);
    let summary = guest.end();
    assert!(summary.contains("too many TCP connections"), "{summary}");
}

fn tcp_connects_that_wait(world: &World) {
    let guest = world.guest(&["--max-pending", "5"]);
    let echo = spawn_tcp_echo(listen(HOST4));
    let open = guest.connect(echo);
    let waiting: Vec<_> = guest.enter(|| {
        (0..5)
            .map(|port| {
                let target = SocketAddr::new(HOLES[0], 8000 + port);
                thread::spawn(move || TcpStream::connect_timeout(&target, Duration::from_secs(60)))
            })
            .collect()
    });
    eventually("all five wait", || connects_of_the_host() == 5);
    let error = guest.try_connect(echo).expect_err("the sixth is too many");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    round_trip(&open, b"still here");
    assert!(
        waiting.iter().all(|connect| !connect.is_finished()),
        "those that wait go on waiting"
    );
}

/// Connections of the host's side that wait for an answer: state 2, SYN-SENT.
fn connects_of_the_host() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let states = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    states.filter(|&state| state == "02").count()
}

fn udp_mappings(world: &World) {
    let guest = world.guest(&["--max-udp", "2"]);
    let server = spawn_udp_echo(udp(HOST4));
    let sockets = [guest.udp(HOST4.into()), guest.udp(HOST4.into())];
    let third = guest.udp(HOST4.into());
    let works = |socket: &std::net::UdpSocket| {
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        socket.send_to(b"hello", server).unwrap();
        assert_eq!(socket.recv(&mut [0; 10]).expect("the echo"), 5);
    };
    sockets.iter().for_each(works);
    third.send_to(b"hello", server).unwrap();
    sockets.iter().for_each(works);
    third.set_nonblocking(true).unwrap();
    third
        .recv(&mut [0; 10])
        .expect_err("the third is one too many");
}

/// Data that no one reads takes what memory there is, and is neither lost nor in the way for ever.
fn memory_for_slow_readers(world: &World) {
    const LENGTH: u64 = 24 * MIB;
    let guest = world.guest(&["--buffer-memory", "1M"]);
    let listener = listen(HOST4);
    let ends = (0..8).map(|i| {
        let (near, far) = guest.pair(&listener);
        if i % 2 == 0 { (near, far) } else { (far, near) }
    });
    let (senders, readers): (Vec<_>, Vec<_>) = ends.unzip();
    let sending = senders
        .into_iter()
        .map(|to| thread::spawn(move || payload::send(to, LENGTH)));
    let sending: Vec<_> = sending.collect();
    // Long enough for everything to fill up.
    thread::sleep(Duration::from_secs(2));
    thread::scope(|scope| {
        for reader in &readers {
            scope.spawn(move || payload::receive_all(reader, LENGTH).expect("everything arrives"));
        }
    });
    for sent in sending {
        sent.join().unwrap().expect("everything was sent");
    }
    round_trip(&guest.connect(spawn_tcp_echo(listener)), b"hello");
}

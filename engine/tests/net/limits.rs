//! A limit that is reached refuses the new and keeps the old.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::connections::connects_to;
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

/// What was tried first is given up for what is tried now.
fn tcp_connects_that_wait(world: &World) {
    let guest = world.guest(&["-v", "--max-pending", "10"]);
    let echo = spawn_tcp_echo(listen(HOST4));
    let open = guest.connect(echo);
    let wait = |port| {
        let target = SocketAddr::new(HOLES[0], port);
        guest.enter(|| {
            thread::spawn(move || TcpStream::connect_timeout(&target, Duration::from_secs(60)))
        })
    };
    // One address of the guest's has half of the places.
    let waiting: Vec<_> = (8000..8005).map(wait).collect();
    eventually("all five wait", || connects_to(HOLES[0]) == 5);
    round_trip(&guest.connect(echo), b"there is room");
    eventually("one of those that wait made room", || {
        waiting.iter().any(|connect| connect.is_finished())
    });
    let refused = waiting.iter().filter(|connect| connect.is_finished());
    assert_eq!(refused.count(), 1, "and only one");
    for connect in waiting.into_iter().filter(|connect| connect.is_finished()) {
        let error = connect.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
    eventually("four go on waiting", || connects_to(HOLES[0]) == 4);
    round_trip(&open, b"still here");
    drop(open);
    let summary = guest.end();
    assert!(summary.contains("were not open yet"), "{summary}");
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

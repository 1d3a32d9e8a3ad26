//! Every operation and every error of the [`Driver`] trait, on every driver there is.
//!
//! Each test is a function over any driver; the list at the end runs all of them on each.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

#[cfg(feature = "kqueue-shim")]
use towpath_ring::Kqueue;
use towpath_ring::driver::faulty::{FaultPlan, Faulty};
use towpath_ring::driver::readiness::poller::Poller;
use towpath_ring::driver::sim::{Answer, Random, SimConfig, SimDriver, SimHost};
use towpath_ring::driver::{FRAME_HEADER_MAX, SEND_SLICES_MAX};
use towpath_ring::{
    Adopted, Completion, Driver, Epoll, Errno, ErrorOrigin, Keepalive, LinkId, Readiness,
    ReadinessConfig, ReceiveEnd, Remote, SendMode, Slice, SocketId, SocketKind, Token, UnixAddress,
    Uring, UringConfig,
};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

struct World<D> {
    driver: D,
    queue: VecDeque<Completion>,
}

impl<D: Driver> World<D> {
    /// The next completion.
    fn next(&mut self) -> Completion {
        let started = Instant::now();
        loop {
            if let Some(completion) = self.queue.pop_front() {
                return completion;
            }
            assert!(started.elapsed() < PATIENCE, "nothing completes");
            self.turn(100);
        }
    }

    /// The next completion, if one comes within `ms`.
    fn within(&mut self, ms: u64) -> Option<Completion> {
        if self.queue.is_empty() {
            self.turn(ms);
        }
        self.queue.pop_front()
    }

    fn turn(&mut self, ms: u64) {
        let mut completions = Vec::new();
        let deadline = self.driver.now() + ms * 1_000_000;
        self.driver.wait(Some(deadline), &mut completions).unwrap();
        self.queue.extend(completions);
    }

    fn open(&mut self, kind: SocketKind) -> SocketId {
        self.driver.open(kind).unwrap()
    }

    /// A connected TCP socket and its peer.
    fn connected(&mut self, ip: &str) -> (SocketId, TcpStream) {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let kind = if address.is_ipv4() {
            SocketKind::TcpV4
        } else {
            SocketKind::TcpV6
        };
        let socket = self.open(kind);
        self.driver.connect(socket, &Remote::Inet(address), 1);
        match self.next() {
            Completion::Connected {
                token: 1,
                result: Ok(()),
            } => {}
            other => panic!("{other:?}"),
        }
        let peer = listener.accept().unwrap().0;
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        (socket, peer)
    }

    fn sent(&mut self, token: Token) -> Result<u32, Errno> {
        match self.next() {
            Completion::Sent { token: got, result } if got == token => result,
            other => panic!("{other:?}"),
        }
    }

    /// What one receive yields.
    fn received(&mut self, token: Token) -> (Vec<Slice>, ReceiveEnd) {
        let mut parts = Vec::new();
        loop {
            match self.next() {
                Completion::Received { token: got, data } if got == token => {
                    assert!(!data.is_empty());
                    parts.push(data);
                }
                Completion::ReceiveEnd { token: got, end } if got == token => return (parts, end),
                other => panic!("{other:?}"),
            }
        }
    }

    fn receive(&mut self, socket: SocketId, max: u32) -> (Vec<Slice>, ReceiveEnd) {
        self.driver.receive(socket, max, false, 50);
        self.received(50)
    }

    fn datagram(&mut self) -> (Option<SocketAddr>, Slice, u16, Option<u8>) {
        match self.next() {
            Completion::Datagram {
                from,
                payload,
                gso_size,
                hop_limit,
                ..
            } => (from, payload, gso_size, hop_limit),
            other => panic!("{other:?}"),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn slice(bytes: &[u8]) -> Slice {
    Slice::from_vec(bytes.to_vec())
}

fn udp_port(world: &mut World<impl Driver>, socket: SocketId) -> u16 {
    world.driver.local_address(socket).unwrap().port()
}

/// A port of 127.0.0.1 where nobody listens.
fn dead_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn bytes_go_both_ways_over_both_ip_versions(mut world: World<impl Driver>) {
    for ip in ["127.0.0.1", "::1"] {
        let (socket, mut peer) = world.connected(ip);
        world
            .driver
            .send(socket, &[slice(b"hello")], SendMode::Now, 2);
        assert_eq!(world.sent(2), Ok(5));
        let mut bytes = [0; 5];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        peer.write_all(b"world").unwrap();
        let (parts, end) = world.receive(socket, 100);
        assert_eq!(
            (parts.concat(), end),
            (b"world".to_vec(), ReceiveEnd::Partial)
        );
        assert!(parts[0].is_pooled());
        assert_eq!(
            world.driver.local_address(socket).unwrap(),
            peer.peer_addr().unwrap()
        );
        world.driver.close(socket, false);
        world.turn(0);
        assert_eq!(peer.read(&mut bytes).unwrap(), 0, "an orderly end");
    }
}

fn many_slices_go_as_one_send(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    let bytes = pattern(SEND_SLICES_MAX * 100 + 100);
    let whole = slice(&bytes);
    let slices: Vec<_> = (0..SEND_SLICES_MAX + 1)
        .map(|at| whole.sub(at * 100..at * 100 + 100))
        .collect();
    world
        .driver
        .send(socket, &slices, SendMode::WhenWritable, 2);
    assert_eq!(
        world.sent(2),
        Ok(SEND_SLICES_MAX as u32 * 100),
        "what is too much is left"
    );
    let mut got = vec![0; SEND_SLICES_MAX * 100];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes[..got.len()]);
    world.driver.send(socket, &[], SendMode::Now, 3);
    assert_eq!(world.sent(3), Ok(0));
}

fn a_stream_of_many_bundles_arrives_whole(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    let bytes = pattern(3_000_000);
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        peer.write_all(&sent).unwrap();
        peer
    });
    let mut got = Vec::new();
    let mut wait_first = false;
    while got.len() < bytes.len() {
        world.driver.receive(socket, 128 << 10, wait_first, 9);
        let (parts, end) = world.received(9);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(
            len <= 128 << 10,
            "one receive of at most 128 KiB yielded {len}"
        );
        assert_eq!(end, ReceiveEnd::Partial);
        got.extend(parts.concat());
        wait_first = !wait_first;
    }
    assert!(got == bytes, "the bytes differ");
    drop(writer.join().unwrap());
    assert_eq!(world.receive(socket, 4096).1, ReceiveEnd::Eof);
}

fn a_receive_keeps_to_its_limit(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    peer.write_all(&pattern(200_000)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let mut total = 0;
    for max in [1, 100, 16_383, 16_384, 16_385, 40_000, 65_536] {
        let (parts, end) = world.receive(socket, max);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(len > 0 && len <= max as usize, "{len} of at most {max}");
        assert_eq!(end, ReceiveEnd::Partial);
        assert_eq!(parts.concat(), pattern(200_000)[total..total + len]);
        total += len;
    }
    world.driver.receive(socket, 0, false, 4);
    assert_eq!(world.received(4).1, ReceiveEnd::Failed(Errno::INVAL));
}

fn half_close_works_both_ways(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    world
        .driver
        .send(socket, &[slice(b"last words")], SendMode::WhenWritable, 2);
    // The send is only queued: it must still go out before the end.
    world.driver.shutdown_write(socket);
    assert_eq!(world.sent(2), Ok(10));
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last words");
    peer.write_all(b"answer").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    loop {
        match world.receive(socket, 1000) {
            (parts, ReceiveEnd::Partial) => got.extend(parts.concat()),
            (parts, end) => {
                assert_eq!((parts.len(), end), (0, ReceiveEnd::Eof));
                break;
            }
        }
    }
    assert_eq!(got, b"answer");
}

fn a_reset_is_told_on_both_sides(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    world.driver.close(socket, true);
    world.turn(0);
    let error = peer.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let (socket, peer) = world.connected("127.0.0.1");
    socket2_linger_zero(&peer);
    drop(peer);
    let (_, end) = world.receive(socket, 100);
    assert_eq!(end, ReceiveEnd::Failed(Errno::CONNRESET));
    world.driver.send(socket, &[slice(b"x")], SendMode::Now, 2);
    assert_eq!(world.sent(2), Err(Errno::PIPE), "and no signal");
}

fn socket2_linger_zero(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

fn connect_errors_are_told(mut world: World<impl Driver>) {
    let socket = world.open(SocketKind::TcpV4);
    world.driver.connect(socket, &Remote::Inet(dead_port()), 3);
    match world.next() {
        Completion::Connected { token: 3, result } => assert_eq!(result, Err(Errno::CONNREFUSED)),
        other => panic!("{other:?}"),
    }
    // The socket is not lost: a second try may work.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    world
        .driver
        .connect(socket, &Remote::Inet(listener.local_addr().unwrap()), 4);
    assert!(matches!(
        world.next(),
        Completion::Connected {
            token: 4,
            result: Ok(())
        }
    ));

    let socket = world.open(SocketKind::TcpV4);
    world
        .driver
        .connect(socket, &Remote::Inet("[::1]:1".parse().unwrap()), 5);
    match world.next() {
        Completion::Connected { token: 5, result } => assert_eq!(result, Err(Errno::AFNOSUPPORT)),
        other => panic!("{other:?}"),
    }
}

fn unix_streams_connect_by_path_and_name(mut world: World<impl Driver>) {
    let folder = std::env::temp_dir().join(format!("towpath-ring-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("conformance.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let socket = world.open(SocketKind::UnixStream);
    world
        .driver
        .connect(socket, &Remote::Unix(UnixAddress::Path(path.clone())), 1);
    assert!(matches!(
        world.next(),
        Completion::Connected {
            token: 1,
            result: Ok(())
        }
    ));
    let mut peer = listener.accept().unwrap().0;
    peer.write_all(b"unix").unwrap();
    assert_eq!(world.receive(socket, 10).0.concat(), b"unix");
    assert_eq!(
        world
            .driver
            .local_address(socket)
            .unwrap_err()
            .raw_os_error(),
        Some(Errno::AFNOSUPPORT.raw_os_error())
    );
    std::fs::remove_dir_all(folder).unwrap();

    let socket = world.open(SocketKind::UnixStream);
    let nowhere = UnixAddress::Abstract(b"towpath-nobody".to_vec());
    world.driver.connect(socket, &Remote::Unix(nowhere), 2);
    match world.next() {
        Completion::Connected { token: 2, result } => assert_eq!(result, Err(Errno::CONNREFUSED)),
        other => panic!("{other:?}"),
    }
    world
        .driver
        .connect(socket, &Remote::Unix(UnixAddress::Path("".into())), 3);
    match world.next() {
        Completion::Connected { token: 3, result } => assert_eq!(result, Err(Errno::INVAL)),
        other => panic!("{other:?}"),
    }
}

fn a_connect_waits_for_a_full_unix_queue(mut world: World<impl Driver>) {
    let listener =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let unique = &raw const listener as usize;
    let name = format!("towpath-queue-{}-{unique:x}", std::process::id());
    let address = socket2::SockAddr::unix(format!("\0{name}")).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let to = Remote::Unix(UnixAddress::Abstract(name.into_bytes()));
    let sockets = [1, 2, 3].map(|token| {
        let socket = world.open(SocketKind::UnixStream);
        world.driver.connect(socket, &to, token);
        socket
    });
    let connected = |completion: Option<Completion>| match completion {
        Some(Completion::Connected { token, result }) => Some((token, result)),
        None => None,
        Some(other) => panic!("{other:?}"),
    };
    assert_eq!(connected(world.within(100)), Some((1, Ok(()))));
    assert_eq!(connected(world.within(20)), None, "there is no room");
    world.driver.close(sockets[2], false);
    assert_eq!(
        connected(world.within(100)),
        Some((3, Err(Errno::CANCELED)))
    );
    listener.accept().unwrap();
    assert_eq!(connected(Some(world.next())), Some((2, Ok(()))));
    assert_eq!(connected(world.within(20)), None);
}

/// Whoever sends much gets no more turns than whoever sends little.
fn a_busy_socket_leaves_turns_to_others(mut world: World<impl Driver>) {
    let (busy, mut busy_peer) = world.connected("127.0.0.1");
    let (quiet, mut quiet_peer) = world.connected("127.0.0.1");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = std::sync::Arc::clone(&stop);
        move || {
            let block = pattern(1 << 20);
            while !stop.load(std::sync::atomic::Ordering::Relaxed)
                && busy_peer.write_all(&block).is_ok()
            {}
        }
    });
    world.driver.receive(busy, 64 << 10, false, 1);
    for round in 0..50u8 {
        quiet_peer.write_all(&[round]).unwrap();
        world.driver.receive(quiet, 100, false, 2);
        let (mut got, mut busy_ends) = (false, 0);
        while !got {
            match world.next() {
                Completion::Received { token: 2, data } => {
                    assert_eq!(data.bytes(), [round]);
                }
                Completion::ReceiveEnd { token: 2, end } => {
                    assert_eq!(end, ReceiveEnd::Partial);
                    got = true;
                }
                Completion::ReceiveEnd { token: 1, .. } => {
                    world.driver.receive(busy, 64 << 10, false, 1);
                    busy_ends += 1;
                }
                Completion::Received { token: 1, .. } => {}
                other => panic!("{other:?}"),
            }
            assert!(busy_ends < 20, "the quiet one has to wait in round {round}");
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    world.driver.close(busy, true);
    world.turn(0);
    writer.join().unwrap();
}

fn a_full_send_buffer_is_zero_bytes_now_and_waiting_otherwise(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    let block = slice(&pattern(1 << 20));
    let mut total = 0;
    loop {
        world
            .driver
            .send(socket, std::slice::from_ref(&block), SendMode::Now, 2);
        match world.sent(2).unwrap() {
            0 => break,
            bytes => total += bytes as usize,
        }
        assert!(total < 1 << 28, "the buffer never fills");
    }
    world.driver.send(
        socket,
        std::slice::from_ref(&block),
        SendMode::WhenWritable,
        3,
    );
    assert!(world.within(20).is_none(), "there is no room");
    let mut got = vec![0; total];
    peer.read_exact(&mut got).unwrap();
    let more = world.sent(3).unwrap() as usize;
    assert!(more > 0);
    let mut rest = vec![0; more];
    peer.read_exact(&mut rest).unwrap();
    assert!(rest == block.bytes()[..more]);
}

fn quiet_sends_tell_what_was_taken(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    // One part and several: both forms of the operation.
    let parts = [slice(b"one, "), slice(b"two, "), slice(b"three")];
    world.driver.send(socket, &parts[..1], SendMode::Quiet, 2);
    assert_eq!(world.sent(2), Ok(5));
    world.driver.send(socket, &parts[1..], SendMode::Quiet, 3);
    assert_eq!(world.sent(3), Ok(10));
    let mut got = [0; 15];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"one, two, three");

    // Until the buffer is full: a send that took a part or nothing says so, and nothing is lost.
    let block = slice(&pattern(300_001));
    let mut total = 0;
    loop {
        world
            .driver
            .send(socket, std::slice::from_ref(&block), SendMode::Quiet, 4);
        match world.sent(4).unwrap() as usize {
            300_001 => total += 300_001,
            less => {
                total += less;
                break;
            }
        }
        assert!(total < 1 << 28, "the buffer never fills");
    }
    world.driver.send(socket, &parts, SendMode::Quiet, 5);
    assert_eq!(world.sent(5), Ok(0));
    let mut got = vec![0; total];
    peer.read_exact(&mut got).unwrap();
    assert!(
        got.chunks(300_001)
            .all(|got| *got == block.bytes()[..got.len()])
    );

    // A shutdown right behind a quiet send comes after its bytes.
    world.driver.send(socket, &parts[..1], SendMode::Quiet, 6);
    world.driver.shutdown_write(socket);
    assert_eq!(world.sent(6), Ok(5));
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"one, ");
    // And to a peer that is gone.
    let (socket, peer) = world.connected("127.0.0.1");
    drop(peer);
    let outcomes: Vec<_> = (0..3)
        .map(|_| {
            world.driver.send(socket, &parts[..1], SendMode::Quiet, 7);
            world.sent(7)
        })
        .collect();
    let gone = [Err(Errno::PIPE), Err(Errno::CONNRESET)];
    assert!(gone.contains(&outcomes[2]), "{outcomes:?}");
}

fn close_ends_everything_once(mut world: World<impl Driver>) {
    let (socket, _peer) = world.connected("127.0.0.1");
    let block = slice(&pattern(1 << 20));
    loop {
        world
            .driver
            .send(socket, std::slice::from_ref(&block), SendMode::Now, 2);
        if world.sent(2) == Ok(0) {
            break;
        }
    }
    world.driver.receive(socket, 1000, false, 11);
    world.driver.send(
        socket,
        std::slice::from_ref(&block),
        SendMode::WhenWritable,
        12,
    );
    world.turn(0);
    world.driver.close(socket, true);
    let udp = world.open(SocketKind::UdpV4);
    world.driver.receive_from(udp, 13);
    // Closed before it was ever submitted.
    world.driver.close(udp, false);
    let mut seen = Vec::new();
    while let Some(completion) = world.within(100) {
        match completion {
            Completion::ReceiveEnd {
                token: 11,
                end: ReceiveEnd::Canceled,
            } => seen.push(11),
            Completion::Sent {
                token: 12,
                result: Err(Errno::CANCELED),
            } => seen.push(12),
            Completion::DatagramEnd { token: 13 } => seen.push(13),
            other => panic!("{other:?}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [11, 12, 13]);
}

fn a_pending_connect_is_cancelled(mut world: World<impl Driver>) {
    // A listener whose queue is full answers no SYN, so the next connect stays pending.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut pending = None;
    for token in 0..8 {
        let socket = world.open(SocketKind::TcpV4);
        world.driver.connect(socket, &Remote::Inet(address), token);
        match world.within(50) {
            Some(Completion::Connected { result: Ok(()), .. }) => {}
            Some(other) => panic!("{other:?}"),
            None => {
                pending = Some((socket, token));
                break;
            }
        }
    }
    let (socket, expected) = pending.expect("a connect that stays pending");
    world.driver.close(socket, false);
    match world.next() {
        Completion::Connected { token, result } => {
            assert_eq!((token, result), (expected, Err(Errno::CANCELED)));
        }
        other => panic!("{other:?}"),
    }
}

fn dead_sockets_and_second_operations_are_refused(mut world: World<impl Driver>) {
    let (socket, _peer) = world.connected("127.0.0.1");
    world.driver.receive(socket, 10, false, 1);
    world.driver.receive(socket, 10, false, 2);
    assert_eq!(world.received(2).1, ReceiveEnd::Failed(Errno::ALREADY));
    world.driver.close(socket, false);
    assert_eq!(world.received(1).1, ReceiveEnd::Canceled);
    world.driver.receive(socket, 10, false, 3);
    assert_eq!(world.received(3).1, ReceiveEnd::Failed(Errno::BADF));
    world.driver.send(socket, &[slice(b"x")], SendMode::Now, 4);
    assert_eq!(world.sent(4), Err(Errno::BADF));
    world
        .driver
        .send_to(socket, &dead_port(), &[slice(b"x")], 0, 5);
    assert!(matches!(
        world.next(),
        Completion::SendFailed {
            token: 5,
            errno: Errno::BADF,
            ..
        }
    ));
    world.driver.receive_from(socket, 6);
    assert!(matches!(
        world.next(),
        Completion::DatagramError {
            token: 6,
            errno: Errno::BADF
        }
    ));
    assert!(matches!(world.next(), Completion::DatagramEnd { token: 6 }));
    world.driver.connect(socket, &Remote::Inet(dead_port()), 7);
    assert!(matches!(
        world.next(),
        Completion::Connected {
            token: 7,
            result: Err(Errno::BADF)
        }
    ));
    assert!(world.driver.set_hop_limit(socket, 3).is_err());
    assert!(world.driver.take_error(socket).is_none());
    world.driver.shutdown_write(socket);
    world.driver.close(socket, true);
    assert!(world.within(10).is_none(), "closing twice says nothing");
}

fn datagrams_of_all_sizes_go_both_ways(mut world: World<impl Driver>) {
    for (ip, kind) in [("127.0.0.1", SocketKind::UdpV4), ("::1", SocketKind::UdpV6)] {
        let peer = UdpSocket::bind((ip, 0)).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = peer.local_addr().unwrap();
        let socket = world.open(kind);
        world.driver.receive_from(socket, 7);
        for len in [0, 1, 1400, 9000, 65_507] {
            let bytes = pattern(len);
            let whole = slice(&bytes);
            let halves = [whole.sub(0..len / 2), whole.sub(len / 2..len)];
            let payload = if len % 2 == 0 {
                &halves[..]
            } else {
                std::slice::from_ref(&whole)
            };
            world.driver.send_to(socket, &to, payload, 0, 8);
            world.turn(0);
            let mut got = vec![0; 70_000];
            let (count, from) = peer.recv_from(&mut got).unwrap();
            assert_eq!(got[..count], bytes, "{len}");
            assert_eq!(from.port(), udp_port(&mut world, socket));
            peer.send_to(&bytes, (ip, from.port())).unwrap();
            let (from, payload, gso_size, hop_limit) = world.datagram();
            assert_eq!((from, gso_size, hop_limit), (Some(to), 0, None));
            assert_eq!(payload.bytes(), bytes, "{len}");
        }
        world.driver.close(socket, false);
        assert!(matches!(world.next(), Completion::DatagramEnd { token: 7 }));
    }
}

fn a_segmented_send_is_many_datagrams(mut world: World<impl Driver>) {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = peer.local_addr().unwrap();
    let socket = world.open(SocketKind::UdpV4);
    let bytes = pattern(1000 * 10 + 77);
    let whole = slice(&bytes);
    let parts = [whole.sub(0..500), whole.sub(500..bytes.len())];
    world.driver.send_to(socket, &to, &parts, 1000, 8);
    // A segment size that is larger than the payload cuts nothing.
    world
        .driver
        .send_to(socket, &to, &[whole.sub(0..10)], 1000, 8);
    assert!(world.within(20).is_none(), "success is silent");
    let mut got = vec![0; 2000];
    for expected in bytes.chunks(1000) {
        let count = peer.recv(&mut got).unwrap();
        assert_eq!(&got[..count], expected);
    }
    assert_eq!(peer.recv(&mut got).unwrap(), 10);
}

fn datagrams_received_as_one_tell_their_size(mut world: World<impl Driver>) {
    let receiver = world.open(SocketKind::UdpV4);
    let sender = world.open(SocketKind::UdpV4);
    // Sending gives the receiver a port.
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    world
        .driver
        .send_to(receiver, &sink.local_addr().unwrap(), &[slice(b"x")], 0, 1);
    world.turn(0);
    let to = SocketAddr::from(([127, 0, 0, 1], udp_port(&mut world, receiver)));
    world.driver.receive_from(receiver, 2);
    let bytes = pattern(1200 * 5 + 300);
    world.driver.send_to(sender, &to, &[slice(&bytes)], 1200, 3);
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let (_, payload, gso_size, _) = world.datagram();
        assert!(
            gso_size == 1200 || payload.len() <= 1200,
            "{gso_size} {}",
            payload.len()
        );
        got.extend_from_slice(payload.bytes());
    }
    assert_eq!(got, bytes);
}

fn a_refused_datagram_is_an_error_with_its_target_and_receiving_goes_on(
    mut world: World<impl Driver>,
) {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let socket = world.open(SocketKind::UdpV4);
    world
        .driver
        .send_to(socket, &closed, &[slice(b"anybody?")], 0, 1);
    world.driver.receive_from(socket, 2);
    match world.next() {
        Completion::DatagramError { token: 2, errno } => assert_eq!(errno, Errno::CONNREFUSED),
        other => panic!("{other:?}"),
    }
    let error = world
        .driver
        .take_error(socket)
        .expect("an entry in the error queue");
    assert_eq!(error.errno, Errno::CONNREFUSED);
    assert_eq!(error.target, closed);
    assert_eq!(error.payload, b"anybody?");
    let offender = [127, 0, 0, 1].into();
    assert_eq!(
        error.origin,
        ErrorOrigin::Icmp {
            v6: false,
            kind: 3,
            code: 3,
            offender
        }
    );
    assert_eq!(world.driver.take_error(socket), None);
    let port = udp_port(&mut world, socket);
    peer.send_to(b"still here", ("127.0.0.1", port)).unwrap();
    assert_eq!(world.datagram().1.bytes(), b"still here");
}

fn an_error_of_one_target_does_not_cost_another_its_datagram(mut world: World<impl Driver>) {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let socket = world.open(SocketKind::UdpV4);
    for round in 0..20u8 {
        world
            .driver
            .send_to(socket, &closed, &[slice(b"nobody")], 0, 1);
        world.driver.send_to(
            socket,
            &peer.local_addr().unwrap(),
            &[slice(&[round])],
            0,
            2,
        );
        world.turn(0);
        let mut got = [0; 8];
        assert_eq!(peer.recv(&mut got).unwrap(), 1);
        assert_eq!(got[0], round);
    }
    assert!(world.within(10).is_none(), "no send failed for good");
    assert!(world.driver.take_error(socket).is_some());
}

fn a_send_that_is_too_long_fails_and_receiving_goes_on(mut world: World<impl Driver>) {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = peer.local_addr().unwrap();
    let socket = world.open(SocketKind::UdpV4);
    world.driver.receive_from(socket, 1);
    world
        .driver
        .send_to(socket, &to, &[slice(&pattern(65_508))], 0, 2);
    loop {
        match world.next() {
            Completion::SendFailed {
                token: 2,
                errno: Errno::MSGSIZE,
                ..
            } => break,
            Completion::DatagramError { token: 1, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let many = vec![slice(b"x"); SEND_SLICES_MAX + 1];
    world.driver.send_to(socket, &to, &many, 0, 3);
    while !matches!(
        world.next(),
        Completion::SendFailed {
            token: 3,
            errno: Errno::MSGSIZE,
            ..
        }
    ) {}
    world.driver.send_to(socket, &to, &[slice(b"fits")], 0, 4);
    world.turn(0);
    let port = udp_port(&mut world, socket);
    peer.send_to(b"back", ("127.0.0.1", port)).unwrap();
    loop {
        match world.next() {
            Completion::Datagram { payload, .. } => {
                assert_eq!(payload.bytes(), b"back");
                break;
            }
            Completion::DatagramError { token: 1, .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn packets_cross_a_socketpair_until_one_end_closes(mut world: World<impl Driver>) {
    let (ours, theirs) = seqpacket_pair();
    let socket = world.driver.adopt(ours, Adopted::Service);
    world.driver.receive_from(socket, 5);
    world
        .driver
        .send_packet(socket, &[slice(b"que"), slice(b"ry")], 6);
    world.turn(0);
    let mut got = [0; 100];
    assert_eq!(rustix::io::read(&theirs, &mut got).unwrap(), 5);
    assert_eq!(&got[..5], b"query");
    rustix::io::write(&theirs, b"one").unwrap();
    rustix::io::write(&theirs, b"two").unwrap();
    for expected in [b"one", b"two"] {
        let (from, payload, ..) = world.datagram();
        assert_eq!((from, payload.bytes()), (None, &expected[..]));
    }
    drop(theirs);
    loop {
        match world.next() {
            Completion::DatagramEnd { token: 5 } => break,
            Completion::DatagramError { token: 5, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    world.driver.send_packet(socket, &[slice(b"x")], 7);
    assert!(matches!(
        world.next(),
        Completion::SendFailed {
            token: 7,
            errno: Errno::PIPE,
            ..
        }
    ));
    world.driver.close(socket, false);
}

fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    // One end that does not block, as tokio would have it: the driver must not mind.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn a_full_packet_queue_fails_at_once(mut world: World<impl Driver>) {
    let (ours, theirs) = seqpacket_pair();
    let socket = world.driver.adopt(ours, Adopted::Service);
    let packet = slice(&pattern(4096));
    for _ in 0..10_000 {
        world
            .driver
            .send_packet(socket, std::slice::from_ref(&packet), 1);
        if let Some(completion) = world.within(0) {
            assert!(
                matches!(
                    completion,
                    Completion::SendFailed {
                        token: 1,
                        errno: Errno::AGAIN,
                        ..
                    }
                ),
                "{completion:?}"
            );
            drop(theirs);
            return;
        }
    }
    panic!("the queue never fills");
}

fn held_buffers_starve_and_their_return_helps(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    let levels = world.driver.levels();
    let bytes = pattern(levels.stream_total * levels.stream_buffer_bytes + 50_000);
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        peer.write_all(&sent).unwrap();
        peer
    });
    let mut held = Vec::new();
    loop {
        match world.receive(socket, 1 << 20) {
            (parts, ReceiveEnd::Partial) => held.extend(parts),
            (parts, ReceiveEnd::Starved) => {
                held.extend(parts);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(held.len(), levels.stream_total);
    assert_eq!(world.driver.levels().stream_free, 0);
    assert!(world.driver.counters().stream_starved >= 1);
    let mut got = held.concat();
    held.clear();
    assert_eq!(world.driver.levels().stream_free, levels.stream_total);
    while got.len() < bytes.len() {
        let (parts, end) = world.receive(socket, 1 << 20);
        assert_eq!(end, ReceiveEnd::Partial);
        got.extend(parts.concat());
    }
    assert!(got == bytes, "the bytes differ");
    drop(writer.join().unwrap());
}

fn held_datagrams_stop_receiving_until_they_return(mut world: World<impl Driver>) {
    let (ours, theirs) = seqpacket_pair();
    let socket = world.driver.adopt(ours, Adopted::Service);
    world.driver.receive_from(socket, 1);
    let total = world.driver.levels().datagram_total;
    let mut held = Vec::new();
    for _ in 0..total {
        rustix::io::write(&theirs, b"fill").unwrap();
        held.push(world.datagram().1);
    }
    rustix::io::write(&theirs, b"late").unwrap();
    assert!(world.within(20).is_none(), "there is no buffer for it");
    assert_eq!(world.driver.levels().datagram_free, 0);
    held.pop();
    assert_eq!(world.datagram().1.bytes(), b"late");
    drop(held);
    // Starved again and closed meanwhile: it still ends.
    let held: Vec<_> = (0..total)
        .map(|_| {
            rustix::io::write(&theirs, b"fill").unwrap();
            world.datagram().1
        })
        .collect();
    rustix::io::write(&theirs, b"lost").unwrap();
    assert!(world.within(20).is_none());
    world.driver.close(socket, false);
    assert!(matches!(world.next(), Completion::DatagramEnd { token: 1 }));
    drop(held);
}

fn deadlines_are_kept_and_the_clock_moves(mut world: World<impl Driver>) {
    let mut none = Vec::new();
    let before = world.driver.now();
    world
        .driver
        .wait(Some(before + 5_000_000), &mut none)
        .unwrap();
    assert!(none.is_empty());
    assert!(world.driver.now() >= before + 5_000_000, "it woke early");
    let before = world.driver.now();
    world.driver.wait(Some(0), &mut none).unwrap();
    assert!(none.is_empty() && world.driver.now() >= before);
}

fn silent_work_does_not_end_a_wait(mut world: World<impl Driver>) {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = world.open(SocketKind::UdpV4);
    let to = peer.local_addr().unwrap();
    for _ in 0..10 {
        world.driver.send_to(socket, &to, &[slice(b"x")], 0, 1);
    }
    let before = world.driver.now();
    let mut none = Vec::new();
    world
        .driver
        .wait(Some(before + 20_000_000), &mut none)
        .unwrap();
    assert!(none.is_empty() && world.driver.now() >= before + 20_000_000);
}

fn wakes_come_through_and_are_merged(mut world: World<impl Driver>) {
    let waker = world.driver.waker();
    let other = std::thread::spawn({
        let waker = waker.clone();
        move || {
            std::thread::sleep(Duration::from_millis(10));
            waker.wake();
        }
    });
    assert!(matches!(world.next(), Completion::Woken));
    other.join().unwrap();
    for round in 0..100 {
        waker.wake();
        waker.wake();
        assert!(matches!(world.next(), Completion::Woken), "round {round}");
        assert!(world.within(0).is_none(), "round {round}");
    }
}

fn hop_limits_and_error_reports_can_be_set(mut world: World<impl Driver>) {
    for kind in [
        SocketKind::UdpV4,
        SocketKind::UdpV6,
        SocketKind::TcpV4,
        SocketKind::TcpV6,
    ] {
        let socket = world.open(kind);
        world.driver.set_hop_limit(socket, 9).unwrap();
        world.driver.set_report_errors(socket).unwrap();
        world.driver.close(socket, false);
    }
}

fn a_keepalive_can_be_set_on_a_connection(mut world: World<impl Driver>) {
    let keepalive = Keepalive {
        idle: Duration::from_secs(7440),
        interval: Duration::from_secs(75),
        probes: 9,
    };
    let (socket, mut peer) = world.connected("127.0.0.1");
    world.driver.set_keepalive(socket, &keepalive).unwrap();
    peer.write_all(b"as before").unwrap();
    assert_eq!(world.receive(socket, 100).0.concat(), b"as before");
    world.driver.close(socket, false);
    let error = world.driver.set_keepalive(socket, &keepalive).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(Errno::BADF.raw_os_error()),
        "{error}"
    );
}

fn links_that_do_not_exist_say_so(mut world: World<impl Driver>) {
    let nowhere = LinkId(200);
    assert!(!world.driver.link_features(nowhere).offload_header);
    world
        .driver
        .write_frame(nowhere, &[0; FRAME_HEADER_MAX], &[]);
    world.driver.read_link(nowhere);
    match world.next() {
        Completion::LinkEnd { link, error } => assert_eq!((link, error), (nowhere, Errno::BADF)),
        other => panic!("{other:?}"),
    }
}

fn many_operations_than_the_queue_holds_all_go(mut world: World<impl Driver>) {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = peer.local_addr().unwrap();
    let socket = world.open(SocketKind::UdpV4);
    for _ in 0..20 {
        for number in 0..100u32 {
            world
                .driver
                .send_to(socket, &to, &[slice(&number.to_le_bytes())], 0, 1);
        }
        world.turn(0);
        for expected in 0..100u32 {
            let mut got = [0; 8];
            assert_eq!(peer.recv(&mut got).unwrap(), 4);
            assert_eq!(got[..4], expected.to_le_bytes(), "in order");
        }
    }
}

fn slices_outlive_their_driver(mut world: World<impl Driver>) {
    let (socket, mut peer) = world.connected("127.0.0.1");
    peer.write_all(b"keep me").unwrap();
    let (parts, _) = world.receive(socket, 100);
    world.driver.receive(socket, 100, false, 9);
    world.turn(0);
    drop(world);
    peer.write_all(b"nobody").ok();
    assert_eq!(parts.concat(), b"keep me");
}

/// A small ring: its queues overflow and its pools starve soon.
fn small_uring(busy_poll_ns: u64) -> World<Uring> {
    let config = UringConfig {
        sq_entries: 16,
        cq_entries: 64,
        stream_buffers: 32,
        datagram_buffers: 8,
        busy_poll_ns,
        ..UringConfig::default()
    };
    World {
        driver: Uring::new(&config, Vec::new()).unwrap(),
        queue: VecDeque::new(),
    }
}

/// A driver over readiness whose pools starve soon.
fn small_readiness<P: Poller>() -> World<Readiness<P>> {
    let config = ReadinessConfig {
        stream_buffers: 32,
        datagram_buffers: 8,
        ..ReadinessConfig::default()
    };
    World {
        driver: Readiness::new(&config, Vec::new()).unwrap(),
        queue: VecDeque::new(),
    }
}

/// A simulated kernel, whose far side these tests do not play; `sim.rs` has the rest.
fn small_sim() -> World<SimDriver> {
    let host = SimHost::new(|_| Answer::Never);
    World {
        driver: SimDriver::new(SimConfig::default(), host, Random::new(1), 0).unwrap(),
        queue: VecDeque::new(),
    }
}

macro_rules! conformance_without_peers {
    ($($test:ident)*) => {
        mod sim {
            $(
                #[test]
                fn $test() {
                    super::$test(super::small_sim());
                }
            )*
        }
    };
}

conformance_without_peers! {
    deadlines_are_kept_and_the_clock_moves
    wakes_come_through_and_are_merged
    hop_limits_and_error_reports_can_be_set
    links_that_do_not_exist_say_so
}

macro_rules! conformance {
    ($($test:ident)*) => {
        mod uring {
            $(
                #[test]
                fn $test() {
                    super::$test(super::small_uring(0));
                }
            )*
        }
        mod uring_that_stays_awake {
            $(
                #[test]
                fn $test() {
                    super::$test(super::small_uring(50_000));
                }
            )*
        }
        mod epoll {
            $(
                #[test]
                fn $test() {
                    super::$test(super::small_readiness::<super::Epoll>());
                }
            )*
        }
        #[cfg(feature = "kqueue-shim")]
        mod kqueue {
            $(
                #[test]
                fn $test() {
                    super::$test(super::small_readiness::<super::Kqueue>());
                }
            )*
        }
        mod faulty_without_faults {
            $(
                #[test]
                fn $test() {
                    let super::World { driver, queue } = super::small_uring(0);
                    let driver = super::Faulty::new(driver, &super::FaultPlan::default());
                    super::$test(super::World { driver, queue });
                }
            )*
        }
    };
}

conformance! {
    bytes_go_both_ways_over_both_ip_versions
    many_slices_go_as_one_send
    a_stream_of_many_bundles_arrives_whole
    a_receive_keeps_to_its_limit
    half_close_works_both_ways
    a_reset_is_told_on_both_sides
    connect_errors_are_told
    unix_streams_connect_by_path_and_name
    a_connect_waits_for_a_full_unix_queue
    a_busy_socket_leaves_turns_to_others
    a_full_send_buffer_is_zero_bytes_now_and_waiting_otherwise
    quiet_sends_tell_what_was_taken
    close_ends_everything_once
    a_pending_connect_is_cancelled
    dead_sockets_and_second_operations_are_refused
    datagrams_of_all_sizes_go_both_ways
    a_segmented_send_is_many_datagrams
    datagrams_received_as_one_tell_their_size
    a_refused_datagram_is_an_error_with_its_target_and_receiving_goes_on
    an_error_of_one_target_does_not_cost_another_its_datagram
    a_send_that_is_too_long_fails_and_receiving_goes_on
    packets_cross_a_socketpair_until_one_end_closes
    a_full_packet_queue_fails_at_once
    held_buffers_starve_and_their_return_helps
    held_datagrams_stop_receiving_until_they_return
    deadlines_are_kept_and_the_clock_moves
    silent_work_does_not_end_a_wait
    wakes_come_through_and_are_merged
    hop_limits_and_error_reports_can_be_set
    a_keepalive_can_be_set_on_a_connection
    links_that_do_not_exist_say_so
    many_operations_than_the_queue_holds_all_go
    slices_outlive_their_driver
}

mod uring_only {
    use super::*;

    #[test]
    fn rings_wake_each_other_by_message() {
        let (waker_out, waker_in) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            let mut world = small_uring(0);
            waker_out.send(world.driver.waker()).unwrap();
            for _ in 0..50 {
                assert!(matches!(world.next(), Completion::Woken));
            }
        });
        let mut world = small_uring(0);
        assert!(world.driver.features().message_ring);
        let peer = waker_in.recv().unwrap();
        while !other.is_finished() {
            world.driver.wake(&peer);
            world.turn(1);
        }
        other.join().unwrap();
        // Its ring is gone; nothing bad happens.
        world.driver.wake(&peer);
        world.turn(1);
        let own = world.driver.waker();
        world.driver.wake(&own);
        assert!(matches!(world.next(), Completion::Woken));
    }

    #[test]
    fn the_completion_event_tells_when_to_wait() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let readable = |world: &mut World<Uring>, ms: i64| {
            let event = world.driver.completion_event().unwrap();
            let mut fds = [PollFd::new(&event, PollFlags::IN)];
            let time = Timespec {
                tv_sec: 0,
                tv_nsec: ms * 1_000_000,
            };
            poll(&mut fds, Some(&time)).unwrap() == 1
        };
        let mut world = small_uring(0);
        let (socket, mut peer) = world.connected("127.0.0.1");
        world.driver.receive(socket, 100, false, 1);
        for _ in 0..3 {
            assert!(!readable(&mut world, 10), "nothing is there");
            peer.write_all(b"x").unwrap();
            assert!(readable(&mut world, 900), "a completion is there");
            assert_eq!(world.received(1).0.concat(), b"x");
            // What is there before it is armed counts, too.
            peer.write_all(b"y").unwrap();
            world.driver.receive(socket, 100, false, 1);
            assert!(readable(&mut world, 900), "it completed at once");
            assert_eq!(world.received(1).0.concat(), b"y");
            world.driver.receive(socket, 100, false, 1);
        }
    }

    #[test]
    fn who_stays_awake_finds_an_answer_without_sleeping() {
        let mut world = small_uring(1_000_000);
        if !world.driver.features().defer_taskrun {
            eprintln!("IGNORED: this kernel's io_uring has no deferred task work");
            return;
        }
        let (socket, mut peer) = world.connected("127.0.0.1");
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while peer.read(&mut byte).is_ok_and(|n| n == 1) {
                peer.write_all(&byte).unwrap();
            }
        });
        let started = Instant::now();
        while world.driver.counters().looks_found == 0 {
            assert!(
                started.elapsed() < PATIENCE,
                "{:?}",
                world.driver.counters()
            );
            world.driver.send(socket, &[slice(b"x")], SendMode::Now, 1);
            assert_eq!(world.sent(1), Ok(1));
            assert_eq!(world.receive(socket, 10).0.concat(), b"x");
        }
        world.driver.close(socket, false);
        world.turn(0);
        echo.join().unwrap();
    }

    #[test]
    fn a_wait_without_deadline_ends_with_a_completion() {
        let mut world = small_uring(0);
        world.driver.waker().wake();
        let mut completions = Vec::new();
        world.driver.wait(None, &mut completions).unwrap();
        assert!(matches!(completions[..], [Completion::Woken]));
    }
}

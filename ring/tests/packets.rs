//! Links of guests that are sockets of packets, a frame in each, on every driver that has them.
//!
//! Each test is a function over a driver and how to play the other end.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    recv, send, socketpair,
};
#[cfg(feature = "kqueue-shim")]
use towpath_ring::Kqueue;
use towpath_ring::driver::readiness::poller::Poller;
use towpath_ring::driver::sim::{Answer, HostFaults, Random, SimConfig, SimDriver};
use towpath_ring::driver::sim::{SimHost, SimPackets};
use towpath_ring::driver::{PACKETS_MAX, SEND_SLICES_MAX};
use towpath_ring::{
    Adopted, Completion, Driver, Epoll, Errno, FrameBounds, PacketWriter, Readiness,
    ReadinessConfig, Slice, SocketId, Uring, UringConfig,
};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest frame of any link: 64 KiB − 1 and an ethernet header with a tag.
const FRAME_MAX: usize = 65_553;

/// The other end. Nothing waits.
trait Peer {
    fn take(&mut self) -> Option<Vec<u8>>;
    fn send(&mut self, packet: Vec<u8>);
    fn close(&mut self);
}

/// A descriptor, until it is closed.
struct Kernel(Option<OwnedFd>);

impl Peer for Kernel {
    fn take(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 70_000];
        match recv(self.0.as_ref()?, &mut packet, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => None,
            received => {
                packet.truncate(received.unwrap().0);
                Some(packet)
            }
        }
    }

    fn send(&mut self, packet: Vec<u8>) {
        let fd = self.0.as_ref().unwrap();
        let sent = send(fd, &packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(packet.len()));
    }

    fn close(&mut self) {
        self.0 = None;
    }
}

impl Peer for SimPackets {
    fn take(&mut self) -> Option<Vec<u8>> {
        SimPackets::take(self)
    }

    fn send(&mut self, packet: Vec<u8>) {
        assert!(SimPackets::send(self, packet));
    }

    fn close(&mut self) {
        SimPackets::close(self);
    }
}

/// A driver with one link, whose other end is the test.
struct World<D, P> {
    driver: D,
    socket: SocketId,
    peer: P,
    queue: VecDeque<Completion>,
}

impl<D: Driver, P: Peer> World<D, P> {
    fn within(&mut self, ms: u64) -> Option<Completion> {
        if self.queue.is_empty() {
            let mut completions = Vec::new();
            let deadline = self.driver.now() + ms * 1_000_000;
            self.driver.wait(Some(deadline), &mut completions).unwrap();
            self.queue.extend(completions);
        }
        self.queue.pop_front()
    }

    fn next(&mut self) -> Completion {
        let started = Instant::now();
        loop {
            if let Some(completion) = self.within(100) {
                return completion;
            }
            assert!(started.elapsed() < PATIENCE, "nothing completes");
        }
    }

    fn send(&mut self, packets: &[&[u8]]) {
        let slices: Vec<_> = packets
            .iter()
            .map(|p| [Slice::from_vec(p.to_vec())])
            .collect();
        let packets: Vec<&[Slice]> = slices.iter().map(|packet| &packet[..]).collect();
        self.driver.send_packets(self.socket, &packets, 8);
    }

    fn sent(&mut self) -> Result<u32, Errno> {
        match self.next() {
            Completion::Sent { token: 8, result } => result,
            other => panic!("{other:?}"),
        }
    }

    /// Sends numbered packets until none is taken any more. Returns how many were; the operation that
    /// waits is outstanding.
    fn fill(&mut self) -> u32 {
        let mut number = 0u32;
        loop {
            let numbers: Vec<_> = (number..).take(8).map(u32::to_le_bytes).collect();
            let packets: Vec<_> = numbers.iter().map(|bytes| &bytes[..]).collect();
            self.send(&packets);
            match self.within(50) {
                None => return number,
                Some(Completion::Sent { token: 8, result }) => {
                    assert!(matches!(result, Ok(1..=8)), "{result:?}");
                    number += result.unwrap();
                }
                other => panic!("{other:?}"),
            }
            assert!(number < 100_000, "it never fills");
        }
    }
}

fn packets_go_in_order_through_a_full_queue(mut world: World<impl Driver, impl Peer>) {
    let bounds = FrameBounds {
        bytes: 1 << 20,
        frames: 500,
    };
    let mut writer = PacketWriter::new(bounds);
    let large = Slice::from_vec(vec![7; 2000]);
    let (mut pushed, mut got, mut sending, mut most) = (0u32, 0u32, false, 0);
    let started = Instant::now();
    while got < 2000 {
        assert!(started.elapsed() < PATIENCE, "{got} packets came");
        let parts = [large.clone(), large.clone()];
        while pushed < 2000 && writer.push(&pushed.to_le_bytes(), &parts[..pushed as usize % 3]) {
            pushed += 1;
        }
        if !sending && !writer.is_empty() {
            let mut room = [&[][..]; PACKETS_MAX];
            world
                .driver
                .send_packets(world.socket, writer.batch(&mut room), 8);
            sending = true;
        }
        match world.within(1) {
            Some(Completion::Sent { token: 8, result }) => {
                let taken = result.unwrap();
                most = most.max(taken);
                writer.advance(taken as usize);
                sending = false;
            }
            None => {}
            other => panic!("{other:?}"),
        }
        for _ in 0..7 {
            let Some(packet) = world.peer.take() else {
                break;
            };
            assert_eq!(packet[..4], got.to_le_bytes(), "in order");
            got += 1;
        }
    }
    assert!(writer.is_empty() && world.peer.take().is_none());
    assert!(most > 1, "they never went together");
}

fn packets_of_all_lengths_go_both_ways(mut world: World<impl Driver, impl Peer>) {
    let levels = world.driver.levels();
    world.driver.receive_from(world.socket, 9);
    for len in [1, 60, 1514, 9014, 32_000, FRAME_MAX] {
        let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
        world.send(&[&bytes]);
        assert_eq!(world.sent(), Ok(1), "{len}");
        assert!(world.peer.take().unwrap() == bytes, "{len}");
        world.peer.send(bytes.clone());
        match world.next() {
            Completion::Datagram {
                token: 9,
                from: None,
                payload,
                gso_size: 0,
                hop_limit: None,
            } => assert!(payload.bytes() == bytes, "{len}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.driver.levels(), levels);
    world.driver.close(world.socket, false);
    assert!(matches!(world.next(), Completion::DatagramEnd { token: 9 }));
}

fn no_packets_and_too_many_are_understood(mut world: World<impl Driver, impl Peer>) {
    world.send(&[]);
    assert_eq!(world.sent(), Ok(0));
    world.send(&[&b"x"[..]; PACKETS_MAX + 1]);
    let taken = world.sent().unwrap() as usize;
    assert!((2..=PACKETS_MAX).contains(&taken), "{taken}");
    let packets = std::iter::from_fn(|| world.peer.take()).count();
    assert_eq!(packets, taken);
    let parts = vec![Slice::from_static(b"x"); SEND_SLICES_MAX + 1];
    world
        .driver
        .send_packets(world.socket, &[&parts[1..], &parts], 8);
    assert_eq!(world.sent(), Err(Errno::MSGSIZE));
    let numbers = vec![parts[0].clone(); SEND_SLICES_MAX];
    world.driver.send_packets(world.socket, &[&numbers], 8);
    assert_eq!(world.sent(), Ok(1));
    assert_eq!(
        world.peer.take().map(|packet| packet.len()),
        Some(SEND_SLICES_MAX)
    );
    assert_eq!(world.peer.take(), None);
}

fn one_send_at_a_time(mut world: World<impl Driver, impl Peer>) {
    world.fill();
    let parts = [Slice::from_static(b"x")];
    world.driver.send_packets(world.socket, &[&parts], 3);
    match world.next() {
        Completion::Sent { token: 3, result } => assert_eq!(result, Err(Errno::ALREADY)),
        other => panic!("{other:?}"),
    }
    world.driver.close(world.socket, false);
    assert!(matches!(world.next(), Completion::Sent { token: 8, .. }));
    world.driver.send_packets(world.socket, &[&parts], 4);
    match world.next() {
        Completion::Sent { token: 4, result } => assert_eq!(result, Err(Errno::BADF)),
        other => panic!("{other:?}"),
    }
}

fn a_close_ends_a_wait_for_room(mut world: World<impl Driver, impl Peer>) {
    world.driver.receive_from(world.socket, 9);
    let sent = world.fill();
    world.driver.close(world.socket, false);
    let (mut canceled, mut ended) = (0, 0);
    while canceled + ended < 2 {
        match world.next() {
            Completion::Sent { token: 8, result } => {
                assert_eq!(result, Err(Errno::CANCELED));
                canceled += 1;
            }
            Completion::DatagramEnd { token: 9 } => ended += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((canceled, ended), (1, 1));
    assert!(world.within(20).is_none());
    // What was told is what went.
    let mut got = 0;
    while let Some(packet) = world.peer.take().filter(|packet| !packet.is_empty()) {
        assert_eq!(packet, u32::to_le_bytes(got));
        got += 1;
    }
    assert_eq!(got, sent);
}

fn a_peer_that_leaves_ends_a_wait_for_room(mut world: World<impl Driver, impl Peer>) {
    world.fill();
    world.peer.close();
    assert_eq!(world.sent(), Ok(0), "what waits is told to look again");
    world.send(&[b"x", b"y"]);
    let result = world.sent();
    assert!(
        matches!(
            result,
            Err(Errno::CONNREFUSED | Errno::NOTCONN | Errno::PIPE | Errno::CONNRESET)
        ),
        "{result:?}"
    );
    assert!(world.within(20).is_none(), "and the second says nothing");
}

fn a_peer_that_leaves_ends_a_connection(mut world: World<impl Driver, impl Peer>) {
    world.driver.receive_from(world.socket, 9);
    world.peer.send(b"last".to_vec());
    world.peer.close();
    match world.next() {
        Completion::Datagram { payload, .. } => assert_eq!(payload.bytes(), b"last"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(world.next(), Completion::DatagramEnd { token: 9 }));
}

fn an_empty_packet_ends_receiving(mut world: World<impl Driver, impl Peer>) {
    world.driver.receive_from(world.socket, 9);
    world.peer.send(Vec::new());
    assert!(matches!(world.next(), Completion::DatagramEnd { token: 9 }));
}

fn uring() -> Uring {
    let config = UringConfig {
        sq_entries: 16,
        cq_entries: 64,
        stream_buffers: 32,
        datagram_buffers: 8,
        ..UringConfig::default()
    };
    Uring::new(&config, Vec::new()).unwrap()
}

fn readiness<P: Poller>() -> Readiness<P> {
    let config = ReadinessConfig {
        stream_buffers: 32,
        datagram_buffers: 8,
        ..ReadinessConfig::default()
    };
    Readiness::new(&config, Vec::new()).unwrap()
}

fn on<D: Driver>(mut driver: D, ours: OwnedFd, peer: OwnedFd) -> World<D, Kernel> {
    let socket = driver.adopt(ours, Adopted::PacketLink);
    World {
        driver,
        socket,
        peer: Kernel(Some(peer)),
        queue: VecDeque::new(),
    }
}

fn pair<D: Driver>(driver: D, kind: SocketType) -> World<D, Kernel> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, peer) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
    on(driver, ours, peer)
}

/// A datagram socket that is connected to one that is not connected to it, which takes few packets (the
/// sysctl `net.unix.max_dgram_qlen`).
fn to_a_bound_socket<D: Driver>(driver: D) -> World<D, Kernel> {
    let socket = || rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    let (ours, peer) = (socket(), socket());
    let unique = &raw const ours as usize;
    let name = format!("towpath-ring-{}-{unique:x}", std::process::id());
    let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
    bind(&peer, &name).unwrap();
    connect(&ours, &name).unwrap();
    on(driver, ours, peer)
}

fn on_sim(faults: HostFaults) -> World<SimDriver, SimPackets> {
    let config = SimConfig {
        faults,
        ..SimConfig::default()
    };
    let host = SimHost::new(|_| Answer::Never);
    let mut driver = SimDriver::new(config, host, Random::new(1), 0).unwrap();
    let (socket, peer) = driver.adopt_packets(35);
    World {
        driver,
        socket,
        peer,
        queue: VecDeque::new(),
    }
}

macro_rules! packets {
    ($($name:ident = $world:expr => [$($test:ident)*])*) => {
        $(
            mod $name {
                use super::*;
                $(
                    #[test]
                    fn $test() {
                        super::$test($world);
                    }
                )*
            }
        )*
    };
}

packets! {
    uring_seqpacket = pair(uring(), SocketType::SEQPACKET) => [
        packets_go_in_order_through_a_full_queue
        packets_of_all_lengths_go_both_ways
        no_packets_and_too_many_are_understood
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_connection
        an_empty_packet_ends_receiving
    ]
    uring_datagram_pair = pair(uring(), SocketType::DGRAM) => [
        packets_go_in_order_through_a_full_queue
        packets_of_all_lengths_go_both_ways
        no_packets_and_too_many_are_understood
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
        an_empty_packet_ends_receiving
    ]
    uring_datagram_to_a_bound_socket = to_a_bound_socket(uring()) => [
        packets_go_in_order_through_a_full_queue
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
    ]
    epoll_seqpacket = pair(readiness::<Epoll>(), SocketType::SEQPACKET) => [
        packets_go_in_order_through_a_full_queue
        packets_of_all_lengths_go_both_ways
        no_packets_and_too_many_are_understood
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_connection
        an_empty_packet_ends_receiving
    ]
    epoll_datagram_pair = pair(readiness::<Epoll>(), SocketType::DGRAM) => [
        packets_go_in_order_through_a_full_queue
        packets_of_all_lengths_go_both_ways
        no_packets_and_too_many_are_understood
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
        an_empty_packet_ends_receiving
    ]
    epoll_datagram_to_a_bound_socket = to_a_bound_socket(readiness::<Epoll>()) => [
        packets_go_in_order_through_a_full_queue
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
    ]
    sim = on_sim(HostFaults::default()) => [
        packets_go_in_order_through_a_full_queue
        packets_of_all_lengths_go_both_ways
        no_packets_and_too_many_are_understood
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_connection
        an_empty_packet_ends_receiving
    ]
    sim_that_is_late_and_cuts = on_sim(HostFaults {
        late: 3000,
        late_ns: 1_000_000,
        short_send: 5000,
        ..HostFaults::default()
    }) => [
        packets_go_in_order_through_a_full_queue
    ]
}

#[cfg(feature = "kqueue-shim")]
packets! {
    kqueue_seqpacket = pair(readiness::<Kqueue>(), SocketType::SEQPACKET) => [
        packets_go_in_order_through_a_full_queue
        packets_of_all_lengths_go_both_ways
        no_packets_and_too_many_are_understood
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_connection
        an_empty_packet_ends_receiving
    ]
    kqueue_datagram_pair = pair(readiness::<Kqueue>(), SocketType::DGRAM) => [
        packets_go_in_order_through_a_full_queue
        packets_of_all_lengths_go_both_ways
        no_packets_and_too_many_are_understood
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
        an_empty_packet_ends_receiving
    ]
    kqueue_datagram_to_a_bound_socket = to_a_bound_socket(readiness::<Kqueue>()) => [
        packets_go_in_order_through_a_full_queue
        one_send_at_a_time
        a_close_ends_a_wait_for_room
        a_peer_that_leaves_ends_a_wait_for_room
    ]
}

/// What waits does not keep a driver from ending, nor is it sent.
#[test]
fn a_driver_ends_while_a_send_waits() {
    let mut world = to_a_bound_socket(uring());
    let sent = world.fill();
    let World {
        driver, mut peer, ..
    } = world;
    drop(driver);
    let got: Vec<_> = std::iter::from_fn(|| peer.take()).collect();
    assert_eq!(
        got,
        (0..sent).map(|at| at.to_le_bytes()).collect::<Vec<_>>()
    );
}

//! The contract of the driver where it takes a peer, on the simulated kernel: the same promises as in
//! `conformance.rs`, with the peers played through [`SimStream`].

use std::net::SocketAddr;

use towpath_ring::driver::sim::{
    Answer, Got, HostFaults, Random, SimConfig, SimDriver, SimHost, SimStream,
};
use towpath_ring::{
    Adopted, Completion, Driver, Errno, ReceiveEnd, Remote, SendMode, Slice, SocketId, SocketKind,
};

const BUFFER: usize = 4_000;

struct World {
    driver: SimDriver,
    host: SimHost,
}

impl World {
    fn new(seed: u64, faults: HostFaults) -> World {
        let host = SimHost::new(|to| match to {
            Remote::Inet(to) if to.port() == 80 => Answer::Accept {
                after_ns: 1_000,
                up_buffer: BUFFER,
                down_buffer: BUFFER,
            },
            _ => Answer::Refuse {
                after_ns: 1_000,
                errno: Errno::CONNREFUSED,
            },
        });
        let config = SimConfig {
            stream_buffers: 4,
            stream_buffer_bytes: 512,
            faults,
            ..SimConfig::default()
        };
        let driver = SimDriver::new(config, host.clone(), Random::new(seed), 0).unwrap();
        World { driver, host }
    }

    /// What completes until `ms` are over.
    fn turn(&mut self, ms: u64) -> Vec<Completion> {
        let mut completions = Vec::new();
        let deadline = self.driver.now() + ms * 1_000_000;
        while self.driver.now() < deadline {
            self.driver.wait(Some(deadline), &mut completions).unwrap();
        }
        completions
    }

    fn connected(&mut self) -> (SocketId, SimStream) {
        let socket = self.driver.open(SocketKind::TcpV4).unwrap();
        let to = SocketAddr::from(([192, 0, 2, 1], 80));
        self.driver.connect(socket, &Remote::Inet(to), 1);
        let done = self.turn(1);
        assert!(matches!(
            done[..],
            [Completion::Connected { result: Ok(()), .. }]
        ));
        (socket, self.host.accept().expect("a peer").1)
    }

    fn sent(&mut self, socket: SocketId, len: usize, mode: SendMode) -> Vec<Completion> {
        let payload = Slice::from_vec(vec![7; len]);
        self.driver.send(socket, &[payload], mode, 2);
        self.turn(1)
    }
}

fn late() -> HostFaults {
    HostFaults {
        late: 5_000,
        late_ns: 500_000,
        short_receive: 5_000,
        ..HostFaults::default()
    }
}

#[test]
fn a_full_send_buffer_is_a_part_then_nothing_and_waiting_gets_through() {
    let mut world = World::new(1, HostFaults::default());
    let (socket, peer) = world.connected();
    for (len, taken) in [(3_000, 3_000), (3_000, 1_000), (3_000, 0)] {
        match world.sent(socket, len, SendMode::Now)[..] {
            [Completion::Sent { token: 2, result }] => assert_eq!(result, Ok(taken)),
            ref other => panic!("{other:?}"),
        }
    }
    assert!(world.sent(socket, 10, SendMode::WhenWritable).is_empty());
    assert_eq!(peer.read(&mut [0; 100]), Ok(Got::Bytes(100)));
    let done = world.turn(1);
    assert!(matches!(
        done[..],
        [Completion::Sent { result: Ok(10), .. }]
    ));
    assert_eq!(peer.taken(), 4_010);
}

#[test]
fn a_quiet_send_comes_with_the_next_thing() {
    let mut world = World::new(1, HostFaults::default());
    let (socket, peer) = world.connected();
    assert!(world.sent(socket, 10, SendMode::Quiet).is_empty());
    world.driver.receive(socket, 100, false, 3);
    assert_eq!(peer.write(b"next"), Ok(4));
    let done = world.turn(1);
    let sent = |done: &Completion| matches!(done, Completion::Sent { result: Ok(10), .. });
    assert_eq!(
        (done.len(), done.iter().filter(|c| sent(c)).count()),
        (3, 1)
    );
}

#[test]
fn a_deadline_tells_of_quiet_sends_where_it_is_said_to() {
    for deadlines_tell in [false, true] {
        let host = SimHost::new(|_| Answer::Never);
        let config = SimConfig {
            deadlines_tell,
            ..SimConfig::default()
        };
        let mut driver = SimDriver::new(config, host, Random::new(1), 0).unwrap();
        let (socket, peer) = driver.adopt_stream(Adopted::StreamLink, 100, 100);
        let bytes = Slice::from_vec(vec![7; 10]);
        driver.send(socket, &[bytes], SendMode::Quiet, 8);
        let mut done = Vec::new();
        driver.wait(Some(1_000), &mut done).unwrap();
        assert_eq!((driver.now(), peer.taken()), (1_000, 10));
        assert_eq!(done.len(), usize::from(deadlines_tell));
    }
}

#[test]
fn an_offered_stream_goes_to_whichever_driver_adopts_it() {
    let host = SimHost::new(|_| Answer::Never);
    let (ticket, peer) = host.offer_stream(100, 100).unwrap();
    let driver = || SimDriver::new(SimConfig::default(), host.clone(), Random::new(1), 0).unwrap();
    let (_first, mut second) = (driver(), driver());
    let socket = second.adopt(ticket, Adopted::StreamLink);
    let bytes = Slice::from_vec(vec![7; 10]);
    second.send(socket, &[bytes], SendMode::Now, 8);
    assert_eq!(peer.taken(), 10);
}

#[test]
fn streams_arrive_whole_however_they_are_cut_and_starve_when_all_buffers_are_held() {
    for seed in 0..50 {
        let mut world = World::new(seed, late());
        let (socket, peer) = world.connected();
        let whole: Vec<u8> = (0..4_000).map(|at| (at / 3) as u8).collect();
        assert_eq!(peer.write(&whole), Ok(4_000));
        peer.shutdown_write();
        let (mut got, mut held, mut starved) = (Vec::new(), Vec::new(), 0);
        loop {
            world.driver.receive(socket, 1_500, false, 3);
            let mut end = None;
            for completion in world.turn(1) {
                match completion {
                    Completion::Received { data, .. } => {
                        got.extend_from_slice(&data);
                        held.push(data);
                    }
                    Completion::ReceiveEnd { end: how, .. } => end = Some(how),
                    other => panic!("{other:?}"),
                }
            }
            match end.expect("an end of each receive") {
                ReceiveEnd::Partial => {}
                ReceiveEnd::Starved => {
                    assert_eq!(world.driver.levels().stream_free, 0);
                    starved += 1;
                    held.clear();
                }
                ReceiveEnd::Eof => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(starved > 0, "four buffers can't hold it");
        assert_eq!(got, whole);
        drop(held);
        assert_eq!(world.driver.levels().stream_free, 4);
    }
}

#[test]
fn close_ends_everything_once_and_what_was_through_before_keeps_its_end() {
    let (mut canceled, mut through) = (0, 0);
    for seed in 0..200 {
        let mut world = World::new(seed, late());
        let (socket, peer) = world.connected();
        assert!(matches!(
            world.sent(socket, BUFFER, SendMode::Now)[..],
            [Completion::Sent { .. }]
        ));
        world.driver.receive(socket, 100, false, 3);
        let more = Slice::from_vec(vec![0; 10]);
        world
            .driver
            .send(socket, &[more], SendMode::WhenWritable, 4);
        if seed % 2 == 0 {
            // The kernel is through with the receive; the caller may hear of it later.
            assert_eq!(peer.write(b"late"), Ok(4));
            world.driver.next_at();
        }
        world.driver.close(socket, true);
        let (mut receives, mut sends) = (0, 0);
        for completion in world.turn(2) {
            match completion {
                Completion::Received { .. } => {}
                Completion::ReceiveEnd { end, .. } => {
                    receives += 1;
                    canceled += u32::from(end == ReceiveEnd::Canceled);
                    through += u32::from(end == ReceiveEnd::Partial);
                }
                Completion::Sent { result, .. } => {
                    assert_eq!(result, Err(Errno::CANCELED));
                    sends += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((receives, sends), (1, 1), "seed {seed}");
        assert!(world.driver.is_idle());
        let mut bytes = [0; BUFFER];
        assert_eq!(peer.read(&mut bytes), Ok(Got::Bytes(BUFFER)));
        assert_eq!(peer.read(&mut bytes), Err(Errno::CONNRESET));
    }
    assert_eq!((canceled, through), (100, 100));
}

#[test]
fn second_operations_and_dead_sockets_are_refused() {
    let mut world = World::new(1, HostFaults::default());
    let (socket, _peer) = world.connected();
    let ends = |world: &mut World| -> Vec<ReceiveEnd> {
        let done = world.turn(1);
        let ends = done.into_iter().filter_map(|completion| match completion {
            Completion::ReceiveEnd { end, .. } => Some(end),
            _ => None,
        });
        ends.collect()
    };
    world.driver.receive(socket, 10, false, 1);
    world.driver.receive(socket, 10, false, 2);
    assert_eq!(ends(&mut world), [ReceiveEnd::Failed(Errno::ALREADY)]);
    world.driver.close(socket, false);
    assert_eq!(ends(&mut world), [ReceiveEnd::Canceled]);
    world.driver.receive(socket, 10, false, 3);
    assert_eq!(ends(&mut world), [ReceiveEnd::Failed(Errno::BADF)]);
    let done = world.sent(socket, 1, SendMode::Now);
    let refused = Err(Errno::BADF);
    assert!(matches!(done[..], [Completion::Sent { result, .. }] if result == refused));
}

#[test]
fn the_seed_decides_everything() {
    let history = |seed| {
        let mut world = World::new(seed, late());
        let (socket, peer) = world.connected();
        let mut told = String::new();
        for _ in 0..20 {
            assert!(peer.write(&[1; 300]).is_ok());
            world.driver.receive(socket, 1_000, false, 3);
            let at = world.driver.now();
            told += &format!("{at} {:?}\n", world.turn(1));
        }
        told
    };
    assert_eq!(history(5), history(5));
    assert_ne!(history(5), history(6));
}

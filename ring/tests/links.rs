//! Links of guests that are sockets: streams of frames, and packets, on every driver that has them.
//!
//! Each test of streams is a function over a driver and how to play the other end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[cfg(feature = "kqueue-shim")]
use towpath_ring::Kqueue;
use towpath_ring::driver::readiness::poller::Poller;
use towpath_ring::driver::sim::{Answer, Got, HostFaults, Random, SimConfig, SimDriver};
use towpath_ring::driver::sim::{SimHost, SimStream};
use towpath_ring::{
    Adopted, Completion, Driver, Epoll, Errno, FrameBounds, FrameReader, FrameWriter, Framing,
    Readiness, ReadinessConfig, ReceiveEnd, SendMode, Slice, SocketId, Uring, UringConfig,
};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

const FRAME_MAX: usize = 65_553;
const LINK_BUFFER_BYTES: usize = 256 << 10;

/// The other end of a stream link. Neither call waits; `None`: nothing can be done now.
trait Peer {
    fn write(&mut self, bytes: &[u8]) -> Option<usize>;
    /// `Some(0)`: the end.
    fn read(&mut self, into: &mut [u8]) -> Option<usize>;
    /// Nothing is written any more.
    fn end(&mut self);
}

impl Peer for UnixStream {
    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        match Write::write(self, bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            written => Some(written.unwrap()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> Option<usize> {
        match Read::read(self, into) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            read => Some(read.unwrap()),
        }
    }

    fn end(&mut self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Peer for SimStream {
    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        Some(SimStream::write(self, bytes).unwrap()).filter(|&written| written > 0)
    }

    fn read(&mut self, into: &mut [u8]) -> Option<usize> {
        match SimStream::read(self, into).unwrap() {
            Got::Bytes(bytes) => Some(bytes),
            Got::Nothing => None,
            Got::Eof => Some(0),
        }
    }

    fn end(&mut self) {
        self.shutdown_write();
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
    fn turn(&mut self, ms: u64) {
        let mut completions = Vec::new();
        let deadline = self.driver.now() + ms * 1_000_000;
        self.driver.wait(Some(deadline), &mut completions).unwrap();
        self.queue.extend(completions);
    }

    fn within(&mut self, ms: u64) -> Option<Completion> {
        if self.queue.is_empty() {
            self.turn(ms);
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

    /// What one receive yields.
    fn receive(&mut self) -> (Vec<Slice>, ReceiveEnd) {
        self.driver.receive(self.socket, 1 << 20, false, 7);
        let mut parts = Vec::new();
        loop {
            match self.next() {
                Completion::Received { token: 7, data } => parts.push(data),
                Completion::ReceiveEnd { token: 7, end } => return (parts, end),
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(&mut self, writer: &FrameWriter) {
        let batch = writer.batch();
        let mode = SendMode::WhenWritable;
        self.driver.send(self.socket, batch, mode, 8);
    }

    fn write_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = self.peer.write(bytes).expect("there is room");
            bytes = &bytes[written..];
        }
    }
}

/// Frames of many lengths, each as a header and the parts of its payload.
fn frames(longest: usize) -> Vec<(Vec<u8>, Vec<Slice>)> {
    let lens = [1, 60, 1514, 300, 0, 4000, longest - 54, 1514, 90];
    let payload = Slice::from_vec((0..longest).map(|at| (at * 31 + at / 251) as u8).collect());
    let frame = |(number, len): (usize, usize)| {
        let header = vec![number as u8; 54];
        let cut = len * (number % 3) / 2;
        (header, vec![payload.sub(0..cut), payload.sub(cut..len)])
    };
    let lens = std::iter::repeat_n(lens, 20).flatten();
    lens.enumerate().map(frame).collect()
}

fn whole((header, parts): &(Vec<u8>, Vec<Slice>)) -> Vec<u8> {
    [header.clone(), parts.concat()].concat()
}

/// The core sends frames, the other end sends back all bytes, the core takes them apart.
fn frames_cross_both_ways(
    mut world: World<impl Driver, impl Peer>,
    framing: Framing,
    longest: usize,
) {
    let bounds = FrameBounds {
        bytes: 100_000,
        frames: 100,
    };
    let mut writer = FrameWriter::new(framing, bounds);
    let mut reader = FrameReader::new(framing, longest);
    let (frames, mut pushed, mut got) = (frames(longest), 0, 0);
    let (mut sending, mut receiving) = (false, false);
    let (mut echo, mut buffer) = (Vec::new(), vec![0; 10_007]);
    let started = Instant::now();
    while got < frames.len() {
        assert!(started.elapsed() < PATIENCE, "{got} frames came back");
        while let Some((header, parts)) = frames.get(pushed)
            && writer.push(header, parts)
        {
            pushed += 1;
        }
        if !sending && !writer.is_empty() {
            world.send(&writer);
            sending = true;
        }
        if !receiving {
            world.driver.receive(world.socket, 1 << 20, false, 7);
            receiving = true;
        }
        if echo.is_empty() {
            let read = world.peer.read(&mut buffer).unwrap_or(0);
            echo.extend_from_slice(&buffer[..read]);
        }
        let written = world.peer.write(&echo).unwrap_or(0);
        echo.drain(..written);
        match world.within(u64::from(written == 0)) {
            None => {}
            Some(Completion::Sent { token: 8, result }) => {
                writer.advance(result.unwrap() as usize);
                sending = false;
            }
            Some(Completion::Received { token: 7, mut data }) => {
                while let Some(frame) = reader.next(&mut data) {
                    assert!(frame.unwrap().bytes() == whole(&frames[got]), "frame {got}");
                    got += 1;
                }
            }
            Some(Completion::ReceiveEnd { token: 7, end }) => {
                assert!(matches!(end, ReceiveEnd::Partial | ReceiveEnd::Starved));
                receiving = false;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(writer.is_empty() && !reader.is_partial());
    world.driver.close(world.socket, false);
}

fn frames_of_vpnkit_cross_both_ways(world: World<impl Driver, impl Peer>) {
    frames_cross_both_ways(world, Framing::Le16, 9018);
}

fn frames_of_qemu_cross_both_ways(world: World<impl Driver, impl Peer>) {
    frames_cross_both_ways(world, Framing::Be32, FRAME_MAX);
}

fn an_end_that_stops_reading_holds_no_more_than_the_bound(
    mut world: World<impl Driver, impl Peer>,
) {
    let bounds = FrameBounds {
        bytes: 1 << 20,
        frames: 10_000,
    };
    let mut writer = FrameWriter::new(Framing::Be32, bounds);
    let payload = Slice::from_vec(vec![3; 1460]);
    let mut taken = 0;
    // Until the kernel takes nothing and the queue is full.
    loop {
        while writer.push(&[1; 54], std::slice::from_ref(&payload)) {}
        assert!(writer.queued_bytes() <= bounds.bytes);
        world.send(&writer);
        match world.within(20) {
            None => break,
            Some(Completion::Sent { token: 8, result }) => {
                taken += result.unwrap() as usize;
                writer.advance(result.unwrap() as usize);
            }
            other => panic!("{other:?}"),
        }
        assert!(taken < 1 << 28, "it never fills");
    }
    assert!(writer.queued_bytes() > bounds.bytes - 1518);
    // The other direction goes on meanwhile.
    world.write_all(b"\0\0\0\x02up");
    let (parts, _) = world.receive();
    assert_eq!(parts.concat(), b"\0\0\0\x02up");
    // It reads again: everything comes, in whole frames.
    let mut expected = taken + writer.queued_bytes();
    let mut reader = FrameReader::new(Framing::Be32, 1514);
    let mut buffer = vec![0; 50_000];
    let started = Instant::now();
    while expected > 0 {
        assert!(started.elapsed() < PATIENCE, "{expected} bytes are missing");
        let read = world.peer.read(&mut buffer).unwrap_or(0);
        let mut data = Slice::from_vec(buffer[..read].to_vec());
        expected -= read;
        while let Some(frame) = reader.next(&mut data) {
            assert_eq!(frame.unwrap()[53..55], [1, 3]);
        }
        if let Some(Completion::Sent { token: 8, result }) = world.within(0) {
            writer.advance(result.unwrap() as usize);
            if !writer.is_empty() {
                world.send(&writer);
            }
        }
    }
    assert!(!reader.is_partial() && writer.is_empty());
}

fn an_end_amid_a_frame_shows(mut world: World<impl Driver, impl Peer>) {
    let mut reader = FrameReader::new(Framing::Le16, 1518);
    world.write_all(b"\x02\0ab\x05\0cde");
    world.peer.end();
    let (mut parts, end) = world.receive();
    assert_eq!((parts.len(), end), (1, ReceiveEnd::Partial));
    assert_eq!(reader.next(&mut parts[0]).unwrap().unwrap().bytes(), b"ab");
    assert!(reader.next(&mut parts[0]).is_none() && reader.is_partial());
    drop(parts);
    let levels = world.driver.levels();
    assert_eq!(
        levels.link_free, levels.link_total,
        "a half keeps no buffer"
    );
    assert_eq!(world.receive().1, ReceiveEnd::Eof);
}

fn a_close_ends_both_directions_once(mut world: World<impl Driver, impl Peer>) {
    // More than the socket of a link holds.
    let block = Slice::from_vec(vec![0; 16 << 20]);
    let mode = SendMode::WhenWritable;
    for _ in 0..2 {
        // The second finds no room.
        world
            .driver
            .send(world.socket, std::slice::from_ref(&block), mode, 8);
        world.turn(20);
    }
    assert!(matches!(
        world.queue.pop_front(),
        Some(Completion::Sent {
            token: 8,
            result: Ok(_)
        })
    ));
    world.driver.receive(world.socket, 1 << 20, false, 7);
    assert!(world.within(20).is_none());
    world.driver.close(world.socket, false);
    let (mut sent, mut received) = (0, 0);
    while sent + received < 2 {
        match world.next() {
            Completion::Sent { token: 8, result } => {
                assert_eq!(result, Err(Errno::CANCELED));
                sent += 1;
            }
            Completion::ReceiveEnd { token: 7, end } => {
                assert_eq!(end, ReceiveEnd::Canceled);
                received += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((sent, received), (1, 1));
    assert!(world.within(20).is_none());
}

fn one_receive_brings_what_fits_a_large_buffer(mut world: World<impl Driver, impl Peer>) {
    let levels = world.driver.levels();
    assert_eq!(levels.link_free, levels.link_total);
    let bytes: Vec<u8> = (0..100 * 500).map(|at| (at / 7) as u8).collect();
    // As many writes as frames: a kernel keeps them apart.
    bytes.chunks(500).for_each(|piece| world.write_all(piece));
    let (parts, end) = world.receive();
    assert_eq!((parts.len(), end), (1, ReceiveEnd::Partial));
    assert_eq!(parts[0].pinned_bytes(), LINK_BUFFER_BYTES);
    assert!(parts[0].bytes() == bytes, "the bytes differ");
    let held = world.driver.levels();
    assert_eq!(held.link_free, levels.link_total - 1);
    assert_eq!(held.stream_free, levels.stream_total);
    drop(parts);
    assert_eq!(world.driver.levels(), levels);
}

fn held_large_buffers_starve_only_when_all_are_held(mut world: World<impl Driver, impl Peer>) {
    let total = world.driver.levels().link_total;
    assert!(total > 4, "more than are listed at a time");
    let mut held = Vec::new();
    for number in 0..total {
        world.write_all(&[number as u8]);
        let (parts, end) = world.receive();
        assert_eq!(end, ReceiveEnd::Partial);
        held.extend(parts);
    }
    assert_eq!((held.len(), world.driver.levels().link_free), (total, 0));
    world.write_all(b"x");
    assert_eq!(world.receive().1, ReceiveEnd::Starved);
    assert_eq!(world.driver.counters().stream_starved, 1);
    held.pop();
    assert_eq!(world.receive().0.concat(), b"x");
    assert!(
        held.iter()
            .enumerate()
            .all(|(at, part)| part[0] == at as u8)
    );
}

fn on_uring() -> World<Uring, UnixStream> {
    let config = UringConfig {
        sq_entries: 16,
        cq_entries: 64,
        stream_buffers: 32,
        datagram_buffers: 8,
        link_buffers: 8,
        ..UringConfig::default()
    };
    let mut driver = Uring::new(&config, Vec::new()).unwrap();
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let socket = driver.adopt(ours.into(), Adopted::StreamLink);
    World {
        driver,
        socket,
        peer,
        queue: VecDeque::new(),
    }
}

fn on_readiness<P: Poller>() -> World<Readiness<P>, UnixStream> {
    let config = ReadinessConfig {
        stream_buffers: 32,
        datagram_buffers: 8,
        link_buffers: 8,
        ..ReadinessConfig::default()
    };
    let mut driver = Readiness::new(&config, Vec::new()).unwrap();
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let socket = driver.adopt(ours.into(), Adopted::StreamLink);
    World {
        driver,
        socket,
        peer,
        queue: VecDeque::new(),
    }
}

fn on_sim(faults: HostFaults) -> World<SimDriver, SimStream> {
    let config = SimConfig {
        link_buffers: 8,
        faults,
        ..SimConfig::default()
    };
    let host = SimHost::new(|_| Answer::Never);
    let mut driver = SimDriver::new(config, host, Random::new(1), 0).unwrap();
    let (socket, peer) = driver.adopt_stream(Adopted::StreamLink, 200_000, 200_000);
    World {
        driver,
        socket,
        peer,
        queue: VecDeque::new(),
    }
}

macro_rules! streams {
    ($($test:ident)*) => {
        mod uring {
            $(
                #[test]
                fn $test() {
                    super::$test(super::on_uring());
                }
            )*
        }
        mod epoll {
            $(
                #[test]
                fn $test() {
                    super::$test(super::on_readiness::<super::Epoll>());
                }
            )*
        }
        #[cfg(feature = "kqueue-shim")]
        mod kqueue {
            $(
                #[test]
                fn $test() {
                    super::$test(super::on_readiness::<super::Kqueue>());
                }
            )*
        }
        mod sim {
            $(
                #[test]
                fn $test() {
                    super::$test(super::on_sim(super::HostFaults::default()));
                }
            )*
        }
    };
}

mod sim_that_is_late_and_cuts {
    use super::*;

    fn faults() -> HostFaults {
        HostFaults {
            late: 3000,
            late_ns: 1_000_000,
            short_send: 5000,
            short_receive: 5000,
            starved: 1000,
            ..HostFaults::default()
        }
    }

    #[test]
    fn frames_of_vpnkit_cross_both_ways() {
        super::frames_of_vpnkit_cross_both_ways(on_sim(faults()));
    }

    #[test]
    fn frames_of_qemu_cross_both_ways() {
        super::frames_of_qemu_cross_both_ways(on_sim(faults()));
    }
}

streams! {
    frames_of_vpnkit_cross_both_ways
    frames_of_qemu_cross_both_ways
    an_end_that_stops_reading_holds_no_more_than_the_bound
    an_end_amid_a_frame_shows
    a_close_ends_both_directions_once
    one_receive_brings_what_fits_a_large_buffer
    held_large_buffers_starve_only_when_all_are_held
}

/// More links bring something at once than large buffers are listed for the kernel.
#[test]
fn many_links_at_once_share_the_buffers_that_are_free() {
    let config = UringConfig {
        link_buffers: 24,
        ..UringConfig::default()
    };
    let mut driver = Uring::new(&config, Vec::new()).unwrap();
    let links: Vec<_> = (0..20)
        .map(|_| {
            let (ours, peer) = UnixStream::pair().unwrap();
            (driver.adopt(ours.into(), Adopted::StreamLink), peer)
        })
        .collect();
    for round in 0..20u8 {
        for (token, (socket, peer)) in links.iter().enumerate() {
            (&mut &*peer).write_all(&[round; 100_000]).unwrap();
            driver.receive(*socket, 1 << 20, false, token as u64);
        }
        let (mut ended, mut bytes, mut completions) = (0, 0, Vec::new());
        while ended < links.len() {
            let deadline = driver.now() + PATIENCE.as_nanos() as u64;
            driver.wait(Some(deadline), &mut completions).unwrap();
            assert!(!completions.is_empty(), "{ended} of {}", links.len());
            for completion in completions.drain(..) {
                match completion {
                    Completion::Received { data, .. } => bytes += data.len(),
                    Completion::ReceiveEnd { end, .. } => {
                        assert_eq!(end, ReceiveEnd::Partial);
                        ended += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(bytes, links.len() * 100_000);
    }
    assert_eq!(driver.counters().stream_starved, 0);
}

#[test]
fn without_large_buffers_a_link_uses_those_for_streams() {
    let mut driver = Uring::new(&UringConfig::default(), Vec::new()).unwrap();
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let socket = driver.adopt(ours.into(), Adopted::StreamLink);
    assert_eq!(driver.levels().link_total, 0);
    peer.write_all(&[9; 100_000]).unwrap();
    driver.receive(socket, 1 << 20, false, 7);
    let mut completions = Vec::new();
    driver.wait(None, &mut completions).unwrap();
    let bytes: usize = completions.iter().map(Completion::bytes).sum();
    assert_eq!(
        (bytes, completions.len()),
        (100_000, 8),
        "seven buffers, and the end"
    );
}

//! The engine as a library: guests are given to it as sockets while it runs.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use towpath::config::{DnsUpstream, EngineConfig, HostLoopback, Limits, Network, STALL_TIMEOUT};
use towpath::counters::Counter;
use towpath::driver::DriverChoice;
use towpath::engine::Engine;
use towpath::link::{Attachment, Carrier, Departure};
use towpath_ring::frames::stream::Framing;

const PATIENCE: Duration = Duration::from_secs(20);

fn config(cores: usize) -> EngineConfig {
    EngineConfig {
        cores,
        pin: false,
        driver: driver(),
        busy_poll: Duration::ZERO,
        network: Network {
            subnet4: (Ipv4Addr::new(10, 9, 8, 0), 24),
            subnet6: "fd09:8::".parse().unwrap(),
            mtu: 1500,
            gateway_mac: Network::GATEWAY_MAC,
            domain: None,
            search: Vec::new(),
            lease: Duration::from_secs(60),
        },
        host_loopback: HostLoopback::Closed,
        dns: DnsUpstream::Servers(Vec::new()),
        limits: Limits::default(),
        faults: None,
        isolate: false,
        stall_timeout: STALL_TIMEOUT,
        leases: Vec::new(),
    }
}

/// As the binary takes it.
fn driver() -> DriverChoice {
    let name = std::env::var("TOWPATH_DRIVER");
    name.map_or(DriverChoice::Auto, |name| {
        clap::ValueEnum::from_str(&name, true).expect("a driver's name in TOWPATH_DRIVER")
    })
}

/// A guest's end of a link in QEMU's framing.
struct Guest {
    mac: [u8; 6],
    address: [u8; 4],
    stream: UnixStream,
}

impl Guest {
    /// Gives the engine its end; what becomes of the guest comes out of the receiver.
    fn join(engine: &Engine, last: u8) -> (Guest, mpsc::Receiver<Departure>) {
        let (stream, other) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let attachment = Attachment {
            name: format!("guest {last}"),
            carrier: Carrier::Stream {
                socket: OwnedFd::from(other),
                framing: Framing::Be32,
            },
        };
        let (told, departure) = mpsc::channel();
        let tell = move |departure| told.send(departure).unwrap();
        engine.attacher().attach(attachment, tell).unwrap();
        let guest = Guest {
            mac: [2, 0, 0, 0, 0, last],
            address: [10, 9, 8, last],
            stream,
        };
        (guest, departure)
    }

    fn send(&mut self, frame: &[u8]) {
        let len = u32::try_from(frame.len()).unwrap();
        self.stream.write_all(&len.to_be_bytes()).unwrap();
        self.stream.write_all(frame).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut frame).unwrap();
        frame
    }

    /// Asks who has an address, until somebody says so.
    fn resolve(&mut self, wanted: [u8; 4]) -> [u8; 6] {
        let request = self.arp([0xff; 6], 1, [0; 6], wanted);
        self.send(&request);
        loop {
            let frame = self.receive();
            let is_reply = frame[12..14] == [8, 6] && frame[21] == 2 && frame[28..32] == wanted;
            if is_reply && frame[..6] == self.mac {
                return frame[22..28].try_into().unwrap();
            }
        }
    }

    /// A datagram of `len` bytes to another guest, without a UDP checksum.
    fn datagram(&self, to: &Guest, len: usize) -> Vec<u8> {
        let total = u16::try_from(28 + len).unwrap().to_be_bytes();
        let mut ip = [
            &[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0],
            &self.address[..],
            &to.address,
        ]
        .concat();
        let sum: u32 = ip
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let udp = u16::try_from(8 + len).unwrap().to_be_bytes();
        let udp = [0x10, 0, 0x10, 0, udp[0], udp[1], 0, 0];
        [&to.mac, &self.mac, &[8, 0][..], &ip, &udp, &vec![7; len]].concat()
    }

    fn arp(&self, to: [u8; 6], operation: u8, target: [u8; 6], wanted: [u8; 4]) -> Vec<u8> {
        let header: &[&[u8]] = &[&to, &self.mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]];
        let body: &[&[u8]] = &[&self.mac, &self.address, &target, &wanted];
        [header.concat(), body.concat()].concat()
    }

    /// Answers the next question after its own address.
    fn answer(&mut self) {
        loop {
            let frame = self.receive();
            if frame[12..14] == [8, 6] && frame[21] == 1 && frame[38..42] == self.address {
                let (mac, address) = (&frame[22..28], &frame[28..32]);
                let (mac, address) = (mac.try_into().unwrap(), address.try_into().unwrap());
                let reply = self.arp(mac, 2, mac, address);
                return self.send(&reply);
            }
        }
    }
}

#[test]
fn guests_join_a_running_engine_and_reach_the_gateway_and_each_other() {
    for cores in [1, 2] {
        let engine = Engine::start(config(cores), Vec::new()).unwrap();
        let (mut one, one_left) = Guest::join(&engine, 11);
        let (mut other, _) = Guest::join(&engine, 12);
        assert_eq!(one.resolve([10, 9, 8, 1]), Network::GATEWAY_MAC.0);
        assert_eq!(other.resolve([10, 9, 8, 2]), Network::GATEWAY_MAC.0);
        let mac = std::thread::scope(|scope| {
            scope.spawn(|| other.answer());
            one.resolve([10, 9, 8, 12])
        });
        assert_eq!(mac, other.mac, "{cores} cores");
        drop(one);
        assert_eq!(one_left.recv_timeout(PATIENCE), Ok(Departure::Left));
        let totals = engine.stop().totals;
        assert_eq!(totals.get(Counter::GuestsCame), 2);
        assert!(totals.get(Counter::FramesSwitched) >= 2, "{totals}");
    }
}

#[test]
fn a_guest_that_breaks_the_framing_is_dismissed_and_no_other() {
    let engine = Engine::start(config(1), Vec::new()).unwrap();
    let (mut good, good_left) = Guest::join(&engine, 11);
    let broken: [(&[u8], &str); 2] = [
        (&[0, 0, 0, 0], "0 bytes"),
        (&[0xff, 0xff, 0xff, 0xff, 1], "4294967295 bytes"),
    ];
    for (bytes, said) in broken {
        let (mut bad, bad_left) = Guest::join(&engine, 12);
        bad.stream.write_all(bytes).unwrap();
        match bad_left.recv_timeout(PATIENCE).unwrap() {
            Departure::Dismissed(why) => assert!(why.contains(said), "{why}"),
            other => panic!("{other:?}"),
        }
        let mut rest = Vec::new();
        // Its end is closed, with a reset if bytes of it were not read.
        let _ = bad.stream.read_to_end(&mut rest);
        assert_eq!(good.resolve([10, 9, 8, 1]), Network::GATEWAY_MAC.0);
    }
    assert!(good_left.try_recv().is_err(), "it is still there");
    assert_eq!(engine.stop().totals.get(Counter::DroppedFraming), 2);
}

#[test]
fn a_guest_that_takes_nothing_keeps_no_buffers_of_others() {
    let engine = Engine::start(config(1), Vec::new()).unwrap();
    let (mut sender, _) = Guest::join(&engine, 11);
    let (mut deaf, deaf_left) = Guest::join(&engine, 12);
    // It is heard once, and reads nothing from then on.
    let announcement = deaf.arp([0xff; 6], 1, [0; 6], deaf.address);
    deaf.send(&announcement);
    let datagram = sender.datagram(&deaf, 1000);
    for _ in 0..4000 {
        sender.send(&datagram);
        // One receive for each frame, so that each holds a buffer of its own as long as it waits.
        assert_eq!(sender.resolve([10, 9, 8, 1]), Network::GATEWAY_MAC.0);
    }
    let (mut third, _) = Guest::join(&engine, 13);
    assert_eq!(third.resolve([10, 9, 8, 1]), Network::GATEWAY_MAC.0);
    let totals = engine.totals();
    assert!(totals.get(Counter::DroppedLinkFull) > 1000, "{totals}");
    assert!(deaf_left.try_recv().is_err(), "it may yet read");

    // What waited for it is whole when it does.
    let mut whole = 0;
    deaf.stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut first = [0; 4];
    while deaf.stream.read_exact(&mut first).is_ok() {
        let mut frame = vec![0; u32::from_be_bytes(first) as usize];
        deaf.stream.read_exact(&mut frame).unwrap();
        whole += usize::from(frame == datagram);
    }
    assert!(whole >= 256, "{whole} frames");
    engine.stop();
}

#[test]
fn a_guest_that_was_idle_for_long_is_answered_and_one_that_takes_nothing_is_dismissed() {
    let stall_timeout = Duration::from_millis(500);
    let config = EngineConfig {
        stall_timeout,
        ..config(1)
    };
    let engine = Engine::start(config, Vec::new()).unwrap();
    let (mut idle, idle_left) = Guest::join(&engine, 11);
    for _ in 0..3 {
        assert_eq!(idle.resolve([10, 9, 8, 1]), Network::GATEWAY_MAC.0);
        std::thread::sleep(stall_timeout * 3);
    }
    assert!(idle_left.try_recv().is_err(), "it is still there");

    let (mut deaf, deaf_left) = Guest::join(&engine, 12);
    let request = deaf.arp([0xff; 6], 1, [0; 6], [10, 9, 8, 1]);
    let asks = std::thread::spawn(move || {
        // Ends when its link is closed.
        while deaf.stream.write_all(&42_u32.to_be_bytes()).is_ok() {
            if deaf.stream.write_all(&request).is_err() {
                return;
            }
        }
    });
    match deaf_left.recv_timeout(PATIENCE).unwrap() {
        Departure::Dismissed(why) => assert!(why.contains("took no frames"), "{why}"),
        other => panic!("{other:?}"),
    }
    asks.join().unwrap();
    assert_eq!(idle.resolve([10, 9, 8, 1]), Network::GATEWAY_MAC.0);
    engine.stop();
}

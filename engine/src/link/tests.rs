//! Guests at the door, with nobody behind it but the test.

use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream as BlockingStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use towpath_ring::frames::stream::Framing;

use super::listener::Source;
use super::*;
use crate::config::{
    DnsUpstream, EngineConfig, FixedLease, Holder, HostLoopback, Limits, Network, STALL_TIMEOUT,
};
use crate::core::Peers;
use crate::service::channel::Services;
use crate::service::counters::{Counter, Counters};
use crate::service::dhcp;
use crate::service::dns::Forwarder;
use crate::service::names::Names;

const UUID: &str = "c5a3a7a2-9f3c-4b2e-8a65-7d1f0f6b0a01";
const OTHER: &str = "c5a3a7a2-9f3c-4b2e-8a65-7d1f0f6b0a02";
const FIXED: &str = "c5a3a7a2-9f3c-4b2e-8a65-7d1f0f6b0a03";
const NIL: &str = "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Long enough for anything but a hang.
const PATIENCE: Duration = Duration::from_secs(300);

/// A door, and the test in the place of the cores.
struct Door {
    folder: TempDir,
    services: Arc<Services>,
    attacher: Attacher,
    all_gone: OwnedFd,
}

/// A guest as a core gets it.
struct Arrived {
    attachment: Attachment,
    on_end: OnEnd,
}

fn config() -> EngineConfig {
    EngineConfig {
        cores: 1,
        pin: false,
        driver: crate::driver::DriverChoice::Auto,
        busy_poll: Duration::ZERO,
        faults: None,
        isolate: false,
        stall_timeout: STALL_TIMEOUT,
        leases: vec![FixedLease {
            holder: Holder::Uuid(FIXED.parse().unwrap()),
            address: Ipv4Addr::new(192, 168, 65, 6),
            name: None,
        }],
        network: Network {
            // Guests have .3 to .6.
            subnet4: (Ipv4Addr::new(192, 168, 65, 0), 29),
            subnet6: "fd00::".parse().unwrap(),
            mtu: 1500,
            gateway_mac: Network::GATEWAY_MAC,
            domain: None,
            search: Vec::new(),
            lease: Duration::from_secs(3600),
        },
        host_loopback: HostLoopback::Closed,
        dns: DnsUpstream::Servers(Vec::new()),
        limits: Limits::default(),
    }
}

impl Door {
    /// At a socket for each of `protocols`, named for it.
    fn open(protocols: &[Protocol]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listeners = protocols.iter().map(|&protocol| {
            let path = folder.path().join(protocol.name());
            Listener::open(LinkUrl::Path { protocol, path }).unwrap()
        });
        let listeners = listeners.collect();
        Self::with(folder, listeners)
    }

    fn with(folder: TempDir, listeners: Vec<Listener>) -> Self {
        let config = config();
        let counters = Arc::new(Counters::default());
        let origin = std::time::Instant::now();
        let names = Arc::new(Names::new(&config.network, &config.leases, origin));
        let services = Arc::new(Services {
            forwarder: Arc::new(Forwarder::new(
                &config.dns,
                Arc::clone(&names),
                Arc::clone(&counters),
            )),
            dhcp: Mutex::new(dhcp::Server::new(
                &config.network,
                &config.leases,
                names,
                Arc::clone(&counters),
            )),
            counters,
            origin,
        });
        let peers = Peers {
            wakers: vec![OnceLock::new()],
            stop: AtomicBool::new(false),
        };
        let attacher = Attacher::new(Arc::new(peers), 0);
        let runtime = Handle::current();
        let uuids = Arc::new(Uuids::new(Arc::clone(&services), &config.leases));
        let mtu = config.network.mtu;
        let all_gone = serve(
            &runtime,
            &services,
            &uuids,
            mtu,
            attacher.clone(),
            listeners,
        )
        .unwrap();
        Self {
            folder,
            services,
            attacher,
            all_gone,
        }
    }

    fn path(&self, protocol: Protocol) -> PathBuf {
        self.folder.path().join(protocol.name())
    }

    async fn connect(&self, protocol: Protocol) -> UnixStream {
        UnixStream::connect(self.path(protocol)).await.unwrap()
    }

    /// The next guest that is let in.
    async fn arrival(&self) -> Arrived {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.attacher.take(0).pop() {
                Some(PortCommand::Attach {
                    attachment, on_end, ..
                }) => return Arrived { attachment, on_end },
                Some(PortCommand::Detach(port)) => panic!("{port:?}"),
                None => assert!(Instant::now() < deadline, "nobody came"),
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_counted(&self, counter: Counter, count: u64) {
        let counted = || self.services.counters.snapshot().get(counter);
        let deadline = Instant::now() + PATIENCE;
        while counted() != count {
            assert!(Instant::now() < deadline, "{counter:?} is {}", counted());
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn is_all_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.all_gone, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() > 0
    }

    /// A vpnkit guest that says `command` and gets the reply; none when it is closed.
    async fn greet(&self, command: &[u8]) -> (UnixStream, Option<Vec<u8>>) {
        let mut guest = self.connect(Protocol::Vpnkit).await;
        guest.write_all(&init(22)).await.unwrap();
        guest.write_all(command).await.unwrap();
        let mut bytes = [0; 49];
        timeout(PATIENCE, guest.read_exact(&mut bytes))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(bytes[..], init(22));
        let mut reply = vec![0; 258];
        let read = timeout(PATIENCE, guest.read_exact(&mut reply))
            .await
            .unwrap();
        (guest, read.ok().map(|_| reply))
    }

    /// The same, let in.
    async fn join(&self, command: &[u8]) -> (UnixStream, Arrived, Ipv4Addr) {
        let (guest, reply) = self.greet(command).await;
        let reply = reply.expect("it is let in");
        assert_eq!(
            reply[..7],
            [1, 0xdc, 5, 0x0e, 6, 2, 0x50],
            "1500, 1550, MAC"
        );
        let address = Ipv4Addr::from(*reply[7..].first_chunk::<4>().unwrap());
        (guest, self.arrival().await, address)
    }

    async fn refusal(&self, command: &[u8]) -> String {
        let (mut guest, reply) = self.greet(command).await;
        let reply = reply.expect("it is told why");
        assert_eq!(reply[0], 2);
        let (text, rest) = reply[2..].split_at(usize::from(reply[1]));
        assert!(rest.iter().all(|&byte| byte == 0));
        assert_eq!(guest.read(&mut [0]).await.unwrap(), 0, "and closed");
        String::from_utf8(text.to_vec()).unwrap()
    }
}

fn init(version: u32) -> Vec<u8> {
    let mut bytes = b"VMN3T".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend_from_slice(b"0123456789012345678901234567890123456789");
    bytes
}

fn ethernet(uuid: &str) -> Vec<u8> {
    [&[1], uuid.as_bytes(), &[0; 4]].concat()
}

fn preferred(uuid: &str, host: u8) -> Vec<u8> {
    [&[8], uuid.as_bytes(), &[host, 65, 168, 192]].concat()
}

fn ip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 65, host)
}

fn stream(arrived: &Arrived) -> (BlockingStream, Framing) {
    match &arrived.attachment.carrier {
        Carrier::Stream { socket, framing } => {
            let socket = BlockingStream::from(socket.try_clone().unwrap());
            socket.set_nonblocking(false).unwrap();
            (socket, *framing)
        }
        other => panic!("{other:?}"),
    }
}

fn packets(arrived: &Arrived) -> UnixDatagram {
    match &arrived.attachment.carrier {
        Carrier::Packets(socket) => socket.try_clone().unwrap().into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn vpnkit_s_hello_is_the_same_byte_for_byte() {
    let door = Door::open(&[Protocol::Vpnkit]);
    let mut guest = door.connect(Protocol::Vpnkit).await;
    // All at once, as a client may write it, with a frame behind.
    let mut sent = init(22);
    sent.extend(ethernet(UUID));
    sent.extend_from_slice(b"\x05\x00frame");
    guest.write_all(&sent).await.unwrap();
    let arrived = door.arrival().await;
    let mut answer = vec![0; 49 + 258];
    guest.read_exact(&mut answer).await.unwrap();
    let mut golden = init(22);
    golden.extend_from_slice(&[1, 0xdc, 0x05, 0x0e, 0x06, 2, 0x50, 192, 168, 65, 3]);
    golden.resize(49 + 258, 0);
    assert_eq!(answer, golden);

    let (mut socket, framing) = stream(&arrived);
    assert_eq!(framing, Framing::Le16);
    let mut frame = [0; 7];
    socket.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x05\x00frame", "nothing of it was read away");
    let name = format!("vpnkit://{}#1", door.path(Protocol::Vpnkit).display());
    assert_eq!(arrived.attachment.name, name);
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let door = Door::open(&[Protocol::Vpnkit]);
    let mut guest = door.connect(Protocol::Vpnkit).await;
    for byte in [init(22), ethernet(UUID)].concat() {
        guest.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    door.arrival().await;
}

#[tokio::test]
async fn a_uuid_keeps_its_address() {
    let door = Door::open(&[Protocol::Vpnkit]);
    let (_guest, first, address) = door.join(&ethernet(UUID)).await;
    assert_eq!(address, ip(3));
    let (_other, second, address) = door.join(&ethernet(OTHER)).await;
    assert_eq!(address, ip(4));
    (first.on_end)(Departure::Left);
    (second.on_end)(Departure::Failed("test".into()));
    let (_other, _second, address) = door.join(&ethernet(&OTHER.to_uppercase())).await;
    assert_eq!(address, ip(4));
    let (_guest, _first, address) = door.join(&preferred(UUID, 3)).await;
    assert_eq!(address, ip(3));
    let (_fixed, _third, address) = door.join(&ethernet(FIXED)).await;
    assert_eq!(address, ip(6));
}

#[tokio::test(start_paused = true)]
async fn two_guests_with_one_uuid_are_not_let_in() {
    let door = Door::open(&[Protocol::Vpnkit]);
    let (_guest, first, _) = door.join(&ethernet(UUID)).await;
    let text = door.refusal(&ethernet(UUID)).await;
    assert_eq!(text, "A client with this UUID is connected already.");
    door.until_counted(Counter::LinkHelloRefused, 1).await;

    // One that is started again may come before its end is noticed.
    let again = ethernet(UUID);
    let ((_, _, address), ()) = tokio::join!(door.join(&again), async {
        sleep(Duration::from_millis(500)).await;
        (first.on_end)(Departure::Left);
    });
    assert_eq!(address, ip(3));
}

#[tokio::test]
async fn preferred_addresses_are_given_or_refused_in_vpnkit_s_words() {
    let door = Door::open(&[Protocol::Vpnkit]);
    let (_guest, first, address) = door.join(&preferred(UUID, 5)).await;
    assert_eq!(address, ip(5));
    for (command, text) in [
        (
            preferred(OTHER, 5),
            "Preferred IP address 192.168.65.5 already used.",
        ),
        (
            preferred(OTHER, 6),
            "Preferred IP address 192.168.65.6 already used.",
        ),
        (preferred(OTHER, 2), "Preferred IP address out of range."),
        (preferred(OTHER, 7), "Preferred IP address out of range."),
        (preferred(NIL, 8), "Preferred IP address out of range."),
        (
            preferred(UUID, 4),
            "UUID already assigned to a different IP than the IP requested by the client",
        ),
    ] {
        assert_eq!(door.refusal(&command).await, text);
    }
    (first.on_end)(Departure::Left);
    let used = door.refusal(&preferred(OTHER, 5)).await;
    assert!(used.contains("already used"), "its guest may come again");
}

#[tokio::test]
async fn addresses_come_back() {
    let door = Door::open(&[Protocol::Vpnkit]);
    for _ in 0..10 {
        let (_guest, arrived, address) = door.join(&ethernet(NIL)).await;
        assert_eq!(address, ip(3));
        (arrived.on_end)(Departure::Left);
        // Not before its task has heard of it.
        while door.services.dhcp().find_free(door.services.now()) != Some(ip(3)) {
            tokio::task::yield_now().await;
        }
    }
    let mut guests = vec![
        door.join(&ethernet(UUID)).await,
        door.join(&ethernet(NIL)).await,
        door.join(&ethernet(NIL)).await,
    ];
    let text = door.refusal(&ethernet(OTHER)).await;
    assert_eq!(text, "No IP addresses available.");
    // A guest that may come again keeps its address for as long as there are others.
    let (_, arrived, address) = guests.remove(0);
    (arrived.on_end)(Departure::Left);
    let (_guest, _arrived, given) = loop {
        let (guest, reply) = door.greet(&ethernet(OTHER)).await;
        if let Some(reply) = reply.filter(|reply| reply[0] == 1) {
            break (guest, door.arrival().await, reply[10]);
        }
    };
    assert_eq!(given, address.octets()[3]);
    // And it is a new guest then, with a wish of its own.
    let used = door.refusal(&preferred(UUID, given)).await;
    assert!(used.contains("already used"), "{used}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_hello_is_closed_and_no_other_notices() {
    let door = Door::open(&[Protocol::Vpnkit]);
    let (mut kept, _arrived, _) = door.join(&ethernet(UUID)).await;
    let mut wrong_uuid = ethernet(OTHER);
    wrong_uuid[3] = b'x';
    let command = |command: &[u8]| [&init(22)[..], command].concat();
    for (sent, answer) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), vec![]),
        (vec![0xff; 4000], vec![]),
        ([init(21), ethernet(OTHER)].concat(), init(22)),
        (command(&[0; 41]), init(22)),
        (command(&[9; 41]), init(22)),
        (command(&wrong_uuid), init(22)),
    ] {
        let mut guest = door.connect(Protocol::Vpnkit).await;
        guest.write_all(&sent).await.unwrap();
        let mut received = Vec::new();
        // Reset where some of what it sent was not read.
        let _ = timeout(PATIENCE, guest.read_to_end(&mut received))
            .await
            .unwrap();
        assert_eq!(received, answer);
    }
    door.until_counted(Counter::LinkHelloRefused, 6).await;

    for partial in [
        &init(22)[..0],
        &init(22)[..48],
        &command(&ethernet(OTHER)[..40]),
    ] {
        let mut guest = door.connect(Protocol::Vpnkit).await;
        guest.write_all(partial).await.unwrap();
        let mut received = Vec::new();
        timeout(PATIENCE, guest.read_to_end(&mut received))
            .await
            .expect("it is closed some time")
            .unwrap();
    }
    door.until_counted(Counter::LinkHelloLate, 3).await;
    let bind = command(&[6, 1, 0, 0, 127, 80, 0, 0]);
    let (mut guest, mut received) = (door.connect(Protocol::Vpnkit).await, Vec::new());
    guest.write_all(&bind).await.unwrap();
    let _ = guest.read_to_end(&mut received).await;
    assert_eq!(received[49..80], *b"\x02\x1dUnsupported command Bind_ipv4");
    assert_eq!(received.len(), 49 + 258);

    let nothing = timeout(Duration::from_secs(1), kept.read(&mut [0])).await;
    assert!(nothing.is_err(), "still there");
}

#[tokio::test]
async fn silent_strangers_lock_nobody_out() {
    let door = Door::open(&[Protocol::Vpnkit]);
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(door.connect(Protocol::Vpnkit).await);
        // Few wait to be accepted at a time.
        tokio::task::yield_now().await;
    }
    door.until_counted(Counter::LinkCrowded, 44).await;
    let _guest = door.join(&ethernet(UUID)).await;
    door.until_counted(Counter::LinkCrowded, 45).await;
    for stranger in &mut strangers[..45] {
        assert_eq!(stranger.read(&mut [0]).await.unwrap(), 0, "closed");
    }
}

#[tokio::test]
async fn qemu_and_bess_have_no_hello() {
    let door = Door::open(&[Protocol::Qemu, Protocol::Bess]);
    let mut guest = door.connect(Protocol::Qemu).await;
    let arrived = door.arrival().await;
    let (mut socket, framing) = stream(&arrived);
    assert_eq!(framing, Framing::Be32);
    guest.write_all(b"bytes").await.unwrap();
    let mut bytes = [0; 5];
    socket.read_exact(&mut bytes).unwrap();

    let path = SocketAddrUnix::new(door.path(Protocol::Bess)).unwrap();
    let guest = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    connect(&guest, &path).unwrap();
    let arrived = door.arrival().await;
    UnixDatagram::from(guest).send(b"frame").unwrap();
    assert_eq!(packets(&arrived).recv(&mut bytes).unwrap(), 5);
}

/// A guest with a name of its own, connected as vfkit connects.
fn datagram_guest(own: &Path, to: &Path) -> UnixDatagram {
    let guest = UnixDatagram::bind(own).unwrap();
    guest.connect(to).unwrap();
    guest
}

#[tokio::test]
async fn vfkit_guests_come_with_and_without_a_hello() {
    let door = Door::open(&[Protocol::Vfkit]);
    let path = door.path(Protocol::Vfkit);
    let first = datagram_guest(&door.folder.path().join("1"), &path);
    first.send(b"VFKT").unwrap();
    first.send(b"VFKTwo, a frame").unwrap();
    let one = packets(&door.arrival().await);
    let mut bytes = [0; 64];
    assert_eq!(one.recv(&mut bytes).unwrap(), 15, "the hello is gone");

    let second = datagram_guest(&door.folder.path().join("2"), &path);
    second.send(b"a frame").unwrap();
    let two = packets(&door.arrival().await);
    assert_eq!(two.recv(&mut bytes).unwrap(), 7, "a frame is not lost");

    one.send(b"to one").unwrap();
    two.send(b"to two").unwrap();
    assert_eq!(first.recv(&mut bytes).unwrap(), 6);
    assert_eq!(&bytes[..6], b"to one");
    assert_eq!(second.recv(&mut bytes).unwrap(), 6);
    assert_eq!(&bytes[..6], b"to two");
    second.send(b"again").unwrap();
    assert_eq!(two.recv(&mut bytes).unwrap(), 5);

    // It can't be answered, and is in nobody's way.
    let nameless = UnixDatagram::unbound().unwrap();
    nameless.send_to(b"VFKT", &path).unwrap();
    let third = datagram_guest(&door.folder.path().join("3"), &path);
    third.send(b"VFKT").unwrap();
    door.arrival().await;
    assert!(!door.is_all_gone());
}

#[tokio::test]
async fn the_end_is_when_nobody_can_come_any_more() {
    for protocol in [Protocol::Qemu, Protocol::Vfkit] {
        let (guest, socket) = match protocol {
            Protocol::Vfkit => {
                let (guest, socket) = UnixDatagram::pair().unwrap();
                guest.send(b"VFKT").unwrap();
                guest.send(b"frame").unwrap();
                (OwnedFd::from(guest), OwnedFd::from(socket))
            }
            _ => {
                let (guest, socket) = BlockingStream::pair().unwrap();
                (guest.into(), socket.into())
            }
        };
        let listener = Listener {
            url: LinkUrl::Stdio(protocol),
            source: Source::Connected { socket, protocol },
        };
        let door = Door::with(tempfile::tempdir().unwrap(), vec![listener]);
        let arrived = door.arrival().await;
        if protocol == Protocol::Vfkit {
            assert_eq!(packets(&arrived).recv(&mut [0; 9]).unwrap(), 5);
        }
        assert!(!door.is_all_gone());
        (arrived.on_end)(Departure::Left);
        let deadline = Instant::now() + PATIENCE;
        while !door.is_all_gone() {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        drop(guest);
    }
}

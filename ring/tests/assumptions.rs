//! What we rely on in the kernel. Each failure is a sentence: read it before looking for a bug of ours.
//!
//! The TAP tests make a network namespace of their own in a thread; without the right to do so, or
//! without /dev/net/tun, they say "skipped" and pass.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use towpath_ring::frames::tap::OFFLOAD_HEADER_BYTES;
use towpath_ring::{
    Completion, Driver, Errno, LinkId, Slice, SocketKind, Tap, TapOptions, Uring, UringConfig,
    probe,
};

const TAP: LinkId = LinkId(0);

// virtio-net header values.
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;

const GUEST: [u8; 4] = [10, 9, 0, 1];
const HOST: [u8; 4] = [10, 9, 0, 2];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[test]
fn the_ring_has_what_the_fast_path_needs() {
    let features = probe();
    assert_eq!(
        features.unusable, None,
        "io_uring is forbidden or missing here"
    );
    assert!(
        features.buffer_rings,
        "provided buffer rings (Linux 5.19) are missing"
    );
    assert!(
        features.defer_taskrun,
        "DEFER_TASKRUN (Linux 6.1) is missing"
    );
    assert!(
        features.multishot_receive,
        "multishot recvmsg (Linux 6.0) is missing"
    );
    assert!(
        features.multishot_read,
        "multishot read (Linux 6.7) is missing"
    );
    assert!(
        features.receive_bundles,
        "receive bundles (Linux 6.10) are missing"
    );
    assert!(
        features.exact_bundles,
        "a bundle asked for one byte more than two buffers did not stop at two: receives exceed their limit"
    );
    assert!(
        features.message_ring,
        "messages between rings (Linux 5.18) are missing"
    );
    assert!(
        features.absolute_deadline,
        "absolute deadlines of waits (Linux 6.12) are missing"
    );
}

#[test]
fn a_segmented_send_arrives_as_one_on_loopback() {
    let mut driver = Uring::new(&UringConfig::default(), Vec::new()).unwrap();
    let receiver = driver.open(SocketKind::UdpV4).unwrap();
    let sender = driver.open(SocketKind::UdpV4).unwrap();
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    driver.send_to(
        receiver,
        &sink.local_addr().unwrap(),
        &[Slice::from_static(b"bind")],
        0,
        0,
    );
    driver.wait(Some(0), &mut Vec::new()).unwrap();
    let port = driver.local_address(receiver).unwrap().port();
    driver.receive_from(receiver, 1);
    let bytes = Slice::from_vec(vec![7; 10 * 1400]);
    driver.send_to(sender, &([127, 0, 0, 1], port).into(), &[bytes], 1400, 2);
    match next(&mut driver) {
        Completion::Datagram {
            payload, gso_size, ..
        } => assert_eq!(
            (payload.len(), gso_size),
            (14_000, 1400),
            "UDP_SEGMENT is not carried through loopback to a socket with UDP_GRO"
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tap_gives_and_takes_tcp_super_frames() {
    in_namespace(|| {
        let mut driver = tap_ring("tp0");
        let features = driver.link_features(TAP);
        assert!(
            features.offload_header && features.checksum,
            "a TAP without IFF_VNET_HDR"
        );
        assert!(features.tso4 && features.tso6, "TUNSETOFFLOAD refuses TSO");
        driver.read_link(TAP);
        let guest = std::thread::spawn(|| {
            let mut stream = TcpStream::connect((std::net::Ipv4Addr::from(HOST), 80)).unwrap();
            stream.write_all(&vec![0x55; 60_000]).unwrap();
            let mut got = vec![0; 14_480];
            stream.read_exact(&mut got).unwrap();
            got
        });
        let syn = frame_where(&mut driver, |frame| tcp_flags(frame) == Some(0x02));
        let port = u16::from_be_bytes([syn[44], syn[45]]);
        let sequence = u32::from_be_bytes(syn[48..52].try_into().unwrap());
        let reply = |flags, seq, ack, payload: usize| tcp_header(port, flags, seq, ack, payload);
        driver.write_frame(TAP, &reply(0x12, 1000, sequence + 1, 0), &[]);

        // Without an MSS option it is 536 bytes, and the first windows are small.
        let big = frame_where(&mut driver, |frame| frame.len() > 2000);
        assert_eq!(
            big[1] & 0x7f,
            GSO_TCPV4,
            "a large frame is not marked as a TCP super-frame"
        );
        assert_eq!(
            big[0] & NEEDS_CSUM,
            NEEDS_CSUM,
            "a super-frame without partial checksum"
        );

        let payload = Slice::from_vec((0..14_480u32).map(|at| at as u8).collect());
        let halves = [payload.sub(0..7000), payload.sub(7000..14_480)];
        driver.write_frame(
            TAP,
            &reply(0x18, 1001, sequence + 1, payload.len()),
            &halves,
        );
        let started = Instant::now();
        while !guest.is_finished() {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "the guest got no super-frame"
            );
            let deadline = driver.now() + 10_000_000;
            driver.wait(Some(deadline), &mut Vec::new()).unwrap();
        }
        assert!(
            guest.join().unwrap() == payload.bytes(),
            "the guest got other bytes"
        );
        let stats = driver.write_stats(TAP);
        assert_eq!((stats.frames, stats.last_error), (2, None));
    });
}

#[test]
fn a_tap_gives_udp_super_frames() {
    in_namespace(|| {
        let mut driver = tap_ring("tp0");
        assert!(
            driver.link_features(TAP).uso,
            "TUNSETOFFLOAD refuses USO (Linux 6.2)"
        );
        driver.read_link(TAP);
        let guest = UdpSocket::bind("0.0.0.0:0").unwrap();
        let size: libc::c_int = 1400;
        // SAFETY: the option value is one int, which lives through the call.
        let set = unsafe {
            libc::setsockopt(
                guest.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const size).cast(),
                4,
            )
        };
        assert_eq!(set, 0);
        guest
            .send_to(&[9; 14_000], (std::net::Ipv4Addr::from(HOST), 9))
            .unwrap();
        let frame = frame_where(&mut driver, |frame| frame.len() > 10_000);
        assert_eq!(
            frame[1] & 0x7f,
            GSO_UDP_L4,
            "a large frame is not marked as UDP segments"
        );
        assert_eq!(u16::from_ne_bytes([frame[4], frame[5]]), 1400);
        assert_eq!(frame.len(), OFFLOAD_HEADER_BYTES + 42 + 14_000);
    });
}

#[test]
fn frames_stop_when_all_buffers_are_held_and_go_on_after() {
    in_namespace(|| {
        let mut driver = tap_ring("tp0");
        driver.read_link(TAP);
        let guest = UdpSocket::bind("0.0.0.0:0").unwrap();
        let send = |mark: u8| {
            guest
                .send_to(&[mark; 100], (std::net::Ipv4Addr::from(HOST), 9))
                .unwrap();
        };
        let total = driver.levels().tap_total;
        assert_eq!(total, 64);
        let mut held = Vec::new();
        let mut completions = Vec::new();
        for mark in 0..100 {
            send(mark);
        }
        while held.len() < total {
            driver
                .wait(after(&driver, 1_000_000_000), &mut completions)
                .unwrap();
            assert!(!completions.is_empty(), "only {} frames came", held.len());
            held.extend(completions.drain(..).filter_map(frame_of));
        }
        driver
            .wait(after(&driver, 20_000_000), &mut completions)
            .unwrap();
        assert!(completions.is_empty());
        assert_eq!(driver.levels().tap_free, 0);
        assert_eq!(driver.counters().tap_starved, 1);
        let mut marks = udp_marks(&held);
        assert!(held.iter().all(Slice::is_pooled));
        held.clear();
        while marks.last() != Some(&99) {
            driver
                .wait(after(&driver, 1_000_000_000), &mut completions)
                .unwrap();
            assert!(!completions.is_empty(), "reading does not go on");
            held.extend(completions.drain(..).filter_map(frame_of));
            marks.extend(udp_marks(&held));
            held.clear();
        }
        assert_eq!(
            marks,
            (0..100).collect::<Vec<u8>>(),
            "every frame once and in order"
        );
    });
}

#[test]
fn a_ring_is_dropped_at_once_while_its_link_starves() {
    in_namespace(|| {
        let mut driver = tap_ring("tp0");
        driver.read_link(TAP);
        let guest = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut held = Vec::new();
        let mut completions = Vec::new();
        while driver.counters().tap_starved == 0 {
            guest
                .send_to(&[1; 100], (std::net::Ipv4Addr::from(HOST), 9))
                .unwrap();
            driver
                .wait(after(&driver, 1_000_000), &mut completions)
                .unwrap();
            held.extend(completions.drain(..).filter_map(frame_of));
        }
        let (done, finished) = std::sync::mpsc::channel();
        let watch = std::thread::spawn(move || {
            // Less than the time after which a ring gives up on the kernel.
            finished.recv_timeout(Duration::from_millis(1500)).is_ok()
        });
        drop(driver);
        let _ = done.send(());
        assert!(
            watch.join().unwrap(),
            "the ring waited for what was not in the kernel"
        );
        assert!(
            held.iter().all(|frame| !frame.is_empty()),
            "held frames stay"
        );
    });
}

#[test]
fn ping_sockets_tell_the_hop_limit_and_errors() {
    in_namespace(|| {
        // Inside the new namespace only: sysctls under net belong to the thread's namespace.
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        set_up("lo");
        let mut driver = Uring::new(&UringConfig::default(), Vec::new()).unwrap();
        for (kind, to, request, reply) in [
            (SocketKind::PingV4, "127.0.0.1:0", 8u8, 0u8),
            (SocketKind::PingV6, "[::1]:0", 128, 129),
        ] {
            let socket = driver.open(kind).unwrap();
            driver.set_hop_limit(socket, 33).unwrap();
            driver.receive_from(socket, 1);
            let echo = Slice::from_vec(vec![request, 0, 0, 0, 0, 0, 0, 7, b'p', b'i', b'n', b'g']);
            driver.send_to(socket, &to.parse().unwrap(), &[echo], 0, 2);
            match next(&mut driver) {
                Completion::Datagram {
                    from,
                    payload,
                    hop_limit,
                    ..
                } => {
                    assert_eq!(
                        from.map(|from| from.ip().to_string() + ":0"),
                        Some(to.replace(['[', ']'], ""))
                    );
                    assert_eq!(
                        payload[0], reply,
                        "the payload does not begin with the ICMP header"
                    );
                    assert_eq!(payload[6..], [0, 7, b'p', b'i', b'n', b'g']);
                    assert!(
                        hop_limit.is_some_and(|hops| hops > 0),
                        "no hop limit came along"
                    );
                }
                other => panic!("{other:?}"),
            }
            driver.close(socket, false);
            assert!(matches!(
                next(&mut driver),
                Completion::DatagramEnd { token: 1 }
            ));
        }
        // No route: the kernel says so at once.
        let socket = driver.open(SocketKind::PingV4).unwrap();
        let echo = Slice::from_vec(vec![8, 0, 0, 0, 0, 0, 0, 7]);
        driver.send_to(socket, &"192.0.2.1:0".parse().unwrap(), &[echo], 0, 3);
        match next(&mut driver) {
            Completion::SendFailed {
                token: 3, errno, ..
            } => assert_eq!(errno, Errno::NETUNREACH),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_deleted_tap_ends_its_link() {
    in_namespace(|| {
        let mut driver = tap_ring("tp0");
        driver.read_link(TAP);
        driver.wait(Some(0), &mut Vec::new()).unwrap();
        let deleted = std::process::Command::new("ip")
            .args(["link", "del", "tp0"])
            .status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no ip command to delete the TAP with");
            return;
        }
        loop {
            match next(&mut driver) {
                Completion::LinkEnd { link: TAP, error } => {
                    assert!(matches!(error, Errno::BADFD | Errno::IO), "{error}");
                    break;
                }
                Completion::Frame { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        driver.write_frame(TAP, &[0; 60], &[]);
        driver
            .wait(after(&driver, 1_000_000), &mut Vec::new())
            .unwrap();
        assert_eq!(
            driver.write_stats(TAP).down,
            1,
            "{:?}",
            driver.write_stats(TAP)
        );
    });
}

/// The place of a link that was given up is used again, and the new one's frames come from there.
#[test]
fn links_come_and_go_while_a_ring_runs() {
    in_namespace(|| {
        let mut driver = tap_ring("tp0");
        driver.read_link(TAP);
        driver.wait(Some(0), &mut Vec::new()).unwrap();
        driver.remove_link(TAP);
        // A removed link says no more, and its TAP goes with its last queue.
        let gone = || !std::path::Path::new("/sys/class/net/tp0").exists();
        let sysfs_is_ours = !gone();
        let mut completions = Vec::new();
        driver
            .wait(after(&driver, 50_000_000), &mut completions)
            .unwrap();
        assert!(
            !completions
                .iter()
                .any(|c| matches!(c, Completion::LinkEnd { .. })),
            "{completions:?}"
        );
        assert!(!sysfs_is_ours || gone());

        let other = Tap::create("tp1", 1, &TapOptions::default()).unwrap();
        let [queue] = <[_; 1]>::try_from(other.queues).unwrap();
        let link = driver.add_link(queue).unwrap();
        assert_eq!(link, TAP, "the free place");
        driver.read_link(link);
        configure("tp1");
        let sender = UdpSocket::bind((Ipv4Addr::from(GUEST), 0)).unwrap();
        sender
            .send_to(b"still here", (Ipv4Addr::from(HOST), 9))
            .unwrap();
        loop {
            if let Some(frame) = frame_of(next(&mut driver))
                && frame.bytes().ends_with(b"still here")
            {
                break;
            }
        }
    });
}

#[test]
fn bad_frames_are_counted_and_not_retried() {
    in_namespace(|| {
        let mut driver = tap_ring("tp0");
        driver.write_frame(TAP, &[], &[]);
        driver.write_frame(TAP, &[0; 60], &vec![Slice::from_static(b"x"); 33]);
        // Shorter than an ethernet header; a checksum start behind the end; an unknown GSO type.
        driver.write_frame(TAP, &[0; 12], &[]);
        let mut header = [0; 80];
        header[..8].copy_from_slice(&[NEEDS_CSUM, GSO_NONE, 0, 0, 0, 0, 0xff, 0xff]);
        driver.write_frame(TAP, &header, &[]);
        header[..8].copy_from_slice(&[0, 0x7f, 0, 0, 1, 0, 0, 0]);
        driver.write_frame(TAP, &header, &[]);
        driver
            .wait(after(&driver, 1_000_000), &mut Vec::new())
            .unwrap();
        let stats = driver.write_stats(TAP);
        assert_eq!(
            (stats.frames, stats.refused, stats.invalid),
            (0, 2, 3),
            "{stats:?}"
        );
    });
}

#[test]
fn a_tap_has_as_many_queues_as_it_can() {
    in_namespace(|| {
        let tap = Tap::create("tpq", 4, &TapOptions::default()).unwrap();
        assert_eq!(tap.queues.len(), 4, "IFF_MULTI_QUEUE does not work");
        assert!(tap.features.offload_header);
        // A TAP made without multi_queue takes one queue, with the header.
        let made = std::process::Command::new("ip")
            .args(["tuntap", "add", "tps", "mode", "tap"])
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no ip command to make a TAP with");
            return;
        }
        let single = Tap::create("tps", 4, &TapOptions::default()).unwrap();
        assert_eq!(single.queues.len(), 1);
        assert!(
            single.features.offload_header,
            "an existing TAP refuses IFF_VNET_HDR"
        );
        let busy = Tap::create("tps", 1, &TapOptions::default()).unwrap_err();
        assert!(busy.to_string().contains("another program"), "{busy}");
        // A plain one and one for a queue alone.
        let plain = TapOptions {
            plain: true,
            ..TapOptions::default()
        };
        assert!(
            !Tap::create("tpp", 4, &plain)
                .unwrap()
                .features
                .offload_header
        );
        // One that was made for several queues takes a single one, too.
        drop(tap);
        let made = std::process::Command::new("ip")
            .args(["tuntap", "add", "tpm", "mode", "tap", "multi_queue"])
            .status();
        assert!(made.is_ok_and(|status| status.success()));
        assert_eq!(
            Tap::create("tpm", 1, &TapOptions::default())
                .unwrap()
                .queues
                .len(),
            1
        );
    });
}

/// Runs a body in a thread with a network namespace of its own.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    if !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: no /dev/net/tun");
        return;
    }
    let run = std::thread::spawn(move || {
        // SAFETY: a new network namespace for this thread changes no memory and no descriptor.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!(
                "skipped: a network namespace needs root: {}",
                std::io::Error::last_os_error()
            );
            return;
        }
        body();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A ring with a TAP that is up, has an address, and knows the ethernet address of the host side.
fn tap_ring(name: &str) -> Uring {
    let tap = Tap::create(name, 1, &TapOptions::default()).unwrap();
    configure(name);
    let config = UringConfig {
        stream_buffers: 8,
        datagram_buffers: 8,
        ..UringConfig::default()
    };
    Uring::new(&config, tap.queues).unwrap()
}

fn configure(name: &str) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let inet = |ip: [u8; 4]| {
        let mut address = libc::sockaddr {
            sa_family: libc::AF_INET as _,
            sa_data: [0; 14],
        };
        for (to, from) in address.sa_data[2..].iter_mut().zip(ip) {
            *to = from as libc::c_char;
        }
        address
    };
    request.ifr_ifru.ifru_addr = inet(GUEST);
    // SAFETY: SIOCSIFADDR reads an ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &request) };
    assert_eq!(result, 0, "SIOCSIFADDR");
    set_up(name);
    // SAFETY: all-zero is a valid arpreq.
    let mut entry: libc::arpreq = unsafe { std::mem::zeroed() };
    entry.arp_pa = inet(HOST);
    entry.arp_ha.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in entry.arp_ha.sa_data.iter_mut().zip(HOST_MAC) {
        *to = from as libc::c_char;
    }
    entry.arp_flags = 0x02 | 0x04; // complete, permanent
    entry.arp_dev = request.ifr_name;
    // SAFETY: SIOCSARP reads an arpreq, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSARP as _, &entry) };
    assert_eq!(result, 0, "SIOCSARP");
}

/// Brings an interface up.
fn set_up(name: &str) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    assert_eq!(result, 0, "SIOCSIFFLAGS");
}

fn next(driver: &mut Uring) -> Completion {
    let started = Instant::now();
    let mut completions = Vec::new();
    while completions.is_empty() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "nothing completes"
        );
        driver
            .wait(after(driver, 100_000_000), &mut completions)
            .unwrap();
    }
    assert_eq!(completions.len(), 1, "{completions:?}");
    completions.remove(0)
}

/// The deadline in `ns` from now.
fn after(driver: &Uring, ns: u64) -> Option<u64> {
    Some(driver.now() + ns)
}

fn frame_of(completion: Completion) -> Option<Slice> {
    match completion {
        Completion::Frame { frame, .. } => Some(frame),
        _ => None,
    }
}

fn frame_where(driver: &mut Uring, wanted: impl Fn(&[u8]) -> bool) -> Slice {
    let started = Instant::now();
    let mut completions = Vec::new();
    loop {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the expected frame does not come"
        );
        driver
            .wait(after(driver, 100_000_000), &mut completions)
            .unwrap();
        let mut frames = completions.drain(..).filter_map(frame_of);
        if let Some(frame) = frames.find(|frame| wanted(frame)) {
            return frame;
        }
    }
}

/// The first payload byte of the UDP datagrams among frames with an offload header.
fn udp_marks(frames: &[Slice]) -> Vec<u8> {
    let udp = |frame: &&Slice| frame.len() == 10 + 42 + 100 && frame[10 + 23] == 17;
    frames
        .iter()
        .filter(udp)
        .map(|frame| frame[10 + 42])
        .collect()
}

/// The flags of a TCP segment in a frame with an offload header.
fn tcp_flags(frame: &[u8]) -> Option<u8> {
    (frame.len() >= 10 + 54 && frame[22..24] == [8, 0] && frame[33] == 6).then(|| frame[57])
}

/// Offload header, ethernet, IPv4 and TCP headers from the host to the guest, with a partial checksum.
fn tcp_header(port: u16, flags: u8, sequence: u32, ack: u32, payload: usize) -> Vec<u8> {
    let gso: u8 = if payload > 1448 { GSO_TCPV4 } else { GSO_NONE };
    let gso_size: u16 = if payload > 1448 { 1448 } else { 0 };
    let mut header = vec![NEEDS_CSUM, gso];
    header.extend(54u16.to_ne_bytes());
    header.extend(gso_size.to_ne_bytes());
    header.extend(34u16.to_ne_bytes());
    header.extend(16u16.to_ne_bytes());
    header.extend(guest_mac());
    header.extend(HOST_MAC);
    header.extend([8, 0]);
    let mut ip = vec![0x45, 0];
    ip.extend((40 + payload as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip.extend(HOST);
    ip.extend(GUEST);
    let sum: u32 = ip
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(ip);
    header.extend(80u16.to_be_bytes());
    header.extend(port.to_be_bytes());
    header.extend(sequence.to_be_bytes());
    header.extend(ack.to_be_bytes());
    header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn guest_mac() -> [u8; 6] {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tp0") {
        *to = *from as libc::c_char;
    }
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: SIOCGIFHWADDR fills an ifreq, which lives through the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFHWADDR as _,
            &raw mut request,
        )
    };
    assert_eq!(result, 0, "SIOCGIFHWADDR");
    // SAFETY: the call filled the hardware address.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    std::array::from_fn(|at| address.sa_data[at] as u8)
}

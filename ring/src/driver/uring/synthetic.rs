//! Tests of what completions mean, with completions that no kernel made.
//!
//! Operations are asked for as ever and stay in the submission queue of a ring that is never entered, so
//! no kernel sees them; the entries that would complete them are made by hand, among them such as a
//! real kernel makes only on a bad day.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::complete::Reaped;
use super::operation::Family;
use super::submit::{DATAGRAM_CONTROL_BYTES, DATAGRAM_NAME_BYTES};
use super::*;

/// linux/io_uring.h: `IORING_CQE_F_BUFFER`, behind which is the buffer, and `IORING_CQE_F_MORE`.
const BUFFER: u32 = 1;
const MORE: u32 = 2;

/// Bytes in front of a datagram's payload in its buffer.
const DATAGRAM_HEAD_BYTES: usize = 16 + DATAGRAM_NAME_BYTES + DATAGRAM_CONTROL_BYTES;

const STREAM_BUFFER_BYTES: usize = 4096;

/// A ring that is never entered.
struct Bench(Uring);

/// The `flags` of an entry that names a buffer.
fn in_buffer(buffer: u16) -> u32 {
    BUFFER | u32::from(buffer) << 16
}

impl Bench {
    fn new() -> Bench {
        Bench::with_link_buffers(8)
    }

    fn with_link_buffers(link_buffers: u16) -> Bench {
        let config = UringConfig {
            sq_entries: 1024,
            stream_buffers: 16,
            stream_buffer_bytes: STREAM_BUFFER_BYTES as u32,
            link_buffers,
            datagram_buffers: 6,
            ..UringConfig::default()
        };
        Bench(Uring::new(&config, Vec::new()).unwrap())
    }

    fn adopt(&mut self, purpose: Adopted) -> SocketId {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        self.0.adopt(ours.into(), purpose)
    }

    /// An entry for an operation.
    fn complete(&mut self, family: Family, slot: u32, result: i32, flags: u32) -> Vec<Completion> {
        let data = family.data(slot);
        self.0.handle(Reaped {
            data,
            result,
            flags,
        });
        std::mem::take(&mut self.0.ready)
    }

    /// The slot of the receive, `receive_from`, connect or send that is under way.
    fn slot(&mut self, socket: SocketId, of: impl Fn(&sockets::Socket) -> u32) -> u32 {
        of(self.0.sockets.open(socket).unwrap())
    }

    fn receive(&mut self, socket: SocketId, max: usize, token: Token) -> u32 {
        self.0.receive(socket, max as u32, false, token);
        self.slot(socket, |socket| socket.receive)
    }

    fn receive_from(&mut self, socket: SocketId, token: Token) -> u32 {
        self.0.receive_from(socket, token);
        self.slot(socket, |socket| socket.receive_from)
    }

    fn send(&mut self, socket: SocketId, payload: &[Slice], mode: SendMode, token: Token) -> u32 {
        self.0.send(socket, payload, mode, token);
        self.slot(socket, |socket| socket.send)
    }

    fn submissions(&self) -> u64 {
        self.0.counters.submissions
    }

    fn is_open(&mut self, socket: SocketId) -> bool {
        // A closing socket is neither open nor gone.
        let index = socket.raw() & 0xfffff;
        self.0.sockets.at(index).is_some()
    }

    /// All buffers are home and no operation is in flight.
    fn assert_at_rest(&mut self) {
        self.0.relist();
        let levels = self.0.levels();
        assert_eq!(levels.stream_free, levels.stream_total);
        assert_eq!(levels.link_free, levels.link_total);
        assert_eq!(levels.datagram_free, levels.datagram_total);
        assert_eq!(levels.tap_free, levels.tap_total);
        let live = [
            self.0.sends.live(),
            self.0.waits.live(),
            self.0.frames.live(),
        ];
        assert_eq!(live, [0; 3]);
        assert_eq!(self.0.silent, 0);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What is queued must not be submitted now: the ring is closed, and one without entries takes its place.
        self.0.ring = IoUring::new(8).unwrap();
        self.0.frames = Slots::new();
        self.0.sends = Slots::new();
        self.0.waits = Slots::new();
    }
}

fn lens(completions: &[Completion]) -> Vec<usize> {
    completions.iter().map(Completion::bytes).collect()
}

fn end_of(completions: &[Completion]) -> ReceiveEnd {
    match completions.last() {
        Some(Completion::ReceiveEnd { end, .. }) => *end,
        other => panic!("{other:?}"),
    }
}

fn sent(completions: &[Completion]) -> Result<u32, Errno> {
    match completions {
        [Completion::Sent { result, .. }] => *result,
        other => panic!("{other:?}"),
    }
}

fn errno(errno: Errno) -> i32 {
    -errno.raw_os_error()
}

#[test]
fn a_bundle_shorter_than_asked_is_what_it_says() {
    let mut bench = Bench::new();
    if !bench.0.features.receive_bundles {
        eprintln!("IGNORED: this kernel's io_uring has no bundles");
        return;
    }
    let socket = bench.adopt(Adopted::Service);
    let slot = bench.receive(socket, 10 * STREAM_BUFFER_BYTES, 5);
    let heard = bench.complete(Family::Wait, slot, 5000, in_buffer(0));
    assert_eq!(lens(&heard), [4096, 904, 0]);
    assert_eq!(end_of(&heard), ReceiveEnd::Partial);
    assert_eq!(bench.0.levels().stream_free, 14);
    drop(heard);
    // Nothing at all is the end, and takes no buffer though it names one.
    let slot = bench.receive(socket, 10 * STREAM_BUFFER_BYTES, 5);
    let heard = bench.complete(Family::Wait, slot, 0, in_buffer(2));
    assert_eq!((heard.len(), end_of(&heard)), (1, ReceiveEnd::Eof));
    assert_eq!(bench.0.stream.listed(), 14);
    bench.assert_at_rest();
}

#[test]
fn a_receive_of_nothing_gives_its_buffer_back() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::Service);
    let slot = bench.receive(socket, 100, 5);
    let heard = bench.complete(Family::Wait, slot, 0, in_buffer(0));
    assert_eq!((heard.len(), end_of(&heard)), (1, ReceiveEnd::Eof));
    assert_eq!(bench.0.stream.listed(), 15);
    bench.0.relist();
    assert_eq!(bench.0.stream.listed(), 16);
    bench.assert_at_rest();
}

#[test]
fn a_bundle_longer_than_asked_is_heard_whole() {
    let mut bench = Bench::new();
    if !bench.0.features.receive_bundles {
        eprintln!("IGNORED: this kernel's io_uring has no bundles");
        return;
    }
    let socket = bench.adopt(Adopted::Service);
    let slot = bench.receive(socket, 2 * STREAM_BUFFER_BYTES, 5);
    let heard = bench.complete(Family::Wait, slot, 12_289, in_buffer(0));
    assert_eq!(lens(&heard), [4096, 4096, 4096, 1, 0]);
    drop(heard);
    bench.assert_at_rest();
}

#[test]
fn receives_of_many_sockets_complete_in_any_order() {
    let mut bench = Bench::new();
    let sockets: Vec<_> = (0..4).map(|_| bench.adopt(Adopted::Service)).collect();
    let slots: Vec<_> = (0..4)
        .map(|token| bench.receive(sockets[token], 100, token as u64))
        .collect();
    for (at, buffer) in [(2, 3), (0, 1), (3, 0), (1, 2)] {
        bench.0.stream.write(buffer, &[at as u8; 7]);
        let heard = bench.complete(Family::Wait, slots[at], 7, in_buffer(buffer));
        match &heard[..] {
            [
                Completion::Received { token, data },
                Completion::ReceiveEnd { token: ended, .. },
            ] => {
                assert_eq!((*token, *ended, data.len()), (at as u64, at as u64, 7));
                assert_eq!(data.bytes(), [at as u8; 7]);
            }
            other => panic!("{other:?}"),
        }
    }
    bench.assert_at_rest();
}

#[test]
fn a_receive_without_a_buffer_is_starved_and_the_next_one_works() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::Service);
    let held: Vec<_> = (0..16)
        .map(|buffer| {
            let slot = bench.receive(socket, 100, 5);
            bench.complete(Family::Wait, slot, 1, in_buffer(buffer))
        })
        .collect();
    assert_eq!(bench.0.levels().stream_free, 0);
    let slot = bench.receive(socket, 100, 5);
    let heard = bench.complete(Family::Wait, slot, errno(Errno::NOBUFS), 0);
    assert_eq!(end_of(&heard), ReceiveEnd::Starved);
    assert_eq!(bench.0.counters.stream_starved, 1);
    drop(held);
    bench.0.relist();
    assert_eq!(bench.0.stream.listed(), 16);
    let slot = bench.receive(socket, 100, 5);
    assert_eq!(
        lens(&bench.complete(Family::Wait, slot, 9, in_buffer(3))),
        [9, 0]
    );
    bench.assert_at_rest();
}

#[test]
fn a_link_that_finds_no_listed_buffer_tries_again_while_there_are_any() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::StreamLink);
    let slot = bench.receive(socket, 1 << 20, 5);
    let before = bench.submissions();
    assert_eq!(
        bench
            .complete(Family::Wait, slot, errno(Errno::NOBUFS), 0)
            .len(),
        0
    );
    assert_eq!(bench.submissions(), before + 1, "it is armed again");
    let heard = bench.complete(Family::Wait, slot, 200_000, in_buffer(1));
    assert_eq!(lens(&heard), [200_000, 0]);
    // All are held: it is told.
    let mut held = vec![heard];
    for buffer in [0, 2, 3, 4, 5, 6, 7] {
        let slot = bench.receive(socket, 1 << 20, 5);
        held.push(bench.complete(Family::Wait, slot, 1, in_buffer(buffer)));
    }
    let slot = bench.receive(socket, 1 << 20, 5);
    let heard = bench.complete(Family::Wait, slot, errno(Errno::NOBUFS), 0);
    assert_eq!(end_of(&heard), ReceiveEnd::Starved);
    drop(held);
    // Closed meanwhile: it is not armed again.
    let slot = bench.receive(socket, 1 << 20, 5);
    bench.0.close(socket, false);
    let heard = bench.complete(Family::Wait, slot, errno(Errno::NOBUFS), 0);
    assert_eq!(end_of(&heard), ReceiveEnd::Canceled);
    assert!(!bench.is_open(socket));
    bench.assert_at_rest();
}

#[test]
fn a_cancelled_operation_may_complete_with_success_all_the_same() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::Service);
    let receive = bench.receive(socket, 100, 5);
    let send = bench.send(
        socket,
        &[Slice::from_static(b"abc")],
        SendMode::WhenWritable,
        6,
    );
    bench.0.close(socket, false);
    assert!(bench.0.ready.is_empty());
    let heard = bench.complete(Family::Wait, receive, 42, in_buffer(0));
    assert_eq!(
        (lens(&heard), end_of(&heard)),
        (vec![42, 0], ReceiveEnd::Partial)
    );
    assert!(bench.is_open(socket), "the send is still in flight");
    assert_eq!(sent(&bench.complete(Family::Send, send, 2, 0)), Ok(2));
    assert!(!bench.is_open(socket));
    drop(heard);
    // What the cancels themselves say does not matter.
    assert_eq!(
        bench
            .complete(Family::Ignored, 0, errno(Errno::NOENT), 0)
            .len(),
        0
    );
    bench.assert_at_rest();

    let socket = bench.adopt(Adopted::Service);
    let nowhere = Remote::Inet("127.0.0.1:1".parse().unwrap());
    bench.0.connect(socket, &nowhere, 7);
    let connect = bench.slot(socket, |socket| socket.connect);
    bench.0.close(socket, true);
    let heard = bench.complete(Family::Wait, connect, 0, 0);
    assert!(matches!(
        heard[..],
        [Completion::Connected {
            token: 7,
            result: Ok(())
        }]
    ));
    assert!(!bench.is_open(socket));
    bench.assert_at_rest();
}

#[test]
fn a_completion_whose_slot_is_gone_is_nothing() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::Service);
    let receive = bench.receive(socket, 100, 5);
    assert_eq!(
        bench
            .complete(Family::Wait, receive, errno(Errno::CANCELED), 0)
            .len(),
        1
    );
    let levels = bench.0.levels();
    for family in [
        Family::Wait,
        Family::Send,
        Family::Frame,
        Family::Link,
        Family::PeerMessage,
    ] {
        for slot in [receive, 77, u32::MAX] {
            for result in [0, 1, errno(Errno::CANCELED), i32::MIN] {
                assert_eq!(bench.complete(family, slot, result, 0).len(), 0);
            }
        }
    }
    // No family at all.
    let nobody = Reaped {
        data: u64::MAX,
        result: 1,
        flags: MORE,
    };
    bench.0.handle(nobody);
    assert_eq!((bench.0.ready.len(), bench.0.levels()), (0, levels));
    bench.assert_at_rest();
}

#[test]
fn a_late_completion_does_not_reach_the_next_user_of_its_socket() {
    let mut bench = Bench::new();
    let first = bench.adopt(Adopted::Service);
    let slot = bench.receive(first, 100, 5);
    bench.0.close(first, false);
    // The place of the first is taken as long as its receive is in flight.
    let second = bench.adopt(Adopted::Service);
    bench.receive(second, 100, 6);
    let heard = bench.complete(Family::Wait, slot, 3, in_buffer(0));
    assert!(matches!(
        heard[..],
        [
            Completion::Received { token: 5, .. },
            Completion::ReceiveEnd { token: 5, .. }
        ]
    ));
    assert!(!bench.is_open(first) && bench.0.sockets.index(second).is_some());
}

#[test]
fn short_and_failed_sends_tell_what_went() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::Service);
    let mut payload = Slice::from_vec(Vec::with_capacity(20));
    assert!(payload.try_append(b"0123456789"));
    let parts = [payload.clone()];
    for (mode, result, told) in [
        (SendMode::WhenWritable, 3, Ok(3)),
        (SendMode::Now, errno(Errno::AGAIN), Ok(0)),
        (
            SendMode::WhenWritable,
            errno(Errno::AGAIN),
            Err(Errno::AGAIN),
        ),
        (SendMode::Now, errno(Errno::INTR), Ok(0)),
        (SendMode::Quiet, 4, Ok(4)),
        (SendMode::Quiet, errno(Errno::PIPE), Err(Errno::PIPE)),
        (
            SendMode::WhenWritable,
            errno(Errno::CONNRESET),
            Err(Errno::CONNRESET),
        ),
    ] {
        let slot = bench.send(socket, &parts, mode, 6);
        assert_eq!(
            sent(&bench.complete(Family::Send, slot, result, 0)),
            told,
            "{mode:?}"
        );
        assert!(bench.0.quiet.is_empty(), "it would be told twice");
    }
    drop(parts);
    assert!(payload.try_append(b"x"), "nobody holds what was sent");
    bench.assert_at_rest();
}

/// A buffer as a multishot `recvmsg` fills it.
fn datagram(
    bench: &mut Bench,
    slot: u32,
    buffer: u16,
    payload: &[u8],
    flags: u32,
) -> Vec<Completion> {
    let mut bytes = [0, 0, payload.len() as u32, 0]
        .map(u32::to_ne_bytes)
        .concat();
    bytes.resize(DATAGRAM_HEAD_BYTES, 0);
    bytes.extend_from_slice(payload);
    bench.0.datagram.write(buffer, &bytes);
    let flags = in_buffer(buffer) | flags;
    bench.complete(Family::Wait, slot, bytes.len() as i32, flags)
}

#[test]
fn a_multishot_that_ends_without_a_reason_is_armed_again() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::PacketLink);
    let slot = bench.receive_from(socket, 9);
    let before = bench.submissions();
    assert_eq!(lens(&datagram(&mut bench, slot, 0, b"one", MORE)), [3]);
    assert_eq!(bench.submissions(), before);
    assert_eq!(lens(&datagram(&mut bench, slot, 1, b"four", 0)), [4]);
    assert_eq!(bench.submissions(), before + 1);
    assert_eq!(
        bench
            .complete(Family::Wait, slot, errno(Errno::INTR), 0)
            .len(),
        0
    );
    assert_eq!(bench.submissions(), before + 2);
    bench.0.close(socket, false);
    let heard = bench.complete(Family::Wait, slot, errno(Errno::CANCELED), 0);
    assert!(matches!(heard[..], [Completion::DatagramEnd { token: 9 }]));
    bench.assert_at_rest();
}

#[test]
fn a_multishot_that_runs_dry_goes_on_when_buffers_are_back() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::PacketLink);
    let slot = bench.receive_from(socket, 9);
    let mut held: Vec<_> = (0..6)
        .map(|buffer| datagram(&mut bench, slot, buffer, b"x", MORE))
        .collect();
    assert_eq!(
        bench
            .complete(Family::Wait, slot, errno(Errno::NOBUFS), 0)
            .len(),
        0
    );
    assert_eq!(bench.0.counters.datagram_starved, 1);
    let before = bench.submissions();
    bench.0.relist();
    assert_eq!(bench.submissions(), before, "there is still none");
    held.pop();
    bench.0.relist();
    bench.0.relist();
    assert_eq!(bench.submissions(), before + 1, "once");
    assert_eq!(lens(&datagram(&mut bench, slot, 5, b"yz", MORE)), [2]);
    // Starved again and closed: it is not in the kernel, so it ends at once.
    assert_eq!(
        bench
            .complete(Family::Wait, slot, errno(Errno::NOBUFS), 0)
            .len(),
        0
    );
    bench.0.close(socket, false);
    let heard = std::mem::take(&mut bench.0.ready);
    assert!(matches!(heard[..], [Completion::DatagramEnd { token: 9 }]));
    assert!(!bench.is_open(socket));
    drop(held);
    bench.assert_at_rest();
}

#[test]
fn a_cancelled_multishot_may_bring_more_first() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::PacketLink);
    let slot = bench.receive_from(socket, 9);
    bench.0.close(socket, false);
    assert_eq!(lens(&datagram(&mut bench, slot, 0, b"late", MORE)), [4]);
    let before = bench.submissions();
    let heard = datagram(&mut bench, slot, 1, b"last", 0);
    assert!(matches!(
        heard[..],
        [
            Completion::Datagram { .. },
            Completion::DatagramEnd { token: 9 }
        ]
    ));
    // The descriptor's close and nothing else.
    assert_eq!(bench.submissions(), before + 1);
    drop(heard);
    bench.assert_at_rest();
}

#[test]
fn a_datagram_that_is_cut_off_is_counted_and_its_buffer_comes_home() {
    let mut bench = Bench::new();
    let socket = bench.adopt(Adopted::PacketLink);
    let slot = bench.receive_from(socket, 9);
    for (buffer, len) in [(0, 0), (1, 15), (2, DATAGRAM_HEAD_BYTES as i32 - 1)] {
        let heard = bench.complete(Family::Wait, slot, len, in_buffer(buffer) | MORE);
        assert_eq!(heard.len(), 0);
    }
    assert_eq!(bench.0.counters.datagrams_broken, 3);
    assert_eq!(bench.0.levels().datagram_free, 6);
}

#[test]
fn packets_without_room_wait_for_it() {
    let mut bench = Bench::new();
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    let socket = bench.0.adopt(ours.into(), Adopted::PacketLink);
    let packet = [Slice::from_vec(vec![0; 60_000])];
    for (result, told) in [
        (i32::from(libc::POLLOUT), Ok(0)),
        (i32::from(libc::POLLHUP), Ok(0)),
        (errno(Errno::CANCELED), Err(Errno::CANCELED)),
    ] {
        // Packets go to the kernel at once, until it has enough.
        loop {
            bench.0.send_packets(socket, &[&packet[..]; 2], 6);
            let heard = std::mem::take(&mut bench.0.ready);
            if heard.is_empty() {
                break;
            }
            assert!(matches!(sent(&heard), Ok(1..=2)));
        }
        let slot = bench.slot(socket, |socket| socket.send);
        assert_eq!(sent(&bench.complete(Family::Send, slot, result, 0)), told);
    }
    bench.assert_at_rest();
}

#[test]
fn frames_and_their_reads_end_as_they_may() {
    let mut bench = Bench::new();
    let (fd, _theirs) = UnixStream::pair().unwrap();
    let queue = TapQueue::from_parts(OwnedFd::from(fd), LinkFeatures::default());
    let link = bench.0.admit_link(queue).unwrap();
    bench.0.read_link(link);
    let index = u32::from(link.0);
    let before = bench.submissions();
    // Buffers are used in the order in which they were listed.
    let mut held = bench.complete(Family::Link, index, 60, in_buffer(0) | MORE);
    held.extend(bench.complete(Family::Link, index, 1514, in_buffer(1)));
    assert_eq!(
        (lens(&held), bench.submissions()),
        (vec![60, 1514], before + 1)
    );
    assert_eq!(
        bench
            .complete(Family::Link, index, errno(Errno::NOBUFS), 0)
            .len(),
        0
    );
    assert_eq!(
        (bench.0.counters.tap_starved, bench.submissions()),
        (1, before + 1)
    );
    bench.0.relist();
    assert_eq!(bench.submissions(), before + 2, "others were free");
    // An empty frame is none.
    assert_eq!(
        bench
            .complete(Family::Link, index, 0, in_buffer(2) | MORE)
            .len(),
        0
    );
    // Writes: one that went, one that did not, in the other order.
    bench.0.write_frame(link, b"header", &[]);
    bench.0.write_frame(link, b"header", &[]);
    assert_eq!(bench.0.silent, 2);
    assert_eq!(
        bench
            .complete(Family::Frame, 1, errno(Errno::AGAIN), 0)
            .len(),
        0
    );
    assert_eq!(bench.complete(Family::Frame, 0, 6, 0).len(), 0);
    let writes = bench.0.write_stats(link);
    assert_eq!((writes.frames, writes.bytes, writes.full), (1, 6, 1));
    let heard = bench.complete(Family::Link, index, errno(Errno::BADFD), 0);
    assert!(matches!(
        heard[..],
        [Completion::LinkEnd {
            error: Errno::BADFD,
            ..
        }]
    ));
    drop(held);
    bench.assert_at_rest();
}

mod any_order {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Whatever receives come to, in whatever order and however long their bytes are held: each ends
        /// once, and all buffers come home.
        #[test]
        fn each_receive_ends_once_and_all_buffers_come_home(
            steps in vec((0usize..4, 0u8..6, 1usize..20_000, any::<bool>()), 1..200),
        ) {
            let mut bench = Bench::with_link_buffers(0);
            let bundles = bench.0.features.receive_bundles;
            let sockets: Vec<_> = (0..4).map(|_| bench.adopt(Adopted::Service)).collect();
            let mut under_way = [None; 4];
            let (mut begun, mut ended) = (0, 0);
            let mut held: Vec<Vec<Completion>> = Vec::new();
            for (at, what, len, hold) in steps {
                bench.0.relist();
                let Some(slot) = under_way[at].take() else {
                    under_way[at] = Some(bench.receive(sockets[at], 3 * STREAM_BUFFER_BYTES, at as u64));
                    begun += 1;
                    continue;
                };
                let listed = bench.0.stream.next_listed();
                let most = if bundles { 3 * STREAM_BUFFER_BYTES } else { STREAM_BUFFER_BYTES };
                let most = most.min(bench.0.stream.listed() * STREAM_BUFFER_BYTES);
                let (result, flags) = match (what, listed) {
                    (0, _) => (errno(Errno::CONNRESET), 0),
                    (1, _) => (errno(Errno::CANCELED), 0),
                    (2, _) => (0, 0),
                    (_, Some(buffer)) => (len.min(most) as i32, in_buffer(buffer)),
                    (_, None) => (errno(Errno::NOBUFS), 0),
                };
                let heard = bench.complete(Family::Wait, slot, result, flags);
                let bytes: usize = lens(&heard).iter().sum();
                prop_assert_eq!(bytes, result.max(0) as usize);
                let ends = heard.iter().filter(|completion| {
                    matches!(completion, Completion::ReceiveEnd { token, .. } if *token == at as u64)
                });
                prop_assert_eq!(ends.count(), 1);
                ended += 1;
                if hold {
                    held.push(heard);
                } else {
                    held.pop();
                }
            }
            for slot in under_way.into_iter().flatten() {
                prop_assert_eq!(bench.complete(Family::Wait, slot, 0, 0).len(), 1);
                ended += 1;
            }
            prop_assert_eq!(begun, ended);
            held.clear();
            bench.assert_at_rest();
        }
    }
}

//! The machine below the core: operations wait until the fuzzer's bytes say what becomes of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::event::{EventfdFlags, eventfd};
use towpath::config::Network;
use towpath::internals::Stop;
use towpath::service::message::{Asker, Reply, Request};
use towpath_ring::buffer::{FilledPool, Slice};
use towpath_ring::driver::{
    Adopted, BufferLevels, Completion, Driver, DriverCounters, Errno, ErrorOrigin,
    FRAME_HEADER_MAX, FRAME_SLICES_MAX, Keepalive, LinkFeatures, LinkId, ReceiveEnd, Remote,
    SEND_SLICES_MAX, SendMode, SocketError, SocketId, SocketKind, Token, Waker, WriteStats,
};
use towpath_stack::tcp::seq::SequenceNumber as Seq;

use super::script::{Guest, flow_of_port, guest_byte, host_byte};
use crate::input::Input;

const LINK: LinkId = LinkId(0);
const FRAME_BUFFERS: u16 = 12;
const STREAM_BUFFERS: u16 = 12;
const DATAGRAM_BUFFERS: u16 = 4;
const FRAME_BUFFER_BYTES: u32 = 16 << 10;
const STREAM_BUFFER_BYTES: u32 = 4 << 10;
/// Steps of the script, and waits of the core after it.
const STEPS_MAX: u32 = 600;
const LAST_WAITS_MAX: u32 = 1000;
/// Sockets that may be open.
const SOCKETS_MAX: usize = 80;
const ERRNOS: [Errno; 8] = [
    Errno::CONNREFUSED,
    Errno::CONNRESET,
    Errno::TIMEDOUT,
    Errno::HOSTUNREACH,
    Errno::NETUNREACH,
    Errno::PIPE,
    Errno::NOBUFS,
    Errno::MSGSIZE,
];

/// The buffers, which outlive the core.
pub(super) struct Pools {
    frames: FilledPool,
    streams: FilledPool,
    datagrams: FilledPool,
}

impl Pools {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            frames: FilledPool::new(FRAME_BUFFERS, FRAME_BUFFER_BYTES)?,
            streams: FilledPool::new(STREAM_BUFFERS, STREAM_BUFFER_BYTES)?,
            datagrams: FilledPool::new(DATAGRAM_BUFFERS, FRAME_BUFFER_BYTES)?,
        })
    }

    pub(super) fn check_all_home(&self) {
        for pool in [&self.frames, &self.streams, &self.datagrams] {
            assert_eq!(pool.free(), pool.count(), "a buffer is lost");
        }
    }
}

/// See the module.
pub(super) struct FuzzDriver<'a> {
    input: Input<'a>,
    guest: Guest,
    features: LinkFeatures,
    now: u64,
    stop: Stop,
    pools: Rc<RefCell<Pools>>,
    sockets: Vec<Socket>,
    /// Completions that come with the next wait.
    due: VecDeque<Completion>,
    /// What the kernel would hold until the next wait.
    held: Vec<Slice>,
    steps: u32,
    last_waits: u32,
    link_is_gone: bool,
    /// Opens that fail.
    refused: u8,
}

struct Socket {
    kind: SocketKind,
    is_open: bool,
    flow: Option<usize>,
    connected: bool,
    connect: Option<Token>,
    send: Option<(Token, Vec<Slice>, SendMode)>,
    receive: Option<(Token, u32)>,
    datagrams: Option<Token>,
    errors: VecDeque<SocketError>,
    shut_down: bool,
    /// The guest's next byte for the host, and the host's next for the guest.
    taken: Option<Seq>,
    given: u32,
    ended: bool,
}

impl<'a> FuzzDriver<'a> {
    pub(super) fn new(
        mut input: Input<'a>,
        network: &Network,
        stop: Stop,
        pools: Rc<RefCell<Pools>>,
    ) -> Self {
        let offload = input.u8() & 1 == 0;
        Self {
            input,
            guest: Guest::new(network),
            features: LinkFeatures {
                offload_header: offload,
                tso4: offload,
                tso6: offload,
                uso: offload,
                checksum: offload,
                frame_max: 65_535 + 14,
            },
            now: 1_000_000_000,
            stop,
            pools,
            sockets: Vec::new(),
            due: VecDeque::new(),
            held: Vec::new(),
            steps: 0,
            last_waits: 0,
            link_is_gone: false,
            refused: 0,
        }
    }

    /// The socket to the control thread.
    pub(super) fn adopt_service(&mut self) -> SocketId {
        self.add(SocketKind::UnixStream)
    }

    fn add(&mut self, kind: SocketKind) -> SocketId {
        self.sockets.push(Socket {
            kind,
            is_open: true,
            flow: None,
            connected: false,
            connect: None,
            send: None,
            receive: None,
            datagrams: None,
            errors: VecDeque::new(),
            shut_down: false,
            taken: None,
            given: 0,
            ended: false,
        });
        SocketId::from_raw(self.sockets.len() as u32 - 1)
    }

    fn socket(&mut self, id: SocketId) -> &mut Socket {
        let socket = self
            .sockets
            .get_mut(id.raw() as usize)
            .expect("a socket of this driver");
        assert!(socket.is_open, "an operation on a closed socket");
        socket
    }

    // The script

    /// Does what the bytes say until something is to be told, or time passes.
    fn play(&mut self, deadline: Option<u64>) {
        while self.steps < STEPS_MAX && !self.input.is_empty() {
            self.steps += 1;
            match self.input.u8() {
                0..=95 => self.guest_frame(),
                96..=119 => self.answer_connect(),
                120..=143 => self.answer_send(),
                144..=167 => self.answer_receive(),
                168..=179 => self.give_datagram(),
                180..=183 => self.give_error(),
                184..=187 => self.give_reply(),
                188 => self.refused = self.input.u8() & 7,
                189 => self.end_link(),
                190..=223 => {
                    let shift = self.input.u8() % 24;
                    self.now += u64::from(self.input.u8()) << (shift + 10);
                    return;
                }
                224..=231 => {
                    self.now = self.now.max(deadline.unwrap_or(0));
                    return;
                }
                _ if !self.due.is_empty() => return,
                _ => {}
            }
        }
        self.finish(deadline);
    }

    /// The bytes are used up: the host takes all that it is owed, and the core ends.
    fn finish(&mut self, deadline: Option<u64>) {
        self.last_waits += 1;
        assert!(self.last_waits < LAST_WAITS_MAX, "the core does not end");
        self.stop.stop();
        for index in 0..self.sockets.len() {
            self.complete_send(index, usize::MAX);
        }
        if self.due.is_empty() {
            self.now = self.now.max(deadline.unwrap_or(0));
        }
    }

    fn guest_frame(&mut self) {
        let frame = self
            .guest
            .frame(&mut self.input, self.features.offload_header);
        if self.link_is_gone {
            return;
        }
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(&frame[..bytes.len()]);
        let lent = self.pools.borrow_mut().frames.lend(frame.len(), fill);
        if let Some(frame) = lent {
            self.due.push_back(Completion::Frame { link: LINK, frame });
        }
    }

    fn end_link(&mut self) {
        if self.input.u8() < 16 && !self.link_is_gone {
            self.link_is_gone = true;
            let error = Errno::BADFD;
            self.due
                .push_back(Completion::LinkEnd { link: LINK, error });
        }
    }

    /// One of the sockets that something waits at.
    fn pick(&mut self, waits: impl Fn(&Socket) -> bool) -> Option<usize> {
        let waiting = self
            .sockets
            .iter()
            .filter(|socket| socket.is_open && waits(socket));
        let count = waiting.count();
        let nth = usize::from(self.input.u8()).checked_rem(count)?;
        let mut open = self.sockets.iter().enumerate();
        let found = open
            .by_ref()
            .filter(|(_, socket)| socket.is_open && waits(socket))
            .nth(nth);
        found.map(|(index, _)| index)
    }

    fn errno(&mut self) -> Errno {
        ERRNOS[usize::from(self.input.u8()) % ERRNOS.len()]
    }

    fn answer_connect(&mut self) {
        let Some(index) = self.pick(|socket| socket.connect.is_some()) else {
            return;
        };
        let result = if self.input.u8() < 224 {
            Ok(())
        } else {
            Err(self.errno())
        };
        let socket = &mut self.sockets[index];
        socket.connected = result.is_ok();
        if let Some(token) = socket.connect.take() {
            self.due.push_back(Completion::Connected { token, result });
        }
    }

    fn answer_send(&mut self) {
        let Some(index) = self.pick(|socket| socket.send.is_some()) else {
            return;
        };
        match self.input.u8() {
            0..=127 => self.complete_send(index, usize::MAX),
            128..=247 => {
                let bytes = usize::from(self.input.u16());
                self.complete_send(index, bytes);
            }
            _ => {
                let errno = self.errno();
                if let Some((token, _, _)) = self.sockets[index].send.take() {
                    let result = Err(errno);
                    self.due.push_back(Completion::Sent { token, result });
                }
            }
        }
    }

    /// The host takes up to `max` bytes.
    fn complete_send(&mut self, index: usize, max: usize) {
        let socket = &mut self.sockets[index];
        let Some((token, slices, mode)) = socket.send.take() else {
            return;
        };
        let all: usize = slices.iter().map(Slice::len).sum();
        let least = usize::from(mode == SendMode::WhenWritable).min(all);
        let bytes = max.clamp(least, all.max(least));
        let bytes = bytes.min(all);
        if let Some(taken) = &mut socket.taken {
            *taken += bytes as u32;
        }
        let result = Ok(bytes as u32);
        self.due.push_back(Completion::Sent { token, result });
    }

    fn answer_receive(&mut self) {
        let Some(index) = self.pick(|socket| socket.receive.is_some()) else {
            return;
        };
        let (kind, len) = (self.input.u8(), self.input.len(60_000));
        let errno = self.errno();
        let socket = &mut self.sockets[index];
        let Some((token, max)) = socket.receive.take() else {
            return;
        };
        let mut left = len.min(max as usize);
        if socket.ended {
            left = 0;
        }
        let mut end = match kind {
            0..=191 if left > 0 => ReceiveEnd::Partial,
            0..=239 => ReceiveEnd::Eof,
            240..=247 => ReceiveEnd::Starved,
            _ => ReceiveEnd::Failed(errno),
        };
        if matches!(end, ReceiveEnd::Eof) {
            (socket.ended, left) = (true, 0);
        }
        while left > 0 {
            let given = socket.given;
            let fill = |bytes: &mut [u8]| {
                (given..)
                    .zip(bytes)
                    .for_each(|(at, byte)| *byte = host_byte(at));
            };
            let len = left.min(STREAM_BUFFER_BYTES as usize);
            let Some(data) = self.pools.borrow_mut().streams.lend(len, fill) else {
                if given == 0 || end == ReceiveEnd::Partial {
                    end = ReceiveEnd::Starved;
                }
                break;
            };
            left -= len;
            socket.given += len as u32;
            self.due.push_back(Completion::Received { token, data });
        }
        self.due.push_back(Completion::ReceiveEnd { token, end });
    }

    fn give_datagram(&mut self) {
        let Some(index) = self.pick(|s| s.datagrams.is_some() && s.kind != SocketKind::UnixStream)
        else {
            return;
        };
        let (shape, len) = (self.input.u8(), self.input.len(12_000));
        let socket = &self.sockets[index];
        let Some(token) = socket.datagrams else {
            return;
        };
        let v6 = matches!(socket.kind, SocketKind::UdpV6 | SocketKind::PingV6);
        let from: IpAddr = match (v6, shape & 1 == 0) {
            (false, true) => Ipv4Addr::LOCALHOST.into(),
            (false, false) => Ipv4Addr::new(1, 1, 1, 1).into(),
            (true, true) => Ipv6Addr::LOCALHOST.into(),
            (true, false) => Ipv6Addr::from([0x20; 16]).into(),
        };
        let head = self.input.u32().to_be_bytes();
        let fill = |bytes: &mut [u8]| {
            bytes.fill(shape);
            // The type of an echo reply, where it is one.
            let len = bytes.len().min(8);
            bytes[..len].copy_from_slice(&[0, 0, 0, 0, head[0], head[1], head[2], head[3]][..len]);
            if v6 && let Some(kind) = bytes.first_mut() {
                *kind = 129;
            }
        };
        let lent = self.pools.borrow_mut().datagrams.lend(len, fill);
        if let Some(payload) = lent {
            self.due.push_back(Completion::Datagram {
                token,
                from: (shape & 2 == 0).then(|| SocketAddr::new(from, 5000)),
                payload,
                gso_size: if shape & 4 == 4 && len > 500 { 500 } else { 0 },
                hop_limit: Some(shape),
            });
        }
    }

    /// A router, or the target, reports an error.
    fn give_error(&mut self) {
        let errno = self.errno();
        let shape = self.input.u8();
        let payload = self.input.bytes(200).to_vec();
        let Some(index) =
            self.pick(|socket| socket.datagrams.is_some() || socket.connect.is_some())
        else {
            return;
        };
        let socket = &mut self.sockets[index];
        let v6 = matches!(
            socket.kind,
            SocketKind::UdpV6 | SocketKind::PingV6 | SocketKind::TcpV6
        );
        let offender: IpAddr = if v6 {
            Ipv6Addr::from([0x20; 16]).into()
        } else {
            Ipv4Addr::new(9, 9, 9, 9).into()
        };
        let origin = if shape & 1 == 0 {
            ErrorOrigin::Local
        } else {
            let (kind, code) = (shape >> 4, shape >> 1 & 7);
            ErrorOrigin::Icmp {
                v6,
                kind,
                code,
                offender,
            }
        };
        let target = SocketAddr::new(offender, 5000);
        let info = 1400;
        socket.errors.push_back(SocketError {
            errno,
            origin,
            info,
            target,
            payload,
        });
        if let Some(token) = socket.datagrams {
            self.due
                .push_back(Completion::DatagramError { token, errno });
        }
    }

    /// The control thread answers.
    fn give_reply(&mut self) {
        let Some(token) = self.sockets[0].datagrams else {
            return;
        };
        let shape = self.input.u8();
        let message = self.input.bytes(3000);
        let mut packet = Vec::new();
        if shape & 1 == 0 {
            let asker = Asker {
                port: 0,
                mac: [2, 0, 0, 0, 0, 9],
                guest: Ipv4Addr::new(10, 0, 2, 3).into(),
                guest_port: 40_000,
                server: Ipv4Addr::new(10, 0, 2, 1).into(),
            };
            Reply::Dns {
                asker,
                answer: message,
            }
            .encode(&mut packet);
        } else {
            let to = (shape & 2 == 0).then(|| Ipv4Addr::new(10, 0, 2, 3 + shape % 4));
            Reply::Dhcp {
                port: 0,
                mac: [2, 0, 0, 0, 0, 9],
                to,
                message,
            }
            .encode(&mut packet);
        }
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(&packet);
        let lent = self.pools.borrow_mut().datagrams.lend(packet.len(), fill);
        if let Some(payload) = lent {
            let (from, gso_size, hop_limit) = (None, 0, None);
            self.due.push_back(Completion::Datagram {
                token,
                from,
                payload,
                gso_size,
                hop_limit,
            });
        }
    }

    // What the core asks

    /// Bytes that go to a host socket are the guest's next.
    fn check_upload(&mut self, index: usize, payload: &[Slice]) {
        let Some(flow) = self.sockets[index].flow else {
            return;
        };
        let core = self.guest.flows[flow].core();
        let socket = &mut self.sockets[index];
        assert!(socket.connected && !socket.shut_down);
        let taken = match socket.taken {
            Some(taken) => taken,
            None => core.expect("the SYN-ACK comes before bytes").start,
        };
        socket.taken = Some(taken);
        let bytes = payload.iter().flat_map(|slice| slice.bytes());
        for (n, byte) in (0u32..).zip(bytes) {
            assert_eq!(
                *byte,
                guest_byte(taken + n),
                "the guest's byte {n} from {taken:?}"
            );
        }
    }

    fn send_datagram(&mut self, payload: &[Slice], token: Token, to: Option<SocketAddr>) {
        self.held.extend_from_slice(payload);
        // One in some does not go out.
        if self.refused > 0
            && let Some(first) = payload.first()
        {
            self.refused -= 1;
            let errno = self.errno();
            let payload = first.clone();
            self.due.push_back(Completion::SendFailed {
                token,
                errno,
                to,
                payload,
            });
        }
    }
}

impl Driver for FuzzDriver<'_> {
    fn now(&self) -> u64 {
        self.now
    }

    fn wait(&mut self, deadline: Option<u64>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.held.clear();
        self.play(deadline);
        completions.extend(self.due.drain(..));
        Ok(())
    }

    fn link_features(&self, _: LinkId) -> LinkFeatures {
        self.features
    }

    fn read_link(&mut self, _: LinkId) {}

    fn write_frame(&mut self, _: LinkId, header: &[u8], payload: &[Slice]) {
        assert!(header.len() <= FRAME_HEADER_MAX && payload.len() <= FRAME_SLICES_MAX);
        self.held.extend_from_slice(payload);
        let mut frame = header.to_vec();
        payload
            .iter()
            .for_each(|slice| frame.extend_from_slice(slice.bytes()));
        self.guest.read(&frame, self.features.offload_header);
    }

    fn open(&mut self, kind: SocketKind) -> io::Result<SocketId> {
        let open = self.sockets.iter().filter(|socket| socket.is_open).count();
        if self.refused > 0 || open >= SOCKETS_MAX {
            self.refused = self.refused.saturating_sub(1);
            return Err(Errno::MFILE.into());
        }
        Ok(self.add(kind))
    }

    fn adopt(&mut self, _: OwnedFd, _: Adopted) -> SocketId {
        self.add(SocketKind::UnixStream)
    }

    fn connect(&mut self, id: SocketId, to: &Remote, token: Token) {
        let socket = self.socket(id);
        assert!(
            socket.connect.is_none() && !socket.connected,
            "a socket connects once"
        );
        socket.connect = Some(token);
        socket.flow = match to {
            Remote::Inet(to) => flow_of_port(to.port()),
            Remote::Unix(_) => None,
        };
    }

    fn send(&mut self, id: SocketId, payload: &[Slice], mode: SendMode, token: Token) {
        assert!(self.socket(id).send.is_none(), "one send at a time");
        let payload = &payload[..payload.len().min(SEND_SLICES_MAX)];
        self.check_upload(id.raw() as usize, payload);
        self.socket(id).send = Some((token, payload.to_vec(), mode));
    }

    fn receive(&mut self, id: SocketId, max: u32, _: bool, token: Token) {
        let socket = self.socket(id);
        assert!(socket.receive.is_none(), "one receive at a time");
        assert!(max > 0 && !socket.ended);
        socket.receive = Some((token, max));
    }

    fn send_to(
        &mut self,
        id: SocketId,
        to: &SocketAddr,
        payload: &[Slice],
        gso_size: u16,
        token: Token,
    ) {
        self.socket(id);
        if gso_size > 0 {
            let bytes: usize = payload.iter().map(Slice::len).sum();
            assert!(bytes.div_ceil(gso_size.into()) <= 128 && bytes <= 65_507);
        }
        self.send_datagram(payload, token, Some(*to));
    }

    fn send_packet(&mut self, id: SocketId, payload: &[Slice], token: Token) {
        self.socket(id);
        let packet = payload.iter().flat_map(|slice| slice.bytes()).copied();
        let packet: Vec<u8> = packet.collect();
        assert!(
            Request::decode(&packet).is_some(),
            "the control thread understands it"
        );
        self.send_datagram(payload, token, None);
    }

    fn send_packets(&mut self, id: SocketId, packets: &[&[Slice]], token: Token) {
        self.socket(id);
        let result = Ok(packets.len() as u32);
        self.due.push_back(Completion::Sent { token, result });
    }

    fn receive_from(&mut self, id: SocketId, token: Token) {
        let socket = self.socket(id);
        assert!(socket.datagrams.is_none());
        socket.datagrams = Some(token);
    }

    fn take_error(&mut self, id: SocketId) -> Option<SocketError> {
        self.socket(id).errors.pop_front()
    }

    fn shutdown_write(&mut self, id: SocketId) {
        let socket = self.socket(id);
        assert!(socket.connected && !socket.shut_down);
        socket.shut_down = true;
    }

    fn close(&mut self, id: SocketId, _: bool) {
        let socket = self.socket(id);
        socket.is_open = false;
        let canceled = Err(Errno::CANCELED);
        let connect = socket.connect.take();
        let connect = connect.map(|token| Completion::Connected {
            token,
            result: canceled,
        });
        let send = socket.send.take();
        let result = Err(Errno::CANCELED);
        let send = send.map(|(token, _, _)| Completion::Sent { token, result });
        let end = ReceiveEnd::Canceled;
        let receive = socket.receive.take();
        let receive = receive.map(|(token, _)| Completion::ReceiveEnd { token, end });
        let datagrams = socket.datagrams.take();
        let datagrams = datagrams.map(|token| Completion::DatagramEnd { token });
        self.due
            .extend([connect, send, receive, datagrams].into_iter().flatten());
    }

    fn set_hop_limit(&mut self, id: SocketId, _: u8) -> io::Result<()> {
        self.socket(id);
        Ok(())
    }

    fn set_report_errors(&mut self, id: SocketId) -> io::Result<()> {
        self.socket(id);
        Ok(())
    }

    fn set_keepalive(&mut self, id: SocketId, _: &Keepalive) -> io::Result<()> {
        self.socket(id);
        Ok(())
    }

    fn local_address(&self, id: SocketId) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(
            Ipv4Addr::LOCALHOST.into(),
            30_000 + id.raw() as u16,
        ))
    }

    fn levels(&self) -> BufferLevels {
        let pools = self.pools.borrow();
        BufferLevels {
            tap_free: pools.frames.free(),
            tap_total: pools.frames.count(),
            stream_free: pools.streams.free(),
            stream_total: pools.streams.count(),
            stream_buffer_bytes: STREAM_BUFFER_BYTES as usize,
            link_free: 0,
            link_total: 0,
            datagram_free: pools.datagrams.free(),
            datagram_total: pools.datagrams.count(),
        }
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters::default()
    }

    fn write_stats(&self, _: LinkId) -> WriteStats {
        WriteStats::default()
    }

    fn waker(&self) -> Waker {
        // Nobody wakes a lone core; the trait wants one all the same.
        let event = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor for an eventfd");
        Waker::new(event, None)
    }

    fn wake(&mut self, peer: &Waker) {
        peer.wake();
    }
}

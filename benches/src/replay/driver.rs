//! The driver of a replay: no kernel, the recording's time, host sockets that follow the script.
//!
//! Nothing in here is told which of the core's sockets belongs to which flow of the recording. The
//! core connects in the order of the SYNs that it was given, so a CONNECT belongs to the first SYN to
//! that target that has no socket yet; the same holds for a UDP port's first datagram. An echo
//! request names its id.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use foldhash::fast::FixedState;
use rustix::event::{EventfdFlags, eventfd};
use towpath::config::Network;
use towpath::internals::Stop;
use towpath_ring::buffer::{FilledPool, Slice};
use towpath_ring::driver::{
    Adopted, BufferLevels, Completion, Driver, DriverCounters, Errno, Keepalive, LinkFeatures,
    LinkId, ReceiveEnd, Remote, SendMode, SocketError, SocketId, SocketKind, Token, Waker,
    WriteStats,
};
use towpath_stack::Address;
use towpath_stack::tcp::segment::Segment;
use towpath_stack::tcp::seq::SequenceNumber;
use towpath_stack::wire::ethernet::HEADER_LEN as ETHERNET;
use towpath_stack::wire::offload::HEADER_LEN as OFFLOAD;
use towpath_stack::wire::{protocol, tcp};

use super::recording::{ConnectionKey, Flow, GuestFrame, Places, Recording, Step, TcpEvent, What};

/// Buffers as the io_uring driver has them.
const FRAME_BUFFERS: u16 = 64;
const FRAME_BUFFER_BYTES: u32 = 65_792;
const STREAM_BUFFERS: u16 = 256;
const STREAM_BUFFER_BYTES: u32 = 16 << 10;
const DATAGRAM_BUFFERS: u16 = 64;
/// How often a frame that the core's window does not open for is played before it is given up.
const PROBES_MAX: u32 = 3;
/// The only link.
const LINK: LinkId = LinkId(0);

/// A map whose look-ups cost the same in every run, and little.
type Map<K, V> = std::collections::HashMap<K, V, FixedState>;

/// See the module.
pub struct ReplayDriver<'a> {
    recording: &'a Recording,
    /// The host's and the gateway's addresses as the guest sees them.
    hosts: (Ipv4Addr, Ipv6Addr),
    gateways: (Ipv4Addr, Ipv6Addr),
    /// The step that comes next, and the time.
    next: usize,
    now: u64,
    /// How often the next step's frame was played although the core's window did not reach so far.
    probes: u32,
    stop: Stop,
    frames: FilledPool,
    streams: FilledPool,
    datagrams: FilledPool,
    sockets: Vec<Option<Socket>>,
    free_sockets: Vec<u32>,
    connections: Vec<Connection>,
    /// The latest connection of each key.
    keys: Map<ConnectionKey, usize>,
    /// Connections whose SYN was given to the core and that have no socket yet.
    opening: VecDeque<usize>,
    /// The socket of each of the guest's UDP ports, and ports that have none yet with their target.
    udp_sockets: Vec<Option<u32>>,
    udp_opening: VecDeque<(usize, Option<SocketAddr>)>,
    /// The socket of each ping id.
    pings: Map<(bool, [u8; 2]), u32>,
    /// What ends the next wait, and what comes with it.
    prompt: Vec<Completion>,
    quiet: Vec<Completion>,
    /// What the kernel would hold until the next wait.
    held: Vec<Slice>,
    pub(super) counted: Counted,
}

/// What was played and answered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) waits: u64,
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    pub(super) resets_out: u64,
    /// The guest's frames that could not be played: the core had not answered the SYN.
    pub(super) left_out: u64,
    /// Acknowledgments of more than the core had sent, which were cut to that.
    pub(super) acks_ahead: u64,
}

struct Socket {
    kind: SocketKind,
    connection: Option<usize>,
    connect: Option<Token>,
    receive: Option<(Token, u32)>,
    datagrams: Option<Token>,
}

/// A connection's host side.
#[derive(Clone, Copy, Default)]
struct Connection {
    socket: Option<u32>,
    /// What the recording's SYN-ACK said: initial sequence number and timestamp.
    recorded: Option<(u32, u32)>,
    /// Known when the core answered the SYN.
    core: Option<CoreSide>,
    /// Bytes that can be read.
    readable: u64,
    ended: bool,
    reset: bool,
}

/// What the guest's segments have to be moved by, and how far they may acknowledge.
#[derive(Clone, Copy)]
struct CoreSide {
    sequence: u32,
    clock: u32,
    /// Behind all that the core has sent.
    sent: SequenceNumber,
    /// The right edge of the window that the core offers to the guest; `None` after its reset.
    edge: Option<SequenceNumber>,
    /// The shift of its window fields.
    scale: u8,
}

impl<'a> ReplayDriver<'a> {
    /// A driver at the recording's first step. `stop` is used when there are no more.
    pub(super) fn new(recording: &'a Recording, network: &Network, stop: Stop) -> io::Result<Self> {
        Ok(Self {
            recording,
            hosts: (network.host4(), network.host6()),
            gateways: (network.gateway4(), network.gateway6()),
            next: 0,
            now: 0,
            probes: 0,
            stop,
            frames: FilledPool::new(FRAME_BUFFERS, FRAME_BUFFER_BYTES)?,
            streams: FilledPool::new(STREAM_BUFFERS, STREAM_BUFFER_BYTES)?,
            datagrams: FilledPool::new(DATAGRAM_BUFFERS, FRAME_BUFFER_BYTES)?,
            sockets: Vec::with_capacity(1024),
            free_sockets: Vec::with_capacity(1024),
            connections: vec![Connection::default(); recording.connections.len()],
            keys: Map::with_capacity_and_hasher(recording.connections.len(), FixedState::default()),
            opening: VecDeque::with_capacity(64),
            udp_sockets: vec![None; recording.udp_ports],
            udp_opening: VecDeque::with_capacity(64),
            pings: Map::with_capacity_and_hasher(64, FixedState::default()),
            prompt: Vec::with_capacity(1024),
            quiet: Vec::with_capacity(1024),
            held: Vec::with_capacity(1024),
            counted: Counted::default(),
        })
    }

    /// The socket to the control thread, behind which nobody is.
    pub(super) fn adopt_service(&mut self) -> SocketId {
        self.add(SocketKind::UnixStream)
    }

    fn add(&mut self, kind: SocketKind) -> SocketId {
        let socket = Socket {
            kind,
            connection: None,
            connect: None,
            receive: None,
            datagrams: None,
        };
        let raw = self.free_sockets.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() as u32 - 1
        });
        self.sockets[raw as usize] = Some(socket);
        SocketId::from_raw(raw)
    }

    fn socket(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(id.raw() as usize)?.as_mut()
    }

    /// Where an address of the guest's view leads on the host; `None`: to a service of the engine.
    fn host_side(&self, (address, port): (Address, u16)) -> Option<SocketAddr> {
        let ip = address.ip();
        let ip = match ip {
            IpAddr::V4(v4) if v4 == self.gateways.0 => return None,
            IpAddr::V6(v6) if v6 == self.gateways.1 => return None,
            IpAddr::V4(v4) if v4 == self.hosts.0 => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6 == self.hosts.1 => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Some(SocketAddr::new(ip, port))
    }

    // Steps

    /// Goes on in the recording until there is something to tell, or the deadline comes first.
    fn advance(&mut self, deadline: Option<u64>) -> io::Result<()> {
        let recording = self.recording;
        while let Some(Step { at, what }) = recording.steps.get(self.next) {
            if let Some(deadline) = deadline.filter(|deadline| deadline < at) {
                self.now = self.now.max(deadline);
                return Ok(());
            }
            self.now = self.now.max(*at);
            if let What::Guest(_) = what {
                self.play_run()?;
                if !self.prompt.is_empty() {
                    return Ok(());
                }
                continue;
            }
            self.next += 1;
            self.follow(what);
            let more_of_host = matches!(
                recording.steps.get(self.next),
                Some(Step { what, .. }) if !matches!(what, What::Guest(_))
            );
            if !self.prompt.is_empty() && !more_of_host {
                return Ok(());
            }
        }
        // The recording may have been cut in the midst of an upload.
        self.prompt.append(&mut self.quiet);
        if self.prompt.is_empty() {
            self.stop.stop();
            self.now = self.now.max(deadline.unwrap_or(0));
        }
        Ok(())
    }

    /// Gives the guest's frames up to the next thing that the host did, as many as have buffers and
    /// lie in the core's window.
    fn play_run(&mut self) -> io::Result<()> {
        let recording = self.recording;
        while let Some(Step {
            what: What::Guest(frame),
            ..
        }) = recording.steps.get(self.next)
        {
            if self.frames.free() == 0 {
                if self.prompt.is_empty() {
                    return Err(io::Error::other(
                        "the core holds all buffers for frames, so no more can be read",
                    ));
                }
                break;
            }
            if self.is_beyond_window(frame) {
                if self.prompt.is_empty() {
                    self.open_window(frame);
                }
                break;
            }
            self.go_on();
            self.play(frame);
        }
        Ok(())
    }

    fn go_on(&mut self) {
        self.next += 1;
        self.probes = 0;
    }

    /// Whether the guest could not have sent a frame yet, for want of a window.
    fn is_beyond_window(&self, frame: &GuestFrame) -> bool {
        match frame.flow {
            Flow::Tcp {
                connection,
                payload_end: Some(end),
                ..
            } => self.connections[connection]
                .core
                .and_then(|core| core.edge)
                .is_some_and(|edge| edge.before(end)),
            _ => false,
        }
    }

    /// Does what may open the core's window, when it has been told all else: the kernel has taken
    /// what was sent to the host, and if that does not help the guest probes the window. The core
    /// takes as much of the probe as it has room for, and its answer says how far the guest may go.
    fn open_window(&mut self, frame: &GuestFrame) {
        if !self.quiet.is_empty() {
            self.prompt.append(&mut self.quiet);
            return;
        }
        self.probes += 1;
        if self.probes == PROBES_MAX {
            self.go_on();
        }
        self.play(frame);
    }

    fn play(&mut self, frame: &GuestFrame) {
        let (mut moved, mut ahead) = (None, false);
        match frame.flow {
            Flow::Open { connection } => self.note_opening(connection),
            Flow::Tcp {
                connection, places, ..
            } => {
                let Some(core) = self.connections[connection].core else {
                    self.counted.left_out += 1;
                    return;
                };
                moved = Some((places, core));
            }
            Flow::Udp { port, to } => self.note_udp(port, to),
            Flow::Other => {}
        }
        let slice = self.frames.lend(frame.len, |bytes| {
            bytes[..frame.head.len()].copy_from_slice(&frame.head);
            if let Some((places, core)) = moved {
                ahead = move_places(bytes, &places, &core);
            }
        });
        self.counted.acks_ahead += u64::from(ahead);
        if let Some(frame) = slice {
            self.counted.frames_in += 1;
            self.prompt.push(Completion::Frame { link: LINK, frame });
        }
    }

    fn note_opening(&mut self, connection: usize) {
        let key = self.recording.connections[connection];
        if self.keys.insert(key, connection) != Some(connection) {
            self.opening.push_back(connection);
        }
    }

    fn note_udp(&mut self, port: usize, to: (Address, u16)) {
        if self.udp_sockets[port].is_none()
            && !self.udp_opening.iter().any(|(waiting, _)| *waiting == port)
        {
            self.udp_opening.push_back((port, self.host_side(to)));
        }
    }

    /// Something happens on the host's side.
    fn follow(&mut self, what: &What) {
        match *what {
            What::Tcp { connection, event } => self.follow_tcp(connection, event),
            What::Datagram { port, from, len } => {
                let from = self.host_side(from);
                if let (Some(raw), Some(from)) = (self.udp_sockets[port], from) {
                    self.deliver_datagram(raw, from, len, &[]);
                }
            }
            What::EchoReply { from, header, len } => {
                let id = (from.is_v4(), [header[4], header[5]]);
                if let (Some(&raw), Some(from)) = (self.pings.get(&id), self.host_side((from, 0))) {
                    self.deliver_datagram(raw, from, len, &header);
                }
            }
            What::Answer | What::Guest(_) => {}
        }
    }

    fn follow_tcp(&mut self, index: usize, event: TcpEvent) {
        let connection = &mut self.connections[index];
        match event {
            TcpEvent::Accepted { initial, timestamp } => {
                connection.recorded = Some((initial, timestamp));
            }
            TcpEvent::Bytes { count, last } => {
                connection.readable += count;
                connection.ended |= last;
            }
            TcpEvent::Reset => connection.reset = true,
        }
        if let Some(raw) = connection.socket {
            self.answer_connect(raw);
            self.answer_receive(raw);
        }
    }

    // Host sockets

    /// Completes a CONNECT whose outcome is known.
    fn answer_connect(&mut self, raw: u32) {
        let Some(socket) = self.sockets[raw as usize].as_mut() else {
            return;
        };
        let Some(connection) = socket.connection.map(|index| self.connections[index]) else {
            return;
        };
        let result = match (connection.recorded, connection.reset) {
            (Some(_), _) => Ok(()),
            (None, true) => Err(Errno::CONNREFUSED),
            (None, false) => return,
        };
        if let Some(token) = socket.connect.take() {
            self.prompt.push(Completion::Connected { token, result });
        }
    }

    /// Completes a receive that has something to say.
    fn answer_receive(&mut self, raw: u32) {
        let Some(socket) = self.sockets[raw as usize].as_mut() else {
            return;
        };
        let (Some((token, max)), Some(index)) = (socket.receive, socket.connection) else {
            return;
        };
        let connection = &mut self.connections[index];
        let mut left = connection.readable.min(u64::from(max)) as usize;
        let end = if left > 0 {
            if self.streams.free() == 0 {
                ReceiveEnd::Starved
            } else {
                ReceiveEnd::Partial
            }
        } else if connection.reset {
            ReceiveEnd::Failed(Errno::CONNRESET)
        } else if connection.ended {
            ReceiveEnd::Eof
        } else {
            return;
        };
        while left > 0 {
            let len = left.min(STREAM_BUFFER_BYTES as usize);
            let Some(data) = self.streams.lend(len, |_| {}) else {
                break;
            };
            left -= len;
            connection.readable -= len as u64;
            self.prompt.push(Completion::Received { token, data });
        }
        socket.receive = None;
        self.prompt.push(Completion::ReceiveEnd { token, end });
    }

    fn deliver_datagram(&mut self, raw: u32, from: SocketAddr, len: usize, head: &[u8]) {
        let socket = self.sockets[raw as usize].as_ref();
        let Some(token) = socket.and_then(|socket| socket.datagrams) else {
            return;
        };
        let filled = self
            .datagrams
            .lend(len, |bytes| bytes[..head.len()].copy_from_slice(head));
        if let Some(payload) = filled {
            self.prompt.push(Completion::Datagram {
                token,
                from: Some(from),
                payload,
                gso_size: 0,
                hop_limit: None,
            });
        }
    }

    /// Learns from a TCP frame of the core's what it has sent, and how far its window is open.
    fn learn(&mut self, (key, segment): &(ConnectionKey, Segment), payload: u32) {
        let Some(&index) = self.keys.get(key) else {
            return;
        };
        let connection = &mut self.connections[index];
        let flags = segment.flags;
        let end = segment.sequence + payload + u32::from(flags.syn()) + u32::from(flags.fin());
        match (&mut connection.core, connection.recorded) {
            (Some(core), _) => {
                core.sent = core.sent.max(end);
                // A SYN's own window is not scaled (RFC 7323 §2.2).
                let scale = if flags.syn() { 0 } else { core.scale };
                let offered = segment.acknowledgment + (u32::from(segment.window) << scale);
                core.edge = match core.edge {
                    Some(edge) if !flags.rst() => Some(edge.max(offered)),
                    _ => None,
                };
            }
            (None, Some((initial, timestamp))) if flags.syn() => {
                let ours = segment.options.timestamps.map_or(0, |t| t.value);
                connection.core = Some(CoreSide {
                    sequence: segment.sequence.0.wrapping_sub(initial),
                    clock: ours.wrapping_sub(timestamp),
                    sent: end,
                    edge: Some(segment.acknowledgment + u32::from(segment.window)),
                    scale: segment.options.window_scale.unwrap_or(0),
                });
            }
            _ => {}
        }
    }
}

/// Moves what a frame says of our sequence numbers and clock. Returns whether it acknowledged more
/// than the core had sent; then it acknowledges what was.
fn move_places(bytes: &mut [u8], places: &Places, core: &CoreSide) -> bool {
    add_at(bytes, places.acknowledgment, core.sequence);
    if places.echo > 0 {
        add_at(bytes, places.echo, core.clock);
    }
    for at in (places.sack.0..places.sack.1).step_by(4) {
        add_at(bytes, at, core.sequence);
    }
    let ahead = bytes[places.acknowledgment..]
        .first_chunk()
        .is_some_and(|&field| core.sent.before(SequenceNumber(u32::from_be_bytes(field))));
    if ahead {
        bytes[places.acknowledgment..][..4].copy_from_slice(&core.sent.0.to_be_bytes());
    }
    ahead
}

fn add_at(bytes: &mut [u8], at: usize, n: u32) {
    if let Some(field) = bytes[at..].first_chunk_mut() {
        *field = u32::from_be_bytes(*field).wrapping_add(n).to_be_bytes();
    }
}

/// A TCP header that the core wrote, behind an offload header, and whose it is. The engine's own
/// packets have neither IP options nor extension headers in front of TCP.
fn segment_of(header: &[u8]) -> Option<(ConnectionKey, Segment)> {
    let ip = header.get(OFFLOAD + ETHERNET..)?;
    let (number, source, target, len) = match ip.first()? >> 4 {
        4 => (
            *ip.get(9)?,
            Address::v4(*ip.get(12..)?.first_chunk()?),
            Address::v4(*ip.get(16..)?.first_chunk()?),
            20,
        ),
        6 => (
            *ip.get(6)?,
            Address::v6(*ip.get(8..)?.first_chunk()?),
            Address::v6(*ip.get(24..)?.first_chunk()?),
            40,
        ),
        _ => return None,
    };
    if number != protocol::TCP {
        return None;
    }
    let (segment, _) = tcp::parse(ip.get(len..)?).ok()?;
    let key = ConnectionKey {
        guest: (target, segment.target_port),
        remote: (source, segment.source_port),
    };
    Some((key, segment))
}

impl Driver for ReplayDriver<'_> {
    fn now(&self) -> u64 {
        self.now
    }

    #[inline(never)]
    fn wait(&mut self, deadline: Option<u64>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.counted.waits += 1;
        self.held.clear();
        if self.prompt.is_empty() {
            self.advance(deadline)?;
        }
        // Quiet completions come with whatever ends the wait.
        if !self.prompt.is_empty() {
            completions.append(&mut self.quiet);
            completions.append(&mut self.prompt);
        }
        Ok(())
    }

    fn link_features(&self, _: LinkId) -> LinkFeatures {
        LinkFeatures {
            offload_header: true,
            tso4: true,
            tso6: true,
            uso: true,
            checksum: true,
            frame_max: 65_535 + ETHERNET + 4,
        }
    }

    fn read_link(&mut self, _: LinkId) {}

    #[inline(never)]
    fn write_frame(&mut self, _: LinkId, header: &[u8], payload: &[Slice]) {
        self.counted.frames_out += 1;
        self.held.extend_from_slice(payload);
        if let Some(of) = segment_of(header) {
            self.counted.resets_out += u64::from(of.1.flags.rst());
            let bytes: usize = payload.iter().map(Slice::len).sum();
            self.learn(&of, bytes as u32);
        }
    }

    fn open(&mut self, kind: SocketKind) -> io::Result<SocketId> {
        Ok(self.add(kind))
    }

    fn adopt(&mut self, _: OwnedFd, _: Adopted) -> SocketId {
        self.add(SocketKind::UnixStream)
    }

    fn connect(&mut self, id: SocketId, to: &Remote, token: Token) {
        let to = match to {
            Remote::Inet(to) => Some(*to),
            Remote::Unix(_) => None,
        };
        let opening = self.opening.iter().position(|&connection| {
            self.host_side(self.recording.connections[connection].remote) == to
        });
        let connection = opening.and_then(|place| self.opening.remove(place));
        if let Some(index) = connection {
            self.connections[index].socket = Some(id.raw());
        }
        if let Some(socket) = self.socket(id) {
            socket.connection = connection;
            socket.connect = Some(token);
            self.answer_connect(id.raw());
        }
    }

    #[inline(never)]
    fn send(&mut self, _: SocketId, payload: &[Slice], mode: SendMode, token: Token) {
        self.held.extend_from_slice(payload);
        let bytes = payload.iter().map(Slice::len).sum::<usize>() as u32;
        let sent = Completion::Sent {
            token,
            result: Ok(bytes),
        };
        match mode {
            SendMode::Quiet => self.quiet.push(sent),
            SendMode::Now | SendMode::WhenWritable => self.prompt.push(sent),
        }
    }

    #[inline(never)]
    fn receive(&mut self, id: SocketId, max: u32, _: bool, token: Token) {
        if let Some(socket) = self.socket(id) {
            socket.receive = Some((token, max));
            self.answer_receive(id.raw());
        }
    }

    #[inline(never)]
    fn send_to(&mut self, id: SocketId, to: &SocketAddr, payload: &[Slice], _: u16, _: Token) {
        self.held.extend_from_slice(payload);
        let Some(kind) = self.socket(id).map(|socket| socket.kind) else {
            return;
        };
        match kind {
            SocketKind::PingV4 | SocketKind::PingV6 => {
                if let Some(&[_, _, _, _, high, low, ..]) = payload.first().map(Slice::bytes) {
                    self.pings
                        .insert((kind == SocketKind::PingV4, [high, low]), id.raw());
                }
            }
            _ => {
                let waiting = self.udp_opening.iter().position(|(_, of)| *of == Some(*to));
                if !self.udp_opening.is_empty()
                    && !self.udp_sockets.contains(&Some(id.raw()))
                    && let Some((port, _)) = waiting.and_then(|at| self.udp_opening.remove(at))
                {
                    self.udp_sockets[port] = Some(id.raw());
                }
            }
        }
    }

    fn send_packet(&mut self, _: SocketId, payload: &[Slice], _: Token) {
        self.held.extend_from_slice(payload);
    }

    fn send_packets(&mut self, _: SocketId, packets: &[&[Slice]], token: Token) {
        let result = Ok(packets.len() as u32);
        self.prompt.push(Completion::Sent { token, result });
    }

    fn receive_from(&mut self, id: SocketId, token: Token) {
        if let Some(socket) = self.socket(id) {
            socket.datagrams = Some(token);
        }
    }

    fn take_error(&mut self, _: SocketId) -> Option<SocketError> {
        None
    }

    fn shutdown_write(&mut self, _: SocketId) {}

    fn close(&mut self, id: SocketId, _: bool) {
        let Some(socket) = self
            .sockets
            .get_mut(id.raw() as usize)
            .and_then(Option::take)
        else {
            return;
        };
        let result = Err(Errno::CANCELED);
        let connect = socket
            .connect
            .map(|token| Completion::Connected { token, result });
        let receive = socket.receive.map(|(token, _)| Completion::ReceiveEnd {
            token,
            end: ReceiveEnd::Canceled,
        });
        let datagrams = socket
            .datagrams
            .map(|token| Completion::DatagramEnd { token });
        self.prompt
            .extend([connect, receive, datagrams].into_iter().flatten());
        if let Some(connection) = socket.connection {
            self.connections[connection].socket = None;
        }
        for port in &mut self.udp_sockets {
            if *port == Some(id.raw()) {
                *port = None;
            }
        }
        self.pings.retain(|_, raw| *raw != id.raw());
        self.free_sockets.push(id.raw());
    }

    fn set_hop_limit(&mut self, _: SocketId, _: u8) -> io::Result<()> {
        Ok(())
    }

    fn set_report_errors(&mut self, _: SocketId) -> io::Result<()> {
        Ok(())
    }

    fn set_keepalive(&mut self, _: SocketId, _: &Keepalive) -> io::Result<()> {
        Ok(())
    }

    fn local_address(&self, _: SocketId) -> io::Result<SocketAddr> {
        Err(Errno::AFNOSUPPORT.into())
    }

    fn levels(&self) -> BufferLevels {
        BufferLevels {
            tap_free: self.frames.free(),
            tap_total: self.frames.count(),
            stream_free: self.streams.free(),
            stream_total: self.streams.count(),
            stream_buffer_bytes: STREAM_BUFFER_BYTES as usize,
            link_free: 0,
            link_total: 0,
            datagram_free: self.datagrams.free(),
            datagram_total: self.datagrams.count(),
        }
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters {
            enters: self.counted.waits,
            ..DriverCounters::default()
        }
    }

    fn write_stats(&self, _: LinkId) -> WriteStats {
        WriteStats {
            frames: self.counted.frames_out,
            ..WriteStats::default()
        }
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

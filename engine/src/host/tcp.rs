//! TCP connections: the state machine towards the guest joined to a host socket.
//!
//! # Theory of operation
//!
//! **Opening.** A SYN is judged, gets a ready socket and a CONNECT; only when the host side has
//! accepted does the guest get its SYN-ACK, so that a refused or unreachable connection looks to
//! the guest as it does to the host.
//!
//! **Upload.** In-order payload stays in the frame's pooled buffer and waits in `upload` as slices.
//! One vectored send per batch hands them to the host socket, without waiting; what the socket
//! did not take stays, and a small waiting send (its own copy of a few bytes, so that it pins no
//! pooled buffer) tells when there is room again. When pooled buffers run low the slices of such
//! *blocked* flows move to memory of their own, within a bound. Bytes are acknowledged once they
//! are in `upload`: from then on they are ours until the host kernel has them. The window that the
//! guest may fill is what `upload` may still take.
//!
//! **Download.** One receive is outstanding per flow, for at most as many bytes as `download` may
//! still take; they stay in their pooled buffers, are sent as super-frames that point into them,
//! and are let go when the guest acknowledged them. A guest that does not read closes its window,
//! `download` fills, and no receive is armed: backpressure reaches the host's peer by itself.
//!
//! **Closing.** Each direction closes by itself: the guest's FIN becomes a shutdown of the host
//! socket after the last byte of `upload`; the host's end of file becomes a FIN after the last byte
//! of `download`. A reset on either side becomes a reset on the other. When both directions are through
//! with the guest, the host may still not have read all: what is left of `upload` goes first.
//!
//! **Release.** A flow's key is free for a successor at once; its place in the table is freed when
//! the driver has completed all that was outstanding on its socket.

use std::time::Duration;

use smallvec::SmallVec;
use towpath_ring::buffer::Slice;
use towpath_ring::driver::{Driver, Errno, ReceiveEnd, Remote, SendMode, SocketId, SocketKind};
use towpath_stack::flow::FlowKey;
use towpath_stack::tcp::segment::Segment;
use towpath_stack::tcp::{self, Connection, Reason, SendQueue, TimerOutcome};
use towpath_stack::wire::ethernet::MacAddress;
use towpath_stack::{Address, Instant};

use crate::core::Core;
use crate::core::egress::{Peer, Unreachable};
use crate::core::timers::Armed;
use crate::core::token::FlowId;
use crate::counters::Counter;
use crate::host::queue::SliceQueue;
use crate::policy::admission::{Refusal, Verdict};

/// Receive window at the start; it doubles each time the guest has filled it once.
const WINDOW_START: u32 = 64 << 10;
/// Segments that a window holds at least. An update is only sent when it opens the window by a whole
/// segment (RFC 1122 §4.2.3.3), which at MTU 65520 is nearly all of 64 KiB.
const SEGMENTS_MIN: u32 = 4;
/// Largest receive window. At 15 Gbit/s and a batch every 300 µs a window holds 560 KB.
const WINDOW_MAX: u32 = 1 << 20;
/// Bytes of the host's that wait for the guest, at the start and at most.
const DOWNLOAD_START: u32 = 128 << 10;
const DOWNLOAD_MAX: u32 = 2 << 20;
/// A receive is armed when at least one part in this many of what may wait has room. Where more is taken at
/// a time, more super-frames follow each other closely, and the guest's reader, which each time sleeps when
/// it has read all, is woken less often; an interrupt for each second frame halved the rate.
const DOWNLOAD_PARTS: u32 = 4;
/// The most that one receive takes while there are flows that exchange small messages, and else. A batch is
/// about as long as what is received, and everybody waits for it: 1 MiB carried a fifth more than 256 KiB,
/// but a round trip beside it took 800 µs instead of 270.
const RECEIVE_MAX_SHARED: u32 = 256 << 10;
const RECEIVE_MAX_BULK: u32 = 1 << 20;
/// For how long a flow counts after a small message.
const SMALL_MESSAGES: Duration = Duration::from_millis(20);
/// Slices of one send (what the driver takes).
const SEND_SLICES: usize = 64;
/// Receives up to this size are appended to the buffer before them when there is room.
const COALESCE_MAX: usize = 4096;
/// The TTL that nearly every guest uses, and the host too.
const DEFAULT_HOPS: u8 = 64;
/// The most hops that tracers try.
const TRACED_HOPS: u8 = 30;
/// Receives up to this size are copied out of their buffer when half of the buffers are taken: many
/// connections with one small message each would pin 16 KiB for each.
const SMALL: usize = 2048;
/// How often all flows may be looked through for buffers that stand still.
const RELIEF_INTERVAL: Duration = Duration::from_millis(1);
/// Bytes of the waiting send of a blocked flow.
const PROBE_BYTES: usize = 1024;

/// The connection parameters of a link: the two IP versions differ in what a packet holds.
pub(crate) struct TcpConfigs {
    v4: tcp::Config,
    v6: tcp::Config,
}

impl TcpConfigs {
    pub(crate) fn new(mtu: u16) -> Self {
        let config = |headers: u16| tcp::Config {
            mss: mtu - headers,
            window_max: WINDOW_MAX,
            window_scale: 7,
            out_of_order_max: WINDOW_MAX,
            // 2 MSL (RFC 9293 §3.4.2) on a link where nothing is delayed for longer than its queue.
            // A minute would keep the places of 600,000 connections at 10,000 a second.
            time_wait: Duration::from_secs(1),
            ..tcp::Config::default()
        };
        Self {
            v4: config(40),
            v6: config(60),
        }
    }

    /// For connections with a guest of this address.
    pub(crate) fn towards(&self, guest: Address) -> &tcp::Config {
        if guest.is_v4() { &self.v4 } else { &self.v6 }
    }
}

/// One connection.
pub(crate) struct TcpFlow {
    connection: Connection,
    guest_mac: MacAddress,
    host: HostSide,
    upload: SliceQueue,
    download: SliceQueue,
    window: u32,
    window_filled: u32,
    download_limit: u32,
    armed: Armed,
    connect_until: Option<Instant>,
    pending: Pending,
    marks: Marks,
}

/// The host socket's state.
enum HostSide {
    /// CONNECT is outstanding; the guest's SYN is kept to quote it in an ICMP error.
    Connecting {
        socket: SocketId,
        syn: Box<[u8]>,
        reports_errors: bool,
    },
    /// Connected.
    Open(SocketId),
    /// Closed, or given back to the driver to close.
    Closed,
}

/// Operations outstanding at the driver.
#[derive(Clone, Copy, Default)]
struct Pending {
    connect: bool,
    send: bool,
    receive: bool,
}

/// Facts about a flow that are yes or no.
#[derive(Clone, Copy, Default)]
struct Marks {
    dirty: bool,
    blocked: bool,
    /// Its place is in the core's list of blocked flows, maybe still.
    listed: bool,
    starved: bool,
    host_finished: bool,
    guest_finished: bool,
    shut_down: bool,
    host_reset: bool,
    released: bool,
}

impl HostSide {
    fn socket(&self) -> Option<SocketId> {
        match self {
            Self::Connecting { socket, .. } | Self::Open(socket) => Some(*socket),
            Self::Closed => None,
        }
    }
}

impl Pending {
    fn none(self) -> bool {
        !(self.connect || self.send || self.receive)
    }
}

/// A TCP frame from the guest, parsed.
pub(crate) struct TcpInput<'a> {
    pub(crate) key: FlowKey,
    pub(crate) hash: u32,
    pub(crate) peer: Peer,
    pub(crate) segment: Segment,
    /// The frame, and where its payload begins in it.
    pub(crate) frame: &'a Slice,
    pub(crate) payload_at: usize,
    pub(crate) payload_len: usize,
    pub(crate) hop_limit: u8,
    /// The start of the IP packet, as much as an ICMP error quotes.
    pub(crate) quote: &'a [u8],
}

impl<D: Driver> Core<D> {
    /// One segment from the guest.
    pub(crate) fn on_tcp(&mut self, input: TcpInput<'_>) {
        let Some(index) = self.tcp.find(&input.key, input.hash) else {
            return self.on_tcp_without_flow(&input);
        };
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if self.held_bytes > self.limits.buffer_bytes && input.payload_len > 0 && flow.marks.blocked
        {
            return self.counters.bump(Counter::DroppedMemory);
        }
        let payload = &input.frame.bytes()[input.payload_at..][..input.payload_len];
        let config = self.tcp_configs.towards(input.key.guest_address);
        let received = flow
            .connection
            .on_segment(self.now, config, &input.segment, payload);
        if received.reopen {
            self.finish(index);
            return self.on_tcp_without_flow(&input);
        }
        if let Some(reason) = received.dropped {
            self.counters
                .bump(if reason == tcp::Dropped::OutOfOrderFull {
                    Counter::DroppedMemory
                } else {
                    Counter::DroppedTcpSegment
                });
        }
        if received.acked > 0 {
            let owned = flow.download.trim(received.acked);
            self.held_bytes = self.held_bytes.saturating_sub(owned);
        }
        if !received.deliver.is_empty() {
            let (start, end) = (
                received.deliver.start as usize,
                received.deliver.end as usize,
            );
            let at = input.payload_at;
            flow.take_upload(input.frame.sub(at + start..at + end));
        } else if input.payload_len > 0 && received.dropped.is_none() {
            self.counters.bump(Counter::TcpOutOfOrder);
        }
        if received.reassembled {
            while let Some(bytes) = flow.connection.take_reassembled() {
                self.held_bytes += bytes.len();
                flow.take_upload(Slice::from_vec(bytes));
            }
        }
        flow.marks.guest_finished |= received.finished;
        flow.guest_mac = input.peer.mac;
        if received.reset {
            self.counters.bump(Counter::TcpResetByGuest);
            return self.release(index, true);
        }
        self.mark_dirty(index);
    }

    fn on_tcp_without_flow(&mut self, input: &TcpInput<'_>) {
        let flags = input.segment.flags;
        if flags.syn() && !flags.ack() && !flags.rst() {
            self.open_tcp(input);
        } else {
            self.reset(input);
        }
    }

    fn open_tcp(&mut self, input: &TcpInput<'_>) {
        let (remote, kind) = match self
            .admission
            .judge(input.key.remote_address, input.key.remote_port)
        {
            Verdict::Host(to) if to.is_ipv4() => (Remote::Inet(to), SocketKind::TcpV4),
            Verdict::Host(to) => (Remote::Inet(to), SocketKind::TcpV6),
            Verdict::Dns => (self.dns_stream.clone(), SocketKind::UnixStream),
            Verdict::Refuse(Refusal::NoSuchGuest) => {
                self.counters.bump(Counter::RefusedPolicy);
                return self.report_unreachable(input.peer, input.quote, Unreachable::Host);
            }
            Verdict::Refuse(_) | Verdict::Dhcp => {
                self.counters.bump(Counter::RefusedPolicy);
                return self.reset(input);
            }
            Verdict::Ignore => return self.counters.bump(Counter::DroppedMulticast),
        };
        if self.tcp.len() >= self.limits.tcp_flows {
            self.counters.bump(Counter::RefusedTcpLimit);
            return self.reset(input);
        }
        if self.tcp_pending >= self.limits.tcp_pending {
            self.counters.bump(Counter::RefusedTcpPending);
            return self.reset(input);
        }
        let Ok(socket) = self.sockets.take(&mut self.driver, kind) else {
            self.counters.bump(Counter::RefusedSockets);
            return self.reset(input);
        };
        let inet = kind != SocketKind::UnixStream;
        if inet && input.hop_limit != DEFAULT_HOPS {
            // Best effort: a host that refuses it still connects.
            let _ = self.driver.set_hop_limit(socket, input.hop_limit);
        }
        // So few hops are a route being traced: then the errors that routers send are wanted, which
        // for an ordinary connection would turn passing trouble into its end (ip(7), IP_RECVERR).
        let traces =
            inet && input.hop_limit <= TRACED_HOPS && self.driver.set_report_errors(socket).is_ok();
        let config = self.tcp_configs.towards(input.key.guest_address);
        let first = self.initial_sequences.initial(&input.key, self.now);
        let connect_until = self.now + self.limits.connect_timeout;
        let flow = TcpFlow {
            connection: Connection::from_syn(self.now, config, &input.segment, first),
            guest_mac: input.peer.mac,
            host: HostSide::Connecting {
                socket,
                syn: input.quote.into(),
                reports_errors: traces,
            },
            upload: SliceQueue::default(),
            download: SliceQueue::default(),
            window: first_window(config.mss),
            window_filled: 0,
            download_limit: DOWNLOAD_START,
            armed: Armed::default(),
            connect_until: Some(connect_until),
            pending: Pending {
                connect: true,
                ..Pending::default()
            },
            marks: Marks::default(),
        };
        let index = self.tcp.insert(input.key, input.hash, flow);
        self.tcp_pending += 1;
        self.counters.bump(Counter::TcpOpened);
        let id = FlowId::tcp(index);
        self.driver.connect(socket, &remote, id.token());
        if let Some(flow) = self.tcp.get_mut(index) {
            self.timers.arm(id, &mut flow.armed, Some(connect_until));
        }
    }

    fn reset(&mut self, input: &TcpInput<'_>) {
        if let Some(reset) = tcp::reset_for(&input.segment, input.payload_len as u32) {
            self.egress
                .tcp(&mut self.driver, &input.peer, &reset, &[], None);
            self.counters.bump(Counter::FramesOut);
        }
    }

    /// The host side answered a CONNECT.
    pub(crate) fn on_connected(&mut self, index: u32, result: Result<(), Errno>) {
        let Some(guest) = self.tcp.key(index).map(|key| key.guest_address) else {
            return;
        };
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        flow.pending.connect = false;
        self.tcp_pending -= 1;
        if flow.marks.released {
            return self.free_when_idle(index);
        }
        flow.connect_until = None;
        match (result, &flow.host) {
            (Ok(()), HostSide::Connecting { socket, .. }) => {
                flow.host = HostSide::Open(*socket);
                flow.connection
                    .accept(self.now, self.tcp_configs.towards(guest));
                self.counters.bump(Counter::TcpConnected);
                self.mark_dirty(index);
            }
            (Err(errno), _) => self.fail_connect(index, errno),
            (Ok(()), _) => self.release(index, true),
        }
    }

    /// Tells the guest why its connection could not be made, as the host learnt it.
    fn fail_connect(&mut self, index: u32, errno: Errno) {
        let Some(peer) = self.tcp_peer(index) else {
            return;
        };
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        let HostSide::Connecting {
            socket,
            syn,
            reports_errors,
        } = std::mem::replace(&mut flow.host, HostSide::Closed)
        else {
            return;
        };
        let report = if reports_errors {
            self.driver.take_error(socket)
        } else {
            None
        };
        let unreachable = match errno {
            Errno::ADDRNOTAVAIL => Some(Unreachable::Network),
            errno => Unreachable::of(errno),
        };
        self.driver.close(socket, false);
        if let Some(report) = report
            && self.relay_socket_error(peer, &syn, &report)
        {
            self.counters.bump(Counter::TcpUnreachable);
        } else if let Some(code) = unreachable {
            self.counters.bump(Counter::TcpUnreachable);
            self.report_unreachable(peer, &syn, code);
        } else {
            self.counters.bump(if errno == Errno::TIMEDOUT {
                Counter::TcpTimedOut
            } else {
                Counter::TcpRefused
            });
            self.send_abort(index);
        }
        self.release(index, false);
    }

    /// A send is complete.
    pub(crate) fn on_sent(&mut self, index: u32, result: Result<u32, Errno>) {
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        flow.pending.send = false;
        if flow.marks.released {
            return self.free_when_idle(index);
        }
        match result {
            Ok(bytes) => {
                let owned = flow.upload.trim(bytes);
                self.held_bytes = self.held_bytes.saturating_sub(owned);
                self.counters.add(Counter::BytesUp, u64::from(bytes));
                let blocked = flow.upload.bytes() > 0 && bytes == 0;
                if blocked && !std::mem::replace(&mut flow.marks.listed, true) {
                    self.blocked.push(index);
                }
                // After a waiting send got through, try the rest at once.
                flow.marks.blocked = blocked;
            }
            Err(_) => flow.marks.host_reset = true,
        }
        self.mark_dirty(index);
    }

    /// Bytes from the host.
    pub(crate) fn on_received(&mut self, index: u32, data: Slice) {
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if flow.marks.released {
            return;
        }
        let bytes = data.len();
        let appended = if bytes <= COALESCE_MAX {
            flow.download.append(data.bytes())
        } else {
            None
        };
        match appended {
            Some(owned) => self.held_bytes += owned,
            None => {
                let levels = self.driver.levels();
                if bytes <= SMALL && levels.stream_free < levels.stream_total / 2 {
                    self.held_bytes += bytes;
                    flow.download.push(Slice::from_vec(data.bytes().to_vec()));
                } else {
                    flow.download.push(data);
                }
            }
        }
        self.mark_dirty(index);
    }

    /// A receive is complete.
    pub(crate) fn on_receive_end(&mut self, index: u32, end: ReceiveEnd) {
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        flow.pending.receive = false;
        if flow.marks.released {
            return self.free_when_idle(index);
        }
        match end {
            ReceiveEnd::Partial => {}
            ReceiveEnd::Eof => flow.marks.host_finished = true,
            ReceiveEnd::Starved => {
                flow.marks.starved = true;
                self.starved.push(index);
            }
            ReceiveEnd::Canceled => {}
            ReceiveEnd::Failed(_) => flow.marks.host_reset = true,
        }
        self.mark_dirty(index);
    }

    /// A flow's deadline came.
    pub(crate) fn on_tcp_timer(&mut self, at: Instant, index: u32) {
        let now = self.now;
        let Some(key) = self.tcp.key(index).copied() else {
            return;
        };
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if !flow.armed.fired(at) || flow.marks.released {
            return;
        }
        if flow.connect_until.is_some_and(|until| until <= now) {
            return self.fail_connect(index, Errno::TIMEDOUT);
        }
        if flow.connection.poll_at().is_some_and(|due| due <= now) {
            let config = self.tcp_configs.towards(key.guest_address);
            if let TimerOutcome::Gone(reason) = flow.connection.on_timer(now, config) {
                if reason == Reason::TimeWaitOver {
                    return self.finish(index);
                }
                self.counters.bump(Counter::TcpGone);
                return self.release(index, true);
            }
        }
        self.mark_dirty(index);
    }

    /// A small message came on a flow.
    pub(crate) fn note_small_message(&mut self) {
        self.small_until = self.now + SMALL_MESSAGES;
    }

    pub(crate) fn mark_dirty(&mut self, index: u32) {
        if let Some(flow) = self.tcp.get_mut(index)
            && !std::mem::replace(&mut flow.marks.dirty, true)
        {
            self.dirty.push(index);
        }
    }

    /// Carries out what became due for the flows that something happened to.
    pub(crate) fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            if let Some(flow) = self.tcp.get_mut(index) {
                flow.marks.dirty = false;
                if !flow.marks.released {
                    self.flush(index);
                }
            }
        }
        self.dirty = dirty;
    }

    fn flush(&mut self, index: u32) {
        let Some(peer) = self.tcp_peer(index) else {
            return;
        };
        // A quiet send holds its slices until the next wake-up, also those of other cores.
        let quiet = !self.has_peers();
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if !flow.is_bulk() {
            self.small_until = self.now + SMALL_MESSAGES;
        }
        let token = FlowId::tcp(index).token();
        let open = match flow.host {
            HostSide::Open(socket) => Some(socket),
            _ => None,
        };

        if let Some(socket) = open {
            flow.flush_upload(&mut self.driver, socket, token, quiet);
        }

        let room = flow.window.saturating_sub(flow.upload.bytes());
        flow.connection.set_receive_room(room);
        let config = self.tcp_configs.towards(peer.guest);
        let mut frames = 0;
        loop {
            let queue = SendQueue {
                bytes: flow.download.bytes(),
                finished: flow.marks.host_finished,
                segment_max: self.egress.tcp_segment_max(peer.guest, config.mss),
            };
            let Some(transmit) = flow.connection.poll_transmit(self.now, config, &queue) else {
                break;
            };
            let payload = flow
                .download
                .range(transmit.payload.start, transmit.payload.end);
            self.egress.tcp(
                &mut self.driver,
                &peer,
                &transmit.segment,
                &payload,
                transmit.gso_size,
            );
            frames += 1;
            if transmit.retransmission {
                self.counters.bump(Counter::TcpRetransmissions);
            }
            self.counters.add(
                Counter::BytesDown,
                u64::from(transmit.payload.end - transmit.payload.start),
            );
        }
        self.counters.add(Counter::FramesOut, frames);

        if flow.marks.host_reset {
            // What could be sent went out above; the reset follows it in sequence.
            self.counters.bump(Counter::TcpResetByHost);
            self.send_abort(index);
            return self.release(index, true);
        }
        if flow.connection.is_closed() {
            return self.finish(index);
        }
        if let Some(socket) = open {
            if flow.marks.host_finished && flow.marks.shut_down && flow.pending.none() {
                // Both directions are through on the host's side: the socket's work is done.
                flow.host = HostSide::Closed;
                self.driver.close(socket, false);
            } else if !flow.marks.host_finished && !flow.pending.receive && !flow.marks.starved {
                let most = if self.now < self.small_until {
                    RECEIVE_MAX_SHARED
                } else {
                    RECEIVE_MAX_BULK
                };
                flow.arm_receive(&mut self.driver, socket, token, most);
            }
        }
        let deadlines = [flow.connection.poll_at(), flow.connect_until];
        let deadline = deadlines.into_iter().flatten().min();
        self.timers
            .arm(FlowId::tcp(index), &mut flow.armed, deadline);
    }

    /// Sends a reset to the guest, in sequence, if its state wants one.
    fn send_abort(&mut self, index: u32) {
        let Some(peer) = self.tcp_peer(index) else {
            return;
        };
        if let Some(flow) = self.tcp.get_mut(index)
            && let Some(segment) = flow.connection.abort()
        {
            self.egress
                .tcp(&mut self.driver, &peer, &segment, &[], None);
            self.counters.bump(Counter::FramesOut);
        }
    }

    /// Ends a flow whose connection ended as it should. What was acknowledged goes to the host first,
    /// however slowly its peer reads: until then the flow stays, under no key, and each send that
    /// completes comes here again.
    fn finish(&mut self, index: u32) {
        self.tcp.unlist(index);
        if self
            .tcp
            .get(index)
            .is_none_or(|flow| flow.owed_bytes() == 0)
        {
            self.release(index, false);
        }
    }

    /// Ends a flow: its key is free at once, its place when the driver has let go of its socket.
    fn release(&mut self, index: u32, reset: bool) {
        self.tcp.unlist(index);
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if std::mem::replace(&mut flow.marks.released, true) {
            return;
        }
        if let Some(socket) = flow.host.socket() {
            self.driver.close(socket, reset);
        }
        flow.host = HostSide::Closed;
        let held = flow.upload.clear() + flow.download.clear();
        self.held_bytes = self.held_bytes.saturating_sub(held);
        self.free_when_idle(index);
    }

    fn free_when_idle(&mut self, index: u32) {
        if self
            .tcp
            .get(index)
            .is_some_and(|flow| flow.marks.released && flow.pending.none())
        {
            self.tcp.free(index);
        }
    }

    fn tcp_peer(&self, index: u32) -> Option<Peer> {
        let key = self.tcp.key(index)?;
        let flow = self.tcp.get(index)?;
        Some(Peer {
            mac: flow.guest_mac,
            guest: key.guest_address,
            remote: key.remote_address,
        })
    }

    /// Moves what a blocked flow holds out of the pool. Returns whether it is still blocked.
    fn relieve_blocked(&mut self, index: u32) -> bool {
        let Some(flow) = self.tcp.get_mut(index) else {
            return false;
        };
        if !flow.marks.blocked || flow.marks.released {
            flow.marks.listed = false;
            return false;
        }
        let (count, bytes) = flow.upload.leave_pool();
        self.held_bytes += bytes;
        self.counters.add(Counter::BufferCopies, count);
        true
    }

    /// Keeps pooled buffers from being pinned by flows that stand still.
    pub(crate) fn relieve_pools(&mut self) {
        let levels = self.driver.levels();
        // Frames that came over a lane hold buffers of another core, whose level is not seen here.
        let low = levels.tap_free < levels.tap_total / 2 || self.has_peers();
        // Places of flows that ended stay listed until a look through the list.
        let long = self.blocked.len() > self.tcp.len() + 64;
        if (low || long) && !self.blocked.is_empty() {
            let mut blocked = std::mem::take(&mut self.blocked);
            blocked.retain(|&index| self.relieve_blocked(index));
            self.blocked = blocked;
        }
        if levels.stream_free < levels.stream_total / 4
            && self.held_bytes < self.limits.buffer_bytes
            && self.now.since(self.relieved_at) >= RELIEF_INTERVAL
        {
            self.relieved_at = self.now;
            for (_, flow) in self.tcp.iter_mut() {
                if flow.marks.released || flow.download.bytes() == 0 {
                    continue;
                }
                let (count, bytes) = flow.download.leave_pool();
                self.held_bytes += bytes;
                self.counters.add(Counter::BufferCopies, count);
                if self.held_bytes >= self.limits.buffer_bytes {
                    break;
                }
            }
        }
        if !self.starved.is_empty() && levels.stream_free > levels.stream_total / 8 {
            for index in std::mem::take(&mut self.starved) {
                if let Some(flow) = self.tcp.get_mut(index) {
                    flow.marks.starved = false;
                    self.mark_dirty(index);
                }
            }
        }
    }
}

impl TcpFlow {
    /// Bytes that the guest was told we have, and that the host kernel has not taken yet.
    pub(crate) fn owed_bytes(&self) -> u64 {
        if self.marks.released {
            0
        } else {
            u64::from(self.upload.bytes())
        }
    }

    /// Whether it has moved so much at a time, in either direction, that its bounds have grown.
    fn is_bulk(&self) -> bool {
        self.download_limit > DOWNLOAD_START || self.window >= WINDOW_MAX / 2
    }

    fn take_upload(&mut self, slice: Slice) {
        let bytes = slice.len() as u32;
        self.upload.push(slice);
        // The window doubles for a guest that fills it, as long as the host side keeps up.
        self.window_filled += bytes;
        if self.window_filled >= self.window && self.window < WINDOW_MAX && !self.marks.blocked {
            self.window *= 2;
            self.window_filled = 0;
        }
    }

    fn flush_upload<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: SocketId,
        token: u64,
        quiet: bool,
    ) {
        if self.pending.send {
            return;
        }
        if self.upload.bytes() > 0 {
            self.pending.send = true;
            if self.marks.blocked {
                let first = &self.upload.slices()[0];
                let probe = first.bytes()[..first.len().min(PROBE_BYTES)].to_vec();
                driver.send(
                    socket,
                    &[Slice::from_vec(probe)],
                    SendMode::WhenWritable,
                    token,
                );
            } else {
                // With more to send, an end to pass on, or a window to open, its completion is wanted
                // at once; else the next frame or answer is soon enough, and saves a system call.
                let slices = self.upload.slices();
                let wanted = !quiet
                    || slices.len() > SEND_SLICES
                    || self.marks.guest_finished
                    || self.upload.bytes() > self.window / 2;
                let mode = if wanted {
                    SendMode::Now
                } else {
                    SendMode::Quiet
                };
                let (head, tail) = slices.as_slices();
                if tail.is_empty() || head.len() >= SEND_SLICES {
                    driver.send(socket, &head[..head.len().min(SEND_SLICES)], mode, token);
                } else {
                    let all: SmallVec<[Slice; SEND_SLICES]> =
                        slices.iter().take(SEND_SLICES).cloned().collect();
                    driver.send(socket, &all, mode, token);
                }
            }
        } else if self.marks.guest_finished && !std::mem::replace(&mut self.marks.shut_down, true) {
            driver.shutdown_write(socket);
        }
    }

    fn arm_receive<D: Driver>(&mut self, driver: &mut D, socket: SocketId, token: u64, most: u32) {
        // No flow takes more than an eighth of what is free, so that one slow guest connection
        // leaves buffers to all others.
        let free = driver.levels().stream_free;
        let fair = (free as u32 / 8).max(1) * 16_384;
        let limit = self.download_limit.min(fair.max(16_384));
        let room = limit.saturating_sub(self.download.bytes());
        if room < limit / DOWNLOAD_PARTS && self.download.bytes() > 0 {
            return;
        }
        self.pending.receive = true;
        let wait_first = self.download.bytes() == 0;
        driver.receive(socket, room.min(most), wait_first, token);
        if self.download_limit < DOWNLOAD_MAX && self.download.bytes() >= self.download_limit / 2 {
            self.download_limit *= 2;
        }
    }
}

/// The receive window that a connection begins with, in bytes.
fn first_window(mss: u16) -> u32 {
    WINDOW_START.max(SEGMENTS_MIN * u32::from(mss))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_was_nearly_filled_opens_by_whole_segments() {
        for mtu in [1280, 1500, 9000, 65_520] {
            let configs = TcpConfigs::new(mtu);
            for mss in [configs.v4.mss, configs.v6.mss] {
                let window = first_window(mss);
                // The guest left less than a segment of it unused; taken, it opens by the rest.
                assert!(window - u32::from(mss) >= u32::from(mss), "MTU {mtu}");
                assert!((WINDOW_START..=WINDOW_MAX).contains(&window), "MTU {mtu}");
            }
        }
    }
}

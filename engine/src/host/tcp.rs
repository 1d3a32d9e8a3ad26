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
//! of `download`. A reset on either side becomes a reset on the other.
//!
//! **Release.** A flow's key is free for a successor at once; its place in the table is freed when
//! the driver has completed all that was outstanding on its socket.

mod ending;
mod memory;
mod opening;

use std::time::Duration;

use smallvec::SmallVec;
use towpath_ring::buffer::Slice;
use towpath_ring::driver::{Driver, Errno, ReceiveEnd, SEND_SLICES_MAX, SendMode, SocketId};
use towpath_stack::flow::FlowKey;
use towpath_stack::tcp::segment::Segment;
use towpath_stack::tcp::seq::SequenceNumber;
use towpath_stack::tcp::{self, Connection, SendQueue};
use towpath_stack::wire::ethernet::MacAddress;
use towpath_stack::{Address, Instant};

use crate::core::Core;
use crate::core::egress::{Egress, Peer};
use crate::core::timers::Armed;
use crate::core::token::FlowId;
use crate::counters::Counter;
use crate::host::half_open::Ticket;
use crate::host::queue::SliceQueue;
use crate::link::PortId;
use ending::{KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, LINGER_PATIENCE};

/// Bytes of the IP and TCP headers of a segment without options, by IP version.
const HEADERS_V4: u16 = 40;
const HEADERS_V6: u16 = 60;
/// Largest receive window. At 15 Gbit/s and a batch every 300 µs a window holds 560 KB.
const WINDOW_MAX: u32 = 1 << 20;
/// Bytes of the host's that wait for the guest, at the start and at most.
const DOWNLOAD_START: u32 = 128 << 10;
const DOWNLOAD_MAX: u32 = 2 << 20;
/// The most that one receive takes while there are flows that exchange small messages, and else. A batch is
/// about as long as what is received, and everybody waits for it: 1 MiB carried a fifth more than 256 KiB,
/// but a round trip beside it took 800 µs instead of 270.
const RECEIVE_MAX_SHARED: u32 = 256 << 10;
const RECEIVE_MAX_BULK: u32 = 1 << 20;
/// For how long a flow counts after a small message.
const SMALL_MESSAGES: Duration = Duration::from_millis(20);
/// Slices of one send: what the driver takes.
const SEND_SLICES: usize = SEND_SLICES_MAX;
/// Receives up to this size are appended to the buffer before them when there is room.
const COALESCE_MAX: usize = 4096;
/// Receives up to this size are copied out of their buffer when half of the buffers are taken: many
/// connections with one small message each would pin 16 KiB for each.
const SMALL: usize = 2048;
/// Bytes of the waiting send of a blocked flow.
const PROBE_BYTES: usize = 1024;

/// The connection parameters of a link: the two IP versions differ in what a packet holds.
pub(crate) struct TcpConfigs {
    v4: tcp::Config,
    v6: tcp::Config,
    /// The same for when memory is used up.
    tight4: tcp::Config,
    tight6: tcp::Config,
}

impl TcpConfigs {
    /// For a link of this MTU; `idle` is how long a connection may be silent before the guest is asked
    /// whether it is still there.
    pub(crate) fn new(mtu: u16, idle: Duration) -> Self {
        let config = |headers: u16| tcp::Config {
            mss: mtu - headers,
            window_max: WINDOW_MAX,
            window_scale: 7,
            out_of_order_max: WINDOW_MAX,
            // 2 MSL (RFC 9293 §3.4.2) on a link where nothing is delayed for longer than its queue,
            // and longer than the guest's first timeout, 1 s (RFC 6298 §2.1): if our last ACK is lost,
            // its FIN comes again, and a reset would answer it if nobody waited for it.
            // A minute would keep the places of 600,000 connections at 10,000 a second.
            time_wait: Duration::from_millis(1500),
            keepalive_idle: idle,
            keepalive_interval: idle.min(KEEPALIVE_INTERVAL),
            keepalive_probes: KEEPALIVE_PROBES,
            // A half-open connection is not cut off before a quiet one is looked after, and RFC 5382
            // REQ-5 gives it four minutes at least.
            fin_wait_2: idle.max(Duration::from_secs(240)),
            ..tcp::Config::default()
        };
        let tight = |config: &tcp::Config| tcp::Config {
            out_of_order_max: 0,
            ..config.clone()
        };
        let (v4, v6) = (config(HEADERS_V4), config(HEADERS_V6));
        Self {
            tight4: tight(&v4),
            tight6: tight(&v6),
            v4,
            v6,
        }
    }

    /// For connections with a guest of this address.
    pub(crate) fn towards(&self, guest: Address) -> &tcp::Config {
        if guest.is_v4() { &self.v4 } else { &self.v6 }
    }

    /// The same for a segment that comes when there is memory for what is out of order, or not.
    fn when(&self, guest: Address, used_up: bool) -> &tcp::Config {
        match (used_up, guest.is_v4()) {
            (false, _) => self.towards(guest),
            (true, true) => &self.tight4,
            (true, false) => &self.tight6,
        }
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
    /// What is due then depends on the host side, never two things at once: the connect is given up;
    /// an open socket is watched from now on; one that is broken or lingers is given up.
    deadline: Option<Instant>,
    half_open: Option<Ticket>,
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
    /// The guest is to get a FIN after the bytes of `download`.
    host_finished: bool,
    /// Nothing more is to be received from the host socket.
    host_ended: bool,
    guest_finished: bool,
    shut_down: bool,
    host_broken: bool,
    /// The host socket tells by itself when its peer is gone.
    watched: bool,
    lingers: bool,
    /// Its guest is gone and never said that this was all: the host's peer is to hear of it.
    abandoned: bool,
    /// It waits for room on the guest's link.
    parked: bool,
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
        let over = self.held_bytes > self.limits.buffer_bytes;
        if over && input.payload_len > 0 && flow.marks.blocked {
            return self.counters.bump(Counter::DroppedMemory);
        }
        let payload = &input.frame.bytes()[input.payload_at..][..input.payload_len];
        let config = self.tcp_configs.when(input.key.guest_address, over);
        let kept_before = flow.connection.out_of_order_bytes() as usize;
        let received = flow
            .connection
            .on_segment(self.now, config, &input.segment, payload);
        if let Some(ticket) = flow.half_open.take_if(|_| received.established)
            && let Some(port) = self.egress.ports.get_mut(input.peer.port)
        {
            port.half_open.remove(ticket);
        }
        if received.reopen {
            let used = flow.connection.sequence_end();
            self.finish(index);
            return self.open_tcp(&input, Some(used));
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
            self.held_bytes += flow.take_upload(input.frame.sub(at + start..at + end));
        } else if input.payload_len > 0 && received.dropped.is_none() {
            self.counters.bump(Counter::TcpOutOfOrder);
        }
        if received.reassembled {
            while let Some(bytes) = flow.connection.take_reassembled() {
                self.held_bytes += flow.take_upload(Slice::from_vec(bytes));
            }
        }
        self.windows += flow.grow_window(self.limits.buffer_bytes, self.windows);
        let kept = flow.connection.out_of_order_bytes() as usize;
        self.held_bytes = (self.held_bytes + kept).saturating_sub(kept_before);
        flow.marks.guest_finished |= received.finished;
        if received.dropped.is_none() {
            // Only who is in the connection says where its frames go.
            flow.guest_mac = input.peer.mac;
        }
        if received.reset {
            self.counters.bump(Counter::TcpResetByGuest);
            return self.release(index, true);
        }
        self.mark_dirty(index);
    }

    fn on_tcp_without_flow(&mut self, input: &TcpInput<'_>) {
        let flags = input.segment.flags;
        if flags.syn() && !flags.ack() && !flags.rst() {
            self.open_tcp(input, None);
        } else {
            self.reset(input);
        }
    }

    fn reset(&mut self, input: &TcpInput<'_>) {
        if let Some(reset) = tcp::reset_for(&input.segment, input.payload_len as u32) {
            self.egress
                .tcp(&mut self.driver, &input.peer, &reset, &[], None);
            self.counters.bump(Counter::FramesOut);
        }
    }

    /// A send is complete.
    pub(crate) fn on_sent(&mut self, index: u32, result: Result<u32, Errno>) {
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        flow.pending.send = false;
        if let Ok(bytes) = result {
            self.counters.add(Counter::BytesUp, u64::from(bytes));
        }
        if flow.marks.released {
            return self.free_when_idle(index);
        }
        match result {
            Ok(bytes) => {
                let owned = flow.upload.trim(bytes);
                self.held_bytes = self.held_bytes.saturating_sub(owned);
                let blocked = flow.upload.bytes() > 0 && bytes == 0;
                if blocked && !std::mem::replace(&mut flow.marks.listed, true) {
                    self.blocked.push(index);
                }
                // After a waiting send got through, try the rest at once.
                flow.marks.blocked = blocked;
                if flow.marks.lingers && bytes > 0 {
                    flow.deadline = Some(self.now + LINGER_PATIENCE);
                }
            }
            Err(_) => self.break_host_side(index),
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
            ReceiveEnd::Eof => {
                // Of a socket whose failure a send has told this is no regular end.
                flow.marks.host_finished = !flow.marks.host_broken;
                flow.marks.host_ended = true;
            }
            ReceiveEnd::Starved => {
                flow.marks.starved = true;
                self.starved.push(index);
            }
            ReceiveEnd::Canceled => {}
            ReceiveEnd::Failed(_) => {
                flow.marks.host_ended = true;
                self.break_host_side(index);
            }
        }
        self.mark_dirty(index);
    }

    /// A segment with this number was too big for the path, which takes `mtu` bytes with IP header.
    pub(crate) fn narrow_tcp(&mut self, index: u32, sequence: SequenceNumber, mtu: u16) {
        let Some(v4) = self.tcp.key(index).map(|key| key.guest_address.is_v4()) else {
            return;
        };
        let mss = mtu.saturating_sub(if v4 { HEADERS_V4 } else { HEADERS_V6 });
        if let Some(flow) = self.tcp.get_mut(index)
            && flow.connection.on_packet_too_big(sequence, mss)
        {
            self.counters.bump(Counter::PathsNarrowed);
            self.mark_dirty(index);
        }
    }

    /// A small message came on a flow.
    pub(crate) fn note_small_message(&mut self) {
        self.small_until = self.now + SMALL_MESSAGES;
    }

    /// There is room again on the link of a flow's guest.
    pub(crate) fn unpark(&mut self, index: u32) {
        if let Some(flow) = self.tcp.get_mut(index) {
            flow.marks.parked = false;
            self.mark_dirty(index);
        }
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
        let scarce = self.is_memory_scarce();
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

        if flow.marks.lingers {
            return self.linger(index);
        }
        if let Some(socket) = open
            && !flow.marks.host_broken
        {
            flow.flush_upload(&mut self.driver, socket, token, quiet);
        }

        let room = flow.window.saturating_sub(flow.upload.bytes());
        flow.connection.set_receive_room(room);
        let config = self.tcp_configs.towards(peer.guest);
        let mut frames = 0;
        loop {
            if !self.egress.has_room(peer.port) {
                flow.park(index, peer.port, &mut self.egress);
                break;
            }
            let queue = SendQueue {
                bytes: flow.download.bytes(),
                finished: flow.marks.host_finished,
                segment_max: self
                    .egress
                    .tcp_segment_max(&peer, flow.connection.effective_mss()),
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
            } else {
                let bytes = transmit.payload.end - transmit.payload.start;
                self.counters.add(Counter::BytesDown, u64::from(bytes));
            }
        }
        self.counters.add(Counter::FramesOut, frames);

        if flow.marks.host_broken && flow.is_reset_due() {
            return self.reset_by_host(index);
        }
        if flow.connection.is_closed() {
            return self.finish(index);
        }
        if let Some(socket) = open {
            if flow.marks.host_ended && flow.marks.shut_down && flow.pending.none() {
                // Both directions are through on the host's side: the socket's work is done.
                flow.host = HostSide::Closed;
                self.driver.close(socket, false);
            } else if !flow.marks.host_ended && !flow.pending.receive && !flow.marks.starved {
                let most = if self.now < self.small_until {
                    RECEIVE_MAX_SHARED
                } else {
                    RECEIVE_MAX_BULK
                };
                flow.arm_receive(&mut self.driver, socket, token, most, scarce);
            }
        }
        let deadlines = [flow.connection.poll_at(), flow.deadline];
        let deadline = deadlines.into_iter().flatten().min();
        self.timers
            .arm(FlowId::tcp(index), &mut flow.armed, deadline);
    }

    fn tcp_peer(&self, index: u32) -> Option<Peer> {
        let key = self.tcp.key(index)?;
        let flow = self.tcp.get(index)?;
        Some(Peer {
            port: PortId(key.guest),
            mac: flow.guest_mac,
            guest: key.guest_address,
            remote: key.remote_address,
        })
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

    /// Waits for room on the guest's link.
    fn park(&mut self, index: u32, port: PortId, egress: &mut Egress) {
        if let Some(port) = egress.ports.get_mut(port)
            && !std::mem::replace(&mut self.marks.parked, true)
        {
            port.parked.push(index);
            // A flow that ended while it waited is still listed, and so may its successor in its place be.
            let listed = port.parked.len();
            if listed >= 1024 && listed.is_power_of_two() {
                port.parked.sort_unstable();
                port.parked.dedup();
            }
        }
    }

    /// Whether it has moved so much at a time, in either direction, that its bounds have grown.
    fn is_bulk(&self) -> bool {
        self.download_limit > DOWNLOAD_START || self.window >= WINDOW_MAX / 2
    }

    /// Queues bytes of the guest's; answers how many of them are in memory of their own.
    fn take_upload(&mut self, slice: Slice) -> usize {
        if self.marks.host_broken {
            // Nobody is there to take them; the guest is about to hear of it.
            return 0;
        }
        self.window_filled = self.window_filled.saturating_add(slice.len() as u32);
        let owned = if slice.is_pooled() { 0 } else { slice.len() };
        self.upload.push(slice);
        owned
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
}

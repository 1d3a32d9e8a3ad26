//! UDP: one host socket per guest address and port, whatever the targets.
//!
//! The mapping and the filtering are endpoint-independent (RFC 4787 REQ-1, REQ-8): all targets see
//! one source port, and anyone who learnt it may answer. Consecutive datagrams of one size in a batch
//! go together, in both directions: to one target as one segmented send (`UDP_SEGMENT`), from one
//! source as one super-frame when the link takes it, as does what the host kernel had coalesced
//! (`UDP_GRO`).

use std::net::SocketAddr;
use std::time::Duration;

use towpath_ring::buffer::Slice;
use towpath_ring::driver::{Driver, Errno, ErrorOrigin, SocketError, SocketId, SocketKind};
use towpath_stack::Instant;
use towpath_stack::flow::FlowKey;
use towpath_stack::wire::ethernet::MacAddress;

use crate::core::Core;
use crate::core::egress::{Peer, QUOTE_MAX, Unreachable};
use crate::core::timers::Armed;
use crate::core::token::{FlowId, FlowKind};
use crate::counters::Counter;
use crate::host::queue::FRAME_SLICES;
use crate::link::PortId;
use crate::policy::admission::{Refusal, Verdict};
use crate::service::message::{Asker, Request, dhcp_target_port};

/// Most datagrams in one segmented send (`UDP_MAX_SEGMENTS` of older kernels).
const RUN_MAX: usize = 64;
/// Most bytes in one segmented send: what fits an IPv4 packet, headers included.
const RUN_BYTES_MAX: usize = 65_000;

/// After this much time it is tried whether the path takes more again (RFC 1191 §6.3, RFC 8201 §5.3).
const PATH_MTU_LIFE: Duration = Duration::from_secs(600);

/// One mapping.
pub(crate) struct UdpMapping {
    socket: SocketId,
    guest_mac: MacAddress,
    last_used: Instant,
    armed: Armed,
    hop_limit: u8,
    /// The host's path takes segmented sends (until one fails).
    segments: bool,
    closing: bool,
    /// What the path to the guest takes, if that is less than the link, and until when that is believed.
    path_mtu: Option<(u16, Instant)>,
}

impl UdpMapping {
    /// Marks it as ending; its socket, unless it ended before.
    pub(crate) fn close(&mut self) -> Option<SocketId> {
        (!std::mem::replace(&mut self.closing, true)).then_some(self.socket)
    }

    /// Bytes of the largest packet that gets to the guest whole.
    fn mtu(&self, now: Instant, link: u16) -> u16 {
        match self.path_mtu {
            Some((mtu, until)) if now < until => mtu.min(link),
            _ => link,
        }
    }
}

/// A UDP frame from the guest, parsed.
pub(crate) struct UdpInput {
    /// Keyed by the guest's side only; the remote half is empty.
    pub(crate) key: FlowKey,
    pub(crate) hash: u32,
    pub(crate) peer: Peer,
    pub(crate) target_port: u16,
    pub(crate) payload: Slice,
    /// Datagram size when the payload is several (USO), else 0.
    pub(crate) gso_size: u16,
    pub(crate) hop_limit: u8,
    /// The start of the IP packet, as much as an ICMP error quotes.
    pub(crate) quote: Slice,
}

/// Datagrams that will leave together, because what `T` says of them is the same.
pub(crate) struct UdpRun<T> {
    with: Option<T>,
    size: usize,
    bytes: usize,
    slices: Vec<Slice>,
}

/// From the guest: the mapping and the target.
type Upward = (u32, SocketAddr);
/// To the guest: both ends, the source port and the guest's port, and the MTU of the path.
type Downward = (Peer, u16, u16, u16);

/// The runs of both directions.
#[derive(Default)]
pub(crate) struct UdpRuns {
    up: UdpRun<Upward>,
    down: UdpRun<Downward>,
}

impl<T> Default for UdpRun<T> {
    fn default() -> Self {
        Self {
            with: None,
            size: 0,
            bytes: 0,
            slices: Vec::new(),
        }
    }
}

impl<T: PartialEq> UdpRun<T> {
    /// Whether a datagram of `len` bytes may join: all but the last have one size.
    fn takes(&self, with: &T, len: usize, datagrams_max: usize) -> bool {
        self.with.as_ref() == Some(with)
            && len > 0
            && len <= self.size
            && self.bytes == self.size * self.slices.len()
            && self.slices.len() < datagrams_max
            && self.bytes + len <= RUN_BYTES_MAX
    }

    fn start(&mut self, with: T, slice: Slice) {
        self.with = Some(with);
        self.size = slice.len();
        self.push(slice);
    }

    fn push(&mut self, slice: Slice) {
        self.bytes += slice.len();
        self.slices.push(slice);
    }

    /// The size of each datagram if there are several, else 0.
    fn gso_size(&self) -> u16 {
        if self.slices.len() > 1 {
            self.size as u16
        } else {
            0
        }
    }

    fn clear(&mut self) {
        self.slices.clear();
        self.bytes = 0;
    }
}

impl<D: Driver> Core<D> {
    /// One datagram (or several, with USO) from the guest.
    pub(crate) fn on_udp(&mut self, input: UdpInput) {
        let to = match self.admission.judge(input.peer.remote, input.target_port) {
            Verdict::Host(to) => to,
            Verdict::Dns => return self.dns_query(&input),
            Verdict::Dhcp => return self.dhcp_message(&input),
            Verdict::Refuse(refusal) => {
                self.counters.bump(Counter::RefusedPolicy);
                let code = match refusal {
                    Refusal::NoSuchGuest => Unreachable::Host,
                    Refusal::Closed | Refusal::Forbidden => Unreachable::Port,
                };
                return self.report_unreachable(input.peer, input.quote.bytes(), code);
            }
            Verdict::Ignore => return self.counters.bump(Counter::DroppedMulticast),
        };
        let Some(index) = self.udp_mapping(&input) else {
            return;
        };
        let Some(mapping) = self.udp.get_mut(index) else {
            return;
        };
        mapping.last_used = self.now;
        mapping.guest_mac = input.peer.mac;
        if mapping.hop_limit != input.hop_limit {
            mapping.hop_limit = input.hop_limit;
            let socket = mapping.socket;
            self.flush_udp_up();
            // Best effort: a host that refuses it still sends.
            let _ = self.driver.set_hop_limit(socket, input.hop_limit);
        }
        self.counters.bump(Counter::DatagramsUp);
        self.counters
            .add(Counter::BytesUp, input.payload.len() as u64);
        let Some(mapping) = self.udp.get(index) else {
            return;
        };
        let (socket, segments) = (mapping.socket, mapping.segments);
        let token = FlowId::udp(index).token();
        if input.gso_size > 0 {
            self.flush_udp_up();
            if segments {
                self.driver
                    .send_to(socket, &to, &[input.payload], input.gso_size, token);
            } else {
                let mut rest = input.payload;
                while !rest.is_empty() {
                    let one = rest.split_to(rest.len().min(usize::from(input.gso_size)));
                    self.driver.send_to(socket, &to, &[one], 0, token);
                }
            }
        } else {
            let with = (index, to);
            let len = input.payload.len();
            if segments && self.udp_runs.up.takes(&with, len, RUN_MAX) {
                self.udp_runs.up.push(input.payload);
            } else {
                self.flush_udp_up();
                self.udp_runs.up.start(with, input.payload);
            }
        }
    }

    /// Sends what the batch gathered.
    pub(crate) fn flush_udp_runs(&mut self) {
        self.flush_udp_up();
        self.flush_udp_down();
    }

    fn flush_udp_up(&mut self) {
        let run = &mut self.udp_runs.up;
        let Some((index, to)) = run.with.take() else {
            return;
        };
        if let Some(mapping) = self.udp.get(index) {
            let token = FlowId::udp(index).token();
            self.driver
                .send_to(mapping.socket, &to, &run.slices, run.gso_size(), token);
        }
        run.clear();
    }

    fn flush_udp_down(&mut self) {
        let run = &mut self.udp_runs.down;
        let Some((peer, source_port, target_port, mtu)) = run.with.take() else {
            return;
        };
        let (ports, gso_size) = ((source_port, target_port), run.gso_size());
        let frames = self
            .egress
            .udp(&mut self.driver, &peer, ports, &run.slices, gso_size, mtu);
        run.clear();
        self.counters.add(Counter::FramesOut, frames);
    }

    fn udp_mapping(&mut self, input: &UdpInput) -> Option<u32> {
        if let Some(index) = self.udp.find(&input.key, input.hash) {
            return Some(index);
        }
        let quota = self.egress.ports.get(input.peer.port)?.quota;
        if self.udp.of_guest(input.key.guest) >= quota.udp {
            self.counters.bump(Counter::RefusedUdpLimit);
            return None;
        }
        let kind = match input.key.guest_address.is_v4() {
            true => SocketKind::UdpV4,
            false => SocketKind::UdpV6,
        };
        let Ok(socket) = self.driver.open(kind) else {
            self.counters.bump(Counter::RefusedSockets);
            return None;
        };
        let mapping = UdpMapping {
            socket,
            guest_mac: input.peer.mac,
            last_used: self.now,
            armed: Armed::default(),
            hop_limit: 64,
            segments: true,
            closing: false,
            path_mtu: None,
        };
        let index = self.udp.insert(input.key, input.hash, mapping);
        self.counters.bump(Counter::UdpOpened);
        self.driver.receive_from(socket, FlowId::udp(index).token());
        self.arm_udp(index);
        Some(index)
    }

    fn arm_udp(&mut self, index: u32) {
        if let Some(mapping) = self.udp.get_mut(index) {
            let deadline = mapping.last_used + self.limits.udp_timeout;
            self.timers
                .arm(FlowId::udp(index), &mut mapping.armed, Some(deadline));
        }
    }

    pub(crate) fn on_udp_timer(&mut self, at: Instant, index: u32) {
        let Some(mapping) = self.udp.get_mut(index) else {
            return;
        };
        if !mapping.armed.fired(at) || mapping.closing {
            return;
        }
        if self.now.since(mapping.last_used) < self.limits.udp_timeout {
            return self.arm_udp(index);
        }
        mapping.closing = true;
        // The place is freed when the driver says that the receive has ended.
        self.driver.close(mapping.socket, false);
        self.udp.unlist(index);
    }

    /// A datagram (or several, with GRO) from the host's side.
    pub(crate) fn on_host_datagram(
        &mut self,
        index: u32,
        from: SocketAddr,
        payload: Slice,
        gso_size: u16,
    ) {
        let Some(key) = self.udp.key(index).copied() else {
            return;
        };
        let Some(mapping) = self.udp.get_mut(index) else {
            return;
        };
        if mapping.closing {
            return;
        }
        mapping.last_used = self.now;
        let peer = Peer {
            port: PortId(key.guest),
            mac: mapping.guest_mac,
            guest: key.guest_address,
            remote: self.admission.as_seen_by_guest(from.ip()),
        };
        if peer.remote.is_v4() != peer.guest.is_v4() {
            return;
        }
        self.counters.bump(Counter::DatagramsDown);
        self.counters.add(Counter::BytesDown, payload.len() as u64);
        let mtu = mapping.mtu(self.now, self.egress.mtu());
        let with = (peer, from.port(), key.guest_port, mtu);
        let together = gso_size == 0 && self.egress.takes_run(&peer, payload.len(), mtu);
        let run = &mut self.udp_runs.down;
        if together && run.takes(&with, payload.len(), FRAME_SLICES) {
            return run.push(payload);
        }
        self.flush_udp_down();
        if together {
            return self.udp_runs.down.start(with, payload);
        }
        let ports = (from.port(), key.guest_port);
        let frames = self
            .egress
            .udp(&mut self.driver, &peer, ports, &[payload], gso_size, mtu);
        self.counters.add(Counter::FramesOut, frames);
    }

    /// A datagram to the guest was too big for the path, which takes packets of `mtu` bytes.
    pub(crate) fn narrow_udp(&mut self, index: u32, mtu: u16) {
        let (now, link) = (self.now, self.egress.mtu());
        if let Some(mapping) = self.udp.get_mut(index)
            && mtu < mapping.mtu(now, link)
        {
            mapping.path_mtu = Some((mtu, now + PATH_MTU_LIFE));
            self.counters.bump(Counter::PathsNarrowed);
        }
    }

    /// The host's kernel has errors for a datagram socket: tell the guest of those that routers
    /// and hosts sent (RFC 4787 REQ-14). Returns how many there were.
    pub(crate) fn on_datagram_error(&mut self, id: FlowId) -> usize {
        let Some((socket, ..)) = self.datagram_flow(id) else {
            return 0;
        };
        // Bounded: one wake-up reads what is there, new errors cause a new one.
        for count in 0..64 {
            let Some(report) = self.driver.take_error(socket) else {
                return count;
            };
            self.tell_of_datagram(id, &report);
        }
        64
    }

    fn tell_of_datagram(&mut self, id: FlowId, report: &SocketError) {
        let Some((_, mac, key)) = self.datagram_flow(id) else {
            return;
        };
        let target = self.admission.as_seen_by_guest(report.target.ip());
        let peer = Peer {
            port: PortId(key.guest),
            mac,
            guest: key.guest_address,
            remote: target,
        };
        let quote = match id.kind {
            FlowKind::Echo => self
                .egress
                .echo_quote(&peer, key.guest_port, &report.payload),
            _ => {
                let port = report.target.port();
                self.egress
                    .udp_quote(&peer, key.guest_port, port, &report.payload)
            }
        };
        self.relay_socket_error(peer, &quote, report);
    }

    fn datagram_flow(&self, id: FlowId) -> Option<(SocketId, MacAddress, FlowKey)> {
        match id.kind {
            FlowKind::Udp => {
                let mapping = self.udp.get(id.index).filter(|mapping| !mapping.closing)?;
                Some((mapping.socket, mapping.guest_mac, *self.udp.key(id.index)?))
            }
            FlowKind::Echo => {
                let mapping = self.echo.get(id.index).filter(|mapping| !mapping.closing)?;
                Some((mapping.socket, mapping.guest_mac, *self.echo.key(id.index)?))
            }
            FlowKind::Tcp | FlowKind::Service | FlowKind::Port => None,
        }
    }

    /// A datagram could not be sent.
    pub(crate) fn on_send_failed(
        &mut self,
        id: FlowId,
        errno: Errno,
        to: Option<SocketAddr>,
        payload: &Slice,
    ) {
        if id.kind == FlowKind::Service {
            return self.counters.bump(Counter::DroppedService);
        }
        self.counters.bump(Counter::DroppedSend);
        let unsegmented = matches!(errno, Errno::INVAL | Errno::MSGSIZE | Errno::IO);
        if id.kind == FlowKind::Udp
            && unsegmented
            && let Some(mapping) = self.udp.get_mut(id.index)
        {
            // The segments do not fit the path, or its device can't checksum them.
            mapping.segments = false;
        }
        // What the error queue has says more than the error number of the send.
        if self.on_datagram_error(id) == 0
            && let Some(target) = to
        {
            let payload = payload.bytes()[..payload.len().min(QUOTE_MAX)].to_vec();
            let report = SocketError {
                errno,
                origin: ErrorOrigin::Local,
                info: 0,
                target,
                payload,
            };
            self.tell_of_datagram(id, &report);
        }
    }

    /// Whether a guest may ask one more thing of the services, which all guests share.
    fn may_ask(&mut self, input: &UdpInput) -> bool {
        let port = self.egress.ports.get_mut(input.peer.port);
        let may = port.is_some_and(|port| port.asked.permits(self.now, input.payload.len()));
        if !may {
            self.counters.bump(Counter::DroppedAsked);
        }
        may
    }

    fn dns_query(&mut self, input: &UdpInput) {
        if !self.may_ask(input) {
            return;
        }
        self.counters.bump(Counter::DnsQueries);
        let asker = Asker {
            port: input.peer.port.0,
            mac: input.peer.mac.0,
            guest: input.peer.guest,
            guest_port: input.key.guest_port,
            server: input.peer.remote,
        };
        let mut packet = Vec::with_capacity(input.payload.len() + 64);
        Request::Dns {
            asker,
            query: input.payload.bytes(),
        }
        .encode(&mut packet);
        self.driver.send_packet(
            self.service,
            &[Slice::from_vec(packet)],
            FlowId::SERVICE.token(),
        );
    }

    fn dhcp_message(&mut self, input: &UdpInput) {
        if !self.may_ask(input) {
            return;
        }
        self.counters.bump(Counter::DhcpMessages);
        let mut packet = Vec::with_capacity(input.payload.len() + 64);
        Request::Dhcp {
            port: input.peer.port.0,
            mac: input.peer.mac.0,
            message: input.payload.bytes(),
        }
        .encode(&mut packet);
        self.driver.send_packet(
            self.service,
            &[Slice::from_vec(packet)],
            FlowId::SERVICE.token(),
        );
    }

    pub(crate) fn dns_answer(&mut self, asker: &Asker, answer: &[u8]) {
        let peer = Peer {
            port: PortId(asker.port),
            mac: MacAddress(asker.mac),
            guest: asker.guest,
            remote: asker.server,
        };
        let payload = Slice::from_vec(answer.to_vec());
        let (ports, mtu) = ((53, asker.guest_port), self.egress.mtu());
        let frames = self
            .egress
            .udp(&mut self.driver, &peer, ports, &[payload], 0, mtu);
        self.counters.add(Counter::FramesOut, frames);
    }

    pub(crate) fn dhcp_answer(
        &mut self,
        port: PortId,
        mac: [u8; 6],
        to: Option<std::net::Ipv4Addr>,
        message: &[u8],
    ) {
        let guest = to.unwrap_or(std::net::Ipv4Addr::BROADCAST).into();
        let mac = if to.is_some() {
            MacAddress(mac)
        } else {
            MacAddress([0xff; 6])
        };
        let peer = Peer {
            port,
            mac,
            guest,
            remote: self.admission.gateway4(),
        };
        let target_port = dhcp_target_port(message);
        let payload = Slice::from_vec(message.to_vec());
        let (ports, mtu) = ((67, target_port), self.egress.mtu());
        let frames = self
            .egress
            .udp(&mut self.driver, &peer, ports, &[payload], 0, mtu);
        self.counters.add(Counter::FramesOut, frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(len: usize) -> Slice {
        Slice::from_vec(vec![0; len])
    }

    fn to(port: u16) -> Upward {
        (1, ([192, 0, 2, 1], port).into())
    }

    fn run(size: usize) -> UdpRun<Upward> {
        let mut run = UdpRun::default();
        run.start(to(9), slice(size));
        run
    }

    #[test]
    fn a_run_is_equal_datagrams_and_one_shorter_at_its_end() {
        let mut run = run(100);
        assert_eq!(run.gso_size(), 0, "one needs no cutting");
        assert!(run.takes(&to(9), 100, 64) && run.takes(&to(9), 40, 64));
        assert!(!run.takes(&to(9), 101, 64) && !run.takes(&to(9), 0, 64));
        assert!(!run.takes(&(2, to(9).1), 100, 64));
        assert!(!run.takes(&to(10), 100, 64));
        run.push(slice(40));
        assert_eq!(run.gso_size(), 100);
        assert!(!run.takes(&to(9), 40, 64), "nothing follows the short one");
        run.clear();
        run.start(to(10), slice(7));
        assert!(run.takes(&to(10), 7, 64));
    }

    #[test]
    fn a_run_stays_within_one_packet_and_the_bound() {
        for (size, datagrams) in [(1400, RUN_BYTES_MAX / 1400), (1, RUN_MAX)] {
            let mut run = run(size);
            while run.takes(&to(9), size, RUN_MAX) {
                run.push(slice(size));
            }
            assert_eq!(run.slices.len(), datagrams);
        }
    }
}

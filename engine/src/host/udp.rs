//! UDP: one host socket per guest address and port, whatever the targets.
//!
//! The mapping and the filtering are endpoint-independent (RFC 4787 REQ-1, REQ-8): all targets see
//! one source port, and anyone who learnt it may answer. Consecutive datagrams of one size to one
//! target in a batch leave as one segmented send (`UDP_SEGMENT`); what the host kernel had
//! coalesced (`UDP_GRO`) goes to the guest as one super-frame when the link takes it.

use std::net::SocketAddr;

use towpath_ring::buffer::Slice;
use towpath_ring::driver::{Driver, Errno, ErrorOrigin, SocketError, SocketId, SocketKind};
use towpath_stack::flow::FlowKey;
use towpath_stack::wire::ethernet::MacAddress;
use towpath_stack::{Address, Instant};

use crate::core::Core;
use crate::core::egress::{Peer, QUOTE_MAX, Unreachable};
use crate::core::timers::Armed;
use crate::core::token::{FlowId, FlowKind};
use crate::counters::Counter;
use crate::policy::admission::{Refusal, Verdict};
use crate::service::message::{Request, dhcp_target_port};

/// Most datagrams in one segmented send (`UDP_MAX_SEGMENTS` of older kernels).
const RUN_MAX: usize = 64;
/// Most bytes in one segmented send: what fits an IPv4 packet, headers included.
const RUN_BYTES_MAX: usize = 65_000;

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

/// Datagrams of one mapping to one target that will leave in one send.
#[derive(Default)]
pub(crate) struct UdpRun {
    to: Option<(u32, SocketAddr)>,
    size: usize,
    bytes: usize,
    slices: Vec<Slice>,
}

impl UdpRun {
    /// Whether a datagram of `len` bytes may join: all but the last have one size.
    fn takes(&self, to: (u32, SocketAddr), len: usize) -> bool {
        self.to == Some(to)
            && len > 0
            && len <= self.size
            && self.bytes == self.size * self.slices.len()
            && self.slices.len() < RUN_MAX
            && self.bytes + len <= RUN_BYTES_MAX
    }

    fn push(&mut self, slice: Slice) {
        self.bytes += slice.len();
        self.slices.push(slice);
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
            self.flush_udp_run();
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
            self.flush_udp_run();
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
        } else if segments && self.udp_run.takes((index, to), input.payload.len()) {
            self.udp_run.push(input.payload);
        } else {
            self.flush_udp_run();
            self.udp_run.to = Some((index, to));
            self.udp_run.size = input.payload.len();
            self.udp_run.push(input.payload);
        }
    }

    /// Sends what the batch gathered.
    pub(crate) fn flush_udp_run(&mut self) {
        let Some((index, to)) = self.udp_run.to.take() else {
            return;
        };
        let run = &mut self.udp_run;
        if let Some(mapping) = self.udp.get(index) {
            let gso_size = if run.slices.len() > 1 {
                run.size as u16
            } else {
                0
            };
            let token = FlowId::udp(index).token();
            self.driver
                .send_to(mapping.socket, &to, &run.slices, gso_size, token);
        }
        run.slices.clear();
        run.bytes = 0;
    }

    fn udp_mapping(&mut self, input: &UdpInput) -> Option<u32> {
        if let Some(index) = self.udp.find(&input.key, input.hash) {
            return Some(index);
        }
        if self.udp.len() >= self.limits.udp_flows {
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
            mac: mapping.guest_mac,
            guest: key.guest_address,
            remote: self.admission.as_seen_by_guest(from.ip()),
        };
        if peer.remote.is_v4() != peer.guest.is_v4() {
            return;
        }
        self.counters.bump(Counter::DatagramsDown);
        self.counters.add(Counter::BytesDown, payload.len() as u64);
        let frames = self.egress.udp(
            &mut self.driver,
            &peer,
            from.port(),
            key.guest_port,
            payload,
            gso_size,
        );
        self.counters.add(Counter::FramesOut, frames);
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
            FlowKind::Tcp | FlowKind::Service => None,
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

    fn dns_query(&mut self, input: &UdpInput) {
        self.counters.bump(Counter::DnsQueries);
        self.egress.remember_mac(input.peer.guest, input.peer.mac);
        let mut packet = Vec::with_capacity(input.payload.len() + 64);
        Request::Dns {
            guest: input.peer.guest,
            guest_port: input.key.guest_port,
            server: input.peer.remote,
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
        self.counters.bump(Counter::DhcpMessages);
        let mut packet = Vec::with_capacity(input.payload.len() + 64);
        Request::Dhcp {
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

    pub(crate) fn dns_answer(
        &mut self,
        guest: Address,
        guest_port: u16,
        server: Address,
        answer: &[u8],
    ) {
        let Some(mac) = self.egress.mac_of(&guest) else {
            return;
        };
        let peer = Peer {
            mac,
            guest,
            remote: server,
        };
        let payload = Slice::from_vec(answer.to_vec());
        let frames = self
            .egress
            .udp(&mut self.driver, &peer, 53, guest_port, payload, 0);
        self.counters.add(Counter::FramesOut, frames);
    }

    pub(crate) fn dhcp_answer(
        &mut self,
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
            mac,
            guest,
            remote: self.admission.gateway4(),
        };
        let port = dhcp_target_port(message);
        let payload = Slice::from_vec(message.to_vec());
        let frames = self
            .egress
            .udp(&mut self.driver, &peer, 67, port, payload, 0);
        self.counters.add(Counter::FramesOut, frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(len: usize) -> Slice {
        Slice::from_vec(vec![0; len])
    }

    #[test]
    fn a_run_is_equal_datagrams_and_one_shorter_at_its_end() {
        let to = (1, "192.0.2.1:9".parse().unwrap());
        let mut run = UdpRun {
            to: Some(to),
            size: 100,
            ..UdpRun::default()
        };
        run.push(slice(100));
        assert!(run.takes(to, 100) && run.takes(to, 40));
        assert!(!run.takes(to, 101) && !run.takes(to, 0));
        assert!(!run.takes((2, to.1), 100));
        assert!(!run.takes((1, "192.0.2.1:10".parse().unwrap()), 100));
        run.push(slice(40));
        assert!(!run.takes(to, 40), "nothing follows the short one");
    }

    #[test]
    fn a_run_stays_within_one_packet_and_the_kernels_bound() {
        let to = (1, "192.0.2.1:9".parse().unwrap());
        let mut run = UdpRun {
            to: Some(to),
            size: 1400,
            ..UdpRun::default()
        };
        while run.takes(to, 1400) {
            run.push(slice(1400));
        }
        assert_eq!(run.slices.len(), RUN_BYTES_MAX / 1400);
        let mut run = UdpRun {
            to: Some(to),
            size: 1,
            ..UdpRun::default()
        };
        while run.takes(to, 1) {
            run.push(slice(1));
        }
        assert_eq!(run.slices.len(), RUN_MAX);
    }
}

//! Frames to the guest: headers are built here, payload stays in the slices that it came in.

use smallvec::SmallVec;
use towpath_ring::buffer::Slice;
use towpath_ring::driver::{
    Driver, Errno, ErrorOrigin, FRAME_HEADER_MAX, LinkFeatures, SocketError,
};
use towpath_stack::build::{
    self, Checksum, ERROR_MAX, EchoHeader, Envelope, Fragments, HEADER_MAX, HOP_LIMIT, IcmpError,
};
use towpath_stack::tcp::segment::Segment;
use towpath_stack::wire::checksum::Sum;
use towpath_stack::wire::ethernet::{self, MacAddress};
use towpath_stack::wire::offload::Offload;
use towpath_stack::{Address, Instant};

use super::Core;
use super::port::Ports;
use crate::counters::Counter;
use crate::host::queue::FRAME_SLICES;
use crate::link::PortId;

/// As much of a packet as an ICMP error quotes: 576 bytes in all for IPv4 (RFC 1812 §4.3.2.3), with
/// room for both versions' headers.
pub(crate) const QUOTE_MAX: usize = 548;
/// Bytes of the offload header in front of a frame, on links that have one.
const OFFLOAD: usize = towpath_stack::wire::offload::HEADER_LEN;
/// Largest payload of a super-frame: a full IP packet, less the longest headers.
const SUPER_PAYLOAD_MAX: u32 = 65_535 - 40 - 60;

/// Both ends of a frame to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Where the guest is.
    pub(crate) port: PortId,
    /// The guest's MAC address.
    pub(crate) mac: MacAddress,
    /// The guest's address: the target of frames.
    pub(crate) guest: Address,
    /// The address that the guest talks to: the source of frames.
    pub(crate) remote: Address,
}

/// What a guest is told of a packet that can't be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Network,
    Host,
    Port,
    Protocol,
    Prohibited,
}

impl Unreachable {
    /// What an error of a host socket says about reaching its target, whatever the protocol.
    pub(crate) const fn of(errno: Errno) -> Option<Self> {
        match errno {
            Errno::HOSTUNREACH | Errno::HOSTDOWN => Some(Self::Host),
            Errno::NETUNREACH | Errno::NETDOWN => Some(Self::Network),
            Errno::ACCESS | Errno::PERM => Some(Self::Prohibited),
            _ => None,
        }
    }

    /// Type and code, ICMPv4 (RFC 792, RFC 1812 §5.2.7.1) or ICMPv6 (RFC 4443 §3.1).
    const fn code(self, v4: bool) -> (u8, u8) {
        match (self, v4) {
            (Self::Network, true) => (3, 0),
            (Self::Host, true) => (3, 1),
            (Self::Port, true) => (3, 3),
            (Self::Protocol, true) => (3, 2),
            (Self::Prohibited, true) => (3, 13),
            (Self::Network, false) => (1, 0),
            (Self::Host, false) => (1, 3),
            (Self::Port, false) => (1, 4),
            // RFC 4443 §3.4: an unrecognised next header is a parameter problem.
            (Self::Protocol, false) => (4, 1),
            (Self::Prohibited, false) => (1, 1),
        }
    }
}

/// What it takes to write frames to guests.
pub(crate) struct Egress {
    pub(crate) ports: Ports,
    /// Ports that something waits for.
    listed: Vec<PortId>,
    gateway_mac: MacAddress,
    mtu: u16,
    /// Identification of the next fragmented packet.
    identification: u32,
}

impl Egress {
    pub(crate) fn new(gateway_mac: MacAddress, mtu: u16) -> Self {
        Self {
            ports: Ports::default(),
            listed: Vec::new(),
            gateway_mac,
            mtu,
            identification: 0,
        }
    }

    /// Whether flows of a guest may send more now.
    pub(crate) fn has_room(&self, port: PortId) -> bool {
        let port = self.ports.get(port);
        port.is_some_and(|port| port.carrier.has_room())
    }

    /// Sees to it that a port is flushed at the end of the batch.
    pub(crate) fn list(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(id)
            && !std::mem::replace(&mut port.listed, true)
        {
            self.listed.push(id);
        }
    }

    /// The next port to flush.
    pub(crate) fn next_listed(&mut self) -> Option<PortId> {
        self.listed.pop()
    }

    /// What a guest's link can do; nothing if the guest has left.
    pub(crate) fn features(&self, port: PortId) -> LinkFeatures {
        self.ports
            .get(port)
            .map(|port| port.features)
            .unwrap_or_default()
    }

    /// Our MAC address.
    pub(crate) fn gateway_mac(&self) -> MacAddress {
        self.gateway_mac
    }

    /// Bytes of the largest packet that links take.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The largest TCP payload of one frame to this guest, on a connection whose segments hold
    /// `payload_max` bytes.
    pub(crate) fn tcp_segment_max(&self, peer: &Peer, payload_max: u16) -> u32 {
        let features = self.features(peer.port);
        let segments = if peer.guest.is_v4() {
            features.tso4
        } else {
            features.tso6
        };
        if segments {
            SUPER_PAYLOAD_MAX
        } else {
            u32::from(payload_max)
        }
    }

    fn envelope(&self, peer: &Peer) -> Envelope {
        Envelope {
            source_mac: self.gateway_mac,
            target_mac: peer.mac,
            source: peer.remote,
            target: peer.guest,
            hop_limit: HOP_LIMIT,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        }
    }

    fn checksum(&self, port: PortId, payload: &[Slice]) -> Checksum {
        if self.features(port).checksum {
            Checksum::Partial
        } else {
            Checksum::Full(sum_of(payload))
        }
    }

    /// One TCP segment, a super-frame if `gso_size` is given.
    pub(crate) fn tcp<D: Driver>(
        &mut self,
        driver: &mut D,
        peer: &Peer,
        segment: &Segment,
        payload: &[Slice],
        gso_size: Option<u16>,
    ) {
        let mut header = [0; HEADER_MAX];
        let len = payload.iter().map(Slice::len).sum();
        let checksum = self.checksum(peer.port, payload);
        let envelope = Envelope {
            traffic_class: segment.ecn as u8,
            ..self.envelope(peer)
        };
        let (n, offload) = build::tcp(&mut header, &envelope, segment, len, gso_size, checksum);
        self.write(driver, peer.port, &header[..n], &offload, payload);
    }

    /// Whether datagrams of this length may go together as one super-frame.
    pub(crate) fn takes_run(&self, peer: &Peer, len: usize, mtu: u16) -> bool {
        self.features(peer.port).uso && len <= datagram_max(peer, mtu)
    }

    /// A datagram, or several of `gso_size` bytes, over a path that takes packets of `mtu` bytes; as one
    /// frame, a super-frame or fragments. If
    /// there is more than one slice, each is a datagram and [`takes_run`](Self::takes_run) was true.
    /// Returns the number of frames.
    pub(crate) fn udp<D: Driver>(
        &mut self,
        driver: &mut D,
        peer: &Peer,
        ports: (u16, u16),
        slices: &[Slice],
        gso_size: u16,
        mtu: u16,
    ) -> u64 {
        let single = usize::from(gso_size);
        let len: usize = slices.iter().map(Slice::len).sum();
        if single > 0 && len > single && self.takes_run(peer, single, mtu) {
            let mut header = [0; HEADER_MAX];
            let (n, offload) = build::udp(
                &mut header,
                &self.envelope(peer),
                ports.0,
                ports.1,
                len,
                Some(gso_size),
                self.checksum(peer.port, slices),
            );
            self.write(driver, peer.port, &header[..n], &offload, slices);
            return 1;
        }
        let mut frames = 0;
        for slice in slices {
            let mut rest = slice.clone();
            while single > 0 && rest.len() > single {
                frames += self.datagram(driver, peer, ports, rest.split_to(single), mtu);
            }
            frames += self.datagram(driver, peer, ports, rest, mtu);
        }
        frames
    }

    fn datagram<D: Driver>(
        &mut self,
        driver: &mut D,
        peer: &Peer,
        (source_port, target_port): (u16, u16),
        payload: Slice,
        mtu: u16,
    ) -> u64 {
        let mut header = [0; HEADER_MAX];
        let len = payload.len();
        if len <= datagram_max(peer, mtu) {
            let slices = [payload];
            let envelope = self.envelope(peer);
            let checksum = self.checksum(peer.port, &slices);
            let (n, offload) = build::udp(
                &mut header,
                &envelope,
                source_port,
                target_port,
                len,
                None,
                checksum,
            );
            self.write(driver, peer.port, &header[..n], &offload, &slices);
            return 1;
        }
        let sum = Sum::new().add(payload.bytes());
        let mtu = usize::from(mtu);
        let id = self.next_identification();
        let envelope = self.envelope(peer);
        let fragments = Fragments::udp(&envelope, id, source_port, target_port, len, sum, mtu);
        self.fragments(driver, peer.port, fragments, &payload)
    }

    fn fragments<D: Driver>(
        &mut self,
        driver: &mut D,
        port: PortId,
        mut fragments: Fragments,
        payload: &Slice,
    ) -> u64 {
        let mut header = [0; HEADER_MAX];
        let mut frames = 0;
        while let Some((n, range)) = fragments.next(&mut header) {
            let part = payload.sub(range);
            self.write(driver, port, &header[..n], &Offload::NONE, &[part]);
            frames += 1;
        }
        frames
    }

    fn next_identification(&mut self) -> u32 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }

    /// The reply to an echo request. Returns the number of frames.
    pub(crate) fn echo_reply<D: Driver>(
        &mut self,
        driver: &mut D,
        peer: &Peer,
        id: u16,
        sequence: u16,
        data: Slice,
    ) -> u64 {
        let sum = Sum::new().add(data.bytes());
        let echo = EchoHeader {
            reply: true,
            identifier: id,
            sequence,
        };
        let envelope = self.envelope(peer);
        if data.len() <= datagram_max(peer, self.mtu) {
            let mut header = [0; HEADER_MAX];
            let n = build::icmp_echo(&mut header, &envelope, &echo, data.len(), sum);
            self.write(driver, peer.port, &header[..n], &Offload::NONE, &[data]);
            return 1;
        }
        let (id, mtu) = (self.next_identification(), usize::from(self.mtu));
        let fragments = Fragments::icmp_echo(&envelope, id, &echo, data.len(), sum, mtu);
        self.fragments(driver, peer.port, fragments, &data)
    }

    /// An ICMP error about `packet`, from `offender` (the address that the guest talked to, if
    /// `None`). Returns false when the rate limit forbids it.
    pub(crate) fn icmp_error<D: Driver>(
        &mut self,
        driver: &mut D,
        now: Instant,
        peer: &Peer,
        offender: Option<Address>,
        error: &IcmpError,
        packet: &[u8],
    ) -> bool {
        let allowed = self.ports.get_mut(peer.port);
        if !allowed.is_some_and(|port| port.icmp_allowed(now)) {
            return false;
        }
        let mut frame = [0; ERROR_MAX];
        let source = offender.unwrap_or(peer.remote);
        let envelope = Envelope {
            source,
            ..self.envelope(peer)
        };
        let n = build::icmp_error(&mut frame, &envelope, error, packet);
        self.frame(driver, peer.port, &frame[..n]);
        true
    }

    /// What a UDP packet of the guest looked like, from its IP header on, as far as it is known.
    pub(crate) fn udp_quote(
        &self,
        peer: &Peer,
        source_port: u16,
        target_port: u16,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut header = [0; HEADER_MAX];
        let sum = Checksum::Full(Sum::new().add(payload));
        let envelope = self.guest_envelope(peer);
        let (n, _) = build::udp(
            &mut header,
            &envelope,
            source_port,
            target_port,
            payload.len(),
            None,
            sum,
        );
        quote(&header[..n], payload)
    }

    /// What an echo request of the guest looked like; `message` begins with its ICMP header.
    pub(crate) fn echo_quote(&self, peer: &Peer, id: u16, message: &[u8]) -> Vec<u8> {
        let Some((header, payload)) = message.split_first_chunk::<8>() else {
            return Vec::new();
        };
        let sequence = u16::from_be_bytes([header[6], header[7]]);
        let echo = EchoHeader {
            reply: false,
            identifier: id,
            sequence,
        };
        let mut header = [0; HEADER_MAX];
        let envelope = self.guest_envelope(peer);
        let sum = Sum::new().add(payload);
        let n = build::icmp_echo(&mut header, &envelope, &echo, payload.len(), sum);
        quote(&header[..n], payload)
    }

    /// The envelope of what the guest sent.
    fn guest_envelope(&self, peer: &Peer) -> Envelope {
        Envelope {
            source: peer.guest,
            target: peer.remote,
            ..self.envelope(peer)
        }
    }

    /// A whole frame that was built elsewhere (ARP, neighbour discovery, ICMP errors).
    pub(crate) fn frame<D: Driver>(&mut self, driver: &mut D, port: PortId, frame: &[u8]) {
        let (header, rest) = frame.split_at(frame.len().min(FRAME_HEADER_MAX - OFFLOAD));
        // What an error quotes may be longer than what a driver takes as a header.
        let payload = (!rest.is_empty()).then(|| Slice::from_vec(rest.to_vec()));
        self.write(driver, port, header, &Offload::NONE, payload.as_slice());
    }

    /// A frame of another guest: a header that was changed, if any, and the rest of it.
    pub(crate) fn pass<D: Driver>(
        &mut self,
        driver: &mut D,
        port: PortId,
        offload: &Offload,
        header: &[u8],
        rest: Slice,
    ) {
        self.write(driver, port, header, offload, &[rest]);
    }

    fn write<D: Driver>(
        &mut self,
        driver: &mut D,
        id: PortId,
        header: &[u8],
        offload: &Offload,
        payload: &[Slice],
    ) {
        debug_assert!(payload.len() <= FRAME_SLICES);
        let Some(port) = self.ports.get_mut(id) else {
            return;
        };
        if port.features.offload_header {
            let mut whole: SmallVec<[u8; HEADER_MAX + OFFLOAD]> =
                SmallVec::from_slice(&offload.emit());
            whole.extend_from_slice(header);
            port.carrier.write(driver, &whole, payload);
            return;
        }
        if !port.carrier.write(driver, header, payload) {
            port.refused += 1;
        }
        if !port.carrier.is_tap() && !std::mem::replace(&mut port.listed, true) {
            self.listed.push(id);
        }
    }
}

/// Largest UDP or echo payload that needs no fragments.
fn datagram_max(peer: &Peer, mtu: u16) -> usize {
    usize::from(mtu).saturating_sub(if peer.guest.is_v4() { 28 } else { 48 })
}

fn sum_of(payload: &[Slice]) -> Sum {
    payload
        .iter()
        .fold(Sum::new(), |sum, slice| sum.add(slice.bytes()))
}

/// A packet from its headers (the ethernet header is left out) and the start of its payload.
fn quote(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut packet = headers[ethernet::HEADER_LEN..].to_vec();
    packet.extend(payload.iter().take(QUOTE_MAX.saturating_sub(packet.len())));
    packet
}

impl<D: Driver> Core<D> {
    /// Tells the guest that a packet of its could not be delivered.
    pub(crate) fn report_unreachable(&mut self, peer: Peer, packet: &[u8], why: Unreachable) {
        let (kind, code) = why.code(peer.guest.is_v4());
        let offender = match why {
            // What the target itself would say comes from the target.
            Unreachable::Port | Unreachable::Protocol => None,
            Unreachable::Network | Unreachable::Host | Unreachable::Prohibited => {
                Some(self.admission.gateway_like(peer.guest))
            }
        };
        // ICMPv6 parameter problem: the next header field is at offset 6 of the IPv6 header.
        let parameter = if (kind, code) == (4, 1) { 6 } else { 0 };
        self.icmp_error(
            peer,
            offender,
            &IcmpError {
                kind,
                code,
                parameter,
            },
            packet,
        );
    }

    /// Passes on an error that the host's kernel reported for a socket of the guest's. Returns
    /// false when the guest has nothing to learn from it.
    pub(crate) fn relay_socket_error(
        &mut self,
        peer: Peer,
        packet: &[u8],
        report: &SocketError,
    ) -> bool {
        let v4 = peer.guest.is_v4();
        match report.origin {
            ErrorOrigin::Icmp {
                v6,
                kind,
                code,
                offender,
            } if v6 != v4 => {
                let offender = self.admission.as_seen_by_guest(offender);
                let error = IcmpError {
                    kind,
                    code,
                    parameter: mtu_parameter(v4, kind, code, report.info),
                };
                self.icmp_error(peer, Some(offender), &error, packet);
                true
            }
            ErrorOrigin::Icmp { .. } => false,
            ErrorOrigin::Local => {
                let why = match report.errno {
                    Errno::CONNREFUSED => Some(Unreachable::Port),
                    // A send that was cut into segments fails without a word about the path.
                    Errno::MSGSIZE if report.info == 0 => None,
                    Errno::MSGSIZE => {
                        let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
                        let parameter = mtu_parameter(v4, kind, code, report.info);
                        let offender = Some(self.admission.gateway_like(peer.guest));
                        self.icmp_error(
                            peer,
                            offender,
                            &IcmpError {
                                kind,
                                code,
                                parameter,
                            },
                            packet,
                        );
                        return true;
                    }
                    errno => Unreachable::of(errno),
                };
                if let Some(why) = why {
                    self.report_unreachable(peer, packet, why);
                }
                why.is_some()
            }
        }
    }

    fn icmp_error(
        &mut self,
        peer: Peer,
        offender: Option<Address>,
        error: &IcmpError,
        packet: &[u8],
    ) {
        if packet.is_empty() || !build::may_report_between(&peer.guest, &peer.remote) {
            // None may be sent about it.
            return;
        }
        let sent =
            self.egress
                .icmp_error(&mut self.driver, self.now, &peer, offender, error, packet);
        self.counters.bump(if sent {
            Counter::IcmpErrorsOut
        } else {
            Counter::DroppedIcmpRate
        });
    }
}

/// The word behind the checksum of an ICMP error: the MTU where the error is about it (RFC 1191 §4,
/// RFC 4443 §3.2).
fn mtu_parameter(v4: bool, kind: u8, code: u8, mtu: u32) -> u32 {
    match (v4, kind, code) {
        (true, 3, 4) => mtu & 0xffff,
        (false, 2, _) => mtu,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::port::{Carrier, Port, Quota};
    use super::*;
    use crate::config::Limits;
    use towpath_ring::driver::LinkId;
    use towpath_ring::driver::sim::{Answer, Random, SimConfig, SimDriver, SimHost};

    const PORT: PortId = PortId(0);

    #[test]
    fn frames_of_every_length_reach_the_link_whole() {
        for offload_header in [false, true] {
            let link = LinkFeatures {
                offload_header,
                ..LinkFeatures::default()
            };
            let config = SimConfig {
                link: Some(link),
                ..SimConfig::default()
            };
            let host = SimHost::new(|_| Answer::Never);
            let mut driver = SimDriver::new(config, host, Random::new(0), 0).unwrap();
            let mut egress = Egress::new(MacAddress([2; 6]), 1500);
            let quota = Quota::of(&Limits::default(), 1);
            let carrier = Carrier::Tap(LinkId(0));
            egress.ports.add(PORT, Port::new(carrier, link, quota));
            for len in [14, 182, 183, 192, 193, ERROR_MAX] {
                let frame: Vec<u8> = (0..len).map(|at| at as u8).collect();
                egress.frame(&mut driver, PORT, &frame);
                let written = driver.take_frame().expect("the link took it");
                let in_front = if offload_header { OFFLOAD } else { 0 };
                assert_eq!(written[in_front..], frame, "{len} bytes");
            }
        }
    }
}

//! Headers for what we send; payloads stay where they are.
//!
//! Each function writes the headers of one frame, ethernet first, into a buffer on the caller's
//! stack and returns how many bytes they take; the payload follows them on the link, taken from
//! slices that nobody here sees. A checksum over the payload is therefore either left to the link
//! ([`Checksum::Partial`]) or made from a [`Sum`] of the payload that the caller has.
//!
//! Errors and neighbour messages are small and rare: those are whole frames.

use core::ops::Range;

use zerocopy::IntoBytes;

use crate::Address;
use crate::parse::{Content, Fragment, IpPacket, Transport};
use crate::tcp::segment::Segment;
use crate::wire::arp::{ArpPacket, PACKET_LEN as ARP_LEN};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{self, EtherType, MacAddress};
use crate::wire::ndp::{
    NEIGHBOR_ADVERTISEMENT_LEN, NeighborAdvertisement, ROUTER_ADVERTISEMENT_MAX,
    RouterAdvertisement,
};
use crate::wire::offload::{ChecksumState, Gso, GsoKind, Offload};
use crate::wire::{icmpv4, icmpv6, ipv4, ipv6, protocol, tcp, udp};

/// Room in bytes for the headers of any frame: ethernet, IPv6 and the longest TCP header fit.
pub const HEADER_MAX: usize = 128;
/// Room in bytes for the longest neighbour message, ethernet header included.
pub const FRAME_MAX: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + ROUTER_ADVERTISEMENT_MAX;
/// Room in bytes for an ICMP error: IPv6 packets of 1280 bytes (RFC 4443 §2.4c), and ethernet.
pub const ERROR_MAX: usize = ethernet::HEADER_LEN + ERROR_MAX_V6;
/// Hop limit of packets that begin here.
pub const HOP_LIMIT: u8 = 64;

/// Longest ICMPv4 error in bytes, IP header included (RFC 1812 §4.3.2.3).
const ERROR_MAX_V4: usize = 576;
/// Longest ICMPv6 error in bytes, IP header included (RFC 4443 §2.4c).
const ERROR_MAX_V6: usize = 1280;
/// Offset of the checksum field in ICMP, ICMPv6 and (4 bytes further) UDP.
const ICMP_CHECKSUM_OFFSET: usize = 2;
const UDP_CHECKSUM_OFFSET: usize = 6;

const _: () = assert!(
    ethernet::HEADER_LEN + ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN + tcp::HEADER_MAX
        <= HEADER_MAX
);

/// Who sends a packet to whom and how. Both addresses are of the same IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Sender on the link.
    pub source_mac: MacAddress,
    /// Receiver on the link.
    pub target_mac: MacAddress,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub target: Address,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The TOS byte or traffic class.
    pub traffic_class: u8,
    /// Identification for IPv4; only meaningful, and only sent, when `dont_fragment` is false
    /// (RFC 6864 §4.1).
    pub identification: u16,
    /// Whether routers must not fragment it; without meaning for IPv6.
    pub dont_fragment: bool,
}

/// What goes into a transport's checksum field.
#[derive(Clone, Copy, Debug)]
pub enum Checksum {
    /// The sum of the pseudo-header: the link completes it. Super-frames need this one.
    Partial,
    /// The checksum, from the sum over the bytes of the payload.
    Full(Sum),
    /// Zero. For UDP over IPv4 that means that there is none; otherwise only for links that
    /// deliver what they are told is verified.
    None,
}

/// Writes the headers of a TCP segment with `payload_len` bytes of payload. `gso_size` is the
/// payload of each piece when the frame is a super-frame. Returns the length of the headers in
/// bytes, and the offload header for the link. The whole IP packet must not exceed 65,535 bytes.
#[inline]
pub fn tcp(
    out: &mut [u8; HEADER_MAX],
    e: &Envelope,
    segment: &Segment,
    payload_len: usize,
    gso_size: Option<u16>,
    checksum: Checksum,
) -> (usize, Offload) {
    let start = transport_offset(e);
    let header_len = tcp::emit(segment, &mut out[start..]);
    let len = start + header_len;
    let layer = Layer {
        protocol: protocol::TCP,
        checksum_offset: tcp::CHECKSUM_OFFSET,
    };
    let gso = gso_size.map(|size| Gso {
        kind: gso_tcp(e),
        size,
    });
    (
        len,
        finish(out, e, layer, header_len, payload_len, gso, checksum),
    )
}

/// Writes the headers of a UDP datagram with `payload_len` bytes of payload; with `gso_size`, of
/// many datagrams with so many bytes each but for the last (USO). Returns the length of the headers
/// in bytes, and the offload header for the link. The whole IP packet must not exceed 65,535 bytes.
#[inline]
pub fn udp(
    out: &mut [u8; HEADER_MAX],
    e: &Envelope,
    source_port: u16,
    target_port: u16,
    payload_len: usize,
    gso_size: Option<u16>,
    checksum: Checksum,
) -> (usize, Offload) {
    let start = transport_offset(e);
    let len = start + udp::HEADER_LEN;
    let datagram_len = clamp(udp::HEADER_LEN + payload_len);
    let header = udp::Header::new(source_port, target_port, datagram_len, 0);
    out[start..len].copy_from_slice(header.as_bytes());
    let layer = Layer {
        protocol: protocol::UDP,
        checksum_offset: UDP_CHECKSUM_OFFSET,
    };
    let gso = gso_size.map(|size| Gso {
        kind: GsoKind::UdpL4,
        size,
    });
    (
        len,
        finish(out, e, layer, udp::HEADER_LEN, payload_len, gso, checksum),
    )
}

/// Writes the headers of an ICMP or ICMPv6 echo message, by the envelope's IP version, whose
/// payload of `payload_len` bytes has the given sum. Returns the length of the headers in bytes.
/// The offload header is [`Offload::NONE`].
pub fn icmp_echo(
    out: &mut [u8; HEADER_MAX],
    e: &Envelope,
    echo: &EchoHeader,
    payload_len: usize,
    payload: Sum,
) -> usize {
    let start = transport_offset(e);
    let len = start + icmpv4::HEADER_LEN;
    out[start..len].copy_from_slice(echo.header(e).as_bytes());
    let layer = Layer {
        protocol: icmp_protocol(e),
        checksum_offset: ICMP_CHECKSUM_OFFSET,
    };
    finish(
        out,
        e,
        layer,
        icmpv4::HEADER_LEN,
        payload_len,
        None,
        Checksum::Full(payload),
    );
    len
}

/// What an echo message says, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoHeader {
    /// Whether it is a reply.
    pub reply: bool,
    /// Identifier.
    pub identifier: u16,
    /// Sequence number.
    pub sequence: u16,
}

impl EchoHeader {
    fn header(&self, e: &Envelope) -> icmpv4::Header {
        let kind = match (e.source.is_v4(), self.reply) {
            (true, false) => icmpv4::kind::ECHO_REQUEST,
            (true, true) => icmpv4::kind::ECHO_REPLY,
            (false, false) => icmpv6::kind::ECHO_REQUEST,
            (false, true) => icmpv6::kind::ECHO_REPLY,
        };
        let parameter = icmpv4::echo_parameter(self.identifier, self.sequence);
        icmpv4::Header::new(kind, 0, parameter, 0)
    }
}

/// The fragments of a packet that is too long for its link: UDP datagrams and echo messages up to
/// what their length fields can say (65,507 bytes of payload over IPv4, 65,527 over IPv6).
#[derive(Clone, Debug)]
pub struct Fragments {
    envelope: Envelope,
    identification: u32,
    protocol: u8,
    /// The transport header, checksum complete. It leads the first fragment.
    lead: [u8; udp::HEADER_LEN],
    /// Bytes of transport header and payload in all.
    total: usize,
    /// Bytes of them in each fragment but the last, a multiple of 8.
    step: usize,
    /// Bytes of them in the fragments given so far.
    at: usize,
}

impl Fragments {
    /// Cuts a UDP datagram for a link of `mtu` bytes (at least 68, or 1280 for IPv6; less is taken
    /// as that). `identification` should differ from those of other fragmented packets between the
    /// same addresses; IPv4 takes its lower 16 bits.
    pub fn udp(
        e: &Envelope,
        identification: u32,
        source_port: u16,
        target_port: u16,
        payload_len: usize,
        payload: Sum,
        mtu: usize,
    ) -> Self {
        let len = clamp(udp::HEADER_LEN + payload_len);
        let header = udp::Header::new(source_port, target_port, len, 0);
        let sum = pseudo(e, protocol::UDP, len.into())
            .add(header.as_bytes())
            .add_sum(payload);
        let checksum = udp::checksum_field(sum.checksum());
        let header = udp::Header::new(source_port, target_port, len, checksum);
        let lead = zerocopy::transmute!(header);
        Self::new(e, identification, protocol::UDP, lead, payload_len, mtu)
    }

    /// Cuts an echo message likewise.
    pub fn icmp_echo(
        e: &Envelope,
        identification: u32,
        echo: &EchoHeader,
        payload_len: usize,
        payload: Sum,
        mtu: usize,
    ) -> Self {
        let protocol = icmp_protocol(e);
        let len = udp::HEADER_LEN + payload_len;
        let mut lead: [u8; udp::HEADER_LEN] = zerocopy::transmute!(echo.header(e));
        let sum = icmp_pseudo(e, len as u32).add(&lead).add_sum(payload);
        put(&mut lead, ICMP_CHECKSUM_OFFSET, sum.checksum());
        Self::new(e, identification, protocol, lead, payload_len, mtu)
    }

    fn new(
        e: &Envelope,
        identification: u32,
        protocol: u8,
        lead: [u8; udp::HEADER_LEN],
        payload_len: usize,
        mtu: usize,
    ) -> Self {
        let room = if e.source.is_v4() {
            mtu.max(68) - ipv4::HEADER_LEN
        } else {
            mtu.max(1280) - ipv6::HEADER_LEN - ipv6::FRAGMENT_HEADER_LEN
        };
        let step = room.min(65_528) & !7;
        let total = lead.len() + payload_len;
        Self {
            envelope: *e,
            identification,
            protocol,
            lead,
            total,
            step,
            at: 0,
        }
    }

    /// Number of fragments that are left.
    pub fn remaining(&self) -> usize {
        (self.total - self.at).div_ceil(self.step)
    }

    /// Writes the headers of the next fragment; returns their length in bytes and the range of the
    /// payload that follows them, `None` after the last. The offload header is [`Offload::NONE`].
    pub fn next(&mut self, out: &mut [u8; HEADER_MAX]) -> Option<(usize, Range<usize>)> {
        let (from, to) = (self.at, self.total.min(self.at + self.step));
        if from >= to {
            return None;
        }
        self.at = to;
        let (e, more) = (&self.envelope, to < self.total);
        let (len, offset) = (to - from, clamp(from));
        put_ethernet(out, e);
        let mut header_len = ethernet::HEADER_LEN;
        match (e.source.as_v4(), e.target.as_v4()) {
            (Some(source), Some(target)) => {
                let header = ipv4::Emit {
                    traffic_class: e.traffic_class,
                    total_len: clamp(ipv4::HEADER_LEN + len),
                    identification: self.identification as u16,
                    dont_fragment: false,
                    more_fragments: more,
                    fragment_offset: offset,
                    hop_limit: e.hop_limit,
                    protocol: self.protocol,
                    source,
                    target,
                };
                header_len += ipv4::HEADER_LEN;
                out[ethernet::HEADER_LEN..header_len].copy_from_slice(header.header().as_bytes());
            }
            _ => {
                put_ipv6(out, e, protocol::FRAGMENT, ipv6::FRAGMENT_HEADER_LEN + len);
                let start = header_len + ipv6::HEADER_LEN;
                header_len = start + ipv6::FRAGMENT_HEADER_LEN;
                let id = self.identification;
                let header = ipv6::FragmentHeader::new(self.protocol, offset, more, id);
                out[start..header_len].copy_from_slice(header.as_bytes());
            }
        }
        let lead_len = self.lead.len();
        if from == 0 {
            // Steps are far above 8 bytes: the first fragment holds the whole transport header.
            out[header_len..header_len + lead_len].copy_from_slice(&self.lead);
            return Some((header_len + lead_len, 0..to - lead_len));
        }
        Some((header_len, from - lead_len..to - lead_len))
    }
}

/// What an ICMP or ICMPv6 error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Type, of the envelope's IP version.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The word behind the checksum: MTU, pointer or zero.
    pub parameter: u32,
}

/// Writes a whole frame with an ICMP or ICMPv6 error, by the envelope's IP version, about the
/// packet `about` (from its IP header on), of which as much is quoted as the error may hold.
/// Returns the frame's length in bytes. Ask [`may_report`] first.
pub fn icmp_error(
    out: &mut [u8; ERROR_MAX],
    e: &Envelope,
    error: &IcmpError,
    about: &[u8],
) -> usize {
    let packet_max = if e.source.is_v4() {
        ERROR_MAX_V4
    } else {
        ERROR_MAX_V6
    };
    let start = transport_offset(e);
    let quote_at = start + icmpv4::HEADER_LEN;
    let room = ethernet::HEADER_LEN + packet_max - quote_at;
    let quote = about.get(..room).unwrap_or(about);
    let len = quote_at + quote.len();
    let icmp_len = len - start;

    let IcmpError {
        kind,
        code,
        parameter,
    } = *error;
    let header = icmpv4::Header::new(kind, code, parameter, 0);
    let sum = icmp_pseudo(e, icmp_len as u32)
        .add(header.as_bytes())
        .add(quote);
    let header = icmpv4::Header::new(kind, code, parameter, sum.checksum());
    put_ethernet(out, e);
    put_ip(out, e, icmp_protocol(e), icmp_len);
    out[start..quote_at].copy_from_slice(header.as_bytes());
    out[quote_at..len].copy_from_slice(quote);
    len
}

/// Whether an ICMP error may be sent about what `source` sent to `target`: not when either is
/// many hosts or none (RFC 1122 §3.2.2, RFC 4443 §2.4e).
pub fn may_report_between(source: &Address, target: &Address) -> bool {
    let of_one_host = |address: &Address| match address.as_v4() {
        Some([a, b, c, d]) => a != 0 && a < 224 && [a, b, c, d] != [255; 4],
        None => *address != Address::UNSPECIFIED_V6 && address.octets()[0] != 0xff,
    };
    of_one_host(source) && of_one_host(target)
}

/// Whether an ICMP error may be sent about a packet (RFC 1122 §3.2.2, RFC 4443 §2.4e): not about
/// errors, nor about what went to or came from many, nor about fragments but the first. Whether
/// the frame itself was a link-layer broadcast is for the caller to know.
pub fn may_report(packet: &IpPacket<'_>) -> bool {
    if !may_report_between(&packet.source, &packet.target) {
        return false;
    }
    match &packet.content {
        Content::Fragment(fragment) => {
            fragment.offset == 0 && !begins_error(fragment, packet.source.is_v4())
        }
        Content::Transport(transport) => match transport {
            Transport::IcmpV4(icmpv4::Message::Error(_))
            | Transport::IcmpV6(icmpv6::Message::Error(_)) => false,
            Transport::Tcp { .. }
            | Transport::Udp { .. }
            | Transport::IcmpV4(_)
            | Transport::IcmpV6(_)
            | Transport::Other { .. } => true,
        },
    }
}

/// Whether a first fragment is the start of an ICMP error, or may be: of IPv6, what is behind
/// extension headers that it does not hold whole (which RFC 7112 §5 forbids) is not known.
fn begins_error(fragment: &Fragment<'_>, v4: bool) -> bool {
    if v4 {
        let kind = fragment.payload.first();
        return fragment.protocol == protocol::ICMP && kind.is_none_or(|&k| icmpv4::is_error(k));
    }
    let Ok(walk) = ipv6::walk_extensions(fragment.protocol, fragment.payload, false) else {
        return true;
    };
    let kind = fragment.payload.get(walk.offset);
    walk.protocol == protocol::ICMPV6 && kind.is_none_or(|&k| icmpv6::is_error(k))
}

/// A whole small frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; FRAME_MAX],
    len: usize,
}

impl Frame {
    /// The frame from the ethernet header on. Its offload header is [`Offload::NONE`].
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// An ARP packet in a frame.
pub fn arp(source_mac: MacAddress, target_mac: MacAddress, packet: &ArpPacket) -> Frame {
    const LEN: usize = ethernet::HEADER_LEN + ARP_LEN;
    let mut bytes = [0; FRAME_MAX];
    let header = ethernet::Header::new(source_mac, target_mac, EtherType::ARP);
    bytes[..ethernet::HEADER_LEN].copy_from_slice(header.as_bytes());
    bytes[ethernet::HEADER_LEN..LEN].copy_from_slice(&packet.emit());
    Frame { bytes, len: LEN }
}

/// A neighbour advertisement in a frame; the envelope's hop limit has to be 255.
pub fn neighbor_advertisement(e: &Envelope, advertisement: &NeighborAdvertisement) -> Frame {
    let mut body = [0; NEIGHBOR_ADVERTISEMENT_LEN];
    let len = advertisement.emit(&mut body);
    ndp_frame(e, &mut body[..len])
}

/// A router advertisement in a frame; the envelope's hop limit has to be 255.
pub fn router_advertisement(e: &Envelope, advertisement: &RouterAdvertisement) -> Frame {
    let mut body = [0; ROUTER_ADVERTISEMENT_MAX];
    let len = advertisement.emit(&mut body);
    ndp_frame(e, &mut body[..len])
}

fn ndp_frame(e: &Envelope, body: &mut [u8]) -> Frame {
    let checksum = pseudo(e, protocol::ICMPV6, body.len() as u32)
        .add(body)
        .checksum();
    put(body, ICMP_CHECKSUM_OFFSET, checksum);
    let mut bytes = [0; FRAME_MAX];
    put_ethernet(&mut bytes, e);
    put_ipv6(&mut bytes, e, protocol::ICMPV6, body.len());
    let start = ethernet::HEADER_LEN + ipv6::HEADER_LEN;
    let len = start + body.len();
    bytes[start..len].copy_from_slice(body);
    Frame { bytes, len }
}

/// A transport header as the checksum sees it.
#[derive(Clone, Copy)]
struct Layer {
    protocol: u8,
    checksum_offset: usize,
}

/// Writes what surrounds a transport header that is in its place: ethernet and IP headers, and its
/// checksum field, which is zero as yet.
#[inline]
fn finish(
    out: &mut [u8; HEADER_MAX],
    e: &Envelope,
    layer: Layer,
    header_len: usize,
    payload_len: usize,
    gso: Option<Gso>,
    checksum: Checksum,
) -> Offload {
    let Layer {
        protocol,
        checksum_offset,
    } = layer;
    let start = transport_offset(e);
    let len = header_len + payload_len;
    debug_assert!(start - ethernet::HEADER_LEN + len <= 65_535 + ipv6::HEADER_LEN);
    debug_assert!(gso.is_none() || matches!(checksum, Checksum::Partial));
    put_ethernet(out, e);
    put_ip(out, e, protocol, len);
    let sum = match protocol {
        protocol::ICMP | protocol::ICMPV6 => icmp_pseudo(e, len as u32),
        _ => pseudo(e, protocol, len as u32),
    };
    let (value, state) = match checksum {
        Checksum::Partial => {
            let (start, offset) = (clamp(start), clamp(checksum_offset));
            (sum.fold(), ChecksumState::Partial { start, offset })
        }
        Checksum::Full(payload) => {
            let sum = sum.add(&out[start..start + header_len]).add_sum(payload);
            let value = match protocol {
                protocol::UDP => udp::checksum_field(sum.checksum()),
                _ => sum.checksum(),
            };
            (value, ChecksumState::Unverified)
        }
        Checksum::None => (0, ChecksumState::Verified),
    };
    put(out, start + checksum_offset, value);
    let hdr_len = if gso.is_some() {
        clamp(start + header_len)
    } else {
        0
    };
    Offload {
        checksum: state,
        gso,
        hdr_len,
    }
}

/// Offset of the transport header in a frame.
#[inline]
fn transport_offset(e: &Envelope) -> usize {
    debug_assert_eq!(
        e.source.is_v4(),
        e.target.is_v4(),
        "one IP version for both"
    );
    let ip_len = if e.source.is_v4() {
        ipv4::HEADER_LEN
    } else {
        ipv6::HEADER_LEN
    };
    ethernet::HEADER_LEN + ip_len
}

fn gso_tcp(e: &Envelope) -> GsoKind {
    if e.source.is_v4() {
        GsoKind::TcpV4
    } else {
        GsoKind::TcpV6
    }
}

fn icmp_protocol(e: &Envelope) -> u8 {
    if e.source.is_v4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    }
}

fn pseudo(e: &Envelope, protocol: u8, len: u32) -> Sum {
    Sum::new().add_pseudo(e.source, e.target, protocol, len)
}

/// ICMP has no pseudo-header in IPv4 (RFC 792) and has one in IPv6 (RFC 4443 §2.3).
fn icmp_pseudo(e: &Envelope, len: u32) -> Sum {
    if e.source.is_v4() {
        Sum::new()
    } else {
        pseudo(e, protocol::ICMPV6, len)
    }
}

#[inline]
fn put_ethernet<const N: usize>(out: &mut [u8; N], e: &Envelope) {
    let ether_type = if e.source.is_v4() {
        EtherType::IPV4
    } else {
        EtherType::IPV6
    };
    let header = ethernet::Header::new(e.source_mac, e.target_mac, ether_type);
    out[..ethernet::HEADER_LEN].copy_from_slice(header.as_bytes());
}

/// The IP header of either version for a packet of `len` bytes behind it.
#[inline]
fn put_ip<const N: usize>(out: &mut [u8; N], e: &Envelope, protocol: u8, len: usize) {
    let (Some(source), Some(target)) = (e.source.as_v4(), e.target.as_v4()) else {
        return put_ipv6(out, e, protocol, len);
    };
    let header = ipv4::Emit {
        traffic_class: e.traffic_class,
        total_len: clamp(ipv4::HEADER_LEN + len),
        // RFC 6864 §4.1: without meaning in a packet that is never fragmented.
        identification: if e.dont_fragment { 0 } else { e.identification },
        dont_fragment: e.dont_fragment,
        more_fragments: false,
        fragment_offset: 0,
        hop_limit: e.hop_limit,
        protocol,
        source,
        target,
    };
    let end = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
    out[ethernet::HEADER_LEN..end].copy_from_slice(header.header().as_bytes());
}

#[inline]
fn put_ipv6<const N: usize>(out: &mut [u8; N], e: &Envelope, next_header: u8, len: usize) {
    let header = ipv6::Header::new(
        e.traffic_class,
        clamp(len),
        next_header,
        e.hop_limit,
        *e.source.octets(),
        *e.target.octets(),
    );
    let end = ethernet::HEADER_LEN + ipv6::HEADER_LEN;
    out[ethernet::HEADER_LEN..end].copy_from_slice(header.as_bytes());
}

/// Writes a field of two bytes.
#[inline]
fn put(out: &mut [u8], at: usize, value: u16) {
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// A length for its field; callers keep within 65,535.
#[inline]
fn clamp(len: usize) -> u16 {
    debug_assert!(len <= 65_535, "a length beyond its field");
    u16::try_from(len).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Body, parse};
    use crate::tcp::segment::{Ecn, Flags, Options, SackBlocks, Timestamps};
    use crate::tcp::seq::SequenceNumber;
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const V4: Envelope = Envelope {
        source_mac: MacAddress([2, 0x74, 0x6f, 0x77, 0, 1]),
        target_mac: MacAddress([2, 0x74, 0x6f, 0x77, 0, 3]),
        source: Address::v4([93, 184, 216, 34]),
        target: Address::v4([10, 0, 2, 3]),
        hop_limit: 57,
        traffic_class: 0xb8,
        identification: 0x1234,
        dont_fragment: true,
    };
    const V6: Envelope = Envelope {
        source: Address::v6([
            0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34,
        ]),
        target: Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]),
        ..V4
    };

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
    }

    fn segment() -> Segment {
        let mut sack = SackBlocks::NONE;
        sack.push(SequenceNumber(5000), SequenceNumber(6000));
        Segment {
            source_port: 443,
            target_port: 40_000,
            sequence: SequenceNumber(0xdead_beef),
            acknowledgment: SequenceNumber(0x0102_0304),
            flags: Flags::ACK | Flags::PSH,
            window: 501,
            urgent: 0,
            options: Options {
                timestamps: Some(Timestamps {
                    value: 77,
                    echo: 88,
                }),
                sack,
                ..Options::default()
            },
            ..Segment::default()
        }
    }

    fn tcp_frame(e: &Envelope, segment: &Segment, payload: &[u8]) -> Vec<u8> {
        let mut out = [0xee; HEADER_MAX];
        let full = Checksum::Full(Sum::new().add(payload));
        let (len, offload) = tcp(&mut out, e, segment, payload.len(), None, full);
        assert_eq!(offload, Offload::NONE);
        [&out[..len], payload].concat()
    }

    fn udp_frame(e: &Envelope, payload: &[u8], checksum: Checksum) -> Vec<u8> {
        let mut out = [0xee; HEADER_MAX];
        let (len, _) = udp(&mut out, e, 53, 5353, payload.len(), None, checksum);
        [&out[..len], payload].concat()
    }

    /// Checks what every frame's outer headers must say, by the oracle.
    fn oracle<'a>(e: &Envelope, frame: &'a [u8]) -> PacketHeaders<'a> {
        let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let link = headers.link.clone().unwrap().ethernet2().unwrap();
        assert_eq!(link.source, e.source_mac.0);
        assert_eq!(link.destination, e.target_mac.0);
        match headers.net.as_ref().unwrap() {
            NetHeaders::Ipv4(ip, _) => {
                assert_eq!(Address::v4(ip.source), e.source);
                assert_eq!(Address::v4(ip.destination), e.target);
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                assert_eq!(ip.time_to_live, e.hop_limit);
                assert_eq!(ip.dscp.value() << 2 | ip.ecn.value(), e.traffic_class);
                assert_eq!(
                    usize::from(ip.total_len),
                    frame.len() - ethernet::HEADER_LEN
                );
            }
            NetHeaders::Ipv6(ip, _) => {
                assert_eq!(Address::v6(ip.source), e.source);
                assert_eq!(Address::v6(ip.destination), e.target);
                assert_eq!(ip.hop_limit, e.hop_limit);
                assert_eq!(ip.traffic_class, e.traffic_class);
                assert_eq!(usize::from(ip.payload_length), frame.len() - 54);
            }
            NetHeaders::Arp(_) => panic!("an IP packet is no ARP packet"),
        }
        headers
    }

    #[test]
    fn tcp_is_what_the_oracle_reads() {
        for e in [V4, V6] {
            for len in [0, 1, 1447, 1448] {
                let payload = bytes(len);
                let frame = tcp_frame(&e, &segment(), &payload);
                let headers = oracle(&e, &frame);
                let Some(TransportHeader::Tcp(tcp)) = &headers.transport else {
                    panic!("TCP")
                };
                assert_eq!((tcp.source_port, tcp.destination_port), (443, 40_000));
                assert_eq!(tcp.sequence_number, 0xdead_beef);
                assert_eq!(tcp.acknowledgment_number, 0x0102_0304);
                assert!(tcp.ack && tcp.psh && !tcp.syn && !tcp.fin && !tcp.rst);
                assert_eq!(tcp.window_size, 501);
                let checksum = match headers.net.as_ref().unwrap() {
                    NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, &payload).unwrap(),
                    NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, &payload).unwrap(),
                    NetHeaders::Arp(_) => panic!("ARP"),
                };
                assert_eq!(tcp.checksum, checksum);
                assert_eq!(headers.payload.slice(), payload);

                let packet = parse(&frame, &Offload::NONE).unwrap();
                let Body::Ip(ip) = packet.body.clone() else {
                    panic!("IP")
                };
                let Content::Transport(Transport::Tcp {
                    segment: read,
                    payload: range,
                }) = ip.content
                else {
                    panic!("TCP")
                };
                assert_eq!(read, segment());
                assert_eq!(packet.slice(&range), payload);
            }
        }
    }

    #[test]
    fn udp_is_what_the_oracle_reads() {
        for e in [V4, V6] {
            for len in [0, 1, 1400, 9000] {
                let payload = bytes(len);
                let frame = udp_frame(&e, &payload, Checksum::Full(Sum::new().add(&payload)));
                let headers = oracle(&e, &frame);
                let Some(TransportHeader::Udp(udp)) = &headers.transport else {
                    panic!("UDP")
                };
                assert_eq!((udp.source_port, udp.destination_port), (53, 5353));
                assert_eq!(usize::from(udp.length), 8 + len);
                let checksum = match headers.net.as_ref().unwrap() {
                    NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, &payload).unwrap(),
                    NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, &payload).unwrap(),
                    NetHeaders::Arp(_) => panic!("ARP"),
                };
                assert_eq!(udp.checksum, checksum);
                assert!(parse(&frame, &Offload::NONE).is_ok());
            }
        }
    }

    #[test]
    fn udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
        // Find the payload word that makes the sum all ones.
        let frame = udp_frame(&V4, &[0, 0], Checksum::Full(Sum::new()));
        let word = &frame[40..42];
        let frame = udp_frame(&V4, word, Checksum::Full(Sum::new().add(word)));
        assert_eq!(frame[40..42], [0xff, 0xff]);
        assert!(parse(&frame, &Offload::NONE).is_ok());
        let none = udp_frame(&V4, word, Checksum::None);
        assert_eq!(none[40..42], [0, 0]);
        assert!(parse(&none, &Offload::NONE).is_ok());
    }

    #[test]
    fn partial_checksums_are_completed_by_summing_from_start() {
        for e in [V4, V6] {
            let payload = bytes(1001);
            let full = tcp_frame(&e, &segment(), &payload);
            let mut out = [0; HEADER_MAX];
            let (len, offload) = tcp(
                &mut out,
                &e,
                &segment(),
                payload.len(),
                None,
                Checksum::Partial,
            );
            let ChecksumState::Partial { start, offset } = offload.checksum else {
                panic!("partial")
            };
            let mut frame = [&out[..len], &payload[..]].concat();
            let (start, offset) = (usize::from(start), usize::from(offset));
            // As virtio 1.2 §5.1.6.2 tells the device to do.
            let checksum = Sum::new().add(&frame[start..]).checksum();
            put(&mut frame, start + offset, checksum);
            assert_eq!(frame, full);
        }
    }

    #[test]
    fn super_frames_say_how_they_are_cut() {
        let mut out = [0; HEADER_MAX];
        let partial = Checksum::Partial;
        let (len, offload) = tcp(&mut out, &V4, &segment(), 60_000, Some(1448), partial);
        assert_eq!(len, 14 + 20 + 44);
        assert_eq!(
            offload.gso,
            Some(Gso {
                kind: GsoKind::TcpV4,
                size: 1448
            })
        );
        assert_eq!(offload.hdr_len, 78);
        assert_eq!(out[16..18], (20_u16 + 44 + 60_000).to_be_bytes());
        let (_, offload) = tcp(&mut out, &V6, &segment(), 60_000, Some(1428), partial);
        assert_eq!(
            offload.gso,
            Some(Gso {
                kind: GsoKind::TcpV6,
                size: 1428
            })
        );
        let (len, offload) = udp(&mut out, &V6, 1, 2, 60_000, Some(1200), partial);
        assert_eq!(
            offload.gso,
            Some(Gso {
                kind: GsoKind::UdpL4,
                size: 1200
            })
        );
        assert_eq!(len, 62);
        assert_eq!(out[58..60], (8_u16 + 60_000).to_be_bytes());
    }

    #[test]
    fn identification_only_where_it_means_something() {
        let mut out = [0; HEADER_MAX];
        udp(&mut out, &V4, 1, 2, 3, None, Checksum::None);
        assert_eq!(out[18..22], [0, 0, 0x40, 0]);
        let e = Envelope {
            dont_fragment: false,
            ..V4
        };
        udp(&mut out, &e, 1, 2, 3, None, Checksum::None);
        assert_eq!(out[18..22], [0x12, 0x34, 0, 0]);
    }

    #[test]
    fn echoes_are_what_the_oracle_reads() {
        let payload = bytes(57);
        for (e, reply) in [(V4, false), (V4, true), (V6, false), (V6, true)] {
            let echo = EchoHeader {
                reply,
                identifier: 0xabcd,
                sequence: 9,
            };
            let mut out = [0; HEADER_MAX];
            let sum = Sum::new().add(&payload);
            let len = icmp_echo(&mut out, &e, &echo, payload.len(), sum);
            let frame = [&out[..len], &payload[..]].concat();
            let headers = oracle(&e, &frame);
            let (kind, checksum, right) = match (&headers.transport, &headers.net) {
                (Some(TransportHeader::Icmpv4(icmp)), _) => {
                    let right = icmp.icmp_type.calc_checksum(&payload);
                    (icmp.to_bytes()[0], icmp.checksum, right)
                }
                (Some(TransportHeader::Icmpv6(icmp)), Some(NetHeaders::Ipv6(ip, _))) => {
                    let right = icmp
                        .icmp_type
                        .calc_checksum(ip.source, ip.destination, &payload)
                        .unwrap();
                    (icmp.to_bytes()[0], icmp.checksum, right)
                }
                _ => panic!("ICMP"),
            };
            let kinds = if e.source.is_v4() { [8, 0] } else { [128, 129] };
            assert_eq!(kind, kinds[usize::from(reply)]);
            assert_eq!(checksum, right);
            assert_eq!(frame[len - 4..len], [0xab, 0xcd, 0, 9]);
        }
    }

    /// Puts fragments together by their headers alone, as the oracle reads them.
    fn reassemble(e: &Envelope, mut fragments: Fragments, payload: &[u8], mtu: usize) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut ended = false;
        let mut out = [0; HEADER_MAX];
        let count = fragments.remaining();
        let mut seen = 0;
        while let Some((len, range)) = fragments.next(&mut out) {
            seen += 1;
            let frame = [&out[..len], &payload[range]].concat();
            assert!(frame.len() <= ethernet::HEADER_LEN + mtu, "fits the link");
            let headers = oracle(e, &frame);
            let (offset, more, header_len) = match headers.net.unwrap() {
                NetHeaders::Ipv4(ip, _) => {
                    assert_eq!(ip.identification, 0x5678);
                    assert!(!ip.dont_fragment);
                    (ip.fragment_offset.value(), ip.more_fragments, 34)
                }
                NetHeaders::Ipv6(_, extensions) => {
                    let fragment = extensions.fragment.unwrap();
                    assert_eq!(fragment.identification, 0x1234_5678);
                    (
                        fragment.fragment_offset.value(),
                        fragment.more_fragments,
                        62,
                    )
                }
                NetHeaders::Arp(_) => panic!("ARP"),
            };
            assert_eq!(
                usize::from(offset) * 8,
                whole.len(),
                "in order, without holes"
            );
            assert!(!ended, "nothing behind the last");
            ended = !more;
            whole.extend(&frame[header_len..]);
        }
        assert!(ended);
        assert_eq!(seen, count);
        whole
    }

    #[test]
    fn fragments_cover_the_largest_datagrams() {
        for (e, max) in [(V4, 65_507), (V6, 65_527)] {
            for (len, mtu) in [(1473, 1500), (3000, 1280), (max, 1500), (max, 65_520)] {
                let payload = bytes(len);
                let sum = Sum::new().add(&payload);
                let fragments = Fragments::udp(&e, 0x1234_5678, 53, 5353, len, sum, mtu);
                let whole = reassemble(&e, fragments, &payload, mtu);
                assert_eq!(whole[..4], [0, 53, 0x14, 0xe9]);
                assert_eq!(whole[4..6], (8 + len as u16).to_be_bytes());
                assert_eq!(whole[8..], payload);
                let sum = pseudo(&e, protocol::UDP, whole.len() as u32).add(&whole);
                assert!(sum.is_valid());
            }
        }
    }

    #[test]
    fn long_echoes_are_fragmented_too() {
        for e in [V4, V6] {
            let payload = bytes(5000);
            let echo = EchoHeader {
                reply: true,
                identifier: 1,
                sequence: 2,
            };
            let sum = Sum::new().add(&payload);
            let fragments = Fragments::icmp_echo(&e, 0x1234_5678, &echo, 5000, sum, 1500);
            let whole = reassemble(&e, fragments, &payload, 1500);
            assert_eq!(whole[4..8], [0, 1, 0, 2]);
            assert!(icmp_pseudo(&e, whole.len() as u32).add(&whole).is_valid());
        }
    }

    #[test]
    fn errors_quote_what_they_may() {
        for (e, kind, most) in [(V4, 3, 576), (V6, 1, 1280)] {
            for about_len in [28, 60, 2000] {
                let about = bytes(about_len);
                let mut out = [0; ERROR_MAX];
                let error = IcmpError {
                    kind,
                    code: 4,
                    parameter: 1300,
                };
                let len = icmp_error(&mut out, &e, &error, &about);
                let frame = &out[..len];
                oracle(&e, frame);
                let packet = parse(frame, &Offload::NONE).unwrap();
                let Body::Ip(ip) = &packet.body else {
                    panic!("IP")
                };
                let report = match &ip.content {
                    Content::Transport(Transport::IcmpV4(icmpv4::Message::Error(report))) => report,
                    Content::Transport(Transport::IcmpV6(icmpv6::Message::Error(report))) => report,
                    other => panic!("{other:?}"),
                };
                assert_eq!(
                    (report.kind, report.code, report.parameter),
                    (kind, 4, 1300)
                );
                let quoted = about_len.min(most - ip.header_len - 8);
                assert_eq!(packet.slice(&report.quote), &about[..quoted]);
                assert!(!may_report(ip), "no errors about errors");
            }
        }
    }

    #[test]
    fn errors_only_about_single_hosts_and_first_fragments() {
        let reportable = |e: &Envelope| {
            let frame = udp_frame(e, b"x", Checksum::Full(Sum::new().add(b"x")));
            let packet = parse(&frame, &Offload::NONE).unwrap();
            let Body::Ip(ip) = packet.body else {
                panic!("IP")
            };
            may_report(&ip)
        };
        assert!(reportable(&V4) && reportable(&V6));
        for target in [[255, 255, 255, 255], [224, 0, 0, 251]] {
            assert!(!reportable(&Envelope {
                target: Address::v4(target),
                ..V4
            }));
        }
        assert!(!reportable(&Envelope {
            source: Address::UNSPECIFIED_V4,
            ..V4
        }));
        assert!(!reportable(&Envelope {
            source: Address::UNSPECIFIED_V6,
            ..V6
        }));
        let all_nodes = Address::v6(crate::wire::ndp::ALL_NODES);
        assert!(!reportable(&Envelope {
            target: all_nodes,
            ..V6
        }));

        for e in [V4, V6] {
            let payload = bytes(4000);
            let mut fragments = Fragments::udp(&e, 1, 1, 2, 4000, Sum::new().add(&payload), 1500);
            let mut out = [0; HEADER_MAX];
            let mut first = true;
            while let Some((len, range)) = fragments.next(&mut out) {
                let frame = [&out[..len], &payload[range]].concat();
                let packet = parse(&frame, &Offload::NONE).unwrap();
                let Body::Ip(ip) = packet.body else {
                    panic!("IP")
                };
                assert_eq!(may_report(&ip), first);
                first = false;
            }
        }
    }

    #[test]
    fn fragmented_errors_are_recognised() {
        let begins = |protocol, payload, v4| {
            let fragment = Fragment {
                identification: 1,
                offset: 0,
                more: true,
                protocol,
                payload,
            };
            begins_error(&fragment, v4)
        };
        assert!(begins(1, &[3, 1, 0, 0], true));
        assert!(!begins(1, &[8, 0, 0, 0], true));
        assert!(!begins(17, &[3, 1, 0, 0], true));
        assert!(begins(58, &[1, 4, 0, 0], false));
        assert!(!begins(58, &[128, 0, 0, 0], false));
        assert!(begins(60, &[58, 0, 1, 4, 0, 0, 0, 0, 1, 4, 0, 0], false));
        assert!(!begins(60, &[58, 0, 1, 4, 0, 0, 0, 0, 128, 0, 0, 0], false));
        assert!(begins(60, &[58, 9, 1, 4, 0, 0, 0, 0], false), "not known");
    }

    #[test]
    fn arp_golden_bytes() {
        let packet = ArpPacket {
            operation: crate::wire::arp::Operation::Reply,
            sender_mac: V4.source_mac,
            sender: [10, 0, 2, 1],
            target_mac: V4.target_mac,
            target: [10, 0, 2, 3],
        };
        let frame = arp(V4.source_mac, V4.target_mac, &packet);
        let golden = [
            2, 0x74, 0x6f, 0x77, 0, 3, 2, 0x74, 0x6f, 0x77, 0, 1, 8, 6, // ethernet
            0, 1, 8, 0, 6, 4, 0, 2, // reply
            2, 0x74, 0x6f, 0x77, 0, 1, 10, 0, 2, 1, 2, 0x74, 0x6f, 0x77, 0, 3, 10, 0, 2, 3,
        ];
        assert_eq!(frame.as_slice(), golden);
    }

    proptest! {
        #[test]
        fn any_cut_covers_all(
            len in 0_usize..20_000, mtu in 0_usize..3000, v4 in any::<bool>(),
        ) {
            let e = if v4 { V4 } else { V6 };
            let payload = vec![0xa5; len];
            let fragments = Fragments::udp(
                &e, 0x1234_5678, 1, 2, len, Sum::new().add(&payload), mtu,
            );
            let mtu = mtu.max(if v4 { 68 } else { 1280 });
            prop_assert_eq!(reassemble(&e, fragments, &payload, mtu).len(), len + 8);
        }

        #[test]
        fn any_tcp_header_is_read_as_it_was_written(
            e in any_envelope(), segment in any_segment(), len in 0_usize..1400,
        ) {
            let payload = bytes(len);
            let frame = tcp_frame(&e, &segment, &payload);
            let packet = read(&e, &frame, &Offload::NONE)?;
            let Content::Transport(Transport::Tcp { segment: again, payload: range }) =
                &packet.content
            else {
                panic!("{packet:?}");
            };
            prop_assert_eq!(again, &segment);
            prop_assert_eq!(&frame[range.start as usize..range.end as usize], &payload[..]);
        }

        #[test]
        fn any_udp_header_is_read_as_it_was_written(
            e in any_envelope(), len in 0_usize..1400,
        ) {
            let payload = bytes(len);
            let frame = udp_frame(&e, &payload, Checksum::Full(Sum::new().add(&payload)));
            let packet = read(&e, &frame, &Offload::NONE)?;
            let Content::Transport(Transport::Udp { source_port, target_port, payload: range }) =
                &packet.content
            else {
                panic!("{packet:?}");
            };
            prop_assert_eq!((*source_port, *target_port), (53, 5353));
            prop_assert_eq!(&frame[range.start as usize..range.end as usize], &payload[..]);
        }

        #[test]
        fn any_echo_is_read_as_it_was_written(
            e in any_envelope(), reply in any::<bool>(), identifier in any::<u16>(),
            sequence in any::<u16>(), len in 0_usize..1400,
        ) {
            let payload = bytes(len);
            let header = EchoHeader { reply, identifier, sequence };
            let mut out = [0xee; HEADER_MAX];
            let sum = Sum::new().add(&payload);
            let header_len = icmp_echo(&mut out, &e, &header, len, sum);
            let frame = [&out[..header_len], &payload].concat();
            let packet = read(&e, &frame, &Offload::NONE)?;
            let Content::Transport(transport) = &packet.content else {
                panic!("{packet:?}");
            };
            let (again, echo) = match transport {
                Transport::IcmpV4(icmpv4::Message::EchoRequest(echo))
                | Transport::IcmpV6(icmpv6::Message::EchoRequest(echo)) => (false, echo),
                Transport::IcmpV4(icmpv4::Message::EchoReply(echo))
                | Transport::IcmpV6(icmpv6::Message::EchoReply(echo)) => (true, echo),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(again, reply);
            prop_assert_eq!((echo.identifier, echo.sequence), (identifier, sequence));
            let range = echo.payload.start as usize..echo.payload.end as usize;
            prop_assert_eq!(&frame[range], &payload[..]);
        }

        /// The link completes a partial checksum to the one that we would have written.
        #[test]
        fn a_partial_checksum_completes_to_the_full_one(
            e in any_envelope(), segment in any_segment(), len in 0_usize..1400,
        ) {
            let payload = bytes(len);
            let mut out = [0xee; HEADER_MAX];
            let (n, offload) = tcp(&mut out, &e, &segment, len, None, Checksum::Partial);
            let partial = [&out[..n], &payload].concat();
            prop_assert_eq!(complete(partial, &offload), tcp_frame(&e, &segment, &payload));

            let mut out = [0xee; HEADER_MAX];
            let (n, offload) = udp(&mut out, &e, 53, 5353, len, None, Checksum::Partial);
            let partial = [&out[..n], &payload].concat();
            let full = udp_frame(&e, &payload, Checksum::Full(Sum::new().add(&payload)));
            let mut completed = complete(partial, &offload);
            // A link does not know that it is UDP, where a zero is written as all ones (RFC 768).
            let at = transport_offset(&e) + UDP_CHECKSUM_OFFSET;
            if completed[at..at + 2] == [0, 0] {
                completed[at..at + 2].fill(0xff);
            }
            prop_assert_eq!(completed, full);
        }
    }

    fn any_envelope() -> impl Strategy<Value = Envelope> {
        let fields = (
            any::<bool>(),
            any::<u8>(),
            any::<u8>(),
            any::<u16>(),
            any::<bool>(),
        );
        fields.prop_map(
            |(v4, hop_limit, traffic_class, identification, dont_fragment)| {
                let e = if v4 { V4 } else { V6 };
                Envelope {
                    hop_limit,
                    traffic_class,
                    identification,
                    dont_fragment,
                    ..e
                }
            },
        )
    }

    /// With options that find room all together.
    fn any_segment() -> impl Strategy<Value = Segment> {
        let numbers = (
            any::<u16>(),
            any::<u16>(),
            any::<u32>(),
            any::<u32>(),
            any::<u16>(),
        );
        let options = (
            prop::option::of(any::<u16>()),
            prop::option::of(0_u8..=14),
            any::<bool>(),
            prop::option::of(any::<(u32, u32)>()),
            prop::option::of(any::<(u32, u32)>()),
        );
        (numbers, any::<u8>(), any::<u16>(), options).prop_map(
            |((source_port, target_port, sequence, acknowledgment, window), flags, urgent, o)| {
                let (mss, window_scale, sack_permitted, timestamps, block) = o;
                let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
                let mut sack = SackBlocks::NONE;
                if let Some((left, right)) = block {
                    sack.push(SequenceNumber(left), SequenceNumber(right));
                }
                Segment {
                    source_port,
                    target_port,
                    sequence: SequenceNumber(sequence),
                    acknowledgment: SequenceNumber(acknowledgment),
                    flags: Flags(flags),
                    window,
                    urgent,
                    ecn: Ecn::default(),
                    options: Options {
                        mss,
                        window_scale,
                        sack_permitted,
                        timestamps,
                        sack,
                    },
                }
            },
        )
    }

    /// Reads a frame and checks what its envelope said.
    fn read<'a>(
        e: &Envelope,
        frame: &'a [u8],
        offload: &Offload,
    ) -> Result<IpPacket<'a>, TestCaseError> {
        let packet = parse(frame, offload).expect("our own frame");
        prop_assert_eq!(packet.ethernet.source, e.source_mac);
        prop_assert_eq!(packet.ethernet.target, e.target_mac);
        let Body::Ip(ip) = packet.body else {
            panic!("an IP packet");
        };
        prop_assert_eq!((ip.source, ip.target), (e.source, e.target));
        prop_assert_eq!(
            (ip.hop_limit, ip.traffic_class),
            (e.hop_limit, e.traffic_class)
        );
        prop_assert_eq!(ip.dont_fragment, e.dont_fragment || !e.source.is_v4());
        Ok(ip)
    }

    /// What a link does with a partial checksum (virtio 1.2 §5.1.6.2), word by word.
    fn complete(mut frame: Vec<u8>, offload: &Offload) -> Vec<u8> {
        let ChecksumState::Partial { start, offset } = offload.checksum else {
            panic!("{offload:?}");
        };
        let mut sum = 0_u32;
        for pair in frame[usize::from(start)..].chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        let at = usize::from(start + offset);
        frame[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        frame
    }
}

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
use crate::parse::{Content, IpPacket, Transport};
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

/// Writes a whole frame with an ICMP or ICMPv6 error, by the envelope's IP version, about the packet
/// `about` (from its IP header on), of which as much is quoted as the error may hold. Returns the
/// frame's length in bytes. Ask [`may_report`] first.
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

/// Whether an ICMP error may be sent about a packet (RFC 1122 §3.2.2, RFC 4443 §2.4e): not about
/// errors, nor about what went to or came from many, nor about fragments but the first. Whether
/// the frame itself was a link-layer broadcast is for the caller to know.
pub fn may_report(packet: &IpPacket<'_>) -> bool {
    let of_one_host = |address: &Address| match address.as_v4() {
        Some([a, b, c, d]) => a != 0 && a < 224 && [a, b, c, d] != [255; 4],
        None => *address != Address::UNSPECIFIED_V6 && address.octets()[0] != 0xff,
    };
    if !of_one_host(&packet.source) || !of_one_host(&packet.target) {
        return false;
    }
    match &packet.content {
        Content::Fragment(fragment) => {
            // The type of an ICMP message is its first byte, which the first fragment has.
            let kind = fragment.payload.first();
            fragment.offset == 0
                && match (fragment.protocol, packet.source.is_v4()) {
                    (protocol::ICMP, true) => kind.is_some_and(|&k| !icmpv4::is_error(k)),
                    (protocol::ICMPV6, false) => kind.is_some_and(|&k| !icmpv6::is_error(k)),
                    _ => true,
                }
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

//! One pass over a received frame: ethernet, then ARP or IP, then the transport header.
//!
//! Nothing is copied: a [`Packet`] holds the frame, and payloads are ranges in it, so that their
//! owner can cut slices of its buffer. Everything that a later stage relies on is checked here,
//! once: lengths lie inside the frame, checksums hold (or the link vouches for them), addresses
//! can't be mistaken for those of the other IP version. What fails has a reason, [`Drop`], which
//! is an index for counters.
//!
//! **Checksums.** The header checksum of IPv4 is always verified. Those of TCP, UDP and ICMP are
//! verified unless the offload header says that the link did it, or that the frame never left its
//! machine and the field is still to be completed; the latter only counts when it speaks of the
//! header that we read.
//!
//! **Lengths.** Bytes behind the IP packet are ethernet padding and cut off. A packet that says
//! that it is longer than its frame is dropped. A super-frame is as long as its frame: its senders
//! do not agree on what the length field says.

use core::ops::Range;

use crate::Address;
use crate::tcp::segment::Segment;
use crate::wire::arp::{self, ArpPacket};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{self, EtherType, MacAddress};
use crate::wire::offload::{ChecksumState, Offload};
use crate::wire::{icmpv4, icmpv6, ipv4, ipv6, protocol, tcp, udp};

/// Longest IP packet in bytes: what the length field of IPv4 can say.
const PACKET_MAX: usize = 65_535;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a frame was dropped by the parser.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Drop {
            $($(#[$doc])* $name,)*
        }

        impl Drop {
            /// All reasons; each stands at its own [`index`](Self::index).
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            /// A short name for counters and reports, in lower case with underscores.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// Shorter than an ethernet header.
    TruncatedEthernet => "truncated_ethernet",
    /// Neither IPv4, IPv6 nor ARP.
    UnknownEtherType => "unknown_ether_type",
    /// An ARP packet that is cut short.
    TruncatedArp => "truncated_arp",
    /// ARP for other than IPv4 over ethernet, or neither request nor reply.
    UnsupportedArp => "unsupported_arp",
    /// An IPv4 header that is cut short.
    TruncatedIpv4 => "truncated_ipv4",
    /// The version field of an IPv4 packet is not 4.
    BadIpv4Version => "bad_ipv4_version",
    /// An IPv4 header length below 20 bytes.
    BadIpv4HeaderLength => "bad_ipv4_header_length",
    /// An IPv4 total length below the header's or beyond the frame.
    BadIpv4TotalLength => "bad_ipv4_total_length",
    /// A wrong IPv4 header checksum.
    BadIpv4Checksum => "bad_ipv4_checksum",
    /// IPv4 options that have no end.
    BadIpv4Options => "bad_ipv4_options",
    /// An IPv4 source route.
    SourceRoute => "source_route",
    /// An IPv6 header that is cut short.
    TruncatedIpv6 => "truncated_ipv6",
    /// The version field of an IPv6 packet is not 6.
    BadIpv6Version => "bad_ipv6_version",
    /// An IPv6 payload length beyond the frame.
    BadIpv6PayloadLength => "bad_ipv6_payload_length",
    /// An IPv6 jumbogram (RFC 2675).
    Jumbogram => "jumbogram",
    /// An IPv6 extension header that is cut short or out of place.
    BadExtensionHeader => "bad_extension_header",
    /// An IPv6 option that is not known and says that its packet shall be discarded then, or one
    /// without an end.
    BadIpv6Option => "bad_ipv6_option",
    /// Too many IPv6 extension headers.
    TooManyExtensionHeaders => "too_many_extension_headers",
    /// An IPv6 routing header that leads elsewhere.
    RoutingHeader => "routing_header",
    /// An IPv4-mapped or IPv4-compatible address in an IPv6 packet.
    MappedAddress => "mapped_address",
    /// A multicast or broadcast source address (RFC 1122 §3.2.1.3, RFC 4291 §2.7).
    BadSource => "bad_source",
    /// A fragment that is empty, too far out, or not a multiple of 8 bytes.
    BadFragment => "bad_fragment",
    /// A TCP header that is cut short.
    TruncatedTcp => "truncated_tcp",
    /// A TCP data offset below 20 bytes or beyond the packet.
    BadTcpOffset => "bad_tcp_offset",
    /// A UDP header that is cut short.
    TruncatedUdp => "truncated_udp",
    /// A UDP length below 8 bytes or beyond the packet.
    BadUdpLength => "bad_udp_length",
    /// UDP over IPv6 without checksum (RFC 8200 §8.1).
    MissingUdpChecksum => "missing_udp_checksum",
    /// An ICMP or ICMPv6 header that is cut short.
    TruncatedIcmp => "truncated_icmp",
    /// A neighbour discovery message that RFC 4861 declares invalid.
    BadNdp => "bad_ndp",
    /// A wrong checksum of TCP, UDP, ICMP or ICMPv6.
    BadTransportChecksum => "bad_transport_checksum",
}

impl Drop {
    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A parsed frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The frame, which the ranges of a transport's payload refer to.
    pub frame: &'a [u8],
    /// Who sent it to whom on the link.
    pub ethernet: Ethernet,
    /// What it carries.
    pub body: Body<'a>,
}

/// The addresses of an ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Who sent the frame.
    pub source: MacAddress,
    /// Who shall get it.
    pub target: MacAddress,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// An ARP packet.
    Arp(ArpPacket),
    /// An IP packet.
    Ip(IpPacket<'a>),
}

/// An IP packet of either version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPacket<'a> {
    /// Source address; never multicast.
    pub source: Address,
    /// Destination address.
    pub target: Address,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The TOS byte or traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Whether it must not be fragmented; always true for IPv6.
    pub dont_fragment: bool,
    /// Protocol of the transport header, extension headers skipped; in a fragment of IPv6 that is
    /// not the first, what the fragment header says.
    pub protocol: u8,
    /// The whole packet without ethernet padding, for quoting in ICMP errors.
    pub bytes: &'a [u8],
    /// Length in bytes of all IP headers: options and extension headers included.
    pub header_len: usize,
    /// What it carries.
    pub content: Content<'a>,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A part of a larger packet.
    Fragment(Fragment<'a>),
    /// A whole transport packet.
    Transport(Transport),
}

/// A fragment, for [`Reassembler`](crate::fragment::Reassembler).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// What the fragments of a packet share; 16 bits in IPv4.
    pub identification: u32,
    /// Offset of the payload in bytes, a multiple of 8.
    pub offset: u16,
    /// Whether fragments with higher offsets exist; then the payload is a multiple of 8 bytes.
    pub more: bool,
    /// Protocol of the packet, or the first extension header that was fragmented with it.
    pub protocol: u8,
    /// The bytes of the fragment, at least 1; offset and length together are at most 65,535.
    pub payload: &'a [u8],
}

/// A transport header; payloads are ranges of the buffer that was parsed, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// The header.
        segment: Segment,
        /// The data.
        payload: Range<u32>,
    },
    /// UDP; a super-frame of many datagrams has them all in its payload, each but the last as long
    /// as the offload header says.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        target_port: u16,
        /// The data.
        payload: Range<u32>,
    },
    /// ICMP in IPv4.
    IcmpV4(icmpv4::Message),
    /// ICMPv6 in IPv6.
    IcmpV6(icmpv6::Message),
    /// Any other protocol.
    Other {
        /// Its number.
        protocol: u8,
        /// Everything behind the IP headers.
        payload: Range<u32>,
    },
}

impl<'a> Packet<'a> {
    /// The bytes of a range that a part of this packet gave; empty when it is not of this packet.
    pub fn slice(&self, range: &Range<u32>) -> &'a [u8] {
        self.frame
            .get(range.start as usize..range.end as usize)
            .unwrap_or(&[])
    }
}

/// Reads a frame, from the ethernet header on.
pub fn parse<'a>(frame: &'a [u8], offload: &Offload) -> Result<Packet<'a>, Drop> {
    let (header, _) = ethernet::Header::parse(frame).ok_or(Drop::TruncatedEthernet)?;
    let ethernet = Ethernet {
        source: header.source,
        target: header.target,
    };
    let body = match header.ether_type() {
        EtherType::IPV4 => Body::Ip(parse_ipv4(frame, offload)?),
        EtherType::IPV6 => Body::Ip(parse_ipv6(frame, offload)?),
        EtherType::ARP => Body::Arp(parse_arp(frame)?),
        _ => return Err(Drop::UnknownEtherType),
    };
    Ok(Packet {
        frame,
        ethernet,
        body,
    })
}

/// Reads a transport packet whose IP headers are gone, such as a reassembled one; ranges in the
/// answer refer to `bytes`. Extension headers of IPv6 that were fragmented with it are skipped. A
/// partial checksum counts as right only when it begins where the transport header does.
pub fn parse_transport(
    source: Address,
    target: Address,
    protocol: u8,
    bytes: &[u8],
    checksum: ChecksumState,
) -> Result<Transport, Drop> {
    if bytes.len() > PACKET_MAX {
        return Err(Drop::BadFragment);
    }
    let (mut protocol, mut start) = (protocol, 0);
    if !source.is_v4() {
        let walk = ipv6::walk_extensions(protocol, bytes, false)?;
        if walk.fragment.is_some() {
            return Err(Drop::BadExtensionHeader);
        }
        (protocol, start) = (walk.protocol, walk.offset);
    }
    let place = Place {
        buffer: bytes,
        start,
        end: bytes.len(),
    };
    transport(&place, source, target, protocol, checksum)
}

fn parse_arp(frame: &[u8]) -> Result<ArpPacket, Drop> {
    let bytes = frame
        .get(ethernet::HEADER_LEN..)
        .ok_or(Drop::TruncatedArp)?;
    ArpPacket::parse(bytes).map_err(|error| match error {
        arp::Error::Truncated => Drop::TruncatedArp,
        arp::Error::Unsupported => Drop::UnsupportedArp,
    })
}

#[inline]
fn parse_ipv4<'a>(frame: &'a [u8], offload: &Offload) -> Result<IpPacket<'a>, Drop> {
    let bytes = frame
        .get(ethernet::HEADER_LEN..)
        .ok_or(Drop::TruncatedIpv4)?;
    let (header, header_len) = ipv4::Header::parse(bytes)?;
    let len = match offload.gso {
        None => usize::from(header.total_len()),
        Some(_) => bytes.len(),
    };
    if len < header_len || len > PACKET_MAX {
        return Err(Drop::BadIpv4TotalLength);
    }
    let bytes = bytes.get(..len).ok_or(Drop::BadIpv4TotalLength)?;
    // RFC 1122 §3.2.1.3: a source address is that of one host.
    if header.source[0] & 0xf0 == 0xe0 || header.source == [255; 4] {
        return Err(Drop::BadSource);
    }
    let (source, target) = (Address::v4(header.source), Address::v4(header.target));
    let protocol = header.protocol;
    let content = if header.is_fragment() {
        let payload = bytes.get(header_len..).ok_or(Drop::BadIpv4TotalLength)?;
        let (offset, more) = (header.fragment_offset(), header.more_fragments());
        // RFC 791 §3.2: fragments are cut at multiples of 8, and the whole fits 65,535 bytes.
        let fits = header_len + usize::from(offset) + payload.len() <= PACKET_MAX;
        if payload.is_empty() || !fits || (more && !payload.len().is_multiple_of(8)) {
            return Err(Drop::BadFragment);
        }
        let identification = u32::from(header.identification());
        Content::Fragment(Fragment {
            identification,
            offset,
            more,
            protocol,
            payload,
        })
    } else {
        let start = ethernet::HEADER_LEN + header_len;
        let place = Place {
            buffer: frame,
            start,
            end: ethernet::HEADER_LEN + len,
        };
        Content::Transport(transport(
            &place,
            source,
            target,
            protocol,
            offload.checksum,
        )?)
    };
    Ok(IpPacket {
        source,
        target,
        hop_limit: header.hop_limit,
        traffic_class: header.traffic_class,
        dont_fragment: header.dont_fragment(),
        protocol,
        bytes,
        header_len,
        content,
    })
}

#[inline]
fn parse_ipv6<'a>(frame: &'a [u8], offload: &Offload) -> Result<IpPacket<'a>, Drop> {
    let bytes = frame
        .get(ethernet::HEADER_LEN..)
        .ok_or(Drop::TruncatedIpv6)?;
    let header = ipv6::Header::parse(bytes)?;
    let len = match offload.gso {
        None => ipv6::HEADER_LEN + usize::from(header.payload_len()),
        Some(_) => bytes.len(),
    };
    // RFC 2675 §2: length 0 with hop-by-hop options, where the true length would be.
    if header.payload_len() == 0 && header.next_header == protocol::HOP_BY_HOP {
        return Err(Drop::Jumbogram);
    }
    if len > ipv6::HEADER_LEN + PACKET_MAX {
        return Err(Drop::BadIpv6PayloadLength);
    }
    let bytes = bytes.get(..len).ok_or(Drop::BadIpv6PayloadLength)?;
    if embeds_ipv4(&header.source) || embeds_ipv4(&header.target) {
        return Err(Drop::MappedAddress);
    }
    // RFC 4291 §2.7: multicast addresses are never a source.
    if header.source[0] == 0xff {
        return Err(Drop::BadSource);
    }
    let (source, target) = (Address::v6(header.source), Address::v6(header.target));
    let payload = bytes.get(ipv6::HEADER_LEN..).ok_or(Drop::TruncatedIpv6)?;
    let walk = ipv6::walk_extensions(header.next_header, payload, true)?;
    let header_len = ipv6::HEADER_LEN + walk.offset;
    let protocol = walk.protocol;
    let content = if let Some(fragment) = walk.fragment {
        let ipv6::FragmentInfo {
            identification,
            offset,
            more,
        } = fragment;
        let payload = bytes.get(header_len..).ok_or(Drop::BadFragment)?;
        Content::Fragment(Fragment {
            identification,
            offset,
            more,
            protocol,
            payload,
        })
    } else {
        let start = ethernet::HEADER_LEN + header_len;
        let place = Place {
            buffer: frame,
            start,
            end: ethernet::HEADER_LEN + len,
        };
        Content::Transport(transport(
            &place,
            source,
            target,
            protocol,
            offload.checksum,
        )?)
    };
    Ok(IpPacket {
        source,
        target,
        hop_limit: header.hop_limit,
        traffic_class: header.traffic_class(),
        dont_fragment: true,
        protocol,
        bytes,
        header_len,
        content,
    })
}

/// Whether an address lies in `::/96` (IPv4-compatible) or `::ffff:0:0/96` (IPv4-mapped), `::` and
/// `::1` excepted. Neither belongs on the wire (RFC 4291 §2.5.5, RFC 4942 §2.2), and the latter
/// would be taken for IPv4.
fn embeds_ipv4(address: &[u8; 16]) -> bool {
    let value = u128::from_be_bytes(*address);
    let high = value >> 32;
    high == 0xffff || (high == 0 && value > 1)
}

/// Where a transport packet is: `start..end` of a buffer, inside it.
struct Place<'a> {
    buffer: &'a [u8],
    start: usize,
    end: usize,
}

impl Place<'_> {
    /// The range from `skip` bytes behind the start. Buffers are far below 4 GiB.
    fn behind(&self, skip: usize) -> Range<u32> {
        (self.start + skip) as u32..self.end as u32
    }
}

#[inline]
fn transport(
    place: &Place<'_>,
    source: Address,
    target: Address,
    protocol: u8,
    checksum: ChecksumState,
) -> Result<Transport, Drop> {
    let bytes = place.buffer.get(place.start..place.end).unwrap_or(&[]);
    let trusted = match checksum {
        ChecksumState::Unverified => false,
        ChecksumState::Partial { start, offset: _ } => usize::from(start) == place.start,
        ChecksumState::Verified => true,
    };
    let pseudo = |len: usize| Sum::new().add_pseudo(source, target, protocol, len as u32);
    match protocol {
        protocol::TCP => {
            let (segment, header_len) = tcp::parse(bytes)?;
            // RFC 9293 §3.1, MUST-3: the receiver must check it.
            if !trusted && !pseudo(bytes.len()).add(bytes).is_valid() {
                return Err(Drop::BadTransportChecksum);
            }
            Ok(Transport::Tcp {
                segment,
                payload: place.behind(header_len),
            })
        }
        protocol::UDP => {
            let (header, len) = udp::Header::parse(bytes)?;
            let bytes = bytes.get(..len).ok_or(Drop::BadUdpLength)?;
            if !trusted {
                match header.checksum() {
                    // RFC 768: the sender made none. RFC 8200 §8.1: not over IPv6.
                    0 if source.is_v4() => {}
                    0 => return Err(Drop::MissingUdpChecksum),
                    _ if pseudo(len).add(bytes).is_valid() => {}
                    _ => return Err(Drop::BadTransportChecksum),
                }
            }
            let from = place.start + udp::HEADER_LEN;
            Ok(Transport::Udp {
                source_port: header.source_port(),
                target_port: header.target_port(),
                payload: from as u32..(place.start + len) as u32,
            })
        }
        protocol::ICMP if source.is_v4() => {
            if !trusted && !Sum::new().add(bytes).is_valid() {
                return Err(icmp_fault(bytes));
            }
            let message = icmpv4::Message::parse(place.buffer, place.behind(0))
                .map_err(|icmpv4::Truncated| Drop::TruncatedIcmp)?;
            Ok(Transport::IcmpV4(message))
        }
        protocol::ICMPV6 if !source.is_v4() => {
            if !trusted && !pseudo(bytes.len()).add(bytes).is_valid() {
                return Err(icmp_fault(bytes));
            }
            let message = icmpv6::Message::parse(place.buffer, place.behind(0)).map_err(
                |error| match error {
                    icmpv6::Error::Truncated => Drop::TruncatedIcmp,
                    icmpv6::Error::BadNdp => Drop::BadNdp,
                },
            )?;
            Ok(Transport::IcmpV6(message))
        }
        protocol => Ok(Transport::Other {
            protocol,
            payload: place.behind(0),
        }),
    }
}

/// The better name for an ICMP message that does not sum up.
fn icmp_fault(bytes: &[u8]) -> Drop {
    if bytes.len() < icmpv4::HEADER_LEN {
        Drop::TruncatedIcmp
    } else {
        Drop::BadTransportChecksum
    }
}

impl From<ipv4::Error> for Drop {
    fn from(error: ipv4::Error) -> Self {
        match error {
            ipv4::Error::Truncated => Self::TruncatedIpv4,
            ipv4::Error::BadVersion => Self::BadIpv4Version,
            ipv4::Error::BadHeaderLength => Self::BadIpv4HeaderLength,
            ipv4::Error::BadChecksum => Self::BadIpv4Checksum,
            ipv4::Error::BadOptions => Self::BadIpv4Options,
            ipv4::Error::SourceRoute => Self::SourceRoute,
        }
    }
}

impl From<ipv6::Error> for Drop {
    fn from(error: ipv6::Error) -> Self {
        match error {
            ipv6::Error::Truncated => Self::TruncatedIpv6,
            ipv6::Error::BadVersion => Self::BadIpv6Version,
            ipv6::Error::BadExtensionHeader => Self::BadExtensionHeader,
            ipv6::Error::TooManyExtensionHeaders => Self::TooManyExtensionHeaders,
            ipv6::Error::RoutingHeader => Self::RoutingHeader,
            ipv6::Error::BadFragment => Self::BadFragment,
            ipv6::Error::BadOption => Self::BadIpv6Option,
        }
    }
}

impl From<tcp::Error> for Drop {
    fn from(error: tcp::Error) -> Self {
        match error {
            tcp::Error::Truncated => Self::TruncatedTcp,
            tcp::Error::BadOffset => Self::BadTcpOffset,
        }
    }
}

impl From<udp::Error> for Drop {
    fn from(error: udp::Error) -> Self {
        match error {
            udp::Error::Truncated => Self::TruncatedUdp,
            udp::Error::BadLength => Self::BadUdpLength,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::offload::{Gso, GsoKind};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::vec;
    use std::vec::Vec;

    const GUEST: MacAddress = MacAddress([2, 0x74, 0x6f, 0x77, 0, 3]);
    const GATEWAY: MacAddress = MacAddress([2, 0x74, 0x6f, 0x77, 0, 1]);
    const A4: [u8; 4] = [10, 0, 2, 3];
    const B4: [u8; 4] = [93, 184, 216, 34];
    const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    const B6: [u8; 16] = [
        0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34,
    ];

    const V4: usize = ethernet::HEADER_LEN;
    const TRANSPORT4: usize = V4 + ipv4::HEADER_LEN;
    const TRANSPORT6: usize = V4 + ipv6::HEADER_LEN;

    type Step = etherparse::PacketBuilderStep<etherparse::IpHeaders>;

    fn step(v4: bool) -> Step {
        let step = PacketBuilder::ethernet2(GUEST.0, GATEWAY.0);
        if v4 {
            step.ipv4(A4, B4, 61)
        } else {
            step.ipv6(A6, B6, 61)
        }
    }

    fn tcp_frame(v4: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        step(v4)
            .tcp(40_000, 443, 77, 501)
            .ack(88)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    fn udp_frame(v4: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        step(v4).udp(5353, 53).write(&mut frame, payload).unwrap();
        frame
    }

    fn reason(frame: &[u8]) -> Drop {
        parse(frame, &Offload::NONE).unwrap_err()
    }

    fn ip<'a>(frame: &'a [u8], offload: &Offload) -> IpPacket<'a> {
        match parse(frame, offload).unwrap().body {
            Body::Ip(ip) => ip,
            Body::Arp(_) => panic!("ARP"),
        }
    }

    fn transport_of(frame: &[u8], offload: &Offload) -> Transport {
        match ip(frame, offload).content {
            Content::Transport(transport) => transport,
            Content::Fragment(_) => panic!("fragment"),
        }
    }

    /// Makes an IPv4 header right again after a change.
    fn refresh_ipv4(frame: &mut [u8]) {
        frame[V4 + 10..V4 + 12].fill(0);
        let header_len = usize::from(frame[V4] & 0xf) * 4;
        let checksum = Sum::new().add(&frame[V4..V4 + header_len]).checksum();
        frame[V4 + 10..V4 + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn reasons_index_their_table() {
        let names: HashSet<_> = Drop::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Drop::ALL.len());
        for (index, reason) in Drop::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }

    #[test]
    fn what_the_oracle_writes_is_read() {
        for v4 in [true, false] {
            let frame = tcp_frame(v4, b"hello");
            let packet = parse(&frame, &Offload::NONE).unwrap();
            assert_eq!(
                packet.ethernet,
                Ethernet {
                    source: GUEST,
                    target: GATEWAY
                }
            );
            let Body::Ip(ip) = packet.body.clone() else {
                panic!("IP")
            };
            if v4 {
                assert_eq!((ip.source, ip.target), (Address::v4(A4), Address::v4(B4)));
            } else {
                assert_eq!((ip.source, ip.target), (Address::v6(A6), Address::v6(B6)));
            }
            assert_eq!((ip.hop_limit, ip.traffic_class, ip.protocol), (61, 0, 6));
            assert_eq!(ip.bytes, &frame[V4..]);
            assert_eq!(ip.header_len, if v4 { 20 } else { 40 });
            let Content::Transport(Transport::Tcp { segment, payload }) = ip.content else {
                panic!("TCP")
            };
            assert_eq!((segment.source_port, segment.target_port), (40_000, 443));
            assert_eq!((segment.sequence.0, segment.acknowledgment.0), (77, 88));
            assert!(segment.flags.ack() && segment.window == 501);
            assert_eq!(packet.slice(&payload), b"hello");

            let frame = udp_frame(v4, b"query");
            let Transport::Udp {
                source_port,
                target_port,
                payload,
            } = transport_of(&frame, &Offload::NONE)
            else {
                panic!("UDP")
            };
            assert_eq!((source_port, target_port), (5353, 53));
            assert_eq!(
                &frame[payload.start as usize..payload.end as usize],
                b"query"
            );
        }
    }

    #[test]
    fn echoes_are_read() {
        let mut frame = Vec::new();
        step(true)
            .icmpv4_echo_request(0x1234, 7)
            .write(&mut frame, b"ping")
            .unwrap();
        let Transport::IcmpV4(icmpv4::Message::EchoRequest(echo)) =
            transport_of(&frame, &Offload::NONE)
        else {
            panic!("echo request")
        };
        assert_eq!(
            (echo.identifier, echo.sequence, echo.payload),
            (0x1234, 7, 42..46)
        );
        frame[45] ^= 1;
        assert_eq!(reason(&frame), Drop::BadTransportChecksum);

        let mut frame = Vec::new();
        step(false)
            .icmpv6_echo_request(0x1234, 7)
            .write(&mut frame, b"ping")
            .unwrap();
        let Transport::IcmpV6(icmpv6::Message::EchoRequest(echo)) =
            transport_of(&frame, &Offload::NONE)
        else {
            panic!("echo request")
        };
        assert_eq!(
            (echo.identifier, echo.sequence, echo.payload),
            (0x1234, 7, 62..66)
        );
        frame[65] ^= 1;
        assert_eq!(reason(&frame), Drop::BadTransportChecksum);
    }

    #[test]
    fn padding_is_cut_off() {
        for v4 in [true, false] {
            let mut frame = udp_frame(v4, b"x");
            let len = frame.len();
            frame.extend([0xaa; 17]);
            assert_eq!(ip(&frame, &Offload::NONE).bytes, &frame[V4..len]);
            let Transport::Udp { payload, .. } = transport_of(&frame, &Offload::NONE) else {
                panic!("UDP")
            };
            assert_eq!(payload, len as u32 - 1..len as u32);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_or_harmless() {
        // One bit of a checksummed packet changed: never read as a whole packet of the same kind
        // from the same addresses with other content.
        for v4 in [true, false] {
            let frame = tcp_frame(v4, b"payload");
            let start = if v4 { TRANSPORT4 } else { TRANSPORT6 };
            for bit in start * 8..frame.len() * 8 {
                let mut bad = frame.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let reason = reason(&bad);
                assert!(
                    matches!(reason, Drop::BadTransportChecksum | Drop::BadTcpOffset),
                    "bit {bit}: {reason:?}"
                );
            }
        }
    }

    #[test]
    fn the_link_may_vouch_for_the_checksum_of_the_header_that_is_there() {
        for (v4, start) in [(true, TRANSPORT4), (false, TRANSPORT6)] {
            let mut frame = tcp_frame(v4, b"hello");
            frame[start + 16] ^= 0xff;
            let with = |checksum| Offload {
                checksum,
                ..Offload::NONE
            };
            assert_eq!(reason(&frame), Drop::BadTransportChecksum);
            assert!(parse(&frame, &with(ChecksumState::Verified)).is_ok());
            let start = start as u16;
            let partial = ChecksumState::Partial { start, offset: 16 };
            assert!(parse(&frame, &with(partial)).is_ok());
            let elsewhere = ChecksumState::Partial {
                start: start - 4,
                offset: 16,
            };
            let error = parse(&frame, &with(elsewhere)).unwrap_err();
            assert_eq!(error, Drop::BadTransportChecksum);
        }
        // The IPv4 header's own is verified all the same.
        let mut frame = tcp_frame(true, b"hello");
        frame[V4 + 8] ^= 1;
        let verified = Offload {
            checksum: ChecksumState::Verified,
            ..Offload::NONE
        };
        assert_eq!(parse(&frame, &verified).unwrap_err(), Drop::BadIpv4Checksum);
    }

    #[test]
    fn super_frames_are_as_long_as_their_frame() {
        for (v4, kind) in [(true, GsoKind::TcpV4), (false, GsoKind::TcpV6)] {
            let mut frame = tcp_frame(v4, &vec![7; 40_000]);
            let gso = Some(Gso { kind, size: 1448 });
            let offload = Offload {
                checksum: ChecksumState::Verified,
                gso,
                hdr_len: 0,
            };
            // Some senders leave the length of one piece, or nothing.
            let field = if v4 { V4 + 2 } else { V4 + 4 };
            frame[field..field + 2].fill(0);
            if v4 {
                refresh_ipv4(&mut frame);
            }
            let Transport::Tcp { payload, .. } = transport_of(&frame, &offload) else {
                panic!("TCP")
            };
            assert_eq!(payload.len(), 40_000);
            assert_eq!(payload.end as usize, frame.len());
        }
    }

    #[test]
    fn lengths_outside_the_frame_are_refused() {
        assert_eq!(reason(&[0; 13]), Drop::TruncatedEthernet);
        assert_eq!(reason(&[0; 60]), Drop::UnknownEtherType);
        for v4 in [true, false] {
            let frame = udp_frame(v4, b"hello");
            for len in V4..frame.len() {
                let reason = reason(&frame[..len]);
                let expected = match (v4, len - V4) {
                    (true, 0..20) => Drop::TruncatedIpv4,
                    (true, _) => Drop::BadIpv4TotalLength,
                    (false, 0..40) => Drop::TruncatedIpv6,
                    (false, _) => Drop::BadIpv6PayloadLength,
                };
                assert_eq!(reason, expected, "{len} bytes");
            }
        }
    }

    #[test]
    fn options_of_ipv4_are_skipped() {
        let frame = udp_frame(true, b"hello");
        let mut with = Vec::from(&frame[..TRANSPORT4]);
        with.extend([7, 7, 4, 0, 0, 0, 0, 0]); // record route
        with.extend(&frame[TRANSPORT4..]);
        with[V4] = 0x47;
        with[V4 + 3] += 8;
        refresh_ipv4(&mut with);
        assert_eq!(ip(&with, &Offload::NONE).header_len, 28);
        let Transport::Udp { payload, .. } = transport_of(&with, &Offload::NONE) else {
            panic!("UDP")
        };
        assert_eq!(payload, 50..55);
    }

    #[test]
    fn addresses_of_the_other_version_or_of_many_are_refused() {
        let frame = udp_frame(false, b"hello");
        let with = |at: usize, address: [u8; 16]| {
            let mut frame = frame.clone();
            frame[V4 + at..V4 + at + 16].copy_from_slice(&address);
            reason(&frame)
        };
        let mapped = *Address::v4([1, 2, 3, 4]).octets();
        let compatible = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        for at in [8, 24] {
            assert_eq!(with(at, mapped), Drop::MappedAddress);
            assert_eq!(with(at, compatible), Drop::MappedAddress);
            // These two are not IPv4; only the checksum tells.
            assert_eq!(with(at, [0; 16]), Drop::BadTransportChecksum);
            assert_eq!(with(at, (1_u128).to_be_bytes()), Drop::BadTransportChecksum);
        }
        assert_eq!(with(8, [0xff; 16]), Drop::BadSource);

        for source in [[255, 255, 255, 255], [224, 0, 0, 1]] {
            let mut frame = udp_frame(true, b"hello");
            frame[V4 + 12..V4 + 16].copy_from_slice(&source);
            refresh_ipv4(&mut frame);
            assert_eq!(reason(&frame), Drop::BadSource);
        }
    }

    #[test]
    fn udp_without_checksum_only_over_ipv4() {
        let mut frame = udp_frame(true, b"hello");
        frame[TRANSPORT4 + 6..TRANSPORT4 + 8].fill(0);
        assert!(parse(&frame, &Offload::NONE).is_ok());
        let mut frame = udp_frame(false, b"hello");
        frame[TRANSPORT6 + 6..TRANSPORT6 + 8].fill(0);
        assert_eq!(reason(&frame), Drop::MissingUdpChecksum);
    }

    #[test]
    fn udp_may_be_shorter_than_its_packet() {
        let mut frame = udp_frame(true, b"hello");
        frame[TRANSPORT4 + 5] -= 2;
        frame[TRANSPORT4 + 6..TRANSPORT4 + 8].fill(0);
        let Transport::Udp { payload, .. } = transport_of(&frame, &Offload::NONE) else {
            panic!("UDP")
        };
        assert_eq!(payload, 42..45);
        frame[TRANSPORT4 + 5] += 3;
        assert_eq!(reason(&frame), Drop::BadUdpLength);
    }

    #[test]
    fn fragments_are_handed_on() {
        let mut frame = udp_frame(true, &[9; 16]);
        frame[V4 + 4..V4 + 8].copy_from_slice(&[0x12, 0x34, 0x20, 0xb9]);
        refresh_ipv4(&mut frame);
        let packet = ip(&frame, &Offload::NONE);
        let expected = Fragment {
            identification: 0x1234,
            offset: 0xb9 * 8,
            more: true,
            protocol: 17,
            payload: &frame[TRANSPORT4..],
        };
        assert_eq!(packet.content, Content::Fragment(expected));
        // Not a multiple of 8 though more follow, beyond 65,535 bytes, without payload.
        for (flags, cut) in [([0x20, 0], 1), ([0x1f, 0xff], 0), ([0x00, 1], 24)] {
            let mut bad = frame.clone();
            bad.truncate(frame.len() - cut);
            bad[V4 + 3] -= cut as u8;
            bad[V4 + 6..V4 + 8].copy_from_slice(&flags);
            refresh_ipv4(&mut bad);
            assert_eq!(reason(&bad), Drop::BadFragment, "{flags:?}");
        }
    }

    /// A UDP datagram over IPv6 behind extension headers, the first of type `first`.
    fn extended(first: u8, headers: &[u8]) -> Vec<u8> {
        let plain = udp_frame(false, b"hello");
        let mut frame = Vec::from(&plain[..TRANSPORT6]);
        frame.extend(headers);
        frame.extend(&plain[TRANSPORT6..]);
        frame[V4 + 5] += headers.len() as u8;
        frame[V4 + 6] = first;
        frame
    }

    #[test]
    fn extension_headers_are_walked() {
        let frame = extended(0, &[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]);
        let packet = ip(&frame, &Offload::NONE);
        assert_eq!((packet.protocol, packet.header_len), (17, 56));
        // A fragment that is the whole packet is the packet (RFC 6946).
        let atomic = extended(44, &[17, 0, 0, 0, 1, 2, 3, 4]);
        assert!(matches!(
            transport_of(&atomic, &Offload::NONE),
            Transport::Udp { .. }
        ));
        let fragment = extended(44, &[17, 0, 0x05, 0xc8, 1, 2, 3, 4]);
        let Content::Fragment(fragment) = ip(&fragment, &Offload::NONE).content else {
            panic!("fragment")
        };
        assert_eq!(
            (fragment.offset, fragment.more, fragment.protocol),
            (1480, false, 17)
        );
        assert_eq!(fragment.identification, 0x0102_0304);
        assert_eq!(fragment.payload.len(), 13);

        assert_eq!(
            reason(&extended(43, &[17, 0, 2, 1, 0, 0, 0, 0])),
            Drop::RoutingHeader
        );
        let late = extended(60, &[0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(reason(&late), Drop::BadExtensionHeader);
        let long = extended(60, &[17, 9, 1, 4, 0, 0, 0, 0]);
        assert_eq!(reason(&long), Drop::BadExtensionHeader);
        let many = extended(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(9));
        assert_eq!(reason(&many), Drop::TooManyExtensionHeaders);
        let mut jumbo = extended(0, &[17, 0, 0xc2, 4, 0, 1, 0, 0]);
        jumbo[V4 + 4..V4 + 6].fill(0);
        assert_eq!(reason(&jumbo), Drop::Jumbogram);
    }

    #[test]
    fn reassembled_packets_are_read_by_their_own_offsets() {
        let frame = udp_frame(false, b"hello");
        let (source, target) = (Address::v6(A6), Address::v6(B6));
        let mut bytes = Vec::from([17, 0, 1, 4, 0, 0, 0, 0]);
        bytes.extend(&frame[TRANSPORT6..]);
        let read = |protocol, bytes: &[u8]| {
            parse_transport(source, target, protocol, bytes, ChecksumState::Unverified)
        };
        let Ok(Transport::Udp { payload, .. }) = read(60, &bytes) else {
            panic!("UDP")
        };
        assert_eq!(payload, 16..21);
        bytes[20] ^= 1;
        assert_eq!(read(60, &bytes), Err(Drop::BadTransportChecksum));
        let nested = [17, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(read(44, &nested), Err(Drop::BadExtensionHeader));
    }

    #[test]
    fn other_protocols_are_handed_on() {
        let mut frame = udp_frame(true, b"hello");
        frame[V4 + 9] = 47;
        refresh_ipv4(&mut frame);
        let other = Transport::Other {
            protocol: 47,
            payload: 34..47,
        };
        assert_eq!(transport_of(&frame, &Offload::NONE), other);
        // ICMP of the other version is no ICMP.
        frame[V4 + 9] = 58;
        refresh_ipv4(&mut frame);
        assert!(matches!(
            transport_of(&frame, &Offload::NONE),
            Transport::Other { .. }
        ));
    }

    #[test]
    fn arp_is_read() {
        let mut frame = Vec::from([0xff; 6]);
        frame.extend(GUEST.0);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(GUEST.0);
        frame.extend([10, 0, 2, 3, 0, 0, 0, 0, 0, 0, 10, 0, 2, 1]);
        let Body::Arp(arp) = parse(&frame, &Offload::NONE).unwrap().body else {
            panic!("ARP")
        };
        assert_eq!((arp.sender, arp.target), ([10, 0, 2, 3], [10, 0, 2, 1]));
        assert_eq!(reason(&frame[..41]), Drop::TruncatedArp);
        frame[15] = 7;
        assert_eq!(reason(&frame), Drop::UnsupportedArp);
    }

    /// Checks what every later stage relies on.
    fn check(frame: &[u8], offload: &Offload) -> Result<(), TestCaseError> {
        let Ok(packet) = parse(frame, offload) else {
            return Ok(());
        };
        let Body::Ip(ip) = packet.body else {
            return Ok(());
        };
        prop_assert_eq!(ip.source.is_v4(), ip.target.is_v4());
        prop_assert!(ip.header_len <= ip.bytes.len());
        let range = match ip.content {
            Content::Fragment(fragment) => {
                let end = usize::from(fragment.offset) + fragment.payload.len();
                prop_assert!(end <= 65_535 && !fragment.payload.is_empty());
                return Ok(());
            }
            Content::Transport(transport) => match transport {
                Transport::Tcp { payload, .. }
                | Transport::Udp { payload, .. }
                | Transport::Other { payload, .. } => payload,
                Transport::IcmpV4(icmpv4::Message::Error(report))
                | Transport::IcmpV6(icmpv6::Message::Error(report)) => report.quote,
                Transport::IcmpV4(
                    icmpv4::Message::EchoRequest(echo) | icmpv4::Message::EchoReply(echo),
                )
                | Transport::IcmpV6(
                    icmpv6::Message::EchoRequest(echo) | icmpv6::Message::EchoReply(echo),
                ) => echo.payload,
                Transport::IcmpV4(_) | Transport::IcmpV6(_) => return Ok(()),
            },
        };
        prop_assert!(range.start <= range.end && range.end as usize <= frame.len());
        Ok(())
    }

    fn any_offload() -> impl Strategy<Value = Offload> {
        let checksum = prop_oneof![
            Just(ChecksumState::Unverified),
            Just(ChecksumState::Verified),
            (0_u16..100, 0_u16..20)
                .prop_map(|(start, offset)| ChecksumState::Partial { start, offset }),
        ];
        let gso = prop::option::of(Just(Gso {
            kind: GsoKind::UdpL4,
            size: 100,
        }));
        (checksum, gso).prop_map(|(checksum, gso)| Offload {
            checksum,
            gso,
            hdr_len: 0,
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            ether_type in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x0806, 0x8100]),
            mut frame in prop::collection::vec(any::<u8>(), 0..200),
            offload in any_offload(),
        ) {
            if let Some(field) = frame.get_mut(12..14) {
                field.copy_from_slice(&ether_type.to_be_bytes());
            }
            check(&frame, &offload)?;
        }

        #[test]
        fn changed_frames_are_read_or_refused(
            v4 in any::<bool>(),
            kind in 0..3,
            changes in prop::collection::vec((12_usize..100, any::<u8>()), 0..8),
            cut in 0_usize..40,
            offload in any_offload(),
        ) {
            let mut frame = Vec::new();
            match (kind, v4) {
                (0, _) => frame = tcp_frame(v4, &[7; 40]),
                (1, _) => frame = udp_frame(v4, &[7; 40]),
                (_, true) => {
                    step(v4).icmpv4_echo_reply(1, 2).write(&mut frame, &[7; 40]).unwrap();
                }
                (_, false) => {
                    step(v4).icmpv6_echo_reply(1, 2).write(&mut frame, &[7; 40]).unwrap();
                }
            }
            frame.truncate(frame.len() - cut);
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            // Header checksums made right, so that what is behind them is reached.
            if frame.len() >= V4 + 60 && frame[V4] >> 4 == 4 {
                refresh_ipv4(&mut frame);
            }
            check(&frame, &offload)?;
        }

        #[test]
        fn any_transport_is_read_or_refused(
            v4 in any::<bool>(),
            protocol in prop::sample::select(vec![0_u8, 1, 6, 17, 43, 44, 58, 59, 60, 132]),
            bytes in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let (source, target) = if v4 {
                (Address::v4(A4), Address::v4(B4))
            } else {
                (Address::v6(A6), Address::v6(B6))
            };
            for checksum in [ChecksumState::Unverified, ChecksumState::Verified] {
                let _ = parse_transport(source, target, protocol, &bytes, checksum);
            }
        }
    }
}

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
#[expect(
    clippy::large_enum_variant,
    reason = "built in place, never stored; ARP is the rare one"
)]
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
#[expect(clippy::large_enum_variant, reason = "built in place, never stored")]
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
#[expect(
    clippy::large_enum_variant,
    reason = "built in place, never stored; TCP is the usual one"
)]
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

//! What an ICMP error quotes: the start of a packet that we are said to have sent (RFC 792,
//! RFC 4443 §2.4c).
//!
//! It comes from whoever claims to have seen the packet, so it names a flow and proves nothing: what it
//! says must be held against what that flow knows. Only as much is read as every error must hold: the IP
//! header and eight bytes. Checksums are not looked at: the header's changed on its way, and
//! the payload is cut off.

use zerocopy::FromBytes;

use crate::Address;
use crate::tcp::seq::SequenceNumber;
use crate::wire::{icmpv4, icmpv6, ipv4, ipv6, protocol};

/// The least MTU of a path of IPv4 (RFC 1191 §3): a smaller one is taken as this.
const MTU_MIN_V4: u32 = 68;
/// The least MTU of a path of IPv6 (RFC 8201 §4): who reports a smaller one is not believed.
const MTU_MIN_V6: u32 = 1280;
/// MTUs that are usual, for routers that name none (RFC 1191 §7.1).
const PLATEAUS: [u32; 10] = [
    32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68,
];

/// The start of a packet, as somebody quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Source address: the one that we spoke for.
    pub source: Address,
    /// Destination address: the guest's.
    pub target: Address,
    /// Length of the packet in bytes, headers included, as its header says.
    pub packet_len: u32,
    /// What it carried.
    pub transport: Transport,
}

/// The first eight bytes of a quoted transport packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source_port: u16,
        /// Destination port: the guest's.
        target_port: u16,
        /// Number of its first byte.
        sequence: SequenceNumber,
    },
    /// UDP.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port: the guest's.
        target_port: u16,
    },
    /// An echo reply, of either IP version.
    EchoReply {
        /// The guest's identifier.
        identifier: u16,
    },
}

impl Quote {
    /// Reads a quote. `None`: it is too short, it is of a fragment but the first, or we send nothing of the
    /// kind.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (source, target, packet_len, protocol, rest) = match bytes.first()? >> 4 {
            4 => ip4(bytes)?,
            6 => ip6(bytes)?,
            _ => return None,
        };
        let &[a, b, c, d, e, f, g, h] = rest.first_chunk()?;
        let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let transport = match (protocol, a) {
            (protocol::TCP, _) => Transport::Tcp {
                source_port: ports.0,
                target_port: ports.1,
                sequence: SequenceNumber(u32::from_be_bytes([e, f, g, h])),
            },
            (protocol::UDP, _) => Transport::Udp {
                source_port: ports.0,
                target_port: ports.1,
            },
            (protocol::ICMP, icmpv4::kind::ECHO_REPLY)
            | (protocol::ICMPV6, icmpv6::kind::ECHO_REPLY) => Transport::EchoReply {
                identifier: u16::from_be_bytes([e, f]),
            },
            _ => return None,
        };
        Some(Self {
            source,
            target,
            packet_len,
            transport,
        })
    }

    /// The MTU of the path to the target in bytes, IP header included, if `report` says that this packet
    /// was too big for it and that can be: "fragmentation needed" (RFC 1191) or "packet too big"
    /// (RFC 8201).
    pub fn path_mtu(&self, report: &icmpv4::Report) -> Option<u16> {
        let mtu = if self.target.is_v4() {
            let code = icmpv4::unreachable::FRAGMENTATION_NEEDED;
            if (report.kind, report.code) != (icmpv4::kind::UNREACHABLE, code) {
                return None;
            }
            let mut usual = PLATEAUS.into_iter();
            match report.parameter & 0xffff {
                // A router from before RFC 1191 says no more than that it was too big.
                0 => usual.find(|&mtu| mtu < self.packet_len)?,
                mtu => mtu.max(MTU_MIN_V4),
            }
        } else {
            let told = report.parameter;
            if report.kind != icmpv6::kind::PACKET_TOO_BIG || told < MTU_MIN_V6 {
                return None;
            }
            told
        };
        let smaller = mtu < self.packet_len;
        u16::try_from(mtu).ok().filter(|_| smaller)
    }
}

/// Source, target, length, protocol, and what follows the headers.
type Parts<'a> = (Address, Address, u32, u8, &'a [u8]);

fn ip4(bytes: &[u8]) -> Option<Parts<'_>> {
    let (header, _) = ipv4::Header::ref_from_prefix(bytes).ok()?;
    let header_len = usize::from(bytes[0] & 0xf) * 4;
    if header_len < ipv4::HEADER_LEN || header.fragment_offset() != 0 {
        return None;
    }
    let (source, target) = (Address::v4(header.source), Address::v4(header.target));
    let rest = bytes.get(header_len..)?;
    Some((
        source,
        target,
        header.total_len().into(),
        header.protocol,
        rest,
    ))
}

fn ip6(bytes: &[u8]) -> Option<Parts<'_>> {
    let header = ipv6::Header::parse(bytes).ok()?;
    let (source, target) = (Address::v6(header.source), Address::v6(header.target));
    let len = ipv6::HEADER_LEN as u32 + u32::from(header.payload_len());
    let rest = bytes.get(ipv6::HEADER_LEN..)?;
    // The one extension header that we send.
    if header.next_header == protocol::FRAGMENT {
        let (&[next, _, high, low], _) = rest.split_first_chunk()?;
        let first = u16::from_be_bytes([high, low]) & !7 == 0;
        let rest = rest.get(ipv6::FRAGMENT_HEADER_LEN..).filter(|_| first)?;
        return Some((source, target, len, next, rest));
    }
    Some((source, target, len, header.next_header, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{self, Checksum, Envelope, Fragments, HEADER_MAX};
    use crate::tcp::segment::Segment;
    use crate::wire::checksum::Sum;
    use crate::wire::ethernet::{self, MacAddress};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn envelope(v4: bool) -> Envelope {
        let (source, target) = if v4 {
            (Address::v4([192, 0, 2, 1]), Address::v4([10, 0, 0, 3]))
        } else {
            (Address::v6([0x20; 16]), Address::v6([0xfd; 16]))
        };
        Envelope {
            source_mac: MacAddress([2; 6]),
            target_mac: MacAddress([4; 6]),
            source,
            target,
            hop_limit: 64,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        }
    }

    fn tcp_packet(v4: bool, len: usize) -> Vec<u8> {
        let mut out = [0; HEADER_MAX];
        let segment = Segment {
            source_port: 443,
            target_port: 40_000,
            sequence: SequenceNumber(0x0102_0304),
            ..Segment::default()
        };
        let e = envelope(v4);
        let (n, _) = build::tcp(
            &mut out,
            &e,
            &segment,
            len,
            None,
            Checksum::Full(Sum::new()),
        );
        out[ethernet::HEADER_LEN..n].to_vec()
    }

    fn report(kind: u8, code: u8, parameter: u32) -> icmpv4::Report {
        icmpv4::Report {
            kind,
            code,
            parameter,
            quote: 0..0,
        }
    }

    #[test]
    fn segments_are_recognised_by_eight_bytes_of_theirs() {
        for (v4, headers) in [(true, 20), (false, 40)] {
            let packet = tcp_packet(v4, 1000);
            let quote = Quote::parse(&packet[..headers + 8]).unwrap();
            let e = envelope(v4);
            assert_eq!((quote.source, quote.target), (e.source, e.target));
            assert_eq!(quote.packet_len as usize, headers + 20 + 1000);
            let transport = Transport::Tcp {
                source_port: 443,
                target_port: 40_000,
                sequence: SequenceNumber(0x0102_0304),
            };
            assert_eq!(quote.transport, transport);
            assert_eq!(Quote::parse(&packet[..headers + 7]), None);
        }
    }

    #[test]
    fn of_fragments_the_first_is_recognised() {
        for v4 in [true, false] {
            let mut fragments = Fragments::udp(&envelope(v4), 7, 53, 5353, 4000, Sum::new(), 1500);
            let mut out = [0; HEADER_MAX];
            let mut next = || {
                let (n, _) = fragments.next(&mut out).unwrap();
                Quote::parse(&[&out[ethernet::HEADER_LEN..n], &[0; 8]].concat())
            };
            let transport = Transport::Udp {
                source_port: 53,
                target_port: 5353,
            };
            assert_eq!(next().unwrap().transport, transport);
            assert_eq!(next(), None);
        }
    }

    #[test]
    fn only_what_can_be_lowers_an_mtu() {
        let v4 = Quote::parse(&tcp_packet(true, 1460)).unwrap();
        let needed = |mtu| v4.path_mtu(&report(3, 4, mtu));
        assert_eq!(needed(1400), Some(1400));
        assert_eq!(needed(20), Some(68), "RFC 1191 §3");
        assert_eq!(needed(0), Some(1492), "the next plateau below 1500");
        assert_eq!(needed(1500), None, "it would have fitted");
        assert_eq!(v4.path_mtu(&report(3, 3, 1400)), None);
        assert_eq!(v4.path_mtu(&report(2, 0, 1400)), None, "is of IPv6");

        let v6 = Quote::parse(&tcp_packet(false, 1440)).unwrap();
        let too_big = |mtu| v6.path_mtu(&report(2, 0, mtu));
        assert_eq!(too_big(1280), Some(1280));
        assert_eq!(too_big(1279), None, "RFC 8201 §4");
        assert_eq!(too_big(1500), None);
        assert_eq!(too_big(u32::MAX), None);
        assert_eq!(v6.path_mtu(&report(3, 4, 1300)), None, "is of IPv4");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..100), parameter in any::<u32>(),
        ) {
            if let Some(quote) = Quote::parse(&bytes) {
                for (kind, code) in [(3, 4), (2, 0)] {
                    if let Some(mtu) = quote.path_mtu(&report(kind, code, parameter)) {
                        prop_assert!(mtu >= 68 && u32::from(mtu) < quote.packet_len);
                    }
                }
            }
        }
    }
}

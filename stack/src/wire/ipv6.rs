//! IPv6 and its extension headers (RFC 8200).
//!
//! ```text
//! 0                         4             6     7      8        24       40
//! | 6 | class | flow label  | payload len | nxt | hops | source | target | extension headers …
//! ```
//!
//! Extension headers are walked over, at most [`EXTENSION_HEADERS_MAX`] of them, until one comes
//! that is none or a fragment header says that the rest is elsewhere.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::protocol;

/// Length in bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Length in bytes of a fragment header.
pub const FRAGMENT_HEADER_LEN: usize = 8;
/// Extension headers that are walked over at most.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// One byte of padding.
const PAD_1: u8 = 0;

/// The fixed header as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    version_class_label: U32,
    payload_len: U16,
    /// What follows the header: an extension header or the transport protocol.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub target: [u8; 16],
}

/// Why a packet's headers can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than its fixed header.
    Truncated,
    /// The version is not 6.
    BadVersion,
    /// An extension header is cut short or stands where it must not.
    BadExtensionHeader,
    /// More than [`EXTENSION_HEADERS_MAX`] extension headers.
    TooManyExtensionHeaders,
    /// A routing header wants the packet to go on elsewhere; type 0 is refused by RFC 5095 §3,
    /// others because we are not a router of theirs.
    RoutingHeader,
    /// An option that we don't know says that its packet shall be discarded then (RFC 8200 §4.2), or
    /// its length leads out of its header.
    BadOption,
    /// A fragment that is empty, ends beyond 65,535 bytes, or that is not the last and no
    /// multiple of 8 bytes (RFC 8200 §4.5).
    BadFragment,
}

impl Header {
    /// A header to send, flow label 0; the payload length counts extension headers.
    pub const fn new(
        traffic_class: u8,
        payload_len: u16,
        next_header: u8,
        hop_limit: u8,
        source: [u8; 16],
        target: [u8; 16],
    ) -> Self {
        Self {
            version_class_label: U32::new(6 << 28 | (traffic_class as u32) << 20),
            payload_len: U16::new(payload_len),
            next_header,
            hop_limit,
            source,
            target,
        }
    }

    /// Finds the fixed header of a packet. The payload length is the caller's to judge.
    pub fn parse(packet: &[u8]) -> Result<&Self, Error> {
        let (header, _) = Self::ref_from_prefix(packet).map_err(|_| Error::Truncated)?;
        if header.version_class_label.get() >> 28 != 6 {
            return Err(Error::BadVersion);
        }
        Ok(header)
    }

    /// Traffic class: DSCP and ECN.
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_label.get() >> 20) as u8
    }

    /// Length in bytes of what follows the fixed header, as it says.
    pub const fn payload_len(&self) -> u16 {
        self.payload_len.get()
    }
}

/// The fragment header as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    next_header: u8,
    reserved: u8,
    offset_more: U16,
    identification: U32,
}

impl FragmentHeader {
    /// A header to send; the offset is in bytes, a multiple of 8 below 65,536.
    pub const fn new(next_header: u8, offset: u16, more: bool, identification: u32) -> Self {
        Self {
            next_header,
            reserved: 0,
            offset_more: U16::new(offset & !7 | more as u16),
            identification: U32::new(identification),
        }
    }
}

/// What a fragment header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentInfo {
    /// The number that the fragments of one packet share.
    pub identification: u32,
    /// Offset in bytes from the start of the fragmentable part.
    pub offset: u16,
    /// Whether fragments with higher offsets exist.
    pub more: bool,
}

/// Where the walk over extension headers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What follows at `offset`. For a fragment: the next header field of its fragment header.
    pub protocol: u8,
    /// Bytes walked over.
    pub offset: usize,
    /// Present when the walk ended behind the header of a true fragment. A fragment header on a
    /// whole packet ("atomic fragment", RFC 6946) is walked over like any other.
    pub fragment: Option<FragmentInfo>,
}

/// Walks over the extension headers at the start of `bytes`, the first being of type `protocol`.
/// `first` says whether they follow the fixed header: only there a hop-by-hop header may stand.
pub fn walk_extensions(mut protocol: u8, bytes: &[u8], first: bool) -> Result<Walk, Error> {
    let mut offset = 0;
    for index in 0..=EXTENSION_HEADERS_MAX {
        match protocol {
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION_OPTIONS => {}
            _ => {
                return Ok(Walk {
                    protocol,
                    offset,
                    fragment: None,
                });
            }
        }
        if index == EXTENSION_HEADERS_MAX {
            break;
        }
        let rest = bytes.get(offset..).ok_or(Error::BadExtensionHeader)?;
        let (&[next, len, kind, left], _) = rest
            .split_first_chunk::<4>()
            .ok_or(Error::BadExtensionHeader)?;
        if protocol == protocol::FRAGMENT {
            let (header, payload) =
                FragmentHeader::ref_from_prefix(rest).map_err(|_| Error::BadExtensionHeader)?;
            offset += FRAGMENT_HEADER_LEN;
            protocol = next;
            let (place, more) = (
                header.offset_more.get() & !7,
                header.offset_more.get() & 1 != 0,
            );
            if place == 0 && !more {
                continue;
            }
            // RFC 8200 §4.5: all but the last are multiples of 8; the whole fits 65,535 bytes.
            let fits = usize::from(place) + payload.len() <= 65_535;
            if payload.is_empty() || !fits || (more && !payload.len().is_multiple_of(8)) {
                return Err(Error::BadFragment);
            }
            let identification = header.identification.get();
            let fragment = Some(FragmentInfo {
                identification,
                offset: place,
                more,
            });
            return Ok(Walk {
                protocol,
                offset,
                fragment,
            });
        }
        // RFC 8200 §4.1: hop-by-hop options only immediately after the fixed header.
        if protocol == protocol::HOP_BY_HOP && !(first && index == 0) {
            return Err(Error::BadExtensionHeader);
        }
        // RFC 8200 §4.4: a routing header that is used up (segments left is 0) is passed over.
        if protocol == protocol::ROUTING && (kind == 0 || left != 0) {
            return Err(Error::RoutingHeader);
        }
        let header_len = usize::from(len) * 8 + 8;
        let header = rest.get(..header_len).ok_or(Error::BadExtensionHeader)?;
        if protocol != protocol::ROUTING {
            check_options(&header[2..])?;
        }
        offset += header_len;
        protocol = next;
    }
    Err(Error::TooManyExtensionHeaders)
}

/// Walks over options (RFC 8200 §4.2): a type, and but for the first a length of what follows. The type's
/// two upper bits say what becomes of the packet where it is not known: 0 is to go on. We know
/// padding only.
fn check_options(mut options: &[u8]) -> Result<(), Error> {
    while let Some((&kind, rest)) = options.split_first() {
        if kind == PAD_1 {
            options = rest;
            continue;
        }
        let (&len, data) = rest.split_first().ok_or(Error::BadOption)?;
        if kind >> 6 != 0 {
            return Err(Error::BadOption);
        }
        options = data.get(usize::from(len)..).ok_or(Error::BadOption)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn golden_bytes_both_ways() {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&[0x6b, 0x80, 0, 0, 0x01, 0x02, 6, 64]);
        bytes[8..24].copy_from_slice(&[0xfd; 16]);
        bytes[24..].copy_from_slice(&[0x3e; 16]);
        let header = Header::new(0xb8, 0x102, 6, 64, [0xfd; 16], [0x3e; 16]);
        assert_eq!(header.as_bytes(), bytes);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.traffic_class(), 0xb8);
        assert_eq!(header.payload_len(), 0x102);
        bytes[0] = 0x4b;
        assert_eq!(Header::parse(&bytes).unwrap_err(), Error::BadVersion);
        assert_eq!(Header::parse(&bytes[..39]).unwrap_err(), Error::Truncated);
    }

    #[test]
    fn chain_is_walked_to_its_transport() {
        let mut bytes = Vec::new();
        bytes.extend([60, 0, 1, 4, 0, 0, 0, 0]); // hop-by-hop, then destination options
        bytes.extend([43, 1]); // of 16 bytes, then routing
        bytes.extend([0; 14]);
        bytes.extend([44, 0, 4, 0, 0, 0, 0, 0]); // type 4, used up, then a fragment header
        bytes.extend([6, 0, 0, 0, 1, 2, 3, 4]); // of a whole packet, then TCP
        let walk = walk_extensions(protocol::HOP_BY_HOP, &bytes, true).unwrap();
        assert_eq!(
            walk,
            Walk {
                protocol: 6,
                offset: bytes.len(),
                fragment: None
            }
        );
        // Hop-by-hop options only directly behind the fixed header.
        let error = walk_extensions(protocol::HOP_BY_HOP, &bytes, false);
        assert_eq!(error, Err(Error::BadExtensionHeader));
    }

    #[test]
    fn options_say_what_becomes_of_who_is_not_understood() {
        for (options, verdict) in [
            (&[0, 0, 0, 0, 0, 0][..], Ok(())),
            (&[5, 2, 0, 0, 1, 0], Ok(())),
            (&[0x1e, 4, 1, 2, 3, 4], Ok(())),
            (&[0x5e, 4, 1, 2, 3, 4], Err(Error::BadOption)),
            (&[0x9e, 4, 1, 2, 3, 4], Err(Error::BadOption)),
            (&[0xc2, 4, 0, 1, 0, 0], Err(Error::BadOption)),
            (&[1, 5, 0, 0, 0, 0], Err(Error::BadOption)),
            (&[1, 3, 0, 0, 0, 1], Err(Error::BadOption)),
        ] {
            assert_eq!(check_options(options), verdict, "{options:?}");
        }
    }

    #[test]
    fn fragment_ends_the_walk() {
        let header = FragmentHeader::new(17, 1480, true, 0xdead_beef);
        let mut bytes = Vec::from(header.as_bytes());
        assert_eq!(bytes, [17, 0, 0x05, 0xc9, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(walk_extensions(44, &bytes, true), Err(Error::BadFragment));
        bytes.extend([0; 16]);
        let fragment = Some(FragmentInfo {
            identification: 0xdead_beef,
            offset: 1480,
            more: true,
        });
        assert_eq!(
            walk_extensions(44, &bytes, true),
            Ok(Walk {
                protocol: 17,
                offset: 8,
                fragment
            })
        );
        bytes.push(0);
        assert_eq!(walk_extensions(44, &bytes, true), Err(Error::BadFragment));
    }

    #[test]
    fn chains_are_bounded() {
        let mut bytes = Vec::new();
        for _ in 0..EXTENSION_HEADERS_MAX - 1 {
            bytes.extend([60, 0, 1, 4, 0, 0, 0, 0]);
        }
        let mut nine = bytes.clone();
        bytes.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(walk_extensions(60, &bytes, true).unwrap().protocol, 17);
        nine.extend([60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(
            walk_extensions(60, &nine, true),
            Err(Error::TooManyExtensionHeaders)
        );
    }

    #[test]
    fn routing_headers_with_a_way_to_go_are_refused() {
        let left = [17, 0, 4, 1, 0, 0, 0, 0];
        assert_eq!(walk_extensions(43, &left, true), Err(Error::RoutingHeader));
        let type_0 = [17, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            walk_extensions(43, &type_0, true),
            Err(Error::RoutingHeader)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_or_refused(
            kind in prop::sample::select(std::vec![0_u8, 43, 44, 60, 6]),
            bytes in prop::collection::vec(
                prop::sample::select(std::vec![0_u8, 1, 6, 43, 44, 60]), 0..160,
            ),
            first in any::<bool>(),
        ) {
            let _ = Header::parse(&bytes);
            if let Ok(walk) = walk_extensions(kind, &bytes, first) {
                prop_assert!(walk.offset <= bytes.len());
            }
        }
    }
}

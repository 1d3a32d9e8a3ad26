//! The offload header in front of a frame: `struct virtio_net_hdr` without the buffer count
//! (`linux/virtio_net.h`; virtio 1.2 §5.1.6), as a TAP device with `IFF_VNET_HDR` carries it.
//!
//! ```text
//! 0       1          2         4          6            8             10
//! | flags | gso type | hdr len | gso size | csum start | csum offset | frame …
//! ```
//!
//! All fields are little-endian. Offsets count from the start of the ethernet header.

use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// A flag beside the type: the first segment alone carries CWR.
const GSO_ECN: u8 = 0x80;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: U16,
    gso_size: U16,
    csum_start: U16,
    csum_offset: U16,
}

/// What is known about a frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumState {
    /// Nothing: it has to be verified.
    #[default]
    Unverified,
    /// The field holds the sum of the pseudo-header alone; whoever puts the frame on a real wire
    /// completes it. The frame never left its machine, so there is nothing to verify.
    Partial {
        /// Where summing begins: offset of the transport header from the ethernet header.
        start: u16,
        /// Where the checksum field is, from `start`.
        offset: u16,
    },
    /// The link says that it is right.
    Verified,
}

/// How a super-frame is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
    /// Many UDP datagrams of one size, but for the last (USO).
    UdpL4,
    /// One UDP datagram to be fragmented by IP (UFO).
    Ufo,
}

/// A frame that stands for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// How it is to be cut.
    pub kind: GsoKind,
    /// Payload bytes of each piece, at least 1.
    pub size: u16,
}

/// The offload header's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// State of the transport checksum.
    pub checksum: ChecksumState,
    /// Present on super-frames.
    pub gso: Option<Gso>,
    /// Length in bytes of all headers from ethernet to transport; a hint, 0 when unknown.
    pub hdr_len: u16,
}

/// Why an offload header can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than 10 bytes.
    Truncated,
    /// A GSO type that nobody negotiated.
    UnknownGso,
    /// A super-frame in pieces of 0 bytes.
    ZeroGsoSize,
    /// The checksum field would lie outside the frame.
    ChecksumOutside,
}

impl Offload {
    /// An ordinary frame with nothing known.
    pub const NONE: Self = Self {
        checksum: ChecksumState::Unverified,
        gso: None,
        hdr_len: 0,
    };

    /// Reads what a link gave: the offload header, and the frame behind it.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let (header, frame) = Header::ref_from_prefix(bytes).map_err(|_| Error::Truncated)?;
        let gso = match header.gso_type & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(GsoKind::TcpV4),
            GSO_TCPV6 => Some(GsoKind::TcpV6),
            GSO_UDP_L4 => Some(GsoKind::UdpL4),
            GSO_UDP => Some(GsoKind::Ufo),
            _ => return Err(Error::UnknownGso),
        };
        let size = header.gso_size.get();
        if gso.is_some() && size == 0 {
            return Err(Error::ZeroGsoSize);
        }
        let checksum = if header.flags & NEEDS_CSUM != 0 {
            let (start, offset) = (header.csum_start.get(), header.csum_offset.get());
            if usize::from(start) + usize::from(offset) + 2 > frame.len() {
                return Err(Error::ChecksumOutside);
            }
            ChecksumState::Partial { start, offset }
        } else if header.flags & DATA_VALID != 0 {
            ChecksumState::Verified
        } else {
            ChecksumState::Unverified
        };
        let gso = gso.map(|kind| Gso { kind, size });
        Ok((
            Self {
                checksum,
                gso,
                hdr_len: header.hdr_len.get(),
            },
            frame,
        ))
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let Self {
            checksum,
            gso,
            hdr_len,
        } = *self;
        let (flags, start, offset) = match checksum {
            ChecksumState::Unverified => (0, 0, 0),
            ChecksumState::Partial { start, offset } => (NEEDS_CSUM, start, offset),
            ChecksumState::Verified => (DATA_VALID, 0, 0),
        };
        let (gso_type, size) = match gso {
            None => (GSO_NONE, 0),
            Some(Gso {
                kind: GsoKind::TcpV4,
                size,
            }) => (GSO_TCPV4, size),
            Some(Gso {
                kind: GsoKind::TcpV6,
                size,
            }) => (GSO_TCPV6, size),
            Some(Gso {
                kind: GsoKind::UdpL4,
                size,
            }) => (GSO_UDP_L4, size),
            Some(Gso {
                kind: GsoKind::Ufo,
                size,
            }) => (GSO_UDP, size),
        };
        let header = Header {
            flags,
            gso_type,
            hdr_len: U16::new(hdr_len),
            gso_size: U16::new(size),
            csum_start: U16::new(start),
            csum_offset: U16::new(offset),
        };
        zerocopy::transmute!(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn golden_bytes_both_ways() {
        let mut bytes = Vec::from([1, 4, 74, 0, 0x94, 0x05, 54, 0, 16, 0]);
        let frame = [0; 80];
        bytes.extend(frame);
        let offload = Offload {
            checksum: ChecksumState::Partial {
                start: 54,
                offset: 16,
            },
            gso: Some(Gso {
                kind: GsoKind::TcpV6,
                size: 1428,
            }),
            hdr_len: 74,
        };
        assert_eq!(Offload::parse(&bytes), Ok((offload, &frame[..])));
        assert_eq!(offload.emit(), bytes[..HEADER_LEN]);
        bytes[1] |= 0x80;
        assert_eq!(
            Offload::parse(&bytes).unwrap().0,
            offload,
            "the ECN flag changes nothing"
        );
    }

    #[test]
    fn each_fault_is_named() {
        let parse = |header: [u8; 10], frame_len: usize| {
            let mut bytes = Vec::from(header);
            bytes.resize(HEADER_LEN + frame_len, 0);
            Offload::parse(&bytes).map(|(offload, _)| offload)
        };
        assert_eq!(Offload::parse(&[0; 9]), Err(Error::Truncated));
        assert_eq!(
            parse([0, 2, 0, 0, 1, 0, 0, 0, 0, 0], 60),
            Err(Error::UnknownGso)
        );
        assert_eq!(
            parse([0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 60),
            Err(Error::ZeroGsoSize)
        );
        let needs = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0];
        assert_eq!(parse(needs, 41), Err(Error::ChecksumOutside));
        assert!(parse(needs, 42).is_ok());
        let verified = parse([2, 0, 0, 0, 0, 0, 0, 0, 0, 0], 42).unwrap();
        assert_eq!(verified.checksum, ChecksumState::Verified);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            if let Ok((offload, _)) = Offload::parse(&bytes) {
                let mut again = Vec::from(offload.emit());
                again.extend(&bytes[HEADER_LEN..]);
                prop_assert_eq!(Offload::parse(&again), Ok((offload, &bytes[HEADER_LEN..])));
            }
        }
    }
}

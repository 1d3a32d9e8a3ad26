//! IPv4 (RFC 791).
//!
//! ```text
//! 0      1     2              4        6              8     9       10         12    16    20
//! | 4 hl | TOS | total length | ident. | .DM offset/8 | TTL | proto | checksum | src | dst | opts
//! ```

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Sum;

/// Length in bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// Version 4, five words of header.
const VERSION_IHL: u8 = 0x45;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Types of options.
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u8 = 137;
}

/// The fixed part of the header as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    version_ihl: u8,
    /// The TOS byte: DSCP (RFC 2474) and ECN (RFC 3168).
    pub traffic_class: u8,
    total_len: U16,
    identification: U16,
    flags_offset: U16,
    /// TTL.
    pub hop_limit: u8,
    /// What follows the header.
    pub protocol: u8,
    checksum: U16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub target: [u8; 4],
}

/// Why a packet's header can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than its header.
    Truncated,
    /// The version is not 4.
    BadVersion,
    /// The header length is below 20 bytes.
    BadHeaderLength,
    /// The header does not sum up.
    BadChecksum,
    /// An option without an end.
    BadOptions,
    /// A source route: the packet wants to go on elsewhere. Nobody honest asks for one, and to
    /// follow it would be a way around the checks of its target (RFC 7126 §4.3, §4.4).
    SourceRoute,
}

/// A header to send, without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emit {
    /// The TOS byte.
    pub traffic_class: u8,
    /// Length of the packet in bytes, header included.
    pub total_len: u16,
    /// Identification, for fragments to be put together.
    pub identification: u16,
    /// Whether routers must not fragment it.
    pub dont_fragment: bool,
    /// Whether fragments with higher offsets exist.
    pub more_fragments: bool,
    /// Offset of this fragment in bytes, a multiple of 8 below 65,536.
    pub fragment_offset: u16,
    /// TTL.
    pub hop_limit: u8,
    /// What follows the header.
    pub protocol: u8,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub target: [u8; 4],
}

impl Header {
    /// Finds the header of a packet and its length in bytes with options (which are skipped but for
    /// source routes), and verifies its checksum. The total length is the caller's to judge.
    pub fn parse(packet: &[u8]) -> Result<(&Self, usize), Error> {
        let (header, _) = Self::ref_from_prefix(packet).map_err(|_| Error::Truncated)?;
        if header.version_ihl >> 4 != 4 {
            return Err(Error::BadVersion);
        }
        let header_len = usize::from(header.version_ihl & 0xf) * 4;
        if header_len < HEADER_LEN {
            return Err(Error::BadHeaderLength);
        }
        let bytes = packet.get(..header_len).ok_or(Error::Truncated)?;
        // RFC 1122 §3.2.1.2: a host must verify the checksum and silently discard what fails.
        if !Sum::new().add(bytes).is_valid() {
            return Err(Error::BadChecksum);
        }
        if header_len > HEADER_LEN {
            check_options(&bytes[HEADER_LEN..])?;
        }
        Ok((header, header_len))
    }

    /// Length of the packet in bytes, header included, as it says.
    pub const fn total_len(&self) -> u16 {
        self.total_len.get()
    }

    /// Identification.
    pub const fn identification(&self) -> u16 {
        self.identification.get()
    }

    /// Whether it must not be fragmented.
    pub const fn dont_fragment(&self) -> bool {
        self.flags_offset.get() & DONT_FRAGMENT != 0
    }

    /// Whether fragments with higher offsets exist.
    pub const fn more_fragments(&self) -> bool {
        self.flags_offset.get() & MORE_FRAGMENTS != 0
    }

    /// Offset of this fragment in bytes.
    pub const fn fragment_offset(&self) -> u16 {
        (self.flags_offset.get() & OFFSET_MASK) << 3
    }

    /// Whether it is a fragment of a larger packet.
    pub const fn is_fragment(&self) -> bool {
        self.flags_offset.get() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }
}

impl Emit {
    /// The header with its checksum.
    pub fn header(&self) -> Header {
        debug_assert!(
            self.fragment_offset.is_multiple_of(8),
            "offsets are in units of 8 bytes"
        );
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 }
            | if self.more_fragments {
                MORE_FRAGMENTS
            } else {
                0
            };
        let flags_offset = flags | (self.fragment_offset >> 3);
        let [s, t] = [self.source, self.target];
        // From the fields rather than from bytes that were just stored, which stalls the load.
        let checksum = Sum::new()
            .add_field(u16::from_be_bytes([VERSION_IHL, self.traffic_class]))
            .add_field(self.total_len)
            .add_field(self.identification)
            .add_field(flags_offset)
            .add_field(u16::from_be_bytes([self.hop_limit, self.protocol]))
            .add_field(u16::from_be_bytes([s[0], s[1]]))
            .add_field(u16::from_be_bytes([s[2], s[3]]))
            .add_field(u16::from_be_bytes([t[0], t[1]]))
            .add_field(u16::from_be_bytes([t[2], t[3]]))
            .checksum();
        Header {
            version_ihl: VERSION_IHL,
            traffic_class: self.traffic_class,
            total_len: U16::new(self.total_len),
            identification: U16::new(self.identification),
            flags_offset: U16::new(flags_offset),
            hop_limit: self.hop_limit,
            protocol: self.protocol,
            checksum: U16::new(checksum),
            source: self.source,
            target: self.target,
        }
    }
}

/// Walks over options (RFC 791 §3.1): a type, and but for the first two a length that counts both.
fn check_options(mut options: &[u8]) -> Result<(), Error> {
    while let Some(&kind) = options.first() {
        let len = match kind {
            option::END => return Ok(()),
            option::NO_OPERATION => 1,
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => {
                return Err(Error::SourceRoute);
            }
            _ => match options.get(1) {
                Some(&len) if len >= 2 => usize::from(len),
                _ => return Err(Error::BadOptions),
            },
        };
        options = options.get(len..).ok_or(Error::BadOptions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header that is on many pages about the checksum: 0xb861.
    const GOLDEN: [u8; HEADER_LEN] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];

    fn golden() -> Emit {
        Emit {
            traffic_class: 0,
            total_len: 0x73,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            hop_limit: 64,
            protocol: 17,
            source: [192, 168, 0, 1],
            target: [192, 168, 0, 199],
        }
    }

    #[test]
    fn golden_bytes_both_ways() {
        assert_eq!(golden().header().as_bytes(), GOLDEN);
        let (header, len) = Header::parse(&GOLDEN).unwrap();
        assert_eq!(len, 20);
        assert_eq!(header.total_len(), 0x73);
        assert!(header.dont_fragment() && !header.is_fragment());
        assert_eq!((header.hop_limit, header.protocol), (64, 17));
        assert_eq!(header.target, [192, 168, 0, 199]);
    }

    #[test]
    fn fragments() {
        let emit = Emit {
            more_fragments: true,
            fragment_offset: 65_528,
            ..golden()
        };
        let header = emit.header();
        assert_eq!(header.fragment_offset(), 65_528);
        assert!(header.more_fragments() && header.is_fragment());
        let last = Emit {
            fragment_offset: 8,
            ..golden()
        }
        .header();
        assert!(last.is_fragment() && !last.more_fragments());
    }

    #[test]
    fn each_fault_is_named() {
        let broken = |at: usize, value: u8| {
            let mut bytes = GOLDEN;
            bytes[at] = value;
            Header::parse(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(broken(0, 0x65), Error::BadVersion);
        assert_eq!(broken(0, 0x44), Error::BadHeaderLength);
        assert_eq!(broken(0, 0x46), Error::Truncated);
        assert_eq!(broken(8, 63), Error::BadChecksum);
        assert_eq!(Header::parse(&GOLDEN[..19]).unwrap_err(), Error::Truncated);
    }

    #[test]
    fn options_are_passed_over_but_for_source_routes() {
        for (options, verdict) in [
            (&[1, 1, 1, 0][..], Ok(())),
            (&[7, 7, 4, 0, 0, 0, 0, 0], Ok(())),
            (&[0, 131, 3, 4], Ok(())),
            (&[1, 131, 3, 4], Err(Error::SourceRoute)),
            (&[137, 7, 4, 10, 0, 0, 1, 0], Err(Error::SourceRoute)),
            (&[7, 0, 0, 0], Err(Error::BadOptions)),
            (&[7, 1, 0, 0], Err(Error::BadOptions)),
            (&[7, 5, 0, 0], Err(Error::BadOptions)),
            (&[1, 1, 1, 7], Err(Error::BadOptions)),
        ] {
            assert_eq!(check_options(options), verdict, "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Header::parse(&bytes);
        }
    }
}

//! UDP (RFC 768).
//!
//! ```text
//! 0             2             4        6          8
//! | source port | target port | length | checksum | payload …
//! ```

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// The header as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    source_port: U16,
    target_port: U16,
    len: U16,
    checksum: U16,
}

/// Why a datagram can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than its header.
    Truncated,
    /// The length field is below 8 or beyond the packet's end.
    BadLength,
}

impl Header {
    /// A header to send; `len` counts header and payload.
    pub const fn new(source_port: u16, target_port: u16, len: u16, checksum: u16) -> Self {
        Self {
            source_port: U16::new(source_port),
            target_port: U16::new(target_port),
            len: U16::new(len),
            checksum: U16::new(checksum),
        }
    }

    /// Finds the header of a datagram and its length in bytes, header included; the packet may be
    /// longer than the datagram (RFC 768 gives no meaning to what follows).
    pub fn parse(bytes: &[u8]) -> Result<(&Self, usize), Error> {
        let (header, _) = Self::ref_from_prefix(bytes).map_err(|_| Error::Truncated)?;
        let len = usize::from(header.len.get());
        if len < HEADER_LEN || len > bytes.len() {
            return Err(Error::BadLength);
        }
        Ok((header, len))
    }

    /// Source port; 0 when the sender wants no answer.
    pub const fn source_port(&self) -> u16 {
        self.source_port.get()
    }

    /// Destination port.
    pub const fn target_port(&self) -> u16 {
        self.target_port.get()
    }

    /// Checksum; 0 means that the sender made none, which only IPv4 allows.
    pub const fn checksum(&self) -> u16 {
        self.checksum.get()
    }
}

/// The value for the checksum field: a computed 0 is sent as all ones (RFC 768).
pub const fn checksum_field(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_both_ways() {
        let bytes = [0x30, 0x39, 0, 53, 0, 10, 0xab, 0xcd, 1, 2, 3];
        let (header, len) = Header::parse(&bytes).unwrap();
        assert_eq!(
            (header.source_port(), header.target_port(), len),
            (12345, 53, 10)
        );
        assert_eq!(header.checksum(), 0xabcd);
        assert_eq!(Header::new(12345, 53, 10, 0xabcd).as_bytes(), &bytes[..8]);
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(Header::parse(&[0; 7]).unwrap_err(), Error::Truncated);
        assert_eq!(
            Header::parse(&[0, 0, 0, 0, 0, 7, 0, 0]).unwrap_err(),
            Error::BadLength
        );
        assert_eq!(
            Header::parse(&[0, 0, 0, 0, 0, 9, 0, 0]).unwrap_err(),
            Error::BadLength
        );
        assert_eq!(Header::parse(&[0, 0, 0, 0, 0, 8, 0, 0]).unwrap().1, 8);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((_, len)) = Header::parse(&bytes) {
                prop_assert!((HEADER_LEN..=bytes.len()).contains(&len));
            }
        }
    }
}

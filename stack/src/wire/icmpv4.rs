//! ICMP for IPv4 (RFC 792).
//!
//! ```text
//! 0      1      2          4                      8
//! | type | code | checksum | by type, "parameter" | payload, or what an error is about …
//! ```

use core::ops::Range;

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// Types (IANA).
pub mod kind {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench, deprecated (RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Codes of "destination unreachable".
pub mod unreachable {
    /// Network unreachable.
    pub const NETWORK: u8 = 0;
    /// Host unreachable.
    pub const HOST: u8 = 1;
    /// Protocol unreachable.
    pub const PROTOCOL: u8 = 2;
    /// Port unreachable.
    pub const PORT: u8 = 3;
    /// Too big and must not be fragmented; the parameter's lower half is the MTU (RFC 1191 §4).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Communication administratively prohibited (RFC 1812 §5.2.7.1).
    pub const PROHIBITED: u8 = 13;
}

/// The header as it is on the wire. ICMPv6 has the same.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    checksum: U16,
    parameter: U32,
}

impl Header {
    /// A header to send.
    pub const fn new(kind: u8, code: u8, parameter: u32, checksum: u16) -> Self {
        Self {
            kind,
            code,
            checksum: U16::new(checksum),
            parameter: U32::new(parameter),
        }
    }

    /// The word behind the checksum, whose meaning depends on the type.
    pub const fn parameter(&self) -> u32 {
        self.parameter.get()
    }
}

/// The parameter of echo messages.
pub const fn echo_parameter(identifier: u16, sequence: u16) -> u32 {
    (identifier as u32) << 16 | sequence as u32
}

/// An echo request or reply, of either IP version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Chosen by who asks, to tell its own echoes from others'.
    pub identifier: u16,
    /// Number of the request.
    pub sequence: u16,
    /// Where the payload is in the buffer that was parsed.
    pub payload: Range<u32>,
}

/// A report about a packet, of either IP version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The word behind the checksum: MTU, pointer or zero.
    pub parameter: u32,
    /// Where the start of the packet that it is about is, in the buffer that was parsed.
    pub quote: Range<u32>,
}

/// A validated message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Answer me.
    EchoRequest(Echo),
    /// The answer.
    EchoReply(Echo),
    /// An error about a packet that we sent.
    Error(Report),
    /// Anything else, known by type and code only.
    Other {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

/// A message that is shorter than its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

/// Whether a message of this type reports an error (RFC 1122 §3.2.2).
pub const fn is_error(kind: u8) -> bool {
    matches!(
        kind,
        kind::UNREACHABLE
            | kind::SOURCE_QUENCH
            | kind::REDIRECT
            | kind::TIME_EXCEEDED
            | kind::PARAMETER_PROBLEM
    )
}

impl Message {
    /// Reads the message at `range` of `buffer`, its checksum verified beforehand.
    pub fn parse(buffer: &[u8], range: Range<u32>) -> Result<Self, Truncated> {
        let bytes = buffer
            .get(range.start as usize..range.end as usize)
            .ok_or(Truncated)?;
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Truncated)?;
        let rest = range.start + HEADER_LEN as u32..range.end;
        let parameter = header.parameter();
        let echo = |payload| Echo {
            identifier: (parameter >> 16) as u16,
            sequence: parameter as u16,
            payload,
        };
        Ok(match (header.kind, header.code) {
            (kind::ECHO_REQUEST, 0) => Self::EchoRequest(echo(rest)),
            (kind::ECHO_REPLY, 0) => Self::EchoReply(echo(rest)),
            (kind, code) if is_error(kind) => Self::Error(Report {
                kind,
                code,
                parameter,
                quote: rest,
            }),
            (kind, code) => Self::Other { kind, code },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_both_ways() {
        let bytes = [0xee, 8, 0, 0xab, 0xcd, 0x12, 0x34, 0, 7, 1, 2, 3];
        let echo = Echo {
            identifier: 0x1234,
            sequence: 7,
            payload: 9..12,
        };
        assert_eq!(
            Message::parse(&bytes, 1..12),
            Ok(Message::EchoRequest(echo))
        );
        let header = Header::new(8, 0, echo_parameter(0x1234, 7), 0xabcd);
        assert_eq!(header.as_bytes(), &bytes[1..9]);
        let reply = Echo {
            identifier: 0,
            sequence: 0,
            payload: 8..8,
        };
        assert_eq!(Message::parse(&[0; 8], 0..8), Ok(Message::EchoReply(reply)));
    }

    #[test]
    fn errors_keep_their_parameter_and_quote() {
        let bytes = [3, 4, 0, 0, 0, 0, 0x05, 0x14, 0x45];
        let report = Report {
            kind: 3,
            code: 4,
            parameter: 1300,
            quote: 8..9,
        };
        assert_eq!(Message::parse(&bytes, 0..9), Ok(Message::Error(report)));
        let other = [13, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            Message::parse(&other, 0..8),
            Ok(Message::Other { kind: 13, code: 0 })
        );
        assert_eq!(Message::parse(&other, 0..7), Err(Truncated));
        assert_eq!(Message::parse(&other, 0..9), Err(Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let len = bytes.len() as u32;
            prop_assert_eq!(Message::parse(&bytes, 0..len).is_err(), len < 8);
        }
    }
}

//! ICMPv6 (RFC 4443). The header is that of [`icmpv4`](super::icmpv4); neighbour discovery, which
//! rides on it, is in [`ndp`].
//!
//! ```text
//! 0      1      2          4                      8
//! | type | code | checksum | by type, "parameter" | payload, or what an error is about …
//! ```

use core::ops::Range;

use zerocopy::FromBytes;

pub use super::icmpv4::{Echo, HEADER_LEN, Header, Report, echo_parameter};
use super::ndp;

/// Types (IANA).
pub mod kind {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big; the parameter is the MTU.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem; the parameter is the offset of what is wrong.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
}

/// Codes of "destination unreachable".
pub mod unreachable {
    /// No route.
    pub const NO_ROUTE: u8 = 0;
    /// Administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// Address unreachable.
    pub const ADDRESS: u8 = 3;
    /// Port unreachable.
    pub const PORT: u8 = 4;
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
    /// Neighbour discovery. Its hop limit has yet to be checked.
    Ndp(ndp::Message),
    /// Anything else, known by type and code only.
    Other {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

/// Why a message can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than its header.
    Truncated,
    /// A neighbour discovery message that is not valid.
    BadNdp,
}

/// Whether a message of this type reports an error (RFC 4443 §2.1: the high bit is clear).
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

impl Message {
    /// Reads the message at `range` of `buffer`, its checksum verified beforehand.
    pub fn parse(buffer: &[u8], range: Range<u32>) -> Result<Self, Error> {
        let bytes = buffer
            .get(range.start as usize..range.end as usize)
            .ok_or(Error::Truncated)?;
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Error::Truncated)?;
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
            (kind, _) if ndp::is_ndp(kind) => {
                Self::Ndp(ndp::Message::parse(bytes).ok_or(Error::BadNdp)?)
            }
            (kind, code) => Self::Other { kind, code },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let bytes = [129, 0, 0xab, 0xcd, 0x12, 0x34, 0, 7, 1, 2, 3];
        let echo = Echo {
            identifier: 0x1234,
            sequence: 7,
            payload: 8..11,
        };
        assert_eq!(Message::parse(&bytes, 0..11), Ok(Message::EchoReply(echo)));
        let bytes = [2, 0, 0, 0, 0, 0, 0x05, 0, 0x60];
        let report = Report {
            kind: 2,
            code: 0,
            parameter: 1280,
            quote: 8..9,
        };
        assert_eq!(Message::parse(&bytes, 0..9), Ok(Message::Error(report)));
        let mld = [143, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            Message::parse(&mld, 0..8),
            Ok(Message::Other { kind: 143, code: 0 })
        );
        assert_eq!(Message::parse(&mld, 0..7), Err(Error::Truncated));
        let short_solicitation = [135, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            Message::parse(&short_solicitation, 0..8),
            Err(Error::BadNdp)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            kind in prop::sample::select(std::vec![1_u8, 128, 133, 134, 135, 136, 137]),
            mut bytes in prop::collection::vec(any::<u8>(), 1..120),
        ) {
            bytes[0] = kind;
            let len = bytes.len() as u32;
            if len < 8 {
                prop_assert_eq!(Message::parse(&bytes, 0..len), Err(Error::Truncated));
            } else {
                let _ = Message::parse(&bytes, 0..len);
            }
        }
    }
}

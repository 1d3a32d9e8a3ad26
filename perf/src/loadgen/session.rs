//! The header that opens a session on a TCP connection, and the receiver's reports.
//!
//! ```text
//!  byte 0        1      2        3         4..8     8..16    16..24        24..32
//!  MAGIC 'S'   kind   receive  reserved    size     seed     duration_ns   amount
//! ```
//!
//! All numbers are little-endian. `amount` is a number of bytes per stream (bulk; 0 = until the
//! duration ends) or a rate in bits per second (datagrams; 0 = as fast as it goes). `size` is the
//! UDP payload in bytes.

use std::io::{self, Read, Write};
use std::time::Duration;

/// First byte of a connection that opens a session; all other first bytes are echoed.
pub(crate) const MAGIC: u8 = b'S';
/// Length of the header, in bytes.
pub(crate) const HEADER_BYTES: usize = 32;
/// Length of a report, in bytes.
pub(crate) const REPORT_BYTES: usize = 32;

/// What a session does. Up is client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The client sends a byte stream on this connection.
    BulkUp = 1,
    /// The server sends a byte stream on this connection.
    BulkDown = 2,
    /// The client sends datagrams to a port that the server names on this connection.
    UdpUp = 3,
    /// The server sends datagrams to whoever wrote to that port first.
    UdpDown = 4,
}

/// What the receiver of a byte stream does with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// Lets the kernel throw them away, so that the receiver costs as little as can be.
    Discard = 0,
    /// Takes them into a buffer, as most programs do.
    Copy = 1,
    /// Compares each with the seeded pattern, which the sender makes.
    Verify = 2,
}

/// The parameters of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) kind: Kind,
    pub(crate) receive: Receive,
    /// UDP payload, in bytes.
    pub(crate) size: u32,
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    /// Bytes (bulk) or bits per second (datagrams); 0 means no such limit.
    pub(crate) amount: u64,
}

impl Session {
    /// The header's bytes.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = MAGIC;
        bytes[1] = self.kind as u8;
        bytes[2] = self.receive as u8;
        bytes[4..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seed.to_le_bytes());
        let nanos = u64::try_from(self.duration.as_nanos()).unwrap_or(u64::MAX);
        bytes[16..24].copy_from_slice(&nanos.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.amount.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if it is not one.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Session> {
        if bytes[0] != MAGIC || bytes[3] != 0 {
            return None;
        }
        let kind = match bytes[1] {
            1 => Kind::BulkUp,
            2 => Kind::BulkDown,
            3 => Kind::UdpUp,
            4 => Kind::UdpDown,
            _ => return None,
        };
        let receive = match bytes[2] {
            0 => Receive::Discard,
            1 => Receive::Copy,
            2 => Receive::Verify,
            _ => return None,
        };
        let size = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        Some(Session {
            kind,
            receive,
            size,
            seed: word(bytes, 1),
            duration: Duration::from_nanos(word(bytes, 2)),
            amount: word(bytes, 3),
        })
    }
}

/// What a receiver counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) bytes: u64,
    /// Datagrams; 0 for byte streams.
    pub(crate) datagrams: u64,
    /// From the first to the last byte received.
    pub(crate) elapsed: Duration,
    /// Offset of the first byte that was not as the pattern says (streams).
    pub(crate) mismatch_at: Option<u64>,
}

impl Received {
    /// Sends the report to the other side.
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let nanos = u64::try_from(self.elapsed.as_nanos()).unwrap_or(u64::MAX);
        let mismatch = self.mismatch_at.unwrap_or(u64::MAX);
        let mut bytes = [0; REPORT_BYTES];
        for (place, number) in
            bytes
                .chunks_exact_mut(8)
                .zip([self.bytes, self.datagrams, nanos, mismatch])
        {
            place.copy_from_slice(&number.to_le_bytes());
        }
        to.write_all(&bytes)
    }

    /// Waits for the other side's report.
    pub(crate) fn read(mut from: impl Read) -> io::Result<Received> {
        let mut bytes = [0; REPORT_BYTES];
        from.read_exact(&mut bytes)?;
        let mismatch = word(&bytes, 3);
        Ok(Received {
            bytes: word(&bytes, 0),
            datagrams: word(&bytes, 1),
            elapsed: Duration::from_nanos(word(&bytes, 2)),
            mismatch_at: (mismatch != u64::MAX).then_some(mismatch),
        })
    }
}

/// The `index`th 8-byte little-endian number; `index` is below 4.
fn word(bytes: &[u8; 32], index: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let session = Session {
            kind: Kind::UdpDown,
            receive: Receive::Copy,
            size: 1472,
            seed: 7,
            duration: Duration::from_millis(1500),
            amount: 1_000_000_000,
        };
        assert_eq!(Session::parse(&session.to_bytes()), Some(session));
    }

    #[test]
    fn a_report_survives_the_wire() {
        for mismatch_at in [None, Some(0), Some(4097)] {
            let report = Received {
                bytes: 1 << 30,
                datagrams: 3,
                elapsed: Duration::from_nanos(12_345),
                mismatch_at,
            };
            let mut wire = Vec::new();
            report.write(&mut wire).unwrap();
            assert_eq!(Received::read(wire.as_slice()).unwrap(), report);
        }
    }

    proptest! {
        #[test]
        fn any_header_is_refused_or_kept_whole(bytes: [u8; HEADER_BYTES]) {
            if let Some(session) = Session::parse(&bytes) {
                prop_assert_eq!(session.to_bytes(), bytes);
            }
        }

        #[test]
        fn any_kind_byte_parses_alike(kind: u8, tail: [u8; 28]) {
            let mut bytes = [0; HEADER_BYTES];
            bytes[0] = MAGIC;
            bytes[1] = kind;
            bytes[4..].copy_from_slice(&tail);
            prop_assert_eq!(Session::parse(&bytes).is_some(), (1..=4).contains(&kind));
        }

        #[test]
        fn a_short_report_is_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..REPORT_BYTES),
        ) {
            prop_assert!(Received::read(bytes.as_slice()).is_err());
        }
    }
}

//! ARP for IPv4 over ethernet (RFC 826).
//!
//! ```text
//! 0       2       4    5    6      8            14          18           24          28
//! | hw=1  | 0800  | 6  | 4  | op   | sender MAC | sender IP | target MAC | target IP |
//! ```

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::MacAddress;
use super::ethernet::EtherType;

/// Length of a packet in bytes.
pub const PACKET_LEN: usize = 28;

const ETHERNET: u16 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: MacAddress,
    sender: [u8; 4],
    target_mac: MacAddress,
    target: [u8; 4],
}

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// A validated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// What it is for.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: MacAddress,
    /// IPv4 address of the sender; `0.0.0.0` in a probe (RFC 5227 §1.1).
    pub sender: [u8; 4],
    /// Hardware address of the target; meaningless in a request.
    pub target_mac: MacAddress,
    /// IPv4 address of the target.
    pub target: [u8; 4],
}

/// Why a packet is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than 28 bytes.
    Truncated,
    /// Not IPv4 over ethernet, or neither request nor reply.
    Unsupported,
}

impl ArpPacket {
    /// Reads a packet; bytes behind it are ethernet padding.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Error::Truncated)?;
        let of_ipv4_over_ethernet = header.hardware.get() == ETHERNET
            && header.protocol.get() == EtherType::IPV4.0
            && header.hardware_len == 6
            && header.protocol_len == 4;
        if !of_ipv4_over_ethernet {
            return Err(Error::Unsupported);
        }
        let operation = match header.operation.get() {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(Error::Unsupported),
        };
        let Header {
            sender_mac,
            sender,
            target_mac,
            target,
            ..
        } = *header;
        Ok(Self {
            operation,
            sender_mac,
            sender,
            target_mac,
            target,
        })
    }

    /// The packet's bytes.
    pub fn emit(&self) -> [u8; PACKET_LEN] {
        let Self {
            operation,
            sender_mac,
            sender,
            target_mac,
            target,
        } = *self;
        let header = Header {
            hardware: U16::new(ETHERNET),
            protocol: U16::new(EtherType::IPV4.0),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(match operation {
                Operation::Request => 1,
                Operation::Reply => 2,
            }),
            sender_mac,
            sender,
            target_mac,
            target,
        };
        zerocopy::transmute!(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: [u8; PACKET_LEN] = [
        0, 1, 8, 0, 6, 4, 0, 1, // IPv4 over ethernet, request
        2, 0x74, 0x6f, 0x77, 0, 3, 10, 0, 2, 3, // who asks
        0, 0, 0, 0, 0, 0, 10, 0, 2, 1, // for whom
    ];

    #[test]
    fn golden_bytes_both_ways() {
        let packet = ArpPacket::parse(&REQUEST).unwrap();
        assert_eq!(
            packet,
            ArpPacket {
                operation: Operation::Request,
                sender_mac: MacAddress([2, 0x74, 0x6f, 0x77, 0, 3]),
                sender: [10, 0, 2, 3],
                target_mac: MacAddress([0; 6]),
                target: [10, 0, 2, 1],
            }
        );
        assert_eq!(packet.emit(), REQUEST);
    }

    #[test]
    fn other_hardware_protocols_and_operations_are_refused() {
        for (at, value) in [(1, 6), (2, 9), (4, 8), (5, 16), (7, 3), (7, 0)] {
            let mut bytes = REQUEST;
            bytes[at] = value;
            assert_eq!(
                ArpPacket::parse(&bytes),
                Err(Error::Unsupported),
                "byte {at}"
            );
        }
        assert_eq!(ArpPacket::parse(&REQUEST[..27]), Err(Error::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(packet) = ArpPacket::parse(&bytes) {
                prop_assert_eq!(packet.emit(), &bytes[..PACKET_LEN]);
            }
        }
    }
}

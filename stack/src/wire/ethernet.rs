//! Ethernet II framing (IEEE 802.3 §3.2 with a type field), without FCS.
//!
//! ```text
//! 0            6            12      14
//! | target MAC | source MAC | type  | payload …
//! ```

use core::fmt;
use core::str::FromStr;

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 14;

/// A MAC address (EUI-48), in transmission order.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group of stations, broadcast included.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether all octets are zero, which no station has.
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// The group of an IPv6 multicast address: `33:33` and its last four octets (RFC 2464 §7).
    pub const fn of_multicast6(group: &[u8; 16]) -> Self {
        Self([0x33, 0x33, group[12], group[13], group[14], group[15]])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not six octets in hexadecimal with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMacAddress;

impl fmt::Display for NotAMacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address like 02:74:6f:77:00:01")
    }
}

impl core::error::Error for NotAMacAddress {}

impl FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<Self, NotAMacAddress> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(NotAMacAddress)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(NotAMacAddress);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| NotAMacAddress)?;
        }
        if parts.next().is_some() {
            Err(NotAMacAddress)
        } else {
            Ok(Self(octets))
        }
    }
}

/// The type field: what the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
}

/// The header as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Who shall get the frame.
    pub target: MacAddress,
    /// Who sent it.
    pub source: MacAddress,
    /// The type field; below 0x0600 it is a length (IEEE 802.3 §3.2.6), which nobody here uses.
    pub ether_type: U16,
}

impl Header {
    /// A header for a frame to send.
    pub const fn new(source: MacAddress, target: MacAddress, ether_type: EtherType) -> Self {
        Self {
            target,
            source,
            ether_type: U16::new(ether_type.0),
        }
    }

    /// Splits a frame into header and payload; `None` when it is shorter than the header.
    pub fn parse(frame: &[u8]) -> Option<(&Self, &[u8])> {
        Self::ref_from_prefix(frame).ok()
    }

    /// The type field.
    pub const fn ether_type(&self) -> EtherType {
        EtherType(self.ether_type.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn golden_bytes_both_ways() {
        let bytes = [
            0x33, 0x33, 0, 0, 0, 2, 2, 0x74, 0x6f, 0x77, 0, 3, 0x86, 0xdd, 0xab,
        ];
        let (header, payload) = Header::parse(&bytes).unwrap();
        assert!(header.target.is_multicast());
        assert_eq!(header.source, MacAddress([2, 0x74, 0x6f, 0x77, 0, 3]));
        assert_eq!(header.ether_type(), EtherType::IPV6);
        assert_eq!(payload, [0xab]);
        let again = Header::new(header.source, header.target, EtherType::IPV6);
        assert_eq!(again.as_bytes(), &bytes[..HEADER_LEN]);
        assert!(Header::parse(&bytes[..13]).is_none());
    }

    #[test]
    fn text_both_ways() {
        let mac = MacAddress([2, 0x74, 0x6f, 0x77, 0, 1]);
        assert_eq!(mac.to_string(), "02:74:6f:77:00:01");
        assert_eq!("02:74:6F:77:00:01".parse(), Ok(mac));
        let bad = [
            "",
            "02:74:6f:77:00",
            "02:74:6f:77:00:01:02",
            "2:74:6f:77:00:01",
            "+2:0:0:0:0:0",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<MacAddress>(), Err(NotAMacAddress), "{bad:?}");
        }
    }

    #[test]
    fn multicast_group() {
        let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(
            MacAddress::of_multicast6(&all_nodes).0,
            [0x33, 0x33, 0, 0, 0, 1]
        );
    }
}

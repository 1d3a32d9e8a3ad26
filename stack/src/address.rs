//! One address type for both IP versions.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address of either version in 16 bytes, network order; IPv4 is held in its mapped form
/// `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
///
/// Mapped addresses never travel inside IPv6 packets (the parser refuses them there), so the two
/// versions can't be confused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 16]);

impl Address {
    /// `0.0.0.0`.
    pub const UNSPECIFIED_V4: Self = Self::v4([0; 4]);
    /// `::`.
    pub const UNSPECIFIED_V6: Self = Self([0; 16]);

    /// From four octets in network order.
    pub const fn v4(o: [u8; 4]) -> Self {
        Self([
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3],
        ])
    }

    /// From sixteen octets in network order.
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// Whether this is an IPv4 address.
    pub const fn is_v4(&self) -> bool {
        let o = &self.0;
        u64::from_be_bytes([o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]]) == 0
            && u32::from_be_bytes([o[8], o[9], o[10], o[11]]) == 0xffff
    }

    /// The four octets of an IPv4 address.
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        let o = &self.0;
        if self.is_v4() {
            Some([o[12], o[13], o[14], o[15]])
        } else {
            None
        }
    }

    /// All sixteen octets, IPv4 in mapped form.
    pub const fn octets(&self) -> &[u8; 16] {
        &self.0
    }

    /// As the standard library's type; IPv4 is unmapped.
    pub const fn ip(&self) -> IpAddr {
        match self.as_v4() {
            Some([a, b, c, d]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            None => IpAddr::V6(Ipv6Addr::from_octets(self.0)),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

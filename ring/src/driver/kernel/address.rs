//! Socket addresses as the kernel writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;

use crate::driver::{Errno, Remote, UnixAddress};

/// The length of the largest IP socket address in bytes (`struct sockaddr_in6`).
pub(in crate::driver) const INET_BYTES: usize = 28;

/// The length of `sun_path` in bytes.
const UNIX_PATH_BYTES: usize = 108;

/// Room for any address we use, in the kernel's layout.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
pub(in crate::driver) struct RawAddress {
    bytes: [u8; 2 + UNIX_PATH_BYTES],
    len: u16,
}

impl Default for RawAddress {
    fn default() -> RawAddress {
        RawAddress {
            bytes: [0; 2 + UNIX_PATH_BYTES],
            len: 0,
        }
    }
}

impl RawAddress {
    /// Writes an IP address.
    pub(in crate::driver) fn set_inet(&mut self, address: &SocketAddr) {
        self.bytes[..INET_BYTES].fill(0);
        self.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                self.set_family(libc::AF_INET);
                self.bytes[4..8].copy_from_slice(&v4.ip().octets());
                self.len = 16;
            }
            SocketAddr::V6(v6) => {
                self.set_family(libc::AF_INET6);
                self.bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                self.bytes[8..24].copy_from_slice(&v6.ip().octets());
                self.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                self.len = 28;
            }
        }
    }

    /// Writes any address. `ENAMETOOLONG` if a UNIX path does not fit, `EINVAL` if it is empty or
    /// has a zero byte.
    pub(in crate::driver) fn set(&mut self, remote: &Remote) -> Result<(), Errno> {
        // A path ends with a zero byte; an abstract name begins with one and has no end mark.
        let (name, offset, end) = match remote {
            Remote::Inet(address) => {
                self.set_inet(address);
                return Ok(());
            }
            Remote::Unix(UnixAddress::Path(path)) => (path.as_os_str().as_bytes(), 0, 1),
            Remote::Unix(UnixAddress::Abstract(name)) => (name.as_slice(), 1, 0),
        };
        if name.is_empty() || (end == 1 && name.contains(&0)) {
            return Err(Errno::INVAL);
        }
        if offset + name.len() + end > UNIX_PATH_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes.fill(0);
        self.set_family(libc::AF_UNIX);
        self.bytes[2 + offset..][..name.len()].copy_from_slice(name);
        self.len = (2 + offset + name.len() + end) as u16;
        Ok(())
    }

    fn set_family(&mut self, family: libc::c_int) {
        self.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    }

    /// The IP address, if it is one.
    pub(in crate::driver) fn inet(&self) -> Option<SocketAddr> {
        parse_inet(&self.bytes[..INET_BYTES])
    }

    pub(in crate::driver) fn as_ptr(&self) -> *const libc::sockaddr {
        self.bytes.as_ptr().cast()
    }

    pub(in crate::driver) fn len(&self) -> libc::socklen_t {
        self.len.into()
    }
}

/// Reads an IP address that the kernel wrote.
pub(in crate::driver) fn parse_inet(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match libc::c_int::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), port))
        }
        libc::AF_INET6 => {
            let flow = u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?);
            let octets: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(octets),
                port,
                flow,
                scope,
            )))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(remote: &Remote) -> Result<Vec<u8>, Errno> {
        let mut raw = RawAddress::default();
        raw.set(remote)
            .map(|()| raw.bytes[..usize::from(raw.len)].to_vec())
    }

    #[test]
    fn inet_addresses_come_back() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:443", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let bytes = written(&Remote::Inet(address)).unwrap();
            assert_eq!(parse_inet(&bytes), Some(address));
        }
        let bytes = written(&Remote::Inet("1.2.3.4:258".parse().unwrap())).unwrap();
        assert_eq!(bytes[2..8], [1, 2, 1, 2, 3, 4]);
    }

    #[test]
    fn unix_addresses_have_their_marks() {
        let path = |text: &str| Remote::Unix(UnixAddress::Path(text.into()));
        assert_eq!(written(&path("/a")).unwrap()[2..], *b"/a\0");
        let name = Remote::Unix(UnixAddress::Abstract(b"x\0y".to_vec()));
        assert_eq!(written(&name).unwrap()[2..], *b"\0x\0y");
        assert_eq!(written(&path("")), Err(Errno::INVAL));
        assert_eq!(written(&path(&"p".repeat(107))).unwrap().len(), 110);
        assert_eq!(written(&path(&"p".repeat(108))), Err(Errno::NAMETOOLONG));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_address_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_inet(&bytes);
        }
    }
}

//! Control messages: what the kernel says beside the payload of a datagram.

use std::net::{IpAddr, SocketAddr};

use super::address::parse_inet;
use crate::driver::{Errno, ErrorOrigin};

/// `struct cmsghdr`: len usize, level i32, type i32.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// From linux/errqueue.h.
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// What comes with a datagram.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::driver) struct Ancillary {
    /// The size of the datagrams in the payload; 0 = it is one.
    pub(in crate::driver) gso_size: u16,
    pub(in crate::driver) hop_limit: Option<u8>,
    pub(in crate::driver) error: Option<ExtendedError>,
}

/// `struct sock_extended_err` with the offender behind it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(in crate::driver) struct ExtendedError {
    pub(in crate::driver) errno: Errno,
    pub(in crate::driver) origin: ErrorOrigin,
    pub(in crate::driver) info: u32,
}

/// Reads all control messages; what is cut off or unknown is skipped.
pub(in crate::driver) fn parse(mut bytes: &[u8]) -> Ancillary {
    let mut found = Ancillary::default();
    while let Some((level, kind, data)) = next(&mut bytes) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                found.gso_size = int(data)
                    .and_then(|size| u16::try_from(size).ok())
                    .unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                found.hop_limit = int(data).and_then(|hops| u8::try_from(hops).ok());
            }
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                found.error = extended_error(data);
            }
            _ => {}
        }
    }
    found
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<(i32, i32, &'a [u8])> {
    let len = usize::from_ne_bytes(*bytes.first_chunk()?);
    let level = i32::from_ne_bytes(*bytes.get(size_of::<usize>()..)?.first_chunk()?);
    let kind = i32::from_ne_bytes(*bytes.get(size_of::<usize>() + 4..)?.first_chunk()?);
    let data = bytes.get(HEADER_BYTES..len)?;
    *bytes = bytes
        .get(len.next_multiple_of(size_of::<usize>())..)
        .unwrap_or_default();
    Some((level, kind, data))
}

fn int(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// errno u32, origin u8, type u8, code u8, pad u8, info u32, data u32, then a socket address.
fn extended_error(data: &[u8]) -> Option<ExtendedError> {
    let number = u32::from_ne_bytes(*data.first_chunk()?);
    let &[origin, kind, code, _] = data.get(4..)?.first_chunk()?;
    let info = u32::from_ne_bytes(*data.get(8..)?.first_chunk()?);
    let errno = i32::try_from(number)
        .ok()
        .filter(|number| (1..4096).contains(number))?;
    let offender = parse_inet(data.get(16..)?).map(|address: SocketAddr| address.ip());
    let origin = match (origin, offender) {
        (ORIGIN_ICMP, offender) => ErrorOrigin::Icmp {
            v6: false,
            kind,
            code,
            offender: offender.unwrap_or(IpAddr::from([0; 4])),
        },
        (ORIGIN_ICMP6, offender) => ErrorOrigin::Icmp {
            v6: true,
            kind,
            code,
            offender: offender.unwrap_or(IpAddr::from([0; 16])),
        },
        _ => ErrorOrigin::Local,
    };
    Some(ExtendedError {
        errno: Errno::from_raw_os_error(errno),
        origin,
        info,
    })
}

/// Writes the control message that cuts a send into datagrams of `gso_size` bytes; returns its
/// length.
pub(in crate::driver) fn write_segment_size(control: &mut [u8; 24], gso_size: u16) -> usize {
    let len = HEADER_BYTES + size_of::<u16>();
    control.fill(0);
    control[..8].copy_from_slice(&(len as u64).to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[16..18].copy_from_slice(&gso_size.to_ne_bytes());
    control.len()
}

const _: () = assert!(
    HEADER_BYTES == 16,
    "the layout above is that of 64-bit systems"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_BYTES + data.len()).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&level.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn several_messages_are_read() {
        let mut bytes = message(libc::SOL_UDP, libc::UDP_GRO, &1400i32.to_ne_bytes());
        bytes.extend(message(99, 99, &[1, 2, 3]));
        bytes.extend(message(
            libc::IPPROTO_IP,
            libc::IP_TTL,
            &63i32.to_ne_bytes(),
        ));
        let found = parse(&bytes);
        assert_eq!(
            found,
            Ancillary {
                gso_size: 1400,
                hop_limit: Some(63),
                error: None
            }
        );
    }

    #[test]
    fn an_icmp_error_names_its_offender() {
        let mut data = 113u32.to_ne_bytes().to_vec();
        data.extend([ORIGIN_ICMP, 11, 0, 0]);
        data.extend(1300u32.to_ne_bytes());
        data.extend([0; 4]);
        data.extend((libc::AF_INET as u16).to_ne_bytes());
        data.extend([0, 0, 192, 0, 2, 7]);
        let found = parse(&message(libc::IPPROTO_IP, libc::IP_RECVERR, &data)).error;
        let origin = ErrorOrigin::Icmp {
            v6: false,
            kind: 11,
            code: 0,
            offender: [192, 0, 2, 7].into(),
        };
        assert_eq!(
            found,
            Some(ExtendedError {
                errno: Errno::HOSTUNREACH,
                origin,
                info: 1300
            })
        );
    }

    #[test]
    fn the_segment_size_is_a_control_message() {
        let mut control = [0xff; 24];
        assert_eq!(write_segment_size(&mut control, 1200), 24);
        let mut bytes = &control[..];
        assert_eq!(
            next(&mut bytes),
            Some((libc::SOL_UDP, libc::UDP_SEGMENT, &1200u16.to_ne_bytes()[..]))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_parse(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_extended_error_parses(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&message(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, &data));
        }
    }
}

//! Raw ethernet frames: made by hand, sent and seen through packet sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket,
};

use super::namespace::{Namespace, ip};

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const PROTOCOL_ICMPV4: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;

pub(crate) const TCP_FIN: u8 = 1;
pub(crate) const TCP_SYN: u8 = 2;
pub(crate) const TCP_RST: u8 = 4;
pub(crate) const TCP_ACK: u8 = 16;

/// A packet socket on one interface.
pub(crate) struct RawLink {
    socket: socket2::Socket,
    address: LinkAddr,
}

impl RawLink {
    /// Opens the interface of that name in a namespace.
    #[track_caller]
    pub(crate) fn open(net: &Namespace, interface: &str) -> Self {
        let opened = net.enter(|| {
            let all = SockProtocol::EthAll;
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket: OwnedFd = socket(AddressFamily::Packet, SockType::Raw, flags, all)
                .expect("root of a namespace may open packet sockets");
            // The only way to a link-layer address without `unsafe`: ask for the interface's own.
            let mut addresses = nix::ifaddrs::getifaddrs().expect("addresses can be listed");
            let address = addresses.find_map(|entry| {
                let address = entry
                    .address
                    .filter(|_| entry.interface_name == interface)?;
                address.as_link_addr().copied()
            });
            (socket, address)
        });
        let (socket, address) = opened;
        let address = address.unwrap_or_else(|| panic!("no interface '{interface}'"));
        Self {
            socket: socket.into(),
            address,
        }
    }

    /// The interface's own MAC address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.address.addr().expect("an ethernet interface has one")
    }

    /// Sends a frame; `false` if the kernel did not take it.
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        sendto(
            self.socket.as_raw_fd(),
            frame,
            &self.address,
            MsgFlags::empty(),
        )
        .is_ok()
    }

    /// Waits for a frame for which `choose` gives something. It sees frames of both directions,
    /// as they are before any segmentation.
    #[track_caller]
    pub(crate) fn find<T>(&self, what: &str, mut choose: impl FnMut(&[u8]) -> Option<T>) -> T {
        use std::io::Read;
        self.socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("the time is not zero");
        let mut buffer = vec![0; 1 << 17];
        loop {
            let n = (&self.socket).read(&mut buffer);
            let n = n.unwrap_or_else(|error| panic!("no such frame, {what}: {error}"));
            if let Some(found) = choose(&buffer[..n]) {
                return found;
            }
        }
    }
}

/// The MAC address that a namespace has learnt for a neighbour, which it is made to ask for.
#[track_caller]
pub(crate) fn neighbour_mac(net: &Namespace, of: IpAddr) -> [u8; 6] {
    net.enter(|| {
        let probe = std::net::UdpSocket::bind(super::world::any(of)).expect("a port is free");
        super::world::eventually("the neighbour is known", || {
            // Refused or not, it makes the kernel ask.
            let _ = probe.send_to(b"?", (of, 9));
            ip(&format!("neigh show {of}")).contains("lladdr")
        });
        let entry = ip(&format!("neigh show {of}"));
        let text = entry
            .split_whitespace()
            .skip_while(|word| *word != "lladdr")
            .nth(1);
        let bytes = text.expect("checked above").split(':');
        let bytes: Vec<u8> = bytes
            .map(|b| u8::from_str_radix(b, 16).expect("hex"))
            .collect();
        bytes.try_into().expect("six bytes")
    })
}

/// An ethernet header before a payload.
pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 header without options (RFC 791 §3.1) before a payload.
pub(crate) fn ipv4(
    source: Ipv4Addr,
    target: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a packet's length");
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 header (RFC 8200 §3) before a payload.
pub(crate) fn ipv6(source: Ipv6Addr, target: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a packet's length");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(payload);
    packet
}

/// A whole packet of either version, whose transport checksum at `checksum_at` is filled in.
pub(crate) fn packet(
    (source, target): (IpAddr, IpAddr),
    protocol: u8,
    mut payload: Vec<u8>,
    checksum_at: usize,
) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a packet's length")
        .to_be_bytes();
    let number = [0, 0, 0, protocol];
    let field = checksum_at..checksum_at + 2;
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            // ICMP for IPv4 alone sums no pseudo-header (RFC 792).
            let sum = if protocol == PROTOCOL_ICMPV4 {
                checksum(&[&payload])
            } else {
                checksum(&[
                    &source.octets(),
                    &target.octets(),
                    &number,
                    &length,
                    &payload,
                ])
            };
            payload[field].copy_from_slice(&sum.to_be_bytes());
            ipv4(source, target, protocol, 0, &payload)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let sum = checksum(&[
                &source.octets(),
                &target.octets(),
                &length,
                &number,
                &payload,
            ]);
            payload[field].copy_from_slice(&sum.to_be_bytes());
            ipv6(source, target, protocol, &payload)
        }
        _ => panic!("two versions in one packet"),
    }
}

/// The ethertype of an address's version.
pub(crate) fn ethertype(of: IpAddr) -> u16 {
    if of.is_ipv4() {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    }
}

/// Where the checksum stands in a TCP header.
pub(crate) const TCP_CHECKSUM_AT: usize = 16;
/// Where the checksum stands in a UDP header.
pub(crate) const UDP_CHECKSUM_AT: usize = 6;
/// Where the checksum stands in both ICMPs' headers.
pub(crate) const ICMP_CHECKSUM_AT: usize = 2;

/// A TCP segment (RFC 9293 §3.1) without its checksum; `options` are whole words.
pub(crate) fn tcp(
    (source, target): (u16, u16),
    (sequence, acknowledgment): (u32, u32),
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4) && options.len() <= 40);
    let mut segment = Vec::new();
    segment.extend(source.to_be_bytes());
    segment.extend(target.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgment.to_be_bytes());
    segment.extend([
        ((5 + options.len() / 4) << 4) as u8,
        flags,
        0xff,
        0xff,
        0,
        0,
        0,
        0,
    ]);
    segment.extend(options);
    segment.extend(payload);
    segment
}

/// A UDP datagram (RFC 768) without its checksum.
pub(crate) fn udp(source: u16, target: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram's length");
    let mut datagram = Vec::new();
    for field in [source, target, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    datagram
}

/// The internet checksum (RFC 1071) over parts, all but the last of even length.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 = words
        .map(|word| {
            u64::from(u16::from_be_bytes([
                word[0],
                word.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

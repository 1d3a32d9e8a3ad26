//! The packets between a core and the control thread.
//!
//! One packet of a `SOCK_SEQPACKET` socket is one request or one reply: a fixed header, then the
//! DNS or DHCP message as it stood on the wire. All numbers are in network order.
//!
//! ```text
//! DNS    0: kind  1: zero   2..4: port  4..10: MAC   10..12: guest port  12..28: guest  28..44: server  44..: message
//! DHCP   0: kind  1: to?    2..4: port  4..10: MAC   10..14: to                                          14..: message
//! ```
//!
//! `to?` is 0 for a broadcast (then `to` is zero as well) and 1 for a reply to one address;
//! requests have 0. Parsing is total: a packet of any bytes is a message or `None`.

use std::net::Ipv4Addr;

use towpath_stack::Address;

/// Bytes of the longest packet: a DNS message of 65,535 bytes behind its header.
///
/// A receive buffer of this size cuts nothing off.
pub const PACKET_MAX: usize = DNS_HEADER + u16::MAX as usize;

const DNS_HEADER: usize = 44;
const DHCP_HEADER: usize = 14;

const DNS: u8 = 1;
const DHCP: u8 = 2;

/// UDP port of DHCP servers and relays (RFC 2131 §4.1).
const DHCP_SERVER_PORT: u16 = 67;
/// UDP port of DHCP clients (RFC 2131 §4.1).
const DHCP_CLIENT_PORT: u16 = 68;

/// Who asked by DNS over UDP, and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The number of the guest's port on the engine.
    pub port: u16,
    /// Source address of the frame.
    pub mac: [u8; 6],
    /// Who asks.
    pub guest: Address,
    /// The UDP port that he asks from.
    pub guest_port: u16,
    /// The address that was asked, and answers.
    pub server: Address,
}

/// From a core to the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A UDP datagram to the DNS port.
    Dns {
        /// Who asks.
        asker: Asker,
        /// The datagram's payload.
        query: &'a [u8],
    },
    /// A UDP datagram to the DHCP server's port.
    Dhcp {
        /// The number of the guest's port on the engine.
        port: u16,
        /// Source address of the frame.
        mac: [u8; 6],
        /// The datagram's payload.
        message: &'a [u8],
    },
}

/// From the control thread to a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A UDP datagram from the server's port 53 to the asker.
    Dns {
        /// Who asked.
        asker: Asker,
        /// The datagram's payload.
        answer: &'a [u8],
    },
    /// A UDP datagram from the gateway, port 67, to port [`dhcp_target_port`].
    Dhcp {
        /// The number of the port that the client is at.
        port: u16,
        /// Hardware address for a reply to one address. The client may not have that address yet
        /// and then does not answer ARP for it (RFC 2131 §4.1). Without a meaning for a broadcast.
        mac: [u8; 6],
        /// The target address; `None` is a broadcast, in IP and on the link.
        to: Option<Ipv4Addr>,
        /// The datagram's payload.
        message: &'a [u8],
    },
}

impl<'a> Request<'a> {
    /// Replaces what is in `packet` by this request.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Dns { asker, query } => encode_dns(packet, &asker, query),
            Self::Dhcp { port, mac, message } => encode_dhcp(packet, port, mac, None, message),
        }
    }

    /// Reads one packet; `None` when it is no request.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        match *packet.first()? {
            DNS => {
                let (asker, query) = decode_dns(packet)?;
                Some(Self::Dns { asker, query })
            }
            DHCP => match decode_dhcp(packet)? {
                Reply::Dhcp {
                    port,
                    mac,
                    to: None,
                    message,
                } => Some(Self::Dhcp { port, mac, message }),
                _ => None,
            },
            _ => None,
        }
    }
}

impl<'a> Reply<'a> {
    /// Replaces what is in `packet` by this reply.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Dns { asker, answer } => encode_dns(packet, &asker, answer),
            Self::Dhcp {
                port,
                mac,
                to,
                message,
            } => encode_dhcp(packet, port, mac, to, message),
        }
    }

    /// Reads one packet; `None` when it is no reply.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        match *packet.first()? {
            DNS => {
                let (asker, answer) = decode_dns(packet)?;
                Some(Self::Dns { asker, answer })
            }
            DHCP => decode_dhcp(packet),
            _ => None,
        }
    }
}

/// The UDP port that a DHCP reply goes to: the server's port when a relay asked (`giaddr` is set),
/// the client's otherwise (RFC 2131 §4.1).
pub fn dhcp_target_port(message: &[u8]) -> u16 {
    match message.get(24..28) {
        Some([0, 0, 0, 0]) | None => DHCP_CLIENT_PORT,
        Some(_) => DHCP_SERVER_PORT,
    }
}

fn encode_dns(packet: &mut Vec<u8>, asker: &Asker, message: &[u8]) {
    packet.clear();
    packet.extend_from_slice(&[DNS, 0]);
    packet.extend_from_slice(&asker.port.to_be_bytes());
    packet.extend_from_slice(&asker.mac);
    packet.extend_from_slice(&asker.guest_port.to_be_bytes());
    packet.extend_from_slice(asker.guest.octets());
    packet.extend_from_slice(asker.server.octets());
    packet.extend_from_slice(message);
}

fn decode_dns(packet: &[u8]) -> Option<(Asker, &[u8])> {
    let (header, message) = packet.split_first_chunk::<DNS_HEADER>()?;
    let ([_, zero, p0, p1, m0, m1, m2, m3, m4, m5, g0, g1], rest) =
        header.split_first_chunk::<12>()?;
    let (&guest, server) = rest.split_first_chunk::<16>()?;
    let &server = server.first_chunk::<16>()?;
    if *zero != 0 || message.len() > usize::from(u16::MAX) {
        return None;
    }
    let asker = Asker {
        port: u16::from_be_bytes([*p0, *p1]),
        mac: [*m0, *m1, *m2, *m3, *m4, *m5],
        guest: Address::v6(guest),
        guest_port: u16::from_be_bytes([*g0, *g1]),
        server: Address::v6(server),
    };
    Some((asker, message))
}

fn encode_dhcp(
    packet: &mut Vec<u8>,
    port: u16,
    mac: [u8; 6],
    to: Option<Ipv4Addr>,
    message: &[u8],
) {
    packet.clear();
    packet.extend_from_slice(&[DHCP, u8::from(to.is_some())]);
    packet.extend_from_slice(&port.to_be_bytes());
    packet.extend_from_slice(&mac);
    packet.extend_from_slice(&to.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    packet.extend_from_slice(message);
}

fn decode_dhcp(packet: &[u8]) -> Option<Reply<'_>> {
    let (&header, message) = packet.split_first_chunk::<DHCP_HEADER>()?;
    let [_, is_unicast, p0, p1, m0, m1, m2, m3, m4, m5, to @ ..] = header;
    let to = match (is_unicast, to) {
        (0, [0, 0, 0, 0]) => None,
        (1, to) => Some(Ipv4Addr::from(to)),
        _ => return None,
    };
    let port = u16::from_be_bytes([p0, p1]);
    let mac = [m0, m1, m2, m3, m4, m5];
    (message.len() <= usize::from(u16::MAX)).then_some(Reply::Dhcp {
        port,
        mac,
        to,
        message,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use towpath_stack::Address;

    use super::{Asker, PACKET_MAX, Reply, Request, dhcp_target_port};

    const MAC: [u8; 6] = [2, 3, 4, 5, 6, 7];

    #[test]
    fn golden_bytes() {
        let mut packet = vec![9; 3];
        let asker = Asker {
            port: 0x0506,
            mac: MAC,
            guest: Address::v4([10, 0, 2, 3]),
            guest_port: 0x1234,
            server: Address::v4([10, 0, 2, 1]),
        };
        Request::Dns { asker, query: b"q" }.encode(&mut packet);
        let mut golden = vec![1, 0, 5, 6, 2, 3, 4, 5, 6, 7, 0x12, 0x34];
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 2, 3]);
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 2, 1]);
        golden.push(b'q');
        assert_eq!(packet, golden);

        let to = Some(Ipv4Addr::new(10, 0, 2, 3));
        Reply::Dhcp {
            port: 0x0506,
            mac: MAC,
            to,
            message: b"m",
        }
        .encode(&mut packet);
        assert_eq!(packet, [2, 1, 5, 6, 2, 3, 4, 5, 6, 7, 10, 0, 2, 3, b'm']);
        assert_eq!(Request::decode(&packet), None, "a request has no target");
    }

    #[test]
    fn longest_message_fits_and_no_longer_one() {
        let asker = Asker {
            port: 0,
            mac: MAC,
            guest: Address::UNSPECIFIED_V6,
            guest_port: 1,
            server: Address::UNSPECIFIED_V6,
        };
        let mut packet = Vec::new();
        let query = vec![7; 65_535];
        let request = Request::Dns {
            asker,
            query: &query,
        };
        request.encode(&mut packet);
        assert_eq!(packet.len(), PACKET_MAX);
        assert_eq!(Request::decode(&packet), Some(request));
        packet.push(0);
        assert_eq!(Request::decode(&packet), None);
    }

    #[test]
    fn relays_are_answered_at_the_server_port() {
        let mut message = [0; 240];
        assert_eq!(dhcp_target_port(&message), 68);
        message[27] = 1;
        assert_eq!(dhcp_target_port(&message), 67);
        assert_eq!(dhcp_target_port(&[]), 68);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            guest: [u8; 16], server: [u8; 16], guest_port: u16, port: u16, mac: [u8; 6],
            to in proptest::option::of(any::<[u8; 4]>()), bytes: Vec<u8>,
        ) {
            let (guest, server) = (Address::v6(guest), Address::v6(server));
            let asker = Asker { port, mac, guest, guest_port, server };
            let to = to.map(Ipv4Addr::from);
            let mut packet = Vec::new();
            let requests = [
                Request::Dns { asker, query: &bytes },
                Request::Dhcp { port, mac, message: &bytes },
            ];
            for request in requests {
                request.encode(&mut packet);
                prop_assert_eq!(Request::decode(&packet), Some(request));
            }
            let replies = [
                Reply::Dns { asker, answer: &bytes },
                Reply::Dhcp { port, mac, to, message: &bytes },
            ];
            for reply in replies {
                reply.encode(&mut packet);
                prop_assert_eq!(Reply::decode(&packet), Some(reply));
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_none(bytes: Vec<u8>, kind in 0..4_u8, flag in 0..3_u8) {
            let mut packet = vec![kind, flag];
            packet.extend(bytes);
            let mut again = Vec::new();
            if let Some(request) = Request::decode(&packet) {
                request.encode(&mut again);
                prop_assert_eq!(&again, &packet);
            }
            if let Some(reply) = Reply::decode(&packet) {
                reply.encode(&mut again);
                prop_assert_eq!(&again, &packet);
            }
        }
    }
}

//! What a DHCP client's message says (RFC 2131 §2), taken out of it once.
//!
//! The fixed part and the walk over the options are `dhcproto`'s borrowed view, which reads
//! nothing until asked. The few options that matter here are read from their bytes: an option of a
//! wrong length is as if it were not there, and those that nobody asks for can't do harm.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message;
use dhcproto::v4::{HType, MAGIC, MessageType, Opcode, OptionCode};

use crate::service::names::HostName;

/// Where the magic cookie stands; options follow it.
const COOKIE: std::ops::Range<usize> = 236..240;
/// What every client takes (RFC 2131 §2, RFC 2132 §9.10), IP and UDP header included.
const MESSAGE_MIN: u16 = 576;
const IP_UDP_HEADERS: u16 = 28;

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientMessage {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    /// Whether the client can't take unicasts yet.
    pub(super) broadcast: bool,
    /// The flags as they came: they are echoed.
    pub(super) flags: u16,
    /// `ciaddr`: the address that the client uses already.
    pub(super) address: Ipv4Addr,
    /// `giaddr`: the relay that has passed the message on.
    pub(super) relay: Ipv4Addr,
    /// `chaddr`.
    pub(super) hardware: [u8; 6],
    /// Option 12: the first label of what the client calls itself, if it can be a host's name.
    pub(super) host_name: Option<HostName>,
    /// Option 50.
    pub(super) requested: Option<Ipv4Addr>,
    /// Option 51.
    pub(super) lease_secs: Option<u32>,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
    /// Option 55; a client without it gets all there is.
    pub(super) parameters: Option<Box<[u8]>>,
    /// UDP payload that the client takes, from option 57.
    pub(super) payload_max: usize,
    /// Option 61.
    pub(super) client_id: Option<Box<[u8]>>,
    /// Option 80.
    pub(super) rapid_commit: bool,
    /// Option 82, for the relay.
    pub(super) relay_information: Option<Box<[u8]>>,
}

/// The messages that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

impl ClientMessage {
    /// Reads a UDP payload; `None` when it is no message of a DHCP client on an Ethernet.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let message = Message::new(bytes).ok()?;
        // The hardware address may be read only after its length is known to be right.
        if message.opcode() != Opcode::BootRequest
            || message.htype() != HType::Eth
            || message.hlen() != 6
            || bytes.get(COOKIE)? != MAGIC
        {
            return None;
        }
        let mut parsed = Self {
            kind: Kind::Discover,
            xid: message.xid(),
            broadcast: message.flags().broadcast(),
            flags: message.flags().into(),
            address: message.ciaddr(),
            relay: message.giaddr(),
            hardware: message.chaddr().try_into().ok()?,
            host_name: None,
            requested: None,
            lease_secs: None,
            server: None,
            parameters: None,
            payload_max: usize::from(MESSAGE_MIN - IP_UDP_HEADERS),
            client_id: None,
            rapid_commit: false,
            relay_information: None,
        };
        let mut kind = None;
        for option in message.opts() {
            let data = option.data();
            match option.code() {
                OptionCode::MessageType => kind = Some(Kind::parse(data)?),
                OptionCode::Hostname => parsed.host_name = host_name(data),
                OptionCode::RequestedIpAddress => parsed.requested = address(data),
                OptionCode::AddressLeaseTime => {
                    parsed.lease_secs = data.try_into().ok().map(u32::from_be_bytes);
                }
                OptionCode::ServerIdentifier => parsed.server = address(data),
                OptionCode::ParameterRequestList => parsed.parameters = Some(data.into()),
                OptionCode::MaxMessageSize => {
                    let size = data.try_into().map_or(MESSAGE_MIN, u16::from_be_bytes);
                    parsed.payload_max = usize::from(size.max(MESSAGE_MIN) - IP_UDP_HEADERS);
                }
                // RFC 2132 §9.14: at least a type and one byte.
                OptionCode::ClientIdentifier => {
                    parsed.client_id = (2..=255).contains(&data.len()).then(|| data.into());
                }
                OptionCode::RapidCommit => parsed.rapid_commit = true,
                OptionCode::RelayAgentInformation => {
                    parsed.relay_information = (data.len() <= 255).then(|| data.into());
                }
                _ => {}
            }
        }
        parsed.kind = kind?;
        Some(parsed)
    }

    /// Whether the client wants the option `code`.
    pub(super) fn wants(&self, code: OptionCode) -> bool {
        self.parameters
            .as_ref()
            .is_none_or(|list| list.contains(&u8::from(code)))
    }
}

impl Kind {
    fn parse(data: &[u8]) -> Option<Self> {
        let &[kind] = data else { return None };
        match MessageType::from(kind) {
            MessageType::Discover => Some(Self::Discover),
            MessageType::Request => Some(Self::Request),
            MessageType::Decline => Some(Self::Decline),
            MessageType::Release => Some(Self::Release),
            MessageType::Inform => Some(Self::Inform),
            _ => None,
        }
    }
}

/// Some clients give their whole name, some end it with a zero byte.
fn host_name(data: &[u8]) -> Option<HostName> {
    let text = str::from_utf8(data).ok()?.trim_end_matches('\0');
    text.split('.').next()?.parse().ok()
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = data.try_into().ok()?;
    let address = Ipv4Addr::from(octets);
    (!address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::{ClientMessage, Kind};

    fn discover(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
        bytes.extend_from_slice(&[10, 0, 2, 9, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 2, 8]);
        bytes.extend_from_slice(&[2, 3, 4, 5, 6, 7]);
        bytes.resize(236, 0);
        bytes.extend_from_slice(&[99, 130, 83, 99, 53, 1, 1]);
        bytes.extend_from_slice(options);
        bytes.push(255);
        bytes
    }

    #[test]
    fn golden_bytes() {
        let message = ClientMessage::parse(&discover(&[
            12, 7, b'W', b'e', b'b', b'.', b'a', b'.', 0, 50, 4, 10, 0, 2, 7, 51, 4, 0, 0, 0x0e,
            0x10, 54, 4, 10, 0, 2, 1, 0, 55, 2, 1, 3, 57, 2, 5, 0xdc, 61, 3, 0, 1, 2, 80, 0, 82, 2,
            1, 0,
        ]));
        let expected = ClientMessage {
            kind: Kind::Discover,
            xid: 0x0102_0304,
            broadcast: true,
            flags: 0x8000,
            address: Ipv4Addr::new(10, 0, 2, 9),
            relay: Ipv4Addr::new(10, 0, 2, 8),
            hardware: [2, 3, 4, 5, 6, 7],
            host_name: Some("web".parse().unwrap()),
            requested: Some(Ipv4Addr::new(10, 0, 2, 7)),
            lease_secs: Some(3600),
            server: Some(Ipv4Addr::new(10, 0, 2, 1)),
            parameters: Some([1, 3].into()),
            payload_max: 1472,
            client_id: Some([0, 1, 2].into()),
            rapid_commit: true,
            relay_information: Some([1, 0].into()),
        };
        assert_eq!(message, Some(expected));
    }

    #[test]
    fn what_is_no_client_is_refused() {
        assert!(ClientMessage::parse(&discover(&[])).is_some());
        for (at, byte) in [
            (0, 2),
            (1, 6),
            (2, 16),
            (2, 255),
            (236, 0),
            (242, 2),
            (242, 0),
        ] {
            let mut bytes = discover(&[]);
            bytes[at] = byte;
            assert_eq!(ClientMessage::parse(&bytes), None, "byte {at} = {byte}");
        }
        assert_eq!(ClientMessage::parse(&discover(&[])[..239]), None);
        assert_eq!(
            ClientMessage::parse(&discover(&[])[..241]),
            None,
            "no message type"
        );
    }

    #[test]
    fn options_of_wrong_length_are_as_if_not_there() {
        let message = ClientMessage::parse(&discover(&[
            50, 3, 1, 2, 3, 51, 1, 0, 57, 1, 9, 61, 1, 1, 81, 1, 0,
        ]))
        .unwrap();
        assert_eq!(message.requested, None);
        assert_eq!(message.lease_secs, None);
        assert_eq!(message.payload_max, 548);
        assert_eq!(message.client_id, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes: Vec<u8>, options: Vec<u8>, hlen: u8) {
            let _ = ClientMessage::parse(&bytes);
            let mut bytes = discover(&options);
            let _ = ClientMessage::parse(&bytes);
            bytes[2] = hlen;
            let _ = ClientMessage::parse(&bytes);
        }
    }
}

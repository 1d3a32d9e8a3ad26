//! What the server writes (RFC 2131 §4.3.1, table 3).
//!
//! The client's parameter list is obeyed, with the exception that mask, router, DNS and lease
//! always go out: a client that does not ask for its router still has none without it. If the
//! message is longer than what the client takes, what it can do without is left out: the search
//! list first.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::Name;
use dhcproto::v4::{
    DhcpOption, DhcpOptions, Encodable, Encoder, Flags, Message, MessageType, Opcode, OptionCode,
};

use super::Reply;
use super::leases::Pool;
use super::message::{ClientMessage, Kind};
use crate::config::Network;

/// Bytes of the shortest message that old clients and relays take (RFC 1542 §2.1).
const MESSAGE_MIN: usize = 300;
/// What is left out of a message that is too long, first to last.
const DISPENSABLE: [OptionCode; 2] = [OptionCode::DomainSearch, OptionCode::DomainName];

/// An address for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) address: Ipv4Addr,
    /// How long it is the client's; whole seconds count.
    pub(super) lease: Duration,
    /// Whether this ACK answers a DISCOVER (RFC 4039).
    pub(super) rapid_commit: bool,
}

/// Writes replies; holds what all clients are told.
#[derive(Debug)]
pub(super) struct Writer {
    gateway: Ipv4Addr,
    /// Options that every client gets.
    always: Vec<DhcpOption>,
    /// Options that clients get who want them.
    on_request: Vec<DhcpOption>,
}

impl Writer {
    pub(super) fn new(network: &Network) -> Self {
        let pool = Pool::of(network);
        let gateway = network.gateway4();
        let always = vec![
            DhcpOption::SubnetMask(pool.mask()),
            DhcpOption::Router(vec![gateway]),
            DhcpOption::DomainNameServer(vec![gateway]),
        ];
        let mut on_request = vec![
            DhcpOption::InterfaceMtu(network.mtu),
            DhcpOption::BroadcastAddr(pool.broadcast()),
        ];
        if let Some(domain) = network.domain.as_ref().filter(|domain| !domain.is_empty()) {
            on_request.push(DhcpOption::DomainName(domain.clone()));
        }
        let search: Vec<Name> = network
            .search
            .iter()
            .filter_map(|domain| search_name(domain))
            .collect();
        if !search.is_empty() {
            on_request.push(DhcpOption::DomainSearch(search));
        }
        Self {
            gateway,
            always,
            on_request,
        }
    }

    /// Writes `reply` to `request`. `None` only if the options can't be encoded.
    pub(super) fn write(&self, request: &ClientMessage, reply: &Reply) -> Option<Vec<u8>> {
        let (kind, offer, has_settings) = match reply {
            Reply::Offer(offer) => (MessageType::Offer, Some(offer), true),
            Reply::Ack(offer) => (MessageType::Ack, Some(offer), true),
            Reply::Settings => (MessageType::Ack, None, true),
            Reply::Nak => (MessageType::Nak, None, false),
        };
        let mut message = self.message(request, reply);
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(self.gateway));
        if let Some(offer) = offer {
            insert_lease(options, offer);
        }
        if has_settings {
            let wanted = self
                .on_request
                .iter()
                .filter(|option| request.wants(OptionCode::from(*option)));
            for option in self.always.iter().chain(wanted) {
                options.insert(option.clone());
            }
        }
        // RFC 6842 §3: the client's identifier is echoed.
        if let Some(id) = &request.client_id {
            options.insert(DhcpOption::ClientIdentifier(id.to_vec()));
        }
        let relayed = request
            .relay_information
            .as_ref()
            .map_or(0, |data| 2 + data.len());
        let mut bytes = encode(&message)?;
        for code in DISPENSABLE {
            if bytes.len() + relayed <= request.payload_max {
                break;
            }
            message.opts_mut().remove(code);
            bytes = encode(&message)?;
        }
        // RFC 3046 §2.2: what the relay has added is echoed as it came, last of all.
        if let Some(information) = &request.relay_information {
            append_relay_information(&mut bytes, information);
        }
        if bytes.len() < MESSAGE_MIN {
            bytes.resize(MESSAGE_MIN, 0);
        }
        Some(bytes)
    }

    fn message(&self, request: &ClientMessage, reply: &Reply) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        // `ciaddr` is echoed in ACKs, which answer who has an address (RFC 2131 table 3).
        let client = match (reply, request.kind) {
            (Reply::Ack(_) | Reply::Settings, Kind::Request | Kind::Inform) => request.address,
            _ => none,
        };
        let yours = reply.address().unwrap_or(none);
        let mut message = Message::new_with_id(
            request.xid,
            client,
            yours,
            none,
            request.relay,
            &request.hardware,
        );
        let mut flags = Flags::from(request.flags);
        if *reply == Reply::Nak && !request.relay.is_unspecified() {
            // RFC 2131 §4.3.2: the relay must broadcast it, the client's address may be wrong.
            flags = flags.set_broadcast();
        }
        message.set_opcode(Opcode::BootReply).set_flags(flags);
        message
    }
}

/// RFC 2131 §4.4.5: renew after half of the time, ask anyone after seven eighths of it.
fn insert_lease(options: &mut DhcpOptions, offer: &Offer) {
    // All ones is a lease for ever (RFC 2131 §3.3).
    let lease = u32::try_from(offer.lease.as_secs()).unwrap_or(u32::MAX);
    options.insert(DhcpOption::AddressLeaseTime(lease));
    if lease != u32::MAX {
        options.insert(DhcpOption::Renewal(lease / 2));
        options.insert(DhcpOption::Rebinding(lease - lease / 8));
    }
    if offer.rapid_commit {
        options.insert(DhcpOption::RapidCommit);
    }
}

/// Puts option 82 in front of the end mark. (Given to `dhcproto` as an option of unknown content
/// it would be written twice.)
fn append_relay_information(bytes: &mut Vec<u8>, information: &[u8]) {
    if let (Ok(length), Some(end)) = (u8::try_from(information.len()), bytes.pop()) {
        bytes.extend_from_slice(&[OptionCode::RelayAgentInformation.into(), length]);
        bytes.extend_from_slice(information);
        bytes.push(end);
    }
}

fn search_name(domain: &str) -> Option<Name> {
    let name = Name::from_ascii(domain).ok().filter(|name| !name.is_root());
    if name.is_none() {
        tracing::warn!("the search domain '{domain}' is no domain name: DHCP leaves it out");
    }
    name
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match message.encode(&mut Encoder::new(&mut bytes)) {
        Ok(()) => Some(bytes),
        Err(error) => {
            tracing::debug!("a DHCP reply can't be written: {error}");
            None
        }
    }
}

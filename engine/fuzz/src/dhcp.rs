//! Messages of a few clients to the DHCP server, and time that passes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dhcproto::v4::{Decodable, Decoder, Message, MessageType, Opcode};
use towpath::config::Network;
use towpath::internals::DhcpServer;
use towpath_stack::Instant;

use crate::input::Input;

const MESSAGES_MAX: usize = 200;

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let network = network();
    let mut server = DhcpServer::new(&network);
    let mut now = Instant::from_nanos(1);
    for _ in 0..MESSAGES_MAX {
        if input.is_empty() {
            break;
        }
        let (mac, message) = match input.u8() {
            0..=31 => ([2, 0, 0, 0, 0, 1], input.bytes(600).to_vec()),
            shape => message(&mut input, shape),
        };
        now = now + Duration::from_secs(u64::from(input.u8()).pow(2));
        if let Some((to, answer)) = server.on_message(now, mac, &message) {
            check(&network, &message, to, &answer);
        }
    }
}

fn network() -> Network {
    Network {
        subnet4: (Ipv4Addr::new(10, 0, 2, 0), 29),
        subnet6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0),
        mtu: 1500,
        gateway_mac: Network::GATEWAY_MAC,
        domain: Some("example.net".into()),
        search: vec!["a.example.net".into(), "b.example.net".into()],
        lease: Duration::from_secs(3600),
    }
}

/// A message whose fixed part is sound, with any options.
fn message(input: &mut Input<'_>, shape: u8) -> ([u8; 6], Vec<u8>) {
    let mac = [2, 0, 0, 0, 0, input.u8() & 7];
    let mut bytes = vec![0; 240];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&input.u32().to_be_bytes());
    bytes[10] = shape & 0x80;
    if shape & 1 == 1 {
        bytes[12..16].copy_from_slice(&[10, 0, 2, input.u8()]);
    }
    if shape & 2 == 2 {
        bytes[24..28].copy_from_slice(&[10, 0, 2, input.u8()]);
    }
    bytes[28..34].copy_from_slice(&mac);
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, input.u8() & 15]);
    if shape & 4 == 4 {
        bytes.extend([50, 4, 10, 0, 2, input.u8()]);
    }
    if shape & 8 == 8 {
        bytes.extend([54, 4, 10, 0, 2, 1]);
    }
    bytes.extend_from_slice(input.bytes(400));
    bytes.push(255);
    (mac, bytes)
}

fn check(network: &Network, message: &[u8], to: Option<Ipv4Addr>, answer: &[u8]) {
    let answer = Message::decode(&mut Decoder::new(answer)).expect("an answer can be read");
    assert_eq!(answer.opcode(), Opcode::BootReply);
    assert_eq!(answer.xid().to_be_bytes(), message[4..8]);
    assert!(to.is_none_or(|to| !to.is_broadcast() && !to.is_unspecified()));
    match answer.opts().msg_type() {
        Some(MessageType::Offer) => assert!(is_for_guests(network, answer.yiaddr())),
        Some(MessageType::Ack) => {
            let address = answer.yiaddr();
            assert!(address.is_unspecified() || is_for_guests(network, address));
        }
        Some(MessageType::Nak) => assert!(answer.yiaddr().is_unspecified()),
        other => panic!("a server sends no {other:?}"),
    }
}

/// From `.3` up to the last before the broadcast address.
fn is_for_guests(network: &Network, address: Ipv4Addr) -> bool {
    (network.nth4(3)..network.nth4(7)).contains(&address)
}

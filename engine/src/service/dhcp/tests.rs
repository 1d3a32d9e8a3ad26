//! The server, message by message: RFC 2131 §3 and §4.3.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dhcproto::v4::{
    Decodable, Decoder, DhcpOption, Encodable, Encoder, Flags, Message, MessageType, Opcode,
    OptionCode,
};
use proptest::prelude::*;
use towpath_stack::Instant;

use super::{Answer, Server};
use crate::config::{FixedLease, Network};
use crate::service::counters::{Counter, Counters};
use crate::service::names::{Names, Record};

const MAC: [u8; 6] = [2, 1, 1, 1, 1, 1];
const OTHER: [u8; 6] = [2, 1, 1, 1, 1, 2];
const GATEWAY: Ipv4Addr = ip(1);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

const fn ip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, host)
}

fn at(secs: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(secs)
}

fn network(prefix: u8) -> Network {
    Network {
        subnet4: (ip(0), prefix),
        subnet6: "fd00::".parse().unwrap(),
        mtu: 1500,
        gateway_mac: Network::GATEWAY_MAC,
        domain: Some("tow.example".into()),
        search: vec!["a.example".into(), "no..name".into(), "b.example".into()],
        lease: Duration::from_secs(3600),
    }
}

fn server(prefix: u8) -> Server {
    server_of(&network(prefix))
}

/// With the first address kept for the guest of `run`.
fn server_of(network: &Network) -> Server {
    let fixed = FixedLease::of_guest(network, Network::GUEST_MAC);
    let names = Names::new(
        network,
        std::slice::from_ref(&fixed),
        std::time::Instant::now(),
    );
    let counters = Arc::new(Counters::default());
    Server::new(network, &[fixed], Arc::new(names), counters)
}

fn count(server: &Server, counter: Counter) -> u64 {
    server.counters.snapshot().get(counter)
}

/// A client's message, to be changed by the test.
fn message(kind: MessageType, mac: [u8; 6]) -> Message {
    let mut message = Message::new_with_id(7, NONE, NONE, NONE, NONE, &mac);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

fn with(mut message: Message, options: &[DhcpOption]) -> Message {
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message
}

fn select(mac: [u8; 6], address: Ipv4Addr) -> Message {
    let options = [
        DhcpOption::ServerIdentifier(GATEWAY),
        DhcpOption::RequestedIpAddress(address),
    ];
    with(message(MessageType::Request, mac), &options)
}

fn reboot(mac: [u8; 6], address: Ipv4Addr) -> Message {
    with(
        message(MessageType::Request, mac),
        &[DhcpOption::RequestedIpAddress(address)],
    )
}

fn renew(mac: [u8; 6], address: Ipv4Addr) -> Message {
    let mut message = message(MessageType::Request, mac);
    message.set_ciaddr(address);
    message
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

fn ask_raw(server: &mut Server, now: Instant, message: &Message) -> Option<Answer> {
    let mac: [u8; 6] = message.chaddr().try_into().unwrap();
    // Each client is behind a port of its own.
    server.on_message(now, mac[5].into(), mac, &encoded(message))
}

/// The same from behind any port; what kind of answer comes, and with which address.
fn ask_at(
    server: &mut Server,
    now: u64,
    port: u16,
    message: &Message,
) -> Option<(MessageType, Ipv4Addr)> {
    let mac: [u8; 6] = message.chaddr().try_into().unwrap();
    let answer = server.on_message(at(now), port, mac, &encoded(message))?;
    let reply = Message::decode(&mut Decoder::new(&answer.message)).unwrap();
    Some((reply.opts().msg_type()?, reply.yiaddr()))
}

/// The answer's message, and where it goes.
fn ask(server: &mut Server, now: u64, message: &Message) -> Option<(Message, Option<Ipv4Addr>)> {
    let answer = ask_raw(server, at(now), message)?;
    let reply = Message::decode(&mut Decoder::new(&answer.message)).unwrap();
    assert_eq!(reply.opcode(), Opcode::BootReply);
    assert_eq!(reply.xid(), message.xid());
    assert_eq!(reply.chaddr(), message.chaddr());
    let id = reply.opts().get(OptionCode::ServerIdentifier);
    assert_eq!(id, Some(&DhcpOption::ServerIdentifier(GATEWAY)));
    Some((reply, answer.to))
}

fn kind(reply: &Option<(Message, Option<Ipv4Addr>)>) -> Option<MessageType> {
    reply
        .as_ref()
        .and_then(|(message, _)| message.opts().msg_type())
}

/// Discovers and requests; the address that was leased.
fn lease(server: &mut Server, now: u64, mac: [u8; 6]) -> Option<Ipv4Addr> {
    let (offer, _) = ask(server, now, &message(MessageType::Discover, mac))?;
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    let reply = ask(server, now, &select(mac, offer.yiaddr()));
    assert_eq!(kind(&reply), Some(MessageType::Ack));
    assert_eq!(reply.unwrap().0.yiaddr(), offer.yiaddr());
    Some(offer.yiaddr())
}

#[test]
fn an_offer_tells_everything() {
    let mut server = server(24);
    let (offer, to) = ask(&mut server, 0, &message(MessageType::Discover, MAC)).unwrap();
    assert_eq!(to, Some(ip(4)));
    assert_eq!(offer.yiaddr(), ip(4));
    let names = ["a.example", "b.example"]
        .map(|name| name.parse().unwrap())
        .to_vec();
    let expected = [
        DhcpOption::MessageType(MessageType::Offer),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![GATEWAY]),
        DhcpOption::DomainNameServer(vec![GATEWAY]),
        DhcpOption::DomainName("tow.example".into()),
        DhcpOption::InterfaceMtu(1500),
        DhcpOption::BroadcastAddr(ip(255)),
        DhcpOption::AddressLeaseTime(3600),
        DhcpOption::ServerIdentifier(GATEWAY),
        DhcpOption::Renewal(1800),
        DhcpOption::Rebinding(3150),
    ];
    for option in &expected {
        assert_eq!(offer.opts().get(OptionCode::from(option)), Some(option));
    }
    let Some(DhcpOption::DomainSearch(search)) = offer.opts().get(OptionCode::DomainSearch) else {
        panic!("no search list");
    };
    let text = |names: &[dhcproto::Name]| -> Vec<String> {
        names
            .iter()
            .map(|name| name.to_ascii().trim_end_matches('.').to_owned())
            .collect()
    };
    assert_eq!(text(search), text(&names));
    assert_eq!(offer.opts().iter().count(), expected.len() + 1);
}

#[test]
fn the_parameter_list_is_obeyed_but_for_what_is_needed() {
    let mut server = server(24);
    let wanted = DhcpOption::ParameterRequestList(vec![OptionCode::InterfaceMtu]);
    let discover = with(message(MessageType::Discover, MAC), &[wanted]);
    let (offer, _) = ask(&mut server, 0, &discover).unwrap();
    let mut codes: Vec<u8> = offer
        .opts()
        .iter()
        .map(|(code, _)| u8::from(*code))
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [1, 3, 6, 26, 51, 53, 54, 58, 59]);
}

#[test]
fn a_lease_is_offered_taken_and_renewed() {
    let mut server = server(24);
    assert_eq!(lease(&mut server, 0, MAC), Some(ip(4)));
    assert_eq!(lease(&mut server, 1, OTHER), Some(ip(5)));
    let (ack, to) = ask(&mut server, 1800, &renew(MAC, ip(4))).unwrap();
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(
        (ack.yiaddr(), ack.ciaddr(), to),
        (ip(4), ip(4), Some(ip(4)))
    );
    // Renewed at 1800, so that it holds beyond the first end.
    assert_eq!(
        kind(&ask(&mut server, 4000, &reboot(OTHER, ip(4)))),
        Some(MessageType::Nak)
    );
    assert_eq!(count(&server, Counter::DhcpDiscover), 2);
    assert_eq!(count(&server, Counter::DhcpRequest), 4);
    assert_eq!(count(&server, Counter::DhcpOffer), 2);
    assert_eq!(count(&server, Counter::DhcpAck), 3);
    assert_eq!(count(&server, Counter::DhcpNak), 1);
}

#[test]
fn the_same_client_gets_the_same_address() {
    let mut server = server(24);
    assert_eq!(lease(&mut server, 0, MAC), Some(ip(4)));
    assert_eq!(lease(&mut server, 10, MAC), Some(ip(4)));
    assert_eq!(
        lease(&mut server, 100_000, OTHER),
        Some(ip(5)),
        "not an expired one"
    );
    assert_eq!(
        lease(&mut server, 200_000, MAC),
        Some(ip(4)),
        "long after its end"
    );
}

#[test]
fn a_client_identifier_is_an_identity() {
    let mut server = server(24);
    let id = [DhcpOption::ClientIdentifier(vec![0, 1, 2, 3])];
    let discover = |mac| with(message(MessageType::Discover, mac), &id);
    let (offer, _) = ask(&mut server, 0, &discover(MAC)).unwrap();
    assert_eq!(
        offer.opts().get(OptionCode::ClientIdentifier),
        Some(&id[0]),
        "RFC 6842"
    );
    let again = ask_at(&mut server, 0, MAC[5].into(), &discover(OTHER));
    assert_eq!(again, Some((MessageType::Offer, offer.yiaddr())));
    let (other, _) = ask(&mut server, 0, &message(MessageType::Discover, MAC)).unwrap();
    assert_ne!(offer.yiaddr(), other.yiaddr());
}

#[test]
fn the_first_address_is_kept_for_its_hardware_address() {
    let mut server = server(29);
    assert_eq!(
        kind(&ask(&mut server, 0, &reboot(MAC, ip(3)))),
        Some(MessageType::Nak)
    );
    for n in 0..3 {
        assert_eq!(lease(&mut server, 0, [2, 9, 9, 9, 9, n]), Some(ip(4 + n)));
    }
    assert_eq!(lease(&mut server, 0, MAC), None);
    assert_eq!(count(&server, Counter::DhcpExhausted), 1);
    let guest = Network::GUEST_MAC.0;
    assert_eq!(lease(&mut server, 0, guest), Some(ip(3)));
    let renamed = [DhcpOption::ClientIdentifier(vec![0, 1, 2, 3])];
    let discover = with(message(MessageType::Discover, guest), &renamed);
    assert_eq!(
        ask(&mut server, 1, &discover).unwrap().0.yiaddr(),
        ip(3),
        "by hardware alone"
    );
}

#[test]
fn a_kept_address_is_the_only_one_for_its_holder() {
    let mut server = server(29);
    let mac = Network::mac_of(ip(5));
    assert_eq!(lease(&mut server, 0, OTHER), Some(ip(4)));
    assert!(!server.hold(at(0), mac, ip(4)), "another's lease");
    assert!(!server.hold(at(0), mac, ip(3)), "kept for another");
    assert!(!server.hold(at(0), mac, ip(2)), "not for guests");
    assert_eq!(server.find_free(at(0)), Some(ip(5)));
    assert!(server.hold(at(0), mac, ip(5)));
    assert!(!server.hold(at(0), mac, ip(6)), "one is enough");
    server.settle(mac, mac.0[5].into());

    assert_eq!(
        kind(&ask(&mut server, 0, &reboot(mac.0, ip(6)))),
        Some(MessageType::Nak)
    );
    assert_eq!(
        kind(&ask(&mut server, 0, &reboot(MAC, ip(5)))),
        Some(MessageType::Nak)
    );
    let id = [DhcpOption::ClientIdentifier(vec![255, 1, 2, 3])];
    let (offer, _) = ask(
        &mut server,
        0,
        &with(message(MessageType::Discover, mac.0), &id),
    )
    .unwrap();
    assert_eq!(offer.yiaddr(), ip(5), "whatever it calls itself");
    assert_eq!(lease(&mut server, 0, mac.0), Some(ip(5)));
    assert_eq!(lease(&mut server, 0, MAC), Some(ip(6)));
    assert_eq!(server.find_free(at(0)), None);

    server.let_go(mac);
    assert_eq!(
        server.find_free(at(0)),
        Some(ip(5)),
        "its lease is over too"
    );
    assert_eq!(lease(&mut server, 0, [2, 9, 9, 9, 9, 9]), Some(ip(5)));
}

#[test]
fn a_resting_address_is_given_up_when_there_is_no_other() {
    let mut server = server(29);
    let macs = [4, 5].map(|host| Network::mac_of(ip(host)));
    assert!(server.hold(at(0), macs[0], ip(4)) && server.hold(at(0), macs[1], ip(5)));
    server.rest(at(2), macs[0]);
    server.rest(at(1), macs[1]);
    assert_eq!(lease(&mut server, 3, MAC), Some(ip(6)), "another");
    assert_eq!(lease(&mut server, 3, OTHER), Some(ip(5)), "the longest");
    assert!(!server.wake(macs[1]));
    assert!(server.wake(macs[0]));
    assert_eq!(lease(&mut server, 3, [2, 9, 9, 9, 9, 9]), None);
    server.rest(at(4), macs[0]);
    assert_eq!(server.find_free(at(4)), Some(ip(4)));
}

#[test]
fn a_client_s_name_is_good_for_as_long_as_its_lease() {
    let mut server = server(24);
    let found = |server: &Server| server.names.find("web.internal", 1);
    let named = |message: Message| with(message, &[DhcpOption::Hostname("Web".into())]);
    ask(&mut server, 0, &named(message(MessageType::Discover, MAC))).unwrap();
    assert_eq!(found(&server), None, "an offer is no lease");
    ask(&mut server, 0, &named(select(MAC, ip(4)))).unwrap();
    assert_eq!(found(&server), Some(Record::A(ip(4))));
    lease(&mut server, 0, OTHER);
    ask(&mut server, 0, &named(renew(OTHER, ip(5)))).unwrap();
    assert_eq!(found(&server), Some(Record::A(ip(4))), "not taken over");

    let mut release = message(MessageType::Release, OTHER);
    release.set_ciaddr(ip(4));
    ask(&mut server, 0, &release);
    assert_eq!(found(&server), Some(Record::A(ip(4))), "not its lease");
    let mut release = message(MessageType::Release, MAC);
    release.set_ciaddr(ip(4));
    ask(&mut server, 0, &release);
    assert_eq!(found(&server), None);
    ask(&mut server, 0, &named(renew(OTHER, ip(5)))).unwrap();
    assert_eq!(found(&server), Some(Record::A(ip(5))));

    let mac = Network::mac_of(ip(7));
    assert!(server.hold(at(0), mac, ip(7)));
    server.settle(mac, mac.0[5].into());
    let call = [DhcpOption::Hostname("vm".into())];
    ask(&mut server, 0, &with(select(mac.0, ip(7)), &call)).unwrap();
    assert_eq!(server.names.find("vm", 1), Some(Record::A(ip(7))));
    server.let_go(mac);
    assert_eq!(server.names.find("vm", 1), None);
}

#[test]
fn a_wanted_address_is_given_if_it_is_free() {
    let mut server = server(24);
    let want = |mac, address| {
        with(
            message(MessageType::Discover, mac),
            &[DhcpOption::RequestedIpAddress(address)],
        )
    };
    assert_eq!(
        ask(&mut server, 0, &want(MAC, ip(77))).unwrap().0.yiaddr(),
        ip(77)
    );
    for address in [
        ip(77),
        ip(1),
        ip(2),
        ip(3),
        ip(0),
        ip(255),
        Ipv4Addr::new(192, 0, 2, 1),
    ] {
        let offered = ask(&mut server, 0, &want(OTHER, address))
            .unwrap()
            .0
            .yiaddr();
        assert_eq!(offered, ip(4), "{address}");
    }
}

#[test]
fn a_client_that_chose_another_server_frees_the_offer() {
    let mut server = server(24);
    ask(&mut server, 0, &message(MessageType::Discover, MAC)).unwrap();
    assert_eq!(
        kind(&ask(&mut server, 1, &reboot(OTHER, ip(4)))),
        Some(MessageType::Nak)
    );
    let elsewhere = [
        DhcpOption::ServerIdentifier(ip(9)),
        DhcpOption::RequestedIpAddress(ip(50)),
    ];
    let request = with(message(MessageType::Request, MAC), &elsewhere);
    assert_eq!(ask(&mut server, 1, &request), None);
    assert_eq!(
        kind(&ask(&mut server, 1, &reboot(OTHER, ip(4)))),
        Some(MessageType::Ack)
    );
}

#[test]
fn an_offer_ends_but_is_still_good_if_no_one_took_it() {
    let mut server = server(24);
    ask(&mut server, 0, &message(MessageType::Discover, MAC)).unwrap();
    assert_eq!(
        kind(&ask(&mut server, 61, &select(MAC, ip(4)))),
        Some(MessageType::Ack)
    );
}

#[test]
fn a_discover_does_not_shorten_the_lease() {
    let mut server = server(24);
    lease(&mut server, 0, MAC);
    ask(&mut server, 1, &message(MessageType::Discover, MAC)).unwrap();
    assert_eq!(
        kind(&ask(&mut server, 100, &reboot(OTHER, ip(4)))),
        Some(MessageType::Nak)
    );
}

#[test]
fn init_reboot_and_rebinding() {
    let mut server = server(24);
    lease(&mut server, 0, MAC);
    let (ack, to) = ask(&mut server, 5, &reboot(MAC, ip(4))).unwrap();
    assert_eq!(
        (ack.opts().msg_type(), to),
        (Some(MessageType::Ack), Some(ip(4)))
    );
    let cases = [
        (reboot(MAC, ip(9)), "it has another"),
        (reboot(MAC, Ipv4Addr::new(192, 168, 1, 5)), "wrong network"),
        (renew(MAC, Ipv4Addr::new(192, 168, 1, 5)), "wrong network"),
        (renew(OTHER, ip(4)), "another's"),
        (renew(OTHER, ip(1)), "the gateway's"),
    ];
    for (request, why) in cases {
        let (nak, to) = ask(&mut server, 5, &request).unwrap();
        assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak), "{why}");
        assert_eq!((nak.yiaddr(), to), (NONE, None), "a NAK is a broadcast");
        assert!(nak.opts().get(OptionCode::AddressLeaseTime).is_none());
    }
}

#[test]
fn a_new_server_lets_clients_keep_what_they_have() {
    let mut server = server(24);
    assert_eq!(
        kind(&ask(&mut server, 0, &renew(MAC, ip(40)))),
        Some(MessageType::Ack)
    );
    assert_eq!(
        kind(&ask(&mut server, 0, &renew(OTHER, ip(40)))),
        Some(MessageType::Nak)
    );
}

#[test]
fn a_declined_address_is_put_aside() {
    let mut server = server(29);
    lease(&mut server, 0, MAC);
    let decline = |mac| {
        let options = [
            DhcpOption::ServerIdentifier(GATEWAY),
            DhcpOption::RequestedIpAddress(ip(4)),
        ];
        with(message(MessageType::Decline, mac), &options)
    };
    assert_eq!(ask(&mut server, 1, &decline(OTHER)), None);
    assert_eq!(
        lease(&mut server, 1, MAC),
        Some(ip(4)),
        "not the other's to decline"
    );
    assert_eq!(ask(&mut server, 1, &decline(MAC)), None);
    assert_eq!(lease(&mut server, 2, MAC), Some(ip(5)));
    assert_eq!(lease(&mut server, 2, OTHER), Some(ip(6)));
    let third = [2, 1, 1, 1, 1, 3];
    assert_eq!(lease(&mut server, 600, third), None);
    assert_eq!(lease(&mut server, 602, third), Some(ip(4)), "after a while");
    assert_eq!(count(&server, Counter::DhcpDecline), 2);
}

#[test]
fn a_released_address_is_free_but_remembered() {
    let mut server = server(29);
    lease(&mut server, 0, MAC);
    let release = |mac| {
        let mut message = message(MessageType::Release, mac);
        message.set_ciaddr(ip(4));
        message
    };
    assert_eq!(ask(&mut server, 1, &release(OTHER)), None);
    assert_eq!(
        kind(&ask(&mut server, 1, &reboot(OTHER, ip(4)))),
        Some(MessageType::Nak)
    );
    assert_eq!(ask(&mut server, 1, &release(MAC)), None);
    assert_eq!(lease(&mut server, 2, OTHER), Some(ip(5)));
    assert_eq!(lease(&mut server, 3, MAC), Some(ip(4)));
    assert_eq!(count(&server, Counter::DhcpRelease), 2);
}

#[test]
fn addresses_and_names_of_a_port_that_is_gone_are_free_but_remembered() {
    let mut server = server(29);
    let hosts = |n: u8| [2, 9, 9, 9, 9, n];
    for n in 0..3 {
        assert_eq!(lease(&mut server, 0, hosts(n)), Some(ip(4 + n)));
    }
    let call = [DhcpOption::Hostname("vm".into())];
    ask(&mut server, 0, &with(renew(hosts(1), ip(5)), &call)).unwrap();
    assert_eq!(lease(&mut server, 1, MAC), None, "all in use");
    server.on_departure(at(1), 1);
    assert_eq!(server.names.find("vm", 1), None);
    assert_eq!(
        lease(&mut server, 2, hosts(1)),
        Some(ip(5)),
        "its own again"
    );
    server.on_departure(at(3), 1);
    assert_eq!(lease(&mut server, 3, MAC), Some(ip(5)));
    assert_eq!(lease(&mut server, 4, hosts(1)), None);
    assert_eq!(
        lease(&mut server, 4, hosts(0)),
        Some(ip(4)),
        "nobody else's"
    );
}

#[test]
fn a_client_s_lease_can_t_be_taken_from_behind_another_port() {
    let mut server = server(24);
    let call = DhcpOption::Hostname("vm".into());
    let victim = |message| {
        let id = DhcpOption::ClientIdentifier(vec![255, 1, 2, 3]);
        with(message, &[id, call.clone()])
    };
    let discover = victim(message(MessageType::Discover, MAC));
    let request = victim(select(MAC, ip(4)));
    let mut release = victim(message(MessageType::Release, MAC));
    release.set_ciaddr(ip(4));
    let decline = victim(with(
        message(MessageType::Decline, MAC),
        &[DhcpOption::RequestedIpAddress(ip(4))],
    ));
    let ack = |address| Some((MessageType::Ack, address));
    let offer = |address| Some((MessageType::Offer, address));
    let nak = Some((MessageType::Nak, NONE));

    assert_eq!(ask_at(&mut server, 0, 1, &discover), offer(ip(4)));
    assert_eq!(
        ask_at(&mut server, 0, 2, &request),
        nak,
        "offered to another"
    );
    assert_eq!(ask_at(&mut server, 0, 1, &request), ack(ip(4)));
    // Port 2 says the same as port 1, byte for byte.
    assert_eq!(ask_at(&mut server, 1, 2, &release), None);
    assert_eq!(ask_at(&mut server, 1, 2, &decline), None);
    assert_eq!(ask_at(&mut server, 1, 2, &request), nak);
    assert_eq!(count(&server, Counter::DhcpForeign), 4);
    assert_eq!(
        ask_at(&mut server, 1, 2, &discover),
        offer(ip(5)),
        "another client, as that of a copied machine"
    );
    let own = victim(select(MAC, ip(5)));
    assert_eq!(ask_at(&mut server, 1, 2, &own), ack(ip(5)));
    assert_eq!(server.names.find("vm", 1), Some(Record::A(ip(4))));
    server.on_departure(at(2), 2);
    assert_eq!(ask_at(&mut server, 3, 1, &request), ack(ip(4)), "renewed");
    assert_eq!(server.names.find("vm", 1), Some(Record::A(ip(4))));

    // Behind whichever port it comes again, once the old one is gone.
    server.on_departure(at(4), 1);
    assert_eq!(ask_at(&mut server, 5, 9, &discover), offer(ip(4)));
    assert_eq!(ask_at(&mut server, 5, 9, &request), ack(ip(4)));
    assert_eq!(ask_at(&mut server, 6, 9, &release), None);
    assert_eq!(ask_at(&mut server, 6, 1, &request), ack(ip(4)), "released");
}

#[test]
fn a_kept_address_is_given_behind_its_guest_s_port_alone() {
    let mut server = server(24);
    let told = Network::mac_of(ip(9));
    let request = select(told.0, ip(9));
    let ack = Some((MessageType::Ack, ip(9)));
    let nak = Some((MessageType::Nak, NONE));
    assert!(server.hold(at(0), told, ip(9)));
    assert_eq!(ask_at(&mut server, 0, 2, &request), nak, "not here yet");
    server.settle(told, 1);
    assert_eq!(ask_at(&mut server, 0, 2, &request), nak);
    assert_eq!(count(&server, Counter::DhcpForeign), 2);
    assert_eq!(ask_at(&mut server, 0, 1, &request), ack);
    server.on_departure(at(1), 1);
    server.rest(at(1), told);
    assert_eq!(ask_at(&mut server, 1, 1, &request), nak, "gone");
    assert!(server.wake(told));
    server.settle(told, 5);
    assert_eq!(ask_at(&mut server, 2, 5, &request), ack);

    // A fixed lease is its MAC address's behind any port, but not behind two.
    let request = select(Network::GUEST_MAC.0, ip(3));
    let ack = Some((MessageType::Ack, ip(3)));
    assert_eq!(ask_at(&mut server, 3, 1, &request), ack);
    assert_eq!(ask_at(&mut server, 3, 2, &request), nak);
    server.on_departure(at(4), 2);
    assert_eq!(ask_at(&mut server, 4, 2, &request), nak, "still there");
    server.on_departure(at(4), 1);
    assert_eq!(ask_at(&mut server, 4, 2, &request), ack);
}

#[test]
fn who_makes_clients_up_does_not_use_all_addresses_up() {
    let mut server = server(24);
    for n in 0..64 {
        let made_up = [2, 9, 9, 9, 9, n];
        let discover = message(MessageType::Discover, made_up);
        let (_, address) = ask_at(&mut server, 0, 1, &discover).unwrap();
        let ack = ask_at(&mut server, 0, 1, &select(made_up, address));
        assert_eq!(ack, Some((MessageType::Ack, address)));
    }
    for n in 64..=255 {
        let made_up = [2, 9, 9, 9, 9, n];
        let discover = message(MessageType::Discover, made_up);
        let rapid = with(discover.clone(), &[DhcpOption::RapidCommit]);
        let nak = Some((MessageType::Nak, NONE));
        assert_eq!(ask_at(&mut server, 0, 1, &discover), None);
        assert_eq!(ask_at(&mut server, 0, 1, &rapid), None);
        assert_eq!(ask_at(&mut server, 0, 1, &reboot(made_up, ip(200))), nak);
    }
    assert_eq!(count(&server, Counter::DhcpOverShare), 3 * 192);
    assert_eq!(lease(&mut server, 0, OTHER), Some(ip(68)), "another port");
}

#[test]
fn inform_gives_settings_without_a_lease() {
    let mut server = server(24);
    let mut inform = message(MessageType::Inform, MAC);
    assert_eq!(ask(&mut server, 0, &inform), None, "no address");
    inform.set_ciaddr(Ipv4Addr::new(192, 0, 2, 7));
    assert_eq!(ask(&mut server, 0, &inform), None, "not here");
    inform.set_ciaddr(ip(200));
    let (ack, to) = ask(&mut server, 0, &inform).unwrap();
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!((ack.yiaddr(), to), (NONE, Some(ip(200))));
    assert!(ack.opts().get(OptionCode::Router).is_some());
    for code in [
        OptionCode::AddressLeaseTime,
        OptionCode::Renewal,
        OptionCode::Rebinding,
    ] {
        assert!(ack.opts().get(code).is_none());
    }
    assert_eq!(count(&server, Counter::DhcpMalformed), 2);
}

#[test]
fn rapid_commit_leases_at_once() {
    let mut server = server(24);
    let discover = with(
        message(MessageType::Discover, MAC),
        &[DhcpOption::RapidCommit],
    );
    let (ack, _) = ask(&mut server, 0, &discover).unwrap();
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(
        ack.opts().get(OptionCode::RapidCommit),
        Some(&DhcpOption::RapidCommit)
    );
    assert_eq!(
        kind(&ask(&mut server, 3599, &reboot(OTHER, ip(4)))),
        Some(MessageType::Nak)
    );
}

#[test]
fn a_client_may_ask_for_less_time() {
    let mut server = server(24);
    for (wanted, given) in [(600, 600), (1, 60), (7200, 3600), (u32::MAX, 3600)] {
        let options = [DhcpOption::AddressLeaseTime(wanted)];
        let discover = with(message(MessageType::Discover, MAC), &options);
        let (offer, _) = ask(&mut server, 0, &discover).unwrap();
        let lease = offer.opts().get(OptionCode::AddressLeaseTime);
        assert_eq!(
            lease,
            Some(&DhcpOption::AddressLeaseTime(given)),
            "{wanted}"
        );
    }
}

#[test]
fn replies_go_where_the_client_can_take_them() {
    let mut server = server(24);
    let discover = message(MessageType::Discover, MAC);
    let frame_mac = [2, 7, 7, 7, 7, 7];
    let answer = server
        .on_message(at(0), 0, frame_mac, &encoded(&discover))
        .unwrap();
    assert_eq!((answer.mac, answer.to), (MAC, Some(ip(4))));
    assert!(answer.message.len() >= 300);

    let mut broadcast = discover.clone();
    broadcast.set_flags(Flags::default().set_broadcast());
    let (offer, to) = ask(&mut server, 0, &broadcast).unwrap();
    assert_eq!(to, None);
    assert!(offer.flags().broadcast());
}

#[test]
fn relays_get_the_reply_and_their_information_back() {
    let mut server = server(24);
    let relay_mac = [2, 7, 7, 7, 7, 7];
    let mut discover = message(MessageType::Discover, MAC);
    discover.set_giaddr(ip(200));
    let mut bytes = encoded(&discover);
    bytes.pop();
    bytes.extend_from_slice(&[82, 4, 1, 2, 3, 4, 255]);
    let answer = server.on_message(at(0), 0, relay_mac, &bytes).unwrap();
    assert_eq!((answer.mac, answer.to), (relay_mac, Some(ip(200))));
    assert_eq!(
        crate::service::message::dhcp_target_port(&answer.message),
        67
    );
    let tail: Vec<u8> = answer
        .message
        .iter()
        .copied()
        .rev()
        .skip_while(|&b| b == 0)
        .collect();
    assert_eq!(tail[..7], [255, 4, 3, 2, 1, 4, 82], "the last option");

    let mut wrong = reboot(MAC, Ipv4Addr::new(192, 0, 2, 1));
    wrong.set_giaddr(ip(200));
    let (nak, to) = ask(&mut server, 0, &wrong).unwrap();
    assert_eq!(to, Some(ip(200)));
    assert!(nak.flags().broadcast(), "RFC 2131 §4.3.2");

    discover.set_giaddr(Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(ask(&mut server, 0, &discover), None, "a relay of elsewhere");
}

#[test]
fn a_long_search_list_is_left_out_for_small_clients() {
    let mut network = network(24);
    network.search = (0..20)
        .map(|n| format!("a-rather-long-name-{n}.of-some-zone-{n}.example"))
        .collect();
    let mut server = server_of(&network);
    let discover = message(MessageType::Discover, MAC);
    let answer = ask_raw(&mut server, at(0), &discover).unwrap();
    assert!(answer.message.len() <= 548);
    let (offer, _) = ask(&mut server, 0, &discover).unwrap();
    assert!(offer.opts().get(OptionCode::DomainSearch).is_none());
    assert!(offer.opts().get(OptionCode::DomainName).is_some());
    let large = with(discover, &[DhcpOption::MaxMessageSize(1500)]);
    let (offer, _) = ask(&mut server, 0, &large).unwrap();
    assert!(offer.opts().get(OptionCode::DomainSearch).is_some());
}

#[test]
fn nonsense_is_dropped_and_counted() {
    let mut server = server(24);
    assert_eq!(server.on_message(at(0), 0, MAC, b"hello"), None);
    assert_eq!(ask(&mut server, 0, &message(MessageType::Offer, MAC)), None);
    assert_eq!(
        ask(&mut server, 0, &message(MessageType::Request, MAC)),
        None,
        "for what?"
    );
    let mut both = reboot(MAC, ip(4));
    both.set_ciaddr(ip(5));
    assert_eq!(ask(&mut server, 0, &both), None, "for which?");
    assert_eq!(
        ask(&mut server, 0, &message(MessageType::Decline, MAC)),
        None
    );
    assert_eq!(count(&server, Counter::DhcpMalformed), 5);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>, kind in 0..12_u8, options: Vec<u8>, head: [u8; 28]) {
        let mut server = server(29);
        let _ = server.on_message(at(0), 0, MAC, &bytes);
        let mut message = [&[1, 1, 6][..], &head[3..], &MAC[..]].concat();
        message.resize(236, 0);
        message.extend_from_slice(&[99, 130, 83, 99, 53, 1, kind]);
        message.extend(options);
        for secs in 0..3 {
            if let Some(answer) = server.on_message(at(secs), 0, MAC, &message) {
                prop_assert!(Message::decode(&mut Decoder::new(&answer.message)).is_ok());
                prop_assert!(answer.message.len() >= 300);
            }
        }
    }
}

//! The forwarder against small servers on loopback.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixListener, UnixStream};

use super::query::tests::{answer_to, edns_query, plain_query};
use super::servers::Servers;
use super::{
    Admitted, Counter, Counters, Forwarder, Names, Source, Ticket, Timing, Transport, Turns,
};
use crate::config::{FixedLease, Holder, Network};

/// Long enough for any answer on loopback.
const PATIENT: Timing = Timing {
    first: Duration::from_secs(20),
    total: Duration::from_secs(60),
    idle: Duration::from_secs(60),
};
/// Short enough to wait for silence.
const HASTY: Timing = Timing {
    first: Duration::from_millis(20),
    total: Duration::from_millis(400),
    idle: Duration::from_millis(100),
};

fn forwarder(timing: Timing, servers: &[SocketAddr]) -> Forwarder {
    let counters = Arc::new(Counters::default());
    Forwarder::with(names(), Servers::Fixed(servers.into()), timing, 8, counters)
}

/// `db` is at 10.0.2.9.
fn names() -> Arc<Names> {
    let network = Network {
        subnet4: (Ipv4Addr::new(10, 0, 2, 0), 24),
        subnet6: "fd00::".parse().unwrap(),
        mtu: 1500,
        gateway_mac: Network::GATEWAY_MAC,
        domain: None,
        search: Vec::new(),
        lease: Duration::from_secs(3600),
    };
    let fixed = FixedLease {
        holder: Holder::Mac(Network::GUEST_MAC),
        address: network.nth4(9),
        name: Some("db".parse().unwrap()),
    };
    Arc::new(Names::new(&network, &[fixed], std::time::Instant::now()))
}

fn ticket(forwarder: &Forwarder, query: &[u8]) -> Ticket {
    match forwarder.admit(Source::Port(0), query) {
        Admitted::Forward(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

async fn resolve(forwarder: &Forwarder, query: Vec<u8>) -> Vec<u8> {
    forwarder
        .resolve(ticket(forwarder, &query), Transport::Udp)
        .await
}

async fn server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut query = vec![0; 2048];
    let (length, from) = socket.recv_from(&mut query).await.unwrap();
    query.truncate(length);
    (query, from)
}

/// A server that gives each query the same answer.
async fn answering(rcode: u8, size: u16) -> SocketAddr {
    let (socket, address) = server().await;
    tokio::spawn(async move {
        loop {
            let (query, from) = receive(&socket).await;
            socket
                .send_to(&answer_to(&query, rcode, size), from)
                .await
                .unwrap();
        }
    });
    address
}

/// An address where no one listens.
async fn closed() -> SocketAddr {
    server().await.1
}

fn counted(forwarder: &Forwarder, counter: Counter) -> u64 {
    forwarder.counters.snapshot().get(counter)
}

#[tokio::test]
async fn an_answer_comes_back_with_the_guests_id() {
    let forwarder = forwarder(PATIENT, &[answering(0, 4).await]);
    let answer = resolve(&forwarder, edns_query(4096)).await;
    assert_eq!(answer, answer_to(&plain_query(), 0, 4));
    assert_eq!(counted(&forwarder, Counter::DnsAnswers), 1);
    assert_eq!(counted(&forwarder, Counter::DnsRetries), 0);
}

#[tokio::test]
async fn a_query_arrives_as_the_guest_wrote_it() {
    let (socket, address) = server().await;
    let forwarder = forwarder(PATIENT, &[address]);
    let query = edns_query(4096);
    let check = async {
        let (arrived, from) = receive(&socket).await;
        assert_eq!(arrived[2..], query[2..]);
        socket
            .send_to(&answer_to(&arrived, 0, 4), from)
            .await
            .unwrap();
    };
    tokio::join!(check, resolve(&forwarder, query.clone()));
}

#[tokio::test]
async fn ids_and_ports_are_fresh_for_each_query() {
    let (socket, address) = server().await;
    let forwarder = forwarder(PATIENT, &[address]);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..16 {
        let check = async {
            let (arrived, from) = receive(&socket).await;
            socket
                .send_to(&answer_to(&arrived, 0, 4), from)
                .await
                .unwrap();
            ([arrived[0], arrived[1]], from.port())
        };
        seen.insert(tokio::join!(check, resolve(&forwarder, plain_query())).0);
    }
    assert!(seen.len() > 14, "{seen:?}");
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let (socket, address) = server().await;
    let (stranger, _) = server().await;
    let forwarder = forwarder(PATIENT, &[address]);
    let check = async {
        let (query, from) = receive(&socket).await;
        let good = answer_to(&query, 0, 4);
        let mut wrong_id = good.clone();
        wrong_id[0] ^= 1;
        let mut wrong_question = good.clone();
        wrong_question[13] ^= 3;
        for forged in [&wrong_id, &wrong_question, &query, &vec![]] {
            socket.send_to(forged, from).await.unwrap();
        }
        stranger
            .send_to(&answer_to(&query, 0, 9), from)
            .await
            .unwrap();
        socket.send_to(&good, from).await.unwrap();
    };
    let ((), answer) = tokio::join!(check, resolve(&forwarder, plain_query()));
    assert_eq!(answer, answer_to(&plain_query(), 0, 4));
    assert_eq!(
        counted(&forwarder, Counter::DnsMismatched),
        4,
        "the stranger's did not arrive"
    );
}

#[tokio::test]
async fn a_silent_server_makes_room_for_the_next() {
    let (_silent, address) = server().await;
    let timing = Timing {
        first: HASTY.first,
        ..PATIENT
    };
    let forwarder = forwarder(timing, &[address, answering(0, 4).await]);
    let answer = resolve(&forwarder, plain_query()).await;
    assert_eq!(answer, answer_to(&plain_query(), 0, 4));
    assert!(counted(&forwarder, Counter::DnsRetries) >= 1);
}

#[tokio::test]
async fn a_late_answer_of_the_first_server_still_counts() {
    let (slow, first) = server().await;
    let (silent, second) = server().await;
    let timing = Timing {
        first: HASTY.first,
        ..PATIENT
    };
    let forwarder = forwarder(timing, &[first, second]);
    let check = async {
        let (query, from) = receive(&slow).await;
        receive(&silent).await;
        slow.send_to(&answer_to(&query, 0, 4), from).await.unwrap();
    };
    let ((), answer) = tokio::join!(check, resolve(&forwarder, plain_query()));
    assert_eq!(answer, answer_to(&plain_query(), 0, 4));
}

#[tokio::test]
async fn refusals_go_to_the_next_server_at_once() {
    let servers = [closed().await, answering(2, 0).await, answering(5, 0).await];
    let forwarder = forwarder(PATIENT, &[&servers[..], &[answering(3, 0).await]].concat());
    let answer = resolve(&forwarder, plain_query()).await;
    assert_eq!(
        answer,
        answer_to(&plain_query(), 3, 0),
        "NXDOMAIN is an answer"
    );
    assert_eq!(counted(&forwarder, Counter::DnsRetries), 3);
}

#[tokio::test]
async fn the_first_refusal_is_the_answer_when_there_is_no_better() {
    let servers = [closed().await, answering(5, 3).await, answering(2, 0).await];
    let forwarder = forwarder(PATIENT, &servers);
    let answer = resolve(&forwarder, plain_query()).await;
    assert_eq!(answer, answer_to(&plain_query(), 5, 3));
    assert_eq!(counted(&forwarder, Counter::DnsServfail), 0);
}

#[tokio::test]
async fn dead_servers_give_servfail() {
    let (_silent, silent) = server().await;
    for (timing, servers) in [
        (HASTY, vec![silent, silent]),
        (PATIENT, vec![closed().await]),
    ] {
        let forwarder = forwarder(timing, &servers);
        let answer = resolve(&forwarder, plain_query()).await;
        let mut golden = plain_query();
        golden[2..4].copy_from_slice(&[0x81, 0x82]);
        assert_eq!(answer, golden);
        assert_eq!(counted(&forwarder, Counter::DnsServfail), 1);
    }
    let none = forwarder(PATIENT, &[]);
    assert_eq!(resolve(&none, plain_query()).await[3] & 15, 2);
}

#[tokio::test]
async fn answers_are_cut_to_what_the_guest_takes() {
    let forwarder = forwarder(PATIENT, &[answering(0, 1000).await]);
    let answer = resolve(&forwarder, plain_query()).await;
    let mut golden = plain_query();
    golden[2..4].copy_from_slice(&[0x83, 0x80]);
    assert_eq!(answer, golden);
    assert_eq!(counted(&forwarder, Counter::DnsTruncated), 1);
    let answer = resolve(&forwarder, edns_query(1232)).await;
    assert_eq!(answer, answer_to(&plain_query(), 0, 1000));
}

#[tokio::test]
async fn servers_may_have_ipv6_addresses() {
    let Ok(socket) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await else {
        return;
    };
    let forwarder = forwarder(PATIENT, &[socket.local_addr().unwrap()]);
    let check = async {
        let (query, from) = receive(&socket).await;
        socket
            .send_to(&answer_to(&query, 0, 4), from)
            .await
            .unwrap();
    };
    let ((), answer) = tokio::join!(check, resolve(&forwarder, plain_query()));
    assert_eq!(answer, answer_to(&plain_query(), 0, 4));
}

#[tokio::test]
async fn beyond_the_bound_queries_fail_at_once() {
    let forwarder = forwarder(PATIENT, &[closed().await]);
    forwarder.spare(1);
    let tickets: Vec<_> = (0..8).map(|_| ticket(&forwarder, &plain_query())).collect();
    let Admitted::Answer(answer) = forwarder.admit(Source::Port(0), &plain_query()) else {
        panic!("admitted")
    };
    assert_eq!(answer[3] & 15, 2);
    assert_eq!(counted(&forwarder, Counter::DnsOverload), 1);
    drop(tickets);
    ticket(&forwarder, &plain_query());
}

#[test]
fn who_asks_too_much_fails_alone() {
    let forwarder = forwarder(PATIENT, &[]);
    let admit = |source| match forwarder.admit(source, &plain_query()) {
        Admitted::Forward(ticket) => Some(ticket),
        Admitted::Answer(answer) => {
            assert_eq!(answer[3] & 15, 2);
            None
        }
        Admitted::Drop => panic!("dropped"),
    };
    // Of eight, two for each port and four for all connections.
    let mut greedy: Vec<_> = (0..9).filter_map(|_| admit(Source::Port(3))).collect();
    assert_eq!(greedy.len(), 2);
    let streams: Vec<_> = (0..9).filter_map(|_| admit(Source::Stream)).collect();
    assert_eq!(streams.len(), 4);
    assert_eq!(counted(&forwarder, Counter::DnsOverShare), 7 + 5);
    let honest = admit(Source::Port(4));
    assert!(honest.is_some());
    assert!(admit(Source::Port(3)).is_none());
    greedy.pop();
    assert!(admit(Source::Port(3)).is_some(), "one was answered");
    assert_eq!(counted(&forwarder, Counter::DnsOverload), 0);
}

#[test]
fn names_of_the_segment_are_answered_and_no_one_is_asked() {
    let forwarder = forwarder(PATIENT, &[]);
    let ask = |name: &[u8], kind: u8| {
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(name);
        query.extend_from_slice(&[0, 0, kind, 0, 1]);
        forwarder.admit(Source::Port(0), &query)
    };
    let answered = |admitted| match admitted {
        Admitted::Answer(answer) => (answer[3], answer[7], answer[answer.len() - 4..].to_vec()),
        other => panic!("{other:?}"),
    };
    assert_eq!(answered(ask(b"\x02DB", 1)), (0x80, 1, vec![10, 0, 2, 9]));
    let (code, records, _) = answered(ask(b"\x02db\x08internal", 28));
    assert_eq!((code, records), (0x80, 0), "no AAAA, but the name is there");
    assert_eq!(answered(ask(b"\x04host\x08internal", 1)).2, [10, 0, 2, 2]);
    assert!(matches!(ask(b"\x04db-2", 1), Admitted::Forward(_)));
    assert_eq!(counted(&forwarder, Counter::DnsNames), 3);
    assert_eq!(counted(&forwarder, Counter::DnsQueries), 4);
}

#[test]
fn malformed_messages_are_counted() {
    let forwarder = forwarder(PATIENT, &[]);
    assert!(matches!(
        forwarder.admit(Source::Port(0), &[1, 2, 3]),
        Admitted::Answer(_)
    ));
    assert!(matches!(
        forwarder.admit(Source::Port(0), &[1]),
        Admitted::Drop
    ));
    assert_eq!(counted(&forwarder, Counter::DnsFormerr), 1);
    assert_eq!(counted(&forwarder, Counter::DnsMalformed), 1);
    assert_eq!(counted(&forwarder, Counter::DnsQueries), 0);
}

#[test]
fn turns_double_their_patience_and_leave_out_who_refused() {
    let second = Duration::from_secs(1);
    let mut turns = Turns::new(3, second);
    let mut order = Vec::new();
    while let Some(turn) = turns.next() {
        order.push((
            turn.server,
            turn.patience.map(|patience| patience.as_secs()),
        ));
        if order.len() == 2 {
            turns.refused(1);
        }
    }
    let expected =
        [(0, 1), (1, 1), (2, 1), (0, 2), (2, 2), (0, 4), (2, 4)].map(|(s, p)| (s, Some(p)));
    assert_eq!(order[..7], expected);
    assert_eq!(order[7..], [(0, None)]);
    assert!(Turns::new(0, second).next().is_none());
}

/// A server for one connection after the other, and one query on each; answers in `answers`.
async fn stream_server(answers: Vec<(u8, u16)>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for (rcode, size) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let answer = answer_to(&query, rcode, size);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

/// A guest's connection to a forwarder, by way of the listener that cores connect to.
async fn connect(forwarder: Forwarder) -> (UnixStream, Arc<Forwarder>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dns");
    let listener = UnixListener::bind(&path).unwrap();
    let forwarder = Arc::new(forwarder);
    tokio::spawn(super::serve_streams(listener, Arc::clone(&forwarder)));
    (UnixStream::connect(&path).await.unwrap(), forwarder)
}

async fn read_message(stream: &mut UnixStream) -> Vec<u8> {
    let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut message).await.unwrap();
    message
}

#[tokio::test]
async fn pipelined_queries_are_all_answered() {
    let servers = [closed().await, stream_server(vec![(0, 2000); 40]).await];
    let (mut guest, forwarder) = connect(Forwarder::with(
        names(),
        Servers::Fixed(servers.into()),
        PATIENT,
        64,
        Arc::new(Counters::default()),
    ))
    .await;
    let mut sent = Vec::new();
    for n in 0..40 {
        let mut query = plain_query();
        query[1] = n;
        sent.extend(super::attempt::framed(&query).unwrap());
    }
    guest.write_all(&sent).await.unwrap();
    guest.shutdown().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..40 {
        let mut answer = read_message(&mut guest).await;
        ids.push(std::mem::replace(&mut answer[1], 0x34));
        assert_eq!(
            answer,
            answer_to(&plain_query(), 0, 2000),
            "by TCP nothing is cut"
        );
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..40).collect::<Vec<u8>>());
    assert_eq!(
        guest.read(&mut [0]).await.unwrap(),
        0,
        "closed when all is answered"
    );
    assert_eq!(counted(&forwarder, Counter::DnsTcp), 40);
}

#[tokio::test]
async fn idle_connections_and_nonsense_are_closed() {
    let (mut guest, _) = connect(forwarder(HASTY, &[])).await;
    assert_eq!(guest.read(&mut [0]).await.unwrap(), 0, "idle");

    let (mut guest, _) = connect(forwarder(HASTY, &[])).await;
    guest.write_all(&[0, 9, 1]).await.unwrap();
    assert_eq!(guest.read(&mut [0]).await.unwrap(), 0, "half a message");

    let (mut guest, _) = connect(forwarder(PATIENT, &[])).await;
    guest.write_all(&[0, 3, 1, 2, 3, 0, 1, 7]).await.unwrap();
    assert_eq!(read_message(&mut guest).await[3], 0x81, "FORMERR");
    assert_eq!(guest.read(&mut [0]).await.unwrap(), 0, "no id to answer to");
}

//! Names, asked at the gateway.

use std::collections::HashSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::needs::Need;
use crate::support::resolver::{
    LONG, LONG_RECORDS, Resolver, addresses, framed, question, read_message,
};
use crate::support::world::{
    GATEWAY4, GATEWAY6, GATEWAYS, HOST4, HOST6, SUBNETS, World, eventually,
};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests![
        by_udp,
        by_tcp,
        upstream_over_ipv6,
        queries_are_unchanged_but_for_the_id,
        cut_by_udp_whole_by_tcp,
        pipelined_by_tcp,
        silent_first_server,
        closed_first_server,
        no_server_answers,
        the_hosts_resolv_conf_and_its_changes,
    ];
    let own = tests![by_the_guests_own_resolver].into_iter();
    tests.extend(own.map(|test| test.needs(Need::Program("getent"))));
    tests
}

const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(HOST4), 5353);

fn upstream(world: &World) -> (Resolver, Guest) {
    let resolver = Resolver::start(UPSTREAM, ANSWER);
    (resolver, world.guest(&["--dns", &UPSTREAM.to_string()]))
}

/// Asks by UDP; the response must come from whom was asked.
#[track_caller]
fn ask(guest: &Guest, gateway: IpAddr, query: &[u8]) -> Vec<u8> {
    let socket: UdpSocket = guest.udp(gateway);
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.connect((gateway, 53)).unwrap();
    socket.send(query).unwrap();
    let mut buffer = [0; 4096];
    let n = socket
        .recv(&mut buffer)
        .unwrap_or_else(|error| panic!("ask {gateway}: {error}"));
    buffer[..n].to_vec()
}

fn by_udp(world: &World) {
    let (_resolver, guest) = upstream(world);
    for gateway in GATEWAYS {
        let reply = ask(&guest, gateway, &question(7, "name.test"));
        assert_eq!(addresses(&reply, 7, 0), [ANSWER]);
    }
}

fn by_tcp(world: &World) {
    let (_resolver, guest) = upstream(world);
    for gateway in GATEWAYS {
        let mut stream = guest.connect((gateway, 53));
        stream
            .write_all(&framed(&question(8, "name.test")))
            .unwrap();
        let reply = read_message(&mut stream).expect("an answer");
        assert_eq!(addresses(&reply, 8, 0), [ANSWER]);
    }
}

fn upstream_over_ipv6(world: &World) {
    let _resolver = Resolver::start((HOST6, 5353).into(), ANSWER);
    let guest = world.guest(&["--dns", &format!("[{HOST6}]:5353")]);
    let reply = ask(&guest, GATEWAY4.into(), &question(9, "name.test"));
    assert_eq!(addresses(&reply, 9, 0), [ANSWER]);
}

/// RFC 5452 §9.2: ids and ports that cannot be guessed; all else is between guest and server.
fn queries_are_unchanged_but_for_the_id(world: &World) {
    let (resolver, guest) = upstream(world);
    let query = question(1, "MiXeD-cAsE.test");
    for _ in 0..16 {
        let reply = ask(&guest, GATEWAY6.into(), &query);
        assert_eq!(addresses(&reply, 1, 0), [ANSWER]);
    }
    let seen = resolver.seen();
    assert_eq!(seen.len(), 16, "each asked once");
    assert!(
        seen.iter().all(|seen| seen.query[2..] == query[2..]),
        "option and case are kept"
    );
    let ids: HashSet<_> = seen.iter().map(|seen| seen.query[..2].to_vec()).collect();
    let ports: HashSet<_> = seen.iter().map(|seen| seen.from.port()).collect();
    assert!(ids.len() > 8, "ids are random: {ids:?}");
    assert!(ports.len() > 8, "ports are random: {ports:?}");
}

fn cut_by_udp_whole_by_tcp(world: &World) {
    let (_resolver, guest) = upstream(world);
    let query = question(10, &format!("{LONG}.test"));
    let cut = ask(&guest, GATEWAY4.into(), &query);
    assert_ne!(cut[2] & 2, 0, "the answer by UDP says that it was cut");
    let mut stream = guest.connect((GATEWAY4, 53));
    stream.write_all(&framed(&query)).unwrap();
    let whole = read_message(&mut stream).expect("an answer");
    assert_eq!(addresses(&whole, 10, 0), [ANSWER; LONG_RECORDS]);
}

/// RFC 7766 §6.2.1.1: several queries on one connection, answered in any order.
fn pipelined_by_tcp(world: &World) {
    let (_resolver, guest) = upstream(world);
    let mut stream = guest.connect((GATEWAY6, 53));
    let queries: Vec<u8> = (0..10)
        .flat_map(|id| framed(&question(id, &format!("name{id}.test"))))
        .collect();
    stream.write_all(&queries).unwrap();
    let mut ids = HashSet::new();
    for _ in 0..10 {
        let reply = read_message(&mut stream).expect("an answer to each");
        let id = u16::from_be_bytes([reply[0], reply[1]]);
        assert_eq!(addresses(&reply, id, 0), [ANSWER]);
        ids.insert(id);
    }
    assert_eq!(ids, (0..10).collect());
}

fn silent_first_server(world: &World) {
    let silent = UdpSocket::bind((HOST4, 0)).unwrap();
    falls_back(world, silent.local_addr().unwrap());
}

fn closed_first_server(world: &World) {
    let closed = UdpSocket::bind((HOST4, 0)).unwrap().local_addr().unwrap();
    falls_back(world, closed);
}

fn falls_back(world: &World, first: SocketAddr) {
    let _resolver = Resolver::start(UPSTREAM, ANSWER);
    let (first, second) = (first.to_string(), UPSTREAM.to_string());
    let guest = world.guest(&["--dns", &first, "--dns", &second]);
    let query = question(11, "name.test");
    assert_eq!(
        addresses(&ask(&guest, GATEWAY4.into(), &query), 11, 0),
        [ANSWER]
    );
    let mut stream = guest.connect((GATEWAY4, 53));
    stream.write_all(&framed(&query)).unwrap();
    let reply = read_message(&mut stream).expect("an answer by TCP");
    assert_eq!(addresses(&reply, 11, 0), [ANSWER]);
}

fn no_server_answers(world: &World) {
    const SERVFAIL: u8 = 2;
    let silent = UdpSocket::bind((HOST4, 0)).unwrap();
    let guest = world.guest(&["--dns", &silent.local_addr().unwrap().to_string()]);
    let reply = ask(&guest, GATEWAY4.into(), &question(12, "name.test"));
    assert!(addresses(&reply, 12, SERVFAIL).is_empty());
}

/// Without `--dns` the host's own servers are asked, and others once the file names others.
fn the_hosts_resolv_conf_and_its_changes(world: &World) {
    let other = Ipv4Addr::new(192, 0, 2, 81);
    let _first = Resolver::start((HOST4, 53).into(), ANSWER);
    let _second = Resolver::start((HOST6, 53).into(), other);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(path, format!("nameserver {HOST4}\n")).unwrap();
    world.bind_over(path, "/etc/resolv.conf");
    let guest = world.guest(&[]);
    let asked = || {
        addresses(
            &ask(&guest, GATEWAY4.into(), &question(13, "name.test")),
            13,
            0,
        )
    };
    assert_eq!(asked(), [ANSWER]);
    std::fs::write(path, format!("nameserver {HOST6}\n")).unwrap();
    eventually("the new server is asked", || asked() == [other]);
}

/// The way that programs take: `/etc/resolv.conf`, the C library, the gateway, the server.
fn by_the_guests_own_resolver(world: &World) {
    let _resolver = Resolver::start(UPSTREAM, ANSWER);
    let mut command = world.towpath();
    command
        .arg("run")
        .args(SUBNETS)
        .args(["--dns", &UPSTREAM.to_string()]);
    command.args(["--", "getent", "ahostsv4", "name.towpath.test"]);
    let mut process = world.spawn(command);
    let status = process.wait();
    let said = String::from_utf8(process.stdout()).unwrap();
    assert_eq!(status.code(), Some(0), "{said}{}", process.stderr());
    assert!(said.starts_with(&ANSWER.to_string()), "{said}");
}

//! SYNs that no one means: each costs the host a socket, so there are only so many at a time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::attacker::Attacker;
use crate::support::connections::{ESTABLISHED, connections, connects_to};
use crate::support::frames::{PROTOCOL_TCP, TCP_CHECKSUM_AT, TCP_SYN, tcp};
use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::payload;
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{HOLES, HOSTS, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        to_where_no_one_answers,
        to_servers_that_accept,
        on_two_cores,
        of_one_address,
        into_a_full_table,
    ]
}

const SYNS: usize = 20_000;

fn to_where_no_one_answers(world: &World) {
    flood(
        world,
        &["--max-pending", "500"],
        HOLES.map(|hole| (hole, 80).into()),
        500,
    );
}

/// The host's side is open, and the guest never says a word more.
fn to_servers_that_accept(world: &World) {
    let servers = HOSTS.map(|host| spawn_tcp_echo(listen(host)));
    flood(world, &["--max-pending", "500"], servers, 500);
}

fn on_two_cores(world: &World) {
    let options = ["--cores", "2", "--max-pending", "500"];
    flood(world, &options, HOLES.map(|hole| (hole, 80).into()), 500);
}

/// As many open connections as are allowed are not in the way, and what floods can't take the last places.
fn into_a_full_table(world: &World) {
    let targets = HOLES.map(|hole| (hole, 80).into());
    flood(world, &["--max-tcp", "40"], targets, 40);
}

/// 20,000 SYNs from ports and addresses that change all the time. Meanwhile and afterwards regular
/// connections are made as ever, and the host never has more than `limit` sockets to show for it.
fn flood(world: &World, options: &[&str], targets: [SocketAddr; 2], limit: usize) {
    let mut attacker = Attacker::new(world, 21, options);
    let echoes = HOSTS.map(|host| spawn_tcp_echo(listen(host)));
    let mut most = 0;
    for i in 0..SYNS {
        let target = targets[i % 2];
        let source = spoofed(&mut attacker, target.ip());
        let port = 1024 + attacker.below(60_000) as u16;
        send_syn(&attacker, (source, port), target);
        if i % 500 == 499 {
            most = most.max(half_open(&targets));
            round_trip(&attacker.guest.connect(echoes[i / 500 % 2]), b"regular");
        }
    }
    assert!(most > limit / 4, "the flood got through: {most}");
    // A socket that made room is closed when its connect is cancelled, a batch or two later.
    let closing = 4 * 64;
    assert!(
        most <= limit + closing,
        "at most {limit} at a time, not {most}"
    );
    for echo in echoes {
        round_trip(&attacker.guest.connect(echo), payload::slice(3, 10_000));
    }
    let summary = attacker.end();
    assert!(summary.contains("were not open yet"), "{summary}");
}

/// An address of the segment that is nobody's.
fn spoofed(attacker: &mut Attacker, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::new(10, 77, 0, 10 + attacker.below(240) as u8).into(),
        IpAddr::V6(_) => {
            let low = attacker.bytes(2);
            let low = u16::from_be_bytes([low[0] | 0x80, low[1]]);
            Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, low).into()
        }
    }
}

fn send_syn(attacker: &Attacker, (source, port): (IpAddr, u16), target: SocketAddr) {
    let syn = tcp(
        (port, target.port()),
        (77, 0),
        TCP_SYN,
        &[2, 4, 5, 180],
        &[],
    );
    attacker.send_between((source, target.ip()), PROTOCOL_TCP, syn, TCP_CHECKSUM_AT);
}

/// The host's sockets that are connected, or connect, to one of these.
fn half_open(targets: &[SocketAddr]) -> usize {
    let waiting: usize = targets.iter().map(|target| connects_to(target.ip())).sum();
    let open = connections().into_iter();
    let open = open.filter(|c| c.state == ESTABLISHED && targets.contains(&c.remote));
    waiting + open.count()
}

/// Who floods from its own address stands in its own way only.
fn of_one_address(world: &World) {
    let attacker = Attacker::new(world, 22, &["--max-pending", "100"]);
    let (hole, other): (IpAddr, SocketAddr) = (HOLES[0], (HOLES[1], 80).into());
    let waiting = attacker.guest.enter(|| {
        let target = SocketAddr::new(hole, 8080);
        thread::spawn(move || TcpStream::connect_timeout(&target, Duration::from_secs(60)))
    });
    eventually("a regular connect waits", || connects_to(hole) == 1);
    for port in 10_000..12_000 {
        send_syn(&attacker, ("fd77::99".parse().unwrap(), port), other);
    }
    round_trip(&attacker.bystander, b"the SYNs before this were seen");
    // A socket that made room is closed when its connect has been cancelled, a moment later.
    eventually("half is for one address", || {
        (1..=50).contains(&connects_to(other.ip()))
    });
    assert_eq!(connects_to(hole), 1, "the regular one goes on waiting");
    assert!(!waiting.is_finished());
    attacker.end();
}

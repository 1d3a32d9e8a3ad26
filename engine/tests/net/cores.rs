//! More than one core: the same promises when frames and flows meet on different ones.

use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::payload::{self, MIB};
use crate::support::servers::{listen, round_trip, spawn_tcp_echo, spawn_udp_echo, udp};
use crate::support::world::{HOST4, HOSTS, World};
use crate::tcp::{Direction, bulk, many_at_once};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        bulk_both_ways,
        connections,
        datagrams,
        two_cores_that_are_not_pinned
    ]
}

const TWO: [&str; 2] = ["--cores", "2"];

fn bulk_both_ways(world: &World) {
    for host in HOSTS {
        bulk(world, &TWO, host, Direction::Up, 256 * MIB);
        bulk(world, &TWO, host, Direction::Down, 256 * MIB);
    }
}

/// Enough that both cores own some, and that some arrive on the other's queue.
fn connections(world: &World) {
    many_at_once(&world.guest(&TWO), 200);
}

fn datagrams(world: &World) {
    let guest = world.guest(&TWO);
    for host in HOSTS {
        let server = spawn_udp_echo(udp(host));
        for (i, size) in [1, 1472, 8000, 65_507]
            .into_iter()
            .cycle()
            .take(40)
            .enumerate()
        {
            let socket = guest.udp(host);
            socket
                .set_read_timeout(Some(std::time::Duration::from_secs(30)))
                .unwrap();
            let sent = payload::slice(i as u64, size);
            socket.send_to(sent, server).unwrap();
            let mut buffer = vec![0; 1 << 16];
            let n = socket.recv(&mut buffer).expect("the datagram comes back");
            assert!(buffer[..n] == *sent, "{size} bytes come back as they were");
        }
    }
}

fn two_cores_that_are_not_pinned(world: &World) {
    let guest = world.guest(&["--cores", "2", "--no-pin"]);
    let echo = spawn_tcp_echo(listen(HOST4));
    for i in 0..20 {
        round_trip(&guest.connect(echo), payload::slice(i, 1000));
    }
    guest.end();
}

//! Memory has a bound, also when thousands of connections stand still.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::sysctl;
use crate::support::payload::{self, MIB};
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{HOSTS, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![connections_that_stand_still, a_guest_that_takes_little]
}

/// Connections that stand still, of each direction.
const STALLED: usize = 2_000;
const MEMORY: &str = "32M";
/// What the engine may take in all: 32 MiB for what waits, 40 MiB of pooled buffers, and itself with 4,000
/// connections. Without bounds, what waits alone would be 400 MiB.
const RESIDENT_MAX: u64 = 120 << 20;

/// One of the two ends does not read.
struct Stalled {
    sender: TcpStream,
    reader: TcpStream,
    sent: u64,
}

impl Stalled {
    fn new((sender, reader): (TcpStream, TcpStream)) -> Self {
        sender.set_nonblocking(true).unwrap();
        Self {
            sender,
            reader,
            sent: 0,
        }
    }

    /// Sends what can be sent now.
    fn push(&mut self) -> bool {
        let before = self.sent;
        loop {
            match self.sender.write(payload::slice(self.sent, 32 << 10)) {
                Ok(n) => self.sent += n as u64,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    return self.sent > before;
                }
            }
        }
    }
}

fn connections_that_stand_still(world: &World) {
    // The kernels' own buffers are kept small, so that what is left is for the engine to hold.
    let small = || {
        sysctl("net.ipv4.tcp_rmem", "4096 16384 16384");
        sysctl("net.ipv4.tcp_wmem", "4096 16384 65536");
    };
    small();
    let guest = world.guest(&["-v", "--buffer-memory", MEMORY]);
    guest.enter(small);
    let echoes = HOSTS.map(|host| spawn_tcp_echo(listen(host)));
    let old = guest.connect(echoes[0]);
    let listeners = HOSTS.map(listen);
    let mut stalled: Vec<_> = (0..2 * STALLED)
        .map(|i| {
            let (near, far) = guest.pair(&listeners[i % 2]);
            Stalled::new(if i % 4 < 2 { (near, far) } else { (far, near) })
        })
        .collect();
    fill(&mut stalled);

    round_trip(&old, payload::slice(1, 10_000));
    for i in 0..20 {
        round_trip(&guest.connect(echoes[i % 2]), payload::slice(2, 10_000));
    }
    for listener in &listeners {
        let (near, far) = guest.pair(listener);
        thread::scope(|scope| {
            for (mut from, to) in [(&near, &far), (&far, &near)] {
                scope.spawn(move || payload::send(&mut from, 4 * MIB).expect("it goes on"));
                scope.spawn(move || payload::receive(to, 4 * MIB).expect("it goes on"));
            }
        });
    }
    let resident = resident_max(&guest);
    assert!(resident < RESIDENT_MAX, "{} MiB", resident >> 20);
    drain(stalled);
    drop(old);
    let summary = guest.end();
    assert!(!summary.contains("lost"), "{summary}");
}

/// Sends on all of them until none takes more.
fn fill(stalled: &mut [Stalled]) {
    let mut quiet = 0;
    while quiet < 10 {
        let moved = stalled
            .iter_mut()
            .filter_map(|s| s.push().then_some(()))
            .count();
        quiet = if moved == 0 { quiet + 1 } else { 0 };
        thread::sleep(Duration::from_millis(50));
    }
}

/// All that was sent arrives.
fn drain(stalled: Vec<Stalled>) {
    for one in &stalled {
        one.sender.shutdown(Shutdown::Write).unwrap();
    }
    thread::scope(|scope| {
        for part in stalled.chunks(stalled.len().div_ceil(16)) {
            scope.spawn(move || {
                for one in part {
                    payload::receive_all(&one.reader, one.sent).expect("nothing is lost");
                }
            });
        }
    });
}

/// The most memory that the engine ever had, in bytes.
fn resident_max(guest: &Guest) -> u64 {
    let path = format!("/proc/{}/status", guest.engine.id());
    let status = std::fs::read_to_string(path).expect("the engine runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number of KiB") << 10
}

/// A guest with a small window holds up the host's peer, not megabytes in between.
fn a_guest_that_takes_little(world: &World) {
    sysctl("net.ipv4.tcp_rmem", "4096 16384 16384");
    sysctl("net.ipv4.tcp_wmem", "4096 16384 16384");
    let guest = world.guest(&[]);
    guest.enter(|| sysctl("net.ipv4.tcp_rmem", "4096 65536 65536"));
    for host in HOSTS {
        let mut one = Stalled::new({
            let (near, far) = guest.pair(&listen(host));
            (far, near)
        });
        // First it reads, so that whatever grows with success has grown.
        let sender = one.sender.try_clone().unwrap();
        sender.set_nonblocking(false).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| payload::send(&sender, 64 * MIB).unwrap());
            payload::receive(&one.reader, 64 * MIB).unwrap();
        });
        sender.set_nonblocking(true).unwrap();
        fill(std::slice::from_mut(&mut one));
        // 32 KiB in the guest's kernel, 64 KiB in both sockets of the host, its window and a batch here.
        assert!(one.sent < 320 << 10, "{} KiB are under way", one.sent >> 10);
    }
}

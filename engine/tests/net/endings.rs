//! How connections end: resets and errors of either side reach the other, behind what came before them,
//! and an end is not taken for a reset, nor a reset for an end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::support::connections::connections;
use crate::support::guest::{Guest, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::sysctl;
use crate::support::payload::{self, MIB};
use crate::support::servers::listen;
use crate::support::world::{HOSTS, OtherMachine, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        host_resets_behind_its_bytes,
        host_resets_behind_much,
        host_resets_a_guest_that_does_not_read,
        host_answers_and_resets_while_the_guest_sends,
        guest_resets_with_bytes_waiting,
        closed_with_bytes_unread,
        resets_after_half_closes,
        the_path_to_the_host_s_peer_breaks,
        slow_hosts_get_the_last_bytes,
    ]
}

/// The close of a socket becomes a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

#[track_caller]
fn expect_reset(mut stream: &TcpStream) {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let error = stream.read(&mut [0]).expect_err("a reset is not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// Waits until the other side's kernel has everything.
#[track_caller]
fn acknowledged(stream: &TcpStream) {
    let local = stream.local_addr().unwrap();
    eventually("all is acknowledged", || {
        let table = connections();
        let own = table.iter().find(|entry| entry.local == local);
        own.expect("the connection is there").unacknowledged == 0
    });
}

fn each(world: &World, body: impl Fn(&Guest, TcpStream, TcpStream)) {
    let guest = world.guest(&[]);
    for host in HOSTS {
        let (near, far) = guest.pair(&listen(host));
        body(&guest, near, far);
    }
}

fn host_resets_behind_its_bytes(world: &World) {
    each(world, |_, near, far| {
        payload::send(&far, 50_000).unwrap();
        acknowledged(&far);
        reset(far);
        payload::receive(&near, 50_000).expect("what came before the reset");
        expect_reset(&near);
    });
}

/// More than the guest takes at once.
fn host_resets_behind_much(world: &World) {
    each(world, |_, near, far| {
        let sending = thread::spawn(move || {
            payload::send(&far, 16 * MIB).unwrap();
            acknowledged(&far);
            reset(far);
        });
        for part in 0..16 {
            payload::receive_from(&near, part * MIB, MIB).expect("all of it");
            thread::sleep(Duration::from_millis(20));
        }
        expect_reset(&near);
        sending.join().unwrap();
    });
}

/// Its window is shut, so that nothing can be put before the reset; it comes nevertheless.
fn host_resets_a_guest_that_does_not_read(world: &World) {
    each(world, |guest, near, far| {
        far.set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        payload::send(&far, 64 * MIB).expect_err("somewhere it is full");
        let local = near.local_addr().unwrap();
        reset(far);
        eventually("the guest's kernel has heard of it", || {
            let table = guest.enter(connections);
            !table.iter().any(|entry| entry.local == local)
        });
    });
}

/// A server that has seen enough: it answers, and closes with the request half read.
fn host_answers_and_resets_while_the_guest_sends(world: &World) {
    each(world, |_, near, far| {
        thread::scope(|scope| {
            let sending = scope.spawn(|| payload::send(&near, 256 * MIB));
            (&far).read_exact(&mut [0; 10]).unwrap();
            payload::send(&far, 50_000).unwrap();
            acknowledged(&far);
            drop(far);
            payload::receive(&near, 50_000).expect("the answer");
            let error = sending.join().unwrap().expect_err("nobody reads this");
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "{error}");
        });
    });
}

fn guest_resets_with_bytes_waiting(world: &World) {
    each(world, |_, near, mut far| {
        near.set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        payload::send(&near, 64 * MIB).expect_err("somewhere it is full");
        payload::send(&far, 50_000).unwrap();
        reset(near);
        far.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let error = std::io::copy(&mut far, &mut std::io::sink()).expect_err("no regular end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    });
}

/// A close with bytes unread is a reset (RFC 1122 §4.2.2.13).
fn closed_with_bytes_unread(world: &World) {
    for by_guest in [true, false] {
        each(world, |guest, near, far| {
            let (first, other) = if by_guest { (near, far) } else { (far, near) };
            payload::send(&other, 50_000).unwrap();
            let ready = || first.peek(&mut [0]).is_ok_and(|n| n > 0);
            eventually("there are bytes to read", ready);
            drop(first);
            expect_reset(&other);
            let _ = guest;
        });
    }
}

/// The direction that is closed stays closed in order, and the other breaks off.
fn resets_after_half_closes(world: &World) {
    for (closes, resets) in [(true, true), (true, false), (false, true), (false, false)] {
        each(world, |_, near, far| {
            let (guests, hosts) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let (closing, other) = if closes {
                (&guests, &hosts)
            } else {
                (&hosts, &guests)
            };
            payload::send(closing, 10_000).unwrap();
            closing.shutdown(Shutdown::Write).unwrap();
            payload::receive_all(other, 10_000).expect("that half is whole");
            payload::send(other, 10_000).unwrap();
            payload::receive(closing, 10_000).expect("the other half is open");
            if resets {
                drop(guests);
                reset(near);
                // Of a socket that has read its end, a write tells.
                if closes {
                    broken(&far);
                } else {
                    expect_reset(&far);
                }
            } else {
                drop(hosts);
                reset(far);
                if closes {
                    expect_reset(&near);
                } else {
                    broken(&near);
                }
            }
        });
    }
}

#[track_caller]
fn broken(mut stream: &TcpStream) {
    let mut kind = None;
    eventually("a write fails", || {
        kind = stream.write(b"x").err().map(|error| error.kind());
        kind.is_some()
    });
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(kind.is_some_and(|kind| kinds.contains(&kind)), "{kind:?}");
}

/// The host's kernel gives up sending (`ETIMEDOUT`, `EHOSTUNREACH`): the guest hears of it.
fn the_path_to_the_host_s_peer_breaks(world: &World) {
    sysctl("net.ipv4.tcp_retries2", "1");
    let machine = world.other_machine();
    let guest = world.guest(&[]);
    let pairs = OtherMachine::ADDRESSES.map(|address| {
        let listener = machine.enter(|| listen(address));
        guest.pair(&listener)
    });
    machine.fall_silent();
    for (mut near, _far) in pairs {
        near.write_all(b"anyone?").unwrap();
        expect_reset(&near);
    }
}

/// The guest's side of a connection may be over, its ports in use again, while bytes that we
/// acknowledged wait for a host's peer that does not read.
fn slow_hosts_get_the_last_bytes(world: &World) {
    // Little fits into the kernel's buffers.
    sysctl("net.ipv4.tcp_wmem", "4096 4096 4096");
    sysctl("net.ipv4.tcp_rmem", "4096 4096 4096");
    let guest = world.guest(&["-v"]);
    for host in [HOSTS[0], HOSTS[1], HOSTS[0]] {
        for guest_first in [true, false] {
            let (near, far) = guest.pair(&listen(host));
            let local = near.local_addr().unwrap();
            payload::send(&near, 60_000).unwrap();
            if guest_first {
                near.shutdown(Shutdown::Write).unwrap();
                far.shutdown(Shutdown::Write).unwrap();
            } else {
                far.shutdown(Shutdown::Write).unwrap();
                near.shutdown(Shutdown::Write).unwrap();
            }
            payload::receive_all(&near, 0).expect("an end without bytes");
            drop(near);
            eventually("the guest's kernel is through", || {
                let table = guest.enter(connections);
                let open = |state| (1..=5).contains(&state) || (7..=11).contains(&state);
                !table.iter().any(|c| c.local == local && open(c.state))
            });
            // The engine's TIME-WAIT is over after a second.
            thread::sleep(Duration::from_millis(1500));
            payload::receive_all(&far, 60_000).expect("all that the guest sent");
        }
    }
    let summary = guest.end();
    assert!(!summary.contains("lost"), "{summary}");
}

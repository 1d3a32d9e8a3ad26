//! Guests that come over sockets, as virtual machines do: `towpath serve`.

mod crowd;
mod dismissals;
mod identity;
mod protocols;
mod rules;
mod sockets;
mod switch;
mod taps;

use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::guest::GuestSockets;
use crate::support::harness::Test;
use crate::support::links::kernel::KernelGuest;
use crate::support::payload::{self, MIB};
use crate::support::servers::{listen, spawn_udp_echo, udp};
use crate::support::world::HOSTS;

pub(crate) fn tests() -> Vec<Test> {
    let tests = [
        protocols::tests(),
        dismissals::tests(),
        identity::tests(),
        sockets::tests(),
        switch::tests(),
        rules::tests(),
        taps::tests(),
        crowd::tests(),
    ];
    tests.into_iter().flatten().collect()
}

/// Bytes of a bulk transfer, each way.
const LENGTH: u64 = 4 * MIB + 77;

/// Bulk data both ways between a guest and the host, each byte compared.
#[track_caller]
fn transfer(guest: &KernelGuest, host: std::net::IpAddr) {
    let (near, far) = guest.pair(&listen(host));
    exchange(&near, &far);
}

/// Bulk data both ways over a connection, each byte compared.
#[track_caller]
fn exchange(near: &TcpStream, far: &TcpStream) {
    thread::scope(|scope| {
        for (mut from, to) in [(near, far), (far, near)] {
            scope.spawn(move || payload::send(&mut from, LENGTH).expect("all is sent"));
            scope.spawn(move || payload::receive(to, LENGTH).expect("all arrives"));
        }
    });
}

/// TCP and UDP of both IP versions, with a real kernel at the guest's side.
#[track_caller]
fn prove(guest: &KernelGuest) {
    guest.wait_for_ipv6();
    for host in HOSTS {
        transfer(guest, host);
        let server = spawn_udp_echo(udp(host));
        let socket = guest.udp(host);
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).expect("it is not zero");
        // The last is sent in fragments.
        for length in [1, 1400, 8000] {
            let datagram = payload::slice(length as u64, length);
            socket.send_to(datagram, server).expect("a route is there");
            let mut buffer = [0; 9000];
            let n = socket.recv(&mut buffer).expect("the echo");
            assert_eq!(&buffer[..n], datagram);
        }
    }
}

/// Every guest pings every other, all at once.
#[track_caller]
fn ping_each_other(guests: &[KernelGuest]) {
    let addresses: Vec<Ipv4Addr> = guests.iter().map(KernelGuest::address).collect();
    thread::scope(|scope| {
        for guest in guests {
            let addresses = &addresses;
            scope.spawn(move || {
                for other in addresses.iter().filter(|other| **other != guest.address()) {
                    guest.ping(*other);
                }
            });
        }
    });
}

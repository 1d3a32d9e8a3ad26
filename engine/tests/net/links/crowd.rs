//! Many guests at once, of all protocols.

use std::thread;

use super::{ping_each_other, transfer};
use crate::support::harness::{Test, tests};
use crate::support::links::kernel::KernelGuest;
use crate::support::links::served::{PROTOCOLS, Served};
use crate::support::world::{HOST4, HOST6, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![sixteen_guests]
}

const GUESTS: u16 = 16;

fn sixteen_guests(world: &World) {
    let served = world.serve(&["--cores", "2", "-v"]);
    let mut guests = join(&served, 1..=GUESTS);
    ping_each_other(&guests);
    transfer_all(&guests);

    // Every second one leaves while the rest is busy, one of them in the middle of a frame.
    let (leaving, staying): (Vec<_>, Vec<_>) = guests
        .into_iter()
        .enumerate()
        .partition(|(index, _)| index % 2 == 1);
    let leaving: Vec<KernelGuest> = leaving.into_iter().map(|(_, guest)| guest).collect();
    guests = staying.into_iter().map(|(_, guest)| guest).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for guest in leaving {
                // The start of a frame that never ends; to those whose packets are frames, a short
                // one.
                let _ = guest.link().send_bytes(&[0, 0, 5, 220, 1, 2, 3]);
                drop(guest);
            }
        });
        transfer_all(&guests);
    });
    eventually("the engine has let the others go", || {
        // Those of datagrams stay until something is sent to them.
        served.said().matches(": it left").count() >= usize::from(GUESTS) / 4
    });

    // New ones come in their place.
    guests.extend(join(&served, GUESTS + 1..=GUESTS + 8));
    ping_each_other(&guests);
    transfer_all(&guests);
    drop(guests);
    let said = served.end();
    assert!(!said.contains("panicked"), "{said}");
}

/// Guests with these numbers, of each protocol in turn.
fn join(served: &Served, numbers: std::ops::RangeInclusive<u16>) -> Vec<KernelGuest> {
    let protocols = PROTOCOLS.into_iter().cycle();
    numbers
        .zip(protocols)
        .map(|(number, protocol)| KernelGuest::new(served.join(protocol, number), 1500))
        .collect()
}

/// All of them move bulk data to the host and back, at once.
fn transfer_all(guests: &[KernelGuest]) {
    thread::scope(|scope| {
        for (number, guest) in guests.iter().enumerate() {
            let host = if number % 2 == 0 {
                HOST4.into()
            } else {
                HOST6.into()
            };
            scope.spawn(move || {
                guest.wait_for_ipv6();
                transfer(guest, host);
            });
        }
    });
}

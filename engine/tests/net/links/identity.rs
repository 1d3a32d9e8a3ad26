//! Who a guest is, and what it keeps: UUIDs of vpnkit's protocol, leases, names.

use std::net::Ipv4Addr;

use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::links::kernel::KernelGuest;
use crate::support::links::raw::RawGuest;
use crate::support::links::vpnkit::{self, Refusal, preferred, try_join, uuid};
use crate::support::resolver::{addresses, question};
use crate::support::world::{GATEWAY4, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_uuid_keeps_its_addresses,
        a_uuid_is_connected_once,
        no_uuid_uses_up_nothing,
        a_preferred_address,
        leases_of_one_s_own_and_their_names,
    ]
}

/// Joins with a command; what the guest gets by DHCP.
#[track_caller]
fn join(world: &crate::support::links::served::Served, command: &[u8]) -> (RawGuest, Ipv4Addr) {
    let joined = try_join(&world.path("vpnkit"), command);
    let (link, interface) = joined.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
    let mac = interface.mac;
    let guest = RawGuest { link, mac };
    let address = guest.lease().address;
    (guest, address)
}

fn a_uuid_keeps_its_addresses(world: &World) {
    let served = world.serve(&[]);
    let first = [1, 2, 3].map(|number| join(&served, &vpnkit::ethernet(uuid(number))));
    let known: Vec<_> = first
        .iter()
        .map(|(guest, address)| (guest.mac, *address))
        .collect();
    for (index, one) in known.iter().enumerate() {
        for other in &known[..index] {
            assert!(one.0 != other.0 && one.1 != other.1, "{known:?}");
        }
    }
    drop(first);
    // In another order.
    for number in [3, 1, 2] {
        let (guest, address) = join(&served, &vpnkit::ethernet(uuid(number)));
        assert_eq!((guest.mac, address), known[number as usize - 1]);
    }
    served.end();
}

fn a_uuid_is_connected_once(world: &World) {
    let served = world.serve(&[]);
    let (guest, address) = join(&served, &vpnkit::ethernet(uuid(1)));
    match try_join(&served.path("vpnkit"), &vpnkit::ethernet(uuid(1))).err() {
        Some(Refusal::Disconnect(text)) => assert!(text.contains("connected"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(guest.prove_link().address, address, "the first stays");
    served.end();
}

/// Far more often than there are addresses.
fn no_uuid_uses_up_nothing(world: &World) {
    let served = world.serve(&[]);
    for _ in 0..600 {
        let (_link, _interface) = vpnkit::join(&served.path("vpnkit"), uuid(0));
    }
    // Also those that ask for an address by DHCP.
    for _ in 0..300 {
        join(&served, &vpnkit::ethernet(uuid(0)));
    }
    let two = [0, 0].map(|number| join(&served, &vpnkit::ethernet(uuid(number))));
    assert_ne!(two[0].1, two[1].1);
    served.end();
}

fn a_preferred_address(world: &World) {
    let served = world.serve(&[]);
    let wish = Ipv4Addr::new(10, 77, 0, 200);
    let path = served.path("vpnkit");
    let (guest, address) = join(&served, &preferred(uuid(1), wish));
    assert_eq!(address, wish);

    let refused = |number, address, text: &str| {
        let refusal = try_join(&path, &preferred(uuid(number), address)).err();
        assert_eq!(refusal, Some(Refusal::Disconnect(text.to_owned())));
    };
    refused(2, wish, "Preferred IP address 10.77.0.200 already used.");
    let out_of_range = "Preferred IP address out of range.";
    for address in [GATEWAY4, [10, 77, 0, 255].into(), [192, 0, 2, 1].into()] {
        refused(2, address, out_of_range);
    }
    drop(guest);
    refused(
        1,
        [10, 77, 0, 201].into(),
        "UUID already assigned to a different IP than the IP requested by the client",
    );
    // Without a wish it gets what it had.
    assert_eq!(join(&served, &vpnkit::ethernet(uuid(1))).1, wish);
    served.end();
}

fn leases_of_one_s_own_and_their_names(world: &World) {
    let by_uuid = String::from_utf8(uuid(5).to_vec()).unwrap();
    let served = world.serve(&[
        "--lease",
        &format!("{by_uuid}=10.77.0.150,database"),
        // That of the guest of number 6.
        "--lease",
        "02:99:00:00:00:06=10.77.0.160,web",
    ]);
    let database = served.join("vpnkit", 5);
    assert_eq!(database.lease().address, Ipv4Addr::new(10, 77, 0, 150));
    let web = served.join("qemu", 6);
    assert_eq!(web.lease().address, Ipv4Addr::new(10, 77, 0, 160));

    let asking = KernelGuest::new(served.join("bess", 7), 1500);
    let socket = asking.udp(GATEWAY4.into());
    let patience = Some(std::time::Duration::from_secs(30));
    socket.set_read_timeout(patience).unwrap();
    for (id, (name, last)) in [("database", 150), ("web", 160), ("WEB", 160)]
        .into_iter()
        .enumerate()
    {
        socket
            .send_to(&question(id as u16, name), (GATEWAY4, 53))
            .unwrap();
        let mut answer = [0; 1500];
        let n = socket.recv(&mut answer).expect("the gateway answers");
        let wanted = Ipv4Addr::new(10, 77, 0, last);
        assert_eq!(addresses(&answer[..n], id as u16, 0), [wanted], "{name}");
    }
    drop(asking);
    served.end();
}

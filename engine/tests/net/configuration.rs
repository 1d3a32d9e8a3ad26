//! What `towpath run` sets up in the guest before its command begins.

use std::fs;

use crate::support::command::{end, run};
use crate::support::harness::{Test, tests};
use crate::support::namespace::ip;
use crate::support::world::World;

pub(crate) fn tests() -> Vec<Test> {
    tests![
        addresses_and_routes,
        mtu_and_queue_length,
        resolv_conf_names_the_gateway,
        subnet_of_the_host_is_avoided,
        interface_name,
    ]
}

fn addresses_and_routes(world: &World) {
    let guest = world.guest(&[]);
    let (addresses, routes, routes6) = guest.enter(|| {
        (
            ip("-o addr show"),
            ip("route show default"),
            ip("-6 route show default"),
        )
    });
    assert!(addresses.contains("10.77.0.3/24"), "{addresses}");
    assert!(addresses.contains("fd77::3/64"), "{addresses}");
    assert!(
        !addresses.contains("tentative"),
        "usable at once: {addresses}"
    );
    assert!(
        addresses.contains("127.0.0.1/8"),
        "the guest's own loopback is up: {addresses}"
    );
    assert!(routes.contains("via 10.77.0.1"), "{routes}");
    assert!(
        routes6.contains("via fd77::1") || routes6.contains("via fe80::"),
        "{routes6}"
    );
}

/// A full window of 4 MiB must fit into the interface's queue.
fn mtu_and_queue_length(world: &World) {
    for mtu in [1280_u32, 1500, 9000, 65_520] {
        let guest = world.guest(&["--mtu", &mtu.to_string()]);
        let link = guest.enter(|| ip("link show tap0"));
        assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
        let queue = link
            .split_whitespace()
            .skip_while(|word| *word != "qlen")
            .nth(1);
        let queue: u32 = queue.expect("a queue length").parse().unwrap();
        assert!(queue >= (4 << 20) / mtu, "{link}");
    }
}

fn resolv_conf_names_the_gateway(world: &World) {
    let before = fs::read("/etc/resolv.conf").ok();
    let options = ["--search", "lan.test", "--search", "corp.test"];
    let ended = run(world, &options, &["cat", "/etc/resolv.conf"]);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(lines.contains(&"nameserver 10.77.0.1"), "{lines:?}");
    assert!(lines.contains(&"nameserver fd77::1"), "{lines:?}");
    assert!(lines.contains(&"search lan.test corp.test"), "{lines:?}");
    assert_eq!(
        fs::read("/etc/resolv.conf").ok(),
        before,
        "the host's own is as it was"
    );
}

/// Without `--subnet`, and with the first choice taken by the host, another is chosen.
fn subnet_of_the_host_is_avoided(world: &World) {
    let address = || {
        let mut command = world.towpath();
        command.args(["run", "--", "ip", "-4", "-o", "addr", "show", "tap0"]);
        let ended = end(world.spawn(command));
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let word = ended
            .stdout
            .split_whitespace()
            .skip_while(|word| *word != "inet")
            .nth(1);
        let (address, _prefix) = word
            .expect("an address")
            .split_once('/')
            .expect("and a prefix");
        address.parse::<std::net::Ipv4Addr>().unwrap()
    };
    let first = address();
    ip(&format!("route add {first}/32 dev hole"));
    assert_ne!(address().octets()[..3], first.octets()[..3]);
}

fn interface_name(world: &World) {
    let ended = run(world, &["--ifname", "eth7"], &["cat", "/proc/net/dev"]);
    assert!(ended.stdout.contains("eth7:"), "{}", ended.stdout);
}

//! A guest that configures IPv4 itself, by DHCP, with a client that people use.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::frames::neighbour_mac;
use crate::support::guest::{Attached, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::{Namespace, ip};
use crate::support::needs::Need;
use crate::support::process::Process;
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{GATEWAY4, HOST4, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    let tests = tests![lease_and_use, renewal, release];
    tests
        .into_iter()
        .map(|test| test.needs(Need::Program("busybox")))
        .collect()
}

/// A namespace with an interface that has no address yet.
fn attach(world: &World) -> (Namespace, Attached) {
    let net = Namespace::new();
    let path = net.path();
    let path = path.to_str().unwrap();
    let engine = world.attach(&[
        "--netns",
        path,
        "--no-configure",
        "--mtu",
        "4000",
        "--domain",
        "home.test",
        "--search",
        "lan.test",
        "--search",
        "corp.test",
        "-v",
    ]);
    net.enter(|| ip("link set tap0 up"));
    (net, engine)
}

/// A running `udhcpc`, whose script writes down what it is told.
struct Client {
    process: Process,
    events: TempDir,
}

impl Client {
    fn start(world: &World, net: &Namespace, options: &[&str]) -> Self {
        let events = TempDir::new().unwrap();
        let script = events.path().join("script");
        let directory = events.path().display();
        // Renamed when written whole, so that a file that is there can be read.
        let text = format!(
            "#!/bin/sh\nenv > '{directory}/part'\nmv '{directory}/part' '{directory}/'\"$1\"\n"
        );
        write_executable(&script, &text);
        let mut command = world.command_in(net, "busybox");
        command
            .args(["udhcpc", "-f", "-i", "tap0", "-s"])
            .arg(&script);
        command
            .args(["-O", "mtu", "-O", "search", "-O", "lease"])
            .args(options);
        Self {
            process: world.spawn(command),
            events,
        }
    }

    /// What the client is told with the next event of that name.
    #[track_caller]
    fn event(&self, name: &str) -> HashMap<String, String> {
        let file: PathBuf = self.events.path().join(name);
        eventually(&format!("the client's event '{name}'"), || file.exists());
        let text = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

/// Another process writes it: a descriptor of ours that is open for writing could be inherited by
/// what another test starts just then, and the kernel runs no file that is being written.
fn write_executable(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]);
    let status = shell.arg(path).arg(text).status().unwrap();
    assert!(status.success());
}

fn lease_and_use(world: &World) {
    let (net, engine) = attach(world);
    let client = Client::start(world, &net, &[]);
    let told = client.event("bound");
    let value = |name: &str| told.get(name).map_or("", String::as_str);
    assert!(value("ip").starts_with("10.77.0."), "{told:?}");
    assert_eq!(value("subnet"), "255.255.255.0");
    assert_eq!(value("router"), "10.77.0.1");
    assert_eq!(value("dns"), "10.77.0.1");
    assert_eq!(value("serverid"), "10.77.0.1");
    assert_eq!(value("mtu"), "4000");
    assert_eq!(value("domain"), "home.test");
    assert_eq!(value("search"), "lan.test corp.test");
    assert!(value("lease").parse::<u32>().unwrap() >= 60, "{told:?}");

    let host_number: u8 = value("ip").rsplit('.').next().unwrap().parse().unwrap();
    assert!(
        (3..=254).contains(&host_number),
        "neither the gateway's nor the alias's"
    );
    net.enter(|| {
        ip(&format!("addr add {}/24 dev tap0", value("ip")));
        ip("route add default via 10.77.0.1");
    });
    let echo = spawn_tcp_echo(listen(HOST4));
    round_trip(&net.connect(echo), b"hello from a leased address");
    drop(client);
    engine.end();
}

fn renewal(world: &World) {
    let (net, engine) = attach(world);
    let client = Client::start(world, &net, &[]);
    let first = client.event("bound");
    // A renewal is sent to the server's address from the leased one (RFC 2131 §4.4.5).
    net.enter(|| ip(&format!("addr add {}/24 dev tap0", first["ip"])));
    client.process.signal(Signal::USR1);
    let second = client.event("renew");
    assert_eq!(first["ip"], second["ip"]);
    drop(client);
    // The same client is given the same address when it comes back.
    let client = Client::start(world, &net, &[]);
    assert_eq!(client.event("bound")["ip"], first["ip"]);
    drop(client);
    engine.end();
}

fn release(world: &World) {
    const STRANGER: [&str; 2] = ["-x", "0x3d:00737472616e676572"];
    let (net, engine) = attach(world);
    let client = Client::start(world, &net, &[]);
    let leased = client.event("bound")["ip"].clone();
    let request = |options: &[&str]| {
        let stranger = Client::start(world, &net, options);
        stranger.event("bound")["ip"].clone()
    };
    let wish = [&STRANGER[..], &["-C", "-r", &leased]].concat();
    assert_ne!(
        request(&wish),
        leased,
        "what is leased is not given to another"
    );
    // The deconfig event of the client's start has come before it was bound.
    client.event("deconfig");
    net.enter(|| ip(&format!("addr add {leased}/24 dev tap0")));
    // The release must not wait for ARP, lest the next client's questions overtake it.
    neighbour_mac(&net, GATEWAY4.into());
    client.process.signal(Signal::USR2);
    client.event("deconfig");
    net.enter(|| ip("addr flush dev tap0"));
    let other = ["-x", "0x3d:006f74686572", "-C", "-r", &leased];
    assert_eq!(request(&other), leased, "what is released may be asked for");
    drop(client);
    engine.end();
}

//! `towpath attach`: a namespace that exists, supervised from outside.

use std::fs;

use rustix::process::Signal;

use crate::support::guest::{Attached, GuestSockets};
use crate::support::harness::{Test, tests};
use crate::support::namespace::{Namespace, ip};
use crate::support::needs::Need;
use crate::support::reexec;
use crate::support::servers::{listen, round_trip, spawn_tcp_echo, spawn_udp_echo, udp};
use crate::support::world::{HOSTS, SUBNETS, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests![
        by_path,
        by_pid,
        by_name,
        ends_with_its_exit_fd,
        ends_by_a_signal,
        ends_when_its_target_dies,
        ends_when_its_tap_is_deleted,
        pid_file,
        tap_that_exists,
        tap_that_exists_with_many_queues,
        tap_that_exists_on_two_cores,
        killed_engine_leaves_no_tap,
        two_namespaces_at_once,
        errors,
    ];
    tests.extend(
        tests![of_another_user_namespace]
            .into_iter()
            .map(|t| t.needs(Need::Program("unshare"))),
    );
    tests
}

fn attach_to(world: &World, net: &Namespace, options: &[&str]) -> Attached {
    let path = net.path();
    let mut all = vec!["--netns", path.to_str().unwrap()];
    all.extend(options);
    world.attach(&all)
}

/// Traffic of both kinds and versions flows.
fn assert_works(net: &Namespace) {
    for host in HOSTS {
        round_trip(&net.connect(spawn_tcp_echo(listen(host))), b"hello");
        let server = spawn_udp_echo(udp(host));
        let socket = net.udp(host);
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(30)))
            .unwrap();
        socket.send_to(b"hello", server).unwrap();
        assert_eq!(socket.recv(&mut [0; 10]).expect("the echo"), 5);
    }
}

fn by_path(world: &World) {
    let net = Namespace::new();
    let engine = attach_to(world, &net, &[]);
    assert_works(&net);
    engine.end();
}

fn by_pid(world: &World) {
    let net = Namespace::new();
    let mut command = world.command_in(&net, "sleep");
    command.arg("1000");
    let target = world.spawn(command);
    wait_until_inside(&net, target.id());
    let engine = world.attach(&["--pid", &target.id().to_string()]);
    assert_works(&net);
    engine.end();
}

/// A process enters the namespace itself after it was started.
fn wait_until_inside(net: &Namespace, pid: u32) {
    let inside = fs::read_link(net.path()).unwrap();
    eventually("the process has entered its namespace", || {
        let now = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        now == inside && name.trim() == "sleep"
    });
}

/// `ip netns add NAME` makes a file of that name in `/run/netns`.
fn by_name(world: &World) {
    world.mount_empty("/run");
    fs::create_dir("/run/netns").unwrap();
    fs::write("/run/netns/blue", "").unwrap();
    let net = Namespace::new();
    world.bind_over(net.path().to_str().unwrap(), "/run/netns/blue");
    let engine = world.attach(&["--netns", "blue"]);
    assert_works(&net);
    engine.end();
}

fn ends_with_its_exit_fd(world: &World) {
    let net = Namespace::new();
    let engine = attach_to(world, &net, &[]);
    assert!(net.has_interface("tap0"));
    engine.end();
    assert!(
        !net.has_interface("tap0"),
        "the namespace is left as it was found"
    );
    assert!(!net.enter(|| ip("route show")).contains("10.77.0"));
    // And can be attached to again.
    let engine = attach_to(world, &net, &[]);
    assert_works(&net);
    engine.end();
}

fn ends_by_a_signal(world: &World) {
    let net = Namespace::new();
    attach_to(world, &net, &[]).terminate();
    assert!(!net.has_interface("tap0"));
}

fn ends_when_its_target_dies(world: &World) {
    let net = Namespace::new();
    let mut command = world.command_in(&net, "sleep");
    command.arg("1000");
    let mut target = world.spawn(command);
    wait_until_inside(&net, target.id());
    let mut engine = world.attach(&["--pid", &target.id().to_string()]);
    assert!(engine.engine.is_running());
    target.signal(Signal::KILL);
    target.wait();
    assert_eq!(engine.engine.wait().code(), Some(0));
}

fn ends_when_its_tap_is_deleted(world: &World) {
    let net = Namespace::new();
    let mut engine = attach_to(world, &net, &[]);
    net.enter(|| ip("link del tap0"));
    let status = engine.engine.wait();
    assert!(status.code().is_some(), "an orderly end: {status}");
}

fn pid_file(world: &World) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.pid");
    fs::write(&path, "1\n").unwrap();
    let net = Namespace::new();
    let engine = attach_to(world, &net, &["--pid-file", path.to_str().unwrap()]);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.trim(),
        engine.engine.id().to_string(),
        "a stale file is overwritten"
    );
    engine.end();
    assert!(!path.exists());
}

fn tap_that_exists(world: &World) {
    existing_tap(world, "", &[]);
}

fn tap_that_exists_with_many_queues(world: &World) {
    existing_tap(world, "multi_queue", &[]);
    existing_tap(world, "multi_queue vnet_hdr", &["--cores", "2"]);
}

/// More cores than the TAP has queues: frames are handed over inside.
fn tap_that_exists_on_two_cores(world: &World) {
    existing_tap(world, "", &["--cores", "2"]);
}

fn existing_tap(world: &World, flags: &str, options: &[&str]) {
    let net = Namespace::new();
    net.enter(|| ip(&format!("tuntap add dev box0 mode tap {flags}")));
    for _ in 0..2 {
        let options = [&["--ifname", "box0"], options].concat();
        let engine = attach_to(world, &net, &options);
        assert_works(&net);
        engine.end();
        assert!(
            net.has_interface("box0"),
            "it was there before, so it stays"
        );
        // What the first run configured is in the way of no second one.
    }
}

fn killed_engine_leaves_no_tap(world: &World) {
    let net = Namespace::new();
    let mut engine = attach_to(world, &net, &[]);
    engine.engine.signal(Signal::KILL);
    engine.engine.wait();
    eventually("no TAP is left", || !net.has_interface("tap0"));
    eventually("no process is left", || world.processes().is_empty());
    let engine = attach_to(world, &net, &[]);
    assert_works(&net);
    engine.end();
}

/// Two engines side by side, with the same addresses: neither knows of the other.
fn two_namespaces_at_once(world: &World) {
    let nets = [Namespace::new(), Namespace::new()];
    let engines = nets.each_ref().map(|net| attach_to(world, net, &[]));
    nets.iter().for_each(assert_works);
    let [first, second] = engines;
    first.end();
    assert_works(&nets[1]);
    second.end();
}

/// The namespace of a rootless container: owned by a user namespace that must be joined first.
fn of_another_user_namespace(world: &World) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = world.command("unshare");
    let own = std::env::current_exe().unwrap();
    command
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(own)
        .arg(reexec::HOLD);
    let target = world.spawn_with(command, std::os::fd::OwnedFd::from(theirs), None);
    let net = crate::support::guest::receive_namespace(&ours).expect("the target started");
    let engine = world.attach(&["--pid", &target.id().to_string()]);
    net.enter(|| ip("link set lo up"));
    assert_works(&net);
    engine.end();
    drop(ours);
}

fn errors(world: &World) {
    let cases: [(&[&str], &str); 4] = [
        (&["--netns", "/no/such/namespace"], "/no/such/namespace"),
        (&["--netns", "/dev/null"], "/dev/null"),
        (&["--pid", "999999999"], "999999999"),
        (&["--netns", "no-such-name"], "no-such-name"),
    ];
    for (options, named) in cases {
        let mut command = world.towpath();
        command.arg("attach").args(SUBNETS).args(options);
        let mut process = world.spawn(command);
        let code = process.wait().code();
        let said = process.stderr();
        assert!(matches!(code, Some(1 | 2)), "{options:?}: {code:?}: {said}");
        assert!(said.contains(named), "{options:?}: {said}");
    }
}

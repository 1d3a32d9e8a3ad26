//! What is left when a run has ended, well or badly: nothing.

use std::fs;

use rustix::process::Signal;

use crate::support::command::run;
use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{HOST4, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        stragglers_are_killed,
        orphans_are_reaped,
        killed_engine_leaves_nothing,
        killed_init_ends_the_run,
        killed_engine_does_not_hinder_the_next,
    ]
}

fn stragglers_are_killed(world: &World) {
    let script = "sleep 1000 & setsid sleep 1000 & (trap '' HUP TERM INT; sleep 1000) & exit 3";
    let ended = run(world, &[], &["sh", "-c", script]);
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert_eq!(world.processes(), [], "they are gone when run has ended");
}

/// Processes whose parents ended do not stay as zombies while the command runs.
fn orphans_are_reaped(world: &World) {
    let script = "for i in 1 2 3 4 5; do (sleep 0 &) ; done; \
        while grep -qs '^State:.*zombie' /proc/[0-9]*/status; do sleep 0.05; done; echo clean";
    let ended = run(world, &[], &["sh", "-c", script]);
    assert_eq!(ended.stdout, "clean\n", "{}", ended.stderr);
}

fn killed_engine_leaves_nothing(world: &World) {
    let mut guest = world.guest(&[]);
    round_trip(&guest.connect(spawn_tcp_echo(listen(HOST4))), b"hello");
    assert!(guest.net.has_interface("tap0"));
    guest.engine.signal(Signal::KILL);
    guest.engine.wait();
    eventually("no process is left", || world.processes().is_empty());
    // Only this test keeps the namespace itself alive, to look into it.
    eventually("no TAP is left", || !guest.net.has_interface("tap0"));
}

/// Whatever of its processes dies, nothing hangs and nothing stays.
fn killed_init_ends_the_run(world: &World) {
    let mut guest = world.guest(&[]);
    let engine = guest.engine.id();
    for pid in world.processes().into_iter().filter(|&pid| pid != engine) {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        // Some die with others.
        let _ = rustix::process::kill_process(pid.expect("a number above 0"), Signal::KILL);
    }
    let status = guest.engine.wait();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
}

fn killed_engine_does_not_hinder_the_next(world: &World) {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let options = ["--pid-file", pid_file.to_str().unwrap()];
    let mut guest = world.guest(&options);
    guest.engine.signal(Signal::KILL);
    guest.engine.wait();
    drop(guest);
    let guest = world.guest(&options);
    eventually("the pid file names the new engine", || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == guest.engine.id().to_string())
    });
    guest.end();
    assert!(!pid_file.exists(), "removed at an orderly end");
}

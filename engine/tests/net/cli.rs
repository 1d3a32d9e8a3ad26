//! What needs no guest of the test's own: the demonstration, the doctor, the help.

use std::process::ExitStatus;

use crate::support::harness::{Test, tests};
use crate::support::world::World;

pub(crate) fn tests() -> Vec<Test> {
    tests![demo, doctor, help_and_version, unknown_command]
}

fn towpath(world: &World, arguments: &[&str]) -> (ExitStatus, String, String) {
    let mut command = world.towpath();
    command.args(arguments);
    let mut process = world.spawn(command);
    let status = process.wait();
    let stdout = String::from_utf8(process.stdout()).expect("text");
    (status, stdout, process.stderr())
}

fn demo(world: &World) {
    let (status, stdout, stderr) = towpath(world, &["demo"]);
    assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
    for part in ["name", "ping", "round trip", "upload", "download", "Gbit/s"] {
        assert!(stdout.contains(part), "'{part}' is missing: {stdout}");
    }
}

fn doctor(world: &World) {
    let (status, stdout, stderr) = towpath(world, &["doctor"]);
    let verdicts: Vec<_> = stdout
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verdicts.len() >= 7, "{stdout}{stderr}");
    let known = ["ok", "degraded", "missing"];
    assert!(
        verdicts.iter().all(|verdict| known.contains(verdict)),
        "{stdout}"
    );
    // These tests run, so what a run needs is there.
    assert!(!verdicts.contains(&"missing"), "{stdout}");
    assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
}

fn help_and_version(world: &World) {
    for command in ["run", "attach", "doctor", "demo"] {
        let (status, stdout, _) = towpath(world, &["--help"]);
        assert_eq!(status.code(), Some(0));
        assert!(stdout.contains(command), "{stdout}");
        let (status, stdout, _) = towpath(world, &[command, "--help"]);
        assert_eq!(status.code(), Some(0));
        assert!(stdout.contains("Usage"), "{stdout}");
    }
    let (status, stdout, _) = towpath(world, &["--version"]);
    assert_eq!(status.code(), Some(0));
    assert!(stdout.starts_with("towpath "), "{stdout}");
}

fn unknown_command(world: &World) {
    let (status, stdout, stderr) = towpath(world, &["rum"]);
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("rum"), "{stderr}");
    assert_eq!(stdout, "");
}

//! The comparison as a person runs it: the real program, with the kernel's own ways as peers. Needs
//! user namespaces and `ip`, as the comparison does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long something that must happen may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

fn compare(out: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towpath-perf"));
    command.args([
        "compare", "--mtu", "1500", "--rounds", "1", "--cases", "tcp-up", "--out",
    ]);
    command
        .arg(out)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn limits_are_measured_and_a_missing_program_is_named() {
    let out = directory("measured");
    let peers = [
        "--peers",
        "loopback,veth,towpath",
        "--towpath",
        "/nowhere/towpath",
    ];
    let status = compare(&out, &peers)
        .args(["--seconds", "0.2"])
        .status()
        .unwrap();
    assert!(status.success());
    let json = fs::read_to_string(out.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&json).unwrap();
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert!(
            run["measured"]["client"]["gbit_per_s"].as_f64().unwrap() > 0.0,
            "{run}"
        );
    }
    let missing = results["peers"][2]["missing"].as_str().unwrap();
    assert!(missing.starts_with("/nowhere/towpath: "), "{missing}");
    assert!(
        fs::read_to_string(out.join("table.txt"))
            .unwrap()
            .contains("towpath: missing")
    );
}

#[test]
fn an_engine_that_fails_is_a_failed_run_with_its_words() {
    let out = directory("failed");
    let peers = ["--peers", "towpath", "--towpath", "/bin/ls"];
    let status = compare(&out, &peers)
        .args(["--seconds", "0.2"])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let json = fs::read_to_string(out.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&json).unwrap();
    let failed = results["runs"][0]["failed"].as_str().unwrap();
    assert!(failed.starts_with("towpath: "), "{failed}");
}

#[test]
fn an_unknown_congestion_control_is_refused_before_any_run() {
    let out = directory("congestion");
    let mut command = compare(&out, &["--peers", "veth", "--congestion", "hope"]);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("\"hope\"") && text.contains("reno"), "{text}");
    assert!(!out.join("results.json").exists());
}

#[test]
fn nothing_runs_on_after_the_harness_was_killed() {
    let mut outer = compare(
        &directory("killed"),
        &["--peers", "veth", "--seconds", "600"],
    )
    .spawn()
    .unwrap();
    let grown = wait_until(|| descendants(outer.id()).len() >= 3);
    let all = descendants(outer.id());
    outer.kill().unwrap();
    outer.wait().unwrap();
    assert!(
        grown,
        "inner process, server and client were not all started: {all:?}"
    );
    let gone = |process: &(u32, String)| start_time(process.0).as_ref() != Some(&process.1);
    assert!(wait_until(|| all.iter().all(gone)), "still there: {all:?}");
}

/// All processes below `root`, each with its start time, which tells it from a later one of that id.
fn descendants(root: u32) -> Vec<(u32, String)> {
    let children = fs::read_to_string(format!("/proc/{root}/task/{root}/children"));
    let mut all = Vec::new();
    for child in children.unwrap_or_default().split_whitespace() {
        let Ok(pid) = child.parse() else { continue };
        all.extend(start_time(pid).map(|time| (pid, time)));
        all.extend(descendants(pid));
    }
    all
}

/// Field 22 of `/proc/PID/stat`; `None` when there is no such process.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)
        .map(str::to_owned)
}

fn wait_until(mut met: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !met() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

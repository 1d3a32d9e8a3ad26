//! The comparison as a person runs it: the real program, with the kernel's own ways as peers. Needs
//! user namespaces and `ip`, as the comparison does.

use std::collections::HashSet;
use std::fs;
use std::hint;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const PROGRAM: &str = env!("CARGO_BIN_EXE_towpath-perf");

/// How long something that must happen may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

fn compare(out: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
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
fn a_run_is_made_again_while_others_use_the_machine() {
    let out = directory("busy");
    let ended = AtomicBool::new(false);
    let status = thread::scope(|scope| {
        // Whoever else is here: as many as there are cores.
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            });
        }
        let limits = ["--other-load", "5", "--attempts", "2"];
        let status = compare(&out, &["--peers", "loopback", "--seconds", "0.5"])
            .args(limits)
            .status();
        ended.store(true, Ordering::Relaxed);
        status
    });
    assert!(status.unwrap().success());
    let json = fs::read_to_string(out.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&json).unwrap();
    let run = &results["runs"][0];
    assert_eq!(run["attempts"], 2, "{run}");
    assert!(
        run["measured"]["other_load"].as_f64().unwrap() > 0.05,
        "{run}"
    );
    let table = fs::read_to_string(out.join("table.txt")).unwrap();
    let told = "Runs made again because others used the machine meanwhile: 1.";
    assert!(table.contains(told), "{table}");
}

#[test]
fn a_case_without_a_load_is_the_time_of_a_start() {
    let out = directory("start");
    let status = Command::new(PROGRAM)
        .args(["compare", "--quick", "--cases", "start", "--peers", "veth"])
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    let json = fs::read_to_string(out.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&json).unwrap();
    let metric = &results["runs"][0]["measured"]["metrics"][0];
    assert_eq!(metric["name"], "start-up");
    assert!(metric["value"].as_f64().unwrap() > 0.0, "{metric}");
    // What the generator reaches by itself stands in every report.
    let reached = results["generator"].as_array().unwrap();
    assert_eq!(reached.len(), 4);
    for one in reached {
        assert!(one["metric"]["value"].as_f64().unwrap() > 0.0, "{one}");
    }
}

#[test]
fn nothing_is_left_after_the_harness_was_killed() {
    nothing_is_left_after("killed", |outer| {
        kill_process(Pid::from_child(outer), Signal::KILL).unwrap();
    });
}

#[test]
fn nothing_is_left_after_ctrl_c() {
    // A terminal sends it to the whole process group.
    nothing_is_left_after("ctrl-c", |outer| {
        kill_process_group(Pid::from_child(outer), Signal::INT).unwrap();
    });
}

/// Starts a long run and ends it: no process may be left, and no namespace, which at least one
/// process or mount holds as long as it is there.
fn nothing_is_left_after(name: &str, end: impl FnOnce(&Child)) {
    let long = ["--peers", "veth", "--seconds", "600"];
    let mut outer = compare(&directory(name), &long)
        .process_group(0)
        .spawn()
        .unwrap();
    let is_client = |process: &(u32, String)| {
        let words = fs::read_to_string(format!("/proc/{}/cmdline", process.0)).unwrap_or_default();
        words.split('\0').any(|word| word == "600")
            && words.split('\0').any(|word| word == "client")
    };
    let begun = wait_until(|| descendants(outer.id()).iter().any(is_client));
    let all = descendants(outer.id());
    let namespaces: HashSet<_> = all.iter().filter_map(|one| namespace(one.0)).collect();
    let ended_at = uptime_ticks();
    end(&outer);
    outer.wait().unwrap();
    assert!(begun, "the load did not begin: {all:?}");
    assert_eq!(namespaces.len(), 3, "sandbox, host and guest: {all:?}");
    let gone = |process: &(u32, String)| start_time(process.0).as_ref() != Some(&process.1);
    assert!(wait_until(|| all.iter().all(gone)), "still there: {all:?}");
    // A namespace's number may be given to a new one at once: what began later is another's.
    let held = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let is_old = start_time(pid)?.parse::<u64>().ok()? <= ended_at;
            namespace(pid).filter(|one| is_old && namespaces.contains(one))
        });
    assert_eq!(held.count(), 0);
}

/// Ticks since the machine started, as `/proc/PID/stat` counts them.
fn uptime_ticks() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    (seconds * rustix::param::clock_ticks_per_second() as f64) as u64
}

/// The network namespace of a process.
fn namespace(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
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

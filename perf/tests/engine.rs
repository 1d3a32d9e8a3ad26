//! `profile`, `scale` and `soak` as a person runs them, with the engine that was built beside the
//! tests. Where none was built, or the machine lets nobody look, a test says so and shows less.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_towpath-perf");

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The engine in this or the other build of the same target directory.
fn engine() -> Option<PathBuf> {
    let own = Path::new(PROGRAM).parent().unwrap();
    let target = own.parent().unwrap();
    let found = [own.to_owned(), target.join("release"), target.join("debug")]
        .into_iter()
        .map(|directory| directory.join("towpath"))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("NOT TESTED: no towpath is built; cargo build -p towpath makes one");
    }
    found
}

fn run(command: &str, out: &Path, engine: &Path, args: &[&str]) -> (Output, Value) {
    let mut line = Command::new(PROGRAM);
    line.arg(command)
        .arg("--out")
        .arg(out)
        .arg("--towpath")
        .arg(engine);
    let file = out.join(format!("{command}.json"));
    // What an earlier run of the tests left.
    let _ = fs::remove_file(&file);
    let output = line.args(args).output().unwrap();
    let json = fs::read_to_string(file);
    let json = json.map_or(Value::Null, |json| serde_json::from_str(&json).unwrap());
    (output, json)
}

#[test]
fn a_profile_counts_frames_and_says_what_it_could_not_see() {
    let Some(engine) = engine() else { return };
    let out = directory("profile");
    let (output, profile) = run("profile", &out, &engine, &["tcp-up", "--seconds", "0.5"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let frames = &profile["alone"]["frames"];
    assert!(frames["up"].as_u64().unwrap() > 0, "{frames}");
    assert!(
        frames["up_bytes"].as_u64() > frames["down_bytes"].as_u64(),
        "{frames}"
    );
    for what in ["samples", "calls", "allocations", "replay"] {
        if let Some(why) = profile[what]["missing"].as_str() {
            eprintln!("NOT TESTED: {what}: {why}");
            assert!(!why.is_empty());
        } else {
            assert!(profile[what]["seen"]["window"].is_object(), "{what}");
        }
    }
    if let Some(threads) = profile["samples"]["seen"]["seen"]["threads"].as_array() {
        let graph = threads[0]["graph"].as_str().unwrap();
        let graph = fs::read_to_string(out.join(graph)).unwrap();
        assert!(
            graph.contains("run_core"),
            "the engine's loop is in no stack"
        );
    }
    if let Some(calls) = profile["calls"]["seen"]["seen"].as_object() {
        let bytes = calls["uring_bytes"].as_u64().unwrap();
        let up = profile["calls"]["seen"]["window"]["frames"]["up_bytes"]
            .as_u64()
            .unwrap();
        // Each byte comes in from the TAP and goes out to a socket.
        assert!(
            bytes > up || calls["lost"] == true,
            "{bytes} bytes copied for {up} bytes of frames"
        );
    }
}

#[test]
fn scaling_has_a_row_for_each_number_of_cores() {
    let Some(engine) = engine() else { return };
    let args = [
        "--cores",
        "2",
        "--rounds",
        "1",
        "--seconds",
        "0.3",
        "--cases",
        "tcp-connect",
    ];
    let (output, scaling) = run("scale", &directory("scale"), &engine, &args);
    let (said, text) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    assert!(output.status.success(), "{said}");
    let rows = scaling["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["speed_up"], 1.0);
    assert_eq!(
        rows[0]["lanes"]["handed_over"], 0,
        "one core has nobody to hand frames to"
    );
    assert!(rows[1]["lanes"]["frames_in"].as_u64().unwrap() > 0);
    let apart = scaling["apart"].as_bool().unwrap();
    assert_eq!(
        text.contains("NOT A MEASUREMENT OF SCALING"),
        !apart,
        "{text}"
    );
}

#[test]
fn a_soak_ends_with_a_verdict_that_its_exit_code_tells() {
    let Some(engine) = engine() else { return };
    // Too short to settle: UDP mappings live longer, so something is not back.
    let args = ["--minutes", "0.05", "--every", "1", "--settle", "1"];
    let (output, soak) = run("soak", &directory("soak"), &engine, &args);
    let text = String::from_utf8_lossy(&output.stdout);
    let wrong = soak["wrong"].as_array().unwrap();
    assert_eq!(output.status.success(), wrong.is_empty(), "{text}");
    assert!(text.contains("sockets did not return"), "{text}");
    let series = soak["series"].as_array().unwrap();
    for phase in ["fresh", "warm-up", "rest", "load", "settle"] {
        let found = series.iter().any(|sample| sample["phase"] == phase);
        assert!(found, "no sample of {phase}");
    }
    assert!(
        series
            .iter()
            .all(|sample| sample["memory_bytes"].as_u64().unwrap() > 0)
    );
    for (load, count) in soak["loads"].as_object().unwrap() {
        assert_eq!(count["failed"], 0, "{load}: {count}");
    }
}

#[test]
fn what_has_no_process_is_refused_in_a_sentence() {
    for (command, args) in [
        ("profile", &["tcp-up", "--peer", "veth"][..]),
        ("soak", &["--peer", "loopback"]),
    ] {
        let (output, json) = run(command, &directory("refused"), Path::new("/nowhere"), args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("has no process"), "{text}");
        assert_eq!(json, Value::Null);
    }
}

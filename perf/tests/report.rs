//! The page and the comparison with an earlier one, as a person gets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_towpath-perf");

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

/// Compares the kernel's own ways, quickly, and returns where the results are.
fn compare(name: &str, more: &[&str]) -> (Output, PathBuf) {
    let out = directory(name);
    let out_text = out.to_string_lossy().into_owned();
    let args = [
        "compare",
        "--peers",
        "veth,loopback",
        "--cases",
        "tcp-up,tcp-rr",
        "--mtu",
        "1500",
        "--rounds",
        "2",
        "--seconds",
        "0.2",
        "--out",
        &out_text,
    ];
    (run(&[&args, more].concat()), out)
}

#[test]
fn a_comparison_leaves_a_page_that_can_be_made_again() {
    let (output, out) = compare("page", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    for part in [
        "<svg",
        "tcp-up",
        "loopback",
        "latency by percentile",
        "Read with care",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    let results = out.join("results.json");
    let again = out.join("again.html");
    let (results, again) = (results.to_str().unwrap(), again.to_str().unwrap());
    let output = run(&["report", results, "--against", results, "--out", again]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("\n0 of ") && !text.contains("NOT THE SAME"),
        "{text}"
    );
    assert!(fs::read_to_string(again).unwrap().contains("What changed"));
}

#[test]
fn a_wrong_file_to_compare_with_is_told_before_anything_runs() {
    let foreign = directory("foreign.json");
    fs::write(&foreign, "{\"a\": 1}").unwrap();
    for (file, why) in [
        ("/nowhere/old.json", "read /nowhere/old.json"),
        (foreign.to_str().unwrap(), "does not hold the results"),
    ] {
        let (output, out) = compare("wrong-against", &["--against", file]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(why), "{text}");
        assert!(!out.join("results.json").exists());
    }
}

//! Described peers and the bridge, by a comparison as a person runs it: a second bridge takes the
//! engine's place, so that all frames cross two TAPs, two bridges and a socket. Needs user namespaces,
//! `/dev/net/tun` and `ip`, as the comparison does.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_towpath-perf");

/// Compares these peers in these cases, once each and verified; the output and the results.
fn compare(name: &str, cases: &str, peers: &[String]) -> (Output, serde_json::Value) {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut command = Command::new(PROGRAM);
    command.args(["compare", "--rounds", "1", "--seconds", "0.2", "--verify"]);
    command.args(["--mtu", "1500,65520", "--cases", cases]);
    command.args(["--peers", "loopback"]).arg("--out").arg(&out);
    for peer in peers {
        command.args(["--peer", peer]);
    }
    let output = command.output().unwrap();
    let json = fs::read_to_string(out.join("results.json")).unwrap_or_else(|_| "null".to_owned());
    (output, serde_json::from_str(&json).unwrap())
}

/// A bridge in the engine's place.
fn mirror(kind: &str) -> String {
    format!(
        "name=mirror-{kind},kind={kind},addr=198.18.3.2/24,gw=198.18.3.1,cmd={PROGRAM} bridge \
         --kind {kind} --listen --socket {{sock}} --mtu {{mtu}} --address 198.18.3.1/24"
    )
}

#[test]
fn both_protocols_carry_every_byte_both_ways() {
    let peers = [mirror("qemu"), mirror("vpnkit")];
    let (output, results) = compare("mirrors", "tcp-up,tcp-down", &peers);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2 * 2 * 3);
    for run in runs {
        let client = &run["measured"]["client"];
        assert_eq!(client["verified"], true, "{run}");
        assert!(client["bytes"].as_u64().unwrap() > 0, "{run}");
        let bridged = run["peer"].as_str().unwrap().starts_with("mirror");
        assert_eq!(run["measured"]["cpu"]["bridge_s"].is_number(), bridged);
    }
}

#[test]
fn an_engine_that_refuses_is_a_failed_run_that_says_so() {
    // It speaks the other protocol than the bridge expects: the handshake fails.
    let peers = [mirror("qemu").replacen("kind=qemu", "kind=vpnkit", 1)];
    let (output, results) = compare("refused", "tcp-up", &peers);
    assert_eq!(output.status.code(), Some(1));
    let runs = results["runs"].as_array().unwrap();
    let failed = runs
        .iter()
        .find(|run| run["peer"] == "mirror-qemu")
        .unwrap();
    let why = failed["failed"].as_str().unwrap();
    // Whichever end is seen first to have ended.
    let ends = ["mirror-qemu: carry frames: ", "bridge: greet the engine: "];
    assert!(ends.iter().any(|end| why.starts_with(end)), "{why}");
}

#[test]
fn a_peer_that_cannot_run_is_named_as_missing() {
    let peers = [
        "name=machine,kind=vhost-user,cmd=passt --vhost-user".to_owned(),
        "name=absent,kind=qemu,cmd=/nowhere/engine {sock}".to_owned(),
    ];
    let (output, results) = compare("missing", "tcp-up", &peers);
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("machine: missing (a vhost-user engine needs"),
        "{table}"
    );
    assert!(
        table.contains("absent: missing (/nowhere/engine: "),
        "{table}"
    );
    assert_eq!(results["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn a_description_that_is_wrong_is_refused_with_its_form() {
    let (output, results) = compare("wrong", "tcp-up", &["name=x,kind=qemu,cmd=x".to_owned()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("cmd has no {sock}") && said.contains("name=NAME"),
        "{said}"
    );
    assert!(results.is_null());
}

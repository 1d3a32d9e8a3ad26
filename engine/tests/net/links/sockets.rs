//! The files of sockets: whose they are, and what happens to those that are there already.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use tempfile::TempDir;

use crate::support::harness::{Test, tests};
use crate::support::links::served::PROTOCOLS;
use crate::support::process::Process;
use crate::support::world::{SUBNETS, World};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        for_the_owner_alone_and_gone_at_the_end,
        what_a_dead_engine_left_is_replaced,
        what_another_serves_is_refused,
        what_is_no_socket_is_refused,
    ]
}

fn for_the_owner_alone_and_gone_at_the_end(world: &World) {
    let served = world.serve(&[]);
    let paths = PROTOCOLS.map(|protocol| served.path(protocol));
    for path in &paths {
        let metadata = fs::metadata(path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{path:?}");
    }
    let dir = served.path("");
    let attached = served.attached;
    attached.terminate();
    for path in &paths {
        assert!(!path.exists(), "{path:?}");
    }
    assert!(!dir.exists() || fs::read_dir(dir).unwrap().next().is_none());
}

/// A killed engine can't remove its files.
fn what_a_dead_engine_left_is_replaced(world: &World) {
    let mut first = world.serve(&[]);
    first.attached.engine.signal(rustix::process::Signal::KILL);
    first.attached.engine.wait();
    for protocol in PROTOCOLS {
        let path = first.path(protocol);
        assert!(path.exists(), "{protocol}");
        let url = format!("{protocol}://{}", path.display());
        let second = world.supervised("serve", &["--listen", &url]);
        second.end();
        assert!(!path.exists(), "{protocol}: it was the second's");
    }
}

#[track_caller]
fn assert_refused(world: &World, protocol: &str, path: &Path) -> String {
    let url = format!("{protocol}://{}", path.display());
    let mut command = world.towpath();
    command.arg("serve").args(SUBNETS).args(["--listen", &url]);
    let mut process: Process = world.spawn(command);
    let status = process.wait();
    let said = process.stderr();
    assert!(!status.success(), "{protocol}: {said}");
    assert!(said.contains(&url), "it names the socket: {said}");
    said
}

/// Guests of the first stay, and the file is still the first's.
fn what_another_serves_is_refused(world: &World) {
    let first = world.serve(&[]);
    let guest = first.join("qemu", 1);
    for protocol in PROTOCOLS {
        assert_refused(world, protocol, &first.path(protocol));
    }
    guest.prove_link();
    for (number, protocol) in (2..).zip(PROTOCOLS) {
        first.join(protocol, number).prove_link();
    }
    first.end();

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("others");
    let _listener = UnixListener::bind(&path).unwrap();
    for protocol in PROTOCOLS {
        assert_refused(world, protocol, &path);
    }
}

fn what_is_no_socket_is_refused(world: &World) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("letter");
    fs::write(&path, "dear engine").unwrap();
    for protocol in PROTOCOLS {
        assert_refused(world, protocol, &path);
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "dear engine");
}

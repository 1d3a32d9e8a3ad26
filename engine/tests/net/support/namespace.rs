//! Network namespaces, entered by threads.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, alive as long as this is.
#[derive(Debug)]
pub(crate) struct Namespace(OwnedFd);

impl Namespace {
    /// A new, empty one with its loopback up.
    pub(crate) fn new() -> Self {
        let made = thread::scope(|scope| {
            let maker = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
                ip("link set lo up");
                Self::current()
            });
            maker.join()
        });
        made.expect("the namespace is made")
    }

    /// The namespace of the calling thread.
    pub(crate) fn current() -> Self {
        Self(
            File::open("/proc/thread-self/ns/net")
                .expect("/proc is mounted")
                .into(),
        )
    }

    /// One whose descriptor came from elsewhere.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Runs `body` in the namespace, on a thread of its own. Sockets made there keep belonging to
    /// the namespace wherever they are used.
    pub(crate) fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let name = thread::current().name().unwrap_or("test").to_owned();
        let outcome = thread::scope(|scope| {
            let inside = thread::Builder::new().name(name).spawn_scoped(scope, || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
                body()
            });
            inside.expect("a thread can be started").join()
        });
        // The panic inside is the test's own.
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A path that other processes can open it by.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Whether an interface of that name is in it.
    pub(crate) fn has_interface(&self, name: &str) -> bool {
        self.enter(|| {
            let list = std::fs::read_to_string("/proc/thread-self/net/dev").expect("/proc");
            list.lines()
                .any(|line| line.trim_start().starts_with(&format!("{name}:")))
        })
    }
}

/// Runs `ip` with these arguments in the calling thread's namespace and returns what it printed.
#[track_caller]
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let output = output.unwrap_or_else(|error| panic!("the program 'ip' (iproute2): {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes a `net.…` setting of the calling thread's namespace.
#[track_caller]
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

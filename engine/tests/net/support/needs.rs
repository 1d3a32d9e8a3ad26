//! What tests need of the machine, and whether it is there.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use super::machine::Kernel;
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Network namespaces may be made.
    Namespaces,
    /// `/dev/net/tun` opens.
    Tun,
    /// A program of that name is in a usual place.
    Program(&'static str),
    /// A Linux kernel with the modules of a virtual machine's network.
    Kernel,
    /// Root of the machine, not of a user namespace: other users' processes are started.
    RealRoot,
}

impl Need {
    /// Why the need is not met, or `None` if it is.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Namespaces => {
                static ANSWER: OnceLock<Option<String>> = OnceLock::new();
                ANSWER.get_or_init(try_namespace).clone()
            }
            Self::Tun => {
                let tun = fs::File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/net/tun");
                tun.err()
                    .map(|error| format!("/dev/net/tun does not open: {error}"))
            }
            Self::Program(name) => {
                let found = PLACES
                    .iter()
                    .any(|place| Path::new(place).join(name).exists());
                (!found).then(|| format!("the program '{name}' is not installed"))
            }
            Self::Kernel => Kernel::find().err(),
            Self::RealRoot => {
                let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
                let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
                let root = rustix::process::geteuid().is_root();
                (!(whole && root)).then(|| "only root can start processes of others".to_owned())
            }
        }
    }
}

const PLACES: [&str; 6] = [
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
];

fn try_namespace() -> Option<String> {
    let attempt = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match attempt.expect("does not panic") {
        Ok(()) => None,
        Err(error) => Some(format!("no network namespace can be made: {error}")),
    }
}

/// Makes an ordinary user root of a new user namespace. Called while single-threaded, which
/// `unshare` asks for; a refusal shows later, as a missing [`Need::Namespaces`].
pub(crate) fn become_root() {
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if rustix::process::geteuid().is_root() || unshare(CloneFlags::CLONE_NEWUSER).is_err() {
        return;
    }
    // user_namespaces(7): gid_map may be written without privilege only after setgroups is denied.
    fs::write("/proc/self/setgroups", "deny").expect("setgroups is ours to deny");
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).expect("own uid may be mapped");
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).expect("own gid may be mapped");
}

/// Both ends of thousands of connections are in this process.
pub(crate) fn raise_fd_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Left as it was where refused: the test with many connections then says so itself.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

//! A network that plays the host's, one per test.
//!
//! ```text
//!   guest ── towpath ──┐ the test's thread: servers, and whatever it starts
//!                      │ 198.18.0.1, 2001:db8:1::1        lo: servers listen here
//!                      │ 198.18.1.0/24, 2001:db8:11::/64  unreachable
//!                      └ 198.18.2.0/24, 2001:db8:2::/64   hole: frames go out and vanish
//! ```

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::namespace::{Namespace, ip, sysctl};
use super::process::{Process, Registry, leashed};

/// Where servers listen.
pub(crate) const HOST4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Where servers listen.
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// Both of the above.
pub(crate) const HOSTS: [IpAddr; 2] = [IpAddr::V4(HOST4), IpAddr::V6(HOST6)];
/// The host says at once that there is no way.
pub(crate) const UNREACHABLE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x11, 0, 0, 0, 0, 1)),
];
/// No one ever answers.
pub(crate) const HOLES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1)),
];

/// Addresses of the segment, which every guest is given by [`SUBNETS`].
pub(crate) const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const GATEWAYS: [IpAddr; 2] = [IpAddr::V4(GATEWAY4), IpAddr::V6(GATEWAY6)];
/// The host's alias.
pub(crate) const ALIAS4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const ALIAS6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// The guest that `run` makes.
pub(crate) const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3);

/// The options that make the addresses above true.
pub(crate) const SUBNETS: [&str; 4] = ["--subnet", "10.77.0.0/24", "--subnet6", "fd77::/64"];

/// In the environment of every process of a world, so that what is left of it can be found.
const MARK: &str = "TOWPATH_TEST_WORLD";

/// The namespace of the thread that runs a test, and the processes in it.
pub(crate) struct World {
    registry: Registry,
    mark: String,
    has_own_mounts: Cell<bool>,
}

impl World {
    /// Moves the calling thread into a new network namespace.
    pub(crate) fn new(registry: &Registry) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
        ip("link set lo up");
        ip(&format!("addr add {HOST4}/32 dev lo"));
        ip(&format!("addr add {HOST6}/128 dev lo nodad"));
        ip("route add unreachable 198.18.1.0/24");
        ip("route add unreachable 2001:db8:11::/64");
        // A pair whose far end takes no part in anything; without ARP and DAD frames are
        // addressed to the near end itself, so that the far end's kernel drops them.
        ip("link add hole type veth peer name hole-end");
        ip("link set hole arp off up");
        ip("link set hole-end up");
        ip("route add 198.18.2.0/24 dev hole");
        ip("route add 2001:db8:2::/64 dev hole");
        open_ping_sockets();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            registry: registry.clone(),
            mark: format!("{}-{number}", std::process::id()),
            has_own_mounts: Cell::new(false),
        }
    }

    /// The `towpath` binary, to be started in this world.
    pub(crate) fn towpath(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_towpath"))
    }

    /// Any program, to be started in this world.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = leashed(None, program);
        command.env(MARK, &self.mark);
        command
    }

    /// Any program, to be started in another namespace.
    pub(crate) fn command_in(&self, net: &Namespace, program: impl AsRef<OsStr>) -> Command {
        let mut command = leashed(Some(net), program);
        command.env(MARK, &self.mark);
        command
    }

    /// Starts a command with nothing on its stdin.
    #[track_caller]
    pub(crate) fn spawn(&self, command: Command) -> Process {
        self.registry.spawn(command, Stdio::null(), None)
    }

    /// Starts a command with the given stdin, and stdout if that is not to be kept.
    #[track_caller]
    pub(crate) fn spawn_with(
        &self,
        command: Command,
        stdin: impl Into<Stdio>,
        stdout: Option<Stdio>,
    ) -> Process {
        self.registry.spawn(command, stdin.into(), stdout)
    }

    /// Gives the calling thread mounts of its own, which what it starts then sees as well.
    fn own_mounts(&self) {
        if !self.has_own_mounts.replace(true) {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace can be made");
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)
                .expect("mounts can be made private");
        }
    }

    /// Puts an empty directory over another for this world only.
    #[track_caller]
    pub(crate) fn mount_empty(&self, target: &str) {
        self.own_mounts();
        let (kind, mode) = (Some("tmpfs"), Some("mode=755"));
        mount(kind, target, kind, MsFlags::empty(), mode)
            .unwrap_or_else(|error| panic!("a tmpfs over {target}: {error}"));
    }

    /// Puts a file over another for this world only.
    #[track_caller]
    pub(crate) fn bind_over(&self, source: &str, target: &str) {
        self.own_mounts();
        let none: Option<&str> = None;
        mount(Some(source), target, none, MsFlags::MS_BIND, none)
            .unwrap_or_else(|error| panic!("{source} over {target}: {error}"));
    }

    /// A network behind a router: routes of this world lead to [`Router::BEHIND`] and
    /// [`Router::BEYOND`] by way of [`Router::ADDRESSES`].
    pub(crate) fn router(&self) -> Router {
        let namespace = Namespace::new();
        let path = namespace.path();
        ip("link add way type veth peer name back");
        ip(&format!("link set back netns {}", path.display()));
        ip("addr add 198.18.100.1/30 dev way");
        ip("addr add 2001:db8:100::1/64 dev way nodad");
        ip("link set way up");
        namespace.enter(|| {
            sysctl("net.ipv4.ip_forward", "1");
            sysctl("net.ipv6.conf.all.forwarding", "1");
            // Every probe is answered, however fast they come.
            sysctl("net.ipv4.icmp_ratemask", "0");
            ip("addr add 198.18.100.2/30 dev back");
            ip("addr add 2001:db8:100::2/64 dev back nodad");
            ip("link set back up");
            ip("addr add 198.18.101.1/32 dev lo");
            ip("addr add 2001:db8:101::1/128 dev lo nodad");
            ip("route add default via 198.18.100.1");
            ip("route add default via 2001:db8:100::1");
        });
        ip("route add 198.18.101.0/24 via 198.18.100.2");
        ip("route add 198.18.102.0/24 via 198.18.100.2");
        ip("route add 2001:db8:101::/64 via 2001:db8:100::2");
        ip("route add 2001:db8:102::/64 via 2001:db8:100::2");
        Router { namespace }
    }

    /// Another machine on a link of this world's, with addresses of its own, that may fall silent.
    pub(crate) fn other_machine(&self) -> OtherMachine {
        let namespace = Namespace::new();
        let path = namespace.path();
        ip("link add there type veth peer name here");
        ip(&format!("link set here netns {}", path.display()));
        ip("addr add 198.18.3.1/30 dev there");
        ip("addr add 2001:db8:3::1/64 dev there nodad");
        ip("link set there up");
        namespace.enter(|| {
            ip("addr add 198.18.3.2/30 dev here");
            ip("addr add 2001:db8:3::2/64 dev here nodad");
            ip("link set here up");
        });
        OtherMachine { namespace }
    }

    /// The numbers of this world's processes, however they were started.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.mark);
        let marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|&byte| byte == 0)
                .any(|entry| entry == mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let numbers = entries.filter_map(|entry| {
            std::str::from_utf8(entry.file_name().as_bytes())
                .ok()?
                .parse()
                .ok()
        });
        numbers.filter(marked).collect()
    }

    /// Fails unless all processes of this world are gone, or go now.
    pub(crate) fn assert_nothing_left(&self) {
        eventually("no process is left", || self.processes().is_empty());
    }
}

/// The router of [`World::router`].
pub(crate) struct Router {
    namespace: Namespace,
}

impl Router {
    /// The addresses that its ICMP errors come from.
    pub(crate) const ADDRESSES: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(198, 18, 100, 2)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 2)),
    ];
    /// From now on it passes on packets of this many bytes at most.
    pub(crate) fn narrow(&self, mtu: u16) {
        self.namespace.enter(|| {
            for gateway in ["198.18.100.1", "2001:db8:100::1"] {
                ip(&format!(
                    "route replace default via {gateway} mtu lock {mtu}"
                ));
            }
        });
    }

    /// Addresses of its own behind it, where no server is.
    pub(crate) const BEHIND: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(198, 18, 101, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x101, 0, 0, 0, 0, 1)),
    ];
    /// Addresses that it would pass on to someone else, which a packet's last hop does not allow.
    pub(crate) const BEYOND: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(198, 18, 102, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x102, 0, 0, 0, 0, 1)),
    ];
}

/// The machine of [`World::other_machine`].
pub(crate) struct OtherMachine {
    namespace: Namespace,
}

impl OtherMachine {
    /// Its addresses.
    pub(crate) const ADDRESSES: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(198, 18, 3, 2)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2)),
    ];

    /// Runs `body` on it.
    pub(crate) fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.namespace.enter(body)
    }

    /// From now on nothing that is sent to it is answered, not even by an error.
    pub(crate) fn fall_silent(&self) {
        self.namespace.enter(|| ip("addr flush dev here"));
    }
}

/// The wildcard address of the same version.
pub(crate) fn any(like: IpAddr) -> SocketAddr {
    match like {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Waits until something holds that nothing announces. The limit only turns a hang into a message.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "never came true: {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Lets everyone here use ping sockets; in a user namespace with one group, that one.
pub(crate) fn open_ping_sockets() {
    let path = "/proc/sys/net/ipv4/ping_group_range";
    fs::write(path, "0 2147483647")
        .or_else(|_| fs::write(path, "0 0"))
        .expect("the namespace is ours");
}

//! What a run needs, each thing found by trying, with what to do where it is missing.
//!
//! `towpath doctor` prints all of it; `run` and `attach` take their advice from here when something
//! fails.

use std::fmt;
use std::fs;
use std::net::{Ipv6Addr, UdpSocket};

use rustix::process::Resource;
use socket2::{Domain, Protocol, Socket, Type};
use towpath_ring::driver::uring;

use crate::driver::{may_lock_enough, why_not_uring};
use crate::guest::probe::{self, Found};

/// File descriptors that some thousands of connections take.
const NOFILE_MIN: u64 = 4_096;

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As wanted.
    Ok,
    /// towpath works, with less.
    Degraded,
    /// towpath does not work.
    Missing,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        })
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it stands.
    pub verdict: Verdict,
    /// What was looked at.
    pub what: &'static str,
    /// What was found, and what to do unless it is fine.
    pub detail: String,
}

impl Finding {
    fn new(verdict: Verdict, what: &'static str, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            what,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9} {:<18} {}", self.verdict, self.what, self.detail)
    }
}

/// Looks at everything. Starts this program again for what needs namespaces of its own.
pub fn examine() -> Vec<Finding> {
    let found = probe::look();
    let mut findings = vec![namespaces(&found), tun(), tap(&found)];
    findings.extend(io_uring(&uring::features()));
    findings.push(locked_memory());
    findings.push(driver());
    findings.push(descriptors());
    findings.push(ping());
    findings.push(ipv6());
    findings.push(processors());
    findings
}

/// What to do when namespaces can't be made; `errno` is that of `unshare` or of the id map.
pub(crate) fn advise_user_namespace(errno: Option<i32>) -> String {
    let on =
        |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let advice = if on("/proc/sys/user/max_user_namespaces", "0") {
        "allow user namespaces (sysctl user.max_user_namespaces=15000)"
    } else if on("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
    } else if on(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        "allow user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an \
         AppArmor profile with 'userns' for this program)"
    } else if errno == Some(nix::errno::Errno::ENOSPC as i32) {
        "the limit of namespaces is reached: end some, or raise user.max_user_namespaces, \
         user.max_net_namespaces and user.max_pid_namespaces"
    } else if errno == Some(nix::errno::Errno::EINVAL as i32) {
        "this kernel may be built without namespaces (CONFIG_USER_NS, CONFIG_NET_NS, CONFIG_PID_NS)"
    } else {
        "in a container, allow 'unshare' and 'mount' (for Docker: --security-opt seccomp=unconfined, \
         or --cap-add SYS_ADMIN), or run as root"
    };
    advice.to_owned()
}

fn namespaces(found: &Result<Found, String>) -> Finding {
    const WHAT: &str = "namespaces";
    match found.as_ref().map(|found| &found.namespaces) {
        Ok(Ok(())) => Finding::new(Verdict::Ok, WHAT, "user, network, mount and pid namespaces"),
        Ok(Err(reason)) | Err(reason) => Finding::new(Verdict::Missing, WHAT, reason),
    }
}

fn tun() -> Finding {
    const WHAT: &str = "/dev/net/tun";
    let opened = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    match opened {
        Ok(_) => Finding::new(Verdict::Ok, WHAT, "can be opened"),
        Err(error) => {
            let advice = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "load the module (modprobe tun); in a container, pass the device in (--device \
                     /dev/net/tun)"
                }
                std::io::ErrorKind::PermissionDenied => {
                    "allow this user to read and write it (chmod 0666 /dev/net/tun, as most systems \
                     have it); in a container, allow the device 10:200"
                }
                _ => "the kernel needs CONFIG_TUN",
            };
            Finding::new(Verdict::Missing, WHAT, format!("{error}: {advice}"))
        }
    }
}

fn tap(found: &Result<Found, String>) -> Finding {
    const WHAT: &str = "TAP offloads";
    let (features, queues) = match found.as_ref().map(Found::tap) {
        Ok(Ok(found)) => found,
        Ok(Err(reason)) => return Finding::new(Verdict::Missing, WHAT, reason),
        Err(reason) => return Finding::new(Verdict::Missing, WHAT, reason),
    };
    let parts = [
        (features.offload_header, "offload header"),
        (features.checksum, "checksums"),
        (features.tso4 && features.tso6, "TCP super-frames"),
        (features.uso, "UDP super-frames"),
        (queues > 1, "several queues"),
    ];
    has_and_lacks(
        WHAT,
        &parts,
        "a newer kernel has them (UDP super-frames: Linux 6.2); slower without",
    )
}

fn io_uring(features: &uring::Features) -> Vec<Finding> {
    const WHAT: &str = "io_uring";
    if let Some(errno) = features.unusable {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .is_ok_and(|text| text.trim() != "0");
        let advice = if disabled {
            "allow it (sysctl kernel.io_uring_disabled=0)"
        } else {
            "a seccomp profile may forbid it (Docker's default does: --security-opt \
             seccomp=unconfined, or a profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register), or the kernel is older than 5.19"
        };
        return vec![Finding::new(
            Verdict::Degraded,
            WHAT,
            format!("{errno}: {advice}"),
        )];
    }
    let required = [
        (features.buffer_rings, "buffer rings"),
        (features.multishot_read, "multishot read"),
        (features.multishot_receive, "multishot receive"),
    ];
    if required.iter().any(|(there, _)| !there) {
        return vec![has_and_lacks(WHAT, &required, "Linux 6.7 has them")];
    }
    let optional = [
        (features.single_issuer, "single issuer"),
        (features.defer_taskrun, "deferred task work"),
        (features.receive_bundles, "receive bundles"),
        (features.message_ring, "messages between rings"),
    ];
    vec![
        Finding::new(
            Verdict::Ok,
            WHAT,
            "can be used; has buffer rings, multishot read and receive",
        ),
        has_and_lacks(
            "io_uring features",
            &optional,
            "Linux 6.10 has them; slower without",
        ),
    ]
}

fn locked_memory() -> Finding {
    const WHAT: &str = "locked memory";
    let limit = rustix::process::getrlimit(Resource::Memlock);
    let text = format!(
        "limit {}",
        soft_and_hard(limit.current, limit.maximum, "bytes")
    );
    if may_lock_enough() {
        return Finding::new(Verdict::Ok, WHAT, text);
    }
    let advice = "raise it to 512 KiB or more (ulimit -l 8192; 'memlock' in limits.conf; \
                  LimitMEMLOCK= in a systemd unit)";
    Finding::new(Verdict::Degraded, WHAT, format!("{text}: {advice}"))
}

fn driver() -> Finding {
    const WHAT: &str = "driver";
    match why_not_uring() {
        None => Finding::new(Verdict::Ok, WHAT, "io_uring"),
        Some(reason) => Finding::new(
            Verdict::Degraded,
            WHAT,
            format!("epoll, which is slower, as io_uring can't be used: {reason}"),
        ),
    }
}

fn descriptors() -> Finding {
    const WHAT: &str = "file descriptors";
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let text = format!(
        "limit {}",
        soft_and_hard(limit.current, limit.maximum, "files")
    );
    if limit.maximum.is_none_or(|hard| hard >= NOFILE_MIN) {
        return Finding::new(
            Verdict::Ok,
            WHAT,
            format!("{text}; raised to the hard limit at start"),
        );
    }
    let advice = "each connection of the guest takes one; raise the hard limit ('nofile' in \
                  limits.conf; LimitNOFILE= in a systemd unit)";
    Finding::new(Verdict::Degraded, WHAT, format!("{text}: {advice}"))
}

fn ping() -> Finding {
    const WHAT: &str = "ping sockets";
    let v4 = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4));
    let v6 = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6));
    match (v4, v6) {
        (Ok(_), Ok(_)) => Finding::new(Verdict::Ok, WHAT, "ICMP and ICMPv6 echo"),
        (Ok(_), Err(error)) => Finding::new(
            Verdict::Degraded,
            WHAT,
            format!("ICMP echo, not ICMPv6: {error}"),
        ),
        (Err(error), _) => {
            let range = fs::read_to_string("/proc/sys/net/ipv4/ping_group_range")
                .map(|range| range.split_whitespace().collect::<Vec<_>>().join(" "))
                .unwrap_or_else(|_| "unknown".to_owned());
            let advice = format!(
                "{error}: guests can't ping hosts (net.ipv4.ping_group_range is '{range}'; sysctl \
                 net.ipv4.ping_group_range='0 2147483647' allows it)"
            );
            Finding::new(Verdict::Degraded, WHAT, advice)
        }
    }
}

fn ipv6() -> Finding {
    const WHAT: &str = "IPv6";
    if let Err(error) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        let detail = format!("{error}: the host has none, so the guest reaches no IPv6 hosts");
        return Finding::new(Verdict::Degraded, WHAT, detail);
    }
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    if has_default_route6(&routes) {
        return Finding::new(Verdict::Ok, WHAT, "the host has a default route");
    }
    Finding::new(
        Verdict::Degraded,
        WHAT,
        "the host has no default route for it",
    )
}

/// Whether `/proc/net/ipv6_route` has a default route that leads somewhere (the kernel's own
/// "unreachable" stands on the loopback interface).
fn has_default_route6(table: &str) -> bool {
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields.len() >= 10 && fields[1] == "00" && fields[9] != "lo"
    })
}

fn processors() -> Finding {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    Finding::new(
        Verdict::Ok,
        "processors",
        format!("{count} that this process may use"),
    )
}

/// "has a, b; lacks c: advice"
fn has_and_lacks(what: &'static str, parts: &[(bool, &str)], advice: &str) -> Finding {
    let names = |wanted: bool| {
        let names: Vec<_> = parts
            .iter()
            .filter(|(there, _)| *there == wanted)
            .map(|(_, name)| *name)
            .collect();
        names.join(", ")
    };
    let (has, lacks) = (names(true), names(false));
    if lacks.is_empty() {
        return Finding::new(Verdict::Ok, what, has);
    }
    let has = if has.is_empty() {
        String::new()
    } else {
        format!("has {has}; ")
    };
    Finding::new(
        Verdict::Degraded,
        what,
        format!("{has}lacks {lacks}: {advice}"),
    )
}

fn soft_and_hard(soft: Option<u64>, hard: Option<u64>, unit: &str) -> String {
    let text = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    format!("{} (hard: {}) {unit}", text(soft), text(hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_in_columns() {
        let line = Finding::new(Verdict::Ok, "IPv6", "fine").to_string();
        assert_eq!(line, "ok        IPv6               fine");
        let line = Finding::new(Verdict::Degraded, "/dev/net/tun", "x").to_string();
        assert_eq!(line, "degraded  /dev/net/tun       x");
    }

    #[test]
    fn what_is_lacking_is_named() {
        let all = has_and_lacks("w", &[(true, "a"), (true, "b")], "buy");
        assert_eq!((all.verdict, all.detail.as_str()), (Verdict::Ok, "a, b"));
        let some = has_and_lacks("w", &[(true, "a"), (false, "b")], "buy");
        assert_eq!(
            (some.verdict, some.detail.as_str()),
            (Verdict::Degraded, "has a; lacks b: buy")
        );
        let none = has_and_lacks("w", &[(false, "b")], "buy");
        assert_eq!(none.detail, "lacks b: buy");
    }

    #[test]
    fn io_uring_without_what_is_required_is_not_needed() {
        let forbidden = uring::Features {
            unusable: Some(rustix::io::Errno::PERM),
            ..uring::Features::default()
        };
        assert_eq!(io_uring(&forbidden)[0].verdict, Verdict::Degraded);
        assert_eq!(
            io_uring(&uring::Features::default())[0].verdict,
            Verdict::Degraded
        );
        let old = uring::Features {
            buffer_rings: true,
            multishot_read: true,
            multishot_receive: true,
            ..uring::Features::default()
        };
        let verdicts: Vec<_> = io_uring(&old)
            .iter()
            .map(|finding| finding.verdict)
            .collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Degraded]);
    }

    #[test]
    fn the_unreachable_default_route_is_none() {
        let zeros = "00000000000000000000000000000000";
        let line =
            |device| format!("{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 0 00200200 {device}");
        assert!(!has_default_route6(&line("lo")));
        assert!(has_default_route6(&format!(
            "{}\n{}",
            line("lo"),
            line("eth0")
        )));
        assert!(!has_default_route6("") && !has_default_route6("a b c"));
    }

    #[test]
    fn advice_is_never_empty() {
        for errno in [None, Some(1), Some(22), Some(28), Some(12345)] {
            assert!(!advise_user_namespace(errno).is_empty());
        }
    }
}

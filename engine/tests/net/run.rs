//! `towpath run`: what its command sees, how it ends, what is left afterwards.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::process::Signal;

use crate::support::guest::{GuestSockets, pipe};
use crate::support::harness::{Test, tests};
use crate::support::namespace::{Namespace, ip};
use crate::support::needs::Need;
use crate::support::payload;
use crate::support::process::Process;
use crate::support::servers::{listen, round_trip, spawn_tcp_echo};
use crate::support::world::{HOST4, SUBNETS, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = tests![
        exit_status_is_the_commands,
        command_not_found,
        command_not_executable,
        command_killed_by_a_signal,
        failure_before_the_command,
        usage_errors,
        stdin_and_stdout_pass_through,
        arguments_directory_and_environment,
        descriptors_are_the_callers,
        signals_are_forwarded,
        addresses_and_routes,
        mtu_and_queue_length,
        resolv_conf_names_the_gateway,
        subnet_of_the_host_is_avoided,
        interface_name,
        stragglers_are_killed,
        orphans_are_reaped,
        killed_engine_leaves_nothing,
        killed_init_ends_the_run,
        ready_fd_and_exit_fd,
        killed_engine_does_not_hinder_the_next,
        terminal,
        summary_with_v,
        logs_as_json,
    ];
    tests.extend(
        tests![own_user, own_user_as_root]
            .into_iter()
            .map(|t| t.needs(Need::RealRoot)),
    );
    tests
}

/// How a run ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

/// `towpath run OPTIONS -- COMMAND`.
fn start(world: &World, options: &[&str], command: &[&str]) -> Process {
    let mut run = world.towpath();
    run.arg("run")
        .args(SUBNETS)
        .args(options)
        .arg("--")
        .args(command);
    world.spawn(run)
}

#[track_caller]
fn end(mut process: Process) -> Ended {
    let status = process.wait();
    let code = status
        .code()
        .unwrap_or_else(|| panic!("run itself ended with {status}"));
    let stdout = String::from_utf8(process.stdout()).expect("text");
    Ended {
        code,
        stdout,
        stderr: process.stderr(),
    }
}

#[track_caller]
fn run(world: &World, options: &[&str], command: &[&str]) -> Ended {
    end(start(world, options, command))
}

fn exit_status_is_the_commands(world: &World) {
    for code in [0, 1, 7, 255] {
        let ended = run(world, &[], &["sh", "-c", &format!("exit {code}")]);
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert_eq!(ended.stderr, "", "nothing is said when all is well");
    }
}

fn command_not_found(world: &World) {
    for name in ["no-such-command-anywhere", "/no/such/path"] {
        let ended = run(world, &[], &[name]);
        assert_eq!(ended.code, 127, "{}", ended.stderr);
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
}

fn command_not_executable(world: &World) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let ended = run(world, &[], &[path]);
    assert_eq!(ended.code, 126, "{}", ended.stderr);
    assert!(ended.stderr.contains(path), "{}", ended.stderr);
}

fn command_killed_by_a_signal(world: &World) {
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        let ended = run(world, &[], &["sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(ended.code, code, "SIG{signal}: {}", ended.stderr);
    }
}

fn failure_before_the_command(world: &World) {
    world.mount_empty("/dev/net");
    let ended = run(world, &[], &["echo", "never"]);
    assert_eq!(ended.code, 125, "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    assert!(ended.stderr.contains("/dev/net/tun"), "{}", ended.stderr);
}

fn usage_errors(world: &World) {
    let cases: [(&[&str], &str); 12] = [
        (&["--no-such-option"], "--no-such-option"),
        (&["--mtu", "100"], "100"),
        (&["--mtu", "65521"], "65521"),
        (&["--cores", "0"], "0"),
        (&["--subnet", "10.77.0.5/24"], "10.77.0.0/24"),
        (&["--subnet", "10.77.0.0/31"], "31"),
        (&["--subnet6", "fd77::/48"], "64"),
        (&["--dns", "nowhere"], "nowhere"),
        (&["--host-loopback=80,x"], "x"),
        (
            &["--ifname", "a-name-that-is-too-long"],
            "a-name-that-is-too-long",
        ),
        (&["--ready-fd", "999"], "999"),
        (&["--mac", "ff:ff"], "ff:ff"),
    ];
    for (options, named) in cases {
        let mut command = world.towpath();
        command
            .arg("run")
            .args(options)
            .args(["--", "echo", "never"]);
        let ended = end(world.spawn(command));
        assert_eq!(ended.code, 2, "{options:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(named),
            "{options:?}: {}",
            ended.stderr
        );
        assert_eq!(ended.stdout, "", "{options:?}");
    }
    let mut command = world.towpath();
    command.arg("run");
    assert_eq!(end(world.spawn(command)).code, 2, "a command is needed");
}

fn stdin_and_stdout_pass_through(world: &World) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = world.towpath();
    command.arg("run").args(SUBNETS).args(["--", "cat"]);
    let stdin = std::os::fd::OwnedFd::from(theirs.try_clone().unwrap());
    let stdout = std::os::fd::OwnedFd::from(theirs);
    let mut process = world.spawn_with(command, stdin, Some(Stdio::from(stdout)));
    let mut writer = ours.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        payload::send(&mut writer, 3 << 20).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    payload::receive(&mut ours, 3 << 20).expect("cat gives back what it gets");
    writing.join().unwrap();
    assert_eq!(process.wait().code(), Some(0));
}

fn arguments_directory_and_environment(world: &World) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().canonicalize().unwrap();
    let mut command = world.towpath();
    let script = r#"pwd; echo "$COLOUR"; printf '<%s>' "$@""#;
    command
        .arg("run")
        .args(SUBNETS)
        .args(["--", "sh", "-c", script, "sh"]);
    command.args(["two words", "", "--mtu", "--", "*"]);
    command.env("COLOUR", "blue").current_dir(&directory);
    let ended = end(world.spawn(command));
    let expected = format!("{}\nblue\n<two words><><--mtu><--><*>", directory.display());
    assert_eq!(ended.stdout, expected);
}

/// The command has what the caller has, open by chance or on purpose, and nothing of ours.
fn descriptors_are_the_callers(world: &World) {
    let mut direct = world.command("ls");
    direct.arg("/proc/self/fd");
    let ended = run(world, &[], &["ls", "/proc/self/fd"]);
    assert_eq!(ended.stdout, end(world.spawn(direct)).stdout);
}

fn signals_are_forwarded(world: &World) {
    let signals = [
        Signal::TERM,
        Signal::HUP,
        Signal::INT,
        Signal::USR1,
        Signal::USR2,
    ];
    for (signal, name) in signals
        .into_iter()
        .zip(["TERM", "HUP", "INT", "USR1", "USR2"])
    {
        let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.05; done");
        let process = start(world, &[], &["sh", "-c", &script]);
        eventually("the command is ready", || process.stdout() == b"ready\n");
        process.signal(signal);
        let ended = end(process);
        assert_eq!(ended.code, 9, "SIG{name}: {}", ended.stderr);
    }
}

fn addresses_and_routes(world: &World) {
    let guest = world.guest(&[]);
    let (addresses, routes, routes6) = guest.enter(|| {
        (
            ip("-o addr show"),
            ip("route show default"),
            ip("-6 route show default"),
        )
    });
    assert!(addresses.contains("10.77.0.3/24"), "{addresses}");
    assert!(addresses.contains("fd77::3/64"), "{addresses}");
    assert!(
        !addresses.contains("tentative"),
        "usable at once: {addresses}"
    );
    assert!(
        addresses.contains("127.0.0.1/8"),
        "the guest's own loopback is up: {addresses}"
    );
    assert!(routes.contains("via 10.77.0.1"), "{routes}");
    assert!(
        routes6.contains("via fd77::1") || routes6.contains("via fe80::"),
        "{routes6}"
    );
}

/// A full window of 4 MiB must fit into the interface's queue.
fn mtu_and_queue_length(world: &World) {
    for mtu in [1280_u32, 1500, 9000, 65_520] {
        let guest = world.guest(&["--mtu", &mtu.to_string()]);
        let link = guest.enter(|| ip("link show tap0"));
        assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
        let queue = link
            .split_whitespace()
            .skip_while(|word| *word != "qlen")
            .nth(1);
        let queue: u32 = queue.expect("a queue length").parse().unwrap();
        assert!(queue >= (4 << 20) / mtu, "{link}");
    }
}

fn resolv_conf_names_the_gateway(world: &World) {
    let before = fs::read("/etc/resolv.conf").ok();
    let options = ["--search", "lan.test", "--search", "corp.test"];
    let ended = run(world, &options, &["cat", "/etc/resolv.conf"]);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(lines.contains(&"nameserver 10.77.0.1"), "{lines:?}");
    assert!(lines.contains(&"nameserver fd77::1"), "{lines:?}");
    assert!(lines.contains(&"search lan.test corp.test"), "{lines:?}");
    assert_eq!(
        fs::read("/etc/resolv.conf").ok(),
        before,
        "the host's own is as it was"
    );
}

/// Without `--subnet`, and with the first choice taken by the host, another is chosen.
fn subnet_of_the_host_is_avoided(world: &World) {
    let address = || {
        let mut command = world.towpath();
        command.args(["run", "--", "ip", "-4", "-o", "addr", "show", "tap0"]);
        let ended = end(world.spawn(command));
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let word = ended
            .stdout
            .split_whitespace()
            .skip_while(|word| *word != "inet")
            .nth(1);
        let (address, _prefix) = word
            .expect("an address")
            .split_once('/')
            .expect("and a prefix");
        address.parse::<std::net::Ipv4Addr>().unwrap()
    };
    let first = address();
    ip(&format!("route add {first}/32 dev hole"));
    assert_ne!(address().octets()[..3], first.octets()[..3]);
}

fn interface_name(world: &World) {
    let ended = run(world, &["--ifname", "eth7"], &["cat", "/proc/net/dev"]);
    assert!(ended.stdout.contains("eth7:"), "{}", ended.stdout);
}

fn stragglers_are_killed(world: &World) {
    let script = "sleep 1000 & setsid sleep 1000 & (trap '' HUP TERM INT; sleep 1000) & exit 3";
    let ended = run(world, &[], &["sh", "-c", script]);
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert_eq!(world.processes(), [], "they are gone when run has ended");
}

/// Processes whose parents ended do not stay as zombies while the command runs.
fn orphans_are_reaped(world: &World) {
    let script = "for i in 1 2 3 4 5; do (sleep 0 &) ; done; \
        while grep -qs '^State:.*zombie' /proc/[0-9]*/status; do sleep 0.05; done; echo clean";
    let ended = run(world, &[], &["sh", "-c", script]);
    assert_eq!(ended.stdout, "clean\n", "{}", ended.stderr);
}

fn killed_engine_leaves_nothing(world: &World) {
    let mut guest = world.guest(&[]);
    round_trip(&guest.connect(spawn_tcp_echo(listen(HOST4))), b"hello");
    assert!(guest.net.has_interface("tap0"));
    guest.engine.signal(Signal::KILL);
    guest.engine.wait();
    eventually("no process is left", || world.processes().is_empty());
    // Only this test keeps the namespace itself alive, to look into it.
    eventually("no TAP is left", || !guest.net.has_interface("tap0"));
}

/// Whatever of its processes dies, nothing hangs and nothing stays.
fn killed_init_ends_the_run(world: &World) {
    let mut guest = world.guest(&[]);
    let engine = guest.engine.id();
    for pid in world.processes().into_iter().filter(|&pid| pid != engine) {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        // Some die with others.
        let _ = rustix::process::kill_process(pid.expect("a number above 0"), Signal::KILL);
    }
    let status = guest.engine.wait();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
}

/// A supervisor's two pipes, which a run has as well.
fn ready_fd_and_exit_fd(world: &World) {
    let (exit_end, exit) = pipe();
    let (ready, ready_end) = pipe();
    let mut command = world.towpath();
    command
        .arg("run")
        .args(SUBNETS)
        .args(["--exit-fd", "@in", "--ready-fd", "@out"]);
    command.args(["--", "sleep", "1000"]);
    let mut process = world.spawn_with(command, exit_end, Some(Stdio::from(ready_end)));
    let mut said = Vec::new();
    fs::File::from(ready).read_to_end(&mut said).unwrap();
    assert_eq!(said, b"1");
    assert!(process.is_running());
    drop(exit);
    let status = process.wait();
    assert!(status.code().is_some(), "an orderly end: {status}");
}

fn killed_engine_does_not_hinder_the_next(world: &World) {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let options = ["--pid-file", pid_file.to_str().unwrap()];
    let mut guest = world.guest(&options);
    guest.engine.signal(Signal::KILL);
    guest.engine.wait();
    drop(guest);
    let guest = world.guest(&options);
    eventually("the pid file names the new engine", || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == guest.engine.id().to_string())
    });
    guest.end();
    assert!(!pid_file.exists(), "removed at an orderly end");
}

/// The command has the caller's terminal: it is one, its size is seen, Ctrl-C reaches it.
fn terminal(world: &World) {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    // `setsid --ctty` makes the terminal the controlling one, as a login does.
    let script = "test -t 0 && test -t 1 && trap 'echo caught; exit 5' INT; echo ready; \
        while :; do sleep 0.05; done";
    let mut command = world.command("setsid");
    command
        .args(["--ctty", "--wait"])
        .arg(env!("CARGO_BIN_EXE_towpath"));
    command
        .arg("run")
        .args(SUBNETS)
        .args(["--", "sh", "-c", script]);
    let output = Stdio::from(slave.try_clone().unwrap());
    let mut process = world.spawn_with(command, slave, Some(output));
    let mut master = fs::File::from(master);
    let mut said = String::new();
    let mut wait_for = |text: &str, master: &mut fs::File| {
        while !said.contains(text) {
            let mut buffer = [0; 1000];
            let n = master
                .read(&mut buffer)
                .unwrap_or_else(|error| panic!("{said:?}: {error}"));
            said += &String::from_utf8_lossy(&buffer[..n]);
        }
    };
    wait_for("ready", &mut master);
    master.write_all(b"\x03").unwrap();
    wait_for("caught", &mut master);
    assert_eq!(process.wait().code(), Some(5));
}

fn summary_with_v(world: &World) {
    let guest = world.guest(&["-v"]);
    let (near, far) = guest.pair(&listen(HOST4));
    payload::send(&near, 100_000).unwrap();
    payload::receive(&far, 100_000).unwrap();
    drop((near, far));
    let summary = guest.end();
    assert!(
        summary.contains("100000"),
        "the bytes are counted: {summary}"
    );
    assert!(summary.contains("TCP connections"), "{summary}");
}

fn logs_as_json(world: &World) {
    let ended = run(world, &["-vv", "--log-format", "json"], &["true"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let logged = ended
        .stderr
        .lines()
        .filter(|line| line.starts_with('{') && line.ends_with('}'));
    assert!(logged.count() > 0, "{}", ended.stderr);
}

/// As an ordinary user: own numbers inside, or root's on request. This machine may keep
/// `/dev/net/tun` from users, so the test has a node of its own over it.
fn own_user(world: &World) {
    const USER: u32 = 12_345;
    let directory = tempfile::tempdir().unwrap();
    let device = nix::mount::MsFlags::empty();
    nix::mount::mount(
        Some("tmpfs"),
        directory.path(),
        Some("tmpfs"),
        device,
        Some("mode=755"),
    )
    .unwrap();
    let node = directory.path().join("tun");
    let rdev = fs::metadata("/dev/net/tun").unwrap().rdev();
    assert_eq!(rdev, makedev(10, 200), "/dev/net/tun is what it should be");
    mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), rdev).unwrap();
    chown(&node, Some(USER), Some(USER)).unwrap();
    world.bind_over(node.to_str().unwrap(), "/dev/net/tun");
    // Where the build directory is, the user may not be able to go.
    let binary = directory.path().join("towpath");
    fs::write(&binary, "").unwrap();
    world.bind_over(env!("CARGO_BIN_EXE_towpath"), binary.to_str().unwrap());

    let script = "id -u; id -g; ip -4 -o addr show tap0 >/dev/null && echo configured";
    let run_as_user = |options: &[&str]| {
        // No leash: the user may not reach this test's own binary either.
        let mut command = Command::new(&binary);
        command
            .arg("run")
            .args(SUBNETS)
            .args(options)
            .args(["--", "sh", "-c", script]);
        command.uid(USER).gid(USER).current_dir("/");
        end(world.spawn(command))
    };
    let ended = run_as_user(&[]);
    assert_eq!(
        ended.stdout,
        format!("{USER}\n{USER}\nconfigured\n"),
        "{}",
        ended.stderr
    );
    let ended = run_as_user(&["--map-root"]);
    assert_eq!(ended.stdout, "0\n0\nconfigured\n", "{}", ended.stderr);

    // And where the device stays closed, the error says so.
    chown(&node, Some(0), Some(0)).unwrap();
    let ended = run_as_user(&[]);
    assert_eq!(ended.code, 125, "{}", ended.stderr);
    assert!(ended.stderr.contains("/dev/net/tun"), "{}", ended.stderr);
}

fn own_user_as_root(world: &World) {
    let ended = run(world, &[], &["id", "-u"]);
    assert_eq!(ended.stdout, "0\n", "{}", ended.stderr);
    // What root's command makes in the namespaces is not seen by the host.
    let ended = run(
        world,
        &[],
        &["ip", "link", "add", "stray", "type", "bridge"],
    );
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!Namespace::current().has_interface("stray"));
}

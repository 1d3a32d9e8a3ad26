//! `towpath run`: what its command sees of the caller, and how it ends.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::process::Signal;

use crate::support::command::{end, run, start};
use crate::support::guest::{GuestSockets, pipe};
use crate::support::harness::{Test, tests};
use crate::support::namespace::Namespace;
use crate::support::needs::Need;
use crate::support::payload;
use crate::support::servers::listen;
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
        ready_fd_and_exit_fd,
        terminal,
        summary_with_v,
        logs_as_json,
    ];
    let as_root = tests![own_user, own_user_as_root].into_iter();
    tests.extend(as_root.map(|test| test.needs(Need::RealRoot)));
    let nested = tests![in_a_pid_namespace].into_iter();
    tests.extend(nested.map(|test| test.needs(Need::Program("unshare"))));
    tests
}

fn exit_status_is_the_commands(world: &World) {
    for code in [0, 1, 7, 255] {
        let ended = run(world, &[], &["sh", "-c", &format!("exit {code}")]);
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert_eq!(ended.stderr, "", "nothing is said when all is well");
    }
}

/// As in a container whose process group has its leader outside.
fn in_a_pid_namespace(world: &World) {
    let mut command = world.command("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]);
    command.arg(env!("CARGO_BIN_EXE_towpath")).arg("run");
    command.args(SUBNETS).args(["--", "sh", "-c", "exit 7"]);
    let ended = end(world.spawn(command));
    assert_eq!(ended.code, 7, "{}", ended.stderr);
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
    // The directory can be removed when nothing is mounted on it.
    umount2(directory.path(), MntFlags::MNT_DETACH).unwrap();
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

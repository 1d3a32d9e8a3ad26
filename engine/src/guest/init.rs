//! The second stage of `run`: pid 1 of the guest. Sets everything up, starts the command, reaps.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::message::{Channel, FromStage, Order, ToStage};
use super::signals::{self, Signals};
use super::{
    Fault, STATUS_NOT_EXECUTABLE, STATUS_NOT_FOUND, die_with_parent, end, hand_over,
    make_interface, namespace, resolv, stage_channel,
};

/// How long the guest's kernel may go on sending what ended processes have written.
const LINGER: Duration = Duration::from_secs(2);
/// How often it is looked at whether that is done: first and longest pause.
const LINGER_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

pub(super) fn main(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let channel = match stage_channel() {
        Ok(channel) => channel,
        Err(status) => return status,
    };
    let extra_capabilities = words.next().is_some_and(|word| word == "1");
    let outcome = run(&channel, extra_capabilities, words.collect());
    if let Ok(status) = outcome {
        let _ = channel.send(&FromStage::Exited { status }, &[]);
    }
    end(&channel, outcome)
}

fn run(channel: &Channel, extra_capabilities: bool, command: Vec<OsString>) -> Result<u8, Fault> {
    // Its parent is outside of its pid namespace and can't be named; should the parent be gone by now,
    // the engine's process ends too, and `receive` says so.
    die_with_parent(None)?;
    let (order, input) = receive_order(channel)?;
    let mut notes = mount_private()?;
    let (tap, more) = make_interface(&order, true)?;
    notes.extend(more);
    if let Some(text) = &order.resolv_conf {
        notes.extend(resolv::install(text).err());
    }
    hand_over(channel, tap, notes)?;
    match channel.receive().map_err(Fault::parent)? {
        Some((ToStage::Go, _)) => {}
        _ => return Err(Fault::setup("the engine did not start")),
    }
    if extra_capabilities {
        namespace::give_up_capabilities().map_err(|error| {
            Fault::setup(format!(
                "capabilities can't be given up for the command: {error}"
            ))
        })?;
    }
    let child = start(&command, input)?;
    let children = Signals::of_children()
        .map_err(|error| Fault::setup(format!("can't hear of ended processes: {error}")))?;
    let status = supervise(channel, &children, child);
    end_processes();
    linger();
    Ok(status)
}

fn receive_order(channel: &Channel) -> Result<(Order, OwnedFd), Fault> {
    match channel.receive().map_err(Fault::parent)? {
        Some((ToStage::Order(order), mut descriptors)) if descriptors.len() == 1 => {
            Ok((order, descriptors.remove(0)))
        }
        _ => Err(Fault::setup("the engine's process sent no order")),
    }
}

/// Makes mounts of this namespace invisible outside and shows the processes of the pid namespace in
/// `/proc`. Some containers cover parts of their `/proc`; the kernel then allows no new one, and the old
/// one, which shows the pids of the container, must do.
fn mount_private() -> Result<Vec<String>, Fault> {
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private)
        .map_err(|error| Fault::setup(format!("mounts can't be made private: {error}")))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounted = rustix::mount::mount("proc", "/proc", "proc", flags, None);
    Ok(mounted
        .err()
        .map(|error| format!("/proc shows the pids outside: {error}"))
        .into_iter()
        .collect())
}

/// Starts the command as if the caller had: its standard input, an empty signal mask, no descriptors
/// of ours.
fn start(command: &[OsString], input: OwnedFd) -> Result<Pid, Fault> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Fault::setup("there is no command to run"))?;
    signals::unblock_all().map_err(|error| Fault::setup(format!("signal mask: {error}")))?;
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(input))
        .spawn();
    match spawned {
        Ok(child) => Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or_default())),
        Err(error) => Err(not_started(&program.to_string_lossy(), &error)),
    }
}

fn not_started(program: &str, error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::NotFound {
        let reason = format!("the command '{program}' was not found; is it in PATH?");
        return Fault {
            status: STATUS_NOT_FOUND,
            reason,
        };
    }
    let reason = format!("the command '{program}' can't be executed: {error}");
    Fault {
        status: STATUS_NOT_EXECUTABLE,
        reason,
    }
}

/// Reaps and forwards until the command has ended, or the engine's process has.
fn supervise(channel: &Channel, children: &Signals, command: Pid) -> u8 {
    loop {
        // First, for children that ended before their signal was listened to.
        if let Some(status) = reap(command) {
            return status;
        }
        let Ok(ready) = signals::wait(&[children.as_fd(), channel.as_fd()], None) else {
            return 128 + Signal::SIGKILL as u8;
        };
        while children.next().is_some() {}
        if ready[1] {
            match channel.receive() {
                Ok(Some((ToStage::Signal(number), _))) => {
                    if let Ok(signal) = Signal::try_from(number) {
                        let _ = kill(command, signal);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return 128 + Signal::SIGKILL as u8,
            }
        }
    }
}

/// Takes the status of every process that has ended; tells the command's.
fn reap(command: Pid) -> Option<u8> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => {
                return Some((code & 0xff) as u8);
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                return Some(128 + signal as u8);
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Ends all other processes of the pid namespace (-1 does not mean ourselves) and waits for them, so
/// that their sockets are closed.
fn end_processes() {
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    loop {
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Waits until the kernel has sent what closed TCP sockets still hold: with the namespace it would be
/// lost, and a command that writes and ends at once would have written to nobody.
fn linger() {
    let end = Instant::now() + LINGER;
    let (mut pause, longest) = LINGER_PAUSES;
    while unsent_data() && Instant::now() < end {
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

fn unsent_data() -> bool {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .any(|path| fs::read_to_string(path).is_ok_and(|table| still_sending(&table)))
}

/// Whether a table of `/proc/net/tcp` holds a connection that is closed on this side and whose FIN the
/// other side has not acknowledged: FIN-WAIT-1, LAST-ACK or CLOSING (RFC 9293 §3.3.2). Those within the
/// namespace's own loopback end by themselves.
fn still_sending(table: &str) -> bool {
    const FIN_UNACKNOWLEDGED: [&str; 3] = ["04", "09", "0B"];
    table.lines().skip(1).any(|line| {
        line.split_ascii_whitespace()
            .nth(3)
            .is_some_and(|state| FIN_UNACKNOWLEDGED.contains(&state))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";

    #[test]
    fn waits_for_unacknowledged_ends_only() {
        let line = |state| {
            format!(
                "{HEAD}\n   0: 0361900A:9C40 0261900A:1451 {state} 00000010:00000000 01:00000014"
            )
        };
        for (state, waits) in [
            ("01", false),
            ("04", true),
            ("05", false),
            ("06", false),
            ("09", true),
            ("0B", true),
        ] {
            assert_eq!(still_sending(&line(state)), waits, "{state}");
        }
        assert!(!still_sending(HEAD));
        assert!(!still_sending("") && !still_sending("x\ny"));
    }

    #[test]
    fn statuses_are_those_of_a_shell() {
        let missing = not_started("nonesuch", &io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(missing.status, 127);
        assert!(
            missing.reason.contains("'nonesuch' was not found"),
            "{}",
            missing.reason
        );
        let refused = not_started("dir", &io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(refused.status, 126);
    }
}

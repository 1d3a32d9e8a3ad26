//! Guests: a namespace with a TAP in it, made by helper processes ("stages") that are this same program
//! started again.
//!
//! # Theory of operation
//!
//! The engine must stay in the caller's network namespace, the TAP must be made inside the guest's. A
//! process that has threads can't change its user namespace, and a `fork` without `exec` is not for
//! programs with threads; so the engine's process starts `/proc/self/exe` with a hidden first argument:
//!
//! ```text
//! towpath run ───────────▶ stage "namespace" ──────▶ stage "init" ──────────▶ COMMAND
//! engine, in the           unshares user, network,   pid 1 of the new pid
//! caller's namespaces      mount and pid             namespace: TAP, addresses,
//!      ▲                   namespaces; maps ids;     resolv.conf; starts COMMAND,
//!      │                   waits                     reaps
//!      └────── messages and TAP queues (SCM_RIGHTS) ──────┘
//!
//! towpath attach ────────▶ stage "join": enters the namespaces that it is given, makes the TAP,
//!                          hands its queues back, ends
//! ```
//!
//! A stage finds its end of the socket (`message::Channel`) as its standard input; the caller's own
//! standard input comes as a descriptor with the first message and becomes COMMAND's. Everything else
//! that COMMAND inherits (directory, environment, output, terminal, limits) it inherits through the
//! stages untouched, except the signal mask, which is empty. Our own descriptors are closed on exec.
//!
//! **Death.** Each stage asks the kernel to be killed when the one that started it dies
//! (`PR_SET_PDEATHSIG`) and checks after asking that it is not too late; init also ends when its socket
//! says that the engine's process is gone. With init all processes of its pid namespace die, with the last
//! of them the network namespace, and with the TAP's last descriptor the TAP. So `kill -9` of any of the
//! three leaves nothing behind, and neither does a COMMAND that leaves daemons.
//!
//! **Signals and the terminal.** All processes stay in the caller's session and process group. What the
//! terminal sends to the foreground group (Ctrl-C, Ctrl-\, hang-up) reaches COMMAND directly; we
//! hear it too and do nothing. What another process sends to `towpath` (SIGINT, SIGQUIT, SIGTERM, SIGHUP,
//! SIGUSR1, SIGUSR2) is passed on to COMMAND. The two are told apart by `si_code`. Stages block these
//! signals (init ignores them by its nature), so a signal for the group ends no stage. Ctrl-Z stops
//! everything including the engine, as if COMMAND had been run directly, and `fg` continues it.
//!
//! **The end.** When COMMAND ends, init kills what is left of its processes, waits until the kernel has
//! sent what they had written (closed sockets with data in their queues live on in the namespace, and
//! would be lost with it), tells COMMAND's status and ends.

pub(crate) mod configure;
mod init;
mod join;
mod launch;
pub(crate) mod message;
mod namespace;
pub(crate) mod probe;
pub(crate) mod resolv;
pub(crate) mod signals;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use towpath_ring::frames::tap::{Tap, TapError, TapOptions};

pub use launch::{Failure, Guest, GuestOptions, Namespaces, attach, run};

use message::{Channel, FromStage, Order};

/// The exit status for "towpath itself failed before the command ran", as `env` and `docker` use it.
pub const STATUS_SETUP_FAILED: u8 = 125;
/// The exit status for "the command can't be executed".
pub const STATUS_NOT_EXECUTABLE: u8 = 126;
/// The exit status for "the command was not found".
pub const STATUS_NOT_FOUND: u8 = 127;

/// How long a busy TAP is asked for again.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);

const NAMESPACE: &str = "__namespace";
const INIT: &str = "__init";
const JOIN: &str = "__join";
const PROBE: &str = "__probe";

/// Runs a stage if this process was started as one. Every program that starts guests through this
/// library calls it first thing in `main`, before it has threads, with its arguments:
///
/// ```no_run
/// # use std::process::ExitCode;
/// fn main() -> ExitCode {
///     if let Some(status) = towpath::guest::stage(std::env::args_os()) {
///         return status;
///     }
///     // …
/// #   ExitCode::SUCCESS
/// }
/// ```
pub fn stage(arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.skip(1);
    let name = arguments.next()?;
    match name.to_str()? {
        NAMESPACE => Some(namespace::main(arguments)),
        INIT => Some(init::main(arguments)),
        JOIN => Some(join::main(arguments)),
        PROBE => Some(probe::main()),
        crate::demo::guest::STAGE => Some(crate::demo::guest::main(arguments)),
        _ => None,
    }
}

/// This program again, as the stage `name`. It shows in process lists as "towpath: init …".
fn stage_command(name: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(format!("towpath: {}", name.trim_start_matches('_')))
        .arg(name);
    command
}

/// Asks the kernel to kill this process with the one that started it. `parent` is that one's pid, if
/// it can be seen from here; a parent that died before we asked is not missed.
fn die_with_parent(parent: Option<i32>) -> Result<(), Fault> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| Fault::setup(format!("can't be tied to the parent process: {error}")))?;
    match parent {
        Some(parent) if nix::unistd::getppid().as_raw() != parent => {
            Err(Fault::setup("the process that started this one is gone"))
        }
        _ => Ok(()),
    }
}

/// The kernel takes the ring of a process that was killed down some milliseconds after its end, and
/// only then lets go of its TAP: a busy TAP may be free in a moment.
fn open_tap(order: &Order) -> Result<Tap, TapError> {
    let until = Instant::now() + BUSY_PATIENCE;
    let tap_options = TapOptions {
        plain: order.plain,
        ..TapOptions::default()
    };
    loop {
        match Tap::create(&order.ifname, order.queues, &tap_options) {
            Err(TapError::Attach {
                errno: rustix::io::Errno::BUSY,
                ..
            }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// Makes the TAP and sets it up as ordered; the namespace is that of the calling thread.
fn make_interface(order: &Order, own_namespace: bool) -> Result<(Tap, Vec<String>), Fault> {
    let tap = open_tap(order).map_err(|error| Fault::setup(error.to_string()))?;
    let notes = configure::apply(order, own_namespace).map_err(Fault::setup)?;
    Ok((tap, notes))
}

/// Tells the engine's process that the interface is there.
fn hand_over(channel: &Channel, tap: Tap, notes: Vec<String>) -> Result<(), Fault> {
    let Tap { queues, features } = tap;
    let descriptors: Vec<_> = queues.iter().map(AsFd::as_fd).collect();
    for note in notes {
        channel
            .send(&FromStage::Note(note), &[])
            .map_err(Fault::parent)?;
    }
    channel
        .send(&FromStage::Ready(features.into()), &descriptors)
        .map_err(Fault::parent)
}

/// Why a stage can't go on.
#[derive(Debug)]
struct Fault {
    status: u8,
    reason: String,
}

impl Fault {
    fn setup(reason: impl Into<String>) -> Self {
        Self {
            status: STATUS_SETUP_FAILED,
            reason: reason.into(),
        }
    }

    fn parent(error: std::io::Error) -> Self {
        Self::setup(format!("the engine's process does not answer: {error}"))
    }
}

/// The end of a stage: what went wrong is told to the engine's process, which tells the user.
fn end(channel: &Channel, outcome: Result<u8, Fault>) -> ExitCode {
    let status = match outcome {
        Ok(status) => status,
        Err(Fault { status, reason }) => {
            let told = channel.send(&FromStage::Failed { status, reason }, &[]);
            let by_hand = Some(nix::errno::Errno::ENOTSOCK as i32);
            if told.is_err_and(|error| error.raw_os_error() == by_hand) {
                eprintln!("towpath: this is a part of 'towpath run', not a command of its own");
            }
            status
        }
    };
    ExitCode::from(status)
}

/// The channel of a stage; without one somebody started the hidden command by hand.
fn stage_channel() -> Result<Channel, ExitCode> {
    Channel::from_stdin().map_err(|_| ExitCode::from(STATUS_SETUP_FAILED))
}

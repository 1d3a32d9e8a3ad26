//! The test binary's second lives: it re-executes itself where a test needs a small program.
//!
//! - `leash NETNS PROGRAM ARG…` becomes PROGRAM, killed when the thread that started it ends, in
//!   the network namespace of that path; `-` is the caller's.
//!   `@in` and `@out` in the arguments become the numbers of descriptors that are copies of
//!   stdin and stdout, which are then `/dev/null`: that is how a descriptor is handed to one child
//!   and to no other that happens to be started meanwhile.
//! - `without-io-uring PROGRAM ARG…` becomes PROGRAM under a seccomp filter that forbids io_uring, as
//!   Docker's default does.
//! - `hold` sends its network namespace over stdin, a socket, and lives until that is closed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The first argument that asks for [`leash`].
pub(crate) const LEASH: &str = "leash";
/// In place of a namespace's path: stay in the caller's.
pub(crate) const OWN_NAMESPACE: &str = "-";
/// In an argument: the number of a copy of stdin, and of stdout.
const IN: &str = "@in";
const OUT: &str = "@out";
/// The first argument that asks for [`without_io_uring`].
pub(crate) const WITHOUT_IO_URING: &str = "without-io-uring";
/// The first argument that asks for [`hold`].
pub(crate) const HOLD: &str = "hold";

/// Runs another life if the arguments ask for one.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next()?.to_str()? {
        LEASH => Some(leash(arguments.collect())),
        WITHOUT_IO_URING => Some(without_io_uring(arguments.collect())),
        HOLD => Some(hold()),
        _ => None,
    }
}

fn leash(arguments: Vec<OsString>) -> ExitCode {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .expect("the signal is valid");
    let (namespace, arguments) = arguments.split_first().expect("a namespace and a program");
    if namespace != OWN_NAMESPACE {
        let file = File::open(namespace).expect("the test keeps the namespace");
        setns(file, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
    }
    let arguments: Vec<OsString> = arguments
        .iter()
        .map(|argument| match argument.to_str() {
            Some(text) if text.contains(IN) => text.replace(IN, &pass_on(&std::io::stdin())).into(),
            Some(text) if text.contains(OUT) => {
                text.replace(OUT, &pass_on(&std::io::stdout())).into()
            }
            _ => argument.clone(),
        })
        .collect();
    let error = Command::new(&arguments[0]).args(&arguments[1..]).exec();
    eprintln!("{}: {error}", arguments[0].display());
    ExitCode::FAILURE
}

fn without_io_uring(arguments: Vec<OsString>) -> ExitCode {
    let calls = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    let filter = SeccompFilter::new(
        calls.into_iter().map(|call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error() as u32),
        std::env::consts::ARCH
            .try_into()
            .expect("a filter for this processor"),
    )
    .expect("the rules are right");
    let program: BpfProgram = filter.try_into().expect("the filter is small");
    seccompiler::apply_filter(&program).expect("a process may restrict itself");
    let error = Command::new(&arguments[0]).args(&arguments[1..]).exec();
    eprintln!("{}: {error}", arguments[0].display());
    ExitCode::FAILURE
}

/// A copy of a standard descriptor that survives `exec`, in whose place `/dev/null` is put.
fn pass_on(standard: &impl AsFd) -> String {
    let copy = fcntl_dupfd_cloexec(standard, 3).expect("a descriptor is free");
    fcntl_setfd(&copy, FdFlags::empty()).expect("the descriptor is open");
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .expect("/dev/null opens");
    match standard.as_fd().as_raw_fd() {
        0 => rustix::stdio::dup2_stdin(null).expect("stdin can be replaced"),
        _ => rustix::stdio::dup2_stdout(null).expect("stdout can be replaced"),
    }
    copy.into_raw_fd().to_string()
}

fn hold() -> ExitCode {
    let namespace = File::open("/proc/self/ns/net").expect("/proc shows this process");
    let stdin = std::io::stdin();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [namespace.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(
        &stdin,
        &[IoSlice::new(b"n")],
        &mut control,
        SendFlags::empty(),
    )
    .expect("stdin is the socket that the test gave");
    // Closed by the test when it is done with this guest.
    let _ = stdin.lock().read(&mut [0]);
    ExitCode::SUCCESS
}

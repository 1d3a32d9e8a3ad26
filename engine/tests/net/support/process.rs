//! Processes that a test starts: what they say is kept, and they never outlive the test.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::namespace::Namespace;
use super::reexec;

/// A command that dies with the thread that starts it, in a namespace or the caller's.
pub(crate) fn leashed(namespace: Option<&Namespace>, program: impl AsRef<OsStr>) -> Command {
    let own = std::env::current_exe().expect("the test binary has a path");
    let mut command = Command::new(own);
    command.arg(reexec::LEASH);
    match namespace {
        Some(namespace) => command.arg(namespace.path()),
        None => command.arg(reexec::OWN_NAMESPACE),
    };
    command.arg(program);
    command
}

/// All processes of one test, for its time-out and its report.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Vec<Entry>>>);

struct Entry {
    what: String,
    pidfd: Arc<OwnedFd>,
    stderr: File,
}

impl Registry {
    /// Starts a command; its stderr is kept, its stdout as well unless the caller set another.
    #[track_caller]
    pub(crate) fn spawn(
        &self,
        mut command: Command,
        stdin: Stdio,
        stdout: Option<Stdio>,
    ) -> Process {
        let what: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let what = what.join(" ");
        let stderr = tempfile::tempfile().expect("a temporary file");
        let kept = tempfile::tempfile().expect("a temporary file");
        let copy = |file: &File| file.try_clone().expect("a descriptor is free");
        command.stdin(stdin).stderr(copy(&stderr));
        command.stdout(stdout.unwrap_or_else(|| copy(&kept).into()));
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = Arc::new(pidfd.expect("a child that was not waited for has its pid"));
        let entry = Entry {
            what,
            pidfd: Arc::clone(&pidfd),
            stderr: copy(&stderr),
        };
        self.0.lock().expect("no holder panics").push(entry);
        Process {
            child,
            pidfd,
            stdout: kept,
            stderr,
            status: None,
        }
    }

    /// Kills whatever still runs.
    pub(crate) fn kill_all(&self) {
        for entry in self.0.lock().expect("no holder panics").iter() {
            // Most have ended long ago.
            let _ = pidfd_send_signal(&entry.pidfd, Signal::KILL);
        }
    }

    /// What each process said on stderr.
    pub(crate) fn report(&self) -> String {
        let mut report = String::new();
        for entry in self.0.lock().expect("no holder panics").iter() {
            let said = contents(&entry.stderr);
            report += &format!("--- {}\n{}", entry.what, String::from_utf8_lossy(&said));
        }
        report
    }
}

/// A started process; dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    pidfd: Arc<OwnedFd>,
    stdout: File,
    stderr: File,
    status: Option<ExitStatus>,
}

impl Process {
    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).expect("the process has not been waited for");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("it is our child");
        self.status = Some(status);
        status
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// What it wrote to stdout until now, unless that went elsewhere.
    pub(crate) fn stdout(&self) -> Vec<u8> {
        contents(&self.stdout)
    }

    /// What it wrote to stderr until now.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&contents(&self.stderr)).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            // An error means that it has ended.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads a file whose offset belongs to its writer.
fn contents(file: &File) -> Vec<u8> {
    let length = file
        .metadata()
        .expect("a temporary file has a length")
        .len();
    let mut bytes = vec![0; usize::try_from(length).expect("it fits into memory")];
    file.read_exact_at(&mut bytes, 0)
        .expect("a temporary file only grows");
    bytes
}

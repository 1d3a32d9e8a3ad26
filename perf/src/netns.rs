//! Network namespaces of our own, each with a path that other programs can open.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::failure::{Context, Failure, Outcome};
use crate::sandbox;

/// Number of the next namespace; paths are never used twice.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A network namespace that lives until this is dropped and the last process has left it.
#[derive(Debug)]
pub(crate) struct NetNs {
    path: PathBuf,
    file: File,
}

impl NetNs {
    /// Makes an empty namespace whose loopback is up; `name` begins its file's name.
    ///
    /// # Errors
    /// The kernel refuses, or the `ip` program is missing.
    pub(crate) fn new(name: &str) -> Outcome<NetNs> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(sandbox::DIRECTORY).join(format!("{name}-{number}"));
        File::create(&path).doing("make a namespace's file")?;
        // A network namespace belongs to a thread: one that ends at once leaves ours as it was.
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let here = Some("/proc/thread-self/ns/net");
                mount(here, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            });
            made.join().expect("the thread does not panic")
        })
        .doing("make a network namespace")?;
        let file = File::open(&path).doing("open a network namespace")?;
        let netns = NetNs { path, file };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The file that stands for it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `inside` on a thread in this namespace; programs that it starts and sockets that it
    /// makes belong to it.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `inside` returns.
    pub(crate) fn enter<T: Send>(&self, inside: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).doing("enter a network namespace")?;
                inside()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs commands of the `ip` program, one a line.
    pub(crate) fn ip(&self, commands: &str) -> Outcome<()> {
        self.tool("ip", &["-batch", "-"], commands)
    }

    /// Runs a program to its end; its error text becomes the failure's.
    pub(crate) fn tool(&self, program: &str, args: &[&str], input: &str) -> Outcome<()> {
        let output = self.enter(|| {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .doing(format_args!("start {program}"))?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin
                    .write_all(input.as_bytes())
                    .doing(format_args!("write to {program}"))?;
            }
            child
                .wait_with_output()
                .doing(format_args!("wait for {program}"))
        })?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!(
            "{program} {}: {}",
            args.join(" "),
            text.trim()
        )))
    }

    /// Sets a `net.*` sysctl of this namespace; `name` is a path below `/proc/sys/net`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Outcome<()> {
        let path = Path::new("/proc/sys/net").join(name);
        self.enter(|| fs::write(&path, value).doing(format_args!("set {name} to {value}")))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // At worst it stays until the harness ends, and goes with the mount namespace.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

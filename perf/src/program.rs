//! A program that runs beside us: started in a namespace, ended for sure.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::failure::{Context, Failure, Outcome};
use crate::netns::NetNs;
use crate::sandbox;

/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// Pause between two looks at a program.
const LOOK: Duration = Duration::from_millis(5);

/// Number of the next log file.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A running program; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    /// Where its standard output goes.
    output: PathBuf,
    /// Where its standard error goes.
    errors: PathBuf,
}

impl Program {
    /// Starts `command` in `netns` with nothing to read and its output in files.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(name: &str, netns: &NetNs, mut command: Command) -> Outcome<Program> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = Path::new(sandbox::DIRECTORY);
        let output = directory.join(format!("{name}-{number}.out"));
        let errors = directory.join(format!("{name}-{number}.err"));
        command
            // Ctrl-C is for the harness alone: a terminal sends it to a whole group.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(&output).doing("make an output file")?)
            .stderr(File::create(&errors).doing("make an error file")?);
        let child = netns.enter(|| command.spawn().doing(format_args!("start {name}")))?;
        Ok(Program {
            name: name.to_owned(),
            child,
            output,
            errors,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the program has ended; the failure quotes its last words.
    pub(crate) fn check_alive(&mut self) -> Outcome<()> {
        match self.child.try_wait().doing("look at a program")? {
            None => Ok(()),
            Some(status) => Err(self.ended(status)),
        }
    }

    /// Waits until it ends, calling `meanwhile` between looks; returns its standard output.
    ///
    /// # Errors
    /// It fails, or runs longer than `limit`.
    pub(crate) fn finish(
        &mut self,
        limit: Duration,
        mut meanwhile: impl FnMut(),
    ) -> Outcome<String> {
        let output = self.finish_unless(limit, || {
            meanwhile();
            false
        });
        output.map(|output| output.expect("nothing stops the wait"))
    }

    /// Waits until it ends or, between two looks, `stopped` says so; returns its standard output,
    /// or `None` where it was not waited for.
    ///
    /// # Errors
    /// It fails, or runs longer than `limit`.
    pub(crate) fn finish_unless(
        &mut self,
        limit: Duration,
        mut stopped: impl FnMut() -> bool,
    ) -> Outcome<Option<String>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().doing("look at a program")? {
                if status.success() {
                    let output = fs::read_to_string(&self.output);
                    return output.map(Some).doing("read a program's output");
                }
                return Err(self.ended(status));
            }
            if Instant::now() > end {
                let (name, limit) = (&self.name, limit.as_secs());
                return Err(Failure::new(format!("{name} did not end within {limit} s")));
            }
            if stopped() {
                return Ok(None);
            }
            thread::sleep(LOOK);
        }
    }

    /// Has it end as its user would, and returns what it wrote to its standard error.
    ///
    /// # Errors
    /// It does not end, or what it wrote cannot be read.
    pub(crate) fn stop(&mut self) -> Outcome<String> {
        let name = &self.name;
        let pid = Pid::from_raw(self.child.id() as i32);
        // While it has not been waited for, its id is nobody else's.
        if self.child.try_wait().doing("look at a program")?.is_none() {
            kill(pid, Signal::SIGTERM).doing(format_args!("end {name}"))?;
        }
        let end = Instant::now() + GRACE;
        while self.child.try_wait().doing("look at a program")?.is_none() {
            if Instant::now() > end {
                return Err(Failure::new(format!(
                    "{name} does not end when it is told to"
                )));
            }
            thread::sleep(LOOK);
        }
        fs::read_to_string(&self.errors).doing("read a program's words")
    }

    /// The last line that it wrote to its standard error.
    pub(crate) fn last_words(&self) -> Option<String> {
        let text = fs::read_to_string(&self.errors).ok()?;
        let last = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(last.trim().trim_start_matches("towpath-perf: ").to_owned())
    }

    fn ended(&self, status: ExitStatus) -> Failure {
        let name = &self.name;
        match self.last_words() {
            Some(line) => Failure::new(format!("{name}: {line}")),
            None => Failure::new(format!("{name} ended without a word ({status})")),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let end = Instant::now() + GRACE;
        // While it has not been waited for, its id is nobody else's.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(pid, Signal::SIGTERM);
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                thread::sleep(LOOK);
            }
            if let Ok(None) = self.child.try_wait() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        let _ = fs::remove_file(&self.output);
        let _ = fs::remove_file(&self.errors);
    }
}

//! The `perf` program: started on a running process, told when to look, ended.
//!
//! It starts disabled and is switched on and off through a pair of named pipes
//! (`--control fifo:…`), each time with an answer. So what it counts is what happened between two
//! moments that we know, not between two starts of programs.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::failure::{Context, Failure, Outcome};
use crate::sandbox;

/// How long it may take to look at every thread of a process, or to write its file.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at an answer.
const LOOK: Duration = Duration::from_millis(2);

/// Number of the next pair of pipes.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A `perf record` or `perf stat` at work; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Perf {
    child: Child,
    orders: File,
    answers: File,
    /// Where its standard error goes.
    errors: PathBuf,
}

impl Perf {
    /// Starts `perf VERB` on these processes, disabled. `args` name the events and the output.
    ///
    /// # Errors
    /// There is no such program, or the kernel does not let it look; its own words in that case.
    pub(crate) fn start(verb: &str, pids: &[u32], args: &[&str]) -> Outcome<Perf> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = |end: &str| Path::new(sandbox::DIRECTORY).join(format!("perf-{number}.{end}"));
        let (orders, answers, errors) = (path("orders"), path("answers"), path("err"));
        let control = format!("fifo:{},{}", orders.display(), answers.display());
        let (orders, answers) = (pipe(&orders)?, pipe(&answers)?);
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let child = Command::new("perf")
            .args([verb, "--delay=-1", "--control", &control, "-p"])
            .arg(pids.join(","))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).doing("make an error file")?)
            .spawn()
            .map_err(missing)?;
        Ok(Perf {
            child,
            orders,
            answers,
            errors,
        })
    }

    /// Has it count from now on; returns once it does.
    ///
    /// # Errors
    /// It ended instead.
    pub(crate) fn enable(&mut self) -> Outcome<()> {
        self.order("enable")
    }

    /// Has it count no more; returns once that is so.
    ///
    /// # Errors
    /// It ended instead.
    pub(crate) fn disable(&mut self) -> Outcome<()> {
        self.order("disable")
    }

    /// Ends it and returns what it wrote to its standard error.
    ///
    /// # Errors
    /// It did not end within its time.
    pub(crate) fn finish(mut self) -> Outcome<String> {
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, Signal::SIGINT).doing("end perf")?;
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().doing("wait for perf")?.is_none() {
            if Instant::now() > end {
                return Err(Failure::new("perf did not end after an interrupt"));
            }
            thread::sleep(LOOK);
        }
        fs::read_to_string(&self.errors).doing("read perf's words")
    }

    fn order(&mut self, order: &str) -> Outcome<()> {
        self.orders
            .write_all(format!("{order}\n").as_bytes())
            .doing("give perf an order")?;
        let end = Instant::now() + PATIENCE;
        let mut answer = [0; 64];
        loop {
            match self.answers.read(&mut answer) {
                Ok(length) if answer[..length].starts_with(b"ack") => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).doing("read perf's answer"),
            }
            if self.child.try_wait().doing("look at perf")?.is_some() {
                let words = fs::read_to_string(&self.errors).unwrap_or_default();
                return Err(refused(&words));
            }
            if Instant::now() > end {
                return Err(Failure::new("perf gave no answer"));
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The event that samples time: cycles where the processor counts them for us, else a timer.
pub(crate) fn clock() -> Outcome<&'static str> {
    let output = Command::new("perf")
        .args(["stat", "-x,", "-e", "cycles", "--", "true"])
        .output()
        .map_err(missing)?;
    let counted = output.status.success()
        && !String::from_utf8_lossy(&output.stderr).contains("<not supported>");
    Ok(if counted { "cycles" } else { "cpu-clock" })
}

/// What `perf script` makes of a recorded file.
///
/// # Errors
/// It fails; its own words.
pub(crate) fn script(data: &Path, fields: &str) -> Outcome<Vec<u8>> {
    let output = Command::new("perf")
        .args(["script", "--no-inline", "-F", fields, "-i"])
        .arg(data)
        .stdin(Stdio::null())
        .output()
        .map_err(missing)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("perf script: {}", words.trim())))
}

/// A named pipe, open at both ends, so that neither side waits for the other or sees an end.
fn pipe(path: &Path) -> Outcome<File> {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).doing("make a named pipe")?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .doing("open a named pipe")
}

fn missing(error: std::io::Error) -> Failure {
    Failure::new(format!(
        "the program perf cannot be started: {error} (Debian: apt install linux-perf)"
    ))
}

/// What perf says when it may not look, in one line, with what would help.
fn refused(words: &str) -> Failure {
    let line = words
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.ends_with(':'))
        .unwrap_or("it ended without a word");
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    let level = level.trim();
    Failure::new(format!(
        "perf may not look: {line} (kernel.perf_event_paranoid is {level}; run as root, or set it \
         to 1 or less)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_and_says_what_would_help() {
        let failure = refused("Error:\n\nAccess to performance monitoring is limited.\nMore\n");
        let text = failure.to_string();
        assert!(text.contains("monitoring is limited. ("), "{text}");
        assert!(text.contains("perf_event_paranoid is"), "{text}");
    }
}

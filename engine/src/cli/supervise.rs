//! What supervisors want: a descriptor that says "ready", one that says "end", a file with the pid.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::process::Resource;

use super::args;
use crate::inherited;

/// The descriptors and the file, checked.
#[derive(Debug)]
pub(super) struct Supervision {
    ready: Option<File>,
    exit: Option<OwnedFd>,
    pid_file: Option<PathBuf>,
    written: Option<PidFile>,
}

impl Supervision {
    /// Takes over the descriptors. Must come before anything else opens one: a number that is not open
    /// now was not given by the caller.
    pub(super) fn take(arguments: &args::Supervision) -> Result<Self, String> {
        let args::Supervision {
            ready_fd,
            exit_fd,
            pid_file,
        } = arguments;
        if ready_fd.is_some() && ready_fd == exit_fd {
            return Err("--ready-fd and --exit-fd name the same file descriptor".to_owned());
        }
        for (option, number) in [("--ready-fd", ready_fd), ("--exit-fd", exit_fd)] {
            if let Some(number) = number {
                check_open(option, *number)?;
            }
        }
        let ready = ready_fd.map(take_ready).transpose()?;
        let exit = exit_fd.map(take_exit).transpose()?;
        Ok(Self {
            ready,
            exit,
            pid_file: pid_file.clone(),
            written: None,
        })
    }

    /// Readable or hung up when it is time to end.
    pub(super) fn exit(&self) -> Option<BorrowedFd<'_>> {
        self.exit.as_ref().map(AsFd::as_fd)
    }

    /// Whether the other side of the descriptor is really gone; bytes that came over it are read away.
    pub(super) fn exit_is_due(&self) -> bool {
        let Some(exit) = &self.exit else { return false };
        let mut bytes = [0; 512];
        match rustix::io::read(exit, &mut bytes) {
            Ok(count) => count == 0,
            // A write end can't be read; that it is ready means that its reader is gone.
            Err(errno) => ![rustix::io::Errno::AGAIN, rustix::io::Errno::INTR].contains(&errno),
        }
    }

    /// Traffic flows: writes the pid file, then "1".
    pub(super) fn tell_ready(&mut self) -> Result<(), String> {
        if let Some(path) = &self.pid_file {
            let written = PidFile::write(path).map_err(|error| {
                format!("--pid-file {}: can't be written: {error}", path.display())
            })?;
            self.written = Some(written);
        }
        if let Some(mut ready) = self.ready.take() {
            // A supervisor that has closed its end does not want to know.
            match ready.write_all(b"1") {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(format!("--ready-fd: can't be written: {error}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn check_open(option: &str, number: i32) -> Result<(), String> {
    if !inherited::is_open(number) {
        return Err(format!(
            "{option} {number}: this file descriptor is not open; the caller must leave it open for \
             towpath (in a shell: towpath … {option} {number} {number}>FILE)"
        ));
    }
    Ok(())
}

fn take_ready(number: i32) -> Result<File, String> {
    let fd = take_descriptor("--ready-fd", number)?;
    let mode = rustix::fs::fcntl_getfl(&fd).map_err(|error| format!("--ready-fd: {error}"))?;
    if mode & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(format!(
            "--ready-fd {number}: this file descriptor can't be written to"
        ));
    }
    Ok(File::from(fd))
}

fn take_exit(number: i32) -> Result<OwnedFd, String> {
    let fd = take_descriptor("--exit-fd", number)?;
    let status = rustix::fs::fstat(&fd).map_err(|error| format!("--exit-fd: {error}"))?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Fifo | FileType::Socket => Ok(fd),
        _ => Err(format!(
            "--exit-fd {number}: must be a pipe or a socket, whose other side the supervisor closes"
        )),
    }
}

/// Makes a number that the caller gave a descriptor of ours, closed on exec: the command must hold
/// neither, or the supervisor would not see their end.
fn take_descriptor(option: &str, number: i32) -> Result<OwnedFd, String> {
    let again = || {
        // Where pidfds are forbidden: opens a pipe once more, by its name in /proc.
        let flags = if option == "--ready-fd" {
            OFlags::WRONLY
        } else {
            OFlags::RDONLY
        };
        let path = format!("/proc/self/fd/{number}");
        rustix::fs::open(path, flags | OFlags::CLOEXEC, rustix::fs::Mode::empty())
    };
    let taken = inherited::duplicate(number).or_else(|_| again());
    let taken =
        taken.map_err(|error| format!("{option} {number}: can't be taken over: {error}"))?;
    inherited::close(number);
    Ok(taken)
}

/// A file with our pid, removed when dropped.
#[derive(Debug)]
struct PidFile(PathBuf);

impl PidFile {
    /// Written under another name and then renamed: who reads it finds a whole pid or nothing. What a
    /// killed process left there is replaced.
    fn write(path: &Path) -> io::Result<Self> {
        let pid = std::process::id();
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut draft_name = std::ffi::OsString::from(".");
        draft_name.push(name);
        draft_name.push(format!(".{pid}"));
        let draft = path.with_file_name(draft_name);
        let written = fs::write(&draft, format!("{pid}\n")).and_then(|()| fs::rename(&draft, path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written.map(|()| Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Not if a later process has taken the file over.
        let own = format!("{}\n", std::process::id());
        if fs::read_to_string(&self.0).is_ok_and(|text| text == own) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Raises what the engine takes much of to the hard limits: descriptors (one per connection) and locked
/// memory (its rings). Comes after the command's stages were started, which keep the caller's limits.
pub(super) fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Memlock] {
        let mut limit = rustix::process::getrlimit(resource);
        limit.current = limit.maximum;
        if let Err(error) = rustix::process::setrlimit(resource, limit) {
            tracing::info!("the limit {resource:?} can't be raised: {error}");
        }
    }
}

/// The terminal's foreground process group. A shell as command takes it for itself and, as it does not
/// see our group from its pid namespace, can't give it back.
#[derive(Debug)]
pub(super) struct Foreground(Option<(File, rustix::process::Pid)>);

impl Foreground {
    /// Remembers the terminal if we are in its foreground.
    pub(super) fn remember() -> Self {
        // 0, which is no group of ours, where its leader is outside of our pid namespace.
        let own = rustix::process::Pid::from_raw(nix::unistd::getpgrp().as_raw());
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        let group = |terminal: &File| rustix::termios::tcgetpgrp(terminal).ok();
        Self(
            terminal
                .zip(own)
                .filter(|(terminal, own)| group(terminal) == Some(*own)),
        )
    }
}

impl Drop for Foreground {
    /// SIGTTOU is blocked, so this is allowed from the background too.
    fn drop(&mut self) {
        if let Some((terminal, own)) = &self.0
            && rustix::termios::tcgetpgrp(terminal).ok() != Some(*own)
        {
            let _ = rustix::termios::tcsetpgrp(terminal, *own);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    fn arguments(ready_fd: Option<i32>, exit_fd: Option<i32>) -> args::Supervision {
        args::Supervision {
            ready_fd,
            exit_fd,
            pid_file: None,
        }
    }

    #[test]
    fn ready_is_one_byte_and_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let number = writer.into_raw_fd();
        let mut supervision = Supervision::take(&arguments(Some(number), None)).unwrap();
        supervision.tell_ready().unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1");
    }

    #[test]
    fn exit_is_due_at_the_end_and_not_before() {
        let (reader, mut writer) = io::pipe().unwrap();
        let number = reader.into_raw_fd();
        let supervision = Supervision::take(&arguments(None, Some(number))).unwrap();
        assert!(supervision.exit().is_some());
        writer.write_all(b"still here").unwrap();
        assert!(!supervision.exit_is_due());
        drop(writer);
        assert!(supervision.exit_is_due());
    }

    #[test]
    fn descriptors_that_will_not_do_are_named() {
        let take = |ready, exit| Supervision::take(&arguments(ready, exit)).unwrap_err();
        assert!(
            take(Some(987_654), None).contains("--ready-fd 987654: this file descriptor is not")
        );
        assert!(take(Some(5), Some(5)).contains("same"));
        let (reader, _writer) = io::pipe().unwrap();
        let number = reader.into_raw_fd();
        assert!(take(Some(number), None).contains("can't be written"));
        let file = tempfile::tempfile().unwrap();
        let number = file.as_fd().try_clone_to_owned().unwrap().into_raw_fd();
        assert!(take(None, Some(number)).contains("pipe or a socket"));
        assert!(file.as_raw_fd() >= 0);
    }

    #[test]
    fn the_pid_file_replaces_a_stale_one_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "999999999 stale").unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(file);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(PidFile::write(&directory.path().join("none/pid")).is_err());

        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists(), "a successor's file stays");
    }
}

//! A guest at standard input and output: one socket for both, or two pipes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::fs::{FileType, Mode, OFlags, fstat};

/// What is copied at a time, at most: some frames of the largest kind.
const PUMP_BYTES: usize = 256 << 10;

/// A stream socket that leads to standard input and output. Both are `/dev/null` afterwards: the guest
/// sees its end when the engine closes the socket, and nothing else can write between the frames.
///
/// # Errors
///
/// For people: they are neither a socket nor pipes.
pub(super) fn take() -> Result<OwnedFd, String> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let input = kind_of(stdin.as_fd(), "standard input")?;
    let output = kind_of(stdout.as_fd(), "standard output")?;
    let taken = duplicates(stdin.as_fd(), stdout.as_fd())
        .map_err(|error| format!("standard input and output can't be taken over: {error}"))?;
    let (reader, writer) = taken;
    if input.is_socket && input.inode == output.inode {
        return Ok(reader);
    }
    relay(reader.into(), writer.into())
        .map_err(|error| format!("standard input and output can't be relayed: {error}"))
}

struct Kind {
    is_socket: bool,
    inode: u64,
}

fn kind_of(fd: BorrowedFd<'_>, what: &str) -> Result<Kind, String> {
    let status = fstat(fd).map_err(|error| format!("{what}: {error}"))?;
    let kind = FileType::from_raw_mode(status.st_mode);
    if ![FileType::Socket, FileType::Fifo].contains(&kind) {
        return Err(format!(
            "{what} is neither a socket nor a pipe: a guest must be at its other side, as behind \
             'ssh HOST towpath serve --listen stdio:'"
        ));
    }
    Ok(Kind {
        is_socket: kind == FileType::Socket,
        inode: status.st_ino,
    })
}

fn duplicates(stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let taken = (stdin.try_clone_to_owned()?, stdout.try_clone_to_owned()?);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(taken)
}

/// A socket with a thread for each direction behind it. The end of one side is passed on to the other. The
/// threads end with the pipes, or with the process.
fn relay(mut reader: File, mut writer: File) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut up = ours.try_clone()?;
    let mut down = ours;
    thread::Builder::new()
        .name("towpath-stdin".into())
        .spawn(move || {
            let _ = pump(&mut reader, &mut up);
            let _ = up.shutdown(Shutdown::Write);
        })?;
    thread::Builder::new()
        .name("towpath-stdout".into())
        .spawn(move || {
            let _ = pump(&mut down, &mut writer);
            let _ = down.shutdown(Shutdown::Both);
        })?;
    Ok(theirs.into())
}

/// Copies until the end. Not by `splice(2)`, as `io::copy` does: while that waits for a socket it keeps the
/// pipe locked, and who reads the pipe does not get what is in it.
fn pump(reader: &mut impl Read, writer: &mut impl Write) -> io::Result<()> {
    let mut bytes = vec![0; PUMP_BYTES];
    loop {
        match reader.read(&mut bytes)? {
            0 => return Ok(()),
            count => writer.write_all(&bytes[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_one_socket_and_ends_are_passed_on() {
        let (input, mut guest_writes) = io::pipe().unwrap();
        let (mut guest_reads, output) = io::pipe().unwrap();
        let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
        let mut socket = UnixStream::from(relay(input.into(), output.into()).unwrap());
        let mut bytes = [0; 5];
        guest_writes.write_all(b"frame").unwrap();
        socket.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"frame");
        socket.write_all(b"reply").unwrap();
        guest_reads.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"reply");

        drop(guest_writes);
        assert_eq!(socket.read(&mut bytes).unwrap(), 0, "the guest has left");
        drop(socket);
        assert_eq!(guest_reads.read(&mut bytes).unwrap(), 0, "and is told so");
    }

    #[test]
    fn what_leads_nowhere_is_named() {
        let file = tempfile::tempfile().unwrap();
        let error = kind_of(file.as_fd(), "standard input").err().unwrap();
        assert!(error.contains("standard input is neither"), "{error}");
    }
}

//! Frames both ways, one thread each.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::framing::{Framing, HEADER_MAX};
use crate::failure::{Context, Outcome};

/// Bytes gathered for one write to the engine, or taken by one read from it: several frames of the
/// largest MTU.
const BUFFER_BYTES: usize = 512 << 10;

/// Carries frames between a TAP, which must not block, and a stream, which must.
///
/// # Errors
/// Always in the end: the stream was closed, or either side failed.
pub(crate) fn run(
    tap: impl AsFd + Send + Sync + 'static,
    stream: UnixStream,
    framing: Framing,
    mtu: usize,
) -> Outcome<()> {
    let frame_max = mtu + HEADER_MAX;
    let (tap, stream) = (Arc::new(tap), Arc::new(stream));
    let (first, ended) = mpsc::channel();
    let second = first.clone();
    let (from, to) = (tap.clone(), stream.clone());
    thread::spawn(move || first.send(to_stream(&*from, &to, framing, frame_max)));
    thread::spawn(move || second.send(to_tap(&stream, &*tap, framing, frame_max)));
    // The direction that goes on has nobody to talk to; it ends with the process.
    let why = ended.recv().doing("wait for an end")?;
    why.doing("carry frames")
}

/// All frames that are ready go in one write.
fn to_stream(
    tap: &impl AsFd,
    mut stream: &UnixStream,
    framing: Framing,
    frame_max: usize,
) -> io::Result<()> {
    let prefix = framing.prefix_bytes();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut filled = 0;
        while buffer.len() - filled >= prefix + frame_max {
            let (length, frame) = buffer[filled..].split_at_mut(prefix);
            match rustix::io::read(tap, frame) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    framing.write_length(read, length);
                    filled += prefix + read;
                }
                Err(Errno::AGAIN) if filled > 0 => break,
                Err(Errno::AGAIN) => wait(tap, PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        stream.write_all(&buffer[..filled])?;
    }
}

/// Takes what the stream has, and writes the frames that are whole.
fn to_tap(
    mut stream: &UnixStream,
    tap: &impl AsFd,
    framing: Framing,
    frame_max: usize,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..])? {
            0 => return Err(io::Error::other("the engine closed its socket")),
            read => filled += read,
        }
        let mut done = 0;
        while let Some(frame) = framing
            .first_frame(&buffer[done..filled], frame_max)
            .map_err(out_of_step)?
        {
            write_frame(tap, &buffer[done + frame.start..done + frame.end])?;
            done += frame.end;
        }
        // What is left is less than a frame.
        buffer.copy_within(done..filled, 0);
        filled -= done;
    }
}

fn write_frame(tap: &impl AsFd, frame: &[u8]) -> io::Result<()> {
    loop {
        match rustix::io::write(tap, frame) {
            Err(Errno::AGAIN) => wait(tap, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            // Too short to be a frame, or no memory for it: that frame is lost, as on a wire.
            Ok(_) | Err(Errno::INVAL | Errno::NOBUFS) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait(on: &impl AsFd, events: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(on, events)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn out_of_step(length: u32) -> io::Error {
    let text = format!("the engine sent a frame of {length} bytes, which no frame here can have");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

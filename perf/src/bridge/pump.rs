//! Frames both ways, one thread each.
//!
//! The TAP is one with offloads, whose frames are up to 64 KiB: a system call for each frame of the MTU
//! would cost more than all else. What the guest sends is cut here ([`super::cut`]), what comes for it is
//! merged here ([`super::merge`]), so that the engine has frames of the MTU with whole checksums.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::cut::{self, GROWTH_MAX};
use super::framing::{Framing, HEADER_MAX};
use super::merge::Run;
use super::packet::{VIRTIO_BYTES, VirtioHeader};
use crate::failure::{Context, Outcome};

/// Bytes taken by one read from the engine: several frames of the largest MTU.
const RECEIVE_BYTES: usize = 512 << 10;
/// Bytes gathered for one write to the engine: so many that the other side begins early enough.
const SEND_BYTES: usize = 256 << 10;
/// Longest super-frame.
const SUPER_MAX: usize = (64 << 10) + HEADER_MAX;

/// Carries frames between a TAP with offloads, which must not block, and a stream, which must.
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
    thread::spawn(move || first.send(to_stream(&*from, &to, framing)));
    thread::spawn(move || second.send(to_tap(&stream, &*tap, framing, frame_max)));
    // The direction that goes on has nobody to talk to; it ends with the process.
    let why = ended.recv().doing("wait for an end")?;
    why.doing("carry frames")
}

/// All frames that are ready go in one write.
fn to_stream(tap: &impl AsFd, mut stream: &UnixStream, framing: Framing) -> io::Result<()> {
    let prefix = framing.prefix_bytes();
    let mut buffer = vec![0; SEND_BYTES + prefix + SUPER_MAX + GROWTH_MAX];
    loop {
        let mut filled = 0;
        while filled < SEND_BYTES {
            let mut offload = [0; VIRTIO_BYTES];
            let room = &mut buffer[filled..];
            let frame = &mut room[prefix..prefix + SUPER_MAX];
            let parts = &mut [IoSliceMut::new(&mut offload), IoSliceMut::new(frame)];
            match rustix::io::readv(tap, parts) {
                Ok(read) if read > VIRTIO_BYTES => {
                    let offload = VirtioHeader::read(offload);
                    let cut = cut::cut(framing, offload, room, read - VIRTIO_BYTES);
                    filled += cut.ok_or(io::ErrorKind::InvalidData)?;
                }
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
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
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut filled = 0;
    let mut run = Run::default();
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
            let frame = done + frame.start..done + frame.end;
            done = frame.end;
            if run.add(&buffer, &frame) {
                continue;
            }
            run.finish(&buffer, |parts| write_frame(tap, parts))?;
            if !run.add(&buffer, &frame) {
                let none = VirtioHeader::default().write();
                let parts = [IoSlice::new(&none), IoSlice::new(&buffer[frame])];
                write_frame(tap, &parts)?;
            }
        }
        run.finish(&buffer, |parts| write_frame(tap, parts))?;
        // What is left is less than a frame.
        buffer.copy_within(done..filled, 0);
        filled -= done;
    }
}

fn write_frame(tap: &impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<()> {
    loop {
        match rustix::io::writev(tap, parts) {
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

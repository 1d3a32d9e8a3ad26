//! Frames of the guest's interfaces, as a `.pcap` file.
//!
//! A packet socket in the guest's namespace sees the frames of all its interfaces, both ways, as
//! the guest's kernel hands them over: with offloads these are super-frames of up to 64 KiB whose
//! checksums are not filled in yet. The first frames of a load are kept in memory and written at
//! the end, so that no disk stands in the way of the load.

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Protocol, Socket, Type};

use crate::failure::{Context, Outcome};
use crate::netns::NetNs;

/// Frames that are kept at most.
const FRAMES_MAX: usize = 8192;
/// Bytes that are kept at most.
const BYTES_MAX: usize = 64 << 20;
/// Longest frame: an IP packet of 64 KiB with room for its Ethernet header and tags.
const FRAME_BYTES_MAX: usize = 65_536 + 64;
/// Room in the kernel for frames that we have not read yet.
const QUEUE_BYTES: usize = 128 << 20;
/// `ETH_P_ALL`: frames of every protocol.
const EVERY_PROTOCOL: u16 = 0x0003;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// The file's first four bytes, written in our byte order: timestamps are in nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;

/// A `.pcap` file in memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pcap {
    bytes: Vec<u8>,
    frames: usize,
}

/// A recording under way.
#[derive(Debug)]
pub(crate) struct Recorder {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Outcome<Pcap>>,
}

impl Recorder {
    /// Records the first frames in `netns` from now on.
    ///
    /// # Errors
    /// Packet sockets are not permitted.
    pub(crate) fn start(netns: &NetNs) -> Outcome<Recorder> {
        let socket = netns.enter(open)?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = thread::spawn(move || read(&socket, &end));
        Ok(Recorder { ended, thread })
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// Reading failed.
    pub(crate) fn finish(self) -> Outcome<Pcap> {
        self.ended.store(true, Ordering::Relaxed);
        let read = self.thread.join();
        read.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn open() -> Outcome<Socket> {
    let every = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every))
        .doing("open a packet socket to record frames")?;
    // Beyond the machine's limit where we may; else what we get must do.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES).is_err() {
        let _ = socket.set_recv_buffer_size(QUEUE_BYTES);
    }
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .doing("set up a packet socket")?;
    Ok(socket)
}

fn read(mut socket: &Socket, ended: &AtomicBool) -> Outcome<Pcap> {
    let mut pcap = Pcap::new();
    let mut frame = vec![0; FRAME_BYTES_MAX];
    while !ended.load(Ordering::Relaxed) && !pcap.is_full() {
        match socket.read(&mut frame) {
            Ok(length) => pcap.push(SystemTime::now(), &frame[..length]),
            Err(error) if is_pause(error.kind()) => {}
            Err(error) => return Err(error).doing("read a frame"),
        }
    }
    Ok(pcap)
}

fn is_pause(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

impl Pcap {
    /// A file without frames: the 24-byte header.
    fn new() -> Pcap {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC_NANOSECONDS.to_ne_bytes());
        // Version 2.4.
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend(4u16.to_ne_bytes());
        // Two fields that are always zero.
        bytes.extend([0; 8]);
        bytes.extend((FRAME_BYTES_MAX as u32).to_ne_bytes());
        bytes.extend(ETHERNET.to_ne_bytes());
        Pcap { bytes, frames: 0 }
    }

    /// Adds a frame behind its 16-byte header.
    fn push(&mut self, at: SystemTime, frame: &[u8]) {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = frame.len() as u32;
        for field in [at.as_secs() as u32, at.subsec_nanos(), length, length] {
            self.bytes.extend(field.to_ne_bytes());
        }
        self.bytes.extend(frame);
        self.frames += 1;
    }

    fn is_full(&self) -> bool {
        self.frames >= FRAMES_MAX || self.bytes.len() >= BYTES_MAX
    }

    /// How many frames it holds.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// The file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_laid_out_as_readers_expect() {
        let mut pcap = Pcap::new();
        assert_eq!(pcap.bytes().len(), 24);
        let at = UNIX_EPOCH + Duration::new(7, 9);
        pcap.push(at, &[1, 2, 3]);
        pcap.push(at, &[4]);
        let word = |at: usize| u32::from_ne_bytes(pcap.bytes()[at..at + 4].try_into().unwrap());
        assert_eq!([word(0), word(20)], [0xa1b2_3c4d, 1]);
        assert_eq!([word(24), word(28), word(32), word(36)], [7, 9, 3, 3]);
        assert_eq!(pcap.bytes()[40..43], [1, 2, 3]);
        assert_eq!(word(43 + 8), 1);
        assert_eq!(
            (pcap.frames(), pcap.bytes().len()),
            (2, 24 + 16 + 3 + 16 + 1)
        );
    }

    #[test]
    fn it_is_full_at_its_limits() {
        let mut pcap = Pcap::new();
        let frame = vec![0; FRAME_BYTES_MAX];
        while !pcap.is_full() {
            pcap.push(UNIX_EPOCH, &frame);
        }
        assert!(pcap.bytes().len() < BYTES_MAX + FRAME_BYTES_MAX + 16);
        let mut pcap = Pcap::new();
        while !pcap.is_full() {
            pcap.push(UNIX_EPOCH, &[0; 60]);
        }
        assert_eq!(pcap.frames(), FRAMES_MAX);
    }
}

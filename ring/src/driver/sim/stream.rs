//! A simulated stream: the two buffers between a core's socket and its peer, and how each end ends.
//!
//! What Linux does at the ends is kept: a close with bytes unread resets, bytes that come to a closed
//! end reset, what arrived before a reset can still be read, and a reset is told once (`ECONNRESET`),
//! after which sends get `EPIPE`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::rc::Rc;

use crate::driver::Errno;

/// The peer's end of a stream.
#[derive(Clone, Debug)]
pub struct SimStream(pub(super) Rc<Stream>);

#[derive(Debug)]
pub(super) struct Stream {
    /// From the core to the peer.
    up: Pipe,
    /// From the peer to the core.
    down: Pipe,
    /// A reset that the core has not been told of yet, and one that the peer has not.
    core_error: Cell<Option<Errno>>,
    peer_error: Cell<Option<Errno>>,
    /// Nothing moves any more.
    dead: Cell<bool>,
    peer_closed: Cell<bool>,
    core_closed: Cell<bool>,
}

#[derive(Debug)]
struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    capacity: usize,
    /// Nothing follows the bytes.
    ended: Cell<bool>,
    /// All bytes that ever went in, and out.
    written: Cell<u64>,
    read: Cell<u64>,
}

/// What a read found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Got {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The end.
    Eof,
}

impl Pipe {
    fn new(capacity: usize) -> Pipe {
        Pipe {
            bytes: RefCell::default(),
            capacity: capacity.max(1),
            ended: Cell::new(false),
            written: Cell::new(0),
            read: Cell::new(0),
        }
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.borrow().len())
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        let put = self.bytes.borrow_mut().write(&bytes[..n]).unwrap_or(0);
        self.written.set(self.written.get() + put as u64);
        put
    }

    /// Counts bytes as written that nobody will read.
    fn lose(&self, bytes: usize) {
        self.written.set(self.written.get() + bytes as u64);
    }

    fn read(&self, into: &mut [u8]) -> Got {
        let mut bytes = self.bytes.borrow_mut();
        let mut done = 0;
        // A ring of bytes gives one of its two halves at a time.
        while done < into.len() && !bytes.is_empty() {
            done += bytes.read(&mut into[done..]).unwrap_or(0);
        }
        self.read.set(self.read.get() + done as u64);
        match done {
            0 if bytes.is_empty() && self.ended.get() => Got::Eof,
            0 => Got::Nothing,
            n => Got::Bytes(n),
        }
    }

    fn is_readable(&self) -> bool {
        self.ended.get() || !self.bytes.borrow().is_empty()
    }
}

impl Stream {
    pub(super) fn new(up_capacity: usize, down_capacity: usize) -> Rc<Stream> {
        Rc::new(Stream {
            up: Pipe::new(up_capacity),
            down: Pipe::new(down_capacity),
            core_error: Cell::new(None),
            peer_error: Cell::new(None),
            dead: Cell::new(false),
            peer_closed: Cell::new(false),
            core_closed: Cell::new(false),
        })
    }

    // The core's end

    /// Room for the core's bytes; also "there is room" when a send would fail.
    pub(super) fn core_writable(&self) -> usize {
        if self.dead.get() {
            usize::MAX
        } else {
            self.up.room()
        }
    }

    /// Takes bytes of the core, as many as there is room for.
    pub(super) fn core_write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        if let Some(errno) = self.core_error.take() {
            return Err(errno);
        }
        if self.dead.get() || self.up.ended.get() {
            return Err(Errno::PIPE);
        }
        if self.peer_closed.get() && !bytes.is_empty() {
            // They leave; the answer of a kernel that knows no such connection comes back.
            self.die();
            self.core_error.set(Some(Errno::CONNRESET));
            self.up.lose(bytes.len());
            return Ok(bytes.len());
        }
        Ok(self.up.write(bytes))
    }

    pub(super) fn core_readable(&self) -> bool {
        self.dead.get() || self.down.is_readable()
    }

    /// How many bytes the core could read.
    pub(super) fn core_available(&self) -> usize {
        self.down.bytes.borrow().len()
    }

    pub(super) fn core_read(&self, into: &mut [u8]) -> Result<Got, Errno> {
        match self.down.read(into) {
            Got::Nothing if self.dead.get() => match self.core_error.take() {
                Some(errno) => Err(errno),
                None => Ok(Got::Eof),
            },
            Got::Eof => self.core_error.take().map_or(Ok(Got::Eof), Err),
            read => Ok(read),
        }
    }

    pub(super) fn core_shutdown(&self) {
        self.up.ended.set(true);
    }

    pub(super) fn core_close(&self, reset: bool) {
        self.core_closed.set(true);
        if self.dead.get() {
            return;
        }
        if reset || !self.down.bytes.borrow().is_empty() {
            self.die();
            self.peer_error.set(Some(Errno::CONNRESET));
        } else {
            self.up.ended.set(true);
        }
    }

    fn die(&self) {
        self.dead.set(true);
    }
}

impl SimStream {
    /// Writes as many bytes as there is room for.
    ///
    /// # Errors
    ///
    /// `ECONNRESET`, and then `EPIPE`.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let stream = &self.0;
        if let Some(errno) = stream.peer_error.take() {
            return Err(errno);
        }
        if stream.dead.get() || stream.down.ended.get() {
            return Err(Errno::PIPE);
        }
        if stream.core_closed.get() && !bytes.is_empty() {
            stream.die();
            stream.peer_error.set(Some(Errno::CONNRESET));
            return Ok(bytes.len());
        }
        Ok(stream.down.write(bytes))
    }

    /// How many bytes a write takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.down.room()
    }

    /// Reads what is there.
    ///
    /// # Errors
    ///
    /// `ECONNRESET`.
    pub fn read(&self, into: &mut [u8]) -> Result<Got, Errno> {
        let stream = &self.0;
        match stream.up.read(into) {
            Got::Nothing | Got::Eof if stream.peer_error.get().is_some() => {
                Err(stream.peer_error.take().unwrap_or(Errno::CONNRESET))
            }
            Got::Nothing if stream.dead.get() => Ok(Got::Eof),
            read => Ok(read),
        }
    }

    /// Ends the peer's sending direction.
    pub fn shutdown_write(&self) {
        self.0.down.ended.set(true);
    }

    /// Resets the connection; of what the core has not read yet, only the first `kept` bytes arrive.
    pub fn reset(&self, kept: usize) {
        let stream = &self.0;
        stream.peer_closed.set(true);
        stream.peer_error.set(None);
        if !stream.dead.get() {
            stream.down.bytes.borrow_mut().truncate(kept);
            stream.down.ended.set(false);
            stream.core_error.set(Some(Errno::CONNRESET));
            stream.die();
        }
    }

    /// Closes the peer's end; a reset if there is something unread.
    pub fn close(&self) {
        if !self.0.up.bytes.borrow().is_empty() {
            return self.reset(usize::MAX);
        }
        self.0.peer_closed.set(true);
        self.0.down.ended.set(true);
    }

    /// Bytes that the core's sends have put in.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.0.up.written.get()
    }

    /// Bytes that the core's receives have taken out.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.0.down.read.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Rc<Stream>, SimStream) {
        let stream = Stream::new(4, 4);
        (Rc::clone(&stream), SimStream(stream))
    }

    #[test]
    fn buffers_fill_and_ends_are_told_behind_the_bytes() {
        let (core, peer) = pair();
        let mut bytes = [0; 8];
        assert_eq!(core.core_write(b"abcdef"), Ok(4));
        assert_eq!(core.core_writable(), 0);
        core.core_shutdown();
        assert_eq!(peer.read(&mut bytes), Ok(Got::Bytes(4)));
        assert_eq!(peer.read(&mut bytes), Ok(Got::Eof));
        assert_eq!(core.core_write(b"x"), Err(Errno::PIPE));
        assert_eq!(core.core_read(&mut bytes), Ok(Got::Nothing));
        assert_eq!(peer.write(b"yz"), Ok(2));
        peer.shutdown_write();
        assert_eq!(core.core_read(&mut bytes), Ok(Got::Bytes(2)));
        assert_eq!(core.core_read(&mut bytes), Ok(Got::Eof));
        assert_eq!((peer.taken(), peer.given()), (4, 2));
    }

    #[test]
    fn a_reset_is_told_once_behind_what_arrived() {
        let (core, peer) = pair();
        let mut bytes = [0; 8];
        assert_eq!(peer.write(b"abc"), Ok(3));
        peer.reset(2);
        assert_eq!(core.core_read(&mut bytes), Ok(Got::Bytes(2)));
        assert_eq!(core.core_read(&mut bytes), Err(Errno::CONNRESET));
        assert_eq!(core.core_write(b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn a_close_with_bytes_unread_is_a_reset_and_so_are_bytes_for_a_closed_end() {
        let (core, peer) = pair();
        assert_eq!(peer.write(b"abc"), Ok(3));
        core.core_close(false);
        assert_eq!(peer.read(&mut [0]), Err(Errno::CONNRESET));
        let (core, peer) = pair();
        peer.close();
        assert_eq!(core.core_read(&mut [0]), Ok(Got::Eof));
        assert_eq!(core.core_write(b"late"), Ok(4));
        assert_eq!(core.core_write(b"later"), Err(Errno::CONNRESET));
        assert_eq!(core.core_write(b"latest"), Err(Errno::PIPE));
    }
}

//! What carries a guest's frames, as its home core sees it, and the queue of frames towards the guest.
//!
//! A TAP takes each frame at once or drops it. A socket takes what it has room for: frames wait in a bounded
//! queue, flows that have more to send wait until there is [room](Carrier::has_room) in it, and what
//! can't wait (a datagram, an answer) is dropped when it is full, and counted.

use towpath_ring::buffer::Slice;
use towpath_ring::driver::{Driver, LinkId, PACKETS_MAX, SendMode, SocketId, Token};
use towpath_ring::frames::packets::PacketWriter;
use towpath_ring::frames::stream::{FrameBounds, FrameReader, FrameWriter, Framing, FramingError};

/// What may wait for a guest, and from where on flows wait themselves.
const QUEUE: FrameBounds = FrameBounds {
    bytes: 1 << 20,
    frames: 4096,
};
const ROOM_BYTES: usize = 256 << 10;
const ROOM_FRAMES: usize = 1024;

/// Bytes that wait for room in a socket that had none: a copy of a few, so that a guest that takes nothing keeps
/// no pooled buffers.
const PROBE_BYTES: usize = 1024;

/// The most that one receive of a stream takes.
const RECEIVE_MAX: u32 = 256 << 10;

/// What carries a guest's frames.
pub(crate) enum Carrier {
    Tap(LinkId),
    Stream(Stream),
    Packets(Packets),
}

/// A stream socket with frames behind their lengths.
pub(crate) struct Stream {
    pub(crate) socket: SocketId,
    reader: FrameReader,
    /// Bytes of the last receive.
    brought: usize,
    writer: FrameWriter,
    /// Bytes of the send that is under way.
    sending: Option<usize>,
    /// The socket had no room: the next send waits for it.
    full: bool,
}

/// A socket of which each packet is a frame.
pub(crate) struct Packets {
    pub(crate) socket: SocketId,
    writer: PacketWriter,
    /// A send is under way. One that waits for room holds nothing.
    sending: bool,
}

impl Carrier {
    pub(crate) fn stream(socket: SocketId, framing: Framing, frame_max: usize) -> Self {
        Self::Stream(Stream {
            socket,
            reader: FrameReader::new(framing, frame_max),
            brought: 0,
            writer: FrameWriter::new(framing, QUEUE),
            sending: None,
            full: false,
        })
    }

    pub(crate) fn packets(socket: SocketId) -> Self {
        Self::Packets(Packets {
            socket,
            writer: PacketWriter::new(QUEUE),
            sending: false,
        })
    }

    /// Begins to read, or goes on.
    pub(crate) fn read<D: Driver>(&self, driver: &mut D, token: Token) {
        match self {
            Self::Tap(link) => driver.read_link(*link),
            Self::Stream(stream) => {
                // After much there is more; after little nothing is expected.
                let wait_first = stream.brought < RECEIVE_MAX as usize / 4;
                driver.receive(stream.socket, RECEIVE_MAX, wait_first, token);
            }
            Self::Packets(packets) => driver.receive_from(packets.socket, token),
        }
    }

    /// A receive brought so many bytes.
    pub(crate) fn received(&mut self, bytes: usize) {
        if let Self::Stream(stream) = self {
            stream.brought = bytes;
        }
    }

    /// Queues a frame, or writes it at once. Whether it was taken.
    pub(crate) fn write<D: Driver>(
        &mut self,
        driver: &mut D,
        header: &[u8],
        payload: &[Slice],
    ) -> bool {
        match self {
            Self::Tap(link) => {
                driver.write_frame(*link, header, payload);
                true
            }
            Self::Stream(stream) => stream.writer.push(header, payload),
            Self::Packets(packets) => packets.writer.push(header, payload),
        }
    }

    /// Whether flows may send more.
    pub(crate) fn has_room(&self) -> bool {
        let (bytes, frames) = match self {
            Self::Tap(_) => return true,
            Self::Stream(stream) => (stream.writer.queued_bytes(), stream.writer.queued_frames()),
            Self::Packets(packets) => (
                packets.writer.queued_bytes(),
                packets.writer.queued_frames(),
            ),
        };
        bytes < ROOM_BYTES && frames < ROOM_FRAMES
    }

    pub(crate) fn is_tap(&self) -> bool {
        matches!(self, Self::Tap(_))
    }

    /// Whether frames wait for the guest to take them.
    pub(crate) fn is_waiting(&self) -> bool {
        match self {
            Self::Tap(_) => false,
            Self::Stream(stream) => !stream.writer.is_empty(),
            Self::Packets(packets) => !packets.writer.is_empty(),
        }
    }

    /// Whether the guest has sent a part of a frame.
    pub(crate) fn is_partial(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.reader.is_partial())
    }

    /// Gives the link up; what waits is dropped.
    pub(crate) fn close<D: Driver>(&mut self, driver: &mut D) {
        match self {
            Self::Tap(link) => driver.remove_link(*link),
            Self::Stream(stream) => driver.close(stream.socket, false),
            Self::Packets(packets) => driver.close(packets.socket, false),
        }
    }

    /// Frees the pooled buffers of what waits for a guest that takes nothing. How many slices were copied.
    pub(crate) fn leave_pool(&mut self) -> u64 {
        match self {
            Self::Stream(stream) if stream.full => stream.writer.leave_pool(),
            Self::Packets(packets) if packets.sending => packets.writer.leave_pool(),
            _ => 0,
        }
    }

    /// Hands over what waits, as much as one operation takes, unless one is under way.
    pub(crate) fn flush<D: Driver>(&mut self, driver: &mut D, token: Token) {
        match self {
            Self::Tap(_) => {}
            Self::Stream(stream) => stream.flush(driver, token),
            Self::Packets(packets) => packets.flush(driver, token),
        }
    }

    /// A send took so many bytes of a stream, or packets.
    pub(crate) fn sent(&mut self, taken: u32) {
        match self {
            Self::Tap(_) => {}
            Self::Stream(stream) => {
                let asked = stream.sending.take().unwrap_or(0);
                stream.full = (taken as usize) < asked;
                stream.writer.advance(taken as usize);
            }
            Self::Packets(packets) => {
                packets.sending = false;
                packets.writer.advance(taken as usize);
            }
        }
    }
}

impl Stream {
    /// The next frame of what was received.
    pub(crate) fn next(&mut self, data: &mut Slice) -> Option<Result<Slice, FramingError>> {
        self.reader.next(data)
    }

    fn flush<D: Driver>(&mut self, driver: &mut D, token: Token) {
        if self.sending.is_some() || self.writer.is_empty() {
            return;
        }
        if self.full {
            let first = self.writer.first(PROBE_BYTES);
            self.sending = Some(first.len());
            return driver.send(self.socket, &[first], SendMode::WhenWritable, token);
        }
        let batch = self.writer.batch();
        let bytes = batch.iter().map(Slice::len).sum();
        // With more to send, or flows that wait for room, its completion is wanted at once; else the next wake-up
        // is soon enough.
        let mode = if bytes < self.writer.queued_bytes() || bytes >= ROOM_BYTES {
            SendMode::Now
        } else {
            SendMode::Quiet
        };
        driver.send(self.socket, batch, mode, token);
        self.sending = Some(bytes);
    }
}

impl Packets {
    fn flush<D: Driver>(&mut self, driver: &mut D, token: Token) {
        if self.sending || self.writer.is_empty() {
            return;
        }
        let mut room = [&[][..]; PACKETS_MAX];
        let batch = self.writer.batch(&mut room);
        driver.send_packets(self.socket, batch, token);
        self.sending = true;
    }
}

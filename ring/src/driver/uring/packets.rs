//! Packets in order on a connected socket: many in one system call of their own.
//!
//! Not through the ring: its operations keep their order only in a chain, of which each part is work
//! that is deferred anew, so a wait that ends for another reason leaves the rest behind (0.9 million frames of
//! 1,514 bytes per second of a core, where this carries 1.2). And they can't wait for room, because a packet
//! that found the queue of a UNIX datagram socket full was copied before, and is sent empty when the
//! kernel tries it again (6.18). So the ring only tells when there is room.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::{opcode, types};

use super::Uring;
use super::operation::{Family, SendForm};
use super::sockets::NONE;
use crate::buffer::Slice;
use crate::driver::{Errno, PACKETS_MAX, SEND_SLICES_MAX, SendMode, SocketId, Token};

impl Uring {
    /// Sends what there is room for and returns how many packets that were. `None`: there was no room;
    /// a completion tells when there is.
    pub(super) fn submit_packets(
        &mut self,
        id: SocketId,
        packets: &[&[Slice]],
        token: Token,
    ) -> Result<Option<u32>, Errno> {
        let index = self.sockets.index(id).ok_or(Errno::BADF)?;
        let socket = self.sockets.at(index).ok_or(Errno::BADF)?;
        if socket.send != NONE {
            return Err(Errno::ALREADY);
        }
        let packets = &packets[..packets.len().min(PACKETS_MAX)];
        if packets.iter().any(|packet| packet.len() > SEND_SLICES_MAX) {
            return Err(Errno::MSGSIZE);
        }
        self.counters.enters += 1;
        match send_now(socket.fd.as_fd(), packets, &mut self.packet_parts) {
            Ok(sent) => return Ok(Some(sent)),
            Err(Errno::INTR) => return Ok(Some(0)),
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
        let (slot, send) = self.sends.claim();
        send.form = SendForm::Room;
        send.socket = index;
        send.token = token;
        send.mode = SendMode::WhenWritable;
        socket.send = slot;
        let poll = opcode::PollAdd::new(types::Fd(socket.raw_fd()), libc::POLLOUT as u32)
            .build()
            .user_data(Family::Send.data(slot));
        // SAFETY: a poll refers to no memory; the descriptor stays open until nothing is in flight on
        // the socket.
        unsafe { self.push(poll) };
        Ok(None)
    }
}

/// Sends packets without waiting, up to the first that fails. Returns how many went, or its error if it
/// was the first. `parts` is room for their parts.
fn send_now(
    fd: BorrowedFd<'_>,
    packets: &[&[Slice]],
    parts: &mut Vec<libc::iovec>,
) -> Result<u32, Errno> {
    parts.clear();
    parts.extend(packets.iter().copied().flatten().map(|slice| libc::iovec {
        iov_base: slice.bytes().as_ptr().cast_mut().cast(),
        iov_len: slice.len(),
    }));
    // SAFETY: all-zero is a valid mmsghdr: null pointers with zero lengths.
    let mut messages: [libc::mmsghdr; PACKETS_MAX] = unsafe { std::mem::zeroed() };
    let mut rest = &mut parts[..];
    for (message, packet) in messages.iter_mut().zip(packets) {
        let (of_packet, behind) = rest.split_at_mut(packet.len());
        message.msg_hdr.msg_iov = of_packet.as_mut_ptr();
        message.msg_hdr.msg_iovlen = of_packet.len() as _;
        rest = behind;
    }
    let count = packets.len().min(PACKETS_MAX) as u32;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the first `count` messages name parts of `parts`, which live through the call as do the
    // slices that those name, whose bytes the kernel only reads.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags as _) };
    u32::try_from(sent).map_err(|_| {
        let error = io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

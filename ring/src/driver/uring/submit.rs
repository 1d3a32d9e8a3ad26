//! From what the caller asks for to submission entries.

use std::net::SocketAddr;

use io_uring::squeue::Flags;
use io_uring::{opcode, types};
use std::os::fd::AsRawFd;

use super::operation::{Family, SendForm, SendOp, WaitForm};
use super::sockets::NONE;
use super::{
    GROUP_DATAGRAM, GROUP_LINK, GROUP_STREAM, GROUP_TAP, LINK_BUFFER_BYTES, Uring, wait_field,
};
use crate::buffer::Slice;
use crate::driver::kernel::address::INET_BYTES;
use crate::driver::kernel::{control, options};
use crate::driver::{
    Errno, FRAME_HEADER_MAX, FRAME_SLICES_MAX, LinkId, Remote, SEND_SLICES_MAX, SendMode, SocketId,
    Token, Waker,
};

// linux/io_uring.h: flags of receives, in `ioprio`.
const POLL_FIRST: u16 = 1 << 0;
pub(super) const BUNDLE: u16 = 1 << 4;

/// `MSG_*` flags of a quiet send: with `MSG_WAITALL` a send that took less than all has failed, so that
/// its completion is not skipped, and `MSG_DONTWAIT` keeps it from waiting for the rest.
pub(super) const QUIETLY: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;

/// The most buffers that the kernel puts into one bundle.
const BUNDLE_BUFFERS_MAX: u32 = 256;

/// Room for the sender's address in front of a datagram, rounded up to keep the rest aligned.
pub(super) const DATAGRAM_NAME_BYTES: usize = INET_BYTES.next_multiple_of(8);
/// Room for control messages in front of a datagram.
pub(super) const DATAGRAM_CONTROL_BYTES: usize = 96;

impl Uring {
    pub(super) fn arm_link(&mut self, link: u8) {
        let Some(state) = self.links.get(link) else {
            return;
        };
        if !state.reading {
            return;
        }
        // The wrapper loses FIXED_FILE; a multishot read takes its length from the buffers.
        let read = opcode::ReadMulti::new(types::Fixed(link.into()), 0, GROUP_TAP)
            .build()
            .flags(Flags::FIXED_FILE | Flags::BUFFER_SELECT)
            .user_data(Family::Link.data(link.into()));
        // SAFETY: the read refers to no memory but the group's buffers, which stay until the ring is
        // settled or for ever.
        unsafe { self.push(read) };
    }

    pub(super) fn submit_frame(&mut self, link: LinkId, header: &[u8], payload: &[Slice]) {
        let Some(state) = self.links.get_mut(link.0) else {
            return;
        };
        if header.is_empty() || header.len() > FRAME_HEADER_MAX || payload.len() > FRAME_SLICES_MAX
        {
            state.writes.refused += 1;
            return;
        }
        let (index, frame) = self.frames.claim();
        frame.link = link.0;
        let copy = &mut frame.header[..header.len()];
        copy.copy_from_slice(header);
        frame.gather.fill(Some(copy), payload);
        let file = types::Fixed(link.0.into());
        let parts = frame.gather.count() as u32;
        let write = opcode::Writev::new(file, frame.gather.iovecs(), parts)
            .offset(u64::MAX)
            .build()
            .user_data(Family::Frame.data(index));
        self.silent += 1;
        // SAFETY: header, list and slices belong to the slot, which is released by the completion.
        unsafe { self.push(write) };
    }

    pub(super) fn submit_connect(
        &mut self,
        id: SocketId,
        to: &Remote,
        token: Token,
    ) -> Result<(), Errno> {
        let index = self.sockets.index(id).ok_or(Errno::BADF)?;
        let socket = self.sockets.at(index).ok_or(Errno::BADF)?;
        if socket.connect != NONE {
            return Err(Errno::ALREADY);
        }
        let (slot, wait) = self.waits.claim();
        if let Err(errno) = wait.address.set(to) {
            self.waits.release(slot);
            return Err(errno);
        }
        wait.form = WaitForm::Connect;
        wait.socket = index;
        wait.token = token;
        socket.connect = slot;
        let connect = opcode::Connect::new(
            types::Fd(socket.raw_fd()),
            wait.address.as_ptr(),
            wait.address.len(),
        )
        .build()
        .user_data(Family::Wait.data(slot));
        // SAFETY: the address belongs to the slot, which is released by the completion; the descriptor
        // stays open until nothing is in flight on the socket.
        unsafe { self.push(connect) };
        Ok(())
    }

    pub(super) fn submit_stream_send(
        &mut self,
        id: SocketId,
        payload: &[Slice],
        mode: SendMode,
        token: Token,
    ) -> Result<(), Errno> {
        let index = self.sockets.index(id).ok_or(Errno::BADF)?;
        let socket = self.sockets.at(index).ok_or(Errno::BADF)?;
        if socket.send != NONE {
            return Err(Errno::ALREADY);
        }
        let (slot, send) = self.sends.claim();
        socket.send = slot;
        send.form = SendForm::Stream;
        send.socket = index;
        send.token = token;
        let quiet = mode == SendMode::Quiet && self.features.silent_sends;
        send.mode = match mode {
            SendMode::Quiet if !quiet => SendMode::Now,
            mode => mode,
        };
        send.gso_size = 0;
        let payload = &payload[..payload.len().min(SEND_SLICES_MAX)];
        send.bytes = u32::try_from(send.gather.fill(None, payload)).unwrap_or(u32::MAX);
        self.push_send(slot);
        if quiet {
            self.quiet.push(slot);
        }
        Ok(())
    }

    /// A datagram to an address, or a packet to the connected peer.
    pub(super) fn submit_datagram(
        &mut self,
        id: SocketId,
        to: Option<&SocketAddr>,
        payload: &[Slice],
        gso_size: u16,
        token: Token,
    ) -> Result<(), Errno> {
        if payload.len() > SEND_SLICES_MAX {
            return Err(Errno::MSGSIZE);
        }
        let index = self.sockets.index(id).ok_or(Errno::BADF)?;
        let socket = self.sockets.at(index).ok_or(Errno::BADF)?;
        socket.silent += 1;
        let (slot, send) = self.sends.claim();
        send.form = SendForm::Packet;
        if let Some(to) = to {
            send.form = SendForm::Datagram;
            send.address.set_inet(to);
        }
        send.socket = index;
        send.token = token;
        // A failure must end a wait, which it can't where every send posts a completion.
        let quiet = self.features.silent_sends;
        send.mode = if quiet {
            SendMode::Quiet
        } else {
            SendMode::Now
        };
        send.retried = false;
        let bytes = send.gather.fill(None, payload);
        // One datagram needs no cutting.
        send.gso_size = if bytes > usize::from(gso_size) {
            gso_size
        } else {
            0
        };
        if quiet {
            self.quiet.push(slot);
        } else {
            self.silent += 1;
        }
        self.push_send(slot);
        Ok(())
    }

    /// Queues the send in a slot.
    pub(super) fn push_send(&mut self, slot: u32) {
        let Some(send) = self.sends.get(slot) else {
            return;
        };
        let Some(socket) = self.sockets.at(send.socket) else {
            return;
        };
        let file = types::Fd(socket.raw_fd());
        let flags = match send.mode {
            SendMode::Now => libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            SendMode::Quiet => QUIETLY,
            SendMode::WhenWritable => libc::MSG_NOSIGNAL,
        };
        let (to, to_len) = match send.form {
            SendForm::Datagram => (send.address.as_ptr(), send.address.len()),
            SendForm::Stream | SendForm::Packet | SendForm::Room => (std::ptr::null(), 0),
        };
        let entry = match send.gather.single() {
            Some((bytes, len)) if send.gso_size == 0 => opcode::Send::new(file, bytes, len)
                .flags(flags)
                .dest_addr(to)
                .dest_addr_len(to_len)
                .build(),
            _ => {
                fill_message(send, to, to_len);
                opcode::SendMsg::new(file, &raw const send.message.0)
                    .flags(flags as u32)
                    .build()
            }
        };
        let entry = match send.mode {
            SendMode::Quiet => entry.flags(Flags::SKIP_SUCCESS),
            SendMode::Now | SendMode::WhenWritable => entry,
        };
        // SAFETY: message, address, control, list and slices belong to the slot, which is released by the
        // completion, or for a quiet send when it was submitted, as it never waits; the descriptor stays open until nothing is in flight on the socket.
        unsafe { self.push(entry.user_data(Family::Send.data(slot))) };
    }

    pub(super) fn submit_receive(
        &mut self,
        id: SocketId,
        max: u32,
        wait_first: bool,
        token: Token,
    ) -> Result<(), Errno> {
        let index = self.sockets.index(id).ok_or(Errno::BADF)?;
        let socket = self.sockets.at(index).ok_or(Errno::BADF)?;
        if socket.receive != NONE {
            return Err(Errno::ALREADY);
        }
        if max == 0 {
            return Err(Errno::INVAL);
        }
        let (slot, wait) = self.waits.claim();
        socket.receive = slot;
        wait.form = WaitForm::Receive;
        wait.socket = index;
        wait.token = token;
        wait.max = max;
        wait.large = socket.large;
        self.arm_receive(slot, wait_first);
        Ok(())
    }

    /// Queues the receive in a slot.
    pub(super) fn arm_receive(&mut self, slot: u32, wait_first: bool) {
        let Some(wait) = self.waits.get(slot) else {
            return;
        };
        let Some(socket) = self.sockets.at(wait.socket) else {
            return;
        };
        let (group, buffer_bytes) = if wait.large {
            (GROUP_LINK, LINK_BUFFER_BYTES)
        } else {
            (GROUP_STREAM, self.stream.buffer_bytes())
        };
        let buffers = (wait.max / buffer_bytes).min(BUNDLE_BUFFERS_MAX - 1);
        wait.bundle = self.features.receive_bundles && buffers > 1 && !wait.large;
        let len = match (wait.bundle, self.features.exact_bundles) {
            (false, _) => wait.max.min(buffer_bytes),
            // See the module: the cut buffer keeps the kernel from going on.
            (true, true) => buffers * buffer_bytes + 1,
            (true, false) => buffers * buffer_bytes,
        };
        let how = if wait.bundle { BUNDLE } else { 0 } | if wait_first { POLL_FIRST } else { 0 };
        let receive = opcode::Recv::new(types::Fd(socket.raw_fd()), std::ptr::null_mut(), len)
            .ioprio(how)
            .buf_group(group)
            .build()
            .flags(Flags::BUFFER_SELECT)
            .user_data(Family::Wait.data(slot));
        // SAFETY: the receive refers to no memory but the group's buffers, which stay until the ring is
        // settled or for ever; the descriptor as above.
        unsafe { self.push(receive) };
    }

    pub(super) fn submit_receive_from(&mut self, id: SocketId, token: Token) -> Result<(), Errno> {
        let index = self.sockets.index(id).ok_or(Errno::BADF)?;
        let socket = self.sockets.at(index).ok_or(Errno::BADF)?;
        if socket.receive_from != NONE {
            return Err(Errno::ALREADY);
        }
        let (slot, wait) = self.waits.claim();
        socket.receive_from = slot;
        wait.form = WaitForm::ReceiveFrom;
        wait.socket = index;
        wait.token = token;
        wait.message.0.msg_namelen = DATAGRAM_NAME_BYTES as u32;
        wait.message.0.msg_controllen = DATAGRAM_CONTROL_BYTES as _;
        self.arm_receive_from(slot);
        Ok(())
    }

    /// Queues the multishot receive in a slot.
    pub(super) fn arm_receive_from(&mut self, slot: u32) {
        let Some(wait) = self.waits.get(slot) else {
            return;
        };
        let Some(socket) = self.sockets.at(wait.socket) else {
            return;
        };
        wait.starved = false;
        let file = types::Fd(socket.raw_fd());
        let receive = opcode::RecvMsgMulti::new(file, &raw const wait.message.0, GROUP_DATAGRAM)
            .build()
            .user_data(Family::Wait.data(slot));
        // SAFETY: the message belongs to the slot, which is released by the last completion; the
        // group's buffers and the descriptor as above.
        unsafe { self.push(receive) };
    }

    /// Cancels one operation, which then completes as it may.
    pub(super) fn cancel(&mut self, family: Family, slot: u32) {
        if family == Family::Wait
            && let Some(wait) = self.waits.get(slot)
            && wait.starved
        {
            // It is not in the kernel.
            self.starved.datagrams.retain(|&other| other != slot);
            self.end_receive_from(slot);
            return;
        }
        let cancel = opcode::AsyncCancel::new(family.data(slot))
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(Family::Ignored.data(0));
        // SAFETY: a cancel refers to no memory.
        unsafe { self.push(cancel) };
    }

    /// Closes a socket that is to be closed, once nothing is in flight on it.
    pub(super) fn close_if_idle(&mut self, index: u32) {
        let Some(socket) = self.sockets.at(index) else {
            return;
        };
        let Some(reset) = socket.closing else { return };
        if !socket.is_idle() {
            return;
        }
        if reset {
            options::set_reset(&socket.fd);
        }
        if let Some(socket) = self.sockets.remove(index) {
            let fd = std::os::fd::IntoRawFd::into_raw_fd(socket.fd);
            let close = opcode::Close::new(types::Fd(fd))
                .build()
                .flags(Flags::SKIP_SUCCESS)
                .user_data(Family::Ignored.data(0));
            // SAFETY: the descriptor was the socket's own and nothing refers to it any more.
            unsafe { self.push(close) };
        }
    }

    pub(super) fn submit_wake(&mut self, peer: &Waker) {
        if !peer.claim() {
            return;
        }
        let ring = peer.ring().map(|ring| ring.as_raw_fd());
        let by_message = self.config.message_ring && self.features.message_ring;
        let Some(ring) = ring.filter(|_| by_message && !peer.is_same(&self.waker)) else {
            peer.signal();
            return;
        };
        let known = self.peers.iter().position(|known| known.is_same(peer));
        let index = known.unwrap_or_else(|| {
            self.peers.push(peer.clone());
            self.peers.len() - 1
        });
        let message = opcode::MsgRingData::new(types::Fd(ring), 0, Family::Message.data(0), None)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(Family::PeerMessage.data(index as u32));
        // SAFETY: a message refers to no memory; the descriptor belongs to the peer's waker, of which
        // we hold one.
        unsafe { self.push(message) };
    }
}

/// Fills a slot's `msghdr`.
fn fill_message(send: &mut SendOp, to: *const libc::sockaddr, to_len: libc::socklen_t) {
    let message = &mut send.message.0;
    message.msg_name = to.cast_mut().cast();
    message.msg_namelen = to_len;
    message.msg_iov = send.gather.iovecs().cast_mut();
    message.msg_iovlen = send.gather.count() as _;
    message.msg_control = std::ptr::null_mut();
    message.msg_controllen = 0;
    if send.gso_size != 0 {
        let len = control::write_segment_size(&mut send.control, send.gso_size);
        message.msg_control = send.control.as_mut_ptr().cast();
        message.msg_controllen = len as _;
    }
}

impl Uring {
    /// Frees a wait slot and forgets it in its socket; returns the socket's index and the token.
    pub(super) fn release_wait(&mut self, slot: u32) -> Option<(u32, Token)> {
        let wait = self.waits.get(slot)?;
        let (index, token, form) = (wait.socket, wait.token, wait.form);
        self.waits.release(slot);
        if let Some(socket) = self.sockets.at(index) {
            *wait_field(socket, form) = NONE;
        }
        Some((index, token))
    }
}

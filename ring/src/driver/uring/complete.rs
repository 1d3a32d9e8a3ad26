//! From completion entries to what the caller hears.

use io_uring::cqueue;
use rustix::net::Shutdown;

use super::Uring;
use super::operation::{Family, SendForm, WaitForm};
use super::sockets::{NONE, Socket};
use super::submit::{DATAGRAM_CONTROL_BYTES, DATAGRAM_NAME_BYTES};
use crate::buffer::Slice;
use crate::driver::kernel::errors;
use crate::driver::kernel::table::TableSocket;
use crate::driver::kernel::{address, control};
use crate::driver::{Completion, Errno, LinkId, ReceiveEnd, SendMode, Token};

/// `struct io_uring_recvmsg_out`: namelen, controllen, payloadlen, flags; each u32.
const DATAGRAM_HEAD_BYTES: usize = 16;

/// A completion entry, copied out of the ring.
#[derive(Copy, Clone, Debug)]
pub(super) struct Reaped {
    pub(super) data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Reaped {
    fn outcome(&self) -> Result<u32, Errno> {
        u32::try_from(self.result).map_err(|_| Errno::from_raw_os_error(-self.result.max(-4095)))
    }

    fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    fn more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

impl Uring {
    /// Takes all completions out of the ring; what the caller hears of goes to `ready`.
    pub(super) fn reap(&mut self) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|entry| Reaped {
            data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        self.counters.completions += reaped.len() as u64;
        for entry in reaped.drain(..) {
            self.handle(entry);
        }
        self.reaped = reaped;
    }

    /// Works out what one entry means. Nothing here depends on when it came or on what came before, as
    /// the kernel promises nothing of that between operations.
    #[inline]
    pub(super) fn handle(&mut self, entry: Reaped) {
        let Some((family, index)) = Family::of(entry.data) else {
            return;
        };
        match family {
            Family::Frame => self.frame_done(index, entry),
            Family::Link => self.link_read(index, entry),
            Family::Send => self.send_done(index, entry),
            Family::Wait => match self.waits.get(index).map(|wait| wait.form) {
                Some(WaitForm::Connect) => self.connect_done(index, entry),
                Some(WaitForm::Receive) => self.receive_done(index, entry),
                Some(WaitForm::ReceiveFrom) => self.datagram_received(index, entry),
                None => {}
            },
            Family::Event => self.event_polled(entry),
            Family::Message => {
                self.waker.clear();
                self.ready.push(Completion::Woken);
            }
            Family::PeerMessage => {
                // Only failures come here: its ring is gone or full.
                if let Some(peer) = self.peers.get(index as usize) {
                    peer.signal();
                }
            }
            Family::Ignored => {}
        }
    }

    fn frame_done(&mut self, index: u32, entry: Reaped) {
        let Some(frame) = self.frames.get(index) else {
            return;
        };
        frame.gather.release();
        let link = frame.link;
        self.frames.release(index);
        self.silent -= 1;
        if let Some(link) = self.links.get_mut(link) {
            link.writes.count(entry.outcome());
        }
    }

    fn link_read(&mut self, index: u32, entry: Reaped) {
        let link = LinkId(index as u8);
        let outcome = entry.outcome();
        if let (Some(buffer), Some(tap)) = (entry.buffer(), &mut self.tap) {
            match outcome {
                Ok(len) if len > 0 => {
                    let frame = tap.take(buffer, len as usize);
                    self.ready
                        .extend(frame.map(|frame| Completion::Frame { link, frame }));
                }
                _ => tap.take_unused(buffer),
            }
        }
        if entry.more() {
            return;
        }
        if !self.closing && self.vacate(link.0) {
            return;
        }
        let Some(state) = self.links.get_mut(link.0) else {
            self.links.stop_reading(link.0);
            return;
        };
        match outcome {
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) if !self.closing => self.arm_link(link.0),
            Err(Errno::NOBUFS) if !self.closing => {
                self.counters.tap_starved += 1;
                self.starved.links.push(link.0);
            }
            Ok(_) => state.reading = false,
            Err(error) => {
                state.reading = false;
                self.ready.push(Completion::LinkEnd { link, error });
            }
        }
    }

    fn connect_done(&mut self, index: u32, entry: Reaped) {
        let Some((socket, token)) = self.release_wait(index) else {
            return;
        };
        let closing = self
            .sockets
            .at(socket)
            .is_some_and(|socket| !socket.is_open());
        let result = match entry.outcome() {
            Ok(_) => Ok(()),
            // A UNIX socket that waits for room in a queue says this.
            Err(Errno::INTR) if closing => Err(Errno::CANCELED),
            Err(errno) => Err(errno),
        };
        self.ready.push(Completion::Connected { token, result });
        self.close_if_idle(socket);
    }

    /// Completes the quiet sends that the kernel has seen and said nothing about: they took all.
    pub(super) fn resolve_quiet(&mut self, completions: &mut Vec<Completion>) {
        if self.quiet.is_empty() || !self.backlog.is_empty() {
            return;
        }
        {
            // What is still queued has not been seen, and a completion that found no place may yet
            // tell of a send that did not take all.
            let queue = self.ring.submission();
            if !queue.is_empty() || queue.cq_overflow() {
                return;
            }
        }
        let mut quiet = std::mem::take(&mut self.quiet);
        for index in quiet.drain(..) {
            let Some(send) = self.sends.get(index) else {
                continue;
            };
            let (socket, token, bytes) = (send.socket, send.token, send.bytes);
            if send.form != SendForm::Stream {
                self.datagram_send_over(index, socket);
                self.close_if_idle(socket);
                continue;
            }
            send.gather.release();
            self.sends.release(index);
            completions.push(Completion::Sent {
                token,
                result: Ok(bytes),
            });
            self.stream_send_over(socket);
            self.close_if_idle(socket);
        }
        self.quiet = quiet;
    }

    fn datagram_send_over(&mut self, index: u32, socket: u32) {
        if let Some(send) = self.sends.get(index) {
            send.gather.release();
            self.sends.release(index);
        }
        if let Some(socket) = self.sockets.at(socket) {
            socket.silent -= 1;
        }
    }

    fn stream_send_over(&mut self, socket: u32) {
        let Some(socket) = self.sockets.at(socket) else {
            return;
        };
        socket.send = NONE;
        if std::mem::take(&mut socket.shutdown) {
            // The peer may be gone: then there is nothing to tell it.
            let _ = rustix::net::shutdown(&socket.fd, Shutdown::Write);
        }
    }

    fn send_done(&mut self, index: u32, entry: Reaped) {
        let Some(send) = self.sends.get(index) else {
            return;
        };
        let (socket_index, token, form) = (send.socket, send.token, send.form);
        let (mode, retried) = (send.mode, send.retried);
        if mode == SendMode::Quiet {
            self.quiet.retain(|&slot| slot != index);
        }
        let outcome = entry.outcome();
        if matches!(form, SendForm::Stream | SendForm::Room) {
            send.gather.release();
            self.sends.release(index);
            let result = match outcome {
                Ok(_) if form == SendForm::Room => Ok(0),
                Err(Errno::AGAIN) if mode != SendMode::WhenWritable => Ok(0),
                Err(Errno::INTR) => Ok(0),
                other => other,
            };
            self.ready.push(Completion::Sent { token, result });
            self.stream_send_over(socket_index);
        } else {
            if let Err(errno) = outcome {
                let earlier = self.datagram_socket_failed(socket_index);
                if earlier.is_some() && !retried && !self.closing {
                    self.counters.datagram_send_retries += 1;
                    if let Some(send) = self.sends.get(index) {
                        send.retried = true;
                    }
                    if mode == SendMode::Quiet {
                        self.quiet.push(index);
                    }
                    self.push_send(index);
                    self.retrying = true;
                    return;
                }
                let (to, payload) = self
                    .sends
                    .get(index)
                    .map_or((None, Slice::empty()), |send| {
                        let to = (form == SendForm::Datagram).then(|| send.address.inet());
                        (to.flatten(), send.gather.first())
                    });
                self.ready.push(Completion::SendFailed {
                    token,
                    errno,
                    to,
                    payload,
                });
            }
            if mode != SendMode::Quiet {
                self.silent -= 1;
            }
            self.datagram_send_over(index, socket_index);
        }
        self.close_if_idle(socket_index);
    }

    /// A send on a datagram socket failed, maybe for an earlier datagram: tells its receiver. Returns
    /// the error of the first entry from the network.
    fn datagram_socket_failed(&mut self, index: u32) -> Option<Errno> {
        let socket = self.sockets.at(index)?;
        let drained = socket.drain_errors();
        let receiver = socket.receive_from;
        self.counters.errors_dropped += drained.dropped;
        if let (Some(errno), Some(wait)) = (drained.first, self.waits.get(receiver)) {
            self.ready.push(Completion::DatagramError {
                token: wait.token,
                errno,
            });
        }
        drained.from_network
    }

    fn receive_done(&mut self, index: u32, entry: Reaped) {
        let Some(wait) = self.waits.get(index) else {
            return;
        };
        let (bundle, large, socket) = (wait.bundle, wait.large, wait.socket);
        let closing = self.closing
            || self
                .sockets
                .at(socket)
                .is_none_or(|socket| socket.closing.is_some());
        let outcome = entry.outcome();
        if outcome == Err(Errno::NOBUFS) && large && !closing && self.large_buffer_is_free() {
            return self.arm_receive(index, false);
        }
        let Some((socket_index, token)) = self.release_wait(index) else {
            return;
        };
        let got = outcome.unwrap_or(0) as usize;
        if let Some(buffer) = entry.buffer() {
            let ready = &mut self.ready;
            let group = match &mut self.link_stream {
                Some(group) if large => group,
                _ => &mut self.stream,
            };
            let mut received = |data| ready.push(Completion::Received { token, data });
            match (got, bundle) {
                // The kernel took no buffer for a bundle of nothing.
                (0, true) => {}
                (0, false) => group.take_unused(buffer),
                (_, true) => group.take_bundle(buffer, got, received),
                (_, false) => {
                    if let Some(data) = group.take(buffer, got) {
                        received(data);
                    }
                }
            }
        }
        let end = match outcome {
            Ok(0) => ReceiveEnd::Eof,
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => ReceiveEnd::Partial,
            Err(_) if closing => ReceiveEnd::Canceled,
            Err(Errno::CANCELED) => ReceiveEnd::Canceled,
            Err(Errno::NOBUFS) => {
                self.counters.stream_starved += 1;
                ReceiveEnd::Starved
            }
            Err(errno) => ReceiveEnd::Failed(errno),
        };
        self.ready.push(Completion::ReceiveEnd { token, end });
        self.close_if_idle(socket_index);
    }

    /// Whether a large buffer is free that was not listed, or that came home since.
    fn large_buffer_is_free(&self) -> bool {
        self.link_stream
            .as_ref()
            .is_some_and(|group| group.free() > 0)
    }

    fn datagram_received(&mut self, index: u32, entry: Reaped) {
        let Some(wait) = self.waits.get(index) else {
            return;
        };
        let (socket_index, token) = (wait.socket, wait.token);
        let outcome = entry.outcome();
        let Some(socket) = self.sockets.at(socket_index) else {
            return;
        };
        let (shared, closing) = (socket.is_shared(), socket.closing.is_some() || self.closing);
        let mut empty = false;
        if let Some(buffer) = entry.buffer() {
            let slice = self.datagram.take(buffer, outcome.unwrap_or(0) as usize);
            match slice.and_then(|slice| datagram(token, slice)) {
                Some(Completion::Datagram { ref payload, .. }) if payload.is_empty() && !shared => {
                    // A connected peer that is gone looks like an empty packet.
                    empty = true;
                }
                Some(datagram) => self.ready.push(datagram),
                None => self.counters.datagrams_broken += 1,
            }
        }
        if entry.more() {
            return;
        }
        match outcome {
            _ if closing => self.end_receive_from(index),
            Ok(_) if empty => self.end_receive_from(index),
            // Nothing at all on a connected socket is its end, too.
            Ok(0) if entry.buffer().is_none() && !shared => self.end_receive_from(index),
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => self.arm_receive_from(index),
            Err(Errno::NOBUFS) => {
                self.counters.datagram_starved += 1;
                if let Some(wait) = self.waits.get(index) {
                    wait.starved = true;
                    self.starved.datagrams.push(index);
                }
            }
            Err(errno) if shared && errors::is_soft(errno) => {
                let drained = self.sockets.at(socket_index).map(Socket::drain_errors);
                self.counters.errors_dropped += drained.map_or(0, |drained| drained.dropped);
                self.ready.push(Completion::DatagramError { token, errno });
                self.arm_receive_from(index);
            }
            Err(errno) => {
                self.ready.push(Completion::DatagramError { token, errno });
                self.end_receive_from(index);
            }
        }
    }

    /// The last word of a `receive_from`.
    pub(super) fn end_receive_from(&mut self, slot: u32) {
        let Some((socket, token)) = self.release_wait(slot) else {
            return;
        };
        self.ready.push(Completion::DatagramEnd { token });
        self.close_if_idle(socket);
    }

    fn event_polled(&mut self, entry: Reaped) {
        if entry.result > 0 {
            self.waker.clear();
            self.ready.push(Completion::Woken);
        }
        if !entry.more() && !self.closing {
            // Empty it: a new poll would fire at once. What was signalled was told just now.
            if let Some(event) = self.waker.event() {
                let _ = rustix::io::read(event, &mut [0; 8]);
            }
            self.poll_event();
        }
    }
}

/// Takes a buffer apart that a multishot `recvmsg` filled: head, room for the address, room for control
/// messages, payload. `None` if it is cut off anywhere.
fn datagram(token: Token, mut buffer: Slice) -> Option<Completion> {
    let bytes = buffer.bytes();
    let word = |at: usize| {
        bytes
            .get(at..)?
            .first_chunk()
            .map(|word| u32::from_ne_bytes(*word) as usize)
    };
    let (name_len, control_len) = (word(0)?, word(4)?);
    let (payload_len, flags) = (word(8)?, word(12)?);
    let name = &bytes
        .get(DATAGRAM_HEAD_BYTES..)?
        .get(..DATAGRAM_NAME_BYTES)?;
    let from = address::parse_inet(&name[..name_len.min(DATAGRAM_NAME_BYTES)]);
    let control_at = DATAGRAM_HEAD_BYTES + DATAGRAM_NAME_BYTES;
    let control_bytes = bytes.get(control_at..)?.get(..DATAGRAM_CONTROL_BYTES)?;
    let ancillary = control::parse(&control_bytes[..control_len.min(DATAGRAM_CONTROL_BYTES)]);
    let payload_at = control_at + DATAGRAM_CONTROL_BYTES;
    let cut = flags & libc::MSG_TRUNC as usize != 0;
    if cut || bytes.len() < payload_at + payload_len {
        return None;
    }
    buffer.advance(payload_at);
    buffer.truncate(payload_len);
    Some(Completion::Datagram {
        token,
        from,
        payload: buffer,
        gso_size: ancillary.gso_size,
        hop_limit: ancillary.hop_limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(name: u32, control: u32, payload: u32, flags: u32) -> Vec<u8> {
        [name, control, payload, flags]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect()
    }

    #[test]
    fn a_datagram_is_taken_apart() {
        let mut bytes = head(16, 0, 3, 0);
        bytes.extend((libc::AF_INET as u16).to_ne_bytes());
        bytes.extend([0, 53, 192, 0, 2, 1]);
        bytes.resize(
            DATAGRAM_HEAD_BYTES + DATAGRAM_NAME_BYTES + DATAGRAM_CONTROL_BYTES,
            0,
        );
        bytes.extend(b"abc");
        match datagram(7, Slice::from_vec(bytes.clone())) {
            Some(Completion::Datagram {
                token,
                from,
                payload,
                gso_size,
                hop_limit,
            }) => {
                assert_eq!((token, gso_size, hop_limit), (7, 0, None));
                assert_eq!(from, Some("192.0.2.1:53".parse().unwrap()));
                assert_eq!(payload.bytes(), b"abc");
            }
            other => panic!("{other:?}"),
        }
        bytes.pop();
        assert!(datagram(7, Slice::from_vec(bytes)).is_none(), "cut off");
    }

    proptest! {
        #[test]
        fn any_buffer_is_a_datagram_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = datagram(0, Slice::from_vec(bytes));
        }
    }
}

//! Datagrams and packets, to and from sockets that need no connection or have one.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::Readiness;
use super::message::INBOX_DATAGRAMS;
use super::poller::{Interest, Poller};
use super::socket::{Operation, ReceiveFrom};
use crate::buffer::Slice;
use crate::driver::kernel::errors::is_soft;
use crate::driver::{Completion, Errno, PACKETS_MAX, SEND_SLICES_MAX, SocketId, Token};

impl<P: Poller> Readiness<P> {
    /// Sends a datagram to an address, or a packet to the connected peer.
    pub(super) fn send_datagram(
        &mut self,
        id: SocketId,
        to: Option<&SocketAddr>,
        payload: &[Slice],
        gso_size: u16,
    ) -> Result<(), Errno> {
        if payload.len() > SEND_SLICES_MAX {
            return Err(Errno::MSGSIZE);
        }
        let bytes: usize = payload.iter().map(Slice::len).sum();
        // One datagram needs no cutting.
        let gso_size = if bytes > usize::from(gso_size) {
            gso_size
        } else {
            0
        };
        for retry in [false, true] {
            let socket = self.sockets.open_mut(id).ok_or(Errno::BADF)?;
            self.counters.enters += 1;
            let Err(errno) = self.outbox.send(socket.fd(), to, payload, gso_size) else {
                return Ok(());
            };
            // It may be an error of an earlier datagram. Then this one has not been tried.
            if self.send_failed(id).is_none() || retry {
                return Err(errno);
            }
            self.counters.datagram_send_retries += 1;
        }
        Ok(())
    }

    /// A send failed, maybe for an earlier datagram: tells the socket's receiver. Returns the error of the
    /// first entry from the network.
    fn send_failed(&mut self, id: SocketId) -> Option<Errno> {
        let socket = self.sockets.open_mut(id)?;
        let drained = socket.errors.drain(socket.fd.as_fd());
        self.counters.errors_dropped += drained.dropped;
        if let (Some(errno), Some(receive_from)) = (drained.first, socket.receive_from) {
            let token = receive_from.token;
            self.ready.push(Completion::DatagramError { token, errno });
        }
        drained.from_network
    }

    pub(super) fn begin_send_packets(
        &mut self,
        id: SocketId,
        packets: &[&[Slice]],
        token: Token,
    ) -> Result<(), Errno> {
        let socket = self.sockets.open_mut(id).ok_or(Errno::BADF)?;
        let packets = &packets[..packets.len().min(PACKETS_MAX)];
        if packets.iter().any(|packet| packet.len() > SEND_SLICES_MAX) {
            return Err(Errno::MSGSIZE);
        }
        if !socket.busy.begin(Operation::Send) {
            return Err(Errno::ALREADY);
        }
        self.counters.enters += 1;
        let result = match self.outbox.send_packets(socket.fd.as_fd(), packets) {
            Err(Errno::AGAIN) => {
                socket.room = Some(token);
                socket.ready.write = false;
                return self.wait_for_room(id);
            }
            Err(Errno::INTR) => Ok(0),
            result => result,
        };
        self.complete(id, Operation::Send, Completion::Sent { token, result });
        Ok(())
    }

    pub(super) fn begin_receive_from(&mut self, id: SocketId, token: Token) -> Result<(), Errno> {
        let socket = self.sockets.open_mut(id).ok_or(Errno::BADF)?;
        if socket.receive_from.is_some() {
            return Err(Errno::ALREADY);
        }
        self.watch(id, Interest::Read)?;
        if let Some(socket) = self.sockets.open_mut(id) {
            socket.receive_from = Some(ReceiveFrom {
                token,
                starved: false,
            });
        }
        self.queue(id);
        Ok(())
    }

    /// Receives the datagrams that are there, as many as one call takes. Returns how many bytes came.
    pub(super) fn try_receive_from(&mut self, id: SocketId) -> usize {
        let Some(socket) = self.sockets.open_mut(id) else {
            return 0;
        };
        let shared = socket.is_shared();
        let Some(receive_from) = &mut socket.receive_from else {
            return 0;
        };
        let token = receive_from.token;
        let pool = &self.datagram;
        self.blanks
            .extend(std::iter::from_fn(|| pool.blank()).take(INBOX_DATAGRAMS));
        if self.blanks.is_empty() {
            receive_from.starved = true;
            self.counters.datagram_starved += 1;
            self.starved.datagrams.push(id);
            return 0;
        }
        self.counters.enters += 1;
        let (mut bytes, mut end) = (0, false);
        match self.inbox.receive(socket.fd(), &mut self.blanks) {
            Ok(count) => {
                // More may be there if as many came as can; so may an error after the last.
                socket.ready.read = count == self.blanks.len() || socket.ready.ended;
                for (at, blank) in self.blanks.drain(..count).enumerate() {
                    let envelope = self.inbox.envelope(at);
                    if envelope.cut {
                        self.counters.datagrams_broken += 1;
                        continue;
                    }
                    if envelope.bytes == 0 && !shared {
                        // A connected peer that is gone looks like an empty packet.
                        end = true;
                        break;
                    }
                    bytes += envelope.bytes;
                    self.ready.push(Completion::Datagram {
                        token,
                        from: envelope.from,
                        payload: blank.filled(envelope.bytes),
                        gso_size: envelope.ancillary.gso_size,
                        hop_limit: envelope.ancillary.hop_limit,
                    });
                }
            }
            Err(Errno::AGAIN) => socket.nothing_to_read(),
            Err(errno) => {
                let soft = shared && is_soft(errno);
                if soft {
                    let drained = socket.errors.drain(socket.fd.as_fd());
                    self.counters.errors_dropped += drained.dropped;
                }
                self.ready.push(Completion::DatagramError { token, errno });
                end = !soft;
            }
        }
        self.give_back_blanks();
        if end {
            self.end_receive_from(id);
        }
        bytes
    }

    /// The last word of a `receive_from`.
    pub(super) fn end_receive_from(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.open_mut(id) else {
            return;
        };
        if let Some(ReceiveFrom { token, starved }) = socket.receive_from.take() {
            if starved {
                self.starved.datagrams.retain(|&other| other != id);
            }
            self.ready.push(Completion::DatagramEnd { token });
        }
    }
}

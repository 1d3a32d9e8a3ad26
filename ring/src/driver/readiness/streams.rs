//! Connections: connect, send and receive.

use std::io::IoSliceMut;
use std::os::fd::AsFd;

use rustix::net::Shutdown;

use super::message;
use super::poller::{Interest, Poller};
use super::socket::{Connect, Operation, Ready, Receive};
use super::{Readiness, STREAM_PARTS_MAX};
use crate::buffer::Slice;
use crate::driver::kernel::address::RawAddress;
use crate::driver::{
    Completion, Errno, ReceiveEnd, Remote, SEND_SLICES_MAX, SendMode, SocketId, Token,
};

impl<P: Poller> Readiness<P> {
    pub(super) fn begin_connect(
        &mut self,
        id: SocketId,
        to: &Remote,
        token: Token,
    ) -> Result<(), Errno> {
        let socket = self.sockets.open_mut(id).ok_or(Errno::BADF)?;
        if socket.connect.is_some() {
            return Err(Errno::ALREADY);
        }
        let mut address = RawAddress::default();
        address.set(to)?;
        if !socket.busy.begin(Operation::Connect) {
            return Err(Errno::ALREADY);
        }
        socket.ready = Ready::NOTHING;
        socket.connect = Some(Connect { token, again: None });
        self.try_connect(id, address);
        Ok(())
    }

    fn try_connect(&mut self, id: SocketId, address: RawAddress) {
        self.counters.enters += 1;
        let Some(socket) = self.sockets.open_mut(id) else {
            return;
        };
        let outcome = match message::connect(socket.fd(), &address) {
            Err(Errno::INPROGRESS) => match self.watch(id, Interest::ReadWrite) {
                Ok(()) => return,
                failed => failed,
            },
            // A UNIX listener's queue is full, of which no event tells the end.
            Err(Errno::AGAIN) => {
                if let Some(connect) = &mut socket.connect {
                    connect.again = Some(Box::new(address));
                    self.connecting_again.push(id);
                }
                return;
            }
            Ok(()) => {
                socket.ready = Ready::UNKNOWN;
                Ok(())
            }
            failed => failed,
        };
        self.connected(id, outcome);
    }

    /// Tries again what found a full queue.
    pub(super) fn connect_again(&mut self) {
        for id in std::mem::take(&mut self.connecting_again) {
            let connect = self
                .sockets
                .open_mut(id)
                .and_then(|socket| socket.connect.as_mut());
            if let Some(address) = connect.and_then(|connect| connect.again.take()) {
                self.try_connect(id, *address);
            }
        }
    }

    /// An event says that a connect is over.
    pub(super) fn finish_connect(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.open_mut(id) else {
            return;
        };
        if socket
            .connect
            .as_ref()
            .is_none_or(|connect| connect.again.is_some())
        {
            return;
        }
        socket.ready.write = false;
        self.counters.enters += 1;
        let outcome = message::connect_outcome(socket.fd());
        self.connected(id, outcome);
    }

    fn connected(&mut self, id: SocketId, result: Result<(), Errno>) {
        let Some(socket) = self.sockets.open_mut(id) else {
            return;
        };
        if let Some(Connect { token, .. }) = socket.connect.take() {
            self.complete(
                id,
                Operation::Connect,
                Completion::Connected { token, result },
            );
        }
    }

    pub(super) fn begin_send(
        &mut self,
        id: SocketId,
        payload: &[Slice],
        mode: SendMode,
        token: Token,
    ) -> Result<(), Errno> {
        let socket = self.sockets.open_mut(id).ok_or(Errno::BADF)?;
        if !socket.busy.begin(Operation::Send) {
            return Err(Errno::ALREADY);
        }
        let payload = &payload[..payload.len().min(SEND_SLICES_MAX)];
        self.counters.enters += 1;
        let result = match self.outbox.send(socket.fd(), None, payload, 0) {
            Err(Errno::AGAIN) if mode == SendMode::WhenWritable => {
                socket.send.waits = true;
                socket.send.token = token;
                socket.send.slices.extend_from_slice(payload);
                socket.ready.write = false;
                return self.wait_for_room(id);
            }
            Err(Errno::AGAIN) => Ok(0),
            result => result,
        };
        let sent = Completion::Sent { token, result };
        if mode == SendMode::Quiet {
            let all = payload.iter().map(Slice::len).sum::<usize>() as u32;
            if result == Ok(all) {
                self.unheard.push((id, Operation::Send));
                self.quiet.push(sent);
                return Ok(());
            }
        }
        self.complete(id, Operation::Send, sent);
        Ok(())
    }

    /// What the socket keeps waits for an event.
    pub(super) fn wait_for_room(&mut self, id: SocketId) -> Result<(), Errno> {
        let watched = self.watch(id, Interest::ReadWrite);
        let socket = self.sockets.open_mut(id).ok_or(Errno::BADF)?;
        if watched.is_err() {
            socket.send.release();
            socket.room = None;
            socket.busy.end(Operation::Send);
        }
        watched
    }

    /// There is room, maybe: sends what waited for it.
    pub(super) fn try_send(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.open_mut(id) else {
            return;
        };
        socket.ready.write = false;
        if let Some(token) = socket.room.take() {
            let result = Ok(0);
            self.complete(id, Operation::Send, Completion::Sent { token, result });
            return;
        }
        self.counters.enters += 1;
        let send = &mut socket.send;
        let result = self.outbox.send(socket.fd.as_fd(), None, &send.slices, 0);
        if result == Err(Errno::AGAIN) {
            return;
        }
        let token = send.token;
        send.release();
        if std::mem::take(&mut socket.shutdown) {
            // The peer may be gone: then there is nothing to tell it.
            let _ = rustix::net::shutdown(&socket.fd, Shutdown::Write);
        }
        self.complete(id, Operation::Send, Completion::Sent { token, result });
    }

    pub(super) fn begin_receive(
        &mut self,
        id: SocketId,
        max: u32,
        token: Token,
    ) -> Result<(), Errno> {
        let socket = self.sockets.open_mut(id).ok_or(Errno::BADF)?;
        if socket.receive.is_some() {
            return Err(Errno::ALREADY);
        }
        if max == 0 {
            return Err(Errno::INVAL);
        }
        if !socket.busy.begin(Operation::Receive) {
            return Err(Errno::ALREADY);
        }
        socket.receive = Some(Receive { token, max });
        let watched = self.watch(id, Interest::Read);
        if let (Err(errno), Some(socket)) = (watched, self.sockets.open_mut(id)) {
            socket.receive = None;
            socket.busy.end(Operation::Receive);
            return Err(errno);
        }
        self.queue(id);
        Ok(())
    }

    /// Receives what is there, into as many buffers as it may fill. Returns how many bytes came.
    pub(super) fn try_receive(&mut self, id: SocketId) -> usize {
        let Some(socket) = self.sockets.open_mut(id) else {
            return 0;
        };
        let Some(Receive { token, max }) = socket.receive else {
            return 0;
        };
        let (pool, parts_max) = match &self.link_stream {
            Some(pool) if socket.large => (pool, 1),
            _ => (&self.stream, STREAM_PARTS_MAX),
        };
        let parts = (max.div_ceil(pool.buffer_bytes()) as usize).min(parts_max);
        self.blanks
            .extend(std::iter::from_fn(|| pool.blank()).take(parts));
        let mut row: [_; STREAM_PARTS_MAX] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut left = max as usize;
        let mut parts = 0;
        for (part, blank) in row.iter_mut().zip(&mut self.blanks) {
            let bytes = blank.bytes_mut();
            let len = left.min(bytes.len());
            *part = IoSliceMut::new(&mut bytes[..len]);
            left -= len;
            parts += 1;
        }
        let asked = max as usize - left;
        let mut got = 0;
        let end = if parts == 0 {
            self.counters.stream_starved += 1;
            ReceiveEnd::Starved
        } else {
            self.counters.enters += 1;
            match rustix::io::retry_on_intr(|| rustix::io::readv(&socket.fd, &mut row[..parts])) {
                Ok(0) => ReceiveEnd::Eof,
                Ok(bytes) => {
                    got = bytes;
                    // There was no more, or an event will tell, or it is the end.
                    socket.ready.read = bytes == asked || socket.ready.ended;
                    ReceiveEnd::Partial
                }
                Err(Errno::AGAIN) => {
                    socket.nothing_to_read();
                    self.give_back_blanks();
                    return 0;
                }
                Err(errno) => ReceiveEnd::Failed(errno),
            }
        };
        socket.receive = None;
        let mut left = got;
        let filled = self.blanks.iter_mut().map(|blank| blank.bytes_mut().len());
        let filled = filled
            .scan(0, |sum, len| (*sum < got).then(|| *sum += len))
            .count();
        for blank in self.blanks.drain(..filled) {
            let data = blank.filled(left);
            left -= data.len();
            self.ready.push(Completion::Received { token, data });
        }
        self.give_back_blanks();
        self.complete(
            id,
            Operation::Receive,
            Completion::ReceiveEnd { token, end },
        );
        got
    }

    /// Frees buffers that were not filled, so that they come in the same order again.
    pub(super) fn give_back_blanks(&mut self) {
        while self.blanks.pop().is_some() {}
    }
}

//! The contract of a driver: what a core asks for is checked, and queued or carried out.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::host::{Answer, SimDatagram};
use super::socket::{Connect, Receive, Send, Socket, reaches};
use super::{DATAGRAM_MAX, Due, LINK, Operation, SimDriver};
use crate::buffer::Slice;
use crate::driver::{
    Adopted, BufferLevels, Completion, Driver, DriverCounters, Errno, FRAME_HEADER_MAX,
    FRAME_SLICES_MAX, Keepalive, LinkFeatures, LinkId, PACKETS_MAX, ReceiveEnd, Remote,
    SEND_SLICES_MAX, SendMode, SocketError, SocketId, SocketKind, Token, Waker, WriteStats,
};

impl SimDriver {
    pub(super) fn add(&mut self, kind: SocketKind) -> SocketId {
        let raw = self.next_socket;
        self.next_socket += 1;
        let port = self.host.new_port();
        self.sockets.insert(raw, Socket::new(kind, port));
        SocketId::from_raw(raw)
    }

    /// Splits a send into datagrams, all of which leave.
    fn send_datagrams(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[Slice],
        gso_size: u16,
    ) {
        let whole: Vec<u8> = payload.iter().flat_map(|s| s.bytes()).copied().collect();
        let size = match usize::from(gso_size) {
            0 => whole.len().max(1),
            size => size,
        };
        if whole.is_empty() {
            let payload = Vec::new();
            return self.host.sent(SimDatagram { from, to, payload });
        }
        for piece in whole.chunks(size) {
            let payload = piece.to_vec();
            self.host.sent(SimDatagram { from, to, payload });
        }
    }
}

impl Driver for SimDriver {
    fn now(&self) -> u64 {
        self.now
    }

    fn wait(&mut self, deadline: Option<u64>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.counters.enters += 1;
        self.held.clear();
        self.collect_buffers();
        let before = completions.len();
        loop {
            self.collect(completions);
            if completions.len() > before {
                return Ok(());
            }
            let next = [self.next_at(), deadline].into_iter().flatten().min();
            let Some(next) = next else {
                return Err(io::Error::other("a wait that nothing will ever end"));
            };
            let over = deadline.is_some_and(|deadline| deadline <= next);
            self.set_now(next);
            if over {
                self.collect(completions);
                if self.config.deadlines_tell {
                    self.tell_quiet(completions);
                }
                return Ok(());
            }
        }
    }

    fn link_features(&self, link: LinkId) -> LinkFeatures {
        self.config
            .link
            .filter(|_| link == LINK)
            .unwrap_or_default()
    }

    fn read_link(&mut self, link: LinkId) {
        if link == LINK && self.config.link.is_some() {
            self.reading = true;
        } else {
            let error = Errno::BADF;
            self.complete(vec![Completion::LinkEnd { link, error }]);
        }
    }

    fn write_frame(&mut self, link: LinkId, header: &[u8], payload: &[Slice]) {
        let fits = header.len() <= FRAME_HEADER_MAX && payload.len() <= FRAME_SLICES_MAX;
        if !fits || link != LINK || self.config.link.is_none() {
            self.writes.refused += 1;
            return;
        }
        if self.random.chance(self.config.faults.frame_refused) {
            return self.writes.count(Err(Errno::NOBUFS));
        }
        let mut frame = header.to_vec();
        payload
            .iter()
            .for_each(|slice| frame.extend_from_slice(slice));
        self.held.extend_from_slice(payload);
        self.writes.count(Ok(frame.len() as u32));
        self.outbox.push_back(frame);
    }

    fn open(&mut self, kind: SocketKind) -> io::Result<SocketId> {
        let full = self.sockets.len() >= self.config.sockets_max;
        if full || self.random.chance(self.config.faults.no_socket) {
            return Err(Errno::MFILE.into());
        }
        Ok(self.add(kind))
    }

    fn adopt(&mut self, fd: OwnedFd, purpose: Adopted) -> SocketId {
        match self.host.claim(&fd) {
            Some(stream) => self.add_stream(purpose, stream),
            None => self.adopt_mute(),
        }
    }

    fn connect(&mut self, id: SocketId, to: &Remote, token: Token) {
        let raw = id.raw();
        let refused = match self.sockets.get(&raw) {
            None => Some(Errno::BADF),
            Some(socket) if socket.connect.is_some() || socket.unheard.connect => {
                Some(Errno::ALREADY)
            }
            Some(socket) if !reaches(socket.kind, to) => Some(Errno::AFNOSUPPORT),
            Some(_) => None,
        };
        if let Some(errno) = refused {
            let result = Err(errno);
            return self.complete(vec![Completion::Connected { token, result }]);
        }
        let answer = self.host.judge(to);
        let at = match answer {
            Answer::Accept { after_ns, .. } | Answer::Refuse { after_ns, .. } => {
                Some(self.now + after_ns)
            }
            Answer::Never => None,
        };
        if let Some(socket) = self.sockets.get_mut(&raw) {
            let to = to.clone();
            socket.connect = Some(Connect {
                token,
                to,
                at,
                answer,
            });
            self.waiting.insert(raw);
        }
    }

    fn send(&mut self, id: SocketId, payload: &[Slice], mode: SendMode, token: Token) {
        let raw = id.raw();
        let payload = &payload[..payload.len().min(SEND_SLICES_MAX)];
        let refused = match self.sockets.get(&raw) {
            None => Some(Errno::BADF),
            Some(socket) if socket.send.is_some() || socket.unheard.send => Some(Errno::ALREADY),
            Some(socket) if socket.stream.is_none() => Some(Errno::PIPE),
            Some(_) => None,
        };
        if let Some(errno) = refused {
            let result = Err(errno);
            return self.complete(vec![Completion::Sent { token, result }]);
        }
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(stream) = socket.stream.clone() else {
            return;
        };
        let len: usize = payload.iter().map(Slice::len).sum();
        if mode == SendMode::WhenWritable && len > 0 {
            let payload = payload.to_vec();
            socket.send = Some(Send { token, payload });
            self.waiting.insert(raw);
            return self.progress_send(raw);
        }
        let result = self.write_stream(&stream, payload);
        self.held.extend_from_slice(payload);
        let done = vec![Completion::Sent { token, result }];
        if mode == SendMode::Quiet && result == Ok(len as u32) {
            if let Some(socket) = self.sockets.get_mut(&raw) {
                socket.unheard.send = true;
            }
            let of = Some((raw, Operation::Send));
            self.quiet.push(Due {
                of,
                completions: done,
            });
        } else {
            self.complete_of(raw, Operation::Send, done);
        }
    }

    fn receive(&mut self, id: SocketId, max: u32, _: bool, token: Token) {
        let raw = id.raw();
        let refused = match self.sockets.get(&raw) {
            None => Some(Errno::BADF),
            Some(socket) if socket.receive.is_some() || socket.unheard.receive => {
                Some(Errno::ALREADY)
            }
            Some(socket) if socket.stream.is_none() => Some(Errno::NOTCONN),
            Some(_) if max == 0 => Some(Errno::INVAL),
            Some(_) => None,
        };
        if let Some(errno) = refused {
            let end = ReceiveEnd::Failed(errno);
            return self.complete(vec![Completion::ReceiveEnd { token, end }]);
        }
        if let Some(socket) = self.sockets.get_mut(&raw) {
            socket.receive = Some(Receive { token, max });
            self.waiting.insert(raw);
        }
    }

    fn send_to(
        &mut self,
        id: SocketId,
        to: &SocketAddr,
        payload: &[Slice],
        gso_size: u16,
        token: Token,
    ) {
        let len: usize = payload.iter().map(Slice::len).sum();
        let longest = if gso_size == 0 { DATAGRAM_MAX } else { 65_535 };
        let faults = self.config.faults.datagram_refused;
        let outcome = match self.sockets.get(&id.raw()) {
            None => Err(Errno::BADF),
            Some(_) if payload.len() > SEND_SLICES_MAX || len > longest => Err(Errno::MSGSIZE),
            Some(socket) if !reaches(socket.kind, &Remote::Inet(*to)) => Err(Errno::AFNOSUPPORT),
            Some(_) if self.random.chance(faults) => Err(Errno::NOBUFS),
            Some(socket) => Ok(socket.local),
        };
        match outcome {
            Ok(from) => {
                self.held.extend_from_slice(payload);
                self.send_datagrams(from, *to, payload, gso_size);
            }
            Err(errno) => {
                let payload = payload.first().cloned().unwrap_or_default();
                let to = Some(*to);
                let failed = Completion::SendFailed {
                    token,
                    errno,
                    to,
                    payload,
                };
                self.complete(vec![failed]);
            }
        }
    }

    fn send_packet(&mut self, id: SocketId, payload: &[Slice], token: Token) {
        self.held.extend_from_slice(payload);
        let sent = match self.sockets.get(&id.raw()) {
            None => Err(Errno::BADF),
            Some(socket) => socket
                .packets
                .as_ref()
                .map_or(Ok(()), |packets| packets.core_send(payload)),
        };
        if let Err(errno) = sent {
            let failed = Completion::SendFailed {
                token,
                errno,
                to: None,
                payload: payload.first().cloned().unwrap_or_default(),
            };
            self.complete(vec![failed]);
        }
    }

    fn send_packets(&mut self, id: SocketId, packets: &[&[Slice]], token: Token) {
        let raw = id.raw();
        let mut packets = &packets[..packets.len().min(PACKETS_MAX)];
        let refused = match self.sockets.get(&raw) {
            None => Some(Errno::BADF),
            Some(socket) if socket.room.is_some() || socket.unheard.send => Some(Errno::ALREADY),
            Some(_) if packets.iter().any(|packet| packet.len() > SEND_SLICES_MAX) => {
                Some(Errno::MSGSIZE)
            }
            Some(socket) if socket.packets.is_none() => Some(Errno::NOTCONN),
            Some(_) => None,
        };
        if let Some(errno) = refused {
            let result = Err(errno);
            return self.complete(vec![Completion::Sent { token, result }]);
        }
        if packets.len() > 1 && self.random.chance(self.config.faults.short_send) {
            let some = self.random.between(1, packets.len() as u64 - 1);
            packets = &packets[..some as usize];
        }
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(to) = &socket.packets else { return };
        let (mut taken, mut result) = (0, Ok(()));
        for packet in packets {
            result = to.core_send(packet);
            if result.is_err() {
                break;
            }
            taken += 1;
        }
        let result = match result {
            Err(Errno::AGAIN) if taken == 0 => {
                socket.room = Some(token);
                self.waiting.insert(raw);
                return;
            }
            Err(errno) if taken == 0 => Err(errno),
            _ => Ok(taken),
        };
        self.complete_of(
            raw,
            Operation::Send,
            vec![Completion::Sent { token, result }],
        );
    }

    fn receive_from(&mut self, id: SocketId, token: Token) {
        let raw = id.raw();
        let errno = match self.sockets.get_mut(&raw) {
            None => Errno::BADF,
            Some(socket) if socket.receive_from.is_some() => Errno::ALREADY,
            Some(socket) => {
                socket.receive_from = Some(token);
                return;
            }
        };
        let refused = vec![
            Completion::DatagramError { token, errno },
            Completion::DatagramEnd { token },
        ];
        self.complete(refused);
    }

    fn take_error(&mut self, id: SocketId) -> Option<SocketError> {
        self.sockets.get_mut(&id.raw())?.errors.pop_front()
    }

    fn shutdown_write(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(&id.raw()) {
            socket.shutdown_wanted = true;
            socket.shut_down_if_wanted();
        }
    }

    fn close(&mut self, id: SocketId, reset: bool) {
        let raw = id.raw();
        let Some(socket) = self.sockets.remove(&raw) else {
            return;
        };
        self.waiting.remove(&raw);
        self.packet_sockets.remove(&raw);
        let mut ended = Vec::new();
        if let Some(Connect { token, .. }) = socket.connect {
            let result = Err(Errno::CANCELED);
            ended.push(Completion::Connected { token, result });
        }
        if let Some(Send { token, payload }) = socket.send {
            self.held.extend(payload);
            let result = Err(Errno::CANCELED);
            ended.push(Completion::Sent { token, result });
        }
        if let Some(token) = socket.room {
            let result = Err(Errno::CANCELED);
            ended.push(Completion::Sent { token, result });
        }
        if let Some(Receive { token, .. }) = socket.receive {
            let end = ReceiveEnd::Canceled;
            ended.push(Completion::ReceiveEnd { token, end });
        }
        if let Some(token) = socket.receive_from {
            ended.push(Completion::DatagramEnd { token });
        }
        let mut last = socket.last;
        for completion in ended {
            last = self.complete_behind(last, None, vec![completion]);
        }
        if let Some(stream) = socket.stream {
            stream.core_close(reset);
        }
        if let Some(packets) = socket.packets {
            packets.core_close();
        }
    }

    fn set_hop_limit(&mut self, id: SocketId, _: u8) -> io::Result<()> {
        let socket = self.sockets.get(&id.raw());
        socket.map(|_| ()).ok_or(Errno::BADF.into())
    }

    fn set_report_errors(&mut self, id: SocketId) -> io::Result<()> {
        self.set_hop_limit(id, 0)
    }

    fn set_keepalive(&mut self, id: SocketId, _: &Keepalive) -> io::Result<()> {
        self.set_hop_limit(id, 0)
    }

    fn local_address(&self, id: SocketId) -> io::Result<SocketAddr> {
        match self.sockets.get(&id.raw()) {
            None => Err(Errno::BADF.into()),
            Some(socket) if socket.kind == SocketKind::UnixStream => Err(Errno::AFNOSUPPORT.into()),
            Some(socket) => Ok(socket.local),
        }
    }

    fn levels(&self) -> BufferLevels {
        BufferLevels {
            tap_free: self.frames.free(),
            tap_total: self.frames.count(),
            stream_free: self.streams.free(),
            stream_total: self.streams.count(),
            stream_buffer_bytes: self.config.stream_buffer_bytes as usize,
            link_free: self.links.free(),
            link_total: self.links.count(),
            datagram_free: self.datagrams.free(),
            datagram_total: self.datagrams.count(),
        }
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }

    fn write_stats(&self, _: LinkId) -> WriteStats {
        self.writes
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, peer: &Waker) {
        peer.claim();
    }
}

//! What the simulated kernel does by itself: operations that become possible are carried out, and a wait
//! ends with what is due.

use std::rc::Rc;

use super::host::Answer;
use super::socket::{Arrival, Receive, Socket};
use super::stream::{Got, SimStream, Stream};
use super::{ERRORS_MAX, LINK, LINK_BUFFER_BYTES, Operation, PACKET_BYTES_MAX, SimDriver};
use crate::buffer::Slice;
use crate::driver::{Completion, Errno, ReceiveEnd, SocketKind};

impl SimDriver {
    // What the kernel does by itself

    /// Carries out what can be by now.
    pub(super) fn progress(&mut self) {
        let waiting: Vec<u32> = self.waiting.union(&self.packet_sockets).copied().collect();
        for raw in waiting {
            self.progress_connect(raw);
            self.progress_send(raw);
            self.progress_receive(raw);
            self.progress_room(raw);
            self.progress_packets(raw);
            self.progress_datagrams(raw);
            if !self.sockets.get(&raw).is_some_and(Socket::is_waiting) {
                self.waiting.remove(&raw);
            }
        }
    }

    fn progress_connect(&mut self, raw: u32) {
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(connect) = socket
            .connect
            .take_if(|connect| connect.at.is_some_and(|at| at <= now))
        else {
            return;
        };
        let result = match connect.answer {
            Answer::Accept {
                up_buffer,
                down_buffer,
                ..
            } => {
                let stream = Stream::new(up_buffer, down_buffer);
                socket.stream = Some(Rc::clone(&stream));
                self.host.connected(connect.to, SimStream(stream));
                Ok(())
            }
            Answer::Refuse { errno, .. } => Err(errno),
            Answer::Never => return,
        };
        let token = connect.token;
        let done = vec![Completion::Connected { token, result }];
        self.complete_of(raw, Operation::Connect, done);
    }

    pub(super) fn progress_send(&mut self, raw: u32) {
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(stream) = socket.stream.clone() else {
            return;
        };
        let Some(send) = socket.send.take_if(|_| stream.core_writable() > 0) else {
            return;
        };
        let result = self.write_stream(&stream, &send.payload);
        self.held.extend(send.payload);
        let token = send.token;
        let done = vec![Completion::Sent { token, result }];
        self.complete_of(raw, Operation::Send, done);
        if let Some(socket) = self.sockets.get_mut(&raw) {
            socket.shut_down_if_wanted();
        }
    }

    pub(super) fn write_stream(
        &mut self,
        stream: &Stream,
        payload: &[Slice],
    ) -> Result<u32, Errno> {
        let mut left: usize = payload.iter().map(Slice::len).sum();
        if left > 1 && self.random.chance(self.config.faults.short_send) {
            left = self.random.between(1, left as u64 - 1) as usize;
        }
        let mut sent = 0;
        for slice in payload {
            let n = slice.len().min(left - sent);
            if n == 0 {
                break;
            }
            match stream.core_write(&slice[..n]) {
                Ok(taken) => {
                    sent += taken;
                    if taken < n {
                        break;
                    }
                }
                // A part that went is told; the error stays for the next.
                Err(_) if sent > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        if sent == 0 {
            stream.core_write(&[])?;
        }
        Ok(sent as u32)
    }

    fn progress_receive(&mut self, raw: u32) {
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(stream) = socket.stream.clone() else {
            return;
        };
        let Some(receive) = socket.receive.take_if(|_| stream.core_readable()) else {
            return;
        };
        let (token, is_link, mut done) = (receive.token, socket.is_link, Vec::new());
        let end = self.read_stream(&stream, receive, is_link, &mut done);
        self.counters.stream_starved += u64::from(end == ReceiveEnd::Starved);
        done.push(Completion::ReceiveEnd { token, end });
        self.complete_of(raw, Operation::Receive, done);
    }

    fn read_stream(
        &mut self,
        stream: &Stream,
        receive: Receive,
        is_link: bool,
        done: &mut Vec<Completion>,
    ) -> ReceiveEnd {
        let Receive { token, max } = receive;
        let faults = &self.config.faults;
        if stream.core_available() > 0 && self.random.chance(faults.starved) {
            return ReceiveEnd::Starved;
        }
        let short = self.random.chance(faults.short_receive);
        let (pool, buffer_bytes, most) = if is_link {
            (
                &mut self.links,
                LINK_BUFFER_BYTES,
                max.min(LINK_BUFFER_BYTES),
            )
        } else {
            (&mut self.streams, self.config.stream_buffer_bytes, max)
        };
        let mut left = most as usize;
        if short {
            left = self.random.between(1, u64::from(most)) as usize;
        }
        while left > 0 {
            let mut want = left.min(buffer_bytes as usize);
            want = want.min(stream.core_available());
            if want == 0 {
                break;
            }
            if short && !is_link && self.random.chance(5_000) {
                want = self.random.between(1, want as u64) as usize;
            }
            let read = pool.lend(want, |bytes| {
                let got = stream.core_read(bytes);
                debug_assert_eq!(got, Ok(Got::Bytes(want)));
            });
            let Some(data) = read else {
                if done.is_empty() {
                    return ReceiveEnd::Starved;
                }
                break;
            };
            left -= want;
            done.push(Completion::Received { token, data });
        }
        if !done.is_empty() {
            return ReceiveEnd::Partial;
        }
        match stream.core_read(&mut []) {
            Err(errno) => ReceiveEnd::Failed(errno),
            Ok(_) => ReceiveEnd::Eof,
        }
    }

    fn progress_room(&mut self, raw: u32) {
        let Some(socket) = self.sockets.get_mut(&raw) else {
            return;
        };
        let Some(packets) = &socket.packets else {
            return;
        };
        let Some(token) = socket.room.take_if(|_| packets.core_writable()) else {
            return;
        };
        let result = Ok(0);
        let done = vec![Completion::Sent { token, result }];
        self.complete_of(raw, Operation::Send, done);
    }

    fn progress_packets(&mut self, raw: u32) {
        loop {
            let Some(socket) = self.sockets.get_mut(&raw) else {
                return;
            };
            let (Some(token), Some(packets)) = (socket.receive_from, &socket.packets) else {
                return;
            };
            let completion = match packets.core_waits() {
                None if !packets.is_over() => return,
                // As in a kernel, where a peer that is gone looks like an empty packet.
                None | Some(0) => {
                    socket.receive_from = None;
                    Completion::DatagramEnd { token }
                }
                Some(len) if len > PACKET_BYTES_MAX => {
                    let _ = packets.core_receive();
                    self.counters.datagrams_broken += 1;
                    continue;
                }
                Some(len) => {
                    let lent = self.datagrams.lend(len, |buffer| {
                        buffer.copy_from_slice(&packets.core_receive().unwrap_or_default());
                    });
                    let Some(payload) = lent else {
                        self.counters.datagram_starved += 1;
                        return;
                    };
                    Completion::Datagram {
                        token,
                        from: None,
                        payload,
                        gso_size: 0,
                        hop_limit: None,
                    }
                }
            };
            self.complete_in_order(raw, None, vec![completion]);
        }
    }

    fn progress_datagrams(&mut self, raw: u32) {
        loop {
            let now = self.now;
            let Some(socket) = self.sockets.get_mut(&raw) else {
                return;
            };
            let Some(token) = socket.receive_from else {
                return;
            };
            let Some(first) = socket
                .inbox
                .first_entry()
                .filter(|first| first.key().0 <= now)
            else {
                return;
            };
            let completion = match first.get() {
                Arrival::Error(error) => {
                    let errno = error.errno;
                    if socket.errors.len() < ERRORS_MAX {
                        socket.errors.push_back(error.clone());
                    } else {
                        self.counters.errors_dropped += 1;
                    }
                    Completion::DatagramError { token, errno }
                }
                Arrival::Datagram {
                    from,
                    payload,
                    gso_size,
                } => {
                    let filled = self
                        .datagrams
                        .lend(payload.len(), |bytes| bytes.copy_from_slice(payload));
                    let Some(filled) = filled else {
                        self.counters.datagram_starved += 1;
                        return;
                    };
                    let ping = matches!(socket.kind, SocketKind::PingV4 | SocketKind::PingV6);
                    Completion::Datagram {
                        token,
                        from: Some(*from),
                        payload: filled,
                        gso_size: *gso_size,
                        hop_limit: ping.then_some(64),
                    }
                }
            };
            first.remove();
            self.complete_in_order(raw, None, vec![completion]);
        }
    }

    // The end of a wait

    /// Hands out what is due by now.
    pub(super) fn collect(&mut self, completions: &mut Vec<Completion>) {
        self.progress();
        let (now, before) = (self.now, completions.len());
        while let Some(first) = self.due.first_entry()
            && first.key().0 <= now
        {
            let due = first.remove();
            self.tell(due, completions);
            // Frames come between the rest, in their own order.
            if self.random.chance(3_000) {
                self.read_frames(1, completions);
            }
        }
        self.read_frames(usize::MAX, completions);
        if self.waker.is_pending() {
            self.waker.clear();
            completions.push(Completion::Woken);
        }
        if completions.len() > before || self.quiet_is_wanted() {
            self.tell_quiet(completions);
        }
    }

    /// Hands out the completions of quiet sends, since a wait ends anyway.
    pub(super) fn tell_quiet(&mut self, completions: &mut Vec<Completion>) {
        for due in std::mem::take(&mut self.quiet) {
            self.tell(due, completions);
        }
    }

    fn read_frames(&mut self, at_most: usize, completions: &mut Vec<Completion>) {
        let link = LINK;
        for _ in 0..at_most {
            let arrived = self.inbox.front().is_some_and(|&(at, _)| at <= self.now);
            if !self.reading || !arrived || self.stalled_until > self.now {
                return;
            }
            let Some((_, bytes)) = self.inbox.front() else {
                return;
            };
            let lent = self
                .frames
                .lend(bytes.len(), |buffer| buffer.copy_from_slice(bytes));
            let Some(frame) = lent else {
                self.counters.tap_starved += 1;
                return;
            };
            self.inbox.pop_front();
            completions.push(Completion::Frame { link, frame });
            if self.random.chance(self.config.faults.link_stall) {
                let stall = self.random.below(self.config.faults.link_stall_ns + 1);
                self.stalled_until = self.now + stall;
            }
        }
    }
}

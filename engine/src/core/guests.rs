//! Guests come and go: links that this core is given, what happens on them, and how they end.
//!
//! **A guest that takes nothing** stops its own flows (they wait for room) and nobody else's; one that has
//! taken nothing for the stall time-out though frames wait for it, or that began a frame and sent nothing
//! since, is dismissed.
//!
//! **When a guest is gone** its port is closed at once. Each of its TCP connections still hands over what
//! was acknowledged to the guest, and is reset when the host's peer has that, since the guest never said that it
//! was all; its other flows are closed.

use std::os::fd::OwnedFd;
use std::time::Duration;

use towpath_ring::buffer::Slice;
use towpath_ring::driver::{Adopted, Driver, Errno, LinkFeatures, ReceiveEnd};
use towpath_ring::frames::stream::{Framing, FramingError};
use towpath_stack::Instant;
use towpath_stack::wire::ethernet;

use super::port::{self, Port, Quota};
use super::token::{FlowId, FlowKind};
use super::{Core, LaneMessage};
use crate::counters::Counter;
use crate::link::{Attachment, Carrier, Departure, PortCommand, PortId};

/// Bytes of a VLAN tag, which a guest's frames may have.
const VLAN_TAG: usize = 4;
/// Bytes of the longest frame on links whose length says more than 16 bits: a whole IP packet. libkrun
/// sends such, whatever the MTU.
const LONG_FRAME_MAX: usize = 65_535 + ethernet::HEADER_LEN + VLAN_TAG;
/// A receive that found no buffer is done again after this time.
const RETRY: Duration = Duration::from_millis(1);

impl<D: Driver> Core<D> {
    /// Does what the core was told about its ports since the last time.
    pub(super) fn carry_out_port_commands(&mut self) {
        for command in self.attacher.take(self.id) {
            match command {
                PortCommand::Attach {
                    port,
                    attachment,
                    on_end,
                } => {
                    let Attachment { name, carrier } = attachment;
                    let mut state = match self.carry(carrier) {
                        Ok((carrier, features)) => {
                            Port::new(carrier, features, Quota::of(&self.limits, 1))
                        }
                        Err(error) => {
                            on_end(Departure::Failed(error.to_string()));
                            continue;
                        }
                    };
                    state.name = name;
                    state.heard_at = self.now;
                    state.on_end = Some(on_end);
                    let token = FlowId::port(port).token();
                    state.carrier.read(&mut self.driver, token);
                    if let port::Carrier::Tap(link) = state.carrier {
                        self.links.insert(link, port);
                    }
                    self.egress.ports.add(port, state);
                    self.counters.bump(Counter::GuestsCame);
                }
                PortCommand::Detach(port) => self.close_port(port, Departure::Left),
            }
        }
    }

    /// Gives a link to the driver.
    fn carry(&mut self, carrier: Carrier) -> std::io::Result<(port::Carrier, LinkFeatures)> {
        let mtu = usize::from(self.egress.mtu());
        let plain = LinkFeatures {
            frame_max: mtu + ethernet::HEADER_LEN,
            ..LinkFeatures::default()
        };
        let mut adopt = |fd: OwnedFd, purpose: Adopted| self.driver.adopt(fd, purpose);
        Ok(match carrier {
            Carrier::Stream { socket, framing } => {
                let taken_max = mtu + ethernet::HEADER_LEN + VLAN_TAG;
                let frame_max = match framing {
                    Framing::Le16 => taken_max,
                    Framing::Be32 => taken_max.max(LONG_FRAME_MAX),
                };
                let socket = adopt(socket, Adopted::StreamLink);
                (port::Carrier::stream(socket, framing, frame_max), plain)
            }
            Carrier::Packets(socket) => {
                let socket = adopt(socket, Adopted::PacketLink);
                (port::Carrier::packets(socket), plain)
            }
            Carrier::Tap(queue) => {
                let features = queue.features();
                let link = self.driver.add_link(queue)?;
                (port::Carrier::Tap(link), features)
            }
        })
    }

    /// Bytes of a guest's stream.
    pub(super) fn on_port_bytes(&mut self, port: PortId, mut data: Slice) {
        if let Some(state) = self.egress.ports.get_mut(port) {
            state.heard_at = self.now;
            state.carrier.received(data.len());
        }
        loop {
            let Some(state) = self.egress.ports.get_mut(port) else {
                return;
            };
            let port::Carrier::Stream(stream) = &mut state.carrier else {
                return;
            };
            match stream.next(&mut data) {
                Some(Ok(frame)) => self.on_frame(port, frame, true),
                Some(Err(error)) => return self.dismiss(port, &error),
                None => break,
            }
        }
        self.arm_port(port);
    }

    fn dismiss(&mut self, port: PortId, error: &FramingError) {
        self.counters.bump(Counter::DroppedFraming);
        self.close_port(port, Departure::Dismissed(format!("it sent {error}")));
    }

    /// A receive of a guest's stream is complete.
    pub(super) fn on_port_receive_end(&mut self, port: PortId, end: ReceiveEnd) {
        let Some(state) = self.egress.ports.get_mut(port) else {
            return;
        };
        match end {
            ReceiveEnd::Partial => {
                let token = FlowId::port(port).token();
                state.carrier.read(&mut self.driver, token);
            }
            ReceiveEnd::Starved => self.starved_ports.push(port),
            ReceiveEnd::Eof => self.close_port(port, Departure::Left),
            ReceiveEnd::Canceled => {}
            ReceiveEnd::Failed(errno) => self.fail_port(port, errno),
        }
    }

    /// A guest's TAP is gone.
    pub(super) fn on_tap_gone(&mut self, port: PortId, errno: Errno) {
        self.close_port(port, Departure::Failed(errno.to_string()));
    }

    /// The guest's end of a socket of packets is gone.
    pub(super) fn on_port_datagram_end(&mut self, port: PortId) {
        self.close_port(port, Departure::Left);
    }

    /// Frames were handed over to a guest's socket.
    pub(super) fn on_port_sent(&mut self, port: PortId, result: Result<u32, Errno>) {
        let Some(state) = self.egress.ports.get_mut(port) else {
            return;
        };
        let taken = match result {
            Ok(taken) => taken,
            // The host is short of memory, not the guest gone.
            Err(Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => 0,
            Err(errno) => return self.fail_port(port, errno),
        };
        state.carrier.sent(taken);
        state.note_waiting(self.now, taken > 0);
        if state.carrier.has_room() {
            for index in std::mem::take(&mut state.parked) {
                self.unpark(index);
            }
        }
        self.egress.list(port);
    }

    /// Hands over what waits for guests.
    pub(super) fn flush_ports(&mut self) {
        while let Some(port) = self.egress.next_listed() {
            let Some(state) = self.egress.ports.get_mut(port) else {
                continue;
            };
            state.listed = false;
            self.counters
                .add(Counter::DroppedLinkFull, std::mem::take(&mut state.refused));
            let token = FlowId::port(port).token();
            state.carrier.flush(&mut self.driver, token);
            state.note_waiting(self.now, false);
            self.arm_port(port);
        }
    }

    /// Sees to it that a guest is looked after when it may have stalled.
    fn arm_port(&mut self, port: PortId) {
        let timeout = self.stall_timeout;
        if let Some(state) = self.egress.ports.get_mut(port) {
            let deadline = state.stalls_at(timeout);
            self.timers
                .arm(FlowId::port(port), &mut state.armed, deadline);
        }
    }

    pub(super) fn on_port_timer(&mut self, at: Instant, port: PortId) {
        let timeout = self.stall_timeout;
        let Some(state) = self.egress.ports.get_mut(port) else {
            return;
        };
        if !state.armed.fired(at) {
            return;
        }
        if state.stalls_at(timeout).is_none_or(|due| due > self.now) {
            return self.arm_port(port);
        }
        self.counters.bump(Counter::GuestsStalled);
        let what = if state.carrier.is_waiting() {
            "took no frames"
        } else {
            "left a frame unfinished"
        };
        let why = format!("it {what} for {} s", timeout.as_secs());
        self.close_port(port, Departure::Dismissed(why));
    }

    /// Reads on from guests whose receive found no buffer.
    pub(super) fn retry_starved_ports(&mut self) {
        for port in std::mem::take(&mut self.starved_ports) {
            if let Some(state) = self.egress.ports.get(port) {
                let token = FlowId::port(port).token();
                state.carrier.read(&mut self.driver, token);
            }
        }
    }

    /// When guests that found no buffer are read from again.
    pub(super) fn starved_ports_at(&self) -> Option<Instant> {
        (!self.starved_ports.is_empty()).then(|| self.now + RETRY)
    }

    /// Takes pooled buffers back from guests that take nothing.
    pub(crate) fn relieve_ports(&mut self) {
        let copied = self
            .egress
            .ports
            .iter_mut()
            .map(|port| port.carrier.leave_pool())
            .sum();
        self.counters.add(Counter::BufferCopies, copied);
    }

    fn fail_port(&mut self, port: PortId, errno: Errno) {
        let departure = match errno {
            // The other end is gone.
            Errno::PIPE | Errno::CONNRESET | Errno::CONNREFUSED | Errno::NOTCONN => Departure::Left,
            errno => Departure::Failed(errno.to_string()),
        };
        self.close_port(port, departure);
    }

    /// Lets a guest go, with all that it had.
    pub(super) fn close_port(&mut self, port: PortId, departure: Departure) {
        let Some(mut state) = self.egress.ports.remove(port) else {
            return;
        };
        if let port::Carrier::Tap(link) = state.carrier {
            self.links.remove(&link);
        }
        state.carrier.close(&mut self.driver);
        self.counters.bump(Counter::GuestsLeft);
        self.abandon_flows(port);
        self.stations.forget_port(port);
        self.tell_others(&|| LaneMessage::Closed(port));
        if let Some(on_end) = state.on_end.take() {
            on_end(departure);
        }
    }

    /// Ends all flows of a guest that is gone.
    fn abandon_flows(&mut self, port: PortId) {
        let of_guest = |guest: u16| guest == port.0;
        for index in self.tcp.indices(of_guest) {
            self.abandon_tcp(index);
        }
        for index in self.udp.indices(of_guest) {
            self.close_datagram_flow(FlowId::udp(index));
        }
        for index in self.echo.indices(of_guest) {
            self.close_datagram_flow(FlowId::echo(index));
        }
    }

    /// The place is freed when the driver says that the receive has ended.
    fn close_datagram_flow(&mut self, id: FlowId) {
        let socket = match id.kind {
            FlowKind::Udp => self.udp.get_mut(id.index).and_then(|flow| flow.close()),
            _ => self.echo.get_mut(id.index).and_then(|flow| flow.close()),
        };
        if let Some(socket) = socket {
            self.driver.close(socket, false);
        }
        match id.kind {
            FlowKind::Udp => self.udp.unlist(id.index),
            _ => self.echo.unlist(id.index),
        }
    }
}

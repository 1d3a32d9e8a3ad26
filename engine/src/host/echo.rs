//! ICMP echo through the host's unprivileged ping sockets: one socket per guest address and id.
//!
//! The host kernel puts an id of its own into what leaves and hands back only the replies to it;
//! the guest's id is put back here (RFC 5508 §3.1).

use std::io;
use std::net::SocketAddr;
use std::sync::Once;

use towpath_ring::buffer::Slice;
use towpath_ring::driver::{Driver, SocketId, SocketKind};
use towpath_stack::Instant;
use towpath_stack::flow::FlowKey;
use towpath_stack::wire::ethernet::MacAddress;

use crate::core::Core;
use crate::core::egress::{Peer, Unreachable};
use crate::core::timers::Armed;
use crate::core::token::FlowId;
use crate::counters::Counter;
use crate::link::PortId;
use crate::policy::admission::Verdict;

/// Bytes of an ICMP echo header.
const ECHO_HEADER: usize = 8;

/// One echo id of a guest.
pub(crate) struct EchoMapping {
    pub(crate) socket: SocketId,
    pub(crate) guest_mac: MacAddress,
    last_used: Instant,
    armed: Armed,
    hop_limit: u8,
    pub(crate) closing: bool,
}

impl EchoMapping {
    /// Marks it as ending; its socket, unless it ended before.
    pub(crate) fn close(&mut self) -> Option<SocketId> {
        (!std::mem::replace(&mut self.closing, true)).then_some(self.socket)
    }
}

/// An echo request from the guest, parsed.
pub(crate) struct EchoInput {
    /// Keyed by the guest's address and the id; the remote half is empty.
    pub(crate) key: FlowKey,
    pub(crate) hash: u32,
    pub(crate) peer: Peer,
    /// The ICMP message from its header on.
    pub(crate) message: Slice,
    pub(crate) hop_limit: u8,
    /// The start of the IP packet, as much as an ICMP error quotes.
    pub(crate) quote: Slice,
}

impl<D: Driver> Core<D> {
    /// An echo request from the guest.
    pub(crate) fn on_echo(&mut self, input: EchoInput) {
        if self.admission.is_ours(input.peer.remote) {
            return self.answer_echo(&input.peer, input.key.guest_port, input.message);
        }
        let to = match self.admission.judge(input.peer.remote, 0) {
            Verdict::Host(to) => to,
            Verdict::Refuse(_) | Verdict::Dns | Verdict::Dhcp => {
                self.counters.bump(Counter::RefusedPolicy);
                return self.report_unreachable(input.peer, input.quote.bytes(), Unreachable::Host);
            }
            Verdict::Ignore => return self.counters.bump(Counter::DroppedMulticast),
        };
        let Some(index) = self.echo_mapping(&input) else {
            return;
        };
        let Some(mapping) = self.echo.get_mut(index) else {
            return;
        };
        mapping.last_used = self.now;
        mapping.guest_mac = input.peer.mac;
        if std::mem::replace(&mut mapping.hop_limit, input.hop_limit) != input.hop_limit {
            // Best effort: a host that refuses it still sends.
            let _ = self.driver.set_hop_limit(mapping.socket, input.hop_limit);
        }
        self.counters.bump(Counter::DatagramsUp);
        self.driver.send_to(
            mapping.socket,
            &to,
            &[input.message],
            0,
            FlowId::echo(index).token(),
        );
    }

    fn answer_echo(&mut self, peer: &Peer, id: u16, mut message: Slice) {
        let Some(&[_, _, _, _, _, _, high, low]) = message.bytes().first_chunk::<ECHO_HEADER>()
        else {
            return;
        };
        message.advance(ECHO_HEADER);
        let sequence = u16::from_be_bytes([high, low]);
        let frames = self
            .egress
            .echo_reply(&mut self.driver, peer, id, sequence, message);
        self.counters.add(Counter::FramesOut, frames);
    }

    fn echo_mapping(&mut self, input: &EchoInput) -> Option<u32> {
        if let Some(index) = self.echo.find(&input.key, input.hash) {
            return Some(index);
        }
        let quota = self.egress.ports.get(input.peer.port)?.quota;
        if self.echo.of_guest(input.key.guest) >= quota.echo {
            self.counters.bump(Counter::RefusedEchoLimit);
            return None;
        }
        let kind = match input.key.guest_address.is_v4() {
            true => SocketKind::PingV4,
            false => SocketKind::PingV6,
        };
        let socket = match self.driver.open(kind) {
            Ok(socket) => socket,
            Err(error) => {
                self.counters.bump(Counter::RefusedSockets);
                warn_of_ping_sockets(&error);
                self.report_unreachable(input.peer, input.quote.bytes(), Unreachable::Prohibited);
                return None;
            }
        };
        let mapping = EchoMapping {
            socket,
            guest_mac: input.peer.mac,
            last_used: self.now,
            armed: Armed::default(),
            hop_limit: 64,
            closing: false,
        };
        let index = self.echo.insert(input.key, input.hash, mapping);
        self.counters.bump(Counter::EchoOpened);
        self.driver
            .receive_from(socket, FlowId::echo(index).token());
        self.arm_echo(index);
        Some(index)
    }

    fn arm_echo(&mut self, index: u32) {
        if let Some(mapping) = self.echo.get_mut(index) {
            let deadline = mapping.last_used + self.limits.icmp_timeout;
            self.timers
                .arm(FlowId::echo(index), &mut mapping.armed, Some(deadline));
        }
    }

    pub(crate) fn on_echo_timer(&mut self, at: Instant, index: u32) {
        let Some(mapping) = self.echo.get_mut(index) else {
            return;
        };
        if !mapping.armed.fired(at) || mapping.closing {
            return;
        }
        if self.now.since(mapping.last_used) < self.limits.icmp_timeout {
            return self.arm_echo(index);
        }
        mapping.closing = true;
        // The place is freed when the driver says that the receive has ended.
        self.driver.close(mapping.socket, false);
        self.echo.unlist(index);
    }

    /// A reply from the host's side.
    pub(crate) fn on_host_echo(&mut self, index: u32, from: SocketAddr, message: Slice) {
        let Some(key) = self.echo.key(index).copied() else {
            return;
        };
        let Some(mapping) = self.echo.get_mut(index).filter(|mapping| !mapping.closing) else {
            return;
        };
        mapping.last_used = self.now;
        let peer = Peer {
            port: PortId(key.guest),
            mac: mapping.guest_mac,
            guest: key.guest_address,
            remote: self.admission.as_seen_by_guest(from.ip()),
        };
        self.counters.bump(Counter::DatagramsDown);
        self.answer_echo(&peer, key.guest_port, message);
    }
}

/// Says once per process why pings do not leave, and what to do.
fn warn_of_ping_sockets(error: &io::Error) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            %error,
            "the host forbids ping sockets, so guests can't ping beyond the gateway; allow them \
             with: sysctl -w net.ipv4.ping_group_range=\"0 2147483647\""
        );
    });
}

//! A connection begins: a SYN, the host side's answer, and what the guest is told of it.

use towpath_ring::driver::{Driver, Errno, Remote, SocketKind};
use towpath_stack::Address;
use towpath_stack::tcp::Connection;
use towpath_stack::tcp::seq::SequenceNumber;

use super::memory::first_window;
use super::{DOWNLOAD_START, HostSide, Marks, Pending, TcpFlow, TcpInput};
use crate::core::Core;
use crate::core::egress::Unreachable;
use crate::core::timers::Armed;
use crate::core::token::FlowId;
use crate::counters::Counter;
use crate::host::queue::SliceQueue;
use crate::link::PortId;
use crate::policy::admission::{Refusal, Verdict};

/// The TTL that nearly every guest uses, and the host too.
const DEFAULT_HOPS: u8 = 64;
/// The most hops that tracers try.
const TRACED_HOPS: u8 = 30;

impl<D: Driver> Core<D> {
    /// A SYN begins a connection; `used` is the end of the sequence numbers of one in TIME-WAIT whose
    /// place it takes.
    pub(super) fn open_tcp(&mut self, input: &TcpInput<'_>, used: Option<SequenceNumber>) {
        let (remote, kind) = match self
            .admission
            .judge(input.key.remote_address, input.key.remote_port)
        {
            Verdict::Host(to) if to.is_ipv4() => (Remote::Inet(to), SocketKind::TcpV4),
            Verdict::Host(to) => (Remote::Inet(to), SocketKind::TcpV6),
            Verdict::Dns => (self.dns_stream.clone(), SocketKind::UnixStream),
            Verdict::Refuse(Refusal::NoSuchGuest) => {
                self.counters.bump(Counter::RefusedPolicy);
                return self.report_unreachable(input.peer, input.quote, Unreachable::Host);
            }
            Verdict::Refuse(_) | Verdict::Dhcp => {
                self.counters.bump(Counter::RefusedPolicy);
                return self.reset(input);
            }
            Verdict::Ignore => return self.counters.bump(Counter::DroppedMulticast),
        };
        if !self.make_room(input.peer.port, &input.key.guest_address) {
            self.counters.bump(Counter::RefusedTcpLimit);
            return self.reset(input);
        }
        let Ok(socket) = self.sockets.take(&mut self.driver, kind) else {
            self.counters.bump(Counter::RefusedSockets);
            return self.reset(input);
        };
        let inet = kind != SocketKind::UnixStream;
        if inet && input.hop_limit != DEFAULT_HOPS {
            // Best effort: a host that refuses it still connects.
            let _ = self.driver.set_hop_limit(socket, input.hop_limit);
        }
        // So few hops are a route being traced: then the errors that routers send are wanted, which
        // for an ordinary connection would turn passing trouble into its end (ip(7), IP_RECVERR).
        let traces =
            inet && input.hop_limit <= TRACED_HOPS && self.driver.set_report_errors(socket).is_ok();
        let config = self.tcp_configs.towards(input.key.guest_address);
        let first = self.initial_sequences.initial(&input.key, self.now, used);
        let window = first_window(config.mss, self.limits.buffer_bytes, self.windows);
        let connect_until = self.now + self.limits.connect_timeout;
        let flow = TcpFlow {
            connection: Connection::from_syn(self.now, config, &input.segment, first),
            guest_mac: input.peer.mac,
            host: HostSide::Connecting {
                socket,
                syn: input.quote.into(),
                reports_errors: traces,
            },
            upload: SliceQueue::default(),
            download: SliceQueue::default(),
            window,
            window_filled: 0,
            download_limit: DOWNLOAD_START,
            armed: Armed::default(),
            deadline: Some(connect_until),
            half_open: None,
            pending: Pending {
                connect: true,
                ..Pending::default()
            },
            marks: Marks {
                watched: !inet,
                ..Marks::default()
            },
        };
        let index = self.tcp.insert(input.key, input.hash, flow);
        self.windows += window as usize;
        self.counters.bump(Counter::TcpOpened);
        let id = FlowId::tcp(index);
        self.driver.connect(socket, &remote, id.token());
        if let Some(flow) = self.tcp.get_mut(index) {
            let port = self.egress.ports.get_mut(input.peer.port);
            flow.half_open = port.map(|port| port.half_open.add(input.key.guest_address, index));
            self.timers.arm(id, &mut flow.armed, Some(connect_until));
        }
    }

    /// Sees to it that one more connection from this address of a guest may begin. Returns false if there
    /// are too many that are open.
    fn make_room(&mut self, port: PortId, guest: &Address) -> bool {
        let Some(state) = self.egress.ports.get(port) else {
            return false;
        };
        let full = self.tcp.of_guest(port.0) >= state.quota.tcp;
        if let Some(oldest) = state.half_open.in_the_way(guest, full) {
            self.counters.bump(Counter::RefusedTcpPending);
            self.send_abort(oldest);
            self.release(oldest, true);
            return true;
        }
        !full
    }

    /// The host side answered a CONNECT.
    pub(crate) fn on_connected(&mut self, index: u32, result: Result<(), Errno>) {
        let Some(guest) = self.tcp.key(index).map(|key| key.guest_address) else {
            return;
        };
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        flow.pending.connect = false;
        if flow.marks.released {
            return self.free_when_idle(index);
        }
        flow.deadline = None;
        match (result, &flow.host) {
            (Ok(()), HostSide::Connecting { socket, .. }) => {
                flow.host = HostSide::Open(*socket);
                if !flow.marks.watched {
                    flow.deadline = Some(self.now + self.limits.tcp_idle);
                }
                flow.connection
                    .accept(self.now, self.tcp_configs.towards(guest));
                self.counters.bump(Counter::TcpConnected);
                self.mark_dirty(index);
            }
            (Err(errno), _) => self.fail_connect(index, errno),
            (Ok(()), _) => self.release(index, true),
        }
    }

    /// Tells the guest why its connection could not be made, as the host learnt it.
    pub(super) fn fail_connect(&mut self, index: u32, errno: Errno) {
        let Some(peer) = self.tcp_peer(index) else {
            return;
        };
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        let HostSide::Connecting {
            socket,
            syn,
            reports_errors,
        } = std::mem::replace(&mut flow.host, HostSide::Closed)
        else {
            return;
        };
        let report = if reports_errors {
            self.driver.take_error(socket)
        } else {
            None
        };
        let unreachable = match errno {
            Errno::ADDRNOTAVAIL => Some(Unreachable::Network),
            errno => Unreachable::of(errno),
        };
        self.driver.close(socket, false);
        if let Some(report) = report
            && self.relay_socket_error(peer, &syn, &report)
        {
            self.counters.bump(Counter::TcpUnreachable);
        } else if let Some(code) = unreachable {
            self.counters.bump(Counter::TcpUnreachable);
            self.report_unreachable(peer, &syn, code);
        } else {
            self.counters.bump(if errno == Errno::TIMEDOUT {
                Counter::TcpTimedOut
            } else {
                Counter::TcpRefused
            });
            self.send_abort(index);
        }
        self.release(index, false);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::TcpConfigs;
    use super::*;

    #[test]
    fn the_mss_is_what_a_packet_of_the_link_holds() {
        // RFC 9293 §3.7.1, MUST-67: without options of either header.
        let configs = TcpConfigs::new(1500, Duration::from_secs(7440));
        assert_eq!(configs.towards(Address::v4([10, 0, 0, 3])).mss, 1460);
        assert_eq!(configs.towards(Address::v6([0xfd; 16])).mss, 1440);
    }
}

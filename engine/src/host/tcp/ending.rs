//! A connection ends: regularly, by a reset of either side, or because a side is gone.
//!
//! **A broken host side.** What the host's peer sent before it reset the connection is in the socket's
//! queue still, and the guest is to get it: a real network would have brought it before the RST. So
//! the socket is read to its end, what was read is sent, and the RST follows in sequence. That
//! waits for a guest that takes it, not for one whose window is shut, and not for ever. What the
//! guest sent is dropped: nobody is there to take it.
//!
//! **A host side that is slower than the guest.** The guest's side may be through (both FINs
//! acknowledged, TIME-WAIT over) while acknowledged bytes wait for the host socket. The flow then
//! *lingers*: unlisted, so that the guest may use its ports again, until the socket has taken them.
//!
//! **A reset by the guest** is passed on as one, whatever waits in either direction.

use std::time::Duration;

use towpath_ring::driver::{Driver, Errno, Keepalive, SendMode};
use towpath_stack::Instant;
use towpath_stack::tcp::{Reason, TimerOutcome};

use super::{HostSide, TcpFlow};
use crate::core::Core;
use crate::core::token::FlowId;
use crate::counters::Counter;
use crate::link::PortId;

/// How long the last bytes of a broken host side may take to the guest.
const BROKEN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a host socket that lingers may stand still: the least time that RFC 5382 REQ-5 gives to
/// connections that are neither open nor closed.
pub(super) const LINGER_PATIENCE: Duration = Duration::from_secs(240);
/// Time between questions to a host's peer that is silent, at most; as towards the guest.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
/// How often it is looked whether the peer of a host socket has got the last bytes of a guest that is gone.
const LAST_BYTES_INTERVAL: Duration = Duration::from_millis(50);
/// Connections of guests that are gone, on one core: they are in no guest's quota.
const ABANDONED_MAX: usize = 4096;
/// Unanswered questions before it is given up (RFC 1122 §4.2.3.6 names no number; Linux has this one).
pub(super) const KEEPALIVE_PROBES: u8 = 9;

impl<D: Driver> Core<D> {
    /// A flow's deadline came.
    pub(crate) fn on_tcp_timer(&mut self, at: Instant, index: u32) {
        let now = self.now;
        let Some(key) = self.tcp.key(index).copied() else {
            return;
        };
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if !flow.armed.fired(at) || flow.marks.released {
            return;
        }
        if flow.deadline.is_some_and(|due| due <= now) {
            flow.deadline = None;
            if self.on_flow_deadline(index) {
                return;
            }
        }
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if flow.connection.poll_at().is_some_and(|due| due <= now) {
            let config = self.tcp_configs.towards(key.guest_address);
            match flow.connection.on_timer(now, config) {
                TimerOutcome::Gone(Reason::TimeWaitOver) => return self.finish(index),
                TimerOutcome::Gone(_) => {
                    self.counters.bump(Counter::TcpGone);
                    return self.release(index, true);
                }
                TimerOutcome::Idle | TimerOutcome::Transmit => {}
            }
            self.look_at_host_side(index);
        }
        self.mark_dirty(index);
    }

    /// While nothing is received, because the guest takes nothing, and nothing is sent either, nobody would
    /// say that the host side has failed. An empty send does. Asked as often as the guest is asked for room.
    fn look_at_host_side(&mut self, index: u32) {
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if let HostSide::Open(socket) = flow.host
            && flow.pending.none()
            && !(flow.marks.host_ended || flow.marks.shut_down)
            && flow.connection.guest_window() == 0
        {
            flow.pending.send = true;
            let token = FlowId::tcp(index).token();
            self.driver.send(socket, &[], SendMode::Now, token);
        }
    }

    /// What a flow's own deadline means depends on where its host side is. Returns whether the flow is
    /// over.
    fn on_flow_deadline(&mut self, index: u32) -> bool {
        let Some(flow) = self.tcp.get_mut(index) else {
            return true;
        };
        if flow.marks.host_broken {
            self.reset_by_host(index);
            return true;
        }
        if flow.marks.lingers {
            let lost = u64::from(flow.upload.bytes());
            self.counters.add(Counter::LostAtEnd, lost);
            self.release(index, true);
            return true;
        }
        match flow.host {
            HostSide::Connecting { .. } => {
                self.fail_connect(index, Errno::TIMEDOUT);
                true
            }
            HostSide::Open(socket) => {
                flow.marks.watched = true;
                let keepalive = Keepalive {
                    idle: self.limits.tcp_idle,
                    interval: self.limits.tcp_idle.min(KEEPALIVE_INTERVAL),
                    probes: KEEPALIVE_PROBES,
                };
                // Best effort: without it the flow is as it was.
                let _ = self.driver.set_keepalive(socket, &keepalive);
                false
            }
            HostSide::Closed => false,
        }
    }

    /// The host socket has failed. Its receive has ended as well, or soon will.
    pub(super) fn break_host_side(&mut self, index: u32) {
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if !std::mem::replace(&mut flow.marks.host_broken, true) {
            let dropped = flow.upload.clear();
            flow.marks.blocked = false;
            flow.deadline = Some(self.now + BROKEN_PATIENCE);
            self.held_bytes = self.held_bytes.saturating_sub(dropped);
        }
    }

    /// Passes a reset of the host side on, behind what was sent.
    pub(super) fn reset_by_host(&mut self, index: u32) {
        self.counters.bump(Counter::TcpResetByHost);
        self.send_abort(index);
        self.release(index, true);
    }

    /// The guest's side is through. The host's side is closed when it has what it is owed.
    pub(super) fn finish(&mut self, index: u32) {
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if flow.is_through() {
            return self.release(index, false);
        }
        flow.marks.lingers = true;
        flow.deadline = Some(self.now + LINGER_PATIENCE);
        self.tcp.unlist(index);
        self.linger(index);
    }

    /// The guest is gone. What it was told that we have goes to the host's side, and then a reset, unless it
    /// had said that this was all.
    pub(crate) fn abandon_tcp(&mut self, index: u32) {
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if flow.marks.released || flow.marks.lingers {
            return;
        }
        let open = matches!(flow.host, HostSide::Open(_)) && !flow.marks.host_broken;
        if !open || self.abandoned >= ABANDONED_MAX {
            return self.release(index, true);
        }
        self.abandoned += 1;
        self.windows -= std::mem::take(&mut flow.window) as usize;
        flow.marks.abandoned = true;
        flow.marks.lingers = true;
        flow.deadline = Some(self.now + LINGER_PATIENCE);
        let held = flow.download.clear();
        self.held_bytes = self.held_bytes.saturating_sub(held);
        self.tcp.unlist(index);
        self.linger(index);
    }

    /// Goes on to hand over what the host socket is owed.
    pub(super) fn linger(&mut self, index: u32) {
        let quiet = !self.has_peers();
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if flow.marks.host_broken {
            self.counters.bump(Counter::TcpResetByHost);
            return self.release(index, true);
        }
        let id = FlowId::tcp(index);
        if let HostSide::Open(socket) = flow.host {
            flow.flush_upload(&mut self.driver, socket, id.token(), quiet);
        }
        if flow.is_through() {
            let cut_off = flow.marks.abandoned && !flow.marks.guest_finished;
            // A reset throws away what the host's kernel has not brought to the peer yet.
            let on_its_way = match flow.host {
                HostSide::Open(socket) if cut_off => self.driver.unacknowledged_bytes(socket),
                _ => Ok(0),
            };
            if on_its_way.is_ok_and(|bytes| bytes > 0) {
                let again = Some(self.now + LAST_BYTES_INTERVAL);
                return self.timers.arm(id, &mut flow.armed, again);
            }
            return self.release(index, cut_off);
        }
        self.timers.arm(id, &mut flow.armed, flow.deadline);
    }

    /// Sends a reset to the guest, in sequence, if its state wants one.
    pub(super) fn send_abort(&mut self, index: u32) {
        let Some(peer) = self.tcp_peer(index) else {
            return;
        };
        if let Some(flow) = self.tcp.get_mut(index)
            && let Some(segment) = flow.connection.abort()
        {
            self.egress
                .tcp(&mut self.driver, &peer, &segment, &[], None);
            self.counters.bump(Counter::FramesOut);
        }
    }

    /// Ends a flow: its key is free at once, its place when the driver has let go of its socket.
    pub(super) fn release(&mut self, index: u32, reset: bool) {
        self.tcp.unlist(index);
        let key = self.tcp.key(index).copied();
        let Some(flow) = self.tcp.get_mut(index) else {
            return;
        };
        if std::mem::replace(&mut flow.marks.released, true) {
            return;
        }
        self.abandoned -= usize::from(flow.marks.abandoned);
        if let Some(ticket) = flow.half_open.take()
            && let Some(key) = key
            && let Some(port) = self.egress.ports.get_mut(PortId(key.guest))
        {
            port.half_open.remove(ticket);
        }
        if let Some(socket) = flow.host.socket() {
            self.driver.close(socket, reset);
        }
        flow.host = HostSide::Closed;
        self.windows -= flow.window as usize;
        let held = flow.upload.clear() + flow.download.clear();
        let held = held + flow.connection.out_of_order_bytes() as usize;
        self.held_bytes = self.held_bytes.saturating_sub(held);
        self.free_when_idle(index);
    }

    pub(super) fn free_when_idle(&mut self, index: u32) {
        if self
            .tcp
            .get(index)
            .is_some_and(|flow| flow.marks.released && flow.pending.none())
        {
            self.tcp.free(index);
        }
    }
}

impl TcpFlow {
    /// Whether the host socket has all that it is owed, or is none any more.
    fn is_through(&self) -> bool {
        match self.host {
            HostSide::Open(_) => {
                let ended = self.marks.shut_down || !self.marks.guest_finished;
                self.upload.bytes() == 0 && ended && !self.pending.send
            }
            HostSide::Connecting { .. } | HostSide::Closed => true,
        }
    }

    /// Whether the reset that a broken host side becomes is due: all that the guest can get is sent.
    pub(super) fn is_reset_due(&self) -> bool {
        let in_flight = self.connection.send_unacknowledged();
        if self.download.bytes() > in_flight {
            // It waits for room, which an acknowledgment brings; or for a guest that does not read.
            in_flight == 0 || self.connection.guest_window() == 0
        } else {
            self.marks.host_ended
        }
    }
}

//! Time has passed: retransmission, window probes, delayed ACKs, keepalive, and the ends by time.

use super::config::Config;
use super::connection::Connection;
use super::rtt::Rtt;
use super::send::Recovery;
use super::timers::Deadline;
use super::verdict::{Reason, State, TimerOutcome};
use crate::time::Instant;

impl Connection {
    /// Looks at the timers. May be called at any time, also early.
    pub fn on_timer(&mut self, now: Instant, config: &Config) -> TimerOutcome {
        let timers = self.timers;
        if timers.wait.is_due(now) {
            return self.on_wait_over();
        }
        let mut due = false;
        if timers.ack.is_due(now) {
            self.timers.ack = Deadline::OFF;
            self.receive.ack_now = true;
            due = true;
        }
        if timers.loss.is_due(now) {
            self.on_loss_timer(now);
            due = true;
        }
        if timers.retransmit.is_due(now) {
            match self.on_retransmit(now, config) {
                Some(reason) => return self.gone(reason),
                None => due = true,
            }
        }
        if timers.keepalive.is_due(now) {
            match self.on_keepalive(now, config) {
                Some(reason) => return self.gone(reason),
                None => due |= self.keepalive_due,
            }
        }
        if due {
            TimerOutcome::Transmit
        } else {
            TimerOutcome::Idle
        }
    }

    /// A SYN or SYN-ACK became due.
    pub(super) fn await_handshake(&mut self, now: Instant, config: &Config) {
        self.syn_due = true;
        let timeout = Rtt::syn_timeout(config, self.send.attempts);
        self.timers.retransmit = Deadline::at(now + timeout);
    }

    /// (Re)starts the retransmission or persist timer.
    pub(super) fn start_retransmit(&mut self, now: Instant, config: &Config) {
        let timeout = self.send.rtt.timeout(config, self.send.attempts);
        self.timers.retransmit = Deadline::at(now + timeout);
    }

    /// Sets the timer that notices losses before the retransmission timer would: the one of
    /// reordering, or of what was sent again, while something is missing; else that of the tail
    /// loss probe.
    pub(super) fn arm_loss_timer(&mut self, now: Instant) {
        let mss = u32::from(self.agreed.payload_max());
        let reordering = self.send.repair.as_ref().and_then(|r| r.reorder_until);
        let at = reordering
            .or_else(|| self.send.nudge_at(now))
            .or_else(|| self.send.tail_probe_at(now, mss));
        self.timers.loss = match at {
            // Past the retransmission timer it would be of no use.
            Some(at) if !self.timers.retransmit.is_due(at) => Deadline::at(at),
            _ => Deadline::OFF,
        };
    }

    /// The connection is established: keepalive begins.
    pub(super) fn start_keepalive(&mut self, now: Instant, config: &Config) {
        if !config.keepalive_idle.is_zero() {
            self.timers.keepalive = Deadline::at(now + config.keepalive_idle);
        }
    }

    fn on_wait_over(&mut self) -> TimerOutcome {
        let reason = match self.state {
            State::TimeWait => Reason::TimeWaitOver,
            _ => Reason::FinWait2Timeout,
        };
        self.gone(reason)
    }

    fn on_loss_timer(&mut self, now: Instant) {
        self.timers.loss = Deadline::OFF;
        let mss = u32::from(self.agreed.payload_max());
        let repair = self.send.repair.as_ref();
        if repair.is_some_and(|repair| repair.reorder_until.is_some()) {
            self.send.on_reorder_timer(now, mss);
            self.loss_timer_stale = true;
        } else if self.send.recovery == Recovery::Fast {
            self.send.nudge(mss);
        } else {
            self.send.tail.is_due = true;
        }
    }

    fn on_retransmit(&mut self, now: Instant, config: &Config) -> Option<Reason> {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            if self.send.attempts >= config.syn_retries {
                return Some(Reason::HandshakeTimeout);
            }
            self.send.attempts += 1;
            self.send.rtt.on_lost_syn();
            self.await_handshake(now, config);
            return None;
        }
        if self.send.is_in_flight() && self.send.is_window_closed() {
            self.send.on_window_shrunk();
        }
        if self.send.is_in_flight() {
            // RFC 9293 §3.8.3: R2.
            if self.send.attempts >= config.retries {
                return Some(Reason::RetransmissionLimit);
            }
            self.send
                .on_timeout(now, u32::from(self.agreed.payload_max()));
        } else {
            // RFC 9293 §3.8.6.1: as long as the guest answers, probing never ends.
            if self.send.unanswered_probes >= config.retries {
                return Some(Reason::RetransmissionLimit);
            }
            self.send.unanswered_probes += 1;
            self.send.attempts = self.send.attempts.saturating_add(1);
            self.probe_due = true;
        }
        self.start_retransmit(now, config);
        self.loss_timer_stale = true;
        None
    }

    /// RFC 1122 §4.2.3.6. The deadline is not moved when the guest is heard; here is found out
    /// whether it was.
    fn on_keepalive(&mut self, now: Instant, config: &Config) -> Option<Reason> {
        self.timers.keepalive = Deadline::OFF;
        if config.keepalive_idle.is_zero() {
            return None;
        }
        let idle_until = self.heard_at + config.keepalive_idle;
        if self.timers.retransmit.is_on() {
            // What is being sent has its own limit.
            self.timers.keepalive = Deadline::at(now + config.keepalive_idle);
        } else if self.keepalive_sent == 0 && now < idle_until {
            self.timers.keepalive = Deadline::at(idle_until);
        } else if self.keepalive_sent >= config.keepalive_probes {
            return Some(Reason::KeepaliveTimeout);
        } else {
            self.keepalive_sent += 1;
            self.keepalive_due = true;
            self.timers.keepalive = Deadline::at(now + config.keepalive_interval);
        }
        None
    }

    fn gone(&mut self, reason: Reason) -> TimerOutcome {
        self.close();
        TimerOutcome::Gone(reason)
    }
}

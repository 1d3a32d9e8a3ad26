//! A segment came (RFC 9293 §3.10.7).

use super::acknowledge::{AckContext, Acked};
use super::config::Config;
use super::connection::Connection;
use super::ecn::Notification;
use super::segment::{Ecn, Flags, Segment, Timestamps};
use super::seq::SequenceNumber as Seq;
use super::timers::Deadline;
use super::verdict::{Dropped, Received, State};
use crate::time::Instant;

impl Connection {
    /// A segment of this connection came from the guest, checksum and ports verified. `payload` may
    /// be longer than a wire segment (a super-frame).
    pub fn on_segment(
        &mut self,
        now: Instant,
        config: &Config,
        segment: &Segment,
        payload: &[u8],
    ) -> Received {
        if self.state == State::Established && self.is_predicted(now, segment, payload.len()) {
            return self.on_predicted(now, config, segment, payload.len() as u32);
        }
        match self.state {
            State::Closed => Received {
                closed: true,
                ..dropped(Dropped::Closed)
            },
            State::Held => self.on_held(now, config, segment),
            State::SynSent => self.on_syn_sent(now, config, segment),
            State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => self.on_synchronized(now, config, segment, payload),
        }
    }

    // The fast path

    /// Whether a segment is what is expected next on an established connection: in order, with
    /// nothing to decide but how much it acknowledges.
    fn is_predicted(&self, now: Instant, segment: &Segment, len: usize) -> bool {
        let plain = segment.flags == Flags::ACK || segment.flags == (Flags::ACK | Flags::PSH);
        let unmarked = segment.ecn != Ecn::Congested;
        let news = len > 0 || self.send.una.before(segment.acknowledgment);
        let fresh = match segment.options.timestamps {
            Some(timestamps) => self.receive.is_fresh(now, timestamps.value),
            None => !self.agreed.timestamps,
        };
        plain
            && unmarked
            && news
            && fresh
            && segment.options.sack.is_empty()
            && self.receive.is_simple(segment.sequence, len)
            && self.send.una.at_or_before(segment.acknowledgment)
            && segment.acknowledgment.at_or_before(self.send.max)
    }

    fn on_predicted(
        &mut self,
        now: Instant,
        config: &Config,
        segment: &Segment,
        len: u32,
    ) -> Received {
        self.note_heard(now, segment);
        let acked = self.take_ack(now, config, segment, len);
        if len > 0 {
            self.receive.take_simple(len, self.full_segment(config));
        }
        Received {
            deliver: 0..len,
            acked: acked.bytes,
            ..Received::default()
        }
    }

    // The handshake

    /// The host side is being connected, and the guest has heard nothing of us.
    fn on_held(&mut self, now: Instant, config: &Config, segment: &Segment) -> Received {
        if segment.flags.rst() {
            if segment.sequence != self.receive.nxt {
                return dropped(Dropped::ResetRejected);
            }
            return self.on_reset();
        }
        if segment.flags.ack() {
            // RFC 9293 §3.10.7.2: nothing was sent that could be acknowledged.
            self.reset_due = Some(segment.acknowledgment);
            return dropped(Dropped::BadAck);
        }
        if !segment.flags.syn() {
            return dropped(Dropped::AckMissing);
        }
        if segment.sequence + 1 == self.receive.nxt {
            self.ecn.on_repeated_syn(segment.flags);
            return dropped(Dropped::Duplicate);
        }
        // The guest forgot its first attempt and makes another.
        self.receive.synchronize(segment.sequence + 1, config);
        self.heard_at = now;
        self.ecn = Notification::asked(config, segment.flags);
        self.take_syn(now, config, segment);
        Received::default()
    }

    /// RFC 9293 §3.10.7.3.
    fn on_syn_sent(&mut self, now: Instant, config: &Config, segment: &Segment) -> Received {
        let acked = segment.flags.ack();
        if acked && !self.is_syn_acked(segment) {
            if !segment.flags.rst() {
                self.reset_due = Some(segment.acknowledgment);
            }
            return dropped(Dropped::BadAck);
        }
        if segment.flags.rst() {
            return if acked {
                self.on_reset()
            } else {
                dropped(Dropped::ResetRejected)
            };
        }
        if !segment.flags.syn() {
            return dropped(Dropped::AckMissing);
        }
        self.heard_at = now;
        self.receive.synchronize(segment.sequence + 1, config);
        self.take_syn(now, config, segment);
        if acked {
            self.receive.ack_now = true;
            self.establish(now, config);
            return Received {
                established: true,
                ..Received::default()
            };
        }
        // Both opened at once (RFC 9293 §3.5, figure 7).
        self.state = State::SynReceived;
        self.await_handshake(now, config);
        Received::default()
    }

    fn establish(&mut self, now: Instant, config: &Config) {
        self.send.on_syn_acked(now, config, &self.agreed);
        self.state = State::Established;
        self.syn_due = false;
        self.timers.retransmit = Deadline::OFF;
        self.start_keepalive(now, config);
    }

    // Synchronised states

    /// RFC 9293 §3.10.7.4, with RFC 5961 and RFC 7323.
    fn on_synchronized(
        &mut self,
        now: Instant,
        config: &Config,
        segment: &Segment,
        payload: &[u8],
    ) -> Received {
        let flags = segment.flags;
        if self.state == State::TimeWait && self.is_successor(segment) {
            self.close();
            return Received {
                closed: true,
                reopen: true,
                ..Received::default()
            };
        }
        if flags.rst() {
            return self.on_rst(now, segment);
        }
        if flags.syn() {
            return self.on_syn(now, config, segment);
        }
        let len = payload.len() as u32 + u32::from(flags.fin());
        if let Some(reason) = self.reject(now, config, segment, len) {
            return dropped(reason);
        }
        // RFC 9293 §3.10.7.4, fifth: the ACK field.
        if !flags.ack() {
            return dropped(Dropped::AckMissing);
        }
        let mut received = Received::default();
        if self.state == State::SynReceived {
            let ack = segment.acknowledgment;
            if !self.is_syn_acked(segment) {
                self.reset_due = Some(ack);
                return dropped(Dropped::BadAck);
            }
            self.establish(now, config);
            let window = u32::from(segment.window) << self.agreed.guest_scale;
            self.send.start_window(segment.sequence, ack, window);
            received.established = true;
        }
        if !self.send.is_ack_plausible(segment.acknowledgment) {
            // RFC 5961 §5.2.
            self.challenge(now);
            received.dropped = Some(Dropped::BadAck);
            return received;
        }
        self.note_heard(now, segment);
        let acked = self.take_ack(now, config, segment, len);
        received.acked = acked.bytes;
        if self.ecn.agreed {
            self.note_congestion(now, segment, payload.len());
        }
        if acked.fin && self.on_fin_acked(now, config) {
            received.closed = true;
            return received;
        }
        self.take_payload(now, config, segment, payload, &mut received);
        received
    }

    /// A new SYN may end TIME-WAIT (RFC 9293 §3.10.7.4) when it can't be one of long ago: by its
    /// timestamp if this connection had them, by bringing some if it had not, else by its sequence
    /// number (RFC 6191 §2).
    fn is_successor(&self, segment: &Segment) -> bool {
        let Flags(flags) = segment.flags;
        let control = flags & (Flags::SYN.0 | Flags::ACK.0 | Flags::RST.0 | Flags::FIN.0);
        if control != Flags::SYN.0 {
            return false;
        }
        let later = segment.sequence.after(self.receive.nxt);
        match segment.options.timestamps {
            Some(Timestamps { value, echo: _ }) if self.agreed.timestamps => {
                let recent = self.receive.ts_recent();
                Seq(value).after(Seq(recent)) || (value == recent && later)
            }
            Some(_) => true,
            None => later,
        }
    }

    /// RFC 5961 §3.2: only the exact sequence number resets; one in the window is questioned.
    fn on_rst(&mut self, now: Instant, segment: &Segment) -> Received {
        if self.state == State::TimeWait {
            // RFC 1337 §3, F1: a RST must not end TIME-WAIT. The guest sends one as answer to our
            // answer to something old, and what is old would then meet the next connection. Nor is
            // it needed: a new SYN takes the place at once, or after the time is over.
            return dropped(Dropped::ResetRejected);
        }
        if segment.sequence == self.receive.nxt {
            return self.on_reset();
        }
        if self.receive.is_acceptable(segment.sequence, 0) {
            self.challenge(now);
        }
        dropped(Dropped::ResetRejected)
    }

    fn on_reset(&mut self) -> Received {
        self.close();
        Received {
            reset: true,
            closed: true,
            ..Received::default()
        }
    }

    /// RFC 5961 §4.2: whatever its number, a SYN is answered by an ACK. In SYN-RECEIVED, the very
    /// SYN that a SYN-ACK of ours answered is answered by that again, and with an ACK of our SYN it
    /// is the guest's half of an opening at once (RFC 9293 §3.5, figure 7).
    fn on_syn(&mut self, now: Instant, config: &Config, segment: &Segment) -> Received {
        let again = segment.sequence + 1 == self.receive.nxt;
        if self.state == State::SynReceived && again {
            if !segment.flags.ack() {
                self.syn_due = true;
                self.ecn.on_repeated_syn(segment.flags);
                return dropped(Dropped::Duplicate);
            }
            if self.is_syn_acked(segment) {
                self.heard_at = now;
                self.establish(now, config);
                self.receive.ack_now = true;
                let (sequence, ack) = (segment.sequence, segment.acknowledgment);
                let window = u32::from(segment.window);
                self.send.start_window(sequence, ack, window);
                return Received {
                    established: true,
                    ..Received::default()
                };
            }
        }
        self.challenge(now);
        dropped(Dropped::UnexpectedSyn)
    }

    /// Whether the ACK is of our SYN, which was sent.
    fn is_syn_acked(&self, segment: &Segment) -> bool {
        segment.acknowledgment == self.send.max && self.send_unacknowledged() > 0
    }

    /// The checks before anything of a segment counts: timestamps, then sequence number. `len`
    /// counts payload and FIN.
    fn reject(
        &mut self,
        now: Instant,
        config: &Config,
        segment: &Segment,
        len: u32,
    ) -> Option<Dropped> {
        if self.agreed.timestamps {
            let Some(timestamps) = segment.options.timestamps else {
                // RFC 7323 §3.2.
                return Some(Dropped::TimestampMissing);
            };
            if !self.receive.is_fresh(now, timestamps.value) {
                // RFC 7323 §5.3 R1.
                self.answer_rejected(now, len);
                return Some(Dropped::PawsRejected);
            }
        }
        if self.receive.is_acceptable(segment.sequence, len) {
            return None;
        }
        self.answer_rejected(now, len);
        if segment.flags.fin() && self.state == State::TimeWait {
            // The guest did not get our last ACK (RFC 9293 §3.10.7.4, eighth).
            self.enter_time_wait(now, config);
        }
        let end = segment.sequence + len;
        if len > 0
            && end == self.receive.nxt
            && let Some(timestamps) = segment.options.timestamps
            && self.agreed.timestamps
        {
            // Our ACK was lost, and the guest sent its last segment again. Were the next ACK to echo
            // the first attempt, the guest would measure its own timeout as a round trip.
            self.receive
                .note_timestamp(now, timestamps.value, segment.sequence);
        }
        let old = len > 0 && end.at_or_before(self.receive.nxt);
        if old {
            self.receive.note_duplicate(segment.sequence, end);
        }
        Some(if old {
            Dropped::Duplicate
        } else {
            Dropped::OutOfWindow
        })
    }

    /// RFC 9293 §3.10.7.4, first: a segment that is not acceptable is answered by an ACK. Those
    /// without payload only so often, lest two confused ends answer each other forever.
    fn answer_rejected(&mut self, now: Instant, len: u32) {
        if len > 0 {
            self.receive.ack_now = true;
        } else {
            self.challenge(now);
        }
    }

    /// The guest lives, and its clock is what `segment` says.
    fn note_heard(&mut self, now: Instant, segment: &Segment) {
        self.heard_at = now;
        self.keepalive_sent = 0;
        self.send.unanswered_probes = 0;
        if let Some(timestamps) = segment.options.timestamps
            && self.agreed.timestamps
        {
            self.receive
                .note_timestamp(now, timestamps.value, segment.sequence);
        }
    }

    /// Takes the ACK, the SACK blocks and the window. `len` counts payload and FIN.
    fn take_ack(&mut self, now: Instant, config: &Config, segment: &Segment, len: u32) -> Acked {
        let ack = segment.acknowledgment;
        let window = u32::from(segment.window) << self.agreed.guest_scale;
        let mut acked = Acked::default();
        if self.send.is_news(segment, len == 0) {
            let advances = self.send.una.before(ack);
            let timestamps = segment.options.timestamps;
            let context = AckContext {
                mss: u32::from(self.agreed.payload_max()),
                window,
                echo: timestamps
                    .filter(|_| self.agreed.timestamps)
                    .map(|timestamps| timestamps.echo),
                bare: len == 0,
            };
            acked = self.send.on_ack(now, config, segment, &context);
            if advances {
                if self.send.is_in_flight() {
                    // RFC 6298 §5.3.
                    self.start_retransmit(now, config);
                } else {
                    self.timers.retransmit = Deadline::OFF;
                }
            }
            self.loss_timer_stale = true;
        }
        if ack == self.send.una {
            let opened = self.send.update_window(segment, window);
            if opened && !self.send.is_in_flight() && !self.send.is_window_closed() {
                // What waited for the window may go; there is nothing to probe.
                self.send.attempts = 0;
                self.timers.retransmit = Deadline::OFF;
            }
        }
        acked
    }

    /// What an acceptable segment, of which the ACK is taken, says about congestion. Its own mark
    /// comes after CWR, which tells of those before it (RFC 3168 §6.1.3).
    fn note_congestion(&mut self, now: Instant, segment: &Segment, len: usize) {
        if self.ecn.is_news(segment.flags, self.send.una) {
            let mss = u32::from(self.agreed.payload_max());
            self.ecn.reduced = self.send.on_congestion_echo(now, mss);
        }
        if segment.flags.contains(Flags::CWR) {
            self.ecn.echo_due = false;
        }
        if segment.ecn == Ecn::Congested && len > 0 {
            // Told at once: a guest with a small window may send no second segment.
            self.receive.ack_now |= !self.ecn.echo_due;
            self.ecn.echo_due = true;
        }
    }

    /// Our FIN is acknowledged. Returns whether the connection is closed now.
    fn on_fin_acked(&mut self, now: Instant, config: &Config) -> bool {
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.timers.wait = Deadline::at(now + config.fin_wait_2);
            }
            State::Closing => self.enter_time_wait(now, config),
            State::LastAck => {
                self.close();
                return true;
            }
            _ => {}
        }
        false
    }

    /// RFC 9293 §3.10.7.4, seventh and eighth: the payload and the FIN.
    fn take_payload(
        &mut self,
        now: Instant,
        config: &Config,
        segment: &Segment,
        payload: &[u8],
        received: &mut Received,
    ) {
        let fin = segment.flags.fin();
        if payload.is_empty() && !fin {
            return;
        }
        if !matches!(
            self.state,
            State::Established | State::FinWait1 | State::FinWait2
        ) {
            self.receive.ack_now = true;
            received.dropped = Some(Dropped::AfterFin);
            return;
        }
        let full = self.full_segment(config);
        let taken = self
            .receive
            .take(config, segment.sequence, payload, fin, full);
        if self.state == State::FinWait2 {
            self.timers.wait = Deadline::at(now + config.fin_wait_2);
        }
        received.deliver = taken.deliver;
        received.reassembled = taken.reassembled;
        received.dropped = taken.dropped;
        if taken.finished {
            // Our own end will not take this one's ACK along when it has been sent already.
            self.receive.ack_now |= self.state != State::Established;
            received.finished = true;
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.enter_time_wait(now, config),
                _ => {}
            }
        }
    }
}

fn dropped(reason: Dropped) -> Received {
    Received {
        dropped: Some(reason),
        ..Received::default()
    }
}

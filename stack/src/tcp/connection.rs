//! The connection: what it consists of, how it begins, how it is ended, and what can be asked of it.
//!
//! The three things that happen to it are in files of their own: a segment came (`input.rs`), a
//! segment may leave (`output.rs`), time has passed (`expiry.rs`).

use alloc::vec::Vec;
use core::time::Duration;

use super::config::Config;
use super::ecn::Notification;
use super::options::Agreed;
use super::receive::Receiver;
use super::reset;
use super::segment::{Flags, Segment};
use super::send::Sender;
use super::seq::SequenceNumber as Seq;
use super::timers::{Deadline, Timers};
use super::verdict::State;
use crate::time::Instant;

/// Challenge ACKs in one [`CHALLENGE_PERIOD`] (RFC 5961 §7). There is no limit over all connections:
/// each such ACK answers a frame of the guest's own link, so that they never outnumber what it sends,
/// and a common count would let one connection's sender find out about others (CVE-2016-5696).
const CHALLENGES_MAX: u8 = 5;
const CHALLENGE_PERIOD: Duration = Duration::from_secs(1);

/// One TCP connection with the guest.
///
/// All calls that take `now` want it never to run backwards. After `on_segment`, `accept`,
/// `set_receive_room`, more bytes in the queue, or [`TimerOutcome::Transmit`](super::TimerOutcome),
/// call `poll_transmit` until it answers `None`, then look at `poll_at`.
#[derive(Debug)]
pub struct Connection {
    pub(super) state: State,
    pub(super) agreed: Agreed,
    pub(super) ecn: Notification,
    pub(super) our_port: u16,
    pub(super) guest_port: u16,
    pub(super) send: Sender,
    pub(super) receive: Receiver,
    pub(super) timers: Timers,
    /// When the guest was last heard.
    pub(super) heard_at: Instant,
    /// Challenge ACKs left in the period that began at `challenge_from`.
    challenge_from: Instant,
    challenges_left: u8,
    /// A SYN or SYN-ACK is due.
    pub(super) syn_due: bool,
    /// The loss timer is to be set at the end of the turn.
    pub(super) loss_timer_stale: bool,
    /// A window probe is due.
    pub(super) probe_due: bool,
    /// A keepalive probe is due.
    pub(super) keepalive_due: bool,
    /// Keepalive probes since the guest was heard.
    pub(super) keepalive_sent: u8,
    /// A RST with this sequence number is due, as answer to a segment of some other connection.
    pub(super) reset_due: Option<Seq>,
}

impl Connection {
    /// A SYN came from the guest. Nothing is sent until [`accept`](Self::accept): the engine
    /// connects the host side first. `iss` is the initial sequence number, which must not be
    /// predictable (RFC 6528).
    ///
    /// The caller has made sure that `syn` has SYN set and neither ACK nor RST.
    pub fn from_syn(now: Instant, config: &Config, syn: &Segment, iss: u32) -> Self {
        let ports = (syn.target_port, syn.source_port);
        let mut connection = Self::new(
            now,
            State::Held,
            ports,
            iss,
            Receiver::new(syn.sequence + 1, config),
        );
        connection.ecn = Notification::asked(config, syn.flags);
        connection.take_syn(now, config, syn);
        connection
    }

    /// The host side is connected: the SYN-ACK becomes due. Without effect in any other state than
    /// [`State::Held`].
    pub fn accept(&mut self, now: Instant, config: &Config) {
        if self.state == State::Held {
            self.state = State::SynReceived;
            self.await_handshake(now, config);
        }
    }

    /// Active open towards the guest: a SYN becomes due. `guest_port` is its target port, `our_port`
    /// its source port; `iss` as for [`from_syn`](Self::from_syn).
    pub fn open(now: Instant, config: &Config, guest_port: u16, our_port: u16, iss: u32) -> Self {
        let receive = Receiver::new(Seq(0), config);
        let ports = (our_port, guest_port);
        let mut connection = Self::new(now, State::SynSent, ports, iss, receive);
        connection.await_handshake(now, config);
        connection
    }

    fn new(
        now: Instant,
        state: State,
        (our_port, guest_port): (u16, u16),
        iss: u32,
        receive: Receiver,
    ) -> Self {
        Self {
            state,
            agreed: Agreed::offered(),
            ecn: Notification::default(),
            our_port,
            guest_port,
            send: Sender::new(Seq(iss)),
            receive,
            timers: Timers::OFF,
            heard_at: now,
            challenge_from: Instant::ZERO,
            challenges_left: CHALLENGES_MAX,
            syn_due: false,
            loss_timer_stale: false,
            probe_due: false,
            keepalive_due: false,
            keepalive_sent: 0,
            reset_due: None,
        }
    }

    /// The next bytes that had been kept because they came out of order and now follow what
    /// [`Received::deliver`](super::Received::deliver) named. Call until `None` when
    /// [`Received::reassembled`](super::Received::reassembled) says so; what is not taken before the
    /// next segment is lost.
    pub fn take_reassembled(&mut self) -> Option<Vec<u8>> {
        self.receive.take_reassembled()
    }

    /// How many bytes the engine takes now, beyond the last one that it was handed. What was
    /// offered to the guest before is never taken back (RFC 9293 §3.8.6), so up to that much
    /// may come in spite of a smaller number here. The window opens in steps of one segment or half of
    /// [`Config::window_max`], whichever is less: room that stays below that keeps it shut.
    pub fn set_receive_room(&mut self, bytes: u32) {
        self.receive.set_room(bytes);
    }

    /// Ends the connection at once. Answers the RST to emit, if the guest must be told; the
    /// connection is closed after this.
    pub fn abort(&mut self) -> Option<Segment> {
        let state = self.state;
        self.close();
        let sequence = match state {
            // The guest never saw a segment of ours: it wants sequence number 0 and our ACK
            // (RFC 9293 §3.10.7.1).
            State::Held => Seq(0),
            State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => self.send.reset_sequence(),
            // RFC 9293 §3.10.5: nothing is sent.
            State::SynSent | State::TimeWait | State::Closed => return None,
        };
        Some(Segment {
            source_port: self.our_port,
            target_port: self.guest_port,
            acknowledgment: self.receive.nxt,
            flags: Flags::RST | Flags::ACK,
            ..reset::bare(sequence)
        })
    }

    /// When [`on_timer`](Self::on_timer) wants to be called next; `None`: not by itself.
    pub fn poll_at(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the connection is over; every call is without effect then.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether the connection only waits for late segments to die.
    pub fn is_time_wait(&self) -> bool {
        self.state == State::TimeWait
    }

    /// Bytes of sequence space that were sent and not acknowledged; SYN and FIN count one each.
    pub fn send_unacknowledged(&self) -> u32 {
        self.send.max.since(self.send.una)
    }

    /// Bytes that the guest takes now, sent and unacknowledged ones among them.
    pub fn guest_window(&self) -> u32 {
        self.send.guest_window()
    }

    /// Bytes of memory that what came out of order takes.
    pub fn out_of_order_bytes(&self) -> u32 {
        self.receive.out_of_order_bytes()
    }

    /// Smoothed round-trip time (RFC 6298); `None` before the first sample.
    pub fn smoothed_rtt(&self) -> Option<Duration> {
        self.send.rtt.smoothed()
    }

    /// Congestion window in bytes; 0 before the connection is established.
    pub fn cwnd(&self) -> u32 {
        self.send.cwnd()
    }

    /// One after the highest sequence number that was sent. A connection that takes the place of
    /// this one in TIME-WAIT must begin beyond it (RFC 9293 §3.6.1).
    pub fn sequence_end(&self) -> Seq {
        self.send.max
    }

    /// Payload bytes of a full segment that we send, options taken off.
    pub fn effective_mss(&self) -> u16 {
        self.agreed.payload_max()
    }

    /// Takes what the guest's SYN, or SYN-ACK, offers.
    pub(super) fn take_syn(&mut self, now: Instant, config: &Config, syn: &Segment) {
        self.agreed = Agreed::new(config, &syn.options);
        if let Some(timestamps) = syn.options.timestamps {
            self.receive.start_timestamps(now, timestamps.value);
        }
        // RFC 7323 §2.2: the window of a SYN is not scaled.
        let acknowledgment = if syn.flags.ack() {
            syn.acknowledgment
        } else {
            self.send.una + 1
        };
        self.send
            .start_window(syn.sequence, acknowledgment, u32::from(syn.window));
    }

    /// The state becomes [`State::TimeWait`], or its time starts anew.
    pub(super) fn enter_time_wait(&mut self, now: Instant, config: &Config) {
        self.state = State::TimeWait;
        self.timers = Timers {
            wait: Deadline::at(now + config.time_wait),
            ..Timers::OFF
        };
    }

    /// The state becomes [`State::Closed`]. What was reassembled can still be taken.
    pub(super) fn close(&mut self) {
        self.state = State::Closed;
        self.timers = Timers::OFF;
        self.reset_due = None;
    }

    /// Makes an ACK due as answer to a segment that is not what it should be, if that did not
    /// happen too often lately (RFC 5961 §7).
    pub(super) fn challenge(&mut self, now: Instant) {
        if now.since(self.challenge_from) >= CHALLENGE_PERIOD {
            self.challenge_from = now;
            self.challenges_left = CHALLENGES_MAX;
        }
        if self.challenges_left > 0 {
            self.challenges_left -= 1;
            self.receive.ack_now = true;
        }
    }

    /// Payload of a full segment that the guest sends.
    pub(super) fn full_segment(&self, config: &Config) -> u16 {
        let options = if self.agreed.timestamps {
            super::options::TIMESTAMPS_LEN
        } else {
            0
        };
        config.mss.saturating_sub(options).max(1)
    }
}

//! TCP towards the guest: a complete endpoint of RFC 9293, sans-IO.
//!
//! # Goals
//!
//! One [`Connection`] is the end of a TCP connection that the guest believes to be the far host. It
//! says what is to be done with bytes, but holds almost none: bytes for the guest stay in the
//! engine's queue, of which the connection names offsets; bytes from the guest are used where they
//! lie in the received frame, of which it names a range. Only what comes out of order is copied,
//! into bounded memory. A segment, in or out, may be a super-frame of up to 64 KiB under one header.
//! In order, on an established connection, a segment costs one short path and no allocation.
//!
//! # A turn
//!
//! ```text
//!   frames of a batch ─▶ on_segment ─▶ deliver / reassembled ─▶ host      ┐ for each frame
//!                             └─────▶ acked: cut the queue's front        ┘
//!   host took bytes   ─▶ set_receive_room
//!   time              ─▶ on_timer
//!                        poll_transmit ─▶ header + range of the queue     until None
//!                        poll_at       ─▶ when to call on_timer
//! ```
//!
//! Because `poll_transmit` comes after all segments of the batch, one ACK answers them all, and
//! it rides on data if there is any.
//!
//! # Who is who
//!
//! | file | holds | obeys |
//! |---|---|---|
//! | `connection.rs` | the parts, beginning and abort | RFC 9293 §3.10 |
//! | `input.rs` | a segment came: the fast path, then the checks in the order of the RFC | RFC 9293 §3.10.7, RFC 5961, RFC 7323 §5 |
//! | `output.rs` | which segment leaves, and its header | |
//! | `expiry.rs`, `timers.rs` | five deadlines and what they mean | RFC 6298 §5, RFC 1122 §4.2.3.6 |
//! | `receive.rs` | what is new in a segment, the window, when to ACK | RFC 9293 §3.8.6 |
//! | `reassembly.rs` | bytes out of order, SACK blocks to send | RFC 2018 §4, RFC 2883 |
//! | `send.rs` | what may leave, the three modes of recovery | RFC 9293 §3.8.6 |
//! | `sent.rs` | when it left, while nothing is missing | RFC 8985 §5.2 |
//! | `acknowledge.rs` | what an ACK says of it | RFC 5681, 2018, 2883 |
//! | `scoreboard.rs` | what became of each piece, once something is missing | RFC 6675, 8985 §5 |
//! | `repair.rs` | what is lost, and what was not, and the answer to that | RFC 8985 §6, 3708, 4015, 5682 |
//! | `rack.rs` | how long a piece may be overtaken | RFC 8985 §6.2 |
//! | `tail.rs` | the probe when the last may be lost | RFC 8985 §7 |
//! | `loss.rs` | loss without SACK, and by time | RFC 6582, 6298 §5 |
//! | `prr.rs` | how cwnd comes down | RFC 9937 |
//! | `congestion/` | cwnd: Reno or CUBIC | RFC 5681, 9438, 6928, 3465 |
//! | `rtt.rs` | RTO | RFC 6298 |
//! | `path_mtu.rs` | segments that did not fit | RFC 1191, 8201, 5927 |
//! | `ecn.rs` | marks of congestion, told both ways | RFC 3168 |
//! | `options.rs` | what the SYNs agreed on | RFC 7323, 2018, 6691 |
//! | `reset.rs` | answers to segments without connection | RFC 9293 §3.10.7.1 |
//!
//! # States
//!
//! `states.md` says what happens in each, event by event. They are those of RFC 9293 §3.3.2 without
//! LISTEN, and one before them: a guest's SYN makes a connection that is [`State::Held`] and silent
//! while the engine connects the host side. Then
//! [`Connection::accept`] makes the SYN-ACK due, or [`Connection::abort`] gives the RST that refuses;
//! dropping the connection leaves the guest to its timeout. A FIN goes out when
//! [`SendQueue::finished`] says that the host's side ended and all before it was sent, so half-close
//! works both ways.
//!
//! `musts.md` lists what RFC 9293 demands, with the test that shows it.
//!
//! # What always holds
//!
//! - `una ≤ nxt ≤ max` (`send.rs`); the queue's front is `una`, once the engine has cut `acked`.
//! - The right edge of the receive window never moves left; what was offered is taken.
//! - Every byte is delivered once and in order: from a segment, then from the store.
//! - Whatever waits has a deadline or a reason to hear from the engine: `poll_at` is `None` only when
//!   nothing is in flight and nothing waits for the guest.
//! - One segment of the guest makes one ACK at most; useless ones make only so many a second.
//!
//! # Not here
//!
//! Urgent data is delivered in line and in order; the mark is not carried on to the host's peer. There,
//! without SO_OOBINLINE, it would take a byte out of the stream, and which one the two ends of a
//! socket API disagree about (RFC 6093 §3.1, §3.2); middleboxes clear it anyway (§3.4). No Nagle: the
//! host's kernel has joined small writes already. No Fast Open (payload in a SYN is left to be sent
//! again), no authentication. Ports are told here only to fill headers; addresses and checksums are
//! the caller's.

mod acknowledge;
mod config;
mod congestion;
mod connection;
mod ecn;
mod expiry;
#[cfg(test)]
mod goodput;
#[cfg(test)]
mod hostile;
mod input;
mod invariants;
mod loss;
mod options;
mod output;
mod path_mtu;
mod prr;
mod rack;
mod reassembly;
mod receive;
mod repair;
mod reset;
mod rtt;
#[cfg(test)]
mod rules;
mod scoreboard;
pub mod segment;
mod send;
mod sent;
pub mod seq;
#[cfg(test)]
mod simulation;
mod tail;
mod timers;
mod verdict;

pub use config::Config;
pub use congestion::CongestionControl;
pub use connection::Connection;
#[doc(hidden)]
pub use invariants::Invariants;
pub use reset::reset_for;
pub use verdict::{Dropped, Reason, Received, SendQueue, State, TimerOutcome, Transmit};

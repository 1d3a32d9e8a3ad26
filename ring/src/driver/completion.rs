//! What comes out of [`Driver::wait`](super::Driver::wait).

use std::net::{IpAddr, SocketAddr};

use super::{Errno, LinkId};
use crate::buffer::Slice;

/// Chosen by the caller of an operation, comes back in its completions.
pub type Token = u64;

/// Something that happened.
#[derive(Debug)]
pub enum Completion {
    /// A frame came in; the offload header is in front if the link has one.
    Frame {
        /// Where from.
        link: LinkId,
        /// The frame.
        frame: Slice,
    },
    /// The link is gone; no more frames.
    LinkEnd {
        /// Which.
        link: LinkId,
        /// Why: `EBADFD` or `EIO` when the TAP was deleted.
        error: Errno,
    },
    /// `connect` is done.
    Connected {
        /// Of the connect.
        token: Token,
        /// What came of it.
        result: Result<(), Errno>,
    },
    /// `send` or `send_packets` is done.
    Sent {
        /// Of the send.
        token: Token,
        /// How many bytes (or packets) were taken; 0 if there was no room and the mode was
        /// [`SendMode::Now`](super::SendMode::Now).
        result: Result<u32, Errno>,
    },
    /// Bytes of a stream, one per buffer, in order.
    Received {
        /// Of the receive.
        token: Token,
        /// The bytes, never none.
        data: Slice,
    },
    /// `receive` is done.
    ReceiveEnd {
        /// Of the receive.
        token: Token,
        /// How it ended.
        end: ReceiveEnd,
    },
    /// A datagram, or with `gso_size` ≠ 0 several of one sender.
    Datagram {
        /// Of the `receive_from`.
        token: Token,
        /// The sender; `None` if it has no IP address.
        from: Option<SocketAddr>,
        /// The payload.
        payload: Slice,
        /// 0: one datagram. Else the payload is a row of datagrams of this many bytes; the last may
        /// be shorter.
        gso_size: u16,
        /// The TTL or hop limit it came with, where the socket asks for it (ping).
        hop_limit: Option<u8>,
    },
    /// An error concerning an earlier datagram; see [`Driver::take_error`](super::Driver::take_error).
    /// Receiving goes on.
    DatagramError {
        /// Of the `receive_from`.
        token: Token,
        /// What.
        errno: Errno,
    },
    /// `receive_from` is done: closed, or the peer of a seqpacket socket is gone.
    DatagramEnd {
        /// Of the `receive_from`.
        token: Token,
    },
    /// `send_to` or `send_packet` did not send.
    SendFailed {
        /// Of the send.
        token: Token,
        /// Why.
        errno: Errno,
        /// Where it should have gone; `None` for `send_packet`.
        to: Option<SocketAddr>,
        /// The first slice of what was not sent.
        payload: Slice,
    },
    /// A [`Waker`](super::Waker) was used, once or more.
    Woken,
}

impl Completion {
    /// How many bytes came with it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Completion::Frame { frame: bytes, .. }
            | Completion::Received { data: bytes, .. }
            | Completion::Datagram { payload: bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

/// How a `receive` ended. Exactly one per receive, after its bytes.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum ReceiveEnd {
    /// It got bytes. There may be more: arm the next.
    Partial,
    /// The peer ended its sending direction.
    Eof,
    /// No buffer was free: arm again when some are back.
    Starved,
    /// The socket was closed here.
    Canceled,
    /// The connection failed.
    Failed(Errno),
}

/// An entry of a socket's error queue.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct SocketError {
    /// What the socket call would have said.
    pub errno: Errno,
    /// Who found it.
    pub origin: ErrorOrigin,
    /// The MTU when `errno` is `EMSGSIZE`.
    pub info: u32,
    /// Where the datagram went.
    pub target: SocketAddr,
    /// The start of what was sent: of the UDP payload, or of the ICMP message on a ping socket.
    pub payload: Vec<u8>,
}

/// Who reported an error.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum ErrorOrigin {
    /// A router or the target, by ICMP.
    Icmp {
        /// ICMPv6?
        v6: bool,
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
        /// Who sent the ICMP message.
        offender: IpAddr,
    },
    /// This host.
    Local,
}

//! What a connection asks for and answers: the plain data that travels between it and the engine.

use core::ops::Range;

use super::segment::Segment;

/// States of RFC 9293 §3.3.2, plus the time before we answer a SYN; in the order of a connection's
/// life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// A SYN came; the host side is being connected and nothing was answered yet.
    Held,
    /// We sent a SYN (active open).
    SynSent,
    /// We sent a SYN-ACK, or it is due.
    SynReceived,
    /// Both ways open.
    Established,
    /// We sent FIN.
    FinWait1,
    /// Our FIN is acknowledged; the guest may still send.
    FinWait2,
    /// The guest sent FIN; we may still send.
    CloseWait,
    /// Both sent FIN, ours is not acknowledged.
    Closing,
    /// The guest sent FIN, then we did; ours is not acknowledged.
    LastAck,
    /// Both are done; waiting for late segments to die.
    TimeWait,
    /// Nothing left; every call is a no-op.
    Closed,
}

/// What the engine holds for the guest when it asks for the next segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendQueue {
    /// Bytes held, from the first that the guest has not acknowledged on; sent and unsent.
    pub bytes: u32,
    /// Whether the host sent EOF after these bytes. Once true, it stays, and `bytes` only falls.
    pub finished: bool,
    /// The largest payload of one [`Transmit`], in bytes: some 64 KiB when the link takes
    /// super-frames, else the MSS. With that of [`Config`](super::Config), or less, no transmit is a
    /// super-frame, whatever the guest's MSS.
    pub segment_max: u32,
}

/// One segment to emit now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The header, complete.
    pub segment: Segment,
    /// The payload as offsets into the send queue, from its present front. Empty for a pure ACK.
    pub payload: Range<u32>,
    /// Payload bytes per wire segment when the payload is longer than one; the link cuts it.
    pub gso_size: Option<u16>,
    /// Whether any of it was sent before.
    pub retransmission: bool,
}

/// What a segment from the guest did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The part of this segment's payload to hand to the host now; may be empty.
    pub deliver: Range<u32>,
    /// After `deliver`, bytes kept from earlier segments follow: call
    /// [`take_reassembled`](super::Connection::take_reassembled) until it is empty, before the next
    /// segment.
    pub reassembled: bool,
    /// Payload bytes newly acknowledged: cut these from the front of the send queue.
    pub acked: u32,
    /// Edge: the guest's FIN is reached; nothing follows the bytes of this call.
    pub finished: bool,
    /// Edge: the guest reset the connection, or refused it.
    pub reset: bool,
    /// Edge: the connection became established.
    pub established: bool,
    /// The connection is closed; drop it. (TIME-WAIT is not closed.)
    pub closed: bool,
    /// A new SYN that may take the place of this connection in TIME-WAIT: drop the connection and
    /// treat the segment as one without connection, but for the initial sequence number, which is
    /// beyond [`sequence_end`](super::Connection::sequence_end).
    pub reopen: bool,
    /// Why the segment, or a part of it, was not used.
    pub dropped: Option<Dropped>,
}

/// Why a segment, or a part of it, was not used; for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// The connection is closed.
    Closed,
    /// Sequence number not acceptable (RFC 9293 §3.10.7.4).
    OutOfWindow,
    /// Payload beyond the window was cut.
    BeyondWindow,
    /// Older than what was received, by its timestamp (RFC 7323 §5).
    PawsRejected,
    /// Timestamps were agreed and are missing (RFC 7323 §3.2).
    TimestampMissing,
    /// No ACK bit where it must be.
    AckMissing,
    /// Acknowledges what was never sent, or is too old (RFC 5961 §5).
    BadAck,
    /// RST that does not match exactly (RFC 5961 §3).
    ResetRejected,
    /// SYN on a connection that exists (RFC 5961 §4).
    UnexpectedSyn,
    /// All of its payload was received before.
    Duplicate,
    /// Out of order, and the memory for such bytes is full.
    OutOfOrderFull,
    /// Payload after the guest's FIN.
    AfterFin,
}

/// What a timer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerOutcome {
    /// Nothing was due.
    Idle,
    /// Something is due to be sent: call `poll_transmit` until it answers `None`.
    Transmit,
    /// The connection is closed; drop it.
    Gone(Reason),
}

/// Why a timer closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// TIME-WAIT is over: the regular end.
    TimeWaitOver,
    /// The handshake was not answered.
    HandshakeTimeout,
    /// Data was not acknowledged after all retransmissions, or probes were not answered.
    RetransmissionLimit,
    /// Keepalive probes were not answered.
    KeepaliveTimeout,
    /// The guest did not use its half of the connection in FIN-WAIT-2.
    FinWait2Timeout,
}

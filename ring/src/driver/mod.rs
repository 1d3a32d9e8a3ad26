//! The completion driver: submit operations, wait, get completions.
//!
//! A core speaks to [`Driver`] and to nothing else of the machine it runs on. Operations are queued
//! by the methods below and go to the kernel together in the next [`Driver::wait`], which is also the
//! one place where completions appear and time moves. No method waits except `wait`.
//!
//! What the caller owes: at most one `send` (or `send_packets`), one `receive` and one `connect` outstanding
//! per socket;
//! a second one fails with `EALREADY`. An operation on a socket that was closed fails with `EBADF`.
//! Both come as ordinary completions. Tokens mean nothing to the driver.

pub mod faulty;
pub mod readiness;
pub mod sim;
pub mod uring;

mod completion;
mod kernel;
mod link;
mod socket;
mod waker;

pub use completion::{Completion, ErrorOrigin, ReceiveEnd, SocketError, Token};
pub use link::{LinkFeatures, LinkId, WriteStats};
pub use rustix::io::Errno;
pub use socket::{Adopted, Keepalive, Remote, SendMode, SocketId, SocketKind, UnixAddress};
pub use waker::Waker;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::buffer::Slice;
use crate::frames::tap::TapQueue;

/// How many bytes of header [`Driver::write_frame`] takes at most.
pub const FRAME_HEADER_MAX: usize = 192;
/// How many payload slices [`Driver::write_frame`] takes at most.
pub const FRAME_SLICES_MAX: usize = 32;
/// How many slices one [`Driver::send`] takes; what is behind them is not sent. Enough for 64 frames of
/// a header and two parts of payload.
pub const SEND_SLICES_MAX: usize = 192;
/// How many packets one [`Driver::send_packets`] takes; what is behind them is not sent.
pub const PACKETS_MAX: usize = 64;

/// What a core needs of the machine. See the module.
pub trait Driver {
    /// Nanoseconds of `CLOCK_MONOTONIC` as of the end of the last `wait` (or creation).
    fn now(&self) -> u64;

    /// Submits everything queued, waits for at least one completion or the deadline, and appends
    /// what completed. `None` waits for ever; a deadline in the past does not wait. May return
    /// early with nothing, for example after a signal.
    ///
    /// # Errors
    ///
    /// Only when the driver itself is broken; what was queued then is lost.
    fn wait(&mut self, deadline: Option<u64>, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// Takes over a link that was not there when the driver was made. Not all drivers do.
    ///
    /// # Errors
    ///
    /// `Unsupported` by this driver or kernel, `EMFILE` if it has as many as it can have, or what making
    /// its buffers says.
    fn add_link(&mut self, queue: TapQueue) -> io::Result<LinkId> {
        let _ = queue;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives a link up: no more of its frames come, what was written before still goes, and its id may be
    /// used for another.
    fn remove_link(&mut self, link: LinkId) {
        let _ = link;
    }

    /// What the link can do. All off for a link that does not exist.
    fn link_features(&self, link: LinkId) -> LinkFeatures;

    /// Starts to read frames of the link, which goes on until [`Completion::LinkEnd`].
    /// A second call does nothing.
    fn read_link(&mut self, link: LinkId);

    /// Queues one frame: `header` (at most [`FRAME_HEADER_MAX`] bytes, copied, with the 10-byte
    /// offload header in front if the link has one) followed by `payload` (at most
    /// [`FRAME_SLICES_MAX`] slices, held until written). More than that is refused and counted in
    /// [`WriteStats`], as is what the kernel refuses; nothing is retried.
    fn write_frame(&mut self, link: LinkId, header: &[u8], payload: &[Slice]);

    /// Makes a socket, close-on-exec and tuned: TCP without delay; UDP and ping with reported
    /// errors, UDP with receive offload and large buffers, ping with the hop limit of what arrives.
    ///
    /// # Errors
    ///
    /// What `socket(2)` says: `EMFILE`, `EACCES` for ping sockets that the host forbids,
    /// `EAFNOSUPPORT` without IPv6.
    fn open(&mut self, kind: SocketKind) -> io::Result<SocketId>;

    /// Takes over a connected socket that somebody else made, for example one end of a
    /// `socketpair`, for a purpose. It is made blocking: the ring waits for it.
    fn adopt(&mut self, fd: OwnedFd, purpose: Adopted) -> SocketId;

    /// Connects. Ends in [`Completion::Connected`].
    fn connect(&mut self, socket: SocketId, to: &Remote, token: Token);

    /// Sends the first [`SEND_SLICES_MAX`] slices on a stream, which are held until the completion.
    /// Ends in [`Completion::Sent`], maybe with fewer bytes than given.
    fn send(&mut self, socket: SocketId, payload: &[Slice], mode: SendMode, token: Token);

    /// One receive of up to `max` bytes of a stream, as soon as there are any. Ends in
    /// [`Completion::ReceiveEnd`], after zero or more [`Completion::Received`].
    /// `wait_first`: nothing is expected to be there now, so don't try before waiting.
    ///
    /// A [stream link](Adopted::StreamLink) gets one large buffer, where the driver has such.
    fn receive(&mut self, socket: SocketId, max: u32, wait_first: bool, token: Token);

    /// Sends one datagram or, with `gso_size` ≠ 0, datagrams of that many bytes each (the last may
    /// be shorter). Never waits. Only failure is told: [`Completion::SendFailed`].
    fn send_to(
        &mut self,
        socket: SocketId,
        to: &SocketAddr,
        payload: &[Slice],
        gso_size: u16,
        token: Token,
    );

    /// Sends one packet on a connected seqpacket or datagram socket. Never waits. Only failure is
    /// told: [`Completion::SendFailed`].
    fn send_packet(&mut self, socket: SocketId, payload: &[Slice], token: Token);

    /// Sends the first [`PACKETS_MAX`] packets in order on a connected seqpacket or datagram socket, each of
    /// at most [`SEND_SLICES_MAX`] slices: as many as there is room for. If there is none, waits for it. Ends
    /// in [`Completion::Sent`] with the number of packets that were taken, which is 0 when it had to wait:
    /// there is room now, send again. `Err` if the first failed; one behind it that fails says so when it is the
    /// first.
    ///
    /// A datagram socket whose peer is gone says so here alone: `ECONNREFUSED`, and then `ENOTCONN`.
    fn send_packets(&mut self, socket: SocketId, packets: &[&[Slice]], token: Token);

    /// Receives datagrams until [`Completion::DatagramEnd`].
    fn receive_from(&mut self, socket: SocketId, token: Token);

    /// Takes one entry of the socket's error queue.
    fn take_error(&mut self, socket: SocketId) -> Option<SocketError>;

    /// Ends the sending direction of a stream once what was queued before is sent.
    fn shutdown_write(&mut self, socket: SocketId);

    /// Cancels what is outstanding on the socket, each of which still ends in its one completion,
    /// then closes it; with `reset` the peer gets a RST. The id is dead from here on.
    fn close(&mut self, socket: SocketId, reset: bool);

    /// Sets the TTL or hop limit of what the socket sends.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` says; `EBADF` for a closed socket.
    fn set_hop_limit(&mut self, socket: SocketId, hops: u8) -> io::Result<()>;

    /// Reports ICMP errors of a TCP socket through [`Driver::take_error`].
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` says; `EBADF` for a closed socket.
    fn set_report_errors(&mut self, socket: SocketId) -> io::Result<()>;

    /// From now on the other end of a TCP socket is asked whether it is still there when nothing
    /// came from it for a time; without an answer the connection fails with `ETIMEDOUT`. The time
    /// that was quiet before counts.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` says; `EBADF` for a closed socket.
    fn set_keepalive(&mut self, socket: SocketId, keepalive: &Keepalive) -> io::Result<()>;

    /// Bytes that were sent on a TCP socket and that its peer has not acknowledged. Drivers whose sockets have no
    /// such queue say 0.
    ///
    /// # Errors
    ///
    /// What `ioctl(2)` says; `EBADF` for a closed socket.
    fn unacknowledged_bytes(&self, socket: SocketId) -> io::Result<u32> {
        let _ = socket;
        Ok(0)
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    ///
    /// `EBADF` for a closed socket, `EAFNOSUPPORT` for one that is not IP.
    fn local_address(&self, socket: SocketId) -> io::Result<SocketAddr>;

    /// How full the pools are.
    fn levels(&self) -> BufferLevels;

    /// What was counted since creation.
    fn counters(&self) -> DriverCounters;

    /// What frame writes on the link came to.
    fn write_stats(&self, link: LinkId) -> WriteStats;

    /// A handle that makes this driver's `wait` return [`Completion::Woken`], from any thread.
    fn waker(&self) -> Waker;

    /// Wakes another driver, at the next `wait` of this one.
    fn wake(&mut self, peer: &Waker);
}

/// Buffers that are free (not held by any slice), and how many there are in all.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub struct BufferLevels {
    /// Free buffers for frames.
    pub tap_free: usize,
    /// All buffers for frames.
    pub tap_total: usize,
    /// Free buffers for streams.
    pub stream_free: usize,
    /// All buffers for streams.
    pub stream_total: usize,
    /// The size of a stream buffer in bytes.
    pub stream_buffer_bytes: usize,
    /// Free buffers for streams of links.
    pub link_free: usize,
    /// All buffers for streams of links; 0: they use those for streams.
    pub link_total: usize,
    /// Free buffers for datagrams.
    pub datagram_free: usize,
    /// All buffers for datagrams.
    pub datagram_total: usize,
}

/// What a driver counts.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub struct DriverCounters {
    /// System calls to submit or wait.
    pub enters: u64,
    /// Operations submitted.
    pub submissions: u64,
    /// Completions taken from the kernel.
    pub completions: u64,
    /// Times that the submission queue was full between two waits.
    pub submission_queue_full: u64,
    /// Waits that found the completion queue overflowed (nothing is lost, it is only slower).
    pub completion_queue_overflowed: u64,
    /// Looks for what comes next, taken before going to sleep.
    pub looks: u64,
    /// Looks that made the sleep needless.
    pub looks_found: u64,
    /// Times that frame reading stopped because all buffers were held.
    pub tap_starved: u64,
    /// Stream receives that found no buffer.
    pub stream_starved: u64,
    /// Times that datagram receiving stopped because all buffers were held.
    pub datagram_starved: u64,
    /// Datagrams that did not fit or could not be understood.
    pub datagrams_broken: u64,
    /// Datagram sends done again after an error that belonged to an earlier datagram.
    pub datagram_send_retries: u64,
    /// Error-queue entries dropped because nobody took them.
    pub errors_dropped: u64,
}

//! How to make a ring, and what the kernel has.

use crate::driver::Errno;

/// How to make a [`Uring`](super::Uring).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UringConfig {
    /// Submission queue entries, a power of two.
    pub sq_entries: u32,
    /// Completion queue entries, a power of two.
    pub cq_entries: u32,
    /// Buffers of 65,792 bytes for frames, used if there are links. Cut to 64: with more, a multishot
    /// read goes on inside the kernel for so long that the guest starves.
    pub tap_buffers: u16,
    /// Buffers of `stream_buffer_bytes` bytes for streams.
    pub stream_buffers: u16,
    /// The size of a stream buffer in bytes.
    pub stream_buffer_bytes: u32,
    /// Buffers of 256 KiB for streams of links; 0: those for streams are used.
    pub link_buffers: u16,
    /// Buffers of 65,792 bytes for datagrams.
    pub datagram_buffers: u16,
    /// The receive buffer asked of the kernel for UDP sockets, in bytes. It may give less.
    pub udp_receive_buffer_bytes: u32,
    /// Whether UDP sockets may receive several datagrams as one.
    pub udp_receive_offload: bool,
    /// Whether to wake other rings by `IORING_OP_MSG_RING` where the kernel has it.
    pub message_ring: bool,
    /// For how long at most to look for what comes next before going to sleep, in ns; 0: go to sleep
    /// at once. A look is taken only where it is worth it (`busy_poll`), and never without deferred task
    /// work.
    pub busy_poll_ns: u64,
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig {
            sq_entries: 1024,
            cq_entries: 8192,
            tap_buffers: 64,
            stream_buffers: 1024,
            stream_buffer_bytes: 16 << 10,
            link_buffers: 0,
            datagram_buffers: 64,
            udp_receive_buffer_bytes: 4 << 20,
            udp_receive_offload: true,
            message_ring: true,
            busy_poll_ns: 0,
        }
    }
}

/// What the kernel can do, each found by trying.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Features {
    /// Why no ring can be made at all (`ENOSYS`, or `EPERM` where it is forbidden); `None` if one can.
    pub unusable: Option<Errno>,
    /// `IORING_SETUP_SINGLE_ISSUER`.
    pub single_issuer: bool,
    /// `IORING_SETUP_DEFER_TASKRUN`.
    pub defer_taskrun: bool,
    /// `IORING_REGISTER_PBUF_RING`. Needed.
    pub buffer_rings: bool,
    /// `IORING_OP_READ_MULTISHOT`. Needed for TAP links.
    pub multishot_read: bool,
    /// Multishot `IORING_OP_RECVMSG`. Needed.
    pub multishot_receive: bool,
    /// `IORING_RECVSEND_BUNDLE` on receives.
    pub receive_bundles: bool,
    /// A bundle can be kept to the asked length; else it may take once more what is there.
    pub exact_bundles: bool,
    /// A send that took everything can be silent, while one that did not is told.
    pub silent_sends: bool,
    /// Absolute deadlines when waiting.
    pub absolute_deadline: bool,
    /// `IORING_OP_MSG_RING`.
    pub message_ring: bool,
}

impl Features {
    /// Whether [`Uring`](super::Uring) works here, with TAP links or without.
    #[must_use]
    pub fn usable(&self, with_links: bool) -> bool {
        self.unusable.is_none()
            && self.buffer_rings
            && self.multishot_receive
            && (self.multishot_read || !with_links)
    }
}

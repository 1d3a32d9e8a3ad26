//! How to make a driver over readiness.

/// How to make a [`Readiness`](super::Readiness).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadinessConfig {
    /// Buffers of 65,792 bytes for frames, used if there are links.
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
}

impl Default for ReadinessConfig {
    fn default() -> ReadinessConfig {
        ReadinessConfig {
            tap_buffers: 64,
            stream_buffers: 1024,
            stream_buffer_bytes: 16 << 10,
            link_buffers: 0,
            datagram_buffers: 64,
            udp_receive_buffer_bytes: 4 << 20,
            udp_receive_offload: true,
        }
    }
}

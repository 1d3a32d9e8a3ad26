//! Bytes and events: pooled buffers, the completion driver, lanes between cores and TAP queues.
//!
//! This crate knows no protocol above "a frame is some bytes, with an offload header in front where
//! the link has one". It is the only crate of the workspace that contains `unsafe`.
//!
//! | module | what it is |
//! |---|---|
//! | [`buffer`] | per-core pools and reference-counted slices of their buffers |
//! | [`driver`] | the [`Driver`] trait and its io_uring implementation [`Uring`] |
//! | [`frames`] | how frames are read and written: TAP queues, byte streams, packets |
//! | [`lane`] | bounded queues from every core to every other |

pub mod buffer;
pub mod driver;
pub mod frames;
pub mod lane;

pub use buffer::{FilledPool, Parcel, Slice};
#[cfg(any(target_os = "macos", target_os = "freebsd", feature = "kqueue-shim"))]
pub use driver::readiness::poller::Kqueue;
pub use driver::{
    Adopted, BufferLevels, Completion, Driver, DriverCounters, Errno, ErrorOrigin, Keepalive,
    LinkFeatures, LinkId, ReceiveEnd, Remote, SendMode, SocketError, SocketId, SocketKind, Token,
    UnixAddress, Waker, WriteStats,
    readiness::{Readiness, ReadinessConfig, poller::Epoll},
    uring::{Features, Uring, UringConfig, probe},
};
pub use frames::FrameBounds;
pub use frames::packets::PacketWriter;
pub use frames::stream::{FrameReader, FrameWriter, Framing, FramingError};
pub use frames::tap::{Tap, TapError, TapOptions, TapQueue};
pub use lane::{LaneEnd, Lanes};

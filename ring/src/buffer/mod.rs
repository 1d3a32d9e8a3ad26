//! Per-core buffer pools and reference-counted slices of their buffers.

pub(crate) mod arena;
mod filled;
pub(crate) mod pool;
pub(crate) mod slice;

pub(crate) use filled::Blank;
pub use filled::FilledPool;
pub use slice::{Parcel, Slice};

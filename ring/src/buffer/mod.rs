//! Per-core buffer pools and reference-counted slices of their buffers.

pub(crate) mod pool;
pub(crate) mod slice;

pub use slice::{Parcel, Slice};

//! How frames are read and written.

pub mod packets;
mod parts;
pub mod stream;
pub mod tap;

pub use parts::FrameBounds;

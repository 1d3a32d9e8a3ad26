//! How frames are read and written.

pub mod stream;
pub mod tap;

//! How frames are read and written.

pub mod tap;

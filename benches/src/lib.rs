//! What benchmarks and `towpath-replay` share: frames of each kind, and the replay of a recording
//! through a whole core. `README.md` beside this crate has the targets and the figures.

#![forbid(unsafe_code)]

pub mod frames;
pub mod replay;

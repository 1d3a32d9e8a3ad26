//! Packets and protocols, sans-IO: every function is (state, input, now) → (state, output).
//!
//! Nothing in here does I/O, reads a clock, starts a thread or logs; the engine calls it with
//! bytes and the time, and carries out what it answers.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod address;
pub mod build;
pub mod flow;
pub mod fragment;
pub mod neighbor;
pub mod parse;
pub mod quote;
pub mod resegment;
pub mod tcp;
pub mod time;
pub mod wire;

pub use address::Address;
pub use time::Instant;

//! TCP towards the guest.

mod config;
mod congestion;
mod connection;
mod expiry;
mod input;
mod options;
mod output;
mod reassembly;
mod receive;
mod reset;
mod rtt;
mod scoreboard;
pub mod segment;
mod send;
pub mod seq;
#[cfg(test)]
mod simulation;
mod timers;
mod verdict;

pub use config::Config;
pub use connection::Connection;
pub use reset::reset_for;
pub use verdict::{Dropped, Reason, Received, SendQueue, State, TimerOutcome, Transmit};

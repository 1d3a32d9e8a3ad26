//! TCP towards the guest.

mod config;
mod connection;
pub mod segment;
pub mod seq;
mod verdict;

pub use config::Config;
pub use connection::{Connection, reset_for};
pub use verdict::{Dropped, Reason, Received, SendQueue, State, TimerOutcome, Transmit};

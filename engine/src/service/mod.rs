//! What the engine itself serves to guests, off the data path: DNS and DHCP.
//!
//! Cores only carry packets. What needs lookups, retries or memory of clients runs on the control
//! thread ([`crate::control`]); the two speak in the packets of [`message`].

pub(crate) mod channel;
pub(crate) mod counters;
pub(crate) mod dhcp;
pub(crate) mod dns;
pub mod message;
pub(crate) mod names;

pub use counters::{Counter, ServiceCounters};

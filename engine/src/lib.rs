//! A user-mode network for containers and VMs: raw ethernet frames come in from a guest, ordinary
//! sockets of this process carry them on.
//!
//! The engine is a library; the `towpath` binary is its first user. `ARCHITECTURE.md` at the root
//! of the repository follows a frame through the files.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub(crate) mod core;
pub mod counters;
pub(crate) mod demo;
pub mod doctor;
pub mod driver;
pub mod engine;
pub mod guest;
pub(crate) mod host;
pub(crate) mod inherited;
#[doc(hidden)]
pub mod internals;
pub mod link;
pub(crate) mod placement;
pub(crate) mod policy;
pub mod ports;
pub mod service;
pub mod subnet;
pub(crate) mod switch;

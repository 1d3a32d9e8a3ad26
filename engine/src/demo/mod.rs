//! What `towpath demo` needs besides the engine: servers for the host's side, a client for the
//! guest's, and what they send each other.

pub(crate) mod cpu;
pub(crate) mod guest;
pub(crate) mod host;
mod payload;

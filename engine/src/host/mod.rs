//! The host's side of flows: sockets, and what is done with them.

pub(crate) mod echo;
pub(crate) mod half_open;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod sequence;
pub(crate) mod tcp;
pub(crate) mod udp;

//! What the drivers over this machine's own sockets share: how sockets are made, tuned and numbered, and
//! the kernel's formats of addresses, control messages and errors.

pub(super) mod address;
pub(super) mod control;
pub(super) mod errors;
pub(super) mod options;
pub(super) mod table;

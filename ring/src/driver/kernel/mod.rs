//! What the drivers over this machine's own sockets share: how sockets are made, tuned and numbered, and
//! the kernel's formats of addresses, control messages and errors.

pub(super) mod address;
pub(super) mod control;
pub(super) mod errors;
pub(super) mod options;
pub(super) mod packets;
pub(super) mod table;

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in ns.
pub(super) fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

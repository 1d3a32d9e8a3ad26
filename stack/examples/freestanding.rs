//! Compiles only as long as `towpath-stack` and all that it depends on do without `std`.
//!
//! A program has one panic handler. `std` brings one, so as soon as any crate below this one links
//! `std`, the handler here is one too many and the compiler says so (E0152). That holds for every
//! target, so the proof needs none without `std` installed.
#![no_std]

use core::panic::PanicInfo;

use towpath_stack::wire::checksum::Sum;

/// The use of the crate by which it is linked.
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().add(bytes).checksum()
}

#[panic_handler]
fn stop(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

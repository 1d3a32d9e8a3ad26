//! What is fuzzed: one module per target, each an ordinary function from bytes to a panic or none.
//!
//! | target | what the bytes are | what must hold |
//! |---|---|---|
//! | [`wire`] | a parser's number, then its input | ranges lie inside; what is read is written and read again |
//! | [`frame`] | a frame of a link with offload header | ranges lie inside; what may be reported is |
//! | [`fragments`] | fragments of a few datagrams, and time | bounds; what is whole was sent so |
//! | [`connection`] | segments, time and the engine's calls for one TCP connection | streams, windows, deadlines, the module's invariants |
//! | [`dhcp`] | messages of a few clients, and time | answers can be read and give addresses of the segment |
//! | [`dns`] | a guest's message and a server's | answers have the guest's id and fit |
//! | [`core`](mod@core) | a guest's frames and what host sockets do, in a core without a kernel | streams, frames, buffers, the driver's contract |
//!
//! `cargo fuzz` links a target with libFuzzer; an ordinary build makes a program of it that plays the
//! files it is given, and `cargo test` plays the whole corpus.

pub mod connection;
pub mod core;
pub mod dhcp;
pub mod dns;
pub mod fragments;
pub mod frame;
mod input;
pub mod wire;

use std::path::Path;

#[cfg(any(fuzzing, feature = "libfuzzer"))]
#[doc(hidden)]
pub use libfuzzer_sys;

/// Makes the program of a target.
#[cfg(any(fuzzing, feature = "libfuzzer"))]
#[macro_export]
macro_rules! program {
    ($run:path) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $run(data));
    };
}

/// Makes the program of a target.
#[cfg(not(any(fuzzing, feature = "libfuzzer")))]
#[macro_export]
macro_rules! program {
    ($run:path) => {
        fn main() {
            $crate::play_arguments($run);
        }
    };
}

/// Plays the files and folders that the command line names.
///
/// # Panics
///
/// When one can't be read, or as the target does.
pub fn play_arguments(run: fn(&[u8])) {
    for argument in std::env::args_os().skip(1) {
        let count = play(Path::new(&argument), run);
        println!("{}: {count} played", argument.display());
    }
}

/// Plays a file, or all files of a folder; returns how many.
///
/// # Panics
///
/// When one can't be read, or as the target does.
pub fn play(path: &Path, run: fn(&[u8])) -> usize {
    let fail = |error: std::io::Error| -> ! { panic!("{}: {error}", path.display()) };
    if !path.is_dir() {
        run(&std::fs::read(path).unwrap_or_else(|error| fail(error)));
        return 1;
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| fail(error));
    entries
        .map(|entry| play(&entry.unwrap_or_else(|error| fail(error)).path(), run))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play_corpus(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        let count = play(&folder, run);
        assert!(count >= 5, "the corpus of {target} has {count} files");
    }

    #[test]
    fn corpus_of_wire() {
        play_corpus("wire", wire::run);
    }

    #[test]
    fn corpus_of_frame() {
        play_corpus("frame", frame::run);
    }

    #[test]
    fn corpus_of_fragments() {
        play_corpus("fragments", fragments::run);
    }

    #[test]
    fn corpus_of_connection() {
        play_corpus("connection", connection::run);
    }

    #[test]
    fn corpus_of_dhcp() {
        play_corpus("dhcp", dhcp::run);
    }

    #[test]
    fn corpus_of_dns() {
        play_corpus("dns", dns::run);
    }

    #[test]
    fn corpus_of_core() {
        play_corpus("core", core::run);
    }
}

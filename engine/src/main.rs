//! The `towpath` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Parts of the work are done by this program started again.
    if let Some(status) = towpath::guest::stage(std::env::args_os()) {
        return status;
    }
    towpath::cli::main(std::env::args_os())
}

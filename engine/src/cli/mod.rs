//! The command line: what `towpath` is called with, and what its exit status says.

mod args;
mod argv;
mod attach;
mod demo;
mod logging;
mod run;
mod serve;
mod settings;
mod supervise;
mod value;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::doctor::{self, Verdict};
use crate::guest::Failure;
use args::{Command, Line, Log};
use supervise::Supervision;

/// A wrong option.
const STATUS_USAGE: u8 = 2;
/// Any other failure, except for `run` ([`crate::guest::STATUS_SETUP_FAILED`]).
const STATUS_FAILED: u8 = 1;

/// Does what the command line says. Starts processes of the same program: its `main` must have called
/// [`crate::guest::stage`] before.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = Line::try_parse_from(words(arguments)).unwrap_or_else(|error| error.exit());
    let status = match &line.command {
        Command::Run(arguments) => {
            supervised(&arguments.supervision, arguments.log, |supervision| {
                run::run(arguments, supervision)
            })
        }
        Command::Attach(arguments) => {
            supervised(&arguments.supervision, arguments.log, |supervision| {
                attach::run(arguments, supervision).map_err(ordinary)
            })
        }
        Command::Serve(arguments) => match serve::check_descriptors(&arguments.listen) {
            Ok(()) => supervised(&arguments.supervision, arguments.log, |supervision| {
                serve::run(arguments, supervision).map_err(ordinary)
            }),
            Err(reason) => {
                logging::failure(Some(arguments.log), &reason);
                STATUS_USAGE
            }
        },
        Command::Doctor => doctor(),
        Command::Demo(arguments) => {
            logging::start(arguments.log);
            conclude(arguments.log, demo::run(arguments).map_err(ordinary))
        }
    };
    ExitCode::from(status)
}

/// The words as clap understands them: an optional value joined to its option.
fn words(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let line = Line::command();
    let subcommand = arguments.get(1).and_then(|name| line.find_subcommand(name));
    let takes_value = |option: &str| {
        subcommand.is_some_and(|subcommand| {
            subcommand.get_arguments().any(|argument| {
                let named = match option.strip_prefix("--") {
                    Some(long) => argument.get_long() == Some(long),
                    None => argument
                        .get_short()
                        .is_some_and(|short| option == format!("-{short}")),
                };
                named && argument.get_action().takes_values()
            })
        })
    };
    argv::join_optional_values(arguments, takes_value)
}

/// Takes the supervisor's descriptors over, before anything else opens one, then does the work.
fn supervised(
    arguments: &args::Supervision,
    log: Log,
    work: impl FnOnce(Supervision) -> Result<u8, Failure>,
) -> u8 {
    let supervision = match Supervision::take(arguments) {
        Ok(supervision) => supervision,
        Err(reason) => {
            logging::start(log);
            logging::failure(Some(log), &reason);
            return STATUS_USAGE;
        }
    };
    logging::start(log);
    conclude(log, work(supervision))
}

fn conclude(log: Log, outcome: Result<u8, Failure>) -> u8 {
    outcome.unwrap_or_else(|Failure { status, reason }| {
        logging::failure(Some(log), &reason);
        status
    })
}

/// Only `run` has statuses of its own.
fn ordinary(failure: Failure) -> Failure {
    Failure {
        status: STATUS_FAILED,
        ..failure
    }
}

fn doctor() -> u8 {
    let findings = doctor::examine();
    let mut out = std::io::stdout().lock();
    for finding in &findings {
        // A closed pipe (`| head`) changes nothing about what was found.
        let _ = writeln!(out, "{finding}");
    }
    let missing = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Missing);
    if missing { STATUS_FAILED } else { 0 }
}

//! `towpath-perf`: load generators, and side-by-side runs of user-mode networks.
//!
//! The program is a black box towards the networks that it compares: it links nothing of them,
//! starts them as programs and talks through sockets. `server` and `client` are the load generator;
//! `compare` makes network namespaces, runs each network between them in turn and prints a table.

mod bridge;
mod cases;
mod compare;
mod cpu;
mod describe;
mod facts;
mod failure;
mod json;
mod loadgen;
mod measure;
mod metrics;
mod netns;
mod peers;
mod presence;
mod profile;
mod program;
mod progress;
mod reach;
mod report;
mod results;
mod sandbox;
mod scale;
mod soak;
mod stats;
mod summary;
mod table;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command line.
#[derive(Parser)]
#[command(name = "towpath-perf", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the load generator's server until it is killed
    Server(loadgen::server::Args),
    /// Run one load against a server and print its result as one line of JSON
    Client(loadgen::client::Args),
    /// Run the same loads through several networks in turn and print a table
    Compare(compare::Args),
    /// Make the tables and the page of a comparison again from its results
    Report(report::Args),
    /// Carry frames between a TAP and an engine's socket (started by `compare`)
    #[command(hide = true)]
    Bridge(bridge::Args),
    /// Look where the time of one load goes, and what each frame costs
    Profile(profile::Args),
    /// Run the same loads with one to many engine cores
    Scale(scale::Args),
    /// Run mixed traffic for minutes to hours and check that all it took is given back
    Soak(soak::Args),
    #[command(name = "on-processors", hide = true)]
    OnProcessors(scale::processors::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Server(args) => loadgen::server::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Client(args) => loadgen::client::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Bridge(args) => bridge::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Profile(args) => profile::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::OnProcessors(args) => {
            scale::processors::become_program(&args).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|failure| {
        eprintln!("towpath-perf: {failure}");
        ExitCode::FAILURE
    })
}

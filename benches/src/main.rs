//! `towpath-replay`: plays what a guest sent, from a pcap file, through a whole core without a
//! kernel, and prints what it cost as one line of JSON.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use towpath_benches::replay::{Recording, Replay, Report, replay_frames};

/// Plays a guest's recorded frames through a core, without a kernel.
#[derive(Parser)]
#[command(name = "towpath-replay", version, about, max_term_width = 100)]
struct Cli {
    /// What was recorded on the guest's interface, both directions
    #[arg(value_name = "FILE.pcap")]
    file: PathBuf,
    /// How often it is played, each time by a new core; the median time is told
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(report) => {
            println!("{report}");
            if report.is_true() {
                return ExitCode::SUCCESS;
            }
            eprintln!(
                "towpath-replay: {} of {} frames went another way than when they were recorded, so \
                 the figures mean little; 'drops' says why",
                report.faults, report.frames_in
            );
        }
        Err(error) => eprintln!("towpath-replay: {error}"),
    }
    ExitCode::FAILURE
}

fn run(cli: &Cli) -> Result<Report, String> {
    let of_file = |error: &dyn std::fmt::Display| format!("{}: {error}", cli.file.display());
    let file = std::fs::read(&cli.file).map_err(|error| of_file(&error))?;
    let recording = Recording::read(&file).map_err(|error| of_file(&error))?;
    let mut reports = Vec::new();
    for _ in 0..cli.repeat {
        let mut replay = Replay::new(&recording).map_err(|error| error.to_string())?;
        let started = Instant::now();
        replay_frames(&mut replay).map_err(|error| of_file(&error))?;
        reports.push(replay.report(started.elapsed()));
    }
    reports.sort_by(|a, b| a.nanoseconds_per_frame.total_cmp(&b.nanoseconds_per_frame));
    Ok(reports.swap_remove(reports.len() / 2))
}

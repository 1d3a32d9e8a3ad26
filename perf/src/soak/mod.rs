//! `soak`: minutes to hours of mixed traffic through one engine, and whether it gives back all that
//! it took.
//!
//! ```text
//!  fresh ── warm-up ── rest ── load … load … load ── settle ── verdict
//!    └ base of descriptors,     └ base of memory         └ until all is back, or time is up
//!      sockets, threads
//! ```
//!
//! Ctrl-C ends the load early; settling and verdict follow. A second one ends the program.

mod load;
mod sample;
mod verdict;

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use self::load::{Count, Tally};
use self::sample::Holdings;
use self::verdict::Base;
use crate::facts::Facts;
use crate::failure::{Context, Failure, Outcome};
use crate::json;
use crate::loadgen::parse_seconds;
use crate::peers::{self, Peer, Role};
use crate::sandbox::{self, Users};
use crate::world::World;

/// Length of a load in the warm-up: each load has its turn.
const WARM_UP_LOAD: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(5);
/// Rest between warm-up and load.
const REST: Duration = Duration::from_secs(3);
/// Length of a load in the soak.
const LOAD: Duration = Duration::from_secs(5);
/// How long towpath is told to keep a UDP mapping without traffic, so that settling is short.
const UDP_TIMEOUT: &str = "30s";
/// The hidden option that tells the inner process from the outer one.
const INSIDE: &str = "--inside";

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// Options of `soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Length of the load
    #[arg(long, default_value = "3", value_parser = parse_minutes)]
    minutes: Duration,
    /// The network to soak
    #[arg(long, value_parser = PossibleValuesParser::new(peers::KNOWN), default_value = "towpath")]
    peer: String,
    /// MTU of the guest's link, in bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65_520))]
    mtu: u32,
    /// Seconds between two samples
    #[arg(long, default_value = "5", value_parser = parse_seconds)]
    every: Duration,
    /// Longest time that all may take to return once the load has ended: above the longest timeout
    /// of a flow
    #[arg(long, value_name = "SECONDS", default_value = "200", value_parser = parse_seconds)]
    settle: Duration,
    /// TCP congestion control at guest and host
    #[arg(long, value_name = "NAME", default_value = "reno")]
    congestion: String,
    /// The towpath program [default: the one beside this program, else the one on the path]
    #[arg(long, value_name = "PATH")]
    towpath: Option<PathBuf>,
    /// Where to write soak.json
    #[arg(long, value_name = "DIR", default_value = "target/perf/soak")]
    out: PathBuf,
    #[arg(long, hide = true)]
    inside: bool,
}

/// A soak, as it is written to `soak.json`.
#[derive(Debug, Serialize)]
struct Soak {
    facts: Facts,
    peer: String,
    mtu: u32,
    /// How long the load was to be.
    seconds: f64,
    /// Whether it was ended before that.
    interrupted: bool,
    series: Vec<Sample>,
    loads: BTreeMap<&'static str, Count>,
    /// What went wrong, a sentence each; empty when all is well.
    wrong: Vec<String>,
}

/// The engine at one moment.
#[derive(Debug, Serialize)]
struct Sample {
    /// Since the engine was ready.
    at_s: f64,
    phase: Phase,
    #[serde(flatten)]
    holdings: Holdings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    Fresh,
    WarmUp,
    Rest,
    Load,
    Settle,
}

/// Runs the soak. The exit code says whether everything returned to its base and no load failed.
///
/// # Errors
/// The engine does not start, or ended.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    let interrupt = SigSet::from(Signal::SIGINT);
    // Before any other thread, so that all of them leave it to the one that waits for it.
    interrupt.thread_block().doing("hold Ctrl-C back")?;
    if !args.inside {
        return sandbox::run_inside(INSIDE, Users::Own);
    }
    sandbox::enter()?;
    thread::spawn(move || watch_for_interrupts(&interrupt));
    fs::create_dir_all(&args.out).doing(format_args!("make {}", args.out.display()))?;
    let mut soaking = Soaking::start(args)?;
    let soak = soaking.through()?;
    let path = args.out.join("soak.json");
    json::write(&path, &soak)?;
    print!("{}", soak.to_text());
    println!("All samples are in {}", path.display());
    Ok(if soak.wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn watch_for_interrupts(interrupt: &SigSet) {
    while interrupt.wait().is_ok() {
        if STOP.swap(true, Ordering::Relaxed) {
            // Everything that runs here goes with this process, the first of its namespace.
            std::process::exit(130);
        }
        eprintln!("\nThe load ends now, then all may settle; once more to leave at once.");
    }
}

/// A soak under way.
struct Soaking<'a> {
    args: &'a Args,
    world: World,
    engine: u32,
    began: Instant,
    series: Vec<Sample>,
    tally: Tally,
}

impl Soaking<'_> {
    fn start(args: &Args) -> Outcome<Soaking<'_>> {
        let towpath = args.towpath.clone().unwrap_or_else(peers::default_towpath);
        let name = &args.peer;
        let mut peer = Peer::known(name, &towpath)
            .ok_or_else(|| Failure::new(format!("no peer is named {name}")))?;
        if peer.role == Role::Subject {
            peer.command
                .extend(["--udp-timeout", UDP_TIMEOUT].map(str::to_owned));
        }
        let world = World::build(&peer, args.mtu, &args.congestion)?;
        let engine = world.engine().ok_or_else(|| {
            Failure::new(format!("{name} has no process that could hold anything"))
        })?;
        Ok(Soaking {
            args,
            world,
            engine,
            began: Instant::now(),
            series: Vec::new(),
            tally: Tally::default(),
        })
    }

    fn through(&mut self) -> Outcome<Soak> {
        let fresh = self.sample(Phase::Fresh)?;
        self.load(Phase::WarmUp, WARM_UP, WARM_UP_LOAD)?;
        thread::sleep(REST);
        let warm = self.sample(Phase::Rest)?;
        let base = Base { fresh, warm };
        self.load(Phase::Load, self.args.minutes, LOAD)?;
        let mut wrong = self.settle(&base)?;
        let loads = self.tally.counts();
        wrong.extend(loads.iter().filter_map(|(load, count)| {
            let Count {
                runs,
                failed,
                failure,
            } = count;
            let why = failure.as_ref()?;
            Some(format!(
                "{load}: {failed} of {runs} runs failed, the first with: {why}"
            ))
        }));
        Ok(Soak {
            facts: Facts::gather(&self.args.congestion),
            peer: self.args.peer.clone(),
            mtu: self.args.mtu,
            seconds: self.args.minutes.as_secs_f64(),
            interrupted: STOP.load(Ordering::Relaxed),
            series: std::mem::take(&mut self.series),
            loads,
            wrong,
        })
    }

    /// Runs the mix and takes samples meanwhile.
    fn load(&mut self, phase: Phase, length: Duration, each: Duration) -> Outcome<()> {
        let (every, began, engine) = (self.args.every, Instant::now(), self.engine);
        let (world, tally, series) = (&self.world, &self.tally, &mut self.series);
        let mut next = Instant::now() + every;
        let mut failed = Ok(());
        load::run(world, length, each, tally, &STOP, || {
            if Instant::now() < next || failed.is_err() {
                return;
            }
            next += every;
            match Holdings::of(engine, world.host()) {
                // It has ended: no use in an hour of failing loads.
                Ok(holdings) if holdings.memory_bytes == 0 => STOP.store(true, Ordering::Relaxed),
                Ok(holdings) => {
                    let at_s = self.began.elapsed().as_secs_f64();
                    series.push(Sample {
                        at_s,
                        phase,
                        holdings,
                    });
                    progress(began.elapsed(), length, phase, &holdings, tally);
                }
                Err(failure) => failed = Err(failure),
            }
        });
        self.world.check_alive()?;
        failed
    }

    /// Waits until all is back; what is not back in time is told.
    fn settle(&mut self, base: &Base) -> Outcome<Vec<String>> {
        let began = Instant::now();
        loop {
            let holdings = self.sample(Phase::Settle)?;
            let after = began.elapsed();
            progress(
                after,
                self.args.settle,
                Phase::Settle,
                &holdings,
                &self.tally,
            );
            let wrong = base.not_returned(&holdings, after);
            if wrong.is_empty() || after >= self.args.settle {
                return Ok(wrong);
            }
            thread::sleep(self.args.every.min(self.args.settle - after));
        }
    }

    fn sample(&mut self, phase: Phase) -> Outcome<Holdings> {
        self.world.check_alive()?;
        let holdings = Holdings::of(self.engine, self.world.host())?;
        let at_s = self.began.elapsed().as_secs_f64();
        self.series.push(Sample {
            at_s,
            phase,
            holdings,
        });
        Ok(holdings)
    }
}

/// One line that moves on a terminal; elsewhere one line per sample.
fn progress(at: Duration, of: Duration, phase: Phase, holdings: &Holdings, tally: &Tally) {
    let counts = tally.counts();
    let runs: u64 = counts.values().map(|count| count.runs).sum();
    let failed: u64 = counts.values().map(|count| count.failed).sum();
    let phase = match phase {
        Phase::WarmUp => "warm-up",
        Phase::Settle => "settling",
        Phase::Fresh | Phase::Rest | Phase::Load => "load",
    };
    let (at, of) = (at.as_secs(), of.as_secs());
    let line = format!(
        "{phase} {at}/{of} s: {runs} runs, {failed} failed; {}",
        holdings.in_words()
    );
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    } else {
        eprintln!("{line}");
    }
}

impl Soak {
    fn to_text(&self) -> String {
        let facts = self.facts.line();
        let (peer, mtu) = (&self.peer, self.mtu);
        let mut text = format!(
            "\n{facts}\n\
             {peer}, MTU {mtu}, {} s of load{}\n",
            self.seconds,
            if self.interrupted {
                ", ended early by Ctrl-C"
            } else {
                ""
            },
        );
        let runs: u64 = self.loads.values().map(|count| count.runs).sum();
        text += &format!("{runs} loads ran: ");
        let loads: Vec<String> = self
            .loads
            .iter()
            .map(|(load, count)| format!("{} × {load}", count.runs))
            .collect();
        text += &loads.join(", ");
        text += "\n";
        for (phase, name) in [
            (Phase::Fresh, "before any load"),
            (Phase::Rest, "after the warm-up"),
            (Phase::Load, "most under load"),
            (Phase::Settle, "at the end"),
        ] {
            let all = self.series.iter().filter(|sample| sample.phase == phase);
            let holdings = if phase == Phase::Load {
                all.map(|sample| sample.holdings).reduce(Holdings::most)
            } else {
                all.map(|sample| sample.holdings).next_back()
            };
            if let Some(holdings) = holdings {
                text += &format!("{name:>18}: {}\n", holdings.in_words());
            }
        }
        text += &verdict::rule();
        text += "\n";
        for sentence in &self.wrong {
            text += &format!("FAILED: {sentence}\n");
        }
        if self.wrong.is_empty() {
            text += "All returned to its base.\n";
        }
        text
    }
}

/// Parses a positive number of minutes, such as `3` or `0.5`, of at most a week.
fn parse_minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text
        .parse()
        .map_err(|_| "not a number of minutes".to_owned())?;
    if minutes > 0.0 && minutes <= 10_080.0 {
        Ok(Duration::from_secs_f64(minutes * 60.0))
    } else {
        Err("must be above 0 and at most 10080 minutes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_bounded() {
        assert_eq!(parse_minutes("0.5"), Ok(Duration::from_secs(30)));
        for bad in ["0", "-1", "nan", "10081", "x"] {
            assert!(parse_minutes(bad).is_err(), "{bad}");
        }
    }
}

//! `scale`: the same loads with 1 to N engine cores, and how much more each core brings.
//!
//! Where the machine has enough processors, the engine and both ends of the load keep to their own.
//! Where it has not, they take processors from one another, and the figures say how the machine is
//! shared rather than how the engine scales; then the output says so first.

mod lanes;
pub(crate) mod processors;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use self::lanes::Lanes;
use self::processors::Parts;
use crate::cases::{self, Case};
use crate::cpu::processes_of_tree;
use crate::facts::Facts;
use crate::failure::{Context, Failure, Outcome};
use crate::json;
use crate::loadgen::parse_seconds;
use crate::measure::Settings;
use crate::metrics::{Better, work};
use crate::peers::{self, Peer};
use crate::profile::perf::{self, Perf};
use crate::results::{Receivers, Sample};
use crate::sandbox::{self, Users};
use crate::stats::Spread;
use crate::table::{Align, Table, number};
use crate::world::World;

/// The hidden option that tells the inner process from the outer one.
const INSIDE: &str = "--inside";

/// Options of `scale`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Most engine cores [default: as many as there are processors, at most 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=128))]
    cores: Option<u32>,
    /// Loads to run
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = cases::parser(),
        default_value = "tcp-up-8,tcp-down-8,tcp-connect"
    )]
    cases: Vec<&'static Case>,
    /// MTU of the guest's link, in bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65_520))]
    mtu: u32,
    /// Runs of each number of cores in each case
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each load
    #[arg(long, default_value = "3", value_parser = parse_seconds)]
    seconds: Duration,
    /// TCP congestion control at guest and host
    #[arg(long, value_name = "NAME", default_value = "reno")]
    congestion: String,
    /// The towpath program [default: the one beside this program, else the one on the path]
    #[arg(long, value_name = "PATH")]
    towpath: Option<PathBuf>,
    /// Where to write scale.json
    #[arg(long, value_name = "DIR", default_value = "target/perf/scale")]
    out: PathBuf,
    #[arg(long, hide = true)]
    inside: bool,
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct Scaling {
    facts: Facts,
    mtu: u32,
    rounds: u32,
    seconds: f64,
    /// Whether engine and generator had processors of their own in every run.
    apart: bool,
    rows: Vec<Row>,
}

/// One case with one number of cores, over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    case: String,
    cores: usize,
    engine_processors: Vec<usize>,
    generator_processors: Vec<usize>,
    unit: String,
    better: Better,
    result: Spread,
    /// How many times as good as one core; above 1 is better for every unit.
    speed_up: f64,
    cost_unit: Option<String>,
    engine_cost: Option<Spread>,
    lanes: Lanes,
    /// Share of the engine's samples in functions of the lanes, at least; `None` with one core, or
    /// where nothing can be sampled.
    lane_samples: Option<f64>,
}

/// One run.
struct Run {
    value: f64,
    unit: String,
    better: Better,
    cost: Option<f64>,
    cost_unit: Option<&'static str>,
    lanes: Lanes,
}

/// Runs every case with every number of cores.
///
/// # Errors
/// A run failed: the numbers of the others would not say what they seem to.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    if !args.inside {
        return sandbox::run_inside(INSIDE, Users::Machine);
    }
    sandbox::enter()?;
    fs::create_dir_all(&args.out).doing(format_args!("make {}", args.out.display()))?;
    let all = processors::allowed()?;
    let most = args.cores.map_or(all.len().min(8), |cores| cores as usize);
    let towpath = args.towpath.clone().unwrap_or_else(peers::default_towpath);
    let parts: Vec<Parts> = (1..=most).map(|cores| Parts::of(&all, cores)).collect();
    let mut scaling = Scaling {
        facts: Facts::gather(&args.congestion),
        mtu: args.mtu,
        rounds: args.rounds,
        seconds: args.seconds.as_secs_f64(),
        apart: parts.iter().all(Parts::are_apart),
        rows: Vec::new(),
    };
    for case in &args.cases {
        scaling.rows.extend(rows(args, case, &parts, &towpath)?);
    }
    let path = args.out.join("scale.json");
    json::write(&path, &scaling)?;
    print!("{}", scaling.to_text(&all));
    println!("\nAll numbers are in {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// One case: all numbers of cores in turn, round after round.
fn rows(args: &Args, case: &Case, parts: &[Parts], towpath: &Path) -> Outcome<Vec<Row>> {
    let mut runs: Vec<Vec<Run>> = parts.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        for (index, parts) in parts.iter().enumerate() {
            let run = one(args, case, index + 1, parts, towpath)?;
            let (name, value) = (case.name, number(run.value));
            eprintln!(
                "{name} round {round} cores {}: {value} {}",
                index + 1,
                run.unit
            );
            runs[index].push(run);
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for (index, (runs, parts)) in runs.iter().zip(parts).enumerate() {
        let Some((first, result)) = runs
            .first()
            .zip(Spread::of(runs.iter().map(|run| run.value)))
        else {
            continue;
        };
        let base = rows.first().map_or(result.median, |row| row.result.median);
        let lane_samples = if index == 0 {
            None
        } else {
            let sampled = lane_samples(args, case, index + 1, parts, towpath);
            sampled.unwrap_or_else(|failure| {
                eprintln!("share of samples in lanes: {failure}");
                None
            })
        };
        rows.push(Row {
            case: case.name.to_owned(),
            cores: index + 1,
            engine_processors: parts.engine.clone(),
            generator_processors: parts.generator.clone(),
            unit: first.unit.clone(),
            better: first.better,
            result,
            speed_up: match first.better {
                Better::More => result.median / base,
                Better::Less => base / result.median,
            },
            cost_unit: first.cost_unit.map(str::to_owned),
            engine_cost: Spread::of(runs.iter().filter_map(|run| run.cost)),
            lanes: runs
                .iter()
                .fold(Lanes::default(), |sum, run| sum.plus(run.lanes)),
            lane_samples,
        });
    }
    Ok(rows)
}

/// A world whose engine has this many cores, each side on its processors.
fn build(args: &Args, cores: usize, parts: &Parts, towpath: &Path) -> Outcome<World> {
    let mut peer = Peer::known("towpath", towpath).expect("the harness knows its own engine");
    let more = ["-v", "--cores", &cores.to_string()].map(str::to_owned);
    peer.command = processors::on(
        &parts.engine,
        peer.command.into_iter().chain(more).collect(),
    );
    processors::stay_on(&parts.generator)?;
    World::build(&peer, args.mtu, &args.congestion)
}

fn one(args: &Args, case: &Case, cores: usize, parts: &Parts, towpath: &Path) -> Outcome<Run> {
    let mut world = build(args, cores, parts, towpath)?;
    let sample = load(args, case, &mut world)?;
    let lanes = Lanes::parse(&world.stop_engine()?)?;
    let name = case.name;
    let first = sample.metrics.into_iter().next();
    let first = first.ok_or_else(|| Failure::new(format!("{name} has no number to compare")))?;
    let work = work(&sample.client);
    Ok(Run {
        value: first.value,
        unit: first.unit,
        better: first.better,
        cost: work.and_then(|work| work.cost(sample.cpu.engine_s?)),
        cost_unit: work.map(|work| work.cost_unit()),
        lanes,
    })
}

fn load(args: &Args, case: &Case, world: &mut World) -> Outcome<Sample> {
    let settings = Settings {
        duration: args.seconds,
        congestion: args.congestion.clone(),
        receivers: Receivers::Discard,
        other_load_max: 1.0,
        attempts_max: 1,
    };
    settings.sample(world, case)
}

/// One more run, with the engine's stacks sampled.
fn lane_samples(
    args: &Args,
    case: &Case,
    cores: usize,
    parts: &Parts,
    towpath: &Path,
) -> Outcome<Option<f64>> {
    let event = perf::clock()?;
    let mut world = build(args, cores, parts, towpath)?;
    let pids = world.engine().map(processes_of_tree).unwrap_or_default();
    let data = Path::new(sandbox::DIRECTORY).join("lanes.data");
    let path = data.to_string_lossy();
    let mut perf = Perf::start(
        "record",
        &pids,
        &["-F", "997", "-e", event, "-g", "-o", &path],
    )?;
    perf.enable()?;
    load(args, case, &mut world)?;
    perf.disable()?;
    perf.finish()?;
    let script = perf::script(&data, "ip,sym")?;
    Ok(lanes::share_of_samples(&String::from_utf8_lossy(&script)))
}

impl Scaling {
    fn to_text(&self, all: &[usize]) -> String {
        let facts = self.facts.line();
        let mut text = format!(
            "{facts}\n\
             MTU {}, rounds {}, {} s a load; median and range\n",
            self.mtu, self.rounds, self.seconds
        );
        if !self.apart {
            let _ = writeln!(
                text,
                "\nNOT A MEASUREMENT OF SCALING: with {} processors the engine and both ends of \
                 the load\nshare them in some or all runs, so more engine cores take time from the \
                 load that feeds\nthem. See which runs in the column of processors.",
                all.len()
            );
        }
        for group in self.rows.chunk_by(|one, next| one.case == next.case) {
            let _ = write!(text, "\n{}", group_text(group));
        }
        text
    }
}

fn group_text(rows: &[Row]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let right = |name: String| (name, Align::Right);
    let cost_unit = first.cost_unit.as_deref().unwrap_or_default();
    let mut table = Table::new([
        right("cores".to_owned()),
        right(first.unit.clone()),
        right("min–max".to_owned()),
        right("speed-up".to_owned()),
        right(format!("engine CPU {cost_unit}")),
        right("frames over lanes".to_owned()),
        right("time in lanes".to_owned()),
        ("processors: engine | load".to_owned(), Align::Left),
    ]);
    for row in rows {
        let percent = |share: f64| format!("{} %", number(share * 100.0));
        let shared = row.engine_processors == row.generator_processors;
        table.row([
            row.cores.to_string(),
            number(row.result.median),
            format!("{}–{}", number(row.result.min), number(row.result.max)),
            number(row.speed_up),
            row.engine_cost
                .map_or_else(|| "–".to_owned(), |cost| number(cost.median)),
            percent(row.lanes.share()),
            row.lane_samples
                .map_or_else(|| "–".to_owned(), |share| format!("≥ {}", percent(share))),
            if shared {
                "shared".to_owned()
            } else {
                format!(
                    "{:?} | {:?}",
                    row.engine_processors, row.generator_processors
                )
            },
        ]);
    }
    let mut text = format!("{}\n{table}", first.case);
    let dropped: u64 = rows.iter().map(|row| row.lanes.dropped).sum();
    if dropped > 0 {
        let _ = writeln!(
            text,
            "  {dropped} frames were dropped because a lane was full"
        );
    }
    text
}

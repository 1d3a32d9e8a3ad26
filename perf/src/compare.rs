//! `compare`: every case at every MTU through every peer, in turn.
//!
//! Noise on a machine comes in phases, so the peers of one case run right after one another (A B C
//! A B C), and medians are compared within that group only. Every run starts from nothing: new
//! namespaces, a new server, a new engine. What else the machine does is measured just before and
//! during each run and stands beside its result.

use std::collections::HashSet;
use std::fs;
use std::hash::Hash;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;

use crate::cases::{self, Case, Mtus};
use crate::facts::Facts;
use crate::failure::{Context, Failure, Outcome};
use crate::loadgen::parse_seconds;
use crate::measure::Settings;
use crate::peers::{self, Peer};
use crate::presence::Presence;
use crate::progress::Progress;
use crate::reach;
use crate::report::{self, Changes, to_html, to_text};
use crate::results::{End, Receivers, Report};
use crate::sandbox::{self, Users};
use crate::summary::to_json;

/// What a run takes beside its load, about: watching, starting, waiting for the tail.
const OVERHEAD: Duration = Duration::from_millis(800);
/// The hidden option that tells the inner process from the outer one.
const INSIDE: &str = "--inside";

/// Options of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Networks to compare, and limits to show beside them
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(peers::KNOWN),
        default_value = "towpath,towpath-qemu,towpath-vpnkit,pasta,passt,slirp4netns,veth,veth-no-offload,loopback"
    )]
    peers: Vec<String>,
    /// One more network, by description; may be given several times. See perf/README.md
    #[arg(
        long,
        value_name = "name=NAME,kind=netns|qemu|vpnkit|vhost-user,cmd=PROGRAM … {sock} {mtu} {netns}"
    )]
    peer: Vec<Peer>,
    /// Loads to run [default: those that show most, in some 20 minutes]
    #[arg(long, value_delimiter = ',', value_parser = cases::parser())]
    cases: Vec<&'static Case>,
    /// Some two minutes: fewer cases, one round of one second, MTU 1500
    #[arg(long)]
    quick: bool,
    /// MTUs of the guest's link, in bytes; cases with small packets run at the first alone
    /// [default: 1500,65520]
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(576..=65_520)
    )]
    mtu: Vec<u32>,
    /// Runs of each peer in each case [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Length of each load [default: 2]
    #[arg(long, value_parser = parse_seconds)]
    seconds: Option<Duration>,
    /// Have the receivers of bulk streams copy the bytes, where else the kernel throws them away
    #[arg(long)]
    copy: bool,
    /// Have the receivers of bulk streams check each byte; a changed one is a failed run
    #[arg(long, conflicts_with = "copy")]
    verify: bool,
    /// Share of the machine in percent; a run during which others used more is made again
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(0..=100)
    )]
    other_load: u32,
    /// How often a run is made at most because others used the machine
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// TCP congestion control at guest and host, for engines' sockets as well
    #[arg(long, value_name = "NAME", default_value = "reno")]
    congestion: String,
    /// The towpath program [default: the one beside this program, else the one on the path]
    #[arg(long, value_name = "PATH")]
    towpath: Option<PathBuf>,
    /// The results.json of an earlier comparison: shows what changed, and what of it is beyond the
    /// noise
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Where to write results.json, report.html and table.txt
    #[arg(long, value_name = "DIR", default_value = "target/perf")]
    out: PathBuf,
    #[arg(long, hide = true)]
    inside: bool,
}

/// Runs the comparison. The exit code says whether every run of every present peer was measured.
///
/// # Errors
/// The namespaces or the result files cannot be made.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    if !args.inside {
        return sandbox::run_inside(INSIDE, Users::Own);
    }
    sandbox::enter()?;
    check_congestion(&args.congestion)?;
    // Before anything runs: a mistake in the name is to be told at once.
    let old = args.against.as_deref().map(report::read).transpose()?;
    let plan = Plan::new(args)?;
    fs::create_dir_all(&args.out).doing(format_args!("make {}", args.out.display()))?;
    let settings = args.settings();
    let mut report = Report {
        facts: Facts::gather(&args.congestion),
        rounds: plan.rounds,
        seconds: settings.duration.as_secs_f64(),
        receivers: settings.receivers,
        generator: Vec::new(),
        peers: plan.peers.iter().map(Presence::of).collect(),
        runs: Vec::new(),
    };
    let here = report.peers.iter().map(|one| one.missing.is_none());
    let present = plan.peers.iter().zip(here);
    let present: Vec<&Peer> = present
        .filter_map(|(peer, here)| here.then_some(peer))
        .collect();
    let jobs = jobs(&plan, &present);
    let mut progress = Progress::new(jobs.len(), settings.duration + OVERHEAD);
    progress.says("measuring the load generator by itself");
    report.generator = reach::measure(&settings)?;
    for &(mtu, case, round, peer) in &jobs {
        let (case_name, peer_name) = (case.name, &peer.name);
        progress.begins(&format!("{case_name} MTU {mtu} round {round} {peer_name}"));
        let run = settings.run(peer, mtu, case, round);
        progress.ended(&run);
        report.runs.push(run);
        // What has been measured is kept when a long comparison is broken off.
        write(args, &report, old.as_ref())?;
    }
    print!("{}", to_text(&report));
    if let Some(old) = &old {
        print!("{}", Changes::between(old, &report).to_text());
    }
    println!(
        "\nAll numbers are in {}; plots are in {}",
        args.out.join("results.json").display(),
        args.out.join("report.html").display()
    );
    let failed = report
        .runs
        .iter()
        .any(|run| matches!(run.end, End::Failed(_)));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl Args {
    fn settings(&self) -> Settings {
        Settings {
            duration: self
                .seconds
                .unwrap_or(Duration::from_secs(if self.quick { 1 } else { 2 })),
            congestion: self.congestion.clone(),
            receivers: match (self.copy, self.verify) {
                (_, true) => Receivers::Verify,
                (true, false) => Receivers::Copy,
                (false, false) => Receivers::Discard,
            },
            other_load_max: f64::from(self.other_load) / 100.0,
            attempts_max: self.attempts,
        }
    }
}

/// Fails, with the names that would do, when the kernel has no such congestion control.
fn check_congestion(name: &str) -> Outcome<()> {
    let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let available = fs::read_to_string(path).doing(format_args!("read {path}"))?;
    if available.split_whitespace().any(|one| one == name) {
        return Ok(());
    }
    let available = available.trim();
    Err(Failure::new(format!(
        "--congestion {name:?}: this kernel has no such congestion control, only: {available}"
    )))
}

/// MTU, case, round and peer of a run.
type Job<'a> = (u32, &'static Case, u32, &'a Peer);

/// All runs in their order: the peers of one case right after one another.
fn jobs<'a>(plan: &Plan, present: &[&'a Peer]) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    for (index, &mtu) in plan.mtus.iter().enumerate() {
        let cases = plan.cases.iter();
        for &case in cases.filter(|case| index == 0 || case.mtus == Mtus::Each) {
            for round in 1..=plan.rounds {
                // A limit has no process whose memory could be watched.
                let runs = present
                    .iter()
                    .filter(|peer| !case.watches_memory() || !peer.is_limit())
                    .filter(|peer| mtu <= peer.mtu_max);
                jobs.extend(runs.map(|&peer| (mtu, case, round, peer)));
            }
        }
    }
    jobs
}

/// What is to run, without doubles.
struct Plan {
    peers: Vec<Peer>,
    cases: Vec<&'static Case>,
    mtus: Vec<u32>,
    rounds: u32,
}

impl Plan {
    fn new(args: &Args) -> Outcome<Plan> {
        let towpath = args.towpath.clone().unwrap_or_else(peers::default_towpath);
        let names = once_each(args.peers.iter().map(|name| (name, name)));
        let known = names
            .into_iter()
            .filter_map(|name| Peer::known(name, &towpath));
        let cases = match args.cases.as_slice() {
            [] => cases::unnamed(args.quick),
            named => named.to_vec(),
        };
        let mtus = match (args.mtu.as_slice(), args.quick) {
            ([], false) => &[1500, 65_520][..],
            ([], true) => &[1500],
            (asked, _) => asked,
        };
        let peers: Vec<Peer> = known.chain(args.peer.iter().cloned()).collect();
        let mut names = HashSet::new();
        if let Some(twice) = peers.iter().find(|peer| !names.insert(&peer.name)) {
            let name = &twice.name;
            return Err(Failure::new(format!(
                "--peer: there are two peers with the name {name}"
            )));
        }
        Ok(Plan {
            peers,
            cases: once_each(cases.into_iter().map(|case| (case.name, case))),
            mtus: once_each(mtus.iter().map(|mtu| (*mtu, *mtu))),
            rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }),
        })
    }
}

fn write(args: &Args, report: &Report, old: Option<&Report>) -> Outcome<()> {
    let changes = old.map(|old| Changes::between(old, report));
    for (name, text) in [
        ("results.json", to_json(report).doing("write the results")?),
        ("table.txt", to_text(report)),
        ("report.html", to_html(report, changes.as_ref())?),
    ] {
        let path = args.out.join(name);
        fs::write(&path, text).doing(format_args!("write {}", path.display()))?;
    }
    Ok(())
}

/// The values in their order, without those whose key came before.
fn once_each<K: Eq + Hash, V>(values: impl Iterator<Item = (K, V)>) -> Vec<V> {
    let mut seen = HashSet::new();
    values
        .filter_map(|(key, value)| seen.insert(key).then_some(value))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Cli::try_parse_from([&["compare"], words].concat()).map(|cli| cli.args)
    }

    #[test]
    fn the_defaults_compare_everything_at_both_mtus() {
        let args = parse(&[]).unwrap();
        assert!(!args.inside);
        let plan = Plan::new(&args).unwrap();
        assert_eq!((plan.peers.len(), plan.rounds), (9, 3));
        assert_eq!(plan.mtus, [1500, 65_520]);
        assert_eq!(plan.cases, cases::unnamed(false));
    }

    #[test]
    fn quick_is_less_of_everything_and_what_is_said_goes_first() {
        let plan = Plan::new(&parse(&["--quick"]).unwrap()).unwrap();
        assert_eq!((plan.rounds, &*plan.mtus), (1, &[1500][..]));
        assert_eq!(plan.cases, cases::unnamed(true));
        let plan =
            Plan::new(&parse(&["--quick", "--rounds", "2", "--mtu", "9000"]).unwrap()).unwrap();
        assert_eq!((plan.rounds, &*plan.mtus), (2, &[9000][..]));
    }

    #[test]
    fn two_peers_of_one_name_are_refused() {
        let peer = "name=a,kind=netns,cmd=p {netns}";
        let args = parse(&["--peer", peer, "--peer", peer]).unwrap();
        assert!(Plan::new(&args).is_err_and(|why| why.to_string().contains("the name a")));
    }

    #[test]
    fn lists_are_taken_apart_and_bad_words_refused() {
        let args = parse(&[
            "--peers",
            "pasta,veth",
            "--cases",
            "tcp-up-8",
            "--mtu",
            "9000",
        ])
        .unwrap();
        assert_eq!(args.peers, ["pasta", "veth"]);
        assert_eq!(args.cases, [Case::named("tcp-up-8").unwrap()]);
        assert_eq!(args.mtu, [9000]);
        for bad in [
            ["--peers", "bridge"],
            ["--mtu", "70000"],
            ["--rounds", "0"],
            ["--seconds", "0"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn peers_take_turns_and_limits_have_no_memory_to_watch() {
        let args = parse(&[
            "--cases",
            "tcp-up,tcp-idle",
            "--peers",
            "pasta,veth,pasta",
            "--mtu",
            "1500,9000",
            "--rounds",
            "2",
        ]);
        let plan = Plan::new(&args.unwrap()).unwrap();
        let present: Vec<&Peer> = plan.peers.iter().collect();
        let jobs = jobs(&plan, &present);
        assert!(
            jobs[6..]
                .iter()
                .all(|(mtu, case, ..)| (*mtu, case.name) == (9000, "tcp-up"))
        );
        let names = jobs[..6]
            .iter()
            .map(|(_, case, round, peer)| (case.name, *round, &*peer.name));
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                ("tcp-up", 1, "pasta"),
                ("tcp-up", 1, "veth"),
                ("tcp-up", 2, "pasta"),
                ("tcp-up", 2, "veth"),
                ("tcp-idle", 1, "pasta"),
                ("tcp-idle", 2, "pasta"),
            ]
        );
    }

    #[test]
    fn doubles_are_dropped_and_the_order_stays() {
        assert_eq!(
            once_each([(2, 'a'), (1, 'b'), (2, 'c')].into_iter()),
            ['a', 'b']
        );
    }
}

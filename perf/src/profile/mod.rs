//! `profile`: where the time of one case goes, and what each frame costs.
//!
//! The case runs several times, because each way of looking disturbs what it looks at: once alone,
//! once under `perf record` for the flame graphs, once with every system call recorded, once with the
//! allocations counted, once with the frames kept. The frames are then played through the engine's
//! core under callgrind. What cannot be had on a machine is named in one sentence, and the rest
//! goes on.
//!
//! As root the whole takes place without a user namespace, unlike a comparison: nobody inside one
//! may look at the kernel's part of a profile.

mod allocations;
mod calls;
mod flame;
mod pcap;
pub(crate) mod perf;
mod replay;
mod summary;
mod threads;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;

use self::calls::Calls;
use self::pcap::Recorder;
use self::perf::Perf;
use self::replay::Replay;
use self::summary::{Found, Profile, Samples, Window};
use self::threads::{Frames, Switches};
use crate::cases::{self, Case};
use crate::cpu::processes_of_tree;
use crate::facts::Facts;
use crate::failure::{Context, Failure, Outcome};
use crate::json;
use crate::loadgen::parse_seconds;
use crate::measure::Settings;
use crate::peers::{self, Peer, Role};
use crate::presence::Presence;
use crate::results::Receivers;
use crate::sandbox::{self, Users};
use crate::world::World;

/// Samples of each thread per second: a prime, so that nothing beats in time with it.
const FREQUENCY: &str = "997";
/// The hidden option that tells the inner process from the outer one.
const INSIDE: &str = "--inside";

/// Options of `profile`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The load to run
    #[arg(value_parser = cases::parser())]
    case: &'static Case,
    /// The network to look at
    #[arg(long, value_parser = PossibleValuesParser::new(peers::KNOWN), default_value = "towpath")]
    peer: String,
    /// MTU of the guest's link, in bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(576..=65_520))]
    mtu: u32,
    /// Length of each load; there are five
    #[arg(long, default_value = "4", value_parser = parse_seconds)]
    seconds: Duration,
    /// TCP congestion control at guest and host
    #[arg(long, value_name = "NAME", default_value = "reno")]
    congestion: String,
    /// The towpath program [default: the one beside this program, else the one on the path]
    #[arg(long, value_name = "PATH")]
    towpath: Option<PathBuf>,
    /// Where to write profile.json and the flame graphs
    #[arg(long, value_name = "DIR", default_value = "target/perf/profile")]
    out: PathBuf,
    #[arg(long, hide = true)]
    inside: bool,
}

/// Looks at one case from all sides and says what was seen.
///
/// # Errors
/// The case does not run at all.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    if !args.inside {
        return sandbox::run_inside(INSIDE, Users::Machine);
    }
    sandbox::enter()?;
    fs::create_dir_all(&args.out).doing(format_args!("make {}", args.out.display()))?;
    let subject = Subject::new(args)?;
    eprintln!("the load alone …");
    let profile = Profile {
        facts: Facts::gather(&args.congestion),
        peer: args.peer.clone(),
        case: args.case.name.to_owned(),
        mtu: args.mtu,
        seconds: args.seconds.as_secs_f64(),
        alone: subject.ready()?.load()?,
        samples: look("samples of the stacks", || subject.samples()),
        calls: look("system calls and copies", || subject.calls()),
        allocations: look("allocations", || subject.allocations()),
        replay: look("instructions of recorded frames", || subject.replay()),
    };
    let path = args.out.join("profile.json");
    json::write(&path, &profile)?;
    print!("{}", profile.to_text());
    println!(
        "\nAll of it, and the flame graphs, are in {}",
        args.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// What is looked at.
struct Subject<'a> {
    args: &'a Args,
    peer: Peer,
}

/// An engine that is ready for its load.
struct Ready<'a> {
    args: &'a Args,
    world: World,
    /// The engine's processes.
    pids: Vec<u32>,
}

impl Subject<'_> {
    fn new(args: &Args) -> Outcome<Subject<'_>> {
        let towpath = args.towpath.clone().unwrap_or_else(peers::default_towpath);
        let name = &args.peer;
        let mut peer = Peer::known(name, &towpath)
            .filter(|peer| !peer.is_limit())
            .ok_or_else(|| {
                Failure::new(format!(
                    "{name} has no process whose profile could be taken"
                ))
            })?;
        if name == "pasta" {
            // Started by the machine's root it would go on as a user who may not enter the guest.
            peer.command.extend(["--runas", "0"].map(str::to_owned));
        }
        match Presence::of(&peer).missing {
            Some(why) => Err(Failure::new(format!("{name} is missing: {why}"))),
            None => Ok(Subject { args, peer }),
        }
    }

    fn ready(&self) -> Outcome<Ready<'_>> {
        let args = self.args;
        let world = World::build(&self.peer, args.mtu, &args.congestion)?;
        let pids = world.engine().map(processes_of_tree).unwrap_or_default();
        Ok(Ready { args, world, pids })
    }

    fn samples(&self) -> Outcome<(Window, Samples)> {
        let event = perf::clock()?;
        let mut ready = self.ready()?;
        let data = self.args.out.join("perf.data");
        let path = data.to_string_lossy();
        let args = [
            "-F",
            FREQUENCY,
            "-e",
            event,
            "--call-graph",
            "fp",
            "-o",
            &path,
        ];
        let mut perf = Perf::start("record", &ready.pids, &args)?;
        perf.enable()?;
        let window = ready.load()?;
        perf.disable()?;
        perf.finish()?;
        let script = perf::script(&data, "comm,pid,tid,time,event,ip,sym,dso")?;
        let (peer, case, mtu) = (&self.peer.name, self.args.case.name, self.args.mtu);
        let title = format!("{peer}, {case}, MTU {mtu} ({event})");
        let threads = flame::draw(&script, &title, &self.args.out)?;
        let event = event.to_owned();
        Ok((window, Samples { event, threads }))
    }

    fn calls(&self) -> Outcome<(Window, Calls)> {
        let mut ready = self.ready()?;
        calls::count(&ready.pids.clone(), || ready.load())
    }

    fn allocations(&self) -> Outcome<(Window, u64)> {
        let mut ready = self.ready()?;
        allocations::count(&ready.pids.clone(), || ready.load())
    }

    fn replay(&self) -> Outcome<(Window, Replay)> {
        let mut ready = self.ready()?;
        let recorder = Recorder::start(ready.world.guest())?;
        let window = ready.load()?;
        let pcap = recorder.finish()?;
        let path = self.args.out.join("frames.pcap");
        fs::write(&path, pcap.bytes()).doing(format_args!("write {}", path.display()))?;
        if self.peer.role != Role::Subject {
            let count = pcap.frames();
            return Err(Failure::new(format!(
                "{count} frames are in {}; only towpath's core can be played without a kernel",
                path.display()
            )));
        }
        let replay = replay::run(&path, &self.args.out.join("callgrind.out"))?;
        Ok((window, replay))
    }
}

impl Ready<'_> {
    /// Runs the load once.
    fn load(&mut self) -> Outcome<Window> {
        let args = self.args;
        let settings = Settings {
            duration: args.seconds,
            congestion: args.congestion.clone(),
            receivers: Receivers::Discard,
            other_load_max: 1.0,
            attempts_max: 1,
        };
        let frames = Frames::of(self.world.guest())?;
        let switches = Switches::of(&self.pids);
        let sample = settings.sample(&mut self.world, args.case)?;
        Ok(Window {
            metrics: sample.metrics,
            frames: Frames::of(self.world.guest())?.since(frames),
            switches: Switches::of(&self.pids).since(switches),
            engine_cpu_s: sample.cpu.engine_s.unwrap_or_default(),
            other_load: sample.other_load,
        })
    }
}

/// Says what is under way; a failure is what was seen.
fn look<T>(what: &str, at: impl FnOnce() -> Outcome<(Window, T)>) -> Found<T> {
    eprintln!("{what} …");
    match at() {
        Ok((window, seen)) => Found::Seen { window, seen },
        Err(failure) => {
            eprintln!("{what}: {failure}");
            Found::Missing(failure.to_string())
        }
    }
}

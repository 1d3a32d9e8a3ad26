//! One run: one load through one peer, in a world of its own, with what it cost.

use std::thread;
use std::time::Duration;

use crate::cases::Case;
use crate::cpu::{Snapshot, memory_of_tree};
use crate::failure::{Context, Outcome};
use crate::loadgen::Measured;
use crate::metrics::metrics;
use crate::peers::Peer;
use crate::results::{Cpu, End, Receivers, Run, Sample};
use crate::world::World;

/// How long the machine is watched before a run.
const WATCH: Duration = Duration::from_millis(200);
/// What a client may take beyond the length of its load: connecting, stalls, the tail.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is the same for all runs of a comparison.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Length of each load.
    pub(crate) duration: Duration,
    /// TCP congestion control at guest and host.
    pub(crate) congestion: String,
    pub(crate) receivers: Receivers,
    /// Share of the machine above which others make a run worthless, 0 to 1.
    pub(crate) other_load_max: f64,
    /// How often a run is made at most, until others were quiet.
    pub(crate) attempts_max: u32,
}

impl Settings {
    /// Runs one load through one peer, again while others use too much of the machine.
    pub(crate) fn run(&self, peer: &Peer, mtu: u32, case: &Case, round: u32) -> Run {
        let mut attempts = 1;
        loop {
            let before = Snapshot::now();
            thread::sleep(WATCH);
            let load_before = Snapshot::now().since(&before, &[]).others;
            let sample = World::build(peer, mtu, &self.congestion)
                .and_then(|mut world| self.sample(&mut world, case));
            let busy = |sample: &Sample| sample.other_load > self.other_load_max;
            if sample.as_ref().is_ok_and(busy) && attempts < self.attempts_max {
                attempts += 1;
                continue;
            }
            return Run {
                mtu,
                case: case.name.to_owned(),
                peer: peer.name.clone(),
                round,
                load_before,
                attempts,
                end: match sample {
                    Ok(sample) => End::Measured(Box::new(sample)),
                    Err(failure) => End::Failed(failure.to_string()),
                },
            };
        }
    }

    /// Runs one load in a world that is ready.
    ///
    /// # Errors
    /// The load or the engine failed.
    pub(crate) fn sample(&self, world: &mut World, case: &Case) -> Outcome<Sample> {
        let (engine, bridge) = (world.engine(), world.bridge());
        let memory = || engine.map(memory_of_tree);
        let memory_before = memory();
        let mut memory_peak = memory_before;
        let before = Snapshot::now();
        let start_ms = world.ready_after().as_secs_f64() * 1e3;
        let client = match case.client_args(self.duration, self.receivers) {
            None => Ok(Measured::Start { ms: start_ms }),
            Some(args) => self.load(world, &args, || {
                if case.watches_memory() {
                    memory_peak = memory_peak.max(memory());
                }
            }),
        };
        let after = Snapshot::now();
        // An engine that died is the reason why the client failed.
        world.check_alive()?;
        let client = client?;
        let growth = memory_peak.zip(memory_before);
        let growth = growth.map(|(peak, before)| peak.saturating_sub(before));
        let trees: Vec<u32> = engine.into_iter().chain(bridge).collect();
        let spent = after.since(&before, &trees);
        let tree = |root: u32| (after.tree(root).saturating_sub(before.tree(root))).as_secs_f64();
        Ok(Sample {
            metrics: metrics(&client, growth),
            client,
            cpu: Cpu {
                engine_s: engine.map(tree),
                bridge_s: bridge.map(tree),
                generator_s: spent.generator.as_secs_f64(),
                machine_s: spent.machine.as_secs_f64(),
            },
            other_load: spent.others,
            start_ms,
        })
    }

    /// Runs the client, calling `meanwhile` every now and then.
    fn load(&self, world: &World, args: &[String], meanwhile: impl FnMut()) -> Outcome<Measured> {
        let mut client = world.client(args)?;
        let output = client.finish(self.duration + PATIENCE, meanwhile)?;
        serde_json::from_str(&output).doing("read the client's result")
    }
}

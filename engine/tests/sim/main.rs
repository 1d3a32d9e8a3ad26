//! Whole cores in a simulated world: every history from a seed.

mod app;
mod guest;
mod oracle;
mod plan;
mod show;
mod trace;
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;

/// Seeds that found a bug once.
const ONCE_FAILED: [u64; 0] = [];

/// Runs worlds, each from a seed, and checks what must be true of all.
#[derive(Parser)]
struct Args {
    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints what happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let failed = match args.seed {
        Some(seed) => run_seed(seed, args.trace).is_err_and(|why| {
            println!("seed {seed} failed: {why}");
            true
        }),
        None => run_seeds(args.from, args.seeds) > 0,
    };
    ExitCode::from(u8::from(failed))
}

fn run_seed(seed: u64, prints: bool) -> Result<u64, String> {
    let plan = plan::Plan::new(seed);
    if prints {
        println!("{plan:#?}");
    }
    let mut world = world::World::new(seed, plan, prints);
    let ends_at = oracle::ends_at(&world);
    world.run(ends_at)?;
    match oracle::check(&mut world) {
        Ok(()) => Ok(world.trace.hash()),
        Err(why) => Err(format!("{why}; {}", world.state())),
    }
}

/// Runs them on two threads; answers how many failed.
fn run_seeds(from: u64, count: u64) -> u64 {
    let next = AtomicU64::new(0);
    let failed = Mutex::new(0);
    let list: Vec<u64> = ONCE_FAILED.into_iter().chain(from..from + count).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&seed) = list.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let result = std::panic::catch_unwind(|| run_seed(seed, false));
                    let why = match result {
                        Ok(Ok(_)) => continue,
                        Ok(Err(why)) => why,
                        Err(_) => "a panic".to_owned(),
                    };
                    *failed.lock().expect("no panic while it is held") += 1;
                    println!(
                        "seed {seed} failed: {why}\n    \
                         cargo test --release -p towpath --test sim -- --seed {seed} --trace"
                    );
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic while it is held");
    println!("{} seeds, {failed} failed", list.len());
    failed
}

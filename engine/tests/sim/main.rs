//! Whole cores in a simulated world: every history from a seed.
//!
//! ```text
//! cargo test -p towpath --test sim                                        1,000 seeds, and what else must hold
//! cargo test --release -p towpath --test sim -- --seed 7 --trace          one seed, told as it happens
//! cargo test --release -p towpath --test sim -- --seeds 100000 --from 5   many
//! cargo test --release -p towpath --test sim -- --hours 2                 as many as go into two hours
//! cargo test --release -p towpath --test sim -- --virtual-hours 24        one world that lives for long
//! cargo test -p towpath --test sim -- --update-golden                     the table of goodput, anew
//! cargo test --release -p towpath --test sim -- --from 1000000000         worlds of several guests on streams
//! ```

mod app;
mod golden;
mod guest;
mod oracle;
mod plan;
mod run;
mod seat;
mod show;
mod trace;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use libtest_mimic::{Arguments, Trial};

/// Seeds that are run each time.
const SEEDS: u64 = 1_000;
/// Worlds of several guests among them, each as long as some of the others.
const CROWDS: u64 = 200;
/// Seeds that found a bug, of the plan as it was or of the engine; the first named what was wrong.
const ONCE_FAILED: [u64; 15] = [
    50, 67, 535, 871, 1411, 1679, 2119, 2290, 2954, 3247, 3395, 4607, 1_002_245, 1_005_422,
    1_028_168,
];

/// Runs worlds, each from a seed, and checks what must be true of all.
#[derive(Parser)]
struct Args {
    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints what happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs so many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs as many seeds as go into so many hours.
    #[arg(long)]
    hours: Option<f64>,
    /// Runs one world that lives so many hours of its own time.
    #[arg(long)]
    virtual_hours: Option<u64>,
    /// Writes the table of goodput anew.
    #[arg(long)]
    update_golden: bool,
}

fn main() -> ExitCode {
    // What a user of the world asks for is told by these; all else is for the test runner.
    let own = [
        "--seed",
        "--seeds",
        "--from",
        "--hours",
        "--virtual-hours",
        "--update-golden",
    ];
    if std::env::args().any(|arg| own.contains(&arg.as_str())) {
        return explore(&Args::parse());
    }
    let trials = vec![
        Trial::test("seeds_keep_every_promise", || {
            let seeds = ONCE_FAILED.into_iter().chain(0..SEEDS);
            match run::all(seeds, None) {
                0 => Ok(()),
                failed => Err(format!("{failed} seeds failed").into()),
            }
        }),
        Trial::test("crowds_keep_every_promise", || {
            match run::all(plan::CROWDS..plan::CROWDS + CROWDS, None) {
                0 => Ok(()),
                failed => Err(format!("{failed} seeds failed").into()),
            }
        }),
        Trial::test("a_seed_is_a_history", || {
            for seed in (0..50).chain(plan::CROWDS..plan::CROWDS + 20) {
                if run::seed(seed, false)? != run::seed(seed, false)? {
                    return Err(format!("seed {seed} went another way the second time").into());
                }
            }
            Ok(())
        }),
        Trial::test("a_long_life_keeps_every_promise", || {
            run::world(0, plan::Plan::long(0, 24), false)?;
            Ok(())
        }),
        Trial::test("goodput_is_what_the_table_says", || {
            Ok(golden::check(false)?)
        }),
        Trial::test("worlds_of_two_seeds_differ", || {
            if run::seed(1, false)? == run::seed(2, false)? {
                return Err("two seeds, one history".into());
            }
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn explore(args: &Args) -> ExitCode {
    if args.update_golden {
        return match golden::check(true) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                println!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(hours) = args.virtual_hours {
        let seed = args.seed.unwrap_or(args.from);
        let result = run::world(seed, plan::Plan::long(seed, hours), args.trace);
        println!("seed {seed}, {hours} virtual hours: {result:?}");
        return ExitCode::from(u8::from(result.is_err()));
    }
    let failed = match (args.seed, args.hours) {
        (Some(seed), _) => match run::seed(seed, args.trace) {
            Ok(_) => 0,
            Err(why) => {
                println!("seed {seed} failed: {why}");
                1
            }
        },
        (None, Some(hours)) => {
            let until = Instant::now() + Duration::from_secs_f64(hours * 3600.0);
            run::all(args.from.., Some(until))
        }
        (None, None) => {
            let count = args.seeds.unwrap_or(SEEDS);
            run::all(args.from..args.from + count, None)
        }
    };
    ExitCode::from(u8::from(failed > 0))
}

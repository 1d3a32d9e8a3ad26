//! `towpath run`: a command with a network of its own.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::supervise::{Foreground, Supervision, raise_limits};
use super::{args, logging, settings};
use crate::config::Network;
use crate::engine::Engine;
use crate::guest::signals::{self, Arrival, Signals};
use crate::guest::{self, Failure, Guest, GuestOptions};

/// How long a command may take to end by SIGTERM when the supervisor is gone.
const GRACE: Duration = Duration::from_secs(5);
const SIGTERM: i32 = nix::sys::signal::Signal::SIGTERM as i32;
const SIGUSR1: i32 = nix::sys::signal::Signal::SIGUSR1 as i32;
const SIGUSR2: i32 = nix::sys::signal::Signal::SIGUSR2 as i32;

/// Runs the command; its exit status is ours.
pub(super) fn run(arguments: &args::Run, mut supervision: Supervision) -> Result<u8, Failure> {
    let signals = Signals::block()
        .map_err(|error| Failure::setup(format!("signals can't be heard: {error}")))?;
    let _foreground = Foreground::remember();
    let mac = arguments.mac.unwrap_or(Network::GUEST_MAC);
    let config = settings::engine_config(&arguments.network, Some(mac))?;
    let options = GuestOptions {
        ifname: arguments.ifname.clone(),
        queues: config.cores,
        mac: Some(mac),
        configure: true,
        plain: arguments.plain_tap,
        map_root: arguments.map_root,
    };
    let (mut guest, queues) = guest::run(&options, &config.network, &arguments.command)?;
    raise_limits();
    let network = config.network.clone();
    let engine =
        Engine::start(config, queues).map_err(|error| Failure::setup(error.to_string()))?;
    tracing::info!(
        "the guest is {} and {}, the gateway {}, the host {}",
        network.guest4(),
        network.guest6(),
        network.gateway4(),
        network.host4()
    );
    let early = pending(&signals);
    if let Some(ends) = early
        .iter()
        .find(|arrival| ![SIGUSR1, SIGUSR2].contains(&arrival.number))
    {
        guest.kill();
        engine.stop();
        return Ok(u8::try_from(128 + ends.number).unwrap_or(u8::MAX));
    }
    supervision.tell_ready().map_err(Failure::setup)?;
    guest.go()?;
    for arrival in early {
        guest.signal(arrival.number);
    }
    let status = supervise(&mut guest, &engine, &signals, &supervision);
    logging::summary(arguments.log, &engine.stop());
    status
}

/// Forwards signals until the command has ended.
fn supervise(
    guest: &mut Guest,
    engine: &Engine,
    signals: &Signals,
    supervision: &Supervision,
) -> Result<u8, Failure> {
    let mut engine_failed = false;
    let mut kill_at: Option<Instant> = None;
    loop {
        let mut waited = vec![guest.as_fd(), signals.as_fd()];
        let engine_at = (!engine_failed).then(|| {
            waited.push(engine.failed());
            waited.len() - 1
        });
        let exit_at = supervision
            .exit()
            .filter(|_| kill_at.is_none())
            .map(|exit| {
                waited.push(exit);
                waited.len() - 1
            });
        let timeout = kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        let ready = signals::wait(&waited, timeout)
            .map_err(|error| Failure::setup(format!("waiting for the command failed: {error}")))?;
        drop(waited);
        if ready[0] {
            return guest.status();
        }
        for arrival in pending(signals)
            .iter()
            .filter(|arrival| !arrival.from_terminal)
        {
            guest.signal(arrival.number);
        }
        if engine_at.is_some_and(|at| ready[at]) {
            // As if the cable were pulled: what the command makes of it is its own affair.
            engine_failed = true;
            let reason = engine.failure().unwrap_or("the engine has ended");
            tracing::error!("the command has no network any more: {reason}");
        }
        if exit_at.is_some_and(|at| ready[at]) && supervision.exit_is_due() {
            tracing::info!("the supervisor closed --exit-fd: ending the command");
            guest.signal(SIGTERM);
            kill_at = Some(Instant::now() + GRACE);
        }
        if kill_at.is_some_and(|at| at <= Instant::now()) {
            guest.kill();
            return Ok(128 + nix::sys::signal::Signal::SIGKILL as u8);
        }
    }
}

fn pending(signals: &Signals) -> Vec<Arrival> {
    std::iter::from_fn(|| signals.next()).collect()
}

//! `towpath serve`: a network for guests that come over sockets.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::Signal;

use super::supervise::{Supervision, raise_limits};
use super::{args, logging, settings};
use crate::config::{EngineConfig, FixedLease};
use crate::engine::Engine;
use crate::guest::Failure;
use crate::guest::signals::{self, Signals};
use crate::inherited;
use crate::link::{LinkUrl, Listener};

/// Says which inherited descriptors are not there. Must come before anything else opens one: a number that
/// is not open now was not given by the caller.
pub(super) fn check_descriptors(urls: &[LinkUrl]) -> Result<(), String> {
    let mut seen = HashSet::new();
    for url in urls {
        let LinkUrl::Descriptor { number, .. } = url else {
            continue;
        };
        if !inherited::is_open(*number) {
            return Err(format!(
                "--listen {url}: this file descriptor is not open; the caller must leave it open for towpath"
            ));
        }
        if !seen.insert(number) {
            return Err(format!(
                "--listen {url}: this file descriptor is named twice"
            ));
        }
    }
    Ok(())
}

/// Serves guests until it is told to end, or until nobody can come any more.
pub(super) fn run(arguments: &args::Serve, mut supervision: Supervision) -> Result<u8, Failure> {
    // Before any thread is started, so that none of them is ended by a signal.
    let signals = Signals::block()
        .map_err(|error| Failure::setup(format!("signals can't be heard: {error}")))?;
    let config = EngineConfig {
        isolate: arguments.isolate,
        stall_timeout: arguments.stall_timeout,
        leases: arguments.lease.clone(),
        ..settings::engine_config(&arguments.network, None)?
    };
    check_leases(&config).map_err(Failure::setup)?;
    let listeners = arguments.listen.iter().cloned().map(Listener::open);
    let listeners = listeners
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::setup)?;
    raise_limits();
    let network = config.network.clone();
    let engine =
        Engine::start(config, Vec::new()).map_err(|error| Failure::setup(error.to_string()))?;
    tracing::info!(
        "guests are in {}/{} and {}/64, the gateway is {}, the host {}",
        network.nth4(0),
        network.subnet4.1,
        network.subnet6,
        network.gateway4(),
        network.host4()
    );
    let all_gone = engine
        .listen(listeners)
        .map_err(|error| Failure::setup(format!("guests can't be let in: {error}")))?;
    supervision.tell_ready().map_err(Failure::setup)?;
    let outcome = serve(&engine, &signals, &supervision, &all_gone);
    logging::summary(arguments.log, &engine.stop());
    outcome.map(|()| 0)
}

fn serve(
    engine: &Engine,
    signals: &Signals,
    supervision: &Supervision,
    all_gone: &OwnedFd,
) -> Result<(), Failure> {
    let ignored = [Signal::SIGUSR1 as i32, Signal::SIGUSR2 as i32];
    loop {
        let mut waited = vec![signals.as_fd(), engine.failed(), all_gone.as_fd()];
        waited.extend(supervision.exit());
        let ready = signals::wait(&waited, None)
            .map_err(|error| Failure::setup(format!("waiting for the end failed: {error}")))?;
        if let Some(arrival) =
            std::iter::from_fn(|| signals.next()).find(|a| !ignored.contains(&a.number))
        {
            tracing::info!("signal {}: ending", arrival.number);
            return Ok(());
        }
        if ready.get(3) == Some(&true) && supervision.exit_is_due() {
            tracing::info!("the supervisor closed --exit-fd: ending");
            return Ok(());
        }
        if ready[1] {
            let reason = engine.failure().unwrap_or("the engine has ended");
            return Err(Failure::setup(reason));
        }
        if ready[2] {
            tracing::info!("the last guest has left: ending");
            return Ok(());
        }
    }
}

/// Fixed leases must be for guests, and no two may have anything in common.
fn check_leases(config: &EngineConfig) -> Result<(), String> {
    let network = &config.network;
    let last = network.nth4((1 << (32 - u32::from(network.subnet4.1))) - 2);
    let mut holders = HashSet::new();
    let mut addresses = HashSet::new();
    let mut names = HashSet::new();
    for lease in &config.leases {
        let FixedLease {
            holder,
            address,
            name,
        } = lease;
        if !(network.guest4()..=last).contains(address) {
            return Err(format!(
                "--lease: {address} is not for guests, they have {} to {last}; --subnet chooses others",
                network.guest4()
            ));
        }
        if lease.mac() == network.gateway_mac {
            return Err("--lease names the gateway's own MAC address: take another".to_owned());
        }
        if !holders.insert(holder) {
            return Err(format!(
                "--lease: the guest of {address} has another already"
            ));
        }
        if !addresses.insert(address) {
            return Err(format!("--lease: {address} is for two guests"));
        }
        if let Some(name) = name
            && !names.insert(name)
        {
            return Err(format!("--lease: '{name}' is the name of two guests"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::*;

    fn check(leases: &str) -> Result<(), String> {
        let line = format!("towpath serve --listen tap:t --subnet 10.0.2.0/29 {leases}");
        let words = line.split_whitespace().map(OsString::from);
        let args::Command::Serve(arguments) = args::Line::try_parse_from(words).unwrap().command
        else {
            panic!("another command");
        };
        let config = settings::engine_config(&arguments.network, None).unwrap();
        check_leases(&EngineConfig {
            leases: arguments.lease,
            ..config
        })
    }

    #[test]
    fn leases_have_nothing_in_common() {
        let uuid = "0d8ab0d5-3e3f-4f0a-9d6e-6f0f3f1f2f3f";
        let one = "--lease 52:54:0:0:0:1=10.0.2.3,a";
        assert_eq!(check(&format!("{one} --lease {uuid}=10.0.2.6,b")), Ok(()));
        for (other, part) in [
            ("52:54:0:0:0:1=10.0.2.4", "has another already"),
            ("52:54:0:0:0:2=10.0.2.3", "10.0.2.3 is for two"),
            ("52:54:0:0:0:2=10.0.2.4,A", "'a' is the name of two"),
            ("52:54:0:0:0:2=10.0.2.2", "10.0.2.3 to 10.0.2.6"),
            ("52:54:0:0:0:2=10.0.2.7", "10.0.2.3 to 10.0.2.6"),
            ("02:74:6f:77:00:01=10.0.2.4", "gateway's own"),
        ] {
            let error = check(&format!("{one} --lease {other}")).unwrap_err();
            assert!(error.contains(part), "{other}: {error}");
        }
    }

    #[test]
    fn descriptors_that_are_not_there_are_named() {
        let urls = |text: &str| text.split(' ').map(|url| url.parse().unwrap()).collect();
        let check = |text| check_descriptors(&Vec::<LinkUrl>::clone(&urls(text)));
        assert!(
            check("fd:987654,proto=qemu")
                .unwrap_err()
                .contains("not open")
        );
        assert!(
            check("fd:0,proto=qemu fd:0,proto=bess")
                .unwrap_err()
                .contains("twice")
        );
        assert_eq!(check("tap:x fd:0,proto=qemu"), Ok(()));
    }
}

//! `towpath demo`: the whole way, with nothing else installed and no network needed.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::supervise::raise_limits;
use super::{args, logging, settings};
use crate::config::{
    DnsUpstream, EngineConfig, FixedLease, HostLoopback, Limits, Network, STALL_TIMEOUT,
};
use crate::demo::{cpu, guest as client, host};
use crate::engine::Engine;
use crate::guest::signals::{self, Signals};
use crate::guest::{self, Failure, GuestOptions};
use crate::subnet::Occupied;

/// Starts servers here and a client in a guest, and shows what came of it.
pub(super) fn run(arguments: &args::Demo) -> Result<u8, Failure> {
    let signals = Signals::block()
        .map_err(|error| Failure::setup(format!("signals can't be heard: {error}")))?;
    let begun = Instant::now();
    let servers = host::start().map_err(|error| {
        Failure::setup(format!("the demonstration's servers can't start: {error}"))
    })?;
    let config = config(arguments, &servers)?;
    let network = config.network.clone();
    let options = GuestOptions {
        ifname: "tap0".to_owned(),
        queues: config.cores,
        mac: Some(Network::GUEST_MAC),
        configure: true,
        plain: false,
        map_root: false,
    };
    let (mut guest, queues) = guest::run(&options, &network, &command(&network, &servers)?)?;
    raise_limits();
    let offloads = queues.first().is_some_and(|queue| queue.features().tso4);
    let (cores, queue_count) = (config.cores, queues.len());
    let engine =
        Engine::start(config, queues).map_err(|error| Failure::setup(error.to_string()))?;
    println!(
        "towpath {}: a guest in a network namespace of its own",
        env!("CARGO_PKG_VERSION")
    );
    println!(
        "  guest       {} and {}, gateway {}, host alias {}",
        network.guest4(),
        network.guest6(),
        network.gateway4(),
        network.host4()
    );
    println!(
        "  link        tap0, MTU {}, {queue_count} queue(s), segmentation offload {}; {cores} core(s) on {}",
        network.mtu,
        if offloads {
            "on"
        } else {
            "off (this kernel's TAP has none: expect less)"
        },
        engine.driver(),
    );
    guest.go()?;
    loop {
        let ready = signals::wait(
            &[
                std::os::fd::AsFd::as_fd(&guest),
                std::os::fd::AsFd::as_fd(&signals),
            ],
            None,
        )
        .map_err(|error| Failure::setup(format!("waiting for the guest failed: {error}")))?;
        if ready[0] {
            break;
        }
        while let Some(arrival) = signals.next() {
            if !arrival.from_terminal {
                guest.signal(arrival.number);
            }
        }
    }
    let cpu = cpu::of_threads("towpath-core");
    let status = guest.status()?;
    let summary = engine.stop();
    if status == 0 {
        println!(
            "  engine      {:.2} CPU seconds for 2 GiB: {:.2} s/GiB",
            cpu.as_secs_f64(),
            cpu.as_secs_f64() / 2.0
        );
        println!(
            "All of it went through ordinary sockets of this process, in {:.1} s.",
            begun.elapsed().as_secs_f64()
        );
        println!("Next: towpath run -- curl -sI https://www.rust-lang.org");
    }
    logging::summary(arguments.log, &summary);
    Ok(status)
}

fn config(arguments: &args::Demo, servers: &host::Servers) -> Result<EngineConfig, Failure> {
    let occupied = Occupied::read().unwrap_or_default();
    let port = servers.tcp_port.to_string();
    let network = Network {
        subnet4: occupied.choose4().map_err(Failure::setup)?,
        subnet6: occupied.choose6().map_err(Failure::setup)?,
        mtu: arguments.mtu,
        gateway_mac: Network::GATEWAY_MAC,
        domain: None,
        search: Vec::new(),
        lease: settings::LEASE,
    };
    Ok(EngineConfig {
        cores: arguments.cores,
        pin: settings::pins(arguments.cores, false, false),
        driver: arguments.driver,
        busy_poll: Duration::from_micros(args::BUSY_POLL_MICROS.into()),
        faults: None,
        isolate: false,
        stall_timeout: STALL_TIMEOUT,
        leases: vec![FixedLease::of_guest(&network, Network::GUEST_MAC)],
        network,
        host_loopback: HostLoopback::Open(port.parse().map_err(Failure::setup)?),
        dns: DnsUpstream::Servers(vec![servers.dns]),
        limits: Limits::default(),
    })
}

fn command(network: &Network, servers: &host::Servers) -> Result<Vec<OsString>, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::setup(format!("this program's own file is not known: {error}"))
    })?;
    let task = client::Task {
        gateway: network.gateway4(),
        host: network.host4().into(),
        port: servers.tcp_port,
    };
    let task = serde_json::to_string(&task).map_err(|error| Failure::setup(error.to_string()))?;
    Ok(vec![program.into(), client::STAGE.into(), task.into()])
}

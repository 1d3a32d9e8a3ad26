//! From options to what the engine and the guest are started with.

use std::net::Ipv6Addr;
use std::time::Duration;

use towpath_stack::wire::ethernet::MacAddress;

use super::args;
use crate::config::{
    DnsUpstream, EngineConfig, FixedLease, HostLoopback, Limits, Network, STALL_TIMEOUT,
};
use crate::guest::Failure;
use crate::subnet::Occupied;

/// How long a DHCP lease lasts.
pub(super) const LEASE: Duration = Duration::from_secs(3600);

/// Settings for these options, on the network where this process is. The first address is kept for
/// `guest`, if there is one that has it set.
pub(super) fn engine_config(
    arguments: &args::Network,
    guest: Option<MacAddress>,
) -> Result<EngineConfig, Failure> {
    let occupied = Occupied::read().unwrap_or_else(|reason| {
        tracing::warn!("{reason}; the guest's subnet may hide a part of the host's network");
        Occupied::default()
    });
    config_beside(arguments, guest, &occupied).map_err(Failure::setup)
}

fn config_beside(
    arguments: &args::Network,
    guest: Option<MacAddress>,
    occupied: &Occupied,
) -> Result<EngineConfig, String> {
    let args::Network {
        subnet: _,
        subnet6: _,
        mtu,
        host_loopback,
        dns,
        domain,
        search,
        cores,
        pin,
        no_pin,
        driver,
        busy_poll,
        fault,
        limits,
    } = arguments;
    let network = Network {
        subnet4: subnet4(arguments, occupied)?,
        subnet6: subnet6(arguments, occupied)?,
        mtu: *mtu,
        gateway_mac: Network::GATEWAY_MAC,
        domain: domain.clone(),
        search: search.clone(),
        lease: LEASE,
    };
    if guest == Some(network.gateway_mac) {
        return Err("--mac names the gateway's own address: take another".to_owned());
    }
    let guest = guest.map(|mac| FixedLease::of_guest(&network, mac));
    Ok(EngineConfig {
        cores: *cores,
        pin: pins(*cores, *pin, *no_pin),
        driver: *driver,
        busy_poll: Duration::from_micros((*busy_poll).into()),
        network,
        host_loopback: host_loopback
            .clone()
            .map_or(HostLoopback::Closed, HostLoopback::Open),
        dns: match dns.as_slice() {
            [] => DnsUpstream::System,
            servers => DnsUpstream::Servers(servers.to_vec()),
        },
        limits: engine_limits(limits),
        faults: *fault,
        isolate: false,
        stall_timeout: STALL_TIMEOUT,
        leases: guest.into_iter().collect(),
    })
}

/// Threads are pinned from two on. On a machine with two processors, a lone pinned thread took 83 to
/// 115 µs for a round trip where one that the kernel placed took 45 to 76; bulk made no difference.
pub(super) fn pins(cores: usize, pin: bool, no_pin: bool) -> bool {
    pin || (cores > 1 && !no_pin)
}

fn engine_limits(limits: &args::Limits) -> Limits {
    let args::Limits {
        max_tcp,
        max_udp,
        max_icmp,
        max_pending,
        buffer_memory,
        tcp_idle,
        udp_timeout,
    } = *limits;
    Limits {
        tcp_flows: max_tcp as usize,
        tcp_pending: max_pending as usize,
        udp_flows: max_udp as usize,
        icmp_flows: max_icmp as usize,
        buffer_bytes: buffer_memory,
        tcp_idle,
        udp_timeout,
        ..Limits::default()
    }
}

fn subnet4(
    arguments: &args::Network,
    occupied: &Occupied,
) -> Result<(std::net::Ipv4Addr, u8), String> {
    let Some(asked) = arguments.subnet else {
        return occupied.choose4();
    };
    if let Some((taken, length)) = occupied.collision4(asked) {
        let (address, prefix) = asked;
        tracing::warn!(
            "the subnet {address}/{prefix} collides with {taken}/{length} of the host, \
             which the guest will not reach"
        );
    }
    Ok(asked)
}

fn subnet6(arguments: &args::Network, occupied: &Occupied) -> Result<Ipv6Addr, String> {
    let Some(asked) = arguments.subnet6 else {
        return occupied.choose6();
    };
    if let Some((taken, length)) = occupied.collision6(asked) {
        tracing::warn!(
            "the prefix {asked}/64 collides with {taken}/{length} of the host, \
             which the guest will not reach"
        );
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::*;

    fn config(options: &str, occupied: &Occupied) -> Result<EngineConfig, String> {
        let line = format!("towpath run {options} x");
        let words = super::super::words(line.split_whitespace().map(OsString::from));
        match args::Line::try_parse_from(words).unwrap().command {
            args::Command::Run(run) => config_beside(&run.network, run.mac, occupied),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let config = config("", &Occupied::default()).unwrap();
        assert_eq!(
            format!("{:?}", config.limits),
            format!("{:?}", Limits::default())
        );
        assert_eq!(config.host_loopback, HostLoopback::Closed);
        assert_eq!(config.dns, DnsUpstream::System);
        assert_eq!(
            (config.cores, config.pin, config.network.mtu),
            (1, false, 1500)
        );
    }

    #[test]
    fn a_subnet_asked_for_is_used_even_if_it_collides() {
        let occupied = Occupied {
            v4: vec![("10.0.0.0".parse().unwrap(), 8)],
            v6: vec![],
        };
        let asked = config("--subnet 10.0.2.0/24", &occupied).unwrap();
        assert_eq!(asked.network.subnet4, ("10.0.2.0".parse().unwrap(), 24));
        let chosen = config("", &occupied).unwrap();
        assert_eq!(occupied.collision4(chosen.network.subnet4), None);
    }

    #[test]
    fn options_arrive() {
        let config = config(
            "--dns 9.9.9.9 --dns [::1]:5353 --max-tcp 7 --max-pending 8 --max-udp 9 --max-icmp 10 \
             --buffer-memory 1M --udp-timeout 5m --tcp-idle 3h --no-pin --search a.test --domain b.test",
            &Occupied::default(),
        )
        .unwrap();
        let Limits {
            tcp_flows,
            tcp_pending,
            udp_flows,
            icmp_flows,
            buffer_bytes,
            ..
        } = config.limits;
        assert_eq!(
            (tcp_flows, tcp_pending, udp_flows, icmp_flows),
            (7, 8, 9, 10)
        );
        assert_eq!(
            (buffer_bytes, config.limits.udp_timeout),
            (1 << 20, Duration::from_secs(300))
        );
        assert_eq!(config.limits.tcp_idle, Duration::from_secs(3 * 3600));
        assert!(!config.pin);
        assert_eq!(config.network.search, ["a.test"]);
        assert_eq!(config.network.domain.as_deref(), Some("b.test"));
        let DnsUpstream::Servers(servers) = config.dns else {
            panic!("servers were given")
        };
        assert_eq!(
            servers,
            ["9.9.9.9:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]
        );
    }

    #[test]
    fn the_gateway_s_mac_is_refused() {
        let error = config("--mac 02:74:6f:77:00:01", &Occupied::default()).unwrap_err();
        assert!(error.contains("--mac"), "{error}");
    }
}

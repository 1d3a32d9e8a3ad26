//! The command line, as clap reads it.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use towpath_ring::driver::faulty::FaultPlan;
use towpath_stack::wire::ethernet::MacAddress;

use super::value;
use crate::config::FixedLease;
use crate::driver::DriverChoice;
use crate::link::LinkUrl;
use crate::ports::PortSet;
use crate::subnet;

const EXAMPLES: &str = "\
Examples:
  See it work, without anything else installed:
      towpath demo
  Run a command in a network of its own:
      towpath run -- curl -sI https://www.rust-lang.org
  A shell that may also reach the host's ports 5432 and 8000 to 8010, as 'host' at .2:
      towpath run --host-loopback 5432,8000-8010 bash
  Give a network to a container that exists and has none:
      towpath attach --pid \"$(podman inspect -f '{{.State.Pid}}' web)\"
  Be the network of virtual machines:
      towpath serve --listen qemu:///run/vm.sock
  Find out why something of this does not work here:
      towpath doctor

In the guest, .1 is the gateway (ping, DNS), .2 the host (closed unless --host-loopback),
.3 the guest. 'towpath help run' explains all options.";

const RUN_EXAMPLES: &str = "\
Examples:
  towpath run -- make test
  towpath run --mtu 65520 --cores 2 -- iperf3 -c 192.0.2.7
  towpath run --host-loopback 5432 -- psql -h 10.144.97.2
  towpath run --map-root --dns 9.9.9.9 bash

Exit status: that of COMMAND, 128+n if signal n ended it, 127 if it was not found, 126 if it
can't be executed, 125 if its network could not be made, 2 if an option is wrong.

No root is needed: the command runs in a user namespace. It sees the files and the user of the
caller, an /etc/resolv.conf of its own, and a network with one interface. When it ends, or when
towpath is killed, all processes that it started end and nothing is left behind.";

const ATTACH_EXAMPLES: &str = "\
Examples:
  towpath attach --pid 4711
  ip netns add blue; towpath attach --netns blue
  towpath attach --netns /run/user/1000/netns/x --userns /proc/4711/ns/user --ready-fd 3

It runs until SIGTERM or SIGINT, until the process given by --pid has ended, until the interface is
gone or until --exit-fd hangs up; the interface and its routes go with it. The guest's
/etc/resolv.conf is left alone: name the gateway (.1) in it.";

const SERVE_EXAMPLES: &str = "\
A URL says where guests come from and what they speak:
  vpnkit:///PATH      a socket for vpnkit's protocol (version 22): hyperkit, vpnkit-tap-vsockd
  qemu:///PATH        a socket for QEMU's stream protocol, which passt's users and libkrun speak too
  vfkit:///PATH       a datagram socket, as vfkit and krunkit use it
  bess:///PATH        a SOCK_SEQPACKET socket, each packet a frame
  stdio:              standard input and output; stdio:proto=PROTOCOL with gvproxy (what gvforwarder
                      speaks there, the default), vpnkit or qemu
  fd:N,proto=PROTOCOL an inherited socket, connected or listening, with vpnkit, gvproxy, qemu, vfkit
                      or bess
  vsock://CID:PORT    a vsock port, vpnkit's protocol; CID of this machine, or 'any'
  tap:NAME            a TAP or macvtap that exists, in the network namespace of towpath
Socket files are for their owner alone (mode 0600) and go when towpath ends.

Examples:
  towpath serve --listen qemu:///run/vm.sock
      qemu-system-x86_64 ... -device virtio-net-pci,netdev=n0 \\
          -netdev stream,id=n0,server=off,addr.type=unix,addr.path=/run/vm.sock
      krun_add_net_unixstream(ctx, \"/run/vm.sock\", -1, mac, features, 0)      (libkrun)
  towpath serve --listen vfkit:///run/vm.sock --mtu 4000
      vfkit ... --device virtio-net,unixSocketPath=/run/vm.sock,mac=5a:94:ef:e4:0c:ee
  towpath serve --listen vpnkit:///run/vpnkit.sock --listen qemu:///run/vm.sock
      hyperkit ... -s 2:0,virtio-vpnkit,path=/run/vpnkit.sock
      in place of: vpnkit --ethernet /run/vpnkit.sock
  towpath serve --listen qemu:///run/vm.sock --lease 52:54:00:12:34:56=10.144.97.10,web
      a guest that the others reach as 'web'

All guests are on one segment, unless --isolate. They get their addresses by DHCP or router
advertisements; .1 is the gateway (ping, DNS), .2 the host (closed unless --host-loopback).
It runs until SIGTERM or SIGINT, until --exit-fd hangs up, or, if it listens nowhere, until the last
guest has left.";

/// A network for containers and VMs made of ordinary host sockets: no root, no bridge, no iptables.
#[derive(Debug, Parser)]
#[command(name = "towpath", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Line {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Longer than a program takes to answer once it is woken (some 30 µs on a virtual machine), shorter than
/// what anyone would miss.
pub(super) const BUSY_POLL_MICROS: u32 = 50;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a command in a network namespace of its own
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<Run>),
    /// Give a network to a namespace that exists
    #[command(after_help = ATTACH_EXAMPLES)]
    Attach(Box<Attach>),
    /// Be the network of virtual machines that connect to sockets, all on one segment
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<Serve>),
    /// Check what a run needs on this machine, and say what to do where it is missing
    Doctor,
    /// Show what it does and how fast, with servers and a guest of its own
    Demo(Demo),
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Name of the guest's interface
    #[arg(long, value_name = "NAME", default_value = "tap0", value_parser = value::interface_name)]
    pub(super) ifname: String,
    /// MAC address of the guest's interface
    #[arg(long, value_name = "ADDRESS", value_parser = value::mac, help_heading = "Network")]
    pub(super) mac: Option<MacAddress>,
    /// Do without the offloads of the TAP, as where the kernel has none: slow, for tests
    #[arg(long, hide = true)]
    pub(super) plain_tap: bool,
    /// Be uid 0 in the command's user namespace instead of one's own uid
    #[arg(long)]
    pub(super) map_root: bool,
    #[command(flatten)]
    pub(super) network: Network,
    #[command(flatten)]
    pub(super) supervision: Supervision,
    #[command(flatten)]
    pub(super) log: Log,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "COMMAND",
        help_heading = "Command"
    )]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[group(id = "target", required = true, multiple = false, args = ["pid", "netns"])]
pub(super) struct Attach {
    /// Attach to the namespaces of this process, and end with it
    #[arg(long, value_parser = value_parser!(i32).range(1..))]
    pub(super) pid: Option<i32>,
    /// Attach to this network namespace: a path, or a name that 'ip netns' knows
    #[arg(long, value_name = "PATH|NAME", value_parser = value::netns)]
    pub(super) netns: Option<PathBuf>,
    /// Enter this user namespace first, to have rights over the network namespace
    #[arg(long, value_name = "PATH")]
    pub(super) userns: Option<PathBuf>,
    /// Name of the guest's interface; a TAP of this name that exists is taken
    #[arg(long, value_name = "NAME", default_value = "tap0", value_parser = value::interface_name)]
    pub(super) ifname: String,
    /// MAC address of the guest's interface
    #[arg(long, value_name = "ADDRESS", value_parser = value::mac, help_heading = "Network")]
    pub(super) mac: Option<MacAddress>,
    /// Set no addresses and routes: the guest asks DHCP and listens to router advertisements itself
    #[arg(long)]
    pub(super) no_configure: bool,
    #[command(flatten)]
    pub(super) network: Network,
    #[command(flatten)]
    pub(super) supervision: Supervision,
    #[command(flatten)]
    pub(super) log: Log,
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Let guests in here (may be repeated); see below
    #[arg(long, value_name = "URL", required = true)]
    pub(super) listen: Vec<LinkUrl>,
    /// Keep guests from each other
    #[arg(long)]
    pub(super) isolate: bool,
    /// Keep an IPv4 address for the guest with this MAC address, or with the UUID that it says in
    /// vpnkit's protocol; with a name, guests can look it up (may be repeated)
    #[arg(long, value_name = "MAC|UUID=IPV4[,NAME]", value_parser = value::lease)]
    pub(super) lease: Vec<FixedLease>,
    /// How long a guest may take no frames, or leave one half sent, before it is closed
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = value::duration)]
    pub(super) stall_timeout: Duration,
    #[command(flatten)]
    pub(super) network: Network,
    #[command(flatten)]
    pub(super) supervision: Supervision,
    #[command(flatten)]
    pub(super) log: Log,
}

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Threads that carry traffic: a number, or 'auto'
    #[arg(long, value_name = "N|auto", default_value = "1", value_parser = value::cores)]
    pub(super) cores: usize,
    /// What carries the I/O of its threads
    #[arg(
        long,
        value_name = "NAME",
        value_enum,
        env = "TOWPATH_DRIVER",
        hide_env_values = true,
        default_value_t
    )]
    pub(super) driver: DriverChoice,
    /// MTU of the guest's interface, 1280 to 65520 bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = value_parser!(u16).range(1280..=65520))]
    pub(super) mtu: u16,
    #[command(flatten)]
    pub(super) log: Log,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(super) struct Network {
    /// IPv4 subnet of the guest, /8 to /29 [default: the first of a list that the host does not use]
    #[arg(long, value_name = "CIDR", value_parser = subnet::parse4)]
    pub(super) subnet: Option<(Ipv4Addr, u8)>,
    /// IPv6 prefix of the guest, a /64 [default: the first of a list that the host does not use]
    #[arg(long, value_name = "PREFIX/64", value_parser = subnet::parse6)]
    pub(super) subnet6: Option<Ipv6Addr>,
    /// MTU of the guest's interface, 1280 to 65520 bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = value_parser!(u16).range(1280..=65520))]
    pub(super) mtu: u16,
    /// Let the guest reach these ports of the host's 127.0.0.1 and ::1, at .2 and ::2: a list as
    /// 5201,8000-8010; without one all ports
    #[arg(
        long, value_name = "PORTS", num_args = 0..=1, require_equals = true,
        default_missing_value = "all"
    )]
    pub(super) host_loopback: Option<PortSet>,
    /// Ask this DNS server (may be repeated; with a port as 127.0.0.1:5353 or [::1]:5353)
    /// [default: those of the host's /etc/resolv.conf]
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = value::dns_server)]
    pub(super) dns: Vec<SocketAddr>,
    /// Domain name that the guest is told
    #[arg(long, value_name = "NAME", value_parser = value::domain)]
    pub(super) domain: Option<String>,
    /// Domain that the guest searches names in (may be repeated)
    #[arg(long, value_name = "NAME", value_parser = value::domain)]
    pub(super) search: Vec<String>,
    /// Threads that carry traffic: a number, or 'auto' (one per processor, at most 4). One carries
    /// more than 10 Gbit/s
    #[arg(long, value_name = "N|auto", default_value = "1", value_parser = value::cores)]
    pub(super) cores: usize,
    /// Pin these threads to a processor each [default: from two threads on; a lone one runs where
    /// the kernel finds a processor idle, which on a busy machine is sooner]
    #[arg(long, overrides_with = "no_pin")]
    pub(super) pin: bool,
    /// Let the kernel choose the processors of these threads
    #[arg(long, overrides_with = "pin")]
    pub(super) no_pin: bool,
    /// What carries the I/O of these threads
    #[arg(
        long,
        value_name = "NAME",
        value_enum,
        env = "TOWPATH_DRIVER",
        hide_env_values = true,
        default_value_t
    )]
    pub(super) driver: DriverChoice,
    /// How long a thread may stay awake, in microseconds, to see the next frame or answer at once
    /// instead of being woken for it; 0: it sleeps at once. Only between small messages, never for more
    /// than a sixteenth of a processor in vain, and not while others need the processor
    #[arg(long, value_name = "MICROS", default_value_t = BUSY_POLL_MICROS, value_parser = value_parser!(u32).range(0..=1000))]
    pub(super) busy_poll: u32,
    /// Make the guest's link misbehave: a list as loss=1%,up.reorder=2%,delay=500us,seed=7
    #[arg(long, value_name = "SPEC", hide = true)]
    pub(super) fault: Option<FaultPlan>,
    #[command(flatten)]
    pub(super) limits: Limits,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (reached: what is new is refused, what is there stays)")]
pub(super) struct Limits {
    /// TCP connections
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = value_parser!(u32).range(1..=4_000_000))]
    pub(super) max_tcp: u32,
    /// UDP mappings (ports of the guest in use)
    #[arg(long, value_name = "N", default_value_t = 8_192, value_parser = value_parser!(u32).range(1..=4_000_000))]
    pub(super) max_udp: u32,
    /// Pings (echo identifiers in use)
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = value_parser!(u32).range(1..=65_536))]
    pub(super) max_icmp: u32,
    /// TCP connections that one side has not accepted yet, half of it for each address of the guest; here
    /// the oldest is refused in favour of the new one
    #[arg(long, value_name = "N", default_value_t = 8_192, value_parser = value_parser!(u32).range(1..=4_000_000))]
    pub(super) max_pending: u32,
    /// Memory for data that waits for slow readers, all connections together
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = value::size)]
    pub(super) buffer_memory: usize,
    /// How long the guest or the host's peer may say nothing on an open TCP connection before it is asked
    /// whether it is still there; who answers is never cut off (RFC 5382: at least 2h4m)
    #[arg(long, value_name = "TIME", default_value = "2h4m", value_parser = value::duration)]
    pub(super) tcp_idle: Duration,
    /// How long a UDP mapping lives without traffic (RFC 4787: at least 2m)
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = value::duration)]
    pub(super) udp_timeout: Duration,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Supervision")]
pub(super) struct Supervision {
    /// Write "1" to this file descriptor and close it once traffic flows
    #[arg(long, value_name = "FD", value_parser = value_parser!(i32).range(0..))]
    pub(super) ready_fd: Option<i32>,
    /// End when the other side of this file descriptor (a pipe or a socket) is closed
    #[arg(long, value_name = "FD", value_parser = value_parser!(i32).range(0..))]
    pub(super) exit_fd: Option<i32>,
    /// Write the process id to this file once traffic flows, and remove it at the end
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct Log {
    /// Say what is done, and at the end what was moved and dropped; -vv says more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Form of the log, on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Line, String> {
        let words = super::super::words(line.split_whitespace().map(OsString::from));
        Line::try_parse_from(words).map_err(|error| error.to_string())
    }

    fn run(line: &str) -> Run {
        match parse(line).unwrap().command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Line::command().debug_assert();
    }

    #[test]
    fn the_command_keeps_its_own_options() {
        let run = run("towpath run -vv --mtu 9000 curl -sI --mtu 3 -- x");
        assert_eq!(run.command, ["curl", "-sI", "--mtu", "3", "--", "x"]);
        assert_eq!((run.network.mtu, run.log.verbose), (9000, 2));
        let run = self::run("towpath run -- -odd --name");
        assert_eq!(run.command, ["-odd", "--name"]);
    }

    #[test]
    fn host_loopback_with_and_without_ports() {
        let open = |line: &str| {
            run(line)
                .network
                .host_loopback
                .map(|ports| ports.to_string())
        };
        assert_eq!(open("towpath run x"), None);
        assert_eq!(
            open("towpath run --host-loopback 5201,8000-8010 x").unwrap(),
            "5201,8000-8010"
        );
        assert_eq!(open("towpath run --host-loopback x").unwrap(), "1-65535");
        assert_eq!(
            open("towpath run --host-loopback -- 80").unwrap(),
            "1-65535"
        );
    }

    #[test]
    fn every_mistake_is_named() {
        for (line, part) in [
            ("towpath run", "COMMAND"),
            ("towpath run --bogus x", "--bogus"),
            ("towpath run --mtu 1279 x", "1279"),
            ("towpath run --mtu 65521 x", "65521"),
            ("towpath run --subnet 10.0.2.5/24 x", "10.0.2.0/24"),
            ("towpath run --subnet6 fd00::/48 x", "must be 64"),
            ("towpath run --dns dns.example x", "dns.example"),
            ("towpath run --cores 0 x", "1 to 128"),
            ("towpath run --busy-poll 1001 x", "0..=1000"),
            ("towpath run --host-loopback 99999 x", "'99999'"),
            ("towpath run --buffer-memory 5Q x", "5Q"),
            ("towpath run --mac 01:00:5e:00:00:01 x", "group"),
            ("towpath run --ready-fd -1 x", "-1"),
            ("towpath run --fault loss=1%,seed=x y", "'seed=x'"),
            ("towpath attach --pid 1 --fault lose=1%", "'lose=1%'"),
            ("towpath run --log-format xml x", "xml"),
            ("towpath attach", "--pid"),
            ("towpath attach --pid 1 --netns x", "cannot be used with"),
            ("towpath attach --pid 0", "0"),
            ("towpath serve", "--listen"),
            ("towpath serve --listen /run/vm.sock", "qemu:///run/vm.sock"),
            (
                "towpath serve --listen tap:t --lease x=10.0.0.3",
                "MAC or UUID",
            ),
            ("towpath nonsense", "nonsense"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn help_teaches_and_hides_what_is_not_for_users() {
        let help = Line::command().render_long_help().to_string();
        assert!(help.contains("towpath run -- curl"), "{help}");
        assert!(!help.contains("__"), "{help}");
        let mut line = Line::command();
        for name in ["run", "attach", "serve"] {
            let command = line.find_subcommand_mut(name).expect("it is there");
            let help = command.render_long_help().to_string();
            assert!(!help.contains("--fault"), "{help}");
        }
    }
}

//! The `towpath` binary, driven from outside with real sockets in network namespaces.
//!
//! Every test has a world of its own (see [`support::world`]): a network namespace that plays the
//! host, with an address that servers listen on, an unreachable network and one that swallows
//! everything. The binary runs in it; its guests are namespaces that the test's own threads enter,
//! so that both ends of a flow are ordinary sockets of one process and a test reads from top to
//! bottom. Nothing leaves these namespaces.
//!
//! Root is not needed where users may make namespaces: the process then becomes root of a user
//! namespace of its own. A test that lacks something (no `/dev/net/tun`, no `udhcpc`) is reported
//! as ignored and says why on stderr; with `TOWPATH_TESTS_MUST_RUN=1` it fails.

use std::process::ExitCode;

use libtest_mimic::Arguments;

mod support;

mod attach;
mod cli;
mod configuration;
mod cores;
mod crowd;
mod dhcp;
mod dns;
mod driver;
mod endings;
mod faulty;
mod flood;
mod hostile;
mod icmp;
mod limits;
mod links;
mod memory;
mod offloads;
mod path_mtu;
mod policy;
mod quiet;
mod remains;
mod run;
mod slaac;
mod tcp;
mod udp;
mod vm;

fn main() -> ExitCode {
    if let Some(code) = support::reexec::dispatch() {
        return code;
    }
    let arguments = Arguments::from_args();
    if !arguments.list {
        support::needs::become_root();
        support::needs::raise_fd_limit();
    }
    let tests = [
        support::payload::tests(),
        tcp::tests(),
        endings::tests(),
        quiet::tests(),
        udp::tests(),
        icmp::tests(),
        dns::tests(),
        dhcp::tests(),
        slaac::tests(),
        policy::tests(),
        limits::tests(),
        cores::tests(),
        run::tests(),
        configuration::tests(),
        remains::tests(),
        cli::tests(),
        driver::tests(),
        attach::tests(),
        hostile::tests(),
        flood::tests(),
        memory::tests(),
        path_mtu::tests(),
        faulty::tests(),
        crowd::tests(),
        offloads::tests(),
        links::tests(),
        vm::tests(),
    ];
    let trials = tests
        .into_iter()
        .flatten()
        .map(support::harness::Test::into_trial)
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

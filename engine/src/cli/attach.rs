//! `towpath attach`: a network for a namespace that exists.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

use super::supervise::{Supervision, raise_limits};
use super::{args, logging, settings};
use crate::config::Network;
use crate::engine::Engine;
use crate::guest::signals::{self, Signals};
use crate::guest::{self, Failure, GuestOptions, Namespaces};

/// A namespace dies with its last process; this long its TAP may be gone before the process is.
const LAST_BREATH: Duration = Duration::from_millis(500);
const SIGUSR1: i32 = nix::sys::signal::Signal::SIGUSR1 as i32;
const SIGUSR2: i32 = nix::sys::signal::Signal::SIGUSR2 as i32;

/// Serves the namespace until it is told to end or there is nobody left to serve.
pub(super) fn run(arguments: &args::Attach, mut supervision: Supervision) -> Result<u8, Failure> {
    let signals = Signals::block()
        .map_err(|error| Failure::setup(format!("signals can't be heard: {error}")))?;
    let process = arguments
        .pid
        .map(open_process)
        .transpose()
        .map_err(Failure::setup)?;
    let namespaces = open_namespaces(arguments).map_err(Failure::setup)?;
    let kept_for = arguments.mac.unwrap_or(Network::GUEST_MAC);
    let config = settings::engine_config(&arguments.network, Some(kept_for))?;
    // A guest that configures itself may have its own idea of its address.
    let default_mac = (!arguments.no_configure).then_some(Network::GUEST_MAC);
    let options = GuestOptions {
        ifname: arguments.ifname.clone(),
        queues: config.cores,
        mac: arguments.mac.or(default_mac),
        configure: !arguments.no_configure,
        plain: false,
        map_root: false,
    };
    let queues = guest::attach(&options, &config.network, &namespaces)?;
    drop(namespaces);
    raise_limits();
    let network = config.network.clone();
    let engine =
        Engine::start(config, queues).map_err(|error| Failure::setup(error.to_string()))?;
    tracing::info!(
        "the guest is {} and {}; its /etc/resolv.conf is left alone, the name server is {}",
        network.guest4(),
        network.guest6(),
        network.gateway4()
    );
    supervision.tell_ready().map_err(Failure::setup)?;
    let outcome = serve(&engine, &signals, &supervision, process.as_ref());
    logging::summary(arguments.log, &engine.stop());
    outcome.map(|()| 0)
}

fn serve(
    engine: &Engine,
    signals: &Signals,
    supervision: &Supervision,
    process: Option<&OwnedFd>,
) -> Result<(), Failure> {
    loop {
        let mut waited = vec![signals.as_fd(), engine.failed()];
        let process_at = process.map(|process| {
            waited.push(process.as_fd());
            waited.len() - 1
        });
        let exit_at = supervision.exit().map(|exit| {
            waited.push(exit);
            waited.len() - 1
        });
        let ready = signals::wait(&waited, None)
            .map_err(|error| Failure::setup(format!("waiting for the end failed: {error}")))?;
        if let Some(arrival) =
            std::iter::from_fn(|| signals.next()).find(|a| ![SIGUSR1, SIGUSR2].contains(&a.number))
        {
            tracing::info!("signal {}: ending", arrival.number);
            return Ok(());
        }
        if process_at.is_some_and(|at| ready[at]) {
            tracing::info!("the process of the namespace has ended");
            return Ok(());
        }
        if exit_at.is_some_and(|at| ready[at]) && supervision.exit_is_due() {
            tracing::info!("the supervisor closed --exit-fd: ending");
            return Ok(());
        }
        if ready[1] {
            return engine_ended(engine, process);
        }
    }
}

/// With the process of the namespace it is an orderly end.
fn engine_ended(engine: &Engine, process: Option<&OwnedFd>) -> Result<(), Failure> {
    if let Some(process) = process
        && signals::wait(&[process.as_fd()], Some(LAST_BREATH)).is_ok_and(|ready| ready[0])
    {
        return Ok(());
    }
    Err(Failure::setup(
        engine.failure().unwrap_or("the engine has ended"),
    ))
}

fn open_process(pid: i32) -> Result<OwnedFd, String> {
    let gone = || format!("--pid {pid}: there is no such process");
    let pid = Pid::from_raw(pid).ok_or_else(gone)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
        rustix::io::Errno::SRCH => gone(),
        _ => format!("--pid {}: can't be watched: {errno}", pid.as_raw_nonzero()),
    })
}

fn open_namespaces(arguments: &args::Attach) -> Result<Namespaces, String> {
    let (net, own_user) = match (arguments.pid, &arguments.netns) {
        (Some(pid), _) => {
            let net = open(
                &format!("--pid {pid}"),
                Path::new(&format!("/proc/{pid}/ns/net")),
            )?;
            let user = format!("/proc/{pid}/ns/user");
            let user = if same_file(Path::new(&user), Path::new("/proc/self/ns/user")) {
                None
            } else {
                Some(open(&format!("--pid {pid}"), Path::new(&user))?)
            };
            (net, user)
        }
        (None, Some(path)) => (open("--netns", path)?, None),
        (None, None) => return Err("name a namespace by --pid or --netns".to_owned()),
    };
    if is_own_network(&net) {
        return Err(
            "this is the network namespace that towpath itself is in: its guest must have \
                    another (ip netns add, unshare -n)"
                .to_owned(),
        );
    }
    let asked_user = arguments
        .userns
        .as_ref()
        .map(|path| open("--userns", path))
        .transpose()?;
    let asked_user =
        asked_user.filter(|user| !same_namespace(user, Path::new("/proc/self/ns/user")));
    let user_required = asked_user.is_some();
    let user = asked_user.or(own_user).map(OwnedFd::from);
    Ok(Namespaces {
        net: net.into(),
        user,
        user_required,
    })
}

fn open(option: &str, path: &Path) -> Result<File, String> {
    File::open(path).map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::NotFound => "check that it exists ('ip netns list', 'lsns -t net')",
            std::io::ErrorKind::PermissionDenied => "it takes the rights of its owner, or root",
            _ => "it must be a namespace's file",
        };
        format!("{option}: can't open {}: {error}; {advice}", path.display())
    })
}

fn is_own_network(net: &File) -> bool {
    same_namespace(net, Path::new("/proc/self/ns/net"))
}

fn same_namespace(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    File::open(a).is_ok_and(|file| same_namespace(&file, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_known() {
        assert!(is_own_network(&File::open("/proc/self/ns/net").unwrap()));
        assert!(!is_own_network(&File::open("/proc/self/ns/user").unwrap()));
        assert!(same_file(
            Path::new("/proc/self/ns/user"),
            Path::new("/proc/thread-self/ns/user")
        ));
    }

    #[test]
    fn what_can_t_be_opened_is_named() {
        let error = open("--netns", Path::new("/run/netns/none-of-that-name")).unwrap_err();
        assert!(
            error.contains("--netns") && error.contains("none-of-that-name"),
            "{error}"
        );
        let error = open_process(i32::MAX).unwrap_err();
        assert!(error.contains("2147483647"), "{error}");
    }
}

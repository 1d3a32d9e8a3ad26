//! The bridge: a guest's TAP on one side, an engine's unix stream socket on the other.
//!
//! Engines made for virtual machines (passt, vpnkit, gvproxy) get their frames from a machine's
//! monitor. Here there is no machine: this process stands in the guest's namespace in place of the
//! monitor, so that such an engine carries the same loads as those that make a TAP themselves. It
//! is a process of its own so that its CPU time can be told from the engine's, and it does as little
//! as it can: one thread each way, all frames that are ready in one write, and frames of up to 64 KiB at
//! the TAP.
//!
//! With `--listen` it takes the engine's place instead: two bridges back to back are a link, with
//! which the bridge can be tried without an engine.

mod checksum;
mod cut;
mod framing;
mod merge;
mod packet;
mod pump;
#[cfg(test)]
mod tests;
mod vmnet;

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::failure::{Context, Failure, Outcome};
pub(crate) use framing::Framing;

/// The TAP's name.
const TAP: &str = "tap0";
/// How long an engine may take until its socket accepts.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(1);

/// Options of `bridge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How frames stand in the stream
    #[arg(long, value_enum)]
    kind: Framing,
    /// The engine's socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Make that socket and wait for the other side
    #[arg(long)]
    listen: bool,
    /// MTU of the TAP, in bytes
    #[arg(long)]
    mtu: u16,
    /// The TAP's address and prefix length, such as 10.0.2.100/24
    #[arg(long)]
    address: String,
    /// The default route's gateway
    #[arg(long)]
    gateway: Option<Ipv4Addr>,
}

/// Carries frames until one side ends.
///
/// # Errors
/// Always in the end: the engine closed its socket, or what else went wrong.
pub(crate) fn run(args: &Args) -> Outcome<()> {
    let stream = if args.listen {
        let listener = UnixListener::bind(&args.socket);
        let listener = listener.doing(format_args!("listen at {}", args.socket.display()))?;
        listener.accept().doing("wait for the other side")?.0
    } else {
        connect(&args.socket)?
    };
    let mac = match (args.kind, args.listen) {
        (Framing::Qemu, _) => None,
        (Framing::Vpnkit, false) => Some(vmnet::greet(&stream).doing("greet the engine")?),
        (Framing::Vpnkit, true) => {
            vmnet::answer(&stream, args.mtu).doing("answer the other side")?;
            None
        }
    };
    let tap = tap(args, mac)?;
    pump::run(tap, stream, args.kind, usize::from(args.mtu))
}

/// Connects to a socket that may not be there yet.
fn connect(socket: &Path) -> Outcome<UnixStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => {
                let (socket, seconds) = (socket.display(), PATIENCE.as_secs());
                return Err(Failure::new(format!(
                    "the engine's socket {socket} could not be reached in {seconds} s: {error}"
                )));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Makes the TAP in this namespace, with its address and route.
fn tap(args: &Args, mac: Option<[u8; 6]>) -> Outcome<SyncDevice> {
    let mut builder = DeviceBuilder::new().name(TAP).layer(Layer::L2);
    builder = builder.mtu(args.mtu).offload(true).enable(false);
    if let Some(mac) = mac {
        builder = builder.mac_addr(mac);
    }
    let tap = builder.build_sync().doing("make a TAP")?;
    tap.set_nonblocking(true).doing("set up the TAP")?;
    let mut commands = format!("addr add {} dev {TAP}\nlink set {TAP} up\n", args.address);
    if let Some(gateway) = args.gateway {
        commands += &format!("route add default via {gateway}\n");
    }
    ip(&commands)?;
    Ok(tap)
}

/// Runs commands of the `ip` program in this namespace, one a line.
fn ip(commands: &str) -> Outcome<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .doing("start ip")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(commands.as_bytes()).doing("write to ip")?;
    }
    let status = child.wait().doing("wait for ip")?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("ip refused one of: {commands}")))
    }
}

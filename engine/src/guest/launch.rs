//! The engine's side: starts the stages, gets the TAP's queues, talks to the command's init.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Stdio};

use towpath_ring::frames::tap::TapQueue;
use towpath_stack::wire::ethernet::MacAddress;

use super::message::{Addresses, Channel, DESCRIPTORS_MAX, FromStage, Order, ToStage};
use super::{JOIN, NAMESPACE, STATUS_SETUP_FAILED, join, namespace, resolv, stage_command};
use crate::config::Network;

/// How a guest is made.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// Name of its TAP, 1 to 15 bytes.
    pub ifname: String,
    /// How many queues the TAP should have, 1..=128; it may get fewer.
    pub queues: usize,
    /// MAC address of its interface; `None` leaves the one that the kernel or its maker chose.
    pub mac: Option<MacAddress>,
    /// Whether addresses and routes are set (else the guest asks DHCP and listens to
    /// router advertisements).
    pub configure: bool,
    /// Whether to do without the TAP's offloads, as where the kernel has none.
    pub plain: bool,
    /// Whether the caller becomes uid 0 of the guest's user namespace (`run` without root).
    pub map_root: bool,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            ifname: "tap0".to_owned(),
            queues: 1,
            mac: Some(Network::GUEST_MAC),
            configure: true,
            plain: false,
            map_root: false,
        }
    }
}

/// Namespaces to attach to.
#[derive(Debug)]
pub struct Namespaces {
    /// The network namespace.
    pub net: OwnedFd,
    /// A user namespace that gives rights over it.
    pub user: Option<OwnedFd>,
    /// Whether the user namespace must be entered; else only if it can't be done without.
    pub user_required: bool,
}

/// Why there is no guest, for the person who asked for it.
#[derive(Debug)]
pub struct Failure {
    /// What to exit with.
    pub status: u8,
    /// One sentence: what was wrong and what to do.
    pub reason: String,
}

impl Failure {
    pub(crate) fn setup(reason: impl Into<String>) -> Self {
        Self {
            status: STATUS_SETUP_FAILED,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Failure {}

/// A guest made by [`run`]: its init waits for [`Guest::go`], then runs the command.
#[derive(Debug)]
pub struct Guest {
    channel: Channel,
    stage: Child,
}

/// Makes namespaces with a TAP, and an init in them that is ready to run `command`. The caller must still
/// be in its own namespaces, and its thread must outlive the guest (the stages die with it).
///
/// Whoever links this as a library calls [`super::stage`] in `main`.
pub fn run(
    options: &GuestOptions,
    network: &Network,
    command: &[OsString],
) -> Result<(Guest, Vec<TapQueue>), Failure> {
    let arguments = namespace::Arguments {
        parent: i32::try_from(std::process::id()).unwrap_or_default(),
        map_root: options.map_root,
    };
    let words = arguments.to_words().into_iter().map(OsString::from);
    let (channel, stage) = start(NAMESPACE, words.chain(command.iter().cloned()))?;
    let mut guest = Guest { channel, stage };
    let mut order = order(options, network);
    order.resolv_conf = Some(resolv::contents(network));
    // A stage that failed already has said why; that is worth more than our broken pipe.
    let _ = guest
        .channel
        .send(&ToStage::Order(order), &[io::stdin().as_fd()]);
    let queues = await_queues(&guest.channel, &mut guest.stage)?;
    Ok((guest, queues))
}

/// Makes or takes a TAP in namespaces that exist. Nothing of ours stays in them but the TAP, which goes
/// with its queues.
pub fn attach(
    options: &GuestOptions,
    network: &Network,
    namespaces: &Namespaces,
) -> Result<Vec<TapQueue>, Failure> {
    let how = if namespaces.user_required {
        join::USER_FIRST
    } else {
        join::USER_IF_NEEDED
    };
    let words = [
        OsString::from(std::process::id().to_string()),
        OsString::from(how),
    ];
    let (channel, mut stage) = start(JOIN, words.into_iter())?;
    let descriptors: Vec<_> = [Some(&namespaces.net), namespaces.user.as_ref()]
        .into_iter()
        .flatten()
        .map(AsFd::as_fd)
        .collect();
    let _ = channel.send(&ToStage::Order(order(options, network)), &descriptors);
    let queues = await_queues(&channel, &mut stage);
    let _ = stage.wait();
    queues
}

impl Guest {
    /// Starts the command: the engine reads frames.
    pub fn go(&self) -> Result<(), Failure> {
        self.channel
            .send(&ToStage::Go, &[])
            .map_err(|error| Failure::setup(format!("the guest's init is gone: {error}")))
    }

    /// Sends a signal to the command.
    pub fn signal(&self, number: i32) {
        // Should init be gone, its end is about to be heard of.
        let _ = self.channel.send(&ToStage::Signal(number), &[]);
    }

    /// Waits for news of the command: its exit status (128+n for signal n), or why it could not be
    /// started. Wait for this to be readable ([`AsFd`]) to not be held up.
    pub fn status(&mut self) -> Result<u8, Failure> {
        let status = loop {
            match self.channel.receive() {
                Ok(Some((FromStage::Exited { status }, _))) => break Ok(status),
                Ok(Some((FromStage::Failed { status, reason }, _))) => {
                    break Err(Failure { status, reason });
                }
                Ok(Some((FromStage::Note(note), _))) => tracing::info!("{note}"),
                Ok(Some((FromStage::Ready(_), _))) => {}
                Ok(None) | Err(_) => {
                    let reason = "the guest's init was killed, and the command with it";
                    break Err(Failure {
                        status: 128 + 9,
                        reason: reason.to_owned(),
                    });
                }
            }
        };
        // With the first stage, every process of the guest is gone.
        let _ = self.stage.wait();
        status
    }

    /// Ends the guest and all of its processes, as `kill -9` would.
    pub fn kill(&mut self) {
        let _ = self.stage.kill();
        let _ = self.stage.wait();
    }
}

impl AsFd for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a stage with one end of a channel as its standard input.
fn start(name: &str, words: impl Iterator<Item = OsString>) -> Result<(Channel, Child), Failure> {
    let failed = |error: io::Error| {
        Failure::setup(format!(
            "this program can't be started again by /proc/self/exe: {error}"
        ))
    };
    let (channel, there) = Channel::pair().map_err(failed)?;
    let stage = stage_command(name)
        .args(words)
        .stdin(Stdio::from(there))
        .spawn()
        .map_err(failed)?;
    Ok((channel, stage))
}

fn order(options: &GuestOptions, network: &Network) -> Order {
    let addresses = Addresses {
        guest4: network.guest4(),
        prefix4: network.subnet4.1,
        gateway4: network.gateway4(),
        guest6: network.guest6(),
        gateway6: network.gateway6(),
    };
    Order {
        ifname: options.ifname.clone(),
        queues: options.queues.clamp(1, DESCRIPTORS_MAX),
        plain: options.plain,
        mtu: network.mtu,
        mac: options.mac.map(|MacAddress(bytes)| bytes),
        addresses: options.configure.then_some(addresses),
        resolv_conf: None,
    }
}

/// Waits until the interface is there.
fn await_queues(channel: &Channel, stage: &mut Child) -> Result<Vec<TapQueue>, Failure> {
    loop {
        match channel.receive() {
            Ok(Some((FromStage::Note(note), _))) => tracing::info!("{note}"),
            Ok(Some((FromStage::Ready(features), descriptors))) => {
                let queue = |fd| TapQueue::from_parts(fd, features.into());
                return Ok(descriptors.into_iter().map(queue).collect());
            }
            Ok(Some((FromStage::Failed { status, reason }, _))) => {
                return Err(Failure { status, reason });
            }
            Ok(Some((FromStage::Exited { .. }, _)) | None) | Err(_) => {
                let how = stage
                    .wait()
                    .map_or_else(|e| e.to_string(), |status| status.to_string());
                return Err(Failure::setup(format!(
                    "the guest's namespace was not made: {how}"
                )));
            }
        }
    }
}

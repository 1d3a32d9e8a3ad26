//! Whether a peer can run here, and which version of it.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::peers::{Link, Peer, Role};

/// How long a program may take to say its version.
const ANSWER: Duration = Duration::from_secs(2);

/// A peer that can run here, or why it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Presence {
    /// The peer's name.
    pub(crate) peer: String,
    pub(crate) role: Role,
    /// What the program says of its version, with its package's version where there is one.
    pub(crate) version: Option<String>,
    /// Why it is left out.
    pub(crate) missing: Option<String>,
}

impl Presence {
    /// Looks whether the peer can run here.
    pub(crate) fn of(peer: &Peer) -> Presence {
        let (version, missing) = match look(peer) {
            Ok(version) => (version, None),
            Err(why) => (None, Some(why)),
        };
        Presence {
            peer: peer.name.clone(),
            role: peer.role,
            version,
            missing,
        }
    }
}

/// The version, or why the peer cannot run.
fn look(peer: &Peer) -> Result<Option<String>, String> {
    if peer.link == Link::VhostUser {
        return Err(
            "a vhost-user engine needs a virtual machine as its front-end, which is not to be \
             had here; give it as kind=qemu if it has a stream socket as well"
                .to_owned(),
        );
    }
    let program = match (peer.command.first(), &peer.link) {
        (Some(program), _) => program.as_str(),
        (None, Link::Veth { offloads: false }) => "ethtool",
        (None, _) => return Ok(Some("the kernel's".to_owned())),
    };
    let says = first_line(Command::new(program).arg("--version"));
    let says = says.map_err(|error| format!("{}: {error}", Path::new(program).display()))?;
    let package = peer.package.as_deref().and_then(package_version);
    Ok(match (says, package) {
        (Some(says), Some(package)) => Some(format!("{says} (package {package})")),
        (says, package) => says.or(package),
    })
}

/// The first line that a program writes when it is asked for its version; its error when it cannot
/// be started.
fn first_line(command: &mut Command) -> io::Result<Option<String>> {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let end = Instant::now() + ANSWER;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            // It took the question for something else.
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    Ok(line.map(str::to_owned))
}

/// The version of a Debian package, where that is how programs come.
fn package_version(package: &str) -> Option<String> {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${Version}", package]);
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let version = String::from_utf8(output.stdout).ok()?;
    (!version.is_empty()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let peer = Peer::known("towpath", Path::new("/nowhere/towpath")).unwrap();
        let presence = Presence::of(&peer);
        assert_eq!(presence.version, None);
        assert!(presence.missing.unwrap().starts_with("/nowhere/towpath: "));
    }

    #[test]
    fn a_program_that_never_answers_has_no_version() {
        let mut command = Command::new("tail");
        assert_eq!(first_line(command.args(["-f", "/dev/null"])).unwrap(), None);
        let mut command = Command::new("sh");
        let says = first_line(command.args(["-c", "echo; echo 'x 1.0'; echo more"]));
        assert_eq!(says.unwrap().unwrap(), "x 1.0");
    }

    #[test]
    fn a_machine_s_device_is_named_as_missing() {
        let peer: Peer = "name=v,kind=vhost-user,cmd=true".parse().unwrap();
        let missing = Presence::of(&peer).missing.unwrap();
        assert!(missing.contains("virtual machine"), "{missing}");
    }

    #[test]
    fn the_kernel_is_always_there() {
        let peer = Peer::known("veth", Path::new("tp")).unwrap();
        assert_eq!(Presence::of(&peer).missing, None);
    }
}

//! Whether a peer can run here, and which version of it.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::peers::{Link, Peer, Role};

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
    let program = match (peer.command.first(), peer.link) {
        (Some(program), _) => program.as_str(),
        (None, Link::Veth { offloads: false }) => "ethtool",
        (None, _) => return Ok(Some("the kernel's".to_owned())),
    };
    let says = first_line(Command::new(program).arg("--version"));
    let says = says.map_err(|error| format!("{}: {error}", Path::new(program).display()))?;
    Ok(Some(
        match peer.package.as_deref().and_then(package_version) {
            Some(package) => format!("{says} (package {package})"),
            None => says,
        },
    ))
}

/// The first line that a program writes; its error when it cannot be started.
fn first_line(command: &mut Command) -> std::io::Result<String> {
    let output = command.output()?;
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned())
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
    fn the_kernel_is_always_there() {
        let peer = Peer::known("veth", Path::new("tp")).unwrap();
        assert_eq!(Presence::of(&peer).missing, None);
    }
}

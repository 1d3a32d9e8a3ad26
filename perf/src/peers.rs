//! The networks that are compared, and the limits beside them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

/// One way from the guest to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    Towpath,
    Pasta,
    Slirp4netns,
    /// A veth pair with its offloads: what the kernel alone can do between two namespaces.
    Veth,
    /// A veth pair without segmentation and receive offloads: each frame is at most an MTU.
    VethNoOffload,
    /// No link at all: client and server in one namespace.
    Loopback,
}

/// A peer that can run here, or why it cannot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Presence {
    pub(crate) peer: Peer,
    /// What the program says of its version, with its package's version where there is one.
    pub(crate) version: Option<String>,
    /// Why it is left out.
    pub(crate) missing: Option<String>,
}

impl Peer {
    /// The name on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Towpath => "towpath",
            Peer::Pasta => "pasta",
            Peer::Slirp4netns => "slirp4netns",
            Peer::Veth => "veth",
            Peer::VethNoOffload => "veth-no-offload",
            Peer::Loopback => "loopback",
        }
    }

    /// Whether it is one of the user-mode networks that towpath is measured against.
    pub(crate) fn is_rival(self) -> bool {
        matches!(self, Peer::Pasta | Peer::Slirp4netns)
    }

    /// Whether it is a limit to compare with: the kernel's own ways, which have no process.
    pub(crate) fn is_limit(self) -> bool {
        matches!(self, Peer::Veth | Peer::VethNoOffload | Peer::Loopback)
    }

    /// The engine's command line for a guest's namespace; `None` for the limits, which have no
    /// process.
    pub(crate) fn command(self, towpath: &Path, guest: &Path, mtu: u32) -> Option<Command> {
        let mtu = mtu.to_string();
        let mut command;
        match self {
            Peer::Towpath => {
                command = Command::new(towpath);
                command
                    .args(["attach", "--mtu", &mtu, "--netns"])
                    .arg(guest);
            }
            // No ports are spliced: all goes through the TAP, as it does for any address but the
            // loopback's.
            Peer::Pasta => {
                command = Command::new("pasta");
                command.args(["--config-net", "--foreground", "--mtu", &mtu]);
                command.args([
                    "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--netns",
                ]);
                command.arg(guest);
            }
            Peer::Slirp4netns => {
                command = Command::new("slirp4netns");
                command.args(["--configure", "--mtu", &mtu, "--netns-type=path"]);
                command.arg(guest).arg("tap0");
            }
            Peer::Veth | Peer::VethNoOffload | Peer::Loopback => return None,
        }
        Some(command)
    }

    /// Looks whether it can run here. `towpath` is the path of that program.
    pub(crate) fn look(self, towpath: &Path) -> Presence {
        let (program, package) = match self {
            Peer::Towpath => (towpath, None),
            Peer::Pasta => (Path::new("pasta"), Some("passt")),
            Peer::Slirp4netns => (Path::new("slirp4netns"), Some("slirp4netns")),
            Peer::VethNoOffload => (Path::new("ethtool"), None),
            Peer::Veth | Peer::Loopback => {
                let version = Some("the kernel's".to_owned());
                return Presence {
                    peer: self,
                    version,
                    missing: None,
                };
            }
        };
        match first_line(Command::new(program).arg("--version")) {
            Err(error) => {
                let missing = Some(format!("{}: {error}", program.display()));
                Presence {
                    peer: self,
                    version: None,
                    missing,
                }
            }
            Ok(says) => {
                let package = package.and_then(package_version);
                let version = match package {
                    Some(package) => format!("{says} (package {package})"),
                    None => says,
                };
                Presence {
                    peer: self,
                    version: Some(version),
                    missing: None,
                }
            }
        }
    }
}

/// Where the `towpath` program is when the command line does not say: beside this one, else on the
/// path.
pub(crate) fn default_towpath() -> PathBuf {
    std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("towpath"))
        .filter(|beside| beside.exists())
        .unwrap_or_else(|| PathBuf::from("towpath"))
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
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for peer in Peer::value_variants() {
            assert_eq!(Peer::from_str(peer.name(), false), Ok(*peer));
            assert_eq!(serde_json::to_value(peer).unwrap(), peer.name());
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let presence = Peer::Towpath.look(Path::new("/nowhere/towpath"));
        assert!(presence.missing.unwrap().starts_with("/nowhere/towpath: "));
    }

    #[test]
    fn engines_get_the_guest_and_the_mtu() {
        for peer in Peer::value_variants() {
            let Some(command) = peer.command(Path::new("tp"), Path::new("/ns/guest"), 65_520)
            else {
                assert!(peer.is_limit() && !peer.is_rival());
                continue;
            };
            let args: Vec<_> = command.get_args().collect();
            assert!(args.contains(&"/ns/guest".as_ref()), "{args:?}");
            assert!(args.contains(&"65520".as_ref()), "{args:?}");
        }
    }
}

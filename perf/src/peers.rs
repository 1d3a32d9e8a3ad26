//! The networks that are compared, and the limits beside them.
//!
//! A peer is plain data: a name, what it is to the comparison, how its link reaches the guest, and a
//! command line with places to fill in. The ones that are known here are made of the same words
//! as those that a user describes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bridge::Framing;
use crate::world::{HOST_ADDRESS, HOST_GATEWAY};

/// One way from the guest to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The name on the command line and in tables.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) link: Link,
    /// The engine's program and arguments, with `{sock}`, `{mtu}` and `{netns}` to be filled in;
    /// empty for the limits, which have no process.
    pub(crate) command: Vec<String>,
    /// The Debian package that it may have come in.
    pub(crate) package: Option<String>,
    /// The largest MTU that its protocol is used with; it is left out above.
    pub(crate) mtu_max: u32,
}

/// What vpnkit stays below, because Hyper-V's messages are no longer.
const VPNKIT_MTU_MAX: u32 = 8191;
/// The network of `towpath serve` here, its gateway and its first guest.
const SERVE: (&str, Ipv4Addr, &str) = (
    "198.18.4.0/24",
    Ipv4Addr::new(198, 18, 4, 1),
    "198.18.4.3/24",
);

/// What a peer is to the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// What is measured against the others: peers whose name begins with `towpath`.
    Subject,
    /// Another user-mode network.
    Rival,
    /// The kernel's own ways, which have no process.
    Limit,
}

/// How the guest is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// The engine makes a TAP in the guest's namespace and sets it up.
    Netns,
    /// The engine takes frames from a unix stream socket; a bridge of ours has the TAP.
    Socket {
        framing: Framing,
        /// The guest's address with its prefix length, and its gateway.
        address: String,
        gateway: Ipv4Addr,
    },
    /// The engine shares memory with a virtual machine, which is not to be had here.
    VhostUser,
    /// A veth pair; without segmentation and receive offloads each frame is at most an MTU.
    Veth { offloads: bool },
    /// No link at all: client and server in one namespace.
    Loopback,
}

/// The names of the peers that are known here, in the order in which they run.
pub(crate) const KNOWN: [&str; 9] = [
    "towpath",
    "towpath-qemu",
    "towpath-vpnkit",
    "pasta",
    "passt",
    "slirp4netns",
    "veth",
    "veth-no-offload",
    "loopback",
];

impl Peer {
    /// The known peer of this name; `towpath` is the path of that program.
    pub(crate) fn known(name: &str, towpath: &Path) -> Option<Peer> {
        let towpath = towpath.to_string_lossy();
        let serve = |framing, protocol| {
            let (subnet, gateway, address) = SERVE;
            let url = format!("{protocol}://{{sock}}");
            let mut command = vec![towpath.to_string(), "serve".to_owned()];
            let options = ["--mtu", "{mtu}", "--subnet", subnet, "--listen", &url];
            command.extend(options.map(str::to_owned));
            let address = address.to_owned();
            let link = Link::Socket {
                framing,
                address,
                gateway,
            };
            (Role::Subject, link, command, None)
        };
        let (role, link, command, package) = match name {
            "towpath" => {
                let command = [&*towpath, "attach", "--mtu", "{mtu}", "--netns", "{netns}"];
                (
                    Role::Subject,
                    Link::Netns,
                    command.map(str::to_owned).to_vec(),
                    None,
                )
            }
            "towpath-qemu" => serve(Framing::Qemu, "qemu"),
            "towpath-vpnkit" => serve(Framing::Vpnkit, "vpnkit"),
            // No ports are spliced: all goes through the TAP, as it does for any address but the
            // loopback's.
            "pasta" => (
                Role::Rival,
                Link::Netns,
                words(
                    "pasta --config-net --foreground --mtu {mtu} -t none -u none -T none -U none \
                     --netns {netns}",
                ),
                Some("passt"),
            ),
            // It gives its guest the host's address.
            "passt" => (
                Role::Rival,
                Link::Socket {
                    framing: Framing::Qemu,
                    address: HOST_ADDRESS.to_owned(),
                    gateway: HOST_GATEWAY,
                },
                words("passt --foreground --mtu {mtu} -t none -u none --socket {sock}"),
                Some("passt"),
            ),
            "slirp4netns" => (
                Role::Rival,
                Link::Netns,
                words("slirp4netns --configure --mtu {mtu} --netns-type=path {netns} tap0"),
                Some("slirp4netns"),
            ),
            "veth" => (Role::Limit, Link::Veth { offloads: true }, vec![], None),
            "veth-no-offload" => (Role::Limit, Link::Veth { offloads: false }, vec![], None),
            "loopback" => (Role::Limit, Link::Loopback, vec![], None),
            _ => return None,
        };
        Some(Peer {
            name: name.to_owned(),
            role,
            link,
            command,
            package: package.map(str::to_owned),
            mtu_max: if name == "towpath-vpnkit" {
                VPNKIT_MTU_MAX
            } else {
                u32::MAX
            },
        })
    }

    /// Whether it is a limit to compare with: the kernel's own ways, which have no process.
    pub(crate) fn is_limit(&self) -> bool {
        self.role == Role::Limit
    }

    /// The engine's command line with these values filled in; `None` for the limits.
    pub(crate) fn fill_in(&self, netns: &Path, socket: &Path, mtu: u32) -> Option<Vec<String>> {
        let (netns, socket, mtu) = (
            netns.to_string_lossy(),
            socket.to_string_lossy(),
            mtu.to_string(),
        );
        let fill = |word: &String| {
            word.replace("{netns}", &netns)
                .replace("{sock}", &socket)
                .replace("{mtu}", &mtu)
        };
        (!self.command.is_empty()).then(|| self.command.iter().map(fill).collect())
    }
}

/// The words of a command line.
fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_has_a_peer() {
        for name in KNOWN {
            let peer = Peer::known(name, Path::new("tp")).unwrap();
            assert_eq!(peer.name, name);
            assert_eq!(peer.is_limit(), peer.command.is_empty());
        }
        assert_eq!(Peer::known("bridge", Path::new("tp")), None);
    }

    #[test]
    fn engines_get_the_guest_and_the_mtu() {
        for name in KNOWN {
            let peer = Peer::known(name, Path::new("tp")).unwrap();
            let (netns, socket) = (Path::new("/ns/guest"), Path::new("/s.sock"));
            let Some(command) = peer.fill_in(netns, socket, 65_520) else {
                assert!(peer.is_limit());
                continue;
            };
            let guest = match peer.link {
                Link::Netns => "/ns/guest",
                _ => "/s.sock",
            };
            assert!(
                command.iter().any(|word| word.ends_with(guest)),
                "{command:?}"
            );
            assert!(command.contains(&"65520".to_owned()), "{command:?}");
        }
    }
}

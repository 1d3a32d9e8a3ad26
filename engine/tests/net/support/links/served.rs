//! `towpath serve`, and the sockets that it makes.

use std::path::PathBuf;

use tempfile::TempDir;

use super::super::guest::Attached;
use super::super::world::World;
use super::raw::RawGuest;
use super::{bess, qemu, vfkit, vpnkit};

/// A running engine, with a socket for each protocol in a directory of its own.
pub(crate) struct Served {
    /// The engine.
    pub(crate) attached: Attached,
    dir: TempDir,
}

/// The protocols that have a socket's path.
pub(crate) const PROTOCOLS: [&str; 4] = ["vpnkit", "qemu", "vfkit", "bess"];

impl World {
    /// Starts `towpath serve` with these options and a socket for each of [`PROTOCOLS`].
    #[track_caller]
    pub(crate) fn serve(&self, options: &[&str]) -> Served {
        let dir = TempDir::new().expect("a directory");
        let urls = PROTOCOLS.map(|protocol| {
            let path = dir.path().join(protocol);
            format!("{protocol}://{}", path.display())
        });
        let listen = urls.iter().flat_map(|url| ["--listen", url]);
        let options: Vec<&str> = listen.chain(options.iter().copied()).collect();
        Served {
            attached: self.supervised("serve", &options),
            dir,
        }
    }
}

impl Served {
    /// The path of a protocol's socket, or of another file in the same directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A guest of that protocol, whose MAC address, name and identity are made of a number.
    #[track_caller]
    pub(crate) fn join(&self, protocol: &str, number: u16) -> RawGuest {
        let path = self.path(protocol);
        match protocol {
            "vpnkit" => {
                let (link, interface) = vpnkit::join(&path, vpnkit::uuid(number.into()));
                let mac = interface.mac;
                RawGuest { link, mac }
            }
            "qemu" => RawGuest::new(qemu::join(&path), number),
            "bess" => RawGuest::new(bess::join(&path), number),
            "vfkit" => {
                // One in two says hello.
                let own = self.path(&format!("guest-{number}"));
                RawGuest::new(vfkit::join(&path, &own, number.is_multiple_of(2)), number)
            }
            other => panic!("no protocol {other}"),
        }
    }

    /// What the engine has written to stderr.
    pub(crate) fn said(&self) -> String {
        self.attached.engine.stderr()
    }

    /// Ends the engine; returns its stderr.
    #[track_caller]
    pub(crate) fn end(self) -> String {
        self.attached.end()
    }
}

//! `/etc/resolv.conf` as the command sees it.
//!
//! The host's file is never written. A file of ours, on a tmpfs that has no other name, is mounted over
//! it in the mount namespace of the guest. Where there is nothing to mount over (no file, or a symbolic
//! link that leads nowhere), an overlay over `/etc` takes the new file, again in memory.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::config::Network;

const FILE: &str = "/etc/resolv.conf";
/// Directories over which the tmpfs may be mounted for the moment that it needs a name.
const STAGING: [&str; 5] = ["/tmp", "/run", "/mnt", "/var/tmp", "/dev/shm"];

/// The gateway as name server over both IP versions, and the search list.
pub(crate) fn contents(network: &Network) -> String {
    let mut text = format!(
        "nameserver {}\nnameserver {}\n",
        network.gateway4(),
        network.gateway6()
    );
    let search: Vec<&str> = match &network.domain {
        Some(domain) if network.search.is_empty() => vec![domain],
        _ => network.search.iter().map(String::as_str).collect(),
    };
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    text
}

/// Puts `text` where the command will read it. Must be called in a mount namespace of our own whose
/// mounts are private.
pub(super) fn install(text: &str) -> Result<(), String> {
    let found = fs::canonicalize(FILE).ok().filter(|path| path.is_file());
    let staging = Staging::mount(found.as_deref())?;
    let outcome = match &found {
        Some(target) => cover(&staging.0, target, text),
        None => overlay(&staging.0, text),
    };
    outcome.map_err(|error| format!("/etc/resolv.conf stays as it is: {error}"))
}

/// Mounts a new file over `target`. The mount outlives the staging directory's.
fn cover(staging: &Path, target: &Path, text: &str) -> io::Result<()> {
    let file = staging.join("resolv.conf");
    write(&file, text)?;
    Ok(rustix::mount::mount_bind(&file, target)?)
}

/// Lays a writable layer over `/etc` and makes the file there.
fn overlay(staging: &Path, text: &str) -> io::Result<()> {
    let (upper, work) = (staging.join("upper"), staging.join("work"));
    for directory in [&upper, &work] {
        fs::create_dir(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    }
    let layers = format!(
        "lowerdir=/etc,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    // In a user namespace overlayfs keeps its marks in user.* attributes (Linux 5.11 and later).
    let mounted = [format!("{layers},userxattr"), layers]
        .iter()
        .any(|options| {
            std::ffi::CString::new(options.as_str()).is_ok_and(|options| {
                rustix::mount::mount("overlay", "/etc", "overlay", MountFlags::empty(), &*options)
                    .is_ok()
            })
        });
    if !mounted {
        let reason = "it does not exist, and this kernel lets no overlay be laid over /etc";
        return Err(io::Error::other(reason));
    }
    match fs::remove_file(FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => write(Path::new(FILE), text),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
}

/// A tmpfs over some directory, taken away when dropped. What is mounted from it stays.
struct Staging(PathBuf);

impl Staging {
    /// Not over a directory that hides `target`.
    fn mount(target: Option<&Path>) -> Result<Self, String> {
        let directory = staging_directory(target)
            .ok_or_else(|| format!("{FILE} stays as it is: no directory for a tmpfs"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("towpath", directory, "tmpfs", flags, c"size=256k,mode=755")
            .map_err(|error| format!("{FILE} stays as it is: no tmpfs on {directory}: {error}"))?;
        Ok(Self(PathBuf::from(directory)))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn staging_directory(target: Option<&Path>) -> Option<&'static str> {
    let hides = |directory: &str| target.is_some_and(|target| target.starts_with(directory));
    STAGING
        .into_iter()
        .find(|directory| Path::new(directory).is_dir() && !hides(directory))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn network(domain: Option<&str>, search: &[&str]) -> Network {
        Network {
            subnet4: ("10.1.2.0".parse().unwrap(), 24),
            subnet6: "fd00:1::".parse().unwrap(),
            mtu: 1500,
            gateway_mac: Network::GATEWAY_MAC,
            domain: domain.map(str::to_owned),
            search: search.iter().map(|&s| s.to_owned()).collect(),
            lease: Duration::from_secs(1),
        }
    }

    #[test]
    fn names_both_gateways_and_the_search_list() {
        let servers = "nameserver 10.1.2.1\nnameserver fd00:1::1\n";
        assert_eq!(contents(&network(None, &[])), servers);
        assert_eq!(
            contents(&network(Some("a.test"), &["b.test", "c.test"])),
            format!("{servers}search b.test c.test\n")
        );
        assert_eq!(
            contents(&network(Some("a.test"), &[])),
            format!("{servers}search a.test\n")
        );
    }

    #[test]
    fn the_staging_directory_does_not_hide_the_target() {
        let target = Path::new("/tmp/x/resolv.conf");
        assert_ne!(staging_directory(Some(target)), Some("/tmp"));
        assert!(staging_directory(None).is_some());
    }
}

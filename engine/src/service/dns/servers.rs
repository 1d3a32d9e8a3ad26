//! Which servers to ask: those that were configured, or those of the host as they are now.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use resolv_conf::{Config, ScopedIp};

use crate::config::DnsUpstream;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// The file is looked at when a query comes, at most this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of the file that are read; more than any real one has.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Servers that are asked, at most.
const SERVERS_MAX: usize = 8;

/// A list of servers that may change under way.
#[derive(Debug)]
pub(super) enum Servers {
    Fixed(Arc<[SocketAddr]>),
    File(Mutex<Watched>),
}

/// A `resolv.conf` that is read again when it changes.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    looked: Option<Instant>,
    /// Which version of the file the servers are from.
    version: Option<Version>,
    servers: Arc<[SocketAddr]>,
}

/// What tells two versions of a file apart, also when one was renamed over the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    bytes: u64,
}

impl Servers {
    pub(super) fn new(upstream: &DnsUpstream) -> Self {
        match upstream {
            DnsUpstream::System => Self::watch(Path::new(RESOLV_CONF)),
            DnsUpstream::Servers(servers) => Self::Fixed(
                servers
                    .iter()
                    .copied()
                    .map(reachable)
                    .take(SERVERS_MAX)
                    .collect(),
            ),
        }
    }

    pub(super) fn watch(path: &Path) -> Self {
        Self::File(Mutex::new(Watched {
            path: path.to_owned(),
            looked: None,
            version: None,
            servers: default_servers(),
        }))
    }

    /// The servers to ask at `now`, in order.
    pub(super) fn current(&self, now: Instant) -> Arc<[SocketAddr]> {
        match self {
            Self::Fixed(servers) => Arc::clone(servers),
            Self::File(watched) => {
                let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
                watched.look(now);
                Arc::clone(&watched.servers)
            }
        }
    }
}

impl Watched {
    fn look(&mut self, now: Instant) {
        if self
            .looked
            .is_some_and(|looked| now.duration_since(looked) < LOOK_INTERVAL)
        {
            return;
        }
        self.looked = Some(now);
        if let Err(error) = self.read_if_changed() {
            if error.kind() == io::ErrorKind::NotFound {
                // As the C library has it: no file, then a server on this host.
                self.version = None;
                self.servers = default_servers();
            } else {
                tracing::debug!("{}: {error}", self.path.display());
            }
        }
    }

    fn read_if_changed(&mut self) -> io::Result<()> {
        if self.version == Some(Version::of(&fs::metadata(&self.path)?)) {
            return Ok(());
        }
        let file = fs::File::open(&self.path)?;
        // Taken from the open file and before reading: if it changes meanwhile, the next look sees.
        let version = Version::of(&file.metadata()?);
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        self.version = Some(version);
        self.servers = parse(&bytes);
        tracing::debug!("DNS servers of {}: {:?}", self.path.display(), self.servers);
        Ok(())
    }
}

impl Version {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            bytes: metadata.size(),
        }
    }
}

/// The name servers of a `resolv.conf`; lines that make no sense are passed over.
fn parse(bytes: &[u8]) -> Arc<[SocketAddr]> {
    let (config, _errors) = Config::parse_with_errors(bytes);
    let servers: Arc<[_]> = config
        .nameservers
        .iter()
        .map(endpoint)
        .map(reachable)
        .take(SERVERS_MAX)
        .collect();
    if servers.is_empty() {
        default_servers()
    } else {
        servers
    }
}

fn endpoint(server: &ScopedIp) -> SocketAddr {
    match server {
        ScopedIp::V4(ip) => SocketAddr::V4(SocketAddrV4::new(*ip, PORT)),
        ScopedIp::V6(ip, scope) => {
            let scope = scope.as_deref().map_or(0, scope_id);
            SocketAddr::V6(SocketAddrV6::new(*ip, PORT, 0, scope))
        }
    }
}

/// A scope is an interface's name or number (RFC 4007 §11.2); 0 when there is none of that name.
fn scope_id(scope: &str) -> u32 {
    scope.parse().unwrap_or_else(|_| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        socket
            .and_then(|socket| Ok(rustix::net::netdevice::name_to_index(&socket, scope)?))
            .unwrap_or(0)
    })
}

/// The unspecified address means this host; answers come from its loopback address.
fn reachable(mut server: SocketAddr) -> SocketAddr {
    match server.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => server.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => server.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    server
}

fn default_servers() -> Arc<[SocketAddr]> {
    Arc::new([SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{Servers, parse};
    use crate::config::DnsUpstream;

    fn list(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|server| server.parse().unwrap()).collect()
    }

    #[test]
    fn name_servers_are_read() {
        let text = "# made by hand\nsearch a.example b.example\nnameserver 192.0.2.1\n\
            nonsense\noptions edns0 trust-ad unknown-option\nnameserver 2001:db8::1\n\
            nameserver not-an-address\nnameserver fe80::1%7\nnameserver 0.0.0.0\n";
        let expected = list(&[
            "192.0.2.1:53",
            "[2001:db8::1]:53",
            "[fe80::1%7]:53",
            "127.0.0.1:53",
        ]);
        assert_eq!(*parse(text.as_bytes()), expected);
        assert_eq!(
            *parse(b"nameserver fe80::1%lo\n"),
            list(&["[fe80::1%1]:53"])
        );
    }

    #[test]
    fn none_means_this_host() {
        let expected = list(&["127.0.0.1:53"]);
        for text in ["", "search example\n", "nameserver\n", "nameserver x\n"] {
            assert_eq!(*parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_list_is_bounded() {
        let text = "nameserver 192.0.2.1\n".repeat(100);
        assert_eq!(parse(text.as_bytes()).len(), super::SERVERS_MAX);
    }

    #[test]
    fn changes_are_seen_but_not_looked_for_all_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let servers = Servers::watch(&path);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(*servers.current(at(0)), list(&["127.0.0.1:53"]), "no file");

        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(
            *servers.current(at(999)),
            list(&["127.0.0.1:53"]),
            "too early to look"
        );
        assert_eq!(*servers.current(at(1000)), list(&["192.0.2.1:53"]));

        let other = folder.path().join("new");
        fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(
            *servers.current(at(2000)),
            list(&["192.0.2.2:53"]),
            "renamed over"
        );

        fs::write(&path, "nameserver 192.0.2.30\n").unwrap();
        assert_eq!(
            *servers.current(at(3000)),
            list(&["192.0.2.30:53"]),
            "written in place"
        );

        fs::remove_file(&path).unwrap();
        assert_eq!(
            *servers.current(at(4000)),
            list(&["127.0.0.1:53"]),
            "removed"
        );

        fs::write(&path, "nameserver 192.0.2.4\n").unwrap();
        assert_eq!(
            *servers.current(at(5000)),
            list(&["192.0.2.4:53"]),
            "back again"
        );
    }

    #[test]
    fn an_unreadable_file_keeps_the_servers_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let servers = Servers::watch(&path);
        let start = Instant::now();
        assert_eq!(*servers.current(start), list(&["192.0.2.1:53"]));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let later = start + Duration::from_secs(2);
        assert_eq!(*servers.current(later), list(&["192.0.2.1:53"]));
    }

    #[test]
    fn configured_servers_stay() {
        let configured = list(&["192.0.2.1:5353", "[::]:53"]);
        let servers = Servers::new(&DnsUpstream::Servers(configured));
        let expected = list(&["192.0.2.1:5353", "[::1]:53"]);
        assert_eq!(*servers.current(Instant::now()), expected);
    }

    proptest! {
        #[test]
        fn any_file_gives_servers(bytes: Vec<u8>, words in "(nameserver [0-9a-f:.%l]{0,20}\n){0,5}") {
            let file = [words.as_bytes(), &bytes].concat();
            prop_assert!(!parse(&file).is_empty());
        }
    }
}

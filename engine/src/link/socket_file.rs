//! Sockets that have a file: made for their owner alone, and gone when their owner is.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Guests that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The file of a socket; removed when dropped, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    /// Makes a socket at `path` with mode 0600 and, unless it takes datagrams, listens. A file that a
    /// socket left behind which nobody holds any more is replaced.
    ///
    /// # Errors
    ///
    /// For people: another program serves the path, the file is no socket, the folder is not there.
    pub(super) fn listen(path: &Path, kind: SocketType) -> Result<(OwnedFd, Self), String> {
        let failed = |error: &dyn fmt::Display| format!("the socket can't be made: {error}");
        let socket = private_socket(kind).map_err(|error| failed(&error))?;
        let address = SocketAddrUnix::new(path).map_err(|error| failed(&error))?;
        let bound = match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path)?;
                bind(&socket, &address)
            }
            outcome => outcome,
        };
        bound.map_err(|errno| match errno {
            Errno::NOENT => "the folder does not exist".to_owned(),
            Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                format!(
                    "{}; the folder must be one that you may write to",
                    failed(&errno)
                )
            }
            _ => failed(&errno),
        })?;
        let file = Self {
            path: path.to_owned(),
            identity: identity(path).map_err(|error| failed(&error))?,
        };
        if kind != SocketType::DGRAM {
            listen(&socket, BACKLOG).map_err(|error| failed(&error))?;
        }
        Ok((socket, file))
    }

    /// Puts a fresh datagram socket into this one's place, in one step: who sends to the path reaches
    /// the old socket or the new one. Who is connected to the old one stays with it. `None` if the file is
    /// gone or another's.
    pub(super) fn renew(&mut self) -> io::Result<Option<OwnedFd>> {
        if identity(&self.path).ok() != Some(self.identity) {
            return Ok(None);
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // Through the folder's descriptor, as the path beside this one may be too long for an address.
        let draft = PathBuf::from(format!(
            "/proc/self/fd/{}/.towpath-{}-{:x}",
            folder.as_raw_fd(),
            std::process::id(),
            self.identity.1
        ));
        let socket = private_socket(SocketType::DGRAM)?;
        bind(&socket, &SocketAddrUnix::new(&draft)?)?;
        match fs::rename(&draft, &self.path).and_then(|()| identity(&self.path)) {
            Ok(identity) => {
                self.identity = identity;
                Ok(Some(socket))
            }
            Err(error) => {
                let _ = fs::remove_file(&draft);
                Err(error)
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The mode goes to the socket before it has a name: the kernel gives it to the file that it makes, so
/// the file is nobody else's from the start.
fn private_socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    Ok(socket)
}

/// Removes the file of a socket that nobody holds. Whatever kind of socket it was, a connection says so:
/// one to a dead socket is refused before its kind is looked at.
fn remove_stale(path: &Path) -> Result<(), String> {
    let failed = |error: &dyn fmt::Display| format!("what is there can't be looked at: {error}");
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(
            "there is a file that is no socket, which is left alone: take another path or remove it"
                .to_owned(),
        );
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .map_err(|error| failed(&error))?;
    let address = SocketAddrUnix::new(path).map_err(|error| failed(&error))?;
    match connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path)
            .map_err(|error| format!("a socket that nobody serves can't be removed: {error}")),
        Err(Errno::NOENT) => Ok(()),
        Err(errno @ Errno::ACCESS) => Err(failed(&errno)),
        _ => Err("another program serves this socket: end it or take another path".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    const KINDS: [SocketType; 3] = [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM];

    #[test]
    fn a_socket_file_is_private_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for kind in KINDS {
            let made = SocketFile::listen(&path, kind).unwrap();
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{kind:?}");
            drop(made);
            assert!(!path.exists(), "{kind:?}");
        }
    }

    #[test]
    fn a_stale_one_is_replaced_and_a_live_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for kind in KINDS {
            drop(UnixListener::bind(&path).unwrap());
            assert!(path.exists());
            let (_socket, file) = SocketFile::listen(&path, kind).unwrap();
            for again in KINDS {
                let error = SocketFile::listen(&path, again).unwrap_err();
                assert!(error.contains("another program serves"), "{error}");
            }
            drop(file);
            drop(UnixDatagram::bind(&path).unwrap());
            SocketFile::listen(&path, kind).unwrap();
        }
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        let error = SocketFile::listen(&path, SocketType::STREAM).unwrap_err();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let error = SocketFile::listen(&folder.path().join("none/s"), SocketType::STREAM);
        assert!(error.unwrap_err().contains("folder does not exist"));
    }

    #[test]
    fn a_successor_s_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_socket, file) = SocketFile::listen(&path, SocketType::STREAM).unwrap();
        fs::remove_file(&path).unwrap();
        let successor = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(UnixStream::connect(&path).is_ok());
        drop(successor);
    }

    #[test]
    fn who_is_connected_stays_when_the_socket_is_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (old, mut file) = SocketFile::listen(&path, SocketType::DGRAM).unwrap();
        let old = UnixDatagram::from(old);
        let first = UnixDatagram::unbound().unwrap();
        first.connect(&path).unwrap();
        let new = UnixDatagram::from(file.renew().unwrap().unwrap());
        let second = UnixDatagram::unbound().unwrap();
        second.connect(&path).unwrap();
        first.send(b"first").unwrap();
        second.send(b"second").unwrap();
        let mut bytes = [0; 9];
        assert_eq!(old.recv(&mut bytes).unwrap(), 5);
        assert_eq!(new.recv(&mut bytes).unwrap(), 6);
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        fs::rename(&path, folder.path().join("away")).unwrap();
        let successor = UnixDatagram::bind(&path).unwrap();
        assert!(file.renew().unwrap().is_none(), "not ours any more");
        drop(successor);
        fs::rename(folder.path().join("away"), &path).unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

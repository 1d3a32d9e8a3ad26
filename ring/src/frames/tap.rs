//! TAP interfaces: frames of a network namespace, with the offload header where the kernel has it.
//!
//! A TAP is opened once per queue. What is asked for, in this order, until the kernel agrees:
//! several queues with the offload header; one queue with it; one queue without. (A TAP that was made
//! beforehand without `multi_queue` refuses a multi-queue attach but takes the header.) With the header
//! come the offloads, again as many as the kernel has: checksums and TCP super-frames both ways, UDP
//! super-frames from Linux 6.2 on.
//!
//! Layout of the header (virtio-net, 10 bytes, host byte order): flags u8, gso_type u8, hdr_len u16,
//! gso_size u16, csum_start u16, csum_offset u16.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::driver::LinkFeatures;

/// The length of the offload header in bytes.
pub const OFFLOAD_HEADER_BYTES: usize = 10;

/// The longest frame that a TAP carries: an IP packet of 65,535 bytes, ethernet and one VLAN tag.
const FRAME_MAX: usize = 65_535 + 14 + 4;

/// The longest interface name in bytes.
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

// linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;
const TUN_TSO: libc::c_uint = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
const TUN_USO: libc::c_uint = TUN_F_USO4 | TUN_F_USO6;

/// How to make a TAP.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TapOptions {
    /// The user that may open it later without privileges, if it is to be made persistent by others.
    pub owner: Option<u32>,
    /// Don't ask for the offload header (for tests and comparisons).
    pub plain: bool,
}

/// A TAP interface, open.
#[derive(Debug)]
pub struct Tap {
    /// Its queues, at least one.
    pub queues: Vec<TapQueue>,
    /// What its frames may be like.
    pub features: LinkFeatures,
}

/// One queue of a TAP.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    features: LinkFeatures,
}

impl Tap {
    /// Opens the TAP `name` in the network namespace of the calling thread with up to `queues` queues
    /// (at least one), and makes it if it does not exist. It goes away with its last queue unless
    /// somebody made it persistent.
    ///
    /// # Errors
    ///
    /// The step that failed, with what to do about it in the text.
    pub fn create(name: &str, queues: usize, options: &TapOptions) -> Result<Tap, TapError> {
        let attempts: &[(usize, libc::c_int)] = match (options.plain, queues > 1) {
            (true, _) => &[(1, 0)],
            (false, true) => &[
                (usize::MAX, libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR),
                (1, libc::IFF_VNET_HDR),
                (1, 0),
            ],
            (false, false) => &[
                (1, libc::IFF_VNET_HDR),
                (1, libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR),
                (1, 0),
            ],
        };
        let mut refused = None;
        for &(queues_max, flags) in attempts {
            match open_queues(name, queues.clamp(1, queues_max), flags, options) {
                Ok(tap) => return Ok(tap),
                // The kernel's word for "not with these flags".
                Err(
                    error @ TapError::Attach {
                        errno: Errno::INVAL,
                        ..
                    },
                ) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or(TapError::Name))
    }

    /// Opens the macvtap with this interface index, which somebody made: the kernel gives each a character
    /// device of its own. One queue, with the offload header: it always has it.
    ///
    /// # Errors
    ///
    /// There is no such device, this user may not open it, or another program has all its queues.
    pub fn open_macvtap(index: u32) -> Result<Tap, TapError> {
        let device = format!("/dev/tap{index}");
        let fd = open_device(&device).map_err(|errno| TapError::Macvtap {
            device: device.clone(),
            errno,
        })?;
        // The name is not looked at: the device is the interface.
        let request = Request::new(
            "macvtap",
            libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR,
        )?;
        attach(&fd, &request).map_err(|errno| TapError::Macvtap { device, errno })?;
        let features = configure(&fd, true)?;
        Ok(Tap {
            queues: vec![TapQueue { fd, features }],
            features,
        })
    }
}

impl TapQueue {
    /// A queue from its parts, as they come out of [`TapQueue::into_fd`] and
    /// [`TapQueue::features`] in another process.
    #[must_use]
    pub fn from_parts(fd: OwnedFd, features: LinkFeatures) -> TapQueue {
        TapQueue { fd, features }
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// What its frames may be like.
    #[must_use]
    pub fn features(&self) -> LinkFeatures {
        self.features
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why a TAP could not be opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TapError {
    /// The name is empty, longer than 15 bytes, or has a `/`, a space or a `%`.
    Name,
    /// `/dev/net/tun` could not be opened.
    Open(Errno),
    /// A macvtap's device could not be opened.
    Macvtap {
        /// The device.
        device: String,
        /// Why.
        errno: Errno,
    },
    /// `TUNSETIFF` was refused.
    Attach {
        /// The interface.
        name: String,
        /// Why.
        errno: Errno,
    },
    /// A later step was refused.
    Configure {
        /// The `ioctl`.
        step: &'static str,
        /// Why.
        errno: Errno,
    },
}

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TapError::Name => {
                write!(
                    f,
                    "an interface name has 1 to 15 bytes, without '/', '%' and spaces"
                )
            }
            TapError::Open(errno) => {
                write!(f, "cannot open /dev/net/tun: {errno}")?;
                match *errno {
                    Errno::NOENT => write!(
                        f,
                        "; load the module (modprobe tun) or, in a container, pass the device in \
                         (--device /dev/net/tun)"
                    ),
                    Errno::ACCESS | Errno::PERM => write!(
                        f,
                        "; allow this user to read and write it (most systems: mode 0666), or allow \
                         device 10:200 in the container's device rules"
                    ),
                    Errno::NODEV | Errno::NXIO => write!(f, "; the kernel has no TUN/TAP support"),
                    _ => Ok(()),
                }
            }
            TapError::Macvtap { device, errno } => {
                write!(f, "cannot open the macvtap's device {device}: {errno}")?;
                match *errno {
                    Errno::NOENT => write!(f, "; udev, or mknod as root, makes it"),
                    Errno::ACCESS | Errno::PERM => {
                        write!(f, "; allow this user to read and write it")
                    }
                    Errno::BUSY => write!(f, "; another program has it open"),
                    _ => Ok(()),
                }
            }
            TapError::Attach { name, errno } => {
                write!(f, "cannot attach to the TAP {name}: {errno}")?;
                match *errno {
                    Errno::PERM => write!(
                        f,
                        "; CAP_NET_ADMIN in the namespace is needed, or a TAP made for this user"
                    ),
                    Errno::BUSY => write!(
                        f,
                        "; another program has it open: stop that program or take another name"
                    ),
                    Errno::INVAL => {
                        write!(
                            f,
                            "; an interface of that name exists that is not a usable TAP"
                        )
                    }
                    Errno::TOOBIG => write!(f, "; the TAP has no more queues"),
                    _ => Ok(()),
                }
            }
            TapError::Configure { step, errno } => {
                write!(f, "cannot set up the TAP: {step}: {errno}")
            }
        }
    }
}

impl std::error::Error for TapError {}

/// Opens `count` queues with one set of flags. A TAP that takes fewer queues gives those it takes.
fn open_queues(
    name: &str,
    count: usize,
    flags: libc::c_int,
    options: &TapOptions,
) -> Result<Tap, TapError> {
    let request = Request::new(name, libc::IFF_TAP | libc::IFF_NO_PI | flags)?;
    let mut tap = Tap {
        queues: Vec::with_capacity(count),
        features: LinkFeatures::default(),
    };
    for number in 0..count {
        let fd = open_device("/dev/net/tun").map_err(TapError::Open)?;
        match attach(&fd, &request) {
            Ok(()) => {}
            // Some queues are there; more are not to be had.
            Err(Errno::TOOBIG | Errno::BUSY) if number > 0 => break,
            Err(errno) => {
                return Err(TapError::Attach {
                    name: name.to_owned(),
                    errno,
                });
            }
        }
        if number == 0 {
            tap.features = configure(&fd, flags & libc::IFF_VNET_HDR != 0)?;
            if let Some(owner) = options.owner {
                set_word(&fd, libc::TUNSETOWNER as _, libc::c_ulong::from(owner)).map_err(
                    |errno| TapError::Configure {
                        step: "TUNSETOWNER",
                        errno,
                    },
                )?;
            }
        }
        tap.queues.push(TapQueue {
            fd,
            features: tap.features,
        });
    }
    Ok(tap)
}

fn open_device(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Header size and offloads belong to the interface: one queue sets them for all.
fn configure(fd: &OwnedFd, offload_header: bool) -> Result<LinkFeatures, TapError> {
    let mut features = LinkFeatures {
        frame_max: FRAME_MAX,
        ..LinkFeatures::default()
    };
    if !offload_header {
        return Ok(features);
    }
    features.offload_header = true;
    set_int(
        fd,
        libc::TUNSETVNETHDRSZ as _,
        OFFLOAD_HEADER_BYTES as libc::c_int,
    )
    .map_err(|errno| TapError::Configure {
        step: "TUNSETVNETHDRSZ",
        errno,
    })?;
    for offloads in [TUN_TSO | TUN_USO, TUN_TSO, TUN_F_CSUM, 0] {
        if set_word(fd, libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offloads)).is_ok() {
            features.checksum = offloads & TUN_F_CSUM != 0;
            features.tso4 = offloads & TUN_F_TSO4 != 0;
            features.tso6 = offloads & TUN_F_TSO6 != 0;
            features.uso = offloads & TUN_USO == TUN_USO;
            break;
        }
    }
    Ok(features)
}

/// `struct ifreq` as `TUNSETIFF` reads it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    /// The rest of the union.
    padding: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

impl Request {
    fn new(name: &str, flags: libc::c_int) -> Result<Request, TapError> {
        let bytes = name.as_bytes();
        let allowed = |byte: &u8| byte.is_ascii_graphic() && !b"/%:".contains(byte);
        let reserved = name == "." || name == "..";
        if bytes.is_empty() || bytes.len() > NAME_MAX || !bytes.iter().all(allowed) || reserved {
            return Err(TapError::Name);
        }
        let mut request = Request {
            name: [0; libc::IFNAMSIZ],
            flags: flags as libc::c_short,
            padding: [0; 22],
        };
        request.name[..bytes.len()].copy_from_slice(bytes);
        Ok(request)
    }
}

fn attach(fd: &OwnedFd, request: &Request) -> Result<(), Errno> {
    // The kernel writes the name back; a copy keeps the request for the next queue.
    let mut request = Request {
        name: request.name,
        flags: request.flags,
        padding: [0; 22],
    };
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, which `Request` is laid out as and as
    // large as; it lives through the call.
    outcome(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })
}

/// An `ioctl` that takes a pointer to an int.
fn set_int(fd: &OwnedFd, code: libc::Ioctl, value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the callers' codes read one int through the pointer, which lives through the call.
    outcome(unsafe { libc::ioctl(fd.as_raw_fd(), code, &raw const value) })
}

/// An `ioctl` that takes its argument by value.
fn set_word(fd: &OwnedFd, code: libc::Ioctl, value: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the callers' codes take a number, not an address.
    outcome(unsafe { libc::ioctl(fd.as_raw_fd(), code, value) })
}

fn outcome(result: libc::c_int) -> Result<(), Errno> {
    if result >= 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused_before_the_kernel_sees_them() {
        for name in [
            "",
            "sixteen-bytes-xx",
            "a/b",
            "a b",
            "tap%d",
            "..",
            "a\0b",
            "täp",
        ] {
            let refused = Tap::create(name, 1, &TapOptions::default()).map(|_| ());
            assert_eq!(refused, Err(TapError::Name), "{name:?}");
        }
        assert!(Request::new("fifteen-bytes-x", 0).is_ok());
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = TapError::Open(Errno::NOENT).to_string();
        assert!(text.contains("modprobe tun"), "{text}");
        let text = TapError::Open(Errno::ACCESS).to_string();
        assert!(text.contains("0666"), "{text}");
        let text = Tap::open_macvtap(u32::MAX).unwrap_err().to_string();
        assert!(text.contains("/dev/tap4294967295"), "{text}");
        let attach = |errno| {
            TapError::Attach {
                name: "tap0".into(),
                errno,
            }
            .to_string()
        };
        assert!(attach(Errno::PERM).contains("CAP_NET_ADMIN"));
        assert!(attach(Errno::BUSY).contains("another program"));
    }
}

//! Where guests come from, as people write it: `qemu:///run/vm.sock`, `fd:7,proto=bess`, `tap:tap0`.
//!
//! Paths are taken as they stand: nothing in them is escaped.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a socket in bytes: `sun_path` has 108, the last of them zero.
const PATH_MAX: usize = 107;
/// Every context id: a listening socket takes guests whatever address they call it by.
const CID_ANY: u32 = u32::MAX;

/// How frames go over a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// vpnkit's: a hello, then frames on a stream behind 16-bit little-endian lengths.
    Vpnkit,
    /// The same frames without a hello, as `gvforwarder` writes them to its standard output.
    Gvproxy,
    /// QEMU's `-netdev stream`: frames on a stream behind 32-bit big-endian lengths.
    Qemu,
    /// vfkit's: each datagram is a frame.
    Vfkit,
    /// BESS's: each packet of a `SOCK_SEQPACKET` socket is a frame.
    Bess,
}

impl Protocol {
    const ALL: [Self; 5] = [
        Self::Vpnkit,
        Self::Gvproxy,
        Self::Qemu,
        Self::Vfkit,
        Self::Bess,
    ];

    /// Its name in URLs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vpnkit => "vpnkit",
            Self::Gvproxy => "gvproxy",
            Self::Qemu => "qemu",
            Self::Vfkit => "vfkit",
            Self::Bess => "bess",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name)
    }
}

/// Where guests come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LinkUrl {
    /// A UNIX socket to be made.
    Path {
        /// What is spoken there.
        protocol: Protocol,
        /// Absolute, and short enough for a socket's address.
        path: PathBuf,
    },
    /// Standard input and output: one guest.
    Stdio(Protocol),
    /// An inherited socket.
    Descriptor {
        /// Its number.
        number: i32,
        /// What is spoken there.
        protocol: Protocol,
    },
    /// An `AF_VSOCK` address to listen at; vpnkit's protocol is spoken there.
    Vsock {
        /// The context id of this machine, or all ones for any.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A TAP of this process's own network namespace: one guest, or a bridge with many.
    Tap(String),
}

impl fmt::Display for LinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { protocol, path } => write!(f, "{}://{}", protocol.name(), path.display()),
            Self::Stdio(protocol) => write!(f, "stdio:proto={}", protocol.name()),
            Self::Descriptor { number, protocol } => {
                write!(f, "fd:{number},proto={}", protocol.name())
            }
            Self::Vsock { cid: CID_ANY, port } => write!(f, "vsock://any:{port}"),
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Tap(name) => write!(f, "tap:{name}"),
        }
    }
}

impl FromStr for LinkUrl {
    type Err = String;

    /// Reads a URL; the error says what was wrong with it and what the nearest right one is.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(without_scheme(text));
        };
        match scheme {
            "vpnkit" | "qemu" | "vfkit" | "bess" => {
                let protocol = Protocol::named(scheme).ok_or_else(unknown)?;
                path(protocol, rest)
            }
            "stdio" => stdio(rest),
            "fd" => descriptor(rest),
            "vsock" => vsock(rest),
            "tap" => tap(rest),
            "unix" | "gvproxy" => Err(format!(
                "'{scheme}:' does not say what is spoken there: write vpnkit://PATH, qemu://PATH (passt's \
                 and libkrun's streams too), vfkit://PATH or bess://PATH"
            )),
            "unixgram" => Err(format!(
                "datagrams are vfkit's: write {}",
                as_path("vfkit", rest)
            )),
            "unixpacket" => Err(format!(
                "packets are BESS's: write {}",
                as_path("bess", rest)
            )),
            _ => Err(unknown()),
        }
    }
}

fn unknown() -> String {
    "must be vpnkit://PATH, qemu://PATH, vfkit://PATH, bess://PATH, stdio:, fd:N,proto=PROTOCOL, \
     vsock://CID:PORT or tap:NAME"
        .to_owned()
}

/// A bare word: a path, or a scheme whose colon was forgotten.
fn without_scheme(text: &str) -> String {
    match text {
        "stdio" => "the colon is missing: write stdio:".to_owned(),
        _ if text.contains('/') => format!(
            "does not say what is spoken there: write {} or {}",
            as_path("vpnkit", text),
            as_path("qemu", text)
        ),
        _ => unknown(),
    }
}

/// What was probably meant: an absolute path behind three slashes.
fn as_path(scheme: &str, rest: &str) -> String {
    let path = rest.trim_start_matches('/');
    let path = if path.is_empty() { "run/vm.sock" } else { path };
    format!("{scheme}:///{path}")
}

fn path(protocol: Protocol, rest: &str) -> Result<LinkUrl, String> {
    let name = protocol.name();
    let Some(path) = rest.strip_prefix("//") else {
        return Err(format!(
            "a path stands behind '{name}://': write {}",
            as_path(name, rest)
        ));
    };
    if path.len() < 2 || path.ends_with('/') {
        return Err(format!(
            "the path is missing: write {}",
            as_path(name, path)
        ));
    }
    if !path.starts_with('/') {
        return Err(format!(
            "the path must be absolute, with its own slash behind '{name}://': write {}",
            as_path(name, path)
        ));
    }
    if path.contains('\0') {
        return Err("a path has no zero byte".to_owned());
    }
    if path.len() > PATH_MAX {
        return Err(format!(
            "the path has {} bytes, and a socket's address has room for {PATH_MAX}: put it into a folder \
             with a shorter name",
            path.len()
        ));
    }
    Ok(LinkUrl::Path {
        protocol,
        path: PathBuf::from(path),
    })
}

/// `proto=NAME`, of those that this kind of link can carry.
fn protocol(text: &str, whole: &str, allowed: &[Protocol]) -> Result<Protocol, String> {
    let names: Vec<_> = allowed.iter().map(|protocol| protocol.name()).collect();
    text.strip_prefix("proto=")
        .and_then(Protocol::named)
        .filter(|protocol| allowed.contains(protocol))
        .ok_or_else(|| {
            format!(
                "the protocol must be one of {}: write {whole}proto={}",
                names.join(", "),
                names[0]
            )
        })
}

/// Pipes carry streams alone, and of a socket the same is asked.
fn stdio(rest: &str) -> Result<LinkUrl, String> {
    if rest.is_empty() {
        return Ok(LinkUrl::Stdio(Protocol::Gvproxy));
    }
    let streams = [Protocol::Gvproxy, Protocol::Vpnkit, Protocol::Qemu];
    protocol(rest, "stdio:", &streams).map(LinkUrl::Stdio)
}

fn descriptor(rest: &str) -> Result<LinkUrl, String> {
    let (number, proto) = rest.split_once(',').unwrap_or((rest, ""));
    let number = match number.parse() {
        Ok(number @ 0..) => number,
        _ => {
            return Err("the number of a file descriptor is missing: write fd:3,proto=qemu".into());
        }
    };
    let protocol = protocol(proto, &format!("fd:{number},"), &Protocol::ALL)?;
    Ok(LinkUrl::Descriptor { number, protocol })
}

fn vsock(rest: &str) -> Result<LinkUrl, String> {
    let wrong = || "must be vsock://CID:PORT, as vsock://any:1024 or vsock://2:1024".to_owned();
    let (cid, port) = rest
        .strip_prefix("//")
        .and_then(|address| address.rsplit_once(':'))
        .ok_or_else(wrong)?;
    let cid = match cid {
        "any" | "-1" => CID_ANY,
        _ => cid.parse().map_err(|_| wrong())?,
    };
    let port = port.parse().map_err(|_| wrong())?;
    if port == u32::MAX {
        // The kernel would choose one, which no guest knows.
        return Err(wrong());
    }
    Ok(LinkUrl::Vsock { cid, port })
}

fn tap(name: &str) -> Result<LinkUrl, String> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/%:".contains(&byte);
    if !(1..=15).contains(&name.len()) || !name.bytes().all(allowed) || name == "lo" {
        let bare = name.trim_start_matches('/');
        return Err(format!(
            "an interface has 1 to 15 characters, without '/', '%', ':' and spaces: write tap:{}",
            if bare != name && !bare.is_empty() && !bare.contains('/') {
                bare
            } else {
                "tap0"
            }
        ));
    }
    Ok(LinkUrl::Tap(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_right_is_read_and_shown_again() {
        for text in [
            "vpnkit:///run/vm.sock",
            "qemu:///run/a b,c#d?e%20.sock",
            "vfkit:///x",
            "bess:///run/vm.sock",
            "stdio:proto=gvproxy",
            "stdio:proto=vpnkit",
            "fd:0,proto=bess",
            "fd:7,proto=gvproxy",
            "vsock://2:1024",
            "vsock://any:62373",
            "tap:macvtap0",
        ] {
            assert_eq!(text.parse::<LinkUrl>().unwrap().to_string(), text);
        }
        assert_eq!("stdio:".parse(), Ok(LinkUrl::Stdio(Protocol::Gvproxy)));
        let any = LinkUrl::Vsock {
            cid: u32::MAX,
            port: 9,
        };
        assert_eq!("vsock://-1:9".parse(), Ok(any.clone()));
        assert_eq!("vsock://4294967295:9".parse(), Ok(any));
    }

    #[test]
    fn what_is_wrong_is_named_with_the_nearest_right_form() {
        let long = format!("qemu:///{}", "x".repeat(107));
        for (text, part) in [
            ("", "vpnkit://PATH"),
            ("nonsense", "vpnkit://PATH"),
            ("http://x", "vpnkit://PATH"),
            ("/run/vm.sock", "qemu:///run/vm.sock"),
            ("stdio", "stdio:"),
            ("qemu:/run/vm.sock", "qemu:///run/vm.sock"),
            ("qemu://run/vm.sock", "qemu:///run/vm.sock"),
            ("vpnkit:vm.sock", "vpnkit:///vm.sock"),
            ("bess://", "bess:///run/vm.sock"),
            ("bess:///", "bess:///run/vm.sock"),
            ("bess:///run/", "path is missing"),
            (&long, "108 bytes"),
            ("unix:///run/vm.sock", "what is spoken"),
            ("unixgram:///run/vm.sock", "vfkit:///run/vm.sock"),
            ("unixpacket:///run/vm.sock", "bess:///run/vm.sock"),
            ("stdio:proto=bess", "stdio:proto=gvproxy"),
            ("stdio:qemu", "stdio:proto="),
            ("fd:", "fd:3,proto=qemu"),
            ("fd:-1,proto=qemu", "fd:3,proto=qemu"),
            ("fd:7", "fd:7,proto=vpnkit"),
            ("fd:7,proto=x", "vpnkit, gvproxy, qemu, vfkit, bess"),
            ("vsock:2:1024", "vsock://any:1024"),
            ("vsock://2", "vsock://any:1024"),
            ("vsock://host:1", "vsock://any:1024"),
            ("vsock://2:-1", "vsock://any:1024"),
            ("vsock://2:4294967295", "vsock://any:1024"),
            ("tap:", "tap:tap0"),
            ("tap://tap7", "tap:tap7"),
            ("tap:sixteen-bytes-xx", "15 characters"),
        ] {
            let error = text.parse::<LinkUrl>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(scheme in 0..12_usize, rest in "\\PC{0,30}") {
            let schemes = [
                "", "vpnkit:", "qemu://", "vfkit:///", "bess:", "stdio:", "fd:", "vsock://", "tap:",
                "unix:", "unixgram:", "unixpacket:",
            ];
            let _ = format!("{}{rest}", schemes[scheme]).parse::<LinkUrl>();
        }
    }
}

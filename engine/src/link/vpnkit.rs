//! The hello of vpnkit's protocol, version 22, as its clients write it (hyperkit, Docker Desktop's
//! `vpnkit-tap-vsockd`, the Go client). All numbers are little-endian.
//!
//! ```text
//! both ways    "VMN3T"  u32 version  40 characters of a commit                            49 bytes
//! from guest   u8 0x01  36 characters of a UUID, 4 zero                  any address      41 bytes
//!              u8 0x08  36 characters of a UUID, u32 address             this one         41 bytes
//!              u8 0x06  u32 address, u16 port, u8 protocol       a socket of the host      8 bytes
//! to guest     u8 0x01  u16 MTU  u16 longest frame  6 bytes MAC          welcome         258 bytes
//!              u8 0x02  u8 length  text                                  refused         258 bytes
//! ```
//!
//! An address is a number: 192.168.65.250 is `fa 41 a8 c0`. After a welcome both sides send frames, each
//! behind its length in 16 bits.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use uuid::Uuid;

use super::socket::Socket;
use super::uuids::{Member, Refusal, Uuids};

const MAGIC: [u8; 5] = *b"VMN3T";
const VERSION: u32 = 22;
/// vpnkit says this, not a commit of its own.
const COMMIT: &[u8; 40] = b"0123456789012345678901234567890123456789";
const INIT_BYTES: usize = 5 + 4 + 40;
const UUID_BYTES: usize = 36;
const REPLY_BYTES: usize = 258;

const ETHERNET: u8 = 0x01;
const BIND_IPV4: u8 = 0x06;
const PREFERRED_IPV4: u8 = 0x08;
const VIF: u8 = 0x01;
const DISCONNECT: u8 = 0x02;

/// What a frame may have beyond the MTU, as vpnkit says it.
const FRAME_HEADROOM: u16 = 50;

/// A guest's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Ethernet {
        uuid: Uuid,
        preferred: Option<Ipv4Addr>,
    },
    /// A request for a listening socket of the host; not served.
    Bind,
}

/// Why a hello came to nothing.
#[derive(Debug)]
pub(super) enum HelloError {
    Magic([u8; 5]),
    Version(u32),
    Command(u8),
    Uuid,
    Bind,
    Refused(Refusal),
    /// The guest closed its end.
    Closed,
    Socket(io::Error),
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(bytes) => write!(
                f,
                "its hello begins with '{}', not with 'VMN3T': it does not speak vpnkit's protocol",
                bytes.escape_ascii()
            ),
            Self::Version(version) => write!(
                f,
                "it speaks version {version} of vpnkit's protocol, not {VERSION}"
            ),
            Self::Command(code) => write!(f, "it sent the unknown command {code}"),
            Self::Uuid => write!(f, "what it sent as its UUID is none"),
            Self::Bind => write!(
                f,
                "it asked for a socket of the host, which is not served here"
            ),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Closed => write!(f, "it left before its hello was complete"),
            Self::Socket(error) => write!(f, "its socket failed: {error}"),
        }
    }
}

impl From<io::Error> for HelloError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Socket(error),
        }
    }
}

/// Does the whole hello. Not a byte of what follows it is read.
pub(super) async fn welcome(
    socket: &Socket,
    uuids: &Arc<Uuids>,
    mtu: u16,
) -> Result<Member, HelloError> {
    let version = read_init(socket).await?;
    // Before the version is judged, so that the guest can tell its user what it met.
    socket.write_all(&init()).await?;
    if version != VERSION {
        return Err(HelloError::Version(version));
    }
    let [code] = socket.read().await?;
    let outcome = match read_command(code, socket).await? {
        Command::Bind => Err(("Unsupported command Bind_ipv4".to_owned(), HelloError::Bind)),
        Command::Ethernet { uuid, preferred } => uuids
            .join(uuid, preferred)
            .await
            .map_err(|refusal| (refusal.to_string(), HelloError::Refused(refusal))),
    };
    match outcome {
        Ok(member) => {
            socket.write_all(&vif(mtu, &member)).await?;
            Ok(member)
        }
        Err((text, error)) => {
            socket.write_all(&disconnect(&text)).await?;
            Err(error)
        }
    }
}

/// The version that the guest speaks. Who speaks something else altogether is found out by its first bytes.
async fn read_init(socket: &Socket) -> Result<u32, HelloError> {
    let magic = socket.read().await?;
    if magic != MAGIC {
        return Err(HelloError::Magic(magic));
    }
    let version = u32::from_le_bytes(socket.read().await?);
    let _: [u8; COMMIT.len()] = socket.read().await?;
    Ok(version)
}

fn init() -> [u8; INIT_BYTES] {
    let mut bytes = [0; INIT_BYTES];
    bytes[..5].copy_from_slice(&MAGIC);
    bytes[5..9].copy_from_slice(&VERSION.to_le_bytes());
    bytes[9..].copy_from_slice(COMMIT);
    bytes
}

async fn read_command(code: u8, socket: &Socket) -> Result<Command, HelloError> {
    match code {
        ETHERNET | PREFERRED_IPV4 => {
            let rest: [u8; UUID_BYTES + 4] = socket.read().await?;
            let (uuid, address) = rest.split_at(UUID_BYTES);
            let uuid = read_uuid(uuid).ok_or(HelloError::Uuid)?;
            let number = address
                .first_chunk()
                .map_or(0, |bytes| u32::from_le_bytes(*bytes));
            let preferred = (code == PREFERRED_IPV4).then(|| Ipv4Addr::from(number));
            Ok(Command::Ethernet { uuid, preferred })
        }
        BIND_IPV4 => Ok(Command::Bind),
        _ => Err(HelloError::Command(code)),
    }
}

/// As text with hyphens, or nothing but zero bytes: none.
fn read_uuid(bytes: &[u8]) -> Option<Uuid> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Some(Uuid::nil());
    }
    Uuid::try_parse_ascii(bytes).ok()
}

fn vif(mtu: u16, member: &Member) -> [u8; REPLY_BYTES] {
    let mut reply = [0; REPLY_BYTES];
    reply[0] = VIF;
    reply[1..3].copy_from_slice(&mtu.to_le_bytes());
    reply[3..5].copy_from_slice(&mtu.saturating_add(FRAME_HEADROOM).to_le_bytes());
    reply[5..11].copy_from_slice(&member.mac().0);
    reply
}

/// A text beyond 255 bytes is cut; ours are shorter.
fn disconnect(text: &str) -> [u8; REPLY_BYTES] {
    let text = &text.as_bytes()[..text.len().min(usize::from(u8::MAX))];
    let mut reply = [0; REPLY_BYTES];
    reply[0] = DISCONNECT;
    reply[1] = text.len() as u8;
    reply[2..2 + text.len()].copy_from_slice(text);
    reply
}

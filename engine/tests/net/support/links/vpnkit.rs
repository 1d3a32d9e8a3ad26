//! vpnkit's protocol, version 22: both sides introduce themselves, the client says who it is and may
//! wish for an address, the server names the link's MTU and the client's MAC address, or refuses.
//!
//! All numbers are little-endian.

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use socket2::{Socket, Type};

use super::{Framing, Link};

/// The version that both sides must speak.
pub(crate) const VERSION: u32 = 22;

/// What the server says about the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) mtu: u16,
    pub(crate) packet_max: u16,
    pub(crate) mac: [u8; 6],
}

/// An identity that differs for each number, as text; that of 0 means "anyone".
pub(crate) fn uuid(number: u32) -> [u8; 36] {
    let text = match number {
        0 => return [0; 36],
        number => format!("00000000-0000-4000-8000-{number:012x}"),
    };
    text.as_bytes().try_into().expect("36 characters")
}

/// Joins the network at that path with that identity.
#[track_caller]
pub(crate) fn join(path: &Path, uuid: [u8; 36]) -> (Link, Interface) {
    let joined = try_join(path, &ethernet(uuid));
    joined.unwrap_or_else(|refusal| panic!("the guest is refused: {refusal:?}"))
}

/// Sends an introduction and a command; what came, or the refusal.
#[track_caller]
pub(crate) fn try_join(path: &Path, command: &[u8]) -> Result<(Link, Interface), Refusal> {
    try_join_over(dial(path), command)
}

/// The same over a connection that is there.
#[track_caller]
pub(crate) fn try_join_over(socket: Socket, command: &[u8]) -> Result<(Link, Interface), Refusal> {
    greet(&socket, VERSION);
    (&socket).write_all(command).expect("a command is taken");
    let interface = response(&socket)?;
    Ok((Link::over(socket, Framing::Vpnkit), interface))
}

/// Connects and says nothing yet.
#[track_caller]
pub(crate) fn dial(path: &Path) -> Socket {
    let socket = super::connect(path, Type::STREAM);
    socket
        .set_read_timeout(Some(super::PATIENCE))
        .expect("the time is not zero");
    socket
}

/// Introduces the client and reads the server's introduction, which does not depend on ours.
#[track_caller]
pub(crate) fn greet(mut socket: &Socket, version: u32) {
    let commit = [b'c'; 40];
    let introduction = [&b"VMN3T"[..], &version.to_le_bytes(), &commit].concat();
    socket
        .write_all(&introduction)
        .expect("an introduction is taken");
    let mut theirs = [0; 49];
    socket
        .read_exact(&mut theirs)
        .expect("the server introduces itself");
    assert_eq!(theirs[..9], *b"VMN3T\x16\0\0\0");
}

/// The command that asks for a link.
pub(crate) fn ethernet(uuid: [u8; 36]) -> Vec<u8> {
    [&[1][..], &uuid, &[0; 4]].concat()
}

/// The command that asks for a link and for an address.
pub(crate) fn preferred(uuid: [u8; 36], address: Ipv4Addr) -> Vec<u8> {
    [&[8][..], &uuid, &address.to_bits().to_le_bytes()].concat()
}

/// Why there is no link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The server said why.
    Disconnect(String),
    /// It closed the connection without a word.
    Closed,
}

/// Reads the answer to a command.
#[track_caller]
pub(crate) fn response(mut socket: &Socket) -> Result<Interface, Refusal> {
    let mut bytes = [0; 258];
    match socket.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if is_end(&error) => return Err(Refusal::Closed),
        Err(error) => panic!("no answer: {error}"),
    }
    let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    match bytes[0] {
        1 => {
            assert_eq!(bytes[11..], [0; 247], "zeros after what there is to say");
            Ok(Interface {
                mtu: number(1),
                packet_max: number(3),
                mac: bytes[5..11].try_into().expect("six bytes"),
            })
        }
        2 => {
            let text = &bytes[2..2 + usize::from(bytes[1])];
            Err(Refusal::Disconnect(String::from_utf8_lossy(text).into()))
        }
        other => panic!("an unknown answer, {other}"),
    }
}

/// Whether the other side has closed the connection, with or without reading all of it.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

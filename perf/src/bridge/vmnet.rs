//! The handshake of vpnkit's vmnet protocol, version 22, with which a stream of frames begins. All
//! numbers are little-endian.
//!
//! ```text
//!  client → server   init      "VMN3T"  version u32  commit (40 characters)          49 bytes
//!  server → client   init      the same
//!  client → server   command   1 (Ethernet)  uuid (36 characters)  padding           41 bytes
//!  server → client   response  1 (vif)  mtu u16  max packet u16  MAC  padding       258 bytes
//!                              or 2 (disconnect)  length u8  text  padding
//! ```

use std::io::{self, Read, Write};

/// The protocol's version.
const VERSION: u32 = 22;
/// Bytes of an init message, a command and a response.
const INIT_BYTES: usize = 49;
const COMMAND_BYTES: usize = 41;
const RESPONSE_BYTES: usize = 258;
/// Command: open an Ethernet link.
const ETHERNET: u8 = 1;
/// Responses.
const VIF: u8 = 1;
const DISCONNECT: u8 = 2;
/// Our identity: an engine gives the same one the same address every time.
const UUID: &[u8; 36] = b"00000000-0000-4000-8000-000000000001";
/// The MAC address that [`answer`] gives.
const MAC: [u8; 6] = [0x02, 0x50, 0, 0, 0, 1];

/// The client's part; returns the MAC address that the engine gives us.
///
/// # Errors
/// The engine speaks another version, refuses us, or the stream breaks.
pub(crate) fn greet(mut stream: impl Read + Write) -> io::Result<[u8; 6]> {
    stream.write_all(&init())?;
    let mut theirs = [0; INIT_BYTES];
    stream.read_exact(&mut theirs)?;
    check(&theirs)?;
    let mut command = [0; COMMAND_BYTES];
    command[0] = ETHERNET;
    command[1..37].copy_from_slice(UUID);
    stream.write_all(&command)?;
    let mut response = [0; RESPONSE_BYTES];
    stream.read_exact(&mut response)?;
    match response[0] {
        VIF => Ok([
            response[5],
            response[6],
            response[7],
            response[8],
            response[9],
            response[10],
        ]),
        DISCONNECT => {
            let text = &response[2..2 + usize::from(response[1])];
            let text = String::from_utf8_lossy(text);
            Err(invalid(format!("the engine refused the link: {text}")))
        }
        other => Err(invalid(format!("an unknown response {other}"))),
    }
}

/// The server's part, for a link of this MTU.
///
/// # Errors
/// The client speaks another version or wants something else than a link, or the stream breaks.
pub(crate) fn answer(mut stream: impl Read + Write, mtu: u16) -> io::Result<()> {
    let mut theirs = [0; INIT_BYTES];
    stream.read_exact(&mut theirs)?;
    stream.write_all(&init())?;
    check(&theirs)?;
    let mut command = [0; COMMAND_BYTES];
    stream.read_exact(&mut command)?;
    if command[0] != ETHERNET {
        return Err(invalid(format!("an unknown command {}", command[0])));
    }
    let mut response = [0; RESPONSE_BYTES];
    response[0] = VIF;
    response[1..3].copy_from_slice(&mtu.to_le_bytes());
    response[3..5].copy_from_slice(&mtu.saturating_add(50).to_le_bytes());
    response[5..11].copy_from_slice(&MAC);
    stream.write_all(&response)
}

fn init() -> [u8; INIT_BYTES] {
    let mut bytes = [b'0'; INIT_BYTES];
    bytes[..5].copy_from_slice(b"VMN3T");
    bytes[5..9].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

fn check(theirs: &[u8; INIT_BYTES]) -> io::Result<()> {
    let version = u32::from_le_bytes([theirs[5], theirs[6], theirs[7], theirs[8]]);
    if &theirs[..5] == b"VMN3T" && version == VERSION {
        Ok(())
    } else {
        Err(invalid(format!(
            "the other side does not speak version {VERSION} of the vmnet protocol"
        )))
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    #[test]
    fn client_and_server_understand_one_another() {
        let (client, server) = UnixStream::pair().unwrap();
        let answered = thread::spawn(move || answer(&server, 1500).unwrap());
        assert_eq!(greet(&client).unwrap(), MAC);
        answered.join().unwrap();
    }

    #[test]
    fn the_messages_are_those_of_the_protocol() {
        let (client, mut server) = UnixStream::pair().unwrap();
        let greeted = thread::spawn(move || greet(&client));
        let mut message = [0; INIT_BYTES];
        server.read_exact(&mut message).unwrap();
        assert_eq!(&message[..10], b"VMN3T\x16\x00\x00\x000");
        server.write_all(&message).unwrap();
        let mut command = [0xff; COMMAND_BYTES];
        server.read_exact(&mut command).unwrap();
        assert_eq!((command[0], command[9]), (1, b'-'));
        let mut response = [0; RESPONSE_BYTES];
        response[..14].copy_from_slice(b"\x02\x0cno addresses");
        server.write_all(&response).unwrap();
        let refused = greeted.join().unwrap().unwrap_err().to_string();
        assert_eq!(refused, "the engine refused the link: no addresses");
    }

    #[test]
    fn another_version_is_refused() {
        let (client, mut server) = UnixStream::pair().unwrap();
        let mut old = init();
        old[5] = 21;
        server.write_all(&old).unwrap();
        assert!(
            greet(&client)
                .unwrap_err()
                .to_string()
                .contains("version 22")
        );
    }
}

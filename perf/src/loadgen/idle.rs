//! Idle connections: opened one after another, one byte each way on each, then held without
//! traffic. What they cost a network in memory is read from outside while they are held.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::Target;
use super::socket;
use crate::failure::{Failure, Outcome};

/// Opening ends after this many failures in a row: the network has reached a limit.
const FAILURES_MAX: u32 = 3;

/// What was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Idle {
    /// Connections asked for.
    pub(crate) wanted: u32,
    /// Connections that carried a byte each way and were held.
    pub(crate) opened: u32,
    /// Of those, how many still carried a byte each way at the end.
    pub(crate) alive: u32,
    /// Why opening ended early, in words.
    pub(crate) failure: Option<String>,
}

/// Opens `wanted` connections and holds them for `hold`.
///
/// # Errors
/// Not one connection could be opened.
pub(crate) fn run(target: &Target, wanted: u32, hold: Duration) -> Outcome<Idle> {
    socket::raise_descriptor_limit();
    let mut connections = Vec::new();
    let mut failure = None;
    let mut failures = 0;
    while connections.len() < wanted as usize && failures < FAILURES_MAX {
        match target
            .connect()
            .and_then(|connection| touch(connection, b'i'))
        {
            Ok(connection) => {
                connections.push(connection);
                failures = 0;
            }
            Err(error) => {
                failure = Some(error.to_string());
                failures += 1;
            }
        }
    }
    let opened = connections.len() as u32;
    if let (0, Some(why)) = (opened, &failure) {
        return Err(Failure::new(format!(
            "no connection could be opened: {why}"
        )));
    }
    thread::sleep(hold);
    let alive = connections
        .into_iter()
        .filter_map(|connection| touch(connection, b'a').ok());
    let alive = alive.count() as u32;
    Ok(Idle {
        wanted,
        opened,
        alive,
        failure,
    })
}

/// One byte each way.
fn touch(mut connection: TcpStream, byte: u8) -> io::Result<TcpStream> {
    connection.write_all(&[byte])?;
    connection.read_exact(&mut [0])?;
    Ok(connection)
}

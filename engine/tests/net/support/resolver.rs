//! A name server of the host side, and questions for it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use super::servers::listen_at;

/// A query as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The whole message.
    pub(crate) query: Vec<u8>,
    /// Where it came from.
    pub(crate) from: SocketAddr,
}

/// Answers every question, by UDP and TCP, with the same address.
pub(crate) struct Resolver {
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Questions for names that begin like this get [`LONG_RECORDS`] records, by TCP only: by UDP the
/// answer says that it was cut (RFC 1035 §4.1.1, TC).
pub(crate) const LONG: &str = "long";
/// More than fits in a datagram of any usual size.
pub(crate) const LONG_RECORDS: usize = 500;

impl Resolver {
    /// Starts one; its threads end with the test's process.
    #[track_caller]
    pub(crate) fn start(at: SocketAddr, answer: Ipv4Addr) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let udp = UdpSocket::bind(at).unwrap_or_else(|error| panic!("bind {at}: {error}"));
        let tcp = listen_at(at);
        let (udp_log, tcp_log) = (Arc::clone(&seen), Arc::clone(&seen));
        thread::spawn(move || serve_udp(&udp, answer, &udp_log));
        thread::spawn(move || serve_tcp(&tcp, answer, &tcp_log));
        Self { seen }
    }

    /// All queries until now.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no holder panics").clone()
    }
}

fn serve_udp(socket: &UdpSocket, address: Ipv4Addr, log: &Mutex<Vec<Seen>>) {
    let mut buffer = [0; 4096];
    while let Ok((n, from)) = socket.recv_from(&mut buffer) {
        let query = buffer[..n].to_vec();
        let mut reply = answer(&query, address);
        if reply.len() > 1200 {
            reply.truncate(question_end(&query));
            // TC, and no records.
            reply[2] |= 2;
            reply[6..8].fill(0);
        }
        log.lock()
            .expect("no holder panics")
            .push(Seen { query, from });
        socket
            .send_to(&reply, from)
            .expect("the forwarder was just there");
    }
}

fn serve_tcp(listener: &TcpListener, address: Ipv4Addr, log: &Arc<Mutex<Vec<Seen>>>) {
    while let Ok((mut stream, from)) = listener.accept() {
        let log = Arc::clone(log);
        thread::spawn(move || {
            while let Some(query) = read_message(&mut stream) {
                let reply = answer(&query, address);
                log.lock()
                    .expect("no holder panics")
                    .push(Seen { query, from });
                if stream.write_all(&framed(&reply)).is_err() {
                    break;
                }
            }
        });
    }
}

/// A message as TCP carries it (RFC 1035 §4.2.2).
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message's length");
    [&length.to_be_bytes(), message].concat()
}

/// The next message of a TCP connection, `None` at its end.
pub(crate) fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// A question for an A record with an EDNS option (RFC 6891) that means nothing to anyone.
pub(crate) fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).expect("a label's length"));
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message.extend([
        0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 8, 0xfd, 0xe9, 0, 4, 1, 2, 3, 4,
    ]);
    message
}

/// The addresses in an answer that is well formed and has this id and response code.
#[track_caller]
pub(crate) fn addresses(message: &[u8], id: u16, rcode: u8) -> Vec<Ipv4Addr> {
    assert!(message.len() >= 12, "a header came: {message:02x?}");
    assert_eq!(message[..2], id.to_be_bytes(), "the id of the question");
    assert_ne!(message[2] & 0x80, 0, "a response");
    assert_eq!(message[3] & 0x0f, rcode, "response code");
    let count = usize::from(u16::from_be_bytes([message[6], message[7]]));
    let records = &message[question_end(message)..];
    assert!(records.len() >= 16 * count, "{count} records");
    let record = |chunk: &[u8]| [chunk[12], chunk[13], chunk[14], chunk[15]].into();
    records.chunks_exact(16).take(count).map(record).collect()
}

fn answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let end = question_end(query);
    let is_long = query[13..].starts_with(LONG.as_bytes());
    let count = if is_long { LONG_RECORDS } else { 1 };
    let mut reply = query[..end].to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x80]);
    reply[6..8].copy_from_slice(&(count as u16).to_be_bytes());
    reply[8..12].fill(0);
    for _ in 0..count {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address.octets());
    }
    reply
}

fn question_end(message: &[u8]) -> usize {
    let mut end = 12;
    while message[end] != 0 {
        end += usize::from(message[end]) + 1;
    }
    end + 5
}

//! The demonstration's servers on the host's loopback: a sink, a source, an echo and a name server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use super::payload::{BLOCK, Checksum, Generator};

/// The name that the demonstration's name server knows.
pub(crate) const NAME: &str = "demo.towpath.test";
/// Its address there.
pub(crate) const NAME_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

/// The first byte of a connection says what the client wants; uploads and downloads follow it
/// with their length as eight bytes, big-endian.
pub(crate) const UPLOAD: u8 = b'U';
pub(crate) const DOWNLOAD: u8 = b'D';
pub(crate) const ECHO: u8 = b'E';

/// Where the servers listen.
pub(crate) struct Servers {
    pub(crate) tcp_port: u16,
    pub(crate) dns: SocketAddr,
}

/// Starts the servers; their threads end with the process.
pub(crate) fn start() -> io::Result<Servers> {
    let tcp4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let tcp_port = tcp4.local_addr()?.port();
    spawn_listener(tcp4);
    // The same port for IPv6, where the host has it.
    if let Ok(tcp6) = TcpListener::bind((Ipv6Addr::LOCALHOST, tcp_port)) {
        spawn_listener(tcp6);
    }
    let names = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let dns = names.local_addr()?;
    thread::spawn(move || serve_names(&names));
    Ok(Servers { tcp_port, dns })
}

fn spawn_listener(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its own connection only.
            thread::spawn(move || serve(stream));
        }
    });
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut command = [0];
    stream.read_exact(&mut command)?;
    match command[0] {
        UPLOAD => {
            let sum = receive(&mut stream)?;
            stream.write_all(&sum.to_be_bytes())
        }
        DOWNLOAD => send(&mut stream),
        _ => {
            let mut byte = [0];
            while stream.read(&mut byte)? > 0 {
                stream.write_all(&byte)?;
            }
            Ok(())
        }
    }
}

fn receive(stream: &mut TcpStream) -> io::Result<u64> {
    let mut left = read_length(stream)?;
    let mut sum = Checksum::default();
    let mut buffer = vec![0; BLOCK];
    while left > 0 {
        let want = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = stream.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sum.update(&buffer[..n]);
        left -= n as u64;
    }
    Ok(sum.finish())
}

fn send(stream: &mut TcpStream) -> io::Result<()> {
    let mut left = read_length(stream)?;
    let (mut generator, mut sum) = (Generator::new(2), Checksum::default());
    while left > 0 {
        let block = generator.next();
        let n = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&block[..n])?;
        sum.update(&block[..n]);
        left -= n as u64;
    }
    stream.write_all(&sum.finish().to_be_bytes())
}

fn read_length(stream: &mut TcpStream) -> io::Result<u64> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    Ok(u64::from_be_bytes(length))
}

fn serve_names(socket: &UdpSocket) {
    let mut query = [0; 1500];
    while let Ok((n, from)) = socket.recv_from(&mut query) {
        if let Some(answer) = answer(&query[..n]) {
            // A client that is gone is no error of ours.
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// Answers one A question about any name with [`NAME_ADDRESS`] (RFC 1035 §4).
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let question = query.get(12..end + 5)?;
    let mut out = query[..2].to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    out.extend(question);
    out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    out.extend(NAME_ADDRESS.octets());
    Some(out)
}

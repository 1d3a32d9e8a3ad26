//! Small servers of the host side.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use socket2::{Domain, Socket, Type};

/// Listens on a port of the system's choice.
#[track_caller]
pub(crate) fn listen(on: impl Into<IpAddr>) -> TcpListener {
    listen_at(SocketAddr::new(on.into(), 0))
}

/// Listens at an address; as many connections as a test makes may wait to be accepted.
#[track_caller]
pub(crate) fn listen_at(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
    let socket = socket.expect("a socket can be made");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("not bound yet");
    }
    socket
        .bind(&address.into())
        .unwrap_or_else(|error| panic!("bind {address}: {error}"));
    socket.listen(4096).expect("a bound socket can listen");
    socket.into()
}

/// Binds a UDP socket to a port of the system's choice.
#[track_caller]
pub(crate) fn udp(on: impl Into<IpAddr>) -> UdpSocket {
    UdpSocket::bind((on.into(), 0)).expect("the address is the world's")
}

/// Sends back what comes, connection by connection, until the test's process ends.
pub(crate) fn spawn_tcp_echo(listener: TcpListener) -> SocketAddr {
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    address
}

/// Sends back every datagram until the test's process ends.
pub(crate) fn spawn_udp_echo(socket: UdpSocket) -> SocketAddr {
    let address = socket.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            socket
                .send_to(&buffer[..n], from)
                .expect("the guest was just there");
        }
    });
    address
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    // A client that resets ends its own connection only.
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
}

/// Sends a message and waits for its echo.
#[track_caller]
pub(crate) fn round_trip(mut stream: &TcpStream, message: &[u8]) {
    stream
        .write_all(message)
        .expect("the connection takes a message");
    let mut back = vec![0; message.len()];
    stream
        .read_exact(&mut back)
        .expect("the message comes back");
    assert_eq!(back, message);
}

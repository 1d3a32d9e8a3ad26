//! A machine that QEMU runs, with its `stream` back-end at the socket of the network.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use crate::support::guest::GuestSockets;
use crate::support::harness::{Test, tests};
use crate::support::links::kernel::KernelGuest;
use crate::support::machine::Machine;
use crate::support::needs::Need;
use crate::support::payload::{self, MIB};
use crate::support::resolver::Resolver;
use crate::support::servers::listen;
use crate::support::world::{GATEWAY4, HOST4, World, eventually};

pub(crate) fn tests() -> Vec<Test> {
    let needs = |test: Test| {
        ["qemu-system-x86_64", "busybox"]
            .into_iter()
            .fold(test.needs(Need::Kernel), |test, program| {
                test.needs(Need::Program(program))
            })
    };
    tests![a_machine_uses_its_network]
        .into_iter()
        .map(needs)
        .collect()
}

/// Its name in [`Resolver`], which gives the same answer to all.
const NAME: &str = "files.towpath.test";
/// What is fetched and sent, in bytes; not a multiple of any frame.
const LENGTH: u64 = 16 * MIB + 77;

/// It gets an address, pings, resolves a name, fetches and sends; another guest fetches from it.
fn a_machine_uses_its_network(world: &World) {
    let upstream = SocketAddr::from((HOST4, 53));
    let _resolver = Resolver::start(upstream, HOST4);
    let served = world.serve(&["--dns", &upstream.to_string(), "-v"]);
    let files = listen(HOST4);
    let url = format!("http://{NAME}:{}/", files.local_addr().unwrap().port());
    thread::spawn(move || serve_http(&files));
    let receiver = listen(HOST4);
    let to = receiver.local_addr().unwrap();

    let mut machine = Machine::boot(world, &served.path("qemu"), &url, to);
    let lease = machine.wait_for("LEASE");
    let (address, gateway) = lease.split_once("/24 ").expect("our subnet's length");
    assert_eq!(gateway, GATEWAY4.to_string());
    assert_eq!(machine.wait_for("PINGED"), gateway);
    let sum = sum_of_payload(world);
    assert_eq!(machine.wait_for("FETCHED"), sum);
    let (sent, _) = receiver.accept().expect("the machine connects");
    payload::receive_all(sent, LENGTH).expect("all of it comes back");
    machine.wait_for("SENT");

    machine.wait_for("SERVING");
    let other = KernelGuest::new(served.join("vpnkit", 1), 1500);
    let address: Ipv4Addr = address.parse().expect("an address");
    fetch(other.connect((address, 80)));

    machine.power_off();
    eventually("the engine notices", || {
        served.said().contains("qemu#1: it left")
    });
    other.ping(GATEWAY4);
    drop(other);
    served.end();
}

/// Fetches what the machine serves, and compares each byte.
fn fetch(stream: TcpStream) {
    (&stream)
        .write_all(b"GET /fetched HTTP/1.0\r\n\r\n")
        .expect("the machine takes a request");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer");
    assert!(line.contains(" 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a head");
    }
    payload::receive_all(reader, LENGTH).expect("all of it arrives");
}

/// Answers every request with the payload.
fn serve_http(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        let mut request = BufReader::new(stream.try_clone().expect("a descriptor is free"));
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if request.read_line(&mut line).unwrap_or(0) == 0 {
                break;
            }
        }
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        // Who goes away early fails a check of its own.
        let _ = stream.write_all(head.as_bytes());
        let _ = payload::send(stream, LENGTH);
    }
}

/// The sum of the payload as the machine's own program prints it.
fn sum_of_payload(world: &World) -> String {
    let mut file = tempfile::tempfile().unwrap();
    payload::send(&mut file, LENGTH).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut command = world.command("busybox");
    command.arg("sha256sum");
    let mut process = world.spawn_with(command, OwnedFd::from(file), None);
    assert!(process.wait().success());
    String::from_utf8(process.stdout())
        .unwrap()
        .trim_end()
        .to_owned()
}

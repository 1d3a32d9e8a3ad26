//! The demonstration's client: runs inside the guest's namespace and measures from there.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::host::{DOWNLOAD, ECHO, NAME, NAME_ADDRESS, UPLOAD};
use super::payload::{BLOCK, Checksum, Generator};

/// How much each direction moves.
pub(crate) const BYTES: u64 = 1 << 30;
/// How often latency is measured.
const ROUND_TRIPS: usize = 2_000;
const PINGS: u16 = 5;

/// What the client is told, as JSON in its only argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// The gateway, which answers pings and names.
    pub(crate) gateway: Ipv4Addr,
    /// The host's alias, behind which the servers are.
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
}

/// The hidden first argument that makes this program the client.
pub(crate) const STAGE: &str = "__demo";

/// Runs as the client; its exit status is the command's.
pub(crate) fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let task = arguments
        .next()
        .and_then(|task| serde_json::from_str(task.to_str()?).ok());
    let Some(task) = task else {
        return ExitCode::from(2);
    };
    match run(&task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("towpath: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all steps; the first that fails ends the demonstration.
fn run(task: &Task) -> io::Result<()> {
    let server = SocketAddr::new(task.host, task.port);
    let address = step("resolve a name", || resolve(task.gateway))?;
    println!(
        "  name        {NAME} is {address}, asked at {}:53",
        task.gateway
    );
    let mut pings = step("ping the gateway", || ping(task.gateway))?;
    pings.sort_unstable();
    println!(
        "  ping        {PINGS} of {PINGS} answered, median {}",
        micros(pings[pings.len() / 2])
    );
    let trips = step("measure round trips", || round_trips(server))?;
    println!(
        "  round trip  1 byte over TCP: p50 {}, p99 {} of {ROUND_TRIPS}",
        micros(trips[trips.len() / 2]),
        micros(trips[trips.len() * 99 / 100]),
    );
    let up = upload(server)?;
    println!("  upload      {}", rate(up));
    let down = download(server)?;
    println!("  download    {}", rate(down));
    Ok(())
}

fn step<T>(what: &str, body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    Progress::new().show(what);
    body().map_err(|error| io::Error::new(error.kind(), format!("could not {what}: {error}")))
}

/// One line on a terminal that is written over; nothing where no one watches.
struct Progress {
    live: bool,
}

impl Progress {
    fn new() -> Self {
        Self {
            live: io::stderr().is_terminal(),
        }
    }

    fn show(&self, text: &str) {
        if self.live {
            eprint!("\r\x1b[K  … {text}");
        }
    }

    fn bytes(&self, what: &str, done: u64) {
        if self.live && done % (32 << 20) < BLOCK as u64 {
            self.show(&format!("{what} {:>4} of {} MiB", done >> 20, BYTES >> 20));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.live {
            eprint!("\r\x1b[K");
        }
    }
}

fn resolve(gateway: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.connect((gateway, 53))?;
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAME.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query)?;
    let mut answer = [0; 512];
    let n = socket.recv(&mut answer)?;
    let address = answer[..n].last_chunk::<4>().copied().unwrap_or_default();
    if answer[..2] == query[..2] && Ipv4Addr::from(address) == NAME_ADDRESS {
        Ok(address.into())
    } else {
        Err(io::Error::other(
            "the answer is not the one that the demonstration's server gives",
        ))
    }
}

fn ping(gateway: Ipv4Addr) -> io::Result<Vec<Duration>> {
    // The guest's namespace allows ping sockets to everyone: the launcher saw to that.
    let kind = socket2::Type::DGRAM;
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, kind, Some(socket2::Protocol::ICMPV4))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.connect(&SocketAddr::new(gateway.into(), 0).into())?;
    let mut socket = socket;
    (1..=PINGS)
        .map(|sequence| {
            let [high, low] = sequence.to_be_bytes();
            let begun = Instant::now();
            socket.write_all(&[8, 0, 0, 0, 0, 0, high, low, b't', b'o', b'w'])?;
            let mut reply = [0; 64];
            let n = socket.read(&mut reply)?;
            if n == 11 && reply[0] == 0 && reply[6..8] == [high, low] {
                Ok(begun.elapsed())
            } else {
                Err(io::Error::other("that was no echo reply"))
            }
        })
        .collect()
}

fn connect(server: SocketAddr, command: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[command])?;
    Ok(stream)
}

fn round_trips(server: SocketAddr) -> io::Result<Vec<Duration>> {
    let mut stream = connect(server, ECHO)?;
    let mut trips = (0..ROUND_TRIPS)
        .map(|i| {
            let begun = Instant::now();
            stream.write_all(&[i as u8])?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            if byte[0] == i as u8 {
                Ok(begun.elapsed())
            } else {
                Err(io::Error::other("another byte came back"))
            }
        })
        .collect::<io::Result<Vec<_>>>()?;
    trips.sort_unstable();
    Ok(trips)
}

fn upload(server: SocketAddr) -> io::Result<Duration> {
    let progress = Progress::new();
    let begun = Instant::now();
    let mut stream = connect(server, UPLOAD)?;
    stream.write_all(&BYTES.to_be_bytes())?;
    let (mut generator, mut sum) = (Generator::new(1), Checksum::default());
    let mut done = 0;
    while done < BYTES {
        let block = generator.next();
        stream.write_all(block)?;
        sum.update(block);
        done += block.len() as u64;
        progress.bytes("upload", done);
    }
    let mut theirs = [0; 8];
    stream.read_exact(&mut theirs)?;
    compare(sum.finish(), u64::from_be_bytes(theirs), "upload")?;
    Ok(begun.elapsed())
}

fn download(server: SocketAddr) -> io::Result<Duration> {
    let progress = Progress::new();
    let begun = Instant::now();
    let mut stream = connect(server, DOWNLOAD)?;
    stream.write_all(&BYTES.to_be_bytes())?;
    let mut sum = Checksum::default();
    let mut buffer = vec![0; BLOCK];
    let mut done = 0;
    while done < BYTES {
        let want = buffer
            .len()
            .min(usize::try_from(BYTES - done).unwrap_or(usize::MAX));
        let n = stream.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sum.update(&buffer[..n]);
        done += n as u64;
        progress.bytes("download", done);
    }
    let mut theirs = [0; 8];
    stream.read_exact(&mut theirs)?;
    compare(sum.finish(), u64::from_be_bytes(theirs), "download")?;
    Ok(begun.elapsed())
}

fn compare(ours: u64, theirs: u64, what: &str) -> io::Result<()> {
    if ours == theirs {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the {what}'s checksums differ: {ours:016x} and {theirs:016x}"
    )))
}

fn rate(took: Duration) -> String {
    let gigabits = (BYTES * 8) as f64 / took.as_secs_f64() / 1e9;
    format!(
        "1 GiB in {:.2} s: {gigabits:.1} Gbit/s, checksums agree",
        took.as_secs_f64()
    )
}

fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}

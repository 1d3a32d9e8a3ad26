//! The client: one mode, one line of JSON.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::Subcommand;

use super::session::{Kind, Receive, Session};
use super::{
    Direction, Measured, bulk, connect, idle, mix, objects, parse_amount, parse_seconds, rr,
    socket, udp,
};
use crate::failure::{Context, Outcome};

/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Options of `client`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address and port of the server, such as 198.18.0.1:5201
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// TCP congestion control of the client's sockets [default: the system's]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Send a byte stream to the server
    BulkUp(BulkArgs),
    /// Have the server send a byte stream
    BulkDown(BulkArgs),
    /// One byte there and back, one at a time
    Rr {
        /// What the bytes travel in
        #[arg(long, value_enum, default_value = "tcp")]
        transport: rr::Transport,
        /// Round trips a second, each with a time at which it should begin [default: the next when
        /// the last is back]
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        rate: Option<u64>,
        /// How long
        #[arg(long, default_value = "4", value_parser = parse_seconds)]
        seconds: Duration,
    },
    /// Connect, one byte each way, close
    Connect {
        /// Connections under way at a time
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        concurrency: u32,
        /// Ports of the server that take turns, from that of --to upwards; as many as it listens at
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        ports: u16,
        /// How long
        #[arg(long, default_value = "4", value_parser = parse_seconds)]
        seconds: Duration,
    },
    /// Datagrams one way at a rate
    Udp {
        /// Which way
        #[arg(long, value_enum, default_value = "up")]
        direction: Direction,
        /// Bits of payload per second, such as 200M or 1G; 0 = as fast as it goes
        #[arg(long, default_value = "200M", value_parser = parse_amount)]
        rate: u64,
        /// Bytes of payload in a datagram
        #[arg(
            long,
            default_value_t = 1472,
            value_parser = clap::value_parser!(u32)
                .range(i64::from(udp::SIZE_MIN)..=i64::from(udp::SIZE_MAX))
        )]
        size: u32,
        /// How long
        #[arg(long, default_value = "4", value_parser = parse_seconds)]
        seconds: Duration,
    },
    /// Byte streams one way, and paced round trips on a connection beside them
    Mix {
        /// Which way the streams go
        #[arg(long, value_enum, default_value = "up")]
        direction: Direction,
        /// Round trips a second
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        rate: u64,
        #[command(flatten)]
        bulk: StreamArgs,
    },
    /// Objects of one size, each over a connection of its own; --streams of them at a time
    Objects {
        /// Which way they go
        #[arg(long, value_enum, default_value = "down")]
        direction: Direction,
        /// Bytes of one
        #[arg(long, default_value = "1M", value_parser = parse_size)]
        size: u64,
        #[command(flatten)]
        bulk: StreamArgs,
    },
    /// Open connections and hold them
    Idle {
        /// How many
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
        connections: u32,
        /// How long they are held once open
        #[arg(long, default_value = "4", value_parser = parse_seconds)]
        seconds: Duration,
    },
}

#[derive(Debug, clap::Args)]
struct BulkArgs {
    #[command(flatten)]
    streams: StreamArgs,
    /// Send this many bytes per stream, however long it takes
    #[arg(long, value_parser = parse_amount, conflicts_with = "seconds")]
    bytes: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct StreamArgs {
    /// Connections at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    streams: u32,
    /// How long
    #[arg(long, default_value = "4", value_parser = parse_seconds)]
    seconds: Duration,
    /// Have the receiver copy what arrives, as most programs do, where else the kernel throws it
    /// away
    #[arg(long)]
    copy: bool,
    /// Make and check a seeded pattern (costs CPU at both ends)
    #[arg(long, conflicts_with = "copy")]
    verify: bool,
    /// Seed of the pattern
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Where the loads go and how connections to it are made.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) congestion: Option<String>,
}

impl Target {
    /// One more connection.
    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        socket::connect(self.address, self.congestion.as_deref(), CONNECT)
    }

    /// One more connection, to a port this much above the target's, which is not waited for.
    pub(crate) fn begin_connect(&self, above: u16) -> io::Result<TcpStream> {
        let mut address = self.address;
        address.set_port(address.port().saturating_add(above));
        socket::begin_connect(address, self.congestion.as_deref())
    }
}

/// Runs the mode and prints what it measured.
///
/// # Errors
/// Whatever kept the mode from measuring anything.
pub(crate) fn run(args: &Args) -> Outcome<()> {
    let target = Target {
        address: args.to,
        congestion: args.congestion.clone(),
    };
    let measured = match &args.mode {
        Mode::BulkUp(bulk) => Measured::BulkUp(bulk.run(&target, Kind::BulkUp)?),
        Mode::BulkDown(bulk) => Measured::BulkDown(bulk.run(&target, Kind::BulkDown)?),
        Mode::Rr {
            transport,
            rate,
            seconds,
        } => Measured::Rr(rr::run(&target, *transport, *rate, *seconds)?),
        Mode::Mix {
            direction,
            rate,
            bulk,
        } => {
            let session = bulk.session(bulk_kind(*direction));
            Measured::Mix(mix::run(&target, session, bulk.streams, *rate)?)
        }
        Mode::Objects {
            direction,
            size,
            bulk,
        } => {
            let session = Session {
                amount: *size,
                ..bulk.session(bulk_kind(*direction))
            };
            Measured::Objects(objects::run(&target, session, bulk.streams)?)
        }
        Mode::Connect {
            concurrency,
            ports,
            seconds,
        } => Measured::Connect(connect::run(&target, *ports, *concurrency, *seconds)?),
        Mode::Udp {
            direction,
            rate,
            size,
            seconds,
        } => {
            let kind = match direction {
                Direction::Up => Kind::UdpUp,
                Direction::Down => Kind::UdpDown,
            };
            let (size, duration, amount) = (*size, *seconds, *rate);
            let session = Session {
                kind,
                receive: Receive::Discard,
                size,
                seed: 0,
                duration,
                amount,
            };
            Measured::Udp(udp::run(&target, session)?)
        }
        Mode::Idle {
            connections,
            seconds,
        } => Measured::Idle(idle::run(&target, *connections, *seconds)?),
    };
    println!(
        "{}",
        serde_json::to_string(&measured).doing("write the result")?
    );
    Ok(())
}

/// Parses the size of an object, which has at least one byte.
fn parse_size(text: &str) -> Result<u64, String> {
    match parse_amount(text)? {
        0 => Err("an object has at least one byte".to_owned()),
        size => Ok(size),
    }
}

fn bulk_kind(direction: Direction) -> Kind {
    match direction {
        Direction::Up => Kind::BulkUp,
        Direction::Down => Kind::BulkDown,
    }
}

impl BulkArgs {
    fn run(&self, target: &Target, kind: Kind) -> Outcome<bulk::Bulk> {
        let session = Session {
            amount: self.bytes.unwrap_or(0),
            ..self.streams.session(kind)
        };
        bulk::run(target, session, self.streams.streams)
    }
}

impl StreamArgs {
    /// A session that ends with its duration.
    fn session(&self, kind: Kind) -> Session {
        let receive = match (self.verify, self.copy) {
            (true, _) => Receive::Verify,
            (false, true) => Receive::Copy,
            (false, false) => Receive::Discard,
        };
        Session {
            kind,
            receive,
            size: 0,
            seed: self.seed,
            duration: self.seconds,
            amount: 0,
        }
    }
}

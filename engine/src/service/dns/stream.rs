//! Guests' DNS connections: length-prefixed messages, many at a time (RFC 7766).
//!
//! Queries of one connection are answered in the order in which answers come (§7), at most
//! [`PIPELINE_MAX`] at a time; the next is read when one is answered. A connection is closed when
//! it had nothing to do for the idle time, when the guest does not take its answers, and at the
//! first message that can't be answered. A guest that has closed its own direction still gets what
//! it had asked for.

use std::future::pending;
use std::io;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::net::sockopt::socket_peercred;
use rustix::process::getpid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::attempt::framed;
use super::{Admitted, Forwarder, Source, Transport};
use crate::service::counters::Counter;

/// Connections of all guests, at most.
const CONNECTIONS_MAX: usize = 256;
/// Queries under way on one connection, at most.
const PIPELINE_MAX: usize = 32;
/// How many bytes are read at once, at least.
const READ_BYTES: usize = 1024;

/// Serves all connections to `listener`, for ever.
pub(crate) async fn serve_streams(listener: UnixListener, forwarder: Arc<Forwarder>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("a DNS connection can't be accepted: {error}");
                // Out of descriptors, most likely: it passes, or it does not; don't spin on it.
                sleep(forwarder.timing.first / 10).await;
                continue;
            }
        };
        if !is_own(&stream) {
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            forwarder.counters.add(Counter::DnsConnectionsRefused);
            continue;
        };
        let forwarder = Arc::clone(&forwarder);
        tokio::spawn(async move {
            if let Err(error) = serve_stream(&forwarder, stream).await {
                tracing::trace!("a guest's DNS connection ended: {error}");
            }
            drop(place);
        });
    }
}

/// Whether this very process has connected.
fn is_own(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.pid == getpid())
}

/// Serves one connection to its end.
async fn serve_stream(
    forwarder: &Forwarder,
    stream: impl AsyncRead + AsyncWrite,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut messages = Some(Messages::default());
    let mut answers = FuturesUnordered::new();
    loop {
        let is_full = answers.len() >= PIPELINE_MAX;
        let next_message = async {
            match &mut messages {
                Some(messages) => messages.next(&mut reader).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(answer) = answers.next() => write(forwarder, &mut writer, answer).await?,
            message = next_message, if !is_full => match message? {
                None => messages = None,
                Some(message) => match forwarder.admit(Source::Stream, &message) {
                    Admitted::Forward(ticket) => {
                        answers.push(forwarder.resolve(ticket, Transport::Tcp));
                    }
                    Admitted::Answer(answer) => write(forwarder, &mut writer, answer).await?,
                    Admitted::Drop => return Ok(()),
                },
            },
            () = sleep(forwarder.timing.idle), if answers.is_empty() => return Ok(()),
        }
        if messages.is_none() && answers.is_empty() {
            return writer.shutdown().await;
        }
    }
}

/// Writes one answer; a guest that does not take it in the idle time loses the connection.
async fn write(
    forwarder: &Forwarder,
    writer: &mut (impl AsyncWrite + Unpin),
    answer: Vec<u8>,
) -> io::Result<()> {
    let frame = framed(&answer)?;
    timeout(forwarder.timing.idle, writer.write_all(&frame)).await?
}

/// Takes a byte stream apart into messages.
#[derive(Debug, Default)]
struct Messages {
    /// What was read of the next message and what follows it.
    bytes: Vec<u8>,
}

impl Messages {
    /// The next message, `None` at the end of the stream. May be dropped while it waits: what was
    /// read is kept.
    async fn next(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            self.bytes.reserve(READ_BYTES);
            if reader.read_buf(&mut self.bytes).await? == 0 {
                return match self.bytes.as_slice() {
                    [] => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.bytes.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let message = rest.get(..length)?.to_vec();
        self.bytes.drain(..2 + length);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Messages;

    proptest! {
        #[test]
        fn a_stream_is_taken_apart_wherever_it_is_cut(
            messages in proptest::collection::vec(proptest::collection::vec(0_u8.., 0..300), 0..8),
            piece in 1..700_usize,
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend(super::framed(message).unwrap());
            }
            let mut parser = Messages::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(piece) {
                parser.bytes.extend_from_slice(bytes);
                while let Some(message) = parser.take() {
                    found.push(message);
                }
            }
            prop_assert_eq!(found, messages);
            prop_assert!(parser.bytes.is_empty());
        }
    }
}

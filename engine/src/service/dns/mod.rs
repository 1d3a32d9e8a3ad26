//! The DNS forwarder: guests ask the gateway, the host's resolvers answer.
//!
//! Names of the segment are answered here ([`super::names`]). Beyond them it resolves nothing itself and
//! keeps no cache. A query goes on to a server as the guest wrote
//! it, EDNS options and all, with only its id replaced; what comes back goes to the guest with the
//! guest's id. So every record type, rcode and extension that the host's resolver knows works.
//!
//! **Against forged answers** (RFC 5452): each attempt has a fresh socket, hence a port picked by
//! the kernel at random, and a random id; an answer counts only from the address asked, with that
//! id and the same question. Anything else is counted and the wait goes on.
//!
//! **Against dead servers**: the servers are asked in order, one after the other's silence: a
//! second for each in the first round, two in the next, and so on. Earlier attempts stay open, so
//! a server that is slow rather than dead still wins. A server that refuses (by ICMP, or by
//! SERVFAIL, REFUSED or NOTIMP) makes room for the next at once and is not asked again. When all
//! have refused or the time is up the guest gets the first refusal seen, or our own SERVFAIL:
//! before stub resolvers give up, which they do after 5 s.
//!
//! **Limits**: queries under way and sockets to servers, over UDP and TCP together. Beyond the first
//! the guest gets SERVFAIL at once; beyond the second an attempt counts as failed. Guests need not trust
//! each other, so each port has a share of the queries under way ([`PORT_SHARE`]): who asks more than a slow
//! server answers gets SERVFAIL alone. A connection does not tell whose it is; all together have a share
//! ([`STREAM_SHARE`]) that leaves the rest to queries by UDP.
//!
//! [`query`] knows the packets, [`servers`] where to ask, [`attempt`] how to ask one server once,
//! [`stream`] the guests' TCP connections; this file has the limits and the order of attempts.

mod attempt;
mod query;
mod servers;
mod stream;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use self::attempt::Attempts;
use self::query::Worth;
use self::servers::Servers;
use super::counters::{Counter, Counters};
use super::names::Names;
use crate::config::DnsUpstream;

pub(crate) use self::query::{Query, Rejected};
pub(crate) use self::stream::serve_streams;

/// Queries under way, at most.
const QUERIES_MAX: usize = 1024;
/// The part of these that one port may have: one of so many.
const PORT_SHARE: usize = 4;
/// The part of these that all connections together may have.
const STREAM_SHARE: usize = 2;
/// Attempts at servers for one query, at most.
const ATTEMPTS_MAX: usize = 8;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// How long a server may be silent in the first round; doubles with each round.
    first: Duration,
    /// From the query to the answer, ours if there is no other.
    total: Duration,
    /// How long a guest's connection may be open with no query on it.
    idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            total: Duration::from_millis(4500),
            idle: Duration::from_secs(30),
        }
    }
}

/// How a query came and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// One datagram each way; answers are cut to what the guest takes.
    Udp,
    /// Length-prefixed messages on a stream (RFC 1035 §4.2.2).
    Tcp,
}

/// Where a query came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// By UDP, from the guest behind this port.
    Port(u16),
    /// By TCP, from any.
    Stream,
}

/// Forwards queries of all guests.
#[derive(Debug)]
pub(crate) struct Forwarder {
    names: Arc<Names>,
    servers: Servers,
    attempts: Attempts,
    queries_max: usize,
    queries: Arc<Semaphore>,
    /// What each source has left of its share; one for each that ever asked.
    shares: Mutex<HashMap<Source, Arc<Semaphore>>>,
    /// The ports below may have more than a share.
    unshared: AtomicU16,
    timing: Timing,
    counters: Arc<Counters>,
}

/// A query that may be forwarded; holds its places among those under way, its source's and all.
#[derive(Debug)]
pub(crate) struct Ticket {
    query: Query,
    _places: [OwnedSemaphorePermit; 2],
}

/// What becomes of a guest's message.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// It is a query: resolve it.
    Forward(Ticket),
    /// It gets this answer without anyone being asked.
    Answer(Vec<u8>),
    /// It gets no answer.
    Drop,
}

impl Forwarder {
    pub(crate) fn new(upstream: &DnsUpstream, names: Arc<Names>, counters: Arc<Counters>) -> Self {
        Self::with(
            names,
            Servers::new(upstream),
            Timing::default(),
            QUERIES_MAX,
            counters,
        )
    }

    fn with(
        names: Arc<Names>,
        servers: Servers,
        timing: Timing,
        queries: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            names,
            servers,
            attempts: Attempts::new(Arc::clone(&counters)),
            queries_max: queries,
            queries: Arc::new(Semaphore::new(queries)),
            shares: Mutex::default(),
            unshared: AtomicU16::new(0),
            timing,
            counters,
        }
    }

    /// The ports below `unshared` are of links that the engine began with: they have no share, but all.
    pub(crate) fn spare(&self, unshared: u16) {
        self.unshared.store(unshared, Ordering::Relaxed);
    }

    /// Looks at a message from a guest before anything is spent on it.
    pub(crate) fn admit(&self, source: Source, message: &[u8]) -> Admitted {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Rejected::FormErr(answer)) => {
                self.counters.add(Counter::DnsFormerr);
                return Admitted::Answer(answer);
            }
            Err(Rejected::Unanswerable) => {
                self.counters.add(Counter::DnsMalformed);
                return Admitted::Drop;
            }
        };
        self.counters.add(Counter::DnsQueries);
        if let Some(record) = query
            .asked()
            .and_then(|(name, kind)| self.names.find(&name, kind))
        {
            self.counters.add(Counter::DnsNames);
            self.counters.add(Counter::DnsAnswers);
            return Admitted::Answer(query.answer(&record));
        }
        let refused = match self.share(source).try_acquire_owned() {
            Ok(share) => match Arc::clone(&self.queries).try_acquire_owned() {
                Ok(place) => {
                    return Admitted::Forward(Ticket {
                        query,
                        _places: [share, place],
                    });
                }
                Err(_) => Counter::DnsOverload,
            },
            Err(_) => Counter::DnsOverShare,
        };
        self.counters.add(refused);
        self.counters.add(Counter::DnsAnswers);
        Admitted::Answer(query.servfail())
    }

    /// The queries that may be under way from there.
    fn share(&self, source: Source) -> Arc<Semaphore> {
        let most = match source {
            Source::Port(port) if port < self.unshared.load(Ordering::Relaxed) => {
                Semaphore::MAX_PERMITS
            }
            Source::Port(_) => self.queries_max / PORT_SHARE,
            Source::Stream => self.queries_max / STREAM_SHARE,
        };
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.entry(source);
        Arc::clone(share.or_insert_with(|| Arc::new(Semaphore::new(most))))
    }

    /// Forwards a query; the answer for the guest comes within the total time, whatever happens.
    pub(crate) async fn resolve(&self, ticket: Ticket, transport: Transport) -> Vec<u8> {
        let query = &ticket.query;
        if transport == Transport::Tcp {
            self.counters.add(Counter::DnsTcp);
        }
        let mut answer = self.ask_in_turn(query, transport).await.unwrap_or_else(|| {
            self.counters.add(Counter::DnsServfail);
            query.servfail()
        });
        query.restore_id(&mut answer);
        if transport == Transport::Udp && answer.len() > query.udp_limit() {
            self.counters.add(Counter::DnsTruncated);
            answer = query.truncate(&answer);
        }
        self.counters.add(Counter::DnsAnswers);
        answer
    }

    /// Asks one server after the other until one gives a good answer.
    async fn ask_in_turn(&self, query: &Query, transport: Transport) -> Option<Vec<u8>> {
        let servers = self.servers.current(Instant::now().into_std());
        let deadline = Instant::now() + self.timing.total;
        let mut turns = Turns::new(servers.len(), self.timing.first);
        let mut waiting = FuturesUnordered::new();
        let mut refusal = None;
        while let Some(Turn {
            number,
            server,
            patience,
        }) = turns.next()
        {
            if number > 1 {
                self.counters.add(Counter::DnsRetries);
            }
            let attempt = self.attempts.ask(servers[server], query, transport);
            waiting.push(async move { (number, server, attempt.await) });
            let until = match patience {
                Some(patience) => deadline.min(Instant::now() + patience),
                None => deadline,
            };
            // The next turn comes when the latest attempt has failed or was silent for too long.
            loop {
                tokio::select! {
                    biased;
                    Some((made, server, outcome)) = waiting.next() => {
                        match outcome {
                            Ok((answer, Worth::Answer)) => return Some(answer),
                            Ok((answer, Worth::Refusal)) => {
                                refusal.get_or_insert(answer);
                            }
                            Err(error) => {
                                tracing::debug!("DNS server {}: {error}", servers[server]);
                            }
                        }
                        turns.refused(server);
                        if made == number {
                            break;
                        }
                    }
                    () = sleep_until(until) => break,
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        refusal
    }
}

/// Whose turn it is to be asked: rounds over the servers, without those that refused.
#[derive(Debug)]
struct Turns {
    refused: Vec<bool>,
    patience: Duration,
    /// The server that comes next, unless it refused.
    cursor: usize,
    made: usize,
}

/// One turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    /// Counted from 1.
    number: usize,
    /// Its place in the list of servers.
    server: usize,
    /// How long to wait before the next turn; `None` is until the end.
    patience: Option<Duration>,
}

impl Turns {
    fn new(servers: usize, patience: Duration) -> Self {
        Self {
            refused: vec![false; servers],
            patience,
            cursor: 0,
            made: 0,
        }
    }

    fn refused(&mut self, server: usize) {
        if let Some(refused) = self.refused.get_mut(server) {
            *refused = true;
        }
    }
}

impl Iterator for Turns {
    type Item = Turn;

    fn next(&mut self) -> Option<Turn> {
        if self.made == ATTEMPTS_MAX || self.refused.iter().all(|&refused| refused) {
            return None;
        }
        loop {
            if self.cursor == self.refused.len() {
                self.cursor = 0;
                self.patience = self.patience.saturating_mul(2);
            }
            let server = self.cursor;
            self.cursor += 1;
            if !self.refused[server] {
                self.made += 1;
                let last = self.made == ATTEMPTS_MAX;
                let patience = (!last).then_some(self.patience);
                return Some(Turn {
                    number: self.made,
                    server,
                    patience,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;

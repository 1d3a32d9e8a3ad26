//! The log: on standard error, for people or for machines.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::{Log, LogFormat};
use crate::engine::Summary;

/// Starts the log of this process. Later calls do nothing.
pub(super) fn start(log: Log) {
    let level = match log.verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    };
    // Libraries only warn: their debugging is not about the guest's network.
    let filter = Targets::new()
        .with_default(Level::WARN)
        .with_target("towpath", level);
    let color = io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(color);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.log_format {
        LogFormat::Text => registry
            .with(layer.compact().without_time().with_target(log.verbose > 1))
            .try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
    drop(started);
}

/// Says why towpath ends, whatever the level.
pub(super) fn failure(log: Option<Log>, reason: &str) {
    match log.map(|log| log.log_format) {
        Some(LogFormat::Json) => tracing::error!("{reason}"),
        _ => eprintln!("towpath: {reason}"),
    }
}

/// With -v, what was moved, dropped and why.
pub(super) fn summary(log: Log, summary: &Summary) {
    match (log.verbose, log.log_format) {
        (0, _) => {}
        (_, LogFormat::Text) => eprintln!("towpath: {summary}"),
        (_, LogFormat::Json) => tracing::info!(summary = %summary, "end"),
    }
}

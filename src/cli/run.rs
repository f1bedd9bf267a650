//! What all servers of the command do the same: they follow signals, say how they run, and tell in the end what they did.

use super::access_log::LogWriter;
use super::signals::{Orders, Reload};
use ringmill::{Error, Running};
use std::time::Duration;

/// Runs until a signal ends it. `reload` is what SIGHUP does, where it does something. What workers noted last is in the access log when this
/// returns.
pub(super) fn run(
    running: Running,
    orders: Orders,
    drain: Duration,
    descriptors: u64,
    reload: Option<Reload>,
    access_log: Option<LogWriter>,
    announce: impl FnOnce(&Running),
) -> Result<(), Error> {
    orders.follow(running.handle(), drain, reload, access_log.clone())?;
    announce(&running);
    let cpus: Vec<String> =
        running.cpus().iter().map(|cpu| cpu.map_or("any".to_owned(), |cpu| cpu.to_string())).collect();
    tracing::info!(
        "{} worker(s) on CPU {}; driver {} ({}); {descriptors} descriptors",
        cpus.len(),
        cpus.join(","),
        running.driver(),
        running.driver_reason()
    );
    let stats = running.stats().clone();
    running.join()?;
    access_log.iter().for_each(LogWriter::finish);
    let total = stats.total();
    tracing::info!(accepted = total.accepted, requests = total.requests, panics = total.panics, "ended");
    Ok(())
}

//! Memory of idle connections: anonymous resident memory of a fresh server before and with many connections.
//!
//! It never counts kernel memory (sockets, rings): that is much the same for every server, and larger.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::Settings;
use crate::client::Client;
use crate::contender::{Contender, Kind};
use crate::process::{self, Process};
use crate::profile::Measured;

/// How long load_idle may take to open its connections.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the server may take to accept what the kernel has accepted for it.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a server to come to rest before its memory is read.
const SETTLE: Duration = Duration::from_millis(500);

pub fn measure(settings: &Settings, name: &str, kinds: &[Kind]) -> Result<Measured> {
    let mut report = format!(
        "== {name}: bytes of anonymous memory an idle connection, {} connections\n\
         {:<14} {:>12} {:>14}\n",
        settings.idle_connections, "contender", "only opened", "after a request"
    );
    let mut rows = Vec::new();
    for &kind in kinds {
        if kind.is_ringmill() && settings.ringmill.is_none() {
            continue;
        }
        let opened = bytes_per_connection(settings, kind, Traffic::None)?;
        let requested = bytes_per_connection(settings, kind, Traffic::OneRequest)?;
        writeln!(report, "{:<14} {opened:>12.0} {requested:>14.0}", kind.name())
            .expect("writing to a String cannot fail");
        rows.push(json!({
            "contender": kind.name(),
            "opened_bytes": opened,
            "requested_bytes": requested,
        }));
    }
    Ok(Measured {
        report,
        json: json!({
            "profile": name,
            "connections": settings.idle_connections,
            "contenders": rows,
        }),
    })
}

/// What happens on each connection before it idles.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    None,
    OneRequest,
}

fn bytes_per_connection(settings: &Settings, kind: Kind, traffic: Traffic) -> Result<f64> {
    // load_idle sends the same request as load_churn.
    let server = Contender::start(kind, settings, Client::Churn { connections: 1 })?;
    process::sleep(SETTLE)?;
    let files_before = server.process.open_files()?;
    let bytes_before = server.process.anonymous_bytes()?;
    let _client = open_connections(settings, &server, traffic)?;
    wait_accepted(settings, &server, files_before)?;
    process::sleep(SETTLE)?;
    let bytes_after = server.process.anonymous_bytes()?;
    let grown = bytes_after as f64 - bytes_before as f64;
    Ok(grown / f64::from(settings.idle_connections))
}

/// Starts load_idle and returns it once it holds all connections.
fn open_connections(settings: &Settings, server: &Contender, traffic: Traffic) -> Result<Process> {
    let mut command = Command::new(settings.peers.join("load_idle"));
    command.arg("--connect").arg(server.target.to_string());
    command
        .arg("--connections")
        .arg(settings.idle_connections.to_string());
    if traffic == Traffic::OneRequest {
        command.arg("--request");
    }
    // The pipe to its standard input stays open until the process is dropped: that is what it waits for.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Process::start(command, settings.client_cpu())?;
    let stdout = client.child.stdout.take().context("standard output is piped")?;
    let (sender, receiver) = mpsc::channel();
    // A thread reads the line, because a read from a pipe has no time limit. It ends with the client.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        // The receiver is gone if the wait below timed out.
        let _ = sender.send(read.map(|_| line));
    });
    let end = Instant::now() + OPEN_TIMEOUT;
    loop {
        match receiver.try_recv() {
            Ok(Ok(line)) if line == "ready\n" => return Ok(client),
            Ok(_) => bail!("load_idle could not open its connections"),
            Err(_) if Instant::now() >= end => bail!("load_idle did not open its connections in time"),
            Err(_) => process::pause()?,
        }
    }
}

/// Waits until the server itself has taken all connections: the kernel completes handshakes before that.
fn wait_accepted(settings: &Settings, server: &Contender, files_before: usize) -> Result<()> {
    let expected = files_before + settings.idle_connections as usize;
    let end = Instant::now() + ACCEPT_TIMEOUT;
    loop {
        let open = server.process.open_files()?;
        if open >= expected {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!(
                "{} holds {} of {} connections (does it limit them, or keep them as direct descriptors?)",
                server.kind.name(),
                open.saturating_sub(files_before),
                settings.idle_connections
            );
        }
        process::pause()?;
    }
}

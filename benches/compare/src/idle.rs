//! Memory of idle connections: anonymous resident memory of a fresh server before and with many connections.
//!
//! It never counts kernel memory (sockets, rings): that is much the same for every server, and larger. The connections
//! are our own: nothing of a load generator is needed to hold them.

use super::contender::{Contender, Kind};
use super::identity::{self, Stream};
use super::proc;
use super::process::Interrupt;
use super::profile::Profile;
use super::results::Memory;
use super::server::Server;
use super::websocket;
use anyhow::{Context, Result, ensure};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

/// How long opening, and then accepting, may take without any progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for a server to come to rest before its memory is read.
const SETTLE: Duration = Duration::from_millis(500);
/// Connections opened between two looks at whether the server has taken them: fewer than any backlog.
const BATCH: usize = 100;
/// Descriptors of this process that are not connections.
const OWN_DESCRIPTORS: u64 = 100;

/// What happens on each connection before it idles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    None,
    OneRequest,
}

/// The request that a connection may have had.
pub(super) fn request(contender: &Contender, profile: Profile, target: SocketAddrV4) -> Vec<u8> {
    let path = profile.ask().paths().remove(0);
    if profile.is_websocket() {
        return websocket::handshake(&path, target, false);
    }
    let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes();
    match contender.kind {
        Kind::Blind { .. } => vec![b'x'; request.len()],
        _ => request,
    }
}

/// The most connections this process can hold.
pub(super) fn connections_max() -> u32 {
    let descriptors = ringmill_engine::raise_descriptor_limit();
    u32::try_from(descriptors.saturating_sub(OWN_DESCRIPTORS)).unwrap_or(u32::MAX)
}

/// Bytes a connection of a server that has just started. An error is an interrupt.
pub(super) fn measure(
    server: &mut Server,
    profile: Profile,
    connections: u32,
    traffic: Traffic,
    request: &[u8],
    interrupt: &Interrupt,
) -> Result<Memory> {
    let measured = try_measure(server, profile, connections, traffic, request, interrupt);
    interrupt.check()?;
    Ok(match measured {
        Ok(bytes) => Memory::Bytes(bytes),
        Err(error) => Memory::Failed(format!("{error:#}")),
    })
}

fn try_measure(
    server: &mut Server,
    profile: Profile,
    connections: u32,
    traffic: Traffic,
    request: &[u8],
    interrupt: &Interrupt,
) -> Result<f64> {
    interrupt.sleep(SETTLE)?;
    let pid = server.process.pid();
    // A proxy may close the connection with its backend that it opened for the first answer.
    let spare = usize::from(profile.has_backend());
    let files_before = proc::open_files(pid)?.saturating_sub(spare);
    let bytes_before = proc::anonymous_bytes(pid)?;
    let reply_bytes = server.replies.first().map_or(0, |reply| reply.head_bytes + reply.body_bytes);
    let mut streams: Vec<Box<dyn Stream>> = Vec::with_capacity(connections as usize);
    while streams.len() < connections as usize {
        let batch = BATCH.min(connections as usize - streams.len());
        for _ in 0..batch {
            streams.push(connect(server).with_context(|| format!("connection {}", streams.len() + 1))?);
        }
        if traffic == Traffic::OneRequest {
            for stream in streams.iter_mut().rev().take(batch) {
                one_request(stream.as_mut(), request, reply_bytes)?;
            }
        }
        wait_accepted(server, files_before, streams.len(), interrupt)?;
    }
    interrupt.sleep(SETTLE)?;
    let bytes_after = proc::anonymous_bytes(pid)?;
    server.expect_running()?;
    Ok((bytes_after as f64 - bytes_before as f64) / f64::from(connections))
}

/// With its handshake, where there is one.
fn connect(server: &Server) -> Result<Box<dyn Stream>> {
    let stream = TcpStream::connect_timeout(&server.target.into(), STALL_TIMEOUT)?;
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    identity::secured(stream, server.identity.as_ref())
}

fn one_request(stream: &mut dyn Stream, request: &[u8], reply_bytes: usize) -> Result<()> {
    stream.write_all(request)?;
    stream.flush()?;
    stream.read_exact(&mut vec![0; reply_bytes]).context("no whole reply on a connection that shall idle")
}

/// Waits until the server itself has taken all connections: the kernel completes handshakes before that.
fn wait_accepted(
    server: &mut Server,
    files_before: usize,
    connections: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let end = Instant::now() + STALL_TIMEOUT;
    loop {
        let open = proc::open_files(server.process.pid())?.saturating_sub(files_before);
        if open >= connections {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "it holds {open} of {connections} connections (does it limit them, or keep them as direct descriptors?)"
        );
        server.expect_running()?;
        interrupt.pause()?;
    }
}

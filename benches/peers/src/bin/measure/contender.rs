//! The servers under comparison: how each is started, and when it counts as ready.
//!
//! A contender is started on a free loopback port of its own and must answer one real request before it is measured.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringmill_peers::http::{self, Progress};
use socket2::{Domain, Socket, Type};

use crate::Settings;
use crate::client::Client;
use crate::process::{self, Process};

pub const PEER_PROGRAMS: &[&str] = &["blind_uring", "blind_epoll", "blind_udp", "hyper_percore"];

/// How long a server may take to answer its first request.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    RingmillUring,
    RingmillPoll,
    /// ringmill on io_uring, measured at its UDP echo.
    RingmillUdp,
    BlindUring,
    BlindEpoll,
    BlindUdp,
    Hyper,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::RingmillUring => "ringmill",
            Kind::RingmillPoll => "ringmill_poll",
            Kind::RingmillUdp => "ringmill_udp",
            Kind::BlindUring => "blind_uring",
            Kind::BlindEpoll => "blind_epoll",
            Kind::BlindUdp => "blind_udp",
            Kind::Hyper => "hyper",
        }
    }

    pub fn is_ringmill(self) -> bool {
        match self {
            Kind::RingmillUring | Kind::RingmillPoll | Kind::RingmillUdp => true,
            Kind::BlindUring | Kind::BlindEpoll | Kind::BlindUdp | Kind::Hyper => false,
        }
    }

    fn is_udp(self) -> bool {
        matches!(self, Kind::RingmillUdp | Kind::BlindUdp)
    }
}

/// A running server that has answered.
pub struct Contender {
    pub kind: Kind,
    pub process: Process,
    /// Where its clients connect.
    pub target: SocketAddrV4,
    /// Size of its reply to the probe.
    pub reply_bytes: usize,
}

impl Contender {
    /// Starts the server and waits until it answers. `client` tells how long the requests will be.
    pub fn start(kind: Kind, settings: &Settings, client: Client) -> Result<Self> {
        Self::try_start(kind, settings, client).with_context(|| format!("cannot start {}", kind.name()))
    }

    fn try_start(kind: Kind, settings: &Settings, client: Client) -> Result<Self> {
        let target = free_address(if kind.is_udp() { Type::DGRAM } else { Type::STREAM })?;
        let (mut command, probe) = match kind {
            Kind::BlindUring | Kind::BlindEpoll => {
                let bytes = client.request_bytes(settings, target.port())?;
                let mut command = peer(kind, settings, target);
                command.arg("--request-bytes").arg(bytes.to_string());
                (command, vec![b'x'; bytes])
            }
            Kind::Hyper => (
                peer(kind, settings, target),
                http::get_request("/plaintext", target),
            ),
            Kind::BlindUdp => (peer(kind, settings, target), b"probe of the runner".to_vec()),
            Kind::RingmillUring | Kind::RingmillPoll => {
                let command = ringmill(kind, settings, target)?;
                (command, http::get_request("/plaintext", target))
            }
            Kind::RingmillUdp => {
                let mut command = ringmill(kind, settings, free_address(Type::STREAM)?)?;
                command.arg("--udp-echo").arg(target.to_string());
                (command, b"probe of the runner".to_vec())
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Process::start(command, settings.server_cpu())?;
        let reply_bytes = wait_ready(&mut process, kind, target, &probe)?;
        Ok(Contender {
            kind,
            process,
            target,
            reply_bytes,
        })
    }
}

fn peer(kind: Kind, settings: &Settings, target: SocketAddrV4) -> Command {
    let program = match kind {
        Kind::BlindUring => "blind_uring",
        Kind::BlindEpoll => "blind_epoll",
        Kind::BlindUdp => "blind_udp",
        Kind::Hyper => "hyper_percore",
        Kind::RingmillUring | Kind::RingmillPoll | Kind::RingmillUdp => {
            unreachable!("ringmill is not a program of this package")
        }
    };
    let mut command = Command::new(settings.peers.join(program));
    command.arg("--listen").arg(target.to_string());
    if !kind.is_udp()
        && let Some(name) = &settings.congestion
    {
        command.arg("--congestion").arg(name);
    }
    command
}

fn ringmill(kind: Kind, settings: &Settings, listen: SocketAddrV4) -> Result<Command> {
    let program = settings.ringmill.as_deref().context("needs --ringmill PATH")?;
    // A name without a folder would be looked up in PATH.
    let program = Path::new(program)
        .canonicalize()
        .with_context(|| program.display().to_string())?;
    let driver = if kind == Kind::RingmillPoll {
        "poll"
    } else {
        "uring"
    };
    let mut command = Command::new(program);
    command.arg("serve").arg("--listen").arg(listen.to_string());
    command.arg("--workers").arg("1");
    command.arg("--pin").arg(settings.server_cpu().to_string());
    command.arg("--driver").arg(driver);
    command.args(&settings.ringmill_args);
    Ok(command)
}

/// An address nobody is bound to. Another program could take it before the server does; its probe would then fail.
fn free_address(kind: Type) -> Result<SocketAddrV4> {
    // Without SO_REUSEADDR, which the standard library sets: a port with connections in TIME_WAIT is not free enough.
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    socket.local_addr()?.as_socket_ipv4().context("bound to IPv4")
}

/// Repeats the probe until it is answered; returns the size of the answer.
fn wait_ready(process: &mut Process, kind: Kind, target: SocketAddrV4, probe: &[u8]) -> Result<usize> {
    let end = Instant::now() + READY_TIMEOUT;
    loop {
        process.expect_running()?;
        let attempt = if kind.is_udp() {
            probe_udp(target, probe)
        } else {
            probe_tcp(target, probe)
        };
        match attempt {
            Ok(reply_bytes) => return Ok(reply_bytes),
            Err(error) if Instant::now() >= end => return Err(error).context("it does not answer"),
            Err(_) => process::pause()?,
        }
    }
}

fn probe_tcp(target: SocketAddrV4, probe: &[u8]) -> Result<usize> {
    let mut stream = TcpStream::connect_timeout(&target.into(), ATTEMPT_TIMEOUT)?;
    stream.set_read_timeout(Some(ATTEMPT_TIMEOUT))?;
    stream.set_write_timeout(Some(ATTEMPT_TIMEOUT))?;
    stream.write_all(probe)?;
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        received.extend_from_slice(&buffer[..count]);
        match http::check_reply(&received) {
            Progress::Complete => return Ok(received.len()),
            Progress::Partial if count > 0 => {}
            Progress::Partial | Progress::Malformed => {
                bail!("unexpected reply {:?}", String::from_utf8_lossy(&received))
            }
        }
    }
}

fn probe_udp(target: SocketAddrV4, probe: &[u8]) -> Result<usize> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(ATTEMPT_TIMEOUT))?;
    socket.send(probe)?;
    let mut buffer = [0; 2048];
    let count = socket.recv(&mut buffer)?;
    if buffer[..count] != *probe {
        return Err(io::Error::other("the echo differs").into());
    }
    Ok(count)
}

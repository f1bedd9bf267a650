//! TLS for `https://` targets: its options, whom the server is checked against, and one handshake before anything starts, so that what is
//! wrong with it is said in one line.

use super::LoadError;
use super::target::Target;
use clap::Args;
use ringmill::{TlsClient, TlsClientConfig, TlsPeer};
use ringmill_console::terminal;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// Options for https:// targets.
#[derive(Args)]
pub(super) struct Secure {
    /// Trust the certificates in this file (PEM) instead of the system's: of authorities, or of a server that signed its
    /// own; repeat for several
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    cacert: Vec<PathBuf>,

    /// Take any certificate: whoever is in between can read and change everything
    #[arg(long)]
    insecure: bool,

    /// Certificate of ours (PEM), with its chain behind it, for a server that asks for one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Make a full handshake for every connection, instead of resuming an earlier one
    #[arg(long)]
    no_resume: bool,
}

/// Tickets that are kept at least, and at most.
const TICKETS: (usize, usize) = (64, 65_536);

impl Secure {
    /// An option that was given, if one was.
    pub(super) fn given(&self) -> Option<&'static str> {
        let all = [
            ("--cacert", !self.cacert.is_empty()),
            ("--insecure", self.insecure),
            ("--cert", self.cert.is_some()),
            ("--no-resume", self.no_resume),
        ];
        all.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }

    /// The server of an https target, with what connections to it run with.
    pub(super) fn peer(
        &self,
        target: &Target,
        connections: u32,
        timeout: Duration,
    ) -> Result<TlsPeer, LoadError> {
        // Each connection may bring two, and all may be opened at once.
        let tickets_max = (2 * connections as usize).clamp(TICKETS.0, TICKETS.1);
        let mut config = TlsClientConfig::default()
            .with_handshake_timeout(timeout)
            .with_tickets_max(if self.no_resume { 0 } else { tickets_max });
        for file in &self.cacert {
            config = config.with_roots(file);
        }
        if self.insecure {
            terminal::remark(
                "WARNING: --insecure takes any certificate: whoever is in between can read and change everything",
            );
            config = config.without_verification();
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            config = config.with_identity(cert, key);
        }
        Ok(TlsClient::new(config)?.peer(&target.host)?)
    }
}

/// Connects to an address, and makes a handshake where one is due.
pub(super) fn try_address(
    address: SocketAddr,
    peer: Option<&TlsPeer>,
    timeout: Duration,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    let Some(peer) = peer else { return Ok(()) };
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    peer.try_handshake(&mut stream).map(drop).map_err(std::io::Error::other)
}

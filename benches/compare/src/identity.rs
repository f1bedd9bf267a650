//! The certificate of a run, which all contenders with TLS show: ECDSA P-256, for this machine alone. The client trusts it and no other,
//! so that a server which shows another one is not measured.

use anyhow::{Context, Result};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{IpAddr, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate with its key, as files, and a client that trusts it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    client: Arc<ClientConfig>,
}

impl Identity {
    /// Makes both files in a folder.
    pub(super) fn make(folder: &Path) -> Result<Identity> {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names).context("cannot make a certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).context("the certificate that was made cannot be trusted")?;
        let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        // What is looked at is what a new client gets.
        client.resumption = Resumption::disabled();
        let file = |name: &str, text: String| {
            let file = folder.join(name);
            std::fs::write(&file, text).with_context(|| file.display().to_string())?;
            Ok::<_, anyhow::Error>(file)
        };
        Ok(Identity {
            cert: file("cert.pem", cert.pem())?,
            key: file("key.pem", signing_key.serialize_pem())?,
            client: Arc::new(client),
        })
    }

    /// Makes a handshake.
    pub(super) fn secure(&self, stream: TcpStream) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let connection = ClientConnection::new(self.client.clone(), name)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).context("no TLS handshake")?;
        }
        Ok(stream)
    }
}

/// A connection with TLS or without.
pub(super) trait Stream: std::io::Read + std::io::Write {}

impl<T: std::io::Read + std::io::Write> Stream for T {}

/// The stream as it is, or with a handshake made where there is an identity.
pub(super) fn secured(stream: TcpStream, identity: Option<&Identity>) -> Result<Box<dyn Stream>> {
    Ok(match identity {
        Some(identity) => Box::new(identity.secure(stream)?),
        None => Box::new(stream),
    })
}

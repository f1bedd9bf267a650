//! TLS over sockets: a certificate of a test's own, and rustls as the client that trusts it.

use super::{connect_to, with_patience};
use ringmill::{TlsClientConfig, TlsConfig};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// A client's connection once its handshake is made.
pub type Secured = StreamOwned<ClientConnection, Counted>;

/// A certificate for localhost, its key, and a client that trusts it.
pub struct Trust {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Trust {
    pub fn new() -> Trust {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name of a host");
        Trust { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() }
    }

    /// With these protocols, the preferred one first.
    pub fn server(&self, alpn: &[&str]) -> TlsConfig {
        let mut config = self.server_with(aws_lc_rs::default_provider(), rustls::ALL_VERSIONS);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConfig::custom(Arc::new(config))
    }

    /// A server of rustls with this cryptography and these versions.
    pub fn server_with(
        &self,
        provider: CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ServerConfig {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("both versions are there")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .expect("a sound pair")
    }

    /// A client of ours that trusts it.
    pub fn our_client(&self) -> TlsClientConfig {
        TlsClientConfig::default().with_root_certificate(self.certificate.to_vec())
    }

    /// Offers these protocols.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS, alpn)
    }

    /// Offers these versions and protocols.
    pub fn client_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&str],
    ) -> ClientConfig {
        self.client_with(aws_lc_rs::default_provider(), versions, alpn)
    }

    /// With this cryptography.
    pub fn client_with(
        &self,
        provider: CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&str],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("both versions are there")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// Nothing of it has been sent yet.
pub fn unsent(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name of a host");
    ClientConnection::new(config.clone(), name).expect("a sound client")
}

/// The first flight of a client, as it is on the wire.
pub fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let mut hello = Vec::new();
    unsent(config).write_tls(&mut hello).expect("a vector takes it");
    hello
}

/// Makes a handshake. A stream that ends without close_notify is an error to this client.
pub fn secure(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Secured> {
    secure_on(connect_to(address), config)
}

/// Makes a handshake on a connection.
pub fn secure_on(stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Secured> {
    let stream = Counted { stream: with_patience(stream), sent_bytes: 0 };
    let mut stream = StreamOwned::new(unsent(config), stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// A socket that knows how much was sent.
pub struct Counted {
    pub stream: TcpStream,
    pub sent_bytes: usize,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.stream.write(bytes)?;
        self.sent_bytes += sent;
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

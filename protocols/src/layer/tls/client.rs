//! What connections that we open run with: whom we trust, who we are, what is remembered to resume with. Shared by all workers.

use super::config::{Identity, Problem, TlsError, TlsVersion};
use super::failures::{Failures, explain};
use super::identity::load;
use super::link::{Event, Link};
use super::pem::read_chain;
use super::sessions::Sessions;
use super::store::provider;
use ringmill_engine::Secure;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that a server may send in a handshake: room for a long chain.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// The configuration of connections that we open: [`TlsClient::new`] checks it and reads its files.
///
/// TLS 1.2 and 1.3, ALPN `http/1.1`, resumption; no early data. A server's certificate is verified, with the authorities that the
/// system trusts unless others are named.
#[derive(Clone, Debug)]
pub struct TlsClientConfig {
    roots: Roots,
    identity: Option<Identity>,
    version_min: TlsVersion,
    alpn: Vec<Vec<u8>>,
    tickets_max: usize,
    handshake_timeout: Duration,
}

/// Whose word counts for a server's certificate.
#[derive(Clone, Debug)]
enum Roots {
    System,
    These {
        files: Vec<PathBuf>,
        certificates: Vec<Vec<u8>>,
    },
    /// Nobody's is needed.
    Any,
}

impl Default for TlsClientConfig {
    fn default() -> TlsClientConfig {
        TlsClientConfig {
            roots: Roots::System,
            identity: None,
            version_min: TlsVersion::V1_2,
            alpn: vec![b"http/1.1".to_vec()],
            tickets_max: 64,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl TlsClientConfig {
    /// Trusts the certificates in this file (PEM), and not those of the system: authorities, or a server's own that it signed
    /// itself. Called again, those of another file as well.
    pub fn with_roots(mut self, file: impl Into<PathBuf>) -> TlsClientConfig {
        self.these_roots().0.push(file.into());
        self
    }

    /// The same with one certificate, as DER.
    pub fn with_root_certificate(mut self, certificate: impl Into<Vec<u8>>) -> TlsClientConfig {
        self.these_roots().1.push(certificate.into());
        self
    }

    fn these_roots(&mut self) -> (&mut Vec<PathBuf>, &mut Vec<Vec<u8>>) {
        if !matches!(self.roots, Roots::These { .. }) {
            self.roots = Roots::These { files: Vec::new(), certificates: Vec::new() };
        }
        match &mut self.roots {
            Roots::These { files, certificates } => (files, certificates),
            Roots::System | Roots::Any => unreachable!("set above"),
        }
    }

    /// Takes any certificate: whoever is in between can read and change everything. For tests.
    pub fn without_verification(self) -> TlsClientConfig {
        TlsClientConfig { roots: Roots::Any, ..self }
    }

    /// Shows a server that asks for one the certificate in the file `cert`, with its chain behind it; `key` is its key. Both PEM.
    pub fn with_identity(self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsClientConfig {
        TlsClientConfig { identity: Some(Identity::Files { cert: cert.into(), key: key.into() }), ..self }
    }

    /// The oldest version that is spoken, 1.2 unless said otherwise.
    pub fn with_version_min(self, version_min: TlsVersion) -> TlsClientConfig {
        TlsClientConfig { version_min, ..self }
    }

    /// The protocols that are offered (ALPN), the preferred one first: `http/1.1` unless said otherwise.
    pub fn with_alpn<P: Into<Vec<u8>>>(self, protocols: impl IntoIterator<Item = P>) -> TlsClientConfig {
        TlsClientConfig { alpn: protocols.into_iter().map(Into::into).collect(), ..self }
    }

    /// How many tickets of a server are kept to resume with, each for one connection: 64 unless said otherwise. With 0 every handshake
    /// is a full one.
    pub fn with_tickets_max(self, tickets_max: usize) -> TlsClientConfig {
        TlsClientConfig { tickets_max, ..self }
    }

    /// A handshake must be complete within this time of the connection: 10 s unless said otherwise.
    pub fn with_handshake_timeout(self, handshake_timeout: Duration) -> TlsClientConfig {
        TlsClientConfig { handshake_timeout, ..self }
    }
}

/// A checked configuration, with what servers gave to resume with. One is shared by all workers.
///
/// ```no_run
/// # use ringmill_engine as ringmill;
/// # use ringmill_protocols::{Echo, Tls, TlsClient, TlsClientConfig};
/// # let asking = Echo::default;
/// let server = TlsClient::new(TlsClientConfig::default())?.peer("example.org")?;
/// ringmill::Engine::builder()
///     // `asking` makes a protocol that connects (`Dialer::connect`): all its connections are with this server.
///     .outbound(move |_worker| {
///         let server = server.clone();
///         Tls::client(asking(), move |_tag| Some(server.clone()))
///     })
///     .run()?;
/// # Ok::<(), ringmill_engine::Error>(())
/// ```
#[derive(Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    handshake_timeout: Duration,
}

impl TlsClient {
    /// Reads and checks everything. The error names every file with its problem and what to do about it.
    pub fn new(config: TlsClientConfig) -> Result<Arc<TlsClient>, TlsError> {
        let provider = Arc::new(provider());
        let mut problems = Vec::new();
        if config.alpn.iter().any(|protocol| !(1..=255).contains(&protocol.len())) {
            problems
                .push(of_none("a protocol of ALPN is empty or longer than 255 bytes", "such as http/1.1"));
        }
        if config.handshake_timeout.is_zero() {
            problems.push(of_none("handshake_timeout is zero", "no handshake could be complete in no time"));
        }
        let roots = roots(&config.roots).map_err(|found| problems.extend(found)).ok();
        let identity = match config.identity.as_ref().map(|identity| load(identity, &provider)).transpose() {
            Ok(identity) => identity.map(|identity| Arc::unwrap_or_clone(identity.key)),
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let Some(roots) = roots.filter(|_| problems.is_empty()) else { return Err(TlsError::new(problems)) };
        let unusable = |error: rustls::Error| TlsError::new(vec![of_none(&error.to_string(), "")]);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(config.version_min.and_newer())
            .map_err(unusable)?;
        let builder = match roots {
            Some(roots) => builder.with_root_certificates(roots),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider))),
        };
        let mut client = match identity {
            Some(key) => {
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        client.alpn_protocols = config.alpn;
        client.resumption = match config.tickets_max {
            0 => Resumption::disabled(),
            tickets_max => Resumption::store(Arc::new(Sessions::new(tickets_max))),
        };
        Ok(Arc::new(TlsClient { config: Arc::new(client), handshake_timeout: config.handshake_timeout }))
    }

    /// The server of this name: a host name or an IP address, without a port. The certificate must have it, and the server is told it
    /// (SNI) if it is no IP address.
    pub fn peer(self: &Arc<TlsClient>, name: &str) -> Result<TlsPeer, TlsError> {
        match ServerName::try_from(name.to_owned()) {
            Ok(name) => Ok(TlsPeer { client: self.clone(), name, failures: Arc::default() }),
            Err(_) => {
                let reason = format!("{name:?} is no name that a certificate can have");
                Err(TlsError::new(vec![of_none(&reason, "a host name or an IP address")]))
            }
        }
    }
}

/// A server that connections are secured with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsPeer {
    client: Arc<TlsClient>,
    name: ServerName<'static>,
    /// Of it and its clones.
    failures: Arc<Failures>,
}

impl TlsPeer {
    /// What connections to it run with.
    pub fn client(&self) -> &Arc<TlsClient> {
        &self.client
    }

    /// Why the last connection with it failed that did, in its handshake or later.
    pub fn last_reason(&self) -> Option<String> {
        self.failures.last().map(|(reason, _)| reason)
    }

    /// The same, and what can be done about it by options of `ringmill load`.
    pub fn last_failure(&self) -> Option<String> {
        self.failures.last().map(|(_, explained)| explained)
    }

    pub(super) fn link(&self) -> Result<Link, rustls::Error> {
        Link::connect(self.client.config.clone(), self.name.clone(), self.failures.clone())
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        self.client.handshake_timeout
    }

    pub(super) fn name(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// Makes a handshake on a stream that blocks, and says goodbye: to see whether it works before anything depends on it. The error
    /// says what is wrong and what to do. (A server that speaks TLS 1.3 and refuses our certificate says so only behind
    /// its handshake, and is not waited for.)
    pub fn try_handshake(&self, stream: &mut (impl Read + Write)) -> Result<Secure, TlsError> {
        let failed = |reason: &str| TlsError::new(vec![of_none(reason, "")]);
        let mut link = self.link().map_err(|error| failed(&explain(&error)))?;
        let (mut input, mut plain, mut wire) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let (taken, event) = link.advance(&mut input, &mut plain, &mut wire);
            input.drain(..taken);
            let is_done = !link.is_handshaking();
            if is_done {
                // Without effect on what was agreed on.
                let _ = link.close(&mut input, &mut wire);
            }
            let sent = stream.write_all(&wire).and_then(|()| stream.flush());
            wire.clear();
            match event {
                // Why it failed says more than that it cannot be told so.
                Event::Failed(error) => return Err(failed(&explain(&error))),
                _ if is_done => return Ok(link.facts(Some(self.name()))),
                _ if input.len() > HANDSHAKE_BYTES_MAX => {
                    return Err(failed("the server's part of the handshake is too long"));
                }
                _ => {}
            }
            let mut chunk = [0; 4096];
            match sent.and_then(|()| stream.read(&mut chunk)) {
                Ok(0) => return Err(failed(CLOSED)),
                Ok(bytes) => input.extend_from_slice(&chunk[..bytes]),
                Err(error) => return Err(failed(&format!("in the handshake: {error}"))),
            }
        }
    }
}

/// The end of the transport in a handshake.
pub(super) const CLOSED: &str =
    "the server closed the connection in the middle of the handshake (does it speak TLS on this port?)";

/// With whom connections are that a protocol opens itself.
pub(super) enum Peers {
    /// With nobody: there are none.
    None,
    /// By their tag; without an answer they stay plain.
    ByTag(Box<dyn FnMut(u64) -> Option<TlsPeer>>),
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Peers::None) { "None" } else { "ByTag" })
    }
}

fn of_none(reason: &str, remedy: &str) -> Problem {
    Problem { file: None, reason: reason.to_owned(), remedy: remedy.to_owned() }
}

/// The certificates that are trusted; `None` is any.
fn roots(roots: &Roots) -> Result<Option<RootCertStore>, Vec<Problem>> {
    match roots {
        Roots::Any => Ok(None),
        Roots::System => system_roots().map(Some).map_err(|problem| vec![problem]),
        Roots::These { files, certificates } => {
            let (mut store, mut problems) = (RootCertStore::empty(), Vec::new());
            for file in files {
                problems.extend(add_file(file, &mut store).err());
            }
            for certificate in certificates {
                if let Err(error) = store.add(certificate.clone().into()) {
                    problems.push(of_none(&format!("a certificate cannot be trusted: {error}"), ""));
                }
            }
            if problems.is_empty() { Ok(Some(store)) } else { Err(problems) }
        }
    }
}

fn add_file(file: &Path, store: &mut RootCertStore) -> Result<(), Problem> {
    for certificate in read_chain(file)? {
        store.add(certificate).map_err(|error| {
            Problem::of(
                file,
                format!("a certificate cannot be trusted: {error}"),
                "an X.509 certificate of version 3",
            )
        })?;
    }
    Ok(())
}

fn system_roots() -> Result<RootCertStore, Problem> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(store);
    }
    let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    let reason = match errors.as_slice() {
        [] => "this system trusts no authority of certificates".to_owned(),
        errors => format!("the authorities that this system trusts cannot be read: {}", errors.join("; ")),
    };
    Err(of_none(
        &reason,
        "install ca-certificates; or name the authority with --cacert FILE, or take any certificate with --insecure",
    ))
}

/// Takes any certificate; that the server has its key is checked.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

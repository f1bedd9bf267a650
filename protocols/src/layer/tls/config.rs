//! What a TLS listener runs with: certificates and limits. Plain data; `store.rs` makes of it what rustls wants.

use rustls::ServerConfig;
use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What is sent to a client that speaks plain HTTP to a TLS listener (as nginx does).
const PLAIN_REPLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 53\r\n\
connection: close\r\n\r\nThis port speaks HTTPS: ask with https:// in the URL\n";

/// The configuration of TLS listeners: [`TlsStore::new`](crate::TlsStore::new) checks it and reads its files.
///
/// TLS 1.2 and 1.3, ALPN `http/1.1`, stateless tickets, no certificates of clients unless asked for; no early data, no renegotiation.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub(super) source: Source,
    pub(super) client_auth: ClientAuth,
    pub(super) client_cas: Vec<PathBuf>,
    pub(super) client_crls: Vec<PathBuf>,
    pub(super) key_log: Option<PathBuf>,
    pub(super) version_min: TlsVersion,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) tickets: bool,
    pub(super) handshake_timeout: Duration,
    pub(super) handshake_bytes_max: usize,
    pub(super) handshake_turn: Duration,
    pub(super) plain_reply: Option<&'static [u8]>,
}

/// Where certificates and keys come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Identities(Vec<Identity>),
    Custom(Arc<ServerConfig>),
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAuth {
    None,
    Optional,
    Required,
}

/// A certificate with its chain, and its key.
#[derive(Clone)]
pub(super) enum Identity {
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
    /// As DER; the key as PKCS #8.
    Made {
        cert: Vec<u8>,
        key: Vec<u8>,
    },
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Files { cert, key } => write!(f, "{} with {}", cert.display(), key.display()),
            Identity::Made { .. } => f.write_str("made at start"),
        }
    }
}

/// The variable that is meant by `env:NAME`.
pub(super) fn variable(file: &Path) -> Option<&OsStr> {
    file.as_os_str().as_bytes().strip_prefix(b"env:").map(OsStr::from_bytes)
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), with forward secrecy and authenticated encryption only.
    #[default]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl TlsVersion {
    /// This one and those after it.
    pub(super) fn and_newer(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        static NEWEST: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
        match self {
            TlsVersion::V1_2 => rustls::ALL_VERSIONS,
            TlsVersion::V1_3 => &NEWEST,
        }
    }
}

impl FromStr for TlsVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<TlsVersion, String> {
        match text {
            "1.2" => Ok(TlsVersion::V1_2),
            "1.3" => Ok(TlsVersion::V1_3),
            _ => Err("expected 1.2 or 1.3: older versions are broken, and not offered".to_owned()),
        }
    }
}

impl Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == TlsVersion::V1_2 { "1.2" } else { "1.3" })
    }
}

impl TlsConfig {
    pub(super) fn new(source: Source) -> TlsConfig {
        TlsConfig {
            source,
            client_auth: ClientAuth::None,
            client_cas: Vec::new(),
            client_crls: Vec::new(),
            key_log: None,
            version_min: TlsVersion::V1_2,
            alpn: vec![b"http/1.1".to_vec()],
            tickets: true,
            handshake_timeout: Duration::from_secs(10),
            handshake_bytes_max: 64 * 1024,
            handshake_turn: Duration::from_millis(1),
            plain_reply: Some(PLAIN_REPLY),
        }
    }

    /// With the certificate in the file `cert`, which may have its chain behind it, and the private key in the file `key`.
    /// Both are PEM; `env:NAME` is a variable of the environment that holds it, instead of a file. The names that the certificate is shown for come from it (its subject alternative names).
    /// Nothing is read before [`TlsConfig::check`] or [`TlsStore::new`](crate::TlsStore::new).
    pub fn from_files(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsConfig {
        TlsConfig::new(Source::Identities(vec![Identity::Files { cert: cert.into(), key: key.into() }]))
    }

    /// With a configuration of rustls, for what is not offered here, such as a resolver of certificates of your own. Certificates,
    /// versions, ALPN and tickets are its own; the setters of the handshake's limits apply.
    pub fn custom(config: Arc<ServerConfig>) -> TlsConfig {
        TlsConfig::new(Source::Custom(config))
    }

    /// Adds a certificate and its key. A client that names none of the certificates, or no host at all, is shown the first.
    /// Where several have the name, it is the first whose key the client can verify.
    ///
    /// Has no effect on [`TlsConfig::custom`].
    pub fn with_files(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsConfig {
        if let Source::Identities(identities) = &mut self.source {
            identities.push(Identity::Files { cert: cert.into(), key: key.into() });
        }
        self
    }

    /// Clients must show a certificate that one of the authorities in this file (PEM) has signed, else the handshake fails. Call it
    /// for each of several files. Such a listener gives no tickets: each handshake looks at the certificate anew. Who was let in is in [`Secure::client_certificates`](ringmill_engine::Secure::client_certificates).
    ///
    /// Has no effect on [`TlsConfig::custom`].
    pub fn with_client_ca(mut self, file: impl Into<PathBuf>) -> TlsConfig {
        self.client_cas.push(file.into());
        if self.client_auth == ClientAuth::None {
            self.client_auth = ClientAuth::Required;
        }
        self
    }

    /// Whether a client may come without a certificate as well: no, unless said otherwise. One that is shown must be good in any case.
    /// Needs [`TlsConfig::with_client_ca`].
    pub fn with_client_optional(self, is_optional: bool) -> TlsConfig {
        let client_auth = match (is_optional, self.client_cas.is_empty()) {
            (true, _) => ClientAuth::Optional,
            (false, true) => ClientAuth::None,
            (false, false) => ClientAuth::Required,
        };
        TlsConfig { client_auth, ..self }
    }

    /// The certificates of clients that are in a revocation list in this file (PEM, RFC 5280) are refused. Call it for each of several
    /// files. As soon as one is given, each certificate of a client's chain needs the list of who signed it, and a list that has
    /// expired lets nobody in: so it is everywhere that follows OpenSSL. Needs [`TlsConfig::with_client_ca`].
    pub fn with_client_crl(mut self, file: impl Into<PathBuf>) -> TlsConfig {
        self.client_crls.push(file.into());
        self
    }

    /// Appends the secrets of all connections to this file, in the format of NSS. For debugging only: with them, whoever has recorded the
    /// traffic can read it. The environment's SSLKEYLOGFILE alone does nothing.
    pub fn with_key_log(self, file: Option<PathBuf>) -> TlsConfig {
        TlsConfig { key_log: file, ..self }
    }

    /// The oldest version that is spoken, 1.2 unless said otherwise.
    pub fn with_version_min(self, version_min: TlsVersion) -> TlsConfig {
        TlsConfig { version_min, ..self }
    }

    /// The protocols that are offered (ALPN, RFC 7301), the preferred one first: `http/1.1` unless said otherwise. A client that
    /// offers only others is refused, one that offers none is not. With an empty list none is agreed on.
    pub fn with_alpn<P: Into<Vec<u8>>>(self, protocols: impl IntoIterator<Item = P>) -> TlsConfig {
        TlsConfig { alpn: protocols.into_iter().map(Into::into).collect(), ..self }
    }

    /// Whether clients get tickets to resume with: yes, unless said otherwise, or unless they are asked for certificates. Tickets are
    /// stateless; the keys are this process's, and change every six hours.
    pub fn with_tickets(self, tickets: bool) -> TlsConfig {
        TlsConfig { tickets, ..self }
    }

    /// A handshake must be complete within this time of the connection's start: 10 s unless said otherwise.
    pub fn with_handshake_timeout(self, handshake_timeout: Duration) -> TlsConfig {
        TlsConfig { handshake_timeout, ..self }
    }

    /// Bytes that a client may send in a handshake: 64 KiB unless said otherwise, at least 4 KiB.
    pub fn with_handshake_bytes_max(self, handshake_bytes_max: usize) -> TlsConfig {
        TlsConfig { handshake_bytes_max, ..self }
    }

    /// CPU time that a worker spends on handshakes before it looks after its other connections: 1 ms unless said otherwise. Further
    /// handshakes wait their turn, first come, first served. The first of a turn is made whatever it costs.
    pub fn with_handshake_turn(self, handshake_turn: Duration) -> TlsConfig {
        TlsConfig { handshake_turn, ..self }
    }

    /// What a client gets that sends an HTTP request without TLS: a 400 that says so, unless said otherwise. With `None` it gets a
    /// TLS alert.
    pub fn with_plain_reply(self, plain_reply: Option<&'static [u8]>) -> TlsConfig {
        TlsConfig { plain_reply, ..self }
    }

    /// The files of certificates, keys, authorities and lists.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let identities = match &self.source {
            Source::Identities(identities) => &identities[..],
            Source::Custom(_) => &[],
        };
        let pairs = identities.iter().flat_map(|identity| match identity {
            Identity::Files { cert, key } => vec![cert, key],
            Identity::Made { .. } => Vec::new(),
        });
        let all = pairs.chain(&self.client_cas).chain(&self.client_crls).map(PathBuf::as_path);
        // A variable stays as it is for the life of a process.
        all.filter(|file| variable(file).is_none())
    }

    /// What is wrong with the settings, without a look at files.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut need = |ok: bool, reason: &str, remedy: &str| {
            if !ok {
                problems.push(Problem { file: None, reason: reason.to_owned(), remedy: remedy.to_owned() });
            }
        };
        need(
            !self.handshake_timeout.is_zero(),
            "handshake_timeout is zero",
            "no handshake could be complete in no time",
        );
        need(
            self.handshake_bytes_max >= 4096,
            "handshake_bytes_max is under 4 KiB",
            "the first message of many clients is longer than one KiB",
        );
        need(
            self.alpn.iter().all(|protocol| (1..=255).contains(&protocol.len())),
            "a protocol of ALPN is empty or longer than 255 bytes",
            "such as http/1.1",
        );
        need(
            self.client_auth == ClientAuth::None || !self.client_cas.is_empty(),
            "clients may show a certificate, and no authority is given that it would be measured by",
            "give the file of a client CA",
        );
        need(
            self.client_crls.is_empty() || !self.client_cas.is_empty(),
            "a revocation list is given, and no client CA",
            "give the file of the client CA that issues it",
        );
        problems
    }
}

/// What is wrong with a configuration of TLS, all of it.
#[derive(Debug, thiserror::Error)]
#[error("{}", sentences(problems))]
pub struct TlsError {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) file: Option<PathBuf>,
    pub(super) reason: String,
    pub(super) remedy: String,
}

impl Problem {
    pub(super) fn of(file: &Path, reason: impl Display, remedy: impl Into<String>) -> Problem {
        Problem { file: Some(file.to_owned()), reason: reason.to_string(), remedy: remedy.into() }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        f.write_str(&self.reason)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " ({})", self.remedy) }
    }
}

impl TlsError {
    pub(super) fn new(problems: Vec<Problem>) -> TlsError {
        TlsError { problems }
    }

    /// One sentence each: the file if there is one, the reason, what to do.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(Problem::to_string)
    }
}

impl From<TlsError> for ringmill_engine::Error {
    fn from(error: TlsError) -> ringmill_engine::Error {
        ringmill_engine::Error::Config { problems: error.problems().collect() }
    }
}

fn sentences(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

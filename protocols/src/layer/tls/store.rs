//! From a configuration to what rustls wants: reads certificates and keys, says what is wrong with them, and chooses one for each
//! client. Shared by all workers.

use super::config::{Identity, Problem, Source, TlsConfig, TlsError, TlsVersion};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig, SignatureScheme, SupportedCipherSuite};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long a certificate made at start is valid. It is never written to disk: a process makes a new one.
const SELF_SIGNED_VALID: Duration = Duration::from_secs(30 * 24 * 3600);
/// Clocks of clients may be behind by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// A checked configuration with its certificates and the keys of its tickets: one for each listener, shared by its workers, so that a
/// client which comes to another worker can resume. Give listeners of different purpose a store each: a ticket of one
/// store is worth nothing to another.
#[derive(Debug)]
pub struct TlsStore {
    server: Arc<ServerConfig>,
    config: TlsConfig,
    default: Option<Arc<CertifiedKey>>,
}

impl TlsStore {
    /// Reads and checks everything. The error names every file with its problem and what to do about it.
    pub fn new(config: TlsConfig) -> Result<Arc<TlsStore>, TlsError> {
        let (server, default) = server_config(&config)?;
        Ok(Arc::new(TlsStore { server, config, default }))
    }

    pub(super) fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    pub(super) fn config(&self) -> &TlsConfig {
        &self.config
    }

    /// The SHA-256 of the first certificate, as `AB:CD:..`, the form in which browsers and `openssl x509 -fingerprint -sha256` show
    /// it. `None` for a configuration of your own.
    pub fn fingerprint(&self) -> Option<String> {
        let digest = sha256(self.default.as_ref()?.cert.first()?)?;
        Some(digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
    }

    /// The SHA-256 of the first certificate's public key in base64, as `curl --pinnedpubkey sha256//..` takes it.
    pub fn public_key_pin(&self) -> Option<String> {
        let key = self.default.as_ref()?.key.public_key()?;
        sha256(&key).map(|digest| base64(&digest))
    }
}

/// The one provider of cryptography. Never the process's default: a program that has two would panic.
fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// What rustls runs with, and the identity for clients that name none.
pub(super) fn server_config(
    config: &TlsConfig,
) -> Result<(Arc<ServerConfig>, Option<Arc<CertifiedKey>>), TlsError> {
    let mut problems = config.problems();
    let identities = match &config.source {
        Source::Custom(server) => {
            let resolver = Arc::new(Recording(server.cert_resolver.clone()));
            let mut server = ServerConfig::clone(server);
            server.cert_resolver = resolver;
            return if problems.is_empty() {
                Ok((Arc::new(server), None))
            } else {
                Err(TlsError::new(problems))
            };
        }
        Source::Identities(identities) => identities,
    };
    let provider = Arc::new(provider());
    let mut names = Names::default();
    for identity in identities {
        match load(identity, &provider) {
            Ok((key, dns_names)) => names.add(Arc::new(key), &dns_names),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(TlsError::new(problems));
    }
    let default = names.default.first().cloned();
    let unusable = |error: rustls::Error| {
        TlsError::new(vec![Problem { file: None, reason: error.to_string(), remedy: String::new() }])
    };
    let versions: &[&rustls::SupportedProtocolVersion] = match config.version_min {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(unusable)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Recording(Arc::new(names))));
    server.alpn_protocols = config.alpn.clone();
    server.session_storage = Arc::new(NoServerSessionStorage {});
    if config.tickets {
        server.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
    } else {
        server.send_tls13_tickets = 0;
    }
    Ok((Arc::new(server), default))
}

/// Certificates by name. Names are in lower case, as rustls has those of clients.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the asterisk: `.example.org`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// All of them, in order.
    default: Vec<Arc<CertifiedKey>>,
}

impl Names {
    fn add(&mut self, key: Arc<CertifiedKey>, names: &[String]) {
        for name in names {
            let name = name.to_ascii_lowercase();
            let keys = match name.strip_prefix('*') {
                Some(suffix) => self.wildcard.entry(suffix.to_owned()).or_default(),
                None => self.exact.entry(name).or_default(),
            };
            keys.push(key.clone());
        }
        self.default.push(key);
    }

    /// The keys for a name: exact, else by a wildcard for its first label (RFC 9525, 6.3), else all.
    fn keys(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let named = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let suffix = name.find('.').map(|dot| &name[dot..]);
            self.exact.get(&name).or_else(|| self.wildcard.get(suffix?))
        });
        named.unwrap_or(&self.default)
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys(name);
        let usable = keys.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        usable.or_else(|| keys.first()).cloned()
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

thread_local! {
    /// The name in the ClientHello that was resolved last. rustls 0.23 does not tell it of an unbuffered connection, but it calls the
    /// resolver for each ClientHello, before it goes on, on the thread that hands it the bytes.
    static SERVER_NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Takes the name that was asked for since the last call of this.
pub(super) fn take_server_name() -> Option<String> {
    SERVER_NAME.take()
}

/// Remembers the name that a client asks for.
#[derive(Debug)]
struct Recording(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Recording {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        SERVER_NAME.set(hello.server_name().map(str::to_owned));
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}

/// A key with its chain, and the names of its certificate.
fn load(identity: &Identity, provider: &CryptoProvider) -> Result<(CertifiedKey, Vec<String>), Problem> {
    let (chain, key) = match identity {
        Identity::Files { cert, key } => (read_chain(cert)?, read_key(key)?),
        Identity::Made { cert, key } => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
            (vec![CertificateDer::from(cert.clone())], key)
        }
    };
    let (cert_file, key_file) = match identity {
        Identity::Files { cert, key } => (Some(cert), Some(key)),
        Identity::Made { .. } => (None, None),
    };
    let of = |file: Option<&PathBuf>, reason: &str, remedy: &str| Problem {
        file: file.cloned(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    };
    let key = provider.key_provider.load_private_key(key).map_err(|error| {
        of(key_file, &error.to_string(), "an RSA key of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519")
    })?;
    let is_of = |certificate: &CertificateDer<'static>| {
        CertifiedKey::new(vec![certificate.clone()], key.clone()).keys_match()
    };
    match is_of(&chain[0]) {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) if chain[1..].iter().any(|other| is_of(other).is_ok()) => {
            let remedy = "put it first, and behind it who signed it, in this order";
            return Err(of(cert_file, "the certificate of the key is not the first in the file", remedy));
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            let remedy = "give each certificate with its own key: --tls-cert and --tls-key in the same order";
            return Err(of(key_file, "the key does not belong to the certificate", remedy));
        }
        Err(error) => {
            let reason = format!("the first certificate cannot be used: {error}");
            return Err(of(cert_file, &reason, "an X.509 certificate of version 3"));
        }
    }
    let leaf = webpki::EndEntityCert::try_from(&chain[0]);
    let names = leaf.map(|leaf| leaf.valid_dns_names().map(str::to_owned).collect()).unwrap_or_default();
    Ok((CertifiedKey::new(chain, key), names))
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let text = read_pem(file, "x509")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| malformed(file, &error))?;
    if !chain.is_empty() {
        return Ok(chain);
    }
    let has_key = PrivateKeyDer::from_pem_slice(&text).is_ok();
    let remedy =
        if has_key { "it holds a key: are the two files exchanged?" } else { "look for BEGIN CERTIFICATE" };
    Err(Problem::of(file, "there is no certificate in the file", remedy))
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    let text = read_pem(file, "pkey")?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let has = |what: &[u8]| memchr::memmem::find(&text, what).is_some();
            let remedy = if has(b"ENCRYPTED") {
                format!("it is encrypted: openssl pkey -in {} -out plain-key.pem", file.display())
            } else if has(b"BEGIN CERTIFICATE") {
                "it holds a certificate: are the two files exchanged?".to_owned()
            } else {
                "look for BEGIN PRIVATE KEY".to_owned()
            };
            Err(Problem::of(file, "there is no private key in the file", remedy))
        }
        Err(error) => Err(malformed(file, &error)),
    }
}

/// A file that is PEM at first sight. `program` is what turns DER into it.
fn read_pem(file: &Path, program: &str) -> Result<Vec<u8>, Problem> {
    let text = std::fs::read(file).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "there is no such file: check the path",
            ErrorKind::PermissionDenied => "the user that runs the server must be able to read it",
            ErrorKind::IsADirectory => "give the file in it",
            _ => "",
        };
        Problem::of(file, error, remedy)
    })?;
    match text.first() {
        None => Err(Problem::of(file, "the file is empty", "")),
        // A SEQUENCE, as every certificate and key begins.
        Some(0x30) => {
            let remedy = format!("openssl {program} -inform DER -in {} -out {program}.pem", file.display());
            Err(Problem::of(file, "the file is DER, not PEM", remedy))
        }
        Some(_) => Ok(text),
    }
}

fn malformed(file: &Path, error: &pem::Error) -> Problem {
    let reason = match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("a section has no end: {} is missing", String::from_utf8_lossy(end_marker).trim())
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("a section does not begin well: {}", String::from_utf8_lossy(line).trim())
        }
        error => error.to_string(),
    };
    Problem::of(file, format!("malformed PEM: {reason}"), "was the file copied as a whole?")
}

/// A key and a certificate that it signs itself.
pub(super) fn make_identity(names: Vec<String>) -> Result<Identity, TlsError> {
    let refuse = |reason: String| {
        let remedy = "names such as localhost, *.example.org, or IP addresses".to_owned();
        TlsError::new(vec![Problem { file: None, reason, remedy }])
    };
    let is_name = |name: &str| {
        let dns_name = name.strip_prefix("*.").unwrap_or(name);
        name.parse::<IpAddr>().is_ok() || DnsName::try_from(dns_name).is_ok()
    };
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        return Err(refuse(format!("cannot make a certificate for {name:?}: it is no name of a host")));
    }
    if names.is_empty() {
        return Err(refuse("cannot make a certificate for no name at all".to_owned()));
    }
    make(names).map_err(|error| refuse(format!("cannot make a certificate: {error}")))
}

// What needs the certificates themselves stands here, so that the settings do not import their user.
impl TlsConfig {
    /// With a certificate for these names and IP addresses that is made now and kept in memory: ECDSA P-256, 30 days, signed by
    /// itself. For development: no client trusts it unless it is told to.
    pub fn self_signed<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Result<TlsConfig, TlsError> {
        let names = names.into_iter().map(Into::into).collect();
        Ok(TlsConfig::new(Source::Identities(vec![make_identity(names)?])))
    }

    /// Reads the files and reports every problem at once.
    pub fn check(&self) -> Result<(), TlsError> {
        server_config(self).map(drop)
    }
}

#[expect(clippy::disallowed_methods, reason = "a certificate that is made at start begins then")]
fn make(names: Vec<String>) -> Result<Identity, rcgen::Error> {
    let common_name = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + SELF_SIGNED_VALID).into();
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Identity::Made { cert: certificate.der().to_vec(), key: key.serialize_der() })
}

/// With the hash of a cipher suite: the provider has no other door to it.
fn sha256(bytes: &[u8]) -> Option<Vec<u8>> {
    match aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => Some(suite.common.hash_provider.hash(bytes).as_ref().to_vec()),
        SupportedCipherSuite::Tls12(_) => None,
    }
}

/// RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |piece: &[u8]| {
        let bits =
            piece.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        let letter = |at: usize| {
            if at > piece.len() { '=' } else { ALPHABET[(bits >> (18 - 6 * at)) as usize & 63].into() }
        };
        [letter(0), letter(1), letter(2), letter(3)]
    };
    bytes.chunks(3).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_all_lengths() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(base64(bytes), expected);
        // RFC 4648, 10.
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"foob", "Zm9vYg==");
        check(b"fooba", "Zm9vYmE=");
        check(b"foobar", "Zm9vYmFy");
        check(&[0xff; 3], "////");
    }

    #[test]
    fn certificates_are_made_for_names_of_hosts_only() {
        let check = |names: &[&str], expected| {
            assert_eq!(TlsConfig::self_signed(names.iter().copied()).is_ok(), expected, "{names:?}");
        };
        check(&["localhost", "*.example.org", "127.0.0.1", "::1"], true);
        for name in ["", "not a name", "*", "a.*.b", "https://a/", "a:8443", "h\u{f6}st"] {
            check(&[name], false);
        }
        check(&[], false);
    }

    #[test]
    fn a_configuration_reports_all_its_problems() {
        let config = TlsConfig::from_files("/missing/cert", "/missing/key")
            .with_files("/missing/other", "/missing/key")
            .with_handshake_timeout(Duration::ZERO)
            .with_handshake_bytes_max(10)
            .with_alpn([""]);
        let error = config.check().expect_err("nothing of it is right");
        let problems: Vec<String> = error.problems().collect();
        let parts = ["handshake_timeout", "handshake_bytes_max", "ALPN", "/missing/cert", "/missing/other"];
        assert_eq!(problems.len(), parts.len(), "{problems:#?}");
        for (problem, part) in problems.iter().zip(parts) {
            assert!(problem.contains(part), "{part} is not in {problem}");
        }
    }
}

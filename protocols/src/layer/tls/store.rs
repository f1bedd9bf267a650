//! From a configuration to what rustls wants, again whenever the files change. Shared by all workers.

use super::client_auth;
use super::clock::unix_secs;
use super::config::{Problem, Source, TlsConfig, TlsError};
use super::identity::{self, Loaded, TlsTerm};
use super::keylog::KeyLogFile;
use super::names::{Names, Recording};
use super::stats::{Counts, TlsStats};
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

#[cfg(feature = "tls")]
use rustls::crypto::aws_lc_rs as backend;
#[cfg(not(feature = "tls"))]
use rustls::crypto::ring as backend;

/// Signatures beyond this are worth a word: a core makes fewer than a thousand handshakes a second.
const SIGNATURE_DEAR: Duration = Duration::from_millis(1);

/// A checked configuration with its certificates and the keys of its tickets: one for each listener, shared by its workers, so that a
/// client which comes to another worker can resume. Give listeners of different purpose a store each: a ticket of one
/// store is worth nothing to another.
///
/// Files are read again by [`TlsStore::reload`], and by themselves with [`TlsStore::watch`]. A connection keeps what it began with.
#[derive(Debug)]
pub struct TlsStore {
    config: TlsConfig,
    current: RwLock<Arc<Generation>>,
    /// Whoever reloads does it alone. What was wrong the last time; empty if nothing was.
    reloading: Mutex<String>,
    counts: Counts,
}

/// What the files held when they were last read.
struct Generation {
    server: Arc<ServerConfig>,
    /// What clients are shown that name nobody.
    default: Option<Arc<CertifiedKey>>,
    terms: Vec<TlsTerm>,
    /// The certificates that are shown, and what clients are measured by.
    shown: Vec<Arc<CertifiedKey>>,
    clients: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl TlsStore {
    /// Reads and checks everything. The error names every file with its problem and what to do about it.
    pub fn new(config: TlsConfig) -> Result<Arc<TlsStore>, TlsError> {
        let current = RwLock::new(Arc::new(Generation::read(&config, None)?));
        let counts = Counts::default();
        Ok(Arc::new(TlsStore { config, current, reloading: Mutex::default(), counts }))
    }

    /// Reads all files again, and serves new connections with what they hold; whether that is something new. If anything is wrong,
    /// also a new certificate that has expired or does not hold yet, the last good ones stay. Says in the log what came of it. Tickets
    /// stay good.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.reload_and_say(|_| true)
    }

    /// The same, but says what is wrong only if it is not what was said last.
    pub(super) fn reload_again(&self) -> Result<bool, TlsError> {
        self.reload_and_say(|is_new| is_new)
    }

    fn reload_and_say(&self, says: impl FnOnce(bool) -> bool) -> Result<bool, TlsError> {
        let mut last_error = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let read = Generation::read(&self.config, Some(&current)).and_then(|next| {
            let problems = next.out_of_term(&current, unix_secs());
            if problems.is_empty() { Ok(next) } else { Err(TlsError::new(problems)) }
        });
        match read {
            Ok(next) if next.is_like(&current) => {
                *last_error = String::new();
                Ok(false)
            }
            Ok(next) => {
                *last_error = String::new();
                self.counts.reloaded(true);
                tracing::info!("TLS files were read again: {}", next.summary());
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                Ok(true)
            }
            Err(error) => {
                self.counts.reloaded(false);
                let words = error.to_string();
                if says(words != *last_error) {
                    tracing::error!("TLS files cannot be used, so the last good ones stay: {words}");
                }
                *last_error = words;
                Err(error)
            }
        }
    }

    fn current(&self) -> Arc<Generation> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a new connection begins with.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    pub(super) fn config(&self) -> &TlsConfig {
        &self.config
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What became of connections so far.
    pub fn stats(&self) -> TlsStats {
        self.counts.snapshot()
    }

    /// How long certificates, authorities of clients and revocation lists hold. Empty for a configuration of your own.
    pub fn terms(&self) -> Vec<TlsTerm> {
        self.current().terms.clone()
    }

    /// Whether there is anything to read again.
    pub fn has_files(&self) -> bool {
        self.config.files().next().is_some()
    }

    /// All files that the configuration names.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.config.files().map(Path::to_owned).collect()
    }

    /// The certificates in one line, for a log.
    pub fn summary(&self) -> String {
        self.current().summary()
    }

    /// The first certificate, as DER, for a client that shall trust it. `None` for a configuration of your own.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        Some(self.current().default.as_ref()?.cert.first()?.to_vec())
    }

    /// The SHA-256 of the first certificate, as `AB:CD:..`, the form in which browsers and `openssl x509 -fingerprint -sha256` show
    /// it. `None` for a configuration of your own.
    pub fn fingerprint(&self) -> Option<String> {
        let digest = sha256(self.current().default.as_ref()?.cert.first()?)?;
        Some(digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
    }

    /// The SHA-256 of the first certificate's public key in base64, as `curl --pinnedpubkey sha256//..` takes it.
    pub fn public_key_pin(&self) -> Option<String> {
        let current = self.current();
        let key = current.default.as_ref()?.key.public_key()?;
        sha256(&key).map(|digest| base64(&digest))
    }
}

// What needs the certificates themselves stands here, so that the settings do not import their user.
impl TlsConfig {
    /// Reads the files and reports every problem at once.
    pub fn check(&self) -> Result<(), TlsError> {
        Generation::read(self, None).map(drop)
    }
}

impl Generation {
    /// `last` is what is served now: its tickets stay good where nothing forbids it.
    fn read(config: &TlsConfig, last: Option<&Generation>) -> Result<Generation, TlsError> {
        let mut problems = config.problems();
        let identities = match &config.source {
            Source::Custom(server) if problems.is_empty() => return Ok(Generation::custom(server)),
            Source::Custom(_) => return Err(TlsError::new(problems)),
            Source::Identities(identities) => identities,
        };
        let provider = Arc::new(provider());
        let loaded = identities.iter().map(|identity| identity::load(identity, &provider));
        let (loaded, failed): (Vec<_>, Vec<_>) = loaded.partition(Result::is_ok);
        problems.extend(failed.into_iter().filter_map(Result::err));
        let clients = client_auth::load(config, &provider).map_err(|found| problems.extend(found));
        let (Ok(clients), true) = (clients, problems.is_empty()) else {
            return Err(TlsError::new(problems));
        };
        let (mut names, mut terms) = (Names::default(), Vec::new());
        let mut shown = Vec::new();
        for Loaded { key, names: own, term, signature } in loaded.into_iter().flatten() {
            if signature > SIGNATURE_DEAR {
                tracing::warn!(
                    "the key of {} ({:?}) costs {:.1} ms of CPU a handshake; one on the curve P-256 costs a tenth of one",
                    term.subject,
                    key.key.algorithm(),
                    signature.as_secs_f64() * 1000.0
                );
            }
            names.add(key.clone(), &own);
            shown.push(key);
            terms.push(term);
        }
        terms.extend(clients.terms);
        let server = Generation::server(config, &provider, names, clients.verifier, last)?;
        let default = shown.first().cloned();
        Ok(Generation { server: Arc::new(server), default, terms, shown, clients: clients.material })
    }

    fn custom(server: &ServerConfig) -> Generation {
        let mut server = server.clone();
        server.cert_resolver = Arc::new(Recording(server.cert_resolver));
        let server = Arc::new(server);
        Generation { server, default: None, terms: Vec::new(), shown: Vec::new(), clients: Vec::new() }
    }

    fn server(
        config: &TlsConfig,
        provider: &Arc<CryptoProvider>,
        names: Names,
        verifier: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
        last: Option<&Generation>,
    ) -> Result<ServerConfig, TlsError> {
        let unusable = |error: rustls::Error| {
            TlsError::new(vec![Problem { file: None, reason: error.to_string(), remedy: String::new() }])
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(config.version_min.and_newer())
            .map_err(unusable)?;
        // A ticket would let in whom nobody looks at again: rustls does not verify the certificate behind it, so neither its end nor
        // that of a revocation list would count.
        let has_tickets = config.tickets && verifier.is_none();
        let builder = match verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut server = builder.with_cert_resolver(Arc::new(Recording(Arc::new(names))));
        server.alpn_protocols = config.alpn.clone();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(file) = &config.key_log {
            server.key_log = match last {
                Some(last) => last.server.key_log.clone(),
                None => Arc::new(KeyLogFile::open(file).map_err(|problem| TlsError::new(vec![problem]))?),
            };
        }
        if has_tickets {
            server.ticketer = match last {
                Some(last) => last.server.ticketer.clone(),
                None => backend::Ticketer::new().map_err(unusable)?,
            };
        } else {
            server.send_tls13_tickets = 0;
        }
        Ok(server)
    }

    /// Whether the files held the same.
    fn is_like(&self, other: &Generation) -> bool {
        let same = |(one, other): (&Arc<CertifiedKey>, &Arc<CertifiedKey>)| one.cert == other.cert;
        self.clients == other.clients
            && self.shown.len() == other.shown.len()
            && self.shown.iter().zip(&other.shown).all(same)
    }

    /// Certificates that are new and do not hold at this time. One that is served already keeps nothing else from being renewed.
    fn out_of_term(&self, served: &Generation, now_secs: u64) -> Vec<Problem> {
        let own = self.terms.iter().filter(|term| term.kind == "certificate" && !served.terms.contains(term));
        let problem = |term: &TlsTerm| {
            let (words, remedy) = match term {
                TlsTerm { not_after_secs, .. } if *not_after_secs <= now_secs => ("has expired", "renew it"),
                TlsTerm { not_before_secs, .. } if *not_before_secs > now_secs => {
                    ("does not hold yet", "is the clock of this machine right?")
                }
                _ => return None,
            };
            let reason =
                format!("the certificate of {} {words}: it is good until {}", term.subject, term.until());
            Some(Problem { file: term.file.clone(), reason, remedy: remedy.to_owned() })
        };
        own.filter_map(problem).collect()
    }

    fn summary(&self) -> String {
        let own = self.terms.iter().filter(|term| term.kind == "certificate");
        own.map(|term| format!("{} until {}", term.subject, term.until())).collect::<Vec<_>>().join("; ")
    }
}

/// The one provider of cryptography. Never the process's default: a program that has two would panic.
pub(super) fn provider() -> CryptoProvider {
    backend::default_provider()
}

/// With the hash of a cipher suite: the provider has no other door to it.
fn sha256(bytes: &[u8]) -> Option<Vec<u8>> {
    match backend::cipher_suite::TLS13_AES_128_GCM_SHA256 {
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

//! A certificate with its key as it is served: loaded, looked at, and tried out.

use super::clock::{Stopwatch, unix_secs};
use super::config::{Identity, Problem};
use super::pem::{read_chain, read_key};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{InconsistentKeys, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, Validity, X509Certificate};

/// The largest chain that is served.
const CHAIN_BYTES_MAX: usize = 64 * 1024;

/// A certificate or a revocation list that holds for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsTerm {
    /// `certificate`, `client CA` or `revocation list`.
    pub kind: &'static str,
    /// The names of a certificate, else the name of who is certified or has issued the list.
    pub subject: String,
    /// Where it was read from; `None` for one that was made at start.
    pub file: Option<PathBuf>,
    /// From when on, in seconds since 1970.
    pub not_before_secs: u64,
    /// Until when. A revocation list without an end holds to the end of the year 9999.
    pub not_after_secs: u64,
}

impl TlsTerm {
    /// The end as a date: `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub fn until(&self) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(self.not_after_secs))
    }

    /// Seconds until the end; below zero behind it.
    pub fn secs_left(&self) -> i64 {
        // Both are far below 2^63: one is the clock's, the other ends with the year 9999.
        self.not_after_secs as i64 - unix_secs() as i64
    }
}

/// A certificate, ready to be shown.
pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) names: Vec<String>,
    pub(super) term: TlsTerm,
    /// What a signature costs, which is most of a handshake.
    pub(super) signature: Duration,
}

/// Reads a certificate and its key, and finds out whether they can be served.
pub(super) fn load(identity: &Identity, provider: &CryptoProvider) -> Result<Loaded, Problem> {
    let (chain, key) = match identity {
        Identity::Files { cert, key } => (read_chain(cert)?, read_key(key)?),
        Identity::Made { cert, key } => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
            (vec![CertificateDer::from(cert.clone())], key)
        }
    };
    let chain_bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    let (cert_file, key_file) = match identity {
        Identity::Files { cert, key } => (Some(cert), Some(key)),
        Identity::Made { .. } => (None, None),
    };
    let of = |file: Option<&PathBuf>, reason: &str, remedy: &str| Problem {
        file: file.cloned(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    };
    if chain_bytes > CHAIN_BYTES_MAX {
        let reason =
            format!("{chain_bytes} bytes of certificates are too many: each client would be sent them");
        return Err(of(
            cert_file,
            &reason,
            "the certificate and those between it and its authority, 64 KiB at most",
        ));
    }
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
    let names: Vec<String> =
        leaf.map(|leaf| leaf.valid_dns_names().map(str::to_owned).collect()).unwrap_or_default();
    let mut term = term("certificate", &chain[0], cert_file.map(PathBuf::as_path))?;
    if !names.is_empty() {
        term.subject = names.join(", ");
    }
    let signature = signature_cost(&*key);
    Ok(Loaded { key: Arc::new(CertifiedKey::new(chain, key)), names, term, signature })
}

/// How long a certificate holds, and for whom.
pub(super) fn term(
    kind: &'static str,
    certificate: &CertificateDer<'_>,
    file: Option<&Path>,
) -> Result<TlsTerm, Problem> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        let reason = format!("a {kind} cannot be read");
        let remedy = "an X.509 certificate of version 3".to_owned();
        return Err(Problem { file: file.map(Path::to_owned), reason, remedy });
    };
    let Validity { not_before, not_after } = parsed.validity();
    Ok(TlsTerm {
        kind,
        subject: parsed.subject().to_string(),
        file: file.map(Path::to_owned),
        not_before_secs: moment(not_before.timestamp()),
        not_after_secs: moment(not_after.timestamp()),
    })
}

/// Seconds since 1970, as X.509 has them: before that, and after 9999, are the ends.
pub(super) fn moment(unix_secs: i64) -> u64 {
    const YEAR_9999_ENDS: u64 = 253_402_300_799;
    u64::try_from(unix_secs).unwrap_or(0).min(YEAR_9999_ENDS)
}

/// The best of a few tries.
fn signature_cost(key: &dyn SigningKey) -> Duration {
    const SCHEMES: &[SignatureScheme] = &[
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
        SignatureScheme::ED25519,
    ];
    let Some(signer) = key.choose_scheme(SCHEMES) else { return Duration::ZERO };
    let sign = |_| {
        let began = Stopwatch::start();
        let signed = signer.sign(b"what a handshake signs is about as long as this");
        signed.map_or(Duration::ZERO, |_| began.elapsed())
    };
    (0..3).map(sign).min().unwrap_or_default()
}

//! Who may come: certificates of clients, against certification authorities and revocation lists (mutual TLS).

use super::config::{ClientAuth, Problem, TlsConfig};
use super::identity::{TlsTerm, moment, term};
use super::pem::{read_chain, read_crls};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// Names of authorities that are sent along (RFC 8446, 4.2.4): more than a few records of them help nobody.
const HINTS_BYTES_MAX: usize = 8 * 1024;

/// What clients are asked for and measured by.
pub(super) struct Clients {
    /// `None`: they are asked for nothing.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) terms: Vec<TlsTerm>,
    /// The certificates and lists behind it, to see whether they have changed.
    pub(super) material: Vec<Vec<u8>>,
}

/// Reads authorities and lists, and reports every problem.
pub(super) fn load(config: &TlsConfig, provider: &Arc<CryptoProvider>) -> Result<Clients, Vec<Problem>> {
    let mut clients = Clients { verifier: None, terms: Vec::new(), material: Vec::new() };
    if config.client_auth == ClientAuth::None {
        return Ok(clients);
    }
    let (mut roots, mut crls, mut problems) = (RootCertStore::empty(), Vec::new(), Vec::new());
    for file in &config.client_cas {
        match add_authorities(file, &mut roots, &mut clients) {
            Ok(()) => {}
            Err(problem) => problems.push(problem),
        }
    }
    for file in &config.client_crls {
        match add_lists(file, &mut crls, &mut clients) {
            Ok(()) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // The names of all authorities go to each client, behind a length of 16 bits; without them it chooses by itself.
    let hints_bytes: usize = roots.subjects().iter().map(|subject| subject.as_ref().len() + 2).sum();
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(crls)
        .enforce_revocation_expiration();
    if hints_bytes > HINTS_BYTES_MAX {
        builder = builder.clear_root_hint_subjects();
    }
    if config.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    match builder.build() {
        Ok(verifier) => Ok(Clients { verifier: Some(verifier), ..clients }),
        Err(error) => {
            let reason = format!("clients cannot be verified: {error}");
            Err(vec![Problem { file: None, reason, remedy: String::new() }])
        }
    }
}

fn add_authorities(file: &Path, roots: &mut RootCertStore, clients: &mut Clients) -> Result<(), Problem> {
    for certificate in read_chain(file)? {
        clients.terms.push(term("client CA", &certificate, Some(file))?);
        clients.material.push(certificate.to_vec());
        add_authority(file, roots, certificate)?;
    }
    Ok(())
}

fn add_authority(
    file: &Path,
    roots: &mut RootCertStore,
    certificate: CertificateDer<'static>,
) -> Result<(), Problem> {
    let unusable = |error| Problem::of(file, format!("a client CA cannot be used: {error}"), "");
    roots.add(certificate).map_err(unusable)
}

fn add_lists(
    file: &Path,
    crls: &mut Vec<CertificateRevocationListDer<'static>>,
    clients: &mut Clients,
) -> Result<(), Problem> {
    let unusable = |error: String| {
        let remedy = "a list of version 2, with a number, of all certificates and signed by their CA; for openssl ca set crl_extensions and crlnumber";
        Problem::of(file, format!("a revocation list cannot be used: {error}"), remedy)
    };
    for crl in read_crls(file)? {
        webpki::OwnedCertRevocationList::from_der(&crl).map_err(|error| unusable(error.to_string()))?;
        let (_, parsed) =
            CertificateRevocationList::from_der(&crl).map_err(|error| unusable(error.to_string()))?;
        clients.terms.push(TlsTerm {
            kind: "revocation list",
            subject: parsed.issuer().to_string(),
            file: Some(file.to_owned()),
            not_before_secs: moment(parsed.last_update().timestamp()),
            not_after_secs: moment(parsed.next_update().map_or(i64::MAX, |time| time.timestamp())),
        });
        clients.material.push(crl.to_vec());
        crls.push(crl);
    }
    Ok(())
}

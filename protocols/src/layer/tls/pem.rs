//! Reads the files of a configuration: certificates, keys, revocation lists, all PEM. What is wrong with one is said with the remedy.

use super::config::{Problem, variable};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The certificates of a file, in its order, at least one.
pub(super) fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
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

/// The first key of a file.
pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
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

/// The revocation lists of a file, at least one.
pub(super) fn read_crls(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    let text = read_pem(file, "crl")?;
    let crls: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    match crls {
        Ok(crls) if crls.is_empty() => {
            Err(Problem::of(file, "there is no revocation list in the file", "look for BEGIN X509 CRL"))
        }
        crls => crls.map_err(|error| malformed(file, &error)),
    }
}

/// A file that is PEM at first sight. `program` is what turns DER into it.
fn read_pem(file: &Path, program: &str) -> Result<Vec<u8>, Problem> {
    let read = variable(file).map_or_else(|| read_regular(file), read_variable);
    let text = read.map_err(|error| {
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

fn read_variable(name: &OsStr) -> io::Result<Vec<u8>> {
    let text = std::env::var_os(name).ok_or_else(|| io::Error::other("there is no such variable"))?;
    Ok(text.into_vec())
}

/// What is no regular file may never end, or never begin.
fn read_regular(file: &Path) -> io::Result<Vec<u8>> {
    let data = std::fs::metadata(file)?;
    match (data.is_file(), data.is_dir()) {
        (false, true) => Err(ErrorKind::IsADirectory.into()),
        (false, false) => Err(io::Error::other("it is no regular file")),
        (true, _) if data.len() > FILE_BYTES_MAX => Err(io::Error::other("it is larger than 16 MiB")),
        (true, _) => std::fs::read(file),
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

//! A certificate that is made at start, for development and tests. It is never written to disk: a process makes a new one.

use super::config::{Identity, Problem, Source, TlsConfig, TlsError};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::DnsName;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// How long it is valid.
const VALID: Duration = Duration::from_secs(30 * 24 * 3600);
/// Clocks of clients may be behind by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

impl TlsConfig {
    /// With a certificate for these names and IP addresses that is made now and kept in memory: ECDSA P-256, 30 days, signed by
    /// itself. For development: no client trusts it unless it is told to.
    pub fn self_signed<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Result<TlsConfig, TlsError> {
        let names = names.into_iter().map(Into::into).collect();
        Ok(TlsConfig::new(Source::Identities(vec![make_identity(names)?])))
    }
}

/// A key and a certificate that it signs itself.
fn make_identity(names: Vec<String>) -> Result<Identity, TlsError> {
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

#[expect(clippy::disallowed_methods, reason = "a certificate that is made at start begins then")]
fn make(names: Vec<String>) -> Result<Identity, rcgen::Error> {
    let common_name = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + VALID).into();
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Identity::Made { cert: certificate.der().to_vec(), key: key.serialize_der() })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

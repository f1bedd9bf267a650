//! What rustls's errors mean: who is to blame for one, and with which alert; and why connections that we opened failed, in words, with
//! what can be done about it, for a protocol that asked for one is told no more than that there is none.

use super::stats::Fault;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::sync::Mutex;

/// The last failure: what went wrong, and the same with what to do. Locked where a handshake fails, and nowhere else.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Option<(String, String)>>);

impl Failures {
    pub(super) fn tell(&self, reason: &str, explained: String) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Some((reason.to_owned(), explained));
    }

    pub(super) fn last(&self) -> Option<(String, String)> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// Who ended the connection with an error, and with which alert. rustls keeps ours to itself; this is how it chooses them.
pub(super) fn fault(error: &Error) -> Fault {
    let alert = match error {
        Error::AlertReceived(alert) => return Fault::Received(alert.as_str().unwrap_or("unknown")),
        Error::InvalidMessage(error) => AlertDescription::from(*error),
        Error::InvalidCertificate(error) => AlertDescription::from(error.clone()),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => AlertDescription::ProtocolVersion,
        Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
        // rustls did not say it, so there is no alert.
        Error::General(_) => return Fault::Left,
        _ => AlertDescription::InternalError,
    };
    Fault::Sent(alert.as_str().unwrap_or("unknown"))
}

/// What went wrong, and what to do. The options are those of `ringmill load`.
pub(super) fn explain(error: &Error) -> String {
    const TRUST: &str = "trust its authority with --cacert FILE, or any certificate with --insecure";
    let remedy = match error {
        Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => TRUST,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "ask by a name that is in the certificate, or take it for any name with --insecure"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server needs a new one; --insecure takes this one"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "is a clock wrong? --insecure takes it"
            }
            CertificateError::BadSignature => "is it the right authority? --insecure takes any certificate",
            // webpki says it in words alone. What `openssl req -x509` makes by itself is such a one.
            CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                "it is an authority's, which no server may show: make one for the server, with \
                 basicConstraints=critical,CA:FALSE; --insecure takes any certificate"
            }
            _ => "--insecure takes any certificate",
        },
        Error::InvalidMessage(_) => "does the server speak TLS on this port?",
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a client certificate: --cert FILE --key FILE"
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => "the server does not take our certificate",
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "no version or cipher suite in common; or the server wants a client certificate: --cert FILE --key FILE"
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the server speaks neither TLS 1.2 nor 1.3"
        }
        _ => return error.to_string(),
    };
    format!("{error} ({remedy})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_to_do() {
        let check = |error: Error, part: &str| {
            let said = explain(&error);
            assert!(said.contains(part) && said.contains(&error.to_string()), "{said}");
        };
        check(CertificateError::UnknownIssuer.into(), "--cacert FILE, or any certificate with --insecure");
        check(CertificateError::NotValidForName.into(), "a name that is in the certificate");
        check(CertificateError::Expired.into(), "--insecure");
        check(CertificateError::Revoked.into(), "--insecure");
        check(Error::AlertReceived(AlertDescription::CertificateRequired), "--cert FILE --key FILE");
        check(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "speak TLS");
        assert_eq!(explain(&Error::DecryptError), Error::DecryptError.to_string());
    }
}

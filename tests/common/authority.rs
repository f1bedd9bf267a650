//! A certification authority for tests, and clients of TLS that trust it.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// A connection of a client.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Signs certificates, and clients trust it.
pub struct Authority {
    pub issuer: CertifiedIssuer<'static, KeyPair>,
    pub folder: Directory,
    /// Of its own certificate.
    pub file: String,
}

impl Authority {
    pub fn new() -> Authority {
        Authority::named("authority of the tests")
    }

    pub fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = Directory::new();
        let file = folder.file("authority.pem");
        std::fs::write(&file, issuer.pem()).unwrap();
        Authority { issuer, folder, file }
    }

    /// The files of a new certificate with its chain, and of its key.
    pub fn files(&self, names: &[&str]) -> [String; 2] {
        self.files_with(names, |_| {})
    }

    /// The same, with what `change` makes of it. The number is the same each time: 7.
    pub fn files_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> [String; 2] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let file = names[0].replace('*', "any");
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.serial_number = Some(SerialNumber::from(7));
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let chain = cert.pem() + &self.issuer.pem();
        [self.write(&format!("{file}.pem"), chain), self.write(&format!("{file}.key"), key.serialize_pem())]
    }

    /// The file of a list that revokes certificate 7, or nothing.
    pub fn crl(&self, name: &str, is_revoked: bool) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(if is_revoked { 7 } else { 8 }),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write(name, params.signed_by(&self.issuer).unwrap().pem().unwrap())
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.folder.file(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A client that trusts it.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        self.client_with(versions, None)
    }

    /// The same, which shows a certificate if asked for one.
    pub fn client_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&[String; 2]>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some([cert, key]) => {
                let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        })
    }
}

/// A client that has made its handshake. A stream that ends without close_notify is an error to it.
pub fn secure(address: SocketAddr, config: &Arc<ClientConfig>, name: &'static str) -> Result<Stream, String> {
    let tls = ClientConnection::new(config.clone(), ServerName::try_from(name).unwrap()).unwrap();
    let mut stream = StreamOwned::new(tls, connect_to(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
    }
    Ok(stream)
}

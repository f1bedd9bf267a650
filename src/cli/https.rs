//! HTTPS of `ringmill serve` and `ringmill proxy`: its options, and what becomes of them.

use super::signals::Reload;
use clap::Args;
use ringmill::{Address, Error, TlsConfig, TlsStore, TlsVersion};
use ringmill_console::options;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Options of HTTPS.
#[derive(Args)]
pub(crate) struct HttpsOptions {
    /// HTTPS address, of the same kinds; repeat for several. Needs a certificate, from files or self-signed [default:
    /// 127.0.0.1:8443 where there is one]
    #[arg(long, value_name = "ADDR", env = "RINGMILL_TLS_LISTEN", value_delimiter = ',')]
    tls_listen: Vec<Address>,

    /// Certificate for HTTPS as PEM, its chain behind it; repeat for several, each with its key. Clients are shown the one
    /// that has the name they ask for (exactly, or with * for the first label), else the first
    #[arg(
        long,
        value_name = "FILE",
        env = "RINGMILL_TLS_CERT",
        value_delimiter = ',',
        conflicts_with = "tls_self_signed"
    )]
    tls_cert: Vec<PathBuf>,

    /// Private key of that certificate as PEM, not encrypted; in the same order where there are several
    #[arg(long, value_name = "FILE", env = "RINGMILL_TLS_KEY", value_delimiter = ',')]
    tls_key: Vec<PathBuf>,

    /// HTTPS with a certificate that is made at start for these names and IP addresses, and kept in memory, for 30 days. For
    /// development: clients do not trust it unless told to; the log says how; the variable needs the names [default names: localhost,127.0.0.1,::1]
    #[arg(long, value_name = "NAMES", env = "RINGMILL_TLS_SELF_SIGNED", num_args = 0..=1, default_missing_value = "")]
    tls_self_signed: Option<String>,

    /// Clients must show a certificate that an authority in this file (PEM) has signed; repeat for several files
    #[arg(long, value_name = "FILE", env = "RINGMILL_TLS_CLIENT_CA", value_delimiter = ',')]
    tls_client_ca: Vec<PathBuf>,

    /// Clients may come without a certificate as well; one that they show must be good
    #[arg(long, env = "RINGMILL_TLS_CLIENT_OPTIONAL")]
    tls_client_optional: bool,

    /// Revocation list of a client CA (PEM); repeat for several. Once there is one, each certificate of a client's chain needs the
    /// list of its issuer, and an expired list lets nobody in
    #[arg(long, value_name = "FILE", env = "RINGMILL_TLS_CRL", value_delimiter = ',')]
    tls_crl: Vec<PathBuf>,

    /// Oldest version of TLS: 1.2 or 1.3
    #[arg(long, value_name = "VERSION", env = "RINGMILL_TLS_MIN", default_value_t = TlsVersion::V1_2)]
    tls_min: TlsVersion,

    /// Tickets, with which clients come back for less: on or off. Where clients show certificates there are none
    #[arg(long, value_name = "SWITCH", env = "RINGMILL_TLS_TICKETS", default_value = "on")]
    tls_tickets: Switch,

    /// A TLS handshake must be complete within this time
    #[arg(long, value_name = "TIME", env = "RINGMILL_TLS_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = options::timeout)]
    tls_handshake_timeout: Duration,

    /// Look at the files of certificates, keys, authorities and lists about every so often, and read them again when they have changed,
    /// as SIGHUP does; the last good ones stay where the new ones are not
    #[arg(long, value_name = "TIME", env = "RINGMILL_TLS_WATCH", default_value = "10s", value_parser = options::timeout)]
    tls_watch: Duration,

    /// Append the secrets of all TLS connections to this file, for Wireshark. For debugging only: whoever has them and the recorded
    /// traffic can read it
    #[arg(long, value_name = "FILE", env = "RINGMILL_TLS_KEY_LOG")]
    tls_key_log: Option<PathBuf>,

    /// The HTTP addresses answer with 308 and the same URL with https, and this port [default: that of the first HTTPS address]
    #[arg(long, value_name = "PORT", env = "RINGMILL_HTTPS_REDIRECT", num_args = 0..=1, default_missing_value = "0")]
    https_redirect: Option<u16>,
}

/// As people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

impl HttpsOptions {
    /// The first option that was given and means nothing where no certificate is.
    fn first_without_certificate(&self) -> Option<&'static str> {
        let given = [
            (!self.tls_listen.is_empty(), "--tls-listen"),
            (!self.tls_client_ca.is_empty(), "--tls-client-ca"),
            (self.tls_client_optional, "--tls-client-optional"),
            (!self.tls_crl.is_empty(), "--tls-crl"),
            (self.tls_key_log.is_some(), "--tls-key-log"),
            (self.https_redirect.is_some(), "--https-redirect"),
        ];
        given.into_iter().find(|(is_given, _)| *is_given).map(|(_, option)| option)
    }

    fn client_cas(&self, config: TlsConfig) -> TlsConfig {
        let config = self.tls_client_ca.iter().fold(config, TlsConfig::with_client_ca);
        let config = self.tls_crl.iter().fold(config, TlsConfig::with_client_crl);
        if self.tls_client_optional { config.with_client_optional(true) } else { config }
    }
}

/// What is served with these certificates, whose files, if there are any, are looked at so often.
pub(super) fn watched(config: TlsConfig, every: Duration) -> Result<Arc<TlsStore>, Error> {
    let store = TlsStore::new(config)?;
    let failed = |source| Error::Worker { worker: 0, step: "watching the files of TLS", source };
    if store.has_files() {
        store.watch(every).map_err(failed)?;
    }
    Ok(store)
}

/// What HTTPS is served with.
pub(crate) struct Https {
    addresses: Vec<Address>,
    pub(crate) store: Arc<TlsStore>,
    /// Where plain HTTP is sent on to, if it is.
    pub(crate) redirect_port: Option<u16>,
    /// How many listeners come before its own.
    after: usize,
    is_self_signed: bool,
    key_log: Option<PathBuf>,
}

/// Where HTTPS listens unless an address is given.
const HTTPS_ADDRESS: &str = "127.0.0.1:8443";
/// What a certificate is made for unless names are given.
const SELF_SIGNED_NAMES: &str = "localhost,127.0.0.1,::1";

impl Https {
    /// `None` where nothing of it is asked for. Its listeners come behind those of `plain`, and speak these protocols.
    pub(crate) fn new(
        options: &HttpsOptions,
        plain: &[Address],
        protocols: &[&str],
    ) -> Result<Option<Https>, Error> {
        let problem = |problem: String| Error::Config { problems: vec![problem] };
        let (certs, keys) = (options.tls_cert.len(), options.tls_key.len());
        if certs != keys {
            return Err(problem(format!(
                "{certs} of --tls-cert and {keys} of --tls-key: each certificate needs its key, in the same order"
            )));
        }
        let config = match &options.tls_self_signed {
            Some(names) => {
                let names = if names.is_empty() { SELF_SIGNED_NAMES } else { names };
                Some(TlsConfig::self_signed(names.split(',').map(str::trim))?)
            }
            None => {
                let mut pairs = options.tls_cert.iter().zip(&options.tls_key);
                let first = pairs.next().map(|(cert, key)| TlsConfig::from_files(cert, key));
                first.map(|first| pairs.fold(first, |config, (cert, key)| config.with_files(cert, key)))
            }
        };
        let Some(config) = config else {
            return match options.first_without_certificate() {
                Some(option) => Err(problem(format!(
                    "{option} needs a certificate: --tls-cert and --tls-key, or --tls-self-signed"
                ))),
                None => Ok(None),
            };
        };
        let mut addresses = options.tls_listen.clone();
        if addresses.is_empty() {
            addresses.push(HTTPS_ADDRESS.parse()?);
        }
        let redirect_port = match (options.https_redirect, addresses.iter().find_map(Address::ip)) {
            (None, _) => None,
            (Some(0), Some(address)) if address.port() != 0 => Some(address.port()),
            (Some(0), _) => {
                let remedy = "--https-redirect needs a port, as --https-redirect 443: no HTTPS address has a fixed one";
                return Err(problem(remedy.to_owned()));
            }
            (port, _) => port,
        };
        let config = options.client_cas(config);
        let config = config
            .with_version_min(options.tls_min)
            .with_alpn(protocols.iter().copied())
            .with_tickets(options.tls_tickets == Switch::On)
            .with_handshake_timeout(options.tls_handshake_timeout)
            .with_key_log(options.tls_key_log.clone());
        let store = watched(config, options.tls_watch)?;
        let is_self_signed = options.tls_self_signed.is_some();
        let key_log = options.tls_key_log.clone();
        Ok(Some(Https { addresses, store, redirect_port, is_self_signed, key_log, after: plain.len() }))
    }

    /// What SIGHUP does: files are read again, where there are any.
    pub(crate) fn reload(&self) -> Option<Reload> {
        let store = self.store.has_files().then(|| self.store.clone())?;
        let run = move |_| {
            // What is wrong, or new, it says itself.
            if let Ok(false) = store.reload() {
                tracing::info!("SIGHUP: the files of TLS hold the same as before");
            }
        };
        Some(Reload { every: None, run: Box::new(run) })
    }

    /// Where it listens, each with what it is served with.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (Address, Arc<TlsStore>)> {
        self.addresses.iter().map(|address| (address.clone(), self.store.clone()))
    }

    /// Which of a server's addresses are its own.
    pub(crate) fn range(&self) -> Range<usize> {
        self.after..self.after + self.addresses.len()
    }

    /// Says where it listens, what is served, and to whom. These are its own addresses.
    pub(crate) fn announce(&self, addresses: &[Address]) {
        addresses.iter().for_each(|address| tracing::info!("TLS on {address}"));
        if self.is_self_signed {
            self.announce_self_signed(addresses);
        } else {
            tracing::info!("TLS certificates: {}", self.store.summary());
        }
        if let Some(file) = &self.key_log {
            tracing::warn!(
                "the secrets of all TLS connections are written to {}: whoever has it can read the traffic",
                file.display()
            );
        }
    }

    /// Says how to trust a certificate that nobody knows, and that nobody else should.
    fn announce_self_signed(&self, addresses: &[Address]) {
        let (Some(fingerprint), Some(pin)) = (self.store.fingerprint(), self.store.public_key_pin()) else {
            return;
        };
        tracing::info!("self-signed certificate, gone with this process; SHA-256 {fingerprint}");
        let addresses: Vec<_> = addresses.iter().filter_map(Address::ip).collect();
        if let Some(address) = addresses.first() {
            tracing::info!("try: curl --insecure --pinnedpubkey sha256//{pin} https://{address}/");
        }
        for address in addresses.iter().filter(|address| !address.ip().is_loopback()) {
            tracing::warn!(
                "{address} may be reached from elsewhere, and nobody there can trust a self-signed certificate: give \
                 --tls-cert and --tls-key for more than development"
            );
        }
    }
}

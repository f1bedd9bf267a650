//! Which certificate a client is shown, by the name that it asks for (SNI, RFC 6066).

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Certificates by name. Names are in lower case, as rustls has those of clients.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the asterisk: `.example.org`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// All of them, in order.
    default: Vec<Arc<CertifiedKey>>,
}

impl Names {
    pub(super) fn add(&mut self, key: Arc<CertifiedKey>, names: &[String]) {
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
pub(super) struct Recording(pub(super) Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Recording {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        SERVER_NAME.set(hello.server_name().map(str::to_owned));
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}

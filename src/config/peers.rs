//! With whom connections are secured, over all plans of a process: a server that stays the same keeps its peer, and with it its
//! connections. What no plan and no connection uses any more is forgotten.

use super::text::Protocol;
use ringmill::proxy::{AccessLog, Counts, Peer};
use ringmill::{TlsClient, TlsClientConfig, TlsPeer};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What was seen in earlier plans.
#[derive(Default)]
pub(crate) struct Known {
    peers: HashMap<Identity, Peer>,
    /// Of all plans: whoever writes it goes on.
    pub(crate) access_log: AccessLog,
    /// Likewise.
    pub(crate) counts: Counts,
}

/// What peers of an upstream have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Trust {
    /// Files of authorities, and what they hold.
    roots: Vec<(PathBuf, Vec<u8>)>,
    handshake_timeout: Duration,
    /// What is offered by ALPN.
    protocol: Protocol,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    name: String,
    trust: Trust,
}

impl Trust {
    /// Authorities in these files, or the system's where there are none.
    pub(crate) fn new(ca: &[PathBuf], handshake_timeout: Duration, protocol: Protocol) -> Trust {
        let contents = |file: &PathBuf| (file.clone(), std::fs::read(file).unwrap_or_default());
        Trust { roots: ca.iter().map(contents).collect(), handshake_timeout, protocol }
    }

    fn client(&self) -> Result<Arc<TlsClient>, String> {
        let config = TlsClientConfig::default().with_handshake_timeout(self.handshake_timeout);
        let config = config.with_alpn([self.protocol.alpn()]);
        let config = self.roots.iter().fold(config, |config, (file, _)| config.with_roots(file));
        TlsClient::new(config).map_err(|error| error.to_string())
    }
}

impl Known {
    /// The server whose certificate has this name.
    pub(crate) fn peer(&mut self, name: &str, trust: &Trust) -> Result<Peer, String> {
        let identity = Identity { name: name.to_owned(), trust: trust.clone() };
        if let Some(peer) = self.peers.get(&identity) {
            return Ok(peer.clone());
        }
        let alike = self.peers.iter().find(|(other, _)| other.trust == *trust);
        let client = match alike.and_then(|(_, peer)| peer.get::<TlsPeer>()) {
            Some(peer) => peer.client().clone(),
            None => trust.client()?,
        };
        let secured = client.peer(name).map_err(|error| error.to_string())?;
        let known = secured.clone();
        let peer = Peer::new(secured).with_reason(move || known.last_reason());
        self.peers.insert(identity, peer.clone());
        Ok(peer)
    }

    /// Forgets what nobody uses.
    pub(crate) fn prune(&mut self) {
        self.peers.retain(|_, peer| peer.holders() > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_known_as_long_as_it_is_used() {
        let (mut known, second) = (Known::default(), Duration::from_secs(1));
        let trust = Trust::new(&[], second, Protocol::Http1);
        let one = known.peer("a.test", &trust).unwrap();
        let two = known.peer("b.test", &trust).unwrap();
        assert!(one == known.peer("a.test", &trust).unwrap() && one != two);
        for other in [Trust::new(&[], 2 * second, Protocol::Http1), Trust::new(&[], second, Protocol::Http2)]
        {
            assert!(one != known.peer("a.test", &other).unwrap());
        }
        known.prune();
        assert_eq!(known.peers.len(), 2);
        drop(two);
        known.prune();
        assert!(known.peers.len() == 1 && one == known.peer("a.test", &trust).unwrap());
    }
}

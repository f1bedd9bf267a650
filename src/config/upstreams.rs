//! With whom connections are secured, over all plans of a process: an upstream that stays the same keeps its number, and with it its
//! connections.

use super::text::Server;
use ringmill::{TlsClient, TlsClientConfig, TlsPeer};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// What was seen in earlier plans.
#[derive(Default)]
pub(crate) struct Known {
    ids: HashMap<Identity, u32>,
    pub(crate) peers: Peers,
}

/// With whom each server's connections are secured, by the number of its upstream. Read by workers when they connect.
#[derive(Clone, Default)]
pub(crate) struct Peers(Arc<RwLock<HashMap<u32, Vec<Option<TlsPeer>>>>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    names: Vec<Option<String>>,
    /// Files of authorities, and what they hold.
    roots: Vec<(PathBuf, Vec<u8>)>,
    handshake_timeout: Duration,
}

/// Upstreams that speak no TLS have this one.
const PLAIN: u32 = 0;

impl Known {
    /// The number of an upstream.
    pub(crate) fn id(
        &mut self,
        servers: &[Server],
        ca: &[PathBuf],
        handshake_timeout: Duration,
    ) -> Result<u32, String> {
        if servers.iter().all(|server| server.secure_name.is_none()) {
            return Ok(PLAIN);
        }
        let contents = |file: &PathBuf| (file.clone(), std::fs::read(file).unwrap_or_default());
        let names = servers.iter().map(|server| server.secure_name.clone()).collect();
        let identity = Identity { names, roots: ca.iter().map(contents).collect(), handshake_timeout };
        if let Some(id) = self.ids.get(&identity) {
            return Ok(*id);
        }
        let config = TlsClientConfig::default().with_handshake_timeout(handshake_timeout);
        let config = ca.iter().fold(config, TlsClientConfig::with_roots);
        let client = TlsClient::new(config).map_err(|error| error.to_string())?;
        let peer = |name: &String| client.peer(name).map_err(|error| error.to_string());
        let peers = identity.names.iter().map(|name| name.as_ref().map(peer).transpose());
        let peers = peers.collect::<Result<Vec<_>, String>>()?;
        let id = self.ids.len() as u32 + 1;
        self.peers.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, peers);
        self.ids.insert(identity, id);
        Ok(id)
    }
}

impl Peers {
    /// With whom connections of this server are secured, if they are.
    pub(crate) fn of(&self, (id, server): (u32, usize)) -> Option<TlsPeer> {
        if id == PLAIN {
            return None;
        }
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id)?.get(server).cloned().flatten()
    }
}

//! What a client remembers of servers, to resume with. rustls's own store keeps eight tickets of a server, and each can be used once: of
//! a hundred connections that are opened at the same time, nearly all would make full handshakes.

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

/// Servers that are remembered; when there are more, any of them is forgotten.
const SERVERS_MAX: usize = 256;

/// Sessions by server, shared by all workers. Locked in handshakes only.
#[derive(Debug)]
pub(super) struct Sessions {
    servers: Mutex<HashMap<ServerName<'static>, Remembered>>,
    tickets_max: usize,
}

#[derive(Debug, Default)]
struct Remembered {
    group: Option<NamedGroup>,
    /// TLS 1.2: one is enough, it can be used often.
    session: Option<Tls12ClientSessionValue>,
    /// TLS 1.3, the oldest first.
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    /// Keeps so many tickets of each server.
    pub(super) fn new(tickets_max: usize) -> Sessions {
        Sessions { servers: Mutex::default(), tickets_max }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, Remembered>> {
        self.servers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn edit(&self, name: ServerName<'static>, edit: impl FnOnce(&mut Remembered)) {
        let mut servers = self.lock();
        if servers.len() >= SERVERS_MAX && !servers.contains_key(&name) {
            let any = servers.keys().next().cloned();
            any.map(|any| servers.remove(&any));
        }
        edit(servers.entry(name).or_default());
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.edit(name, |server| server.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.lock().get(&name.to_owned())?.group
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.edit(name, |server| server.session = Some(session));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.lock().get(&name.to_owned())?.session.clone()
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(server) = self.lock().get_mut(name) {
            server.session = None;
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.edit(name, |server| {
            if server.tickets.len() >= self.tickets_max {
                server.tickets.pop_front();
            }
            server.tickets.push_back(ticket);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.lock().get_mut(name)?.tickets.pop_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_number_of_servers_is_remembered() {
        let sessions = Sessions::new(4);
        let name = |n| ServerName::try_from(format!("host-{n}.test")).unwrap();
        for n in 0..2 * SERVERS_MAX {
            sessions.set_kx_hint(name(n), NamedGroup::X25519);
            assert_eq!(sessions.kx_hint(&name(n)), Some(NamedGroup::X25519), "the newest is there");
        }
        assert_eq!(sessions.lock().len(), SERVERS_MAX);
        // Who is known pushes nobody out.
        let known = sessions.lock().keys().next().cloned().unwrap();
        sessions.set_kx_hint(known, NamedGroup::secp256r1);
        assert_eq!(sessions.lock().len(), SERVERS_MAX);
        assert_eq!(sessions.kx_hint(&ServerName::try_from("else.test").unwrap()), None);
    }
}

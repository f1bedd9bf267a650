//! The opening handshake (RFC 6455, 4.2): whether a request may become a WebSocket, and what is answered.

use super::extension::is_token;
use super::options::Options;
use crate::http::websocket_key::accept_key;
use crate::http::{Method, Reply, Request, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a handler chooses while it decides whether to take a connection.
pub struct Accept<'a> {
    protocols: Vec<&'a str>,
    pub(super) chosen: Option<&'a str>,
    pub(super) status: u16,
}

impl<'a> Accept<'a> {
    pub(super) fn new(protocols: Vec<&'a str>) -> Accept<'a> {
        Accept { protocols, chosen: None, status: 403 }
    }

    /// The subprotocols that the client offers, what it likes best first.
    pub fn protocols(&self) -> &[&'a str] {
        &self.protocols
    }

    /// Chooses a subprotocol; whether the client offers it. Without a choice the answer names none.
    pub fn choose(&mut self, protocol: &str) -> bool {
        self.chosen = self.protocols.iter().copied().find(|offered| *offered == protocol);
        self.chosen.is_some()
    }

    /// The status of the refusal that follows if the handler does not take the connection; 403 unless it is set.
    pub fn refuse(&mut self, status: u16) {
        self.status = status;
    }
}

/// A request that is a good handshake.
pub(super) struct Offer<'a> {
    pub(super) accept_key: String,
    pub(super) protocols: Vec<&'a str>,
}

/// Why a request is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Method,
    Malformed(&'static str),
    Upgrade,
    Version,
    Origin,
}

/// RFC 6455, 4.2.1, more strictly: what may come once comes once.
pub(super) fn check<'a>(request: &Request<'a>, options: &Options) -> Result<Offer<'a>, Refusal> {
    if request.method() != Method::Get {
        return Err(Refusal::Method);
    }
    if request.version() != Version::Http11 {
        return Err(Refusal::Malformed("WebSocket begins with HTTP/1.1"));
    }
    if request.body_length().is_some_and(|length| length > 0) || request.field("transfer-encoding").is_some()
    {
        return Err(Refusal::Malformed("a handshake has no body"));
    }
    let upgrade = one(request, "upgrade")?;
    let is_websocket =
        |value: &[u8]| value.split(|byte| *byte == b',').any(|name| is_word(name, b"websocket"));
    if !request.offers_upgrade() || !upgrade.is_some_and(is_websocket) {
        return Err(Refusal::Upgrade);
    }
    let version = one(request, "sec-websocket-version")?;
    match version {
        Some(b"13") => {}
        Some(_) => return Err(Refusal::Version),
        None => return Err(Refusal::Malformed("no Sec-WebSocket-Version")),
    }
    let key = one(request, "sec-websocket-key")?.unwrap_or_default();
    if !(key.len() == 24 && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)) {
        return Err(Refusal::Malformed("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    if let Some(origin) = one(request, "origin")?
        && !options.origins.allows(origin, request.host().unwrap_or_default(), request.is_secured())
    {
        return Err(Refusal::Origin);
    }
    Ok(Offer { accept_key: accept_key(key), protocols: protocols(request)? })
}

/// The value of a field that may come once.
fn one<'a>(request: &Request<'a>, name: &str) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = all(request, name);
    let value = values.next();
    if values.next().is_some() {
        Err(Refusal::Malformed("a field of the handshake twice"))
    } else {
        Ok(value)
    }
}

pub(super) fn all<'a>(request: &Request<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let fields = request.fields();
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name.as_bytes()))
        .map(|field| field.value)
}

fn is_word(text: &[u8], word: &[u8]) -> bool {
    text.trim_ascii().eq_ignore_ascii_case(word)
}

fn protocols<'a>(request: &Request<'a>) -> Result<Vec<&'a str>, Refusal> {
    let mut protocols = Vec::new();
    for value in all(request, "sec-websocket-protocol") {
        for name in value.split(|byte| *byte == b',') {
            let name = name.trim_ascii();
            let is_good = name.iter().all(|byte| is_token(*byte));
            match str::from_utf8(name) {
                // Such an element is none (RFC 9110, 5.6.1.2).
                Ok("") => {}
                Ok(name) if is_good => protocols.push(name),
                _ => return Err(Refusal::Malformed("Sec-WebSocket-Protocol is no list of names")),
            }
        }
    }
    Ok(protocols)
}

/// Answers what is no handshake, or none that may be.
pub(super) fn refuse(refusal: &Refusal, reply: &mut Reply<'_>) {
    match refusal {
        Refusal::Method => reply
            .status(405)
            .field("allow", "GET")
            .text("405 Method Not Allowed: WebSocket begins with GET\n"),
        Refusal::Malformed(reason) => reply.status(400).text(&format!("400 Bad Request: {reason}\n")),
        Refusal::Upgrade => reply.require_upgrade("websocket", &[]),
        Refusal::Version => reply.require_upgrade("websocket", &[("sec-websocket-version", "13")]),
        Refusal::Origin => {
            reply.status(403).text("403 Forbidden: pages of this origin may not connect here\n")
        }
    }
}

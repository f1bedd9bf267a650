//! Heads as they are passed on: rebuilt from what was parsed, never copied as they came (RFC 9110, 7.6). Pure: parsed heads in,
//! bytes out.
//!
//! What belongs to one connection stays behind: framing, `Connection` and what it names, `Keep-Alive`, `TE`, `Upgrade` and
//! credentials for proxies. So do fields in which a client could say who it is, unless it may. In their names `_` counts as `-`:
//! a server behind CGI or WSGI does not tell the two apart. Who may say so says it with `-`.

use super::name::is;
use super::observe::{Identity, is_identity, write_ip};
use crate::http::client::Framing as ReplyFraming;
use crate::http::client::reader::{Defect, Response};
use crate::http::message::{Expect, Fields, Framing, Head, Method, Version};
use crate::http::one::emit;
use crate::http::status::status_line;
use std::io::Write;
use std::net::IpAddr;

/// Fields that `Connection` may name, besides those that are dropped anyway. Each costs a comparison with each field.
const NAMED_MAX: usize = 16;

/// What is known of the client.
pub(super) struct Client<'a> {
    /// Its address, where it has one.
    pub(super) ip: Option<IpAddr>,
    /// It may say who the client in front of it is.
    pub(super) is_trusted: bool,
    /// Nobody can read along between it and us.
    pub(super) is_secured: bool,
    /// It speaks HTTP/2.
    pub(super) is_http2: bool,
    /// What its request is called, where requests have names.
    pub(super) ids: Option<&'a Identity>,
}

/// The options of `Connection` that name fields.
struct Named<'b> {
    names: [&'b [u8]; NAMED_MAX],
    len: usize,
}

impl<'b> Named<'b> {
    /// `None` if there are too many.
    fn of(fields: Fields<'_, 'b>) -> Option<Named<'b>> {
        let mut named = Named { names: [b""; NAMED_MAX], len: 0 };
        let connection = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(b"connection"));
        for option in connection.flat_map(|field| field.value.split(|byte| *byte == b',')) {
            let option = option.trim_ascii();
            if option.is_empty() || option.eq_ignore_ascii_case(b"close") || is_hop_by_hop(option) {
                continue;
            }
            *named.names.get_mut(named.len)? = option;
            named.len += 1;
        }
        Some(named)
    }

    /// A trailer of such a name is for its connection as well (RFC 9110, 7.6.1). The names are gone when it comes, so none passes behind them.
    fn lets_trailers_pass(&self) -> bool {
        self.len == 0
    }

    fn has(&self, name: &[u8]) -> bool {
        self.names[..self.len].iter().any(|named| named.eq_ignore_ascii_case(name))
    }
}

/// Fields that concern one connection, and the framing, which is written anew.
fn is_hop_by_hop(name: &[u8]) -> bool {
    match name.len() {
        2 => is(name, "te"),
        7 => is(name, "upgrade"),
        10 => is(name, "connection") || is(name, "keep-alive"),
        14 => is(name, "content-length") || is(name, "http2-settings"),
        16 => is(name, "proxy-connection"),
        17 => is(name, "transfer-encoding"),
        18 => is(name, "proxy-authenticate"),
        19 => is(name, "proxy-authorization"),
        _ => false,
    }
}

/// Fields that say who the client is, as proxies write them.
fn is_about_client(name: &[u8]) -> bool {
    const PREFIX: usize = "x-forwarded-".len();
    match name.len() {
        9 if is(name, "forwarded") || is(name, "x-real-ip") => true,
        len => len >= PREFIX && is(&name[..PREFIX], "x-forwarded-"),
    }
}

/// Whether the client asks for a WebSocket, the one protocol that is passed on; only where no body could be taken for it.
pub(super) fn asks_for_websocket(head: &Head<'_, '_>) -> bool {
    let is_websocket = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"websocket");
    // Two fields are one list (RFC 9110, 5.3), and a list asks for something else too.
    let mut upgrades = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(b"upgrade"));
    head.upgrade
        && head.method == Method::Get
        && head.framing == Framing::None
        && upgrades.next().is_some_and(|field| is_websocket(field.value))
        && upgrades.next().is_none()
}

/// What a request is asked for, further on.
pub(super) struct Onward<'a> {
    pub(super) path: &'a [u8],
    pub(super) host: Option<&'a [u8]>,
    /// For a request of HTTP/1.0 that has none.
    pub(super) else_host: &'a str,
    /// Its body is here before it is passed on: nobody waits for a 100 any more.
    pub(super) is_buffered: bool,
}

/// Writes a request as it is passed on; whether its trailers pass, too. `None` if `Connection` names too many fields.
pub(super) fn write_request(
    out: &mut Vec<u8>,
    head: &Head<'_, '_>,
    to: &Onward<'_>,
    client: &Client<'_>,
    name: &str,
) -> Option<bool> {
    let named = Named::of(head.fields)?;
    let is_options = head.method == Method::Options;
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(to.path);
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(to.host.unwrap_or(to.else_host.as_bytes()));
    out.extend_from_slice(b"\r\n");
    let mut takes_trailers = false;
    let mut forwarded = Forwarded::default();
    for field in head.fields.iter() {
        if field.name.eq_ignore_ascii_case(b"te") {
            let mut codings = field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            takes_trailers |= codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        }
        if is_hop_by_hop(field.name) || named.has(field.name) {
            continue;
        }
        // `Proxy` becomes HTTP_PROXY in a CGI program (CVE-2016-5385).
        if is(field.name, "host") || is(field.name, "expect") || is(field.name, "proxy") {
            continue;
        }
        if client.ids.is_some_and(|ids| ids.replaces(field.name)) {
            continue;
        }
        if is_about_client(field.name) {
            // By a spelling with `_` a trusted peer may pass on what it does not know, and its own client has said.
            if !client.is_trusted || field.name.contains(&b'_') {
                continue;
            }
            forwarded.note(field.name);
            if is(field.name, "x-forwarded-for") {
                // Our own part follows behind all that came.
                forwarded.chain(out, field.value);
                continue;
            }
        }
        if is_options && field.name.eq_ignore_ascii_case(b"max-forwards") {
            // Who is 0 was answered (RFC 9110, 7.6.2).
            let left = max_forwards(field.value).map_or(0, |max| max.saturating_sub(1));
            write!(out, "max-forwards: {left}\r\n").expect("memory takes what is written");
            continue;
        }
        write_line(out, field.name, field.value);
    }
    forwarded.finish(out, to.host, client);
    if let Some(ids) = client.ids {
        ids.write(out);
    }
    write_via(out, head.version, client.is_http2, name);
    match head.framing {
        Framing::None => {}
        Framing::Length(length) => emit::write_length(out, length),
        Framing::Chunked => out.extend_from_slice(emit::CHUNKED),
    }
    if head.expect == Expect::Continue && head.framing != Framing::None && !to.is_buffered {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    let upgrades = asks_for_websocket(head);
    out.extend_from_slice(match (upgrades, takes_trailers) {
        (true, _) => b"connection: upgrade\r\nupgrade: websocket\r\n".as_slice(),
        (false, true) => b"connection: te\r\nte: trailers\r\n",
        (false, false) => b"",
    });
    out.extend_from_slice(b"\r\n");
    Some(named.lets_trailers_pass())
}

/// Whether a request of OPTIONS is for this proxy, and goes no further (RFC 9110, 7.6.2).
pub(super) fn goes_no_further(head: &Head<'_, '_>) -> bool {
    head.method == Method::Options
        && head.framing == Framing::None
        && head.fields.value("max-forwards").and_then(max_forwards) == Some(0)
}

/// What Max-Forwards says (RFC 9110, 7.6.2).
fn max_forwards(value: &[u8]) -> Option<u32> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

/// What a trusted peer has said, and what is still to be said.
#[derive(Default)]
struct Forwarded {
    has_for: bool,
    has_proto: bool,
    has_host: bool,
    has_standard: bool,
}

impl Forwarded {
    fn note(&mut self, name: &[u8]) {
        self.has_proto |= is(name, "x-forwarded-proto");
        self.has_host |= is(name, "x-forwarded-host");
        self.has_standard |= is(name, "forwarded");
    }

    /// Repeated fields are one list (RFC 9110, 5.3).
    fn chain(&mut self, out: &mut Vec<u8>, value: &[u8]) {
        self.has_for = true;
        write_line(out, b"x-forwarded-for", value);
    }

    fn finish(&self, out: &mut Vec<u8>, host: Option<&[u8]>, client: &Client<'_>) {
        if let Some(ip) = client.ip {
            out.extend_from_slice(b"x-forwarded-for: ");
            write_ip(out, ip);
            out.extend_from_slice(b"\r\n");
            if self.has_standard {
                let (before, behind) = if ip.is_ipv4() { ("", "") } else { ("\"[", "]\"") };
                write!(out, "forwarded: for={before}{ip}{behind}\r\n").expect("memory takes what is written");
            }
        }
        if !self.has_proto {
            write_line(out, b"x-forwarded-proto", if client.is_secured { &b"https"[..] } else { b"http" });
        }
        if let Some(host) = host
            && !self.has_host
        {
            write_line(out, b"x-forwarded-host", host);
        }
    }
}

/// How the body of a reply is framed for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToClient {
    /// There is none.
    Nothing,
    /// With its length.
    Length(u64),
    Chunked,
    /// HTTP/1.0, and nobody knows how long it will be.
    UntilClose,
}

impl ToClient {
    pub(super) fn of(response: &Response<'_, '_>, is_http10: bool) -> ToClient {
        match response.body {
            None => ToClient::Nothing,
            Some(ReplyFraming::Length(length)) => ToClient::Length(length),
            Some(ReplyFraming::Chunked | ReplyFraming::UntilClose) if is_http10 => ToClient::UntilClose,
            Some(ReplyFraming::Chunked | ReplyFraming::UntilClose) => ToClient::Chunked,
        }
    }
}

/// What a reply is written for.
pub(super) struct ReplyTo<'a> {
    /// A cookie of ours.
    pub(super) cookie: Option<&'a str>,
    pub(super) is_secured: bool,
    /// The server speaks HTTP/2.
    pub(super) is_from_http2: bool,
    pub(super) framing: ToClient,
    pub(super) is_http10: bool,
    pub(super) keep_alive: bool,
    /// `Date` and its line end, for a reply that has none (RFC 9110, 6.6.1).
    pub(super) date: &'a [u8],
    pub(super) name: &'a str,
    /// What the request is called, where the client is told.
    pub(super) ids: Option<&'a Identity>,
}

/// Writes the final head of a reply as it is passed on; whether its trailers pass, too.
pub(super) fn write_reply(
    out: &mut Vec<u8>,
    response: &Response<'_, '_>,
    to: &ReplyTo<'_>,
) -> Result<bool, Defect> {
    let named = named_of(response)?;
    write_status(out, response);
    let has_date = write_fields(out, response, &named, to.ids.is_some());
    if !has_date {
        out.extend_from_slice(to.date);
    }
    write_via(out, response.version, to.is_from_http2, to.name);
    if let Some(ids) = to.ids {
        ids.write_to_client(out);
    }
    if let Some(cookie) = to.cookie {
        let secure = if to.is_secured { "; Secure" } else { "" };
        write_line(out, b"set-cookie", format!("{cookie}{secure}").as_bytes());
    }
    match (to.framing, response.length) {
        // Of a reply to HEAD and of 304 it is what the body would have had.
        (ToClient::Nothing, Some(length)) if response.status != 204 => emit::write_length(out, length),
        (ToClient::Length(length), _) => emit::write_length(out, length),
        (ToClient::Chunked, _) => out.extend_from_slice(emit::CHUNKED),
        (ToClient::Nothing | ToClient::UntilClose, _) => {}
    }
    if response.status == 101 {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n");
    } else {
        out.extend_from_slice(emit::head_end(to.keep_alive, to.is_http10));
    }
    Ok(named.lets_trailers_pass())
}

/// Writes an interim head (RFC 9110, 15.2) as it is passed on, of a server that may speak HTTP/2.
pub(super) fn write_interim(
    out: &mut Vec<u8>,
    response: &Response<'_, '_>,
    is_from_http2: bool,
    name: &str,
) -> Result<(), Defect> {
    let named = named_of(response)?;
    write_status(out, response);
    write_fields(out, response, &named, false);
    write_via(out, response.version, is_from_http2, name);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The status line, with the upstream's own words.
fn write_status(out: &mut Vec<u8>, response: &Response<'_, '_>) {
    out.extend_from_slice(&status_line(response.status));
    out.extend_from_slice(response.reason);
    out.extend_from_slice(b"\r\n");
}

/// Looked at before anything is written: a head that cannot be passed on leaves nothing behind.
fn named_of<'b>(response: &Response<'_, 'b>) -> Result<Named<'b>, Defect> {
    Named::of(response.fields).ok_or(Defect("Connection names too many fields"))
}

/// The fields that are passed on, but those that say what the request is called where we do; whether `Date` is among them.
fn write_fields(out: &mut Vec<u8>, response: &Response<'_, '_>, named: &Named<'_>, names_it: bool) -> bool {
    let mut has_date = false;
    for field in response.fields.iter() {
        let is_ours = names_it && is(field.name, "x-request-id");
        if !is_hop_by_hop(field.name) && !named.has(field.name) && !is_ours {
            has_date |= field.name.eq_ignore_ascii_case(b"date");
            write_line(out, field.name, field.value);
        }
    }
    has_date
}

/// Writes the last chunk of a body, and the trailers that are passed on, of those that may be: fields whose syntax is good, each with its
/// CRLF.
pub(super) fn write_last_chunk(out: &mut Vec<u8>, trailers: Option<&[u8]>, is_from_client: bool) {
    out.extend_from_slice(b"0\r\n");
    write_trailers(out, trailers.unwrap_or_default(), is_from_client);
    out.extend_from_slice(b"\r\n");
}

fn write_trailers(out: &mut Vec<u8>, trailers: &[u8], is_from_client: bool) {
    for line in trailers.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let is_dropped = is_hop_by_hop(name)
            || is_from_client && (is_about_client(name) || is_identity(name) || is(name, "proxy"));
        if !is_dropped {
            out.extend_from_slice(line);
        }
    }
}

fn write_via(out: &mut Vec<u8>, version: Version, is_http2: bool, name: &str) {
    out.extend_from_slice(match version {
        _ if is_http2 => b"via: 2.0 ",
        Version::Http11 => b"via: 1.1 ",
        Version::Http10 => b"via: 1.0 ",
    });
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;

//! Heads and trailers, from the words of HTTP/2 to text of HTTP/1.1 and back. Pure.
//!
//! The library has checked names and values: none has a line end in it. Everything else is checked by who reads the text.

use crate::adapt::arena::{Arena, Copied};
use crate::http::client::reader::Response as Parsed;
use crate::http::message::{Fields, Framing, Head, Method, Slots};
use crate::http::one::emit;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, request, response, uri};
use std::borrow::Cow;

/// What heads are read with: one for all connections of a worker.
#[derive(Default)]
pub(in crate::proxy) struct Heads {
    pub(super) slots: Slots,
    pub(super) arena: Arena,
    /// What is written in, empty in between.
    pub(super) text: Vec<u8>,
}

/// Writes a request's head; whether a body follows in chunks.
pub(super) fn write_request(out: &mut Vec<u8>, parts: &request::Parts, has_body: bool) -> bool {
    let is_chunked = has_body && is_open(&parts.headers);
    let target = match parts.method {
        http::Method::CONNECT => target_of_connect(&parts.uri),
        _ => path_of(&parts.uri).into(),
    };
    write_start(out, parts, (parts.method.as_str(), &target), |name| is_chunked && *name == CONTENT_LENGTH);
    if parts.headers.contains_key("te") {
        // It concerns a connection, and says what the next one may send.
        out.extend_from_slice(b"connection: te\r\n");
    }
    if is_chunked {
        out.extend_from_slice(emit::CHUNKED);
    }
    out.extend_from_slice(b"\r\n");
    is_chunked
}

/// In HTTP/1.1 it has a port, which a scheme may stand for in an extended CONNECT (RFC 8441, 4).
fn target_of_connect(uri: &Uri) -> Cow<'_, str> {
    let authority = uri.authority().map_or("", Authority::as_str);
    match uri.scheme() {
        Some(scheme) if uri.port().is_none() => {
            format!("{authority}:{}", if *scheme == Scheme::HTTPS { 443 } else { 80 }).into()
        }
        _ => authority.into(),
    }
}

/// The path with what follows it.
pub(super) fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// Writes a head up to its last fields, for this method and target.
pub(super) fn write_start(
    out: &mut Vec<u8>,
    parts: &request::Parts,
    (method, target): (&str, &str),
    is_left_out: impl Fn(&HeaderName) -> bool,
) {
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(HOST).iter().map(HeaderValue::as_bytes).peekable();
    // A Host that says the same adds nothing. One that differs is another reading (RFC 9113, 8.3.1): with two of them it is refused.
    if let Some(authority) = authority {
        write_line(out, b"host", authority);
        hosts.next_if(|host| host.eq_ignore_ascii_case(authority));
    } else if hosts.peek().is_none() {
        write_line(out, b"host", b"");
    }
    hosts.for_each(|host| write_line(out, b"host", host));
    // Clients may send them one by one; elsewhere they are one field (RFC 9113, 8.2.3).
    let cookies: Vec<&[u8]> = parts.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !cookies.is_empty() {
        write_line(out, b"cookie", &cookies.join(&b"; "[..]));
    }
    write_fields(out, &parts.headers, |name| *name == HOST || *name == COOKIE || is_left_out(name));
}

/// Writes the head of a reply; whether a body follows in chunks.
pub(super) fn write_response(
    out: &mut Vec<u8>,
    parts: &response::Parts,
    (is_head, has_body): (bool, bool),
) -> bool {
    emit::write_status_line(out, parts.status.as_u16());
    let may_have_body = !is_head && !matches!(parts.status.as_u16(), 204 | 304);
    let has_length = parts.headers.contains_key(CONTENT_LENGTH);
    let is_open = may_have_body && if has_body { is_open(&parts.headers) } else { !has_length };
    write_fields(out, &parts.headers, |name| is_open && *name == CONTENT_LENGTH);
    match (is_open, has_body) {
        (true, true) => out.extend_from_slice(emit::CHUNKED),
        (true, false) => emit::write_length(out, 0),
        // What may still come on the stream would be taken for the reply to the next request.
        (false, true) if !may_have_body => out.extend_from_slice(b"connection: close\r\n"),
        (false, _) => {}
    }
    out.extend_from_slice(b"\r\n");
    is_open && has_body
}

/// An interim reply.
pub(super) fn interim(response: &Response<()>) -> Vec<u8> {
    let mut out = Vec::new();
    emit::write_status_line(&mut out, response.status().as_u16());
    write_fields(&mut out, response.headers(), |_| false);
    out.extend_from_slice(b"\r\n");
    out
}

/// Whether a body is written in chunks: its length is not said, or trailers are announced (RFC 9110, 6.6.2), which nothing else has a
/// place for in HTTP/1.1.
fn is_open(fields: &HeaderMap) -> bool {
    !fields.contains_key(CONTENT_LENGTH) || fields.contains_key(TRAILER)
}

/// Writes trailers, each with its line end.
pub(super) fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    write_fields(out, trailers, |_| false);
}

fn write_fields(out: &mut Vec<u8>, fields: &HeaderMap, is_left_out: impl Fn(&HeaderName) -> bool) {
    for (name, value) in fields {
        // The framing of HTTP/1.1 is ours alone.
        if *name != http::header::TRANSFER_ENCODING && *name != http::header::CONNECTION && !is_left_out(name)
        {
            write_line(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
}

fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A request as it goes on; `None` where HTTP/2 has no words for it.
pub(super) fn request(head: &Head<'_, '_>, is_secured: bool, arena: &mut Arena) -> Option<Request<()>> {
    let copied = arena.copy(head.fields.text());
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if is_secured { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::from_maybe_shared(copied.part(head.host?.as_bytes())).ok()?);
    // It is in origin-form, or an asterisk.
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(copied.part(head.target.as_bytes())).ok()?);
    let mut request = Request::new(());
    *request.method_mut() = http::Method::from_bytes(head.method.as_str().as_bytes()).ok()?;
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.headers_mut() = fields_of(&head.fields, &copied, |name, value| {
        // The coding that HTTP/2 knows (RFC 9113, 8.2.2).
        let is_known = *name != TE || value == b"trailers";
        is_known && *name != HOST && *name != EXPECT
    })?;
    Some(request)
}

/// A reply as it goes on.
pub(super) fn response(parsed: &Parsed<'_, '_>, arena: &mut Arena) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(parsed.status).ok()?;
    let copied = arena.copy(parsed.fields.text());
    *response.headers_mut() = fields_of(&parsed.fields, &copied, |_, _| true)?;
    Some(response)
}

/// A reply with nothing but a status.
pub(super) fn plain(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// Trailers as they go on; `None` where there are none.
pub(super) fn trailers(lines: &[u8]) -> Option<HeaderMap> {
    let line = |line: &[u8]| -> Option<(HeaderName, HeaderValue)> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    };
    let map: HeaderMap = lines.split(|byte| *byte == b'\n').filter_map(line).collect();
    (!map.is_empty()).then_some(map)
}

fn fields_of(
    fields: &Fields<'_, '_>,
    copied: &Copied<'_>,
    is_meant: impl Fn(&HeaderName, &[u8]) -> bool,
) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields.iter() {
        let name = HeaderName::from_bytes(field.name).ok()?;
        let is_framing = [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(&name) || name == "keep-alive";
        if !is_framing && is_meant(&name, field.value) {
            map.append(name, HeaderValue::from_maybe_shared(copied.part(field.value)).ok()?);
        }
    }
    Some(map)
}

/// Whether a body follows a head.
pub(super) fn has_body(head: &Head<'_, '_>) -> bool {
    !matches!(head.framing, Framing::None | Framing::Length(0))
}

pub(super) fn is_head(head: &Head<'_, '_>) -> bool {
    head.method == Method::Head
}

//! A request of ours as one of the `http` crate: one copy of its head, of which target and values are slices.
//!
//! Pure. The head was checked by our parser; the few targets that `http` does not take are refused here.

use super::arena::Arena;
use crate::http::{Method, Request, Version};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// Why a request cannot be one of the `http` crate.
pub(super) const TARGET: &str = "the request target holds a byte that stands in no URI (RFC 3986 section 2)";

/// Makes the one, which is new, what the other is; but for body and extensions.
pub(super) fn convert<B>(
    request: &Request<'_>,
    converted: &mut http::Request<B>,
    arena: &mut Arena,
) -> Result<(), &'static str> {
    let fields = request.fields();
    let copied = arena.copy(fields.text());
    let headers = converted.headers_mut();
    headers.reserve(fields.len());
    for field in fields.iter() {
        // Our parser has let through what these take, and a map holds more than a head may have.
        let name = HeaderName::from_bytes(field.name).map_err(|_| "a field's name is no token")?;
        let value = HeaderValue::from_maybe_shared(copied.part(field.value));
        let value = value.map_err(|_| "a field's value is none")?;
        headers.try_append(name, value).map_err(|_| "too many fields")?;
    }
    let target = copied.last_part(request.target_bytes());
    *converted.method_mut() = method(request.method()).ok_or("the method is no token")?;
    *converted.uri_mut() = uri(target).ok_or(TARGET)?;
    *converted.version_mut() = match request.version() {
        Version::Http10 => http::Version::HTTP_10,
        Version::Http11 => http::Version::HTTP_11,
    };
    Ok(())
}

/// Trailers, of which the decoder has checked every line.
pub(super) fn trailers(section: &[u8]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for line in section.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii_end();
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        map.try_append(name, value).ok()?;
    }
    if map.is_empty() { None } else { Some(map) }
}

fn method(method: Method<'_>) -> Option<http::Method> {
    Some(match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Delete => http::Method::DELETE,
        Method::Options => http::Method::OPTIONS,
        Method::Patch => http::Method::PATCH,
        Method::Connect => http::Method::CONNECT,
        Method::Trace => http::Method::TRACE,
        Method::Other(token) => http::Method::from_bytes(token.as_bytes()).ok()?,
    })
}

fn uri(target: Bytes) -> Option<Uri> {
    if target.first() != Some(&b'/') {
        return Uri::from_maybe_shared(target).ok();
    }
    // The way that nearly all go: no look for a scheme and an authority.
    PathAndQuery::from_maybe_shared(target).ok().map(Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::message::Slots;
    use crate::http::one::head::{HeadLimits, Outcome, parse_head};

    fn parse(input: &str, arena: &mut Arena) -> Result<http::Request<()>, &'static str> {
        let mut slots = Slots::new();
        match parse_head(input.as_bytes(), &mut slots, &HeadLimits::default()) {
            Outcome::Complete { head, .. } => {
                let mut converted = http::Request::new(());
                convert(&Request::new(&head, b"", b"", None), &mut converted, arena).map(|()| converted)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn heads() {
        let check = |input: &str, expected: &str| {
            let request = parse(input, &mut Arena::default());
            let shown = request.map(|request| {
                let (parts, ()) = request.into_parts();
                format!("{} {} {:?} {:?}", parts.method, parts.uri, parts.version, parts.headers)
            });
            assert_eq!(shown.as_deref().unwrap_or_else(|refused| refused), expected, "{input}");
        };
        check("GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n", r#"GET /a?b HTTP/1.1 {"host": "h"}"#);
        check("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0 {}");
        check("GET //a HTTP/1.0\r\n\r\n", "GET //a HTTP/1.0 {}");
        check(
            "BREW http://h:8/p?q HTTP/1.1\r\nHost: h:8\r\n\r\n",
            r#"BREW http://h:8/p?q HTTP/1.1 {"host": "h:8"}"#,
        );
        check("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", r#"GET http://h/ HTTP/1.1 {"host": "h"}"#);
        check("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", r#"OPTIONS * HTTP/1.1 {"host": "h"}"#);
        check("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", r#"CONNECT h:1 HTTP/1.1 {"host": "h:1"}"#);
        check("GET /`< HTTP/1.0\r\n\r\n", TARGET);
        let twice = "GET / HTTP/1.0\r\nX-A: 1\r\nx-a:\t2 \u{fc}\r\n\r\n";
        check(twice, r#"GET / HTTP/1.0 {"x-a": "1", "x-a": "2 \xc3\xbc"}"#);
    }

    #[test]
    fn heads_share_pieces_and_do_not_touch_each_other() {
        let mut arena = Arena::default();
        let requests: Vec<_> = (0..200)
            .map(|n| {
                parse(&format!("GET /{n} HTTP/1.1\r\nHost: h{n}\r\nx: {}\r\n\r\n", "y".repeat(n)), &mut arena)
                    .unwrap()
            })
            .collect();
        for (n, request) in requests.iter().enumerate() {
            assert_eq!(
                (request.uri().path(), &request.headers()["host"]),
                (&*format!("/{n}"), &http::HeaderValue::from_str(&format!("h{n}")).unwrap())
            );
            assert_eq!(request.headers()["x"].len(), n);
        }
        let long = format!("GET /{} HTTP/1.0\r\n\r\n", "p".repeat(6000));
        assert_eq!(parse(&long, &mut arena).unwrap().uri().path().len(), 6001);
    }

    #[test]
    fn trailer_sections() {
        assert_eq!(trailers(b""), None);
        let map = trailers(b"X-Sum: 7\r\nx-b:\r\nx-sum: 8\t\r\n").unwrap();
        assert_eq!(format!("{map:?}"), r#"{"x-sum": "7", "x-sum": "8", "x-b": ""}"#);
    }
}

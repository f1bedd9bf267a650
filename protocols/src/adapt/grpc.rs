//! Deadlines of gRPC calls: the client says how long it waits (`grpc-timeout`), and nobody works longer for it.
//!
//! tonic has this in a layer that only its own server puts on. A call that is over ends with DEADLINE_EXCEEDED: in the fields of an
//! answer that has not begun, else in its trailers, which gRPC-Web has in the body.

use super::timer::Clock;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use hyper::body::Frame;
use hyper::rt::Sleep;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

/// When a call is over, and how its client is told.
pub(crate) struct Deadline {
    sleep: Pin<Box<dyn Sleep>>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Grpc,
    Web,
    /// In base64.
    WebText,
}

const STATUS: (HeaderName, HeaderValue) =
    (HeaderName::from_static("grpc-status"), HeaderValue::from_static("4"));
const MESSAGE: (HeaderName, HeaderValue) =
    (HeaderName::from_static("grpc-message"), HeaderValue::from_static("the deadline has passed"));

/// The same as the last message of a body (gRPC-Web, "Message framing"): a flag, a length, lines.
const WEB_TRAILERS: &[u8] = b"\x80\0\0\0\x37grpc-status: 4\r\ngrpc-message: the deadline has passed\r\n";
const WEB_TEXT_TRAILERS: &[u8] =
    b"gAAAADdncnBjLXN0YXR1czogNA0KZ3JwYy1tZXNzYWdlOiB0aGUgZGVhZGxpbmUgaGFzIHBhc3NlZA0K";

impl Deadline {
    /// That of a request with these fields; `None` for what is no call, and for one that may take as long as it likes.
    pub(crate) fn of(headers: &HeaderMap, max: Option<Duration>, clock: &Clock) -> Option<Deadline> {
        let kind = kind(headers)?;
        let asked = headers.get("grpc-timeout").and_then(|value| timeout(value.as_bytes()));
        let time = asked.into_iter().chain(max).min()?;
        Some(Deadline { sleep: hyper::rt::Timer::sleep(clock, time), kind })
    }

    /// Whether the time is over. If not, the task is woken once it is.
    pub(crate) fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.sleep.as_mut().poll(context).is_ready()
    }

    /// The answer to a call that was not answered yet.
    pub(crate) fn answer<B>(&self) -> Response<Option<B>> {
        let mut response = Response::new(None);
        let media_type = match self.kind {
            Kind::Grpc => "application/grpc",
            Kind::Web => "application/grpc-web+proto",
            Kind::WebText => "application/grpc-web-text+proto",
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.extend([STATUS, MESSAGE]);
        response
    }

    /// The end of an answer that has begun.
    pub(crate) fn last_frame(&self) -> Frame<Bytes> {
        match self.kind {
            Kind::Grpc => Frame::trailers(HeaderMap::from_iter([STATUS, MESSAGE])),
            Kind::Web => Frame::data(Bytes::from_static(WEB_TRAILERS)),
            Kind::WebText => Frame::data(Bytes::from_static(WEB_TEXT_TRAILERS)),
        }
    }
}

/// Whether a request with these fields is a call of gRPC.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    kind(headers).is_some()
}

fn kind(headers: &HeaderMap) -> Option<Kind> {
    let media_type = headers.get(header::CONTENT_TYPE)?.as_bytes();
    let rest = media_type.strip_prefix(b"application/grpc")?;
    let is_end = |rest: &[u8]| matches!(rest.first(), None | Some(b'+' | b';' | b' '));
    let (kind, rest) = match rest.strip_prefix(b"-web") {
        None => (Kind::Grpc, rest),
        Some(web) => match web.strip_prefix(b"-text") {
            None => (Kind::Web, web),
            Some(text) => (Kind::WebText, text),
        },
    };
    is_end(rest).then_some(kind)
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout"). What is something else says nothing.
fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let check = |text: &str, expected| assert_eq!(timeout(text.as_bytes()), expected, "{text}");
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("03S", Some(Duration::from_secs(3)));
        check("99999999m", Some(Duration::from_millis(99_999_999)));
        check("5u", Some(Duration::from_micros(5)));
        check("0n", Some(Duration::ZERO));
        for none in ["", "S", "5", "123456789S", "-1S", "1.5S", "1 S", "1s", "\u{661}S"] {
            check(none, None);
        }
    }

    #[test]
    fn calls_and_what_is_none() {
        let check = |media_type: &str, expected| {
            let media_type = HeaderValue::from_str(media_type).unwrap();
            assert_eq!(kind(&HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)])), expected);
        };
        check("application/grpc", Some(Kind::Grpc));
        check("application/grpc+proto", Some(Kind::Grpc));
        check("application/grpc; charset=a", Some(Kind::Grpc));
        check("application/grpc-web", Some(Kind::Web));
        check("application/grpc-web+proto", Some(Kind::Web));
        check("application/grpc-web-text+proto", Some(Kind::WebText));
        for none in ["application/grpcx", "application/grpc-webx", "application/json", "", "text/grpc"] {
            check(none, None);
        }
        assert_eq!(kind(&HeaderMap::new()), None);
    }

    #[test]
    fn trailers_in_a_body_say_the_same() {
        let ((status, code), (message, text)) = (STATUS, MESSAGE);
        let lines =
            format!("{status}: {}\r\n{message}: {}\r\n", code.to_str().unwrap(), text.to_str().unwrap());
        let length = u32::try_from(lines.len()).unwrap().to_be_bytes();
        assert_eq!(WEB_TRAILERS, [&[0x80], &length[..], lines.as_bytes()].concat());
        let value = |byte: &u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            other => panic!("{other}"),
        };
        let decoded = WEB_TEXT_TRAILERS.chunks(4).flat_map(|four| {
            let bits = four.iter().fold(0, |bits, byte| bits << 6 | u32::from(value(byte)));
            bits.to_be_bytes()[1..].to_vec()
        });
        assert_eq!(decoded.collect::<Vec<u8>>(), WEB_TRAILERS);
    }
}

//! The start of nearly every reply, rendered once a second: status line, Server, Date, and the common types.

use std::time::{Duration, UNIX_EPOCH};

/// Replies that need only a length and a body, ready to copy.
pub(super) struct Preamble {
    server: String,
    ok: Vec<u8>,
    text: Vec<u8>,
    json: Vec<u8>,
    unix_secs: u64,
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

impl Preamble {
    pub(super) fn new(server: &str) -> Preamble {
        // A name that cannot stand in a field would break every reply: it is left out.
        let plain = !server.is_empty() && server.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let server = if plain { format!("server: {server}\r\n") } else { String::new() };
        Preamble { server, ok: Vec::new(), text: Vec::new(), json: Vec::new(), unix_secs: u64::MAX }
    }

    /// Renders anew when the second has changed.
    #[inline]
    pub(super) fn refresh(&mut self, unix_secs: u64) {
        if self.unix_secs != unix_secs {
            self.render(unix_secs);
        }
    }

    /// The status line 200 with Server and Date.
    pub(super) fn ok(&self) -> &[u8] {
        &self.ok
    }

    /// Server and Date alone.
    pub(super) fn fields(&self) -> &[u8] {
        &self.ok[OK.len().min(self.ok.len())..]
    }

    /// As `ok`, with the type and up to the value of Content-Length.
    #[inline]
    pub(super) fn typed(&self, known: KnownType) -> &[u8] {
        match known {
            KnownType::Text => &self.text,
            KnownType::Json => &self.json,
        }
    }

    #[cold]
    fn render(&mut self, unix_secs: u64) {
        self.unix_secs = unix_secs;
        let time = UNIX_EPOCH + Duration::from_secs(unix_secs.min(LATEST_SECS));
        let date = format!("date: {}\r\n", httpdate::fmt_http_date(time));
        self.ok = [OK, self.server.as_bytes(), date.as_bytes()].concat();
        let typed = |known: KnownType| {
            [&self.ok, b"content-type: ".as_slice(), known.value().as_bytes(), b"\r\ncontent-length: "]
                .concat()
        };
        (self.text, self.json) = (typed(KnownType::Text), typed(KnownType::Json));
    }
}

/// Media types with a reply of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownType {
    Text,
    Json,
}

impl KnownType {
    pub(super) fn value(self) -> &'static str {
        match self {
            KnownType::Text => "text/plain",
            KnownType::Json => "application/json",
        }
    }
}

/// The last second of the year 9999, where IMF-fixdate ends (RFC 9110, 5.6.7).
const LATEST_SECS: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(server: &str, unix_secs: u64, expected: &str) {
        let mut preamble = Preamble::new(server);
        preamble.refresh(unix_secs);
        assert_eq!(String::from_utf8_lossy(preamble.ok()), expected);
        assert_eq!(preamble.fields(), expected.as_bytes().strip_prefix(OK).unwrap());
    }

    #[test]
    fn preambles() {
        let epoch = "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        check("ringmill", 0, &format!("HTTP/1.1 200 OK\r\nserver: ringmill\r\n{epoch}"));
        check("", 784_111_777, "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        check("bad\r\nname", 0, &format!("HTTP/1.1 200 OK\r\n{epoch}"));
        check("", u64::MAX - 1, "HTTP/1.1 200 OK\r\ndate: Fri, 31 Dec 9999 23:59:59 GMT\r\n");
    }
}

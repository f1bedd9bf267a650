//! The start of nearly every reply, rendered once a second: status line, Server, Date, and the common types.

use std::time::{Duration, UNIX_EPOCH};

/// Replies that need only a length and a body, ready to copy.
pub(super) struct Preamble {
    server: String,
    ok: Vec<u8>,
    text: Typed,
    json: Typed,
    unix_secs: u64,
}

/// The whole head of a reply of one type. Lengths repeat, so the last one stays rendered.
#[derive(Default)]
struct Typed {
    head: Vec<u8>,
    /// Where the digits of the length begin.
    digits_at: usize,
    length: usize,
}

impl Typed {
    fn render(&mut self, ok: &[u8], known: KnownType) {
        self.head = [ok, b"content-type: ", known.value().as_bytes(), b"\r\ncontent-length: "].concat();
        self.digits_at = self.head.len();
        self.set_length(self.length);
    }

    #[inline(never)]
    fn set_length(&mut self, length: usize) {
        self.length = length;
        self.head.truncate(self.digits_at);
        self.head.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        self.head.extend_from_slice(b"\r\n\r\n");
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

impl Preamble {
    pub(super) fn new(server: &str) -> Preamble {
        // A name that cannot stand in a field would break every reply: it is left out.
        let plain = !server.is_empty() && server.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let server = if plain { format!("server: {server}\r\n") } else { String::new() };
        let (text, json) = (Typed::default(), Typed::default());
        Preamble { server, ok: Vec::new(), text, json, unix_secs: u64::MAX }
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

    /// Those of Server and Date that are asked for.
    #[cfg(feature = "tower")]
    pub(super) fn some_fields(&self, server: bool, date: bool) -> [&[u8]; 2] {
        let (own_server, own_date) = self.fields().split_at(self.server.len().min(self.fields().len()));
        [if server { own_server } else { b"" }, if date { own_date } else { b"" }]
    }

    /// Server and Date alone.
    pub(super) fn fields(&self) -> &[u8] {
        &self.ok[OK.len().min(self.ok.len())..]
    }

    /// The whole head of a reply of this type with a body of `length` bytes.
    #[inline]
    pub(super) fn typed(&mut self, known: KnownType, length: usize) -> &[u8] {
        let typed = match known {
            KnownType::Text => &mut self.text,
            KnownType::Json => &mut self.json,
        };
        if typed.length != length {
            typed.set_length(length);
        }
        &typed.head
    }

    #[cold]
    fn render(&mut self, unix_secs: u64) {
        self.unix_secs = unix_secs;
        let time = UNIX_EPOCH + Duration::from_secs(unix_secs.min(LATEST_SECS));
        let date = format!("date: {}\r\n", httpdate::fmt_http_date(time));
        self.ok = [OK, self.server.as_bytes(), date.as_bytes()].concat();
        self.text.render(&self.ok, KnownType::Text);
        self.json.render(&self.ok, KnownType::Json);
    }
}

/// Media types with a reply of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownType {
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
    fn heads_of_every_length() {
        let mut preamble = Preamble::new("");
        for unix_secs in [0, 1] {
            preamble.refresh(unix_secs);
            for length in [0, 1, 1, 9, 10, 12_345, 9, usize::MAX, 0] {
                let date = format!("date: Thu, 01 Jan 1970 00:00:0{unix_secs} GMT\r\n");
                let check = |head: &[u8], value| {
                    let expected = format!(
                        "HTTP/1.1 200 OK\r\n{date}content-type: {value}\r\ncontent-length: {length}\r\n\r\n"
                    );
                    assert_eq!(String::from_utf8_lossy(head), expected);
                };
                check(preamble.typed(KnownType::Text, length), "text/plain");
                check(preamble.typed(KnownType::Json, length), "application/json");
            }
        }
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

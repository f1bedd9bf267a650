//! The start of nearly every reply, rendered once a second: status line, Server and Date.

use std::time::{Duration, UNIX_EPOCH};

/// `HTTP/1.1 200 OK`, server and date, ready to copy.
pub(super) struct Preamble {
    server: String,
    bytes: Vec<u8>,
    unix_secs: u64,
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

impl Preamble {
    pub(super) fn new(server: &str) -> Preamble {
        // A name that cannot stand in a field would break every reply: it is left out.
        let plain = !server.is_empty() && server.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let server = if plain { format!("server: {server}\r\n") } else { String::new() };
        Preamble { server, bytes: Vec::new(), unix_secs: u64::MAX }
    }

    /// Renders anew when the second has changed.
    #[inline]
    pub(super) fn refresh(&mut self, unix_secs: u64) {
        if self.unix_secs != unix_secs {
            self.render(unix_secs);
        }
    }

    /// The status line 200 with the fields.
    #[inline]
    pub(super) fn ok(&self) -> &[u8] {
        &self.bytes
    }

    /// The fields alone.
    pub(super) fn fields(&self) -> &[u8] {
        &self.bytes[OK.len().min(self.bytes.len())..]
    }

    #[cold]
    fn render(&mut self, unix_secs: u64) {
        self.unix_secs = unix_secs;
        self.bytes.clear();
        self.bytes.extend_from_slice(OK);
        self.bytes.extend_from_slice(self.server.as_bytes());
        let time = UNIX_EPOCH + Duration::from_secs(unix_secs.min(LATEST_SECS));
        let date = httpdate::fmt_http_date(time);
        self.bytes.extend_from_slice(b"date: ");
        self.bytes.extend_from_slice(date.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
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

//! A line of the access log for a finished request or connection: JSON, or the combined format of Apache. Pure.
//!
//! Nothing that a peer sends leaves its place in a line: JSON has escapes for all but printable ASCII, the combined format for what could end a
//! field, a line, or a terminal's patience. How long texts may be is `entry.rs`.

use super::entry::{End, Entry, HttpVersion, Text};
use super::trace::hex_of;
use std::io::Write;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// An object.
    #[default]
    Json,
    /// That of Apache and nginx.
    Combined,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "json" => Ok(LogFormat::Json),
            "combined" => Ok(LogFormat::Combined),
            other => Err(format!("{other:?} is neither json nor combined")),
        }
    }
}

/// Writes lines, and remembers the second of the last one.
#[derive(Debug, Default)]
pub struct LineWriter {
    format: LogFormat,
    secs: u64,
    /// That second, as the format has it.
    time: Vec<u8>,
}

impl End {
    /// How it is called in the log.
    pub fn name(self) -> &'static str {
        match self {
            End::Complete => "complete",
            End::Refused => "refused",
            End::ClientLeft => "client",
            End::UpstreamFailed => "upstream",
            End::TimedOut => "timeout",
        }
    }
}

impl LineWriter {
    /// For this format.
    pub fn new(format: LogFormat) -> LineWriter {
        LineWriter { format, ..LineWriter::default() }
    }

    /// Appends the line of a request, or of a connection.
    pub fn write(&mut self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        let secs = entry.numbers.began.as_secs();
        if self.secs != secs || self.time.is_empty() {
            (self.secs, self.time) = (secs, time_of(secs, self.format));
        }
        match self.format {
            LogFormat::Json => self.write_json(out, entry),
            LogFormat::Combined => self.write_combined(out, entry),
        }
    }

    fn write_json(&self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        let numbers = &entry.numbers;
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(&self.time);
        out.push(b'.');
        let millis = numbers.began.subsec_millis() as u16;
        out.extend_from_slice(&[
            b'0' + (millis / 100) as u8,
            b'0' + (millis / 10 % 10) as u8,
            b'0' + (millis % 10) as u8,
        ]);
        out.extend_from_slice(b"Z\"");
        if let Some(ip) = numbers.client {
            out.extend_from_slice(b",\"client\":\"");
            write_ip(out, ip);
            out.push(b'"');
        }
        if numbers.is_relayed {
            write_text(out, "listener", entry.listener);
            write_text(out, "sni", entry.host);
        } else {
            let texts = [
                ("method", entry.method),
                ("host", entry.host),
                ("path", entry.path),
                ("query", entry.query),
            ];
            for (key, text) in texts {
                write_text(out, key, text);
            }
            write_number(out, "status", numbers.status.into());
        }
        write_number(out, "bytes_in", numbers.received);
        write_number(out, "bytes_out", numbers.sent);
        write_millis(out, "ms", Some(numbers.total));
        write_text(out, "upstream", entry.upstream);
        write_millis(out, "wait_ms", numbers.waited);
        write_millis(out, "first_byte_ms", numbers.first_byte);
        if numbers.retries > 0 {
            write_number(out, "retries", numbers.retries.into());
        }
        write_text(out, "request_id", entry.id);
        if numbers.trace != [0; 16] {
            let digits = hex_of(numbers.trace);
            write_text(out, "trace_id", Text { bytes: &digits, is_cut: false });
        }
        for (key, text) in [("tls", entry.tls), ("referer", entry.referer), ("user_agent", entry.agent)] {
            write_text(out, key, text);
        }
        out.extend_from_slice(b",\"end\":\"");
        out.extend_from_slice(numbers.end.name().as_bytes());
        out.extend_from_slice(b"\"}\n");
    }

    /// `client - - [time] "request" status bytes "referer" "agent"`. Of a connection the request is `TCP listener name`, and its status one
    /// of those with which nginx tells of streams, and of clients that left.
    fn write_combined(&self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        let numbers = &entry.numbers;
        match numbers.client {
            Some(ip) => write_ip(out, ip),
            None => out.extend_from_slice(b"unix:"),
        }
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(&self.time);
        out.extend_from_slice(b" +0000] \"");
        let mut status = numbers.status;
        if numbers.is_relayed {
            out.extend_from_slice(b"TCP ");
            quote(out, entry.listener);
            if !entry.host.bytes.is_empty() {
                out.push(b' ');
                quote(out, entry.host);
            }
            status = match numbers.end {
                End::Complete => 200,
                End::ClientLeft => 499,
                End::UpstreamFailed => 502,
                End::Refused => 503,
                End::TimedOut => 504,
            };
        } else if entry.method.bytes.is_empty() {
            out.push(b'-');
        } else {
            quote(out, entry.method);
            out.push(b' ');
            quote(out, entry.path);
            if !entry.query.bytes.is_empty() {
                out.push(b'?');
                quote(out, entry.query);
            }
            out.extend_from_slice(match numbers.version {
                HttpVersion::Http10 => b" HTTP/1.0",
                HttpVersion::Http11 => b" HTTP/1.1",
                // As nginx writes it, in the form of the others.
                HttpVersion::Http2 => b" HTTP/2.0",
            });
        }
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(b"\" ");
        out.extend_from_slice(digits.format(status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(digits.format(numbers.sent).as_bytes());
        for text in [entry.referer, entry.agent] {
            out.extend_from_slice(b" \"");
            if text.bytes.is_empty() {
                out.push(b'-');
            }
            quote(out, text);
            out.push(b'"');
        }
        out.push(b'\n');
    }
}

/// A second in words: `2026-11-28T09:39:09`, or `28/Nov/2026:09:39:09`.
fn time_of(secs: u64, format: LogFormat) -> Vec<u8> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    // The last second of the year 9999, where IMF-fixdate ends: `Sat, 28 Nov 2026 09:39:09 GMT`.
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs.min(253_402_300_799)));
    let (day, month, year, time) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
    match format {
        LogFormat::Combined => format!("{day}/{month}/{year}:{time}").into_bytes(),
        LogFormat::Json => {
            let month = MONTHS.find(month).map_or(0, |at| at / 3 + 1);
            format!("{year}-{month:02}-{day}T{time}").into_bytes()
        }
    }
}

/// Most addresses have four numbers: without the machinery of formatting.
pub(in crate::proxy) fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    let mut digits = itoa::Buffer::new();
    match ip {
        IpAddr::V4(ip) => {
            for (n, octet) in ip.octets().into_iter().enumerate() {
                if n > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(digits.format(octet).as_bytes());
            }
        }
        IpAddr::V6(ip) => write!(out, "{ip}").expect("memory takes what is written"),
    }
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_number(out: &mut Vec<u8>, key: &str, number: u64) {
    write_key(out, key);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Milliseconds with three digits behind the point, where there are any.
fn write_millis(out: &mut Vec<u8>, key: &str, time: Option<Duration>) {
    let Some(time) = time else { return };
    write_key(out, key);
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let rest = (micros % 1000) as u16;
    out.extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
    out.extend_from_slice(&[
        b'.',
        b'0' + (rest / 100) as u8,
        b'0' + (rest / 10 % 10) as u8,
        b'0' + (rest % 10) as u8,
    ]);
}

/// A text, where there is one. Bytes that are no UTF-8 become U+FFFD.
fn write_text(out: &mut Vec<u8>, key: &str, text: Text<'_>) {
    if text.bytes.is_empty() {
        return;
    }
    write_key(out, key);
    out.push(b'"');
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let plain = text.bytes.iter().position(|byte| !is_plain(byte)).unwrap_or(text.bytes.len());
    let (plain, rest) = text.bytes.split_at(plain);
    out.extend_from_slice(plain);
    for chunk in rest.utf8_chunks() {
        for character in chunk.valid().chars() {
            escape(out, character);
        }
        if !chunk.invalid().is_empty() {
            escape(out, char::REPLACEMENT_CHARACTER);
        }
    }
    if text.is_cut {
        out.extend_from_slice(b"...");
    }
    out.push(b'"');
}

/// As RFC 8259 (7) has it, and all but printable ASCII: terminals act on more than JSON forbids.
fn escape(out: &mut Vec<u8>, character: char) {
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
        ' '..='~' => out.push(character as u8),
        _ => {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("memory takes what is written");
            }
        }
    }
}

/// As nginx does.
fn quote(out: &mut Vec<u8>, text: Text<'_>) {
    for byte in text.bytes {
        match byte {
            b'"' | b'\\' | ..b' ' | 0x7f.. => {
                write!(out, "\\x{byte:02X}").expect("memory takes what is written");
            }
            _ => out.push(*byte),
        }
    }
    if text.is_cut {
        out.extend_from_slice(b"...");
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::numbers;
    use super::super::entry::{Front, LONG_MAX, Numbers, put_entry, put_text};
    use super::*;
    use proptest::prelude::*;

    fn line(format: LogFormat, numbers: &Numbers, texts: [&[u8]; 9]) -> String {
        let (mut last, mut bytes, mut out) = (Vec::new(), Vec::new(), Vec::new());
        texts[2..].iter().for_each(|text| put_text(&mut last, text, LONG_MAX));
        let listener: &[u8] = if numbers.is_relayed { b"0.0.0.0:443" } else { b"" };
        put_entry(&mut bytes, numbers, Front { upstream: texts[0], id: texts[1], listener }, &last);
        LineWriter::new(format).write(&mut out, &Entry::read(&bytes).expect("an entry"));
        String::from_utf8(out).expect("a text")
    }

    const NOTHING: [&[u8]; 9] = [b""; 9];

    #[test]
    fn lines_have_what_there_is() {
        let texts: [&[u8]; 9] = [
            b"127.0.0.1:3000",
            b"id-1",
            b"GET",
            b"a.test",
            b"/x",
            b"y=z",
            b"TLSv1.3",
            b"http://r/",
            b"curl/8",
        ];
        let all =
            Numbers { trace: [0xab; 16], first_byte: Some(Duration::from_micros(1_000_007)), ..numbers() };
        assert_eq!(
            line(LogFormat::Json, &all, texts),
            "{\"time\":\"2026-09-21T14:13:20.123Z\",\"client\":\"1.2.3.4\",\"method\":\"GET\",\"host\":\"a.test\",\"path\":\"/x\",\
             \"query\":\"y=z\",\"status\":200,\"bytes_in\":80,\"bytes_out\":1099511627776,\"ms\":1.234,\"upstream\":\"127.0.0.1:3000\",\
             \"wait_ms\":0.005,\"first_byte_ms\":1000.007,\"retries\":1,\"request_id\":\"id-1\",\
             \"trace_id\":\"abababababababababababababababab\",\"tls\":\"TLSv1.3\",\"referer\":\"http://r/\",\"user_agent\":\"curl/8\",\
             \"end\":\"complete\"}\n"
        );
        assert_eq!(
            line(LogFormat::Combined, &all, texts),
            "1.2.3.4 - - [21/Sep/2026:14:13:20 +0000] \"GET /x?y=z HTTP/1.1\" 200 1099511627776 \"http://r/\" \"curl/8\"\n"
        );
        for (version, written) in [(HttpVersion::Http10, "HTTP/1.0"), (HttpVersion::Http2, "HTTP/2.0")] {
            let said = line(LogFormat::Combined, &Numbers { version, ..all }, texts);
            assert!(said.contains(&format!("] \"GET /x?y=z {written}\" 200 ")), "{said}");
        }
        let none =
            Numbers { client: None, waited: None, retries: 0, end: End::Refused, status: 400, ..numbers() };
        assert_eq!(
            line(LogFormat::Json, &none, NOTHING),
            "{\"time\":\"2026-09-21T14:13:20.123Z\",\"status\":400,\"bytes_in\":80,\"bytes_out\":1099511627776,\"ms\":1.234,\
             \"end\":\"refused\"}\n"
        );
        assert_eq!(
            line(LogFormat::Combined, &none, NOTHING),
            "unix: - - [21/Sep/2026:14:13:20 +0000] \"-\" 400 1099511627776 \"-\" \"-\"\n"
        );
    }

    #[test]
    fn connections_have_lines_of_their_own() {
        let mut texts = NOTHING;
        (texts[0], texts[3]) = (b"10.0.0.5:5432", b"db.test");
        let numbers = Numbers { is_relayed: true, status: 0, retries: 0, end: End::ClientLeft, ..numbers() };
        assert_eq!(
            line(LogFormat::Json, &numbers, texts),
            "{\"time\":\"2026-09-21T14:13:20.123Z\",\"client\":\"1.2.3.4\",\"listener\":\"0.0.0.0:443\",\"sni\":\"db.test\",\"bytes_in\":80,\
             \"bytes_out\":1099511627776,\"ms\":1.234,\"upstream\":\"10.0.0.5:5432\",\"wait_ms\":0.005,\"end\":\"client\"}\n"
        );
        assert_eq!(
            line(LogFormat::Combined, &numbers, texts),
            "1.2.3.4 - - [21/Sep/2026:14:13:20 +0000] \"TCP 0.0.0.0:443 db.test\" 499 1099511627776 \"-\" \"-\"\n"
        );
        let numbers = Numbers { end: End::Complete, ..numbers };
        assert_eq!(
            line(LogFormat::Combined, &numbers, NOTHING),
            "1.2.3.4 - - [21/Sep/2026:14:13:20 +0000] \"TCP 0.0.0.0:443\" 200 1099511627776 \"-\" \"-\"\n"
        );
    }

    #[test]
    fn hostile_texts_stay_in_their_place() {
        let check = |path: &[u8], json: &str, combined: &str| {
            let mut texts = NOTHING;
            (texts[2], texts[4]) = (b"GET", path);
            let said = line(LogFormat::Json, &numbers(), texts);
            assert!(said.contains(&format!("\"path\":\"{json}\",")), "{said}");
            let said = line(LogFormat::Combined, &numbers(), texts);
            assert!(said.contains(&format!("\"GET {combined} HTTP/1.1\"")), "{said}");
        };
        check(
            b"/\",\"status\":200,\"x\":\"",
            "/\\\",\\\"status\\\":200,\\\"x\\\":\\\"",
            "/\\x22,\\x22status\\x22:200,\\x22x\\x22:\\x22",
        );
        check(b"/\r\n1.1.1.1 - -", "/\\u000d\\u000a1.1.1.1 - -", "/\\x0D\\x0A1.1.1.1 - -");
        check(b"/\\\0\x7f\x1b[2J", "/\\\\\\u0000\\u007f\\u001b[2J", "/\\x5C\\x00\\x7F\\x1B[2J");
        // C1 controls, a line separator, an override of direction, what needs two units, what is no UTF-8.
        check(
            "/\u{9b}\u{2028}\u{202e}\u{1f600}".as_bytes(),
            "/\\u009b\\u2028\\u202e\\ud83d\\ude00",
            "/\\xC2\\x9B\\xE2\\x80\\xA8\\xE2\\x80\\xAE\\xF0\\x9F\\x98\\x80",
        );
        check(b"/\xff\xc3", "/\\ufffd\\ufffd", "/\\xFF\\xC3");
        let long = vec![b'x'; LONG_MAX + 1];
        let cut = "x".repeat(LONG_MAX) + "...";
        check(&long, &cut, &cut);
    }

    proptest! {
        #[test]
        fn every_line_can_be_read(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 9),
            (began, total, waited) in any::<(u64, u64, Option<u32>)>(),
            (received, sent, status, retries) in any::<(u64, u64, u16, u8)>(),
            client in any::<Option<std::net::IpAddr>>(),
        ) {
            let micros = Duration::from_micros;
            let numbers = Numbers {
                began: micros(began), total: micros(total), waited: waited.map(|time| micros(time.into())),
                received, sent, status, retries, client, ..numbers()
            };
            let texts: [&[u8]; 9] = std::array::from_fn(|n| &texts[n][..]);
            let json = line(LogFormat::Json, &numbers, texts);
            prop_assert!(json.ends_with('\n') && json.trim_end().bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let read: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
            let fields = read.as_object().expect("an object");
            let names = ["upstream", "request_id", "method", "host", "path", "query", "tls", "referer", "user_agent"];
            for (name, text) in names.into_iter().zip(texts) {
                let expected = String::from_utf8_lossy(text);
                let said = fields.get(name).and_then(|value| value.as_str()).unwrap_or_default();
                prop_assert_eq!(said, expected.as_ref(), "{}", name);
            }
            prop_assert_eq!(read["bytes_out"].as_u64(), Some(sent));
            let combined = line(LogFormat::Combined, &numbers, texts);
            prop_assert!(combined.ends_with('\n') && combined.trim_end().bytes().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert_eq!(combined.matches('"').count(), 6);
        }
    }
}

//! HTTP as a client sees it: raw bytes out, replies in, with the date taken out so that they can be compared.

use super::{Client, connect_to, show};
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};

/// The bytes of a reply; `fields` are whole lines. Content-Length is among them where there is one.
pub fn reply(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nserver: ringmill\r\ndate: now\r\n{fields}\r\n{body}")
}

/// A 200 with a body of this media type.
pub fn ok_as(media_type: &str, body: &str) -> String {
    let fields = format!("content-type: {media_type}\r\ncontent-length: {}\r\n", body.len());
    reply("200 OK", &fields, body)
}

/// A 200 with a text.
pub fn ok(body: &str) -> String {
    ok_as("text/plain", body)
}

/// A GET on HTTP/1.1.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A POST of a body of known length.
pub fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A POST with this chunked body, framing and all.
pub fn post_chunked(target: &str, chunks: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
}

/// Replaces the value of each Date field that is one (IMF-fixdate, RFC 9110 section 5.6.7) with `now`.
pub fn undated(text: &[u8]) -> String {
    const SHAPE: &[u8; 29] = b"aaa, 00 aaa 0000 00:00:00 GMT";
    let fits = |(byte, shape): (&u8, &u8)| match shape {
        b'a' => byte.is_ascii_alphabetic(),
        b'0' => byte.is_ascii_digit(),
        _ => byte == shape,
    };
    let text = String::from_utf8_lossy(text);
    let mut parts = text.split("\r\ndate: ");
    let mut undated = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let date = &part.as_bytes()[..29.min(part.len())];
        assert!(date.len() == 29 && date.iter().zip(SHAPE).all(fits), "a date: {part}");
        undated = undated + "\r\ndate: now" + &part[29..];
    }
    undated
}

/// Sends `input` and the end, and reads up to the server's end.
#[track_caller]
pub fn exchange(address: SocketAddr, input: impl AsRef<[u8]>) -> String {
    let mut client = connect_to(address);
    client.send(input);
    // The server may have closed already, because of what it was sent.
    let _ = client.shutdown(Shutdown::Write);
    undated(&client.rest())
}

/// The server answers `input` with exactly `expected`.
#[track_caller]
pub fn check(address: SocketAddr, input: impl AsRef<[u8]>, expected: impl AsRef<str>) {
    let (input, expected) = (input.as_ref(), expected.as_ref());
    let actual = exchange(address, input);
    assert!(
        actual == expected,
        "asked {}\nreceived {}\nexpected {}",
        show(input),
        show(actual.as_bytes()),
        show(expected.as_bytes())
    );
}

/// One reply, read from a connection that may stay open.
#[derive(Debug)]
pub struct Received {
    pub status: u16,
    /// From the status line to the empty line, without the date.
    pub head: String,
    /// Decoded.
    pub body: Vec<u8>,
}

impl Received {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }

    /// The value of a field, by its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Reads one reply with its body.
#[track_caller]
pub fn receive(client: &mut impl Client) -> Received {
    let mut received = receive_head(client);
    if received.field("transfer-encoding") == Some("chunked") {
        while let Some(chunk) = receive_chunk(client) {
            received.body.extend_from_slice(&chunk);
        }
    } else if let Some(length) = received.field("content-length") {
        received.body = vec![0; length.parse().expect("a length")];
        client.read_exact(&mut received.body).expect("the body");
    }
    received
}

/// Reads one reply up to its empty line.
#[track_caller]
pub fn receive_head(client: &mut impl Client) -> Received {
    let head = until(client, b"\r\n\r\n");
    let status = head.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status line in {}", show(&head)));
    Received { status, head: undated(&head), body: Vec::new() }
}

/// The data of the next chunk; `None` after the last one.
#[track_caller]
pub fn receive_chunk(client: &mut impl Client) -> Option<Vec<u8>> {
    let line = until(client, b"\r\n");
    let size = std::str::from_utf8(&line[..line.len() - 2]).unwrap();
    let mut data = vec![0; usize::from_str_radix(size, 16).expect("a chunk size")];
    client.read_exact(&mut data).expect("the chunk's data");
    client.expect("\r\n");
    (!data.is_empty()).then_some(data)
}

/// The next server-sent event, which is a chunk: one without data only says where the client is, or that somebody is there.
#[track_caller]
pub fn receive_event(client: &mut impl Client) -> Option<String> {
    loop {
        let event = String::from_utf8(receive_chunk(client)?).expect("events are text");
        if event.contains("data: ") {
            return Some(event);
        }
    }
}

/// Reads byte by byte, so that what follows stays where it is.
#[track_caller]
fn until(client: &mut impl Client, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let mut byte = [0];
        match client.read(&mut byte) {
            Ok(1) => read.push(byte[0]),
            stop => panic!("{stop:?} after {}", show(&read)),
        }
    }
    read
}

//! HTTP by hand on httparse, for the peers that are a bare runtime: what a careful program of two hundred lines does.
//!
//! It never does I/O: the runtime reads, calls `receive`, writes `output`, then the pieces of a long body. It keeps no
//! timeouts and checks of a head only what httparse checks. Read `bin/tokio_hand.rs` for the loop around it.

use std::io::Write;
use std::time::{Duration, SystemTime};

use crate::site::{self, Message, Pieces};

/// Fields a head may have.
const FIELDS_MAX: usize = 64;
/// A head that is longer closes the connection.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Room for the replies of a pipelined burst.
const OUTPUT_BYTES: usize = 4096;

/// What the runtime shall do after it has written `output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read more.
    Read,
    /// Write the slices of `next_piece`, then call `resume`.
    Pieces,
    /// Close: the peer asked for it, or sent what is not HTTP.
    Close,
}

/// One connection.
pub struct Session {
    /// Received and not yet consumed: the beginning of a head, or what waits behind a long reply.
    tail: Vec<u8>,
    /// What is ready to be written; the runtime clears it.
    pub output: Vec<u8>,
    /// Body bytes of an upload that are still to come, and how many it has in all.
    upload: Option<(usize, usize)>,
    pieces: Option<Pieces>,
    date: Date,
}

impl Session {
    pub fn new() -> Self {
        Session {
            tail: Vec::new(),
            output: Vec::with_capacity(OUTPUT_BYTES),
            upload: None,
            pieces: None,
            date: Date::default(),
        }
    }

    /// Takes what was read. Parses in place and copies only what is left over.
    pub fn receive(&mut self, received: &[u8]) -> Next {
        self.date.refresh();
        if self.tail.is_empty() {
            let (consumed, next) = self.consume(received);
            self.tail.extend_from_slice(&received[consumed..]);
            next
        } else {
            self.tail.extend_from_slice(received);
            self.resume()
        }
    }

    /// Goes on with what is left of earlier reads, after the pieces of a long body are written.
    pub fn resume(&mut self) -> Next {
        let mut tail = std::mem::take(&mut self.tail);
        let (consumed, next) = self.consume(&tail);
        tail.drain(..consumed);
        self.tail = tail;
        next
    }

    /// The next part of a long body; `None` at its end.
    pub fn next_piece(&mut self) -> Option<&'static [u8]> {
        let piece = self.pieces.as_mut()?.next_slice();
        if piece.is_none() {
            self.pieces = None;
        }
        piece
    }

    /// Answers all requests that `input` holds; returns the bytes it used.
    fn consume(&mut self, input: &[u8]) -> (usize, Next) {
        let mut at = 0;
        loop {
            if let Some((left, total)) = self.upload {
                let here = left.min(input.len() - at);
                at += here;
                if here < left {
                    self.upload = Some((left - here, total));
                    return (at, Next::Read);
                }
                self.upload = None;
                self.text(total.to_string().as_bytes());
            }
            let rest = &input[at..];
            if rest.is_empty() {
                return (at, Next::Read);
            }
            match self.answer(rest) {
                Parsed::Complete {
                    head_bytes,
                    next: Next::Read,
                } => at += head_bytes,
                Parsed::Complete { head_bytes, next } => return (at + head_bytes, next),
                Parsed::Partial if rest.len() <= HEAD_BYTES_MAX => return (at, Next::Read),
                Parsed::Partial | Parsed::Malformed => return (at, Next::Close),
            }
        }
    }

    /// Parses one head and answers it; an upload is answered when its body is complete.
    fn answer(&mut self, input: &[u8]) -> Parsed {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let head_bytes = match request.parse(input) {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) => return Parsed::Partial,
            Err(_) => return Parsed::Malformed,
        };
        let mut length = None;
        let mut next = Next::Read;
        for field in request.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                length = std::str::from_utf8(field.value)
                    .ok()
                    .and_then(|value| value.parse().ok());
                if length.is_none() {
                    return Parsed::Malformed;
                }
            } else if field.name.eq_ignore_ascii_case("connection") {
                if field.value.eq_ignore_ascii_case(b"close") {
                    next = Next::Close;
                }
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                // Nobody sends it here; to guess at the body's end would be worse than to close.
                return Parsed::Malformed;
            }
        }
        let path = request.path.unwrap_or("");
        match (request.method, path) {
            (Some("POST"), "/upload") => {
                let length = length.unwrap_or(0);
                self.upload = Some((length, length));
                return Parsed::Complete {
                    head_bytes,
                    next: Next::Read,
                };
            }
            _ if length.unwrap_or(0) > 0 => return Parsed::Malformed,
            (Some("GET"), "/plaintext") => self.text(site::PLAINTEXT.as_bytes()),
            (Some("GET"), "/json") => {
                let json = Message::new().serialise();
                self.reply("200 OK", site::JSON, json.len());
                self.output.extend_from_slice(&json);
            }
            (Some("GET"), path) if let Some(bytes) = site::bytes_asked(path) => {
                self.reply("200 OK", site::OCTETS, bytes);
                self.pieces = Some(Pieces::new(bytes));
                next = Next::Pieces;
            }
            _ => {
                self.reply("404 Not Found", site::TEXT, site::NOT_FOUND.len());
                self.output.extend_from_slice(site::NOT_FOUND.as_bytes());
            }
        }
        Parsed::Complete { head_bytes, next }
    }

    fn text(&mut self, body: &[u8]) {
        self.reply("200 OK", site::TEXT, body.len());
        self.output.extend_from_slice(body);
    }

    /// The same fields in the same order as Ringmill's.
    fn reply(&mut self, status: &str, media_type: &str, body_bytes: usize) {
        let output = &mut self.output;
        for part in ["HTTP/1.1 ", status, "\r\nserver: ", site::SERVER, "\r\ndate: "] {
            output.extend_from_slice(part.as_bytes());
        }
        output.extend_from_slice(&self.date.text);
        for part in ["\r\ncontent-type: ", media_type, "\r\ncontent-length: "] {
            output.extend_from_slice(part.as_bytes());
        }
        write!(output, "{body_bytes}\r\n\r\n").expect("writing to a Vec cannot fail");
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

enum Parsed {
    Complete { head_bytes: usize, next: Next },
    Partial,
    Malformed,
}

/// The Date field, rendered when the second changes.
struct Date {
    second: u64,
    text: [u8; 29],
}

impl Default for Date {
    fn default() -> Self {
        Date {
            second: u64::MAX,
            text: [b' '; 29],
        }
    }
}

impl Date {
    fn refresh(&mut self) {
        let second = now_second();
        if second != self.second {
            self.second = second;
            let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            self.text.copy_from_slice(text.as_bytes());
        }
    }
}

/// The coarse clock is a read of memory: cheap enough to ask once a read.
fn now_second() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid memory for the kernel to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `step` bytes and returns all output and the last wish.
    fn check(input: &[u8], step: usize) -> (String, Next) {
        let mut session = Session::new();
        let mut all = Vec::new();
        let mut next = Next::Read;
        for piece in input.chunks(step) {
            next = session.receive(piece);
            loop {
                all.append(&mut session.output);
                if next != Next::Pieces {
                    break;
                }
                while let Some(piece) = session.next_piece() {
                    all.extend_from_slice(piece);
                }
                next = session.resume();
            }
            if next == Next::Close {
                break;
            }
        }
        (String::from_utf8(all).unwrap(), next)
    }

    #[test]
    fn however_it_is_cut_the_replies_are_the_same() {
        let input = b"GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n\
            POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
            GET /bytes/70000 HTTP/1.1\r\nHost: x\r\n\r\n\
            GET /json HTTP/1.1\r\nHost: x\r\n\r\n\
            GET /none HTTP/1.1\r\nHost: x\r\n\r\n";
        let (whole, next) = check(input, input.len());
        assert_eq!(next, Next::Read);
        let bodies = |text: &str| {
            text.split("HTTP/1.1 ")
                .skip(1)
                .map(|reply| {
                    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
                    (head.lines().next().unwrap().to_owned(), body.len())
                })
                .collect::<Vec<_>>()
        };
        let expected = [
            ("200 OK", 13),
            ("200 OK", 1),
            ("200 OK", 70_000),
            ("200 OK", 27),
            ("404 Not Found", 9),
        ];
        let expected = expected.map(|(status, length)| (status.to_owned(), length));
        assert_eq!(bodies(&whole), expected);
        for step in [1, 7, 50] {
            assert_eq!(bodies(&check(input, step).0), expected, "{step}");
        }
    }

    #[test]
    fn the_reply_has_the_size_of_the_blind_one() {
        let (reply, _) = check(b"GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n", usize::MAX);
        assert_eq!(reply.len(), crate::blind::REPLY.len());
    }

    #[test]
    fn what_is_not_http_closes() {
        assert_eq!(check(b"\x01\x02\r\n\r\n", 64).1, Next::Close);
        assert_eq!(
            check(b"GET /plaintext HTTP/1.1\r\nConnection: close\r\n\r\n", 64).1,
            Next::Close
        );
        assert_eq!(
            check(b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 64).1,
            Next::Close
        );
    }
}

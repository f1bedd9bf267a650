//! The client's side of HTTP/1.1: the request it sends and a check that a reply is a complete 200.
//!
//! It never follows redirects, decodes chunks or keeps more than 64 KiB of a reply.

use std::net::SocketAddrV4;

/// Longest reply a client accepts, head and body.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// The request of the clients written here; the same fields as wrk sends.
pub fn get_request(path: &str, address: SocketAddrV4) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
}

#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Partial,
    /// Exactly one reply with status 200 and the length it announced.
    Complete,
    /// Not a 200, no usable Content-Length, too long, or bytes after the end.
    Malformed,
}

/// Judges all bytes received so far.
pub fn check_reply(received: &[u8]) -> Progress {
    const STATUS: &[u8] = b"HTTP/1.1 200";
    let compared = STATUS.len().min(received.len());
    if received[..compared] != STATUS[..compared] || received.len() > REPLY_BYTES_MAX {
        return Progress::Malformed;
    }
    let Some(head_end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Progress::Partial;
    };
    let Some(body_bytes) = content_length(&received[..head_end]) else {
        return Progress::Malformed;
    };
    match received.len().cmp(&(head_end + 4 + body_bytes)) {
        std::cmp::Ordering::Less => Progress::Partial,
        std::cmp::Ordering::Equal => Progress::Complete,
        std::cmp::Ordering::Greater => Progress::Malformed,
    }
}

/// The value of the only Content-Length field of a head, or nothing if it is absent, repeated or not a small number.
fn content_length(head: &[u8]) -> Option<usize> {
    let mut found = None;
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        if !line[..colon].eq_ignore_ascii_case(b"content-length") {
            continue;
        }
        let value = std::str::from_utf8(&line[colon + 1..]).ok()?;
        let value = value.trim().parse().ok()?;
        if found.replace(value).is_some() || value > REPLY_BYTES_MAX {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blind::REPLY;

    fn check(received: &[u8], expected: Progress) {
        assert_eq!(
            check_reply(received),
            expected,
            "{}",
            String::from_utf8_lossy(received)
        );
    }

    #[test]
    fn the_blind_reply_is_complete_only_at_its_end() {
        for end in 0..REPLY.len() {
            check(&REPLY[..end], Progress::Partial);
        }
        check(REPLY, Progress::Complete);
        check(&[REPLY, b"x"].concat(), Progress::Malformed);
    }

    #[test]
    fn anything_but_a_measured_200_is_malformed() {
        check(b"HTTP/1.1 404 Not Found\r\n", Progress::Malformed);
        check(b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n", Progress::Malformed);
        check(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            Progress::Malformed,
        );
        check(
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            Progress::Malformed,
        );
        check(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Progress::Complete,
        );
    }
}

//! What frames a reply in HTTP/1.1: bytes onto the end of a buffer (RFC 9112). Pure.

use crate::http::status::{reason, status_line};

/// The field that announces a body in chunks (RFC 9112, 6.1).
pub(crate) const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";

/// What comes before the trailers of a body in chunks (RFC 9112, 7.1).
#[cfg(feature = "tower")]
pub(crate) const LAST_CHUNK_SIZE: &[u8] = b"0\r\n";

/// The end of a body in chunks, without trailers (RFC 9112, 7.1).
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The status line (RFC 9112, 4).
pub(crate) fn write_status_line(buffer: &mut Vec<u8>, status: u16) {
    buffer.extend_from_slice(&status_line(status));
    buffer.extend_from_slice(reason(status).as_bytes());
    buffer.extend_from_slice(b"\r\n");
}

/// A field line (RFC 9112, 5). Callers have looked at both parts: neither has a byte that could split the reply.
pub(crate) fn write_field(buffer: &mut Vec<u8>, name: &str, value: &str) {
    buffer.extend_from_slice(name.as_bytes());
    buffer.extend_from_slice(b": ");
    buffer.extend_from_slice(value.as_bytes());
    buffer.extend_from_slice(b"\r\n");
}

/// The field that announces a body of so many bytes (RFC 9112, 6.2).
pub(crate) fn write_length(buffer: &mut Vec<u8>, length: u64) {
    let mut digits = itoa::Buffer::new();
    buffer.extend_from_slice(b"content-length: ");
    buffer.extend_from_slice(digits.format(length).as_bytes());
    buffer.extend_from_slice(b"\r\n");
}

/// The end of a head, with what there is to say of the connection: HTTP/1.1 keeps it unless told otherwise, HTTP/1.0
/// closes it (RFC 9112, 9.3).
pub(crate) fn head_end(keep_alive: bool, http10: bool) -> &'static [u8] {
    match (keep_alive, http10) {
        (true, false) => b"\r\n",
        (true, true) => b"connection: keep-alive\r\n\r\n",
        (false, _) => b"connection: close\r\n\r\n",
    }
}

/// One chunk (RFC 9112, 7.1). An empty one would be the end: callers leave it out.
pub(crate) fn write_chunk(buffer: &mut Vec<u8>, bytes: &[u8]) {
    write_chunk_size(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
    buffer.extend_from_slice(b"\r\n");
}

/// What comes before the data of a chunk; CRLF comes behind it.
pub(crate) fn write_chunk_size(buffer: &mut Vec<u8>, size: usize) {
    let mut hex = [0; 16];
    let (mut rest, mut at) = (size, hex.len());
    while rest > 0 {
        at -= 1;
        hex[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    buffer.extend_from_slice(&hex[at..]);
    buffer.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks() {
        for (len, size) in [(1, "1"), (15, "f"), (16, "10"), (4096, "1000")] {
            let mut buffer = Vec::new();
            write_chunk(&mut buffer, &vec![b'x'; len]);
            assert_eq!(buffer, [size.as_bytes(), b"\r\n", &vec![b'x'; len], b"\r\n"].concat());
        }
    }
}

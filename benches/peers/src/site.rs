//! What every peer serves: the same paths, the same bodies, the same header fields as `ringmill serve`.
//!
//! `/plaintext`, `/json`, `/bytes/N` and `POST /upload`. It knows no framework; each peer adapts it to its own.

use bytes::Bytes;
use serde::Serialize;

pub const SERVER: &str = "ringmill";
pub const TEXT: &str = "text/plain";
pub const JSON: &str = "application/json";
pub const OCTETS: &str = "application/octet-stream";
pub const PLAINTEXT: &str = "Hello, World!";
pub const NOT_FOUND: &str = "not found";

/// The largest body that peers hand over in one piece; longer ones stream in pieces of this size.
pub const PIECE_BYTES: usize = 64 * 1024;

/// The body of `/json`, serialised anew for every request.
#[derive(Serialize)]
pub struct Message {
    message: &'static str,
}

impl Message {
    pub fn new() -> Self {
        Message { message: PLAINTEXT }
    }

    pub fn serialise(&self) -> Vec<u8> {
        // Room for the whole message, so that serialising does not grow it.
        let mut json = Vec::with_capacity(32);
        serde_json::to_writer(&mut json, self).expect("one string field into memory");
        json
    }
}

impl Default for Message {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes of `/bytes/N`: byte i is PATTERN[i mod its length]. ASCII, so that it is also text.
pub static PATTERN: [u8; PIECE_BYTES] = pattern();

const fn pattern() -> [u8; PIECE_BYTES] {
    const LINE: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n";
    let mut pattern = [0; PIECE_BYTES];
    let mut index = 0;
    while index < PIECE_BYTES {
        pattern[index] = LINE[index % LINE.len()];
        index += 1;
    }
    pattern
}

/// The N of `/bytes/N`.
pub fn bytes_asked(path: &str) -> Option<usize> {
    path.strip_prefix("/bytes/")?.parse().ok()
}

/// A body in pieces that are never copied. A body of up to `PIECE_BYTES` is one piece.
pub struct Pieces {
    left: usize,
}

impl Pieces {
    pub fn new(bytes: usize) -> Self {
        Pieces { left: bytes }
    }

    pub fn next_slice(&mut self) -> Option<&'static [u8]> {
        let length = self.left.min(PIECE_BYTES);
        self.left -= length;
        (length > 0).then(|| &PATTERN[..length])
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.next_slice().map(Bytes::from_static)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up() {
        for bytes in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            assert_eq!(Pieces::new(bytes).map(|piece| piece.len()).sum::<usize>(), bytes);
        }
        assert_eq!(bytes_asked("/bytes/12"), Some(12));
        assert_eq!(bytes_asked("/bytes/"), None);
        assert_eq!(bytes_asked("/plaintext"), None);
    }

    #[test]
    fn the_message_is_ringmills() {
        assert_eq!(Message::new().serialise(), br#"{"message":"Hello, World!"}"#);
    }
}

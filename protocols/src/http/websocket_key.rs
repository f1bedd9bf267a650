//! What a handshake of WebSocket is proved by (RFC 6455, 4.1 and 4.2.2): for who answers one, and for who asks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What proves that the handshake was understood (RFC 6455, 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    let mut hash = sha1_smol::Sha1::from(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.digest().bytes())
}

/// The key of who asks, of bytes that were chosen at random.
#[cfg(feature = "proxy")]
pub(crate) fn key_of(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        #[cfg(feature = "proxy")]
        assert_eq!(key_of(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
    }
}

//! Names of fields as servers behind CGI or WSGI tell them apart: not by their case, and `_` is `-`. Pure.

/// Whether a name is this one, in any case and with `_` for `-`. `pattern` is in lower case. All of a name of its length is looked at:
/// without a way out after each byte the bytes are compared together.
#[inline(always)]
pub(super) fn is(name: &[u8], pattern: &str) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    let pairs = name.iter().map(plain).zip(pattern.bytes());
    name.len() == pattern.len() && pairs.fold(0, |all, (byte, wanted)| all | (byte ^ wanted)) == 0
}

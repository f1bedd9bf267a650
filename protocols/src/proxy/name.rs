//! Names of fields as servers behind CGI or WSGI tell them apart: not by their case, and `_` is `-`. Pure.

/// Whether a name is this one, in any case and with `_` for `-`. `pattern` is in lower case.
pub(super) fn is(name: &[u8], pattern: &str) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == pattern.len() && name.iter().map(plain).eq(pattern.bytes())
}

//! Which fields a handler may write.

/// Whether a field can stand in a reply, and is not the server's business (framing, Connection): a peer's data cannot split one.
pub(super) fn is_field(name: &str, value: &str) -> bool {
    let token = |byte: u8| {
        matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
            || byte.is_ascii_alphanumeric()
    };
    let ours = match name.len() {
        4 => name.eq_ignore_ascii_case("date"),
        6 => name.eq_ignore_ascii_case("server"),
        10 => name.eq_ignore_ascii_case("connection"),
        14 => name.eq_ignore_ascii_case("content-length"),
        17 => name.eq_ignore_ascii_case("transfer-encoding"),
        _ => false,
    };
    let plain = |byte: u8| (byte >= b' ' && byte != 0x7f) || byte == b'\t';
    !ours && !name.is_empty() && name.bytes().all(token) && value.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_could_split_a_reply_are_refused() {
        let check = |name, value, expected| assert_eq!(is_field(name, value), expected, "{name}: {value}");
        check("x-a", "b\tc", true);
        check("x-a", "", true);
        check("x-a", "b\r\nc: d", false);
        check("x-a", "b\0", false);
        check("x a", "b", false);
        check("", "b", false);
        check("Content-Length", "5", false);
        check("transfer-encoding", "chunked", false);
        check("Connection", "upgrade", false);
        check("Date", "today", false);
        check("server", "mine", false);
    }
}

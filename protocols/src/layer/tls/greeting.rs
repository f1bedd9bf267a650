//! What the first bytes of an accepted connection are: TLS, or HTTP that has come to the wrong port. Pure.

/// The longest method of HTTP that is recognised without TLS.
const METHOD_BYTES_MAX: usize = 20;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Too few to tell.
    Short,
    /// A request of HTTP, without TLS.
    Plain,
    /// TLS, or what rustls answers with an alert.
    Other,
}

pub(super) fn greeting(input: &[u8]) -> Greeting {
    let method_bytes = input.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    match input.get(method_bytes) {
        None if method_bytes <= METHOD_BYTES_MAX => Greeting::Short,
        Some(b' ') if (3..=METHOD_BYTES_MAX).contains(&method_bytes) => Greeting::Plain,
        _ => Greeting::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_without_tls_is_recognised() {
        let check =
            |input: &[u8], expected| assert_eq!(greeting(input), expected, "{:?}", input.escape_ascii());
        check(b"GET / HTTP/1.1\r\n", Greeting::Plain);
        check(b"OPTIONS * HTTP/1.1\r\n", Greeting::Plain);
        check(b"GE", Greeting::Short);
        check(b"GET", Greeting::Short);
        check(b"GET\r\n", Greeting::Other);
        check(b"A B", Greeting::Other);
        check(b"SSH-2.0-OpenSSH\r\n", Greeting::Other);
        check(&[b'A'; METHOD_BYTES_MAX + 1], Greeting::Other);
        // A record with a handshake message, and the ClientHello of SSL 2.
        check(&[0x16, 3, 1], Greeting::Other);
        check(&[0x80, 0x2e, 1], Greeting::Other);
    }
}

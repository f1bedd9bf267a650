//! Status codes (RFC 9110, 15): their phrases, and which of them have no body.

/// Has no body (RFC 9110, 15.3.6), but no framing of its own either: a client waits for the length it declares.
pub(super) const RESET_CONTENT: u16 = 205;

/// Statuses that never have a body (RFC 9110, 6.4.1).
pub(super) fn is_bodiless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | RESET_CONTENT | 304)
}

/// A status line up to its phrase.
pub(crate) fn status_line(status: u16) -> [u8; 13] {
    let mut line = *b"HTTP/1.1 000 ";
    for (n, scale) in [100, 10, 1].into_iter().enumerate() {
        line[9 + n] = b'0' + (status / scale % 10) as u8;
    }
    line
}

/// Reason phrases (RFC 9110, 15). Unknown ones are empty, as the grammar allows.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(&status_line(404), b"HTTP/1.1 404 ");
        assert_eq!(&status_line(599), b"HTTP/1.1 599 ");
    }
}

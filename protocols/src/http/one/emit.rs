//! What frames a reply in HTTP/1.1: bytes onto the end of a buffer (RFC 9112). Pure.

/// One chunk (RFC 9112, 7.1). An empty one would be the end: callers leave it out.
pub(crate) fn write_chunk(buffer: &mut Vec<u8>, bytes: &[u8]) {
    write_chunk_size(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
    buffer.extend_from_slice(b"\r\n");
}

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

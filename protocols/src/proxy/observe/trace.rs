//! The field `traceparent` (W3C Trace Context, <https://www.w3.org/TR/trace-context/>, section 3.2). Pure.

/// Where a request is in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    /// The trace, never all zeros.
    pub(crate) trace: [u8; 16],
    /// The step that asks for this one, never all zeros.
    pub(crate) parent: [u8; 8],
    pub(crate) flags: u8,
}

/// The bytes of a field of version 00.
const BYTES: usize = 55;
/// The caller may have recorded the trace.
pub(crate) const SAMPLED: u8 = 1;
/// Flags that have a meaning: sampled, and random, which goes with the trace (Trace Context Level 2). Others are to be zero.
const FLAGS: u8 = 0b11;

impl TraceParent {
    /// Reads a field; `None` where it is malformed. One of a later version is read as far as it is known (section 3.2.4).
    pub(crate) fn read(value: &[u8]) -> Option<TraceParent> {
        let (known, more) = value.split_at_checked(BYTES)?;
        let version = hex::<1>(&known[..2])?[0];
        let is_later = version > 0 && version < 0xff;
        if !(more.is_empty() && version == 0 || is_later && (more.is_empty() || more[0] == b'-')) {
            return None;
        }
        if [2, 35, 52].iter().any(|at| known[*at] != b'-') {
            return None;
        }
        let (trace, parent) = (hex(&known[3..35])?, hex(&known[36..52])?);
        let flags = hex::<1>(&known[53..])?[0] & FLAGS;
        (trace != [0; 16] && parent != [0; 8]).then_some(TraceParent { trace, parent, flags })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"00-");
        write_hex(out, &self.trace);
        out.push(b'-');
        write_hex(out, &self.parent);
        out.push(b'-');
        write_hex(out, &[self.flags]);
    }
}

/// Two digits in lower case a byte, as the format wants.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The digits of 16 bytes.
pub(crate) fn hex_of(bytes: [u8; 16]) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&digits_of(byte));
    }
    digits
}

fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    bytes.iter().for_each(|byte| out.extend_from_slice(&digits_of(*byte)));
}

fn digits_of(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let check = |value: &str, expected: Option<&str>| {
            let read = TraceParent::read(value.as_bytes()).map(|read| {
                let mut out = Vec::new();
                read.write(&mut out);
                String::from_utf8(out).unwrap()
            });
            assert_eq!(read.as_deref(), expected, "{value}");
        };
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = format!("00-{trace}-{parent}-01");
        check(&good, Some(&good));
        check(&format!("00-{trace}-{parent}-00"), Some(&format!("00-{trace}-{parent}-00")));
        check(&format!("00-{trace}-{parent}-ff"), Some(&format!("00-{trace}-{parent}-03")));
        // Later versions begin alike.
        check(&format!("cc-{trace}-{parent}-01"), Some(&good));
        check(&format!("cc-{trace}-{parent}-01-what-comes"), Some(&good));
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-1"),
            format!("00-{trace}-{parent}-01-"),
            format!("00-{trace}-{parent}-01.what"),
            format!("cc-{trace}-{parent}-01.what"),
            format!("ff-{trace}-{parent}-01"),
            format!("0g-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{}-01", parent.to_uppercase()),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00_{trace}-{parent}-01"),
            format!("00-{trace}_{parent}-01"),
            format!("00-{trace}-{parent}_01"),
            format!("00-{trace}-{parent}-0 "),
            format!("00-{}-{parent}-01", &trace[1..]),
            format!("00-{trace}-{parent}-\u{e4}"),
        ] {
            check(&bad, None);
        }
    }
}

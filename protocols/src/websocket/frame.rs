//! Frames (RFC 6455, 5.2): bytes to headers and headers to bytes, masks, and what a Close frame says. Pure.
//!
//! Every rule is judged at the first byte that breaks it, in the order of the bytes, so that cutting the input changes nothing.

use bytes::Bytes;
use std::fmt;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of a message.
    Continuation = 0,
    /// A message of text, or its first part.
    Text = 1,
    /// A message of bytes, or its first part.
    Binary = 2,
    /// The sender ends the connection.
    Close = 8,
    /// A question that a Pong answers.
    Ping = 9,
    /// The answer to a Ping, or a sign of life.
    Pong = 10,
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub opcode: Opcode,
    /// It is the last of its message.
    pub is_final: bool,
    /// RSV1: the message that begins here is compressed (RFC 7692, 6).
    pub is_deflated: bool,
    /// What its payload is masked with; zeros where it is not.
    pub mask: [u8; 4],
    /// The length of its payload.
    pub payload_bytes: u64,
    /// Its own length.
    pub bytes: usize,
}

/// What the next header is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Frames come from a client, so they are masked (RFC 6455, 5.1).
    pub from_client: bool,
    /// permessage-deflate was agreed on.
    pub may_deflate: bool,
    /// A message has begun and is not complete.
    pub in_message: bool,
    /// The message may have so many more bytes.
    pub bytes_max: u64,
}

/// What the front of the input holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header.
    Complete(Header),
    /// A part of one: so many bytes are needed before more can be said.
    Partial(usize),
    /// It breaks a rule.
    Malformed(Violation),
}

/// A rule that a peer broke, with what a Close frame says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The status code (RFC 6455, 7.4.1).
    pub code: u16,
    /// The rule, in at most 123 bytes.
    pub reason: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.code)
    }
}

/// 1002 (RFC 6455, 7.4.1).
pub(super) const fn protocol(reason: &'static str) -> Violation {
    Violation { code: 1002, reason }
}

/// Text that is none.
pub(super) const NOT_UTF8: Violation = Violation { code: 1007, reason: "text is not UTF-8" };
/// A message beyond the limit.
pub(super) const TOO_LARGE: Violation = Violation { code: 1009, reason: "the message is too large" };

/// The most bytes a control frame carries (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// The most bytes of a reason: a Close frame begins with its code.
const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Reads a header from the front of `input`.
#[inline]
pub fn parse(input: &[u8], rules: &Rules) -> Parsed {
    let Some(&first) = input.first() else { return Parsed::Partial(2) };
    let (opcode, is_final, is_deflated) = match first_byte(first, rules) {
        Ok(parts) => parts,
        Err(violation) => return Parsed::Malformed(violation),
    };
    let Some(&second) = input.get(1) else { return Parsed::Partial(2) };
    let is_masked = second & 0x80 != 0;
    if is_masked != rules.from_client {
        return Parsed::Malformed(protocol(if is_masked {
            "a server does not mask (RFC 6455, 5.1)"
        } else {
            "a client masks every frame (RFC 6455, 5.1)"
        }));
    }
    let short = second & 0x7f;
    if usize::from(short) > CONTROL_BYTES_MAX && is_control(opcode) {
        return Parsed::Malformed(protocol("a control frame has at most 125 bytes (RFC 6455, 5.5)"));
    }
    let (payload_bytes, at) = match short {
        126 => match long::<2>(input, 126) {
            Ok(Some(length)) => (length, 4),
            Ok(None) => return Parsed::Partial(4),
            Err(violation) => return Parsed::Malformed(violation),
        },
        127 => match long::<8>(input, 0x1_0000) {
            Ok(Some(length)) => (length, 10),
            Ok(None) => return Parsed::Partial(10),
            Err(violation) => return Parsed::Malformed(violation),
        },
        short => (u64::from(short), 2),
    };
    if !is_control(opcode) && payload_bytes > rules.bytes_max {
        return Parsed::Malformed(TOO_LARGE);
    }
    if !is_masked {
        return Parsed::Complete(Header {
            opcode,
            is_final,
            is_deflated,
            mask: [0; 4],
            payload_bytes,
            bytes: at,
        });
    }
    match input.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(&mask) => {
            Parsed::Complete(Header { opcode, is_final, is_deflated, mask, payload_bytes, bytes: at + 4 })
        }
        None => Parsed::Partial(at + 4),
    }
}

#[inline]
fn first_byte(byte: u8, rules: &Rules) -> Result<(Opcode, bool, bool), Violation> {
    let is_final = byte & 0x80 != 0;
    let is_deflated = byte & 0x40 != 0;
    if byte & 0x30 != 0 {
        return Err(protocol("RSV2 or RSV3 is set (RFC 6455, 5.2)"));
    }
    let opcode = match byte & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(protocol("a reserved opcode (RFC 6455, 5.2)")),
    };
    if is_control(opcode) && !is_final {
        return Err(protocol("a control frame in fragments (RFC 6455, 5.5)"));
    }
    let begins = matches!(opcode, Opcode::Text | Opcode::Binary);
    if is_deflated && !(rules.may_deflate && begins) {
        return Err(protocol("RSV1 is set where nothing is compressed (RFC 7692, 6)"));
    }
    if begins && rules.in_message {
        return Err(protocol("a message within another one (RFC 6455, 5.4)"));
    }
    if opcode == Opcode::Continuation && !rules.in_message {
        return Err(protocol("more of a message that has not begun (RFC 6455, 5.4)"));
    }
    Ok((opcode, is_final, is_deflated))
}

/// A length of `N` bytes behind the first two; `None` if it is not all there. Shorter forms must be used for less than `bytes_min`.
#[inline]
fn long<const N: usize>(input: &[u8], bytes_min: u64) -> Result<Option<u64>, Violation> {
    let here = &input[2..input.len().min(2 + N)];
    if N == 8 && here.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(protocol("a length with its top bit set (RFC 6455, 5.2)"));
    }
    if here.len() < N {
        return Ok(None);
    }
    let length = here.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    if length < bytes_min {
        return Err(protocol("a length in a longer form than it needs (RFC 6455, 5.2)"));
    }
    Ok(Some(length))
}

/// Whether it is about the connection.
#[inline]
pub fn is_control(opcode: Opcode) -> bool {
    opcode as u8 & 8 != 0
}

/// Masks or unmasks a part of a payload that begins at its byte `at` (RFC 6455, 5.3).
#[inline]
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4], at: u64) {
    let mut mask = mask;
    mask.rotate_left((at & 3) as usize);
    let word = u32::from_ne_bytes(mask);
    let wide = u128::from(word) * 0x1_0000_0001_0000_0001_0000_0001;
    let mut chunks = bytes.chunks_exact_mut(16);
    for chunk in &mut chunks {
        if let Some(chunk) = chunk.first_chunk_mut::<16>() {
            *chunk = (u128::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A message that is longer is sent in frames of this size.
pub const FRAGMENT_BYTES: usize = 64 << 10;

/// Appends the header of a frame that is not masked, as servers send it.
#[inline]
pub fn write_header(
    buffer: &mut Vec<u8>,
    opcode: Opcode,
    is_final: bool,
    is_deflated: bool,
    payload_bytes: usize,
) {
    write_any_header(buffer, opcode, is_final, is_deflated, payload_bytes, 0);
}

/// The only frame of a message that is not masked, in a buffer of its size, for many to share.
pub fn to_all(opcode: Opcode, is_deflated: bool, payload: &[u8]) -> Bytes {
    let header_bytes = match payload.len() {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    let mut frame = Vec::with_capacity(header_bytes + payload.len());
    write_header(&mut frame, opcode, true, is_deflated, payload.len());
    frame.extend_from_slice(payload);
    frame.into()
}

/// Appends a frame as clients send it: masked.
pub fn write_masked(
    buffer: &mut Vec<u8>,
    opcode: Opcode,
    is_final: bool,
    is_deflated: bool,
    mask: [u8; 4],
    payload: &[u8],
) {
    write_any_header(buffer, opcode, is_final, is_deflated, payload.len(), 0x80);
    buffer.extend_from_slice(&mask);
    let from = buffer.len();
    buffer.extend_from_slice(payload);
    apply_mask(&mut buffer[from..], mask, 0);
}

#[inline]
fn write_any_header(
    buffer: &mut Vec<u8>,
    opcode: Opcode,
    is_final: bool,
    is_deflated: bool,
    bytes: usize,
    mask_bit: u8,
) {
    let first = u8::from(is_final) << 7 | u8::from(is_deflated) << 6 | opcode as u8;
    match bytes {
        0..=125 => buffer.extend_from_slice(&[first, mask_bit | bytes as u8]),
        126..=0xffff => {
            let [high, low] = (bytes as u16).to_be_bytes();
            buffer.extend_from_slice(&[first, mask_bit | 126, high, low]);
        }
        _ => {
            buffer.extend_from_slice(&[first, mask_bit | 127]);
            buffer.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
}

/// What a Close frame says: its code, if it has one, and its reason (RFC 6455, 5.5.1 and 7.4).
pub fn parse_close(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok((None, "")),
            _ => Err(protocol("half a close code (RFC 6455, 5.5.1)")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(protocol("a close code that is not to be sent (RFC 6455, 7.4)"));
    }
    let reason = str::from_utf8(reason).map_err(|_| NOT_UTF8)?;
    Ok((Some(code), reason))
}

/// Whether a close code may stand in a frame: those that RFC 6455 and IANA's registry define, and those for applications.
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends a Close frame. A reason that is too long is cut between two characters.
pub fn write_close(buffer: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let Some(code) = code else { return write_header(buffer, Opcode::Close, true, false, 0) };
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    write_header(buffer, Opcode::Close, true, false, 2 + reason.len());
    buffer.extend_from_slice(&code.to_be_bytes());
    buffer.extend_from_slice(reason.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { from_client: true, may_deflate: false, in_message: false, bytes_max: 1 << 20 };

    #[track_caller]
    fn check(input: &[u8], rules: Rules, expected: &str) {
        let said = |parsed| match parsed {
            Parsed::Complete(header) => format!(
                "{:?}{}{} {}+{}",
                header.opcode,
                if header.is_final { "" } else { "..." },
                if header.is_deflated { " deflated" } else { "" },
                header.bytes,
                header.payload_bytes
            ),
            Parsed::Partial(need) => format!("needs {need}"),
            Parsed::Malformed(violation) => violation.to_string(),
        };
        let whole = said(parse(input, &rules));
        assert!(whole.contains(expected), "{input:02x?}: {whole}");
        // Any front of it is partial, or has the same verdict already.
        for end in 0..input.len() {
            match parse(&input[..end], &rules) {
                Parsed::Partial(need) => assert!(need > end, "{input:02x?} to {end}"),
                parsed => assert_eq!(said(parsed), whole, "{input:02x?} to {end}"),
            }
        }
    }

    #[test]
    fn headers() {
        let deflate = Rules { may_deflate: true, ..RULES };
        let inside = Rules { in_message: true, ..RULES };
        let server = Rules { from_client: false, ..RULES };
        check(&[0x81, 0x85, 1, 2, 3, 4], RULES, "Text 6+5");
        check(&[0x02, 0x80, 1, 2, 3, 4], RULES, "Binary... 6+0");
        check(&[0x82, 0xfe, 0, 126, 1, 2, 3, 4], RULES, "Binary 8+126");
        check(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], RULES, "Binary 14+65536");
        check(&[0x80, 0x80, 1, 2, 3, 4], inside, "Continuation 6+0");
        check(&[0x89, 0xfd, 1, 2, 3, 4], inside, "Ping 6+125");
        check(&[0xc1, 0x80, 1, 2, 3, 4], deflate, "Text deflated 6+0");
        check(&[0x81, 0x05], server, "Text 2+5");
        check(&[0x88], RULES, "needs 2");
        check(&[0x82, 0xfe, 0], RULES, "needs 4");
        check(&[0x82, 0xff, 0], RULES, "needs 10");
    }

    #[test]
    fn headers_that_break_a_rule() {
        let deflate = Rules { may_deflate: true, ..RULES };
        let inside = Rules { in_message: true, ..deflate };
        let server = Rules { from_client: false, ..RULES };
        check(&[0xa1, 0x80], RULES, "RSV2");
        check(&[0x91, 0x80], deflate, "RSV2");
        check(&[0xc1, 0x80], RULES, "RSV1");
        check(&[0xc9, 0x80], deflate, "RSV1");
        check(&[0xc0, 0x80], inside, "RSV1");
        check(&[0x83, 0x80], RULES, "reserved opcode");
        check(&[0x8b, 0x80], RULES, "reserved opcode");
        check(&[0x09, 0x80], RULES, "in fragments");
        check(&[0x89, 0xfe, 0, 126], RULES, "125 bytes");
        check(&[0x81, 0x05], RULES, "masks every frame");
        check(&[0x81, 0x85], server, "does not mask");
        check(&[0x81, 0x80], inside, "within another");
        check(&[0x80, 0x80], RULES, "has not begun");
        check(&[0x82, 0xfe, 0, 125], RULES, "longer form");
        check(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], RULES, "longer form");
        check(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], RULES, "top bit");
        check(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], RULES, "(1009)");
        check(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1], RULES, "(1009)");
    }

    #[test]
    fn masks_of_any_length_from_any_byte() {
        let mask = [0x12, 0x34, 0x56, 0x78];
        for len in 0..70 {
            for at in 0..9_u64 {
                let mut bytes: Vec<u8> = (0..len).collect();
                apply_mask(&mut bytes, mask, at);
                let expected = (0..len).map(|n| n ^ mask[(at as usize + usize::from(n)) % 4]);
                assert_eq!(bytes, expected.collect::<Vec<_>>(), "{len} from {at}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for bytes in [0, 1, 125, 126, 127, 65535, 65536, 100_000] {
            let mut buffer = Vec::new();
            let payload = vec![7; bytes];
            write_masked(&mut buffer, Opcode::Text, true, false, [9, 8, 7, 6], &payload);
            let Parsed::Complete(header) = parse(&buffer, &RULES) else { panic!("{bytes}") };
            assert_eq!((header.payload_bytes, header.bytes + bytes), (bytes as u64, buffer.len()));
            apply_mask(&mut buffer[header.bytes..], header.mask, 0);
            assert_eq!(buffer[header.bytes..], payload);
            let mut buffer = Vec::new();
            write_header(&mut buffer, Opcode::Binary, false, false, bytes);
            let parsed = parse(&buffer, &Rules { from_client: false, ..RULES });
            let expected = Header {
                opcode: Opcode::Binary,
                is_final: false,
                is_deflated: false,
                mask: [0; 4],
                payload_bytes: bytes as u64,
                bytes: buffer.len(),
            };
            assert_eq!(parsed, Parsed::Complete(expected));
        }
    }

    #[test]
    fn close_frames() {
        let check = |payload: &[u8], expected: Result<(Option<u16>, &str), u16>| {
            assert_eq!(parse_close(payload).map_err(|violation| violation.code), expected, "{payload:02x?}");
        };
        check(b"", Ok((None, "")));
        check(b"\x03", Err(1002));
        check(b"\x03\xe8", Ok((Some(1000), "")));
        check(b"\x03\xe8bye", Ok((Some(1000), "bye")));
        check(b"\x03\xe8\xff", Err(1007));
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert_eq!(parse_close(&u16::to_be_bytes(code)), Ok((Some(code), "")));
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            check(&u16::to_be_bytes(code), Err(1002));
        }
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        let written = |code, reason: &str| {
            let mut buffer = Vec::new();
            write_close(&mut buffer, code, reason);
            buffer
        };
        assert_eq!(written(None, "unsaid"), [0x88, 0]);
        assert_eq!(written(Some(1001), "bye"), *b"\x88\x05\x03\xe9bye");
        let long = "a".to_owned() + &"ä".repeat(100);
        let frame = written(Some(4000), &long);
        assert_eq!((frame.len(), frame[1]), (2 + 2 + 123, 125));
        let frame = written(Some(4000), &"ä".repeat(100));
        assert_eq!(parse_close(&frame[2..]), Ok((Some(4000), "ä".repeat(61).as_str())));
    }
}

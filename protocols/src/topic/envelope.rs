//! A publication as the bytes that go to other processes. Pure.
//!
//! ```text
//! "R" | version: 1 | flags: 1 text, 2 event | with an event: length, two bytes, big-endian; its name | the message
//! ```
//!
//! What has another version or other flags is not guessed at: whoever changes what is said here changes the version.

use super::message::{Publication, is_event};
use bytes::Bytes;

const START: u8 = b'R';
const VERSION: u8 = 1;
const TEXT: u8 = 1;
const EVENT: u8 = 2;

/// What an envelope adds to a message, but for the name of its event.
const HEAD_BYTES: usize = 3;

/// Why bytes are no publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It was not published by a Ringmill.
    Foreign,
    /// By one that is newer, or that is a program of its own.
    Version(u8),
    Flags(u8),
    CutShort,
    /// A text or the name of an event that is none.
    NoText,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::Foreign => f.write_str("it was not published by a Ringmill"),
            Unreadable::Version(version) => {
                write!(
                    f,
                    "it is of version {version}, and this program knows {VERSION}: use one version everywhere"
                )
            }
            Unreadable::Flags(flags) => write!(f, "it has flags that nobody knows: {flags:#x}"),
            Unreadable::CutShort => f.write_str("it is cut short"),
            Unreadable::NoText => f.write_str("its text or the name of its event is none"),
        }
    }
}

/// `None` if the name of the event is too long.
pub(super) fn encode(publication: &Publication) -> Option<Bytes> {
    let event = publication.event.as_deref().unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + 2 + event.len() + publication.len());
    let text = if publication.is_text { TEXT } else { 0 };
    bytes.extend([START, VERSION]);
    match &publication.event {
        None => bytes.push(text),
        Some(event) => {
            bytes.push(text | EVENT);
            bytes.extend(u16::try_from(event.len()).ok()?.to_be_bytes());
            bytes.extend(event.as_bytes());
        }
    }
    bytes.extend_from_slice(publication.as_bytes());
    Some(bytes.into())
}

pub(super) fn decode(bytes: &Bytes) -> Result<Publication, Unreadable> {
    let (flags, mut at) = match bytes[..] {
        [START, VERSION, flags, ..] => (flags, HEAD_BYTES),
        [START, VERSION] | [START] => return Err(Unreadable::CutShort),
        [START, version, ..] => return Err(Unreadable::Version(version)),
        _ => return Err(Unreadable::Foreign),
    };
    if flags & !(TEXT | EVENT) != 0 {
        return Err(Unreadable::Flags(flags));
    }
    let mut event = None;
    if flags & EVENT != 0 {
        let Some((length, rest)) = bytes[at..].split_first_chunk() else { return Err(Unreadable::CutShort) };
        let length = usize::from(u16::from_be_bytes(*length));
        let name = rest.get(..length).ok_or(Unreadable::CutShort)?;
        let name = std::str::from_utf8(name).ok().filter(|name| is_event(name)).ok_or(Unreadable::NoText)?;
        event = Some(name.into());
        at += 2 + length;
    }
    let (is_text, bytes) = (flags & TEXT != 0, bytes.slice(at..));
    if is_text && std::str::from_utf8(&bytes).is_err() {
        return Err(Unreadable::NoText);
    }
    let mut publication = Publication::new(is_text, bytes);
    publication.event = event;
    Ok(publication)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_said_is_what_was_meant() {
        let check = |publication: Publication, expected: &[u8]| {
            let bytes = encode(&publication).unwrap();
            assert_eq!(&bytes[..], expected);
            assert_eq!(decode(&bytes), Ok(publication));
        };
        check(Publication::text("ä"), b"R\x01\x01\xc3\xa4");
        check(Publication::binary(&b"\xff\0"[..]), b"R\x01\x00\xff\0");
        check(Publication::text("").with_event("price"), b"R\x01\x03\0\x05price");
        check(Publication::binary(Bytes::new()).with_event(""), b"R\x01\x02\0\0");
        assert_eq!(encode(&Publication::text("").with_event(&"x".repeat(65536))), None);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let check = |bytes: &'static [u8], expected| {
            assert_eq!(decode(&Bytes::from_static(bytes)), Err(expected));
        };
        check(b"", Unreadable::Foreign);
        check(b"hello", Unreadable::Foreign);
        check(b"R", Unreadable::CutShort);
        check(b"R\x01", Unreadable::CutShort);
        check(b"R\x02\x01hello", Unreadable::Version(2));
        check(b"R\x01\x05hello", Unreadable::Flags(5));
        check(b"R\x01\x02\0", Unreadable::CutShort);
        check(b"R\x01\x02\0\x05pric", Unreadable::CutShort);
        check(b"R\x01\x02\0\x03a\nb", Unreadable::NoText);
        check(b"R\x01\x02\0\x01\xff", Unreadable::NoText);
        check(b"R\x01\x01\xff", Unreadable::NoText);
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_as_it_was(mut bytes: Vec<u8>) {
            for (at, known) in [START, VERSION].into_iter().enumerate().take(bytes.len()) {
                bytes[at] = known;
            }
            if bytes.len() > 2 { bytes[2] &= 3; }
            if bytes.len() > 3 { bytes[3] = 0; }
            if bytes.len() > 4 { bytes[4] &= 7; }
            let bytes = Bytes::from(bytes);
            if let Ok(publication) = decode(&bytes) {
                prop_assert_eq!(encode(&publication), Some(bytes));
            }
        }
    }
}

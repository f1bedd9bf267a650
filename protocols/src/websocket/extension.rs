//! The negotiation of permessage-deflate (RFC 7692, 7.1; the grammar is RFC 6455, 9.1). Pure.

use super::options::Deflate;
use std::fmt;

/// What was agreed on for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// What we compress with, as a power of two.
    pub(super) window_bits: u8,
    /// The client asked for a window, so the answer names it.
    says_window: bool,
    /// What we compress may refer to earlier messages...
    pub(super) keeps_ours: bool,
    /// ...and what the client compresses.
    pub(super) keeps_theirs: bool,
}

/// The field is malformed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: bool,
}

/// Chooses from the values of all Sec-WebSocket-Extensions fields; `may_keep` says whether there is a context left for it.
pub(super) fn negotiate<'a>(
    fields: impl Iterator<Item = &'a [u8]>,
    options: Option<&Deflate>,
    may_keep: bool,
) -> Result<Option<Agreement>, Malformed> {
    let mut agreed = None;
    for field in fields {
        let mut text = Text(field);
        while text.has_element() {
            let name = text.token()?;
            let mut offer = Some(Offer::default());
            while text.take(b';') {
                let param = text.token()?;
                let value = if text.take(b'=') { Some(text.value()?) } else { None };
                offer = offer.and_then(|offer| offer.with(param, value.as_deref()));
            }
            if let (None, Some(options), Some(offer)) = (agreed, options, offer)
                && name == b"permessage-deflate"
            {
                agreed = offer.accept(options, may_keep);
            }
            if !text.0.is_empty() && text.0[0] != b',' {
                return Err(Malformed);
            }
        }
    }
    Ok(agreed)
}

impl Offer {
    /// `None` if this parameter cannot be taken, and so the offer cannot (RFC 7692, 7.1).
    fn with(mut self, name: &[u8], value: Option<&[u8]>) -> Option<Offer> {
        let is_first = match (name, value) {
            (b"server_no_context_takeover", None) => {
                !std::mem::replace(&mut self.server_no_context_takeover, true)
            }
            (b"client_no_context_takeover", None) => {
                !std::mem::replace(&mut self.client_no_context_takeover, true)
            }
            (b"server_max_window_bits", Some(bits)) => {
                self.server_max_window_bits.replace(window_bits(bits)?).is_none()
            }
            (b"client_max_window_bits", bits) => {
                bits.map_or(Some(15), window_bits)?;
                !std::mem::replace(&mut self.client_max_window_bits, true)
            }
            _ => false,
        };
        is_first.then_some(self)
    }

    fn accept(self, options: &Deflate, may_keep: bool) -> Option<Agreement> {
        // zlib cannot compress with a window of 256 bytes.
        let asked = self.server_max_window_bits.unwrap_or(15);
        let window_bits = asked.min(options.window_bits.clamp(9, 15));
        (asked >= 9).then_some(Agreement {
            window_bits,
            says_window: self.server_max_window_bits.is_some() || window_bits < 15,
            keeps_ours: may_keep && !self.server_no_context_takeover,
            keeps_theirs: may_keep && !self.client_no_context_takeover,
        })
    }
}

/// 8 to 15, without leading zeros (RFC 7692, 7.1.2.1).
fn window_bits(value: &[u8]) -> Option<u8> {
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

impl Agreement {
    /// Whether this connection needs a compressor or an inflater of its own.
    pub(super) fn keeps_any(&self) -> bool {
        self.keeps_ours || self.keeps_theirs
    }
}

/// What the answer says.
impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("permessage-deflate")?;
        if !self.keeps_ours {
            f.write_str("; server_no_context_takeover")?;
        }
        if !self.keeps_theirs {
            f.write_str("; client_no_context_takeover")?;
        }
        if self.says_window {
            write!(f, "; server_max_window_bits={}", self.window_bits)?;
        }
        Ok(())
    }
}

/// What is left of a field. Blanks go with what stands before them.
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    /// Whether there is one more element of a list; empty ones are none (RFC 9110, 5.6.1.2).
    fn has_element(&mut self) -> bool {
        while let [b' ' | b'\t' | b',', rest @ ..] = self.0 {
            self.0 = rest;
        }
        !self.0.is_empty()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.0.first() == Some(&byte);
        if is_there {
            self.0 = &self.0[1..];
            self.skip_blanks();
        }
        is_there
    }

    fn token(&mut self) -> Result<&'a [u8], Malformed> {
        self.skip_blanks();
        let end = self.0.iter().position(|byte| !is_token(*byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        self.skip_blanks();
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// A token, or a quoted string that is one inside.
    fn value(&mut self) -> Result<Vec<u8>, Malformed> {
        if self.0.first() != Some(&b'"') {
            return self.token().map(<[u8]>::to_vec);
        }
        let mut value = Vec::new();
        let mut rest = &self.0[1..];
        loop {
            rest = match rest {
                [b'"', rest @ ..] => {
                    self.0 = rest;
                    break;
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] if is_token(*byte) => {
                    value.push(*byte);
                    rest
                }
                _ => return Err(Malformed),
            };
        }
        self.skip_blanks();
        if value.is_empty() { Err(Malformed) } else { Ok(value) }
    }
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(field: &str, may_keep: bool, expected: &str) {
        let agreed = negotiate([field.as_bytes()].into_iter(), Some(&Deflate::default()), may_keep);
        let said = match agreed {
            Ok(Some(agreement)) => agreement.to_string(),
            Ok(None) => "none".to_owned(),
            Err(Malformed) => "malformed".to_owned(),
        };
        assert_eq!(said, expected, "{field}");
    }

    const SHARED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn offers_and_what_is_agreed_on() {
        check("permessage-deflate", false, SHARED);
        check("permessage-deflate", true, "permessage-deflate");
        check("permessage-deflate; client_max_window_bits", false, SHARED);
        check("permessage-deflate;client_max_window_bits=10", false, SHARED);
        check("x-other; a=\"b\", permessage-deflate", false, SHARED);
        let windowed = format!("{SHARED}; server_max_window_bits=10");
        check("permessage-deflate; server_max_window_bits=10", false, &windowed);
        check("permessage-deflate; server_max_window_bits=\"10\"", false, &windowed);
        check("permessage-deflate; server_max_window_bits=\"1\\0\"", false, &windowed);
        check(
            "permessage-deflate; server_no_context_takeover",
            true,
            "permessage-deflate; server_no_context_takeover",
        );
        check(
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=15",
            true,
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=15",
        );
    }

    #[test]
    fn offers_that_cannot_be_taken_are_passed_over() {
        for params in [
            "server_max_window_bits=8",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=010",
            "server_max_window_bits",
            "client_max_window_bits=20",
            "server_no_context_takeover=1",
            "server_no_context_takeover; server_no_context_takeover",
            "client_max_window_bits; client_max_window_bits",
            "unknown",
        ] {
            check(&format!("permessage-deflate; {params}"), false, "none");
            check(&format!("permessage-deflate; {params}, permessage-deflate"), false, SHARED);
        }
        check("x-webkit-deflate-frame", false, "none");
        let offers = [&b"other"[..], b"permessage-deflate"];
        assert_eq!(negotiate(offers.into_iter(), None, true), Ok(None));
        let agreed = negotiate(offers.into_iter(), Some(&Deflate::default()), false);
        assert_eq!(agreed.unwrap().map(|agreed| agreed.to_string()).as_deref(), Some(SHARED));
    }

    #[test]
    fn a_window_of_our_own_is_said() {
        let options = Deflate { window_bits: 11, ..Deflate::default() };
        let check = |field: &str, bits| {
            let agreed = negotiate([field.as_bytes()].into_iter(), Some(&options), true).unwrap().unwrap();
            assert_eq!(agreed.to_string(), format!("permessage-deflate; server_max_window_bits={bits}"));
        };
        check("permessage-deflate", 11);
        check("permessage-deflate; server_max_window_bits=12", 11);
        check("permessage-deflate; server_max_window_bits=9", 9);
    }

    #[test]
    fn empty_elements_are_none() {
        for field in ["", ",", " , \t,", "a,", ",a", "a,, b"] {
            check(field, false, "none");
        }
        check(", permessage-deflate ,, a,", false, SHARED);
    }

    #[test]
    fn malformed_fields() {
        for field in
            ["a;", "a; b=", "a; b=\"\"", "a; b=\"c", "a; b=\"c d\"", "a b", "a; b=c d", "a,;", "a;, b"]
        {
            check(field, false, "malformed");
        }
    }
}

//! Names of topics, and places in them. Plain data.

use std::fmt;
use std::str::FromStr;

/// The longest name of a topic.
pub const NAME_BYTES_MAX: usize = 128;

/// Whether this can be the name of a topic: 1 to [`NAME_BYTES_MAX`] bytes, and no spaces or control characters.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.chars().any(|char| char.is_whitespace() || char.is_control())
}

/// The place of a message in a topic. As text it is what `Last-Event-ID` says: `EPOCH-OFFSET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which run of the topics: offsets begin anew with each.
    pub epoch: u64,
    /// Which message of the topic; `u64::MAX` is in front of the first one.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.offset)
    }
}

/// It is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a place in a topic, EPOCH-OFFSET")
    }
}

impl std::error::Error for NoPlace {}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Place, NoPlace> {
        let (epoch, offset) = text.split_once('-').ok_or(NoPlace)?;
        // The standard library would take a sign as well.
        let is_plain = offset.bytes().all(|byte| byte.is_ascii_digit())
            && epoch.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_plain {
            return Err(NoPlace);
        }
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| NoPlace)?;
        Ok(Place { epoch, offset: offset.parse().map_err(|_| NoPlace)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_text() {
        let place = Place { epoch: 0x1f, offset: 7 };
        assert_eq!(place.to_string(), "1f-7");
        assert_eq!("1f-7".parse(), Ok(place));
        for text in
            ["", "-", "1f", "1f-", "-7", "+1f-7", "1f-+7", "1f--7", "1f-7 ", "g-7", "11111111111111111-1"]
        {
            assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
        }
    }

    #[test]
    fn names() {
        for name in ["a", "prices.eur", "ö", &"n".repeat(128)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a b", "a\n", "\u{2028}", "\0", &"n".repeat(129)] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}

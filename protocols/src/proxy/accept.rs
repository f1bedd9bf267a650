//! In which form a client is told what a proxy says itself: by `Accept` (RFC 9110, 12.5.1). Pure.

use crate::http::message::{Fields, HEAD_BYTES_MAX, Slots};
use crate::http::one::head::{HeadLimits, Outcome, parse_head};

/// What a body is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// `text/plain`, for who does not say.
    #[default]
    Text,
    Html,
    /// `application/problem+json` (RFC 9457).
    Problem,
}

/// How a form is wanted: the quality in thousandths, and how exactly it was named.
type Wish = (u16, u8);

const FORMS: [Form; 3] = [Form::Problem, Form::Html, Form::Text];

impl Form {
    /// The form that is wanted most, of those that are named: of several the one that says most. Who takes anything gets a text.
    pub(super) fn of(fields: &Fields<'_, '_>) -> Form {
        let accept = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(b"accept"));
        let ranges = accept.flat_map(|field| field.value.split(|byte| *byte == b','));
        // Of all ranges that match a form the most exact one counts.
        let mut wishes: [Wish; 3] = [(0, 0); 3];
        for (range, quality) in ranges.filter_map(read) {
            for (form, wish) in FORMS.into_iter().zip(&mut wishes) {
                let exactness = form.matches(range);
                if exactness > wish.1 {
                    *wish = (quality, exactness);
                }
            }
        }
        let wishes = wishes.map(|(quality, exactness)| (quality, exactness.min(NAMED)));
        let best = wishes.into_iter().max().unwrap_or_default();
        let is_named = best.0 > 0 && best.1 >= NAMED;
        let found = FORMS.into_iter().zip(wishes).find(|(_, wish)| *wish == best);
        found.filter(|_| is_named).map_or(Form::Text, |(form, _)| form)
    }

    /// The same by a head that was passed on.
    pub(super) fn of_head(head: &[u8], slots: &mut Slots) -> Form {
        let limits = HeadLimits {
            request_line_bytes_max: HEAD_BYTES_MAX,
            head_bytes_max: HEAD_BYTES_MAX,
            ..HeadLimits::default()
        };
        match parse_head(head, slots, &limits) {
            Outcome::Complete { head, .. } => Form::of(&head.fields),
            Outcome::Partial | Outcome::Malformed(_) => Form::Text,
        }
    }

    /// How exactly a range names it; 0 where it does not.
    fn matches(self, range: &[u8]) -> u8 {
        let is = |name: &str| range.eq_ignore_ascii_case(name.as_bytes());
        let (names, family) = match self {
            Form::Text => (["text/plain", ""], "text/*"),
            Form::Html => (["text/html", "application/xhtml+xml"], "text/*"),
            Form::Problem => (["application/problem+json", "application/json"], "application/*"),
        };
        match () {
            () if is(names[0]) => NAMED + 1,
            () if is(names[1]) => NAMED,
            () if is(family) => 2,
            () if is("*/*") => 1,
            () => 0,
        }
    }
}

/// A form was named, and is not only one of several that would do.
const NAMED: u8 = 3;

/// A media range and its quality; `None` where that is none.
fn read(range: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let quality = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
    quality.map_or(Some(1000), thousandths).map(|quality| (name, quality))
}

/// `0`, `0.5`, `1.000` (RFC 9110, 12.4.2).
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, rest) = text.split_first()?;
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let padded = digits.iter().chain(b"000").take(3);
    let part = padded.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match whole {
        b'0' => Some(part),
        b'1' if part == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::message::Slots;
    use crate::http::one::head::{HeadLimits, Outcome, parse_head};

    #[test]
    fn the_form_is_what_is_wanted_most() {
        let check = |accept: &str, expected| {
            let fields: String = accept.split('~').map(|value| format!("Accept: {value}\r\n")).collect();
            let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let mut slots = Slots::new();
            let Outcome::Complete { head, .. } =
                parse_head(input.as_bytes(), &mut slots, &HeadLimits::default())
            else {
                panic!("no head: {input:?}")
            };
            assert_eq!(Form::of(&head.fields), expected, "{accept}");
        };
        use Form::{Html, Problem, Text};
        check("", Text);
        check("*/*", Text);
        check("text/html", Html);
        check("TEXT/HTML;level=1", Html);
        check("application/json", Problem);
        check("application/problem+json", Problem);
        check("text/plain", Text);
        check("image/png", Text);
        check("text/*", Text);
        check("application/*", Text);
        // Browsers, axios.
        check("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", Html);
        check("application/json, text/plain, */*", Problem);
        check("text/plain, text/html", Html);
        check("application/problem+json, application/json;q=0.9, */*;q=0.1", Problem);
        check("text/html;q=0.5, application/json;q=0.6", Problem);
        check("text/html;q=0.6, application/json;q=0.5", Html);
        check("text/html;q=0.001, text/plain;q=0.002", Text);
        check("text/html;q=0", Text);
        check("text/html;q=0, */*", Text);
        check("text/html;q=0.9, */*;q=1", Text);
        check("application/json;q=0.8~text/html", Html);
        check("text/html ; q=1.000 , application/json;q=0.999", Html);
        // What is no quality takes its range along.
        for bad in ["2", "1.001", "0.0001", "", "x", "-1", "0,5", "0.5x"] {
            check(&format!("text/html;q={bad}, application/json;q=0.1"), Problem);
        }
        check(";q=1,,text/html", Html);
    }
}

//! The normal form of a request's host and path (RFC 3986, 6.2.2): what routes are chosen by is what the upstream gets, so that
//! nobody in between can take it for something else. Pure.
//!
//! Of a path, escapes of unreserved characters are decoded, the others are written in upper case, dot segments are resolved and
//! repeated slashes are one. A host is in lower case, without the dot behind its last label and without the scheme's own port.
//! What readers differ about is refused: an escape that is none, `%00`, `\`, a way above the root, `..;`. An escaped slash or
//! backslash and a parameter (`;`) stay as they are where the same route is chosen for all readers ([`Path::other_readings`]), and
//! are refused elsewhere.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Why a request's target is refused: two readers could take it for different resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// `%` without two hexadecimal digits.
    Escape,
    /// `%00`.
    Zero,
    /// `\`, which some take for a slash.
    Backslash,
    /// `#`, which belongs to no request.
    Fragment,
    /// More `..` than there are segments before them.
    AboveRoot,
    /// `..;`, which some servers take for `..`.
    Parameter,
    /// An escaped slash or backslash, on which the route depends.
    Slash,
    /// A parameter of a segment, as in `/a;b`, which some servers leave out, and on which the route depends.
    Parameters,
    /// A host that is no name and no address.
    Host,
    /// A port that is none.
    Port,
}

impl Unclear {
    /// In words, for who asked.
    pub fn reason(self) -> &'static str {
        match self {
            Unclear::Escape => {
                "a percent sign in the path is followed by something else than two hexadecimal digits"
            }
            Unclear::Zero => "the path contains %00",
            Unclear::Backslash => "the path contains a backslash",
            Unclear::Fragment => "the path contains #",
            Unclear::AboveRoot => "the path leads above the root",
            Unclear::Parameter => "a dot segment of the path has a parameter",
            Unclear::Slash => "an escaped slash in the path decides where the request goes",
            Unclear::Parameters => "a semicolon in the path decides where the request goes",
            Unclear::Host => "the host is neither a name nor an address",
            Unclear::Port => "the port of the host is none",
        }
    }
}

/// A path in normal form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    pub(super) text: Cow<'a, [u8]>,
    /// Some servers may take it for another one.
    has_readings: bool,
}

impl<'a> Path<'a> {
    /// The normal form; the path itself where it is in it already, as nearly all are.
    pub(super) fn new(raw: &'a [u8]) -> Result<Path<'a>, Unclear> {
        if is_plain(raw) || raw == b"*" {
            return Ok(Path { text: Cow::Borrowed(raw), has_readings: false });
        }
        let (decoded, has_readings) = decode(raw)?;
        Ok(Path { text: Cow::Owned(resolve(&decoded)?), has_readings })
    }

    /// The path as it is for other servers: they may decode slashes, take backslashes for slashes, and leave out parameters, each or
    /// not. With each reading comes what is to be said where its route is another one.
    pub(super) fn other_readings(&self) -> impl Iterator<Item = (Result<Vec<u8>, Unclear>, Unclear)> {
        let text = self.has_readings.then_some(&self.text[..]);
        let has = |escape: &[u8]| text.is_some_and(|text| text.windows(escape.len()).any(|it| it == escape));
        let kinds = [has(b"%2F"), has(b"%5C"), has(b";")];
        let sets = (1_u8..8).map(|set| [set & 1 != 0, set & 2 != 0, set & 4 != 0]);
        let sets = sets.filter(move |set| set.iter().zip(kinds).all(|(reads, is_there)| is_there || !reads));
        sets.map(|[slashes, backslashes, parameters]| {
            let mut text = reveal(&self.text, slashes, backslashes);
            if parameters {
                text = without_parameters(&text);
            }
            let unclear = if slashes || backslashes { Unclear::Slash } else { Unclear::Parameters };
            (resolve(&text), unclear)
        })
    }
}

/// With a slash for each of these escapes.
fn reveal(path: &[u8], slashes: bool, backslashes: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, behind)) = rest.split_first() {
        let is_hidden = slashes && rest.starts_with(b"%2F") || backslashes && rest.starts_with(b"%5C");
        text.push(if is_hidden { b'/' } else { *first });
        rest = if is_hidden { &rest[3..] } else { behind };
    }
    text
}

/// Without what stands behind a semicolon in each segment (RFC 3986, 3.3), as Java's servers read it.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let names = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join(&b'/')
}

/// Whether there is nothing to do for a path.
fn is_plain(path: &[u8]) -> bool {
    let mut before = b' ';
    path.first() == Some(&b'/')
        && path.iter().all(|byte| {
            let pair = (std::mem::replace(&mut before, *byte), *byte);
            !matches!(pair, (b'/', b'/' | b'.') | (_, b'%' | b'\\' | b'#' | b';'))
        })
}

#[cold]
fn decode(raw: &[u8]) -> Result<(Vec<u8>, bool), Unclear> {
    let (mut decoded, mut has_readings) = (Vec::with_capacity(raw.len()), false);
    let mut rest = raw;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'%' => {
                let digits = rest.first_chunk::<2>().ok_or(Unclear::Escape)?;
                rest = &rest[2..];
                let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
                let byte = match (high, low) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(Unclear::Escape),
                };
                match byte {
                    0 => return Err(Unclear::Zero),
                    b'-' | b'.' | b'_' | b'~' => decoded.push(byte),
                    _ if byte.is_ascii_alphanumeric() => decoded.push(byte),
                    _ => {
                        has_readings |= matches!(byte, b'/' | b'\\');
                        decoded.extend([
                            b'%',
                            digits[0].to_ascii_uppercase(),
                            digits[1].to_ascii_uppercase(),
                        ]);
                    }
                }
            }
            b'\\' => return Err(Unclear::Backslash),
            b'#' => return Err(Unclear::Fragment),
            _ => {
                has_readings |= *first == b';';
                decoded.push(*first);
            }
        }
    }
    Ok((decoded, has_readings))
}

/// Dot segments are resolved (RFC 3986, 5.2.4) and empty segments left out.
fn resolve(path: &[u8]) -> Result<Vec<u8>, Unclear> {
    let mut text = vec![b'/'];
    // Where each segment begins that is in it.
    let mut starts = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"" | b"." => {}
            b".." => text.truncate(starts.pop().ok_or(Unclear::AboveRoot)?),
            _ if segment.starts_with(b".;") || segment.starts_with(b"..;") => return Err(Unclear::Parameter),
            _ => {
                starts.push(text.len());
                text.extend_from_slice(segment);
                if segments.peek().is_some() {
                    text.push(b'/');
                }
            }
        }
    }
    Ok(text)
}

/// A host in normal form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Host<'a> {
    /// With its port, unless that is the scheme's own.
    pub(super) text: Cow<'a, [u8]>,
    name_len: usize,
}

impl<'a> Host<'a> {
    /// The normal form; `default_port` is the one of the scheme.
    pub(super) fn new(raw: &'a [u8], default_port: u16) -> Result<Host<'a>, Unclear> {
        let colon = raw.iter().rposition(|byte| *byte == b':').filter(|at| !raw[*at..].contains(&b']'));
        let (name, port) = colon.map_or((raw, None), |at| (&raw[..at], Some(&raw[at + 1..])));
        let is_kept = match port {
            None => true,
            Some(digits) => match port_of(digits)? {
                Some(port) => port != default_port && digits[0] != b'0',
                None => false,
            },
        };
        let is_lower = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let mut labels = name.split(|byte| *byte == b'.');
        if is_kept && !name.is_empty() && labels.all(|label| !label.is_empty() && label.iter().all(is_lower))
        {
            return Ok(Host { text: Cow::Borrowed(raw), name_len: name.len() });
        }
        let mut text = name_of(name)?;
        let name_len = text.len();
        if let Some(port) = port.map_or(Ok(None), port_of)?.filter(|port| *port != default_port) {
            text.extend_from_slice(format!(":{port}").as_bytes());
        }
        Ok(Host { text: Cow::Owned(text), name_len })
    }

    /// Without its port.
    pub(super) fn name(&self) -> &[u8] {
        &self.text[..self.name_len]
    }
}

fn port_of(digits: &[u8]) -> Result<Option<u16>, Unclear> {
    if digits.is_empty() {
        return Ok(None);
    }
    let append = |port: u16, digit: &u8| {
        let value = digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?;
        port.checked_mul(10)?.checked_add(value)
    };
    digits.iter().try_fold(0, append).map(Some).ok_or(Unclear::Port)
}

#[cold]
fn name_of(raw: &[u8]) -> Result<Vec<u8>, Unclear> {
    if let Some(inner) = raw.strip_prefix(b"[") {
        let inner = inner.strip_suffix(b"]").and_then(|inner| str::from_utf8(inner).ok());
        let address: Ipv6Addr = inner.and_then(|inner| inner.parse().ok()).ok_or(Unclear::Host)?;
        return Ok(format!("[{address}]").into_bytes());
    }
    let name = raw.strip_suffix(b".").unwrap_or(raw).to_ascii_lowercase();
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut labels = name.split(|byte| *byte == b'.');
    let is_name = labels.all(|label| !label.is_empty() && label.iter().all(is_good));
    if is_name { Ok(name) } else { Err(Unclear::Host) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_have_one_form() {
        let check = |raw: &str, expected: &str| {
            let path = Path::new(raw.as_bytes()).unwrap_or_else(|unclear| panic!("{raw}: {unclear:?}"));
            assert_eq!(str::from_utf8(&path.text), Ok(expected), "{raw}");
            // What is in it stays in it.
            assert_eq!(Path::new(expected.as_bytes()).unwrap().text, path.text, "{raw}");
        };
        for plain in
            ["/", "/a", "/a/", "/a/b.c/d..e", "/a/c=d,e", "/~a_b-c", "/a:b@c", "*", "/a./b..", "/a\"<>^`{|}"]
        {
            check(plain, plain);
            assert!(matches!(Path::new(plain.as_bytes()).unwrap().text, Cow::Borrowed(_)), "{plain}");
        }
        check("/a;b/c=d,e;f", "/a;b/c=d,e;f");
        check("//", "/");
        check("//a", "/a");
        check("/a//b", "/a/b");
        check("/a///b//", "/a/b/");
        check("/.", "/");
        check("/./", "/");
        check("/./a", "/a");
        check("/a/.", "/a/");
        check("/a/./b", "/a/b");
        check("/a/..", "/");
        check("/a/../", "/");
        check("/a/b/..", "/a/");
        check("/a/b/../c", "/a/c");
        check("/a/b/../../c", "/c");
        check("/a//../b", "/b");
        check("/.well-known/x", "/.well-known/x");
        check("/...", "/...");
        check("/..a/.b", "/..a/.b");
        check("/%61%62c", "/abc");
        check("/%7Ea%2D%5f", "/~a-_");
        check("/a/%2e%2e/b", "/b");
        check("/a/%2E/b", "/a/b");
        check("/a/.%2e/b", "/b");
        check("/a%20b", "/a%20b");
        check("/%c3%a4", "/%C3%A4");
        check("/%e4%3f%23", "/%E4%3F%23");
        check("/%252e%252e/a", "/%252e%252e/a");
        check("/a%2fb", "/a%2Fb");
        check("/a%5cb", "/a%5Cb");
        check("/%0d%0a", "/%0D%0A");
        check("/a%3b/..%3bb", "/a%3B/..%3Bb");
    }

    #[test]
    fn what_readers_differ_about_is_refused() {
        let check = |raw: &str, expected| assert_eq!(Path::new(raw.as_bytes()), Err(expected), "{raw}");
        check("/%", Unclear::Escape);
        check("/%2", Unclear::Escape);
        check("/%zz", Unclear::Escape);
        check("/%+1", Unclear::Escape);
        check("/a%u002e", Unclear::Escape);
        check("/%00", Unclear::Zero);
        check("/a%00.png", Unclear::Zero);
        check("/a\\b", Unclear::Backslash);
        check("/..\\", Unclear::Backslash);
        check("/a#b", Unclear::Fragment);
        check("/..", Unclear::AboveRoot);
        check("/../a", Unclear::AboveRoot);
        check("/a/../..", Unclear::AboveRoot);
        check("/%2e%2e/a", Unclear::AboveRoot);
        check("/a/..;/b", Unclear::Parameter);
        check("/a/.;x=y/b", Unclear::Parameter);
        check("/a/%2e%2e;/b", Unclear::Parameter);
    }

    #[test]
    fn servers_may_read_a_path_otherwise() {
        let check = |raw: &str, expected: &[Result<&str, Unclear>]| {
            let path = Path::new(raw.as_bytes()).unwrap();
            let readings =
                path.other_readings().map(|(path, _)| path.map(|path| String::from_utf8(path).unwrap()));
            let expected: Vec<_> = expected.iter().map(|path| path.map(str::to_owned)).collect();
            assert_eq!(readings.collect::<Vec<_>>(), expected, "{raw}");
        };
        let (above, parameter) = (Err(Unclear::AboveRoot), Err(Unclear::Parameter));
        check("/a/b", &[]);
        check("/a%20b", &[]);
        check("/a%252fb", &[]);
        check("/a%3bb", &[]);
        check("/a%2Fb", &[Ok("/a/b")]);
        check("/a%5cb", &[Ok("/a/b")]);
        check("/api/..%2fadmin", &[Ok("/admin")]);
        check("/api/..%5C..%5Cadmin", &[above]);
        check("/api%2f%2e%2e%2fadmin", &[Ok("/admin")]);
        check("/a%2f", &[Ok("/a/")]);
        // What goes up for one that knows backslashes stays where it is for one that decodes slashes alone.
        check("/admin%2f/%5c..", &[Ok("/admin/%5C.."), Ok("/"), Ok("/")]);
        check("/admin;x", &[Ok("/admin")]);
        check("/a;x=1;y/b;/;z/", &[Ok("/a/b/")]);
        check("/;/admin", &[Ok("/admin")]);
        check("/a;x%2f..%2fadmin", &[Ok("/admin"), Ok("/a"), Ok("/admin")]);
        check("/a%2f..;%2fb", &[parameter, Ok("/a%2F.."), Ok("/b")]);
    }

    proptest! {
        /// Whatever comes is refused, or has a form that stays as it is and in which nothing is left to be resolved.
        #[test]
        fn a_form_is_normal(raw in r"(/|//|\.|\.\.|%2e|%2E|%2f|%5c|%41|%c3|;|a|b|\.\.;){0,12}") {
            let raw = format!("/{raw}");
            let Ok(path) = Path::new(raw.as_bytes()) else { return Ok(()) };
            let text = str::from_utf8(&path.text).unwrap();
            let again = Path::new(text.as_bytes()).unwrap();
            prop_assert_eq!(&again.text, &path.text);
            prop_assert!(text.starts_with('/') && !text.contains("//"), "{}", text);
            let is_dot = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
            prop_assert!(!text.split('/').any(is_dot), "{}", text);
            let escapes = text.split('%').skip(1).map(|rest| &rest[..2]);
            prop_assert!(escapes.into_iter().all(|escape| ["2F", "5C", "C3"].contains(&escape)), "{}", text);
            // As it is for other servers, it is normal as well, or not to be had.
            for reading in path.other_readings().filter_map(|(reading, _)| reading.ok()) {
                let reading = str::from_utf8(&reading).unwrap();
                prop_assert!(!reading.contains("//") && !reading.split('/').any(is_dot), "{}", reading);
            }
        }
    }

    #[test]
    fn hosts_have_one_form() {
        let check = |raw: &str, expected: Result<(&str, &str), Unclear>| {
            for (port, secure) in [(80, "80"), (443, "443")] {
                let with = |text: &str| text.replace("DEFAULT", secure);
                let raw = with(raw);
                let host = Host::new(raw.as_bytes(), port);
                let host = host.map(|host| {
                    [&host.text, host.name()].map(|text| String::from_utf8(text.to_vec()).unwrap())
                });
                assert_eq!(host, expected.map(|(text, name)| [text, name].map(with)), "{raw}");
            }
        };
        check("a.test", Ok(("a.test", "a.test")));
        check("A.Test", Ok(("a.test", "a.test")));
        check("a.test.", Ok(("a.test", "a.test")));
        check("A.test.:8080", Ok(("a.test:8080", "a.test")));
        check("a.test:DEFAULT", Ok(("a.test", "a.test")));
        check("a.test.:0DEFAULT", Ok(("a.test", "a.test")));
        check("a.test:08080", Ok(("a.test:8080", "a.test")));
        check("a.test:", Ok(("a.test", "a.test")));
        check("a_b-c.test", Ok(("a_b-c.test", "a_b-c.test")));
        check("127.0.0.1:3000", Ok(("127.0.0.1:3000", "127.0.0.1")));
        check("[::1]", Ok(("[::1]", "[::1]")));
        check("[0:0::1]:DEFAULT", Ok(("[::1]", "[::1]")));
        check("[2001:DB8::A]:81", Ok(("[2001:db8::a]:81", "[2001:db8::a]")));
        check("", Err(Unclear::Host));
        check(".", Err(Unclear::Host));
        check("a..test", Err(Unclear::Host));
        check(".a", Err(Unclear::Host));
        check("a.test..", Err(Unclear::Host));
        check("a%2etest", Err(Unclear::Host));
        check("*.test", Err(Unclear::Host));
        check("a@b", Err(Unclear::Host));
        check("[::1", Err(Unclear::Host));
        check("[fe80::1%25eth0]", Err(Unclear::Host));
        check("[v1.a]", Err(Unclear::Host));
        check("a:b", Err(Unclear::Port));
        check("a:65536", Err(Unclear::Port));
        check("a:+1", Err(Unclear::Port));
        check("a:80:80", Err(Unclear::Host));
    }
}

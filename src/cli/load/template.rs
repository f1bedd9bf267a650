//! The requests that are sent, as bytes made once, and the order in which they take turns.

use super::target::Target;
use super::{Load, LoadError};
use std::path::Path;

/// One request.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) bytes: Vec<u8>,
    /// Its response has no body.
    pub(super) is_head: bool,
}

/// The requests and their order.
#[derive(Debug)]
pub(super) struct Templates {
    pub(super) all: Vec<Template>,
    /// Indexes into `all`, repeated for ever: each as often as its weight says, spread evenly.
    pub(super) order: Vec<u16>,
}

/// A file with a request as it goes over the wire, and its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawFile {
    weight: u32,
    path: String,
}

/// Weights beyond this would make the order long.
const WEIGHT_MAX: u32 = 1000;

impl std::str::FromStr for RawFile {
    type Err = String;

    /// Reads `FILE` or `WEIGHT:FILE`.
    fn from_str(text: &str) -> Result<RawFile, String> {
        if let Some((weight, path)) = text.split_once(':')
            && let Ok(weight) = weight.parse()
        {
            return match weight {
                1..=WEIGHT_MAX if !path.is_empty() => Ok(RawFile { weight, path: path.to_owned() }),
                _ => Err(format!("expected FILE or WEIGHT:FILE with a weight from 1 to {WEIGHT_MAX}")),
            };
        }
        Ok(RawFile { weight: 1, path: text.to_owned() })
    }
}

impl Templates {
    /// Bytes of the largest one.
    pub(super) fn largest(&self) -> usize {
        self.all.iter().map(|template| template.bytes.len()).max().unwrap_or(0)
    }

    /// One request of the options, or those of the files.
    pub(super) fn new(load: &Load, target: &Target) -> Result<Templates, LoadError> {
        if load.raw.is_empty() {
            let template = from_options(load, target)?;
            return Ok(Templates { all: vec![template], order: vec![0] });
        }
        let mut all = Vec::with_capacity(load.raw.len());
        for file in &load.raw {
            all.push(from_file(&file.path, target)?);
        }
        let weights: Vec<u32> = load.raw.iter().map(|file| file.weight).collect();
        Ok(Templates { all, order: spread(&weights) })
    }
}

fn from_options(load: &Load, target: &Target) -> Result<Template, LoadError> {
    let bad = |problem: String| Err(LoadError::Request(problem));
    let body = match &load.body {
        None => None,
        Some(text) => Some(text_or_file(text)?),
    };
    let method =
        load.method.clone().unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.to_owned());
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    {
        return bad(format!("{method:?} is no method"));
    }
    let mut head = format!("{method} {} HTTP/1.1\r\n", target.path);
    let has = |name: &str| load.headers.iter().any(|header| header.0.eq_ignore_ascii_case(name));
    if !has("host") {
        head += &format!("Host: {}\r\n", target.authority);
    }
    load.headers.iter().for_each(|header| head += &header.line());
    // Where a body would have a meaning, its absence is said too (RFC 9110, 8.6).
    let expects_body = matches!(method.as_str(), "POST" | "PUT" | "PATCH");
    if (body.is_some() || expects_body) && !has("content-length") && !has("transfer-encoding") {
        head += &format!("Content-Length: {}\r\n", body.as_ref().map_or(0, Vec::len));
    }
    head += "\r\n";
    let mut bytes = head.into_bytes();
    bytes.extend(body.unwrap_or_default());
    Ok(Template { bytes, is_head: method == "HEAD" })
}

/// The bytes of a file; `{host}` becomes the URL's host and port.
fn from_file(path: &str, target: &Target) -> Result<Template, LoadError> {
    let bytes = read(Path::new(path))?;
    let mut filled = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while let Some(at) = memchr::memmem::find(rest, b"{host}") {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(target.authority.as_bytes());
        rest = &rest[at + b"{host}".len()..];
    }
    filled.extend_from_slice(rest);
    if memchr::memmem::find(&filled, b"\r\n\r\n").is_none() {
        let problem = "no empty line ends its head (lines of a raw request end in CR LF)";
        return Err(LoadError::Request(format!("{path}: {problem}")));
    }
    let is_head = filled.starts_with(b"HEAD ");
    Ok(Template { bytes: filled, is_head })
}

/// The text, or after an `@` the bytes of the file it names.
pub(super) fn text_or_file(text: &str) -> Result<Vec<u8>, LoadError> {
    match text.strip_prefix('@') {
        Some(path) => read(Path::new(path)),
        None => Ok(text.as_bytes().to_vec()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::File { path: path.to_owned(), source })
}

/// An order with each index as often as its weight, evenly spread: always the one that is furthest behind.
fn spread(weights: &[u32]) -> Vec<u16> {
    let total: u32 = weights.iter().sum();
    let mut credit = vec![0i64; weights.len()];
    let mut order = Vec::with_capacity(total as usize);
    for _ in 0..total {
        for (credit, weight) in credit.iter_mut().zip(weights) {
            *credit += i64::from(*weight);
        }
        let (index, _) =
            credit.iter().enumerate().rev().max_by_key(|(_, credit)| **credit).expect("a weight");
        credit[index] -= i64::from(total);
        order.push(index as u16);
    }
    order
}

/// A header field of the options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header(String, String);

impl Header {
    /// As it stands in a head.
    pub(super) fn line(&self) -> String {
        format!("{}: {}\r\n", self.0, self.1)
    }
}

impl std::str::FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Header, String> {
        let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("{name:?} is no field name"));
        }
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err("the value has control characters".to_owned());
        }
        Ok(Header(name.to_owned(), value.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_and_spread() {
        assert_eq!(spread(&[1]), [0]);
        assert_eq!(spread(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(spread(&[3, 1]), [0, 0, 1, 0]);
        let order = spread(&[70, 20, 10]);
        let count = |index| order.iter().filter(|entry| **entry == index).count();
        assert_eq!((count(0), count(1), count(2)), (70, 20, 10));
    }

    #[test]
    fn raw_files_and_headers() {
        let raw = |text: &str| text.parse::<RawFile>().map(|file| (file.weight, file.path)).ok();
        assert_eq!(raw("a.http"), Some((1, "a.http".to_owned())));
        assert_eq!(raw("7:a:b"), Some((7, "a:b".to_owned())));
        assert_eq!(raw("c:/a"), Some((1, "c:/a".to_owned())));
        assert_eq!(raw("0:a"), None);
        assert_eq!(raw("1001:a"), None);
        assert!("x-a: b".parse::<Header>().is_ok());
        for text in ["", "a", ": b", "a b: c", "a: b\r\nc: d"] {
            assert!(text.parse::<Header>().is_err(), "{text:?}");
        }
    }
}

//! What came back, judged: bytes to replies, then replies against a case, and every reply against the rules that
//! hold for all of them.

use super::format::{Case, Expected, State};

/// One reply as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    /// Decoded.
    pub body: Vec<u8>,
}

impl Reply {
    /// The values of a field, by its name in lower case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.fields.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// The whole replies at the front of what came, and how many bytes they are. `head_only` says of each whether its
/// request was HEAD; `is_over`, whether the connection has ended, which can be what ends a body.
pub fn parse(bytes: &[u8], head_only: &[bool], is_over: bool) -> Result<(Vec<Reply>, usize), String> {
    let mut replies = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let is_head_only = head_only.get(replies.len()).copied().unwrap_or(false);
        match reply(&bytes[at..], is_head_only, is_over)? {
            Some((reply, len)) => {
                replies.push(reply);
                at += len;
            }
            None => break,
        }
    }
    Ok((replies, at))
}

/// The reply at the front; `None` while it is not whole.
fn reply(bytes: &[u8], is_head_only: bool, is_over: bool) -> Result<Option<(Reply, usize)>, String> {
    let Some(head_len) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head_len - 4]).map_err(|_| "a head that is not text")?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    // RFC 9112, 4: the space after the status is there even where there is no reason.
    let (Some(status), true) = (status, line.as_bytes().get(12) == Some(&b' ')) else {
        return Err(format!("a status line is malformed: {line:?}"));
    };
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("not a field line: {line:?}"))?;
        let good_name = !name.is_empty() && name.bytes().all(is_token);
        if !good_name || value.trim() != value || value.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(format!("a field line is malformed: {line:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut reply = Reply { status, fields, body: Vec::new() };
    check_head(&reply)?;
    if is_head_only || matches!(status, 100..200 | 204 | 304) {
        return Ok(Some((reply, head_len)));
    }
    let rest = &bytes[head_len..];
    if reply.value("transfer-encoding").is_some() {
        let Some((body, len)) = unchunk(rest)? else { return Ok(None) };
        reply.body = body;
        return Ok(Some((reply, head_len + len)));
    }
    let len = match reply.value("content-length") {
        Some(length) => length.parse().map_err(|_| format!("a length that is none: {length:?}"))?,
        None if is_over => rest.len(),
        None => return Ok(None),
    };
    reply.body = match rest.get(..len) {
        Some(body) => body.to_vec(),
        None => return Ok(None),
    };
    Ok(Some((reply, head_len + len)))
}

/// What holds for the head of any reply.
fn check_head(reply: &Reply) -> Result<(), String> {
    let count = |name: &str| reply.values(name).count();
    let fail = |what: &str| Err(format!("{what}: {reply:?}"));
    let bodiless = reply.is_interim() || reply.status == 204;
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    // RFC 9110, 6.6.1 and 5.6.7
    match reply.value("date") {
        _ if reply.is_interim() => {}
        Some(date) if count("date") == 1 && is_imf_fixdate(date) => {}
        _ => return fail("a reply without one Date in IMF-fixdate"),
    }
    // RFC 9112, 6.1 and 6.2; RFC 9110, 8.6
    if lengths + codings > 1 || (bodiless && lengths + codings > 0) {
        return fail("a reply with too many of Content-Length and Transfer-Encoding");
    }
    if reply.values("transfer-encoding").any(|coding| coding != "chunked") {
        return fail("a coding other than chunked");
    }
    // RFC 9112, 6.3: a reply without either ends with the connection, and says so.
    let is_framed = lengths + codings == 1 || bodiless || reply.status == 304;
    if !is_framed && reply.value("connection") != Some("close") {
        return fail("a reply whose end cannot be known");
    }
    // RFC 9110, 15.5.6
    if reply.status == 405 && count("allow") == 0 {
        return fail("a 405 without Allow");
    }
    Ok(())
}

/// Judges all that came on a case's connection; `bytes` ends with the last reply.
pub fn judge(case: &Case, bytes: &[u8], is_over: bool) -> Result<Vec<Reply>, String> {
    let (replies, len) = parse(bytes, &head_only(case), is_over)?;
    check_rest(case, &bytes[len..])?;
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    if statuses.len() != case.replies().count() {
        let wanted: Vec<_> = case.replies().map(|expected| &expected.statuses).collect();
        return Err(format!("replies {statuses:?}, expected {wanted:?}"));
    }
    for (n, (reply, expected)) in replies.iter().zip(case.replies()).enumerate() {
        check(reply, expected).map_err(|what| format!("reply {n}: {what}: {reply:?}"))?;
    }
    check_connection(case, &replies)?;
    Ok(replies)
}

/// What came behind the whole replies: nothing, unless the last one is broken off.
pub fn check_rest(case: &Case, rest: &[u8]) -> Result<(), String> {
    match (case.state == State::Broken, rest.is_empty()) {
        (true, true) => Err("no reply was broken off".into()),
        (false, false) => Err(format!("after the replies came {}", rest.escape_ascii())),
        _ => Ok(()),
    }
}

/// Which replies are to HEAD.
pub fn head_only(case: &Case) -> Vec<bool> {
    case.replies().map(|expected| expected.is_head_only).collect()
}

fn check(reply: &Reply, expected: &Expected) -> Result<(), String> {
    if !expected.statuses.contains(&reply.status) {
        return Err(format!("expected the status {:?}", expected.statuses));
    }
    if expected.body.as_ref().is_some_and(|body| *body != reply.body) {
        return Err(format!(
            "{} bytes of body, expected {}",
            reply.body.len(),
            expected.body.as_ref().map_or(0, Vec::len)
        ));
    }
    for (name, value) in &expected.fields {
        if !reply.values(name).any(|found| found == value) {
            return Err(format!("expected {name}: {value}"));
        }
    }
    for name in &expected.absent {
        if reply.value(name).is_some() {
            return Err(format!("expected no {name}"));
        }
    }
    // RFC 9110, 15.5 and 15.6: an error explains itself, except to HEAD.
    if reply.status >= 400 && !expected.is_head_only && reply.body.is_empty() {
        return Err("an error without an explanation".into());
    }
    Ok(())
}

/// RFC 9112, 9.6: the reply that ends the connection says so, and no other does.
fn check_connection(case: &Case, replies: &[Reply]) -> Result<(), String> {
    let closes = |reply: &Reply| reply.values("connection").any(|value| value == "close");
    let Some((last, before)) = replies.split_last() else { return Ok(()) };
    if before.iter().any(closes) {
        return Err("a reply before the last says that the connection closes".into());
    }
    match case.state {
        State::Closed if !case.ends() && !closes(last) => {
            Err("the last reply does not say that the connection closes".into())
        }
        State::Kept | State::Waits if closes(last) => Err("a kept connection is said to close".into()),
        _ => Ok(()),
    }
}

/// What was received without 100 (Continue): whether one is sent depends on whether the body was there already.
pub fn without_interim(bytes: &[u8]) -> Vec<u8> {
    const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut without = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = find(rest, INTERIM) {
        without.extend_from_slice(&rest[..at]);
        rest = &rest[at + INTERIM.len()..];
    }
    without.extend_from_slice(rest);
    without
}

/// The data of a chunked body and the length of its text; `None` while it is not whole.
fn unchunk(mut rest: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let whole = rest.len();
    let mut body = Vec::new();
    loop {
        let Some(line) = find(rest, b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..line]).unwrap_or("not text");
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("a chunk size {size:?}"))?;
        let Some(end) = rest.get(line + 2..line + 2 + size + 2) else { return Ok(None) };
        if !end.ends_with(b"\r\n") {
            return Err("a chunk that does not end where its size says".into());
        }
        body.extend_from_slice(&end[..size]);
        rest = &rest[line + 2 + size + 2..];
        if size == 0 {
            return Ok(Some((body, whole - rest.len())));
        }
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn is_imf_fixdate(date: &str) -> bool {
    const SHAPE: &[u8] = b"aaa, 00 aaa 0000 00:00:00 GMT";
    let fits = |(byte, shape): (u8, &u8)| match shape {
        b'a' => byte.is_ascii_alphabetic(),
        b'0' => byte.is_ascii_digit(),
        _ => byte == *shape,
    };
    date.len() == SHAPE.len() && date.bytes().zip(SHAPE).all(fits)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

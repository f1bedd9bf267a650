//! What a request is called: `X-Request-Id`, and its place in a trace (`traceparent`). Read from its fields where its peer may say, made
//! here otherwise. Pure but for the random numbers, which are given.

use super::random::Random;
use super::trace::{SAMPLED, TraceParent, hex_of};
use crate::http::message::Fields;
use crate::proxy::name::is;
use std::str::FromStr;

/// Who is told what a request is called, in `X-Request-Id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestIds {
    /// Nobody: the field passes as it came.
    #[default]
    Off,
    /// The upstream. A name that a trusted peer gives is taken over if it has 1 to 64 letters, digits and `-_.:/+=`; else it is made
    /// here, of 32 hexadecimal digits.
    Upstream,
    /// The client as well, with its reply.
    Both,
}

/// Whose traces go on ([W3C Trace Context](https://www.w3.org/TR/trace-context/)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Traces {
    /// The fields pass as they came.
    #[default]
    Off,
    /// Those of trusted peers: for them this proxy becomes the parent. For others, and where `traceparent` is malformed, a new trace
    /// begins, and `tracestate` is dropped.
    Trusted,
    /// Those of anybody, if well-formed.
    Any,
}

impl FromStr for RequestIds {
    type Err = String;

    fn from_str(text: &str) -> Result<RequestIds, String> {
        match text {
            "off" => Ok(RequestIds::Off),
            "upstream" => Ok(RequestIds::Upstream),
            "both" => Ok(RequestIds::Both),
            other => Err(format!("{other:?} is none of off, upstream and both")),
        }
    }
}

impl FromStr for Traces {
    type Err = String;

    fn from_str(text: &str) -> Result<Traces, String> {
        match text {
            "off" => Ok(Traces::Off),
            "trusted" => Ok(Traces::Trusted),
            "any" => Ok(Traces::Any),
            other => Err(format!("{other:?} is none of off, trusted and any")),
        }
    }
}

/// What requests are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRules {
    /// `X-Request-Id`.
    pub request: RequestIds,
    /// `traceparent` and `tracestate`.
    pub trace: Traces,
}

/// The longest name of a request that is taken over.
const ID_BYTES_MAX: usize = 64;

/// What one request is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    rules: IdRules,
    id: [u8; ID_BYTES_MAX],
    /// 0 where it has none.
    id_bytes: u8,
    trace: Option<Trace>,
}

#[derive(Clone, Copy, Debug)]
struct Trace {
    parent: TraceParent,
    /// Somebody has begun it before us.
    goes_on: bool,
}

/// Fields that say what a request is called.
pub(crate) fn is_identity(name: &[u8]) -> bool {
    match name.len() {
        10 => is(name, "tracestate"),
        11 => is(name, "traceparent"),
        12 => is(name, "x-request-id"),
        _ => false,
    }
}

impl IdRules {
    pub(crate) fn is_off(self) -> bool {
        self.request == RequestIds::Off && self.trace == Traces::Off
    }

    /// What a request with these fields is called; `None` where they cannot be read.
    pub(crate) fn identify(
        self,
        fields: Option<&Fields<'_, '_>>,
        is_trusted: bool,
        random: &mut Random,
    ) -> Identity {
        let mut identity = Identity { rules: self, ..Identity::none() };
        if self.request != RequestIds::Off {
            let given = fields.filter(|_| is_trusted).and_then(|fields| fields.value("x-request-id"));
            let given = given.filter(|id| is_id(id));
            match given {
                Some(given) => identity.take(given),
                None => identity.take(&hex_of(random.bytes())),
            }
        }
        let may_go_on = match self.trace {
            Traces::Off => return identity,
            Traces::Trusted => is_trusted,
            Traces::Any => true,
        };
        let given = fields.filter(|_| may_go_on).and_then(only_parent);
        let parent = match given {
            Some(given) => TraceParent { parent: random.bytes(), ..given },
            // Whoever comes behind may record it: that nobody should is not ours to say.
            None => TraceParent { trace: random.bytes(), parent: random.bytes(), flags: SAMPLED },
        };
        identity.trace = Some(Trace { parent, goes_on: given.is_some() });
        identity
    }
}

/// Several are none (section 3.2 of the standard): nobody knows which is meant.
fn only_parent(fields: &Fields<'_, '_>) -> Option<TraceParent> {
    let mut parents = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(b"traceparent"));
    let parent = parents.next().filter(|_| parents.next().is_none())?;
    TraceParent::read(parent.value)
}

/// Such a name can stand in a field, in a page and in a log as it is.
fn is_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_plain)
}

impl Identity {
    /// Nothing.
    pub(crate) const fn none() -> Identity {
        let rules = IdRules { request: RequestIds::Off, trace: Traces::Off };
        Identity { rules, id: [0; ID_BYTES_MAX], id_bytes: 0, trace: None }
    }

    fn take(&mut self, id: &[u8]) {
        self.id[..id.len()].copy_from_slice(id);
        self.id_bytes = id.len() as u8;
    }

    /// The name, empty where there is none: letters, digits and `-_.:/+=`.
    pub(crate) fn id(&self) -> &[u8] {
        &self.id[..usize::from(self.id_bytes)]
    }

    /// Its trace; zeros where it is in none.
    pub(crate) fn trace(&self) -> [u8; 16] {
        self.trace.map_or([0; 16], |trace| trace.parent.trace)
    }

    /// The client is told.
    pub(crate) fn is_told(&self) -> bool {
        self.rules.request == RequestIds::Both
    }

    /// Whether a field of this name is ours to write, so that the request's own is not passed on.
    pub(crate) fn replaces(&self, name: &[u8]) -> bool {
        match name.len() {
            10 => self.trace.is_some_and(|trace| !trace.goes_on) && is(name, "tracestate"),
            11 => self.trace.is_some() && is(name, "traceparent"),
            12 => self.id_bytes > 0 && is(name, "x-request-id"),
            _ => false,
        }
    }

    /// The fields that an upstream gets.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if self.id_bytes > 0 {
            self.write_id(out);
        }
        if let Some(trace) = &self.trace {
            out.extend_from_slice(b"traceparent: ");
            trace.parent.write(out);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The field that a client gets, where it is told.
    pub(crate) fn write_to_client(&self, out: &mut Vec<u8>) {
        if self.is_told() {
            self.write_id(out);
        }
    }

    fn write_id(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"x-request-id: ");
        out.extend_from_slice(self.id());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::message::Slots;
    use crate::http::one::head::{HeadLimits, Outcome, parse_head};

    fn identify(rules: IdRules, fields: &str, is_trusted: bool) -> (Identity, String) {
        let mut slots = Slots::new();
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields.replace('~', "\r\n"));
        let Outcome::Complete { head, .. } = parse_head(input.as_bytes(), &mut slots, &HeadLimits::default())
        else {
            panic!("no head: {input:?}")
        };
        let identity = rules.identify(Some(&head.fields), is_trusted, &mut Random::new([1, 2, 3, 4]));
        let mut out = Vec::new();
        identity.write(&mut out);
        (identity, String::from_utf8(out).unwrap().replace("\r\n", "~"))
    }

    #[test]
    fn who_is_trusted_may_name_its_request() {
        let made = "x-request-id: 002d0000000000000000000000000000~";
        let check = |fields: &str, is_trusted, expected: &str| {
            let rules = IdRules { request: RequestIds::Upstream, ..IdRules::default() };
            let (identity, written) = identify(rules, fields, is_trusted);
            assert_eq!(written, expected, "{fields}");
            assert!(identity.replaces(b"X_Request-ID") && !identity.replaces(b"traceparent"));
        };
        check("", true, made);
        check("X-Request-Id: a~", false, made);
        check("X-Request-Id: a~", true, "x-request-id: a~");
        let longest = "Aa0-_.:/+=".repeat(6) + "1234";
        check(&format!("x-request-id: {longest}~"), true, &format!("x-request-id: {longest}~"));
        check(&format!("x-request-id: {longest}5~"), true, made);
        for bad in ["", "a b", "a,b", "<a>", "a\"", "a'", "a&b", "\u{e4}", "a\\", "{a}", "a;b"] {
            check(&format!("X-Request-Id: {bad}~"), true, made);
        }
    }

    #[test]
    fn a_trace_goes_on_where_its_peer_may_say_so() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        let parent = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-00~");
        let state = "tracestate: a=b~";
        let check = |trace, fields: &str, is_trusted, goes_on| {
            let rules = IdRules { trace, ..IdRules::default() };
            let (identity, written) = identify(rules, fields, is_trusted);
            let (start, end) = (format!("traceparent: 00-{TRACE}-"), "-00~");
            let continues = written.starts_with(&start) && written.ends_with(end);
            assert!(continues == goes_on && written.len() == 69, "{fields}: {written}");
            assert!(!written.contains("b7ad6b7169203331"), "this proxy is a step of its own: {written}");
            assert!(goes_on || written.ends_with("-01~"), "{written}");
            assert_eq!(identity.replaces(b"TraceState"), !goes_on, "{fields}");
            assert!(identity.replaces(b"traceparent") && !identity.replaces(b"x-request-id"));
        };
        check(Traces::Trusted, &format!("{parent}{state}"), true, true);
        check(Traces::Trusted, &format!("{parent}{state}"), false, false);
        check(Traces::Any, &format!("{parent}{state}"), false, true);
        check(Traces::Any, &parent.replace("-00~", "-0~"), true, false);
        check(Traces::Any, &format!("{parent}{parent}"), true, false);
        check(Traces::Any, state, true, false);
        let (identity, written) = identify(IdRules::default(), &parent, true);
        assert_eq!(written, "");
        assert!(
            ![&b"traceparent"[..], b"tracestate", b"x-request-id"].iter().any(|name| identity.replaces(name))
        );
    }
}

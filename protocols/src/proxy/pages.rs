//! What a proxy answers itself: a status and a sentence, as a text, as HTML or as a problem (RFC 9457), or a page that its operator has made. Pure.

use super::accept::Form;
use super::observe::Identity;
use crate::http::one::emit;
use crate::http::status::reason;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Pages of HTML by status, instead of our own.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pages(Arc<BTreeMap<u16, Page>>);

/// A page of HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The name of the request belongs between any two of them.
    parts: Vec<String>,
}

impl Page {
    /// The most bytes that a page has.
    pub const BYTES_MAX: usize = 64 * 1024;
    /// What stands in a page for the name of the request.
    pub const REQUEST_ID: &str = "{request_id}";

    /// A page. [`Page::REQUEST_ID`] in it becomes the name of the request, or nothing where requests have none.
    pub fn new(text: &str) -> Result<Page, String> {
        if text.len() > Page::BYTES_MAX {
            return Err(format!("a page has {} bytes at most", Page::BYTES_MAX));
        }
        Ok(Page { parts: text.split(Page::REQUEST_ID).map(str::to_owned).collect() })
    }
}

impl Pages {
    /// These pages; statuses are from 400 to 599.
    pub fn new(pages: BTreeMap<u16, Page>) -> Pages {
        Pages(Arc::new(pages))
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What is answered.
pub(super) struct Own<'a> {
    pub(super) status: u16,
    pub(super) why: &'a str,
    /// `Date`, with its line end.
    pub(super) date: &'a [u8],
    pub(super) ids: Option<&'a Identity>,
    pub(super) pages: &'a Pages,
    /// Another field.
    pub(super) field: Option<(&'a str, &'a [u8])>,
    /// What the client has asked for: the head alone, in which form, by HTTP/1.0.
    pub(super) is_head: bool,
    pub(super) form: Form,
    pub(super) is_http10: bool,
    pub(super) keep_alive: bool,
}

impl Own<'_> {
    /// Writes the reply.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        emit::write_status_line(out, self.status);
        out.extend_from_slice(self.date);
        if let Some(ids) = self.ids {
            ids.write_to_client(out);
        }
        if let Some((name, value)) = self.field {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        let (content_type, body) = self.body();
        emit::write_field(out, "content-type", content_type);
        // Caches in front keep 404 and the like (RFC 9110, 15.1).
        emit::write_field(out, "vary", "accept");
        if self.status == 503 {
            emit::write_field(out, "retry-after", "1");
        }
        emit::write_length(out, body.len() as u64);
        out.extend_from_slice(emit::head_end(self.keep_alive, self.is_http10));
        if !self.is_head {
            out.extend_from_slice(body.as_bytes());
        }
    }

    fn body(&self) -> (&'static str, String) {
        const HTML: &str = "text/html; charset=utf-8";
        let Own { status, why, .. } = *self;
        // Letters, digits and what means nothing in any of the forms.
        let id = self.ids.map_or(&b""[..], Identity::id);
        let id = str::from_utf8(id).unwrap_or_default();
        let title = format!("{status} {}", reason(status));
        match (self.form, self.pages.0.get(&status)) {
            (Form::Problem, _) => {
                let mut body = format!(
                    "{{\"type\":\"about:blank\",\"title\":\"{}\",\"status\":{status}",
                    reason(status)
                );
                let _ = write!(body, ",\"detail\":\"{}\"", escaped(why, &[('"', "\\\""), ('\\', "\\\\")]));
                if !id.is_empty() {
                    let _ = write!(body, ",\"request_id\":\"{id}\"");
                }
                ("application/problem+json", body + "}\n")
            }
            (Form::Text | Form::Html, Some(page)) => (HTML, page.parts.join(id)),
            (Form::Html, None) => {
                let why = escaped(why, &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;")]);
                let mut body = format!(
                    "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
                     <body>\n<h1>{title}</h1>\n<p>{why}</p>\n"
                );
                if !id.is_empty() {
                    let _ = writeln!(body, "<p>Request <code>{id}</code></p>");
                }
                (HTML, body + "</body>\n</html>\n")
            }
            (Form::Text, None) => {
                let mut body = format!("{title}: {why}\n");
                if !id.is_empty() {
                    let _ = writeln!(body, "request {id}");
                }
                ("text/plain", body)
            }
        }
    }
}

/// A sentence of ours, where some characters mean something.
fn escaped(text: &str, with: &[(char, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match with.iter().find(|(other, _)| *other == character) {
            Some((_, escape)) => out.push_str(escape),
            None => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::observe::{IdRules, Random, RequestIds};

    fn own<'a>(status: u16, pages: &'a Pages) -> Own<'a> {
        Own {
            status,
            why: "it is \"a\" \\ <b> & c",
            date: b"date: now\r\n",
            ids: None,
            pages,
            field: None,
            is_head: false,
            form: Form::Text,
            is_http10: false,
            keep_alive: true,
        }
    }

    fn written(own: &Own<'_>) -> String {
        let mut out = Vec::new();
        own.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_form_says_the_same() {
        let none = Pages::default();
        let ids = IdRules { request: RequestIds::Upstream, ..IdRules::default() };
        let ids = ids.identify(None, false, &mut Random::new([1, 2, 3, 4]));
        let check = |own: Own<'_>, content_type: &str, expected: &str| {
            let reply = written(&own);
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, expected);
            assert!(
                head.contains(&format!("\r\ncontent-type: {content_type}\r\nvary: accept\r\n")),
                "{head}"
            );
            assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{head}");
            // The head alone has the same length.
            let alone = written(&Own { is_head: true, ..own });
            assert_eq!(alone, format!("{head}\r\n\r\n"));
        };
        check(own(404, &none), "text/plain", "404 Not Found: it is \"a\" \\ <b> & c\n");
        let id = "002d0000000000000000000000000000";
        check(
            Own { ids: Some(&ids), ..own(404, &none) },
            "text/plain",
            &format!("404 Not Found: it is \"a\" \\ <b> & c\nrequest {id}\n"),
        );
        check(
            Own { form: Form::Problem, ids: Some(&ids), ..own(504, &none) },
            "application/problem+json",
            &format!(
                "{{\"type\":\"about:blank\",\"title\":\"Gateway Timeout\",\"status\":504,\"detail\":\"it is \\\"a\\\" \\\\ <b> & c\",\
                 \"request_id\":\"{id}\"}}\n"
            ),
        );
        check(
            Own { form: Form::Html, ids: Some(&ids), ..own(502, &none) },
            "text/html; charset=utf-8",
            &format!(
                "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>502 Bad Gateway</title></head>\n<body>\n\
                 <h1>502 Bad Gateway</h1>\n<p>it is \"a\" \\ &lt;b&gt; &amp; c</p>\n<p>Request <code>{id}</code></p>\n</body>\n</html>\n"
            ),
        );
        let pages = Pages::new([(503, Page::new("<p>{request_id}</p>{request_id}").unwrap())].into());
        let html = "text/html; charset=utf-8";
        check(Own { ids: Some(&ids), ..own(503, &pages) }, html, &format!("<p>{id}</p>{id}"));
        check(own(503, &pages), html, "<p></p>");
        check(own(502, &pages), "text/plain", "502 Bad Gateway: it is \"a\" \\ <b> & c\n");
        let problem = written(&Own { form: Form::Problem, ..own(503, &pages) });
        assert!(problem.contains("retry-after: 1\r\n") && problem.contains("\"status\":503"), "{problem}");
        assert!(Page::new(&"x".repeat(Page::BYTES_MAX)).is_ok());
        assert!(Page::new(&"x".repeat(Page::BYTES_MAX + 1)).is_err());
    }
}

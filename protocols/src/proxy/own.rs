//! Answers that no upstream gives: those of routes that say what to answer, redirects, and the refusal of what no route takes.

use super::accept::Form;
use super::client::{Begun, Client, Peer};
use super::limit::{Limit, client_of};
use super::normal::{Host, Path, Unclear};
use super::pages::Own;
use super::plan::Refused;
use super::route::{FixedReply, Missed, Target};
use super::state::State;
use crate::http::message::{Framing, Head, Method, Version};
use crate::http::one::emit;
use ringmill_engine::Io;

impl State {
    /// Answers a request of OPTIONS that goes no further.
    pub(super) fn answer_options(
        &self,
        (head, len, keep_alive): (&Head<'_, '_>, usize, bool),
        io: &mut Io<'_>,
    ) -> Begun {
        emit::write_status_line(io.buffer(), 200);
        let end = emit::head_end(keep_alive, head.version == Version::Http10);
        io.write(&[&self.date[..], b"content-length: 0\r\n", end].concat());
        let status = 200;
        if keep_alive { Begun::Answered { bytes: len, status } } else { Begun::Close { status } }
    }

    /// Sends a request on to HTTPS, if its listener does that; `None` where it is served.
    pub(super) fn send_to_https(
        &self,
        client: &Client,
        head: &Head<'_, '_>,
        is_secured: bool,
    ) -> Option<Result<Vec<u8>, Unclear>> {
        let port = client.https_port.filter(|_| !is_secured && head.path.as_bytes() != b"*")?;
        let location = || {
            let path = Path::new(head.path.as_bytes())?;
            let host = Host::new(head.host.map_or(b"", |host| host.as_bytes()), 80)?;
            let mut to = b"https://".to_vec();
            to.extend_from_slice(host.name());
            if port != 443 {
                to.extend_from_slice(format!(":{port}").as_bytes());
            }
            let to = String::from_utf8_lossy(&to);
            Ok(Target::location(&to, &path.text, head.query.map(|query| query.as_bytes())))
        };
        Some(location())
    }

    /// Answers what goes nowhere.
    #[cold]
    pub(super) fn turn_away(
        &self,
        refused: &Refused,
        (head, len, keep_alive): (&Head<'_, '_>, usize, bool),
        io: &mut Io<'_>,
    ) -> Begun {
        let (status, why) = refused.answer();
        let field = match refused {
            Refused::Unclear(_) => return self.refuse((status, why), head, io),
            Refused::Missed(Missed::Nothing) => None,
            Refused::Missed(Missed::Method(allowed)) => Some(("allow", allowed.as_bytes())),
        };
        let keep_alive = may_go_on((head, keep_alive), io);
        let own = Own {
            field,
            is_head: head.method == Method::Head,
            form: Form::of(&head.fields),
            is_http10: head.version == Version::Http10,
            keep_alive,
            ..self.own((status, why))
        };
        own.write(io.buffer());
        if keep_alive { Begun::Answered { bytes: len, status } } else { Begun::Close { status } }
    }

    pub(super) fn redirect(
        &self,
        status: u16,
        to: &[u8],
        request: (&Head<'_, '_>, usize, bool),
        io: &mut Io<'_>,
    ) -> Begun {
        let said = FixedReply::text(status, &b"this is served elsewhere\n"[..]);
        self.answer(&said, Some(("location", to)), request, io)
    }

    /// Answers what cannot be served, and closes: nobody knows where the next request begins, or whether to take it.
    #[cold]
    pub(super) fn refuse(&self, said: (u16, &str), head: &Head<'_, '_>, io: &mut Io<'_>) -> Begun {
        self.refuse_as(said, (head.method == Method::Head, Form::of(&head.fields)), io)
    }

    /// The same, for the head alone or not, and in this form.
    #[cold]
    pub(super) fn refuse_as(&self, said: (u16, &str), asked: (bool, Form), io: &mut Io<'_>) -> Begun {
        let (status, (is_head, form)) = (said.0, asked);
        Own { is_head, form, ..self.own(said) }.write(io.buffer());
        Begun::Close { status }
    }

    /// An answer to the request that is looked at, as if it were the last one and nobody had said in which form.
    fn own<'a>(&'a self, (status, why): (u16, &'a str)) -> Own<'a> {
        Own {
            status,
            why,
            date: &self.date,
            ids: self.seen.as_deref().map(|seen| &seen.ids),
            pages: &self.plan.front.pages,
            field: None,
            is_head: false,
            form: Form::Text,
            is_http10: false,
            keep_alive: false,
        }
    }

    /// Answers a request that is one too many for its route.
    pub(super) fn limit(
        &self,
        client: &mut Client,
        (head, len, keep_alive): (&Head<'_, '_>, usize, bool),
        limit: &Limit,
        io: &mut Io<'_>,
    ) -> Option<Begun> {
        let client = || {
            let Peer { ip, is_trusted, .. } = self.peer(client, io);
            client_of(&head.fields, (ip, is_trusted), &self.plan.front.trusted)
        };
        let after = limit.exceeded(&head.fields, self.now, client)?;
        // In whole seconds (RFC 9110, 10.2.3), of which none is too early; less than a millisecond is on its way longer.
        let secs = after.as_millis().div_ceil(1000).max(1);
        let said = FixedReply::text(429, "429 Too Many Requests: come again later\n");
        let after = itoa::Buffer::new().format(secs).to_owned();
        Some(self.answer(&said, Some(("retry-after", after.as_bytes())), (head, len, keep_alive), io))
    }

    /// Answers a request at once. Behind a body that nobody reads the connection ends.
    pub(super) fn answer(
        &self,
        said: &FixedReply,
        field: Option<(&str, &[u8])>,
        (head, len, keep_alive): (&Head<'_, '_>, usize, bool),
        io: &mut Io<'_>,
    ) -> Begun {
        let keep_alive = may_go_on((head, keep_alive), io);
        let out = io.buffer();
        emit::write_status_line(out, said.status);
        out.extend_from_slice(&self.date);
        if let Some(seen) = &self.seen {
            seen.ids.write_to_client(out);
        }
        if let Some((name, value)) = field {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        emit::write_field(out, "content-type", &said.content_type);
        emit::write_length(out, said.body.len() as u64);
        out.extend_from_slice(emit::head_end(keep_alive, head.version == Version::Http10));
        if head.method != Method::Head {
            out.extend_from_slice(&said.body);
        }
        let status = said.status;
        if keep_alive { Begun::Answered { bytes: len, status } } else { Begun::Close { status } }
    }
}

/// Whether the connection goes on behind an answer of ours: not behind a body, which nobody reads.
fn may_go_on((head, keep_alive): (&Head<'_, '_>, bool), io: &Io<'_>) -> bool {
    keep_alive && matches!(head.framing, Framing::None | Framing::Length(0)) && !io.is_draining()
}

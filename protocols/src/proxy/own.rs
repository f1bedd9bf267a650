//! Answers that no upstream gives: those of routes that say what to answer, redirects, and the refusal of what no route takes.

use super::client::{Begun, Client};
use super::fields::write_own_reply;
use super::normal::{Host, Path, Unclear};
use super::plan::Refused;
use super::route::{FixedReply, Missed, Target};
use super::state::State;
use crate::http::message::{Framing, Head, Method, Version};
use crate::http::one::emit;
use crate::http::status::reason;
use ringmill_engine::Io;

impl State {
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
            Refused::Unclear(_) => return self.refuse((status, why), head.method == Method::Head, io),
            Refused::Missed(Missed::Nothing) => None,
            Refused::Missed(Missed::Method(allowed)) => Some(("allow", allowed.as_bytes())),
        };
        let said = FixedReply::text(status, format!("{status} {}: {why}\n", reason(status)));
        self.answer(&said, field, (head, len, keep_alive), io)
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
    pub(super) fn refuse(&self, said: (u16, &str), is_head: bool, io: &mut Io<'_>) -> Begun {
        let ids = self.seen.as_deref().map(|seen| &seen.ids);
        write_own_reply(io.buffer(), said, (&self.date, ids), false, (is_head, false));
        Begun::Close { status: said.0 }
    }

    /// Answers a request at once. Behind a body that nobody reads the connection ends.
    pub(super) fn answer(
        &self,
        said: &FixedReply,
        field: Option<(&str, &[u8])>,
        (head, len, keep_alive): (&Head<'_, '_>, usize, bool),
        io: &mut Io<'_>,
    ) -> Begun {
        let keep_alive = keep_alive && matches!(head.framing, Framing::None | Framing::Length(0));
        let keep_alive = keep_alive && !io.is_draining();
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

//! The limits and choices of a WebSocket endpoint. What a peer may make it keep, do or wait for has its end here.

use crate::http::Request;
use std::time::Duration;

/// The limits and choices of a WebSocket endpoint.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose pages may connect.
    pub origins: Origins,
    /// The longest message taken, in bytes, inflated: beyond it the connection closes with 1009, before more of the message is read.
    pub message_bytes_max: usize,
    /// Messages are handed over as they come, to [`Handler::piece`](super::Handler::piece), and nothing of them is kept: those that are
    /// not compressed may then have any length.
    pub in_pieces: bool,
    /// If a client has left so many bytes unread when another message is sent to it, the connection closes with 4008. What is left of a
    /// large message that is being sent does not count. Keep it below `Config::output_bytes_max`.
    pub outgoing_bytes_max: usize,
    /// A client that has been silent for so long is sent a Ping...
    pub ping_after: Duration,
    /// ...and is gone (1006) if it stays silent for so long after that.
    pub pong_within: Duration,
    /// After our Close frame the client has so long to answer it.
    pub close_within: Duration,
    /// A client that sends more control frames (Ping, Pong) than this in [`CONTROL_WINDOW`] is closed with 1008.
    pub control_frames_max: u16,
    /// A message in more empty frames than this is closed with 1008.
    pub empty_frames_max: u16,
    /// Topics that a connection may subscribe to.
    pub subscriptions_max: usize,
    /// permessage-deflate (RFC 7692); `None`, the default, does not offer it.
    pub deflate: Option<Deflate>,
}

/// What [`Options::control_frames_max`] counts over.
pub const CONTROL_WINDOW: Duration = Duration::from_secs(10);

/// Whose pages may connect (RFC 6455, 10.2). A browser says in the field Origin which page a script comes from, and sends that
/// page's visitors' cookies along. A client that sends no Origin is no browser, and may always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Those of the same host and port, over TLS if the connection has it.
    #[default]
    Same,
    /// These, each as `https://example.com` or `http://localhost:8080`, and those of `Same`.
    List(Vec<String>),
    /// All: for what anybody may use without being known.
    Any,
}

/// How messages are compressed, where a client offers it.
#[derive(Clone, Debug)]
pub struct Deflate {
    /// 1 (fast) to 9 (small).
    pub level: u8,
    /// Our window, as a power of two: 9 to 15.
    pub window_bits: u8,
    /// Shorter messages are sent as they are...
    pub bytes_min: usize,
    /// ...and so are longer ones: they would hold up everybody else.
    pub bytes_max: usize,
    /// So many connections of a worker keep what was said before, to compress better ("context takeover"): about half a megabyte for
    /// each of them. The others share one compressor and one inflater, and cost nothing.
    pub contexts_max: usize,
    /// After so many inflated bytes in one turn of the worker, the rest waits for the next: a burst of small messages that inflate to
    /// large ones keeps nobody waiting.
    pub turn_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            origins: Origins::Same,
            message_bytes_max: 64 << 10,
            in_pieces: false,
            outgoing_bytes_max: 1 << 20,
            ping_after: Duration::from_secs(30),
            pong_within: Duration::from_secs(15),
            close_within: Duration::from_secs(5),
            control_frames_max: 2000,
            empty_frames_max: 64,
            subscriptions_max: 128,
            deflate: None,
        }
    }
}

impl Default for Deflate {
    fn default() -> Deflate {
        Deflate {
            level: 1,
            window_bits: 15,
            bytes_min: 1024,
            bytes_max: 256 << 10,
            contexts_max: 0,
            turn_bytes_max: 1 << 20,
        }
    }
}

impl Origins {
    /// Whether a request may do what only these pages may: it has no Origin, and comes from no browser, or one that is allowed.
    pub fn allow(&self, request: &Request<'_>) -> bool {
        let host = request.host().unwrap_or_default();
        let fields = request.fields();
        let mut origins = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(b"origin"));
        origins.all(|origin| self.allows(origin.value, host, request.is_secured()))
    }

    /// Whether a page of `origin` may connect to `host`.
    pub(super) fn allows(&self, origin: &[u8], host: &str, is_secured: bool) -> bool {
        match self {
            Origins::Any => true,
            Origins::Same => is_same(origin, host, is_secured),
            Origins::List(list) => {
                list.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(origin))
                    || is_same(origin, host, is_secured)
            }
        }
    }
}

/// Whether `origin` (RFC 6454, 7) is where the request went. A proxy in front may have taken TLS off, so that `https` cannot be refused.
fn is_same(origin: &[u8], host: &str, is_secured: bool) -> bool {
    let https = origin.strip_prefix(b"https://").map(|rest| (rest, ":443"));
    let http = origin.strip_prefix(b"http://").filter(|_| !is_secured).map(|rest| (rest, ":80"));
    https.or(http).is_some_and(|(authority, port)| {
        let plain = |authority: &[u8]| authority.strip_suffix(port.as_bytes()).unwrap_or(authority).to_vec();
        plain(authority).eq_ignore_ascii_case(&plain(host.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_origin() {
        let check = |origin: &str, host, is_secured, expected| {
            assert_eq!(is_same(origin.as_bytes(), host, is_secured), expected, "{origin} to {host}");
        };
        check("http://a.example", "a.example", false, true);
        check("http://A.example", "a.EXAMPLE", false, true);
        check("http://a.example:80", "a.example", false, true);
        check("http://a.example", "a.example:80", false, true);
        check("http://a.example:8080", "a.example:8080", false, true);
        check("https://a.example", "a.example", false, true);
        check("https://a.example", "a.example:443", true, true);
        check("http://[::1]:8080", "[::1]:8080", false, true);
        check("http://a.example", "a.example", true, false);
        check("http://a.example:8080", "a.example", false, false);
        check("http://a.example", "a.example:443", false, false);
        check("http://b.example", "a.example", false, false);
        check("http://a.example.b", "a.example", false, false);
        check("http://a.example/", "a.example", false, false);
        check("ftp://a.example", "a.example", false, false);
        check("null", "null", false, false);
        check("", "", false, false);
    }

    #[test]
    fn listed_origins() {
        let list = Origins::List(vec!["https://b.example".to_owned()]);
        assert!(list.allows(b"https://B.example", "a.example", true));
        assert!(list.allows(b"https://a.example", "a.example", true));
        assert!(!list.allows(b"http://b.example", "a.example", true));
        assert!(Origins::Any.allows(b"null", "a.example", true));
    }
}

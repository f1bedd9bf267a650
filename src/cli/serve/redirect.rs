//! Plain HTTP that is sent on to HTTPS.

use crate::cli::routes::Routes;
use ringmill::http::{Handler, Plan, Reply, Request, Upload};

/// The routes, or the way to them.
pub(super) struct Redirect {
    routes: Routes,
    /// `None`: they are served here.
    port: Option<u16>,
}

impl Redirect {
    pub(super) fn new(routes: Routes, port: Option<u16>) -> Redirect {
        Redirect { routes, port }
    }

    /// Where a request is sent on to. One that a proxy in front took over TLS has arrived, and `OPTIONS *` asks for no resource.
    fn port(&self, request: &Request<'_>) -> Option<u16> {
        self.port.filter(|_| !request.is_secured() && request.path_bytes() != b"*")
    }
}

impl Handler for Redirect {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match self.port(request) {
            None => self.routes.handle(request, reply),
            Some(port) => send_on(location(request, port), reply),
        }
    }

    fn plan(&mut self, request: &Request<'_>) -> Plan {
        match self.port(request) {
            None => self.routes.plan(request),
            Some(port) => Plan::Stream(Box::new(Ignored(location(request, port)))),
        }
    }
}

/// A body that is not wanted here: 308 has the client send it again, there.
struct Ignored(Option<String>);

impl Upload for Ignored {
    fn chunk(&mut self, _: &[u8], _: &mut Reply<'_>) {}

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        send_on(self.0, reply);
    }
}

fn send_on(location: Option<String>, reply: &mut Reply<'_>) {
    match location {
        Some(location) => reply.status(308).field("location", &location).text("this is served over HTTPS\n"),
        None => reply
            .status(400)
            .text("this is served over HTTPS, and without a Host field nobody can say where\n"),
    }
}

/// The same URL with https; `None` where the client did not say which host it asked.
fn location(request: &Request<'_>, port: u16) -> Option<String> {
    Some(https_url(request.host()?, port, request.path(), request.query()))
}

fn https_url(authority: &str, port: u16, path: &str, query: Option<&str>) -> String {
    // The colons of an IPv6 address stand in brackets.
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let path = if path.starts_with('/') { path } else { "/" };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("https://{host}{port}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_the_same_but_for_scheme_and_port() {
        let check = |authority, port, path, query, expected: &str| {
            assert_eq!(https_url(authority, port, path, query), expected);
        };
        check("a.test", 443, "/", None, "https://a.test/");
        check("a.test:8080", 443, "/b%20c", Some("d=e?f"), "https://a.test/b%20c?d=e?f");
        check("a.test:80", 8443, "/", Some(""), "https://a.test:8443/?");
        check("[::1]", 8443, "/", None, "https://[::1]:8443/");
        check("[::1]:8080", 443, "/", None, "https://[::1]/");
        check("a.test", 443, "*", None, "https://a.test/");
    }
}

//! Where the load goes: a URL, resolved, and whether it is a place where a test may be.

use super::LoadError;
use http::Uri;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// What the bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    /// WebSocket, echo.
    Ws,
    Tcp,
    Udp,
}

/// A URL that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    /// Host and port as in the URL: what the Host field says.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
    /// Over TLS; of HTTP and WebSocket alone.
    pub(super) is_secure: bool,
    /// The host without brackets: what a certificate must have.
    pub(super) host: String,
    port: u16,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let expected = "expected http://HOST[:PORT]/PATH, https://.., ws://.., wss://.., tcp://HOST:PORT or udp://HOST:PORT";
        let uri: Uri = encoded(text)?.parse().map_err(|error| format!("{error}: {expected}"))?;
        let scheme = match uri.scheme_str() {
            Some("http" | "https") => Scheme::Http,
            Some("ws" | "wss") => Scheme::Ws,
            Some("tcp") => Scheme::Tcp,
            Some("udp") => Scheme::Udp,
            Some(other) => return Err(format!("unknown scheme {other:?}: {expected}")),
            None => return Err(format!("no scheme: {expected}")),
        };
        let is_secure = matches!(uri.scheme_str(), Some("https" | "wss"));
        let authority = uri.authority().ok_or_else(|| format!("no host: {expected}"))?;
        if authority.as_str().contains('@') {
            return Err("user and password are not supported: give a header with --header".to_owned());
        }
        let port = match (authority.port_u16(), scheme) {
            (Some(port), _) => port,
            (None, _) if authority.as_str().len() > authority.host().len() => {
                return Err(format!("bad port: {expected}"));
            }
            (None, Scheme::Http | Scheme::Ws) if is_secure => 443,
            (None, Scheme::Http | Scheme::Ws) => 80,
            (None, _) => return Err(format!("no port: {expected}")),
        };
        let mut path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        if !path.starts_with('/') {
            // An empty path before a query (RFC 9112, 3.2.1).
            path.insert(0, '/');
        }
        if matches!(scheme, Scheme::Tcp | Scheme::Udp) && path != "/" {
            return Err(format!("an echo has no path: {expected}"));
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || port == 0 {
            return Err(format!("no host or port: {expected}"));
        }
        let authority = authority.as_str().to_owned();
        Ok(Target { scheme, authority, path, is_secure, host: bare.to_owned(), port })
    }
}

/// The URL with all that a path or a query may not have as it is (RFC 3986, 3.3 and 3.4) percent-encoded, as UTF-8. What is
/// encoded already stays.
fn encoded(text: &str) -> Result<String, String> {
    if text.contains(' ') {
        return Err("a URL cannot have a space: write it %20".to_owned());
    }
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("a URL cannot have a control character: write it %00 to %1F, or %7F".to_owned());
    }
    let host_at = text.find("://").map_or(0, |at| at + 3);
    let host_bytes = text[host_at..].find(['/', '?', '#']).unwrap_or(text.len() - host_at);
    let (front, rest) = text.split_at(host_at + host_bytes);
    if !front.is_ascii() {
        return Err("the host is not ASCII: write it xn--..., as the DNS has it (RFC 5891)".to_owned());
    }
    let mut url = front.to_owned();
    for byte in rest.bytes() {
        // The percent sign: of what is encoded. The number sign: before a fragment, which is not sent.
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%#".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url += &format!("%{byte:02X}");
        }
    }
    Ok(url)
}

impl Target {
    /// The addresses of the host, at least one, in the resolver's order. Those that are neither loopback nor private need
    /// `allow_public`.
    pub(super) fn resolve(&self, allow_public: bool) -> Result<Vec<SocketAddr>, LoadError> {
        let failed = |source| LoadError::Name { host: self.host.clone(), source };
        let resolved = (self.host.as_str(), self.port).to_socket_addrs().map_err(failed)?;
        let mut addresses: Vec<SocketAddr> = resolved.collect();
        let none = || failed(std::io::Error::other("the name has no address"));
        let first = *addresses.first().ok_or_else(none)?;
        addresses.retain(|address| allow_public || is_for_tests(address.ip()));
        if addresses.is_empty() { Err(LoadError::Public { address: first }) } else { Ok(addresses) }
    }
}

/// The first address, in turn, at which `attempt` succeeds: a name may have some that nobody serves.
pub(super) fn first_that_answers(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> std::io::Result<()>,
) -> Result<SocketAddr, LoadError> {
    let mut tried = Vec::new();
    for &address in addresses {
        match attempt(address) {
            Ok(()) => return Ok(address),
            Err(error) => tried.push((address, error)),
        }
    }
    Err(LoadError::Connect { tried })
}

/// All addresses that were tried, each with what came of it, and what may help.
pub(super) fn failures(tried: &[(SocketAddr, std::io::Error)]) -> String {
    let each: Vec<String> = tried.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    let hint = tried.iter().map(|(_, error)| hint(error)).find(|hint| !hint.is_empty());
    each.join("; ") + hint.unwrap_or_default()
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => " (nobody listens there: is the server running?)",
        std::io::ErrorKind::TimedOut => " (no answer: is a firewall in between?)",
        _ => "",
    }
}

/// Loopback, private, link-local, unique local: where only one's own machines are.
fn is_for_tests(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::udp::is_echoed;
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    #[test]
    fn urls() {
        let check = |text: &str, scheme, authority: &str, path: &str, host: &str, port| {
            let target: Target = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            let (authority, path, host) = (authority.to_owned(), path.to_owned(), host.to_owned());
            let is_secure = text.starts_with("https:") || text.starts_with("wss:");
            assert_eq!(target, Target { scheme, authority, path, is_secure, host, port });
        };
        check("https://localhost/a", Scheme::Http, "localhost", "/a", "localhost", 443);
        check("https://[::1]:8443?b", Scheme::Http, "[::1]:8443", "/?b", "::1", 8443);
        check("http://127.0.0.1:8080/a?b=c", Scheme::Http, "127.0.0.1:8080", "/a?b=c", "127.0.0.1", 8080);
        check("http://localhost", Scheme::Http, "localhost", "/", "localhost", 80);
        check("http://[::1]:80/", Scheme::Http, "[::1]:80", "/", "::1", 80);
        check("ws://localhost:8080/ws", Scheme::Ws, "localhost:8080", "/ws", "localhost", 8080);
        check("wss://localhost", Scheme::Ws, "localhost", "/", "localhost", 443);
        check("tcp://127.0.0.1:7", Scheme::Tcp, "127.0.0.1:7", "/", "127.0.0.1", 7);
        check("udp://[::1]:7", Scheme::Udp, "[::1]:7", "/", "::1", 7);
        check("http://a?x=1", Scheme::Http, "a", "/?x=1", "a", 80);
        check("http://a:8080?x=1/2", Scheme::Http, "a:8080", "/?x=1/2", "a", 8080);
        check("http://a#part", Scheme::Http, "a", "/", "a", 80);
        check("http://a?x#part?", Scheme::Http, "a", "/?x", "a", 80);
    }

    #[test]
    fn what_a_target_may_not_have_is_encoded() {
        let check = |sent: &str, expected: &str| {
            let target: Target = format!("http://a{sent}").parse().unwrap_or_else(|e| panic!("{sent}: {e}"));
            assert_eq!(target.path, expected, "{sent}");
        };
        check("/?q=\u{fc}", "/?q=%C3%BC");
        check("?q=\u{fc}", "/?q=%C3%BC");
        check("/\u{20ac}/\u{1f980}?\u{e9}=\u{a0}", "/%E2%82%AC/%F0%9F%A6%80?%C3%A9=%C2%A0");
        check("/x#\u{fc}", "/x");
        check(
            "/\"<>[\\]^`{|}?\"<>[\\]^`{|}",
            "/%22%3C%3E%5B%5C%5D%5E%60%7B%7C%7D?%22%3C%3E%5B%5C%5D%5E%60%7B%7C%7D",
        );
        // What is encoded stays as it is, and so does a percent sign that encodes nothing: it may be meant.
        check("/%C3%BC%c3%bc?%20=%", "/%C3%BC%c3%bc?%20=%");
        let all = "/AZaz09-._~!$&'()*+,;=:@/?AZaz09-._~!$&'()*+,;=:@/?";
        check(all, all);
    }

    #[test]
    fn bad_urls_say_what_is_wrong() {
        let check = |text: &str, word: &str| {
            let error = text.parse::<Target>().expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        };
        check("", "expected http://");
        check("127.0.0.1:8080", "expected http://");
        check("/plaintext", "no scheme");
        check("https:///", "expected http://");
        check("ftp://localhost/", "unknown scheme \"ftp\"");
        check("tcp://localhost", "no port");
        check("tcp://localhost:7/path", "no path");
        check("http://localhost:99999/", "port");
        check("http://localhost:0/", "port");
        check("http://user@localhost/", "user and password");
        check("http:///x", "expected http://");
        check("http://a/b c", "a space: write it %20");
        check("http://a b/", "a space: write it %20");
        check(" http://a/", "a space: write it %20");
        check("http://a/\t", "a control character");
        check("http://a/?\u{7f}", "a control character");
        check("http://a/\r\nX:y", "a control character");
        check("http://\u{fc}.test/", "not ASCII: write it xn--");
    }

    /// The addresses of a name whose first is nobody's, as `localhost` may have ::1 first.
    #[test]
    fn the_addresses_of_a_name_are_tried_in_turn() {
        let listener = |ip: &str| TcpListener::bind((ip, 0)).unwrap();
        let (first, second) = (listener("127.0.0.1"), listener("127.0.0.1"));
        let [first_at, second_at] = [&first, &second].map(|listener| listener.local_addr().unwrap());
        // Bound, so that nobody else gets the port, and not listening: refused.
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let refused = bound.local_addr().unwrap().as_socket().unwrap();
        let connect = |address| TcpStream::connect_timeout(&address, Duration::from_secs(10)).map(drop);
        let find = |addresses: &[SocketAddr]| first_that_answers(addresses, connect);
        assert_eq!(find(&[refused, second_at]).unwrap(), second_at);
        assert_eq!(find(&[refused, first_at, second_at]).unwrap(), first_at);
        assert_eq!(find(&[second_at, first_at]).unwrap(), second_at, "the order is the resolver's");
        let error = find(&[refused, refused]).unwrap_err().to_string();
        assert_eq!(error.matches(&format!("{refused}: Connection refused")).count(), 2, "{error}");
    }

    #[test]
    fn a_datagram_finds_the_address_that_echoes() {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (silent, echo) = (bind(), bind());
        let closed = bind().local_addr().unwrap();
        let all = [closed, silent.local_addr().unwrap(), echo.local_addr().unwrap()];
        let echoing = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let (bytes, from) = echo.recv_from(&mut buffer).unwrap();
            echo.send_to(&buffer[..bytes], from).unwrap();
        });
        let attempt = |wait| move |address| is_echoed(address, b"datagram", Duration::from_millis(wait));
        let error = first_that_answers(&all[..2], attempt(50)).unwrap_err().to_string();
        assert!(error.contains("; ") && error.contains("timed out"), "{error}");
        let found = first_that_answers(&[closed, all[2]], attempt(10_000));
        assert_eq!(found.unwrap(), all[2]);
        echoing.join().unwrap();
    }

    #[test]
    fn only_own_machines_without_being_asked() {
        let check = |ip: &str, expected| assert_eq!(is_for_tests(ip.parse().unwrap()), expected, "{ip}");
        for ip in ["127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1"] {
            check(ip, true);
        }
        for ip in ["::1", "fd00::1", "fe80::1", "::ffff:127.0.0.1"] {
            check(ip, true);
        }
        for ip in ["8.8.8.8", "172.32.0.1", "192.0.2.1", "0.0.0.0", "2001:db8::1", "::ffff:8.8.8.8"] {
            check(ip, false);
        }
    }
}

//! Where the load goes: a URL, resolved, and whether it is a place where a test may be.

use super::LoadError;
use http::Uri;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// What the bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
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
    host: String,
    port: u16,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let expected = "expected http://HOST[:PORT]/PATH, tcp://HOST:PORT or udp://HOST:PORT";
        let uri: Uri = text.parse().map_err(|error| format!("{error}: {expected}"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("tcp") => Scheme::Tcp,
            Some("udp") => Scheme::Udp,
            Some("https") => return Err("https is not supported: there is no TLS yet; use http".to_owned()),
            Some(other) => return Err(format!("unknown scheme {other:?}: {expected}")),
            None => return Err(format!("no scheme: {expected}")),
        };
        let authority = uri.authority().ok_or_else(|| format!("no host: {expected}"))?;
        if authority.as_str().contains('@') {
            return Err("user and password are not supported: give a header with --header".to_owned());
        }
        let port = match (authority.port_u16(), scheme) {
            (Some(port), _) => port,
            (None, _) if authority.as_str().len() > authority.host().len() => {
                return Err(format!("bad port: {expected}"));
            }
            (None, Scheme::Http) => 80,
            (None, _) => return Err(format!("no port: {expected}")),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        if scheme != Scheme::Http && path != "/" {
            return Err(format!("an echo has no path: {expected}"));
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || port == 0 {
            return Err(format!("no host or port: {expected}"));
        }
        let authority = authority.as_str().to_owned();
        Ok(Target { scheme, authority, path: path.to_owned(), host: bare.to_owned(), port })
    }
}

impl Target {
    /// The first address of the host. One that is neither loopback nor private needs `allow_public`.
    pub(super) fn resolve(&self, allow_public: bool) -> Result<SocketAddr, LoadError> {
        let failed = |source| LoadError::Name { host: self.host.clone(), source };
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs().map_err(failed)?;
        let none = || failed(std::io::Error::other("the name has no address"));
        let address = addresses.next().ok_or_else(none)?;
        if allow_public || is_for_tests(address.ip()) {
            return Ok(address);
        }
        Err(LoadError::Public { address })
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
    use super::*;

    #[test]
    fn urls() {
        let check = |text: &str, scheme, authority: &str, path: &str, host: &str, port| {
            let target: Target = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            let (authority, path, host) = (authority.to_owned(), path.to_owned(), host.to_owned());
            assert_eq!(target, Target { scheme, authority, path, host, port });
        };
        check("http://127.0.0.1:8080/a?b=c", Scheme::Http, "127.0.0.1:8080", "/a?b=c", "127.0.0.1", 8080);
        check("http://localhost", Scheme::Http, "localhost", "/", "localhost", 80);
        check("http://[::1]:80/", Scheme::Http, "[::1]:80", "/", "::1", 80);
        check("tcp://127.0.0.1:7", Scheme::Tcp, "127.0.0.1:7", "/", "127.0.0.1", 7);
        check("udp://[::1]:7", Scheme::Udp, "[::1]:7", "/", "::1", 7);
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
        check("https://localhost/", "no TLS");
        check("ftp://localhost/", "unknown scheme \"ftp\"");
        check("tcp://localhost", "no port");
        check("tcp://localhost:7/path", "no path");
        check("http://localhost:99999/", "port");
        check("http://localhost:0/", "port");
        check("http://user@localhost/", "user and password");
        check("http:///x", "expected http://");
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

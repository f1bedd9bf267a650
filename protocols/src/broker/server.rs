//! Which broker, as people write it, and what it calls a topic.

use std::fmt;
use std::str::FromStr;

/// A broker's address.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    pub(super) kind: Kind,
    /// As the client's library wants it.
    pub(super) url: String,
}

/// Which client speaks to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    #[cfg(feature = "broker-nats")]
    Nats,
    #[cfg(feature = "broker-redis")]
    Redis,
}

/// An address that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(String);

impl FromStr for Server {
    type Err = ServerError;

    /// `nats://host:4222`, `tls://host:4222` (NATS over TLS) or `redis://host:6379`, with `user:password@` in front of the host if it
    /// needs one, or `token@` for NATS; `%XX` is a byte that an address gives a meaning to.
    fn from_str(url: &str) -> Result<Server, ServerError> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        let kind = match scheme {
            #[cfg(feature = "broker-nats")]
            Some("nats" | "tls") => Kind::Nats,
            #[cfg(feature = "broker-redis")]
            Some("redis") => Kind::Redis,
            #[cfg(not(feature = "broker-nats"))]
            Some("nats" | "tls") => return Err(left_out("broker-nats", url)),
            #[cfg(not(feature = "broker-redis"))]
            Some("redis") => return Err(left_out("broker-redis", url)),
            _ => return Err(ServerError(format!("no broker's address: {}. Write {KNOWN}", hidden(url)))),
        };
        #[cfg(feature = "broker-nats")]
        if kind == Kind::Nats {
            let problem = match url.parse::<async_nats::ServerAddr>() {
                Ok(address) if address.host().is_empty() => Some("no host".to_owned()),
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                return Err(ServerError(format!("no address of NATS: {}: {problem}", hidden(url))));
            }
        }
        #[cfg(feature = "broker-redis")]
        if kind == Kind::Redis
            && let Err(error) = redis::Client::open(url)
        {
            return Err(ServerError(format!("no address of Redis: {}: {error}", hidden(url))));
        }
        Ok(Server { kind, url: url.to_owned() })
    }
}

#[cfg(all(feature = "broker-nats", feature = "broker-redis"))]
const KNOWN: &str = "nats://host:4222, tls://host:4222 or redis://host:6379";
#[cfg(all(feature = "broker-nats", not(feature = "broker-redis")))]
const KNOWN: &str = "nats://host:4222 or tls://host:4222";
#[cfg(all(not(feature = "broker-nats"), feature = "broker-redis"))]
const KNOWN: &str = "redis://host:6379";
#[cfg(not(any(feature = "broker-nats", feature = "broker-redis")))]
const KNOWN: &str = "none: this program was built without brokers";

/// A broker that this program does not know.
#[cfg(not(all(feature = "broker-nats", feature = "broker-redis")))]
fn left_out(feature: &str, url: &str) -> ServerError {
    let url = hidden(url);
    ServerError(format!(
        "{url}: this program was built without {feature}. Build it with --features {feature}, or write {KNOWN}"
    ))
}

/// An address for logs: without what may be a password, also where a part of it was forgotten.
fn hidden(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // What is no port may be the password of `user:password`, and what follows the end of it.
    let (host, path) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name, "")
        }
        _ => (host, path),
    };
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hidden(&self.url))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a broker calls a topic: the prefix, and one token without what NATS gives a meaning to (`.`, `*`, `>`, blanks). All that is not a
/// letter, a digit, `_` or `-` is written `=XX`, its bytes in hexadecimal; so names are told apart as topics are, and can be read.
pub(super) fn subject(prefix: &str, topic: &str) -> String {
    let mut subject = format!("{prefix}.");
    for byte in topic.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            subject.push(char::from(byte));
        } else {
            subject.push_str(&format!("={byte:02X}"));
        }
    }
    subject
}

/// A part of an address, in which `%XX` is a byte.
#[cfg(feature = "broker-nats")]
pub(super) fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_as_subjects() {
        assert_eq!(subject("ringmill", "news"), "ringmill.news");
        assert_eq!(subject("r", "a.b *>ü="), "r.a=2Eb=20=2A=3E=C3=BC=3D");
    }

    #[cfg(feature = "broker-nats")]
    #[test]
    fn parts_of_addresses() {
        let check = |part, expected: &str| assert_eq!(decoded(part), expected);
        check("", "");
        check("p%40ss%2fw%C3%BC", "p@ss/wü");
        check("100%", "100%");
        check("%4%zz%", "%4%zz%");
    }

    #[test]
    fn addresses() {
        let check = |url: &str, expected: &str| match url.parse::<Server>() {
            Ok(server) => assert_eq!(server.to_string(), expected),
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with(expected) && !error.contains("secret"), "{error}");
            }
        };
        #[cfg(feature = "broker-nats")]
        {
            check("nats://127.0.0.1:4222", "nats://127.0.0.1:4222");
            check("nats://user:secret@b.example", "nats://b.example");
            check("nats://[::1]:4222", "nats://[::1]:4222");
            check("nats://[::1]", "nats://[::1]");
            check("nats://", "no address of NATS");
            check("nats://user:secret", "no address of NATS: nats://user: ");
            check("nats://user:se/secret#secret", "no address of NATS: nats://user: ");
        }
        #[cfg(feature = "broker-redis")]
        {
            check("redis://:secret@127.0.0.1:6379/0", "redis://127.0.0.1:6379/0");
            check("redis://:secret@127.0.0.1:port", "no address of Redis: redis://127.0.0.1: ");
            check("redis://:secret", "no address of Redis: redis://: ");
            check("redis://127.0.0.1/0?secret", "redis://127.0.0.1/0");
        }
        #[cfg(not(feature = "broker-redis"))]
        check(
            "redis://:secret@b.example",
            "redis://b.example: this program was built without broker-redis. Build ",
        );
        check("kafka://user:secret@b.example", "no broker's address: kafka://b.example. Write ");
        check("redis+unix:///run/redis?pass=secret", "no broker's address: redis+unix:///run/redis. Write ");
        check("b.example", "no broker's address: b.example. Write ");
        check("user:secret@b.example", "no broker's address: b.example. Write ");
    }
}

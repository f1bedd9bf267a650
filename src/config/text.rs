//! Values of the file that people write as text: times, sizes, addresses. The text is kept, for defaults in the reference.

use super::lists::Listed;
use ringmill::layer::proxy::Network;
use ringmill::proxy::{Balance, CheckPath, HashBy, HostPattern, LogFormat, Name, Per, RequestIds, Traces};
use ringmill::{Address, DriverChoice, Pin, Rate, TlsVersion};
use ringmill_console::options::{self, Workers};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How a kind of text is read.
pub(crate) trait Kind {
    type Value;
    /// What it is called in the reference, with an example.
    const NAME: &str;

    fn read(text: &str) -> Result<Self::Value, String>;
}

/// A value and the text that it was read from.
pub(crate) struct Text<K: Kind> {
    pub(crate) value: K::Value,
    pub(crate) text: String,
}

impl<K: Kind> Text<K> {
    /// A default.
    ///
    /// # Panics
    /// If it cannot be read.
    pub(crate) fn of(text: &str) -> Text<K> {
        match K::read(text) {
            Ok(value) => Text { value, text: text.to_owned() },
            Err(error) => panic!("{text:?} is no default: {error}"),
        }
    }
}

impl<K: Kind<Value: Clone>> Clone for Text<K> {
    fn clone(&self) -> Self {
        Text { value: self.value.clone(), text: self.text.clone() }
    }
}

impl<K: Kind> PartialEq for Text<K> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<K: Kind> fmt::Debug for Text<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl<K: Kind> Serialize for Text<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Text<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

struct Reader<K>(PhantomData<K>);

impl<K: Kind> Visitor<'_> for Reader<K> {
    type Value = Text<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::NAME)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<K>, E> {
        let value = K::read(text).map_err(E::custom)?;
        Ok(Text { value, text: text.to_owned() })
    }

    /// `workers = 4`, `max_body = 65536`, `tls_min = 1.3`.
    fn visit_i64<E: Error>(self, number: i64) -> Result<Text<K>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Text<K>, E> {
        self.visit_str(&number.to_string())
    }
}

impl<K: Kind> JsonSchema for Text<K> {
    fn schema_name() -> Cow<'static, str> {
        K::NAME.into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": K::NAME })
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $value:ty = $text:literal, $read:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub(crate) enum $name {}

            impl Kind for $name {
                type Value = $value;
                const NAME: &str = $text;

                fn read(text: &str) -> Result<$value, String> {
                    let read: fn(&str) -> Result<$value, String> = $read;
                    read(text)
                }
            }
        )*
    };
}

kinds! {
    Timeout: Duration = "a time such as \"10s\", \"500ms\" or \"1h\"", options::timeout;
    Time: Duration = "a time such as \"10s\" or \"2m\"", options::duration;
    Size: u64 = "a size such as \"64KiB\" or \"1GiB\"", options::size;
    WorkersText: Workers = "a number, or \"auto\"", parsed;
    PinText: Pin = "\"auto\", \"off\" or a list such as \"0,2,4-7\"", parsed;
    Driver: DriverChoice = "\"auto\", \"uring\" or \"poll\"", parsed;
    TlsMin: TlsVersion = "\"1.2\" or \"1.3\"", parsed;
    ListenAddress: Address = "an address such as \"0.0.0.0:8080\", \"[::]:80\" or \"unix:/run/front.sock\"", |text| {
        text.parse().map_err(|error: ringmill::BadAddress| error.to_string())
    };
    NetworkText: Network = "a network such as \"10.0.0.0/8\", an address, or \"unix\"", |text| {
        text.parse().map_err(|error: ringmill::layer::proxy::BadNetwork| error.to_string())
    };
    HostText: HostPattern = "a host such as \"example.com\" or \"*.example.com\"", parsed;
    BalanceText: BalanceBy = "\"two-choices\", \"round-robin\", \"least\", \"hash-client\", \"hash-path\", \"hash-field:NAME\" or \"sticky\"", |text| match text {
        "sticky" => Ok(BalanceBy::Cookie),
        other => balance(other).map(BalanceBy::Rule).map_err(|_| format!("expected {}", BalanceText::NAME)),
    };
    RequestIdText: RequestIds = "\"off\", \"upstream\" or \"both\"", parsed;
    TraceText: Traces = "\"off\", \"trusted\" or \"any\"", parsed;
    ProtocolText: Protocol = "\"http/1.1\" or \"h2\"", parsed;
    SecretText: Vec<u8> = "a secret as \"file:/run/secrets/cookie\" or \"env:NAME\"", secret;
    ResolverText: SocketAddr = "the address of a name server such as \"10.0.0.2:53\"", |text| {
        text.parse().map_err(|_| format!("{text:?} is no IP:PORT"))
    };
    LogTargetText: LogTarget = "\"stdout\" or \"file:PATH\"", parsed;
    LogFormatText: LogFormat = "\"json\" or \"combined\"", parsed;
    ShareText: u32 = "a part such as \"0.1\"", share;
    PerText: Per = "\"client\", \"route\" or \"field:NAME\"", parsed;
    ListText: Listed = "a network such as \"10.0.0.0/8\", an address, or a file of them such as \"./deny.txt\"", parsed;
    RateText: Rate = "a rate such as \"100/s\", \"600/m\" or \"1000/h\"", parsed;
    CheckText: CheckPath = "a path such as \"/health\"", parsed;
    ServerText: Server = "a server such as \"10.0.0.5:3000\", \"unix:/run/app.sock\", \"https://api.example.com\" or \"dns:api.internal:3000\"", parsed;
}

/// What servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// As ALPN says it.
    pub(crate) fn alpn(self) -> &'static str {
        match self {
            Protocol::Http1 => "http/1.1",
            Protocol::Http2 => "h2",
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Protocol, String> {
        let all = [Protocol::Http1, Protocol::Http2];
        let problem = || format!("{text:?} is no protocol: expected http/1.1 or h2");
        all.into_iter().find(|protocol| protocol.alpn() == text).ok_or_else(problem)
    }
}

/// How a server is chosen: by a rule, or by a cookie, which needs a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BalanceBy {
    Rule(Balance),
    Cookie,
}

/// A secret of a file or a variable; line ends behind it are no part of it.
fn secret(text: &str) -> Result<Vec<u8>, String> {
    let read = if let Some(file) = text.strip_prefix("file:") {
        std::fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))
    } else if let Some(name) = text.strip_prefix("env:") {
        std::env::var(name).map(String::into_bytes).map_err(|error| format!("variable {name}: {error}"))
    } else {
        // Not the text itself: it may be the secret.
        Err(format!("expected {}", SecretText::NAME))
    };
    read.map(|bytes| bytes.trim_ascii_end().to_vec())
}

/// How a server is chosen.
pub(crate) fn balance(text: &str) -> Result<Balance, String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match text {
        "two-choices" => Ok(Balance::TwoChoices),
        "round-robin" => Ok(Balance::RoundRobin),
        "least" => Ok(Balance::Least),
        "hash-client" => Ok(Balance::Hash(HashBy::Client)),
        "hash-path" => Ok(Balance::Hash(HashBy::Path)),
        other => match other.strip_prefix("hash-field:").filter(|name| is_name(name)) {
            Some(name) => Ok(Balance::Hash(HashBy::Field(name.to_ascii_lowercase()))),
            None => Err("expected \"two-choices\", \"round-robin\", \"least\", \"hash-client\", \"hash-path\" or \"hash-field:NAME\"".to_owned()),
        },
    }
}

/// A part of all, in millionths.
pub(crate) fn share(text: &str) -> Result<u32, String> {
    let part = text.parse::<f64>().ok().filter(|part| (0.0..=1.0).contains(part));
    let part = part.ok_or_else(|| format!("{text:?} is no part of all: from 0 to 1, as 0.1"))?;
    Ok((part * 1e6).round() as u32)
}

/// Where an access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogTarget {
    Stdout,
    File(PathBuf),
}

impl FromStr for LogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<LogTarget, String> {
        match text.strip_prefix("file:") {
            _ if text == "stdout" => Ok(LogTarget::Stdout),
            Some(path) if !path.is_empty() => Ok(LogTarget::File(path.into())),
            _ => Err(format!("{text:?} is neither stdout nor file:PATH")),
        }
    }
}

fn parsed<T: FromStr<Err = String>>(text: &str) -> Result<T, String> {
    text.parse()
}

/// A server that requests go to, or a name of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) at: At,
    /// The name that its certificate must have, where it speaks TLS.
    pub(crate) secure_name: Option<String>,
}

/// Where servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Address(Address),
    /// It is looked up again and again.
    Name(Name),
}

/// An address of which the port is enough.
pub(crate) fn address_or_port(text: &str) -> Result<Address, String> {
    let text = if text.parse::<u16>().is_ok() { format!("127.0.0.1:{text}") } else { text.to_owned() };
    let described = |error: ringmill::BadAddress| format!("{error}; a number alone is a port of 127.0.0.1");
    text.parse().map_err(described)
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Server, String> {
        let name = text.strip_prefix("dns:");
        let Some((scheme, authority)) = name.unwrap_or(text).split_once("://") else {
            let at = match name {
                Some(name) => At::Name(name.parse()?),
                None => At::Address(no_port_zero(text, address_or_port(text)?)?),
            };
            return Ok(Server { at, secure_name: None });
        };
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            other => return Err(format!("unknown scheme {other:?}: expected http or https")),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#', '@']) {
            return Err("an upstream is a host and perhaps a port: requests bring their paths".to_owned());
        }
        if name.is_some() && authority.starts_with('_') {
            return Err(format!(
                "{authority} is a service (SRV), which has no scheme: expected HOST:PORT behind it"
            ));
        }
        let has_port =
            authority.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:{default_port}") };
        let host =
            with_port.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']).to_owned();
        let at = if name.is_some() {
            At::Name(with_port.parse()?)
        } else {
            let address = with_port.parse().map_err(|error: ringmill::BadAddress| error.to_string())?;
            At::Address(no_port_zero(text, address)?)
        };
        Ok(Server { at, secure_name: (scheme == "https").then_some(host) })
    }
}

fn no_port_zero(text: &str, address: Address) -> Result<Address, String> {
    match address.ip() {
        Some(ip) if ip.port() == 0 => {
            Err(format!("{text} has port 0, where nobody can be: give the server's"))
        }
        _ => Ok(address),
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Address(address) => address.fmt(f),
            At::Name(name) => name.fmt(f),
        }?;
        match &self.secure_name {
            Some(name) => write!(f, " (TLS as {name})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read() {
        let check = |text: &str, expected: &str| {
            let read = text.parse::<Server>().map_or_else(|error| error, |server| server.to_string());
            assert!(read.contains(expected), "{text}: {read}");
        };
        check("3000", "127.0.0.1:3000");
        check("10.0.0.5:3000", "10.0.0.5:3000");
        check("http://10.0.0.5", "10.0.0.5:80");
        check("http://10.0.0.5:81/", "10.0.0.5:81");
        check("https://127.0.0.1", "127.0.0.1:443 (TLS as 127.0.0.1)");
        check("https://[::1]:8443", "[::1]:8443 (TLS as ::1)");
        check("https://[::1]", "[::1]:443 (TLS as ::1)");
        check("unix:/run/app.sock", "unix:/run/app.sock");
        check("ftp://a", "unknown scheme \"ftp\": expected http or https");
        check("http://127.0.0.1/path", "requests bring their paths");
        check("127.0.0.1", "expected IP:PORT");
        check("127.0.0.1:0", "port 0");
        check("0", "port 0");
        check("dns:api.internal:80", "dns:api.internal:80");
        check("dns:_http._tcp.a", "dns:_http._tcp.a");
        check("dns:https://api.internal", "dns:api.internal:443 (TLS as api.internal)");
        check("dns:http://api.internal:81/", "dns:api.internal:81");
        check("dns:a", "HOST:PORT");
        check("dns:https://a/b", "requests bring their paths");
        check("dns:https://_http._tcp.a", "HOST:PORT");
    }

    #[test]
    fn a_log_goes_somewhere_and_has_a_part() {
        let check = |text: &str, expected| assert_eq!(text.parse::<LogTarget>().ok(), expected, "{text}");
        check("stdout", Some(LogTarget::Stdout));
        check("file:/x/y", Some(LogTarget::File("/x/y".into())));
        ["file:", "/x/y", "stderr"].into_iter().for_each(|none| check(none, None));
        let check = |text: &str, expected| assert_eq!(share(text).ok(), expected, "{text}");
        check("0", Some(0));
        check("0.1", Some(100_000));
        check("1", Some(1_000_000));
        ["", "-0.1", "1.1", "NaN", "inf", "10%"].into_iter().for_each(|none| check(none, None));
    }

    #[test]
    fn a_number_is_a_port_of_this_machine() {
        let check = |text: &str, expected: &str| {
            let read = address_or_port(text).map_or_else(|error| error, |address| address.to_string());
            assert!(read.contains(expected), "{text}: {read}");
        };
        check("8080", "127.0.0.1:8080");
        check("0.0.0.0:80", "0.0.0.0:80");
        check("65536", "a number alone is a port of 127.0.0.1");
    }
}

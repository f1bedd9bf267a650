//! The profiles: what is asked of a server, by how many connections, and what must come back.

use serde::{Serialize, Serializer};
use std::str::FromStr;

/// One way to load a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Profile {
    KeepAlive64,
    KeepAlive512,
    Pipelined16,
    OneRequest,
    TenRequests,
    Json,
    Mixed,
    Download,
    Upload,
    Idle,
    UdpEcho,
    TlsKeepAlive64,
    Tls64k,
    TlsHandshake,
    TlsResumed,
    TlsIdle,
    NineFields,
    Pending,
    PendingIdle,
    GrpcUnary,
    WsEcho64,
    WsPipelined16,
    WsFan,
    WsFanDeflate,
    WsIdle,
    WsSubscribed,
    Proxy100,
    Proxy64k,
    ProxyChurn,
    ProxyIdle,
    Relay100,
    Relay1m,
}

/// Sizes of the 20 bodies of `mixed`, in bytes: as the files of a site are spread, from an icon to a picture.
pub(super) const MIXED_BYTES: [usize; 20] = [
    300, 700, 1_200, 1_800, 2_500, 3_400, 4_700, 6_100, 8_000, 10_500, 13_800, 18_000, 23_500, 30_600,
    40_000, 52_000, 64_000, 88_000, 115_000, 150_000,
];
/// Bodies of `proxy-100`, of `tls-64k` and `proxy-64k`, and of `relay-1m`.
pub(super) const SMALL_BYTES: usize = 100;
pub(super) const LARGE_BYTES: usize = 64 * 1024;
pub(super) const HUGE_BYTES: usize = 1024 * 1024;
pub(super) const DOWNLOAD_BYTES: usize = 8 * 1024 * 1024;
pub(super) const UPLOAD_BYTES: usize = 1024 * 1024;
/// Datagrams of `udp-echo`.
pub(super) const DATAGRAM_BYTES: usize = 64;
/// A gRPC message as it goes over the wire: not compressed, 15 bytes, of which field 1 is a text of 13. The service of the peers
/// answers with what it is sent.
pub(super) const MESSAGE: &[u8] = b"\0\0\0\0\x0f\x0a\x0dHello, World!";
/// What a browser sends beside Host, its longest values shortened.
const BROWSER_FIELDS: &[&str] = &[
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: https://shop.example/catalogue/belts?page=2",
    "Cookie: session=4f1c2a9d8e7b6053; theme=dark; consent=1",
    "Sec-Fetch-Mode: navigate",
    "Priority: u=0, i",
];

/// What the client of a profile does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) ask: Ask,
    pub(super) connections: u32,
    pub(super) pipeline: u32,
    pub(super) requests_per_connection: Option<u32>,
    pub(super) handshakes: Handshakes,
    /// Header fields of a request, beside Host.
    pub(super) fields: &'static [&'static str],
}

/// TLS handshakes of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshakes {
    /// They are not what it is about, or there are none.
    Any,
    /// Every one a full one.
    Full,
    /// All but the first ones resume an earlier session.
    Resumed,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Plaintext,
    Json,
    Mixed,
    Small,
    Large,
    Huge,
    Download,
    Upload,
    Datagram,
    /// Of a handler that is not ready when it is first asked.
    Pending,
    /// A gRPC call: a message there, and one back.
    Unary,
    /// A WebSocket message that comes back.
    Echo,
    /// A WebSocket message that goes to all others.
    FanOut,
    /// The same, compressed.
    FanOutDeflated,
}

impl Profile {
    pub(super) const ALL: [Profile; 32] = [
        Profile::KeepAlive64,
        Profile::KeepAlive512,
        Profile::Pipelined16,
        Profile::OneRequest,
        Profile::TenRequests,
        Profile::Json,
        Profile::Mixed,
        Profile::Download,
        Profile::Upload,
        Profile::Idle,
        Profile::UdpEcho,
        Profile::TlsKeepAlive64,
        Profile::Tls64k,
        Profile::TlsHandshake,
        Profile::TlsResumed,
        Profile::TlsIdle,
        Profile::NineFields,
        Profile::Pending,
        Profile::PendingIdle,
        Profile::GrpcUnary,
        Profile::WsEcho64,
        Profile::WsPipelined16,
        Profile::WsFan,
        Profile::WsFanDeflate,
        Profile::WsIdle,
        Profile::WsSubscribed,
        Profile::Proxy100,
        Profile::Proxy64k,
        Profile::ProxyChurn,
        Profile::ProxyIdle,
        Profile::Relay100,
        Profile::Relay1m,
    ];

    /// Those of `--quick`.
    pub(super) const QUICK: [Profile; 4] =
        [Profile::KeepAlive64, Profile::Pipelined16, Profile::OneRequest, Profile::Idle];

    pub(super) fn name(self) -> &'static str {
        match self {
            Profile::KeepAlive64 => "keep-alive-64",
            Profile::KeepAlive512 => "keep-alive-512",
            Profile::Pipelined16 => "pipelined-16",
            Profile::OneRequest => "one-request",
            Profile::TenRequests => "ten-requests",
            Profile::Json => "json",
            Profile::Mixed => "mixed",
            Profile::Download => "download",
            Profile::Upload => "upload",
            Profile::Idle => "idle",
            Profile::UdpEcho => "udp-echo",
            Profile::TlsKeepAlive64 => "tls-keep-alive-64",
            Profile::Tls64k => "tls-64k",
            Profile::TlsHandshake => "tls-handshake",
            Profile::TlsResumed => "tls-resumed",
            Profile::TlsIdle => "tls-idle",
            Profile::NineFields => "nine-fields",
            Profile::Pending => "pending",
            Profile::PendingIdle => "pending-idle",
            Profile::GrpcUnary => "grpc-unary",
            Profile::WsEcho64 => "ws-echo-64",
            Profile::WsPipelined16 => "ws-pipelined-16",
            Profile::WsFan => "ws-fan-1000",
            Profile::WsFanDeflate => "ws-fan-1000-deflate",
            Profile::WsIdle => "ws-idle",
            Profile::WsSubscribed => "ws-subscribed",
            Profile::Proxy100 => "proxy-100",
            Profile::Proxy64k => "proxy-64k",
            Profile::ProxyChurn => "proxy-churn",
            Profile::ProxyIdle => "proxy-idle",
            Profile::Relay100 => "relay-100",
            Profile::Relay1m => "relay-1m",
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Profile::KeepAlive64 => "GET /plaintext on 64 keep-alive connections",
            Profile::KeepAlive512 => "GET /plaintext on 512 keep-alive connections",
            Profile::Pipelined16 => "GET /plaintext on 64 connections, 16 requests in flight on each",
            Profile::OneRequest => "GET /plaintext, a new connection for every request, 64 at a time",
            Profile::TenRequests => "GET /plaintext, a new connection for every ten requests, 64 at a time",
            Profile::Json => "GET /json on 64 keep-alive connections, serialised for every request",
            Profile::Mixed => "20 bodies of 300 to 150,000 bytes in turn, on 64 keep-alive connections",
            Profile::Download => "GET of 8 MiB on 4 keep-alive connections",
            Profile::Upload => "POST of 1 MiB on 16 keep-alive connections; the answer is the size received",
            Profile::Idle => "anonymous memory of a connection that does nothing",
            Profile::UdpEcho => "UDP echo of 64-byte datagrams, 256 flows with one outstanding each",
            Profile::TlsKeepAlive64 => "GET /plaintext over TLS on 64 keep-alive connections",
            Profile::Tls64k => "GET of 64 KiB over TLS on 32 keep-alive connections",
            Profile::TlsHandshake => {
                "GET /plaintext over TLS, a new connection with a full handshake for every request, 64 at a time"
            }
            Profile::TlsResumed => {
                "GET /plaintext over TLS, a new connection with a resumed session for every request, 64 at a time"
            }
            Profile::TlsIdle => "anonymous memory of a TLS connection that does nothing after its handshake",
            Profile::NineFields => {
                "GET /plaintext with a browser's nine header fields, on 64 keep-alive connections"
            }
            Profile::Pending => {
                "GET of a handler that yields once before it answers, on 64 keep-alive connections"
            }
            Profile::PendingIdle => {
                "anonymous memory of a connection that does nothing, before and after such a request"
            }
            Profile::GrpcUnary => "gRPC calls of 13 bytes, 32 at a time on each of 8 HTTP/2 connections",
            Profile::WsEcho64 => "WebSocket echo of 20 bytes on 64 connections",
            Profile::WsPipelined16 => "WebSocket echo of 20 bytes on 64 connections, 16 in flight on each",
            Profile::WsFan => {
                "messages of 64 bytes to 1,000 WebSockets of one topic; a request is a delivery"
            }
            Profile::WsFanDeflate => {
                "messages of 512 bytes, compressed, to 1,000 WebSockets of one topic; a request is a delivery"
            }
            Profile::WsIdle => {
                "anonymous memory of a WebSocket that does nothing, before and after its handshake"
            }
            Profile::WsSubscribed => "the same of one that subscribes to a topic",
            Profile::Proxy100 => "GET of 100 bytes through a proxy, on 64 keep-alive connections",
            Profile::Proxy64k => "GET of 64 KiB through a proxy, on 64 keep-alive connections",
            Profile::ProxyChurn => {
                "GET of 100 bytes through a proxy, a new connection for every request, 64 at a time"
            }
            Profile::ProxyIdle => "anonymous memory of a proxy's client that does nothing",
            Profile::Relay100 => "GET of 100 bytes through a relay of bytes, on 64 keep-alive connections",
            Profile::Relay1m => "GET of 1 MiB through a relay of bytes, on 16 keep-alive connections",
        }
    }

    /// None for `idle` and its like, which are not about requests.
    pub(super) fn shape(self) -> Option<Shape> {
        let keep_alive = |ask, connections| Shape {
            ask,
            connections,
            pipeline: 1,
            requests_per_connection: None,
            handshakes: Handshakes::Any,
            fields: &[],
        };
        let plain = keep_alive(Ask::Plaintext, 64);
        Some(match self {
            Profile::KeepAlive64 => plain,
            Profile::KeepAlive512 => keep_alive(Ask::Plaintext, 512),
            Profile::Pipelined16 => Shape { pipeline: 16, ..plain },
            Profile::OneRequest => Shape { requests_per_connection: Some(1), ..plain },
            Profile::TenRequests => Shape { requests_per_connection: Some(10), ..plain },
            Profile::Json => keep_alive(Ask::Json, 64),
            Profile::Mixed => keep_alive(Ask::Mixed, 64),
            Profile::Download => keep_alive(Ask::Download, 4),
            Profile::Upload => keep_alive(Ask::Upload, 16),
            // One outstanding: of several the load generator would make trains (UDP_SEGMENT), which the kernel hands on
            // whole to a server that asks for it (UDP_GRO), as Ringmill does, and cuts up for the others. Most clients
            // send no trains, and with them Ringmill looks eight times as good.
            Profile::UdpEcho => keep_alive(Ask::Datagram, 256),
            Profile::TlsKeepAlive64 => plain,
            Profile::Tls64k => keep_alive(Ask::Large, 32),
            Profile::TlsHandshake => {
                Shape { requests_per_connection: Some(1), handshakes: Handshakes::Full, ..plain }
            }
            Profile::TlsResumed => {
                Shape { requests_per_connection: Some(1), handshakes: Handshakes::Resumed, ..plain }
            }
            Profile::NineFields => Shape { fields: BROWSER_FIELDS, ..plain },
            Profile::Pending => keep_alive(Ask::Pending, 64),
            Profile::GrpcUnary => Shape { pipeline: 32, ..keep_alive(Ask::Unary, 8) },
            Profile::WsEcho64 => keep_alive(Ask::Echo, 64),
            Profile::WsPipelined16 => Shape { pipeline: 16, ..keep_alive(Ask::Echo, 64) },
            // One of them publishes.
            Profile::WsFan => keep_alive(Ask::FanOut, 1001),
            Profile::WsFanDeflate => keep_alive(Ask::FanOutDeflated, 1001),
            Profile::Proxy100 | Profile::Relay100 => keep_alive(Ask::Small, 64),
            Profile::Proxy64k => keep_alive(Ask::Large, 64),
            Profile::ProxyChurn => Shape { requests_per_connection: Some(1), ..keep_alive(Ask::Small, 64) },
            Profile::Relay1m => keep_alive(Ask::Huge, 16),
            Profile::Idle
            | Profile::TlsIdle
            | Profile::PendingIdle
            | Profile::WsIdle
            | Profile::WsSubscribed
            | Profile::ProxyIdle => return None,
        })
    }

    /// What its requests ask for, or the one request of connections that idle.
    pub(super) fn ask(self) -> Ask {
        match self.shape() {
            Some(shape) => shape.ask,
            None if self == Profile::PendingIdle => Ask::Pending,
            None if self == Profile::WsIdle => Ask::Echo,
            None if self == Profile::ProxyIdle => Ask::Small,
            None if self == Profile::WsSubscribed => Ask::FanOut,
            None => Ask::Plaintext,
        }
    }

    pub(super) fn is_udp(self) -> bool {
        self == Profile::UdpEcho
    }

    pub(super) fn is_tls(self) -> bool {
        use Profile::*;
        matches!(self, TlsKeepAlive64 | Tls64k | TlsHandshake | TlsResumed | TlsIdle)
    }

    pub(super) fn is_idle(self) -> bool {
        use Profile::*;
        matches!(self, Idle | TlsIdle | PendingIdle | WsIdle | WsSubscribed | ProxyIdle)
    }

    /// Requests go through a proxy that reads them.
    pub(super) fn is_proxied(self) -> bool {
        use Profile::*;
        matches!(self, Proxy100 | Proxy64k | ProxyChurn | ProxyIdle)
    }

    /// Requests go through what passes bytes on.
    pub(super) fn is_relayed(self) -> bool {
        matches!(self, Profile::Relay100 | Profile::Relay1m)
    }

    /// What is measured stands between the client and a server.
    pub(super) fn has_backend(self) -> bool {
        self.is_proxied() || self.is_relayed()
    }

    pub(super) fn is_websocket(self) -> bool {
        self.ask().is_websocket()
    }

    pub(super) fn is_about_tcp_requests(self) -> bool {
        !self.is_udp() && !self.is_idle()
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Profile, String> {
        Profile::ALL.into_iter().find(|profile| profile.name() == text).ok_or_else(|| {
            format!("there is no such profile; there are: {}", Profile::ALL.map(Profile::name).join(", "))
        })
    }
}

impl Serialize for Profile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Ask {
    /// The paths it asks for; a datagram has none.
    pub(super) fn paths(self) -> Vec<String> {
        match self {
            Ask::Plaintext => vec!["/plaintext".to_owned()],
            Ask::Json => vec!["/json".to_owned()],
            Ask::Mixed => MIXED_BYTES.iter().map(|bytes| format!("/bytes/{bytes}")).collect(),
            Ask::Small => vec![format!("/bytes/{SMALL_BYTES}")],
            Ask::Large => vec![format!("/bytes/{LARGE_BYTES}")],
            Ask::Huge => vec![format!("/bytes/{HUGE_BYTES}")],
            Ask::Download => vec![format!("/bytes/{DOWNLOAD_BYTES}")],
            Ask::Upload => vec!["/upload".to_owned()],
            Ask::Datagram => Vec::new(),
            Ask::Pending => vec!["/pending".to_owned()],
            Ask::Unary => vec!["/site.Texts/Echo".to_owned()],
            Ask::Echo => vec!["/ws".to_owned()],
            Ask::FanOut | Ask::FanOutDeflated => vec!["/ws/compare".to_owned()],
        }
    }

    /// The body that must come back from one of its paths.
    pub(super) fn expected(self, path: &str) -> Vec<u8> {
        match self {
            Ask::Plaintext | Ask::Pending => b"Hello, World!".to_vec(),
            Ask::Json => br#"{"message":"Hello, World!"}"#.to_vec(),
            Ask::Mixed | Ask::Small | Ask::Large | Ask::Huge | Ask::Download => {
                let bytes = path.rsplit('/').next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
                pattern(bytes)
            }
            Ask::Upload => UPLOAD_BYTES.to_string().into_bytes(),
            Ask::Datagram => Vec::new(),
            Ask::Unary => MESSAGE.to_vec(),
            Ask::Echo | Ask::FanOut | Ask::FanOutDeflated => pattern(self.message_bytes()),
        }
    }

    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Ask::Echo | Ask::FanOut | Ask::FanOutDeflated)
    }

    /// Of WebSocket messages, which are to go out compressed.
    pub(super) fn is_compressed(self) -> bool {
        self == Ask::FanOutDeflated
    }

    /// Bytes of a WebSocket message.
    pub(super) fn message_bytes(self) -> usize {
        match self {
            Ask::Echo => 20,
            Ask::FanOut => 64,
            Ask::FanOutDeflated => 512,
            _ => 0,
        }
    }

    /// Bytes of body that a request carries.
    pub(super) fn request_body_bytes(self) -> usize {
        if self == Ask::Upload { UPLOAD_BYTES } else { 0 }
    }
}

/// The first bytes of what `/bytes/N` serves.
pub(super) fn pattern(bytes: usize) -> Vec<u8> {
    let line = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n";
    line.iter().copied().cycle().take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(profile));
        }
        let error = "keepalive".parse::<Profile>().unwrap_err();
        assert!(error.contains("keep-alive-64") && error.contains("udp-echo"), "{error}");
    }

    #[test]
    fn every_path_has_an_expected_body() {
        for shape in Profile::ALL.into_iter().filter_map(Profile::shape) {
            for path in shape.ask.paths() {
                assert!(!shape.ask.expected(&path).is_empty(), "{path}");
            }
        }
        assert_eq!(Ask::Mixed.paths().len(), 20);
        assert_eq!(Ask::Mixed.expected("/bytes/300").len(), 300);
        assert_eq!(Profile::PendingIdle.ask(), Ask::Pending);
        assert_eq!(Profile::ProxyIdle.ask(), Ask::Small);
        // Host is the ninth.
        assert_eq!(Profile::NineFields.shape().unwrap().fields.len(), 8);
        assert_eq!((MESSAGE[4] as usize, MESSAGE.len()), (15, 5 + 15));
    }
}

//! How servers of an upstream are treated: whether they are well, how many connections there are with each, how long it may take, and when a
//! request is sent once more.

use super::super::text::{CheckText, Size, Text, Timeout};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a server is given no requests for a while: `eject = { after = 5 }`. A request fails if there is no connection, if a new one ends without a
/// reply, if nothing comes in time, or what comes is no reply or breaks off.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Eject {
    /// So many failures in a row; 0 for never.
    pub(crate) after: u32,
    /// For so long at first, and twice as long each time that follows soon.
    pub(crate) time: Text<Timeout>,
    /// The longest time.
    pub(crate) max_time: Text<Timeout>,
    /// So many of a hundred servers at most: where more should be, they go on, and the log says so.
    pub(crate) max_percent: u8,
    /// A reply with a status of 500 or more is a failure too.
    pub(crate) server_errors: bool,
}

impl Default for Eject {
    fn default() -> Eject {
        let (time, max_time) = (Text::of("10s"), Text::of("5m"));
        Eject { after: 5, time, max_time, max_percent: 50, server_errors: false }
    }
}

/// Requests that ask a server whether it is well: `health = { path = "/health" }`. While its answers are none of 200 to 399, it gets no requests,
/// unless that is so for all.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Health {
    /// What is asked for.
    pub(crate) path: Text<CheckText>,
    /// How often, a tenth more or less, however many workers there are.
    #[serde(default = "two_seconds")]
    pub(crate) every: Text<Timeout>,
    /// An answer may take so long.
    #[serde(default = "one_second")]
    pub(crate) timeout: Text<Timeout>,
    /// So many good ones in a row bring it back.
    #[serde(default = "two")]
    pub(crate) rise: u32,
    /// So many bad ones in a row take it out.
    #[serde(default = "three")]
    pub(crate) fall: u32,
}

fn two_seconds() -> Text<Timeout> {
    Text::of("2s")
}

fn one_second() -> Text<Timeout> {
    Text::of("1s")
}

fn two() -> u32 {
    2
}

fn three() -> u32 {
    3
}

/// Connections with each server of an upstream: `connections = { max = 500 }`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Connections {
    /// So many at most.
    pub(crate) max: u32,
    /// Idle ones that are kept, of those that were needed within `keep_for`. Each is one of a worker's connections
    /// (`server.max_connections`), so a descriptor.
    pub(crate) keep: u32,
    /// For so long: less than the server does, or it closes one that is just being used.
    pub(crate) keep_for: Text<Timeout>,
    /// An older one takes no further request.
    pub(crate) max_age: Text<Timeout>,
    /// Requests that wait for one; one more is answered with 503.
    pub(crate) queue: u32,
    /// One that has waited for so long is answered with 503.
    pub(crate) wait: Text<Timeout>,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections {
            max: 500,
            keep: 500,
            keep_for: Text::of("1500ms"),
            max_age: Text::of("1h"),
            queue: 1000,
            wait: Text::of("5s"),
        }
    }
}

/// How long replies and attempts to connect may take: `timeout = { first_byte = "30s" }`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Timeouts {
    /// The reply must begin within this time, once the request was sent, or its head if the client waits for a 100; else the answer is 504.
    pub(crate) first_byte: Text<Timeout>,
    /// A reply of which nothing comes for this time is cut, unless more of the request goes to the server meanwhile.
    pub(crate) idle: Text<Timeout>,
    /// A WebSocket on which nothing comes for this time is closed.
    pub(crate) tunnel: Text<Timeout>,
    /// An attempt to connect takes no longer; then another server has its turn. Left out, it is five seconds for `tcp`, and else what `server` says.
    pub(crate) connect: Option<Text<Timeout>>,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { first_byte: Text::of("30s"), idle: Text::of("30s"), tunnel: Text::of("1h"), connect: None }
    }
}

/// When a request is sent once more: `retry = { tries = 2 }`. Only where its connection ended without a byte of a reply, and it is GET, HEAD
/// or OPTIONS; or PUT, DELETE or one with an `Idempotency-Key`, and that connection had been kept. A fifth of the requests and three a
/// second at most.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Retry {
    /// How often a request is sent in all; 1 is never again.
    pub(crate) tries: u8,
    /// A request with more bytes than this is sent once; 64 KiB at most.
    pub(crate) max_bytes: Text<Size>,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { tries: 2, max_bytes: Text::of("64KiB") }
    }
}

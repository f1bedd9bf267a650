//! What the file says of clients that speak HTTP/2: from its table to what runs.

use super::problem::Problem;
use super::text::{Size, Text, Time, Timeout};
use ringmill::adapt::Http2Limits;
use schemars::JsonSchema;
use serde::Deserialize;
use std::ops::RangeInclusive;
use toml::Spanned;

/// What a frame may have (RFC 9113, 4.2), and a window (6.9.1): less than what every client begins with could not be told to it.
const FRAME_BYTES: RangeInclusive<u64> = 16 * 1024..=(1 << 24) - 1;
const WINDOW_BYTES: RangeInclusive<u64> = 65_535..=(1 << 31) - 1;
/// What fits into a setting.
const FIELD_BYTES: RangeInclusive<u64> = 1024..=u32::MAX as u64;
/// At least a frame, so that something moves, and no more than a window.
const SEND_BYTES: RangeInclusive<u64> = 16 * 1024..=(1 << 31) - 1;

/// What clients of HTTP/2 may do, besides what `limits` says for all. `limits.max_requests` is of a connection here as well: it is told to end then (GOAWAY).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Http2 {
    /// Requests that a client may have under way on a connection; more are refused (REFUSED_STREAM).
    #[schemars(with = "u32")]
    pub(crate) streams: Spanned<u32>,
    /// Fields of a request, as HPACK counts them; beyond them the answer is 431.
    #[schemars(with = "Text<Size>")]
    pub(crate) max_fields: Spanned<Text<Size>>,
    /// The largest frame that is taken.
    #[schemars(with = "Text<Size>")]
    pub(crate) max_frame: Spanned<Text<Size>>,
    /// What of request bodies may arrive before it is read: of one request, and of a connection.
    #[schemars(with = "Text<Size>")]
    pub(crate) window: Spanned<Text<Size>>,
    /// What of one reply is written before its client has taken it.
    #[schemars(with = "Text<Size>")]
    pub(crate) send_buffer: Spanned<Text<Size>>,
    /// Requests that a client may take back a second, ten seconds' worth of them at once; beyond them its connection ends.
    pub(crate) resets: u32,
    /// Requests that were taken back in the same breath in which they came; beyond them the connection ends.
    pub(crate) resets_at_once: u32,
    /// Requests of a connection that were refused for breaking the rules of HTTP/2; beyond them it ends.
    pub(crate) refusals: u32,
    /// A request whose client makes no room for its reply for this time is ended.
    pub(crate) stalled_timeout: Text<Timeout>,
    /// A client that is silent for this time while it waits for replies is asked whether it is there (PING); 0s is never.
    pub(crate) ping: Text<Time>,
    /// It has so long to answer.
    pub(crate) ping_timeout: Text<Timeout>,
    /// A connection that is this old, give or take a tenth, is told to end (GOAWAY). Left out, none is.
    pub(crate) max_age: Option<Text<Timeout>>,
    /// Requests of such a connection have so long to end.
    pub(crate) age_grace: Text<Timeout>,
    /// A gRPC call takes no longer, whatever deadline its client gives it. Left out, it is the client's.
    pub(crate) max_grpc_time: Option<Text<Timeout>>,
}

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

impl Default for Http2 {
    fn default() -> Http2 {
        Http2 {
            streams: spanned(200),
            max_fields: spanned(Text::of("16KiB")),
            max_frame: spanned(Text::of("16KiB")),
            window: spanned(Text::of("1MiB")),
            send_buffer: spanned(Text::of("256KiB")),
            resets: 100,
            resets_at_once: 20,
            refusals: 1024,
            stalled_timeout: Text::of("60s"),
            ping: Text::of("20s"),
            ping_timeout: Text::of("10s"),
            max_age: None,
            age_grace: Text::of("30s"),
            max_grpc_time: None,
        }
    }
}

impl Http2 {
    pub(super) fn limits(&self, problems: &mut Vec<Problem>) -> Http2Limits {
        if *self.streams.get_ref() == 0 {
            problems.push(Problem::at(self.streams.span(), "`http2.streams` is 0", "at least 1"));
        }
        let mut bytes = |key: &str, size: &Spanned<Text<Size>>, range: RangeInclusive<u64>| {
            let bytes = size.get_ref().value;
            if !range.contains(&bytes) {
                let what = format!("`http2.{key}` is {bytes} bytes");
                let remedy = format!("from {} to {} bytes", range.start(), range.end());
                problems.push(Problem::at(size.span(), what, remedy));
            }
            // In range it fits.
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Http2Limits {
            streams_max: *self.streams.get_ref(),
            field_bytes_max: bytes("max_fields", &self.max_fields, FIELD_BYTES),
            frame_bytes_max: bytes("max_frame", &self.max_frame, FRAME_BYTES),
            window_bytes: bytes("window", &self.window, WINDOW_BYTES),
            send_bytes_max: bytes("send_buffer", &self.send_buffer, SEND_BYTES) as usize,
            resets_pending_max: self.resets_at_once as usize,
            resets_own_max: self.refusals as usize,
            stalled_timeout: self.stalled_timeout.value,
            ping_interval: Some(self.ping.value).filter(|time| !time.is_zero()),
            ping_timeout: self.ping_timeout.value,
            age_max: self.max_age.as_ref().map(|age| age.value),
            age_grace: self.age_grace.value,
            grpc_timeout_max: self.max_grpc_time.as_ref().map(|time| time.value),
            ..Http2Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits(text: &str) -> (Http2Limits, u32, Vec<String>) {
        let table: Http2 = toml::from_str(text).unwrap();
        let mut problems = Vec::new();
        let limits = table.limits(&mut problems);
        (limits, table.resets, problems.into_iter().map(|problem| problem.what).collect())
    }

    #[test]
    fn each_key_says_its_limit_and_none_the_default() {
        assert_eq!(limits(""), (Http2Limits::default(), 100, Vec::new()));
        let all = "streams = 1\nmax_fields = \"2KiB\"\nmax_frame = \"32KiB\"\nwindow = \"64KiB\"\nsend_buffer = \"17KiB\"\n\
                   resets = 3\nresets_at_once = 4\nrefusals = 5\nstalled_timeout = \"6s\"\nping = \"0s\"\nping_timeout = \"7s\"\n\
                   max_age = \"8s\"\nage_grace = \"9s\"\nmax_grpc_time = \"10s\"\n";
        let expected = Http2Limits {
            streams_max: 1,
            field_bytes_max: 2048,
            frame_bytes_max: 32 * 1024,
            window_bytes: 64 * 1024,
            send_bytes_max: 17 * 1024,
            resets_pending_max: 4,
            resets_own_max: 5,
            stalled_timeout: Duration::from_secs(6),
            ping_interval: None,
            ping_timeout: Duration::from_secs(7),
            age_max: Some(Duration::from_secs(8)),
            age_grace: Duration::from_secs(9),
            grpc_timeout_max: Some(Duration::from_secs(10)),
            ..Http2Limits::default()
        };
        assert_eq!(limits(all), (expected, 3, Vec::new()));
    }

    #[test]
    fn all_that_is_out_of_range_is_told() {
        let text = "streams = 0\nmax_fields = \"1\"\nmax_frame = \"16MiB\"\nwindow = \"4GiB\"\nsend_buffer = \"1KiB\"\n";
        let (_, _, problems) = limits(text);
        let keys: Vec<&str> = problems.iter().filter_map(|what| what.split('`').nth(1)).collect();
        let all = ["streams", "max_fields", "max_frame", "window", "send_buffer"];
        let mut expected = all.map(|key| format!("http2.{key}")).to_vec();
        expected.sort();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(keys, expected);
    }
}

//! The limits and timeouts of HTTP/2. Those that both versions have are in [`http::Limits`](crate::http::Limits).

use ringmill_engine::Tick;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// The limits and timeouts of HTTP/2, besides [`http::Limits`](crate::http::Limits).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Streams that a client may have open on a connection: requests that are being answered. More are refused (REFUSED_STREAM).
    pub streams_max: u32,
    /// Fields of one request, as HPACK counts them: beyond them the answer is 431.
    pub field_bytes_max: u32,
    /// The largest frame that is taken, from 16 KiB to one byte less than 16 MiB.
    pub frame_bytes_max: u32,
    /// Streams that a client has reset and that are still being taken down (CVE-2023-44487): beyond them the connection ends.
    pub resets_pending_max: usize,
    /// Streams that were reset for what the client did (CVE-2025-8671), in the life of a connection: beyond them it ends.
    pub resets_own_max: usize,
    /// What may be received and not read: of a stream, and of a connection.
    pub window_bytes: u32,
    /// What may be written to a stream and not sent.
    pub send_bytes_max: usize,
    /// A stream whose client leaves no window for the next 16 KiB of its answer for so long is reset. While the client is behind with
    /// the whole connection, `Config::write_timeout` is what counts.
    pub stalled_timeout: Duration,
    /// A client that is silent for so long is asked whether it is still there (PING); `None` is never...
    pub ping_interval: Option<Duration>,
    /// ...and has so long to answer.
    pub ping_timeout: Duration,
    /// A connection that was told to end (GOAWAY) and has no streams has so long to say that it heard.
    pub goaway_timeout: Duration,
    /// A connection is told to end (GOAWAY) once it is this old, give or take a tenth; `None` is never. Clients then come again, and
    /// find servers that were not there before.
    pub age_max: Option<Duration>,
    /// Streams of such a connection have so long to end; then it is cut.
    pub age_grace: Duration,
    /// A call of gRPC takes no longer, whatever its `grpc-timeout` says, and whether it has one: it ends with DEADLINE_EXCEEDED. `None`
    /// leaves it to the client. Calls over HTTP/1.1 (gRPC-Web) have [`handler_timeout`](crate::http::Limits::handler_timeout) instead.
    pub grpc_timeout_max: Option<Duration>,
}

impl Default for Http2Limits {
    fn default() -> Http2Limits {
        Http2Limits {
            streams_max: 200,
            field_bytes_max: 16 * 1024,
            frame_bytes_max: 16 * 1024,
            resets_pending_max: 20,
            resets_own_max: 1024,
            window_bytes: 1024 * 1024,
            send_bytes_max: 256 * 1024,
            stalled_timeout: Duration::from_secs(60),
            ping_interval: Some(Duration::from_secs(20)),
            ping_timeout: Duration::from_secs(10),
            goaway_timeout: Duration::from_secs(1),
            age_max: None,
            age_grace: Duration::from_secs(30),
            grpc_timeout_max: None,
        }
    }
}

impl Http2Limits {
    /// By when a connection that begins now is to be told to end; its number is another one than that of those before it.
    pub(crate) fn old_at(&self, number: u64, now: Tick) -> Tick {
        // Not to be guessed is not what it is for: connections of one moment are to part.
        let mut hasher = DefaultHasher::new();
        (number, now.0).hash(&mut hasher);
        self.age(hasher.finish()).map_or(Tick::NEVER, |age| now.after(age))
    }

    /// The age at which one connection ends. Those that began together do not come back together: it differs by a tenth either way
    /// (gRFC A9), by `seed`.
    fn age(&self, seed: u64) -> Option<Duration> {
        let age = self.age_max?;
        // A generator's finishing steps (SplitMix64): neighbouring seeds are far apart behind them.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = (mixed ^ (mixed >> 31)) >> 32;
        let tenth = age / 10;
        Some((age - tenth).saturating_add((tenth * 2).mul_f64(share as f64 / (1_u64 << 32) as f64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_tenth_either_way() {
        let limits = Http2Limits { age_max: Some(Duration::from_secs(100)), ..Http2Limits::default() };
        let ages: Vec<f64> = (0..1000).map(|seed| limits.age(seed).unwrap().as_secs_f64()).collect();
        assert!(ages.iter().all(|age| (90.0..=110.0).contains(age)));
        let below = ages.iter().filter(|&&age| age < 100.0).count();
        assert!((400..600).contains(&below), "{below} of 1000 are younger");
        assert!(ages.iter().any(|&age| age < 92.0) && ages.iter().any(|&age| age > 108.0));
        assert_eq!(Http2Limits::default().age(7), None);
        let longest = Http2Limits { age_max: Some(Duration::MAX), ..limits };
        assert!(longest.age(7).is_some());
    }
}

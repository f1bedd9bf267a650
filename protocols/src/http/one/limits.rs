//! The limits and timeouts of a server. What each peer may make it do or wait for has its end here.

use super::decoder::BodyLimits;
use super::head::HeadLimits;
use std::time::Duration;

/// The limits and timeouts of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the request head: beyond them the answer is 414 or 431.
    pub head: HeadLimits,
    /// Of chunk extensions and trailers: beyond them the answer is 400.
    pub body: BodyLimits,
    /// A collected body, in bytes, unless the handler's plan says otherwise: beyond it the answer is 413.
    pub body_bytes_max: u64,
    /// A head that has begun must be complete within this time (408)...
    pub head_timeout: Duration,
    /// ...plus a second for so many bytes of it that have arrived.
    pub head_bytes_per_sec_min: u32,
    /// A body of which nothing arrives for so long closes the connection...
    pub body_idle_timeout: Duration,
    /// ...as does one of which less than so many bytes a second arrive, over that time. 0 is satisfied with one byte in it.
    pub body_bytes_per_sec_min: u32,
    /// A reply's source that is pending for so long is given up: the reply is cut.
    pub source_timeout: Duration,
    /// A reply's source that is waiting ([`Fill::Waiting`](crate::http::Fill::Waiting)) is given up after so long without a byte.
    pub waiting_timeout: Duration,
    /// A handler's future that is not ready after so long is dropped, and the answer is 503.
    pub handler_timeout: Duration,
    /// Futures of clients that have left and whose handlers run on ([`WhenGone::RunOn`]), for each worker: beyond them they are
    /// dropped.
    pub run_on_max: usize,
    /// What they may take in all, as far as it is known: their futures, and the heads of their requests.
    pub run_on_bytes_max: usize,
    /// One that is not ready so long after its client has left is dropped.
    pub run_on_timeout: Duration,
    /// A connection without a request closes after this time.
    pub keep_alive_timeout: Duration,
    /// A connection closes after so many requests; `None` is never.
    pub requests_max: Option<u32>,
    /// When the engine drains, an idle connection may still send a request for so long: it may be on its way.
    pub drain_grace: Duration,
}

/// What becomes of a handler's future whose client leaves before the answer is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenGone {
    /// It is dropped as soon as the client has ended its stream, or the connection is gone; nothing is answered.
    #[default]
    Drop,
    /// The end of the client's stream is not taken for its leaving: it is answered, as are the requests behind this one. Some
    /// clients and load balancers send their end early. The future is dropped when the connection is gone.
    HalfClose,
    /// It runs to its end, and what it answers is dropped: for what must not be cut in the middle. It has
    /// [`Limits::run_on_timeout`] for that; how many there may be, and what they may take, is [`Limits::run_on_max`] and
    /// [`Limits::run_on_bytes_max`].
    RunOn,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head: HeadLimits::default(),
            body: BodyLimits::default(),
            body_bytes_max: 1024 * 1024,
            head_timeout: Duration::from_secs(10),
            head_bytes_per_sec_min: 256,
            body_idle_timeout: Duration::from_secs(30),
            body_bytes_per_sec_min: 256,
            source_timeout: Duration::from_secs(60),
            waiting_timeout: Duration::from_secs(3600),
            handler_timeout: Duration::from_secs(60),
            run_on_max: 1024,
            run_on_bytes_max: 16 * 1024 * 1024,
            run_on_timeout: Duration::from_secs(600),
            keep_alive_timeout: Duration::from_secs(75),
            requests_max: None,
            drain_grace: Duration::from_millis(100),
        }
    }
}

impl Limits {
    /// What must arrive of a body in `body_idle_timeout`.
    pub(crate) fn body_bytes_min(&self) -> u64 {
        let bytes = self.body_idle_timeout.as_secs_f64() * f64::from(self.body_bytes_per_sec_min);
        (bytes as u64).max(1)
    }
}

//! Requests whose bodies come first: they need no connection with an upstream until all of the body is here, or as much of it as is
//! waited for. So a client that sends slowly holds no place at a server. Only when a request sets out is decided; its bytes are where
//! those of any request are (`exchange.rs`), and are kept for another attempt as theirs are (`state.rs`).

use super::exchange::{Pipe, Way};
use super::state::State;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Where a request begins whose head is in `up`, and of whose body so many bytes are waited for: none for one that does not wait. A
/// client that waits for a 100 before it sends a body is given it here, because nobody else hears of it yet.
pub(super) fn first_way(up: &[u8], body_bytes: usize, expects: bool, down: &mut Pipe) -> Way {
    if body_bytes == 0 {
        return Way::Off;
    }
    if expects {
        down.bytes.extend_from_slice(CONTINUE);
    }
    Way::Buffering { until_bytes: up.len().saturating_add(body_bytes) }
}

impl Way {
    /// Whether nothing more is taken from the client now, with this for the upstream: a body that comes first may be longer than what
    /// waits for a slow upstream.
    pub(super) fn is_full(self, up: &Pipe) -> bool {
        match self {
            Way::Buffering { until_bytes } => up.bytes.len() >= until_bytes,
            Way::Waiting | Way::On(_) => up.is_full(),
            Way::Off => false,
        }
    }
}

impl State {
    /// Whether a request whose body comes first sets out now: it is complete, or it is longer than is waited for, or memory is short and
    /// no more may be kept here.
    pub(super) fn sets_out(&mut self, key: usize, is_memory_short: bool) -> bool {
        let exchange = &mut self.exchanges[key];
        let is_due = exchange.decoder.is_none() || exchange.way.is_full(&exchange.up) || is_memory_short;
        if !matches!(exchange.way, Way::Buffering { .. }) || !is_due {
            return false;
        }
        exchange.up.is_held = false;
        self.set_out(key);
        true
    }
}

//! Words for what handlers do that cannot work on a worker: the log says what does instead. tokio's own messages name the rule only.

use ringmill_engine::Tick;
use std::any::Any;
use std::time::Duration;

/// What tokio says (tokio 1.54: `runtime/scheduler/multi_thread/worker.rs`, `runtime/context/runtime.rs`, `util/error.rs`), and what helps.
const REMEDIES: [(&str, &str); 4] = [
    (
        "can call blocking only when running on the multi-threaded runtime",
        "block_in_place cannot work on a worker, which has one thread: await tokio::task::spawn_blocking instead",
    ),
    (
        "from within a runtime",
        "a handler may not block on a future: await it, or block in tokio::task::spawn_blocking",
    ),
    (
        "context was found, but it is being shutdown",
        "what a handler uses was made in another runtime of tokio, which has ended: make it in each worker (ringmill::serve_with), \
         or keep that runtime",
    ),
    (
        "there is no reactor running",
        "this worker is not hosted by tokio, whose timers and sockets need that: add Builder::tokio",
    ),
];

/// Tells what helps against a panic of a handler, if that is known.
#[cold]
pub(crate) fn tell(panic: &(dyn Any + Send)) {
    if let Some(remedy) = remedy(panic) {
        tracing::error!("about the panic: {remedy}");
    }
}

fn remedy(panic: &(dyn Any + Send)) -> Option<&'static str> {
    let text =
        panic.downcast_ref::<String>().map(|text| &**text).or(panic.downcast_ref::<&str>().copied())?;
    REMEDIES.iter().find(|(said, _)| text.contains(said)).map(|(_, remedy)| *remedy)
}

/// What is said of handlers that end too late: at most once a minute, as one that hangs is seldom alone.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    quiet_until: Tick,
}

const QUIET: Duration = Duration::from_secs(60);

impl Complaints {
    /// A service did not take a request in this time.
    #[cold]
    pub(crate) fn not_ready(&mut self, now: Tick, time: Duration) {
        if self.may(now) {
            tracing::warn!(
                ?time,
                "a service did not become ready for a request (poll_ready): its client is told 503 (Limits::handler_timeout). \
                 Some layer never lets go of what it waits for; said once a minute"
            );
        }
    }

    /// A handler did not answer in this time.
    #[cold]
    pub(crate) fn took_long(&mut self, now: Tick, time: Duration) {
        if self.may(now) {
            tracing::warn!(
                ?time,
                "a handler took too long: its client is told 503 (Limits::handler_timeout). A pool or client that was made in a runtime \
                 of tokio that has ended waits for ever: make it in each worker; said once a minute"
            );
        }
    }

    fn may(&mut self, now: Tick) -> bool {
        let may = self.quiet_until <= now;
        if may {
            self.quiet_until = now.after(QUIET);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_panics_have_a_remedy() {
        let check = |panic: &(dyn Any + Send), word: Option<&str>| match (remedy(panic), word) {
            (Some(remedy), Some(word)) => assert!(remedy.contains(word), "{remedy}"),
            (remedy, word) => assert_eq!(remedy, word),
        };
        check(&"can call blocking only when running on the multi-threaded runtime", Some("spawn_blocking"));
        check(
            &"Cannot start a runtime from within a runtime. This happens because".to_owned(),
            Some("await"),
        );
        check(&"A Tokio 1.x context was found, but it is being shutdown.".to_owned(), Some("serve_with"));
        check(&"index out of bounds", None);
        check(&7, None);
    }
}

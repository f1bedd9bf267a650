//! How long a start waits for an address that is in use: the kernel frees a ring, and the sockets with it, after its process has gone.
#![expect(clippy::disallowed_methods, reason = "it sleeps, and nobody is served yet")]

use std::time::{Duration, Instant};

/// How long a start waits for what is in use, over all addresses.
pub(crate) struct Patience {
    began: Instant,
    wait: Duration,
}

impl Patience {
    pub(crate) fn new(wait: Duration) -> Patience {
        Patience { began: Instant::now(), wait }
    }

    /// Sleeps a little, for another try; says no when it is over. Tries come often at first, for a ring that the kernel is about to
    /// free, and then seldom, because each is a connection to the server that has a Unix path.
    pub(crate) fn goes_on(&self) -> bool {
        let waited = self.began.elapsed();
        let pause = (waited / 2).clamp(Duration::from_millis(1), Duration::from_millis(100));
        std::thread::sleep(pause.min(self.wait.saturating_sub(waited)));
        waited < self.wait
    }
}

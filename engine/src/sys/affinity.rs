//! Which CPUs a thread may use.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that a thread may use.
#[derive(Clone, Copy)]
pub(crate) struct Affinity(Option<CpuSet>);

impl Affinity {
    /// Those of the calling thread.
    pub(crate) fn of_thread() -> Affinity {
        Affinity(sched_getaffinity(None).ok())
    }

    /// Lets the calling thread use them, and no others.
    pub(crate) fn apply(&self) {
        // Where it fails, the thread stays where it was started.
        let _ = self.0.map(|cpus| sched_setaffinity(None, &cpus));
    }
}

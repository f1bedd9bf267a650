//! Handlers that run on although their client has left (`WhenGone::RunOn`): what they answer is dropped.
//!
//! They belong to the protocol value, and its bell rings for them; each has a flag of its own that says whether it is the one to go on.

use super::limits::Limits;
use crate::http::misuse;
use crate::http::reply::Work;
use ringmill_engine::{Dialer, Tick, Waker};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::task::{Context, Wake};

/// The futures of clients that have left.
#[derive(Default)]
pub(super) struct Detached {
    tasks: Vec<Task>,
    /// There from the start of the worker on.
    start: Option<(Dialer, Waker)>,
}

struct Task {
    work: Box<dyn Work>,
    flag: Arc<Flag>,
    /// It is dropped then; `Tick::NEVER` until the time is known.
    due: Tick,
}

struct Flag {
    is_due: AtomicBool,
    bell: Waker,
}

impl Wake for Flag {
    fn wake(self: Arc<Flag>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Flag>) {
        self.is_due.swap(true, AcqRel);
        self.bell.wake();
    }
}

impl Detached {
    pub(super) fn start(&mut self, dialer: Dialer) {
        let bell = dialer.waker();
        self.start = Some((dialer, bell));
    }

    /// Takes a future that is not ready; it is polled at once, because the waker that it has is that of its connection.
    pub(super) fn keep(&mut self, work: Box<dyn Work>, limits: &Limits) {
        let Some((dialer, bell)) = &self.start else { return };
        let bytes: usize = self.tasks.iter().map(|task| task.work.bytes()).sum();
        if self.tasks.len() >= limits.run_on_max || bytes + work.bytes() > limits.run_on_bytes_max {
            tracing::warn!(
                tasks = self.tasks.len(),
                bytes,
                "a handler whose client has left is dropped: as many run on as may (Limits::run_on_max, run_on_bytes_max)"
            );
            return;
        }
        let flag = Arc::new(Flag { is_due: AtomicBool::new(true), bell: bell.clone() });
        self.tasks.push(Task { work, flag, due: Tick::NEVER });
        // Nobody says here what time it is: the next tick does.
        dialer.set_timer(Some(Tick::default()));
        self.look();
    }

    /// Drops those whose time is over, and gives a time to those that have none yet.
    pub(super) fn tick(&mut self, now: Tick, limits: &Limits) {
        let Some((dialer, _)) = &self.start else { return };
        for task in &mut self.tasks {
            task.due = task.due.min(now.after(limits.run_on_timeout));
        }
        let late: Vec<Task> = self.tasks.extract_if(.., |task| task.due <= now).collect();
        dialer.set_timer(self.tasks.iter().map(|task| task.due).min());
        if !late.is_empty() {
            tracing::warn!(
                tasks = late.len(),
                "handlers whose clients have left are dropped: they ran on for too long (Limits::run_on_timeout)"
            );
        }
    }

    /// Goes on with those that are due. A panic of one passes on once all had their turn.
    pub(super) fn look(&mut self) {
        let mut panic = None;
        let mut at = 0;
        while at < self.tasks.len() {
            let Task { work, flag, .. } = &mut self.tasks[at];
            if !flag.is_due.swap(false, AcqRel) {
                at += 1;
                continue;
            }
            let waker = flag.clone().into();
            let polled = catch_unwind(AssertUnwindSafe(|| work.poll(&mut Context::from_waker(&waker))));
            match polled {
                Ok(polled) if polled.is_pending() => at += 1,
                Ok(_) => self.tasks.swap_remove(at).work.retire(),
                Err(payload) => {
                    misuse::tell(&*payload);
                    panic = Some(payload);
                    drop(self.tasks.swap_remove(at));
                }
            }
        }
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

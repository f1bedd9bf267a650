//! A signal at a chosen moment, for tests of waits that are interrupted.

#![expect(clippy::disallowed_methods, reason = "a test's own thread waits for the moment")]

use std::sync::Once;
use std::thread::JoinHandle;
use std::time::Duration;

/// Sends a signal that does nothing to the calling thread in a while. Join what this returns before the thread ends.
pub(crate) fn interrupt_this_thread_after(delay: Duration) -> JoinHandle<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all-zero is a valid sigaction: no flags (so waits are not restarted) and an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as usize;
        // SAFETY: the handler touches nothing, so it may run at any moment; the old action is not asked for.
        unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()) };
    });
    // SAFETY: takes no memory.
    let thread = unsafe { libc::pthread_self() };
    std::thread::spawn(move || {
        std::thread::sleep(delay);
        // SAFETY: the caller joins this thread before its own ends, so the id is that of a live thread.
        unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
    })
}

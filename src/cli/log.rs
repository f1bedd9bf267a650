//! The log on standard error, at best effort: who logs never waits for it, and never fails over it.
//!
//! Lines go into a buffer, one thread writes them. A line that finds no room, or that standard error does not take, is
//! dropped and counted; the log says how many are missing, where they are missing. Panics are lines of the log, too.
//! Why this is no crate: ARCHITECTURE.md, "The log is its own".

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What may wait for standard error. A line takes about 100 bytes.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// How long the end of the process waits for standard error to take the last lines.
const FLUSH_TIME: Duration = Duration::from_millis(300);

static LOG: Log = Log::new();

/// From now on lines and panics go to standard error. Call it once; without a descriptor or a thread to be had it fails.
pub(crate) fn start(filter: EnvFilter) -> io::Result<Flush> {
    // A copy of the descriptor, not `io::stderr`: that has a lock, on which others would wait while the pipe is full.
    let mut writer = Writer::new(File::from(io::stderr().as_fd().try_clone_to_owned()?));
    let write = move || {
        loop {
            writer.write_waiting(&LOG);
        }
    };
    std::thread::Builder::new().name("log".to_owned()).spawn(write)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| &LOG)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .init();
    std::panic::set_hook(Box::new(log_panic));
    Ok(Flush)
}

/// Waits, when it is dropped, until standard error has taken the last lines; but not long.
#[must_use]
pub(crate) struct Flush;

impl Drop for Flush {
    fn drop(&mut self) {
        flush();
    }
}

/// The same for who ends the process without returning from `main`.
pub(crate) fn flush() {
    LOG.flush(FLUSH_TIME);
}

/// A level, or a list such as `info,ringmill_engine=debug`.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    // To a filter a word alone is a module whose every line is wanted: with a misspelt level the log would be empty.
    let is_level = |word: &str| word.trim().parse::<LevelFilter>().is_ok();
    if text.split(',').any(|word| !word.contains(['=', '[']) && !is_level(word)) {
        return Err("expected error, warn, info, debug, trace or off".to_owned());
    }
    EnvFilter::builder().parse(text).map_err(|error| error.to_string())
}

/// The panic hook. The standard one writes to standard error itself, and so waits where nobody reads it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let place = panic.location().map_or_else(|| "a place unknown".to_owned(), ToString::to_string);
    let message = panic.payload_as_str().unwrap_or("a value that is no text");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => {
            tracing::error!("thread '{thread}' panicked at {place}: {message}\n{backtrace}");
        }
        _ => tracing::error!("thread '{thread}' panicked at {place}: {message}"),
    }
}

/// The buffer between those who log and the thread that writes.
struct Log {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    written: Condvar,
}

struct Waiting {
    text: Vec<u8>,
    /// Lines that found no room behind `text`.
    dropped: u64,
    /// What was taken from here last is not written yet.
    is_writing: bool,
}

impl Log {
    const fn new() -> Log {
        let waiting = Waiting { text: Vec::new(), dropped: 0, is_writing: false };
        Log { waiting: Mutex::new(waiting), filled: Condvar::new(), written: Condvar::new() }
    }

    /// Nobody holds the lock for longer than it takes to copy a line.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if line.len() > WAITING_BYTES_MAX - waiting.text.len() {
            waiting.dropped += 1;
            return;
        }
        waiting.text.extend_from_slice(line);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Swaps the empty `text` for what waits, as soon as something does, and returns how many lines are missing behind it.
    fn take(&self, text: &mut Vec<u8>) -> u64 {
        let mut waiting = self.lock();
        waiting.is_writing = false;
        self.written.notify_all();
        let is_empty = |waiting: &mut Waiting| waiting.text.is_empty();
        let mut waiting = self.filled.wait_while(waiting, is_empty).unwrap_or_else(PoisonError::into_inner);
        waiting.is_writing = true;
        std::mem::swap(&mut waiting.text, text);
        std::mem::take(&mut waiting.dropped)
    }

    fn flush(&self, time: Duration) {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.text.is_empty();
        // Whether it was in time makes no difference to who ends.
        drop(self.written.wait_timeout_while(self.lock(), time, is_busy));
    }
}

/// One whole event a call: so the formatter writes.
impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writing thread's state.
struct Writer<W> {
    out: W,
    text: Vec<u8>,
    /// Lines that were dropped, or that `out` did not take, and of which it was not told yet.
    lost: u64,
}

impl<W: Write> Writer<W> {
    fn new(out: W) -> Writer<W> {
        Writer { out, text: Vec::new(), lost: 0 }
    }

    /// Waits for lines and writes them. An error is no reason to end: a full disk can have room again.
    fn write_waiting(&mut self, log: &Log) {
        let dropped = log.take(&mut self.text);
        for line in self.text.split_inclusive(|&byte| byte == b'\n') {
            tell_lost(&mut self.out, &mut self.lost);
            self.lost += u64::from(self.out.write_all(line).is_err());
        }
        self.text.clear();
        self.lost += dropped;
        tell_lost(&mut self.out, &mut self.lost);
    }
}

fn tell_lost(out: &mut impl Write, lost: &mut u64) {
    if *lost > 0 && writeln!(out, "ringmill: {lost} lines of the log are missing here").is_ok() {
        *lost = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes lines while it `works`.
    struct Out {
        text: Vec<u8>,
        works: bool,
    }

    impl Write for &mut Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.works {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn out(works: bool) -> Out {
        Out { text: Vec::new(), works }
    }

    #[test]
    fn lines_that_find_no_room_are_counted_where_they_are_missing() {
        let (log, mut out) = (Log::new(), out(true));
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        (0..1024 + 7).for_each(|_| log.push(&line));
        let mut writer = Writer::new(&mut out);
        writer.write_waiting(&log);
        log.push(b"room again\n");
        writer.write_waiting(&log);
        let text = String::from_utf8(out.text).unwrap();
        let rest = text.strip_prefix(str::from_utf8(&line).unwrap().repeat(1024).as_str());
        assert_eq!(rest, Some("ringmill: 7 lines of the log are missing here\nroom again\n"));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told_later() {
        let (log, mut out) = (Log::new(), out(false));
        log.push(b"one\n");
        log.push(b"two\nthree\n");
        let mut writer = Writer::new(&mut out);
        writer.write_waiting(&log);
        writer.out.works = true;
        log.push(b"four\n");
        writer.write_waiting(&log);
        assert_eq!(out.text, b"ringmill: 3 lines of the log are missing here\nfour\n");
    }

    #[test]
    fn a_filter_is_a_level_or_a_list() {
        let check = |text, expected: bool| assert_eq!(filter(text).is_ok(), expected, "{text:?}");
        for good in ["error", "WARN", "off", "debug", "info,ringmill_engine=debug", "ringmill=trace"] {
            check(good, true);
        }
        for bad in ["loud", "info,loud", "ringmill=loud", "="] {
            check(bad, false);
        }
    }
}

//! The access log of a proxy on its way out: one thread takes what workers have noted, and writes it to standard output or to a file.
//!
//! Whoever does not take it holds up this thread alone: workers drop what finds no room then, and the end of the process waits a moment at
//! most. What is written is whole lines, or the log of the process says how many are missing.

use crate::config::text::LogTarget;
use ringmill::proxy::{AccessLog, Batch, LineWriter, LogFormat};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// How long a line may wait for others before it is written.
const GATHER: Duration = Duration::from_millis(100);
/// How long the end of the process waits for the last lines.
const FLUSH_TIME: Duration = Duration::from_millis(300);
/// Lost lines are told of once in so many rounds: about ten seconds.
const TELL_EVERY: u32 = 100;

/// Opens it; a file is appended to.
pub(super) fn open(target: &LogTarget) -> Result<File, String> {
    let opened = match target {
        // A copy of the descriptor, not `io::stdout`: that has a lock, on which others would wait while a pipe is full.
        LogTarget::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        // Who has asked for what is not everybody's business.
        LogTarget::File(path) => OpenOptions::new().append(true).create(true).mode(0o640).open(path),
    };
    opened.map_err(|error| match target {
        LogTarget::Stdout => format!("no access log on standard output: {error}"),
        LogTarget::File(path) => format!("no access log in {}: {error}", path.display()),
    })
}

/// The thread that writes, once there is something to write to. Clones are the same one.
#[derive(Clone)]
pub(super) struct LogWriter {
    shared: Arc<Shared>,
    log: AccessLog,
}

#[derive(Default)]
struct Shared {
    orders: Mutex<Orders>,
    written: Condvar,
}

#[derive(Default)]
struct Orders {
    thread: Option<Thread>,
    /// Where lines go from now on, and how.
    next: Option<(File, LogFormat)>,
    /// What is there is to be written at once.
    ends: bool,
    /// And was.
    has_ended: bool,
}

impl LogWriter {
    /// Lines of this log, once it is told where they go.
    pub(super) fn new(log: AccessLog) -> LogWriter {
        LogWriter { shared: Arc::default(), log }
    }

    /// From now on lines go there. Lines that are being written still go where they went.
    pub(super) fn direct(&self, to: File, format: LogFormat) -> Result<(), String> {
        let mut orders = lock(&self.shared.orders);
        orders.next = Some((to, format));
        if orders.thread.is_none() {
            let spawned = self.spawn().map_err(|error| format!("no thread for the access log: {error}"))?;
            orders.thread = Some(spawned.thread().clone());
        }
        Ok(())
    }

    fn spawn(&self) -> io::Result<JoinHandle<()>> {
        let LogWriter { shared, log } = self.clone();
        let run = move || {
            log.wake(std::thread::current());
            let mut out = Out::default();
            let mut batch = Batch::default();
            while round(&shared, &log, &mut batch, &mut out) {
                std::thread::park_timeout(GATHER);
            }
        };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(run)
    }

    /// Waits until what workers have noted is written, but not long. It is the last that is written.
    pub(super) fn finish(&self) {
        let mut orders = lock(&self.shared.orders);
        let Some(thread) = &orders.thread else { return };
        thread.unpark();
        orders.ends = true;
        // Whether it was in time makes no difference to who ends.
        drop(self.shared.written.wait_timeout_while(orders, FLUSH_TIME, |orders| !orders.has_ended));
    }
}

/// Writes what is there; false when that was the last.
fn round(shared: &Shared, log: &AccessLog, batch: &mut Batch, out: &mut Out<File>) -> bool {
    let mut orders = lock(&shared.orders);
    let ends = orders.ends;
    if let Some((to, format)) = orders.next.take() {
        out.turn_to(to, format);
    }
    drop(orders);
    log.take(batch);
    out.write(batch);
    if ends {
        lock(&shared.orders).has_ended = true;
        shared.written.notify_all();
    }
    !ends
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where lines go, and what has become of them.
struct Out<W> {
    to: Option<W>,
    lines: LineWriter,
    text: Vec<u8>,
    /// What was written last is no whole line.
    is_torn: bool,
    /// Lines that were not taken, and of which was not told yet.
    lost: usize,
    rounds: u32,
}

impl<W> Default for Out<W> {
    fn default() -> Out<W> {
        let lines = LineWriter::default();
        Out { to: None, lines, text: Vec::new(), is_torn: false, lost: 0, rounds: TELL_EVERY }
    }
}

impl<W: Write> Out<W> {
    fn turn_to(&mut self, to: W, format: LogFormat) {
        (self.to, self.lines, self.is_torn) = (Some(to), LineWriter::new(format), false);
    }

    fn write(&mut self, batch: &Batch) {
        self.text.clear();
        if self.is_torn {
            self.text.push(b'\n');
        }
        for entry in batch.entries() {
            self.lines.write(&mut self.text, &entry);
        }
        let is_empty = self.text.len() <= usize::from(self.is_torn);
        if let Some(to) = self.to.as_mut().filter(|_| !is_empty)
            && let Err((at, error)) = write_all(to, &self.text)
        {
            self.is_torn = if at == 0 { self.is_torn } else { self.text[at - 1] != b'\n' };
            self.lost += self.text[at..].iter().filter(|byte| **byte == b'\n').count();
            self.tell(&error);
        } else if !is_empty {
            self.is_torn = false;
        }
        self.rounds = self.rounds.saturating_add(1);
    }

    fn tell(&mut self, error: &io::Error) {
        if self.rounds >= TELL_EVERY {
            let lost = std::mem::take(&mut self.lost);
            self.rounds = 0;
            tracing::warn!("the access log cannot be written: {error}: {lost} lines are missing");
        }
    }
}

/// As `write_all`, but where it failed is told.
fn write_all(to: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut at = 0;
    while at < bytes.len() {
        match to.write(&bytes[at..]) {
            Ok(0) => return Err((at, io::ErrorKind::WriteZero.into())),
            Ok(written) => at += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((at, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes.
    struct Narrow {
        text: Vec<u8>,
        room: usize,
    }

    impl Write for &mut Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room).min(7);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.text.write(&bytes[..taken])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn where_a_write_failed_is_told() {
        let mut narrow = Narrow { text: Vec::new(), room: 20 };
        assert!(write_all(&mut &mut narrow, b"one\ntwo\nthree").is_ok());
        let failed =
            write_all(&mut &mut narrow, b"four\nfive\nsix\n").map_err(|(at, error)| (at, error.kind()));
        assert_eq!(failed, Err((7, io::ErrorKind::StorageFull)));
        assert_eq!(narrow.text, b"one\ntwo\nthreefour\nfi");
    }
}

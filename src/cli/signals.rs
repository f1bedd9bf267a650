//! Signals of `ringmill serve` and `ringmill proxy`: what each orders.

use crate::cli::access_log::LogWriter;
use crate::cli::log;
use ringmill::{Error, Handle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// What has files read again.
pub(super) struct Reload {
    /// It is asked without an order as well, so often.
    pub(super) every: Option<Duration>,
    /// Told whether it was ordered.
    pub(super) run: Box<dyn FnMut(bool) + Send>,
}

impl Reload {
    /// What has all of these read again, where there are any.
    pub(super) fn all(all: impl IntoIterator<Item = Option<Reload>>) -> Option<Reload> {
        let mut all: Vec<Reload> = all.into_iter().flatten().collect();
        let every = all.iter().filter_map(|reload| reload.every).min();
        if all.is_empty() {
            return None;
        }
        let run = move |is_ordered| all.iter_mut().for_each(|reload| (reload.run)(is_ordered));
        Some(Reload { every, run: Box::new(run) })
    }
}

/// The signals that are listened to.
pub(super) struct Orders {
    signals: Signals,
    has_terminal: bool,
}

impl Orders {
    pub(super) fn listen() -> Result<Orders, Error> {
        let mut listened = vec![SIGTERM, SIGINT];
        // nohup(1) has it ignored, so that the server outlives its terminal.
        if !is_ignored(SIGHUP) {
            listened.push(SIGHUP);
        }
        let signals = Signals::new(listened).map_err(no_signals)?;
        Ok(Orders { signals, has_terminal: has_terminal() })
    }

    /// SIGHUP has files read again; where there are none, or because the terminal was closed, it drains. SIGTERM and
    /// SIGINT drain, a second one ends the process. SIGHUP is no second order to end: a closing terminal may send it
    /// twice, and systemd's SendSIGHUP= right behind SIGTERM.
    pub(super) fn follow(
        mut self,
        handle: Handle,
        drain: Duration,
        reload: Option<Reload>,
        access_log: Option<LogWriter>,
    ) -> Result<(), Error> {
        let reload = reload.map(reloader).transpose().map_err(no_signals)?;
        let watch = move || {
            let mut ordered = false;
            for signal in self.signals.forever() {
                let orders = signal != SIGHUP;
                // The kernel takes a terminal away from its processes before it tells them (setsid(2), tty(4)).
                let terminal_is_gone = self.has_terminal && !has_terminal();
                if let Some(reload) = reload.as_ref().filter(|_| !orders && !terminal_is_gone) {
                    // Full: one that has not begun yet will see what this one would.
                    let _ = reload.try_send(());
                    continue;
                }
                if ordered && orders {
                    tracing::warn!("second signal: ending at once");
                    access_log.iter().for_each(LogWriter::finish);
                    log::flush();
                    std::process::exit(128 + signal);
                }
                ordered |= orders;
                // Said first: with nothing to wait for, the end would be said before it.
                tracing::info!(
                    "draining: requests may finish for {drain:?}; a second SIGTERM or SIGINT ends at once"
                );
                // Again is no longer: the earlier end holds.
                handle.drain(drain);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop).map_err(no_signals)
    }
}

/// Reads files again whenever it is told to. On a thread of its own: files may be slow, and an order to end does not wait for them.
fn reloader(mut reload: Reload) -> std::io::Result<SyncSender<()>> {
    let (sender, receiver) = sync_channel(1);
    let run = move || {
        loop {
            let ordered = match reload.every {
                Some(every) => receiver.recv_timeout(every),
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match ordered {
                Ok(()) => (reload.run)(true),
                Err(RecvTimeoutError::Timeout) => (reload.run)(false),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    std::thread::Builder::new().name("reload".to_owned()).spawn(run).map(|_| sender)
}

/// Whether this process has a controlling terminal.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether whoever started this process has a signal ignored (SigIgn in proc_pid_status(5)).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn no_signals(source: std::io::Error) -> Error {
    Error::Worker { worker: 0, step: "handling signals", source }
}

//! What a connection brings, on its way to whoever keeps the connection: messages, its end, answers.

use bytes::Bytes;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A message and its topic.
pub(super) type Incoming = (Arc<str>, Bytes);

/// Why something ended, for people.
pub(super) type Reason = String;

/// Messages go in while the connection stands. Once it has ended, those that are in it still come out, and then its end does: so
/// nothing comes behind what was missed as if it followed.
#[derive(Clone)]
pub(super) struct Feed(Arc<Mutex<Result<mpsc::Sender<Incoming>, Reason>>>);

/// Messages came faster than they were taken.
pub(super) const TOO_SLOW: &str = "messages were not taken in time";

impl Feed {
    /// With room for so many messages.
    pub(super) fn new(messages_max: usize) -> (Feed, mpsc::Receiver<Incoming>) {
        let (sender, receiver) = mpsc::channel(messages_max.max(1));
        (Feed(Arc::new(Mutex::new(Ok(sender)))), receiver)
    }

    /// What messages are sent with, unless it has ended. Do not keep it.
    pub(super) fn sender(&self) -> Option<mpsc::Sender<Incoming>> {
        self.lock().as_ref().ok().cloned()
    }

    /// Nothing goes in any more; the first reason counts.
    pub(super) fn end(&self, reason: &str) {
        let mut feed = self.lock();
        if feed.is_ok() {
            *feed = Err(reason.to_owned());
        }
    }

    /// Why it has ended.
    pub(super) fn reason(&self) -> Reason {
        self.lock().as_ref().err().cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Result<mpsc::Sender<Incoming>, Reason>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to what a server was asked, if it comes in time.
pub(super) async fn in_time<T, E: Display>(
    within: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Reason> {
    match timeout(within, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {within:?}")),
    }
}

//! The life of a broker's connection: it is made, everything is subscribed to, messages go both ways, it is lost, and made again.

use super::feed::{Feed, Incoming, Reason};
use super::seam::{Event, Inbox, Options, Outgoing, State};
use super::server::{Kind, Server};
use super::wanted::{Changes, Steps, Wanted};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// A connection to a broker. What it brings comes by the feed that it was made with; the feed's end is the connection's.
pub(super) enum Connection {
    #[cfg(feature = "broker-nats")]
    Nats(super::nats::Nats),
    #[cfg(feature = "broker-redis")]
    Redis(super::redis::Redis),
}

/// A full inbox is asked again after this.
const FULL_WAIT: Duration = Duration::from_millis(1);
/// What was taken to be published has so long to leave at the end.
const END_WAIT: Duration = Duration::from_secs(1);
/// So many messages are published before others are looked at.
const BATCH_MAX: usize = 64;

/// Keeps a connection until it is told to end, and then for [`END_WAIT`] at most: whatever waits for the broker ends with it.
pub(super) async fn run(
    server: &Server,
    options: &Options,
    mut outgoing: mpsc::Receiver<Outgoing>,
    changes: &Changes,
    state: &State,
    inbox: &dyn Inbox,
) {
    let end = async {
        changes.over().await;
        sleep(END_WAIT).await;
    };
    tokio::select! {
        () = keep(server, options, &mut outgoing, changes, state, inbox) => {}
        () = end => {}
    }
    state.is_up.store(false, Ordering::Relaxed);
    outgoing.close();
    // Also what a thread was about to hand over.
    while outgoing.recv().await.is_some() {
        state.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// What was taken is not kept for a connection that nobody knows when to expect.
fn drop_taken(outgoing: &mut mpsc::Receiver<Outgoing>, state: &State) {
    while outgoing.try_recv().is_ok() {
        state.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Messages that were taken, and are counted where they go: whether the broker has them, or they are dropped.
struct Batch<'a> {
    messages: Vec<Outgoing>,
    state: &'a State,
}

impl Batch<'_> {
    fn published(&mut self) {
        self.state.published.fetch_add(self.messages.len() as u64, Ordering::Relaxed);
        self.messages.clear();
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.state.dropped.fetch_add(self.messages.len() as u64, Ordering::Relaxed);
    }
}

async fn keep(
    server: &Server,
    options: &Options,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    changes: &Changes,
    state: &State,
    inbox: &dyn Inbox,
) {
    let mut wanted = Wanted::default();
    let mut wait = options.retry_after;
    // Nothing is lost before there was anything.
    let mut is_lost = false;
    loop {
        let (feed, mut incoming) = Feed::new(options.incoming_max);
        let connecting = timeout(options.connect_within, Connection::open(server, options, feed.clone()));
        let Some(connected) = until_over(connecting, changes, &mut wanted).await else { return };
        let reason = match connected {
            Err(_) => format!("no answer in {:?}", options.connect_within),
            Ok(Err(reason)) => reason,
            Ok(Ok(connection)) => {
                let mut link =
                    Linked { connection, feed, outgoing: &mut *outgoing, changes, state, options, inbox };
                match link.begin(&wanted, &mut incoming).await {
                    // A server may take each connection, and then refuse what is asked of it.
                    Err(reason) => reason,
                    Ok(()) => {
                        tracing::info!(%server, topics = wanted.topics().len(), "connected to the broker");
                        (wait, is_lost) = (options.retry_after, false);
                        match link.serve(&mut wanted, incoming).await {
                            Ok(()) => return,
                            Err(reason) => reason,
                        }
                    }
                }
            }
        };
        if !is_lost {
            is_lost = true;
            tracing::warn!(%server, reason, "no connection to the broker: trying again until there is one");
            deliver(inbox, changes, Event::Lost(reason)).await;
        }
        let spread = wait.mul_f64(0.75 + 0.5 * unit_of_chance());
        if until_over(sleep(spread), changes, &mut wanted).await.is_none() {
            return;
        }
        wait = (wait * 2).min(options.retry_after_max);
    }
}

/// From zero to one.
fn unit_of_chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // A new state has new keys: std's only source of chance.
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}

/// Waits for something while there is no connection; `None` if the end comes first.
async fn until_over<T>(what: impl Future<Output = T>, changes: &Changes, wanted: &mut Wanted) -> Option<T> {
    let mut what = pin!(what);
    loop {
        tokio::select! {
            done = &mut what => return Some(done),
            () = changes.wait() => {
                // It is subscribed to with the next connection.
                drop(wanted.take(changes));
                if changes.is_over() {
                    return None;
                }
            }
        }
    }
}

/// Offers an event until it is taken, or everything ends: then there may be nobody left who makes room.
async fn deliver(inbox: &dyn Inbox, changes: &Changes, mut event: Event) {
    while let Err(full) = inbox.offer(event) {
        if changes.is_over() {
            return;
        }
        event = full;
        sleep(FULL_WAIT).await;
    }
}

/// A connection, and who uses it.
struct Linked<'a> {
    connection: Connection,
    feed: Feed,
    outgoing: &'a mut mpsc::Receiver<Outgoing>,
    changes: &'a Changes,
    state: &'a State,
    options: &'a Options,
    inbox: &'a dyn Inbox,
}

impl Linked<'_> {
    /// Subscribes to everything that is wanted: up to here messages are missed, and not one behind it. Those that come meanwhile are of
    /// no use, and would fill the feed.
    async fn begin(
        &mut self,
        wanted: &Wanted,
        incoming: &mut mpsc::Receiver<Incoming>,
    ) -> Result<(), Reason> {
        let connection = &mut self.connection;
        let subscribing = async {
            connection.subscribe(&wanted.topics()).await?;
            connection.flush().await
        };
        let ended = async { while incoming.recv().await.is_some() {} };
        tokio::select! {
            begun = subscribing => begun,
            () = ended => Err(self.feed.reason()),
        }
    }

    /// Until the connection ends, which is an error, or everything does.
    async fn serve(
        mut self,
        wanted: &mut Wanted,
        mut incoming: mpsc::Receiver<Incoming>,
    ) -> Result<(), Reason> {
        // What is longer comes back to nobody.
        let payload_max = self.connection.payload_max().min(self.options.message_bytes_max);
        self.state.payload_max.store(payload_max, Ordering::Relaxed);
        self.state.connections.fetch_add(1, Ordering::Relaxed);
        deliver(self.inbox, self.changes, Event::Up).await;
        // A thread may have seen the last connection and been slow to hand over.
        drop_taken(self.outgoing, self.state);
        self.state.is_up.store(true, Ordering::Release);
        let ended = self.exchange(wanted, &mut incoming).await;
        self.state.is_up.store(false, Ordering::Relaxed);
        drop_taken(self.outgoing, self.state);
        ended
    }

    async fn exchange(
        &mut self,
        wanted: &mut Wanted,
        incoming: &mut mpsc::Receiver<Incoming>,
    ) -> Result<(), Reason> {
        let mut batch = Batch { messages: Vec::with_capacity(BATCH_MAX), state: self.state };
        loop {
            tokio::select! {
                arrived = incoming.recv() => match arrived {
                    Some((topic, _)) if !wanted.is_current(&topic) => {}
                    Some((topic, payload)) if payload.len() <= self.options.message_bytes_max => {
                        self.state.received.fetch_add(1, Ordering::Relaxed);
                        deliver(self.inbox, self.changes, Event::Message { topic, payload }).await;
                    }
                    Some((topic, payload)) => {
                        self.state.too_large.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(%topic, bytes = payload.len(), "a message is longer than they may be here: dropped");
                        deliver(self.inbox, self.changes, Event::Missed { topic }).await;
                    }
                    None => return Err(self.feed.reason()),
                },
                () = self.changes.wait() => {
                    self.change(wanted).await?;
                    if self.changes.is_over() {
                        let _ = self.publish_rest(&mut batch).await;
                        return Ok(());
                    }
                }
                taken = self.outgoing.recv_many(&mut batch.messages, BATCH_MAX) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    self.publish(&mut batch, wanted).await?;
                }
            }
        }
    }

    /// Does what has changed since it was last looked at.
    async fn change(&mut self, wanted: &mut Wanted) -> Result<(), Reason> {
        let Steps { subscribe, unsubscribe } = wanted.take(self.changes);
        self.connection.subscribe(&subscribe).await?;
        for topic in subscribe {
            deliver(self.inbox, self.changes, Event::Subscribed { topic }).await;
        }
        self.connection.unsubscribe(&unsubscribe).await
    }

    async fn publish_rest(&mut self, batch: &mut Batch<'_>) -> Result<(), Reason> {
        while let Ok(message) = self.outgoing.try_recv() {
            batch.messages.push(message);
        }
        self.hand_over(batch).await?;
        self.connection.flush().await
    }

    /// Publishes, but first subscribes: who has done both in this order gets it.
    async fn publish(&mut self, batch: &mut Batch<'_>, wanted: &mut Wanted) -> Result<(), Reason> {
        self.change(wanted).await?;
        self.hand_over(batch).await
    }

    async fn hand_over(&mut self, batch: &mut Batch<'_>) -> Result<(), Reason> {
        self.connection.publish(&batch.messages).await?;
        batch.published();
        Ok(())
    }
}

impl Connection {
    async fn open(server: &Server, options: &Options, feed: Feed) -> Result<Connection, Reason> {
        match server.kind {
            #[cfg(feature = "broker-nats")]
            Kind::Nats => super::nats::Nats::open(&server.url, options, feed).await.map(Connection::Nats),
            #[cfg(feature = "broker-redis")]
            Kind::Redis => super::redis::Redis::open(&server.url, options, feed).await.map(Connection::Redis),
        }
    }

    async fn subscribe(&mut self, topics: &[Arc<str>]) -> Result<(), Reason> {
        match self {
            #[cfg(feature = "broker-nats")]
            Connection::Nats(nats) => nats.subscribe(topics).await,
            #[cfg(feature = "broker-redis")]
            Connection::Redis(redis) => redis.subscribe(topics).await,
        }
    }

    async fn unsubscribe(&mut self, topics: &[Arc<str>]) -> Result<(), Reason> {
        match self {
            #[cfg(feature = "broker-nats")]
            Connection::Nats(nats) => {
                nats.unsubscribe(topics);
                Ok(())
            }
            #[cfg(feature = "broker-redis")]
            Connection::Redis(redis) => redis.unsubscribe(topics).await,
        }
    }

    async fn publish(&mut self, messages: &[Outgoing]) -> Result<(), Reason> {
        match self {
            #[cfg(feature = "broker-nats")]
            Connection::Nats(nats) => nats.publish(messages).await,
            #[cfg(feature = "broker-redis")]
            Connection::Redis(redis) => redis.publish(messages).await,
        }
    }

    /// The longest message that it takes.
    fn payload_max(&self) -> usize {
        match self {
            #[cfg(feature = "broker-nats")]
            Connection::Nats(nats) => nats.payload_max(),
            #[cfg(feature = "broker-redis")]
            Connection::Redis(_) => usize::MAX,
        }
    }

    /// Waits until the broker has everything.
    async fn flush(&mut self) -> Result<(), Reason> {
        match self {
            #[cfg(feature = "broker-nats")]
            Connection::Nats(nats) => nats.flush().await,
            // Each call waits for its answer.
            #[cfg(feature = "broker-redis")]
            Connection::Redis(_) => Ok(()),
        }
    }
}

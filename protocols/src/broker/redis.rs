//! Redis, by its pub/sub: a channel for each topic (at most once). Two connections: one that only subscribes may not publish.

use super::feed::{Feed, Reason, TOO_SLOW};
use super::seam::Options;
use super::server::subject;
use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubSink};
use redis::{AsyncCommands, AsyncConnectionConfig, Client};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// One connection to subscribe, one to publish.
pub(super) struct Redis {
    publishing: MultiplexedConnection,
    subscribing: PubSubSink,
    prefix: String,
    /// What channels are called here.
    topics: Arc<Mutex<HashMap<String, Arc<str>>>>,
    /// Hands on what arrives.
    forwarding: JoinHandle<()>,
    fence: Fence,
    /// Messages may be on their way that were unsubscribed from.
    has_let_go: bool,
}

/// A channel of its own, by which it is known that all that was on its way has arrived.
struct Fence {
    channel: String,
    sent: u64,
    seen: watch::Receiver<u64>,
}

/// A server that does not answer a question in this time is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// It is asked this often, because one that lost its power says nothing.
const ASKED_EVERY: Duration = Duration::from_secs(10);

impl Redis {
    pub(super) async fn open(url: &str, options: &Options, feed: Feed) -> Result<Redis, Reason> {
        let client = Client::open(url).map_err(reason)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_within))
            .set_response_timeout(Some(ANSWER_WITHIN));
        let publishing =
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(reason)?;
        let (mut subscribing, mut messages) = client.get_async_pubsub().await.map_err(reason)?.split();
        // No topic is called so: their names have one part behind the prefix.
        let channel = format!("{}.fence.{:x}", options.prefix, RandomState::new().hash_one("fence"));
        in_time(subscribing.subscribe(&channel)).await?;
        let (passed, seen) = watch::channel(0);
        let fence = Fence { channel: channel.clone(), sent: 0, seen };
        let topics: Arc<Mutex<HashMap<String, Arc<str>>>> = Arc::default();
        let (known, mut asking) = (topics.clone(), publishing.clone());
        let forwarding = tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    () = is_gone(&mut asking) => None,
                };
                let Some(message) = message else {
                    return feed.end("the broker has closed the connection, or does not answer");
                };
                if message.get_channel_name() == channel {
                    passed.send_modify(|passed| *passed += 1);
                    continue;
                }
                let topic = {
                    let known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    known.get(message.get_channel_name()).cloned()
                };
                let Some(sender) = feed.sender() else { return };
                // What was unsubscribed from may still be on its way.
                let Some(topic) = topic else { continue };
                let payload = Bytes::copy_from_slice(message.get_payload_bytes());
                // Never waits: what is not taken from the library waits there, without a limit.
                if sender.try_send((topic, payload)).is_err() {
                    return feed.end(TOO_SLOW);
                }
            }
        });
        let prefix = options.prefix.clone();
        Ok(Redis { publishing, subscribing, prefix, topics, forwarding, fence, has_let_go: false })
    }

    pub(super) async fn subscribe(&mut self, topic: &Arc<str>) -> Result<(), Reason> {
        if std::mem::take(&mut self.has_let_go) {
            // What is still on its way is not of this subscription.
            self.fence.sent += 1;
            in_time(self.publishing.publish::<_, _, ()>(&self.fence.channel, "")).await?;
            let passed = self.fence.seen.wait_for(|seen| *seen >= self.fence.sent);
            if timeout(ANSWER_WITHIN, passed).await.is_err() {
                return Err(format!("no answer in {ANSWER_WITHIN:?}"));
            }
        }
        let channel = subject(&self.prefix, topic);
        self.topics().insert(channel.clone(), topic.clone());
        in_time(self.subscribing.subscribe(channel)).await
    }

    pub(super) async fn unsubscribe(&mut self, topic: &str) -> Result<(), Reason> {
        let channel = subject(&self.prefix, topic);
        self.topics().remove(&channel);
        self.has_let_go = true;
        in_time(self.subscribing.unsubscribe(channel)).await
    }

    /// All in one go: each answer is a way to the server and back.
    pub(super) async fn publish(&mut self, messages: &[(Arc<str>, Bytes)]) -> Result<(), Reason> {
        let mut pipe = redis::pipe();
        for (topic, payload) in messages {
            pipe.publish(subject(&self.prefix, topic), &payload[..]).ignore();
        }
        in_time(pipe.query_async::<()>(&mut self.publishing)).await
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<str>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

/// Asks now and then, until there is no answer.
async fn is_gone(connection: &mut MultiplexedConnection) {
    loop {
        sleep(ASKED_EVERY).await;
        if in_time(connection.ping::<()>()).await.is_err() {
            return;
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = redis::RedisResult<T>>) -> Result<T, Reason> {
    match timeout(ANSWER_WITHIN, answer).await {
        Ok(answer) => answer.map_err(reason),
        Err(_) => Err(format!("no answer in {ANSWER_WITHIN:?}")),
    }
}

fn reason(error: redis::RedisError) -> Reason {
    error.to_string()
}

//! Redis, by its pub/sub: a channel for each topic (at most once). Two connections: one that only subscribes may not publish.

use super::feed::{Feed, Reason, TOO_SLOW, in_time};
use super::seam::Options;
use super::server::subject;
use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubSink};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, RedisResult};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// So many channels are named in one command: each answer is a way to the server and back, and these come in time.
const CHANNELS_AT_ONCE: usize = 512;

/// One connection to subscribe, one to publish.
pub(super) struct Redis {
    publishing: MultiplexedConnection,
    subscribing: PubSubSink,
    prefix: String,
    answer_within: Duration,
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

impl Redis {
    pub(super) async fn open(url: &str, options: &Options, feed: Feed) -> Result<Redis, Reason> {
        let answer_within = options.answer_within;
        let client = Client::open(url).map_err(reason)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_within))
            .set_response_timeout(Some(answer_within));
        let publishing =
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(reason)?;
        let (mut subscribing, mut messages) = client.get_async_pubsub().await.map_err(reason)?.split();
        // No topic is called so: their names have one part behind the prefix.
        let channel = format!("{}.fence.{:x}", options.prefix, RandomState::new().hash_one("fence"));
        in_time(answer_within, subscribing.subscribe(&channel)).await?;
        let (passed, seen) = watch::channel(0);
        let fence = Fence { channel: channel.clone(), sent: 0, seen };
        let topics: Arc<Mutex<HashMap<String, Arc<str>>>> = Arc::default();
        let (known, publishing_too, subscribing_too) =
            (topics.clone(), publishing.clone(), subscribing.clone());
        let ask_publishing = move || {
            let mut publishing = publishing_too.clone();
            async move { publishing.ping().await }
        };
        let ask_subscribing = move || {
            let mut subscribing = subscribing_too.clone();
            async move { subscribing.ping().await }
        };
        let asks = (options.ask_every, answer_within);
        let forwarding = tokio::spawn(async move {
            let mut publishing_is_gone = pin!(is_gone(asks, &ask_publishing));
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    () = &mut publishing_is_gone => None,
                    // A message says as much as an answer.
                    () = is_gone(asks, &ask_subscribing) => None,
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
        Ok(Redis {
            publishing,
            subscribing,
            prefix,
            answer_within,
            topics,
            forwarding,
            fence,
            has_let_go: false,
        })
    }

    pub(super) async fn subscribe(&mut self, topics: &[Arc<str>]) -> Result<(), Reason> {
        if !topics.is_empty() && std::mem::take(&mut self.has_let_go) {
            // What is still on its way is not of this subscription.
            self.fence.sent += 1;
            let publish = self.publishing.publish::<_, _, ()>(&self.fence.channel, "");
            in_time(self.answer_within, publish).await?;
            let passed = self.fence.seen.wait_for(|seen| *seen >= self.fence.sent);
            in_time(self.answer_within, passed).await?;
        }
        for topics in topics.chunks(CHANNELS_AT_ONCE) {
            let channels: Vec<String> = topics.iter().map(|topic| subject(&self.prefix, topic)).collect();
            self.topics().extend(channels.iter().cloned().zip(topics.iter().cloned()));
            in_time(self.answer_within, self.subscribing.subscribe(channels)).await?;
        }
        Ok(())
    }

    pub(super) async fn unsubscribe(&mut self, topics: &[Arc<str>]) -> Result<(), Reason> {
        for topics in topics.chunks(CHANNELS_AT_ONCE) {
            self.has_let_go = true;
            let channels: Vec<String> = topics.iter().map(|topic| subject(&self.prefix, topic)).collect();
            for channel in &channels {
                self.topics().remove(channel);
            }
            in_time(self.answer_within, self.subscribing.unsubscribe(channels)).await?;
        }
        Ok(())
    }

    /// All in one go: each answer is a way to the server and back.
    pub(super) async fn publish(&mut self, messages: &[(Arc<str>, Bytes)]) -> Result<(), Reason> {
        let mut pipe = redis::pipe();
        for (topic, payload) in messages {
            pipe.publish(subject(&self.prefix, topic), &payload[..]).ignore();
        }
        in_time(self.answer_within, pipe.query_async::<()>(&mut self.publishing)).await
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
async fn is_gone<F: Future<Output = RedisResult<()>>>(
    (ask_every, answer_within): (Duration, Duration),
    ask: impl Fn() -> F,
) {
    loop {
        sleep(ask_every).await;
        if in_time(answer_within, ask()).await.is_err() {
            return;
        }
    }
}

fn reason(error: redis::RedisError) -> Reason {
    error.to_string()
}

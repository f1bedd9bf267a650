//! NATS, by async-nats: a subject for each topic (core NATS, at most once).

use super::feed::{Feed, Reason, TOO_SLOW, in_time};
use super::seam::Options;
use super::server::{decoded, subject};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// One connection.
pub(super) struct Nats {
    client: Client,
    prefix: String,
    answer_within: Duration,
    /// What nobody else uses.
    nonce: u64,
    /// Each hands on what one subscription brings; ending it ends the subscription.
    forwarding: BTreeMap<Arc<str>, JoinHandle<()>>,
    feed: Feed,
}

impl Nats {
    pub(super) async fn open(url: &str, options: &Options, feed: Feed) -> Result<Nats, Reason> {
        let told = feed.clone();
        let (address, connecting) = credentials(url)?;
        let client = connecting
            .name("ringmill")
            .connection_timeout(options.connect_within)
            // The connection is lost with the third that has no answer.
            .ping_interval((options.ask_every + options.answer_within) / 3)
            .subscription_capacity(options.incoming_max.max(1))
            // It is ours to connect again, so that what was missed is told.
            .max_reconnects(1)
            .event_callback(move |event| {
                match event {
                    Event::Disconnected | Event::Closed => told.end("the broker has closed the connection"),
                    Event::SlowConsumer(_) => told.end(TOO_SLOW),
                    Event::ServerError(error) => tracing::warn!(%error, "the broker complains"),
                    _ => {}
                }
                std::future::ready(())
            })
            .connect(address)
            .await
            .map_err(|error| error.to_string())?;
        let nonce = RandomState::new().hash_one("flush");
        let (prefix, answer_within) = (options.prefix.clone(), options.answer_within);
        Ok(Nats { client, prefix, answer_within, nonce, forwarding: BTreeMap::new(), feed })
    }

    pub(super) async fn subscribe(&mut self, topics: &[Arc<str>]) -> Result<(), Reason> {
        for topic in topics {
            let subject = subject(&self.prefix, topic);
            let mut messages = in_time(self.answer_within, self.client.subscribe(subject)).await?;
            let (topic_of_all, feed) = (topic.clone(), self.feed.clone());
            let forwarding = tokio::spawn(async move {
                while let Some(message) = messages.next().await {
                    let Some(sender) = feed.sender() else { return };
                    if sender.send((topic_of_all.clone(), message.payload)).await.is_err() {
                        return;
                    }
                }
            });
            if let Some(before) = self.forwarding.insert(topic.clone(), forwarding) {
                before.abort();
            }
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, topics: &[Arc<str>]) {
        for topic in topics {
            if let Some(forwarding) = self.forwarding.remove(topic) {
                forwarding.abort();
            }
        }
    }

    pub(super) async fn publish(&mut self, messages: &[(Arc<str>, Bytes)]) -> Result<(), Reason> {
        for (topic, payload) in messages {
            let subject = subject(&self.prefix, topic);
            // A server that takes nothing fills a queue of the client's, which waits then.
            in_time(self.answer_within, self.client.publish(subject, payload.clone())).await?;
        }
        Ok(())
    }

    pub(super) fn payload_max(&self) -> usize {
        match self.client.server_info().max_payload {
            0 => usize::MAX,
            bytes => bytes,
        }
    }

    /// What comes back last shows that the server has done all that was asked for before.
    pub(super) async fn flush(&mut self) -> Result<(), Reason> {
        // No topic is called so: their names have one part behind the prefix.
        let subject = format!("{}.flush.{:x}", self.prefix, self.nonce);
        let mut back = in_time(self.answer_within, self.client.subscribe(subject.clone())).await?;
        in_time(self.answer_within, self.client.publish(subject, Bytes::new())).await?;
        let answer = async { back.next().await.ok_or("the broker has closed the connection") };
        in_time(self.answer_within, answer)
            .await
            .map(drop)
            .map_err(|reason| format!("{reason}: may this user subscribe and publish to {}.>?", self.prefix))
    }
}

/// An address without who comes, and this apart: the client leaves it aside in an address, but for its log. Without a password it is a token.
fn credentials(url: &str) -> Result<(ServerAddr, ConnectOptions), Reason> {
    let mut url = url.parse::<ServerAddr>().map_err(|error| error.to_string())?.into_inner();
    let connecting = match (decoded(url.username()), url.password().map(decoded)) {
        (user, None) if user.is_empty() => ConnectOptions::new(),
        (token, None) => ConnectOptions::with_token(token),
        (user, Some(password)) => ConnectOptions::with_user_and_password(user, password),
    };
    let has_none = url.set_username("").and_then(|()| url.set_password(None));
    has_none.map_err(|()| "no host")?;
    Ok((ServerAddr::from_url(url).map_err(|error| error.to_string())?, connecting))
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.forwarding.values().for_each(JoinHandle::abort);
    }
}

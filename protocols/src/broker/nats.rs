//! NATS, by async-nats: a subject for each topic (core NATS, at most once).

use super::feed::{Feed, Reason, TOO_SLOW};
use super::seam::Options;
use super::server::subject;
use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A server that does not answer in this time is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// One connection.
pub(super) struct Nats {
    client: Client,
    prefix: String,
    /// What nobody else uses.
    nonce: u64,
    /// Each hands on what one subscription brings; ending it ends the subscription.
    forwarding: BTreeMap<Arc<str>, JoinHandle<()>>,
    feed: Feed,
}

impl Nats {
    pub(super) async fn open(url: &str, options: &Options, feed: Feed) -> Result<Nats, Reason> {
        let told = feed.clone();
        let client = ConnectOptions::new()
            .name("ringmill")
            .connection_timeout(options.connect_within)
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
            .connect(url)
            .await
            .map_err(|error| error.to_string())?;
        let nonce = RandomState::new().hash_one("flush");
        Ok(Nats { client, prefix: options.prefix.clone(), nonce, forwarding: BTreeMap::new(), feed })
    }

    pub(super) async fn subscribe(&mut self, topic: &Arc<str>) -> Result<(), Reason> {
        let subject = subject(&self.prefix, topic);
        let mut messages = self.client.subscribe(subject).await.map_err(|error| error.to_string())?;
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
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, topic: &str) {
        if let Some(forwarding) = self.forwarding.remove(topic) {
            forwarding.abort();
        }
    }

    pub(super) async fn publish(&mut self, messages: &[(Arc<str>, Bytes)]) -> Result<(), Reason> {
        for (topic, payload) in messages {
            let subject = subject(&self.prefix, topic);
            self.client.publish(subject, payload.clone()).await.map_err(|error| error.to_string())?;
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
        let reason = |error: &dyn std::fmt::Display| error.to_string();
        // No topic is called so: their names have one part behind the prefix.
        let subject = format!("{}.flush.{:x}", self.prefix, self.nonce);
        let mut back = self.client.subscribe(subject.clone()).await.map_err(|error| reason(&error))?;
        self.client.publish(subject, Bytes::new()).await.map_err(|error| reason(&error))?;
        match timeout(ANSWER_WITHIN, back.next()).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("the broker has closed the connection".to_owned()),
            Err(_) => Err(format!(
                "no answer in {ANSWER_WITHIN:?}: may this user subscribe and publish to {}.>?",
                self.prefix
            )),
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.forwarding.values().for_each(JoinHandle::abort);
    }
}

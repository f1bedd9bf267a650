//! Topics: who publishes to a name reaches all who subscribe to it, on every worker.
//!
//! ```
//! # use ringmill_engine::Engine;
//! # use ringmill_protocols::{http, topic::{Published, Topics}};
//! let topics = Topics::default();
//! let hubs = topics.clone();
//! let engine = Engine::builder()
//!     .outbound(topics.service())
//!     .listen("127.0.0.1:0", move |worker| {
//!         let hub = hubs.hub(worker);
//!         http::server(move |request, reply| match request.path() {
//!             "/news" => reply.events(request, &hub, "news", Default::default()),
//!             _ => match hub.publish("news", "hello") {
//!                 Published::Done { .. } => reply.text("said\n"),
//!                 _ => reply.status(503).text("later\n"),
//!             },
//!         })
//!     })
//!     .start()?;
//! # Ok::<(), ringmill_engine::Error>(())
//! ```
//!
//! A topic has a home, which is one worker: there a message gets its offset, so that all see one order, and there the history is. Other
//! workers that have subscribers of the topic keep a mirror of it. A subscriber is a cursor into its worker's log, so that a slow one
//! costs nothing but its place. Workers leave messages in each other's inbox, which has a limit, and ring.
//!
//! Read on in this order: [`Hub`] (what handlers use), `core.rs` (the topics of a worker), `log.rs`, `inbox.rs` and `mirror.rs` (between workers). Messages
//! go out by [`websocket`](crate::websocket) and [`sse`](crate::sse).
//!
//! With a [`Carrier`], such as a broker, messages go to other processes as well, and come to subscribers only by way of it (`carrier.rs`,
//! `arrivals.rs`, `hearing.rs`, `envelope.rs`).

mod arrivals;
mod carrier;
mod core;
mod counters;
mod envelope;
mod hearing;
mod hub;
mod inbox;
mod ledger;
mod log;
mod message;
mod mirror;
mod one;
mod options;
mod place;
#[cfg_attr(not(feature = "tower"), allow(dead_code, reason = "only futures want to be reminded"))]
mod reminders;
mod service;
mod subscription;
#[cfg(test)]
mod tests;

pub use arrivals::Arrivals;
pub use carrier::{Carrier, InUse};
pub use counters::TopicCounters;
pub use hub::{Hub, Topics};
pub use message::{Frame, Publication, Published};
pub use options::{SlowPolicy, Start, Subscribe, TopicOptions};
pub use place::{NAME_BYTES_MAX, Place, is_name};
#[cfg(feature = "tower")]
pub(crate) use reminders::Reminder;
pub use service::HubService;
pub(crate) use subscription::AT_ONCE_BYTES;
pub use subscription::{Next, Subscription};

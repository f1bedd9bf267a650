//! What is published, and what becomes of it: a frame that all subscribers share, whatever it is encoded to. Plain data.

use super::place::Place;
#[cfg(feature = "websocket")]
use crate::websocket::frame;
use bytes::Bytes;
use std::sync::{Arc, OnceLock};

/// What is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub(super) is_text: bool,
    /// How many of its bytes are the header of a frame.
    header_bytes: u8,
    /// Behind that header, where it goes out in one frame: so it is one piece for each WebSocket, of which none keeps a header.
    bytes: Bytes,
    pub(super) event: Option<Box<str>>,
}

impl Publication {
    /// A text.
    pub fn text(text: impl Into<String>) -> Publication {
        Publication::new(true, text.into().into())
    }

    /// Bytes. As server-sent events, which are text, bytes that are not UTF-8 are told, but not sent.
    pub fn binary(bytes: impl Into<Bytes>) -> Publication {
        Publication::new(false, bytes.into())
    }

    pub(super) fn new(is_text: bool, bytes: Bytes) -> Publication {
        Publication::framed(is_text, &bytes).unwrap_or(Publication {
            is_text,
            header_bytes: 0,
            bytes,
            event: None,
        })
    }

    fn copied(is_text: bool, bytes: &[u8]) -> Publication {
        Publication::framed(is_text, bytes)
            .unwrap_or_else(|| Publication::new(is_text, Bytes::copy_from_slice(bytes)))
    }

    /// With a header, unless it takes several frames.
    #[cfg(feature = "websocket")]
    fn framed(is_text: bool, bytes: &[u8]) -> Option<Publication> {
        if bytes.len() > frame::FRAGMENT_BYTES {
            return None;
        }
        let opcode = if is_text { frame::Opcode::Text } else { frame::Opcode::Binary };
        let framed = frame::to_all(opcode, false, bytes);
        let header_bytes = (framed.len() - bytes.len()) as u8;
        Some(Publication { is_text, header_bytes, bytes: framed, event: None })
    }

    #[cfg(not(feature = "websocket"))]
    fn framed(_: bool, _: &[u8]) -> Option<Publication> {
        None
    }

    /// How many bytes the message has.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - usize::from(self.header_bytes)
    }

    /// The message.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.header_bytes)..]
    }

    /// With a name of the event, for server-sent events; WebSockets are not told it. A name with control characters is left out and logged.
    pub fn with_event(mut self, name: &str) -> Publication {
        if is_event(name) {
            self.event = Some(name.into());
        } else {
            tracing::warn!("the name of an event has control characters: left out");
        }
        self
    }
}

/// Whether this can be the name of an event.
pub(super) fn is_event(name: &str) -> bool {
    !name.chars().any(char::is_control)
}

impl From<&str> for Publication {
    fn from(text: &str) -> Publication {
        Publication::copied(true, text.as_bytes())
    }
}

impl From<String> for Publication {
    fn from(text: String) -> Publication {
        Publication::text(text)
    }
}

impl From<&String> for Publication {
    fn from(text: &String) -> Publication {
        Publication::copied(true, text.as_bytes())
    }
}

impl From<&[u8]> for Publication {
    fn from(bytes: &[u8]) -> Publication {
        Publication::copied(false, bytes)
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It has this offset; `None`: it is on its way to another worker, which is the topic's home and gives it one. (If it is the first of its
    /// topic and that worker has as many topics as it may, it is dropped there, and counted as busy.) With a carrier it is always `None`:
    /// it was handed over, and gets its place where it comes back.
    Done {
        /// Which message of the topic it is.
        offset: Option<u64>,
    },
    /// The topic's home is behind, or has too many topics, or there is no connection to the broker: it is not published. Try again later.
    Busy,
    /// It is longer than [`TopicOptions::message_bytes_max`](super::TopicOptions::message_bytes_max), or than a broker takes.
    TooLarge,
    /// That is no name of a topic: [`is_name`](super::is_name).
    NoTopic,
}

/// What there is to read.
#[derive(Debug)]
pub enum Next {
    /// The next message.
    Frame(Arc<Frame>),
    /// So many messages are missing here; `None`: nobody knows how many, because the place it wanted to go on from is not known any more.
    Skipped(Option<u64>),
    /// The subscriber was too slow, and is to be closed.
    Lagged,
    /// Nothing now: it is woken when there is something.
    Empty,
}

/// A message in its place. What it is encoded to is made once, when it is first needed, and shared by all subscribers.
#[derive(Debug)]
pub struct Frame {
    publication: Publication,
    is_cut: bool,
    place: Place,
    event_bytes: OnceLock<Bytes>,
    /// With the size of the window.
    #[cfg(feature = "websocket")]
    deflated: OnceLock<Option<(u8, Bytes)>>,
}

impl Frame {
    pub(super) fn new(publication: Publication, place: Place) -> Frame {
        Frame {
            is_cut: false,
            publication,
            place,
            event_bytes: OnceLock::new(),
            #[cfg(feature = "websocket")]
            deflated: OnceLock::new(),
        }
    }

    /// No message, but where some were missed: nobody gets it, and everybody who comes to it is told.
    pub(super) fn cut(place: Place) -> Frame {
        Frame { is_cut: true, ..Frame::new(Publication::binary(Bytes::new()), place) }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether it is text.
    pub fn is_text(&self) -> bool {
        self.publication.is_text
    }

    /// What was published.
    pub fn as_bytes(&self) -> &[u8] {
        self.publication.as_bytes()
    }

    /// The same, to keep beyond the frame.
    pub fn to_bytes(&self) -> Bytes {
        self.publication.bytes.slice(usize::from(self.publication.header_bytes)..)
    }

    /// As the frame of a WebSocket, unless it takes several.
    #[cfg(feature = "websocket")]
    pub(crate) fn framed(&self) -> Option<&Bytes> {
        (self.publication.header_bytes > 0).then_some(&self.publication.bytes)
    }

    /// The name of the event.
    pub fn event(&self) -> Option<&str> {
        self.publication.event.as_deref()
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// As a server-sent event. Two workers may make it at once: the first one's counts, and nobody waits.
    pub(crate) fn event_bytes(&self, encode: impl FnOnce() -> Bytes) -> &Bytes {
        if self.event_bytes.get().is_none() {
            let _ = self.event_bytes.set(encode());
        }
        self.event_bytes.get().unwrap_or(&self.publication.bytes)
    }

    /// The same compressed, if it was worth it.
    #[cfg(feature = "websocket")]
    pub(crate) fn deflated(&self, compress: impl FnOnce() -> Option<(u8, Bytes)>) -> Option<&(u8, Bytes)> {
        if self.deflated.get().is_none() {
            let _ = self.deflated.set(compress());
        }
        self.deflated.get().and_then(Option::as_ref)
    }

    /// What it counts for.
    pub(super) fn cost(&self) -> usize {
        self.publication.len() + FRAME_BYTES
    }
}

/// What a message takes besides its bytes.
const FRAME_BYTES: usize = 160;

//! Messages as handlers see and send them. Plain data.

use bytes::Bytes;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text. It was checked to be UTF-8 as it came in.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

impl Message<'_> {
    /// The message as bytes, whatever it is.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    /// Whether it is text.
    pub fn is_text(&self) -> bool {
        matches!(self, Message::Text(_))
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Message<'a> {
        Message::Text(text)
    }
}

impl<'a> From<&'a String> for Message<'a> {
    fn from(text: &'a String) -> Message<'a> {
        Message::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Message<'a> {
        Message::Binary(bytes)
    }
}

/// A message whose bytes are shared: cloning it, and sending a large one, copies nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMessage {
    pub(super) is_text: bool,
    pub(super) bytes: Bytes,
}

impl SharedMessage {
    /// A message of text.
    pub fn text(text: impl Into<String>) -> SharedMessage {
        SharedMessage { is_text: true, bytes: Bytes::from(text.into()) }
    }

    /// A message of bytes.
    pub fn binary(bytes: impl Into<Bytes>) -> SharedMessage {
        SharedMessage { is_text: false, bytes: bytes.into() }
    }

    /// The message as bytes, whatever it is.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// A part of a message that is taken as it comes: [`Options::in_pieces`](super::Options::in_pieces).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What has come. Text is cut between characters. Only the last piece may be empty.
    pub part: Message<'a>,
    /// The message is complete with it.
    pub is_last: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed<'a> {
    /// What the peer's Close frame says, 1005 if it gives no code. Without such a frame it is what ours says, and 1006 if there
    /// was none either (RFC 6455, 7.4.1).
    pub code: u16,
    /// The reason that goes with the code.
    pub reason: &'a str,
    /// The peer has sent a Close frame: it knew what it did.
    pub is_clean: bool,
}

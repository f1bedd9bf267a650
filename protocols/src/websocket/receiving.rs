//! The way in of a WebSocket: a message that is not complete, and what is counted of a client. Pure.

use super::frame::{Header, NOT_UTF8, Opcode, TOO_LARGE, Violation, apply_mask, protocol};
use super::options::{CONTROL_WINDOW, Options};
use ringmill_engine::Tick;
use simdutf8::{basic, compat};

/// The state of the way in.
#[derive(Default)]
pub(super) struct Receiving {
    /// A message that has begun. Most come whole, and need none.
    pub(super) partial: Option<Box<Partial>>,
    /// When counting of control frames began, in seconds.
    control_since: u32,
    control_frames: u16,
    /// The client was silent, and was sent a Ping.
    pub(super) is_pinged: bool,
}

/// A message that is not complete, or that waits to be handed over.
pub(super) struct Partial {
    /// The header of the frame that it is in.
    header: Header,
    /// How much of its payload has come.
    received: u64,
    pub(super) is_text: bool,
    pub(super) is_deflated: bool,
    /// What is kept: all of the message, or of its last character, where it is taken in pieces.
    pub(super) buffer: Vec<u8>,
    /// The front of it that is text.
    valid: usize,
    /// The payload of all its frames.
    bytes: u64,
    empty_frames: u16,
    /// It is complete, and waits.
    pub(super) is_due: bool,
}

/// Where a frame that is not complete stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The frame goes on.
    Within,
    /// The next frame begins; it is more of the same message.
    Between,
    /// The message is complete.
    Complete,
}

impl Receiving {
    /// Whether a message has begun.
    #[inline]
    pub(super) fn in_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Whether the next byte belongs to the payload of a frame.
    #[inline]
    pub(super) fn in_frame(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.received < partial.header.payload_bytes)
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.buffer.capacity())
    }

    /// How many more bytes the message may have.
    #[inline]
    pub(super) fn bytes_left(&self, options: &Options) -> u64 {
        if options.in_pieces {
            return u64::MAX;
        }
        let bytes = self.partial.as_ref().map_or(0, |partial| partial.bytes);
        compressed_max(options, options.deflate.is_some()).saturating_sub(bytes)
    }

    /// Counts a control frame.
    pub(super) fn count_control(&mut self, now: Tick, options: &Options) -> Result<(), Violation> {
        let secs = now.0 / 1_000_000_000;
        if secs.saturating_sub(u64::from(self.control_since)) >= CONTROL_WINDOW.as_secs() {
            (self.control_since, self.control_frames) = (u32::try_from(secs).unwrap_or(u32::MAX), 0);
        }
        self.control_frames = self.control_frames.saturating_add(1);
        if self.control_frames > options.control_frames_max {
            return Err(Violation { code: 1008, reason: "too many control frames" });
        }
        Ok(())
    }

    /// Takes the header of a frame of data whose payload is still to come.
    pub(super) fn begin_frame(&mut self, header: Header, options: &Options) -> Result<Progress, Violation> {
        let partial = match &mut self.partial {
            Some(partial) => {
                (partial.header, partial.received) = (header, 0);
                partial
            }
            None => self.partial.insert(Box::new(Partial {
                header,
                received: 0,
                is_text: header.opcode == Opcode::Text,
                is_deflated: header.is_deflated,
                buffer: Vec::new(),
                valid: 0,
                bytes: 0,
                empty_frames: 0,
                is_due: false,
            })),
        };
        partial.bytes = partial.bytes.saturating_add(header.payload_bytes);
        let is_kept = partial.is_deflated || !options.in_pieces;
        if is_kept && partial.bytes > compressed_max(options, partial.is_deflated) {
            return Err(TOO_LARGE);
        }
        if header.payload_bytes == 0 && !header.is_final {
            partial.empty_frames += 1;
            if partial.empty_frames > options.empty_frames_max {
                return Err(Violation { code: 1008, reason: "too many empty frames" });
            }
        }
        Ok(partial.progress())
    }
}

/// The most bytes in frames of a message: compressed, one that cannot be made smaller is a little longer.
fn compressed_max(options: &Options, is_deflated: bool) -> u64 {
    let bytes = options.message_bytes_max as u64;
    if is_deflated { bytes.saturating_add(bytes / 256 + 64) } else { bytes }
}

impl Partial {
    /// Takes what has come of the payload of its frame: how much of `input` that is, and where the message stands then.
    pub(super) fn take(&mut self, input: &mut [u8]) -> Result<(usize, Progress), Violation> {
        let left = usize::try_from(self.header.payload_bytes - self.received).unwrap_or(usize::MAX);
        let bytes = left.min(input.len());
        let payload = &mut input[..bytes];
        apply_mask(payload, self.header.mask, self.received);
        self.received += bytes as u64;
        self.buffer.extend_from_slice(payload);
        let progress = self.progress();
        if self.is_text && !self.is_deflated {
            self.check_text(progress)?;
        }
        Ok((bytes, progress))
    }

    /// The same without keeping or judging anything.
    pub(super) fn skip(&mut self, bytes: usize) -> (usize, Progress) {
        let left = usize::try_from(self.header.payload_bytes - self.received).unwrap_or(usize::MAX);
        let bytes = left.min(bytes);
        self.received += bytes as u64;
        (bytes, self.progress())
    }

    fn progress(&self) -> Progress {
        match (self.received == self.header.payload_bytes, self.header.is_final) {
            (false, _) => Progress::Within,
            (true, false) => Progress::Between,
            (true, true) => Progress::Complete,
        }
    }

    /// Judges text as it comes, as far as it consists of whole characters; at the end it must.
    fn check_text(&mut self, progress: Progress) -> Result<(), Violation> {
        match compat::from_utf8(&self.buffer[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            Err(error) if error.error_len().is_none() && progress != Progress::Complete => {
                self.valid += error.valid_up_to();
            }
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }

    /// What can be handed over of a message that is taken in pieces: whole characters of text.
    pub(super) fn ready(&self) -> &[u8] {
        if self.is_text { &self.buffer[..self.valid] } else { &self.buffer }
    }

    /// Drops what was handed over.
    pub(super) fn drop_ready(&mut self) {
        let bytes = self.ready().len();
        self.buffer.drain(..bytes);
        self.valid = 0;
    }
}

/// A whole message of text.
#[inline]
pub(super) fn text(bytes: &[u8]) -> Result<&str, Violation> {
    basic::from_utf8(bytes).map_err(|_| NOT_UTF8)
}

/// For what the grammar of frames rules out.
pub(super) const CONFUSED: Violation = protocol("a frame that cannot be");

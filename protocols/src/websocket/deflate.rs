//! permessage-deflate (RFC 7692, 7.2): messages to what stands in frames and back. Pure, with libraries for Deflate itself.
//!
//! A connection without a context of its own costs nothing: a worker has one inflater, and one compressor for each window that was
//! agreed on.

use super::extension::Agreement;
use super::frame::{TOO_LARGE, Violation};
use super::options::Deflate as Options;
use ringmill_engine::Tick;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

/// What a worker compresses and inflates with.
#[derive(Default)]
pub(super) struct Codec {
    /// For windows of 9 to 15 bits.
    compressors: [Option<Box<Deflate>>; 7],
    inflater: Option<Inflate>,
    inflated: Vec<u8>,
    packed: Vec<u8>,
    /// How many contexts there are.
    pub(super) contexts: usize,
    turn: Tick,
    turn_bytes: usize,
}

/// What one connection keeps of what was said before.
pub(super) struct Context {
    deflate: Option<Box<Deflate>>,
    inflate: Option<Kept>,
}

struct Kept {
    inflater: Inflate,
    /// The end of all that was inflated: an inflater forgets it where a stream ends within a message.
    window: Vec<u8>,
}

const WINDOW_BYTES: usize = 32 << 10;
/// What an inflater takes, whatever the window; and what a compressor takes with the largest.
const INFLATE_BYTES: usize = 48 << 10;
const DEFLATE_BYTES: usize = 380 << 10;
/// What every compressed message ends with, and leaves out (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Scratch memory beyond this is given back after use.
const SCRATCH_BYTES_MAX: usize = 256 << 10;

/// So many streams may end within one message. One is what some libraries send; each costs a copy of the window.
const STREAM_ENDS_MAX: u32 = 16;
/// What a message costs whatever its length, in bytes that are inflated in the same time; and what the end of a stream costs.
const MESSAGE_WORK_BYTES: usize = 1 << 10;
const STREAM_END_WORK_BYTES: usize = 8 << 10;

const TOO_MANY_STREAMS: Violation = Violation { code: 1008, reason: "too many streams in a message" };
const BROKEN: Violation = Violation { code: 1007, reason: "compressed data is broken (RFC 7692, 7.2.2)" };

impl Context {
    /// `None` if nothing was agreed to be kept.
    pub(super) fn new(agreed: Agreement, options: &Options) -> Option<Box<Context>> {
        agreed.keeps_any().then(|| {
            let kept = || Kept { inflater: Inflate::new(false, 15), window: Vec::new() };
            Box::new(Context {
                deflate: agreed.keeps_ours.then(|| compressor(options.level, agreed.window_bits)),
                inflate: agreed.keeps_theirs.then(kept),
            })
        })
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let deflate = if self.deflate.is_some() { DEFLATE_BYTES } else { 0 };
        let inflate = if self.inflate.is_some() { INFLATE_BYTES + WINDOW_BYTES } else { 0 };
        deflate + inflate
    }

    /// Whether what is compressed refers to what was compressed before, so that nothing compressed may be left out.
    pub(super) fn keeps_ours(&self) -> bool {
        self.deflate.is_some()
    }
}

fn compressor(level: u8, window_bits: u8) -> Box<Deflate> {
    let config = DeflateConfig {
        level: i32::from(level.clamp(1, 9)),
        // Negative: without zlib's header.
        window_bits: -i32::from(window_bits),
        ..DeflateConfig::default()
    };
    Box::new(Deflate::new_with_config(config))
}

impl Codec {
    /// Whether this turn has inflated as much as it may.
    pub(super) fn is_spent(&self, now: Tick, options: &Options) -> bool {
        self.turn == now && self.turn_bytes >= options.turn_bytes_max
    }

    /// Inflates a message of at most `bytes_max` bytes, which stands in the answer; to be given back with [`Codec::put_back`].
    pub(super) fn inflate(
        &mut self,
        context: Option<&mut Context>,
        input: &[u8],
        bytes_max: usize,
        now: Tick,
    ) -> Result<(Vec<u8>, usize), Violation> {
        let mut output = std::mem::take(&mut self.inflated);
        let mut ends = 0;
        let done = match context.and_then(|context| context.inflate.as_mut()) {
            Some(kept) => kept.inflate(input, &mut output, bytes_max, &mut ends),
            None => {
                let inflater = self.inflater.get_or_insert_with(|| Inflate::new(false, 15));
                inflater.reset(false);
                let output = &mut output;
                Stream { inflater, before: &[], output, filled: 0, bytes_max, ends: &mut ends }.message(input)
            }
        };
        if self.turn != now {
            (self.turn, self.turn_bytes) = (now, 0);
        }
        // What was refused has cost its time as well.
        let bytes = *done.as_ref().unwrap_or(&bytes_max);
        let work = bytes.saturating_add(MESSAGE_WORK_BYTES + ends as usize * STREAM_END_WORK_BYTES);
        self.turn_bytes = self.turn_bytes.saturating_add(work);
        match done {
            Ok(bytes) => Ok((output, bytes)),
            Err(violation) => {
                self.put_back(output);
                Err(violation)
            }
        }
    }

    /// Takes the memory of [`Codec::inflate`] back.
    pub(super) fn put_back(&mut self, output: Vec<u8>) {
        if output.len() <= SCRATCH_BYTES_MAX {
            self.inflated = output;
        }
    }

    /// Compresses a message. `None` if that makes it no smaller, or the compressor failed.
    pub(super) fn compress(
        &mut self,
        context: Option<&mut Context>,
        window_bits: u8,
        input: &[u8],
        options: &Options,
    ) -> Option<&[u8]> {
        self.packed.clear();
        match context.and_then(|context| context.deflate.as_mut()) {
            Some(deflate) => {
                pack(deflate, input, &mut self.packed)?;
                Some(&self.packed)
            }
            None => {
                let place = self.compressors.get_mut(usize::from(window_bits.checked_sub(9)?))?;
                let deflate = place.get_or_insert_with(|| compressor(options.level, window_bits));
                deflate.reset();
                pack(deflate, input, &mut self.packed)?;
                (self.packed.len() < input.len()).then_some(self.packed.as_slice())
            }
        }
    }
}

/// Compresses one message, without a context. For clients.
pub fn compress_once(message: &[u8]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    pack(&mut compressor(1, 15), message, &mut packed)?;
    Some(packed)
}

/// Inflates one message of at most `bytes_max` bytes, without a context. For clients.
pub fn inflate_once(packed: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let (mut message, bytes) = Codec::default().inflate(None, packed, bytes_max, Tick(0)).ok()?;
    message.truncate(bytes);
    Some(message)
}

/// Compresses all of `input`, without the tail. `None` if the compressor fails.
fn pack(deflate: &mut Deflate, input: &[u8], output: &mut Vec<u8>) -> Option<()> {
    // What cannot be compressed grows by five bytes for each block that is stored.
    output.resize(input.len() + (input.len() >> 8) + 64, 0);
    let (mut read, mut filled) = (0, 0);
    loop {
        let before = (deflate.total_in(), deflate.total_out());
        deflate.compress(&input[read..], &mut output[filled..], DeflateFlush::SyncFlush).ok()?;
        read += (deflate.total_in() - before.0) as usize;
        filled += (deflate.total_out() - before.1) as usize;
        if filled < output.len() {
            break;
        }
        output.resize(2 * filled, 0);
    }
    output.truncate(filled);
    output.truncate(output.strip_suffix(&TAIL)?.len());
    (read == input.len()).then_some(())
}

impl Kept {
    fn inflate(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
        bytes_max: usize,
        ends: &mut u32,
    ) -> Result<usize, Violation> {
        let inflater = &mut self.inflater;
        let stream = Stream { inflater, before: &self.window, output, filled: 0, bytes_max, ends };
        let filled = stream.message(input)?;
        self.window = end_of(&self.window, &output[..filled]);
        Ok(filled)
    }
}

/// The last of two pieces of text, as far as a window reaches.
fn end_of(before: &[u8], after: &[u8]) -> Vec<u8> {
    let after = &after[after.len().saturating_sub(WINDOW_BYTES)..];
    let before = &before[before.len().saturating_sub(WINDOW_BYTES - after.len())..];
    [before, after].concat()
}

/// The inflating of one message.
struct Stream<'a> {
    inflater: &'a mut Inflate,
    /// What came before this message, as far as it may be referred to.
    before: &'a [u8],
    output: &'a mut Vec<u8>,
    filled: usize,
    bytes_max: usize,
    /// How many streams have ended.
    ends: &'a mut u32,
}

impl Stream<'_> {
    fn message(mut self, input: &[u8]) -> Result<usize, Violation> {
        if self.run(input)? {
            self.run(&TAIL)?;
        }
        Ok(self.filled)
    }

    /// Inflates all of `input`; whether the stream goes on behind it.
    ///
    /// A stream may end within a message (BFINAL; RFC 7692, 7.2.3.4 and 7.2.3.5): what follows is another one, which refers to the same
    /// window.
    fn run(&mut self, mut input: &[u8]) -> Result<bool, Violation> {
        loop {
            if self.filled == self.output.len() {
                // One byte more than may be: so that a message that is too long shows.
                let bytes = (2 * self.filled).max(4096).min(self.bytes_max.saturating_add(1));
                self.output.resize(bytes.max(self.filled + 1), 0);
            }
            let before = (self.inflater.total_in(), self.inflater.total_out());
            let space = &mut self.output[self.filled..];
            let status = self.inflater.decompress(input, space, InflateFlush::NoFlush).map_err(|_| BROKEN)?;
            input = &input[(self.inflater.total_in() - before.0) as usize..];
            self.filled += (self.inflater.total_out() - before.1) as usize;
            if self.filled > self.bytes_max {
                return Err(TOO_LARGE);
            }
            if status == Status::StreamEnd {
                *self.ends += 1;
                if *self.ends > STREAM_ENDS_MAX {
                    return Err(TOO_MANY_STREAMS);
                }
                let window = end_of(self.before, &self.output[..self.filled]);
                self.inflater.reset(false);
                self.inflater.set_dictionary(&window).map_err(|_| BROKEN)?;
                if input.is_empty() {
                    return Ok(false);
                }
            } else if self.filled < self.output.len() {
                // It has room, so it wants more input; or it takes none any more.
                return if input.is_empty() { Ok(true) } else { Err(BROKEN) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::extension::negotiate;
    use super::*;

    const NOW: Tick = Tick(1);

    fn agreement(offer: &str, contexts: bool) -> Agreement {
        negotiate([offer.as_bytes()].into_iter(), Some(&Options::default()), contexts).unwrap().unwrap()
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|n| b"a walk of words that repeat"[(n * n / 7) % 27]).collect()
    }

    fn inflated(codec: &mut Codec, context: Option<&mut Context>, input: &[u8], max: usize) -> Vec<u8> {
        let (output, bytes) = codec.inflate(context, input, max, NOW).expect("it is good");
        let message = output[..bytes].to_vec();
        codec.put_back(output);
        message
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let mut codec = Codec::default();
        let check = |codec: &mut Codec, input: &[u8]| {
            assert_eq!(inflated(codec, None, input, 100), b"Hello", "{input:02x?}");
        };
        check(&mut codec, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
        // A block that is stored; one with BFINAL; two blocks (7.2.3.3 to 7.2.3.5).
        check(&mut codec, &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]);
        check(&mut codec, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]);
        check(&mut codec, &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]);
        // The same without the octet behind BFINAL, which was to be there.
        check(&mut codec, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
        assert!(inflated(&mut codec, None, &[0x00], 100).is_empty());
    }

    #[test]
    fn a_window_outlives_the_end_of_a_stream() {
        // RFC 7692, 7.2.3.2: the second Hello refers to the first one, which ended its stream (7.2.3.5).
        let mut context = Context::new(agreement("permessage-deflate", true), &Options::default()).unwrap();
        let mut codec = Codec::default();
        let first = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        let second = [0xf2, 0x00, 0x11, 0x00, 0x00];
        for message in [&first[..], &second, &second, &first, &second] {
            assert_eq!(inflated(&mut codec, Some(&mut context), message, 100), b"Hello");
        }
        // Where nothing is kept, it refers to nothing.
        assert_eq!(codec.inflate(None, &second, 100, NOW), Err(BROKEN));
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let options = Options::default();
        for offer in [
            "permessage-deflate",
            "permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=12",
        ] {
            for has_context in [false, true] {
                let agreed = agreement(offer, has_context);
                let (mut ours, mut theirs) = (Codec::default(), Codec::default());
                let (mut out, mut back) = (Context::new(agreed, &options), Context::new(agreed, &options));
                for bytes in [1, 2, 100, 1000, 5000, 65536, 100_000] {
                    let message = text(bytes);
                    let Some(packed) =
                        ours.compress(out.as_deref_mut(), agreed.window_bits, &message, &options)
                    else {
                        assert!(!has_context && bytes < 100);
                        continue;
                    };
                    let packed = packed.to_vec();
                    assert_eq!(inflated(&mut theirs, back.as_deref_mut(), &packed, bytes), message);
                }
            }
        }
    }

    #[test]
    fn random_bytes_are_not_compressed() {
        let options = Options::default();
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let message: Vec<u8> = (0..50_000).map(|_| next()).collect();
        let mut codec = Codec::default();
        assert_eq!(codec.compress(None, 15, &message, &options), None);
        let agreed = agreement("permessage-deflate", true);
        let (mut out, mut back) = (Context::new(agreed, &options), Context::new(agreed, &options));
        let packed = codec.compress(out.as_deref_mut(), 15, &message, &options).unwrap().to_vec();
        assert!(packed.len() > message.len());
        assert_eq!(inflated(&mut codec, back.as_deref_mut(), &packed, message.len()), message);
    }

    #[test]
    fn the_limit_is_exact() {
        let options = Options::default();
        for bytes in [1000, 4095, 4096, 4097, 65536] {
            let mut codec = Codec::default();
            let packed = codec.compress(None, 15, &vec![0; bytes], &options).unwrap().to_vec();
            assert_eq!(codec.inflate(None, &packed, bytes - 1, NOW), Err(TOO_LARGE));
            assert_eq!(inflated(&mut codec, None, &packed, bytes).len(), bytes);
            assert_eq!(inflated(&mut codec, None, &packed, bytes + 1).len(), bytes);
        }
    }

    #[test]
    fn a_bomb_is_refused_within_its_cap() {
        let options = Options::default();
        let mut codec = Codec::default();
        let bomb = codec.compress(None, 15, &vec![0; 16 << 20], &options).unwrap().to_vec();
        assert!(bomb.len() < 1 << 18);
        assert_eq!(codec.inflate(None, &bomb, 64 << 10, NOW), Err(TOO_LARGE));
        assert!(codec.inflated.capacity() <= 2 * ((64 << 10) + 1), "{}", codec.inflated.capacity());
        let options = Options { turn_bytes_max: 100_000, ..options };
        assert!(!codec.is_spent(NOW, &options));
        assert_eq!(codec.inflate(None, &bomb, 64 << 10, NOW), Err(TOO_LARGE));
        assert!(codec.is_spent(NOW, &options) && !codec.is_spent(Tick(2), &options));
    }

    #[test]
    fn a_message_of_many_streams_is_refused_and_what_they_cost_is_counted() {
        // An empty block with fixed codes and BFINAL: two bytes for a copy of 32 KiB.
        let end = [0x03, 0x00];
        for contexts in [false, true] {
            let agreed = agreement("permessage-deflate", contexts);
            let mut context = Context::new(agreed, &Options::default());
            let mut codec = Codec::default();
            assert!(inflated(&mut codec, context.as_deref_mut(), &end.repeat(16), 100).is_empty());
            let many = codec.inflate(context.as_deref_mut(), &end.repeat(17), 100, NOW);
            assert_eq!(many, Err(TOO_MANY_STREAMS));
        }
        let options = Options::default();
        let mut codec = Codec::default();
        let messages = (0..10_000).take_while(|_| {
            assert!(inflated(&mut codec, None, &end.repeat(16), 100).is_empty());
            !codec.is_spent(NOW, &options)
        });
        assert!(messages.count() < 10, "of a thousand small messages each copies half a megabyte");
    }

    #[test]
    fn broken_data() {
        let mut codec = Codec::default();
        for input in [&[0xff; 8][..], &[0x00, 0x05, 0x00, 0x00, 0x00], &[0x06, 0xff]] {
            assert_eq!(codec.inflate(None, input, 1000, NOW), Err(BROKEN), "{input:02x?}");
        }
        assert_eq!(inflated(&mut codec, None, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 100), b"Hello");
    }
}

//! Chunked bodies: no panic, and the same data, trailers and verdict however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmill_protocols::http::message::Framing;
use ringmill_protocols::http::one::decoder::{BodyLimits, Decoded, Decoder};

#[derive(Debug, PartialEq)]
enum End {
    Open,
    /// How many bytes the body took, and its trailers.
    Complete(usize, Vec<u8>),
    Malformed(u16, &'static str),
}

/// Decodes with so many more bytes at a time; what a call leaves comes again with more behind it.
fn decode(input: &[u8], piece: usize, limits: &BodyLimits) -> (Vec<u8>, End) {
    let (mut decoder, mut body) = (Decoder::new(Framing::Chunked), Vec::new());
    let (mut at, mut have) = (0, 0);
    loop {
        match decoder.decode(&input[at..have], limits) {
            Decoded::Data { consumed, data } => {
                assert!(!data.is_empty() && consumed >= data.len() && at + consumed <= have);
                body.extend_from_slice(data);
                at += consumed;
            }
            Decoded::Partial { consumed } => {
                at += consumed;
                if have == input.len() {
                    return (body, End::Open);
                }
                have = (have + piece).min(input.len());
            }
            Decoded::End { consumed, trailers } => {
                assert!(at + consumed <= have);
                return (body, End::Complete(at + consumed, trailers.to_vec()));
            }
            Decoded::Malformed(reject) => return (body, End::Malformed(reject.status(), reject.reason())),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [choice, piece, input @ ..] = data else { return };
    let limits = match choice % 2 {
        0 => BodyLimits { framing_bytes_max: 32 },
        _ => BodyLimits::default(),
    };
    let whole = decode(input, input.len().max(1), &limits);
    assert_eq!(decode(input, 1, &limits), whole, "byte by byte");
    assert_eq!(decode(input, 1 + usize::from(*piece), &limits), whole, "in pieces");
});

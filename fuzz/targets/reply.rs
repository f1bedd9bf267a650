//! Replies as a client reads them: no panic, and the same heads, data, trailers and verdict however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmill_protocols::http::client::reader::{Asked, Event, Reader};
use ringmill_protocols::http::message::Slots;
use ringmill_protocols::http::one::decoder::BodyLimits;

#[derive(Debug, PartialEq)]
enum End {
    Open {
        in_body: bool,
    },
    /// How many bytes the reply took, and its trailers.
    Complete(usize, Vec<u8>),
    Bad(&'static str),
}

/// Reads with so many more bytes at a time: statuses, number of fields and lengths of the heads; the data; the end.
fn read(asked: Asked, input: &[u8], piece: usize) -> (Vec<(u16, usize, usize)>, Vec<u8>, End) {
    let (mut reader, mut slots, limits) =
        (Reader::new(asked), Slots::new(), BodyLimits { framing_bytes_max: 64 });
    let (mut heads, mut body) = (Vec::new(), Vec::new());
    let (mut at, mut have) = (0, 0);
    loop {
        match reader.read(&input[at..have], &mut slots, &limits) {
            Event::Interim(response) | Event::Head(response) => {
                assert!(input[at..at + response.bytes].ends_with(b"\r\n\r\n"));
                for field in response.fields.iter() {
                    assert!(!field.name.is_empty());
                    assert!(!field.value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
                }
                heads.push((response.status, response.fields.len(), response.bytes));
                at += response.bytes;
            }
            Event::Data { consumed, data } => {
                assert!(!data.is_empty() && consumed >= data.len() && at + consumed <= have);
                body.extend_from_slice(data);
                at += consumed;
            }
            Event::Partial { consumed } => {
                at += consumed;
                if have == input.len() {
                    return (heads, body, End::Open { in_body: reader.is_in_body() });
                }
                have = (have + piece).min(input.len());
            }
            Event::End { consumed, trailers } => {
                assert!(at + consumed <= have);
                return (heads, body, End::Complete(at + consumed, trailers.to_vec()));
            }
            Event::Bad(defect) => return (heads, body, End::Bad(defect.0)),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [choice, piece, input @ ..] = data else { return };
    let is = |n| choice % 4 == n;
    let asked = Asked { is_head: is(1), is_connect: is(2), upgrades: is(3) };
    let whole = read(asked, input, input.len().max(1));
    assert_eq!(read(asked, input, 1), whole, "byte by byte");
    assert_eq!(read(asked, input, 1 + usize::from(*piece)), whole, "in pieces");
});

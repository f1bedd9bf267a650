//! What readers are sent, and what they read: a message says its number and when it was due; it comes in a frame of WebSocket or as a
//! server-sent event. Pure.

use super::super::tally::Failure;
use ringmill::Tick;
use ringmill::http::client::{Body, Malformed, parse_final_head};
use ringmill::websocket::frame::{Opcode, Parsed, Rules, is_control, parse, write_masked};
use ringmill::websocket::inflate_once;

/// The front of a message: its number and when it was due, both in hexadecimal.
pub(super) const FRONT_BYTES: usize = 32;

/// The messages of a run: one text, but for its front.
pub(super) struct Messages {
    text: Vec<u8>,
}

/// The front of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Front {
    pub(super) number: u64,
    pub(super) due: Tick,
}

impl Messages {
    pub(super) fn new(bytes: usize) -> Messages {
        Messages { text: rows(bytes) }
    }

    /// A message.
    pub(super) fn write(&mut self, front: Front) -> &[u8] {
        let written = format!("{:016x}{:016x}", front.number, front.due.0);
        self.text[..FRONT_BYTES].copy_from_slice(written.as_bytes());
        &self.text
    }

    /// The front of a message, if it is one.
    pub(super) fn read(&self, message: &[u8]) -> Option<Front> {
        let (front, rest) = message.split_at_checked(FRONT_BYTES)?;
        let number = |text: &[u8]| u64::from_str_radix(str::from_utf8(text).ok()?, 16).ok();
        let front = Front { number: number(&front[..16])?, due: Tick(number(&front[16..])?) };
        (rest == &self.text[FRONT_BYTES..]).then_some(front)
    }
}

/// Rows as programs send them to pages: text that compresses as such text does, to less than a half.
fn rows(bytes: usize) -> Vec<u8> {
    let mut text = String::with_capacity(bytes + 64);
    let mut random: u32 = 1;
    while text.len() < bytes {
        // A generator of Numerical Recipes: any will do that is always the same.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let name = ["north", "east", "south", "west"][(random >> 20) as usize % 4];
        text += &format!(r#"{{"id":{},"at":"{name}","price":{}}},"#, random >> 17, (random >> 8) % 100_000);
    }
    text.truncate(bytes);
    text.into_bytes()
}

/// What has come of a reader's stream and is not complete.
#[derive(Default)]
pub(super) struct Reader {
    /// Of server-sent events: how the body goes on, once its head was read.
    body: Option<Body>,
    event: Vec<u8>,
    /// What is to be said to Pings and Close.
    pub(super) reply: Vec<u8>,
    pub(super) is_closing: bool,
}

/// Compressed messages: all readers get the same, so that it is inflated once.
#[derive(Default)]
pub(super) struct Inflated {
    packed: Vec<u8>,
    text: Vec<u8>,
}

/// What is wrong with a stream.
pub(super) type Wrong = (Failure, String);

fn malformed(what: &str) -> Wrong {
    (Failure::Malformed, what.to_owned())
}

pub(super) fn no_response(_: Malformed) -> Wrong {
    malformed("what came is no response")
}

/// Mask of what readers say (RFC 6455, 5.3); as in `load/websocket.rs` it hides nothing.
const MASK: [u8; 4] = [0x1e, 0xaf, 0x5e, 0xa7];

impl Reader {
    /// Reads frames: each message goes to `each`. How much of the input was read; the rest comes again with more behind it.
    pub(super) fn read_frames(
        &mut self,
        input: &[u8],
        inflated: Option<&mut Inflated>,
        bytes_max: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), Wrong>,
    ) -> Result<usize, Wrong> {
        let rules = Rules {
            from_client: false,
            may_deflate: inflated.is_some(),
            in_message: false,
            bytes_max: 2 * bytes_max as u64 + 1024,
        };
        let mut inflated = inflated;
        let mut at = 0;
        while at < input.len() && !self.is_closing {
            let header = match parse(&input[at..], &rules) {
                Parsed::Complete(header) => header,
                Parsed::Partial(_) => return Ok(at),
                Parsed::Malformed(violation) => return Err(malformed(violation.reason)),
            };
            let front = at + header.bytes;
            let Some(payload) = input.get(front..front + header.payload_bytes as usize) else {
                return Ok(at);
            };
            at = front + payload.len();
            match (header.opcode, &mut inflated) {
                (Opcode::Ping, _) => {
                    write_masked(&mut self.reply, Opcode::Pong, true, false, MASK, payload);
                }
                (Opcode::Close, _) => {
                    self.is_closing = true;
                    write_masked(&mut self.reply, Opcode::Close, true, false, MASK, payload);
                }
                (opcode, _) if is_control(opcode) => {}
                _ if !header.is_final => return Err(malformed("a message in fragments")),
                (_, Some(inflated)) if header.is_deflated => each(inflated.text(payload, bytes_max)?)?,
                _ => each(payload)?,
            }
        }
        // What a server says after its Close is not looked at.
        Ok(if self.is_closing { input.len() } else { at })
    }

    /// Reads a response of server-sent events, from its head on.
    pub(super) fn read_events(
        &mut self,
        input: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), Wrong>,
    ) -> Result<usize, Wrong> {
        let mut at = 0;
        if self.body.is_none() {
            let (passed, head) = parse_final_head(input, false).map_err(no_response)?;
            let Some(head) = head else { return Ok(passed) };
            if head.status != 200 {
                return Err((Failure::Status, format!("status {}", head.status)));
            }
            at = passed + head.bytes;
            self.body = Some(Body::new(head.framing));
        }
        let Some(body) = &mut self.body else { return Ok(at) };
        let event = &mut self.event;
        let progress = body.read(&input[at..], |data| event.extend_from_slice(data)).map_err(no_response)?;
        if progress.is_complete {
            return Err((Failure::Closed, "the events have ended".to_owned()));
        }
        let mut done = 0;
        while let Some(end) = memchr::memmem::find(&self.event[done..], b"\n\n") {
            for line in self.event[done..done + end].split(|byte| *byte == b'\n') {
                match line.strip_prefix(b"data: ") {
                    Some(data) => each(data)?,
                    None if line.starts_with(b"event: reset") => {
                        return Err((Failure::Body, "an event \"reset\": something is missing".to_owned()));
                    }
                    None => {}
                }
            }
            done += end + 2;
        }
        self.event.drain(..done);
        Ok(at + progress.consumed)
    }
}

impl Inflated {
    fn text(&mut self, packed: &[u8], bytes_max: usize) -> Result<&[u8], Wrong> {
        if self.packed != packed {
            self.text = inflate_once(packed, bytes_max).ok_or_else(|| malformed("broken compression"))?;
            self.packed = packed.to_vec();
        }
        Ok(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmill::websocket::compress_once;
    use ringmill::websocket::frame::write_header;

    fn message(messages: &mut Messages, number: u64) -> Vec<u8> {
        messages.write(Front { number, due: Tick(7 * number) }).to_vec()
    }

    #[test]
    fn a_message_says_which_it_is() {
        for bytes in [32, 33, 64, 5000] {
            let mut messages = Messages::new(bytes);
            let good = message(&mut messages, u64::MAX / 7);
            let front = Front { number: u64::MAX / 7, due: Tick(u64::MAX / 7 * 7) };
            assert_eq!((good.len(), messages.read(&good)), (bytes, Some(front)));
            assert_eq!(messages.read(&good[..bytes - 1]), None);
            assert_eq!(messages.read(&[&good[..], b"!"].concat()), None);
            let mut other = good.clone();
            other[bytes - 1] ^= 1;
            assert_ne!(messages.read(&other), Some(front));
        }
        let packed = compress_once(&rows(512)).unwrap().len();
        assert!((128..256).contains(&packed), "{packed}");
    }

    /// Reads a stream in two pieces, cut anywhere: the numbers of its messages.
    fn check(
        stream: &[u8],
        read: impl Fn(&mut Reader, &[u8], &mut Vec<u64>) -> Result<usize, Wrong>,
    ) -> Reader {
        let mut last = Reader::default();
        for cut in 0..=stream.len() {
            let (mut reader, mut numbers, mut at) = (Reader::default(), Vec::new(), 0);
            for end in [cut, stream.len()] {
                at += read(&mut reader, &stream[at..end], &mut numbers).unwrap();
            }
            assert_eq!((at, numbers), (stream.len(), vec![1, 2, 3]), "cut at {cut}");
            last = reader;
        }
        last
    }

    #[test]
    fn frames_however_they_are_cut() {
        let mut messages = Messages::new(300);
        let mut stream = Vec::new();
        let mut frame = |opcode, is_deflated, payload: &[u8]| {
            write_header(&mut stream, opcode, true, is_deflated, payload.len());
            stream.extend_from_slice(payload);
        };
        frame(Opcode::Text, false, &message(&mut messages, 1));
        frame(Opcode::Ping, false, b"?");
        frame(Opcode::Binary, true, &compress_once(&message(&mut messages, 2)).unwrap());
        frame(Opcode::Text, true, &compress_once(&message(&mut messages, 3)).unwrap());
        frame(Opcode::Close, false, &[3, 233]);
        let reader = check(&stream, |reader, input, numbers| {
            reader.read_frames(input, Some(&mut Inflated::default()), 300, |text| {
                numbers.push(messages.read(text).unwrap().number);
                Ok(())
            })
        });
        assert!(reader.is_closing && reader.reply.len() == 6 + 1 + 6 + 2, "{:?}", reader.reply);
    }

    #[test]
    fn events_however_they_are_cut() {
        let mut messages = Messages::new(40);
        let mut stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        let mut chunk = |text: &str| {
            stream.extend_from_slice(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes());
        };
        chunk("retry: 2000\n: hello\n\n");
        for number in 1..=3 {
            let text = String::from_utf8(message(&mut messages, number)).unwrap();
            chunk(&format!("id: a-{number}\ndata: {text}\n\n"));
            chunk(": \n\n");
        }
        check(&stream, |reader, input, numbers| {
            reader.read_events(input, |text| {
                numbers.push(messages.read(text).unwrap().number);
                Ok(())
            })
        });
    }

    #[test]
    fn what_is_wrong_with_a_stream() {
        let events = |text: &str| {
            let read = Reader::default().read_events(text.as_bytes(), |_| Ok(()));
            read.expect_err(text).0
        };
        assert_eq!(events("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), Failure::Status);
        assert_eq!(events("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), Failure::Closed);
        assert_eq!(events("nonsense\r\n\r\n"), Failure::Malformed);
        let reset = "event: reset\ndata: 4\n\n";
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(events(&format!("{head}{:x}\r\n{reset}\r\n", reset.len())), Failure::Body);
        let frames = |bytes: &[u8]| {
            let read = Reader::default().read_frames(bytes, None, 64, |_| Ok(()));
            read.expect_err("malformed").0
        };
        assert_eq!(frames(&[0x01, 0]), Failure::Malformed);
        assert_eq!(frames(&[0xc1, 0]), Failure::Malformed);
    }
}

//! WebSocket on the simulated driver, without sockets: what is heard does not depend on how the input was cut, and messages and verdicts
//! are those of other libraries.

use proptest::prelude::*;
use ringmill_engine::Config;
use ringmill_engine::driver::sim::{Chaos, Peer, Simulation};
use ringmill_engine::event::Socket;
use ringmill_protocols::http::{self, Request};
use ringmill_protocols::topic::{Hub, Topics};
use ringmill_protocols::websocket::frame::{Opcode, write_header, write_masked};
use ringmill_protocols::websocket::{
    Accept, Closed, Deflate, Endpoint, Handler, Message, Options, Piece, Ws,
};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

/// More than an output takes, of which a client is closed that has not read so much before more is sent.
const LARGE: usize = 5_000_000;

/// Sends back what it gets, and writes it down.
#[derive(Clone, Default)]
struct Site(Rc<RefCell<Vec<String>>>);

impl Site {
    fn say(&self, what: String) {
        self.0.borrow_mut().push(what);
    }
}

fn described(message: Message<'_>) -> String {
    match message {
        Message::Text(text) => format!("text {text}"),
        Message::Binary(bytes) => format!("binary {}", bytes.escape_ascii()),
    }
}

impl Handler for Site {
    type State = ();

    fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
        Some(())
    }

    fn message(&mut self, _: &mut (), message: Message<'_>, ws: &mut Ws<'_>) {
        self.say(described(message));
        match message {
            Message::Text("close") => ws.close(4000, "you said so"),
            Message::Text("subscribe") => assert!(ws.subscribe("room")),
            Message::Text("anew") => ws.begin_anew(),
            Message::Text("large parts") => {
                ws.send_part(&"{".repeat(LARGE), false);
                ws.send("within");
                ws.send_part(&"|".repeat(LARGE), true);
                ws.close(1000, "behind them");
            }
            message => ws.send(message),
        }
    }

    fn piece(&mut self, _: &mut (), piece: Piece<'_>, ws: &mut Ws<'_>) {
        ws.send_part(piece.part, piece.is_last);
    }

    fn closed(&mut self, _: (), closed: Closed<'_>) {
        self.say(format!("closed {} {} {}", closed.code, closed.reason, closed.is_clean));
    }
}

struct Run {
    simulation: Simulation,
    listener: Socket,
    site: Site,
    hub: Hub,
}

impl Run {
    fn new(seed: u64, chaos: Chaos, options: Options) -> Run {
        let mut simulation = Simulation::new(seed, chaos, Config::default());
        let site = Site::default();
        let hub = Topics::default().hub_of(0, 1);
        let endpoint = Endpoint::with_options(site.clone(), options).with_topics(&hub);
        let listener = simulation.listen(http::server(|_, reply| reply.empty()).websocket("/", endpoint));
        simulation.start();
        Run { simulation, listener, site, hub }
    }

    fn connect(&self) -> Peer {
        let peer = self.simulation.net().connect(self.listener).expect("somebody listens");
        peer.set_window(1 << 24);
        peer
    }

    fn rest(&mut self) {
        self.simulation.run_for(Duration::from_millis(3));
    }

    /// Ends the client's stream: what it has heard, without the date, and what the handler was told.
    fn end(mut self, peer: &Peer) -> (String, Vec<String>) {
        peer.shutdown();
        let mut heard = Vec::new();
        for _ in 0..2000 {
            self.simulation.run_for(Duration::from_millis(1));
            heard.extend(peer.take());
            if peer.is_closed() {
                break;
            }
        }
        assert!(peer.is_closed(), "it does not end");
        let heard = heard.escape_ascii().to_string();
        let (date, rest) = heard.split_once("\\r\\nsec-websocket-accept").expect("the answer to a handshake");
        assert!(date.starts_with("HTTP/1.1 101 "), "{date}");
        (rest.to_owned(), self.site.0.take())
    }
}

fn options() -> Options {
    Options { deflate: Some(Deflate::default()), ..Options::default() }
}

fn masked(opcode: Opcode, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_masked(&mut frame, opcode, is_final, false, [0xa5, 0x5a, 0x81, 0x18], payload);
    frame
}

fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_masked(&mut frame, Opcode::Text, true, true, [1, 2, 3, 4], payload);
    frame
}

fn text(text: &str) -> Vec<u8> {
    masked(Opcode::Text, true, text.as_bytes())
}

/// Conversations that end well, badly and not at all.
fn conversations() -> Vec<Vec<u8>> {
    use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let mut unmasked = Vec::new();
    write_header(&mut unmasked, Text, true, false, 0);
    vec![
        [text("hello"), text(""), masked(Binary, true, &[7; 200]), masked(Close, true, b"\x03\xe8bye")]
            .concat(),
        [
            masked(Text, false, "ä€".as_bytes()),
            masked(Ping, true, b"ping"),
            masked(Continuation, false, b""),
            masked(Pong, true, b"unasked"),
            masked(Continuation, true, "😀".as_bytes()),
            masked(Close, true, b""),
        ]
        .concat(),
        // A character in two frames.
        [
            masked(Text, false, b"\xe2\x82"),
            masked(Continuation, true, b"\xac"),
            text("close"),
            text("unheard"),
        ]
        .concat(),
        [deflated(&hello), text("plain"), deflated(&hello), masked(Close, true, b"\x03\xe8")].concat(),
        [text("before"), masked(Text, true, b"\xff"), text("behind")].concat(),
        [text("before"), masked(Text, false, b"\xf4\x90"), text("behind")].concat(),
        [masked(Ping, true, &[b'p'; 125]), unmasked, text("behind")].concat(),
        [text("before"), masked(Continuation, true, b"of nothing")].concat(),
        [text("before"), masked(Close, true, b"\x03\xf7")].concat(),
        [text("before"), deflated(b"\xff\xff"), text("behind")].concat(),
        [masked(Binary, false, b"cut"), masked(Binary, true, b"another")].concat(),
        [text("before"), masked(Binary, true, b"cut short")[..9].to_vec()].concat(),
        vec![0x82, 0xfe, 0, 5],
        vec![0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0],
    ]
}

fn check_cuts(said: &[u8], options: &Options) {
    let said = [HANDSHAKE.as_bytes(), said].concat();
    let run = Run::new(0, Chaos::CALM, options.clone());
    let peer = run.connect();
    peer.send(&said);
    let expected = run.end(&peer);
    for cut in HANDSHAKE.len() - 2..said.len() {
        let mut run = Run::new(0, Chaos::CALM, options.clone());
        let peer = run.connect();
        peer.send(&said[..cut]);
        run.rest();
        peer.send(&said[cut..]);
        assert_eq!(run.end(&peer), expected, "cut at {cut}: {}", said.escape_ascii());
    }
    let mut run = Run::new(0, Chaos::CALM, options.clone());
    let peer = run.connect();
    for byte in said {
        peer.send(&[byte]);
        run.rest();
    }
    assert_eq!(run.end(&peer), expected, "byte by byte");
}

#[test]
fn what_is_heard_does_not_depend_on_how_the_input_was_cut() {
    for said in conversations() {
        check_cuts(&said, &options());
    }
}

#[test]
fn nor_on_what_the_kernel_does() {
    let large = text(&"a walk ".repeat(40_000));
    let options = Options { message_bytes_max: 1 << 20, ..options() };
    for said in conversations().into_iter().chain([large]) {
        let said = [HANDSHAKE.as_bytes(), &said].concat();
        let hear = |seed, chaos| {
            let run = Run::new(seed, chaos, options.clone());
            let peer = run.connect();
            peer.send(&said);
            run.end(&peer)
        };
        let expected = hear(0, Chaos::CALM);
        for seed in 0..50 {
            assert_eq!(hear(seed, Chaos::WILD), expected, "seed {seed}: {}", said.escape_ascii());
        }
    }
}

#[test]
fn parts_may_be_larger_than_the_output() {
    let mut run = Run::new(1, Chaos::CALM, Options::default());
    let peer = run.connect();
    peer.send(HANDSHAKE.as_bytes());
    peer.send(&text("large parts"));
    run.rest();
    let (heard, _) = run.end(&peer);
    for letter in ["{", "|"] {
        assert_eq!(heard.matches(letter).count(), LARGE, "of {} bytes", heard.len());
    }
    assert!(heard.ends_with("behind them"), "of {} bytes", heard.len());
}

#[test]
fn who_begins_anew_in_a_drain_is_sent_nothing_more_and_keeps_its_reason() {
    let mut run = Run::new(1, Chaos::CALM, Options::default());
    let peers: Vec<Peer> = (0..100).map(|_| run.connect()).collect();
    for peer in &peers {
        peer.send(HANDSHAKE.as_bytes());
        peer.send(&text("subscribe"));
    }
    run.rest();
    assert_eq!(run.hub.subscribers("room"), peers.len());
    // One has missed something before the drain, all others in it.
    peers[0].send(&text("anew"));
    run.rest();
    run.simulation.drain(Duration::from_secs(60));
    run.rest();
    peers[1..].iter().for_each(|peer| peer.send(&text("anew")));
    run.rest();
    run.hub.publish("room", "what comes behind it");
    run.simulation.run_for(Duration::from_secs(30));
    for (number, peer) in peers.iter().enumerate() {
        let heard = peer.take();
        let end: &[u8] =
            if number == 0 { b"\x0f\xa9messages were missed" } else { b"\x03\xe9the server goes away" };
        assert!(heard.ends_with(end), "{number}: {}", heard.escape_ascii());
        assert!(!heard.escape_ascii().to_string().contains("what comes"), "{number}");
    }
}

#[test]
fn pieces_are_the_same_message_however_it_was_cut() {
    let options = Options { in_pieces: true, ..options() };
    let all = "ä€😀 and more".repeat(3);
    let said = [
        masked(Opcode::Text, false, &all.as_bytes()[..11]),
        masked(Opcode::Continuation, true, &all.as_bytes()[11..]),
    ]
    .concat();
    let said = [HANDSHAKE.as_bytes(), &said].concat();
    for cut in HANDSHAKE.len()..said.len() {
        let mut run = Run::new(0, Chaos::CALM, options.clone());
        let peer = run.connect();
        peer.send(&said[..cut]);
        run.rest();
        peer.send(&said[cut..]);
        run.rest();
        let heard = peer.take();
        let start = heard.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let mut rest = &heard[start..];
        let mut joined = Vec::new();
        while let [_, bytes, payload @ ..] = rest {
            // Each part is text of its own.
            let (part, behind) = payload.split_at(usize::from(*bytes));
            assert!(str::from_utf8(part).is_ok());
            joined.extend_from_slice(part);
            rest = behind;
        }
        assert_eq!(String::from_utf8(joined).unwrap(), all, "cut at {cut}");
    }
}

/// One frame as a client may send it, and what is wrong with it.
#[derive(Clone, Debug)]
struct Sent {
    first: u8,
    payload: Vec<u8>,
    is_masked: bool,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        if self.is_masked {
            write_masked(&mut frame, Opcode::Text, true, false, [3, 1, 4, 1], &self.payload);
        } else {
            write_header(&mut frame, Opcode::Text, true, false, self.payload.len());
            frame.extend_from_slice(&self.payload);
        }
        frame[0] = self.first;
        frame
    }
}

fn frames() -> impl Strategy<Value = Vec<Sent>> {
    let opcode = prop_oneof![4 => Just(0_u8), 6 => Just(1), 6 => Just(2), 1 => Just(8), 2 => Just(9), 1 => Just(10), 1 => 0..16_u8];
    let payload = prop_oneof![
        4 => "[a-zä€😀]{0,12}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..8),
        1 => prop::collection::vec(Just(b'x'), 120..130),
        1 => (0..5000_u16, "[a-z]{0,4}").prop_map(|(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat()),
    ];
    let flags = prop_oneof![20 => Just(0_u8), 1 => prop_oneof![Just(0x40_u8), Just(0x20), Just(0x10)]];
    let frame = (opcode, prop::bool::weighted(0.75), flags, payload, prop::bool::weighted(0.98)).prop_map(
        |(opcode, is_final, flags, payload, is_masked)| Sent {
            first: opcode | if is_final { 0x80 } else { 0 } | flags,
            payload,
            is_masked,
        },
    );
    prop::collection::vec(frame, 0..10)
}

/// What a library makes of it: its messages, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    messages: Vec<String>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    Closed,
    Broken,
}

fn ours(frames: &[Sent]) -> Verdict {
    let run = Run::new(0, Chaos::CALM, Options { empty_frames_max: u16::MAX, ..Options::default() });
    let peer = run.connect();
    peer.send(HANDSHAKE.as_bytes());
    frames.iter().for_each(|frame| peer.send(&frame.bytes()));
    let (_, mut messages) = run.end(&peer);
    let closed = messages.pop().expect("the end is told");
    let end = match closed.split(' ').collect::<Vec<_>>()[..] {
        ["closed", .., "true"] => End::Closed,
        ["closed", "1006", ..] => End::Open,
        ["closed", ..] => End::Broken,
        _ => panic!("{closed}"),
    };
    Verdict { messages, end }
}

/// A stream for tungstenite: what was sent, and then nothing yet.
struct Stream(io::Cursor<Vec<u8>>);

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tungstenites(frames: &[Sent]) -> Verdict {
    use tungstenite::protocol::{Role, WebSocket};
    let bytes = frames.iter().flat_map(Sent::bytes).collect();
    let mut socket = WebSocket::from_raw_socket(Stream(io::Cursor::new(bytes)), Role::Server, None);
    let mut messages = Vec::new();
    let end = loop {
        match socket.read() {
            Ok(tungstenite::Message::Text(text)) => messages.push(described(Message::Text(text.as_str()))),
            Ok(tungstenite::Message::Binary(bytes)) => messages.push(described(Message::Binary(&bytes))),
            // It answers a code that is not to be sent in this way, and goes on as if it had been one.
            Ok(tungstenite::Message::Close(Some(frame))) if frame.reason.as_str() == "Protocol violation" => {
                break End::Broken;
            }
            Ok(tungstenite::Message::Close(_)) => break End::Closed,
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                break End::Open;
            }
            Err(tungstenite::Error::ConnectionClosed) => break End::Closed,
            Err(_) => break End::Broken,
        }
    };
    Verdict { messages, end }
}

fn sockudos(frames: &[Sent]) -> Verdict {
    use sockudo_ws::protocol::{Message as Theirs, Protocol, Role};
    let mut protocol = Protocol::new(Role::Server, 1 << 20, 1 << 20);
    let mut verdict = Verdict { messages: Vec::new(), end: End::Open };
    // Frame by frame: what came before a broken one counts.
    for frame in frames {
        let mut buffer = bytes::BytesMut::from(&frame.bytes()[..]);
        let Ok(messages) = protocol.process(&mut buffer) else {
            verdict.end = End::Broken;
            break;
        };
        for message in messages {
            match message {
                Theirs::Text(text) => {
                    verdict
                        .messages
                        .push(described(Message::Text(str::from_utf8(&text).expect("it was checked"))));
                }
                Theirs::Binary(bytes) => verdict.messages.push(described(Message::Binary(&bytes))),
                Theirs::Close(_) => verdict.end = End::Closed,
                Theirs::Ping(_) | Theirs::Pong(_) => {}
            }
        }
        if verdict.end != End::Open {
            break;
        }
    }
    verdict
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_and_verdicts_are_those_of_other_libraries(frames in frames()) {
        // A handler of ours ends the connection at this word.
        prop_assume!(frames.iter().all(|frame| frame.payload != b"close"));
        let verdict = ours(&frames);
        prop_assert_eq!(&verdict, &tungstenites(&frames), "tungstenite");
        prop_assert_eq!(&verdict, &sockudos(&frames), "sockudo-ws");
    }
}

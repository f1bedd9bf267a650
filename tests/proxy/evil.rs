//! Servers that break the rules of HTTP/2, frame by frame, with the proxy as their client: what whoever asked is told, and that nobody else
//! notices. Like the evil upstreams of HTTP/1.1, and like the clients of `hostile_h2.rs`.

use super::{patient, serve};
use crate::common::frames::*;
use crate::common::upstream::{Line, Upstream};
use crate::common::*;
use ringmill::DriverChoice;
use ringmill::proxy::ProxyConfig;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::time::Duration;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Get,
    Head,
    /// Bodies of so many bytes. What was sent of it once is not sent again, unless the server says that it has not looked at it.
    Post(usize),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Whole(u16, String),
    /// There was something of a reply, and the client knows that it is not all.
    Cut,
}

/// A server: what it does wrong, on so many connections of its; then it is honest.
struct Evil {
    what: &'static str,
    asks: Asks,
    connections: usize,
    told: &'static [u16],
    does: fn(&mut Server<'_>),
}

/// A reply that breaks off.
const CUT: u16 = 0;
const OVERFLOW: [u8; 4] = [0x7f, 255, 255, 255];
const MUCH: usize = 20_000;

/// The server's side of one connection.
struct Server<'a> {
    line: &'a mut Line,
    /// The stream of the last request.
    stream: u32,
}

impl Server<'_> {
    fn says(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.line.try_send(bytes)
    }

    /// Takes the preface.
    fn begin(&mut self) {
        let mut preface = [0; 24];
        let _ = self.line.stream.read_exact(&mut preface);
    }

    /// The same, and says its settings; then the first request is awaited, with its body.
    fn is_asked(&mut self) {
        self.is_asked_with(b"");
    }

    fn is_asked_with(&mut self, settings: &[u8]) {
        self.begin();
        self.says(frame(SETTINGS, 0, 0, settings));
        self.next();
    }

    /// Reads up to the end of the next request; false where the connection ends.
    fn next(&mut self) -> bool {
        while let Ok(Frame { kind, flags, stream, payload }) = read_frame(&mut self.line.stream) {
            match kind {
                SETTINGS if flags & ACK == 0 => _ = self.says(frame(SETTINGS, ACK, 0, b"")),
                PING if flags & ACK == 0 => _ = self.says(frame(PING, ACK, 0, &payload)),
                HEADERS => self.stream = stream,
                _ => {}
            }
            if matches!(kind, HEADERS | DATA) && flags & END_STREAM > 0 {
                return true;
            }
        }
        false
    }

    fn is_honest(&mut self) {
        while self.next() && self.heads(&[], 0) && self.data("good", END_STREAM) {}
    }

    /// A head with status 200 and these fields.
    fn heads(&mut self, fields: &[(&str, &str)], flags: u8) -> bool {
        let fields = fields.iter().flat_map(|(name, value)| field(name, value));
        let block: Vec<u8> = std::iter::once(STATUS_200).chain(fields).collect();
        self.head(&block, flags)
    }

    fn head(&mut self, block: &[u8], flags: u8) -> bool {
        let stream = self.stream;
        self.says(frame(HEADERS, END_HEADERS | flags, stream, block))
    }

    fn data(&mut self, data: &str, flags: u8) -> bool {
        let stream = self.stream;
        self.says(frame(DATA, flags, stream, data.as_bytes()))
    }

    /// The same piece over and over.
    fn floods(&mut self, piece: &[u8]) {
        let much = piece.repeat(MUCH / 20);
        (0..20).all(|_| self.says(&much));
    }
}

fn status(code: &str) -> Vec<u8> {
    field(":status", code)
}

const fn evil(what: &'static str, told: &'static [u16], does: fn(&mut Server<'_>)) -> Evil {
    Evil { what, asks: Asks::Post(2), connections: 1, told, does }
}

/// All of them. A request that is told nothing in time is told so with 504.
const ALL: &[Evil] = &[
    evil("no settings, and nothing else", &[504], |server| {
        server.begin();
        server.line.wait_for_end();
    }),
    evil("an answer without settings", &[200, 502], |server| {
        server.begin();
        server.next();
        server.heads(&[], 0);
        server.data("good", END_STREAM);
    }),
    evil("HTTP/1.1", &[502], |server| {
        server.begin();
        server.says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    }),
    evil("no word at all, and the end", &[502], |server| {
        server.begin();
        let _ = server.line.stream.shutdown(std::net::Shutdown::Both);
    }),
    evil("a head of a stream that nobody opened", &[502], |server| {
        server.is_asked();
        server.stream += 2;
        server.heads(&[], END_STREAM);
    }),
    evil("a head of a stream of its own", &[502], |server| {
        server.is_asked();
        server.stream = 2;
        server.heads(&[], END_STREAM);
    }),
    evil("a head of the connection", &[502], |server| {
        server.is_asked();
        server.stream = 0;
        server.heads(&[], END_STREAM);
    }),
    evil("data before a head", &[502], |server| {
        server.is_asked();
        server.data("evil", 0);
        server.heads(&[], END_STREAM);
    }),
    evil("data behind the end", &[200], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.data("good", END_STREAM);
        server.data("evil", END_STREAM);
    }),
    evil("a head behind the end", &[200], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.data("good", END_STREAM);
        server.heads(&[], END_STREAM);
    }),
    evil("two heads", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.heads(&[], 0);
        server.data("evil", END_STREAM);
    }),
    // The library drops it.
    evil("a status in trailers", &[200], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.data("good", 0);
        server.heads(&[("a", "b")], END_STREAM);
    }),
    evil("a field of framing in trailers", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.data("par", 0);
        server.head(&field("transfer-encoding", "chunked"), END_STREAM);
    }),
    evil("trailers without an end", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.data("par", 0);
        server.head(&field("a", "b"), 0);
    }),
    evil("interim replies without end", &[502], |server| {
        server.is_asked();
        let hints = frame(HEADERS, END_HEADERS, server.stream, &[status("103"), field("link", "a")].concat());
        server.floods(&hints);
    }),
    evil("an interim reply that is the last", &[502], |server| {
        server.is_asked();
        server.head(&status("103"), END_STREAM);
    }),
    evil("a head without end", &[502], |server| {
        server.is_asked();
        server.says(frame(HEADERS, 0, server.stream, &[STATUS_200]));
        let more = frame(CONTINUATION, 0, server.stream, &field("a", &"x".repeat(100)));
        server.floods(&more);
    }),
    evil("a head without end, of nothing", &[502], |server| {
        server.is_asked();
        server.says(frame(HEADERS, 0, server.stream, &[STATUS_200]));
        let more = frame(CONTINUATION, 0, server.stream, b"");
        server.floods(&more);
    }),
    evil("another frame within a head", &[502], |server| {
        server.is_asked();
        server.says(frame(HEADERS, 0, server.stream, &[STATUS_200]));
        server.data("evil", END_STREAM);
    }),
    evil("a bomb of HPACK", &[502], |server| {
        server.is_asked();
        // Into the table (RFC 7541, 6.2.1), and many references of a byte each.
        let stored = [&[STATUS_200, 0x40, 1, b'a', 0x7f, 0xa1, 0x1e], &[b'x'; 4000][..]].concat();
        server.head(&[stored, vec![0xbe; 12_000]].concat(), END_STREAM);
    }),
    evil("more fields than may be", &[502], |server| {
        server.is_asked();
        let many = field("a", &"x".repeat(100)).repeat(1000);
        server.says(frame(HEADERS, 0, server.stream, &[STATUS_200]));
        let pieces = many.chunks(16_000).map(|piece| frame(CONTINUATION, 0, server.stream, piece));
        let all = pieces.collect::<Vec<_>>().concat();
        server.says(all);
        server.says(frame(CONTINUATION, END_HEADERS, server.stream, b""));
        server.data("evil", END_STREAM);
    }),
    evil("fields that HPACK does not know", &[502], |server| {
        server.is_asked();
        server.head(&[STATUS_200, 0xff, 0xff, 0xff], END_STREAM);
    }),
    evil("settings without end", &[504], |server| {
        server.is_asked();
        server.floods(&frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]));
    }),
    evil("pings without end", &[504], |server| {
        server.is_asked();
        server.floods(&frame(PING, 0, 0, &[7; 8]));
    }),
    evil("windows without end", &[504], |server| {
        server.is_asked();
        server.floods(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    }),
    evil("frames that nobody knows, without end", &[504], |server| {
        server.is_asked();
        server.floods(&frame(99, 0, server.stream, b"evil"));
    }),
    evil("a window that is too large", &[502], |server| {
        server.is_asked();
        server.says(frame(WINDOW_UPDATE, 0, 0, &OVERFLOW).repeat(2));
    }),
    evil("a window of the stream that is too large", &[502, 504], |server| {
        server.is_asked_with(&[0, 4, 0, 1, 0, 0]);
        server.says(frame(WINDOW_UPDATE, 0, server.stream, &OVERFLOW).repeat(2));
    }),
    evil("a window of nothing", &[502], |server| {
        server.is_asked();
        server.says(frame(WINDOW_UPDATE, 0, 0, &[0; 4]));
    }),
    evil("a first window that is too large", &[502], |server| {
        server.is_asked_with(&[0, 4, 255, 255, 255, 255]);
    }),
    evil("settings of half a setting", &[502], |server| {
        server.is_asked_with(&[0, 4, 0]);
    }),
    evil("a ping of a stream", &[502], |server| {
        server.is_asked();
        server.says(frame(PING, 0, server.stream, &[7; 8]));
    }),
    evil("more padding than frame", &[502], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.says(frame(DATA, END_STREAM | 8, server.stream, &[200, b'a']));
    })
    .cut(),
    evil("a frame that is too large", &[502], |server| {
        server.is_asked();
        server.says(frame(HEADERS, END_HEADERS | END_STREAM, server.stream, &[STATUS_200; 20_000]));
    }),
    evil("a reset", &[502], |server| {
        server.is_asked();
        server.says(frame(RST_STREAM, 0, server.stream, &CANCEL.to_be_bytes()));
    }),
    evil("a reset of a stream that nobody opened", &[502], |server| {
        server.is_asked();
        server.says(frame(RST_STREAM, 0, server.stream + 2, &CANCEL.to_be_bytes()));
    }),
    evil("a reset that is no error, within the reply", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.data("par", 0);
        server.says(frame(RST_STREAM, 0, server.stream, &0_u32.to_be_bytes()));
    }),
    Evil { connections: 3, ..evil("the end of the connection, before the request", &[200], goes_away) },
    // Until the budget of repeated requests is used up, which by then may have grown by one.
    Evil { connections: 12, ..evil("the same, for ever", &[502, 200], goes_away) },
    evil("refusals", &[200], |server| {
        server.is_asked();
        for _ in 0..3 {
            server.says(frame(RST_STREAM, 0, server.stream, &REFUSED_STREAM.to_be_bytes()));
            server.next();
        }
        server.heads(&[], 0);
        server.data("good", END_STREAM);
    }),
    evil("the end of the connection, again and again", &[200], |server| {
        server.is_asked();
        server.floods(&frame(GOAWAY, 0, 0, &[OVERFLOW, [0; 4]].concat()));
        server.heads(&[], 0);
        server.data("good", END_STREAM);
    }),
    evil("the end of the connection, and no answer", &[502], |server| {
        server.is_asked();
        server.says(frame(GOAWAY, 0, 0, &[server.stream.to_be_bytes(), [0; 4]].concat()));
        let _ = server.line.stream.shutdown(std::net::Shutdown::Both);
    }),
    evil("a promise", &[502], |server| {
        server.is_asked();
        let promised = [&2_u32.to_be_bytes()[..], &block("GET", "/evil")].concat();
        server.says(frame(PUSH_PROMISE, END_HEADERS, server.stream, &promised));
        server.heads(&[], 0);
        server.data("evil", END_STREAM);
    }),
    evil("less than was said", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[("content-length", "9")], 0);
        server.data("par", END_STREAM);
    }),
    evil("less than was said, and trailers", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[("content-length", "9")], 0);
        server.data("par", 0);
        server.head(&field("a", "b"), END_STREAM);
    }),
    evil("nothing of what was said", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[("content-length", "9")], END_STREAM);
    }),
    evil("more than was said", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[("content-length", "2")], 0);
        server.data("parevil", END_STREAM);
    }),
    evil("two lengths", &[502], |server| {
        server.is_asked();
        server.heads(&[("content-length", "4"), ("content-length", "2")], 0);
        server.data("evil", END_STREAM);
    }),
    evil("a length that is none", &[502], |server| {
        server.is_asked();
        server.heads(&[("content-length", "+4")], 0);
        server.data("evil", END_STREAM);
    }),
    evil("Connection", &[502], |server| server.answers_evil_with("connection", "close")),
    evil("Transfer-Encoding", &[502], |server| server.answers_evil_with("transfer-encoding", "chunked")),
    evil("Keep-Alive", &[502], |server| server.answers_evil_with("keep-alive", "5")),
    evil("Upgrade", &[502], |server| server.answers_evil_with("upgrade", "websocket")),
    evil("capitals", &[502], |server| server.answers_evil_with("Evil", "x")),
    evil("a line end in a value", &[502], |server| server.answers_evil_with("a", "b\r\nc: d")),
    evil("a name that is none", &[502], |server| server.answers_evil_with("a b", "c")),
    evil("an empty name", &[502], |server| server.answers_evil_with("", "c")),
    // As this one.
    evil("a path in a reply", &[200], |server| {
        server.is_asked();
        server.heads(&[(":path", "/")], 0);
        server.data("good", END_STREAM);
    }),
    evil("an unknown pseudo field", &[502], |server| server.answers_evil_with(":evil", "/")),
    evil("no status", &[502], |server| server.answers_evil_as(&field("a", "b"))),
    evil("two statuses", &[502], |server| server.answers_evil_as(&[STATUS_200, STATUS_200])),
    evil("a status behind fields", &[502], |server| {
        server.answers_evil_as(&[field("a", "b"), status("200")].concat());
    }),
    evil("a status that is none", &[502], |server| server.answers_evil_as(&status("2x0"))),
    evil("a status of two digits", &[502], |server| server.answers_evil_as(&status("99"))),
    evil("a status of four digits", &[502], |server| server.answers_evil_as(&status("2000"))),
    // Whatever it means is for the client to say (RFC 9110, 15).
    evil("a status beyond all", &[999, 502], |server| {
        server.is_asked();
        server.head(&status("999"), 0);
        server.data("good", END_STREAM);
    }),
    evil("another protocol", &[502], |server| server.answers_evil_as(&status("101"))),
    evil("a body where there is none", &[204, 502], |server| server.answers_evil_as(&status("204"))),
    Evil {
        asks: Asks::Head,
        ..evil("a body behind the head alone", &[200, 502], |server| {
            server.answers_evil_as(&[STATUS_200]);
        })
    },
    evil("data of nothing without end", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[], 0);
        server.floods(&frame(DATA, 0, server.stream, b""));
    }),
    evil("no window for a request", &[504], |server| server.is_asked_with(&[0, 4, 0, 0, 0, 0])),
    Evil { asks: Asks::Post(1 << 20), ..evil("no window for the rest", &[504], |server| server.is_asked()) },
    evil("no streams", &[504], |server| server.is_asked_with(&[0, 3, 0, 0, 0, 0])),
    evil("the end within a frame", &[CUT, 502], |server| {
        server.is_asked();
        server.heads(&[], 0);
        let whole = frame(DATA, END_STREAM, server.stream, b"evil");
        server.says(&whole[..10]);
        let _ = server.line.stream.shutdown(std::net::Shutdown::Both);
    }),
    evil("the end within a head", &[502], |server| {
        server.is_asked();
        server.says(&frame(HEADERS, END_HEADERS | END_STREAM, server.stream, &[STATUS_200; 9])[..12]);
        let _ = server.line.stream.shutdown(std::net::Shutdown::Both);
    }),
    // It has no effect to ask for these twice: the second answer is an honest one.
    Evil {
        asks: Asks::Get,
        ..evil("HTTP/1.1, where it may be asked again", &[200], |server| {
            server.begin();
            server.says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        })
    },
    Evil {
        asks: Asks::Get,
        ..evil("a reset, where it may be asked again", &[200, 502], |server| {
            server.is_asked();
            server.says(frame(RST_STREAM, 0, server.stream, &CANCEL.to_be_bytes()));
        })
    },
];

/// Says that it has looked at nothing.
fn goes_away(server: &mut Server<'_>) {
    server.is_asked();
    server.says(frame(GOAWAY, 0, 0, &[0; 8]));
}

impl Evil {
    /// The reply has begun.
    const fn cut(self) -> Evil {
        Evil { told: &[CUT, 502], ..self }
    }
}

impl Server<'_> {
    fn answers_evil_with(&mut self, name: &str, value: &str) {
        self.answers_evil_as(&[vec![STATUS_200], field(name, value)].concat());
    }

    fn answers_evil_as(&mut self, block: &[u8]) {
        self.is_asked();
        self.head(block, 0);
        self.data("evil", END_STREAM);
    }
}

impl Evil {
    /// Has it asked by a client of either version, behind a proxy of its own.
    fn check(&self, driver: DriverChoice, ask: fn(SocketAddr, Asks) -> Told) {
        let Evil { what, asks, connections, told, does } = *self;
        let upstream = Upstream::new(move |line| {
            let is_evil = line.number < connections;
            let mut server = Server { line, stream: 0 };
            if is_evil {
                does(&mut server);
            } else {
                server.begin();
                server.says(frame(SETTINGS, 0, 0, b""));
            }
            server.is_honest();
        });
        // Whoever is told something is, however slow the machine is.
        let in_time = if told.contains(&504) { Duration::from_secs(1) } else { PATIENCE };
        let config = ProxyConfig {
            is_http2: true,
            first_byte_timeout: in_time,
            idle_timeout: in_time,
            ..patient(vec![upstream.address.clone()])
        };
        let running = serve(driver, config);
        let address = ip(&running.addresses()[0]);
        let said = ask(address, asks);
        let good = Told::Whole(200, "good".to_owned());
        let is_right = match &said {
            Told::Whole(200, body) => told.contains(&200) && (body == "good" || asks == Asks::Head),
            Told::Whole(status, body) => told.contains(status) && !body.contains("evil"),
            Told::Cut => told.contains(&CUT),
        };
        assert!(is_right, "{what}: told {said:?}, expected one of {told:?}");
        for _ in 0..2 {
            assert_eq!(ask(address, Asks::Get), good, "{what}: the next one");
        }
        assert!(
            upstream.accepted() <= connections.min(17) + 3,
            "{what}: {} connections",
            upstream.accepted()
        );
        assert_eq!(running.stats().total().panics, 0, "{what}");
    }
}

/// Asks in HTTP/1.1.
fn ask_one(address: SocketAddr, asks: Asks) -> Told {
    let mut client = connect_to(address);
    let (method, bytes) = match asks {
        Asks::Get => ("GET", 0),
        Asks::Head => ("HEAD", 0),
        Asks::Post(bytes) => ("POST", bytes),
    };
    let head =
        format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n");
    client.send(head);
    let mut sender = client.try_clone().unwrap();
    // It may be answered before it is all sent.
    let sending = std::thread::spawn(move || _ = sender.write_all(&vec![b'x'; bytes]));
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all);
    drop(client);
    sending.join().unwrap();
    let mut all = String::from_utf8_lossy(&all).into_owned();
    while all.starts_with("HTTP/1.1 1") {
        all = all.split_once("\r\n\r\n").map_or(String::new(), |(_, rest)| rest.to_owned());
    }
    let Some((head, body)) = all.split_once("\r\n\r\n") else { panic!("no reply: {all:?}") };
    let status = head[9..12].parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let chunk = body.strip_prefix("4\r\n").and_then(|rest| rest.split_once("\r\n0\r\n"));
    match (length, chunk) {
        _ if asks == Asks::Head || matches!(status, 204 | 304) => {}
        (Some(length), _) if body.len() == length.parse::<usize>().unwrap() => {}
        (None, Some((text, trailers))) if trailers.ends_with("\r\n") => {
            assert!(!trailers.contains(":status"), "{trailers}");
            return Told::Whole(status, text.to_owned());
        }
        _ => return Told::Cut,
    }
    Told::Whole(status, body.to_owned())
}

/// Asks in HTTP/2. Of a status it knows 200 and those of the proxy's own answers; any other one is told as 502.
fn ask_two(address: SocketAddr, asks: Asks) -> Told {
    let mut client = connect_to(address);
    let (method, bytes) = match asks {
        Asks::Get => ("GET", 0),
        Asks::Head => ("HEAD", 0),
        // What fits into its first window.
        Asks::Post(bytes) => ("POST", bytes.min(60_000)),
    };
    let pieces = vec![b'x'; bytes];
    let data = pieces.chunks(16_000).flat_map(|piece| frame(DATA, 0, 1, piece));
    let ends = if bytes > 0 { frame(DATA, END_STREAM, 1, b"") } else { Vec::new() };
    let head = request(1, method, "/", bytes == 0);
    client.send([PREFACE, &frame(SETTINGS, 0, 0, b""), &head].concat());
    client.send([data.collect::<Vec<_>>(), ends].concat());
    let (mut status, mut body) = (502, String::new());
    loop {
        let Ok(Frame { kind, flags, stream, payload }) = read_frame(&mut client) else { return Told::Cut };
        match (kind, stream) {
            (HEADERS, 1) if payload.first() == Some(&STATUS_200) => status = 200,
            (HEADERS, 1) => {}
            (DATA, 1) => body.push_str(&String::from_utf8_lossy(&payload)),
            (RST_STREAM, 1) => return Told::Cut,
            _ => continue,
        }
        if flags & END_STREAM > 0 {
            // Ours begins with it.
            let own = body.get(..3).and_then(|code| code.parse().ok());
            return Told::Whole(own.unwrap_or(status), body);
        }
    }
}

/// Several at a time: most of what they take is waiting for what does not come.
pub(super) fn check_all(driver: DriverChoice) {
    const MIB: usize = 1 << 20;
    let before = rss_anon_bytes();
    let failed = Mutex::new(Vec::new());
    let left = Mutex::new(ALL.iter().flat_map(|evil| {
        let asks: [fn(SocketAddr, Asks) -> Told; 2] = [ask_one, ask_two];
        asks.map(|ask| (evil, ask))
    }));
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                loop {
                    let Some((evil, ask)) = left.lock().unwrap().next() else { return };
                    if catch_unwind(|| evil.check(driver, ask)).is_err() {
                        failed.lock().unwrap().push(evil.what);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}: each is told above");
    let growth = rss_anon_bytes().saturating_sub(before);
    assert!(growth < 64 * MIB, "memory grew by {} KiB", growth / 1024);
}

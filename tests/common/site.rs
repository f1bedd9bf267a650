//! An HTTP server with something for each test.

use super::http::{exchange, get};
use super::{config, ip, on_both_drivers, pattern, show};
use ringmill::http::{
    BodyWriter, Fill, Handler, Limits, Method, Plan, Reply, Request, Server, Source, Upload,
};
use ringmill::{Config, DriverChoice, Running, WorkerContext};
use std::net::SocketAddr;

/// A server with these limits, and its address.
pub fn start(driver: DriverChoice, limits: Limits) -> (Running, SocketAddr) {
    start_with(config(driver), limits)
}

pub fn start_with(config: Config, limits: Limits) -> (Running, SocketAddr) {
    let running =
        super::start(config, move |_: &WorkerContext| Server::new(Site).with_limits(limits.clone()));
    let address = ip(&running.addresses()[0]);
    (running, address)
}

/// Calls `test` with a server of default limits, on each driver.
pub fn on_a_site(test: impl Fn(SocketAddr)) {
    on_both_drivers(|driver| {
        let (_running, address) = start(driver, Limits::default());
        test(address);
    });
}

/// The server answers with this error, says that it closes, does so, and answers nothing that comes after.
#[track_caller]
pub fn check_refused(address: SocketAddr, request: impl AsRef<[u8]>, status: u16) {
    let request = request.as_ref();
    let answer = exchange(address, [request, get("/hello").as_bytes()].concat());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let length = format!("content-length: {}", body.len());
    let good = head.starts_with(&format!("HTTP/1.1 {status} "))
        && head.lines().any(|line| line == length)
        && head.lines().any(|line| line == "connection: close")
        && body.starts_with(&format!("{status} "))
        && answer.matches("server: ringmill").count() == 1;
    assert!(good, "asked {}, expected {status}, received {}", show(request), show(answer.as_bytes()));
}

/// The handler.
pub struct Site;

impl Handler for Site {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match request.path() {
            "/hello" => reply.text("hello"),
            "/json" => reply.json(b"{}"),
            "/collect" => reply.content_type("text/plain").body(request.body()),
            "/trailers" => reply.content_type("text/plain").body(&told(request.trailers())),
            "/echo" => reply.empty(),
            "/target" => reply.text(&format!(
                "{} {} {} {:?} {:?}",
                request.method().as_str(),
                request.target(),
                request.path(),
                request.query(),
                request.host()
            )),
            "*" => reply.status(204).field("allow", "GET").empty(),
            "/close" => reply.close().text("closing"),
            "/split" => reply.field("x-a", "b\r\nx-c: d").field("x-e", "f").text("whole"),
            "/teapot" => reply.status(418).text("short and stout"),
            "/unchanged" => reply.status(304).field("etag", "\"1\"").body(b"not sent"),
            "/panic" => panic!("as asked"),
            "/panic-source" => reply.stream(None, Panics),
            "/short" => reply.stream(Some(10), Pattern { at: 0, end: 5, waits: false }),
            "/slow" => reply.stream(None, Pattern { at: 0, end: 3, waits: true }),
            path => {
                match path.rsplit_once('/').and_then(|(route, n)| Some((route, n.parse::<usize>().ok()?))) {
                    Some(("/bytes", end)) => {
                        reply.stream(Some(end as u64), Pattern { at: 0, end, waits: false })
                    }
                    Some(("/chunked", end)) => reply.stream(None, Pattern { at: 0, end, waits: false }),
                    Some(("/status", status)) => reply.status(status as u16).text("text"),
                    Some(("/stream", status)) => {
                        reply.status(status as u16).stream(None, Pattern { at: 0, end: 3, waits: false });
                    }
                    _ => reply.status(404).text("nothing"),
                }
            }
        }
    }

    fn plan(&mut self, request: &Request<'_>) -> Plan {
        match (request.path(), request.method()) {
            ("/echo", _) => Plan::Stream(Box::new(Back { length: request.body_length(), begun: false })),
            ("/early", Method::Post) => Plan::Stream(Box::new(Early)),
            ("/panic-upload", _) => Plan::Stream(Box::new(Panics)),
            ("/small", _) => Plan::CollectUpTo(10),
            ("/small-stream", _) => Plan::StreamUpTo(10, Box::new(Back { length: None, begun: false })),
            _ => Plan::Collect,
        }
    }
}

/// Trailers without what means nothing in them: names in lower case, values without white space around them.
fn told(trailers: &[u8]) -> Vec<u8> {
    let lines = trailers.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let told = lines.map(|line| {
        let (name, value) = line.split_at(line.iter().position(|&byte| byte == b':').expect("a field line"));
        [&name.to_ascii_lowercase(), &b": "[..], value[1..].trim_ascii(), b"\r\n"].concat()
    });
    told.collect::<Vec<_>>().concat()
}

/// The pattern from `at` to `end`; one byte at a time and only when woken, if it waits.
struct Pattern {
    at: usize,
    end: usize,
    waits: bool,
}

impl Source for Pattern {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        let bytes = if self.waits { 1 } else { body.room_bytes().min(10_000) };
        let bytes = bytes.min(self.end - self.at);
        body.write(&pattern(self.at, bytes));
        self.at += bytes;
        if self.at == self.end {
            return Fill::End;
        }
        if self.waits {
            let waker = body.waker();
            std::thread::spawn(move || waker.wake());
            return Fill::Pending;
        }
        Fill::More
    }
}

/// Sends the body back as it comes.
struct Back {
    length: Option<u64>,
    begun: bool,
}

impl Upload for Back {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        if !std::mem::replace(&mut self.begun, true) {
            reply.content_type("text/plain").begin(self.length);
        }
        reply.write(bytes);
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        if self.begun { reply.end() } else { reply.empty() }
    }
}

/// Answers before the body is there.
struct Early;

impl Upload for Early {
    fn chunk(&mut self, _: &[u8], reply: &mut Reply<'_>) {
        reply.status(403).text("no need for more");
    }

    fn end(self: Box<Self>, _: &mut Reply<'_>) {}
}

struct Panics;

impl Source for Panics {
    fn fill(&mut self, _: &mut BodyWriter<'_>) -> Fill {
        panic!("as asked");
    }
}

impl Upload for Panics {
    fn chunk(&mut self, _: &[u8], _: &mut Reply<'_>) {
        panic!("as asked");
    }

    fn end(self: Box<Self>, _: &mut Reply<'_>) {}
}

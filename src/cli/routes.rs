//! The bundled server's routes. Every body is read and counted, never assumed.

mod secured;
mod topics;

use bytes::Bytes;
use ringmill::broker::Link;
use ringmill::http::{BodyWriter, Fill, Handler, Limits, Method, Plan, Reply, Request, Source, Upload};
use ringmill::sse::EventOptions;
use ringmill::{Config, Counters, Facts, Stats, TlsStore, WorkerContext};
use secured::SecuredPage;
use serde::Serialize;
use std::sync::Arc;
pub(crate) use topics::Live;

/// What routes are served with.
#[derive(Clone)]
pub(crate) struct RoutesOptions {
    pub(crate) limits: Limits,
    pub(crate) stream_bytes_max: u64,
    pub(crate) store: Option<Arc<TlsStore>>,
    pub(crate) broker: Option<Link>,
    pub(crate) events: EventOptions,
}

/// One worker's routes.
pub(crate) struct Routes {
    stats: Stats,
    limits: LimitsPage,
    stream_bytes_max: u64,
    /// What HTTPS is served with.
    store: Option<Arc<TlsStore>>,
    live: Live,
    items: Vec<Item>,
    pattern: Bytes,
    /// Where JSON is serialised before its length is known.
    json: Vec<u8>,
}

const PAGE: &str = include_str!("routes.html");
const GET: &str = "GET, HEAD, OPTIONS";
const POST: &str = "POST, OPTIONS";
const GET_POST: &str = "GET, HEAD, POST, OPTIONS";

impl Routes {
    pub(crate) fn new(worker: &WorkerContext, options: &RoutesOptions, live: Live) -> Routes {
        let RoutesOptions { limits, stream_bytes_max, store, .. } = options;
        Routes {
            store: store.clone(),
            live,
            stats: worker.stats.clone(),
            limits: LimitsPage::new(&worker.config, limits, *stream_bytes_max),
            stream_bytes_max: *stream_bytes_max,
            items: (1..=50).map(Item::new).collect(),
            pattern: pattern(),
            json: Vec::new(),
        }
    }
}

impl Handler for Routes {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        let method = request.method();
        let get = matches!(method, Method::Get | Method::Head);
        let post = method == Method::Post;
        match request.path_bytes() {
            b"/plaintext" if get => reply.text("Hello, World!"),
            b"/json" if get => self.json(&Message { message: "Hello, World!" }, reply),
            b"/pipeline" if get => reply.text("ok"),
            b"/health" if get => reply.text("ok"),
            b"/baseline11" if get || post => baseline(request, reply),
            // Bodies of these two stream; here are the requests without one.
            b"/upload" if post => reply.text("0"),
            b"/echo" => reply.empty(),
            b"/" if get => reply.content_type("text/html; charset=utf-8").body(PAGE.as_bytes()),
            b"/" if post => reply.content_type(&media_type(request)).body(request.body()),
            b"/headers" if get => headers(request, reply),
            b"/peer" if get => {
                let page = PeerPage::new(reply);
                self.json(&page, reply);
            }
            b"/stats" if get => {
                let secured = self.store.as_deref().map(SecuredPage::new);
                self.json(&StatsPage::new(&self.stats, self.limits.clone(), secured, &self.live), reply);
            }
            _ => match request.path() {
                path if get && path.starts_with("/bytes/") => self.bytes(&path["/bytes/".len()..], reply),
                path if get && path.starts_with("/json/") => {
                    self.items(&path["/json/".len()..], request, reply)
                }
                path if get && path.starts_with("/ws/") => self.live.websocket(request, reply),
                path if get && path.starts_with("/events/") => self.live.events(request, reply),
                path if post && path.starts_with("/publish/") => self.live.publish(request, reply),
                path => refuse(path, method, reply),
            },
        }
    }

    fn plan(&mut self, request: &Request<'_>) -> Plan {
        match request.path() {
            "/upload" if request.method() == Method::Post => {
                Plan::StreamUpTo(self.stream_bytes_max, Box::new(Count(0)))
            }
            "/echo" => {
                let back =
                    Back { length: request.body_length(), media_type: media_type(request), begun: false };
                Plan::StreamUpTo(self.stream_bytes_max, Box::new(back))
            }
            path if path.starts_with("/publish/") => Plan::CollectUpTo(self.live.message_bytes_max()),
            _ => Plan::Collect,
        }
    }
}

impl Routes {
    fn json(&mut self, value: &impl Serialize, reply: &mut Reply<'_>) {
        self.json.clear();
        match serde_json::to_writer(&mut self.json, value) {
            Ok(()) => reply.json(&self.json),
            Err(error) => reply.status(500).text(&error.to_string()),
        }
    }

    /// `/bytes/{n}`: made as the client reads it.
    fn bytes(&self, count: &str, reply: &mut Reply<'_>) {
        match count.parse() {
            Ok(count) => {
                let source = Pattern { pattern: self.pattern.clone(), left: count };
                reply.content_type("application/octet-stream").stream(Some(count), source);
            }
            Err(_) => bad(reply, "expected /bytes/N with N a number of bytes"),
        }
    }

    /// `/json/{count}?m=N`: the first `count` items.
    fn items(&mut self, count: &str, request: &Request<'_>, reply: &mut Reply<'_>) {
        let Ok(count) = count.parse::<usize>() else {
            return bad(reply, "expected /json/COUNT with COUNT a number");
        };
        let Ok(m) = request.query_value("m").map_or(Ok(1), str::parse::<i32>) else {
            return bad(reply, "expected m to be an integer of 32 bits");
        };
        let items: Vec<ItemTotal<'_>> =
            self.items.iter().take(count).map(|item| item.with_total(m)).collect();
        let page = ItemsPage { count: items.len(), items };
        self.json.clear();
        match serde_json::to_writer(&mut self.json, &page) {
            Ok(()) => reply.json(&self.json),
            Err(error) => reply.status(500).text(&error.to_string()),
        }
    }
}

/// `/baseline11`: the sum of the query's values and of the integer in the body.
fn baseline(request: &Request<'_>, reply: &mut Reply<'_>) {
    let body = match request.body().trim_ascii() {
        b"" => Some(0),
        body => std::str::from_utf8(body).ok().and_then(|body| body.parse::<i64>().ok()),
    };
    let values = request.query_pairs().map(|(_, value)| value.parse::<i64>().ok());
    let sum = values.chain([body]).try_fold(0i64, |sum, value| sum.checked_add(value?));
    match sum {
        Some(sum) => reply.text(&sum.to_string()),
        None => bad(reply, "expected integers in the query and the body, and a sum that fits 64 bits"),
    }
}

/// `/headers`: the fields as they came.
fn headers(request: &Request<'_>, reply: &mut Reply<'_>) {
    let mut text = Vec::new();
    for field in request.fields().iter() {
        text.extend_from_slice(field.name);
        text.extend_from_slice(b": ");
        text.extend_from_slice(field.value);
        text.push(b'\n');
    }
    reply.content_type("text/plain").body(&text);
}

/// 501 for a method that nothing here has (RFC 9110, 9.1), 404 for what is not there, 405 for the wrong method, and OPTIONS.
fn refuse(path: &str, method: Method<'_>, reply: &mut Reply<'_>) {
    if let Method::Other(_) = method {
        return reply.status(501).text("501 Not Implemented: no resource here has this method\n");
    }
    let allow = match path {
        "/plaintext" | "/json" | "/pipeline" | "/health" | "/headers" | "/peer" | "/stats" => GET,
        "/" | "/baseline11" | "*" => GET_POST,
        "/upload" => POST,
        _ if ["/bytes/", "/json/", "/ws/", "/events/"].iter().any(|start| path.starts_with(start)) => GET,
        _ if path.starts_with("/publish/") => POST,
        _ => return reply.status(404).text("404 Not Found: GET / lists what is here\n"),
    };
    if method == Method::Options {
        return reply.status(204).field("allow", allow).empty();
    }
    reply.status(405).field("allow", allow).text("405 Method Not Allowed: see the Allow field\n");
}

fn bad(reply: &mut Reply<'_>, problem: &str) {
    reply.status(400).text(&format!("400 Bad Request: {problem}\n"));
}

/// The request's media type, for bodies that go back; a value that cannot stand in a reply is replaced.
fn media_type(request: &Request<'_>) -> String {
    let value = request.field("content-type").and_then(|value| std::str::from_utf8(value).ok());
    value.unwrap_or("application/octet-stream").to_owned()
}

/// `POST /upload`: counts.
struct Count(u64);

impl Upload for Count {
    fn chunk(&mut self, bytes: &[u8], _: &mut Reply<'_>) {
        self.0 += bytes.len() as u64;
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        reply.text(&self.0.to_string());
    }
}

/// `/echo`: the body goes back as it comes.
struct Back {
    length: Option<u64>,
    media_type: String,
    begun: bool,
}

impl Back {
    fn begin(&mut self, reply: &mut Reply<'_>) {
        if !self.begun {
            self.begun = true;
            reply.content_type(&self.media_type).begin(self.length);
        }
    }
}

impl Upload for Back {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        self.begin(reply);
        reply.write(bytes);
    }

    fn end(mut self: Box<Self>, reply: &mut Reply<'_>) {
        self.begin(reply);
        reply.end();
    }
}

/// The bytes of `/bytes/{n}`: byte i is pattern[i mod its length].
struct Pattern {
    pattern: Bytes,
    left: u64,
}

const PATTERN_BYTES: usize = 64 * 1024;

fn pattern() -> Bytes {
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n"
        .iter()
        .copied()
        .cycle()
        .take(PATTERN_BYTES)
        .collect()
}

impl Source for Pattern {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        while self.left > 0 && body.room_bytes() > 0 {
            let bytes = self.left.min(PATTERN_BYTES as u64);
            body.queue(self.pattern.slice(..bytes as usize));
            self.left -= bytes;
        }
        if self.left == 0 { Fill::End } else { Fill::More }
    }
}

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

/// One of the 50 built-in items.
#[derive(Serialize)]
struct Item {
    id: u32,
    name: String,
    category: &'static str,
    price: u32,
    quantity: u32,
    active: bool,
    tags: [&'static str; 2],
}

impl Item {
    fn new(id: u32) -> Item {
        const CATEGORIES: [&str; 5] = ["bearings", "belts", "gears", "shafts", "stones"];
        const TAGS: [&str; 4] = ["iron", "oak", "spare", "worn"];
        Item {
            id,
            name: format!("Part {id}"),
            category: CATEGORIES[id as usize % CATEGORIES.len()],
            price: 5 + id * 37 % 101,
            quantity: 1 + id * 13 % 29,
            active: !id.is_multiple_of(3),
            tags: [TAGS[id as usize % TAGS.len()], TAGS[(id as usize + 1) % TAGS.len()]],
        }
    }

    fn with_total(&self, m: i32) -> ItemTotal<'_> {
        ItemTotal { item: self, total: i64::from(self.price * self.quantity) * i64::from(m) }
    }
}

#[derive(Serialize)]
struct ItemTotal<'a> {
    #[serde(flatten)]
    item: &'a Item,
    total: i64,
}

#[derive(Serialize)]
struct ItemsPage<'a> {
    items: Vec<ItemTotal<'a>>,
    count: usize,
}

/// `/peer`: who is at the ends of the connection, and what is known of it.
#[derive(Serialize)]
struct PeerPage {
    peer: Option<String>,
    local: Option<String>,
    /// What a proxy in front said of its own connection with the client.
    proxied: Option<ProxiedPage>,
    /// Our own TLS.
    secure: Option<SecurePage>,
}

/// Bytes that are mostly text are written as text, with escapes for the rest.
#[derive(Serialize)]
struct ProxiedPage {
    authority: Option<String>,
    alpn: Option<String>,
    unique_id: Option<String>,
    ssl: Option<ProxiedSslPage>,
}

#[derive(Serialize)]
struct ProxiedSslPage {
    is_client_verified: bool,
    version: Option<String>,
    cipher: Option<String>,
    common_name: Option<String>,
}

#[derive(Serialize)]
struct SecurePage {
    version: &'static str,
    cipher_suite: &'static str,
    alpn: Option<String>,
    server_name: Option<String>,
    is_resumed: bool,
    client_certificates: usize,
}

impl PeerPage {
    fn new(reply: &Reply<'_>) -> PeerPage {
        let Facts { secure, proxied, .. } = reply.facts().cloned().unwrap_or_default();
        let escaped = |bytes: Option<Vec<u8>>| bytes.map(|bytes| bytes.escape_ascii().to_string());
        PeerPage {
            peer: reply.peer().map(|address| address.to_string()),
            local: reply.local().map(|address| address.to_string()),
            proxied: proxied.map(|proxied| ProxiedPage {
                authority: proxied.authority,
                alpn: escaped(proxied.alpn),
                unique_id: escaped(proxied.unique_id),
                ssl: proxied.ssl.map(|ssl| ProxiedSslPage {
                    is_client_verified: ssl.is_client_verified,
                    version: ssl.version,
                    cipher: ssl.cipher,
                    common_name: ssl.common_name,
                }),
            }),
            secure: secure.map(|secure| SecurePage {
                version: secure.version,
                cipher_suite: secure.cipher_suite,
                alpn: escaped(secure.alpn),
                server_name: secure.server_name,
                is_resumed: secure.is_resumed,
                client_certificates: secure.client_certificates.len(),
            }),
        }
    }
}

/// `/stats`.
#[derive(Serialize)]
struct StatsPage {
    limits: LimitsPage,
    workers: Vec<WorkerPage>,
    total: serde_json::Map<String, serde_json::Value>,
    topics: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<SecuredPage>,
}

#[derive(Serialize)]
struct WorkerPage {
    worker: usize,
    cpu_ns: u64,
    #[serde(flatten)]
    counters: serde_json::Map<String, serde_json::Value>,
}

/// The limits that hold, each for one worker or one connection. Times are in milliseconds.
#[derive(Clone, Serialize)]
struct LimitsPage {
    worker_connections_max: Option<usize>,
    worker_memory_bytes_max: usize,
    worker_recv_buffers: u16,
    recv_buffer_bytes: usize,
    turn_bytes_max: u32,
    input_bytes_max: usize,
    output_high_water_bytes: usize,
    output_bytes_max: usize,
    request_line_bytes_max: usize,
    head_bytes_max: usize,
    head_fields_max: usize,
    body_bytes_max: u64,
    stream_bytes_max: u64,
    chunk_framing_bytes_max: usize,
    requests_max: Option<u32>,
    head_timeout_ms: u128,
    body_idle_timeout_ms: u128,
    keep_alive_timeout_ms: u128,
    write_timeout_ms: u128,
}

impl LimitsPage {
    fn new(config: &Config, limits: &Limits, stream_bytes_max: u64) -> LimitsPage {
        LimitsPage {
            worker_connections_max: config.connections_max,
            worker_memory_bytes_max: config.memory_bytes_max,
            worker_recv_buffers: config.recv_buffers,
            recv_buffer_bytes: config.recv_buffer_bytes,
            turn_bytes_max: config.turn_bytes_max,
            input_bytes_max: config.input_bytes_max,
            output_high_water_bytes: config.output_high_water_bytes,
            output_bytes_max: config.output_bytes_max,
            request_line_bytes_max: limits.head.request_line_bytes_max,
            head_bytes_max: limits.head.head_bytes_max,
            head_fields_max: limits.head.fields_max,
            body_bytes_max: limits.body_bytes_max,
            stream_bytes_max,
            chunk_framing_bytes_max: limits.body.framing_bytes_max,
            requests_max: limits.requests_max,
            head_timeout_ms: limits.head_timeout.as_millis(),
            body_idle_timeout_ms: limits.body_idle_timeout.as_millis(),
            keep_alive_timeout_ms: limits.keep_alive_timeout.as_millis(),
            write_timeout_ms: config.write_timeout.as_millis(),
        }
    }
}

impl StatsPage {
    fn new(stats: &Stats, limits: LimitsPage, tls: Option<SecuredPage>, live: &Live) -> StatsPage {
        let counters = |counters: Counters| {
            counters.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
        };
        let workers = stats.workers().into_iter().enumerate();
        StatsPage {
            limits,
            workers: workers
                .map(|(worker, snapshot)| WorkerPage {
                    worker,
                    cpu_ns: snapshot.cpu_ns,
                    counters: counters(snapshot.counters),
                })
                .collect(),
            total: counters(stats.total()),
            topics: live.counters().iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            broker: live.broker().map(|counters| {
                counters.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
            }),
            tls,
        }
    }
}

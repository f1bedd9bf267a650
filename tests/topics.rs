//! Topics over sockets, on both drivers: WebSocket and server-sent events, over two workers.
#![cfg(feature = "websocket")]

mod common;

use common::http::{get, receive, receive_chunk, receive_event, receive_head};
use common::ws::{self, Frame};
use common::*;
use ringmill::http::{self, Reply, Request};
use ringmill::sse::EventOptions;
use ringmill::topic::{Hub, Published, SlowPolicy, Start, Subscribe, TopicOptions, Topics};
use ringmill::websocket::{Accept, Deflate, Endpoint, Handler, Message, Options, Ws};
use ringmill::{Config, DriverChoice, Engine, Running};
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Subscribes to what the path says, and does what it is told.
struct Site {
    hub: Hub,
    skipped: Arc<Mutex<Vec<String>>>,
}

impl Handler for Site {
    type State = Subscribe;

    fn accept(&mut self, request: &Request<'_>, _: &mut Accept<'_>) -> Option<Subscribe> {
        let start = match request.query_value("start") {
            Some("last") => Start::Last,
            Some("oldest") => Start::Oldest,
            Some(place) => Start::After(place.parse().ok()?),
            None => Start::Now,
        };
        let when_slow = match request.query_value("slow") {
            Some("skip") => SlowPolicy::Skip,
            Some("latest") => SlowPolicy::Latest,
            _ => SlowPolicy::Close,
        };
        Some(Subscribe { start, when_slow })
    }

    fn message(&mut self, how: &mut Subscribe, message: Message<'_>, ws: &mut Ws<'_>) {
        let Message::Text(text) = message else { return };
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        match verb {
            "subscribe" => {
                let is_subscribed = ws.subscribe_with(rest, *how);
                ws.send(&format!("{is_subscribed}"));
            }
            "unsubscribe" => {
                ws.unsubscribe(rest);
                ws.send("done");
            }
            "count" => ws.send(&self.hub.subscribers(rest).to_string()),
            topic => {
                ws.publish(topic, rest);
            }
        }
    }

    fn skipped(&mut self, _: &mut Subscribe, topic: &str, messages: Option<u64>, _: &mut Ws<'_>) {
        self.skipped.lock().unwrap().push(format!("{topic} {messages:?}"));
    }
}

/// A running site.
struct Served {
    running: Running,
    topics: Topics,
    skipped: Arc<Mutex<Vec<String>>>,
}

fn serve_with(config: Config, limits: TopicOptions, options: Options, events: EventOptions) -> Served {
    let topics = Topics::new(limits);
    let skipped: Arc<Mutex<Vec<String>>> = Arc::default();
    let (hubs, told) = (topics.clone(), skipped.clone());
    let running = Engine::builder()
        .config(config)
        .outbound(topics.service())
        .listen("127.0.0.1:0", move |worker| {
            let hub = hubs.hub(worker);
            let site = Site { hub: hub.clone(), skipped: told.clone() };
            let endpoint = Endpoint::with_options(site, options.clone()).with_topics(&hub);
            let routes = move |request: &Request<'_>, reply: &mut Reply<'_>| match request.path() {
                "/publish" => {
                    let published = hub.publish("room", request.body());
                    reply.text(&format!("{published:?}"));
                }
                path => reply.events(request, &hub, &path[1..], events),
            };
            http::server(routes).websocket("/ws", endpoint)
        })
        .start()
        .expect("the engine starts");
    Served { running, topics, skipped }
}

fn serve(driver: DriverChoice) -> Served {
    let config = config(driver).with_workers(2);
    serve_with(config, TopicOptions::default(), Options::default(), EventOptions::default())
}

impl Served {
    fn address(&self) -> SocketAddr {
        ip(&self.running.addresses()[0])
    }

    #[track_caller]
    fn subscriber(&self, query: &str) -> TcpStream {
        self.subscribed(ws::open(self.address(), &format!("/ws{query}")))
    }

    #[track_caller]
    fn subscribed(&self, mut client: TcpStream) -> TcpStream {
        client.ask(ws::text("subscribe room"), said("true"));
        client
    }

    fn publisher(&self) -> TcpStream {
        ws::open(self.address(), "/ws")
    }

    /// Subscribes to events, behind their greeting.
    #[track_caller]
    fn events(&self, query: &str, fields: &str) -> TcpStream {
        self.greeted(connect_to(self.address()), query, fields)
    }

    #[track_caller]
    fn greeted(&self, mut client: TcpStream, query: &str, fields: &str) -> TcpStream {
        client.send(format!("GET /room{query} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        let head = receive_head(&mut client);
        assert_eq!(head.status, 200);
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        assert_eq!(head.field("cache-control"), Some("no-cache, no-transform"));
        assert_eq!(head.field("x-accel-buffering"), Some("no"));
        let greeting = String::from_utf8(receive_chunk(&mut client).unwrap()).unwrap();
        assert!(greeting.starts_with("retry: ") && greeting.ends_with("\n: hello\n\n"), "{greeting:?}");
        client
    }
}

fn said(text: &str) -> Vec<u8> {
    ws::unmasked(0x81, text.as_bytes())
}

/// The next event: its id and the rest of it.
#[track_caller]
fn event(client: &mut TcpStream) -> (String, String) {
    let event = receive_event(client).expect("an event");
    let (id, rest) = event.strip_prefix("id: ").and_then(|event| event.split_once('\n')).unwrap();
    (id.to_owned(), rest.to_owned())
}

/// Where a client is, which it is told before anything else.
#[track_caller]
fn place(client: &mut impl Client) -> String {
    let block = String::from_utf8(receive_chunk(client).expect("a place")).unwrap();
    let place = block.strip_prefix("id: ").and_then(|block| block.strip_suffix("\n\n"));
    place.filter(|place| !place.contains('\n')).unwrap_or_else(|| panic!("{block:?}")).to_owned()
}

#[test]
fn what_is_published_reaches_all_on_every_worker_in_order() {
    on_both_drivers(|driver| {
        const SUBSCRIBERS: usize = 1000;
        const MESSAGES: usize = 20;
        let served = serve(driver);
        let mut subscribers: Vec<TcpStream> = (0..SUBSCRIBERS).map(|_| served.subscriber("")).collect();
        assert_eq!(served.topics.subscribers("room"), SUBSCRIBERS);
        // Two publishers, on whatever worker they are.
        let mut publishers = [served.publisher(), served.publisher()];
        for publisher in &mut publishers {
            publisher.ask(ws::text("count room"), said(&SUBSCRIBERS.to_string()));
        }
        for message in 0..MESSAGES {
            for (number, publisher) in publishers.iter_mut().enumerate() {
                publisher.send(ws::text(&format!("room {number}-{message:03}")));
            }
        }
        let read = |client: &mut TcpStream| -> Vec<u8> {
            let mut all = vec![0; 2 * MESSAGES * 7];
            client.read_exact(&mut all).expect("all messages");
            all
        };
        let first = read(&mut subscribers[0]);
        let texts: Vec<String> =
            first.chunks(7).map(|frame| String::from_utf8(frame[2..].to_vec()).unwrap()).collect();
        for number in 0..2 {
            let own: Vec<&String> =
                texts.iter().filter(|text| text.starts_with(&format!("{number}-"))).collect();
            assert!(own.len() == MESSAGES && own.is_sorted(), "in the order in which it was sent: {own:?}");
        }
        for subscriber in &mut subscribers[1..] {
            assert!(read(subscriber) == first, "all see one order");
        }
        drop(subscribers);
        eventually(0, || served.topics.subscribers("room"));
        eventually(0, || served.topics.counters().subscribers);
    });
}

#[test]
fn subscriptions_begin_and_end() {
    on_both_drivers(|driver| {
        let served = serve(driver);
        let mut client = served.publisher();
        client.ask(ws::text("subscribe a"), said("true"));
        client.ask(ws::text("subscribe a"), said("true"));
        client.ask(ws::text("subscribe a b"), said("false"));
        client.ask(ws::text("count a"), said("1"));
        client.ask(ws::text("a one"), said("one"));
        client.ask(ws::text("unsubscribe a"), said("done"));
        client.send(ws::text("a two"));
        client.ask(ws::text("count a"), said("0"));
        // All of it at once: who is not there yet on the topic's home misses nothing that it publishes itself.
        for number in 0..20 {
            let topic = format!("t{number}");
            client.send(
                [ws::text(&format!("subscribe {topic}")), ws::text(&format!("{topic} {topic}"))].concat(),
            );
            client.expect(said("true"));
            client.expect(said(&topic));
        }
        let limited = Options { subscriptions_max: 1, ..Options::default() };
        let served = serve_with(config(driver), TopicOptions::default(), limited, EventOptions::default());
        let mut client = served.publisher();
        client.ask(ws::text("subscribe a"), said("true"));
        client.ask(ws::text("subscribe b"), said("false"));
    });
}

#[test]
fn who_is_slow_is_closed_or_told_what_it_missed() {
    on_both_drivers(|driver| {
        let limits = TopicOptions { messages_max: 4, ..TopicOptions::default() };
        let small = config(driver).with_workers(2);
        let served = serve_with(small, limits, Options::default(), EventOptions::default());
        let slow = |query: &str| {
            let mut client = connect_narrow(served.address(), 4096);
            ws::upgrade(&mut client, &format!("/ws{query}"), "");
            served.subscribed(client)
        };
        let mut closed = slow("");
        let mut skips = slow("?slow=skip");
        let mut latest = slow("?slow=latest");
        let mut fast = served.subscriber("");
        let mut publisher = served.publisher();
        let message = |number: usize| format!("{number:06}{}", "x".repeat(50_000));
        for number in 0..200 {
            publisher.send(ws::text(&format!("room {}", message(number))));
            assert_eq!(ws::receive_message(&mut fast), Frame(0x81, message(number).into_bytes()));
        }
        let read = |client: &mut TcpStream| -> Vec<usize> {
            let mut numbers: Vec<usize> = Vec::new();
            while numbers.last() != Some(&199) {
                let Frame(first, bytes) = ws::receive_message(client);
                assert_eq!(first, 0x81);
                numbers.push(std::str::from_utf8(&bytes[..6]).unwrap().parse().unwrap());
            }
            numbers
        };
        let numbers = read(&mut skips);
        assert!(
            numbers.is_sorted() && numbers.len() < 200 && numbers.ends_with(&[196, 197, 198, 199]),
            "{numbers:?}"
        );
        let numbers = read(&mut latest);
        assert!(numbers.is_sorted() && numbers.len() < 200, "{numbers:?}");
        let mut frame = ws::receive_message(&mut closed);
        while frame.0 == 0x81 {
            frame = ws::receive_message(&mut closed);
        }
        assert_eq!(
            frame,
            Frame(0x88, [&4008u16.to_be_bytes()[..], b"messages are not read in time"].concat())
        );
        let skipped = served.skipped.lock().unwrap().clone();
        // One is told once more for each message that its socket took meanwhile.
        assert!(skipped.len() >= 2, "{skipped:?}");
        let counters = served.topics.counters();
        assert!(counters.slow_closed == 1 && counters.skipped > 100, "{counters:?}");
    });
}

#[test]
fn those_who_never_read_cost_no_more_than_the_log() {
    on_both_drivers(|driver| {
        const SUBSCRIBERS: usize = 1000;
        let served = serve(driver);
        let mut readers: Vec<TcpStream> = (0..SUBSCRIBERS / 2).map(|_| served.subscriber("")).collect();
        let stuck: Vec<TcpStream> = (0..SUBSCRIBERS / 2)
            .map(|_| {
                let mut client = connect_narrow(served.address(), 4096);
                ws::upgrade(&mut client, "/ws?slow=skip", "");
                served.subscribed(client)
            })
            .collect();
        let mut publisher = served.publisher();
        let mut round = |count: usize| {
            for _ in 0..count {
                let text = format!("room {}", "x".repeat(20_000));
                publisher.send(ws::text(&text));
                for reader in &mut readers {
                    ws::receive(reader);
                }
            }
        };
        // Until all that can be queued for them is.
        round(60);
        let before = rss_anon_bytes();
        round(60);
        let grown = rss_anon_bytes().saturating_sub(before);
        // 60 messages of 20 kB for 500 would be 600 MB.
        assert!(grown < 50_000_000, "{grown} bytes");
        drop(stuck);
    });
}

#[test]
fn a_burst_costs_nobody_a_message_who_reads() {
    // How many clients publish how many messages of how many bytes, on how many workers. Far more than the log of a topic has room for, and more
    // than a reader is sent at once.
    #[track_caller]
    fn check(driver: DriverChoice, workers: usize, clients: usize, messages: usize, bytes: usize) {
        let config = config(driver).with_workers(workers);
        let served = serve_with(config, TopicOptions::default(), Options::default(), EventOptions::default());
        let mut readers: Vec<TcpStream> = (0..2 * workers).map(|_| served.subscriber("")).collect();
        let mut events: Vec<TcpStream> = (0..2 * workers).map(|_| served.events("", "")).collect();
        let total = clients * messages;
        let (topics, mut numbers) = (&served.topics, 0..);
        let bursts: Vec<(TcpStream, Vec<u8>)> = (0..clients)
            .map(|_| {
                let burst = numbers.by_ref().take(messages);
                let burst = burst.flat_map(|number| ws::text(&format!("room {number:0bytes$}")));
                (served.publisher(), burst.collect())
            })
            .collect();
        std::thread::scope(|scope| {
            for (mut publisher, burst) in bursts {
                scope.spawn(move || {
                    publisher.send(burst);
                    publisher.ask(ws::text("count elsewhere"), said("0"));
                    assert_eq!(topics.counters().busy, 0, "no message was refused");
                });
            }
            for reader in &mut readers {
                scope.spawn(move || {
                    for number in 0..total {
                        let Frame(first, text) = ws::receive(reader);
                        assert!(first == 0x81, "{number} of {total}: {}", text.escape_ascii());
                        assert_eq!(text.len(), bytes, "{number} of {total}");
                    }
                });
            }
            for client in &mut events {
                scope.spawn(move || {
                    for number in 0..total {
                        let event = receive_event(client).expect("an event");
                        assert!(!event.contains("\nevent: reset\n"), "{number} of {total}: {event:?}");
                    }
                });
            }
        });
        let counters = served.topics.counters();
        let told = (counters.busy, counters.slow_closed, counters.skipped, counters.resets);
        assert_eq!((counters.published, told), (total as u64, (0, 0, 0, 0)), "{counters:?}");
    }
    on_both_drivers(|driver| {
        check(driver, 1, 1, 5000, 4);
        check(driver, 1, 1, 5000, 200);
        check(driver, 1, 1, 3000, 1000);
        check(driver, 1, 1, 300, 20_000);
        check(driver, 1, 10, 500, 200);
        // As many as an inbox has room for: a worker that has no processor for a while is not too busy.
        check(driver, 2, 1, 4000, 200);
        check(driver, 2, 2, 2000, 200);
    });
}

#[test]
fn of_small_messages_little_waits_for_a_stuck_subscriber() {
    const STUCK: usize = 20;
    // Who takes something now and then, as the kernel does for one that does not read, is sent what its output has room for.
    const OUTPUT_BYTES: usize = 32 * 1024;
    on_both_drivers(|driver| {
        let config = Config {
            output_high_water_bytes: OUTPUT_BYTES,
            output_low_water_bytes: OUTPUT_BYTES / 4,
            ..config(driver)
        };
        let served = serve_with(config, TopicOptions::default(), Options::default(), EventOptions::default());
        let mut stuck: Vec<TcpStream> = (0..STUCK)
            .map(|_| {
                let mut client = connect_narrow(served.address(), 4096);
                ws::upgrade(&mut client, "/ws?slow=skip", "");
                served.subscribed(client)
            })
            .collect();
        let mut client = served.subscriber("");
        let memory = || served.running.stats().total().memory_bytes;
        let before = memory();
        let text = "x".repeat(2000);
        for _ in 0..4000 {
            client.ask(ws::text(&format!("room {text}")), said(&text));
        }
        let each = memory().saturating_sub(before) as usize / STUCK;
        // The kernel has taken a part, and what follows waits in the topic.
        assert!((1..3 * OUTPUT_BYTES).contains(&each), "{each} bytes for each");
        // Events wait there as well. These are copied, so that all of them would count.
        let mut events: Vec<TcpStream> =
            (0..STUCK).map(|_| served.greeted(connect_narrow(served.address(), 4096), "", "")).collect();
        eventually(true, || served.topics.subscribers("room") == 2 * STUCK + 1);
        let text = "x".repeat(450);
        let mut publish = |hundreds: usize| {
            for _ in 0..hundreds {
                client.send(ws::text(&format!("room {text}")).repeat(100));
                (0..100).for_each(|_| client.expect(said(&text)));
            }
            memory()
        };
        // As many as the topic keeps, which count as well.
        let before = publish(3);
        let each = publish(180).saturating_sub(before) as usize / STUCK;
        assert!(each < 3 * OUTPUT_BYTES, "{each} bytes for each that reads no events");
        // Who reads again is told what it has missed, and has the newest.
        while !receive_event(&mut events[0]).unwrap().contains("\nevent: reset\n") {}
        let mut last = ws::receive(&mut stuck[0]);
        client.send(ws::text("room the end"));
        while last != Frame(0x81, b"the end".to_vec()) {
            last = ws::receive(&mut stuck[0]);
        }
        let skipped = served.skipped.lock().unwrap().clone();
        // The kernel may have taken a little more of others.
        let are_told = skipped.iter().all(|told| told.starts_with("room Some("));
        assert!(!skipped.is_empty() && are_told, "{skipped:?}");
    });
}

#[test]
fn events_go_on_where_a_client_was() {
    on_both_drivers(|driver| {
        let limits = TopicOptions { messages_max: 8, ..TopicOptions::default() };
        let config = config(driver).with_workers(2);
        let served = serve_with(config, limits, Options::default(), EventOptions::default());
        let mut publisher = served.publisher();
        let mut say = |text: &str| publisher.send(ws::text(&format!("room {text}")));
        let mut client = served.events("", "");
        eventually(1, || served.topics.subscribers("room"));
        say("one");
        let (first, data) = event(&mut client);
        assert_eq!(data, "data: one\n\n");
        // It leaves, while nothing is written.
        drop(client);
        eventually(0, || served.topics.subscribers("room"));
        say("two");
        say("three\nlines\n");
        for fields in [format!("Last-Event-ID: {first}\r\n"), String::new()] {
            let query = if fields.is_empty() { format!("?last={first}") } else { String::new() };
            let mut client = served.events(&query, &fields);
            assert_eq!(event(&mut client).1, "data: two\n\n");
            assert_eq!(event(&mut client).1, "data: three\ndata: lines\ndata: \n\n");
            // A half-close is leaving.
            client.shutdown(Shutdown::Write).unwrap();
            client.rest();
            eventually(0, || served.topics.subscribers("room"));
        }
        (0..8).for_each(|number| say(&number.to_string()));
        eventually(11, || served.topics.counters().published);
        for place in [first.as_str(), "abc", "1-1"] {
            let mut client = served.events("", &format!("Last-Event-ID: {place}\r\n"));
            assert_eq!(event(&mut client).1, "event: reset\ndata: unknown\n\n");
            reset(client);
            eventually(0, || served.topics.subscribers("room"));
        }
    });
}

#[test]
fn who_comes_back_before_it_has_heard_anything_has_missed_nothing() {
    on_both_drivers(|driver| {
        let served = serve(driver);
        let mut publisher = served.publisher();
        let leave = |client: TcpStream, others: usize| {
            reset(client);
            eventually(others, || served.topics.subscribers("room"));
        };
        // On whatever workers they are, of which one knows at once where they begin, and the other one has to ask.
        let mut clients: Vec<TcpStream> = (0..8).map(|_| served.events("", "")).collect();
        let mut places: Vec<String> = clients.iter_mut().map(place).collect();
        // A place that is none is one that nobody knows any more; with that it is told where it is as well.
        let mut lost = served.events("?last=nowhere", "");
        let (place, data) = event(&mut lost);
        assert_eq!(data, "event: reset\ndata: unknown\n\n");
        places.push(place);
        clients.push(lost);
        let mut keeper = served.subscriber("");
        for (left, client) in clients.into_iter().enumerate() {
            leave(client, 9 - left);
        }
        publisher.send(ws::text("room meanwhile"));
        keeper.expect(said("meanwhile"));
        for place in &places {
            let mut client = served.events("", &format!("Last-Event-ID: {place}\r\n"));
            assert_eq!(event(&mut client).1, "data: meanwhile\n\n");
            leave(client, 1);
        }
    });
}

#[test]
fn events_end_with_a_drain_and_a_heartbeat_shows_who_is_there() {
    on_both_drivers(|driver| {
        let beats = EventOptions { heartbeat: Duration::from_millis(50), ..EventOptions::default() };
        let served = serve_with(config(driver), TopicOptions::default(), Options::default(), beats);
        let mut client = served.events("", "");
        place(&mut client);
        for _ in 0..3 {
            assert_eq!(receive_chunk(&mut client).unwrap(), b": \n\n");
        }
        let mut bad = connect_to(served.address());
        bad.send(get("/a%20b?%"));
        assert_eq!(receive_head(&mut bad).status, 200);
        let mut bad = connect_to(served.address());
        bad.send(get(&format!("/{}", "n".repeat(129))));
        assert_eq!(receive(&mut bad).status, 404);
        let mut old = connect_to(served.address());
        old.send("GET /room HTTP/1.0\r\n\r\n");
        assert_eq!(receive_head(&mut old).field("transfer-encoding"), None);
        served.running.handle().drain(PATIENCE);
        while receive_chunk(&mut client).is_some() {}
        client.expect_eof();
        old.rest();
        served.running.join().unwrap();
    });
}

#[test]
fn a_publisher_is_told_that_a_worker_is_busy() {
    on_both_drivers(|driver| {
        let limits = TopicOptions { topics_max: 1, message_bytes_max: 10, ..TopicOptions::default() };
        let served = serve_with(config(driver), limits, Options::default(), EventOptions::default());
        let mut client = connect_to(served.address());
        let mut publish = |body: &str| {
            client.send(http_post(body));
            receive(&mut client).text().to_owned()
        };
        assert_eq!(publish("one"), format!("{:?}", Published::Done { offset: Some(0) }));
        assert_eq!(publish("much too long"), "TooLarge");
        let mut other = served.publisher();
        other.ask(ws::text("count other"), said("0"));
        other.send(ws::text("other one"));
        eventually(1, || served.topics.counters().busy);
    });
}

fn http_post(body: &str) -> String {
    common::http::post("/publish", body)
}

#[test]
fn a_message_is_compressed_once_for_all() {
    on_both_drivers(|driver| {
        let options = Options { deflate: Some(Deflate::default()), ..Options::default() };
        let config = config(driver).with_workers(2);
        let served = serve_with(config, TopicOptions::default(), options, EventOptions::default());
        let open = |fields: &str| {
            let mut client = connect_to(served.address());
            ws::upgrade(&mut client, "/ws", fields);
            served.subscribed(client)
        };
        let mut plain = open("");
        let offer = "Sec-WebSocket-Extensions: permessage-deflate";
        let mut packed = [open(&format!("{offer}\r\n")), open(&format!("{offer}\r\n"))];
        let mut narrow = open(&format!("{offer}; server_max_window_bits=9\r\n"));
        let text = "all the same ".repeat(40);
        plain.send(ws::text(&format!("room {text}")));
        assert_eq!(ws::receive(&mut plain), Frame(0x81, text.clone().into_bytes()));
        let [first, second] = packed.each_mut().map(ws::receive);
        assert!(first == second && first.0 == 0xc1 && first.1.len() < 100, "{first:?}");
        // It cannot read what refers to more than its window.
        assert_eq!(ws::receive(&mut narrow), Frame(0x81, text.into_bytes()));
    });
}

#[test]
fn what_topics_keep_is_counted_and_is_a_share_of_the_memory() {
    on_both_drivers(|driver| {
        const MIB: u64 = 1 << 20;
        let limits = TopicOptions {
            age_max: Duration::from_secs(3),
            message_bytes_max: 100_000,
            ..TopicOptions::default()
        };
        let config = Config { memory_bytes_max: 16 << 20, ..config(driver) };
        let served = serve_with(config, limits, Options::default(), EventOptions::default());
        let memory = || served.running.stats().total().memory_bytes;
        let mut publisher = served.publisher();
        publisher.ask(ws::text("count room"), said("0"));
        let before = settled(memory);
        assert!(before > 0);
        let text = "x".repeat(60_000);
        for number in 0..100 {
            publisher.send(ws::text(&format!("topic{number} {text}")));
        }
        // Six million bytes were published, and a quarter of the memory may be kept.
        eventually(100, || served.topics.counters().published);
        let kept = served.topics.counters().kept_bytes;
        assert!((3 * MIB..=4 * MIB).contains(&kept), "{kept}");
        eventually(true, || memory() >= before + kept && memory() < before + 2 * kept);
        // They grow old, and are gone.
        eventually(0, || served.topics.counters().kept_bytes);
        eventually(true, || memory() < before + MIB);
    });
}

#[cfg(feature = "tls")]
#[test]
fn events_over_tls_are_the_same() {
    use common::authority::{Authority, secure};
    use ringmill::{Tls, TlsConfig, TlsStore};
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let store = TlsStore::new(TlsConfig::from_files(cert, key)).expect("a sound configuration");
        let topics = Topics::default();
        let hubs = topics.clone();
        let factory = move |worker: &_| {
            let hub = hubs.hub(worker);
            let events = EventOptions { heartbeat: Duration::from_millis(50), ..EventOptions::default() };
            let routes = move |request: &Request<'_>, reply: &mut Reply<'_>| {
                reply.events(request, &hub, "room", events);
            };
            Tls::new(http::server(routes), store.clone())
        };
        let builder = Engine::builder().config(config(driver)).outbound(topics.service());
        let running = builder.listen("127.0.0.1:0", factory).start().expect("the engine starts");
        let config = authority.client(&[&rustls::version::TLS13]);
        let mut client = secure(ip(&running.addresses()[0]), &config, "localhost").expect("a handshake");
        client.send(get("/"));
        assert_eq!(receive_head(&mut client).field("content-type"), Some("text/event-stream"));
        receive_chunk(&mut client).expect("a greeting");
        place(&mut client);
        assert_eq!(receive_chunk(&mut client).unwrap(), b": \n\n");
        topics.publish("room", "one");
        let mut seen = receive_chunk(&mut client).unwrap();
        while seen == b": \n\n" {
            seen = receive_chunk(&mut client).unwrap();
        }
        assert!(seen.ends_with(b"\ndata: one\n\n"), "{seen:?}");
        // It leaves, and the session beneath TLS notices.
        drop(client);
        eventually(0, || topics.subscribers("room"));
    });
}

#[test]
fn events_over_http2_come_one_by_one_and_a_heartbeat_between_them() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get as on_get;
    use http_body_util::{BodyExt, Empty};
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use ringmill::adapt::Feed;
    on_both_drivers(|driver| {
        let topics = Topics::default();
        let feeds = topics.clone();
        let events = async move || {
            let feed = Feed::new(&feeds, "room", Subscribe::default());
            let body = feed.into_body().with_heartbeat(Duration::from_millis(100));
            ([("content-type", "text/event-stream")], Body::new(body))
        };
        let app = Router::new().route("/events", on_get(events));
        let serve = ringmill::serve("127.0.0.1:0", app).config(config(driver)).topics(&topics);
        let running = serve.start().expect("the engine starts");
        let address = ip(&running.addresses()[0]);
        let client = async {
            let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
            let (mut client, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            let request = hyper::Request::get("http://test/events").body(Empty::<bytes::Bytes>::new());
            let mut body = client.send_request(request.unwrap()).await.unwrap().into_body();
            let mut next = async || body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(next().await.starts_with(b"id: "));
            // Nothing is said by anybody, and still something comes: so does it after an event.
            assert_eq!(next().await, ": \n\n");
            topics.publish("room", "one");
            let mut event = next().await;
            while event == ": \n\n" {
                event = next().await;
            }
            assert!(event.ends_with(b"\ndata: one\n\n"), "{event:?}");
            assert_eq!(next().await, ": \n\n");
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, client).await.expect("it ends") });
        drop(runtime);
        eventually(0, || topics.subscribers("room"));
    });
}

#[test]
fn an_axum_app_publishes_and_answers_with_events() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::{get as on_get, post as on_post};
    use ringmill::adapt::Feed;
    on_both_drivers(|driver| {
        let topics = Topics::default();
        let (feeds, publishing) = (topics.clone(), topics.clone());
        let how = Subscribe { start: Start::Oldest, ..Subscribe::default() };
        let events = async move || {
            let body = Body::new(Feed::new(&feeds, "room", how).into_body());
            ([("content-type", "text/event-stream")], body)
        };
        let publish = async move |text: String| format!("{:?}", publishing.publish("room", text));
        let app = Router::new().route("/events", on_get(events)).route("/publish", on_post(publish));
        let config = config(driver).with_workers(2);
        let serve = ringmill::serve("127.0.0.1:0", app).config(config).topics(&topics);
        let running = serve.start().expect("the engine starts");
        let address = ip(&running.addresses()[0]);
        let mut readers: Vec<TcpStream> = (0..4)
            .map(|_| {
                let mut client = connect_to(address);
                client.send(get("/events"));
                client
            })
            .collect();
        let mut client = connect_to(address);
        client.send(http_post("one"));
        assert!(receive(&mut client).text().starts_with("Done"));
        eventually(4, || topics.subscribers("room"));
        // This thread is none of the workers'.
        assert_eq!(topics.publish("room", "two\nlines"), Published::Done { offset: None });
        for reader in &mut readers {
            assert_eq!(receive_head(reader).field("content-type"), Some("text/event-stream"));
            assert_eq!(event(reader).1, "data: one\n\n");
            assert_eq!(event(reader).1, "data: two\ndata: lines\n\n");
        }
        drop(readers);
        eventually(0, || topics.subscribers("room"));
        // Who has heard nothing yet knows its place as well.
        let mut client = connect_to(address);
        client.send(get("/events"));
        receive_head(&mut client);
        assert!(!place(&mut client).is_empty());
    });
}

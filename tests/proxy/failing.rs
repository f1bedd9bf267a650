//! What fails, and whom it costs: upstreams that end, lie or say nothing, clients that leave, and what has two readings.

use super::*;

#[test]
fn a_cut_reply_is_not_taken_for_a_whole_one() {
    on_both_drivers(|driver| {
        for start in ["Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\n"] {
            let upstream = Upstream::new(move |line| {
                if line.number > 0 {
                    while line.answer_honestly() {}
                    return;
                }
                line.request();
                line.send(format!("HTTP/1.1 200 OK\r\nDate: now\r\n{start}hi"));
            });
            let running = before(driver, &[&upstream]);
            let mut client = connect(&running);
            client.send(get("/"));
            assert_eq!(receive_head(&mut client).status, 200);
            let rest = client.rest();
            assert!((rest.ends_with(b"hi") || rest.ends_with(b"hi\r\n")), "{}", show(&rest));
            // For HTTP/1.0 the end would be the end of the reply.
            expect_own(&mut connect(&running), "/victim");
        }
        let upstream = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
        });
        let running = before(driver, &[&upstream]);
        let mut old = connect(&running);
        old.send("GET / HTTP/1.0\r\n\r\n");
        let seen = old.expect_reset();
        assert!(seen.ends_with(b"hi"), "{}", show(&seen));
    });
}

#[test]
fn a_kept_connection_that_has_ended_costs_no_request_that_may_be_repeated() {
    on_both_drivers(|driver| {
        for (request, expected) in [
            (get("/again"), Ok("/again ")),
            (post("/again", "x").replace("POST", "PUT"), Ok("/again x")),
            (post("/again", "x").replace("Host", "Idempotency-Key: 1\r\nHost"), Ok("/again x")),
            (post("/again", "x"), Err(502)),
        ] {
            // The first connection ends when it is used again.
            let upstream = Upstream::new(|line| {
                line.answer_honestly();
                match line.number {
                    0 => drop(line.request()),
                    _ => while line.answer_honestly() {},
                }
            });
            let running = before(driver, &[&upstream]);
            let mut client = connect(&running);
            expect_own(&mut client, "/first");
            client.send(&request);
            let reply = receive(&mut client);
            match expected {
                Ok(text) => assert_eq!((reply.status, reply.text()), (200, text), "{request}"),
                Err(status) => assert_eq!(reply.status, status, "{request}"),
            }
            expect_own(&mut client, "/victim");
        }
    });
}

#[test]
fn an_upstream_that_fails_is_not_asked_twice_for_everything() {
    const REQUESTS: usize = 300;
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| drop(line.request()));
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        let began = Instant::now();
        for _ in 0..REQUESTS {
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, 502);
        }
        // A fifth, ten to begin with, and three a second.
        let most = REQUESTS + REQUESTS / 5 + 10 + 3 * (1 + began.elapsed().as_secs() as usize);
        let asked = upstream.accepted();
        assert!((REQUESTS + REQUESTS / 5..=most).contains(&asked), "{asked} of {REQUESTS}, at most {most}");
    });
}

#[test]
fn an_end_of_a_kept_connection_is_seen_before_it_is_used() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            line.answer_honestly();
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        for n in 0..10 {
            client.send(post(&format!("/{n}"), "x"));
            assert_eq!(receive(&mut client).text(), format!("/{n} x"));
            // The upstream's connection is gone when nothing but the client's is left.
            eventually(1, || running.stats().total().connections);
        }
        assert_eq!(upstream.accepted(), 10);
    });
}

#[test]
fn who_does_not_answer_is_said_to_the_client() {
    on_both_drivers(|driver| {
        let (_bound, deaf) = deaf();
        let running = serve(driver, ProxyConfig::new(vec![deaf]));
        let mut client = connect(&running);
        for _ in 0..2 {
            client.send(post("/", "x"));
            let reply = receive(&mut client);
            assert_eq!(
                (reply.status, reply.text()),
                (502, "502 Bad Gateway: the upstream could not be reached\n")
            );
        }
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive_head(&mut client).status, 502);

        let silent = Upstream::new(|line| {
            line.request();
            line.wait_for_end();
        });
        let timeout = Duration::from_millis(100);
        let running = serve(driver, ProxyConfig { first_byte_timeout: timeout, ..config(&silent) });
        let mut client = connect(&running);
        let began = Instant::now();
        client.send(get("/"));
        let reply = receive(&mut client);
        assert_eq!(
            (reply.status, reply.text()),
            (504, "504 Gateway Timeout: the upstream did not answer in time\n")
        );
        assert!(began.elapsed() >= timeout);

        let stops = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi");
            line.wait_for_end();
        });
        let running = serve(driver, ProxyConfig { idle_timeout: timeout, ..config(&stops) });
        let mut client = connect(&running);
        client.send(get("/"));
        assert!(client.rest().ends_with(b"\r\n\r\nhi"));
    });
}

#[test]
fn a_connection_that_is_not_made_in_time_is_504() {
    on_both_drivers(|driver| {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        // Its queue for one is full, so the kernel drops what else comes.
        let _first = connect_to(address);
        let config = Config { connect_timeout: Duration::from_millis(100), ..common::config(driver) };
        let running = start(config, move |_| Proxy::new(ProxyConfig::new(vec![address.into()]), 1));
        let mut client = connect(&running);
        client.send(get("/"));
        assert_eq!(receive(&mut client).status, 504);
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    on_both_drivers(|driver| {
        let (ended, end) = std::sync::mpsc::channel();
        let upstream = Upstream::new(move |line| {
            if line.number == 0 {
                line.request();
                line.wait_for_end();
                ended.send(()).unwrap();
            } else {
                while line.answer_honestly() {}
            }
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send(get("/"));
        upstream.asked();
        drop(client);
        end.recv_timeout(PATIENCE).expect("the upstream is told");
        eventually(0, || running.stats().total().connections);
        expect_own(&mut connect(&running), "/victim");

        let upstream = Upstream::honest();
        let running = serve(driver, ProxyConfig { half_close: true, ..config(&upstream) });
        let mut client = connect(&running);
        client.send(get("/one") + &get("/two"));
        client.shutdown(Shutdown::Write).unwrap();
        let all = String::from_utf8(client.rest()).unwrap();
        assert!(all.contains("/one ") && all.ends_with("/two "), "{all}");
    });
}

/// Its address is what the upstream is told of it: a request without one would look like one that came by no proxy.
#[test]
fn whoever_has_left_before_it_was_asked_for_its_address_is_not_passed_on() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let proxy = config(&upstream);
        let running = ringmill::Engine::builder()
            .config(common::config(driver))
            .listen("127.0.0.1:0", move |_| Proxy::new(proxy.clone(), 1))
            .listen("127.0.0.1:0", |_| {
                http::server(|_: &http::Request<'_>, reply: &mut http::Reply<'_>| {
                    std::thread::sleep(Duration::from_millis(100));
                    reply.text("");
                })
            })
            .start()
            .unwrap();
        // There is a kept connection for whoever comes next.
        expect_own(&mut connect(&running), "/first");
        let clients: Vec<TcpStream> = (0..3).map(|_| connect(&running)).collect();
        let mut busy = [(); 2].map(|()| connect_to(ip(&running.addresses()[1])));
        // The first one keeps the worker from looking, the second one from what it sees next to it: requests of clients that leave.
        busy[0].send(get("/"));
        std::thread::sleep(Duration::from_millis(20));
        busy[1].send(get("/"));
        for mut client in &clients {
            client.send(post("/left", ""));
        }
        receive(&mut busy[0]);
        std::thread::sleep(Duration::from_millis(20));
        clients.into_iter().for_each(reset);
        receive(&mut busy[1]);
        expect_own(&mut connect(&running), "/stays");
        loop {
            let asked = upstream.asked();
            assert!(asked.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{asked}");
            if asked.starts_with("GET /stays ") {
                break;
            }
        }
    });
}

#[test]
fn what_has_two_readings_goes_nowhere() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let running = before(driver, &[&upstream]);
        for (request, status) in [
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 421),
        ] {
            let mut client = connect(&running);
            client.send(request.to_owned() + &get("/smuggled"));
            assert_eq!(receive(&mut client).status, status, "{request}");
            client.rest();
        }
        upstream.expect_silence();
        // A body that is malformed is noticed when its request is on its way: it is not taken for whole.
        let mut client = connect(&running);
        client.send(common::http::post_chunked("/", "0x1\r\na\r\n0\r\n\r\n") + &get("/smuggled"));
        assert_eq!(receive(&mut client).status, 400);
        client.rest();
        upstream.expect_silence();
        expect_own(&mut connect(&running), "/victim");
        let max = ProxyConfig { body_bytes_max: 3, ..config(&upstream) };
        let running = serve(driver, max);
        for request in [post("/", "four"), common::http::post_chunked("/", "2\r\nfo\r\n2\r\nur\r\n0\r\n\r\n")]
        {
            let mut client = connect(&running);
            client.send(request);
            assert_eq!(receive(&mut client).status, 413);
            client.rest();
        }
        let mut client = connect(&running);
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
        assert_eq!(receive(&mut client).status, 200);
    });
}

/// What an evil upstream says first, and the status that its own client gets; `None` where the reply is cut.
const EVIL: &[(&str, Option<u16>)] = &[
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some(200)),
    (
        "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        Some(502),
    ),
    (
        "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        Some(502),
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\nhello", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi", Some(502)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n", None),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nContent-Length: 9\r\n\r\n", None),
    (
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Some(502),
    ),
    ("HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nevil", Some(502)),
    ("HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Some(204)),
    (
        "HTTP/1.1 304 Same\r\nContent-Length: 60\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Some(304),
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Some(200),
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n", Some(200)),
    ("HTTP/1.1 200 OK\nContent-Length: 4\n\nevil", Some(502)),
    ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 4\r\n\r\nevil", Some(502)),
    ("HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 4\r\n\r\nevil", Some(502)),
    ("HTTP/9.9 200 OK\r\n\r\n", Some(502)),
    ("evil", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", None),
    (
        "HTTP/1.1 200 OK\r\nConnection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\r\nContent-Length: 0\r\n\r\n",
        Some(502),
    ),
    // The first of these ends, the second one waits.
    ("HTTP/1.1 200 OK\r\nContent-Le", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Le", Some(504)),
    // Ends without a byte of a reply: it is asked once more, and then it is honest.
    ("", Some(200)),
];

#[test]
fn evil_upstreams_harm_nobody_but_who_asked_them() {
    on_both_drivers(|driver| {
        let storm = "HTTP/1.1 102 Wait\r\n\r\n".repeat(1000) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(70_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
        let more = [(storm.as_str(), Some(502)), (&long, Some(502)), (&many, Some(502))];
        for (n, (evil, status)) in EVIL.iter().copied().chain(more).enumerate() {
            let said = evil.to_owned();
            let upstream = Upstream::new(move |line| {
                if line.number > 0 {
                    while line.answer_honestly() {}
                    return;
                }
                line.request();
                line.try_send(&said);
                if n % 2 == 0 {
                    // It ends, or it waits what becomes of it.
                    let _ = line.stream.shutdown(Shutdown::Write);
                }
                line.wait_for_end();
            });
            let limits = ProxyConfig {
                idle_timeout: Duration::from_millis(200),
                first_byte_timeout: Duration::from_millis(200),
                ..config(&upstream)
            };
            let running = serve(driver, limits);
            let (mut asking, mut victim) = (connect(&running), connect(&running));
            asking.send(get("/asking"));
            match status {
                Some(status) => {
                    let mut reply = receive_head(&mut asking);
                    while reply.status < 200 {
                        reply = receive_head(&mut asking);
                    }
                    if !matches!(reply.status, 204 | 304) {
                        let length = reply.field("content-length").expect("a length").parse().unwrap();
                        asking.read_exact(&mut vec![0; length]).unwrap();
                    }
                    assert_eq!(reply.status, status, "{n}: {evil:?}: {}", reply.head);
                    expect_own(&mut asking, "/next");
                }
                None => {
                    let all = String::from_utf8_lossy(&asking.rest()).into_owned();
                    assert!(!all.ends_with("0\r\n\r\n") && !all.contains("evil"), "{n}: {evil:?}: {all}");
                }
            }
            expect_own(&mut victim, "/victim/1");
            expect_own(&mut victim, "/victim/2");
        }
    });
}

#[test]
fn evil_servers_of_http2_harm_nobody_but_who_asked_them() {
    alone(|| on_both_drivers(evil::check_all));
}

/// A reply is left at each of its bytes, by an end and by a reset: who asked is not told that it was whole, and nobody else notices.
#[test]
fn a_reply_that_is_left_at_any_byte_is_nobodys_but_who_asked() {
    const REPLY: &str = "HTTP/1.1 103 Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        4\r\nevil\r\n0\r\nX-Sum: 1\r\n\r\n";
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let target = request.split(' ').nth(1).unwrap_or_default();
                let Some(cut) = target.strip_prefix("/cut/") else {
                    line.try_send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target} ",
                        target.len() + 1
                    ));
                    continue;
                };
                let (at, end) = cut.split_once('/').expect("where and how");
                line.try_send(&REPLY[..at.parse::<usize>().expect("a number")]);
                if end == "reset" {
                    // As the script ends.
                    socket2::SockRef::from(&line.stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
                return;
            }
        });
        let running = before(driver, &[&upstream]);
        let mut victim = connect(&running);
        for at in 0..REPLY.len() {
            for end in ["end", "reset"] {
                let mut asking = connect(&running);
                let request = post(&format!("/cut/{at}/{end}"), "");
                // It ends behind whatever comes.
                asking.send(request.replace("Host:", "Connection: close\r\nHost:"));
                let mut all = Vec::new();
                // A cut may be told by a reset.
                let _ = asking.read_to_end(&mut all);
                let all = String::from_utf8_lossy(&all)
                    .replace("HTTP/1.1 103 Hints\r\nLink: <a>\r\nvia: 1.1 ringmill\r\n\r\n", "");
                let is_refused = all.starts_with("HTTP/1.1 502 ") && all.ends_with("had answered\n");
                let is_cut = all.starts_with("HTTP/1.1 200 ") && !all.ends_with("\r\n0\r\nX-Sum: 1\r\n\r\n");
                assert!(is_refused || is_cut, "{at} {end}: {all:?}");
                assert!(!is_refused || at <= REPLY.find("4\r\n").unwrap() || end == "reset", "{at}: {all:?}");
                expect_own(&mut victim, "/victim");
            }
        }
    });
}

/// What follows the head of a reply to HEAD is no reply to anybody.
#[test]
fn a_body_behind_the_reply_to_head_goes_nowhere() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let is_head = request.starts_with("HEAD ");
                let body = if is_head { "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" } else { "/v " };
                line.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            }
        });
        let running = before(driver, &[&upstream]);
        let (mut client, mut other) = (connect(&running), connect(&running));
        for _ in 0..3 {
            client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(receive_head(&mut client).status, 200);
            expect_own(&mut client, "/v");
            expect_own(&mut other, "/v");
        }
    });
}

#[test]
fn bytes_on_an_idle_connection_end_it() {
    on_both_drivers(|driver| {
        const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        for (greeting, early) in [("", EVIL), ("", "x"), (EVIL, "")] {
            let upstream = Upstream::new(move |line| {
                if line.number > 0 {
                    while line.answer_honestly() {}
                    return;
                }
                // Before anybody has asked, so that the honest answer is the one that nobody has asked for.
                line.try_send(greeting);
                line.answer_honestly();
                line.stream.flush().unwrap();
                std::thread::sleep(Duration::from_millis(30));
                line.try_send(early);
                line.wait_for_end();
            });
            let running = before(driver, &[&upstream]);
            let mut client = connect(&running);
            client.send(get("/first"));
            let first = if greeting.is_empty() { "/first " } else { "evil" };
            assert_eq!(receive(&mut client).text(), first);
            // The upstream's connection is gone.
            eventually(1, || running.stats().total().connections);
            expect_own(&mut client, "/victim");
            assert_eq!(upstream.accepted(), 2);
        }
    });
}

#[test]
fn slow_bodies_and_heads_of_clients_have_an_end() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line: &mut Line| {
            line.request();
            line.wait_for_end();
        });
        let timeout = Duration::from_millis(100);
        let limits = Limits { head_timeout: timeout, body_idle_timeout: timeout, ..Limits::default() };
        let running = serve(driver, ProxyConfig { limits, ..config(&upstream) });
        for begun in ["GET / HTTP/1.1\r\nHost", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"] {
            let mut client = connect(&running);
            client.send(begun);
            assert_eq!(receive(&mut client).status, 408, "{begun}");
            client.rest();
        }
        eventually(0, || running.stats().total().connections);
    });
}

const WAITING: &str = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";

/// Reads heads, and says nothing.
fn silent() -> Upstream {
    Upstream::new(|line| {
        while let Some(head) = line.head() {
            assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        }
    })
}

/// Who waits for a 100 was not told to send, so that it is not late. Its server may wait for the body, and has not failed: else anybody could
/// have one ejected that knows nothing of Expect.
#[test]
fn a_server_that_gives_no_100_is_late_and_has_not_failed() {
    on_both_drivers(|driver| {
        let upstream = silent();
        let first_byte_timeout = Duration::from_millis(200);
        let limits = Limits { body_idle_timeout: first_byte_timeout / 4, ..Limits::default() };
        let proxy = ProxyConfig { first_byte_timeout, limits: limits.clone(), ..config(&upstream) };
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        let began = Instant::now();
        client.send(WAITING);
        let reply = receive(&mut client);
        assert_eq!(
            (reply.status, reply.text()),
            (504, "504 Gateway Timeout: the upstream did not answer in time\n")
        );
        assert!(began.elapsed() >= first_byte_timeout);
        client.rest();
        drop(client);
        assert_eq!(two::status_of_a_body_that_waits(&running), 504);
        assert_eq!(fleet.counts()[0].failures, 0);
        eventually(0, || running.stats().total().connections);

        // Nor does it hurry while another one has the connection.
        let queue_timeout = first_byte_timeout;
        let proxy = ProxyConfig { connections_max: 1, queue_timeout, limits, ..config(&upstream) };
        let running = serve(driver, proxy);
        let [mut first, mut second] = [(); 2].map(|()| connect(&running));
        first.send(WAITING);
        eventually(3, || running.stats().total().connections);
        second.send(WAITING);
        assert_eq!(receive(&mut second).status, 503);
    });
}

/// From where it sends its body, told or not, it is the client that has to come in time.
#[test]
fn a_client_that_waits_no_longer_for_a_100_has_its_own_time() {
    on_both_drivers(|driver| {
        let first_byte_timeout = Duration::from_millis(400);
        for (said, first) in [("HTTP/1.1 100 Continue\r\n\r\n", ""), ("", "o")] {
            let upstream = Upstream::new(move |line| {
                line.head();
                line.send(said);
                let body = [line.byte(), line.byte()];
                line.try_send(match body {
                    [Some(b'o'), Some(b'k')] => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                    _ => "",
                });
                line.wait_for_end();
            });
            let begin = |proxy| {
                let running = serve(driver, proxy);
                let mut client = connect(&running);
                client.send(WAITING);
                if !said.is_empty() {
                    assert_eq!(receive_head(&mut client).status, 100);
                }
                client.send(first);
                (running, client)
            };
            let (_running, mut client) = begin(ProxyConfig { first_byte_timeout, ..config(&upstream) });
            // It takes its time, and the server waits with it.
            std::thread::sleep(first_byte_timeout * 3 / 2);
            client.send(&"ok"[first.len()..]);
            assert_eq!(receive(&mut client).status, 200, "{said:?}");

            let limits = Limits { body_idle_timeout: first_byte_timeout / 4, ..Limits::default() };
            let (_running, mut client) = begin(ProxyConfig { limits, ..config(&upstream) });
            assert_eq!(receive(&mut client).status, 408, "{said:?}");
        }
    });
}

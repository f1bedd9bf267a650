//! What is seen from outside: who the client is, names of requests and traces, the access log, pages for errors.

use super::*;
use crate::common::frames::{
    END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, block, field, frame, read_frame,
};
use ringmill::adapt::Http2Limits;

#[test]
fn the_peer_may_say_who_the_client_is_where_it_is_trusted() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let trusted = vec!["127.0.0.0/8".parse().unwrap()];
        let running = serve(driver, ProxyConfig { trusted, ..config(&upstream) });
        let mut client = connect(&running);
        client.send(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n",
        );
        let asked = upstream.asked();
        assert!(asked.contains("\r\nx-forwarded-for: 6.6.6.6\r\n"), "{asked}");
        assert!(asked.contains("\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-host: a\r\n"), "{asked}");
        assert!(asked.contains("\r\nX-Forwarded-Proto: https\r\n"), "{asked}");
        let mut buffer = [0; 1];
        client.read_exact(&mut buffer).unwrap();
    });
}

#[test]
fn requests_are_named_and_their_traces_go_on() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let status = if request.contains(" /broken ") { "what" } else { "200 OK" };
                line.send(format!("HTTP/1.1 {status}\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n"));
            }
        });
        let named = |is_trusted, request, trace| {
            let trusted = if is_trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
            let observe = Observe { ids: IdRules { request, trace }, ..Observe::default() };
            serve(driver, ProxyConfig { trusted, observe, ..config(&upstream) })
        };
        let told = format!(
            "X-Request-Id: mine\r\ntraceparent: 00-{TRACE}-b7ad6b7169203331-00\r\ntracestate: a=b\r\n"
        );
        let field = |request: &str, name: &str| {
            let all = request.lines().filter_map(|line| line.split_once(": "));
            let all: Vec<_> =
                all.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect();
            all.join(" and ")
        };
        let is_made = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());

        let running = named(true, RequestIds::Both, Traces::Trusted);
        let mut client = connect(&running);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n"));
        let asked = upstream.asked();
        assert_eq!(field(&asked, "x-request-id"), "mine");
        let parent = field(&asked, "traceparent");
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00"), "{parent}");
        assert!(!parent.contains("b7ad6b7169203331"), "{parent}");
        assert_eq!(field(&asked, "tracestate"), "a=b");
        assert_eq!(field(&receive(&mut client).head, "x-request-id"), "mine");
        // What the upstream is not asked, or does not answer, has its name too.
        client.send("GET /broken HTTP/1.1\r\nHost: a\r\nX-Request-Id: broken\r\n\r\n");
        let reply = receive(&mut client);
        assert_eq!((reply.status, field(&reply.head, "x-request-id")), (502, "broken".to_owned()));
        client.send("TRACE / HTTP/1.1\r\nHost: a\r\nX-Request-Id: refused\r\n\r\n");
        let reply = receive(&mut client);
        assert_eq!((reply.status, field(&reply.head, "x-request-id")), (501, "refused".to_owned()));
        upstream.asked();

        let running = named(false, RequestIds::Upstream, Traces::Trusted);
        let mut client = connect(&running);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n").repeat(2));
        let ids = [(); 2].map(|()| {
            let asked = upstream.asked();
            let (id, parent) = (field(&asked, "x-request-id"), field(&asked, "traceparent"));
            assert!(is_made(&id), "{id}");
            assert!(parent.len() == 55 && !parent.contains(TRACE) && parent.ends_with("-01"), "{parent}");
            assert_eq!(field(&asked, "tracestate"), "");
            assert_eq!(field(&receive(&mut client).head, "x-request-id"), "theirs");
            (id, parent)
        });
        assert!(ids[0].0 != ids[1].0 && ids[0].1[3..35] != ids[1].1[3..35], "{ids:?}");

        let running = named(false, RequestIds::Off, Traces::Off);
        let mut client = connect(&running);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n"));
        assert!(upstream.asked().contains(&told));
        assert_eq!(field(&receive(&mut client).head, "x-request-id"), "theirs");
    });
}

#[test]
fn each_request_is_noted_with_its_end() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                match request.split([' ', '?']).nth(1).unwrap_or_default() {
                    "/cut" => {
                        line.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi");
                        return;
                    }
                    "/broken" => line.send("what\r\n\r\n"),
                    "/silent" => line.wait_for_end(),
                    "/ends" if line.number < 1 => return,
                    "/500" => line.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
                    "/ws" => {
                        line.send(
                            "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
                        );
                        return;
                    }
                    _ => line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
                }
            }
        });
        let log = AccessLog::default();
        let rules = |sampled_per_million| LogRules {
            to: log.clone(),
            sampled_per_million,
            slow: Duration::from_secs(3600),
            has_agents: true,
        };
        let observe = |part| Observe {
            ids: IdRules { request: RequestIds::Both, trace: Traces::Any },
            log: Some(rules(part)),
            ..Observe::default()
        };
        let limits = Limits { head_timeout: Duration::from_millis(50), ..Limits::default() };
        let with = |part| ProxyConfig {
            observe: observe(part),
            limits: limits.clone(),
            first_byte_timeout: Duration::from_millis(150),
            body_bytes_max: 10,
            ..config(&upstream)
        };
        let running = serve(driver, with(1_000_000));
        let mut known = Vec::new();
        // Sends this, reads up to the end, and gives the line.
        let mut check = |input: &str, expected: (u64, &str, &str)| {
            let before = known.len();
            let mut client = connect(&running);
            client.send(input);
            let is_whole = input.ends_with("\r\n\r\n") || input.contains("Content-Length");
            let end = expected.1;
            let mut reply = Vec::new();
            if end == "client" {
                upstream.asked();
                client.shutdown(Shutdown::Both).unwrap();
            } else {
                let mut buffer = [0; 4096];
                // The client ends what is kept.
                while let Ok(bytes) = client.read(&mut buffer)
                    && bytes > 0
                {
                    reply.extend_from_slice(&buffer[..bytes]);
                    if reply.ends_with(b"\r\n\r\nhi") || reply.ends_with(b"\r\n\r\n") {
                        break;
                    }
                }
            }
            // Where another protocol is spoken, it goes on until both have ended.
            if expected.0 == 101 {
                client.shutdown(Shutdown::Write).unwrap();
            }
            eventually(before + 1, || lines(&log, &mut known));
            let line = known[before].clone();
            let told = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            assert_eq!(
                (line["status"].as_u64(), told("end").as_str(), told("path").as_str()),
                (Some(expected.0), end, expected.2),
                "{input}: {line}"
            );
            if is_whole && end != "client" {
                assert_eq!(line["bytes_in"].as_u64(), Some(input.len() as u64), "{input}: {line}");
            }
            if end != "client" {
                assert_eq!(line["bytes_out"].as_u64(), Some(reply.len() as u64), "{input}: {line}");
                let id = format!("x-request-id: {}\r\n", told("request_id"));
                assert!(
                    told("request_id").len() == 32 && String::from_utf8_lossy(&reply).contains(&id),
                    "{input}: {line}"
                );
            }
            assert_eq!((told("client").as_str(), told("trace_id").len()), ("127.0.0.1", 32), "{line}");
            line
        };
        let get = |target: &str| {
            format!(
                "GET {target} HTTP/1.1\r\nHost: a.test:80\r\nUser-Agent: \"\t\u{e4}\\\r\nConnection: close\r\n\r\n"
            )
        };
        let line = check(&get("/x?y=%0a&\"z\\"), (200, "complete", "/x"));
        let all = ["method", "host", "query", "user_agent", "upstream"]
            .map(|key| line[key].as_str().unwrap_or_default());
        assert_eq!(all, ["GET", "a.test:80", "y=%0a&\"z\\", "\"\t\u{e4}\\", &upstream.address.to_string()]);
        assert!(
            line["first_byte_ms"].as_f64() <= line["ms"].as_f64() && line["wait_ms"].is_number(),
            "{line}"
        );
        assert!(line["retries"].is_null(), "{line}");
        check(&get("/ends"), (200, "complete", "/ends"))["retries"].as_u64().expect("it was repeated");
        check("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345", (200, "complete", "/x"));
        check(&get("/500"), (500, "complete", "/500"));
        check(&get("/cut"), (200, "upstream", "/cut"));
        check(&get("/broken"), (502, "upstream", "/broken"));
        let line = check(&get("/silent"), (504, "timeout", "/silent"));
        assert!(line["ms"].as_f64() >= Some(150.0) && line["first_byte_ms"].is_null(), "{line}");
        check(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            (101, "complete", "/ws"),
        );
        check("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", (413, "refused", "/x"));
        check("TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n", (501, "refused", "/x"));
        check("GET / HTTP/1.1\r\nHost a\r\n\r\n", (400, "refused", ""));
        check("GET /slow HTTP/1.1\r\nHost:", (408, "timeout", ""));
        upstream.forget_asked();
        check(&get("/silent"), (0, "client", "/silent"));

        // Of those that are well, none.
        let running = serve(driver, with(0));
        known = Vec::new();
        for (target, status) in [("/x", 200), ("/500", 500), ("/x", 200), ("/broken", 502)] {
            let mut client = connect(&running);
            client.send(get(target));
            assert_eq!(receive(&mut client).status, status);
        }
        eventually(2, || lines(&log, &mut known));
        let told: Vec<_> = known.iter().map(|line| line["status"].as_u64().unwrap()).collect();
        assert_eq!(told, [500, 502]);
        assert_eq!(log.dropped(), 0);
    });
}

/// An upstream whose replies come late, break off, or are longer than anybody takes.
fn late() -> Upstream {
    Upstream::new(|line| {
        while let Some(request) = line.request() {
            match request.split(' ').nth(1).unwrap_or_default() {
                "/silent" => line.wait_for_end(),
                "/half" => {
                    line.send("HTTP/1.1 203 So Far\r\nContent-Length: 9\r\n\r\nhi");
                    line.wait_for_end();
                }
                "/much" => {
                    line.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n");
                    while line.try_send(vec![b'x'; 64 * 1024]) {}
                }
                _ => line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
            }
        }
    })
}

/// Notes and counts everything.
pub(super) fn observe_all() -> (Observe, AccessLog, Counts) {
    let (log, counts) = (AccessLog::default(), Counts::default());
    let rules = LogRules {
        to: log.clone(),
        sampled_per_million: 1_000_000,
        slow: Duration::from_secs(3600),
        has_agents: false,
    };
    (Observe { log: Some(rules), counts: Some(counts.clone()), ..Observe::default() }, log, counts)
}

fn observed(config: ProxyConfig) -> (ProxyConfig, AccessLog, Counts) {
    let (observe, log, counts) = observe_all();
    (ProxyConfig { observe, ..config }, log, counts)
}

/// Whatever a client of HTTP/2 asks for has a line and is counted, with the end that a request of HTTP/1.1 would have.
#[test]
fn streams_are_noted_like_other_requests() {
    const CANCEL: &[u8] = &8u32.to_be_bytes();
    /// INITIAL_WINDOW_SIZE: no room for a reply.
    const NO_ROOM: &[u8] = &[0, 4, 0, 0, 0, 0];
    on_both_drivers(|driver| {
        let upstream = late();
        let http2 = Http2Limits { stalled_timeout: Duration::from_millis(100), ..Http2Limits::default() };
        let (config, log, counts) = observed(ProxyConfig { http2, ..config(&upstream) });
        let running = serve(driver, config);
        let call = |path: &str| {
            let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "100m")];
            [block("POST", path), fields.map(|(name, value)| field(name, value)).concat()].concat()
        };
        let mut known = Vec::new();
        let mut check = |settings: &[u8], block: &[u8], is_left: bool, expected: (u64, &str, &str)| {
            let before = known.len();
            let mut client = connect(&running);
            let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
            client.send([PREFACE, &frame(SETTINGS, 0, 0, settings), &head].concat());
            if is_left {
                upstream.asked();
                client.send(frame(RST_STREAM, 0, 1, CANCEL));
            } else {
                // Its answer, or its end.
                while read_frame(&mut client).expect("an answer").stream != 1 {}
            }
            eventually(before + 1, || lines(&log, &mut known));
            let line = &known[before];
            let said = ["end", "path"].map(|key| line[key].as_str().unwrap_or_default());
            assert_eq!(
                (line["status"].as_u64(), said[0], said[1]),
                (Some(expected.0), expected.1, expected.2)
            );
            upstream.forget_asked();
        };
        check(b"", &block("GET", "/x"), false, (200, "complete", "/x"));
        check(b"", &call("/silent"), false, (200, "timeout", "/silent"));
        check(b"", &call("/half"), false, (203, "timeout", "/half"));
        check(NO_ROOM, &block("GET", "/much"), false, (200, "timeout", "/much"));
        check(b"", &block("GET", "/silent"), true, (0, "client", "/silent"));
        // What is no request for a server: two hosts, and a protocol that nobody speaks here.
        let hosts = [block("GET", "/x"), field("host", "b")].concat();
        check(b"", &hosts, false, (400, "refused", ""));
        let other = [block("CONNECT", "/x"), field(":protocol", "connect-udp")].concat();
        check(b"", &other, false, (501, "refused", ""));
        let all = counts.all();
        let unrouted = all.iter().find(|(what, _)| *what == Counted::Unrouted).expect("it is counted").1;
        assert_eq!((unrouted.statuses, unrouted.ends), ([0, 0, 0, 0, 1, 1], [0, 2, 0, 0, 0]));
        let routes = all.iter().filter(|(what, _)| matches!(what, Counted::Route(_)));
        let ends: Vec<_> = routes.map(|(_, counts)| counts.ends).collect();
        assert_eq!(ends, [[1, 0, 1, 0, 3]]);
    });
}

#[test]
fn a_client_that_takes_nothing_is_noted_as_late() {
    on_both_drivers(|driver| {
        let upstream = late();
        let (proxy, log, _) = observed(config(&upstream));
        let engine = Config { write_timeout: Duration::from_millis(300), ..common::config(driver) };
        let running = start(engine, move |_| Proxy::new(proxy.clone(), 1));
        let mut client = connect(&running);
        client.send(get("/much"));
        let mut known = Vec::new();
        eventually(1, || lines(&log, &mut known));
        assert_eq!((known[0]["status"].as_u64(), known[0]["end"].as_str()), (Some(200), Some("timeout")));
    });
}

#[test]
fn the_combined_format_says_which_version_was_spoken() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let (config, log, _) = observed(config(&upstream));
        let running = serve(driver, config);
        let mut one = connect(&running);
        one.send(get("/one"));
        receive(&mut one);
        let mut two = connect(&running);
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/two"));
        two.send([PREFACE, &frame(SETTINGS, 0, 0, b""), &head].concat());
        let (mut batch, mut writer, mut text) =
            (Batch::default(), LineWriter::new(LogFormat::Combined), Vec::new());
        eventually(2, || {
            log.take(&mut batch);
            batch.entries().for_each(|entry| writer.write(&mut text, &entry));
            text.iter().filter(|byte| **byte == b'\n').count()
        });
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\"GET /one HTTP/1.1\"") && text.contains("\"GET /two HTTP/2.0\""), "{text}");
    });
}

/// What the proxy says itself comes in the form that a client wants, whoever was to answer.
#[test]
fn answers_of_its_own_have_the_form_that_is_asked_for() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            if line.head().is_some_and(|head| head.starts_with("POST ")) {
                // More than is kept for another time.
                let _ = (0..100_000).filter_map(|_| line.byte()).count();
            }
        });
        let page = Page::new("<p>sorry, {request_id}</p>").unwrap();
        let running = serve(
            driver,
            ProxyConfig {
                observe: Observe {
                    ids: IdRules { request: RequestIds::Both, ..IdRules::default() },
                    ..Observe::default()
                },
                pages: Pages::new([(501, page)].into()),
                ..config(&upstream)
            },
        );
        let body = "x".repeat(100_000);
        let large = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nAccept: text/html\r\n\r\n{body}"
        );
        let get = |accept: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        let trace = |accept: &str| format!("TRACE / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        let (text, html, problem) = ("text/plain", "text/html; charset=utf-8", "application/problem+json");
        for (request, status, content_type, says) in [
            (get("*/*"), 502, text, "502 Bad Gateway: the upstream closed"),
            (get("text/html"), 502, html, "<h1>502 Bad Gateway</h1>"),
            (get("application/json"), 502, problem, "\"status\":502,\"detail\":\"the upstream closed"),
            (large, 502, html, "<h1>502 Bad Gateway</h1>"),
            (trace("text/html"), 501, html, "<p>sorry, "),
            (trace("*/*"), 501, html, "<p>sorry, "),
            (trace("application/problem+json"), 501, problem, "\"title\":\"Not Implemented\""),
            (
                "GET / HTTP/1.1\r\nHost a\r\nAccept: text/html\r\n\r\n".to_owned(),
                400,
                text,
                "400 Bad Request: ",
            ),
        ] {
            let mut client = connect(&running);
            client.send(&request);
            let reply = receive(&mut client);
            assert_eq!(
                (reply.status, reply.field("content-type")),
                (status, Some(content_type)),
                "{}",
                reply.head
            );
            let id = reply.field("x-request-id").expect("a name");
            assert!(reply.text().contains(says) && reply.text().contains(id), "{}", reply.text());
            assert_eq!(reply.field("vary"), Some("accept"));
        }
        // Of a head alone there is the length of the same.
        let mut client = connect(&running);
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
        let head = receive_head(&mut client);
        assert_eq!((head.status, head.field("content-type")), (502, Some(html)));
        assert!(head.field("content-length").is_some_and(|length| length != "0"));
        client.send("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive(&mut client).status, 501, "no body came in between");
    });
}

//! Requests by the file: routes, replies of its own, and what the keys of listeners and routes do.

use super::*;

/// The file of the README serves what it says.
#[test]
fn the_file_of_the_readme_is_a_working_proxy() {
    on_both_drivers(|driver| {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        let whole = readme.split("```toml\n").find(|part| part.starts_with("[[listen]]")).expect("a file");
        let whole = whole.split("```").next().unwrap();
        assert!(whole.lines().count() <= 7, "{whole}");
        assert!(whole.contains("127.0.0.1:8080") && whole.contains("127.0.0.1:3000"), "{whole}");
        let app = Upstream::honest();
        let text = whole.replace("127.0.0.1:8080", "127.0.0.1:0");
        let text = text.replace("127.0.0.1:3000", &app.address.to_string());
        let mut served = Served::start(driver, &text);
        let mut client = connect_to(served.program.http());
        client.send(post("/a?b", "c"));
        assert_eq!(receive(&mut client).text(), "/a?b c");
        eventually(true, || served.program.catches(libc::SIGTERM));
        served.program.signal(libc::SIGTERM);
        assert_eq!(served.program.wait().code(), Some(0));
    });
}

#[test]
fn requests_take_their_routes_and_websockets_as_well() {
    on_both_drivers(|driver| {
        let named = |name: &'static str| {
            Upstream::new(move |line| {
                while let Some(request) = line.request() {
                    let target = request.split(' ').nth(1).unwrap_or_default();
                    let host =
                        request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
                    let text = format!("{name} {host} {target}");
                    line.send(format!(
                        "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: {}\r\n\r\n{text}",
                        text.len()
                    ));
                }
            })
        };
        let (app, api, shop) = (named("app"), named("api"), named("shop"));
        let live = Program::serve(driver, &["--ws-origin", "any"]);
        let text = [
            listen("127.0.0.1:0"),
            "[[route]]\nto = \"app\"\n".to_owned(),
            "[[route]]\nmatch = { path = \"/api/\" }\nto = \"api\"\nmax_body = 3\n".to_owned(),
            "[[route]]\nmatch = { host = [\"shop.test\", \"*.shop.test\"] }\nto = \"shop\"\n".to_owned(),
            "[[route]]\nmatch = { exact = \"/health\", method = [\"GET\", \"HEAD\"] }\n".to_owned(),
            "reply = { status = 203, body = \"fine\", content_type = \"text/x\" }\n".to_owned(),
            "[[route]]\nmatch = { host = \"only.test\", method = \"POST\" }\nto = \"app\"\n".to_owned(),
            "[[route]]\nmatch = { host = \"old.test\" }\nredirect = { to = \"https://new.test\" }\n"
                .to_owned(),
            "[[route]]\nmatch = { host = \"gone.test\" }\nredirect = { to = \"/x\", status = 302 }\n"
                .to_owned(),
            "[[route]]\nmatch = { path = \"/ws\" }\nto = \"live\"\n".to_owned(),
            upstream("app", &[&app]),
            upstream("api", &[&api]),
            upstream("shop", &[&shop]),
            format!("[upstream.live]\nservers = [\"{}\"]\n", live.http()),
        ];
        let served = Served::start(driver, &text.concat());
        let mut client = connect_to(served.program.http());
        let mut check = |method: &str, host: &str, target: &str, body: &str, expected: (u16, &str)| {
            let length =
                if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
            client.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n{body}"));
            let reply = receive(&mut client);
            let location = reply.field("location").or(reply.field("allow")).unwrap_or(reply.text());
            assert_eq!((reply.status, location.trim_end()), expected, "{method} {host} {target}");
            if reply.head.contains("connection: close") {
                client.expect_eof();
                client = connect_to(served.program.http());
            }
        };
        check("GET", "a", "/", "", (200, "app a /"));
        check("GET", "A.:80", "//x/../y/./z", "", (200, "app a /y/z"));
        check("GET", "a:81", "/apis?//", "", (200, "app a:81 /apis?//"));
        check("GET", "a", "/api", "", (200, "api a /api"));
        check("POST", "a", "/%61pi/%7ex%2fy", "abc", (200, "api a /api/~x%2Fy"));
        check(
            "POST",
            "a",
            "/api/",
            "abcd",
            (413, "413 Content Too Large: the body is larger than this proxy takes"),
        );
        check("GET", "Shop.test", "/api", "", (200, "shop shop.test /api"));
        check("GET", "b.a.shop.test:8080", "/", "", (200, "shop b.a.shop.test:8080 /"));
        check("GET", "a", "/health", "", (203, "fine"));
        check("POST", "a", "/health", "x", (200, "app a /health"));
        check("GET", "a", "/health/", "", (200, "app a /health/"));
        check("GET", "old.test", "/a/../b?c", "", (308, "https://new.test/b?c"));
        check("POST", "old.test", "/a", "body", (308, "https://new.test/a"));
        check("GET", "gone.test", "/a", "", (302, "/x"));
        check("GET", "only.test", "/", "", (200, "app only.test /"));
        check(
            "GET",
            "a",
            "/x%2f..%2fapi",
            "",
            (400, "400 Bad Request: an escaped slash in the path decides where the request goes"),
        );
        check("GET", "a", "/%00", "", (400, "400 Bad Request: the path contains %00"));
        check(
            "GET",
            "a",
            "/..;/api",
            "",
            (400, "400 Bad Request: a dot segment of the path has a parameter"),
        );
        check("GET", "a", "/../api", "", (400, "400 Bad Request: the path leads above the root"));
        let mut socket = ws::open(served.program.http(), "/ws");
        socket.send(ws::text("hello"));
        assert_eq!(ws::receive(&mut socket), ws::Frame(0x81, b"hello".to_vec()));
    });
}

#[test]
fn what_no_route_takes_is_answered_here() {
    on_both_drivers(|driver| {
        let app = Upstream::honest();
        let text = "[[route]]\nmatch = { host = \"a.test\", method = [\"PUT\", \"GET\"] }\nto = \"app\"\n";
        let served =
            Served::start(driver, &[&listen("127.0.0.1:0"), text, &upstream("app", &[&app])].concat());
        let mut client = connect_to(served.program.http());
        // Both without a word to the upstream, and the connection goes on.
        client.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\nHEAD / HTTP/1.1\r\nHost: b.test\r\n\r\nDELETE / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(receive(&mut client).status, 404);
        let head = common::http::receive_head(&mut client);
        assert_eq!((head.status, head.field("content-length")), (404, Some("58")), "{}", head.head);
        let reply = receive(&mut client);
        assert_eq!((reply.status, reply.field("allow")), (405, Some("GET, PUT")));
        assert_eq!(app.accepted(), 0);
        client.send("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(receive(&mut client).text(), "/x ");
    });
}

/// More answers than a client takes do not pile up.
#[test]
fn answers_of_its_own_wait_for_who_reads_slowly() {
    on_both_drivers(|driver| {
        let body = "x".repeat(16 * 1024);
        let text = format!("[[route]]\nreply = {{ status = 200, body = \"{body}\" }}\n");
        let served = Served::start(driver, &[&listen("127.0.0.1:0"), text.as_str()].concat());
        const REQUESTS: usize = 4000;
        let mut client = connect_to(served.program.http());
        let mut sender = client.try_clone().unwrap();
        let sending =
            std::thread::spawn(move || sender.write_all(get("/").repeat(REQUESTS).as_bytes()).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        for n in 0..REQUESTS {
            assert_eq!(receive(&mut client).body.len(), body.len(), "reply {n}");
        }
        sending.join().unwrap();
    });
}

/// No key does nothing: each of these is seen in what clients and upstreams get.
#[test]
fn keys_do_what_they_say() {
    on_both_drivers(|driver| {
        let one_route = "[[route]]\nto = \"app\"\n";
        let serve = |head: &str, app: &str, keys: &str| {
            let upstream = format!("[upstream.app]\nservers = [{app}]\n{keys}\n");
            Served::start(driver, &[head, one_route, &upstream].concat())
        };
        let quoted = |upstream: &Upstream| format!("\"{}\"", upstream.address);
        let plain = listen("127.0.0.1:0");

        let app = Upstream::new(
            |line| while line.request().is_some() && line.try_send("HTTP/1.1 204 x\r\n\r\n") {},
        );
        let served = serve(&format!("{plain}proxy_protocol = [\"127.0.0.1\"]\n"), &quoted(&app), "");
        let mut client = connect_to(served.program.http());
        client.send("PROXY TCP4 9.8.7.6 127.0.0.1 1000 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(app.asked().contains("x-forwarded-for: 9.8.7.6\r\n"));
        let mut client = connect_to(served.program.http());
        client.send(get("/"));
        client.expect_eof();

        let served =
            serve(&format!("[ids]\nrequest = \"both\"\ntrace = \"any\"\n{plain}"), &quoted(&app), "");
        let mut client = connect_to(served.program.http());
        let trace = "00-0af7651916cd43dd8448eb211c80319c-";
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {trace}b7ad6b7169203331-01\r\n\r\n"));
        let (asked, reply) = (app.asked(), receive(&mut client));
        let id = reply.field("x-request-id").expect("a name");
        assert!(asked.contains(&format!("\r\nx-request-id: {id}\r\ntraceparent: {trace}")), "{asked}");

        let served = serve(
            &format!("[limits]\ntrust = [\"127.0.0.0/8\"]\nmax_requests = 2\n{plain}"),
            &quoted(&app),
            "",
        );
        let mut client = connect_to(served.program.http());
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 5.5.5.5\r\n\r\n");
        assert!(app.asked().contains("x-forwarded-for: 5.5.5.5\r\nx-forwarded-for: 127.0.0.1\r\n"));
        assert_eq!(receive(&mut client).status, 204);
        client.send(get("/"));
        assert!(receive(&mut client).head.contains("connection: close"), "of two it was the second");
        client.expect_eof();

        let limits = "[limits]\nkeep_alive_timeout = \"50ms\"\nhead_timeout = \"50ms\"\nbody_timeout = \"50ms\"\nmax_body = 2\n";
        let served = serve(&format!("{limits}{plain}"), &quoted(&app), "");
        connect_to(served.program.http()).expect_eof();
        let mut client = connect_to(served.program.http());
        client.send("GET / HTTP/1.1\r\n");
        assert_eq!(receive(&mut client).status, 408);
        let mut client = connect_to(served.program.http());
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1");
        assert_eq!(receive(&mut client).status, 408);
        let mut client = connect_to(served.program.http());
        client.send(post("/", "123"));
        assert_eq!(receive(&mut client).status, 413);

        // Who ends before the reply is answered only where that is asked for.
        let slow = Upstream::new(|line| {
            while line.request().is_some() {
                std::thread::sleep(Duration::from_millis(100));
                line.try_send("HTTP/1.1 204 x\r\n\r\n");
            }
        });
        for (half_close, expected) in [(true, true), (false, false)] {
            let head = format!("[limits]\nhalf_close = {half_close}\n{plain}");
            let served = serve(&head, &quoted(&slow), "");
            let mut client = connect_to(served.program.http());
            client.send(get("/"));
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(client.rest().starts_with(b"HTTP/1.1 204"), expected, "half_close = {half_close}");
        }

        // An upstream that says nothing, nothing more, or has no room.
        let silent = Upstream::new(|line| line.wait_for_end());
        let served = serve(&plain, &quoted(&silent), "timeout = { first_byte = \"50ms\" }");
        let mut client = connect_to(served.program.http());
        client.send(get("/"));
        assert_eq!(receive(&mut client).status, 504);
        let begun = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\n1");
            line.wait_for_end();
        });
        let served = serve(&plain, &quoted(&begun), "timeout = { idle = \"50ms\" }");
        let mut client = connect_to(served.program.http());
        client.send(get("/"));
        assert!(client.rest().ends_with(b"\r\n\r\n1"), "it is cut behind what came");
        let served = serve(&plain, &quoted(&silent), "connections = { max = 1, queue = 0 }");
        let mut first = connect_to(served.program.http());
        first.send(get("/"));
        let mut client = connect_to(served.program.http());
        client.send(get("/"));
        assert_eq!(receive(&mut client).status, 503);
        let served = serve(&plain, &quoted(&silent), "connections = { max = 1, wait = \"50ms\" }");
        let mut first = connect_to(served.program.http());
        first.send(get("/"));
        let mut client = connect_to(served.program.http());
        client.send(get("/"));
        assert_eq!(receive(&mut client).status, 503);

        // Connections are kept, or not, and for how long.
        for (keys, expected) in [
            ("connections = { keep_for = \"1m\" }", 1),
            ("connections = { keep = 0 }", 3),
            ("connections = { max_age = \"1ms\" }", 3),
            ("connections = { keep_for = \"1ms\" }", 3),
        ] {
            let app = Upstream::honest();
            let served = serve(&plain, &quoted(&app), keys);
            let mut client = connect_to(served.program.http());
            for n in 0..3 {
                client.send(get(&format!("/{n}")));
                assert_eq!(receive(&mut client).text(), format!("/{n} "));
                std::thread::sleep(Duration::from_millis(100));
            }
            assert_eq!(app.accepted(), expected, "{keys}");
        }

        // A request is sent as often as it may be.
        for (tries, expected) in [(1, 502), (2, 200)] {
            let fragile = Upstream::new(|line| {
                if line.number == 0 {
                    line.request();
                } else {
                    while line.answer_honestly() {}
                }
            });
            let served = serve(&plain, &quoted(&fragile), &format!("retry = {{ tries = {tries} }}"));
            let mut client = connect_to(served.program.http());
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, expected, "tries = {tries}");
        }

        let (one, two) = (Upstream::honest(), Upstream::honest());
        let both = format!("{}, {}", quoted(&one), quoted(&two));
        let served = serve(&plain, &both, "balance = \"round-robin\"");
        let mut client = connect_to(served.program.http());
        for _ in 0..2 {
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, 200);
        }
        assert_eq!((one.accepted(), two.accepted()), (1, 1));
    });
}

#[test]
fn pages_are_read_with_the_file() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let page = directory.file("404.html");
        std::fs::write(&page, "<p>first</p>").unwrap();
        let text = format!(
            "[error_pages]\n404 = \"{page}\"\n{}[[route]]\nmatch = {{ path = \"/x\" }}\nreply = {{ status = 200 }}\n",
            listen("127.0.0.1:0")
        );
        let served = Served::start(driver, &text);
        let mut client = connect_to(served.program.http());
        let mut says = |accept: &str| {
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n"));
            let reply = receive(&mut client);
            assert_eq!(reply.status, 404);
            reply.text().to_owned()
        };
        assert_eq!([says("text/html"), says("*/*")], ["<p>first</p>", "<p>first</p>"]);
        assert!(
            says("application/json")
                .starts_with("{\"type\":\"about:blank\",\"title\":\"Not Found\",\"status\":404,")
        );
        std::fs::write(&page, "<p>second</p>").unwrap();
        served.follow(&text);
        assert_eq!(says("text/html"), "<p>second</p>");
        std::fs::write(&page, "x".repeat(70_000)).unwrap();
        let said = served.follow(&text);
        assert!(said.contains("cannot be followed"), "{said}");
        assert_eq!(says("text/html"), "<p>second</p>");
    });
}

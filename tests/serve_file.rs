//! `ringmill serve --config`, run as a program: what is said of a file, which request goes where, and what a change of the file leaves as
//! it is, on both drivers.
#![cfg(feature = "cli")]

mod common;
#[path = "serve_file/tcp.rs"]
mod tcp;
#[path = "serve_file/udp.rs"]
mod udp;

use common::authority::{Authority, secure};
use common::frames::{self, END_HEADERS, HEADERS, PREFACE, SETTINGS, STATUS_200, frame, read_frame};
use common::http::{get, post, receive};
use common::names::{NameServer, Record};
use common::program::{Program, ringmill, run};
use common::upstream::Upstream;
use common::ws;
use common::*;
use ringmill::proxy::{Proxy, ProxyConfig};
use ringmill::{DriverChoice, Engine, Tls, TlsConfig, TlsStore};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A file, and the server that follows it.
struct Served {
    file: String,
    server: String,
    program: Program,
    _directory: Directory,
}

impl Served {
    /// Serves by a file with one worker, and `text` behind its head.
    #[track_caller]
    fn start(driver: DriverChoice, text: &str) -> Served {
        Served::start_with(driver, "", text)
    }

    #[track_caller]
    fn start_with(driver: DriverChoice, keys: &str, text: &str) -> Served {
        let directory = Directory::new();
        let file = directory.file("ringmill.toml");
        let server = format!("[server]\nworkers = 1\npin = \"off\"\ndriver = \"{driver}\"\n{keys}\n");
        std::fs::write(&file, format!("{server}{text}")).unwrap();
        let mut command = ringmill();
        command.args(["serve", "--config", &file]);
        let program = Program::start(command, "worker(s) on CPU");
        Served { file, server, program, _directory: directory }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.file, format!("{}{text}", self.server)).unwrap();
    }

    /// How often it has said that it follows the file, or does not.
    fn followed(&self) -> usize {
        let said = |line: &&String| line.contains(" was read again") || line.contains("cannot be followed");
        self.program.lines().iter().filter(said).count()
    }

    /// Has it follow another text; what it says of that.
    #[track_caller]
    fn follow(&self, text: &str) -> String {
        let before = self.followed();
        self.write(text);
        self.program.signal(libc::SIGHUP);
        eventually(true, || self.followed() > before);
        let said = |line: &&String| line.contains(" was read again") || line.contains("cannot be followed");
        self.program.lines().iter().rfind(said).unwrap().clone()
    }
}

fn listen(address: &str) -> String {
    format!("[[listen]]\naddress = \"{address}\"\n")
}

fn upstream(name: &str, upstreams: &[&Upstream]) -> String {
    let servers: Vec<String> = upstreams.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
    format!("[upstream.{name}]\nservers = [{}]\n", servers.join(", "))
}

/// The same, whose idle connections are kept, however slow the machine is.
fn kept(name: &str, server: &Upstream) -> String {
    upstream(name, &[server]) + "connections = { keep_for = \"1m\" }\n"
}

/// An address that is free, and stays so: of a network of this process, from which nobody else takes a port meanwhile.
fn free() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    std::net::TcpListener::bind((Ipv4Addr::new(127, 1, high, low), 0)).unwrap().local_addr().unwrap()
}

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

#[test]
fn tls_by_the_file_and_the_way_to_it() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let app = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let proto =
                    request.lines().find(|line| line.starts_with("x-forwarded-proto")).unwrap().to_owned();
                line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{proto}", proto.len()));
            }
        });
        let tls = format!("tls = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n");
        let text = [
            listen("127.0.0.1:0"),
            "redirect_to_https = 443\n".to_owned(),
            listen("127.0.0.1:0"),
            tls,
            "[[route]]\nto = \"app\"\n".to_owned(),
            upstream("app", &[&app]),
        ];
        let served = Served::start(driver, &text.concat());
        let mut client = connect_to(served.program.http());
        client.send("GET /a?b HTTP/1.1\r\nHost: A.test:81\r\n\r\n");
        let reply = receive(&mut client);
        assert_eq!((reply.status, reply.field("location")), (308, Some("https://a.test/a?b")));
        let address = served.program.line_with("TLS on ").unwrap();
        let address = address.split("TLS on ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
        let trusting = authority.client(rustls::ALL_VERSIONS);
        let mut client = secure(address, &trusting, "localhost").unwrap();
        client.write_all(get("/").as_bytes()).unwrap();
        let mut reply = vec![0; 1000];
        let bytes = client.read(&mut reply).unwrap();
        assert!(String::from_utf8_lossy(&reply[..bytes]).contains("200 OK"), "{}", show(&reply[..bytes]));
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

/// A server that is verified, by the authority that the file names.
#[test]
fn upstreams_may_be_secured() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let secured =
            Program::serve(driver, &["--tls-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key]);
        let port = secured.address_after("TLS on ").port();
        let file = |name: &str| {
            let ca = &authority.file;
            let listen = listen("127.0.0.1:0");
            let server = format!("[upstream.app]\nservers = [\"https://{name}:{port}\"]\nca = [\"{ca}\"]\n");
            [&listen, "[[route]]\nto = \"app\"\n", &server].concat()
        };
        let served = Served::start(driver, &file("localhost"));
        let mut client = connect_to(served.program.http());
        client.send(get("/plaintext"));
        assert_eq!(receive(&mut client).text(), "Hello, World!");
        // The same server by a name that its certificate does not have, and back.
        served.follow(&file("127.0.0.1"));
        client.send(get("/plaintext"));
        let reply = receive(&mut client);
        assert_eq!(reply.status, 502);
        assert!(reply.text().contains("could not be secured"), "{}", reply.text());
        served.follow(&file("localhost"));
        client.send(get("/plaintext"));
        assert_eq!(receive(&mut client).text(), "Hello, World!");
    });
}

/// Servers that speak HTTP/2 behind TLS, which is agreed on by ALPN and never taken for granted: a proxy each, which tells the same server in
/// which version it was asked.
#[test]
fn upstreams_of_http2_may_be_secured() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let counting = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let bytes = request.split_once("\r\n\r\n").unwrap().1.len().to_string();
                line.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{bytes}", bytes.len()));
            }
        });
        let strangers = [(); 2].map(|()| Authority::named("another authority"));
        let [cert, key] = authority.files(&["localhost"]);
        let mut engine = Engine::builder().config(common::config(driver));
        for alpn in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
            let config = TlsConfig::from_files(&cert, &key).with_alpn(alpn.iter().copied());
            let store = TlsStore::new(config).unwrap();
            let behind = ProxyConfig::new(vec![counting.address.clone()]);
            engine = engine.listen("127.0.0.1:0", move |_| {
                Tls::new(Proxy::new(behind.clone(), 1), store.clone()).with_peers(|_| None)
            });
        }
        let servers = engine.start().unwrap();
        let ports: Vec<u16> = servers.addresses().iter().map(|address| ip(address).port()).collect();
        let [both, old, none] = [0, 1, 2].map(|n| format!("localhost:{}", ports[n]));
        let nameless = format!("127.0.0.1:{}", ports[0]);
        let address = free();
        let file = |ca: &str| {
            let upstream = |(name, server, ca, protocol): (&str, &str, &str, &str)| {
                format!(
                    "[[route]]\nmatch = {{ path = \"/{name}\" }}\nto = \"{name}\"\n[upstream.{name}]\nservers = [\"https://{server}\"]\n\
                     ca = [\"{ca}\"]\nprotocol = \"{protocol}\"\nconnections = {{ keep_for = \"1m\" }}\n"
                )
            };
            let own = &authority.file;
            let upstreams = [
                ("app", &*both, ca, "h2"),
                ("nameless", &nameless, own, "h2"),
                ("old", &old, own, "h2"),
                ("none", &none, own, "h2"),
                ("one", &both, own, "http/1.1"),
            ];
            listen(&address.to_string()) + &upstreams.map(upstream).concat()
        };
        let served = Served::start(driver, &file(&authority.file));
        let mut client = connect_to(address);
        let serves = |client: &mut TcpStream, path: &str, version: &str| {
            for bytes in [0, 200_000] {
                client.send(post(path, &"x".repeat(bytes)));
                assert_eq!(receive(client).text(), bytes.to_string());
                let asked = counting.asked();
                let via: Vec<&str> = asked.lines().filter(|line| line.starts_with("via: ")).collect();
                assert_eq!(via, ["via: 1.1 ringmill", &format!("via: {version} ringmill")]);
            }
        };
        serves(&mut client, "/app", "2.0");
        assert_eq!(servers.stats().total().accepted, 1, "one connection for both");
        serves(&mut client, "/one", "1.1");
        // Who is not who it should be, and who speaks something else; what the log says of each.
        let refused = |client: &mut TcpStream, path: &str, why: &str| {
            client.send(get(path));
            let reply = receive(client);
            assert!(
                reply.status == 502 && reply.text().contains("could not be secured"),
                "{path}: {}",
                reply.head
            );
            let why = format!(": it could not be secured: {why}");
            let is_told = || {
                served.program.line_with(&why).is_some_and(|line| line.contains("WARN upstream 127.0.0.1:"))
            };
            eventually((path, true), || (path, is_told()));
        };
        refused(
            &mut client,
            "/nameless",
            "invalid peer certificate: certificate not valid for name \"127.0.0.1\"",
        );
        refused(&mut client, "/old", "received fatal alert: NoApplicationProtocol");
        refused(&mut client, "/none", "it did not agree on h2 (ALPN)");
        // The server that serves is trusted no longer: its connection is of no use to anybody, however often the file changes.
        for stranger in &strangers {
            served.follow(&file(&stranger.file));
            refused(&mut client, "/app", "invalid peer certificate: UnknownIssuer");
        }
        counting.expect_silence();
        served.follow(&file(&authority.file));
        serves(&mut client, "/app", "2.0");
    });
}

/// Names, weights, who stands by and cookies, by the file; and what a change of it leaves as it is.
#[test]
fn servers_may_be_names_and_have_weights() {
    on_both_drivers(|driver| {
        let (port, _upstreams) = Upstream::several(3);
        let at = |last: u8| format!("127.9.0.{last}:{port}");
        let a = |last| ("api.test", Record::A([127, 9, 0, last].into()));
        let names = NameServer::new(&[a(2)]);
        let authority = Authority::new();
        let [cert, key] = authority.files(&["secure.test"]);
        let secured =
            Program::serve(driver, &["--tls-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key]);
        let secret = authority.file.clone();
        let file = |servers: &str, keys: &str| {
            let dns = format!("[dns]\nresolver = \"{}\"\n", names.address);
            let upstream = format!("[upstream.app]\nservers = [{servers}]\n{keys}\n");
            [&dns, &listen("127.0.0.1:0"), "[[route]]\nto = \"app\"\n", &upstream].concat()
        };
        let name = format!("\"dns:api.test:{port}\"");
        let weighty = format!("{name}, {{ address = \"{}\", weight = 3 }}", at(3));
        let served = Served::start(driver, &file(&weighty, "balance = \"round-robin\""));
        let mut client = connect_to(served.program.http());
        let mut ask = |fields: &str| {
            client.send(format!("GET /plaintext HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            let reply = receive(&mut client);
            (reply.text().to_owned(), reply.field("set-cookie").map(str::to_owned))
        };
        let mut seen = Vec::new();
        (0..40).for_each(|_| seen.push(ask("").0));
        let third = seen.iter().filter(|said| **said == at(3)).count();
        assert!(third.abs_diff(30) <= 2 && seen.contains(&at(2)), "{seen:?}");
        names.tell(&[a(1)]);
        eventually(at(1), || ask("").0);
        // Nobody answers for it any more: the next plan goes on with what it was.
        names.tell(&[("secure.test", Record::A([127, 0, 0, 1].into()))]);
        let sticky =
            format!("balance = \"sticky\"\nsticky = {{ secret = \"file:{secret}\", cookie = \"home\" }}");
        let both = format!("{name}, \"{}\"", at(2));
        assert!(served.follow(&file(&both, &sticky)).contains(" was read again"));
        let (home, cookie) = ask("");
        let cookie = cookie.unwrap().split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("home=") && (home == at(1) || home == at(2)), "{cookie} {home}");
        assert!((0..10).all(|_| ask(&format!("Cookie: {cookie}\r\n")) == (home.clone(), None)));
        let spare = format!("\"127.0.0.1:1\", {{ address = \"{}\", backup = true }}", at(3));
        assert!(
            served
                .follow(&file(&format!("{spare}, {name}"), "eject = { after = 1, max_percent = 100 }"))
                .contains(" was read again")
        );
        names.tell(&[("secure.test", Record::A([127, 0, 0, 1].into())), a(1)]);
        assert!((0..10).all(|_| ask("").0 == at(1)));
        // A name whose servers speak TLS, as one that is known.
        let secure = format!("\"dns:https://secure.test:{}\"", secured.address_after("TLS on ").port());
        let keys = format!("ca = [\"{}\"]", authority.file);
        assert!(served.follow(&file(&secure, &keys)).contains(" was read again"));
        assert!((0..5).all(|_| ask("").0 == "Hello, World!"));
        // One that nobody knows.
        assert!(served.follow(&file("\"dns:nobody.test:1\"", "")).contains("nobody.test has no answer"));
        assert_eq!(ask("").0, "Hello, World!");
    });
}

/// A key may come from the environment; without it nothing is served.
#[test]
fn a_key_may_be_in_a_variable() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let directory = Directory::new();
        let file = directory.file("ringmill.toml");
        let tls = format!("tls = [{{ cert = \"{cert}\", key = \"env:SHOP_KEY\" }}]\n");
        let server = format!("[server]\nworkers = 1\npin = \"off\"\ndriver = \"{driver}\"\n");
        let text = [&server, &listen("127.0.0.1:0"), tls.as_str(), "[[route]]\nreply = { status = 200 }\n"];
        std::fs::write(&file, text.concat()).unwrap();
        let command = |key: &str| {
            let mut command = ringmill();
            command.args(["serve", "--config", &file]).env("SHOP_KEY", key);
            command
        };
        let program = Program::start(command(&std::fs::read_to_string(&key).unwrap()), "worker(s) on CPU");
        let line = program.line_with("TLS on ").unwrap();
        let address = line.split("TLS on ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
        let trusting = authority.client(rustls::ALL_VERSIONS);
        secure(address, &trusting, "localhost").unwrap();
        let (code, _, errors) = run(command("nothing"));
        assert_eq!(code, Some(1));
        assert!(errors.contains("env:SHOP_KEY") && errors.contains("look for BEGIN PRIVATE KEY"), "{errors}");
    });
}

/// A GET from an address of this machine, on a connection of its own; `None` where that is closed without an answer.
fn asked_from(last: u8, to: SocketAddr) -> Option<TcpStream> {
    let mut client = connect_from([127, 0, 0, last], to).ok()?;
    client.write_all(get("/").as_bytes()).ok()?;
    let mut first = [0; 12];
    client.read_exact(&mut first).ok()?;
    assert_eq!(&first, b"HTTP/1.1 200");
    Some(client)
}

#[test]
fn a_listener_lets_in_whom_the_file_lets_in() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let list = directory.file("deny.txt");
        std::fs::write(&list, "# nobody\n127.0.0.9\n").unwrap();
        let [denying, allowing, behind] = [free(), free(), free()];
        let text = [
            listen(&denying.to_string()),
            format!("deny = [\"{list}\", \"127.0.0.8\"]\nconnections_per_ip = 3\nconnections_per_prefix = 6\n"),
            listen(&allowing.to_string()),
            "allow = \"127.0.0.4/30\"\nnew_connections_per_ip = \"2/h\"\n".to_owned(),
            listen(&behind.to_string()),
            "proxy_protocol = [\"127.0.0.0/8\"]\ndeny = [\"198.51.100.0/24\", \"127.0.0.0/8\"]\nconnections_per_ip = 1\n".to_owned(),
            "[[route]]\nreply = { status = 200 }\n".to_owned(),
        ];
        let text = text.concat();
        let served = Served::start(driver, &text);
        assert!(asked_from(9, denying).is_none() && asked_from(8, denying).is_none());
        let mut inside: Vec<TcpStream> = (0..3).filter_map(|_| asked_from(2, denying)).collect();
        assert_eq!(inside.len(), 3);
        assert!(asked_from(2, denying).is_none(), "it has three");
        inside.extend((3..6).filter_map(|last| asked_from(last, denying)));
        assert_eq!(inside.len(), 6);
        assert!(asked_from(7, denying).is_none(), "its network has six");

        assert!(asked_from(3, allowing).is_none() && asked_from(8, allowing).is_none());
        let answers = [4, 5, 4, 4, 5, 5, 6].map(|last| asked_from(last, allowing).is_some());
        assert_eq!(answers, [true, true, true, false, true, false, true]);

        let told = |client: &str| {
            let mut stream = connect_to(behind);
            stream.send(format!("PROXY TCP4 {client} 127.0.0.1 1 2\r\n{}", get("/")));
            let mut first = [0; 12];
            stream.read_exact(&mut first).is_ok().then_some(stream)
        };
        let _held = told("203.0.113.1").expect("its proxy's address is not its own");
        assert!(told("203.0.113.1").is_none() && told("198.51.100.1").is_none());
        assert!(told("203.0.113.2").is_some());

        // Files are read again, while others come and go; who is in stays in, and is still counted.
        let networks: String = (0..20_000).map(|n| format!("10.{}.{}.0/25\n", n / 256, n % 256)).collect();
        inside.drain(3..);
        eventually(true, || asked_from(7, denying).is_some());
        let (is_over, served_meanwhile) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(asked_from(6, denying).is_some(), "nobody denies it");
                    served_meanwhile.fetch_add(1, Ordering::Relaxed);
                }
            });
            let ends = SetWhenDropped(&is_over);
            for round in 0..5 {
                std::fs::write(&list, format!("{networks}127.0.0.{}\n", 10 + round)).unwrap();
                let said = served.follow(&text);
                assert!(said.contains(&format!("{denying} changes")), "{said}");
                // Each worker has it within a turn.
                eventually(true, || asked_from(10 + round, denying).is_none());
                eventually(true, || asked_from(9, denying).is_some());
            }
            drop(ends);
            others.join().unwrap();
        });
        assert!(served_meanwhile.load(Ordering::Relaxed) > 5);
        assert!(asked_from(2, denying).is_none(), "it still has three");
        for client in &mut inside {
            client.write_all(get("/").as_bytes()).unwrap();
        }
        // A list with a mistake is told of, and the one before holds on.
        std::fs::write(&list, "127.0.0.7\nnobody\n10.0.0.1/8\n").unwrap();
        let said = served.follow(&text);
        assert!(said.contains("cannot be followed"), "{said}");
        let lines = served.program.lines();
        for (line, problem) in [(2, "\"nobody\": expected a network"), (3, "has bits behind its prefix")] {
            let told = format!("{list}:{line}: ");
            assert!(lines.iter().any(|it| it.contains(&told) && it.contains(problem)), "{lines:?}");
        }
        assert!(asked_from(7, denying).is_some() && asked_from(14, denying).is_none());
        assert!(lines.iter().any(|line| line.contains("its address is denied")), "{lines:?}");
    });
}

#[test]
fn a_route_takes_as_many_requests_as_it_may() {
    on_both_drivers(|driver| {
        let app = Upstream::honest();
        let route = |keys: &str, rate: &str| format!("[[route]]\n{keys}\nrate = {rate}\n");
        let text = [
            "[limits]\ntrust = [\"127.0.0.8\"]\n".to_owned(),
            listen("127.0.0.1:0"),
            route(
                "match = { host = \"test\", path = \"/key\" }\nreply = { status = 203 }",
                "{ per = \"field:X-Key\", limit = \"2/h\" }",
            ),
            route(
                "match = { host = \"test\", path = \"/all\" }\nreply = { status = 203 }",
                "{ per = \"route\", limit = \"1/h\", burst = 3 }",
            ),
            route(
                "match = { host = [\"test\", \"a.test\"] }\nto = \"app\"\nmax_body = 3",
                "{ limit = \"3/h\" }",
            ),
            upstream("app", &[&app]),
        ];
        let text = text.concat();
        let served = Served::start(driver, &text);
        let mut clients: Vec<TcpStream> = (0..10_u8)
            .map(|last| connect_from([127, 0, 0, last.max(1)], served.program.http()).unwrap())
            .collect();
        let mut ask = |from: usize, host: &str, path: &str, fields: &str| {
            clients[from]
                .send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{}\r\n", fields.replace('~', "\r\n")));
            let reply = receive(&mut clients[from]);
            let after = reply.field("retry-after").map(|secs| secs.parse::<u64>().unwrap());
            assert_eq!(after.is_some(), reply.status == 429, "{}", reply.head);
            (reply.status, after.unwrap_or(0))
        };
        let mut check = |from: usize, path: &str, fields: &str, expected: &[u16]| {
            let statuses: Vec<u16> = expected.iter().map(|_| ask(from, "test", path, fields).0).collect();
            assert_eq!(statuses, expected, "{path} from {from} with {fields}");
        };
        check(2, "/", "", &[200, 200, 200, 429, 429]);
        check(3, "/", "X-Forwarded-For: 6.6.6.6~", &[200, 200, 200, 429]);
        check(3, "/", "X-Forwarded-For: 7.7.7.7~", &[429]);
        // A trusted proxy says for whom it asks.
        check(8, "/", "X-Forwarded-For: 6.6.6.6, 192.0.2.1~", &[200, 200, 200, 429]);
        check(8, "/", "X-Forwarded-For: 7.7.7.7, 192.0.2.1, 127.0.0.8~", &[429]);
        check(8, "/", "X-Forwarded-For: 192.0.2.2~", &[200]);
        check(8, "/", "", &[200]);
        check(2, "/all", "", &[203, 203]);
        check(4, "/all", "", &[203, 429]);
        check(4, "/key", "X-Key: a~", &[203, 203, 429]);
        check(5, "/key", "x-key: a~", &[429]);
        check(5, "/key", "x-key: b~", &[203]);
        check(5, "/key", "", &[203, 203, 429]);
        check(6, "/key", "", &[203]);
        let (status, after) = ask(2, "test", "/", "");
        // A third of an hour, less what has passed meanwhile.
        assert!(status == 429 && (1000..=1200).contains(&after), "{after}");
        // Another file, in which this route is as it was but for a host: what was counted goes on.
        let said = served.follow(&text.replace("\"a.test\"", "\"b.test\"").replace("\"2/h\"", "\"3/h\""));
        assert!(said.contains("was read again"), "{said}");
        let after = [ask(2, "test", "/", "").0, ask(3, "test", "/", "").0, ask(4, "test", "/all", "").0];
        assert_eq!((after, ask(2, "b.test", "/", "").0), ([429; 3], 429));
        // With another limit it begins anew.
        assert_eq!([(); 4].map(|()| ask(4, "test", "/key", "X-Key: a~").0), [203, 203, 203, 429]);
        // A body in chunks is limited as well, wherever it is cut.
        for body in ["4\r\nabcd\r\n0\r\n\r\n", "2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"] {
            let mut client = connect_from([127, 0, 0, 7], served.program.http()).unwrap();
            client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send(body);
            assert_eq!(receive(&mut client).status, 413, "{body:?}");
        }
        let mut client = connect_from([127, 0, 0, 7], served.program.http()).unwrap();
        client.send(common::http::post_chunked("/", "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"));
        assert_eq!(receive(&mut client).text(), "/ 2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
        // Behind a body that nobody reads the connection ends.
        let mut client = connect_from([127, 0, 0, 7], served.program.http()).unwrap();
        client.send(post("/", "abc"));
        let reply = receive(&mut client);
        assert!(reply.status == 429 && reply.head.contains("connection: close"), "{}", reply.head);
    });
}

/// Each mistake is told at its place, with what would be right; all of them at once.
#[test]
fn mistakes_are_told_where_they_stand() {
    let directory = Directory::new();
    let file = directory.file("bad.toml");
    let check = |text: &str, expected: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut command = ringmill();
        command.args(["check", &file]);
        let (code, _, errors) = run(command);
        assert_eq!(code, Some(1), "{text}");
        let problems = errors.matches("\nerror: ").count();
        let told = if problems == 1 { "1 problem\n".to_owned() } else { format!("{problems} problems\n") };
        assert!(errors.contains(&told) && problems <= expected.len(), "{text}\n{errors}");
        for expected in expected {
            assert!(errors.contains(expected), "{expected:?} is not in\n{errors}");
        }
        let mut command = ringmill();
        command.args(["serve", "--config", &file]);
        let (code, _, same) = run(command);
        assert_eq!((code, same), (Some(1), errors), "{text}");
    };
    const GOOD: &str =
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nto = \"a\"\n[upstream.a]\nservers = [\"1\"]\n";
    let with = |text: &str| format!("{text}\n{GOOD}");
    let behind = |text: &str| format!("{GOOD}\n{text}\n");
    check("a = ", &["bad.toml:1:"]);
    check("", &["there is nothing to listen on", "there is no route"]);
    check(&with("[servr]"), &["the file has no key `servr`\n --> ", "did you mean `server`?"]);
    check(
        &with("[server]\nwoker = 1\nxyz = 2"),
        &["did you mean `workers`?", "known are `connect_timeout`, `drain`"],
    );
    check(&with("[server]\nworkers = 0"), &["0 workers can serve nobody"]);
    check(&with("[server]\nworkers = true"), &["expected a number, or \"auto\""]);
    check(&with("[server]\nmax_connections = 0"), &["connections_max is 0"]);
    check(
        &with("[error_pages]\n404 = \"/nowhere/404.html\"\n200 = \"/x\""),
        &["/nowhere/404.html: ", "\"200\" is no status of an error"],
    );
    check(&with("[access_log]\nto = \"/x\""), &["is neither stdout nor file:PATH"]);
    check(&with("[access_log]\nto = \"stdout\"\nsample = 2"), &["is no part of all"]);
    let no_log = "no access log in /nowhere/a.log: No such file";
    check(&with("[access_log]\nto = \"file:/nowhere/a.log\""), &[no_log]);
    check(&with("[access_log]\nto = \"file:/\""), &["no access log in /: Is a directory"]);
    check(&with("[ids]\nrequest = \"all\""), &["is none of off, upstream and both"]);
    check(
        "[server]\nstats = \"127.0.0.1:1\"\n[[listen]]\naddress = \"127.0.0.1:1\"\n[[route]]\nreply = { status = 200 }\n",
        &["`server.stats` and a listener are both 127.0.0.1:1"],
    );
    check(&with("[limits]\nhead_timeout = \"soon\""), &["expected a duration such as 10, 10s"]);
    check(&with("[limits]\ntrust = [\"10.0.0.1/8\"]"), &["has bits behind its prefix"]);
    check(
        &with("[http2]\nstreams = 0\nwindow = \"1KiB\""),
        &["`http2.streams` is 0", "`http2.window` is 1024 bytes", "from 65535 to 2147483647 bytes"],
    );
    check(
        "[server]\npin = \"of\"\n[[listen]]\naddress = \"x\"\n[[route]]\nto = 1\n[upstream.a]\nservers = [\"1\", \"ftp://a\"]\n",
        &[
            "bad CPU list",
            "expected IP:PORT",
            "invalid type: integer `1`, expected a string",
            "unknown scheme \"ftp\"",
        ],
    );
    check(
        &behind("[[listen]]\naddres = \"127.0.0.1:1\""),
        &["did you mean `address`?", "missing field `address`"],
    );
    check(
        &behind("[[listen]]\naddress = \"127.0.0.1:1\"\n[[listen]]\naddress = \"127.0.0.1:1\""),
        &["127.0.0.1:1 is listed twice"],
    );
    check(&behind("[[listen]]\naddress = \"127.0.0.1:1\"\ntls = []"), &["there is no certificate"]);
    check(
        &behind("[[listen]]\naddress = \"127.0.0.1:1\"\ntls_min = 1.3"),
        &["`tls_min` and `client_ca` are for TLS"],
    );
    check(
        &behind(
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = [{ cert = \"/nowhere/c\", key = \"/nowhere/k\" }]",
        ),
        &["/nowhere/c"],
    );
    check(
        &behind("[[listen]]\naddress = \"unix:./x\"\ndeny = \"10.0.0.0/8\""),
        &["peers of a Unix socket have no address"],
    );
    check(
        &behind(
            "[[listen]]\naddress = \"127.0.0.1:1\"\nconnections_per_ip = 0\ndeny = [\"/nowhere/a\", \"/nowhere/b\"]",
        ),
        &["`connections_per_ip` is 0", "cannot read /nowhere/a", "cannot read /nowhere/b"],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x\" }\nto = \"a\"\nrate = { per = \"ip\", limit = \"1/s\" }"),
        &["expected \"client\", \"route\" or \"field:NAME\""],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x\" }\nto = \"a\"\nrate = { limit = \"1/s\", burst = 0 }"),
        &["`burst` is 0"],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x\" }\nreply = { status = 200 }\nbuffer = \"64KiB\""),
        &["`buffer` is for requests that are given to a server"],
    );
    check(
        &behind("[[listen]]\naddress = \"127.0.0.1:1\"\nallow = \"all\""),
        &["a file of them begins with / or ./"],
    );
    check(
        &behind("[[listen]]\naddress = \"127.0.0.1:1\"\nnew_connections_per_ip = 100"),
        &["expected a rate such as 100/s"],
    );
    check(&with("[[route]]\nto = \"b\""), &["no upstream is called \"b\"", "did you mean \"a\"?"]);
    check(&with("[[route]]\nmatch = { path = \"/x\" }"), &["route 1 leads nowhere"]);
    check(
        &with("[[route]]\nmatch = { path = \"/x\" }\nto = \"a\"\nreply = { status = 200 }"),
        &["route 1 leads to several targets"],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x\", exact = \"/y\" }\nto = \"a\""),
        &["`path` and `exact` exclude each other"],
    );
    check(
        &with("[[route]]\nmatch = { path = \"/x/../y\" }\nto = \"a\""),
        &["\"/x/../y\" is compared as \"/y\": write that"],
    );
    check(&with("[[route]]\nmatch = { path = \"x\" }\nto = \"a\""), &["\"x\" is no path"]);
    check(&with("[[route]]\nmatch = { host = \"x:80\" }\nto = \"a\""), &["without their ports"]);
    check(&with("[[route]]\nmatch = { method = \"G T\" }\nto = \"a\""), &["\"G T\" is no method"]);
    check(&with("[[route]]\nto = \"a\""), &["route 2 matches the same as route 1"]);
    check(
        &with("[[route]]\nmatch = { exact = \"/x\" }\nreply = { status = 204 }"),
        &["204 is no status for this"],
    );
    check(
        &with("[[route]]\nmatch = { exact = \"/x\" }\nredirect = { to = \"new.test\" }"),
        &["is no address to send clients to"],
    );
    check(
        &with("[[route]]\nmatch = { exact = \"/x\" }\nredirect = { to = \"/y\", status = 200 }"),
        &["200 is no redirect"],
    );
    check(&behind("[upstream.b]\nservers = [\"1\"]\nbalance = \"best\""), &["hash-field:NAME"]);
    check(&behind("[upstream.b]\nservers = [\"1\"]\nhealth = { path = \"up\" }"), &["is no path"]);
    check(&behind("[upstream.b]\nservers = []"), &["upstream \"b\" has no server"]);
    check(
        &behind("[upstream.b]\nservers = [\"1\"]\nretry = { tries = 0 }"),
        &["retry.tries of upstream \"b\" is 0"],
    );
    check(&behind("[upstream.b]\nservers = [\"1\"]\nca = [\"/x\"]"), &["`ca` is for servers that speak TLS"]);
    check(
        &behind("[upstream.b]\nservers = [\"https://127.0.0.1\"]\nca = [\"/nowhere/ca\"]"),
        &["/nowhere/ca"],
    );
    let sticky = |keys: &str| behind(&format!("[upstream.b]\nservers = [\"1\"]\n{keys}"));
    check(&sticky("balance = \"sticky\""), &["its cookie has no secret"]);
    check(&sticky("sticky = { secret = \"env:PATH\" }"), &["is for `balance = \"sticky\"`"]);
    check(&sticky("sticky = { secret = \"0123456789abcdef\" }"), &["expected a secret as \"file:"]);
    check(&sticky("balance = \"sticky\"\nsticky = { secret = \"env:NOBODY_HAS_IT\" }"), &["NOBODY_HAS_IT"]);
    check(&sticky("balance = \"sticky\"\nsticky = { secret = \"file:/dev/null\" }"), &["16 bytes"]);
    check(&behind("[upstream.b]\nservers = [{ address = \"1\", weight = 0 }]"), &["a weight is 0"]);
    check(&behind("[upstream.b]\nservers = [{ address = \"1\", weigth = 2 }]"), &["did you mean `weight`?"]);
    check(&behind("[upstream.b]\nservers = [{ weight = 2 }]"), &["missing field `address`"]);
    check(&behind("[upstream.b]\nservers = [\"dns:a\"]"), &["neither HOST:PORT nor a service"]);
    check(&with("[dns]\nmin_ttl = \"2s\""), &["no server is a name that is looked up"]);
    check(&with("[dns]\nresolver = \"ns.test\""), &["is no IP:PORT"]);
    check(
        &behind("[upstream.b]\nservers = [\"1\"]\nconnections = { mx = 1 }"),
        &["`upstream.b.connections` has no key `mx`"],
    );
    let tcp = |table: &str, more: &str| {
        behind(&format!("[[listen]]\naddress = \"127.0.0.1:1\"\ntcp = {{ {table} }}\n{more}"))
    };
    check(&tcp("", ""), &["`tcp` leads nowhere"]);
    check(&tcp("to = \"b\"", ""), &["no upstream is called \"b\"", "did you mean \"a\"?"]);
    check(
        &tcp("sni = { \"a:1\" = \"a\", \"b.test\" = \"xyz\" }", "redirect_to_https = 1"),
        &["without their ports", "there is no [upstream.xyz]", "leave out `redirect_to_https` here"],
    );
    check(
        &tcp("sni = { \"b.test\" = \"a\" }", "tls = [{ cert = \"/nowhere/c\", key = \"/nowhere/k\" }]"),
        &["TLS is either opened here", "/nowhere/c"],
    );
    let b = "[upstream.b]\nservers = [\"1\"]\n";
    check(&tcp("to = \"b\"", &format!("{b}proxy_protocol = 3")), &["1 or 2"]);
    check(&behind(&format!("{b}proxy_protocol = 1")), &["no listener of `tcp` goes to this upstream"]);
    check(
        &with(&format!("[[route]]\nmatch = {{ path = \"/x\" }}\nto = \"b\"\n{b}proxy_protocol = 1")),
        &["requests of many clients"],
    );
    check(
        &tcp("to = \"b\"", &format!("{b}balance = \"hash-path\"")),
        &["`balance` asks for requests", "such as \"hash-client\""],
    );
    let (code, output, _) = {
        std::fs::write(&file, GOOD).unwrap();
        let mut command = ringmill();
        command.args(["check", &file]);
        run(command)
    };
    assert_eq!((code, output.contains("is good: 1 listener(s), 1 route(s), 1 upstream(s)")), (Some(0), true));
}

#[test]
fn a_request_is_explained() {
    let directory = Directory::new();
    let file = directory.file("ringmill.toml");
    let text = "[limits]\ntrust = [\"10.0.0.0/8\"]\n[http2]\nstreams = 7\n[[listen]]\naddress = \"127.0.0.1:8080\"\n[[route]]\nto = \"app\"\n\
                [[route]]\nmatch = { host = \"*.test\", path = \"/api\", method = \"POST\" }\nto = \"app\"\nmax_body = \"1KiB\"\nbuffer = 500\n\
                [[route]]\nmatch = { exact = \"/old\" }\nredirect = { to = \"https://new.test\" }\n\
                [upstream.app]\n\
                servers = [\"dns:https://app.test\", { address = \"127.0.0.1:3000\", weight = 2, backup = true }]\n\
                balance = \"sticky\"\nsticky = { secret = \"env:PLACE\" }\n";
    std::fs::write(&file, text).unwrap();
    let check = |arguments: &[&str], expected: &[&str]| {
        let mut command = ringmill();
        command.args(["explain", "--config", &file]).args(arguments).env("PLACE", "sixteen bytes it is");
        let (code, output, errors) = run(command);
        assert_eq!(code, Some(0), "{errors}");
        for line in expected {
            assert!(output.lines().any(|found| found.trim_end() == *line), "{line:?} is not in\n{output}");
        }
    };
    let spoof = ["--field", "X-Forwarded-For: 6.6.6.6", "--field", "Connection: x-a", "--field", "X-A: b"];
    check(
        &[&["POST", "http://A.Test:80/x/../%61pi/?q"][..], &spoof].concat(),
        &[
            "listener  127.0.0.1:8080",
            "route     route 2: host *.test, path /api and below, POST",
            "          route 1: any host, any path: matches too, and comes behind it",
            "upstream  app: dns:app.test:443 (TLS as app.test), 127.0.0.1:3000 weight 2 (backup)",
            "          the one that the cookie ringmill names",
            "limits    1024 bytes of body, of which 500 are taken in first; 500 connections a server, 1000 waiting for 5s",
            "HTTP/2    7 at once, 16384 bytes of fields, 100 taken back a second",
            "request   POST /api/?q HTTP/1.1",
            "          - Host: A.Test:80",
            "          - X-Forwarded-For: 6.6.6.6",
            "          - X-A: b",
            "          + host: a.test",
            "          + x-forwarded-for: 192.0.2.1",
            "          + via: 1.1 ringmill",
        ],
    );
    check(
        &["GET", "http://a.test/api", "--client", "10.1.1.1", "--field", "X-Forwarded-For: 7.7.7.7"],
        &[
            "route     route 1: any host, any path",
            "          route 2: host *.test, path /api and below, POST: not for this method",
            "            x-forwarded-for: 7.7.7.7",
            "          + x-forwarded-for: 10.1.1.1",
        ],
    );
    check(&["GET", "http://a.test/old?x"], &["answer    308, to https://new.test/old?x"]);
    check(&["GET", "https://a.test/"], &["listener  none: no address of the file speaks https"]);
    check(
        &["GET", "http://a.test/x%2f..%2fold"],
        &["answer    400: an escaped slash in the path decides where the request goes"],
    );
    check(
        &["GET", "http://a.test/x y"],
        &[
            "answer    400: The request line must end in HTTP/1.1 or HTTP/1.0 and nothing after it (RFC 9112 section 2.3).",
        ],
    );
}

/// What did not change goes on, also the connections with upstreams; what did, changes for the next request.
#[test]
fn a_change_is_followed_and_the_rest_goes_on() {
    on_both_drivers(|driver| {
        let (one, two) = (Upstream::honest(), Upstream::honest());
        let (first, second) = (free(), free());
        let route = |to: &str| format!("[[route]]\nto = \"{to}\"\n");
        let upstreams = [kept("one", &one), kept("two", &two)].concat();
        let file = |listeners: &[SocketAddr], to: &str| {
            let listeners: String = listeners.iter().map(|address| listen(&address.to_string())).collect();
            [listeners, route(to), upstreams.clone()].concat()
        };
        let served = Served::start(driver, &file(&[first], "one"));
        let mut client = connect_to(first);
        let ask = |client: &mut TcpStream, target: &str| {
            client.send(get(target));
            assert_eq!(receive(client).text(), format!("{target} "));
        };
        ask(&mut client, "/1");
        // Another upstream, and another address.
        let said = served.follow(&file(&[first, second], "two"));
        assert!(said.contains(&format!("listening on {second}")), "{said}");
        ask(&mut client, "/2");
        let mut other = connect_to(second);
        ask(&mut other, "/3");
        assert_eq!((one.accepted(), two.accepted()), (1, 1));
        // Back again: the connection of before is still there.
        let said = served.follow(&file(&[second], "one"));
        assert!(said.contains(&format!("{first} is closed")), "{said}");
        ask(&mut client, "/4");
        ask(&mut other, "/5");
        assert_eq!((one.accepted(), two.accepted()), (1, 1), "connections with upstreams are kept");
        eventually(true, || TcpStream::connect(first).is_err());
        // A mistake changes nothing, and is told with its place.
        let said = served.follow(&file(&[first, second], "three"));
        assert!(said.contains("cannot be followed, so what held before holds on"), "{said}");
        eventually(true, || served.program.line_with("no upstream is called \"three\"").is_some());
        assert!(TcpStream::connect(first).is_err());
        ask(&mut client, "/6");
        // So does an address that cannot be had, although another one could.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let said = served.follow(&file(&[first, taken.local_addr().unwrap()], "two"));
        assert!(said.contains("in use"), "{said}");
        ask(&mut other, "/7");
        assert_eq!((one.accepted(), two.accepted()), (1, 1));
        eventually(true, || TcpStream::connect(first).is_err());
        // What needs a restart says so.
        let text = file(&[second], "one").replace("[[route]]", "[limits]\nhalf_close = true\n[[route]]");
        served.follow(&text);
        std::fs::write(&served.file, format!("[server]\nworkers = 2\n{text}")).unwrap();
        let before = served.followed();
        served.program.signal(libc::SIGHUP);
        eventually(true, || served.followed() > before);
        assert!(
            served
                .program
                .line_with("server.driver, server.pin, server.workers changed, which needs a restart")
                .is_some()
        );
        ask(&mut client, "/8");
    });
}

/// What a client of HTTP/2 may do holds for its connection: a change is for those that come behind it.
#[test]
fn a_change_of_http2_is_for_new_connections() {
    on_both_drivers(|driver| {
        let (upstream, address) = (Upstream::honest(), free());
        let file = |table: &str| {
            let route = "[[route]]\nto = \"app\"\n";
            [&listen(&address.to_string()), route, &kept("app", &upstream), "[http2]\n", table].concat()
        };
        let connect = || {
            let mut client = connect_to(address);
            client.send([PREFACE, &frame(SETTINGS, 0, 0, b"")].concat());
            let settings = read_frame(&mut client).unwrap();
            assert_eq!(settings.kind, SETTINGS);
            let streams = settings.payload.chunks(6).find(|setting| setting[1] == 3).unwrap()[5];
            (client, streams)
        };
        // Whether a request with 2 KiB of fields is answered with 200.
        let takes_much = |client: &mut TcpStream, stream: u32| {
            let much = frames::field("a", &"x".repeat(100)).repeat(20);
            let head = [frames::block("GET", "/"), much].concat();
            client.send(frame(HEADERS, END_HEADERS | 1, stream, &head));
            let mut answers = std::iter::repeat_with(|| read_frame(client).unwrap());
            answers.find(|frame| frame.kind == HEADERS).unwrap().payload[0] == STATUS_200
        };
        let served = Served::start(driver, &file("streams = 7\n"));
        let (mut old, streams) = connect();
        assert!(streams == 7 && takes_much(&mut old, 1));
        served.follow(&file("streams = 5\nmax_fields = \"1KiB\"\n"));
        let (mut new, streams) = connect();
        assert!(streams == 5 && !takes_much(&mut new, 1));
        assert!(takes_much(&mut old, 3), "it was told otherwise");
        // A mistake changes nothing.
        assert!(served.follow(&file("streams = 0\n")).contains("cannot be followed"));
        assert_eq!(connect().1, 5);
    });
}

/// A listener that begins to speak TLS keeps its address; who is connected goes on as before.
#[test]
fn a_listener_may_become_another_one() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let (app, address) = (Upstream::honest(), free());
        let rest = ["[[route]]\nto = \"app\"\n", &kept("app", &app)].concat();
        let plain = [listen(&address.to_string()), rest.clone()].concat();
        let tls = format!("tls = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n");
        let served = Served::start(driver, &plain);
        let mut before = connect_to(address);
        before.send(get("/1"));
        assert_eq!(receive(&mut before).text(), "/1 ");
        let said = served.follow(&[&listen(&address.to_string()), &tls, rest.as_str()].concat());
        assert!(said.contains(&format!("{address} changes")), "{said}");
        let trusting = authority.client(rustls::ALL_VERSIONS);
        let mut secured = secure(address, &trusting, "localhost").unwrap();
        secured.write_all(get("/2").as_bytes()).unwrap();
        let mut start = [0; 15];
        secured.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        before.send(get("/3"));
        assert_eq!(receive(&mut before).text(), "/3 ");
        assert_eq!(app.accepted(), 1, "all of them share connections with the upstream");
        served.follow(&plain);
        let mut after = connect_to(address);
        after.send(get("/4"));
        assert_eq!(receive(&mut after).text(), "/4 ");
    });
}

#[test]
fn a_file_may_be_watched() {
    on_both_drivers(|driver| {
        let text = |body: &str| {
            [
                &listen("127.0.0.1:0"),
                format!("[[route]]\nreply = {{ status = 200, body = \"{body}\" }}\n").as_str(),
            ]
            .concat()
        };
        let served = Served::start_with(driver, "watch = \"50ms\"", &text("one"));
        let mut client = connect_to(served.program.http());
        client.send(get("/"));
        assert_eq!(receive(&mut client).text(), "one");
        served.write(&text("three"));
        eventually("three".to_owned(), || {
            client.send(get("/"));
            receive(&mut client).text().to_owned()
        });
    });
}

/// Five times under load another file, with another listener, other upstreams and other routes each time, so that nothing of the one before
/// is left but who is connected: no client that is connected
/// notices, be it at work or idle, with HTTP or a WebSocket, and none that connects is turned away.
#[test]
fn changes_under_load_lose_nobody() {
    on_both_drivers(|driver| {
        const CLIENTS: usize = 16;
        const IDLE: usize = 20;
        const SOCKETS: usize = 8;
        const CHANGES: usize = 5;
        let app = Program::serve(driver, &["--ws-origin", "any"]);
        let address = free();
        let file = |change: usize| {
            let extra = free();
            [
                listen(&address.to_string()),
                listen(&extra.to_string()),
                format!("[[route]]\nmatch = {{ path = \"/only/{change}\" }}\nreply = {{ status = 200 }}\n"),
                format!("[[route]]\nto = \"app{}\"\n", change % 2),
                format!(
                    "[upstream.app0]\nservers = [\"{}\"]\nretry = {{ tries = {} }}\n",
                    app.http(),
                    change + 2
                ),
                format!(
                    "[upstream.app1]\nservers = [\"{}\"]\nretry = {{ tries = {} }}\n",
                    app.http(),
                    change + 2
                ),
            ]
            .concat()
        };
        let served = Served::start_with(driver, "", &file(0));
        let (is_over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        let ask = |client: &mut TcpStream| {
            client.send(get("/plaintext"));
            let reply = receive(client);
            assert_eq!((reply.status, reply.text()), (200, "Hello, World!"));
            assert!(!reply.head.contains("connection: close"), "{}", reply.head);
            done.fetch_add(1, Ordering::Relaxed);
        };
        let mut idle: Vec<TcpStream> = (0..IDLE).map(|_| connect_to(address)).collect();
        idle.iter_mut().for_each(ask);
        std::thread::scope(|scope| {
            let ends = SetWhenDropped(&is_over);
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = connect_to(address);
                    while !is_over.load(Ordering::Relaxed) {
                        ask(&mut client);
                    }
                });
            }
            for _ in 0..SOCKETS {
                scope.spawn(|| {
                    let mut socket = ws::open(address, "/ws");
                    while !is_over.load(Ordering::Relaxed) {
                        socket.send(ws::text("hello"));
                        assert_eq!(ws::receive(&mut socket), ws::Frame(0x81, b"hello".to_vec()));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                // Fresh ones, all the time.
                while !is_over.load(Ordering::Relaxed) {
                    ask(&mut connect_to(address));
                }
            });
            for change in 1..=CHANGES {
                std::thread::sleep(Duration::from_millis(100));
                let said = served.follow(&file(change));
                assert!(said.contains("was read again"), "{said}");
                let before = done.load(Ordering::Relaxed);
                eventually(true, || done.load(Ordering::Relaxed) > before + CLIENTS);
            }
            drop(ends);
        });
        idle.iter_mut().for_each(ask);
        assert_eq!(served.followed(), CHANGES);
    });
}

/// What is known of servers outlives the plan that it was learnt by.
#[test]
fn who_is_down_is_so_in_the_next_plan_too() {
    on_both_drivers(|driver| {
        let said = |is_well: bool, text: &'static str| {
            Upstream::new(move |line| {
                while let Some(request) = line.request() {
                    let status = if is_well || !request.starts_with("GET /up ") { 200 } else { 503 };
                    let length = text.len();
                    line.try_send(format!(
                        "HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n{text}"
                    ));
                }
            })
        };
        let (sick, spare) = (said(false, "sick"), said(true, "spare"));
        let text = |tries: u8, every: &str| {
            format!(
                "{}[[route]]\nto = \"app\"\n{}backup = [\"{}\"]\nbalance = \"hash-field:x-user\"\nretry = {{ tries = {tries} }}\n\
                 health = {{ path = \"/up\", every = \"{every}\", timeout = \"1s\" }}\n",
                listen("127.0.0.1:0"),
                upstream("app", &[&sick]),
                spare.address
            )
        };
        let served = Served::start(driver, &text(2, "20ms"));
        eventually(true, || served.program.line_with("down, say 3 checks").is_some());
        let mut client = connect_to(served.program.http());
        let mut ask = || {
            client.send(get("/"));
            receive(&mut client).text().to_owned()
        };
        assert_eq!(ask(), "spare");
        // Checks of this one come too late to say anything again.
        let followed = served.follow(&text(3, "1h"));
        assert!(followed.contains("was read again"), "{followed}");
        assert!((0..20).all(|_| ask() == "spare"));
        // Where nothing is checked any more, nobody is down.
        let unchecked =
            text(3, "1h").lines().filter(|line| !line.starts_with("health")).collect::<Vec<_>>().join("\n");
        served.follow(&unchecked);
        eventually(true, || ask() == "sick");
    });
}

/// What is there when a file is moved away and another one is asked for; lines of every request, in the format that holds.
#[test]
fn an_access_log_is_opened_again() {
    on_both_drivers(|driver| {
        let (app, directory) = (Upstream::honest(), Directory::new());
        let [file, moved] = ["access.log", "access.log.1"].map(|name| directory.file(name));
        let rest = [
            listen("127.0.0.1:0"),
            "[[route]]\nto = \"app\"\n[[route]]\nmatch = { exact = \"/own\" }\nreply = { status = 200 }\n"
                .to_owned(),
            upstream("app", &[&app]),
        ];
        let with = |table: &str| format!("[access_log]\nto = \"file:{file}\"\n{table}{}", rest.concat());
        let mut served = Served::start(driver, &with(""));
        let mut client = connect_to(served.program.http());
        let mut ask = |target: &str| {
            client.send(format!(
                "GET {target} HTTP/1.1\r\nHost: test\r\nReferer: \"r\"\r\nUser-Agent: ua\r\n\r\n"
            ));
            receive(&mut client).status
        };
        let lines = |file: &str| -> Vec<String> {
            std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
        };
        assert_eq!((ask("/one"), ask("/own"), ask("/..")), (200, 200, 400));
        eventually(3, || lines(&file).len());
        let read = lines(&file);
        let read: Vec<serde_json::Value> =
            read.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told = |n: usize, key: &str| read[n][key].as_str().unwrap_or_default().to_owned();
        assert_eq!([told(0, "path"), told(0, "upstream")], ["/one".to_owned(), app.address.to_string()]);
        assert_eq!([told(1, "path"), told(1, "upstream"), told(1, "end")], ["/own", "", "complete"]);
        assert_eq!([told(2, "path"), told(2, "upstream"), told(2, "end")], ["/..", "", "refused"]);

        // The 400 has ended the connection.
        drop(client);
        let mut client = connect_to(served.program.http());
        let mut ask = |target: &str| {
            client.send(format!(
                "GET {target} HTTP/1.1\r\nHost: test\r\nReferer: \"r\"\r\nUser-Agent: ua\r\n\r\n"
            ));
            receive(&mut client).status
        };
        std::fs::rename(&file, &moved).unwrap();
        assert_eq!(ask("/before"), 200);
        eventually(4, || lines(&moved).len());
        served.follow(&with("format = \"combined\"\n"));
        assert_eq!(ask("/after?x"), 200);
        eventually(1, || lines(&file).len());
        let line = &lines(&file)[0];
        assert!(
            line.starts_with("127.0.0.1 - - [") && line.contains(" +0000] \"GET /after?x HTTP/1.1\" 200 "),
            "{line}"
        );
        assert!(line.ends_with(" \"\\x22r\\x22\" \"ua\""), "{line}");
        // A file that cannot be opened changes nothing.
        let said = served.follow(&with("").replace(&file, "/nowhere/access.log"));
        assert!(said.contains("cannot be followed"), "{said}");
        assert!(served.program.line_with("no access log in /nowhere/access.log").is_some());
        assert_eq!(ask("/still"), 200);
        eventually(2, || lines(&file).len());
        served.follow(&rest.concat());
        assert_eq!(ask("/untold"), 200);
        served.follow(&with("sample = 0\n"));
        assert_eq!((ask("/good"), ask("/..")), (200, 400));
        // What is noted last is written at the end.
        drop(client);
        eventually(true, || served.program.catches(libc::SIGTERM));
        served.program.signal(libc::SIGTERM);
        assert_eq!(served.program.wait().code(), Some(0));
        assert_eq!(lines(&file).len(), 2, "neither failed nor slow: {:?}", lines(&file));
    });
}

/// What looks alike in the file is told apart by where it stands.
#[test]
fn listeners_of_port_0_stay_what_they_are() {
    on_both_drivers(|driver| {
        let app = Upstream::honest();
        let raw = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = raw.local_addr().unwrap();
        let text = |max: u32, tcp: &str| {
            [
                format!("{}connections_per_ip = {max}\n", listen("127.0.0.1:0")),
                format!("{}tcp = {{ to = \"raw\"{tcp} }}\n", listen("127.0.0.1:0")),
                format!("{}[[route]]\nto = \"app\"\n", listen("127.0.0.1:0")),
                upstream("app", &[&app]),
                format!("[upstream.raw]\nservers = [\"{at}\"]\n"),
            ]
            .concat()
        };
        let served = Served::start(driver, &text(1000, ""));
        eventually(true, || {
            served.program.lines().iter().filter(|line| line.contains("listening on ")).count() == 3
        });
        let addresses: Vec<SocketAddr> = served
            .program
            .lines()
            .iter()
            .filter_map(|line| line.split_once("listening on ")?.1.trim().parse().ok())
            .collect();
        let check = || {
            for at in [addresses[0], addresses[2]] {
                let mut client = connect_to(at);
                client.send(get("/web"));
                assert_eq!(receive(&mut client).text(), "/web ");
            }
            let mut client = connect_to(addresses[1]);
            client.send("as it is");
            with_patience(raw.accept().unwrap().0).expect("as it is");
        };
        check();
        for (max, tcp) in
            [(1001, ""), (1002, ""), (1002, ", idle = \"1h\""), (1003, ""), (1004, ", idle = \"1h\"")]
        {
            let said = served.follow(&text(max, tcp));
            assert!(said.contains("changes") && !said.contains("closed"), "{said}");
            check();
        }
    });
}

/// Counts go on where a route and a server stay, whatever else changes.
#[test]
fn routes_and_servers_are_counted_over_changes() {
    on_both_drivers(|driver| {
        let app = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let status = if request.starts_with("GET /bad ") { 503 } else { 200 };
                line.send(format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nhi"));
            }
        });
        let (other, directory) = (Upstream::honest(), Directory::new());
        let socket = directory.file("stats");
        let text = [
            listen("127.0.0.1:0"),
            "[[route]]\nto = \"app\"\n".to_owned(),
            "[[route]]\nmatch = { host = \"*.test\", path = \"/own\", method = [\"GET\", \"PUT\"] }\nreply = { status = 404 }\n".to_owned(),
            upstream("app", &[&app]),
        ]
        .concat();
        let served = Served::start_with(driver, &format!("stats = \"unix:{socket}\""), &text);
        let ask = |line: &str| {
            let mut admin = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            admin
                .write_all(
                    format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                        .as_bytes(),
                )
                .unwrap();
            let mut reply = String::new();
            admin.read_to_string(&mut reply).unwrap();
            reply
        };
        let page = || -> serde_json::Value {
            serde_json::from_str(ask("GET /stats").split_once("\r\n\r\n").unwrap().1).unwrap()
        };
        // What ended of a route or a server, statuses from those that were not answered on.
        let statuses = |list: &str, key: &str, name: &str| {
            let page = page();
            let found = page[list].as_array().unwrap().iter().find(|one| one[key] == name).cloned();
            let ended = found.unwrap_or_else(|| panic!("no {name} in {page}"))["ended"].clone();
            ["none", "1xx", "2xx", "3xx", "4xx", "5xx"]
                .map(|class| ended["statuses"][class].as_u64().unwrap())
        };
        let mut client = connect_to(served.program.http());
        let mut get = |host: &str, target: &str| {
            client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            receive(&mut client).status
        };
        let (any, own) = ("any host, any path", "host *.test, path /own and below, GET or PUT");
        let app_address = app.address.to_string();
        assert_eq!(
            [get("a", "/"), get("a", "/bad"), get("a", "/x"), get("x.test", "/own")],
            [200, 503, 200, 404]
        );
        assert_eq!(statuses("routes", "route", any), [0, 0, 2, 0, 0, 1]);
        assert_eq!(statuses("routes", "route", own), [0, 0, 0, 0, 1, 0]);
        assert_eq!(statuses("upstreams", "address", &app_address), [0, 0, 2, 0, 0, 1]);
        let seen = page();
        let ended =
            &seen["routes"].as_array().unwrap().iter().find(|route| route["route"] == any).unwrap()["ended"];
        let times: u64 =
            ended["ms"]["requests"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(
            (times, ended["bytes_in"].as_u64()),
            (3, Some("GET / HTTP/1.1\r\nHost: a\r\n\r\n".len() as u64 * 3 + 4))
        );
        assert_eq!(seen["upstreams"][0]["upstream"], "app");

        // One goes, one comes, and one is in another place; the server is used in another way.
        let changed = [
            listen("127.0.0.1:0"),
            "[[route]]\nmatch = { path = \"/new\" }\nto = \"new\"\n[[route]]\nto = \"app\"\n".to_owned(),
            upstream("new", &[&other]),
            upstream("app", &[&app]) + "slow_start = \"1s\"\n",
        ]
        .concat();
        assert!(served.follow(&changed).contains("was read again"));
        assert_eq!([get("a", "/new"), get("a", "/bad"), get("a", "/..")], [200, 503, 400]);
        assert_eq!(statuses("routes", "route", "any host, path /new and below"), [0, 0, 1, 0, 0, 0]);
        assert_eq!(page()["unrouted"]["statuses"]["4xx"], 1);
        let all = page()["routes"].as_array().unwrap().len();
        assert_eq!(all, 2, "what is gone is not told of: {}", page());
        let sum: u64 = statuses("routes", "route", any).iter().sum();
        assert_eq!(sum, 4);
        let server: u64 = page()["upstreams"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["upstream"] == "app")
            .map(|one| {
                one["ended"]["statuses"]
                    .as_object()
                    .unwrap()
                    .values()
                    .map(|count| count.as_u64().unwrap())
                    .sum::<u64>()
            })
            .sum();
        assert_eq!(server, 4);
        assert!(ask(&format!("POST /drain/{app_address}")).starts_with("HTTP/1.1 204 "));
        let drained =
            page()["upstreams"].as_array().unwrap().iter().filter(|one| one["drained"] == true).count();
        assert_eq!(drained, 1);
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

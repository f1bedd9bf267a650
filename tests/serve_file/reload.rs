//! A file that changes while it serves.

use super::*;

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

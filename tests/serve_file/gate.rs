//! Who may come in, and how often.

use super::*;

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
        // The lines of what is wrong come behind that one.
        for (line, problem) in [(2, "\"nobody\": expected a network"), (3, "has bits behind its prefix")] {
            let told = format!("{list}:{line}: ");
            let is_it = |it: &String| it.contains(&told) && it.contains(problem);
            eventually(true, || served.program.lines().iter().any(is_it));
        }
        let lines = served.program.lines();
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

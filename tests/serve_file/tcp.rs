//! Listeners of `tcp`: connections as they are, by the file.

use super::*;
use ringmill::{Engine, Running, Tls, TlsConfig, TlsStore, http};
use std::net::{Shutdown, TcpListener};

/// A server whose connections the test takes.
fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    with_patience(listener.accept().unwrap().0)
}

/// `word` passes in both directions.
#[track_caller]
fn talk(client: &mut TcpStream, server: &mut TcpStream, word: &str) {
    client.send(word);
    server.expect(word);
    server.send(word);
    client.expect(word);
}

fn tcp(address: SocketAddr, table: &str) -> String {
    format!("[[listen]]\naddress = \"{address}\"\ntcp = {{ {table} }}\n")
}

#[test]
fn connections_are_passed_on_and_outlive_every_change() {
    on_both_drivers(|driver| {
        let ((one, one_at), (two, two_at)) = (server(), server());
        let app = Upstream::honest();
        let (relay, plain) = (free(), free());
        let web =
            [listen(&plain.to_string()), "[[route]]\nto = \"app\"\n".to_owned(), upstream("app", &[&app])]
                .concat();
        let file = |listens: &str, keys: &str| {
            format!(
                "{listens}{web}[upstream.one]\nservers = [\"{one_at}\"]\n{keys}\n[upstream.two]\nservers = [\"{two_at}\"]\n"
            )
        };
        let told = "proxy_protocol = 1";
        let served = Served::start(driver, &file(&tcp(relay, "to = \"one\""), told));
        let mut client = connect_to(relay);
        let mut at_one = accept(&one);
        at_one.expect(format!(
            "PROXY TCP4 127.0.0.1 {} {} {}\r\n",
            relay.ip(),
            client.local_addr().unwrap().port(),
            relay.port()
        ));
        talk(&mut client, &mut at_one, "first");
        // It serves HTTP next to that.
        let mut other = connect_to(plain);
        other.send(get("/beside"));
        assert!(receive(&mut other).text().starts_with("/beside"));

        // Another upstream; what is open stays with the one it has, even where its server is gone from the file.
        let changed = served.follow(&file(&tcp(relay, "to = \"two\""), ""));
        assert!(changed.contains("changes"), "{changed}");
        talk(&mut client, &mut at_one, "still");
        let mut second = connect_to(relay);
        let mut at_two = accept(&two);
        talk(&mut second, &mut at_two, "second");
        served.follow(&file("", ""));
        eventually(true, || TcpStream::connect(relay).is_err());
        talk(&mut client, &mut at_one, "and still");
        client.shutdown(Shutdown::Write).unwrap();
        at_one.expect_eof();
        at_one.send("the last word");
        drop(at_one);
        assert_eq!(client.rest(), b"the last word");
        talk(&mut second, &mut at_two, "too");

        // An idle time of its own, for whoever comes from now on; and a route to the same servers, which go on being known.
        served.follow(&file(&tcp(relay, "to = \"two\", idle = \"300ms\""), ""));
        let mut idle = connect_to(relay);
        accept(&two).expect_reset();
        idle.expect_reset();
        talk(&mut second, &mut at_two, "not me");
    });
}

/// A server of TLS that answers with its name.
fn named(driver: DriverChoice, authority: &Authority, name: &'static str) -> Running {
    let [cert, key] = authority.files(&[name]);
    let store = TlsStore::new(TlsConfig::from_files(&cert, &key)).unwrap();
    let engine = Engine::builder().config(common::config(driver)).listen("127.0.0.1:0", move |_| {
        Tls::new(http::server(move |_, reply| reply.text(name)), store.clone())
    });
    engine.start().unwrap()
}

#[test]
fn tls_is_passed_on_by_name_or_opened() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let (one, two) = (named(driver, &authority, "one.test"), named(driver, &authority, "a.two.test"));
        let (raw, raw_at) = server();
        let [cert, key] = authority.files(&["localhost"]);
        let (by_name, opened) = (free(), free());
        let table = format!("to = \"raw\" }}\ntls = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n#");
        let text = [
            tcp(by_name, "sni = { \"ONE.test\" = \"one\", \"*.two.test\" = \"two\" }"),
            tcp(opened, &table),
            format!("[upstream.one]\nservers = [\"{}\"]\n", one.addresses()[0]),
            format!("[upstream.two]\nservers = [\"{}\"]\nproxy_protocol = 2\n", raw_at),
            format!("[upstream.raw]\nservers = [\"{raw_at}\"]\n"),
        ];
        let (directory, stats) = (Directory::new(), free());
        let log = directory.file("access.log");
        let observed = format!("[access_log]\nto = \"file:{log}\"\n{}", text.concat());
        let served = Served::start_with(driver, &format!("stats = \"{stats}\""), &observed);
        let config = authority.client(&[&rustls::version::TLS13, &rustls::version::TLS12]);
        for _ in 0..2 {
            let mut stream = secure(by_name, &config, "one.test").expect("the certificate is of that name");
            stream.send(get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
            let reply = String::from_utf8(stream.rest()).unwrap();
            assert!(reply.ends_with("one.test"), "{reply}");
        }
        // Behind the header, which has the name, comes what the client said, as it said it.
        let asks = std::thread::spawn({
            let config = config.clone();
            move || secure(by_name, &config, "a.two.test").map(|_| ())
        });
        let mut front = accept(&raw);
        let mut header = [0; 16 + 12 + 3 + 10 + 5];
        front.read_exact(&mut header).unwrap();
        assert!(header[..41].ends_with(b"\x02\0\x0aa.two.test"), "{}", header.escape_ascii());
        assert_eq!(header[41], 22, "a record with a handshake");
        let hello = header[41..].to_vec();
        let mut behind = connect_to(ip(&two.addresses()[0]));
        behind.send(hello);
        let mut ends = [(front.try_clone().unwrap(), behind.try_clone().unwrap()), (behind, front)];
        let copies = ends.each_mut().map(|(from, to)| {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || {
                // One end may be gone by then.
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            })
        });
        asks.join().unwrap().expect("the certificate is of that name");
        drop(ends);
        copies.into_iter().for_each(|copy| copy.join().unwrap());

        // Nobody has that name: an alert says so. Whoever does not speak TLS is let go without a word.
        let refusal = secure(by_name, &config, "two.test").expect_err("it is refused");
        assert!(refusal.contains("UnrecognisedName"), "{refusal}");
        let mut other = connect_to(by_name);
        other.send(get("/"));
        other.expect_eof();

        // Where it is opened, the end of TLS is the end for the server, and the other way round.
        let mut client = secure(opened, &config, "localhost").unwrap();
        let mut server = accept(&raw);
        client.send(b"hello");
        server.expect(b"hello");
        server.send(b"all I have");
        server.shutdown(Shutdown::Write).unwrap();
        // With close_notify and not a cut: `rest` fails otherwise.
        assert_eq!(client.rest(), b"all I have");
        client.send(b"and I");
        server.expect(b"and I");
        client.conn.send_close_notify();
        client.flush().unwrap();
        server.expect_eof();
        // A cut is no end.
        let client = secure(opened, &config, "localhost").unwrap();
        let mut server = accept(&raw);
        client.sock.shutdown(Shutdown::Write).unwrap();
        server.expect_reset();

        // All of that was noted when it ended: name, end and listener.
        let lines = || -> Vec<[String; 3]> {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let text =
                |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let mut lines: Vec<_> =
                lines.map(|line| ["sni", "end", "listener"].map(|key| text(&line, key))).collect();
            lines.iter_mut().filter(|line| line[0] == "a.two.test").for_each(|line| line[1].clear());
            lines.sort();
            lines
        };
        eventually(7, || lines().len());
        let (by_name, opened) = (by_name.to_string(), opened.to_string());
        let expected = [
            ["", "client", &opened],
            ["", "complete", &opened],
            ["", "refused", &by_name],
            // It leaves with tickets unread, or has read them.
            ["a.two.test", "", &by_name],
            ["one.test", "complete", &by_name],
            ["one.test", "complete", &by_name],
            ["two.test", "refused", &by_name],
        ];
        assert_eq!(lines(), expected.map(|line| line.map(str::to_owned)));
        let mut admin = connect_to(stats);
        admin.send(get("/stats"));
        let page: serde_json::Value = serde_json::from_str(receive(&mut admin).text()).unwrap();
        let ends = |listener: &str| {
            let all = page["listeners"].as_array().unwrap();
            let own = all.iter().find(|it| it["listener"] == *listener).unwrap();
            ["complete", "refused", "client"].map(|end| own["ended"]["ends"][end].as_u64().unwrap())
        };
        assert_eq!((ends(&by_name).iter().sum::<u64>(), ends(&by_name)[1], ends(&opened)), (5, 2, [1, 0, 1]));
        let of_one = &page["upstreams"].as_array().unwrap()[0];
        assert_eq!(
            (of_one["tcp"].as_bool(), of_one["ended"]["ends"]["complete"].as_u64()),
            (Some(true), Some(2))
        );
        drop(served);
    });
}

#[test]
fn a_connection_is_explained() {
    let directory = Directory::new();
    let file = directory.file("ringmill.toml");
    let text = "[[listen]]\naddress = \"127.0.0.1:5432\"\ntcp = { sni = { \"db.test\" = \"db\" } }\n\
                [[listen]]\naddress = \"127.0.0.1:25\"\ntcp = { to = \"db\", idle = \"2h\" }\n\
                [upstream.db]\nservers = [\"10.0.0.1:5432\"]\nproxy_protocol = 2\n";
    std::fs::write(&file, text).unwrap();
    let explain = |url: &str, expected: &[&str]| {
        let mut command = ringmill();
        command.args(["explain", "CONNECT", url, "--config", &file]);
        let (code, output, errors) = run(command);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{url}");
        expected.iter().for_each(|line| assert!(output.contains(line), "{line:?} is not in\n{output}"));
    };
    let both = ["upstream  db: 10.0.0.1:5432", "version Two", "500 connections a server", "connect 5s"];
    explain("tcp://db.test:5432", &both);
    explain("tcp://db.test:5432", &["asked for \"db.test\"", "idle 600s"]);
    explain("tcp://x.test:5432", &["unrecognized_name"]);
    explain("tcp://x.test:25", &both);
    explain("tcp://x.test:25", &["names are not looked at", "idle 7200s"]);
    explain("tcp://x.test", &["127.0.0.1:5432", "127.0.0.1:25"]);
    explain("tcp://x.test:80", &["none: no address"]);
    explain("http://x.test:25/", &["no address of the file speaks http"]);
}

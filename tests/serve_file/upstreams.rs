//! Upstreams by the file: certificates, HTTP/2, names, weights, and keys from elsewhere.

use super::*;

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

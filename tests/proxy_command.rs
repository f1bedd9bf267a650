//! `ringmill proxy`, run as a program: options to replies, TLS to an upstream, curl, signals, and what is said of mistakes.
#![cfg(feature = "cli")]

mod common;

use common::authority::{Authority, secure};
use common::http::{get, receive};
use common::names::{NameServer, Record};
use common::program::{Program, ringmill, run};
use common::upstream::Upstream;
use common::*;
use ringmill::http::{self, Reply, Request};
use ringmill::proxy::{self, LookupOptions, Lookups, Name};
use ringmill::{DriverChoice, Engine, Tls, TlsConfig, TlsStore};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, Barrier};

fn proxy(driver: DriverChoice, arguments: &[&str]) -> Program {
    let mut command = ringmill();
    command.args(["proxy", "127.0.0.1:0", "--workers", "1", "--pin", "off", "--driver", &driver.to_string()]);
    command.args(arguments);
    Program::start(command, "worker(s) on CPU")
}

#[test]
fn requests_go_to_the_upstreams_and_a_signal_ends_it() {
    on_both_drivers(|driver| {
        let (one, two) = (Upstream::honest(), Upstream::honest());
        let (a, b) = (one.address.to_string(), format!("http://{}", two.address));
        let mut program = proxy(driver, &[&a, &b, "--balance", "round-robin", "--buffer", "1KiB"]);
        let mut client = connect_to(program.http());
        for n in 0..10 {
            client.send(get(&format!("/{n}")));
            assert_eq!(receive(&mut client).text(), format!("/{n} "));
        }
        assert!(one.accepted() > 0 && two.accepted() > 0);
        // The body comes first: no upstream has been asked whether it may.
        client.send("POST /b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
        client.expect("HTTP/1.1 100 Continue\r\n\r\n");
        client.send("x");
        assert_eq!(receive(&mut client).text(), "/b x");
        eventually(true, || program.catches(libc::SIGTERM));
        program.signal(libc::SIGTERM);
        assert_eq!(program.wait().code(), Some(0));
        eventually(true, || program.line_with("requests=11").is_some());
    });
}

#[test]
fn connections_are_passed_on_as_they_are() {
    on_both_drivers(|driver| {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap().to_string();
        let directory = Directory::new();
        let log = directory.file("access.log");
        let to = format!("file:{log}");
        let logged = ["--access-log", &to, "--access-log-format", "combined"];
        let options = [&at, "--tcp", "--send-proxy", "1", "--tcp-idle", "1h"];
        let mut program = proxy(driver, &[&options[..], &logged].concat());
        let relay = program.address_after("relaying ");
        let mut client = connect_to(relay);
        client.send("whatever it is");
        let mut server = with_patience(server.accept().unwrap().0);
        let ports = (client.local_addr().unwrap().port(), relay.port());
        server.expect(format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nwhatever it is", ports.0, ports.1));
        // A drain lets it go on, and ends with it.
        eventually(true, || program.catches(libc::SIGTERM));
        program.signal(libc::SIGTERM);
        eventually(true, || program.line_with("draining").is_some());
        server.send("still here");
        client.expect("still here");
        assert!(!program.has_ended());
        drop((client, server));
        assert_eq!(program.wait().code(), Some(0));
        let log = std::fs::read_to_string(&log).unwrap();
        assert!(
            log.starts_with("127.0.0.1 - - [") && log.ends_with("\"TCP 127.0.0.1:0\" 200 10 \"-\" \"-\"\n"),
            "{log}"
        );
    });
}

/// Who ends at once still writes down what has ended before.
#[test]
fn a_second_signal_ends_at_once_and_loses_no_line() {
    on_both_drivers(|driver| {
        let (directory, together) = (Directory::new(), Arc::new(Barrier::new(2)));
        let log = directory.file("access.log");
        let meet = together.clone();
        let upstream = Upstream::new(move |line| {
            let request = line.request().unwrap();
            if request.starts_with("GET /held") {
                return line.wait_for_end();
            }
            meet.wait();
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        });
        let address = upstream.address.to_string();
        let mut program = proxy(driver, &[&address, "--access-log", &format!("file:{log}")]);
        let mut clients = [connect_to(program.http()), connect_to(program.http())];
        for (client, target) in clients.iter_mut().zip(["/held", "/last"]) {
            client.send(get(target));
            upstream.asked();
        }
        eventually(true, || program.catches(libc::SIGTERM));
        program.signal(libc::SIGTERM);
        eventually(true, || program.line_with("draining").is_some());
        together.wait();
        assert_eq!(receive(&mut clients[1]).status, 200);
        program.signal(libc::SIGTERM);
        assert_eq!(program.wait().code(), Some(128 + libc::SIGTERM));
        let log = std::fs::read_to_string(&log).unwrap();
        assert!(log.contains("\"path\":\"/last\"") && log.lines().count() == 1, "{log}");
    });
}

#[test]
fn datagrams_are_passed_on_as_they_are() {
    on_both_drivers(|driver| {
        let [server, client] = [(); 2].map(|()| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        let at = server.local_addr().unwrap().to_string();
        let mut program = proxy(driver, &[&at, "--udp", "--udp-replies", "1", "--drain", "1m"]);
        client.connect(program.address_after("datagrams on ")).unwrap();
        let mut buffer = [0; 100];
        let mut ask = || {
            client.send(b"a question").unwrap();
            let (bytes, flow) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..bytes], b"a question");
            flow
        };
        let flow = ask();
        // A drain waits for the answer, and ends with it.
        eventually(true, || program.catches(libc::SIGTERM));
        program.signal(libc::SIGTERM);
        eventually(true, || program.line_with("draining").is_some());
        assert!(!program.has_ended());
        server.send_to(b"an answer", flow).unwrap();
        assert_eq!(client.recv(&mut [0; 100]).unwrap(), 9);
        assert_eq!(program.wait().code(), Some(0));
    });
}

#[test]
fn tls_to_an_upstream_is_verified() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let store = TlsStore::new(TlsConfig::from_files(&cert, &key)).unwrap();
        let upstream = Engine::builder().config(config(driver)).listen("127.0.0.1:0", move |_| {
            let tell = http::server(|request: &Request<'_>, reply: &mut Reply<'_>| {
                let is_secured = request.facts().is_some_and(|facts| facts.is_secured());
                let scheme = String::from_utf8_lossy(request.field("x-forwarded-proto").unwrap_or_default());
                reply.text(&format!("{} {is_secured} {scheme}", request.path()));
            });
            Tls::new(tell, store.clone())
        });
        let upstream = upstream.start().unwrap();
        let url = format!("https://localhost:{}", ip(&upstream.addresses()[0]).port());
        let trusting = proxy(driver, &[&url, "--upstream-ca", &authority.file]);
        let mut client = connect_to(trusting.http());
        for _ in 0..2 {
            client.send(get("/secret"));
            assert_eq!(receive(&mut client).text(), "/secret true http");
        }
        let doubting = proxy(driver, &[&url]);
        let mut client = connect_to(doubting.http());
        client.send(get("/secret"));
        let reply = receive(&mut client);
        assert_eq!(reply.status, 502);
        assert!(reply.text().contains("could not be secured"), "{}", reply.text());
    });
}

#[test]
fn clients_may_be_secured_and_plain_ones_sent_on() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len()));
            }
        });
        let tls = ["--tls-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key, "--tls-min", "1.3"];
        let redirect = ["--https-redirect", "443", "--stats", "127.0.0.1:0"];
        let address = upstream.address.to_string();
        let program = proxy(driver, &[&[address.as_str()][..], &tls, &redirect].concat());
        let mut client = connect_to(program.http());
        client.send(get("/a?b"));
        let reply = receive(&mut client);
        assert_eq!((reply.status, reply.field("location")), (308, Some("https://test/a?b")));
        let trusting = authority.client(rustls::ALL_VERSIONS);
        let address = program.address_after("TLS on ");
        let mut client = secure(address, &trusting, "localhost").unwrap();
        client.write_all(get("/c").as_bytes()).unwrap();
        let mut reply = String::new();
        while !reply.contains("x-forwarded-proto: https") {
            let mut bytes = [0; 1000];
            let count = client.read(&mut bytes).unwrap();
            assert_ne!(count, 0, "{reply}");
            reply += &String::from_utf8_lossy(&bytes[..count]);
        }
        let old = authority.client(&[&rustls::version::TLS12]);
        assert!(secure(address, &old, "localhost").is_err(), "--tls-min");
        let mut stats = connect_to(program.address_after("stats of upstreams on "));
        stats.send(get("/stats"));
        assert_eq!(receive(&mut stats).status, 200);
        // The files are read again, as `serve` does it.
        eventually(true, || program.catches(libc::SIGHUP));
        program.signal(libc::SIGHUP);
        eventually(true, || program.line_with("the files of TLS hold the same").is_some());
    });
}

#[test]
fn who_may_not_come_in_is_closed_and_counted() {
    on_both_drivers(|driver| {
        let app = Upstream::honest();
        let (to, directory) = (app.address.to_string(), Directory::new());
        let list = directory.file("deny.txt");
        std::fs::write(&list, "127.0.0.8/32\n").unwrap();
        let deny = format!("{list},127.0.0.9");
        let limits = [
            "--connections-per-ip",
            "2",
            "--connections-per-prefix",
            "3",
            "--new-connections-per-ip",
            "4/h",
            "--requests-per-client",
            "3/h",
        ];
        let arguments =
            [&[&to, "--deny", &deny, "--allow", "127.0.0.0/28", "--stats", "127.0.0.1:0"][..], &limits]
                .concat();
        let program = proxy(driver, &arguments);
        std::fs::remove_file(&list).unwrap();
        let asked = |last: u8| {
            let mut client = connect_from([127, 0, 0, last], program.http()).ok()?;
            client.write_all(get("/").as_bytes()).ok()?;
            client.read_exact(&mut [0; 12]).ok().map(|()| client)
        };
        let first: Vec<_> = [1, 1, 1, 2, 3].map(asked).into();
        assert_eq!([true, true, false, true, false], *first.iter().map(Option::is_some).collect::<Vec<_>>());
        for last in [8, 9, 20] {
            assert!(asked(last).is_none(), "{last}");
        }
        // Of four new ones it has had three, one of them refused, and now has the last.
        assert!(asked(1).is_none() && asked(1).is_none());
        let stats = program.address_after("stats of upstreams on ");
        let mut client = connect_to(stats);
        client.send(get("/stats"));
        let page: serde_json::Value = serde_json::from_slice(&receive(&mut client).body).unwrap();
        let gate =
            ["denied", "unlisted", "per_ip", "too_fast", "gone", "uncounted"].map(|name| &page["gate"][name]);
        assert_eq!(gate, [2, 1, 2, 1, 0, 0]);
        assert_eq!(page["gate"]["per_prefix"], 1);
        let limits = serde_json::json!([{"route": "any host, any path", "per": "client", "rate": "3/h", "allowed": 3, "limited": 0}]);
        assert_eq!(page["limits"], limits);
    });
}

#[test]
fn no_get_fails_when_an_upstream_is_killed() {
    on_both_drivers(|driver| {
        let mut upstreams: Vec<Program> = (0..3).map(|_| Program::serve(driver, &[])).collect();
        let addresses: Vec<String> = upstreams.iter().map(|upstream| upstream.http().to_string()).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let program = proxy(driver, &addresses);
        let mut load = ringmill();
        load.args(["load", &format!("http://{}/plaintext", program.http()), "--connections", "32", "--json"]);
        load.args(["--warmup", "0", "--duration", "3s"]);
        let mut load = Program::start(load, "as fast as it goes");
        std::thread::sleep(std::time::Duration::from_secs(1));
        drop(upstreams.pop());
        assert!(load.wait().success(), "{:?}", load.lines());
        eventually(true, || load.line_with("\"errors\": 0,").is_some());
        assert!(program.line_with("Connection refused").is_some(), "nobody noticed: {:?}", program.lines());
    });
}

#[test]
fn who_is_not_well_is_left_alone_and_who_stands_by_takes_its_place() {
    on_both_drivers(|driver| {
        let well_if = |is_well: bool, name: &'static str| {
            Upstream::new(move |line| {
                while let Some(request) = line.request() {
                    let status = if request.starts_with("GET /well ") && !is_well { 500 } else { 200 };
                    let length = name.len();
                    line.try_send(format!(
                        "HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n{name}"
                    ));
                }
            })
        };
        let (sick, spare) = (well_if(false, "sick"), well_if(true, "spare"));
        let [sick, spare] = [sick, spare].map(|upstream| upstream.address.to_string());
        let program =
            proxy(driver, &[&sick, "--backup", &spare, "--check", "/well", "--check-every", "50ms"]);
        let mut client = connect_to(program.http());
        eventually(true, || program.line_with("down, say 3 checks").is_some());
        for _ in 0..20 {
            client.send(get("/"));
            assert_eq!(receive(&mut client).text(), "spare");
        }
    });
}

#[test]
fn names_are_followed_wherever_they_lead() {
    on_both_drivers(|driver| {
        let (port, _upstreams) = Upstream::several(3);
        let a = |last| ("api.test", Record::A([127, 9, 0, last].into()));
        let names = NameServer::new(&[a(2)]);
        let resolver = names.address.to_string();
        let program = proxy(driver, &[&format!("dns:api.test:{port}"), "--resolver", &resolver]);
        let mut client = connect_to(program.http());
        let mut seen = || {
            client.send(get("/"));
            receive(&mut client).text().to_owned()
        };
        let at = |last: u8| format!("127.9.0.{last}:{port}");
        assert!((0..5).all(|_| seen() == at(2)));
        names.tell(&[a(2), a(3)]);
        eventually(at(3), &mut seen);
        assert!((0..100).any(|_| seen() == at(2)));
        names.tell(&[a(3)]);
        eventually(true, || (0..20).all(|_| seen() == at(3)));
        // It has no answer any more: the last good one goes on.
        names.tell(&[]);
        eventually(true, || program.line_with("its last answer goes on").is_some());
        assert!((0..20).all(|_| seen() == at(3)));
        names.tell(&[a(2)]);
        eventually(at(2), &mut seen);
    });
}

/// The answers for A and for AAAA are one: when one of them fails, the other is not all there is.
#[test]
fn half_an_answer_is_none() {
    on_both_drivers(|driver| {
        let (port, _upstreams) = Upstream::several(2);
        let (host, service) = ("api.test", "_http._tcp.api.test");
        let a = (host, Record::A([127, 9, 0, 2].into()));
        // Nobody is there, which costs nobody anything.
        let aaaa = (host, Record::Aaaa("::1".parse().unwrap()));
        let srv = [(service, Record::Srv(1, 1, port, host)), (service, Record::Srv(1, 1, port, "one.test"))];
        let one = ("one.test", Record::A([127, 9, 0, 1].into()));
        for name in [format!("dns:{host}:{port}"), format!("dns:{service}")] {
            let names = NameServer::new(&[a, aaaa, srv[0], srv[1], one]);
            let program = proxy(driver, &[&name, "--resolver", &names.address.to_string()]);
            let mut client = connect_to(program.http());
            let mut seen = || {
                client.send(get("/"));
                receive(&mut client).text().to_owned()
            };
            let own = format!("127.9.0.2:{port}");
            eventually(own.clone(), &mut seen);
            // One of two kinds fails, and then all that there is.
            for zone in [
                &[(host, Record::FailsForA), aaaa, srv[0], srv[1], one][..],
                &[(host, Record::FailsForA), srv[0], srv[1]],
            ] {
                names.tell(zone);
                let asked = names.asked();
                eventually(true, || names.asked() > asked + 4);
                eventually(own.clone(), &mut seen);
            }
            // It is said that there is none of this kind any more.
            names.tell(&[aaaa, srv[0], srv[1], one]);
            eventually(true, || (0..20).all(|_| !seen().starts_with("127.9.0.2:")));
        }
    });
}

/// Follows a name: its servers, and each time that they have changed the new ones.
fn follow(name: &str, options: LookupOptions) -> (Vec<String>, impl FnMut() -> Vec<String>) {
    let (told, changes) = std::sync::mpsc::channel();
    let addresses = |servers: &[Vec<proxy::Server>]| {
        servers.concat().iter().map(|server| server.address.to_string()).collect::<Vec<_>>()
    };
    let lookups = Lookups::new(vec![name.parse().unwrap()], options).unwrap();
    let first = addresses(&lookups.servers());
    let watching = lookups.watch(move |servers| told.send(addresses(servers)).unwrap()).unwrap();
    (first, move || {
        let _watching = &watching;
        changes.recv_timeout(PATIENCE).expect("a change is told")
    })
}

/// A target of a service is gone when that is said of both kinds of address: of one that has no A records, AAAA says whether it is there.
#[test]
fn a_target_whose_only_kind_of_address_fails_stays() {
    let service = "_http._tcp.api.test";
    let srv = |target| (service, Record::Srv(1, 1, 80, target));
    let one = |last| ("one.test", Record::A([127, 9, 0, last].into()));
    let six = ("six.test", Record::Aaaa("::1".parse().unwrap()));
    let names = NameServer::new(&[srv("one.test"), srv("six.test"), one(1), six]);
    let options = LookupOptions { resolvers: vec![names.address], ..LookupOptions::default() };
    let (first, mut next) = follow(service, options);
    assert_eq!(first, ["127.9.0.1:80", "[::1]:80"]);
    names.tell(&[srv("one.test"), srv("Six.test"), one(2), ("six.test", Record::FailsForAaaa)]);
    assert_eq!(next(), ["127.9.0.2:80", "[::1]:80"]);
    names.tell(&[srv("one.test"), srv("six.test"), one(2)]);
    assert_eq!(next(), ["127.9.0.2:80"]);
}

/// Half an answer is better than none where nothing is known yet; but the other half is asked for again soon, however long the answer holds.
#[test]
fn what_nobody_could_tell_is_asked_for_again_soon() {
    let a = |last| ("api.test", Record::A([127, 9, 0, last].into()));
    let aaaa = ("api.test", Record::Aaaa("::1".parse().unwrap()));
    let fails = ("api.test", Record::FailsForAaaa);
    let names = NameServer::new(&[a(1), fails]);
    let hour = std::time::Duration::from_secs(3600);
    let options = LookupOptions { resolvers: vec![names.address], ttl_min: hour, ttl_max: hour };
    let (first, mut next) = follow("api.test:80", options);
    assert_eq!(first, ["127.9.0.1:80"]);
    // Of what can be told a change is followed meanwhile.
    names.tell(&[a(2), fails]);
    assert_eq!(next(), ["127.9.0.2:80"]);
    names.tell(&[a(2), aaaa]);
    assert_eq!(next(), ["127.9.0.2:80", "[::1]:80"]);
}

/// Name servers that do not know AAAA may as well say nothing (RFC 4074, 4.1): what they say of A counts, and there is time for it at the start.
#[test]
fn silence_about_one_kind_of_address_keeps_nobody_from_starting() {
    let (host, service) = ("api.test", "_http._tcp.api.test");
    let a = (host, Record::A([127, 9, 0, 1].into()));
    let srv = (service, Record::Srv(1, 1, 80, host));
    let names = NameServer::new(&[a, (host, Record::SilentForAaaa), srv]);
    let options = LookupOptions { resolvers: vec![names.address], ..LookupOptions::default() };
    let (first, _next) = follow(service, options);
    assert_eq!(first, ["127.9.0.1:80"]);
}

/// A name that was followed before goes on with what it is when the next plan is published, not when the file was read.
#[test]
fn what_is_learned_while_new_names_are_looked_up_counts() {
    let a = |name, last| (name, Record::A([127, 9, 0, last].into()));
    let names = NameServer::new(&[a("old.test", 1), a("new.test", 2)]);
    let options = LookupOptions { resolvers: vec![names.address], ..LookupOptions::default() };
    let [old, new] = ["old.test:80", "new.test:80"].map(|name| name.parse::<Name>().unwrap());
    let (told, changes) = std::sync::mpsc::channel();
    let before = Lookups::new(vec![old.clone()], options.clone()).unwrap();
    let watching = before.watch(move |_| told.send(()).unwrap()).unwrap();
    let mut next = Lookups::after(vec![new, old], options, &watching).unwrap();
    names.tell(&[a("old.test", 3), a("new.test", 2)]);
    changes.recv_timeout(PATIENCE).expect("a change is told");
    drop(watching);
    next.catch_up();
    let addresses: Vec<_> = next.servers().concat().iter().map(|server| server.address.to_string()).collect();
    assert_eq!(addresses, ["127.9.0.2:80", "127.9.0.3:80"]);
}

#[test]
fn services_have_weights_and_those_that_stand_by() {
    on_both_drivers(|driver| {
        let (port, _upstreams) = Upstream::several(3);
        let service = "_http._tcp.api.test";
        let all = [
            (service, Record::Srv(1, 30, port, "one.test")),
            (service, Record::Srv(1, 10, port, "two.test")),
            (service, Record::Srv(2, 10, port, "three.test")),
            ("one.test", Record::A([127, 9, 0, 1].into())),
            ("two.test", Record::A([127, 9, 0, 2].into())),
            ("three.test", Record::A([127, 9, 0, 3].into())),
        ];
        let names = NameServer::new(&all);
        let resolver = names.address.to_string();
        let program =
            proxy(driver, &[&format!("dns:{service}"), "--resolver", &resolver, "--balance", "round-robin"]);
        let mut client = connect_to(program.http());
        let mut counts = [0_usize; 3];
        for _ in 0..80 {
            client.send(get("/"));
            let said = receive(&mut client).text().to_owned();
            let last: usize = said.split(['.', ':']).nth(3).unwrap().parse().unwrap();
            counts[last - 1] += 1;
        }
        assert!(counts[0].abs_diff(60) < 5 && counts[2] == 0, "{counts:?}");
        // A target without an answer takes none of the others along, and a change of theirs is seen.
        names.tell(&[all[0], all[1], all[3], all[5]]);
        eventually(true, || {
            (0..20).all(|_| {
                client.send(get("/"));
                receive(&mut client).text().starts_with("127.9.0.1:")
            })
        });
        // A name that has no answer at the start is a mistake.
        let mut command = ringmill();
        command.args(["proxy", "127.0.0.1:0", "dns:nobody.test:80", "--resolver", &resolver]);
        let (status, _, errors) = run(command);
        assert_eq!(status, Some(1), "{errors}");
        assert!(errors.contains("nobody.test has no answer"), "{errors}");
    });
}

#[test]
fn stats_tell_of_upstreams_and_drain_them() {
    on_both_drivers(|driver| {
        let (one, two) = (Upstream::honest(), Upstream::honest());
        let addresses = [&one, &two].map(|upstream| upstream.address.to_string());
        let directory = Directory::new();
        let socket = directory.file("stats");
        let stats = format!("unix:{socket}");
        let program =
            proxy(driver, &[&addresses[0], &addresses[1], "--stats", &stats, "--balance", "round-robin"]);
        let ask = |request: &str| {
            let mut admin = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            std::io::Write::write_all(&mut admin, request.as_bytes()).unwrap();
            let mut reply = String::new();
            std::io::Read::read_to_string(&mut admin, &mut reply).unwrap();
            reply
        };
        let close = "HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
        let page = || -> serde_json::Value {
            let reply = ask(&format!("GET /stats {close}\r\n"));
            serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
        };
        let requests = || {
            let page = page();
            addresses.each_ref().map(|address| {
                let upstreams = page["upstreams"].as_array().unwrap();
                let own = upstreams.iter().find(|upstream| upstream["address"] == **address).unwrap();
                (own["requests"].as_u64().unwrap(), own["drained"].as_bool().unwrap())
            })
        };
        let mut client = connect_to(program.http());
        let mut serve = || {
            for n in 0..10 {
                client.send(get(&format!("/{n}")));
                assert_eq!(receive(&mut client).text(), format!("/{n} "));
            }
        };
        serve();
        assert_eq!(requests(), [(5, false), (5, false)]);
        let post = |target: &str| ask(&format!("POST {target} {close}Content-Length: 0\r\n\r\n"));
        assert!(post(&format!("/drain/{}", addresses[0])).starts_with("HTTP/1.1 204 "));
        serve();
        assert_eq!(requests(), [(5, true), (15, false)]);
        assert!(post(&format!("/undrain/{}", addresses[0])).starts_with("HTTP/1.1 204 "));
        serve();
        assert_eq!(requests(), [(10, false), (20, false)]);
        assert!(post("/drain/127.0.0.1:1").starts_with("HTTP/1.1 404 "));
        let page = page();
        let ended = &page["routes"][0]["ended"];
        assert_eq!(
            (ended["statuses"]["2xx"].as_u64(), page["routes"].as_array().map(Vec::len)),
            (Some(30), Some(1))
        );
    });
}

/// Where there is a curl.
#[test]
fn curl_is_served_through_it() {
    if Command::new("curl").arg("--version").output().is_err() {
        return say_past_capture("curl is not here: not tested with it");
    }
    on_both_drivers(|driver| {
        let upstream = Program::serve(driver, &[]);
        let program = proxy(driver, &[&upstream.http().to_string()]);
        let curl = |arguments: &[&str], target: &str| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--max-time", "20"]).args(arguments);
            let (code, output, errors) = run_curl(command.arg(format!("http://{}{target}", program.http())));
            assert_eq!(code, Some(0), "{errors}");
            output
        };
        assert_eq!(curl(&[], "/plaintext"), b"Hello, World!");
        assert_eq!(curl(&[], "/bytes/3000000").len(), 3_000_000);
        let directory = Directory::new();
        let file = directory.file("body");
        std::fs::write(&file, pattern(0, 2_000_000)).unwrap();
        let body = format!("@{file}");
        assert_eq!(curl(&["--data-binary", &body], "/echo"), pattern(0, 2_000_000));
        let chunked =
            ["--data-binary", &body, "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"];
        assert_eq!(curl(&chunked, "/echo"), pattern(0, 2_000_000));
        assert_eq!(curl(&["--http1.0"], "/plaintext"), b"Hello, World!");
        let head = String::from_utf8(curl(&["--head"], "/plaintext")).unwrap();
        assert!(head.contains("content-length: 13\r\n") && head.contains("via: 1.1 ringmill\r\n"), "{head}");
    });
}

fn run_curl(command: &mut Command) -> (Option<i32>, Vec<u8>, String) {
    let output = command.output().expect("it can be run");
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn mistakes_are_told_with_their_remedy() {
    let check = |arguments: &[&str], code: i32, expected: &str| {
        let mut command = ringmill();
        command.arg("proxy").args(arguments);
        let (status, _, errors) = run(command);
        assert_eq!(status, Some(code), "{errors}");
        assert!(errors.contains(expected), "{errors}");
    };
    check(&["8080"], 2, "<UPSTREAM>");
    check(&["127.0.0.1:0", "127.0.0.1:3000/path"], 2, "expected IP:PORT");
    check(&["127.0.0.1:0", "http://127.0.0.1:3000/path"], 2, "requests bring their paths");
    check(&["127.0.0.1:0", "3000", "--upstream-ca", "/x"], 1, "--upstream-ca is for https upstreams");
    check(&["127.0.0.1:0", "https://127.0.0.1", "--upstream-ca", "/nowhere/ca.pem"], 1, "/nowhere/ca.pem");
    check(&["127.0.0.1:0", "3000", "--check", "health"], 2, "is no path");
    check(&["127.0.0.1:0", "dns:api.internal"], 2, "HOST:PORT");
    check(&["127.0.0.1:0", "3000", "--resolver", "127.0.0.1:53"], 1, "write dns:NAME:PORT");
    check(&["127.0.0.1:0", "3000", "--tls-listen", "127.0.0.1:0"], 1, "--tls-listen needs a certificate");
    check(&["127.0.0.1:0", "3000", "--check-every", "1s"], 1, "--check says for what");
    check(&["127.0.0.1:0", "3000", "--trust", "10.0.0.1/8"], 2, "10.0.0.0/8");
    check(&["127.0.0.1:0", "3000", "--send-proxy", "1"], 2, "--tcp");
    check(&["127.0.0.1:0", "3000", "--tcp", "--send-proxy", "3"], 2, "[possible values: 1, 2]");
    check(&["127.0.0.1:0", "3000", "--udp", "--tcp"], 2, "cannot be used with");
    check(&["127.0.0.1:0", "unix:/tmp/x", "--udp"], 1, "passes datagrams on to IP:PORT");
    check(&["127.0.0.1:0", "3000", "--udp", "--check", "/"], 1, "have datagrams alone");
    check(&["unix:/tmp/x", "3000", "--udp"], 1, "takes datagrams on IP:PORT");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    check(&[&taken.local_addr().unwrap().to_string(), "3000"], 1, "in use");
}

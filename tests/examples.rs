//! The example programs, run as their readers run them, on both drivers.

mod common;

use common::http::{get, ok, receive, receive_chunk, receive_event, receive_head};
use common::program::{self, Program, example};
use common::{Client, PATIENCE, connect_to, on_both_drivers, pattern, ws};
use ringmill::DriverChoice;
use std::ffi::OsStr;
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStrExt;

/// Runs an example on a free port, and gives the address that it prints after `mark`.
#[track_caller]
fn run(name: &str, driver: DriverChoice, mark: &str) -> (Program, SocketAddr) {
    let mut command = example(name);
    command.arg("127.0.0.1:0").env("RINGMILL_DRIVER", driver.to_string());
    let program = Program::start(command, mark);
    let line = program.line_with(mark).unwrap();
    assert!(line.contains(&format!(" with {driver}")) || line.ends_with(" workers"), "{line}");
    let address = program.address_after(mark);
    (program, address)
}

#[test]
fn echo() {
    on_both_drivers(|driver| {
        let (_program, address) = run("echo", driver, "echo on ");
        let mut client = connect_to(address);
        client.ask("hello", "hello");
        client.ask(pattern(0, 100_000), pattern(0, 100_000));
        client.shutdown(Shutdown::Write).unwrap();
        client.expect_eof();
    });
}

#[test]
fn an_empty_variable_leaves_the_choice_of_the_driver() {
    let mut command = example("echo");
    command.arg("127.0.0.1:0").env("RINGMILL_DRIVER", "");
    Program::start(command, "echo on ");
    let mut command = example("echo");
    command.arg("127.0.0.1:0").env("RINGMILL_DRIVER", OsStr::from_bytes(b"\xff"));
    let (code, _, errors) = program::run(command);
    assert!(code != Some(0) && errors.contains("RINGMILL_DRIVER"), "{errors}");
}

#[test]
fn chat() {
    on_both_drivers(|driver| {
        let (_program, address) = run("chat", driver, "chat on ");
        let text = |text: &str| ws::unmasked(0x81, text.as_bytes());
        let mut ann = ws::open(address, "/ws?name=ann");
        ann.expect(text("ann joined"));
        let mut bob = ws::open(address, "/ws?name=bob");
        ann.expect(text("bob joined"));
        bob.expect(text("bob joined"));
        let mut page = connect_to(address);
        page.send(get("/events"));
        assert_eq!(receive_head(&mut page).field("content-type"), Some("text/event-stream"));
        receive_chunk(&mut page);
        bob.send(ws::text("hello"));
        ann.expect(text("bob: hello"));
        bob.expect(text("bob: hello"));
        let event = receive_event(&mut page).unwrap();
        assert!(event.ends_with("\ndata: bob: hello\n\n"), "{event:?}");
        drop(bob);
        ann.expect(text("bob left"));
    });
}

#[test]
fn websocket_echo() {
    on_both_drivers(|driver| {
        let (_program, address) = run("websocket_echo", driver, "websocket on ");
        let mut client = ws::open(address, "/ws");
        client.ask(ws::text("hello"), ws::unmasked(0x81, b"hello"));
        client.ask(ws::text("count"), ws::unmasked(0x81, b"2"));
        client.ask(ws::text("bye"), ws::closing(1000, "as you say"));
        client.send(ws::close(1000, ""));
        client.expect_eof();
    });
}

#[test]
fn udp_echo() {
    on_both_drivers(|driver| {
        let (_program, address) = run("udp_echo", driver, "udp echo on ");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(address).unwrap();
        for datagram in [&b"hello"[..], b"", &pattern(0, 1400)] {
            socket.send(datagram).unwrap();
            let mut buffer = [0; 2000];
            let bytes = socket.recv(&mut buffer).expect("an answer");
            assert_eq!(&buffer[..bytes], datagram);
        }
    });
}

#[test]
fn http_hello() {
    on_both_drivers(|driver| {
        let (_program, address) = run("http_hello", driver, "http on ");
        common::http::check(address, get("/"), ok("Hello, World!\n"));
        common::http::check(address, get("/Ada"), ok("Hello, Ada!\n"));
        common::http::check(address, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ok("Hello, !\n"));
    });
}

#[test]
fn async_hello() {
    on_both_drivers(|driver| {
        let (_program, address) = run("async_hello", driver, "http on ");
        let mut client = connect_to(address);
        for (target, text) in [("/?ms=30", "Hello after 30 ms!\n"), ("/", "Hello after 10 ms!\n")] {
            client.send(get(target));
            assert_eq!(receive(&mut client).text(), text);
        }
    });
}

#[test]
fn axum_app() {
    on_both_drivers(|driver| {
        let (_program, address) = run("axum_app", driver, "axum on http://");
        let mut client = connect_to(address);
        client.send(get("/hello/Ada"));
        assert_eq!(receive(&mut client).text(), "Hello, Ada at 127.0.0.1!\n");
        client.send(
            common::http::post("/sum", r#"{"numbers":[1,2]}"#)
                .replace("Host", "Content-Type: application/json\r\nHost"),
        );
        assert_eq!(receive(&mut client).text(), r#"{"numbers":[1,2],"sum":3}"#);
    });
}

#[test]
fn shared_nothing() {
    on_both_drivers(|driver| {
        let (_program, address) = run("shared_nothing", driver, "http on ");
        // All requests of one connection meet one worker, whose count goes up by one each time.
        let mut client = connect_to(address);
        let served = |client: &mut TcpStream| {
            client.send(get("/"));
            let text = receive(client).text().to_owned();
            let words: Vec<&str> = text.split([' ', ',']).collect();
            assert!(
                matches!(words[..], ["worker", _, "served", _, "", "all", "together", "about", _]),
                "{text}"
            );
            (words[1].to_owned(), words[3].parse::<u64>().unwrap())
        };
        let (worker, first) = served(&mut client);
        assert_eq!(first, 1);
        for n in 2..10 {
            assert_eq!(served(&mut client), (worker.clone(), n));
        }
    });
}

/// A command as redis-cli sends it.
fn command(arguments: &[&str]) -> String {
    let mut text = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        text += &format!("${}\r\n{argument}\r\n", argument.len());
    }
    text
}

#[test]
fn custom_protocol() {
    on_both_drivers(|driver| {
        let (_program, address) = run("custom_protocol", driver, "key-value store on ");
        let mut client = connect_to(address);
        let story: [(&[&str], &str); 14] = [
            (&["PING"], "+PONG\r\n"),
            (&["ping", "hello"], "$5\r\nhello\r\n"),
            (&["COMMAND", "DOCS"], "*0\r\n"),
            (&["GET", "name"], "$-1\r\n"),
            (&["SET", "name", "Ada"], "+OK\r\n"),
            (&["get", "name"], "$3\r\nAda\r\n"),
            (&["SET", "name", "two\r\nlines"], "+OK\r\n"),
            (&["GET", "name"], "$10\r\ntwo\r\nlines\r\n"),
            (&["SET", "empty", ""], "+OK\r\n"),
            (&["GET", "empty"], "$0\r\n\r\n"),
            (&["DBSIZE"], ":2\r\n"),
            (&["SET", "name"], "-ERR wrong number of arguments\r\n"),
            (&["DEL", "name", "empty", "nothing"], ":2\r\n"),
            (&["DBSIZE"], ":0\r\n"),
        ];
        let asked: String = story.iter().map(|(arguments, _)| command(arguments)).collect();
        let expected: String = story.iter().map(|(_, answer)| *answer).collect();
        for (arguments, answer) in story {
            client.ask(command(arguments), answer);
        }
        client.ask(&asked, &expected);
        for byte in asked.as_bytes() {
            client.send([*byte]);
        }
        client.expect(&expected);

        let long = "x".repeat(512 * 1024);
        client.ask(command(&["SET", "long", &long]), "+OK\r\n");
        // More answers than the output holds: the store waits for its reader.
        for _ in 0..20 {
            client.send(command(&["GET", "long"]));
        }
        for _ in 0..20 {
            client.expect(format!("${}\r\n{long}\r\n", long.len()));
        }
        client.send(command(&["FLY"]));
        client.expect("-ERR unknown command");
    });
}

#[test]
fn custom_protocol_refuses_what_is_malformed() {
    on_both_drivers(|driver| {
        let (_program, address) = run("custom_protocol", driver, "key-value store on ");
        for malformed in [
            "GET name\r\n",
            "*x\r\n",
            "*-1\r\n",
            "*1\n",
            "*65\r\n",
            "*99999999999999999999\r\n",
            "*1\r\n+OK\r\n",
            "*1\r\n$524289\r\n",
            "*1\r\n$-1\r\n",
            "*1\r\n$3\r\nPINGING\r\n",
        ] {
            let mut client = connect_to(address);
            client.ask(command(&["PING"]), "+PONG\r\n");
            client.send(malformed);
            client.expect("-ERR Protocol error: ");
            let rest = client.rest();
            assert!(rest.ends_with(b"\r\n") && rest.len() > 10, "{malformed:?}: {rest:?}");
        }
    });
}

#[test]
fn each_has_its_line_in_the_index() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let index = std::fs::read_to_string(root.join("README.md")).unwrap();
    for folder in [root.clone(), root.join("backend/src/bin")] {
        let mut programs = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.file_stem().unwrap().to_str().unwrap();
                assert!(
                    index.contains(&format!("\n| `{name}` | ")),
                    "{name} has no line in examples/README.md"
                );
                programs += 1;
            }
        }
        assert!(programs > 5);
    }
}

/// They are compiled there as a test of documentation: the workspace of the README has no tonic.
#[test]
fn the_readme_has_the_lines_of_grpc_that_the_backend_compiles() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiled = std::fs::read_to_string(root.join("examples/backend/src/lib.rs")).unwrap();
    let lines = compiled.lines().skip_while(|line| *line != "//! ```no_run").skip(1);
    let lines =
        lines.take_while(|line| *line != "//! ```").map(|line| line[3..].strip_prefix(' ').unwrap_or(""));
    let lines = lines.collect::<Vec<_>>().join("\n");
    assert!(lines.lines().count() > 5);
    assert!(
        std::fs::read_to_string(root.join("README.md"))
            .unwrap()
            .contains(&format!("```rust,ignore\n{lines}\n```"))
    );
}

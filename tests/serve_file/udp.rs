//! Listeners of `udp`: datagrams as they are, by the file.

use super::*;
use std::net::UdpSocket;

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// `word` passes in both directions. Where the server sees the client, for what is to be compared.
#[track_caller]
fn talk(client: &UdpSocket, server: &UdpSocket, word: &str) -> SocketAddr {
    let mut buffer = [0; 100];
    client.send(word.as_bytes()).unwrap();
    let (bytes, flow) = server.recv_from(&mut buffer).expect("it is passed on");
    assert_eq!(&buffer[..bytes], word.as_bytes());
    server.send_to(word.as_bytes(), flow).unwrap();
    let bytes = client.recv(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..bytes], word.as_bytes());
    flow
}

fn udp(address: SocketAddr, table: &str, keys: &str) -> String {
    format!("[[listen]]\naddress = \"{address}\"\nudp = {{ {table} }}\n{keys}\n")
}

#[test]
fn datagrams_are_passed_on_and_flows_outlive_changes() {
    on_both_drivers(|driver| {
        let (one, two) = (socket(), socket());
        let [one_at, two_at] = [&one, &two].map(|server| server.local_addr().unwrap());
        let (relay, stats) = (free(), free());
        // The same address serves TCP as well, as DNS does.
        let file = |listens: &str, servers: &str| {
            format!(
                "{listens}{}[[route]]\nreply = {{ status = 200, body = \"over TCP\" }}\n[upstream.one]\nservers = [{servers}]\n\
                 balance = \"round-robin\"\n[upstream.two]\nservers = [\"{two_at}\"]\n",
                listen(&relay.to_string()),
            )
        };
        let first = format!("\"{one_at}\"");
        let keys = format!("stats = \"{stats}\"\ndrain = \"300ms\"");
        let served = Served::start_with(driver, &keys, &file(&udp(relay, "to = \"one\"", ""), &first));
        let client = socket();
        client.connect(relay).unwrap();
        let flow = talk(&client, &one, "first");
        let mut over_tcp = connect_to(relay);
        over_tcp.send(get("/"));
        assert!(receive(&mut over_tcp).text().contains("over TCP"));

        // Another server beside its own, and another upstream for new clients: the flow stays, and so does its socket.
        served.follow(&file(&udp(relay, "to = \"one\"", ""), &format!("\"{one_at}\", \"127.0.0.1:9\"")));
        assert_eq!(talk(&client, &one, "second"), flow);
        let changed = served.follow(&file(&udp(relay, "to = \"two\", idle = \"1m\"", ""), &first));
        assert!(changed.contains("changes"), "{changed}");
        let other = socket();
        other.connect(relay).unwrap();
        talk(&other, &two, "another upstream");
        let mut reader = connect_to(stats);
        reader.send(get("/stats"));
        let told: serde_json::Value = serde_json::from_str(receive(&mut reader).text()).unwrap();
        assert_eq!((&told["flows"], &told["flows_opened"]), (&2.into(), &2.into()));
        let servers = told["upstreams"].as_array().unwrap();
        let at_two = servers.iter().find(|server| server["address"] == two_at.to_string()).unwrap();
        let expected = serde_json::json!({ "to": 1, "bytes_to": 16, "from": 1, "bytes_from": 16 });
        assert_eq!((&at_two["flows"], &at_two["datagrams"]), (&1.into(), &expected));

        // Its server is gone from the file: with its next datagram the client has another one.
        served.follow(&file(&udp(relay, "to = \"two\"", ""), "\"127.0.0.1:9\""));
        talk(&client, &two, "elsewhere");
        // Nobody may begin a flow any more; who has one goes on.
        served.follow(&file(&udp(relay, "to = \"two\"", "deny = \"127.0.0.0/8\""), &first));
        talk(&client, &two, "still here");
        let third = socket();
        third.connect(relay).unwrap();
        third.send(b"denied").unwrap();
        eventually(true, || {
            reader.send(get("/stats"));
            let told: serde_json::Value = serde_json::from_str(receive(&mut reader).text()).unwrap();
            told["gate"]["denied"] == 1 && told["datagrams_ignored"] == 1
        });

        // The listener goes, after the time that its flows have; and comes again.
        served.follow(&file("", &first));
        eventually(true, || {
            let _ = client.send(b"gone?");
            client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let gone = client.recv(&mut [0; 9]);
            gone.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        served.follow(&file(&udp(relay, "to = \"one\"", ""), &first));
        talk(&client, &one, "and back");
    });
}

#[test]
fn a_listener_of_datagrams_is_checked_and_explained() {
    let directory = Directory::new();
    let file = directory.file("ringmill.toml");
    let check = |text: &str, expected: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut command = ringmill();
        command.args(["check", &file]);
        let (code, output, errors) = run(command);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
        expected.iter().for_each(|line| assert!(errors.contains(line), "{line:?} is not in\n{errors}"));
    };
    check(
        "[[listen]]\naddress = \"unix:/tmp/x\"\nudp = { to = \"dsn\", flows = 0 }\ntcp = { to = \"dns\" }\nproxy_protocol = [\"unix\"]\n\
         [[listen]]\naddress = \"127.0.0.1:53\"\nudp = { to = \"dns\" }\n[[listen]]\naddress = \"127.0.0.1:53\"\nudp = { to = \"dns\" }\n\
         [upstream.dns]\nservers = [\"unix:/tmp/dns\"]\n",
        &[
            "`udp` and `tcp` exclude each other",
            "`udp` and `proxy_protocol` exclude each other",
            "an IP address and port",
            "at least 1",
            "did you mean \"dns\"?",
            "127.0.0.1:53 is listed twice",
            "one of its servers takes none",
        ],
    );
    check(
        "[[listen]]\naddress = \"127.0.0.1:53\"\nudp = { to = \"dns\" }\n\
         [upstream.dns]\nservers = [\"127.0.0.1:53\"]\nhealth = { path = \"/\" }\n",
        &["upstream \"dns\" has datagrams alone, and `health` asks over HTTP"],
    );
    let text = "[[listen]]\naddress = \"127.0.0.1:53\"\nudp = { to = \"dns\", replies = 1 }\nallow = \"192.0.2.0/24\"\n\
                [upstream.dns]\nservers = [\"10.0.0.1:53\"]\n";
    std::fs::write(&file, text).unwrap();
    let mut command = ringmill();
    command.args(["explain", "ASK", "udp://x.test:53", "--config", &file]);
    let (code, output, errors) = run(command);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    for line in ["127.0.0.1:53", "gate", "dns: 10.0.0.1:53", "10000 flows", "30s without", "1 answer(s)"] {
        assert!(output.contains(line), "{line:?} is not in\n{output}");
    }
}

//! Every peer serves the same site: each program is started, and its replies are checked to the last byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmill_peers::blind::REPLY;
use ringmill_peers::rpc::Text;
use ringmill_peers::rpc::texts_client::TextsClient;
use ringmill_peers::site::Pieces;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

const PATIENCE: Duration = Duration::from_secs(30);

/// A peer that is killed at the end.
struct Peer {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    fn start(program: &str, arguments: &[&str]) -> Peer {
        // One of them cannot tell which free port it took, so all are given one.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(program);
        command
            .args(["--listen", &address.to_string()])
            .args(arguments)
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, format!("listening {address}\n"), "{program}");
        Peer { child, address }
    }

    /// It says that it listens before it accepts, so a first connection may come too early.
    fn connect(&self) -> TcpStream {
        let end = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Head and body of one reply.
fn receive(stream: &mut impl BufRead) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "closed after {head:?}");
    }
    let lower = head.to_ascii_lowercase();
    let (_, length) = lower
        .split_once("content-length: ")
        .unwrap_or_else(|| panic!("no length: {head}"));
    let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

/// How long the head of `/plaintext` is.
enum Head {
    AsRingmill,
    /// The framework writes other words.
    Own,
}

fn check(program: &str, arguments: &[&str], head: Head) {
    let peer = Peer::start(program, arguments);
    check_over(peer.connect(), program, head);
}

fn check_over(stream: impl Read + Write, program: &str, head: Head) {
    let mut stream = BufReader::new(stream);
    let mut ask = |request: &[u8], media_type: &str, expected: &[u8]| {
        stream.get_mut().write_all(request).unwrap();
        let (head, body) = receive(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 "), "{program}: {head}");
        let lower = head.to_ascii_lowercase();
        for field in [
            format!("\r\ncontent-type: {media_type}\r\n"),
            "\r\nserver: ".into(),
            "\r\ndate: ".into(),
        ] {
            assert!(lower.contains(&field), "{program}: {field:?} in {head}");
        }
        assert!(
            body == expected,
            "{program}: {} bytes of body, {} expected",
            body.len(),
            expected.len()
        );
        head.len() + body.len()
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    let size = ask(&get("/plaintext"), "text/plain", b"Hello, World!");
    if matches!(head, Head::AsRingmill) {
        assert_eq!(size, REPLY.len(), "{program}");
    }
    ask(
        &get("/json"),
        "application/json",
        br#"{"message":"Hello, World!"}"#,
    );
    if ["axum_readme", "axum_percore", "ringmill_app"]
        .iter()
        .any(|app| program.ends_with(app))
    {
        ask(&get("/pending"), "text/plain", b"Hello, World!");
    }
    for count in [1, 300, 65_536, 1_000_000] {
        let expected: Vec<u8> = Pieces::new(count).flatten().collect();
        ask(
            &get(&format!("/bytes/{count}")),
            "application/octet-stream",
            &expected,
        );
    }
    let upload = [
        b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n".as_slice(),
        &[b'x'; 300_000],
    ];
    ask(&upload.concat(), "text/plain", b"300000");
    // A burst is answered in full and in order.
    let burst = [get("/plaintext"), get("/json"), get("/plaintext")].concat();
    stream.get_mut().write_all(&burst).unwrap();
    let bodies = [0; 3].map(|_| receive(&mut stream).1.len());
    assert_eq!(bodies, [13, 27, 13], "{program}");
}

#[test]
fn tokio_by_hand() {
    check(
        env!("CARGO_BIN_EXE_tokio_hand"),
        &["--workers", "2"],
        Head::AsRingmill,
    );
}

#[test]
fn hyper() {
    check(
        env!("CARGO_BIN_EXE_hyper_percore"),
        &["--workers", "2"],
        Head::AsRingmill,
    );
}

/// The same over TLS, with the certificate that it was given, and resumed on any worker.
#[test]
fn hyper_over_tls() {
    let folder = std::env::temp_dir().join(format!("ringmill-peers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let names = ["localhost".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let file = |name: &str, text: String| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (cert_file, key_file) = (
        file("cert.pem", cert.pem()),
        file("key.pem", signing_key.serialize_pem()),
    );
    let program = env!("CARGO_BIN_EXE_hyper_tls");
    let options = ["--workers", "2", "--tls-cert", &cert_file, "--tls-key", &key_file];
    let peer = Peer::start(program, &options);
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let client = Arc::new(client);
    for connection in 0..8 {
        let tls = ClientConnection::new(client.clone(), "localhost".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(tls, peer.connect());
        check_over(&mut stream, program, Head::AsRingmill);
        let kind = match connection {
            0 => HandshakeKind::Full,
            _ => HandshakeKind::Resumed,
        };
        assert_eq!(
            stream.conn.handshake_kind(),
            Some(kind),
            "connection {connection}"
        );
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Copied and spliced: many bytes come through, and an end is passed on while the other way goes on.
#[test]
fn relays() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // So little room for so much that the relay has to keep what does not fit.
    socket2::SockRef::from(&listener)
        .set_recv_buffer_size(16 * 1024)
        .unwrap();
    let to = listener.local_addr().unwrap().to_string();
    // Answers only when all has come, with the same in reverse.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut received) = (stream.unwrap(), Vec::new());
            stream.read_to_end(&mut received).unwrap();
            received.reverse();
            stream.write_all(&received).unwrap();
        }
    });
    let sent: Vec<u8> = Pieces::new(20_000_000).flatten().collect();
    for options in [&["--to", &to][..], &["--to", &to, "--splice"]] {
        let relay = Peer::start(env!("CARGO_BIN_EXE_blind_relay"), options);
        for sent in [&sent[..100], &sent] {
            let (mut stream, mut received) = (relay.connect(), Vec::new());
            stream.write_all(sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.read_to_end(&mut received).unwrap();
            assert!(
                received.iter().eq(sent.iter().rev()),
                "{options:?}, {} bytes",
                sent.len()
            );
        }
    }
}

#[test]
fn axum() {
    check(
        env!("CARGO_BIN_EXE_axum_readme"),
        &["--workers", "2"],
        Head::AsRingmill,
    );
}

#[test]
fn axum_percore() {
    let program = env!("CARGO_BIN_EXE_axum_percore");
    check(program, &["--workers", "2"], Head::AsRingmill);
    check_calls(program, &["--workers", "2", "--http2"]);
}

#[test]
fn ringmill_app() {
    let program = env!("CARGO_BIN_EXE_ringmill_app");
    for driver in ["auto", "poll"] {
        check(program, &["--workers", "2", "--driver", driver], Head::AsRingmill);
        check_calls(program, &["--workers", "2", "--driver", driver]);
    }
}

/// The app answers a call over HTTP/2 with the text that it was sent.
fn check_calls(program: &str, arguments: &[&str]) {
    let peer = Peer::start(program, arguments);
    drop(peer.connect());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let channel = tonic::transport::Endpoint::new(format!("http://{}", peer.address))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = TextsClient::new(channel);
        for text in ["Hello, World!", "", "more"] {
            let answer = client
                .echo(Text {
                    text: text.to_owned(),
                })
                .await
                .unwrap();
            assert_eq!(answer.into_inner().text, text, "{program}");
        }
    });
}

#[test]
fn actix_web() {
    check(
        env!("CARGO_BIN_EXE_actix_web"),
        &["--workers", "2"],
        Head::AsRingmill,
    );
}

#[test]
fn may_minihttp() {
    check(env!("CARGO_BIN_EXE_may_minihttp"), &["--workers", "1"], Head::Own);
}

/// Where io_uring is forbidden these cannot run; the test says so instead.
fn on_io_uring(program: &str) {
    match io_uring::IoUring::new(2) {
        Ok(_) => check(program, &["--workers", "1"], Head::AsRingmill),
        Err(error) => eprintln!("{program} was not tested: no io_uring here: {error}"),
    }
}

#[test]
fn tokio_uring_by_hand() {
    on_io_uring(env!("CARGO_BIN_EXE_tokio_uring_hand"));
}

#[test]
fn monoio_by_hand() {
    on_io_uring(env!("CARGO_BIN_EXE_monoio_hand"));
}

#[test]
fn ntex() {
    on_io_uring(env!("CARGO_BIN_EXE_ntex_uring"));
}

#[test]
fn datagrams_come_back() {
    for (program, arguments) in [
        (env!("CARGO_BIN_EXE_blind_udp"), &[][..]),
        (env!("CARGO_BIN_EXE_tokio_hand"), &["--udp"]),
    ] {
        let peer = Peer::start(program, arguments);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"there and back").unwrap();
        let mut buffer = [0; 64];
        let count = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"there and back", "{program}");
    }
}

/// A WebSocket by hand: its handshake with the one key that the blind one knows.
fn websocket(peer: &Peer, deflates: bool) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(peer.connect());
    let extension = if deflates {
        "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    } else {
        ""
    };
    let request = format!(
        "GET /ws/a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cmluZ21pbGwgYnkgbG9hZA==\r\n{extension}\r\n"
    );
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "closed after {head:?}");
    }
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("vusQnpZXmljK/pgC8Omn/zo7Agg="), "{head}");
    assert_eq!(head.contains("permessage-deflate"), deflates, "{head}");
    stream
}

/// A short message of text, masked.
fn message(text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let masked = text
        .bytes()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask);
    let header = [0x81, 0x80 | text.len() as u8];
    header.into_iter().chain(mask).chain(masked).collect()
}

fn short_frame(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut header = [0; 2];
    stream.read_exact(&mut header).unwrap();
    let mut payload = vec![0; header[1].into()];
    stream.read_exact(&mut payload).unwrap();
    (header[0], payload)
}

#[test]
fn websockets_echo() {
    for program in [
        env!("CARGO_BIN_EXE_tungstenite_ws"),
        env!("CARGO_BIN_EXE_fastwebsockets_ws"),
    ] {
        let peer = Peer::start(program, &["--workers", "2"]);
        let mut stream = websocket(&peer, false);
        let texts = ["one", "", "three"];
        let burst: Vec<u8> = texts.iter().flat_map(|text| message(text)).collect();
        stream.get_mut().write_all(&burst).unwrap();
        for text in texts {
            assert_eq!(short_frame(&mut stream), (0x81, text.into()), "{program}");
        }
    }
}

#[test]
fn a_blind_fan_sends_everybody_the_same() {
    let mut ways = vec![&[][..], &["--deflate"]];
    match io_uring::IoUring::new(2) {
        Ok(_) => ways.push(&["--uring"]),
        Err(error) => eprintln!("blind_fan --uring was not tested: no io_uring here: {error}"),
    }
    let text = "and again and again and again and again";
    for arguments in ways {
        let deflates = arguments == ["--deflate"];
        let peer = Peer::start(env!("CARGO_BIN_EXE_blind_fan"), arguments);
        let mut readers = [0; 3].map(|_| websocket(&peer, deflates));
        // Who is no WebSocket yet is sent nothing.
        let mut late = peer.connect();
        for _ in 0..2 {
            readers[1].get_mut().write_all(&message(text)).unwrap();
            for reader in &mut readers {
                let (first, payload) = short_frame(reader);
                if !deflates {
                    assert_eq!((first, payload), (0x81, text.into()), "{arguments:?}");
                    continue;
                }
                let mut inflated = [0; 256];
                let mut inflater = zlib_rs::Inflate::new(false, 15);
                inflater
                    .decompress(&payload, &mut inflated, zlib_rs::InflateFlush::SyncFlush)
                    .unwrap();
                let inflated = &inflated[..inflater.total_out() as usize];
                assert_eq!((first, inflated), (0xc1, text.as_bytes()));
                assert!(payload.len() < text.len());
            }
        }
        late.set_nonblocking(true).unwrap();
        let error = late.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}

//! WebSocket over sockets, on both drivers: what peers of ours do wrong, limits, large messages, the end.
#![cfg(feature = "websocket")]

mod common;

use common::http::get;
use common::ws::{
    Frame, binary, close, closing, expect_close, handshake, head, masked, open, receive, receive_message,
    text, unmasked, upgrade,
};
use common::*;
use ringmill::http::{self, Request};
use ringmill::websocket::{
    Accept, Closed, Deflate, Endpoint, Handler, Message, Options, Origins, Piece, SharedMessage, Ws,
};
use ringmill::{Config, DriverChoice, Running};
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answers with what it is sent, does what it is told, and writes down how connections ended.
#[derive(Clone, Default)]
struct Site {
    ends: Arc<Mutex<Vec<String>>>,
}

impl Handler for Site {
    type State = usize;

    fn accept(&mut self, request: &Request<'_>, accept: &mut Accept<'_>) -> Option<usize> {
        match request.query() {
            Some("no") => return None,
            Some("teapot") => {
                accept.refuse(418);
                return None;
            }
            Some("panic") => panic!("on purpose"),
            _ => {}
        }
        if accept.protocols().contains(&"second") {
            assert!(accept.choose("second") && !accept.choose("third") && accept.choose("second"));
        }
        Some(0)
    }

    fn open(&mut self, _: &mut usize, ws: &mut Ws<'_>) {
        if self.ends.lock().unwrap().iter().any(|end| end == "greet") {
            ws.send("hello");
        }
    }

    fn message(&mut self, count: &mut usize, message: Message<'_>, ws: &mut Ws<'_>) {
        *count += 1;
        match message {
            Message::Text("count") => ws.send(&count.to_string()),
            Message::Text("close") => ws.close(4001, "as you say"),
            Message::Text("bad close") => ws.close(1005, ""),
            Message::Text("panic") => panic!("on purpose"),
            Message::Text("large") => {
                ws.send_shared(&SharedMessage::binary(pattern(0, 20_000_000)));
                ws.send("behind it");
                ws.close(1000, "and behind that");
            }
            Message::Text("parts") => {
                ws.send_part("one, ", false);
                ws.send("within");
                ws.send_part("two, ", false);
                ws.send_part("three", true);
                ws.send("after");
            }
            Message::Text("flood") => {
                while ws.is_open() {
                    ws.send(&[0; 10_000][..]);
                }
            }
            Message::Text("empty flood") => {
                ws.send_shared(&SharedMessage::binary(pattern(0, 20_000_000)));
                let sent = (0..1_000_000).take_while(|_| {
                    ws.send("");
                    ws.is_open()
                });
                assert!(sent.count() < 100_000, "messages without bytes cost memory as well");
            }
            Message::Text("wake") => {
                let waker = ws.waker();
                std::thread::spawn(move || waker.wake());
            }
            Message::Text("room") => {
                ws.send(&pattern(0, 300_000)[..]);
                ws.notify_room();
            }
            message => ws.send(message),
        }
    }

    fn piece(&mut self, count: &mut usize, piece: Piece<'_>, ws: &mut Ws<'_>) {
        *count += piece.part.as_bytes().len();
        if piece.is_last {
            ws.send(&format!("{} {count}", if piece.part.is_text() { "text" } else { "binary" }));
            *count = 0;
        }
    }

    fn room(&mut self, _: &mut usize, ws: &mut Ws<'_>) {
        ws.send("room");
    }

    fn wake(&mut self, _: &mut usize, ws: &mut Ws<'_>) {
        ws.send("woken");
    }

    fn closed(&mut self, count: usize, closed: Closed<'_>) {
        let clean = if closed.is_clean { "clean" } else { "unclean" };
        self.ends.lock().unwrap().push(format!("{count} {} {} {clean}", closed.code, closed.reason));
    }
}

impl Site {
    fn start(&self, config: Config, options: Options) -> Running {
        let site = self.clone();
        start(config, move |_| {
            let endpoint = Endpoint::with_options(site.clone(), options.clone());
            http::server(|_, reply| reply.text("http")).websocket("/ws", endpoint)
        })
    }

    #[track_caller]
    fn expect_end(&self, expected: &str) {
        eventually(vec![expected.to_owned()], || self.ends.lock().unwrap().clone());
        self.ends.lock().unwrap().clear();
    }
}

fn serve(driver: DriverChoice, options: Options) -> Running {
    Site::default().start(config(driver), options)
}

fn client(running: &Running) -> TcpStream {
    open(ip(&running.addresses()[0]), "/ws")
}

fn deflate() -> Options {
    Options { deflate: Some(Deflate::default()), ..Options::default() }
}

#[test]
fn messages_go_back_whole() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options { message_bytes_max: 1 << 20, ..Options::default() });
        let mut client = client(&running);
        client.ask(text("hello"), unmasked(0x81, b"hello"));
        client.ask(text(""), unmasked(0x81, b""));
        for bytes in [0, 1, 125, 126, 65535, 65536] {
            client.ask(binary(&pattern(0, bytes)), unmasked(0x82, &pattern(0, bytes)));
        }
        client.send(binary(&pattern(0, 1 << 20)));
        assert_eq!(receive_message(&mut client), Frame(0x82, pattern(0, 1 << 20)));
        // In fragments, with a Ping between them, and pipelined.
        let parts = [
            masked(0x01, b"a "),
            masked(0x89, b"?"),
            masked(0x00, b""),
            masked(0x80, b"walk"),
            text("count"),
        ];
        client.ask(
            parts.concat(),
            [unmasked(0x8a, b"?"), unmasked(0x81, b"a walk"), unmasked(0x81, b"11")].concat(),
        );
        client.ask(close(1000, "bye"), closing(1000, ""));
        client.expect_eof();
    });
}

#[test]
fn http_is_served_beside_it() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options::default());
        let mut client = connect(&running);
        client.send(get("/"));
        assert_eq!(common::http::receive(&mut client).text(), "http");
        // The same connection becomes a WebSocket, and what came behind the handshake is its first input.
        client.send([handshake("/ws", "").as_bytes(), &text("early")].concat());
        assert!(head(&mut client).starts_with("HTTP/1.1 101 "));
        client.expect(unmasked(0x81, b"early"));
    });
}

#[test]
fn handshakes_that_are_none() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options::default());
        let good = handshake("/ws", "");
        let check = |request: &str, status: u16, field: &str| {
            let mut client = connect(&running);
            client.send(request);
            let answer = String::from_utf8(client.rest()).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{answer}");
            assert!(answer.contains(field), "{request}\n{answer}");
        };
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let with = |old: &str, new: &str| {
            assert!(good.contains(old));
            good.replace(old, new)
        };
        check(&with(key, ""), 400, "");
        check(&with(key, "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n"), 400, "");
        check(&with(key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=\r\n"), 400, "");
        check(&with(key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!==\r\n"), 400, "");
        check(&with(key, &key.repeat(2)), 400, "");
        let version = "Sec-WebSocket-Version: 13\r\n";
        check(&with(version, ""), 400, "");
        check(&with(version, &version.repeat(2)), 400, "");
        check(&with(version, "Sec-WebSocket-Version: 8\r\n"), 426, "\r\nsec-websocket-version: 13\r\n");
        check(&with("GET", "POST"), 405, "\r\nallow: GET\r\n");
        check(&with("GET", "HEAD"), 405, "\r\nallow: GET\r\n");
        check(&with("HTTP/1.1", "HTTP/1.0"), 400, "");
        check(&with("Connection: Upgrade\r\n", ""), 426, "\r\nupgrade: websocket\r\n");
        check(&with("Upgrade: websocket\r\n", ""), 426, "\r\nupgrade: websocket\r\n");
        check(&with("Upgrade: websocket", "Upgrade: h2c"), 426, "\r\nconnection: upgrade\r\n");
        check(&with("Upgrade: websocket\r\n", &"Upgrade: websocket\r\n".repeat(2)), 400, "");
        check(&handshake("/ws", "Content-Length: 5\r\n"), 400, "");
        check(&handshake("/ws", "Transfer-Encoding: chunked\r\n"), 400, "");
        check(&handshake("/ws", "Origin: http://evil\r\n"), 403, "");
        check(&handshake("/ws", "Origin: null\r\n"), 403, "");
        check(&handshake("/ws", "Origin: http://test\r\nOrigin: http://test\r\n"), 400, "");
        check(&handshake("/ws", "Sec-WebSocket-Extensions: a;;b\r\n"), 400, "");
        check(&handshake("/ws", "Sec-WebSocket-Protocol: a b\r\n"), 400, "");
        check(&handshake("/ws?no", ""), 403, "");
        check(&handshake("/ws?teapot", ""), 418, "");
        check(&handshake("/ws?panic", ""), 500, "");
        assert_eq!(running.stats().total().panics, 1);
    });
}

#[test]
fn handshakes_that_are_good() {
    on_both_drivers(|driver| {
        let running = serve(driver, deflate());
        let check = |request: &str, field: &str| {
            let mut client = connect(&running);
            client.send(request);
            let answer = head(&mut client);
            assert!(answer.starts_with("HTTP/1.1 101 "), "{request}\n{answer}");
            assert!(answer.contains(field), "{request}\n{answer}");
            client.ask(text("hello"), unmasked(0x81, b"hello"));
            answer
        };
        check(&handshake("/ws", "Origin: http://test\r\n"), "");
        check(&handshake("/ws", "Origin: HTTP://TEST\r\n".to_lowercase().as_str()), "");
        check(&handshake("/ws", "Content-Length: 0\r\n"), "");
        check(&handshake("/ws", "").replace("websocket", "WebSocket"), "");
        check(&handshake("/ws", "").replace("Connection: Upgrade", "Connection: keep-alive, upgrade"), "");
        let protocols = "Sec-WebSocket-Protocol: first,, second\r\nSec-WebSocket-Protocol: fourth\r\n";
        check(&handshake("/ws", protocols), "\r\nsec-websocket-protocol: second\r\n");
        let none = check(&handshake("/ws", "Sec-WebSocket-Protocol: first\r\n"), "");
        assert!(!none.contains("protocol"), "{none}");
        let offer = "Sec-WebSocket-Extensions: x, permessage-deflate; client_max_window_bits\r\n";
        check(
            &handshake("/ws", offer),
            "\r\nsec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
        );
        let list = Origins::List(vec!["https://friend".to_owned()]);
        let running = serve(driver, Options { origins: list, ..Options::default() });
        let mut client = connect(&running);
        upgrade(&mut client, "/ws", "Origin: https://friend\r\n");
        let running = serve(driver, Options { origins: Origins::Any, ..Options::default() });
        let mut client = connect(&running);
        let answer = upgrade(&mut client, "/ws", &format!("Origin: null\r\n{offer}"));
        assert!(!answer.contains("extensions"), "{answer}");
    });
}

#[test]
fn frames_that_break_a_rule_are_answered_with_a_code() {
    on_both_drivers(|driver| {
        let running = serve(driver, deflate());
        let check = |input: &[u8], code: u16| {
            // What came before is answered, and the Close frame says why.
            let mut client = connect(&running);
            upgrade(&mut client, "/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n");
            client.send([&text("before"), input].concat());
            client.expect(unmasked(0x81, b"before"));
            assert_eq!(expect_close(&mut client), code, "{}", show(input));
        };
        check(&unmasked(0x81, b"not masked"), 1002);
        check(&[0x82, 0xfe, 0, 5, 1, 2, 3, 4], 1002);
        check(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4], 1002);
        check(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1002);
        check(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4], 1009);
        check(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4], 1009);
        check(&masked(0x91, b"RSV3"), 1002);
        check(&masked(0xa1, b"RSV2"), 1002);
        check(&[masked(0x41, &[0xf2]), masked(0xc0, b"RSV1 again")].concat(), 1002);
        check(&masked(0xc9, b"RSV1"), 1002);
        check(&masked(0x83, b"reserved"), 1002);
        check(&masked(0x8f, b"reserved"), 1002);
        check(&masked(0x09, b"in fragments"), 1002);
        check(&masked(0x89, &[0; 126]), 1002);
        check(&masked(0x80, b"of nothing"), 1002);
        check(&[masked(0x01, b"a"), text("b")].concat(), 1002);
        check(&masked(0x81, b"\xff"), 1007);
        check(&[masked(0x01, b"\xe2\x82"), masked(0x80, b"\x28")].concat(), 1007);
        check(&[masked(0x01, b"\xe2\x82"), masked(0x80, b"")].concat(), 1007);
        check(&masked(0xc1, b"not compressed"), 1007);
        check(&masked(0x88, b"\x03"), 1002);
        check(&masked(0x88, b"\x03\xe8\xff"), 1007);
        for code in [0, 999, 1004, 1005, 1006, 1015, 2000, 5000] {
            check(&close(code, ""), 1002);
        }
        for code in [1000, 1001, 1011, 1012, 1013, 1014, 3000, 4999] {
            check(&close(code, "bye"), code);
        }
        check(&masked(0x01, b"").into_iter().chain(masked(0x00, b"").repeat(64)).collect::<Vec<_>>(), 1008);
        // Without a code: without one.
        let mut client = client(&running);
        client.ask(masked(0x88, b""), unmasked(0x88, b""));
        client.expect_eof();
    });
}

#[test]
fn text_is_judged_as_it_comes() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options::default());
        let mut client = client(&running);
        // A frame of 1000 bytes, of which the first ones are no text: nothing more is waited for.
        let frame = masked(0x81, &[b"ab\xf4\x90".as_slice(), &[b'x'; 996]].concat());
        client.send(&frame[..12]);
        assert_eq!(expect_close(&mut client), 1007);
    });
}

#[test]
fn a_message_that_is_too_large_is_refused_before_it_has_arrived() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options { message_bytes_max: 1000, ..Options::default() });
        let mut whole = client(&running);
        whole.ask(binary(&pattern(0, 1000)), unmasked(0x82, &pattern(0, 1000)));
        whole.send(&binary(&pattern(0, 1001))[..8]);
        assert_eq!(expect_close(&mut whole), 1009);
        let mut in_parts = client(&running);
        in_parts.send([masked(0x02, &pattern(0, 600)), masked(0x00, &pattern(0, 400))].concat());
        in_parts.send(&masked(0x80, b"x")[..6]);
        assert_eq!(expect_close(&mut in_parts), 1009);
    });
}

#[test]
fn of_a_burst_of_pings_only_some_are_answered_but_always_the_last() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options::default());
        let mut client = client(&running);
        let pings: Vec<u8> = (0..1000).flat_map(|n: u32| masked(0x89, &n.to_be_bytes())).collect();
        client.send([&pings, &close(1000, "")[..]].concat());
        let mut numbers = Vec::new();
        loop {
            match receive(&mut client) {
                Frame(0x8a, payload) => numbers.push(u32::from_be_bytes(payload.try_into().unwrap())),
                Frame(first, _) => {
                    assert_eq!(first, 0x88);
                    break;
                }
            }
        }
        assert!(numbers.is_sorted() && numbers.last() == Some(&999), "{numbers:?}");
        assert!((2..500).contains(&numbers.len()), "{numbers:?}");
    });
}

#[test]
fn control_frames_without_end_are_too_many() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options { control_frames_max: 50, ..Options::default() });
        let mut client = client(&running);
        client.send(masked(0x8a, b"").repeat(51));
        assert_eq!(expect_close(&mut client), 1008);
    });
}

#[test]
fn a_message_larger_than_the_output_goes_out_as_it_is_read() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options { message_bytes_max: 16 << 20, ..Options::default() });
        let mut there = client(&running);
        let mut back = there.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            for bytes in [5_000_000, 16 << 20, 1] {
                there.send(binary(&pattern(0, bytes)));
            }
        });
        for bytes in [5_000_000, 16 << 20, 1] {
            assert_eq!(receive_message(&mut back), Frame(0x82, pattern(0, bytes)));
        }
        sender.join().unwrap();
        back.send(text("large"));
        assert_eq!(receive_message(&mut back), Frame(0x82, pattern(0, 20_000_000)));
        back.expect([unmasked(0x81, b"behind it"), closing(1000, "and behind that")].concat());
        assert_eq!(running.stats().total().overflows, 0);
    });
}

#[test]
fn pings_are_answered_while_a_large_message_is_read_slowly() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options::default());
        let mut client = client(&running);
        client.send(text("large"));
        let first = receive(&mut client);
        client.send(masked(0x89, b"still there?"));
        let mut frames = vec![first];
        while frames.last().unwrap().0 & 0x80 == 0 {
            frames.push(receive(&mut client));
        }
        let pong = frames.iter().position(|frame| *frame == Frame(0x8a, b"still there?".to_vec()));
        assert!(pong.is_some(), "{} frames and no pong", frames.len());
    });
}

#[test]
fn parts_and_rooms_and_wakes() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options::default());
        let mut client = client(&running);
        let parts = [
            unmasked(0x01, b"one, "),
            unmasked(0x00, b"two, "),
            unmasked(0x80, b"three"),
            unmasked(0x81, b"after"),
        ];
        client.ask(text("parts"), parts.concat());
        client.ask(text("wake"), unmasked(0x81, b"woken"));
        client.send(text("room"));
        assert_eq!(receive_message(&mut client), Frame(0x82, pattern(0, 300_000)));
        client.expect(unmasked(0x81, b"room"));
    });
}

#[test]
fn who_does_not_read_is_closed_and_not_kept_for() {
    on_both_drivers(|driver| {
        let site = Site::default();
        let running = site.start(config(driver), Options::default());
        let mut client = client(&running);
        client.send(text("flood"));
        let mut messages = 0;
        let end = loop {
            match receive(&mut client) {
                Frame(0x82, _) => messages += 1,
                end => break end,
            }
        };
        assert!((100..=110).contains(&messages), "{messages}");
        assert_eq!((end.0, &end.1[..2]), (0x88, &4008_u16.to_be_bytes()[..]));
        client.send(close(4008, ""));
        client.expect_eof();
        site.expect_end("1 4008  clean");
        let mut client = self::client(&running);
        client.send(text("empty flood"));
        let mut end = receive(&mut client);
        while end.0 & 0x0f != 8 {
            end = receive(&mut client);
        }
        assert_eq!((end.0, &end.1[..2]), (0x88, &4008_u16.to_be_bytes()[..]));
    });
}

#[test]
fn messages_can_be_taken_in_pieces() {
    on_both_drivers(|driver| {
        let running = serve(driver, Options { in_pieces: true, ..deflate() });
        let mut client = connect(&running);
        upgrade(&mut client, "/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n");
        client.send(binary(&pattern(0, 3_000_000)));
        client.expect(unmasked(0x81, b"binary 3000000"));
        let long = "ä€😀".repeat(100_000);
        client.ask(text(&long), unmasked(0x81, format!("text {}", long.len()).as_bytes()));
        client.ask([masked(0x01, b"a"), masked(0x80, b"b")].concat(), unmasked(0x81, b"text 2"));
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        client.ask(masked(0xc1, &hello), unmasked(0x81, b"text 5"));
        client.send(masked(0x81, b"\xe2\x82"));
        assert_eq!(expect_close(&mut client), 1007);
    });
}

#[test]
fn the_handler_is_told_of_every_end_once() {
    on_both_drivers(|driver| {
        let site = Site::default();
        let options = Options { close_within: Duration::from_millis(100), ..Options::default() };
        let running = site.start(config(driver), options);
        let mut bye = client(&running);
        bye.ask(close(3000, "done"), closing(3000, ""));
        bye.expect_eof();
        site.expect_end("0 3000 done clean");
        let mut silent = client(&running);
        silent.ask(masked(0x88, b""), unmasked(0x88, b""));
        site.expect_end("0 1005  clean");
        let mut cut = client(&running);
        cut.shutdown(Shutdown::Write).unwrap();
        cut.expect_eof();
        site.expect_end("0 1006  unclean");
        reset(client(&running));
        site.expect_end("0 1006  unclean");
        let mut broken = client(&running);
        broken.send(unmasked(0x81, b""));
        assert_eq!(expect_close(&mut broken), 1002);
        site.expect_end("0 1002 a client masks every frame (RFC 6455, 5.1) unclean");
        let mut told = client(&running);
        told.ask(text("close"), closing(4001, "as you say"));
        // What is still sent is not heard.
        told.send([text("count"), masked(0x89, b"?"), close(4002, "well")].concat());
        told.expect_eof();
        site.expect_end("1 4002 well clean");
        // Who does not answer a Close frame is not waited for.
        let mut mute = client(&running);
        mute.ask(text("bad close"), closing(1000, ""));
        mute.expect_eof();
        site.expect_end("1 1000  unclean");
        let mut panicked = client(&running);
        panicked.send(text("panic"));
        assert_eq!(expect_close(&mut panicked), 1011);
        site.expect_end("1 1011 the handler failed unclean");
        let _open = client(&running);
        drop(running);
        site.expect_end("0 1006  unclean");
    });
}

#[test]
fn a_silent_client_is_pinged_and_then_gone() {
    on_both_drivers(|driver| {
        let site = Site::default();
        let options = Options {
            ping_after: Duration::from_millis(200),
            pong_within: Duration::from_millis(200),
            ..Options::default()
        };
        let running = site.start(config(driver), options);
        let mut client = client(&running);
        for _ in 0..3 {
            client.expect(unmasked(0x89, b""));
            client.send(masked(0x8a, b""));
        }
        client.expect(unmasked(0x89, b""));
        client.expect_eof();
        site.expect_end("0 1006  unclean");
    });
}

#[test]
fn a_drain_tells_everybody_to_go_one_after_the_other() {
    on_both_drivers(|driver| {
        let site = Site::default();
        let running = site.start(config(driver), Options::default());
        let mut clients: Vec<_> = (0..20).map(|_| client(&running)).collect();
        clients[0].ask(text("hello"), unmasked(0x81, b"hello"));
        let began = std::time::Instant::now();
        running.handle().drain(Duration::from_secs(2));
        let clients = clients.into_iter().map(|mut client| {
            std::thread::spawn(move || {
                client.expect(closing(1001, "the server goes away"));
                let told = began.elapsed();
                client.send(close(1001, ""));
                client.expect_eof();
                told
            })
        });
        let told: Vec<_> =
            clients.collect::<Vec<_>>().into_iter().map(|client| client.join().unwrap()).collect();
        let (first, last) = (told.iter().min().unwrap(), told.iter().max().unwrap());
        assert!(*last - *first > Duration::from_millis(150), "{told:?}");
        running.join().unwrap();
        let ends = site.ends.lock().unwrap();
        assert!(ends.len() == 20 && ends.iter().all(|end| end.ends_with(" 1001  clean")), "{ends:?}");
    });
}

#[test]
fn what_the_handler_says_first_comes_first() {
    on_both_drivers(|driver| {
        let site = Site::default();
        site.ends.lock().unwrap().push("greet".to_owned());
        let running = site.start(config(driver), Options::default());
        let mut client = client(&running);
        client.expect(unmasked(0x81, b"hello"));
    });
}

/// A client that agreed on compression.
fn compressing(running: &Running) -> TcpStream {
    let mut client = connect(running);
    upgrade(&mut client, "/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n");
    client
}

/// The second and third message of RFC 7692, 7.2.3.2 and 7.2.3.5: "Hello" that ends its stream, and "Hello" that refers to it.
const ENDS_ITS_STREAM: [u8; 8] = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
const REFERS_TO_IT: [u8; 5] = [0xf2, 0x00, 0x11, 0x00, 0x00];

#[test]
fn compressed_messages() {
    on_both_drivers(|driver| {
        let running = serve(driver, deflate());
        let mut client = compressing(&running);
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        client.ask(masked(0xc1, &hello), unmasked(0x81, b"Hello"));
        client.ask([masked(0x41, &hello[..3]), masked(0x80, &hello[3..])].concat(), unmasked(0x81, b"Hello"));
        client.ask(masked(0xc1, &ENDS_ITS_STREAM), unmasked(0x81, b"Hello"));
        // From 1 KiB on it is worth it.
        client.send(text(&"walk ".repeat(1000)));
        let Frame(first, payload) = receive(&mut client);
        assert!(first == 0xc1 && payload.len() < 100, "{first:x} {}", payload.len());
        client.ask(masked(0xc1, &payload), unmasked(0xc1, &payload));
        // Nothing is kept, as agreed.
        client.send(masked(0xc1, &REFERS_TO_IT));
        assert_eq!(expect_close(&mut client), 1007);
    });
}

#[test]
fn a_stream_that_ends_keeps_its_window() {
    on_both_drivers(|driver| {
        let options = Deflate { contexts_max: 1, ..Deflate::default() };
        let running = serve(driver, Options { deflate: Some(options), ..Options::default() });
        let mut client = connect(&running);
        let answer = upgrade(&mut client, "/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n");
        assert!(answer.contains("\r\nsec-websocket-extensions: permessage-deflate\r\n"), "{answer}");
        for payload in [&ENDS_ITS_STREAM[..], &REFERS_TO_IT, &REFERS_TO_IT, &ENDS_ITS_STREAM, &REFERS_TO_IT] {
            client.ask(masked(0xc1, payload), unmasked(0x81, b"Hello"));
        }
        let walk = text(&"walk ".repeat(1000));
        client.send([walk.as_slice(), &walk].concat());
        let (Frame(_, first), Frame(_, second)) = (receive(&mut client), receive(&mut client));
        assert!(second.len() < first.len(), "{} {}", first.len(), second.len());
        // There is one context, and it is given back.
        let answer =
            upgrade(&mut connect(&running), "/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n");
        assert!(answer.contains("server_no_context_takeover; client_no_context_takeover"), "{answer}");
        client.ask(close(1000, ""), closing(1000, ""));
        client.expect_eof();
        drop(client);
        eventually(false, || {
            let answer =
                upgrade(&mut connect(&running), "/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n");
            answer.contains("takeover")
        });
    });
}

/// Zeros, compressed: a thousand to one.
fn bomb(bytes: usize) -> Vec<u8> {
    // One stored zero, and matches of 258 bytes a distance of one back, in a block with fixed codes (RFC 1951, 3.2.6).
    let mut bits = Vec::new();
    let mut push = |value: u32, count: u32, is_code: bool| {
        for n in 0..count {
            let bit = if is_code { count - 1 - n } else { n };
            bits.push(value >> bit & 1 != 0);
        }
    };
    push(0b010, 3, false);
    push(0x30, 8, true);
    for _ in 0..bytes.div_ceil(258) {
        push(0b1100_0101, 8, true);
        push(0, 5, true);
    }
    push(0, 7, true);
    // An empty block that is stored, without what every message ends with.
    push(0b000, 3, false);
    bits.chunks(8).map(|byte| byte.iter().enumerate().map(|(n, bit)| u8::from(*bit) << n).sum()).collect()
}

#[test]
fn bombs_are_refused_and_small_ones_wait_for_their_turn() {
    on_both_drivers(|driver| {
        let running = serve(driver, deflate());
        let mut client = compressing(&running);
        client.send(masked(0xc2, &bomb(16_000_000)[..60_000]));
        assert_eq!(expect_close(&mut client), 1009);
        let mut client = compressing(&running);
        client.send(masked(0xc2, &bomb(100_000)));
        assert_eq!(expect_close(&mut client), 1009);
        // A hundred that are allowed, ten times what is inflated in one turn: all are answered, and others in between.
        let mut client = compressing(&running);
        let mut other = compressing(&running);
        let small = masked(0xc2, &bomb(60_000));
        let mut sender = client.try_clone().unwrap();
        let sender = std::thread::spawn(move || (0..10).for_each(|_| sender.send(small.repeat(10))));
        for _ in 0..50 {
            other.ask(text("still there?"), unmasked(0x81, b"still there?"));
        }
        for _ in 0..100 {
            let Frame(first, payload) = receive(&mut client);
            assert!(first == 0xc2 && payload.len() < 1000, "{first:x} {}", payload.len());
        }
        sender.join().unwrap();
    });
}

#[test]
fn a_message_of_many_streams_is_refused() {
    on_both_drivers(|driver| {
        let running = serve(driver, deflate());
        let mut client = compressing(&running);
        // "Hello" that ends its stream, and 15 more streams without a byte in them.
        let ends = |count: usize| [&ENDS_ITS_STREAM[..7], &[0x03, 0x00].repeat(count)].concat();
        client.ask(masked(0xc1, &ends(15)), unmasked(0x81, b"Hello"));
        client.send(masked(0xc1, &ends(16)));
        assert_eq!(expect_close(&mut client), 1008);
    });
}

#[test]
fn memory_of_a_message_is_counted() {
    on_both_drivers(|driver| {
        let config = Config { memory_bytes_max: 8 << 20, ..config(driver) };
        let running =
            Site::default().start(config, Options { message_bytes_max: 64 << 20, ..Options::default() });
        let mut client = client(&running);
        let mut sender = client.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            use std::io::Write;
            let _ = sender.write_all(&binary(&pattern(0, 12_000_000)));
        });
        let mut heard = Vec::new();
        let _ = client.read_to_end(&mut heard);
        assert!(heard.starts_with(&[0x88]) && heard[2..4] == 1013_u16.to_be_bytes(), "{}", show(&heard));
        drop(client);
        sender.join().unwrap();
        assert!(running.stats().total().memory_refused > 0);
    });
}

#[cfg(feature = "tls")]
#[test]
fn over_tls_it_is_the_same() {
    use common::authority::{Authority, secure};
    use ringmill::{Engine, Tls, TlsConfig, TlsStore};
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let store = TlsStore::new(TlsConfig::from_files(cert, key)).expect("a sound configuration");
        let factory = move |_: &_| {
            let options = Options { message_bytes_max: 16 << 20, ..Options::default() };
            let endpoint = Endpoint::with_options(Site::default(), options);
            Tls::new(http::server(|_, reply| reply.text("http")).websocket("/ws", endpoint), store.clone())
        };
        let builder = Engine::builder().config(config(driver)).listen("127.0.0.1:0", factory);
        let running = builder.start().expect("the engine starts");
        let config = authority.client(&[&rustls::version::TLS13]);
        let open = || secure(ip(&running.addresses()[0]), &config, "localhost").expect("a handshake");
        let mut client = open();
        upgrade(&mut client, "/ws", "Origin: https://test\r\n");
        client.ask(text("hello"), unmasked(0x81, b"hello"));
        client.send(binary(&pattern(0, 5_000_000)));
        assert_eq!(receive_message(&mut client), Frame(0x82, pattern(0, 5_000_000)));
        client.ask(close(1000, ""), closing(1000, ""));
        client.expect_eof();
        // A page that was not loaded over TLS is of another origin.
        let mut client = open();
        client.send(handshake("/ws", "Origin: http://test\r\n"));
        assert!(head(&mut client).starts_with("HTTP/1.1 403 "));
    });
}

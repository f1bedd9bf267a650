//! Heads as data: what of each goes to the server, and what of its reply to the client.

use super::*;
use crate::http::client::reader::{Asked, parse_response};
use crate::http::message::Slots;
use crate::http::one::head::{HeadLimits, Outcome, parse_head};

/// What becomes of a request, without its request line and Host.
#[track_caller]
fn check_from(client: &Client<'_>, input: &str, expected: &str) {
    let mut slots = Slots::new();
    let Outcome::Complete { head, .. } = parse_head(input.as_bytes(), &mut slots, &HeadLimits::default())
    else {
        panic!("no head: {input:?}")
    };
    let mut out = Vec::new();
    let written = write_request(&mut out, &head, &onward(&head), client, "p");
    let out = written.map_or("refused".to_owned(), |_| String::from_utf8(out).unwrap());
    assert_eq!(out.replace("\r\n", "~"), expected, "{input:?}");
}

fn onward<'a>(head: &Head<'_, 'a>) -> Onward<'a> {
    let host = head.host.map(|host| host.as_bytes());
    Onward { path: head.path.as_bytes(), host, else_host: "fallback", is_buffered: false }
}

fn client(is_trusted: bool) -> Client<'static> {
    Client { ip: Some([1, 2, 3, 4].into()), is_trusted, is_secured: false, is_http2: false, ids: None }
}

const OURS: &str = "x-forwarded-for: 1.2.3.4~x-forwarded-proto: http~x-forwarded-host: a~via: 1.1 p~";

/// Fields of a GET, and what is passed on of them, before ours.
#[track_caller]
fn check(fields: &str, expected: &str) {
    let input = format!("GET /x?y HTTP/1.1\r\nHost: a\r\n{}\r\n", fields.replace('~', "\r\n"));
    check_from(&client(false), &input, &format!("GET /x?y HTTP/1.1~host: a~{expected}{OURS}~"));
}

#[test]
fn requests_lose_what_belongs_to_their_connection() {
    check("", "");
    check("A: b~X-Y:z~", "A: b~X-Y: z~");
    check("Connection: keep-alive~Keep-Alive: timeout=5~A: b~", "A: b~");
    check("Connection: close, A~a: b~AB: c~", "AB: c~");
    check("Connection: a~Connection: ,c , ~A: b~C: d~E: f~", "E: f~");
    check("Proxy-Connection: keep-alive~Proxy-Authorization: x~Proxy: http://evil~", "");
    check("Upgrade: h2c~Connection: Upgrade, HTTP2-Settings~HTTP2-Settings: AA~", "");
    check("Connection: x-forwarded-for~X-Forwarded-For: 6.6.6.6~", "");
    check("Connection: host, cookie~Cookie: a=b~", "");
    let many: String = (0..17).map(|n| format!("a{n},")).collect();
    check_from(
        &client(false),
        &format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {many}\r\n\r\n"),
        "refused",
    );
}

#[test]
fn nobody_says_who_he_is_unless_he_may() {
    let said = "X-Forwarded-For: 6.6.6.6~X_Forwarded_For: 7~x-forwarded-proto: https~X-Forwarded-Prefix: /x~\
                Forwarded: for=6.6.6.6~X-Real-IP: 6~A: b~";
    check(said, "A: b~");
    let input = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields.replace('~', "\r\n"));
    check_from(
        &client(true),
        &input("X-Forwarded-For: 6.6.6.6~X-Forwarded-Proto: https~Forwarded: for=6.6.6.6~"),
        "GET / HTTP/1.1~host: a~x-forwarded-for: 6.6.6.6~X-Forwarded-Proto: https~Forwarded: for=6.6.6.6~\
         x-forwarded-for: 1.2.3.4~forwarded: for=1.2.3.4~x-forwarded-host: a~via: 1.1 p~~",
    );
    // Its own client may have said what it does not know by this spelling.
    check_from(
        &client(true),
        &input(
            "X-Forwarded-For: 7.7.7.7~X_Forwarded_For: 6.6.6.6~X-Forwarded_Proto: https~X_Real-IP: 6~A_b: c~",
        ),
        &format!("GET / HTTP/1.1~host: a~x-forwarded-for: 7.7.7.7~A_b: c~{OURS}~"),
    );
    let v6 = Client {
        ip: Some("::1".parse().unwrap()),
        is_trusted: true,
        is_secured: true,
        is_http2: false,
        ids: None,
    };
    check_from(
        &v6,
        &input("Forwarded: for=x~"),
        "GET / HTTP/1.1~host: a~Forwarded: for=x~x-forwarded-for: ::1~forwarded: for=\"[::1]\"~\
         x-forwarded-proto: https~x-forwarded-host: a~via: 1.1 p~~",
    );
    let unix = Client { ip: None, is_trusted: false, is_secured: false, is_http2: false, ids: None };
    check_from(
        &unix,
        &input(""),
        "GET / HTTP/1.1~host: a~x-forwarded-proto: http~x-forwarded-host: a~via: 1.1 p~~",
    );
}

#[test]
fn framing_is_written_anew() {
    let check =
        |input: &str, expected: &str| check_from(&client(false), input, &expected.replace("OURS", OURS));
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\nContent_Length: 9\r\n\r\n",
        "POST / HTTP/1.1~host: a~OURScontent-length: 7~~",
    );
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: Chunked\r\nTransfer_Encoding: x\r\nExpect: 100-Continue\r\n\r\n",
        "POST / HTTP/1.1~host: a~OURStransfer-encoding: chunked~expect: 100-continue~~",
    );
    check("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", "GET / HTTP/1.1~host: a~OURS~");
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, trailers\r\nConnection: te\r\n\r\n",
        "GET / HTTP/1.1~host: a~OURSconnection: te~te: trailers~~",
    );
    check(
        "GET HTTP://A/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
        &format!("GET /b?c HTTP/1.1~host: A~{}~", OURS.replace("host: a", "host: A")),
    );
    check(
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1~host: fallback~x-forwarded-for: 1.2.3.4~x-forwarded-proto: http~via: 1.0 p~~",
    );
    check(
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n",
        "OPTIONS * HTTP/1.1~host: a~max-forwards: 2~OURS~",
    );
}

#[test]
fn of_other_protocols_a_websocket_is_passed_on() {
    let check = |input: &str, passes| {
        let mut slots = Slots::new();
        let Outcome::Complete { head, .. } = parse_head(input.as_bytes(), &mut slots, &HeadLimits::default())
        else {
            panic!("no head: {input:?}")
        };
        assert_eq!(asks_for_websocket(&head), passes, "{input:?}");
        let mut out = Vec::new();
        write_request(&mut out, &head, &onward(&head), &client(false), "p");
        assert_eq!(
            String::from_utf8(out).unwrap().ends_with("upgrade: websocket\r\n\r\n"),
            passes,
            "{input:?}"
        );
    };
    let start = "GET / HTTP/1.1\r\nHost: a\r\n";
    check(&format!("{start}Connection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"), true);
    check(&format!("{start}Upgrade: websocket\r\n\r\n"), false);
    check(&format!("{start}Connection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"), false);
    check(&format!("{start}Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"), false);
    for pair in ["websocket\r\nUpgrade: h2c", "h2c\r\nUpgrade: websocket", "websocket\r\nUpgrade: websocket"]
    {
        check(&format!("{start}Connection: upgrade\r\nUpgrade: {pair}\r\n\r\n"), false);
    }
    check(&format!("{start}Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx"), false);
    check("POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false);
    check("GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false);
}

#[test]
fn replies_are_framed_for_their_client() {
    let check = |input: &str, is_head, is_http10, expected: &str| {
        let (mut slots, asked) = (Slots::new(), Asked { is_head, ..Asked::default() });
        let response = parse_response(input.as_bytes(), &mut slots, asked).unwrap().unwrap();
        let framing = ToClient::of(&response, is_http10);
        let keep_alive = framing != ToClient::UntilClose;
        let to = ReplyTo {
            cookie: None,
            is_secured: false,
            is_from_http2: false,
            framing,
            is_http10,
            keep_alive,
            date: b"date: d\r\n",
            name: "p",
            ids: None,
        };
        let mut out = Vec::new();
        write_reply(&mut out, &response, &to).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().replace("\r\n", "~"), expected, "{input:?}");
    };
    let start = "HTTP/1.1 200 Fine\r\n";
    check(
        &format!("{start}Content-Length: 05\r\n\r\n"),
        false,
        false,
        "HTTP/1.1 200 Fine~date: d~via: 1.1 p~content-length: 5~~",
    );
    check(
        &format!("{start}Date: x\r\nContent-Length: 5\r\n\r\n"),
        true,
        false,
        "HTTP/1.1 200 Fine~Date: x~via: 1.1 p~content-length: 5~~",
    );
    check(
        &format!("{start}Date: x\r\n\r\n"),
        false,
        false,
        "HTTP/1.1 200 Fine~Date: x~via: 1.1 p~transfer-encoding: chunked~~",
    );
    check(
        &format!("{start}Date: x\r\n\r\n"),
        false,
        true,
        "HTTP/1.1 200 Fine~Date: x~via: 1.1 p~connection: close~~",
    );
    check(
        &format!(
            "{start}Date: x\r\nConnection: A\r\nA: b\r\nKeep-Alive: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        ),
        false,
        true,
        "HTTP/1.1 200 Fine~Date: x~Set-Cookie: a~Set-Cookie: b~via: 1.1 p~connection: close~~",
    );
    check(
        "HTTP/1.0 304 \r\nDate: x\r\nContent-Length: 9\r\n\r\n",
        false,
        true,
        "HTTP/1.1 304 ~Date: x~via: 1.0 p~content-length: 9~connection: keep-alive~~",
    );
    check(
        "HTTP/1.1 204 No\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
        false,
        false,
        "HTTP/1.1 204 No~Date: x~via: 1.1 p~~",
    );
}

#[test]
fn trailers_lose_what_they_must_not_say() {
    let check = |trailers: &str, is_from_client, expected: &str| {
        let mut out = Vec::new();
        write_trailers(&mut out, trailers.as_bytes(), is_from_client);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    };
    check("a: b\r\nX-Forwarded-For: 6\r\nc: d\r\n", true, "a: b\r\nc: d\r\n");
    check("a: b\r\nProxy: http://evil\r\n", true, "a: b\r\n");
    check("a: b\r\nkeep_alive: 6\r\nx-forwarded-for: d\r\n", false, "a: b\r\nx-forwarded-for: d\r\n");
    check("", true, "");
}

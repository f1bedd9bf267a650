//! What a client and we agree on chooses the protocol, over real sockets on both drivers. HTTP/2 is in nobody's hands yet: a small
//! protocol stands in its place.
#![cfg(feature = "tls")]

mod common;

use common::http::*;
use common::tls::{Secured, Trust, secure};
use common::*;
use ringmill::layer::alpn::Alpn;
use ringmill::{DriverChoice, Engine, Io, Next, Protocol, Running, Step, Tls, TlsStore, http};
use std::sync::Arc;

/// Greets, as HTTP/2 does with its settings, and answers the client's preface and each byte behind it.
struct InPlaceOfTwo;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Protocol for InPlaceOfTwo {
    type Session = bool;

    fn open(&mut self, io: &mut Io<'_>) -> bool {
        io.write(b"settings|");
        false
    }

    fn data(&mut self, is_begun: &mut bool, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let mut at = 0;
        if !*is_begun {
            if !input.starts_with(PREFACE) {
                let may_be = PREFACE.starts_with(input);
                return if may_be { Step::need(0, PREFACE.len()) } else { Step::abort() };
            }
            at = PREFACE.len();
            *is_begun = true;
            io.write(b"begun|");
        }
        io.write(&input[at..]);
        Step::consumed(input.len())
    }

    fn eof(&mut self, _: &mut bool, _: &mut [u8], io: &mut Io<'_>) -> Next {
        io.write(b"|end");
        Next::Close
    }
}

fn start(driver: DriverChoice, trust: &Trust) -> Running {
    let store = TlsStore::new(trust.server(&["h2", "http/1.1"])).expect("a sound configuration");
    let factory = move |_: &_| {
        let site = http::server(|request, reply| reply.text(request.path()));
        Tls::new(Alpn::new(site, "h2", InPlaceOfTwo), store.clone())
    };
    Engine::builder()
        .config(config(driver).with_workers(2))
        .listen("127.0.0.1:0", factory)
        .start()
        .expect("the engine starts")
}

fn agreed(stream: &Secured) -> Option<&[u8]> {
    stream.conn.alpn_protocol()
}

#[test]
fn the_protocol_is_the_one_that_was_agreed_on() {
    on_both_drivers(|driver| {
        let trust = Trust::new();
        let running = start(driver, &trust);
        let address = ip(&running.addresses()[0]);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let connect = |alpn: &[&str]| secure(address, &Arc::new(trust.client_of(&[version], alpn)));
            // The server prefers HTTP/2, whatever the client prefers.
            for alpn in [&["h2"][..], &["h2", "http/1.1"], &["http/1.1", "h2"]] {
                let mut stream = connect(alpn).unwrap();
                assert_eq!(agreed(&stream), Some(&b"h2"[..]));
                stream.expect("settings|");
                stream.ask(PREFACE, "begun|");
                stream.ask("frames", "frames");
                stream.conn.send_close_notify();
                assert_eq!(stream.rest(), b"|end");
            }
            for (alpn, expected) in [(&["http/1.1"][..], Some(&b"http/1.1"[..])), (&[], None)] {
                let mut stream = connect(alpn).unwrap();
                assert_eq!(agreed(&stream), expected);
                stream.send(get("/one"));
                assert_eq!(receive(&mut stream).text(), "/one");
                // Who agreed on nothing else is not taken for HTTP/2 by what it says.
                stream.send(PREFACE);
                assert_eq!(receive(&mut stream).status, 505);
                stream.expect_eof();
            }
            for alpn in [&["h3"][..], &["spdy/3", "h2c"], &["H2"]] {
                let refused = connect(alpn).map(drop);
                let told = refused.as_ref().map_err(ToString::to_string);
                assert!(told.is_err_and(|error| error.contains("NoApplicationProtocol")), "{refused:?}");
            }
        }
        eventually(0, || running.stats().total().connections);
    });
}

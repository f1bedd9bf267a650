//! Ends and limits that a careless engine gets wrong: closing without losing the last bytes, `need` beyond its limit,
//! protocols that lie, one port for both versions of IP, sources that never wake, drains that find somebody new.

mod common;

use common::*;
use ringmill::http::{self, BodyWriter, Fill, Limits, Reply, Request, Server, Source};
use ringmill::{Config, Counters, Echo, Engine, Error, Io, Next, Protocol, Running, Step};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

fn total(running: &Running) -> Counters {
    running.stats().total()
}

/// Writes so many bytes of the pattern and closes.
struct Farewell(usize);

impl Protocol for Farewell {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, _: &mut (), _: &mut [u8], io: &mut Io<'_>) -> Step {
        io.write(&pattern(0, self.0));
        Step::close()
    }
}

#[test]
fn what_the_kernel_took_arrives_although_lingering_is_over() {
    const BYTES: usize = 200_000;
    on_both_drivers(|driver| {
        let short = Duration::from_millis(50);
        let config = Config { linger_timeout: short, write_timeout: 2 * short, ..config(driver) };
        let running = start(config, |_| Farewell(BYTES));
        let mut client = connect(&running);
        client.send("go");
        // The server is done with the connection long before anybody reads from it.
        eventually(1, || total(&running).closed);
        expect_pattern(&mut client, BYTES, 10_000);
        client.expect_eof();
    });
}

/// Consumes four bytes, and needs as many as they say.
struct Prefixed;

impl Protocol for Prefixed {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, _: &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        match input.first_chunk() {
            Some(length) => Step::need(4, u32::from_be_bytes(*length) as usize),
            None => Step::consumed(0),
        }
    }
}

#[test]
fn a_need_beyond_the_limit_closes_before_it_is_buffered() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| Prefixed);
        for length in [2 << 20, u32::MAX] {
            let mut client = connect(&running);
            client.send(length.to_be_bytes());
            client.expect_reset();
        }
        eventually((2, 2), || (total(&running).overflows, total(&running).closed));
    });
}

/// Says that it consumed more than there was.
struct Liar;

impl Protocol for Liar {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, _: &mut (), input: &mut [u8], io: &mut Io<'_>) -> Step {
        if input.starts_with(b"lie") {
            return Step::consumed(input.len() + 1);
        }
        io.write(input);
        Step::consumed(input.len())
    }
}

#[test]
fn a_protocol_that_consumes_too_much_loses_one_connection_and_no_worker() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| Liar);
        let (mut honest, mut liar) = (connect(&running), connect(&running));
        honest.ask("one", "one");
        liar.send("lie");
        liar.expect_reset();
        honest.ask("two", "two");
        connect(&running).ask("three", "three");
        assert_eq!(total(&running).panics, 1);
    });
}

#[test]
fn both_versions_of_ip_share_a_port_and_nothing_is_listed_twice() {
    on_both_drivers(|driver| {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = |addresses: &[String]| {
            let builder = Engine::builder().config(config(driver).with_workers(2));
            addresses.iter().fold(builder, |builder, address| {
                builder
                    .listen(address.as_str(), |_| Echo::default())
                    .datagrams(address.as_str(), |_| ringmill::UdpEcho::default())
            })
        };
        let both = [format!("0.0.0.0:{free}"), format!("[::]:{free}")];
        let running = listen(&both).start().expect("both versions on one port, as --help shows");
        for address in [format!("127.0.0.1:{free}"), format!("[::1]:{free}")] {
            connect_to(address.parse::<SocketAddr>().unwrap()).ask(&address, &address);
        }
        drop(running);
        let twice = listen(&[both[0].clone(), both[0].clone()]).start().err().expect("listed twice");
        assert!(matches!(twice, Error::Config { .. }) && twice.to_string().contains("twice"), "{twice}");
    });
}

/// Never has anything and never wakes anybody.
struct Silence;

impl Source for Silence {
    fn fill(&mut self, _: &mut BodyWriter<'_>) -> Fill {
        Fill::Pending
    }
}

#[test]
fn a_source_that_never_wakes_is_given_up() {
    on_both_drivers(|driver| {
        let limits = Limits { source_timeout: Duration::from_millis(50), ..Limits::default() };
        let silent = |_: &Request<'_>, reply: &mut Reply<'_>| reply.stream(None, Silence);
        let running = start(config(driver), move |_| Server::new(silent).with_limits(limits.clone()));
        let mut client = connect(&running);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.rest();
        let is_cut = head.starts_with(b"HTTP/1.1 200 OK\r\n") && head.ends_with(b"\r\n\r\n");
        assert!(is_cut, "{}", show(&head));
        eventually(0, || total(&running).connections);
    });
}

#[test]
fn replies_to_head_have_no_body_whatever_is_wrong() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| http::server(|_, reply| reply.text("hello")));
        let check = |request: &str, status: &str| {
            let mut client = connect(&running);
            client.send(request);
            client.shutdown(Shutdown::Write).unwrap();
            let reply = String::from_utf8(client.rest()).unwrap();
            assert!(reply.starts_with(status) && reply.ends_with("\r\n\r\n"), "{request:?}: {reply:?}");
        };
        check("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 ");
        check("HEAD / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", "HTTP/1.1 417 ");
        check("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", "HTTP/1.1 413 ");
    });
}

#[test]
fn a_type_that_was_set_is_the_only_one() {
    on_both_drivers(|driver| {
        let page = |_: &Request<'_>, reply: &mut Reply<'_>| reply.content_type("text/html").text("<p>");
        let running = start(config(driver), move |_| http::server(page));
        let mut client = connect(&running);
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let reply = String::from_utf8(client.rest()).unwrap();
        assert_eq!(reply.matches("content-type").count(), 1, "{reply}");
        assert!(reply.contains("content-type: text/html\r\n"), "{reply}");
    });
}

/// Keeps its sessions open until the engine drains.
struct Patient;

impl Protocol for Patient {
    type Session = ();

    fn open(&mut self, io: &mut Io<'_>) {
        io.write(b"open");
    }

    fn data(&mut self, _: &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }

    fn drain(&mut self, _: &mut (), io: &mut Io<'_>) -> Next {
        io.write(b"bye");
        Next::Close
    }
}

#[test]
fn a_connection_that_is_opened_while_draining_is_told_so() {
    on_both_drivers(|driver| {
        let running = start(config(driver).with_connections_max(1), |_| Patient);
        let mut first = connect(&running);
        first.expect("open");
        let mut waiting = connect(&running);
        running.handle().drain(PATIENCE);
        first.expect("bye");
        first.shutdown(Shutdown::Both).unwrap();
        waiting.expect("openbye");
        waiting.shutdown(Shutdown::Both).unwrap();
        running.join().unwrap();
    });
}

//! The reverse proxy over real sockets, on both drivers: what is passed on and what is not, whose reply whose is, who waits for
//! whom. Upstreams follow scripts.
#![cfg(feature = "proxy")]

#[path = "proxy/buffering.rs"]
mod buffering;
mod common;
#[path = "proxy/evil.rs"]
mod evil;
#[path = "proxy/failing.rs"]
mod failing;
#[path = "proxy/flows.rs"]
mod flows;
#[path = "proxy/observing.rs"]
mod observing;
#[path = "proxy/passing.rs"]
mod passing;
#[path = "proxy/relay.rs"]
mod relay;
#[path = "proxy/sharing.rs"]
mod sharing;
#[path = "proxy/two.rs"]
mod two;

use common::http::{get, post, receive, receive_head};
use common::upstream::{Line, Upstream};
use common::*;
use ringmill::http::{self, Limits};
use ringmill::proxy::{
    AccessLog, Balance, Batch, Check, Counted, Counts, Ejection, Fleet, HashBy, IdRules, Limit, LineWriter,
    LogFormat, LogRules, Observe, Page, Pages, Per, Proxy, ProxyConfig, RequestIds, RouteRate, ServerCounts,
    Sticky, Traces,
};
use ringmill::{Address, Config, DriverChoice, Running};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

fn serve(driver: DriverChoice, config: ProxyConfig) -> Running {
    start(common::config(driver), move |_| Proxy::new(config.clone(), 1))
}

/// A proxy in front of these.
fn before(driver: DriverChoice, upstreams: &[&Upstream]) -> Running {
    serve(driver, patient(upstreams.iter().map(|upstream| upstream.address.clone()).collect()))
}

fn config(upstream: &Upstream) -> ProxyConfig {
    patient(vec![upstream.address.clone()])
}

/// Idle connections are kept, however slow the machine is.
fn patient(upstreams: Vec<Address>) -> ProxyConfig {
    ProxyConfig { keep_timeout: PATIENCE, ..ProxyConfig::new(upstreams) }
}

/// An address where nobody listens.
fn deaf() -> (socket2::Socket, Address) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, Address::Ip(address))
}

/// So many of them, at one port that is taken on all addresses of this machine.
fn many_deaf(count: u16) -> (socket2::Socket, Vec<Address>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"0.0.0.0:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let address = |n: u16| Address::Ip(([127, 7, n.to_be_bytes()[0], n.to_be_bytes()[1]], port).into());
    (socket, (1..=count).map(address).collect())
}

/// The reply to a GET is its own.
#[track_caller]
fn expect_own(client: &mut TcpStream, target: &str) {
    client.send(get(target));
    let reply = receive(client);
    assert_eq!((reply.status, reply.text()), (200, format!("{target} ").as_str()), "{}", reply.head);
}

/// The lines of a log that have come so far.
fn lines(log: &AccessLog, known: &mut Vec<serde_json::Value>) -> usize {
    let (mut batch, mut writer, mut text) = (Batch::default(), LineWriter::new(LogFormat::Json), Vec::new());
    log.take(&mut batch);
    batch.entries().for_each(|entry| writer.write(&mut text, &entry));
    let text = String::from_utf8(text).unwrap();
    known.extend(text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()));
    known.len()
}

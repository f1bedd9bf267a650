//! Cases over real sockets, as they are or with TLS: one connection each, to servers that run for all of them.

use super::format::{Case, Expected, Over, State, Step};
use super::replies::{head_only, judge, parse};
use super::{Lane, limits, small_limits};
use crate::common::http::get;
use crate::common::site::Site;
use crate::common::tls::{Counted, Secured, Trust, secure};
use crate::common::{config, connect_to, ip};
use ringmill::http::{Limits, Server};
use ringmill::{DriverChoice, Engine, Layer, Running, Tls, TlsStore};
use rustls::ClientConfig;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One engine with four listeners: default limits and small ones, without TLS and with it.
pub struct Servers {
    running: Running,
    client: Arc<ClientConfig>,
}

impl Servers {
    pub fn start(driver: DriverChoice, lane: Lane) -> Servers {
        match lane {
            Lane::Native => Servers::start_with(driver, |limits| Server::new(Site).with_limits(limits)),
            Lane::Tower => Servers::start_with(driver, crate::common::tower_site::server),
        }
    }

    fn start_with<L: Layer>(driver: DriverChoice, server: fn(Limits) -> L) -> Servers {
        let trust = Trust::new();
        let store = TlsStore::new(trust.server(&["http/1.1"])).expect("a sound configuration");
        let other_store = store.clone();
        let running = Engine::builder()
            .config(config(driver))
            .listen("127.0.0.1:0", move |_| server(limits()))
            .listen("127.0.0.1:0", move |_| server(small_limits()))
            .listen("127.0.0.1:0", move |_| Tls::new(server(limits()), store.clone()))
            .listen("127.0.0.1:0", move |_| Tls::new(server(small_limits()), other_store.clone()))
            .start()
            .expect("the engine starts");
        Servers { running, client: Arc::new(trust.client(&["http/1.1"])) }
    }

    fn connect(&self, case: &Case, over: Over) -> Stream {
        let listener = usize::from(case.small) + if over == Over::Tls { 2 } else { 0 };
        let address: SocketAddr = ip(&self.running.addresses()[listener]);
        match over {
            Over::Plain => Stream::Plain(Counted { stream: connect_to(address), sent_bytes: 0 }),
            Over::Tls => Stream::Tls(Box::new(secure(address, &self.client).expect("a handshake"))),
        }
    }

    /// Runs a case as its steps say, over all that it runs over.
    pub fn run(&self, case: &Case) -> Result<(), String> {
        for over in [Over::Plain, Over::Tls] {
            if case.runs_over(over) {
                self.run_over(over, case).map_err(|what| format!("over {over:?}: {what}"))?;
            }
        }
        Ok(())
    }

    fn run_over(&self, over: Over, case: &Case) -> Result<(), String> {
        let taken_before = self.taken();
        let mut client = Client { stream: self.connect(case, over), received: Vec::new() };
        let head_only = head_only(case);
        let mut replies = 0;
        for step in &case.steps {
            match step {
                Step::Send(bytes) => {
                    client.wait_for(replies, &head_only)?;
                    client.send(bytes);
                }
                Step::Cut => self.wait_until_taken(taken_before + client.stream.sent_bytes() as u64),
                Step::Reply(Expected { .. }) => replies += 1,
                Step::End => client.stream.end(),
            }
        }
        match case.state {
            State::Closed => client.read_to_end()?,
            State::Broken => client.read_to_break()?,
            State::Kept | State::Waits => client.wait_for(replies, &head_only)?,
        }
        judge(case, &client.received, matches!(case.state, State::Closed | State::Broken))?;
        client.received.clear();
        match case.state {
            State::Kept => {
                client.send(get("/hello").as_bytes());
                client.wait_for(1, &[])?;
                if !client.received.ends_with(b"\r\n\r\nhello") {
                    return Err(format!("the next request got {}", client.received.escape_ascii()));
                }
            }
            State::Waits => {
                client.stream.end();
                client.read_to_end()?;
                if !client.received.is_empty() {
                    return Err(format!("half a request got {}", client.received.escape_ascii()));
                }
            }
            State::Closed | State::Broken => {}
        }
        Ok(())
    }

    /// Makes a cut one that the server sees. What it does not read because it has closed is not waited for.
    fn wait_until_taken(&self, bytes: u64) {
        let since = Instant::now();
        while self.taken() < bytes && since.elapsed() < Duration::from_millis(20) {
            std::thread::yield_now();
        }
    }

    fn taken(&self) -> u64 {
        self.running.stats().total().received_bytes
    }
}

enum Stream {
    Plain(Counted),
    Tls(Box<Secured>),
}

impl Stream {
    /// What went out, with what TLS adds.
    fn sent_bytes(&self) -> usize {
        match self {
            Stream::Plain(stream) => stream.sent_bytes,
            Stream::Tls(stream) => stream.sock.sent_bytes,
        }
    }

    /// The server may have closed because of what it got before: that shows when reading.
    fn send(&mut self, bytes: &[u8]) {
        let _ = match self {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
    }

    /// Says that this was all.
    fn end(&mut self) {
        let socket = match self {
            Stream::Plain(stream) => &stream.stream,
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                &stream.sock.stream
            }
        };
        let _ = socket.shutdown(Shutdown::Write);
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

struct Client {
    stream: Stream,
    received: Vec<u8>,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.send(bytes);
    }

    /// Reads until so many replies are there in whole.
    fn wait_for(&mut self, replies: usize, head_only: &[bool]) -> Result<(), String> {
        while parse(&self.received, head_only, false)?.0.len() < replies {
            match self.read() {
                Ok(0) => return Err(format!("the end after {}", self.received.escape_ascii())),
                Ok(_) => {}
                Err(error) => return Err(format!("{error} after {}", self.received.escape_ascii())),
            }
        }
        Ok(())
    }

    /// Over TLS that is close_notify: without one it is an error.
    fn read_to_end(&mut self) -> Result<(), String> {
        loop {
            match self.read() {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(format!("{error} after {}", self.received.escape_ascii())),
            }
        }
    }

    /// Where a reply is broken off, TLS has no word that this was all.
    fn read_to_break(&mut self) -> Result<(), String> {
        loop {
            match self.read() {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(format!("{error} after {}", self.received.escape_ascii())),
            }
        }
    }

    fn read(&mut self) -> std::io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let bytes = self.stream.read(&mut buffer)?;
        self.received.extend_from_slice(&buffer[..bytes]);
        Ok(bytes)
    }
}

//! A reverse proxy: requests of HTTP/1.1 and 1.0 go to upstreams over HTTP/1.1, and each is answered once, by its own reply.
//!
//! ```no_run
//! # use ringmill_engine as ringmill;
//! # use ringmill_protocols::proxy::{Proxy, ProxyConfig};
//! let config = ProxyConfig::new(vec!["127.0.0.1:3000".parse()?]);
//! ringmill::Engine::builder()
//!     .listen("127.0.0.1:8080", move |worker| Proxy::new(config.clone(), worker.index as u64))
//!     .run()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Both sides speak our own strict HTTP, and nothing passes that was not parsed: a request whose end two readers could see
//! differently is refused, and a reply of that kind is answered with 502. Bodies stream both ways, and a slow side pauses its
//! other side alone. Connections with upstreams stay with the worker that made them and are used again; one on which anything
//! comes unasked is closed.
//!
//! With TLS to upstreams, put it under `Tls::with_peers`: the tag of a connection is the number of its upstream.
//! `Config::connect_timeout` of the engine is the time that a connection with an upstream may take.
//!
//! Read on: `client.rs` and `upstream.rs` are the two sides, which meet in an exchange (`exchange.rs`); `state.rs` gives exchanges
//! their connections; `fields.rs` rewrites heads and `pool.rs` chooses, both pure.

mod client;
mod config;
mod exchange;
mod fields;
mod pool;
mod state;
mod upstream;

pub use config::{Balance, ProxyConfig};

use client::Client;
use exchange::HELD_BYTES;
use ringmill_engine::{CloseReason, Dialer, Io, Next, Protocol, Refusal, Step};
use state::State;

/// The proxy of one worker.
pub struct Proxy(State);

/// The state of one connection, of a client or with an upstream.
pub struct Session(Side);

enum Side {
    Client(Client),
    Upstream(usize),
}

impl Proxy {
    /// A proxy. Which upstream comes first follows from `seed`: give each worker another one, so that they do not go in step.
    ///
    /// # Panics
    /// If there is no upstream.
    pub fn new(mut config: ProxyConfig, seed: u64) -> Proxy {
        assert!(!config.upstreams.is_empty(), "a proxy needs at least one upstream");
        // A name that cannot stand in a field would break every head.
        if config.name.is_empty() || !config.name.bytes().all(|byte| byte.is_ascii_graphic()) {
            config.name = "ringmill".to_owned();
        }
        config.replay_bytes_max = config.replay_bytes_max.min(HELD_BYTES);
        Proxy(State::new(config, seed))
    }

    fn look_at_clock(&mut self, io: &Io<'_>) {
        self.0.look_at_clock(io.now(), io.unix_secs());
    }
}

impl Protocol for Proxy {
    type Session = Session;

    fn start(&mut self, dialer: Dialer) {
        self.0.dialer = Some(dialer);
    }

    fn open(&mut self, io: &mut Io<'_>) -> Session {
        self.look_at_clock(io);
        self.0.wait_for_request(io);
        Session(Side::Client(Client::new()))
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> Session {
        self.look_at_clock(io);
        // The tag is the one that was given with the address: the number of an upstream.
        Session(Side::Upstream(self.0.upstream_open(tag as usize, io)))
    }

    fn refused(&mut self, tag: u64, refusal: Refusal) {
        self.0.refused(tag as usize, refusal);
    }

    fn data(&mut self, session: &mut Session, input: &mut [u8], io: &mut Io<'_>) -> Step {
        self.look_at_clock(io);
        match &mut session.0 {
            Side::Client(client) => self.0.client_data(client, input, io),
            Side::Upstream(upstream) => self.0.upstream_data(*upstream, input, io),
        }
    }

    fn wake(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        self.look_at_clock(io);
        match &mut session.0 {
            Side::Client(client) => self.0.serve(client, io),
            Side::Upstream(upstream) => self.0.send(*upstream, io),
        }
    }

    fn drained(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        self.wake(session, io)
    }

    fn eof(&mut self, session: &mut Session, rest: &mut [u8], io: &mut Io<'_>) -> Next {
        self.look_at_clock(io);
        match &mut session.0 {
            Side::Client(client) => self.0.client_eof(client, rest, io),
            Side::Upstream(upstream) => self.0.upstream_eof(*upstream, io),
        }
    }

    fn gone(&mut self, session: &mut Session, _: &mut Io<'_>) -> Next {
        match &session.0 {
            Side::Client(client) => self.0.client_gone(client),
            // What it sent before its end is still to be read.
            Side::Upstream(_) => Next::Pause,
        }
    }

    fn timeout(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        self.look_at_clock(io);
        match &mut session.0 {
            Side::Client(client) => self.0.client_timeout(client, io),
            Side::Upstream(upstream) => self.0.upstream_timeout(*upstream),
        }
    }

    fn drain(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        match &session.0 {
            Side::Client(client) => self.0.client_drain(client, io),
            Side::Upstream(upstream) => self.0.upstream_drain(*upstream),
        }
    }

    fn shed(&mut self, session: &mut Session, _: &mut Io<'_>) -> Next {
        match &session.0 {
            Side::Client(client) => self.0.client_shed(client),
            Side::Upstream(upstream) => self.0.upstream_shed(*upstream),
        }
    }

    fn closed(&mut self, session: Session, _: CloseReason) {
        match session.0 {
            Side::Client(client) => {
                if let Some(key) = client.exchange {
                    self.0.end(key);
                }
            }
            Side::Upstream(upstream) => self.0.upstream_closed(upstream),
        }
    }
}

//! A reverse proxy: requests go to upstreams over HTTP/1.1 or HTTP/2, whatever version they came in, and each is answered once, by its own reply.
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
//! With TLS to upstreams, put it under `Tls::with_peers`: the tag of a connection says its server ([`server_of`]), or with plans its
//! peer ([`Plans::peer_of`]).
//! `Config::connect_timeout` of the engine is the time that a connection with an upstream may take.
//!
//! Read on: `client.rs` and `upstream.rs` are the two sides, which meet in an exchange (`exchange.rs`); `state.rs` gives exchanges
//! their connections; `two.rs` has HTTP/2; `fields.rs` rewrites heads and `pool.rs` chooses, both pure. Several upstreams and routes are a [`Plan`]
//! (`plan.rs`, `route.rs`, `normal.rs`), which may be followed by another one; what all listeners of a worker share is one `State`.

mod accept;
mod awaiting;
mod balance;
mod buffering;
mod check;
mod client;
mod config;
mod dns;
mod exchange;
mod explain;
mod fields;
mod fleet;
mod groups;
mod health;
mod leaving;
mod limit;
mod name;
mod normal;
mod notices;
mod observe;
mod own;
mod pages;
mod peer;
mod plan;
mod plans;
mod pool;
mod relay;
mod route;
mod rules;
mod seen;
mod spare;
mod state;
mod sticky;
mod streams;
mod trunks;
mod two;
mod upstream;
mod whom;

pub use config::{Balance, HashBy, ProxyConfig, Server, Sticky};
pub use dns::{LookupOptions, Lookups, Name, Watching};
pub use explain::{Explained, explain};
pub use fleet::{Fleet, ServerCounts};
pub use groups::server_of;
pub use limit::{Limit, LimitCounts, Per, RouteRate};
pub use normal::Unclear;
pub use observe::{
    AccessLog, Batch, Counted, Counts, End, Entry, HttpVersion, IdRules, LIMITS_MICROS, LineCounts,
    LineWriter, LogFormat, LogRules, Numbers, Observe, RequestIds, Text, Traces,
};
pub use pages::{Page, Pages};
pub use peer::Peer;
pub use plan::{Front, Plan, PlannedUpstream, Refused};
pub use plans::Plans;
pub use relay::Relaying;
pub use relay::flows::{FlowRules, Flowing, Flows};
pub use route::{FixedReply, HostPattern, Missed, PathPattern, Route, Routes, Target};
pub use rules::{Check, CheckPath, Ejection};

use check::Checking;
use client::Client;
use groups::Place;
use relay::pair::Joint;
use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Notice, Origin, Reclaim, Step, WorkerContext};
use state::State;
use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use two::clients::Streams;
use two::trunk::Trunk;

/// The proxy of one worker, for one listener or none.
pub struct Proxy {
    /// What all listeners of the worker share that follow the same plans.
    state: Rc<RefCell<State>>,
    /// Where the next plan comes from, for the one that connects.
    plans: Option<Plans>,
    /// Which connections with upstreams are this value's.
    connects: Connects,
    https_port: Option<u16>,
    /// Its connections are passed on.
    relaying: Option<Box<relay::Listener>>,
}

/// The state of one connection, of a client or with an upstream.
pub struct Session(Side);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connects {
    None,
    Plain,
    Secured,
}

enum Side {
    Client(Client),
    Upstream(usize),
    Check(Box<Checking>),
    Relayed(Joint),
    #[cfg(feature = "tls-layer")]
    Greeting(Box<relay::greeting::Greeting>),
    /// A connection that is of no use; with the server that it was made with.
    Unwanted(Option<Place>),
    /// A client's connection of HTTP/2.
    Streams(Box<Streams<Proxy>>),
    /// One with a server.
    Trunk(Box<Trunk<Proxy>>),
}

impl Proxy {
    /// A proxy. Which upstream comes first follows from `seed`: give each worker another one, so that they do not go in step.
    ///
    /// # Panics
    /// If there is no upstream.
    pub fn new(config: ProxyConfig, seed: u64) -> Proxy {
        let state = State::new(Arc::new(Plan::one(config)), seed);
        Proxy {
            state: Rc::new(RefCell::new(state)),
            plans: None,
            connects: Connects::Plain,
            https_port: None,
            relaying: None,
        }
    }

    /// The part of a proxy that opens connections with upstreams. It is to be added without a listener (`Builder::outbound`), so that it
    /// is there as long as the worker.
    pub fn outbound(plans: &Plans, worker: &WorkerContext) -> Proxy {
        let connects = Connects::Plain;
        Proxy { plans: Some(plans.clone()), connects, ..Proxy::listening(plans, worker) }
    }

    /// The same for upstreams that are secured: it stands under `Tls::client`.
    pub fn secured(plans: &Plans, worker: &WorkerContext) -> Proxy {
        Proxy { connects: Connects::Secured, ..Proxy::listening(plans, worker) }
    }

    /// The part that clients connect to; all listeners of a worker share upstreams.
    pub fn listening(plans: &Plans, worker: &WorkerContext) -> Proxy {
        let state = plans.state(worker);
        Proxy { state, plans: None, connects: Connects::None, https_port: None, relaying: None }
    }

    /// Clients whose connection is not secured are sent on to HTTPS, on this port.
    pub fn with_https_port(self, https_port: Option<u16>) -> Proxy {
        Proxy { https_port, ..self }
    }

    /// The connections of clients are passed on as they are.
    pub fn with_relaying(self, relaying: Relaying) -> Proxy {
        let listener = relay::Listener::new(relaying, self.state.borrow().plan.front.observe.counts.as_ref());
        Proxy { relaying: Some(Box::new(listener)), ..self }
    }

    /// A client whose connection is passed on.
    fn relay(&self, listener: &relay::Listener, io: &mut Io<'_>) -> Side {
        let (relaying, mut state) = (&listener.relaying, self.state(io));
        let seen = state.note_client(listener, io);
        #[cfg(feature = "tls-layer")]
        if relaying.reads_names() {
            io.set_timeout(relaying.hello_timeout);
            return Side::Greeting(Box::new(relay::greeting::Greeting::new(seen)));
        }
        let joint = state.relay(listener, (relaying.upstream_of(None), None), seen, io);
        joint.map_or_else(|| Side::unwanted(None, io), Side::Relayed)
    }

    /// Calls do not nest, so nobody else has it.
    fn state(&self, io: &Io<'_>) -> RefMut<'_, State> {
        let mut state = self.state.borrow_mut();
        state.look_at_clock(io.now(), io.unix_secs());
        state
    }
}

impl Side {
    fn unwanted(place: Option<Place>, io: &mut Io<'_>) -> Side {
        // Only a call can close, and this asks for one at once.
        io.notify_drained();
        Side::Unwanted(place)
    }
}

impl Layer for Proxy {
    type Session = Session;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> Session {
        Session(match (origin, &self.relaying) {
            (Origin::Connected(Place::STREAM), _) => self.client(true, io),
            (Origin::Connected(tag), _) => self.connected(tag, io),
            (Origin::Accepted, Some(relaying)) => self.relay(relaying, io),
            (Origin::Accepted, None) if has_agreed_on_http2(io) => self.streams(io),
            (Origin::Accepted, None) => self.client(false, io),
        })
    }

    #[inline]
    fn call(&mut self, session: &mut Session, call: Call<'_>, io: &mut Io<'_>) -> Step {
        match &mut session.0 {
            Side::Streams(streams) => return streams.call(self, call, io),
            Side::Trunk(trunk) => return trunk.call(self, call, io),
            _ => {}
        }
        let next = match call {
            Call::Data(input) => return self.data(session, input, io),
            Call::End(rest) => self.eof(session, rest, io),
            Call::Gone => self.gone(session, io),
            Call::Drained => self.drained(session, io),
            Call::Wake => self.wake(session, io),
            Call::Timeout => self.timeout(session, io),
            Call::Drain => self.drain(session, io),
            Call::Shed => self.shed(session),
            Call::Spliced(bytes) => self.spliced(session, bytes, io),
        };
        Step::next(self.join(session, io).unwrap_or(next))
    }

    fn closed(&mut self, session: Session, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        let state = self.state.clone();
        state.borrow_mut().now = reclaim.now();
        match session.0 {
            Side::Streams(streams) => streams.close(self, reason, reclaim),
            Side::Trunk(trunk) => trunk.close(self, reason, reclaim),
            Side::Client(client) => state.borrow_mut().client_closed(&client, reason),
            Side::Upstream(upstream) => state.borrow_mut().upstream_closed(upstream),
            Side::Check(checking) => state.borrow_mut().check_closed(&checking),
            Side::Relayed(joint) => state.borrow_mut().relay_closed(joint, reason),
            #[cfg(feature = "tls-layer")]
            Side::Greeting(mut greeting) => {
                state.borrow_mut().greeting_over(&mut greeting, End::ClientLeft);
            }
            Side::Unwanted(place) => {
                place.into_iter().for_each(|place| state.borrow_mut().relay_unwanted(place))
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.take_notice(notice);
    }
}

impl Proxy {
    /// A client of HTTP/1.1, or a stream.
    fn client(&self, is_http2: bool, io: &mut Io<'_>) -> Side {
        let mut state = self.state(io);
        state.wait_for_request(io);
        Side::Client(Client::new(state.bells.whom(io), self.https_port, is_http2))
    }

    /// A client's connection of HTTP/2.
    fn streams(&self, io: &mut Io<'_>) -> Side {
        let plan = self.state(io).plan.clone();
        Side::Streams(Box::new(Streams::open(&plan.front, self.state.clone(), io)))
    }

    /// A connection is there that was asked for with this tag.
    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> Side {
        let place = Place::of_tag(tag);
        let mut state = self.state(io);
        let (is_lane, is_check) = (tag & Place::LANE != 0, Place::is_check(tag));
        if is_check && !is_lane {
            state.introduce_check(place, io);
        }
        if !is_lane && state.groups.is_http2(place.group, is_check) {
            drop(state);
            let state = self.state.clone();
            return Side::Trunk(Box::new(Trunk::open(self, state, tag, io)));
        }
        if is_check {
            return Side::Check(Box::new(state.check_open(place, io)));
        }
        if state.groups.config(place.group).is_relayed {
            let joint = state.relay_open(place, io);
            return joint.map_or_else(|| Side::unwanted(Some(place), io), Side::Relayed);
        }
        Side::Upstream(state.upstream_open(place, io))
    }

    fn data(&mut self, session: &mut Session, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let mut state = self.state(io);
        match &mut session.0 {
            Side::Client(client) => {
                let was_http2 = client.is_http2;
                let step = state.client_data(client, input, io);
                if client.is_http2 == was_http2 {
                    return step;
                }
                drop(state);
                session.0 = self.streams(io);
                Layer::call(self, session, Call::Data(input), io)
            }
            Side::Upstream(upstream) => match state.upstream_data(*upstream, input, io) {
                Ok(step) => step,
                Err((consumed, joint)) => {
                    session.0 = Side::Relayed(joint);
                    let step = state.relay_data(joint, &input[consumed..], io);
                    Step { consumed: consumed + step.consumed, ..step }
                }
            },
            Side::Check(checking) => state.check_data(checking, input),
            Side::Relayed(joint) => state.relay_data(*joint, input, io),
            #[cfg(feature = "tls-layer")]
            Side::Greeting(greeting) => {
                let Some(relaying) = &self.relaying else { return Step::abort() };
                match state.greet(greeting, relaying, input, io) {
                    Ok(joint) => {
                        let step = state.relay_data(joint, input, io);
                        session.0 = Side::Relayed(joint);
                        step
                    }
                    Err(step) => step,
                }
            }
            Side::Unwanted(_) | Side::Streams(_) | Side::Trunk(_) => Step::abort(),
        }
    }

    fn wake(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        let mut state = self.state(io);
        match &mut session.0 {
            Side::Client(client) => state.serve(client, io),
            Side::Upstream(upstream) => state.send(*upstream, io),
            Side::Relayed(joint) => state.relay_look(*joint, io),
            Side::Check(_) | Side::Streams(_) | Side::Trunk(_) => Next::Continue,
            #[cfg(feature = "tls-layer")]
            Side::Greeting(_) => Next::Continue,
            Side::Unwanted(_) => Next::Abort,
        }
    }

    /// A client whose exchange has become a pair with this call is an end of it from here on.
    fn join(&mut self, session: &mut Session, io: &mut Io<'_>) -> Option<Next> {
        let Side::Client(Client { joined: Some(pair), is_http2, .. }) = session.0 else { return None };
        let mut state = self.state(io);
        let joint = state.relay_joined(pair, is_http2, io);
        session.0 = Side::Relayed(joint);
        Some(state.relay_look(joint, io))
    }

    fn drained(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        if let Side::Relayed(joint) = session.0 {
            return self.state(io).relay_drained(joint, io);
        }
        self.wake(session, io)
    }

    fn spliced(&mut self, session: &mut Session, bytes: u64, io: &mut Io<'_>) -> Next {
        if let Side::Relayed(joint) = session.0 {
            return self.state(io).relay_spliced(joint, bytes, io);
        }
        self.wake(session, io)
    }

    fn eof(&mut self, session: &mut Session, rest: &mut [u8], io: &mut Io<'_>) -> Next {
        let mut state = self.state(io);
        match &mut session.0 {
            Side::Client(client) => state.client_eof(client, rest, io),
            Side::Upstream(upstream) => state.upstream_eof(*upstream, io),
            Side::Relayed(joint) => state.relay_eof(*joint, io),
            Side::Check(_) | Side::Unwanted(_) | Side::Streams(_) | Side::Trunk(_) => Next::Close,
            #[cfg(feature = "tls-layer")]
            Side::Greeting(_) => Next::Close,
        }
    }

    fn gone(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        match &session.0 {
            Side::Client(client) => self.state(io).client_gone(client),
            // What it sent before its end is still to be read.
            _ => Next::Pause,
        }
    }

    fn timeout(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        let mut state = self.state(io);
        match &mut session.0 {
            Side::Client(client) => state.client_timeout(client, io),
            Side::Upstream(upstream) => state.upstream_timeout(*upstream, io),
            Side::Relayed(joint) => state.relay_timeout(*joint, io),
            Side::Check(_) | Side::Unwanted(_) | Side::Streams(_) | Side::Trunk(_) => Next::Abort,
            #[cfg(feature = "tls-layer")]
            Side::Greeting(greeting) => {
                state.greeting_over(greeting, End::TimedOut);
                Next::Close
            }
        }
    }

    fn drain(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        let mut state = self.state.borrow_mut();
        match &mut session.0 {
            Side::Client(client) => state.client_drain(client, io),
            Side::Upstream(upstream) => state.upstream_drain(*upstream),
            Side::Check(checking) => State::check_drain(checking),
            // Both ends say when it is over.
            Side::Relayed(joint) => state.relay_look(*joint, io),
            #[cfg(feature = "tls-layer")]
            Side::Greeting(greeting) => {
                state.greeting_over(greeting, End::Refused);
                Next::Close
            }
            Side::Unwanted(_) | Side::Streams(_) | Side::Trunk(_) => Next::Abort,
        }
    }

    fn shed(&mut self, session: &mut Session) -> Next {
        let state = self.state.borrow();
        match &session.0 {
            Side::Client(client) => state.client_shed(client),
            Side::Upstream(upstream) => state.upstream_shed(*upstream),
            _ => Next::Continue,
        }
    }
}

fn has_agreed_on_http2(io: &Io<'_>) -> bool {
    let secure = io.facts().and_then(|facts| facts.secure.as_ref());
    secure.is_some_and(|secure| secure.alpn.as_deref() == Some(b"h2"))
}

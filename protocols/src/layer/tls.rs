//! TLS 1.2 and 1.3 under any protocol, with rustls: on connections that are accepted, and on those that the protocol opens.
//!
//! ```no_run
//! # use ringmill_engine as ringmill;
//! # use ringmill_protocols::{http, Tls, TlsConfig, TlsStore};
//! let store = TlsStore::new(TlsConfig::from_files("chain.pem", "key.pem"))?;
//! ringmill::Engine::builder()
//!     .listen("0.0.0.0:8443", move |_worker| {
//!         Tls::new(http::server(|_request, reply| reply.text("Hello, World!")), store.clone())
//!     })
//!     .run()?;
//! # Ok::<(), ringmill_engine::Error>(())
//! ```
//!
//! `link.rs` is the connection of rustls as bytes in and bytes out, `config.rs` what a listener runs with, `store.rs` what its
//! files hold; `client.rs` is what connections run with that the protocol opens, `outgoing.rs` how they begin. This file stands
//! between: a [`Layer`] whose session decrypts what arrives, calls the session above, and
//! encrypts what that wrote. What the session above writes can go nowhere else: it has an outlet of its own ([`Upper`]).
//!
//! What is left of input is kept in one of two places. When all complete records are taken, the beginning of the next one is
//! kept here, as is what rustls has taken and wants to see again, because it may have joined a message there. When records wait
//! because the session above pauses, they are left where they are, with the engine, untouched.

mod client;
mod client_auth;
mod clock;
mod config;
mod failures;
mod greeting;
mod hello;
mod identity;
mod keylog;
mod link;
mod names;
mod outgoing;
mod pem;
mod selfsigned;
mod sessions;
mod state;
mod stats;
mod store;
mod turns;
mod watch;

pub use client::{TlsClient, TlsClientConfig, TlsPeer};
pub use config::{TlsConfig, TlsError, TlsVersion};
pub use hello::{Asked, Hello};
pub use identity::TlsTerm;
pub use stats::TlsStats;
pub use store::TlsStore;

use client::{HANDSHAKE_BYTES_MAX, Peers};
use clock::Stopwatch;
use failures::fault;
use greeting::{Greeting, greeting};
use link::{Event, Link};
use ringmill_engine::{
    Call, CloseReason, ConnId, Dialer, Facts, Io, Layer, Next, Notice, Origin, Reclaim, Secure, Step, Upper,
};
use state::{Incoming, State, Turn};
use stats::Fault;
use std::mem::{replace, take};
use std::sync::Arc;
use std::time::Duration;
use turns::Turns;

/// What rustls keeps for an idle connection, with what we do: 2.5 KB on its heap and the connection itself.
const LINK_BYTES: usize = 4096;
/// How long a handshake may take once the engine drains.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// Plaintext buffers that grew beyond this are freed: no record holds more.
const PLAIN_BYTES_KEPT: usize = 16 * 1024;

/// Carries a protocol over TLS. What the handshake came to is in [`Io::facts`] of the session above.
///
/// - A peer's close_notify is the end of its stream: what is being answered is still sent, and our close_notify behind it. The
///   end of the transport without one may be an attacker's cut: the session above is told of the end with
///   `is_truncated` in [`Io::facts`], and must not take for whole what only the end of the stream delimits.
/// - A session above that closes ends with our close_notify; one that aborts or panics does not.
/// - A client that sends an HTTP request without TLS is answered with [`TlsConfig::with_plain_reply`].
/// - Connections that the protocol opens itself are secured with whom [`Tls::with_peers`] says; without it they are refused, for they
///   would be plain. One that cannot be secured is refused as well, with [`Refusal::Unsecured`](ringmill_engine::Refusal::Unsecured) or what the transport said;
///   [`TlsPeer::last_failure`] knows why.
#[derive(Debug)]
pub struct Tls<L> {
    inner: L,
    /// What accepted connections run with. Without it they are plain.
    store: Option<Arc<TlsStore>>,
    peers: Peers,
    /// The plaintext of the record at hand.
    plain: Vec<u8>,
    /// What rustls wants to send.
    wire: Vec<u8>,
    turns: Turns<ConnId>,
    /// Wakes those that wait for their turn. There from the start of the worker on.
    dialer: Option<Dialer>,
    /// What is known of the connection whose handshake was the last.
    last_facts: Arc<Facts>,
}

impl<L: Layer> Tls<L> {
    /// `inner` over TLS, as `store` says.
    pub fn new(inner: L, store: Arc<TlsStore>) -> Tls<L> {
        Tls { turns: Turns::new(store.config().handshake_turn), store: Some(store), ..Tls::bare(inner) }
    }

    fn bare(inner: L) -> Tls<L> {
        let (plain, wire) = (Vec::new(), Vec::new());
        let turns = Turns::new(Duration::ZERO);
        let last_facts = Arc::default();
        Tls { inner, store: None, peers: Peers::None, plain, wire, turns, dialer: None, last_facts }
    }
}

/// A connection of [`Tls`].
pub struct TlsSession<L: Layer> {
    state: State<L>,
    /// The beginning of a record or message, as rustls left it.
    rest: Vec<u8>,
    turn: Turn,
}

/// What is done with the input that is left.
enum Verdict {
    /// It is the beginning of something.
    Incomplete(Step),
    /// It waits until the session above takes input again.
    Waits(Step),
    /// It is not looked at any more.
    Over(Step),
}

impl<L: Layer> Layer for Tls<L> {
    type Session = TlsSession<L>;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> TlsSession<L> {
        let state = match (origin, &self.store) {
            (Origin::Accepted, Some(store)) => {
                io.set_timeout(store.config().handshake_timeout);
                State::Greeting
            }
            (Origin::Accepted, None) => self.open_plain(origin, io),
            (Origin::Connected(tag), _) => self.connected(tag, io),
        };
        TlsSession { state, rest: Vec::new(), turn: Turn::Unasked }
    }

    fn call(&mut self, session: &mut TlsSession<L>, call: Call<'_>, io: &mut Io<'_>) -> Step {
        match (&mut session.state, call) {
            (State::Plain(upper), call) => {
                let consumed = call.input_bytes();
                upper.call(&mut self.inner, call, io);
                upper.pass(consumed, io)
            }
            (_, Call::Data(input)) => self.data(session, input, io),
            (State::Open(..), call) => self.pass_on(session, call, io),
            (State::Greeting | State::Handshaking { .. }, Call::Wake) => self.take_turn(session, io),
            // What we asked for may be needed for what is in progress.
            (State::Handshaking { tag: Some(_), .. }, Call::Drain | Call::Shed) => session.wait(),
            (State::Greeting | State::Handshaking { .. }, Call::Drain) => {
                let timeout =
                    self.store.as_ref().map_or(DRAIN_GRACE, |store| store.config().handshake_timeout);
                io.set_timeout(DRAIN_GRACE.min(timeout));
                session.wait()
            }
            (State::Over(_), Call::Drained) => Step::close(),
            (State::Greeting | State::Handshaking { .. }, call @ (Call::Timeout | Call::End(_))) => {
                let is_accepted = session.state.is_accepted();
                match (&session.state, session.turn, &call) {
                    (_, Turn::Queued(_), Call::Timeout) => self.blame(is_accepted, Fault::Unserved, io),
                    (_, _, Call::Timeout) => self.blame(is_accepted, Fault::Late, io),
                    (State::Handshaking { .. }, ..) => self.blame(is_accepted, Fault::Left, io),
                    // It came and went without a word.
                    _ => {}
                }
                session.state.break_off(&call)
            }
            (_, Call::Gone | Call::Drained | Call::Wake | Call::Spliced(_)) => session.wait(),
            (_, Call::End(_) | Call::Timeout | Call::Drain | Call::Shed) => Step::close(),
        }
    }

    fn closed(&mut self, session: TlsSession<L>, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        if let Turn::Queued(number) = session.turn {
            self.turns.leave(number, |id| wake(&self.dialer, id));
        }
        match session.state {
            State::Open(_, upper, _) | State::Plain(upper) => upper.close(&mut self.inner, reason, reclaim),
            state => {
                let is_left = matches!(state, State::Handshaking { tag: None, .. });
                if let (true, CloseReason::Failed(_), Some(store)) = (is_left, reason, &self.store) {
                    store.counts().left();
                }
                self.tell_refused(&state, reason);
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        if let Notice::Start(dialer) = &notice {
            self.dialer = Some(dialer.clone());
        }
        self.inner.notice(notice);
    }
}

fn wake(dialer: &Option<Dialer>, id: ConnId) {
    if let Some(dialer) = dialer {
        dialer.wake(id);
    }
}

impl<L: Layer> Tls<L> {
    fn handshake_bytes_max(&self) -> usize {
        self.store.as_ref().map_or(HANDSHAKE_BYTES_MAX, |store| store.config().handshake_bytes_max)
    }

    /// Whether a handshake may begin, or go on before anything of it was answered. Who may not is woken later.
    fn may_begin(&mut self, session: &mut TlsSession<L>, io: &Io<'_>) -> bool {
        match session.turn {
            Turn::Unasked if self.dialer.is_none() || self.turns.may_begin(io.now(), io.is_behind()) => true,
            Turn::Unasked => {
                let number = self.turns.enter(io.id(), |id| wake(&self.dialer, id));
                if let Some(store) = &self.store {
                    store.counts().queued();
                }
                session.turn = Turn::Queued(number);
                false
            }
            Turn::Queued(_) => false,
            Turn::Granted => {
                session.turn = Turn::Unasked;
                true
            }
        }
    }

    /// It was woken: what it has sent is shown again behind this.
    fn take_turn(&mut self, session: &mut TlsSession<L>, io: &Io<'_>) -> Step {
        if let Turn::Queued(number) = session.turn {
            self.turns.come(number, io.is_behind(), |id| wake(&self.dialer, id));
            session.turn = Turn::Granted;
        }
        Step::next(Next::Continue)
    }

    /// A call without input, for the session above.
    fn pass_on(&mut self, session: &mut TlsSession<L>, call: Call<'_>, io: &mut Io<'_>) -> Step {
        let is_accepted = session.state.is_accepted();
        let State::Open(_, upper, incoming) = &mut session.state else { return Step::close() };
        match (call, *incoming) {
            // It was told when the close_notify came.
            (Call::End(_), Incoming::Ended) => {}
            (Call::End(_), Incoming::Flowing) => {
                io.facts_mut().secure.get_or_insert_default().is_truncated = true;
                upper.call(&mut self.inner, Call::End(&mut []), io);
                self.blame(is_accepted, Fault::Truncated, io);
            }
            (call, _) => upper.call(&mut self.inner, call, io),
        }
        self.seal(&mut session.state, &mut session.rest, io)
    }

    fn data(&mut self, session: &mut TlsSession<L>, input: &mut [u8], io: &mut Io<'_>) -> Step {
        if let (State::Greeting, Some(store)) = (&session.state, &self.store) {
            match (greeting(input), store.config().plain_reply) {
                (Greeting::Short, _) => return Step::consumed(0),
                (Greeting::Plain, Some(reply)) => {
                    self.blame(true, Fault::PlainHttp, io);
                    io.write(reply);
                    return Step::close();
                }
                (Greeting::Plain | Greeting::Other, _) => {}
            }
            let server = store.server();
            if !self.may_begin(session, io) {
                return Step::pause(0);
            }
            if !io.hold(LINK_BYTES) {
                io.count_refused(1);
                return Step::close();
            }
            let Ok(link) = Link::new(server) else { return Step::close() };
            session.state = State::Handshaking {
                link: Box::new(link),
                taken_bytes: 0,
                is_answered: false,
                server_name: None,
                tag: None,
            };
        } else if session.is_unanswered() && !self.may_begin(session, io) {
            return Step::pause(0);
        }
        if !session.is_unanswered() {
            return self.take_input(session, input, io);
        }
        let began = Stopwatch::start();
        let step = self.take_input(session, input, io);
        if !session.is_unanswered() {
            self.turns.spend(began.elapsed());
        }
        step
    }

    fn take_input(&mut self, session: &mut TlsSession<L>, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let len = input.len();
        let mut joined = take(&mut session.rest);
        let is_joined = !joined.is_empty();
        if is_joined {
            joined.extend_from_slice(input);
        }
        let all = if is_joined { &mut joined[..] } else { input };
        let (at, verdict) = self.records(&mut session.state, all, io);
        let left = &all[at..];
        let (step, kept) = match verdict {
            Verdict::Over(step) => return Step { consumed: len, ..step },
            // Of the records that wait none began before this input.
            Verdict::Waits(step) => (step, session.held_bytes()),
            Verdict::Incomplete(step) => (step, left.len()),
        };
        let step = Step { consumed: len - (left.len() - kept), ..step };
        if is_joined && at == 0 {
            joined.truncate(kept);
            session.rest = joined;
        } else {
            session.rest = left[..kept].to_vec();
        }
        if io.hold(session.memory_bytes()) || session.rest.is_empty() {
            return step;
        }
        // As where the engine keeps what was not consumed: no memory is left for it.
        io.count_refused(1);
        self.give_up(&mut session.state, io);
        Step { next: Next::Abort, ..step }
    }

    /// Takes records from the front of `input`, one after the other, while the session above takes what is in them. Says how many
    /// bytes that were.
    fn records(&mut self, state: &mut State<L>, input: &mut [u8], io: &mut Io<'_>) -> (usize, Verdict) {
        let mut at = 0;
        loop {
            let (taken, event) = match state {
                State::Handshaking { link, taken_bytes, is_answered, server_name, .. } => {
                    let advanced = link.advance(&mut input[at..], &mut self.plain, &mut self.wire);
                    *taken_bytes += advanced.0;
                    *is_answered |= !self.wire.is_empty() && !link::asks_again(&self.wire);
                    if let Some(name) = names::take_server_name() {
                        *server_name = Some(name);
                    }
                    advanced
                }
                State::Open(link, _, Incoming::Flowing) => {
                    link.advance(&mut input[at..], &mut self.plain, &mut self.wire)
                }
                State::Open(_, upper, Incoming::Ended) => return (at, Verdict::Over(upper.step(0, io))),
                State::Greeting | State::Plain(_) | State::Over(_) => {
                    return (at, Verdict::Over(Step::close()));
                }
            };
            at += taken;
            if !self.wire.is_empty() {
                // Behind our end an alert, or an answer to new keys, finds nobody.
                if !io.has_ended_output() {
                    io.write(&self.wire);
                }
                self.wire.clear();
            }
            if let Event::Failed(error) = event {
                tracing::debug!(%error, "a TLS connection failed");
                self.blame(state.is_accepted(), fault(&error), io);
                return (at, self.fail(state, io));
            }
            if let State::Handshaking { link, taken_bytes, .. } = state {
                let bytes = *taken_bytes + input.len() - at;
                match (link.is_handshaking(), &event) {
                    (false, _) => self.open_upper(state, io),
                    (true, Event::Starved) if bytes <= self.handshake_bytes_max() => {
                        return (at, Verdict::Incomplete(Step::consumed(0)));
                    }
                    (true, _) => {
                        tracing::debug!(bytes, "a TLS handshake was too long, or broken off");
                        self.blame(state.is_accepted(), Fault::Left, io);
                        state.tell_failure("the handshake was too long, or broken off");
                        return (at, self.fail(state, io));
                    }
                }
            }
            let is_starved = matches!(event, Event::Starved);
            self.hand_up(state, event, io);
            let step = self.seal(state, &mut input[at..], io);
            match step.next {
                Next::Close | Next::Abort => return (at, Verdict::Over(step)),
                Next::Continue | Next::Pause if is_starved => return (at, Verdict::Incomplete(step)),
                Next::Continue => {}
                Next::Pause => return (at, Verdict::Waits(step)),
            }
        }
    }

    /// The handshake is complete.
    fn open_upper(&mut self, state: &mut State<L>, io: &mut Io<'_>) {
        let State::Handshaking { link, server_name, tag, .. } = replace(state, State::Over(None)) else {
            return;
        };
        if let Some(store) = self.store.as_ref().filter(|_| tag.is_none()) {
            store.counts().complete(&link.handshake());
        }
        self.say(link.facts(server_name), io);
        let origin = tag.map_or(Origin::Accepted, Origin::Connected);
        let mut upper = Upper::open(&mut self.inner, origin, io);
        // As the engine does with a connection that comes while it drains.
        if io.is_draining() {
            upper.call(&mut self.inner, Call::Drain, io);
        }
        *state = State::Open(link, upper, Incoming::Flowing);
    }

    /// Clients mostly agree with us on the same: what is known of the last connection is shared with the next one if it is no
    /// different. It saves a tenth of what an idle connection takes.
    fn say(&mut self, secure: Secure, io: &mut Io<'_>) {
        let mut facts = io.facts().cloned().unwrap_or_default();
        facts.secure = Some(secure);
        if *self.last_facts != facts {
            self.last_facts = Arc::new(facts);
        }
        io.put_facts(self.last_facts.clone());
    }

    /// Tells the session above what came for it.
    fn hand_up(&mut self, state: &mut State<L>, event: Event, io: &mut Io<'_>) {
        let State::Open(_, upper, incoming) = state else { return };
        match event {
            Event::Plain => {
                let mut plain = take(&mut self.plain);
                upper.call(&mut self.inner, Call::Data(&mut plain), io);
                if plain.capacity() <= PLAIN_BYTES_KEPT {
                    self.plain = plain;
                }
            }
            Event::Ended => {
                *incoming = Incoming::Ended;
                upper.call(&mut self.inner, Call::End(&mut []), io);
            }
            Event::Starved | Event::Failed(_) => {}
        }
    }

    /// Encrypts what the session above wrote, with the end behind its last. `rest` is for [`Link::seal`].
    fn seal(&mut self, state: &mut State<L>, rest: &mut [u8], io: &mut Io<'_>) -> Step {
        let State::Open(link, upper, _) = state else { return Step::close() };
        let mut sealed = Ok(());
        if let Some(output) = upper.take_output() {
            if !output.is_empty() {
                sealed = link.seal(output.pieces(), rest, io.buffer());
            }
            io.recycle(output);
        }
        if upper.take_end() {
            sealed = sealed.and_then(|()| link.close(rest, io.buffer()));
        }
        match sealed {
            Ok(()) => upper.step(0, io),
            Err(error) => {
                tracing::debug!(%error, "a TLS connection cannot go on");
                self.give_up(state, io);
                Step::abort()
            }
        }
    }

    /// Counts what the peer of an accepted connection did.
    fn blame(&self, is_accepted: bool, fault: Fault, io: &Io<'_>) {
        if let Some(store) = self.store.as_ref().filter(|_| is_accepted) {
            store.counts().fault(fault, io.now());
        }
    }

    /// Ends a connection that broke the rules. The alert, if there is one, was written.
    fn fail(&mut self, state: &mut State<L>, io: &mut Io<'_>) -> Verdict {
        self.give_up(state, io);
        Verdict::Over(Step::close())
    }

    /// The session above sees that its stream broke off.
    fn give_up(&mut self, state: &mut State<L>, io: &mut Io<'_>) {
        let over = State::Over(state.unmade());
        if let State::Open(_, upper, _) = replace(state, over) {
            upper.close(&mut self.inner, CloseReason::Aborted, &mut io.reclaim());
        }
    }
}

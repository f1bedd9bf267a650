//! The PROXY protocol, from a proxy in front of us: the address of its client, before the first byte of what the client says.
//!
//! [`Prefixed`] carries any protocol. On a connection from a listed network it takes one header of version 1 or 2, which must be
//! there, and opens the session above only behind it: [`Io::peer`] then answers with the client's address, and what else the
//! proxy said is in [`Io::facts`]. It never guesses whether a header is there, because then anybody could send one.
//!
//! ```
//! use ringmill_protocols::Echo;
//! use ringmill_protocols::layer::proxy::{BadNetwork, Prefixed};
//!
//! let proxies = vec!["10.0.0.0/8".parse()?];
//! let behind_proxies = Prefixed::new(Echo::default(), proxies);
//! # Ok::<(), BadNetwork>(())
//! ```
//!
//! A [`Gate`] that is to know clients and not their proxies is asked here ([`Prefixed::with_gate`]), and not by the listener.
//! [`write_header`] makes such a header, for the server behind us.
//!
//! The specification is <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. The parser, pure, is `header.rs`.

mod binary;
mod header;
#[cfg(test)]
mod tests;
mod text;
mod told;
mod write;

pub use ringmill_engine::{BadNetwork, Network};
pub use write::{Version, write_header, write_own_header};

use ringmill_engine::{
    Address, Call, CloseReason, Gate, Io, Layer, Next, Notice, Origin, ProxyOutcome, Reclaim, Step, Upper,
};
use std::time::Duration;
use told::{Outcome, Told};

/// A header must have arrived in full within this time: a proxy sends it with its first segment.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// While the engine drains, a header that is on its way has this time, as an idle HTTP connection has.
const DRAIN_GRACE: Duration = Duration::from_millis(100);

/// Takes a PROXY header from proxies in listed networks, then carries `L`.
///
/// Version 1 has at most 107 bytes, version 2 at most 4 KiB are taken. A connection whose header is missing, malformed, cut, or not
/// there within five seconds is closed without an answer, and counted by reason in [`Counters`](ringmill_engine::Counters).
/// LOCAL, UNKNOWN and what is not a stream leave the kernel's addresses as they are.
pub struct Prefixed<L> {
    inner: L,
    proxies: Vec<Network>,
    serves_others: bool,
    header_timeout: Duration,
    gate: Option<Gate>,
}

impl<L: Layer> Prefixed<L> {
    /// Carries `inner` behind proxies in these networks. Any other peer is refused.
    pub fn new(inner: L, proxies: Vec<Network>) -> Prefixed<L> {
        Prefixed { inner, proxies, serves_others: false, header_timeout: HEADER_TIMEOUT, gate: None }
    }

    /// Whether a peer outside the networks is served, without a header and by its own address. A header that it sends is
    /// then the inner protocol's first input.
    pub fn with_others(mut self, are_served: bool) -> Prefixed<L> {
        self.serves_others = are_served;
        self
    }

    /// The header must have arrived in full within this time; five seconds unless it is set.
    pub fn with_header_timeout(mut self, timeout: Duration) -> Prefixed<L> {
        self.header_timeout = timeout;
        self
    }

    /// Lets in only those clients that this gate lets in: it is asked with the address that a header tells, or with that of a peer
    /// that is served without one. What a proxy opens for itself (LOCAL, UNKNOWN) and clients of Unix sockets are not asked for.
    pub fn with_gate(mut self, gate: Option<Gate>) -> Prefixed<L> {
        self.gate = gate;
        self
    }

    /// Whether the client at this address may come in.
    fn lets_in(&self, client: Option<&Address>, io: &mut Io<'_>) -> bool {
        match (&self.gate, client) {
            (Some(gate), Some(Address::Ip(client))) => io.admit(gate, client.ip()),
            _ => true,
        }
    }

    /// One system call a connection, for the address.
    fn admit(&self, origin: Origin, io: &mut Io<'_>) -> Admission {
        // Whoever we connect to sends no header: a proxy is on the client's side.
        if origin != Origin::Accepted {
            return Admission::AsItIs;
        }
        // It is gone already, as after a health check that ends with a reset.
        let Some(peer) = io.peer() else { return Admission::Refused };
        if self.proxies.iter().any(|network| network.contains(&peer)) {
            Admission::WithHeader
        } else if self.serves_others {
            if self.lets_in(Some(&peer), io) { Admission::AsItIs } else { Admission::Refused }
        } else {
            refuse(ProxyOutcome::Unlisted, "no proxy of ours", io);
            Admission::Refused
        }
    }

    /// What has arrived while the header is waited for.
    fn wait(&mut self, session: &mut Session<L>, input: &mut [u8], io: &mut Io<'_>) -> Step {
        match header::read(input) {
            Outcome::Complete(bytes, told) => {
                io.count_proxied(ProxyOutcome::Told);
                if !self.lets_in(told.peer.as_ref(), io) {
                    return Step::next(Next::Abort);
                }
                learn(told, io);
                let mut upper = self.begin(&mut input[bytes..], io);
                let step = upper.pass(input.len(), io);
                *session = Session::Open(upper);
                step
            }
            Outcome::Partial(bytes) => Step::need(0, bytes),
            Outcome::Missing => refuse(ProxyOutcome::Missing, "no PROXY header", io),
            Outcome::Malformed(problem) => refuse(ProxyOutcome::Malformed, problem, io),
        }
    }

    /// The session above begins, behind its header.
    fn begin(&mut self, rest: &mut [u8], io: &mut Io<'_>) -> Upper<L> {
        let mut upper = Upper::open(&mut self.inner, Origin::Accepted, io);
        // As the engine does with a connection that comes while it drains.
        if io.is_draining() {
            upper.call(&mut self.inner, Call::Drain, io);
        }
        if !rest.is_empty() {
            upper.call(&mut self.inner, Call::Data(rest), io);
        }
        upper
    }
}

/// How a connection begins.
enum Admission {
    WithHeader,
    AsItIs,
    Refused,
}

/// Where a connection is.
#[doc(hidden)]
pub enum Session<L: Layer> {
    /// The header is not there in full.
    Waiting,
    /// Nobody we serve.
    Refused,
    Open(Upper<L>),
}

impl<L: Layer> Layer for Prefixed<L> {
    type Session = Session<L>;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> Session<L> {
        match self.admit(origin, io) {
            Admission::WithHeader => {
                io.set_timeout(self.header_timeout);
                Session::Waiting
            }
            Admission::AsItIs => {
                let mut upper = Upper::open(&mut self.inner, origin, io);
                upper.pass(0, io);
                Session::Open(upper)
            }
            Admission::Refused => {
                // Only a call can close, and this asks for one at once.
                io.notify_drained();
                Session::Refused
            }
        }
    }

    fn call(&mut self, session: &mut Session<L>, call: Call<'_>, io: &mut Io<'_>) -> Step {
        let consumed = call.input_bytes();
        match (&mut *session, call) {
            (Session::Open(upper), call) => {
                upper.call(&mut self.inner, call, io);
                upper.pass(consumed, io)
            }
            (Session::Refused, _) => Step::close(),
            (Session::Waiting, Call::Data(input)) => self.wait(session, input, io),
            // Who only looks whether somebody listens has done nothing wrong.
            (Session::Waiting, Call::End([])) => Step::close(),
            (Session::Waiting, Call::End(_)) => refuse(ProxyOutcome::Malformed, "the header is cut", io),
            (Session::Waiting, Call::Timeout) if io.is_draining() => Step::close(),
            (Session::Waiting, Call::Timeout) => {
                refuse(ProxyOutcome::Late, "the header did not come in time", io)
            }
            (Session::Waiting, Call::Drain) => {
                io.set_timeout(DRAIN_GRACE);
                Step::next(Next::Continue)
            }
            (Session::Waiting, Call::Shed) => Step::close(),
            (Session::Waiting, Call::Gone | Call::Drained | Call::Wake | Call::Spliced(_)) => {
                Step::next(Next::Continue)
            }
        }
    }

    fn closed(&mut self, session: Session<L>, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        if let Session::Open(upper) = session {
            upper.close(&mut self.inner, reason, reclaim);
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.inner.notice(notice);
    }
}

/// Closes, and says why to whoever looks for it.
#[cold]
fn refuse(outcome: ProxyOutcome, problem: &str, io: &mut Io<'_>) -> Step {
    io.count_proxied(outcome);
    tracing::debug!(peer = %io.peer().map_or("gone".to_owned(), |peer| peer.to_string()), "PROXY protocol: {problem}");
    Step::close()
}

/// Adds what a header says to what is known of the connection.
fn learn(told: Told, io: &mut Io<'_>) {
    if told == Told::default() {
        return;
    }
    let facts = io.facts_mut();
    facts.peer = told.peer.or(facts.peer.take());
    facts.local = told.local.or(facts.local.take());
    facts.proxied = told.proxied.or(facts.proxied.take());
}

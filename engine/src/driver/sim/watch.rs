//! A protocol under watch: the rules that the engine promises to protocols, checked at every call.
//!
//! No call before `open` or after `closed`, none for another tenant of the slot; generations rise; a `wake` was asked
//! for. A violation is noted, not asserted: the engine catches panics of protocol code. The simulation looks
//! at the notes after every turn.

use crate::bell::{ConnId, Waker, Whom};
use crate::seam::io::Io;
use crate::seam::layer::{Call, Layer, Notice, Origin, Reclaim};
use crate::seam::step::Step;
use crate::session::life::CloseReason;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll};

/// What was seen of all workers of a simulation, and the wakers that their sessions gave away.
#[derive(Clone, Default)]
pub struct Watch(Rc<RefCell<Seen>>);

#[derive(Default)]
struct Seen {
    violations: Vec<String>,
    /// By worker and slot: the tenant's generation.
    open: BTreeMap<(usize, u32), u32>,
    /// By worker: the newest generation.
    newest: BTreeMap<usize, u32>,
    /// Wake-ups that were asked for and not made.
    asked: Vec<(usize, ConnId)>,
    left: Vec<Left>,
    /// Sessions that may be woken unasked.
    self_waking: BTreeSet<(usize, u32, u32)>,
    /// Whose call is being made, or was last.
    current: Option<(usize, ConnId)>,
    /// All wake-ups go through here: one that was not asked for is a fault.
    is_tracking: bool,
}

/// Something that can be woken, also after it is gone, and more than once.
#[derive(Clone)]
pub enum Left {
    /// A session.
    Session(Waker),
    /// A future in a session.
    Task(Rc<Wait>),
}

/// What a future waits for.
pub struct Wait {
    of: (usize, ConnId),
    is_over: Cell<bool>,
    /// The last one counts.
    waker: RefCell<task::Waker>,
}

struct Task {
    watch: Watch,
    /// There once it was polled.
    wait: Option<Rc<Wait>>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        let Some(wait) = &self.wait else {
            let of = self.watch.0.borrow().current.expect("it is polled in a call of a session under watch");
            let waker = RefCell::new(context.waker().clone());
            let wait = Rc::new(Wait { of, is_over: Cell::new(false), waker });
            self.watch.push(Left::Task(wait.clone()));
            self.wait = Some(wait);
            return Poll::Pending;
        };
        wait.waker.replace(context.waker().clone());
        if wait.is_over.get() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A worker is known by its bell.
fn worker_of(io: &Io<'_>) -> usize {
    io.below.shared.bell.address()
}

impl Watch {
    /// What a session leaves for others to wake it by. Who uses this at all must wake through [`Watch::wake`] alone.
    pub fn leave(&self, waker: Waker) {
        self.push(Left::Session(waker));
    }

    /// A future that is over once it was woken through [`Watch::wake`], and not before.
    pub fn task(&self) -> impl Future<Output = ()> + use<> {
        Task { watch: self.clone(), wait: None }
    }

    /// The session that is being called may wake itself from now on, where one part of it tells another.
    pub fn wakes_itself(&self) {
        let seen = &mut *self.0.borrow_mut();
        if let Some((worker, id)) = seen.current {
            seen.self_waking.insert((worker, id.index, id.generation));
        }
    }

    fn push(&self, left: Left) {
        let mut seen = self.0.borrow_mut();
        seen.is_tracking = true;
        seen.left.push(left);
    }

    /// Those that were left to be woken and not taken.
    pub fn left(&self) -> usize {
        self.0.borrow().left.len()
    }

    /// Takes the one in this place, which must exist.
    pub fn take(&self, n: usize) -> Left {
        self.0.borrow_mut().left.remove(n)
    }

    /// Wakes a session, or completes what a future waits for and wakes it.
    pub fn wake(&self, left: &Left) {
        match left {
            Left::Session(waker) => {
                if let (worker, Whom::Conn(conn)) = waker.target() {
                    self.0.borrow_mut().asked.push((worker, conn));
                }
                waker.wake();
            }
            Left::Task(wait) => {
                wait.is_over.set(true);
                self.0.borrow_mut().asked.push(wait.of);
                let waker = wait.waker.borrow().clone();
                waker.wake();
            }
        }
    }

    /// The first rule that was broken.
    pub fn violation(&self) -> Option<String> {
        self.0.borrow().violations.first().cloned()
    }

    /// Sessions that were opened and not closed.
    pub fn open_sessions(&self) -> usize {
        self.0.borrow().open.len()
    }

    fn rule(&self, kept: bool, rule: &str, of: ConnId) {
        if !kept {
            self.0.borrow_mut().violations.push(format!("{rule}: {of:?}"));
        }
    }
}

/// A protocol under watch.
pub struct Watched<P> {
    protocol: P,
    watch: Watch,
    wakes_itself: bool,
}

/// A session under watch.
pub struct Session<S> {
    inner: S,
    worker: usize,
    id: ConnId,
}

impl<P> Watched<P> {
    /// Watches a protocol.
    pub fn new(protocol: P, watch: Watch) -> Watched<P> {
        Watched { protocol, watch, wakes_itself: false }
    }

    /// It wakes its sessions with its dialer, of which the watch does not know.
    pub(crate) fn with_wakes_of_its_own(self) -> Watched<P> {
        Watched { wakes_itself: true, ..self }
    }

    /// A connection begins: its slot must be free, and its generation new.
    fn enter(&self, io: &Io<'_>) -> (usize, ConnId) {
        let (worker, id) = (worker_of(io), io.id());
        let seen = &mut *self.watch.0.borrow_mut();
        let before = seen.open.insert((worker, id.index), id.generation);
        let newest = seen.newest.insert(worker, id.generation);
        seen.current = Some((worker, id));
        if before.is_some() {
            seen.violations.push(format!("two sessions share a slot: {id:?}"));
        }
        if newest.is_some_and(|newest| newest >= id.generation) {
            seen.violations.push(format!("the generation did not rise: {id:?}"));
        }
        (worker, id)
    }

    fn check<S>(&self, session: &Session<S>, io: &Io<'_>) {
        self.watch.rule(io.id() == session.id, "a session was called for another connection", session.id);
        let open = self.watch.0.borrow().open.get(&(session.worker, session.id.index)).copied();
        self.watch.rule(
            open == Some(session.id.generation),
            "a session that is closed was called",
            session.id,
        );
    }
}

impl<L: Layer> Layer for Watched<L> {
    type Session = Session<L::Session>;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> Self::Session {
        let (worker, id) = self.enter(io);
        Session { inner: self.protocol.open(origin, io), worker, id }
    }

    fn call(&mut self, session: &mut Self::Session, call: Call<'_>, io: &mut Io<'_>) -> Step {
        self.check(session, io);
        self.watch.0.borrow_mut().current = Some((session.worker, session.id));
        if let Call::Wake = call {
            let asked = {
                let seen = &mut *self.watch.0.borrow_mut();
                let of = (session.worker, session.id.index, session.id.generation);
                let may_wake_itself = seen.self_waking.contains(&of);
                let place = seen.asked.iter().position(|of| *of == (session.worker, session.id));
                place.map(|place| seen.asked.swap_remove(place)).is_some()
                    || may_wake_itself
                    || !seen.is_tracking
                    || self.wakes_itself
            };
            self.watch.rule(asked, "a session was woken and nobody had asked for it", session.id);
        }
        self.protocol.call(&mut session.inner, call, io)
    }

    fn closed(&mut self, session: Self::Session, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        let open = self.watch.0.borrow_mut().open.remove(&(session.worker, session.id.index));
        self.watch.rule(open == Some(session.id.generation), "a session was closed twice", session.id);
        self.protocol.closed(session.inner, reason, reclaim);
    }

    fn notice(&mut self, notice: Notice) {
        self.protocol.notice(notice);
    }
}

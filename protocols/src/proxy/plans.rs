//! How the workers of a proxy come to its next plan.
//!
//! A plan is made by whoever has the time, and published: each worker takes it up between two calls. What did not change goes on: an
//! upstream with the same name and configuration keeps its connections, and every request and tunnel keeps the upstream that
//! it has.

use super::groups::Place;
use super::peer::Peer;
use super::plan::Plan;
use super::state::State;
use ringmill_engine::{Waker, WorkerContext};
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};

/// The plan of a running proxy, for all its workers. Clones are the same one.
#[derive(Clone)]
pub struct Plans(Arc<Shared>);

struct Shared {
    current: Mutex<Arc<Plan>>,
    /// Those of the workers.
    bells: Mutex<Vec<Waker>>,
}

/// By whose plans it goes, on which worker, and it itself.
type Known = (usize, usize, Weak<RefCell<State>>);

thread_local! {
    /// The proxies of this thread, by their plans and the worker.
    static PROXIES: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

impl Plans {
    /// The first plan.
    pub fn new(plan: Plan) -> Plans {
        Plans(Arc::new(Shared { current: Mutex::new(Arc::new(plan)), bells: Mutex::default() }))
    }

    /// From now on this plan holds. Requests that have begun go on as they are.
    pub fn publish(&self, mut plan: Plan) {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        plan.take_over(&current);
        *current = Arc::new(plan);
        drop(current);
        self.0.bells.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Waker::wake);
    }

    /// The plan that holds.
    pub fn current(&self) -> Arc<Plan> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn ring_for(&self, waker: Waker) {
        self.0.bells.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    /// What all listeners of this worker share.
    pub(super) fn state(&self, worker: &WorkerContext) -> Rc<RefCell<State>> {
        let key = (Arc::as_ptr(&self.0).addr(), worker.index);
        PROXIES.with_borrow_mut(|proxies| {
            proxies.retain(|(.., state)| state.strong_count() > 0);
            let known = proxies.iter().find(|(plans, index, _)| (*plans, *index) == key);
            known.and_then(|(.., state)| state.upgrade()).unwrap_or_else(|| {
                let state = State::new(self.current(), worker.index as u64);
                let state = Rc::new(RefCell::new(state));
                proxies.push((key.0, key.1, Rc::downgrade(&state)));
                state
            })
        })
    }
}

impl Plans {
    /// With whom a connection with this tag is secured. To be asked on the thread of the worker that has it.
    pub fn peer_of(&self, tag: u64) -> Option<Peer> {
        let key = Arc::as_ptr(&self.0).addr();
        let state = PROXIES.with_borrow(|proxies| {
            let own = proxies.iter().filter(|(plans, ..)| *plans == key);
            own.filter_map(|(.., state)| state.upgrade()).next()
        })?;
        let place = Place::of_tag(tag);
        let state = state.borrow();
        state.groups.planned_as(place.group)?.config.upstreams.get(place.server)?.peer.clone()
    }
}

impl std::fmt::Debug for Plans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plans({:?})", self.current())
    }
}

//! Datagrams of clients, passed on to servers: a flow a client address (and our address that it asked), which is a socket connected with a
//! server. By that the answers of a server reach one client alone, and nobody else can send to it.
//!
//! Which server a flow has is chosen as for connections (`pool.rs`), and it keeps it: until nothing has come for a while either way,
//! until so many answers have come as were said to, or until the network says that nobody listens there, when it moves on to the next server. A
//! datagram that meets a full table, a gate or a dead server is lost, as UDP loses them; the client asks again. No flow is given up for another
//! one: whoever sends from many forged addresses would end those of everybody else.

use super::group_of;
use crate::proxy::config::ProxyConfig;
use crate::proxy::groups::Place;
use crate::proxy::observe::{End, Label, Noted, Wishes};
use crate::proxy::plan::Plan;
use crate::proxy::plans::Plans;
use crate::proxy::state::State;
use ringmill_engine::{
    Address, Admission, Datagram, DatagramIo, Errno, FlowId, FlowRefusal, Gate, Tick, Waker, WorkerContext,
};
use slab::Slab;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where the datagrams of a listener go, and how long a flow may be quiet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRules {
    /// The name of the upstream in the plan: one of those whose connections are relayed
    /// ([`ProxyConfig::is_relayed`](crate::proxy::ProxyConfig::is_relayed)).
    pub to: String,
    /// A flow ends when nothing has come for so long, either way.
    pub idle_timeout: Duration,
    /// Flows of the process. What comes from one more client is not passed on.
    pub flows_max: usize,
    /// A flow ends when so many answers have come for each datagram of its client; `None` is known only by the time.
    pub replies: Option<u32>,
    /// Who may begin a flow.
    pub gate: Option<Gate>,
    /// What the listener is called where flows are told of.
    pub listener: String,
}

impl FlowRules {
    /// The defaults, for this upstream.
    pub fn new(to: String) -> FlowRules {
        let (idle_timeout, listener) = (Duration::from_secs(30), String::new());
        FlowRules { to, idle_timeout, flows_max: 10_000, replies: None, gate: None, listener }
    }
}

/// The rules of a listener, for all workers. Clones are the same one.
#[derive(Clone)]
pub struct Flowing(Arc<Shared>);

struct Shared {
    rules: Mutex<Arc<FlowRules>>,
    /// Those of the workers.
    bells: Mutex<Vec<Waker>>,
    /// Flows of all workers.
    open: AtomicUsize,
}

impl Flowing {
    /// A listener that goes by these rules.
    pub fn new(rules: FlowRules) -> Flowing {
        let (rules, bells) = (Mutex::new(Arc::new(rules)), Mutex::default());
        Flowing(Arc::new(Shared { rules, bells, open: AtomicUsize::new(0) }))
    }

    /// From now on it goes by other rules. Flows that are open stay.
    pub fn set(&self, rules: FlowRules) {
        *lock(&self.0.rules) = Arc::new(rules);
        lock(&self.0.bells).iter().for_each(Waker::wake);
    }

    /// Flows that are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    fn rules(&self) -> Arc<FlowRules> {
        lock(&self.0.rules).clone()
    }

    /// One more flow, if there are fewer than so many.
    fn enter(&self, flows_max: usize) -> bool {
        let one_more = |open: usize| (open < flows_max).then_some(open + 1);
        self.0.open.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    fn leave(&self, flows: usize) {
        self.0.open.fetch_sub(flows, Relaxed);
    }
}

impl std::fmt::Debug for Flowing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flowing({:?}, {} open)", self.rules(), self.open())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client, and which of our addresses it asked, where the socket has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    peer: SocketAddr,
    asked: Option<SocketAddr>,
}

/// The flow of one client.
struct Flow {
    client: Client,
    id: FlowId,
    place: Place,
    began: Tick,
    /// The same by the wall clock, since 1970.
    began_unix: Duration,
    /// When a server first answered; `Tick::NEVER` before.
    heard: Tick,
    /// When anything last came, either way.
    moved: Tick,
    /// When it is to be looked at.
    due: Tick,
    /// Datagrams of the client, and bytes in them.
    asks: u64,
    asked_bytes: u64,
    /// Datagrams of servers, likewise.
    replies: u64,
    replied_bytes: u64,
    /// Servers that could not be reached since one answered.
    failures: usize,
    /// Servers that it has had.
    tries: u8,
    /// It counts at the gate while the flow is there.
    _admission: Option<Admission>,
}

/// Passes the datagrams of clients on. One a listener and worker.
pub struct Flows {
    state: Rc<RefCell<State>>,
    shared: Flowing,
    rules: Arc<FlowRules>,
    flows: Slab<Flow>,
    by_client: HashMap<Client, usize>,
    by_id: HashMap<FlowId, usize>,
    /// When a flow is to be looked at: not later than it ends.
    due: BTreeSet<(Tick, usize)>,
    label: Rc<Label>,
    is_draining: bool,
}

impl Flows {
    /// The part of a proxy that passes datagrams on: it shares upstreams with the other listeners of these plans.
    pub fn new(plans: &Plans, worker: &WorkerContext, shared: &Flowing) -> Flows {
        Flows::with_state(plans.state(worker), shared)
    }

    /// The same by itself, with one upstream that has no name. Which server comes first follows from `seed`.
    ///
    /// # Panics
    /// If there is no server.
    pub fn alone(config: ProxyConfig, seed: u64, shared: &Flowing) -> Flows {
        let state = State::new(Arc::new(Plan::one(config)), seed);
        Flows::with_state(Rc::new(RefCell::new(state)), shared)
    }

    fn with_state(state: Rc<RefCell<State>>, shared: &Flowing) -> Flows {
        let rules = shared.rules();
        let label = Label::of_listener(&rules.listener, state.borrow().plan.front.observe.counts.as_ref());
        Flows {
            state,
            rules,
            label: Rc::new(label),
            shared: shared.clone(),
            flows: Slab::new(),
            by_client: HashMap::new(),
            by_id: HashMap::new(),
            due: BTreeSet::new(),
            is_draining: false,
        }
    }

    /// Begins a flow for a client, if it may have one.
    fn begin(&mut self, client: Client, io: &mut DatagramIo<'_>) -> Option<usize> {
        if self.is_draining {
            return None;
        }
        let admission = match &self.rules.gate {
            Some(gate) => Some(io.admit(gate, client.peer.ip().to_canonical())?),
            None => None,
        };
        if !self.shared.enter(self.rules.flows_max) {
            return None;
        }
        let Some((place, id)) = self.reach(client, None, io) else {
            self.shared.leave(1);
            return None;
        };
        let now = io.now();
        let due = now.after(self.rules.idle_timeout);
        let key = self.flows.insert(Flow {
            client,
            id,
            place,
            began: now,
            began_unix: io.unix_time(),
            heard: Tick::NEVER,
            moved: now,
            due,
            asks: 0,
            asked_bytes: 0,
            replies: 0,
            replied_bytes: 0,
            failures: 0,
            tries: 1,
            _admission: admission,
        });
        self.by_client.insert(client, key);
        self.by_id.insert(id, key);
        self.due.insert((due, key));
        self.set_timer(io);
        Some(key)
    }

    /// Chooses a server, but not this one if there is another one, and opens a socket that is connected with it.
    fn reach(&self, client: Client, but: Option<Place>, io: &mut DatagramIo<'_>) -> Option<(Place, FlowId)> {
        let state = &mut *self.state.borrow_mut();
        let group = match but {
            Some(place) => place.group,
            None => group_of(&state.groups, &state.plan, &self.rules.to)?,
        };
        let wanted = state.groups.pool(group).wanted_by(Some(client.peer.ip()));
        let mut but = but.map(|place| place.server);
        for _ in 0..state.groups.pool(group).endpoints.len().min(REACHES_MAX) {
            let server = state.groups.group(group).pool.choose(wanted, but, state.now)?;
            let place = Place { group, server };
            let Address::Ip(address) = state.groups[place].address else { return None };
            match io.open(address) {
                Ok(id) => {
                    state.begin_flow(place);
                    return Some((place, id));
                }
                Err(FlowRefusal::Failed(errno @ (Errno::ENETUNREACH | Errno::EHOSTUNREACH))) => {
                    state.flow_failed(place, errno);
                    but = Some(server);
                }
                Err(refusal) => {
                    tracing::debug!("a client of upstream {:?} gets no flow: {refusal}", self.rules.to);
                    return None;
                }
            }
        }
        None
    }

    /// The flow has another socket, or none: its server has one less.
    fn let_go(&mut self, id: FlowId, place: Place, io: &mut DatagramIo<'_>) {
        self.by_id.remove(&id);
        io.close(id);
        self.state.borrow_mut().end_flow(place);
    }

    fn end(&mut self, key: usize, io: &mut DatagramIo<'_>) {
        let Some(flow) = self.flows.try_remove(key) else { return };
        self.by_client.remove(&flow.client);
        self.due.remove(&(flow.due, key));
        let is_failed = flow.failures > 0 && flow.replies == 0;
        let outcome = if is_failed { End::UpstreamFailed } else { End::Complete };
        self.state.borrow_mut().note_flow(&flow, &self.label, outcome);
        self.let_go(flow.id, flow.place, io);
        self.shared.leave(1);
        if self.is_draining && self.flows.is_empty() {
            io.finish();
        }
    }

    /// The flow goes on with another server: its own cannot be reached, or the plan does not have it any more. Whether there was one.
    fn move_on(&mut self, key: usize, but: Option<Place>, io: &mut DatagramIo<'_>) -> bool {
        let Flow { client, id, place, .. } = self.flows[key];
        let Some((next, next_id)) = self.reach(client, but, io) else { return false };
        self.let_go(id, place, io);
        self.by_id.insert(next_id, key);
        let flow = &mut self.flows[key];
        (flow.id, flow.place, flow.tries) = (next_id, next, flow.tries.saturating_add(1));
        true
    }

    /// Whether the flow goes on: where the plan does not have its upstream any more as it was, it stays with its server if the new one has
    /// that, or else has another one.
    fn follow_plan(&mut self, key: usize, io: &mut DatagramIo<'_>) -> bool {
        let place = self.flows[key].place;
        if !self.state.borrow().groups.is_leaving(place.group) {
            return true;
        }
        self.look_at_clock(io);
        let same = self.state.borrow_mut().same_server(place, &self.rules.to);
        match same {
            Some(next) => {
                self.flows[key].place = next;
                true
            }
            None => self.move_on(key, None, io),
        }
    }

    /// Whether all answers have come that were said to.
    fn is_answered(&self, key: usize) -> bool {
        let Flow { asks, replies, .. } = self.flows[key];
        self.rules.replies.is_some_and(|each| replies >= asks.saturating_mul(u64::from(each)))
    }

    fn set_timer(&self, io: &mut DatagramIo<'_>) {
        io.set_timer(self.due.first().map(|(at, _)| *at));
    }

    fn look_at_clock(&self, io: &DatagramIo<'_>) {
        self.state.borrow_mut().look_at_clock(io.now(), io.unix_secs());
    }
}

/// So many servers are tried in one call for a flow that none of them can be reached by.
const REACHES_MAX: usize = 3;

impl Datagram for Flows {
    fn start(&mut self, io: &mut DatagramIo<'_>) {
        lock(&self.shared.0.bells).push(io.waker());
        // Rules that came before the bell was known.
        self.wake(io);
    }

    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        let client = Client { peer: from, asked: io.asked() };
        let known = self.by_client.get(&client).copied();
        if known.is_none() {
            self.look_at_clock(io);
        }
        let Some(key) = known.or_else(|| self.begin(client, io)) else { return io.count_ignored(1) };
        if known.is_some() && !self.follow_plan(key, io) {
            self.end(key, io);
            return io.count_ignored(1);
        }
        let now = io.now();
        let flow = &mut self.flows[key];
        flow.moved = now;
        flow.asks += 1;
        flow.asked_bytes += input.len() as u64;
        if io.send_on(flow.id, input) {
            self.state.borrow().groups[flow.place].count_to(input.len());
        } else {
            io.count_ignored(1);
        }
        if self.is_answered(key) {
            self.end(key, io);
        }
    }

    fn received(&mut self, id: FlowId, input: &[u8], io: &mut DatagramIo<'_>) {
        let Some(key) = self.by_id.get(&id).copied() else { return };
        let flow = &mut self.flows[key];
        flow.moved = io.now();
        flow.heard = flow.heard.min(flow.moved);
        flow.replies += 1;
        flow.replied_bytes += input.len() as u64;
        flow.failures = 0;
        let Client { peer, asked } = flow.client;
        let is_sent = match asked {
            Some(local) => io.send_from(local, peer, input),
            None => io.send_to(peer, input),
        };
        let state = self.state.borrow();
        state.groups[flow.place].count_from(input.len());
        state.groups.note(flow.place, true, io.now());
        drop(state);
        if !is_sent {
            io.count_ignored(1);
        }
        if self.is_answered(key) {
            self.end(key, io);
        }
    }

    fn failed(&mut self, id: FlowId, errno: Errno, io: &mut DatagramIo<'_>) {
        let Some(key) = self.by_id.get(&id).copied() else { return };
        self.look_at_clock(io);
        let place = self.flows[key].place;
        self.state.borrow_mut().flow_failed(place, errno);
        self.flows[key].failures += 1;
        let others = self.state.borrow().groups.pool(place.group).endpoints.len() - 1;
        // With all of them tried, or none left, it stays: the server may come back.
        if self.flows[key].failures <= others {
            self.move_on(key, Some(place), io);
        }
    }

    fn tick(&mut self, io: &mut DatagramIo<'_>) {
        let now = io.now();
        self.look_at_clock(io);
        while let Some((at, key)) = self.due.first().copied()
            && at <= now
        {
            self.due.remove(&(at, key));
            let Some(flow) = self.flows.get_mut(key) else { continue };
            flow.due = flow.moved.after(self.rules.idle_timeout);
            if flow.due <= now {
                self.end(key, io);
            } else {
                self.due.insert((flow.due, key));
            }
        }
        self.set_timer(io);
    }

    fn wake(&mut self, io: &mut DatagramIo<'_>) {
        self.rules = self.shared.rules();
        // Flows may end sooner by these.
        self.due.clear();
        for (key, flow) in &mut self.flows {
            flow.due = flow.moved.after(self.rules.idle_timeout);
            self.due.insert((flow.due, key));
        }
        self.set_timer(io);
    }

    fn drain(&mut self, io: &mut DatagramIo<'_>) {
        self.is_draining = true;
        if self.flows.is_empty() {
            io.finish();
        }
    }
}

impl Drop for Flows {
    /// At the end of a drain flows may be left.
    fn drop(&mut self) {
        self.shared.leave(self.flows.len());
        let Ok(mut state) = self.state.try_borrow_mut() else { return };
        for (_, flow) in &self.flows {
            state.note_flow(flow, &self.label, End::Refused);
            state.end_flow(flow.place);
        }
    }
}

impl State {
    fn begin_flow(&mut self, place: Place) {
        self.groups.group(place.group).exchanges += 1;
        self.groups[place].begin_flow();
    }

    fn end_flow(&mut self, place: Place) {
        self.groups[place].end_flow();
        self.groups.group(place.group).exchanges -= 1;
        self.groups.forget_if_done(place.group);
    }

    /// Tells of a flow that has come to its end.
    fn note_flow(&mut self, flow: &Flow, label: &Rc<Label>, outcome: End) {
        if !self.plan.front.observe.is_told() {
            return;
        }
        let mut seen = self.spare_seen.pop().unwrap_or_default();
        seen.renew();
        seen.client = Some(flow.client.peer.ip().to_canonical());
        seen.listener = Some(label.clone());
        (seen.began, seen.began_unix, seen.end) = (flow.began, flow.began_unix, Some(outcome));
        (seen.attached, seen.heard) = (flow.began, flow.heard);
        (seen.received, seen.sent) = (flow.asked_bytes, flow.replied_bytes);
        let has_texts = self.plan.front.observe.log.is_some();
        seen.read_name("", "", Wishes { has_texts, has_agents: false });
        let server = Some(self.groups[flow.place].label.clone());
        self.put_noted(Noted { seen, tries: flow.tries, server });
    }

    /// Has a flow go on under the upstream of this name in the plan, where that has the same server.
    fn same_server(&mut self, place: Place, name: &str) -> Option<Place> {
        let group = group_of(&self.groups, &self.plan, name)?;
        let address = &self.groups[place].address;
        let server = self.groups.pool(group).endpoints.iter().position(|it| it.address == *address)?;
        let next = Place { group, server };
        self.begin_flow(next);
        self.end_flow(place);
        Some(next)
    }

    /// The network says that the server of a flow cannot be reached.
    fn flow_failed(&mut self, place: Place, errno: Errno) {
        if self.groups[place].avoid(self.now) {
            tracing::warn!("upstream {}: {errno}", self.groups[place].address);
        }
        self.groups.note(place, false, self.now);
    }
}

//! Which parts of a connection of HTTP/2 are to go on: its streams, and the connection itself. Whoever has something for one lists it, so
//! that a call of the session costs what is listed, and not what is there.

use crate::adapt::signal::Signal;
use ringmill_engine::Io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The number of what the connection itself is.
const CONNECTION: u32 = u32::MAX;
/// Streams, lanes and the connection wake each other: who goes on with that has its next turn after those of others.
const LOOKS_MAX: usize = 64;

/// The list of one connection.
pub(super) struct Ready {
    signal: Signal,
    list: Arc<List>,
    connection: Rung,
    /// Of each lane, by its number; a number is used again, and so is its bell.
    lanes: Vec<Rung>,
    /// What was listed when that was looked at last, and how much of it went on.
    taken: Vec<u32>,
    done: usize,
    /// How often it was looked at, in this call.
    looks: usize,
}

struct List {
    listed: Mutex<Vec<u32>>,
    /// The worst of them.
    complaint: AtomicU8,
    signal: Waker,
}

/// Lists one part of a connection, once until it is looked at. As a [`Waker`] it is for bodies and for HTTP/2; [`Bell::ring`] is for
/// sessions, and has the lane's own session called.
pub(in crate::proxy) struct Bell {
    list: Arc<List>,
    number: u32,
    is_listed: AtomicBool,
    is_rung: AtomicBool,
}

/// A bell, and the same as a waker: who polls borrows it.
struct Rung {
    bell: Arc<Bell>,
    waker: Waker,
}

/// What a session says of the connection that its stream is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::proxy) enum Complaint {
    /// A reply did not come in time.
    Late = 1,
    /// A reply broke the rules of HTTP.
    Broken,
}

/// What is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Connection,
    /// The lane with this number; whether its session is to be called.
    Lane(usize, bool),
}

impl List {
    /// Nothing panics while it is locked.
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rung {
    fn new(list: &Arc<List>, number: u32) -> Rung {
        let [is_listed, is_rung] = [(); 2].map(|()| AtomicBool::new(false));
        let bell = Arc::new(Bell { list: list.clone(), number, is_listed, is_rung });
        Rung { waker: bell.clone().into(), bell }
    }
}

impl Bell {
    /// Has the session of its lane called.
    pub(in crate::proxy) fn ring(&self) {
        self.is_rung.store(true, SeqCst);
        self.list();
    }

    /// Has the connection look at this.
    pub(in crate::proxy) fn complain(&self, complaint: Complaint) {
        // Where another one was not heard yet, the connection is listed.
        if self.list.complaint.fetch_max(complaint as u8, SeqCst) == 0 {
            self.list.lock().push(CONNECTION);
            self.list.signal.wake_by_ref();
        }
    }

    fn list(&self) {
        if !self.is_listed.swap(true, SeqCst) {
            self.list.lock().push(self.number);
            self.list.signal.wake_by_ref();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.list();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        self.list();
    }
}

impl Ready {
    pub(super) fn new(io: &mut Io<'_>) -> Ready {
        let signal = Signal::new(io.waker().into());
        let list =
            Arc::new(List { listed: Mutex::default(), complaint: AtomicU8::new(0), signal: signal.waker() });
        let connection = Rung::new(&list, CONNECTION);
        Ready { signal, list, connection, lanes: Vec::new(), taken: Vec::new(), done: 0, looks: 0 }
    }

    /// From here to [`Ready::end`] whatever is listed is looked at without a call of the session.
    pub(super) fn begin(&self) {
        self.signal.begin();
    }

    pub(super) fn end(&mut self) {
        self.looks = 0;
        self.signal.end();
    }

    /// What goes on next, in the order in which it was listed; `pour` is called before each look at the list. `None` when nothing was
    /// listed, and after so many looks that others have their turn first.
    pub(super) fn next(&mut self, pour: impl FnOnce(&Ready)) -> Option<Part> {
        if self.done == self.taken.len() {
            if self.looks == LOOKS_MAX {
                return None;
            }
            self.looks += 1;
            pour(self);
            self.signal.lower();
            self.taken.clear();
            self.done = 0;
            std::mem::swap(&mut *self.list.lock(), &mut self.taken);
        }
        let number = *self.taken.get(self.done)?;
        self.done += 1;
        Some(self.look_at(number))
    }

    /// It is looked at now: what comes from here on lists it again.
    fn look_at(&self, number: u32) -> Part {
        if number == CONNECTION {
            self.connection.bell.is_listed.store(false, SeqCst);
            return Part::Connection;
        }
        let lane = number as usize;
        let bell = &self.lanes[lane].bell;
        bell.is_listed.store(false, SeqCst);
        Part::Lane(lane, bell.is_rung.swap(false, SeqCst))
    }

    /// Lists the connection itself.
    pub(super) fn list_connection(&self) {
        self.connection.bell.list();
    }

    /// What does that.
    pub(super) fn connection_waker(&self) -> &Waker {
        &self.connection.waker
    }

    /// What lists the lane with this number, which there is.
    pub(super) fn lane_waker(&self, lane: usize) -> &Waker {
        &self.lanes[lane].waker
    }

    /// The worst that was said since it was asked.
    pub(super) fn take_complaint(&self) -> Option<Complaint> {
        let said = self.list.complaint.swap(0, SeqCst);
        [Complaint::Late, Complaint::Broken].into_iter().find(|complaint| *complaint as u8 == said)
    }

    pub(super) fn list_lane(&self, lane: usize) {
        if let Some(lane) = self.lanes.get(lane) {
            lane.bell.list();
        }
    }

    /// That of a lane with this number, which is the next one or one that there was.
    pub(super) fn bell(&mut self, lane: usize) -> &Arc<Bell> {
        while self.lanes.len() <= lane {
            let number = u32::try_from(self.lanes.len()).unwrap_or(CONNECTION - 1);
            self.lanes.push(Rung::new(&self.list, number));
        }
        &self.lanes[lane].bell
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.lanes.len() * (size_of::<Bell>() + 16 + size_of::<Rung>())
    }
}

//! Handlers and services that wait, on the simulated driver: futures that the test completes when it likes, and what clients hear
//! meanwhile.
#![allow(dead_code, reason = "each test uses a part")]

use ringmill_engine::driver::sim::{Chaos, Peer, Simulation};
use ringmill_engine::event::Socket;
use ringmill_engine::{Config, Counters, Layer};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What handlers wait for, what runs beside them, and what became of them.
#[derive(Clone, Default)]
pub struct Desk(Rc<State>);

#[derive(Default)]
struct State {
    waiting: RefCell<Vec<Rc<RefCell<Wait>>>>,
    tasks: RefCell<Vec<Task>>,
    log: RefCell<Vec<String>>,
}

#[derive(Default)]
struct Wait {
    is_over: bool,
    waker: Option<Waker>,
}

impl Desk {
    /// A future that the test completes.
    pub fn wait(&self) -> impl Future<Output = ()> + use<> {
        let wait = Rc::new(RefCell::new(Wait::default()));
        self.0.waiting.borrow_mut().push(wait.clone());
        poll_fn(move |context| {
            let wait = &mut *wait.borrow_mut();
            wait.waker = Some(context.waker().clone());
            if wait.is_over { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    pub fn waiting(&self) -> usize {
        self.0.waiting.borrow().len()
    }

    /// What wakes one of those that wait, and have been polled.
    pub fn waker(&self, n: usize) -> Waker {
        self.0.waiting.borrow()[n].borrow().waker.clone().expect("it waits")
    }

    /// Completes one of those that wait.
    pub fn complete(&self, n: usize) {
        let wait = self.0.waiting.borrow_mut().remove(n);
        wait.borrow_mut().is_over = true;
        let waker = wait.borrow_mut().waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    pub fn complete_all(&self) {
        (0..self.waiting()).for_each(|_| self.complete(0));
    }

    /// What a runtime would do.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.tasks.borrow_mut().push(Box::pin(task));
    }

    pub fn poll_tasks(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        let context = &mut Context::from_waker(Waker::noop());
        let left =
            tasks.into_iter().filter_map(|mut task| task.as_mut().poll(context).is_pending().then_some(task));
        let left: Vec<Task> = left.collect();
        self.0.tasks.borrow_mut().extend(left);
    }

    pub fn say(&self, what: impl Into<String>) {
        self.0.log.borrow_mut().push(what.into());
    }

    pub fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.log.borrow_mut())
    }
}

/// Says that it is dropped.
pub struct Guard(pub Desk);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.say("dropped");
    }
}

/// A server on the simulated driver, and the desk of its handlers.
pub struct Run {
    pub simulation: Simulation,
    listener: Socket,
    pub desk: Desk,
}

impl Run {
    pub fn of(server: impl Layer, seed: u64, chaos: Chaos, desk: Desk) -> Run {
        let mut simulation = Simulation::new(seed, chaos, Config::default());
        let listener = simulation.listen(server);
        simulation.start();
        Run { simulation, listener, desk }
    }

    pub fn connect(&self) -> Peer {
        let peer = self.simulation.net().connect(self.listener).expect("somebody listens");
        peer.set_window(1 << 21);
        peer
    }

    pub fn rest(&mut self) {
        for _ in 0..10 {
            self.simulation.run_for(Duration::from_millis(5));
            self.desk.poll_tasks();
        }
    }

    /// What a request gets that is answered without waiting.
    pub fn ask(&mut self, peer: &Peer, request: impl AsRef<[u8]>) -> String {
        peer.send(request.as_ref());
        self.rest();
        undated(&peer.take())
    }

    /// Everything that is heard, while whatever is waited for comes.
    pub fn hear_all(&mut self, peer: &Peer) -> String {
        let mut heard = Vec::new();
        for _ in 0..200 {
            self.simulation.run_for(Duration::from_millis(5));
            heard.extend(peer.take());
            self.desk.complete_all();
            self.desk.poll_tasks();
        }
        undated(&heard)
    }

    pub fn counters(&self) -> Counters {
        self.simulation.counters()
    }
}

pub fn undated(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split("\r\n").filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("\r\n")
}

pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

pub fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

//! What a hub needs of its worker: to be rung for, and a timer. It has no connections.

use super::hub::{Hub, Topics};
use ringmill_engine::{Dialer, Io, Protocol, Step, Tick, WorkerContext};

/// The service of a hub: [`Topics::service`](super::Topics::service).
pub struct HubService {
    hub: Hub,
}

impl Topics {
    /// What each worker needs besides its listeners, so that others can reach it: for `Builder::outbound`.
    pub fn service(&self) -> impl Fn(&WorkerContext) -> HubService + Send + Sync + 'static + use<> {
        let topics = self.clone();
        move |worker| HubService::new(topics.hub(worker))
    }
}

impl HubService {
    /// The service of this hub.
    pub fn new(hub: Hub) -> HubService {
        HubService { hub }
    }
}

impl Protocol for HubService {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, _: &mut (), _: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::close()
    }

    fn start(&mut self, dialer: Dialer) {
        self.hub.start(dialer);
    }

    fn tick(&mut self, now: Tick) {
        self.hub.tick(now);
    }

    fn rung(&mut self) {
        self.hub.look();
    }
}

//! What a proxy is told outside of the calls of its connections: that it begins, that a connection could not be made, that its time has
//! come, and that somebody has rung for it.

use super::groups::Place;
use super::state::State;
use super::{Connects, Proxy};
use ringmill_engine::{Dialer, Notice, Refusal, Tick};
use std::cell::RefMut;

impl Proxy {
    pub(super) fn take_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Start(dialer) => self.start(dialer),
            Notice::Refused(tag, refusal) => self.refused(tag, refusal),
            Notice::Tick(now) => self.tick(now),
            Notice::Rung => self.rung(),
        }
    }

    fn start(&mut self, dialer: Dialer) {
        match self.connects {
            Connects::None => return,
            Connects::Plain => {}
            Connects::Secured => {
                self.state.borrow_mut().secure_dialer = Some(dialer);
                return;
            }
        }
        if let Some(plans) = &self.plans {
            plans.ring_for(dialer.waker());
        }
        let mut state = self.state.borrow_mut();
        if self.plans.is_none() {
            // There is no other part.
            state.secure_dialer = Some(dialer.clone());
        }
        let now = dialer.now();
        (state.dialer, state.now) = (Some(dialer), now);
        state.join_fleets();
        state.check_servers(now);
        drop(state);
        // A plan that was published before the bell was known.
        self.rung();
    }

    fn tick(&mut self, now: Tick) {
        let mut state = self.state.borrow_mut();
        state.now = now;
        state.check_servers(now);
    }

    fn rung(&mut self) {
        if let Some(plans) = &self.plans {
            self.state_now().follow(plans.current());
        }
        self.state_now().look_for_room();
    }

    fn refused(&mut self, tag: u64, refusal: Refusal) {
        let (mut state, place) = (self.state_now(), Place::of_tag(tag));
        match Place::is_check(tag) {
            true => state.check_refused(place, refusal),
            false if state.groups.is_http2(place.group, false) => state.trunk_refused(place, refusal),
            false => state.refused(place, refusal, None),
        }
    }

    /// There is no `Io` to say what time it is.
    fn state_now(&self) -> RefMut<'_, State> {
        let mut state = self.state.borrow_mut();
        if let Some(now) = state.dialer.as_ref().map(Dialer::now) {
            state.now = now;
        }
        state
    }
}

impl State {
    /// Says that there is no connection with a server, with what is known of it.
    #[cold]
    pub(super) fn warn_of(&self, place: Place, refusal: Refusal, why: Option<&str>) {
        let address = &self.groups[place].address;
        let known = if refusal == Refusal::Unsecured { self.groups.reason(place) } else { None };
        match why.or(known.as_deref()) {
            Some(why) => tracing::warn!("upstream {address}: {refusal}: {why}"),
            None => tracing::warn!("upstream {address}: {refusal}"),
        }
    }
}

//! What a proxy is told outside of the calls of its connections: that it begins, that a connection could not be made, that its time has
//! come, and that somebody has rung for it.

use super::groups::Place;
use super::plans::Plans;
use super::state::State;
use super::{Connects, Proxy};
use ringmill_engine::{Dialer, Notice, Refusal, Tick};
use std::cell::RefMut;
use std::sync::Arc;

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
        let mut state = self.state_now();
        // Mostly it is about room: to compare all upstreams and routes is for plans that are new.
        let plan = self.plans.as_ref().map(Plans::current).filter(|plan| !Arc::ptr_eq(plan, &state.plan));
        if let Some(plan) = plan {
            state.follow(plan);
        }
        state.look_for_room();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::config::ProxyConfig;
    use crate::proxy::plan::Plan;

    #[test]
    fn a_plan_is_taken_up_once() {
        let config = ProxyConfig::new(vec!["127.0.0.1:1".parse().unwrap()]);
        let plan = || Plan::one(config.clone());
        let plans = Plans::new(plan());
        let mut proxy = Proxy { plans: Some(plans.clone()), ..Proxy::new(config.clone(), 1) };
        let mut plans_taken = |rings: usize| {
            (0..rings).for_each(|_| proxy.take_notice(Notice::Rung));
            proxy.state.borrow().plan_number
        };
        assert_eq!(plans_taken(3), 1, "it rings for room as well");
        plans.publish(plan());
        assert_eq!(plans_taken(3), 2);
    }
}

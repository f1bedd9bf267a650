//! Cases for waiting: for a time, and for a bell.

use super::fixture::Fixture;
use super::steps::{TURNS_MAX, turn_until};
use crate::driver::{Driver, Wait};
use crate::event::Op;
use crate::sys::EventCounter;
use crate::token::{Kind, Token};
use std::time::Duration;

pub(super) fn a_wait_ends_at_its_time<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let until = fixture.driver().now().after(Duration::from_millis(30));
    let mut events = Vec::new();
    for _ in 0..TURNS_MAX {
        fixture.driver().turn(Wait::Until(until), &mut events).unwrap();
        assert!(events.is_empty());
        if fixture.driver().now() >= until {
            return;
        }
    }
    panic!("the clock stands still");
}

pub(super) fn a_counter_is_reported_once_for_each_watch<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let counter = EventCounter::new().unwrap();
    let token = Token::new(Kind::Wake, 0, 0);
    for _ in 0..3 {
        fixture.driver().submit(Op::Watch { token, socket: counter.socket() });
        fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
        counter.raise();
        turn_until(&mut fixture, "the wake-up", |_, event| {
            assert_eq!((event.token, event.more), (token, false));
            true
        });
    }
    // Raised before anybody watches: it is not lost.
    counter.raise();
    fixture.driver().submit(Op::Watch { token, socket: counter.socket() });
    turn_until(&mut fixture, "the early wake-up", |_, event| event.token == token);
}

//! Cases for accepting.

use super::fixture::Fixture;
use super::steps::{ACCEPT, turn_until};
use crate::driver::Driver;
use crate::event::{Errno, Op, Socket};

pub(super) fn accepts_until_cancelled<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let listener = fixture.listener();
    let _peers: Vec<F::Peer> = (0..5).map(|_| fixture.connect(listener)).collect();
    fixture.driver().submit(Op::Accept { token: ACCEPT, listener });
    let mut sockets = Vec::new();
    turn_until(&mut fixture, "five connections", |_, event| {
        assert_eq!((event.token, event.more), (ACCEPT, true));
        sockets.push(event.result.unwrap());
        sockets.len() == 5
    });
    sockets.dedup();
    assert_eq!(sockets.len(), 5);
    fixture.driver().submit(Op::Cancel { target: ACCEPT, socket: listener });
    turn_until(&mut fixture, "the last event", |_, event| {
        assert_eq!((event.token, event.result, event.more), (ACCEPT, Err(Errno::ECANCELED), false));
        true
    });
    for socket in sockets {
        fixture.driver().submit(Op::Close { socket: Socket(socket as i32), reset: false });
    }
    fixture.driver().submit(Op::Close { socket: listener, reset: false });
}

pub(super) fn accepts_what_is_queued_and_no_more<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    for connections in [0, 3] {
        let listener = fixture.listener();
        let _peers: Vec<F::Peer> = (0..connections).map(|_| fixture.connect(listener)).collect();
        fixture.driver().submit(Op::AcceptRest { token: ACCEPT, listener });
        let mut sockets = Vec::new();
        turn_until(&mut fixture, "the end of the queue", |_, event| {
            assert_eq!(event.token, ACCEPT);
            assert_eq!(event.more, event.result.is_ok());
            match event.result {
                Ok(socket) => sockets.push(Socket(socket as i32)),
                Err(errno) => assert_eq!(errno, Errno::ECANCELED),
            }
            !event.more
        });
        assert_eq!(sockets.len(), connections);
        for socket in sockets.into_iter().chain([listener]) {
            fixture.driver().submit(Op::Close { socket, reset: false });
        }
    }
}

/// A failed accept is an event with its errno, and the end of the operation; the listener is as good as before.
pub(super) fn accepting_goes_on_after_an_end<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let listener = fixture.listener();
    for _ in 0..3 {
        fixture.driver().submit(Op::Accept { token: ACCEPT, listener });
        let _peer = fixture.connect(listener);
        let mut accepted = None;
        turn_until(&mut fixture, "a connection", |_, event| {
            accepted = Some(Socket(event.result.unwrap() as i32));
            true
        });
        fixture.driver().submit(Op::Close { socket: accepted.unwrap(), reset: false });
        fixture.driver().submit(Op::Cancel { target: ACCEPT, socket: listener });
        turn_until(&mut fixture, "the end of accepting", |_, event| !event.more);
    }
    fixture.driver().submit(Op::Close { socket: listener, reset: false });
}

//! Cases for datagrams.

use super::fixture::Fixture;
use super::steps::{DATAGRAMS, pattern, turn_until};
use crate::datagram::Datagrams;
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Op, Payload, Socket};
use crate::seam::names::Names;
use crate::token::{Kind, Token};
use std::net::SocketAddr;
use std::os::fd::IntoRawFd as _;

pub(super) fn datagrams_come_and_go<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let socket = fixture.datagram_socket();
    let mut batch = Datagrams::for_receiving();
    assert_eq!(fixture.driver().recv_datagrams(socket, &mut batch), Err(Errno::EAGAIN));
    for len in [0, 1, 64, 1500, 9000, 65_507] {
        let sent = pattern(len);
        fixture.send_datagram(socket, &sent);
        assert_eq!(receive_datagrams(&mut fixture, socket, &mut batch), Ok(1));
        let mut back = Datagrams::default();
        batch.for_each(|from: SocketAddr, bytes| {
            assert!(bytes == sent);
            assert!(back.push(from, bytes));
        });
        assert_eq!(fixture.driver().send_datagrams(socket, &mut back), Ok(()));
        assert!(fixture.take_datagram(socket) == sent, "{len} bytes");
    }
    // More than a batch holds: what is left is told of, without anything new.
    for n in 0..70 {
        fixture.send_datagram(socket, &[n; 3]);
    }
    let mut next = 0;
    while next < 70 {
        receive_datagrams(&mut fixture, socket, &mut batch).unwrap();
        batch.for_each(|_, bytes| {
            assert_eq!(bytes, [next; 3]);
            next += 1;
        });
    }
    call_datagrams_off(&mut fixture, socket);
}

pub(super) fn a_flow_has_its_peer_alone<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    let (remote, deaf) = (fixture.flow_remote(), fixture.deaf().ip().unwrap());
    let (mut batch, mut out) = (Datagrams::for_receiving(), Datagrams::default());
    let socket = fixture.driver().flow_socket(remote).unwrap();
    out.is_connected = true;
    for bytes in [b"one".as_slice(), b"two", b"longer"] {
        assert!(out.push(remote, bytes));
    }
    assert_eq!(fixture.driver().send_datagrams(socket, &mut out), Ok(()));
    let came = [(); 3].map(|()| fixture.take_from_flow());
    assert_eq!(came.each_ref().map(|(_, bytes)| &bytes[..]), [b"one".as_slice(), b"two", b"longer"]);
    let flow = came[0].0;
    fixture.send_to_flow(flow, b"an answer");
    assert_eq!(receive_datagrams(&mut fixture, socket, &mut batch), Ok(1));
    batch.for_each(|from, bytes| assert_eq!((from, bytes), (remote, b"an answer".as_slice())));
    call_datagrams_off(&mut fixture, socket);
    // Where nobody listens that is told, once, and the socket goes on.
    let socket = fixture.driver().flow_socket(deaf).unwrap();
    for _ in 0..2 {
        out.reset_sent();
        assert!(out.push(deaf, b"is anybody there?"));
        assert_eq!(fixture.driver().send_datagrams(socket, &mut out), Ok(()));
        assert_eq!(receive_datagrams(&mut fixture, socket, &mut batch), Err(Errno::ECONNREFUSED));
    }
    // The next send hears of it as well, and sends all the same.
    for expected in [None, Some(Errno::ECONNREFUSED)] {
        out.reset_sent();
        assert!(out.push(deaf, b"and now?"));
        assert_eq!(fixture.driver().send_datagrams(socket, &mut out), Ok(()));
        assert_eq!((out.failure, out.refused), (expected, 0));
    }
    fixture.driver().submit(Op::Close { socket, reset: false });
}

/// Hazard 3, from the other side: what a full socket takes again is told once, also where nothing was waited for there before.
pub(super) fn a_full_datagram_socket_tells_of_room<F: Fixture>() {
    let mut fixture = F::new(8, 512);
    // UDP over loopback is never full: what was sent is the receiver's at once. A pair of Unix sockets holds a few.
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let (socket, peer) = (Socket(ours.into_raw_fd()), std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let mut batch = Datagrams::default();
    batch.is_connected = true;
    // Each is longer than the one before, so that none of them is a train.
    (1..300).for_each(|len| assert!(batch.push(peer, &vec![1; len])));
    let token = Token::new(Kind::Room, 4, 2);
    let mut received = 0;
    while fixture.driver().send_datagrams(socket, &mut batch) == Err(Errno::EAGAIN) {
        fixture.driver().submit(Op::AwaitRoom { token, socket });
        fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
        theirs.set_nonblocking(true).unwrap();
        while theirs.recv(&mut [0; 512]).is_ok() {
            received += 1;
        }
        turn_until(&mut fixture, "room", |_, event| {
            assert_eq!((event.token, event.result.is_ok(), event.more), (token, true, false));
            true
        });
    }
    assert!(received > 0 && batch.refused == 0, "{received} of them had to wait");
    assert_eq!(batch.done, batch.entries.len());
    // And a wait that is called off ends.
    (1..300).for_each(|len| assert!(batch.push(peer, &vec![1; len])));
    assert_eq!(fixture.driver().send_datagrams(socket, &mut batch), Err(Errno::EAGAIN));
    fixture.driver().submit(Op::AwaitRoom { token, socket });
    fixture.driver().submit(Op::Cancel { target: token, socket });
    turn_until(&mut fixture, "the end of a wait for room", |_, event| {
        assert_eq!((event.token, event.result), (token, Err(Errno::ECANCELED)));
        true
    });
    fixture.driver().submit(Op::Close { socket, reset: false });
}

/// Waits for a datagram socket to have something, and receives it.
fn receive_datagrams<F: Fixture>(
    fixture: &mut F,
    socket: Socket,
    batch: &mut Datagrams,
) -> Result<usize, Errno> {
    loop {
        fixture.driver().submit(Op::AwaitDatagrams { token: DATAGRAMS, socket });
        turn_until(fixture, "a datagram", |_, event| {
            assert_eq!((event.token, event.result.is_ok(), event.more), (DATAGRAMS, true, false));
            matches!(event.payload, Payload::None)
        });
        match fixture.driver().recv_datagrams(socket, batch) {
            // Readiness is a hint.
            Err(Errno::EAGAIN) => {}
            received => return received,
        }
    }
}

/// Cancels what waits for datagrams.
fn call_datagrams_off<F: Fixture>(fixture: &mut F, socket: Socket) {
    fixture.driver().submit(Op::AwaitDatagrams { token: DATAGRAMS, socket });
    fixture.driver().turn(Wait::Poll, &mut Vec::new()).unwrap();
    fixture.driver().submit(Op::Cancel { target: DATAGRAMS, socket });
    turn_until(fixture, "the end of a wait that was cancelled", |_, event| {
        assert_eq!((event.token, event.result), (DATAGRAMS, Err(Errno::ECANCELED)));
        true
    });
    fixture.driver().submit(Op::Close { socket, reset: false });
}

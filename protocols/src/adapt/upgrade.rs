//! Gives a request what its handler needs to take the connection over: hyper's `OnUpgrade`, which only hyper can make.
//!
//! hyper serves a request of ours over a connection in memory, in one poll, and believes that it has upgraded it. So libraries that
//! await `hyper::upgrade::on(request)` work here as they are (axum's WebSocket extractor is one), while the real request stays with our
//! parser, our limits and our deadlines. (A public constructor was declined: hyperium/hyper#3600.)

use super::body::Body;
use super::pipe::{Near, pipe};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::ready;
use std::pin::pin;
use std::task::{Context, Waker};

/// What the client wants of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The field Upgrade (RFC 9110, 7.8): the answer is 101.
    Upgrade,
    /// The method CONNECT (RFC 9110, 9.3.6): any success is the answer.
    Connect,
}

impl Wanted {
    /// Whether this answer gives it.
    pub(super) fn is_granted(self, status: u16) -> bool {
        match self {
            Wanted::Upgrade => status == 101,
            Wanted::Connect => (200..300).contains(&status),
        }
    }

    fn rehearsal(self) -> (&'static [u8], StatusCode) {
        match self {
            Wanted::Upgrade => (
                b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n",
                StatusCode::SWITCHING_PROTOCOLS,
            ),
            Wanted::Connect => (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", StatusCode::OK),
        }
    }
}

/// What the request gets, and our end of the connection that its handler gets by it. `None` if hyper does not do what it does today.
pub(super) fn offer(wanted: Wanted) -> Option<(OnUpgrade, Near)> {
    let (text, status) = wanted.rehearsal();
    let (near, far) = pipe(Some(text));
    let offered = Cell::new(None);
    let service = service_fn(|mut request: Request<Incoming>| {
        offered.set(Some(hyper::upgrade::on(&mut request)));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        ready(Ok::<_, Infallible>(response))
    });
    let served = {
        let serving = pin!(http1::Builder::new().serve_connection(far, service).with_upgrades());
        serving.poll(&mut Context::from_waker(Waker::noop()))
    };
    if !served.is_ready() {
        tracing::error!(
            "hyper did not upgrade a connection in memory at once: the request's upgrade is not offered"
        );
        return None;
    }
    near.begin();
    Some((offered.take()?, near))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::{Read, ReadBuf, Write};
    use std::pin::Pin;
    use std::task::Poll;

    fn check(wanted: Wanted) {
        let (upgrade, near) = offer(wanted).expect("hyper plays along");
        let context = &mut Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(mut upgraded)) = pin!(upgrade).poll(context) else {
            panic!("{wanted:?}: not upgraded")
        };
        assert_eq!(near.push(b"in"), 2);
        let mut memory = [0; 16];
        let mut buffer = ReadBuf::new(&mut memory);
        assert!(Pin::new(&mut upgraded).poll_read(context, buffer.unfilled()).is_ready());
        assert_eq!(buffer.filled(), b"in");
        assert!(matches!(Pin::new(&mut upgraded).poll_write(context, b"out"), Poll::Ready(Ok(3))));
        assert_eq!(&*near.take(9), b"out", "and nothing of the rehearsal");
        drop(upgraded);
        assert!(near.is_over());
    }

    #[test]
    fn what_is_offered_is_a_connection() {
        check(Wanted::Upgrade);
        check(Wanted::Connect);
    }

    #[test]
    fn an_offer_that_is_declined_is_a_connection_that_is_cut() {
        let (upgrade, near) = offer(Wanted::Upgrade).expect("hyper plays along");
        drop(near);
        let context = &mut Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(mut upgraded)) = pin!(upgrade).poll(context) else { panic!("not upgraded") };
        let (mut memory, upgraded) = ([0; 16], &mut upgraded);
        let mut buffer = ReadBuf::new(&mut memory);
        assert!(matches!(Pin::new(upgraded).poll_read(context, buffer.unfilled()), Poll::Ready(Err(_))));
    }

    #[test]
    fn who_grants_what() {
        let check = |wanted: Wanted, status, expected| {
            assert_eq!(wanted.is_granted(status), expected, "{wanted:?} {status}")
        };
        check(Wanted::Upgrade, 101, true);
        check(Wanted::Upgrade, 200, false);
        check(Wanted::Connect, 200, true);
        check(Wanted::Connect, 204, true);
        check(Wanted::Connect, 101, false);
        check(Wanted::Connect, 403, false);
    }
}

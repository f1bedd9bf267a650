//! What cannot work on a worker: its client gets an answer, and the log says what works instead.
#![cfg(feature = "cli")]

mod common;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use common::http::{get as get_request, receive};
use common::program::alone;
use common::*;
use hyper::{Request, Response};
use ringmill::adapt::{BoxError, tower};
use ringmill::http::Limits;
use ringmill::{DriverChoice, Engine};
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tower_service::Service;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// On both drivers, in a process of its own, whose log is kept: the answer begins so, and the log has these words.
fn check(serve: impl Fn(DriverChoice) -> (ringmill::Running, SocketAddr), status: &str, words: &str) {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    on_both_drivers(|driver| {
        let (running, address) = serve(driver);
        // It stays: whoever leaves is not answered.
        let mut client = connect_to(address);
        client.send(get_request("/"));
        let head = receive(&mut client).head;
        assert!(head.starts_with(status), "{head}");
        // The line is written before or just behind the answer.
        let has_words = || String::from_utf8_lossy(&log.0.lock().unwrap()).contains(words);
        eventually(true, has_words);
        drop(running);
        log.0.lock().unwrap().clear();
    });
}

fn app(driver: DriverChoice, app: Router) -> (ringmill::Running, SocketAddr) {
    let running =
        ringmill::serve("127.0.0.1:0", app).config(config(driver)).start().expect("the engine starts");
    let address = ip(&running.addresses()[0]);
    (running, address)
}

#[test]
fn block_in_place() {
    alone(|| {
        let serve = |driver| {
            let handler = async || tokio::task::block_in_place(|| "blocked");
            app(driver, Router::new().route("/", get(handler)))
        };
        check(serve, "HTTP/1.1 500 ", "await tokio::task::spawn_blocking instead");
    });
}

#[test]
fn block_on() {
    alone(|| {
        let serve = |driver| {
            let handler = async || tokio::runtime::Handle::current().block_on(async { "blocked" });
            app(driver, Router::new().route("/", get(handler)))
        };
        check(serve, "HTTP/1.1 500 ", "a handler may not block on a future: await it");
    });
}

#[test]
fn a_runtime_that_has_ended() {
    alone(|| {
        let ended = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = ended.handle().clone();
        drop(ended);
        let serve = |driver| {
            let handle = handle.clone();
            let handler = async move || {
                let timer = {
                    let _elsewhere = handle.enter();
                    tokio::time::sleep(Duration::from_millis(1))
                };
                timer.await;
                "slept"
            };
            app(driver, Router::new().route("/", get(handler)))
        };
        check(serve, "HTTP/1.1 500 ", "made in another runtime of tokio, which has ended");
    });
}

#[derive(Clone)]
struct NeverReady;

impl Service<Request<ringmill::adapt::Body>> for NeverReady {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<ringmill::adapt::Body>) -> Self::Future {
        ready(Ok(Response::new(Body::empty())))
    }
}

#[test]
fn a_service_that_is_never_ready() {
    alone(|| {
        let serve = |driver| {
            let limits = Limits { handler_timeout: Duration::from_millis(200), ..Limits::default() };
            let builder = Engine::builder().config(config(driver));
            let builder =
                builder.listen("127.0.0.1:0", move |_| tower(NeverReady).with_limits(limits.clone()));
            let running = builder.start().expect("the engine starts");
            let address = ip(&running.addresses()[0]);
            (running, address)
        };
        check(serve, "HTTP/1.1 503 ", "a service did not become ready for a request (poll_ready)");
    });
}

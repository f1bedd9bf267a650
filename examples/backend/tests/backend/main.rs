//! Each program, served on both drivers in this process, and asked by other people's clients.

mod auth;
mod data;
mod graphql;
mod grpc;
mod limits;
mod live;
mod middleware;
mod rest;

use reqwest::{Client, redirect};
use ringmill::{App, Config, DriverChoice, Error, Pin, Running, Serve};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Calls `test` with the address of an app, on both drivers, in a client's runtime. No address is used for two apps.
fn on_both_drivers<A: App>(app: impl Fn() -> A, test: impl AsyncFn(SocketAddr)) {
    serve_on_both_drivers(|| ringmill::serve("127.0.0.1:0", app()), test);
}

/// The same for apps that each worker makes.
fn serve_on_both_drivers<A: App>(serve: impl Fn() -> Serve<A>, test: impl AsyncFn(SocketAddr)) {
    let mut failed = Vec::new();
    for driver in [DriverChoice::Uring, DriverChoice::Poll] {
        let config = Config::default().with_driver(driver).with_workers(2).with_pin(Pin::Off);
        let running: Running = match serve().config(config).start() {
            // Kernels and containers without io_uring.
            Err(Error::Driver { .. }) if driver == DriverChoice::Uring => continue,
            started => started.expect("the engine starts"),
        };
        assert_eq!(running.driver().to_string(), driver.to_string());
        let address = running.addresses()[0].ip().expect("an IP address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let within = async {
            tokio::time::timeout(Duration::from_secs(30), test(address)).await.expect("the app answers")
        };
        if catch_unwind(AssertUnwindSafe(|| runtime.block_on(within))).is_err() {
            failed.push(driver.to_string());
        }
    }
    assert!(failed.is_empty(), "failed with {}: each is told above", failed.join(" and "));
}

/// A client that shows what the server says: it follows nothing, and uses no proxy.
fn client() -> reqwest::ClientBuilder {
    Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(Duration::from_secs(10))
}

fn text<'a>(reply: &'a reqwest::Response, field: &str) -> &'a str {
    reply.headers().get(field).map_or("", |value| value.to_str().expect("a field of text"))
}

//! Each program, served in this process on both drivers and on axum's or tonic's own server, and asked by other people's clients.

mod auth;
mod cache;
mod data;
mod graphql;
mod grpc;
mod limits;
mod live;
mod middleware;
mod programs;
mod rest;
mod whole;

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use reqwest::{Client, redirect};
use ringmill::{App, Config, DriverChoice, Error, Pin, Serve};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Calls `test` with the address of an app, in a client's runtime: on Ringmill with each driver, and on axum's own server, where what
/// the tests expect has to be true as well. Each serves an app of its own.
fn on_each_server<A: OnAxum>(app: impl Fn() -> A, test: impl AsyncFn(SocketAddr)) {
    on_each_server_with(|| ringmill::serve("127.0.0.1:0", app()), async || app(), test);
}

/// The same for apps that each worker makes: with what serves them, and one for axum's server.
fn on_each_server_with<A: OnAxum>(
    serve: impl Fn() -> Serve<A>,
    app: impl AsyncFn() -> A,
    test: impl AsyncFn(SocketAddr),
) {
    let within = async |address| {
        tokio::time::timeout(Duration::from_secs(30), test(address)).await.expect("the app answers")
    };
    let on_ringmill = |driver: DriverChoice| {
        let config = Config::default().with_driver(driver).with_workers(2).with_pin(Pin::Off);
        let running = match serve().config(config).start() {
            // Kernels and containers without io_uring.
            Err(Error::Driver { .. }) if driver == DriverChoice::Uring => return,
            started => started.expect("the engine starts"),
        };
        assert_eq!(running.driver().to_string(), driver.to_string());
        block_on(within(running.addresses()[0].ip().expect("an IP address")));
    };
    let on_axum = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(app().await.on_axum(listener));
        within(address).await;
    };
    let runs: [(&str, &dyn Fn()); 3] = [
        ("io_uring", &|| on_ringmill(DriverChoice::Uring)),
        ("epoll", &|| on_ringmill(DriverChoice::Poll)),
        ("axum's server", &|| block_on(on_axum())),
    ];
    let failed = runs.iter().filter(|(_, run)| catch_unwind(AssertUnwindSafe(run)).is_err());
    let failed: Vec<&str> = failed.map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "failed with {}: each is told above", failed.join(" and "));
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

/// What axum's own server takes as well.
trait OnAxum: App {
    fn on_axum(self, listener: TcpListener) -> impl Future<Output = std::io::Result<()>> + Send;
}

impl OnAxum for Router {
    async fn on_axum(self, listener: TcpListener) -> std::io::Result<()> {
        axum::serve(listener, self).await
    }
}

impl OnAxum for IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
    async fn on_axum(self, listener: TcpListener) -> std::io::Result<()> {
        axum::serve(listener, self).await
    }
}

/// Its own server is that of tonic.
impl OnAxum for Routes {
    async fn on_axum(self, listener: TcpListener) -> std::io::Result<()> {
        let served = Server::builder().accept_http1(true).add_routes(self);
        served.serve_with_incoming(TcpIncoming::from(listener)).await.map_err(std::io::Error::other)
    }
}

/// A client that shows what the server says: it follows nothing, and uses no proxy.
fn client() -> reqwest::ClientBuilder {
    Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(Duration::from_secs(10))
}

fn text<'a>(reply: &'a reqwest::Response, field: &str) -> &'a str {
    reply.headers().get(field).map_or("", |value| value.to_str().expect("a field of text"))
}

//! What serves the app: axum's own server, and by the one changed line Ringmill, with each driver.

use super::app::{Shared, app};
use super::common::{config, ip, on_both_drivers};
use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use ringmill::{DriverChoice, Running, Serve};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

type App = IntoMakeServiceWithConnectInfo<Router, SocketAddr>;

/// The changed line.
pub fn serve(driver: DriverChoice, shared: Shared) -> Serve<App> {
    let app = app(shared).into_make_service_with_connect_info::<SocketAddr>();
    ringmill::serve("127.0.0.1:0", app).config(config(driver)).drain(Duration::from_secs(5))
}

/// The line before it was changed, on a thread of its own, until it is dropped.
struct AxumServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AxumServer {
    fn start(shared: Shared) -> AxumServer {
        let ((stop, stopped), (tell, told)) = (oneshot::channel(), channel());
        let serving = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let app = app(shared).into_make_service_with_connect_info::<SocketAddr>();
            tokio::select! {
                ended = axum::serve(listener, app).into_future() => ended.unwrap(),
                _ = stopped => {}
            }
        };
        let thread = std::thread::spawn(|| runtime().block_on(serving));
        let address = told.recv().expect("it listens");
        AxumServer { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for AxumServer {
    fn drop(&mut self) {
        self.stop.take();
        let ended = self.thread.take().expect("it was started").join();
        assert!(ended.is_ok() || std::thread::panicking(), "axum's server has panicked");
    }
}

/// No test takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `test` with the address of an app, on axum's own server, and on Ringmill with both drivers: what it expects is the same.
pub fn on_each_server(test: impl AsyncFn(SocketAddr, Shared)) {
    let on_axum = || {
        let shared = Shared::default();
        let server = AxumServer::start(shared.clone());
        block_on(test(server.address, shared));
    };
    let is_served = catch_unwind(AssertUnwindSafe(on_axum)).is_ok();
    on_an_app(async |_, address, shared| test(address, shared).await);
    assert!(is_served, "failed with axum's own server: it is told above");
}

/// Calls `test` with the app and its address, on Ringmill alone, with both drivers.
pub fn on_an_app(test: impl AsyncFn(&Running, SocketAddr, Shared)) {
    on_both_drivers(|driver| {
        let shared = Shared::default();
        let running = serve(driver, shared.clone()).start().expect("the engine starts");
        let address = ip(&running.addresses()[0]);
        block_on(test(&running, address, shared));
    });
}

/// A client's runtime, in which everything ends.
pub fn block_on(test: impl Future<Output = ()>) {
    runtime().block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it ends") });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

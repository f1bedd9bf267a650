//! Rate limits: by the client's address, and by its API key. Both are shared by all workers.

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use ringmill_backend::{address, tell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::{KeyExtractor, PeerIpKeyExtractor};
use tower_governor::{GovernorError, GovernorLayer};

/// The keys that there are. Others are refused, so that they take no memory.
const KEYS: [&str; 2] = ["key-of-ann", "key-of-bob"];
/// How many requests an address has at once, and how long it waits for one more.
const BURST_OF_ADDRESS: u32 = 5;
const PERIOD_OF_ADDRESS: Duration = Duration::from_millis(500);
/// The same for a key.
const BURST_OF_KEY: u32 = 3;
const PERIOD_OF_KEY: Duration = Duration::from_secs(60);

/// Requests are counted by their `x-api-key`.
#[derive(Clone)]
struct ByKey;

impl KeyExtractor for ByKey {
    type Key = &'static str;

    fn extract<T>(&self, request: &Request<T>) -> Result<&'static str, GovernorError> {
        let given = request.headers().get("x-api-key");
        let known = KEYS.into_iter().find(|key| given.is_some_and(|given| given == key));
        known.ok_or_else(|| GovernorError::Other {
            code: StatusCode::UNAUTHORIZED,
            msg: Some("an API key is needed".to_owned()),
            headers: Some(HeaderMap::new()),
        })
    }
}

pub type App = IntoMakeServiceWithConnectInfo<Router, SocketAddr>;

/// The app, and what forgets addresses that have been quiet, and says how many are left: call it now and then.
pub fn app() -> (App, impl Fn() -> usize + Send + 'static) {
    let by_address = GovernorConfigBuilder::default()
        .period(PERIOD_OF_ADDRESS)
        .burst_size(BURST_OF_ADDRESS)
        .key_extractor(PeerIpKeyExtractor)
        .use_headers()
        .finish();
    let by_key = GovernorConfigBuilder::default()
        .period(PERIOD_OF_KEY)
        .burst_size(BURST_OF_KEY)
        .key_extractor(ByKey)
        .finish();
    let by_address = Arc::new(by_address.expect("neither number is zero"));
    let by_key = Arc::new(by_key.expect("neither number is zero"));
    let addresses = by_address.limiter().clone();
    let open = Router::new().route("/open", get("open")).layer(GovernorLayer::new(by_address));
    let keyed = Router::new().route("/keyed", get("keyed")).layer(GovernorLayer::new(by_key));
    let app = open.merge(keyed).into_make_service_with_connect_info::<SocketAddr>();
    let forget = move || {
        addresses.retain_recent();
        addresses.len()
    };
    (app, forget)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ringmill::Error> {
    let (app, forget) = app();
    tokio::spawn(async move {
        let mut minutes = tokio::time::interval(Duration::from_secs(60));
        loop {
            minutes.tick().await;
            forget();
        }
    });
    ringmill::serve(address(), app).on_start(tell).await
}

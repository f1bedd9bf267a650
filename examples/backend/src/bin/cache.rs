//! Redis in handlers, in place: answers that are kept for a minute, and sessions (tower-sessions) whose data is in Redis, so that every
//! worker and every machine knows them. Of a session its client has a random name and nothing else. The variable REDIS_URL says where
//! Redis is.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use redis::AsyncCommands;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ringmill_backend::{address, tell};
use std::error::Error;
use std::time::Duration;
use tower_sessions::{Expiry, Session, SessionManagerLayer, cookie::SameSite, cookie::time};
use tower_sessions_redis_store::RedisStore;
use tower_sessions_redis_store::fred::prelude::{
    ClientLike, Config, ConnectionConfig, Pool, ReconnectPolicy,
};

const KEPT_SECONDS: u64 = 60;
/// Redis that takes longer is taken for away.
const REDIS_TIMEOUT: Duration = Duration::from_millis(500);
/// A worker's connections for sessions.
const CONNECTIONS: usize = 2;
/// What makes an answer worth keeping.
const COMPUTING: Duration = Duration::from_millis(100);

/// Called in the worker that it is for.
pub async fn app(redis_url: &str) -> Result<Router, Box<dyn Error + Send + Sync>> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(REDIS_TIMEOUT))
        .set_response_timeout(Some(REDIS_TIMEOUT))
        .set_number_of_retries(2);
    let redis = redis::Client::open(redis_url)?.get_connection_manager_with_config(config).await?;
    let connection = ConnectionConfig {
        internal_command_timeout: REDIS_TIMEOUT,
        max_command_attempts: 1,
        ..ConnectionConfig::default()
    };
    let again = ReconnectPolicy::new_constant(0, 100);
    let pool = Pool::new(Config::from_url(redis_url)?, None, Some(connection), Some(again), CONNECTIONS)?;
    pool.init().await?;
    let sessions = SessionManagerLayer::new(RedisStore::new(pool))
        // Behind TLS it is true.
        .with_secure(false)
        .with_same_site(SameSite::Strict)
        .with_expiry(Expiry::OnInactivity(time::Duration::hours(1)));
    Ok(Router::new()
        .route("/session/{name}", post(log_in))
        .route("/session", get(visit).delete(log_out))
        .layer(sessions)
        .route("/square/{number}", get(square))
        .with_state(redis))
}

/// What is asked for often is computed once a minute.
async fn square(
    State(mut redis): State<ConnectionManager>,
    Path(number): Path<u32>,
) -> Result<Response, Failure> {
    let key = format!("square:{number}");
    if let Some(kept) = redis.get::<_, Option<String>>(&key).await? {
        return Ok(([("x-cache", "hit")], kept).into_response());
    }
    tokio::time::sleep(COMPUTING).await;
    let square = (u64::from(number) * u64::from(number)).to_string();
    redis.set_ex::<_, _, ()>(&key, &square, KEPT_SECONDS).await?;
    Ok(([("x-cache", "miss")], square).into_response())
}

async fn log_in(session: Session, Path(name): Path<String>) -> Result<StatusCode, Failure> {
    // A name of the session that somebody else may have given to this client is of no use to them now.
    session.cycle_id().await?;
    session.insert("name", name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn visit(session: Session) -> Result<Response, Failure> {
    let Some(name) = session.get::<String>("name").await? else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    let visits = session.get::<u32>("visits").await?.unwrap_or(0) + 1;
    session.insert("visits", visits).await?;
    Ok(format!("{name} {visits}").into_response())
}

async fn log_out(session: Session) -> Result<StatusCode, Failure> {
    session.flush().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Redis is away, or does not answer in time.
struct Failure;

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        tracing::error!(%error, "redis fails");
        Failure
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

fn main() -> Result<(), ringmill::Error> {
    let url = std::env::var("REDIS_URL").unwrap_or("redis://127.0.0.1:6379".to_owned());
    ringmill::serve_with(address(), async move |_| app(&url).await).on_start(tell).run()
}

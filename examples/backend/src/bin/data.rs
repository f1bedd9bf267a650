//! SQL in handlers, in place: each worker makes its own pool of connections (`serve_with`), and a transfer of money is a transaction.

use axum::extract::{Path as InPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ringmill_backend::{address, tell};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use std::path::Path;
use std::time::Duration;

/// A worker's connections: each is a thread of SQLite's driver.
const CONNECTIONS_MAX: u32 = 2;
const ROWS_MAX: i64 = 100;

#[derive(Serialize, Deserialize, FromRow)]
pub struct Account {
    pub name: String,
    pub balance: i64,
}

#[derive(Serialize, Deserialize)]
pub struct Transfer {
    pub from: String,
    pub to: String,
    pub amount: i64,
}

/// Called in the worker that it is for.
pub async fn app(file: &Path) -> Result<Router, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // How long one who writes waits for another.
        .busy_timeout(Duration::from_secs(5));
    // A new file is switched to a log by whoever comes first, and SQLite does not let others wait for that.
    static OPENING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _first = OPENING.lock().await;
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS_MAX).connect_with(options).await?;
    let table = "CREATE TABLE IF NOT EXISTS account \
        (name TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0)) STRICT";
    sqlx::query(table).execute(&pool).await?;
    Ok(Router::new()
        .route("/accounts", get(list).post(open))
        .route("/accounts/{name}", get(one))
        .route("/transfers", post(transfer))
        .with_state(pool))
}

async fn list(State(pool): State<SqlitePool>) -> Result<Json<Vec<Account>>, Failure> {
    let query = sqlx::query_as("SELECT name, balance FROM account ORDER BY name LIMIT ?");
    Ok(Json(query.bind(ROWS_MAX).fetch_all(&pool).await?))
}

async fn one(State(pool): State<SqlitePool>, InPath(name): InPath<String>) -> Result<Json<Account>, Failure> {
    let query = sqlx::query_as("SELECT name, balance FROM account WHERE name = ?");
    Ok(Json(query.bind(name).fetch_one(&pool).await?))
}

async fn open(State(pool): State<SqlitePool>, Json(account): Json<Account>) -> Result<StatusCode, Failure> {
    let query = sqlx::query("INSERT INTO account (name, balance) VALUES (?, ?)");
    query.bind(account.name).bind(account.balance).execute(&pool).await?;
    Ok(StatusCode::CREATED)
}

/// Both sides or none. A handler that is dropped in between, since its client has left, rolls back.
async fn transfer(
    State(pool): State<SqlitePool>,
    Json(transfer): Json<Transfer>,
) -> Result<StatusCode, Failure> {
    if transfer.amount <= 0 {
        return Ok(StatusCode::UNPROCESSABLE_ENTITY);
    }
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for (name, amount) in [(transfer.to, transfer.amount), (transfer.from, -transfer.amount)] {
        let query = sqlx::query("UPDATE account SET balance = balance + ? WHERE name = ?");
        let done = query.bind(amount).bind(name).execute(&mut *transaction).await?;
        if done.rows_affected() == 0 {
            return Err(sqlx::Error::RowNotFound.into());
        }
    }
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the database says, in the words of HTTP.
struct Failure(sqlx::Error);

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Failure {
        Failure(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let refused = self
            .0
            .as_database_error()
            .is_some_and(|error| error.is_unique_violation() || error.is_check_violation());
        match self.0 {
            sqlx::Error::RowNotFound => StatusCode::NOT_FOUND,
            _ if refused => StatusCode::CONFLICT,
            // No connection became free.
            sqlx::Error::PoolTimedOut => StatusCode::SERVICE_UNAVAILABLE,
            error => {
                tracing::error!(%error, "the database fails");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
        .into_response()
    }
}

fn main() -> Result<(), ringmill::Error> {
    let file = std::env::temp_dir().join("ringmill-data.sqlite");
    ringmill::serve_with(address(), async move |_| app(&file).await).on_start(tell).run()
}

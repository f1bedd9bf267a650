//! GraphQL by async-graphql: a query and a mutation over HTTP, a subscription over WebSocket.

use async_graphql::{Context, Error, Object, Schema, SimpleObject, Subscription};
use async_graphql_axum::{GraphQL, GraphQLSubscription};
use axum::Router;
use axum::routing::{get_service, post_service};
use futures_util::{Stream, stream};
use ringmill_backend::{address, tell};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast::{self, error::RecvError};

/// Queries that are nested deeper, or ask for more fields, are refused.
const DEPTH_MAX: usize = 8;
const FIELDS_MAX: usize = 100;
const BOOKS_MAX: usize = 1000;
/// Who lags further behind misses books.
const LAG_MAX: usize = 64;

#[derive(Clone, SimpleObject)]
struct Book {
    title: String,
    author: String,
}

struct Shelf {
    books: Mutex<Vec<Book>>,
    added: broadcast::Sender<Book>,
}

struct Query;

#[Object]
impl Query {
    /// All books, or those of one author.
    async fn books(&self, context: &Context<'_>, author: Option<String>) -> Result<Vec<Book>, Error> {
        let books = context.data::<Shelf>()?.books.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked_for = |book: &&Book| author.as_ref().is_none_or(|author| book.author == *author);
        Ok(books.iter().filter(is_asked_for).cloned().collect())
    }
}

struct Mutation;

#[Object]
impl Mutation {
    /// Puts a book on the shelf, and tells all who wait for one.
    async fn add_book(&self, context: &Context<'_>, title: String, author: String) -> Result<Book, Error> {
        let shelf = context.data::<Shelf>()?;
        let book = Book { title, author };
        let mut books = shelf.books.lock().unwrap_or_else(PoisonError::into_inner);
        if books.len() == BOOKS_MAX {
            return Err("the shelf is full".into());
        }
        books.push(book.clone());
        // It fails if nobody waits.
        let _ = shelf.added.send(book.clone());
        Ok(book)
    }
}

struct Added;

#[Subscription]
impl Added {
    async fn book_added(&self, context: &Context<'_>) -> Result<impl Stream<Item = Book> + use<>, Error> {
        let added = context.data::<Shelf>()?.added.subscribe();
        Ok(stream::unfold(added, |mut added| async move {
            loop {
                match added.recv().await {
                    Ok(book) => return Some((book, added)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        }))
    }
}

pub fn app() -> Router {
    let shelf = Shelf { books: Mutex::default(), added: broadcast::channel(LAG_MAX).0 };
    let schema = Schema::build(Query, Mutation, Added)
        .limit_depth(DEPTH_MAX)
        .limit_complexity(FIELDS_MAX)
        .data(shelf)
        .finish();
    Router::new()
        .route("/graphql", post_service(GraphQL::new(schema.clone())))
        .route("/graphql/ws", get_service(GraphQLSubscription::new(schema)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ringmill::Error> {
    ringmill::serve(address(), app()).on_start(tell).await
}

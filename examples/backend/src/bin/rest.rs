//! A REST API whose bodies are JSON, XML or Protobuf: what comes in by its Content-Type (else 415), what goes out by Accept (else 406).

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_extra::TypedHeader;
use headers_accept::Accept;
use mediatype::names::{APPLICATION, JSON, XML};
use mediatype::{MediaType, Name};
use ringmill_backend::{address, tell};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
pub struct Order {
    #[prost(string, tag = "1")]
    pub item: String,
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

/// All orders; in XML each is an element of its own.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
pub struct Orders {
    #[serde(default, rename = "order")]
    #[prost(message, repeated, tag = "1")]
    pub orders: Vec<Order>,
}

/// More than these are refused.
const ORDERS_MAX: usize = 1000;

#[derive(Clone, Default)]
struct Store(Arc<Mutex<BTreeMap<usize, Order>>>);

impl Store {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Order>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn app() -> Router {
    Router::new()
        .route("/orders", get(list).post(create))
        .route("/orders/{id}", get(one).put(replace).delete(remove))
        .with_state(Store::default())
}

async fn list(format: Format, State(store): State<Store>) -> Response {
    format.body("orders", &Orders { orders: store.lock().values().cloned().collect() })
}

async fn create(format: Format, State(store): State<Store>, Given(order): Given<Order>) -> Response {
    let mut orders = store.lock();
    if orders.len() == ORDERS_MAX {
        return StatusCode::INSUFFICIENT_STORAGE.into_response();
    }
    let id = orders.last_key_value().map_or(1, |(id, _)| id + 1);
    let answer = format.body("order", &order);
    orders.insert(id, order);
    (StatusCode::CREATED, [(LOCATION, format!("/orders/{id}"))], answer).into_response()
}

async fn one(format: Format, State(store): State<Store>, Path(id): Path<usize>) -> Response {
    store.lock().get(&id).map_or(StatusCode::NOT_FOUND.into_response(), |order| format.body("order", order))
}

async fn replace(
    State(store): State<Store>,
    Path(id): Path<usize>,
    Given(order): Given<Order>,
) -> StatusCode {
    match store.lock().get_mut(&id) {
        Some(known) => *known = order,
        None => return StatusCode::NOT_FOUND,
    }
    StatusCode::NO_CONTENT
}

async fn remove(State(store): State<Store>, Path(id): Path<usize>) -> StatusCode {
    store.lock().remove(&id).map_or(StatusCode::NOT_FOUND, |_| StatusCode::NO_CONTENT)
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Xml,
    Protobuf,
}

/// The first is for clients that take anything.
static FORMATS: [(MediaType<'static>, Format); 3] = [
    (MediaType::new(APPLICATION, JSON), Format::Json),
    (MediaType::new(APPLICATION, XML), Format::Xml),
    (MediaType::new(APPLICATION, Name::new_unchecked("protobuf")), Format::Protobuf),
];

impl Format {
    fn body(self, root: &str, value: &(impl Serialize + prost::Message)) -> Response {
        let text = match self {
            Format::Json => serde_json::to_vec(value).map_err(|error| error.to_string()),
            Format::Xml => quick_xml::se::to_string_with_root(root, value)
                .map(String::into_bytes)
                .map_err(|error| error.to_string()),
            Format::Protobuf => Ok(value.encode_to_vec()),
        };
        let (media, _) = &FORMATS[self as usize];
        match text {
            Ok(text) => ([(CONTENT_TYPE, media.to_string())], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
        }
    }
}

/// What the client accepts.
impl<S: Send + Sync> FromRequestParts<S> for Format {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Format, StatusCode> {
        let accept = Option::<TypedHeader<Accept>>::from_request_parts(parts, state).await;
        let Some(TypedHeader(accept)) = accept.map_err(|_| StatusCode::BAD_REQUEST)? else {
            return Ok(Format::Json);
        };
        let best = accept.negotiate(FORMATS.iter().map(|(media, _)| media));
        let format = FORMATS.iter().find(|(media, _)| Some(media) == best);
        format.map(|(_, format)| *format).ok_or(StatusCode::NOT_ACCEPTABLE)
    }
}

/// What the client sent.
struct Given<T>(T);

impl<T: DeserializeOwned + prost::Message + Default, S: Send + Sync> FromRequest<S> for Given<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Given<T>, Response> {
        let media = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = media.and_then(|text| MediaType::parse(text).ok());
        let format = FORMATS.iter().find(|(known, _)| media.as_ref().is_some_and(|m| m.essence() == *known));
        let format = format.map(|(_, format)| *format);
        let format = format.ok_or(StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response())?;
        let bytes = Bytes::from_request(request, state).await.map_err(IntoResponse::into_response)?;
        let value = match format {
            Format::Json => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Format::Xml => quick_xml::de::from_reader(&bytes[..]).map_err(|error| error.to_string()),
            Format::Protobuf => T::decode(bytes).map_err(|error| error.to_string()),
        };
        value.map(Given).map_err(|error| (StatusCode::BAD_REQUEST, error).into_response())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ringmill::Error> {
    ringmill::serve(address(), app()).on_start(tell).await
}

//! The layers that a backend is put into, all of tower-http: request ids and a log line a request, CORS, a timeout, a limit of bodies,
//! compression, panics as answers. With them trace context (W3C traceparent, by OpenTelemetry) and conditional requests (ETag).

use axum::extract::Request;
use axum::http::header::{HeaderName, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_extra::TypedHeader;
use axum_extra::headers::{CacheControl, ETag, IfNoneMatch};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{FutureExt, TraceContextExt, Tracer, TracerProvider};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use ringmill_backend::{address, tell};
use std::collections::BTreeMap;
use std::time::Duration;
use tower::ServiceBuilder;
use tower_http::ServiceBuilderExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::request_id::{MakeRequestUuid, RequestId};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

/// Bodies of this program that are longer get 413.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Handlers that take longer are dropped, and answered with 504.
const HANDLER_TIMEOUT: Duration = Duration::from_millis(300);

pub fn app() -> Router {
    let routes = Router::new()
        .route("/page", get(page))
        .route("/upload", post(async |body: String| body.len().to_string()))
        .route("/next", get(next_service))
        .route("/slow", get(async || tokio::time::sleep(HANDLER_TIMEOUT * 100).await))
        .route("/panic", get(fails));
    layered(routes, BODY_BYTES_MAX)
}

/// Puts any routes into the layers.
pub fn layered(routes: Router, body_bytes_max: usize) -> Router {
    // Exporters of spans are added here.
    let tracer = SdkTracerProvider::builder().build().tracer("middleware");
    let layers = ServiceBuilder::new()
        .set_x_request_id(MakeRequestUuid)
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .propagate_x_request_id()
        .layer(CatchPanicLayer::new())
        .layer(cors())
        .layer(CompressionLayer::new())
        .layer(tower_http::limit::RequestBodyLimitLayer::new(body_bytes_max))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, HANDLER_TIMEOUT));
    routes.layer(from_fn(move |request, next| traced(tracer.clone(), request, next))).layer(layers)
}

fn span<B>(request: &axum::http::Request<B>) -> tracing::Span {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    tracing::info_span!("request", method = %request.method(), path = request.uri().path(), id)
}

fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(HeaderValue::from_static("https://shop.example"))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([HeaderName::from_static("traceparent")])
        .expose_headers([LOCATION])
        .max_age(Duration::from_secs(600))
}

/// Runs the handler in a span that continues the caller's trace.
async fn traced(tracer: SdkTracer, request: Request, next: Next) -> Response {
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    let span = tracer.start_with_context(request.uri().path().to_owned(), &parent);
    next.run(request).with_context(parent.with_span(span)).await
}

/// Shows the header fields that a call to another service would carry.
async fn next_service() -> Json<BTreeMap<String, String>> {
    let mut fields = HeaderMap::new();
    let context = opentelemetry::Context::current();
    TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(&mut fields));
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    Json(fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
}

/// A page that clients may keep for a minute, and then ask whether it is still the same.
async fn page(known: Option<TypedHeader<IfNoneMatch>>) -> Response {
    // Weak, as the bytes differ from one compression to the next.
    let tag: ETag = "W/\"version-1\"".parse().expect("it is written as RFC 9110 has it");
    let cache = CacheControl::new().with_public().with_max_age(Duration::from_secs(60));
    let is_known = known.is_some_and(|TypedHeader(known)| !known.precondition_passes(&tag));
    let fields = (TypedHeader(tag), TypedHeader(cache));
    match is_known {
        true => (StatusCode::NOT_MODIFIED, fields).into_response(),
        false => (fields, "All work and no play makes Jack a dull boy.\n".repeat(100)).into_response(),
    }
}

async fn fails() {
    panic!("this handler always fails");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ringmill::Error> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
    ringmill::serve(address(), app()).on_start(tell).await
}

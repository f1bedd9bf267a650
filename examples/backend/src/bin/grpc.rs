//! gRPC by tonic, in all four ways of calling, and its health service. Clients speak HTTP/2 at once, without TLS; the code of the
//! service is made by `build.rs`.

use axum::Router;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use ringmill_backend::{address, tell};
use std::pin::Pin;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

include!(concat!(env!("OUT_DIR"), "/numbers.Numbers.rs"));

use numbers_server::{Numbers, NumbersServer};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Number {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

impl Number {
    pub fn of(value: i64) -> Number {
        Number { value }
    }
}

#[derive(Clone, Copy, Default)]
pub struct Service;

type Answers = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

fn sum(a: i64, b: i64) -> Result<i64, Status> {
    a.checked_add(b).ok_or_else(|| Status::out_of_range("the sum is too large"))
}

#[tonic::async_trait]
impl Numbers for Service {
    async fn square(&self, request: Request<Number>) -> Result<Response<Number>, Status> {
        let value = request.into_inner().value;
        let square =
            value.checked_mul(value).ok_or_else(|| Status::out_of_range("the square is too large"))?;
        Ok(Response::new(Number::of(square)))
    }

    type CountStream = Answers;

    /// From 1 up to the number.
    async fn count(&self, request: Request<Number>) -> Result<Response<Answers>, Status> {
        let numbers = stream::iter(1..=request.into_inner().value).then(async |value| {
            if value % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(Number::of(value))
        });
        Ok(Response::new(Box::pin(numbers)))
    }

    async fn sum(&self, request: Request<Streaming<Number>>) -> Result<Response<Number>, Status> {
        let numbers = request.into_inner();
        let total = numbers.try_fold(0, |total, number| std::future::ready(sum(total, number.value))).await?;
        Ok(Response::new(Number::of(total)))
    }

    type RunningSumStream = Answers;

    /// Answers each number with the sum until then.
    async fn running_sum(&self, request: Request<Streaming<Number>>) -> Result<Response<Answers>, Status> {
        let sums = stream::try_unfold((0, request.into_inner()), |(total, mut numbers)| async move {
            let Some(number) = numbers.message().await? else { return Ok(None) };
            let total = sum(total, number.value)?;
            Ok(Some((Number::of(total), (total, numbers))))
        });
        Ok(Response::new(Box::pin(sums)))
    }
}

/// All of it as an app of axum, and what tells clients of health checks how the service is.
pub async fn app() -> (Router, tonic_health::server::HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<NumbersServer<Service>>().await;
    let routes = tonic::service::Routes::new(NumbersServer::new(Service)).add_service(health);
    (routes.into_axum_router(), reporter)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ringmill::Error> {
    ringmill::serve(address(), app().await.0).on_start(tell).await
}

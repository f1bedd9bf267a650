//! gRPC by tonic: all four ways of calling, errors with details, compression, the health service, reflection, and gRPC-Web for browsers.
//! Clients speak HTTP/2 at once, without TLS, or gRPC-Web over HTTP/1.1. The code of the service is made by `build.rs`.

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use ringmill_backend::{address, tell};
use std::pin::Pin;
use std::time::Duration;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use tonic_web::GrpcWebLayer;

tonic::include_proto!("numbers");

use numbers_server::{Numbers, NumbersServer};

/// What reflection tells.
const DESCRIBED: &[u8] = tonic::include_file_descriptor_set!("numbers");

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
        let square = value.checked_mul(value).ok_or_else(|| {
            let details =
                ErrorDetails::with_bad_request_violation("value", "its square has more than 63 bits");
            Status::with_error_details(Code::OutOfRange, "the square is too large", details)
        })?;
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

    async fn digits(&self, request: Request<Number>) -> Result<Response<Text>, Status> {
        let times = usize::try_from(request.into_inner().value).ok().filter(|times| *times <= 100_000);
        let times = times.ok_or_else(|| Status::invalid_argument("give a number from 0 to 100000"))?;
        Ok(Response::new(Text { text: "0123456789".repeat(times) }))
    }

    async fn rest(&self, request: Request<Number>) -> Result<Response<Number>, Status> {
        let number = request.into_inner();
        let ms =
            u64::try_from(number.value).map_err(|_| Status::invalid_argument("time does not run back"))?;
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(Response::new(number))
    }

    async fn who(&self, request: Request<Nothing>) -> Result<Response<Text>, Status> {
        let address = request.remote_addr().map(|address| address.to_string());
        Ok(Response::new(Text { text: address.unwrap_or_default() }))
    }
}

/// All of it, and what tells clients of health checks how the service is.
pub async fn app() -> (Routes, tonic_health::server::HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<NumbersServer<Service>>().await;
    let numbers = NumbersServer::new(Service);
    let numbers = numbers.accept_compressed(Gzip).accept_compressed(Zstd);
    let numbers = numbers.send_compressed(Gzip).send_compressed(Zstd);
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure();
        let builder = builder.register_encoded_file_descriptor_set(DESCRIBED);
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Many clients still ask in the older way.
    let (now, before) = (reflection().build_v1(), reflection().build_v1alpha());
    let routes = Routes::new(numbers).add_service(health);
    let routes = routes.add_service(now.expect("it is well described"));
    let routes = routes.add_service(before.expect("it is well described"));
    (routes.into_axum_router().layer(GrpcWebLayer::new()).into(), reporter)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ringmill::Error> {
    ringmill::serve(address(), app().await.0).on_start(tell).await
}

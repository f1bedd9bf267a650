#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/grpc.rs"]
mod program;

use super::on_each_server;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use program::{Nothing, Number, app, numbers_client::NumbersClient, numbers_server::NumbersServer};
use ringmill::proxy::{Proxy, ProxyConfig};
use ringmill::{Address, Config, DriverChoice, Engine, Pin, Running};
use std::net::SocketAddr;
use std::sync::Mutex;
use tonic::Code;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

fn on_an_app(test: impl AsyncFn(SocketAddr, Channel, HealthReporter)) {
    let reporter = Mutex::new(None);
    let make = || {
        let (app, of_this) = app().now_or_never().expect("it waits for nobody");
        *reporter.lock().unwrap() = Some(of_this);
        app
    };
    let ask = async |address| {
        let channel = Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap();
        let reporter = reporter.lock().unwrap().take().unwrap();
        test(address, channel, reporter).await;
    };
    on_each_server(make, ask);
    // The same calls and the same answers, with a proxy between.
    for driver in [DriverChoice::Probe, DriverChoice::Poll] {
        on_each_server(make, async |address| {
            let proxy = proxy(address, driver);
            ask(proxy.addresses()[0].ip().expect("an IP address")).await;
        });
    }
}

/// A proxy in front of a server of HTTP/2.
fn proxy(server: SocketAddr, driver: DriverChoice) -> Running {
    let config = Config::default().with_driver(driver).with_workers(1).with_pin(Pin::Off);
    let proxied = ProxyConfig { is_http2: true, ..ProxyConfig::new(vec![Address::Ip(server)]) };
    let builder = Engine::builder().config(config);
    builder.listen("127.0.0.1:0", move |_| Proxy::new(proxied.clone(), 1)).start().expect("the proxy starts")
}

#[test]
fn one_number_for_one() {
    on_an_app(async |_, channel, _| {
        let mut client = NumbersClient::new(channel);
        for value in [0, 12, -12] {
            assert_eq!(client.square(Number::of(value)).await.unwrap().into_inner().value, value * value);
        }
        let status = client.square(Number::of(i64::MAX)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::OutOfRange, "the square is too large"));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "value");
        assert_eq!(client.square(Number::of(5)).await.unwrap().into_inner().value, 25);
    });
}

#[test]
fn streams_of_numbers_each_way() {
    on_an_app(async |_, channel, _| {
        let mut client = NumbersClient::new(channel);
        let counted = client.count(Number::of(2000)).await.unwrap().into_inner();
        let counted: Vec<i64> = counted.map_ok(|number| number.value).try_collect().await.unwrap();
        assert_eq!(counted, (1..=2000).collect::<Vec<i64>>());
        let sum = client.sum(stream::iter((1..=1000).map(Number::of))).await.unwrap();
        assert_eq!(sum.into_inner().value, 500_500);
        // Each answer is awaited before the next number is sent.
        let (ask, asked) = tokio::sync::mpsc::channel(1);
        let asked = stream::unfold(asked, |mut asked| async { Some((asked.recv().await?, asked)) });
        let mut sums = client.running_sum(asked).await.unwrap().into_inner();
        for (value, expected) in (1..=50).scan(0, |sum, n| {
            *sum += n;
            Some((n, *sum))
        }) {
            ask.send(Number::of(value)).await.unwrap();
            assert_eq!(sums.message().await.unwrap().unwrap().value, expected);
        }
        ask.send(Number::of(i64::MAX)).await.unwrap();
        assert_eq!(sums.message().await.unwrap_err().code(), Code::OutOfRange);
    });
}

#[test]
fn an_abandoned_stream_leaves_the_connection_usable() {
    on_an_app(async |_, channel, _| {
        let mut client = NumbersClient::new(channel);
        for _ in 0..5 {
            let mut endless = client.count(Number::of(i64::MAX)).await.unwrap().into_inner();
            assert_eq!(endless.next().await.unwrap().unwrap().value, 1);
            drop(endless);
        }
        let calls = (0..20).map(|value| {
            let mut client = client.clone();
            async move { client.square(Number::of(value)).await.unwrap().into_inner().value == value * value }
        });
        assert!(futures_util::future::join_all(calls).await.into_iter().all(|right| right));
    });
}

#[test]
fn health_is_told_and_watched() {
    on_an_app(async |_, channel, reporter| {
        let mut client = HealthClient::new(channel);
        let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
        let status = client.check(of("numbers.Numbers")).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
        assert_eq!(client.check(of("else")).await.unwrap_err().code(), Code::NotFound);
        let mut watched = client.watch(of("numbers.Numbers")).await.unwrap().into_inner();
        assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        reporter.set_not_serving::<NumbersServer<program::Service>>().await;
        assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    });
}

#[test]
fn messages_are_compressed_both_ways() {
    on_an_app(async |_, channel, _| {
        let plain = NumbersClient::new(channel.clone()).digits(Number::of(1000)).await.unwrap();
        assert!(plain.metadata().get("grpc-encoding").is_none());
        for (encoding, name) in [(Gzip, "gzip"), (Zstd, "zstd")] {
            let client = NumbersClient::new(channel.clone());
            let mut client = client.send_compressed(encoding).accept_compressed(encoding);
            let answer = client.digits(Number::of(1000)).await.unwrap();
            assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), name);
            assert_eq!(answer.into_inner().text, "0123456789".repeat(1000));
            let sum = client.sum(stream::iter((1..=1000).map(Number::of))).await.unwrap();
            assert_eq!(sum.into_inner().value, 500_500);
        }
    });
}

#[test]
fn reflection_tells_what_there_is() {
    on_an_app(async |_, channel, _| {
        let mut client = ServerReflectionClient::new(channel);
        let asked = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut told = client.server_reflection_info(stream::iter([asked])).await.unwrap().into_inner();
        let told = told.message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(told)) = told else { panic!("{told:?}") };
        let names: Vec<String> = told.service.into_iter().map(|service| service.name).collect();
        assert!(names.contains(&"numbers.Numbers".to_owned()), "{names:?}");
        assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    });
}

/// What a browser sends: HTTP/1.1, and trailers that are part of the body.
#[test]
fn browsers_call_by_grpc_web() {
    on_an_app(async |address, _, _| {
        let ask = async |method: &str, message: &[u8]| {
            let request = super::client().build().unwrap();
            let request = request.post(format!("http://{address}/numbers.Numbers/{method}"));
            let request = request.header("content-type", "application/grpc-web+proto").body(message.to_vec());
            let reply = request.send().await.unwrap();
            assert_eq!((reply.status().as_u16(), reply.version()), (200, reqwest::Version::HTTP_11));
            let fields = reply.headers().clone();
            (fields, reply.bytes().await.unwrap())
        };
        let (fields, body) = ask("Square", b"\0\0\0\0\x02\x08\x0c").await;
        assert_eq!(fields["content-type"], "application/grpc-web+proto");
        let (message, trailers) = body.split_at(8);
        assert_eq!(message, b"\0\0\0\0\x03\x08\x90\x01", "144");
        assert!(trailers[0] == 0x80 && trailers.windows(13).any(|part| part == b"grpc-status:0"), "{body:?}");
        let (_, body) = ask("Count", b"\0\0\0\0\x02\x08\x03").await;
        assert!(
            body.starts_with(b"\0\0\0\0\x02\x08\x01\0\0\0\0\x02\x08\x02\0\0\0\0\x02\x08\x03\x80"),
            "{body:?}"
        );
    });
}

#[test]
fn a_handler_knows_who_calls() {
    on_an_app(async |_, channel, _| {
        let mut client = NumbersClient::new(channel);
        let told = client.who(Nothing {}).await.unwrap().into_inner().text;
        let told: SocketAddr = told.parse().expect("the address of the client");
        assert!(told.ip().is_loopback() && told.port() > 0);
    });
}

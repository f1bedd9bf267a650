//! Writes the code of the gRPC service of `src/bin/grpc.rs`: a description in Rust stands for a file that needs protoc.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let method = |name: &str, route: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type("super::Number")
            .output_type("super::Number")
            .codec_path("tonic_prost::ProstCodec")
    };
    let numbers = Service::builder()
        .name("Numbers")
        .package("numbers")
        .method(method("square", "Square").build())
        .method(method("count", "Count").server_streaming().build())
        .method(method("sum", "Sum").client_streaming().build())
        .method(method("running_sum", "RunningSum").client_streaming().server_streaming().build())
        .build();
    Builder::new().build_transport(false).compile(&[numbers]);
}

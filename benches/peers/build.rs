//! Writes the code of the gRPC service of `src/rpc.rs`: a description in Rust stands for a file that needs protoc.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let echo = Method::builder()
        .name("echo")
        .route_name("Echo")
        .input_type("super::Text")
        .output_type("super::Text")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let texts = Service::builder()
        .name("Texts")
        .package("site")
        .method(echo)
        .build();
    Builder::new().build_transport(false).compile(&[texts]);
}

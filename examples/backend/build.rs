//! Makes the code of the gRPC service of `src/bin/grpc.rs`, and what reflection tells of it, from `proto/numbers.proto`. protox stands
//! for protoc, so that nothing has to be installed.

use prost::Message;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let described = protox::compile(["numbers.proto"], ["proto"])?;
    let told = PathBuf::from(std::env::var("OUT_DIR")?).join("numbers.bin");
    std::fs::write(told, described.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds(described)?;
    Ok(())
}

//! TCP echo on every core. `cargo run --example echo`, then `nc 127.0.0.1 7000`.

use ringmill::{Echo, Engine};

fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7000".to_owned());
    let engine = Engine::builder().listen(address, |_worker| Echo::default()).start()?;
    println!("echo on {} with {} ({})", engine.addresses()[0], engine.driver(), engine.driver_reason());
    engine.join()
}

//! UDP echo on every core, for loopback and test networks (`UdpEcho` says why). `cargo run --example udp_echo`, then
//! `nc -u 127.0.0.1 7001`.

use ringmill::{Engine, UdpEcho};

fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7001".to_owned());
    let engine = Engine::builder().datagrams(address, |_worker| UdpEcho::default()).start()?;
    println!("udp echo on {} with {}", engine.datagram_addresses()[0], engine.driver());
    engine.join()
}

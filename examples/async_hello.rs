//! Hello world that waits, on tokio. `cargo run --example async_hello`, then `curl -i http://127.0.0.1:8080/?ms=500`.

use ringmill::{Engine, TokioOptions, http};
use std::time::Duration;

fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let hello = async |request: http::OwnedRequest, reply: http::OwnedReply| {
        let ms = request.query_value("ms").and_then(|ms| ms.parse().ok()).unwrap_or(10);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        reply.text(format!("Hello after {ms} ms!\n"))
    };
    let builder = Engine::builder().tokio(TokioOptions::default());
    let engine = builder.listen(address, move |_worker| http::server_async(hello)).start()?;
    println!("http on {} with {}", engine.addresses()[0], engine.driver());
    engine.join()
}

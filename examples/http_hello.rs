//! Hello world over HTTP. `cargo run --example http_hello`, then `curl -i http://127.0.0.1:8080/Ada`.

use ringmill::{Engine, http};

fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let hello = |request: &http::Request<'_>, reply: &mut http::Reply<'_>| match request.path() {
        "/" => reply.text("Hello, World!\n"),
        path => reply.text(&format!("Hello, {}!\n", &path[1..])),
    };
    let engine = Engine::builder().listen(address, move |_worker| http::server(hello)).start()?;
    println!("http on {} with {}", engine.addresses()[0], engine.driver());
    engine.join()
}

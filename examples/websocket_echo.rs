//! WebSocket beside HTTP: what is sent to /ws comes back. Try `cargo run --example websocket_echo`, and in a browser's console on
//! <http://127.0.0.1:8080/>: `ws = new WebSocket("ws://127.0.0.1:8080/ws"); ws.onmessage = e => console.log(e.data)`.

use ringmill::Engine;
use ringmill::http::{self, Request};
use ringmill::websocket::{Accept, Handler, Message, Ws};

struct Echo;

impl Handler for Echo {
    type State = u64;

    fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<u64> {
        Some(0)
    }

    fn message(&mut self, count: &mut u64, message: Message<'_>, ws: &mut Ws<'_>) {
        *count += 1;
        match message {
            Message::Text("count") => ws.send(&count.to_string()),
            Message::Text("bye") => ws.close(1000, "as you say"),
            message => ws.send(message),
        }
    }
}

fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let hello = |_: &Request<'_>, reply: &mut http::Reply<'_>| reply.text("the echo is at /ws\n");
    let engine = Engine::builder()
        .listen(address, move |_worker| http::server(hello).websocket("/ws", Echo))
        .start()?;
    println!("websocket on {} with {}", engine.addresses()[0], engine.driver());
    engine.join()
}

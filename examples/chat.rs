//! A chat: what anybody sends to /ws?name=NAME reaches all, on every worker. Pages get it as server-sent events from /events as well. Try
//! `cargo run --example chat`, and in two browser consoles on <http://127.0.0.1:8080/>:
//! `ws = new WebSocket("ws://127.0.0.1:8080/ws?name=me"); ws.onmessage = e => console.log(e.data)`, then `ws.send("hello")`.

use ringmill::http::{self, Reply, Request};
use ringmill::topic::{Hub, Topics};
use ringmill::websocket::{Accept, Closed, Endpoint, Handler, Message, Ws};

struct Chat(Hub);

impl Handler for Chat {
    type State = String;

    fn accept(&mut self, request: &Request<'_>, _: &mut Accept<'_>) -> Option<String> {
        Some(request.query_value("name")?.to_owned())
    }

    fn open(&mut self, name: &mut String, ws: &mut Ws<'_>) {
        ws.subscribe("room");
        ws.publish("room", &format!("{name} joined"));
    }

    fn message(&mut self, name: &mut String, message: Message<'_>, ws: &mut Ws<'_>) {
        ws.publish("room", &format!("{name}: {}", String::from_utf8_lossy(message.as_bytes())));
    }

    fn closed(&mut self, name: String, _: Closed<'_>) {
        self.0.publish("room", format!("{name} left"));
    }
}

fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let topics = Topics::default();
    let engine = ringmill::Engine::builder()
        .outbound(topics.service())
        .listen(address, move |worker| {
            let hub = topics.hub(worker);
            let chat = Endpoint::new(Chat(hub.clone())).with_topics(&hub);
            let routes = move |request: &Request<'_>, reply: &mut Reply<'_>| match request.path() {
                "/events" => reply.events(request, &hub, "room", Default::default()),
                _ => reply.text("the chat is at /ws?name=NAME\n"),
            };
            http::server(routes).websocket("/ws", chat)
        })
        .start()?;
    println!("chat on {} with {}", engine.addresses()[0], engine.driver());
    engine.join()
}

#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/graphql.rs"]
mod program;

use super::{client, on_each_server};
use futures_util::{SinkExt, StreamExt};
use program::app;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};

async fn ask(address: SocketAddr, query: &str, variables: Value) -> Value {
    let request = client().build().unwrap().post(format!("http://{address}/graphql"));
    let reply = request.json(&json!({"query": query, "variables": variables})).send().await.unwrap();
    reply.json().await.unwrap()
}

async fn add(address: SocketAddr, title: &str) -> Value {
    let query = "mutation($title: String!) { addBook(title: $title, author: \"Ann\") { title author } }";
    ask(address, query, json!({"title": title})).await
}

#[test]
fn queries_see_what_mutations_made() {
    on_each_server(app, async |address| {
        let added = add(address, "One \"quoted\"").await;
        assert_eq!(added, json!({"data": {"addBook": {"title": "One \"quoted\"", "author": "Ann"}}}));
        let books = ask(address, "{ books { title } }", json!({})).await;
        assert_eq!(books, json!({"data": {"books": [{"title": "One \"quoted\""}]}}));
        let none = ask(address, "{ books(author: \"Bob\") { title } }", json!({})).await;
        assert_eq!(none, json!({"data": {"books": []}}));
        for (wrong, said) in [("{ books { price } }", "price"), ("{ books {", "expected")] {
            let reply = ask(address, wrong, json!({})).await;
            assert!(reply["errors"][0]["message"].as_str().unwrap().contains(said), "{reply}");
        }
        let many: Vec<String> = (0..60).map(|n| format!("b{n}: books {{ title }}")).collect();
        let reply = ask(address, &format!("{{ {} }}", many.join(" ")), json!({})).await;
        assert_eq!(reply["errors"][0]["message"], "Query is too complex.");
    });
}

#[test]
fn subscribers_hear_of_each_book() {
    on_each_server(app, async |address| {
        let url = format!("ws://{address}/graphql/ws").parse().unwrap();
        let request = ClientRequestBuilder::new(url).with_sub_protocol("graphql-transport-ws");
        let (mut socket, reply) = connect_async(request).await.unwrap();
        assert_eq!(reply.headers()["sec-websocket-protocol"], "graphql-transport-ws");
        let text = |message: Message| -> Value { serde_json::from_str(message.to_text().unwrap()).unwrap() };
        socket.send(Message::text(json!({"type": "connection_init"}).to_string())).await.unwrap();
        assert_eq!(text(socket.next().await.unwrap().unwrap())["type"], "connection_ack");
        let query = json!({"query": "subscription { bookAdded { title } }"});
        let subscribe = json!({"id": "1", "type": "subscribe", "payload": query});
        socket.send(Message::text(subscribe.to_string())).await.unwrap();
        // When it has subscribed it does not say.
        let mut first = None;
        for _ in 0..100 {
            add(address, "before").await;
            let heard = tokio::time::timeout(Duration::from_millis(100), socket.next()).await;
            first = heard.ok().map(|message| text(message.unwrap().unwrap()));
            if first.is_some() {
                break;
            }
        }
        let next = |title: &str| {
            let payload = json!({"data": {"bookAdded": {"title": title}}});
            json!({"id": "1", "type": "next", "payload": payload})
        };
        assert_eq!(first, Some(next("before")));
        for n in 0..20 {
            add(address, &n.to_string()).await;
            let mut heard = text(socket.next().await.unwrap().unwrap());
            while heard == next("before") {
                heard = text(socket.next().await.unwrap().unwrap());
            }
            assert_eq!(heard, next(&n.to_string()));
        }
        socket.send(Message::text(json!({"id": "1", "type": "complete"}).to_string())).await.unwrap();
        socket.send(Message::text(json!({"type": "ping"}).to_string())).await.unwrap();
        let mut last = text(socket.next().await.unwrap().unwrap());
        if last["type"] == "complete" {
            last = text(socket.next().await.unwrap().unwrap());
        }
        assert_eq!(last["type"], "pong");
        socket.close(None).await.unwrap();
    });
}

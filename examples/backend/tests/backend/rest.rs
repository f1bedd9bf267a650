#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/rest.rs"]
mod program;

use super::{client, on_each_server, text};
use program::{Order, Orders, app};
use prost::Message;
use reqwest::StatusCode;

fn order(count: u32) -> Order {
    Order { item: "a <nut> & a \"bolt\"".to_owned(), count }
}

fn written(media: &str, order: &Order) -> Vec<u8> {
    match media {
        "application/json" => serde_json::to_vec(order).unwrap(),
        "application/xml" => quick_xml::se::to_string_with_root("order", order).unwrap().into_bytes(),
        _ => order.encode_to_vec(),
    }
}

const MEDIA: [&str; 3] = ["application/json", "application/xml", "application/protobuf"];

#[test]
fn each_format_comes_in_and_goes_out_as_any() {
    on_each_server(app, async |address| {
        let client = client().build().unwrap();
        for (sent, count) in MEDIA.into_iter().zip(1..) {
            for accepted in MEDIA {
                let request = client.post(format!("http://{address}/orders")).header("content-type", sent);
                let request = request.header("accept", accepted).body(written(sent, &order(count)));
                let reply = request.send().await.unwrap();
                assert_eq!(reply.status(), StatusCode::CREATED, "{sent} {accepted}");
                let url = format!("http://{address}{}", text(&reply, "location"));
                assert_eq!(reply.bytes().await.unwrap(), written(accepted, &order(count)));
                let reply = client.get(url).header("accept", accepted).send().await.unwrap();
                assert_eq!(text(&reply, "content-type"), accepted);
                assert_eq!(reply.bytes().await.unwrap(), written(accepted, &order(count)));
            }
        }
        let list = client.get(format!("http://{address}/orders")).header("accept", "application/protobuf");
        let list = Orders::decode(list.send().await.unwrap().bytes().await.unwrap()).unwrap();
        let counts: Vec<u32> = list.orders.iter().map(|order| order.count).collect();
        assert_eq!(counts, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
        let list = client.get(format!("http://{address}/orders")).header("accept", "application/xml");
        let list = list.send().await.unwrap().text().await.unwrap();
        assert!(list.starts_with("<orders><order><item>a &lt;nut&gt; &amp; a"), "{list}");
        assert_eq!(quick_xml::de::from_str::<Orders>(&list).unwrap().orders.len(), 9);
    });
}

#[test]
fn orders_change_and_go() {
    on_each_server(app, async |address| {
        let client = client().build().unwrap();
        let reply = client.post(format!("http://{address}/orders")).json(&order(1)).send().await.unwrap();
        let url = format!("http://{address}{}", text(&reply, "location"));
        let changed = client.put(&url).json(&order(7)).send().await.unwrap();
        assert_eq!(changed.status(), StatusCode::NO_CONTENT);
        assert_eq!(client.get(&url).send().await.unwrap().json::<Order>().await.unwrap(), order(7));
        assert_eq!(client.delete(&url).send().await.unwrap().status(), StatusCode::NO_CONTENT);
        assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::NOT_FOUND);
        assert_eq!(client.delete(&url).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    });
}

#[test]
fn the_best_that_a_client_accepts_is_sent() {
    on_each_server(app, async |address| {
        let client = client().build().unwrap();
        for (accept, expected) in [
            ("*/*", "application/json"),
            ("application/*;q=0.1, application/xml", "application/xml"),
            ("application/xml;q=0.5, application/protobuf;q=0.6, text/html", "application/protobuf"),
            ("application/json;q=0, application/xml", "application/xml"),
            ("text/html", ""),
            ("image/png, text/*", ""),
        ] {
            let reply =
                client.get(format!("http://{address}/orders")).header("accept", accept).send().await.unwrap();
            let status = if expected.is_empty() { StatusCode::NOT_ACCEPTABLE } else { StatusCode::OK };
            assert_eq!((reply.status(), text(&reply, "content-type")), (status, expected), "{accept}");
        }
    });
}

#[test]
fn what_is_not_understood_changes_nothing() {
    on_each_server(app, async |address| {
        let (client, url) = (client().build().unwrap(), format!("http://{address}/orders"));
        for (media, accept, body, expected) in [
            ("text/plain", "*/*", "x", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            ("", "*/*", "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            ("application/json", "*/*", "{\"item\":1}", StatusCode::BAD_REQUEST),
            ("application/xml", "*/*", "<order><item>", StatusCode::BAD_REQUEST),
            ("application/protobuf", "*/*", "\u{f}\u{f}", StatusCode::BAD_REQUEST),
            ("application/json", "text/html", "{\"item\":\"x\",\"count\":1}", StatusCode::NOT_ACCEPTABLE),
        ] {
            let mut request = client.post(&url).header("accept", accept).body(body);
            if !media.is_empty() {
                request = request.header("content-type", media);
            }
            assert_eq!(request.send().await.unwrap().status(), expected, "{media} {body}");
        }
        assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "{\"order\":[]}");
    });
}

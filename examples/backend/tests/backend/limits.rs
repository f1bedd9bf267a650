#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/limits.rs"]
mod program;

use super::{client, on_each_server, text};
use program::app;
use reqwest::StatusCode;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::time::Duration;

#[test]
fn each_address_has_its_own() {
    on_each_server(
        || app().0,
        async |address| {
            let url = format!("http://{address}/open");
            for host in [1, 2] {
                let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
                // A connection each, so that both workers count.
                let client = client().local_address(from).pool_max_idle_per_host(0).build().unwrap();
                let mut refused = None;
                for n in 0..20 {
                    let reply = client.get(&url).send().await.unwrap();
                    assert_eq!(text(&reply, "x-ratelimit-limit"), "5");
                    match reply.status() {
                        StatusCode::OK => {}
                        status => {
                            assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
                            refused = Some((n, text(&reply, "retry-after").to_owned()));
                            break;
                        }
                    }
                }
                let (allowed, retry) = refused.expect("20 at once are too many");
                assert!((5..20).contains(&allowed), "{allowed}");
                assert!(retry.parse::<u64>().unwrap() <= 1, "{retry}");
                tokio::time::sleep(Duration::from_millis(600)).await;
                assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);
            }
        },
    );
}

#[test]
fn each_key_has_its_own() {
    on_each_server(
        || app().0,
        async |address| {
            let client = client().build().unwrap();
            let ask = async |key: &str| {
                let request = client.get(format!("http://{address}/keyed")).header("x-api-key", key);
                request.send().await.unwrap().status().as_u16()
            };
            for key in ["key-of-ann", "key-of-bob"] {
                let statuses = [ask(key).await, ask(key).await, ask(key).await, ask(key).await];
                assert_eq!(statuses, [200, 200, 200, 429], "{key}");
            }
            for _ in 0..5 {
                assert_eq!(ask("key-of-nobody").await, 401);
            }
        },
    );
}

#[test]
fn quiet_addresses_are_forgotten() {
    let forget = Mutex::new(None);
    on_each_server(
        || {
            let (app, of_this) = app();
            *forget.lock().unwrap() = Some(of_this);
            app
        },
        async |address| {
            let forget = forget.lock().unwrap().take().unwrap();
            assert_eq!(forget(), 0);
            client().build().unwrap().get(format!("http://{address}/open")).send().await.unwrap();
            assert_eq!(forget(), 1);
            // Whoever has all of its requests back is like one who never came.
            for _ in 0..100 {
                if forget() == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("it is never forgotten");
        },
    );
}

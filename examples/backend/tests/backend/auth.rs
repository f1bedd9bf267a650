#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/auth.rs"]
mod program;

use super::{client, on_each_server_with, text};
use axum::extract::{Form, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_extra::extract::PrivateCookieJar;
use axum_extra::extract::cookie::{Cookie, Key};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use p256::pkcs8::EncodePrivateKey;
use program::{Role, Settings, User, app};
use reqwest::{Client, StatusCode};
use ringmill::{Config, DriverChoice, Pin, Running};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who makes tokens: its keys, and how often it was asked for them.
#[derive(Clone, Default)]
struct Issuer {
    keys: Arc<Mutex<Vec<Jwk>>>,
    asked: Arc<AtomicUsize>,
}

/// One of the issuer's keys, the same for the same number.
fn key(number: u8) -> EncodingKey {
    let key = p256::SecretKey::from_slice(&[number; 32]).unwrap();
    EncodingKey::from_ec_der(key.to_pkcs8_der().unwrap().as_bytes())
}

fn public(number: u8) -> Jwk {
    let mut jwk = Jwk::from_encoding_key(&key(number), Algorithm::ES256).unwrap();
    jwk.common.key_id = Some(number.to_string());
    jwk
}

impl Issuer {
    fn publish(&self, numbers: &[u8]) {
        *self.keys.lock().unwrap() = numbers.iter().map(|number| public(*number)).collect();
    }

    fn start(&self) -> (Running, String) {
        let app = Router::new()
            .route("/jwks.json", get(jwks))
            .route("/introspect", post(introspect))
            .with_state(self.clone());
        let config = Config::default().with_driver(DriverChoice::Poll).with_workers(1).with_pin(Pin::Off);
        let running = ringmill::serve("127.0.0.1:0", app).config(config).start().unwrap();
        let url = format!("http://{}", running.addresses()[0].ip().unwrap());
        (running, url)
    }
}

async fn jwks(State(issuer): State<Issuer>) -> Json<JwkSet> {
    issuer.asked.fetch_add(1, SeqCst);
    Json(JwkSet { keys: issuer.keys.lock().unwrap().clone() })
}

async fn introspect(headers: HeaderMap, Form(form): Form<HashMap<String, String>>) -> Json<Value> {
    // articles:secret
    assert_eq!(headers["authorization"], "Basic YXJ0aWNsZXM6c2VjcmV0");
    Json(match form["token"].as_str() {
        "opaque-editor" => json!({"active": true, "username": "eve", "scope": "openid editor"}),
        _ => json!({"active": false}),
    })
}

fn cookie_key() -> Key {
    Key::from(&[7; 64])
}

/// Two workers have a store of keys each, so requests that are to see one go over one connection.
fn on_an_app(test: impl AsyncFn(SocketAddr, &Issuer, &str)) {
    let issuer = Issuer::default();
    issuer.publish(&[1]);
    let (_running, url) = issuer.start();
    let user = User { name: "robot".to_owned(), roles: vec![Role::Reader] };
    let api_keys = vec![
        (Sha256::digest("other").into(), User { name: "other".to_owned(), roles: vec![] }),
        (Sha256::digest("key-1").into(), user),
    ];
    let settings = Settings { issuer: url.clone(), cookie_key: cookie_key(), api_keys };
    let serve = || {
        let settings = settings.clone();
        ringmill::serve_with("127.0.0.1:0", async move |_| app(settings.clone()))
    };
    on_each_server_with(
        serve,
        async || app(settings.clone()).unwrap(),
        async |address| test(address, &issuer, &url).await,
    );
}

fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

fn claims(issuer: &str) -> Value {
    json!({"sub": "ann", "roles": ["admin"], "iss": issuer, "aud": "articles", "exp": in_seconds(600)})
}

fn token(number: u8, claims: &Value) -> String {
    let header = Header { kid: Some(number.to_string()), ..Header::new(Algorithm::ES256) };
    encode(&header, claims, &key(number)).unwrap()
}

async fn status(client: &Client, address: SocketAddr, token: &str) -> StatusCode {
    client.get(format!("http://{address}/me")).bearer_auth(token).send().await.unwrap().status()
}

#[test]
fn tokens_are_checked_in_every_claim() {
    on_an_app(async |address, _, issuer| {
        let client = client().build().unwrap();
        let good = claims(issuer);
        assert_eq!(status(&client, address, &token(1, &good)).await, StatusCode::OK);
        for (claim, wrong) in [
            ("iss", json!("http://else")),
            ("aud", json!("else")),
            ("exp", json!(in_seconds(-3600))),
            ("exp", Value::Null),
            ("roles", json!(["king"])),
        ] {
            let mut claims = good.clone();
            claims[claim] = wrong.clone();
            let status = status(&client, address, &token(1, &claims)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{claim} {wrong}");
        }
        // Signed by another key under a known name; signed by nobody; signed with a public thing as the secret.
        let header = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::ES256) };
        let forged = encode(&header, &good, &key(2)).unwrap();
        let header = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::HS256) };
        let hmac = encode(&header, &good, &EncodingKey::from_secret(b"public")).unwrap();
        let right = token(1, &good);
        let cut = right.rsplit_once('.').unwrap().0;
        for token in [&forged, &hmac, &format!("{cut}."), "", "x.y.z"] {
            assert_eq!(status(&client, address, token).await, StatusCode::UNAUTHORIZED, "{token}");
        }
    });
}

#[test]
fn keys_rotate() {
    on_an_app(async |address, issuer, url| {
        issuer.publish(&[1]);
        // One connection is one worker.
        let client = client().pool_max_idle_per_host(1).build().unwrap();
        let of = |number| token(number, &claims(url));
        assert_eq!(status(&client, address, &of(1)).await, StatusCode::OK);
        let asked = issuer.asked.load(SeqCst);
        // Keys that nobody knows do not make it ask all the time.
        for _ in 0..20 {
            assert_eq!(status(&client, address, &of(3)).await, StatusCode::UNAUTHORIZED);
        }
        assert!(issuer.asked.load(SeqCst) - asked <= 10);
        issuer.publish(&[1, 2]);
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(status(&client, address, &of(2)).await, StatusCode::OK);
        assert_eq!(status(&client, address, &of(1)).await, StatusCode::OK);
        // The old one goes; the next unknown one makes the worker see it.
        issuer.publish(&[2, 3]);
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(status(&client, address, &of(3)).await, StatusCode::OK);
        assert_eq!(status(&client, address, &of(1)).await, StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn each_may_do_what_their_roles_say() {
    on_an_app(async |address, _, issuer| {
        let client = client().build().unwrap();
        let url = format!("http://{address}/articles/7");
        let admin = format!("Bearer {}", token(1, &claims(issuer)));
        for (field, value, allowed) in [
            ("x-api-key", "key-1", [200, 403, 403]),
            ("x-api-key", "other", [403, 403, 403]),
            ("x-api-key", "key-2", [401, 401, 401]),
            ("authorization", "Bearer opaque-editor", [200, 204, 403]),
            ("authorization", "Bearer opaque-withdrawn", [401, 401, 401]),
            ("authorization", &admin, [200, 204, 204]),
            ("authorization", "Basic YTpi", [401, 401, 401]),
        ] {
            let requests = [client.get(&url), client.put(&url), client.delete(&url)];
            for (request, expected) in requests.into_iter().zip(allowed) {
                let reply = request.header(field, value).send().await.unwrap();
                assert_eq!(reply.status(), expected, "{value}");
                assert_eq!(text(&reply, "www-authenticate"), if expected == 401 { "Bearer" } else { "" });
            }
        }
    });
}

#[test]
fn sessions_are_secret_and_end() {
    on_an_app(async |address, _, _| {
        let (url, session) = (format!("http://{address}/me"), format!("http://{address}/session"));
        let client = client().cookie_store(true).build().unwrap();
        assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        assert_eq!(client.post(&session).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        let reply = client.post(&session).header("x-api-key", "key-1").send().await.unwrap();
        let cookie = text(&reply, "set-cookie").to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains("robot"), "{cookie}");
        let me: User = client.get(&url).send().await.unwrap().json().await.unwrap();
        assert_eq!(me.name, "robot");
        // Changed by its holder.
        let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
        let changed = format!("{name}={}{}", if value.starts_with('A') { 'B' } else { 'A' }, &value[1..]);
        let other = super::client().build().unwrap();
        for (cookie, expected) in [(format!("{name}={value}"), 200), (changed, 401)] {
            assert_eq!(other.get(&url).header("cookie", cookie).send().await.unwrap().status(), expected);
        }
        assert_eq!(client.delete(&session).send().await.unwrap().status(), StatusCode::OK);
        assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn sessions_end_even_if_their_cookie_is_kept() {
    on_an_app(async |address, _, _| {
        let client = client().build().unwrap();
        for (seconds, expected) in [(60, 200), (-1, 401)] {
            let session = json!({"user": {"name": "robot", "roles": []}, "until": in_seconds(seconds)});
            let cookie = Cookie::new("session", session.to_string());
            let reply = PrivateCookieJar::new(cookie_key()).add(cookie).into_response();
            let request = client.get(format!("http://{address}/me"));
            let request = request.header("cookie", &reply.headers()["set-cookie"]);
            assert_eq!(request.send().await.unwrap().status(), expected, "{seconds}");
        }
    });
}

#[test]
fn signed_cookies_are_read_and_not_changed() {
    on_an_app(async |address, _, _| {
        let client = client().build().unwrap();
        let reply = client.put(format!("http://{address}/language/de")).send().await.unwrap();
        let cookie = text(&reply, "set-cookie").split(';').next().unwrap().to_owned();
        assert!(cookie.ends_with("de"), "{cookie}");
        let changed = format!("{}fr", cookie.strip_suffix("de").unwrap());
        for (cookie, expected) in [(cookie, "de"), (changed, "en"), ("language=fr".to_owned(), "en")] {
            let request = client.get(format!("http://{address}/language")).header("cookie", cookie);
            assert_eq!(request.send().await.unwrap().text().await.unwrap(), expected);
        }
    });
}

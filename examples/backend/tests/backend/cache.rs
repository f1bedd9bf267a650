#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/cache.rs"]
mod program;

use super::{client, on_each_server_with, text};
use program::app;
use reqwest::StatusCode;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A Redis of the test's own, which keeps nothing. Killed when dropped.
pub struct Redis {
    port: u16,
    server: Child,
}

impl Redis {
    pub fn start() -> Redis {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Redis { port, server: run(port) }
    }

    /// One of its databases.
    pub fn url(&self, database: usize) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    fn stop(&mut self) {
        self.server.kill().expect("it has not ended by itself");
        self.server.wait().expect("it ends");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Both fail where it was stopped.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn run(port: u16) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
    let server =
        command.stdout(Stdio::null()).spawn().expect("redis-server is installed (Debian: redis-server)");
    let (began, address) = (Instant::now(), SocketAddr::from(([127, 0, 0, 1], port)));
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    server
}

/// Each server has a database of its own.
fn on_an_app(redis: &Redis, test: impl AsyncFn(SocketAddr)) {
    let databases = AtomicUsize::new(0);
    let url = || redis.url(databases.fetch_add(1, SeqCst));
    let serve = || {
        let url = url();
        ringmill::serve_with("127.0.0.1:0", async move |_| app(&url).await)
    };
    on_each_server_with(serve, async || app(&url()).await.unwrap(), test);
}

#[test]
fn what_was_computed_is_kept_for_all_workers() {
    on_an_app(&Redis::start(), async |address| {
        for (number, square) in [(12, "144"), (u32::MAX, "18446744065119617025")] {
            let mut told = Vec::new();
            for _ in 0..10 {
                // A connection each, spread over the workers.
                let client = client().build().unwrap();
                let reply = client.get(format!("http://{address}/square/{number}")).send().await.unwrap();
                told.push(text(&reply, "x-cache").to_owned());
                assert_eq!(reply.text().await.unwrap(), square);
            }
            assert_eq!(told[0], "miss");
            assert!(told[1..].iter().all(|told| told == "hit"), "{told:?}");
        }
    });
}

#[test]
fn sessions_are_known_to_all_workers_and_end() {
    on_an_app(&Redis::start(), async |address| {
        let url = format!("http://{address}/session");
        // A connection for each request, spread over the workers.
        let client = || client().pool_max_idle_per_host(0);
        let (ann, nobody) = (client().cookie_store(true).build().unwrap(), client().build().unwrap());
        assert_eq!(ann.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        let reply = ann.post(format!("{url}/ann")).send().await.unwrap();
        assert_eq!(reply.status(), StatusCode::NO_CONTENT);
        let cookie = text(&reply, "set-cookie").to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains("ann"), "{cookie}");
        for visit in 1..=10 {
            let told = ann.get(&url).send().await.unwrap().text().await.unwrap();
            assert_eq!(told, format!("ann {visit}"));
        }
        let cookie = cookie.split(';').next().unwrap();
        let ask = async |cookie: &str| nobody.get(&url).header("cookie", cookie).send().await.unwrap();
        assert_eq!(ask(cookie).await.text().await.unwrap(), "ann 11");
        assert_eq!(ask("id=AAAAAAAAAAAAAAAAAAAAAA").await.status(), StatusCode::UNAUTHORIZED);
        // A new name at each login: the old one is nobody's.
        ann.post(format!("{url}/ann")).send().await.unwrap();
        assert_eq!(ask(cookie).await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(ann.get(&url).send().await.unwrap().text().await.unwrap(), "ann 12");
        assert_eq!(ann.delete(&url).send().await.unwrap().status(), StatusCode::NO_CONTENT);
        assert_eq!(ann.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn redis_may_go_and_come_back() {
    let redis = std::sync::Mutex::new(Redis::start());
    let url = redis.lock().unwrap().url(0);
    let serve = || {
        let url = url.clone();
        ringmill::serve_with("127.0.0.1:0", async move |_| app(&url).await)
    };
    on_each_server_with(
        serve,
        async || app(&url).await.unwrap(),
        async |address| {
            let client = client().build().unwrap();
            let status = async |path: &str| {
                client.get(format!("http://{address}{path}")).send().await.unwrap().status()
            };
            let becomes = async |path: &str, expected: StatusCode| {
                let began = Instant::now();
                loop {
                    let seen = status(path).await;
                    if seen == expected {
                        return;
                    }
                    assert!(began.elapsed() < Duration::from_secs(10), "{path}: {seen}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            assert_eq!(status("/square/2").await, StatusCode::OK);
            redis.lock().unwrap().stop();
            becomes("/square/2", StatusCode::SERVICE_UNAVAILABLE).await;
            {
                let redis = &mut *redis.lock().unwrap();
                redis.server = run(redis.port);
            }
            becomes("/square/2", StatusCode::OK).await;
        },
    );
}

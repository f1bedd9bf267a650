//! Handlers that wait, over sockets, on both drivers: woken by other threads, and dropped when their clients leave.

mod common;

use common::http::{get, ok, undated};
use common::*;
use ringmill::http::{self, OwnedReply, OwnedRequest, Server, WhenGone};
use ringmill::{DriverChoice, Running};
use std::cell::Cell;
use std::future::poll_fn;
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

/// What another thread computes for a handler.
#[derive(Default)]
struct Answer {
    value: Option<u64>,
    waker: Option<Waker>,
}

/// Has `number` doubled by a thread.
async fn double(number: u64, thread: &Sender<(u64, Arc<Mutex<Answer>>)>) -> u64 {
    let answer = Arc::new(Mutex::new(Answer::default()));
    thread.send((number, answer.clone())).expect("the thread is there");
    poll_fn(move |context| {
        let answer = &mut *answer.lock().unwrap();
        answer.waker = Some(context.waker().clone());
        answer.value.take().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// A thread that doubles what it is sent, at once.
fn doubling() -> Sender<(u64, Arc<Mutex<Answer>>)> {
    let (sender, receiver) = channel::<(u64, Arc<Mutex<Answer>>)>();
    std::thread::spawn(move || {
        for (number, answer) in receiver {
            let mut answer = answer.lock().unwrap();
            answer.value = Some(2 * number);
            if let Some(waker) = answer.waker.take() {
                waker.wake();
            }
        }
    });
    sender
}

fn doubler(driver: DriverChoice, workers: usize) -> Running {
    let thread = doubling();
    start(config(driver).with_workers(workers), move |_| {
        let thread = thread.clone();
        http::server_async(async move |request: OwnedRequest, reply: OwnedReply| {
            let number = request.path()[1..].parse().unwrap_or(0);
            reply.text(double(number, &thread).await.to_string())
        })
    })
}

#[test]
fn a_thousand_wakes_from_another_thread_are_a_thousand_answers() {
    on_both_drivers(|driver| {
        let running = doubler(driver, 1);
        let mut client = connect(&running);
        for number in 0..1000 {
            client.send(get(&format!("/{number}")));
            assert_eq!(common::http::receive(&mut client).text(), (2 * number).to_string());
        }
    });
}

#[test]
fn wakes_on_many_connections_and_workers_are_not_mixed_up() {
    on_both_drivers(|driver| {
        let running = doubler(driver, 2);
        let clients: Vec<_> = (0..8)
            .map(|n| {
                let mut client = connect(&running);
                std::thread::spawn(move || {
                    for round in 0..100 {
                        // Three at once: they are answered in order.
                        let numbers = [0, 1, 2].map(|at| n * 1_000_000 + round * 10 + at);
                        client.send(numbers.map(|number| get(&format!("/{number}"))).concat());
                        for number in numbers {
                            assert_eq!(common::http::receive(&mut client).text(), (2 * number).to_string());
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}

#[test]
fn a_handler_that_wakes_itself_starves_nobody() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| {
            let is_over = Cell::new(false);
            http::server_async(async move |request: OwnedRequest, reply: OwnedReply| {
                if request.path() == "/stop" {
                    is_over.set(true);
                }
                let mut polls = 0u64;
                while !is_over.get() {
                    let mut has_yielded = false;
                    poll_fn(|context| {
                        if std::mem::replace(&mut has_yielded, true) {
                            return Poll::Ready(());
                        }
                        context.waker().wake_by_ref();
                        Poll::Pending
                    })
                    .await;
                    polls += 1;
                }
                reply.text(if polls > 0 { "spun" } else { "stopped" })
            })
        });
        let (mut spins, mut stops) = (connect(&running), connect(&running));
        spins.send(get("/"));
        eventually(1, || running.stats().total().requests);
        stops.send(get("/stop"));
        assert_eq!(common::http::receive(&mut stops).text(), "stopped");
        assert_eq!(common::http::receive(&mut spins).text(), "spun");
    });
}

/// Says that it is dropped.
struct Guard(Sender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody listens any more where a test has failed.
        let _ = self.0.send(());
    }
}

/// Handlers that never end, and say when they begin and when they are dropped.
fn endless(driver: DriverChoice, when_gone: WhenGone) -> (Running, Receiver<()>, Receiver<()>) {
    let ((began, begun), (dropped, drops)) = (channel(), channel());
    let running = start(config(driver), move |_| -> Server<http::Async> {
        let (began, dropped) = (began.clone(), dropped.clone());
        let handler = async move |request: OwnedRequest, reply: OwnedReply| {
            let _guard = Guard(dropped.clone());
            began.send(()).unwrap();
            request.peer().gone().await;
            std::future::pending::<()>().await;
            reply
        };
        http::server_async(handler).when_gone(when_gone)
    });
    (running, begun, drops)
}

#[test]
fn a_handler_is_dropped_at_once_when_its_client_leaves() {
    on_both_drivers(|driver| {
        let (running, begun, drops) = endless(driver, WhenGone::Drop);
        for is_reset in [false, true] {
            let mut client = connect(&running);
            // A second request is behind it.
            client.send(get("/") + &get("/"));
            begun.recv_timeout(PATIENCE).expect("the handler begins");
            assert!(drops.try_recv().is_err(), "it waits");
            let left = std::time::Instant::now();
            if is_reset {
                reset(client);
            } else {
                client.shutdown(Shutdown::Write).unwrap();
                client.expect_eof();
            }
            drops.recv_timeout(PATIENCE).expect("it is dropped");
            assert!(left.elapsed().as_secs() < 2, "after {:?}, reset: {is_reset}", left.elapsed());
        }
        eventually(0, || running.stats().total().connections);
        assert_eq!(running.stats().total().receives_cancelled, 0);
    });
}

#[test]
fn a_client_that_only_ends_its_side_is_answered_where_that_is_wanted() {
    on_both_drivers(|driver| {
        let thread = doubling();
        let running = start(config(driver), move |_| {
            let thread = thread.clone();
            let handler = async move |request: OwnedRequest, reply: OwnedReply| {
                // What is certain to be told before it is answered.
                request.peer().gone().await;
                reply.text(format!("{} {}", double(21, &thread).await, request.peer().is_gone()))
            };
            http::server_async(handler).when_gone(WhenGone::HalfClose)
        });
        let mut client = connect(&running);
        client.send(get("/") + &get("/"));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(undated(&client.rest()), ok("42 true") + &ok("42 true"));
    });
}

#[test]
fn a_stop_drops_what_waits() {
    on_both_drivers(|driver| {
        let (running, begun, drops) = endless(driver, WhenGone::RunOn);
        let mut client = connect(&running);
        client.send(get("/"));
        begun.recv_timeout(PATIENCE).expect("the handler begins");
        running.handle().stop();
        drops.recv_timeout(PATIENCE).expect("it is dropped");
        running.join().unwrap();
        client.expect_reset();
    });
}

/// The same over TLS, where the layer below forwards what happens.
#[cfg(feature = "tls")]
mod tls {
    use super::*;
    use ringmill::{Engine, Tls, TlsConfig, TlsStore};
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    use std::net::TcpStream;

    type Stream = StreamOwned<ClientConnection, TcpStream>;

    /// A certificate for `localhost` in files, and a client that trusts it.
    fn trust() -> (Directory, TlsConfig, Arc<ClientConfig>) {
        let folder = Directory::new();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.file(name));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let client = builder.with_root_certificates(roots).with_no_client_auth();
        (folder, TlsConfig::from_files(cert, key), Arc::new(client))
    }

    fn secure(running: &Running, client: &Arc<ClientConfig>) -> Stream {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream =
            StreamOwned::new(ClientConnection::new(client.clone(), name).unwrap(), connect(running));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).expect("a handshake");
        }
        stream
    }

    #[test]
    fn wakes_and_ends_pass_through() {
        on_both_drivers(|driver| {
            let (_folder, config, client) = trust();
            let store = TlsStore::new(config).expect("a sound configuration");
            let (thread, (began, begun), (dropped, drops)) = (doubling(), channel(), channel());
            let factory = move |_: &_| {
                let (thread, began, dropped) = (thread.clone(), began.clone(), dropped.clone());
                let handler = async move |request: OwnedRequest, reply: OwnedReply| {
                    let Ok(number) = request.path()[1..].parse() else {
                        let _guard = Guard(dropped.clone());
                        began.send(()).unwrap();
                        std::future::pending::<()>().await;
                        return reply;
                    };
                    reply.text(double(number, &thread).await.to_string())
                };
                Tls::new(http::server_async(handler), store.clone())
            };
            let running = Engine::builder().config(common::config(driver)).listen("127.0.0.1:0", factory);
            let running = running.start().expect("the engine starts");
            let mut stream = secure(&running, &client);
            for number in 0..200 {
                stream.send(get(&format!("/{number}")) + &get("/1"));
                for expected in [2 * number, 2] {
                    assert_eq!(common::http::receive(&mut stream).text(), expected.to_string());
                }
            }
            for is_reset in [false, true] {
                let mut stream = secure(&running, &client);
                stream.send(get("/wait"));
                begun.recv_timeout(PATIENCE).expect("the handler begins");
                assert!(drops.try_recv().is_err(), "it waits");
                if is_reset {
                    reset(stream.sock)
                } else {
                    drop(stream.sock)
                }
                drops.recv_timeout(PATIENCE).expect("it is dropped");
            }
        });
    }
}

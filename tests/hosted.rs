//! Workers that tokio hosts, on both drivers: timers, sockets, tasks and blocking threads in handlers, and the traps of each.

mod common;

use common::http::{get, receive};
use common::*;
use ringmill::http::{self, OwnedReply, OwnedRequest};
use ringmill::{
    Builder, ConnId, Dialer, DriverChoice, Echo, Engine, Error, Io, ListenOptions, Next, Pin, Protocol,
    Running, Step, Tick, TokioOptions, UdpEcho, Waker,
};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// No round trip takes longer.
const LONG: Duration = Duration::from_secs(1);

fn builder(driver: DriverChoice) -> Builder {
    Engine::builder().config(config(driver)).tokio(TokioOptions::default())
}

/// A hosted server with an async handler.
fn serve<F>(driver: DriverChoice, handler: F) -> Running
where
    F: AsyncFn(OwnedRequest, OwnedReply) -> OwnedReply + Clone + Send + Sync + 'static,
{
    let running = builder(driver).listen("127.0.0.1:0", move |_| http::server_async(handler.clone()));
    running.start().expect("the engine starts")
}

#[track_caller]
fn ask(client: &mut TcpStream, target: &str) -> String {
    client.send(get(target));
    receive(client).text().to_owned()
}

/// Trap: a ring that polls an event counter cannot tell of it by another one, after the first time for ever.
#[test]
fn a_thousand_blocking_tasks_come_back_at_once() {
    on_both_drivers(|driver| {
        let running = serve(driver, async |request, reply| {
            let number: u64 = request.path()[1..].parse().unwrap();
            reply.text(tokio::task::spawn_blocking(move || 2 * number).await.unwrap().to_string())
        });
        let mut client = connect(&running);
        for number in 0..1000 {
            let asked = Instant::now();
            assert_eq!(ask(&mut client, &format!("/{number}")), (2 * number).to_string());
            assert!(asked.elapsed() < LONG, "request {number} took {:?}", asked.elapsed());
        }
    });
}

/// Trap: tokio's budget, of which all connections of a worker would have one share.
#[test]
fn a_handler_may_find_more_ready_than_a_task_of_tokio() {
    on_both_drivers(|driver| {
        let running = serve(driver, async |_, reply| {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            (0..2000).for_each(|n| sender.send(n).unwrap());
            let mut polls = 0;
            let mut receive = std::pin::pin!(async {
                let mut sum = 0;
                for _ in 0..2000 {
                    sum += receiver.recv().await.unwrap();
                }
                sum
            });
            let sum: u64 = std::future::poll_fn(|context| {
                polls += 1;
                receive.as_mut().poll(context)
            })
            .await;
            reply.text(format!("{sum} in {polls}"))
        });
        assert_eq!(ask(&mut connect(&running), "/"), "1999000 in 1");
    });
}

#[test]
fn sleeps_end_when_they_should_and_side_by_side() {
    on_both_drivers(|driver| {
        let running = serve(driver, async |request, reply| {
            let ms = request.path()[1..].parse().unwrap();
            tokio::time::sleep(Duration::from_millis(ms)).await;
            reply.text("slept")
        });
        let began = Instant::now();
        let mut clients: Vec<_> = (0..50).map(|_| connect(&running)).collect();
        for client in &mut clients {
            client.send(get("/200"));
        }
        for client in &mut clients {
            assert_eq!(receive(client).text(), "slept");
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(200), "too soon: {took:?}");
        assert!(took < Duration::from_secs(5), "one after the other: {took:?}");
        // The engine's own deadlines go on beside them.
        assert_eq!(running.stats().total().timeouts, 0);
    });
}

#[test]
fn deadlines_of_the_engine_end_an_idle_wait() {
    on_both_drivers(|driver| {
        let running = builder(driver)
            .listen("127.0.0.1:0", |_| Echo::default().with_idle_timeout(Duration::from_millis(150)))
            .start()
            .unwrap();
        let mut client = connect(&running);
        let began = Instant::now();
        client.ask("hello", "hello");
        client.expect_eof();
        assert!(began.elapsed() >= Duration::from_millis(150));
    });
}

#[test]
fn local_tasks_run_on_the_workers_thread() {
    on_both_drivers(|driver| {
        let running = serve(driver, async |_, reply| {
            let worker = std::thread::current().id();
            // Rc: it could not be sent anywhere.
            let count = Rc::new(Cell::new(0));
            let tasks: Vec<_> = (0..10)
                .map(|n| {
                    let count = count.clone();
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(Duration::from_millis(n)).await;
                        assert_eq!(std::thread::current().id(), worker);
                        count.set(count.get() + n);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            reply.text(count.get().to_string())
        });
        assert_eq!(ask(&mut connect(&running), "/"), "45");
    });
}

/// A poll makes a few turns, and then it is the others' turn.
#[test]
fn a_handler_that_wakes_itself_starves_nobody() {
    on_both_drivers(|driver| {
        let running = serve(driver, async |_, reply| {
            let is_over = Rc::new(Cell::new(false));
            let (ending, began) = (is_over.clone(), Instant::now());
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                ending.set(true);
            });
            while !is_over.get() && began.elapsed() < PATIENCE {
                let mut has_yielded = false;
                std::future::poll_fn(|context| {
                    if std::mem::replace(&mut has_yielded, true) {
                        return std::task::Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
                .await;
            }
            reply.text(is_over.get().to_string())
        });
        assert_eq!(ask(&mut connect(&running), "/"), "true");
    });
}

/// A server on a thread of its own that greets and sends back what it hears.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                stream.write_all(b"hi ").unwrap();
                let mut buffer = [0; 100];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..bytes]).unwrap();
                }
            });
        }
    });
    address
}

#[test]
fn sockets_of_tokio_work_in_handlers() {
    on_both_drivers(|driver| {
        let address = upstream();
        let running = serve(driver, async move |request, reply| {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut heard = vec![0; 3 + request.path().len()];
            stream.read_exact(&mut heard[..3]).await.unwrap();
            stream.write_all(request.path().as_bytes()).await.unwrap();
            stream.read_exact(&mut heard[3..]).await.unwrap();
            reply.text(heard)
        });
        let clients: Vec<_> = (0..5)
            .map(|n| {
                let mut client = connect(&running);
                std::thread::spawn(move || {
                    for round in 0..20 {
                        assert_eq!(ask(&mut client, &format!("/{n}/{round}")), format!("hi /{n}/{round}"));
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}

#[test]
fn requests_that_never_wait_pass_as_on_a_worker_of_its_own() {
    on_both_drivers(|driver| {
        let running = serve(driver, async |request, reply| reply.text(request.path().to_owned()));
        let clients: Vec<_> = (0..8)
            .map(|n| {
                let mut client = connect(&running);
                std::thread::spawn(move || {
                    for round in 0..100 {
                        let targets: Vec<String> = (0..16).map(|at| format!("/{n}/{round}/{at}")).collect();
                        client.send(targets.iter().map(|target| get(target)).collect::<String>());
                        for target in targets {
                            assert_eq!(receive(&mut client).text(), target);
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        // More than fits any buffer, both ways.
        let running = builder(driver).listen("127.0.0.1:0", |_| Echo::default()).start().unwrap();
        let mut client = connect(&running);
        let mut writer = client.try_clone().unwrap();
        let writing = std::thread::spawn(move || writer.send(pattern(0, 20_000_000)));
        expect_pattern(&mut client, 20_000_000, 100_000);
        writing.join().unwrap();
    });
}

#[test]
fn an_idle_server_that_is_hosted_uses_no_cpu() {
    on_both_drivers(|driver| {
        let running = serve(driver, async |_, reply| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            reply.text("here")
        });
        let mut clients: Vec<_> = (0..200).map(|_| connect(&running)).collect();
        for client in &mut clients {
            assert_eq!(ask(client, "/"), "here");
        }
        let turns = || running.stats().total().turns;
        settled(turns);
        let (before, cpu_before) = (turns(), running.stats().workers()[0].cpu_ns);
        std::thread::sleep(Duration::from_secs(2));
        let (after, cpu) = (turns(), running.stats().workers()[0].cpu_ns - cpu_before);
        assert!(after - before <= 4, "{} turns in two idle seconds", after - before);
        assert!(cpu < 20_000_000, "{cpu} ns of CPU in two idle seconds");
    });
}

#[test]
fn factories_may_wait_in_their_workers_runtime() {
    on_both_drivers(|driver| {
        let address = upstream();
        let running = Engine::builder()
            .config(config(driver).with_workers(2))
            .tokio(TokioOptions::default())
            .listen_async("127.0.0.1:0", ListenOptions::default(), async move |worker| {
                let thread = std::thread::current().id();
                let mut stream = tokio::net::TcpStream::connect(address).await?;
                let mut greeting = [0; 3];
                stream.read_exact(&mut greeting).await?;
                tokio::time::sleep(Duration::from_millis(20 * worker.index as u64)).await;
                let stream = Rc::new(tokio::sync::Mutex::new(stream));
                Ok::<_, std::io::Error>(http::server_async(
                    async move |request: OwnedRequest, reply: OwnedReply| {
                        assert_eq!(std::thread::current().id(), thread);
                        let mut stream = stream.lock().await;
                        stream.write_all(request.path().as_bytes()).await.unwrap();
                        let mut heard = vec![0; request.path().len()];
                        stream.read_exact(&mut heard).await.unwrap();
                        reply.text(heard)
                    },
                ))
            })
            .start()
            .expect("the engine starts");
        for n in 0..20 {
            assert_eq!(ask(&mut connect(&running), &format!("/{n}")), format!("/{n}"));
        }
    });
}

#[test]
fn a_start_says_what_went_wrong() {
    let fails = |builder: Builder| builder.start().err().expect("it does not start");
    on_both_drivers(|driver| {
        let refused = async |_| -> Result<Echo, String> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Err("the database is away".to_owned())
        };
        let listen =
            |builder: Builder| builder.listen_async("127.0.0.1:0", ListenOptions::default(), refused);
        let error = fails(listen(builder(driver)));
        assert!(matches!(error, Error::FactoryFailed { worker: 0, .. }), "{error:?}");
        assert_eq!(error.to_string(), "the protocol factory of worker 0 failed: the database is away");
        let error = fails(listen(Engine::builder().config(config(driver))));
        assert_eq!(
            error.to_string(),
            "bad configuration: an async factory needs a runtime: add `tokio` to the builder"
        );
        let panics = async |_| -> Result<Echo, String> { panic!("as asked") };
        let error = fails(builder(driver).listen_async("127.0.0.1:0", ListenOptions::default(), panics));
        assert!(matches!(error, Error::Factory { worker: 0 }), "{error:?}");
        let none = TokioOptions { max_blocking_threads: 0, ..TokioOptions::default() };
        let error = fails(builder(driver).tokio(none).listen("127.0.0.1:0", |_| Echo::default()));
        assert_eq!(error.to_string(), "bad configuration: max_blocking_threads is 0: give at least 1");
    });
}

#[test]
fn a_handler_that_blocks_is_counted() {
    on_both_drivers(|driver| {
        let running = serve(driver, async |request, reply| {
            if request.path() == "/block" {
                std::thread::sleep(Duration::from_millis(150));
            }
            reply.text("done")
        });
        let mut client = connect(&running);
        assert_eq!(ask(&mut client, "/"), "done");
        assert_eq!(ask(&mut client, "/block"), "done");
        assert_eq!(ask(&mut client, "/"), "done");
        eventually(true, || running.stats().total().long_polls >= 1);
        assert!(running.stats().total().long_polls <= 3);
    });
}

#[test]
fn blocking_threads_may_use_every_cpu_beside_a_pinned_worker() {
    on_both_drivers(|driver| {
        let allowed = |status: &str| {
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed:")).expect("proc(5)");
            line.to_owned()
        };
        let ours = allowed(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
        let running = Engine::builder()
            .config(config(driver).with_pin(Pin::Auto))
            .tokio(TokioOptions::default())
            .listen("127.0.0.1:0", |_| {
                http::server_async(async |_: OwnedRequest, reply: OwnedReply| {
                    let read = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
                    reply.text(tokio::task::spawn_blocking(read).await.unwrap())
                })
            })
            .start()
            .unwrap();
        assert_eq!(allowed(&ask(&mut connect(&running), "/")), ours);
    });
}

/// Says that it is dropped, and in a runtime.
struct Guard(std::sync::mpsc::Sender<bool>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(tokio::runtime::Handle::try_current().is_ok());
    }
}

#[test]
fn a_stop_and_a_drain_end_what_is_hosted() {
    on_both_drivers(|driver| {
        let (dropped, drops) = std::sync::mpsc::channel();
        let running = serve(driver, async move |request: OwnedRequest, reply: OwnedReply| {
            if request.path() == "/wait" {
                let _guard = Guard(dropped.clone());
                tokio::time::sleep(Duration::from_secs(1000)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            reply.text("done")
        });
        let (mut waits, mut ends) = (connect(&running), connect(&running));
        waits.send(get("/wait"));
        ends.send(get("/"));
        eventually(2, || running.stats().total().requests);
        running.handle().drain(PATIENCE);
        let reply = receive(&mut ends);
        assert_eq!(reply.text(), "done");
        assert!(drops.try_recv().is_err(), "it is waited for");
        running.handle().stop();
        assert_eq!(drops.recv_timeout(PATIENCE), Ok(true));
        let stopped = Instant::now();
        running.join().unwrap();
        assert!(stopped.elapsed() < PATIENCE);
    });
}

#[test]
fn a_blocking_task_does_not_hold_up_the_end_for_ever() {
    on_both_drivers(|driver| {
        let options = TokioOptions { shutdown_timeout: Duration::from_millis(50), ..TokioOptions::default() };
        let running = Engine::builder()
            .config(config(driver))
            .tokio(options)
            .listen("127.0.0.1:0", |_| {
                http::server_async(async |_: OwnedRequest, reply: OwnedReply| {
                    let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(20))).await;
                    reply
                })
            })
            .start()
            .unwrap();
        let mut client = connect(&running);
        client.send(get("/"));
        eventually(1, || running.stats().total().requests);
        let stopped = Instant::now();
        running.handle().stop();
        running.join().unwrap();
        assert!(stopped.elapsed() < PATIENCE, "{:?}", stopped.elapsed());
    });
}

#[test]
fn a_handler_is_dropped_when_its_client_leaves() {
    on_both_drivers(|driver| {
        let (dropped, drops) = std::sync::mpsc::channel();
        let running = serve(driver, async move |_, reply| {
            let _guard = Guard(dropped.clone());
            tokio::time::sleep(Duration::from_secs(1000)).await;
            reply
        });
        for is_reset in [false, true] {
            let mut client = connect(&running);
            client.send(get("/"));
            let requests = if is_reset { 2 } else { 1 };
            eventually(requests, || running.stats().total().requests);
            let left = Instant::now();
            if is_reset {
                reset(client)
            } else {
                drop(client)
            }
            assert_eq!(drops.recv_timeout(PATIENCE), Ok(true));
            assert!(left.elapsed() < Duration::from_secs(2), "after {:?}", left.elapsed());
        }
        assert_eq!(running.stats().total().receives_cancelled, 0);
    });
}

#[test]
fn datagrams_are_answered() {
    on_both_drivers(|driver| {
        let running = builder(driver).datagrams("127.0.0.1:0", |_| UdpEcho::default()).start().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(ip(&running.datagram_addresses()[0])).unwrap();
        for round in 0..200u32 {
            let bytes = round.to_be_bytes();
            socket.send(&bytes).unwrap();
            let mut buffer = [0; 100];
            let received = socket.recv(&mut buffer).expect("an answer");
            assert_eq!(&buffer[..received], bytes);
        }
    });
}

/// Tells its sessions when somebody rings for it, and when its timer has come.
struct Steward {
    wakers: std::sync::mpsc::Sender<Waker>,
    dialer: Option<Dialer>,
    sessions: Vec<ConnId>,
    news: &'static [u8],
}

impl Steward {
    fn tell(&mut self, news: &'static [u8]) {
        self.news = news;
        let dialer = self.dialer.as_ref().expect("it was started");
        self.sessions.iter().for_each(|session| dialer.wake(*session));
    }
}

impl Protocol for Steward {
    type Session = ();

    fn start(&mut self, dialer: Dialer) {
        self.wakers.send(dialer.waker()).unwrap();
        self.dialer = Some(dialer);
    }

    fn open(&mut self, io: &mut Io<'_>) {
        self.sessions.push(io.id());
        io.write(b"open\n");
    }

    /// The session asks for the timer.
    fn data(&mut self, _: &mut (), input: &mut [u8], io: &mut Io<'_>) -> Step {
        let at = io.now().after(Duration::from_millis(20));
        self.dialer.as_ref().expect("it was started").set_timer(Some(at));
        Step::consumed(input.len())
    }

    fn wake(&mut self, _: &mut (), io: &mut Io<'_>) -> Next {
        io.write(self.news);
        Next::Continue
    }

    fn rung(&mut self) {
        self.tell(b"rung\n");
    }

    fn tick(&mut self, _: Tick) {
        self.tell(b"tick\n");
    }
}

#[test]
fn a_protocol_value_is_rung_for_and_has_its_timer_hosted_or_not() {
    on_both_drivers(|driver| {
        for is_hosted in [false, true] {
            let (wakers, made) = std::sync::mpsc::channel();
            let builder = if is_hosted { builder(driver) } else { Engine::builder().config(config(driver)) };
            let factory = move |_: &_| {
                let wakers = wakers.clone();
                Steward { wakers, dialer: None, sessions: Vec::new(), news: b"" }
            };
            let running = builder.listen("127.0.0.1:0", factory).start().unwrap();
            let waker = made.recv_timeout(PATIENCE).expect("it is started");
            let mut clients = [connect(&running), connect(&running)];
            for client in &mut clients {
                client.expect("open\n");
            }
            for _ in 0..100 {
                let waker = waker.clone();
                std::thread::spawn(move || waker.wake()).join().unwrap();
                for client in &mut clients {
                    client.expect("rung\n");
                }
            }
            for _ in 0..3 {
                clients[0].send("when?");
                for client in &mut clients {
                    client.expect("tick\n");
                }
            }
        }
    });
}

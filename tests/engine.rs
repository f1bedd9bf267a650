//! The engine over real sockets, on both drivers: flow control, addresses, limits, counters, start and end.
//! What a single session may do and is told is in `sessions.rs`.

mod common;

use common::puppet::{Called, Stage};
use common::*;
use ringmill::{
    Address, Builder, CloseReason, Config, Counters, DriverChoice, Echo, Engine, Error, Handle, Io,
    ListenOptions, Pin, Protocol, Running, Step,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn echo(config: Config) -> Running {
    start(config, |_| Echo::default())
}

fn total(running: &Running) -> Counters {
    running.stats().total()
}

#[test]
fn twenty_megabytes_come_back_in_order_to_a_reader_slower_than_the_writer() {
    const BYTES: usize = 20_000_000;
    on_both_drivers(|driver| {
        let running = echo(config(driver));
        let mut reader = connect_narrow(ip(&running.addresses()[0]), 64 * 1024);
        let (mut writer, data) = (reader.try_clone().unwrap(), pattern(0, BYTES));
        let writing = std::thread::spawn(move || {
            writer.send(data);
            writer.shutdown(Shutdown::Write).unwrap();
        });
        // While nothing is read, the server soon takes no more.
        eventually(true, || total(&running).received_bytes > 0);
        let taken = settled(|| total(&running).received_bytes);
        assert!(taken < BYTES as u64, "the server took {taken} bytes, and nobody read");
        expect_pattern(&mut reader, BYTES, 4000);
        reader.expect_eof();
        writing.join().unwrap();
        let all = (BYTES as u64, BYTES as u64);
        eventually(all, || (total(&running).received_bytes, total(&running).sent_bytes));
    });
}

#[test]
fn clients_that_never_read_cost_a_bounded_amount_and_others_are_served() {
    const CLIENTS: usize = 50;
    // Held output pauses reading at 256 KiB; a turn may add 64 KiB, and what grows by doubling has twice its size.
    const BYTES_EACH_MAX: usize = 1024 * 1024;
    alone(|| {
        on_both_drivers(|driver| {
            let running = echo(config(driver));
            let address = ip(&running.addresses()[0]);
            connect(&running).ask("warm", "warm");
            let (before, data) = (rss_anon_bytes(), vec![7; 64 * 1024]);
            let mut clients: Vec<TcpStream> =
                (0..CLIENTS).map(|_| connect_narrow(address, 32 * 1024)).collect();
            let mut sent = 0;
            settled(|| {
                for client in &mut clients {
                    client.set_nonblocking(true).unwrap();
                    while let Ok(bytes) = client.write(&data) {
                        sent += bytes;
                        assert!(sent < CLIENTS * 20_000_000, "the server takes all, and nobody reads");
                    }
                }
                (sent, total(&running).received_bytes)
            });
            let growth = rss_anon_bytes().saturating_sub(before);
            assert!(
                growth < CLIENTS * BYTES_EACH_MAX,
                "{CLIENTS} clients that never read cost {growth} bytes"
            );
            assert!(total(&running).received_bytes > CLIENTS as u64 * 256 * 1024, "they did send");
            let mut other = connect(&running);
            other.ask("still there?", "still there?");
        });
    });
}

#[test]
fn a_peer_that_takes_no_output_is_closed() {
    on_both_drivers(|driver| {
        let config = Config {
            write_timeout: Duration::from_millis(300),
            output_bytes_max: 128 << 20,
            ..config(driver)
        };
        let stage = Stage::new(config);
        let mut deaf = connect_narrow(ip(&stage.running.addresses()[0]), 16 * 1024);
        deaf.send("flood 64000000\n");
        stage.heard(&[Called::Open, Called::Closed(CloseReason::WriteTimeout)]);
        eventually((1, 1, 0), || {
            let total = total(&stage.running);
            (total.write_timeouts, total.closed, total.connections)
        });
        stage.connect().ask("say who reads\n", "who reads\n");
        // What was under way when it was given up ends in a reset, not in an end that looks whole.
        deaf.expect_reset();
    });
}

#[test]
fn a_peer_that_reads_slowly_is_not_closed() {
    const BYTES: usize = 6_000_000;
    on_both_drivers(|driver| {
        let config =
            Config { write_timeout: Duration::from_secs(1), output_bytes_max: 8 << 20, ..config(driver) };
        let stage = Stage::new(config);
        let mut slow = connect_narrow(ip(&stage.running.addresses()[0]), 16 * 1024);
        slow.send(format!("flood {BYTES}\nclose\n"));
        // Each pause is far below the timeout, all of them together far above.
        let mut at = 0;
        while at < BYTES {
            let bytes = (BYTES - at).min(BYTES / 8);
            let mut piece = vec![0; bytes];
            slow.read_exact(&mut piece).unwrap_or_else(|error| panic!("{error} after {at} bytes"));
            assert!(piece == pattern(at, bytes));
            at += bytes;
            std::thread::sleep(Duration::from_millis(200));
        }
        slow.expect_eof();
        assert_eq!(total(&stage.running).write_timeouts, 0);
    });
}

#[test]
fn every_kind_of_address_serves() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("echo.sock");
        let unix = format!("unix:{path}");
        let name = abstract_name(driver);
        let mut builder = Engine::builder().config(config(driver).with_workers(2));
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0", "localhost:0", &unix, "[::1%lo]:0", &name] {
            builder = builder.listen(address, |_| Echo::default());
        }
        let running = builder.start().unwrap();
        let check = |index: usize, host: &str| {
            let port = ip(&running.addresses()[index]).port();
            assert_ne!(port, 0);
            let mut client = connect_to(format!("{host}:{port}").parse().unwrap());
            client.ask(host, host);
            client.shutdown(Shutdown::Write).unwrap();
            client.expect_eof();
        };
        check(0, "127.0.0.1");
        check(1, "[::1]");
        check(2, "[::1]");
        check(2, "127.0.0.1");
        check(5, "[::1]");
        for client in [UnixStream::connect(&path), connect_abstract(&name)] {
            let mut client = client.unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.ask("over a name", "over a name");
            client.shutdown(Shutdown::Write).unwrap();
            client.expect_eof();
        }
        assert_eq!([4, 6].map(|index| running.addresses()[index].to_string()), [unix, name.clone()]);
        eventually((7, 7), || (total(&running).accepted, total(&running).closed));
        // Nothing was made that would stay.
        assert!(!std::fs::exists(name.trim_start_matches("unix:")).unwrap());
        drop(running);
        let refusal = || connect_abstract(&name).err().map(|error| error.kind());
        eventually(Some(ErrorKind::ConnectionRefused), refusal);
    });
}

/// `unix:@NAME` that no other test has.
fn abstract_name(driver: DriverChoice) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("unix:@ringmill-test-{}-{driver}-{count}", std::process::id())
}

fn connect_abstract(address: &str) -> std::io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt;
    let name = address.strip_prefix("unix:@").expect("an abstract name");
    UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
}

/// Both ends of a connection over an abstract name know it.
#[test]
fn an_abstract_name_is_the_address_of_both_ends() {
    on_both_drivers(|driver| {
        let name = abstract_name(driver);
        let told = Arc::new(Mutex::new(None));
        let tell = told.clone();
        let running =
            Engine::builder().config(config(driver)).listen(name.as_str(), move |_| Names(tell.clone()));
        let running = running.start().unwrap();
        let mut client = connect_abstract(&name).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.ask("!", "!");
        assert_eq!(*told.lock().unwrap(), Some(name.parse::<Address>().unwrap()));
        assert_eq!(running.addresses(), [name.parse().unwrap()]);
    });
}

/// Tells the local address of its last connection.
struct Names(Arc<Mutex<Option<Address>>>);

impl Protocol for Names {
    type Session = ();

    fn open(&mut self, io: &mut Io<'_>) {
        *self.0.lock().unwrap() = io.local();
    }

    fn data(&mut self, _: &mut (), input: &mut [u8], io: &mut Io<'_>) -> Step {
        io.write(input);
        Step::consumed(input.len())
    }
}

#[test]
fn an_address_of_version_6_only_takes_no_version_4() {
    on_both_drivers(|driver| {
        let options = ListenOptions { only_v6: true, ..ListenOptions::default() };
        let builder = Engine::builder().config(config(driver));
        let running = builder.listen_with("[::]:0", options, |_| Echo::default()).start().unwrap();
        let port = ip(&running.addresses()[0]).port();
        connect_to(([0, 0, 0, 0, 0, 0, 0, 1], port).into()).ask("six", "six");
        let four = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), PATIENCE);
        assert_eq!(four.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_unix_path_is_replaced_when_stale_refused_when_alive_and_removed_at_the_end() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("echo.sock");
        let start = || {
            let builder = Engine::builder().config(config(driver).with_workers(2));
            builder.listen(format!("unix:{path}"), |_| Echo::default()).start()
        };
        // A killed process leaves its socket behind.
        drop(UnixListener::bind(&path).unwrap());
        let running = start().expect("a stale path is replaced");
        let refused = start().err().expect("a live server's path is not taken").to_string();
        assert!(refused.contains(&path) && refused.contains("in use"), "{refused}");
        for _ in 0..8 {
            let mut client = UnixStream::connect(&path).expect("the live server still has its path");
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.ask("alive", "alive");
        }
        running.handle().stop();
        running.join().unwrap();
        assert!(!std::fs::exists(&path).unwrap(), "the path is removed at the end");
    });
}

fn echo_at(driver: DriverChoice, address: &str, patience: Duration) -> Result<Running, Error> {
    let config = Config { bind_patience: patience, ..config(driver).with_workers(2) };
    Engine::builder().config(config).listen(address, |_| Echo::default()).start()
}

#[track_caller]
fn serves_at(path: &str) {
    let mut client = UnixStream::connect(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.ask("here", "here");
}

#[test]
fn a_server_removes_the_unix_path_that_is_its_own_and_no_other() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("echo.sock");
        let start = || echo_at(driver, &format!("unix:{path}"), PATIENCE).unwrap();
        for end in [Handle::stop, |handle: &Handle| handle.drain(PATIENCE)] {
            let first = start();
            std::fs::remove_file(&path).unwrap();
            let second = start();
            end(&first.handle());
            first.join().unwrap();
            serves_at(&path);
            drop(second);
            assert!(!std::fs::exists(&path).unwrap());
        }
    });
}

#[test]
fn a_drain_frees_a_unix_path_for_a_successor_as_soon_as_it_begins() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("echo.sock");
        let first = echo_at(driver, &format!("unix:{path}"), Duration::ZERO).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.ask("before", "before");
        first.handle().drain(PATIENCE);
        let gone = UnixStream::connect(&path).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "nobody waits in a queue that is not read any more");
        let _second = echo_at(driver, &format!("unix:{path}"), Duration::ZERO).expect("the path is free");
        drop(client);
        first.join().unwrap();
        serves_at(&path);
    });
}

#[test]
fn what_stands_where_a_unix_socket_should_be_is_told_and_left_alone() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = |name: &str| directory.file(name);
        std::fs::write(path("file"), "precious").unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        drop(UnixListener::bind(path("stale")).unwrap());
        std::os::unix::fs::symlink(path("stale"), path("link to a socket")).unwrap();
        let datagrams = UnixDatagram::bind(path("datagrams")).unwrap();
        let live = UnixListener::bind(path("live")).unwrap();
        let began = Instant::now();
        let check = |name: &str, words: &[&str]| {
            let error = echo_at(driver, &format!("unix:{}", path(name)), Duration::ZERO).err();
            let text = error.unwrap_or_else(|| panic!("it takes {name}")).to_string();
            for word in words {
                assert!(text.contains(word), "expected {word:?} in: {text}");
            }
            assert!(!text.contains("port") && !text.contains("ltnup"), "{text}");
            assert!(std::fs::symlink_metadata(path(name)).is_ok(), "{name} is gone");
        };
        check("file", &["a regular file is there", "remove it"]);
        check("folder", &["a folder is there", "folder/x.sock"]);
        check("dangling", &["a symbolic link to", "nowhere", "does not exist"]);
        check("link", &["a symbolic link to", "file is there"]);
        check("link to a socket", &["a symbolic link to", "stale is there"]);
        check("datagrams", &["a socket is there", "cannot be told"]);
        check("live", &["in use", "ss -lxp"]);
        // With a queue that is full, it does not answer.
        let full = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        full.bind(&socket2::SockAddr::unix(path("full")).unwrap()).unwrap();
        full.listen(0).unwrap();
        let _queued = UnixStream::connect(path("full")).unwrap();
        check("full", &["in use", "ss -lxp"]);
        assert!(began.elapsed() < PATIENCE);
        drop((datagrams, live));
        let name = abstract_name(driver);
        let _taken = echo_at(driver, &name, Duration::ZERO).unwrap();
        let twice = echo_at(driver, &name, Duration::ZERO).err().expect("it is taken").to_string();
        assert!(twice.contains(&name) && twice.contains("in use") && twice.contains("ss -lxp"), "{twice}");
    });
}

#[test]
fn a_unix_socket_has_the_mode_and_the_group_that_were_asked_for() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("echo.sock");
        let start = |address: &str, mode, group: Option<&str>| {
            let (unix_mode, unix_group) = (mode, group.map(str::to_owned));
            let options = ListenOptions { unix_mode, unix_group, ..ListenOptions::default() };
            Engine::builder()
                .config(config(driver))
                .listen_with(address, options, |_| Echo::default())
                .start()
        };
        let unix = format!("unix:{path}");
        let group = a_group().to_string();
        let running = start(&unix, Some(0o606), Some(&group)).unwrap();
        let file = std::fs::metadata(&path).unwrap();
        assert_eq!((file.mode() & 0o7777, file.gid().to_string()), (0o606, group));
        serves_at(&path);
        drop(running);
        let check = |address: &str, mode, group: Option<&str>, words: &[&str]| {
            let error = start(address, mode, group).err().unwrap_or_else(|| panic!("it starts: {words:?}"));
            assert!(matches!(error, Error::Config { .. }), "{error:?}");
            for word in words {
                assert!(error.to_string().contains(word), "expected {word:?} in: {error}");
            }
        };
        check(&unix, Some(0o1777), None, &["unix_mode", "0o1777"]);
        check(&unix, None, Some("no-such-group"), &["unix_group", "no-such-group", "getent group"]);
        check(&unix, None, Some("4294967295"), &["unix_group", "4294967295"]);
        check("unix:@ringmill-never", Some(0o600), None, &["unix:@ringmill-never", "no file"]);
        assert!(!std::fs::exists(&path).unwrap(), "nothing was made");
        // Names work as numbers do; root's group is called so everywhere.
        if std::fs::metadata("/proc/self").unwrap().gid() == 0 {
            let _running = start(&unix, None, Some("root")).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().gid(), 0);
        }
    });
}

#[test]
fn a_start_waits_for_an_address_that_becomes_free() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("echo.sock");
        let other = UnixListener::bind(&path).unwrap();
        let running = std::thread::scope(|scope| {
            let starting = scope.spawn(|| echo_at(driver, &format!("unix:{path}"), PATIENCE));
            // It asks whether anybody listens; then nobody does any more.
            drop(other.accept().unwrap());
            drop(other);
            starting.join().unwrap()
        });
        drop(running.expect("it waited"));
        // What stays in use is an error after that time.
        for address in ["127.0.0.1:0", &abstract_name(driver)] {
            let taken = echo_at(driver, address, Duration::ZERO).unwrap();
            let address = &taken.addresses()[0].to_string();
            let began = Instant::now();
            let patience = Duration::from_millis(200);
            assert!(echo_at(driver, address, patience).is_err(), "{address}");
            assert!(began.elapsed() >= patience, "it gave up after {:?}", began.elapsed());
        }
    });
}

#[test]
fn socket_options_reach_accepted_connections() {
    alone(|| {
        on_both_drivers(|driver| {
            let check = |options: ListenOptions| {
                let builder = Engine::builder().config(config(driver));
                let running =
                    builder.listen_with("127.0.0.1:0", options.clone(), |_| Echo::default()).start().unwrap();
                let mut client = connect(&running);
                client.ask("hello", "hello");
                with_accepted(&client, |accepted| {
                    assert_eq!(accepted.tcp_nodelay().unwrap(), options.nodelay, "{options:?}");
                    assert_eq!(accepted.keepalive().unwrap(), options.keep_alive.is_some(), "{options:?}");
                    if let Some(name) = &options.congestion {
                        assert!(accepted.tcp_congestion().unwrap().starts_with(name.as_bytes()));
                    }
                });
            };
            check(ListenOptions::default());
            check(ListenOptions { nodelay: false, ..ListenOptions::default() });
            check(ListenOptions { keep_alive: Some(Duration::from_secs(60)), ..ListenOptions::default() });
            check(ListenOptions { congestion: Some("reno".to_owned()), ..ListenOptions::default() });
            check(ListenOptions { defer_accept: Some(Duration::from_secs(1)), ..ListenOptions::default() });
            check(ListenOptions { fast_open: Some(16), ..ListenOptions::default() });
        });
    });
}

/// The server's end of a connection: it is in the same process, so it is one of our descriptors.
fn with_accepted(client: &TcpStream, look: impl Fn(socket2::SockRef<'_>)) {
    let name = client.local_addr().unwrap();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let fd = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: the test runs alone and the engine is idle: no descriptor is closed meanwhile, but for the
        // directory's own, which is asked for a peer and has none.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        let socket = socket2::SockRef::from(&fd);
        if socket.peer_addr().ok().and_then(|peer| peer.as_socket()) == Some(name) {
            return look(socket);
        }
    }
    panic!("no descriptor has the peer {name}");
}

#[test]
fn no_more_than_connections_max_are_served_and_the_others_wait_their_turn() {
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver).with_connections_max(2));
        let mut clients: Vec<TcpStream> = (0..5).map(|_| stage.connect()).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(format!("say {n}\n"));
        }
        let mut served = 0;
        while !clients.is_empty() {
            // Whoever was accepted has an answer. The others must not.
            stage.heard(&vec![Called::Open; clients.len().min(2) - served]);
            let mut answered: Vec<usize> = Vec::new();
            eventually(clients.len().min(2), || {
                answered = (0..clients.len()).filter(|&n| has_input(&clients[n])).collect();
                answered.len()
            });
            assert!(total(&stage.running).connections <= 2);
            let mut leaves = clients.remove(answered[0]);
            leaves.shutdown(Shutdown::Write).unwrap();
            leaves.rest();
            stage.heard(&[Called::Eof, Called::Closed(CloseReason::Finished)]);
            served = answered.len() - 1;
        }
        eventually((5, 5, true), || {
            let total = total(&stage.running);
            (total.accepted, total.closed, total.accept_paused > 0)
        });
    });
}

fn has_input(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let found = client.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
    client.set_nonblocking(false).unwrap();
    found
}

#[test]
fn a_storm_of_connections_leaves_no_descriptor_behind() {
    alone(|| {
        on_both_drivers(|driver| {
            let running = echo(config(driver).with_workers(2));
            connect(&running).ask("warm", "warm");
            eventually(0, || total(&running).connections);
            let before = descriptors("self");
            for n in 0..500 {
                let mut client = connect(&running);
                if n % 3 > 0 {
                    client.send("ping");
                }
                if n % 3 > 1 {
                    client.expect("ping");
                }
            }
            eventually((501, 501, 0), || {
                let total = total(&running);
                (total.accepted, total.closed, total.connections)
            });
            eventually(before, || descriptors("self"));
        });
    });
}

#[test]
fn a_thousand_resets_lose_no_descriptor_and_no_receive_buffer() {
    const BYTES: usize = 1_000_000;
    alone(|| {
        on_both_drivers(|driver| {
            // So few buffers that losing one in a hundred resets would already starve the server.
            let running = echo(Config { recv_buffers: 8, recv_buffer_bytes: 1024, ..config(driver) });
            connect(&running).ask("warm", "warm");
            eventually(0, || total(&running).connections);
            let (before, data) = (descriptors("self"), pattern(0, 10_000));
            for n in 0..1000 {
                let mut client = connect(&running);
                client.send(&data[..n * 10]);
                if n % 2 == 0 && n > 0 {
                    client.expect(&data[..1]);
                }
                reset(client);
            }
            eventually((1001, 1001), || (total(&running).accepted, total(&running).closed));
            assert_eq!(total(&running).failures, 1000);
            eventually(before, || descriptors("self"));
            let mut client = connect(&running);
            let mut writer = client.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.send(pattern(0, BYTES)));
            expect_pattern(&mut client, BYTES, 64 * 1024);
            writing.join().unwrap();
        });
    });
}

#[test]
fn many_connections_share_few_receive_buffers() {
    on_both_drivers(|driver| {
        let running = echo(Config { recv_buffers: 8, recv_buffer_bytes: 512, ..config(driver) });
        let clients: Vec<TcpStream> = (0..40).map(|_| connect(&running)).collect();
        let talking: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let mut writer = client.try_clone().unwrap();
                let writing = std::thread::spawn(move || writer.send(pattern(0, 100_000)));
                let reading = std::thread::spawn(move || expect_pattern(&mut client, 100_000, 8192));
                (writing, reading)
            })
            .collect();
        for (writing, reading) in talking {
            writing.join().unwrap();
            reading.join().unwrap();
        }
        eventually(40 * 100_000, || total(&running).sent_bytes);
    });
}

#[test]
fn every_worker_gets_connections_and_the_totals_add_up() {
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver).with_workers(3));
        let mut clients: Vec<TcpStream> = (0..96).map(|_| stage.connect()).collect();
        for client in &mut clients {
            client.ask("say hello\n", "hello\n");
        }
        let workers = stage.running.stats().workers();
        assert_eq!(workers.len(), 3);
        for worker in &workers {
            assert!(worker.counters.accepted > 0 && worker.counters.turns > 0, "{worker:?}");
            assert!(worker.cpu_ns > 0, "{worker:?}");
        }
        drop(clients);
        eventually((96, 96, 0), || {
            let total = total(&stage.running);
            (total.accepted, total.closed, total.connections)
        });
        let (total, workers) = (total(&stage.running), stage.running.stats().workers());
        assert_eq!((total.received_bytes, total.failures, total.panics), (96 * 10, 0, 0));
        for (n, (name, value)) in total.iter().enumerate() {
            let sum: u64 = workers.iter().map(|worker| worker.counters.iter().nth(n).unwrap().1).sum();
            assert!(value <= sum, "{name} is {value}, and then its parts are {sum}");
        }
    });
}

#[test]
fn a_stop_ends_at_once_and_resets_everybody() {
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver).with_workers(2));
        let mut clients: Vec<TcpStream> = (0..8).map(|_| stage.connect()).collect();
        for client in &mut clients {
            client.ask("stay\nsay here\n", "here\n");
            client.send("flood 3000000\n");
        }
        let stats = stage.running.stats().clone();
        stage.running.handle().stop();
        stage.running.join().unwrap();
        for client in &mut clients {
            client.expect_reset();
        }
        let total = stats.total();
        assert_eq!((total.accepted, total.closed, total.connections), (8, 8, 0));
        assert!(stats.workers().iter().all(|worker| worker.cpu_ns == 0), "their threads are gone");
    });
}

#[test]
fn dropping_the_engine_stops_it() {
    on_both_drivers(|driver| {
        let running = echo(config(driver));
        let address = ip(&running.addresses()[0]);
        let mut client = connect(&running);
        client.ask("here", "here");
        drop(running);
        client.expect_reset();
        let refused = TcpStream::connect_timeout(&address, PATIENCE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_drain_lets_output_arrive_and_then_ends() {
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver));
        let address = ip(&stage.running.addresses()[0]);
        let mut client = stage.connect();
        client.send("say first\nflood 3000000\n");
        client.expect("first\n");
        stage.running.handle().drain(3 * PATIENCE);
        stage.heard(&[Called::Open, Called::Drain, Called::Closed(CloseReason::Finished)]);
        eventually(true, || TcpStream::connect_timeout(&address, PATIENCE).is_err());
        expect_pattern(&mut client, 3_000_000, 64 * 1024);
        client.expect("drain\n");
        client.expect_eof();
        drop(client);
        stage.running.join().unwrap();
    });
}

#[test]
fn a_drain_deadline_closes_hard_what_stays() {
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver));
        let mut client = stage.connect();
        client.ask("stay\nsay here\n", "here\n");
        stage.running.handle().drain(Duration::from_millis(200));
        client.ask("say still\n", "drain\nstill\n");
        stage.heard(&[Called::Open, Called::Drain, Called::Closed(CloseReason::Stopped)]);
        client.expect_reset();
        stage.running.join().unwrap();
    });
}

#[test]
fn a_stop_ends_a_drain() {
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver));
        let mut client = stage.connect();
        client.ask("stay\nsay here\n", "here\n");
        stage.running.handle().drain(18 * PATIENCE);
        client.expect("drain\n");
        stage.running.handle().stop();
        stage.heard(&[Called::Open, Called::Drain, Called::Closed(CloseReason::Stopped)]);
        client.expect_reset();
        stage.running.join().unwrap();
    });
}

#[test]
fn what_cannot_be_started_is_an_error_that_says_why() {
    alone(|| {
        on_both_drivers(|driver| {
            let directory = Directory::new();
            let echo = |address: &str| {
                let builder = Engine::builder().config(config(driver));
                builder.listen(address.to_owned(), |_| Echo::default())
            };
            let with = |change: &dyn Fn(&mut Config)| {
                let mut config = config(driver);
                change(&mut config);
                echo("127.0.0.1:0").config(config)
            };
            let congestion = ListenOptions { congestion: Some("nonesuch".to_owned()), ..Default::default() };
            let before = descriptors("self");
            let check = |builder: Builder, words: &[&str]| {
                let error = builder.start().err().unwrap_or_else(|| panic!("it started: expected {words:?}"));
                let text = error.to_string();
                for word in words {
                    assert!(text.contains(word), "expected {word:?} in: {text}");
                }
                assert_eq!(descriptors("self"), before, "no descriptor is left after: {text}");
            };
            let missing = format!("unix:{}", directory.file("missing/echo.sock"));
            let long = format!("unix:/tmp/{}", "x".repeat(200));
            check(Engine::builder().config(config(driver)), &["nothing to listen on"]);
            check(echo("nonsense"), &["bad address", "nonsense", "IP:PORT"]);
            check(echo("127.0.0.1:99999"), &["bad address", "127.0.0.1:99999"]);
            check(echo("192.0.2.1:0"), &["192.0.2.1", "ip address"]);
            check(echo(&missing), &["missing/echo.sock", "No such file"]);
            check(echo(&long), &["unix:/tmp/xxx"]);
            check(echo("127.0.0.1:0").listen(missing, |_| Echo::default()), &["missing/echo.sock"]);
            check(with(&|config| config.workers = Some(0)), &["workers is 0"]);
            check(with(&|config| config.connections_max = Some(0)), &["connections_max is 0"]);
            check(with(&|config| config.recv_buffers = 100), &["recv_buffers", "power of two"]);
            check(with(&|config| config.pin = Pin::List(vec![9999])), &["cannot pin", "CPU 9999"]);
            check(
                echo("127.0.0.1:0").listen_with("127.0.0.1:0", congestion.clone(), |_| Echo::default()),
                &["127.0.0.1:0", "TCP_CONGESTION"],
            );
            check(
                echo("127.0.0.1:0").workers(2).listen("127.0.0.1:0", |worker| {
                    assert!(worker.index == 0, "a factory that panics, as asked");
                    Echo::default()
                }),
                &["factory", "worker 1", "panicked"],
            );
        });
    });
}

#[test]
fn a_port_that_is_taken_is_named_with_a_remedy() {
    on_both_drivers(|driver| {
        let check = |address: String| {
            let builder = Engine::builder().config(config(driver).with_workers(2));
            let error = builder.listen(address.as_str(), |_| Echo::default()).start().err();
            let text = error.expect("a port of another server is not shared").to_string();
            for word in [&address, "in use", "choose another port"] {
                assert!(text.contains(word), "expected {word:?} in: {text}");
            }
        };
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        check(other.local_addr().unwrap().to_string());
        // Ours would share it if it were not careful: both have SO_REUSEPORT.
        let ours = echo(config(driver));
        check(ours.addresses()[0].to_string());
        connect(&ours).ask("mine", "mine");
    });
}

#[test]
fn a_port_can_be_taken_again_after_the_server_ended() {
    on_both_drivers(|driver| {
        let first = echo(config(driver));
        let address = ip(&first.addresses()[0]);
        let mut client = connect(&first);
        client.ask("one", "one");
        client.shutdown(Shutdown::Write).unwrap();
        client.expect_eof();
        first.handle().drain(PATIENCE);
        first.join().unwrap();
        let builder = Engine::builder().config(config(driver).with_workers(2));
        let second = builder.listen(address, |_| Echo::default()).start().expect("TIME_WAIT is no obstacle");
        connect(&second).ask("two", "two");
    });
}

#[test]
fn a_start_that_fails_leaves_no_unix_path_behind() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("echo.sock");
        let builder =
            Engine::builder().config(config(driver)).listen(format!("unix:{path}"), |_| Echo::default());
        let error = builder.listen("192.0.2.1:0", |_| Echo::default()).start().err();
        assert!(matches!(error, Some(Error::Listen { .. })), "{error:?}");
        assert!(!std::fs::exists(&path).unwrap(), "the path of a server that never ran is there");
    });
}

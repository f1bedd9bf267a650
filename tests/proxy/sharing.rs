//! What workers share: servers and their health, connections, the queue, limits and rates.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

#[test]
fn of_several_upstreams_those_that_live_are_used() {
    on_both_drivers(|driver| {
        for balance in [Balance::TwoChoices, Balance::RoundRobin] {
            let (one, two, (_bound, deaf)) = (Upstream::honest(), Upstream::honest(), deaf());
            let upstreams = vec![one.address.clone(), deaf, two.address.clone()];
            let running = serve(driver, ProxyConfig { balance, ..ProxyConfig::new(upstreams) });
            let mut clients: Vec<TcpStream> = (0..8).map(|_| connect(&running)).collect();
            for n in 0..10 {
                for client in &mut clients {
                    client.send(post(&format!("/{n}"), "x"));
                }
                for client in &mut clients {
                    assert_eq!(receive(client).text(), format!("/{n} x"));
                }
            }
            assert!(one.accepted() > 0 && two.accepted() > 0, "{} and {}", one.accepted(), two.accepted());
        }
    });
}

#[test]
fn requests_wait_for_a_connection_and_not_all_may() {
    on_both_drivers(|driver| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::new(move |line| {
            while line.request().is_some() {
                wait.lock().unwrap().recv().unwrap();
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
            }
        });
        let limits = ProxyConfig { connections_max: 1, queue_max: 2, ..config(&upstream) };
        let running = serve(driver, limits.clone());
        let mut clients: Vec<TcpStream> = (0..4).map(|_| connect(&running)).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(get(&format!("/{n}")));
            eventually(n as u64 + 1, || running.stats().total().requests);
        }
        let reply = receive(&mut clients[3]);
        assert_eq!((reply.status, reply.field("retry-after")), (503, Some("1")));
        // One that waits leaves: the others move up.
        drop(clients.remove(1));
        // The client's and the upstream's are left.
        eventually(4, || running.stats().total().connections);
        for client in &mut clients[..2] {
            go.send(()).unwrap();
            assert_eq!(receive(client).text(), "hi");
        }
        assert_eq!(upstream.accepted(), 1);

        let queue_timeout = Duration::from_millis(100);
        let running = serve(driver, ProxyConfig { queue_timeout, fleet: Fleet::default(), ..limits });
        let mut clients: Vec<TcpStream> = (0..2).map(|_| connect(&running)).collect();
        clients[0].send(get("/first"));
        eventually(1, || running.stats().total().requests);
        clients[1].send(get("/second"));
        assert_eq!(receive(&mut clients[1]).status, 503);
        go.send(()).unwrap();
        assert_eq!(receive(&mut clients[0]).status, 200);
    });
}

/// So many clients, each with one request at a time. Returns how many connections upstreams were given.
fn connections_used(driver: DriverChoice, workers: usize) -> usize {
    const CLIENTS: usize = 48;
    let upstreams = [(); 2].map(|()| Upstream::honest());
    let addresses = upstreams.iter().map(|upstream| upstream.address.clone()).collect();
    let proxy = patient(addresses);
    let config = common::config(driver).with_workers(workers);
    let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(&running)).collect();
    for n in 0..20 {
        for client in &mut clients {
            client.send(get(&format!("/{n}")));
        }
        for client in &mut clients {
            assert_eq!(receive(client).text(), format!("/{n} "));
        }
    }
    let accepted = running.stats().workers().iter().filter(|worker| worker.counters.accepted > 0).count();
    assert_eq!(accepted, workers, "not every worker has clients");
    upstreams.iter().map(Upstream::accepted).sum()
}

#[test]
fn more_workers_do_not_multiply_connections() {
    on_both_drivers(|driver| {
        // Two workers choose by chance, and who is run when adds to it: one count in thirty was above the bound on a busy machine.
        let median = |workers| {
            let mut counts = [(); 5].map(|()| connections_used(driver, workers));
            counts.sort_unstable();
            counts[2]
        };
        let [one, two] = [1, 2].map(median);
        say_past_capture(&format!("{driver}: {one} connections with upstreams of one worker, {two} of two"));
        assert!(two * 10 <= one * 12, "{two} connections of two workers, {one} of one");
    });
}

#[test]
fn limits_and_the_queue_hold_for_all_workers() {
    const CLIENTS: usize = 24;
    on_both_drivers(|driver| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::new(move |line| {
            while line.request().is_some() {
                wait.lock().unwrap().recv().unwrap();
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
            }
        });
        let proxy =
            ProxyConfig { connections_max: 3, queue_max: 15, queue_timeout: PATIENCE, ..config(&upstream) };
        let fleet = proxy.fleet.clone();
        let config = common::config(driver).with_workers(2);
        let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(&running)).collect();
        let counts = move || fleet.counts().remove(0);
        clients[..3].iter_mut().for_each(|client| client.send(get("/")));
        eventually(3, || counts().in_flight);
        clients[3..].iter_mut().for_each(|client| client.send(get("/")));
        eventually((3, 15), || (counts().open, counts().waiting));
        eventually(CLIENTS as u64, || running.stats().total().requests);
        assert_eq!((counts().open, counts().waiting), (3, 15));
        // Three and fifteen are answered, whatever worker they are with; the others are told so.
        (0..18).for_each(|_| go.send(()).unwrap());
        let mut statuses: Vec<u16> = clients.iter_mut().map(|client| receive(client).status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [[200; 18].as_slice(), &[503; 6]].concat());
        // Idle connections may end; no request is left.
        eventually((0, 0), || (counts().in_flight, counts().waiting));
        drop(running);
        assert_eq!(counts().open, 0);
    });
}

#[test]
fn a_rate_holds_for_all_workers() {
    const CLIENTS: usize = 24;
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        for per in [Per::Route, Per::Client] {
            let limit = Limit::new(RouteRate { per, rate: "10/h".parse().unwrap() });
            let proxy = ProxyConfig { limit: Some(limit), ..config(&upstream) };
            let config = common::config(driver).with_workers(2);
            let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
            let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(&running)).collect();
            clients.iter_mut().for_each(|client| client.send(get("/")));
            let mut statuses: Vec<u16> = clients.iter_mut().map(|client| receive(client).status).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [[200; 10].as_slice(), &[429; 14]].concat());
            let stats = running.stats();
            let accepted = stats.workers().iter().filter(|worker| worker.counters.accepted > 0).count();
            assert_eq!(accepted, 2, "not every worker has clients");
        }
    });
}

/// Answers everything with this status.
fn with_status(status: u16) -> Upstream {
    Upstream::new(move |line| {
        while line.request().is_some() {
            line.try_send(format!("HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n"));
        }
    })
}

#[test]
fn who_fails_is_ejected_and_comes_back() {
    on_both_drivers(|driver| {
        let (good, bad) = (Upstream::honest(), with_status(500));
        let upstreams = vec![good.address.clone(), bad.address.clone()];
        let time = Duration::from_millis(400);
        let ejection = Ejection { on_server_errors: true, time, ..Ejection::default() };
        let proxy = ProxyConfig { balance: Balance::RoundRobin, ejection, ..ProxyConfig::new(upstreams) };
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        let mut ask = || {
            client.send(get("/"));
            receive(&mut client).status
        };
        let failed = (0..10).filter(|_| ask() == 500).count();
        assert_eq!(failed, 5, "every other one");
        let began = Instant::now();
        while began.elapsed() < time / 2 {
            assert_eq!(ask(), 200);
        }
        eventually(500, ask);
        let of = |upstream: &Upstream| {
            fleet.counts().into_iter().find(|it| it.address == upstream.address).unwrap()
        };
        assert_eq!((of(&bad).ejections, of(&good).failures), (1, 0));
        // Replies that begin well and always break off are no sign of health.
        let breaks = Upstream::new(|line| {
            line.request();
            line.try_send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        });
        let upstreams = vec![good.address.clone(), breaks.address.clone()];
        let proxy = ProxyConfig { balance: Balance::RoundRobin, ..ProxyConfig::new(upstreams) };
        let broken = proxy.fleet.clone();
        let running = serve(driver, proxy);
        for _ in 0..12 {
            let mut client = connect(&running);
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            // It may be cut by a reset.
            let _ = client.read_to_end(&mut Vec::new());
        }
        let ejections = broken.counts().iter().map(|it| (it.address == breaks.address, it.ejections)).max();
        assert_eq!(ejections, Some((true, 1)));
        // Left alone it is never ejected: that would help nobody.
        let alone = ProxyConfig { ejection, ..config(&bad) };
        let fleet = alone.fleet.clone();
        let running = serve(driver, alone);
        let mut client = connect(&running);
        for _ in 0..12 {
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, 500);
        }
        let counts = fleet.counts().remove(0);
        assert_eq!((counts.ejections, counts.spared, counts.requests), (0, 2, 12));
    });
}

#[test]
fn an_upstream_that_is_always_busy_is_asked_once_for_each_request() {
    const REQUESTS: usize = 200;
    on_both_drivers(|driver| {
        let busy = with_status(503);
        let proxy = config(&busy);
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        for _ in 0..REQUESTS {
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, 503);
        }
        let asked = fleet.counts().remove(0).requests;
        assert!(asked <= REQUESTS as u64 * 5 / 4, "{asked} for {REQUESTS}");
    });
}

#[test]
fn checks_take_a_server_out_and_bring_it_back() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    on_both_drivers(|driver| {
        let (is_up, checks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (up, count) = (is_up.clone(), checks.clone());
        let sick = Upstream::new(move |line| {
            while let Some(request) = line.request() {
                let is_check = request.starts_with("GET /health HTTP/1.1\r\n");
                count.fetch_add(usize::from(is_check), SeqCst);
                let status = if is_check && !up.load(SeqCst) { 503 } else { 200 };
                line.try_send(format!("HTTP/1.1 {status} Said\r\nContent-Length: 4\r\n\r\nsick"));
            }
        });
        let well = Upstream::new(|line| {
            while line.request().is_some() {
                line.try_send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell");
            }
        });
        let every = Duration::from_millis(40);
        let proxy = ProxyConfig {
            check: Some(Check { every, ..Check::new("/health".parse().unwrap()) }),
            ..ProxyConfig::new(vec![sick.address.clone(), well.address.clone()])
        };
        let fleet = proxy.fleet.clone();
        let config = common::config(driver).with_workers(2);
        let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
        let of_sick = || fleet.counts().into_iter().find(|it| it.address == sick.address).unwrap();
        let mut client = connect(&running);
        let mut ask = || {
            client.send(get("/"));
            receive(&mut client).text().to_owned()
        };
        eventually("sick".to_owned(), &mut ask);
        is_up.store(false, SeqCst);
        eventually(true, || of_sick().is_down);
        assert!((0..50).all(|_| ask() == "well"));
        is_up.store(true, SeqCst);
        eventually(false, || of_sick().is_down);
        eventually("sick".to_owned(), &mut ask);
        // Two workers do not ask twice as often.
        let (before, began) = (checks.load(SeqCst), Instant::now());
        eventually(true, || checks.load(SeqCst) >= before + 10);
        assert!(began.elapsed() >= every * 7, "10 checks in {:?}", began.elapsed());
    });
}

#[test]
fn keys_and_drained_servers_decide_where_requests_go() {
    on_both_drivers(|driver| {
        let upstreams = [(); 3].map(|()| Upstream::honest());
        let addresses: Vec<Address> = upstreams.iter().map(|upstream| upstream.address.clone()).collect();
        let balance = Balance::Hash(HashBy::Field("x-user".to_owned()));
        let proxy = ProxyConfig { balance, ..ProxyConfig::new(addresses.clone()) };
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        let mut ask = |user: &str| {
            let before = fleet.counts();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n"));
            assert_eq!(receive(&mut client).status, 200);
            let grown = |(a, b): (ServerCounts, ServerCounts)| (a.requests > b.requests).then_some(a.address);
            fleet.counts().into_iter().zip(before).find_map(grown).expect("somebody was asked")
        };
        let users: Vec<String> = (0..30).map(|n| format!("user{n}")).collect();
        let homes: Vec<Address> = users.iter().map(|user| ask(user)).collect();
        assert!(addresses.iter().all(|address| homes.contains(address)), "{homes:?}");
        assert!((0..3).all(|_| users.iter().zip(&homes).all(|(user, home)| ask(user) == *home)));
        // Whoever was at home elsewhere stays there.
        assert!(fleet.drain(&addresses[1], true));
        for (user, home) in users.iter().zip(&homes) {
            let now = ask(user);
            assert!(
                if *home == addresses[1] { now != *home } else { now == *home },
                "{user}: {home} and {now}"
            );
        }
        // By the client whom a trusted proxy names, and not by that proxy.
        let balance = Balance::Hash(HashBy::Client);
        let trusted = vec!["127.0.0.1".parse().unwrap()];
        let proxy =
            ProxyConfig { balance, trusted, fleet: Fleet::default(), ..ProxyConfig::new(addresses.clone()) };
        let by_client = proxy.fleet.clone();
        let running_by_client = serve(driver, proxy);
        let mut client = connect(&running_by_client);
        for n in 0..30 {
            let before = by_client.counts();
            for _ in 0..3 {
                client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.{n}\r\n\r\n"));
                assert_eq!(receive(&mut client).status, 200);
            }
            let grown = by_client.counts().into_iter().zip(before).map(|(a, b)| a.requests - b.requests);
            assert_eq!(grown.max(), Some(3), "all three of 192.0.2.{n} to one");
        }
        assert!(by_client.counts().iter().all(|it| it.requests > 0), "{:?}", by_client.counts());

        addresses.iter().for_each(|address| assert!(fleet.drain(address, true)));
        let mut client = connect(&running);
        client.send(get("/"));
        assert_eq!(receive(&mut client).status, 503);
        assert!(fleet.drain(&addresses[0], false));
        expect_own(&mut client, "/again");
    });
}

#[test]
fn a_cookie_keeps_a_client_with_its_server() {
    on_both_drivers(|driver| {
        let upstreams = [(); 3].map(|()| Upstream::honest());
        let addresses: Vec<Address> = upstreams.iter().map(|upstream| upstream.address.clone()).collect();
        let balance = Balance::Sticky(Sticky::new("place", b"a secret of the test").unwrap());
        let proxy = ProxyConfig { balance, ..ProxyConfig::new(addresses) };
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        let mut ask = |cookie: &str| {
            let before = fleet.counts();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; {cookie}\r\n\r\n"));
            let reply = receive(&mut client);
            assert_eq!(reply.status, 200);
            let grown = |(a, b): (ServerCounts, ServerCounts)| (a.requests > b.requests).then_some(a.address);
            let server = fleet.counts().into_iter().zip(before).find_map(grown).expect("somebody was asked");
            (server, reply.field("set-cookie").map(str::to_owned))
        };
        let mut seen = Vec::new();
        for _ in 0..20 {
            let (home, cookie) = ask("x=y");
            let cookie = cookie.expect("a new client is given one");
            assert!(
                cookie.starts_with("place=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
                "{cookie}"
            );
            let cookie = cookie.split(';').next().unwrap();
            assert!((0..5).all(|_| ask(cookie) == (home.clone(), None)));
            seen.push((home, cookie.to_owned()));
        }
        let (home, cookie) = &seen[0];
        assert!(seen.iter().any(|(other, _)| other != home), "all are with {home}");
        // A server that takes no more is left, and another one is named.
        assert!(fleet.drain(home, true));
        let (other, next) = ask(cookie);
        assert!(other != *home && next.is_some_and(|next| next.starts_with("place=")));
        assert!(ask("place=0123456789abcdef0123456789abcdef").1.is_some(), "nobody can make one");
    });
}

/// A worker whose requests wait gets its part of few connections, whoever had them all before.
#[test]
fn no_worker_keeps_connections_that_another_one_waits_for() {
    const CLIENTS: usize = 24;
    on_both_drivers(|driver| {
        for connections_max in [1, 2, 5] {
            let upstream = Upstream::honest();
            let proxy = ProxyConfig { connections_max, queue_timeout: PATIENCE, ..config(&upstream) };
            let fleet = proxy.fleet.clone();
            let config = common::config(driver).with_workers(2);
            let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
            let address = ip(&running.addresses()[0]);
            std::thread::scope(|scope| {
                for n in 0..CLIENTS {
                    scope.spawn(move || {
                        let mut client = connect_to(address);
                        (0..30).for_each(|m| expect_own(&mut client, &format!("/{n}/{m}")));
                    });
                }
            });
            let counts = fleet.counts().remove(0);
            let used = upstream.accepted();
            say_past_capture(&format!(
                "{driver}: {used} connections for {} requests, {connections_max} at a time",
                counts.requests
            ));
            assert_eq!((counts.waiting, counts.in_flight), (0, 0));
            assert!(counts.open as usize <= connections_max);
            assert!(used <= CLIENTS * 30 / 4, "{used} connections of {connections_max} at a time");
        }
    });
}

/// Idle connections of one worker are not in the way of another one's requests.
#[test]
fn an_idle_connection_makes_room_for_another_worker() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let proxy = ProxyConfig { connections_max: 1, ..config(&upstream) };
        let config = common::config(driver).with_workers(2);
        let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
        let mut clients: Vec<TcpStream> = (0..12).map(|_| connect(&running)).collect();
        for n in 0..5 {
            for client in &mut clients {
                expect_own(client, &format!("/{n}"));
            }
        }
        let accepted = running.stats().workers().iter().filter(|worker| worker.counters.accepted > 0).count();
        assert_eq!(accepted, 2, "not every worker has clients");
    });
}

/// One address may be there twice, as of two names: what waits for the one has the room that the other one leaves, of one worker too.
#[test]
fn two_servers_at_one_address_have_its_connections_in_turn() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let sticky = Balance::Sticky(Sticky::new("place", b"a secret of the test").unwrap());
        for balance in [Balance::RoundRobin, sticky.clone()] {
            let twice = vec![upstream.address.clone(); 2];
            let running = serve(driver, ProxyConfig { connections_max: 1, balance, ..patient(twice) });
            // The idle one is often the other's.
            let mut client = connect(&running);
            (0..6).for_each(|n| expect_own(&mut client, &format!("/{n}")));
        }
        // A crowd that stays with the one of them leaves something to the other one's.
        let twice = vec![upstream.address.clone(); 2];
        let running = serve(driver, ProxyConfig { connections_max: 1, balance: sticky, ..patient(twice) });
        let mut client = connect(&running);
        client.send(get("/"));
        let cookie = receive(&mut client).field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let (address, is_over) = (ip(&running.addresses()[0]), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = connect_to(address);
                    while !is_over.load(Relaxed) {
                        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
                        assert_eq!(receive(&mut client).status, 200);
                    }
                });
            }
            let ask = |client: &mut TcpStream| {
                client.send(get("/"));
                receive(client).status
            };
            let statuses: Vec<u16> = (0..12).map(|_| ask(&mut client)).collect();
            is_over.store(true, Relaxed);
            assert_eq!(statuses, [200; 12]);
        });
    });
}

/// However many refuse: each is tried once.
#[test]
fn a_request_that_hundreds_of_servers_refuse_is_answered() {
    on_both_drivers(|driver| {
        let (_nobody, servers) = many_deaf(300);
        let proxy = ProxyConfig { queue_timeout: PATIENCE, ..ProxyConfig::new(servers) };
        let running = serve(driver, proxy.clone());
        let mut client = connect(&running);
        client.send(get("/"));
        assert_eq!(receive(&mut client).status, 502);
        assert_eq!(proxy.fleet.counts().iter().map(|it| it.failures).sum::<u64>(), 300);
    });
}

//! Listeners of a running engine over real sockets, on both drivers: they come, change and go, and nobody who is connected notices.

mod common;

use common::http::{get, receive};
use common::*;
use ringmill::http::{self, Reply, Request};
use ringmill::{
    Address, Dialer, DriverChoice, Echo, Engine, Error, Gate, GateRules, Io, ListenOptions, Listeners,
    Networks, Protocol, Running, Step,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Two workers that say `text`.
fn saying(driver: DriverChoice, text: &'static str) -> (Running, Listeners) {
    let config = config(driver).with_workers(2);
    let builder = Engine::builder().config(config).listen("127.0.0.1:0", move |_| says(text));
    let running = builder.start().unwrap();
    let listeners = running.listeners().unwrap();
    (running, listeners)
}

fn says(text: &'static str) -> http::Server<impl FnMut(&Request<'_>, &mut Reply<'_>)> {
    http::server(move |_: &Request<'_>, reply: &mut Reply<'_>| reply.text(text))
}

fn any() -> Address {
    "127.0.0.1:0".parse().unwrap()
}

#[track_caller]
fn ask(client: &mut TcpStream, expected: &str) {
    client.send(get("/"));
    assert_eq!(receive(client).text(), expected);
}

/// So many connections that each of two workers has some.
fn connected(address: SocketAddr) -> Vec<TcpStream> {
    (0..16).map(|_| connect_to(address)).collect()
}

#[test]
fn a_listener_comes_and_goes() {
    on_both_drivers(|driver| {
        let (running, listeners) = saying(driver, "first");
        let address = listeners.add(&any(), ListenOptions::default(), |_| says("second")).unwrap();
        let mut second = connected(ip(&address));
        let mut first = connected(ip(&running.addresses()[0]));
        second.iter_mut().for_each(|client| ask(client, "second"));
        first.iter_mut().for_each(|client| ask(client, "first"));
        assert!(listeners.remove(&address));
        assert!(!listeners.remove(&address), "it is gone");
        eventually(true, || TcpStream::connect(ip(&address)).is_err());
        second.iter_mut().for_each(|client| ask(client, "second"));
        first.iter_mut().for_each(|client| ask(client, "first"));
        // And the same address once more, with another protocol.
        assert_eq!(listeners.add(&address, ListenOptions::default(), |_| Echo::default()).unwrap(), address);
        for mut client in connected(ip(&address)) {
            client.ask("echo", "echo");
        }
        let handle = running.handle();
        handle.drain(Duration::from_secs(10));
        drop((first, second));
        running.join().unwrap();
    });
}

#[test]
fn a_listener_may_change_its_protocol() {
    on_both_drivers(|driver| {
        let (running, listeners) = saying(driver, "before");
        let address = running.addresses()[0].clone();
        let mut before = connected(ip(&address));
        before.iter_mut().for_each(|client| ask(client, "before"));
        assert!(listeners.replace(&address, |_| says("behind")).unwrap());
        // Each worker has it within a turn.
        std::thread::sleep(Duration::from_millis(50));
        connected(ip(&address)).iter_mut().for_each(|client| ask(client, "behind"));
        before.iter_mut().for_each(|client| ask(client, "before"));
        assert!(!listeners.replace(&any(), |_| says("never")).unwrap());
        for _ in 0..200 {
            assert!(listeners.replace(&address, |_| says("again")).unwrap());
        }
        std::thread::sleep(Duration::from_millis(50));
        connected(ip(&address)).iter_mut().for_each(|client| ask(client, "again"));
        before.iter_mut().for_each(|client| ask(client, "before"));
    });
}

/// From one address to all of them, and back: nobody is in the way but oneself.
#[test]
fn a_listener_may_give_way_to_one_for_all_addresses() {
    on_both_drivers(|driver| {
        let (running, listeners) = saying(driver, "first");
        let one = running.addresses()[0].clone();
        let all: Address = format!("0.0.0.0:{}", ip(&one).port()).parse().unwrap();
        listeners.add(&all, ListenOptions::default(), |_| says("all")).unwrap();
        assert!(listeners.remove(&one));
        // Who comes while the one is closed may be reset.
        eventually(true, || {
            let mut client = connect_to(ip(&one));
            let asked = client.write_all(get("/").as_bytes());
            let mut reply = Vec::new();
            let _ = client.shutdown(std::net::Shutdown::Write);
            let _ = client.read_to_end(&mut reply);
            asked.is_ok() && reply.ends_with(b"all")
        });
        listeners.add(&one, ListenOptions::default(), |_| says("one")).unwrap();
        assert!(listeners.remove(&all));
        connected(ip(&one)).iter_mut().for_each(|client| ask(client, "one"));
    });
}

#[test]
fn what_cannot_be_had_changes_nothing() {
    on_both_drivers(|driver| {
        let (running, listeners) = saying(driver, "first");
        let own = running.addresses()[0].clone();
        let twice = listeners.add(&own, ListenOptions::default(), |_| says("twice"));
        assert!(matches!(&twice, Err(Error::Config { .. })), "{twice:?}");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = Address::Ip(taken.local_addr().map(|address| (taken, address)).unwrap().1);
        let _held = std::net::TcpListener::bind(ip(&taken));
        let refused = listeners.add(&taken, ListenOptions::default(), |_| says("never"));
        assert!(matches!(&refused, Err(Error::Listen { .. })), "{refused:?}");
        let broken = listeners.add(&any(), ListenOptions::default(), |worker| {
            assert!(worker.index == 0, "this one does not want to");
            says("never")
        });
        assert!(matches!(&broken, Err(Error::Factory { worker: 1 })), "{broken:?}");
        let address = listeners.add(&any(), ListenOptions::default(), |_| says("second")).unwrap();
        connected(ip(&address)).iter_mut().for_each(|client| ask(client, "second"));
        connected(ip(&own)).iter_mut().for_each(|client| ask(client, "first"));
    });
}

#[test]
fn a_unix_listener_takes_its_file_along() {
    on_both_drivers(|driver| {
        let (running, listeners) = saying(driver, "first");
        let directory = Directory::new();
        let path = directory.file("socket");
        let address: Address = format!("unix:{path}").parse().unwrap();
        for round in 0..3 {
            listeners.add(&address, ListenOptions::default(), |_| Echo::default()).unwrap();
            let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            client.ask("echo", "echo");
            assert!(listeners.remove(&address), "round {round}");
            assert!(!std::path::Path::new(&path).exists(), "round {round}");
            client.ask("echo", "echo");
        }
        drop(running);
    });
}

/// Whoever was let in by the kernel before a listener goes is served, accepted or not. One that comes while it is closed may be reset: the
/// kernel has no way to close a listener that nobody is let in to.
#[test]
fn who_has_connected_is_served_when_a_listener_goes() {
    on_both_drivers(|driver| {
        let (_running, listeners) = saying(driver, "first");
        for _ in 0..20 {
            let address = listeners.add(&any(), ListenOptions::default(), |_| says("second")).unwrap();
            let mut clients = connected(ip(&address));
            assert!(listeners.remove(&address));
            clients.iter_mut().for_each(|client| ask(client, "second"));
            eventually(true, || TcpStream::connect(ip(&address)).is_err());
        }
    });
}

/// Keeps memory, and says so.
struct Keeper;

impl Protocol for Keeper {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, _: &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }

    fn start(&mut self, dialer: Dialer) {
        dialer.hold(4 << 20);
    }
}

#[test]
fn what_a_protocol_keeps_is_not_counted_when_it_is_gone() {
    on_both_drivers(|driver| {
        let (running, listeners) = saying(driver, "first");
        let is_kept = || running.stats().total().memory_bytes > 7 << 20;
        let address = listeners.add(&any(), ListenOptions::default(), |_| Keeper).unwrap();
        eventually(true, is_kept);
        assert!(listeners.replace(&address, |_| Echo::default()).unwrap());
        eventually(false, is_kept);
    });
}

/// The engine ends while somebody wants to change it.
#[test]
fn an_engine_that_ends_takes_no_more_listeners() {
    on_both_drivers(|driver| {
        let (running, listeners) = saying(driver, "first");
        running.handle().stop();
        running.join().unwrap();
        let late = listeners.add(&any(), ListenOptions::default(), |_| says("late"));
        assert!(late.is_err(), "{late:?}");
        let address = any();
        assert!(!listeners.remove(&address));
    });
}

/// Connections of one address that are tried, or as many as the limit of descriptors leaves room for.
const FLOOD: usize = 10_000;
/// Those that it may have.
const MAY_HAVE: usize = 200;

fn is_served(client: &mut std::io::Result<TcpStream>) -> bool {
    let mut reply = [0; 5];
    let Ok(client) = client else { return false };
    client.write_all(b"hello").and_then(|()| client.read_exact(&mut reply)).is_ok_and(|()| &reply == b"hello")
}

/// Of ten thousand connections of one address as many are served as may be, and others notice nothing of it.
#[test]
fn one_address_is_held_to_its_limit() {
    let descriptors = ringmill::raise_descriptor_limit();
    let flood = FLOOD.min(descriptors.saturating_sub(2_000) as usize);
    on_both_drivers(|driver| {
        let rules = GateRules { connections_per_ip: Some(MAY_HAVE as u32), ..GateRules::default() };
        let gate = Gate::new(rules.clone());
        let options = ListenOptions { gate: Some(gate.clone()), ..ListenOptions::default() };
        let builder = Engine::builder().config(config(driver).with_workers(2));
        let running = builder.listen_with("127.0.0.1:0", options, |_| Echo::default()).start().unwrap();
        let address = running.addresses()[0].clone();
        let (to, is_over) = (ip(&address), AtomicBool::new(false));
        let (one, others) = ([127, 0, 0, 2], [127, 0, 0, 3]);
        let mut clients: Vec<std::io::Result<TcpStream>> = std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let mut client = connect_from(others, to);
                    assert!(is_served(&mut client), "another one after {count} that were served");
                    // Of as many as these not one is to leave its port taken for a minute.
                    client.into_iter().for_each(reset);
                    count += 1;
                }
                count
            });
            let ends = SetWhenDropped(&is_over);
            let clients = (0..flood).map(|_| connect_from(one, to)).collect();
            drop(ends);
            assert!(others.join().unwrap() > 10);
            clients
        });
        clients.retain_mut(is_served);
        assert_eq!(clients.len(), MAY_HAVE);
        assert_eq!(running.stats().total().gate_per_ip, (flood - MAY_HAVE) as u64);
        // Who leaves makes room.
        clients.truncate(MAY_HAVE - 1);
        eventually(true, || {
            let mut client = connect_from(one, to);
            let is_in = is_served(&mut client);
            clients.extend(is_in.then_some(client));
            is_in
        });
        assert!(!is_served(&mut connect_from(one, to)));
        // Another list holds for who comes: who is in stays, and stays counted.
        let listeners = running.listeners().unwrap();
        let deny = Networks::new(["127.0.0.3/32".parse().unwrap()]);
        let denying = gate.with_rules(GateRules { deny: Some(Arc::new(deny)), ..rules });
        assert!(listeners.set_gate(&address, Some(&denying)));
        eventually(false, || is_served(&mut connect_from(others, to)));
        assert!(!is_served(&mut connect_from(one, to)) && clients.iter_mut().all(is_served));
        assert!(listeners.set_gate(&address, None));
        eventually(true, || is_served(&mut connect_from(others, to)));
        eventually(true, || is_served(&mut connect_from(one, to)));
        assert!(running.stats().total().gate_denied > 0);
    });
}

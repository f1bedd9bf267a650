//! What handlers that wait may count on, to the millisecond: round trips through blocking threads, ready channels, the end of a client.

use super::common::http::{get, receive};
use super::common::{Client, connect_to, reset};
use super::servers::{on_an_app, on_each_server};
use std::net::Shutdown;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// What is promised.
const SOON: Duration = Duration::from_millis(50);
/// A machine that is busy with something else is late now and then, but not each time.
const TRIES: usize = 5;

#[track_caller]
fn takes_no_longer_than(promised: Duration, mut measure: impl FnMut() -> Duration) {
    let tries: Vec<Duration> = (0..TRIES).map(|_| measure()).take_while(|took| *took >= promised).collect();
    assert!(tries.len() < TRIES, "each time it took longer than {promised:?}: {tries:?}");
}

#[test]
fn a_thousand_blocking_tasks_of_one_connection_come_back_within_50_ms_each() {
    on_each_server(async |address, _| {
        let mut client = connect_to(address);
        takes_no_longer_than(SOON, || {
            let round_trip = |n: u64| {
                let asked = Instant::now();
                client.send(get(&format!("/blocking/{n}")));
                assert_eq!(receive(&mut client).text(), (2 * n).to_string());
                asked.elapsed()
            };
            (0..1000).map(round_trip).max().expect("there are some")
        });
    });
}

#[test]
fn two_thousand_ready_receives_take_one_poll() {
    on_an_app(async |_, address, _| {
        let mut client = connect_to(address);
        client.send(get("/channel/2000"));
        assert_eq!(receive(&mut client).text(), "1999000 in 1");
    });
}

#[test]
fn a_handler_is_dropped_within_50_ms_of_its_clients_end_and_no_receive_is_cancelled_for_it() {
    on_an_app(async |running, address, shared| {
        for is_reset in [false, true] {
            takes_no_longer_than(SOON, || {
                let (began, dropped) = (shared.waiting.load(SeqCst), shared.dropped.load(SeqCst));
                let mut client = connect_to(address);
                client.send(get("/wait"));
                while shared.waiting.load(SeqCst) == began {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Long enough for whatever a request that waits costs.
                std::thread::sleep(Duration::from_millis(20));
                assert_eq!(shared.dropped.load(SeqCst), dropped, "it waits");
                let left = Instant::now();
                match is_reset {
                    true => reset(client),
                    false => client.shutdown(Shutdown::Write).unwrap(),
                }
                while shared.dropped.load(SeqCst) == dropped {
                    assert!(left.elapsed() < Duration::from_secs(10), "it is never dropped");
                    std::thread::sleep(Duration::from_micros(100));
                }
                left.elapsed()
            });
        }
        assert_eq!(running.stats().total().receives_cancelled, 0);
    });
}

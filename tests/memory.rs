//! The memory budget of a worker: what it does near it, in which order, and that it comes back.

mod common;

use common::*;
use ringmill::http::{Reply, Request, Server};
use ringmill::{Config, Counters, Echo, Running};
use std::net::TcpStream;
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Three times the receive buffers: what one turn may add beyond the budget before it is noticed, and what arrives
/// until a pause takes effect, both in buffers that double; and one body's buffer that does.
const SLACK_BYTES: u64 = 3 * 64 * 8192 + (1 << 20);

fn total(running: &Running) -> Counters {
    running.stats().total()
}

fn answer(request: &Request<'_>, reply: &mut Reply<'_>) {
    reply.text(&request.body().len().to_string());
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn short_memory_pauses_accepting_then_closes_idle_connections_then_refuses() {
    on_both_drivers(|driver| {
        let config = Config {
            recv_buffers: 64,
            recv_buffer_bytes: 8192,
            ..config(driver).with_memory_bytes_max(4 * MIB)
        };
        let running = start(config, |_| Server::new(answer));
        let mut idle = connect(&running);
        idle.send(GET);
        eventually(1, || total(&running).requests);
        let mut uploads: Vec<TcpStream> = (0..8).map(|_| connect(&running)).collect();
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {MIB}\r\n\r\n");
        uploads.iter_mut().for_each(|upload| upload.send(&head));
        let mut received = (GET.len() + uploads.len() * head.len()) as u64;
        eventually(received, || total(&running).received_bytes);

        let mut waiting = None;
        let mut refusal = None;
        'filling: for _ in 0..MIB / 65_536 - 1 {
            for upload in &mut uploads {
                upload.send(vec![b'x'; 65_536]);
                received += 65_536;
                eventually(received, || total(&running).received_bytes);
                let now = total(&running);
                assert!(now.memory_bytes <= 4 * MIB as u64 + SLACK_BYTES, "{now:?}");
                if now.memory_shortages > 0 && waiting.is_none() {
                    let mut client = connect(&running);
                    client.send(GET);
                    waiting = Some(client);
                }
                if now.memory_refused > 0 {
                    refusal = Some(String::from_utf8(upload.rest()).unwrap());
                    break 'filling;
                }
            }
        }
        let refusal = refusal.expect("the uploads pass the budget");
        assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
        assert!(refusal.contains("\r\nretry-after: 1\r\n"), "{refusal}");
        assert_eq!(settled(|| total(&running).memory_refused), 1, "only what passed the budget is refused");
        assert_eq!((total(&running).shed, total(&running).accepted), (1, 9), "{:?}", total(&running));
        assert!(idle.rest().starts_with(b"HTTP/1.1 200 OK\r\n"), "it had its answer, then the end");

        drop(uploads);
        let mut waiting = waiting.expect("memory was short before a request was refused");
        waiting.expect("HTTP/1.1 200 OK\r\n");
        eventually(true, || total(&running).memory_bytes < 2 * MIB as u64);
    });
}

#[test]
fn what_is_kept_of_a_request_is_counted_until_its_end() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| Server::new(answer));
        let memory = || total(&running).memory_bytes;
        let long = "x".repeat(12 * 1024);
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nlong: {long}\r\ncontent-length: 9000\r\n\r\n");
        // The worker keeps the first one's input buffer for the next, and counts it.
        let mut client = connect(&running);
        client.send(&head);
        eventually(head.len() as u64, || total(&running).received_bytes);
        drop(client);
        eventually(0, || total(&running).connections);
        let before = settled(memory);
        let mut client = connect(&running);
        client.send(&head);
        eventually(true, || memory() >= before + head.len() as u64);
        client.send("y".repeat(8999));
        eventually(true, || memory() >= before + head.len() as u64 + 8999);
        drop(client);
        eventually(before, memory);
    });
}

#[test]
fn peers_that_never_read_cannot_pass_the_budget() {
    on_both_drivers(|driver| {
        let config = Config {
            write_timeout: Duration::from_millis(700),
            recv_buffers: 64,
            recv_buffer_bytes: 8192,
            ..config(driver)
        };
        let running = start(config.with_memory_bytes_max(3 * MIB), |_| Echo::default());
        let address = ip(&running.addresses()[0]);
        let mut deaf: Vec<TcpStream> = (0..40).map(|_| connect_narrow(address, 4096)).collect();
        for stream in &mut deaf {
            stream.set_nonblocking(true).unwrap();
        }
        // Until nobody takes any more: each has its output queue full, or the budget is.
        let block = vec![b'x'; 65_536];
        settled(|| {
            for stream in &mut deaf {
                let _ = std::io::Write::write(stream, &block);
            }
            let now = total(&running);
            assert!(now.memory_bytes <= 3 * MIB as u64 + SLACK_BYTES, "{now:?}");
            now.received_bytes
        });
        assert!(total(&running).memory_shortages > 0, "{:?}", total(&running));
        // They are given up in time, and then there is room for those who read.
        let mut client = connect(&running);
        client.ask("hello", "hello");
        drop(deaf);
        client.ask("again", "again");
    });
}

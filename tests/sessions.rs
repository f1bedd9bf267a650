//! What one session may do and is told, over real sockets, on both drivers: the contract of `Protocol` as a
//! client sees it. The protocol is `common/puppet.rs`: it does what its client says, one line a command.

mod common;

use Called::*;
use common::puppet::{Called, Stage};
use common::*;
use ringmill::{Address, CloseReason, Config, DriverChoice, Errno};
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A stage with one client on it.
fn stage(config: Config) -> (Stage, TcpStream) {
    let stage = Stage::new(config);
    let client = stage.connect();
    stage.heard(&[Open]);
    (stage, client)
}

#[test]
fn lines_are_answered_however_they_are_cut() {
    on_both_drivers(|driver| {
        let (_stage, mut client) = stage(config(driver));
        client.ask("say one\nsay two\nsa", "one\ntwo\n");
        client.ask("y three\n", "three\n");
        for byte in b"say byte by byte\n" {
            client.send([*byte]);
        }
        client.expect("byte by byte\n");
    });
}

#[test]
fn after_a_half_close_everything_still_arrives() {
    on_both_drivers(|driver| {
        let check = |commands: &str, calls: &[Called]| {
            let (stage, mut client) = stage(config(driver));
            client.send(commands);
            client.shutdown(Shutdown::Write).unwrap();
            expect_pattern(&mut client, 2_000_000, 100_000);
            client.expect("eof\n");
            client.expect_eof();
            stage.heard(calls);
        };
        check("flood 2000000\n", &[Eof, Closed(CloseReason::Finished)]);
        // A stream that is still being made when the end comes.
        check("stream 2000000\n", &[Drained, Eof, Closed(CloseReason::Finished)]);
    });
}

#[test]
fn a_protocol_may_keep_its_side_open_after_the_clients_end() {
    on_both_drivers(|driver| {
        let (stage, mut client) = stage(config(driver));
        let waker = stage.waker();
        client.ask("stay\nsay ready\n", "ready\n");
        client.shutdown(Shutdown::Write).unwrap();
        client.expect("eof\n");
        waker.wake();
        client.expect("wake\n");
        stage.heard(&[Eof, Wake]);
        assert_eq!(stage.running.stats().total().connections, 1);
    });
}

#[test]
fn close_and_abort_send_everything_and_serve_nothing_more() {
    on_both_drivers(|driver| {
        let (stage, mut client) = self::stage(config(driver));
        client.send("flood 3000000\nclose\nsay never\n");
        stage.heard(&[Closed(CloseReason::Finished)]);
        expect_pattern(&mut client, 3_000_000, 100_000);
        client.expect_eof();
        // The server lingers for us, or else this would be answered with a reset.
        assert_eq!(stage.running.stats().total().failures, 0);

        let mut client = stage.connect();
        client.ask("say hello\n", "hello\n");
        client.send("say first\nabort\nsay never\n");
        stage.heard(&[Open, Closed(CloseReason::Aborted)]);
        assert_eq!(client.expect_reset(), b"first\n");
        // However much that is, and whether or not the client ends its side: the reset comes behind it.
        for ends in [false, true] {
            let mut client = stage.connect();
            client.send("flood 3000000\nabort\n");
            if ends {
                client.shutdown(Shutdown::Write).unwrap();
            }
            stage.heard(&[Open, Closed(CloseReason::Aborted)]);
            expect_pattern(&mut client, 3_000_000, 100_000);
            assert_eq!(client.expect_reset(), b"");
        }
    });
}

#[test]
fn a_client_that_never_closes_after_the_close_is_let_go() {
    on_both_drivers(|driver| {
        let config = Config { linger_timeout: Duration::from_millis(200), ..config(driver) };
        let (stage, mut client) = stage(config);
        client.send("say bye\nclose\n");
        client.expect("bye\n");
        client.expect_eof();
        eventually((1, 0), || {
            let total = stage.running.stats().total();
            (total.closed, total.write_timeouts)
        });
    });
}

#[test]
fn what_a_client_sends_after_the_close_does_not_destroy_the_last_reply() {
    on_both_drivers(|driver| {
        let (_stage, mut client) = stage(config(driver));
        let mut writer = client.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            writer.send("flood 500000\nclose\n");
            // More than all buffers on the way hold: the server has to take it, or we would hang.
            writer.send(vec![b'x'; 16_000_000]);
        });
        writing.join().unwrap();
        expect_pattern(&mut client, 500_000, 100_000);
        client.expect_eof();
    });
}

/// Sends commands to a stage that shall survive the panic they lead to, and checks what the client sees.
fn check_panic(driver: DriverChoice, commands: &str, act: impl Fn(&Stage, &TcpStream), calls: &[Called]) {
    let (stage, mut victim) = stage(config(driver));
    let mut other = stage.connect();
    other.ask("say before\n", "before\n");
    stage.heard(&[Open]);
    victim.send(commands);
    victim.expect("set\n");
    act(&stage, &victim);
    stage.heard(calls);
    eventually((1, 1, 1), || {
        let total = stage.running.stats().total();
        (total.panics, total.closed, total.connections)
    });
    other.ask("say after\n", "after\n");
}

#[test]
fn a_panic_closes_its_own_connection_only() {
    on_both_drivers(|driver| {
        let panicked = Closed(CloseReason::Panicked);
        let wake = |stage: &Stage, _: &TcpStream| stage.waker().wake();
        let end = |_: &Stage, victim: &TcpStream| victim.shutdown(Shutdown::Write).unwrap();
        let nothing = |_: &Stage, _: &TcpStream| {};
        let say = |text: &'static str| move |_: &Stage, mut victim: &TcpStream| victim.send(text);
        let commands = "panic drained\nsay set\n";
        check_panic(driver, "say set\n", say("panic\n"), std::slice::from_ref(&panicked));
        check_panic(driver, "panic eof\nsay set\n", end, &[Eof, panicked.clone()]);
        check_panic(driver, "panic wake\nsay set\n", wake, &[Wake, panicked.clone()]);
        check_panic(driver, "panic timeout\nsay set\ndeadline 20\n", nothing, &[Timeout, panicked.clone()]);
        check_panic(driver, "panic closed\nsay set\nclose\n", end, &[Closed(CloseReason::Finished)]);
        let read_all = |_: &Stage, mut victim: &TcpStream| {
            victim.send("stream 3000000\n");
            let _ = std::io::copy(&mut victim, &mut std::io::sink());
        };
        check_panic(driver, commands, read_all, &[panicked]);
    });
}

#[test]
fn a_panic_in_open_closes_that_connection_and_the_next_is_taken() {
    on_both_drivers(|driver| {
        let stage = Stage::with(config(driver), true);
        for n in 1..=3 {
            // So fast that connecting itself may fail with the reset.
            match TcpStream::connect(ip(&stage.running.addresses()[0])) {
                Ok(client) => drop(with_patience(client).expect_reset()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
            eventually((n, n, 0), || {
                let total = stage.running.stats().total();
                (total.panics, total.closed, total.connections)
            });
        }
    });
}

#[test]
fn a_panic_during_a_drain_does_not_stop_it() {
    on_both_drivers(|driver| {
        let (stage, mut victim) = stage(config(driver));
        let mut other = stage.connect();
        other.ask("say before\n", "before\n");
        victim.ask("panic drain\nsay set\n", "set\n");
        stage.running.handle().drain(PATIENCE);
        victim.expect_reset();
        other.expect("drain\n");
        other.expect_eof();
        drop(other);
        stage.running.join().unwrap();
    });
}

#[test]
fn need_waits_for_so_many_bytes() {
    const BYTES: usize = 300_000;
    on_both_drivers(|driver| {
        let (stage, mut client) = stage(config(driver));
        client.send(format!("need {BYTES}\n"));
        for piece in pattern(0, BYTES - 1).chunks(7777) {
            client.send(piece);
        }
        settled(|| stage.running.stats().total().received_bytes);
        client.send("!");
        stage.heard(&[Data(BYTES)]);
        client.ask("say now\nneed 3\n", "now\n");
        client.send("a");
        client.send("bc");
        stage.heard(&[Data(3)]);
        client.ask("say on\n", "on\n");
        // The end comes before what is needed: the session is told of the end, not of the rest.
        client.send("need 100\nabc");
        client.shutdown(Shutdown::Write).unwrap();
        stage.heard(&[Eof, Closed(CloseReason::Finished)]);
    });
}

#[test]
fn need_of_what_is_there_already_is_met_at_once() {
    on_both_drivers(|driver| {
        let (stage, mut client) = stage(config(driver));
        client.send("need 3\nabcde");
        stage.heard(&[Data(5)]);
    });
}

#[test]
fn a_paused_session_reads_nothing_until_it_is_woken() {
    const BYTES: usize = 18_000_000;
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver));
        let mut client = connect_narrow(ip(&stage.running.addresses()[0]), 64 * 1024);
        let waker = stage.waker();
        client.send("pause\nsay resumed\n");
        let mut writer = client.try_clone().unwrap();
        let writing = std::thread::spawn(move || writer.send("say x\n".repeat(BYTES / 6)));
        let reading = std::thread::spawn(move || {
            client.expect("wake\nresumed\n");
            for _ in 0..BYTES / 6000 {
                client.expect("x\n".repeat(1000));
            }
        });
        // Paused means that the kernel's buffers fill up, not ours.
        let taken = settled(|| stage.running.stats().total().received_bytes);
        assert!(taken < 1_000_000, "a paused session's worker read {taken} bytes");
        assert!(!writing.is_finished());
        std::thread::spawn(move || waker.wake()).join().unwrap();
        stage.heard(&[Open, Wake]);
        reading.join().unwrap();
        writing.join().unwrap();
    });
}

#[test]
fn a_paused_session_is_told_at_once_that_its_peer_has_ended() {
    on_both_drivers(|driver| {
        let (stage, mut client) = stage(config(driver));
        let waker = stage.waker();
        client.send("pause\nsay behind\n");
        client.shutdown(Shutdown::Write).unwrap();
        stage.heard(&[Gone]);
        waker.wake();
        client.expect("wake\nbehind\neof\n");
        stage.heard(&[Wake, Eof, Closed(CloseReason::Finished)]);
        assert_eq!(stage.running.stats().total().receives_cancelled, 0);
        // And at once that it is gone for good.
        let mut client = stage.connect();
        client.send("pause\nsay never\n");
        eventually(2, || stage.running.stats().total().accepted);
        settled(|| stage.running.stats().total().received_bytes);
        reset(client);
        stage.heard(&[Open, Closed(CloseReason::Failed(Errno::ECONNRESET))]);
        assert_eq!(stage.running.stats().total().receives_cancelled, 0);
    });
}

#[test]
fn a_thousand_wakes_from_another_thread_are_a_thousand_calls() {
    on_both_drivers(|driver| {
        let (stage, mut client) = stage(config(driver));
        let waker = stage.waker();
        client.ask("say here\n", "here\n");
        let (turn, its_turn) = std::sync::mpsc::channel();
        let waking = std::thread::spawn(move || its_turn.iter().for_each(|()| waker.wake()));
        for _ in 0..1000 {
            turn.send(()).unwrap();
            client.expect("wake\n");
        }
        drop(turn);
        waking.join().unwrap();
    });
}

#[test]
fn wakes_from_many_threads_reach_their_own_connections() {
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver).with_workers(2));
        let mut clients = Vec::new();
        for _ in 0..20 {
            let client = stage.connect();
            clients.push((client, stage.waker()));
        }
        let waking: Vec<_> = clients
            .iter()
            .map(|(_, waker)| {
                let waker = waker.clone();
                std::thread::spawn(move || waker.wake())
            })
            .collect();
        for wake in waking {
            wake.join().unwrap();
        }
        for (client, _) in &mut clients {
            client.expect("wake\n");
            client.ask("say on\n", "on\n");
        }
        // A wake for a connection that is gone does nothing, also not to the next one in its place.
        let (gone, waker) = clients.pop().unwrap();
        drop(gone);
        eventually(1, || stage.running.stats().total().closed);
        let mut next = stage.connect();
        waker.wake();
        next.ask("say only this\n", "only this\n");
    });
}

#[test]
fn a_deadline_is_told_once_and_not_before_its_time() {
    on_both_drivers(|driver| {
        let (stage, mut client) = stage(config(driver));
        let began = std::time::Instant::now();
        client.ask("stay\ndeadline 150\n", "timeout\n");
        assert!(began.elapsed() >= Duration::from_millis(150), "after {:?}", began.elapsed());
        stage.heard(&[Timeout]);
        // Moved later, it comes later; a close needs no deadline.
        client.send("deadline 20\ndeadline 60000\n");
        client.ask("say no timeout\n", "no timeout\n");
        settled(|| stage.running.stats().total().timeouts);
        client.send("close\n");
        client.expect_eof();
        stage.heard(&[Closed(CloseReason::Finished)]);
        assert_eq!(stage.running.stats().total().timeouts, 1);
    });
}

#[test]
fn a_stream_fills_the_output_only_as_it_drains() {
    const BYTES: usize = 30_000_000;
    on_both_drivers(|driver| {
        // The hard cap is far below the stream: without draining it would be hit at once.
        let config = Config { output_bytes_max: 512 * 1024, ..config(driver) };
        let stage = Stage::new(config);
        let mut client = connect_narrow(ip(&stage.running.addresses()[0]), 64 * 1024);
        client.send(format!("stream {BYTES}\n"));
        settled(|| stage.running.stats().total().sent_bytes);
        expect_pattern(&mut client, BYTES, 50_000);
        stage.heard(&[Open, Drained]);
        client.ask("say and on\n", "and on\n");
    });
}

#[test]
fn limits_on_input_and_output_close_the_connection() {
    on_both_drivers(|driver| {
        let config = Config {
            input_bytes_max: 100_000,
            output_high_water_bytes: 50_000,
            output_low_water_bytes: 10_000,
            output_bytes_max: 200_000,
            ..config(driver)
        };
        let stage = Stage::new(config);
        let check = |commands: &str, filler: usize, reason: CloseReason| {
            let before = stage.running.stats().total().overflows;
            let mut client = stage.connect();
            client.send(commands);
            // The connection may be reset while this is being sent.
            let _ = std::io::Write::write_all(&mut client, &vec![b'x'; filler]);
            stage.heard(&[Open, Closed(reason)]);
            let _ = std::io::copy(&mut client, &mut std::io::sink());
            eventually(before + 1, || stage.running.stats().total().overflows);
        };
        check("keep\n", 1_000_000, CloseReason::InputOverflow);
        check("a line without an end ", 1_000_000, CloseReason::InputOverflow);
        check("need 100001\n!", 0, CloseReason::InputOverflow);
        check("flood 200001\n", 0, CloseReason::OutputOverflow);
        let mut client = stage.connect();
        client.send("flood 200000\nneed 100000\n");
        expect_pattern(&mut client, 200_000, 10_000);
        client.send(vec![b'x'; 100_000]);
        stage.heard(&[Open, Data(100_000)]);
    });
}

#[test]
fn a_session_knows_both_ends() {
    on_both_drivers(|driver| {
        let (_stage, mut client) = stage(config(driver));
        let [peer, local] = [client.local_addr(), client.peer_addr()].map(|name| Address::Ip(name.unwrap()));
        client.ask("names\n", format!("{:?} {:?}\n", Some(peer), Some(local)));
    });
}

#[test]
fn a_greedy_client_leaves_the_others_their_turns_and_their_deadlines() {
    const BYTES: usize = 300_000_000;
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver));
        let (mut greedy, mut modest) = (stage.connect(), stage.connect());
        greedy.send(format!("stream {BYTES}\n"));
        let done = Arc::new(AtomicBool::new(false));
        let reading = std::thread::spawn({
            let done = done.clone();
            move || {
                let mut buffer = vec![0; 256 * 1024];
                while !done.load(Ordering::Relaxed) {
                    assert!(std::io::Read::read(&mut greedy, &mut buffer).unwrap() > 0);
                }
            }
        });
        for _ in 0..100 {
            modest.ask("say and me\n", "and me\n");
        }
        modest.ask("stay\ndeadline 30\n", "timeout\n");
        let sent = stage.running.stats().total().sent_bytes;
        assert!(sent < BYTES as u64, "all was over before the others had their turns");
        done.store(true, Ordering::Relaxed);
        reading.join().unwrap();
    });
}

#[test]
fn state_of_a_worker_is_shared_by_its_sessions_without_a_lock() {
    on_both_drivers(|driver| {
        let stage = Stage::new(config(driver).with_workers(2));
        let mut lines = [0, 0];
        for _ in 0..24 {
            let mut client = stage.connect();
            client.send("worker\n");
            let mut answer = [0; 2];
            std::io::Read::read_exact(&mut client, &mut answer).unwrap();
            let worker = usize::from(answer[0] - b'0');
            lines[worker] += 2;
            client.ask("lines\n", format!("{}\n", lines[worker]));
        }
        assert!(lines.iter().all(|lines| *lines > 0), "{lines:?}");
    });
}

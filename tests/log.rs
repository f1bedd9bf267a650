//! The log is best effort: whatever becomes of standard error, the server serves, drains and ends in order.
#![cfg(feature = "cli")]

mod common;
// The very file of the command: its panic hook needs a handler that panics, which the command has not.
#[allow(dead_code)]
#[path = "../src/cli/log.rs"]
mod log;

use common::http::{exchange, get, undated};
use common::program::ringmill;
use common::{Client, Directory, PATIENCE, Program, alone, connect_to, eventually, on_both_drivers, site};
use ringmill::DriverChoice;
use ringmill::http::Limits;
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// A pipe without room.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: takes no memory; the descriptor is open.
    let capacity = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
    writer.write_all(&vec![b'\n'; usize::try_from(capacity).unwrap()]).unwrap();
    (reader, writer)
}

/// What becomes of standard error; the second value keeps it so.
fn bad_stderrs() -> [(&'static str, Stdio, Option<PipeReader>); 3] {
    let (_, gone) = std::io::pipe().unwrap();
    let (reader, full) = full_pipe();
    let disk = OpenOptions::new().write(true).open("/dev/full").unwrap();
    [
        ("a pipe whose reader has gone", gone.into(), None),
        ("a full disk", disk.into(), None),
        ("a full pipe that nobody reads", full.into(), Some(reader)),
    ]
}

/// A server on a Unix socket, whose address is known without its log.
fn serve(driver: DriverChoice, directory: &Directory, stderr: impl Into<Stdio>) -> (Program, String) {
    let path = directory.file("http.sock");
    let server = Program::serve_with_stderr(driver, &["--listen", &format!("unix:{path}")], stderr);
    eventually(true, || UnixStream::connect(&path).is_ok() && server.catches(libc::SIGTERM));
    (server, path)
}

fn connect(path: &str) -> UnixStream {
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// A request whose body is still to come.
fn begin(path: &str) -> UnixStream {
    let mut client = connect(path);
    let head = "POST /upload HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n";
    client.ask(head, "HTTP/1.1 100 Continue\r\n\r\n");
    client
}

#[test]
fn whatever_standard_error_is_it_serves_drains_and_ends_well() {
    on_both_drivers(|driver| {
        for (name, stderr, _reader) in bad_stderrs() {
            let directory = Directory::new();
            let (mut server, path) = serve(driver, &directory, stderr);
            let mut upload = begin(&path);
            server.signal(libc::SIGTERM);
            eventually(true, || UnixStream::connect(&path).is_err());
            upload.send("0123456789");
            let reply = undated(&upload.rest());
            // The server waits for its end.
            drop(upload);
            assert!(
                reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\n10"),
                "{name}: {reply}"
            );
            assert_eq!(server.wait().code(), Some(0), "{name}");
        }
    });
}

#[test]
fn whatever_standard_error_is_a_second_signal_ends_at_once() {
    on_both_drivers(|driver| {
        for (name, stderr, _reader) in bad_stderrs() {
            let directory = Directory::new();
            let (mut server, path) = serve(driver, &directory, stderr);
            let _upload = begin(&path);
            server.signal(libc::SIGTERM);
            eventually(true, || UnixStream::connect(&path).is_err());
            server.signal(libc::SIGTERM);
            assert_eq!(server.wait().code(), Some(128 + libc::SIGTERM), "{name}");
        }
    });
}

/// Nobody waits for an access log that nobody takes: what finds no room is counted, and the end comes all the same.
#[test]
fn an_access_log_that_is_stuck_holds_up_nobody() {
    const REQUESTS: usize = 5_000;
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let file = directory.file("ringmill.toml");
        let text = format!(
            "[server]\nworkers = 1\npin = \"off\"\ndriver = \"{driver}\"\n[access_log]\nto = \"stdout\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nreply = {{ status = 200 }}\n"
        );
        std::fs::write(&file, text).unwrap();
        let (reader, full) = full_pipe();
        let mut command = ringmill();
        command.args(["serve", "--config", &file]);
        let mut server = Program::start_with_stdout(command, full, "worker(s) on CPU");
        let mut client = connect_to(server.http());
        let mut sender = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            sender.write_all(get(&format!("/{}", "x".repeat(500))).repeat(REQUESTS).as_bytes()).unwrap()
        });
        let (mut replies, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        let mut answered = 0;
        while answered < REQUESTS {
            let bytes = client.read(&mut buffer).unwrap();
            assert!(bytes > 0, "it ends behind {answered}");
            replies.extend_from_slice(&buffer[..bytes]);
            answered += replies.windows(4).filter(|end| end == b"\r\n\r\n").count();
            replies.drain(..replies.len().saturating_sub(3));
        }
        sending.join().unwrap();
        eventually(true, || server.line_with("the access log is not taken as fast as it grows").is_some());
        drop(client);
        eventually(true, || server.catches(libc::SIGTERM));
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
        drop(reader);
    });
}

/// Puts a file in the place of standard error, for this whole process.
fn replace_stderr(by: &impl AsRawFd) {
    // SAFETY: takes no memory; both descriptors are open.
    assert_eq!(unsafe { libc::dup2(by.as_raw_fd(), 2) }, 2);
}

#[test]
fn who_logs_does_not_wait_for_a_full_pipe_and_what_is_missing_is_counted() {
    const LINES: usize = 20_000;
    alone(|| {
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        let (reader, full) = full_pipe();
        replace_stderr(&full);
        let _flush = log::start(log::filter("info").unwrap()).unwrap();
        replace_stderr(&stderr);
        // What fails here is told where it is read.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            hook(panic);
            if std::thread::current().name() != Some("ringmill-0") {
                println!("{panic}");
            }
        }));
        let panics = Cell::new(0);
        on_both_drivers(|driver| {
            let (_running, address) = site::start(driver, Limits::default());
            replace_stderr(&full);
            for _ in 0..10 {
                let mut client = connect_to(address);
                client.send(get("/panic"));
                // Which end it comes to, other tests say.
                let _ = client.read_to_end(&mut Vec::new());
                let hello = exchange(address, get("/hello"));
                assert!(hello.ends_with("\r\n\r\nhello"), "{hello}");
                panics.set(panics.get() + 1);
            }
            replace_stderr(&stderr);
        });
        let line = "x".repeat(100);
        (0..LINES).for_each(|_| tracing::info!("{line}"));

        // Now somebody reads, and finds each panic with its thread, its place and its words.
        let (mut panicked, mut logged) = (0, 0);
        for read in BufReader::new(reader).lines().map_while(Result::ok) {
            if read.contains("thread 'ringmill-0' panicked at tests/common/site.rs:") {
                assert!(read.ends_with(": as asked"), "{read}");
                panicked += 1;
            }
            logged += usize::from(read.ends_with(&line));
            if let Some(missing) = read.strip_suffix(" lines of the log are missing here") {
                let missing: usize = missing.strip_prefix("ringmill: ").unwrap().parse().unwrap();
                assert_eq!((logged + missing, panicked), (LINES, panics.get()));
                return;
            }
        }
        panic!("the log ended after {logged} lines without a word of those that are missing");
    });
}

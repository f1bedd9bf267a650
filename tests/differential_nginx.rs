//! Ringmill and nginx on the same generated requests, through real sockets; `tests/data/differential/nginx.rules` says
//! where and why they differ.
//!
//! It needs nginx, so `cargo test` leaves it out, and `tests/programs.sh` runs it:
//! `cargo test --test differential_nginx`. nginx runs as a child with a configuration, a directory and a socket of its own, and
//! is killed at the end. It reads each request in full, body and all, because it passes it on, to itself: its
//! second server says what arrived.

mod common;
mod differential;

use common::{Directory, PATIENCE, config, say_past_capture};
use differential::generate::{Conversation, conversation};
use differential::outcome::{Outcome, difference};
use differential::rules::Judge;
use differential::{rules_of, seeds};
use ringmill::{DriverChoice, Engine, Running, http};
use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CONVERSATIONS: u64 = 8_000;

#[test]
fn ringmill_and_nginx_agree_or_it_is_said_why() {
    let directory = Directory::new();
    let mut judge = Judge::new(&rules_of("nginx"));
    let nginx = Nginx::start(&directory.0);
    let socket = PathBuf::from(directory.file("ringmill"));
    let _running = ringmill(&socket);
    let (seeds, is_fixed_run) = seeds(CONVERSATIONS);
    for conversation in seeds.map(conversation) {
        let ours = talk(&socket, &conversation, String::new);
        let theirs = talk(&nginx.socket, &conversation, || nginx.news());
        judge.see(conversation.seed, &conversation.bytes(), difference(&ours, &theirs));
    }
    say_past_capture(&format!("nginx: {}", judge.end(is_fixed_run)));
}

/// What both say of a request: nginx knows no more in its configuration.
fn ringmill(socket: &Path) -> Running {
    let address = format!("unix:{}", socket.display());
    let server = |_: &_| {
        http::server(|request, reply| {
            let seen = format!("{} {}", request.method().as_str(), request.body().len());
            reply.field("x-seen", &seen).empty();
        })
    };
    let config = config(DriverChoice::Auto);
    Engine::builder().config(config).listen(address.as_str(), server).start().expect("the engine starts")
}

/// Sends a conversation and the end, and reads up to the server's end. A server that closes early may reset: what came
/// before counts.
fn talk(socket: &Path, conversation: &Conversation, reason: impl Fn() -> String) -> Outcome {
    let mut stream = UnixStream::connect(socket).expect("the server takes a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    for piece in &conversation.pieces {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut received = Vec::new();
    if let Err(error) = stream.read_to_end(&mut received) {
        let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(reset, "seed {}: {error} from {}", conversation.seed, socket.display());
    }
    Outcome::read(&received, reason())
}

/// nginx as a child process.
struct Nginx {
    child: Child,
    socket: PathBuf,
    log: RefCell<File>,
}

impl Nginx {
    fn start(directory: &Path) -> Nginx {
        let program = program();
        let (socket, file, log) =
            (directory.join("nginx"), directory.join("nginx.conf"), directory.join("log"));
        std::fs::write(&file, configuration(directory)).expect("a temporary file");
        let mut child = Command::new(&program)
            .arg("-p")
            .arg(directory)
            .arg("-e")
            .arg(&log)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let since = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            let ended = child.try_wait().expect("a child");
            if ended.is_some() || since.elapsed() > PATIENCE {
                let _ = child.kill();
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("nginx does not listen, {ended:?}: {log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let log = RefCell::new(File::open(&log).expect("nginx has written a log"));
        Nginx { child, socket, log }
    }

    /// What it has logged of clients since the last time. It does so before it closes a connection.
    fn news(&self) -> String {
        let mut text = Vec::new();
        self.log.borrow_mut().read_to_end(&mut text).expect("a log");
        let text = String::from_utf8_lossy(&text).into_owned();
        let said = |line: &str| {
            let said = &line[line.find("client sent ")?..];
            let end = said.find(" while ").or(said.find(": \"")).unwrap_or(said.len());
            Some(said[..end].to_owned())
        };
        text.lines().filter_map(said).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // One process, no workers: killing it is all there is to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian keeps it where only root's PATH looks.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = places.map(|place| place.join("nginx")).find(|program| program.is_file());
    found.expect("nginx is missing: apt-get install nginx-light")
}

/// The defaults of nginx, but for what keeps it in its directory and in one process, and lets it read all that is
/// sent before it closes.
fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    let mut text = format!(
        "daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/log info;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            client_max_body_size 1m;
            client_header_buffer_size 64k;
            lingering_close always;
            keepalive_requests 1000000;
            proxy_http_version 1.1;
            proxy_ignore_client_abort on;
            server {{
                listen unix:{directory}/nginx;
                location / {{ proxy_pass http://unix:{directory}/back; }}
            }}
            server {{
                listen unix:{directory}/back;
                set $length $http_content_length;
                if ($length = '') {{ set $length 0; }}
                location / {{ add_header x-seen \"$request_method $length\"; return 200 seen; }}
            }}\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text += &format!("            {kind}_temp_path {directory}/{kind};\n");
    }
    text + "        }\n"
}

//! `ringmill serve --config`, run as a program: what is said of a file, which request goes where, and what a change of the file leaves as
//! it is, on both drivers.
#![cfg(feature = "cli")]

mod common;
#[path = "serve_file/gate.rs"]
mod gate;
#[path = "serve_file/reload.rs"]
mod reload;
#[path = "serve_file/routes.rs"]
mod routes;
#[path = "serve_file/saying.rs"]
mod saying;
#[path = "serve_file/tcp.rs"]
mod tcp;
#[path = "serve_file/udp.rs"]
mod udp;
#[path = "serve_file/upstreams.rs"]
mod upstreams;

use common::authority::{Authority, secure};
use common::frames::{self, END_HEADERS, HEADERS, PREFACE, SETTINGS, STATUS_200, frame, read_frame};
use common::http::{get, post, receive};
use common::names::{NameServer, Record};
use common::program::{Program, ringmill, run};
use common::upstream::Upstream;
use common::ws;
use common::*;
use ringmill::proxy::{Proxy, ProxyConfig};
use ringmill::{DriverChoice, Engine, Tls, TlsConfig, TlsStore};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A file, and the server that follows it.
struct Served {
    file: String,
    server: String,
    program: Program,
    _directory: Directory,
}

impl Served {
    /// Serves by a file with one worker, and `text` behind its head.
    #[track_caller]
    fn start(driver: DriverChoice, text: &str) -> Served {
        Served::start_with(driver, "", text)
    }

    #[track_caller]
    fn start_with(driver: DriverChoice, keys: &str, text: &str) -> Served {
        let directory = Directory::new();
        let file = directory.file("ringmill.toml");
        let server = format!("[server]\nworkers = 1\npin = \"off\"\ndriver = \"{driver}\"\n{keys}\n");
        std::fs::write(&file, format!("{server}{text}")).unwrap();
        let mut command = ringmill();
        command.args(["serve", "--config", &file]);
        let program = Program::start(command, "worker(s) on CPU");
        Served { file, server, program, _directory: directory }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.file, format!("{}{text}", self.server)).unwrap();
    }

    /// How often it has said that it follows the file, or does not.
    fn followed(&self) -> usize {
        let said = |line: &&String| line.contains(" was read again") || line.contains("cannot be followed");
        self.program.lines().iter().filter(said).count()
    }

    /// Has it follow another text; what it says of that.
    #[track_caller]
    fn follow(&self, text: &str) -> String {
        let before = self.followed();
        self.write(text);
        self.program.signal(libc::SIGHUP);
        eventually(true, || self.followed() > before);
        let said = |line: &&String| line.contains(" was read again") || line.contains("cannot be followed");
        self.program.lines().iter().rfind(said).unwrap().clone()
    }
}

fn listen(address: &str) -> String {
    format!("[[listen]]\naddress = \"{address}\"\n")
}

fn upstream(name: &str, upstreams: &[&Upstream]) -> String {
    let servers: Vec<String> = upstreams.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
    format!("[upstream.{name}]\nservers = [{}]\n", servers.join(", "))
}

/// The same, whose idle connections are kept, however slow the machine is.
fn kept(name: &str, server: &Upstream) -> String {
    upstream(name, &[server]) + "connections = { keep_for = \"1m\" }\n"
}

/// An address that is free, and stays so: of a network of this process, from which nobody else takes a port meanwhile.
fn free() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    std::net::TcpListener::bind((Ipv4Addr::new(127, 1, high, low), 0)).unwrap().local_addr().unwrap()
}

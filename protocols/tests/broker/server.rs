//! Brokers that tests start, kill and start again. Debian: nats-server, redis-server.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const BROKERS: [&str; 2] = ["nats-server", "redis-server"];

/// A server that a test has for itself.
pub struct Server {
    pub program: &'static str,
    pub port: u16,
    /// Its settings, if there are others.
    file: Option<PathBuf>,
    child: Child,
}

impl Server {
    pub fn start(program: &'static str) -> Server {
        Server::start_by(program, None)
    }

    /// With a file of settings, as the server wants it.
    #[allow(dead_code, reason = "not all tests do")]
    pub fn start_with(program: &'static str, file: &Path) -> Server {
        Server::start_by(program, Some(file.to_owned()))
    }

    fn start_by(program: &'static str, file: Option<PathBuf>) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = spawn(program, port, file.as_deref());
        Server { program, port, file, child }
    }

    pub fn url(&self) -> String {
        let scheme = if self.program == "nats-server" { "nats" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.program, self.port, self.file.as_deref());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &str, port: u16, file: Option<&Path>) -> Child {
    let port = port.to_string();
    // Redis takes it only as the first argument.
    let file: Vec<&OsStr> = match (program, file) {
        (_, None) => Vec::new(),
        ("nats-server", Some(file)) => vec!["-c".as_ref(), file.as_ref()],
        (_, Some(file)) => vec![file.as_ref()],
    };
    let arguments: &[&str] = match program {
        "nats-server" => &["-a", "127.0.0.1", "-p", &port],
        _ => &["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"],
    };
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new(program)
        .args(file)
        .args(arguments)
        .env("PATH", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}. Debian: apt-get install {program}"))
}

//! Brokers that tests start, kill and start again. Debian: nats-server, redis-server.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

pub const BROKERS: [&str; 2] = ["nats-server", "redis-server"];

/// A server that a test has for itself.
pub struct Server {
    pub program: &'static str,
    pub port: u16,
    child: Child,
}

impl Server {
    pub fn start(program: &'static str) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Server { program, port, child: spawn(program, port) }
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
        self.child = spawn(self.program, self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &str, port: u16) -> Child {
    let port = port.to_string();
    let arguments: &[&str] = match program {
        "nats-server" => &["-a", "127.0.0.1", "-p", &port],
        _ => &["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"],
    };
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}. Debian: apt-get install {program}"))
}

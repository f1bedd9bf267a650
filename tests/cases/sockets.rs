//! Cases over real sockets: one connection each, to servers that run for all of them.

use super::format::{Case, Expected, State, Step};
use super::replies::{head_only, judge, parse};
use super::{limits, small_limits};
use crate::common::http::get;
use crate::common::site::Site;
use crate::common::{config, connect_to, ip};
use ringmill::http::Server;
use ringmill::{DriverChoice, Engine, Running};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One engine with two listeners: default limits, and small ones.
pub struct Servers {
    running: Running,
}

impl Servers {
    pub fn start(driver: DriverChoice) -> Servers {
        let running = Engine::builder()
            .config(config(driver))
            .listen("127.0.0.1:0", |_| Server::new(Site).with_limits(limits()))
            .listen("127.0.0.1:0", |_| Server::new(Site).with_limits(small_limits()))
            .start()
            .expect("the engine starts");
        Servers { running }
    }

    fn address(&self, case: &Case) -> SocketAddr {
        ip(&self.running.addresses()[usize::from(case.small)])
    }

    /// Runs a case as its steps say.
    pub fn run(&self, case: &Case) -> Result<(), String> {
        let mut client = Client { stream: connect_to(self.address(case)), received: Vec::new(), sent: 0 };
        let taken_before = self.taken();
        let head_only = head_only(case);
        let mut replies = 0;
        for step in &case.steps {
            match step {
                Step::Send(bytes) => {
                    client.wait_for(replies, &head_only)?;
                    client.send(bytes);
                }
                Step::Cut => self.wait_until_taken(taken_before + client.sent as u64),
                Step::Reply(Expected { .. }) => replies += 1,
                Step::End => drop(client.stream.shutdown(Shutdown::Write)),
            }
        }
        match case.state {
            State::Closed | State::Broken => client.read_to_end()?,
            State::Kept | State::Waits => client.wait_for(replies, &head_only)?,
        }
        judge(case, &client.received, matches!(case.state, State::Closed | State::Broken))?;
        client.received.clear();
        match case.state {
            State::Kept => {
                client.send(get("/hello").as_bytes());
                client.wait_for(1, &[])?;
                if !client.received.ends_with(b"\r\n\r\nhello") {
                    return Err(format!("the next request got {}", client.received.escape_ascii()));
                }
            }
            State::Waits => {
                drop(client.stream.shutdown(Shutdown::Write));
                client.read_to_end()?;
                if !client.received.is_empty() {
                    return Err(format!("half a request got {}", client.received.escape_ascii()));
                }
            }
            State::Closed | State::Broken => {}
        }
        Ok(())
    }

    /// Makes a cut one that the server sees. What it does not read because it has closed is not waited for.
    fn wait_until_taken(&self, bytes: u64) {
        let since = Instant::now();
        while self.taken() < bytes && since.elapsed() < Duration::from_millis(20) {
            std::thread::yield_now();
        }
    }

    fn taken(&self) -> u64 {
        self.running.stats().total().received_bytes
    }
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    sent: usize,
}

impl Client {
    /// The server may have closed because of what it got before: that shows when reading.
    fn send(&mut self, bytes: &[u8]) {
        self.sent += bytes.len();
        let _ = self.stream.write_all(bytes);
    }

    /// Reads until so many replies are there in whole.
    fn wait_for(&mut self, replies: usize, head_only: &[bool]) -> Result<(), String> {
        while parse(&self.received, head_only, false)?.0.len() < replies {
            match self.read() {
                Ok(0) => return Err(format!("the end after {}", self.received.escape_ascii())),
                Ok(_) => {}
                Err(error) => return Err(format!("{error} after {}", self.received.escape_ascii())),
            }
        }
        Ok(())
    }

    fn read_to_end(&mut self) -> Result<(), String> {
        loop {
            match self.read() {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(format!("{error} after {}", self.received.escape_ascii())),
            }
        }
    }

    fn read(&mut self) -> std::io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let bytes = self.stream.read(&mut buffer)?;
        self.received.extend_from_slice(&buffer[..bytes]);
        Ok(bytes)
    }
}

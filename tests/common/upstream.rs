//! Upstreams of a proxy, as a test wants them: a script for each connection, and what was asked.

use super::{Client, PATIENCE, with_patience};
use ringmill::Address;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A listener whose connections each follow a script on a thread of their own, until the test is over.
pub struct Upstream {
    pub address: Address,
    accepted: Arc<AtomicUsize>,
    asked: Mutex<Receiver<String>>,
}

/// A script's side of one connection.
pub struct Line {
    pub stream: TcpStream,
    /// Which connection this is, from 0 on.
    pub number: usize,
    asked: Sender<String>,
    ahead: Vec<u8>,
}

impl Upstream {
    pub fn new(script: impl Fn(&mut Line) + Send + Sync + 'static) -> Upstream {
        Upstream::with(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    fn with(listener: TcpListener, script: impl Fn(&mut Line) + Send + Sync + 'static) -> Upstream {
        let address = Address::Ip(listener.local_addr().unwrap());
        let accepted = Arc::new(AtomicUsize::new(0));
        let (told, asked) = channel();
        let (script, count) = (Arc::new(script), accepted.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let stream = with_patience(stream.expect("a connection"));
                let mut line = Line { stream, number, asked: told.clone(), ahead: Vec::new() };
                let script = script.clone();
                std::thread::spawn(move || script(&mut line));
            }
        });
        Upstream { address, accepted, asked: Mutex::new(asked) }
    }

    /// Answers every request with its target and its body, and keeps its connections.
    pub fn honest() -> Upstream {
        Upstream::new(|line| while line.answer_honestly() {})
    }

    /// So many on one port of several addresses of this machine, each of which says its address.
    pub fn several(count: u8) -> (u16, Vec<Upstream>) {
        // Whoever else is on this machine may have the port on one of them.
        let listeners = || {
            let first = TcpListener::bind("127.9.0.1:0")?;
            let port = first.local_addr()?.port();
            let others = (2..=count).map(|last| TcpListener::bind(format!("127.9.0.{last}:{port}")));
            std::iter::once(Ok(first)).chain(others).collect::<std::io::Result<Vec<_>>>()
        };
        let listeners = (0..100).find_map(|_| listeners().ok()).expect("a port that is free on all");
        let port = listeners[0].local_addr().unwrap().port();
        let honest = |listener: TcpListener| {
            Upstream::with(listener, |line| {
                let said = line.stream.local_addr().unwrap().to_string();
                while line.request().is_some() {
                    line.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len()));
                }
            })
        };
        (port, listeners.into_iter().map(honest).collect())
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The next request that a script read.
    #[track_caller]
    pub fn asked(&self) -> String {
        self.asked.lock().unwrap().recv_timeout(PATIENCE).expect("a request")
    }

    /// What was read up to now is of no interest.
    pub fn forget_asked(&self) {
        while self.asked.lock().unwrap().try_recv().is_ok() {}
    }

    /// Nobody has asked for anything, up to now.
    #[track_caller]
    pub fn expect_silence(&self) {
        let asked = self.asked.lock().unwrap().recv_timeout(Duration::from_millis(30));
        assert!(asked.is_err(), "it was asked {asked:?}");
    }
}

impl Line {
    /// Reads one request with its body, framing and all; `None` where the connection ends.
    pub fn request(&mut self) -> Option<String> {
        let head = self.head()?;
        let lower = head.to_ascii_lowercase();
        let length =
            lower.lines().find_map(|line| line.strip_prefix("content-length: ")).map(str::parse::<usize>);
        let mut request = head.into_bytes();
        if let Some(length) = length {
            let length = request.len() + length.expect("a length");
            while request.len() < length {
                request.push(self.byte()?);
            }
        } else if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
            let mut at_end = false;
            while !at_end {
                let from = request.len();
                while !request[from..].ends_with(b"\r\n") {
                    request.push(self.byte()?);
                }
                let line = String::from_utf8_lossy(&request[from..request.len() - 2]).into_owned();
                let size = usize::from_str_radix(&line, 16).expect("the size of a chunk");
                if size > 0 {
                    for _ in 0..size + 2 {
                        request.push(self.byte()?);
                    }
                }
                at_end = size == 0;
            }
            let from = request.len();
            while !(request[from..] == *b"\r\n" || request[from..].ends_with(b"\r\n\r\n")) {
                request.push(self.byte()?);
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        // The test may be over.
        let _ = self.asked.send(request.clone());
        Some(request)
    }

    /// Reads up to the empty line.
    pub fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.byte()?);
        }
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    pub fn byte(&mut self) -> Option<u8> {
        if self.ahead.is_empty() {
            self.ahead = self.read()?;
            self.ahead.reverse();
        }
        self.ahead.pop()
    }

    /// What has come, at least a byte; `None` where the connection ends.
    pub fn some(&mut self) -> Option<Vec<u8>> {
        if self.ahead.is_empty() {
            return self.read();
        }
        self.ahead.reverse();
        Some(std::mem::take(&mut self.ahead))
    }

    fn read(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 16 * 1024];
        let bytes = self.stream.read(&mut buffer).ok().filter(|bytes| *bytes > 0)?;
        buffer.truncate(bytes);
        Some(buffer)
    }

    /// Answers a request with what it asked for; false where the connection ends.
    pub fn answer_honestly(&mut self) -> bool {
        let Some(request) = self.request() else { return false };
        let target = request.split(' ').nth(1).unwrap_or_default();
        let body = request.split_once("\r\n\r\n").expect("a head has an end").1;
        let text = format!("{target} {body}");
        let is_head = request.starts_with("HEAD ");
        let shown = if is_head { "" } else { text.as_str() };
        self.try_send(format!(
            "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: {}\r\n\r\n{shown}",
            text.len()
        ))
    }

    /// Sends what the proxy may not take any more.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        std::io::Write::write_all(&mut self.stream, bytes.as_ref()).is_ok()
    }

    /// Waits until the proxy has ended the connection, by whatever means.
    pub fn wait_for_end(&mut self) {
        while self.byte().is_some() {}
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.send(bytes);
    }
}

//! A way to a server that can be lost without a word, as a firewall loses it that forgets a connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{park, spawn};

pub struct Relay {
    pub port: u16,
    /// Whether each connection that there ever was carries nothing any more.
    silent: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Relay {
    /// Carries what comes to its port to `port`.
    pub fn start(port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { port: listener.local_addr().unwrap().port(), silent: Arc::default() };
        let silent = relay.silent.clone();
        spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let is_silent = Arc::<AtomicBool>::default();
                silent.lock().unwrap().push(is_silent.clone());
                carry(client.try_clone().unwrap(), server.try_clone().unwrap(), is_silent.clone());
                carry(server, client, is_silent);
            }
        });
        relay
    }

    /// Of the connections so far, which come in groups of `group`, those that are the `nth` carry nothing any more, and stay open.
    pub fn silence(&self, nth: usize, group: usize) {
        for is_silent in self.silent.lock().unwrap().iter().skip(nth).step_by(group) {
            is_silent.store(true, Ordering::Relaxed);
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, is_silent: Arc<AtomicBool>) {
    spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let read = from.read(&mut bytes).unwrap_or(0);
            // Both stay open, and what is sent to them is not even read.
            while is_silent.load(Ordering::Relaxed) {
                park();
            }
            if read == 0 || to.write_all(&bytes[..read]).is_err() {
                let _ = to.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    });
}

//! A client's end of a simulated connection, as it is or with TLS: what is said goes in, what is heard comes out.

use crate::common::tls::unsent;
use ringmill_engine::driver::sim::Peer;
use rustls::{ClientConfig, ClientConnection};
use std::io::{Read, Write};
use std::sync::Arc;

/// In every reply, and so never on the wire of TLS.
const CANARY: &[u8] = b"server: ringmill";

pub struct Line {
    peer: Peer,
    tls: Option<Box<ClientConnection>>,
    heard: Vec<u8>,
    /// The peer said that this was all.
    was_ended: bool,
}

impl Line {
    pub fn plain(peer: Peer) -> Line {
        Line { peer, tls: None, heard: Vec::new(), was_ended: false }
    }

    /// Its handshake is made while it listens.
    pub fn secured(peer: Peer, config: &Arc<ClientConfig>) -> Line {
        let mut tls = Box::new(unsent(config));
        // Whole bodies are said at once.
        tls.set_buffer_limit(None);
        let mut line = Line { tls: Some(tls), ..Line::plain(peer) };
        line.flush();
        line
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let Some(tls) = &mut self.tls else { return self.peer.send(bytes) };
        tls.writer().write_all(bytes).expect("it takes all");
        self.flush();
    }

    /// Says that this was all.
    pub fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.flush();
        }
        self.peer.shutdown();
    }

    /// Takes what came.
    pub fn listen(&mut self) {
        let wire = self.peer.take();
        let Some(tls) = &mut self.tls else { return self.heard.extend(wire) };
        assert!(!wire.windows(CANARY.len()).any(|part| part == CANARY), "plaintext is on the wire");
        let mut left = &wire[..];
        while !left.is_empty() {
            tls.read_tls(&mut left).expect("memory is there");
            let state = tls.process_new_packets().expect("the server speaks TLS");
            self.was_ended |= state.peer_has_closed();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut plain).expect("so much is there");
            self.heard.extend(plain);
        }
        self.flush();
    }

    fn flush(&mut self) {
        let mut wire = Vec::new();
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut wire).expect("a vector takes it");
            }
        }
        self.peer.send(&wire);
    }

    /// What was heard since this was last asked.
    pub fn take_heard(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.heard)
    }

    pub fn is_at_end(&self) -> bool {
        self.peer.is_at_end()
    }

    pub fn was_reset(&self) -> bool {
        self.peer.was_reset()
    }

    /// Over TLS: the word that this was all has not come.
    pub fn is_cut(&self) -> bool {
        self.tls.is_some() && !self.was_ended
    }
}

//! One simulated client: how it speaks and listens, and what it may hear.

use crate::lane;
use crate::layers::Speech;
use crate::script::{Heard, Script, Service};
use crate::sockets::{frames_at, timeless};
use crate::voice::Voice;
use ringmill_engine::driver::sim::{Chaos, Fault, Net, Peer, Rng, fire};
use ringmill_engine::event::Socket;

/// The room of a client that never reads, in bytes at most.
const DEAF_WINDOW_MAX: u64 = 200;
/// The bytes of a Date field's value, which alone depends on the time.
const DATE_BYTES: usize = 29;
const CLOSE_FIELD: &str = "connection: close\r\n";

pub struct Client {
    pub script: Script,
    pub worker: usize,
    manner: Manner,
    peer: Option<Peer>,
    /// Over TLS: what is between the client and its peer.
    voice: Option<Voice>,
    was_refused: bool,
    sent: usize,
    is_shut: bool,
    received: Vec<u8>,
    /// Sends everything at once as soon as it can.
    is_hasty: bool,
    /// The leaps of the worker's clock before the connection.
    leaps_before: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Plain,
    /// Byte by byte in both directions.
    OneByte,
    Deaf,
    /// Resets at some point.
    Resets,
}

/// What happened to a client's worker or network that excuses a reply from being whole.
pub struct Excuse {
    pub leaps: u64,
    /// The worker was told to drain or stop.
    pub is_ended: bool,
    /// Deadlines of the protocols are short.
    pub is_impatient: bool,
    /// Some worker was short of memory.
    pub is_short: bool,
}

impl Excuse {
    /// What was heard without what a server may say or not.
    fn apply(&self, heard: &[u8]) -> Vec<u8> {
        let (http, frames) = heard.split_at(frames_at(heard));
        let http = if self.is_ended { without_close(http.to_vec()) } else { http.to_vec() };
        [http, timeless(frames, self.is_ended || self.is_short)].concat()
    }
}

impl Client {
    pub fn random(rng: &mut Rng, chaos: &Chaos, workers: usize, speech: Speech) -> Client {
        let mut script = Script::random(rng, speech);
        let manner = if chaos.hits(Fault::NeverReads, rng) {
            Manner::Deaf
        } else if chaos.hits(Fault::OneByte, rng) {
            Manner::OneByte
        } else if chaos.hits(Fault::PeerReset, rng) {
            Manner::Resets
        } else {
            Manner::Plain
        };
        if script.bytes.len() > 1 && chaos.hits(Fault::HalfClose, rng) {
            fire(Fault::HalfClose);
            script.bytes.truncate(1 + rng.below(script.bytes.len() - 1));
        }
        Client {
            script,
            worker: rng.below(workers),
            manner,
            peer: None,
            voice: None,
            was_refused: false,
            sent: 0,
            is_shut: false,
            received: Vec::new(),
            is_hasty: rng.one_in(3),
            leaps_before: 0,
        }
    }

    /// One thing that this client does of its own.
    pub fn act(&mut self, rng: &mut Rng, net: &Net, listener: Socket, leaps: u64) {
        let Some(peer) = &self.peer else { return self.connect(rng, net, listener, leaps) };
        match (rng.below(5), self.manner) {
            (0, Manner::Resets) if !peer.is_closed() => {
                self.take();
                self.peer.as_ref().expect("connected above").reset();
                fire(Fault::PeerReset);
                // Nothing that a reset connection would have brought counts.
                self.is_shut = true;
                self.sent = self.script.bytes.len();
                self.voice.iter_mut().for_each(Voice::hush);
            }
            (0..=2, _) if self.has_more_to_send() => self.send(rng),
            (3, Manner::OneByte) => {
                fire(Fault::OneByte);
                peer.set_window(1);
                self.take();
            }
            (3, Manner::Plain) => peer.set_window([100, 1000, 1 << 16][rng.below(3)]),
            (4, _) if !self.has_more_to_send() && rng.one_in(2) => self.shut(),
            _ => self.take(),
        }
    }

    fn connect(&mut self, rng: &mut Rng, net: &Net, listener: Socket, leaps: u64) {
        if self.was_refused {
            return;
        }
        self.peer = net.connect(listener);
        self.was_refused = self.peer.is_none();
        self.leaps_before = leaps;
        if self.peer.is_some() && self.script.speech == Speech::Secured {
            self.voice = Some(Voice::new(&self.script.bytes, rng));
        }
        if let (Some(peer), Manner::Deaf) = (&self.peer, self.manner) {
            // Over TLS it gets deaf in the middle of a handshake or behind it.
            let room = if self.voice.is_some() { 20 * DEAF_WINDOW_MAX } else { DEAF_WINDOW_MAX };
            peer.set_window(rng.up_to(room) as usize);
            fire(Fault::NeverReads);
        }
    }

    fn has_more_to_send(&self) -> bool {
        self.voice.as_ref().map_or(self.sent < self.script.bytes.len(), Voice::has_more)
    }

    fn send(&mut self, rng: &mut Rng) {
        let rest = match &self.voice {
            Some(voice) => voice.unsent(),
            None => &self.script.bytes[self.sent..],
        };
        if rest.is_empty() {
            // Over TLS it is the server's turn.
            return self.take();
        }
        let bytes = match self.manner {
            Manner::OneByte => 1,
            _ if self.is_hasty => rest.len(),
            _ => 1 + rng.below(rest.len()),
        };
        self.peer.as_ref().expect("connected before").send(&rest[..bytes]);
        match &mut self.voice {
            Some(voice) => voice.drop_sent(bytes),
            None => self.sent += bytes,
        }
    }

    fn shut(&mut self) {
        if !std::mem::replace(&mut self.is_shut, true)
            && let Some(peer) = &self.peer
        {
            peer.shutdown();
        }
    }

    fn take(&mut self) {
        // Over TLS a deaf one listens until it has said all.
        if self.manner != Manner::Deaf || self.voice.as_ref().is_some_and(Voice::has_more) {
            self.take_all();
        }
    }

    fn take_all(&mut self) {
        let Some(peer) = &self.peer else { return };
        let taken = peer.take();
        match &mut self.voice {
            Some(voice) => self.received.extend(voice.listen(&taken)),
            None => self.received.extend(taken),
        }
    }

    /// Says what is left and ends; reads, unless it never does.
    pub fn finish(&mut self, net: &Net, listener: Socket, leaps: u64) {
        if self.peer.is_none() {
            self.connect(&mut Rng::new(0), net, listener, leaps);
        }
        let Some(peer) = &self.peer else { return };
        if self.manner != Manner::Deaf {
            peer.set_window(1 << 20);
        }
        match &mut self.voice {
            Some(voice) => {
                let bytes = voice.unsent().len();
                peer.send(voice.unsent());
                voice.drop_sent(bytes);
            }
            None => {
                peer.send(&self.script.bytes[self.sent..]);
                self.sent = self.script.bytes.len();
            }
        }
        // A server that ends first, over TLS, has not waited for all that there is to say.
        if !self.has_more_to_send() || self.peer.as_ref().is_some_and(Peer::is_at_end) {
            self.shut();
        }
        self.take();
    }

    pub fn is_over(&self) -> bool {
        self.peer.as_ref().map_or(self.was_refused, Peer::is_closed)
    }

    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Panics unless what was heard is a prefix of what the oracle heard; all of it and the same end, unless there is an excuse.
    pub fn check(&mut self, oracle: &Heard, excuse: &Excuse) {
        // A resetting peer may take what arrives before the reset is seen; a deaf one reads at the very end.
        self.take_all();
        let Some(peer) = &self.peer else { return assert!(excuse.is_ended, "nobody listens") };
        let decode = |heard: &[u8]| mask_dates(&self.script.speech.decode(heard).0);
        let (mut received, mut expected) = (decode(&self.received), decode(&oracle.bytes));
        let is_http = self.script.service.is_http();
        if is_http {
            (received, expected) = (excuse.apply(&received), excuse.apply(&expected));
        }
        if self.script.service == Service::Tower {
            (received, expected) = (lane::unchunked(&received), lane::unchunked(&expected));
        }
        let is_right = expected.starts_with(&received)
            || is_http && excuse.is_impatient && ends_in(b"HTTP/1.1 408 ", &received, &expected)
            || is_http
                && (excuse.is_short || excuse.is_impatient)
                && ends_in(b"HTTP/1.1 503 ", &received, &expected);
        assert!(is_right, "a client heard what it should not:\n{}", differ(&received, &expected));
        let is_excused = excuse.is_ended
            || excuse.is_impatient
            || excuse.is_short
            || excuse.leaps != self.leaps_before
            || peer.was_broken()
            || matches!(self.manner, Manner::Deaf | Manner::Resets);
        if !is_excused {
            assert!(received == expected, "a client did not hear all:\n{}", differ(&received, &expected));
            assert_eq!(peer.was_reset(), oracle.was_reset, "whether the connection ended with a reset");
            let was_ended = self.voice.as_ref().map_or(peer.was_ended(), Voice::was_ended);
            assert_eq!(was_ended, oracle.was_ended, "the end of what it says, and none where it broke off");
        }
    }
}

fn differ(received: &[u8], expected: &[u8]) -> String {
    let same = received.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let show = |bytes: &[u8]| {
        let end = bytes.len().min(same + 60);
        String::from_utf8_lossy(&bytes[same.saturating_sub(60).min(end)..end]).into_owned()
    };
    format!(
        "{} of {} bytes; the same up to {same}\n  heard:    {:?}\n  expected: {:?}",
        received.len(),
        expected.len(),
        show(received),
        show(expected)
    )
}

fn mask_dates(bytes: &[u8]) -> Vec<u8> {
    let mut masked = bytes.to_vec();
    let name = b"\r\ndate: ";
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(name) {
            let start = at + name.len();
            let end = (start + DATE_BYTES).min(bytes.len());
            masked[start..end].fill(b'#');
        }
    }
    masked
}

/// Without the field that a draining server adds; and without the start of it at the end of what was heard.
fn without_close(bytes: Vec<u8>) -> Vec<u8> {
    // Every byte of these scripts and replies is ASCII.
    let text = String::from_utf8_lossy(&bytes).replace(CLOSE_FIELD, "");
    let line = text.rfind('\n').map_or(0, |at| at + 1);
    let is_begun = CLOSE_FIELD.starts_with(&text[line..]);
    if is_begun { text[..line].into() } else { text.into() }
}

/// Whether what differs is a reply, or the start of one, with this status: the client was too slow, or memory too short.
fn ends_in(status: &[u8], received: &[u8], expected: &[u8]) -> bool {
    let same = received.iter().zip(expected).take_while(|(a, b)| a == b).count();
    // It starts before the difference: every status line starts alike.
    (same.saturating_sub(status.len())..=same).any(|start| {
        let tail = &received[start..];
        tail.starts_with(status) || !tail.is_empty() && status.starts_with(tail)
    })
}

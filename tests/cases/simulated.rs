//! Cases on the simulated driver: whole, with every cut in two, byte by byte, on a wild kernel, and, where the server
//! closes, with one more request behind. All of these must give the same replies; over TLS, where a cut is one between records, as
//! without.

use super::format::{Case, Over, State};
use super::line::Line;
use super::replies::{Reply, judge, without_interim};
use super::{Lane, limits, small_limits};
use crate::common::http::get;
use crate::common::site::Site;
use crate::common::tls::Trust;
use ringmill::http::Server;
use ringmill::{Config, Layer, Tls, TlsStore};
use ringmill_engine::driver::sim::{Chaos, Simulation};
use ringmill_engine::event::Socket;
use rustls::ClientConfig;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// A stage is cut at every byte where it and its replies are not longer than this.
const CUT_BYTES_MAX: usize = 2000;

/// Longer conversations are cut so often that this many bytes go either way, near both ends of a stage and at even
/// distances between: a cut in the midst of a repetition is like its neighbour. The server with small limits
/// reaches each of them with short stages.
const CUTS_BYTES_MAX: usize = 512 << 10;

/// Over TLS each stage is cut at so many places: that bytes come out as they went in, however they are cut, is for the tests of TLS.
const CUTS_OVER_TLS: usize = 3;

/// A stage is sent in at most so many pieces: byte by byte, if it is not longer.
const PIECES_MAX: usize = 2000;

/// A store for all servers, and a client that trusts it.
static TLS: LazyLock<(Arc<TlsStore>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let trust = Trust::new();
    let store = TlsStore::new(trust.server(&["http/1.1"])).expect("a sound configuration");
    (store, Arc::new(trust.client(&["http/1.1"])))
});

/// How one case is sent: for each stage, its pieces.
struct Variant {
    name: String,
    stages: Vec<Vec<Vec<u8>>>,
}

/// Runs a case in all ways; how many those were, or what was wrong.
pub fn run(case: &Case, lane: Lane) -> Result<usize, String> {
    let mut count = 0;
    for over in [Over::Plain, Over::Tls] {
        if case.runs_over(over) {
            count += run_over(over, case, lane).map_err(|what| format!("over {over:?}: {what}"))?;
        }
    }
    Ok(count)
}

fn run_over(over: Over, case: &Case, lane: Lane) -> Result<usize, String> {
    let stages: Vec<Vec<u8>> = case.stages().into_iter().map(|(bytes, _)| bytes).collect();
    let whole = Variant { name: "whole".into(), stages: pieces(&stages, |stage| vec![stage.to_vec()]) };
    let expected = one(case, lane, over, &whole, 1, Chaos::CALM)?;
    let mut count = 1;
    let mut same = |variants: &[Variant], seed: u64, chaos: Chaos| {
        count += variants.len();
        for (variant, received) in variants.iter().zip(converse(case, lane, over, variants, seed, chaos)) {
            check(case, &expected, received).map_err(|what| format!("{}: {what}", variant.name))?;
        }
        Ok::<(), String>(())
    };
    // In batches: each connection of a simulation looks at all others.
    let reply_bytes = expected.iter().map(|reply| reply.body.len()).sum();
    for cuts in cuts(over, &stages, reply_bytes).chunks(200) {
        same(cuts, 1, Chaos::CALM)?;
    }
    let single = |stage: &[u8]| {
        let bytes = stage.len().div_ceil(PIECES_MAX).max(1);
        stage.chunks(bytes).map(<[u8]>::to_vec).collect()
    };
    same(&[Variant { name: "byte by byte".into(), stages: pieces(&stages, single) }], 1, Chaos::CALM)?;
    for seed in 0..4 {
        let name = format!("a wild kernel, seed {seed}");
        same(&[Variant { name, stages: whole.stages.clone() }], seed, Chaos::WILD)?;
    }
    if case.state == State::Closed && !case.ends() {
        // RFC 9112, 9.6: nothing is answered after the reply that closes.
        let mut stages = whole.stages;
        stages.last_mut().expect("a case sends something").push(get("/hello").into_bytes());
        same(&[Variant { name: "with a request behind".into(), stages: stages.clone() }], 1, Chaos::CALM)?;
        for stage in &mut stages {
            *stage = vec![stage.concat()];
        }
        same(&[Variant { name: "with a request joined".into(), stages }], 1, Chaos::CALM)?;
    }
    Ok(count)
}

fn pieces(stages: &[Vec<u8>], cut: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    stages.iter().map(|stage| cut(stage)).collect()
}

/// Each stage cut in two at each byte, the others whole.
fn cuts(over: Over, stages: &[Vec<u8>], reply_bytes: usize) -> Vec<Variant> {
    let mut variants = Vec::new();
    for (n, stage) in stages.iter().enumerate() {
        let places = match over {
            Over::Plain => cut_places(stage.len(), reply_bytes),
            Over::Tls => (1..=CUTS_OVER_TLS).map(|n| n * stage.len() / (CUTS_OVER_TLS + 1)).collect(),
        };
        for at in places {
            let mut cut = pieces(stages, |stage| vec![stage.to_vec()]);
            cut[n] = vec![stage[..at].to_vec(), stage[at..].to_vec()];
            variants.push(Variant { name: format!("stage {n} cut at {at}"), stages: cut });
        }
    }
    variants
}

fn cut_places(len: usize, reply_bytes: usize) -> Vec<usize> {
    let third = CUTS_BYTES_MAX / (len + reply_bytes) / 3 + 1;
    if len + reply_bytes <= CUT_BYTES_MAX || 3 * third >= len {
        return (1..len).collect();
    }
    let between = (1..third).map(|n| n * len / third);
    (1..=third).chain(between).chain(len - third..len).collect()
}

/// Judges a run that all others are compared with.
fn one(
    case: &Case,
    lane: Lane,
    over: Over,
    variant: &Variant,
    seed: u64,
    chaos: Chaos,
) -> Result<Vec<Reply>, String> {
    let [ending] =
        converse(case, lane, over, std::slice::from_ref(variant), seed, chaos).try_into().expect("one run");
    ending.state(case)?;
    judge(case, &ending.received, ending.is_over).map_err(|what| format!("{}: {what}", variant.name))
}

/// A run has the state of the case and the replies of the first run. Which of them is interim may depend on the
/// cut where there is an expectation: nobody need be told to send what is there (RFC 9110, 10.1.1).
fn check(case: &Case, expected: &[Reply], ending: Ending) -> Result<(), String> {
    ending.state(case)?;
    let expects = case
        .stages()
        .iter()
        .any(|(stage, _)| stage.to_ascii_lowercase().windows(6).any(|part| part == b"expect"));
    let interim = |reply: &&Reply| expects && reply.status < 200;
    let received = if expects { without_interim(&ending.received) } else { ending.received };
    let head_only: Vec<bool> = case
        .replies()
        .filter(|reply| !expects || reply.statuses[0] >= 200)
        .map(|reply| reply.is_head_only)
        .collect();
    let (replies, len) = super::replies::parse(&received, &head_only, ending.is_over)?;
    super::replies::check_rest(case, &received[len..])?;
    let text = |reply: &Reply| {
        let fields: Vec<_> = reply.fields.iter().filter(|(name, _)| name != "date").collect();
        format!("{} {fields:?} {}", reply.status, reply.body.escape_ascii())
    };
    let found: Vec<String> = replies.iter().map(text).collect();
    let wanted: Vec<String> = expected.iter().filter(|reply| !interim(reply)).map(text).collect();
    if found != wanted {
        return Err(format!("replies {found:#?}\nand whole {wanted:#?}"));
    }
    Ok(())
}

/// One connection's end.
#[derive(Debug)]
struct Ending {
    received: Vec<u8>,
    /// The server has ended it, before the client ended its side or, if the case does that, after.
    is_over: bool,
    was_reset: bool,
    /// Over TLS: it ended without the word that this was all.
    was_cut: bool,
    /// What came of one more request, or of the client's end, where the server had not ended it.
    after: Vec<u8>,
    is_over_after: bool,
}

impl Ending {
    fn state(&self, case: &Case) -> Result<(), String> {
        if self.was_reset {
            return Err(format!("the connection was reset after {}", self.received.escape_ascii()));
        }
        if self.was_cut && case.state != State::Broken {
            return Err(format!("the connection was cut after {}", self.received.escape_ascii()));
        }
        let state = match self.is_over {
            true if case.state == State::Broken => State::Broken,
            true => State::Closed,
            _ if self.after.is_empty() && self.is_over_after => State::Waits,
            _ => State::Kept,
        };
        if state != case.state {
            let (received, after) = (self.received.escape_ascii(), self.after.escape_ascii());
            return Err(format!(
                "the connection is {state:?}, expected {:?}: {received}\nthen {after}",
                case.state
            ));
        }
        let is_hello = || self.after.starts_with(b"HTTP/1.1 200 ") && self.after.ends_with(b"\r\n\r\nhello");
        if state == State::Kept && !is_hello() {
            return Err(format!("the next request was answered: {}", self.after.escape_ascii()));
        }
        Ok(())
    }
}

/// Sends a case in several ways at once, each on a connection of its own.
fn converse(
    case: &Case,
    lane: Lane,
    over: Over,
    variants: &[Variant],
    seed: u64,
    chaos: Chaos,
) -> Vec<Ending> {
    let mut simulation = Simulation::new(seed, chaos, Config::default());
    let limits = if case.small { small_limits() } else { limits() };
    let listener = match lane {
        Lane::Native => listen(&mut simulation, Server::new(Site).with_limits(limits), over),
        Lane::Tower => listen(&mut simulation, crate::common::tower_site::server(limits), over),
    };
    simulation.start();
    let net = simulation.net();
    let connect = |_| {
        let peer = net.connect(listener).expect("a listener");
        match over {
            Over::Plain => Line::plain(peer),
            Over::Tls => Line::secured(peer, &TLS.1),
        }
    };
    let mut lines: Vec<Line> = variants.iter().map(connect).collect();
    if over == Over::Tls {
        settle(&mut simulation, &mut lines);
    }
    for stage in 0..case.stages().len() {
        let turns = variants.iter().map(|variant| variant.stages[stage].len()).max().unwrap_or(0);
        for turn in 0..turns {
            for (variant, line) in variants.iter().zip(&mut lines) {
                if let Some(piece) = variant.stages[stage].get(turn) {
                    line.send(piece);
                }
            }
            // Shorter where there are many: the sum must stay below the server's timeouts.
            let pause = if turns > 1000 { Duration::from_micros(100) } else { Duration::from_millis(8) };
            simulation.run_for(pause);
        }
        settle(&mut simulation, &mut lines);
    }
    if case.ends() {
        lines.iter_mut().for_each(Line::end);
        settle(&mut simulation, &mut lines);
    }
    let mut endings: Vec<Ending> = lines
        .iter_mut()
        .map(|line| Ending {
            received: line.take_heard(),
            is_over: line.is_at_end(),
            was_reset: line.was_reset(),
            was_cut: line.is_at_end() && line.is_cut(),
            after: Vec::new(),
            is_over_after: false,
        })
        .collect();
    for line in &mut lines {
        match case.state {
            State::Kept => line.send(get("/hello").as_bytes()),
            _ => line.end(),
        }
    }
    settle(&mut simulation, &mut lines);
    for (mut line, ending) in lines.into_iter().zip(&mut endings) {
        ending.after = line.take_heard();
        ending.is_over_after = line.is_at_end();
        line.end();
    }
    simulation.run_for(Duration::from_secs(3));
    assert_eq!(simulation.buffers_out(), 0, "{}: receive buffers are lost", case.name);
    assert_eq!(simulation.counters().connections, 0, "{}: connections are left", case.name);
    endings
}

fn listen(simulation: &mut Simulation, server: impl Layer, over: Over) -> Socket {
    match over {
        Over::Plain => simulation.listen(server),
        Over::Tls => simulation.listen(Tls::new(server, TLS.0.clone())),
    }
}

/// Lets things happen until nothing more moves, either way.
fn settle(simulation: &mut Simulation, lines: &mut [Line]) {
    let mut quiet = 0;
    let mut moved = 0;
    while quiet < 3 {
        simulation.run_for(Duration::from_millis(15));
        lines.iter_mut().for_each(Line::listen);
        let counters = simulation.counters();
        let now = counters.received_bytes + counters.sent_bytes;
        quiet = if std::mem::replace(&mut moved, now) == now { quiet + 1 } else { 0 };
    }
}

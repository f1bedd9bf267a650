//! The relay on a worker: clients and servers that speak at the same time, end each when it has said all, or break off, under all
//! faults. The oracle: everybody hears the bytes of its own partner, in order and once; whoever sees the end of the stream has heard
//! all of it; what breaks off on one side breaks off on the other; and everybody comes to an end.

use ringmill_engine::driver::sim::{Answer, Chaos, Peer, Rng, Simulation};
use ringmill_engine::{Address, Config, Errno};
use ringmill_protocols::proxy::{Balance, Proxy, ProxyConfig, Relaying};
use std::net::SocketAddr;
use std::time::Duration;

const SEEDS: u64 = 300;

fn addresses() -> Vec<Address> {
    (1..=3).map(|port| Address::Ip(SocketAddr::from(([192, 0, 2, 1], port)))).collect()
}

/// What the client with this number says, or its server. It begins with the number.
fn said(id: u64, by_client: bool) -> Vec<u8> {
    let salt = id * 2 + u64::from(by_client);
    let mut rng = Rng::new(salt);
    let bytes = [0, rng.below(100), rng.below(5_000), rng.below(200_000)][rng.below(4)];
    let tail = (0..bytes).map(|at| (at as u64 * 31 + salt * 7) as u8);
    id.to_be_bytes().into_iter().chain(tail).collect()
}

/// One end of a relayed connection: a client, or a server that has taken one.
struct Talker {
    peer: Peer,
    /// Whose connection it is: a server learns it from the first bytes.
    id: Option<u64>,
    is_client: bool,
    says: Vec<u8>,
    /// What its partner says.
    expected: Vec<u8>,
    sent_bytes: usize,
    heard: Vec<u8>,
    /// It ends only when its partner has ended.
    is_patient: bool,
    /// It breaks off after so many bytes.
    breaks_at: usize,
    has_ended: bool,
    is_over: bool,
}

impl Talker {
    fn new(peer: Peer, id: Option<u64>, is_wild: bool, rng: &mut Rng) -> Talker {
        // With less room than this, who hears much is not done in time.
        peer.set_window(300 + rng.below(60_000));
        Talker {
            peer,
            id,
            is_client: id.is_some(),
            says: id.map_or(Vec::new(), |id| said(id, true)),
            expected: id.map_or(Vec::new(), |id| said(id, false)),
            sent_bytes: 0,
            heard: Vec::new(),
            is_patient: false,
            breaks_at: if is_wild && rng.one_in(3) { rng.below(50_000) } else { usize::MAX },
            has_ended: false,
            is_over: false,
        }
    }

    fn pump(&mut self, seed: u64, is_wild: bool, rng: &mut Rng) {
        if self.is_over {
            return;
        }
        self.heard.extend(self.peer.take());
        if self.id.is_none() && self.heard.len() >= 8 {
            let id = u64::from_be_bytes(self.heard[..8].try_into().expect("eight bytes"));
            (self.id, self.says) = (Some(id), said(id, false));
            self.expected = said(id, true);
        }
        // Both would wait for each other.
        self.is_patient = self.id.is_some_and(|id| id % 3 == u64::from(self.is_client));
        assert!(
            self.id.is_none() || self.expected.starts_with(&self.heard),
            "seed {seed}: bytes of somebody else"
        );
        let hears_no_more = self.peer.is_at_end();
        let is_blameless = !self.peer.was_broken() && !self.peer.was_reset();
        if hears_no_more && is_blameless {
            assert!(
                self.heard == self.expected,
                "seed {seed}: the end came after {} bytes",
                self.heard.len()
            );
        }
        if self.peer.was_broken() || self.peer.was_reset() {
            assert!(is_wild, "seed {seed}: {:?} was broken off", self.id);
            self.peer.shutdown();
            self.is_over = true;
            return;
        }
        let bytes = rng.below(40_000).min(self.says.len() - self.sent_bytes);
        self.peer.send(&self.says[self.sent_bytes..self.sent_bytes + bytes]);
        self.sent_bytes += bytes;
        if self.sent_bytes >= self.breaks_at {
            self.peer.reset();
            self.is_over = true;
            return;
        }
        let is_all = self.id.is_some() && self.sent_bytes == self.says.len();
        if is_all && !self.has_ended && (!self.is_patient || hears_no_more) {
            self.peer.shutdown();
            self.has_ended = true;
        }
        // A server whose client had left before it was there has nobody to talk to.
        self.is_over = hears_no_more && (self.has_ended || self.id.is_none());
    }
}

/// Returns how many heard their partner to the end, how many were broken off, and how many bytes nobody copied.
fn run(seed: u64) -> (usize, usize, u64) {
    let mut rng = Rng::new(seed);
    let is_wild = rng.one_in(2);
    let chaos = match is_wild {
        false => [Chaos::CALM, Chaos::SHORT, Chaos::WILD][rng.below(3)],
        true => Chaos::random(&mut rng),
    };
    let small = Config {
        output_high_water_bytes: 4000,
        output_low_water_bytes: 1000,
        recv_buffers: 8,
        recv_buffer_bytes: 4096,
        ..Config::default()
    };
    let config = if rng.one_in(2) { small } else { Config::default() };
    let proxy = ProxyConfig {
        balance: [Balance::TwoChoices, Balance::RoundRobin, Balance::Least][rng.below(3)].clone(),
        connections_max: if is_wild { 1 + rng.below(3) } else { 500 },
        queue_max: if is_wild { rng.below(4) } else { 1000 },
        ..ProxyConfig::relayed(addresses())
    };
    let mut relaying = Relaying::new(Some(String::new()));
    relaying.splice_bytes_min = [1, 1000, 20_000, u32::MAX][rng.below(4)];
    let mut simulation = Simulation::new(seed, chaos, config);
    let listener = simulation.listen(Proxy::new(proxy, seed).with_relaying(relaying));
    for (n, address) in addresses().into_iter().enumerate() {
        // One that refuses is passed by; one that is silent would keep the others waiting.
        let deaf = [Answer::Fail(Errno(111)), Answer::Silence][if is_wild { rng.below(2) } else { 0 }];
        let is_deaf = n > 0 && rng.one_in(4);
        simulation.net().set_remote(address, if is_deaf { deaf } else { Answer::Accept });
    }
    simulation.start();
    let clients = 1 + rng.below(6) as u64;
    let connect = |id| simulation.net().connect(listener).map(|peer| (peer, id)).expect("it listens");
    let mut talkers: Vec<Talker> =
        (1..=clients).map(connect).map(|(peer, id)| Talker::new(peer, Some(id), is_wild, &mut rng)).collect();
    let mut steps = 0;
    while talkers.iter().any(|talker| !talker.is_over) {
        simulation.run_for(Duration::from_micros(rng.up_to(3000)));
        for address in addresses() {
            while let Some(peer) = simulation.net().take_connection(&address) {
                talkers.push(Talker::new(peer, None, is_wild, &mut rng));
            }
        }
        talkers.iter_mut().for_each(|talker| talker.pump(seed, is_wild, &mut rng));
        steps += 1;
        if steps == 3000 {
            // No more faults: from here on nobody may be left waiting.
            simulation.set_chaos(Chaos::CALM);
        }
        if steps > 3000 {
            simulation.run_for(Duration::from_millis(50));
        }
        let waiting = || talkers.iter().filter(|it| !it.is_over).map(|it| (it.id, it.is_client));
        let waiting = || waiting().collect::<Vec<_>>();
        assert!(steps < 6000, "seed {seed}: {:?} wait for ever\n{}", waiting(), simulation.describe());
    }
    simulation.set_chaos(Chaos::CALM);
    simulation.drain(Duration::from_secs(5));
    for _ in 0..20 {
        simulation.run_for(Duration::from_secs(1));
        talkers.iter().for_each(|talker| drop(talker.peer.take()));
    }
    simulation.check_ended();
    let whole = talkers.iter().filter(|it| it.id.is_some() && it.heard == it.expected);
    let broken = talkers.iter().filter(|talker| talker.peer.was_reset());
    (whole.count(), broken.count(), simulation.counters().spliced_bytes)
}

#[test]
fn each_hears_its_own_partner_to_the_end_or_a_reset() {
    if let Ok(seed) = std::env::var("RINGMILL_RELAY_SEED") {
        run(seed.parse().expect("a number"));
        return;
    }
    let seeds = std::env::var("RINGMILL_RELAY_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let runs = (0..seeds).map(run);
    let add =
        |sum: (usize, usize, u64), run: (usize, usize, u64)| (sum.0 + run.0, sum.1 + run.1, sum.2 + run.2);
    let (whole, broken, spliced) = runs.fold((0, 0, 0), add);
    assert!(whole > 1000 && broken > 100, "{whole} heard all, {broken} were broken off");
    assert!(spliced > 5 << 20, "{spliced} bytes were not copied");
}

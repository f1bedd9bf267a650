//! Datagrams that are passed on, under all faults: clients that ask from several addresses, servers that answer not at all, once or twice, and
//! come and go. The oracle: no datagram reaches a client that did not ask for it, nor leaves from another address than the one that it
//! asked; what comes to a server from one socket is of one client; flows are never more than may be; where nothing is lost on the way
//! everybody is answered; and in the end nothing is left.

use ringmill_engine::driver::sim::{Answer, Chaos, Fault, Rng, Simulation};
use ringmill_engine::{Address, Config, Errno};
use ringmill_protocols::proxy::{Balance, FlowRules, Flowing, Flows, ProxyConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SEEDS: u64 = 250;
const STEPS: usize = 150;

fn servers() -> [SocketAddr; 3] {
    [1, 2, 3].map(|port| SocketAddr::from(([192, 0, 2, 1], port)))
}

/// Returns how many datagrams were answered, how many flows were opened, and how many datagrams were turned away.
fn run(seed: u64) -> [u64; 3] {
    let mut rng = Rng::new(seed);
    let is_wild = rng.one_in(2);
    let chaos = match is_wild {
        false => [Chaos::CALM, Chaos::SHORT, Chaos::WILD][rng.below(3)],
        true => Chaos::random(&mut rng),
    };
    let replies = if rng.one_in(3) { Some(rng.below(3) as u32) } else { None };
    let flows_max = if is_wild { 1 + rng.below(12) } else { 100 };
    let rules = FlowRules {
        flows_max,
        replies,
        idle_timeout: Duration::from_secs(1 + rng.up_to(3)),
        ..FlowRules::new(String::new())
    };
    let flowing = Flowing::new(rules.clone());
    let proxy = ProxyConfig {
        balance: [Balance::TwoChoices, Balance::RoundRobin, Balance::Least][rng.below(3)].clone(),
        ..ProxyConfig::relayed(servers().map(Address::Ip).to_vec())
    };
    let is_small = rng.one_in(4);
    let config = Config { flows_max: if is_small { 4 } else { 100 }, ..Config::default() };
    let mut simulation = Simulation::new(seed, chaos, config);
    let socket = simulation.datagrams(Flows::alone(proxy, seed, &flowing));
    let net = simulation.net();
    let is_there = |server: SocketAddr, answer| net.set_remote(Address::Ip(server), answer);
    servers().into_iter().for_each(|server| is_there(server, Answer::Accept));
    simulation.start();

    let ours = [1, 2].map(|host| IpAddr::from([10, 0, 0, host]));
    let client = |n: usize| SocketAddr::from(([198, 51, 100, n as u8], 4000));
    let (mut asked, mut answered, mut is_lossy) = (0_u64, 0_u64, is_small || chaos.is_on(Fault::ClockLeap));
    is_lossy |= flows_max < 100 || chaos.is_on(Fault::DatagramFault) || replies.is_some();
    let mut owners: BTreeMap<SocketAddr, (SocketAddr, IpAddr)> = BTreeMap::new();
    let mut due: BTreeSet<Vec<u8>> = BTreeSet::new();
    for step in 0..STEPS + 20 {
        if step < STEPS && !rng.one_in(4) {
            for _ in 0..=rng.below(3) {
                let (from, to) = (client(rng.below(10)), ours[rng.below(2)]);
                asked += 1;
                let mut bytes = format!("{asked} {from} {to} ").into_bytes();
                bytes.resize(bytes.len() + rng.below(1500), b'.');
                net.send_datagram_to(socket, to, from, &bytes);
            }
        }
        if is_wild && rng.one_in(8) {
            let answer = [Answer::Accept, Answer::Fail(Errno::ECONNREFUSED), Answer::Silence][rng.below(3)];
            is_there(servers()[rng.below(3)], answer);
            is_lossy = true;
        }
        if is_wild && rng.one_in(30) {
            flowing.set(FlowRules { idle_timeout: Duration::from_millis(200), ..rules.clone() });
        }
        // Before a long time without a word all that was asked comes to the servers, and is answered.
        let times = if rng.one_in(25) { vec![200_000, 6_000_000] } else { vec![rng.up_to(30_000)] };
        for time in times {
            simulation.run_for(Duration::from_micros(time));
            for server in servers() {
                while let Some((flow, bytes)) = net.take_from_flow(server) {
                    let text = String::from_utf8(bytes.clone()).expect("as it was sent");
                    let mut words = text.split(' ').skip(1);
                    let (from, to) =
                        (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
                    let owner = *owners.entry(flow).or_insert((from, to));
                    assert_eq!(owner, (from, to), "seed {seed}: two clients share the flow from {flow}");
                    let answers = if is_wild { rng.below(3) } else { 1 };
                    for _ in 0..answers {
                        if net.send_to_flow(server, flow, &bytes) {
                            due.insert(bytes.clone());
                        }
                    }
                }
            }
            while let Some((local, peer, bytes)) = net.take_datagram_from(socket) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let mut words = text.split(' ').skip(1);
                let asked_by =
                    (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
                assert_eq!((peer, local.unwrap()), asked_by, "seed {seed}: a datagram of somebody else");
                assert!(due.contains(&bytes), "seed {seed}: no server said that");
                answered += 1;
            }
        }
        let open = simulation.counters().flows as usize;
        assert!(!is_small || open <= 4, "seed {seed}: {open} flows");
        assert!(flowing.open() <= flows_max, "seed {seed}: {} flows", flowing.open());
        // One that was closed may wait for a cancel that comes late.
        assert!(flowing.open() <= open, "seed {seed}: {} are counted, {open} open", flowing.open());
    }
    assert!(is_lossy || answered == asked, "seed {seed}: {answered} of {asked} were answered");
    simulation.set_chaos(Chaos::CALM);
    // Who is quiet is forgotten; and a drain ends what is not quiet.
    if rng.one_in(2) {
        simulation.run_for(Duration::from_secs(10));
        assert_eq!((simulation.counters().flows, flowing.open()), (0, 0), "seed {seed}");
    } else {
        net.send_datagram_to(socket, ours[0], client(0), b"0 the last");
        simulation.run_for(Duration::from_millis(100));
    }
    simulation.drain(Duration::from_secs(rng.up_to(3)));
    simulation.run_for(Duration::from_secs(10));
    simulation.check_ended();
    assert_eq!(flowing.open(), 0, "seed {seed}");
    let counters = simulation.counters();
    assert_eq!(counters.panics, 0, "seed {seed}");
    [answered, counters.flows_opened, counters.datagrams_ignored]
}

#[test]
fn each_client_has_its_own_answers_and_flows_are_bounded() {
    if let Ok(seed) = std::env::var("RINGMILL_FLOWS_SEED") {
        run(seed.parse().expect("a number"));
        return;
    }
    let seeds = std::env::var("RINGMILL_FLOWS_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let sum = (0..seeds).map(run).fold([0; 3], |sum, run| std::array::from_fn(|n| sum[n] + run[n]));
    assert!(sum.iter().all(|count| *count > 1000), "answered, flows, turned away: {sum:?}");
}

//! What an accept pays for the gate before it, with lists of a hundred thousand networks: `cargo bench -p ringmill-engine --bench gate`.
//! The bar is a microsecond. A trie is there to compare the list with.

use criterion::{Criterion, criterion_group, criterion_main};
use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;
use ringmill_engine::{Gate, GateRules, Network, Networks, RateLimiter, Tick};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const NETWORKS: usize = 100_000;

/// Numbers without an order (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn v4(&mut self) -> Ipv4Addr {
        Ipv4Addr::from((self.next() >> 20) as u32)
    }

    /// Within 2000::/3, as what is given out.
    fn v6(&mut self) -> Ipv6Addr {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        Ipv6Addr::from((bits >> 3) | (1 << 125))
    }
}

fn gate(c: &mut Criterion) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // As such lists are: most entries are single addresses and /24s.
    let v4: Vec<Ipv4Net> =
        (0..NETWORKS).map(|n| Ipv4Net::new(random.v4(), [32, 32, 24, 20][n % 4]).unwrap().trunc()).collect();
    let v6: Vec<Ipv6Net> =
        (0..NETWORKS).map(|n| Ipv6Net::new(random.v6(), [64, 48, 48, 32][n % 4]).unwrap().trunc()).collect();
    let read = |text: String| text.parse::<Network>().expect("a network");
    let list4 = Networks::new(v4.iter().map(|network| read(network.to_string())));
    let list6 = Networks::new(v6.iter().map(|network| read(network.to_string())));
    let trie: PrefixSet<Ipv4Net> = v4.iter().copied().collect();
    let all = |ip: Ipv4Addr| Ipv4Net::new(ip, 32).expect("32 bits");
    for _ in 0..NETWORKS {
        let ip = random.v4();
        assert_eq!(list4.contains(ip.into()), trie.get_lpm(&all(ip)).is_some());
    }

    let mut group = c.benchmark_group("gate");
    group.bench_function("100,000 networks of IPv4", |b| {
        b.iter(|| list4.contains(black_box(random.v4()).into()))
    });
    group.bench_function("the same in a trie", |b| {
        b.iter(|| trie.get_lpm(&all(black_box(random.v4()))).is_some())
    });
    group.bench_function("100,000 networks of IPv6", |b| {
        b.iter(|| list6.contains(black_box(random.v6()).into()))
    });
    let limiter = RateLimiter::new("1000/s".parse().expect("a rate"), 64 * 1024);
    let mut now = Tick(0);
    group.bench_function("a rate, 20,000 clients", |b| {
        b.iter(|| {
            now.0 += 1000;
            limiter.admit(black_box(random.next() % 20_000), now)
        })
    });
    let gate = Gate::new(GateRules {
        deny: Some(Arc::new(list4)),
        connections_per_ip: Some(100),
        connections_per_prefix: Some(10_000),
        new_connections_per_ip: "1000/s".parse().ok(),
        ..GateRules::default()
    });
    group.bench_function("an accept with all of it", |b| {
        b.iter(|| {
            now.0 += 1000;
            gate.would_let_in(IpAddr::V4(black_box(random.v4())), now)
        })
    });
    group.finish();
}

criterion_group!(benches, gate);
criterion_main!(benches);

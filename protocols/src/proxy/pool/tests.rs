//! Which server a pool chooses, and what it has seen of them.

use super::*;

fn config(count: u16, balance: Balance) -> ProxyConfig {
    let addresses = (1..=count).map(|port| Address::Ip(([127, 0, 0, 1], port).into())).collect();
    ProxyConfig { balance, ..ProxyConfig::new(addresses) }
}

fn pool(count: u16, balance: Balance) -> Pool {
    Pool::new(&config(count, balance), 7)
}

#[test]
fn workers_take_turns_together() {
    let config = config(3, Balance::RoundRobin);
    let mut pools = [1, 2].map(|seed| Pool::new(&config, seed));
    let mut choose = |n: usize| pools[n % 2].choose(Wanted::Any, None, Tick(0)).unwrap();
    assert_eq!((0..6).map(&mut choose).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
}

#[test]
fn large_weights_keep_their_proportions() {
    let mut config = config(3, Balance::TwoChoices);
    for (server, weight) in config.upstreams.iter_mut().zip([100_000, 1_000_000, 0]) {
        server.weight = weight;
    }
    let weights: Vec<u32> = Pool::new(&config, 1).endpoints.iter().map(|endpoint| endpoint.weight).collect();
    assert_eq!(weights, [6553, WEIGHT_MAX, 1]);
}

#[test]
fn what_other_workers_sent_counts() {
    for balance in [Balance::TwoChoices, Balance::Least] {
        let config = config(4, balance);
        let mut pools = [1, 2].map(|seed| Pool::new(&config, seed));
        let mut taken = [0; 4];
        for n in 0..4000 {
            let server = pools[n % 2].choose(Wanted::Any, None, Tick(0)).unwrap();
            taken[server] += 1;
            pools[n % 2].endpoints[server].begin_request();
        }
        assert!(taken.iter().all(|count| (980..1020).contains(count)), "{taken:?}");
        (0..10_000).for_each(|_| pools[0].endpoints[2].begin_request());
        assert!((0..1000).all(|_| pools[1].choose(Wanted::Any, None, Tick(0)) != Some(2)));
        let [one, two] = pools;
        drop(one);
        assert!(two.endpoints[2].member.busy() < 1000, "it took along what it had");
    }
}

#[test]
fn who_refused_is_avoided_for_a_while_unless_all_did() {
    for balance in [Balance::TwoChoices, Balance::RoundRobin, Balance::Least] {
        let mut pool = pool(3, balance);
        let choose = |pool: &mut Pool, but, now| pool.choose(Wanted::Any, but, now).unwrap();
        assert!(pool.endpoints[1].avoid(Tick(0)));
        assert!(!pool.endpoints[1].avoid(Tick(0)), "that is no news");
        assert!((0..100).all(|_| choose(&mut pool, None, Tick(0)) != 1));
        assert!((0..100).all(|_| choose(&mut pool, Some(0), Tick(0)) == 2));
        let later = Tick(0).after(AVOID);
        assert!((0..100).any(|_| choose(&mut pool, None, later) == 1));
        for endpoint in &mut pool.endpoints {
            endpoint.avoid(Tick(0));
        }
        for n in 0..3 {
            assert!((0..100).any(|_| choose(&mut pool, None, Tick(0)) == n), "{n} is tried");
            assert!((0..100).all(|_| choose(&mut pool, Some(n), Tick(0)) != n));
        }
    }
    let mut alone = pool(1, Balance::TwoChoices);
    alone.endpoints[0].avoid(Tick(0));
    assert_eq!(alone.choose(Wanted::Any, Some(0), Tick(0)), Some(0));
}

#[test]
fn who_stands_by_is_chosen_where_no_other_is_left() {
    let mut config = config(3, Balance::TwoChoices);
    config.upstreams[2].is_backup = true;
    let mut pool = Pool::new(&config, 7);
    assert!((0..100).all(|_| pool.choose(Wanted::Any, None, Tick(0)) != Some(2)));
    pool.endpoints[..2].iter_mut().for_each(|endpoint| assert!(endpoint.avoid(Tick(0))));
    assert!((0..100).all(|_| pool.choose(Wanted::Any, None, Tick(0)) == Some(2)));
    // A client that a cookie sends there stays as long as that is so, and no longer.
    assert_eq!(pool.choose(Wanted::Server(2), None, Tick(0)), Some(2));
    let later = Tick(0).after(AVOID);
    assert!((0..100).all(|_| pool.choose(Wanted::Server(2), None, later) != Some(2)));
    assert_eq!(pool.choose(Wanted::Server(1), None, later), Some(1));
}

#[test]
fn connections_are_shared_by_who_waits_for_them() {
    let config = config(1, Balance::TwoChoices);
    let mut pools = [1, 2].map(|seed| Pool::new(&config, seed));
    let [one, two] = pools.each_mut().map(|pool| &mut pool.endpoints[0]);
    assert!((0..6).all(|key| one.wait(key, 10)));
    assert_eq!((0..9).filter(|_| one.begin_connect(4)).count(), 4, "as many as there may be");
    for _ in 0..4 {
        one.end_connect();
        one.stop_waiting(|_| true);
        one.begin_request();
    }
    assert!(!one.yields_one(4), "nobody else wants one");
    assert!((0..4).all(|key| two.wait(key, 10)) && !two.begin_connect(4));
    // Six are wanted here, four there: 2.4 of four are its part.
    one.end_request();
    assert!(one.is_wanted_elsewhere() && one.yields_one(4));
    assert!(!one.has_room_for_others(4), "whoever is told now can do nothing");
    one.close();
    assert!(one.has_room_for_others(4));
    assert!(!one.begin_connect(4), "it has just given one up");
    let connect = |two: &mut Endpoint| {
        assert!(two.begin_connect(4) && !two.begin_connect(4));
        two.end_connect();
        two.stop_waiting(|_| true);
        two.begin_request();
    };
    connect(&mut *two);
    one.end_request();
    assert!(one.yields_one(4));
    one.close();
    connect(&mut *two);
    one.end_request();
    assert!(!one.yields_one(4), "two of four are not more than its part");
    assert_eq!((0..9).filter(|key| two.wait(*key, 10)).count(), 6, "ten wait on both");
}

/// So many failures in a row.
fn fail(pool: &Pool, server: usize, times: usize) {
    (0..times).for_each(|_| pool.note(server, false, Tick(1)));
}

#[test]
fn who_fails_gets_nothing_for_a_while_unless_too_many_do() {
    for balance in [Balance::TwoChoices, Balance::RoundRobin, Balance::Least, Balance::Hash(HashBy::Path)] {
        let config = config(4, balance);
        let (pool, mut other) = (Pool::new(&config, 1), Pool::new(&config, 2));
        let mut chosen = |now| {
            let mut counts = [0; 4];
            (0..1000)
                .for_each(|n| counts[other.choose(Wanted::Key(key_of(&[n as u8])), None, now).unwrap()] += 1);
            (0..1000).for_each(|_| counts[other.choose(Wanted::Any, None, now).unwrap()] += 1);
            counts.map(|count| count > 0)
        };
        fail(&pool, 1, 4);
        pool.note(1, true, Tick(1));
        fail(&pool, 1, 4);
        assert_eq!(chosen(Tick(1)), [true; 4], "never five in a row");
        fail(&pool, 1, 1);
        fail(&pool, 3, 5);
        assert_eq!(chosen(Tick(1)), [true, false, true, false]);
        fail(&pool, 0, 50);
        assert_eq!(chosen(Tick(1)), [true, false, true, false], "a half is out already");
        assert_eq!(chosen(Tick(1).after(Duration::from_secs(10))), [true; 4]);
        let counts = config.fleet.counts();
        let of =
            |of: fn(&super::super::fleet::ServerCounts) -> u64| counts.iter().map(of).collect::<Vec<_>>();
        assert_eq!(of(|it| it.ejections), [0, 1, 0, 1]);
        assert_eq!(of(|it| it.spared), [10, 0, 0, 0]);
    }
}

#[test]
fn who_is_down_gets_nothing_unless_all_are() {
    let mut config = config(2, Balance::TwoChoices);
    config.check = Some(Check::new("/up".parse().unwrap()));
    let mut pool = Pool::new(&config, 1);
    (0..3).for_each(|_| pool.note_check(0, false, Tick(1)));
    assert!((0..100).all(|_| pool.choose(Wanted::Any, None, Tick(1)) == Some(1)));
    (0..3).for_each(|_| pool.note_check(1, false, Tick(1)));
    assert!((0..2).all(|n| (0..100).any(|_| pool.choose(Wanted::Any, None, Tick(1)) == Some(n))));
    (0..2).for_each(|_| pool.note_check(0, true, Tick(1)));
    assert!((0..100).all(|_| pool.choose(Wanted::Any, None, Tick(1)) == Some(0)));
}

#[test]
fn who_has_just_refused_comes_before_who_is_down_or_ejected() {
    for stands_by in [false, true] {
        let mut config = config(4, Balance::TwoChoices);
        config.check = Some(Check::new("/up".parse().unwrap()));
        config.upstreams[3].is_backup = stands_by;
        let mut pool = Pool::new(&config, 1);
        (0..2).for_each(|n| (0..3).for_each(|_| pool.note_check(n, false, Tick(1))));
        fail(&pool, 2, 5);
        let chosen = |pool: &mut Pool, but| {
            let mut counts = [0; 4];
            (0..100).for_each(|_| counts[pool.choose(Wanted::Any, but, Tick(1)).unwrap()] += 1);
            counts.map(|count| count > 0)
        };
        assert_eq!(chosen(&mut pool, None), [false, false, false, true]);
        assert!(pool.endpoints[3].avoid(Tick(1)));
        assert_eq!(chosen(&mut pool, None), [false, false, false, true], "the others are no better");
        let is_said = |n: usize| !pool.endpoints[n].member.health.is_to_be_said(Tick(1));
        assert!(!(0..2).any(is_said));
        // Whoever has tried that one tries the others, which is said.
        assert_eq!(chosen(&mut pool, Some(3)), [true, true, true, false]);
        let is_said = |n: usize| !pool.endpoints[n].member.health.is_to_be_said(Tick(1));
        assert!((0..3).all(is_said));
    }
}

#[test]
fn who_is_drained_gets_nothing_whatever_becomes_of_the_others() {
    let config = config(2, Balance::TwoChoices);
    let mut pool = Pool::new(&config, 1);
    assert!(!config.fleet.drain(&"127.0.0.1:99".parse().unwrap(), true));
    let drain = |n: usize, is_drained| assert!(config.fleet.drain(&config.upstreams[n].address, is_drained));
    drain(0, true);
    pool.endpoints[1].avoid(Tick(1));
    assert!((0..100).all(|_| pool.choose(Wanted::Any, None, Tick(1)) == Some(1)));
    assert_eq!(pool.choose(Wanted::Any, Some(1), Tick(1)), Some(1));
    drain(1, true);
    assert_eq!(pool.choose(Wanted::Any, None, Tick(1)), None);
    assert_eq!(pool.choose(Wanted::Any, Some(1), Tick(1)), None);
    drain(0, false);
    assert_eq!(pool.choose(Wanted::Any, None, Tick(1)), Some(0));
}

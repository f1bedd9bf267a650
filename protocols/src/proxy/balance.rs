//! Which server of several: functions of weights, of what each has to do, of chance, of a turn or of a key. Pure.
//!
//! Who may be chosen at all is decided in `pool.rs`; here are the candidates, of which there is at least one.

/// A key's server has at most so many percent of what would be its part: the rest goes to the next one.
const BOUND_PERCENT: u128 = 125;

/// A server that may be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its number in the upstream.
    pub(super) server: usize,
    /// At least 1.
    pub(super) weight: u32,
    /// Requests that it has to do with.
    pub(super) busy: u32,
    /// Which it is, for who chooses by a key: the same in every process.
    pub(super) identity: u64,
}

impl Candidate {
    /// Whether what it has to do is a smaller part of its weight than the other's.
    fn is_less_busy_than(&self, other: &Candidate) -> bool {
        let of = |one: &Candidate, weight: u32| u64::from(one.busy) * u64::from(weight);
        of(self, other.weight) < of(other, self.weight)
    }
}

/// Numbers that follow from a seed (xorshift64).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(mixed(seed) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }
}

/// Of two at random, more probably heavy ones, the one with less to do.
pub(super) fn two_choices(candidates: &[Candidate], random: &mut Random) -> usize {
    if let [only] = candidates {
        return only.server;
    }
    let all = weight_of(candidates);
    let first = at_weight(candidates, random.below(all));
    let left = all - u64::from(candidates[first].weight);
    let mut point = random.below(left);
    let before = weight_of(&candidates[..first]);
    if point >= before {
        point += u64::from(candidates[first].weight);
    }
    let [one, two] = [first, at_weight(candidates, point)].map(|at| &candidates[at]);
    if two.is_less_busy_than(one) { two.server } else { one.server }
}

/// One after the other; with weights, in a sequence in which each has its part of every stretch.
pub(super) fn in_turn(candidates: &[Candidate], turn: u64) -> usize {
    let first = candidates[0].weight;
    if candidates.iter().all(|candidate| candidate.weight == first) {
        return candidates[(turn % candidates.len() as u64) as usize].server;
    }
    // Multiples of the golden ratio, modulo one, lie evenly on a line, however many there are.
    let fraction = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let point = (u128::from(fraction) * u128::from(weight_of(candidates))) >> 64;
    candidates[at_weight(candidates, point as u64)].server
}

/// The one with the least to do, for its weight; of equal ones more probably heavy ones.
pub(super) fn least(candidates: &[Candidate], random: &mut Random) -> usize {
    let start = at_weight(candidates, random.below(weight_of(candidates)));
    let (before, after) = candidates.split_at(start);
    let mut best = &candidates[start];
    for candidate in after.iter().chain(before) {
        if candidate.is_less_busy_than(best) {
            best = candidate;
        }
    }
    best.server
}

/// The key's own server (highest random weight), unless that one has too much to do: then the next one of the key. A server that comes
/// or goes takes keys from all others, and moves no key between them.
pub(super) fn by_key(candidates: &[Candidate], key: u64) -> usize {
    let weights = weight_of(candidates);
    let busy: u64 = candidates.iter().map(|candidate| u64::from(candidate.busy)).sum();
    let has_room = |candidate: &Candidate| {
        let part = u128::from(busy + 1) * BOUND_PERCENT * u128::from(candidate.weight);
        u128::from(candidate.busy) < part.div_ceil(u128::from(weights) * 100)
    };
    // The weighted form: w / -ln(u), with u between 0 and 1.
    let score = |candidate: &Candidate| {
        let unit = ((mixed(key ^ candidate.identity) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(candidate.weight) / -unit.ln()
    };
    let scored = candidates.iter().filter(|it| has_room(it)).map(|it| (score(it), it));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map_or(&candidates[0], |(_, candidate)| candidate).server
}

/// A number for these bytes, the same in every process (FNV-1a, and mixed).
pub(super) fn key_of(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finaliser of splitmix64.
fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn weight_of(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(|candidate| u64::from(candidate.weight)).sum()
}

/// Which candidate is at this point, when they lie one behind the other, each as long as its weight.
fn at_weight(candidates: &[Candidate], mut point: u64) -> usize {
    for (at, candidate) in candidates.iter().enumerate() {
        match point.checked_sub(u64::from(candidate.weight)) {
            Some(rest) => point = rest,
            None => return at,
        }
    }
    candidates.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let one = |(server, weight): (usize, &u32)| Candidate {
            server,
            weight: *weight,
            busy: 0,
            identity: key_of(format!("10.0.0.{server}:80").as_bytes()),
        };
        weights.iter().enumerate().map(one).collect()
    }

    /// How often each is chosen, where requests stay (`stays`) or are done at once.
    fn spread(
        weights: &[u32],
        times: u64,
        stays: bool,
        mut choose: impl FnMut(&[Candidate], u64) -> usize,
    ) -> Vec<u64> {
        let mut all = candidates(weights);
        let mut counts = vec![0; all.len()];
        for n in 0..times {
            let chosen = choose(&all, n);
            counts[chosen] += 1;
            all[chosen].busy += u32::from(stays);
        }
        counts
    }

    /// Each has its part by weight, with so many percent more or less.
    #[track_caller]
    fn check(weights: &[u32], counts: &[u64], percent: u64) {
        let (all, times): (u64, u64) = (weights.iter().map(|it| u64::from(*it)).sum(), counts.iter().sum());
        for (weight, count) in weights.iter().zip(counts) {
            let part = times * u64::from(*weight) / all;
            assert!(count.abs_diff(part) * 100 <= part * percent, "{weights:?}: {counts:?}");
        }
    }

    const WEIGHTS: &[&[u32]] =
        &[&[1], &[1, 1], &[1, 1, 1], &[1, 3], &[5, 1, 1], &[100, 200, 300, 400], &[7; 20]];

    #[test]
    fn each_has_its_part() {
        for weights in WEIGHTS {
            let mut random = Random::new(3);
            for (stays, percent) in [(true, 3), (false, 10)] {
                let counts = spread(weights, 20_000, stays, |all, _| two_choices(all, &mut random));
                check(weights, &counts, percent);
                let counts = spread(weights, 20_000, stays, |all, _| least(all, &mut random));
                check(weights, &counts, percent);
            }
            check(weights, &spread(weights, 20_000, false, in_turn), 1);
            check(weights, &spread(weights, 40_000, false, |all, n| by_key(all, mixed(n))), 10);
        }
    }

    #[test]
    fn every_stretch_of_turns_is_even() {
        for weights in WEIGHTS {
            for from in [0, 1000, u64::MAX - 500] {
                let counts = spread(weights, 500, false, |all, n| in_turn(all, from.wrapping_add(n)));
                let all: u32 = weights.iter().sum();
                for (weight, count) in weights.iter().zip(&counts) {
                    let part = 500 * u64::from(*weight) / u64::from(all);
                    assert!(count.abs_diff(part) <= 6, "{weights:?} from {from}: {counts:?}");
                }
            }
        }
        let turns: Vec<usize> = (0..6).map(|turn| in_turn(&candidates(&[2, 2, 2]), turn)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn who_has_much_to_do_is_not_chosen() {
        let mut random = Random::new(1);
        let mut all = candidates(&[1, 1, 1, 1]);
        all[2].busy = 1000;
        assert!((0..1000).all(|_| two_choices(&all, &mut random) != 2));
        assert!((0..1000).all(|_| least(&all, &mut random) != 2));
        assert!((0..1000).all(|n| by_key(&all, mixed(n)) != 2));
        // For its weight it has little to do.
        let mut all = candidates(&[1, 10]);
        (all[0].busy, all[1].busy) = (1, 8);
        assert!((0..100).all(|_| two_choices(&all, &mut random) == 1 && least(&all, &mut random) == 1));
    }

    proptest! {
        #[test]
        fn a_key_stays_where_it_is(weights in prop::collection::vec(1_u32..10, 2..12), gone in any::<prop::sample::Index>(), keys in prop::collection::vec(any::<u64>(), 50)) {
            let all = candidates(&weights);
            let gone = gone.index(all.len());
            let rest: Vec<Candidate> = all.iter().copied().filter(|it| it.server != gone).collect();
            for key in keys {
                let before = by_key(&all, key);
                prop_assert_eq!(before, by_key(&all, key));
                if before != gone {
                    prop_assert_eq!(before, by_key(&rest, key));
                }
            }
        }

        #[test]
        fn no_server_has_more_than_a_quarter_above_its_part(weights in prop::collection::vec(1_u32..10, 1..12), keys in 1_u64..4, times in 1_usize..300) {
            // Few keys, so that most servers are nobody's own.
            let counts = spread(&weights, times as u64, true, |all, n| by_key(all, mixed(n % keys)));
            let all: u32 = weights.iter().sum();
            for (weight, count) in weights.iter().zip(&counts) {
                let most = (times as u64 * 125 * u64::from(*weight)).div_ceil(u64::from(all) * 100);
                prop_assert!(*count <= most, "{:?} of {:?}", counts, weights);
            }
        }

        #[test]
        fn whoever_is_chosen_is_a_candidate(weights in prop::collection::vec(1_u32..u32::MAX, 1..8), busy in prop::collection::vec(any::<u32>(), 8), number in any::<u64>()) {
            let mut all = candidates(&weights);
            for (at, candidate) in all.iter_mut().enumerate() {
                (candidate.busy, candidate.server) = (busy[at], at + 3);
            }
            let mut random = Random::new(number);
            let known = 3..all.len() + 3;
            for chosen in [two_choices(&all, &mut random), least(&all, &mut random), in_turn(&all, number), by_key(&all, number)] {
                prop_assert!(known.contains(&chosen));
            }
        }
    }
}

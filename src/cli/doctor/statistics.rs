//! The median of a few noisy ratios, and how far it can be trusted.
//!
//! The random numbers come from a fixed seed: the same samples give the same interval.

const RESAMPLES: usize = 10_000;
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// A median with its bootstrap 95% interval: the 2.5th and 97.5th percentile of medians of samples drawn with
/// replacement (Efron 1979).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(super) struct Estimate {
    pub(super) median: f64,
    pub(super) interval_95: (f64, f64),
}

impl Estimate {
    /// None without values.
    pub(super) fn of(values: &[f64]) -> Option<Estimate> {
        let median = median(&mut values.to_vec())?;
        let mut state = SEED;
        let mut resample = vec![0.0; values.len()];
        let mut medians = Vec::with_capacity(RESAMPLES);
        for _ in 0..RESAMPLES {
            resample.fill_with(|| values[next_random(&mut state) as usize % values.len()]);
            medians.extend(self::median(&mut resample));
        }
        medians.sort_by(f64::total_cmp);
        Some(Estimate {
            median,
            interval_95: (medians[RESAMPLES * 25 / 1000], medians[RESAMPLES * 975 / 1000]),
        })
    }

    /// Whether the interval holds 1: then a ratio shows no difference.
    pub(super) fn spans_one(&self) -> bool {
        self.interval_95.0 <= 1.0 && 1.0 <= self.interval_95.1
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// xorshift64* (Vigna 2014), upper half.
fn next_random(state: &mut u64) -> u32 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_lies_within_the_samples_and_around_the_median() {
        let estimate = Estimate::of(&[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0]).unwrap();
        assert_eq!(estimate.median, 1.3);
        let (low, high) = estimate.interval_95;
        assert!((1.0..1.3).contains(&low) && 1.3 < high && high <= 9.0);
        assert!(Estimate::of(&[]).is_none());
    }

    #[test]
    fn a_difference_shows_only_outside_the_interval() {
        let check =
            |values: &[f64], expected| assert_eq!(Estimate::of(values).unwrap().spans_one(), expected);
        check(&[0.97, 1.01, 1.02, 0.98, 1.0], true);
        check(&[1.1, 1.11, 1.12, 1.1, 1.13], false);
        check(&[0.9, 0.91, 0.92, 0.9, 0.93], false);
    }
}

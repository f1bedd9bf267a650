//! Medians, and how far the median of a few noisy ratios can be trusted.
//!
//! The random numbers come from a fixed seed: the same samples give the same interval.

/// Resamplings behind an interval.
const RESAMPLES: usize = 10_000;
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Bootstrap 95% interval of the median.
    pub interval: (f64, f64),
    pub count: usize,
}

impl Summary {
    /// None without values.
    pub fn of(values: &[f64]) -> Option<Summary> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            median: median(values)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            interval: bootstrap_interval(values)?,
            count: values.len(),
        })
    }
}

/// None without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The 2.5th and 97.5th percentile of medians of samples drawn with replacement.
fn bootstrap_interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut state = SEED;
    let mut medians = Vec::with_capacity(RESAMPLES);
    let mut resample = vec![0.0; values.len()];
    for _ in 0..RESAMPLES {
        for value in &mut resample {
            *value = values[next_random(&mut state) as usize % values.len()];
        }
        medians.push(median(&resample)?);
    }
    medians.sort_by(f64::total_cmp);
    Some((medians[RESAMPLES * 25 / 1000], medians[RESAMPLES * 975 / 1000]))
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
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_interval_lies_within_the_samples_and_around_the_median() {
        let summary = Summary::of(&[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0]).unwrap();
        assert_eq!((summary.min, summary.median, summary.max), (1.0, 1.3, 9.0));
        assert!(1.0 <= summary.interval.0 && summary.interval.0 < 1.3);
        assert!(1.3 < summary.interval.1 && summary.interval.1 <= 9.0);
        assert!(Summary::of(&[]).is_none());
    }
}

//! Medians, how far the median of a few noisy values can be trusted, and what may be said of a ratio.
//!
//! The random numbers come from a fixed seed: the same samples give the same interval.

use serde::Serialize;

/// Resamplings behind an interval.
const RESAMPLES: usize = 10_000;
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// A few values of one quantity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Of an even number of values, the mean of the two in the middle.
    pub median: f64,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// Bootstrap 95% interval of the median.
    pub interval_95: (f64, f64),
    /// How many values there were.
    pub count: usize,
}

impl Summary {
    /// What the values come to; None without values.
    pub fn of(values: &[f64]) -> Option<Summary> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            median: median_of_sorted(&sorted)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            interval_95: bootstrap_interval(values)?,
            count: values.len(),
        })
    }
}

/// The median; None without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The 2.5th and 97.5th percentile of medians of samples drawn with replacement (Efron 1979).
fn bootstrap_interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut state = SEED;
    let mut medians = Vec::with_capacity(RESAMPLES);
    let mut resample = vec![0.0; values.len()];
    for _ in 0..RESAMPLES {
        for value in &mut resample {
            *value = values[next_random(&mut state) as usize % values.len()];
        }
        resample.sort_by(f64::total_cmp);
        medians.push(median_of_sorted(&resample)?);
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

/// Fewer pairs than this say nothing, whatever their interval: that five fall on one side of 1 by chance happens more often
/// than once in twenty, 2 in 2^5.
pub const PAIRS_MIN: usize = 6;

/// What a paired ratio says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval is above 1.
    More,
    /// The whole interval is below 1.
    Less,
    /// The interval spans 1.
    NoDifference,
    /// Fewer than `PAIRS_MIN` pairs.
    TooFewPairs,
}

impl Verdict {
    /// What the summary of paired ratios says.
    pub fn of(ratio: &Summary) -> Verdict {
        let (low, high) = ratio.interval_95;
        if ratio.count < PAIRS_MIN {
            Verdict::TooFewPairs
        } else if low > 1.0 {
            Verdict::More
        } else if high < 1.0 {
            Verdict::Less
        } else {
            Verdict::NoDifference
        }
    }

    /// The verdict in words, for people.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::More => "more",
            Verdict::Less => "less",
            Verdict::NoDifference => "no difference",
            Verdict::TooFewPairs => "too few pairs",
        }
    }
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
        assert!(1.0 <= summary.interval_95.0 && summary.interval_95.0 < 1.3);
        assert!(1.3 < summary.interval_95.1 && summary.interval_95.1 <= 9.0);
        assert_eq!(Summary::of(&[1.0, 2.0, 3.0]), Summary::of(&[1.0, 2.0, 3.0]));
        assert_eq!(Summary::of(&[]), None);
    }

    /// For the median there is an exact interval to compare with: of 25 sorted values the 8th and the 18th hold the true
    /// median with 95.7% (binomial). The bootstrap of the values 1 to 25 must come out there, give or take one.
    #[test]
    fn the_interval_agrees_with_the_exact_one() {
        let values: Vec<f64> = (1..=25).map(f64::from).collect();
        let (low, high) = Summary::of(&values).unwrap().interval_95;
        assert!((7.0..=9.0).contains(&low) && (17.0..=19.0).contains(&high), "{low} to {high}");
    }

    /// How often the interval holds the true median, over many known distributions: about 95 times in a hundred.
    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        let mut state = 7;
        let mut covered = 0;
        for _ in 0..200 {
            let values: Vec<f64> =
                (0..11).map(|_| f64::from(next_random(&mut state)) / 4_294_967_296.0).collect();
            let (low, high) = Summary::of(&values).unwrap().interval_95;
            covered += usize::from(low <= 0.5 && 0.5 <= high);
        }
        assert!((178..=200).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn verdicts() {
        let check = |values: &[f64], expected| {
            let summary = Summary::of(values).unwrap();
            assert_eq!(Verdict::of(&summary), expected, "{values:?}: {summary:?}");
        };
        check(&[1.2, 1.3, 1.25, 1.22, 1.21, 1.3], Verdict::More);
        check(&[0.8, 0.7, 0.75, 0.72, 0.71, 0.7], Verdict::Less);
        check(&[0.9, 1.1, 1.0, 0.95, 1.05, 1.02], Verdict::NoDifference);
        check(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0], Verdict::NoDifference);
        check(&[2.0, 2.0, 2.0, 2.0, 2.0], Verdict::TooFewPairs);
    }
}

//! What counts say of rates: bounds where nothing was seen, intervals where something was.
//!
//! Everything is at 95 %, and takes the trials for independent. Digits that the counts do not carry are not shown.

use std::fmt;

/// Quantile of the normal distribution behind a two-sided interval of 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// The Wilson score interval of the rate of something that was seen `seen` times in `trials`, at 95 %; everything, from
/// 0 to 1, where nothing was tried. `seen` must be at most `trials`.
#[must_use]
pub fn wilson(seen: u64, trials: u64) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (trials as f64, seen as f64 / trials as f64);
    let z2 = Z * Z;
    let middle = p + z2 / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // The ends are exact where rounding would leave a trace.
    let low = if seen == 0 { 0.0 } else { ((middle - half) / scale).max(0.0) };
    let high = if seen == trials { 1.0 } else { ((middle + half) / scale).min(1.0) };
    (low, high)
}

/// The rule of three: what was not seen in `trials` has at most this rate, at 95 %; no bound, 1, below 3 trials.
#[must_use]
pub fn never(trials: u64) -> f64 {
    if trials < 3 { 1.0 } else { 3.0 / trials as f64 }
}

/// How often something was seen, in words: the rate with its interval, or the bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Times seen.
    pub seen: u64,
    /// Times it could have been.
    pub trials: u64,
    /// What a trial is, in the plural.
    pub of: &'static str,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, trials, of } = *self;
        match (seen, trials) {
            (0, 0) => write!(f, "not tried"),
            (0, _) => write!(f, "0 in {trials} {of}: at most 3/{trials} = {:.1e} (95 %)", never(trials)),
            // One trial may show it more than once: then it is no share of the trials.
            _ if seen > trials => write!(f, "{seen} in {trials} {of}"),
            _ => {
                let (low, high) = wilson(seen, trials);
                let rate = seen as f64 / trials as f64;
                write!(f, "{seen} in {trials} {of}: {rate:.1e}, {low:.1e} to {high:.1e} (95 %)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 5e-5
    }

    #[test]
    fn known_values() {
        // Wilson score intervals without continuity correction: Newcombe 1998, table I, method 3.
        for (seen, trials, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let (l, h) = wilson(seen, trials);
            assert!(near(l, low) && near(h, high), "{seen} of {trials}: {l} {h}");
        }
        assert_eq!((never(30_000), never(2), never(0)), (1e-4, 1.0, 1.0));
    }

    #[test]
    fn in_words() {
        let rate = |seen, trials| Rate { seen, trials, of: "rounds" }.to_string();
        assert_eq!(rate(0, 0), "not tried");
        assert_eq!(rate(0, 30_000), "0 in 30000 rounds: at most 3/30000 = 1.0e-4 (95 %)");
        assert_eq!(rate(81, 263), "81 in 263 rounds: 3.1e-1, 2.6e-1 to 3.7e-1 (95 %)");
        assert_eq!(rate(5, 4), "5 in 4 rounds");
    }

    proptest! {
        #[test]
        fn an_interval_holds_its_rate(seen in 0..2_000_000_u64, more in 0..2_000_000_u64) {
            prop_assume!(seen + more > 0);
            let trials = seen + more;
            let (low, high) = wilson(seen, trials);
            let rate = seen as f64 / trials as f64;
            prop_assert!(0.0 <= low && low <= rate && rate <= high && high <= 1.0, "{} {} {}", low, rate, high);
            // What is seen and what is not are the same question.
            let (l, h) = wilson(more, trials);
            prop_assert!((l - (1.0 - high)).abs() < 1e-9 && (h - (1.0 - low)).abs() < 1e-9);
        }

        #[test]
        fn more_trials_say_more(seen in 0..1000_u64, more in 0..1000_u64, times in 2..1000_u64) {
            prop_assume!(seen + more > 0);
            let width = |n| { let (low, high) = wilson(seen * n, (seen + more) * n); high - low };
            prop_assert!(width(times) < width(1));
        }

        #[test]
        fn the_bound_is_what_the_binomial_distribution_gives(trials in 3..10_000_000_u64) {
            // At this rate nothing is seen with a probability of at most 5 %.
            prop_assert!((1.0 - never(trials)).powf(trials as f64) <= 0.05);
            prop_assert!(trials < 60 || (1.0 - never(trials)).powf(trials as f64) > 0.045);
        }
    }
}

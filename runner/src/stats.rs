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
    let (low, high) = wilson_at(Z, seen as f64 / trials as f64, trials as f64);
    // The ends are exact where rounding would leave a trace.
    (if seen == 0 { 0.0 } else { low }, if seen == trials { 1.0 } else { high })
}

/// The same with another quantile, for a share `p` of `n` trials, more than none.
fn wilson_at(z: f64, p: f64, n: f64) -> (f64, f64) {
    let z2 = z * z;
    let middle = p + z2 / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

/// A quantile for two-sided intervals of `count` rates, by which at 95 % all of them hold theirs (Bonferroni). It is found by Mills'
/// ratio, which makes it a little too large.
#[must_use]
pub fn z_of_none(count: usize) -> f64 {
    let wanted = 0.05 / count.max(1) as f64;
    let tails = |z: f64| 2.0 * (-z * z / 2.0).exp() / (z * std::f64::consts::TAU.sqrt());
    let (mut low, mut high) = (0.5, 40.0);
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        *if tails(middle) > wanted { &mut low } else { &mut high } = middle;
    }
    high
}

/// A rate and the interval that it is in.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub struct Interval {
    /// Times seen.
    pub seen: u64,
    /// Times it could have been.
    pub trials: u64,
    /// Of the rate.
    pub low: f64,
    /// Of the rate.
    pub high: f64,
}

// A rate is never NaN: it is not of no trials.
impl Eq for Interval {}

impl Interval {
    /// Something was `seen` in so many of `trials`, of which at most `independent` ones are independent of each other; within
    /// `z` standard deviations.
    #[must_use]
    pub fn of(seen: u64, trials: u64, independent: u64, z: f64) -> Self {
        let n = trials.min(independent) as f64;
        let (low, high) = if n == 0.0 { (0.0, 1.0) } else { wilson_at(z, seen as f64 / trials as f64, n) };
        Self { seen, trials, low, high }
    }

    /// Whether the intervals do not meet, and one rate is at least twice the other.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        let rate = |of: &Self| of.seen as f64 / of.trials.max(1) as f64;
        let [less, more] = if rate(self) < rate(other) { [self, other] } else { [other, self] };
        less.high < more.low && rate(more) >= 2.0 * rate(less)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, trials, low, high } = self;
        write!(f, "{seen} in {trials} ({low:.1e} to {high:.1e})")
    }
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
    fn quantiles_are_a_little_too_large() {
        // Two-sided: 95 %, 99.5 %, 99.999 %.
        for (count, exact) in [(1, 1.95996), (10, 2.80703), (5000, 4.41717)] {
            let z = z_of_none(count);
            assert!(z > exact && z < exact + 0.12, "{count}: {z}");
        }
        assert_eq!(z_of_none(0), z_of_none(1));
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

//! The one source of every choice that the architecture leaves open.
//!
//! Scheduler, TLB, walker and barriers all ask [`Choices`]. It is SplitMix64 from one seed: four lines, so that a
//! seed in an old report means the same run for as long as the questions are asked in the same order, whatever a
//! library's generators become. The last answers are kept in a ring, to be printed around the first bad outcome.
//!
//! A question whose answer is certain ([`Odds::NEVER`], [`Odds::ALWAYS`], one alternative) draws nothing: a benign
//! profile costs no random numbers, and its runs do not depend on the seed except through the scheduler.

use std::fmt;

use crate::trace::Log;

/// What a choice was about; it names the line in a trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Point {
    /// Which PE goes on, and for how long.
    Schedule,
    /// Whether a load or a walk sees a store that no DSB has completed yet.
    Visibility,
    /// Whether a written register is seen before a context synchronisation.
    Register,
    /// Whether a TLB entry is given up, and which.
    Evict,
    /// Whether and what to walk for without being asked.
    Speculate,
    /// Whether a cached table entry shortens a walk, and which.
    WalkCache,
    /// As which kinds of entry a walk is kept, and how much of its range an entry covers.
    Fill,
    /// Whether an issued TLBI takes effect now.
    Invalidate,
    /// What several matching entries give.
    Several,
    /// When a defect strikes.
    Defect,
    /// Whether an interrupt, event or wake-up arrives now.
    Event,
    /// Whether a store-exclusive fails for no reason of the program's.
    Exclusive,
}

/// How likely something is, in 1/65536.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Odds(u32);

impl Odds {
    /// It does not happen.
    pub const NEVER: Self = Self(0);
    /// It happens each time.
    pub const ALWAYS: Self = Self(1 << 16);

    /// Once in `n` times; `n` is 1 to 65536.
    #[must_use]
    pub const fn one_in(n: u32) -> Self {
        assert!(n > 0, "one in none has no meaning");
        Self((1 << 16) / n)
    }
}

/// One answer of the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// How many answers were drawn before this one.
    pub number: u64,
    /// What was asked.
    pub point: Point,
    /// How many alternatives there were; 0 for a yes or no.
    pub of: u32,
    /// The answer.
    pub taken: u32,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, point, of, taken } = self;
        match of {
            0 => write!(f, "{number} {point:?}: {}", if *taken != 0 { "yes" } else { "no" }),
            _ => write!(f, "{number} {point:?}: {taken} of {of}"),
        }
    }
}

/// Answers kept for a trace; a power of two.
const KEPT: usize = 256;

/// The seeded source.
#[derive(Clone, Debug)]
pub struct Choices {
    seed: u64,
    state: u64,
    drawn: u64,
    ring: Box<[Option<Choice>; KEPT]>,
    /// What the model did, if somebody wants to know. Here, because whatever has a choice to make has this at hand.
    log: Option<Box<Log>>,
}

impl Choices {
    /// The source of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed, drawn: 0, ring: Box::new([None; KEPT]), log: None }
    }

    /// The seed it was made from.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// How many answers were drawn so far.
    #[must_use]
    pub const fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Keeps a log from now on.
    pub(crate) fn trace_to(&mut self, log: Log) {
        self.log = Some(Box::new(log));
    }

    /// What is told from now on happens on `pe`.
    #[inline]
    pub(crate) fn on(&mut self, pe: usize) {
        if let Some(log) = &mut self.log {
            log.on(pe);
        }
    }

    /// The log, if one is kept.
    #[inline]
    pub(crate) fn log(&mut self) -> Option<&mut Log> {
        self.log.as_deref_mut()
    }

    /// Notes an event, if a log is kept; `details` are asked for only then.
    #[inline]
    pub(crate) fn tell<D: fmt::Display>(&mut self, what: &'static str, details: impl FnOnce() -> D) {
        if let Some(log) = &mut self.log {
            log.note(what, &details());
        }
    }

    /// As [`tell`](Self::tell), of the `size` input addresses from `start`.
    #[inline]
    pub(crate) fn tell_of<D: fmt::Display>(
        &mut self,
        (start, size): (u64, u64),
        what: &'static str,
        details: impl FnOnce() -> D,
    ) {
        if let Some(log) = &mut self.log
            && log.matters(start, size)
        {
            log.note(what, &details());
        }
    }

    #[inline]
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    #[inline]
    fn note(&mut self, point: Point, of: u32, taken: u32) {
        let number = self.drawn;
        self.ring[number as usize % KEPT] = Some(Choice { number, point, of, taken });
        self.drawn += 1;
    }

    /// Whether something of these odds happens.
    #[inline]
    pub fn chance(&mut self, point: Point, odds: Odds) -> bool {
        if odds == Odds::NEVER || odds == Odds::ALWAYS {
            return odds == Odds::ALWAYS;
        }
        let taken = (self.next() >> 48) < u64::from(odds.0);
        self.note(point, 0, u32::from(taken));
        taken
    }

    /// One of `of` alternatives, 0 to `of - 1`, each as likely as the others. With none or one there is nothing to
    /// choose, and it is 0.
    #[inline]
    pub fn pick(&mut self, point: Point, of: u32) -> u32 {
        if of <= 1 {
            return 0;
        }
        // The high half of a product: even enough, without a division.
        let taken = (((self.next() >> 32) * u64::from(of)) >> 32) as u32;
        self.note(point, of, taken);
        taken
    }

    /// The answers kept, oldest first.
    pub fn trace(&self) -> impl Iterator<Item = Choice> + '_ {
        let start = self.drawn as usize % KEPT;
        self.ring[start..].iter().chain(&self.ring[..start]).filter_map(|choice| *choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_answers_again() {
        let answers = |seed| {
            let mut choices = Choices::new(seed);
            (0..100).map(|n| choices.pick(Point::Schedule, n + 2)).collect::<Vec<_>>()
        };
        assert_eq!(answers(42), answers(42));
        assert_ne!(answers(42), answers(43));
    }

    /// The first outputs of SplitMix64 for seed 1234567, as published with the algorithm.
    #[test]
    fn the_generator_is_splitmix64() {
        let mut choices = Choices::new(1_234_567);
        assert_eq!([choices.next(), choices.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn certainties_draw_nothing() {
        let mut choices = Choices::new(1);
        assert!(!choices.chance(Point::Evict, Odds::NEVER));
        assert!(choices.chance(Point::Evict, Odds::ALWAYS));
        assert_eq!(choices.pick(Point::Evict, 1), 0);
        assert_eq!((choices.drawn(), choices.trace().count()), (0, 0));
    }

    #[test]
    fn alternatives_are_about_as_likely() {
        let mut choices = Choices::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..10_000 {
            seen[choices.pick(Point::Several, 5) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (1800..2200).contains(n)), "{seen:?}");
        let yes = (0..10_000).filter(|_| choices.chance(Point::Several, Odds::one_in(4))).count();
        assert!((2300..2700).contains(&yes), "{yes}");
    }

    #[test]
    fn the_trace_holds_the_last_answers_in_order() {
        let mut choices = Choices::new(7);
        for _ in 0..KEPT + 10 {
            choices.pick(Point::Several, 5);
        }
        let numbers: Vec<_> = choices.trace().map(|choice| choice.number).collect();
        assert!(numbers.iter().copied().eq(10..KEPT as u64 + 10));
        assert_eq!(Choice { number: 3, point: Point::Evict, of: 5, taken: 2 }.to_string(), "3 Evict: 2 of 5");
    }
}

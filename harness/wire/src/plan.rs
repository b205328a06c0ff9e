//! What the runner asks for: a text that people can write too.
//!
//! ```text
//! shatter-plan 1                 first, with the version of this format
//! seed 0x2a                      settings, each at most once, all optional
//! rounds 100
//! timeout-ms 10000
//! budget-ms 2000
//! console semihosting
//! at-end off
//! midr 0x410fd034                 only on CPUs of this type; without it on every type there is
//! run el1.split.4k-l2.bbm.load-remote
//! run el1.split.4k-l2.direct.load-remote rounds=1000
//! end 2                          how many run lines there are, so that a plan cut short is noticed
//! ```
//!
//! `#` starts a comment, numbers are decimal or 0x…. A short plan fits the kernel command line, and the command
//! line overrides a plan's settings: `shatter.seed=0x2a shatter.run=ID,ID`.
//!
//! A [`Plan`] keeps the text and reads its lines again whenever they are asked for: the guest has no heap to
//! put them. Nothing is ignored: a word that is not understood ends the parse with an error that names it, for a plan
//! that does less than it says would pass for a result.

use core::{fmt, num::NonZeroU64};

use arrayvec::ArrayString;
use vmsa::{Instance, instance::IdError};

use crate::record::cut;

/// Version of the format.
pub const VERSION: u64 = 1;

/// Before a key on the kernel command line.
const PREFIX: &str = "shatter.";

vmsa::words! {
    #[derive(Default)]
    /// Where records go.
    Console {
        /// The UART that the devicetree names.
        #[default]
        Uart = "uart",
        /// Semihosting, where the host offers it; a board without a debugger hangs in the first call.
        Semihosting = "semihosting",
    }
}

vmsa::words! {
    #[derive(Default)]
    /// What hv does when the plan is through.
    AtEnd {
        /// PSCI SYSTEM_OFF; with semihosting, its exit call.
        #[default]
        Off = "off",
        /// Waits for ever.
        Halt = "halt",
        /// PSCI SYSTEM_RESET.
        Reset = "reset",
    }
}

/// What holds for the whole plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Seed of every random choice.
    pub seed: u64,
    /// Rounds of an instance whose line does not say otherwise.
    pub rounds: NonZeroU64,
    /// After how many milliseconds the watchdog ends an instance.
    pub timeout_ms: NonZeroU64,
    /// After how many milliseconds a payload stops making rounds.
    pub budget_ms: NonZeroU64,
    /// Where records go.
    pub console: Console,
    /// What to do at the end.
    pub at_end: AtEnd,
    /// MIDR_EL1 of the type of CPU that instances run on, if not on every type that the machine has.
    pub midr: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            rounds: const { NonZeroU64::new(100).expect("not 0") },
            timeout_ms: const { NonZeroU64::new(10_000).expect("not 0") },
            budget_ms: const { NonZeroU64::new(2_000).expect("not 0") },
            console: Console::default(),
            at_end: AtEnd::default(),
            midr: None,
        }
    }
}

/// Settings as far as a text states them, and the instances that a command line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overrides<'a> {
    /// [`Settings::seed`].
    pub seed: Option<u64>,
    /// [`Settings::rounds`].
    pub rounds: Option<NonZeroU64>,
    /// [`Settings::timeout_ms`].
    pub timeout_ms: Option<NonZeroU64>,
    /// [`Settings::budget_ms`].
    pub budget_ms: Option<NonZeroU64>,
    /// [`Settings::console`].
    pub console: Option<Console>,
    /// [`Settings::at_end`].
    pub at_end: Option<AtEnd>,
    /// [`Settings::midr`].
    pub midr: Option<u64>,
    /// Ids separated by commas, checked. Only a command line has it.
    pub run: Option<&'a str>,
}

impl<'a> Overrides<'a> {
    /// Reads the words of a kernel command line that start with `shatter.`; all others are somebody else's.
    ///
    /// # Errors
    /// If such a word is not understood, or its key stands there twice.
    pub fn from_bootargs(bootargs: &'a str) -> Result<Self, PlanError> {
        let mut overrides = Self::default();
        overrides.read_bootargs(bootargs).map_err(|what| PlanError { at: At::Bootargs, what })?;
        Ok(overrides)
    }

    fn read_bootargs(&mut self, bootargs: &'a str) -> Result<(), What> {
        for word in bootargs.split_ascii_whitespace().filter_map(|word| word.strip_prefix(PREFIX)) {
            let (key, value) = word.split_once('=').ok_or_else(|| What::NoValue(word.into()))?;
            if key == "run" {
                for id in value.split(',') {
                    instance(id)?;
                }
                once(&mut self.run, key, value)?;
            } else {
                self.set(key, value)?;
            }
        }
        Ok(())
    }

    /// The one list of settings and what their values may be.
    fn set(&mut self, key: &str, value: &str) -> Result<(), What> {
        match key {
            "seed" => once(&mut self.seed, key, number(value)?),
            "rounds" => once(&mut self.rounds, key, positive(value)?),
            "timeout-ms" => once(&mut self.timeout_ms, key, positive(value)?),
            "budget-ms" => once(&mut self.budget_ms, key, positive(value)?),
            "console" => {
                once(&mut self.console, key, Console::parse(value).ok_or_else(|| What::value("console", value))?)
            }
            "at-end" => once(&mut self.at_end, key, AtEnd::parse(value).ok_or_else(|| What::value("at-end", value))?),
            "midr" => once(&mut self.midr, key, number(value)?),
            _ => Err(What::UnknownKey(key.into())),
        }
    }

    /// `settings` with what is stated here in the place of theirs.
    #[must_use]
    pub fn apply(&self, settings: Settings) -> Settings {
        Settings {
            seed: self.seed.unwrap_or(settings.seed),
            rounds: self.rounds.unwrap_or(settings.rounds),
            timeout_ms: self.timeout_ms.unwrap_or(settings.timeout_ms),
            budget_ms: self.budget_ms.unwrap_or(settings.budget_ms),
            console: self.console.unwrap_or(settings.console),
            at_end: self.at_end.unwrap_or(settings.at_end),
            midr: self.midr.or(settings.midr),
        }
    }
}

/// One instance to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which.
    pub instance: Instance,
    /// Its rounds.
    pub rounds: NonZeroU64,
}

/// A plan that was read and found good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan<'a> {
    settings: Settings,
    source: Source<'a>,
    count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source<'a> {
    /// The text of a plan.
    Text(&'a str),
    /// Ids separated by commas, from a command line.
    List(&'a str),
}

impl<'a> Plan<'a> {
    /// Reads a plan's text.
    ///
    /// # Errors
    /// At the first line that is not understood, and if the text ends before its `end` line or without the run lines
    /// that this counts.
    pub fn parse(text: &'a str) -> Result<Self, PlanError> {
        let mut parser = Parser::default();
        let mut last = 0;
        for (number, line) in lines(text) {
            parser.line(line).map_err(|what| PlanError { at: At::Line(number), what })?;
            last = number;
        }
        match parser.stage {
            Stage::Ended => Ok(Self {
                settings: parser.stated.apply(Settings::default()),
                source: Source::Text(text),
                count: parser.count,
            }),
            Stage::Start => Err(PlanError { at: At::Line(last + 1), what: What::NotAPlan }),
            Stage::Settings | Stage::Runs => Err(PlanError { at: At::Line(last), what: What::CutShort }),
        }
    }

    /// The plan for a boot: what the command line asks for if it has `shatter.run`, else the bundle's plan `text`,
    /// with the command line's settings in the place of its own. Rounds that a run line states stay.
    ///
    /// # Errors
    /// If the text is damaged, or neither says what to run.
    pub fn for_boot(text: Option<&'a str>, overrides: &Overrides<'a>) -> Result<Self, PlanError> {
        let plan = match (overrides.run, text) {
            (Some(list), _) => Self {
                settings: Settings::default(),
                source: Source::List(list),
                count: list.split(',').map(|_| 1).sum(),
            },
            (None, Some(text)) => Self::parse(text)?,
            (None, None) => return Err(PlanError { at: At::Bootargs, what: What::NothingToRun }),
        };
        Ok(Self { settings: overrides.apply(plan.settings), ..plan })
    }

    /// What holds for all of it.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many instances it runs.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// CRC-32 of the text it was read from.
    #[must_use]
    pub fn crc(&self) -> u32 {
        let (Source::Text(text) | Source::List(text)) = self.source;
        crate::frame::crc32(text.as_bytes())
    }

    /// The instances to run, in their order: [`count`](Self::count) of them.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + use<'a> {
        let rounds = self.settings.rounds;
        let (text, list) = match self.source {
            Source::Text(text) => (text, None),
            Source::List(list) => ("", Some(list)),
        };
        let of_text = lines(text).filter_map(|(_, line)| run(line.strip_prefix("run")?).ok());
        let of_list =
            list.into_iter().flat_map(|list| list.split(',')).filter_map(|id| Some((instance(id).ok()?, None)));
        of_text.chain(of_list).map(move |(instance, own)| Entry { instance, rounds: own.unwrap_or(rounds) })
    }
}

/// Writes the text of a plan, which [`Plan::parse`] reads back as the same settings and entries.
///
/// # Errors
/// Only those of `to`.
pub fn write(to: &mut impl fmt::Write, settings: &Settings, entries: impl IntoIterator<Item = Entry>) -> fmt::Result {
    let Settings { seed, rounds, timeout_ms, budget_ms, console, at_end, midr } = settings;
    writeln!(to, "shatter-plan {VERSION}\nseed {seed:#x}\nrounds {rounds}\ntimeout-ms {timeout_ms}")?;
    writeln!(to, "budget-ms {budget_ms}\nconsole {console}\nat-end {at_end}")?;
    if let Some(midr) = midr {
        writeln!(to, "midr {midr:#x}")?;
    }
    let mut count = 0_u32;
    for entry in entries {
        write!(to, "run {}", entry.instance)?;
        if entry.rounds != *rounds {
            write!(to, " rounds={}", entry.rounds)?;
        }
        writeln!(to)?;
        count += 1;
    }
    writeln!(to, "end {count}")
}

/// Where the parser stands.
#[derive(Default)]
enum Stage {
    /// Before the version line.
    #[default]
    Start,
    /// Before the first run line.
    Settings,
    /// Behind it.
    Runs,
    /// Behind the end line.
    Ended,
}

#[derive(Default)]
struct Parser<'a> {
    stage: Stage,
    stated: Overrides<'a>,
    count: u32,
}

impl Parser<'_> {
    fn line(&mut self, line: &str) -> Result<(), What> {
        let (key, value) = line.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((line, ""));
        let value = value.trim_ascii();
        match (&self.stage, key) {
            (Stage::Start, "shatter-plan") => {
                let version = number(value)?;
                if version != VERSION {
                    return Err(What::Version(version));
                }
                self.stage = Stage::Settings;
            }
            (Stage::Start, _) => return Err(What::NotAPlan),
            (Stage::Ended, _) => return Err(What::AfterEnd),
            (_, "run") => {
                run(value)?;
                self.count += 1;
                self.stage = Stage::Runs;
            }
            (_, "end") => {
                let stated = number(value)?;
                if stated != u64::from(self.count) {
                    return Err(What::Count { stated, found: self.count });
                }
                self.stage = Stage::Ended;
            }
            (_, _) if value.is_empty() => return Err(What::NoValue(key.into())),
            (Stage::Settings, _) => self.stated.set(key, value)?,
            // Otherwise one could take it for a setting of only the lines below it.
            (Stage::Runs, _) => return Err(What::Late(key.into())),
        }
        Ok(())
    }
}

/// The lines that say something, with their numbers from 1, without comments and surrounding blanks.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .map(|line| line.split_once('#').map_or(line, |(line, _)| line).trim_ascii())
        .zip(1..)
        .filter(|(line, _)| !line.is_empty())
        .map(|(line, number)| (number, line))
}

/// What stands behind `run`: an id, and the rounds if they are its own.
fn run(text: &str) -> Result<(Instance, Option<NonZeroU64>), What> {
    let mut words = text.split_ascii_whitespace();
    let instance = instance(words.next().ok_or_else(|| What::NoValue("run".into()))?)?;
    let mut rounds = None;
    for word in words {
        match word.split_once('=') {
            Some((key @ "rounds", value)) => once(&mut rounds, key, positive(value)?)?,
            Some((key, _)) => return Err(What::UnknownKey(key.into())),
            None => return Err(What::UnknownKey(word.into())),
        }
    }
    Ok((instance, rounds))
}

fn instance(id: &str) -> Result<Instance, What> {
    id.parse().map_err(|why| What::Id { id: id.into(), why })
}

fn number(text: &str) -> Result<u64, What> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    // `from_str_radix` would take a sign.
    if digits.starts_with('+') {
        return Err(What::Number(text.into()));
    }
    u64::from_str_radix(digits, radix).map_err(|_| What::Number(text.into()))
}

fn positive(text: &str) -> Result<NonZeroU64, What> {
    NonZeroU64::new(number(text)?).ok_or(What::Zero)
}

fn once<T>(field: &mut Option<T>, key: &str, value: T) -> Result<(), What> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(What::Twice(key.into())),
    }
}

/// Part of the offending text, for the message; cut if it is long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Excerpt(ArrayString<{ Self::MAX }>);

impl Excerpt {
    /// Most bytes of it.
    pub const MAX: usize = 72;
}

impl From<&str> for Excerpt {
    fn from(text: &str) -> Self {
        let mut excerpt = ArrayString::new();
        excerpt.push_str(cut(text, Self::MAX));
        Self(excerpt)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0.escape_debug())
    }
}

/// Where a plan is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// In this line of its text, from 1.
    Line(usize),
    /// On the kernel command line.
    Bootargs,
}

/// What is wrong with a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The first line is not `shatter-plan 1`.
    NotAPlan,
    /// It has this version.
    Version(u64),
    /// There is no such setting.
    UnknownKey(Excerpt),
    /// This key has no value.
    NoValue(Excerpt),
    /// This setting does not have such a value.
    Value {
        /// The setting.
        key: &'static str,
        /// The value.
        value: Excerpt,
    },
    /// This key stands there twice.
    Twice(Excerpt),
    /// This setting comes after the first run line.
    Late(Excerpt),
    /// This is no number.
    Number(Excerpt),
    /// A number is 0 that must not be.
    Zero,
    /// This is no instance's id.
    Id {
        /// The id.
        id: Excerpt,
        /// What is wrong with it.
        why: IdError,
    },
    /// The end line counts other than what there is.
    Count {
        /// Run lines according to the end line.
        stated: u64,
        /// Run lines.
        found: u32,
    },
    /// There is more behind the end line.
    AfterEnd,
    /// There is no end line.
    CutShort,
    /// There is neither a plan in the bundle nor `shatter.run` on the command line.
    NothingToRun,
}

impl What {
    fn value(key: &'static str, value: &str) -> Self {
        Self::Value { key, value: value.into() }
    }
}

/// Why a text is not a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanError {
    /// Where.
    pub at: At,
    /// What.
    pub what: What,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Line(line) => write!(f, "plan line {line}: ")?,
            At::Bootargs => f.write_str("bootargs: ")?,
        }
        match &self.what {
            What::NotAPlan => write!(f, "a plan starts with `shatter-plan {VERSION}`"),
            What::Version(version) => {
                write!(f, "version {version} is not known, only {VERSION}; use a runner and an image of one release")
            }
            What::UnknownKey(key) => write!(f, "there is no setting {key}"),
            What::NoValue(key) => write!(f, "{key} needs a value"),
            What::Value { key, value } => write!(f, "`{key}` cannot be {value}"),
            What::Twice(key) => write!(f, "{key} stands there twice"),
            What::Late(key) => write!(f, "{key} must come before the first run line"),
            What::Number(text) => write!(f, "{text} is not a number of 64 bits, decimal or 0x…"),
            What::Zero => f.write_str("the number must be at least 1"),
            What::Id { id, why } => write!(f, "{id} is no instance: {why}"),
            What::Count { stated, found } => {
                write!(f, "it has {found} run lines and should have {stated}: part of it is missing or was repeated")
            }
            What::AfterEnd => f.write_str("nothing may follow the end line"),
            What::CutShort => f.write_str("there is no end line after it: the plan was cut short"),
            What::NothingToRun => f.write_str("nothing to run: no plan in the bundle and no shatter.run"),
        }
    }
}

impl core::error::Error for PlanError {}

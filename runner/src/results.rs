//! Result files: what one CPU showed on one platform, kept as evidence.
//!
//! A result file is one JSON object at `DIR/<platform>/<cpu>.json`, with one line per case, so that a version
//! control system shows which case changed. It stores what was seen, not only what was concluded: the judge can go over
//! old outcomes again when a rule is corrected ([`crate::judge::rejudge`]).
//!
//! A machine with several types of CPU has a file for each of them, `DIR/<platform>/<cpu>@<machine>.json`, beside which
//! the same CPU's own results stay what they are. Each of these files says what the machine is made of ([`System`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use vmsa::{
    feature::{Feature, IdRegisters},
    geometry::{BbmLevel, Granule},
    outcome::{End, Kind, Phase},
    verdict::Class,
};

use crate::report;

mod journal;

pub use journal::Writer;

/// Number of the file format this version writes. It reads this one and every older one.
pub const SCHEMA: u32 = 1;

/// A 64-bit register value or address. JSON readers may hold numbers as doubles, so it is written as a
/// hexadecimal string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        hex.to_string()
    }
}

impl TryFrom<String> for Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a hexadecimal number of at most 64 bits that starts with 0x"))
    }
}

/// Words of `vmsa` stand in result files by the names that the console uses.
mod by_name {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use vmsa::{
        outcome::{End, Kind, Phase},
        verdict::Class,
    };

    pub(super) trait Named: Copy + ToString {
        const WHAT: &'static str;
        fn all() -> impl Iterator<Item = Self>;
    }

    macro_rules! named {
        ($($type:ty, $what:literal, $all:expr;)+) => {
            $(impl Named for $type {
                const WHAT: &'static str = $what;
                fn all() -> impl Iterator<Item = Self> { $all }
            })+
        };
    }
    named! {
        Phase, "phase", Phase::ALL.into_iter();
        Kind, "kind of outcome", Kind::all();
        End, "end", End::ALL.into_iter();
        Class, "verdict", Class::ALL.into_iter();
    }

    pub(super) fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        T::all()
            .find(|value| value.to_string() == name)
            .ok_or_else(|| D::Error::custom(format_args!("`{name}` is not a {} that this version knows", T::WHAT)))
    }
}

/// What a platform's results are worth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// A real CPU did it.
    Silicon,
    /// An emulator did it, whose TLB is its own.
    Emulator,
    /// An architectural model did it.
    Model,
    /// An architectural model did it in which a mistake was put on purpose: nothing about any CPU.
    Defective,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silicon => "silicon",
            Self::Emulator => "emulator",
            Self::Model => "model",
            Self::Defective => "defective",
        })
    }
}

/// What made the results.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tool {
    /// Version of shatter.
    pub version: String,
    /// Git revision it was built from, or `unknown`.
    pub git: String,
    /// Hash of the hypervisor Image, algorithm first: `sha256:…`.
    pub image: String,
}

/// Where they were made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// `qemu`, `model`, `fvp` or `board`; also the directory the file stands in.
    pub kind: String,
    /// Its version.
    pub version: String,
    /// The command that started it.
    pub command_line: String,
    /// What its results are worth.
    pub evidence: Evidence,
}

/// The CPU that showed them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cpu {
    /// The platform's name for it (QEMU's `-cpu`); also the file's name, or its beginning.
    pub name: String,
    /// MIDR_EL1.
    pub midr: Hex,
    /// REVIDR_EL1.
    pub revidr: Hex,
    /// MPIDR_EL1 of each CPU with this MIDR, in order of their indices.
    pub mpidrs: Vec<Hex>,
    /// ID_AA64MMFR2_EL1.BBM, 0 to 3.
    #[serde(with = "bbm")]
    pub bbm: BbmLevel,
    /// ID registers by their names.
    pub registers: BTreeMap<String, Hex>,
}

/// A machine with several types of CPU, and what software may rely on that runs on all of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct System {
    /// The platform's name for the machine.
    pub name: String,
    /// The least BBM level of its CPUs: tables that any of them may use are to be changed as that level asks.
    #[serde(with = "bbm")]
    pub bbm: BbmLevel,
    /// The granules that stage 1 of all CPUs has: `4k`, `16k`, `64k`.
    pub granules: Vec<String>,
    /// Its types of CPU, in order of their first CPUs.
    pub cpus: Vec<Member>,
}

/// An SMMUv3 of the machine. Tables that it shares with the CPUs are changed as the least of them asks, and written back to
/// the point of coherency if its walks are not coherent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Smmu {
    /// Physical address of its registers.
    pub base: Hex,
    /// SMMU_IDR3.BBML, which counts as ID_AA64MMFR2_EL1.BBM does (Arm IHI 0070, 6.3.4).
    #[serde(with = "bbm")]
    pub bbm: BbmLevel,
    /// SMMU_IDR0.COHACC: whether its table walks are coherent.
    pub coherent_walks: bool,
    /// SMMU_IDR0.
    pub idr0: Hex,
    /// SMMU_IDR3.
    pub idr3: Hex,
}

impl Smmu {
    /// What its ID registers say.
    #[must_use]
    pub fn of(seen: &wire::record::Smmu) -> Self {
        let field = (seen.idr3 >> 11 & 3) as u8;
        Self {
            base: Hex(seen.base),
            bbm: BbmLevel::from_number(field).unwrap_or(BbmLevel::L0),
            coherent_walks: seen.idr0 >> 4 & 1 != 0,
            idr0: Hex(seen.idr0.into()),
            idr3: Hex(seen.idr3.into()),
        }
    }
}

/// A type of CPU of a [`System`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// [`Cpu::name`].
    pub name: String,
    /// [`Cpu::midr`].
    pub midr: Hex,
    /// How many there are.
    pub count: usize,
    /// [`Cpu::bbm`].
    #[serde(with = "bbm")]
    pub bbm: BbmLevel,
    /// The granules that its stage 1 has.
    pub granules: Vec<String>,
}

impl System {
    /// What the machine called `name` comes to, if it has several types of CPU.
    #[must_use]
    pub fn of(name: &str, types: &[Cpu]) -> Option<Self> {
        let bbm = types.iter().map(|cpu| cpu.bbm).min().filter(|_| types.len() > 1)?;
        let all = |granule: &Granule| types.iter().all(|cpu| cpu.granules().any(|own| own == *granule));
        let names = |granules: &mut dyn Iterator<Item = Granule>| granules.map(|granule| granule.to_string()).collect();
        let member = |cpu: &Cpu| Member {
            name: cpu.name.clone(),
            midr: cpu.midr,
            count: cpu.mpidrs.len(),
            bbm: cpu.bbm,
            granules: names(&mut cpu.granules()),
        };
        Some(Self {
            name: name.to_owned(),
            bbm,
            granules: names(&mut Granule::ALL.into_iter().filter(all)),
            cpus: types.iter().map(member).collect(),
        })
    }
}

impl Cpu {
    /// The granules of its stage 1.
    fn granules(&self) -> impl Iterator<Item = Granule> {
        let mmfr0 = self.registers.get("ID_AA64MMFR0_EL1").map_or(0, |value| value.0);
        let registers = IdRegisters { mmfr0, ..IdRegisters::default() };
        Granule::ALL.into_iter().filter(move |granule| Feature::Granule(*granule).is_in(&registers))
    }
}

/// A BBM level is its number.
mod bbm {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use vmsa::geometry::BbmLevel;

    pub(super) fn serialize<S: Serializer>(level: &BbmLevel, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(level.number())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BbmLevel, D::Error> {
        let number = u8::deserialize(deserializer)?;
        BbmLevel::from_number(number).ok_or_else(|| D::Error::custom(format_args!("there is no BBM level {number}")))
    }
}

/// How they were made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Seed of every random choice.
    pub seed: Hex,
    /// Rounds asked of each instance, in each pass.
    pub rounds: u64,
    /// Passes over the plan that began, the last of which may not have come to its end. Each is a boot of its own, the
    /// first with `seed`, the next with `seed` + 1 and so on; what they saw is added up.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub passes: u64,
    /// Which [patterns](vmsa::stress::Pattern::VERSION) seed and round stand for, if the payload had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patterns: Option<u8>,
    /// Instances asked for. A file with fewer cases is of a run that was interrupted.
    pub planned: u64,
    /// Those of them that are [controls](crate::controls) which nobody asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added_controls: Vec<String>,
    /// When it began. A resumed run keeps its first start, by which a journal and its file know each other.
    pub start: DateTime<Utc>,
    /// How long it took, in milliseconds; the sum, if it was resumed.
    pub duration_ms: u64,
    /// Console lines that were torn or damaged.
    pub lost_lines: u64,
}

const fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_one(number: &u64) -> bool {
    *number == 1
}

/// Where and how an outcome was first seen; [`wire::record::First`] says what each means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of wire::record::First")]
pub struct First {
    pub esr: Hex,
    pub far: Hex,
    pub pc: Hex,
    pub cpu: u8,
    pub round: u64,
    pub value: Hex,
    /// The seed of the pass, if it was not the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Hex>,
}

/// One line of a histogram, judged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// When.
    #[serde(with = "by_name")]
    pub phase: Phase,
    /// What.
    #[serde(with = "by_name")]
    pub kind: Kind,
    /// How often.
    pub count: u64,
    /// Whether the architecture allows it.
    pub allowed: bool,
    /// The rule that says so.
    pub rule: String,
    /// The first of them.
    pub first: First,
}

/// How many TLB conflict aborts an instance met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConflictCounts {
    /// Taken at EL1.
    pub el1: u64,
    /// Taken at EL2 for the translation of EL1&0.
    pub el2_for_el1: u64,
    /// Taken at EL2 for its own translation.
    pub el2: u64,
    /// Those, of all places, that no TLBI cleared.
    pub uncleared: u64,
}

impl ConflictCounts {
    /// Of all places.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.el1.saturating_add(self.el2_for_el1).saturating_add(self.el2)
    }
}

/// No TLB conflict abort was seen, and this is what it tells of their rate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bound {
    /// Rounds in which an access overlapped the change.
    pub rounds: u64,
    /// Conflict aborts a round at 95 %, 3/`rounds`, to two digits.
    pub at_most: String,
}

/// One instance's result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CaseResult {
    /// Its id.
    pub id: String,
    /// What it comes to.
    #[serde(with = "by_name")]
    pub verdict: Class,
    /// Why.
    pub reason: String,
    /// How it ended.
    #[serde(with = "by_name")]
    pub end: End,
    /// Index of the CPU that ran vCPU 0.
    pub cpu: u8,
    /// BBM level presented to the payload.
    #[serde(with = "bbm")]
    pub bbm: BbmLevel,
    /// Rounds made, in all passes.
    pub rounds: u64,
    /// Passes that are added up here: those with the first so many seeds from the run's on.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub passes: u64,
    /// Rounds in which an observer's access overlapped the change.
    pub overlap: u64,
    /// Accesses of all observers.
    pub accesses: u64,
    /// What was wrong with the harness, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What the hypervisor had to say: why it was skipped, a panic's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The histogram.
    pub outcomes: Vec<Outcome>,
    /// Conflict aborts; the file's `conflicts` has the details of the first ones.
    pub conflicts: ConflictCounts,
    /// Accesses that stage 2 refused.
    pub contained: u64,
    /// Of a case that changes stage 2, how its window was broken, and what met that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaks: Option<Breaks>,
    /// What it means that there was no conflict abort, if there could have been one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// Registers of the vCPU that ended it, unless it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registers: Option<BTreeMap<String, Hex>>,
    /// Building the VM, in nanoseconds.
    pub setup_ns: u64,
    /// Running it, in nanoseconds.
    pub duration_ns: u64,
}

/// Times in which a window of stage 2, or of EL2's own, was broken, as hv measured them, and accesses that met one: they waited at EL2 until the
/// window was mended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Breaks {
    /// How many.
    pub count: u64,
    /// For how long in all, in nanoseconds.
    pub total_ns: u64,
    /// For how long at most, in nanoseconds.
    pub longest_ns: u64,
    /// For how long at least, in nanoseconds; older results do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortest_ns: Option<u64>,
    /// CPU cycles of the shortest, where hv broke what it stood on itself and the CPU counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycles: Option<u64>,
    /// Faults that were answered by having the access tried again.
    pub retried: u64,
}

impl Breaks {
    /// Takes what others came to.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in
            [(&mut self.count, other.count), (&mut self.total_ns, other.total_ns), (&mut self.retried, other.retried)]
        {
            *sum = sum.saturating_add(more);
        }
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        let least = |ours: Option<u64>, other| [ours, other].into_iter().flatten().min();
        self.shortest_ns = least(self.shortest_ns, other.shortest_ns);
        self.cycles = least(self.cycles, other.cycles);
    }
}

/// One TLB conflict abort; [`wire::record::Conflict`] says what each field means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of wire::record::Conflict")]
pub struct Conflict {
    /// The instance that met it.
    pub id: String,
    pub place: String,
    pub stage: u8,
    pub esr: Hex,
    pub far: Hex,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hpfar: Option<Hex>,
    pub pc: Hex,
    pub cpu: u8,
    pub cleared_by: String,
    pub retries: u8,
    pub injected: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

/// An instance whose result is known beforehand, and whether it came out so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ControlResult {
    /// The instance.
    pub id: String,
    /// What it must show.
    pub expected: String,
    /// Whether it did.
    pub held: bool,
}

/// All that comes of one finished instance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its result.
    pub case: CaseResult,
    /// The conflict aborts that were recorded one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// What it says as a control, if it is one and could say something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlResult>,
}

/// A result file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResultFile {
    /// Number of the format.
    pub schema: u32,
    /// What made it.
    pub tool: Tool,
    /// Where.
    pub platform: Platform,
    /// On which CPU.
    pub cpu: Cpu,
    /// The machine, if it has other types of CPU as well: then these are the instances whose first vCPU was on `cpu`, and
    /// the others' may have been on any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<System>,
    /// Its SMMUs, as far as hv could read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub smmus: Vec<Smmu>,
    /// How.
    pub run: Run,
    /// Why the results are worth nothing, if their [controls](crate::controls) say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worthless: Option<String>,
    /// The instances, in the order in which they ended.
    pub cases: Vec<CaseResult>,
    /// Every conflict abort that was recorded one by one.
    pub conflicts: Vec<Conflict>,
    /// The controls.
    pub controls: Vec<ControlResult>,
}

/// Why a result file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not, or not all of, a result file.
    #[error("{}:{line}:{column}: this is not a whole result file: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the JSON reader says.
        why: String,
    },
    /// A later version wrote it.
    #[error("{}: it has schema {schema}, this version of shatter reads up to {SCHEMA}: use a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        schema: u32,
    },
    /// A case stands in it twice.
    #[error("{}: the case {id} stands in it twice: remove one of the two lines", path.display())]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The case.
        id: String,
    },
    /// A run that would be continued was made in another way.
    #[error("{} cannot be resumed: its {what} was {then} and is now {now}; run it again without --resume", path.display())]
    Different {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the file.
        then: String,
        /// Now.
        now: String,
    },
    /// A file of waivers says something that cannot be.
    #[error("{}:{line}: this is no list of waivers: {why}", path.display())]
    Waivers {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Two files of one set are of the same CPU.
    #[error("{} and {} are both of {name}: results are never merged; keep one of them, or give each set a directory of its own", first.display(), second.display())]
    SameCpu {
        /// Platform and CPU.
        name: String,
        /// The one.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// There is nothing to read.
    #[error("{}: there are no result files here; `shatter run` makes them", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    fn damaged(path: &Path, first_line: usize) -> impl FnOnce(serde_json::Error) -> Self {
        move |error| Self::Damaged {
            path: path.to_owned(),
            line: first_line + error.line().saturating_sub(1),
            column: error.column(),
            // The position stands in front of the message already.
            why: error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
        }
    }
}

/// A name as a file name: what could leave the directory, or trouble a shell, becomes `-`.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '@') { c } else { '-' };
    let name: String = name.chars().map(safe).collect();
    if name.starts_with('.') || name.is_empty() { format!("-{name}") } else { name }
}

impl ResultFile {
    /// A file without cases.
    #[must_use]
    pub fn new(tool: Tool, platform: Platform, cpu: Cpu, run: Run) -> Self {
        let (cases, conflicts, controls) = (vec![], vec![], vec![]);
        Self {
            schema: SCHEMA,
            tool,
            platform,
            cpu,
            machine: None,
            smmus: vec![],
            run,
            worthless: None,
            cases,
            conflicts,
            controls,
        }
    }

    /// The CPU's name, with its machine's behind an `@` if that has several types.
    #[must_use]
    pub fn cpu_name(&self) -> String {
        self.machine.as_ref().map_or_else(|| self.cpu.name.clone(), |machine| of_machine(&self.cpu.name, &machine.name))
    }

    /// Platform and [CPU](Self::cpu_name): what every report calls it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.platform.kind, self.cpu_name())
    }

    /// Where the file stands below the results directory `dir`: `<platform>/<cpu>.json`.
    #[must_use]
    pub fn path(&self, dir: &Path) -> PathBuf {
        path(dir, &self.platform.kind, &self.cpu_name())
    }

    /// How many cases have this verdict.
    #[must_use]
    pub fn count(&self, class: Class) -> usize {
        self.cases.iter().filter(|case| case.verdict == class).count()
    }

    /// The command that makes the pass again in which `outcome` of `case` was first seen.
    #[must_use]
    pub fn replay(&self, case: &CaseResult, outcome: &Outcome) -> String {
        let Self { platform, cpu, machine, run, .. } = self;
        let seed = outcome.first.seed.unwrap_or(run.seed);
        let machine = machine.as_ref().map_or(&cpu.name, |machine| &machine.name);
        format!(
            "shatter run {} --on {} --cpu {} --seed {seed} --rounds {}",
            case.id, platform.kind, machine, run.rounds
        )
    }

    /// What it has of an instance, as one [`Entry`].
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<Entry> {
        Some(Entry {
            case: self.cases.iter().find(|case| case.id == id)?.clone(),
            conflicts: self.conflicts.iter().filter(|conflict| conflict.id == id).cloned().collect(),
            control: self.controls.iter().find(|control| control.id == id).cloned(),
        })
    }

    /// The cases that somebody asked for: all but the controls that were added.
    pub fn asked(&self) -> impl Iterator<Item = &CaseResult> {
        self.cases.iter().filter(|case| !self.run.added_controls.contains(&case.id))
    }

    fn ids(&self) -> HashSet<String> {
        self.cases.iter().map(|case| case.id.clone()).collect()
    }

    /// Adds what came of an instance.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.cases.push(entry.case);
        self.conflicts.extend(entry.conflicts);
        self.controls.extend(entry.control);
    }

    /// Adds `entries`; what the file has of the same instances already goes.
    fn merge(&mut self, entries: Vec<Entry>) {
        let ids: BTreeSet<&str> = entries.iter().map(|entry| entry.case.id.as_str()).collect();
        self.cases.retain(|case| !ids.contains(case.id.as_str()));
        self.conflicts.retain(|conflict| !ids.contains(conflict.id.as_str()));
        self.controls.retain(|control| !ids.contains(control.id.as_str()));
        // Within the journal too, the last one counts: an instance that hung the machine may have been run again.
        let last: HashMap<String, usize> =
            entries.iter().enumerate().map(|(i, entry)| (entry.case.id.clone(), i)).collect();
        for (i, entry) in entries.into_iter().enumerate() {
            if last[&entry.case.id] == i {
                self.push(entry);
            }
        }
    }

    /// Writes it as JSON, one line a case.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: &mut dyn io::Write) -> io::Result<()> {
        report::json::value(self, 2, out)
    }

    /// Writes it to `path`, so that at every moment there is either the old file or the whole new one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let write = || {
            let mut file = tempfile::Builder::new().prefix(".shatter-").suffix(".tmp").tempfile_in(dir)?;
            self.write_json(file.as_file_mut())?;
            // tempfile makes its files private; results are for everyone whom the directory lets in.
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
            }
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            // The rename itself is on the disk once its directory is.
            #[cfg(unix)]
            File::open(dir)?.sync_all()?;
            Ok(())
        };
        write().map_err(Error::io("write", path))
    }

    /// Reads a result file, and the journal that an interrupted run left beside it.
    ///
    /// # Errors
    /// [`Error`], naming the file and, where it is damaged, the line and column.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let json = match fs::read(path) {
            Ok(json) => Some(Self::parse(path, &json)?),
            // Interrupted before the first snapshot.
            Err(error) if error.kind() == io::ErrorKind::NotFound && journal::path_of(path).exists() => None,
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let journal = journal::read(&journal::path_of(path))?;
        match (json, journal) {
            (Some(mut file), Some((head, entries))) if file.run.start == head.run.start => {
                file.merge(entries);
                Ok(file)
            }
            // The journal is of a later run, which had not come to its first snapshot.
            (_, Some((mut head, entries))) => {
                head.merge(entries);
                Ok(head)
            }
            (Some(file), None) => Ok(file),
            (None, None) => Err(Error::io("read", path)(io::ErrorKind::NotFound.into())),
        }
    }

    /// Reads `json`, which stands at `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self, Error> {
        /// Looked at first: what a later schema means must not be reported as damage.
        #[derive(Deserialize)]
        struct Probe {
            schema: u32,
        }
        let Probe { schema } = serde_json::from_slice(json).map_err(Error::damaged(path, 1))?;
        if schema > SCHEMA {
            return Err(Error::Newer { path: path.to_owned(), schema });
        }
        let file: Self = serde_json::from_slice(json).map_err(Error::damaged(path, 1))?;
        let mut ids = BTreeSet::new();
        match file.cases.iter().find(|case| !ids.insert(&case.id)) {
            Some(case) => Err(Error::Duplicate { path: path.to_owned(), id: case.id.clone() }),
            None => Ok(file),
        }
    }
}

/// Where the result file of a CPU stands below the results directory `dir`.
#[must_use]
pub fn path(dir: &Path, platform: &str, cpu: &str) -> PathBuf {
    dir.join(file_name(platform)).join(format!("{}.json", file_name(cpu)))
}

/// The name of `cpu` as one of several types of `machine`. No CPU's own name has an `@`, so that nothing of a machine
/// stands in the place of a CPU's own results.
fn of_machine(cpu: &str, machine: &str) -> String {
    format!("{cpu}@{machine}")
}

/// The result files that a run on `machine` left below `dir`: the one of its only type of CPU, or those of its types.
///
/// # Errors
/// Those of [`ResultFile::load`].
pub fn of_run(dir: &Path, platform: &str, machine: &str) -> Result<Vec<ResultFile>, Error> {
    let own = path(dir, platform, machine);
    let parent = own.parent().unwrap_or(dir);
    let mut paths = BTreeSet::new();
    if parent.is_dir() {
        find(parent, &mut paths)?;
    }
    let end = of_machine("", &file_name(machine));
    let is_of_it =
        |path: &PathBuf| *path == own || path.file_stem().is_some_and(|name| name.to_string_lossy().ends_with(&end));
    // A journal that stopped before its head is no result, and one that is being made is not of an earlier run.
    let load = |path: &PathBuf| match ResultFile::load(path) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        loaded => Some(loaded),
    };
    paths.iter().filter(|path| is_of_it(path)).filter_map(load).collect()
}

/// A result file and where it stands.
#[derive(Debug)]
pub struct Loaded {
    /// Its path.
    pub path: PathBuf,
    /// What it holds.
    pub file: ResultFile,
}

/// Reads every result file that `path` is or, if it is a directory, that stands below it, in order of their paths.
///
/// # Errors
/// [`Error`]; a damaged file is not passed over, and a directory without results is [`Error::Empty`].
pub fn load_all(path: &Path) -> Result<Vec<Loaded>, Error> {
    paths(path)?.into_iter().map(|path| Ok(Loaded { file: ResultFile::load(&path)?, path })).collect()
}

/// The paths of those files, in order.
///
/// # Errors
/// [`Error::Io`], and [`Error::Empty`] for a directory without results.
pub fn paths(path: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(BTreeSet::from([path.to_owned()]));
    }
    let mut paths = BTreeSet::new();
    find(path, &mut paths)?;
    if paths.is_empty() {
        return Err(Error::Empty { path: path.to_owned() });
    }
    Ok(paths)
}

fn find(dir: &Path, found: &mut BTreeSet<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            find(&path, found)?;
        } else if !hidden && path.extension().is_some_and(|extension| extension == "json" || extension == "journal") {
            found.insert(path.with_extension("json"));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A result file that the tests of the command line use too.
    pub(crate) fn fixture(name: &str) -> ResultFile {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        ResultFile::load(&path).expect("it is in order")
    }

    pub(super) fn entry(id: &str, rounds: u64) -> Entry {
        let mut case = fixture("base/board/altra.json").cases.remove(0);
        (case.id, case.rounds) = (id.to_owned(), rounds);
        let control = ControlResult { id: id.to_owned(), expected: "must show nothing".to_owned(), held: true };
        Entry { case, conflicts: vec![], control: Some(control) }
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let phase = proptest::sample::select(Phase::ALL.to_vec());
        let kind = proptest::sample::select(Kind::all().collect::<Vec<_>>());
        (phase, kind, any::<u64>(), any::<bool>(), any::<String>(), any::<[u64; 5]>(), any::<u8>()).prop_map(
            |(phase, kind, count, allowed, rule, [esr, far, pc, round, value], cpu)| Outcome {
                phase,
                kind,
                count,
                allowed,
                rule,
                first: First {
                    esr: Hex(esr),
                    far: Hex(far),
                    pc: Hex(pc),
                    cpu,
                    round,
                    value: Hex(value),
                    seed: (round % 2 == 0).then_some(Hex(value)),
                },
            },
        )
    }

    fn case() -> impl Strategy<Value = CaseResult> {
        let verdict = proptest::sample::select(Class::ALL.to_vec());
        let end = proptest::sample::select(End::ALL.to_vec());
        let bbm = proptest::sample::select(BbmLevel::ALL.to_vec());
        let words = (any::<String>(), any::<[Option<String>; 2]>(), any::<bool>());
        let outcomes = proptest::collection::vec(outcome(), 0..5);
        (verdict, end, bbm, words, outcomes, any::<[u64; 9]>()).prop_map(
            |(verdict, end, bbm, (reason, [trouble, note], ended), outcomes, n)| CaseResult {
                id: format!("case-{}", n[0]),
                verdict,
                reason,
                end,
                cpu: n[1] as u8,
                bbm,
                rounds: n[1],
                passes: n[2],
                overlap: n[2],
                accesses: n[3],
                trouble,
                note,
                outcomes,
                conflicts: ConflictCounts { el1: n[4], el2_for_el1: n[5], el2: n[6], uncleared: n[7] },
                contained: n[8],
                breaks: ended.then(|| Breaks {
                    count: n[0],
                    total_ns: n[1],
                    longest_ns: n[2],
                    shortest_ns: Some(n[4]).filter(|ns| ns % 2 == 0),
                    cycles: Some(n[5]).filter(|cycles| cycles % 2 == 0),
                    retried: n[3],
                }),
                bound: ended.then(|| Bound { rounds: n[3], at_most: "1.0e-3".to_owned() }),
                registers: ended.then(|| BTreeMap::from([("PC".to_owned(), Hex(n[0]))])),
                setup_ns: n[7],
                duration_ns: n[8],
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(cases in proptest::collection::vec(case(), 0..8), name: String, midr: u64) {
            let mut file = fixture("new/board/altra.json");
            // A random id comes twice once in 2^64.
            (file.cases, file.cpu.name, file.cpu.midr) = (cases, name, Hex(midr));
            let mut json = Vec::new();
            file.write_json(&mut json).expect("a vector takes everything");
            prop_assert_eq!(ResultFile::parse(Path::new("x.json"), &json).expect("it is whole"), file);
        }

        #[test]
        fn no_part_of_a_file_passes_for_the_whole(cut in 0.0..1.0) {
            let mut json = Vec::new();
            fixture("base/board/altra.json").write_json(&mut json).expect("a vector takes everything");
            // Without the line end behind it, it is still whole.
            let cut = ((json.len() - 2) as f64 * cut) as usize;
            let error = ResultFile::parse(Path::new("x.json"), &json[..cut]).expect_err("it is cut");
            prop_assert!(matches!(error, Error::Damaged { .. }), "{}", error);
        }

        #[test]
        fn a_file_stays_below_its_directory(platform: String, cpu: String) {
            let path = path(Path::new("results"), &platform, &cpu);
            prop_assert_eq!(path.components().count(), 3);
            prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        }
    }

    fn cpu(name: &str, midr: u64, bbm: BbmLevel, granules: u64) -> Cpu {
        let registers = BTreeMap::from([("ID_AA64MMFR0_EL1".to_owned(), Hex(granules))]);
        Cpu { name: name.to_owned(), midr: Hex(midr), revidr: Hex(0), mpidrs: vec![Hex(0), Hex(1)], bbm, registers }
    }

    /// A level 2 CPU with all granules, and a level 1 CPU without 16K.
    pub(crate) fn two_types() -> Vec<Cpu> {
        vec![cpu("big", 1, BbmLevel::L2, 1 << 20), cpu("little", 2, BbmLevel::L1, 0)]
    }

    #[test]
    fn a_system_is_as_safe_as_its_least_cpu() {
        let types = two_types();
        assert_eq!(System::of("big", &types[..1]), None);
        let system = System::of("big+little", &types).expect("two types");
        assert_eq!((system.bbm, &system.granules[..]), (BbmLevel::L1, &["4k".to_owned(), "64k".to_owned()][..]));
        let members: Vec<_> =
            system.cpus.iter().map(|cpu| (&*cpu.name, cpu.bbm, cpu.count, cpu.granules.len())).collect();
        assert_eq!(members, [("big", BbmLevel::L2, 2, 3), ("little", BbmLevel::L1, 2, 2)]);
    }

    #[test]
    fn a_machines_results_stand_beside_its_cpus_own() {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let plain = fixture("base/board/altra.json");
        let of = |cpu: Cpu, machine| ResultFile { cpu, machine, ..plain.clone() };
        let system = System::of("big+little", &two_types());
        let files = [
            of(two_types().remove(0), None),
            of(two_types().remove(0), system.clone()),
            of(two_types().remove(1), system.clone()),
            of(two_types().remove(1), None),
        ];
        for file in &files {
            file.save(&file.path(dir.path())).expect("there is room");
        }
        let names: Vec<_> = load_all(dir.path()).expect("all whole").into_iter().map(|l| l.file.cpu_name()).collect();
        assert_eq!(names, ["big", "big@big+little", "little", "little@big+little"]);
        assert_eq!(of_run(dir.path(), "board", "big+little").expect("two"), files[1..3]);
        assert_eq!(of_run(dir.path(), "board", "big").expect("one"), files[..1]);
        assert_eq!(of_run(dir.path(), "board", "other").expect("none"), []);
        assert_eq!(of_run(dir.path(), "nowhere", "big").expect("none"), []);
        // What repeats an outcome asks for the machine.
        let case = &files[1].cases[0];
        assert!(files[1].replay(case, &case.outcomes[0]).contains(" --cpu big+little "));
        // The machine is part of what a run goes on with.
        let mut other = files[1].clone();
        other.machine = other.machine.map(|system| System { cpus: vec![system.cpus[0].clone(); 2], ..system });
        let error = Writer::resume(dir.path(), other).expect_err("another machine").to_string();
        assert!(error.contains("its machine was 2 × 0x1, 2 × 0x2 and is now"), "{error}");
    }

    #[test]
    fn a_case_is_one_line() {
        let file = fixture("base/board/altra.json");
        let mut json = Vec::new();
        file.write_json(&mut json).expect("a vector takes everything");
        let json = String::from_utf8(json).expect("JSON is UTF-8");
        for case in &file.cases {
            let line = json.lines().find(|line| line.contains(&format!("\"{}\", \"verdict\"", case.id)));
            let line = line.expect("it begins with its id").trim().trim_end_matches(',');
            assert_eq!(serde_json::from_str::<CaseResult>(line).expect("the line is the case"), *case);
        }
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let parse = |json: &str| ResultFile::parse(Path::new("x.json"), json.as_bytes()).expect_err("bad").to_string();
        assert!(parse("{\n \"schema\": 1,\n").starts_with("x.json:3:0: this is not a whole result file: EOF"));
        assert_eq!(
            parse("{\"schema\": 2, \"new\": true}"),
            "x.json: it has schema 2, this version of shatter reads up to 1: use a newer one"
        );
        let mut file = fixture("base/board/altra.json");
        file.cases.push(file.cases[0].clone());
        let mut json = Vec::new();
        file.write_json(&mut json).expect("a vector takes everything");
        let json = String::from_utf8(json).expect("JSON is UTF-8");
        assert!(parse(&json).contains(&format!("the case {} stands in it twice", file.cases[0].id)));
        let strange = json.replace("\"kind\": \"same\"", "\"kind\": \"odd\"");
        assert!(parse(&strange).contains("`odd` is not a kind of outcome that this version knows"));
    }
}

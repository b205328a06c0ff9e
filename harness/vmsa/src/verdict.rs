//! What may be seen in each phase, and the judgement of a finished instance.
//!
//! One access can have two effects: the one the old mapping gives and the one the new mapping gives, each a
//! success or a fault. From these two, the method, and whether the method is a defined way of making the change
//! ([`guarantee`]) follows everything that may be seen:
//!
//! | phase | defined | a TLBI is missing | the sequence it needs is missing |
//! |---|---|---|---|
//! | before | the old effect | the old effect | the old effect |
//! | during | either effect, and what the method adds: the fault of its break, or a conflict | either effect; a conflict if it may come until the TLBI | anything contained |
//! | after | the new effect | as during | anything contained |
//!
//! The phase before is always defined: it starts from a complete break-before-make.
//!
//! *Contained* (R_FVQCK): where break-before-make is needed and left out, an access may use either entry or an
//! amalgamation of both, or raise a conflict abort. An amalgamated output address may be anywhere, so data from
//! neither mapping, a lost store, a fault of any kind, even an access that stage 2 refuses are results and not
//! violations. What EL1 can never get is memory that stage 2 does not give it. The hypervisor ends an instance
//! that stage 2 refused an access ([`End::Trap`]) and gives it nothing but RAM; so an External abort *taken at
//! EL1* with stage 2 on says that an access got through stage 2 to a place that is not the VM's. With stage 2
//! off there is nothing to get through.
//!
//! A conflict abort at an observer's access is an outcome of its phase *and* counted in [`Seen`]'s totals; one
//! that was taken at EL2 or at another instruction is in the totals only, and its phase is not known: it is held
//! against an instance only where no phase allows a conflict.

use core::fmt;

use crate::{
    change::{Behind, Leaf, Own},
    descriptor::{Descriptor, DescriptorKind},
    geometry::{BbmLevel, Level},
    group::{Grouping, Lookup},
    instance::{Access, Case, Instance, Method, Selftest, Stage2, Tells},
    mark::{Marks, overwritten},
    outcome::{Count, End, Fault, Kind, Phase},
    rule::HardwareUpdates,
    sequence::{Sequence, Write},
    tlbi::{Aim, Form, Scope},
    transition::{Context, Need, Needed, Transition, gives, guarantee, sufficient_for, sufficient_in},
    update::Update,
};

/// Whether an outcome may be seen, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Whether it may be seen.
    pub allowed: bool,
    /// The rule that allows or forbids it, by its name in the Arm ARM; `selftest` where it is the harness's own.
    pub rule: &'static str,
    /// The rule applied to this outcome, in words.
    pub why: &'static str,
}

const fn allow(rule: &'static str, why: &'static str) -> Allowance {
    Allowance { allowed: true, rule, why }
}

const fn forbid(rule: &'static str, why: &'static str) -> Allowance {
    Allowance { allowed: false, rule, why }
}

/// What one access does under each of a change's two mappings alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effects {
    /// What it sees by the old mapping.
    pub old: Kind,
    /// What it sees by the new one.
    pub new: Kind,
}

impl Effects {
    /// Of an access through either leaf or, where there is none, through a descriptor at `level` that maps nothing.
    /// `moves` says that the two lead to different addresses.
    fn of([old, new]: [Option<Leaf>; 2], access: Access, level: Level, context: &Context, moves: bool) -> Self {
        let fault = |leaf: Option<Leaf>| match leaf {
            Some(leaf) => leaf.fault(access, context.hardware),
            None => Some(Kind::Fault(Fault::Translation, level)),
        };
        let (old, new) = (fault(old), fault(new));
        let alike = match access.tells() {
            Tells::Contents => context.contents_equal,
            Tells::Address => !moves,
            Tells::Nothing => true,
        };
        let same = alike && old.is_none() && new.is_none();
        Self {
            old: old.unwrap_or(if same { Kind::Same } else { Kind::Old }),
            new: new.unwrap_or(if same { Kind::Same } else { Kind::New }),
        }
    }

    /// Of the accesses of `case`.
    #[must_use]
    pub fn of_case(case: &Case) -> Self {
        let Case { change, granule, .. } = *case;
        if change.what().sides().behind == Behind::Hole && case.observer.access.crosses() {
            // One half of it is always in the hole.
            let fault = Kind::Fault(Fault::Translation, change.level());
            return Self { old: fault, new: fault };
        }
        let leaves = [change.old_leaf(), change.new_leaf()].map(Some);
        Self::of(leaves, case.observer.access, change.level(), &change.context(granule), change.moves())
    }
}

/// The BBM level by which `case` is judged on a CPU of `level`: what the payload was shown.
fn effective(case: &Case, level: BbmLevel) -> BbmLevel {
    case.cap.map_or(level, |cap| cap.min(level))
}

/// Whether the case's steps are a defined way of making its change; see [`guarantee`].
fn defined(case: &Case, level: BbmLevel) -> Result<Needed, Needed> {
    let level = effective(case, level);
    sufficient_for(case, level)
}

/// Whether `case`, on a CPU of BBM level `level`, makes its change in a defined way: when its steps are done, the old
/// mapping is out of use everywhere, its tables included.
#[must_use]
pub fn is_defined(case: &Case, level: BbmLevel) -> bool {
    defined(case, level).is_ok()
}

/// The rule that makes a defined method one.
const fn method_rule(method: Method, met: Needed) -> &'static str {
    match method {
        Method::Bbm | Method::BbmCas | Method::BbmAsm | Method::BbmAlias => "R_DDMVT",
        Method::BbmAf => "R_XCLRD",
        Method::Nt | Method::NtCas => "R_KFLJB",
        Method::Direct | Method::DirectCas | Method::DirectNotlbi | Method::Overwrite => met.rule,
    }
}

/// All from which it follows what one access may see of a live change, whichever way the change is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Situation {
    effects: Effects,
    /// Level of the descriptor that is changed.
    level: Level,
    method: Method,
    sequence: Sequence,
    /// Whether these are not the method's own steps, or have a form of TLBI that may miss the window.
    scripted: bool,
    stage2: bool,
    /// Whether the steps are a defined way of making the change.
    given: Result<Needed, Needed>,
    /// How the change leaves its Contiguous group, and the BBM level.
    leaves: (Grouping, BbmLevel),
    /// What hardware writes into descriptors.
    hardware: HardwareUpdates,
    /// The marks that an access leaves in either mapping, and that the change may lose.
    lost: Marks,
    /// What of its own the change uses in the block while that changes.
    own: Option<Own>,
}

/// What of its own `case` uses, while it is made, by the mapping that changes.
const fn used(case: &Case) -> Option<Own> {
    match case.method {
        Method::BbmAsm | Method::BbmAlias => None,
        _ => case.change.own(),
    }
}

/// The marks that `access` leaves in the old mapping as well as in the new one, if the steps may lose them.
fn may_lose(sequence: &Sequence, [old, new]: [Option<Leaf>; 2], access: Access, hardware: HardwareUpdates) -> Marks {
    match (old, new) {
        (Some(old), Some(new)) if sequence.overwrites() => {
            let missing = |leaf: Leaf| Marks::missing(leaf.attributes, hardware);
            Marks::of(access) & missing(old) & missing(new)
        }
        _ => Marks::empty(),
    }
}

impl Situation {
    /// An access to the addresses of `transition`, made by `method` on a CPU of BBM level `bbm`. `below` is the leaf
    /// through which the addresses are mapped where there is a table. `None` if the transition has not what the
    /// method writes.
    #[must_use]
    pub fn of(
        transition: &Transition,
        below: Leaf,
        method: Method,
        access: Access,
        stage2: Stage2,
        bbm: BbmLevel,
    ) -> Option<Self> {
        let (layout, level) = (transition.context.layout(), transition.context.level);
        let sequence = transition.sequence(method)?;
        let leaf = |descriptor: Descriptor| match layout.kind(descriptor) {
            DescriptorKind::Invalid => None,
            DescriptorKind::Table => Some(below),
            DescriptorKind::Block | DescriptorKind::Page => {
                Some(Leaf { level, attributes: layout.attributes(descriptor) })
            }
        };
        let context = Context { contents_equal: transition.same_contents(), ..transition.context };
        let moves = !transition.same_address();
        let leaves = [transition.old, transition.new].map(leaf);
        Some(Self {
            effects: Effects::of(leaves, access, level, &context, moves),
            hardware: context.hardware,
            lost: may_lose(&sequence, leaves, access, context.hardware),
            level,
            method,
            sequence,
            scripted: false,
            stage2: stage2 != Stage2::Off,
            given: gives(&sequence, transition, transition.block(), bbm),
            leaves: (Grouping::Sound, bbm),
            own: None,
        })
    }

    fn of_case(case: &Case, level: BbmLevel) -> Self {
        let Case { change, .. } = *case;
        let leaves = [change.old_leaf(), change.new_leaf()].map(Some);
        let hardware = change.what().sides().hardware;
        Self {
            effects: Effects::of_case(case),
            hardware,
            lost: may_lose(&case.sequence(), leaves, case.observer.access, hardware),
            level: case.change.level(),
            method: case.method,
            sequence: case.sequence(),
            scripted: case.script.is_some() || case.change.form().is_some(),
            stage2: case.stage2 != Stage2::Off,
            given: defined(case, level),
            leaves: (case.change.leaves(), effective(case, level)),
            own: used(case),
        }
    }

    /// Whether the change is made in a defined way: the strongest need that was met, or the first that was not.
    ///
    /// # Errors
    /// The outcome is not defined.
    pub const fn given(&self) -> Result<Needed, Needed> {
        self.given
    }

    /// Whether `kind` may be seen in `phase`. Answers for every combination.
    #[must_use]
    pub fn allowance(&self, phase: Phase, kind: Kind) -> Allowance {
        let effects = &self.effects;
        match (phase, self.given) {
            (Phase::Before, _) if kind == effects.old => allow("R_LXHLD", "the old mapping alone is in force"),
            (Phase::Before, _) => forbidden(kind),
            (Phase::During | Phase::After, Err(missed)) => self.undefined(missed, kind),
            (Phase::During, Ok(met)) if kind == effects.old || kind == effects.new => {
                allow(method_rule(self.method, met), "until the change is complete either mapping may be used")
            }
            (Phase::During, Ok(met)) => {
                if let (Kind::Unmarked, Some(&Update { rule, why, .. })) = (kind, overwritten(self.lost)) {
                    return allow(rule, why);
                }
                if kind == Kind::Stuck {
                    let why = "where this is a defined change accesses go on before its TLBI too";
                    return forbid(method_rule(self.method, met), why);
                }
                if let (Kind::Tripped | Kind::Lockup, Some(own)) = (kind, self.own) {
                    return self.own_exception(kind, own, met);
                }
                let meets = |write, fault| self.sequence.writes(write) && kind == Kind::Fault(fault, self.level);
                if meets(Write::Invalid, Fault::Translation) {
                    allow("R_DDMVT", "the access met the break")
                } else if meets(Write::OldNoAf, Fault::AccessFlag) {
                    allow("R_XCLRD", "the access met the break by the Access flag")
                } else if meets(Write::BlockNt, Fault::Translation) {
                    allow("R_MRRPW", "whether an access through a Block with nT set faults is the CPU's choice")
                } else if kind == Kind::Conflict && met.need == Need::DirectTlbi {
                    allow(met.rule, "until the TLBI completes old and new entries may conflict (I_HYQMB)")
                } else {
                    self.misprogrammed(kind).unwrap_or(forbidden(kind))
                }
            }
            (Phase::After, Ok(_)) if kind == effects.new => {
                allow("R_YNJCP", "the change is complete on every PE: the new mapping alone is in force")
            }
            (Phase::After, Ok(_)) => self.misprogrammed(kind).unwrap_or(forbidden(kind)),
        }
    }

    /// Whether what makes the change, and uses what `own` says by the mapping that changes, may take exceptions by that; and
    /// without end, if `kind` is that.
    const fn own_exception(&self, kind: Kind, own: Own, met: Needed) -> Allowance {
        let rule = method_rule(self.method, met);
        match (kind, met.need) {
            (Kind::Lockup, _) if !own.vectors => forbid(rule, "its vectors were never out of reach"),
            (_, Need::DirectTlbi) => {
                allow(rule, "until the TLBI completes its own accesses may conflict too (I_HYQMB)")
            }
            (..) => match self.method {
                Method::Bbm => allow("R_DDMVT", "the break takes from it what it stands on itself"),
                Method::Nt => allow("R_MRRPW", "where a Block with nT set faults its own accesses do so too"),
                _ => forbid(rule, "nothing takes from it what it stands on"),
            },
        }
    }

    /// Why `kind` may be seen because the Contiguous group is left misprogrammed, if it may.
    fn misprogrammed(&self, kind: Kind) -> Option<Allowance> {
        let (grouping, bbm) = self.leaves;
        // Whichever descriptor is used for one access, another one may be for the next.
        let either = kind == self.effects.old || kind == self.effects.new || kind == Kind::Reordered;
        let lookups = [
            (Lookup::Another, either || kind == Kind::Late && self.effects.old == Kind::Old),
            (Lookup::Conflict, kind == Kind::Conflict),
            (Lookup::Inconsistent, kind != Kind::External || !self.stage2),
        ];
        let gives = |(lookup, it): (Lookup, bool)| if it { grouping.allows(lookup, bbm) } else { None };
        lookups.into_iter().find_map(gives).map(|row| allow(row.rule, row.why))
    }

    /// What may be seen during and after a change that did not get what it needs; see the module's text.
    fn undefined(&self, missed: Needed, kind: Kind) -> Allowance {
        let Effects { old, new } = self.effects;
        let either = kind == old || kind == new || kind == Kind::Late && old == Kind::Old;
        match kind {
            Kind::External if missed.need.is_bbm() && !self.stage2 => {
                allow("R_FVQCK", "an amalgamated address may be anywhere, and stage 2 is off")
            }
            Kind::External => forbidden(kind),
            _ if self.scripted => allow(missed.rule, "these steps do not give the change what it needs"),
            _ if missed.need.is_bbm() => {
                allow("R_FVQCK", "without the sequence it needs: either entry, an amalgamation of both, or a conflict")
            }
            Kind::Conflict if missed.need == Need::DirectTlbi => {
                allow(missed.rule, "without a complete TLBI old and new entries may conflict (I_HYQMB)")
            }
            Kind::Unmarked if self.hardware != HardwareUpdates::Off => {
                allow("I_GXGZY", "without a complete TLBI the old entry, already marked, may be used")
            }
            _ if either => allow("R_LXHLD", "without a complete TLBI the old entry may be used at any time"),
            _ => forbidden(kind),
        }
    }
}

/// Whether `kind` may be seen in `phase` of `instance`, on a CPU of BBM level `level`. Answers for every
/// combination; a [cap](Case::cap) of the instance is taken into account.
#[must_use]
pub fn allowance(instance: &Instance, level: BbmLevel, phase: Phase, kind: Kind) -> Allowance {
    allowances(instance, level)(phase, kind)
}

/// [`allowance`] for several phases and kinds of one instance, whose situation is looked at once.
fn allowances(instance: &Instance, level: BbmLevel) -> impl Fn(Phase, Kind) -> Allowance + use<> {
    let situation = match instance {
        Instance::Case(case) => Ok(Situation::of_case(case, level)),
        Instance::Selftest(test) => Err(*test),
    };
    move |phase, kind| match &situation {
        Ok(situation) => situation.allowance(phase, kind),
        Err(test) => selftest_allowance(*test, kind),
    }
}

/// What is wrong with `kind` where it is no effect of a mapping in force.
const fn forbidden(kind: Kind) -> Allowance {
    match kind {
        Kind::Old | Kind::New | Kind::Same => forbid("R_LXHLD", "the effect of a mapping that is not in force"),
        Kind::Neither => forbid("R_LXHLD", "data from neither mapping"),
        Kind::Lost => forbid("R_LXHLD", "a store that reached neither mapping"),
        Kind::Late => forbid("R_YNJCP", "a store through the old mapping landed after the change was complete"),
        Kind::Torn => forbid("I_THWDH", "single-copy atomicity is lost"),
        Kind::Reordered => forbid("I_THWDH", "ordering is lost"),
        Kind::Conflict => forbid("I_HYQMB", "no two entries can conflict here"),
        Kind::External => forbid("R_FVQCK", "an access got out of the VM's memory"),
        Kind::Unmarked => forbid("I_GXGZY", "an access that left no mark in the descriptor"),
        Kind::Spurious => forbid("R_RTBRL", "dirty state without a write"),
        Kind::Stuck => forbid("R_LXHLD", "an access that one mapping serves did not end"),
        Kind::Escaped => forbid("R_LXHLD", "a store landed where no mapping in force leads"),
        Kind::Alignment => forbid("R_YNJCP", "an Alignment fault of a memory type that is not in force"),
        Kind::Tripped => forbid("I_GYJBJ", "an exception of what makes the change, which has all it needs"),
        Kind::Lockup => forbid("I_GYJBJ", "exceptions without end of what makes the change, which has all it needs"),
        Kind::Exception => forbid("I_GYJBJ", "an exception that neither mapping gives"),
        Kind::Fault(..) => forbid("I_GYJBJ", "a fault that neither mapping gives"),
    }
}

const fn selftest_allowance(test: Selftest, kind: Kind) -> Allowance {
    match (test, kind) {
        (_, Kind::Same) => allow("selftest", "nobody changes a mapping"),
        (Selftest::Scribble, Kind::External) => allow("selftest", "stage 2 refused the access"),
        (Selftest::ConflictEl1 | Selftest::ConflictEl2ForEl1 | Selftest::ConflictEl2, Kind::Conflict) => {
            allow("selftest", "the conflict abort was injected")
        }
        (Selftest::Scribble, Kind::Neither) => forbid("selftest", "an access outside the VM's memory succeeded"),
        _ => forbid("selftest", "nobody changes a mapping"),
    }
}

/// All kinds that may be seen in `phase`, with the reason; arguments as for [`allowance`].
pub fn allowed_kinds(
    instance: &Instance,
    level: BbmLevel,
    phase: Phase,
) -> impl Iterator<Item = (Kind, Allowance)> + use<> {
    let allowance = allowances(instance, level);
    Kind::all().map(move |kind| (kind, allowance(phase, kind))).filter(|(_, a)| a.allowed)
}

/// All that is known of a finished instance when it is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen<'a> {
    /// How it ended.
    pub end: End,
    /// Rounds made.
    pub rounds: u64,
    /// Rounds in which an access of a remote observer overlapped the change.
    pub overlap: u64,
    /// Whether the payload reports trouble of the harness; that its time was up before all rounds were made is none.
    pub trouble: bool,
    /// The histogram; conflict aborts at an observer's access are in it, recovered or not.
    pub outcomes: &'a [Count],
    /// Accesses that stage 2 refused and the hypervisor answered with an External abort.
    pub contained: u64,
    /// All TLB conflict aborts taken at EL1.
    pub el1_conflicts: u64,
    /// All taken at EL2 for the translation of EL1&0 (R_FWRMB).
    pub el2_for_el1_conflicts: u64,
    /// All taken at EL2 for its own translation.
    pub el2_conflicts: u64,
    /// Those of all places that came back after every TLBI that is guaranteed to clear them (R_BLRKC).
    pub uncleared: u64,
    /// The BBM level that ID_AA64MMFR2_EL1 showed to the payload.
    pub bbm_presented: BbmLevel,
}

impl Seen<'_> {
    fn count(&self, wanted: impl Fn(&Count) -> bool) -> u64 {
        self.outcomes.iter().filter(|c| wanted(c)).fold(0, |sum, c| sum.saturating_add(c.count))
    }

    fn has(&self, phase: Phase) -> bool {
        self.count(|c| c.phase == phase) > 0
    }
}

/// Class of a verdict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Nothing forbidden was seen, or a control showed what it must.
    Pass,
    /// The CPU did what the architecture forbids.
    Fail,
    /// The architecture does not define the outcome; what was seen is the result.
    Observed,
    /// The machine lacks something; nothing was run.
    Skip,
    /// The harness, not the CPU: the run says nothing.
    Error,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 5] = [Self::Pass, Self::Fail, Self::Observed, Self::Skip, Self::Error];

    /// The class's name in result files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Observed => "observed",
            Self::Skip => "skip",
            Self::Error => "error",
        }
    }

    /// The class of a [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The judgement of one instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Its class.
    pub class: Class,
    /// Why.
    pub reason: Reason,
}

/// Why a verdict is what it is; [`Display`](fmt::Display) makes one line of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// This many accesses, none of them forbidden.
    NothingForbidden {
        /// Accesses.
        accesses: u64,
    },
    /// A selftest did what it is designed to do.
    AsDesigned,
    /// A control showed what it must.
    Shown(Count),
    /// A control did not show what it must: the platform hides it.
    NotShown {
        /// The phase in which it was looked for.
        phase: Phase,
        /// What was looked for.
        kind: Kind,
    },
    /// The architecture leaves the outcome open.
    Undefined {
        /// What the change needs and did not get.
        missed: Needed,
        /// How the instance ended.
        end: End,
    },
    /// A forbidden outcome.
    Forbidden {
        /// The first such line of the histogram.
        count: Count,
        /// Rule and explanation.
        allowance: Allowance,
    },
    /// Conflict aborts, whose phase is not known, where no phase allows one.
    Conflicts {
        /// How many.
        count: u64,
    },
    /// Conflict aborts of EL1&0 that were taken at EL2, although stage 2 is off.
    WrongEl {
        /// How many.
        count: u64,
    },
    /// Conflict aborts that no guaranteed TLBI cleared.
    Uncleared {
        /// How many.
        count: u64,
    },
    /// Accesses that stage 2 had to refuse although the sequence is defined.
    Refused {
        /// How many.
        count: u64,
    },
    /// It did not end by itself.
    Ended {
        /// How it ended instead.
        end: End,
        /// The rule that makes its sequence a defined one, if that is held against the CPU.
        rule: Option<&'static str>,
    },
    /// The machine lacks something.
    Skipped,
    /// The payload reported trouble.
    Trouble,
    /// No round was run.
    NoRounds,
    /// No access of the remote observer overlapped a change.
    NoOverlap,
    /// No access was made in this phase.
    NothingSeen(Phase),
    /// A selftest did not do what it is designed to do.
    NotAsDesigned(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NothingForbidden { accesses } => write!(f, "nothing forbidden in {accesses} accesses"),
            Self::AsDesigned => f.write_str("as designed"),
            Self::Shown(Count { phase, kind, count }) => write!(f, "control: showed {kind} {phase}, {count} times"),
            Self::NotShown { phase, kind: kind @ (Kind::Tripped | Kind::Lockup) } => {
                write!(f, "control: never showed {kind} {phase}; what was broken was never missed")
            }
            Self::NotShown { phase, kind } => {
                write!(f, "control: never showed {kind} {phase}; this platform hides a missing TLBI here")
            }
            Self::Undefined { missed: Needed { need, rule, why }, end } => {
                write!(f, "not defined: {why}, which needs {need} ({rule})")?;
                if end == End::Done { Ok(()) } else { write!(f, "; ended by {end}") }
            }
            Self::Forbidden { count: Count { phase, kind, count }, allowance: Allowance { rule, why, .. } } => {
                write!(f, "{kind} {phase}, {count} times: {why} ({rule})")
            }
            Self::Conflicts { count } => write!(f, "{count} conflict aborts where none is allowed (I_HYQMB)"),
            Self::WrongEl { count } => write!(f, "{count} conflict aborts taken at EL2 with stage 2 off (R_FWRMB)"),
            Self::Uncleared { count } => write!(f, "{count} conflict aborts that no TLBI cleared (R_BLRKC)"),
            Self::Refused { count } => write!(f, "stage 2 refused {count} accesses of a defined sequence (R_FVQCK)"),
            Self::Ended { end, rule: Some(rule) } => {
                write!(f, "ended by {end} though the sequence is defined ({rule})")
            }
            Self::Ended { end, rule: None } => write!(f, "ended by {end}"),
            Self::Skipped => f.write_str("the machine lacks what it needs"),
            Self::Trouble => f.write_str("the payload reported trouble"),
            Self::NoRounds => f.write_str("no round was run"),
            Self::NoOverlap => f.write_str("no access overlapped the change"),
            Self::NothingSeen(phase) => write!(f, "no access was made {phase} the change"),
            Self::NotAsDesigned(what) => f.write_str(what),
        }
    }
}

/// Judges a finished instance on CPUs of BBM level `level`: the lowest that the ID registers of those which took
/// part say. A [cap](Case::cap) of the instance is taken into account.
///
/// Trouble of the harness comes first, since what it saw is then no evidence; then whatever is forbidden;
/// then whether enough was seen to say that nothing is.
#[must_use]
pub fn judge(instance: &Instance, level: BbmLevel, seen: &Seen<'_>) -> Verdict {
    let (class, reason) = match instance {
        _ if seen.end == End::Skipped => (Class::Skip, Reason::Skipped),
        Instance::Case(case) => judge_case(instance, case, level, seen),
        Instance::Selftest(test) => judge_selftest(instance, *test, level, seen),
    };
    Verdict { class, reason }
}

fn judge_case(instance: &Instance, case: &Case, level: BbmLevel, seen: &Seen<'_>) -> (Class, Reason) {
    let defined = defined(case, level);
    if matches!(seen.end, End::Panic | End::NoReport) {
        return (Class::Error, Reason::Ended { end: seen.end, rule: None });
    }
    if seen.trouble {
        return (Class::Error, Reason::Trouble);
    }
    if let Some(fail) = forbidden_seen(instance, level, seen) {
        return (Class::Fail, fail);
    }
    match (seen.end, defined) {
        (End::Done, Ok(_)) if seen.contained > 0 => {
            return (Class::Fail, Reason::Refused { count: seen.contained });
        }
        (End::Done, _) => {}
        (end, Ok(met)) => {
            return (Class::Fail, Reason::Ended { end, rule: Some(method_rule(case.method, met)) });
        }
        (end, Err(missed)) => return (Class::Observed, Reason::Undefined { missed, end }),
    }
    if seen.rounds == 0 {
        return (Class::Error, Reason::NoRounds);
    }
    if case.observer.place.is_remote() && seen.overlap == 0 {
        return (Class::Error, Reason::NoOverlap);
    }
    if let Some(phase) = Phase::ALL.into_iter().find(|phase| !seen.has(*phase)) {
        return (Class::Error, Reason::NothingSeen(phase));
    }
    match (control(instance), defined) {
        (Some(Control::MustShow(phase, kind)), _) => match shown(seen, phase, kind) {
            0 => (Class::Observed, Reason::NotShown { phase, kind }),
            count => (Class::Pass, Reason::Shown(Count { phase, kind, count })),
        },
        (_, Err(missed)) => (Class::Observed, Reason::Undefined { missed, end: seen.end }),
        (_, Ok(_)) => (Class::Pass, Reason::NothingForbidden { accesses: seen.count(|_| true) }),
    }
}

/// What was seen and is forbidden, whatever the end.
fn forbidden_seen(instance: &Instance, level: BbmLevel, seen: &Seen<'_>) -> Option<Reason> {
    if seen.uncleared > 0 || seen.end == End::Unrecovered {
        return Some(Reason::Uncleared { count: seen.uncleared.max(1) });
    }
    if let (Instance::Case(Case { stage2: Stage2::Off, .. }), count @ 1..) = (instance, seen.el2_for_el1_conflicts) {
        return Some(Reason::WrongEl { count });
    }
    let allowance = allowances(instance, level);
    for count in seen.outcomes.iter().filter(|c| c.count > 0) {
        let allowance = allowance(count.phase, count.kind);
        if !allowance.allowed {
            return Some(Reason::Forbidden { count: *count, allowance });
        }
    }
    let el2 = if conflict_place(instance) == Some(ConflictPlace::El2) { 0 } else { seen.el2_conflicts };
    let el1 = seen.el1_conflicts.saturating_add(seen.el2_for_el1_conflicts);
    // Whose translation is not changed has none, wherever it is taken.
    let (changed, others) = match instance {
        Instance::Case(Case { regime, .. }) if regime.is_at_el2() => (el2, el1),
        _ => (el1, el2),
    };
    let unplaced = match allowance(Phase::During, Kind::Conflict).allowed {
        true => others,
        false => others.saturating_add(changed),
    };
    (unplaced > 0).then_some(Reason::Conflicts { count: unplaced })
}

/// The place at which a selftest has a conflict abort injected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConflictPlace {
    El1,
    El2ForEl1,
    El2,
}

fn conflict_place(instance: &Instance) -> Option<ConflictPlace> {
    match instance {
        Instance::Selftest(Selftest::ConflictEl1) => Some(ConflictPlace::El1),
        Instance::Selftest(Selftest::ConflictEl2ForEl1) => Some(ConflictPlace::El2ForEl1),
        Instance::Selftest(Selftest::ConflictEl2) => Some(ConflictPlace::El2),
        _ => None,
    }
}

fn judge_selftest(instance: &Instance, test: Selftest, level: BbmLevel, seen: &Seen<'_>) -> (Class, Reason) {
    let wrong = |what| (Class::Error, Reason::NotAsDesigned(what));
    let designed = match test {
        Selftest::HangMasked | Selftest::Storm => End::Watchdog,
        Selftest::Undefined => End::Exception,
        Selftest::HalfRecord => End::NoReport,
        _ => End::Done,
    };
    if seen.end != designed {
        return (Class::Error, Reason::Ended { end: seen.end, rule: None });
    }
    if seen.trouble != (test == Selftest::NoSecondCpu) {
        return if seen.trouble {
            (Class::Error, Reason::Trouble)
        } else {
            wrong("the payload did not notice that its second CPU is missing")
        };
    }
    if let Some(fail) = forbidden_seen(instance, level, seen) {
        return (Class::Fail, fail);
    }
    if let Some(place) = conflict_place(instance) {
        let counts = [
            (ConflictPlace::El1, seen.el1_conflicts),
            (ConflictPlace::El2ForEl1, seen.el2_for_el1_conflicts),
            (ConflictPlace::El2, seen.el2_conflicts),
        ];
        if !counts.iter().all(|(at, count)| (*at == place) == (*count > 0)) {
            return wrong("the injected conflict abort was not taken at its place, and only there");
        }
    }
    match test {
        Selftest::HangMasked | Selftest::Storm | Selftest::Undefined | Selftest::HalfRecord => {}
        Selftest::NoSecondCpu if seen.rounds > 0 => return wrong("rounds were run without a second CPU"),
        Selftest::NoSecondCpu => {}
        Selftest::Scribble if seen.contained == 0 => return wrong("stage 2 refused nothing"),
        Selftest::CapBbm0 | Selftest::CapBbm1 if Some(seen.bbm_presented) > instance.needs().cap => {
            return wrong("a higher BBM level was presented than the cap");
        }
        _ if seen.count(|c| c.kind == Kind::Same) == 0 => return wrong("it checked nothing"),
        _ => {}
    }
    (Class::Pass, Reason::AsDesigned)
}

/// An instance whose result is known beforehand, by which a run shows that it can see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// The sequence lacks a step, and this is what must come of it where the platform can show it.
    MustShow(Phase, Kind),
    /// Nobody changes anything: nothing but [`Kind::Same`] may be seen.
    MustNotShow,
}

/// What `instance` controls, if it is a control.
///
/// A change by a plain store must lose the marks that hardware has set in the descriptor it replaces. Otherwise,
/// a change whose TLBI is left out, or misses, must show the effect of the old mapping after the change, if that can be told
/// from the effect of the new one.
#[must_use]
pub fn control(instance: &Instance) -> Option<Control> {
    match instance {
        Instance::Case(case) if case.script.is_none() && !Situation::of_case(case, BbmLevel::L0).lost.is_empty() => {
            Some(Control::MustShow(Phase::During, Kind::Unmarked))
        }
        Instance::Case(case) if case.script.is_some_and(|script| names_other_asid(case, &script)) => {
            let Effects { old, new } = Effects::of_case(case);
            (old != new).then_some(Control::MustShow(Phase::After, old))
        }
        Instance::Case(case) if case.method == Method::DirectNotlbi && case.script.is_none() => {
            let Effects { old, new } = Effects::of_case(case);
            // An observer that drops its own entries first sees nothing stale, and whether AT looks into the TLB is the CPU's
            // choice.
            let looks = !matches!(case.observer.access, Access::Walk | Access::At | Access::Tables);
            let missed = guarantee(case.method, case.change, case.granule, BbmLevel::L3).is_err();
            (old != new && looks && missed).then_some(Control::MustShow(Phase::After, old))
        }
        // What stands on the block that it breaks falls.
        Instance::Case(case) if case.method == Method::Bbm && case.change.own().is_some() => {
            let vectors = case.change.own().is_some_and(|own| own.vectors);
            Some(Control::MustShow(Phase::During, if vectors { Kind::Lockup } else { Kind::Tripped }))
        }
        Instance::Case(case) if misses(case) => {
            let Effects { old, new } = Effects::of_case(case);
            (old != new).then_some(Control::MustShow(Phase::After, old))
        }
        Instance::Selftest(Selftest::Quiet | Selftest::Clean) => Some(Control::MustNotShow),
        _ => None,
    }
}

/// Whether nothing is wrong with `case` but that its form of TLBI misses the window or an observer: its operand names
/// something else, or its scope is one PE and another looks. A TLBI may remove more than it names, so that this shows on
/// a CPU only if its TLB is precise enough.
#[must_use]
pub fn misses(case: &Case) -> bool {
    let hits = |form: Form| Case {
        change: case.change.with_form(Form { aim: Aim::Hit, scope: Scope::Inner, ..form }),
        ..*case
    };
    let defined = |case: &Case| defined(case, BbmLevel::L3).is_ok();
    case.script.is_none() && case.change.form().is_some_and(|form| !defined(case) && defined(&hits(form)))
}

/// Whether nothing is wrong with these steps but that the TLBI names another ASID, or VMID, than the observer's.
fn names_other_asid(case: &Case, script: &Sequence) -> bool {
    let given = |steps: &Sequence| sufficient_in(case.regime, steps, case.change, case.granule, BbmLevel::L3).is_ok();
    let (own, other) = (given(script), given(&script.seen_by_other(case.regime)));
    if case.observer.access.switches_asid() { own && !other } else { other && !own }
}

/// Whether `instance`, if it is a control, was seen to do what it must. Only meaningful if its end is [`End::Done`].
#[must_use]
pub fn control_held(instance: &Instance, seen: &Seen<'_>) -> Option<bool> {
    Some(match control(instance)? {
        Control::MustShow(phase, kind) => shown(seen, phase, kind) > 0,
        Control::MustNotShow => {
            seen.count(|c| c.kind == Kind::Same) > 0
                && seen.count(|c| c.kind != Kind::Same) == 0
                && seen.el1_conflicts == 0
                && seen.el2_for_el1_conflicts == 0
                && seen.el2_conflicts == 0
        }
    })
}

/// How often `kind` was seen in `phase`. A store that went through the old mapping is [`Kind::Late`] where the
/// observer knows that the change was complete.
fn shown(seen: &Seen<'_>, phase: Phase, kind: Kind) -> u64 {
    seen.count(|c| c.phase == phase && (c.kind == kind || kind == Kind::Old && c.kind == Kind::Late))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, string::ToString, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        change::What,
        geometry::Granule,
        instance::{Family, Place},
        testing,
    };

    fn instance(id: &str) -> Instance {
        id.parse().expect(id)
    }

    fn names(id: &str, level: BbmLevel, phase: Phase) -> Vec<std::string::String> {
        allowed_kinds(&instance(id), level, phase).map(|(kind, _)| kind.to_string()).collect()
    }

    const QUIET: Seen<'_> = Seen {
        end: End::Done,
        rounds: 10,
        overlap: 10,
        trouble: false,
        outcomes: &[],
        contained: 0,
        el1_conflicts: 0,
        el2_for_el1_conflicts: 0,
        el2_conflicts: 0,
        uncleared: 0,
        bbm_presented: BbmLevel::L0,
    };

    /// Every instance of the 4K granule that differs in more than the observer's place, on which no allowance depends.
    fn sample() -> impl Iterator<Item = Instance> {
        testing::instances().into_iter().filter(|instance| match instance {
            Instance::Case(case) => case.granule == Granule::K4 && case.observer.place == Place::Local,
            Instance::Selftest(_) => true,
        })
    }

    /// An unremarkable histogram of `instance`: each phase with one thing that it allows, and with what it must show.
    fn usual(instance: &Instance, level: BbmLevel) -> Vec<Count> {
        let usual = |phase| match control(instance) {
            Some(Control::MustShow(at, kind)) if at == phase => kind,
            _ => allowed_kinds(instance, level, phase).next().expect("something is allowed").0,
        };
        Phase::ALL.map(|phase| Count { phase, kind: usual(phase), count: 3 }).to_vec()
    }

    /// Sets of allowed outcomes, by hand, for each method and family.
    #[test]
    fn known_sets() {
        use BbmLevel::{L0, L1, L2, L3};
        let all = [L0, L1, L2, L3];
        let (any, from_1, at_2, at_3) = (&all[..], &all[1..], &[L2][..], &[L3][..]);
        for (id, levels, before, during, after) in [
            ("el1.split.4k-l2.bbm.load-remote", any, &["same"][..], &["same", "translation-l2"][..], &["same"][..]),
            ("el1.split.4k-l1-l3.bbm-af.store-local", any, &["same"], &["same", "access-flag-l1"], &["same"]),
            ("el1.merge.4k-l2.bbm.store-remote", any, &["same"], &["same", "translation-l2"], &["same"]),
            ("el1.split.4k-l2.nt.load-remote", from_1, &["same"], &["same", "conflict", "translation-l2"], &["same"]),
            ("el1.merge.4k-l1.nt.load-local", from_1, &["same"], &["same", "conflict", "translation-l1"], &["same"]),
            ("el1.split.4k-l2.direct.load-remote", at_2, &["same"], &["same", "conflict"], &["same"]),
            ("el1.split.4k-l2.direct.load-remote", at_3, &["same"], &["same"], &["same"]),
            ("el1.merge.4k-l1-l3.direct.store-local", at_2, &["same"], &["same", "conflict"], &["same"]),
            ("el1.split.4k-l2.direct-notlbi.load-local", at_2, &["same"], &["same", "conflict"], &["same", "conflict"]),
            ("el1.remap.4k-l3-rw.bbm.store-remote", any, &["old"], &["old", "new", "translation-l3"], &["new"]),
            ("el1.remap.4k-l2-ro-diff.bbm-af.load-local", any, &["old"], &["old", "new", "access-flag-l2"], &["new"]),
            ("el1.remap.4k-l2-ro-same.direct.load-remote", any, &["same"], &["same"], &["same"]),
            ("el1.protect.4k-l3-rw-ro.direct.load-remote", any, &["same"], &["same"], &["same"]),
            (
                "el1.protect.4k-l3-rw-ro.direct.store-remote",
                any,
                &["old"],
                &["old", "permission-l3"],
                &["permission-l3"],
            ),
            (
                "el1.protect.4k-l2-ro-rw.direct.store-local",
                any,
                &["permission-l2"],
                &["new", "permission-l2"],
                &["new"],
            ),
            (
                "el1.protect.4k-l2-rw-ro.direct-notlbi.store-remote",
                any,
                &["old"],
                &["old", "late", "permission-l2"],
                &["old", "late", "permission-l2"],
            ),
            (
                "el1.protect.4k-l3-x-xn.bbm-af.fetch-remote",
                any,
                &["old"],
                &["old", "access-flag-l3", "permission-l3"],
                &["permission-l3"],
            ),
            ("el1.protect.4k-l3-xn-x.direct.fetch-local", any, &["permission-l3"], &["new", "permission-l3"], &["new"]),
            // The cap counts, not the CPU.
            ("el1.split.4k-l2.nt.load-local.cap1", at_3, &["same"], &["same", "conflict", "translation-l2"], &["same"]),
        ] {
            for &level in levels {
                assert_eq!(names(id, level, Phase::Before), before, "{id} before, level {level}");
                assert_eq!(names(id, level, Phase::During), during, "{id} during, level {level}");
                assert_eq!(names(id, level, Phase::After), after, "{id} after, level {level}");
            }
        }
    }

    /// Where the outcome is not defined only containment is left, and stage 2 is what contains.
    #[test]
    fn undefined_means_contained() {
        for (id, levels) in [
            ("el1.split.4k-l2.direct.load-remote", &[BbmLevel::L0, BbmLevel::L1][..]),
            ("el1.split.4k-l2.direct.load-remote.cap0", &BbmLevel::ALL),
            ("el1.merge.4k-l2.nt.store-local", &[BbmLevel::L0]),
            ("el1.remap.4k-l3-rw.direct.store-remote", &BbmLevel::ALL),
            ("el1.remap.4k-l2-ro-diff.direct-notlbi.load-local", &BbmLevel::ALL),
        ] {
            for &level in levels {
                for phase in [Phase::During, Phase::After] {
                    let refused: Vec<Kind> =
                        Kind::all().filter(|kind| !allowance(&instance(id), level, phase, *kind).allowed).collect();
                    assert_eq!(refused, [Kind::External], "{id} {phase}, level {level}");
                }
                assert_eq!(names(id, level, Phase::Before).len(), 1, "{id}");
            }
        }
        let off = instance("el1.remap.4k-l3-rw.direct.store-remote.s2off");
        assert!(allowance(&off, BbmLevel::L2, Phase::After, Kind::External).allowed);
        assert!(!allowance(&off, BbmLevel::L2, Phase::Before, Kind::External).allowed);
    }

    /// Properties that hold for every instance, level, phase and kind.
    #[test]
    fn allowances_are_total_and_consistent() {
        for instance in sample() {
            for level in BbmLevel::ALL {
                for phase in Phase::ALL {
                    for kind in Kind::all() {
                        let allowance = allowance(&instance, level, phase, kind);
                        assert!(!allowance.rule.is_empty() && !allowance.why.is_empty(), "{instance}");
                    }
                    assert!(allowed_kinds(&instance, level, phase).next().is_some(), "{instance} {phase}");
                }
                let Instance::Case(case) = instance else { continue };
                let effects = Effects::of_case(&case);
                let allowed = |phase, kind| allowance(&instance, level, phase, kind).allowed;
                assert!(allowed(Phase::During, effects.old) && allowed(Phase::During, effects.new), "{instance}");
                if defined(&case, level).is_ok() && case.change.leaves() == Grouping::Sound {
                    let only = |phase, kind| allowed_kinds(&instance, level, phase).map(|(k, _)| k).eq([kind]);
                    assert!(only(Phase::Before, effects.old) && only(Phase::After, effects.new), "{instance}");
                    for kind in [Kind::Neither, Kind::Lost, Kind::Late, Kind::Torn, Kind::Reordered, Kind::External] {
                        assert!(!allowed(Phase::During, kind), "{instance} {kind}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_higher_level_never_allows_more() {
        for instance in sample() {
            for pair in BbmLevel::ALL.windows(2) {
                for phase in Phase::ALL {
                    for (kind, _) in allowed_kinds(&instance, pair[1], phase) {
                        assert!(allowance(&instance, pair[0], phase, kind).allowed, "{instance} {phase} {kind}");
                    }
                }
            }
        }
    }

    /// What is forbidden fails wherever it is added; what is allowed changes no class, but for controls that it shows.
    #[test]
    fn one_outcome_decides() {
        for case in testing::cases(Granule::K4).into_iter().filter(|case| case.observer.place.is_remote()) {
            let instance = Instance::Case(case);
            for level in BbmLevel::ALL {
                let usual = usual(&instance, level);
                let class = judge(&instance, level, &Seen { outcomes: &usual, ..QUIET }).class;
                let shows = control(&instance).is_some();
                let expected = if shows || defined(&case, level).is_ok() { Class::Pass } else { Class::Observed };
                assert_eq!(class, expected, "{instance} at level {level}");
                for phase in Phase::ALL {
                    for kind in Kind::all() {
                        let mut outcomes = usual.clone();
                        outcomes.push(Count { phase, kind, count: 1 });
                        let verdict = judge(&instance, level, &Seen { outcomes: &outcomes, ..QUIET });
                        let expected =
                            if allowance(&instance, level, phase, kind).allowed { class } else { Class::Fail };
                        assert_eq!(verdict.class, expected, "{instance} at level {level}: {kind} {phase}");
                        assert!(!verdict.reason.to_string().is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn ends_are_held_against_defined_sequences_only() {
        let good = instance("el1.split.4k-l2.direct.load-remote");
        for (level, hung) in [(BbmLevel::L2, Class::Fail), (BbmLevel::L1, Class::Observed)] {
            let usual = usual(&good, level);
            for end in End::ALL {
                let class = match end {
                    End::Done if level == BbmLevel::L2 => Class::Pass,
                    End::Done => Class::Observed,
                    End::Watchdog | End::Exception | End::Trap | End::SError => hung,
                    End::Panic | End::NoReport => Class::Error,
                    End::Skipped => Class::Skip,
                    End::Unrecovered => Class::Fail,
                };
                let seen = Seen { end, outcomes: &usual, ..QUIET };
                assert_eq!(judge(&good, level, &seen).class, class, "{end} at level {level}");
            }
        }
    }

    #[test]
    fn a_run_that_saw_too_little_is_an_error() {
        let remote = instance("el1.split.4k-l2.bbm.load-remote");
        let local = instance("el1.split.4k-l2.bbm.load-local");
        let (outcomes, level) = (usual(&remote, BbmLevel::L2), BbmLevel::L2);
        let seen = Seen { outcomes: &outcomes, ..QUIET };
        let class = |instance, seen: &Seen<'_>| judge(instance, level, seen).class;
        assert_eq!(class(&remote, &seen), Class::Pass);
        assert_eq!(class(&remote, &Seen { rounds: 0, ..seen }), Class::Error);
        assert_eq!(class(&remote, &Seen { overlap: 0, ..seen }), Class::Error);
        assert_eq!(class(&local, &Seen { overlap: 0, ..seen }), Class::Pass);
        assert_eq!(class(&remote, &Seen { trouble: true, ..seen }), Class::Error);
        for missing in 0..3 {
            let mut outcomes = outcomes.clone();
            outcomes.remove(missing);
            assert_eq!(class(&remote, &Seen { outcomes: &outcomes, ..seen }), Class::Error);
        }
        // A violation remains one in a run that is otherwise too short.
        let bad = [Count { phase: Phase::After, kind: Kind::Neither, count: 1 }];
        assert_eq!(class(&remote, &Seen { outcomes: &bad, rounds: 0, ..seen }), Class::Fail);
    }

    #[test]
    fn conflicts_count_wherever_they_are_taken() {
        let (id, level) = (instance("el1.split.4k-l2.direct.load-remote"), BbmLevel::L2);
        let outcomes = usual(&id, level);
        let seen = Seen { outcomes: &outcomes, ..QUIET };
        for (more, at_2, at_3) in [
            (Seen { el1_conflicts: 1, ..seen }, Class::Pass, Class::Fail),
            (Seen { el2_for_el1_conflicts: 1, ..seen }, Class::Pass, Class::Fail),
            (Seen { el2_conflicts: 1, ..seen }, Class::Fail, Class::Fail),
            (Seen { uncleared: 1, ..seen }, Class::Fail, Class::Fail),
            (Seen { contained: 1, ..seen }, Class::Fail, Class::Fail),
        ] {
            assert_eq!(judge(&id, BbmLevel::L2, &more).class, at_2, "{more:?}");
            assert_eq!(judge(&id, BbmLevel::L3, &more).class, at_3, "{more:?}");
        }
        // With stage 2 off EL2 has no part in it, however the change is made.
        let off = Seen { el2_for_el1_conflicts: 1, ..seen };
        for method in ["bbm", "nt", "direct"] {
            let id = instance(&std::format!("el1.split.4k-l2.{method}.load-remote.s2off"));
            assert_eq!(judge(&id, BbmLevel::L2, &off).reason, Reason::WrongEl { count: 1 });
        }
        let undefined = Seen { contained: 1, el1_conflicts: 5, ..seen };
        assert_eq!(judge(&id, BbmLevel::L0, &undefined).class, Class::Observed);
        assert_eq!(judge(&id, BbmLevel::L0, &Seen { uncleared: 1, ..seen }).class, Class::Fail);
    }

    #[test]
    fn controls_are_the_changes_whose_missing_tlbi_can_be_told() {
        use Control::{MustNotShow, MustShow};
        let permission = Kind::Fault(Fault::Permission, Level::L3);
        for (id, expected) in [
            ("el1.remap.4k-l3-rw.direct-notlbi.load-remote", Some(MustShow(Phase::After, Kind::Old))),
            ("el1.remap.4k-l3-ro-diff.direct-notlbi.load-remote", Some(MustShow(Phase::After, Kind::Old))),
            ("el1.remap.4k-l3-ro-same.direct-notlbi.load-remote", None),
            ("el1.protect.4k-l3-rw-ro.direct-notlbi.store-local", Some(MustShow(Phase::After, Kind::Old))),
            ("el1.protect.4k-l3-rw-ro.direct-notlbi.load-local", None),
            ("el1.protect.4k-l3-ro-rw.direct-notlbi.store-local", Some(MustShow(Phase::After, permission))),
            ("el1.protect.4k-l3-xn-x.direct-notlbi.fetch-local", Some(MustShow(Phase::After, permission))),
            ("el1.split.4k-l2.direct-notlbi.load-local", None),
            ("el1.remap.4k-l3-rw.direct.load-remote", None),
            ("el1.tlbi.4k-l3-vae1is.bbm.load-remote", None),
            ("el1.tlbi.4k-l3-vae1is-page.bbm.load-remote", Some(MustShow(Phase::After, Kind::Old))),
            ("el1.tlbi.16k-l3-aside1is-asid.bbm.load-remote", Some(MustShow(Phase::After, Kind::Old))),
            ("el1.tlbi-range.4k-l3-rvae1is-level.bbm.load-remote", Some(MustShow(Phase::After, Kind::Old))),
            ("el1.tlbi.4k-l3-vae1.bbm.load-remote", Some(MustShow(Phase::After, Kind::Old))),
            ("el1.tlbi.4k-l3-vae1.bbm.load-local", None),
            // What a leaf form leaves is a table, not the window's entry, and nobody need have it.
            ("el1.freed.4k-l2-vaale1is-each.bbm.load-remote", None),
            ("selftest.quiet", Some(MustNotShow)),
            ("selftest.clean", Some(MustNotShow)),
            ("selftest.storm", None),
        ] {
            assert_eq!(control(&instance(id)), expected, "{id}");
        }
        let id = instance("el1.remap.4k-l3-rw.direct-notlbi.store-remote");
        let count = |phase, kind| Count { phase, kind, count: 4 };
        for (after, held, class) in [
            (Kind::Old, true, Class::Pass),
            (Kind::Late, true, Class::Pass),
            (Kind::New, false, Class::Observed),
            (Kind::External, false, Class::Fail),
        ] {
            let outcomes =
                [count(Phase::Before, Kind::Old), count(Phase::During, Kind::Old), count(Phase::After, after)];
            let seen = Seen { outcomes: &outcomes, ..QUIET };
            assert_eq!(control_held(&id, &seen), Some(held), "{after}");
            assert_eq!(judge(&id, BbmLevel::L2, &seen).class, class, "{after}");
        }
    }

    /// Each selftest passes on its designed end, and on no other.
    #[test]
    fn selftests_pass_as_designed_and_only_so() {
        let same = [Count { phase: Phase::Before, kind: Kind::Same, count: 8 }];
        let none: [Count; 0] = [];
        for &test in Selftest::ALL {
            let instance = Instance::Selftest(test);
            let designed = match test {
                Selftest::HangMasked | Selftest::Storm => Seen { end: End::Watchdog, outcomes: &none, ..QUIET },
                Selftest::Undefined => Seen { end: End::Exception, outcomes: &none, ..QUIET },
                Selftest::HalfRecord => Seen { end: End::NoReport, outcomes: &none, ..QUIET },
                Selftest::NoSecondCpu => Seen { trouble: true, rounds: 0, outcomes: &none, ..QUIET },
                Selftest::Scribble => Seen { contained: 7, outcomes: &same, ..QUIET },
                Selftest::ConflictEl1 => Seen { el1_conflicts: 1, outcomes: &same, ..QUIET },
                Selftest::ConflictEl2ForEl1 => Seen { el2_for_el1_conflicts: 1, outcomes: &same, ..QUIET },
                Selftest::ConflictEl2 => Seen { el2_conflicts: 1, outcomes: &same, ..QUIET },
                Selftest::Quiet
                | Selftest::Clean
                | Selftest::Forge
                | Selftest::CpuSwap
                | Selftest::CapBbm0
                | Selftest::CapBbm1 => Seen { outcomes: &same, ..QUIET },
            };
            let class = |seen: &Seen<'_>| judge(&instance, BbmLevel::L2, seen).class;
            assert_eq!(class(&designed), Class::Pass, "{test}");
            for end in End::ALL.into_iter().filter(|end| *end != designed.end) {
                let expected = if end == End::Skipped { Class::Skip } else { Class::Error };
                assert_eq!(class(&Seen { end, ..designed }), expected, "{test} ended by {end}");
            }
            let bad = [same[0], Count { phase: Phase::During, kind: Kind::Neither, count: 1 }];
            assert_eq!(class(&Seen { outcomes: &bad, ..designed }), Class::Fail, "{test}");
            assert_eq!(class(&Seen { uncleared: 1, ..designed }), Class::Fail, "{test}");
            assert_ne!(class(&Seen { trouble: !designed.trouble, ..designed }), Class::Pass, "{test}");
            // Nothing contained, no conflict or one at another place, nothing checked, the cap ignored.
            let stray = Seen { el1_conflicts: 1, el2_for_el1_conflicts: 1, ..designed };
            assert_ne!(class(&stray), Class::Pass, "{test}");
            if designed.outcomes.is_empty() {
                continue;
            }
            assert_ne!(class(&Seen { outcomes: &none, ..designed }), Class::Pass, "{test}");
            let still = Seen { contained: 0, el1_conflicts: 0, el2_for_el1_conflicts: 0, el2_conflicts: 0, ..designed };
            assert_eq!(class(&still) == Class::Pass, still == designed, "{test}");
            let presented = class(&Seen { bbm_presented: BbmLevel::L2, ..designed });
            assert_eq!(presented == Class::Pass, instance.needs().cap.is_none(), "{test}");
        }
    }

    #[test]
    fn reasons_tell_what_and_by_which_rule() {
        let level = BbmLevel::L2;
        let reason = |id, change: &dyn Fn(&mut Seen<'_>), more: &[Count]| {
            let instance = instance(id);
            let mut outcomes = usual(&instance, level);
            outcomes.extend_from_slice(more);
            let mut seen = Seen { outcomes: &outcomes, ..QUIET };
            change(&mut seen);
            judge(&instance, level, &seen).reason.to_string()
        };
        let fault = Count { phase: Phase::During, kind: Kind::Fault(Fault::Translation, Level::L2), count: 2 };
        let as_is = |_: &mut Seen<'_>| {};
        assert_eq!(reason("el1.split.4k-l2.direct.load-local", &as_is, &[]), "nothing forbidden in 9 accesses");
        assert_eq!(
            reason("el1.split.4k-l2.direct.load-local", &as_is, &[fault]),
            "translation-l2 during, 2 times: a fault that neither mapping gives (I_GYJBJ)"
        );
        assert_eq!(
            reason("el1.split.4k-l2.direct.load-local", &|seen| seen.end = End::Watchdog, &[]),
            "ended by watchdog though the sequence is defined (R_KFLJB)"
        );
        assert_eq!(
            reason("el1.remap.4k-l3-rw.direct.load-local", &|seen| seen.end = End::SError, &[]),
            "not defined: the OA changes and one of the mappings is writable, which needs break-before-make (R_WHZWS); \
             ended by serror"
        );
        assert_eq!(
            reason("el1.remap.4k-l3-rw.direct-notlbi.load-local", &as_is, &[]),
            "control: showed old after, 3 times"
        );
    }

    #[test]
    fn class_names_round_trip() {
        let names: BTreeSet<_> = Class::ALL.map(Class::name).into();
        assert_eq!(names, BTreeSet::from(["pass", "fail", "observed", "skip", "error"]));
        for class in Class::ALL {
            assert_eq!(Class::from_name(class.name()), Some(class));
        }
        assert_eq!(Class::from_name("Pass"), None);
    }

    proptest! {
        /// Whatever is seen, a judgement is made, has a reason that fits a record's line, and passes nothing that is
        /// forbidden or too little.
        #[test]
        fn judge_is_total_and_never_lenient(
            instance in prop::sample::select(testing::instances()),
            (end, level) in (0u8..9, 0u8..4),
            (rounds, overlap, trouble) in (0u64..3, 0u64..3, any::<bool>()),
            numbers in prop::collection::vec(prop_oneof![3 => Just(0u64), 1 => 1u64..3], 5),
            counts in prop::collection::vec((0u8..3, prop::sample::select(Kind::all().collect::<Vec<_>>()), any::<u64>()), 0..6),
        ) {
            let level = BbmLevel::from_number(level).expect("a level");
            let mut outcomes = usual(&instance, level);
            outcomes.extend(counts.into_iter().filter_map(|(phase, kind, count)| {
                Some(Count { phase: Phase::from_number(phase)?, kind, count })
            }));
            let seen = Seen {
                end: End::from_number(end).expect("an end"),
                rounds,
                overlap,
                trouble,
                outcomes: &outcomes,
                contained: numbers[0],
                el1_conflicts: numbers[1],
                el2_for_el1_conflicts: numbers[2],
                el2_conflicts: numbers[3],
                uncleared: numbers[4],
                bbm_presented: level,
            };
            let verdict = judge(&instance, level, &seen);
            let reason = verdict.reason.to_string();
            prop_assert!(!reason.is_empty() && reason.len() <= 240 && !reason.contains('\n'), "{}", reason);
            if verdict.class == Class::Pass {
                let allowed = |c: &Count| c.count == 0 || allowance(&instance, level, c.phase, c.kind).allowed;
                prop_assert!(outcomes.iter().all(allowed));
                prop_assert_eq!(seen.uncleared, 0);
                if let Instance::Case(case) = instance {
                    prop_assert_eq!(seen.end, End::Done);
                    prop_assert!(rounds > 0 && !trouble);
                    prop_assert!(overlap > 0 || case.observer.place == Place::Local);
                    prop_assert!(defined(&case, level).is_ok() || control(&instance).is_some());
                }
            }
        }
    }

    /// What remains undefined on the best of CPUs.
    #[test]
    fn what_needs_break_before_make_at_level_3() {
        for case in testing::cases(Granule::K4) {
            let undefined = defined(&case, BbmLevel::L3).is_err();
            let (change, family) = (case.change, case.change.family());
            let another = change.moves() && (change.resizes() || !change.contents_equal());
            let another_memory =
                matches!(family, Family::Retype | Family::Cacheability | Family::Shareability | Family::Globalise);
            let expected = match case.method {
                Method::DirectNotlbi => change.what() != What::AgeSet,
                Method::Direct | Method::DirectCas | Method::Overwrite => another || another_memory,
                Method::Nt | Method::NtCas => change.moves(),
                _ => false,
            };
            assert_eq!(undefined, expected, "{}", Instance::Case(case));
        }
    }
}

//! What comes back: records, each one CBOR item.
//!
//! A field's number is its `#[n(..)]`; numbers are never reused, new fields are optional, so that a reader of
//! any later version reads every older record.

use arrayvec::{ArrayString, ArrayVec};
use minicbor::{Decode, Encode};
use vmsa::{
    instance::MAX_ID,
    outcome::{Count, Kind, Phase},
};

/// Most distinct (phase, kind) pairs in a report.
pub const MAX_OUTCOMES: usize = 40;
/// Most conflict aborts recorded one by one; more are counted.
pub const MAX_CONFLICTS: usize = 8;
/// Most system registers in a CPU record.
pub const MAX_REGISTERS: usize = 48;
/// Longest log line or reason, in bytes.
pub const MAX_TEXT: usize = 240;
/// Largest record, encoded, in bytes.
pub const MAX_RECORD: usize = 4096;

/// An instance's id.
pub type Id = ArrayString<MAX_ID>;
/// A line of text.
pub type Text = ArrayString<MAX_TEXT>;

/// Where and how one outcome was first seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct First {
    /// Syndrome; 0 where no exception was taken.
    #[n(0)]
    pub esr: u64,
    /// Faulting address; for an access without exception, the address accessed.
    #[n(1)]
    pub far: u64,
    /// Address of the instruction.
    #[n(2)]
    pub pc: u64,
    /// vCPU that saw it.
    #[n(3)]
    pub cpu: u8,
    /// Round, from 0.
    #[n(4)]
    pub round: u64,
    /// Value loaded, where that is what was seen.
    #[n(5)]
    pub value: u64,
}

/// One line of an instance's histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// When, what and how often.
    pub count: Count,
    /// The first of them.
    pub first: First,
}

/// At which place a TLB conflict abort was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Place {
    /// At EL1, for EL1's translation.
    #[n(0)]
    El1,
    /// At EL2, for the translation of EL1&0 (R_FWRMB).
    #[n(1)]
    El2ForEl1,
    /// At EL2, for its own translation.
    #[n(2)]
    El2,
}

impl Place {
    /// All places, in order of their numbers.
    pub const ALL: [Self; 3] = [Self::El1, Self::El2ForEl1, Self::El2];

    /// The name used in result files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::El1 => "el1",
            Self::El2ForEl1 => "el2-for-el1",
            Self::El2 => "el2",
        }
    }
}

/// The TLBI after which the access went through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Recovery {
    /// VMALLE1 at EL1.
    #[n(0)]
    Vmalle1,
    /// VMALLS12E1 at EL2.
    #[n(1)]
    Vmalls12e1,
    /// ALLE2 at EL2.
    #[n(2)]
    Alle2,
    /// ALLE1 at EL2.
    #[n(3)]
    Alle1,
    /// None did; the access was given up.
    #[n(4)]
    None,
}

impl Recovery {
    /// The name used in result files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vmalle1 => "vmalle1",
            Self::Vmalls12e1 => "vmalls12e1",
            Self::Alle2 => "alle2",
            Self::Alle1 => "alle1",
            Self::None => "none",
        }
    }
}

/// One TLB conflict abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Conflict {
    /// Where it was taken.
    #[n(0)]
    pub place: Place,
    /// Stage, 1 or 2, as far as the syndrome tells.
    #[n(1)]
    pub stage: u8,
    /// ESR_ELx.
    #[n(2)]
    pub esr: u64,
    /// FAR_ELx.
    #[n(3)]
    pub far: u64,
    /// HPFAR_EL2, where it was taken at EL2 (its validity for a conflict is not architected: nothing relies on it).
    #[n(4)]
    pub hpfar: Option<u64>,
    /// Address of the instruction.
    #[n(5)]
    pub pc: u64,
    /// CPU.
    #[n(6)]
    pub cpu: u8,
    /// What cleared it.
    #[n(7)]
    pub cleared_by: Recovery,
    /// How many times the access was tried again before it went through.
    #[n(8)]
    pub retries: u8,
    /// Whether the harness injected it to test itself.
    #[n(9)]
    pub injected: bool,
    /// The phase in which it came, where the observer knows: 0 before, 1 during, 2 after.
    #[n(10)]
    pub phase: Option<u8>,
}

/// Why a payload has nothing, or less than asked, to report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Trouble {
    /// The second CPU never came up.
    #[n(0)]
    NoSecondCpu,
    /// The observer stopped answering.
    #[n(1)]
    ObserverSilent,
    /// The CPU lacks what the instance needs.
    #[n(2)]
    Unsupported,
    /// The time was up before all rounds were made.
    #[n(3)]
    OutOfTime,
    /// A check of the harness itself failed; the log tells.
    #[n(4)]
    SelfCheck,
}

/// What a payload hands to hv when it is done: what it saw, no judgement.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Rounds made.
    pub rounds: u64,
    /// Accesses of all observers.
    pub accesses: u64,
    /// Rounds in which at least one access overlapped the change.
    pub overlap: u64,
    /// What went wrong in the harness, if anything.
    pub trouble: Option<Trouble>,
    /// The histogram.
    pub outcomes: ArrayVec<Outcome, MAX_OUTCOMES>,
    /// Conflict aborts taken at EL1.
    pub conflicts: ArrayVec<Conflict, MAX_CONFLICTS>,
    /// All conflict aborts taken at EL1, those not listed included.
    pub conflicts_total: u64,
}

/// Registers of a vCPU at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Registers {
    /// x0 to x30.
    #[n(0)]
    pub x: [u64; 31],
    /// ELR_EL2: where it was.
    #[n(1)]
    pub pc: u64,
    /// SPSR_EL2.
    #[n(2)]
    pub pstate: u64,
    /// ESR_EL2.
    #[n(3)]
    pub esr_el2: u64,
    /// FAR_EL2.
    #[n(4)]
    pub far_el2: u64,
    /// HPFAR_EL2.
    #[n(5)]
    pub hpfar_el2: u64,
    /// ESR_EL1: the last exception it took itself.
    #[n(6)]
    pub esr_el1: u64,
    /// ELR_EL1.
    #[n(7)]
    pub elr_el1: u64,
    /// FAR_EL1.
    #[n(8)]
    pub far_el1: u64,
    /// SPSR_EL1.
    #[n(9)]
    pub spsr_el1: u64,
    /// SP_EL1.
    #[n(10)]
    pub sp_el1: u64,
    /// vCPU.
    #[n(11)]
    pub cpu: u8,
}

/// One finished instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// Position in the plan, from 0.
    pub seq: u32,
    /// The instance.
    pub id: Id,
    /// Index of the physical CPU that ran vCPU 0, as in its CPU record.
    pub cpu: u8,
    /// How it ended.
    pub end: vmsa::outcome::End,
    /// BBM level presented to the payload.
    pub bbm: u8,
    /// What the payload reported; empty unless it did.
    pub report: Report,
    /// Conflict aborts taken at EL2 while it ran.
    pub el2_conflicts: ArrayVec<Conflict, MAX_CONFLICTS>,
    /// Registers of the vCPU that ended it, unless it was done.
    pub registers: Option<Registers>,
    /// Accesses that stage 2 refused and that were answered with an External abort.
    pub contained: u64,
    /// Building the VM, in nanoseconds.
    pub setup_ns: u64,
    /// Running it, in nanoseconds.
    pub run_ns: u64,
    /// Why it was skipped, or what else is worth saying.
    pub reason: Option<Text>,
}

/// A system register by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Register<'a> {
    /// Name as in the Arm ARM.
    #[b(0)]
    pub name: &'a str,
    /// Value.
    #[n(1)]
    pub value: u64,
}

/// A physical CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cpu<'a> {
    /// Index, 0 is the boot CPU.
    pub index: u8,
    /// MPIDR_EL1.
    pub mpidr: u64,
    /// MIDR_EL1.
    pub midr: u64,
    /// REVIDR_EL1.
    pub revidr: u64,
    /// The ID registers.
    pub registers: ArrayVec<Register<'a>, MAX_REGISTERS>,
}

/// The machine as hv found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platform {
    /// Root `model` or `compatible` of the DTB.
    pub model: Text,
    /// CPUs in use.
    pub cpus: u8,
    /// `gicv2` or `gicv3` or `none`.
    pub gic: ArrayString<8>,
    /// `smc`, `hvc` or `none`.
    pub psci: ArrayString<8>,
    /// Where hv's Image stands.
    pub image_base: u64,
    /// Bytes of the Image in memory, stacks and zero-initialised data included.
    pub image_size: u64,
    /// Bytes of RAM.
    pub ram: u64,
    /// Counter frequency in Hz.
    pub counter_hz: u64,
    /// EL at which the Image was entered.
    pub entered_at: u8,
}

/// Everything that rides on the console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// The first record: starts a boot.
    Hello {
        /// [`PROTOCOL`](crate::PROTOCOL) of the sender.
        protocol: u32,
        /// Version of the Image.
        version: Text,
    },
    /// The machine.
    Platform(Platform),
    /// A CPU.
    Cpu(Cpu<'a>),
    /// The plan was read.
    Plan {
        /// Instances in it.
        count: u32,
        /// Its seed.
        seed: u64,
        /// CRC-32 of its text, by which a runner knows its own plan again.
        crc: u32,
    },
    /// An instance is about to start. Whatever hangs the machine is the last one started.
    Start {
        /// Position in the plan.
        seq: u32,
        /// The instance.
        id: Id,
        /// Physical CPU of vCPU 0.
        cpu: u8,
    },
    /// An instance ended.
    Finished(Finished),
    /// A line from hv or a payload.
    Log {
        /// The text.
        text: Text,
    },
    /// hv cannot go on.
    Fatal {
        /// Why.
        text: Text,
    },
    /// The last record: the plan is through.
    Bye {
        /// Instances finished in this boot.
        finished: u32,
    },
}

/// A [`Count`] from the numbers it is made of, if they are ones that this version knows.
#[must_use]
pub fn count(phase: u8, kind: u8, count: u64) -> Option<Count> {
    Some(Count { phase: Phase::from_number(phase)?, kind: Kind::from_code(kind)?, count })
}

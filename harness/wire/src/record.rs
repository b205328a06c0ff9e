//! What comes back: records, each one CBOR item.
//!
//! A record is the array `[type, field, field, …]`; the types inside it are arrays of their fields.
//! A field's number is its `#[n(..)]`; numbers are never reused, new fields are optional and come last, so that a
//! reader of any later version reads every older record, and an older reader skips what it does not know.
//! It never does so in silence: [`decode`] tells a whole record from one of which a part was skipped and from
//! one whose type is unknown. A *value* that is unknown (a kind, an end, a place) or too long for its field is an
//! error, since leaving it out would make another record of it.

use core::fmt;

use arrayvec::{ArrayString, ArrayVec};
use minicbor::{
    Decode, Decoder, Encode, Encoder,
    decode::Error as DecodeError,
    encode::{Error as EncodeError, Write},
};
use vmsa::{
    instance::MAX_ID,
    outcome::{Count, End, Kind, Phase},
    remedy::Remedy,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Outcome {
    /// When, what and how often.
    #[n(0)]
    #[cbor(with = "count")]
    pub count: Count,
    /// The first of them.
    #[n(1)]
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
    /// VAE1 of the FAR at EL1. It need not clear a conflict (R_BLRKC), and on some CPUs does (R_GRVDR).
    #[n(5)]
    Vae1,
    /// VAAE1 of the FAR at EL1; likewise.
    #[n(6)]
    Vaae1,
    /// VALE1 of the FAR at EL1; likewise.
    #[n(7)]
    Vale1,
    /// VAALE1 of the FAR at EL1; likewise.
    #[n(8)]
    Vaale1,
    /// ASIDE1 at EL1; likewise.
    #[n(9)]
    Aside1,
    /// RVAAE1 of the FAR's page and its neighbour at EL1; likewise.
    #[n(10)]
    Rvaae1,
}

impl From<Remedy> for Recovery {
    fn from(remedy: Remedy) -> Self {
        match remedy {
            Remedy::Vae1 => Self::Vae1,
            Remedy::Vaae1 => Self::Vaae1,
            Remedy::Vale1 => Self::Vale1,
            Remedy::Vaale1 => Self::Vaale1,
            Remedy::Aside1 => Self::Aside1,
            Remedy::Rvaae1 => Self::Rvaae1,
            Remedy::Vmalle1 => Self::Vmalle1,
            Remedy::Vmalls12e1 => Self::Vmalls12e1,
            Remedy::Alle1 => Self::Alle1,
        }
    }
}

impl Recovery {
    /// All of them, in order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Vmalle1,
        Self::Vmalls12e1,
        Self::Alle2,
        Self::Alle1,
        Self::None,
        Self::Vae1,
        Self::Vaae1,
        Self::Vale1,
        Self::Vaale1,
        Self::Aside1,
        Self::Rvaae1,
    ];

    /// The name used in result files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vmalle1 => "vmalle1",
            Self::Vmalls12e1 => "vmalls12e1",
            Self::Alle2 => "alle2",
            Self::Alle1 => "alle1",
            Self::None => "none",
            Self::Vae1 => "vae1",
            Self::Vaae1 => "vaae1",
            Self::Vale1 => "vale1",
            Self::Vaale1 => "vaale1",
            Self::Aside1 => "aside1",
            Self::Rvaae1 => "rvaae1",
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Report {
    /// Rounds made.
    #[n(0)]
    pub rounds: u64,
    /// Accesses of all observers.
    #[n(1)]
    pub accesses: u64,
    /// Rounds in which at least one access overlapped the change.
    #[n(2)]
    pub overlap: u64,
    /// What went wrong in the harness, if anything.
    #[n(3)]
    pub trouble: Option<Trouble>,
    /// The histogram.
    #[n(4)]
    #[cbor(with = "list")]
    pub outcomes: ArrayVec<Outcome, MAX_OUTCOMES>,
    /// Conflict aborts taken at EL1.
    #[n(5)]
    #[cbor(with = "list")]
    pub conflicts: ArrayVec<Conflict, MAX_CONFLICTS>,
    /// All conflict aborts taken at EL1, those not listed included.
    #[n(6)]
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
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Finished {
    /// Position in the plan, from 0.
    #[n(0)]
    pub seq: u32,
    /// The instance.
    #[n(1)]
    #[cbor(with = "string")]
    pub id: Id,
    /// Index of the physical CPU that ran vCPU 0, as in its CPU record.
    #[n(2)]
    pub cpu: u8,
    /// How it ended.
    #[n(3)]
    #[cbor(with = "end")]
    pub end: End,
    /// BBM level presented to the payload.
    #[n(4)]
    pub bbm: u8,
    /// What the payload reported; empty unless it did.
    #[n(5)]
    pub report: Report,
    /// Conflict aborts taken at EL2 while it ran.
    #[n(6)]
    #[cbor(with = "list")]
    pub el2_conflicts: ArrayVec<Conflict, MAX_CONFLICTS>,
    /// Registers of the vCPU that ended it, unless it was done.
    #[n(7)]
    pub registers: Option<Registers>,
    /// Accesses that stage 2 refused and that were answered with an External abort.
    #[n(8)]
    pub contained: u64,
    /// Building the VM, in nanoseconds.
    #[n(9)]
    pub setup_ns: u64,
    /// Running it, in nanoseconds.
    #[n(10)]
    pub run_ns: u64,
    /// Why it was skipped, or what else is worth saying.
    #[n(11)]
    #[cbor(with = "optional_string", has_nil)]
    pub reason: Option<Text>,
    /// Of a case that changes stage 2, what met its breaks.
    #[n(12)]
    pub retried: Option<Retried>,
}

/// Breaks of a window of stage 2, and what met them: hv held the vCPU until the window was mended, and tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Retried {
    /// Faults that were answered so.
    #[n(0)]
    pub faults: u64,
    /// Times that the window was broken.
    #[n(1)]
    pub breaks: u64,
    /// For how long in all, in nanoseconds.
    #[n(2)]
    pub total_ns: u64,
    /// For how long at most, in nanoseconds.
    #[n(3)]
    pub longest_ns: u64,
    /// For how long at least, in nanoseconds, if it was.
    #[n(4)]
    pub shortest_ns: Option<u64>,
    /// CPU cycles of the shortest (PMCCNTR_EL0), where hv broke what it stood on itself and the CPU counts them.
    #[n(5)]
    pub cycles: Option<u64>,
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
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Cpu<'a> {
    /// Index, 0 is the boot CPU.
    #[n(0)]
    pub index: u8,
    /// MPIDR_EL1.
    #[n(1)]
    pub mpidr: u64,
    /// MIDR_EL1.
    #[n(2)]
    pub midr: u64,
    /// REVIDR_EL1.
    #[n(3)]
    pub revidr: u64,
    /// The ID registers.
    #[b(4)]
    #[cbor(with = "list")]
    pub registers: ArrayVec<Register<'a>, MAX_REGISTERS>,
}

/// The machine as hv found it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Platform {
    /// Root `model` or `compatible` of the DTB.
    #[n(0)]
    #[cbor(with = "string")]
    pub model: Text,
    /// CPUs in use.
    #[n(1)]
    pub cpus: u8,
    /// `gicv2` or `gicv3` or `none`.
    #[n(2)]
    #[cbor(with = "string")]
    pub gic: ArrayString<8>,
    /// `smc`, `hvc` or `none`.
    #[n(3)]
    #[cbor(with = "string")]
    pub psci: ArrayString<8>,
    /// Where hv's Image stands.
    #[n(4)]
    pub image_base: u64,
    /// Bytes of the Image in memory, stacks and zero-initialised data included.
    #[n(5)]
    pub image_size: u64,
    /// Bytes of RAM.
    #[n(6)]
    pub ram: u64,
    /// Counter frequency in Hz.
    #[n(7)]
    pub counter_hz: u64,
    /// EL at which the Image was entered.
    #[n(8)]
    pub entered_at: u8,
}

/// An SMMUv3: another walker, which may share the CPUs' tables. Its ID registers are as hv read them (Arm IHI 0070, 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Smmu {
    /// Physical address of its registers.
    #[n(0)]
    pub base: u64,
    /// SMMU_IDR0.
    #[n(1)]
    pub idr0: u32,
    /// SMMU_IDR3.
    #[n(2)]
    pub idr3: u32,
}

/// Everything that rides on the console.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(flat)]
#[expect(
    clippy::large_enum_variant,
    reason = "a record is made, written and dropped; guests have no heap to box it in"
)]
pub enum Record<'a> {
    /// The first record: starts a boot.
    #[n(0)]
    Hello {
        /// [`PROTOCOL`](crate::PROTOCOL) of the sender.
        #[n(0)]
        protocol: u32,
        /// Version of the Image.
        #[n(1)]
        #[cbor(with = "string")]
        version: Text,
    },
    /// The machine.
    #[n(1)]
    Platform(#[n(0)] Platform),
    /// A CPU.
    #[n(2)]
    Cpu(#[b(0)] Cpu<'a>),
    /// The plan was read.
    #[n(3)]
    Plan {
        /// Instances in it.
        #[n(0)]
        count: u32,
        /// Its seed.
        #[n(1)]
        seed: u64,
        /// CRC-32 of its text, by which a runner knows its own plan again.
        #[n(2)]
        crc: u32,
    },
    /// An instance is about to start. Whatever hangs the machine is the last one started.
    #[n(4)]
    Start {
        /// Position in the plan.
        #[n(0)]
        seq: u32,
        /// The instance.
        #[n(1)]
        #[cbor(with = "string")]
        id: Id,
        /// Physical CPU of vCPU 0.
        #[n(2)]
        cpu: u8,
    },
    /// An instance ended.
    #[n(5)]
    Finished(#[n(0)] Finished),
    /// A line from hv or a payload.
    #[n(6)]
    Log {
        /// The text.
        #[n(0)]
        #[cbor(with = "string")]
        text: Text,
    },
    /// hv cannot go on.
    #[n(7)]
    Fatal {
        /// Why.
        #[n(0)]
        #[cbor(with = "string")]
        text: Text,
    },
    /// The last record: the plan is through.
    #[n(8)]
    Bye {
        /// Instances finished in this boot.
        #[n(0)]
        finished: u32,
    },
    /// An SMMU.
    #[n(9)]
    Smmu(#[n(0)] Smmu),
}

impl Record<'_> {
    /// How many types of record this version knows; their numbers are the ones below.
    pub const TYPES: u32 = 10;
}

/// What an undamaged CBOR item turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded<'a> {
    /// A record, all of it.
    Whole(Record<'a>),
    /// A record of a newer sender, without the fields that this version does not know.
    Part(Record<'a>),
    /// A type of record that this version does not know: skipped.
    Unknown {
        /// The number of that type.
        number: u32,
    },
}

/// Decodes the one record that `cbor` is.
///
/// # Errors
/// If it is not a record, if a field is missing or too long for its type, if a value is unknown to this version,
/// or if bytes follow it.
pub fn decode(cbor: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let mut head = Decoder::new(cbor);
    head.array()?;
    let number = head.u32()?;
    if number >= Record::TYPES {
        return Ok(Decoded::Unknown { number });
    }
    let mut decoder = Decoder::new(cbor);
    let record: Record<'_> = decoder.decode()?;
    if decoder.position() != cbor.len() {
        return Err(DecodeError::message("bytes after the record"));
    }
    // There is one encoding of a record, so what is missing from it was skipped in decoding.
    let whole = minicbor::encode(&record, Same(cbor)).is_ok();
    Ok(if whole { Decoded::Whole(record) } else { Decoded::Part(record) })
}

/// Accepts only the bytes it holds, in their order.
struct Same<'a>(&'a [u8]);

impl Write for Same<'_> {
    type Error = ();

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = self.0.strip_prefix(bytes).ok_or(())?;
        Ok(())
    }
}

/// The longest start of `text` that has at most `max` bytes and ends at a character's boundary.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// `args` as a line of text, cut at a character's boundary where it is longer than [`MAX_TEXT`].
#[must_use]
pub fn text(args: fmt::Arguments<'_>) -> Text {
    struct Cut(Text, bool);

    impl fmt::Write for Cut {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            // Once cut, nothing follows: a later short piece would pass for the text's continuation.
            if !self.1 {
                let part = cut(s, self.0.remaining_capacity());
                self.1 = part.len() < s.len();
                self.0.push_str(part);
            }
            Ok(())
        }
    }

    let mut line = Cut(Text::new(), false);
    // The writer above never fails; an error can only be the argument's own, and then what it wrote is what there is.
    let _ = fmt::Write::write_fmt(&mut line, args);
    line.0
}

/// A [`Count`] from the numbers it is made of, if they are ones that this version knows.
#[must_use]
pub fn count(phase: u8, kind: u8, count: u64) -> Option<Count> {
    Some(Count { phase: Phase::from_number(phase)?, kind: Kind::from_code(kind)?, count })
}

/// Lists, bounded by their capacity.
mod list {
    use super::{ArrayVec, Decode, DecodeError, Decoder, Encode, EncodeError, Encoder, Write};

    pub(super) fn encode<C, W: Write, T: Encode<C>, const N: usize>(
        list: &ArrayVec<T, N>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.array(list.len() as u64)?;
        list.iter().try_for_each(|item| item.encode(e, ctx))
    }

    pub(super) fn decode<'b, C, T: Decode<'b, C>, const N: usize>(
        d: &mut Decoder<'b>,
        ctx: &mut C,
    ) -> Result<ArrayVec<T, N>, DecodeError> {
        let length = d.array()?.filter(|n| *n <= N as u64).ok_or_else(|| DecodeError::message("list too long"))?;
        (0..length).map(|_| T::decode(d, ctx)).collect()
    }
}

/// Strings, bounded by their capacity.
mod string {
    use super::{ArrayString, DecodeError, Decoder, EncodeError, Encoder, Write};

    pub(super) fn encode<C, W: Write, const N: usize>(
        text: &ArrayString<N>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.str(text)?.ok()
    }

    pub(super) fn decode<C, const N: usize>(d: &mut Decoder<'_>, _: &mut C) -> Result<ArrayString<N>, DecodeError> {
        ArrayString::from(d.str()?).map_err(|_| DecodeError::message("text too long"))
    }
}

/// Strings that may be absent.
mod optional_string {
    use super::{ArrayString, DecodeError, Decoder, EncodeError, Encoder, Write, string};

    pub(super) fn encode<C, W: Write, const N: usize>(
        text: &Option<ArrayString<N>>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        match text {
            Some(text) => string::encode(text, e, ctx),
            None => e.null()?.ok(),
        }
    }

    pub(super) fn decode<C, const N: usize>(
        d: &mut Decoder<'_>,
        ctx: &mut C,
    ) -> Result<Option<ArrayString<N>>, DecodeError> {
        if d.datatype()? == minicbor::data::Type::Null {
            d.null()?;
            return Ok(None);
        }
        string::decode(d, ctx).map(Some)
    }

    pub(super) fn is_nil<const N: usize>(text: &Option<ArrayString<N>>) -> bool {
        text.is_none()
    }

    pub(super) fn nil<const N: usize>() -> Option<Option<ArrayString<N>>> {
        Some(None)
    }
}

/// [`Count`] as `[phase, kind, count]`, by their numbers.
mod count {
    use super::{Count, DecodeError, Decoder, EncodeError, Encoder, Write};

    pub(super) fn encode<C, W: Write>(
        count: &Count,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.array(3)?.u8(count.phase as u8)?.u8(count.kind.code())?.u64(count.count)?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Count, DecodeError> {
        if d.array()? != Some(3) {
            return Err(DecodeError::message("a count is three numbers"));
        }
        super::count(d.u8()?, d.u8()?, d.u64()?).ok_or_else(|| DecodeError::message("unknown phase or kind"))
    }
}

/// [`End`] by its number.
mod end {
    use super::{DecodeError, Decoder, EncodeError, Encoder, End, Write};

    pub(super) fn encode<C, W: Write>(end: &End, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.u8(*end as u8)?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<End, DecodeError> {
        End::from_number(d.u8()?).ok_or_else(|| DecodeError::message("unknown end"))
    }
}

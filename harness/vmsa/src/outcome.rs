//! What one access can see, and when.

use core::fmt;

use crate::geometry::Level;

/// When an access happened, relative to the change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Ordered before the change's first write.
    Before = 0,
    /// Not ordered against the change: it may have met any state in between.
    During = 1,
    /// Ordered after the change's last DSB: the observer read the changer's flag, then executed DSB and ISB.
    After = 2,
}

impl Phase {
    /// All phases, in order of time.
    pub const ALL: [Self; 3] = [Self::Before, Self::During, Self::After];

    /// The phase with this number.
    #[must_use]
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Before),
            1 => Some(Self::During),
            2 => Some(Self::After),
            _ => None,
        }
    }

    /// The phase's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::During => "during",
            Self::After => "after",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Class of an MMU fault, as its Fault Status Code tells it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fault {
    /// 0b0000LL: an address beyond the output size.
    AddressSize = 0,
    /// 0b0001LL: an invalid descriptor, or nT where the CPU faults on it.
    Translation = 1,
    /// 0b0010LL: AF=0 without hardware update.
    AccessFlag = 2,
    /// 0b0011LL: the permissions do not allow the access.
    Permission = 3,
}

impl Fault {
    const ALL: [Self; 4] = [Self::AddressSize, Self::Translation, Self::AccessFlag, Self::Permission];

    const fn name(self) -> &'static str {
        match self {
            Self::AddressSize => "address-size",
            Self::Translation => "translation",
            Self::AccessFlag => "access-flag",
            Self::Permission => "permission",
        }
    }
}

/// What one access saw.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// An effect that only the old mapping gives: its data, or an access that only it allows.
    Old,
    /// An effect that only the new mapping gives.
    New,
    /// An effect that both mappings give, where they do not differ for this access.
    Same,
    /// Data from neither mapping.
    Neither,
    /// A store that did not fault and reached neither mapping.
    Lost,
    /// A store through the old mapping that landed after the change was complete.
    Late,
    /// Parts of the data from the old and parts from the new mapping in one single-copy atomic access.
    Torn,
    /// A later access saw older data than an earlier one.
    Reordered,
    /// A TLB conflict abort (FSC 0b110000).
    Conflict,
    /// A synchronous External abort, which is also how the hypervisor answers an access that stage 2 refused.
    External,
    /// Any other exception; the syndrome tells.
    Exception,
    /// An access that succeeded and left no mark, though hardware is to set the Access flag or the dirty state for it.
    Unmarked,
    /// Dirty state in a descriptor through which nobody can have written.
    Spurious,
    /// An access that did not end until the TLBI was executed.
    Stuck,
    /// A store that landed at an address to which neither mapping leads.
    Escaped,
    /// An Alignment fault: Device memory knows no unaligned accesses.
    Alignment,
    /// An exception that what makes the change took by it: its own stack, code, vectors or table were out of reach.
    Tripped,
    /// The same without end, its vectors being out of reach too, until another PE made the change.
    Lockup,
    /// An MMU fault of stage 1 with the level that its syndrome reports.
    Fault(Fault, Level),
}

impl Kind {
    /// One more than the largest [`code`](Self::code).
    pub const CODES: usize = 50;

    /// The first code behind those of faults.
    const BEHIND: u8 = 48;
    /// The kinds with the codes from there on.
    const MORE: [Self; 2] = [Self::Tripped, Self::Lockup];

    const PLAIN: [Self; 16] = [
        Self::Old,
        Self::New,
        Self::Same,
        Self::Neither,
        Self::Lost,
        Self::Late,
        Self::Torn,
        Self::Reordered,
        Self::Conflict,
        Self::External,
        Self::Exception,
        Self::Unmarked,
        Self::Spurious,
        Self::Stuck,
        Self::Escaped,
        Self::Alignment,
    ];

    /// Every kind, in order of [`code`](Self::code).
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::CODES as u8).filter_map(Self::from_code)
    }

    /// A small number for counters and records; stable across versions.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Old => 0,
            Self::New => 1,
            Self::Same => 2,
            Self::Neither => 3,
            Self::Lost => 4,
            Self::Late => 5,
            Self::Torn => 6,
            Self::Reordered => 7,
            Self::Conflict => 8,
            Self::External => 9,
            Self::Exception => 10,
            Self::Unmarked => 11,
            Self::Spurious => 12,
            Self::Stuck => 13,
            Self::Escaped => 14,
            Self::Alignment => 15,
            Self::Fault(fault, level) => 16 + fault as u8 * 8 + (level.number() + 1) as u8,
            Self::Tripped => Self::BEHIND,
            Self::Lockup => Self::BEHIND + 1,
        }
    }

    /// The kind of a [`code`](Self::code).
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        if let Some(kind) = Self::PLAIN.get(usize::from(code)) {
            return Some(*kind);
        }
        if let Some(number) = code.checked_sub(Self::BEHIND) {
            return Self::MORE.get(usize::from(number)).copied();
        }
        let code = code.checked_sub(16)?;
        let fault = *Fault::ALL.get(usize::from(code / 8))?;
        Some(Self::Fault(fault, Level::new((code % 8) as i8 - 1)?))
    }

    /// The kind that a data or instruction abort's syndrome stands for.
    ///
    /// `esr` is the whole ESR_ELx value; anything that is not an abort is [`Kind::Exception`].
    #[must_use]
    pub const fn from_esr(esr: u64) -> Self {
        let ec = (esr >> 26) & 0x3f;
        if !matches!(ec, 0x20 | 0x21 | 0x24 | 0x25) {
            return Self::Exception;
        }
        let fsc = (esr & 0x3f) as u8;
        match fsc {
            0b11_0000 => Self::Conflict,
            0b10_0001 => Self::Alignment,
            // On the access itself, or on the walk for it at some level.
            0b01_0000 | 0b01_0011..=0b01_0111 => Self::External,
            // Level -1 has codes of its own (FEAT_LPA2).
            0b10_1001 => Self::fault(Fault::AddressSize, -1),
            0b10_1011 => Self::fault(Fault::Translation, -1),
            0b00_0000..=0b00_0011 => Self::fault(Fault::AddressSize, (fsc & 3) as i8),
            0b00_0100..=0b00_0111 => Self::fault(Fault::Translation, (fsc & 3) as i8),
            0b00_1000..=0b00_1011 => Self::fault(Fault::AccessFlag, (fsc & 3) as i8),
            0b00_1100..=0b00_1111 => Self::fault(Fault::Permission, (fsc & 3) as i8),
            _ => Self::Exception,
        }
    }

    const fn fault(fault: Fault, level: i8) -> Self {
        match Level::new(level) {
            Some(level) => Self::Fault(fault, level),
            None => Self::Exception,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "old",
            Self::New => "new",
            Self::Same => "same",
            Self::Neither => "neither",
            Self::Lost => "lost",
            Self::Late => "late",
            Self::Torn => "torn",
            Self::Reordered => "reordered",
            Self::Conflict => "conflict",
            Self::External => "external",
            Self::Exception => "exception",
            Self::Unmarked => "unmarked",
            Self::Spurious => "spurious",
            Self::Stuck => "stuck",
            Self::Escaped => "escaped",
            Self::Alignment => "alignment",
            Self::Tripped => "tripped",
            Self::Lockup => "lockup",
            Self::Fault(fault, level) => return write!(f, "{}-{level}", fault.name()),
        })
    }
}

/// How often one kind was seen in one phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// When.
    pub phase: Phase,
    /// What.
    pub kind: Kind,
    /// How often; never 0 in a report.
    pub count: u64,
}

/// How an instance ended. All but [`End::Done`] come from the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum End {
    /// The payload handed in its report and switched its machine off.
    Done = 0,
    /// The watchdog ended it: it hung, or its exceptions stormed.
    Watchdog = 1,
    /// It took an exception at EL1 that its runtime does not handle.
    Exception = 2,
    /// It took an exception to EL2 that the hypervisor does not serve, a stage 2 fault among them.
    Trap = 3,
    /// It took an SError.
    SError = 4,
    /// It panicked; the log holds the message.
    Panic = 5,
    /// It switched off without a report, or its report was damaged.
    NoReport = 6,
    /// The machine lacks something the instance needs; it was not started.
    Skipped = 7,
    /// A conflict abort came back after every recovery the architecture guarantees.
    Unrecovered = 8,
}

impl End {
    /// All ends.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Watchdog,
        Self::Exception,
        Self::Trap,
        Self::SError,
        Self::Panic,
        Self::NoReport,
        Self::Skipped,
        Self::Unrecovered,
    ];

    /// The end with this number.
    #[must_use]
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// A phrase that fits "it …".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Watchdog => "watchdog",
            Self::Exception => "exception",
            Self::Trap => "trap",
            Self::SError => "serror",
            Self::Panic => "panic",
            Self::NoReport => "no-report",
            Self::Skipped => "skipped",
            Self::Unrecovered => "unrecovered-conflict",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, string::ToString};

    use super::*;

    #[test]
    fn kinds_round_trip_through_their_codes() {
        for code in 0..=u8::MAX {
            if let Some(kind) = Kind::from_code(code) {
                assert_eq!(kind.code(), code);
                assert!(usize::from(code) < Kind::CODES);
            }
        }
        assert_eq!(Kind::all().count(), Kind::PLAIN.len() + Fault::ALL.len() * 5 + Kind::MORE.len());
        let names: BTreeSet<_> = Kind::all().map(|kind| kind.to_string()).collect();
        assert_eq!(names.len(), Kind::all().count());
    }

    #[test]
    fn phases_and_ends_round_trip_through_their_numbers() {
        for phase in Phase::ALL {
            assert_eq!(Phase::from_number(phase as u8), Some(phase));
        }
        for end in End::ALL {
            assert_eq!(End::from_number(end as u8), Some(end));
        }
        assert_eq!(Phase::from_number(3), None);
        assert_eq!(End::from_number(End::ALL.len() as u8), None);
    }

    /// Every fault status code of DDI 0487 table D24-60 that stage 1 can report, by hand.
    #[test]
    fn syndromes_tell_the_kind() {
        let level = |n| Level::new(n).expect("a level");
        for ec in [0x20u64, 0x21, 0x24, 0x25] {
            // ISS bits besides the code, WnR and CM among them, play no part.
            let kind = |fsc: u64| Kind::from_esr(ec << 26 | 1 << 25 | 0x1c0 | fsc);
            for n in 0..4 {
                assert_eq!(kind(n), Kind::Fault(Fault::AddressSize, level(n as i8)));
                assert_eq!(kind(4 + n), Kind::Fault(Fault::Translation, level(n as i8)));
                assert_eq!(kind(8 + n), Kind::Fault(Fault::AccessFlag, level(n as i8)));
                assert_eq!(kind(12 + n), Kind::Fault(Fault::Permission, level(n as i8)));
                assert_eq!(kind(0x14 + n), Kind::External);
            }
            assert_eq!(kind(0x29), Kind::Fault(Fault::AddressSize, level(-1)));
            assert_eq!(kind(0x2b), Kind::Fault(Fault::Translation, level(-1)));
            assert_eq!(kind(0x10), Kind::External);
            assert_eq!(kind(0x13), Kind::External);
            assert_eq!(kind(0x21), Kind::Alignment);
            assert_eq!(kind(0x30), Kind::Conflict);
        }
        for ec in (0..0x40u64).filter(|ec| ![0x20, 0x21, 0x24, 0x25].contains(ec)) {
            assert_eq!(Kind::from_esr(ec << 26 | 0x30), Kind::Exception);
        }
    }
}

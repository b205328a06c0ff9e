//! What the permissions of a leaf allow, and to whom (DDI 0487 D8.4.1, Direct permissions of stage 1, EL1&0 regime).
//!
//! A table of D8.4.1.2.6, as rules: AP\[1\] lets EL0 in, AP\[2\] keeps writes out, PXN and UXN keep fetches out, each
//! for its own Exception level, and what EL0 may write is never executable at EL1 (R_VWLLR). PSTATE.PAN, SCTLR_EL1.WXN
//! and hierarchical permissions of tables are taken to be 0.

use crate::{descriptor::Attributes, rule::HardwareUpdates};

/// Whose an access is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Privilege {
    /// EL1's own.
    El1,
    /// EL0's, or one that EL1 makes with EL0's permissions (LDTR, STTR).
    El0,
}

impl Privilege {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::El1, Self::El0];
}

/// What an access asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operation {
    /// To read data.
    Read,
    /// To write data; an atomic access asks for it too, even if it writes nothing.
    Write,
    /// To fetch an instruction.
    Execute,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Execute];
}

impl Attributes {
    /// Whether a write by those that may access it at all goes through: the mapping is writable, or writable-clean
    /// where hardware manages the dirty state (R_TYCNM).
    #[must_use]
    pub const fn writes(self, hardware: HardwareUpdates) -> bool {
        self.writable || self.dbm && matches!(hardware, HardwareUpdates::Dirty)
    }

    /// Whether its permissions allow `operation` to `privilege` (R_RNGJG, R_LWPVL, R_VWLLR).
    ///
    /// A writable-clean mapping of EL0 is as little executable at EL1 as a writable one (R_NKLQN).
    #[must_use]
    pub const fn permits(self, privilege: Privilege, operation: Operation, hardware: HardwareUpdates) -> bool {
        let writes = self.writes(hardware);
        match (privilege, operation) {
            (Privilege::El1, Operation::Read) => true,
            (Privilege::El1, Operation::Write) => writes,
            (Privilege::El1, Operation::Execute) => self.el1_execute && !(self.el0 && writes),
            (Privilege::El0, Operation::Read) => self.el0,
            (Privilege::El0, Operation::Write) => self.el0 && writes,
            // AP[1] is about data alone.
            (Privilege::El0, Operation::Execute) => self.el0_execute,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{string::String, vec::Vec};

    use super::*;

    /// Table D8-65 with WXN=0, by hand: UXN, PXN and AP\[2:1\]; then what EL1 and EL0 may do.
    const TABLE: [(u8, u8, u8, &str, &str); 16] = [
        (0, 0, 0b00, "rwx", "x"),
        (0, 0, 0b01, "rw", "rwx"),
        (0, 0, 0b10, "rx", "x"),
        (0, 0, 0b11, "rx", "rx"),
        (0, 1, 0b00, "rw", "x"),
        (0, 1, 0b01, "rw", "rwx"),
        (0, 1, 0b10, "r", "x"),
        (0, 1, 0b11, "r", "rx"),
        (1, 0, 0b00, "rwx", ""),
        (1, 0, 0b01, "rw", "rw"),
        (1, 0, 0b10, "rx", ""),
        (1, 0, 0b11, "rx", "r"),
        (1, 1, 0b00, "rw", ""),
        (1, 1, 0b01, "rw", "rw"),
        (1, 1, 0b10, "r", ""),
        (1, 1, 0b11, "r", "r"),
    ];

    fn allowed(attributes: Attributes, privilege: Privilege, hardware: HardwareUpdates) -> String {
        let operations = Operation::ALL.into_iter().zip(['r', 'w', 'x']);
        operations.filter(|(o, _)| attributes.permits(privilege, *o, hardware)).map(|(_, letter)| letter).collect()
    }

    fn row((uxn, pxn, ap, ..): (u8, u8, u8, &str, &str)) -> Attributes {
        Attributes {
            el0_execute: uxn == 0,
            el1_execute: pxn == 0,
            writable: ap & 0b10 == 0,
            el0: ap & 0b01 != 0,
            ..Attributes::NORMAL_RW
        }
    }

    #[test]
    fn permissions_are_those_of_the_manual_s_table() {
        for entry in TABLE {
            for hardware in HardwareUpdates::ALL {
                let seen = Privilege::ALL.map(|privilege| allowed(row(entry), privilege, hardware));
                assert_eq!(seen, [entry.3, entry.4], "{entry:?}");
            }
        }
        let mut inputs: Vec<_> = TABLE.iter().map(|(uxn, pxn, ap, ..)| (uxn, pxn, ap)).collect();
        inputs.dedup();
        assert_eq!(inputs.len(), 16);
    }

    /// DBM makes a read-only mapping writable exactly where hardware manages the dirty state.
    #[test]
    fn writable_clean_is_writable() {
        for entry in TABLE {
            let clean = Attributes { writable: false, dbm: true, ..row(entry) };
            for hardware in HardwareUpdates::ALL {
                let as_good_as = Attributes { writable: hardware == HardwareUpdates::Dirty, dbm: false, ..clean };
                for privilege in Privilege::ALL {
                    assert_eq!(
                        allowed(clean, privilege, hardware),
                        allowed(as_good_as, privilege, hardware),
                        "{entry:?} with {hardware:?}"
                    );
                }
            }
        }
    }
}

//! Tests that need QEMU, where there may be none.
//!
//! On a machine without QEMU they are reported as ignored, each with the reason, and never as passed. A QEMU that is
//! there and cannot be used, or was named in `SHATTER_QEMU`, is a failure.

use libtest_mimic::{Completion, Failed};
use shatter_runner::{
    doctor,
    platform::qemu::{self, Qemu},
};

/// Why there is no QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Absent {
    why: String,
    /// Nobody said that there should be one.
    excused: bool,
}

impl Absent {
    /// What a test that needs it comes to.
    pub(crate) fn completion(&self) -> Result<Completion, Failed> {
        if self.excused { Ok(Completion::ignored_with(&self.why)) } else { Err(self.why.clone().into()) }
    }
}

/// QEMU, if there is one.
pub(crate) fn find_qemu() -> Result<Qemu, Absent> {
    Qemu::find().map_err(|error| {
        let excused = matches!(error, qemu::Error::Missing { .. }) && !qemu::is_named();
        let why = if excused {
            format!("{error}; {}", doctor::hint(&error))
        } else {
            format!("{error}\n\n{}", doctor::advice(&error))
        };
        Absent { why, excused }
    })
}

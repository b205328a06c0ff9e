//! `shatter audit`: the suite tested against itself, on the model.

mod agreement;
mod defects;
mod endurance;
mod kept;
mod mutants;
mod profiles;

use std::io;

use model::a64::differential;
use vmsa::BbmLevel;

use crate::{
    cli::Exit,
    doctor,
    plan::NothingMatches,
    platform::{model::Unknown, qemu},
    target::Failure,
};

/// What to test.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Audit {
    /// Sound CPUs: no instance may fail on any of the model's profiles, whatever the seed
    Profiles(profiles::Args),
    /// CPUs with one mistake each: which families find it, and how many seeds they need
    Defects(defects::Args),
    /// Wrong software: every mistake in an update sequence must be caught on one of the model's profiles
    Mutants(mutants::Args),
    /// Endurance: thousands of changes that the hypervisor itself makes, in one boot, and every selftest behind them
    Endurance(endurance::Args),
    /// Agreement with QEMU: the same outcomes of the catalogue, the same effects of single instructions
    Agreement(agreement::Args),
}

/// Why nothing was tested, or the report is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was selected.
    #[error(transparent)]
    Nothing(#[from] NothingMatches),
    /// No selected instance changes anything by a defined sequence.
    #[error("nothing of what was selected makes a change by a sequence that could be wrong")]
    NoMutants,
    /// Nothing of what was selected is hv's to change.
    #[error("nothing of what was selected is a change that the hypervisor itself makes (regimes s2 and el2)")]
    NothingOfHv,
    /// The machine could run nothing of what was selected.
    #[error("all that was selected was skipped, so that nothing was tested")]
    OnlySkips,
    /// There is no such defect.
    #[error(transparent)]
    Defect(#[from] Unknown),
    /// There is no usable QEMU.
    #[error("{source}\n\n{}", doctor::advice(source))]
    Qemu {
        /// What is the matter.
        #[from]
        source: qemu::Error,
    },
    /// QEMU has no such CPU.
    #[error("QEMU has no AArch64 CPU with EL2 called `{name}`; it has {}", known.join(", "))]
    UnknownCpu {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// What a CPU may do depends on its level, so that two of different levels cannot be compared.
    #[error("QEMU's {name} has BBM level {level}, the model's profile {wanted}; compare with a CPU of that level: max")]
    Level {
        /// QEMU's CPU.
        name: String,
        /// Its level.
        level: BbmLevel,
        /// The profile's.
        wanted: BbmLevel,
    },
    /// Single instructions could not be compared.
    #[error(transparent)]
    Instructions(#[from] differential::Error),
    /// What was seen before cannot be added to, or what was seen now not be kept.
    #[error(transparent)]
    Kept(#[from] kept::Error),
    /// A plan was not carried through.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The report could not be written.
    #[error("failed to write the report: {0}")]
    Report(#[from] io::Error),
}

impl Error {
    /// The exit code that stands for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Nothing(_) | Self::NoMutants | Self::NothingOfHv | Self::OnlySkips => Exit::NothingSelected,
            Self::Defect(_) | Self::UnknownCpu { .. } | Self::Level { .. } => Exit::Usage,
            Self::Kept(kept::Error::Another { .. } | kept::Error::Damaged { .. }) => Exit::Usage,
            Self::Kept(kept::Error::Io { .. })
            | Self::Qemu { .. }
            | Self::Instructions(_)
            | Self::Failure(_)
            | Self::Report(_) => Exit::Platform,
        }
    }
}

/// Runs the audit and writes its report to `out`.
///
/// # Errors
/// If nothing was selected, a name is unknown, or `out` cannot be written.
pub fn main(audit: &Audit, out: &mut dyn io::Write) -> Result<Exit, Error> {
    match audit {
        Audit::Profiles(args) => profiles::main(args, out),
        Audit::Defects(args) => defects::main(args, out),
        Audit::Mutants(args) => mutants::main(args, out),
        Audit::Endurance(args) => endurance::main(args, out),
        Audit::Agreement(args) => agreement::main(args, out),
    }
}

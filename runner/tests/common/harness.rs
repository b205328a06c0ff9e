//! Plain functions as tests, some of which need QEMU.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

use crate::common::find_qemu;

/// A test's name and what it does. It fails by a panic.
pub(crate) type Test = (&'static str, fn());

/// The functions of these names as tests.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn())),*] };
}

/// Runs the tests that were asked for.
pub(crate) fn main(anywhere: &'static [Test], with_qemu: &'static [Test]) -> ExitCode {
    let arguments = Arguments::from_args();
    // Listing tests needs no QEMU.
    let absent = if arguments.list { None } else { find_qemu().err() };
    let anywhere = anywhere.iter().map(|&(name, test)| (name, test, None));
    let with_qemu = with_qemu.iter().map(|&(name, test)| (name, test, absent.clone()));
    let trial = |(name, test, absent): (_, fn(), Option<crate::common::Absent>)| {
        Trial::ignorable_test(name, move || match absent {
            Some(absent) => absent.completion(),
            None => {
                test();
                Ok(Completion::Completed)
            }
        })
    };
    libtest_mimic::run(&arguments, anywhere.chain(with_qemu).map(trial).collect()).exit_code()
}

//! The end: what the plan asks for, by the means this machine has.

use aarch64_cpu::registers::{CurrentEL, Readable};
use qemu_exit::QEMUExit;
use smccc::{Hvc, Smc, psci};
use wire::plan::AtEnd;

use crate::{
    boot::{boot, halt},
    console,
    platform::{Conduit, Machine},
};

fn system_off(conduit: Conduit) {
    // An error leaves the machine on, where the caller's halt takes over.
    let _ = match conduit {
        Conduit::Smc => psci::system_off::<Smc>(),
        Conduit::Hvc if own_el() == 1 => psci::system_off::<Hvc>(),
        Conduit::Hvc | Conduit::None => return,
    };
}

/// The EL this runs at. HVC at EL2 would be a call to hv itself, and no way to firmware.
fn own_el() -> u64 {
    CurrentEL.read(CurrentEL::EL)
}

fn system_reset(conduit: Conduit) {
    let _ = match conduit {
        Conduit::Smc => psci::system_reset::<Smc>(),
        Conduit::Hvc if own_el() == 1 => psci::system_reset::<Hvc>(),
        Conduit::Hvc | Conduit::None => return,
    };
}

/// Switches off, or stops where that cannot be had; usable before anything is set up.
pub(crate) fn off_early(machine: &Machine) -> ! {
    system_off(machine.psci);
    halt()
}

/// Ends the run as the plan says. `semihosting` tells that a debugger or emulator listens to semihosting calls,
/// which then also get the exit status: `success` or not.
pub(crate) fn end(how: AtEnd, semihosting: bool, success: bool) -> ! {
    let conduit = boot().machine.psci;
    console::drain();
    match how {
        AtEnd::Halt => halt(),
        AtEnd::Reset => system_reset(conduit),
        AtEnd::Off if semihosting => qemu_exit::AArch64::new().exit(u32::from(!success)),
        AtEnd::Off => system_off(conduit),
    }
    halt()
}

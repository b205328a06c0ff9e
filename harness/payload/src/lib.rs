//! What a payload is built on.
//!
//! A payload runs one instance in a fresh VM: hv loads its flat image, enters it at EL1 with the MMU off, and
//! the instance's id tells it everything else. It builds its own stage 1 tables, starts the other vCPU where the
//! observer is remote, makes its rounds, counts what every access saw, and hands the histogram to hv. It never
//! judges itself.
//!
//! Its own code, stacks, tables and counters are translated by TTBR0; what a case changes is the *window*, alone
//! in TTBR1, over frames that TTBR0 shows a second time as an *alias*. So whatever the CPU makes of the window,
//! the runtime can look behind it.
//!
//! A family's binary is one line, `family!`, that names the function which runs its instances: `round::run`
//! for every family of cases, whatever they change, and `selftest::run`. Behind them:
//!
//! * `boot`: entry, relocation, MMU; vCPUs that join;
//! * `exceptions`: vectors, probes that faulted, TLB conflict aborts and their recovery;
//! * `tables`: the pool of tables and the mapper, for any granule;
//! * `window`: window, frames and their contents; what an access tells;
//! * `tally`, `cpu`: counters that one vCPU writes and another may read;
//! * `hypercall`: calls to hv.
//!
//! On hosts the crate is empty.
#![no_std]
#![cfg(target_os = "none")]

pub mod boot;
mod cpu;
mod exceptions;
mod hypercall;
pub mod round;
pub mod selftest;
mod tables;
mod tally;
mod window;

/// The whole of a payload binary: its [`Payload`] and the function that runs an instance of
/// it, `fn(boot::Vm) -> !`.
#[macro_export]
macro_rules! payload {
    ($payload:ident, $run:path) => {
        // SAFETY: a binary uses this macro once, and nothing else in it has the name.
        #[unsafe(no_mangle)]
        fn payload_main(vm: $crate::boot::Vm) -> ! {
            vm.belongs_to($crate::Payload::$payload);
            $run(vm)
        }
    };
}

#[doc(hidden)]
pub use vmsa::instance::Payload;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hypercall::panicked(format_args!("vCPU {}: {info}", cpu::index()))
}

//! hv: the minimal EL2 image that boots every test as its own payload.
//!
//! One position-independent flat Image with the arm64 Linux header. It finds everything about the machine in the
//! DTB, takes its payloads and its plan from the initrd (or the plan from the bootargs), and for each CPU type and
//! each instance builds a fresh VM, runs it, and writes what came of it to the console as KTAP and as records.
//!
//! * `boot`: entry, EL3 to EL2, MMU; `platform`: the DTB; `mmu`: EL2's own tables;
//! * `host`: EL2 with E2H; `lab`: what changes under a running VM, `own` under hv itself;
//! * `smp`: CPUs; `gic`: timer and wake-up interrupts;
//! * `vm`: the VM's life, `stage2` its tables, `vcpu` its registers, `trap` what is emulated;
//! * `conflict`, `exception`: TLB conflict aborts;
//! * `bundle`, `suite`: what to run; `console`: what came of it; `power`: the end.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod bundle;
#[cfg(target_os = "none")]
mod conflict;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod exception;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod lab;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod mmu;
#[cfg(target_os = "none")]
mod own;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod power;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod stage2;
#[cfg(target_os = "none")]
mod suite;
#[cfg(target_os = "none")]
mod trap;
#[cfg(target_os = "none")]
mod vcpu;
#[cfg(target_os = "none")]
mod vm;

/// On hosts the crate is empty, so that the workspace builds and tests as a whole.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("hv is built for aarch64-unknown-none-softfloat; `cargo run` in the workspace does that");
}

/// Where the Image stands.
#[cfg(target_os = "none")]
fn image() -> platform::Range {
    boot::boot().image
}

/// Called by boot.S on the boot CPU, with the MMU on.
#[cfg(target_os = "none")]
extern "C" fn boot_main() -> ! {
    let boot = boot::boot();
    console::use_uart(boot.machine.uart);
    gic::init(&boot.machine);
    smp::init_this_cpu(0);
    smp::publish_boot_data();
    suite::run(boot)
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::fatal(format_args!("hv: {info}"));
    suite::end_after_panic()
}

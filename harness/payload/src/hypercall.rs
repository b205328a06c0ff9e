//! Calls to hv.

use core::fmt::{self, Write};

use arch::probe::Probed;
use smccc::{Hvc, hvc64, psci};
use vmsa::{instance::Access, mark::Marks};
use wire::{
    abi::call,
    frame,
    record::{Report, Text},
};

/// Any call, any arguments. Returns x0.
pub(crate) fn call(function: u32, x1: u64, x2: u64, x3: u64) -> u64 {
    call_of_five(function, [x1, x2, x3, 0, 0])
}

fn call_of_five(function: u32, first: [u64; 5]) -> u64 {
    all_of(function, first)[0]
}

/// All that comes back, x0 first.
fn all_of(function: u32, first: [u64; 5]) -> [u64; 18] {
    let mut arguments = [0; 17];
    arguments[..5].copy_from_slice(&first);
    hvc64(function, arguments)
}

/// An access that hv made at EL2.
pub(crate) struct Came {
    pub(crate) probed: Probed,
    pub(crate) far: u64,
    pub(crate) pc: u64,
    /// Whether it was an exclusive one that did not store.
    pub(crate) failed: bool,
}

/// Has hv make an access to the window in its own translation; see [`call::LAB_ACCESS`].
pub(crate) fn lab_access(access: Access, va: u64, token: u64) -> Came {
    let [result, value, esr, far, pc, failed, ..] = all_of(call::LAB_ACCESS, [access as u64, va, token, 0, 0]);
    assert!(result == 0, "hv makes no such access");
    Came { probed: Probed { value, esr }, far, pc, failed: failed != 0 }
}

/// Has hv drop what this PE's TLB holds for EL2 of `va`: the last level, or all.
pub(crate) fn lab_drop(va: u64, all: bool) {
    let result = call(call::LAB_DROP, va, all.into(), 0);
    assert!(result == 0, "hv has no such window");
}

/// Has hv load from `pages` pages besides the window.
pub(crate) fn lab_press(pages: u16) {
    let result = call(call::LAB_PRESS, pages.into(), 0, 0);
    assert!(result == 0, "hv has no such pages");
}

/// Has hv execute steps of a change that is its own; see [`call::LAB_STEPS`].
pub(crate) fn lab_steps(site: u64, letters: [u8; 16], named: u64, how: u64) {
    let [low, high] = [0, 8].map(|at| u64::from_le_bytes(core::array::from_fn(|i| letters[at + i])));
    let result = call_of_five(call::LAB_STEPS, [site, low, high, named, how]);
    assert!(result == 0, "hv does not make the change");
}

/// The marks in the descriptor that maps `offset` bytes into a site, and the descriptor.
pub(crate) fn lab_marks(site: u64, offset: u64) -> (Marks, u64) {
    let [result, marks, descriptor, ..] = all_of(call::LAB_MARKS, [site, offset, 0, 0, 0]);
    assert!(result == 0, "hv has no such descriptor");
    (Marks::from_bits_truncate(marks as u8), descriptor)
}

/// Goes on under the other VMID, or under the usual one again.
pub(crate) fn lab_vmid(other: bool) {
    let result = call(call::LAB_VMID, other.into(), 0, 0);
    assert!(result == 0, "hv does not switch the VMID");
}

/// Which vCPUs wait at EL2 for a change of stage 2, a bit each.
pub(crate) fn lab_waiting() -> u64 {
    call(call::LAB_WAITING, 0, 0, 0)
}

fn call_with(function: u32, bytes: &[u8]) {
    call(function, bytes.as_ptr() as u64, bytes.len() as u64, 0);
}

/// `arguments` as text, cut where a log line ends.
fn text(arguments: fmt::Arguments<'_>) -> Text {
    /// Takes what fits.
    struct Cut(Text);
    impl Write for Cut {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            s.chars().try_for_each(|c| self.0.try_push(c)).map_err(|_| fmt::Error)
        }
    }
    let mut cut = Cut(Text::new());
    // An error only says that the line is full.
    let _ = cut.write_fmt(arguments);
    cut.0
}

/// Writes a line to hv's log.
pub(crate) fn log(arguments: fmt::Arguments<'_>) {
    call_with(call::LOG, text(arguments).as_bytes());
}

/// Ends the VM with a message.
pub(crate) fn panicked(arguments: fmt::Arguments<'_>) -> ! {
    call_with(call::PANIC, text(arguments).as_bytes());
    stop()
}

/// Hands `report` in. `keep` says how many of its encoded bytes are handed over, for the selftest that dies halfway.
pub(crate) fn report(report: &Report, keep: impl FnOnce(usize) -> usize) {
    let mut body = [0; frame::MAX_BODY];
    match frame::encode_report(report, &mut body) {
        Ok(len) => call_with(call::REPORT, &body[..keep(len)]),
        Err(error) => panicked(format_args!("no report: {error}")),
    }
}

/// Encodes `report` into `body` and returns its length there, for whoever hands it in by other means.
pub(crate) fn encode(report: &Report, body: &mut [u8; frame::MAX_BODY]) -> usize {
    frame::encode_report(report, body).unwrap_or_else(|error| panicked(format_args!("no report: {error}")))
}

/// Asks hv for a TLBI that EL1 cannot issue itself: of every VMID if `all`, else of its own.
pub(crate) fn recover_conflict(all: bool) {
    call(call::RECOVER_CONFLICT, u64::from(all), 0, 0);
}

/// Starts the vCPU with this MPIDR at `entry` with `context` in x0. Says whether hv accepted.
pub(crate) fn cpu_on(mpidr: u64, entry: u64, context: u64) -> bool {
    psci::cpu_on::<Hvc>(mpidr, entry, context).is_ok()
}

/// Switches this vCPU off.
pub(crate) fn cpu_off() -> ! {
    // It only returns where it is refused, and then hv's watchdog is what is left.
    let _ = psci::cpu_off::<Hvc>();
    stop()
}

/// Switches the VM off.
pub(crate) fn system_off() -> ! {
    let _ = psci::system_off::<Hvc>();
    stop()
}

fn stop() -> ! {
    loop {
        arch::barrier::spin();
    }
}

//! The machine: PEs, memory and devices, and the loop that runs them.
//!
//! One machine is one thread and deterministic: with the same [`Config`] it makes the same run, down to the last
//! choice of its TLBs. It is what firmware would hand over: PE 0 at EL2 with the MMU off and the DTB in x0, the
//! others off until PSCI's CPU_ON.
//!
//! What it does not model: data and instruction caches (memory is coherent, cache maintenance only faults or not),
//! memory ordering between PEs' accesses to memory (each instruction's accesses happen at once, in program order;
//! what is not in order is what the TLBs and walkers make of it), EL3, AArch32, FP and SIMD, debug, and SPIs.

use std::fmt;

use wire::abi::Part;

use crate::{
    a64::{Size, Stop, SysReg, disassemble},
    choice::Choices,
    exception, fdt,
    gic::Gic,
    memory::{Memory, PAGE, Unwalked},
    mmu,
    pe::{Core, GRANULE, Pe, Wait},
    psci::Power,
    schedule, timer,
    trace::{Log, Marks},
    uart::Uart,
};

pub use crate::{memory::RAM_BASE, timer::FREQUENCY};

/// Most PEs of a machine: a GICv2 has 8 interfaces.
pub const MAX_CPUS: usize = 8;
/// Where the Image and the DTB start: boundaries of this many bytes.
const BOUNDARY: u64 = 2 << 20;
/// Where an arm64 Image's header has its size with zero-initialised data, and its magic.
const IMAGE_SIZE: usize = 0x10;
const IMAGE_MAGIC: usize = 0x38;
/// Exceptions that a PE may take at its own EL without a return from one. Software that recovers returns long before.
const NESTED_EXCEPTIONS: u32 = 100_000;
/// Console output is handed on when there is this much of it, or a line ended.
const CONSOLE_BYTES: usize = 4096;

/// What a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Number of PEs, 1 to [`MAX_CPUS`].
    pub cpus: usize,
    /// Bytes of RAM. What is not touched costs nothing.
    pub memory: u64,
    /// The CPUs, of which there is at least one: the PEs have them in turn.
    pub profiles: &'a [mmu::Profile],
    /// Decides every choice.
    pub seed: u64,
    /// An arm64 Image.
    pub image: &'a [u8],
    /// The initrd.
    pub bundle: &'a [u8],
    /// For the kernel command line.
    pub bootargs: &'a str,
}

impl Config<'_> {
    /// RAM where nothing else is asked for.
    pub const MEMORY: u64 = 3 << 30;
}

/// Why a machine cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Too few or too many PEs.
    #[error("a machine has 1 to {MAX_CPUS} CPUs, not {0}")]
    Cpus(usize),
    /// There is no CPU, or one that no PE would have.
    #[error("a machine of {cpus} CPUs has at least one type and at most {cpus} types of them, not {types}")]
    Types {
        /// PEs.
        cpus: usize,
        /// Profiles.
        types: usize,
    },
    /// The Image has no header, or a wrong one.
    #[error("the Image is no arm64 Image: it lacks the magic at offset 0x38")]
    Image,
    /// Image, DTB and bundle do not fit.
    #[error("{memory:#x} bytes of RAM are too little for the Image and the bundle, which take {needed:#x}")]
    Memory {
        /// Bytes there are.
        memory: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// The bootargs cannot be put into a DTB.
    #[error("the bootargs hold a NUL")]
    Bootargs,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// PSCI SYSTEM_OFF.
    Off,
    /// PSCI SYSTEM_RESET.
    Reset,
    /// Semihosting's exit, with this status.
    Exit(i32),
    /// The limit on instructions was reached; the machine can go on.
    Limit,
    /// Every PE sleeps or is off, and no timer will wake one.
    AllAsleep,
    /// A PE came to something that the model does not know.
    Unknown(Unknown),
    /// A PE takes exception after exception at its own EL, returns from none, and nothing will interrupt it.
    Storm(Storm),
}

/// Exceptions without end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Storm {
    /// ESR_ELx, FAR_ELx and ELR_ELx of the first of them, which is the one to look into.
    pub first: [u64; 3],
    /// What the PE is at now.
    pub state: State,
}

/// What a PE is at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Its number.
    pub cpu: usize,
    /// Its EL, of which the registers are that tell of exceptions; EL1 for EL0.
    pub el: u8,
    /// Address of its next instruction.
    pub pc: u64,
    /// ESR_ELx.
    pub esr: u64,
    /// FAR_ELx.
    pub far: u64,
    /// ELR_ELx.
    pub elr: u64,
    /// x0 to x30.
    pub x: Vec<u64>,
}

/// Where and what it was that the model does not know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unknown {
    /// Number of the PE.
    pub cpu: usize,
    /// Its EL.
    pub el: u8,
    /// Address of the instruction.
    pub pc: u64,
    /// The instruction.
    pub word: u32,
    /// The register, where that is unknown rather than the instruction.
    pub register: Option<SysReg>,
    /// x0 to x30.
    pub x: Vec<u64>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, el, pc, word, register, x } = self;
        let text = disassemble(*word, *pc);
        write!(f, "the model does not know {word:#010x} ({text}) at {pc:#x} on PE {cpu} at EL{el}")?;
        if let Some(register) = register {
            write!(f, ": register {register}")?;
        }
        write_registers(f, x)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, el, pc, esr, far, elr, x } = self;
        let of = (*el).max(1);
        write!(f, "PE {cpu} at EL{el}, PC {pc:#x} ESR_EL{of} {esr:#x} FAR_EL{of} {far:#x} ELR_EL{of} {elr:#x}")?;
        write_registers(f, x)
    }
}

/// x0 and on, four a line.
fn write_registers(f: &mut fmt::Formatter<'_>, x: &[u64]) -> fmt::Result {
    for (n, value) in x.iter().enumerate() {
        write!(f, "{}x{n}={value:#x}", if n % 4 == 0 { "\n  " } else { " " })?;
    }
    Ok(())
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("the software switched the machine off"),
            Self::Reset => f.write_str("the software reset the machine"),
            Self::Exit(status) => write!(f, "the software ended with status {status}"),
            Self::Limit => f.write_str("the limit on instructions was reached"),
            Self::AllAsleep => f.write_str("every PE sleeps and nothing will wake one"),
            Self::Unknown(unknown) => unknown.fmt(f),
            Self::Storm(Storm { first: [esr, far, elr], state }) => {
                let el = state.el;
                write!(
                    f,
                    "exceptions without end, the first with ESR_EL{el} {esr:#x} FAR_EL{el} {far:#x} ELR_EL{el} {elr:#x}; "
                )?;
                state.fmt(f)
            }
        }
    }
}

/// Where a PE is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Address of the next instruction.
    pub pc: u64,
    /// Its EL.
    pub el: u8,
    /// Whether it is switched on.
    pub on: bool,
    /// Whether it sleeps, by WFE or WFI.
    pub waits: bool,
}

/// What the PEs share.
pub(crate) struct Shared {
    pub(crate) memory: Memory,
    pub(crate) gic: Gic,
    pub(crate) uart: Uart,
    pub(crate) choices: Choices,
    pub(crate) mmus: Vec<mmu::Mmu>,
    /// The physical counter at the beginning of the turn.
    pub(crate) now: u64,
    pub(crate) power: Vec<Power>,
    /// For each PE the block, by number, that its exclusive monitor marks.
    pub(crate) monitors: [Option<u64>; MAX_CPUS],
    /// Whether any of them may.
    monitored: bool,
    /// Event registers, a bit each.
    pub(crate) events: u8,
    /// Stores that walkers may not see.
    pub(crate) unwalked: Unwalked,
    /// Whether walkers may lag behind stores at all.
    lagging_walks: bool,
    /// Whether a store has to look at `monitors` and `unwalked`.
    pub(crate) watches_stores: bool,
    /// PEs that run, a bit each.
    runnable: u8,
    /// Output that was not handed on yet.
    pub(crate) console: Vec<u8>,
    /// Semihosting's last error.
    pub(crate) errno: u64,
    /// Set by what ends the machine.
    pub(crate) end: Option<End>,
}

impl Shared {
    /// Whether more than one PE runs.
    #[inline]
    pub(crate) const fn several_run(&self) -> bool {
        !self.runnable.is_power_of_two()
    }

    /// Sets the event register of PE `number`.
    pub(crate) const fn event(&mut self, number: usize) {
        self.events |= 1 << number;
    }

    /// SEV.
    pub(crate) const fn event_everywhere(&mut self) {
        self.events = u8::MAX;
    }

    /// Clears the event register of PE `number`; whether it was set.
    pub(crate) const fn take_event(&mut self, number: usize) -> bool {
        let was = self.events >> number & 1 != 0;
        self.events &= !(1 << number);
        was
    }

    /// To be called when `monitors` changed.
    pub(crate) fn update_watch(&mut self) {
        self.monitored = self.monitors.iter().any(Option::is_some);
        self.watches_stores = self.lagging_walks || self.choices.log().is_some() || self.monitored;
    }

    /// What a store by PE `number` does to others' monitors, and to what walkers see.
    pub(crate) fn watch_store(&mut self, number: usize, pa: u64, size: Size) {
        if self.monitored {
            let Self { monitors, events, .. } = self;
            clear_monitors(monitors, events, pa, size, Some(number));
        }
        if self.lagging_walks
            && size == Size::B8
            && self.memory.has_tables(pa)
            && let Some(before) = self.memory.read(pa, size)
        {
            self.unwalked.note(number, pa, before);
        }
    }
}

/// Clears the monitors that mark any of `size` bytes at `pa`, but that of the PE `by`; whose is cleared has an event.
fn clear_monitors(monitors: &mut [Option<u64>; MAX_CPUS], events: &mut u8, pa: u64, size: Size, by: Option<usize>) {
    // An unaligned store may reach into a second block.
    let blocks = pa / GRANULE..=(pa + size.bytes() - 1) / GRANULE;
    for (other, monitor) in monitors.iter_mut().enumerate() {
        if by != Some(other) && monitor.is_some_and(|block| blocks.contains(&block)) {
            *monitor = None;
            *events |= 1 << other;
        }
    }
}

/// Memory as table walkers see it.
pub(crate) struct Tables<'a> {
    pub(crate) memory: &'a mut Memory,
    pub(crate) unwalked: &'a Unwalked,
    pub(crate) monitors: &'a mut [Option<u64>; MAX_CPUS],
    pub(crate) events: &'a mut u8,
    /// Number of the PE that walks.
    pub(crate) walker: usize,
    /// [`Defect::UpdateKeepsMonitors`](mmu::Defect::UpdateKeepsMonitors).
    pub(crate) keeps_monitors: bool,
}

impl mmu::TableMemory for Tables<'_> {
    fn read64(&self, pa: u64) -> Option<u64> {
        self.memory.walk(pa)
    }

    fn contents(&self, pa: u64) -> Option<u64> {
        self.memory.read(pa, Size::B8)
    }

    fn before(&self, pa: u64, nth: usize) -> Option<u64> {
        self.unwalked.before(self.walker, pa, nth)
    }

    fn before_synchronisation(&self, pa: u64) -> Option<u64> {
        self.unwalked.before_synchronisation(self.walker, pa)
    }

    fn cas64(&mut self, pa: u64, old: u64, new: u64) -> bool {
        let stored = self.read64(pa) == Some(old) && self.memory.write(pa, Size::B8, new).is_some();
        if stored && !self.keeps_monitors {
            // No PE's store-exclusive may write over an update that it has not read, the walking PE's included.
            clear_monitors(self.monitors, self.events, pa, Size::B8, None);
        }
        stored
    }
}

/// The machine.
pub struct Machine {
    pes: Vec<Pe>,
    shared: Shared,
    instructions: u64,
}

impl Machine {
    /// A machine that is about to execute the first instruction of `config.image`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(config: &Config<'_>) -> Result<Self, Error> {
        let &Config { cpus, memory, profiles, seed, image, bundle, bootargs } = config;
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(Error::Cpus(cpus));
        }
        if !(1..=cpus).contains(&profiles.len()) {
            return Err(Error::Types { cpus, types: profiles.len() });
        }
        if image.get(IMAGE_MAGIC..IMAGE_MAGIC + 4) != Some(b"ARM\x64") {
            return Err(Error::Image);
        }
        let size = image[IMAGE_SIZE..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let entry = RAM_BASE + BOUNDARY;
        let dtb_at = (entry + size.max(image.len() as u64)).next_multiple_of(BOUNDARY);
        let bundle_at = dtb_at + BOUNDARY;
        let initrd = (bundle_at, bundle.len() as u64);
        let dtb = fdt::write(&fdt::Contents { cpus, memory: memory.next_multiple_of(PAGE), bootargs, initrd })
            .map_err(|_| Error::Bootargs)?;
        let mut ram = Memory::new(memory);
        for (at, bytes) in [(entry, image), (dtb_at, &dtb), (bundle_at, bundle)] {
            let needed = (bundle_at + bundle.len() as u64).saturating_sub(RAM_BASE);
            ram.load(at, bytes).ok_or(Error::Memory { memory, needed })?;
        }
        let profiles = || profiles.iter().copied().cycle().take(cpus);
        let mut pes: Vec<_> = profiles().enumerate().map(|(number, profile)| Pe::new(number, &profile)).collect();
        pes[0].start(entry, dtb_at);
        let mut power = vec![Power::Off; cpus];
        power[0] = Power::On;
        let lagging_walks = profiles().any(|profile| profile.early_walk != crate::choice::Odds::NEVER);
        let mut mmus: Vec<_> = profiles().map(mmu::Mmu::new).collect();
        let mut choices = Choices::new(seed);
        for (pe, mmu) in pes.iter().zip(&mut mmus) {
            mmu.context_sync(&pe.context, &mut choices);
        }
        let shared = Shared {
            memory: ram,
            gic: Gic::new(cpus),
            uart: Uart::default(),
            choices,
            mmus,
            now: 0,
            power,
            monitors: [None; MAX_CPUS],
            monitored: false,
            events: 0,
            unwalked: Unwalked::default(),
            lagging_walks,
            watches_stores: lagging_walks,
            runnable: 1,
            console: Vec::with_capacity(CONSOLE_BYTES),
            errno: 0,
            end: None,
        };
        Ok(Self { pes, shared, instructions: 0 })
    }

    /// Keeps a log from now on, to set its last events aside in `marks` wherever the software marks an outcome. The run
    /// is the same with it and without.
    pub fn trace(&mut self, marks: Marks) {
        self.shared.choices.trace_to(Log::new(marks));
        self.shared.update_watch();
        for pe in &mut self.pes {
            pe.watch_accesses();
        }
    }

    /// Executes up to `limit` instructions. What the software prints goes to `console`.
    pub fn run(&mut self, limit: u64, console: &mut dyn FnMut(&[u8])) -> End {
        let last = self.instructions.saturating_add(limit);
        let end = loop {
            if let Some(end) = self.shared.end.take() {
                break end;
            }
            if self.shared.console.ends_with(b"\n") || self.shared.console.len() >= CONSOLE_BYTES {
                console(&self.shared.console);
                self.shared.console.clear();
            }
            self.wake();
            if self.shared.runnable == 0 {
                // Time passes until a timer wakes someone.
                match self.next_event() {
                    Some(time) => self.shared.now = time,
                    None => break End::AllAsleep,
                }
                continue;
            }
            if self.instructions >= last {
                break End::Limit;
            }
            let (number, turn) = schedule::turn(self.shared.runnable, &mut self.shared.choices);
            let mut core = Core { pe: &mut self.pes[number], shared: &mut self.shared };
            match core.run(turn) {
                Ok(ticks) => {
                    self.shared.now += u64::from(ticks);
                    self.instructions += u64::from(ticks);
                    self.pes[number].executed += u64::from(ticks);
                }
                Err(stop) => break self.stopped(number, stop),
            }
            if self.pes[number].nested >= NESTED_EXCEPTIONS && self.is_hopeless(number) {
                let pe = &self.pes[number];
                break End::Storm(Storm { first: pe.first_nested, state: self.state(pe) });
            }
        };
        console(&self.shared.console);
        self.shared.console.clear();
        end
    }

    /// Updates timers' lines, starts PEs that were switched on, and ends sleeps that have a reason to end.
    fn wake(&mut self) {
        let Self { pes, shared, .. } = self;
        let mut runnable = 0;
        for pe in pes {
            let number = pe.number;
            if let Power::Pending { entry, context } = shared.power[number] {
                pe.reset();
                pe.start(entry, context);
                shared.mmus[number].context_sync(&pe.context, &mut shared.choices);
                shared.power[number] = Power::On;
            }
            if shared.power[number] != Power::On {
                continue;
            }
            shared.gic.set_levels(number, timer::levels(&pe.registers, shared.now));
            let awake = match pe.wait {
                Wait::No => true,
                Wait::Interrupt => shared.gic.asserted(number) || exception::virtual_pending(&pe.registers),
                Wait::Event => {
                    shared.gic.asserted(number)
                        || exception::virtual_pending(&pe.registers)
                        || shared.take_event(number)
                }
            };
            if awake {
                pe.wait = Wait::No;
                runnable |= 1 << number;
            }
        }
        shared.runnable = runnable;
    }

    /// When the next timer's line of a PE that is on rises.
    fn next_event(&self) -> Option<u64> {
        let on = self.pes.iter().filter(|pe| self.shared.power[pe.number] == Power::On);
        on.filter_map(|pe| timer::next(&pe.registers, self.shared.now)).min()
    }

    /// Whether nothing can end PE `number`'s exceptions. At EL2 nothing does, since taking one masks interrupts. At
    /// EL1 a timer of EL2 may, or another PE that does more than take exceptions itself, or is woken by a timer.
    fn is_hopeless(&self, number: usize) -> bool {
        let busy = |pe: &Pe| self.shared.runnable >> pe.number & 1 != 0 && pe.nested < NESTED_EXCEPTIONS;
        let quiet = |pe: &Pe| timer::levels(&pe.registers, self.shared.now) == 0;
        self.pes[number].mode.el == 2 || self.next_event().is_none() && self.pes.iter().all(|pe| quiet(pe) && !busy(pe))
    }

    fn state(&self, pe: &Pe) -> State {
        let [esr, far, elr] = pe.registers.syndrome(pe.mode.el);
        State { cpu: pe.number, el: pe.mode.el, pc: pe.pc, esr, far, elr, x: pe.x[..31].to_vec() }
    }

    /// What each PE that is on is at: for a report on a run that did not end.
    pub fn states(&self) -> impl Iterator<Item = State> {
        self.pes.iter().filter(|pe| self.shared.power[pe.number] == Power::On).map(|pe| self.state(pe))
    }

    fn stopped(&self, cpu: usize, stop: Stop) -> End {
        let pe = &self.pes[cpu];
        let x = pe.x[..31].to_vec();
        let el = pe.mode.el;
        match stop {
            Stop::Exit(status) => End::Exit(status),
            Stop::Unknown { word, pc } => End::Unknown(Unknown { cpu, el, pc, word, register: None, x }),
            Stop::UnknownRegister { reg, pc } => {
                let word = pe.word(&self.shared.memory).unwrap_or(0);
                End::Unknown(Unknown { cpu, el, pc, word, register: Some(reg), x })
            }
            // An exception goes on at its vector and stops nothing.
            Stop::Exception => End::Limit,
        }
    }

    /// Instructions that all PEs executed so far.
    #[must_use]
    pub const fn instructions(&self) -> u64 {
        self.instructions
    }

    /// Instructions of each PE in each part of a round, by [`Part`]'s number, up to the last time that it went from part
    /// to part.
    pub fn parts(&self) -> impl Iterator<Item = [u64; Part::ALL.len()]> {
        self.pes.iter().map(|pe| pe.parts)
    }

    /// The source of its choices, for a trace.
    #[must_use]
    pub const fn choices(&self) -> &Choices {
        &self.shared.choices
    }

    /// Where each PE is: for a report on a run that did not end, and for samples.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.pes.iter().map(|pe| Place {
            pc: pe.pc,
            el: pe.mode.el,
            on: self.shared.power[pe.number] == Power::On,
            waits: pe.wait != Wait::No,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;

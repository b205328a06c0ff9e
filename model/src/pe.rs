//! A processing element: its state, its memory accesses, its instruction fetch, and the rest of what an instruction
//! needs of it ([`Env`]).
//!
//! Translations come from [`mmu`], which models a TLB at its worst and is slow. In front of it stands a small
//! direct-mapped [`Micro`] TLB of what it declared safe to repeat: hits there are the hot path. It is emptied whenever
//! what it holds may have changed, so that it never answers where the modelled TLB would have had a choice to make.

use crate::{
    a64::{
        Access, AtomicOp, Barrier, Call, Env, Hint, PstateField, Size, Stop, SysOp, SysReg, disassemble, execute,
        op::{Domain, Types},
    },
    choice::Point,
    exception::{Abort, Class, Kind},
    gic::{GICC_BASE, GICC_SIZE, GICD_BASE, GICD_SIZE},
    machine::{End, Shared, Tables},
    memory::{Memory, PAGE},
    mmu,
    psci::{self, Answer, Power},
    schedule,
    sysreg::{Id, Registers},
    trace::Log,
    uart::{UART_BASE, UART_SIZE},
};

use wire::abi::{Part, part_of};

/// Status of a synchronous External abort that is not on a table walk.
const EXTERNAL: u8 = 0b01_0000;
/// Status of an Alignment fault.
const ALIGNMENT: u8 = 0b10_0001;
/// Status of a fault on an unsupported exclusive or atomic access.
const UNSUPPORTED: u8 = 0b11_0101;

/// TPIDR_EL0, by which software says in which part of a round it is.
const PART: SysReg = SysReg::new(3, 3, 13, 0, 2);

/// Bytes of the block that an exclusive access marks: CTR_EL0.ERG.
pub(crate) const GRANULE: u64 = 64;
/// Bytes that DC ZVA zeroes: DCZID_EL0.
pub(crate) const ZERO_BLOCK: u64 = 2048;

/// SCTLR_ELx.A: unaligned accesses fault.
const SCTLR_A: u64 = 1 << 1;
/// SCTLR_ELx.SA: SP is checked.
const SCTLR_SA: u64 = 1 << 3;
/// SCTLR_EL1.SA0: SP is checked at EL0.
const SCTLR_SA0: u64 = 1 << 4;
/// HCR_EL2.TWI and TWE.
const HCR_TWI: u64 = 1 << 13;
const HCR_TWE: u64 = 1 << 14;
/// HCRX_EL2.FnXS.
const HCRX_FNXS: u64 = 1 << 3;
/// HCR_EL2.TSC: SMC traps.
const HCR_TSC: u64 = 1 << 19;

/// The parts of PSTATE on which translations and the choice of SP depend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mode {
    pub(crate) el: u8,
    /// SPSel: SP is that of the EL, not SP_EL0.
    pub(crate) sp_elx: bool,
    pub(crate) pan: bool,
    pub(crate) uao: bool,
}

/// What a PE waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    No,
    /// WFI.
    Interrupt,
    /// WFE.
    Event,
}

/// The page that instructions come from.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    /// VA, or no address of a page.
    page: u64,
    pa: u64,
    /// Number of its decoded instructions.
    code: usize,
}

impl Fetch {
    /// No page.
    const NONE: Self = Self { page: u64::MAX, pa: 0, code: 0 };
}

/// Translations of pages of RAM that need not be asked for again.
#[derive(Clone, Debug)]
struct Micro {
    loads: [Page; Self::PAGES],
    stores: [Page; Self::PAGES],
    fetches: [Fetch; Self::FETCHES],
    used: bool,
    /// Added to the address of pages for loads and stores: 0, or [`WATCHED`](Self::WATCHED).
    watched: u64,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    /// VA, or no address of a page.
    va: u64,
    /// To be added to a VA in the page.
    offset: u64,
    /// Normal Write-Back: everything works there, and unaligned.
    cacheable: bool,
}

impl Page {
    const NONE: Self = Self { va: u64::MAX, offset: 0, cacheable: false };
}

/// Where an access goes.
struct Located {
    pa: u64,
    /// Where the upper half goes instead, of a doubleword on a CPU that tears.
    torn: Option<u64>,
}

impl Micro {
    const PAGES: usize = 64;
    const FETCHES: usize = 16;
    /// A bit of the offset in a page, which [`find`](Self::find) never finds set: where accesses are traced, pages are
    /// kept with it, and looked up by [`watched`](Self::watched) on the slow path instead.
    const WATCHED: u64 = 1 << 11;
    const EMPTY: Self = Self {
        loads: [Page::NONE; Self::PAGES],
        stores: [Page::NONE; Self::PAGES],
        fetches: [Fetch::NONE; Self::FETCHES],
        used: false,
        watched: 0,
    };

    /// The PA of `va`, if it is cacheable, for an access of this kind and of any alignment.
    #[inline]
    fn of(&self, kind: mmu::Kind, va: u64) -> Option<u64> {
        let find = |pages: &[Page; Self::PAGES]| {
            let page = &pages[(va / PAGE) as usize % Self::PAGES];
            (va & !(PAGE - 1) == page.va & !Self::WATCHED && page.cacheable).then(|| va.wrapping_add(page.offset))
        };
        match kind {
            mmu::Kind::Store | mmu::Kind::CacheMaintenance { writable: true } => find(&self.stores),
            mmu::Kind::Load | mmu::Kind::CacheMaintenance { writable: false } => find(&self.loads),
            mmu::Kind::Atomic => find(&self.loads).and(find(&self.stores)),
            mmu::Kind::Fetch | mmu::Kind::At { .. } => None,
        }
    }

    /// The PA of an aligned element at `va`; an unaligned one is never found.
    #[inline(always)]
    fn find(pages: &[Page; Self::PAGES], va: u64, size: Size) -> Option<u64> {
        let page = &pages[(va / PAGE) as usize % Self::PAGES];
        (va & (!(PAGE - 1) | (size.bytes() - 1)) == page.va).then(|| va.wrapping_add(page.offset))
    }

    /// Keeps `entry` for accesses of this kind, and for no other: a copy between pages that share a place in the
    /// arrays would have each of its loads and stores put the other's page out.
    fn keep(&mut self, entry: &mmu::MicroEntry, kind: mmu::Kind) {
        let at = (entry.va / PAGE) as usize % Self::PAGES;
        let offset = entry.pa.wrapping_sub(entry.va);
        let page = Page { va: entry.va | self.watched, offset, cacheable: entry.cacheable };
        if entry.load && kind != mmu::Kind::Store {
            self.loads[at] = page;
        }
        if entry.store && matches!(kind, mmu::Kind::Store | mmu::Kind::Atomic) {
            self.stores[at] = page;
        }
        self.used = true;
    }

    /// What [`find`](Self::find) would find if accesses were not traced.
    #[cold]
    fn watched(&self, kind: mmu::Kind, va: u64, bytes: u64) -> Option<u64> {
        let pages = if kind == mmu::Kind::Store { &self.stores } else { &self.loads };
        let page = &pages[(va / PAGE) as usize % Self::PAGES];
        let found = self.watched != 0 && va & (!(PAGE - 1) | (bytes - 1)) == page.va & !Self::WATCHED;
        found.then(|| va.wrapping_add(page.offset))
    }

    /// Drops what is kept of the pages that `size` bytes from `start` reach into; bits 55 to 0 of addresses count.
    fn drop_range(&mut self, start: u64, size: u64) {
        if size <= PAGE {
            let at = (start / PAGE) as usize;
            self.loads[at % Self::PAGES] = Page::NONE;
            self.stores[at % Self::PAGES] = Page::NONE;
            self.fetches[at % Self::FETCHES] = Fetch::NONE;
            return;
        }
        let start = start & !(PAGE - 1);
        let is_in = |va: u64| (va & !(PAGE - 1)).wrapping_sub(start) & ((1 << 56) - 1) < size;
        for page in self.loads.iter_mut().chain(&mut self.stores).filter(|page| is_in(page.va)) {
            *page = Page::NONE;
        }
        for fetch in self.fetches.iter_mut().filter(|fetch| is_in(fetch.page)) {
            *fetch = Fetch::NONE;
        }
    }

    fn clear(&mut self) {
        if self.used {
            *self = Self { watched: self.watched, ..Self::EMPTY };
        }
    }
}

/// The state of a PE.
#[derive(Clone, Debug)]
pub(crate) struct Pe {
    pub(crate) number: usize,
    /// The last is never read: it makes the index need no check.
    pub(crate) x: [u64; 32],
    /// SP_EL0, SP_EL1, SP_EL2.
    pub(crate) sp: [u64; 3],
    pub(crate) pc: u64,
    pub(crate) nzcv: u8,
    /// D, A, I and F in bits 3 to 0.
    pub(crate) daif: u8,
    /// PSTATE.IL.
    pub(crate) illegal: bool,
    pub(crate) mode: Mode,
    pub(crate) registers: Registers,
    /// The registers that translation depends on, as written.
    pub(crate) context: mmu::Context,
    pub(crate) wait: Wait,
    /// Exceptions that were taken without a change of EL since the last return from one.
    pub(crate) nested: u32,
    /// ESR, FAR and ELR of the first of them.
    pub(crate) first_nested: [u64; 3],
    /// Instructions of this turn, and how many of them are left.
    turn: u32,
    left: u32,
    /// Instructions of the turns before this one, and of each part of a round, by [`Part`]'s number, up to the last change
    /// of part.
    pub(crate) executed: u64,
    pub(crate) parts: [u64; Part::ALL.len()],
    /// Instructions at that change.
    changed: u64,
    fetch: Fetch,
    micro: Micro,
    /// [`mmu::Mmu::generation`] of what `fetch` and `micro` hold.
    generation: u64,
}

impl Pe {
    /// PE `number` of the CPU `profile`, as it is after reset.
    pub(crate) fn new(number: usize, profile: &mmu::Profile) -> Self {
        let mut registers = Registers::default();
        registers.set(Id::MIDR_EL1, profile.midr);
        registers.set(Id::VPIDR_EL2, profile.midr);
        let mpidr = 1 << 31 | number as u64;
        registers.set(Id::MPIDR_EL1, mpidr);
        registers.set(Id::VMPIDR_EL2, mpidr);
        let mmfr0 = profile.mmfr0(registers.get(Id::ID_AA64MMFR0_EL1));
        registers.set(Id::ID_AA64MMFR0_EL1, mmfr0);
        // BBM, and VARange.
        let mmfr2 = u64::from(profile.bbm.number()) << 52 | u64::from(profile.lpa2) << 16;
        let mmfr2 = registers.get(Id::ID_AA64MMFR2_EL1) | mmfr2;
        registers.set(Id::ID_AA64MMFR2_EL1, mmfr2);
        let mut pe = Self { registers, ..Self::blank(number) };
        pe.update_context();
        pe
    }

    fn blank(number: usize) -> Self {
        Self {
            number,
            x: [0; 32],
            sp: [0; 3],
            pc: 0,
            nzcv: 0,
            daif: 0xf,
            illegal: false,
            mode: Mode { el: 2, sp_elx: true, pan: false, uao: false },
            registers: Registers::default(),
            context: mmu::Context::default(),
            wait: Wait::No,
            nested: 0,
            first_nested: [0; 3],
            turn: 0,
            left: 0,
            executed: 0,
            parts: [0; Part::ALL.len()],
            changed: 0,
            fetch: Fetch::NONE,
            micro: Micro::EMPTY,
            generation: 0,
        }
    }

    /// Starts at EL2 with the MMU off.
    pub(crate) fn start(&mut self, entry: u64, context: u64) {
        self.pc = entry;
        self.x[0] = context;
    }

    /// Takes over the registers that translation depends on.
    pub(crate) fn update_context(&mut self) {
        let get = |id| self.registers.get(id);
        self.context = mmu::Context {
            sctlr_el1: get(Id::SCTLR_EL1),
            ttbr0_el1: get(Id::TTBR0_EL1),
            ttbr1_el1: get(Id::TTBR1_EL1),
            tcr_el1: get(Id::TCR_EL1),
            mair_el1: get(Id::MAIR_EL1),
            sctlr_el2: get(Id::SCTLR_EL2),
            ttbr0_el2: get(Id::TTBR0_EL2),
            ttbr1_el2: get(Id::TTBR1_EL2),
            tcr_el2: get(Id::TCR_EL2),
            mair_el2: get(Id::MAIR_EL2),
            hcr_el2: get(Id::HCR_EL2),
            vtcr_el2: get(Id::VTCR_EL2),
            vttbr_el2: get(Id::VTTBR_EL2),
        };
    }

    /// From now on no load or store goes unseen by [`Core::locate`].
    pub(crate) fn watch_accesses(&mut self) {
        self.micro = Micro { watched: Micro::WATCHED, ..Micro::EMPTY };
    }

    /// The instruction at PC, in its memory; `None` if it was not fetched from anywhere.
    pub(crate) fn word(&self, memory: &Memory) -> Option<u32> {
        let fetched = self.fetch.page == self.pc & !(PAGE - 1);
        fetched.then(|| memory.read(self.fetch.pa + self.pc % PAGE, Size::B4))?.map(|word| word as u32)
    }

    /// Everything but its identity and its part of the MMU is as after reset.
    pub(crate) fn reset(&mut self) {
        let mut registers = Registers::default();
        let [mmfr0, mmfr2] = [Id::ID_AA64MMFR0_EL1, Id::ID_AA64MMFR2_EL1];
        for id in [Id::MIDR_EL1, Id::VPIDR_EL2, Id::MPIDR_EL1, Id::VMPIDR_EL2, mmfr0, mmfr2] {
            registers.set(id, self.registers.get(id));
        }
        let micro = Micro { watched: self.micro.watched, ..Micro::EMPTY };
        let &mut Self { number, executed, parts, changed, .. } = self;
        *self = Self { registers, micro, executed, parts, changed, ..Self::blank(number) };
        self.update_context();
    }

    #[inline(always)]
    fn sp_index(&self) -> usize {
        if self.mode.sp_elx { usize::from(self.mode.el) } else { 0 }
    }
}

/// A PE at work: its state and what it shares with the others.
pub(crate) struct Core<'a> {
    pub(crate) pe: &'a mut Pe,
    pub(crate) shared: &'a mut Shared,
}

impl Core<'_> {
    /// Executes up to `turn` instructions; returns how many ticks that took.
    pub(crate) fn run(&mut self, turn: u32) -> Result<u32, Stop> {
        self.pe.turn = turn;
        self.pe.left = turn;
        self.step_tlb();
        self.take_interrupt();
        while self.pe.left > 0 {
            let pc = self.pe.pc;
            let fetched = if pc & (!(PAGE - 1) | 3) == self.pe.fetch.page { Ok(()) } else { self.fetch() };
            self.pe.left -= 1;
            let result = fetched.and_then(|()| execute(self.shared.memory.op(self.pe.fetch.code, pc), self));
            match result {
                Ok(()) | Err(Stop::Exception) => {}
                Err(stop) => return Err(stop),
            }
        }
        Ok(self.pe.turn)
    }

    /// Counts what was executed since the last change of part for the part that TPIDR_EL0 names.
    fn change_part(&mut self) {
        let pe = &mut *self.pe;
        let executed = pe.executed + u64::from(pe.turn - pe.left);
        pe.parts[part_of(pe.registers.get(Id::TPIDR_EL0)) as usize] += executed - pe.changed;
        pe.changed = executed;
    }

    /// Ends this PE's turn behind the current instruction.
    pub(crate) fn end_turn(&mut self) {
        self.pe.turn -= self.pe.left;
        self.pe.left = 0;
    }

    /// Ends the turn by choice, where the order of PEs matters.
    fn maybe_end_turn(&mut self) {
        if self.shared.several_run() && self.shared.choices.chance(Point::Schedule, schedule::AT_BARRIER) {
            self.end_turn();
        }
    }

    /// The physical counter.
    pub(crate) fn now(&self) -> u64 {
        self.shared.now + u64::from(self.pe.turn - self.pe.left)
    }

    /// The current instruction.
    pub(crate) fn word(&self) -> Option<u32> {
        self.pe.word(&self.shared.memory)
    }

    /// Changes EL and what else translations depend on.
    pub(crate) fn change_mode(&mut self, mode: Mode) {
        if (mode.el, mode.pan) != (self.pe.mode.el, self.pe.mode.pan) {
            self.forget();
        }
        self.pe.mode = mode;
    }

    /// A context synchronisation event.
    pub(crate) fn synchronise_context(&mut self) {
        self.shared.unwalked.synchronise(self.pe.number);
        self.shared.mmus[self.pe.number].context_sync(&self.pe.context, &mut self.shared.choices);
        self.forget_stale();
    }

    /// Whether this CPU makes a mistake.
    fn has(&self, defect: mmu::Defect) -> bool {
        self.shared.mmus[self.pe.number].profile().has(defect)
    }

    /// Drops the translations kept here.
    pub(crate) fn forget(&mut self) {
        self.pe.fetch = Fetch::NONE;
        self.pe.micro.clear();
    }

    /// Drops the translations kept here if the modelled TLB may answer differently now.
    pub(crate) fn forget_stale(&mut self) {
        let mmu = &mut self.shared.mmus[self.pe.number];
        let (generation, ranges) = (mmu.generation(), mmu.take_stale());
        if generation != self.pe.generation {
            self.pe.generation = generation;
            self.forget();
        } else if let Some(ranges) = ranges {
            for (start, size) in ranges {
                self.pe.micro.drop_range(start, size);
            }
            self.pe.fetch = Fetch::NONE;
        }
    }

    /// Asks the modelled TLB. `unprivileged`: as if from EL0.
    pub(crate) fn translate(
        &mut self,
        va: u64,
        kind: mmu::Kind,
        unprivileged: bool,
    ) -> Result<mmu::Translated, mmu::Fault> {
        let mode = self.pe.mode;
        let privileged = mode.el > 0 && !unprivileged;
        self.ask(mmu::Request { va, kind, el: mode.el, privileged, pan: mode.pan })
    }

    /// Tells the log, if there is one, when and where what comes happens.
    fn clock(&mut self) {
        let (now, number) = (self.now(), self.pe.number);
        if let Some(log) = self.shared.choices.log() {
            log.at(now, number);
        }
    }

    /// Asks the modelled TLB.
    pub(crate) fn ask(&mut self, request: mmu::Request) -> Result<mmu::Translated, mmu::Fault> {
        self.clock();
        let Shared { mmus, memory, unwalked, monitors, events, choices, .. } = &mut *self.shared;
        let keeps_monitors = mmus[self.pe.number].profile().has(mmu::Defect::UpdateKeepsMonitors);
        let mut tables = Tables { memory, unwalked, monitors, events, walker: self.pe.number, keeps_monitors };
        let result = mmus[self.pe.number].translate(request, &self.pe.context, &mut tables, choices);
        choices.tell_of((request.va, 1), "access", || {
            let mmu::Request { va, kind, .. } = request;
            match &result {
                Ok(translated) => format!("{kind:?} {va:#x}: PA {:#x}", translated.pa),
                Err(fault) => format!("{kind:?} {va:#x}: {fault}"),
            }
        });
        self.forget_stale();
        result
    }

    /// Gives the modelled TLB a moment to do what nobody asked for.
    fn step_tlb(&mut self) {
        self.clock();
        let Shared { mmus, memory, unwalked, monitors, events, choices, .. } = &mut *self.shared;
        let keeps_monitors = mmus[self.pe.number].profile().has(mmu::Defect::UpdateKeepsMonitors);
        let mut tables = Tables { memory, unwalked, monitors, events, walker: self.pe.number, keeps_monitors };
        mmus[self.pe.number].step(self.pe.mode.el, &self.pe.context, &mut tables, choices);
        self.forget_stale();
    }

    /// HCRX_EL2.FnXS: what EL1 executes counts as its nXS form, TLBI and DSB.
    fn forces_nxs(&self) -> bool {
        self.pe.mode.el < 2 && self.pe.registers.get(Id::HCRX_EL2) & HCRX_FNXS != 0
    }

    /// TLBI.
    pub(crate) fn issue_tlbi(&mut self, op: mmu::TlbiOp) {
        let force_nxs = self.forces_nxs();
        self.clock();
        self.shared.choices.tell("tlbi", || op);
        let Shared { mmus, choices, .. } = &mut *self.shared;
        mmu::tlbi(mmus, self.pe.number, op.forced_nxs(force_nxs), self.pe.mode.el == 1, &self.pe.context, choices);
        self.forget_stale();
        self.maybe_end_turn();
    }

    /// Takes the abort that `fault` describes.
    #[cold]
    pub(crate) fn abort(&mut self, kind: Kind, fault: &mmu::Fault) -> Stop {
        if fault.stall {
            // The instruction is tried again.
            return Stop::Exception;
        }
        self.take_abort(Abort {
            status: fault.fsc,
            address: fault.va,
            to: fault.taken_to,
            s1ptw: fault.s1ptw,
            ipa: fault.ipa,
            stage2: fault.stage2,
            kind,
        })
    }

    /// Takes an abort that has nothing to do with tables.
    #[cold]
    fn abort_with(&mut self, address: u64, kind: Kind, status: u8) -> Stop {
        let to = self.default_target();
        self.take_abort(Abort { status, address, to, s1ptw: false, ipa: None, stage2: false, kind })
    }

    /// Makes the page of PC the one that instructions come from.
    fn fetch(&mut self) -> Result<(), Stop> {
        let pc = self.pe.pc;
        if self.pe.illegal {
            return Err(self.take(self.default_target(), Class::IllegalState, 0, pc));
        }
        let slot = (pc / PAGE) as usize % Micro::FETCHES;
        if pc & (!(PAGE - 1) | 3) == self.pe.micro.fetches[slot].page {
            self.pe.fetch = self.pe.micro.fetches[slot];
            return Ok(());
        }
        if !pc.is_multiple_of(4) {
            let to = self.default_target();
            self.pe.registers.set(if to == 2 { Id::FAR_EL2 } else { Id::FAR_EL1 }, pc);
            return Err(self.take(to, Class::PcAlignment, 0, pc));
        }
        let translated =
            self.translate(pc, mmu::Kind::Fetch, false).map_err(|fault| self.abort(Kind::Fetch, &fault))?;
        let pa = translated.pa & !(PAGE - 1);
        let code = self.shared.memory.code(pa).ok_or_else(|| self.abort_with(pc, Kind::Fetch, EXTERNAL))?;
        self.pe.fetch = Fetch { page: pc & !(PAGE - 1), pa, code };
        if translated.page.is_some_and(|page| page.fetch) {
            self.pe.micro.fetches[slot] = self.pe.fetch;
            self.pe.micro.used = true;
        }
        Ok(())
    }

    fn sctlr(&self) -> u64 {
        self.pe.registers.get(if self.pe.mode.el == 2 { Id::SCTLR_EL2 } else { Id::SCTLR_EL1 })
    }

    /// SP's alignment, where the base of an access is SP and that is checked.
    fn check_sp(&mut self, access: Access) -> Result<(), Stop> {
        let bit = if self.pe.mode.el == 0 { SCTLR_SA0 } else { SCTLR_SA };
        if access.contains(Access::STACK) && !self.sp().is_multiple_of(16) && self.sctlr() & bit != 0 {
            return Err(self.take(self.default_target(), Class::SpAlignment, 0, self.pe.pc));
        }
        Ok(())
    }

    /// Whether nothing but a translation stands between an access and its memory.
    #[inline(always)]
    fn is_plain(&self, access: Access) -> bool {
        let special = access.intersects(Access::EXCLUSIVE | Access::UNPRIVILEGED);
        !special && (!access.contains(Access::STACK) || self.sp().is_multiple_of(16))
    }

    fn is_unprivileged(&self, access: Access) -> bool {
        let of_el0 = self.pe.mode.el == 1 || self.pe.mode.el == 2 && self.pe.context.is_host();
        access.contains(Access::UNPRIVILEGED) && of_el0 && !self.pe.mode.uao
    }

    /// Where `bytes` at `va`, all in one page, are.
    fn locate(&mut self, va: u64, bytes: u64, kind: mmu::Kind, access: Access) -> Result<Located, Stop> {
        self.locate_part(va, bytes, va.is_multiple_of(bytes), kind, access)
    }

    /// The same, of a part of an access, which is as a whole `aligned` or not.
    fn locate_part(
        &mut self,
        va: u64,
        bytes: u64,
        aligned: bool,
        kind: mmu::Kind,
        access: Access,
    ) -> Result<Located, Stop> {
        self.check_sp(access)?;
        // An atomic's fault is a read's where a read would have it too; see [`mmu::Fault::write`] for where not.
        let what = if kind == mmu::Kind::Store { Kind::Store } else { Kind::Load };
        let must_be_aligned = access.needs_alignment() || kind == mmu::Kind::Atomic || self.sctlr() & SCTLR_A != 0;
        if !aligned && must_be_aligned {
            return Err(self.abort_with(va, what, ALIGNMENT));
        }
        let unprivileged = self.is_unprivileged(access);
        let watched = || match kind {
            mmu::Kind::Load | mmu::Kind::Store if self.is_plain(access) => self.pe.micro.watched(kind, va, bytes),
            _ => None,
        };
        if !unprivileged && let Some(pa) = self.pe.micro.of(kind, va).or_else(watched) {
            self.clock();
            self.shared.choices.tell_of((va, bytes), "access", || format!("{kind:?} {va:#x}: PA {pa:#x}, as before"));
            return Ok(Located { pa, torn: None });
        }
        let translated = self.translate(va, kind, unprivileged).map_err(|fault| {
            let what = if fault.write { Kind::Store } else { what };
            self.abort(what, &fault)
        })?;
        if !aligned && translated.device_by_stage2 {
            let write = kind == mmu::Kind::Store;
            let fault = mmu::Fault { fsc: ALIGNMENT, stage2: true, va, write, taken_to: 2, ..mmu::Fault::default() };
            return Err(self.abort(what, &fault));
        }
        if !aligned && translated.device {
            return Err(self.abort_with(va, what, ALIGNMENT));
        }
        // Neither exclusives nor atomics work on memory that is not cacheable: it has no monitor.
        if (kind == mmu::Kind::Atomic || access.contains(Access::EXCLUSIVE)) && !translated.cacheable {
            return Err(self.abort_with(va, what, UNSUPPORTED));
        }
        if !unprivileged {
            self.keep(&translated, kind);
        }
        Ok(Located { pa: translated.pa, torn: translated.torn })
    }

    /// Keeps what may be kept of a translation for loads and stores.
    fn keep(&mut self, translated: &mmu::Translated, kind: mmu::Kind) {
        if let Some(page) = translated.page
            && self.shared.memory.holds(page.pa)
        {
            self.pe.micro.keep(&page, kind);
        }
    }

    /// Whether the bytes are in two pages.
    const fn crosses(va: u64, size: Size) -> bool {
        va % PAGE + size.bytes() > PAGE
    }

    #[cold]
    #[inline(never)]
    fn load_slowly(&mut self, va: u64, size: Size, access: Access) -> Result<u64, Stop> {
        if Self::crosses(va, size) && !access.needs_alignment() && self.sctlr() & SCTLR_A == 0 {
            if self.has(mmu::Defect::SeamByFirst) {
                let pa = self.locate(va, 1, mmu::Kind::Load, access)?.pa;
                let value = self.shared.memory.read(pa, size);
                return value.ok_or_else(|| self.abort_with(va, Kind::Load, EXTERNAL));
            }
            // Each byte is an access of its own.
            return (0..size.bytes()).try_fold(0, |value, n| {
                let va = va.wrapping_add(n);
                let pa = self.locate_part(va, 1, false, mmu::Kind::Load, access)?.pa;
                let byte = self.shared.memory.read(pa, Size::B1);
                Ok(value | byte.ok_or_else(|| self.abort_with(va, Kind::Load, EXTERNAL))? << (8 * n))
            });
        }
        let Located { pa, torn } = self.locate(va, size.bytes(), mmu::Kind::Load, access)?;
        if access.contains(Access::EXCLUSIVE) {
            self.set_monitor(pa);
        }
        if let Some(upper) = torn.filter(|_| size == Size::B8)
            && let Some(low) = self.shared.memory.read(pa, Size::B4)
            && let Some(high) = self.shared.memory.read(upper, Size::B4)
        {
            return Ok(high << 32 | low);
        }
        match self.shared.memory.read(pa, size) {
            Some(value) => Ok(value),
            None => self.load_device(pa).ok_or_else(|| self.abort_with(va, Kind::Load, EXTERNAL)),
        }
    }

    #[cold]
    #[inline(never)]
    fn store_slowly(&mut self, va: u64, size: Size, value: u64, access: Access) -> Result<(), Stop> {
        if Self::crosses(va, size) && !access.needs_alignment() && self.sctlr() & SCTLR_A == 0 {
            if self.has(mmu::Defect::SeamByFirst) {
                let pa = self.locate(va, 1, mmu::Kind::Store, access)?.pa;
                let stored = (0..size.bytes()).try_for_each(|n| self.put(pa + n, Size::B1, value >> (8 * n) & 0xff));
                return stored.ok_or_else(|| self.abort_with(va, Kind::Store, EXTERNAL));
            }
            return (0..size.bytes()).try_for_each(|n| {
                let va = va.wrapping_add(n);
                let pa = self.locate_part(va, 1, false, mmu::Kind::Store, access)?.pa;
                let stored = self.put(pa, Size::B1, value >> (8 * n) & 0xff);
                stored.ok_or_else(|| self.abort_with(va, Kind::Store, EXTERNAL))
            });
        }
        let Located { pa, torn } = self.locate(va, size.bytes(), mmu::Kind::Store, access)?;
        if let Some(upper) = torn.filter(|_| size == Size::B8) {
            let stored = self.put(pa, Size::B4, value).and_then(|()| self.put(upper, Size::B4, value >> 32));
            return stored.ok_or_else(|| self.abort_with(va, Kind::Store, EXTERNAL));
        }
        if self.put(pa, size, value).is_none() && self.store_device(pa, size, value).is_none() {
            return Err(self.abort_with(va, Kind::Store, EXTERNAL));
        }
        Ok(())
    }

    /// Writes RAM, with what follows from a store: others' monitors are cleared, and walkers may lag behind.
    #[inline(always)]
    fn put(&mut self, pa: u64, size: Size, value: u64) -> Option<()> {
        let shared = &mut *self.shared;
        if shared.watches_stores {
            shared.watch_store(self.pe.number, pa, size);
            if shared.choices.log().is_some() {
                self.trace_store(pa, size, value);
            }
        }
        self.shared.memory.write(pa, size, value)
    }

    /// Logs a store to a descriptor that a walk has read.
    #[cold]
    fn trace_store(&mut self, pa: u64, size: Size, value: u64) {
        let is_descriptor = |log: &mut Log| size == Size::B8 && log.is_descriptor(pa);
        if self.shared.choices.log().is_some_and(is_descriptor) {
            self.clock();
            let before = self.shared.memory.read(pa, size).unwrap_or_default();
            self.shared.choices.tell("store", || format!("descriptor at {pa:#x}: {before:#x} becomes {value:#x}"));
        }
    }

    fn load_device(&mut self, pa: u64) -> Option<u64> {
        let number = self.pe.number;
        let value = match pa {
            _ if pa.wrapping_sub(GICD_BASE) < GICD_SIZE => {
                self.shared.gic.read_distributor(number, pa - GICD_BASE) >> (8 * (pa % 4))
            }
            _ if pa.wrapping_sub(GICC_BASE) < GICC_SIZE => {
                self.end_turn();
                self.shared.gic.read_interface(number, pa - GICC_BASE)
            }
            _ if pa.wrapping_sub(UART_BASE) < UART_SIZE => self.shared.uart.read(pa - UART_BASE),
            _ => return None,
        };
        Some(value.into())
    }

    fn store_device(&mut self, pa: u64, size: Size, value: u64) -> Option<()> {
        let number = self.pe.number;
        let value = value as u32;
        match pa {
            _ if pa.wrapping_sub(GICD_BASE) < GICD_SIZE => {
                self.shared.gic.write_distributor(number, pa - GICD_BASE, value, size.bytes());
                self.end_turn();
            }
            _ if pa.wrapping_sub(GICC_BASE) < GICC_SIZE => {
                self.shared.gic.write_interface(number, pa - GICC_BASE, value);
                self.end_turn();
            }
            _ if pa.wrapping_sub(UART_BASE) < UART_SIZE => {
                self.shared.console.extend(self.shared.uart.write(pa - UART_BASE, value));
            }
            _ => return None,
        }
        Some(())
    }

    fn set_monitor(&mut self, pa: u64) {
        self.shared.monitors[self.pe.number] = Some(pa / GRANULE);
        self.shared.update_watch();
        self.maybe_end_turn();
    }

    pub(crate) fn clear_monitor(&mut self) {
        self.shared.monitors[self.pe.number] = None;
        self.shared.update_watch();
    }

    /// Whether a store-exclusive to `pa` succeeds; the monitor is clear afterwards.
    fn pass_monitor(&mut self, pa: u64) -> bool {
        let marked = self.shared.monitors[self.pe.number] == Some(pa / GRANULE);
        self.clear_monitor();
        marked
    }

    /// Both elements by one translation: a store-exclusive that succeeds must have had both from one place.
    #[cold]
    fn load_exclusive_pair(&mut self, va: u64, size: Size, access: Access) -> Result<(u64, u64), Stop> {
        let pa = self.locate(va, 2 * size.bytes(), mmu::Kind::Load, access)?.pa;
        self.set_monitor(pa);
        let memory = &self.shared.memory;
        let pair = memory.read(pa, size).zip(memory.read(pa + size.bytes(), size));
        pair.ok_or_else(|| self.abort_with(va, Kind::Load, EXTERNAL))
    }

    /// DC ZVA.
    pub(crate) fn zero_block(&mut self, va: u64) -> Result<(), Stop> {
        let start = va & !(ZERO_BLOCK - 1);
        // The fault's address is that of the operand.
        let translated =
            self.translate(va, mmu::Kind::Store, false).map_err(|fault| self.abort(Kind::Store, &fault))?;
        if translated.device {
            return Err(self.abort_with(va, Kind::Store, ALIGNMENT));
        }
        let pa = translated.pa & !(ZERO_BLOCK - 1);
        if self.shared.watches_stores {
            self.shared.memory.forget_tables(pa);
            for offset in (0..ZERO_BLOCK).step_by(8) {
                self.trace_store(pa + offset, Size::B8, 0);
                self.shared.watch_store(self.pe.number, pa + offset, Size::B8);
            }
        }
        let zeroed = self.shared.memory.load(pa, &[0; ZERO_BLOCK as usize]);
        zeroed.ok_or_else(|| self.abort_with(start, Kind::Store, EXTERNAL))
    }

    /// Cache maintenance by VA: nothing to do, but for the fault it may take. `writable`: DC IVAC, which throws stores
    /// away, and so wants permission to write.
    pub(crate) fn maintain(&mut self, va: u64, writable: bool) -> Result<(), Stop> {
        let kind = mmu::Kind::CacheMaintenance { writable };
        if self.pe.micro.of(kind, va).is_none() {
            let translated = self.translate(va, kind, false);
            let translated = translated.map_err(|fault| self.abort(Kind::Maintenance, &fault))?;
            self.keep(&translated, kind);
        }
        Ok(())
    }

    /// Where the software's memory at `va` is, for semihosting; `None` where it is not mapped.
    pub(crate) fn peek_address(&mut self, va: u64) -> Option<u64> {
        self.translate(va, mmu::Kind::Load, false).ok().map(|translated| translated.pa)
    }

    fn smc(&mut self) -> Result<(), Stop> {
        let [function, x1, x2, x3, ..] = self.pe.x;
        let Shared { power, memory, .. } = &mut *self.shared;
        match psci::call(function, [x1, x2, x3], power, |pa| memory.holds(pa)) {
            Answer::Return(value) => self.pe.x[0] = value,
            Answer::CpuOff => {
                self.shared.power[self.pe.number] = Power::Off;
                self.clear_monitor();
            }
            Answer::SystemOff => self.shared.end = Some(End::Off),
            Answer::SystemReset => self.shared.end = Some(End::Reset),
        }
        self.end_turn();
        Ok(())
    }
}

impl Env for Core<'_> {
    #[inline(always)]
    fn x(&self, n: u8) -> u64 {
        self.pe.x[usize::from(n & 31)]
    }

    #[inline(always)]
    fn set_x(&mut self, n: u8, value: u64) {
        self.pe.x[usize::from(n & 31)] = value;
    }

    #[inline(always)]
    fn sp(&self) -> u64 {
        self.pe.sp[self.pe.sp_index()]
    }

    #[inline(always)]
    fn set_sp(&mut self, value: u64) {
        self.pe.sp[self.pe.sp_index()] = value;
    }

    #[inline(always)]
    fn pc(&self) -> u64 {
        self.pe.pc
    }

    #[inline(always)]
    fn set_pc(&mut self, value: u64) {
        self.pe.pc = value;
    }

    #[inline(always)]
    fn nzcv(&self) -> u8 {
        self.pe.nzcv
    }

    #[inline(always)]
    fn set_nzcv(&mut self, value: u8) {
        self.pe.nzcv = value;
    }

    #[inline(always)]
    fn load(&mut self, va: u64, size: Size, access: Access) -> Result<u64, Stop> {
        if self.is_plain(access)
            && let Some(pa) = Micro::find(&self.pe.micro.loads, va, size)
            && let Some(value) = self.shared.memory.read(pa, size)
        {
            return Ok(value);
        }
        self.load_slowly(va, size, access)
    }

    #[inline(always)]
    fn store(&mut self, va: u64, size: Size, value: u64, access: Access) -> Result<(), Stop> {
        if self.is_plain(access)
            && let Some(pa) = Micro::find(&self.pe.micro.stores, va, size)
            && self.put(pa, size, value).is_some()
        {
            return Ok(());
        }
        self.store_slowly(va, size, value, access)
    }

    #[inline(always)]
    fn load_pair(&mut self, va: u64, size: Size, access: Access) -> Result<(u64, u64), Stop> {
        if access.contains(Access::EXCLUSIVE) {
            return self.load_exclusive_pair(va, size, access);
        }
        let first = self.load(va, size, access)?;
        let second = self.load(va.wrapping_add(size.bytes()), size, access)?;
        Ok((first, second))
    }

    #[inline(always)]
    fn store_pair(&mut self, va: u64, size: Size, values: (u64, u64), access: Access) -> Result<(), Stop> {
        self.store(va, size, values.0, access)?;
        self.store(va.wrapping_add(size.bytes()), size, values.1, access)
    }

    fn store_exclusive(&mut self, va: u64, size: Size, value: u64, access: Access) -> Result<bool, Stop> {
        let pa = self.locate(va, size.bytes(), mmu::Kind::Store, access)?.pa;
        let passed = self.pass_monitor(pa);
        if passed && self.put(pa, size, value).is_none() {
            return Err(self.abort_with(va, Kind::Store, EXTERNAL));
        }
        self.maybe_end_turn();
        Ok(passed)
    }

    fn store_exclusive_pair(&mut self, va: u64, size: Size, values: (u64, u64), access: Access) -> Result<bool, Stop> {
        let pa = self.locate(va, 2 * size.bytes(), mmu::Kind::Store, access)?.pa;
        let passed = self.pass_monitor(pa);
        if passed {
            let stored = self.put(pa, size, values.0).and_then(|()| self.put(pa + size.bytes(), size, values.1));
            if stored.is_none() {
                return Err(self.abort_with(va, Kind::Store, EXTERNAL));
            }
        }
        self.maybe_end_turn();
        Ok(passed)
    }

    fn clear_exclusive(&mut self) {
        self.clear_monitor();
    }

    fn atomic(&mut self, va: u64, size: Size, access: Access, op: AtomicOp, operand: u64) -> Result<u64, Stop> {
        let Located { pa, torn } = self.locate(va, size.bytes(), mmu::Kind::Atomic, access)?;
        let Some(old) = self.shared.memory.read(torn.unwrap_or(pa), size) else {
            return Err(self.abort_with(va, Kind::Store, EXTERNAL));
        };
        // A compare and swap that fails stores nothing.
        if let Some(new) = op.apply(size, old, operand) {
            self.put(pa, size, new);
        }
        self.maybe_end_turn();
        Ok(old)
    }

    fn compare_and_swap_pair(
        &mut self,
        va: u64,
        size: Size,
        access: Access,
        expected: (u64, u64),
        new: (u64, u64),
    ) -> Result<(u64, u64), Stop> {
        let bytes = size.bytes();
        let pa = self.locate(va, 2 * bytes, mmu::Kind::Atomic, access)?.pa;
        let memory = &self.shared.memory;
        let old = memory.read(pa, size).zip(memory.read(pa + bytes, size));
        let Some(old) = old else { return Err(self.abort_with(va, Kind::Store, EXTERNAL)) };
        if old == expected {
            self.put(pa, size, new.0);
            self.put(pa + bytes, size, new.1);
        }
        self.maybe_end_turn();
        Ok(old)
    }

    fn read_sysreg(&mut self, reg: SysReg) -> Result<u64, Stop> {
        self.read_register(reg)
    }

    fn write_sysreg(&mut self, reg: SysReg, value: u64) -> Result<(), Stop> {
        if reg == PART {
            self.change_part();
        }
        self.write_register(reg, value)
    }

    fn write_pstate(&mut self, field: PstateField, imm: u8) -> Result<(), Stop> {
        if self.pe.mode.el == 0 {
            return Err(self.take_undefined());
        }
        let mode = self.pe.mode;
        let bit = imm & 1 != 0;
        match field {
            PstateField::SpSel => self.change_mode(Mode { sp_elx: bit, ..mode }),
            PstateField::Pan => self.change_mode(Mode { pan: bit, ..mode }),
            PstateField::Uao => self.change_mode(Mode { uao: bit, ..mode }),
            PstateField::DaifSet => self.pe.daif |= imm,
            PstateField::DaifClr => {
                self.pe.daif &= !imm;
                self.end_turn();
            }
            // FEAT_SSBS, FEAT_DIT and FEAT_MTE are not there.
            PstateField::Ssbs | PstateField::Dit | PstateField::Tco => return Err(self.take_undefined()),
        }
        Ok(())
    }

    fn system(&mut self, op: SysOp, value: u64) -> Result<(), Stop> {
        self.maintenance(op, value)
    }

    fn system_result(&mut self, _op: SysOp) -> Result<u64, Stop> {
        // None of the machine's features has a SYSL.
        Err(Stop::Unknown { word: self.word().unwrap_or(0), pc: self.pe.pc })
    }

    fn barrier(&mut self, barrier: Barrier) {
        if self.shared.choices.log().is_some() && !matches!(barrier, Barrier::Dmb { .. }) {
            self.clock();
            let (word, pc) = (self.word().unwrap_or(0), self.pe.pc);
            self.shared.choices.tell("barrier", || disassemble(word, pc));
        }
        match barrier {
            Barrier::Isb => {
                self.synchronise_context();
                self.step_tlb();
            }
            Barrier::Dsb { domain, types, nxs } => {
                if types != Types::Reads {
                    self.shared.unwalked.complete(self.pe.number, domain != Domain::NonShareable);
                }
                let scope = match domain {
                    Domain::NonShareable => mmu::Scope::NonShareable,
                    Domain::InnerShareable => mmu::Scope::Inner,
                    Domain::OuterShareable => mmu::Scope::Outer,
                    Domain::FullSystem => mmu::Scope::System,
                };
                let nxs = nxs || self.forces_nxs();
                let dsb = mmu::Dsb { scope, loads_and_stores: types == Types::All, nxs };
                mmu::complete(&mut self.shared.mmus, self.pe.number, dsb, &mut self.shared.choices);
                self.forget_stale();
                // Barriers are where it matters what comes between two steps of an update.
                self.step_tlb();
                self.maybe_end_turn();
            }
            Barrier::Dmb { .. } => self.maybe_end_turn(),
            // All accesses are in order, and nothing is speculated with.
            Barrier::Sb | Barrier::Ssbb | Barrier::Pssbb => {}
        }
    }

    fn hint(&mut self, hint: Hint) -> Result<(), Stop> {
        let hcr = if self.pe.mode.el < 2 { self.pe.registers.get(Id::HCR_EL2) } else { 0 };
        // COND valid, always.
        const ISS: u64 = 1 << 24 | 0xe << 20;
        let number = self.pe.number;
        match hint {
            Hint::Yield if self.shared.several_run() => self.end_turn(),
            Hint::Yield | Hint::Esb => {}
            Hint::Wfi if self.shared.gic.asserted(number) => {}
            Hint::Wfi if hcr & HCR_TWI != 0 => return Err(self.take_trap(Class::Wait, ISS)),
            Hint::Wfi => {
                self.pe.wait = Wait::Interrupt;
                self.end_turn();
            }
            Hint::Wfe if self.shared.take_event(number) => {}
            Hint::Wfe if hcr & HCR_TWE != 0 => return Err(self.take_trap(Class::Wait, ISS | 1)),
            Hint::Wfe => {
                self.pe.wait = Wait::Event;
                self.end_turn();
            }
            Hint::Sev => self.shared.event_everywhere(),
            Hint::Sevl => self.shared.event(number),
            Hint::Mark => {
                self.clock();
                let [x0, x1, x2, x3, ..] = self.pe.x;
                if let Some(log) = self.shared.choices.log() {
                    log.mark([x0, x1, x2, x3]);
                }
            }
        }
        Ok(())
    }

    fn call(&mut self, call: Call) -> Result<(), Stop> {
        let (pc, el) = (self.pe.pc, self.pe.mode.el);
        match call {
            Call::Svc(imm) => Err(self.take(self.default_target(), Class::Svc, imm.into(), pc + 4)),
            Call::Hvc(_) if el == 0 => Err(self.take_undefined()),
            Call::Hvc(imm) => Err(self.take(2, Class::Hvc, imm.into(), pc + 4)),
            Call::Smc(_) if el == 0 => Err(self.take_undefined()),
            Call::Smc(imm) if el == 1 && self.pe.registers.get(Id::HCR_EL2) & HCR_TSC != 0 => {
                Err(self.take_trap(Class::Smc, imm.into()))
            }
            Call::Smc(_) => self.smc(),
            Call::Brk(imm) => Err(self.take(self.default_target(), Class::Brk, imm.into(), pc)),
            Call::Hlt(crate::semihosting::HLT) => self.semihost(),
            // Without a debugger, as with halting debug off.
            Call::Hlt(_) => Err(self.take_undefined()),
        }
    }

    fn exception_return(&mut self) -> Result<(), Stop> {
        self.return_from_exception()
    }

    fn undefined(&mut self, word: u32) -> Result<(), Stop> {
        // UDF is for ever UNDEFINED; of everything else the model does not know whether it is.
        if word >> 16 == 0 { Err(self.take_undefined()) } else { Err(Stop::Unknown { word, pc: self.pe.pc }) }
    }
}

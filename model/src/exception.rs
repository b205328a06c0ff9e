//! Taking exceptions and returning from them.
//!
//! Everything here is for AArch64 without EL3: exceptions go to EL1 or EL2. Taking one and returning from one are context
//! synchronisation events (SCTLR_ELx.EIS and EOS are RES1, without FEAT_ExS).

use crate::{
    a64::{Access, Op, Size, Stop, SysReg, decode, op::Extension},
    pe::{Core, Mode},
    sysreg::{Id, Registers},
};

/// ESR_ELx.IL: the instruction had 32 bits.
const IL: u64 = 1 << 25;

/// HCR_EL2 bits that route exceptions.
pub(crate) const HCR_FMO: u64 = 1 << 3;
pub(crate) const HCR_IMO: u64 = 1 << 4;
pub(crate) const HCR_AMO: u64 = 1 << 5;
pub(crate) const HCR_VF: u64 = 1 << 6;
pub(crate) const HCR_VI: u64 = 1 << 7;
pub(crate) const HCR_VSE: u64 = 1 << 8;
pub(crate) const HCR_TGE: u64 = 1 << 27;
/// SCTLR_EL1.SPAN: PAN is left alone by exceptions.
const SCTLR_SPAN: u64 = 1 << 23;

/// PSTATE bits in an SPSR.
const SPSR_UAO: u64 = 1 << 23;
const SPSR_PAN: u64 = 1 << 22;
const SPSR_IL: u64 = 1 << 20;
const SPSR_AARCH32: u64 = 1 << 4;

/// Exception classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Unknown = 0x00,
    Wait = 0x01,
    IllegalState = 0x0e,
    Svc = 0x15,
    Hvc = 0x16,
    Smc = 0x17,
    SystemRegister = 0x18,
    /// From a lower EL; one more from the same.
    InstructionAbort = 0x20,
    PcAlignment = 0x22,
    /// From a lower EL; one more from the same.
    DataAbort = 0x24,
    SpAlignment = 0x26,
    Brk = 0x3c,
}

/// Offsets of the vectors for the kinds of exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Vector {
    Synchronous = 0x000,
    Irq = 0x080,
    Fiq = 0x100,
    SError = 0x180,
}

/// An abort, as its syndrome has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Abort {
    /// IFSC or DFSC.
    pub(crate) status: u8,
    pub(crate) address: u64,
    /// EL that takes it; 1 or 2.
    pub(crate) to: u8,
    pub(crate) s1ptw: bool,
    /// For HPFAR_EL2, where that is valid.
    pub(crate) ipa: Option<u64>,
    /// Stage 2's own: a data access may have its syndrome.
    pub(crate) stage2: bool,
    pub(crate) kind: Kind,
}

/// What was aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Fetch,
    Load,
    Store,
    /// DC or IC by VA, or AT.
    Maintenance,
}

/// The lower of the two ELs' vectors, by where the exception comes from: the same EL with SP_EL0 or its own SP, or a
/// lower one in AArch64.
const FROM_SP0: u64 = 0x000;
const FROM_SPX: u64 = 0x200;
const FROM_LOWER: u64 = 0x400;

/// Whether a virtual interrupt is pending for EL1, whatever masks it there.
pub(crate) const fn virtual_pending(registers: &Registers) -> bool {
    let hcr = registers.get(Id::HCR_EL2);
    // Each pending bit counts where its routing bit is set, three below for I and F and for A alike.
    hcr & HCR_TGE == 0 && hcr >> 3 & hcr & (HCR_FMO | HCR_IMO | HCR_AMO) != 0
}

impl Core<'_> {
    /// PSTATE as an SPSR has it.
    pub(crate) fn pstate(&self) -> u64 {
        let pe = &*self.pe;
        u64::from(pe.nzcv) << 28
            | if pe.mode.uao { SPSR_UAO } else { 0 }
            | if pe.mode.pan { SPSR_PAN } else { 0 }
            | if pe.illegal { SPSR_IL } else { 0 }
            | u64::from(pe.daif) << 6
            | u64::from(pe.mode.el) << 2
            | u64::from(pe.mode.sp_elx)
    }

    /// EL to which a synchronous exception of the program goes that nothing routes elsewhere.
    pub(crate) fn default_target(&self) -> u8 {
        let to_el2 = self.pe.mode.el == 2 || self.pe.mode.el == 0 && self.pe.registers.get(Id::HCR_EL2) & HCR_TGE != 0;
        if to_el2 { 2 } else { 1 }
    }

    /// Takes an exception to EL `to`, returning to `return_to`.
    fn enter(&mut self, to: u8, vector: Vector, return_to: u64) {
        let spsr = self.pstate();
        let pe = &mut *self.pe;
        let from = match (pe.mode.el == to, pe.mode.sp_elx) {
            (false, _) => FROM_LOWER,
            (true, false) => FROM_SP0,
            (true, true) => FROM_SPX,
        };
        pe.nested = if from == FROM_LOWER { 0 } else { pe.nested.saturating_add(1) };
        let (elr_id, spsr_id, vbar_id) =
            if to == 2 { (Id::ELR_EL2, Id::SPSR_EL2, Id::VBAR_EL2) } else { (Id::ELR_EL1, Id::SPSR_EL1, Id::VBAR_EL1) };
        pe.registers.set(elr_id, return_to);
        pe.registers.set(spsr_id, spsr);
        if pe.nested == 1 {
            pe.first_nested = pe.registers.syndrome(to);
        }
        let vbar = pe.registers.get(vbar_id);
        let span = to == 2 || pe.registers.get(Id::SCTLR_EL1) & SCTLR_SPAN != 0;
        pe.daif = 0xf;
        pe.illegal = false;
        pe.pc = vbar + from + vector as u64;
        let pan = pe.mode.pan || !span;
        self.change_mode(Mode { el: to, sp_elx: true, pan, uao: false });
        self.synchronise_context();
    }

    /// Takes a synchronous exception to EL `to` with this class and ISS. Its preferred return address is `return_to`.
    pub(crate) fn take(&mut self, to: u8, class: Class, iss: u64, return_to: u64) -> Stop {
        let esr = (class as u64) << 26 | IL | iss;
        self.pe.registers.set(if to == 2 { Id::ESR_EL2 } else { Id::ESR_EL1 }, esr);
        self.enter(to, Vector::Synchronous, return_to);
        Stop::Exception
    }

    /// The instruction is UNDEFINED.
    #[cold]
    pub(crate) fn take_undefined(&mut self) -> Stop {
        self.take(self.default_target(), Class::Unknown, 0, self.pe.pc)
    }

    /// EL2 traps the execution of the current instruction.
    #[cold]
    pub(crate) fn take_trap(&mut self, class: Class, iss: u64) -> Stop {
        self.take(2, class, iss, self.pe.pc)
    }

    /// EL2 traps the current MRS, MSR or SYS of `register`.
    #[cold]
    pub(crate) fn trap_register(&mut self, register: SysReg, is_read: bool) -> Stop {
        let iss = self.register_syndrome(register, is_read);
        self.take_trap(Class::SystemRegister, iss)
    }

    /// The ISS of a trapped MRS, MSR or SYS of `register`, the current instruction.
    pub(crate) fn register_syndrome(&self, register: SysReg, is_read: bool) -> u64 {
        let (op0, op1, crn, crm, op2) = register.fields();
        let [op0, op1, crn, crm, op2] = [op0, op1, crn, crm, op2].map(u64::from);
        let rt = u64::from(self.word().unwrap_or(0) & 0x1f);
        op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | u64::from(is_read)
    }

    /// Takes a data or instruction abort.
    #[cold]
    pub(crate) fn take_abort(&mut self, abort: Abort) -> Stop {
        const CM: u64 = 1 << 8;
        const S1PTW: u64 = 1 << 7;
        const WNR: u64 = 1 << 6;
        let Abort { status, address, to, s1ptw, ipa, stage2, kind } = abort;
        let mut iss = u64::from(status) | if s1ptw { S1PTW } else { 0 };
        let class = match kind {
            Kind::Fetch => Class::InstructionAbort,
            Kind::Load => Class::DataAbort,
            Kind::Store => {
                iss |= WNR;
                Class::DataAbort
            }
            // WnR is one for these, whatever they do.
            Kind::Maintenance => {
                iss |= WNR | CM;
                Class::DataAbort
            }
        };
        if stage2 && !s1ptw && matches!(kind, Kind::Load | Kind::Store) {
            iss |= self.access_syndrome();
        }
        let same_el = self.pe.mode.el == to;
        let esr = (class as u64 + u64::from(same_el)) << 26 | IL | iss;
        let registers = &mut self.pe.registers;
        if to == 2 {
            registers.set(Id::ESR_EL2, esr);
            registers.set(Id::FAR_EL2, address);
            if let Some(ipa) = ipa {
                registers.set(Id::HPFAR_EL2, ipa >> 12 << 4);
            }
        } else {
            registers.set(Id::ESR_EL1, esr);
            registers.set(Id::FAR_EL1, address);
        }
        self.enter(to, Vector::Synchronous, self.pe.pc);
        Stop::Exception
    }

    /// ISV, SAS, SSE, SRT, SF and AR of a data abort of stage 2, where the instruction is a load or store of one
    /// register without writeback; 0, which says that there is no such syndrome, for others.
    fn access_syndrome(&self) -> u64 {
        const ISV: u64 = 1 << 24;
        const SSE: u64 = 1 << 21;
        const SF: u64 = 1 << 15;
        const AR: u64 = 1 << 14;
        let syndrome = |size: Size, extension: Extension, access: Access, rt: u8| {
            if access.contains(Access::EXCLUSIVE) {
                return 0;
            }
            let signed = if extension == Extension::Zero { 0 } else { SSE };
            let wide = size == Size::B8 || extension == Extension::SignX;
            let ordered = access.intersects(Access::ACQUIRE | Access::ACQUIRE_PC | Access::RELEASE);
            ISV | (size as u64) << 22
                | signed
                | u64::from(rt) << 16
                | if wide { SF } else { 0 }
                | if ordered { AR } else { 0 }
        };
        match self.word().map(decode) {
            Some(Op::Load { size, extension, access, rt, .. } | Op::LoadReg { size, extension, access, rt, .. }) => {
                syndrome(size, extension, access, rt)
            }
            Some(Op::Store { size, access, rt, .. } | Op::StoreReg { size, access, rt, .. }) => {
                syndrome(size, Extension::Zero, access, rt)
            }
            _ => 0,
        }
    }

    /// Takes the interrupt that is pending and not masked, if there is one. Says whether it did.
    pub(crate) fn take_interrupt(&mut self) -> bool {
        /// PSTATE.I, as in `Pe::daif`.
        const I: u8 = 1 << 1;
        const F: u8 = 1 << 0;
        const A: u8 = 1 << 2;
        let pe = &*self.pe;
        let hcr = pe.registers.get(Id::HCR_EL2);
        let el = pe.mode.el;
        let masked = |bit: u8| pe.daif & bit != 0;
        // An interrupt routed to a higher EL is not masked by PSTATE; one routed to a lower EL is not taken.
        let physical = |route: u64, mask: u8| match hcr & (route | HCR_TGE) != 0 {
            true => (el < 2 || !masked(mask)).then_some(2),
            false => (el == 0 || el == 1 && !masked(mask)).then_some(1),
        };
        let virtually = |route: u64, pending: u64, mask: u8| {
            let virtual_on = hcr & (route | HCR_TGE) == route && hcr & pending != 0;
            (virtual_on && (el == 0 || el == 1 && !masked(mask))).then_some(1)
        };
        let irq = if self.shared.gic.asserted(pe.number) { physical(HCR_IMO, I) } else { None };
        let taken = irq
            .or_else(|| virtually(HCR_IMO, HCR_VI, I))
            .map(|to| (to, Vector::Irq))
            .or_else(|| virtually(HCR_FMO, HCR_VF, F).map(|to| (to, Vector::Fiq)))
            .or_else(|| virtually(HCR_AMO, HCR_VSE, A).map(|to| (to, Vector::SError)));
        let Some((to, vector)) = taken else { return false };
        if vector == Vector::SError {
            // A virtual SError is gone once it is taken; its syndrome says nothing.
            let hcr = self.pe.registers.get(Id::HCR_EL2) & !HCR_VSE;
            self.pe.registers.set(Id::HCR_EL2, hcr);
            self.pe.registers.set(Id::ESR_EL1, 0x2f << 26 | IL);
        }
        self.enter(to, vector, self.pe.pc);
        true
    }

    /// ERET. An illegal return stays at this EL and sets PSTATE.IL.
    pub(crate) fn return_from_exception(&mut self) -> Result<(), Stop> {
        let current = self.pe.mode.el;
        let registers = &self.pe.registers;
        let (elr, spsr) = match current {
            0 => return Err(self.take_undefined()),
            1 => (registers.get(Id::ELR_EL1), registers.get(Id::SPSR_EL1)),
            _ => (registers.get(Id::ELR_EL2), registers.get(Id::SPSR_EL2)),
        };
        let (el, sp_elx) = ((spsr >> 2 & 3) as u8, spsr & 1 != 0);
        let illegal = spsr & SPSR_AARCH32 != 0
            || spsr & 2 != 0
            || el > current
            || el == 0 && sp_elx
            || el == 1 && current == 2 && registers.get(Id::HCR_EL2) & HCR_TGE != 0;
        // EL0 of EL2&0 is not modelled.
        if el == 0 && self.pe.context.is_host() {
            return Err(Stop::Unknown { word: self.word().unwrap_or(0), pc: self.pe.pc });
        }
        let pe = &mut *self.pe;
        pe.nested = 0;
        pe.nzcv = (spsr >> 28) as u8;
        pe.daif = (spsr >> 6) as u8 & 0xf;
        pe.illegal = illegal || spsr & SPSR_IL != 0;
        pe.pc = elr;
        let (uao, pan) = (spsr & SPSR_UAO != 0, spsr & SPSR_PAN != 0);
        let mode = if illegal { Mode { uao, pan, ..pe.mode } } else { Mode { el, sp_elx, pan, uao } };
        self.clear_monitor();
        self.shared.event(self.pe.number);
        self.change_mode(mode);
        self.synchronise_context();
        if self.pe.illegal {
            // The next fetch is where PSTATE.IL is noticed.
            self.forget();
        }
        // DAIF and EL may let an interrupt through.
        self.end_turn();
        Ok(())
    }
}

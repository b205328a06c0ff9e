//! System register accesses and system instructions: who may, what traps, and what happens.

use crate::{
    a64::{Stop, SysOp, SysReg},
    exception::{Class, HCR_FMO, HCR_IMO, HCR_TGE, HCR_VF, HCR_VI, HCR_VSE, Kind},
    mmu,
    pe::{Core, Mode},
    sysreg::{self, Definition, Effect, Id, Trap},
    timer,
};

/// HCR_EL2 bits that trap EL1's accesses.
const HCR_TID1: u64 = 1 << 16;
const HCR_TID2: u64 = 1 << 17;
const HCR_TID3: u64 = 1 << 18;
const HCR_TACR: u64 = 1 << 21;
const HCR_TSW: u64 = 1 << 22;
const HCR_TPCP: u64 = 1 << 23;
const HCR_TPU: u64 = 1 << 24;
const HCR_TTLB: u64 = 1 << 25;
const HCR_TVM: u64 = 1 << 26;
const HCR_TDZ: u64 = 1 << 28;
const HCR_TRVM: u64 = 1 << 30;
/// CPTR_EL2.TCPAC.
const CPTR_TCPAC: u64 = 1 << 31;
/// CNTHCTL_EL2: EL1 may read the physical counter; and use the physical timer.
const CNTHCTL_EL1PCTEN: u64 = 1 << 0;
const CNTHCTL_EL1PCEN: u64 = 1 << 1;
/// SCTLR_EL1: EL0 may use DC ZVA; read CTR_EL0; do cache maintenance by VA.
const SCTLR_DZE: u64 = 1 << 14;
const SCTLR_UCT: u64 = 1 << 15;
const SCTLR_UCI: u64 = 1 << 26;

/// What a system instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Maintenance {
    /// DC by VA, to the Point of Coherency or Persistence.
    ToCoherency,
    /// DC IVAC.
    Invalidate,
    /// DC CVAU, IC IVAU.
    ToUnification,
    /// IC IALLU, IC IALLUIS.
    AllInstructions,
    /// DC by set and way.
    SetWay,
    /// DC ZVA.
    Zero,
}

/// The cache maintenance that an encoding stands for, and the lowest EL that may execute it.
const fn maintenance(op: SysOp) -> Option<(Maintenance, u8)> {
    Some(match op.fields() {
        (3, 7, 4, 1) => (Maintenance::Zero, 0),
        (3, 7, 10 | 12 | 14, 1) => (Maintenance::ToCoherency, 0),
        (0, 7, 6, 1) => (Maintenance::Invalidate, 1),
        (3, 7, 11, 1) | (3, 7, 5, 1) => (Maintenance::ToUnification, 0),
        (0, 7, 1 | 5, 0) => (Maintenance::AllInstructions, 1),
        (0, 7, 6 | 10 | 14, 2) => (Maintenance::SetWay, 1),
        _ => return None,
    })
}

impl Core<'_> {
    /// Whether the access is allowed at this EL and not trapped.
    fn check_register(&mut self, definition: &Definition, register: SysReg, is_read: bool) -> Result<(), Stop> {
        let el = self.pe.mode.el;
        let lowest = if is_read { definition.read } else { definition.write };
        if el < lowest {
            return Err(self.take_undefined());
        }
        if el == 2 {
            return Ok(());
        }
        let get = |id| self.pe.registers.get(id);
        let hcr = get(Id::HCR_EL2);
        if el == 0 {
            let allowed = match definition.id {
                Id::CTR_EL0 => get(Id::SCTLR_EL1) & SCTLR_UCT != 0,
                Id::CNTFRQ_EL0 => get(Id::CNTKCTL_EL1) & 3 != 0,
                Id::CNTPCT_EL0 => get(Id::CNTKCTL_EL1) & 1 << 0 != 0,
                Id::CNTVCT_EL0 => get(Id::CNTKCTL_EL1) & 1 << 1 != 0,
                Id::CNTV_TVAL_EL0 | Id::CNTV_CTL_EL0 | Id::CNTV_CVAL_EL0 => get(Id::CNTKCTL_EL1) & 1 << 8 != 0,
                Id::CNTP_TVAL_EL0 | Id::CNTP_CTL_EL0 | Id::CNTP_CVAL_EL0 => get(Id::CNTKCTL_EL1) & 1 << 9 != 0,
                _ => true,
            };
            if !allowed {
                return Err(self.trap_to(self.default_target(), register, is_read));
            }
        }
        // With E2H the fields of EL0 are below those of EL1.
        let moved = if self.pe.context.e2h() { 10 } else { 0 };
        let trapped = match definition.trap {
            Trap::No => false,
            Trap::VirtualMemory => hcr & if is_read { HCR_TRVM } else { HCR_TVM } != 0,
            Trap::Auxiliary => hcr & HCR_TACR != 0,
            Trap::Id1 => hcr & HCR_TID1 != 0,
            Trap::Id2 => hcr & HCR_TID2 != 0,
            Trap::Id3 => hcr & HCR_TID3 != 0,
            Trap::Cpacr => get(Id::CPTR_EL2) & CPTR_TCPAC != 0,
            Trap::PhysicalCounter => get(Id::CNTHCTL_EL2) >> moved & CNTHCTL_EL1PCTEN == 0,
            Trap::PhysicalTimer => get(Id::CNTHCTL_EL2) >> moved & CNTHCTL_EL1PCEN == 0,
        };
        if trapped { Err(self.trap_register(register, is_read)) } else { Ok(()) }
    }

    /// The register that `register` names at this EL.
    fn find_register(&mut self, register: SysReg) -> Result<&'static Definition, Stop> {
        let e2h = self.pe.context.e2h();
        let other = sysreg::redirected(register);
        let register = match other {
            Some(other) if self.pe.mode.el == 2 && e2h => other,
            // _EL12 and _EL02, which nobody else has.
            Some(_) if register.fields().1 == 5 => return Err(self.take_undefined()),
            _ => register,
        };
        sysreg::find(register).ok_or(Stop::UnknownRegister { reg: register, pc: self.pe.pc })
    }

    fn virtual_now(&self) -> u64 {
        self.now().wrapping_sub(self.pe.registers.get(Id::CNTVOFF_EL2))
    }

    /// MRS.
    pub(crate) fn read_register(&mut self, register: SysReg) -> Result<u64, Stop> {
        let definition = self.find_register(register)?;
        self.check_register(definition, register, true)?;
        let pe = &*self.pe;
        let get = |id| pe.registers.get(id);
        Ok(match definition.id {
            Id::CurrentEL => u64::from(pe.mode.el) << 2,
            Id::SPSel => pe.mode.sp_elx.into(),
            Id::PAN => u64::from(pe.mode.pan) << 22,
            Id::UAO => u64::from(pe.mode.uao) << 23,
            Id::NZCV => u64::from(pe.nzcv) << 28,
            Id::DAIF => u64::from(pe.daif) << 6,
            Id::SP_EL0 if !pe.mode.sp_elx => return Err(self.take_undefined()),
            Id::SP_EL0 => pe.sp[0],
            Id::SP_EL1 => pe.sp[1],
            // EL1 sees what EL2 shows it.
            Id::MIDR_EL1 if pe.mode.el == 1 => get(Id::VPIDR_EL2),
            Id::MPIDR_EL1 if pe.mode.el == 1 => get(Id::VMPIDR_EL2),
            Id::ISR_EL1 => self.pending_interrupts(),
            Id::CNTPCT_EL0 => self.now(),
            Id::CNTVCT_EL0 => self.virtual_now(),
            id @ (Id::CNTP_CTL_EL0 | Id::CNTV_CTL_EL0 | Id::CNTHP_CTL_EL2) => {
                timer::read_control(&pe.registers, id, self.now())
            }
            Id::CNTP_TVAL_EL0 => timer::read_timer_value(get(Id::CNTP_CVAL_EL0), self.now()),
            Id::CNTV_TVAL_EL0 => timer::read_timer_value(get(Id::CNTV_CVAL_EL0), self.virtual_now()),
            Id::CNTHP_TVAL_EL2 => timer::read_timer_value(get(Id::CNTHP_CVAL_EL2), self.now()),
            id => get(id),
        })
    }

    /// MSR (register).
    pub(crate) fn write_register(&mut self, register: SysReg, value: u64) -> Result<(), Stop> {
        let definition = self.find_register(register)?;
        self.check_register(definition, register, false)?;
        if definition.effect != Effect::Elsewhere {
            let lpa2 = self.shared.mmus[self.pe.number].profile().lpa2;
            let e2h = self.pe.context.e2h();
            let res0 = if lpa2 { 0 } else { sysreg::of_lpa2(definition.id, e2h) };
            self.pe.registers.write(definition, value & !res0, e2h);
        }
        let now = self.now();
        let virtual_now = self.virtual_now();
        let mode = self.pe.mode;
        match definition.id {
            Id::SPSel => self.change_mode(Mode { sp_elx: value & 1 != 0, ..mode }),
            Id::PAN => self.change_mode(Mode { pan: value & 1 << 22 != 0, ..mode }),
            Id::UAO => self.change_mode(Mode { uao: value & 1 << 23 != 0, ..mode }),
            Id::NZCV => self.pe.nzcv = (value >> 28) as u8 & 0xf,
            Id::DAIF => {
                self.pe.daif = (value >> 6) as u8 & 0xf;
                self.end_turn();
            }
            Id::SP_EL0 if !mode.sp_elx => return Err(self.take_undefined()),
            Id::SP_EL0 => self.pe.sp[0] = value,
            Id::SP_EL1 => self.pe.sp[1] = value,
            Id::CNTP_TVAL_EL0 => self.pe.registers.set(Id::CNTP_CVAL_EL0, timer::compare_value(value, now)),
            Id::CNTV_TVAL_EL0 => self.pe.registers.set(Id::CNTV_CVAL_EL0, timer::compare_value(value, virtual_now)),
            Id::CNTHP_TVAL_EL2 => self.pe.registers.set(Id::CNTHP_CVAL_EL2, timer::compare_value(value, now)),
            _ => {}
        }
        match definition.effect {
            Effect::None => {}
            Effect::Translation => {
                self.pe.update_context();
                self.shared.mmus[self.pe.number].register_written();
                self.forget_stale();
            }
            // The levels of timers are looked at between turns.
            Effect::Interrupt | Effect::Elsewhere => self.end_turn(),
        }
        Ok(())
    }

    /// ISR_EL1: A, I, F of what is pending for EL1, or at EL2 physically.
    fn pending_interrupts(&self) -> u64 {
        let hcr = self.pe.registers.get(Id::HCR_EL2);
        let bit = |set: bool, bit: u32| u64::from(set) << bit;
        let physical = self.shared.gic.asserted(self.pe.number);
        if self.pe.mode.el == 1 && hcr & HCR_TGE == 0 {
            let irq = if hcr & HCR_IMO != 0 { hcr & HCR_VI != 0 } else { physical };
            let fiq = hcr & HCR_FMO != 0 && hcr & HCR_VF != 0;
            return bit(irq, 7) | bit(fiq, 6) | bit(hcr & HCR_VSE != 0, 8);
        }
        bit(physical, 7)
    }

    /// A trap of a system register access or system instruction, to either EL.
    #[cold]
    fn trap_to(&mut self, to: u8, register: SysReg, is_read: bool) -> Stop {
        if to == 2 {
            return self.trap_register(register, is_read);
        }
        let iss = self.register_syndrome(register, is_read);
        self.take(1, Class::SystemRegister, iss, self.pe.pc)
    }

    /// SYS: cache and TLB maintenance, address translation.
    pub(crate) fn maintenance(&mut self, op: SysOp, value: u64) -> Result<(), Stop> {
        let (_, crn, crm, _) = op.fields();
        if matches!(crn, 8 | 9) {
            return self.invalidate_tlb(op, value);
        }
        if crn == 7 && matches!(crm, 8 | 9) {
            return self.translate_address(op, value);
        }
        let Some((what, lowest)) = maintenance(op) else {
            return Err(Stop::Unknown { word: self.word().unwrap_or(0), pc: self.pe.pc });
        };
        let el = self.pe.mode.el;
        if el < lowest {
            return Err(self.take_undefined());
        }
        let hcr = self.pe.registers.get(Id::HCR_EL2);
        let (allowed_at_el0, trap) = match what {
            Maintenance::ToCoherency | Maintenance::Invalidate => (SCTLR_UCI, HCR_TPCP),
            Maintenance::ToUnification => (SCTLR_UCI, HCR_TPU),
            Maintenance::AllInstructions => (0, HCR_TPU),
            Maintenance::SetWay => (0, HCR_TSW),
            Maintenance::Zero => (SCTLR_DZE, HCR_TDZ),
        };
        if el == 0 && self.pe.registers.get(Id::SCTLR_EL1) & allowed_at_el0 == 0 {
            return Err(self.trap_to(self.default_target(), SysReg(op.0), false));
        }
        if el < 2 && hcr & trap != 0 {
            return Err(self.trap_register(SysReg(op.0), false));
        }
        match what {
            Maintenance::ToCoherency | Maintenance::ToUnification => self.maintain(value, false),
            Maintenance::Invalidate => self.maintain(value, true),
            Maintenance::Zero => self.zero_block(value),
            // All PEs and walkers see the same memory, and code is decoded again when it is stored to.
            Maintenance::AllInstructions | Maintenance::SetWay => Ok(()),
        }
    }

    /// AT: translates `va` and leaves the result in PAR_EL1.
    fn translate_address(&mut self, op: SysOp, va: u64) -> Result<(), Stop> {
        const F: u64 = 1 << 0;
        const PTW: u64 = 1 << 8;
        const STAGE2: u64 = 1 << 9;
        /// RES1 of both forms of PAR_EL1.
        const ONE: u64 = 1 << 11;
        let el = self.pe.mode.el;
        // The EL named, privilege, write, both stages, and whether PAN counts.
        let (named, privileged, write, both_stages, pan) = match op.fields() {
            (0, 7, 8, op2 @ 0..=3) => (1, op2 < 2, op2 & 1 != 0, false, false),
            (0, 7, 9, op2 @ 0..=1) => (1, true, op2 != 0, false, self.pe.mode.pan),
            (4, 7, 8, op2 @ 0..=1) => (2, true, op2 != 0, false, false),
            (4, 7, 8, op2 @ 4..=7) => (1, op2 < 6, op2 & 1 != 0, true, false),
            _ => return Err(Stop::Unknown { word: self.word().unwrap_or(0), pc: self.pe.pc }),
        };
        if el == 0 || el == 1 && op.fields().0 == 4 {
            return Err(self.take_undefined());
        }
        let kind = mmu::Kind::At { write, both_stages };
        let par = match self.ask(mmu::Request { va, kind, el: named, privileged, pan }) {
            Ok(found) => {
                // Device memory and Normal Non-cacheable memory are Outer Shareable whatever the descriptor says.
                let shareability = if found.device || found.attr == 0x44 { 0b10 } else { found.shareability };
                u64::from(found.attr) << 56 | found.pa & 0xf_ffff_ffff_f000 | ONE | u64::from(shareability) << 7
            }
            Err(fault) if fault.stall => return Err(self.abort(Kind::Maintenance, &fault)),
            // A fault of stage 2 on a table walk of stage 1 is EL2's to take, where the AT is EL1's.
            Err(fault) if el == 1 && fault.stage2 => return Err(self.abort(Kind::Maintenance, &fault)),
            Err(fault) => {
                let stage2 = if fault.stage2 { STAGE2 } else { 0 };
                F | u64::from(fault.fsc) << 1 | if fault.s1ptw { PTW } else { 0 } | stage2 | ONE
            }
        };
        self.pe.registers.set(Id::PAR_EL1, par);
        Ok(())
    }

    /// TLBI.
    fn invalidate_tlb(&mut self, op: SysOp, value: u64) -> Result<(), Stop> {
        let (op1, crn, crm, op2) = op.fields();
        let [op1, crn, crm, op2] = [op1, crn, crm, op2].map(|field| field as u8);
        let lpa2 = self.shared.mmus[self.pe.number].profile().lpa2;
        let Some(tlbi) = mmu::TlbiOp::decode((op1, crn, crm, op2), value, &self.pe.context, lpa2) else {
            return Err(Stop::Unknown { word: self.word().unwrap_or(0), pc: self.pe.pc });
        };
        let el = self.pe.mode.el;
        if el == 0 || el == 1 && op1 != 0 {
            return Err(self.take_undefined());
        }
        if el == 1 && self.pe.registers.get(Id::HCR_EL2) & HCR_TTLB != 0 {
            return Err(self.trap_register(SysReg(op.0), false));
        }
        self.issue_tlbi(tlbi);
        Ok(())
    }
}

//! Execution of one instruction.

use super::{
    alu,
    op::{
        Access, AtomicOp, Barrier, Call, Condition, Extend, Hint, Index, Op, PstateField, Select, Size, SysOp, SysReg,
        Width,
    },
};

/// Why an instruction did not complete in the ordinary way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The environment took an exception: PC is at the vector already.
    Exception,
    /// The model does not know the instruction `word` at `pc`.
    Unknown {
        /// The instruction.
        word: u32,
        /// Its address.
        pc: u64,
    },
    /// The model does not know the system register that the instruction at `pc` uses.
    UnknownRegister {
        /// The register.
        reg: SysReg,
        /// The address of the instruction.
        pc: u64,
    },
    /// The software ended the machine, with this status.
    Exit(i32),
}

/// The machine around an instruction: registers, memory, and whatever else it reaches.
///
/// Until a method other than [`set_pc`](Env::set_pc) returns, PC is the address of the instruction. Whatever can fail
/// is called before the instruction changes a register, so that an instruction that faults has changed none. When a
/// method returns an error, [`execute`] does nothing more.
///
/// Addresses are what the instruction computed: tags are not removed and alignment is not checked. Elements of memory
/// are passed in the low bits, with zeros above them.
pub trait Env {
    /// General-purpose register `n`, 0 to 30.
    fn x(&self, n: u8) -> u64;
    /// Writes general-purpose register `n`, 0 to 30.
    fn set_x(&mut self, n: u8, value: u64);
    /// The current SP.
    fn sp(&self) -> u64;
    /// Writes the current SP.
    fn set_sp(&mut self, value: u64);
    /// PC.
    fn pc(&self) -> u64;
    /// Writes PC.
    fn set_pc(&mut self, value: u64);
    /// The flags NZCV, in bits 3 to 0.
    fn nzcv(&self) -> u8;
    /// Writes the flags.
    fn set_nzcv(&mut self, value: u8);

    /// Loads one element; with [`Access::EXCLUSIVE`], sets the exclusive monitors.
    ///
    /// # Errors
    /// The access faults.
    fn load(&mut self, va: u64, size: Size, access: Access) -> Result<u64, Stop>;

    /// Stores one element, not exclusively.
    ///
    /// # Errors
    /// The access faults.
    fn store(&mut self, va: u64, size: Size, value: u64, access: Access) -> Result<(), Stop>;

    /// Loads two adjacent elements of 4 or 8 bytes, each single-copy atomic; with [`Access::EXCLUSIVE`] (LDXP) it is
    /// one exclusive access of both.
    ///
    /// # Errors
    /// The access faults.
    fn load_pair(&mut self, va: u64, size: Size, access: Access) -> Result<(u64, u64), Stop>;

    /// Stores two adjacent elements of 4 or 8 bytes, each single-copy atomic.
    ///
    /// # Errors
    /// The access faults.
    fn store_pair(&mut self, va: u64, size: Size, values: (u64, u64), access: Access) -> Result<(), Stop>;

    /// Stores one element if the exclusive monitors allow it, clears them, and says whether it did.
    ///
    /// # Errors
    /// The access faults.
    fn store_exclusive(&mut self, va: u64, size: Size, value: u64, access: Access) -> Result<bool, Stop>;

    /// Like [`store_exclusive`](Env::store_exclusive), of two adjacent elements at once.
    ///
    /// # Errors
    /// The access faults.
    fn store_exclusive_pair(&mut self, va: u64, size: Size, values: (u64, u64), access: Access) -> Result<bool, Stop>;

    /// Clears the local exclusive monitor.
    fn clear_exclusive(&mut self);

    /// Replaces one element by what [`AtomicOp::apply`] makes of it, atomically; the element before that. Whatever it
    /// stores, the access is checked as a load and as a store.
    ///
    /// # Errors
    /// The access faults.
    fn atomic(&mut self, va: u64, size: Size, access: Access, op: AtomicOp, operand: u64) -> Result<u64, Stop>;

    /// CASP: replaces two adjacent elements of 4 or 8 bytes by `new` if both are `expected`; the elements before that.
    ///
    /// # Errors
    /// The access faults.
    fn compare_and_swap_pair(
        &mut self,
        va: u64,
        size: Size,
        access: Access,
        expected: (u64, u64),
        new: (u64, u64),
    ) -> Result<(u64, u64), Stop>;

    /// MRS.
    ///
    /// # Errors
    /// The access is trapped or UNDEFINED, or the register unknown.
    fn read_sysreg(&mut self, reg: SysReg) -> Result<u64, Stop>;

    /// MSR (register).
    ///
    /// # Errors
    /// The access is trapped or UNDEFINED, or the register unknown.
    fn write_sysreg(&mut self, reg: SysReg, value: u64) -> Result<(), Stop>;

    /// MSR (immediate).
    ///
    /// # Errors
    /// The access is trapped or UNDEFINED.
    fn write_pstate(&mut self, field: PstateField, imm: u8) -> Result<(), Stop>;

    /// SYS: AT, DC, IC, TLBI and others, with the value of the register operand (0 for XZR).
    ///
    /// # Errors
    /// The instruction is trapped, UNDEFINED or unknown, or faults.
    fn system(&mut self, op: SysOp, value: u64) -> Result<(), Stop>;

    /// SYSL.
    ///
    /// # Errors
    /// The instruction is trapped, UNDEFINED or unknown.
    fn system_result(&mut self, op: SysOp) -> Result<u64, Stop>;

    /// DMB, DSB, ISB, SB.
    fn barrier(&mut self, barrier: Barrier);

    /// A hint that is more than a NOP. A PE that is to sleep (WFI, WFE) returns `Ok`: it goes on behind the hint.
    ///
    /// # Errors
    /// The hint is trapped.
    fn hint(&mut self, hint: Hint) -> Result<(), Stop>;

    /// SVC, HVC, SMC, HLT, BRK. Either the environment takes the exception (of which some prefer to return behind the
    /// instruction, and PC is still at it), or it serves the call and returns `Ok`.
    ///
    /// # Errors
    /// An exception was taken, or the call ends the machine.
    fn call(&mut self, call: Call) -> Result<(), Stop>;

    /// ERET; sets PC.
    ///
    /// # Errors
    /// The instruction is trapped or UNDEFINED.
    fn exception_return(&mut self) -> Result<(), Stop>;

    /// An instruction that UDF or [`Op::Unknown`] stands for. The environment decides whether it is UNDEFINED, in
    /// which case the exception is taken, or something that it had better not guess at: [`Stop::Unknown`].
    ///
    /// # Errors
    /// Always, except where the environment implements the instruction itself.
    fn undefined(&mut self, word: u32) -> Result<(), Stop>;
}

/// Register `n`, where 31 is XZR.
#[inline(always)]
fn get<E: Env>(env: &E, n: u8) -> u64 {
    if n == 31 { 0 } else { env.x(n) }
}

/// Register `n`, where 31 is SP.
#[inline(always)]
fn get_sp<E: Env>(env: &E, n: u8) -> u64 {
    if n == 31 { env.sp() } else { env.x(n) }
}

/// Writes register `n`, where 31 is XZR.
#[inline(always)]
fn set<E: Env>(env: &mut E, n: u8, value: u64) {
    if n != 31 {
        env.set_x(n, value);
    }
}

/// Writes register `n`, where 31 is SP.
#[inline(always)]
fn set_sp<E: Env>(env: &mut E, n: u8, value: u64) {
    if n == 31 { env.set_sp(value) } else { env.set_x(n, value) }
}

/// All ones to subtract, zero to add: inverts an operand.
#[inline(always)]
fn inversion(invert: bool) -> u64 {
    u64::from(invert).wrapping_neg()
}

/// The sum or difference, without flags.
#[inline(always)]
fn add(width: Width, sub: bool, a: u64, b: u64) -> u64 {
    width.truncate(if sub { a.wrapping_sub(b) } else { a.wrapping_add(b) })
}

/// The sum or difference; sets the flags.
#[inline(always)]
fn adds<E: Env>(env: &mut E, width: Width, sub: bool, a: u64, b: u64) -> u64 {
    let (result, nzcv) = alu::add_with_carry(width, a, b ^ inversion(sub), sub);
    env.set_nzcv(nzcv);
    result
}

/// Conditional compare.
#[inline(always)]
fn compare<E: Env>(env: &mut E, width: Width, sub: bool, condition: Condition, a: u64, b: u64, otherwise: u8) {
    let nzcv =
        if condition.holds(env.nzcv()) { alu::add_with_carry(width, a, b ^ inversion(sub), sub).1 } else { otherwise };
    env.set_nzcv(nzcv);
}

/// Base and offset register.
#[inline(always)]
fn address<E: Env>(env: &E, rn: u8, rm: u8, extend: Extend, amount: u8) -> u64 {
    get_sp(env, rn).wrapping_add(alu::extend(get(env, rm), extend, amount))
}

/// The address of an access whose base register is written back, and what is written back.
#[inline(always)]
fn indexed(base: u64, offset: i16, pre: bool) -> (u64, u64) {
    let moved = base.wrapping_add_signed(i64::from(offset));
    (if pre { moved } else { base }, moved)
}

/// Two registers.
#[inline(always)]
fn pair<E: Env>(env: &E, size: Size, first: u8, second: u8) -> (u64, u64) {
    (size.truncate(get(env, first)), size.truncate(get(env, second)))
}

/// Executes one instruction, PC included.
///
/// # Errors
/// Those of the environment. It has then dealt with PC; registers and flags are unchanged.
#[inline]
#[expect(clippy::too_many_lines, reason = "one arm an instruction")]
pub fn execute<E: Env>(op: Op, env: &mut E) -> Result<(), Stop> {
    let pc = env.pc();
    let mut next = pc.wrapping_add(4);
    let branch = |offset: i32| pc.wrapping_add_signed(i64::from(offset));
    match op {
        Op::Nop => {}
        Op::Movz { rd, value } => set(env, rd, value),
        Op::Movk { width, rd, shift, imm } => {
            let kept = get(env, rd) & !(0xffff << shift);
            set(env, rd, width.truncate(kept | u64::from(imm) << shift));
        }
        Op::Mov { width, rd, rm } => set(env, rd, width.truncate(get(env, rm))),
        Op::Adr { rd, offset } => set(env, rd, pc.wrapping_add_signed(offset)),
        Op::Adrp { rd, offset } => set(env, rd, (pc & !0xfff).wrapping_add_signed(offset)),

        Op::AddImm { width, rd, rn, imm } => set_sp(env, rd, add(width, false, get_sp(env, rn), imm)),
        Op::AddsImm { width, rd, rn, carry, imm } => {
            let (result, nzcv) = alu::add_with_carry(width, get_sp(env, rn), imm, carry);
            env.set_nzcv(nzcv);
            set(env, rd, result);
        }
        Op::AddReg { width, sub, rd, rn, rm, shift, amount } => {
            let operand = alu::shift(width, get(env, rm), shift, amount);
            set(env, rd, add(width, sub, get(env, rn), operand));
        }
        Op::AddsReg { width, sub, rd, rn, rm, shift, amount } => {
            let operand = alu::shift(width, get(env, rm), shift, amount);
            let result = adds(env, width, sub, get(env, rn), operand);
            set(env, rd, result);
        }
        Op::AddExt { width, sub, rd, rn, rm, extend, amount } => {
            let operand = alu::extend(get(env, rm), extend, amount);
            set_sp(env, rd, add(width, sub, get_sp(env, rn), operand));
        }
        Op::AddsExt { width, sub, rd, rn, rm, extend, amount } => {
            let operand = alu::extend(get(env, rm), extend, amount);
            let result = adds(env, width, sub, get_sp(env, rn), operand);
            set(env, rd, result);
        }
        Op::Adc { width, sub, flags, rd, rn, rm } => {
            let carry = env.nzcv() & alu::C != 0;
            let (result, nzcv) = alu::add_with_carry(width, get(env, rn), get(env, rm) ^ inversion(sub), carry);
            if flags {
                env.set_nzcv(nzcv);
            }
            set(env, rd, result);
        }

        Op::LogicalImm { width, op, rd, rn, imm } => set_sp(env, rd, alu::logical(width, op, get(env, rn), imm)),
        Op::AndsImm { width, rd, rn, imm } => {
            let result = get(env, rn) & imm;
            env.set_nzcv(alu::nz(width, result));
            set(env, rd, result);
        }
        Op::LogicalReg { width, op, invert, rd, rn, rm, shift, amount } => {
            let operand = alu::shift(width, get(env, rm), shift, amount) ^ inversion(invert);
            set(env, rd, alu::logical(width, op, get(env, rn), operand));
        }
        Op::AndsReg { width, invert, rd, rn, rm, shift, amount } => {
            let operand = alu::shift(width, get(env, rm), shift, amount) ^ inversion(invert);
            let result = width.truncate(get(env, rn) & operand);
            env.set_nzcv(alu::nz(width, result));
            set(env, rd, result);
        }

        Op::Ubfm { rd, rn, left, right } => set(env, rd, get(env, rn) << left >> right),
        Op::Sbfm { width, rd, rn, left, right } => {
            set(env, rd, width.truncate(((get(env, rn) << left) as i64 >> right) as u64));
        }
        Op::Bfm { width, rd, rn, left, right } => {
            let field = u64::MAX << left >> right;
            let inserted = get(env, rn) << left >> right;
            set(env, rd, width.truncate(get(env, rd) & !field | inserted));
        }
        Op::Extr { width, rd, rn, rm, lsb } => {
            let (high, low) = (get(env, rn), get(env, rm));
            let result = match width {
                Width::W => (high << 32 | Width::W.truncate(low)) >> lsb,
                Width::X => ((u128::from(high) << 64 | u128::from(low)) >> lsb) as u64,
            };
            set(env, rd, width.truncate(result));
        }

        Op::Csel { width, op, cond, rd, rn, rm } => {
            let result = if cond.holds(env.nzcv()) {
                get(env, rn)
            } else {
                let value = get(env, rm);
                match op {
                    Select::Csel => value,
                    Select::Csinc => value.wrapping_add(1),
                    Select::Csinv => !value,
                    Select::Csneg => value.wrapping_neg(),
                }
            };
            set(env, rd, width.truncate(result));
        }
        Op::CcmpReg { width, sub, cond, rn, rm, nzcv } => {
            compare(env, width, sub, cond, get(env, rn), get(env, rm), nzcv);
        }
        Op::CcmpImm { width, sub, cond, rn, imm, nzcv } => {
            compare(env, width, sub, cond, get(env, rn), u64::from(imm), nzcv);
        }
        Op::Unary { width, op, rd, rn } => set(env, rd, alu::unary(width, op, get(env, rn))),
        Op::Binary { width, op, rd, rn, rm } => set(env, rd, alu::binary(width, op, get(env, rn), get(env, rm))),
        Op::Madd { width, sub, rd, rn, rm, ra } => {
            let product = get(env, rn).wrapping_mul(get(env, rm));
            set(env, rd, add(width, sub, get(env, ra), product));
        }
        Op::MaddLong { op, rd, rn, rm, ra } => {
            set(env, rd, alu::multiply_long(op, get(env, rn), get(env, rm), get(env, ra)));
        }
        Op::Mulh { signed, rd, rn, rm } => set(env, rd, alu::multiply_high(signed, get(env, rn), get(env, rm))),
        Op::Cfinv => env.set_nzcv(env.nzcv() ^ alu::C),
        Op::Rmif { rn, rotate, mask } => {
            let rotated = get(env, rn).rotate_right(u32::from(rotate)) as u8;
            env.set_nzcv(env.nzcv() & !mask | rotated & mask);
        }
        Op::Setf { size, rn } => {
            let value = get(env, rn);
            let sign = |bit: u32| (value >> bit) as u8 & 1;
            let top = size.bits() - 1;
            let zero = u8::from(size.truncate(value) == 0);
            env.set_nzcv(sign(top) << 3 | zero << 2 | env.nzcv() & alu::C | sign(top) ^ sign(top + 1));
        }

        Op::B { offset } => next = branch(offset),
        Op::Bl { offset } => {
            env.set_x(30, next);
            next = branch(offset);
        }
        Op::BCond { cond, offset } => {
            if cond.holds(env.nzcv()) {
                next = branch(offset);
            }
        }
        Op::Cbz { width, nonzero, rt, offset } => {
            if (width.truncate(get(env, rt)) != 0) == nonzero {
                next = branch(offset);
            }
        }
        Op::Tbz { nonzero, rt, bit, offset } => {
            if (get(env, rt) >> bit & 1 != 0) == nonzero {
                next = branch(offset);
            }
        }
        Op::Br { rn } => next = get(env, rn),
        Op::Blr { rn } => {
            let target = get(env, rn);
            env.set_x(30, next);
            next = target;
        }
        Op::Eret => return env.exception_return(),

        Op::Load { size, extension, access, rt, rn, offset } => {
            let va = get_sp(env, rn).wrapping_add_signed(i64::from(offset));
            let value = env.load(va, size, access)?;
            set(env, rt, alu::extend_loaded(value, size, extension));
        }
        Op::Store { size, access, rt, rn, offset } => {
            let va = get_sp(env, rn).wrapping_add_signed(i64::from(offset));
            env.store(va, size, size.truncate(get(env, rt)), access)?;
        }
        Op::LoadIndexed { size, extension, access, pre, rt, rn, offset } => {
            let (va, base) = indexed(get_sp(env, rn), offset, pre);
            let value = env.load(va, size, access)?;
            set_sp(env, rn, base);
            set(env, rt, alu::extend_loaded(value, size, extension));
        }
        Op::StoreIndexed { size, access, pre, rt, rn, offset } => {
            let (va, base) = indexed(get_sp(env, rn), offset, pre);
            env.store(va, size, size.truncate(get(env, rt)), access)?;
            set_sp(env, rn, base);
        }
        Op::LoadReg { size, extension, access, rt, rn, rm, extend, amount } => {
            let value = env.load(address(env, rn, rm, extend, amount), size, access)?;
            set(env, rt, alu::extend_loaded(value, size, extension));
        }
        Op::StoreReg { size, access, rt, rn, rm, extend, amount } => {
            let va = address(env, rn, rm, extend, amount);
            env.store(va, size, size.truncate(get(env, rt)), access)?;
        }
        Op::LoadLiteral { size, extension, rt, offset } => {
            let value = env.load(branch(offset), size, Access::empty())?;
            set(env, rt, alu::extend_loaded(value, size, extension));
        }
        Op::LoadPair { size, extension, access, index, rt, rt2, rn, offset } => {
            let (va, base) = indexed(get_sp(env, rn), offset, index != Index::Post);
            let (first, second) = env.load_pair(va, size, access)?;
            if index != Index::Offset {
                set_sp(env, rn, base);
            }
            set(env, rt, alu::extend_loaded(first, size, extension));
            set(env, rt2, alu::extend_loaded(second, size, extension));
        }
        Op::StorePair { size, access, index, rt, rt2, rn, offset } => {
            let (va, base) = indexed(get_sp(env, rn), offset, index != Index::Post);
            env.store_pair(va, size, pair(env, size, rt, rt2), access)?;
            if index != Index::Offset {
                set_sp(env, rn, base);
            }
        }

        Op::StoreExclusive { size, access, rs, rt, rn } => {
            let stored = env.store_exclusive(get_sp(env, rn), size, size.truncate(get(env, rt)), access)?;
            set(env, rs, u64::from(!stored));
        }
        Op::StoreExclusivePair { size, access, rs, rt, rt2, rn } => {
            let stored = env.store_exclusive_pair(get_sp(env, rn), size, pair(env, size, rt, rt2), access)?;
            set(env, rs, u64::from(!stored));
        }
        Op::Clrex => env.clear_exclusive(),
        Op::Atomic { size, access, op, rs, rt, rn } => {
            let operand = size.truncate(get(env, rs));
            let old = env.atomic(get_sp(env, rn), size, access, AtomicOp::Rmw(op), operand)?;
            set(env, rt, old);
        }
        Op::Cas { size, access, rs, rt, rn } => {
            let expected = size.truncate(get(env, rs));
            let new = size.truncate(get(env, rt));
            let old = env.atomic(get_sp(env, rn), size, access, AtomicOp::Cas { expected }, new)?;
            set(env, rs, old);
        }
        Op::Casp { size, access, rs, rt, rn } => {
            let (expected, new) = (pair(env, size, rs, rs + 1), pair(env, size, rt, rt + 1));
            let old = env.compare_and_swap_pair(get_sp(env, rn), size, access, expected, new)?;
            set(env, rs, old.0);
            set(env, rs + 1, old.1);
        }

        Op::Mrs { rt, reg } => {
            let value = env.read_sysreg(reg)?;
            set(env, rt, value);
        }
        Op::Msr { rt, reg } => env.write_sysreg(reg, get(env, rt))?,
        Op::MsrImm { field, imm } => env.write_pstate(field, imm)?,
        Op::Sys { rt, op } => env.system(op, get(env, rt))?,
        Op::Sysl { rt, op } => {
            let value = env.system_result(op)?;
            set(env, rt, value);
        }
        Op::Barrier(barrier) => env.barrier(barrier),
        Op::Hint(hint) => env.hint(hint)?,
        Op::Call(call) => env.call(call)?,
        Op::Udf(imm) => env.undefined(u32::from(imm))?,
        Op::Unknown(word) => env.undefined(word)?,
    }
    env.set_pc(next);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::a64::{
        decode,
        flat::{Flat, Region},
    };

    const CODE: u64 = 0x1000;
    const DATA: u64 = 0x8000;

    /// A machine with 64 bytes of data and all bases in it.
    fn machine() -> Flat {
        let mut machine = Flat::new(CODE, vec![Region { base: DATA, bytes: (0..64).collect() }]);
        machine.x = core::array::from_fn(|n| n as u64 + 100);
        (machine.x[2], machine.sp) = (DATA + 16, DATA + 32);
        machine
    }

    fn run(machine: &mut Flat, words: &[u32]) -> Result<(), Stop> {
        words.iter().try_for_each(|word| execute(decode(*word), machine))
    }

    /// Whatever stops an instruction, registers, flags and PC are as before it.
    #[test]
    fn stopped_instructions_change_nothing() {
        for (word, text) in [
            (0xf840_8c41, "ldr x1, [x2, #8]!"),
            (0xf840_8441, "ldr x1, [x2], #8"),
            (0xf800_8c41, "str x1, [x2, #8]!"),
            (0xf800_8441, "str x1, [x2], #8"),
            (0xa8c1_0c41, "ldp x1, x3, [x2], #16"),
            (0xa981_0c41, "stp x1, x3, [x2, #16]!"),
            (0xa9bf_7bfd, "stp x29, x30, [sp, #-16]!"),
            (0xf861_6841, "ldr x1, [x2, x1]"),
            (0xc8df_fc42, "ldar x2, [x2]"),
            (0xc85f_7c42, "ldxr x2, [x2]"),
            (0xc87f_0c42, "ldxp x2, x3, [x2]"),
            (0xc801_7c43, "stxr w1, x3, [x2]"),
            (0xf821_0041, "ldadd x1, x1, [x2]"),
            (0xc8a1_7c43, "cas x1, x3, [x2]"),
            (0x4824_7c46, "casp x4, x5, x6, x7, [x2]"),
            (0xd400_0001, "svc #0"),
            (0xd69f_03e0, "eret"),
            (0xd538_1001, "mrs x1, sctlr_el1"),
            (0xd500_41bf, "msr spsel, #1"),
            (0xd508_871f, "tlbi vmalle1"),
            (0x0000_0000, "udf #0"),
        ] {
            let mut machine = machine();
            machine.memory.clear();
            let before = machine.clone();
            assert!(run(&mut machine, &[word]).is_err(), "{text}");
            machine.fault = None;
            assert_eq!(machine, before, "{text}");
        }
    }

    #[test]
    fn stops_name_the_instruction() {
        assert_eq!(run(&mut machine(), &[0x1e60_2820]), Err(Stop::Unknown { word: 0x1e60_2820, pc: CODE }));
        assert_eq!(run(&mut machine(), &[7]), Err(Stop::Unknown { word: 7, pc: CODE }));
        let reg = SysReg::new(3, 0, 1, 0, 0);
        assert_eq!(run(&mut machine(), &[0xd538_1001]), Err(Stop::UnknownRegister { reg, pc: CODE }));
        assert_eq!(run(&mut machine(), &[0xd440_0020]), Err(Stop::Exit(1)));
    }

    #[test]
    fn register_31() -> Result<(), Stop> {
        let mut machine = machine();
        // add x1, sp, #1; add x3, xzr, x1
        run(&mut machine, &[0x9100_07e1, 0x8b01_03e3])?;
        assert_eq!((machine.x[1], machine.x[3]), (DATA + 33, DATA + 33));
        // cmn xzr, xzr
        run(&mut machine, &[0xab1f_03ff])?;
        assert_eq!(machine.nzcv, alu::Z);
        // sub sp, sp, #16; tst x1, #1
        run(&mut machine, &[0xd100_43ff, 0xf240_003f])?;
        assert_eq!((machine.sp, machine.nzcv, machine.pc), (DATA + 16, 0, CODE + 20));
        Ok(())
    }

    #[test]
    fn exclusives() -> Result<(), Stop> {
        const LDXR: u32 = 0xc85f_7c43; // ldxr x3, [x2]
        const STXR: u32 = 0xc801_7c44; // stxr w1, x4, [x2]
        const CLREX: u32 = 0xd503_3f5f;
        for (words, status) in [
            (&[LDXR, STXR] as &[u32], 0),
            (&[STXR], 1),
            (&[LDXR, CLREX, STXR], 1),
            // Only the first store has the monitor.
            (&[LDXR, STXR, STXR], 1),
        ] {
            let mut machine = machine();
            run(&mut machine, words)?;
            assert_eq!(machine.x[1], status, "{words:x?}");
        }
        Ok(())
    }

    #[test]
    fn misaligned_exclusives_and_atomics_fault() {
        for word in [0xc85f_7c43, 0xc8df_fc43, 0xf821_0043, 0xc8a1_7c43] {
            let mut machine = machine();
            machine.x[2] += 4;
            assert_eq!(run(&mut machine, &[word]), Err(Stop::Exception), "{word:#x}");
            assert_eq!(machine.fault, Some(DATA + 20));
        }
    }
}

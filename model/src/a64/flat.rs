//! The least machine around an instruction: registers, a few regions of memory, no translation, no system.
//!
//! It is what a user program sees, and what the comparison with QEMU, the tests and the measurement of speed run on.

use super::{
    exec::{Env, Stop},
    op::{Access, AtomicOp, Barrier, Call, Hint, PstateField, Size, SysOp, SysReg},
};

/// The flags as a register: NZCV.
pub const NZCV: SysReg = SysReg::new(3, 3, 4, 2, 0);

/// Memory from one address on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The address of the first byte.
    pub base: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The machine.
///
/// An access that no region holds, or whose instruction demands an alignment that the address lacks, stops with
/// [`Stop::Exception`] and is noted in `fault`; so do the calls except HLT, which ends the machine with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flat {
    /// X0 to X30.
    pub x: [u64; 31],
    /// SP.
    pub sp: u64,
    /// PC.
    pub pc: u64,
    /// NZCV in bits 3 to 0.
    pub nzcv: u8,
    /// Memory; regions do not overlap.
    pub memory: Vec<Region>,
    /// The address of the last access that faulted.
    pub fault: Option<u64>,
    /// What the last load-exclusive read, its address and number of bytes, until something clears it.
    monitor: Option<(u64, u64)>,
}

impl Flat {
    /// A machine whose registers are zero.
    #[must_use]
    pub const fn new(pc: u64, memory: Vec<Region>) -> Self {
        Self { x: [0; 31], sp: 0, pc, nzcv: 0, memory, fault: None, monitor: None }
    }

    /// The instruction at PC.
    ///
    /// # Errors
    /// There is no memory, or PC is not a multiple of 4.
    #[inline]
    pub fn fetch(&mut self) -> Result<u32, Stop> {
        let pc = self.pc;
        let bytes = self.locate(pc, 4, pc.is_multiple_of(4))?;
        Ok(read(bytes) as u32)
    }

    /// The `length` bytes at `va`, if the access may be made.
    #[inline]
    fn locate(&mut self, va: u64, length: u64, aligned: bool) -> Result<&mut [u8], Stop> {
        let holder = self.memory.iter_mut().find_map(|region| {
            let start = usize::try_from(va.checked_sub(region.base)?).ok()?;
            region.bytes.get_mut(start..start.checked_add(length as usize)?)
        });
        if aligned && let Some(bytes) = holder {
            return Ok(bytes);
        }
        self.fault = Some(va);
        Err(Stop::Exception)
    }

    /// The bytes of an access, and whether an exclusive store may be made to them.
    #[inline]
    fn access(&mut self, va: u64, length: u64, access: Access) -> Result<(bool, &mut [u8]), Stop> {
        let aligned = !access.needs_alignment() || va.is_multiple_of(length);
        let monitored = self.monitor == Some((va, length));
        Ok((monitored, self.locate(va, length, aligned)?))
    }

    fn mark(&mut self, va: u64, length: u64, access: Access) {
        if access.contains(Access::EXCLUSIVE) {
            self.monitor = Some((va, length));
        }
    }
}

/// Up to eight bytes, little-endian.
#[inline]
fn read(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(value)
}

/// Replaces up to eight bytes, little-endian.
#[inline]
fn write(bytes: &mut [u8], value: u64) {
    bytes.copy_from_slice(&value.to_le_bytes()[..bytes.len()]);
}

/// Two elements that fill `bytes`.
#[inline]
fn read_pair(bytes: &[u8]) -> (u64, u64) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    (read(first), read(second))
}

#[inline]
fn write_pair(bytes: &mut [u8], values: (u64, u64)) {
    let (first, second) = bytes.split_at_mut(bytes.len() / 2);
    write(first, values.0);
    write(second, values.1);
}

impl Env for Flat {
    #[inline]
    fn x(&self, n: u8) -> u64 {
        self.x[usize::from(n)]
    }

    #[inline]
    fn set_x(&mut self, n: u8, value: u64) {
        self.x[usize::from(n)] = value;
    }

    #[inline]
    fn sp(&self) -> u64 {
        self.sp
    }

    #[inline]
    fn set_sp(&mut self, value: u64) {
        self.sp = value;
    }

    #[inline]
    fn pc(&self) -> u64 {
        self.pc
    }

    #[inline]
    fn set_pc(&mut self, value: u64) {
        self.pc = value;
    }

    #[inline]
    fn nzcv(&self) -> u8 {
        self.nzcv
    }

    #[inline]
    fn set_nzcv(&mut self, value: u8) {
        self.nzcv = value;
    }

    #[inline]
    fn load(&mut self, va: u64, size: Size, access: Access) -> Result<u64, Stop> {
        let value = read(self.access(va, size.bytes(), access)?.1);
        self.mark(va, size.bytes(), access);
        Ok(value)
    }

    #[inline]
    fn store(&mut self, va: u64, size: Size, value: u64, access: Access) -> Result<(), Stop> {
        write(self.access(va, size.bytes(), access)?.1, value);
        Ok(())
    }

    #[inline]
    fn load_pair(&mut self, va: u64, size: Size, access: Access) -> Result<(u64, u64), Stop> {
        let values = read_pair(self.access(va, 2 * size.bytes(), access)?.1);
        self.mark(va, 2 * size.bytes(), access);
        Ok(values)
    }

    #[inline]
    fn store_pair(&mut self, va: u64, size: Size, values: (u64, u64), access: Access) -> Result<(), Stop> {
        write_pair(self.access(va, 2 * size.bytes(), access)?.1, values);
        Ok(())
    }

    fn store_exclusive(&mut self, va: u64, size: Size, value: u64, access: Access) -> Result<bool, Stop> {
        let (monitored, bytes) = self.access(va, size.bytes(), access)?;
        if monitored {
            write(bytes, value);
        }
        self.clear_exclusive();
        Ok(monitored)
    }

    fn store_exclusive_pair(&mut self, va: u64, size: Size, values: (u64, u64), access: Access) -> Result<bool, Stop> {
        let (monitored, bytes) = self.access(va, 2 * size.bytes(), access)?;
        if monitored {
            write_pair(bytes, values);
        }
        self.clear_exclusive();
        Ok(monitored)
    }

    fn clear_exclusive(&mut self) {
        self.monitor = None;
    }

    fn atomic(&mut self, va: u64, size: Size, _: Access, op: AtomicOp, operand: u64) -> Result<u64, Stop> {
        let bytes = self.locate(va, size.bytes(), va.is_multiple_of(size.bytes()))?;
        let old = read(bytes);
        if let Some(new) = op.apply(size, old, operand) {
            write(bytes, new);
        }
        Ok(old)
    }

    fn compare_and_swap_pair(
        &mut self,
        va: u64,
        size: Size,
        _: Access,
        expected: (u64, u64),
        new: (u64, u64),
    ) -> Result<(u64, u64), Stop> {
        let length = 2 * size.bytes();
        let bytes = self.locate(va, length, va.is_multiple_of(length))?;
        let old = read_pair(bytes);
        if old == expected {
            write_pair(bytes, new);
        }
        Ok(old)
    }

    fn read_sysreg(&mut self, reg: SysReg) -> Result<u64, Stop> {
        if reg == NZCV { Ok(u64::from(self.nzcv) << 28) } else { Err(Stop::UnknownRegister { reg, pc: self.pc }) }
    }

    fn write_sysreg(&mut self, reg: SysReg, value: u64) -> Result<(), Stop> {
        if reg != NZCV {
            return Err(Stop::UnknownRegister { reg, pc: self.pc });
        }
        self.nzcv = (value >> 28) as u8 & 15;
        Ok(())
    }

    fn write_pstate(&mut self, _: PstateField, _: u8) -> Result<(), Stop> {
        Err(Stop::Exception)
    }

    fn system(&mut self, _: SysOp, _: u64) -> Result<(), Stop> {
        Err(Stop::Exception)
    }

    fn system_result(&mut self, _: SysOp) -> Result<u64, Stop> {
        Err(Stop::Exception)
    }

    /// There is one PE, which executes in order.
    fn barrier(&mut self, _: Barrier) {}

    /// There is nothing to wait for and nobody to tell.
    fn hint(&mut self, _: Hint) -> Result<(), Stop> {
        Ok(())
    }

    fn call(&mut self, call: Call) -> Result<(), Stop> {
        Err(match call {
            Call::Hlt(number) => Stop::Exit(i32::from(number)),
            _ => Stop::Exception,
        })
    }

    fn exception_return(&mut self) -> Result<(), Stop> {
        Err(Stop::Exception)
    }

    fn undefined(&mut self, word: u32) -> Result<(), Stop> {
        Err(Stop::Unknown { word, pc: self.pc })
    }
}

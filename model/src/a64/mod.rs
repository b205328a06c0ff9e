//! The A64 instruction set, as far as software without floating point uses it.
//!
//! An instruction goes through two steps. [`decode()`] turns its word into an [`Op`], which holds what can be known
//! without any register: immediates are expanded, shifts of bitfields computed, and what an access asks of memory
//! collected in an [`Access`]. [`execute`] then carries the `Op` out against an [`Env`], the machine around it. An
//! `Op` is small and `Copy`, so that a machine decodes a page once and executes it many times.
//!
//! What is here: all of the base A64 instructions that work on general-purpose registers, and the extensions that an
//! Armv8.4 CPU has of those: LSE, LRCPC and LRCPC2, CRC32, LOR, FlagM. What needs an extension that this CPU lacks is
//! not here, and decodes to [`Op::Unknown`] as unallocated words do: floating point, SIMD, SVE, SME, pointer
//! authentication and BTI outside the hint space (inside it they are NOPs, as on every CPU without them), memory
//! tagging, MOPS, CSSC, LSE128, LS64, RCPC3.
//!
//! Where the architecture makes an encoding CONSTRAINED UNPREDICTABLE (a pair load into one register twice, a
//! writeback into the register that is loaded, a status register that is also the data), UNDEFINED is among the
//! permitted results, and it is the one taken: such an instruction in the software under test is a mistake, which
//! should stop the run rather than work by luck.
//!
//! [`flat`] is the least machine around an instruction; [`differential`] compares it with `qemu-aarch64`; [`disasm`]
//! names instructions in messages.

pub mod alu;
pub mod decode;
pub mod differential;
pub mod disasm;
pub mod exec;
pub mod flat;
pub mod op;

pub use decode::decode;
pub use disasm::disassemble;
pub use exec::{Env, Stop, execute};
pub use op::{Access, AtomicOp, Barrier, Call, Hint, Op, PstateField, Size, SysOp, SysReg};

//! Arm semihosting by `HLT #0xF000`: a console and an exit status.
//!
//! Of the file system there is only the console, `:tt`. Output goes where the UART's goes.

use crate::{
    a64::{Size, Stop},
    machine::End,
    memory::PAGE,
    pe::Core,
};

/// The immediate of the HLT that is a semihosting call in AArch64.
pub(crate) const HLT: u16 = 0xf000;

const SYS_OPEN: u32 = 0x01;
const SYS_CLOSE: u32 = 0x02;
const SYS_WRITEC: u32 = 0x03;
const SYS_WRITE0: u32 = 0x04;
const SYS_WRITE: u32 = 0x05;
const SYS_READ: u32 = 0x06;
const SYS_ISTTY: u32 = 0x09;
const SYS_ERRNO: u32 = 0x13;
const SYS_EXIT: u32 = 0x18;
const SYS_EXIT_EXTENDED: u32 = 0x20;

/// Handles of the console: for reading, for writing, and for errors.
const STDIN: u64 = 1;
const STDOUT: u64 = 2;
const STDERR: u64 = 3;
/// Modes of SYS_OPEN from which on a file is opened for writing, and for appending.
const WRITE: u64 = 4;
const APPEND: u64 = 8;
/// The exit's reason: the application's own wish.
const APPLICATION_EXIT: u64 = 0x2_0026;
/// Longest text taken without a length.
const LONGEST: u64 = 1 << 20;

const FAILED: u64 = u64::MAX;
/// Error numbers, as SYS_ERRNO tells them.
const ENOENT: u64 = 2;
const EBADF: u64 = 9;
const EFAULT: u64 = 14;
const ENOSYS: u64 = 38;

impl Core<'_> {
    /// Serves the call in w0 with its parameter in x1.
    #[cold]
    pub(crate) fn semihost(&mut self) -> Result<(), Stop> {
        let parameter = self.pe.x[1];
        match self.serve(self.pe.x[0] as u32, parameter) {
            Ok(value) => self.pe.x[0] = value,
            Err(error) => {
                self.shared.errno = error;
                self.pe.x[0] = FAILED;
            }
        }
        Ok(())
    }

    fn serve(&mut self, operation: u32, parameter: u64) -> Result<u64, u64> {
        match operation {
            SYS_OPEN => {
                let [name, mode, len] = self.block(parameter)?;
                if self.bytes(name, len)? != b":tt" {
                    return Err(ENOENT);
                }
                Ok(if mode >= APPEND {
                    STDERR
                } else if mode >= WRITE {
                    STDOUT
                } else {
                    STDIN
                })
            }
            SYS_CLOSE => Ok(0),
            SYS_WRITEC => {
                let byte = self.bytes(parameter, 1)?;
                self.shared.console.extend(byte);
                Ok(0)
            }
            SYS_WRITE0 => {
                for at in parameter..parameter.saturating_add(LONGEST) {
                    match self.bytes(at, 1)?.as_slice() {
                        [0] | [] => break,
                        byte => self.shared.console.extend(byte),
                    }
                }
                Ok(0)
            }
            SYS_WRITE => {
                let [handle, start, len] = self.block(parameter)?;
                if !matches!(handle, STDOUT | STDERR) {
                    return Err(EBADF);
                }
                let bytes = self.bytes(start, len.min(LONGEST))?;
                self.shared.console.extend(bytes);
                // The number of bytes that were not written.
                Ok(len.saturating_sub(LONGEST))
            }
            // The end of the file: nothing was read.
            SYS_READ => {
                let [_, _, len] = self.block(parameter)?;
                Ok(len)
            }
            SYS_ISTTY => Ok(1),
            SYS_ERRNO => Ok(self.shared.errno),
            SYS_EXIT | SYS_EXIT_EXTENDED => {
                let [reason, status] = self.block(parameter)?;
                let status = if reason == APPLICATION_EXIT { status as i32 } else { 1 };
                self.shared.end = Some(End::Exit(status));
                self.end_turn();
                Ok(0)
            }
            _ => Err(ENOSYS),
        }
    }

    /// The doublewords of a parameter block.
    fn block<const N: usize>(&mut self, at: u64) -> Result<[u64; N], u64> {
        let mut block = [0; N];
        for (n, word) in block.iter_mut().enumerate() {
            let pa = self.peek_address(at.wrapping_add(n as u64 * 8)).ok_or(EFAULT)?;
            *word = self.shared.memory.read(pa, Size::B8).ok_or(EFAULT)?;
        }
        Ok(block)
    }

    fn bytes(&mut self, start: u64, len: u64) -> Result<Vec<u8>, u64> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let at = start.wrapping_add(bytes.len() as u64);
            let here = (PAGE - at % PAGE).min(len - bytes.len() as u64);
            let pa = self.peek_address(at).ok_or(EFAULT)?;
            bytes.extend_from_slice(self.shared.memory.bytes(pa, here).ok_or(EFAULT)?);
        }
        Ok(bytes)
    }
}

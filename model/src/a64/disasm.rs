//! Names of instructions, for messages.

use core::fmt;

use disarm64::{InsnDisplay, decoder};

/// An instruction as text, made when it is displayed.
#[derive(Clone, Copy, Debug)]
pub struct Disassembly {
    word: u32,
    pc: u64,
}

/// The instruction `word` at address `pc`, on which the targets of branches depend.
#[must_use]
pub const fn disassemble(word: u32, pc: u64) -> Disassembly {
    Disassembly { word, pc }
}

impl fmt::Display for Disassembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(instruction) = decoder::decode(self.word) else {
            return write!(f, ".inst {:#010x}", self.word);
        };
        // The library puts tabs between mnemonic and operands.
        let text = instruction.display_at(self.pc).to_string();
        for (n, part) in text.split_whitespace().enumerate() {
            if n != 0 {
                f.write_str(" ")?;
            }
            f.write_str(part)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(disassemble(0xd503_201f, 0).to_string(), "nop");
        assert_eq!(disassemble(0x1400_0002, 0x1000).to_string(), "b 0x1008");
        assert_eq!(disassemble(0x1e60_2820, 0).to_string(), "fadd d0, d1, d0");
        assert_eq!(disassemble(0xffff_ffff, 0).to_string(), ".inst 0xffffffff");
    }
}

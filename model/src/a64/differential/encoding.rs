//! What is compared: the instruction classes, as bit patterns.
//!
//! They are written down from the Arm ARM's encoding diagrams and not from the decoder, so that a word the decoder
//! misunderstands has its chance to be drawn. Bits marked `x` are random; what then turns out to be unallocated is
//! drawn again.

/// Fields that must be chosen for the case to stay in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// None.
    Free,
    /// The bits from `low` on, `length` of them, are an offset to a word of the slot where a branch may land.
    Branch {
        /// The lowest bit.
        low: u32,
        /// The number of bits.
        length: u32,
    },
    /// The register in `Rn` is the address of such a word.
    Register,
    /// The field `imm19` is an offset to any word of the slot.
    Literal,
}

/// A class of instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoding {
    /// The name of the class, as in the Arm ARM's decode tables.
    pub(super) name: &'static str,
    /// 32 of `0`, `1` and `x`, from bit 31 on; blanks are for the eye.
    pattern: &'static str,
    /// Fields that are not free.
    pub(super) aim: Aim,
}

impl Encoding {
    /// The fixed bits and their values.
    pub(super) fn mask_and_value(&self) -> (u32, u32) {
        self.pattern
            .chars()
            .filter(|c| *c != ' ')
            .fold((0, 0), |(mask, value), c| (mask << 1 | u32::from(c != 'x'), value << 1 | u32::from(c == '1')))
    }
}

const fn free(name: &'static str, pattern: &'static str) -> Encoding {
    Encoding { name, pattern, aim: Aim::Free }
}

const fn aimed(name: &'static str, pattern: &'static str, aim: Aim) -> Encoding {
    Encoding { name, pattern, aim }
}

/// All classes.
pub(super) const ENCODINGS: &[Encoding] = &[
    free("PC-rel. addressing", "xxx 10000 xxxxxxxx xxxxxxxx xxxxxxxx"),
    free("add/subtract (immediate)", "xxx 100010 x xxxxxxxxxxxx xxxxx xxxxx"),
    free("logical (immediate)", "xxx 100100 x xxxxxx xxxxxx xxxxx xxxxx"),
    // Many ones in a row: the random patterns are mostly of short elements.
    free("logical (immediate), 64-bit element", "1xx 100100 1 xxxxxx xxxxxx xxxxx xxxxx"),
    free("move wide (immediate)", "xxx 100101 xx xxxxxxxx xxxxxxxx xxxxx"),
    free("bitfield", "xxx 100110 x xxxxxx xxxxxx xxxxx xxxxx"),
    free("extract", "x00 100111 x 0 xxxxx xxxxxx xxxxx xxxxx"),
    free("logical (shifted register)", "xxx 01010 xx x xxxxx xxxxxx xxxxx xxxxx"),
    free("ORR of XZR", "x01 01010 000 xxxxx 000000 11111 xxxxx"),
    free("add/subtract (shifted register)", "xxx 01011 xx 0 xxxxx xxxxxx xxxxx xxxxx"),
    free("add/subtract (extended register)", "xxx 01011 00 1 xxxxx xxx xxx xxxxx xxxxx"),
    free("add/subtract (with carry)", "xxx 11010000 xxxxx 000000 xxxxx xxxxx"),
    free("rotate right into flags", "101 11010000 xxxxxx 00001 xxxxx 0 xxxx"),
    free("evaluate into flags", "001 11010000 00000 0x0010 xxxxx 0 1101"),
    free("conditional compare (register)", "xx1 11010010 xxxxx xxxx 0 0 xxxxx 0 xxxx"),
    free("conditional compare (immediate)", "xx1 11010010 xxxxx xxxx 1 0 xxxxx 0 xxxx"),
    free("conditional select", "xx0 11010100 xxxxx xxxx 0 x xxxxx xxxxx"),
    free("data-processing (1 source)", "x10 11010110 00000 000xxx xxxxx xxxxx"),
    free("data-processing (2 source), division", "x00 11010110 xxxxx 00001x xxxxx xxxxx"),
    free("data-processing (2 source), shift", "x00 11010110 xxxxx 0010xx xxxxx xxxxx"),
    free("data-processing (2 source), CRC", "x00 11010110 xxxxx 010xxx xxxxx xxxxx"),
    free("data-processing (3 source)", "x00 11011 000 xxxxx x xxxxx xxxxx xxxxx"),
    free("data-processing (3 source), long", "100 11011 x01 xxxxx x xxxxx xxxxx xxxxx"),
    free("data-processing (3 source), high", "100 11011 x10 xxxxx 0 11111 xxxxx xxxxx"),
    free("CFINV", "11010101 00000000 01000000 00011111"),
    free("MRS NZCV", "11010101 00111011 01000010 000 xxxxx"),
    free("MSR NZCV", "11010101 00011011 01000010 000 xxxxx"),
    free("hints", "11010101 00000011 0010 xxxx xxx 11111"),
    free("barriers", "11010101 00000011 0011 xxxx xxx 11111"),
    aimed(
        "unconditional branch (immediate)",
        "x 00101 xx xxxxxxxx xxxxxxxx xxxxxxxx",
        Aim::Branch { low: 0, length: 26 },
    ),
    aimed("conditional branch", "01010100 xxxxxxxx xxxxxxxx xxx 0 xxxx", Aim::Branch { low: 5, length: 19 }),
    aimed("compare and branch", "x 011010 x xxxxxxxx xxxxxxxx xxx xxxxx", Aim::Branch { low: 5, length: 19 }),
    aimed("test and branch", "x 011011 x xxxxx xxxxxxxx xxxxxx xxxxx", Aim::Branch { low: 5, length: 14 }),
    aimed("BR", "1101011 0000 11111 000000 xxxxx 00000", Aim::Register),
    aimed("BLR", "1101011 0001 11111 000000 xxxxx 00000", Aim::Register),
    aimed("RET", "1101011 0010 11111 000000 xxxxx 00000", Aim::Register),
    aimed("load register (literal)", "xx 011000 xxxxxxxx xxxxxxxx xxx xxxxx", Aim::Literal),
    free("load/store (unsigned immediate)", "xx 111001 xx xxxxxxxxxxxx xxxxx xxxxx"),
    free("load/store (unscaled immediate)", "xx 111000 xx 0 xxxxxxxxx 00 xxxxx xxxxx"),
    free("load/store (immediate post-indexed)", "xx 111000 xx 0 xxxxxxxxx 01 xxxxx xxxxx"),
    free("load/store (unprivileged)", "xx 111000 xx 0 xxxxxxxxx 10 xxxxx xxxxx"),
    free("load/store (immediate pre-indexed)", "xx 111000 xx 0 xxxxxxxxx 11 xxxxx xxxxx"),
    free("load/store (register offset)", "xx 111000 xx 1 xxxxx x1x x 10 xxxxx xxxxx"),
    free("load/store pair", "xx 101000 x x xxxxxxx xxxxx xxxxx xxxxx"),
    free("load/store pair, indexed", "xx 101001 1 x xxxxxxx xxxxx xxxxx xxxxx"),
    free("load/store ordered", "xx 001000 1x0 11111 x 11111 xxxxx xxxxx"),
    free("LDAPR/STLR (unscaled immediate)", "xx 011001 xx 0 xxxxxxxxx 00 xxxxx xxxxx"),
    free("LDAPR", "xx 111000 101 11111 110000 xxxxx xxxxx"),
    free("load exclusive", "xx 001000 010 11111 x 11111 xxxxx xxxxx"),
    free("store exclusive", "xx 001000 000 xxxxx x 11111 xxxxx xxxxx"),
    free("load exclusive pair", "1x 001000 011 11111 x xxxxx xxxxx xxxxx"),
    free("store exclusive pair", "1x 001000 001 xxxxx x xxxxx xxxxx xxxxx"),
    free("atomic memory operations", "xx 111000 xx 1 xxxxx 0 xxx 00 xxxxx xxxxx"),
    free("SWP", "xx 111000 xx 1 xxxxx 1000 00 xxxxx xxxxx"),
    free("compare and swap", "xx 001000 1x1 xxxxx x 11111 xxxxx xxxxx"),
    free("compare and swap pair", "0x 001000 0x1 xxxxx x 11111 xxxxx xxxxx"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_words() {
        for encoding in ENCODINGS {
            let bits: String = encoding.pattern.chars().filter(|c| *c != ' ').collect();
            assert_eq!(bits.len(), 32, "{}", encoding.name);
            assert!(bits.chars().all(|c| "01x".contains(c)), "{}", encoding.name);
        }
        assert_eq!(free("", "1x0 00000000 00000000 00000000 000x1").mask_and_value().0, 0xbfff_fffd);
    }
}

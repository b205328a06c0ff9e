//! Names of CPUs by their MIDR_EL1, for people.
//!
//! Names only: what a CPU can do is read from its ID registers, never from this table.

/// Implementer, part number, name.
const NAMES: &[(u8, u16, &str)] = &[
    // QEMU's `max` names nobody as its implementer.
    (0x00, 0x051, "QEMU max"),
    (0x41, 0xd01, "Cortex-A32"),
    (0x41, 0xd03, "Cortex-A53"),
    (0x41, 0xd04, "Cortex-A35"),
    (0x41, 0xd05, "Cortex-A55"),
    (0x41, 0xd07, "Cortex-A57"),
    (0x41, 0xd08, "Cortex-A72"),
    (0x41, 0xd09, "Cortex-A73"),
    (0x41, 0xd0a, "Cortex-A75"),
    (0x41, 0xd0b, "Cortex-A76"),
    (0x41, 0xd0c, "Neoverse-N1"),
    (0x41, 0xd0d, "Cortex-A77"),
    (0x41, 0xd0e, "Cortex-A76AE"),
    (0x41, 0xd40, "Neoverse-V1"),
    (0x41, 0xd41, "Cortex-A78"),
    (0x41, 0xd42, "Cortex-A78AE"),
    (0x41, 0xd44, "Cortex-X1"),
    (0x41, 0xd46, "Cortex-A510"),
    (0x41, 0xd47, "Cortex-A710"),
    (0x41, 0xd48, "Cortex-X2"),
    (0x41, 0xd49, "Neoverse-N2"),
    (0x41, 0xd4b, "Cortex-A78C"),
    (0x41, 0xd4c, "Cortex-X1C"),
    (0x41, 0xd4d, "Cortex-A715"),
    (0x41, 0xd4e, "Cortex-X3"),
    (0x41, 0xd4f, "Neoverse-V2"),
    (0x41, 0xd80, "Cortex-A520"),
    (0x41, 0xd81, "Cortex-A720"),
    (0x41, 0xd82, "Cortex-X4"),
    (0x41, 0xd83, "Neoverse-V3AE"),
    (0x41, 0xd84, "Neoverse-V3"),
    (0x41, 0xd85, "Cortex-X925"),
    (0x41, 0xd87, "Cortex-A725"),
    (0x41, 0xd89, "Cortex-A720AE"),
    (0x41, 0xd8b, "C1-Pro"),
    (0x41, 0xd8c, "C1-Ultra"),
    (0x41, 0xd8e, "Neoverse-N3"),
    (0x41, 0xd90, "C1-Premium"),
    (0x46, 0x001, "A64FX"),
    (0x48, 0xd01, "HiSilicon TSV110"),
    (0x4e, 0x010, "NVIDIA Olympus"),
    (0x51, 0x001, "Qualcomm Oryon"),
    (0x61, 0x022, "Apple M1"),
    (0x6d, 0xd49, "Azure Cobalt 100"),
    (0xc0, 0xac3, "AmpereOne"),
    (0xc0, 0xac4, "AmpereOne AC04"),
];

/// The name and revision of the CPU with this MIDR_EL1, or its implementer and part number if it is not known.
#[must_use]
pub fn describe(midr: u64) -> String {
    let [implementer, part] = [(midr >> 24) & 0xff, (midr >> 4) & 0xfff];
    let (variant, revision) = ((midr >> 20) & 0xf, midr & 0xf);
    match NAMES.iter().find(|(i, p, _)| (u64::from(*i), u64::from(*p)) == (implementer, part)) {
        Some((_, _, name)) => format!("{name} r{variant}p{revision}"),
        None => format!("implementer {implementer:#04x} part {part:#05x} r{variant}p{revision}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_midr_is_taken_apart() {
        assert_eq!(describe(0x410f_d493), "Neoverse-N2 r0p3");
        assert_eq!(describe(0x412f_d050), "Cortex-A55 r2p0");
        assert_eq!(describe(0x99af_1235), "implementer 0x99 part 0x123 r10p5");
    }

    #[test]
    fn no_cpu_stands_twice_and_the_table_is_in_order() {
        assert!(NAMES.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
    }
}

//! The devicetree that the machine hands to what it boots.

use vm_fdt::{Error, FdtWriter};

use crate::{
    gic::{GICC_BASE, GICC_SIZE, GICD_BASE, GICD_SIZE},
    memory::RAM_BASE,
    uart::{UART_BASE, UART_SIZE},
};

/// What varies from machine to machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'a> {
    /// Number of PEs; PE n has affinity n.
    pub(crate) cpus: usize,
    /// Bytes of RAM from [`RAM_BASE`] on.
    pub(crate) memory: u64,
    /// For /chosen.
    pub(crate) bootargs: &'a str,
    /// Physical address and bytes of the initrd.
    pub(crate) initrd: (u64, u64),
}

/// Phandle of the interrupt controller.
const INTC: u32 = 1;
/// Phandle of the UART's clock.
const CLOCK: u32 = 2;
/// A PPI in an interrupt specifier, and its trigger: level, active low, as Arm's timers have it.
const PPI: u32 = 1;
const LEVEL: u32 = 8;

/// Writes the DTB.
///
/// # Errors
/// Those of the writer: a string with a NUL in it.
pub(crate) fn write(contents: &Contents<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "shatter,model")?;
    fdt.property_string("model", "shatter model")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", INTC)?;

    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("stdout-path", &format!("/pl011@{UART_BASE:x}"))?;
    fdt.property_string("bootargs", contents.bootargs)?;
    fdt.property_u64("linux,initrd-start", contents.initrd.0)?;
    fdt.property_u64("linux,initrd-end", contents.initrd.0 + contents.initrd.1)?;
    fdt.end_node(chosen)?;

    let memory = fdt.begin_node(&format!("memory@{RAM_BASE:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[RAM_BASE, contents.memory])?;
    fdt.end_node(memory)?;

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for cpu in 0..contents.cpus as u32 {
        let node = fdt.begin_node(&format!("cpu@{cpu:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "shatter,ideal")?;
        fdt.property_u32("reg", cpu)?;
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)?;

    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "smc")?;
    fdt.end_node(psci)?;

    let intc = fdt.begin_node(&format!("interrupt-controller@{GICD_BASE:x}"))?;
    fdt.property_string("compatible", "arm,gic-400")?;
    fdt.property_array_u64("reg", &[GICD_BASE, GICD_SIZE, GICC_BASE, GICC_SIZE])?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("phandle", INTC)?;
    fdt.end_node(intc)?;

    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    // Secure physical, non-secure physical, virtual, EL2 physical.
    let ppis = [13, 14, 11, 10].map(|ppi| [PPI, ppi, LEVEL]);
    fdt.property_array_u32("interrupts", ppis.as_flattened())?;
    fdt.end_node(timer)?;

    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_u32("phandle", CLOCK)?;
    fdt.end_node(clock)?;

    // Without an interrupt: the machine has no SPIs.
    let uart = fdt.begin_node(&format!("pl011@{UART_BASE:x}"))?;
    fdt.property_string_list("compatible", vec!["arm,pl011".into(), "arm,primecell".into()])?;
    fdt.property_array_u64("reg", &[UART_BASE, UART_SIZE])?;
    fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
    fdt.property_string_list("clock-names", vec!["uartclk".into(), "apb_pclk".into()])?;
    fdt.end_node(uart)?;

    fdt.end_node(root)?;
    fdt.finish()
}

#[cfg(test)]
mod tests {
    use dtoolkit::{Node, Property, fdt::Fdt};

    use super::*;

    #[test]
    fn is_read_back_by_the_library_that_hv_uses() {
        let contents = Contents { cpus: 3, memory: 1 << 30, bootargs: "a b", initrd: (0x9000_0000, 0x1234) };
        let blob = write(&contents).expect("the strings have no NUL");
        let fdt = Fdt::new(&blob).expect("a DTB");
        assert_eq!(fdt.cpus().expect("/cpus").cpus().count(), 3);
        let chosen = fdt.find_node("/chosen").expect("/chosen");
        let bootargs = chosen.property("bootargs").expect("bootargs");
        assert_eq!(bootargs.value(), b"a b\0");
        let end = chosen.property("linux,initrd-end").expect("an end");
        assert_eq!(end.value(), 0x9000_1234_u64.to_be_bytes());
        assert!(fdt.find_node(&format!("/pl011@{UART_BASE:x}")).is_some());
    }
}

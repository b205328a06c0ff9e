//! A GICv2 with private interrupts only: what a watchdog, timers and wake-ups need.
//!
//! Non-secure view of a GIC without Security Extensions (`GICD_TYPER.SecurityExtn` = 0), as hypervisors on small boards
//! see it: 16 SGIs and 16 PPIs for each PE and no SPIs. PPIs are level-sensitive and follow the lines of the timers.

/// Physical address of the distributor.
pub(crate) const GICD_BASE: u64 = 0x2c00_0000;
/// Physical address of the CPU interface.
pub(crate) const GICC_BASE: u64 = 0x2c00_2000;
/// Bytes of the distributor's registers.
pub(crate) const GICD_SIZE: u64 = 0x1000;
/// Bytes of the CPU interface's registers.
pub(crate) const GICC_SIZE: u64 = 0x2000;

/// What GICC_IAR reads when nothing is pending.
const SPURIOUS: u32 = 1023;
/// Running priority of an idle PE.
const IDLE: u8 = 0xff;
/// Priorities have 32 levels, in their upper bits.
const PRIORITY_BITS: u8 = 0xf8;

/// One PE's interrupts and its CPU interface.
#[derive(Clone, Debug)]
struct Interface {
    /// By INTID, SGIs in bits 0 to 15 and PPIs above.
    enabled: u32,
    active: u32,
    /// PPIs that software set pending.
    latched: u32,
    /// PPIs whose input is asserted.
    level: u32,
    /// For each SGI the PEs that sent it and were not acknowledged.
    sgi: [u8; 16],
    priority: [u8; 32],
    group: u32,
    control: u32,
    mask: u8,
    binary_point: u32,
    /// Priorities and INTIDs of the interrupts that were acknowledged and not ended, innermost last.
    running: Vec<(u8, u32)>,
}

impl Interface {
    const fn new() -> Self {
        Self {
            enabled: 0xffff,
            active: 0,
            latched: 0,
            level: 0,
            sgi: [0; 16],
            priority: [0; 32],
            group: 0,
            control: 0,
            mask: 0,
            binary_point: 0,
            running: Vec::new(),
        }
    }

    fn pending(&self) -> u32 {
        let sgis = self.sgi.iter().enumerate().filter(|(_, from)| **from != 0).fold(0, |all, (id, _)| all | 1 << id);
        self.latched | self.level | sgis
    }

    fn running_priority(&self) -> u8 {
        self.running.last().map_or(IDLE, |(priority, _)| *priority)
    }

    /// The pending interrupt that the PE is told of, if its priority lets it through.
    fn highest(&self) -> Option<u32> {
        let candidates = self.pending() & self.enabled & !self.active;
        if candidates == 0 {
            return None;
        }
        let (priority, id) =
            (0..32).filter(|id| candidates & 1 << id != 0).map(|id| (self.priority[id as usize], id)).min()?;
        (priority < self.mask && priority < self.running_priority()).then_some(id)
    }
}

/// The interrupt controller.
#[derive(Clone, Debug)]
pub(crate) struct Gic {
    control: u32,
    interfaces: Vec<Interface>,
}

impl Gic {
    /// One for `cpus` PEs, at most 8, as it is after reset.
    #[must_use]
    pub(crate) fn new(cpus: usize) -> Self {
        Self { control: 0, interfaces: vec![Interface::new(); cpus] }
    }

    /// Sets the inputs of PE `cpu`'s PPIs: bit n is INTID n, and only bits 16 to 31 count.
    #[inline]
    pub(crate) fn set_levels(&mut self, cpu: usize, levels: u32) {
        self.interfaces[cpu].level = levels & 0xffff_0000;
    }

    /// Whether the IRQ input of PE `cpu` is asserted.
    #[inline]
    #[must_use]
    pub(crate) fn asserted(&self, cpu: usize) -> bool {
        let interface = &self.interfaces[cpu];
        self.control & interface.control & 1 != 0 && interface.highest().is_some()
    }

    /// Reads the distributor at `offset` as PE `cpu`. Words, or bytes of those registers that have bytes.
    #[must_use]
    pub(crate) fn read_distributor(&self, cpu: usize, offset: u64) -> u32 {
        let interface = &self.interfaces[cpu];
        match offset & !3 {
            0x000 => self.control,
            // ITLinesNumber 0 (32 interrupts), CPUNumber.
            0x004 => (self.interfaces.len() as u32 - 1) << 5,
            0x080 => interface.group,
            0x100 | 0x180 => interface.enabled,
            0x200 | 0x280 => interface.pending(),
            0x300 | 0x380 => interface.active,
            word @ 0x400..0x420 => bytes(&interface.priority, word - 0x400),
            // The private interrupts' targets read as the reader itself: software finds its own number here.
            0x800..0x820 => u32::from_le_bytes([1 << cpu; 4]),
            // SGIs are edge-triggered, PPIs level-sensitive.
            0xc00 => 0xaaaa_aaaa,
            word @ 0xf10..0xf20 => bytes(&interface.sgi, word - 0xf10),
            word @ 0xf20..0xf30 => bytes(&interface.sgi, word - 0xf20),
            // ICPIDR2: architecture revision 2.
            0xfe8 => 2 << 4,
            _ => 0,
        }
    }

    /// Writes the distributor at `offset` as PE `cpu`.
    pub(crate) fn write_distributor(&mut self, cpu: usize, offset: u64, value: u32, bytes: u64) {
        if (0x400..0x420).contains(&offset) {
            for byte in 0..bytes.min(4) {
                let id = (offset - 0x400 + byte) as usize;
                if let Some(priority) = self.interfaces[cpu].priority.get_mut(id) {
                    *priority = (value >> (8 * byte)) as u8 & PRIORITY_BITS;
                }
            }
            return;
        }
        let interface = &mut self.interfaces[cpu];
        match offset {
            0x000 => self.control = value & 1,
            0x080 => interface.group = value,
            // SGIs cannot be disabled.
            0x100 => interface.enabled |= value,
            0x180 => interface.enabled &= !value | 0xffff,
            0x200 => interface.latched |= value & 0xffff_0000,
            0x280 => interface.latched &= !value,
            0x300 => interface.active |= value,
            0x380 => interface.active &= !value,
            0xf00 => self.send(cpu, value),
            0xf10..0xf20 => clear_sgis(interface, offset - 0xf10, value),
            0xf20..0xf30 => {
                for (byte, from) in value.to_le_bytes().into_iter().enumerate() {
                    interface.sgi[(offset - 0xf20) as usize + byte] |= from;
                }
            }
            _ => {}
        }
    }

    /// GICD_SGIR.
    fn send(&mut self, cpu: usize, value: u32) {
        let targets = match value >> 24 & 3 {
            0 => (value >> 16) as u8,
            1 => !(1 << cpu),
            2 => 1 << cpu,
            _ => 0,
        };
        for (number, interface) in self.interfaces.iter_mut().enumerate() {
            if targets & 1 << number != 0 {
                interface.sgi[(value & 0xf) as usize] |= 1 << cpu;
            }
        }
    }

    /// Reads the CPU interface at `offset` as PE `cpu`; an acknowledge has its effect.
    pub(crate) fn read_interface(&mut self, cpu: usize, offset: u64) -> u32 {
        let enabled = self.control & 1 != 0;
        let interface = &mut self.interfaces[cpu];
        match offset {
            0x00 => interface.control,
            0x04 => u32::from(interface.mask),
            0x08 => interface.binary_point,
            0x0c if enabled && interface.control & 1 != 0 => acknowledge(interface),
            0x0c => SPURIOUS,
            0x14 => u32::from(interface.running_priority()),
            0x18 => interface.highest().unwrap_or(SPURIOUS),
            // IIDR: architecture version 2.
            0xfc => 2 << 16,
            _ => 0,
        }
    }

    /// Writes the CPU interface at `offset` as PE `cpu`.
    pub(crate) fn write_interface(&mut self, cpu: usize, offset: u64, value: u32) {
        let interface = &mut self.interfaces[cpu];
        match offset {
            // EnableGrp0, EOImodeNS.
            0x00 => interface.control = value & 0x201,
            0x04 => interface.mask = value as u8 & PRIORITY_BITS,
            0x08 => interface.binary_point = value & 7,
            0x10 => {
                let id = value & 0x3ff;
                if let Some(at) = interface.running.iter().rposition(|(_, running)| *running == id) {
                    interface.running.remove(at);
                    if interface.control & 0x200 == 0 {
                        interface.active &= !(1u32.checked_shl(id).unwrap_or(0));
                    }
                }
            }
            0x1000 => interface.active &= !(1u32.checked_shl(value & 0x3ff).unwrap_or(0)),
            _ => {}
        }
    }
}

/// Takes the highest interrupt: pending becomes active. Returns what GICC_IAR reads.
fn acknowledge(interface: &mut Interface) -> u32 {
    let Some(id) = interface.highest() else { return SPURIOUS };
    interface.active |= 1 << id;
    interface.latched &= !(1 << id);
    interface.running.push((interface.priority[id as usize], id));
    match interface.sgi.get_mut(id as usize) {
        Some(from) => {
            let source = from.trailing_zeros();
            *from &= !(1 << source);
            source << 10 | id
        }
        None => id,
    }
}

fn clear_sgis(interface: &mut Interface, first: u64, value: u32) {
    for (byte, from) in value.to_le_bytes().into_iter().enumerate() {
        interface.sgi[first as usize + byte] &= !from;
    }
}

/// The word at `offset` of registers that are bytes.
fn bytes(registers: &[u8], offset: u64) -> u32 {
    let word = registers.get(offset as usize..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Gic {
        let mut gic = Gic::new(2);
        gic.write_distributor(0, 0, 1, 4);
        for cpu in 0..2 {
            gic.write_interface(cpu, 0, 1);
            gic.write_interface(cpu, 4, 0xff);
        }
        gic
    }

    #[test]
    fn an_sgi_is_pending_until_acknowledged_and_active_until_ended() {
        let mut gic = enabled();
        gic.write_distributor(0, 0xf00, 1 << 17 | 1, 4);
        assert!(!gic.asserted(0));
        assert!(gic.asserted(1));
        assert_eq!(gic.read_interface(1, 0xc), 1, "SGI 1 from PE 0");
        assert!(!gic.asserted(1));
        // The same SGI again waits until the first is ended.
        gic.write_distributor(1, 0xf00, 2 << 24 | 1, 4);
        assert!(!gic.asserted(1));
        gic.write_interface(1, 0x10, 1);
        assert_eq!(gic.read_interface(1, 0xc), 1 << 10 | 1, "SGI 1 from PE 1");
        gic.write_interface(1, 0x10, 1 << 10 | 1);
        assert_eq!(gic.read_interface(1, 0xc), SPURIOUS);
    }

    #[test]
    fn a_ppi_follows_its_line_where_enabled() {
        let mut gic = enabled();
        gic.set_levels(0, 1 << 26);
        assert!(!gic.asserted(0));
        gic.write_distributor(0, 0x100, 1 << 26, 4);
        assert!(gic.asserted(0));
        assert_eq!(gic.read_interface(0, 0xc), 26);
        assert!(!gic.asserted(0), "active");
        gic.write_interface(0, 0x10, 26);
        assert!(gic.asserted(0), "the line is still up");
        gic.set_levels(0, 0);
        assert!(!gic.asserted(0));
    }

    #[test]
    fn priorities_mask_and_order() {
        let mut gic = enabled();
        gic.write_distributor(0, 0x400, 0x80, 1);
        gic.write_distributor(0, 0x401, 0x40, 1);
        gic.write_distributor(0, 0xf00, 2 << 24, 4);
        gic.write_distributor(0, 0xf00, 2 << 24 | 1, 4);
        assert_eq!(gic.read_interface(0, 0xc) & 0x3ff, 1);
        assert_eq!(gic.read_interface(0, 0x14), 0x40);
        assert!(!gic.asserted(0), "SGI 0 does not preempt SGI 1");
        gic.write_interface(0, 0x10, 1);
        gic.write_interface(0, 4, 0x80);
        assert!(!gic.asserted(0), "masked");
        gic.write_interface(0, 4, 0x88);
        assert!(gic.asserted(0));
    }

    #[test]
    fn each_pe_finds_its_own_number() {
        let gic = Gic::new(4);
        assert_eq!(gic.read_distributor(3, 0x800), 0x0808_0808);
    }
}

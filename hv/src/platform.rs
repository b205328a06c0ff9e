//! What machine this is, read from the DTB and from nothing else.
//!
//! This runs before the MMU is on: no atomics, no unaligned accesses (the target is strict-align), no
//! console. Whatever is missing or odd is kept as a fact that the rest of hv can report or live with.

use arrayvec::{ArrayString, ArrayVec};
use dtoolkit::{
    Node, Property, ToCellInt,
    fdt::{Fdt, FdtNode},
    standard::NodeStandard,
};

/// Most CPUs that hv drives.
pub(crate) const MAX_CPUS: usize = 8;

/// Most ranges of memory that firmware may keep for itself.
pub(crate) const MAX_RESERVED: usize = 96;

/// Most SMMUs that are looked at.
pub(crate) const MAX_SMMUS: usize = 4;

/// A range of physical addresses, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    pub(crate) const fn of(start: u64, size: u64) -> Self {
        Self { start, end: start.saturating_add(size) }
    }

    pub(crate) const fn size(self) -> u64 {
        self.end - self.start
    }

    pub(crate) const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Its first `size` bytes, and what follows them; it is no smaller.
    pub(crate) const fn split(self, size: u64) -> [Self; 2] {
        let middle = self.start + size;
        [Self { end: middle, ..self }, Self { start: middle, ..self }]
    }

    /// Widened to whole pages of 4 KiB.
    pub(crate) const fn pages(self) -> Self {
        Self { start: self.start & !0xfff, end: self.end.saturating_add(0xfff) & !0xfff }
    }
}

/// A UART with the PL011's data and flag registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UartInfo {
    pub(crate) base: u64,
    /// Whether it has the PL011's other registers too; an SBSA UART does not.
    pub(crate) has_control: bool,
}

/// How firmware is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Conduit {
    None,
    Smc,
    Hvc,
}

impl Conduit {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Smc => "smc",
            Self::Hvc => "hvc",
        }
    }
}

/// The interrupt controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum GicInfo {
    None,
    V2 {
        distributor: u64,
        cpu_interface: u64,
    },
    V3 {
        distributor: u64,
        /// Regions of redistributors, each CPU's somewhere in one of them.
        redistributors: ArrayVec<Range, 4>,
    },
}

impl GicInfo {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::V2 { .. } => "gicv2",
            Self::V3 { .. } => "gicv3",
        }
    }
}

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) model: ArrayString<64>,
    pub(crate) ram: ArrayVec<Range, 16>,
    /// Not to be used, though it may be mapped: memory reservations and /reserved-memory.
    pub(crate) reserved: ArrayVec<Range, MAX_RESERVED>,
    /// Of these, those that must not even be mapped.
    pub(crate) no_map: ArrayVec<Range, MAX_RESERVED>,
    /// The console.
    pub(crate) uart: Option<UartInfo>,
    pub(crate) psci: Conduit,
    /// MPIDR affinity fields of each CPU in the DTB, in its order.
    pub(crate) cpus: ArrayVec<u64, MAX_CPUS>,
    /// CPUs in the DTB beyond [`MAX_CPUS`].
    pub(crate) cpus_left_out: u32,
    pub(crate) gic: GicInfo,
    /// Registers of each SMMUv3.
    pub(crate) smmus: ArrayVec<u64, MAX_SMMUS>,
    /// INTID of the EL2 physical timer.
    pub(crate) timer: u32,
    pub(crate) bootargs: &'static str,
    pub(crate) initrd: Option<Range>,
    pub(crate) dtb: Range,
    /// There was more RAM than hv has room to list.
    pub(crate) ram_left_out: bool,
    /// There were more reservations than hv has room to list, so that it does not know what it must not touch.
    pub(crate) reserved_left_out: bool,
}

/// Why the DTB cannot be used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    NoDtb,
    BadDtb,
}

/// A node and the buses above it, for the translation of its addresses.
#[derive(Clone, Copy)]
struct Bus<'p> {
    node: FdtNode<'static>,
    parent: Option<&'p Bus<'p>>,
}

impl Bus<'_> {
    /// The CPU's address of `address` on this node's bus; `None` where a bus has no `ranges` for it.
    fn translate(&self, address: u64) -> Option<u64> {
        let Some(parent) = self.parent else { return Some(address) };
        let property = self.node.property("ranges")?;
        let address = if property.value().is_empty() {
            address
        } else {
            let mut ranges = self.node.ranges().ok()??;
            ranges.find_map(|range| {
                let child: u64 = range.child_bus_address().ok()?;
                let size: u64 = range.length().ok()?;
                let base: u64 = range.parent_bus_address().ok()?;
                (address >= child && address - child < size).then(|| base + (address - child))
            })?
        };
        parent.translate(address)
    }

    /// The `reg` ranges of `child`, a child of this bus, as the CPU sees them.
    fn reg(&self, child: FdtNode<'static>) -> ArrayVec<Range, 8> {
        let mut out = ArrayVec::new();
        if let Ok(Some(regs)) = child.reg() {
            for reg in regs {
                if let (Ok(address), Ok(size)) = (reg.address::<u64>(), reg.size::<u64>())
                    && let Some(address) = self.translate(address)
                    && out.try_push(Range::of(address, size)).is_err()
                {
                    break;
                }
            }
        }
        out
    }

    /// The first node below this bus whose `compatible` has one of `names`, with its ranges.
    fn find(&self, names: &[&str]) -> Option<(FdtNode<'static>, ArrayVec<Range, 8>)> {
        let mut first = None;
        self.each(names, &mut |node, reg| {
            first = Some((node, reg));
            false
        });
        first
    }

    /// Shows `see` every such node with its ranges, until it says that this is enough. Says whether it did not.
    fn each(&self, names: &[&str], see: &mut dyn FnMut(FdtNode<'static>, ArrayVec<Range, 8>) -> bool) -> bool {
        self.node.children().all(|child| {
            let usable = !matches!(child.property("status").map(|p| p.value() == b"disabled\0"), Some(true));
            match usable && names.iter().any(|name| child.is_compatible(name)) {
                true => see(child, self.reg(child)),
                false => (Bus { node: child, parent: Some(self) }).each(names, see),
            }
        })
    }

    /// The node at `path` below this bus (components may lack their unit address), with its ranges.
    fn at(&self, path: &str) -> Option<(FdtNode<'static>, ArrayVec<Range, 8>)> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let child = self.node.children().find(|c| c.name() == first || c.name_without_address() == first)?;
        if rest.is_empty() {
            return Some((child, self.reg(child)));
        }
        (Bus { node: child, parent: Some(self) }).at(rest)
    }
}

fn stdout_path(fdt: Fdt<'static>) -> Option<&'static str> {
    let chosen = fdt.find_node("/chosen")?;
    let text: &'static str = chosen.property("stdout-path")?.value_as().ok()?;
    let path = text.split(':').next()?;
    if path.starts_with('/') {
        return Some(path);
    }
    fdt.find_node("/aliases")?.property(path)?.value_as().ok()
}

/// Compatible strings of UARTs with the PL011's data and flag registers.
const PL011: [&str; 2] = ["arm,pl011", "arm,sbsa-uart"];

fn find_uart(fdt: Fdt<'static>, root: &Bus<'_>) -> Option<UartInfo> {
    // The console that firmware names, if it is one that hv can drive; never another one in its place.
    let (node, reg) = match stdout_path(fdt) {
        Some(path) => root.at(path.trim_start_matches('/'))?,
        None => root.find(&PL011)?,
    };
    PL011.iter().any(|name| node.is_compatible(name)).then_some(())?;
    Some(UartInfo { base: reg.first()?.start, has_control: node.is_compatible(PL011[0]) })
}

fn find_gic(root: &Bus<'_>) -> GicInfo {
    if let Some((node, reg)) = root.find(&["arm,gic-v3"])
        && let [distributor, redistributors @ ..] = reg.as_slice()
    {
        // The redistributor regions come first; GICC, GICH and GICV, for old guests, may follow.
        let regions = node.property("#redistributor-regions").and_then(|p| p.value_as::<u32>().ok()).unwrap_or(1);
        return GicInfo::V3 {
            distributor: distributor.start,
            redistributors: redistributors.iter().copied().take((regions as usize).min(4)).collect(),
        };
    }
    if let Some((_, reg)) = root.find(&["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a9-gic"])
        && let [distributor, cpu, ..] = reg.as_slice()
    {
        return GicInfo::V2 { distributor: distributor.start, cpu_interface: cpu.start };
    }
    GicInfo::None
}

/// Where the registers of SMMUs are, as many as hv has room for.
fn find_smmus(root: &Bus<'_>) -> ArrayVec<u64, MAX_SMMUS> {
    let mut smmus = ArrayVec::new();
    root.each(&["arm,smmu-v3"], &mut |_, reg| reg.first().is_none_or(|range| smmus.try_push(range.start).is_ok()));
    smmus
}

/// INTID of the EL2 physical timer: the fourth interrupt of the timer's node, usually PPI 10.
fn find_timer(root: &Bus<'_>) -> u32 {
    const USUAL: u32 = 26;
    let Some((node, _)) = root.find(&["arm,armv8-timer", "arm,armv7-timer"]) else { return USUAL };
    let Some(property) = node.property("interrupts") else { return USUAL };
    let word =
        |n: usize| property.value().get(n * 4..n * 4 + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    match (word(9), word(10)) {
        (Some(1), Some(ppi)) if ppi < 16 => 16 + ppi,
        _ => USUAL,
    }
}

fn chosen_address(chosen: FdtNode<'static>, name: &str) -> Option<u64> {
    let property = chosen.property(name)?;
    match property.value().len() {
        4 => property.value_as::<u32>().ok().map(u64::from),
        _ => property.value_as::<u64>().ok(),
    }
}

/// Whether a DTB starts at `address`, and where it ends.
fn dtb_at(address: u64) -> Option<Range> {
    /// First word of a DTB, big-endian.
    const MAGIC: u32 = 0xd00d_feed;
    /// More than any real DTB has; a larger size is garbage.
    const MAX_SIZE: u32 = 4 << 20;
    if address == 0 || !address.is_multiple_of(8) {
        return None;
    }
    // The boot protocol says of the Image alone that it is in memory; a DTB may still be in its loader's caches.
    arch::cache::clean_invalidate_poc(address as usize, 8);
    let header = address as *const u32;
    // SAFETY: the boot protocol makes this the address of a DTB in memory; the fallback is the base of the memory
    // that this Image stands in. Both are readable with the MMU off, and aligned.
    let (magic, size) = unsafe { (header.read_volatile(), header.add(1).read_volatile()) };
    let size = u32::from_be(size);
    (u32::from_be(magic) == MAGIC && size <= MAX_SIZE).then(|| Range::of(address, u64::from(size)))
}

/// Reads the machine from the DTB at `dtb`, or, where a loader passed none, from one at the 1 GiB boundary below
/// the Image, where QEMU leaves it for images that are no Linux kernels.
pub(crate) fn discover(dtb: u64, image: Range) -> Result<Machine, Error> {
    let range = dtb_at(dtb).or_else(|| dtb_at(image.start & !((1 << 30) - 1))).ok_or(Error::NoDtb)?;
    arch::cache::clean_invalidate_poc(range.start as usize, range.size() as usize);
    // SAFETY: `dtb_at` saw a header there; the memory is not written while hv runs (it is reserved from use).
    let data = unsafe { core::slice::from_raw_parts(range.start as *const u8, range.size() as usize) };
    let fdt = Fdt::new(data).map_err(|_| Error::BadDtb)?;
    let root = Bus { node: fdt.root(), parent: None };

    let mut machine = Machine {
        model: ArrayString::new(),
        ram: ArrayVec::new(),
        reserved: ArrayVec::new(),
        no_map: ArrayVec::new(),
        uart: find_uart(fdt, &root),
        psci: Conduit::None,
        cpus: ArrayVec::new(),
        cpus_left_out: 0,
        gic: find_gic(&root),
        smmus: find_smmus(&root),
        timer: find_timer(&root),
        bootargs: "",
        initrd: None,
        dtb: range,
        ram_left_out: false,
        reserved_left_out: false,
    };
    let model = root.node.property("model").or_else(|| root.node.property("compatible"));
    let model = model.and_then(|p| p.value_as::<&'static str>().ok()).unwrap_or("");
    for c in model.chars() {
        if c == '\0' || machine.model.try_push(c).is_err() {
            break;
        }
    }
    for node in root.node.children() {
        let is_memory = node.property("device_type").is_some_and(|p| p.value() == b"memory\0");
        if is_memory {
            // What lies beyond the addresses that the tables here can hold is not used either.
            for range in root.reg(node).into_iter().filter(|r| r.size() > 0) {
                machine.ram_left_out |= range.end > 1 << 48 || machine.ram.try_push(range).is_err();
            }
        }
    }
    for entry in fdt.memory_reservations() {
        machine.reserved_left_out |= machine.reserved.try_push(Range::of(entry.address(), entry.size())).is_err();
    }
    if let Some(node) = fdt.find_node("/reserved-memory") {
        let bus = Bus { node, parent: Some(&root) };
        for child in node.children() {
            for range in bus.reg(child) {
                machine.reserved_left_out |= machine.reserved.try_push(range).is_err();
                if child.property("no-map").is_some() {
                    machine.reserved_left_out |= machine.no_map.try_push(range).is_err();
                }
            }
        }
    }
    if let Some(psci) = fdt.find_node("/psci") {
        machine.psci = match psci.property("method").and_then(|p| p.value_as::<&str>().ok()) {
            Some("smc") => Conduit::Smc,
            Some("hvc") => Conduit::Hvc,
            _ => Conduit::None,
        };
    }
    if let Ok(cpus) = fdt.cpus() {
        for cpu in cpus.cpus() {
            if cpu.property("status").is_some_and(|p| p.value() == b"disabled\0") {
                continue;
            }
            if let Some(id) = cpu.ids().ok().and_then(|mut ids| ids.next()).and_then(|id| id.to_int::<u64>().ok())
                && machine.cpus.try_push(id).is_err()
            {
                machine.cpus_left_out += 1;
            }
        }
    }
    if let Some(chosen) = fdt.find_node("/chosen") {
        machine.bootargs = chosen.property("bootargs").and_then(|p| p.value_as::<&'static str>().ok()).unwrap_or("");
        if let (Some(start), Some(end)) =
            (chosen_address(chosen, "linux,initrd-start"), chosen_address(chosen, "linux,initrd-end"))
        {
            machine.initrd = (end > start).then_some(Range { start, end });
        }
    }
    Ok(machine)
}

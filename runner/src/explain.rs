//! `shatter explain`: what one instance does, or what any change of a descriptor needs, and by which rules.
//!
//! Everything here is read off the data that the payload executes and the judge applies; the text cannot tell
//! another story than the test.

use std::io;

use vmsa::{
    change::{Behind, Leaf},
    descriptor::{Attributes, BadDescriptor, Descriptor, DescriptorKind, Field},
    geometry::{BbmLevel, Bytes, Granule, Level},
    instance::{Access, Case, Instance, Method, Place, Regime, Selftest, Stage1, Stage2, Watch},
    layout::{Layout, Width},
    outcome::{Kind, Phase},
    rule::{Asids, Comparison, HardwareUpdates, Invalidation, Reach},
    sequence::{Step, Tlbi},
    tlbi::{Aim, Form},
    transition::{self, Context, Needed, Transition},
    update::{self, Update},
    verdict::{self, Allowance, Control, Situation},
};

use crate::errata::{self, Class};

/// Two descriptors as they stand in memory, and what must be known besides them.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(id = "pair", multiple = true, conflicts_with = "id")]
pub struct Pair {
    /// The descriptor that stands in the table, as 64 bits
    #[arg(long, value_parser = raw, requires_all = ["to", "granule", "level"])]
    from: Option<u64>,
    /// The descriptor that is to stand there
    #[arg(long, value_parser = raw, requires = "from")]
    to: Option<u64>,
    /// Granule of the tables: 4k, 16k or 64k
    #[arg(long, value_parser = granule, requires = "from")]
    granule: Option<Granule>,
    /// Level at which the descriptor stands, 0 to 3, or -1 with --lpa2
    #[arg(long, value_parser = level, requires = "from", allow_negative_numbers = true)]
    level: Option<Level>,
    /// Output addresses have 52 bits: TCR_EL1.DS is set or, with the 64k granule, the CPU has FEAT_LPA
    #[arg(long, requires = "from")]
    lpa2: bool,
    /// The CPU's BBM level, 0 to 3 [default: all four]
    #[arg(long, value_parser = bbm, requires = "from")]
    bbm: Option<BbmLevel>,
    /// MAIR_EL1; without it, two values of AttrIndx count as two memory types
    #[arg(long, value_parser = raw, requires = "from")]
    mair: Option<u64>,
    /// The memory at both output addresses holds the same, all the time
    #[arg(long, requires = "from")]
    contents_equal: bool,
    /// A table maps something else than what is on the other side
    #[arg(long, requires = "from")]
    other_mapping: bool,
    /// Hardware sets the Access flag (TCR_EL1.HA)
    #[arg(long, requires = "from")]
    hardware_af: bool,
    /// Hardware manages the dirty state too (TCR_EL1.HD)
    #[arg(long, requires = "from")]
    hardware_dirty: bool,
    /// The new descriptor is written by a compare-and-swap that expects the old one
    #[arg(long, requires = "from")]
    compare_and_swap: bool,
    /// Tell too what may be seen of this method: bbm, bbm-af, nt, direct or direct-notlbi
    #[arg(long, value_parser = method, requires = "from")]
    method: Option<Method>,
    /// By this access, as in an id: load, store, fetch and others [default: load]
    #[arg(long, value_parser = access, requires = "method")]
    access: Option<Access>,
}

fn method(text: &str) -> Result<Method, String> {
    Method::parse(text).ok_or_else(|| one_of(Method::ALL.iter().map(|method| method.name())))
}

fn access(text: &str) -> Result<Access, String> {
    Access::parse(text).ok_or_else(|| one_of(Access::ALL.iter().map(|access| access.name())))
}

fn one_of(words: impl Iterator<Item = &'static str>) -> String {
    format!("there are {}", words.collect::<Vec<_>>().join(", "))
}

fn raw(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let value = match digits {
        Some(digits) => u64::from_str_radix(&digits.replace('_', ""), 16),
        None => text.parse(),
    };
    value.map_err(|_| "not a 64-bit number; write it as 0x...".to_owned())
}

fn granule(text: &str) -> Result<Granule, String> {
    let known = Granule::ALL.into_iter().find(|granule| granule.name().eq_ignore_ascii_case(text));
    known.ok_or_else(|| one_of(Granule::ALL.iter().map(|granule| granule.name())))
}

fn level(text: &str) -> Result<Level, String> {
    let number = text.parse().ok().and_then(Level::new);
    number.ok_or_else(|| "there are levels 0 to 3, and -1 with --lpa2".to_owned())
}

fn bbm(text: &str) -> Result<BbmLevel, String> {
    let known = text.parse().ok().and_then(BbmLevel::from_number);
    known.ok_or_else(|| "there are BBM levels 0 to 3".to_owned())
}

impl Pair {
    /// The transition, if a pair was given.
    ///
    /// # Errors
    /// If one of the two is no descriptor of its level.
    pub fn transition(&self) -> Result<Option<Transition>, BadDescriptor> {
        let (Some(from), Some(to), Some(granule), Some(level)) = (self.from, self.to, self.granule, self.level) else {
            return Ok(None);
        };
        let hardware = match (self.hardware_dirty, self.hardware_af) {
            (true, _) => HardwareUpdates::Dirty,
            (false, true) => HardwareUpdates::AccessFlag,
            (false, false) => HardwareUpdates::Off,
        };
        let context = Context {
            granule,
            level,
            width: if self.lpa2 { Width::Bits52 } else { Width::Bits48 },
            mair: self.mair,
            contents_equal: self.contents_equal,
            same_mapping: !self.other_mapping,
            hardware,
            compare_and_swap: self.compare_and_swap,
        };
        Transition::checked(from, to, context).map(Some)
    }

    /// Explains `transition`, made of this pair.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, transition: &Transition, out: &mut dyn io::Write) -> io::Result<()> {
        let Transition { old, new, context } = *transition;
        let Context { granule, level, .. } = context;
        let layout = context.layout();
        writeln!(out, "The descriptor at level {}, {granule} granule, which maps {}:", level.number(), {
            Bytes(level.size(granule))
        })?;
        for (name, descriptor) in [("from", old), ("to", new)] {
            let memory = match layout.kind(descriptor) {
                DescriptorKind::Block | DescriptorKind::Page => context.memory(descriptor),
                DescriptorKind::Invalid | DescriptorKind::Table => None,
            };
            let memory = memory.map_or(String::new(), |memory| format!(" ({memory})"));
            writeln!(out, "  {name:<4}  {:#018x}  {}{memory}", descriptor.raw(), describe(descriptor, layout))?;
        }
        differences(transition, out)?;
        let levels = self.bbm.map_or(BbmLevel::ALL.to_vec(), |bbm| vec![bbm]);
        writeln!(out, "\nWhat the change needs:")?;
        for &bbm in &levels {
            let Needed { need, rule, why } = transition.needs(bbm);
            writeln!(out, "  BBM level {bbm}: {need} ({rule}, {why})")?;
            for other in Comparison::of(transition).reasons(bbm).filter(|other| (other.rule, other.why) != (rule, why))
            {
                writeln!(out, "    also {} ({}, {})", other.need, other.rule, other.why)?;
            }
        }
        let nt = |d: Descriptor| d.kind(granule, level) == DescriptorKind::Block && d.nt();
        if levels.contains(&BbmLevel::L0) && (nt(old) || nt(new)) {
            writeln!(out, "  nT, bit 16, is RES0 at BBM level 0 (I_PJZBK).")?;
        }
        let Invalidation { reach, asids } = transition.invalidation();
        writeln!(out, "\nThe TLBI must remove {}.", reach.name())?;
        if reach != Reach::Nothing {
            match asids {
                Asids::Any => {}
                Asids::InUse => writeln!(out, "The entries belong to the ASIDs with which the tables are in use.")?,
                Asids::Every => writeln!(out, "Entries of every ASID overlap the new one: an all-ASID form.")?,
            }
            writeln!(
                out,
                "Before it DSB ISHST, so that walkers see the store; after it DSB ISH completes it (R_PSMWS)."
            )?;
        }
        if let Some(Update { rule, why, .. }) = transition.must_swap() {
            let done =
                if context.compare_and_swap { "The old one is replaced" } else { "The old one must be replaced" };
            writeln!(out, "{done} by a compare-and-swap that expects it ({rule}, {why}).")?;
        }
        writeln!(out, "\nThe ways to make it:")?;
        for &method in Method::ALL {
            let Some(sequence) = transition.sequence(method) else { continue };
            let steps: Vec<&str> = sequence.steps().iter().map(|step| step.asm()).collect();
            writeln!(out, "  {:<13} {}", method.name(), steps.join("; "))?;
            for Update { rule, why, .. } in update::updates(&sequence, transition, transition.block()) {
                writeln!(out, "                {why} ({rule})")?;
            }
            let (mut defined, mut undefined) = (vec![], vec![]);
            for bbm in &levels {
                match transition::gives(&sequence, transition, transition.block(), *bbm) {
                    Ok(_) => defined.push(bbm.to_string()),
                    Err(_) => undefined.push(bbm.to_string()),
                }
            }
            for (what, levels) in [("defined", defined), ("not defined", undefined)] {
                if !levels.is_empty() {
                    writeln!(out, "                {what} at BBM level {}", levels.join(", "))?;
                }
            }
        }
        let Some(method) = self.method else { return Ok(()) };
        let access = self.access.unwrap_or(Access::Load);
        // Where there is a table, it leads to leaves like the block one level below.
        let below = Leaf { level: level.next().unwrap_or(level), attributes: transition.block().attributes() };
        writeln!(out, "\nAn access: {access}. The method: {method}.")?;
        grouped(&levels, out, |bbm| match Situation::of(transition, below, method, access, Stage2::Blocks, bbm) {
            Some(situation) => listing(|phase, kind| situation.allowance(phase, kind)),
            None => "  the method writes what this change has not".to_owned(),
        })
    }
}

/// The fields in which two descriptors of one kind differ.
fn differences(transition: &Transition, out: &mut dyn io::Write) -> io::Result<()> {
    let Transition { old, new, context } = *transition;
    let layout = context.layout();
    let (from, to) = (layout.kind(old), layout.kind(new));
    if from != to {
        return writeln!(out, "\n{from:?} becomes {to:?}.");
    }
    let differ: Vec<Field> = layout.fields(from).filter(|field| old.bits(*field) != new.bits(*field)).collect();
    if differ.is_empty() {
        return writeln!(out, "\nThe fields are the same.");
    }
    writeln!(out, "\nThe fields that differ:")?;
    for field in differ {
        let (old, new) = (old.bits(field) << field.low, new.bits(field) << field.low);
        // An address reads best in its place, anything else as a number.
        let shift = if field.high - field.low > 8 { 0 } else { field.low };
        writeln!(out, "  {:<34} {:#x} -> {:#x}", field.to_string(), old >> shift, new >> shift)?;
    }
    Ok(())
}

/// Output addresses for the listing of descriptors; on a machine they are where hv found memory.
const TABLE: u64 = 0x4010_0000;
const OLD_OA: u64 = 0x8000_0000;

/// Explains `instance`.
///
/// # Errors
/// Those of `out`.
pub fn write(instance: &Instance, out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "{instance}\n")?;
    match instance {
        Instance::Case(case) => {
            intent(case, out)?;
            descriptors(case, out)?;
            steps(case, out)?;
            needs(case, out)?;
        }
        Instance::Selftest(test) => writeln!(out, "A test of the harness itself: {}.", selftest(*test))?,
    }
    control(instance, out)?;
    outcomes(instance, out)
}

fn intent(case: &Case, out: &mut dyn io::Write) -> io::Result<()> {
    let Case { granule, change, .. } = *case;
    let size = Bytes(change.level().size(granule));
    let leaves = match change.leaf_level() {
        leaf if leaf == change.level() => String::new(),
        leaf => format!("; leaves below a table are of {}", Bytes(leaf.size(granule))),
    };
    let (entries, changed) = (change.entries(granule), change.changed(granule));
    let group = match entries {
        1 => String::new(),
        _ if change.what().sides().behind == Behind::Leaves => {
            format!("; the first {changed} of {entries} descriptors")
        }
        _ if entries == changed => format!("; {entries} descriptors, a Contiguous group"),
        _ => format!("; {changed} descriptors of a Contiguous group of {entries}"),
    };
    let what =
        format!("{} (each descriptor maps {size}{leaves}{group})", change.what().describe().trim_end_matches('.'));
    let method = match case.method {
        Method::Bbm => "break-before-make",
        Method::BbmAf => "break-before-make, where the break clears the Access flag",
        Method::Nt => "by way of a Block with nT set",
        Method::Direct => "the new descriptor over the old one, then the TLBI",
        Method::DirectNotlbi => "the new descriptor over the old one, and no TLBI",
        Method::BbmCas => "break-before-make, where the break is a compare-and-swap",
        Method::NtCas => "by way of a Block with nT set, by compare-and-swap",
        Method::BbmAsm => "break-before-make by code that needs nothing of the block meanwhile",
        Method::BbmAlias => "break-before-make by code that uses all that is in the block at another address",
        Method::Overwrite => "each level's table, filled from the live block, over that block; then one TLBI",
        Method::DirectCas => "the new descriptor over the old one by compare-and-swap, then the TLBI",
    };
    let access = match case.observer.access {
        Access::Load => "loads",
        Access::Store => "stores",
        Access::Fetch => "calls",
        Access::Atomic => "atomic swaps",
        Access::Exclusive => "pairs of load-exclusive and store-exclusive",
        Access::Unaligned => "loads across the seams of leaves",
        Access::Misaligned => "loads that are not aligned",
        Access::At => "address translations (AT S1E1R)",
        Access::Dc => "cleans by address (DC CVAC)",
        Access::Walk => "loads behind a TLBI of the observer's own",
        Access::Tables => "loads by way of a stage 1 table there, behind a TLBI of the observer's own",
        Access::UserFetch => "jumps at EL0, from which an SVC leads back",
        Access::UserLoad => "loads with EL0's permissions (LDTR)",
        Access::UserStore => "stores with EL0's permissions (STTR)",
        Access::OtherLoad => "loads with the other ASID (stage 2: VMID) than TLBIs name, before the change with either",
        Access::OtherStore => {
            "stores with the other ASID (stage 2: VMID) than TLBIs name, behind loads with either before the change"
        }
    };
    let place = match case.observer.place {
        Place::Local => "the changing PE does so between the steps",
        Place::Remote => "another PE does so all the time",
        Place::All => "all other PEs do so all the time",
    };
    let stage2 = match case.stage2 {
        Stage2::Off => "off",
        Stage2::Blocks => "on, in the largest blocks that fit",
        Stage2::Pages => "on, in pages",
    };
    writeln!(out, "transition  {what}")?;
    let wide = if change.is_wide() { ", descriptors of FEAT_LPA2 (TCR_EL1.DS is set)" } else { "" };
    let regime = match case.regime {
        Regime::El1 => "EL1&0 stage 1",
        Regime::S2 => "stage 2, changed by the hypervisor",
        Regime::El2 => "EL2 stage 1, changed and looked at by the hypervisor, on the CPU of whoever asks for it",
        Regime::El2Vhe => {
            "EL2&0 stage 1 (HCR_EL2.E2H is set, and TGE too for the steps), changed and looked at by the hypervisor, on the CPU of \
             whoever asks for it"
        }
    };
    writeln!(out, "regime      {regime}, {} granule{wide}", granule.name().to_uppercase())?;
    writeln!(out, "method      {}: {method}", case.method)?;
    writeln!(out, "observer    {access} through the window; {place}")?;
    match change.family().watch() {
        Watch::Nothing => {}
        Watch::Landing => writeln!(out, "watched     whether a store lands at the old frame behind the last DSB")?,
        Watch::Progress => writeln!(out, "watched     whether accesses go on in front of each TLBI")?,
        Watch::Surroundings => writeln!(out, "watched     whether a store lands anywhere else in the VM's memory")?,
    }
    if let Some(Class { name, what, known }) = errata::class(change.family()) {
        writeln!(out, "errata      class {name}: {what} ({known})")?;
    }
    match case.regime {
        Regime::El1 => writeln!(out, "stage 2     {stage2}")?,
        Regime::El2 | Regime::El2Vhe => {}
        Regime::S2 => {
            let stage1 = match case.stage1 {
                Stage1::Blocks => "on, in the largest blocks that fit",
                Stage1::Pages => "on, in pages",
                Stage1::Off => "off, memory Normal Write-Back (HCR_EL2.DC)",
            };
            writeln!(out, "stage 1     {stage1}")?;
            writeln!(out, "breaks      who meets one waits at EL2 until it is mended, if another vCPU made it")?;
        }
    }
    if let Some(cap) = case.cap {
        writeln!(out, "BBM level   at most {cap} is presented, whatever the CPU has")?;
    }
    if let Some(remedy) = case.remedy {
        let certain = match remedy.is_guaranteed(case.stage2) {
            true => "nothing else, since it must clear it (R_BLRKC)",
            false => "which may clear it or not (R_GRVDR); VMALLE1 next, then VMALLS12E1",
        };
        writeln!(out, "conflict    answered by TLBI {} first, {certain}", remedy.name().to_uppercase())?;
    }
    Ok(())
}

fn descriptors(case: &Case, out: &mut dyn io::Write) -> io::Result<()> {
    let Case { granule, change, .. } = *case;
    let level = change.level();
    let new_oa = if change.moves() { OLD_OA + change.window_size(granule) } else { OLD_OA };
    let tables = [TABLE, TABLE + granule.page_size()];
    let set = change.descriptors_in(case.regime, granule, [OLD_OA, new_oa], tables);
    let describe = match case.regime {
        Regime::El1 | Regime::El2Vhe => describe,
        Regime::S2 => describe_stage2,
        Regime::El2 => describe_el2,
    };
    writeln!(out, "\nThe descriptor at level {}, with example addresses:", level.number())?;
    for (name, descriptor) in [("old", set.old), ("new", set.new)] {
        writeln!(
            out,
            "  {name}  {:#018x}  {}",
            descriptor.raw(),
            describe(descriptor, change.format(granule).at(level))
        )?;
    }
    Ok(())
}

fn describe(descriptor: Descriptor, layout: Layout) -> String {
    let oa = layout.oa(descriptor);
    let kind = match layout.kind(descriptor) {
        DescriptorKind::Invalid => return "Invalid".to_owned(),
        DescriptorKind::Table => return format!("Table at {oa:#x}"),
        DescriptorKind::Block => "Block",
        DescriptorKind::Page => "Page",
    };
    let Attributes {
        attr_index,
        shareability,
        writable,
        el0,
        el1_execute,
        el0_execute,
        access_flag,
        dbm,
        not_global,
        contiguous,
        ..
    } = layout.attributes(descriptor);
    let mut text = format!(
        "{kind} to {oa:#x}: AttrIndx {attr_index}, {}, {}, {}",
        if layout.has_sh() { format!("{shareability:?} shareable") } else { "shareable as TCR says".to_owned() },
        if writable { "read-write" } else { "read-only" },
        if el1_execute { "executable" } else { "PXN" },
    );
    // In a Page, nT's bit is one of the OA.
    let nt = descriptor.nt() && layout.kind(descriptor) == DescriptorKind::Block;
    for (set, name) in [
        (el0, "EL0 too"),
        (el0_execute, "executable at EL0"),
        (access_flag, "AF"),
        (dbm, "DBM"),
        (not_global, "nG"),
        (contiguous, "Contiguous"),
        (nt, "nT"),
    ] {
        if set {
            text += &format!(", {name}");
        }
    }
    text
}

/// The same of EL2's own, which has one privilege level: a field where EL1&0 has two.
fn describe_el2(descriptor: Descriptor, layout: Layout) -> String {
    let text = describe(descriptor, layout);
    let (two, one) = match layout.attributes(descriptor).el0_execute {
        true => (["executable, EL0 too", ", executable at EL0"], "executable"),
        false => (["executable, EL0 too", ""], "XN"),
    };
    text.replacen(two[0], one, 1).replacen(two[1], "", 1)
}

/// The same of stage 2.
fn describe_stage2(descriptor: Descriptor, layout: Layout) -> String {
    let oa = layout.oa(descriptor);
    let kind = match layout.kind(descriptor) {
        DescriptorKind::Invalid | DescriptorKind::Table => return describe(descriptor, layout),
        DescriptorKind::Block => "Block",
        DescriptorKind::Page => "Page",
    };
    // Where the fields are those of stage 1.
    let Attributes { shareability, access_flag, dbm, contiguous, .. } = layout.attributes(descriptor);
    let field = |high: u32, low: u32| descriptor.raw() >> low & ((1 << (high - low + 1)) - 1);
    let mut text = format!(
        "{kind} to {oa:#x}: MemAttr {:#06b}, {shareability:?} shareable, S2AP {:#04b}, XN {:#04b}",
        field(5, 2),
        field(7, 6),
        field(54, 53),
    );
    let nt = descriptor.nt() && layout.kind(descriptor) == DescriptorKind::Block;
    for (_, name) in
        [(access_flag, "AF"), (dbm, "DBM"), (contiguous, "Contiguous"), (nt, "nT")].into_iter().filter(|(set, _)| *set)
    {
        text += &format!(", {name}");
    }
    text
}

fn steps(case: &Case, out: &mut dyn io::Write) -> io::Result<()> {
    let whose = if case.script.is_some() { "The steps, instead of the method's own" } else { "The method's steps" };
    writeln!(out, "\n{whose}:")?;
    for step in case.sequence().steps() {
        match (step, case.change.form()) {
            (Step::Tlbi(Tlbi::Form), Some(form)) => {
                let name = Form { aim: Aim::Hit, ..form };
                writeln!(out, "  {:<24} // {}", format!("tlbi {name}"), form.describe())?;
            }
            (Step::Tlbi(Tlbi::Vmalle1is), _) if case.regime == Regime::S2 => {
                let reason = "nor what combines both stages, which a TLBI by IPA leaves (R_TVTYQ)";
                writeln!(out, "  {:<24} // {reason}", step.asm())?;
            }
            _ => writeln!(out, "  {:<24} // {}", step.asm(), step.reason())?,
        }
    }
    Ok(())
}

fn needs(case: &Case, out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "\nWhat the change needs, and whether this method gives it:")?;
    for level in BbmLevel::ALL {
        let needed = case.change.needs(case.granule, level);
        let given = match transition::sufficient_for(case, level) {
            Ok(_) => "given".to_owned(),
            // What a script lacks need not be what the change asks for.
            Err(Needed { rule, why, .. }) if case.script.is_some() => {
                format!("not given ({rule}, {why}), so that the outcome is not defined")
            }
            Err(_) => "not given, so that the outcome is not defined".to_owned(),
        };
        writeln!(out, "  BBM level {level}: {} ({}, {}): {given}", needed.need, needed.rule, needed.why)?;
    }
    Ok(())
}

fn control(instance: &Instance, out: &mut dyn io::Write) -> io::Result<()> {
    match verdict::control(instance) {
        Some(Control::MustShow(phase, kind)) => {
            writeln!(out, "\nA control: where the platform can show it, it must show `{kind}` {phase} the change.")
        }
        Some(Control::MustNotShow) => writeln!(out, "\nA control: it must show nothing."),
        None => Ok(()),
    }
}

/// What may be seen, once for all BBM levels that agree.
fn outcomes(instance: &Instance, out: &mut dyn io::Write) -> io::Result<()> {
    grouped(&BbmLevel::ALL, out, |bbm| listing(|phase, kind| verdict::allowance(instance, bbm, phase, kind)))
}

/// A listing of each level, once for all that agree.
fn grouped(levels: &[BbmLevel], out: &mut dyn io::Write, listing: impl Fn(BbmLevel) -> String) -> io::Result<()> {
    let listings: Vec<(BbmLevel, String)> = levels.iter().map(|level| (*level, listing(*level))).collect();
    for group in listings.chunk_by(|one, other| one.1 == other.1) {
        let levels: Vec<String> = group.iter().map(|(level, _)| level.to_string()).collect();
        writeln!(out, "\nWhat may be seen at BBM level {}; all else is a fail:\n{}", levels.join(", "), group[0].1)?;
    }
    Ok(())
}

fn listing(allowance: impl Fn(Phase, Kind) -> Allowance) -> String {
    let mut text = String::new();
    for phase in Phase::ALL {
        // Kinds that share rule and reason share a line.
        let mut lines: Vec<(&str, &str, Vec<Kind>)> = Vec::new();
        let allowed = Kind::all().map(|kind| (kind, allowance(phase, kind))).filter(|(_, allowance)| allowance.allowed);
        for (kind, allowance) in allowed {
            match lines.iter_mut().find(|(rule, why, _)| (*rule, *why) == (allowance.rule, allowance.why)) {
                Some((.., kinds)) => kinds.push(kind),
                None => lines.push((allowance.rule, allowance.why, vec![kind])),
            }
        }
        for (rule, why, kinds) in &lines {
            // Where nearly everything is allowed, what is not says more.
            let others: Vec<Kind> =
                Kind::all().filter(|kind| !lines.iter().any(|(.., kinds)| kinds.contains(kind))).collect();
            let seen = if lines.len() == 1 && kinds.len() > others.len() {
                if others.is_empty() { "anything".to_owned() } else { format!("anything but {}", names(&others)) }
            } else {
                names(kinds)
            };
            text += &format!("  {phase:<7} {seen} ({rule}, {why})\n");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// The kinds' names; a fault that is allowed at every level is named once.
fn names(kinds: &[Kind]) -> String {
    let levels = |fault| kinds.iter().filter(|kind| matches!(kind, Kind::Fault(f, _) if *f == fault)).count();
    let every = (-1..=3).count();
    let mut names: Vec<String> = Vec::new();
    for kind in kinds {
        let name = kind.to_string();
        let name = match kind {
            Kind::Fault(fault, _) if levels(*fault) == every => {
                let fault = name.rsplit_once("-l").map_or(name.as_str(), |(fault, _)| fault);
                format!("{fault} at any level")
            }
            _ => name,
        };
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

const fn selftest(test: Selftest) -> &'static str {
    match test {
        Selftest::Quiet => "accesses to memory that nobody changes must show nothing",
        Selftest::Clean => "registers and memory of a fresh VM are as designed",
        Selftest::HangMasked => "it loops with every interrupt masked, and the watchdog ends it",
        Selftest::Undefined => "it executes an undefined instruction and is ended with its registers recorded",
        Selftest::Storm => "it takes exceptions without end, and the watchdog ends it",
        Selftest::Scribble => "it writes over all memory that it can reach and reaches for more; stage 2 contains it",
        Selftest::Forge => {
            "it makes hypercalls with wild arguments and logs what looks like results; hv refuses all of it"
        }
        Selftest::CpuSwap => "vCPU 0 switches off and vCPU 1 switches it on again",
        Selftest::HalfRecord => "it hands in half a report and switches off",
        Selftest::NoSecondCpu => "its second CPU never starts, and the runtime notices",
        Selftest::ConflictEl1 => "a TLB conflict abort is injected at EL1 and recovered from",
        Selftest::ConflictEl2ForEl1 => "a TLB conflict abort of EL1's translation is injected at EL2 (R_FWRMB)",
        Selftest::ConflictEl2 => "a TLB conflict abort of EL2's own translation is recovered from",
        Selftest::CapBbm0 => "ID_AA64MMFR2_EL1 shows BBM level 0",
        Selftest::CapBbm1 => "ID_AA64MMFR2_EL1 shows BBM level 1 at most",
    }
}

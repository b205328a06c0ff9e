//! `shatter explain`: what one instance does, and which rules it stands on.
//!
//! Everything here is read off the data that the payload executes and the judge applies; the text cannot tell
//! another story than the test.

use std::io;

use vmsa::{
    descriptor::{Attributes, Descriptor, DescriptorKind},
    geometry::{BbmLevel, Bytes, Granule, Level},
    instance::{Access, Case, Change, Instance, Method, Place, Protection, Remapping, Selftest, Stage2},
    outcome::{Kind, Phase},
    transition::{self, Needed},
    verdict::{self, Control},
};

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
    let size = |level: Level| Bytes(level.size(case.granule));
    let what = match case.change {
        Change::Split { block, leaf } => {
            format!("a block of {} becomes tables down to leaves of {}", size(block), size(leaf))
        }
        Change::Merge { block, leaf } => {
            format!("tables down to leaves of {} become a block of {}", size(leaf), size(block))
        }
        Change::Remap { level, kind } => format!(
            "a leaf of {} gets another output address, {}",
            size(level),
            match kind {
                Remapping::Writable => "and is writable before and after",
                Remapping::ReadOnlySame => "read-only, where the same contents are",
                Remapping::ReadOnlyOther => "read-only, where other contents are",
            }
        ),
        Change::Protect { level, kind } => format!(
            "a leaf of {} becomes {}",
            size(level),
            match kind {
                Protection::RwRo => "read-only",
                Protection::RoRw => "writable",
                Protection::XXn => "not executable",
                Protection::XnX => "executable",
            }
        ),
    };
    let method = match case.method {
        Method::Bbm => "break-before-make",
        Method::BbmAf => "break-before-make, where the break clears the Access flag",
        Method::Nt => "by way of a Block with nT set",
        Method::Direct => "the new descriptor over the old one, then the TLBI",
        Method::DirectNotlbi => "the new descriptor over the old one, and no TLBI",
    };
    let access = match case.observer.access {
        Access::Load => "loads",
        Access::Store => "stores",
        Access::Fetch => "calls",
    };
    let place = match case.observer.place {
        Place::Local => "the changing PE does so between the steps",
        Place::Remote => "another PE does so all the time",
    };
    let stage2 = match case.stage2 {
        Stage2::Off => "off",
        Stage2::Blocks => "on, in the largest blocks that fit",
        Stage2::Pages => "on, in pages",
    };
    writeln!(out, "transition  {what} (EL1&0 stage 1, {} granule)", case.granule.name().to_uppercase())?;
    writeln!(out, "method      {}: {method}", case.method)?;
    writeln!(out, "observer    {access} through the window; {place}")?;
    writeln!(out, "stage 2     {stage2}")?;
    if let Some(cap) = case.cap {
        writeln!(out, "BBM level   at most {cap} is presented, whatever the CPU has")?;
    }
    Ok(())
}

fn descriptors(case: &Case, out: &mut dyn io::Write) -> io::Result<()> {
    let Case { granule, change, .. } = *case;
    let level = change.level();
    let new_oa = if change.moves() { OLD_OA + level.size(granule) } else { OLD_OA };
    let set = change.descriptors(granule, OLD_OA, new_oa, TABLE);
    writeln!(out, "\nThe descriptor at level {}, with example addresses:", level.number())?;
    for (name, descriptor) in [("old", set.old), ("new", set.new)] {
        writeln!(out, "  {name}  {:#018x}  {}", descriptor.raw(), describe(descriptor, granule, level))?;
    }
    Ok(())
}

fn describe(descriptor: Descriptor, granule: Granule, level: Level) -> String {
    let oa = descriptor.oa(granule, level);
    let kind = match descriptor.kind(granule, level) {
        DescriptorKind::Invalid => return "Invalid".to_owned(),
        DescriptorKind::Table => return format!("Table at {oa:#x}"),
        DescriptorKind::Block => "Block",
        DescriptorKind::Page => "Page",
    };
    let Attributes { attr_index, shareability, writable, el1_execute, access_flag, not_global, contiguous, .. } =
        descriptor.attributes();
    let mut text = format!(
        "{kind} to {oa:#x}: AttrIndx {attr_index}, {shareability:?} shareable, {}, {}",
        if writable { "read-write" } else { "read-only" },
        if el1_execute { "executable" } else { "PXN" },
    );
    // In a Page, nT's bit is one of the OA.
    let nt = descriptor.nt() && descriptor.kind(granule, level) == DescriptorKind::Block;
    for (set, name) in [(access_flag, "AF"), (not_global, "nG"), (contiguous, "Contiguous"), (nt, "nT")] {
        if set {
            text += &format!(", {name}");
        }
    }
    text
}

fn steps(case: &Case, out: &mut dyn io::Write) -> io::Result<()> {
    let whose = if case.script.is_some() { "The steps, instead of the method's own" } else { "The method's steps" };
    writeln!(out, "\n{whose}:")?;
    for step in case.sequence().steps() {
        writeln!(out, "  {:<24} // {}", step.asm(), step.reason())?;
    }
    Ok(())
}

fn needs(case: &Case, out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "\nWhat the change needs, and whether this method gives it:")?;
    for level in BbmLevel::ALL {
        let needed = case.change.needs(case.granule, level);
        let given = match transition::sufficient(&case.sequence(), case.change, case.granule, level) {
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
    let listings = BbmLevel::ALL.map(|level| (level, listing(instance, level)));
    let mut shown: &[(BbmLevel, String)] = &listings;
    while let Some((_, text)) = shown.first() {
        let same = shown.iter().take_while(|(_, other)| other == text).count();
        let levels: Vec<String> = shown[..same].iter().map(|(level, _)| level.to_string()).collect();
        writeln!(out, "\nWhat may be seen at BBM level {}; all else is a fail:\n{text}", levels.join(", "))?;
        shown = &shown[same..];
    }
    Ok(())
}

fn listing(instance: &Instance, level: BbmLevel) -> String {
    let mut text = String::new();
    for phase in Phase::ALL {
        // Kinds that share rule and reason share a line.
        let mut lines: Vec<(&str, &str, Vec<Kind>)> = Vec::new();
        for (kind, allowance) in verdict::allowed_kinds(instance, level, phase) {
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

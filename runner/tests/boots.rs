//! The Image itself on QEMU: how it is entered, which machines it finds its way on, and what it says of a bundle or
//! plan that it cannot use. Each test is a boot of its own, read from the UART.

mod common;
#[path = "common/harness.rs"]
mod harness;

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use dtoolkit::{
    fdt::Fdt,
    model::{DeviceTree, DeviceTreeProperty},
};
use shatter_runner::{guest, platform::qemu::Qemu, results::Smmu};
use tempfile::TempDir;
use wire::{
    frame::{Event, Reader},
    record::Record,
};

static QEMU: LazyLock<Qemu> = LazyLock::new(|| common::find_qemu().expect("looked for before any test"));

/// Longest time a boot may take: far more than any does on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory with the Image and a bundle.
fn files(bundle: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("Image"), guest::IMAGE).expect("a file");
    fs::write(dir.path().join("bundle"), bundle).expect("a file");
    dir
}

/// A bundle with every payload.
fn bundle(plan: &str) -> Vec<u8> {
    let all: Vec<_> = cases::all().collect();
    guest::bundle(plan, &all).expect("an archive")
}

/// Runs QEMU in `dir` and returns what the UART said until the machine was off.
fn qemu(dir: &Path, arguments: &[&str]) -> String {
    let mut child = Command::new(QEMU.program())
        .current_dir(dir)
        .args(["-accel", "tcg,thread=single", "-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot"])
        .args(["-serial", "file:console"])
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .expect("QEMU was found");
    let start = Instant::now();
    let read = || fs::read(dir.join("console")).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    loop {
        // A machine without PSCI cannot switch itself off: its last line tells that it is done.
        let done = child.try_wait().expect("a child").is_some() || read().contains("# shatter: end");
        if done || start.elapsed() > PATIENCE {
            let _ = child.kill();
            child.wait().expect("a child");
            assert!(done, "no end after {PATIENCE:?}:\n{}", read());
            return read();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Boots with `-kernel`, a bundle and bootargs.
fn boot(machine: &str, more: &[&str], bundle: &[u8], bootargs: &str) -> String {
    let dir = files(bundle);
    let mut arguments = vec!["-M", machine, "-kernel", "Image", "-initrd", "bundle", "-append", bootargs];
    arguments.extend(more);
    qemu(dir.path(), &arguments)
}

const VIRT: &str = "virt,virtualization=on,gic-version=3";
const TWO: [&str; 6] = ["-cpu", "max", "-smp", "2", "-m", "3G"];
const SOME: &str = "shatter.rounds=16 \
                    shatter.run=selftest.quiet,selftest.hang-masked,el1.split.4k-l2.bbm.load-remote,selftest.clean";

#[track_caller]
fn assert_lines(console: &str, wanted: &[&str]) {
    for line in wanted {
        assert!(console.lines().any(|l| l.trim_end() == *line), "no line `{line}` in:\n{console}");
    }
}

fn it_runs_on_one_to_eight_cpus_with_gicv2_and_gicv3() {
    let bundle = bundle("");
    for gic in [2, 3] {
        for cpus in [1_u8, 2, 3, 8] {
            let machine = format!("virt,virtualization=on,gic-version={gic}");
            let console = boot(&machine, &["-cpu", "max", "-smp", &cpus.to_string(), "-m", "1G"], &bundle, SOME);
            assert_lines(&console, &["1..4", "ok 2 selftest.hang-masked", "ok 4 selftest.clean"]);
            match cpus {
                1 => assert_lines(&console, &["ok 1 selftest.quiet # SKIP needs 2 CPUs, the machine has 1"]),
                _ => assert_lines(&console, &["ok 1 selftest.quiet", "ok 3 el1.split.4k-l2.bbm.load-remote"]),
            }
            let mut found = (0, String::new());
            Reader::new().push(console.as_bytes(), &mut |event| {
                if let Event::Record(Record::Platform(platform)) = event {
                    found = (platform.cpus, platform.gic.to_string());
                }
            });
            assert_eq!(found, (cpus, format!("gicv{gic}")));
        }
    }
}

fn it_runs_where_the_gic_has_security_extensions() {
    // As behind EL3 firmware on a board: the watchdog and the other CPUs' wake-ups come through the Non-secure view.
    for gic in [2, 3] {
        let machine = format!("virt,virtualization=on,secure=on,gic-version={gic}");
        let console = boot(&machine, &TWO, &bundle(""), SOME);
        assert_lines(&console, &["ok 1 selftest.quiet", "ok 2 selftest.hang-masked", "ok 4 selftest.clean"]);
    }
}

fn it_tells_what_an_smmu_can_do() {
    for (machine, there) in [(VIRT.to_owned(), false), (format!("{VIRT},iommu=smmuv3"), true)] {
        let console = boot(&machine, &TWO, &bundle(""), SOME);
        assert_lines(&console, &["ok 1 selftest.quiet", "ok 4 selftest.clean"]);
        let mut found = vec![];
        Reader::new().push(console.as_bytes(), &mut |event| {
            if let Event::Record(Record::Smmu(smmu)) = event {
                found.push(Smmu::of(&smmu));
            }
        });
        assert_eq!(found.len(), usize::from(there), "{console}");
        // QEMU's is coherent.
        assert!(found.iter().all(|smmu| smmu.coherent_walks && smmu.base.0 == 0x905_0000), "{found:?}");
    }
}

fn a_payload_cannot_speak_for_the_hypervisor() {
    let console = boot(VIRT, &TWO, &bundle(""), "shatter.run=selftest.forge,selftest.cpu-swap,selftest.conflict-el2");
    assert_lines(&console, &["ok 1 selftest.forge", "ok 2 selftest.cpu-swap", "ok 3 selftest.conflict-el2"]);
    assert!(console.contains("harmless..ok 99 forged..#. gw"), "{console}");
    assert!(!console.lines().any(|l| l.starts_with("ok 99")), "{console}");
    let mut reader = Reader::new();
    let mut hellos = 0;
    reader.push(console.as_bytes(), &mut |event| {
        hellos += u32::from(matches!(event, Event::Record(Record::Hello { .. })))
    });
    assert_eq!((hellos, reader.lost()), (1, 0), "{console}");
}

fn at_el1_it_explains_and_stops() {
    let console = boot("virt", &TWO, &bundle(""), SOME);
    assert!(
        console.starts_with("Bail out! shatter: entered at EL1, but it is a hypervisor and needs EL2."),
        "{console}"
    );
    assert_eq!(console.lines().count(), 1, "{console}");
}

fn at_el3_it_goes_down_to_el2() {
    // QEMU enters a kernel at EL2, so Image and bundle are put into memory as firmware would, at an address of our
    // own choice, and the DTB tells of them.
    const INITRD: u64 = 0x5000_0000;
    let machine = "virt,secure=on,virtualization=on,gic-version=3";
    let bundle = bundle("");
    let dir = files(&bundle);
    let dump = format!("{machine},dumpdtb=plain.dtb");
    qemu(dir.path(), &["-M", &dump, "-cpu", "max", "-smp", "1", "-m", "1G"]);
    let plain = fs::read(dir.path().join("plain.dtb")).expect("QEMU dumped its DTB");
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&plain).expect("a DTB"));
    let chosen = tree.find_node_mut("/chosen").expect("QEMU makes one");
    let bootargs = "shatter.rounds=16 shatter.run=selftest.clean,el1.split.4k-l2.bbm.load-local";
    for property in [
        DeviceTreeProperty::new("linux,initrd-start", INITRD),
        DeviceTreeProperty::new("linux,initrd-end", INITRD + bundle.len() as u64),
        DeviceTreeProperty::new("bootargs", bootargs),
    ] {
        chosen.add_property(property.expect("a name"));
    }
    fs::write(dir.path().join("el3.dtb"), tree.to_dtb()).expect("a file");
    let initrd = format!("loader,file=bundle,addr={INITRD:#x},force-raw=on");
    let console = qemu(
        dir.path(),
        &[
            ["-M", machine],
            ["-cpu", "max"],
            ["-m", "1G"],
            ["-dtb", "el3.dtb"],
            ["-device", "loader,file=Image,addr=0x48000000,force-raw=on"],
            ["-device", &initrd],
            ["-device", "loader,addr=0x48000000,cpu-num=0"],
        ]
        .concat(),
    );
    assert_lines(
        &console,
        &["# entered at EL3, went down to EL2", "ok 1 selftest.clean", "ok 2 el1.split.4k-l2.bbm.load-local"],
    );
}

fn too_little_ram_for_a_gib_is_a_skip_with_its_reason() {
    let run = "shatter.run=el1.split.4k-l1.bbm.load-local,el1.split.4k-l2.bbm.load-local shatter.rounds=4";
    let console = boot(VIRT, &["-cpu", "max", "-m", "512M"], &bundle(""), run);
    let reason = "needs 1024 MiB of free RAM at a 1024 MiB boundary, the machine has none";
    assert_lines(
        &console,
        &[&format!("ok 1 el1.split.4k-l1.bbm.load-local # SKIP {reason}"), "ok 2 el1.split.4k-l2.bbm.load-local"],
    );
}

fn it_says_what_is_wrong_with_a_bundle() {
    let whole = bundle("");
    let console = boot(VIRT, &TWO, &whole[..whole.len() / 2], SOME);
    assert!(console.contains("Bail out! damaged bundle: the initrd at 0x"), "{console}");

    let mut flipped = whole.clone();
    let header = flipped.windows(8).position(|w| w == wire::abi::HEADER_MAGIC).expect("a payload");
    flipped[header + 4096] ^= 1;
    let all = "shatter.rounds=4 shatter.run=el1.split.4k-l2.bbm.load-local,el1.merge.4k-l2.bbm.load-local,\
               el1.remap.4k-l3-rw.bbm.load-local,el1.protect.4k-l3-rw-ro.bbm.load-local,selftest.clean";
    let console = boot(VIRT, &TWO, &flipped, all);
    assert!(console.contains(": damaged: its checksum does not match"), "{console}");
    // The payload that cannot be run is not passed over as if nothing were wrong, and the other runs.
    assert_eq!(console.lines().filter(|l| l.starts_with("not ok")).count(), 4, "{console}");
    assert_eq!(console.lines().filter(|l| l.starts_with("ok ")).count(), 1, "{console}");

    let dir = files(&[]);
    let console = qemu(dir.path(), &[["-M", VIRT], ["-cpu", "max"], ["-kernel", "Image"]].concat());
    assert!(console.contains("Bail out! no bundle"), "{console}");
}

fn it_says_what_is_wrong_with_a_plan() {
    for (plan, bootargs, complaint) in [
        ("shatter-plan 1\nrun selftest.quiet\n", "", "plan line 2: there is no end line after it"),
        ("shatter-plan 1\nrun selftest.quiet\nend 2\n", "", "plan line 3: it has 1 run line"),
        ("shatter-plan 1\nrun selftest.nothing\nend 1\n", "", "plan line 2: `selftest.nothing` is no instance"),
        ("nonsense", "", "plan line 1: "),
        ("", "shatter.run=el1.nothing", "bootargs: `el1.nothing` is no instance"),
        ("", "shatter.rounds=many", "bootargs: `many` is not a number"),
    ] {
        let console = boot(VIRT, &TWO, &bundle(plan), bootargs);
        let wanted = format!("Bail out! {complaint}");
        assert!(console.lines().any(|l| l.starts_with(&wanted)), "no `{wanted}` in:\n{console}");
    }
}

fn main() -> ExitCode {
    harness::main(
        &[],
        tests![
            it_runs_on_one_to_eight_cpus_with_gicv2_and_gicv3,
            it_runs_where_the_gic_has_security_extensions,
            it_tells_what_an_smmu_can_do,
            a_payload_cannot_speak_for_the_hypervisor,
            at_el1_it_explains_and_stops,
            at_el3_it_goes_down_to_el2,
            too_little_ram_for_a_gib_is_a_skip_with_its_reason,
            it_says_what_is_wrong_with_a_bundle,
            it_says_what_is_wrong_with_a_plan
        ],
    )
}

//! `shatter run` as users meet it, on QEMU and without: what is in the result file, and what is left when things go wrong.

mod common;
#[path = "common/harness.rs"]
mod harness;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, ExitCode, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use shatter_runner::guest;

fn shatter(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shatter"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(out: &Path, arguments: &[&str]) -> Output {
    let out = out.to_str().expect("a path in UTF-8");
    shatter(&[&["run", "--out", out], arguments].concat()).output().expect("shatter starts")
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
}

fn result(out: &Path, cpu: &str) -> Value {
    result_of(out, "qemu", cpu)
}

fn result_of(out: &Path, platform: &str, cpu: &str) -> Value {
    let path = out.join(format!("{platform}/{cpu}.json"));
    serde_json::from_slice(&fs::read(&path).expect("a result file")).expect("JSON")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn case<'a>(result: &'a Value, id: &str) -> &'a Value {
    result["cases"].as_array().expect("cases").iter().find(|c| c["id"] == id).expect("the case")
}

fn a_captured_console_makes_the_same_results() {
    let dir = tempfile::tempdir().expect("a directory");
    let (console, ingested) = (dir.path().join("console"), dir.path().join("ingested"));
    let ran = run(
        dir.path(),
        &["selftest", "el1.split.4k-l2.", "--on", "model", "--console", console.to_str().expect("a path in UTF-8")],
    );
    assert_code(&ran, 0);
    let log = console.join("ideal-l2-abort-0x2a.log");
    // As a terminal program leaves it.
    let text = String::from_utf8_lossy(&fs::read(&log).expect("a console")).replace('\n', "\r\n\u{1b}[0m");
    fs::write(&log, "U-Boot\r\n".to_owned() + &text).expect("it can be written");
    let ingest = |kind| {
        let arguments = ["ingest", log.to_str().expect("a path in UTF-8"), "--kind", kind, "--cpu-name", "it", "--out"];
        shatter(&arguments).arg(&ingested).output().expect("shatter starts")
    };
    assert_code(&ingest("board"), 2);
    assert_code(&ingest("fvp"), 0);
    let (live, late) = (result_of(dir.path(), "model", "ideal-l2-abort"), result_of(&ingested, "fvp", "it"));
    for part in ["cases", "conflicts", "controls"] {
        assert!(live[part] == late[part], "{part} are not the same");
        assert!(!live[part].as_array().expect("a list").is_empty(), "{part}");
    }
    assert_eq!((&live["run"]["seed"], &live["run"]["planned"]), (&late["run"]["seed"], &late["run"]["planned"]));
    fs::write(&log, "nothing but noise\r\n".repeat(9)).expect("it can be written");
    let nothing = ingest("board");
    assert_code(&nothing, 3);
    assert!(complaint(&nothing).contains("there is no whole result in it"), "{}", complaint(&nothing));
}

fn injected_conflicts_go_all_the_way_from_the_handler_to_the_result_file() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_code(&run(dir.path(), &["selftest.conflict"]), 0);
    let result = result(dir.path(), "max");
    let conflicts = result["conflicts"].as_array().expect("conflicts");
    for (id, place, cleared_by, ec) in [
        ("selftest.conflict-el1", "el1", "vmalle1", 0x25),
        ("selftest.conflict-el2-for-el1", "el2-for-el1", "vmalls12e1", 0x24),
        ("selftest.conflict-el2", "el2", "alle2", 0x25),
    ] {
        assert_eq!(case(&result, id)["verdict"], "pass");
        let first = conflicts.iter().find(|c| c["id"] == id).expect("a conflict of each place");
        assert_eq!(
            (&first["place"], &first["cleared_by"], &first["injected"]),
            (&place.into(), &cleared_by.into(), &true.into())
        );
        let esr = first["esr"].as_str().and_then(|s| u64::from_str_radix(s.trim_start_matches("0x"), 16).ok());
        assert_eq!(esr.map(|esr| (esr >> 26, esr & 0x3f)), Some((ec, 0x30)), "{first}");
        assert_ne!(first["pc"], "0x0");
    }
}

fn whatever_ends_by_force_is_recorded_with_its_registers() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_code(&run(dir.path(), &["selftest", "el1.split.4k-l2.bbm.load-remote"]), 0);
    let result = result(dir.path(), "max");
    for (id, end) in [
        ("selftest.hang-masked", "watchdog"),
        ("selftest.storm", "watchdog"),
        ("selftest.undefined", "exception"),
        ("selftest.half-record", "no-report"),
    ] {
        let case = case(&result, id);
        assert_eq!((&case["verdict"], &case["end"]), (&"pass".into(), &end.into()), "{case}");
        assert!(case["registers"]["PC"].is_string(), "{case}");
    }
    // UDF, as EL1 saw it: EC 0.
    assert_eq!(case(&result, "selftest.undefined")["registers"]["ESR_EL1"], "0x2000000");
    assert!(case(&result, "selftest.scribble")["contained"].as_u64() > Some(0));
    assert_eq!(case(&result, "el1.split.4k-l2.bbm.load-remote")["verdict"], "pass");
}

/// Kills QEMU, a child of the process `parent`, and says whether there was one.
fn kill_qemu(parent: u32) -> bool {
    let children = format!("/proc/{parent}/task");
    let pids = fs::read_dir(children).into_iter().flatten().flatten().flat_map(|task| {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let mut killed = false;
    for pid in pids {
        killed |= Command::new("kill").args(["-9", &pid]).status().is_ok_and(|s| s.success());
    }
    killed
}

fn a_killed_qemu_costs_nothing_collected_and_resume_finishes() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().to_str().expect("a path in UTF-8");
    let arguments = ["run", "el1.split", "--rounds", "2000", "--out", out];
    let mut child = shatter(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("shatter starts");
    let journal = dir.path().join("qemu/max.journal");
    let start = Instant::now();
    // A few results in, so that there is something to lose.
    while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < 5 {
        assert!(start.elapsed() < Duration::from_secs(120), "no results");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(kill_qemu(child.id()), "QEMU is a child of shatter");
    assert_eq!(child.wait().expect("a child").code(), Some(3));

    let cases = |value: &Value| value["cases"].as_array().map_or(0, Vec::len);
    let before = result(dir.path(), "max");
    let collected = cases(&before);
    assert!(collected >= 4, "{collected}");
    let resumed = shatter(&[&arguments[..], &["--resume"]].concat()).output().expect("shatter starts");
    assert_code(&resumed, 0);
    let after = result(dir.path(), "max");
    assert_eq!(cases(&after) as u64, after["run"]["planned"].as_u64().expect("a number"));
    // What was collected was kept, not run again.
    for case in before["cases"].as_array().expect("cases") {
        assert!(after["cases"].as_array().expect("cases").contains(case), "{case}");
    }
}

fn a_killed_runner_takes_its_qemu_along() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().to_str().expect("a path in UTF-8");
    let mut child = shatter(&["run", "el1.split", "--rounds", "100000", "--out", out])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("shatter starts");
    let marker = dir.path().join("qemu/max.journal");
    let start = Instant::now();
    while !marker.exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "not started");
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(200));
    let list = fs::read_dir(format!("/proc/{}/task", child.id())).expect("it runs");
    let qemus: Vec<String> = list
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(!qemus.is_empty());
    child.kill().expect("it runs");
    child.wait().expect("a child");
    let gone =
        |pid: &String| fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    let start = Instant::now();
    while !qemus.iter().all(gone) {
        assert!(start.elapsed() < Duration::from_secs(10), "QEMU goes on without its runner");
        thread::sleep(Duration::from_millis(10));
    }
}

fn bad_input_has_its_own_exit_code_and_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = run(dir.path(), &["--cpu", "cortex-a9000"]);
    assert_code(&output, 2);
    assert!(complaint(&output).contains("cortex-a57"), "{}", complaint(&output));

    let output = run(dir.path(), &["el1.splt"]);
    assert_code(&output, 4);
    assert!(complaint(&output).contains("el1.split"), "{}", complaint(&output));

    let file = dir.path().join("file");
    fs::write(&file, "").expect("a file");
    let output = run(&file, &["selftest.quiet"]);
    assert_code(&output, 2);
    assert!(complaint(&output).contains("file"), "{}", complaint(&output));
}

fn a_qemu_that_is_too_old_is_told_from_one_that_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = dir.path().join("qemu-system-aarch64");
    let greeting =
        r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 5}, "package": ""}, "capabilities": []}}"#;
    fs::write(&old, format!("#!/bin/sh\necho '{greeting}'\ncat >/dev/null\n")).expect("a script");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).expect("its permissions");
    let output = shatter(&["run"]).env("SHATTER_QEMU", &old).output().expect("shatter starts");
    assert_code(&output, 3);
    let complaint = complaint(&output);
    assert!(complaint.contains("5.2.0") && complaint.contains("7.2"), "{complaint}");
}

/// The command in an environment without any program, and so without QEMU.
fn alone(out: &Path, arguments: &[&str]) -> Command {
    let mut command = shatter(arguments);
    command.current_dir(out).env("PATH", out).env_remove("SHATTER_QEMU");
    command
}

fn without_a_qemu_the_model_runs_and_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = alone(dir.path(), &["run", "selftest.clean"]).output().expect("shatter starts");
    assert_code(&output, 0);
    let said = complaint(&output);
    let lines: Vec<_> = said.lines().filter(|line| line.contains("so this runs on the model")).collect();
    assert!(matches!(lines[..], [line] if line.contains("not found") && line.contains(" install ")), "{said}");
    assert!(said.contains("again with: shatter run selftest.clean --on model --cpu ideal-l2-abort"), "{said}");
    let stored = result_of(&dir.path().join("results"), "model", "ideal-l2-abort");
    assert_eq!(case(&stored, "selftest.clean")["verdict"], "pass");
    assert_eq!(stored["platform"]["evidence"], "model");
    // Who asks for the model is told nothing of QEMU.
    let output = alone(dir.path(), &["run", "selftest.clean", "--on", "model"]).output().expect("shatter starts");
    assert_code(&output, 0);
    assert!(!complaint(&output).contains("qemu"), "{}", complaint(&output));

    let output = alone(dir.path(), &["doctor"]).output().expect("shatter starts");
    assert_code(&output, 3);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("ok   the model") && text.contains("miss qemu-system-aarch64 was not found"), "{text}");
}

fn a_qemu_that_was_asked_for_is_not_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let on_qemu = alone(dir.path(), &["run", "selftest.clean", "--on", "qemu"]).output().expect("shatter starts");
    let none = dir.path().join("none");
    let named =
        alone(dir.path(), &["run", "selftest.clean"]).env("SHATTER_QEMU", none).output().expect("shatter starts");
    for output in [on_qemu, named] {
        assert_code(&output, 3);
        assert!(complaint(&output).contains(" install "), "{}", complaint(&output));
        assert!(!dir.path().join("results").exists());
    }
}

/// A program in the form of an arm64 Image of 16 KiB.
fn image(code: &[u32]) -> Vec<u8> {
    const SIZE: usize = 0x4000;
    let mut image = vec![0; SIZE];
    // b 0x40
    image[..4].copy_from_slice(&0x1400_0010_u32.to_le_bytes());
    image[0x10..0x14].copy_from_slice(&0x4000_u32.to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    for (slot, word) in image[0x40..].chunks_exact_mut(4).zip(code) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    image
}

fn an_image_that_is_not_ours_ends_in_a_report_with_registers() {
    /// BR XZR, B ., WFI.
    const JUMP: u32 = 0xd61f_03e0;
    const LOOP: u32 = 0x1400_0000;
    const SLEEP: u32 = 0xd503_207f;
    let dir = tempfile::tempdir().expect("a directory");
    let noise: Vec<u32> = (0..1000_u32).map(|n| n.wrapping_mul(0x9e37_79b9) ^ 0x5a5a_1234).collect();
    let mut truncated = guest::IMAGE.to_vec();
    truncated.truncate(8192);
    for (name, bytes, words) in [
        ("noise", image(&noise), "at EL2"),
        ("truncated", truncated, "exceptions without end, the first with ESR_EL2"),
        ("nothing", image(&[JUMP]), "the first with ESR_EL2 0x86000010 FAR_EL2 0x0 ELR_EL2 0x0;"),
        ("loop", image(&[LOOP]), "it printed nothing in"),
        ("sleep", image(&[SLEEP]), "every PE sleeps"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("a file");
        let path = path.to_str().expect("a path in UTF-8");
        let output = run(dir.path(), &["selftest.clean", "--on", "model", "--image", path]);
        assert_code(&output, 3);
        let said = complaint(&output);
        assert!([words, "x0=", "x30="].iter().all(|part| said.contains(part)), "{name}: {said}");
    }
    for (name, bytes) in [("short", &b"ARM\x64"[..]), ("elf", &[0x7f; 4096])] {
        fs::write(dir.path().join(name), bytes).expect("a file");
        let path = dir.path().join(name);
        let output = run(dir.path(), &["--on", "model", "--image", path.to_str().expect("a path in UTF-8")]);
        assert_code(&output, 2);
        assert!(complaint(&output).contains("flat arm64 Image"), "{}", complaint(&output));
    }
    assert_code(&run(dir.path(), &["--on", "model", "--image", "/nonexistent"]), 2);
}

/// Runs an Image of the user's own on a platform.
fn assert_runs_own_image(platform: &str, cpu: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    // Ours with a byte behind its end.
    let path = dir.path().join("Image");
    fs::write(&path, [guest::IMAGE, &[0]].concat()).expect("a file");
    let path = path.to_str().expect("a path in UTF-8");
    let arguments = ["selftest.clean", "--on", platform, "--cpu", cpu];
    assert_code(&run(dir.path(), &[&arguments[..], &["--image", path]].concat()), 0);
    let own = result_of(dir.path(), platform, cpu);
    assert_eq!(case(&own, "selftest.clean")["verdict"], "pass");
    // Results of one Image are not gone on with by another.
    assert_code(&run(dir.path(), &[&arguments[..], &["--resume"]].concat()), 2);
    assert_code(&run(dir.path(), &arguments), 0);
    let ours = result_of(dir.path(), platform, cpu);
    assert!(own["tool"]["image"] != ours["tool"]["image"] && own["tool"]["image"].is_string());
}

fn an_image_of_ones_own_runs_on_the_model() {
    assert_runs_own_image("model", "benign");
}

fn an_image_of_ones_own_runs_on_qemu() {
    assert_runs_own_image("qemu", "max");
}

fn the_model_agrees_with_qemu() {
    let audit =
        |arguments: &[&str]| shatter(&[&["audit", "agreement"], arguments].concat()).output().expect("shatter starts");
    // Some that are the same, and controls that QEMU cannot show.
    let output = audit(&["el1.split.4k-l2", "l3-ro-rw.direct-notlbi", "selftest", "--cases", "0", "--rounds", "4"]);
    assert_code(&output, 0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("differ by qemu-rewalks") && text.contains(", 0 differ\n"), "{text}");

    let output = audit(&["selftest.clean", "--cpu", "cortex-a57", "--cases", "0"]);
    assert_code(&output, 2);
    assert!(complaint(&output).contains("BBM level 0"), "{}", complaint(&output));
    let output = audit(&["selftest.clean", "--qemu-user", "/nonexistent"]);
    assert_code(&output, 3);
    assert!(complaint(&output).contains("qemu-user"), "{}", complaint(&output));
}

fn a_run_of_one_instance_has_controls() {
    let dir = tempfile::tempdir().expect("a directory");
    let id = "el1.split.4k-l2.bbm.load-remote";
    let arguments = ["--on", "model", "--rounds", "16", "--seed", "3", id];
    let of_run = |arguments: &[&str]| {
        assert_code(&run(dir.path(), arguments), 0);
        result_of(dir.path(), "model", "ideal-l2-abort")
    };
    let controlled = of_run(&arguments);
    let added = controlled["run"]["added_controls"].as_array().expect("controls").clone();
    assert_eq!(added[..2], ["selftest.quiet", "selftest.clean"]);
    assert_eq!(controlled["run"]["planned"], 1 + added.len());
    let controls = controlled["controls"].as_array().expect("controls");
    assert_eq!(controls.iter().map(|control| &control["id"]).collect::<Vec<_>>(), added.iter().collect::<Vec<_>>());
    assert!(controls.len() == 3 && controls.iter().all(|control| control["held"] == true), "{controls:?}");
    assert_eq!(controlled["worthless"], Value::Null);
    let alone = of_run(&[&arguments[..], &["--no-controls"]].concat());
    assert_eq!((&alone["run"]["planned"], &alone["run"]["added_controls"]), (&1.into(), &Value::Null));
}

/// What `shatter table --format FORMAT` says of the results in `out`.
fn table(out: &Path, format: &str) -> String {
    let out = out.to_str().expect("a path in UTF-8");
    let output = shatter(&["table", "--format", format, out]).output().expect("shatter starts");
    assert_code(&output, 0);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn a_machine_of_two_types_of_cpu_has_results_for_each_and_for_both() {
    let dir = tempfile::tempdir().expect("a directory");
    let machine = "ideal-l0-no-16k+ideal-l2-abort";
    let [little, big] = ["ideal-l0-no-16k", "ideal-l2-abort"].map(|cpu| (cpu, format!("{cpu}@{machine}")));
    let local = "el1.split.4k-l2.direct.load-local";
    let remote = "el1.split.4k-l2.direct.load-remote";
    // `selftest.clean` is the very CPU's, the third asks for what one of the two lacks.
    let asked = ["selftest.clean", local, remote, "el1.split.16k-l2.direct.load-remote"];
    let arguments = [&["--on", "model", "--smp", "2", "--rounds", "16", "--seed", "3", "--no-controls"], &asked[..]];
    let arguments = arguments.concat();
    let on = |cpu: &str, more: &[&str]| {
        let output = run(dir.path(), &[&arguments[..], &["--cpu", cpu], more].concat());
        assert_code(&output, 0);
        output
    };
    on(big.0, &[]);
    let alone = result_of(dir.path(), "model", big.0);
    assert_eq!(alone["machine"], Value::Null);
    let output = on(machine, &[]);
    assert_eq!(result_of(dir.path(), "model", big.0), alone, "the CPU's own results stay");

    let system = "system: safe BBM level 0, the lowest of ideal-l0-no-16k 0, ideal-l2-abort 2; granules common to all: \
                  4k, 64k; ideal-l0-no-16k lacks 16k";
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.matches(system).count(), 1, "{text}");
    for (cpu, file) in [&little, &big] {
        assert!(text.contains(&format!("model/{file} ")), "{text}");
        let result = result_of(dir.path(), "model", file);
        assert_eq!(&result["cpu"]["name"], cpu);
        assert_eq!(result["cpu"]["mpidrs"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            (&result["machine"]["bbm"], &result["machine"]["granules"]),
            (&0.into(), &serde_json::json!(["4k", "64k"]))
        );
        let members = result["machine"]["cpus"].as_array().expect("members");
        assert_eq!(members.iter().map(|cpu| &cpu["name"]).collect::<Vec<_>>(), [little.0, big.0]);
        assert_eq!(result["cases"].as_array().map(Vec::len), Some(asked.len()));
        // What is on one CPU counts by its level, and what is on both by the lower.
        let own = if *cpu == big.0 { (2, "pass") } else { (0, "observed") };
        assert_eq!((&case(&result, local)["bbm"], &case(&result, local)["verdict"]), (&own.0.into(), &own.1.into()));
        assert_eq!((&case(&result, remote)["bbm"], &case(&result, remote)["verdict"]), (&0.into(), &"observed".into()));
        let lacking = case(&result, asked[3]);
        assert_eq!(lacking["verdict"], "skip");
        let reason = lacking["reason"].as_str().expect("a reason");
        assert_eq!(reason, "ID_AA64MMFR0_EL1.TGran16 says that CPU 0 lacks the 16K granule");
    }
    for format in ["human", "md", "html"] {
        let text = table(dir.path(), format);
        let rows = [&little.1, &big.1].map(|file| format!("model/{file}"));
        assert!(
            text.contains(&format!("model/{machine}: {system}")) && rows.iter().all(|row| text.contains(row)),
            "{text}"
        );
    }
    let of_machine = dir.path().join("model");
    let of_machine = of_machine.to_str().expect("a path in UTF-8");
    let same = shatter(&["compare", of_machine, of_machine]).output().expect("shatter starts");
    assert_code(&same, 0);
    let fewer = tempfile::tempdir().expect("a directory");
    fs::create_dir(fewer.path().join("model")).expect("there is room");
    for name in [big.0, &big.1] {
        let name = format!("model/{name}.json");
        fs::copy(dir.path().join(&name), fewer.path().join(&name)).expect("there is room");
    }
    let less = shatter(&["compare", of_machine, fewer.path().to_str().expect("a path in UTF-8")]).output();
    let less = less.expect("shatter starts");
    assert_code(&less, 1);
    assert!(String::from_utf8_lossy(&less.stdout).contains(&format!("model/{}\n!", little.1)));

    // What one type of CPU has lost is run again, on that type alone.
    let path = dir.path().join(format!("model/{}.json", little.1));
    let mut lost = result_of(dir.path(), "model", &little.1);
    let before = lost["cases"].as_array_mut().expect("cases").pop().expect("the last");
    fs::write(&path, lost.to_string()).expect("there is room");
    let whole = result_of(dir.path(), "model", &big.1);
    let said = complaint(&on(machine, &["--resume"]));
    assert!(said.contains(&format!("{}: 4 instances have results already, 0 are left", big.1)), "{said}");
    assert!(said.contains(&format!("{}: 3 instances have results already, 1 are left", little.1)), "{said}");
    assert_eq!(result_of(dir.path(), "model", &big.1)["cases"], whole["cases"]);
    let again = result_of(dir.path(), "model", &little.1);
    assert_eq!(case(&again, before["id"].as_str().expect("an id"))["verdict"], before["verdict"]);

    // More types than CPUs there cannot be.
    let output = run(dir.path(), &["--on", "model", "--smp", "1", "--cpu", machine, "selftest.clean"]);
    assert_code(&output, 2);
    assert!(complaint(&output).contains("--smp"), "{}", complaint(&output));
}

fn a_run_whose_controls_cannot_show_is_worthless() {
    let dir = tempfile::tempdir().expect("a directory");
    let id = "el1.remap.4k-l3-rw.bbm.load-local";
    let on = |cpu: &str, rounds: &str, code| {
        let output = run(dir.path(), &["--on", "model", "--cpu", cpu, "--rounds", rounds, id]);
        assert_code(&output, code);
        (result_of(dir.path(), "model", cpu), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let control = "el1.remap.4k-l3-rw.direct-notlbi.load-local";
    let (result, text) = on("forgetful", "64", 1);
    // What was asked for passes, and counts for nothing.
    assert_eq!(case(&result, id)["verdict"], "pass");
    let why = result["worthless"].as_str().expect("the reason");
    assert!(why.starts_with("none of the 1 controls that leave out a TLBI showed it, in 64 rounds"), "{why}");
    let statement = format!("model/forgetful: THE RESULTS OF THIS RUN ARE WORTHLESS: {why}");
    assert!(text.contains(&statement) && text.contains(&format!("the first: {control} must show old after")), "{text}");
    assert!(table(dir.path(), "human").contains(&statement));
    // In a few rounds it may be bad luck, which is said, and is no failure.
    let (result, text) = on("forgetful", "16", 0);
    assert_eq!(result["worthless"], Value::Null);
    assert!(text.contains("no control showed a missing TLBI, in 16 rounds"), "{text}");
    assert_eq!(on("benign", "64", 0).0["worthless"], Value::Null);
}

fn time_adds_passes_and_resume_adds_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let id = "el1.split.4k-l2.bbm.load-remote";
    let arguments = ["--on", "model", "--rounds", "4", id];
    let with = |more: &[&str]| {
        assert_code(&run(dir.path(), &[&arguments[..], more].concat()), 0);
        let result = result_of(dir.path(), "model", "ideal-l2-abort");
        let case = case(&result, id);
        let number = |value: &Value| value.as_u64().expect("a number");
        assert_eq!(number(&case["rounds"]), 4 * number(&case["passes"]), "{case}");
        (number(&case["passes"]), number(&result["run"]["duration_ms"]))
    };
    let (passes, spent) = with(&["--time", "2s"]);
    assert!(passes > 1 && spent >= 2000, "{passes} passes in {spent} ms");
    // The time is up already.
    assert_eq!(with(&["--time", "2s", "--resume"]).0, passes);
    let more = format!("{}ms", spent + 1500);
    let (more, both) = with(&["--time", &more, "--resume"]);
    assert!(more > passes && both >= spent + 1500, "{more} passes in {both} ms");
}

fn passes_side_by_side_see_what_they_see_one_by_one() {
    let id = "el1.remap.4k-l3-rw.direct.load-remote";
    let counts = |arguments: &[&str]| -> (u64, BTreeMap<String, u64>) {
        let dir = tempfile::tempdir().expect("a directory");
        let usual = ["--on", "model", "--rounds", "4", "--no-controls", id];
        assert_code(&run(dir.path(), &[&usual[..], arguments].concat()), 0);
        let result = result_of(dir.path(), "model", "ideal-l2-abort");
        let outcomes = case(&result, id)["outcomes"].as_array().expect("outcomes").clone();
        let count = |o: &Value| (format!("{} {}", o["phase"], o["kind"]), o["count"].as_u64().expect("a number"));
        (case(&result, id)["passes"].as_u64().unwrap_or(1), outcomes.iter().map(count).collect())
    };
    // However slow the computer is.
    let in_time = |time| counts(&["--seed", "7", "--time", time, "--jobs", "3"]);
    let several = ["500ms", "5s", "50s"].into_iter().map(in_time).find(|(passes, _)| *passes > 1);
    let (passes, sum) = several.expect("time for two passes");
    let mut alone: BTreeMap<String, u64> = BTreeMap::new();
    for pass in 0..passes {
        for (outcome, count) in counts(&["--seed", &(7 + pass).to_string()]).1 {
            *alone.entry(outcome).or_default() += count;
        }
    }
    assert_eq!(sum, alone, "{passes} passes");
}

fn until_seen_ends_when_it_was_seen_and_says_how_rare_it_is_otherwise() {
    let dir = tempfile::tempdir().expect("a directory");
    let until = |wanted: &str, time: &str, id: &str, code| {
        let output = run(dir.path(), &["--on", "model", "--rounds", "8", "--until-seen", wanted, "--time", time, id]);
        assert_code(&output, code);
        complaint(&output)
    };
    // It would go on for an hour.
    let seen = until("old@after", "1h", "el1.remap.4k-l3-rw.direct-notlbi.load-local", 0);
    assert!(seen.contains("accesses: ") && seen.contains("shatter run el1.remap"), "{seen}");
    // The control that was added shows it, and is no find.
    let unseen = until("old@after", "1s", "el1.remap.4k-l3-rw.bbm.load-local", 5);
    assert!(unseen.contains("bbm.load-local: 0 in ") && unseen.contains("rounds: at most 3/"), "{unseen}");
    assert!(!unseen.contains("notlbi"), "{unseen}");
    let result = result_of(dir.path(), "model", "ideal-l2-abort");
    assert_eq!(result["run"]["added_controls"][2], "el1.remap.4k-l3-rw.direct-notlbi.load-local");
}

/// Tables written over live blocks, two levels of them: below level 2 accesses go wrong, from there on the worst is a conflict
/// abort, and no more than that is told of any CPU. What must be refused is, in every regime, before any of it.
fn the_proposal_breaks_below_level_2_and_is_refused_where_it_must_be() {
    let dir = tempfile::tempdir().expect("a directory");
    let cpus = ["ideal-l0", "ideal-l1-walk", "ideal-l2-abort", "ideal-l2-quiet", "ideal-l3"];
    let output =
        run(dir.path(), &["4k-l1-l3.overwrite.", "--on", "model", "--cpu", &cpus.join(","), "--no-controls", "--log"]);
    assert_code(&output, 0);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for (cpu, verdict, wrong, aborts) in [
        ("ideal-l0", "observed", true, true),
        ("ideal-l1-walk", "observed", true, true),
        ("ideal-l2-abort", "pass", false, true),
        ("ideal-l2-quiet", "pass", false, false),
        ("ideal-l3", "pass", false, false),
    ] {
        let result = result_of(dir.path(), "model", cpu);
        let cases = result["cases"].as_array().expect("cases");
        assert!(cases.len() > 15 && cases.iter().all(|case| case["verdict"] == verdict), "{cpu}\n{out}");
        let kinds = |wanted: fn(&str) -> bool| {
            let outcomes = cases.iter().flat_map(|case| case["outcomes"].as_array().expect("outcomes"));
            outcomes.filter(|outcome| wanted(outcome["kind"].as_str().expect("a kind"))).count()
        };
        assert_eq!(kinds(|kind| !["same", "conflict"].contains(&kind)) > 0, wrong, "{cpu}\n{out}");
        assert_eq!(kinds(|kind| kind == "conflict") > 0, aborts, "{cpu}\n{out}");
        for regime in ["el1", "s2", "el2"] {
            let id = format!("{cpu}: {regime}.split.4k-l1-l3.overwrite.walk-remote: ");
            let told: Vec<&str> = err.lines().filter(|line| line.starts_with(&id)).collect();
            let [in_use, first, second] = told[..] else { panic!("{id}\n{err}") };
            assert!(
                in_use.ends_with("refused: the block is in use by this PE and others, which nobody has acknowledged")
            );
            assert!(first.contains("refused: no memory for the table of l2"), "{first}");
            assert!(second.contains("refused: no memory for the table of l3"), "{second}");
        }
    }
    assert!(out.contains("splits by the proposal"), "{out}");
}

fn main() -> ExitCode {
    harness::main(
        tests![
            without_a_qemu_the_model_runs_and_says_why,
            a_qemu_that_was_asked_for_is_not_replaced,
            an_image_that_is_not_ours_ends_in_a_report_with_registers,
            an_image_of_ones_own_runs_on_the_model,
            a_run_of_one_instance_has_controls,
            a_machine_of_two_types_of_cpu_has_results_for_each_and_for_both,
            a_run_whose_controls_cannot_show_is_worthless,
            time_adds_passes_and_resume_adds_time,
            passes_side_by_side_see_what_they_see_one_by_one,
            until_seen_ends_when_it_was_seen_and_says_how_rare_it_is_otherwise,
            a_qemu_that_is_too_old_is_told_from_one_that_is_missing,
            the_proposal_breaks_below_level_2_and_is_refused_where_it_must_be,
            a_captured_console_makes_the_same_results
        ],
        tests![
            injected_conflicts_go_all_the_way_from_the_handler_to_the_result_file,
            whatever_ends_by_force_is_recorded_with_its_registers,
            a_killed_qemu_costs_nothing_collected_and_resume_finishes,
            a_killed_runner_takes_its_qemu_along,
            bad_input_has_its_own_exit_code_and_says_what_to_do,
            an_image_of_ones_own_runs_on_qemu,
            the_model_agrees_with_qemu
        ],
    )
}

//! `shatter run` on QEMU as users meet it: what is in the result file, and what is left when things go wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

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
    let path = out.join(format!("qemu/{cpu}.json"));
    serde_json::from_slice(&fs::read(&path).expect("a result file")).expect("JSON")
}

fn case<'a>(result: &'a Value, id: &str) -> &'a Value {
    result["cases"].as_array().expect("cases").iter().find(|c| c["id"] == id).expect("the case")
}

#[test]
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

#[test]
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

#[test]
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

#[test]
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

#[test]
fn bad_input_has_its_own_exit_code_and_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let complaint = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let output = run(dir.path(), &["--cpu", "cortex-a9000"]);
    assert_code(&output, 2);
    assert!(complaint(&output).contains("cortex-a57"), "{}", complaint(&output));

    let output = run(dir.path(), &["el1.splt"]);
    assert_code(&output, 4);
    assert!(complaint(&output).contains("el1.split"), "{}", complaint(&output));

    let missing = shatter(&["run"]).env("SHATTER_QEMU", dir.path().join("none")).output().expect("shatter starts");
    assert_code(&missing, 3);
    assert!(complaint(&missing).contains("install"), "{}", complaint(&missing));

    let file = dir.path().join("file");
    fs::write(&file, "").expect("a file");
    let output = run(&file, &["selftest.quiet"]);
    assert_code(&output, 2);
    assert!(complaint(&output).contains("file"), "{}", complaint(&output));
}

#[test]
fn a_qemu_that_is_too_old_is_told_from_one_that_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = dir.path().join("qemu-system-aarch64");
    let greeting =
        r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 5}, "package": ""}, "capabilities": []}}"#;
    fs::write(&old, format!("#!/bin/sh\necho '{greeting}'\ncat >/dev/null\n")).expect("a script");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).expect("its permissions");
    let output = shatter(&["run"]).env("SHATTER_QEMU", &old).output().expect("shatter starts");
    assert_code(&output, 3);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("5.2.0") && complaint.contains("7.2"), "{complaint}");
}

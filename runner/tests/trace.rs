//! `shatter run --on model --cpu PROFILE+DEFECT`, and the traces of what fails there.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use serde_json::Value;

const CPU: &str = "ideal-l2-quiet+amalgamated-oa";
const FILTER: &str = "el1.split.4k-l2";

/// Runs the filter's instances with results in `out`: what went to standard error.
fn run(out: &Path, more: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_shatter"))
        .args(["run", FILTER, "--on", "model", "--cpu", CPU, "--rounds", "32", "--smp", "2", "--out"])
        .arg(out)
        .args(more)
        .output()
        .expect("shatter starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "the defect is found: {said}");
    said
}

fn result(out: &Path) -> Value {
    let path = out.join(format!("model/{CPU}.json"));
    serde_json::from_slice(&fs::read(path).expect("a result file")).expect("JSON")
}

/// What a run tells apart from when it was and how long it took.
fn verdicts(result: &Value) -> Vec<[Value; 4]> {
    let cases = result["cases"].as_array().expect("cases");
    let of = |case: &Value| ["id", "verdict", "accesses", "outcomes"].map(|member| case[member].clone());
    cases.iter().map(of).collect()
}

fn traces(out: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(out.join(format!("model/{CPU}.trace"))).expect("traces");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("text"))).collect()
}

#[test]
fn a_trace_is_of_the_same_run_and_the_same_again() {
    let dir = tempfile::tempdir().expect("a directory");
    run(dir.path(), &[]);
    let untraced = result(dir.path());
    assert_eq!(untraced["platform"]["evidence"], "defective");
    assert_eq!(untraced["cpu"]["name"], CPU);

    let said = run(dir.path(), &["--trace"]);
    assert_eq!(verdicts(&result(dir.path())), verdicts(&untraced), "a trace changes nothing");
    let first = traces(dir.path());
    assert!(!first.is_empty());
    for (path, text) in &first {
        assert!(said.contains(path.as_str()), "{said}");
        assert!(text.contains("--trace") && text.contains(CPU), "{text}");
        for event in ["access", "fill", "store"] {
            assert!(text.contains(&format!(" {event} ")), "{path} without {event}:\n{text}");
        }
        assert!(text.lines().last().is_some_and(|line| line.contains("counted")), "{text}");
    }

    // Not everything comes before every first outcome.
    for event in ["tlbi", "effect", "barrier"] {
        assert!(first.values().any(|text| text.contains(&format!(" {event} "))), "no {event}");
    }

    run(dir.path(), &["--trace"]);
    assert_eq!(traces(dir.path()), first);
}

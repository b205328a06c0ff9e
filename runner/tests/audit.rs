//! `shatter audit` and `shatter oracle`: what they find, and what they exit with.

use std::process::{Command, Output, Stdio};

fn shatter(command: &str, arguments: &[&str]) -> Output {
    let mut shatter = Command::new(env!("CARGO_BIN_EXE_shatter"));
    shatter.arg(command).args(arguments).stdin(Stdio::null()).output().expect("shatter starts")
}

fn audit(arguments: &[&str]) -> Output {
    shatter("audit", arguments)
}

#[test]
fn a_defect_is_found_by_the_first_seeds_and_named_with_its_rule() {
    let output = audit(&["defects", "broadcast-misses-pe", "fault-cached", "--seeds", "4", "--rounds", "8"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let row = |name| text.lines().find(|line| line.starts_with(name)).expect("a row for each defect");
    let cells: Vec<&str> = row("broadcast-misses-pe ").split_whitespace().skip(1).take(4).collect();
    assert_eq!(cells.len(), 4);
    assert!(cells.iter().any(|cell| cell.parse::<u64>().is_ok_and(|seeds| (1..=4).contains(&seeds))), "{text}");
    let found = text.lines().find(|line| line.starts_with("broadcast-misses-pe on ideal-l2-quiet: seed "));
    let found = found.expect("the finding");
    let elsewhere = ["-remote", "-all"].into_iter().any(|place| found.contains(place));
    assert!(found.contains(": el1.") && elsewhere && found.ends_with(')'), "{found}");
    assert!(text.ends_with("2 of 2 defects found\n"), "{text}");
}

#[test]
fn every_mutant_of_a_sequence_is_caught_or_said_to_be_harmless() {
    let output = audit(&["mutants", "el1.remap.4k-l3-rw.bbm.", "--rounds", "32", "--seeds", "8"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("\nbbm of a remap: 0sBd1di\n"), "{text}");
    assert!(text.contains("\n  0sd1di     step 3, tlbi vaale1is, va, left out: caught on "), "{text}");
    assert!(text.contains("\n  0sXd1di    step 3, tlbi vaale1is, va, replaced by tlbi vae1is"), "{text}");
    assert!(
        text.ends_with("25 mutants: 23 wrong, 23 of them caught; 2 harmless, 0 fails of such with 1 seeds\n"),
        "{text}"
    );
}

/// An audit of hours is stopped, by its user or by the power; what it has seen stays seen.
#[test]
fn an_audit_goes_on_where_it_was_stopped() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("profiles.jsonl");
    let keep = file.to_str().expect("UTF-8");
    let run = |seeds: &str, rounds: &str| {
        let output = audit(&["profiles", "selftest.quiet", "--seeds", seeds, "--rounds", rounds, "--keep", keep]);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let lines = || std::fs::read_to_string(&file).expect("it is kept").lines().count();

    let (code, first, _) = run("1", "1");
    assert_eq!(code, Some(0), "{first}");
    assert_eq!(lines(), 1 + 7, "what it is, and a run on each profile");
    // The same again tells the same, and runs nothing.
    let (code, again, told) = run("1", "1");
    assert_eq!((code, &again), (Some(0), &first));
    assert!(told.contains("7 of 7 runs are kept already"), "{told}");

    // Killed while it wrote a line: the rest of it counts, and that one run is done again.
    let kept = std::fs::read(&file).expect("it is kept");
    std::fs::write(&file, &kept[..kept.len() - 10]).expect("cut");
    let (code, more, told) = run("2", "1");
    assert_eq!(code, Some(0), "{more}");
    assert!(told.contains("6 of 14 runs are kept already"), "{told}");
    assert!(more.contains("ideal-l3: 2 seeds, 2 pass, 0 conflict aborts"), "{more}");
    assert_eq!(lines(), 1 + 14);
    // Fewer seeds than are kept: the others do not count.
    assert_eq!(run("1", "1").1, first);

    // Of something else, or damaged: nothing is mixed, and nothing overwritten.
    let (code, _, told) = run("2", "2");
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains(keep) && told.contains("another audit"), "{told}");
    let damaged = std::fs::read_to_string(&file).expect("it is kept").replacen("\"seed\"", "\"sood\"", 1);
    std::fs::write(&file, &damaged).expect("damaged");
    let (code, _, told) = run("2", "1");
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains(&format!("{keep}:2: ")), "{told}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is kept"), damaged);
}

/// Nothing to test is not a pass: selftests have no sequence.
#[test]
fn no_mutants_are_no_success() {
    let output = audit(&["mutants", "selftest.quiet"]);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn sequences_of_another_model_run_on_ours() {
    let few = shatter("oracle", &["tests/fixtures/oracle/sequences-few.csv", "--seeds", "4"]);
    let text = String::from_utf8_lossy(&few.stdout);
    assert_eq!(few.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&few.stderr));
    assert!(text.starts_with("3 of 3 sequences agree with the model in 4 seeds of 64 rounds"), "{text}");

    let wrong = shatter("oracle", &["tests/fixtures/oracle/sequences-wrong.csv", "--seeds", "4"]);
    let text = String::from_utf8_lossy(&wrong.stdout);
    assert_eq!(wrong.status.code(), Some(1), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [first, second, last] = lines[..] else { panic!("{text}") };
    assert!(first.starts_with("line 3: ") && first.contains("bbm_expected: el1.remap.4k-l3-rw.bbm~0dd1"), "{first}");
    assert!(first.contains("shows it on ideal-"), "{first}");
    assert!(second.starts_with("line 4: ") && second.matches("never showed it").count() == 2, "{second}");
    assert!(last.starts_with("0 of 2 sequences agree"), "{last}");
}

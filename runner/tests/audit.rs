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
    assert!(found.contains(": el1.") && found.contains("-remote") && found.ends_with(')'), "{found}");
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

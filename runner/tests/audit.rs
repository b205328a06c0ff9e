//! `shatter audit`: what it finds, and what it exits with.

use std::process::{Command, Output, Stdio};

fn audit(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shatter"));
    command.arg("audit").args(arguments).stdin(Stdio::null()).output().expect("shatter starts")
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

//! The rule base against verdicts of Arm's executable memory model (herd7, `catalogue/aarch64-BBM`): a live
//! last-level descriptor is overwritten once, without a break.

use vmsa::oracle::{BadRow, COLUMNS, Opinion};

const ROWS: &str = include_str!("data/transitions.csv");

#[test]
fn the_rules_agree_with_every_row() {
    let mut lines = ROWS.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
    assert_eq!(lines.next().map(|(_, header)| header.split(',').collect::<Vec<_>>()), Some(COLUMNS.to_vec()));
    let (mut rows, mut needed) = (0, 0);
    let mut wrong = Vec::new();
    for (number, line) in lines {
        let row: Vec<&str> = line.split(',').collect();
        let opinion = Opinion::parse(&row).unwrap_or_else(|error| panic!("line {}: {error}", number + 1));
        rows += 1;
        needed += usize::from(opinion.bbm_expected);
        if let Some((bbm, ours)) = opinion.contradiction() {
            wrong.push(format!(
                "line {}: {line}: at level {bbm} {}: {} ({})",
                number + 1,
                ours.need,
                ours.why,
                ours.rule
            ));
        }
    }
    assert_eq!((rows, needed), (1562, 1172));
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

/// A row with the other answer is told apart, whatever the row.
#[test]
fn the_opposite_of_every_row_is_a_contradiction() {
    for line in ROWS.lines().filter(|line| !line.starts_with(['#', 'o'])) {
        let (row, bbm) = line.rsplit_once(',').expect("columns");
        let opposite = if bbm == "1" { "0" } else { "1" };
        let row: Vec<&str> = row.split(',').chain([opposite]).collect();
        assert!(Opinion::parse(&row).expect(line).contradiction().is_some(), "{line}");
    }
}

#[test]
fn damaged_rows_are_refused_by_column() {
    let good = ["v1", "wb-ish", "ro", "v1", "wb-ish", "rw", "same", "same", "0"];
    assert!(Opinion::parse(&good).is_ok());
    for (column, name) in COLUMNS.into_iter().enumerate() {
        let mut bad = good;
        bad[column] = "x";
        assert_eq!(Opinion::parse(&bad), Err(BadRow::Value { column: name, value: "x" }));
    }
    assert_eq!(Opinion::parse(&good[1..]), Err(BadRow::Columns(8)));
    let mut differs = good;
    differs[7] = "differ";
    assert_eq!(Opinion::parse(&differs), Err(BadRow::SameDiffers));
}

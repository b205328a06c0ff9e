//! Compares single instructions with QEMU: `agreement [CASES [SEED [QEMU]]]`.
//!
//! Exits with status 1 if anything differs, and with 3 if QEMU (`qemu-aarch64`, Debian package qemu-user) cannot do
//! its part.

use std::{
    env,
    error::Error,
    path::Path,
    process::{ExitCode, id},
};

use model::a64::differential::compare;

/// Differences that are printed in full.
const SHOWN: usize = 10;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let cases = arguments.next().map_or(Ok(100_000), |n| n.parse())?;
    let seed = arguments.next().map_or(Ok(1), |n| n.parse())?;
    let qemu = arguments.next().unwrap_or_else(|| "qemu-aarch64".into());
    let program = env::temp_dir().join(format!("agreement-{}.elf", id()));
    let result = compare(Path::new(&qemu), cases, seed, &program, |done| eprintln!("{done} of {cases}"));
    let _ = std::fs::remove_file(&program);
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(3));
        }
    };
    for (class, count) in &report.cases {
        println!("{count:8}  {class}");
    }
    for mismatch in report.mismatches.iter().take(SHOWN) {
        println!("\n{mismatch}");
    }
    println!("{} cases, {} differ", report.cases.values().sum::<usize>(), report.mismatches.len());
    Ok(ExitCode::from(u8::from(!report.mismatches.is_empty())))
}

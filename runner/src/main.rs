//! The `shatter` command; everything is in the library, where tests reach it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    shatter_runner::cli::main()
}

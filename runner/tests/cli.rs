//! Goldens of what the commands print, of those commands that boot nothing.
//!
//! Each `cmd/*.trycmd` is a page of commands with their output and exit codes. After a change that is meant,
//! `TRYCMD=overwrite cargo test --test cli` writes them anew; read the difference before you keep it.

#[test]
fn commands_print_what_they_should() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}

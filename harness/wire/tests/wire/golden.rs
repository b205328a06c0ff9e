//! Logs of every protocol so far, which must stay readable.
//!
//! A log in `tests/golden` is never changed. What is expected of it changes in one case only: a record gets a new
//! field, which then shows its default here.

use core::fmt::Write as _;

use wire::frame::{Event, Reader};

/// One line an event.
fn events(log: &[u8]) -> String {
    let mut text = String::new();
    let mut reader = Reader::new();
    let mut sink = |event: Event<'_>| {
        match event {
            Event::Record(record) => writeln!(text, "record {record:x?}"),
            Event::Skipped { number } => writeln!(text, "skipped {number:?}"),
            Event::Text(line) => writeln!(text, "text {}", line.escape_ascii()),
            Event::Damaged { bytes } => writeln!(text, "damaged {}", bytes.escape_ascii()),
        }
        .unwrap();
    };
    reader.push(log, &mut sink);
    reader.finish(&mut sink);
    writeln!(text, "{:?}", reader.statistics()).unwrap();
    text
}

#[test]
fn protocol_1() {
    let seen = events(include_bytes!("../golden/v1.log"));
    let expected = include_str!("../golden/v1.expected");
    for (number, (seen, expected)) in seen.lines().zip(expected.lines()).enumerate() {
        assert_eq!(seen, expected, "event {}", number + 1);
    }
    assert_eq!(seen.lines().count(), expected.lines().count(), "all of it:\n{seen}");
}

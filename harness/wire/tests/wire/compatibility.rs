//! A reader and a sender of different versions: what a newer sender may add, and what becomes of it.

use data_encoding::BASE64;
use minicbor::{Encoder, encode::write::Cursor};
use proptest::prelude::*;
use vmsa::instance::MAX_ID;
use wire::{
    frame::{self, Event, MAX_BODY, Reader, Statistics},
    record::{MAX_TEXT, Record},
};

use crate::arbitrary::{self, Seen, read};

/// The line around any CBOR.
fn line_of(cbor: &[u8]) -> String {
    let body = [cbor, &frame::crc32(cbor).to_le_bytes()].concat();
    format!("{}{}\n", frame::MARKER, BASE64.encode_display(&body))
}

/// CBOR that `write` makes.
fn cbor(
    write: impl FnOnce(
        &mut Encoder<Cursor<[u8; 1024]>>,
    ) -> Result<(), minicbor::encode::Error<minicbor::encode::write::EndOfArray>>,
) -> Vec<u8> {
    let mut encoder = Encoder::new(Cursor::new([0; 1024]));
    write(&mut encoder).unwrap();
    let cursor = encoder.into_writer();
    cursor.get_ref()[..cursor.position()].to_vec()
}

/// The CBOR in a record's line.
fn contents(record: &Record<'_>) -> Vec<u8> {
    let line = arbitrary::line(record);
    let mut body = [0; MAX_BODY + 2];
    let text = line.trim_end().strip_prefix(frame::MARKER).unwrap().as_bytes();
    let size = BASE64.decode_mut(text, &mut body[..text.len() / 4 * 3]).unwrap();
    body[..size - 4].to_vec()
}

#[test]
fn an_unknown_type_is_skipped() {
    let new = cbor(|e| e.array(3)?.u32(Record::TYPES)?.u8(1)?.str("of the future")?.ok());
    let bye = arbitrary::line(&Record::Bye { finished: 1 });
    let stream = format!("{}{bye}\n", line_of(&new));
    assert_eq!(read([stream.as_bytes()]), [Seen::Skipped(Some(Record::TYPES)), Seen::Record(bye)]);
}

#[test]
fn unknown_values_are_not_guessed() {
    let finished = |end: u8, phase: u8, kind: u8, place: u8| {
        cbor(|e| {
            e.array(2)?.u8(5)?.array(12)?.u32(0)?.str("id")?.u8(0)?.u8(end)?.u8(2)?;
            e.array(7)?.u8(1)?.u8(1)?.u8(1)?.null()?;
            e.array(1)?.array(2)?.array(3)?.u8(phase)?.u8(kind)?.u8(1)?;
            e.array(6)?.u8(0)?.u8(0)?.u8(0)?.u8(0)?.u8(0)?.u8(0)?;
            e.array(0)?.u8(0)?;
            e.array(1)?.array(10)?.u8(place)?.u8(1)?.u8(0)?.u8(0)?.null()?.u8(0)?.u8(0)?.u8(0)?.u8(0)?.bool(true)?;
            e.null()?.u8(0)?.u8(0)?.u8(0)?.null()?.ok()
        })
    };
    let reads = |end, phase, kind, place| read([line_of(&finished(end, phase, kind, place)).as_bytes()]);
    for known in [8, 11, 12, 13, 14, 15, 48, 49] {
        assert!(matches!(reads(0, 1, known, 1)[..], [Seen::Record(_)]), "the pattern for the others is sound");
    }
    for (end, phase, kind, place) in [(9, 1, 8, 1), (0, 3, 8, 1), (0, 1, 22, 1), (0, 1, 50, 1), (0, 1, 8, 3)] {
        assert_eq!(reads(end, phase, kind, place), [Seen::Skipped(None)], "{end} {phase} {kind} {place}");
    }
}

#[test]
fn text_too_long_for_its_field_is_not_cut() {
    let start = |length: usize| cbor(|e| e.array(4)?.u8(4)?.u8(0)?.str(&"x".repeat(length))?.u8(0)?.ok());
    assert!(matches!(read([line_of(&start(MAX_ID)).as_bytes()])[..], [Seen::Record(_)]));
    assert_eq!(read([line_of(&start(MAX_ID + 1)).as_bytes()]), [Seen::Skipped(None)]);
    let log = |length: usize| cbor(|e| e.array(2)?.u8(6)?.str(&"x".repeat(length))?.ok());
    assert!(matches!(read([line_of(&log(MAX_TEXT)).as_bytes()])[..], [Seen::Record(_)]));
    assert_eq!(read([line_of(&log(MAX_TEXT + 1)).as_bytes()]), [Seen::Skipped(None)]);
}

#[test]
fn what_is_no_record_is_skipped() {
    let missing = cbor(|e| e.array(2)?.u8(4)?.u8(0)?.ok());
    let empty = cbor(|e| e.array(0)?.ok());
    let other = cbor(|e| e.str("not an array")?.ok());
    let null = cbor(|e| e.array(2)?.u8(8)?.null()?.ok());
    for contents in [missing, empty, other, null] {
        assert_eq!(read([line_of(&contents).as_bytes()]), [Seen::Skipped(None)], "{contents:x?}");
    }
}

proptest! {
    /// A newer sender may add fields behind the known ones, to a record and to what it consists of.
    #[test]
    fn unknown_fields_are_left_out_and_counted(mut finished in arbitrary::finished(), extra in 0..4_u8, inner: bool) {
        // With all optional fields the array of fields is complete, so that the next one is an unknown one.
        finished.retried = Some(wire::record::Retried::default());
        let record = Record::Finished(finished);
        let mut contents = contents(&record);
        prop_assert_eq!(&contents[..3], &[0x82, 5, 0x8d], "[5, [13 fields]]");
        // Inside, they stand at the end of the fields; outside, behind them: both at the end of the bytes.
        contents[if inner { 2 } else { 0 }] += extra;
        for i in 0..extra {
            contents.extend(cbor(|e| match i {
                0 => e.str("of the future")?.ok(),
                1 => e.array(2)?.map(1)?.u8(1)?.null()?.f64(0.5)?.ok(),
                _ => e.u64(u64::MAX)?.ok(),
            }));
        }
        let mut reader = Reader::new();
        reader.push(line_of(&contents).as_bytes(), &mut |event| assert_eq!(event, Event::Record(record.clone())));
        let partial = u64::from(extra > 0);
        prop_assert_eq!(reader.statistics(), Statistics { records: 1, partial, skipped: 0, lost: 0 });
    }

    /// Whatever passes the checksum: no panic, and nothing that is not reported.
    #[test]
    fn any_contents_make_one_event(contents in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(read([line_of(&contents).as_bytes()]).iter().filter(|s| !matches!(s, Seen::Text(_))).count(), 1);
    }
}

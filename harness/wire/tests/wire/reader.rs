//! The reader on a bad console.

use proptest::{collection::vec, prelude::*, sample::Index};
use wire::{
    frame::{self, MAX_LINE},
    record::Record,
};

use crate::arbitrary::{self, Seen, read, records};

/// What firmware, kernels and terminals write, pieces of records and markers included.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 1..40),
        vec(prop::sample::select(&b"#@ \r\nAz9+/="[..]), 1..40),
        Just(b"NOTICE:  BL31: v2.10".to_vec()),
        Just(b"[   12.345678] ".to_vec()),
        Just(b"\x1b[0;32m".to_vec()),
        Just(b"#@ ".to_vec()),
        Just(b"ok 1 el1.split.4k-l2.bbm.load-remote\n".to_vec()),
        (1_usize..2 * MAX_LINE).prop_map(|n| vec![b'A'; n]),
    ]
}

/// Noise of one line.
fn line_noise() -> impl Strategy<Value = Vec<u8>> {
    noise().prop_map(|mut noise| {
        noise.retain(|b| !matches!(b, b'\r' | b'\n'));
        noise
    })
}

/// What a console does to bytes. Positions are taken modulo the length at that moment.
#[derive(Clone, Debug)]
enum Damage {
    Drop(Index, usize),
    Insert(Index, Vec<u8>),
    Flip(Index, u8),
    Repeat(Index, usize),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            _ if bytes.is_empty() => {}
            Self::Drop(at, length) => {
                let at = at.index(bytes.len());
                bytes.drain(at..bytes.len().min(at + length));
            }
            Self::Insert(at, noise) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, noise.iter().copied());
            }
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Repeat(at, length) => {
                let at = at.index(bytes.len());
                let again = bytes[at..bytes.len().min(at + length)].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

fn tearing(noise: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 1..300_usize).prop_map(|(at, length)| Damage::Drop(at, length)),
        (any::<Index>(), noise).prop_map(|(at, noise)| Damage::Insert(at, noise)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
    ]
}

fn repetition() -> impl Strategy<Value = Damage> {
    (any::<Index>(), 1..3000_usize).prop_map(|(at, length)| Damage::Repeat(at, length))
}

/// Lines of records that are all different.
fn lines(most: usize) -> impl Strategy<Value = Vec<String>> {
    vec(arbitrary::record(), 1..=most).prop_map(|records| {
        let mut lines: Vec<String> = Vec::new();
        for line in records.iter().map(arbitrary::line) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    })
}

fn stream(lines: &[String]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
}

/// `bytes` in parts of `sizes`, which are used again and again.
fn divided<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    sizes.iter().cycle().map_while(move |size| {
        let part = bytes.split_off(..(*size).min(bytes.len()))?;
        (!part.is_empty()).then_some(part)
    })
}

/// Whether `part` is `whole` with some left out.
fn in_order<'a>(part: &[&'a str], whole: &'a [String]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|record| whole.any(|sent| sent == record))
}

proptest! {
    #[test]
    fn a_torn_stream_gives_only_what_was_sent_in_order(
        lines in lines(8),
        damage in vec(tearing(noise()), 1..12),
    ) {
        let mut bytes = stream(&lines);
        damage.iter().for_each(|damage| damage.apply(&mut bytes));
        let seen = read([&bytes[..]]);
        prop_assert!(in_order(&records(&seen), &lines));
    }

    #[test]
    fn repeated_bytes_give_only_what_was_sent(
        lines in lines(8),
        damage in vec(prop_oneof![tearing(noise()), repetition()], 1..12),
    ) {
        let mut bytes = stream(&lines);
        damage.iter().for_each(|damage| damage.apply(&mut bytes));
        let seen = read([&bytes[..]]);
        prop_assert!(records(&seen).iter().all(|record| lines.iter().any(|sent| sent == record)));
    }

    #[test]
    fn two_consoles_in_one_stream_give_only_what_was_sent(
        lines in lines(8),
        split in any::<Index>(),
        turns in vec((any::<bool>(), 1..2000_usize), 1..20),
    ) {
        let (one, two) = lines.split_at(split.index(lines.len()));
        let (one, two) = (stream(one), stream(two));
        let mut rest = [&one[..], &two[..]];
        let mut bytes = Vec::new();
        for (which, length) in turns {
            let from = &mut rest[usize::from(which)];
            let (now, later) = from.split_at(length.min(from.len()));
            bytes.extend_from_slice(now);
            *from = later;
        }
        bytes.extend(rest.concat());
        let seen = read([&bytes[..]]);
        prop_assert!(records(&seen).iter().all(|record| lines.iter().any(|sent| sent == record)));
    }

    /// Damage to a line is the loss of that line at most; text in front of and behind a record is no damage.
    #[test]
    fn damage_stays_in_its_line(
        lines in lines(8).prop_flat_map(|lines| {
            let fate = prop_oneof![
                (line_noise(), line_noise()).prop_map(|around| (around, Vec::new())),
                vec(tearing(line_noise()), 1..4).prop_map(|damage| ((Vec::new(), Vec::new()), damage)),
            ];
            let fates = vec(fate, lines.len());
            (Just(lines), fates)
        }),
        crlf: bool,
    ) {
        let (lines, fates) = lines;
        let mut bytes = Vec::new();
        let mut undamaged = Vec::new();
        for (sent, ((before, behind), damage)) in lines.iter().zip(fates) {
            let mut line = sent.clone().into_bytes();
            if damage.is_empty() {
                undamaged.push(sent);
            }
            for damage in damage {
                damage.apply(&mut line);
            }
            // A flipped bit may have made a line end; then the damage is in two lines, and neither is another's.
            bytes.extend([&before[..], &line, &behind, if crlf { b"\r\n" } else { b"\n" }].concat());
        }
        let seen = read([&bytes[..]]);
        let delivered = records(&seen);
        prop_assert!(in_order(&delivered, &lines));
        for sent in undamaged {
            prop_assert!(delivered.contains(&sent.as_str()), "not delivered: {}", sent);
        }
    }

    #[test]
    fn lost_line_ends_lose_no_record(lines in lines(8)) {
        let bytes = lines.concat();
        let seen = read([bytes.as_bytes()]);
        prop_assert_eq!(records(&seen), lines.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn how_the_stream_is_divided_does_not_matter(
        lines in lines(4),
        damage in vec(prop_oneof![tearing(noise()), repetition()], 0..8),
        sizes in vec(prop_oneof![1..8_usize, 1..3 * MAX_LINE], 1..20),
    ) {
        let mut bytes = stream(&lines);
        damage.iter().for_each(|damage| damage.apply(&mut bytes));
        prop_assert_eq!(read(divided(&bytes, &sizes)), read([&bytes[..]]));
    }

    /// As above, but of bytes that matter, around the length at which pieces are cut.
    #[test]
    fn pieces_of_the_longest_length_are_cut_alike(
        before in MAX_LINE - 8..MAX_LINE + 8,
        middle in vec(prop::sample::select(&b"#@ \nA"[..]), 0..16),
        sizes in vec(1..20_usize, 1..10),
        marker: bool,
    ) {
        let bytes = [if marker { &b"#@ "[..] } else { b"" }, &vec![b'A'; before], &middle, b"#@ AAAA\nend"].concat();
        let (first, rest) = bytes.split_at(before - 16);
        prop_assert_eq!(read([first].into_iter().chain(divided(rest, &sizes))), read([&bytes[..]]));
    }
}

fn bye(finished: u32) -> String {
    arbitrary::line(&Record::Bye { finished })
}

fn text(text: &str) -> Seen {
    Seen::Text(text.into())
}

#[test]
fn text_around_a_record_is_delivered() {
    let (one, two) = (bye(1), bye(2));
    let stream = format!("[ 1.5] \x1b[1m{one}\x1b[0m\r\n\r\nok 1 - it{two}ok 2 - it\n  # subtest \n{one}   \n{two}");
    let seen = read([stream.as_bytes()]);
    assert_eq!(
        seen,
        [
            text("[ 1.5] \x1b[1m"),
            Seen::Record(one.clone()),
            text("\x1b[0m"),
            text("ok 1 - it"),
            Seen::Record(two.clone()),
            text("ok 2 - it"),
            text("  # subtest "),
            Seen::Record(one),
            Seen::Record(two),
        ]
    );
}

#[test]
fn what_looks_like_base64_behind_a_record_does_no_harm() {
    // All lengths of what follows and all paddings, with the padding lost and kept.
    for text_length in 0..3 {
        let record = Record::Log { text: wire::record::text(format_args!("{}", "x".repeat(text_length))) };
        let line = arbitrary::line(&record);
        for behind in ["", "A", "ok", "not", "ok12", "zzzzzzzzz"] {
            for sent in [line.clone(), line.trim_end_matches('=').to_owned()] {
                let seen = read([format!("{sent}{behind} 1\n").as_bytes()]);
                assert_eq!(seen, [Seen::Record(line.clone()), text(&format!("{behind} 1"))], "{sent} {behind}");
            }
        }
    }
}

#[test]
fn a_record_in_or_behind_an_overlong_line_is_found() {
    let bye = bye(7);
    let long = "x".repeat(3 * MAX_LINE + 5);
    let seen = read([format!("{long}{bye}{long}\n{bye}\n").as_bytes()]);
    assert_eq!(records(&seen), [&bye, &bye]);
    let length: usize = seen.iter().map(|s| if let Seen::Text(text) = s { text.len() } else { 0 }).sum();
    assert_eq!(length, 2 * long.len(), "no text is lost either");

    let overlong = format!("{}{}", frame::MARKER, "A".repeat(2 * MAX_LINE));
    let seen = read([format!("{overlong}{bye}\n{bye}\n").as_bytes()]);
    assert_eq!(records(&seen), [&bye, &bye]);
    assert!(matches!(&seen[0], Seen::Damaged(bytes) if bytes.len() == MAX_LINE));
}

#[test]
fn a_torn_record_is_counted_as_lost() {
    let line = bye(7);
    for cut in frame::MARKER.len()..line.trim_end_matches('=').len() {
        let torn = &line[..cut];
        let seen = read([format!("{torn}\n{line}\n").as_bytes()]);
        assert_eq!(seen, [Seen::Damaged(torn.into()), Seen::Record(line.clone())]);
        let torn = format!("{torn}!{}", &line[cut..]);
        assert_eq!(read([torn.as_bytes()]), [Seen::Damaged(torn.clone().into())]);
    }
}

#[test]
fn a_reader_can_start_over() {
    let mut reader = frame::Reader::default();
    let mut seen: Vec<Seen> = Vec::new();
    reader.push(b"half a li", &mut |event| seen.push(event.into()));
    reader.finish(&mut |event| seen.push(event.into()));
    reader.push(b"ne\n#@ AAAA", &mut |event| seen.push(event.into()));
    reader.finish(&mut |event| seen.push(event.into()));
    assert_eq!(seen, [text("half a li"), text("ne"), Seen::Damaged(b"#@ AAAA".to_vec())]);
    assert_eq!(reader.lost(), 1);
}

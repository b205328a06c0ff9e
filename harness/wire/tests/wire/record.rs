//! Records and reports by themselves.

use arrayvec::ArrayVec;
use proptest::prelude::*;
use vmsa::{
    geometry::Level,
    outcome::{Count, End, Fault, Kind, Phase},
};
use wire::{
    frame::{self, FrameError, MAX_BODY, MAX_LINE, Reader, TooLarge},
    record::{
        Conflict, Finished, First, MAX_RECORD, MAX_TEXT, Outcome, Place, Record, Recovery, Registers, Report, Retried,
        Text, text,
    },
};

use crate::arbitrary;

proptest! {
    #[test]
    fn a_record_comes_back_whole(record in arbitrary::record()) {
        let line = arbitrary::line(&record);
        let mut reader = Reader::new();
        let mut events = 0;
        reader.push(line.as_bytes(), &mut |_| panic!("the line has not ended"));
        reader.push(b"\n", &mut |event| {
            events += 1;
            assert_eq!(event, frame::Event::Record(record.clone()));
        });
        prop_assert_eq!(events, 1);
        prop_assert_eq!(reader.statistics().partial, 0);
    }

    #[test]
    fn a_report_comes_back(report in arbitrary::report()) {
        let mut body = [0; MAX_BODY];
        let length = frame::encode_report(&report, &mut body).unwrap();
        prop_assert_eq!(frame::decode_report(&body[..length]).unwrap(), report.clone());
        prop_assert_eq!(frame::encode_report(&report, &mut body[..length - 1]), Err(TooLarge));
    }

    #[test]
    fn a_damaged_report_is_refused(report in arbitrary::report(), bit: prop::sample::Index, cut: prop::sample::Index) {
        let mut body = [0; MAX_BODY];
        let length = frame::encode_report(&report, &mut body).unwrap();
        let body = &mut body[..length];
        prop_assert!(frame::decode_report(&body[..cut.index(length)]).is_err());
        let bit = bit.index(length * 8);
        body[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(frame::decode_report(body), Err(FrameError::Crc));
    }

    #[test]
    fn text_is_cut_at_a_character(pieces in prop::collection::vec(".{0,90}", 0..8)) {
        struct Pieces<'a>(&'a [String]);
        impl core::fmt::Display for Pieces<'_> {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.0.iter().try_for_each(|piece| f.write_str(piece))
            }
        }
        let whole = pieces.concat();
        let cut = text(format_args!("{}", Pieces(&pieces)));
        prop_assert!(whole.starts_with(cut.as_str()));
        if cut.len() < whole.len() {
            let next = whole[cut.len()..].chars().next().unwrap();
            prop_assert!(cut.len() + next.len_utf8() > MAX_TEXT, "cut too early, after {}", cut.len());
        }
    }
}

/// A record with every list full and every number as long as it gets.
fn largest() -> Finished {
    let conflict = Conflict {
        place: Place::El2,
        stage: u8::MAX,
        esr: u64::MAX,
        far: u64::MAX,
        hpfar: Some(u64::MAX),
        pc: u64::MAX,
        cpu: u8::MAX,
        cleared_by: Recovery::None,
        retries: u8::MAX,
        injected: true,
        phase: Some(u8::MAX),
    };
    let outcome = Outcome {
        count: Count { phase: Phase::After, kind: Kind::Fault(Fault::Permission, Level::L3), count: u64::MAX },
        first: First { esr: u64::MAX, far: u64::MAX, pc: u64::MAX, cpu: u8::MAX, round: u64::MAX, value: u64::MAX },
    };
    let full = "#".repeat(MAX_TEXT);
    Finished {
        seq: u32::MAX,
        id: wire::record::Id::from(&full[..vmsa::instance::MAX_ID]).unwrap(),
        cpu: u8::MAX,
        end: End::Unrecovered,
        bbm: u8::MAX,
        report: Report {
            rounds: u64::MAX,
            accesses: u64::MAX,
            overlap: u64::MAX,
            trouble: Some(wire::record::Trouble::SelfCheck),
            outcomes: core::iter::repeat_n(outcome, wire::record::MAX_OUTCOMES).collect(),
            conflicts: core::iter::repeat_n(conflict, wire::record::MAX_CONFLICTS).collect(),
            conflicts_total: u64::MAX,
        },
        el2_conflicts: core::iter::repeat_n(conflict, wire::record::MAX_CONFLICTS).collect(),
        registers: Some(Registers {
            x: [u64::MAX; 31],
            pc: u64::MAX,
            pstate: u64::MAX,
            esr_el2: u64::MAX,
            far_el2: u64::MAX,
            hpfar_el2: u64::MAX,
            esr_el1: u64::MAX,
            elr_el1: u64::MAX,
            far_el1: u64::MAX,
            spsr_el1: u64::MAX,
            sp_el1: u64::MAX,
            cpu: u8::MAX,
        }),
        contained: u64::MAX,
        setup_ns: u64::MAX,
        run_ns: u64::MAX,
        reason: Some(Text::from(&full).unwrap()),
        retried: Some(Retried {
            faults: u64::MAX,
            breaks: u64::MAX,
            total_ns: u64::MAX,
            longest_ns: u64::MAX,
            shortest_ns: Some(u64::MAX),
            cycles: Some(u64::MAX),
        }),
    }
}

#[test]
fn the_largest_record_fits() {
    let line = arbitrary::line(&Record::Finished(largest()));
    assert!(line.len() <= MAX_LINE);
    let mut body = [0; MAX_BODY];
    frame::encode_report(&largest().report, &mut body).unwrap();
}

#[test]
fn what_is_too_large_is_refused_not_cut() {
    let name = "x".repeat(MAX_RECORD);
    let registers = ArrayVec::from_iter([wire::record::Register { name: &name, value: 0 }]);
    let cpu = Record::Cpu(wire::record::Cpu { index: 0, mpidr: 0, midr: 0, revidr: 0, registers });
    assert_eq!(frame::encode_line(&cpu, &mut [0; 2 * MAX_LINE]), Err(TooLarge));

    let bye = Record::Bye { finished: 1 };
    let length = arbitrary::line(&bye).len();
    for short in 0..length {
        assert_eq!(frame::encode_line(&bye, &mut vec![0; short]), Err(TooLarge));
    }
    assert!(frame::encode_line(&bye, &mut vec![0; length]).is_ok());
}

#[test]
fn the_checksum_is_the_common_one() {
    assert_eq!(frame::crc32(b"123456789"), 0xcbf4_3926);
}

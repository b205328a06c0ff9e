//! Arbitrary records, lines and events.

use arrayvec::{ArrayString, ArrayVec};
use proptest::{collection::vec, option, prelude::*, sample::select};
use vmsa::{
    instance::MAX_ID,
    outcome::{Count, End, Kind, Phase},
};
use wire::{
    frame::{self, Event, Reader},
    record::{
        Conflict, Cpu, Finished, First, MAX_CONFLICTS, MAX_OUTCOMES, MAX_REGISTERS, MAX_TEXT, Outcome, Place, Platform,
        Record, Recovery, Register, Registers, Report, Retried, Smmu, Trouble,
    },
};

/// Numbers of every encoded length, not only large ones.
pub(crate) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300_u64, any::<u32>().prop_map(u64::from), any::<u64>(), Just(u64::MAX)]
}

/// Strings of at most `N` bytes, often of just so many, with characters of every length.
fn string<const N: usize>() -> impl Strategy<Value = ArrayString<N>> {
    vec(any::<char>(), 0..=N).prop_map(|chars| {
        let mut text = ArrayString::new();
        for c in chars {
            if text.try_push(c).is_err() {
                break;
            }
        }
        text
    })
}

fn list<T: core::fmt::Debug, const N: usize>(item: impl Strategy<Value = T>) -> impl Strategy<Value = ArrayVec<T, N>> {
    vec(item, 0..=N).prop_map(|items| items.into_iter().collect())
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let count = (select(&Phase::ALL), select(Kind::all().collect::<Vec<_>>()), number())
        .prop_map(|(phase, kind, count)| Count { phase, kind, count });
    let first = (number(), number(), number(), any::<u8>(), number(), number())
        .prop_map(|(esr, far, pc, cpu, round, value)| First { esr, far, pc, cpu, round, value });
    (count, first).prop_map(|(count, first)| Outcome { count, first })
}

fn conflict() -> impl Strategy<Value = Conflict> {
    let recovery = select(&Recovery::ALL);
    let place = (select(&Place::ALL), any::<u8>(), any::<u8>(), recovery);
    (place, number(), number(), option::of(number()), number(), any::<(u8, bool, Option<u8>)>()).prop_map(
        |((place, stage, cpu, cleared_by), esr, far, hpfar, pc, (retries, injected, phase))| Conflict {
            place,
            stage,
            esr,
            far,
            hpfar,
            pc,
            cpu,
            cleared_by,
            retries,
            injected,
            phase,
        },
    )
}

pub(crate) fn report() -> impl Strategy<Value = Report> {
    let trouble = select(vec![
        Trouble::NoSecondCpu,
        Trouble::ObserverSilent,
        Trouble::Unsupported,
        Trouble::OutOfTime,
        Trouble::SelfCheck,
    ]);
    (
        [number(), number(), number(), number()],
        option::of(trouble),
        list::<_, MAX_OUTCOMES>(outcome()),
        list::<_, MAX_CONFLICTS>(conflict()),
    )
        .prop_map(|([rounds, accesses, overlap, conflicts_total], trouble, outcomes, conflicts)| Report {
            rounds,
            accesses,
            overlap,
            trouble,
            outcomes,
            conflicts,
            conflicts_total,
        })
}

fn registers() -> impl Strategy<Value = Registers> {
    (vec(number(), 31), vec(number(), 10), any::<u8>()).prop_map(|(x, y, cpu)| Registers {
        x: x.try_into().unwrap(),
        pc: y[0],
        pstate: y[1],
        esr_el2: y[2],
        far_el2: y[3],
        hpfar_el2: y[4],
        esr_el1: y[5],
        elr_el1: y[6],
        far_el1: y[7],
        spsr_el1: y[8],
        sp_el1: y[9],
        cpu,
    })
}

pub(crate) fn finished() -> impl Strategy<Value = Finished> {
    (
        (any::<u32>(), string::<MAX_ID>(), any::<u8>(), select(&End::ALL), any::<u8>()),
        report(),
        list(conflict()),
        option::of(registers()),
        [number(), number(), number()],
        option::of(string::<MAX_TEXT>()),
        option::of([number(), number(), number(), number()]),
    )
        .prop_map(
            |(
                (seq, id, cpu, end, bbm),
                report,
                el2_conflicts,
                registers,
                [contained, setup_ns, run_ns],
                reason,
                retried,
            )| {
                Finished {
                    seq,
                    id,
                    cpu,
                    end,
                    bbm,
                    report,
                    el2_conflicts,
                    registers,
                    contained,
                    setup_ns,
                    run_ns,
                    reason,
                    retried: retried.map(|[faults, breaks, total_ns, longest_ns]| Retried {
                        faults,
                        breaks,
                        total_ns,
                        longest_ns,
                        shortest_ns: (faults % 2 == 0).then_some(breaks),
                        cycles: (faults % 3 == 0).then_some(total_ns),
                    }),
                }
            },
        )
}

fn cpu() -> impl Strategy<Value = Cpu<'static>> {
    let name = select(vec!["ID_AA64MMFR0_EL1", "ID_AA64MMFR2_EL1", "CTR_EL0", "", "ID_AA64ISAR0_EL1"]);
    let register = (name, number()).prop_map(|(name, value)| Register { name, value });
    (any::<u8>(), number(), number(), number(), list::<_, MAX_REGISTERS>(register))
        .prop_map(|(index, mpidr, midr, revidr, registers)| Cpu { index, mpidr, midr, revidr, registers })
}

fn platform() -> impl Strategy<Value = Platform> {
    ((string(), any::<u8>(), string(), string(), any::<u8>()), [number(), number(), number(), number()]).prop_map(
        |((model, cpus, gic, psci, entered_at), [image_base, image_size, ram, counter_hz])| Platform {
            model,
            cpus,
            gic,
            psci,
            image_base,
            image_size,
            ram,
            counter_hz,
            entered_at,
        },
    )
}

/// Any record.
pub(crate) fn record() -> impl Strategy<Value = Record<'static>> {
    prop_oneof![
        (any::<u32>(), string()).prop_map(|(protocol, version)| Record::Hello { protocol, version }),
        platform().prop_map(Record::Platform),
        cpu().prop_map(Record::Cpu),
        (any::<u32>(), number(), any::<u32>()).prop_map(|(count, seed, crc)| Record::Plan { count, seed, crc }),
        (any::<u32>(), string(), any::<u8>()).prop_map(|(seq, id, cpu)| Record::Start { seq, id, cpu }),
        finished().prop_map(Record::Finished),
        string().prop_map(|text| Record::Log { text }),
        string().prop_map(|text| Record::Fatal { text }),
        any::<u32>().prop_map(|finished| Record::Bye { finished }),
        (number(), any::<u32>(), any::<u32>()).prop_map(|(base, idr0, idr3)| Record::Smmu(Smmu { base, idr0, idr3 })),
    ]
}

/// The line of `record`, without its end. There is one encoding of a record, so it also serves as its identity.
pub(crate) fn line(record: &Record<'_>) -> String {
    frame::encode_line(record, &mut [0; frame::MAX_LINE]).unwrap().to_owned()
}

/// An [`Event`] that owns what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// The record, as its [`line`].
    Record(String),
    Skipped(Option<u32>),
    Text(Vec<u8>),
    Damaged(Vec<u8>),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Record(record) => Self::Record(line(&record)),
            Event::Skipped { number } => Self::Skipped(number),
            Event::Text(text) => Self::Text(text.to_vec()),
            Event::Damaged { bytes } => Self::Damaged(bytes.to_vec()),
        }
    }
}

/// Everything in a stream that arrives in these parts, with the reader's statistics checked against it.
pub(crate) fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut reader = Reader::new();
    let mut seen = Vec::new();
    for part in parts {
        reader.push(part, &mut |event| seen.push(event.into()));
    }
    reader.finish(&mut |event| seen.push(event.into()));
    let count = |pattern: fn(&Seen) -> bool| seen.iter().filter(|s| pattern(s)).count() as u64;
    let statistics = reader.statistics();
    assert_eq!(statistics.records, count(|s| matches!(s, Seen::Record(_))));
    assert_eq!(statistics.skipped, count(|s| matches!(s, Seen::Skipped(_))));
    assert_eq!(statistics.lost, count(|s| matches!(s, Seen::Damaged(_))));
    seen
}

/// Only the records.
pub(crate) fn records(seen: &[Seen]) -> Vec<&str> {
    seen.iter().filter_map(|s| if let Seen::Record(line) = s { Some(line.as_str()) } else { None }).collect()
}

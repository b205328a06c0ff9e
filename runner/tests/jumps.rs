//! Payloads that jump into nothing, or write where they must not: the hypervisor says how they ended, with registers, and
//! goes on, and the next VM is none the worse. On the model, with payloads of ours in which instructions are replaced.

use model::{
    machine::{Config, Machine},
    mmu::Profile,
};
use shatter_runner::guest;
use vmsa::outcome::End;
use wire::{
    abi::{HEADER_LEN, HEADER_MAGIC, Header},
    frame::{Event, Reader, crc32},
    record::{Finished, Record, Registers},
};

/// BR XZR.
const JUMP: u32 = 0xd61f_03e0;
/// MSR SCTLR_EL1, X6; ISB; RET: where the MMU is switched on.
const MMU_ON: [u32; 3] = [0xd518_1006, 0xd503_3fdf, 0xd65f_03c0];

/// ADR X1, `distance`; below 1 MiB.
const fn adr_x1(distance: u32) -> u32 {
    0x1000_0001 | (distance & 3) << 29 | (distance >> 2) << 5
}
/// LDR W2, [X1]; CBNZ W2, two instructions on; STR WZR, [X1].
const LOAD: u32 = 0xb940_0022;
const SKIP_UNLESS_0: u32 = 0x3500_0042;
const STORE_0: u32 = 0xb900_003f;

/// What came of `selftest.clean` in a payload changed by `edit`, and of `el1.split.4k-l2.bbm.load-local` after it.
fn run(edit: impl Fn(&mut [u8])) -> Vec<Finished> {
    run_all("selftest", &["selftest.clean", "el1.split.4k-l2.bbm.load-local"], edit)
}

/// What came of the instances called `ids`, with `payload` changed by `edit`.
fn run_all(payload: &str, ids: &[&str], edit: impl Fn(&mut [u8])) -> Vec<Finished> {
    let instances: Vec<_> = ids.iter().map(|id| id.parse().expect("an id")).collect();
    let mut bundle = guest::bundle("", &instances).expect("an archive");
    let (_, image) = guest::PAYLOADS.iter().find(|(name, _)| *name == payload).expect("it is there");
    let start = bundle.windows(image.len()).position(|bytes| bytes == *image).expect("it is there");
    let payload = &mut bundle[start..start + image.len()];
    assert!(payload.starts_with(&HEADER_MAGIC));
    let size = Header::check(payload).expect("a good payload").image_size as usize;
    edit(payload);
    let crc = crc32(&payload[HEADER_LEN..size]);
    payload[Header::CRC_OFFSET..][..4].copy_from_slice(&crc.to_le_bytes());

    let config = Config {
        cpus: 2,
        memory: Config::MEMORY,
        profiles: &[Profile::named("benign").expect("a profile")],
        seed: 1,
        image: guest::IMAGE,
        bundle: &bundle,
        bootargs: &format!("shatter.rounds=1 shatter.timeout-ms=200 shatter.run={}", ids.join(",")),
    };
    let mut console = vec![];
    let end =
        Machine::new(&config).expect("a machine").run(2_000_000_000, &mut |bytes| console.extend_from_slice(bytes));
    let mut finished = vec![];
    Reader::new().push(&console, &mut |event| {
        if let Event::Record(Record::Finished(one)) = event {
            finished.push(one.clone());
        }
    });
    assert_eq!(finished.len(), ids.len(), "{end}\n{}", String::from_utf8_lossy(&console));
    finished
}

fn put(payload: &mut [u8], at: usize, word: u32) {
    payload[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

fn mmu_on(payload: &[u8]) -> usize {
    let bytes: Vec<u8> = MMU_ON.iter().flat_map(|word| word.to_le_bytes()).collect();
    payload.windows(bytes.len()).position(|window| window == bytes).expect("it switches its MMU on")
}

#[track_caller]
fn assert_end(finished: &[Finished], end: End) -> Registers {
    let registers = finished[0].registers.expect("registers");
    assert_eq!(finished[0].end, end, "{registers:x?}");
    assert_eq!(finished[1].end, End::Done, "the next one is none the worse");
    registers
}

#[test]
fn a_payload_that_is_not_edited_is_done() {
    let finished = run(|_| {});
    assert_eq!((finished[0].end, finished[1].end), (End::Done, End::Done));
}

#[test]
fn with_the_mmu_off_stage_2_stops_a_jump_into_nothing() {
    let at_entry = run(|payload| {
        let entry = Header::check(payload).expect("a good payload").entry as usize;
        put(payload, entry, JUMP);
    });
    let later = run(|payload| put(payload, mmu_on(payload), JUMP));
    for finished in [at_entry, later] {
        let registers = assert_end(&finished, End::Trap);
        // An instruction abort from a lower EL, a Translation fault.
        assert_eq!((registers.esr_el2 >> 26, registers.esr_el2 & 0x3c), (0x20, 0b0100), "{registers:x?}");
        assert_eq!((registers.pc, registers.far_el2), (0, 0), "{registers:x?}");
    }
}

#[test]
fn with_the_mmu_on_its_own_vectors_report_a_jump_into_nothing() {
    let finished = run(|payload| put(payload, mmu_on(payload) + 8, JUMP));
    let registers = assert_end(&finished, End::Exception);
    // The same from the same EL, by stage 1.
    assert_eq!((registers.esr_el1 >> 26, registers.esr_el1 & 0x3c), (0x21, 0b0100), "{registers:x?}");
    assert_eq!((registers.elr_el1, registers.far_el1), (0, 0), "{registers:x?}");
}

#[test]
fn stage_2_stops_a_write_to_a_payloads_code() {
    let finished = run(|payload| {
        let entry = Header::check(payload).expect("a good payload").entry as usize;
        put(payload, entry, adr_x1(0));
        put(payload, entry + 4, STORE_0);
    });
    let registers = assert_end(&finished, End::Trap);
    // A data abort from a lower EL by a write, a Permission fault.
    assert_eq!((registers.esr_el2 >> 26, registers.esr_el2 & 0x7c), (0x24, 0x40 | 0b1100), "{registers:x?}");
    assert_eq!(registers.far_el2, registers.pc - 4, "{registers:x?}");
}

/// Without stage 2 nothing stops it; the next VM has its code all the same.
#[test]
fn code_that_was_written_is_whole_again_in_the_next_vm() {
    /// Instructions of the entry, between the first one and those that set the stack up, that only look at registers.
    const FREE: usize = 4;
    let off = "el1.split.4k-l2.bbm.load-remote.s2off";
    let finished = run_all("rounds", &[off, off], |payload| {
        let header = Header::check(payload).expect("a good payload");
        let entry = header.entry as usize + FREE;
        // The last word of what is not for writing, which is padding: zero is what the payload leaves there and dies of.
        let word = header.writable as usize - 4;
        assert_eq!(payload[word..word + 4], [0; 4], "padding");
        put(payload, word, 1);
        for (n, instruction) in
            [adr_x1((word - entry) as u32), LOAD, SKIP_UNLESS_0, JUMP, STORE_0].into_iter().enumerate()
        {
            put(payload, entry + n * 4, instruction);
        }
    });
    assert_eq!((finished[0].end, finished[1].end), (End::Done, End::Done));
}

//! Payloads that jump into nothing: the hypervisor says how they ended, with registers, and goes on. On the model, with
//! payloads of ours in which an instruction is replaced.

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

/// What came of `selftest.clean` in a payload changed by `edit`, and of `el1.split.4k-l2.bbm.load-local` after it.
fn run(edit: impl Fn(&mut [u8])) -> Vec<Finished> {
    let instances = ["selftest.clean", "el1.split.4k-l2.bbm.load-local"].map(|id| id.parse().expect("an id"));
    let mut bundle = guest::bundle("", &instances).expect("an archive");
    let (_, selftest) = guest::PAYLOADS.iter().find(|(name, _)| *name == "selftest").expect("it is there");
    let start = bundle.windows(selftest.len()).position(|bytes| bytes == *selftest).expect("it is there");
    let payload = &mut bundle[start..start + selftest.len()];
    assert!(payload.starts_with(&HEADER_MAGIC));
    let size = Header::check(payload).expect("a good payload").image_size as usize;
    edit(payload);
    let crc = crc32(&payload[HEADER_LEN..size]);
    payload[Header::CRC_OFFSET..][..4].copy_from_slice(&crc.to_le_bytes());

    let config = Config {
        cpus: 1,
        memory: Config::MEMORY,
        profile: Profile::named("benign").expect("a profile"),
        seed: 1,
        image: guest::IMAGE,
        bundle: &bundle,
        bootargs: "shatter.rounds=1 shatter.timeout-ms=200 shatter.run=selftest.clean,el1.split.4k-l2.bbm.load-local",
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
    assert_eq!(finished.len(), 2, "{end}\n{}", String::from_utf8_lossy(&console));
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

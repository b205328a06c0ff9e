//! Small programs on the machine: exceptions, interrupts, several PEs, and how runs end.
//!
//! A program is a list of instruction words, made by the encoders below, with handlers in the slots of its vectors. It ends
//! by semihosting, with the value of x0 as its status: a syndrome, mostly.
#![allow(clippy::unwrap_used)]

use std::slice;

use model::{
    a64::SysReg,
    machine::{Config, End, Error, Machine, RAM_BASE, State, Storm},
    mmu::Profile,
};

const HCR_EL2: SysReg = SysReg::new(3, 4, 1, 1, 0);
const SPSR_EL2: SysReg = SysReg::new(3, 4, 4, 0, 0);
const ELR_EL1: SysReg = SysReg::new(3, 0, 4, 0, 1);
const ELR_EL2: SysReg = SysReg::new(3, 4, 4, 0, 1);
const ESR_EL1: SysReg = SysReg::new(3, 0, 5, 2, 0);
const ESR_EL2: SysReg = SysReg::new(3, 4, 5, 2, 0);
const FAR_EL2: SysReg = SysReg::new(3, 4, 6, 0, 0);
const HPFAR_EL2: SysReg = SysReg::new(3, 4, 6, 0, 4);
const VBAR_EL1: SysReg = SysReg::new(3, 0, 12, 0, 0);
const VBAR_EL2: SysReg = SysReg::new(3, 4, 12, 0, 0);
const VTTBR_EL2: SysReg = SysReg::new(3, 4, 2, 1, 0);
const VTCR_EL2: SysReg = SysReg::new(3, 4, 2, 1, 2);
const MIDR_EL1: SysReg = SysReg::new(3, 0, 0, 0, 0);
const ID_AA64MMFR2_EL1: SysReg = SysReg::new(3, 0, 0, 7, 2);
const CNTPCT_EL0: SysReg = SysReg::new(3, 3, 14, 0, 1);
const CNTHP_CTL_EL2: SysReg = SysReg::new(3, 4, 14, 2, 1);
const CNTHP_TVAL_EL2: SysReg = SysReg::new(3, 4, 14, 2, 0);
const ICC_SRE_EL1: SysReg = SysReg::new(3, 0, 12, 12, 5);

const ISB: u32 = 0xd503_3fdf;
const DSB_SY: u32 = 0xd503_3f9f;
const ERET: u32 = 0xd69f_03e0;
const WFI: u32 = 0xd503_207f;
const YIELD: u32 = 0xd503_203f;
/// FMOV D0, X0.
const FMOV: u32 = 0x9e67_0000;

const fn mrs(rt: u32, register: SysReg) -> u32 {
    0xd530_0000 | (register.0 as u32 & 0x7fff) << 5 | rt
}

const fn msr(register: SysReg, rt: u32) -> u32 {
    0xd510_0000 | (register.0 as u32 & 0x7fff) << 5 | rt
}

const fn hvc(imm: u32) -> u32 {
    0xd400_0002 | imm << 5
}

const fn smc(imm: u32) -> u32 {
    0xd400_0003 | imm << 5
}

const fn ldr(rt: u32, rn: u32) -> u32 {
    0xf940_0000 | rn << 5 | rt
}

/// 32 bits, at a scaled offset in bytes.
const fn str_w(rt: u32, rn: u32, offset: u32) -> u32 {
    0xb900_0000 | (offset / 4) << 10 | rn << 5 | rt
}

const fn ldxr(rt: u32, rn: u32) -> u32 {
    0xc85f_7c00 | rn << 5 | rt
}

const fn stxr(rs: u32, rt: u32, rn: u32) -> u32 {
    0xc800_7c00 | rs << 16 | rn << 5 | rt
}

const fn add(rd: u32, rn: u32, imm: u32) -> u32 {
    0x9100_0000 | imm << 10 | rn << 5 | rd
}

const fn sub(rd: u32, rn: u32, imm: u32) -> u32 {
    0xd100_0000 | imm << 10 | rn << 5 | rd
}

const fn cmp(rn: u32, imm: u32) -> u32 {
    0xf100_001f | imm << 10 | rn << 5
}

/// ORR rd, rn, rm, LSL #shift.
const fn orr(rd: u32, rn: u32, rm: u32, shift: u32) -> u32 {
    0xaa00_0000 | rm << 16 | shift << 10 | rn << 5 | rd
}

/// By a number of instructions.
const fn cbnz(rt: u32, by: i32) -> u32 {
    0xb500_0000 | (by as u32 & 0x7_ffff) << 5 | rt
}

const fn b_ne(by: i32) -> u32 {
    0x5400_0001 | (by as u32 & 0x7_ffff) << 5
}

/// rd = value, in four instructions.
const fn li(rd: u32, value: u64) -> [u32; 4] {
    const MOV: [u32; 4] = [0xd280_0000, 0xf280_0000, 0xf280_0000, 0xf280_0000];
    let mut words = [0; 4];
    let mut n = 0;
    while n < 4 {
        let part = (value >> (16 * n)) as u32 & 0xffff;
        words[n] = MOV[n] | (n as u32) << 21 | part << 5 | rd;
        n += 1;
    }
    words
}

/// Where the parts of a program are in its Image.
const CODE: u64 = 0x40;
const VECTORS: u64 = 0x800;
const SIZE: u64 = 0x4000;
/// Zeros that a program may use.
const DATA: u64 = 0x2000;

/// Address of what is at `offset` in the Image.
const fn at(offset: u64) -> u64 {
    RAM_BASE + (2 << 20) + offset
}

/// Ends with x0 as status. Clobbers x1 and x2.
fn exit() -> Vec<u32> {
    const BLOCK: u64 = 0x3000;
    let stp_x2_x0_x1 = 0xa900_0022;
    let hlt = 0xd45e_0000;
    [&li(1, at(BLOCK))[..], &li(2, 0x2_0026), &[stp_x2_x0_x1], &li(0, 0x18), &[hlt]].concat()
}

/// An Image of `code`, with `handlers` at these offsets from the vectors.
fn image(code: &[u32], handlers: &[(u64, Vec<u32>)]) -> Vec<u8> {
    let mut image = vec![0; SIZE as usize];
    let mut put = |offset: u64, words: &[u32]| {
        for (n, word) in words.iter().enumerate() {
            image[offset as usize + 4 * n..][..4].copy_from_slice(&word.to_le_bytes());
        }
    };
    assert!(CODE + code.len() as u64 * 4 <= VECTORS, "the program reaches into its vectors");
    put(0, &[0x1400_0000 | (CODE / 4) as u32]);
    put(0x10, &[SIZE as u32]);
    put(0x38, &[u32::from_le_bytes(*b"ARM\x64")]);
    put(CODE, code);
    for (offset, handler) in handlers {
        assert!(handler.len() <= 32, "the handler reaches into the next one");
        put(VECTORS + offset, handler);
    }
    image
}

fn config<'a>(cpus: usize, profile: &str, seed: u64, image: &'a [u8]) -> Config<'a> {
    let profiles = Profile::ALL.iter().find(|known| known.name == profile).map(slice::from_ref).unwrap();
    Config { cpus, memory: 64 << 20, profiles, seed, image, bundle: b"", bootargs: "" }
}

/// Runs a program on one PE.
fn run(code: &[u32], handlers: &[(u64, Vec<u32>)]) -> End {
    let image = image(code, handlers);
    Machine::new(&config(1, "benign", 0, &image)).unwrap().run(1_000_000, &mut |_| {})
}

/// `before` at EL2, then `program` at EL1 with HCR_EL2 as given and vectors at both ELs.
fn at_el1(before: &[u32], hcr: u64, program: &[u32]) -> Vec<u32> {
    let mut code = [
        before,
        &li(0, at(VECTORS))[..],
        &[msr(VBAR_EL2, 0), msr(VBAR_EL1, 0)],
        &li(0, hcr | 1 << 31),
        &[msr(HCR_EL2, 0)],
        &li(0, 0x3c5),
        &[msr(SPSR_EL2, 0)],
    ]
    .concat();
    let entry = at(CODE) + 4 * (code.len() as u64 + 4 + 3);
    code.extend(li(0, entry));
    code.extend([msr(ELR_EL2, 0), ISB, ERET]);
    code.extend(program);
    code
}

/// A handler that ends with the value of a register.
fn exit_with(register: SysReg) -> Vec<u32> {
    [vec![mrs(0, register)], exit()].concat()
}

const FROM_SAME: u64 = 0x200;
const FROM_LOWER: u64 = 0x400;

#[test]
fn hvc_from_el2_comes_back_behind_it() {
    let setup = [&li(0, at(VECTORS))[..], &[msr(VBAR_EL2, 0), ISB, hvc(0x42)]].concat();
    assert_eq!(run(&setup, &[(FROM_SAME, exit_with(ESR_EL2))]), End::Exit(0x5a00_0042));
    let behind = at(CODE) + 4 * setup.len() as u64;
    assert_eq!(run(&setup, &[(FROM_SAME, exit_with(ELR_EL2))]), End::Exit(behind as i32));
}

#[test]
fn a_trapped_smc_comes_back_to_itself() {
    const TSC: u64 = 1 << 19;
    let code = at_el1(&[], TSC, &[smc(7)]);
    assert_eq!(run(&code, &[(FROM_LOWER, exit_with(ESR_EL2))]), End::Exit(0x5e00_0007));
    let smc = at(CODE) + 4 * (code.len() as u64 - 1);
    assert_eq!(run(&code, &[(FROM_LOWER, exit_with(ELR_EL2))]), End::Exit(smc as i32));
}

#[test]
fn id_registers_trap_where_el2_wants_it() {
    const TID3: u64 = 1 << 18;
    let read = mrs(9, ID_AA64MMFR2_EL1);
    // op0 3, op2 2, CRm 7, Rt 9, a read.
    let iss = 3 << 20 | 2 << 17 | 9 << 5 | 7 << 1 | 1;
    let end = run(&at_el1(&[], TID3, &[read]), &[(FROM_LOWER, exit_with(ESR_EL2))]);
    assert_eq!(end, End::Exit(0x18 << 26 | 1 << 25 | iss));
    // MIDR_EL1 is of another group.
    let program = [vec![mrs(0, MIDR_EL1)], exit()].concat();
    let midr = Profile::named("benign").unwrap().midr;
    assert_eq!(run(&at_el1(&[], TID3, &program), &[]), End::Exit(midr as i32));
}

#[test]
fn el2s_registers_are_undefined_at_el1() {
    let code = at_el1(&[], 0, &[mrs(0, HCR_EL2)]);
    assert_eq!(run(&code, &[(FROM_SAME, exit_with(ESR_EL1))]), End::Exit(1 << 25));
    let read = at(CODE) + 4 * (code.len() as u64 - 1);
    assert_eq!(run(&code, &[(FROM_SAME, exit_with(ELR_EL1))]), End::Exit(read as i32));
}

#[test]
fn an_illegal_return_stays_and_the_next_instruction_says_so() {
    let code = [
        &li(0, at(VECTORS))[..],
        &[msr(VBAR_EL2, 0)],
        // AArch32.
        &li(0, 0x1d3),
        &[msr(SPSR_EL2, 0)],
        &li(0, at(CODE)),
        &[msr(ELR_EL2, 0), ISB, ERET],
    ]
    .concat();
    assert_eq!(run(&code, &[(FROM_SAME, exit_with(ESR_EL2))]), End::Exit(0x0e << 26 | 1 << 25));
    assert_eq!(run(&code, &[(FROM_SAME, exit_with(ELR_EL2))]), End::Exit(at(CODE) as i32));
}

/// A load of x5 at an IPA that stage 2 does not map, with stage 2's tables all zero.
fn refused_by_stage2() -> Vec<u32> {
    let tables = [
        &li(0, at(DATA))[..],
        &[msr(VTTBR_EL2, 0)],
        // 39 bits, 4K, level 1.
        &li(0, 25 | 1 << 6 | 5 << 16),
        &[msr(VTCR_EL2, 0)],
    ]
    .concat();
    // The program itself is mapped by a block of 1 GiB: DATA is the table, whose entry 2 is for 0x8000_0000.
    let block = RAM_BASE | 1 << 10 | 3 << 8 | 3 << 6 | 0xf << 2 | 1;
    // str x0, [x1]
    let map = [&li(0, block)[..], &li(1, at(DATA) + 2 * 8), &[0xf900_0020, DSB_SY]].concat();
    let vm = 1;
    let load = [&li(6, 0x4000_1238)[..], &[ldr(5, 6)]].concat();
    at_el1(&[tables, map].concat(), vm, &load)
}

#[test]
fn an_abort_of_stage_2_has_its_syndrome_and_its_ipa() {
    let code = refused_by_stage2();
    // ISV, 8 bytes, x5, 64-bit register, Translation fault at level 1.
    let iss = 1 << 24 | 3 << 22 | 5 << 16 | 1 << 15 | 0b00_0101;
    assert_eq!(run(&code, &[(FROM_LOWER, exit_with(ESR_EL2))]), End::Exit((0x24u32 << 26 | 1 << 25 | iss) as i32));
    assert_eq!(run(&code, &[(FROM_LOWER, exit_with(FAR_EL2))]), End::Exit(0x4000_1238));
    assert_eq!(run(&code, &[(FROM_LOWER, exit_with(HPFAR_EL2))]), End::Exit(0x40_0010));
}

#[test]
fn unaligned_accesses_to_device_memory_fault() {
    // With the MMU off everything is Device memory.
    let code = [&li(0, at(VECTORS))[..], &[msr(VBAR_EL2, 0), ISB], &li(6, at(DATA) + 1), &[ldr(5, 6)]].concat();
    let alignment = 0x25 << 26 | 1 << 25 | 0b10_0001;
    assert_eq!(run(&code, &[(FROM_SAME, exit_with(ESR_EL2))]), End::Exit((alignment as u32) as i32));
}

#[test]
fn a_timer_ends_the_sleep_of_a_machine() {
    let ticks = 50_000_000;
    // GICD_CTLR, GICD_ISENABLER0, GICC_PMR, GICC_CTLR.
    let code = [
        &li(10, 0x2c00_0000)[..],
        &li(11, 0x2c00_2000),
        &li(1, 1),
        &[str_w(1, 10, 0), str_w(1, 11, 0)],
        &li(2, 1 << 26),
        &[str_w(2, 10, 0x100)],
        &li(2, 0xff),
        &[str_w(2, 11, 4)],
        &li(2, ticks),
        &[mrs(20, CNTPCT_EL0), msr(CNTHP_TVAL_EL2, 2), msr(CNTHP_CTL_EL2, 1), ISB, WFI, mrs(0, CNTPCT_EL0)],
        // sub x0, x0, x20
        &[0xcb14_0000],
        &exit(),
    ]
    .concat();
    let End::Exit(slept) = run(&code, &[]) else { panic!("no exit") };
    assert!((ticks as i32..ticks as i32 + 100).contains(&slept), "{slept}");
}

#[test]
fn a_sleep_that_nothing_can_end_is_the_end() {
    assert_eq!(run(&[WFI], &[]), End::AllAsleep);
}

#[test]
fn what_the_model_does_not_know_stops_it_and_is_named() {
    let End::Unknown(unknown) = run(&[FMOV], &[]) else { panic!("it ran") };
    assert_eq!((unknown.word, unknown.pc, unknown.el, unknown.cpu), (FMOV, at(CODE), 2, 0));
    assert!(unknown.to_string().contains("fmov"), "{unknown}");
    let End::Unknown(unknown) = run(&[mrs(3, ICC_SRE_EL1)], &[]) else { panic!("it ran") };
    assert_eq!((unknown.register, unknown.word), (Some(ICC_SRE_EL1), mrs(3, ICC_SRE_EL1)));
    assert!(unknown.to_string().contains("S3_0_C12_C12_5"), "{unknown}");
}

#[test]
fn a_run_can_be_limited_and_gone_on_with() {
    let image = image(&[0x1400_0000], &[]);
    let mut machine = Machine::new(&config(1, "benign", 0, &image)).unwrap();
    assert_eq!(machine.run(5000, &mut |_| {}), End::Limit);
    let first = machine.instructions();
    assert_eq!(machine.run(5000, &mut |_| {}), End::Limit);
    assert!(first >= 5000 && machine.instructions() >= first + 5000);
}

/// Two PEs add to one word with exclusives, a thousand times each; PE 0 ends with the sum. The MMU is on at EL2, with one
/// block of 1 GiB: exclusives need cacheable memory.
fn counting() -> Vec<u32> {
    const TTBR0_EL2: SysReg = SysReg::new(3, 4, 2, 0, 0);
    const TCR_EL2: SysReg = SysReg::new(3, 4, 2, 0, 2);
    const MAIR_EL2: SysReg = SysReg::new(3, 4, 10, 2, 0);
    const SCTLR_EL2: SysReg = SysReg::new(3, 4, 1, 0, 0);
    const COUNTER: u64 = DATA + 0x1000 + 0x800;
    const DONE: u64 = COUNTER + 0x40;
    let block = RAM_BASE | 1 << 10 | 3 << 8 | 1 << 6 | 1;
    // Both PEs come here, PE 1 with 1 in x0, which stays in x19.
    let on = [
        &li(1, block)[..],
        &li(2, at(DATA)),
        // str x1, [x2, #16]
        &[0xf900_0841, DSB_SY, msr(TTBR0_EL2, 2)],
        &li(1, 25 | 5 << 16),
        &[msr(TCR_EL2, 1)],
        &li(1, 0xff),
        &[msr(MAIR_EL2, 1)],
        &li(1, 0x30c5_0831 | 4),
        &[ISB, msr(SCTLR_EL2, 1), ISB],
        &li(3, at(COUNTER)),
        &li(4, 1000),
    ]
    .concat();
    let add_one = [ldxr(5, 3), add(5, 5, 1), stxr(6, 5, 3), cbnz(6, -3), sub(4, 4, 1), cbnz(4, -5)];
    // PE 1 says that it is done and sleeps; PE 0 waits for that.
    let finish = [
        &li(7, at(DONE))[..],
        // cbz x19, +4; str x19, [x7]; wfi; b .-4
        &[0xb400_0093, 0xf900_00f3, WFI, 0x17ff_ffff],
        &[YIELD, ldr(8, 7), cmp(8, 1), b_ne(-3), ldr(0, 3)],
        &exit(),
    ]
    .concat();
    let both = [on, add_one.to_vec(), finish].concat();
    let mut code =
        [&li(0, 0xc400_0003)[..], &li(1, 1), &li(2, 0), &li(3, 1), &[smc(0), orr(0, 31, 31, 0), orr(19, 31, 0, 0)]]
            .concat();
    // PE 1 enters at the move to x19.
    let entry = at(CODE) + 4 * (code.len() as u64 - 1);
    code[8..12].copy_from_slice(&li(2, entry));
    [code, both].concat()
}

#[test]
fn exclusives_of_two_pes_lose_no_addition_whatever_the_seed() {
    let image = image(&counting(), &[]);
    let mut counts = Vec::new();
    for seed in 0..20 {
        let run = |profile| {
            let mut machine = Machine::new(&config(2, profile, seed, &image)).unwrap();
            (machine.run(1_000_000, &mut |_| {}), machine.instructions(), machine.choices().drawn())
        };
        let (end, instructions, drawn) = run("benign");
        assert_eq!(end, End::Exit(2000), "seed {seed}");
        assert_eq!(run("benign"), (end, instructions, drawn), "a seed is one run");
        assert_eq!(run("ideal-l2-abort").0, End::Exit(2000), "seed {seed}");
        counts.push(instructions);
    }
    counts.sort_unstable();
    counts.dedup();
    assert!(counts.len() > 10, "the PEs take turns in different ways: {counts:?}");
}

#[test]
fn what_cannot_be_a_machine_is_refused() {
    let good = image(&[WFI], &[]);
    let error = |config: Config<'_>| Machine::new(&config).err();
    let base = config(1, "benign", 0, &good);
    assert_eq!(error(Config { cpus: 0, ..base }), Some(Error::Cpus(0)));
    assert_eq!(error(Config { cpus: 9, ..base }), Some(Error::Cpus(9)));
    assert_eq!(error(Config { profiles: &[], ..base }), Some(Error::Types { cpus: 1, types: 0 }));
    assert_eq!(error(Config { profiles: &Profile::ALL[..2], ..base }), Some(Error::Types { cpus: 1, types: 2 }));
    assert_eq!(error(Config { image: b"\x7fELF", ..base }), Some(Error::Image));
    assert_eq!(error(Config { bootargs: "a\0b", ..base }), Some(Error::Bootargs));
    assert!(matches!(error(Config { memory: 4 << 20, ..base }), Some(Error::Memory { .. })));
}

/// The state in which a run of exceptions without end was ended.
#[track_caller]
fn storm(code: &[u32], handlers: &[(u64, Vec<u32>)]) -> ([u64; 3], State) {
    let image = image(code, handlers);
    let mut machine = Machine::new(&config(1, "benign", 0, &image)).unwrap();
    match machine.run(10_000_000, &mut |_| {}) {
        End::Storm(Storm { first, state }) => (first, state),
        end => panic!("{end}"),
    }
}

const INSTRUCTION_ABORT_SAME: u64 = 0x21 << 26 | 1 << 25;
const EXTERNAL: u64 = 0b01_0000;
/// BR x5.
const BR: u32 = 0xd61f_00a0;
/// SVC #0.
const SVC: u32 = 0xd400_0001;

#[test]
fn a_jump_into_nothing_without_vectors_ends_the_run_with_registers() {
    let nowhere = 0x10;
    let (first, state) = storm(&[&li(5, nowhere)[..], &li(30, 0xabc), &[BR]].concat(), &[]);
    assert_eq!(first, [INSTRUCTION_ABORT_SAME | EXTERNAL, nowhere, nowhere]);
    // VBAR_EL2 is 0 after reset, where there is no memory either.
    assert_eq!((state.cpu, state.el, state.pc, state.elr, state.far), (0, 2, 0x200, 0x200, 0x200));
    assert_eq!(state.esr, INSTRUCTION_ABORT_SAME | EXTERNAL);
    assert_eq!((state.x[5], state.x[30], state.x.len()), (nowhere, 0xabc, 31));
    let text = state.to_string();
    for part in ["PE 0 at EL2", "PC 0x200", "ESR_EL2 0x86000010", "FAR_EL2 0x200", "ELR_EL2 0x200", "x30=0xabc"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn handlers_that_need_themselves_end_the_run_wherever_they_fail() {
    let vbar = [&li(0, at(VECTORS))[..], &[msr(VBAR_EL2, 0), ISB, SVC]].concat();
    for before in [vec![], vec![YIELD; 3]] {
        let fails_at = at(VECTORS) + FROM_SAME + 4 * before.len() as u64;
        let (first, state) = storm(&vbar, &[(FROM_SAME, [before.clone(), vec![0]].concat())]);
        assert_eq!((first[0], first[2]), (0x15 << 26 | 1 << 25, at(CODE) + 4 * vbar.len() as u64));
        assert_eq!((state.elr, state.esr), (fails_at, 1 << 25), "an undefined instruction");
        let (_, state) = storm(&vbar, &[(FROM_SAME, [before, vec![SVC]].concat())]);
        assert_eq!((state.elr, state.esr), (fails_at + 4, 0x15 << 26 | 1 << 25));
    }
}

#[test]
fn a_storm_at_el1_ends_only_if_no_timer_of_el2_can_end_it() {
    const IMO: u64 = 1 << 4;
    let nowhere = [&li(0, 0x1000)[..], &[msr(VBAR_EL1, 0), ISB, SVC]].concat();
    let (first, state) = storm(&at_el1(&[], IMO, &nowhere), &[]);
    assert_eq!(first[0], 0x15 << 26 | 1 << 25);
    assert_eq!((state.el, state.pc, state.esr), (1, 0x1200, INSTRUCTION_ABORT_SAME | EXTERNAL));

    // GICD_CTLR, GICC_CTLR, GICD_ISENABLER0, GICC_PMR, and a deadline far behind the limit on nested exceptions.
    let watchdog = [
        &li(10, 0x2c00_0000)[..],
        &li(11, 0x2c00_2000),
        &li(1, 1),
        &[str_w(1, 10, 0), str_w(1, 11, 0)],
        &li(2, 1 << 26),
        &[str_w(2, 10, 0x100)],
        &li(2, 0xff),
        &[str_w(2, 11, 4)],
        &li(2, 500_000),
        &[msr(CNTHP_TVAL_EL2, 2), msr(CNTHP_CTL_EL2, 1), ISB],
    ]
    .concat();
    let image = image(&at_el1(&watchdog, IMO, &nowhere), &[(FROM_LOWER + 0x80, exit_with(ESR_EL1))]);
    let end = Machine::new(&config(1, "benign", 0, &image)).unwrap().run(10_000_000, &mut |_| {});
    assert_eq!(end, End::Exit((INSTRUCTION_ABORT_SAME | EXTERNAL) as i32));
}

#[test]
fn exceptions_that_return_are_no_storm() {
    // x9 times SVC, each answered by ERET.
    let times = 300_000;
    let code = [
        &li(0, at(VECTORS))[..],
        &[msr(VBAR_EL2, 0), ISB],
        &li(9, times),
        &[SVC, sub(9, 9, 1), cbnz(9, -2), orr(0, 31, 31, 0)],
        &exit(),
    ]
    .concat();
    let image = image(&code, &[(FROM_SAME, vec![ERET])]);
    let mut machine = Machine::new(&config(1, "benign", 0, &image)).unwrap();
    assert_eq!(machine.run(10_000_000, &mut |_| {}), End::Exit(0));
    assert!(machine.instructions() > 4 * times);
}

#[test]
fn whatever_an_image_holds_its_run_ends_or_can_be_limited() {
    let mut rng = fastrand::Rng::with_seed(9);
    let mut ends = [0; 3];
    for _ in 0..300 {
        let mut bytes = vec![0; 0x4000];
        rng.fill(&mut bytes);
        bytes[0x10..0x18].copy_from_slice(&SIZE.to_le_bytes());
        bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let mut machine = Machine::new(&config(1, "ideal-l2-abort", 1, &bytes)).unwrap();
        match machine.run(3_000_000, &mut |_| {}) {
            End::Unknown(unknown) => {
                ends[0] += 1;
                assert_eq!(unknown.x.len(), 31);
            }
            End::Storm(Storm { state, .. }) => {
                ends[1] += 1;
                assert_eq!(state.x.len(), 31);
            }
            _ => ends[2] += 1,
        }
    }
    assert!(ends[0] > 20 && ends[1] > 20, "{ends:?}");
}

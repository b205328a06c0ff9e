//! The program that QEMU runs: a static ELF of a few instructions of its own around those under test.
//!
//! The cases lie in a table of records in writable memory, and their code in slots. For each record the program loads
//! all registers from it and jumps to the slot. Whichever word of the slot is reached when the case's instructions
//! are over branches to a collector of its own, which writes the registers back into the record, and with them the
//! number of the word: this is how the PC is seen. The memory that the instructions may touch is part of the record.
//! A signal ends the case in a collector too. Last, the program writes the whole table to its standard output.

use object::{
    LittleEndian as Le, U16, U32, U64,
    elf::{self, FileHeader64, ProgramHeader64},
    pod::bytes_of,
};

/// The words of a slot.
pub(super) const SLOT_WORDS: usize = 16;
/// The index of the first instruction under test in its slot.
pub(super) const FIRST: usize = 7;
/// The index of the word behind the last one.
pub(super) const BEHIND: usize = 10;
/// What stands for the index of a word if a signal ended the case.
pub(super) const SIGNAL: u64 = 16;
/// The number of 64-bit words in a record before its memory: X0 to X30, SP, NZCV, and before the run the [`entry`] of
/// the slot, after it the index of the word that was reached.
pub(super) const STATE_WORDS: usize = 34;
/// The bytes of memory of a record.
pub(super) const MEMORY: usize = 256;
/// The bytes of a record.
pub(super) const RECORD: usize = STATE_WORDS * 8 + MEMORY;

const CODE: u64 = 0x40_0000;
/// A multiple of 65536, so that one MOVZ yields it.
const DATA: u64 = 0x1000_0000;
/// Where in the data the records start.
const TABLE: u64 = DATA + PAGE;
const PAGE: u64 = 4096;
/// Where the slots start in the code.
const SLOTS: u64 = CODE + PAGE;
/// The signals' stack, behind the table.
const STACK: u64 = 65536;
/// The program is killed when it has not ended after so many seconds.
const PATIENCE: u64 = 60;

/// Variables in the first page of the data: offsets from [`DATA`].
mod variable {
    /// The address of the current record.
    pub(super) const RECORD: u32 = 0;
    /// The address behind the last record.
    pub(super) const END: u32 = 8;
    /// What X28 and X29 held at the end of a case.
    pub(super) const X28: u32 = 16;
    pub(super) const X29: u32 = 24;
    /// `struct kernel_sigaction`: handler, flags, restorer, mask.
    pub(super) const ACTION: u32 = 64;
    /// `stack_t`: address, flags, size.
    pub(super) const STACK: u32 = 128;
    /// `struct itimerval`.
    pub(super) const TIMER: u32 = 192;
}

/// Linux's numbers.
mod linux {
    pub(super) const WRITE: u32 = 64;
    pub(super) const EXIT_GROUP: u32 = 94;
    pub(super) const SETITIMER: u32 = 103;
    pub(super) const SIGALTSTACK: u32 = 132;
    pub(super) const RT_SIGACTION: u32 = 134;
    pub(super) const SIGNALS: [u32; 4] =
        [4 /* SIGILL */, 5 /* SIGTRAP */, 7 /* SIGBUS */, 11 /* SIGSEGV */];
    /// `SA_SIGINFO | SA_ONSTACK | SA_NODEFER`
    pub(super) const SA_FLAGS: u64 = 0x4 | 0x0800_0000 | 0x4000_0000;
    /// The offset of the PC in `ucontext_t`.
    pub(super) const UCONTEXT_PC: u32 = 440;
}

/// Encodings of the instructions that the program itself consists of. Registers are numbers, offsets are in bytes.
mod asm {
    pub(super) const SVC: u32 = 0xd400_0001;
    pub(super) const CLREX: u32 = 0xd503_305f;
    pub(super) const RET: u32 = 0xd65f_03c0;

    /// `MOVZ Xd, #imm, LSL #(16 * half)`
    pub(super) const fn movz(rd: u32, imm: u32, half: u32) -> u32 {
        0xd280_0000 | half << 21 | imm << 5 | rd
    }

    /// `LDR Xt, [Xn, #offset]`
    pub(super) const fn ldr(rt: u32, rn: u32, offset: u32) -> u32 {
        0xf940_0000 | (offset / 8) << 10 | rn << 5 | rt
    }

    /// `STR Xt, [Xn, #offset]`
    pub(super) const fn str(rt: u32, rn: u32, offset: u32) -> u32 {
        0xf900_0000 | (offset / 8) << 10 | rn << 5 | rt
    }

    /// `ADD Xd, Xn, #imm`, where 31 is SP.
    pub(super) const fn add(rd: u32, rn: u32, imm: u32) -> u32 {
        0x9100_0000 | imm << 10 | rn << 5 | rd
    }

    /// `SUBS Xd, Xn, Xm`
    pub(super) const fn subs(rd: u32, rn: u32, rm: u32) -> u32 {
        0xeb00_0000 | rm << 16 | rn << 5 | rd
    }

    /// `ADD Xd, Xn, Xm`
    pub(super) const fn add_register(rd: u32, rn: u32, rm: u32) -> u32 {
        0x8b00_0000 | rm << 16 | rn << 5 | rd
    }

    pub(super) const fn msr_nzcv(rt: u32) -> u32 {
        0xd51b_4200 | rt
    }

    pub(super) const fn mrs_nzcv(rt: u32) -> u32 {
        0xd53b_4200 | rt
    }

    pub(super) const fn msr_tpidr(rt: u32) -> u32 {
        0xd51b_d040 | rt
    }

    pub(super) const fn mrs_tpidr(rt: u32) -> u32 {
        0xd53b_d040 | rt
    }

    pub(super) const fn br(rn: u32) -> u32 {
        0xd61f_0000 | rn << 5
    }

    /// `CBZ Xt, offset`
    pub(super) const fn cbz(rt: u32, offset: i64) -> u32 {
        0xb400_0000 | ((offset >> 2) as u32 & 0x7_ffff) << 5 | rt
    }

    /// `B offset`
    pub(super) const fn b(offset: i64) -> u32 {
        0x1400_0000 | (offset >> 2) as u32 & 0x3ff_ffff
    }
}

/// Instructions from [`CODE`] on.
#[derive(Default)]
struct Code(Vec<u32>);

impl Code {
    fn here(&self) -> u64 {
        CODE + 4 * self.0.len() as u64
    }

    fn put(&mut self, words: &[u32]) {
        self.0.extend(words);
    }

    fn branch(&mut self, target: u64) {
        let offset = target.wrapping_sub(self.here()) as i64;
        self.0.push(asm::b(offset));
    }

    /// A system call with up to three arguments: constants of up to 32 bits.
    fn system_call(&mut self, number: u32, arguments: &[u64]) {
        for (n, argument) in (0..).zip(arguments) {
            self.put(&[asm::movz(16, *argument as u32 & 0xffff, 0), asm::movz(n, *argument as u32 >> 16, 1)]);
            self.put(&[asm::add_register(n, n, 16)]);
        }
        self.put(&[asm::movz(8, number, 0), asm::SVC]);
    }
}

/// The address of case `n`'s record.
fn record_address(n: usize) -> u64 {
    TABLE + (n * RECORD) as u64
}

/// The address of the memory in case `n`'s record.
pub(super) fn memory_address(n: usize) -> u64 {
    record_address(n) + 8 * STATE_WORDS as u64
}

/// The address of case `n`'s slot.
pub(super) fn slot_address(n: usize) -> u64 {
    SLOTS + (n * SLOT_WORDS * 4) as u64
}

/// Where the program enters the slot at `slot`: at the instruction before the first one under test.
pub(super) fn entry(slot: u64) -> u64 {
    slot + 4 * (FIRST as u64 - 1)
}

/// The words of case `n`'s slot, which starts with the restoration of X30 and has `instructions` (at most three)
/// under test in it. The other words branch to their collectors.
pub(super) fn slot(n: usize, instructions: &[u32]) -> [u32; SLOT_WORDS] {
    const NOP: u32 = 0xd503_201f;
    let mut words = [NOP; SLOT_WORDS];
    for (index, word) in words.iter_mut().enumerate() {
        let address = slot_address(n) + 4 * index as u64;
        *word = match index.checked_sub(FIRST) {
            Some(k) if index < BEHIND => instructions.get(k).copied().unwrap_or(NOP),
            _ if index == FIRST - 1 => asm::mrs_tpidr(30),
            _ => asm::b(collector(index as u64).wrapping_sub(address) as i64),
        };
    }
    words
}

/// The instructions of a collector.
const COLLECTOR_WORDS: u64 = 5;

/// The address of the collector for word `index` of a slot, or [`SIGNAL`]. They come first in the code.
fn collector(index: u64) -> u64 {
    CODE + 4 * COLLECTOR_WORDS * index
}

/// The ELF file with these slots and records, which [`slot`] and the caller made.
pub(super) fn elf(slots: &[[u32; SLOT_WORDS]], records: &[[u8; RECORD]]) -> Vec<u8> {
    let table_end = record_address(records.len());
    let stack = table_end.next_multiple_of(PAGE);
    let (code, entry, handler) = program(table_end);

    let mut data = vec![0; PAGE as usize];
    let mut set = |variable: u32, values: &[u64]| {
        for (slot, value) in data[variable as usize..].chunks_exact_mut(8).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    };
    set(variable::RECORD, &[TABLE]);
    set(variable::END, &[table_end]);
    set(variable::ACTION, &[handler, linux::SA_FLAGS, 0, 0]);
    set(variable::STACK, &[stack, 0, STACK]);
    set(variable::TIMER, &[0, 0, PATIENCE, 0]);
    data.extend(records.iter().flatten());

    let mut text: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    text.resize((SLOTS - CODE) as usize, 0);
    text.extend(slots.iter().flatten().flat_map(|word| word.to_le_bytes()));
    text.resize(text.len().next_multiple_of(PAGE as usize), 0);

    let segment = |flags, offset: u64, address: u64, file: usize, memory: u64| ProgramHeader64::<Le> {
        p_type: U32::new(Le, elf::PT_LOAD),
        p_flags: U32::new(Le, flags),
        p_offset: U64::new(Le, offset),
        p_vaddr: U64::new(Le, address),
        p_paddr: U64::new(Le, address),
        p_filesz: U64::new(Le, file as u64),
        p_memsz: U64::new(Le, memory),
        p_align: U64::new(Le, PAGE),
    };
    let data_offset = PAGE + text.len() as u64;
    let segments = [
        segment(elf::PF_R | elf::PF_X, PAGE, CODE, text.len(), text.len() as u64),
        segment(elf::PF_R | elf::PF_W, data_offset, DATA, data.len(), stack + STACK - DATA),
    ];
    let mut file = bytes_of(&header(entry, segments.len() as u16)).to_vec();
    file.extend(segments.iter().flat_map(bytes_of));
    file.resize(PAGE as usize, 0);
    file.extend(text);
    file.extend(data);
    file
}

fn header(entry: u64, segments: u16) -> FileHeader64<Le> {
    FileHeader64 {
        e_ident: elf::Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(Le, elf::ET_EXEC),
        e_machine: U16::new(Le, elf::EM_AARCH64),
        e_version: U32::new(Le, u32::from(elf::EV_CURRENT.0)),
        e_entry: U64::new(Le, entry),
        e_phoff: U64::new(Le, size_of::<FileHeader64<Le>>() as u64),
        e_shoff: U64::new(Le, 0),
        e_flags: U32::default(),
        e_ehsize: U16::new(Le, size_of::<FileHeader64<Le>>() as u16),
        e_phentsize: U16::new(Le, size_of::<ProgramHeader64<Le>>() as u16),
        e_phnum: U16::new(Le, segments),
        e_shentsize: U16::new(Le, 0),
        e_shnum: U16::new(Le, 0),
        e_shstrndx: U16::default(),
    }
}

/// The program's own instructions, its entry point, and the address of its signal handler.
fn program(table_end: u64) -> (Vec<u32>, u64, u64) {
    let data_half = (DATA >> 16) as u32;
    let mut code = Code::default();
    let common = collector(SIGNAL + 1);

    // The collectors. X30 is needed as a base register; TPIDR_EL0 keeps its value.
    for index in 0..=SIGNAL {
        code.put(&[asm::msr_tpidr(30), asm::movz(30, data_half, 1), asm::str(29, 30, variable::X29)]);
        code.put(&[asm::movz(29, index as u32, 0)]);
        code.branch(common);
    }

    // Their common end: fills the record at X28 and goes on to the next.
    code.put(&[asm::str(28, 30, variable::X28), asm::ldr(28, 30, variable::RECORD)]);
    for n in 0..28 {
        code.put(&[asm::str(n, 28, 8 * n)]);
    }
    code.put(&[asm::ldr(0, 30, variable::X28), asm::str(0, 28, 8 * 28)]);
    code.put(&[asm::ldr(0, 30, variable::X29), asm::str(0, 28, 8 * 29)]);
    code.put(&[asm::mrs_tpidr(0), asm::str(0, 28, 8 * 30)]);
    code.put(&[asm::add(0, 31, 0), asm::str(0, 28, 8 * 31)]);
    code.put(&[asm::mrs_nzcv(0), asm::str(0, 28, 8 * 32)]);
    code.put(&[asm::str(29, 28, 8 * 33), asm::add(28, 28, RECORD as u32), asm::str(28, 30, variable::RECORD)]);

    // The next record, or the end.
    let next = code.here();
    code.put(&[asm::movz(30, data_half, 1), asm::ldr(0, 30, variable::RECORD), asm::ldr(1, 30, variable::END)]);
    code.put(&[asm::subs(1, 1, 0)]);
    let load: Vec<u32> =
        [asm::CLREX, asm::ldr(1, 0, 8 * 32), asm::msr_nzcv(1), asm::ldr(1, 0, 8 * 31), asm::add(31, 1, 0)]
            .into_iter()
            .chain([asm::ldr(1, 0, 8 * 30), asm::msr_tpidr(1), asm::ldr(30, 0, 8 * 33)])
            .chain((0..30).rev().map(|n| asm::ldr(n, 0, 8 * n)))
            .chain([asm::br(30)])
            .collect();
    code.put(&[asm::cbz(1, 4 * (1 + load.len() as i64))]);
    code.put(&load);

    // The end. What could not be written is missed by the reader.
    code.system_call(linux::WRITE, &[1, TABLE, table_end - TABLE]);
    code.system_call(linux::EXIT_GROUP, &[0]);

    // A signal: the case goes on, when the handler returns, in the last collector. X2 has the ucontext.
    let handler = code.here();
    code.put(&[asm::movz(3, (collector(SIGNAL) & 0xffff) as u32, 0), asm::movz(4, (CODE >> 16) as u32, 1)]);
    code.put(&[asm::add_register(3, 3, 4), asm::str(3, 2, linux::UCONTEXT_PC), asm::RET]);

    let entry = code.here();
    for signal in linux::SIGNALS {
        code.system_call(linux::RT_SIGACTION, &[u64::from(signal), DATA + u64::from(variable::ACTION), 0, 8]);
    }
    code.system_call(linux::SIGALTSTACK, &[DATA + u64::from(variable::STACK), 0]);
    code.system_call(linux::SETITIMER, &[0, DATA + u64::from(variable::TIMER), 0]);
    code.branch(next);
    assert!(code.here() <= SLOTS, "the program's own instructions fit into a page");
    (code.0, entry, handler)
}

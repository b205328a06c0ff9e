//! Agreement with QEMU: the same instructions, from the same states, must leave the same states.
//!
//! A case is one instruction of an encoding class drawn at random, or a load-exclusive and a store-exclusive with
//! something between them, and a random state: registers with a taste for the values at which arithmetic turns, flags,
//! and memory. Base registers are then moved so that the access lies in that memory, and branches aimed at the words
//! around them. The module `guest` packs thousands of cases into a program for `qemu-aarch64`, and its answers are
//! compared with those of [`execute`] on a [`Flat`] machine: all registers, the flags, where the PC went, the memory.
//!
//! Left out is what a user program cannot execute or what does not come back from there: system registers but NZCV,
//! system instructions, calls, WFI and WFE.

mod encoding;
mod guest;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use fastrand::Rng;

use self::{
    encoding::{Aim, ENCODINGS, Encoding},
    guest::{BEHIND, FIRST, MEMORY, RECORD, SIGNAL, SLOT_WORDS, STATE_WORDS},
};
use super::{
    decode::decode,
    disasm::disassemble,
    exec::{Stop, execute},
    flat::{Flat, Region},
    op::{Hint, Op},
};

/// Cases in one run of QEMU.
pub const BATCH: usize = 8192;
/// The QEMU CPU: everything, except that pointer authentication would give its hints a meaning.
const CPU: &str = "max,pauth=off";

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be written for QEMU.
    #[error("failed to write a program for QEMU to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU could not be started.
    #[error("failed to run {}; on Debian it is in the package qemu-user", qemu.display())]
    Start {
        /// The command.
        qemu: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU, or the program in it, ended badly, or gave fewer answers than there are cases.
    #[error("{} ended with {status} after {answers} of {BATCH} cases: {message}", qemu.display())]
    Run {
        /// The command.
        qemu: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The answers it gave.
        answers: usize,
        /// What it said on its standard error.
        message: String,
    },
}

/// What the comparison found.
#[derive(Debug, Default)]
pub struct Report {
    /// How many cases there were of each class.
    pub cases: BTreeMap<&'static str, usize>,
    /// Where model and QEMU differ.
    pub mismatches: Vec<Mismatch>,
}

/// A case on which model and QEMU differ.
#[derive(Clone, Debug)]
pub struct Mismatch {
    words: Vec<u32>,
    before: State,
    model: State,
    qemu: State,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    x: [u64; 31],
    sp: u64,
    nzcv: u8,
    /// Before: the address of the slot. After: the index of the word of the slot that is next.
    place: u64,
    memory: Vec<u8>,
}

/// A case and its prediction.
struct Case {
    class: &'static str,
    words: Vec<u32>,
    before: State,
    after: State,
}

/// Compares at least `cases` cases, drawn with `seed`, between this crate and the command `qemu` (`qemu-aarch64`).
/// `program` is where QEMU's program is written, again and again; `progress` is told how many cases are done.
///
/// # Errors
/// QEMU cannot be run or does not do its part. Disagreement is no error, but in the report.
pub fn compare(
    qemu: &Path,
    cases: usize,
    seed: u64,
    program: &Path,
    mut progress: impl FnMut(usize),
) -> Result<Report, Error> {
    let mut rng = Rng::with_seed(seed);
    let mut report = Report::default();
    for batch in 0..cases.div_ceil(BATCH) {
        let cases: Vec<Case> = (0..BATCH).map(|n| draw(&mut rng, n)).collect();
        let slots: Vec<_> = (0..).zip(&cases).map(|(n, case)| guest::slot(n, &case.words)).collect();
        let records: Vec<_> = cases.iter().map(|case| case.before.record()).collect();
        write(program, &guest::elf(&slots, &records))?;
        let answers = run(qemu, program)?;
        for (case, answer) in cases.into_iter().zip(answers.chunks_exact(RECORD)) {
            *report.cases.entry(case.class).or_default() += 1;
            let qemu = State::of_record(answer);
            if qemu != case.after {
                let Case { words, before, after: model, .. } = case;
                report.mismatches.push(Mismatch { words, before, model, qemu });
            }
        }
        progress((batch + 1) * BATCH);
    }
    Ok(report)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes)
        // QEMU starts nothing that could not be executed.
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(|source| Error::Write { path: path.into(), source })
}

/// The records as QEMU leaves them.
fn run(qemu: &Path, program: &Path) -> Result<Vec<u8>, Error> {
    let output = Command::new(qemu)
        .args(["-cpu", CPU])
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start { qemu: qemu.into(), source })?;
    let answers = output.stdout.len() / RECORD;
    if output.status != ExitStatus::from_raw(0) || answers != BATCH {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Run { qemu: qemu.into(), status: output.status, answers, message });
    }
    Ok(output.stdout)
}

impl State {
    fn record(&self) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        let (state, memory) = record.split_at_mut(STATE_WORDS * 8);
        let words = self.x.into_iter().chain([self.sp, u64::from(self.nzcv) << 28, guest::entry(self.place)]);
        for (slot, word) in state.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        memory.copy_from_slice(&self.memory);
        record
    }

    /// The machine at the first instruction under test of slot number `n`. Its last region is the record's memory.
    fn machine(&self, n: usize, slot: &[u32; SLOT_WORDS]) -> Flat {
        let code = Region { base: self.place, bytes: slot.iter().flat_map(|word| word.to_le_bytes()).collect() };
        let memory = Region { base: guest::memory_address(n), bytes: self.memory.clone() };
        let mut machine = Flat::new(self.place + 4 * FIRST as u64, vec![code, memory]);
        (machine.x, machine.sp, machine.nzcv) = (self.x, self.sp, self.nzcv);
        machine
    }

    fn of_record(record: &[u8]) -> Self {
        let (state, memory) = record.split_at(STATE_WORDS * 8);
        let mut words = state.chunks_exact(8).map(little_endian);
        let mut word = || words.next().unwrap_or_default();
        let x = std::array::from_fn(|_| word());
        Self { x, sp: word(), nzcv: (word() >> 28) as u8, place: word(), memory: memory.to_vec() }
    }
}

/// Case number `n` of a batch.
fn draw(rng: &mut Rng, n: usize) -> Case {
    loop {
        // One case in eight is about the exclusive monitors, which a single instruction shows little of.
        let case = if rng.u8(..8) == 0 { draw_exclusive(rng, n) } else { draw_single(rng, n) };
        if let Some(case) = case {
            return case;
        }
    }
}

fn draw_single(rng: &mut Rng, n: usize) -> Option<Case> {
    let encoding = rng.choice(ENCODINGS)?;
    let word = draw_word(rng, encoding);
    let op = decode(word);
    if matches!(op, Op::Unknown(_) | Op::Hint(Hint::Wfe | Hint::Wfi)) {
        return None;
    }
    let mut state = draw_state(rng, n);
    if let (Aim::Register, Op::Br { rn } | Op::Blr { rn }) = (encoding.aim, op) {
        *state.x.get_mut(usize::from(rn))? = guest::slot_address(n) + 4 * draw_landing(rng);
    }
    finish(rng, n, encoding.name, vec![word], state)
}

/// A load-exclusive, a store-exclusive of the same size and base register, and between them NOP or CLREX.
fn draw_exclusive(rng: &mut Rng, n: usize) -> Option<Case> {
    const NOP: u32 = 0xd503_201f;
    const CLREX: u32 = 0xd503_305f;
    let name = *rng.choice(["load exclusive", "load exclusive pair"].iter())?;
    let load = draw_word(rng, ENCODINGS.iter().find(|e| e.name == name)?);
    // Of the store, the status register and whether it releases; everything else is as in the load.
    let store = load & !(1 << 22 | 0x1f << 16 | 1 << 15) | rng.u32(..32) << 16 | rng.u32(..2) << 15;
    let (Op::Load { rt, rn, .. } | Op::LoadPair { rt, rn, .. }) = decode(load) else { return None };
    let rt2 = (load >> 10 & 31) as u8;
    // The base must survive, and the store must not be CONSTRAINED UNPREDICTABLE.
    if rn != 31 && (rn == rt || name == "load exclusive pair" && rn == rt2) || matches!(decode(store), Op::Unknown(_)) {
        return None;
    }
    let between = if rng.bool() { NOP } else { CLREX };
    let state = draw_state(rng, n);
    finish(rng, n, "exclusive sequence", vec![load, between, store], state)
}

fn draw_word(rng: &mut Rng, encoding: &Encoding) -> u32 {
    let (mask, value) = encoding.mask_and_value();
    let random = rng.u32(..);
    // Often the same few registers, so that operands coincide.
    let random = if rng.u8(..4) == 0 { random & !(0b11100 << 16 | 0b11100 << 5 | 0b11100) } else { random };
    let word = random & !mask | value;
    let (offset, low, length) = match encoding.aim {
        Aim::Free | Aim::Register => return word,
        Aim::Branch { low, length } => (draw_landing(rng) as u32, low, length),
        // A doubleword needs the word behind it, too.
        Aim::Literal => (rng.u32(..SLOT_WORDS as u32 - 1), 5, 19),
    };
    let field = u32::MAX >> (32 - length) << low;
    word & !field | offset.wrapping_sub(FIRST as u32) << low & field
}

/// The index of a word of the slot that is neither under test nor before that.
fn draw_landing(rng: &mut Rng) -> u64 {
    let around = rng.usize(..SLOT_WORDS - (BEHIND - FIRST) - 1);
    (if around < FIRST - 1 { around } else { around + BEHIND - FIRST + 1 }) as u64
}

fn draw_state(rng: &mut Rng, n: usize) -> State {
    let mut x = [0; 31];
    x.fill_with(|| draw_value(rng));
    let mut memory = vec![0; MEMORY];
    for word in memory.chunks_exact_mut(8) {
        word.copy_from_slice(&draw_value(rng).to_le_bytes());
    }
    State { x, sp: draw_value(rng) & !15, nzcv: rng.u8(..16), place: guest::slot_address(n), memory }
}

/// A value near where arithmetic turns, or any.
fn draw_value(rng: &mut Rng) -> u64 {
    let near = rng.u64(..4).wrapping_sub(2);
    match rng.u8(..8) {
        0 => near,
        1 => near.wrapping_add(1 << rng.u8(..64)),
        2 => near.wrapping_add(1 << 31) ^ rng.u64(..2) << 63,
        3 => u64::from(rng.u32(..)),
        4 => rng.i32(..) as u64,
        _ => rng.u64(..),
    }
}

/// Moves the base register into the record's memory if the instructions access any, and predicts what they do.
/// Nothing, if the case cannot be made to stay in its slot and memory.
fn finish(rng: &mut Rng, n: usize, class: &'static str, words: Vec<u32>, mut before: State) -> Option<Case> {
    let slot = guest::slot(n, &words);
    // Without its memory, the machine tells where the access goes.
    let mut blind = before.machine(n, &slot);
    blind.memory.truncate(1);
    if step(&mut blind) == Err(Stop::Exception) {
        // As aligned as the largest pair demands, or any.
        let alignment = rng.choice([1, 16])?;
        let target = guest::memory_address(n) + rng.u64(16..MEMORY as u64 - 32) / alignment * alignment;
        let rn = usize::from((words[0] >> 5 & 31) as u8);
        let base = before.x.get_mut(rn).unwrap_or(&mut before.sp);
        *base = base.wrapping_add(target).wrapping_sub(blind.fault?);
        if rng.bool() {
            expect_memory(decode(words[0]), n, target, &mut before);
        }
    }
    let mut machine = before.machine(n, &slot);
    let place = loop {
        step(&mut machine).ok()?;
        let place = machine.pc.wrapping_sub(guest::slot_address(n));
        match (place / 4) as usize {
            FIRST..BEHIND => {}
            0..SLOT_WORDS if place.is_multiple_of(4) => break place / 4,
            _ => return None,
        }
    };
    let Flat { x, sp, nzcv, memory, .. } = machine;
    let memory = memory.into_iter().next_back()?.bytes;
    Some(Case { class, words, before, after: State { x, sp, nzcv, place, memory } })
}

/// Makes a CAS or CASP of `target` expect what is there, if that leaves its address alone.
fn expect_memory(op: Op, n: usize, target: u64, state: &mut State) {
    let (registers, size, rn) = match op {
        Op::Cas { size, rs, rn, .. } => (rs..=rs, size, rn),
        Op::Casp { size, rs, rn, .. } => (rs..=rs + 1, size, rn),
        _ => return,
    };
    if registers.contains(&rn) {
        return;
    }
    let start = (target - guest::memory_address(n)) as usize;
    let elements = state.memory[start..].chunks_exact(size.bytes() as usize);
    for (register, element) in registers.zip(elements) {
        if let Some(x) = state.x.get_mut(usize::from(register)) {
            let value = little_endian(element);
            *x = *x & !size.truncate(u64::MAX) | value;
        }
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rfold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn step(machine: &mut Flat) -> Result<(), Stop> {
    let word = machine.fetch()?;
    execute(decode(word), machine)
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pc = self.before.place + 4 * FIRST as u64;
        for (word, address) in self.words.iter().zip((pc..).step_by(4)) {
            writeln!(f, "{address:#x}: {word:08x} {}", disassemble(*word, address))?;
        }
        let mut row = |name: &str, value: fn(&State) -> u64| {
            let [before, model, qemu] = [&self.before, &self.model, &self.qemu].map(value);
            writeln!(f, "  {name:6} before {before:#x}, model {model:#x}, QEMU {qemu:#x}")
        };
        row("NZCV", |state| u64::from(state.nzcv))?;
        row("SP", |state| state.sp)?;
        // The index of the word that is next; before, the address of the slot.
        row("place", |state| state.place)?;
        for (n, ((before, model), qemu)) in self.before.x.iter().zip(&self.model.x).zip(&self.qemu.x).enumerate() {
            let named = self.words.iter().any(|word| [0, 5, 10, 16].iter().any(|low| (word >> low & 31) as usize == n));
            if named || model != qemu {
                writeln!(f, "  X{n:<5} before {before:#x}, model {model:#x}, QEMU {qemu:#x}")?;
            }
        }
        let memories = self.before.memory.iter().zip(&self.model.memory).zip(&self.qemu.memory);
        for (offset, ((before, model), qemu)) in memories.enumerate().filter(|(_, ((_, model), qemu))| model != qemu) {
            writeln!(f, "  byte {offset} of the memory: before {before:#x}, model {model:#x}, QEMU {qemu:#x}")?;
        }
        if self.qemu.place == SIGNAL {
            writeln!(f, "  QEMU raised a signal")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every class can be drawn, often enough to mean something.
    #[test]
    fn classes_are_drawn() {
        let mut rng = Rng::with_seed(7);
        let mut drawn = BTreeMap::<_, usize>::new();
        for n in 0..20_000 {
            *drawn.entry(draw(&mut rng, n % BATCH).class).or_default() += 1;
        }
        for class in ENCODINGS.iter().map(|encoding| encoding.name).chain(["exclusive sequence"]) {
            assert!(drawn.get(class).is_some_and(|count| *count > 40), "{class}: {:?}", drawn.get(class));
        }
    }

    #[test]
    fn records_keep_states() {
        let mut state = draw_state(&mut Rng::with_seed(1), 3);
        let read = State::of_record(&state.record());
        state.place = guest::entry(state.place);
        assert_eq!(read, state);
    }
}

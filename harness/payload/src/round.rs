//! The round engine: one for every change, access and place.
//!
//! vCPU 0 is the changer, and the observer too where that is local; otherwise vCPU 1 observes. A round:
//!
//! | changer | remote observer |
//! |---|---|
//! | touches the window, so that its TLB holds the old mapping | |
//! | publishes `go` | synchronises, accesses (`before`), publishes `armed` |
//! | waits for a short random time, publishes `stage` | accesses (`during`) until it reads `done` |
//! | executes the sequence, spoils a table that is no longer in use, publishes `done` | |
//! | | DSB SY, ISB, accesses (`after`), publishes `ack` |
//! | changes back by a full break-before-make | |
//!
//! The observer's accesses are `after` only since it executed DSB and ISB behind its read of `done`, which the
//! changer wrote behind the sequence's last DSB: so every effect of the sequence is complete for them (R_YNJCP).
//! Those that it makes before it reads `done` may have met anything, and count as `during`.
//!
//! An access *overlapped* the change if `done` was not there before it and `stage` was after it. Where vCPUs
//! outnumber CPUs one might run only while the other does not, so in some rounds the changer pauses in front of
//! steps, chosen at random, until the observer has made some accesses: these overlap for sure. A local observer makes
//! accesses between the steps in some rounds, each behind an ISB, and in the others leaves the sequence undisturbed.
//!
//! Rounds are numbered from 1 in the shared words. Every wait of the changer is bounded in time.

use core::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use aarch64_cpu::registers::{ID_AA64MMFR2_EL1, Readable};
use arch::{barrier, counter, probe};
use vmsa::{
    geometry::BbmLevel,
    instance::{Access, Instance, Place},
    outcome::{Kind, Phase},
    sequence::{Sequence, Step},
    verdict::is_defined,
};
use wire::{
    abi::mark,
    frame::crc32,
    record::{First, Report, Trouble},
};

use crate::{
    boot::{self, Vm},
    cpu::{self, Cpu},
    hypercall, tally,
    window::{SPOT_BITS, Spot, Window, token},
};

/// Accesses of an observer in a round's `before` and in its `after`.
const STILL_ACCESSES: u64 = 2;
/// Every round whose number has these bits clear is one in which the changer pauses for a remote observer.
const PAUSE_MASK: u64 = 1;
/// Every round whose number has these bits clear is one in which a local observer looks between the steps.
const LOOK_MASK: u64 = 2;
/// Accesses for which the changer pauses.
const PAUSE_ACCESSES: u64 = 2;
/// Longest pause in milliseconds.
const PAUSE_MS: u64 = 100;
/// Longest random wait in front of the sequence, in turns of an empty loop; a power of two.
const DELAY: u64 = 256;
/// How long an observer may be silent, in milliseconds.
const SILENCE_MS: u64 = 1000;
/// How long another vCPU may take to come up, in milliseconds.
const START_MS: u64 = 500;

/// The `go` that ends an observer's work.
const STOP: u64 = u64::MAX;

/// A word that one vCPU writes and the other reads, on cache lines of its own.
#[repr(align(128))]
struct Line(AtomicU64);

impl Line {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn publish(&self, value: u64) {
        self.0.store(value, Release);
    }

    fn read(&self) -> u64 {
        self.0.load(Acquire)
    }
}

/// What the two vCPUs of an instance share.
pub(crate) struct Work<'a> {
    window: &'a Window,
    /// The sequence, and how to undo it.
    steps: &'a [Step],
    restore: &'a [Step],
    /// What observers execute, in even and in odd rounds.
    accesses: [Access; 2],
    seed: u64,
    /// Written by the changer: the number of the round whatever it stands for has come in.
    go: Line,
    stage: Line,
    done: Line,
    /// The same, written by the observer.
    up: Line,
    armed: Line,
    ack: Line,
    /// Accesses that the observer made in `during`.
    during: Line,
}

/// The work that [`join`] finds; null until vCPU 0 shares one.
static WORK: AtomicPtr<Work<'static>> = AtomicPtr::new(core::ptr::null_mut());

/// Runs the instance of a family of cases.
pub fn run(mut vm: Vm) -> ! {
    let Instance::Case(case) = vm.instance else { panic!("{} is not a case", vm.instance) };
    if !boot::has(case.granule) {
        finish(&tally::report(0, Some(Trouble::Unsupported)));
    }
    let access = case.observer.access;
    let mut window = Window::new(&mut vm, case.granule, case.change, access == Access::Fetch);
    window.discards = is_defined(&case, BbmLevel::from_mmfr2(ID_AA64MMFR2_EL1.get()));
    let id = &vm.info.id[..vm.info.id_len as usize];
    let size = case.change.level().size(case.granule);
    barrier::mark::<{ mark::HINT }>([mark::WINDOW, crc32(id).into(), window.spot(0).va, size]);
    let (sequence, restore) = (case.sequence(), Sequence::restore());
    let work = Work::new(&window, sequence.steps(), restore.steps(), [access; 2], vm.info.seed);
    finish(&work.run(&vm, case.observer.place))
}

/// Hands `report` in and switches the VM off.
pub(crate) fn finish(report: &Report) -> ! {
    hypercall::report(report, |len| len);
    hypercall::system_off()
}

/// What a vCPU other than 0 does: it observes until there is nothing more to observe.
pub(crate) fn join() {
    // SAFETY: vCPU 0 stores a pointer to its work before it starts another vCPU, and its work lives in a function
    // that does not return while others may hold it. All that is shared in it is atomic or constant.
    if let Some(work) = unsafe { WORK.load(Acquire).as_ref() } {
        work.observe_remotely(cpu::this());
    }
}

/// Waits until `condition` holds, for at most `ticks`; says whether it does.
#[inline]
fn wait(ticks: u64, condition: impl Fn() -> bool) -> bool {
    /// Looks at the condition between two looks at the clock.
    const LOOKS: u32 = 64;
    let mut deadline = None;
    loop {
        for _ in 0..LOOKS {
            if condition() {
                return true;
            }
            barrier::spin();
        }
        let now = counter::now();
        if now > *deadline.get_or_insert(now + ticks) {
            return condition();
        }
    }
}

/// Xorshift64: random enough for delays, and a few instructions.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In front of which of `steps` steps to pause, a bit each: one for certain, and one in four of the others.
    fn pauses(&mut self, steps: u64) -> u64 {
        self.next() & self.next() | 1 << self.below(steps)
    }

    /// A number below `bound`, at most 2^32, without a division.
    fn below(&mut self, bound: u64) -> u64 {
        ((self.next() >> 32) * bound) >> 32
    }
}

/// How long the changer waits, in ticks.
struct Limits {
    pause: u64,
    silence: u64,
}

impl<'a> Work<'a> {
    /// Rounds on `window` that execute `steps` and undo them by `restore`, both possibly none, with `accesses` in
    /// even and in odd rounds.
    pub(crate) fn new(
        window: &'a Window,
        steps: &'a [Step],
        restore: &'a [Step],
        accesses: [Access; 2],
        seed: u64,
    ) -> Self {
        let [go, stage, done, up, armed, ack, during] = [const { Line::new() }; 7];
        Self { window, steps, restore, accesses, seed, go, stage, done, up, armed, ack, during }
    }

    /// Makes the rounds that `vm` asks for, starting the observer first where it is remote, and reports.
    pub(crate) fn run(&self, vm: &Vm, place: Place) -> Report {
        if place == Place::Remote && !self.start_observer(vm) {
            return tally::report(0, Some(Trouble::NoSecondCpu));
        }
        let limits = Limits { pause: counter::ticks(PAUSE_MS), silence: counter::ticks(SILENCE_MS) };
        let mut observer = Observer::new(self, cpu::this());
        let mut random = Random(self.seed | 1);
        let start = counter::now();
        let mut rounds = 0;
        let mut trouble = None;
        while rounds < vm.info.rounds && trouble.is_none() {
            let round = rounds + 1;
            observer.begin(round);
            match place {
                Place::Local => self.round_locally(&mut observer),
                Place::Remote => trouble = self.round_remotely(&observer, &mut random, &limits).err(),
            }
            self.window.recover(observer.spot);
            let undo = self.window.live_at(observer.spot).reversed();
            self.restore.iter().for_each(|step| undo.step(*step));
            rounds += u64::from(trouble.is_none());
            if counter::now() - start > vm.info.budget_ticks {
                break;
            }
        }
        self.go.publish(STOP);
        if rounds == 0 && trouble.is_none() {
            trouble = Some(Trouble::OutOfTime);
        }
        tally::report(rounds, trouble)
    }

    /// Starts vCPU 1 as the observer; says whether it came up.
    fn start_observer(&self, vm: &Vm) -> bool {
        self.share();
        vm.info.vcpus > 1 && vm.start(1) && self.await_observer()
    }

    /// Shows this work to vCPUs that [`join`].
    fn share(&self) {
        WORK.store(core::ptr::from_ref(self).cast_mut().cast(), Release);
    }

    /// What comes of a remote observer that nobody starts.
    pub(crate) fn run_unobserved(&self) -> Report {
        // Not as long as for one that is on its way.
        let came = wait(counter::ticks(START_MS / 10), || self.up.read() != 0);
        let trouble = if came { Trouble::SelfCheck } else { Trouble::NoSecondCpu };
        tally::report(0, Some(trouble))
    }

    /// Whether an observer comes up in the time it is given.
    fn await_observer(&self) -> bool {
        wait(counter::ticks(START_MS), || self.up.read() != 0)
    }

    fn round_locally(&self, observer: &mut Observer<'_>) {
        observer.still(Phase::Before);
        observer.cpu.enter(Phase::During);
        let looks = observer.round & LOOK_MASK == 0;
        let live = self.window.live_at(observer.spot);
        let mut steps = self.steps.iter().peekable();
        while let Some(step) = steps.next() {
            live.step(*step);
            if looks && steps.peek().is_some() {
                barrier::isb();
                observer.access(Phase::During);
            }
        }
        self.window.discard(observer.spot);
        observer.overlapped(looks && self.steps.len() > 1);
        observer.still(Phase::After);
    }

    fn round_remotely(&self, changer: &Observer<'_>, random: &mut Random, limits: &Limits) -> Result<(), Trouble> {
        let round = changer.round;
        changer.prime();
        self.go.publish(round);
        let silent = |ok: bool| if ok { Ok(()) } else { Err(Trouble::ObserverSilent) };
        silent(wait(limits.silence, || self.armed.read() == round))?;
        let pauses = if round & PAUSE_MASK == 0 || round == 1 { random.pauses(self.steps.len() as u64) } else { 0 };
        for _ in 0..random.below(DELAY) {
            // Not the hint of a spin loop: this PE has something to do, the other one need not be let in.
            barrier::pass();
        }
        changer.cpu.enter(Phase::During);
        let live = self.window.live_at(changer.spot);
        self.stage.publish(round);
        for (number, step) in self.steps.iter().enumerate() {
            if pauses >> number & 1 != 0 {
                let made = self.during.read();
                wait(limits.pause, || self.during.read() >= made + PAUSE_ACCESSES);
            }
            live.step(*step);
        }
        self.window.discard(changer.spot);
        self.done.publish(round);
        changer.cpu.enter(Phase::Before);
        silent(wait(limits.silence, || self.ack.read() == round))
    }

    fn observe_remotely(&self, cpu: &Cpu) {
        self.up.publish(1);
        let mut observer = Observer::new(self, cpu);
        let mut during = 0;
        loop {
            // Not bounded: if the changer is gone, so is the VM.
            let mut round = self.go.read();
            while round == observer.round {
                barrier::spin();
                round = self.go.read();
            }
            if round == STOP {
                return;
            }
            observer.begin(round);
            // Behind the change back, as behind the change itself.
            barrier::dsb_sy();
            barrier::isb();
            observer.still(Phase::Before);
            cpu.enter(Phase::During);
            self.armed.publish(round);
            let mut overlapped = false;
            while self.done.read() != round {
                observer.access(Phase::During);
                overlapped |= self.stage.read() == round;
                during += 1;
                self.during.publish(during);
                barrier::spin();
            }
            barrier::dsb_sy();
            barrier::isb();
            observer.still(Phase::After);
            observer.overlapped(overlapped);
            self.ack.publish(round);
        }
    }
}

/// Makes the accesses of one vCPU, in each round all at the same spot, and counts them.
struct Observer<'a> {
    work: &'a Work<'a>,
    cpu: &'a Cpu,
    /// 0 before the first.
    round: u64,
    spot: &'a Spot,
    access: Access,
    /// Whether this round has shown the new mapping's effect.
    seen_new: bool,
    /// Accesses so far: no two stores of a vCPU store the same.
    made: u64,
}

impl<'a> Observer<'a> {
    fn new(work: &'a Work<'a>, cpu: &'a Cpu) -> Self {
        let (spot, [access, _]) = (work.window.spot(0), work.accesses);
        Self { work, cpu, round: 0, spot, access, seen_new: false, made: 0 }
    }

    fn begin(&mut self, round: u64) {
        self.round = round;
        // Both vCPUs go to the same spot: the number is a hash of what both know.
        let hash = (round ^ self.work.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.spot = self.work.window.spot(hash >> (u64::BITS - SPOT_BITS));
        self.access = self.work.accesses[(round & 1) as usize];
        self.seen_new = false;
    }

    /// Counts the round if it overlapped the change.
    fn overlapped(&self, yes: bool) {
        self.cpu.overlap.store(self.cpu.overlap.load(Relaxed) + u64::from(yes), Release);
    }

    /// The accesses of a phase in which nothing changes.
    fn still(&mut self, phase: Phase) {
        self.cpu.enter(phase);
        for _ in 0..STILL_ACCESSES {
            self.access(phase);
        }
    }

    /// A load, just to have this PE's TLB hold the mapping. Only an exception is worth counting: nothing excuses it.
    fn prime(&self) {
        // SAFETY: as in `access`.
        let probed = unsafe { probe::load(self.spot.va) };
        self.settle(Phase::Before, &probed);
        if probed.esr != 0 {
            self.count(Phase::Before, self.exception(Kind::from_esr(probed.esr)), probed, 0);
        }
    }

    /// Counts the conflict abort that an access met and that was recovered. One that could not be is what the access
    /// saw in the end, and counted as that.
    #[inline]
    fn settle(&self, phase: Phase, probed: &probe::Probed) {
        if self.cpu.conflicts.settle() && Kind::from_esr(probed.esr) != Kind::Conflict {
            let esr = self.cpu.fault_syndrome.load(Relaxed);
            self.count(phase, self.exception(Kind::Conflict), probe::Probed { esr, ..*probed }, 0);
        }
    }

    /// An exception of this kind, if its FAR is in the word that was accessed (of a fetch, the second instruction may
    /// be the one); else it is none that a mapping gives.
    fn exception(&self, kind: Kind) -> Kind {
        let far = self.cpu.fault_address.load(Relaxed);
        match kind {
            Kind::Fault(..) | Kind::Conflict if far & !7 != self.spot.va & !7 => Kind::Exception,
            kind => kind,
        }
    }

    #[inline]
    fn access(&mut self, phase: Phase) {
        let va = self.spot.va;
        self.made += 1;
        let token = token(self.made);
        // SAFETY: the vectors of every vCPU resume probes. The spot is in the window, behind which are frames that
        // hold nothing but contents; where they are called, they are code that changes x0 and returns.
        let (probed, pc) = unsafe {
            match self.access {
                Access::Load => (probe::load(va), probe::load_pc()),
                Access::Store => (probe::store(va, token), probe::store_pc()),
                Access::Fetch => (probe::fetch(va), va),
            }
        };
        self.settle(phase, &probed);
        let kind = if probed.esr == 0 {
            self.work.window.tell(self.access, phase, self.spot, probed, token)
        } else {
            self.exception(Kind::from_esr(probed.esr))
        };
        self.seen_new |= kind == Kind::New;
        // Afterwards the old mapping's effect is wrong in itself, whatever was seen before it.
        let back = kind == Kind::Old && self.seen_new && phase == Phase::During;
        self.count(phase, if back { Kind::Reordered } else { kind }, probed, pc);
    }

    #[inline]
    fn count(&self, phase: Phase, kind: Kind, probed: probe::Probed, pc: u64) {
        self.cpu.tally.count(phase, kind, || {
            let (far, pc) = match probed.esr {
                0 => (self.spot.va, pc),
                _ => (self.cpu.fault_address.load(Relaxed), self.cpu.fault_pc.load(Relaxed)),
            };
            First { esr: probed.esr, far, pc, round: self.round - 1, value: probed.value, ..First::default() }
        });
    }
}

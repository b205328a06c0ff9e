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
//! | behind the round at the last site, changes all of them back by a full break-before-make | |
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
//! Some families have more watched than what observers see of their accesses ([`Watch`]): that no store lands at the old
//! frame behind the last DSB, that accesses go on until the TLBI, that no store lands where neither mapping leads.
//!
//! Rounds are numbered from 1 in the shared words. Every wait of the changer is bounded in time.

use core::sync::atomic::{
    AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use aarch64_cpu::registers::{ID_AA64MMFR2_EL1, Readable};
use arch::{barrier, counter, probe, tlbi};
use vmsa::{
    geometry::BbmLevel,
    instance::{Access, Instance, Place, Watch},
    mark::Marks,
    outcome::{Kind, Phase},
    permission::{Operation, Privilege},
    sequence::Step,
    stress::{Pattern, Prime},
    verdict::is_defined,
};
use wire::{
    abi::{MAX_VCPUS, Part, mark},
    record::{First, Report, Trouble},
};

use crate::{
    boot::{Vm, stacks_held},
    cpu::{self, Cpu},
    hypercall, tally,
    window::{LANES, Made, Marking, SPOT_BITS, Side, Site, Spot, Window, token},
};

/// Accesses of an observer in a round's `before` and in its `after`.
const STILL_ACCESSES: u64 = 2;
/// Every round whose number has these bits clear is one in which the changer pauses for a remote observer.
const PAUSE_MASK: u64 = 1;
/// Every round whose number has these bits clear is one in which a local observer looks between the steps.
const LOOK_MASK: u64 = 2;
/// Every round whose number has one of these bits set is one in which an observer leaves no mark before the change begins.
const LAZY_MASK: u64 = 4;
/// Every other round whose number has these bits set, none of them one with pauses, is one in which a remote observer leaves
/// no mark while the change is made.
const QUIET_MASK: u64 = 3;
/// Accesses for which the changer pauses.
const PAUSE_ACCESSES: u64 = 2;
/// Longest pause in milliseconds.
const PAUSE_MS: u64 = 100;
/// Other spots from which entries are brought where a pattern asks for it.
const NEIGHBOURS: u64 = 3;
/// How long an observer may be silent, in milliseconds.
const SILENCE_MS: u64 = 1000;
/// How often the changer looks whether a store still lands.
const LANDING_LOOKS: u32 = 32;
/// How long an observer must make no access to be stuck, in milliseconds of the changer's own time.
const STUCK_MS: u64 = 200;
/// An observer that was stuck goes on within this part of that time once the TLBI is complete; one that was not let run
/// most likely does not.
const PROMPT: u64 = 8;
/// How long another vCPU may take to come up, in milliseconds.
const START_MS: u64 = 500;

/// Lowest bit of ESR_EL1.EC, and of IL below it; both together are what is above ISS.
const EC: u32 = 25;
/// EC and IL of an Instruction Abort taken from EL0, and of one without a change of Exception level.
const INSTRUCTION_ABORTS: [u64; 2] = [0x20 << 1 | 1, 0x21 << 1 | 1];
/// EC and IL of such a Data Abort.
const DATA_ABORT: u64 = 0x25 << 1 | 1;
/// ISS of an Instruction Abort by stage 1: SET, FnV, EA and S1PTW are 0.
const INSTRUCTION_ISS: u64 = 0x3 << 11 | 1 << 10 | 1 << 9 | 1 << 7;
/// ISS of a Data Abort: WnR.
const WNR: u64 = 1 << 6;

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

/// What one remote observer writes and the changer reads.
struct Seat {
    up: Line,
    /// The number of the round for which it is ready, and of the one that it is done with.
    armed: Line,
    ack: Line,
    /// Accesses that it made in `during`.
    during: Line,
}

/// What the vCPUs of an instance share.
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
    /// One for each vCPU but the changer's.
    seats: [Seat; MAX_VCPUS - 1],
    /// How many of them are taken; before the observers are started, 0.
    observers: AtomicUsize,
    /// Times that an observer seemed to be stuck.
    stuck: AtomicU64,
}

/// The work that [`join`] finds; null until vCPU 0 shares one.
static WORK: AtomicPtr<Work<'static>> = AtomicPtr::new(core::ptr::null_mut());

/// Runs the instance of a family of cases.
pub fn run(mut vm: Vm) -> ! {
    let Instance::Case(case) = vm.instance else { panic!("{} is not a case", vm.instance) };
    let access = case.observer.access;
    let mut window = Window::new(&mut vm, &case);
    window.discards = is_defined(&case, BbmLevel::from_mmfr2(ID_AA64MMFR2_EL1.get()));
    let (base, size) = window.range();
    barrier::mark::<{ mark::HINT }>([mark::WINDOW, vm.id_hash(), base, size]);
    if let Some(remedy) = case.remedy {
        let certain = remedy.is_guaranteed(case.stage2);
        cpu::CPUS.iter().for_each(|cpu| cpu.conflicts.try_first(remedy, certain, case.granule));
    }
    let (sequence, restore) = (case.sequence(), case.restore());
    let work = Work::new(&window, sequence.steps(), restore.steps(), [access; 2], vm.info.seed);
    finish(&work.run(&vm, case.observer.place))
}

/// Hands `report` in and switches the VM off.
pub(crate) fn finish(report: &Report) -> ! {
    assert!(stacks_held(), "a stack is too small");
    hypercall::report(report, |len| len);
    hypercall::system_off()
}

/// What a vCPU other than 0 does: it observes until there is nothing more to observe.
pub(crate) fn join() {
    // SAFETY: vCPU 0 stores a pointer to its work before it starts another vCPU, and its work lives in a function
    // that does not return while others may hold it. All that is shared in it is atomic or constant.
    if let Some(work) = unsafe { WORK.load(Acquire).as_ref() } {
        work.observe_remotely(cpu::this(), cpu::index());
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

/// As [`wait`], but what counts is the time for which this vCPU ran: however long a host does not run it, or any vCPU,
/// between two looks at the clock, that is one moment.
fn wait_running(ticks: u64, condition: impl Fn() -> bool) -> bool {
    /// Moments in all of the time.
    const MOMENTS: u64 = 256;
    let moment = (ticks / MOMENTS).max(1);
    let (mut passed, mut last) = (0, counter::now());
    while passed < ticks {
        if wait(0, &condition) {
            return true;
        }
        let now = counter::now();
        passed += (now - last).min(moment);
        last = now;
    }
    condition()
}

/// Lets `turns` turns of a loop pass.
fn pass(turns: u32) {
    for _ in 0..turns {
        // Not the hint of a spin loop: this PE has something to do, the other one need not be let in.
        barrier::pass();
    }
}

/// How long the changer waits, in ticks.
struct Limits {
    pause: u64,
    silence: u64,
    stuck: u64,
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
        let [go, stage, done] = [const { Line::new() }; 3];
        let seats = [const { Seat { up: Line::new(), armed: Line::new(), ack: Line::new(), during: Line::new() } };
            MAX_VCPUS - 1];
        let (observers, stuck) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { window, steps, restore, accesses, seed, go, stage, done, seats, observers, stuck }
    }

    /// Makes the rounds that `vm` asks for, starting the observer first where it is remote, and reports.
    pub(crate) fn run(&self, vm: &Vm, place: Place) -> Report {
        if place.is_remote() && !self.start_observers(vm) {
            return tally::report(0, Some(Trouble::NoSecondCpu));
        }
        let (rounds, trouble) = self.rounds(vm, place);
        tally::report(rounds, trouble)
    }

    /// The rounds; how many there were, and what ended them early. Not inlined: a report is large, and beside it on the stack
    /// what is used in rounds would lie on more pages than it needs.
    #[inline(never)]
    fn rounds(&self, vm: &Vm, place: Place) -> (u64, Option<Trouble>) {
        let [pause, silence, stuck] = [PAUSE_MS, SILENCE_MS, STUCK_MS].map(counter::ticks);
        let limits = Limits { pause, silence, stuck };
        let mut observer = Observer::new(self, cpu::this(), 0);
        let start = counter::now();
        let mut rounds = 0;
        let mut trouble = None;
        while rounds < vm.info.rounds && trouble.is_none() {
            let round = rounds + 1;
            observer.begin(round);
            match place {
                Place::Local => self.round_locally(&mut observer),
                Place::Remote | Place::All => trouble = self.round_remotely(&observer, &limits).err(),
            }
            observer.cpu.enter(Phase::Before, Part::Restore);
            if let Some(address) = self.window.escaped(observer.spot) {
                observer.count(Phase::During, Kind::Escaped, probe::Probed { value: address, esr: 0 });
            }
            self.window.recover(observer.spot);
            if observer.last {
                self.window.forget(Side::Old);
                self.take_back(&observer);
                self.window.forget(Side::New);
            }
            rounds += u64::from(trouble.is_none());
            if counter::now() - start > vm.info.budget_ticks {
                break;
            }
        }
        observer.cpu.enter(Phase::Before, Part::Frame);
        self.go.publish(STOP);
        if rounds == 0 && trouble.is_none() {
            trouble = Some(Trouble::OutOfTime);
        }
        (rounds, trouble)
    }

    /// Changes all sites back.
    fn take_back(&self, observer: &Observer<'_>) {
        let undo = |site, step| {
            let mut live = self.window.live_at(observer.spot, site, observer.hash, 0).reversed();
            live.step(step);
            live.flush();
        };
        for step in self.restore {
            match *step {
                step @ Step::Write(_) => self.window.sites().for_each(|site| undo(site, step)),
                step => undo(observer.site, step),
            }
        }
    }

    /// Starts all other vCPUs as observers; says whether they came up.
    fn start_observers(&self, vm: &Vm) -> bool {
        let others = 1..vm.info.vcpus as usize;
        self.observers.store(others.len(), Relaxed);
        self.share();
        !others.is_empty()
            && others.clone().all(|vcpu| vm.start(vcpu))
            && self.all(START_MS, |seat| seat.up.read() != 0)
    }

    /// Waits for at most `ms` until all observers have done what `done` says; says whether they have.
    fn all(&self, ms: u64, done: impl Fn(&Seat) -> bool) -> bool {
        self.all_in(counter::ticks(ms), done)
    }

    /// As [`all`](Self::all), in ticks.
    #[inline]
    fn all_in(&self, ticks: u64, done: impl Fn(&Seat) -> bool) -> bool {
        self.seats().iter().all(|seat| wait(ticks, || done(seat)))
    }

    /// The seats that are taken.
    #[inline]
    fn seats(&self) -> &[Seat] {
        &self.seats[..self.observers.load(Relaxed)]
    }

    /// Shows this work to vCPUs that [`join`].
    fn share(&self) {
        WORK.store(core::ptr::from_ref(self).cast_mut().cast(), Release);
    }

    /// What comes of a remote observer that nobody starts.
    pub(crate) fn run_unobserved(&self) -> Report {
        self.observers.store(1, Relaxed);
        // Not as long as for one that is on its way.
        let came = self.all(START_MS / 10, |seat| seat.up.read() != 0);
        let trouble = if came { Trouble::SelfCheck } else { Trouble::NoSecondCpu };
        tally::report(0, Some(trouble))
    }

    fn round_locally(&self, observer: &mut Observer<'_>) {
        observer.still(Phase::Before);
        observer.shape();
        observer.cpu.enter(Phase::During, Part::Sequence);
        let looks = observer.round & LOOK_MASK == 0;
        let between = observer.pattern.between;
        let mut live = self.window.live_at(observer.spot, observer.site, observer.hash, between);
        let mut steps = self.steps.iter().peekable();
        pass(observer.pattern.before);
        while let Some(step) = steps.next() {
            live.step(*step);
            pass(observer.pattern.between);
            if looks && steps.peek().is_some() {
                live.flush();
                barrier::isb();
                observer.access(Phase::During);
            }
        }
        live.flush();
        live.finish();
        self.window.discard(observer.spot);
        observer.check(Phase::During);
        observer.overlapped(looks && self.steps.len() > 1);
        observer.still(Phase::After);
    }

    fn round_remotely(&self, changer: &Observer<'_>, limits: &Limits) -> Result<(), Trouble> {
        let Observer { round, pattern, cpu, .. } = *changer;
        cpu.enter(Phase::Before, Part::Prime);
        // Where hardware writes marks, the changer leaves none: they are to be the observers'.
        if self.window.marking().is_none() {
            changer.prime(changer.va());
        }
        self.go.publish(round);
        cpu.enter(Phase::Before, Part::Wait);
        if !self.all_in(limits.silence, |seat| seat.armed.read() == round) {
            return Err(self.silent(round, None, |seat| seat.armed.read() == round));
        }
        // Where all steps are one, the only pause is the one in front of it.
        let pausing = if self.window.at_once { 1 } else { self.steps.len() as u32 };
        let pauses =
            if round & PAUSE_MASK == 0 || round == 1 { pattern.pauses(pausing) & ((1 << pausing) - 1) } else { 0 };
        cpu.enter(Phase::During, Part::Sequence);
        pass(pattern.before);
        let mut live = self.window.live_at(changer.spot, changer.site, changer.hash, pattern.between);
        self.stage.publish(round);
        let mut stood = None;
        for (number, step) in self.steps.iter().enumerate() {
            if self.window.watch == Watch::Progress && matches!(step, Step::Tlbi(_)) {
                let standing = self.standing(limits);
                if standing.iter().any(Option::is_some) {
                    stood = Some((*step, standing));
                }
            }
            if pauses >> number & 1 != 0 {
                live.flush();
                cpu.enter(Phase::During, Part::Wait);
                self.pause(limits.pause);
                cpu.enter(Phase::During, Part::Sequence);
            }
            if number != 0 {
                pass(pattern.between);
            }
            live.step(*step);
        }
        live.flush();
        if self.window.watch == Watch::Landing {
            self.watch_landing(changer);
        }
        if let Some((_, standing)) = stood {
            self.judge_standing(changer, standing, limits);
        }
        live.finish();
        self.window.discard(changer.spot);
        self.done.publish(round);
        cpu.enter(Phase::Before, Part::Wait);
        match self.all_in(limits.silence, |seat| seat.ack.read() == round) {
            true => Ok(()),
            false => Err(self.silent(round, stood.map(|(step, _)| step), |seat| seat.ack.read() == round)),
        }
    }

    /// The trouble of an observer that has not done what `done` says. The log names it, and the step in front of which it
    /// was seen to make no access, if it was.
    fn silent(&self, round: u64, step: Option<Step>, done: impl Fn(&Seat) -> bool) -> Trouble {
        for (seat, vcpu) in self.seats().iter().zip(1..).filter(|(seat, _)| !done(seat)) {
            let (made, at) = (seat.during.read(), step.map_or("done", Step::asm));
            hypercall::log(format_args!("round {}: vCPU {vcpu} silent since before {at}, {made} accesses", round - 1));
        }
        Trouble::ObserverSilent
    }

    /// Straight behind the last DSB: looks at the old frame's words to which the observers store, and then whether what is
    /// there changes, which is a store that landed too late.
    fn watch_landing(&self, changer: &Observer<'_>) {
        let observers = self.seats().len();
        let look = |observer: usize| {
            let spot = self.window.spot(changer.spot_number() + observer as u64);
            core::array::from_fn::<u64, LANES, _>(|lane| self.window.lane(spot, lane).old.load(Relaxed))
        };
        let mut held = [[0; LANES]; MAX_VCPUS - 1];
        let held = &mut held[..observers];
        for (observer, held) in held.iter_mut().enumerate() {
            *held = look(observer);
        }
        for _ in 0..LANDING_LOOKS {
            barrier::spin();
            for (observer, held) in held.iter_mut().enumerate() {
                let now = look(observer);
                for (now, held) in now.into_iter().zip(held).filter(|(now, held)| now != *held) {
                    changer.count(Phase::After, Kind::Late, probe::Probed { value: now, esr: 0 });
                    *held = now;
                }
            }
        }
    }

    /// Waits until each observer has made another access; of those that do not, how many they have made.
    fn standing(&self, limits: &Limits) -> [Option<u64>; MAX_VCPUS - 1] {
        let made = self.seats.each_ref().map(|seat| seat.during.read());
        let mut standing = [None; MAX_VCPUS - 1];
        for ((seat, made), standing) in self.seats().iter().zip(made).zip(&mut standing) {
            if !wait_running(limits.stuck, || seat.during.read() != made) {
                *standing = Some(made);
            }
        }
        standing
    }

    /// With the TLBI complete: who stood still before it and goes on now was stuck. One that the host happened not to run
    /// would seem to be, so the first time is only remembered: a CPU that does it does it again.
    fn judge_standing(&self, changer: &Observer<'_>, standing: [Option<u64>; MAX_VCPUS - 1], limits: &Limits) {
        for (seat, made) in self.seats().iter().zip(standing) {
            let Some(made) = made else { continue };
            if wait_running(limits.stuck / PROMPT, || seat.during.read() != made) {
                let times = self.stuck.load(Relaxed);
                self.stuck.store(times + 1, Relaxed);
                if times != 0 {
                    changer.count(Phase::During, Kind::Stuck, probe::Probed { value: made, esr: 0 });
                }
            }
        }
    }

    /// Lets every observer make some accesses, for which it gets at most `ticks`.
    fn pause(&self, ticks: u64) {
        let made = self.seats.each_ref().map(|seat| seat.during.read());
        for ((seat, made), vcpu) in self.seats().iter().zip(made).zip(1..) {
            // One that has met a break of stage 2 goes on when the change is made.
            let held = || self.window.waits_at_el2() && hypercall::lab_waiting() >> vcpu & 1 != 0;
            wait(ticks, || seat.during.read() >= made + PAUSE_ACCESSES || held());
        }
    }

    /// Observes as vCPU `index`, which is not 0.
    fn observe_remotely(&self, cpu: &Cpu, index: usize) {
        let number = index - 1;
        let seat = &self.seats[number];
        seat.up.publish(1);
        let mut observer = Observer::new(self, cpu, number as u64);
        let mut during = 0;
        loop {
            cpu.enter(Phase::Before, Part::Wait);
            // Not bounded: if the changer is gone, so is the VM.
            let mut round = self.go.read();
            while round == observer.round {
                barrier::spin();
                round = self.go.read();
            }
            if round == STOP {
                cpu.enter(Phase::Before, Part::Frame);
                return;
            }
            cpu.enter(Phase::Before, Part::Access);
            observer.begin(round);
            // Behind the change back, as behind the change itself.
            barrier::dsb_sy();
            barrier::isb();
            observer.still(Phase::Before);
            observer.shape();
            cpu.enter(Phase::During, Part::Access);
            seat.armed.publish(round);
            let mut overlapped = false;
            while self.done.read() != round {
                if observer.holds_back(self.stage.read() == round) {
                    barrier::spin();
                    continue;
                }
                match self.window.watch {
                    Watch::Landing => observer.burst(),
                    _ => observer.access(Phase::During),
                }
                overlapped |= self.stage.read() == round;
                during += 1;
                seat.during.publish(during);
                // The hint costs an emulator as much as many accesses, and a changer that pauses waits for several.
                if during.is_multiple_of(PAUSE_ACCESSES) {
                    barrier::spin();
                }
            }
            barrier::dsb_sy();
            barrier::isb();
            observer.landed();
            observer.check(Phase::During);
            observer.still(Phase::After);
            observer.overlapped(overlapped);
            seat.ack.publish(round);
        }
    }
}

/// Makes the accesses of one vCPU, in each round all at the same spot, and counts them.
struct Observer<'a> {
    work: &'a Work<'a>,
    cpu: &'a Cpu,
    /// Number among the observers. Each goes to a spot of its own, so that nobody meets another one's store; the
    /// changer and the first of them go to the same.
    number: u64,
    /// 0 before the first.
    round: u64,
    /// A hash of the round's number and the seed.
    hash: u64,
    spot: &'a Spot,
    /// Where the window of this round is, and whether it is the last one before all are changed back.
    site: Site,
    last: bool,
    access: Access,
    /// What it tells that an access of even and of odd rounds went through, where both mappings show the same.
    alike: [Kind; 2],
    pattern: Pattern,
    /// Whether this round has shown the new mapping's effect.
    seen_new: bool,
    /// Accesses so far: no two stores of a vCPU store the same.
    made: u64,
    /// Marks of this round's accesses that went through, where hardware writes them.
    left: Marks,
    /// The last store of this round's bursts to each lane that went through; 0 if there was none.
    burst: [u64; LANES],
}

impl<'a> Observer<'a> {
    fn new(work: &'a Work<'a>, cpu: &'a Cpu, number: u64) -> Self {
        let (spot, [access, _]) = (work.window.spot(0), work.accesses);
        let (pattern, left) = (Pattern::of(0, 0), Marks::empty());
        Self {
            work,
            cpu,
            number,
            round: 0,
            hash: 0,
            spot,
            site: Site::FIRST,
            last: false,
            access,
            alike: work.accesses.map(|access| work.window.tell_by_permission(access)),
            pattern,
            seen_new: false,
            made: 0,
            left,
            burst: [0; LANES],
        }
    }

    fn begin(&mut self, round: u64) {
        self.round = round;
        // The number is a hash of what all vCPUs know.
        self.hash = (round ^ self.work.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.spot = self.work.window.spot(self.spot_number());
        (self.site, self.last) = self.work.window.site_of(round);
        self.access = self.work.accesses[(round & 1) as usize];
        self.pattern = Pattern::of(self.work.seed, round - 1);
        self.seen_new = false;
        self.left = Marks::empty();
        // A store through a mixture of entries may have landed at any spot, which is no outcome of this round; where
        // no mixture can be, whatever has landed here since the last round at this spot came too late.
        let window = self.work.window;
        if self.access.stores() && !window.refresh(self.spot) && window.discards {
            self.count(Phase::Before, Kind::Late, probe::Probed { value: 0, esr: 0 });
        }
    }

    /// The address of this round.
    #[inline]
    const fn va(&self) -> u64 {
        self.site.of(self.spot.va)
    }

    /// Number of the spot of this round: a hash of what all vCPUs know, and its own number.
    fn spot_number(&self) -> u64 {
        (self.hash >> (u64::BITS - SPOT_BITS)) + self.number
    }

    /// Whether nothing is accessed in this round before the change begins, so that hardware writes its marks, if it does,
    /// while software replaces the descriptor.
    const fn is_lazy(&self) -> bool {
        self.work.window.marking().is_some() && self.round & LAZY_MASK != 0
    }

    /// Whether nothing is to be accessed for now, where hardware writes marks: before the change begins in a lazy round,
    /// and while it is made in a quiet one, so that no new mark stands where an old one was lost.
    fn holds_back(&self, changing: bool) -> bool {
        self.work.window.marking().is_some()
            && if changing { !self.is_lazy() && self.round & QUIET_MASK == QUIET_MASK } else { self.is_lazy() }
    }

    /// Counts the round if it overlapped the change.
    fn overlapped(&self, yes: bool) {
        self.cpu.overlap.store(self.cpu.overlap.load(Relaxed) + u64::from(yes), Release);
    }

    /// The accesses of a phase in which nothing changes.
    fn still(&mut self, phase: Phase) {
        self.cpu.enter(phase, Part::Access);
        if phase == Phase::After {
            self.left = Marks::empty();
        }
        if phase == Phase::Before && self.is_lazy() {
            return;
        }
        for _ in 0..STILL_ACCESSES {
            self.access(phase);
        }
        self.check(phase);
    }

    /// Looks for the marks that accesses must have left in the descriptor. In `During` once the change is complete.
    #[inline]
    fn check(&self, phase: Phase) {
        if let Some(marking) = self.work.window.marking() {
            self.check_marks(marking, phase);
        }
    }

    fn check_marks(&self, marking: &Marking, phase: Phase) {
        // What hardware writes for an access is complete with it, and that behind a DSB.
        barrier::dsb_sy();
        if let Some((kind, descriptor)) = marking.look(self.work.window, self.site, self.spot, phase, self.left) {
            self.count(phase, kind, probe::Probed { value: descriptor, esr: 0 });
        }
    }

    /// A load, just to have this PE's TLB hold the mapping of `va`. Only an exception is worth counting: nothing excuses it.
    fn prime(&self, va: u64) {
        let probed = match self.work.window.at_el2 {
            true => self.at_el2(Access::Load, va, 0).0,
            // SAFETY: as in `probe`; other pages hold nothing.
            false => unsafe { probe::load(va) },
        };
        self.settle(Phase::Before, Access::Load, va, &probed);
        if probed.esr != 0 {
            self.count(Phase::Before, self.exception(Access::Load, va, probed.esr), probed);
        }
    }

    /// A store to each lane, one behind the other, without a look at where they land.
    fn burst(&mut self) {
        for lane in 0..LANES {
            self.made += 1;
            let (va, token) = (self.site.of(self.work.window.lane(self.spot, lane).va), token(self.made));
            // SAFETY: as in `probe`.
            let probed = unsafe { probe::store(va, token) };
            self.settle(Phase::During, Access::Store, va, &probed);
            if probed.esr == 0 {
                self.burst[lane] = token;
            } else {
                self.count(Phase::During, self.exception(Access::Store, va, probed.esr), probed);
            }
        }
    }

    /// Where the last stores of this round's bursts have landed. The spot gets its contents back.
    fn landed(&mut self) {
        let window = self.work.window;
        for (lane, token) in core::mem::take(&mut self.burst).into_iter().enumerate().filter(|(_, token)| *token != 0) {
            let kind = window.tell_landed(Access::Store, &window.lane(self.spot, lane), token);
            self.count(Phase::During, kind, probe::Probed { value: token, esr: 0 });
        }
        if window.watch == Watch::Landing {
            window.refresh(self.spot);
        }
    }

    /// Leaves this PE's TLB with what the pattern says.
    fn shape(&self) {
        let va = self.va();
        let drop_by = |all| self.drop_entries(va, all);
        match self.pattern.prime {
            // What hardware would mark is left to the accesses that count.
            Prime::Neighbours | Prime::At if self.work.window.marking().is_some() => {}
            Prime::Spot => {}
            Prime::Neighbours => {
                for n in 1..=NEIGHBOURS {
                    self.prime(self.site.of(self.work.window.spot(self.spot_number() + n).va));
                }
            }
            Prime::Pressed(pages) if self.work.window.at_el2 => hypercall::lab_press(pages),
            Prime::Pressed(pages) => {
                for va in self.work.window.pressing(pages) {
                    self.prime(va);
                }
            }
            Prime::Walk => drop_by(false),
            Prime::Nothing => drop_by(true),
            // What it tells is not looked at.
            Prime::At => {
                drop_by(true);
                if self.work.window.at_el2 {
                    self.at_el2(Access::At, va, 0);
                } else {
                    // SAFETY: as in `probe`.
                    let _ = unsafe { probe::translate(va) };
                }
            }
        }
    }

    /// Drops what this PE's TLB holds of `va`: the last level, or all.
    fn drop_entries(&self, va: u64, all: bool) {
        if self.work.window.at_el2 {
            return hypercall::lab_drop(va, all);
        }
        if all {
            tlbi::vaae1(va)
        } else {
            tlbi::vaale1(va)
        }
        barrier::dsb_nsh();
        barrier::isb();
    }

    /// Has an access made at EL2; says too whether it was an exclusive one that did not store.
    fn at_el2(&self, access: Access, va: u64, token: u64) -> (probe::Probed, bool) {
        let hypercall::Came { probed, far, pc, failed } = hypercall::lab_access(access, va, token);
        self.cpu.fault_address.store(far, Relaxed);
        self.cpu.fault_pc.store(pc, Relaxed);
        (probed, failed)
    }

    /// [`probe`](Self::probe) where only EL2 has the window.
    #[inline(never)]
    fn probe_at_el2(&self, phase: Phase, va: u64, token: u64) -> (probe::Probed, bool) {
        match self.access {
            // The TLB is to hold what is before the seam: an access that faults behind it might not bring that.
            Access::Unaligned if phase != Phase::During => drop(self.at_el2(Access::Load, va & !7, 0)),
            Access::Walk => self.drop_entries(va, true),
            _ => {}
        }
        let (probed, failed) = self.at_el2(self.access, va, token);
        (if self.access == Access::At { self.translated(probed) } else { probed }, failed)
    }

    /// Counts the conflict abort that an access to `va` met and that was recovered. One that could not be is what the access
    /// saw in the end, and counted as that.
    #[inline]
    fn settle(&self, phase: Phase, access: Access, va: u64, probed: &probe::Probed) {
        if self.cpu.conflicts.settle() {
            self.settle_conflict(phase, access, va, probed);
        }
    }

    #[cold]
    fn settle_conflict(&self, phase: Phase, access: Access, va: u64, probed: &probe::Probed) {
        if Kind::from_esr(probed.esr) != Kind::Conflict {
            let esr = self.cpu.fault_syndrome.load(Relaxed);
            self.count(phase, self.exception(access, va, esr), probe::Probed { esr, ..*probed });
        }
    }

    /// The outcome of an AT as that of an access: a fault that it met is in PAR_EL1, as it would be in a syndrome.
    fn translated(&self, probed: probe::Probed) -> probe::Probed {
        /// PAR_EL1.F.
        const FAILED: u64 = 1;
        if probed.value & FAILED == 0 {
            return probed;
        }
        let esr = DATA_ABORT << EC | probed.value >> 1 & 0x3f;
        self.cpu.fault_address.store(self.va(), Relaxed);
        self.cpu.fault_pc.store(0, Relaxed);
        probe::Probed { value: probed.value, esr }
    }

    /// The kind that the syndrome of an exception at `access` to `va` tells, if syndrome and FAR are what that access gives by
    /// whichever mapping; else it is none that a mapping gives (E6 are CPUs that get them wrong).
    fn exception(&self, access: Access, va: u64, esr: u64) -> Kind {
        let [far, pc] = [&self.cpu.fault_address, &self.cpu.fault_pc].map(|register| register.load(Relaxed));
        let offset = far.wrapping_sub(va);
        match Kind::from_esr(esr) {
            // The second instruction may be the one, and the one is where the exception came from.
            kind @ Kind::Fault(..) if access.operation() == Operation::Execute => {
                let exact = matches!(offset, 0 | 4) && far == pc && esr & INSTRUCTION_ISS == 0;
                let [from_el0, from_el1] = INSTRUCTION_ABORTS;
                let class = if access.privilege() == Privilege::El0 { from_el0 } else { from_el1 };
                if exact && esr >> EC == class { kind } else { Kind::Exception }
            }
            kind @ (Kind::Fault(..) | Kind::Alignment) => {
                let told = match access {
                    Access::Atomic | Access::Exclusive | Access::Dc | Access::At => true,
                    access => (esr & WNR != 0) == access.stores(),
                };
                // Any byte of it may be the one, and across a seam any in either leaf.
                if offset < 8 && told && esr >> EC == DATA_ABORT { kind } else { Kind::Exception }
            }
            // Across a seam it may be in either word.
            Kind::Conflict if far & !7 != va & !7 && far & !7 != (va + 7) & !7 => Kind::Exception,
            kind => kind,
        }
    }

    /// Makes an access of whatever kind; says too whether it was an exclusive one that did not store.
    #[inline(never)]
    fn probe(&self, phase: Phase, va: u64, token: u64) -> (probe::Probed, bool) {
        let mut failed = false;
        // SAFETY: the vectors of every vCPU resume probes. The spot is in the window, behind which are frames that
        // hold nothing but contents; where they are called, they are code that changes x0 and returns (at EL0: by SVC). hv runs no
        // instance that swaps on a CPU without FEAT_LSE, and PAR_EL1 is nobody's.
        let probed = unsafe {
            match self.access {
                Access::Load | Access::Misaligned => probe::load(va),
                Access::Unaligned => {
                    // The TLB is to hold what is before the seam: an access that faults behind it might not bring that.
                    if phase != Phase::During {
                        probe::load(va & !7);
                    }
                    probe::load(va)
                }
                Access::Store => probe::store(va, token),
                Access::Fetch => probe::fetch(va),
                Access::UserFetch => probe::user_fetch(va),
                Access::UserLoad => probe::user_load(va),
                Access::UserStore => probe::user_store(va, token),
                Access::OtherLoad | Access::OtherStore => {
                    // The TLB is to hold the old mapping for the usual ASID or VMID too, which must not serve the other one.
                    if phase == Phase::Before {
                        probe::load(va);
                    }
                    self.work.window.with_other_asid(|| match self.access {
                        Access::OtherLoad => probe::load(va),
                        _ => probe::store(va, token),
                    })
                }
                Access::Atomic => probe::swap(va, token),
                Access::Exclusive => {
                    let (probed, did) = probe::exclusive(va, token);
                    failed = did;
                    probed
                }
                Access::Dc => probe::clean(va),
                Access::At => self.translated(probe::translate(va)),
                Access::Walk => {
                    self.drop_entries(va, true);
                    probe::load(va)
                }
                Access::Tables => {
                    // In odd rounds what leads to the table is left, in even ones the table is looked up as well.
                    self.drop_entries(va, self.round & 1 == 0);
                    probe::load(va)
                }
            }
        };
        (probed, failed)
    }

    /// One access, counted. What most of them are is short, and the rest out of the way: a round is a few of these.
    #[inline]
    fn access(&mut self, phase: Phase) {
        let va = self.va();
        self.made += 1;
        let token = token(self.made);
        let (probed, failed) = match self.access {
            _ if self.work.window.at_el2 => self.probe_at_el2(phase, va, token),
            // SAFETY: as in `probe`.
            Access::Load | Access::Misaligned => (unsafe { probe::load(va) }, false),
            _ => self.probe(phase, va, token),
        };
        self.settle(phase, self.access, va, &probed);
        let kind = if probed.esr == 0 {
            let alike = self.alike[(self.round & 1) as usize];
            self.work.window.tell(self.access, phase, self.spot, &Made { probed, token, failed }, alike)
        } else {
            self.exception(self.access, va, probed.esr)
        };
        // A store that reached neither mapping went somewhere, as a rule.
        let escaped = if kind == Kind::Lost { self.work.window.escaped(self.spot) } else { None };
        let (kind, probed) = match escaped {
            Some(value) => (Kind::Escaped, probe::Probed { value, ..probed }),
            None => (kind, probed),
        };
        if matches!(kind, Kind::Old | Kind::New | Kind::Same) {
            let marks = Marks::of(self.access);
            self.left |= if failed { marks - Marks::DIRTY } else { marks };
        }
        self.seen_new |= kind == Kind::New;
        // Afterwards the old mapping's effect is wrong in itself, whatever was seen before it.
        let back = kind == Kind::Old && self.seen_new && phase == Phase::During;
        self.count(phase, if back { Kind::Reordered } else { kind }, probed);
    }

    #[inline]
    fn count(&self, phase: Phase, kind: Kind, probed: probe::Probed) {
        self.cpu.tally.count(phase, kind, || {
            let (far, pc) = match probed.esr {
                0 => (self.va(), 0),
                _ => (self.cpu.fault_address.load(Relaxed), self.cpu.fault_pc.load(Relaxed)),
            };
            First { esr: probed.esr, far, pc, round: self.round - 1, value: probed.value, ..First::default() }
        });
    }
}

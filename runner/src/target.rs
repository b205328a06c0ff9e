//! A machine that can be booted, and how a plan is carried through on it.
//!
//! A platform (`platform/`) knows how to start a machine and to end it, and hands over the bytes of its console.
//! Everything else is the same for all of them and stands here: reading records, noticing that nothing comes any
//! more, blaming the instance that was running, and booting again with the instances that are left.
//!
//! # When a machine falls silent
//! The hypervisor ends a payload that hangs, and says so. If it cannot (the machine itself stopped), no record comes
//! within the instance's time and some grace. The machine is then ended from outside, the instance that had started
//! is counted as hung, and the machine boots again with the others. The same holds where the machine goes down in the
//! middle of an instance, except by somebody's hand: then the run ends, and what was collected stays.
//!
//! # When a machine has several types of CPU
//! The hypervisor runs every instance on every type of them, a type being a MIDR. So each of them has a list of its own
//! of what is left; where the lists differ, a boot is for one type only.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use vmsa::{BbmLevel, Instance, outcome::End};
use wire::{
    frame::{self, Reader},
    plan::Settings,
    record::{self, Finished, Id, Record, Text},
};

use crate::{
    cpu_names, guest,
    plan::Plan,
    results::{self, Hex},
};

/// How long a machine may say nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Between being started and its first record.
    pub boot: Duration,
    /// How much later than the watchdog a record may come before the machine counts as stopped.
    pub grace: Duration,
}

/// How often the request to stop is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Lines of the console that a failure shows.
const TAIL: usize = 12;

/// Boots in a row that bring no result before the machine is given up.
const FRUITLESS_BOOTS: u32 = 2;

/// A machine that can be booted, any number of times.
pub trait Target: Sync {
    /// The platform's name for its CPU, or for the machine if that has several types of them.
    fn cpu(&self) -> &str;

    /// Of a machine with several types of CPU, the name of the one with this MIDR_EL1.
    fn cpu_with(&self, midr: u64) -> String {
        cpu_names::describe(midr)
    }

    /// What the result file says of the platform.
    fn platform(&self) -> results::Platform;

    /// How the guest writes to its console fastest.
    fn console(&self) -> wire::plan::Console;

    /// How long it may say nothing.
    fn patience(&self) -> Patience;

    /// Starts the machine with the Image and this bundle.
    ///
    /// # Errors
    /// What the operating system says if it cannot be started.
    fn boot(&self, bundle: &[u8]) -> Result<Box<dyn Machine>, BootError>;
}

/// A machine that is running. Dropping it ends it.
pub trait Machine {
    /// Waits at most `wait` for the next bytes of its console.
    fn listen(&mut self, wait: Duration) -> Heard;
}

/// A machine of which the console is kept, byte for byte, one boot behind the other.
pub struct Kept<'a> {
    target: Box<dyn Target + 'a>,
    file: PathBuf,
}

impl<'a> Kept<'a> {
    /// `target`, with its console in `file`.
    #[must_use]
    pub fn new(target: Box<dyn Target + 'a>, file: PathBuf) -> Self {
        Self { target, file }
    }

    fn open(&self) -> io::Result<File> {
        if let Some(dir) = self.file.parent() {
            fs::create_dir_all(dir)?;
        }
        File::options().create(true).append(true).open(&self.file)
    }
}

impl Target for Kept<'_> {
    fn cpu(&self) -> &str {
        self.target.cpu()
    }

    fn cpu_with(&self, midr: u64) -> String {
        self.target.cpu_with(midr)
    }

    fn platform(&self) -> results::Platform {
        self.target.platform()
    }

    fn console(&self) -> wire::plan::Console {
        self.target.console()
    }

    fn patience(&self) -> Patience {
        self.target.patience()
    }

    fn boot(&self, bundle: &[u8]) -> Result<Box<dyn Machine>, BootError> {
        let what = || format!("the machine: its console cannot be kept in {}", self.file.display());
        let file = self.open().map_err(|source| BootError { what: what(), source })?;
        Ok(Box::new(Keeping { machine: self.target.boot(bundle)?, file: Some(file), path: self.file.clone() }))
    }
}

/// A machine of [`Kept`].
struct Keeping {
    machine: Box<dyn Machine>,
    file: Option<File>,
    path: PathBuf,
}

impl Machine for Keeping {
    fn listen(&mut self, wait: Duration) -> Heard {
        let heard = self.machine.listen(wait);
        if let (Heard::Bytes(bytes), Some(file)) = (&heard, &mut self.file)
            && let Err(error) = file.write_all(bytes)
        {
            // The results are worth more.
            eprintln!("shatter: {}: the console is not kept any further: {error}", self.path.display());
            self.file = None;
        }
        heard
    }
}

/// What came from a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The next bytes of the console.
    Bytes(Vec<u8>),
    /// Nothing within the time.
    Silence,
    /// The machine is off; nothing will come any more.
    Off(Off),
}

/// How a machine went off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Off {
    /// What there is to say about it, in a phrase: `exit status: 1`, and what it complained of.
    pub how: String,
    /// Whether somebody ended it from outside.
    pub killed: bool,
}

/// A machine could not be started.
#[derive(Debug, thiserror::Error)]
#[error("failed to start {what}: {source}")]
pub struct BootError {
    /// The program or device.
    pub what: String,
    /// Why.
    pub source: io::Error,
}

/// Why a plan was not carried through. What was reported before stays valid.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be started.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The hypervisor cannot go on.
    #[error("the hypervisor gave up: {text}")]
    Fatal {
        /// What it said.
        text: String,
    },
    /// Boots brought no results.
    #[error(
        "no result in {FRUITLESS_BOOTS} boots: {how}; {}",
        if tail.is_empty() { "its console stayed empty".to_owned() } else { format!("its console ended with\n{tail}") }
    )]
    Fruitless {
        /// How the last one ended.
        how: String,
        /// The last lines of its console.
        tail: String,
    },
    /// Somebody ended the machine.
    #[error("the machine was ended from outside ({how}); what it reported is kept")]
    Killed {
        /// How.
        how: String,
    },
    /// The user asked to stop.
    #[error("stopped on request; what was reported is kept")]
    Stopped,
    /// Results could not be stored.
    #[error(transparent)]
    Results(#[from] results::Error),
}

/// What happens while a plan is carried through.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The machine booted and read its plan: its types of CPU, in order of their first CPUs, and its SMMUs. Comes once for each boot,
    /// before anything of an instance.
    Booted(&'a [results::Cpu], &'a [results::Smmu]),
    /// An instance is about to start.
    Started(&'a Id),
    /// An instance ended whose first vCPU was on this type of CPU, a place in the list of [`Booted`](Self::Booted). Comes
    /// once for each instance and type.
    Finished(&'a Finished, usize),
    /// A line from the hypervisor or a payload.
    Log(&'a str),
    /// A line of the console's text.
    Text(&'a str),
    /// A record was damaged on its way.
    Lost,
}

/// Who listens to events; an error ends the run.
pub type Sink<'a> = dyn FnMut(Event<'_>) -> Result<(), results::Error> + 'a;

/// Carries `plan` through on `target`, booting it as often as it takes.
///
/// # Errors
/// [`Failure`]. Every instance that was handed to `sink` as finished stays so.
pub fn drive(target: &dyn Target, plan: &Plan, stop: &AtomicBool, sink: &mut Sink<'_>) -> Result<(), Failure> {
    drive_until(target, plan, &|| stop.load(Ordering::Relaxed), sink)
}

/// [`drive`], which asks `stop` several times a second whether it shall end with [`Failure::Stopped`].
///
/// # Errors
/// As there.
pub fn drive_until(
    target: &dyn Target,
    plan: &Plan,
    stop: &dyn Fn() -> bool,
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let mut todo = Todo { asked: &plan.instances, midr: plan.settings.midr, left: vec![], strangers: false, done: 0 };
    let mut fruitless = 0;
    while let Some(part) = todo.next(plan) {
        let before = todo.done;
        let mut boot = Boot::new(target, &mut todo, sink);
        let over = boot.run(&part, stop)?;
        let how = match over {
            Over::Bye => "the machine was done, but the records of some instances were lost".to_owned(),
            Over::Killed(how) if boot.todo.next(plan).is_none() => how,
            Over::Killed(how) => return Err(Failure::Killed { how }),
            Over::Fatal(text) if boot.started.is_none() => {
                return Err(Failure::Fatal { text });
            }
            Over::Fatal(text) => format!("the hypervisor gave up: {text}"),
            Over::Silent => "the machine stopped answering".to_owned(),
            Over::Off(how) => format!("the machine went down: {how}"),
        };
        if let Some(culprit) = boot.started {
            boot.blame(culprit, &how)?;
        }
        let tail = boot.tail();
        fruitless = if todo.done > before { 0 } else { fruitless + 1 };
        if fruitless == FRUITLESS_BOOTS {
            return Err(Failure::Fruitless { how, tail });
        }
    }
    Ok(())
}

/// How a boot ended.
enum Over {
    /// The hypervisor said that the plan is through.
    Bye,
    /// No record came within the time.
    Silent,
    /// The hypervisor cannot go on.
    Fatal(String),
    /// The machine went off.
    Off(String),
    /// Somebody ended it.
    Killed(String),
}

/// What has not finished.
struct Todo<'a> {
    asked: &'a [Instance],
    /// The type of CPU that it is asked for, if not all.
    midr: Option<u64>,
    /// By type, of those that have been met.
    left: Vec<(u64, Vec<Instance>)>,
    /// Whether an instance was on a CPU of which nothing is known: there may be a type that has not been met.
    strangers: bool,
    /// How many have finished.
    done: u64,
}

impl Todo<'_> {
    /// The part of `plan` for the next boot.
    fn next(&self, plan: &Plan) -> Option<Plan> {
        let with = |midr, instances| Plan { settings: Settings { midr, ..plan.settings }, instances };
        if self.left.is_empty() {
            return Some(with(self.midr, self.asked.to_vec())).filter(|plan| !plan.instances.is_empty());
        }
        let Some((midr, left)) = self.left.iter().find(|(_, left)| !left.is_empty()) else {
            return self.strangers.then(|| with(self.midr, self.asked.to_vec()));
        };
        let same = self.left.iter().all(|(_, other)| other == left);
        Some(with(if same { self.midr } else { Some(*midr) }, left.clone()))
    }

    /// There are these types of CPU.
    fn meet(&mut self, types: &[results::Cpu]) {
        self.strangers = false;
        for Hex(midr) in types.iter().map(|cpu| cpu.midr).filter(|cpu| self.midr.is_none_or(|midr| midr == cpu.0)) {
            if !self.left.iter().any(|(known, _)| *known == midr) {
                self.left.push((midr, self.asked.to_vec()));
            }
        }
    }

    /// An instance finished on a type of CPU; whether it was asked for, and not reported before.
    fn finish(&mut self, midr: u64, id: &str) -> bool {
        let left = self.left.iter_mut().find(|(known, _)| *known == midr).map(|(_, left)| left);
        let position = |left: &Vec<Instance>| left.iter().position(|instance| instance.to_string() == id);
        let Some((left, at)) = left.and_then(|left| position(left).map(|at| (left, at))) else { return false };
        left.remove(at);
        self.done += 1;
        true
    }
}

/// An instance that started and has not finished.
#[derive(Clone, Copy)]
struct Started {
    seq: u32,
    id: Id,
    cpu: u8,
}

/// One boot.
struct Boot<'a, 'p, 's> {
    target: &'a dyn Target,
    todo: &'a mut Todo<'p>,
    sink: &'a mut Sink<'s>,
    started: Option<Started>,
    /// The types of CPU, in order of their first ones.
    types: Vec<results::Cpu>,
    /// For the index of a CPU the place of its type among them.
    type_of: BTreeMap<u8, usize>,
    smmus: Vec<results::Smmu>,
    announced: bool,
    tail: VecDeque<String>,
}

impl<'a, 'p, 's> Boot<'a, 'p, 's> {
    fn new(target: &'a dyn Target, todo: &'a mut Todo<'p>, sink: &'a mut Sink<'s>) -> Self {
        let (types, type_of) = (vec![], BTreeMap::new());
        Self {
            target,
            todo,
            sink,
            started: None,
            types,
            type_of,
            smmus: vec![],
            announced: false,
            tail: VecDeque::new(),
        }
    }

    fn run(&mut self, plan: &Plan, stop: &dyn Fn() -> bool) -> Result<Over, Failure> {
        let text = plan.text(&plan.instances, self.target.console());
        let bundle = guest::bundle(&text, &plan.instances)
            .map_err(|source| BootError { what: "the machine: its bundle".to_owned(), source })?;
        let mut machine = self.target.boot(&bundle)?;
        let mut reader = Reader::new();
        let mut heard = Instant::now();
        let Patience { boot, grace } = self.target.patience();
        let mut patience = boot;
        loop {
            if stop() {
                return Err(Failure::Stopped);
            }
            match machine.listen(TICK) {
                Heard::Bytes(bytes) => {
                    let records = reader.statistics().records;
                    let over = self.read(|mut sink| reader.push(&bytes, &mut sink))?;
                    if reader.statistics().records > records {
                        (heard, patience) =
                            (Instant::now(), Duration::from_millis(plan.settings.timeout_ms.get()) + grace);
                    }
                    if let Some(over) = over {
                        return Ok(over);
                    }
                }
                Heard::Silence if heard.elapsed() > patience => return Ok(Over::Silent),
                Heard::Silence => {}
                Heard::Off(Off { how, killed }) => {
                    let over = self.read(|mut sink| reader.finish(&mut sink))?;
                    return Ok(over.unwrap_or(if killed { Over::Killed(how) } else { Over::Off(how) }));
                }
            }
        }
    }

    /// Reads events from `push` until one of them ends the boot.
    fn read(&mut self, push: impl FnOnce(&mut dyn FnMut(frame::Event<'_>))) -> Result<Option<Over>, Failure> {
        let mut result = Ok(None);
        push(&mut |event| {
            if matches!(result, Ok(None)) {
                result = self.event(event);
            }
        });
        Ok(result?)
    }

    fn event(&mut self, event: frame::Event<'_>) -> Result<Option<Over>, results::Error> {
        match event {
            frame::Event::Record(record) => return self.record(&record),
            frame::Event::Text(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                if self.tail.len() == TAIL {
                    self.tail.pop_front();
                }
                self.tail.push_back(text.trim_end().to_owned());
                (self.sink)(Event::Text(&text))?;
            }
            frame::Event::Skipped { .. } | frame::Event::Damaged { .. } => (self.sink)(Event::Lost)?,
        }
        Ok(None)
    }

    fn record(&mut self, record: &Record<'_>) -> Result<Option<Over>, results::Error> {
        // What is about instances needs a CPU that they can be told of; only damage can keep its record back.
        let known = match record {
            Record::Plan { .. } => !self.types.is_empty(),
            Record::Start { cpu, .. } | Record::Finished(Finished { cpu, .. }) => self.type_of.contains_key(cpu),
            _ => true,
        };
        if !known {
            self.todo.strangers = !self.types.is_empty();
            return Ok(Some(Over::Off("the record of its CPU was lost".to_owned())));
        }
        if matches!(record, Record::Plan { .. } | Record::Start { .. } | Record::Finished(_)) && !self.announced {
            self.announce()?;
        }
        match record {
            Record::Cpu(cpu) => self.cpu(cpu),
            Record::Smmu(smmu) => self.smmus.push(results::Smmu::of(smmu)),
            Record::Start { seq, id, cpu } => {
                self.started = Some(Started { seq: *seq, id: *id, cpu: *cpu });
                (self.sink)(Event::Started(id))?;
            }
            Record::Finished(finished) => {
                self.started = None;
                self.finished(finished)?;
            }
            Record::Log { text } => (self.sink)(Event::Log(text))?,
            Record::Fatal { text } => return Ok(Some(Over::Fatal(text.to_string()))),
            Record::Bye { .. } => return Ok(Some(Over::Bye)),
            Record::Hello { .. } | Record::Platform(_) | Record::Plan { .. } => {}
        }
        Ok(None)
    }

    /// Says what booted; no more CPUs will be told of.
    fn announce(&mut self) -> Result<(), results::Error> {
        if self.types.len() > 1 {
            self.types.iter_mut().for_each(|cpu| cpu.name = self.target.cpu_with(cpu.midr.0));
        }
        self.todo.meet(&self.types);
        self.announced = true;
        (self.sink)(Event::Booted(&self.types, &self.smmus))
    }

    fn cpu(&mut self, cpu: &record::Cpu<'_>) {
        let known = self.types.iter().position(|first| first.midr == Hex(cpu.midr));
        self.type_of.insert(cpu.index, known.unwrap_or(self.types.len()));
        if let Some(known) = known {
            self.types[known].mpidrs.push(Hex(cpu.mpidr));
            return;
        }
        let registers: BTreeMap<_, _> =
            cpu.registers.iter().map(|register| (register.name.to_owned(), Hex(register.value))).collect();
        let mmfr2 = registers.get("ID_AA64MMFR2_EL1").map_or(0, |value| value.0);
        self.types.push(results::Cpu {
            name: self.target.cpu().to_owned(),
            midr: Hex(cpu.midr),
            revidr: Hex(cpu.revidr),
            mpidrs: vec![Hex(cpu.mpidr)],
            bbm: BbmLevel::from_mmfr2(mmfr2),
            registers,
        });
    }

    /// Hands on a finished instance, unless it was not asked for: a console may repeat a line.
    fn finished(&mut self, finished: &Finished) -> Result<(), results::Error> {
        let number = self.type_of[&finished.cpu];
        match self.todo.finish(self.types[number].midr.0, &finished.id) {
            true => (self.sink)(Event::Finished(finished, number)),
            false => Ok(()),
        }
    }

    /// Counts an instance as hung that took the machine with it.
    fn blame(&mut self, culprit: Started, how: &str) -> Result<(), results::Error> {
        let mut reason = Text::new();
        for c in how.chars() {
            if reason.try_push(c).is_err() {
                break;
            }
        }
        let needs = culprit.id.parse().ok().map(|instance: Instance| instance.needs());
        let cap = needs.and_then(|needs| needs.cap);
        // Which CPUs the other vCPUs were on is not known: what is sure is what holds on all of them.
        let all = self.types.iter().map(|cpu| cpu.bbm).min();
        let own = self.types[self.type_of[&culprit.cpu]].bbm;
        let bbm = all.filter(|_| needs.is_none_or(|needs| needs.most_cpus > 1)).unwrap_or(own);
        self.finished(&Finished {
            seq: culprit.seq,
            id: culprit.id,
            cpu: culprit.cpu,
            end: End::Watchdog,
            bbm: cap.map_or(bbm, |cap| cap.min(bbm)).number(),
            report: record::Report::default(),
            el2_conflicts: Default::default(),
            registers: None,
            contained: 0,
            setup_ns: 0,
            run_ns: 0,
            reason: Some(reason),
            retried: None,
        })
    }

    fn tail(&mut self) -> String {
        self.tail.make_contiguous().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::Mutex};

    use super::*;

    /// What a fake machine does in one boot.
    enum Step {
        Say(Vec<u8>),
        /// Nothing, as long as the listener likes.
        Quiet,
        Off {
            killed: bool,
        },
    }

    /// Boots as the script says; each boot sees which instances its plan asked for.
    struct Fake<F> {
        script: F,
        boots: Mutex<Vec<Vec<String>>>,
    }

    impl<F: Fn(usize, &[String]) -> Vec<Step>> Fake<F> {
        fn new(script: F) -> Self {
            Self { script, boots: Mutex::new(vec![]) }
        }

        fn boots(&self) -> Vec<Vec<String>> {
            self.boots.lock().expect("nobody panicked").clone()
        }
    }

    impl<F: Fn(usize, &[String]) -> Vec<Step> + Sync> Target for Fake<F> {
        fn cpu(&self) -> &str {
            "fake"
        }

        fn platform(&self) -> results::Platform {
            unreachable!("only result files ask")
        }

        fn console(&self) -> wire::plan::Console {
            wire::plan::Console::Uart
        }

        fn patience(&self) -> Patience {
            Patience { boot: Duration::from_millis(20), grace: Duration::from_millis(20) }
        }

        fn boot(&self, bundle: &[u8]) -> Result<Box<dyn Machine>, BootError> {
            // The plan stands in the archive as it is.
            let text = String::from_utf8_lossy(bundle);
            let asked: Vec<String> = text
                .lines()
                .filter_map(|line| line.strip_prefix("run ").or(line.strip_prefix("midr")))
                .map(str::to_owned)
                .collect();
            let mut boots = self.boots.lock().expect("nobody panicked");
            let steps = (self.script)(boots.len(), &asked);
            boots.push(asked);
            Ok(Box::new(Script(steps.into())))
        }
    }

    struct Script(VecDeque<Step>);

    impl Machine for Script {
        fn listen(&mut self, _: Duration) -> Heard {
            match self.0.pop_front() {
                Some(Step::Say(bytes)) => Heard::Bytes(bytes),
                Some(Step::Quiet) => {
                    self.0.push_front(Step::Quiet);
                    std::thread::sleep(Duration::from_millis(1));
                    Heard::Silence
                }
                Some(Step::Off { killed }) => Heard::Off(Off { how: "its script ended".to_owned(), killed }),
                None => Heard::Off(Off { how: "its script ended".to_owned(), killed: false }),
            }
        }
    }

    fn say(record: &Record<'_>) -> Step {
        let mut line = vec![0; frame::MAX_LINE];
        let line = frame::encode_line(record, &mut line).expect("it fits");
        Step::Say(format!("{line}\n").into_bytes())
    }

    fn hello() -> Step {
        cpu(0, 7, 2)
    }

    fn cpu(index: u8, midr: u64, bbm: u64) -> Step {
        let registers = [record::Register { name: "ID_AA64MMFR2_EL1", value: bbm << 52 }].into_iter().collect();
        say(&Record::Cpu(record::Cpu { index, mpidr: index.into(), midr, revidr: 0, registers }))
    }

    fn start(seq: u32, id: &str) -> Step {
        start_on(0, seq, id)
    }

    fn start_on(cpu: u8, seq: u32, id: &str) -> Step {
        say(&Record::Start { seq, id: Id::from(id).expect("short"), cpu })
    }

    fn finished(seq: u32, id: &str) -> Step {
        finished_on(0, seq, id)
    }

    fn finished_on(cpu: u8, seq: u32, id: &str) -> Step {
        say(&Record::Finished(Finished {
            seq,
            id: Id::from(id).expect("short"),
            cpu,
            end: End::Done,
            bbm: 2,
            report: record::Report { rounds: 1, ..Default::default() },
            el2_conflicts: Default::default(),
            registers: None,
            contained: 0,
            setup_ns: 1,
            run_ns: 1,
            reason: None,
            retried: None,
        }))
    }

    const IDS: [&str; 3] = ["selftest.quiet", "selftest.clean", "el1.split.4k-l2.direct.load-remote.cap1"];

    /// Drives a plan of [`IDS`] and returns what came of it, with `id end bbm` of every finished instance.
    fn run(target: &dyn Target) -> (Result<(), Failure>, Vec<String>) {
        let settings =
            Settings { timeout_ms: const { std::num::NonZeroU64::new(1).expect("not 0") }, ..Default::default() };
        let plan = Plan { settings, instances: IDS.iter().map(|id| id.parse().expect("an id")).collect() };
        let (ends, mut types) = (RefCell::new(vec![]), vec![]);
        let result = drive(target, &plan, &AtomicBool::new(false), &mut |event| {
            match event {
                Event::Booted(booted, _) => types = booted.iter().map(|cpu| cpu.midr).collect(),
                Event::Finished(finished, cpu) => {
                    let on = if types.len() > 1 { format!(" on {}", types[cpu]) } else { String::new() };
                    ends.borrow_mut().push(format!("{} {} {}{on}", finished.id, finished.end, finished.bbm));
                }
                _ => {}
            }
            Ok(())
        });
        (result, ends.into_inner())
    }

    #[test]
    fn a_plan_is_carried_through_in_one_boot() {
        let fake = Fake::new(|_, asked| {
            let mut steps = vec![hello()];
            for (i, id) in asked.iter().enumerate() {
                let i = u32::try_from(i).expect("few");
                // A console that says everything twice invents nothing.
                steps.extend([start(i, id), finished(i, id), finished(i, id)]);
            }
            steps.push(say(&Record::Bye { finished: 3 }));
            steps
        });
        let (result, ends) = run(&fake);
        result.expect("all went well");
        assert_eq!(ends, IDS.map(|id| format!("{id} done 2")));
        assert_eq!(fake.boots().len(), 1);
    }

    #[test]
    fn an_instance_that_takes_the_machine_down_is_blamed_and_the_others_run() {
        let fake = Fake::new(|boot, asked| match boot {
            0 => vec![hello(), start(0, &asked[0]), finished(0, &asked[0]), start(1, &asked[1])],
            1 => vec![hello(), start(0, &asked[0])],
            _ => unreachable!("nothing is left"),
        });
        let (result, ends) = run(&fake);
        result.expect("all instances have an end");
        // The level that was presented is the lower of the CPU's and the instance's.
        assert_eq!(
            ends,
            [format!("{} done 2", IDS[0]), format!("{} watchdog 2", IDS[1]), format!("{} watchdog 1", IDS[2])]
        );
        assert_eq!(fake.boots(), [&IDS[..], &IDS[2..]]);
    }

    #[test]
    fn an_instance_after_which_nothing_comes_is_blamed_and_the_others_run() {
        let fake = Fake::new(|boot, asked| match boot {
            0 => vec![hello(), start(0, &asked[0]), Step::Quiet],
            _ => [hello()].into_iter().chain((0..).zip(asked).map(|(i, id)| finished(i, id))).collect(),
        });
        let (result, ends) = run(&fake);
        result.expect("all instances have an end");
        assert_eq!(
            ends,
            [format!("{} watchdog 2", IDS[0]), format!("{} done 2", IDS[1]), format!("{} done 2", IDS[2])]
        );
    }

    /// Two CPUs of two types, of BBM levels 2 and 1, announced by their records.
    fn two() -> Vec<Step> {
        vec![cpu(0, 7, 2), cpu(1, 8, 1), say(&Record::Plan { count: 3, seed: 0, crc: 0 })]
    }

    #[test]
    fn every_type_of_cpu_has_its_own_results() {
        let fake = Fake::new(|_, asked| {
            let of = |cpu| (0..).zip(asked).map(move |(i, id)| finished_on(cpu, i, id));
            two().into_iter().chain(of(0)).chain(of(1)).chain([say(&Record::Bye { finished: 6 })]).collect()
        });
        let (result, ends) = run(&fake);
        result.expect("all went well");
        let of = |midr: &str| IDS.map(|id| format!("{id} done 2 on {midr}"));
        assert_eq!(ends, [of("0x7"), of("0x8")].concat());
        assert_eq!(fake.boots().len(), 1);
    }

    #[test]
    fn an_instance_that_hangs_one_type_of_cpu_is_blamed_there_and_runs_on_the_other() {
        let fake = Fake::new(|boot, asked| {
            let steps: Vec<Step> = match boot {
                0 => vec![start(0, &asked[0]), finished(0, &asked[0]), start(1, &asked[1])],
                // Only what the first type has left, then what the second has.
                1 => vec![finished(0, &asked[1])],
                2 => vec![finished_on(1, 0, &asked[1]), finished_on(1, 1, &asked[2]), start_on(1, 2, &asked[3])],
                _ => unreachable!("nothing is left"),
            };
            two().into_iter().chain(steps).collect()
        });
        let (result, ends) = run(&fake);
        result.expect("all instances have an end on both");
        let on = |n: usize, end: &str, midr: &str| format!("{} {end} on {midr}", IDS[n]);
        // The first two are for one CPU, and count by its level; the third runs on two, and counts by the least.
        assert_eq!(
            ends,
            [
                on(0, "done 2", "0x7"),
                on(1, "watchdog 2", "0x7"),
                on(2, "done 2", "0x7"),
                on(0, "done 2", "0x8"),
                on(1, "done 2", "0x8"),
                on(2, "watchdog 1", "0x8")
            ]
        );
        assert_eq!(fake.boots(), [&IDS[..], &[" 0x7", IDS[2]], &[" 0x8", IDS[0], IDS[1], IDS[2]]]);
    }

    #[test]
    fn a_result_of_a_cpu_whose_record_was_lost_is_fetched_again() {
        let fake = Fake::new(|boot, asked| {
            let mut steps = two();
            if boot == 0 {
                steps.remove(1);
            }
            for cpu in 0..2 {
                steps.extend((0..).zip(asked).map(|(i, id)| finished_on(cpu, i, id)));
            }
            steps
        });
        let (result, ends) = run(&fake);
        result.expect("the second boot knows both");
        assert_eq!(ends.len(), 6);
        assert_eq!(fake.boots().len(), 2);
    }

    #[test]
    fn lost_results_are_fetched_by_another_boot() {
        let fake = Fake::new(|boot, asked| {
            let mut steps = vec![hello()];
            // In the first boot the last result is torn.
            for (i, id) in asked.iter().enumerate().take(if boot == 0 { 2 } else { 3 }) {
                steps.push(finished(u32::try_from(i).expect("few"), id));
            }
            steps.push(Step::Say(b"#@ AAAA\n".to_vec()));
            steps.push(say(&Record::Bye { finished: 3 }));
            steps
        });
        let (result, ends) = run(&fake);
        result.expect("the second boot has what the first lost");
        assert_eq!(ends.len(), 3);
        assert_eq!(fake.boots(), [&IDS[..], &IDS[2..]]);
    }

    #[test]
    fn a_machine_that_brings_nothing_is_given_up_with_its_last_words() {
        let fake = Fake::new(|_, _| vec![Step::Say(b"no RAM here\n".to_vec())]);
        let (result, ends) = run(&fake);
        let message = result.expect_err("there is no result").to_string();
        assert!(message.contains("no RAM here") && message.contains("its script ended"), "{message}");
        assert!(ends.is_empty());
        assert_eq!(fake.boots().len(), 2);
    }

    #[test]
    fn what_a_killed_machine_reported_is_kept() {
        let fake = Fake::new(|_, asked| {
            vec![hello(), start(0, &asked[0]), finished(0, &asked[0]), start(1, &asked[1]), Step::Off { killed: true }]
        });
        let (result, ends) = run(&fake);
        assert!(matches!(result, Err(Failure::Killed { .. })), "{result:?}");
        assert_eq!(ends, [format!("{} done 2", IDS[0])]);
    }

    #[test]
    fn a_hypervisor_that_gives_up_before_any_instance_is_not_tried_again() {
        let text = Text::from("the plan is cut short").expect("short");
        let fake = Fake::new(|_, _| vec![hello(), say(&Record::Fatal { text })]);
        let (result, _) = run(&fake);
        assert!(result.expect_err("it gave up").to_string().contains("the plan is cut short"));
        assert_eq!(fake.boots().len(), 1);
    }

    #[test]
    fn a_request_to_stop_is_heard_while_nothing_happens() {
        let fake = Fake::new(|_, _| vec![hello(), Step::Quiet]);
        let plan = Plan { settings: Settings::default(), instances: vec!["selftest.quiet".parse().expect("an id")] };
        let result = drive(&fake, &plan, &AtomicBool::new(true), &mut |_| Ok(()));
        assert!(matches!(result, Err(Failure::Stopped)));
    }
}

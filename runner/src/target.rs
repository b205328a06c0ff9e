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

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use vmsa::{BbmLevel, Instance, outcome::End};
use wire::{
    frame::{self, Reader},
    record::{self, Finished, Id, Record, Text},
};

use crate::{
    guest,
    plan::Plan,
    results::{self, Hex},
};

/// Longest time between starting a machine and its first record.
const BOOT_TIME: Duration = Duration::from_secs(60);

/// How much later than the watchdog a record may come before the machine counts as stopped. Emulators that share a
/// few cores with others are late by seconds.
const GRACE: Duration = Duration::from_secs(15);

/// How often the request to stop is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Lines of the console that a failure shows.
const TAIL: usize = 12;

/// Boots in a row that bring no result before the machine is given up.
const FRUITLESS_BOOTS: u32 = 2;

/// A machine that can be booted, any number of times.
pub trait Target: Sync {
    /// The platform's name for its CPU, as in the result file.
    fn cpu(&self) -> &str;

    /// What the result file says of the platform.
    fn platform(&self) -> results::Platform;

    /// How the guest writes to its console fastest.
    fn console(&self) -> wire::plan::Console;

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
    pub source: std::io::Error,
}

/// Why a plan was not carried through. What was reported before stays valid.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be started.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The hypervisor cannot go on.
    #[error("the hypervisor on {cpu} gave up: {text}")]
    Fatal {
        /// The CPU.
        cpu: String,
        /// What it said.
        text: String,
    },
    /// Boots brought no results.
    #[error(
        "{cpu} brought no result in {FRUITLESS_BOOTS} boots: {how}; {}",
        if tail.is_empty() { "its console stayed empty".to_owned() } else { format!("its console ended with\n{tail}") }
    )]
    Fruitless {
        /// The CPU.
        cpu: String,
        /// How the last one ended.
        how: String,
        /// The last lines of its console.
        tail: String,
    },
    /// Somebody ended the machine.
    #[error("the machine of {cpu} was ended from outside ({how}); what it reported is kept")]
    Killed {
        /// The CPU.
        cpu: String,
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
    /// The machine booted and read its plan. Comes once for each boot, before anything of an instance.
    Booted(&'a results::Cpu),
    /// An instance is about to start.
    Started(&'a Id),
    /// An instance ended. Comes once for each instance.
    Finished(&'a Finished),
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
    let mut todo = plan.instances.clone();
    let mut fruitless = 0;
    while !todo.is_empty() {
        let before = todo.len();
        let mut boot = Boot::new(target, &mut todo, sink);
        let over = boot.run(plan, stop)?;
        let how = match over {
            Over::Bye => "the machine was done, but the records of some instances were lost".to_owned(),
            Over::Killed(how) if boot.todo.is_empty() => how,
            Over::Killed(how) => return Err(Failure::Killed { cpu: target.cpu().to_owned(), how }),
            Over::Fatal(text) if boot.started.is_none() => {
                return Err(Failure::Fatal { cpu: target.cpu().to_owned(), text });
            }
            Over::Fatal(text) => format!("the hypervisor gave up: {text}"),
            Over::Silent => "the machine stopped answering".to_owned(),
            Over::Off(how) => format!("the machine went down: {how}"),
        };
        if let Some(culprit) = boot.started {
            boot.blame(culprit, &how)?;
        }
        let tail = boot.tail();
        fruitless = if todo.len() < before { 0 } else { fruitless + 1 };
        if fruitless == FRUITLESS_BOOTS {
            return Err(Failure::Fruitless { cpu: target.cpu().to_owned(), how, tail });
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

/// An instance that started and has not finished.
#[derive(Clone, Copy)]
struct Started {
    seq: u32,
    id: Id,
    cpu: u8,
}

/// One boot.
struct Boot<'a, 's> {
    target: &'a dyn Target,
    /// Instances that have not finished.
    todo: &'a mut Vec<Instance>,
    sink: &'a mut Sink<'s>,
    started: Option<Started>,
    /// The boot CPU's kind.
    cpu: Option<results::Cpu>,
    announced: bool,
    tail: VecDeque<String>,
}

impl<'a, 's> Boot<'a, 's> {
    fn new(target: &'a dyn Target, todo: &'a mut Vec<Instance>, sink: &'a mut Sink<'s>) -> Self {
        Self { target, todo, sink, started: None, cpu: None, announced: false, tail: VecDeque::new() }
    }

    fn run(&mut self, plan: &Plan, stop: &AtomicBool) -> Result<Over, Failure> {
        let text = plan.text(self.todo, self.target.console());
        let bundle = guest::bundle(&text, self.todo)
            .map_err(|source| BootError { what: "the machine: its bundle".to_owned(), source })?;
        let mut machine = self.target.boot(&bundle)?;
        let mut reader = Reader::new();
        let mut heard = Instant::now();
        let mut patience = BOOT_TIME;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::Stopped);
            }
            match machine.listen(TICK) {
                Heard::Bytes(bytes) => {
                    let records = reader.statistics().records;
                    let over = self.read(|sink| reader.push(&bytes, sink))?;
                    if reader.statistics().records > records {
                        (heard, patience) = (Instant::now(), Duration::from_millis(plan.settings.timeout_ms.get()) + GRACE);
                    }
                    if let Some(over) = over {
                        return Ok(over);
                    }
                }
                Heard::Silence if heard.elapsed() > patience => return Ok(Over::Silent),
                Heard::Silence => {}
                Heard::Off(Off { how, killed }) => {
                    let over = self.read(|sink| reader.finish(sink))?;
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
        if matches!(record, Record::Plan { .. } | Record::Start { .. } | Record::Finished(_)) && !self.announced {
            let Some(cpu) = &self.cpu else {
                return Ok(Some(Over::Off("the record of its CPU was lost".to_owned())));
            };
            (self.sink)(Event::Booted(cpu))?;
            self.announced = true;
        }
        match record {
            Record::Cpu(cpu) => self.cpu(cpu),
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

    fn cpu(&mut self, cpu: &record::Cpu<'_>) {
        if let Some(first) = &mut self.cpu {
            if first.midr == Hex(cpu.midr) {
                first.mpidrs.push(Hex(cpu.mpidr));
            }
            return;
        }
        let registers: BTreeMap<_, _> =
            cpu.registers.iter().map(|register| (register.name.to_owned(), Hex(register.value))).collect();
        let mmfr2 = registers.get("ID_AA64MMFR2_EL1").map_or(0, |value| value.0);
        self.cpu = Some(results::Cpu {
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
        let position = self.todo.iter().position(|instance| instance.to_string() == finished.id.as_str());
        let Some(position) = position else { return Ok(()) };
        self.todo.remove(position);
        (self.sink)(Event::Finished(finished))
    }

    /// Counts an instance as hung that took the machine with it.
    fn blame(&mut self, culprit: Started, how: &str) -> Result<(), results::Error> {
        let mut reason = Text::new();
        for c in how.chars() {
            if reason.try_push(c).is_err() {
                break;
            }
        }
        let bbm = self.cpu.as_ref().map_or(BbmLevel::L0, |cpu| cpu.bbm);
        let cap = culprit.id.parse().ok().and_then(|instance: Instance| instance.needs().cap);
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
        })
    }

    fn tail(&mut self) -> String {
        self.tail.make_contiguous().join("\n")
    }
}

//! `shatter ingest`: result files from a console that somebody has captured.
//!
//! A terminal program, a console server or a board farm writes down what a machine says, and with it what firmware says, colours,
//! timestamps, and whatever a bad line does to bytes. The records among that are believed for their checksum alone
//! ([`wire::frame`]); what is not in an undamaged record does not become a result, however plainly a KTAP line says it. What
//! was lost is told instead: damaged records, instances that began and have no result, results of which only the KTAP line is left.
//!
//! A file may hold several boots. Those with the same Image, machine, and seed are one run, of which each instance counts once: a
//! stretch that stands there twice says nothing new, and a second result that differs is named and left out. Others are
//! runs of their own, in directories of their own.
//!
//! A log is read line by line and nothing of it kept, so that it may be of any size. Where it was made it cannot tell for sure: that
//! it was silicon is for the caller to say, and is not believed of CPUs that only an emulator has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use vmsa::{BbmLevel, Instance, stress::Pattern};
use wire::{
    frame::{Event, Reader},
    record::{self, Finished, Record},
};

use crate::{
    cli::Exit,
    controls, cpu_names, judge,
    report::{self, RunFormat},
    results::{self, Entry, Evidence, Hex, Platform, ResultFile, Run, Smmu, System, Tool},
    run,
};

/// What a machine was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// A physical CPU: evidence of silicon.
    Board,
    /// Arm's Fixed Virtual Platform: evidence of a model.
    Fvp,
    /// QEMU: evidence of an emulator.
    Qemu,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Board => "board",
            Self::Fvp => "fvp",
            Self::Qemu => "qemu",
        }
    }

    const fn evidence(self) -> Evidence {
        match self {
            Self::Board => Evidence::Silicon,
            Self::Fvp => Evidence::Model,
            Self::Qemu => Evidence::Emulator,
        }
    }
}

/// What is to be read, and what it is.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Captured consoles; `-` is standard input. Each is a run of its own
    #[arg(required = true, value_name = "LOG")]
    pub logs: Vec<PathBuf>,
    /// What the machine was: a log cannot tell
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// Name of its CPU, and of the result file [default: by its MIDR_EL1]
    #[arg(long, value_name = "NAME")]
    pub cpu_name: Option<String>,
    /// Where results are kept; if there are several runs, each has a numbered directory below it
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub out: PathBuf,
    /// How to report the results
    #[arg(long, value_enum, default_value = "human")]
    pub format: RunFormat,
}

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A log cannot be read.
    #[error("failed to read {log}: {source}")]
    Read {
        /// Which.
        log: String,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("{log}: there is no whole result in it\n{account}\nresults stand in lines with `{}`: was the whole console captured?", wire::frame::MARKER.trim_end())]
    Nothing {
        /// Which.
        log: String,
        /// What was found.
        account: String,
    },
    /// What an emulator has shown is not silicon's.
    #[error(
        "{log}: {what} is no silicon: `--kind board` would make its results evidence about a real CPU; say what it was"
    )]
    NotSilicon {
        /// Which.
        log: String,
        /// By what it is known.
        what: String,
    },
    /// A result file cannot be written.
    #[error(transparent)]
    Results(#[from] results::Error),
    /// The report cannot be written.
    #[error("failed to write the report: {0}")]
    Report(#[from] io::Error),
}

impl Error {
    /// How the program ends.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotSilicon { .. } => Exit::Usage,
            _ => Exit::Platform,
        }
    }
}

/// Longest line that is looked at as one; of more, the rest is the next one.
const LONGEST: u64 = 1 << 20;

/// Ids that an account names, of each kind of loss.
const NAMED: usize = 8;

/// A type of CPU of a run, and what it has shown.
struct OfCpu {
    cpu: results::Cpu,
    entries: Vec<Entry>,
    /// Where the entry of an id is.
    places: HashMap<String, usize>,
}

/// Boots of one Image on one machine, with one seed.
struct OneRun {
    version: String,
    seed: Option<u64>,
    machine: String,
    cpus: Vec<OfCpu>,
    smmus: Vec<Smmu>,
    /// Of the plans of its boots, the longest.
    planned: u64,
    nanoseconds: u64,
}

/// What the boot at hand has said of itself.
#[derive(Default)]
struct Boot {
    version: String,
    machine: String,
    /// By index.
    cpus: BTreeMap<u8, results::Cpu>,
    smmus: Vec<Smmu>,
    seed: Option<u64>,
    planned: u64,
    /// The run that it is of, once that is known.
    run: Option<usize>,
    /// The instance that began and has not ended, and the line.
    started: Option<(String, u64)>,
}

/// Something of which a few are named.
#[derive(Default)]
struct Loss {
    count: u64,
    named: Vec<String>,
}

impl Loss {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(what());
        }
    }
}

/// A log while it is read.
#[derive(Default)]
struct Ingest {
    line: u64,
    bytes: u64,
    boots: u64,
    boot: Boot,
    runs: Vec<OneRun>,
    damaged: Loss,
    unknown: u64,
    repeated: u64,
    contradicted: Loss,
    unfinished: Loss,
    /// Results on a CPU whose record was lost.
    strangers: Loss,
    fatal: Loss,
    /// Instances whose KTAP line was seen.
    told: BTreeSet<String>,
}

impl Ingest {
    /// Reads all of `log`.
    fn read(&mut self, log: &mut dyn BufRead) -> io::Result<()> {
        const ESCAPE: u8 = 0x1b;
        let mut reader = Reader::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if log.take(LONGEST).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            self.bytes += line.len() as u64;
            if line.contains(&ESCAPE) {
                line = strip_ansi_escapes::strip(&line);
                line.push(b'\n');
            }
            self.line += u64::from(line.ends_with(b"\n"));
            reader.push(&line, &mut |event| self.event(event));
        }
        reader.finish(&mut |event| self.event(event));
        self.end_boot();
        Ok(())
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Record(record) => self.record(&record),
            Event::Skipped { .. } => self.unknown += 1,
            Event::Damaged { .. } => {
                let line = self.line;
                self.damaged.add(|| format!("line {line}"));
            }
            Event::Text(text) => {
                if let Some(id) = ktap_id(text) {
                    self.told.insert(id);
                }
            }
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        match record {
            Record::Hello { version, .. } => {
                self.end_boot();
                self.boots += 1;
                self.boot.version = version.to_string();
            }
            Record::Platform(platform) => self.boot.machine = platform.model.to_string(),
            Record::Cpu(cpu) => {
                // The Hello of a later boot was lost.
                if self.boot.run.is_some()
                    && self.boot.cpus.get(&cpu.index).is_none_or(|known| known.midr != Hex(cpu.midr))
                {
                    self.end_boot();
                    self.boots += 1;
                }
                self.boot.cpus.insert(cpu.index, described(cpu));
            }
            Record::Smmu(smmu) => self.boot.smmus.push(Smmu::of(smmu)),
            Record::Plan { count, seed, .. } => {
                (self.boot.seed, self.boot.planned) = (Some(*seed), (*count).into());
            }
            Record::Start { id, .. } => {
                self.unfinish();
                self.boot.started = Some((id.to_string(), self.line));
            }
            Record::Finished(finished) => {
                if self.boot.started.as_ref().is_some_and(|(id, _)| *id == *finished.id) {
                    self.boot.started = None;
                }
                self.finished(finished);
            }
            Record::Fatal { text } => self.fatal.add(|| text.to_string()),
            Record::Log { .. } | Record::Bye { .. } => {}
        }
    }

    /// What began has not ended.
    fn unfinish(&mut self) {
        if let Some((id, line)) = self.boot.started.take() {
            self.unfinished.add(|| format!("{id} (line {line})"));
        }
    }

    fn end_boot(&mut self) {
        self.unfinish();
        self.boot = Boot::default();
    }

    /// The run that the boot at hand belongs to.
    fn run(&mut self) -> &mut OneRun {
        let Boot { version, machine, seed, cpus, smmus, planned, run, .. } = &mut self.boot;
        let same = |of: &OneRun| {
            (&of.version, of.seed, &of.machine) == (version, *seed, machine)
                && cpus.values().all(|cpu| of.cpus.iter().any(|known| known.cpu.midr == cpu.midr))
        };
        let number = run.or_else(|| self.runs.iter().position(same)).unwrap_or_else(|| {
            let mut types: Vec<OfCpu> = vec![];
            for cpu in cpus.values() {
                match types.iter_mut().find(|of| of.cpu.midr == cpu.midr) {
                    Some(of) => of.cpu.mpidrs.extend(&cpu.mpidrs),
                    None => types.push(OfCpu { cpu: cpu.clone(), entries: vec![], places: HashMap::new() }),
                }
            }
            self.runs.push(OneRun {
                version: version.clone(),
                seed: *seed,
                machine: machine.clone(),
                cpus: types,
                smmus: smmus.clone(),
                planned: 0,
                nanoseconds: 0,
            });
            self.runs.len() - 1
        });
        *run = Some(number);
        let of = &mut self.runs[number];
        of.planned = of.planned.max(*planned);
        of
    }

    fn finished(&mut self, finished: &Finished) {
        let Some(midr) = self.boot.cpus.get(&finished.cpu).map(|cpu| cpu.midr) else {
            self.strangers.add(|| finished.id.to_string());
            return;
        };
        let entry = judge::judge(finished);
        let line = self.line;
        let run = self.run();
        let of = run.cpus.iter_mut().find(|of| of.cpu.midr == midr).expect("a run has the CPUs of its boots");
        match of.places.get(&entry.case.id).map(|place| &of.entries[*place]) {
            None => {
                of.places.insert(entry.case.id.clone(), of.entries.len());
                of.entries.push(entry);
                run.nanoseconds += finished.setup_ns + finished.run_ns;
            }
            Some(known) if *known == entry => self.repeated += 1,
            Some(_) => self.contradicted.add(|| format!("{} (line {line})", finished.id)),
        }
    }

    /// What was read and what was lost, in plain words.
    fn account(&self) -> String {
        let results: usize = self.runs.iter().flat_map(|run| &run.cpus).map(|of| of.entries.len()).sum();
        let mut text =
            format!("{} bytes, {} lines, {} boots, {results} results", self.bytes, self.line, self.boots.max(1));
        let have = |id: &&String| self.runs.iter().flat_map(|run| &run.cpus).any(|of| of.places.contains_key(*id));
        let mut only_told = Loss::default();
        self.told.iter().filter(|id| !have(id)).for_each(|id| only_told.add(|| id.clone()));
        if self.repeated > 0 {
            let _ = write!(text, "\n  {} results stand there more than once, and count once", self.repeated);
        }
        if self.unknown > 0 {
            let _ = write!(text, "\n  {} records are of a newer version, and were passed over", self.unknown);
        }
        for (loss, what) in [
            (&self.damaged, "records are damaged"),
            (&self.unfinished, "instances began and have no result: they hung, or it was lost"),
            (&only_told, "instances have a KTAP line and no record: that is no result"),
            (&self.strangers, "results are of a CPU whose record was lost, and are left out"),
            (&self.contradicted, "results contradict an earlier one of the same run, which stays"),
            (&self.fatal, "times the hypervisor gave up"),
        ] {
            if loss.count > 0 {
                let more = loss.count - loss.named.len() as u64;
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let _ = write!(text, "\n  {} {what}: {}{more}", loss.count, loss.named.join(", "));
            }
        }
        text
    }

    fn lost(&self) -> u64 {
        self.damaged.count + self.unknown
    }
}

/// The CPU that a record describes.
fn described(cpu: &record::Cpu<'_>) -> results::Cpu {
    let registers: BTreeMap<_, _> =
        cpu.registers.iter().map(|register| (register.name.to_owned(), Hex(register.value))).collect();
    let mmfr2 = registers.get("ID_AA64MMFR2_EL1").map_or(0, |value| value.0);
    results::Cpu {
        name: cpu_names::describe(cpu.midr),
        midr: Hex(cpu.midr),
        revidr: Hex(cpu.revidr),
        mpidrs: vec![Hex(cpu.mpidr)],
        bbm: BbmLevel::from_mmfr2(mmfr2),
        registers,
    }
}

/// The instance that a KTAP line is about.
fn ktap_id(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once("ok ")?;
    let mut words = rest.split_whitespace();
    words.next()?.parse::<u32>().ok()?;
    let id = words.find(|word| *word != "-")?;
    id.parse::<Instance>().ok().map(|_| id.to_owned())
}

impl OneRun {
    /// Its result files.
    fn files(self, args: &Args, log: &str, made: DateTime<Utc>, lost_lines: u64) -> Result<Vec<ResultFile>, Error> {
        /// Models and compatibles of machines that are none.
        const EMULATED: [&str; 2] = ["linux,dummy-virt", "shatter model"];
        let Self { version, seed, machine, mut cpus, smmus, planned, nanoseconds } = self;
        let emulated = EMULATED.contains(&machine.as_str()).then(|| format!("a machine called `{machine}`"));
        // Nobody's number, which QEMU and the model have.
        let nobody = cpus.iter().find(|of| of.cpu.midr.0 >> 24 & 0xff == 0);
        let nobody = nobody.map(|of| format!("a CPU with MIDR_EL1 {}, which has no implementer,", of.cpu.midr));
        if let (Kind::Board, Some(what)) = (args.kind, emulated.or(nobody)) {
            return Err(Error::NotSilicon { log: log.to_owned(), what });
        }
        if let (Some(name), [of]) = (&args.cpu_name, &mut cpus[..]) {
            of.cpu.name.clone_from(name);
        }
        let types: Vec<results::Cpu> = cpus.iter().map(|of| of.cpu.clone()).collect();
        let name = args
            .cpu_name
            .clone()
            .unwrap_or_else(|| if machine.is_empty() { "machine".to_owned() } else { machine.clone() });
        let system = System::of(&name, &types);
        let patterns = (version == env!("CARGO_PKG_VERSION")).then_some(Pattern::VERSION);
        let unknown = || "unknown".to_owned();
        let file = |of: OfCpu| {
            let run = Run {
                seed: Hex(seed.unwrap_or(0)),
                rounds: of.entries.iter().map(|entry| entry.case.rounds).max().unwrap_or(0),
                passes: 1,
                patterns,
                planned: planned.max(of.entries.len() as u64),
                added_controls: vec![],
                start: made,
                duration_ms: nanoseconds / 1_000_000,
                lost_lines,
            };
            let tool = Tool { version: version.clone(), git: unknown(), image: unknown() };
            let platform = Platform {
                kind: args.kind.name().to_owned(),
                version: machine.clone(),
                command_line: format!("shatter ingest {log} --kind {}", args.kind.name()),
                evidence: args.kind.evidence(),
            };
            let mut file = ResultFile {
                machine: system.clone(),
                smmus: smmus.clone(),
                ..ResultFile::new(tool, platform, of.cpu, run)
            };
            for mut entry in of.entries {
                judge::bound(&mut entry.case, args.kind.evidence());
                file.push(entry);
            }
            file.worthless = controls::worthless(&file);
            file
        };
        Ok(cpus.into_iter().filter(|of| !of.entries.is_empty()).map(file).collect())
    }
}

/// Opens `log`, and says when it was written.
fn open(log: &Path) -> io::Result<(Box<dyn BufRead>, DateTime<Utc>)> {
    if log == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), Utc::now()));
    }
    let file = File::open(log)?;
    let written = file.metadata()?.modified().map_or_else(|_| Utc::now(), DateTime::from);
    Ok((Box::new(BufReader::with_capacity(1 << 16, file)), written))
}

/// Reads logs, and keeps and reports what is in them.
///
/// # Errors
/// [`Error`]; files of logs that came before stay.
pub fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let mut runs = Vec::new();
    for log in &args.logs {
        let name = if log == Path::new("-") { "standard input".to_owned() } else { log.display().to_string() };
        let read = |source| Error::Read { log: name.clone(), source };
        let (mut input, written) = open(log).map_err(read)?;
        let mut ingest = Ingest::default();
        ingest.read(&mut *input).map_err(read)?;
        let account = ingest.account();
        if ingest.runs.is_empty() {
            return Err(Error::Nothing { log: name, account });
        }
        // Programs read the report alone.
        match args.format {
            RunFormat::Human => writeln!(out, "{name}: {account}")?,
            _ => eprintln!("{name}: {account}"),
        }
        let lost = ingest.lost();
        for run in ingest.runs {
            runs.push(run.files(args, &name, written, lost)?);
        }
    }
    let several = runs.len() > 1;
    for (number, files) in (1..).zip(&runs) {
        let dir = if several { args.out.join(number.to_string()) } else { args.out.clone() };
        for file in files {
            let path = file.path(&dir);
            file.save(&path)?;
            let what =
                format!("{}: seed {}, version {} → {}", file.name(), file.run.seed, file.tool.version, path.display());
            match args.format {
                RunFormat::Human => writeln!(out, "{what}")?,
                _ => eprintln!("{what}"),
            }
        }
    }
    let files: Vec<ResultFile> = runs.into_iter().flatten().collect();
    report::run(&files, args.format, out)?;
    Ok(files.iter().map(run::verdict).max().unwrap_or(Exit::Clean))
}

/// Consoles as a machine makes them, to be measured and to be damaged.
pub(crate) mod sample {
    use vmsa::outcome::End;
    use wire::frame;

    use super::{Finished, Record, record};

    pub(crate) fn line(record: &Record<'_>) -> String {
        let mut line = vec![0; frame::MAX_LINE];
        frame::encode_line(record, &mut line).expect("it fits").to_owned() + "\n"
    }

    pub(crate) fn finished(id: &str, rounds: u64) -> Finished {
        Finished {
            seq: 0,
            id: record::Id::from(id).expect("short"),
            cpu: 0,
            end: End::Done,
            bbm: 2,
            report: record::Report { rounds, overlap: rounds, accesses: rounds, ..Default::default() },
            el2_conflicts: Default::default(),
            registers: None,
            contained: 0,
            setup_ns: 1,
            run_ns: 1,
            reason: None,
            retried: None,
        }
    }

    pub(crate) fn head(seed: u64, midr: u64, count: u32) -> String {
        let text = |text: &str| record::Text::from(text).expect("short");
        let cpu = record::Cpu { index: 0, mpidr: 0, midr, revidr: 0, registers: Default::default() };
        line(&Record::Hello { protocol: wire::PROTOCOL, version: text("0.1.0") })
            + &line(&Record::Cpu(cpu))
            + &line(&Record::Plan { count, seed, crc: 0 })
    }

    /// An instance from its beginning to its end, as the console has it.
    pub(crate) fn instance(id: &str, rounds: u64) -> String {
        let start = Record::Start { seq: 0, id: record::Id::from(id).expect("short"), cpu: 0 };
        line(&start) + &line(&Record::Finished(finished(id, rounds))) + &format!("ok 1 {id}\n")
    }
}

/// How fast a log of `size` bytes is read, in MB a second: mostly firmware's noise, with a record every few lines, and no result twice
/// in a row.
///
/// # Errors
/// None but those of memory, since nothing is read from anywhere.
pub fn megabytes_per_second(size: u64) -> io::Result<f64> {
    const NOISE: &str =
        "[   12.345678] clocksource: arch_sys_counter: mask: 0x1ffffffffffffff max_cycles: 0x171024e7e0 ns\r\n";
    let mut log = sample::head(1, 0x410f_d493, 2);
    for id in ["el1.split.4k-l2.direct.load-remote", "el1.remap.4k-l3-rw.bbm.store-local"] {
        log += &NOISE.repeat(8);
        log += &sample::instance(id, 64);
    }
    let times = size / log.len() as u64;
    let start = std::time::Instant::now();
    let mut ingest = Ingest::default();
    ingest.read(&mut BufReader::with_capacity(1 << 16, Again { text: log.as_bytes(), at: 0, times }))?;
    assert_eq!(ingest.repeated, times.saturating_sub(1) * 2, "all of it was read");
    Ok(ingest.bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// The same text so many times.
struct Again<'a> {
    text: &'a [u8],
    at: usize,
    times: u64,
}

impl io::Read for Again<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.times == 0 {
            return Ok(0);
        }
        let rest = &self.text[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        if self.at == self.text.len() {
            (self.at, self.times) = (0, self.times - 1);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        sample::{finished, head, instance, line},
        *,
    };

    const IDS: [&str; 4] = [
        "selftest.quiet",
        "el1.split.4k-l2.direct.load-remote",
        "el1.remap.4k-l3-rw.bbm.store-local",
        "selftest.clean",
    ];

    fn boot(seed: u64) -> String {
        head(seed, 0x410f_d493, 4) + &IDS.map(|id| instance(id, 7)).concat()
    }

    fn read(log: &[u8]) -> Ingest {
        let mut ingest = Ingest::default();
        ingest.read(&mut &log[..]).expect("a slice can be read");
        ingest
    }

    /// The ids of each run's results.
    fn ids(ingest: &Ingest) -> Vec<Vec<&str>> {
        let of =
            |of: &OfCpu| of.entries.iter().map(|entry| IDS.iter().find(|id| **id == entry.case.id).copied()).collect();
        ingest.runs.iter().flat_map(|run| &run.cpus).map(of).map(|ids: Option<Vec<_>>| ids.expect("known")).collect()
    }

    #[test]
    fn a_console_as_people_capture_it_has_all_results() {
        let clean = boot(3);
        assert_eq!(ids(&read(clean.as_bytes())), [IDS]);
        let mut noisy = "U-Boot 2024.01\r\nDRAM:  4 GiB\r\n=> booti\r\n".to_owned();
        for (n, line) in clean.lines().enumerate() {
            noisy += &match n % 4 {
                0 => format!("[{n:5}.123456] {line}\r\n"),
                1 => format!("2026-11-24T01:02:03Z \u{1b}[32m{line}\u{1b}[0m\r\n"),
                2 => format!("NOTICE: BL31: something{line}\r"),
                _ => format!("\u{1b}[2K{line}\n"),
            };
        }
        let ingest = read(noisy.as_bytes());
        assert_eq!(ids(&ingest), [IDS], "{}", ingest.account());
        assert_eq!((ingest.lost(), ingest.unfinished.count), (0, 0));
    }

    #[test]
    fn what_is_lost_is_told_and_no_ktap_line_becomes_a_result() {
        let whole = boot(3);
        let of = line(&Record::Finished(finished(IDS[1], 7)));
        let ingest = read(whole.replace(&of, &of.replace("#@ ", "#@ x")).as_bytes());
        assert_eq!(ids(&ingest), [[IDS[0], IDS[2], IDS[3]]]);
        insta::assert_snapshot!(ingest.account());
        // Its record is gone altogether.
        let account = read(whole.replace(&of, "").as_bytes()).account();
        assert!(
            account.contains(&format!("1 instances have a KTAP line and no record: that is no result: {}", IDS[1])),
            "{account}"
        );
        assert!(account.contains("hung, or it was lost") && !account.contains("damaged"), "{account}");
    }

    #[test]
    fn boots_of_one_run_are_one_and_others_are_not() {
        let first = head(3, 0x410f_d493, 4) + &instance(IDS[0], 7);
        let rest = head(3, 0x410f_d493, 4) + &IDS[1..].iter().map(|id| instance(id, 7)).collect::<String>();
        assert_eq!(ids(&read((first.clone() + &rest).as_bytes())), [IDS]);
        // A stretch that stands there twice says nothing new; one that says something else does not count.
        let twice = read((first.clone() + &first).as_bytes());
        assert_eq!((ids(&twice), twice.repeated), (vec![vec![IDS[0]]], 1));
        let otherwise = read((first.clone() + &head(3, 0x410f_d493, 4) + &instance(IDS[0], 8)).as_bytes());
        assert_eq!((ids(&otherwise), otherwise.contradicted.count), (vec![vec![IDS[0]]], 1));
        // Another seed, another CPU.
        assert_eq!(ids(&read((first.clone() + &head(4, 0x410f_d493, 4) + &instance(IDS[0], 7)).as_bytes())).len(), 2);
        assert_eq!(ids(&read((first + &head(3, 0x410f_d0c1, 4) + &instance(IDS[0], 7)).as_bytes())).len(), 2);
    }

    fn args(kind: Kind) -> Args {
        Args { logs: vec![], kind, cpu_name: None, out: PathBuf::new(), format: RunFormat::Human }
    }

    #[test]
    fn an_emulator_is_not_made_silicon() {
        let files = |midr: u64, kind| {
            let log = head(3, midr, 4) + &instance(IDS[0], 7);
            let run = read(log.as_bytes()).runs.pop().expect("a run");
            run.files(&args(kind), "a.log", DateTime::UNIX_EPOCH, 0)
        };
        let refused = files(0x000f_0510, Kind::Board).expect_err("QEMU's max is nobody's CPU").to_string();
        assert!(refused.contains("MIDR_EL1 0xf0510"), "{refused}");
        assert_eq!(files(0x000f_0510, Kind::Qemu).expect("an emulator")[0].platform.evidence, Evidence::Emulator);
        let file = files(0x410f_d493, Kind::Board).expect("silicon, as is said").remove(0);
        assert_eq!((file.platform.evidence, file.run.planned, file.run.seed), (Evidence::Silicon, 4, Hex(3)));
        assert_eq!(file.path(Path::new("r")), Path::new("r/board/Neoverse-N2-r0p3.json"));
    }

    /// What may become of a capture.
    #[derive(Clone, Debug)]
    enum Damage {
        Noise(Vec<u8>),
        Loss(usize),
        Repeat(usize),
        Byte(u8),
    }

    fn damage() -> impl Strategy<Value = (usize, Damage)> {
        let what = prop_oneof![
            vec(any::<u8>(), 0..80).prop_map(Damage::Noise),
            (0..600_usize).prop_map(Damage::Loss),
            (0..2000_usize).prop_map(Damage::Repeat),
            any::<u8>().prop_map(Damage::Byte),
        ];
        (any::<prop::sample::Index>(), what).prop_map(|(at, what)| (at.index(1 << 16), what))
    }

    proptest! {
        #[test]
        fn no_result_comes_out_that_did_not_go_in(damages in vec(damage(), 0..12)) {
            let mut log = (boot(3) + &boot(4)).into_bytes();
            for (at, damage) in damages {
                let at = at % log.len().max(1);
                match damage {
                    Damage::Noise(bytes) => drop(log.splice(at..at, bytes)),
                    Damage::Loss(count) => drop(log.drain(at..log.len().min(at + count))),
                    Damage::Repeat(count) => {
                        let again = log[at..log.len().min(at + count)].to_vec();
                        drop(log.splice(at..at, again));
                    }
                    Damage::Byte(byte) => if let Some(old) = log.get_mut(at) { *old = byte },
                }
            }
            let ingest = read(&log);
            for entry in ingest.runs.iter().flat_map(|run| &run.cpus).flat_map(|of| &of.entries) {
                let whole = IDS.iter().map(|id| judge::judge(&finished(id, 7))).find(|whole| whole.case.id == entry.case.id);
                prop_assert_eq!(Some(entry), whole.as_ref());
            }
            prop_assert!(!ingest.account().is_empty());
        }

        #[test]
        fn any_bytes_can_be_read(log in vec(any::<u8>(), 0..4000)) {
            prop_assert!(read(&log).runs.is_empty());
        }
    }
}

//! `shatter run`: instances on CPUs, and what came of them.
//!
//! Each CPU has a machine, a result file and a worker of its own; `--jobs` workers share the CPUs, and what is over makes
//! passes of a timed run side by side. A machine with several types of CPU has a result file for each of them. A result is stored
//! when its instance ends, so whatever ends a run (Ctrl-C, a killed emulator, a full disk) costs at most the instance
//! that was running, and `--resume` goes on from there.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fs, io,
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::model::trace::Marks;
use chrono::Utc;
use vmsa::{Instance, stress::Pattern, verdict::Class};
use wire::plan::Settings;

use crate::{
    cli::Exit,
    controls, doctor, guest,
    judge::{self, judge},
    parallel,
    plan::{self, NothingMatches, Plan},
    platform::{
        model::{self, ModelTarget},
        qemu::{self, Gic, Hardware, Qemu, Threads},
    },
    progress::Progress,
    report::{self, RunFormat},
    results::{self, CaseResult, Cpu, Entry, Hex, ResultFile, Run, Smmu, System, Tool, Writer},
    target::{Event, Failure, Kept, Target, drive_until},
    trace,
    until::Wanted,
};

/// Where instances run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum On {
    /// QEMU's virt machine on this computer.
    Qemu,
    /// An architectural model in this process; its CPUs are profiles.
    Model,
}

/// A platform that can be used.
enum Platform {
    Qemu(Qemu),
    /// With the Image that it boots.
    Model(Cow<'static, [u8]>),
}

impl Platform {
    /// The one asked for, with this Image. Where none is asked for it is QEMU, or the model if there is no usable QEMU,
    /// which comes with the reason. A QEMU that was named is wanted: nothing takes its place.
    fn find(on: Option<On>, image: Option<Vec<u8>>) -> Result<(Self, Option<qemu::Error>), Error> {
        let image = image.map_or(Cow::Borrowed(guest::IMAGE), Cow::Owned);
        if on == Some(On::Model) {
            return Ok((Self::Model(image), None));
        }
        match Qemu::find() {
            Ok(qemu) if matches!(image, Cow::Borrowed(_)) => Ok((Self::Qemu(qemu), None)),
            Ok(qemu) => Ok((Self::Qemu(qemu.with_image(&image).map_err(Error::Files)?), None)),
            Err(error) if on.is_none() && !qemu::is_named() => Ok((Self::Model(image), Some(error))),
            Err(error) => Err(error.into()),
        }
    }

    fn on(&self) -> On {
        match self {
            Self::Qemu(_) => On::Qemu,
            Self::Model(_) => On::Model,
        }
    }

    /// Its name in results.
    fn kind(&self) -> &'static str {
        self.on().name()
    }

    /// Its name and version, for people.
    fn describe(&self) -> String {
        match self {
            Self::Qemu(qemu) => format!("QEMU {}", qemu.version()),
            Self::Model(_) => "the model".to_owned(),
        }
    }

    fn cpus(&self) -> Vec<String> {
        match self {
            Self::Qemu(qemu) => qemu.cpus().to_vec(),
            Self::Model(_) => model::profiles(),
        }
    }

    /// Whether it has this CPU, in a machine of so many.
    fn check(&self, cpu: &str, cpus: u8) -> Result<(), Error> {
        match self {
            Self::Qemu(qemu) if !qemu.cpus().iter().any(|known| known == cpu) => {
                let (name, platform) = (cpu.to_owned(), self.describe());
                Err(Error::UnknownCpu { name, platform, known: self.cpus() })
            }
            Self::Qemu(_) => Ok(()),
            Self::Model(_) => Ok(ModelTarget::new(cpu, cpus, 0).map(|_| ())?),
        }
    }

    /// A machine with this CPU, which [is there](Self::check).
    fn target(&self, cpu: &str, seed: u64, args: &Args, marks: &Marks) -> Result<Box<dyn Target + '_>, Error> {
        let hardware = args.hardware.hardware();
        Ok(match self {
            Self::Qemu(qemu) => Box::new(qemu.target(cpu, hardware)),
            Self::Model(image) => {
                let target = ModelTarget::new(cpu, hardware.cpus, seed)?.with_image(image.clone());
                Box::new(if args.trace { target.traced(Arc::clone(marks)) } else { target })
            }
        })
    }
}

/// How long `--until-seen` looks where `--time` does not say.
const UNTIL_SEEN_LIMIT: Duration = Duration::from_secs(600);

/// Which instances to run, where and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Run only instances whose id contains FILTER, or is FILTER; all, if there is none
    #[arg(value_name = "FILTER")]
    pub filters: Vec<String>,
    /// The platform to run on [default: qemu, or model where there is no QEMU]
    #[arg(long, value_enum)]
    pub on: Option<On>,
    /// CPUs to run on, separated by commas; `all` stands for every AArch64 CPU with EL2 that the platform has; the
    /// model also knows PROFILE+DEFECT, a CPU with a mistake, and PROFILE+PROFILE, a machine with CPUs of both types
    /// [default: max on QEMU, ideal-l2-abort on the model]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub cpu: Vec<String>,
    /// Rounds of each instance
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    pub rounds: NonZeroU64,
    /// Seed of every random choice, decimal or 0x…
    #[arg(long, value_name = "S", default_value = "0x2a", value_parser = number)]
    pub seed: u64,
    /// Run the selection again and again, each time with the next seed, until this time is up (90s, 5m, 2h); the first
    /// pass is always made whole. Histograms are added up. With --resume, the time of all parts together
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "trace")]
    pub time: Option<Duration>,
    /// Run until an instance has seen this outcome, a kind as in results (conflict, old, torn, translation-l3, …),
    /// with @before, @during or @after in that phase only; the first pass is always made whole. Then say how often each
    /// instance saw it, or how rare it is at 95 %. Without --time it gives up after 10 minutes. Exit code 5 if it was
    /// not seen
    #[arg(long, value_name = "KIND[@PHASE]", conflicts_with = "trace")]
    pub until_seen: Option<Wanted>,
    /// Add no controls to a selection that lacks them. Otherwise at most 8 show whether the run can see at all
    #[arg(long)]
    pub no_controls: bool,
    /// Machines to run at the same time, of several CPUs or, with --time, of several passes [default: half the cores of this computer]
    #[arg(long, value_name = "J")]
    pub jobs: Option<NonZeroUsize>,
    /// Go on with a run that was interrupted: run only what the result files do not have yet
    #[arg(long)]
    pub resume: bool,
    /// Keep what the model did before the first forbidden outcome of each instance that fails, as
    /// DIR/model/CPU.trace/ID.txt; needs --on model
    #[arg(long, conflicts_with = "resume")]
    pub trace: bool,
    /// Print what hypervisor and payloads say besides their results, to standard error
    #[arg(long)]
    pub log: bool,
    /// Keep all that the machine says, as DIR/CPU-SEED.log; `shatter ingest` makes the same results of it
    #[arg(long, value_name = "DIR")]
    pub console: Option<PathBuf>,
    /// Directory for the result files, DIR/PLATFORM/CPU.json
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub out: PathBuf,
    /// Boot this flat arm64 Image in place of the hypervisor that shatter brings; payloads and plan stay shatter's
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// What to print at the end
    #[arg(long, value_enum, default_value = "human")]
    pub format: RunFormat,
    /// Time after which an instance counts as hung, in milliseconds
    #[arg(long, value_name = "MS", default_value = "10000", value_parser = positive)]
    pub timeout_ms: NonZeroU64,
    /// The machine's hardware.
    #[command(flatten)]
    pub hardware: HardwareArgs,
}

/// The emulated machine.
#[derive(Clone, Debug, clap::Args)]
pub struct HardwareArgs {
    /// CPUs of the emulated machine, 1 to 8 [default: 4, or 2 on a computer with fewer cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub smp: Option<u8>,
    /// Version of its interrupt controller, 2 or 3
    #[arg(long, value_name = "VERSION", default_value = "3", value_parser = gic)]
    pub gic: Gic,
    /// Give it an SMMUv3, whose capabilities the results tell (QEMU)
    #[arg(long)]
    pub smmu: bool,
    /// Its RAM; a remap of 1 GiB blocks needs 3G
    #[arg(long, value_name = "SIZE", default_value = "3G", value_parser = memory)]
    pub mem: String,
    /// How QEMU runs its CPUs: in turn on one host thread, or each on its own
    #[arg(long, value_enum, default_value = "single")]
    pub threads: Threads,
}

impl HardwareArgs {
    /// The hardware asked for.
    #[must_use]
    pub fn hardware(&self) -> Hardware {
        let cpus = self.smp.unwrap_or(if parallel::cores() >= 4 { 4 } else { 2 });
        Hardware { cpus, gic: self.gic, smmu: self.smmu, memory: self.mem.clone(), threads: self.threads }
    }
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|e| format!("{e}; write it as 42 or 0x2a"))
}

fn positive(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(number(text)?).ok_or_else(|| "it must be at least 1".to_owned())
}

fn gic(text: &str) -> Result<Gic, &'static str> {
    match text {
        "2" => Ok(Gic::V2),
        "3" => Ok(Gic::V3),
        _ => Err("there are 2 and 3"),
    }
}

fn memory(text: &str) -> Result<String, &'static str> {
    let digits = text.strip_suffix(['M', 'G']).unwrap_or_default();
    match digits.parse::<u32>() {
        Ok(1..) => Ok(text.to_owned()),
        _ => Err("write it as 512M or 3G"),
    }
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was selected.
    #[error(transparent)]
    Nothing(#[from] NothingMatches),
    /// There is no usable QEMU.
    #[error("{source}\n\n{}", doctor::advice(source))]
    Qemu {
        /// What is the matter.
        #[from]
        source: qemu::Error,
    },
    /// The platform has no such CPU.
    #[error("{platform} has no AArch64 CPU with EL2 called `{name}`; it has {}", known.join(", "))]
    UnknownCpu {
        /// What was asked for.
        name: String,
        /// Whom.
        platform: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Only the model knows what it did.
    #[error("only the model keeps a trace; add --on model, or leave --trace out")]
    TraceOffModel,
    /// The model has no such CPU.
    #[error(transparent)]
    UnknownModel(#[from] model::Unknown),
    /// Results cannot be stored.
    #[error("no results can be stored in {}: {source}; choose another directory with --out", dir.display())]
    Out {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such Image.
    #[error("{}: {source}; --image wants a flat arm64 Image", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The Image cannot be put where QEMU reads it.
    #[error("failed to write the Image for QEMU: {0}")]
    Files(#[source] io::Error),
    /// The report could not be written.
    #[error("failed to write the report: {0}")]
    Report(#[source] io::Error),
}

impl Error {
    /// The exit code that stands for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Nothing(_) => Exit::NothingSelected,
            Self::UnknownCpu { .. }
            | Self::UnknownModel(_)
            | Self::TraceOffModel
            | Self::Out { .. }
            | Self::Image { .. } => Exit::Usage,
            Self::Qemu { .. } | Self::Files(_) | Self::Report(_) => Exit::Platform,
        }
    }
}

/// Runs what `args` asks for and writes the report to `out`.
///
/// # Errors
/// If nothing could be run at all. A CPU that fails does not keep the others from running; the exit code tells.
pub fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let mut instances = plan::select(&args.filters)?;
    let image = args.image.as_deref().map(read_image).transpose()?;
    let image_hash = format!("sha256:{}", guest::hash(image.as_deref().unwrap_or(guest::IMAGE)));
    let (platform, missing) = Platform::find(args.on, image)?;
    let progress = Progress::new();
    if let Some(error) = missing {
        progress.line(format_args!("{error}, so this runs on the model; {}", doctor::hint(&error)));
    }
    let args = &Args { on: Some(platform.on()), ..args.clone() };
    if args.trace && platform.on() != On::Model {
        return Err(Error::TraceOffModel);
    }
    let cpus = choose_cpus(&platform, &args.cpus(), args.hardware.hardware().cpus)?;
    // Before anything boots: a run whose results cannot be kept is not worth its time.
    let writable = || {
        let dir = args.out.join(platform.kind());
        fs::create_dir_all(&dir)?;
        tempfile::tempfile_in(dir)
    };
    writable().map_err(|source| Error::Out { dir: args.out.clone(), source })?;

    let added = if args.no_controls { vec![] } else { controls::missing(platform.kind(), &instances) };
    let added_controls = added.iter().map(ToString::to_string).collect();
    instances.extend(added);
    let run =
        Job { args, platform: &platform, image_hash, instances, added_controls, progress, stop: stop_on_request() };
    let results = run.all(&cpus);

    let mut exit = Exit::Clean;
    let mut failed = false;
    let mut files = vec![];
    for (cpu, CpuRun { files: of_cpu, failure }) in cpus.iter().zip(results) {
        exit = of_cpu.iter().map(verdict).fold(exit, Exit::max);
        files.extend(of_cpu);
        if let Some(failure) = failure {
            run.progress.line(format_args!("{cpu}: {failure}"));
            exit = exit.max(match failure {
                Failure::Stopped => Exit::Interrupted,
                // The file is not one that this run can go on with.
                Failure::Results(ref error) if !matches!(error, results::Error::Io { .. }) => Exit::Usage,
                _ => Exit::Platform,
            });
            failed = true;
        }
    }
    // Programs that read the report want one even if it is empty; people have read the reason already.
    if !files.is_empty() || args.format != RunFormat::Human {
        report::run(&files, args.format, out).map_err(Error::Report)?;
    }
    if let Some(wanted) = args.until_seen {
        let (text, seen) = wanted.report(&files);
        run.progress.line(text.trim_end());
        if !seen {
            exit = exit.max(Exit::NotSeen);
        }
    }
    run.progress.line(format_args!("again with: {}", args.command()));
    if failed && !files.is_empty() {
        run.progress.line(format_args!("go on with: {} --resume", args.command()));
    }
    Ok(exit)
}

/// What a result file comes to.
pub(crate) fn verdict(file: &ResultFile) -> Exit {
    if file.count(Class::Fail) > 0 || file.worthless.is_some() {
        Exit::Forbidden
    } else if file.count(Class::Error) > 0 {
        // The harness did not work here, so nothing it did not see counts. A control that a platform cannot show is
        // no error of either; which is which, the verdict has said.
        Exit::Platform
    } else {
        Exit::Clean
    }
}

fn read_image(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Image { path: path.to_owned(), source };
    let image = fs::read(path).map_err(failed)?;
    if guest::is_image(&image) {
        Ok(image)
    } else {
        Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it lacks the magic ARM\\x64 at offset 0x38")))
    }
}

fn choose_cpus(platform: &Platform, names: &[String], cpus: u8) -> Result<Vec<String>, Error> {
    let known = platform.cpus();
    let mut chosen: Vec<String> = vec![];
    for name in names {
        let new = if name == "all" { &known[..] } else { std::slice::from_ref(name) };
        for name in new {
            platform.check(name, cpus)?;
            if !chosen.contains(name) {
                chosen.push(name.clone());
            }
        }
    }
    Ok(chosen)
}

/// A flag that Ctrl-C and SIGTERM set.
fn stop_on_request() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    // A process has one handler; a second run in the same process (tests) goes without.
    let _ = ctrlc::set_handler(move || set.store(true, Ordering::Relaxed));
    stop
}

impl On {
    const fn name(self) -> &'static str {
        match self {
            Self::Qemu => qemu::KIND,
            Self::Model => model::KIND,
        }
    }
}

impl Args {
    /// How long passes go on, if there is to be more than one.
    fn limit(&self) -> Option<Duration> {
        self.time.or(self.until_seen.map(|_| UNTIL_SEEN_LIMIT))
    }

    /// The CPUs to run on, by name, `all` among them.
    fn cpus(&self) -> Vec<String> {
        match (self.cpu.is_empty(), self.on) {
            (false, _) => self.cpu.clone(),
            (true, Some(On::Model)) => vec![model::USUAL.to_owned()],
            (true, _) => vec!["max".to_owned()],
        }
    }

    /// The command that repeats the run.
    #[must_use]
    pub fn command(&self) -> String {
        let hardware = self.hardware.hardware();
        let mut command = format!(
            "shatter run {}{}--cpu {} --rounds {} --seed {:#x} --timeout-ms {} --smp {} --gic {} --mem {} --threads {}",
            self.filters.iter().map(|filter| format!("{filter} ")).collect::<String>(),
            self.on.map_or_else(String::new, |on| format!("--on {} ", on.name())),
            self.cpus().join(","),
            self.rounds,
            self.seed,
            self.timeout_ms,
            hardware.cpus,
            hardware.gic.number(),
            hardware.memory,
            hardware.threads.name(),
        );
        if hardware.smmu {
            command += " --smmu";
        }
        if let Some(image) = &self.image {
            command += &format!(" --image '{}'", image.display());
        }
        if self.out.as_os_str() != "results" {
            command += &format!(" --out '{}'", self.out.display());
        }
        if self.trace {
            command += " --trace";
        }
        if self.no_controls {
            command += " --no-controls";
        }
        if let Some(time) = self.time {
            command += &format!(" --time {}", humantime::format_duration(time).to_string().replace(' ', ""));
        }
        if let Some(wanted) = self.until_seen {
            command += &format!(" --until-seen {wanted}");
        }
        command
    }
}

/// What a CPU's worker leaves: a file for each type of CPU, which is one but on machines of several.
#[derive(Default)]
struct CpuRun {
    files: Vec<ResultFile>,
    failure: Option<Failure>,
}

/// Instances for one boot, and the only type of CPU that they are for, by its MIDR, if there is one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Part {
    midr: Option<u64>,
    instances: Vec<Instance>,
}

/// What is left to run where `left` says what each type of CPU in `files` has left; those of `all` where there is none.
fn parts(files: &[ResultFile], all: &[Instance], left: impl Fn(&ResultFile) -> Vec<Instance>) -> Vec<Part> {
    let part = |midr, instances| Part { midr, instances };
    let Some(first) = files.first() else { return vec![part(None, all.to_vec())] };
    let midrs: Vec<Hex> = match &first.machine {
        Some(machine) => machine.cpus.iter().map(|cpu| cpu.midr).collect(),
        None => vec![first.cpu.midr],
    };
    let of = |midr: &Hex| files.iter().find(|file| file.cpu.midr == *midr).map_or_else(|| all.to_vec(), &left);
    let parts: Vec<Part> = midrs.iter().map(|midr| part(Some(midr.0), of(midr))).collect();
    if parts.iter().all(|other| other.instances == parts[0].instances) {
        return vec![part(None, parts[0].instances.clone())].into_iter().filter(|p| !p.instances.is_empty()).collect();
    }
    parts.into_iter().filter(|part| !part.instances.is_empty()).collect()
}

/// What the workers share.
struct Job<'a> {
    args: &'a Args,
    platform: &'a Platform,
    image_hash: String,
    instances: Vec<Instance>,
    /// Those of them that are controls which nobody asked for.
    added_controls: Vec<String>,
    progress: Progress,
    stop: Arc<AtomicBool>,
}

/// The result files of one machine while it runs, by type of CPU.
///
/// Passes that run side by side report as they come; what is kept of an instance is always the sum of its first so many
/// passes, in their order, so that a run is the same whatever the passes' speeds.
#[derive(Default)]
struct Records {
    writers: Vec<Writer>,
    /// By MIDR and instance, and by pass: what came before the pass in front of it did.
    waiting: BTreeMap<(Hex, String), BTreeMap<u64, Entry>>,
    /// Whether any sum has what the run looks for.
    found: bool,
}

impl Records {
    fn files(&self) -> Vec<ResultFile> {
        self.writers.iter().map(|writer| writer.file().clone()).collect()
    }

    fn of(&mut self, midr: Hex) -> Option<&mut Writer> {
        self.writers.iter_mut().find(|writer| writer.file().cpu.midr == midr)
    }

    /// The machine of pass `pass` booted, with these types of CPU and SMMUs.
    fn booted(
        &mut self,
        job: &Job<'_>,
        target: &dyn Target,
        (types, smmus): (&[Cpu], &[Smmu]),
        pass: u64,
    ) -> Result<(), results::Error> {
        if self.writers.is_empty() {
            let open = if job.args.resume { Writer::resume } else { Writer::create };
            for cpu in types {
                self.writers.push(open(&job.args.out, job.head(target, cpu, types, smmus))?);
            }
        }
        for cpu in types {
            // A CPU that did not come up in the first boot would change what the files are of.
            let Some(writer) = self.of(cpu.midr) else {
                let (path, what) = (self.writers[0].path().to_owned(), "machine");
                let then = format!("without {}", cpu.midr);
                return Err(results::Error::Different { path, what, then, now: format!("with {}", cpu.midr) });
            };
            writer.run_mut().passes = writer.run_mut().passes.max(pass + 1);
        }
        Ok(())
    }

    /// Keeps what pass `pass` saw of an instance, and what waited for it. `kept` hears every new sum.
    fn add(
        &mut self,
        (pass, midr): (u64, Hex),
        entry: Entry,
        job: &Job<'_>,
        mut kept: impl FnMut(&CaseResult),
    ) -> Result<(), results::Error> {
        let key = (midr, entry.case.id.clone());
        let waiting = self.waiting.entry(key.clone()).or_default();
        waiting.insert(pass, entry);
        while let Some(writer) = self.writers.iter_mut().find(|writer| writer.file().cpu.midr == midr) {
            let earlier = writer.file().entry(&key.1).filter(|_| pass > 0);
            let next = earlier.as_ref().map_or(0, |earlier| earlier.case.passes);
            let Some(mut entry) = waiting.remove(&next) else { break };
            if let Some(earlier) = earlier {
                entry = judge::add(earlier, entry, Hex(job.args.seed.wrapping_add(next)));
            }
            judge::bound(&mut entry.case, writer.file().platform.evidence);
            self.found |= job.wants(&entry.case);
            kept(&entry.case);
            writer.add(entry)?;
            if pass == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Writes the last snapshots; what was collected, and what kept one from being written.
    fn finish(self, elapsed: Duration) -> (Vec<ResultFile>, Vec<PathBuf>, Option<results::Error>) {
        let (mut files, mut paths, mut failure) = (vec![], vec![], None);
        for mut writer in self.writers {
            writer.run_mut().duration_ms += u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            paths.push(writer.path().to_owned());
            let collected = writer.file().clone();
            files.push(writer.finish().unwrap_or_else(|error| {
                failure.get_or_insert(error);
                collected
            }));
        }
        (files, paths, failure)
    }
}

impl Job<'_> {
    /// How many machines run at the same time.
    fn jobs(&self) -> usize {
        self.args.jobs.map_or(parallel::cores() / 2, usize::from).max(1)
    }

    /// Runs all CPUs, several at a time, and returns their results in the same order.
    fn all(&self, cpus: &[String]) -> Vec<CpuRun> {
        parallel::map(self.jobs().min(cpus.len()), cpus, |cpu| self.cpu(cpu, self.jobs() / cpus.len()))
    }

    /// Runs one CPU, or machine of several types, whose later passes are `side_by_side` at a time.
    fn cpu(&self, cpu: &str, side_by_side: usize) -> CpuRun {
        let start = Instant::now();
        let marks = Marks::default();
        let (earlier, left) = match self.left(cpu) {
            Ok(left) => left,
            Err(error) => return CpuRun { failure: Some(error.into()), ..CpuRun::default() },
        };
        if left.is_empty() && self.args.limit().is_none() {
            return CpuRun { files: earlier, failure: None };
        }
        let records = Mutex::new(Records::default());
        let failure = self.passes(cpu, &earlier, left, side_by_side, &records, &marks).err();
        let records = records.into_inner().unwrap_or_else(PoisonError::into_inner);
        if records.writers.is_empty() {
            return CpuRun { files: earlier, failure };
        }
        let elapsed = start.elapsed();
        let (files, paths, unwritten) = records.finish(elapsed);
        for (file, path) in files.iter().zip(paths) {
            let counts: Vec<String> = Class::ALL
                .into_iter()
                .filter_map(|class| Some((file.count(class), class)).filter(|(count, _)| *count > 0))
                .map(|(count, class)| format!("{count} {class}"))
                .collect();
            self.progress.line(format_args!(
                "{}: {} in {:.1} s → {}",
                file.cpu_name(),
                counts.join(", "),
                elapsed.as_secs_f64(),
                path.display()
            ));
        }
        CpuRun { files, failure: failure.or(unwritten.map(Failure::from)) }
    }

    /// What an earlier run left, if it is to be resumed, and the instances that it does not have.
    fn left(&self, cpu: &str) -> Result<(Vec<ResultFile>, Vec<Part>), results::Error> {
        let everything = || parts(&[], &self.instances, |_| vec![]);
        if !self.args.resume {
            return Ok((vec![], everything()));
        }
        let earlier = results::of_run(&self.args.out, self.platform.kind(), cpu)?;
        // A file of another kind of run is refused with the reason when the writer opens it.
        let same = |file: &ResultFile| {
            file.tool.image == self.image_hash
                && file.run.seed == Hex(self.args.seed)
                && file.run.rounds == self.args.rounds.get()
        };
        if !earlier.iter().all(same) {
            return Ok((vec![], everything()));
        }
        let left = parts(&earlier, &self.instances, |file| {
            let done: HashSet<&str> = file.cases.iter().map(|case| case.id.as_str()).collect();
            let left: Vec<_> = self.instances.iter().copied().filter(|i| !done.contains(&*i.to_string())).collect();
            let (name, skipped) = (file.cpu_name(), self.instances.len() - left.len());
            self.progress
                .line(format_args!("{name}: {skipped} instances have results already, {} are left", left.len()));
            left
        });
        Ok((earlier, left))
    }

    /// Whether `case` has what `--until-seen` looks for. What a control shows is no find.
    fn wants(&self, case: &CaseResult) -> bool {
        !self.added_controls.contains(&case.id) && self.args.until_seen.is_some_and(|wanted| wanted.seen(case) > 0)
    }

    /// Makes what is left of the first pass, `first`, and further ones while there is time, `side_by_side` at a time.
    fn passes(
        &self,
        cpu: &str,
        earlier: &[ResultFile],
        first: Vec<Part>,
        side_by_side: usize,
        records: &Mutex<Records>,
        marks: &Marks,
    ) -> Result<(), Failure> {
        let drive = |pass, part, over: &(dyn Fn() -> bool + Sync)| {
            let seed = self.args.seed.wrapping_add(pass);
            let target = self.platform.target(cpu, seed, self.args, marks).expect("chosen from what there is");
            let target: Box<dyn Target> = match &self.args.console {
                Some(dir) => Box::new(Kept::new(target, dir.join(format!("{cpu}-{seed:#x}.log")))),
                None => target,
            };
            self.drive(&*target, pass, part, over, records, marks)
        };
        for part in first {
            drive(0, part, &|| false)?;
        }
        let Some(limit) = self.args.limit() else { return Ok(()) };
        let spent = Duration::from_millis(earlier.iter().map(|file| file.run.duration_ms).max().unwrap_or(0));
        let end = Instant::now() + limit.saturating_sub(spent);
        let files = match locked(records).files() {
            files if files.is_empty() => earlier.to_vec(),
            files => files,
        };
        locked(records).found = files.iter().flat_map(|file| &file.cases).any(|case| self.wants(case));
        let failed = AtomicBool::new(false);
        let over = || failed.load(Ordering::Relaxed) || locked(records).found || Instant::now() >= end;
        // What was skipped once is skipped always; what a resumed run has of a pass already stays.
        let left = |pass| {
            parts(&files, &self.instances, |file| {
                let done = |case: &&CaseResult| case.passes > pass || case.verdict == Class::Skip;
                let done: HashSet<&str> = file.cases.iter().filter(done).map(|case| case.id.as_str()).collect();
                self.instances.iter().copied().filter(|i| !done.contains(&*i.to_string())).collect()
            })
        };
        let most = files.iter().flat_map(|file| &file.cases).map(|case| case.passes).max().unwrap_or(0);
        let next = AtomicU64::new(1);
        let worker = || -> Result<(), Failure> {
            while !over() {
                let pass = next.fetch_add(1, Ordering::Relaxed);
                let left = left(pass);
                if left.is_empty() && pass >= most {
                    break;
                }
                for part in left {
                    match drive(pass, part, &over) {
                        Err(Failure::Stopped) if !self.stop.load(Ordering::Relaxed) => return Ok(()),
                        Err(failure) => {
                            failed.store(true, Ordering::Relaxed);
                            return Err(failure);
                        }
                        Ok(()) => {}
                    }
                }
            }
            Ok(())
        };
        let workers: Vec<usize> = (0..side_by_side.max(1)).collect();
        parallel::map(workers.len(), &workers, |_| worker()).into_iter().collect()
    }

    /// Makes the pass numbered `pass` of `part` on `target`, until it is `over`.
    fn drive(
        &self,
        target: &dyn Target,
        pass: u64,
        part: Part,
        over: &dyn Fn() -> bool,
        records: &Mutex<Records>,
        marks: &Marks,
    ) -> Result<(), Failure> {
        let args = self.args;
        let seed = args.seed.wrapping_add(pass);
        let Part { midr, instances } = part;
        let mut bar = self.progress.cpu(target.cpu(), instances.len());
        let settings = Settings { midr, ..settings(seed, args.rounds, args.timeout_ms) };
        let plan = Plan { settings, instances };
        let stop = || self.stop.load(Ordering::Relaxed) || over();
        let mut types: Vec<Cpu> = vec![];
        // Whose turn it is, if that is to be told.
        let mut running = String::new();
        drive_until(target, &plan, &stop, &mut |event| {
            match event {
                Event::Booted(booted, smmus) => {
                    types = booted.to_vec();
                    let ways = if midr.is_some() { 1 } else { types.len() };
                    bar.expect(plan.instances.len() * ways);
                    locked(records).booted(self, target, (booted, smmus), pass)?;
                }
                Event::Started(id) => {
                    if args.log {
                        running = format!(" {id}:");
                    }
                    bar.started(id);
                }
                Event::Finished(finished, cpu) => {
                    let (entry, midr) = (judge(finished), types[cpu].midr);
                    bar.finished(entry.case.verdict);
                    let mut records = locked(records);
                    let name = records.of(midr).map(|writer| writer.file().cpu_name()).unwrap_or_default();
                    records.add((pass, midr), entry, self, |case| {
                        if args.trace {
                            self.trace(&name, case, marks);
                        }
                    })?;
                }
                Event::Lost => {
                    if let Some(writer) = locked(records).writers.first_mut() {
                        writer.run_mut().lost_lines += 1;
                    }
                }
                Event::Log(text) if args.log => {
                    self.progress.line(format_args!("{}:{running} {text}", target.cpu()));
                }
                // What a log line says stands in the text as well.
                Event::Log(_) | Event::Text(_) => {}
            }
            Ok(())
        })
    }

    /// Keeps what went before the first forbidden outcome of `case`, and says where.
    fn trace(&self, cpu: &str, case: &CaseResult, marks: &Marks) {
        let text = trace::of(case, cpu, &self.args.command(), marks);
        let directory = trace::directory(&self.args.out, cpu);
        match trace::store(&directory, &case.id, text.as_deref()) {
            Ok(Some(path)) => {
                self.progress.line(format_args!("{cpu}: {} failed; its trace: {}", case.id, path.display()))
            }
            Ok(None) if case.verdict == Class::Fail => self.progress.line(format_args!(
                "{cpu}: {} failed by nothing that an access of its payload saw, so there is no trace of it",
                case.id
            )),
            Ok(None) => {}
            Err(error) => self.progress.line(format_args!(
                "{cpu}: the trace of {} cannot be stored in {}: {error}",
                case.id,
                directory.display()
            )),
        }
    }

    /// A result file without cases.
    fn head(&self, target: &dyn Target, cpu: &Cpu, types: &[Cpu], smmus: &[Smmu]) -> ResultFile {
        let tool = Tool {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git: guest::REVISION.to_owned(),
            image: self.image_hash.clone(),
        };
        let run = Run {
            seed: Hex(self.args.seed),
            rounds: self.args.rounds.get(),
            passes: 1,
            patterns: Some(Pattern::VERSION),
            planned: self.instances.len() as u64,
            added_controls: self.added_controls.clone(),
            start: Utc::now(),
            duration_ms: 0,
            lost_lines: 0,
        };
        let machine = System::of(target.cpu(), types);
        ResultFile { machine, smmus: smmus.to_vec(), ..ResultFile::new(tool, target.platform(), cpu.clone(), run) }
    }
}

fn locked(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plan's settings; a payload is given three quarters of the watchdog's time to make its rounds.
#[must_use]
pub fn settings(seed: u64, rounds: NonZeroU64, timeout_ms: NonZeroU64) -> Settings {
    let budget_ms = NonZeroU64::new(timeout_ms.get() / 4 * 3).unwrap_or(NonZeroU64::MIN);
    Settings { seed, rounds, timeout_ms, budget_ms, ..Settings::default() }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use clap::Parser as _;

    use super::*;
    use crate::results::tests::{fixture, two_types};

    fn instances() -> Vec<Instance> {
        ["selftest.quiet", "selftest.clean", "selftest.storm"].map(|id| id.parse().expect("an id")).to_vec()
    }

    #[test]
    fn types_of_cpu_that_lack_the_same_share_a_boot() {
        let all = instances();
        let whole = Part { midr: None, instances: all.clone() };
        assert_eq!(parts(&[], &all, |_| vec![]), slice::from_ref(&whole));
        let types = two_types();
        let of = |cpu: &Cpu| ResultFile {
            cpu: cpu.clone(),
            machine: System::of("both", &types),
            ..fixture("base/board/altra.json")
        };
        let files: Vec<ResultFile> = types.iter().map(of).collect();
        assert_eq!(parts(&files, &all, |_| all.clone()), [whole]);
        assert_eq!(parts(&files, &all, |_| vec![]), []);
        let of_big = |file: &ResultFile| if file.cpu.name == "big" { all[1..].to_vec() } else { vec![] };
        let big = Part { midr: Some(1), instances: all[1..].to_vec() };
        assert_eq!(parts(&files, &all, of_big), slice::from_ref(&big));
        // Of the other there is no file any more: all of it is left.
        let little = Part { midr: Some(2), instances: all.clone() };
        assert_eq!(parts(&files[..1], &all, of_big), [big, little]);
    }

    #[test]
    fn passes_that_overtake_each_other_are_added_up_in_their_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = "selftest.quiet";
        let (plain, args) = (fixture("base/board/altra.json"), Alone::parse_from(["run"]));
        let platform = Platform::Model(Cow::Borrowed(&[]));
        let job = Job {
            args: &args.args,
            platform: &platform,
            image_hash: String::new(),
            instances: instances(),
            added_controls: vec![],
            progress: Progress::new(),
            stop: Arc::default(),
        };
        let entry = |rounds| {
            let case = CaseResult { id: id.to_owned(), rounds, ..plain.cases[0].clone() };
            Entry { case, conflicts: vec![], control: None }
        };
        let midr = plain.cpu.midr;
        let head = ResultFile::new(plain.tool.clone(), plain.platform.clone(), plain.cpu.clone(), plain.run.clone());
        let mut records = Records::default();
        records.writers.push(Writer::create(dir.path(), head).expect("there is room"));
        let mut sums = vec![];
        for (pass, rounds) in [(0, 1), (2, 100), (3, 1000), (1, 10), (5, 9)] {
            let keep = |case: &CaseResult| sums.push((case.passes, case.rounds));
            records.add((pass, midr), entry(rounds), &job, keep).expect("there is room");
        }
        // What has no predecessor is of no use.
        assert_eq!(sums, [(1, 1), (2, 11), (3, 111), (4, 1111)]);
        let case = &records.files()[0].cases[0];
        assert_eq!((case.passes, case.rounds), (4, 1111));
    }

    #[derive(Debug, clap::Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }
}

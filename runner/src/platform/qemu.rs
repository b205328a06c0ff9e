//! QEMU's `virt` machine, emulated by TCG.
//!
//! One QEMU is one machine with one kind of CPU. The UART and semihosting write to the same stream, QEMU's standard
//! output, by way of a multiplexer: text written before the hypervisor knows of semihosting, and records written
//! with one trap a line, arrive in the order in which they were written.
//!
//! Which CPUs there are is asked of QEMU itself over QMP: a CPU model is fit if it has the property `aarch64`, which
//! only models with a 64-bit state have, and the property `has_el2`. That takes one short-lived QEMU without a
//! machine, however many models there are.

use std::{
    env, fmt, fs,
    io::{self, Read, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    guest,
    results::{self, Evidence},
    target::{BootError, Heard, Machine, Off, Patience, Target},
};

/// Name of the platform in results.
pub const KIND: &str = "qemu";

/// Environment variable with the path of the QEMU to use, in place of the one on the PATH.
pub const VARIABLE: &str = "SHATTER_QEMU";

/// What is looked for on the PATH.
const PROGRAM: &str = "qemu-system-aarch64";

/// The oldest QEMU whose `max` CPU has FEAT_BBML2 and whose options are those used here.
pub const OLDEST: Version = Version { major: 7, minor: 2, micro: 0 };

/// Whether the user named the QEMU to use.
#[must_use]
pub fn is_named() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// A QEMU version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the three numbers of a version")]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub micro: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Why QEMU cannot be used; `shatter doctor` knows the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("{} was not found", program.display())]
    Missing {
        /// What was looked for.
        program: PathBuf,
    },
    /// It is not what it seems.
    #[error("{} does not work: {why}", program.display())]
    Broken {
        /// Which.
        program: PathBuf,
        /// What happened.
        why: String,
    },
    /// It is too old.
    #[error("{} is version {found}, but at least {OLDEST} is needed", program.display())]
    TooOld {
        /// Which.
        program: PathBuf,
        /// Its version.
        found: Version,
    },
}

/// Which generic interrupt controller the machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gic {
    /// GICv2.
    V2,
    /// GICv3.
    #[default]
    V3,
}

impl Gic {
    /// QEMU's `gic-version`.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// How TCG runs the machine's CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Threads {
    /// In turn on one host thread, changing where one waits for another. What a round costs does not depend on how
    /// busy the host is.
    #[default]
    Single,
    /// Each on a host thread of its own. Accesses really happen at the same time, but wherever a host core is not
    /// free at once, a round takes as long as the host's scheduler likes.
    Multi,
}

impl Threads {
    /// QEMU's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Multi => "multi",
        }
    }
}

/// The machine's hardware besides the kind of its CPUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hardware {
    /// CPUs, 1 to 8.
    pub cpus: u8,
    /// Interrupt controller.
    pub gic: Gic,
    /// Whether it has an SMMUv3.
    pub smmu: bool,
    /// RAM, in QEMU's notation: `3G`.
    pub memory: String,
    /// Host threads.
    pub threads: Threads,
}

/// A QEMU that works.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    version: Version,
    cpus: Vec<String>,
    /// Holds the Image, and a bundle for each boot.
    dir: TempDir,
}

impl Qemu {
    /// Finds QEMU and asks it what it can do.
    ///
    /// # Errors
    /// If there is none, it does not work, or it is older than [`OLDEST`].
    pub fn find() -> Result<Self, Error> {
        let program = env::var_os(VARIABLE).map_or_else(|| PathBuf::from(PROGRAM), PathBuf::from);
        let broken = |why: String| Error::Broken { program: program.clone(), why };
        let mut qmp = Qmp::start(&program).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing { program: program.clone() },
            _ => broken(error.to_string()),
        })?;
        let greeting = qmp.reply("QMP").map_err(|e| broken(e.to_string()))?;
        let version = version(&greeting).ok_or_else(|| broken("it does not tell its version".to_owned()))?;
        if version < OLDEST {
            return Err(Error::TooOld { program, found: version });
        }
        let mut cpus = qmp.aarch64_cpus_with_el2().map_err(|e| broken(e.to_string()))?;
        cpus.sort_unstable();

        let dir = tempfile::Builder::new()
            .prefix("shatter-")
            .tempdir()
            .and_then(|dir| fs::write(dir.path().join("Image"), guest::IMAGE).map(|()| dir))
            .map_err(|e| broken(format!("no room for its files in {}: {e}", env::temp_dir().display())))?;
        Ok(Self { program, version, cpus, dir })
    }

    /// The same with another Image than ours.
    ///
    /// # Errors
    /// If it cannot be written where QEMU will read it.
    pub fn with_image(self, image: &[u8]) -> io::Result<Self> {
        fs::write(self.dir.path().join("Image"), image)?;
        Ok(self)
    }

    /// The program's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The program, as it is started.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The AArch64 CPUs with EL2, in order of their names.
    #[must_use]
    pub fn cpus(&self) -> &[String] {
        &self.cpus
    }

    /// A machine with this kind of CPU, not started yet.
    #[must_use]
    pub fn target(&self, cpu: &str, hardware: Hardware) -> QemuTarget<'_> {
        QemuTarget { qemu: self, cpu: cpu.to_owned(), hardware }
    }
}

/// A machine that can be started.
#[derive(Clone, Debug)]
pub struct QemuTarget<'a> {
    qemu: &'a Qemu,
    cpu: String,
    hardware: Hardware,
}

impl QemuTarget<'_> {
    /// QEMU's arguments, with these files.
    fn arguments(&self, image: &str, bundle: &str) -> Vec<String> {
        let Self { cpu, hardware, .. } = self;
        let smmu = if hardware.smmu { ",iommu=smmuv3" } else { "" };
        let machine = format!("virt,virtualization=on,gic-version={}{smmu}", hardware.gic.number());
        let cpus = hardware.cpus.to_string();
        let accelerator = format!("tcg,thread={}", hardware.threads.name());
        [
            ["-machine", &machine],
            ["-accel", &accelerator],
            ["-cpu", cpu],
            ["-smp", &cpus],
            ["-m", &hardware.memory],
            ["-display", "none"],
            ["-monitor", "none"],
            ["-chardev", "stdio,id=console,mux=on,signal=off"],
            ["-serial", "chardev:console"],
            ["-semihosting-config", "enable=on,target=native,chardev=console"],
            ["-kernel", image],
            ["-initrd", bundle],
        ]
        .concat()
        .into_iter()
        .chain(["-nodefaults", "-no-reboot"])
        .map(str::to_owned)
        .collect()
    }
}

impl Target for QemuTarget<'_> {
    fn cpu(&self) -> &str {
        &self.cpu
    }

    fn platform(&self) -> results::Platform {
        results::Platform {
            kind: KIND.to_owned(),
            version: self.qemu.version.to_string(),
            // Without the paths of this machine, so that results of the same command are the same.
            command_line: format!("{PROGRAM} {}", self.arguments("Image", "bundle").join(" ")),
            evidence: Evidence::Emulator,
        }
    }

    fn console(&self) -> wire::plan::Console {
        wire::plan::Console::Semihosting
    }

    fn patience(&self) -> Patience {
        // An emulator that shares a few cores with others is late by seconds.
        Patience { boot: Duration::from_secs(60), grace: Duration::from_secs(15) }
    }

    fn boot(&self, bundle: &[u8]) -> Result<Box<dyn Machine>, BootError> {
        let dir = self.qemu.dir.path();
        let start = || {
            let mut file = tempfile::Builder::new().prefix("bundle-").tempfile_in(dir)?;
            file.write_all(bundle)?;
            let path = |path: &Path| path.display().to_string();
            let mut command = dies_with_us(&self.qemu.program);
            command.args(self.arguments(&path(&dir.join("Image")), &path(file.path())));
            Running::start(&mut command, file)
        };
        match start() {
            Ok(running) => Ok(Box::new(running)),
            Err(source) => Err(BootError { what: self.qemu.program.display().to_string(), source }),
        }
    }
}

/// The command that starts `program` so that the kernel ends it when this process ends, however that happens: by way
/// of `setpriv` (util-linux), where there is one. Without it a killed runner leaves its QEMU to finish the plan.
fn dies_with_us(program: &Path) -> Command {
    const SETPRIV: &str = "setpriv";
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|dir| dir.join(SETPRIV).is_file()) {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// Starts a QEMU with pipes to it. It gets a process group of its own, so that Ctrl-C on the terminal reaches the
/// runner alone, which then ends it after having kept what it said.
fn spawn(command: &mut Command) -> io::Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()
}

/// A started QEMU.
struct Running {
    child: Child,
    console: Receiver<Vec<u8>>,
    complaints: Option<JoinHandle<String>>,
    /// QEMU reads it while it starts; it goes when the machine goes.
    _bundle: tempfile::NamedTempFile,
}

impl Running {
    fn start(command: &mut Command, bundle: tempfile::NamedTempFile) -> io::Result<Self> {
        /// Chunks that wait for a slow reader before QEMU's own writes block.
        const CHUNKS: usize = 256;
        let mut child = spawn(command)?;
        // Nothing is ever typed.
        drop(child.stdin.take());
        let (sender, console) = sync_channel(CHUNKS);
        let stdout = child.stdout.take();
        thread::spawn(move || {
            let Some(mut stdout) = stdout else { return };
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let stderr = child.stderr.take();
        let complaints = thread::spawn(move || {
            let mut text = Vec::new();
            // A QEMU that complains without end is cut off; the first words are the telling ones.
            if let Some(stderr) = stderr {
                let _ = stderr.take(16 << 10).read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        Ok(Self { child, console, complaints: Some(complaints), _bundle: bundle })
    }

    /// Waits for a QEMU that has closed its output, but not for ever.
    fn wait(&mut self) -> io::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > Duration::from_secs(5) {
                self.child.kill()?;
                return self.child.wait();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Machine for Running {
    fn listen(&mut self, wait: Duration) -> Heard {
        match self.console.recv_timeout(wait) {
            Ok(bytes) => return Heard::Bytes(bytes),
            Err(RecvTimeoutError::Timeout) => return Heard::Silence,
            Err(RecvTimeoutError::Disconnected) => {}
        }
        let status = match self.wait() {
            Ok(status) => status,
            Err(error) => return Heard::Off(Off { how: error.to_string(), killed: false }),
        };
        // SIGHUP, SIGINT, SIGKILL, SIGTERM: somebody's hand. Other signals are QEMU's own crashes.
        let killed = matches!(status.signal(), Some(1 | 2 | 9 | 15));
        let complaints = self.complaints.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let how = if complaints.is_empty() { status.to_string() } else { format!("{status}: {complaints}") };
        Heard::Off(Off { how: format!("QEMU's {how}"), killed })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is not an error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A QEMU without a machine that answers questions.
struct Qmp {
    child: Child,
    replies: serde_json::StreamDeserializer<'static, serde_json::de::IoRead<std::process::ChildStdout>, Value>,
}

impl Qmp {
    fn start(program: &Path) -> io::Result<Self> {
        let mut child = spawn(Command::new(program).args([
            "-machine",
            "none",
            "-nodefaults",
            "-display",
            "none",
            "-qmp",
            "stdio",
        ]))?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, replies: serde_json::Deserializer::from_reader(stdout).into_iter() })
    }

    /// The next reply's member `name`. What else comes, such as events, is passed over.
    fn reply(&mut self, name: &str) -> io::Result<Value> {
        for reply in self.replies.by_ref() {
            let mut reply = reply?;
            if let Some(error) = reply.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
            if let Some(value) = reply.get_mut(name) {
                return Ok(value.take());
            }
        }
        let mut why = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut why)?;
        }
        Err(io::Error::other(format!("it ended at once: {}", why.trim())))
    }

    fn ask(&mut self, questions: impl IntoIterator<Item = Value>) -> io::Result<Vec<Value>> {
        let mut count = 0;
        let mut text = Vec::new();
        for question in questions {
            serde_json::to_writer(&mut text, &question)?;
            count += 1;
        }
        let stdin = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&text)?;
        stdin.flush()?;
        (0..count).map(|_| self.reply("return")).collect()
    }

    fn aarch64_cpus_with_el2(&mut self) -> io::Result<Vec<String>> {
        let replies =
            self.ask([json!({"execute": "qmp_capabilities"}), json!({"execute": "query-cpu-definitions"})])?;
        let definitions = replies.last().and_then(Value::as_array).cloned().unwrap_or_default();
        let member = |definition: &Value, name: &str| definition.get(name).and_then(Value::as_str).map(str::to_owned);
        let cpus: Vec<_> =
            definitions.iter().filter_map(|cpu| Some((member(cpu, "name")?, member(cpu, "typename")?))).collect();
        let properties = self.ask(
            cpus.iter()
                .map(|(_, typename)| json!({"execute": "qom-list-properties", "arguments": {"typename": typename}})),
        )?;
        let has = |properties: &Value, wanted: &str| {
            let properties = properties.as_array().map_or(&[][..], Vec::as_slice);
            properties.iter().any(|property| property.get("name").and_then(Value::as_str) == Some(wanted))
        };
        let fit = cpus
            .into_iter()
            .zip(properties)
            .filter(|(_, has_these)| ["aarch64", "has_el2"].iter().all(|wanted| has(has_these, wanted)));
        Ok(fit.map(|((name, _), _)| name).collect())
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // It has no state worth an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The version in a QMP greeting.
fn version(greeting: &Value) -> Option<Version> {
    let number = |name| greeting.pointer(&format!("/version/qemu/{name}")).and_then(Value::as_u64);
    Some(Version { major: number("major")?, minor: number("minor")?, micro: number("micro")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let file = tempfile::NamedTempFile::new().expect("a writable temporary directory");
        Running::start(Command::new("sh").args(["-c", script]), file).expect("there is a shell")
    }

    /// All that the machine says, and how it went off.
    fn listen(machine: &mut Running) -> (String, Off) {
        let mut text = String::new();
        loop {
            match machine.listen(Duration::from_secs(10)) {
                Heard::Bytes(bytes) => text += &String::from_utf8_lossy(&bytes),
                Heard::Silence => panic!("it neither speaks nor ends"),
                Heard::Off(off) => return (text, off),
            }
        }
    }

    #[test]
    fn a_machine_that_fails_says_what_qemu_said() {
        let (text, off) = listen(&mut shell("echo a record; echo no such CPU >&2; exit 3"));
        assert_eq!(text, "a record\n");
        assert_eq!(off, Off { how: "QEMU's exit status: 3: no such CPU".to_owned(), killed: false });
    }

    #[test]
    fn a_kill_is_told_from_a_crash() {
        assert!(listen(&mut shell("kill -KILL $$")).1.killed);
        assert!(!listen(&mut shell("kill -SEGV $$")).1.killed);
    }

    #[test]
    fn a_dropped_machine_is_gone() {
        let machine = shell("exec sleep 1000");
        let process = PathBuf::from(format!("/proc/{}", machine.child.id()));
        assert!(process.exists() || !cfg!(target_os = "linux"));
        drop(machine);
        assert!(!process.exists());
    }

    #[test]
    fn versions_are_ordered_as_qemu_counts_them() {
        let greeting = json!({"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "Debian"}});
        let version = version(&greeting).expect("a greeting");
        assert_eq!(version.to_string(), "10.0.2");
        assert!(version > OLDEST);
    }
}

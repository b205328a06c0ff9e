//! The instances under `cargo test`: one test for each instance and CPU, `qemu::max::el1.split.4k-l2.bbm.load-remote`.
//!
//! All selected tests of one CPU share one boot, which happens when the first of them runs; a test that is asked for
//! alone boots alone. What only failed to be shown is no success: without QEMU its tests are ignored, and say what to
//! install.
//!
//! `SHATTER_TEST_CPUS` names the CPUs, separated by commas, each as `platform:cpu`. Without it they are one of BBM level
//! 2 and one of level 0 on QEMU, and one of level 1 and one of level 2 on the model, where conflict aborts and nT faults
//! can be seen.

mod common;

use std::{
    collections::HashMap,
    num::NonZeroU64,
    process::ExitCode,
    sync::{Arc, LazyLock, Mutex, OnceLock, atomic::AtomicBool},
};

use common::{Absent, find_qemu};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use shatter_runner::{
    judge::judge,
    known,
    plan::Plan,
    platform::{
        model::{self, ModelTarget},
        qemu::{self, Gic, Hardware, Qemu, Threads},
    },
    report::histogram,
    results::CaseResult,
    run::settings,
    target::{Event, Target, drive},
};
use vmsa::{Instance, verdict::Class};

/// Rounds of each instance.
const ROUNDS: NonZeroU64 = NonZeroU64::new(16).expect("not 0");
const TIMEOUT_MS: NonZeroU64 = NonZeroU64::new(10_000).expect("not 0");
const SEED: u64 = 0x2a;

/// QEMU, found when the first test needs it; or what to do about it. Shared, and no static: it has files to remove.
type SharedQemu = Arc<LazyLock<Result<Qemu, Absent>>>;

fn hardware() -> Hardware {
    Hardware { cpus: 2, gic: Gic::V3, smmu: false, memory: "3G".to_owned(), threads: Threads::default() }
}

/// The CPUs that are tested where nothing else is asked for.
const CPUS: &str = "qemu:max,qemu:cortex-a57,model:ideal-l1-fault,model:ideal-l2-abort";

/// The tests of one CPU.
struct Boot {
    qemu: SharedQemu,
    platform: String,
    cpu: String,
    selected: Mutex<Vec<Instance>>,
    /// What came of them, by id; or why nothing came. Filled by the first test that asks.
    results: OnceLock<(HashMap<String, CaseResult>, Option<String>)>,
}

impl Boot {
    fn run(&self) -> (HashMap<String, CaseResult>, Option<String>) {
        let mut results = HashMap::new();
        let target: Box<dyn Target> = match (&*self.platform, &**self.qemu) {
            (model::KIND, _) => match ModelTarget::new(&self.cpu, 2, SEED) {
                Ok(target) => Box::new(target),
                Err(error) => return (results, Some(error.to_string())),
            },
            (qemu::KIND, Ok(qemu)) => Box::new(qemu.target(&self.cpu, hardware())),
            (other, _) => return (results, Some(format!("there is no platform {other}"))),
        };
        let instances = self.selected.lock().expect("nobody panics with it").clone();
        let plan = Plan { settings: settings(SEED, ROUNDS, TIMEOUT_MS), instances };
        let run = drive(&*target, &plan, &AtomicBool::new(false), &mut |event| {
            if let Event::Finished(finished, _) = event {
                results.insert(finished.id.to_string(), judge(finished).case);
            }
            Ok(())
        });
        (results, run.err().map(|failure| failure.to_string()))
    }

    fn test(&self, id: &str) -> Result<Completion, Failed> {
        if let (qemu::KIND, Err(absent)) = (&*self.platform, &**self.qemu) {
            return absent.completion();
        }
        let (results, failure) = self.results.get_or_init(|| self.run());
        let Some(case) = results.get(id) else {
            return Err(failure.as_deref().unwrap_or("the machine did not report it").into());
        };
        let story = format!("{}: {}\n{}", case.verdict, case.reason, histogram(case));
        match case.verdict {
            Class::Skip => Ok(Completion::ignored_with(&case.reason)),
            Class::Fail => match id.parse().ok().and_then(|instance| known::defect(&self.platform, &instance)) {
                Some(defect) => Ok(Completion::ignored_with(format!("fails, as expected: {}", defect.what))),
                None => Err(story.into()),
            },
            Class::Error => Err(story.into()),
            Class::Pass | Class::Observed => Ok(Completion::Completed),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cpus = std::env::var("SHATTER_TEST_CPUS").unwrap_or_else(|_| CPUS.to_owned());
    let qemu: SharedQemu = Arc::new(LazyLock::new(find_qemu));
    let mut trials = vec![];
    for name in cpus.split(',') {
        let (platform, cpu) = name.split_once(':').unwrap_or((qemu::KIND, name));
        let boot = Arc::new(Boot {
            qemu: Arc::clone(&qemu),
            platform: platform.to_owned(),
            cpu: cpu.to_owned(),
            selected: Mutex::default(),
            results: OnceLock::new(),
        });
        for instance in cases::all() {
            let id = instance.to_string();
            let shared = Arc::clone(&boot);
            let trial = Trial::ignorable_test(format!("{platform}::{cpu}::{id}"), move || shared.test(&id));
            if !arguments.is_filtered_out(&trial) {
                boot.selected.lock().expect("nobody panics with it").push(instance);
            }
            trials.push(trial);
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

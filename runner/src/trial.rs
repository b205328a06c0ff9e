//! Many runs on the model, for audits: on all cores, with a bar, and nothing kept but what is asked for.

use std::{num::NonZeroU64, sync::atomic::AtomicBool};

use indicatif::{ProgressBar, ProgressStyle};
use model::mmu::Profile;
use vmsa::{Instance, outcome::End};
use wire::record::Finished;

use crate::{
    parallel,
    plan::Plan,
    platform::model::ModelTarget,
    run::settings,
    target::{Event, Failure, drive},
};

/// Simulated time after which an instance counts as hung, in ms.
pub(crate) const TIMEOUT_MS: NonZeroU64 = NonZeroU64::new(60_000).expect("not 0");

/// Does `job` to each of `items` on all cores, showing `what` this is and how far it has come, and returns what came of them in their order.
pub(crate) fn on_all_cores<T: Sync, R: Send>(what: &str, items: &[T], job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} runs, {eta} left").expect("a constant");
    let bar = ProgressBar::new(items.len() as u64).with_style(style).with_prefix(what.to_owned());
    let done = parallel::map(parallel::cores(), items, |item| {
        let result = job(item);
        bar.inc(1);
        result
    });
    bar.finish_and_clear();
    done
}

/// Instances to run on one CPU of the model.
pub(crate) struct Trial {
    /// The CPU.
    pub(crate) profile: Profile,
    /// Of all choices.
    pub(crate) seed: u64,
    /// In this order.
    pub(crate) instances: Vec<Instance>,
}

/// Runs all of `trials`, showing how far it is, and returns for each, in their order, what `see` gathered of the
/// instances that finished, and why it was not carried through, if it was not.
pub(crate) fn try_all<S: Default + Send>(
    what: &str,
    trials: Vec<Trial>,
    rounds: NonZeroU64,
    smp: u8,
    see: impl Fn(&Trial, &Finished, &mut S) + Sync,
) -> Vec<(Trial, S, Option<Failure>)> {
    try_each(what, trials, rounds, smp, see, |_, _| ())
}

/// As [`try_all`]; `through` is told of each trial that was carried through as soon as it is.
pub(crate) fn try_each<S: Default + Send>(
    what: &str,
    trials: Vec<Trial>,
    rounds: NonZeroU64,
    smp: u8,
    see: impl Fn(&Trial, &Finished, &mut S) + Sync,
    through: impl Fn(&Trial, &S) + Sync,
) -> Vec<(Trial, S, Option<Failure>)> {
    let stop = AtomicBool::new(false);
    let results = on_all_cores(what, &trials, |trial| {
        let plan = Plan { settings: settings(trial.seed, rounds, TIMEOUT_MS), instances: trial.instances.clone() };
        let mut seen = S::default();
        let run = drive(&ModelTarget::of(trial.profile, smp, trial.seed), &plan, &stop, &mut |event| {
            if let Event::Finished(finished, _) = event {
                see(trial, finished, &mut seen);
            }
            Ok(())
        });
        if run.is_ok() {
            through(trial, &seen);
        }
        (seen, run.err())
    });
    trials.into_iter().zip(results).map(|(trial, (seen, failure))| (trial, seen, failure)).collect()
}

/// How the machine died under an instance, if it did: the runner blames the instance, but nobody saw it do anything.
pub(crate) fn died(finished: &Finished) -> Option<String> {
    // hv measures what it runs, whatever comes of it.
    let unmeasured = finished.end == End::Watchdog && finished.setup_ns == 0 && finished.run_ns == 0;
    let reason = finished.reason.as_ref().filter(|_| unmeasured)?;
    Some(format!("the machine died: {reason}"))
}

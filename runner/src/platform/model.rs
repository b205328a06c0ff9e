//! The machine of crate `model`, in this process: the same Image and bundle, on CPUs that the architecture allows.
//!
//! Its CPUs are profiles: what their TLBs keep, what a walker sees and what several matching entries do. A machine may
//! have several kinds of them, as big.LITTLE has. All choices come from the plan's seed, so that a run can be had again
//! exactly.

use std::{
    borrow::Cow,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use model::{
    machine::{Config, End, Machine as Simulated},
    mmu::{Defect, Profile},
    trace::Marks,
};
use wire::abi::Part;

use crate::{
    cpu_names, guest,
    results::{self, Evidence},
    target::{BootError, Heard, Machine, Off, Patience, Target},
};

/// Name of the platform in results.
pub const KIND: &str = "model";

/// The profile that runs where none is named: level 2, and conflict aborts where they are allowed.
pub const USUAL: &str = "ideal-l2-abort";

/// The profiles' names.
#[must_use]
pub fn profiles() -> Vec<String> {
    Profile::ALL.iter().map(|profile| profile.name.to_owned()).collect()
}

/// The defects' names.
fn defects() -> Vec<&'static str> {
    Defect::ALL.iter().map(|defect| defect.name()).collect()
}

/// Why there is no such CPU.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unknown {
    /// No profile has this name.
    #[error(
        "the model has no profile `{name}`; it has {}, {}, each also with a defect: PROFILE+DEFECT, and with others in \
         one machine: PROFILE+PROFILE",
        profiles().join(", "), Profile::SPECIAL.map(|profile| profile.name).join(", ")
    )]
    Profile {
        /// What was asked for.
        name: String,
    },
    /// A profile stands in a machine's name twice, perhaps with a defect.
    #[error("`{name}` has the profile {profile} twice; the hypervisor tells CPUs apart by MIDR_EL1")]
    Twice {
        /// The machine.
        name: String,
        /// The profile.
        profile: &'static str,
    },
    /// A machine has more types of CPU than CPUs.
    #[error("`{name}` has {types} types of CPU and the machine {cpus} CPUs; ask for more by --smp")]
    Types {
        /// The machine.
        name: String,
        /// Its types.
        types: usize,
        /// CPUs.
        cpus: u8,
    },
    /// A CPU has one mistake at most.
    #[error("`{name}` gives {profile} more than one defect, and a CPU has one at most")]
    Defects {
        /// The machine.
        name: String,
        /// The profile.
        profile: &'static str,
    },
    /// No defect, nor a profile, has this name.
    #[error(
        "the model has no defect `{name}`; it has {}, and the profiles {}, {}",
        defects().join(", "), profiles().join(", "), Profile::SPECIAL.map(|profile| profile.name).join(", ")
    )]
    Defect {
        /// What was asked for.
        name: String,
    },
}

/// The CPUs of the machine called `name`: a profile, `PROFILE+DEFECT` for that profile with one mistake put in, or
/// several of these with `+` between them for a machine of several types of CPU, which its PEs have in turn.
///
/// # Errors
/// If there is no such profile or defect, or a profile stands there twice.
pub fn machine(name: &str) -> Result<Vec<Profile>, Unknown> {
    let mut cpus: Vec<Profile> = vec![];
    for word in name.split('+') {
        match (Profile::named(word), cpus.last_mut()) {
            (Some(profile), _) => {
                if cpus.iter().any(|cpu| cpu.midr == profile.midr) {
                    return Err(Unknown::Twice { name: name.to_owned(), profile: profile.name });
                }
                cpus.push(profile);
            }
            (None, Some(cpu)) if cpu.defect.is_none() => {
                let defect = Defect::named(word).ok_or_else(|| Unknown::Defect { name: word.to_owned() })?;
                *cpu = cpu.with(defect);
            }
            (None, Some(cpu)) => return Err(Unknown::Defects { name: name.to_owned(), profile: cpu.name }),
            (None, None) => return Err(Unknown::Profile { name: word.to_owned() }),
        }
    }
    Ok(cpus)
}

/// The name of a CPU: the profile's, with its defect.
fn name_of(profile: &Profile) -> String {
    profile.defect.map_or(profile.name.to_owned(), |defect| format!("{}+{defect}", profile.name))
}

/// A model machine that can be started.
#[derive(Clone, Debug)]
pub struct ModelTarget {
    /// As on the command line, defects included.
    name: String,
    profiles: Vec<Profile>,
    cpus: u8,
    seed: u64,
    image: Cow<'static, [u8]>,
    marks: Option<Marks>,
    /// Instructions of all machines that were started from it.
    instructions: Arc<AtomicU64>,
    /// Those of them in each part of a round, by the [`Part`]'s number: of their first PEs, which make the changes, and
    /// of all others together.
    parts: Arc<Parts>,
}

/// Instructions by part of a round: of the first PE, and of all others.
type Parts = [[AtomicU64; Part::ALL.len()]; 2];

impl ModelTarget {
    /// A [`machine`] of `cpus` PEs, whose choices come from `seed`.
    ///
    /// # Errors
    /// If there is no such machine, or it needs more PEs.
    pub fn new(name: &str, cpus: u8, seed: u64) -> Result<Self, Unknown> {
        let (profiles, name) = (machine(name)?, name.to_owned());
        if profiles.len() > usize::from(cpus) {
            return Err(Unknown::Types { name, types: profiles.len(), cpus });
        }
        Ok(Self::made_of(name, profiles, cpus, seed))
    }

    /// A machine of `cpus` PEs of `profile`, whose choices come from `seed`.
    #[must_use]
    pub fn of(profile: Profile, cpus: u8, seed: u64) -> Self {
        Self::made_of(name_of(&profile), vec![profile], cpus, seed)
    }

    fn made_of(name: String, profiles: Vec<Profile>, cpus: u8, seed: u64) -> Self {
        let image = Cow::Borrowed(guest::IMAGE);
        Self { name, profiles, cpus, seed, image, marks: None, instructions: Arc::default(), parts: Arc::default() }
    }

    /// The same with another Image than ours.
    #[must_use]
    pub fn with_image(self, image: Cow<'static, [u8]>) -> Self {
        Self { image, ..self }
    }

    /// The same machine, keeping a log and leaving what goes before each outcome in `marks`. It makes the same run.
    #[must_use]
    pub fn traced(self, marks: Marks) -> Self {
        Self { marks: Some(marks), ..self }
    }

    /// Instructions that the machines started from here have executed, once those machines are dropped.
    #[must_use]
    pub fn instructions(&self) -> u64 {
        self.instructions.load(Ordering::Relaxed)
    }

    /// Instructions of the machines' first PEs, and of all others together, in each part of a round, by its number; once
    /// those machines are off.
    #[must_use]
    pub fn parts(&self) -> [[u64; Part::ALL.len()]; 2] {
        self.parts.each_ref().map(|parts| parts.each_ref().map(|part| part.load(Ordering::Relaxed)))
    }
}

impl Target for ModelTarget {
    fn cpu(&self) -> &str {
        &self.name
    }

    fn cpu_with(&self, midr: u64) -> String {
        let known = self.profiles.iter().find(|profile| profile.midr == midr);
        known.map_or_else(|| cpu_names::describe(midr), name_of)
    }

    fn platform(&self) -> results::Platform {
        let Self { name, profiles, cpus, seed, .. } = self;
        results::Platform {
            kind: KIND.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command_line: format!("model {name} with {cpus} PEs, seed {seed:#x}"),
            // Nobody must take it for a sound CPU.
            evidence: match profiles.iter().any(|profile| profile.defect.is_some()) {
                true => Evidence::Defective,
                false => Evidence::Model,
            },
        }
    }

    fn console(&self) -> wire::plan::Console {
        wire::plan::Console::Semihosting
    }

    fn patience(&self) -> Patience {
        // Its time is instructions; an instance's whole time can take minutes of ours.
        Patience { boot: Duration::from_secs(120), grace: Duration::from_secs(600) }
    }

    fn boot(&self, bundle: &[u8]) -> Result<Box<dyn Machine>, BootError> {
        /// Chunks of output that wait for a slow reader before the machine does.
        const CHUNKS: usize = 256;
        /// Instructions between two looks at whether it is still wanted.
        const SLICE: u64 = 10_000_000;
        /// Instructions before the first output, after which it is not waited for any longer; ours needs some 100 000.
        const MUTE: u64 = 200_000_000;
        let config = Config {
            cpus: usize::from(self.cpus),
            memory: Config::MEMORY,
            profiles: &self.profiles,
            seed: self.seed,
            image: &self.image,
            bundle,
            bootargs: "",
        };
        let failed = |source| BootError { what: format!("model {}", self.name), source };
        let mut machine = Simulated::new(&config).map_err(|error| failed(io::Error::other(error)))?;
        if let Some(marks) = &self.marks {
            machine.trace(Arc::clone(marks));
        }
        let (sender, console) = sync_channel(CHUNKS);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (executed, all_parts) = (Arc::clone(&self.instructions), Arc::clone(&self.parts));
        let simulate = move || {
            let mut mute = true;
            let how = loop {
                let before = machine.instructions();
                let end = machine.run(SLICE, &mut |bytes| {
                    mute &= bytes.is_empty();
                    // Nobody listens any more: the next look at `stopped` ends it.
                    let _ = sender.send(Heard::Bytes(bytes.to_vec()));
                });
                executed.fetch_add(machine.instructions() - before, Ordering::Relaxed);
                if stopped.load(Ordering::Relaxed) {
                    break None;
                }
                match end {
                    End::Limit if mute && machine.instructions() >= MUTE => {
                        break Some(with_states(&machine, &format!("it printed nothing in {MUTE} instructions")));
                    }
                    End::Limit => {}
                    End::Off | End::Exit(_) | End::Unknown(_) | End::Storm(_) => break Some(end.to_string()),
                    _ => break Some(with_states(&machine, &end.to_string())),
                }
            };
            for (pe, parts) in machine.parts().enumerate() {
                for (sum, part) in all_parts[pe.min(1)].iter().zip(parts) {
                    sum.fetch_add(part, Ordering::Relaxed);
                }
            }
            if let Some(how) = how {
                let _ = sender.send(Heard::Off(Off { how, killed: false }));
            }
        };
        thread::Builder::new().name(format!("model {}", self.name)).spawn(simulate).map_err(failed)?;
        Ok(Box::new(Running { console, stop }))
    }
}

/// `how` the machine ended, and what its PEs were at.
fn with_states(machine: &Simulated, how: &str) -> String {
    machine.states().fold(how.to_owned(), |text, state| format!("{text}\n{state}"))
}

/// A started machine.
struct Running {
    console: Receiver<Heard>,
    stop: Arc<AtomicBool>,
}

impl Machine for Running {
    fn listen(&mut self, wait: Duration) -> Heard {
        match self.console.recv_timeout(wait) {
            Ok(heard) => heard,
            Err(RecvTimeoutError::Timeout) => Heard::Silence,
            Err(RecvTimeoutError::Disconnected) => {
                Heard::Off(Off { how: "its thread ended".to_owned(), killed: false })
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Until its thread has ended, which is soon, and let go of the other end.
        while self.console.recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use model::mmu::{Answers, Nt};
    use vmsa::BbmLevel;

    use super::*;

    #[test]
    fn a_defect_is_part_of_the_name_and_of_what_the_results_are_worth() {
        for profile in Profile::ALL.into_iter().chain(Profile::SPECIAL) {
            assert_eq!(machine(profile.name), Ok(vec![profile]));
            let target = ModelTarget::new(profile.name, 2, 1).expect("a profile's own name");
            assert_eq!(target.platform().evidence, Evidence::Model);
        }
        for defect in Defect::ALL {
            let name = format!("ideal-l2-quiet+{defect}");
            let target = ModelTarget::new(&name, 2, 1).expect("a defect's own name");
            assert_eq!((target.cpu(), target.profiles[0].defect), (&*name, Some(*defect)));
            assert_eq!(target.platform().evidence, Evidence::Defective);
            assert!(target.platform().command_line.contains(&name));
        }
    }

    #[test]
    fn unknown_names_are_answered_by_those_there_are() {
        let complaint = |name| machine(name).expect_err("no machine").to_string();
        for name in ["ideal", "", "+early-dsb", "all"] {
            let complaint = complaint(name);
            assert!(Profile::ALL.iter().all(|profile| complaint.contains(profile.name)), "{complaint}");
        }
        for name in ["ideal-l3+", "ideal-l3+late-dsb", "ideal-l3+early-dsb+ideal-l0+no"] {
            let complaint = complaint(name);
            assert!(Defect::ALL.iter().all(|defect| complaint.contains(defect.name())), "{complaint}");
        }
    }

    #[test]
    fn a_machine_may_have_several_types_of_cpu() {
        let name = "ideal-l0+ideal-l2-quiet+early-dsb+forgetful";
        let target = ModelTarget::new(name, 4, 1).expect("profiles and a defect");
        let [little, big, other] = &target.profiles[..] else { panic!("{:?}", target.profiles) };
        assert_eq!((target.cpu(), little.defect, other.defect), (name, None, None));
        assert_eq!(target.cpu_with(little.midr), "ideal-l0");
        assert_eq!(target.cpu_with(big.midr), "ideal-l2-quiet+early-dsb");
        assert_eq!(target.platform().evidence, Evidence::Defective);

        let complaint = |name, cpus| ModelTarget::new(name, cpus, 1).expect_err("no machine").to_string();
        assert!(complaint(name, 2).contains("3 types of CPU and the machine 2 CPUs"));
        assert!(complaint("ideal-l0+ideal-l0", 2).contains("ideal-l0 twice"));
        assert!(complaint("ideal-l0+torn+early-dsb", 2).contains("one at most"));
    }

    /// The tables of docs/model.md, section by section.
    #[test]
    fn the_document_tells_every_profile_and_every_defect() {
        let text = include_str!("../../../docs/model.md");
        let section = |title: &str| {
            let (_, rest) = text.split_once(title).expect("the section");
            let section = rest.split("\n## ").next().unwrap_or_default();
            section.lines().filter(|line| line.starts_with("| `")).collect::<Vec<_>>()
        };
        let rows = |profiles: &[Profile]| -> Vec<String> {
            let row = |profile: &Profile| {
                let nt = match profile.nt {
                    Nt::Ignored => "nT is ignored",
                    Nt::Fault => "Translation fault",
                    Nt::Walk => "walks, is not cached",
                    Nt::Kept => "walks, is cached, may conflict",
                };
                let answers = |answers: Answers| match answers {
                    Answers::EITHER => "any one of them",
                    Answers::OR_ABORT => "conflict abort or any one",
                    Answers::ANY => "conflict abort, any one, or an amalgamation",
                    _ => "another mixture",
                };
                let (size, other) = (answers(profile.size), answers(profile.other));
                let other = if profile.bbm != BbmLevel::L2 && size == other { "the same" } else { other };
                format!("| `{}` | {} | {nt} | {size} | {other} |", profile.name, profile.bbm)
            };
            profiles.iter().map(row).collect()
        };
        assert_eq!(section("\n## Profiles\n"), rows(&Profile::ALL));
        assert_eq!(section("\n## Special profiles\n"), rows(&Profile::SPECIAL));
        let defects: Vec<String> = Defect::ALL
            .iter()
            .map(|defect| format!("| `{defect}` | `{}` | {} |", defect.profile(), defect.mistake()))
            .collect();
        assert_eq!(section("\n## Defects\n"), defects);
    }
}

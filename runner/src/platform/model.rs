//! The machine of crate `model`, in this process: the same Image and bundle, on CPUs that the architecture allows.
//!
//! Its CPUs are profiles: what their TLBs keep, what a walker sees and what several matching entries do. All choices
//! come from the plan's seed, so that a run can be had again exactly.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use model::{
    machine::{Config, End, Machine as Simulated},
    mmu::Profile,
};

use crate::{
    guest,
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

/// A model machine that can be started.
#[derive(Clone, Debug)]
pub struct ModelTarget {
    profile: Profile,
    cpus: u8,
    seed: u64,
}

impl ModelTarget {
    /// A machine of `cpus` PEs of this profile, if there is one of that name, whose choices come from `seed`.
    #[must_use]
    pub fn new(profile: &str, cpus: u8, seed: u64) -> Option<Self> {
        Some(Self::of(Profile::named(profile)?, cpus, seed))
    }

    /// A machine of `cpus` PEs of this profile, defect included, whose choices come from `seed`.
    #[must_use]
    pub const fn of(profile: Profile, cpus: u8, seed: u64) -> Self {
        Self { profile, cpus, seed }
    }
}

impl Target for ModelTarget {
    fn cpu(&self) -> &str {
        self.profile.name
    }

    fn platform(&self) -> results::Platform {
        let Self { profile, cpus, seed } = self;
        results::Platform {
            kind: KIND.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command_line: format!("model {} with {cpus} PEs, seed {seed:#x}", profile.name),
            evidence: Evidence::Model,
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
        let config = Config {
            cpus: usize::from(self.cpus),
            memory: Config::MEMORY,
            profile: self.profile,
            seed: self.seed,
            image: guest::IMAGE,
            bundle,
            bootargs: "",
        };
        let failed = |source| BootError { what: format!("model {}", self.profile.name), source };
        let mut machine = Simulated::new(&config).map_err(|error| failed(io::Error::other(error)))?;
        let (sender, console) = sync_channel(CHUNKS);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let simulate = move || loop {
            let end = machine.run(SLICE, &mut |bytes| {
                // Nobody listens any more: the next look at `stopped` ends it.
                let _ = sender.send(Heard::Bytes(bytes.to_vec()));
            });
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            if !matches!(end, End::Limit) {
                let how = if matches!(end, End::Off | End::Exit(_)) {
                    end.to_string()
                } else {
                    let places: Vec<_> = machine.places().map(|(pc, el, _)| format!("{pc:#x} at EL{el}")).collect();
                    format!("{end}; its PEs are at {}", places.join(", "))
                };
                let _ = sender.send(Heard::Off(Off { how, killed: false }));
                return;
            }
        };
        thread::Builder::new().name(format!("model {}", self.profile.name)).spawn(simulate).map_err(failed)?;
        Ok(Box::new(Running { console, stop }))
    }
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
    }
}

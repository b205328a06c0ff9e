//! Boots an Image with a bundle: `boot IMAGE BUNDLE BOOTARGS [PROFILE [SEED [CPUS]]]`.
//!
//! The console goes to stdout; how it ended, and how fast it went, to stderr.

use std::{
    env,
    error::Error,
    fs,
    io::{self, Write},
    process::ExitCode,
    time::Instant,
};

use model::{
    machine::{Config, End, Machine},
    mmu::Profile,
};

/// Instructions after which a run is given up.
const LIMIT: u64 = 20_000_000_000;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or_else(|| format!("{what} is missing"));
    let image = fs::read(next("IMAGE")?)?;
    let bundle = fs::read(next("BUNDLE")?)?;
    let bootargs = next("BOOTARGS")?;
    let profile = next("PROFILE").unwrap_or_else(|_| "benign".into());
    let profiles = [Profile::named(&profile).ok_or_else(|| format!("there is no profile {profile}"))?];
    let seed = next("SEED").map_or(Ok(1), |seed| seed.parse())?;
    let cpus = next("CPUS").map_or(Ok(2), |cpus| cpus.parse())?;
    let config = Config {
        cpus,
        memory: Config::MEMORY,
        profiles: &profiles,
        seed,
        image: &image,
        bundle: &bundle,
        bootargs: &bootargs,
    };
    let mut machine = Machine::new(&config)?;
    let start = Instant::now();
    let mut out = io::stdout().lock();
    let mut failed = None;
    let end = machine.run(LIMIT, &mut |bytes| failed = out.write_all(bytes).err().or(failed.take()));
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{end}");
    for state in machine.states() {
        eprintln!("{state}");
    }
    let instructions = machine.instructions();
    eprintln!("{instructions} instructions in {seconds:.3} s, {:.1} M/s", instructions as f64 / seconds / 1e6);
    failed.map_or(Ok(()), Err)?;
    Ok(if matches!(end, End::Off | End::Exit(0)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

//! Where the model's instructions go: `hot [PROFILE [ROUNDS [FILTER…]]]`.
//!
//! Runs the instances that match on one machine and looks at its PEs every few thousand instructions. Prints how fast
//! it went and the code that was met most, as offsets into hv's Image and into the payloads' images, by blocks of
//! 64 bytes; `llvm-objdump` of the guests' ELF files tells what stands there.

use std::{collections::HashMap, env, error::Error, num::NonZeroU64, time::Instant};

use model::{
    machine::{Config, End, Machine, Place, RAM_BASE},
    mmu::Profile,
};
use shatter_runner::{
    guest,
    plan::{Plan, select},
    run::settings,
};
use wire::plan::Console;

/// Instructions between two looks: a prime, so as not to walk in step with a loop.
const SLICE: u64 = 10_007;
/// Bytes of code that count as one place.
const BLOCK: u64 = 64;
/// Where the Image is loaded.
const IMAGE: u64 = RAM_BASE + (2 << 20);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "benign".to_owned());
    let profile = Profile::named(&name).ok_or_else(|| format!("there is no profile {name}"))?;
    let rounds = arguments.next().map_or(Ok(NonZeroU64::MIN), |rounds| rounds.parse())?;
    let filters: Vec<String> = arguments.collect();
    let instances = select(&filters)?;
    let plan =
        Plan { settings: settings(1, rounds, NonZeroU64::new(60_000).ok_or("not 0")?), instances: instances.clone() };
    let bundle = guest::bundle(&plan.text(&instances, Console::Semihosting), &instances)?;
    let config = Config {
        cpus: 2,
        memory: Config::MEMORY,
        profiles: &[profile],
        seed: 1,
        image: guest::IMAGE,
        bundle: &bundle,
        bootargs: "",
    };
    let mut machine = Machine::new(&config)?;
    let mut met: HashMap<(u8, u64), u64> = HashMap::new();
    let start = Instant::now();
    let end = loop {
        match machine.run(SLICE, &mut |_| {}) {
            End::Limit => {}
            end => break end,
        }
        for Place { el, pc, .. } in machine.places().filter(|place| place.on && !place.waits) {
            *met.entry((el, pc / BLOCK * BLOCK)).or_default() += 1;
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let instructions = machine.instructions() as f64;
    println!(
        "{name}: {} instances, {end}; {instructions} instructions in {seconds:.2} s: {:.1} million a second, {:.2} \
         million an instance",
        instances.len(),
        instructions / seconds / 1e6,
        instructions / 1e6 / instances.len() as f64
    );
    let all: u64 = met.values().sum();
    let mut met: Vec<_> = met.into_iter().collect();
    met.sort_by_key(|&(place, count)| (std::cmp::Reverse(count), place));
    for ((el, pc), count) in met.into_iter().take(60) {
        let place = match pc.checked_sub(IMAGE) {
            Some(offset) if offset < guest::IMAGE.len() as u64 => format!("hv+{offset:#x}"),
            _ => format!("{pc:#x}"),
        };
        println!("{:6.2} %  EL{el} {place}", count as f64 * 100.0 / all as f64);
    }
    Ok(())
}

//! The architecture as data and rules: what a live change of page tables needs, and what may be seen of it.
//!
//! This crate is the only place that knows a rule of the Arm Architecture Reference Manual (DDI 0487).
//! It runs in the hypervisor (for the live verdict on the console), in the runner (which judges stored
//! outcomes again) and in tests on the host; it touches no memory and no register.
//!
//! * [`geometry`]: granules, levels, sizes;
//! * [`descriptor`]: descriptors with their fields as types;
//! * [`layout`]: where a descriptor holds what, with 48-bit and with 52-bit addresses;
//! * [`instance`]: what a test does, and its dotted id, which is the only encoding of it;
//! * [`change`]: the changes of the catalogue;
//! * [`feature`]: what an instance asks of a CPU;
//! * [`sequence`]: the steps of each method, as data;
//! * [`memory`]: memory types, as MAIR gives them;
//! * [`rule`]: what the change of one descriptor to any other needs: the table of rules;
//! * [`group`]: the change of a Contiguous group as a whole, and what a misprogrammed one may show;
//! * [`transition`]: whether a sequence gives a change what it needs;
//! * [`mark`]: what hardware writes into descriptors, and what becomes of it;
//! * [`update`]: what becomes of hardware's updates of a descriptor that is replaced;
//! * [`oracle`]: rows of another model's verdicts, held against the rules;
//! * [`permission`]: what a leaf allows to EL1 and to EL0;
//! * [`outcome`]: what one access can see;
//! * [`stress`]: what is done around a change in a round, drawn from the seed;
//! * [`verdict`]: what may be seen in each phase, and the judgement of a finished instance.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod change;
pub mod descriptor;
pub mod feature;
pub mod geometry;
pub mod group;
pub mod instance;
pub mod layout;
pub mod mark;
pub mod memory;
pub mod mutant;
pub mod oracle;
pub mod outcome;
pub mod permission;
pub mod remedy;
pub mod rule;
pub mod sequence;
pub mod shatter;
pub mod stress;
#[cfg(test)]
mod testing;
pub mod tlbi;
pub mod transition;
pub mod update;
pub mod verdict;
mod words;

pub use descriptor::Descriptor;
pub use geometry::{BbmLevel, Granule, Level};
pub use instance::Instance;

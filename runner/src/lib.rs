//! The `shatter` command as a library.
//!
//! A run goes from top to bottom: [`plan`] chooses instances, [`guest`] packs them with what boots, [`platform`]
//! starts machines, [`target`] carries the plan through on one of them, [`judge`] says what the outcomes come to,
//! [`results`] keeps them, [`report`] and [`compare`] show them. [`cli`] is the command line, [`run`] its main command.
#![forbid(unsafe_code)]

pub mod audit;
pub mod bench;
pub mod cli;
pub mod compare;
pub mod controls;
pub mod cpu_names;
pub mod doctor;
pub mod errata;
pub mod explain;
pub mod guest;
pub mod ingest;
pub mod judge;
pub mod known;
pub mod list;
pub mod oracle;
pub mod parallel;
pub mod plan;
pub mod platform;
pub mod progress;
pub mod report;
pub mod results;
pub mod run;
pub mod stats;
pub mod target;
pub mod trace;
mod trial;
pub mod until;

//! What a run looks like while it goes on: a bar for each CPU on a terminal, a line for each CPU elsewhere.
//!
//! Everything goes to standard error; standard output is the report's.

use std::{fmt, io::IsTerminal as _, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use vmsa::verdict::Class;

/// The bars of a run.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Bars, if standard error is a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Prints a line above the bars.
    pub fn line(&self, line: impl fmt::Display) {
        // A terminal that went away is no reason to end a run.
        match &self.bars {
            Some(bars) => drop(bars.println(line.to_string())),
            None => eprintln!("{line}"),
        }
    }

    /// A bar for `instances` instances on `cpu`.
    #[must_use]
    pub fn cpu(&self, cpu: &str, instances: usize) -> Bar {
        let bar = self.bars.as_ref().map_or_else(ProgressBar::hidden, |bars| {
            let style = ProgressStyle::with_template("{prefix:14} {wide_bar} {pos}/{len} {msg:46!}")
                .expect("the template is a constant and a test shows it");
            bars.add(ProgressBar::new(instances as u64)).with_style(style).with_prefix(cpu.to_owned())
        });
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { bar, bad: 0 }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// The bar of one CPU; goes when it is dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    bad: u64,
}

impl Bar {
    /// So many instances will end.
    pub fn expect(&mut self, instances: usize) {
        self.bar.set_length(instances as u64);
    }

    /// An instance is about to start.
    pub fn started(&mut self, id: &str) {
        self.bar.set_message(if self.bad > 0 { format!("{} bad; {id}", self.bad) } else { id.to_owned() });
    }

    /// An instance ended.
    pub fn finished(&mut self, class: Class) {
        self.bad += u64::from(matches!(class, Class::Fail | Class::Error));
        self.bar.inc(1);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_made_as_on_a_terminal() {
        let progress = Progress { bars: Some(MultiProgress::new()) };
        let mut bar = progress.cpu("max", 2);
        bar.started("selftest.quiet");
        bar.finished(Class::Fail);
        assert_eq!((bar.bar.position(), bar.bar.length(), bar.bad), (1, Some(2), 1));
        bar.started("selftest.clean");
        assert_eq!(bar.bar.message(), "1 bad; selftest.clean");
    }
}

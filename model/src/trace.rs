//! What went before an outcome: a log of what the TLBs, the walkers and the software that changes tables did.
//!
//! There is a log only in a machine that was asked for one. It hears what the model does and never asks the source of
//! choices anything, so that a traced run is the same run. The software says what its events belong to, by a HINT that
//! is a NOP everywhere else ([`wire::abi::mark`] has its number and its registers): which addresses matter, and when an
//! outcome was counted for the first time. At each of the latter the log's last events are set aside.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex},
};

use wire::abi::mark;

/// Events that a log holds.
const KEPT: usize = 4096;
/// Events before a mark that are set aside.
const BEFORE: usize = 400;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Instructions that all PEs executed before it, sleeps apart: the physical counter.
    pub time: u64,
    /// The PE it happened on, which for a TLBI that arrives is not its issuer.
    pub pe: usize,
    /// One word for it.
    pub what: &'static str,
    /// The rest.
    pub details: Arc<str>,
}

/// The first time that a vCPU counted an outcome in an instance, and what went before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// CRC-32 of the instance's id.
    pub instance: u32,
    /// Number of its [`Phase`](vmsa::outcome::Phase).
    pub phase: u64,
    /// Code of its [`Kind`](vmsa::outcome::Kind).
    pub kind: u64,
    /// The round, counted from 0.
    pub round: u64,
    /// When.
    pub time: u64,
    /// The PE that counted it.
    pub pe: usize,
    /// What went before, oldest first.
    pub events: Vec<Event>,
}

/// Where a machine leaves its marks.
pub type Marks = Arc<Mutex<Vec<Mark>>>;

/// The log of one machine.
#[derive(Clone, Debug)]
pub struct Log {
    ring: VecDeque<Event>,
    time: u64,
    pe: usize,
    instance: u32,
    /// First address of the instance's window and its size in bytes; all addresses matter as long as it is 0.
    window: (u64, u64),
    /// PAs of descriptors that a walk has read.
    descriptors: HashSet<u64>,
    marks: Marks,
}

impl Log {
    /// An empty log that leaves what it sets aside in `marks`.
    #[must_use]
    pub fn new(marks: Marks) -> Self {
        Self {
            ring: VecDeque::with_capacity(KEPT),
            time: 0,
            pe: 0,
            instance: 0,
            window: (0, 0),
            descriptors: HashSet::new(),
            marks,
        }
    }

    /// What comes happens at `time` on `pe`.
    pub(crate) fn at(&mut self, time: u64, pe: usize) {
        (self.time, self.pe) = (time, pe);
    }

    /// What comes happens on `pe`.
    pub(crate) fn on(&mut self, pe: usize) {
        self.pe = pe;
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, what: &'static str, details: &dyn fmt::Display) {
        if self.ring.len() == KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(Event { time: self.time, pe: self.pe, what, details: details.to_string().into() });
    }

    /// Whether `[start, start + size)` has anything to do with the window.
    pub(crate) fn matters(&self, start: u64, size: u64) -> bool {
        // As TLB entries have them: what is above bit 55 does not take part in translation.
        let in_tlb = |address: u64| address & ((1 << 56) - 1);
        let (start, (base, length)) = (in_tlb(start), (in_tlb(self.window.0), self.window.1));
        length == 0 || start < base.saturating_add(length) && base < start.saturating_add(size)
    }

    /// A walk read the descriptor at `pa`.
    pub(crate) fn read(&mut self, pa: u64) {
        self.descriptors.insert(pa);
    }

    /// Whether a walk has read the descriptor at `pa`.
    pub(crate) fn is_descriptor(&self, pa: u64) -> bool {
        self.descriptors.contains(&pa)
    }

    /// The software's mark, with its registers x0 to x3.
    pub(crate) fn mark(&mut self, [what, x1, x2, x3]: [u64; 4]) {
        match what {
            mark::WINDOW => {
                (self.instance, self.window) = (x1 as u32, (x2, x3));
                self.ring.clear();
                // Tables of an instance that has ended are memory like any other.
                self.descriptors.clear();
            }
            mark::FIRST => {
                let events = self.ring.iter().skip(self.ring.len().saturating_sub(BEFORE)).cloned().collect();
                let &mut Self { instance, time, pe, .. } = self;
                let mark = Mark { instance, phase: x1, kind: x2, round: x3, time, pe, events };
                self.marks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(mark);
            }
            // A number of a later version's.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_sets_aside_what_went_before_it_in_its_instance() {
        let marks = Marks::default();
        let mut log = Log::new(Arc::clone(&marks));
        log.note("fill", &"of another instance");
        log.mark([mark::WINDOW, 7, 0x1000, 0x2000]);
        for time in 0..2 * KEPT as u64 {
            log.at(time, 1);
            log.note("fill", &time);
        }
        log.mark([mark::FIRST, 1, 2, 3]);
        log.note("evict", &"too late");
        let marks = marks.lock().expect("nobody panicked");
        let [Mark { instance: 7, phase: 1, kind: 2, round: 3, pe: 1, events, .. }] = &marks[..] else {
            panic!("{marks:?}")
        };
        assert_eq!(events.len(), BEFORE);
        let times: Vec<u64> = events.iter().map(|event| event.time).collect();
        assert!(times.iter().copied().eq(2 * KEPT as u64 - BEFORE as u64..2 * KEPT as u64));
    }

    #[test]
    fn only_the_window_matters_once_it_is_known() {
        let mut log = Log::new(Marks::default());
        assert!(log.matters(0x5000, 1));
        log.mark([mark::WINDOW, 7, 0x1000, 0x2000]);
        let matters =
            [(0, 0x1000), (0, 0x1001), (0x2fff, 1), (0x3000, 8)].map(|(start, size)| log.matters(start, size));
        assert_eq!(matters, [false, true, true, false]);
    }
}

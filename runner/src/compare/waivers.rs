//! What is known and excused, until a day.
//!
//! A gate that is red for a known reason is soon ignored. A waiver says which differences are known, why, and until when;
//! it never hides one: a waived difference is shown with its reason, and does not fail the comparison. A waiver that is past its
//! day excuses nothing, and one that excuses nothing any more is told, so that the file does not outlive what it is about.
//!
//! ```toml
//! [[waiver]]
//! id = "el1.retype.*.misaligned-*"     # an instance, with `*` for anything; or none, for differences of a whole CPU
//! cpu = "qemu/*"                       # any, if left out
//! kind = "verdict"                     # any, if left out
//! reason = "QEMU takes no Alignment fault"
//! until = 2026-12-31                   # the last day
//! by = "somebody@example.org"          # may be left out
//! ```

use std::{fs, path::Path};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::Change;
use crate::results::Error;

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    waiver: Vec<Entry>,
}

/// One of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: Option<String>,
    cpu: Option<String>,
    kind: Option<String>,
    reason: String,
    until: toml::value::Datetime,
    by: Option<String>,
}

/// Why a difference does not count.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Waived {
    /// What is known of it.
    pub reason: String,
    /// The last day on which it is excused.
    pub until: NaiveDate,
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A waiver, and how often it applied.
#[derive(Debug)]
struct Waiver {
    id: Option<WildMatch>,
    cpu: Option<WildMatch>,
    kind: Option<String>,
    waived: Waived,
    /// As people find it in the file.
    named: String,
    used: usize,
}

/// All of a file.
#[derive(Debug, Default)]
pub struct Waivers {
    all: Vec<Waiver>,
    today: NaiveDate,
}

/// What `kind` may be.
const KINDS: [&str; 10] = [
    "verdict",
    "new-outcome",
    "rate",
    "fewer-rounds",
    "coverage-lost",
    "cpu-lost",
    "cpu-new",
    "capability",
    "control",
    "evidence",
];

impl Waivers {
    /// Reads the file at `path`, for `today`.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Waivers`], which names the line.
    pub fn load(path: &Path, today: NaiveDate) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let bad = |line: usize, why: String| Error::Waivers { path: path.to_owned(), line, why };
        let file: File = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            bad(text[..at].matches('\n').count() + 1, error.message().to_owned())
        })?;
        let heads = text.lines().zip(1..).filter(|(line, _)| line.trim_start().starts_with("[[waiver]]"));
        let lines = heads.map(|(_, number)| number).chain(std::iter::repeat(1));
        let all = file.waiver.into_iter().zip(lines).map(|(entry, line)| {
            let Entry { id, cpu, kind, reason, until, by } = entry;
            if let Some(kind) = kind.as_ref().filter(|kind| !KINDS.contains(&kind.as_str())) {
                return Err(bad(line, format!("there is no kind `{kind}`; there are {}", KINDS.join(", "))));
            }
            if reason.trim().is_empty() {
                return Err(bad(line, "a waiver needs a reason".to_owned()));
            }
            let day = until.date.filter(|_| until.time.is_none());
            let day = day.and_then(|day| NaiveDate::from_ymd_opt(day.year.into(), day.month.into(), day.day.into()));
            let until = day.ok_or_else(|| bad(line, format!("`until` must be a day as 2026-12-31, not {until}")))?;
            let named = format!("waiver at line {line} ({})", id.as_deref().or(cpu.as_deref()).unwrap_or("any"));
            let pattern = |text: String| WildMatch::new(&text);
            let (id, cpu, waived) = (id.map(pattern), cpu.map(pattern), Waived { reason, until, by });
            Ok(Waiver { id, cpu, kind, waived, named, used: 0 })
        });
        Ok(Self { all: all.collect::<Result<_, _>>()?, today })
    }

    /// Why `change` of `cpu` does not count, if it is excused.
    pub(super) fn of(&mut self, cpu: &str, change: &Change) -> Option<Waived> {
        let today = self.today;
        let applies = |waiver: &&mut Waiver| {
            waiver.kind.as_deref().is_none_or(|kind| kind == change.kind())
                && waiver.cpu.as_ref().is_none_or(|pattern| pattern.matches(cpu))
                && match (&waiver.id, change.id()) {
                    (Some(pattern), Some(id)) => pattern.matches(id),
                    (Some(_), None) => false,
                    (None, _) => true,
                }
        };
        let mut excused = None;
        for waiver in self.all.iter_mut().filter(applies) {
            waiver.used += 1;
            if waiver.waived.until >= today {
                excused = excused.or_else(|| Some(waiver.waived.clone()));
            }
        }
        excused
    }

    /// Those that are past their day, and those that excused nothing.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        self.all.iter().filter_map(|Waiver { named, used, waived: Waived { until, reason, .. }, .. }| match used {
            0 => Some(format!("{named} is no longer needed: nothing that it is about differs ({reason})")),
            _ if *until < self.today => Some(format!(
                "{named} expired on {until}, and excuses nothing; it is about {used} differences ({reason})"
            )),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Waivers, Error> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("waivers.toml");
        fs::write(&path, text).expect("it can be written");
        Waivers::load(&path, NaiveDate::from_ymd_opt(2026, 11, 24).expect("a day"))
    }

    fn lost(id: &str) -> Change {
        Change::CoverageLost { id: id.to_owned(), base: "pass" }
    }

    #[test]
    fn a_waiver_excuses_what_it_names_until_its_day() {
        let text = "[[waiver]]\nid = \"el1.split.*\"\ncpu = \"board/*\"\nkind = \"coverage-lost\"\nreason = \"r\"\nuntil = DAY\n";
        let mut waivers = load(&text.replace("DAY", "2026-11-24")).expect("a waiver");
        assert!(waivers.of("board/altra", &lost("el1.split.4k-l2.bbm.load-remote")).is_some());
        assert!(waivers.of("qemu/max", &lost("el1.split.4k-l2.bbm.load-remote")).is_none());
        assert!(waivers.of("board/altra", &lost("el1.merge.4k-l2.bbm.load-remote")).is_none());
        assert!(waivers.of("board/altra", &Change::CpuLost).is_none());
        assert_eq!(waivers.notes().count(), 0);

        let mut waivers = load(&text.replace("DAY", "2026-11-23")).expect("a waiver");
        assert!(waivers.of("board/altra", &lost("el1.split.4k-l2.bbm.load-remote")).is_none());
        let notes: Vec<String> = waivers.notes().collect();
        assert!(notes.len() == 1 && notes[0].contains("line 1 (el1.split.*) expired on 2026-11-23"), "{notes:?}");

        let waivers = load(&text.replace("DAY", "2027-01-01")).expect("a waiver");
        assert!(waivers.notes().next().is_some_and(|note| note.contains("no longer needed")));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line() {
        for (text, line, why) in [
            ("[[waiver]]\nreason = \"r\"\n", 1, "until"),
            ("[[waiver]]\nreason = \"r\"\nuntil = 2026-12-31\nids = \"x\"\n", 4, "ids"),
            ("\n\n[[waiver]]\nreason = \" \"\nuntil = 2026-12-31\n", 3, "a reason"),
            ("[[waiver]]\nreason = \"r\"\nuntil = 2026-12-31\nkind = \"verdicts\"\n", 1, "there are verdict,"),
            ("[[waiver]]\nreason = \"r\"\nuntil = 12:00:00\n", 1, "must be a day"),
            ("[[waiver]\n", 1, ""),
        ] {
            match load(text) {
                Err(Error::Waivers { line: at, why: told, .. }) => {
                    assert!(at == line && told.contains(why), "{text}: {at}: {told}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}

//! Writing a result file while its cases end, so that nothing is lost.
//!
//! A run may be killed, and its disk may fill up. Rewriting the JSON for every case would make a long run quadratic,
//! and appending to a JSON object is not possible. So every case is first appended to `<cpu>.journal`, one JSON text a
//! line behind a first line that holds the file's head, and handed to the operating system at once. The JSON itself is
//! replaced from time to time, and at the end, by a complete new file that is renamed over the old one. Whoever reads
//! a result file takes the journal beside it into account: it holds what the last snapshot does not. After the last
//! snapshot is on the disk the journal is removed.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Entry, Error, ResultFile, Run};

/// Least time between two snapshots of the JSON.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(500);

/// Where the journal of the result file at `path` stands.
pub(super) fn path_of(path: &Path) -> PathBuf {
    path.with_extension("journal")
}

/// The journal's head and entries, if there is a journal that got as far as having a head.
pub(super) fn read(path: &Path) -> Result<Option<(ResultFile, Vec<Entry>)>, Error> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    // A line without its end is one whose writer was stopped in the middle.
    let complete = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let mut lines = text[..complete].split(|byte| *byte == b'\n').enumerate();
    let Some((_, head)) = lines.next().filter(|(_, head)| !head.is_empty()) else { return Ok(None) };
    let head = ResultFile::parse(path, head)?;
    let entries = lines
        .map(|(i, line)| serde_json::from_slice(line).map_err(Error::damaged(path, i + 1)))
        .collect::<Result<_, _>>()?;
    Ok(Some((head, entries)))
}

/// Writes one result file while its cases end.
#[derive(Debug)]
pub struct Writer {
    file: ResultFile,
    /// Of the cases in `file`.
    ids: HashSet<String>,
    path: PathBuf,
    journal: File,
    snapshot: Instant,
    /// What the last snapshot cost; the next one waits for a multiple of it, so that snapshots stay a small part of a
    /// long run however large the file grows.
    snapshot_cost: Duration,
}

impl Writer {
    /// Starts `file`, which has no cases yet, below the results directory `dir`. An older result at the same place
    /// stays until this one's first snapshot.
    ///
    /// # Errors
    /// [`Error::Io`], if the directory or the journal cannot be made.
    pub fn create(dir: &Path, file: ResultFile) -> Result<Self, Error> {
        let path = file.path(dir);
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        let journal_path = path_of(&path);
        let mut journal = File::create(&journal_path).map_err(Error::io("create", &journal_path))?;
        journal.write_all(&line(&file)).map_err(Error::io("write", &journal_path))?;
        Ok(Self { ids: file.ids(), file, path, journal, snapshot: Instant::now(), snapshot_cost: Duration::ZERO })
    }

    /// Goes on with what an earlier run left, if there is something; otherwise as [`create`](Self::create).
    ///
    /// # Errors
    /// [`Error::Different`], if the earlier run used another image, platform, CPU, seed or number of rounds, and all
    /// of [`ResultFile::load`] and [`create`](Self::create).
    pub fn resume(dir: &Path, file: ResultFile) -> Result<Self, Error> {
        let path = file.path(dir);
        if !path.exists() && !path_of(&path).exists() {
            return Self::create(dir, file);
        }
        let mut earlier = ResultFile::load(&path)?;
        for (what, then, now) in [
            ("image", &earlier.tool.image, &file.tool.image),
            ("platform version", &earlier.platform.version, &file.platform.version),
            ("machine", &of_machine(&earlier), &of_machine(&file)),
            ("MIDR", &earlier.cpu.midr.to_string(), &file.cpu.midr.to_string()),
            ("seed", &earlier.run.seed.to_string(), &file.run.seed.to_string()),
            ("number of rounds", &earlier.run.rounds.to_string(), &file.run.rounds.to_string()),
        ] {
            if then != now {
                return Err(Error::Different { path, what, then: then.clone(), now: now.clone() });
            }
        }
        earlier.run.planned = earlier.run.planned.max(file.run.planned);
        // What the old journal holds is made safe before the new one takes its place.
        earlier.save(&path)?;
        let head = ResultFile { run: earlier.run.clone(), ..file };
        Ok(Self { ids: earlier.ids(), file: earlier, ..Self::create(dir, head)? })
    }

    /// Keeps what came of an instance, in place of what the file has of it already; when this returns, a killed runner does not lose it any more.
    ///
    /// # Errors
    /// [`Error::Io`]. What was added before is still safe.
    pub fn add(&mut self, entry: Entry) -> Result<(), Error> {
        self.journal.write_all(&line(&entry)).map_err(Error::io("write", &path_of(&self.path)))?;
        if self.ids.insert(entry.case.id.clone()) {
            self.file.push(entry);
        } else {
            self.file.merge(vec![entry]);
        }
        if self.snapshot.elapsed() >= SNAPSHOT_INTERVAL.max(self.snapshot_cost * 20) {
            self.save()?;
        }
        Ok(())
    }

    /// What was collected so far.
    #[must_use]
    pub fn file(&self) -> &ResultFile {
        &self.file
    }

    /// Duration and lost lines, which grow while the run goes on.
    pub fn run_mut(&mut self) -> &mut Run {
        &mut self.file.run
    }

    /// Where the file stands.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the last snapshot and removes the journal.
    ///
    /// # Errors
    /// [`Error::Io`]; the journal stays then, and nothing is lost.
    pub fn finish(mut self) -> Result<ResultFile, Error> {
        self.save()?;
        let journal = path_of(&self.path);
        fs::remove_file(&journal).map_err(Error::io("remove", &journal))?;
        Ok(self.file)
    }

    fn save(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        self.file.worthless = crate::controls::worthless(&self.file);
        self.file.save(&self.path)?;
        (self.snapshot, self.snapshot_cost) = (Instant::now(), start.elapsed());
        Ok(())
    }
}

/// The types of CPU beside a file's own.
fn of_machine(file: &ResultFile) -> String {
    let cpus = file.machine.iter().flat_map(|machine| &machine.cpus);
    let cpus: Vec<String> = cpus.map(|cpu| format!("{} × {}", cpu.count, cpu.midr)).collect();
    if cpus.is_empty() { "one type of CPU".to_owned() } else { cpus.join(", ") }
}

/// `value` as one line of JSON, written in one piece so that a reader never meets half of it with an end.
fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("result types have string keys only");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{
        Hex,
        tests::{entry, fixture},
    };

    fn head() -> ResultFile {
        let file = fixture("base/board/altra.json");
        ResultFile::new(file.tool, file.platform, file.cpu, file.run)
    }

    fn ids(file: &ResultFile) -> Vec<&str> {
        file.cases.iter().map(|case| case.id.as_str()).collect()
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("there is room for temporary files")
    }

    #[test]
    fn a_killed_writer_loses_nothing() {
        let dir = dir();
        let mut writer = Writer::create(dir.path(), head()).expect("the directory is writable");
        let path = writer.path().to_owned();
        for id in ["a", "b", "c"] {
            writer.add(entry(id, 1)).expect("there is room");
        }
        // Killed: no snapshot, no end.
        drop(writer);
        assert!(!path.exists());
        assert_eq!(ids(&ResultFile::load(&path).expect("the journal is enough")), ["a", "b", "c"]);
        assert_eq!(crate::results::load_all(dir.path()).expect("a directory is searched for it too").len(), 1);

        // And while it wrote the fourth.
        let journal = path_of(&path);
        let mut text = fs::read(&journal).expect("it is there");
        text.extend_from_slice(br#"{"case":{"id":"d","ver"#);
        fs::write(&journal, text).expect("there is room");
        assert_eq!(ids(&ResultFile::load(&path).expect("half a line is none")), ["a", "b", "c"]);

        let mut writer = Writer::resume(dir.path(), head()).expect("it is the same run");
        assert_eq!(ids(writer.file()), ["a", "b", "c"]);
        writer.add(entry("d", 1)).expect("there is room");
        writer.add(entry("a", 2)).expect("there is room");
        let file = writer.finish().expect("there is room");
        assert_eq!(ids(&file), ["b", "c", "d", "a"]);
        assert_eq!((file.cases[3].rounds, file.controls.len()), (2, 4));
        assert!(!journal.exists());
        assert_eq!(ResultFile::load(&path).expect("it is whole"), file);
    }

    #[test]
    fn a_snapshot_and_the_journal_behind_it_are_one() {
        let dir = dir();
        let mut writer = Writer::create(dir.path(), head()).expect("the directory is writable");
        writer.add(entry("a", 1)).expect("there is room");
        writer.save().expect("there is room");
        writer.add(entry("b", 1)).expect("there is room");
        let path = writer.path().to_owned();
        drop(writer);
        assert_eq!(ids(&ResultFile::load(&path).expect("both are whole")), ["a", "b"]);
        fs::remove_file(path_of(&path)).expect("it is there");
        assert_eq!(ids(&ResultFile::load(&path).expect("the snapshot is whole")), ["a"]);
    }

    #[test]
    fn a_new_run_replaces_an_old_result() {
        let dir = dir();
        let mut writer = Writer::create(dir.path(), head()).expect("the directory is writable");
        writer.add(entry("old", 1)).expect("there is room");
        let path = writer.path().to_owned();
        writer.finish().expect("there is room");

        let mut later = head();
        later.run.start += chrono::TimeDelta::seconds(1);
        let mut writer = Writer::create(dir.path(), later).expect("the directory is writable");
        writer.add(entry("new", 1)).expect("there is room");
        drop(writer);
        assert_eq!(ids(&ResultFile::load(&path).expect("the later journal counts")), ["new"]);
    }

    #[test]
    fn another_run_is_not_resumed() {
        let dir = dir();
        Writer::create(dir.path(), head()).expect("the directory is writable").finish().expect("there is room");
        let mut other = head();
        other.run.seed = Hex(head().run.seed.0 + 1);
        let error = Writer::resume(dir.path(), other).expect_err("the seed differs").to_string();
        assert!(error.contains("its seed was 0x2a and is now 0x2b; run it again without --resume"), "{error}");
    }

    #[test]
    fn a_damaged_journal_is_named_with_its_line() {
        let dir = dir();
        let writer = Writer::create(dir.path(), head()).expect("the directory is writable");
        let path = writer.path().to_owned();
        drop(writer);
        let mut text = fs::read(path_of(&path)).expect("it is there");
        text.extend_from_slice(b"{\"case\": 1}\n{}\n");
        fs::write(path_of(&path), text).expect("there is room");
        let error = ResultFile::load(&path).expect_err("the second line is damaged").to_string();
        assert!(error.contains("altra.journal:2:10: "), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = dir();
        let file = dir.path().join("file");
        fs::write(&file, "").expect("there is room");
        let error = Writer::create(&file, head()).expect_err("it is not a directory").to_string();
        assert!(error.starts_with(&format!("failed to create {}/board: ", file.display())), "{error}");
    }

    /// Linux has a device that is always full.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let dir = dir();
        let journal = dir.path().join("board/altra.journal");
        fs::create_dir(dir.path().join("board")).expect("there is room");
        std::os::unix::fs::symlink("/dev/full", &journal).expect("there is room");
        let error = Writer::create(dir.path(), head()).expect_err("it is full").to_string();
        assert!(error.starts_with(&format!("failed to write {}: No space left", journal.display())), "{error}");
    }
}

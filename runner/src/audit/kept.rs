//! What an audit of hours has seen so far, in a file, so that one that is stopped goes on where it was.
//!
//! JSON, a line each: what is audited, then every run that was carried through, as it ends. Runs of another build or
//! with other settings do not add up to anything, so that a file is of one audit alone. A last line without its end is
//! what a killed run leaves behind, and is dropped; any other damage is named, and the file is left as it is.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else was tested, or by something else.
    #[error(
        "{} is of another audit (another build of shatter, other instances, --rounds or --smp): name another file",
        path.display()
    )]
    Another {
        /// The file.
        path: PathBuf,
    },
    /// A line is not what it was written as.
    #[error("{}:{line}: this is no run of an audit: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the JSON reader says.
        why: String,
    },
}

/// The first line.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    /// Of all that its runs have in common.
    audit: String,
}

/// Any other line.
#[derive(Serialize, Deserialize)]
struct Run<S> {
    profile: String,
    seed: u64,
    seen: S,
}

/// What was seen of each profile with each seed.
pub(super) type Runs<S> = BTreeMap<(String, u64), S>;

/// A file of runs, open to have more added.
pub(super) struct Kept {
    path: PathBuf,
    /// And the first thing that went wrong with it.
    file: Mutex<(File, Option<Error>)>,
}

impl Kept {
    /// Opens or begins the file at `path` of the audit that `of` tells from all others, and returns its runs, by
    /// profile and seed.
    ///
    /// # Errors
    /// If it is of another audit, damaged, or out of reach.
    pub(super) fn open<S: DeserializeOwned>(path: &Path, of: &str) -> Result<(Self, Runs<S>), Error> {
        let failed = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open"))?;
        let mut text = vec![];
        file.read_to_end(&mut text).map_err(failed("read"))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut lines = text[..whole].split_inclusive(|byte| *byte == b'\n').enumerate();
        let damaged =
            |line| move |why: serde_json::Error| Error::Damaged { path: path.to_owned(), line, why: why.to_string() };

        let of = Of { audit: of.to_owned() };
        let begun = match lines.next() {
            Some((_, line)) if serde_json::from_slice::<Of>(line).map_err(damaged(1))? != of => {
                return Err(Error::Another { path: path.to_owned() });
            }
            // Half a line, and not the beginning of one of ours: somebody's file, which is not to be cut.
            None if !text.is_empty() && !line(&of).starts_with(&text) => {
                return Err(Error::Another { path: path.to_owned() });
            }
            first => first.is_some(),
        };
        let runs = lines
            .map(|(i, line)| {
                let run: Run<S> = serde_json::from_slice(line).map_err(damaged(i + 1))?;
                Ok(((run.profile, run.seed), run.seen))
            })
            .collect::<Result<_, Error>>()?;

        file.set_len(whole as u64).map_err(failed("cut"))?;
        file.seek(SeekFrom::End(0)).map_err(failed("write"))?;
        if !begun {
            file.write_all(&line(&of)).map_err(failed("write"))?;
        }
        Ok((Self { path: path.to_owned(), file: Mutex::new((file, None)) }, runs))
    }

    /// Adds a run. That it could not be is told at the end: what was seen can be reported all the same.
    pub(super) fn add<S: Serialize>(&self, profile: &str, seed: u64, seen: &S) {
        let (file, trouble) = &mut *self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_none()
            && let Err(source) = file.write_all(&line(&Run { profile: profile.to_owned(), seed, seen }))
        {
            *trouble = Some(Error::Io { action: "write", path: self.path.clone(), source });
        }
    }

    /// Closes the file.
    ///
    /// # Errors
    /// If not all runs are in it.
    pub(super) fn close(self) -> Result<(), Error> {
        let (_, trouble) = self.file.into_inner().unwrap_or_else(PoisonError::into_inner);
        trouble.map_or(Ok(()), Err)
    }
}

/// `content` as a line of the file.
fn line(content: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(content).expect("strings and numbers");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk: what was there before stays readable, and the trouble is told, once, at the end.
    #[test]
    fn a_disk_that_is_full_is_told_at_the_end() {
        let Ok(file) = OpenOptions::new().write(true).open("/dev/full") else { return };
        let kept = Kept { path: "/dev/full".into(), file: Mutex::new((file, None)) };
        kept.add("ideal-l0", 1, &0_u8);
        kept.add("ideal-l0", 2, &0_u8);
        let told = kept.close().expect_err("it is full").to_string();
        assert!(told.starts_with("failed to write /dev/full: "), "{told}");
    }

    /// `--keep` of the wrong file must not cost its owner the file.
    #[test]
    fn a_file_that_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for content in ["no newline", "a line\n", "{\"audit\":\"other\"}\n", "{\"audit\""] {
            let path = folder.path().join("file");
            std::fs::write(&path, content).expect("written");
            let opened = Kept::open::<u8>(&path, "this").map(|_| ());
            if content == "{\"audit\"" {
                opened.expect("the beginning of ours");
            } else {
                opened.expect_err("not ours");
                assert_eq!(std::fs::read_to_string(&path).expect("still there"), content);
            }
        }
    }
}

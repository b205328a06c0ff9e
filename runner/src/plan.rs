//! What is asked of a machine: which instances, and how often.
//!
//! The text that travels to the machine is [`wire::plan`]'s; this module chooses what stands in it.

use std::collections::BTreeSet;

use vmsa::Instance;
use wire::plan::{Console, Entry, Settings};

/// Instances to run, and what holds for all of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Seed, rounds and time limits. Where records go is the target's choice and set by [`text`](Self::text).
    pub settings: Settings,
    /// In this order.
    pub instances: Vec<Instance>,
}

impl Plan {
    /// The text that tells a machine to run `instances`, which may be a part of this plan's.
    #[must_use]
    pub fn text(&self, instances: &[Instance], console: Console) -> String {
        let settings = Settings { console, ..self.settings };
        let mut text = String::new();
        wire::plan::write(
            &mut text,
            &settings,
            instances.iter().map(|&instance| Entry { instance, rounds: settings.rounds }),
        )
        .expect("writing to a String does not fail");
        text
    }
}

/// A filter matches nothing.
#[derive(Debug, thiserror::Error)]
#[error("no instance matches `{filter}`{}; `shatter list` shows them all", did_you_mean(near))]
pub struct NothingMatches {
    /// The filter.
    pub filter: String,
    /// What may have been meant, the likeliest first.
    pub near: Vec<String>,
}

impl NothingMatches {
    /// Looks in the catalogue for what `filter` may have meant.
    #[must_use]
    pub fn new(filter: &str) -> Self {
        Self { filter: filter.to_owned(), near: near(filter) }
    }
}

fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!(", but there is `{}`", near.join("`, `")),
    }
}

/// The instances of the catalogue that any of `filters` matches, in the catalogue's order; all, without a filter.
///
/// A filter matches anywhere in an id, except that a whole id matches itself only: each instance can be run alone.
/// The id of an instance of the catalogue with steps of the user's own (`bbm~0sB1di`) selects just that; these come
/// last.
///
/// # Errors
/// For the first filter that matches nothing: a mistyped one must not pass for a smaller selection.
pub fn select(filters: &[String]) -> Result<Vec<Instance>, NothingMatches> {
    let ids: Vec<(String, Instance)> = cases::all().map(|instance| (instance.to_string(), instance)).collect();
    let scripted: Vec<Instance> = filters.iter().filter_map(|filter| scripted(filter)).collect();
    let matches = |filter: &str, id: &str| id == filter || id.contains(filter) && cases::find(filter).is_none();
    for filter in filters {
        if !ids.iter().any(|(id, _)| matches(filter, id)) && self::scripted(filter).is_none() {
            return Err(NothingMatches::new(filter));
        }
    }
    let chosen = |id: &str| filters.is_empty() || filters.iter().any(|filter| matches(filter, id));
    Ok(ids.iter().filter(|(id, _)| chosen(id)).map(|(_, instance)| *instance).chain(scripted).collect())
}

/// The instance of this id, if it has steps of its own and is one of the catalogue otherwise.
#[must_use]
pub fn scripted(id: &str) -> Option<Instance> {
    match id.parse() {
        Ok(Instance::Case(case)) if case.script.is_some() => {
            cases::find(&Instance::Case(case.by_the_book()).to_string())?;
            Some(Instance::Case(case))
        }
        _ => None,
    }
}

/// The ids of the catalogue, their words, and their beginnings up to a dot, that are most like `text`, best first.
fn near(text: &str) -> Vec<String> {
    /// Below this two words have little in common.
    const LIKE: f64 = 0.6;
    const MOST: usize = 3;
    let ids: Vec<String> = cases::all().map(|instance| instance.to_string()).collect();
    let beginnings = |id: &'_ str| id.match_indices('.').map(|(dot, _)| dot).chain([id.len()]).collect::<Vec<_>>();
    let candidates: BTreeSet<&str> =
        ids.iter().flat_map(|id| id.split('.').chain(beginnings(id).into_iter().map(|end| &id[..end]))).collect();
    let mut near: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(text, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKE)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(MOST).map(|(_, candidate)| candidate.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(filters: &[&str]) -> Result<Vec<String>, NothingMatches> {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        Ok(select(&filters)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn no_filter_selects_everything() {
        assert_eq!(ids(&[]).expect("all"), cases::all().map(|i| i.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_filter_matches_anywhere_and_a_whole_id_itself_only() {
        let splits = ids(&["split"]).expect("there are splits");
        assert!(splits.len() > 1 && splits.iter().all(|id| id.contains("split")));
        // Others start with the same id and go on with a modifier.
        let id = "el1.split.4k-l2.direct.load-remote";
        assert!(ids(&["split.4k-l2.direct.load-remot"]).expect("a part of it").len() > 1);
        assert_eq!(ids(&[id]).expect("it is in the catalogue"), [id]);
        assert_eq!(ids(&[id, "split"]).expect("both match"), splits);
    }

    #[test]
    fn a_filter_that_matches_nothing_is_named_with_what_is_near() {
        let error = ids(&["split", "slpit"]).expect_err("the second matches nothing");
        assert_eq!((&*error.filter, &*error.near[0]), ("slpit", "split"));
        assert!(ids(&["zzzzzz"]).expect_err("nothing is like it").near.is_empty());
    }

    #[test]
    fn the_text_is_read_back_as_it_was_meant() {
        let plan = Plan { settings: Settings::default(), instances: select(&["selftest".to_owned()]).expect("some") };
        let some = &plan.instances[..3];
        let text = plan.text(some, Console::Semihosting);
        let read = wire::plan::Plan::parse(&text).expect("a plan");
        assert_eq!(read.settings().console, Console::Semihosting);
        assert_eq!(read.entries().map(|entry| entry.instance).collect::<Vec<_>>(), some);
    }
}

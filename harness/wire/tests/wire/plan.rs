//! Plans and command lines.

use core::num::NonZeroU64;

use proptest::{collection::vec, option, prelude::*, sample::select};
use vmsa::Instance;
use wire::plan::{self, AtEnd, Console, Entry, Overrides, Plan, Settings};

const IDS: [&str; 5] = [
    "el1.split.4k-l2.bbm.load-remote",
    "el1.merge.4k-l1-l3.direct.store-local.s2pages.cap0",
    "el1.remap.4k-l3-ro-diff.direct-notlbi.load-remote.s2off",
    "el1.protect.4k-l2-x-xn.bbm-af.fetch-remote",
    "selftest.hang-masked",
];

fn positive() -> impl Strategy<Value = NonZeroU64> {
    any::<NonZeroU64>()
}

fn settings() -> impl Strategy<Value = Settings> {
    let words = (select(Console::ALL), select(AtEnd::ALL), option::of(any::<u64>()));
    (any::<u64>(), [positive(), positive(), positive()], words).prop_map(
        |(seed, [rounds, timeout_ms, budget_ms], (console, at_end, midr))| Settings {
            seed,
            rounds,
            timeout_ms,
            budget_ms,
            console,
            at_end,
            midr,
        },
    )
}

fn instance() -> impl Strategy<Value = Instance> {
    select(&IDS).prop_map(|id| id.parse().unwrap())
}

fn written(settings: &Settings, entries: &[(Instance, Option<NonZeroU64>)]) -> (String, Vec<Entry>) {
    let entries: Vec<Entry> = entries
        .iter()
        .map(|(instance, rounds)| Entry { instance: *instance, rounds: rounds.unwrap_or(settings.rounds) })
        .collect();
    let mut text = String::new();
    plan::write(&mut text, settings, entries.iter().copied()).unwrap();
    (text, entries)
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        settings in settings(),
        entries in vec((instance(), option::of(positive())), 0..20),
    ) {
        let (text, entries) = written(&settings, &entries);
        let plan = Plan::parse(&text).unwrap();
        prop_assert_eq!(plan.settings(), &settings);
        prop_assert_eq!(plan.count() as usize, entries.len());
        prop_assert_eq!(plan.entries().collect::<Vec<_>>(), entries);
        prop_assert_eq!(plan.crc(), wire::frame::crc32(text.as_bytes()));
    }

    #[test]
    fn a_plan_cut_short_is_noticed(
        settings in settings(),
        entries in vec((instance(), option::of(positive())), 0..20),
        cut: prop::sample::Index,
    ) {
        let (text, _) = written(&settings, &entries);
        // The last line's end is not needed, and its number may lose digits only if that changes the count.
        let cut = cut.index(text.len() - 1);
        prop_assert!(Plan::parse(&text[..cut]).is_err(), "{}", &text[..cut]);
    }

    #[test]
    fn a_lost_or_repeated_line_is_noticed(
        entries in vec((instance(), option::of(positive())), 1..20),
        line: prop::sample::Index,
        repeat: bool,
    ) {
        let (text, _) = written(&Settings::default(), &entries);
        let mut lines: Vec<&str> = text.lines().collect();
        // The run lines stand before the last line. A lost setting is not noticed here: the runner knows its plan by
        // the CRC that hv reports.
        let at = lines.len() - 2 - line.index(entries.len());
        if repeat {
            lines.insert(at, lines[at]);
        } else {
            lines.remove(at);
        }
        prop_assert!(Plan::parse(&lines.join("\n")).is_err());
    }

    /// Lines of which most are good, in any order: no panic, and what is read is what is counted.
    #[test]
    fn any_text_is_read_or_refused(
        body in vec(prop_oneof![
            8 => select(&IDS).prop_map(|id| format!("run {id}")),
            2 => select(&["", "# run", "seed 1", "rounds 0x10", "console uart", "run"]).prop_map(str::to_owned),
            1 => "(run|seed|end|rounds=)?[ =]?\\PC{0,10}",
        ], 0..6),
        end in option::weighted(0.9, 0..6_u32),
    ) {
        let mut text = format!("shatter-plan 1\nbudget-ms 1\n{}\n", body.join("\n"));
        text.extend(end.map(|end| format!("end {end}")));
        if let Ok(plan) = Plan::parse(&text) {
            prop_assert_eq!(plan.entries().count(), plan.count() as usize);
            prop_assert_eq!(Some(plan.count()), end);
        }
        let _ = Overrides::from_bootargs(&format!("shatter.{}", body.join(" shatter.")));
    }

    #[test]
    fn a_command_line_overrides(settings in settings(), own in settings(), noise in "[a-z=. ]{0,20}") {
        let Settings { seed, rounds, timeout_ms, budget_ms, console, at_end, midr } = settings;
        let midr = midr.map_or_else(String::new, |midr| format!("shatter.midr={midr}"));
        let own = Settings { midr: None, ..own };
        let bootargs = format!(
            "{noise} shatter.seed={seed} shatter.rounds={rounds} shatter.timeout-ms={timeout_ms:#x} quiet \
             shatter.budget-ms={budget_ms} shatter.console={console} shatter.at-end={at_end} {midr} root=/dev/vda"
        );
        let overrides = Overrides::from_bootargs(&bootargs).unwrap();
        prop_assert_eq!(overrides.apply(own), settings);
    }
}

#[test]
fn people_may_write_it() {
    let text = "# mine\r\n\r\n shatter-plan 0x1 # version\n\tseed\t0xFF\nrun selftest.hang-masked   rounds=0x10 # slow\n\
                run el1.split.4k-l2.bbm.load-remote\n end 2 ";
    let plan = Plan::parse(text).unwrap();
    assert_eq!(plan.settings(), &Settings { seed: 255, ..Settings::default() });
    let entries: Vec<_> = plan.entries().map(|e| (e.instance.to_string(), e.rounds.get())).collect();
    assert_eq!(entries, [("selftest.hang-masked".into(), 16), ("el1.split.4k-l2.bbm.load-remote".into(), 100)]);
}

#[test]
fn the_bundles_plan_is_used_unless_the_command_line_runs_something() {
    let text = "shatter-plan 1\nseed 7\nrounds 5\nrun selftest.quiet\nrun selftest.clean rounds=9\nend 2\n";
    let boot = |bootargs: &'static str| {
        let overrides = Overrides::from_bootargs(bootargs).unwrap();
        let plan = Plan::for_boot(Some(text), &overrides).unwrap();
        let entries: Vec<_> = plan.entries().map(|e| (e.instance.to_string(), e.rounds.get())).collect();
        assert_eq!(entries.len(), plan.count() as usize);
        (plan.settings().seed, entries)
    };
    let of = |entries: &[(&str, u64)]| entries.iter().map(|(id, n)| ((*id).to_owned(), *n)).collect::<Vec<_>>();
    assert_eq!(boot("quiet"), (7, of(&[("selftest.quiet", 5), ("selftest.clean", 9)])));
    assert_eq!(boot("shatter.rounds=3"), (7, of(&[("selftest.quiet", 3), ("selftest.clean", 9)])));
    let run = "shatter.run=selftest.storm,selftest.undefined shatter.seed=8";
    assert_eq!(boot(run), (8, of(&[("selftest.storm", 100), ("selftest.undefined", 100)])));
    let nothing = Plan::for_boot(None, &Overrides::default()).unwrap_err();
    assert_eq!(nothing.to_string(), "bootargs: nothing to run: no plan in the bundle and no shatter.run");
}

#[test]
fn errors_say_where_and_what() {
    let cases = [
        ("", "plan line 1: a plan starts with `shatter-plan 1`"),
        ("# nothing\nseed 1", "plan line 2: a plan starts with `shatter-plan 1`"),
        ("shatter-plan 2\n", "plan line 1: version 2 is not known, only 1; use a runner and an image of one release"),
        ("shatter-plan 1\n\nseeds 1\nend 0", "plan line 3: there is no setting `seeds`"),
        ("shatter-plan 1\nseed\nend 0", "plan line 2: `seed` needs a value"),
        ("shatter-plan 1\nseed 1\nseed 1\nend 0", "plan line 3: `seed` stands there twice"),
        ("shatter-plan 1\nrounds 0\nend 0", "plan line 2: the number must be at least 1"),
        ("shatter-plan 1\nseed +1\nend 0", "plan line 2: `+1` is not a number of 64 bits, decimal or 0x…"),
        ("shatter-plan 1\nseed 0x\nend 0", "plan line 2: `0x` is not a number of 64 bits, decimal or 0x…"),
        ("shatter-plan 1\nconsole lpt\nend 0", "plan line 2: `console` cannot be `lpt`"),
        ("shatter-plan 1\nat-end never\nend 0", "plan line 2: `at-end` cannot be `never`"),
        ("shatter-plan 1\nrun\nend 1", "plan line 2: `run` needs a value"),
        (
            "shatter-plan 1\nrun selftest.x\nend 1",
            "plan line 2: `selftest.x` is no instance: the id's selftest's name is not known",
        ),
        ("shatter-plan 1\nrun selftest.quiet round=1\nend 1", "plan line 2: there is no setting `round`"),
        ("shatter-plan 1\nrun selftest.quiet rounds=1 rounds=1\nend 1", "plan line 2: `rounds` stands there twice"),
        (
            "shatter-plan 1\nrun selftest.quiet\nseed 1\nend 1",
            "plan line 3: `seed` must come before the first run line",
        ),
        (
            "shatter-plan 1\nrun selftest.quiet\nend 2",
            "plan line 3: it has 1 run lines and should have 2: part of it is missing or was repeated",
        ),
        ("shatter-plan 1\nend 0\nend 0", "plan line 3: nothing may follow the end line"),
        ("shatter-plan 1\nrun selftest.quiet\n", "plan line 2: there is no end line after it: the plan was cut short"),
    ];
    for (text, message) in cases {
        assert_eq!(Plan::parse(text).unwrap_err().to_string(), message, "{text:?}");
    }
    let cases = [
        ("a shatter.seed b", "bootargs: `seed` needs a value"),
        ("shatter.sede=1", "bootargs: there is no setting `sede`"),
        ("shatter.seed=1 shatter.seed=2", "bootargs: `seed` stands there twice"),
        ("shatter.run=", "bootargs: `` is no instance: the id's regime is not known"),
        ("shatter.run=selftest.quiet,el3", "bootargs: `el3` is no instance: the id's regime is not known"),
    ];
    for (text, message) in cases {
        assert_eq!(Overrides::from_bootargs(text).unwrap_err().to_string(), message, "{text:?}");
    }
}

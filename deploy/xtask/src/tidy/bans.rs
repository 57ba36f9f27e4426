//! What must not be written, where, and what to write instead.
//!
//! A place that may do so all the same is named here, with the reason.

use super::source::{Source, words};
use super::{Fault, File};

/// What text is for, as its path and its attributes tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Tests, benches, examples and the test bed.
    Test,
    /// The product's binary.
    Binary,
    /// The chores.
    Chores,
    Library,
}

struct Ban {
    words: &'static [&'static str],
    allowed_in: &'static [Role],
    /// Beginnings of paths.
    allowed_at: &'static [&'static str],
    instead: &'static str,
}

const BANS: [Ban; 7] = [
    Ban {
        words: &[".unwrap()"],
        allowed_in: &[Role::Test, Role::Chores],
        allowed_at: &[],
        instead: "return an error; for a broken invariant, `assert!` or `panic!` by its name",
    },
    Ban {
        words: &["todo!", "unimplemented!"],
        allowed_in: &[],
        allowed_at: &[],
        instead: "write it, or refuse the case with an error",
    },
    Ban {
        words: &["println!", "eprintln!", "print!", "eprint!", "dbg!"],
        allowed_in: &[Role::Test, Role::Binary, Role::Chores],
        allowed_at: &[],
        instead: "`tracing`, with facts as fields, or a writer that is passed in",
    },
    Ban {
        words: &["SystemTime::now", "UNIX_EPOCH.elapsed", "Utc::now", "Local::now"],
        allowed_in: &[Role::Test, Role::Chores],
        allowed_at: &[CLOCK],
        instead: "a `Clock` that is passed in",
    },
    Ban {
        words: &["SystemClock"],
        allowed_in: &[Role::Test, Role::Binary, Role::Chores],
        // In a simulation the files of the tables are stamped by the machine's clock.
        allowed_at: &[CLOCK, "deploy/simulation/src/"],
        instead: "a `SharedClock` that is passed in; only a binary chooses the clock",
    },
    Ban {
        words: &["Instant::now"],
        allowed_in: &[Role::Test, Role::Binary, Role::Chores],
        allowed_at: SHELLS,
        instead: "an instant that is passed in; what only computes never reads a clock",
    },
    Ban {
        words: &["env::var", "env::var_os", "env::vars", "env::vars_os"],
        allowed_in: &[Role::Test, Role::Chores],
        allowed_at: &["deploy/nilometer/"],
        instead: "a field of the configuration; only the binary reads the environment",
    },
];

/// The one reader of the machine's clocks, which the others are given.
const CLOCK: &str = "collectors/clock/src/lib.rs";

/// Shells: they wait, retry and measure how long others took, so they may read the steady clock.
const SHELLS: &[&str] = &[
    "billing/ledger/src/settlement/",
    "collectors/collect/src/",
    "collectors/cri/src/source.rs",
    "collectors/libvirt/src/watcher.rs",
    "collectors/log/src/",
    CLOCK,
    // Its time is simulated.
    "deploy/simulation/src/",
    "pipeline/ingest/src/",
    "pipeline/store/src/lease.rs",
    // The time that a query takes.
    "query/engine/src/answer.rs",
    "query/engine/src/engine.rs",
    "scheduler/serve/src/extender.rs",
    "scheduler/serve/src/scheduler.rs",
    "scheduler/serve/src/stream.rs",
];

/// Marks in comments that ask for work to be done later.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("HA", "CK")];

/// `for_tests`: the file is a module that exists only under test.
pub(super) fn faults(file: &File<'_>, source: &Source, for_tests: bool) -> Vec<Fault> {
    let role = if for_tests { Role::Test } else { role(file.path) };
    let tests = source.test_lines();
    let mut faults = Vec::new();
    for (line, code) in (1..).zip(source.code.lines()) {
        let tested = tests.iter().any(|range| range.contains(&line));
        let role = if tested { Role::Test } else { role };
        for ban in &BANS {
            let allowed = ban.allowed_in.contains(&role)
                || ban.allowed_at.iter().any(|place| file.path.starts_with(place));
            let found = ban.words.iter().find(|word| stands(code, word));
            if let (Some(word), false) = (found, allowed) {
                faults.push(file.fault(line, format!("`{word}`; instead: {}", ban.instead)));
            }
        }
    }
    for (line, comment) in (1..).zip(source.comments.lines()) {
        for mark in MARKS {
            if words(comment, mark).next().is_some() {
                faults.push(file.fault(line, format!("{mark}; instead: do it, or open an issue")));
            }
        }
    }
    faults
}

fn role(path: &str) -> Role {
    let is_test = |part: &str| {
        ["tests", "benches", "bench", "examples", "fuzz_targets", "testbed"].contains(&part)
    };
    if path.starts_with("deploy/xtask/") {
        Role::Chores
    } else if path.split('/').any(is_test) {
        Role::Test
    } else if ["deploy/nilometer/", "deploy/agent/", "deploy/process/"]
        .iter()
        .any(|program| path.starts_with(program))
    {
        Role::Binary
    } else {
        Role::Library
    }
}

/// Whether a word stands in code and is not the end or the beginning of a longer one.
fn stands(code: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let inner = word.trim_end_matches(['!', '(', ')']);
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(is_word);
        let after = code[at + inner.len()..].chars().next().is_some_and(is_word);
        !after && (!before || inner.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let found = faults(&File { path, text }, &Source::new(text), false);
        found.iter().map(|fault| fault.line).collect()
    }

    #[test]
    fn libraries_are_held_to_all_of_it() {
        let text = "x.unwrap();\n\
                    x.unwrap_or(1);\n\
                    println!();\n\
                    writeln!(f, \"println!\");\n\
                    SystemTime::now();\n\
                    std::env::var(\"A\");\n\
                    env::vars();\n\
                    tokio::time::Instant::now();\n\
                    Arc::new(SystemClock);\n";
        assert_eq!(lines("query/engine/src/a.rs", text), [1, 3, 5, 6, 7, 8, 9]);
        assert_eq!(lines("collectors/collect/src/a.rs", text), [1, 3, 5, 6, 7, 9]);
        assert_eq!(lines("deploy/nilometer/src/a.rs", text), [1, 5]);
        assert_eq!(lines(CLOCK, text), [1, 3, 6, 7]);
        assert!(lines("query/engine/tests/a.rs", text).is_empty());
    }

    #[test]
    fn tests_within_a_file_are_free() {
        let text = "#[cfg(test)]\nmod tests {\nfn f() { x.unwrap(); }\n}\nfn g() { x.unwrap(); }\n";
        assert_eq!(lines("query/engine/src/a.rs", text), [5]);
    }

    #[test]
    fn nothing_is_left_for_later() {
        let text = format!(
            "{}!();\n// {}: later\n// {}S\n\"{}\";\n",
            "todo", MARKS[0], MARKS[0], MARKS[1]
        );
        assert_eq!(lines("query/engine/tests/a.rs", &text), [1, 2]);
    }
}

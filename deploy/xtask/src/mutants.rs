//! `mutants`: changes the pure crates in small ways, one at a time, and counts what their tests notice.
//!
//! The pure crates need neither DataFusion nor the log, so they are built in a copy of the tree with a
//! target folder of its own, `target/mutants`: the tree that is worked on is never changed, and what
//! is built for all the others is left alone. The copy stays, so that a second run builds little.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::ci::{self, Env};
use crate::phases::read;

/// The crates without IO, whose tests are quick.
const PACKAGES: [&str; 4] =
    ["nilometer-contract", "nilometer-usage", "nilometer-rating", "nilometer-placement"];
/// Least share of viable mutants that the tests must notice.
const CAUGHT_PERCENT_MIN: usize = 95;
/// Longest time that a mutant's tests may take; they take about a second.
const TIMEOUT_SECONDS: &str = "60";
const FOLDER: &str = "target/mutants";

/// Which mutants are tried.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this package; may be given several times. Default: contract, usage, rating, placement
    #[arg(short, long)]
    package: Vec<String>,
    /// Only the mutants of files that match this pattern; may be given several times
    #[arg(short, long)]
    file: Vec<String>,
    /// Only a part of the mutants: 1/40 is the first of forty
    #[arg(long)]
    shard: Option<String>,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let version = Command::new("cargo").args(["mutants", "--version"]).output();
    if !version.is_ok_and(|output| output.status.success()) {
        bail!("cargo-mutants is not installed; run `cargo install cargo-mutants --locked`");
    }
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder)?;
    // Two runs in one copy would judge each other's mutants.
    let lock = fs::File::create(folder.join("lock"))?;
    lock.try_lock().with_context(|| format!("another run works in {}", folder.display()))?;
    let tree = folder.join("tree");
    copy(root, &tree)?;
    let mut failed = 0;
    let mut reports = Vec::new();
    for package in packages(&options.package) {
        let results = folder.join(&package);
        mutate(&tree, &results, &package, options)?;
        let outcome = Outcome::read(&results.join("mutants.out"))?;
        failed += usize::from(!outcome.is_enough());
        reports.push((package, outcome));
    }
    for (package, outcome) in &reports {
        outcome.missed.iter().for_each(|mutant| println!("MISSED {mutant}"));
        println!("{package}: {}", outcome.summary());
    }
    if failed > 0 {
        bail!("{failed} packages have less than {CAUGHT_PERCENT_MIN} % of viable mutants caught");
    }
    Ok(())
}

/// Full names of the packages asked for.
fn packages(asked: &[String]) -> Vec<String> {
    let full = |name: &String| match name.starts_with("nilometer") {
        true => name.clone(),
        false => format!("nilometer-{name}"),
    };
    match asked {
        [] => PACKAGES.map(str::to_owned).to_vec(),
        asked => asked.iter().map(full).collect(),
    }
}

/// Brings a copy of the tree up to date. Files that did not change keep their times, so that cargo
/// builds only what did.
fn copy(root: &Path, tree: &Path) -> Result<()> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let listed = read(Command::new("git").args(list).current_dir(root))?;
    let listed = String::from_utf8(listed).context("a file's name is not UTF-8")?;
    let wanted: BTreeSet<&str> =
        listed.split_terminator('\0').filter(|path| root.join(path).is_file()).collect();
    for path in &wanted {
        let (from, to) = (root.join(path), tree.join(path));
        let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
        if fs::read(&to).is_ok_and(|known| known == bytes) {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&to, bytes).with_context(|| to.display().to_string())?;
    }
    remove_others(tree, tree, &wanted)
}

/// Removes what is not wanted below `folder`, but for the target folder.
fn remove_others(tree: &Path, folder: &Path, wanted: &BTreeSet<&str>) -> Result<()> {
    let entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    for path in entries.into_iter().filter(|path| *path != tree.join("target")) {
        if path.is_dir() {
            remove_others(tree, &path, wanted)?;
            // An empty folder where a crate was would be taken for a member of the workspace.
            if fs::read_dir(&path)?.next().is_none() {
                fs::remove_dir(&path)?;
            }
        } else if !path.strip_prefix(tree)?.to_str().is_some_and(|path| wanted.contains(path)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn mutate(tree: &Path, results: &Path, package: &str, options: &Options) -> Result<()> {
    fs::create_dir_all(results)?;
    let mut command = ci::cargo(tree, &Env::default());
    for variable in ["CARGO_TARGET_DIR", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"] {
        command.env_remove(variable);
    }
    // Tests that run in a second rather than four are worth a longer first build.
    command.envs([("CARGO_PROFILE_DEV_OPT_LEVEL", "1"), ("CARGO_PROFILE_DEV_DEBUG", "0")]);
    command.args(["mutants", "--in-place", "--no-times", "--timeout", TIMEOUT_SECONDS]);
    // So that a shard is a sample of all files.
    command.args(["--sharding", "round-robin"]);
    command.args(["--cargo-test-arg=--lib", "--cargo-test-arg=--tests"]);
    command.args(["--package", package, "--output"]).arg(results);
    for file in &options.file {
        command.args(["--file", file]);
    }
    if let Some(shard) = &options.shard {
        command.args(["--shard", shard]);
    }
    let status = command.status().context("cannot start cargo mutants")?;
    // 2: some were missed; 3: the tests of some took too long. Both are judged by their number.
    match status.code() {
        Some(0 | 2 | 3) => Ok(()),
        _ => bail!("cargo mutants on {package}: {status}; its log is in {}", results.display()),
    }
}

/// What became of the mutants of one package.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Noticed by a test, also by one that never ended.
    caught: usize,
    /// Not noticed.
    missed: Vec<String>,
    /// Those that do not compile.
    unviable: usize,
}

impl Outcome {
    fn read(folder: &Path) -> Result<Self> {
        let lines = |name: &str| -> Result<Vec<String>> {
            let path = folder.join(name);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        Ok(Outcome {
            caught: lines("caught.txt")?.len() + lines("timeout.txt")?.len(),
            missed: lines("missed.txt")?,
            unviable: lines("unviable.txt")?.len(),
        })
    }

    fn viable(&self) -> usize {
        self.caught + self.missed.len()
    }

    /// None at all is enough too: a shard may hold none that compile.
    fn is_enough(&self) -> bool {
        self.caught * 100 >= self.viable() * CAUGHT_PERCENT_MIN
    }

    fn summary(&self) -> String {
        let tenths = (self.caught * 1_000).checked_div(self.viable()).unwrap_or(1_000);
        format!(
            "{} of {} viable mutants caught, {}.{} %; {} do not compile",
            self.caught,
            self.viable(),
            tenths / 10,
            tenths % 10,
            self.unviable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(caught: usize, missed: usize) -> Outcome {
        Outcome {
            caught,
            missed: vec!["a.rs:1:1: replace + with -".to_owned(); missed],
            unviable: 1,
        }
    }

    #[test]
    fn ninety_five_of_a_hundred_are_enough() {
        assert!(outcome(95, 5).is_enough());
        assert!(!outcome(94, 6).is_enough());
        assert!(outcome(0, 0).is_enough());
        assert_eq!(
            outcome(2, 1).summary(),
            "2 of 3 viable mutants caught, 66.6 %; 1 do not compile"
        );
    }

    #[test]
    fn outcomes_are_read_and_a_timeout_counts_as_caught() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in
            [("caught", "a\nb\n"), ("timeout", "c\n"), ("missed", "d\n"), ("unviable", "")]
        {
            fs::write(folder.path().join(format!("{name}.txt")), text).unwrap();
        }
        let expected = Outcome { caught: 3, missed: vec!["d".to_owned()], unviable: 0 };
        assert_eq!(Outcome::read(folder.path()).unwrap(), expected);
    }

    #[test]
    fn short_names_are_ours() {
        let names = ["usage".to_owned(), "nilometer-rating".to_owned()];
        assert_eq!(packages(&names), ["nilometer-usage", "nilometer-rating"]);
        assert_eq!(packages(&[]).len(), 4);
    }

    #[test]
    fn what_is_gone_from_the_tree_is_removed_from_the_copy() {
        let tree = tempfile::tempdir().unwrap();
        for path in ["a/kept.rs", "a/gone.rs", "b/src/gone.rs", "target/built"] {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        remove_others(tree.path(), tree.path(), &BTreeSet::from(["a/kept.rs"])).unwrap();
        let exists = |path: &str| tree.path().join(path).exists();
        assert!(exists("a/kept.rs") && !exists("a/gone.rs") && exists("target/built"));
        assert!(!exists("b"), "an empty folder");
    }
}
